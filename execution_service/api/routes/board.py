"""What the operator's page and other boards show beside spec 002's shapes: holdings, exactly, and the pace of the last hour."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access
from execution_service.api.answers import Body, Recent, known_query
from execution_service.api.holdings import holding_fields
from execution_service.api.pace import Pace
from execution_service.api.problems import documented
from execution_service.storage.ports.queries import QueryStore
from execution_service.storage.ports.tokens import Role

_LATEST_ORDERS = 3
"""Of each holding, for its last price."""


class BoardRoutes:
    """Amounts are exact decimals as text; what is not known is null."""

    def __init__(self, *, access: Access, queries: QueryStore, pace: Pace, recent: Recent) -> None:
        self._access = access
        self._queries = queries
        self._pace = pace
        self._recent = recent

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/execution")
        router.add_api_route(
            "/holdings",
            self.holdings,
            summary="What is held now, exactly, by account and strategy",
            tags=["Positions and trades"],
            responses=_HOLDINGS | documented(400, 401, 503),
        )
        router.add_api_route(
            "/pace",
            self.pace,
            summary="Orders and latency of the last hour, by the minute",
            tags=["Health"],
            responses=_PACE | documented(400, 401, 503),
        )
        return router

    async def holdings(self, request: Request) -> Response:
        """`last_price` is that of our last execution in it, and `unrealized_pnl` follows from it; `realized_pnl` is of this trade, before fees."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request)
        return await self._recent.answer(request, self._held())

    async def _held(self) -> Body:
        entries = await self._queries.held_positions()
        wanted = sorted({shown for entry in entries for shown in entry.position.order_ids[-_LATEST_ORDERS:]})
        orders = await self._queries.orders_shown_as(wanted) if wanted else ()
        return Body(lambda: {"holdings": [holding_fields(entry, orders) for entry in entries]})

    async def pace(self, request: Request) -> Response:
        """As this process saw it, since its start. `latency_ms` is from sent to acknowledged."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request)
        return await self._recent.answer(request, self._minutes())

    async def _minutes(self) -> Body:
        found = self._pace.minutes()
        return Body(lambda: {"minutes": found})


def _example(words: str, example: object) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": words, "content": {"application/json": {"example": example}}}}


_HOLDINGS = _example(
    "What is held",
    {
        "holdings": [
            {
                "account_id": "DU000001",
                "strategy": "Trend",
                "symbol": "SPY",
                "instrument": "EQUITY:SPY",
                "side": "LONG",
                "quantity": "100",
                "average_price": "235.15",
                "last_price": "236.4",
                "unrealized_pnl": "125.00",
                "realized_pnl": "0.00",
                "currency": "USD",
                "opened_at": "2026-01-02T03:04:05.678Z",
            }
        ]
    },
)
_PACE = _example(
    "An hour at most, the oldest minute first",
    {
        "minutes": [
            {
                "at": "2026-01-02T03:04:00.000Z",
                "received": 12,
                "filled": 11,
                "refused": 1,
                "acknowledged": 11,
                "latency_ms_p50": 4.5,
                "latency_ms_p95": 11.7,
            }
        ]
    },
)
