"""Starts the service and stops it, in order, and keeps spec 004's three doors; what it is made of is built elsewhere."""

from __future__ import annotations

import asyncio
import functools
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import structlog

from brokers.base import Fill
from execution_service.app.http_wiring import ApiSettings, HttpApi, http_api
from execution_service.app.wiring import Parts, build
from execution_service.control.requests import Kind
from execution_service.control.results import Done, Refused
from execution_service.core.messages.inbound import Unusable, parse_order_fields
from execution_service.core.messages.trading_signal import fields_of_signal
from execution_service.core.orders.events import Event, Filled, Rejected
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.storage.ports.commands import Command
from execution_service.transport.ports import Message

log = structlog.get_logger(__name__)

DRAIN_SECONDS = 4.0
LAST_ALERT_SECONDS = 3.0
"""How long a service that has to end waits for the alert that says why."""
ORDERS_IN = "orders in"


class ExecutionService:
    """The service proper: everything between the queue of messages and the ports."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store
        self._clock = parts.clock
        self.rooms = rooms = build(parts)
        self.live_orders = rooms.live_orders
        self.ownership = rooms.ownership
        self.delivery = rooms.delivery
        self.supervisor = rooms.supervisor
        self.accounts = rooms.accounts
        self.kill_switches = rooms.kill_switches
        self.commands = rooms.commands
        self.intake = rooms.intake
        self.orphans = rooms.orphans
        self.unreadable = rooms.unreadable
        self.event_reader = rooms.event_reader
        self.safety = rooms.safety
        self.kill_key = rooms.kill_key
        self.dead_man = rooms.dead_man
        self._broker_exits = rooms.broker_exits
        self._position_marks = rooms.position_marks
        self.plans = rooms.plans
        self.market_turns = rooms.market_turns
        self._is_begun = False

    @property
    def clock(self) -> Clock:
        return self._clock

    # --- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Takes up what an earlier life left, then begins. Recovery is the ordinary path: the orders found are stepped as any others.

        Raises StoreUnavailable; may then be called again.
        """
        if not self._is_begun:
            await self._store.be_kept(self.supervisor)
            self._is_begun = True
        await self.ownership.take_up()
        if self.safety is not None:
            await self.safety.look()  # bounded; else the orders that wait would be refused as long as nothing is known
        await self.commands.start()
        if self.kill_key is not None:
            await (
                self.kill_key.look()
            )  # bounded; a stop that was asked for before the start counts before an order leaves
        await self.ownership.start()
        self._keep(*self.ownership.parts(), *self.kill_switches.parts())
        self._keep(*(() if self.safety is None else self.safety.parts()))
        self._keep(*(() if self.kill_key is None else self.kill_key.parts()))
        self._keep(*(() if self.dead_man is None else self.dead_man.parts()))
        self._keep(*(() if self._broker_exits is None else self._broker_exits.parts()))
        self._keep(*(() if self._position_marks is None else self._position_marks.parts()))
        self._keep(Part(ORDERS_IN, lambda: self.intake.run(self._parts.orders)), *self._events_in())
        self._keep(*self.commands.parts(self._parts.commands))
        self._keep(*self._targets_in(), *self.plans.parts(), *self._markets())
        self._keep(*self.delivery.parts())
        self._keep(*self.accounts.parts(), *self.orphans.parts(), *self.unreadable.parts())

    async def take_no_more(self) -> None:
        """No message is stored any more: whoever pulls them can hand back what was not."""
        others = (
            *self._events_in(),
            *self._targets_in(),
            *self.plans.parts(),
            *self._markets(),
            *self.commands.parts(self._parts.commands),
        )
        await self.supervisor.end(ORDERS_IN, *self._names_of(others))
        self.accounts.begin_no_more()

    async def stop(self) -> None:
        """Takes nothing new, lets what is on its way finish for a few seconds, and ends. Working orders stay at the broker."""
        await self.take_no_more()
        await self.commands.end()
        self.ownership.take_no_more()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.accounts.drain()
                await self.delivery.drain()
        except TimeoutError:
            log.info(f"What was on its way has not ended within {DRAIN_SECONDS:g} s", action="drain_ended")
        except Exception as exc:
            log.error(f"What was on its way is left to the next start: {exc}", action="drain_failed", exc_info=exc)
        renewing = self._names_of(self.ownership.parts())
        await self.supervisor.end(*(name for name in self.supervisor.names if name not in renewing))
        # Renewed to the last: the others are to begin when nothing of ours is at the broker any more.
        await self.supervisor.end(*renewing)
        await self.ownership.end()
        await self.supervisor.end_all()

    async def has_to_end(self) -> str:
        """Waits until a part cannot be kept alive and the alert about it is sent, if it can be; returns why. The service is then to be stopped."""
        reason = await self.supervisor.given_up()
        end = self._clock.monotonic() + LAST_ALERT_SECONDS
        try:
            async with asyncio.timeout(LAST_ALERT_SECONDS):  # a store that hangs must not keep it
                while self.supervisor.is_alerting or await self._store.unsent_alerts():
                    if self._clock.monotonic() >= end:
                        break
                    await self._clock.sleep(LAST_ALERT_SECONDS / 30)
        except Exception as exc:  # noqa: BLE001  whatever it was, the service ends
            log.warning(
                f"The alert was perhaps not sent: {str(exc) or type(exc).__name__}", action="last_alert_not_sent"
            )
        return reason

    def _events_in(self) -> Sequence[Part]:
        return [
            Part(f"events in: {name}", functools.partial(self.intake.run, inbox))
            for name, inbox in self._parts.events.inboxes.items()
        ]

    def _targets_in(self) -> Sequence[Part]:
        inbox = self._parts.targets
        return () if inbox is None else (Part("targets in", functools.partial(self.commands.run_targets, inbox)),)

    def _markets(self) -> Sequence[Part]:
        return () if self.market_turns is None else self.market_turns.parts()

    def _keep(self, *parts: Part) -> None:
        for part in parts:
            self.supervisor.keep(part)

    @staticmethod
    def _names_of(parts: Sequence[Part]) -> Sequence[str]:
        return [part.name for part in parts]

    def part_states(self) -> Mapping[str, Mapping[str, str | int]]:
        """How each long-running part stands, by name; as `Supervisor.states`."""
        return self.supervisor.states()

    def account_states(self) -> Mapping[str, Mapping[str, str]]:
        """Of each account that has a trader: its broker, its state there, and what the trouble is."""
        return self.accounts.states()

    def safety_state(self) -> Mapping[str, str | None] | None:
        """`status` (OK or DEGRADED) and `message`; None: there is no outside safety service."""
        return None if self.safety is None else self.safety.component()

    def http_api(self, settings: ApiSettings) -> HttpApi:
        """The API over HTTP; it is listened nowhere yet."""
        return http_api(self._parts, self.rooms, settings)

    # --- doors for programs that use the service as a library -----------------------------------------------------

    async def process_order(self, order_data: Mapping[str, Any]) -> Order:
        """Takes one order as if it had come by Pub/Sub: stored durably, then worked. Returns it as it stands once stored.

        Raises ValueError where the data names no signal, StoreUnavailable while the store is away.
        """
        parsed = parse_order_fields(order_data)
        if isinstance(parsed, Unusable):
            raise ValueError(parsed.reason)
        message = Message(
            message_id=f"call-{secrets.token_hex(8)}",
            data=parsed.raw.encode("utf-8", "surrogatepass"),
            publish_time=self._clock.now(),
        )
        (order_id,) = await self.intake.take([message])
        return (await self._store.load([order_id]))[0].order

    async def execute_signal(self, signal: object) -> Order | None:
        """Takes a `TradingSignal` (an object or a mapping) by the one path of orders, and tells the order as it stands once stored; None: it asks
        for none (`hold`). Its account is the one that its metadata name, else the only one there is. The same signal again is the same order.

        Raises ValueError where it names no signal or no action, StoreUnavailable while the store is away.
        """
        accounts = list(self._parts.accounts.accounts)
        fields = fields_of_signal(signal, account_id=accounts[0] if len(accounts) == 1 else None)
        return None if fields is None else await self.process_order(fields)

    async def apply_execution_plan(self, target_positions: Mapping[str, Any], mode: str) -> Mapping[str, Any]:
        """Plans a list of target positions (the message of the topic `target-positions`) and works it; tells the stored plan, or that of an
        earlier call for the same decision. `mode`, PRODUCTION or TRAINING, has to be the account's. `dry_run` in it: it is only shown.

        Raises ValueError where the list is refused, with every reason; StoreUnavailable while the store is away; then, and where an older plan
        of the strategy is still being cancelled (TimeoutError), the same call may be made again.
        """
        body = {name: value for name, value in target_positions.items() if name != "dry_run"} | {"mode": mode}
        text, now = json.dumps(body, default=_as_text), self._clock.now()
        is_dry = target_positions.get("dry_run") is True
        command = Command(
            command_id=f"call-{secrets.token_hex(8)}",
            kind=Kind.PLAN,
            body={"targets": text, "dry_run": is_dry},
            published_at=now,
            received_at=now,
        )
        result = await self.commands.give(command)
        if isinstance(result, Refused):
            raise ValueError(result.words)
        if not isinstance(result, Done):
            raise TimeoutError("stored, and planned as soon as the orders of the plan before it have ended")
        told: Mapping[str, Any] = json.loads(result.words)
        return told

    process_signal = execute_signal
    """The name that it has in that system's code."""

    async def handle_order_fill(self, order_id: str, fill_data: Mapping[str, Any]) -> Order:
        """Records a fill that came by other means than the broker's adapter. `fill_data`: fill_id, quantity, price, time, and optionally
        commission, commission_currency; a known fill id changes nothing. Raises KeyError for an order that is not in the store, ValueError
        for data that is no fill."""
        fill = _fill_of(fill_data, self._clock.now())

        def fills(order: Order) -> tuple[Filled, ...]:
            return () if order.fill_of(fill.fill_id) else (Filled(at=self._clock.now(), fill=fill),)

        return await self._record_by_hand(order_id, fills)

    async def handle_order_rejection(self, order_id: str, rejection_reason: str) -> Order:
        """Records that the broker rejected the order. Raises KeyError for an order that is not in the store, InvalidTransition where a
        rejection cannot be."""

        def rejects(order: Order) -> tuple[Rejected, ...]:
            if order.status is Status.REJECTED:
                return ()
            reason = Reason(ReasonCode.BROKER_REJECTED, rejection_reason)
            return (Rejected(at=self._clock.now(), reason=reason, filled_quantity=order.filled_quantity),)

        return await self._record_by_hand(order_id, rejects)

    async def _record_by_hand(self, order_id: str, decide: Callable[[Order], Sequence[Event]]) -> Order:
        """About an order named by our id or the broker's, in hand or not, or in the hands of another process."""
        live = self.live_orders.by_id.get(order_id)
        if live is None:
            found = await self._store.load([order_id]) or await self._store.find([f"broker:{order_id}"])
            if len(found) != 1:
                raise KeyError(order_id)
            if self.ownership.elsewhere(found[0].order) is not None:
                order = await self.live_orders.record_for_holder(found[0].order, decide)
                await self.ownership.leave_to_holder(order)
                return order
            live = self.live_orders.adopt(found[0])
        await self.live_orders.record(live, decide)
        self.accounts.look_again(live)
        return live.order


def _as_text(value: object) -> str:
    """Of what a program hands over instead of text: exact decimals and times."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _fill_of(fill_data: Mapping[str, Any], now: datetime) -> Fill:
    """`time` may be a datetime or ISO 8601 text, UTC where it names no zone. Raises ValueError, naming what is wrong."""

    def number(name: str, *, is_positive: bool) -> Decimal:
        try:
            value = Decimal(str(fill_data[name]))
        except (KeyError, ArithmeticError) as exc:
            raise ValueError(f"fill: {name} is missing or no number: {fill_data.get(name)!r}") from exc
        if not value.is_finite() or (is_positive and value <= 0):
            raise ValueError(f"fill: {name} must be a finite number{' above 0' if is_positive else ''}: {value}")
        return value

    if not fill_data.get("fill_id"):
        raise ValueError("fill: fill_id is missing")
    given = fill_data.get("time") or now
    moment = given if isinstance(given, datetime) else datetime.fromisoformat(str(given))
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    currency = fill_data.get("commission_currency")
    return Fill(
        fill_id=str(fill_data["fill_id"]),
        quantity=number("quantity", is_positive=True),
        price=number("price", is_positive=False),
        time=moment.replace(microsecond=moment.microsecond // 1000 * 1000),
        commission=None if fill_data.get("commission") is None else number("commission", is_positive=False),
        commission_currency=None if currency is None else str(currency),
    )
