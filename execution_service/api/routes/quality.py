"""How well orders were filled, by strategy and broker."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access
from execution_service.api.answers import Body, Recent, known_query, whole_number
from execution_service.api.problems import Problem, documented, reason
from execution_service.control.fill_quality import QualityFilter, QualityReader, since_of
from execution_service.core.texts.values import plain
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.tokens import Role

ORDERS = 1000
MOST_ORDERS = 5000
"""To read so many takes seconds."""


class QualityRoutes:
    """Figures that follow from the records of orders."""

    def __init__(self, *, access: Access, quality: QualityReader, clock: Clock, recent: Recent) -> None:
        self._access = access
        self._quality = quality
        self._clock = clock
        self._recent = recent

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/execution")
        router.add_api_route(
            "/quality",
            self.quality,
            summary="How well orders were filled, by strategy and broker",
            tags=["Orders"],
            openapi_extra=_FILTERS,
            responses=_QUALITY | documented(400, 401, 503),
        )
        return router

    async def quality(self, request: Request) -> Response:
        """Slippage in basis points against the price at arrival (of a stop order: its stop), positive is a cost. Of the latest `limit` orders that
        have left since then; `is_complete` says whether these are all."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request, "account", "strategy", "broker", "since", "limit")
        most = whole_number(request, "limit", ORDERS, MOST_ORDERS)
        asked = request.query_params
        try:
            since = since_of(asked.get("since"), self._clock.now())
        except ValueError as exc:
            words = f"since cannot be read: {plain(str(exc))[:200]}"
            raise Problem(400, "invalid-query", words, reasons=[reason("INVALID_QUERY", words)]) from exc
        chosen = QualityFilter(
            since=since, account_id=asked.get("account"), strategy=asked.get("strategy"), broker=asked.get("broker")
        )
        return await self._recent.answer(request, self._found(chosen, most))

    async def _found(self, chosen: QualityFilter, most: int) -> Body:
        found = await self._quality.read(chosen, most=most)
        return Body(found.fields)


def _parameter(name: str, words: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": words, "schema": {"type": "string"} | schema}


_FILTERS: dict[str, Any] = {
    "parameters": [
        _parameter("account", "Only this account's"),
        _parameter("strategy", "Only this strategy's"),
        _parameter("broker", "Only at this broker"),
        _parameter("since", "Received then or later: a date, a time with its zone, or how long ago (90m, 12h, 7d)"),
        _parameter("limit", "Of so many orders at most", type="integer", minimum=1, maximum=MOST_ORDERS),
    ]
}
_QUALITY: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Figures by strategy, broker and currency",
        "content": {
            "application/json": {
                "example": {
                    "since": "2026-01-02T03:04:05.678Z",
                    "orders": 42,
                    "is_complete": True,
                    "groups": [
                        {
                            "strategy": "Trend",
                            "broker": "MOCK",
                            "currency": "USD",
                            "sent": 42,
                            "filled": 40,
                            "measured": 39,
                            "median_bps": "1.2000",
                            "mean_bps": "1.9120",
                            "p95_bps": "7.4000",
                            "cost": "181.20",
                            "value": "947698.00",
                            "median_seconds_to_last_fill": "0.412000",
                            "median_share_of_volume": None,
                            "unmeasured": {"NO_PRICE": 1},
                        }
                    ],
                }
            }
        },
    }
}
