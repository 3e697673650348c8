"""The next step of one order that is in hand, begun when its appointment has come: look, find, cancel, doubt; which one is decided in core."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from brokers.base import OrderRef
from brokers.errors import BrokerError, BrokerUnavailable, HeldBack, NotAnswered, OrderRefused
from execution_service.core.orders.events import CancelRefused, Doubted, Event, Noted
from execution_service.core.orders.next_step import Elapsed, StepKind, next_step
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Status
from execution_service.core.texts.messages import MentionedOrder
from execution_service.core.texts.orders import cancels_unconfirmed
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import PERHAPS_SENT, LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.trading.blocked_exits import BlockedExits
from execution_service.trading.connection import AFTER_FAILURE_SECONDS, Connection
from execution_service.trading.grouped_alerts import GroupedAlerts
from execution_service.trading.instrument_queues import LEAST_WAIT_SECONDS, WAITING_SECONDS, Lanes
from execution_service.trading.isolation import Isolation
from execution_service.trading.placement import Placement
from execution_service.trading.pre_trade_checks import PreTradeChecks
from execution_service.trading.report_poller import ReportPoller
from execution_service.trading.tasks import Tasks
from execution_service.trading.timers import Timers

SILENCE_ALERT_SECONDS = 60.0
CANCEL_ALERT_AFTER = 3
LONGEST_CANCEL_REST_SECONDS = 60.0
"""Calls come back when the adapter says, and not before."""
LATE_EXIT_SECONDS = 5.0


class OrderSteps:
    """Carries out one order's next step; an order whose step is under way is not stepped again."""

    def __init__(
        self,
        *,
        connection: Connection,
        timers: Timers,
        lanes: Lanes,
        pre_trade_checks: PreTradeChecks,
        report_poller: ReportPoller,
        placement: Placement,
        waiting: BlockedExits,
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
        self._lanes = lanes
        self._pre_trade_checks = pre_trade_checks
        self._report_poller = report_poller
        self._placement = placement
        self._waiting = waiting
        self._grouped_alerts = grouped_alerts
        self._isolation = isolation
        self._live = live_orders
        self._clock = clock
        self._tasks = tasks
        self._ownership = ownership

    def step(self, live: LiveOrder, now: float) -> None:
        """Begins it, or makes the next appointment. `now` by the monotonic clock. Waits for nothing, and raises nothing: an order whose step
        fails is isolated."""
        if live.isolated_until > now:
            self._timers.make(live, max(live.isolated_until - now, LEAST_WAIT_SECONDS))
            return
        try:
            self._step(live, now)
        except Exception as exc:  # noqa: BLE001  one order must not hold up the others
            self._isolation.failed(live, exc, doing="deciding its next step")

    def _step(self, live: LiveOrder, now: float) -> None:
        order = live.order
        if order.status.is_final:
            self._lanes.settle(live)  # it ended by somebody else's word, and others may wait for that
            return
        if live.not_before > now:
            self._timers.make(live, live.not_before - now)
            return
        if self._is_unanswered(live, now):
            live.is_silence_told = True
            ago = f"{now - (live.sent_at or now):.0f} s ago"
            words = f"{PERHAPS_SENT}{ago}, and the broker cannot be asked; it may be alive"
            note = Noted(at=self._clock.now(), message=words, alert=True)
            self._begin(live, lambda: self._live.record_unless_changed(live, (note,), since=order))
            return
        remark = self._waiting.heed(live, now)
        if remark is not None:
            self._begin(live, lambda: self._live.record_unless_changed(live, (remark,), since=order))
            return
        limits = self._connection.limits
        # What may be shown in a way that cannot be read is neither sent again nor refused.
        is_useless = live.is_passed_over or live.is_answered or live.is_answer_unclear  # to send it again
        for_it = replace(limits, refuses_repeated_client_id=False) if is_useless else limits
        refusal = None if live.is_answer_unclear else live.refusal
        step = next_step(live.order, self._clock.now(), self._elapsed(live, now), for_it, refusal=refusal)
        if live.is_answer_unclear:
            step = replace(step, events=tuple(map(_as_unclear, step.events)))
        match step.kind:
            case StepKind.SUBMIT:
                self._lanes.bring_in(live)
                limit = limits.max_order_age_seconds
                if self._lanes.is_waiting(live.order):
                    # What it waits for may have happened where nobody here hears of it: refused at the door, or worked by another process.
                    self._lanes.bring_back(live)
                    self._timers.make(live, WAITING_SECONDS)
                elif limit:
                    self._timers.make(live, max(0.1, limit - (now - live.age_from) + 0.001))
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
            case StepKind.FIND:
                self._begin(live, lambda: self._report_poller.find(live))
            case StepKind.CANCEL:
                self._begin(live, lambda: self._cancel(live))
            case StepKind.SUBMIT_AGAIN:
                self._begin(live, lambda: self._placement.place_again(live))

    def _begin(self, live: LiveOrder, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        live.is_busy = True

        async def step() -> None:
            try:
                await work()
            except Exception as exc:  # noqa: BLE001  one order must not hold up the others
                self._isolation.failed(live, exc, doing="its next step")
            finally:
                live.is_busy = False
                self._lanes.settle(live)

        self._tasks.begin(step(), live.order.order_id)

    def _is_unanswered(self, live: LiveOrder, now: float) -> bool:
        """An order that was perhaps sent and could not be looked for since, long enough that people must know."""
        is_open = live.order.status is Status.SUBMITTING and live.finding_from is None and live.sent_at is not None
        limit = max(SILENCE_ALERT_SECONDS, self._connection.limits.find_window_seconds)
        return is_open and not live.is_silence_told and now - (live.sent_at or now) > limit

    def _elapsed(self, live: LiveOrder, now: float) -> Elapsed:
        """With the last answer about all orders counted as an answer about this one, if it was sent before that was asked."""
        elapsed, answered_at = live.elapsed(now), self._report_poller.answered_at
        is_working = live.order.status in (Status.SUBMITTED, Status.PARTIALLY_FILLED)
        if is_working and answered_at is not None and live.sent_at is not None and live.sent_at < answered_at:
            since = now - answered_at
            return replace(elapsed, asked=since if elapsed.asked is None else min(since, elapsed.asked))
        return elapsed

    async def _end_unsent(self, live: LiveOrder) -> None:
        """A pending order that has become too old, or whose cancellation was asked while it was being sent."""
        order = live.order
        if order.cancel_request is None and await self._pre_trade_checks.may_be_late(order):
            live.not_before = self._clock.monotonic() + LATE_EXIT_SECONDS
            return
        self._lanes.cease_waiting(order)
        elapsed = live.elapsed(self._clock.monotonic())
        step = next_step(order, self._clock.now(), elapsed, self._connection.limits)
        await self._live.record_unless_changed(live, step.events, since=order)

    async def _cancel(self, live: LiveOrder) -> None:
        broker = self._connection.broker
        if not self._ownership.holds(self._connection.account_id):
            return
        # A command is no repetition of ours, however often it was asked before.
        is_again = live.cancels.latest is not None and not live.is_cancel_commanded
        live.cancels = live.cancels.with_request(self._clock.monotonic())
        ref = OrderRef(client_order_id=live.order.client_order_id, broker_order_id=live.order.broker_order_id)
        said: tuple[Event, ...] = ()
        try:
            await self._connection.ask(broker.cancel_order(ref, again=is_again))
        except OrderRefused as exc:
            if live.cancels.count <= CANCEL_ALERT_AFTER:
                said = (CancelRefused(at=self._clock.now(), message=exc.reason),)
        except (BrokerUnavailable, NotAnswered) as exc:
            self._was_not_sent(live, exc)
            return
        except (BrokerError, TimeoutError) as exc:
            self._connection.query_failed(exc)
        live.is_cancel_commanded = False
        if live.cancels.count == CANCEL_ALERT_AFTER:
            said = (*said, self._told_of_cancels(live))

        def note(order: Order) -> Sequence[Event]:
            return said if order.status in (Status.SUBMITTED, Status.PARTIALLY_FILLED) else ()

        await self._live.record(live, note)
        self._report_poller.want()

    def _was_not_sent(self, live: LiveOrder, exc: BrokerUnavailable | NotAnswered) -> None:
        """The request to cancel does not count: it leaves as soon as it may."""
        live.cancels = live.cancels.without_latest()
        wait_seconds = exc.wait_seconds if isinstance(exc, HeldBack) else AFTER_FAILURE_SECONDS
        pause = min(max(wait_seconds, LEAST_WAIT_SECONDS), LONGEST_CANCEL_REST_SECONDS)
        live.cancel_not_before = self._clock.monotonic() + pause
        if not isinstance(exc, HeldBack):
            self._connection.query_failed(exc)

    def _told_of_cancels(self, live: LiveOrder) -> Noted:
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


def _as_unclear(event: Event) -> Event:
    """People look for the order among what the broker shows."""
    if not isinstance(event, Doubted):
        return event
    return replace(event, message=f"{event.message}, where something that cannot be read may be this order")
