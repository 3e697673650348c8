"""Decides the next action for one order from its record and the time that has passed. The action itself is carried
out elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from brokers.base import (
    OrderType,
    Tif,
)
from execution_service.core.orders.events import (
    Cancelled,
    CancelRequested,
    Doubted,
    Event,
    Rejected,
)
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.orders.waiting import Waiting


class StepKind(StrEnum):
    """What to do next with an order."""

    SUBMIT = "SUBMIT"
    """It may leave, as soon as those before it in the queue of its instrument have."""
    WAIT = "WAIT"
    """It is to be sent, and may not leave yet: `waiting` says why."""
    SUBMIT_AGAIN = "SUBMIT_AGAIN"
    """Send the same ticket under the same client order id, to a broker that refuses a repeated id."""
    FIND = "FIND"
    CHECK = "CHECK"
    CANCEL = "CANCEL"
    RECORD = "RECORD"
    """Record the events; no call to the broker."""
    NONE = "NONE"


@dataclass(frozen=True, slots=True)
class Step:
    """One decision; `events` come with RECORD."""

    kind: StepKind
    events: tuple[Event, ...] = ()
    wait_seconds: float | None = None
    """With NONE, WAIT and SUBMIT: look again after so long; None: only when there is news."""
    waiting: Waiting | None = None
    """With WAIT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The configured limits and the broker's properties that decide. Times are in seconds."""

    order_timeout_seconds: float = 60.0
    max_order_age_seconds: float = 300.0
    find_window_seconds: float = 30.0
    send_again_seconds: float | None = None
    """How long a possibly sent order is searched for before it is sent again, where that is safe. None: the find
    window."""
    refuses_repeated_client_id: bool = False
    poll_seconds: float = 0.0
    """How long one answer of the broker about all orders is good enough."""
    counts_while_held: bool = False
    """Whether the time-out also runs while the broker holds the order for the opening."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elapsed:
    """Seconds since each moment, by a monotonic clock. None: it has not happened in this process."""

    age: float
    """Since the order was first published."""
    sent: float | None = None
    """Since it was sent, or released at the opening after the broker had held it."""
    opened: float | None = None
    """Since the opening that the broker named for a held order; negative: still to come; None: it named none."""
    finding: float | None = None
    """Since the order was first searched for (FIND)."""
    asked: float | None = None
    """Since the broker was last asked about this order."""
    cancel_sent: float | None = None
    """Since the last cancel was sent."""
    cancel_wait: float = 0.0
    """Until the next cancel may be sent; 0: now."""
    find_wait: float = 0.0
    """Until an order in doubt may be searched for again; 0: now."""


NEVER = Step(StepKind.NONE)
SLOWEST_CHECK_SECONDS = 60.0
"""How often, at the least, an order makes us query the broker when no change is expected for long."""


def next_step(
    order: Order,
    now: datetime,
    elapsed: Elapsed,
    limits: Limits,
    *,
    refusal: Reason | None = None,
    waiting: Waiting | None = None,
) -> Step:
    """The one thing to do for the order. `waiting` is what keeps it from leaving, if it is still to be sent. `refusal` is what the broker said
    when it was sent again, and it has been looked for (`elapsed.finding`) since then."""
    match order.status:
        case Status.PENDING:
            return _step_of_pending(order, now, elapsed, limits, waiting)
        case Status.SUBMITTING:
            return _step_of_submitting(order, now, elapsed, limits, refusal)
        case Status.IN_DOUBT:
            if elapsed.find_wait > 0:
                return Step(StepKind.NONE, wait_seconds=elapsed.find_wait)
            return Step(StepKind.FIND)
        case Status.SUBMITTED | Status.PARTIALLY_FILLED:
            return _step_of_working(order, now, elapsed, limits)
    return NEVER


def is_stale(elapsed: Elapsed, limits: Limits) -> bool:
    """Whether the order is older than the age limit (0: no limit)."""
    return 0 < limits.max_order_age_seconds < elapsed.age


def _step_of_pending(order: Order, now: datetime, elapsed: Elapsed, limits: Limits, waiting: Waiting | None) -> Step:
    if order.cancel_request is not None:
        return Step(
            StepKind.RECORD, (Cancelled(at=now, reason=order.cancel_request, filled_quantity=order.filled_quantity),)
        )
    if is_stale(elapsed, limits):
        return Step(StepKind.RECORD, (stale(elapsed, limits, now),))
    left = limits.max_order_age_seconds - elapsed.age if limits.max_order_age_seconds > 0 else None
    if waiting is None or waiting.is_over:
        return Step(StepKind.SUBMIT, wait_seconds=left)
    return Step(StepKind.WAIT, wait_seconds=left, waiting=waiting)


def stale(elapsed: Elapsed, limits: Limits, now: datetime) -> Rejected:
    """The rejection of an order that is too old to be sent."""
    words = (
        f"first published {elapsed.age:.0f} s ago, the limit is {limits.max_order_age_seconds:.0f} s; it was not sent"
    )
    return Rejected(at=now, reason=Reason(ReasonCode.STALE_ORDER, words))


def _step_of_submitting(order: Order, now: datetime, elapsed: Elapsed, limits: Limits, refusal: Reason | None) -> Step:
    finding, window = elapsed.finding, limits.find_window_seconds
    is_fresh = order.cancel_request is None and not is_stale(elapsed, limits)
    may_leave_again = refusal is None and is_fresh and limits.refuses_repeated_client_id
    if may_leave_again and limits.send_again_seconds is not None:
        window = limits.send_again_seconds
    if finding is None or elapsed.asked is None or finding < window:
        return _ask(StepKind.FIND, elapsed, _slower(finding, (0.1, 0.5, 2.0)))
    if refusal is not None:
        return Step(StepKind.RECORD, (Rejected(at=now, reason=refusal),))
    if may_leave_again:
        if elapsed.sent is not None and elapsed.sent < window:
            return _ask(StepKind.FIND, elapsed, _slower(elapsed.sent, (0.1, 0.5, 2.0)))
        return Step(StepKind.SUBMIT_AGAIN)
    words = f"sent or perhaps sent, and not found at the broker for {finding:.0f} s"
    return Step(StepKind.RECORD, (Doubted(at=now, message=words),))


def _step_of_working(order: Order, now: datetime, elapsed: Elapsed, limits: Limits) -> Step:
    timeout, worked = timeout_seconds(order, limits), _worked_seconds(order, elapsed, limits)
    left = None if timeout is None or worked is None else timeout - worked
    if order.cancel_request is None and left is not None and left <= 0:
        reason = Reason(ReasonCode.TIMEOUT, f"not filled within {timeout:g} s")
        return Step(StepKind.RECORD, (CancelRequested(at=now, reason=reason, requested_by="execution-service"),))
    if order.cancel_request is not None:
        if elapsed.cancel_wait <= 0:
            return Step(StepKind.CANCEL)
        left, pause = elapsed.cancel_wait, _slower(elapsed.cancel_sent, (0.1, 0.5, SLOWEST_CHECK_SECONDS))
    else:
        pause = _slower(elapsed.sent, (0.2, 1.0, 5.0 if order.hold is None else SLOWEST_CHECK_SECONDS))
    check = _ask(StepKind.CHECK, elapsed, max(limits.poll_seconds, pause))
    if check.wait_seconds is not None and left is not None:
        return Step(StepKind.NONE, wait_seconds=min(check.wait_seconds, left))
    return check


def _worked_seconds(order: Order, elapsed: Elapsed, limits: Limits) -> float | None:
    """How much of its time-out has run; negative while the opening is still to come. None: unknown, or not running,
    because the broker holds the order and named no time."""
    if order.hold is None or limits.counts_while_held or elapsed.sent is None:
        return elapsed.sent
    return None if elapsed.opened is None else min(elapsed.sent, elapsed.opened)


def timeout_seconds(order: Order, limits: Limits) -> float | None:
    """How long the order may work before it is cancelled. None: without a limit.

    The order's own `timeout_seconds` comes first (0: none). An explicit DAY or GTC, and a stop order, work without a
    limit.
    """
    request = order.request
    if not isinstance(request, OrderRequest):
        return None
    if request.timeout_seconds is not None:
        return float(request.timeout_seconds) or None
    if request.tif in (Tif.DAY, Tif.GTC) or request.order_type in (OrderType.STOP, OrderType.STOP_LIMIT):
        return None
    return limits.order_timeout_seconds or None


def cancel_request(order: Order, reason: Reason, requested_by: str, now: datetime) -> tuple[Event, ...]:
    """The request to cancel, as events; none if the order has ended or a cancel has been requested already."""
    if order.status.is_final or order.cancel_request is not None:
        return ()
    return (CancelRequested(at=now, reason=reason, requested_by=requested_by),)


def _slower(since: float | None, pauses: Sequence[float]) -> float:
    """The pause between two queries, by the time since the start: the first in the first 2 s, the second up to 30 s,
    then the third."""
    if since is None or since < 2.0:
        return pauses[0]
    return pauses[1] if since < 30.0 else pauses[2]


def _ask(kind: StepKind, elapsed: Elapsed, pause: float) -> Step:
    if elapsed.asked is None or elapsed.asked >= pause:
        return Step(kind)
    return Step(StepKind.NONE, wait_seconds=pause - elapsed.asked)
