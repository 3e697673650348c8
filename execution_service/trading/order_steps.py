"""The one runner: asks for the next step of an order when its time has come, begins it, and asks again when it has ended; the submissions of one
instrument together. Which step is decided in core/orders/next_step.py."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import Any

import structlog

from brokers.base import OrderRef
from brokers.errors import BrokerError, BrokerUnavailable, HeldBack, NotAnswered, OrderRefused
from execution_service.core.orders.events import CancelRefused, Doubted, Event, Noted, SubmitStarted
from execution_service.core.orders.next_step import Elapsed, StepKind, next_step
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Status
from execution_service.core.orders.waiting import Waiting, WaitingReason
from execution_service.core.texts.messages import MentionedOrder
from execution_service.core.texts.orders import cancels_unconfirmed
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.trading.blocked_exits import BlockedExits
from execution_service.trading.combined_submission import CombinedSubmission
from execution_service.trading.connection import AFTER_FAILURE_SECONDS, Connection
from execution_service.trading.grouped_alerts import GroupedAlerts
from execution_service.trading.instrument_queues import (
    LEAST_WAIT_SECONDS,
    WAITING_SECONDS,
    InstrumentQueue,
    InstrumentQueues,
)
from execution_service.trading.isolation import Isolation
from execution_service.trading.placement import Placement
from execution_service.trading.pre_trade_checks import PreTradeChecks
from execution_service.trading.report_poller import ReportPoller
from execution_service.trading.stop_news import StopNews
from execution_service.trading.submission import Answers, Submission
from execution_service.trading.tasks import Tasks
from execution_service.trading.timers import Timers

log = structlog.get_logger(__name__)

QUEUE = "queue"
SILENCE_ALERT_SECONDS = 60.0
CANCEL_ALERT_AFTER = 3
LONGEST_CANCEL_REST_SECONDS = 60.0
"""Calls come back when the adapter says, and not before."""
LATE_EXIT_SECONDS = 5.0
PERHAPS_SENT = "perhaps sent "
"""How the remark begins that an order may be alive and the broker cannot be asked."""


class OrderSteps:
    """Carries out one order's next step; an order whose step is under way is not stepped again."""

    def __init__(
        self,
        *,
        connection: Connection,
        timers: Timers[LiveOrder],
        queues: InstrumentQueues,
        submission: Submission,
        combined_submission: CombinedSubmission,
        pre_trade_checks: PreTradeChecks,
        report_poller: ReportPoller,
        placement: Placement,
        stop_news: StopNews,
        blocked_exits: BlockedExits,
        grouped_alerts: GroupedAlerts,
        isolation: Isolation,
        live_orders: LiveOrders,
        clock: Clock,
        tasks: Tasks,
        ownership: Ownership,
    ) -> None:
        """`ownership`: whether this process surely holds the account at this moment."""
        self._connection = connection
        self._timers = timers
        self._queues = queues
        self._submission = submission
        self._combined_submission = combined_submission
        self._pre_trade_checks = pre_trade_checks
        self._report_poller = report_poller
        self._placement = placement
        self._stop_news = stop_news
        self._blocked_exits = blocked_exits
        self._grouped_alerts = grouped_alerts
        self._isolation = isolation
        self._live = live_orders
        self._clock = clock
        self._tasks = tasks
        self._ownership = ownership

    def step(self, live: LiveOrder, now: float) -> None:
        """Begins it, unless somebody is at work for the order, who asks again at the end; or says when to ask again. `now` by the monotonic
        clock. Waits for nothing, and raises nothing: an order whose step fails is isolated."""
        if self._queues.is_under_way(live):
            return
        if self._isolation.holds(live):
            self._timers.make(live, max(self._isolation.seconds_left(live), LEAST_WAIT_SECONDS))
            return
        try:
            self._step(live, now)
        except Exception as exc:  # noqa: BLE001  one order must not hold up the others
            self._isolation.failed(live, exc, doing="deciding its next step")

    def _step(self, live: LiveOrder, now: float) -> None:
        order = live.order
        if order.status.is_final:
            self._queues.settle(live)  # it ended by somebody else's word, and others may wait for that
            return
        if live.tries.not_before > now:
            self._timers.make(live, live.tries.not_before - now)
            return
        if self._is_unanswered(live, now):
            ago = f"{now - (live.sent_at or now):.0f} s ago"
            words = f"{PERHAPS_SENT}{ago}, and the broker cannot be asked; it may be alive"
            note = Noted(at=self._clock.now(), message=words, alert=True)
            self._begin(live, lambda: self._live.record_unless_changed(live, (note,), since=order))
            return
        waiting = self._waiting_of(order, now) if order.status is Status.PENDING else None
        remark = None if waiting is None else self._blocked_exits.remark(live, waiting, now)
        if remark is not None:
            self._begin(live, lambda: self._live.record_unless_changed(live, (remark,), since=order))
            return
        limits, sending = self._connection.limits, live.sending
        if not sending.may_be_repeated or order.combination is not None:
            limits = replace(limits, refuses_repeated_client_id=False)
        # What may be shown in a way that cannot be read is not refused.
        refusal = None if sending.is_answer_unclear else sending.refusal
        step = next_step(order, self._clock.now(), self._elapsed(live, now), limits, refusal=refusal, waiting=waiting)
        if sending.is_answer_unclear:
            step = replace(step, events=tuple(map(_as_unclear, step.events)))
        match step.kind:
            case StepKind.WAIT if step.waiting is not None and step.waiting.reason is WaitingReason.STOP:
                self._ask_about_stop(live)
            case StepKind.WAIT if step.waiting is not None and step.waiting.reason.lets_others_pass:
                # What it waits for may have happened where nobody here sees it: refused at the door, or worked by another process.
                self._queues.bring_back(live)
                self._timers.make(live, WAITING_SECONDS)
            case StepKind.WAIT | StepKind.SUBMIT:
                self._queues.place(live)  # it leaves from there when its turn comes
                if step.wait_seconds is not None:
                    self._timers.make(live, max(0.1, step.wait_seconds + 0.001))
            case StepKind.RECORD if live.order.status is Status.PENDING:
                self._begin(live, lambda: self._end_unsent(live))
            case StepKind.RECORD:
                self._begin(live, lambda: self._live.record_unless_changed(live, step.events, since=order))
            case StepKind.NONE:
                if step.wait_seconds is not None:
                    # What is left of a pause may be too little for a float to add to the time.
                    self._timers.make(live, max(step.wait_seconds, LEAST_WAIT_SECONDS))
            case _ if not self._connection.is_connected:
                self._timers.make(live, 1.0)
            case StepKind.CHECK:
                self._report_poller.want()
                self._timers.make(live, 1.0 if self._report_poller.is_asking else 0.1)
            case StepKind.FIND if live.order.status is Status.IN_DOUBT:
                self._begin(live, lambda: self._report_poller.find_doubtful(live))
            case StepKind.FIND if live.order.combination is not None:
                self._begin(live, lambda: self._combined_submission.find(live))
            case StepKind.FIND:
                self._begin(live, lambda: self._report_poller.find(live))
            case StepKind.CANCEL:
                self._begin(live, lambda: self._cancel(live))
            case StepKind.SUBMIT_AGAIN:
                self._begin(live, lambda: self._placement.place_again(live))

    def _ask_about_stop(self, live: LiveOrder) -> None:
        """For a target, which is in its queue again when there is an answer; nobody else waits for that."""
        seconds = self._stop_news.seconds_left
        if seconds or not self._connection.is_connected:
            self._timers.make(live, max(seconds, LEAST_WAIT_SECONDS) if seconds else 1.0)
            return

        async def ask() -> None:
            if await self._stop_news.ask(live.order):
                self._queues.bring_back(live)

        self._begin(live, ask)

    def _begin(self, live: LiveOrder, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._queues.begin(live)

        async def step() -> None:
            try:
                await work()
            except Exception as exc:  # noqa: BLE001  one order must not hold up the others
                self._isolation.failed(live, exc, doing="its next step")
            finally:
                self._queues.end(live)

        self._tasks.begin(step(), live.order.order_id)

    def _waiting_of(self, order: Order, now: float) -> Waiting:
        """What keeps an order that is still to be sent from leaving: the first that counts; of a pause that is over, what it was for."""
        others = self._queues.waits_for(order)
        if others is not None:
            return Waiting(others)
        if not self._connection.is_connected:
            return Waiting(WaitingReason.CONNECTION, self._connection.trouble or "no connection yet")
        waiting = self._queues.of(order).waiting(now)
        if waiting is not None and waiting.reason is not WaitingReason.TURN:
            return waiting
        if self._connection.capabilities.needs_reservation and any(self._queues.perhaps_sent()):
            return Waiting(WaitingReason.EARLIER_ID)
        return Waiting(WaitingReason.TURN)

    def _is_unanswered(self, live: LiveOrder, now: float) -> bool:
        """An order that was perhaps sent and could not be looked for since, long enough that people must know."""
        sent_at, finding_from = live.sent_at, live.sending.finding_from
        if live.order.status is not Status.SUBMITTING or finding_from is not None or sent_at is None:
            return False
        limit = max(SILENCE_ALERT_SECONDS, self._connection.limits.find_window_seconds)
        return now - sent_at > limit and not _was_said_unanswered(live.order)

    def _elapsed(self, live: LiveOrder, now: float) -> Elapsed:
        """With the last answer about all orders counted as an answer about this one, if it was sent before that was asked."""
        elapsed, answered_at = live.elapsed(now), self._report_poller.answered_at
        is_working = live.order.status in (Status.SUBMITTED, Status.PARTIALLY_FILLED)
        if is_working and answered_at is not None and live.sent_at is not None and live.sent_at < answered_at:
            since = now - answered_at
            return replace(elapsed, asked=since if elapsed.asked is None else min(since, elapsed.asked))
        return elapsed

    # --- submissions --------------------------------------------------------------------------------------------

    def start_queues(self) -> None:
        """As many batches as may be under way at once leave the queues whose turn it is. Waits for nothing."""
        queues, submission = self._queues, self._submission
        if queues.has_ready and submission.is_earlier_id_awaited():
            return
        while queues.batches < self._connection.capabilities.concurrent_calls and queues.has_ready:
            queue = queues.next_ready()
            batch = queues.begin_batch(queue, submission.batch_size)
            if batch:
                self._tasks.begin(self._submit(queue, batch), QUEUE)

    async def drain(self) -> None:
        """Until no order is on its way to the broker any more."""
        await self._tasks.wait_for(QUEUE)

    async def _submit(self, queue: InstrumentQueue, batch: Sequence[LiveOrder]) -> None:
        answers: Answers = ()
        try:
            if self._combined_submission.takes(batch):
                await self._combined_submission.submit(batch[0])
            else:
                answers = await self._submission.submit(queue, batch)
        except Exception as exc:
            # Of no order by itself: the queue makes a pause, and others go on.
            log.exception(
                f"Orders of an instrument not sent: {exc}",
                action="queue_failed",
                account_id=self._connection.account_id,
            )
            self._queues.slow_down(batch[0].order, str(exc) or type(exc).__name__)
        finally:
            if answers:
                self._queues.end_batch(queue)
                self._tasks.begin(self._record_answers(queue, batch, answers), f"answers-{QUEUE}")
            else:
                self._queues.end_batch(queue, is_over=True)

    async def _record_answers(self, queue: InstrumentQueue, batch: Sequence[LiveOrder], answers: Answers) -> None:
        try:
            await self._submission.recorded(answers)
        finally:
            self._queues.end_all(queue, batch)

    # --- steps --------------------------------------------------------------------------------------------------

    async def _end_unsent(self, live: LiveOrder) -> None:
        """A pending order that has become too old, or whose cancellation was asked while it was being sent."""
        order = live.order
        if order.cancel_request is None and await self._pre_trade_checks.may_be_late(order):
            self._queues.bring_back(
                live
            )  # what it waits for may have happened where nobody here sees it, or never will
            live.tries = replace(live.tries, not_before=self._clock.monotonic() + LATE_EXIT_SECONDS)
            return
        self._queues.cease_waiting(order)
        elapsed = live.elapsed(self._clock.monotonic())
        step = next_step(order, self._clock.now(), elapsed, self._connection.limits)
        await self._live.record_unless_changed(live, step.events, since=order)

    async def _cancel(self, live: LiveOrder) -> None:
        broker = self._connection.broker
        if not self._ownership.holds(self._connection.account_id):
            return
        # A command is no repetition of ours, however often it was asked before.
        tries = live.tries
        is_again = tries.cancels.latest is not None and not tries.is_cancel_commanded
        live.tries = replace(tries, cancels=tries.cancels.with_request(self._clock.monotonic()))
        ref = OrderRef(client_order_id=live.order.client_order_id, broker_order_id=live.order.broker_order_id)
        said: tuple[Event, ...] = ()
        try:
            await self._connection.ask(broker.cancel_order(ref, again=is_again))
        except OrderRefused as exc:
            if live.tries.cancels.count <= CANCEL_ALERT_AFTER:
                said = (CancelRefused(at=self._clock.now(), message=exc.reason),)
        except (BrokerUnavailable, NotAnswered) as exc:
            self._was_not_sent(live, exc)
            return
        except (BrokerError, TimeoutError) as exc:
            self._connection.query_failed(exc)
        live.tries = replace(live.tries, is_cancel_commanded=False)
        if live.tries.cancels.count == CANCEL_ALERT_AFTER:
            said = (*said, self._cancels_unconfirmed(live))

        def note(order: Order) -> Sequence[Event]:
            return said if order.status in (Status.SUBMITTED, Status.PARTIALLY_FILLED) else ()

        await self._live.record(live, note)
        self._report_poller.want()

    def _was_not_sent(self, live: LiveOrder, exc: BrokerUnavailable | NotAnswered) -> None:
        """The request to cancel does not count: it leaves as soon as it may."""
        wait_seconds = exc.wait_seconds if isinstance(exc, HeldBack) else AFTER_FAILURE_SECONDS
        pause = min(max(wait_seconds, LEAST_WAIT_SECONDS), LONGEST_CANCEL_REST_SECONDS)
        cancels, not_before = live.tries.cancels.without_latest(), self._clock.monotonic() + pause
        live.tries = replace(live.tries, cancels=cancels, cancel_not_before=not_before)
        if not isinstance(exc, HeldBack):
            self._connection.query_failed(exc)

    def _cancels_unconfirmed(self, live: LiveOrder) -> Noted:
        words = partial(
            cancels_unconfirmed,
            account_name=self._connection.account_name,
            broker=self._connection.broker_name,
            times=CANCEL_ALERT_AFTER,
        )
        self._grouped_alerts.mention("cancels_unconfirmed", MentionedOrder(live.order, None), words)
        remark = (
            f"cancellation asked {CANCEL_ALERT_AFTER} times and not confirmed by the broker; the order may be alive"
        )
        return Noted(at=self._clock.now(), message=remark)


def _was_said_unanswered(order: Order) -> bool:
    """Of the present sending: another one may be alive as well."""
    since = takewhile(lambda event: not isinstance(event, SubmitStarted), reversed(order.events))
    return any(isinstance(event, Noted) and event.message.startswith(PERHAPS_SENT) for event in since)


def _as_unclear(event: Event) -> Event:
    """People look for the order among what the broker shows."""
    if not isinstance(event, Doubted):
        return event
    return replace(event, message=f"{event.message}, where something that cannot be read may be this order")
