"""Positions and trades as spec 002 has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access
from execution_service.api.answers import (
    answer,
    cursor_of,
    known_query,
    next_link,
    one_of,
    place_of,
    whole_number,
)
from execution_service.api.problems import Problem, documented, reason
from execution_service.api.trades import leaving_of, position_fields, totals, trade_fields
from execution_service.core.orders.status import FINAL, Status
from execution_service.core.texts.values import plain
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.queries import OrderFilter, PositionRow, QueryStore
from execution_service.storage.ports.tokens import Role

ROWS = 100
LOOKED_AT_MOST = 1000
"""Unfinished orders that are looked through for working exits."""
_STATUSES = {"open": True, "closed": False, "pending_exit": True}


class TradeRoutes:
    """What is held, and what was."""

    def __init__(self, *, access: Access, queries: QueryStore) -> None:
        self._access = access
        self._queries = queries

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/execution", tags=["Positions and trades"])
        router.add_api_route(
            "/positions", self.positions, summary="What is held now", responses=_POSITIONS | documented(401, 503)
        )
        router.add_api_route(
            "/trades",
            self.trades,
            summary="Trades, from flat to flat, the latest first",
            openapi_extra=_FILTERS,
            responses=_TRADES | documented(400, 401, 503),
        )
        router.add_api_route("/trades/{trade_id}", self.trade, summary="One trade", responses=documented(401, 404, 503))
        return router

    async def positions(self, request: Request) -> Response:
        """`current_price` is that of our last execution: no market prices are received. `liquidation_price` is 0, not known."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request)
        entries = await self._queries.held_positions()
        orders = await self._orders(shown for entry in entries for shown in entry.position.order_ids[-3:])
        positions = [position_fields(entry, orders) for entry in entries]
        return answer(request, {"positions": positions, "total_positions": len(positions), **totals(positions)})

    async def trades(self, request: Request) -> Response:
        """`pnl_usd` is before fees, which stand in `metadata`, and null for another currency."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request, "limit", "status", "cursor")
        limit = whole_number(request, "limit", ROWS)
        is_open = one_of(request, "status", _STATUSES)
        found = await self._queries.page_of_positions(is_open, place_of(request.query_params.get("cursor")), limit + 1)
        rows = found[:limit]
        trades = await self._fields(rows)
        if request.query_params.get("status", "").lower() == "pending_exit":
            trades = [trade for trade in trades if trade["status"] == "pending_exit"]
        counts = await self._queries.counts_of_positions()
        following = None
        if len(found) > limit:
            following = next_link(request, cursor_of(rows[-1].opened_at, rows[-1].document_id))
        body = {
            "trades": trades,
            "total_trades": sum(counts.values()),
            "open_trades": counts.get("OPEN", 0),
            "closed_trades": counts.get("CLOSED", 0),
        }
        return answer(request, body, headers={} if following is None else {"Link": f'<{following}>; rel="next"'})

    async def trade(self, request: Request, trade_id: str) -> Response:
        await self._access.caller(request, Role.VIEWER)
        row = await self._queries.position_row(trade_id)
        if row is None:
            words = f"no trade is called {plain(trade_id)[:80]!r}"
            raise Problem(404, "unknown-trade", words, reasons=[reason("UNKNOWN_TRADE", words)])
        (fields,) = await self._fields([row])
        return answer(request, fields)

    async def _fields(self, rows: Sequence[PositionRow]) -> list[dict[str, Any]]:
        orders = await self._orders(shown for row in rows for shown in row.shown_order_ids)
        chosen = OrderFilter(statuses=frozenset(Status) - FINAL)
        leaving = leaving_of(await self._queries.page_of_orders(chosen, None, LOOKED_AT_MOST))
        return [trade_fields(row, orders, leaving) for row in rows]

    async def _orders(self, shown_ids: Iterable[str]) -> Sequence[Stored]:
        wanted = sorted(set(shown_ids))
        return await self._queries.orders_shown_as(wanted) if wanted else ()


_FILTERS: dict[str, Any] = {
    "parameters": [
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": ROWS}},
        {"name": "status", "in": "query", "schema": {"type": "string", "enum": list(_STATUSES)}},
        {
            "name": "cursor",
            "in": "query",
            "schema": {"type": "string"},
            "description": "From the header `Link` of the page before",
        },
    ]
}
_POSITIONS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What is held",
        "content": {
            "application/json": {
                "example": {
                    "positions": [
                        {
                            "symbol": "BTCUSDT",
                            "side": "LONG",
                            "quantity": 0.001,
                            "entry_price": 50000.0,
                            "current_price": 50000.0,
                            "unrealized_pnl": 0.0,
                            "unrealized_pnl_pct": 0.0,
                            "leverage": 1,
                            "margin_usd": 50.0,
                            "liquidation_price": 0.0,
                            "has_tp_sl": False,
                            "tp_orders": [],
                            "sl_orders": [],
                        }
                    ],
                    "total_positions": 1,
                    "total_margin_usd": 50.0,
                    "total_unrealized_pnl": 0.0,
                }
            }
        },
    }
}
_TRADES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of trades",
        "content": {
            "application/json": {
                "example": {
                    "trades": [
                        {
                            "trade_id": "pos_0123456789abcdef01234567_1",
                            "symbol": "BTCUSDT",
                            "side": "LONG",
                            "status": "closed",
                            "quantity": 0.001,
                            "leverage": 1,
                            "entry_price": 50000.0,
                            "entry_time": "2026-01-02T03:04:05.678Z",
                            "exit_price": 52000.0,
                            "exit_time": "2026-01-02T04:04:05.678Z",
                            "stop_loss": 49000.0,
                            "take_profit": 52000.0,
                            "pnl_usd": 2.0,
                            "pnl_percent": 4.0,
                            "model": "ensemble",
                            "confidence": 0.8,
                            "metadata": {"account_id": "Paper", "fees": 0.0},
                        }
                    ],
                    "total_trades": 1,
                    "open_trades": 0,
                    "closed_trades": 1,
                }
            }
        },
    }
}
