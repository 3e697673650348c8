"""From a message to a stored order, a stored refusal or a dead letter, and only then the acknowledgement."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

import structlog

from execution_service.core.errors import UnreadableRecord
from execution_service.core.messages.inbound import ParsedOrder, Unusable, parse_order
from execution_service.core.messages.trace import traceparent_in
from execution_service.core.orders.decisions import (
    decision_of,
    is_refused_without,
    unknown_decision,
    unread_decision,
)
from execution_service.core.orders.events import CancelRequested, Event, Noted, Rejected
from execution_service.core.orders.order import Order, apply_all, new_order
from execution_service.core.orders.request import OrderRequest, Purpose, RefusedRequest
from execution_service.core.orders.status import Reason, ReasonCode
from execution_service.core.texts.log import log_line, order_received
from execution_service.core.texts.orders import conflict, decision_unknown
from execution_service.core.texts.service import dead_letters, messages_handed_back
from execution_service.intake.decisions import Decisions
from execution_service.intake.events import EventReader, ReadOrder
from execution_service.ownership.ownership import Ownership
from execution_service.recording.cancels import Cancels
from execution_service.recording.live_orders import LiveOrders
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.commands import DeadLetter
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import Stored, Told
from execution_service.storage.ports.store import Store
from execution_service.transport.inbox import Inbox
from execution_service.transport.ports import RECEIVED_AS, RECEIVED_ID, Message

log = structlog.get_logger(__name__)

BATCH = 50
AFTER_FAILURE_SECONDS = 1.0
HELD_SECONDS = 10.0
"""How long messages are held for a store that is away, before others are given the chance to store them."""
PROBE_SECONDS = 5.0
"""The longest pause between two questions whether the store is back."""
RELAPSE_SECONDS = 60.0
"""A store that fails again so soon is not trusted at its first answer."""
LONGEST_REST_SECONDS = 60.0


Received: TypeAlias = tuple[Message, ReadOrder, Order]


class Accounts(Protocol):
    """The accounts that orders are for."""

    def is_known(self, account_id: str) -> bool:
        """Whether it is configured."""

    def take(self, stored: Stored) -> None:
        """Gives the order to whoever works its account here."""


class TakesMessages(Protocol):
    """What messages are received for."""

    async def take(self, messages: Sequence[Message]) -> object:
        """Stores what they mean and acknowledges them. Raises StoreUnavailable: nothing was acknowledged, and it may be called again."""


class Intake:
    """Takes orders in; many messages that are there at once are stored by one write."""

    def __init__(
        self,
        *,
        store: Store,
        live_orders: LiveOrders,
        clock: Clock,
        accounts: Accounts,
        cancels: Cancels,
        alerts: RaisesAlerts,
        ownership: Ownership,
        events: EventReader,
        decisions: Decisions,
        takes_sized: bool = False,
    ) -> None:
        """`events` reads the messages that came as events. `takes_sized`: an entry that names a stop need not name a quantity."""
        self._store = store
        self._live = live_orders
        self._clock = clock
        self._accounts = accounts
        self._cancels = cancels
        self._alerts = alerts
        self._ownership = ownership
        self._events = events
        self._takes_sized = takes_sized
        self._decisions = decisions

    async def run(self, inbox: Inbox) -> None:
        """Until cancelled."""
        receiver = Receiver(what="Orders", taker=self, store=self._store, clock=self._clock, alerts=self._alerts)
        await receiver.run(inbox)

    def parse(self, data: bytes) -> ParsedOrder | Unusable:
        """The order in a message that came as no event, as `take` reads it. Never raises."""
        return parse_order(data, may_be_sized=self._takes_sized)

    async def take(self, messages: Sequence[Message]) -> list[str]:
        """Stores what the messages mean and acknowledges them; returns our ids of the orders meant, also of repeated ones.

        Raises StoreUnavailable: then nothing was acknowledged, and doing it again is harmless.
        """
        letters: list[DeadLetter] = []
        read_orders: list[Received] = []
        for message in messages:
            read = self._read(message)
            if isinstance(read, Unusable):
                letters.append(self._dead_letter(message, read.reason))
            elif read is not None:
                read_orders.append((message, read, self._order(read, message)))
        if read_orders:
            # Those that are to be cancelled are stored as well: they stay until that is done.
            await self._cancels.named_by_cancels([order for _, _, order in read_orders])
        received, unknown, unverified = await self._verified(read_orders)
        meant = [(message, self._at_the_door(read, order, unknown)) for message, read, order in received]
        unusable = len(letters)
        conflicts = await self._store_orders(meant)
        letters += [letter for _, letter in conflicts]
        if letters:
            await self._store.insert_dead_letters(letters)
        # Before the acknowledgement: what is acknowledged does not come again, and then nobody would tell people.
        if unusable:
            words = dead_letters(count=1, reason=letters[unusable - 1].reason)
            await self._alerts.raise_alert_durably("dead_letter", words, unusable)
        if conflicts:
            signal_id, letter = conflicts[-1]
            words = conflict(count=1, signal_id=signal_id, detail=letter.reason)
            await self._alerts.raise_alert_durably("conflict", words, len(conflicts))
        await self._tell_unknown([order for _, order in meant], unknown)
        left = {id(message) for message, _, _ in unverified}
        for message in messages:
            if id(message) not in left:
                message.ack()
        if unverified:
            raise StoreUnavailable("whether the decisions of orders exist cannot be told")
        return [order.order_id for _, order in meant]

    async def _verified(
        self, received: Sequence[Received]
    ) -> tuple[Sequence[Received], frozenset[str], Sequence[Received]]:
        """Those that can be taken now, the decisions among theirs that do not exist, and those that cannot be taken while that is not known: what
        is not known is no reason to refuse an order, and none to keep others from being taken."""
        try:
            return received, await self._decisions.unknown(order for _, _, order in received), ()
        except StoreUnavailable as exc:
            log.warning(f"Decisions of orders are not verified: {exc}", action="decisions_unverified")
        left = [r for r in received if is_refused_without(r[2], self._decisions.verify) and decision_of(r[2])]
        return [r for r in received if r not in left], frozenset(), left

    async def _tell_unknown(self, orders: Sequence[Order], unknown: frozenset[str]) -> None:
        """Once for each decision, of orders that go on. Raises StoreUnavailable."""
        for order in orders if unknown else ():
            decision_id = decision_of(order)
            if decision_id in unknown and not is_refused_without(order, self._decisions.verify):
                is_exit = order.identity.purpose is Purpose.EXIT
                words = decision_unknown(decision_id=str(decision_id), signal_id=order.signal_id, is_exit=is_exit)
                await self._alerts.raise_alert_once(f"unknown_decision:{decision_id}", "unknown_decision", words)

    def _read(self, message: Message) -> ReadOrder | Unusable | None:
        if message.event_type is not None:
            return self._events.read(message)
        parsed = self.parse(message.data)
        return parsed if isinstance(parsed, Unusable) else ReadOrder(parsed, message.publish_time)

    def _order(self, read: ReadOrder, message: Message) -> Order:
        return new_order(
            read.parsed.identity,
            read.parsed.request,
            received_at=self._clock.now(),
            published_at=read.published_at,
            message_id=message.message_id,
            raw=read.parsed.raw,
            traceparent=traceparent_in(message.attributes),
        )

    def _at_the_door(self, read: ReadOrder, order: Order, unknown: frozenset[str]) -> Order:
        """The order as it is first recorded: PENDING, or ended at the door."""
        now, parsed = self._clock.now(), read.parsed
        first: tuple[Event, ...] = ()
        cancelled = self._cancels.is_cancelled(order)
        if parsed.problems:
            first = (Rejected(at=now, reason=Reason(ReasonCode.INVALID_ORDER, "; ".join(parsed.problems))),)
        elif not self._accounts.is_known(str(parsed.request.account_id)):
            words = f"account {parsed.request.account_id} is not configured"
            first = (Rejected(at=now, reason=Reason(ReasonCode.UNKNOWN_ACCOUNT, words)),)
        elif read.refusal is not None:
            first = (Rejected(at=now, reason=read.refusal),)
        elif (refused := self._refused_for_its_decision(parsed, order, unknown)) is not None:
            first = (Rejected(at=now, reason=refused),)
        elif cancelled is not None:
            first = (CancelRequested(at=now, reason=cancelled, requested_by="order-commands"),)
        if parsed.warning is not None:
            first = (Noted(at=now, message=parsed.warning), *first)
        return apply_all(order, first)

    def _refused_for_its_decision(self, parsed: ParsedOrder, order: Order, unknown: frozenset[str]) -> Reason | None:
        if not is_refused_without(order, self._decisions.verify):
            return None
        decision_id = decision_of(order)
        return unknown_decision(decision_id) if decision_id in unknown else unread_decision(parsed.unread_ids)

    async def _store_orders(self, meant: Sequence[tuple[Message, Order]]) -> list[tuple[str, DeadLetter]]:
        """Inserts the new ones and hands them over; returns dead letters, with their signal, for those that contradict what is stored, or
        cannot be compared with it."""
        first_of: dict[str, Order] = {}
        repeated: list[tuple[Message, Order, Order]] = []
        for message, order in meant:
            first = first_of.setdefault(order.order_id, order)
            if first is not order:
                repeated.append((message, order, first))
        left = self._left(first_of.values())
        present = await self._store.insert_orders(list(first_of.values()), left) if first_of else []
        stored = dict(zip(first_of, present, strict=True))
        fresh: list[Stored] = []
        unreadable: list[tuple[str, DeadLetter]] = []
        for message, order in meant:
            found = stored[order.order_id]
            if first_of[order.order_id] is not order:
                continue
            if found is None:
                log.info(
                    order_received(order.signal_id),
                    action="order_received",
                    signal_id=order.signal_id,
                    order_id=order.order_id,
                )
                self._say_first(order)
                fresh.append(Stored(order, Told()))
            elif isinstance(found, UnreadableRecord):
                words = f"{order.signal_id} is stored already, and its record cannot be read: {found}"
                unreadable.append((order.signal_id, self._dead_letter(message, words)))
            else:
                repeated.append((message, order, found))
        await self._pass_on(fresh, left)
        await self._take_up([found.order_id for _, _, found in repeated if found.order_id not in self._live.by_id])
        conflicts = [(r[1].signal_id, letter) for r in repeated if (letter := self._repetition(*r)) is not None]
        return unreadable + conflicts

    def _say_first(self, order: Order) -> None:
        """What ended the order at the door, if anything did, and what of it is not read."""
        for event in order.events:
            line = log_line(order, event, order)
            if line is not None:
                sentence, action = line
                say = log.warning if isinstance(event, Noted) else log.info
                say(sentence, action=action, signal_id=order.signal_id, order_id=order.order_id)

    async def _take_up(self, order_ids: Sequence[str]) -> None:
        """What looks like a repetition may be our own insertion, whose answer was lost: stored, and in nobody's hands."""
        found = await self._store.load(order_ids) if order_ids else []
        await self._pass_on([s for s in found if s.is_unsettled], {})

    async def _pass_on(self, some: Sequence[Stored], left: Mapping[str, str]) -> None:
        """To whoever works them: here at once, elsewhere by a word in the record, unless that was `left` with it."""
        foreign = self._left(stored.order for stored in some)
        for stored in some:
            if stored.order.order_id not in foreign:
                self._accounts.take(stored)
        unsaid = {order_id: partition for order_id, partition in foreign.items() if order_id not in left}
        if unsaid:
            await self._store.leave(unsaid)

    def _left(self, orders: Iterable[Order]) -> dict[str, str]:
        """The partitions of those that are not ours, by our id."""
        return {o.order_id: partition for o in orders if (partition := self._ownership.elsewhere(o)) is not None}

    def _repetition(self, message: Message, order: Order, first: Order) -> DeadLetter | None:
        if means_the_same(order, first):
            log.info(
                f"Duplicate of order {order.signal_id} ignored", action="duplicate_ignored", signal_id=order.signal_id
            )
            return None
        words = (
            f"{ReasonCode.DUPLICATE_CONFLICT}: {order.signal_id} came again with different content and was not placed"
        )
        log.warning(words, action="duplicate_conflict", signal_id=order.signal_id, order_id=order.order_id)
        return self._dead_letter(message, words)

    def _dead_letter(self, message: Message, reason: str) -> DeadLetter:
        return DeadLetter(
            message_id=message.message_id,
            payload=message.data,
            reason=reason,
            publish_time=message.publish_time,
            attributes=_attributes_to_keep(message),
            received_at=self._clock.now(),
        )


def _attributes_to_keep(message: Message) -> dict[str, str]:
    """Of a dead letter: with what is needed to read an event once more, and without what only looks like it."""
    kept = {name: value for name, value in message.attributes.items() if name not in (RECEIVED_AS, RECEIVED_ID)}
    if message.event_type is None:
        return kept
    first_id = message.attributes.get(RECEIVED_ID, message.message_id)
    return {**kept, RECEIVED_AS: message.event_type, RECEIVED_ID: first_id}


def means_the_same(order: Order, first: Order) -> bool:
    """Whether the second message is a mere repetition of the first."""
    mine, theirs = order.request, first.request
    if order.raw == first.raw:
        # Also where an earlier version read less of it.
        return True
    if isinstance(mine, OrderRequest) and isinstance(theirs, OrderRequest):
        return mine.content == theirs.content
    if isinstance(mine, RefusedRequest) and isinstance(theirs, RefusedRequest):
        return mine.fingerprint == theirs.fingerprint
    return False


class GivenUp(Exception):
    """Something within ended as if it had been cancelled, and nobody had."""


class Receiver:
    """Has the messages of one inbox stored and acknowledged, or hands them back.

    While the store is away nothing is acknowledged. If that lasts, this process may be the only one that cannot reach it: all it has
    received goes back to Pub/Sub, where others find it, and no more is pulled until the store answers again. What was handed back may
    have been stored all the same: it is known by its identity when it comes again.
    """

    def __init__(
        self,
        *,
        what: str,
        taker: TakesMessages,
        store: Store,
        clock: Clock,
        alerts: RaisesAlerts,
    ) -> None:
        """`what` the messages are, for people."""
        self._what = what
        self._taker = taker
        self._store = store
        self._clock = clock
        self._alerts = alerts
        self._accepted_at = float("-inf")
        self._least_rest = 0.0

    async def run(self, inbox: Inbox) -> None:
        """Until cancelled. Begun anew after a failure, it loses nothing: what it had in hand is in the inbox again."""
        if inbox.is_refusing:
            inbox.accept()
        while True:
            batch = await inbox.next_batch(BATCH)
            with inbox.put_back_unless_taken(batch):
                is_taken = await self._is_taken(batch)
            if not is_taken:
                await self._rest(inbox, len(batch) + inbox.qsize())

    async def _is_taken(self, batch: Sequence[Message]) -> bool:
        """Tries on for a while; False: the store is away, or this process cannot reach it. A batch that fails
        otherwise is taken apart, so that one message cannot stop the others."""
        failing_since: float | None = None
        while True:
            try:
                return await self._is_answered(batch)
            except StoreUnavailable as exc:
                now = self._clock.monotonic()
                failing_since = now if failing_since is None else failing_since
                if now - failing_since >= HELD_SECONDS:
                    return False
                log.warning(f"Messages wait for the store: {exc}", action="intake_waiting")
                await self._clock.sleep(AFTER_FAILURE_SECONDS)
            except Exception as exc:
                if len(batch) == 1:
                    log.error(
                        f"Message {batch[0].message_id} could not be taken; Pub/Sub will deliver it again: {exc}",
                        action="intake_failed",
                        exc_info=exc,
                    )
                    await self._clock.sleep(AFTER_FAILURE_SECONDS)
                    batch[0].nack()
                    return True
                for message in batch:
                    if not await self._is_taken([message]):
                        return False
                return True

    async def _is_answered(self, batch: Sequence[Message]) -> bool:
        """Takes the batch. False: it took too long, and whether it was stored is not known. Whether others are answered meanwhile does not
        count: the threads that this write waits for may hang while others do not. Raises what `take` raises."""
        attempt = asyncio.ensure_future(self._taker.take(batch))
        silence = asyncio.ensure_future(self._clock.sleep(HELD_SECONDS))
        try:
            await asyncio.wait({attempt, silence}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_silent = not attempt.done()
            silence.cancel()
            if is_silent:
                attempt.cancel()
                await asyncio.wait({attempt})
        if attempt.cancelled():
            if is_silent:
                return False
            raise GivenUp("taking it was given up, and not by us")
        attempt.result()
        return True

    async def _rest(self, inbox: Inbox, count: int) -> None:
        """Hands everything back, and takes messages again when the store answers; longer each time if it soon fails anew."""
        began = self._clock.monotonic()
        is_relapse = began - self._accepted_at < RELAPSE_SECONDS
        self._least_rest = min(LONGEST_REST_SECONDS, max(PROBE_SECONDS, 2 * self._least_rest)) if is_relapse else 0.0
        inbox.refuse()
        log.error(
            f"{self._what}: the store has been away for {HELD_SECONDS:.0f} s; what was received is handed back to Pub/Sub, "
            f"{count} at least, and none are taken until it answers",
            action="messages_handed_back",
            count=count,
        )
        pause = AFTER_FAILURE_SECONDS
        while True:
            await self._clock.sleep(max(pause, began + self._least_rest - self._clock.monotonic()))
            try:
                await self._store.check()
                break
            except StoreUnavailable:
                pause = min(2 * pause, PROBE_SECONDS)
        inbox.accept()
        self._accepted_at = self._clock.monotonic()
        seconds = self._accepted_at - began + HELD_SECONDS
        log.info(f"{self._what}: taken again", action="messages_taken_again")
        # Only now: the alerts are kept in the store too.
        words = messages_handed_back(what=self._what.lower(), count=count, seconds=seconds)
        await self._alerts.raise_alert("messages_handed_back", words)
