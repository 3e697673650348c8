"""What the broker tells of a stop right before the target leaves that is linked to it: asked beside the queues, since no other order needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from brokers.base import Report
from brokers.errors import HeldBack
from execution_service.core import backoff
from execution_service.core.orders.exits import linked_stop_id, may_stand_beside
from execution_service.core.orders.order import Order
from execution_service.recording.live_orders import LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.trading.report_poller import ReportPoller

log = structlog.get_logger(__name__)

FRESH_SECONDS = 2.0
"""So long after the question its answer is good enough for a target to leave by: the answer does not have what filled while it was on its way,
and the target's turn has to come, and its intent to be written, meanwhile."""


class StopNews:
    """Of one account: when the broker last told of all orders for a target's sake, and which stops it showed to have begun to fill."""

    def __init__(self, *, report_poller: ReportPoller, live_orders: LiveOrders, clock: Clock) -> None:
        self._report_poller = report_poller
        self._live = live_orders
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._asked_at: float | None = None
        """When the last question was asked that was answered, by the monotonic clock."""
        self._begun: frozenset[str] = frozenset()
        """The tags of orders that its answer shows to have filled or been triggered, whether that could be recorded or not."""
        self._failures = 0
        """How often in succession no target could leave by a question: it was not answered, or too late for that."""
        self._not_before = 0.0

    @property
    def seconds_left(self) -> float:
        """Until it may be asked again, after a question by which no target could leave."""
        return max(0.0, self._not_before - self._clock.monotonic())

    def is_told(self, target: Order) -> bool:
        """Whether the broker has told so lately that this target may leave by it; what an answer shows has to be recorded."""
        is_fresh = self._asked_at is not None and self._clock.monotonic() - self._asked_at <= FRESH_SECONDS
        stop = self._live.by_id.get(linked_stop_id(target) or "")
        return is_fresh and (
            stop is None or not may_stand_beside(stop.order) or stop.order.client_order_id not in self._begun
        )

    def unfit(self, order: Order) -> str | None:
        """Why this order may not leave by what is known now; None: it may, or it is no target that the broker links to a stop."""
        stop_id = linked_stop_id(order)
        if stop_id is None:
            return None
        stop = self._live.by_id.get(stop_id)
        if stop is None or not may_stand_beside(stop.order):
            return "its stop has begun to fill, or has ended"
        return None if self.is_told(order) else "the broker has not told right before what its stop has filled"

    def unfit_to_leave(self, order: Order) -> str | None:
        """As `unfit`, right before the order is handed over. Where the answer has become too old for that since it was given, the next question
        waits, longer each time until a target leaves: each such try has been written into the target's record."""
        why = self.unfit(order)
        if linked_stop_id(order) is not None:
            if why is None:
                self._failures = 0
            elif not self.is_told(order):
                self._pause()
        return why

    async def ask(self, target: Order) -> bool:
        """One question about all orders, unless one that was asked since has been answered; whether that tells of this target's stop. If not, it is
        not to be asked again at once (`seconds_left`). Raises nothing but a cancellation."""
        wanted_at = self._clock.monotonic()
        async with self._one_at_a_time:
            is_answered = self._asked_at is not None and self._asked_at >= wanted_at
            if not is_answered and not self.seconds_left:  # else somebody else's question has just failed
                is_answered = await self._is_answered()
            if not is_answered:
                return False
            is_told = self.is_told(target)
            if not is_told:
                self._pause()
            return is_told

    def _pause(self, *, least_seconds: float = 0.0) -> None:
        """Longer each time, once for all targets that one answer came too late for."""
        if self.seconds_left:
            return
        self._failures += 1
        pause_seconds = max(backoff.DEFAULT_BACKOFF.pause_seconds(self._failures), least_seconds)
        self._not_before = self._clock.monotonic() + pause_seconds

    async def _is_answered(self) -> bool:
        begun: set[str] = set()

        async def note(reports: Sequence[Report]) -> None:
            begun.update(each.client_order_id for each in reports if each.filled_quantity or each.is_triggered)

        asked_at = self._clock.monotonic()
        try:
            await self._report_poller.ask_all(on_part=note)
        except Exception as exc:  # noqa: BLE001  whatever it was, it is not known what the stop has filled
            self._pause(least_seconds=exc.wait_seconds if isinstance(exc, HeldBack) else 0.0)
            self._report_poller.want()  # which finds out what that says of the connection
            words = str(exc) or type(exc).__name__
            log.info(
                f"A target waits; the broker does not tell what its stop has filled: {words}", action="target_waits"
            )
            return False
        self._asked_at, self._begun = asked_at, frozenset(begun)
        return True
