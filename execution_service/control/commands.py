"""Wishes from outside: cancel, resolve, replay, reconcile, adopt; stored first, then carried out, by whichever way they came."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Protocol

import structlog

from brokers.base import BrokerPosition
from execution_service.core.errors import InvalidTransition
from execution_service.core.messages.inbound import CancelCommand, RefusedCommand, Unusable, parse_command
from execution_service.core.orders.events import (
    DeclaredCancelled,
    DeclaredNotPlaced,
    DeclaredPlaced,
    Event,
    SendAgainOrdered,
)
from execution_service.core.orders.next_step import cancel_request
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Reason, ReasonCode
from execution_service.core.reconcile.discrepancies import ReconciliationOutcome
from execution_service.core.texts.values import plain
from execution_service.core.views.record import positions_to_documents
from execution_service.intake.intake import Receiver
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.storage.ports.commands import Command, CommandStatus
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.store import Store
from execution_service.storage.ports.views import View
from execution_service.transport.inbox import Inbox
from execution_service.transport.ports import Message

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
NONE_MET: Mapping[Purpose, datetime] = MappingProxyType({})
FORGOTTEN_AFTER_SECONDS = 24 * 3600.0
"""How long a cancel is remembered for orders that have not come, where no order is ever too old."""
REMEMBERED_SECONDS = 600.0
"""The least otherwise: after an outage messages come in any sequence, and an exit is executed however old it is."""
MESSAGE = "msg-"
"""What the ids of commands that came by Pub/Sub begin with."""
REASSERT_AFTER_SECONDS = (2.0, 15.0)
OTHERS_COMPARE_SECONDS = 30.0
ANSWERED_WITHIN_SECONDS = 60.0
"""A question for a broker's positions that was stored longer ago is nobody's any more."""
REQUESTED_BY = "order-commands"
"""Who wished for a cancel, where the command does not say it."""

_FOR_DECISION = {
    "send-again": "an order is sent again only from IN_DOUBT; before, its first sending may still be under way",
    "placed": "only an order that was perhaps sent can be declared placed",
    "not-placed": "only an order that was perhaps sent, and is not known at the broker, can be declared not placed",
    "cancelled": "only an order that was perhaps sent, or is at work, can be declared cancelled",
}


@dataclass(slots=True)
class _Remembered:
    """A cancel that also holds for orders which have not come yet."""

    command: Command
    until: float
    """Forgotten then (monotonic)."""
    holds_until: datetime
    """It means no order that was published later. By the times of Pub/Sub or, where that is later, of whoever stored the command: no
    process's own clock shortens it."""
    met: dict[Purpose, datetime]
    """Of the orders that were known by its name: when the first of each purpose was received."""

    def stops(self, order: Order) -> bool:
        """One that names a whole signal stops what was published before it. One that names an order by its own id stops that order whichever
        was published first. But some senders give an exit its entry's id: where the other of the two came before, only the time can tell."""
        body, purpose = self.command.body, order.identity.purpose
        if not _names(body, order) or order.published_at > self.holds_until:
            return False
        others = [_sequence(at, of) for of, at in self.met.items() if of is not purpose]
        names_it_alone = body.get("order_id") is not None and not any(
            other < _sequence(order.received_at, purpose) for other in others
        )
        return names_it_alone or not _is_later(order, self.command)

    def meets(self, purpose: Purpose, received_at: datetime) -> None:
        self.met[purpose] = min(received_at, self.met.get(purpose, received_at))


def _sequence(received_at: datetime, purpose: Purpose) -> tuple[datetime, bool]:
    """Of what came in the same moment, the entry came first."""
    return received_at, purpose is Purpose.EXIT


KNOWN_BEFORE = datetime.min.replace(tzinfo=UTC)
"""When an order was received that was known when a cancel was carried out: before whatever comes after that, by whichever clock."""


class WorksOrders(Protocol):
    """Who works an account's orders."""

    async def cancel(self, live: LiveOrder, reason: Reason, requested_by: str) -> None: ...

    def look_again(self, live: LiveOrder) -> None: ...


class CommandedAccounts(Protocol):
    """The accounts that commands are about."""

    def trader_of(self, account_id: str | None) -> WorksOrders | None:
        """None: it is not traded here."""

    async def positions_of(self, account_id: str) -> Sequence[BrokerPosition] | None:
        """By its broker; None where that does not tell them now."""

    async def compare_now(self, account_id: str) -> ReconciliationOutcome | None:
        """What a comparison with the broker shows; None: the account is not configured."""


class TakesOrders(Protocol):
    """Who takes orders in; here, those of dead letters once more."""

    async def take(self, messages: Sequence[Message]) -> object: ...


class CarriesOutAdoptions(Protocol):
    async def carry_out(self, command: Command) -> tuple[CommandStatus, str] | None: ...


class ShowsOrders(Protocol):
    async def show_again(self, order: Order) -> None:
        """Writes what the signal's sender reads of the order once more. Raises StoreUnavailable."""


class Commands:
    """Takes commands in, remembers cancels for orders that have not come yet, and carries out what is stored."""

    def __init__(
        self,
        *,
        store: Store,
        live_orders: LiveOrders,
        clock: Clock,
        ownership: Ownership,
        views: ShowsOrders,
        alerts: RaisesAlerts,
        max_order_age_seconds: float,
    ) -> None:
        """By `ownership` it is known which process carries a command out, and how the one that works an order learns what was written to its
        record."""
        self._ownership = ownership
        self._views = views
        self._alerts = alerts
        self._accounts: CommandedAccounts
        self._intake: TakesOrders
        self._adoption_commands: CarriesOutAdoptions
        self._store = store
        self._live = live_orders
        self._clock = clock
        self._lifetime = timedelta(
            seconds=max(max_order_age_seconds, REMEMBERED_SECONDS) if max_order_age_seconds else FORGOTTEN_AFTER_SECONDS
        )
        self._active: dict[str, _Remembered] = {}
        self._by_name: dict[str, dict[str, None]] = {}
        """The ids of the remembered commands that name an order or a signal so."""
        self._set_aside: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._comparing: set[str] = set()
        """Commands to reconcile that are being carried out."""
        self._asking: set[str] = set()
        """Other commands for which a broker is asked."""

    def serve(self, accounts: CommandedAccounts, intake: TakesOrders, adoption_commands: CarriesOutAdoptions) -> None:
        """Whom the commands are carried out on; said once, before anything else is done, for the accounts and the intake ask about cancels
        here."""
        self._accounts, self._intake, self._adoption_commands = accounts, intake, adoption_commands

    def parts(self, inbox: Inbox) -> Sequence[Part]:
        """What runs for as long as the process."""
        return Part("commands in", lambda: self.run(inbox)), Part("commands left in the store", self._poll)

    async def run(self, inbox: Inbox) -> None:
        """Until cancelled."""
        receiver = Receiver(what="Commands", taker=self, store=self._store, clock=self._clock, alerts=self._alerts)
        await receiver.run(inbox)

    async def end(self) -> None:
        """Ends what is being carried out; a command that is not done is left to the next life."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _poll(self) -> None:
        while True:
            await self._clock.sleep(POLL_SECONDS)
            try:
                await self.refresh()
            except StoreUnavailable as exc:
                log.debug(f"Commands wait for the store: {exc}", action="commands_waiting")

    async def start(self) -> None:
        """Takes up what an earlier life left. Raises StoreUnavailable; may then be called again."""
        if not self._ownership.has_others:
            # Who shares the store asks it for the cancels of each order before that is stored, and before it is sent.
            for command in await self._store.commands(now=self._clock.now()):
                if command.status is not CommandStatus.NEW and _is_cancel(command):
                    # Learnt before it holds: an order of its name that comes meanwhile must find the same as ever.
                    met = {order.identity.purpose: KNOWN_BEFORE for order in await self._stored(command.body)}
                    self._remember(command, met)
        await self.refresh()

    async def refresh(self) -> None:
        """Carries out what others stored and nobody has carried out: an earlier life of this service, another replica, or a person with
        execctl. Raises StoreUnavailable."""
        for command in await self._store.new_commands():
            await self._alone(command, self._carry_out)

    async def look_for_cancels(self, orders: Sequence[Order]) -> None:
        """Learns of the cancels that name these orders. Raises StoreUnavailable.

        Whatever was stored before this call, by whichever process and with whichever clock, is known when it returns: the store is asked
        by the orders' names, and so reads nothing about other orders, however many commands there are. Nobody else stores any where this
        process is alone.
        """
        if not self._ownership.has_others:
            return
        names = sorted({name for order in orders for name in _names_of(order)})
        for command in await self._store.cancels_naming(names):
            if command.status is CommandStatus.NEW:
                await self._alone(command, self._carry_out)
            elif command.command_id not in self._active and command.active_until is not None and _is_cancel(command):
                await self._alone(command, self._learn)

    async def _learn(self, command: Command) -> None:
        known = await self._stored(command.body)
        self._remember(command, _first_received(known), is_found=True)

    async def _alone(self, command: Command, work: Callable[[Command], Awaitable[None]]) -> None:
        """One that cannot even be refused stops no other: it is set aside, and said once. Raises StoreUnavailable."""
        if command.command_id in self._set_aside:
            return
        try:
            await work(command)
        except StoreUnavailable:
            raise
        except Exception as exc:
            self._set_aside.add(command.command_id)
            log.error(
                f"Command set aside, it can be neither carried out nor refused: {exc}",
                action="command_set_aside",
                command_id=command.command_id,
                exc_info=exc,
            )

    async def take(self, messages: Sequence[Message]) -> None:
        """Stores and carries out what came by Pub/Sub, then acknowledges. Raises StoreUnavailable: nothing was acknowledged."""
        for message in messages:
            command = self._command(message)
            await self._store.insert_command(command)
            if command.status is CommandStatus.NEW:
                # Also if it was stored before: it may have been stored by a life that ended before it was carried out.
                await self._alone(command, self._carry_out)
            else:
                log.warning(
                    f"Command {command.kind or '(unreadable)'} refused: {command.outcome}", action="command_refused"
                )
            message.ack()

    def is_cancelled(self, order: Order) -> Reason | None:
        """The reason of a remembered cancel that this order is meant by."""
        self._forget_old()
        named = [command_id for name in _names_of(order) for command_id in self._by_name.get(name, ())]
        for command_id in dict.fromkeys(named):
            remembered = self._active[command_id]
            if remembered.until >= self._clock.monotonic() and remembered.stops(order):
                remembered.meets(order.identity.purpose, order.received_at)
                return _reason(remembered.command.body)
        return None

    def _forget_old(self) -> None:
        """They end in about the sequence in which they came; one that stands behind a later one is passed over meanwhile."""
        now = self._clock.monotonic()
        while self._active:
            command_id, oldest = next(iter(self._active.items()))
            if oldest.until >= now:
                return
            del self._active[command_id]
            name = _name_in(oldest.command.body)
            if name is not None:
                self._by_name[name].pop(command_id, None)
                if not self._by_name[name]:
                    del self._by_name[name]

    def _command(self, message: Message) -> Command:
        parsed = parse_command(message.data)
        kind, body, status, outcome = "CANCEL", {}, CommandStatus.NEW, ""
        match parsed:
            case CancelCommand():
                body = {
                    "order_id": parsed.order_id,
                    "signal_id": parsed.signal_id,
                    "leg_index": parsed.leg_index,
                    "reason": parsed.reason,
                }
            case RefusedCommand():
                kind, status, outcome = parsed.command, CommandStatus.REFUSED, parsed.reason
            case Unusable():
                kind, status, outcome = "", CommandStatus.REFUSED, parsed.reason
        return Command(
            command_id=f"{MESSAGE}{message.message_id}",
            kind=kind,
            body=body | {"text": message.data[:4096].decode("utf-8", "replace")},
            published_at=message.publish_time,
            received_at=self._clock.now(),
            status=status,
            outcome=outcome,
        )

    async def _carry_out(self, command: Command) -> None:
        """May be done again after a death in the middle, or by two ways at once: each kind does only what has not been done."""
        if not isinstance(command.body, Mapping):
            words = f"its body is {str(command.body)[:200]!r}"
            log.error(
                f"Command {command.kind} refused: {words}", action="command_refused", command_id=command.command_id
            )
            await self._store.finish_command(command.command_id, CommandStatus.REFUSED, words, None)
            return
        if command.kind == "RECONCILE":
            self._begin_comparing(command)
            return
        if command.kind in ("ADOPT", "POSITIONS"):
            self._begin_asking(command)
            return
        active_until = None
        try:
            match command.kind:
                case "CANCEL":
                    active_until = command.received_at + self._lifetime
                    status, outcome = await self._cancel(command)
                case "RESOLVE":
                    status, outcome = await self._resolve(command)
                case "REPLAY":
                    status, outcome = await self._replay_letter(command)
                case _:
                    status, outcome = CommandStatus.REFUSED, f"{command.kind!r} is not a command of this service"
        except StoreUnavailable:
            raise
        except Exception as exc:
            # No command may stop the others, nor the start of the service, which reads what was left.
            log.error(f"Command failed: {exc}", action="command_failed", command_id=command.command_id, exc_info=exc)
            status, outcome, active_until = CommandStatus.REFUSED, f"failed: {type(exc).__name__}: {exc}", None
        log.info(f"Command {command.kind}: {outcome}", action="command_done", command_id=command.command_id)
        await self._store.finish_command(command.command_id, status, outcome, active_until)

    def _remember(
        self, command: Command, met: Mapping[Purpose, datetime] = NONE_MET, *, is_found: bool = False
    ) -> None:
        """`is_found`: it was looked up for the sake of an order that it names."""
        # From its receipt on: what was published before it may be delivered after it, however old both are.
        left = self._lifetime.total_seconds()
        if not is_found:
            left -= self._live.age_seconds(command.received_at)
        name = _name_in(command.body) if _is_cancel(command) else None
        if name is None or left <= 0:
            return
        self._forget_old()
        known = self._active.get(command.command_id)
        if known is None:
            holds_until = _later_by(max(command.published_at, command.received_at), self._lifetime)
            known = _Remembered(command, self._clock.monotonic() + left, holds_until, {})
            self._active[command.command_id] = known
            self._by_name.setdefault(name, {})[command.command_id] = None
        for purpose, received_at in met.items():
            known.meets(purpose, received_at)

    # --- cancel -------------------------------------------------------------------------------------------------

    async def _cancel(self, command: Command) -> tuple[CommandStatus, str]:
        body = command.body
        # Remembered with the look, so that no order slips in between.
        in_hand = _meant(body, [live.order for live in self._live.by_id.values()])
        self._remember(command, {order.identity.purpose: KNOWN_BEFORE for order in in_hand})
        outcomes = [await self._cancel_one(order, command) for order in in_hand]
        if not in_hand or body.get("order_id") is None:
            # What is in hand has been cancelled without asking the store, which may be busy; other legs may be finished.
            known = {order.order_id for order in in_hand}
            others = [o for o in await self._stored(body) if o.order_id not in known]
            self._remember(command, {order.identity.purpose: KNOWN_BEFORE for order in others})
            outcomes += [await self._cancel_one(order, command) for order in others]
        unreadable = [] if outcomes else self._store.unreadable(_words_for(body))
        if unreadable:
            words = f"{_named(body)} is not cancelled: its record cannot be read; cancel it at the broker ({'; '.join(unreadable)})"
            return CommandStatus.REFUSED, words
        unknown = f"{_named(body)} is not known; it will not be placed if it comes yet"
        if body.get("order_id") is None:
            unknown = f"{_named(body)} is not known; it will not be placed if it was published before this cancel"
        is_done = all(is_done for is_done, _ in outcomes)
        words = "; ".join(words for _, words in outcomes) or unknown
        return CommandStatus.DONE if is_done else CommandStatus.REFUSED, words

    async def _cancel_one(self, order: Order, command: Command) -> tuple[bool, str]:
        """Whether there is nothing more to do about it, and what came of it."""
        body = command.body
        if _came_after(order, command):
            log.warning(
                f"Cancel of {_named(body)} does not reach {order.order_id}, which was published after it",
                action="cancel_not_meant",
                signal_id=order.signal_id,
            )
            return True, f"{order.order_id} was published after this cancel and goes on"
        self._assert_again(order)
        if order.status.is_final:
            log.info(
                f"Cancel of a finished order: {order.order_id} is {order.status}",
                action="cancel_too_late",
                signal_id=order.signal_id,
            )
            return True, f"{order.order_id} is {order.status} already"
        trader, live = self._accounts.trader_of(order.request.account_id), self._live.by_id.get(order.order_id)
        requested_by = str(body.get("requested_by") or REQUESTED_BY)
        if trader is not None and live is not None:
            await trader.cancel(live, _reason(body), requested_by)
        elif self._ownership.has_others:

            def wish(order: Order) -> tuple[Event, ...]:
                return cancel_request(order, _reason(body), requested_by, self._clock.now())

            await self._ownership.leave_to_holder(await self._live.record_for_holder(order, wish))
        else:
            account = order.request.account_id
            return (
                False,
                f"{order.order_id} is not cancelled: account {account} is not traded here; cancel it at the broker",
            )
        return True, f"{order.order_id} asked to be cancelled"

    def _assert_again(self, order: Order) -> None:
        """Upstream marks an order as CANCEL_REQUESTED after it has published the wish, over a final state that we may have written."""

        async def show_again() -> None:
            for pause in REASSERT_AFTER_SECONDS:
                await self._clock.sleep(pause)
                try:
                    for stored in await self._store.load([order.order_id]):
                        if stored.order.status.is_final:
                            await self._views.show_again(stored.order)
                except StoreUnavailable as exc:
                    log.warning(f"{View.TRADING_ORDERS} not written again: {exc}", action="views_waiting")

        if order.request.request_order_id is not None:
            self._spawn(show_again())

    async def _stored(self, body: Any) -> list[Order]:
        """Orders meant that the store knows, as they are in hand where they are."""
        order_id = body.get("order_id")
        found = await self._store.find(_words_for(body))
        if isinstance(order_id, str):
            found += await self._store.load([order_id])
        fresh = [live.order if (live := self._live.by_id.get(s.order.order_id)) else s.order for s in found]
        return _meant(body, fresh)

    # --- reconcile ----------------------------------------------------------------------------------------------

    def _begin_comparing(self, command: Command) -> None:
        """Beside everything else, for brokers take their time; a death meanwhile leaves the command to the next life."""

        async def compare() -> None:
            try:
                outcome = await self._accounts.compare_now(str(command.body.get("account_id")))
                if self._ownership.has_others and (outcome is None or not outcome.is_compared):
                    # The account may be another process's, whose answer counts more than that we have none.
                    await self._clock.sleep(OTHERS_COMPARE_SECONDS)
                    waiting = await self._store.new_commands()
                    if all(each.command_id != command.command_id for each in waiting):
                        return
                await self._finish_comparing(command, outcome)
            except StoreUnavailable as exc:
                log.warning(f"RECONCILE waits for the store: {exc}", action="commands_waiting")
            finally:
                self._comparing.discard(command.command_id)

        if self._ownership.is_worked_elsewhere(str(command.body.get("account_id"))):
            return
        if command.command_id not in self._comparing:
            self._comparing.add(command.command_id)
            self._spawn(compare())

    async def _finish_comparing(self, command: Command, outcome: ReconciliationOutcome | None) -> None:
        account_id = command.body.get("account_id")
        status, words = CommandStatus.REFUSED, f"account {account_id!r} is not configured"
        if outcome is not None:
            status, words = CommandStatus.DONE, outcome.words
        log.info(f"Command RECONCILE: {plain(words)}", action="command_done", command_id=command.command_id)
        await self._store.finish_command(command.command_id, status, words, None)

    # --- adopt --------------------------------------------------------------------------------------------------

    def _begin_asking(self, command: Command) -> None:
        """Beside everything else, too, and by whoever trades the account."""
        body = command.body if isinstance(command.body, Mapping) else {}
        account_id = str(body.get("account_id"))
        if command.command_id in self._asking or self._ownership.belongs_elsewhere(account_id):
            return

        async def answer() -> None:
            try:
                if command.kind == "POSITIONS":
                    status, outcome = await self._tell_positions(command, account_id)
                else:
                    done = await self._adoption_commands.carry_out(command)
                    if done is None:
                        return
                    status, outcome = done
                    log.info(f"Command ADOPT: {plain(outcome)}", action="command_done", command_id=command.command_id)
                await self._store.finish_command(command.command_id, status, outcome, None)
            except StoreUnavailable as exc:
                log.warning(f"{command.kind} waits for the store: {exc}", action="commands_waiting")
            except Exception as exc:
                # What was recorded of it stands, and a command that stays NEW would fail again each second.
                log.error(
                    f"Command failed: {exc}", action="command_failed", command_id=command.command_id, exc_info=exc
                )
                words = f"failed: {type(exc).__name__}: {exc}; see execctl orders for what was recorded of it"
                await self._store.finish_command(command.command_id, CommandStatus.REFUSED, words, None)
            finally:
                self._asking.discard(command.command_id)

        self._asking.add(command.command_id)
        self._spawn(answer())

    async def _tell_positions(self, command: Command, account_id: str) -> tuple[CommandStatus, str]:
        """What the account holds by its broker, as JSON."""
        if self._live.age_seconds(command.received_at) > ANSWERED_WITHIN_SECONDS:
            return CommandStatus.REFUSED, "whoever asked has gone"
        theirs = await self._accounts.positions_of(account_id)
        if theirs is None:
            return CommandStatus.REFUSED, "the broker does not tell its positions now"
        return CommandStatus.DONE, json.dumps(positions_to_documents(theirs))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- resolve and replay -------------------------------------------------------------------------------------

    async def _resolve(self, command: Command) -> tuple[CommandStatus, str]:
        body = command.body
        order_id = str(body.get("order_id"))
        by, note = str(body.get("by", "?")), str(body.get("note", ""))
        # The moment is the command's own: a decision that is delivered again is the same event, and is not recorded twice.
        now = command.received_at
        decisions: dict[str, Event] = {
            "not-placed": DeclaredNotPlaced(at=now, by=by, message=note),
            "cancelled": DeclaredCancelled(at=now, by=by, message=note),
            "send-again": SendAgainOrdered(at=now, by=by, message=note),
            "placed": DeclaredPlaced(at=now, by=by, broker_order_id=str(body.get("broker_order_id")), message=note),
        }
        chosen = str(body.get("decision"))
        event = decisions.get(chosen)
        if event is None:
            return CommandStatus.REFUSED, f"unknown decision {body.get('decision')!r}; known: {', '.join(decisions)}"
        stored = await self._store.load([order_id])
        if any(event in s.order.events for s in stored):
            return CommandStatus.DONE, f"{order_id} resolved as {body['decision']} by {by} before"
        if isinstance(event, DeclaredPlaced):
            for other in await self._store.find([f"broker:{event.broker_order_id}"]):
                if any(_is_namesake(other.order, s.order) for s in stored):
                    # A cancel would go to that one.
                    words = (
                        f"{event.broker_order_id} is the broker's id of {other.order.order_id}, {other.order.signal_id}"
                    )
                    return CommandStatus.REFUSED, words
        live = self._live.by_id.get(order_id)
        trader = None if live is None else self._accounts.trader_of(live.order.request.account_id)

        def decision(order: Order) -> tuple[Event, ...]:
            return () if event in order.events else (event,)

        try:
            if live is not None and trader is not None:
                await self._live.record(live, decision)
                trader.look_again(live)
                order = live.order
            elif self._ownership.has_others and stored and not stored[0].order.status.is_final:
                order = await self._live.record_for_holder(stored[0].order, decision)
                await self._ownership.leave_to_holder(order)
            else:
                return CommandStatus.REFUSED, f"order {order_id}: {_why_no_decision(stored)}"
        except InvalidTransition as exc:
            return (
                CommandStatus.REFUSED,
                f"{order_id} is {exc.status}: {_FOR_DECISION.get(chosen, 'nothing to decide')}",
            )
        return CommandStatus.DONE, f"{order_id} resolved as {body['decision']} by {by}: {order.status}"

    async def _replay_letter(self, command: Command) -> tuple[CommandStatus, str]:
        message_id = str(command.body.get("message_id"))
        letter = await self._store.dead_letter(message_id)
        if letter is None:
            return CommandStatus.REFUSED, f"there is no dead letter {message_id!r}"
        marker = sha256(f"{command.command_id}:{message_id}".encode()).hexdigest()[:16]
        message = Message(
            message_id=f"replay-{marker}",
            data=letter.payload,
            publish_time=letter.publish_time,
            attributes=letter.attributes,
        )
        await self._intake.take([message])
        again = await self._store.dead_letter(message.message_id)
        if again is not None:
            words = f"dead letter {message_id} was taken again and is a dead letter again: {again.reason}"
            return CommandStatus.REFUSED, words
        return CommandStatus.DONE, f"dead letter {message_id} taken again, and there is an order now"


def _first_received(orders: Iterable[Order]) -> dict[Purpose, datetime]:
    first: dict[Purpose, datetime] = {}
    for order in orders:
        purpose = order.identity.purpose
        first[purpose] = min(order.received_at, first.get(purpose, order.received_at))
    return first


def _later_by(moment: datetime, span: timedelta) -> datetime:
    try:
        return moment + span
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _is_cancel(command: Command) -> bool:
    return command.kind == "CANCEL" and isinstance(command.body, Mapping)


def _why_no_decision(stored: Sequence[Stored]) -> str:
    if not stored:
        return "it is not known, or its record cannot be read"
    order = stored[0].order
    if order.status.is_final:
        return f"it is {order.status} already"
    return f"account {order.request.account_id} is not traded here; configure it again, then decide"


def _is_namesake(other: Order, order: Order) -> bool:
    return other.order_id != order.order_id and other.request.account_id == order.request.account_id


def _words_for(body: Any) -> list[str]:
    """What a record may be found by that is meant."""
    order_id = body.get("order_id")
    if order_id is None:
        return [f"signal:{body.get('signal_id')}"]
    return [f"request:{order_id}", f"broker:{order_id}", f"client:{order_id}", str(order_id)]


def _meant(body: Any, orders: Sequence[Order]) -> list[Order]:
    """Which of the orders are meant: upstream's id comes first, then the broker's, then ours; a signal id means all its legs."""
    order_id = body.get("order_id")
    if order_id is None:
        return [o for o in orders if _names(body, o)]
    ways: tuple[Callable[[Order], bool], ...] = (
        lambda o: o.request.request_order_id == order_id,
        lambda o: o.broker_order_id == order_id,
        lambda o: o.order_id == order_id or order_id in o.client_order_ids,
    )
    return next((some for way in ways if (some := [o for o in orders if way(o)])), [])


def _name_in(body: Any) -> str | None:
    """The one by which a cancel says what it means; None: it means nothing that there can be."""
    name = body.get("order_id")
    name = body.get("signal_id") if name is None else name
    return name if isinstance(name, str) else None


def _names_of(order: Order) -> list[str]:
    """All by which a cancel may mean this order."""
    request = order.request
    names = (
        order.signal_id,
        request.mathematricks_signal_id,
        request.request_order_id,
        order.broker_order_id,
        order.order_id,
    )
    return [name for name in dict.fromkeys((*names, *order.client_order_ids)) if name is not None]


def _names(body: Any, order: Order) -> bool:
    order_id, signal_id, leg = body.get("order_id"), body.get("signal_id"), body.get("leg_index")
    if _name_in(body) is None:
        return False
    if order_id is not None:
        return order_id in (order.request.request_order_id, order.broker_order_id, order.order_id) or (
            order_id in order.client_order_ids
        )
    is_signal = signal_id in (order.signal_id, order.request.mathematricks_signal_id)
    return is_signal and (leg is None or leg == order.identity.leg_index)


def _came_after(order: Order, command: Command) -> bool:
    """Whether a cancel of a whole signal is older than the order: delivered late, or twice. Only Pub/Sub's own times are compared, and who
    names one order means that one."""
    is_message = command.command_id.startswith(MESSAGE)
    is_of_signal = command.body.get("order_id") is None
    return is_message and is_of_signal and _is_later(order, command)


def _is_later(order: Order, command: Command) -> bool:
    """By whole milliseconds, as the store keeps them: the same whether either was read from there or not."""
    return _in_milliseconds(order.published_at) > _in_milliseconds(command.published_at)


def _in_milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _named(body: Any) -> str:
    order_id, signal_id, leg = body.get("order_id"), body.get("signal_id"), body.get("leg_index")
    return str(order_id) if order_id is not None else str(signal_id) + ("" if leg is None else f", leg {leg},")


def _reason(body: Any) -> Reason:
    return Reason(ReasonCode.CANCEL_REQUESTED, str(body.get("reason") or "cancel requested"))
