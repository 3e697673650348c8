"""The orders in hand: a cache of the unsettled records, the one place where events are recorded, and clocks that do not jump."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import structlog

from execution_service.core.orders.events import CancelRequested, Event
from execution_service.core.orders.next_step import Elapsed
from execution_service.core.orders.order import Order, apply
from execution_service.core.orders.repetition import CANCELS, FINDS, RequestHistory
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import Reason, ReasonCode
from execution_service.core.texts.log import log_line, wants_a_person
from execution_service.core.views.record import as_stored
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.orders import OrderStore, Stored, Told, VersionConflict

log = structlog.get_logger(__name__)

PERHAPS_SENT = "perhaps sent "
"""How the remark begins that an order may be alive and the broker cannot be asked."""


class LiveOrder:
    """One unsettled record with what this process knows beyond it: when things happened by the monotonic clock."""

    __slots__ = (
        "__weakref__",
        "age_from",
        "asked_at",
        "cancel_not_before",
        "cancels",
        "due_at",
        "failed_at",
        "failures",
        "finding_from",
        "finds",
        "heard",
        "is_answer_unclear",
        "is_answered",
        "is_busy",
        "is_cancel_commanded",
        "is_isolation_told",
        "is_late_allowed",
        "is_let_go",
        "is_passed_over",
        "is_set_aside",
        "is_silence_told",
        "isolated_until",
        "known_from",
        "last_failure",
        "lock",
        "missing_from",
        "must_read_lines",
        "not_before",
        "opens_at",
        "order",
        "refusal",
        "resendings",
        "sending_failures",
        "sent_at",
        "told",
        "told_waits",
        "unclear_resendings",
        "waits_to_note",
    )

    def __init__(self, order: Order, told: Told, *, age_from: float, known_from: float, sent_at: float | None) -> None:
        self.order = order
        self.told = told
        self.lock = asyncio.Lock()
        self.is_busy = False
        """A broker call about this order is under way: nobody else steps."""
        self.is_cancel_commanded = False
        """Somebody has asked for its cancellation since the broker was last asked for it."""
        self.is_late_allowed = False
        """It was looked at and found to be a late exit that is executed all the same."""
        self.is_let_go = False
        """Another process works it now, or may: nothing is done about it here any more, and it does not come back in hand."""
        self.is_silence_told = False
        self.told_waits: set[str] = set()
        """Of an exit: what people have been told that it waits for, or will be with the next message."""
        self.waits_to_note: list[str] = []
        """Of these, what they have been told and the record does not say yet."""
        self.resendings = 0
        self.refusal: Reason | None = _refusal(order)
        """What the broker said when it was sent again, or in an earlier life when it was sent: no end of it before it has been looked for, since a
        sending may be alive. It is not sent again."""
        self.is_answered = False
        """The broker has said that it has an order of this id, though it may not show it yet, or has answered it with words alone: sending again
        would tell nothing new."""
        self.is_answer_unclear = False
        """The latest look for it was answered, and something in the answer that cannot be read may be the order."""
        self.is_passed_over = False
        """The id that the broker gave it beforehand can no longer be used: it is looked for, and not sent again."""
        self.unclear_resendings = 0
        """How often it has been sent again without a clear answer to that either."""
        self.age_from = age_from
        self.known_from = known_from
        """Since when this process has it in hand."""
        self.sent_at = sent_at
        self.finding_from: float | None = None
        self.asked_at: float | None = None
        self.cancels = RequestHistory()
        """The requests to cancel it that were really sent."""
        self.cancel_not_before = 0.0
        """The account's calls do not allow one earlier."""
        self.finds = RequestHistory()
        """The looks for it since it is in doubt."""
        self.heard: object = None
        """What would make the broker's next word about it news."""
        self.opens_at: float | None = None
        """Until when the broker says that it holds it for the opening."""
        self.missing_from: float | None = None
        self.due_at: float | None = None
        self.not_before = 0.0
        self.isolated_until = 0.0
        """Nothing is begun for it before then: its own work has failed by something that nobody foresaw."""
        self.failures = 0
        """How often in succession it has."""
        self.failed_at = float("-inf")
        self.is_isolation_told = False
        self.is_set_aside = False
        """It is to be sent and in no lane while it is isolated."""
        self.sending_failures = 0
        self.last_failure = ""
        """Why it could not be sent the last time."""
        self.must_read_lines = bool(order.fills)
        """Its ledger lines may have been kept since it was read from the store: they are asked for before anything is booked."""

    def begin_anew(self) -> None:
        """Nobody is at work for it, and nobody has looked for it at this broker yet: whoever was has ended. What happened to it, and when, stays
        known."""
        self.is_busy = self.is_set_aside = self.is_answer_unclear = False
        self.due_at = self.finding_from = self.asked_at = None
        # Whatever was about to be recorded of these may not be; that it was not, or was, the record tells.
        self.missing_from = None
        self.is_silence_told = any(note.message.startswith(PERHAPS_SENT) for note in self.order.notes)

    def elapsed(self, now: float) -> Elapsed:
        def since(moment: float | None) -> float | None:
            return None if moment is None else now - moment

        return Elapsed(
            age=now - self.age_from,
            sent=since(self.sent_at),
            finding=since(self.finding_from),
            asked=since(self.asked_at),
            opened=since(self.opens_at),
            cancel_sent=since(self.cancels.latest),
            cancel_wait=max(self.cancels.wait_seconds(CANCELS, now), self.cancel_not_before - now, 0.0),
            find_wait=self.finds.wait_seconds(FINDS, now),
        )

    def take_news(self) -> None:
        """Something has changed: what is asked again of this order is asked soon again."""
        self.cancels, self.finds = self.cancels.with_pauses_reset(), self.finds.with_pauses_reset()

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

    def adopt(self, stored: Stored) -> LiveOrder:
        """Takes a record in hand; the one that is in hand already, if it is."""
        live = self.by_id.get(stored.order.order_id)
        if live is None:
            now = self._clock.monotonic()
            order = stored.order
            self._heed_publication(order.published_at)
            live = LiveOrder(
                order,
                stored.told,
                age_from=now - self._seconds_since(order.published_at),
                known_from=now,
                sent_at=None if order.working_since is None else now - self._seconds_since(order.working_since),
            )
            self._index(live)
            self._note_hold(live)
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
            # Sent, declared placed or ordered to be sent again: its time-out counts from then, and it was not looked for since.
            since = live.order.working_since
            live.sent_at = None if since is None else self._clock.monotonic() - self._seconds_since(since)
            live.finding_from, live.asked_at, live.refusal = None, None, _refusal(live.order)
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
            # Also where somebody else had recorded the very same: the world has to be told of it, and that is ours to do.
            self._tell_recorded(live)
        return events

    def _tell_recorded(self, live: LiveOrder) -> None:
        """All who want to know of it, whatever becomes of one of them: it is recorded."""
        for callback in tuple(self.on_recorded):
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
        """As `record`, for an order that another process works; returns it as it is then. Whoever holds it has to be told."""
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
            live.sent_at = live.finding_from = live.refusal = None
            live.is_answer_unclear = False
        elif live.order.working_since != before.working_since:
            live.sent_at = self._clock.monotonic()
            live.finding_from = live.asked_at = live.refusal = None
        if live.order.hold != before.hold:
            self._note_hold(live)
        if live.order.status is not before.status or live.order.attempt != before.attempt:
            live.take_news()
        self._say(before, events, live.order)

    def _note_hold(self, live: LiveOrder) -> None:
        """By the wall clock once, and by the monotonic one from then on."""
        hold = live.order.hold
        until = None if hold is None else hold.until
        live.opens_at = None if until is None else self._clock.monotonic() + (until - self._clock.now()).total_seconds()

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

    def _heed_publication(self, moment: datetime) -> None:
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


def _refusal(order: Order) -> Reason | None:
    words = order.undocumented_answer
    return None if words is None else Reason(ReasonCode.BROKER_REJECTED, words)


def _say_overtaken(order: Order) -> None:
    log.info(
        "Record was changed by somebody else and is read again", action="version_conflict", signal_id=order.signal_id
    )
