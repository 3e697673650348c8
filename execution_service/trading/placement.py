"""Hands one order over to the broker and records what became of that; not which order, nor what is looked at before."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from brokers.base import CombinesOrders, Report
from brokers.errors import (
    BrokerUnavailable,
    HeldBack,
    NotAnswered,
    OrderAlreadyExists,
    OrderRefused,
    OutcomeUnknown,
    RateLimited,
    ReservationLost,
    UndocumentedAnswer,
)
from execution_service.core import backoff
from execution_service.core.orders.events import CancelRequested, Doubted, Event, Noted, NothingSent, Rejected
from execution_service.core.orders.exits import linked_stop_id
from execution_service.core.orders.next_step import is_stale
from execution_service.core.orders.order import Order
from execution_service.core.orders.report_events import was_noted
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.orders.waiting import WaitingReason
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.trading.connection import Connection, NoLongerWaitedFor, reason_of
from execution_service.trading.instrument_queues import InstrumentQueue, InstrumentQueues
from execution_service.trading.pre_trade_checks import LATE_EXIT
from execution_service.trading.report_poller import ReportPoller
from execution_service.trading.risk_gate import RiskGate
from execution_service.trading.stop_news import StopNews
from execution_service.trading.tasks import Tasks

log = structlog.get_logger(__name__)

PLACE_SECONDS = 30.0
REPETITIONS_ALERT = 3
QUESTIONS_BEFORE_DOUBT = 3
"""So often in succession a target is looked for during the whole window, and its stop asked about in vain, before it is in doubt: until then other
orders of its instrument wait for it."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What became of handing an order over: `recording` makes it durable, for the caller to run."""

    recording: Coroutine[Any, Any, None]
    is_clear: bool
    """The broker has taken it: the next order of the instrument may follow before that is recorded."""


class Placement:
    """The one place where an order leaves, for the first time or again."""

    def __init__(
        self,
        *,
        connection: Connection,
        queues: InstrumentQueues,
        report_poller: ReportPoller,
        live_orders: LiveOrders,
        clock: Clock,
        tasks: Tasks,
        ownership: Ownership,
        risk_gate: RiskGate,
        stop_news: StopNews,
    ) -> None:
        """`ownership`: whether this process surely holds the account at this moment. `risk_gate` looks at the kill switches once more as an order
        leaves."""
        self._connection = connection
        self._queues = queues
        self._report_poller = report_poller
        self._live = live_orders
        self._clock = clock
        self._tasks = tasks
        self._ownership = ownership
        self._risk_gate = risk_gate
        self._stop_news = stop_news

    async def place(self, live: LiveOrder, *, again: bool = False) -> Handed:
        """Hands the order over. With `again` it may have left before: then neither that nothing was sent now nor a refusal proves
        anything."""
        return await self._place((live,), again=again)

    async def place_combined(self, legs: Sequence[LiveOrder]) -> Handed:
        """Hands these over as the one order of which their records say that they are the legs, in that order's sequence. What becomes of it becomes
        of each."""
        return await self._place(legs)

    async def _place(self, orders: Sequence[LiveOrder], *, again: bool = False) -> Handed:
        """Of several: as one order, or not at all."""
        sent = {live: live.order for live in orders}
        if not self._ownership.holds(self._connection.account_id):
            # This process was frozen, or the store away, since the intent was written. Whoever took the account over is looking for the
            # order at the broker by now, and must not be contradicted.
            return Handed(_all(map(self._was_overtaken, orders)), is_clear=False)

        def nothing_sent(why: str, *, counts: bool) -> Handed:
            notes = (
                self.nothing_was_sent(live, why, counts=counts, again=again, sent=order) for live, order in sent.items()
            )
            return Handed(_all(notes), is_clear=False)

        unfit = self._stop_news.unfit_to_leave(orders[0].order)
        if unfit is not None:
            return nothing_sent(unfit, counts=False)
        if not self._connection.is_connected or any(map(self._may_not_leave, orders)):
            return nothing_sent("held back before it left", counts=False)
        for order in sent.values():
            try:
                stopped = await self._risk_gate.stops(order, again=again)
            except StoreUnavailable as exc:
                stopped = str(exc)
            if stopped is not None:
                return nothing_sent(stopped, counts=False)
        first = orders[0].order
        try:
            reports = await self._handed_over(orders, again=again)
        except NoLongerWaitedFor:
            return Handed(_all(map(self._was_reported, orders)), is_clear=True)
        except HeldBack as exc:
            self.rest(first, exc)
            for live in orders:
                live.sending = live.sending.unclear(was_repeated=again)
            return nothing_sent(str(exc), counts=False)
        except BrokerUnavailable as exc:
            self._connection.lose(exc)
            self._queues.slow_down(first, str(exc))
            return nothing_sent(str(exc), counts=not exc.known_pause)
        except NotAnswered as exc:
            self._queues.slow_down(first, str(exc))
            for live in orders:
                live.sending = live.sending.unclear(was_repeated=again)
            return nothing_sent(str(exc), counts=True)
        except ReservationLost as exc:
            if again:
                return Handed(_all([self._was_passed_over(live, exc) for live in orders]), is_clear=False)
            return nothing_sent(str(exc), counts=True)
        except OrderRefused as exc:
            if again:
                refusals = [self._was_refused_again(live, order, reason_of(exc)) for live, order in sent.items()]
            else:
                refusals = [self._was_refused(live, order, exc) for live, order in sent.items()]
            return Handed(_all(refusals), is_clear=False)
        except Exception as exc:  # noqa: BLE001  whatever it was, the order may have left
            for live in orders:
                live.sending = live.sending.not_looked_for().unclear(
                    was_repeated=again, is_answered=isinstance(exc, OrderAlreadyExists | UndocumentedAnswer)
                )
                self._queues.was_perhaps_sent(live.order)
            if again and isinstance(exc, UndocumentedAnswer):
                said, words = Reason(ReasonCode.BROKER_REJECTED, exc.words), exc.words
                doubts = (self._was_refused_again(live, order, said, answer=words) for live, order in sent.items())
                return Handed(_all(doubts), is_clear=False)
            return Handed(_all([self._is_unclear(live, exc) for live in orders]), is_clear=False)
        taken = (self._was_taken(live, report) for live, report in zip(orders, reports, strict=True))
        return Handed(_all(taken), is_clear=True)

    def _may_not_leave(self, live: LiveOrder) -> bool:
        """It is to be cancelled, or has become too old: the store may have been away while the intent was being written. What protects a position is
        never too old."""
        order = live.order
        is_late = order.protective is None and is_stale(live.elapsed(self._clock.monotonic()), self._connection.limits)
        is_late = is_late and not any(note.message.startswith(LATE_EXIT) for note in order.notes)
        return is_late or order.cancel_request is not None

    async def _handed_over(self, orders: Sequence[LiveOrder], *, again: bool) -> Sequence[Report]:
        """Raises NoLongerWaitedFor where the call hangs and a report has told of an order meanwhile: neither its exit nor another order of its
        instrument waits for the end of such a call."""
        heard = asyncio.get_running_loop().create_future()
        for live in orders:
            live.handing_over = heard
        try:
            return await self._connection.ask(self._call(orders, again=again), PLACE_SECONDS, until=heard)
        finally:
            heard.cancel()
            for live in orders:
                live.handing_over = None

    async def _call(self, orders: Sequence[LiveOrder], *, again: bool) -> Sequence[Report]:
        broker, whole = self._connection.broker, orders[0].order.combination
        tickets = [replace(live.order.ticket(), is_repetition=again) for live in orders]
        if whole is None:
            (ticket,) = tickets
            return (await broker.place_order(ticket),)
        if not isinstance(broker, CombinesOrders):
            raise OrderRefused(f"{broker.name} takes no legs as one order")
        return await broker.place_combined(whole, tickets)

    async def place_again(self, live: LiveOrder) -> None:
        """Under the same id, where the broker takes it only once."""
        if not self._ownership.holds(self._connection.account_id):
            return
        try:
            stopped = await self._risk_gate.stops(live.order, again=True)
        except StoreUnavailable:
            live.sending = live.sending.not_looked_for()  # looked for once more, until it is known whether it may leave
            return
        if stopped is not None:
            await self._is_stopped_again(live, "a kill switch stops it")
            return
        if linked_stop_id(live.order) is not None:
            is_told = await self._stop_news.ask(live.order)
            if live.order.status is not Status.SUBMITTING:
                return  # that answer has shown it, too
            live.sending = live.sending.told() if is_told else live.sending.untold()
            if live.sending.times_untold >= QUESTIONS_BEFORE_DOUBT:
                await self._is_stopped_again(live, "the broker does not tell what its stop has filled")
                return
            if not is_told:
                return
            unfit = self._stop_news.unfit(live.order)
            if unfit is not None:
                await self._is_stopped_again(live, unfit)
                return
        times = live.sending.repetitions + 1
        live.sending = replace(live.sending, repetitions=times)
        live.tries = replace(
            live.tries, not_before=self._clock.monotonic() + backoff.DEFAULT_BACKOFF.pause_seconds(times)
        )
        words = "not found at the broker; sent again under the same id, which the broker takes only once"
        is_odd = times == REPETITIONS_ALERT

        def note(order: Order) -> Sequence[Event]:
            if order.status is not Status.SUBMITTING or order.cancel_request is not None:
                return ()
            return (Noted(at=self._clock.now(), message=words, alert=is_odd),)

        if await self._live.record(live, note):
            live.sending = live.sending.repeated(self._clock.monotonic())
            await (await self.place(live, again=True)).recording

    def rest(self, order: Order, held: HeldBack) -> None:
        """The queue goes on when its orders may leave again; the connection is as good as before. An alert is raised, once for each queue, but
        of spent calls only where an exit waits for them."""
        reason = WaitingReason.CALLS if isinstance(held, RateLimited) else WaitingReason.HELD_BACK
        self._queues.rest(order, reason, held.wait_seconds, str(held))
        queue = self._queues.of(order)
        if reason is WaitingReason.HELD_BACK and self._queues.must_alert_of_rest(queue):
            self._tasks.begin(self._alert_of_hold(queue, str(held)), "held")

    async def _alert_of_hold(self, queue: InstrumentQueue, reason: str) -> None:
        try:
            await self._connection.alert_of_hold(reason)
        except BaseException:
            self._queues.was_not_alerted(queue)
            raise

    # --- what became of it --------------------------------------------------------------------------------------

    async def nothing_was_sent(
        self, live: LiveOrder, message: str, *, counts: bool, sent: Order, again: bool = False
    ) -> None:
        """`counts`: as one of the attempts after which the order is rejected. `sent`: the order as it was, or was to be, handed over."""
        if again:
            live.sending = live.sending.not_looked_for()
            return
        if counts:
            live.tries = live.tries.failed(message)

        def nothing(order: Order) -> Sequence[Event]:
            if order.status is not Status.SUBMITTING or _is_worked_elsewhere(order, sent):
                return ()
            return (NothingSent(at=self._clock.now(), message=message),)

        await self._live.record(live, nothing)

    async def _was_taken(self, live: LiveOrder, report: Report) -> None:
        self._queues.goes(live.order)
        await self._report_poller.learn(live, report)
        if linked_stop_id(live.order) is not None:
            self._report_poller.want()  # what its stop has filled meanwhile

    async def _was_reported(self, live: LiveOrder) -> None:
        """A report came before the call's own answer, and is recorded already."""
        self._queues.goes(live.order)

    async def _is_stopped_again(self, live: LiveOrder, why: str) -> None:
        """It was looked for during the whole window, and what would bring certainty may not be done: others of its instrument, exits among them,
        do not wait until it may."""
        words = f"sent or perhaps sent, not found at the broker, and not sent again under its id, since {why}"

        def doubt(order: Order) -> Sequence[Event]:
            return (Doubted(at=self._clock.now(), message=words),) if order.status is Status.SUBMITTING else ()

        await self._live.record(live, doubt)

    async def _was_passed_over(self, live: LiveOrder, lost: ReservationLost) -> None:
        """It is not known whether it had arrived before: it is looked for during the whole window, and then in doubt."""
        live.sending = replace(live.sending, is_passed_over=True)
        await self._note(live, f"cannot be sent again under its id, and is only looked for: {lost}")

    async def _was_overtaken(self, live: LiveOrder) -> None:
        log.warning(
            "Held back: the lease of the account has run out; the order is looked for at the broker before anything is sent",
            action="held_back",
            signal_id=live.order.signal_id,
        )

    async def _was_refused(self, live: LiveOrder, sent: Order, refusal: OrderRefused) -> None:
        def refuse(order: Order) -> Sequence[Event]:
            if order.status is not Status.SUBMITTING or _is_worked_elsewhere(order, sent):
                return ()
            return (Rejected(at=self._clock.now(), reason=reason_of(refusal)),)

        await self._live.record(live, refuse)

    async def _was_refused_again(
        self, live: LiveOrder, sent: Order, refusal: Reason, *, answer: str | None = None
    ) -> None:
        """The broker may refuse the repetition because the first sending arrived: the order is looked for before this is its end."""
        live.sending = live.sending.not_looked_for()
        words = f"refused when it was sent again, and looked for once more, since it may have arrived before: {refusal.message}"

        def note(order: Order) -> Sequence[Event]:
            if order.status is not Status.SUBMITTING or _is_worked_elsewhere(order, sent):
                return ()
            live.sending = replace(live.sending, refusal=refusal)
            noted = Noted(at=self._clock.now(), message=words, answer=answer)
            return () if was_noted(order, words) else (noted,)

        await self._live.record(live, note)

    async def _is_unclear(self, live: LiveOrder, exc: Exception) -> None:
        if not isinstance(exc, OrderAlreadyExists | OutcomeUnknown | TimeoutError):
            log.error(
                f"Unexpected error of the broker: {exc}",
                action="broker_error",
                signal_id=live.order.signal_id,
                exc_info=exc,
            )
        words = f"no clear answer, looking for the order at the broker: {str(exc) or type(exc).__name__}"
        await self._note(live, words, answer=exc.words if isinstance(exc, UndocumentedAnswer) else None)

    async def _note(self, live: LiveOrder, words: str, *, answer: str | None = None) -> None:
        def note(order: Order) -> Sequence[Event]:
            noted = Noted(at=self._clock.now(), message=words, answer=answer)
            return (noted,) if order.status is Status.SUBMITTING else ()

        await self._live.record(live, note)


def _all(recordings: Iterable[Coroutine[Any, Any, None]]) -> Coroutine[Any, Any, None]:
    """Each is tried, whatever becomes of the others. Raises what the first of them raised that failed."""
    each = tuple(recordings)
    return each[0] if len(each) == 1 else _gathered(each)


async def _gathered(recordings: Sequence[Coroutine[Any, Any, None]]) -> None:
    for outcome in await asyncio.gather(*recordings, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _is_worked_elsewhere(order: Order, sent: Order) -> bool:
    """Whether something but a wish to cancel was recorded since it was handed over: another process may have sent it again, so that what
    came of our own sending does not tell what became of the order."""
    return not all(isinstance(event, CancelRequested) for event in order.events[sent.version :])
