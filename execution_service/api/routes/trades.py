"""Positions and trades as spec 002 has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access
from execution_service.api.answers import (
    Body,
    Recent,
    answer,
    cursor_of,
    known_query,
    next_link,
    one_of,
    place_of,
    whole_number,
)
from execution_service.api.problems import Problem, documented, reason
from execution_service.api.trades import cash_fields, leaving_of, position_fields, totals, trade_fields
from execution_service.core.orders.status import FINAL, Status
from execution_service.core.texts.values import plain
from execution_service.core.trades.documents import trade_fields as row_fields
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.queries import OrderFilter, Place, PositionRow, QueryStore
from execution_service.storage.ports.tokens import Role

ROWS = 100
LOOKED_AT_MOST = 1000
"""Unfinished orders that are looked through for working exits and for what protects a position."""
_STATUSES = {"open": True, "closed": False, "pending_exit": True}


class TradeRoutes:
    """What is held, and what was."""

    def __init__(self, *, access: Access, queries: QueryStore, recent: Recent) -> None:
        self._access = access
        self._queries = queries
        self._recent = recent

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
        router.add_api_route(
            "/trade-rows",
            self.rows,
            summary="Executions and what was changed of them, the latest first",
            openapi_extra={"parameters": [_FILTERS["parameters"][0], _FILTERS["parameters"][2]]},
            responses=_ROWS | documented(400, 401, 503),
        )
        router.add_api_route(
            "/cash",
            self.cash,
            summary="What trading has changed of the cash of each account",
            responses=_CASH | documented(400, 401, 503),
        )
        router.add_api_route("/trades/{trade_id}", self.trade, summary="One trade", responses=documented(401, 404, 503))
        return router

    async def positions(self, request: Request) -> Response:
        """`current_price` is that of our last execution: no market prices are received. `liquidation_price` is 0, not known."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request)
        return await self._recent.answer(request, self._held())

    async def _held(self) -> Body:
        entries = await self._queries.held_positions()
        orders = await self._orders(shown for entry in entries for shown in entry.position.order_ids[-3:])
        unsettled = await self._unsettled()

        def draw() -> object:
            positions = [position_fields(entry, orders, unsettled) for entry in entries]
            return {"positions": positions, "total_positions": len(positions), **totals(positions)}

        return Body(draw)

    async def trades(self, request: Request) -> Response:
        """`pnl_usd` is before fees, which stand in `metadata`, and null for another currency."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request, "limit", "status", "cursor")
        limit = whole_number(request, "limit", ROWS)
        is_open = one_of(request, "status", _STATUSES)
        place = place_of(request.query_params.get("cursor"))
        return await self._recent.answer(request, self._page(request, is_open, place, limit))

    async def _page(self, request: Request, is_open: bool | None, place: Place | None, limit: int) -> Body:
        found = await self._queries.page_of_positions(is_open, place, limit + 1)
        rows = found[:limit]
        orders, leaving = await self._around(rows)
        counts = await self._queries.counts_of_positions()
        wants_leaving = request.query_params.get("status", "").lower() == "pending_exit"

        def draw() -> object:
            trades = [trade_fields(row, orders, leaving) for row in rows]
            return {
                "trades": [t for t in trades if t["status"] == "pending_exit"] if wants_leaving else trades,
                "total_trades": sum(counts.values()),
                "open_trades": counts.get("OPEN", 0),
                "closed_trades": counts.get("CLOSED", 0),
            }

        following = None
        if len(found) > limit:
            following = next_link(request, cursor_of(rows[-1].opened_at, rows[-1].document_id))
        return Body(draw, {} if following is None else {"Link": f'<{following}>; rel="next"'})

    async def trade(self, request: Request, trade_id: str) -> Response:
        await self._access.caller(request, Role.VIEWER)
        row = await self._queries.position_row(trade_id)
        if row is None:
            words = f"no trade is called {plain(trade_id)[:80]!r}"
            raise Problem(404, "unknown-trade", words, reasons=[reason("UNKNOWN_TRADE", words)])
        orders, leaving = await self._around([row])
        return answer(request, trade_fields(row, orders, leaving))

    async def rows(self, request: Request) -> Response:
        """The rows of the collection `trades`; amounts are exact decimals as text."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request, "limit", "cursor")
        limit = whole_number(request, "limit", ROWS)
        place = place_of(request.query_params.get("cursor"))
        return await self._recent.answer(request, self._rows(request, place, limit))

    async def _rows(self, request: Request, place: Place | None, limit: int) -> Body:
        page = await self._queries.latest_trades(place, limit)
        headers = {}
        if page.following is not None:
            following = next_link(request, cursor_of(page.following.moment, page.following.row_id))
            headers["Link"] = f'<{following}>; rel="next"'
        return Body(lambda: {"trades": [row_fields(row) for row in page.rows]}, headers)

    async def cash(self, request: Request) -> Response:
        """By account and currency, from all trades: no deposits, interest or dividends, and nothing of before the first trade."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request)
        return await self._recent.answer(request, self._cash())

    async def _cash(self) -> Body:
        found = await self._queries.cash_by_trades()
        return Body(lambda: {"cash": [cash_fields(each) for each in found]})

    async def _around(self, rows: Sequence[PositionRow]) -> tuple[Sequence[Stored], set[tuple[str, str, str]]]:
        """The orders that made them, and which positions exits are at work for."""
        orders = await self._orders(shown for row in rows for shown in row.shown_order_ids)
        return orders, leaving_of(await self._unsettled())

    async def _unsettled(self) -> Sequence[Stored]:
        chosen = OrderFilter(statuses=frozenset(Status) - FINAL)
        return await self._queries.page_of_orders(chosen, None, LOOKED_AT_MOST)

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
_ROWS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of rows",
        "content": {
            "application/json": {
                "example": {
                    "trades": [
                        {
                            "trade_id": "trade_019b7c1d2e3f_0123456789abcdef0123",
                            "timestamp": "2026-01-02T03:04:05.678Z",
                            "ticker": "AAPL",
                            "direction": "BUY",
                            "size": "100",
                            "price": "235.15",
                            "order_id": "ord_0123456789abcdef01234567",
                            "strategy_id": "momentum",
                            "profile_version_id": None,
                            "regime_id": None,
                            "universe_id": None,
                            "decision_id": "2026-01-01-close",
                            "kind": "FILL",
                            "commission": "1.00",
                            "currency": "USD",
                            "cash": "-23515.00",
                        }
                    ]
                }
            }
        },
    }
}
_CASH: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Cash by account and currency",
        "content": {
            "application/json": {
                "example": {
                    "cash": [
                        {
                            "account_id": "DU000001",
                            "currency": "USD",
                            "change": "-23516.00",
                            "traded": "-23515.00",
                            "commissions": "1.00",
                            "unknown_amounts": 0,
                        }
                    ]
                }
            }
        },
    }
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
                            "has_tp_sl": True,
                            "tp_orders": [],
                            "sl_orders": [
                                {"order_id": "ord_0123456789abcdef01234567", "price": 49000.0, "quantity": 0.001}
                            ],
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
