"""The orders in hand: a cache of the unsettled records, the one place where events are recorded, and clocks that do not jump."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

import structlog

from execution_service.core.orders.events import CancelRequested, Event
from execution_service.core.orders.next_step import Elapsed
from execution_service.core.orders.order import Order, apply
from execution_service.core.orders.repetition import CANCELS, FINDS
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.sending import Sending, Tries
from execution_service.core.texts.log import log_line, wants_a_person
from execution_service.core.views.record import as_stored
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.orders import OrderStore, Stored, Told, VersionConflict

log = structlog.get_logger(__name__)


class LiveOrder:
    """One unsettled record with what this process knows beyond it. Each part of that has one writer."""

    __slots__ = (
        "__weakref__",
        "_sending",
        "_tries",
        "age_from",
        "first_sent_at",
        "handing_over",
        "is_let_go",
        "known_from",
        "lock",
        "must_read_lines",
        "opens_at",
        "order",
        "told",
    )

    def __init__(self, order: Order, told: Told, *, age_from: float, known_from: float, sent_at: float | None) -> None:
        # The recording's; moments are by the monotonic clock.
        self.order = order
        self.lock = asyncio.Lock()
        self.is_let_go = False
        """Another process works it now, or may: nothing is done about it here any more, and it does not come back in hand."""
        self.age_from = age_from
        self.known_from = known_from
        """Since when this process has it in hand."""
        self.first_sent_at = sent_at
        """As recorded, or when the market had it after a hold."""
        self.opens_at: float | None = None
        """Until when the broker says that it holds it for the opening."""
        # The delivery's.
        self.told = told
        self.must_read_lines = bool(order.fills)
        """Its ledger lines may have been kept since it was read from the store: they are asked for before anything is booked."""
        # The trading's.
        self.handing_over: asyncio.Future[None] | None = None
        """While a call hands it over; done when that call is not to be waited for any longer."""
        self._sending = Sending.of(order)
        self._tries = Tries.of(order)

    @property
    def sending(self) -> Sending:
        """What is known of the latest sending: of one that was recorded since this was last written, nothing."""
        if self._sending.since != self.order.working_since:
            self._sending = Sending.of(self.order)
        return self._sending

    @sending.setter
    def sending(self, sending: Sending) -> None:
        self._sending = sending

    @property
    def tries(self) -> Tries:
        """What was tried for it: what is asked again is asked soon again after another status, or another attempt."""
        if not self._tries.is_of(self.order):
            self._tries = self._tries.with_pauses_reset(self.order)
        return self._tries

    @tries.setter
    def tries(self, tries: Tries) -> None:
        self._tries = tries

    @property
    def sent_at(self) -> float | None:
        """The last time; None: it was not."""
        repeated_at = self.sending.repeated_at
        return self.first_sent_at if repeated_at is None else repeated_at

    def begin_anew(self) -> None:
        """Nobody has looked for it at this broker yet: whoever had has ended. What happened to it, and when, stays known."""
        self.sending = replace(self.sending.not_looked_for(), is_answer_unclear=False)

    def elapsed(self, now: float) -> Elapsed:
        def since(moment: float | None) -> float | None:
            return None if moment is None else now - moment

        sending, tries = self.sending, self.tries
        return Elapsed(
            age=now - self.age_from,
            sent=since(self.sent_at),
            finding=since(sending.finding_from),
            asked=since(sending.asked_at),
            opened=since(self.opens_at),
            cancel_sent=since(tries.cancels.latest),
            cancel_wait=max(tries.cancels.wait_seconds(CANCELS, now), tries.cancel_not_before - now, 0.0),
            find_wait=tries.finds.wait_seconds(FINDS, now),
        )

    def take_news(self) -> None:
        """Something has changed: what is asked again of this order is asked soon again."""
        self.tries = self.tries.with_pauses_reset(self.order)

    @property
    def owes_world(self) -> bool:
        """The ledger may not know all of it yet."""
        return self.told.ledger < self.order.version


class LiveOrders:
    """All orders in hand, by our id and by every tag they were sent under."""

    def __init__(self, store: OrderStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._wall_at_start = clock.now().timestamp()
        """In seconds since 1970, of which there is no last one."""
        self._monotonic_at_start = clock.monotonic()
        self.by_id: dict[str, LiveOrder] = {}
        self.by_client_id: dict[str, LiveOrder] = {}
        self.exits_without_entry: dict[str, LiveOrder] = {}
        """By our id, those that name no entry: what they take, no other exit's entry tells."""
        self.on_recorded: list[Callable[[LiveOrder], None]] = []
        self.on_taken: list[Callable[[LiveOrder], None]] = []
        """Called where a stored order comes in hand, new or from an earlier life."""

    def adopt(self, stored: Stored) -> LiveOrder:
        """Takes a record in hand; the one that is in hand already, if it is."""
        live = self.by_id.get(stored.order.order_id)
        if live is None:
            now = self._clock.monotonic()
            order = stored.order
            self._note_publication(order.published_at)
            live = LiveOrder(
                order,
                stored.told,
                age_from=now - self._seconds_since(order.published_at),
                known_from=now,
                sent_at=None if order.working_since is None else now - self._seconds_since(order.working_since),
            )
            self._index(live)
            self._note_hold(live)
            self._note_opening(live)
            self._notify(self.on_taken, live)
        return live

    def latest(self, stored: Stored) -> Order:
        """The order as it was read, or as it is in hand, whichever has more to tell."""
        live = self.by_id.get(stored.order.order_id)
        return stored.order if live is None or live.order.version < stored.order.version else live.order

    def forget(self, live: LiveOrder) -> None:
        if self.by_id.get(live.order.order_id) is live:
            del self.by_id[live.order.order_id]
            self.exits_without_entry.pop(live.order.order_id, None)
        for client_order_id in live.order.client_order_ids:
            if self.by_client_id.get(client_order_id) is live:
                del self.by_client_id[client_order_id]

    def let_go(self, live: LiveOrder) -> None:
        """Forgets it for good: another process works it."""
        live.is_let_go = True
        self.forget(live)

    async def catch_up(self, live: LiveOrder, stored: Stored) -> bool:
        """Takes over what somebody else has written meanwhile; False if nothing."""
        async with live.lock:
            if stored.order.version <= live.order.version:
                return False
            self._take_over(live, stored)
            return True

    def _take_over(self, live: LiveOrder, stored: Stored) -> None:
        """The record as it is now, and with it what somebody else has booked and delivered: our own reading may be older than that."""
        mine, theirs = live.told, stored.told
        before, live.order = live.order, stored.order
        if live.order.working_since != before.working_since:
            # Sent, declared placed or ordered to be sent again: its time-out counts from then.
            since = live.order.working_since
            live.first_sent_at = None if since is None else self._clock.monotonic() - self._seconds_since(since)
        names = mine.others.keys() | theirs.others.keys()
        live.told = Told(
            world=max(mine.world, theirs.world),
            people=max(mine.people, theirs.people),
            lines={**theirs.lines, **mine.lines},
            others={name: max(mine.at(name), theirs.at(name)) for name in names},
        )
        self._index(live)
        self._note_hold(live)

    async def record(self, live: LiveOrder, decide: Callable[[Order], Sequence[Event]]) -> Sequence[Event]:
        """Lets `decide` say what has happened to the order as it now is, and makes that durable. Returns the events recorded.

        After somebody else's write the record is read again and decided anew. Waits while the store is away.
        """
        is_overtaken = False
        async with live.lock:
            while True:
                before = live.order
                events = tuple(map(as_stored, decide(before)))
                if not events:
                    break
                try:
                    is_wish = any(isinstance(event, CancelRequested) for event in events)
                    live.order = await self._store.append(before, events, urgent=is_wish)
                except VersionConflict as conflict:
                    self._take_over(live, conflict.current)
                    is_overtaken = True
                    _say_overtaken(before)
                    continue
                break
            if events:
                try:
                    self._take_note(live, before, events)
                except Exception as exc:
                    log.exception(
                        f"What follows from a record could not be noted: {exc}",
                        action="record_not_heeded",
                        signal_id=before.signal_id,
                    )
        if events or is_overtaken:
            # Also where somebody else had recorded the very same: it has to be delivered, and that is ours to do.
            self._notify_recorded(live)
        return events

    def _notify_recorded(self, live: LiveOrder) -> None:
        """All who want to know of it."""
        self._notify(self.on_recorded, live)

    @contextmanager
    def telling(self, note: Callable[[LiveOrder], None]) -> Iterator[None]:
        """Within it `note` is called of each order in hand, at once, of each that comes in hand, and after each record."""
        self.on_recorded.append(note)
        self.on_taken.append(note)
        try:
            for live in tuple(self.by_id.values()):
                note(live)
            yield
        finally:
            self.on_recorded.remove(note)
            self.on_taken.remove(note)

    @staticmethod
    def _notify(callbacks: Iterable[Callable[[LiveOrder], None]], live: LiveOrder) -> None:
        """Each, whatever becomes of the others: it is recorded."""
        for callback in tuple(callbacks):
            try:
                callback(live)
            except Exception as exc:
                log.exception(
                    f"What was recorded of an order could not be heeded by a part: {exc}",
                    action="record_not_heeded",
                    signal_id=live.order.signal_id,
                )

    async def record_unless_changed(self, live: LiveOrder, events: Iterable[Event], *, since: Order) -> Sequence[Event]:
        """As `record`, with events that follow from the order as it was in `since`; if it has changed when they could be recorded, nothing
        is."""

        def unless_changed(order: Order) -> Sequence[Event]:
            return tuple(events) if order is since else ()

        return await self.record(live, unless_changed)

    async def record_for_holder(self, order: Order, decide: Callable[[Order], Sequence[Event]]) -> Order:
        """As `record`, for an order that another process works; returns it as it is then. Whoever holds it has to be notified."""
        while events := decide(order):
            is_wish = any(isinstance(event, CancelRequested) for event in events)
            try:
                after = await self._store.append(order, events, urgent=is_wish)
            except VersionConflict as conflict:
                _say_overtaken(order)
                order = conflict.current.order
                continue
            self._say(order, events, after)
            return after
        return order

    def age_seconds(self, moment: datetime) -> float:
        return self._seconds_since(moment)

    def _take_note(self, live: LiveOrder, before: Order, events: Sequence[Event]) -> None:
        self._index(live)
        if live.order.submitted_at is None:
            live.first_sent_at = None
        elif live.order.working_since != before.working_since:
            live.first_sent_at = self._clock.monotonic()
        if live.order.hold != before.hold:
            self._note_hold(live)
        if live.order.opens_at != before.opens_at:
            self._note_opening(live)
        self._say(before, events, live.order)

    def _note_hold(self, live: LiveOrder) -> None:
        """By the wall clock once, and by the monotonic one from then on."""
        hold = live.order.hold
        until = None if hold is None else hold.until
        live.opens_at = None if until is None else self._clock.monotonic() + (until - self._clock.now()).total_seconds()

    def _note_opening(self, live: LiveOrder) -> None:
        """The age of an order that we keep for the opening of its market counts from there, however often it is read again."""
        opens_at = live.order.opens_at
        if opens_at is not None:
            opening = self._clock.monotonic() + (opens_at - self._clock.now()).total_seconds()
            live.age_from = max(live.age_from, opening)

    def _say(self, before: Order, events: Sequence[Event], latest: Order) -> None:
        """`latest`: the order after all of them."""
        for place, event in enumerate(events, 1):
            try:
                after = latest if place == len(events) else apply(before, event)
                line = log_line(before, event, after)
            except Exception as exc:
                # It is recorded; that there are no words for it changes nothing of that.
                name = type(event).__name__
                log.exception(f"No words for a {name}: {exc}", action="no_words", signal_id=before.signal_id)
                continue
            if line is not None:
                sentence, action = line
                say = log.warning if wants_a_person(event) else log.info
                say(sentence, action=action, signal_id=after.signal_id, order_id=after.order_id)
            before = after

    def _index(self, live: LiveOrder) -> None:
        if live.is_let_go:
            return
        self.by_id.setdefault(live.order.order_id, live)  # a write may outlast `forget`: the order is in hand again
        request, purpose = live.order.request, live.order.identity.purpose
        if purpose is Purpose.EXIT and isinstance(request, OrderRequest) and not request.entry_refs:
            self.exits_without_entry[live.order.order_id] = self.by_id[live.order.order_id]
        for client_order_id in live.order.client_order_ids:
            self.by_client_id[client_order_id] = live

    def _note_publication(self, moment: datetime) -> None:
        """Nothing is published in the future: if it seems so, our wall clock was slow when we started, and we count from what it should
        have shown."""
        steady_now = self._wall_at_start + self._clock.monotonic() - self._monotonic_at_start
        self._wall_at_start += max(0.0, moment.timestamp() - steady_now)

    def _seconds_since(self, moment: datetime) -> float:
        """By the wall clock, or by the wall clock at start carried on with the monotonic one, whichever says less: a wall clock that
        was moved while we ran makes nothing old."""
        wall = (self._clock.now() - moment).total_seconds()
        steady = self._wall_at_start - moment.timestamp() + self._clock.monotonic() - self._monotonic_at_start
        return max(0.0, min(wall, steady))


def _say_overtaken(order: Order) -> None:
    log.info(
        "Record was changed by somebody else and is read again", action="version_conflict", signal_id=order.signal_id
    )
