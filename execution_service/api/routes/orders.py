"""Orders: placed, listed, told in full, and cancelled."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access, Caller
from execution_service.api.answers import (
    Body,
    Recent,
    answer,
    cursor_of,
    done,
    known_query,
    next_link,
    one_of,
    place_of,
    whole_number,
)
from execution_service.api.placing import Placed, Placing, preferred_wait
from execution_service.api.problems import Problem, documented, reason
from execution_service.api.stories import brief, reasons_of, story
from execution_service.control.commands import Commands
from execution_service.control.requests import Kind
from execution_service.control.results import Done, Refused
from execution_service.core.messages.fields import UnreadableMessage, object_of, text_of
from execution_service.core.orders.events import Sized
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import FINAL, Status
from execution_service.core.texts.values import plain
from execution_service.runtime.clock import Clock
from execution_service.runtime.threads import Blocking
from execution_service.storage.ports.commands import Command
from execution_service.storage.ports.queries import OrderFilter, Place, QueryStore
from execution_service.storage.ports.tokens import Role

LONGEST_NAME = 256
ROWS = 100
_STATUS_WORDS = {
    Status.PENDING: "pending",
    Status.SUBMITTING: "pending",
    Status.IN_DOUBT: "pending",
    Status.SUBMITTED: "placed",
    Status.PARTIALLY_FILLED: "placed",
    Status.FILLED: "filled",
    Status.REJECTED: "failed",
    Status.CANCELLED: "cancelled",
    Status.EXPIRED: "cancelled",
}
_STATUSES = {status.value.lower(): frozenset({status}) for status in Status} | {"open": frozenset(Status) - FINAL}
_NO_KEY = "this order has a name that we made: to repeat the call safely, send an Idempotency-Key"


class OrderRoutes:
    """Everything about single orders."""

    def __init__(
        self,
        *,
        access: Access,
        queries: QueryStore,
        placing: Placing,
        commands: Commands,
        clock: Clock,
        recent: Recent,
        threads: Blocking,
    ) -> None:
        self._access = access
        self._queries = queries
        self._placing = placing
        self._commands = commands
        self._clock = clock
        self._recent = recent
        self._threads = threads

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/execution", tags=["Orders"])
        router.add_api_route(
            "/order",
            self.place,
            methods=["POST"],
            summary="Place an order",
            openapi_extra=_PLACE,
            responses=_PLACED | documented(400, 401, 403, 413, 415, 422, 503),
        )
        router.add_api_route(
            "/orders",
            self.orders,
            summary="Orders, the latest first",
            openapi_extra=_FILTERS,
            responses=documented(400, 401, 503),
        )
        router.add_api_route(
            "/orders/{name}", self.order, summary="The whole story of an order", responses=documented(401, 404, 503)
        )
        router.add_api_route(
            "/orders/{name}/cancel",
            self.cancel,
            methods=["POST"],
            summary="Ask for an order to be cancelled",
            openapi_extra=_CANCEL,
            responses=_CANCELLING | documented(400, 401, 403, 404, 409, 413, 415, 503),
        )
        return router

    async def place(self, request: Request) -> Response:
        """Answers as soon as the order is durable; what becomes of it is asked of `/api/execution/orders/{signal_id}`. The order's name is the
        header `Idempotency-Key`, or `signal_id` in the body or its `metadata`: repeated with the same content the answer is the same order,
        with other content 422. Without a name one is made. With `Prefer: wait=N` (seconds, at most 10) it waits until the order is refused, at the
        broker or ended. An order that is refused by then is answered 422, with all reasons."""
        await self._access.caller(request, Role.OPERATOR)
        placed = await self._placing.place(await request.body(), request.headers.get("idempotency-key"))
        headers = {"Idempotency-Key": placed.key, "Idempotency-Replayed": str(placed.is_replayed).lower()}
        if not placed.has_own_key:
            headers["Warning"] = f'199 - "{_NO_KEY}"'
        seconds = preferred_wait(request.headers.get("prefer"))
        if seconds:
            headers["Preference-Applied"] = f"wait={seconds}"
            placed = replace(placed, order=await self._placing.decided(placed.order, seconds))
        if placed.order.status is Status.REJECTED:
            raise _refused(placed.order, headers)
        return done(self._placed_fields(placed), headers=headers)

    def _placed_fields(self, placed: Placed) -> dict[str, Any]:
        order = placed.order
        words = [_what_became(order), *placed.remarks]
        price = order.limit_price if order.average_price is None else order.average_price
        return {
            "success": order.status is not Status.REJECTED,
            "order_id": order.order_id,
            "trade_id": None,
            "symbol": order.symbol,
            "side": placed.side_word,
            "quantity": None if order.quantity is None else float(order.quantity),
            "price": None if price is None else float(price),
            "status": _STATUS_WORDS[order.status],
            "message": "; ".join(words),
            "timestamp": order.received_at,
        }

    async def orders(self, request: Request) -> Response:
        """Pages by `next`: nothing is shown twice or left out, whatever comes in meanwhile."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request, "status", "account", "strategy", "symbol", "limit", "cursor")
        limit = whole_number(request, "limit", ROWS)
        asked = request.query_params
        chosen = OrderFilter(
            statuses=one_of(request, "status", _STATUSES),
            account_id=asked.get("account"),
            strategy=asked.get("strategy"),
            symbol=asked.get("symbol"),
        )
        place = place_of(asked.get("cursor"))
        return await self._recent.answer(request, self._page(request, chosen, place, limit))

    async def _page(self, request: Request, chosen: OrderFilter, place: Place | None, limit: int) -> Body:
        found = await self._queries.page_of_orders(chosen, place, limit + 1)
        page = found[:limit]
        following = None
        if len(found) > limit:
            last = page[-1].order
            following = next_link(request, cursor_of(last.received_at, last.order_id))
        return Body(lambda: {"orders": [brief(stored) for stored in page], "next": following})

    async def order(self, request: Request, name: str) -> Response:
        """By the signal's id, our order id, upstream's or the broker's; a signal may have several orders."""
        await self._access.caller(request, Role.VIEWER)
        found = await self._queries.orders_named(_checked(name))
        if not found:
            raise _unknown(name)
        return await self._threads.run(lambda: answer(request, {"orders": [story(stored) for stored in found]}))

    async def cancel(self, request: Request, name: str) -> Response:
        """200: it has ended or is asked to at the broker; 202: whoever works its account carries it out; 409: why it is not done."""
        caller = await self._access.caller(request, Role.OPERATOR)
        why = _reason_given(await request.body())
        found = await self._queries.orders_named(_checked(name))
        if not found:
            raise _unknown(name)
        command = self._command(request, name, [stored.order for stored in found], why, caller)
        result = await self._commands.give(command)
        if isinstance(result, Refused):
            words = plain(result.words)
            raise Problem(
                409, "cancel-refused", words, reasons=[reason("CANCEL_REFUSED", words)], command_id=command.command_id
            )
        after = await self._queries.orders_named(name)
        words = plain(result.words) if isinstance(result, Done) else "stored; whoever works the account carries it out"
        body = {"command_id": command.command_id, "message": words, "orders": [brief(stored) for stored in after]}
        return done(body, status=200 if isinstance(result, Done) else 202)

    def _command(self, request: Request, name: str, orders: list[Order], why: str, caller: Caller) -> Command:
        key = request.headers.get("idempotency-key")
        mark = (
            secrets.token_hex(8)
            if key is None
            else sha256(f"{name}\n{key}".encode("utf-8", "replace")).hexdigest()[:24]
        )
        meant = _meant(name, orders)
        now = self._clock.now()
        return Command(
            command_id=f"api-{mark}",
            kind=Kind.CANCEL,
            body={**meant, "reason": why, "requested_by": f"API ({caller.name})"},
            published_at=now,
            received_at=now,
        )


def _meant(name: str, orders: list[Order]) -> dict[str, object]:
    """All orders of a signal, or the one order of any other name. Raises Problem: a broker's ids may be those of several accounts."""
    if all(name in order.names for order in orders):
        return {"signal_id": name, "leg_index": None}
    if len(orders) > 1:
        ids = ", ".join(order.order_id for order in orders[:10])
        words = f"{plain(name)[:80]!r} names {len(orders)} orders; name one of {ids}"
        raise Problem(409, "ambiguous-order", words, reasons=[reason("AMBIGUOUS_ORDER", words)])
    return {"order_id": orders[0].order_id}


def _refused(order: Order, headers: Mapping[str, str]) -> Problem:
    """It is in the record, and will not be placed: a new name is needed."""
    code = "REFUSED" if order.reason is None else order.reason.code.value
    words = "refused" if order.reason is None else plain(order.reason.message)
    reasons = [reason(code, **each) for each in reasons_of(order)] or [reason(code, words)]
    told = {"order_id": order.order_id, "signal_id": order.signal_id, "order_status": order.status.value}
    arithmetic = _arithmetic(order)
    sized = {} if arithmetic is None else {"sized": arithmetic}
    return Problem(422, "order-refused", words, reasons=reasons, headers=headers, **told, **sized)


def _what_became(order: Order) -> str:
    if order.reason is not None:
        return f"{order.status}: {plain(order.reason.message)}"
    arithmetic = _arithmetic(order)
    size = "" if arithmetic is None else f"; sized: {arithmetic}"
    if order.quantity is None and order.cash_quantity is None and not order.status.is_final:
        size = "; its quantity is worked out from its stop as it leaves"
    return f"{order.status}, stored as {order.order_id}{size}"


def _arithmetic(order: Order) -> str | None:
    """How its quantity was worked out; None: it named one, or it has none yet."""
    return next((plain(event.arithmetic) for event in reversed(order.events) if isinstance(event, Sized)), None)


def _checked(name: str) -> str:
    if len(name) > LONGEST_NAME:
        raise _unknown(name)
    return name


def _unknown(name: str) -> Problem:
    words = f"no order is called {plain(name)[:80]!r}"
    return Problem(404, "unknown-order", words, reasons=[reason("UNKNOWN_ORDER", words)])


def _reason_given(body: bytes) -> str:
    """Raises Problem."""
    if not body.strip():
        return "cancelled over the API"
    try:
        fields = object_of(text_of(body))
    except UnreadableMessage as exc:
        raise Problem(400, "unreadable", str(exc), reasons=[reason("INVALID_REQUEST", str(exc))]) from exc
    given = fields.get("reason")
    return plain(given) if isinstance(given, str) and given.strip() else "cancelled over the API"


# --- described ------------------------------------------------------------------------------------------------------

_NUMBER = {"oneOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}]}
_PLACE: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[\x21-\x7e]+$"},
            "description": "The order's name",
        },
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "wait=N: for up to N seconds, what becomes of the order is waited for",
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["symbol", "side"],
                    "properties": {
                        "symbol": {
                            "type": "string",
                            "minLength": 1,
                            "maxLength": 32,
                            "pattern": r"^[A-Za-z0-9._/&:-][A-Za-z0-9._/&: -]*$",
                        },
                        "side": {"type": "string", "enum": ["buy", "sell", "long", "short"]},
                        "quantity": {
                            **_NUMBER,
                            "description": "An entry with a stop_loss may leave it out where TRADE_RISK_PER_TRADE is set: it is sized as it leaves",
                        },
                        "price": {**_NUMBER, "description": "The limit; without one the order is at the market"},
                        "leverage": {
                            "type": "integer",
                            "minimum": 1,
                            "maximum": 125,
                            "description": "Recorded, not set",
                        },
                        "stop_loss": _NUMBER,
                        "take_profit": _NUMBER,
                        "trail_percent": {
                            **_NUMBER,
                            "description": "The stop follows the best price, so many per cent behind",
                        },
                        "trail_amount": {**_NUMBER, "description": "The same, in units of the price"},
                        "display_quantity": {
                            **_NUMBER,
                            "description": "How much of an order with a limit the market sees at once",
                        },
                        "metadata": {"type": "object"},
                        "signal_id": {"type": "string"},
                        "account_id": {"type": "string", "description": "Needed where several accounts are configured"},
                        "strategy_name": {"type": "string"},
                        "order_type": {"type": "string", "enum": ["MARKET", "LIMIT", "STOP", "STOP_LIMIT"]},
                    },
                },
                "example": {
                    "symbol": "BTCUSDT",
                    "side": "long",
                    "quantity": 0.001,
                    "price": 50000,
                    "leverage": 10,
                    "stop_loss": 49000,
                    "take_profit": 52000,
                },
            }
        },
    },
}
_PLACED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The order is durable",
        "headers": {
            "Idempotency-Key": {"schema": {"type": "string"}},
            "Idempotency-Replayed": {"schema": {"type": "string", "enum": ["true", "false"]}},
        },
        "content": {
            "application/json": {
                "example": {
                    "success": True,
                    "order_id": "ord_0123456789abcdef01234567",
                    "trade_id": None,
                    "symbol": "BTCUSDT",
                    "side": "long",
                    "quantity": 0.001,
                    "price": 50000.0,
                    "status": "pending",
                    "message": "PENDING, stored as ord_0123456789abcdef01234567",
                    "timestamp": "2026-01-02T03:04:05.678Z",
                }
            }
        },
    }
}


def _query(name: str, words: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": words, "schema": schema}


_FILTERS: dict[str, Any] = {
    "parameters": [
        _query(
            "status", "A status, or `open` for all that have not ended", {"type": "string", "enum": list(_STATUSES)}
        ),
        _query("account", "Only this account's", {"type": "string"}),
        _query("strategy", "Only this strategy's", {"type": "string"}),
        _query("symbol", "Only of this symbol", {"type": "string"}),
        _query("limit", "At most so many", {"type": "integer", "minimum": 1, "maximum": 1000, "default": ROWS}),
        _query("cursor", "As `next` of the page before has it", {"type": "string"}),
    ]
}
_CANCELLING: dict[int | str, dict[str, Any]] = {
    202: {"description": "Stored; whoever works the account carries it out"}
}
_CANCEL: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"reason": {"type": "string"}}},
                "example": {"reason": "changed my mind"},
            }
        },
    }
}
