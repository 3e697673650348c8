"""An order that comes by HTTP: read strictly, given to the one intake, and answered when it is durable; what becomes of it is asked for later."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog

from execution_service.api.problems import Problem, reason
from execution_service.core.messages.fields import (
    Number,
    RepeatedNames,
    UnreadableMessage,
    exact_decimal,
    object_of,
    shown,
    text_of,
)
from execution_service.core.messages.inbound import ParsedOrder, Unusable
from execution_service.core.orders.order import Order, new_order
from execution_service.core.orders.status import Status
from execution_service.intake.intake import Intake, means_the_same
from execution_service.recording.live_orders import LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import OrderStore
from execution_service.storage.ports.queries import QueryStore
from execution_service.transport.ports import Message

log = structlog.get_logger(__name__)
T = TypeVar("T")

SIDES = {"buy": "BUY", "long": "BUY", "sell": "SELL", "short": "SELL"}
STRATEGY = "manual"
"""Under which an order is booked that names no strategy."""
_NO_ACCOUNT = "-"
"""Stands for one that is missing or not configured while the rest of the call is judged."""
HIGHEST_LEVERAGE = 125
LOOK_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 10
"""So long a caller may prefer to wait for what becomes of an order."""
GLANCE_SECONDS, READ_SECONDS = 0.02, 0.2
"""How often such an order is looked at, in memory and, where another process works it, in the store."""
_UNDECIDED = frozenset({Status.PENDING, Status.SUBMITTING})
_PREFERRED = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?([0-9]{1,4})\"?\s*(?:[,;]|$)", re.IGNORECASE)
_KEY = re.compile(r"[\x21\x23-\x7e]{1,200}")
_QUOTED_KEY = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,200})"')


class Accounts(Protocol):
    """The accounts as they are configured."""

    @property
    def named(self) -> Collection[str]: ...

    def is_known(self, account_id: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Placed:
    """An order that is durable."""

    order: Order
    key: str
    """By which the call may be repeated."""
    is_replayed: bool
    """It was there before this call."""
    has_own_key: bool
    """The caller named it, and can repeat the call."""
    side_word: str
    """As the caller said it."""
    remarks: Sequence[str]
    """What of the call is recorded and not done."""


class Placing:
    """Each call means one order, named by its key: repeated with the same content it is the same order, with other content it is refused."""

    def __init__(
        self,
        *,
        intake: Intake,
        orders: OrderStore,
        queries: QueryStore,
        accounts: Accounts,
        clock: Clock,
        live_orders: LiveOrders,
    ) -> None:
        self._live = live_orders
        self._intake = intake
        self._orders = orders
        self._queries = queries
        self._accounts = accounts
        self._clock = clock
        self._under_way: set[asyncio.Task[Any]] = set()

    async def place(self, body: bytes, key_header: str | None) -> Placed:
        """Returns when the order is durable. Raises Problem: nothing was stored; but with 503 it may have been."""
        fields = _read(body)
        key, has_own_key = self._key(fields, key_header)
        side_word = str(fields.get("side"))
        order_fields, problems = self._order_fields(fields, key)
        data = _written(order_fields).encode()
        parsed = self._intake.parse(data)
        if isinstance(parsed, Unusable):
            raise _invalid([*problems, parsed.reason])
        if problems or parsed.problems:
            raise _invalid([*problems, *parsed.problems])
        message = Message(message_id=f"api-{secrets.token_hex(8)}", data=data, publish_time=self._clock.now())
        # Whoever calls may go away: what was begun is finished all the same, or the order would be in nobody's hands.
        task = self._begin(self._durable(message, parsed))
        order, is_replayed = await asyncio.shield(task)
        return Placed(order, key, is_replayed, has_own_key, side_word, _remarks(fields))

    async def decided(self, order: Order, seconds: float) -> Order:
        """The order once it has been refused, or is at the broker, or has ended; or as it is after so long."""
        end, next_read = self._clock.monotonic() + seconds, self._clock.monotonic() + READ_SECONDS
        while order.status in _UNDECIDED and self._clock.monotonic() < end:
            await self._clock.sleep(GLANCE_SECONDS)
            live = self._live.by_id.get(order.order_id)
            if live is not None:
                order = live.order
            elif self._clock.monotonic() >= next_read:
                next_read = self._clock.monotonic() + READ_SECONDS
                with contextlib.suppress(Problem):
                    order = await self._found(order.order_id) or order
        return order

    async def drain(self) -> None:
        """Returns when nothing is being stored."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _durable(self, message: Message, parsed: ParsedOrder) -> tuple[Order, bool]:
        order_id = parsed.identity.order_id
        found = await self._found(order_id)
        if found is None:
            try:
                await self._intake.take([message])
            except StoreUnavailable as exc:
                self._begin(self._take_up(message, order_id))
                words = "the store does not answer; the order may have been stored: repeat the call with the same key"
                raise Problem(
                    503,
                    "store-unavailable",
                    words,
                    headers={"Retry-After": "5", "Idempotency-Key": parsed.identity.signal_id},
                ) from exc
            found = await self._found(order_id)
            if found is None:
                words = f"the record of {order_id} cannot be read; see the log of the service"
                raise Problem(500, "unreadable-record", words)
        if found.message_id == message.message_id:
            return found, False
        received = new_order(
            parsed.identity,
            parsed.request,
            received_at=message.publish_time,
            published_at=message.publish_time,
            raw=parsed.raw,
        )
        if not means_the_same(received, found):
            words = (
                f"{found.signal_id} names another order already, with other content; nothing was placed for this call"
            )
            raise Problem(
                422, "duplicate-conflict", words, reasons=[reason("DUPLICATE_CONFLICT", words)], order_id=order_id
            )
        if found.status is Status.PENDING:
            # It may be one whose insertion arrived and whose answer was lost, and then nobody works it yet.
            with contextlib.suppress(StoreUnavailable):
                await self._intake.take([message])
        return found, True

    async def _found(self, order_id: str) -> Order | None:
        """Raises Problem."""
        try:
            return await self._queries.order_by_id(order_id)
        except StoreUnavailable as exc:
            words = "the store does not answer; repeat the call with the same key"
            raise Problem(503, "store-unavailable", words, headers={"Retry-After": "5"}) from exc

    async def _take_up(self, message: Message, order_id: str) -> None:
        """Whose insertion may have arrived though its answer was lost: then it is worked, and else it never was."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            try:
                if await self._orders.load([order_id]):
                    await self._intake.take([message])
                return
            except StoreUnavailable as exc:
                log.debug(f"An order of the API waits for the store: {exc}", action="api_order_waits")

    # --- what the call says -------------------------------------------------------------------------------------

    def _key(self, fields: Mapping[str, object], header: str | None) -> tuple[str, bool]:
        """The order's name, and whether the caller gave it. Raises Problem."""
        metadata = fields.get("metadata")
        given = [fields.get("signal_id"), metadata.get("signal_id") if isinstance(metadata, dict) else None]
        names = [name for name in given if isinstance(name, str) and not isinstance(name, Number) and name.strip()]
        if header is not None:
            quoted = _QUOTED_KEY.fullmatch(header.strip())
            bare = re.sub(r"\\(.)", r"\1", quoted.group(1)) if quoted else header.strip()
            if quoted is None and _KEY.fullmatch(bare) is None:
                words = "Idempotency-Key has to be 1 to 200 printable ASCII characters"
                raise Problem(400, "invalid-key", words, reasons=[reason("INVALID_KEY", words)])
            names.insert(0, bare)
        if len({name.strip() for name in names}) > 1:
            words = "Idempotency-Key and signal_id name two different orders"
            raise Problem(422, "invalid-order", words, reasons=[reason("INVALID_ORDER", words)])
        return (names[0].strip(), True) if names else (f"api-{secrets.token_hex(12)}", False)

    def _order_fields(self, fields: Mapping[str, object], key: str) -> tuple[dict[str, object], list[str]]:
        """The order in the words of our messages, and what is wrong that these do not know. A field that is wrong has another value in it, so that
        nothing is said twice of it: what has problems is not placed."""
        problems: list[str] = []
        metadata = fields.get("metadata")
        more = metadata if isinstance(metadata, dict) else {}
        order = {name: value for name, value in fields.items() if name != "account" and value is not None}
        order["signal_id"] = key
        side = fields.get("side")
        if not isinstance(side, str) or side.strip().lower() not in SIDES:
            problems.append(f"side has to be one of {', '.join(SIDES)}, not {shown(side)}")
            order["side"] = SIDES["buy"]
        else:
            order["side"] = SIDES[side.strip().lower()]
        if fields.get("order_type") is None:
            # As spec 002 has it: a price is the limit, and without one the order is at the market.
            has_price = fields.get("price") is not None
            order["order_type"] = "LIMIT" if has_price or fields.get("limit_price") is not None else "MARKET"
        leverage = fields.get("leverage")
        if leverage is not None and not _is_leverage(leverage):
            problems.append(f"leverage has to be a whole number from 1 to {HIGHEST_LEVERAGE}, not {shown(leverage)}")
        strategy = next(
            (each for each in (fields.get("strategy_name"), fields.get("strategy_id"), more.get("strategy")) if each),
            None,
        )
        order.setdefault("strategy_name", strategy or STRATEGY)
        order["account_id"] = self._account(fields, more, problems)
        return order, problems

    def _account(self, fields: Mapping[str, object], more: Mapping[str, object], problems: list[str]) -> str:
        given = next(
            (each for each in (fields.get("account_id"), fields.get("account"), more.get("account_id")) if each), None
        )
        named = sorted(self._accounts.named)
        if given is None:
            if len(named) == 1:
                return named[0]
            if not named and self._accounts.is_known(STRATEGY):
                return STRATEGY  # the broker that stands in for all has an account of any name
            problems.append(f"account_id is missing; configured: {', '.join(named) or 'none'}")
            return _NO_ACCOUNT
        if not isinstance(given, str) or isinstance(given, Number) or not self._accounts.is_known(given):
            problems.append(f"account {shown(given)} is not configured")
            return _NO_ACCOUNT
        return given


def preferred_wait(header: str | None) -> int:
    """Of a header Prefer (RFC 7240): the seconds of `wait`, within our bound; 0: the caller does not wait."""
    found = None if header is None else _PREFERRED.search(header)
    return 0 if found is None else min(int(found.group(1)), LONGEST_WAIT_SECONDS)


def _read(body: bytes) -> dict[str, object]:
    """Raises Problem."""
    try:
        fields = object_of(text_of(body))
    except UnreadableMessage as exc:
        raise Problem(400, "unreadable", str(exc), reasons=[reason("INVALID_ORDER", str(exc))]) from exc
    if isinstance(fields, RepeatedNames):
        raise _invalid([f"{shown(name)} stands more than once in the call" for name in fields.names[:10]])
    return fields


def _invalid(problems: Sequence[str]) -> Problem:
    reasons = [reason("INVALID_ORDER", each) for each in problems]
    return Problem(422, "invalid-order", "; ".join(problems), reasons=reasons)


def _is_leverage(value: object) -> bool:
    exact = exact_decimal(value) if isinstance(value, Number) else None
    return exact is not None and exact == exact.to_integral_value() and 1 <= exact <= HIGHEST_LEVERAGE


def _remarks(fields: Mapping[str, object]) -> list[str]:
    remarks = []
    if fields.get("leverage") is not None:
        remarks.append("leverage is recorded and not set: the account's own applies")
    exits = [name for name in ("stop_loss", "take_profit") if fields.get(name) is not None]
    if exits:
        remarks.append(f"{', '.join(exits)} placed at the broker for what has filled")
    if fields.get("trail_percent") is not None or fields.get("trail_amount") is not None:
        remarks.append("the stop follows the market as far as its price is known")
    return remarks


def _written(value: object) -> str:
    """As JSON, each number as the caller wrote it."""
    match value:
        case Number():
            return str(value)
        case RepeatedNames():
            # Which of its values was meant nobody can say, and nothing of it is read.
            return "null"
        case dict():
            return "{" + ",".join(f"{json.dumps(name)}:{_written(part)}" for name, part in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_written, value)) + "]"
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
    return json.dumps(str(value))
