"""What to do next with an order, and what a broker's report tells that is new; decisions from values alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from brokers.base import (
    AssetClass,
    Capabilities,
    Fill,
    FillsShown,
    Instrument,
    OrderType,
    Report,
    ReportStatus,
    Ticket,
    Tif,
)
from execution_service.core.orders.contracts import may_be_of_one_contract
from execution_service.core.orders.order import (
    ZERO,
    Accepted,
    Busted,
    Cancelled,
    CancelRequested,
    Capped,
    CommissionReported,
    Completed,
    Doubted,
    Event,
    Expired,
    Filled,
    Fitted,
    Held,
    InstrumentMatched,
    Noted,
    Order,
    OrderRequest,
    Purpose,
    Reason,
    ReasonCode,
    Rejected,
    Released,
    Status,
    apply,
    apply_all,
)

_UNACCEPTED = frozenset({Status.PENDING, Status.SUBMITTING, Status.IN_DOUBT})


def news(order: Order, report: Report, now: datetime, *, is_settled: bool = False) -> list[Event]:
    """The events that the report implies and the order does not know yet; none for what is old, repeated or incomplete.

    A final status is taken over only when the fills held add up to what the broker says it filled. A report under a tag that is none of the
    order's tells nothing of it, whoever handed it over; one of another order under the same tag tells only that there is one.
    `is_settled`: the broker has said the same for so long that nothing is on its way any more. A report that is unclear ends nothing.
    """
    if report.client_order_id not in ("", *order.client_order_ids):
        return []
    events: list[Event] = []

    def learn(event: Event) -> None:
        nonlocal order
        order = apply(order, event)
        events.append(event)

    if len(report.orders_under_tag) > 1:
        ids = ", ".join(report.orders_under_tag)
        words = (
            f"placed twice? the broker shows {len(report.orders_under_tag)} orders under {report.client_order_id}: {ids}; "
            f"only {_own_of(order, report)} is taken for this one, what others fill is not counted here"
        )
        if not was_noted(order, words):
            learn(Noted(at=now, message=words, alert=True))
        if is_of_another(order, report):
            return events
    if report.fills_shown is not FillsShown.SOME and order.attempt == 1:
        report, is_corrected = _with_corrections(order, report)
        is_older = order.status.is_final and report.status is ReportStatus.WORKING
        if is_corrected and (report.fills_shown is FillsShown.ALL or is_older):
            # Until it is known whether executions were annulled, those in their place are not added to them. That an order works again
            # which had ended is no annulment: it is an older picture, however long it is shown.
            return events
    is_present_attempt = _is_of_present_attempt(order, report)
    if (
        is_present_attempt
        and order.status in _UNACCEPTED
        and (report.status is not ReportStatus.REJECTED or report.filled_quantity)
    ):
        learn(Accepted(at=now, broker_order_id=report.broker_order_id))
    elif _names_another(order, report):
        # A cancel would go to whatever has the id that the person named.
        learn(Accepted(at=now, broker_order_id=report.broker_order_id))
    for fill_id in sorted(report.busted_fill_ids - order.busted_fill_ids):
        learn(Busted(at=now, fill_id=fill_id))
    for fill in report.fills:
        known = order.fill_of(fill.fill_id)
        if known is None and fill.fill_id not in order.busted_fill_ids:
            learn(Filled(at=now, fill=_as_kept(fill)))
        elif known is not None and fill.commission is not None and fill.commission != known.commission:
            learn(
                CommissionReported(
                    at=now, fill_id=fill.fill_id, commission=fill.commission, currency=fill.commission_currency
                )
            )
    if not is_present_attempt and any(isinstance(event, Filled) for event in events):
        words = (
            f"filled under {report.client_order_id}, which it was sent as before it was sent again "
            f"as {order.client_order_id}: both may fill"
        )
        if not was_noted(order, words):
            learn(Noted(at=now, message=words, alert=True))
    is_working = order.status in (Status.SUBMITTED, Status.PARTIALLY_FILLED)
    if is_present_attempt and is_working and order.broker_order_id is None and report.broker_order_id:
        learn(Accepted(at=now, broker_order_id=report.broker_order_id))
    if report.status is ReportStatus.WORKING and (
        not is_present_attempt or (order.status.is_final and order.broker_order_id is None)
    ):
        words = (
            f"the broker shows order {report.broker_order_id} ({report.client_order_id}) working, against our record"
        )
        if not was_noted(order, words):
            learn(Noted(at=now, message=words, alert=True))
    if is_present_attempt:
        for event in _of_hold(order, report, now):
            learn(event)
    is_clear = not report.is_unclear and not fills_are_missing(order, report)
    if is_present_attempt and not order.status.is_final and is_clear:
        end = _end(order, report, now, is_settled=is_settled)
        if end is not None:
            learn(end)
    return events


def _with_corrections(order: Order, report: Report) -> tuple[Report, bool]:
    """The report with its executions by the names that we hold them under, and those annulled that it does not show or shows with other
    figures; and whether it corrects anything. What is shown of an annulled one counts as another, under a name of its own."""
    held: dict[str, Fill] = {_shown_as(fill.fill_id): fill for fill in order.fills}
    known = Counter(_shown_as(fill_id) for fill_id in (*(fill.fill_id for fill in order.fills), *order.busted_fill_ids))
    fills, undone = [], set(held) - {fill.fill_id for fill in report.fills}
    is_corrected = bool(undone)
    for fill in report.fills:
        own = held.get(fill.fill_id)
        if own is not None and (own.quantity, own.price) == (fill.quantity, fill.price):
            fills.append(replace(fill, fill_id=own.fill_id))
        elif known[fill.fill_id]:
            is_corrected = True
            undone |= {fill.fill_id} & set(held)
            fills.append(replace(fill, fill_id=f"{fill.fill_id}{_AGAIN}{known[fill.fill_id] + 1}"))
        else:
            fills.append(fill)
    busted = report.busted_fill_ids | {held[name].fill_id for name in undone}
    return replace(report, fills=tuple(fills), busted_fill_ids=busted), is_corrected


_AGAIN = "~"
"""Between a broker's execution id and the number of its version, from the second on."""


def _shown_as(fill_id: str) -> str:
    return fill_id.partition(_AGAIN)[0]


def is_of_another(order: Order, report: Report) -> bool:
    """Whether the report is of another order that bears the same tag: a stranger's, or the same one placed twice."""
    return len(report.orders_under_tag) > 1 and report.broker_order_id != _own_of(order, report)


def _own_of(order: Order, report: Report) -> str:
    """Of the orders under one tag that whose id we know; else the oldest."""
    known = order.broker_order_id
    return known if known in report.orders_under_tag else report.orders_under_tag[0]


def _names_another(order: Order, report: Report) -> bool:
    """Whether the broker shows a working order of ours, under its own tag, by another id than the one that a person read off the screen."""
    is_shown = report.client_order_id == order.client_order_id and report.broker_order_id not in (
        "",
        order.broker_order_id,
    )
    is_working = order.status in (Status.SUBMITTED, Status.PARTIALLY_FILLED)
    return is_shown and is_working and order.is_named_by_person


def was_noted(order: Order, words: str) -> bool:
    """Whether the record has this very remark already, so that it is not made, nor told to people, again."""
    return any(note.message == words for note in order.notes)


UNREADABLE = "cannot be read at the broker: "


def unreadable_note(order: Order, words: str, now: datetime) -> tuple[Event, ...]:
    """What is recorded, once for an order, when something that the broker says of it cannot be read."""
    if any(note.message.startswith(UNREADABLE) for note in order.notes):
        return ()
    return (Noted(at=now, message=f"{UNREADABLE}{words}; nothing is concluded from it", alert=True),)


def _of_hold(order: Order, report: Report, now: datetime) -> tuple[Event, ...]:
    """What is new about the broker's holding it for the opening. That a report says nothing of it says nothing."""
    if order.status not in (Status.SUBMITTED, Status.PARTIALLY_FILLED) or report.status is not ReportStatus.WORKING:
        return ()
    if report.is_held is False and order.hold is not None:
        return (Released(at=now, message=report.said or "the market has it"),)
    if not report.is_held:
        return ()
    known, until = order.hold, report.held_until
    if known is not None and (until is None or until == known.until):
        return ()
    return (Held(at=now, message=report.said or "held for the opening", until=until),)


def _as_kept(fill: Fill) -> Fill:
    """Times are kept in whole milliseconds: what a record says before and after it was stored is the same."""
    return replace(fill, time=fill.time.replace(microsecond=fill.time.microsecond // 1000 * 1000))


def _end(order: Order, report: Report, now: datetime, *, is_settled: bool) -> Event | None:
    """None: it goes on, or the record does not show yet how it came to its end."""
    match report.status:
        case ReportStatus.REJECTED:
            reason = Reason(ReasonCode.BROKER_REJECTED, report.reason or "the broker gave no reason")
            return Rejected(at=now, reason=reason, filled_quantity=order.filled_quantity)
        case ReportStatus.EXPIRED:
            reason = Reason(ReasonCode.BROKER_EXPIRED, report.reason or "the order expired at the venue")
            return Expired(at=now, reason=reason, filled_quantity=order.filled_quantity)
        case ReportStatus.CANCELLED:
            asked = order.cancel_wish
            words = report.reason or "cancelled by the broker or the venue"
            return Cancelled(
                at=now,
                reason=asked or Reason(ReasonCode.BROKER_CANCELLED, words),
                filled_quantity=order.filled_quantity,
            )
        case ReportStatus.FILLED if order.cash_quantity is not None and order.filled_quantity:
            return Completed(at=now, filled_quantity=order.filled_quantity)
        case ReportStatus.FILLED if order.busted_fill_ids or is_settled:
            # An execution was annulled and nothing took its place, or a person made the order smaller at the broker.
            reason = Reason(ReasonCode.BROKER_CANCELLED, "done at the broker with less than was ordered")
            return Cancelled(at=now, reason=reason, filled_quantity=order.filled_quantity)
    return None


def fills_are_missing(order: Order, report: Report) -> bool:
    """True when the broker's count is ahead of, or behind, the executions that it has shown us."""
    is_done = report.status is ReportStatus.FILLED
    if is_done and not (report.filled_quantity or report.busted_fill_ids or order.busted_fill_ids):
        return True  # complete, and with nothing: the count itself is still to come
    if order.attempt == 1:
        return report.filled_quantity != order.filled_quantity
    # Other attempts' fills are no part of this count: only those that this very report shows are compared with it.
    shown = {fill.fill_id for fill in report.fills}
    return report.filled_quantity != sum(f.quantity for f in order.fills if f.fill_id in shown)


def is_short(order: Order, report: Report) -> bool:
    """True when the broker calls complete what has filled less than was ordered, and shows all of that. A status may run ahead of the fills,
    so this is the order's end only once it has lasted."""
    is_done = report.status is ReportStatus.FILLED and not report.is_unclear and not order.status.is_final
    return is_done and _is_of_present_attempt(order, report) and not fills_are_missing(order, report)


def _is_of_present_attempt(order: Order, report: Report) -> bool:
    return report.client_order_id in ("", order.client_order_id)


class StepKind(StrEnum):
    SUBMIT = "SUBMIT"
    SUBMIT_AGAIN = "SUBMIT_AGAIN"
    """The same ticket under the same client id, to a broker that refuses a repeated one."""
    FIND = "FIND"
    CHECK = "CHECK"
    CANCEL = "CANCEL"
    RECORD = "RECORD"
    """Nothing to ask anybody: the events follow from what is known."""
    NONE = "NONE"


@dataclass(frozen=True, slots=True)
class Step:
    kind: StepKind
    events: tuple[Event, ...] = ()
    wait_seconds: float | None = None
    """With NONE: look again after so long; None: only when there is news."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Times in seconds."""

    order_timeout_seconds: float = 60.0
    max_order_age_seconds: float = 300.0
    find_window_seconds: float = 30.0
    send_again_seconds: float | None = None
    """How long an order is looked for before it is sent again, where it may be; None: the find window."""
    refuses_repeated_client_id: bool = False
    poll_seconds: float = 0.0
    counts_while_held: bool = False
    """Whether the time-out runs while the broker holds an order for the opening, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elapsed:
    """How long things have lasted, in seconds of a clock that never jumps; None: has not happened in this process."""

    age: float
    """Since the first publication."""
    sent: float | None = None
    """Since the sending, or the release of an order that was held for the opening."""
    opened: float | None = None
    """Since the moment until which the broker says that it holds the order; negative: still to come; None: it has told none."""
    finding: float | None = None
    """Since the order was first looked for."""
    asked: float | None = None
    """Since the broker was last asked about this order."""
    cancel_sent: float | None = None
    """Since the last request to cancel."""
    cancel_wait: float = 0.0
    """Until the next request to cancel may be sent; 0: now."""
    find_wait: float = 0.0
    """Until an order in doubt is looked for again; 0: now."""


NEVER = Step(StepKind.NONE)
SLOWEST_CHECK_SECONDS = 60.0
"""How often an order makes the broker be asked about all orders while nothing is expected of it for long; others do so meanwhile."""


def next_step(
    order: Order,
    now: datetime,
    elapsed: Elapsed,
    limits: Limits,
    *,
    refusal: Reason | None = None,
) -> Step:
    """The one thing to do for the order. `refusal` is what the broker said when the order was sent again, and it has been looked for
    (`elapsed.finding`) since then."""
    match order.status:
        case Status.PENDING:
            return _step_of_pending(order, now, elapsed, limits)
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
    return 0 < limits.max_order_age_seconds < elapsed.age


def _step_of_pending(order: Order, now: datetime, elapsed: Elapsed, limits: Limits) -> Step:
    if order.cancel_wish is not None:
        return Step(
            StepKind.RECORD, (Cancelled(at=now, reason=order.cancel_wish, filled_quantity=order.filled_quantity),)
        )
    if is_stale(elapsed, limits):
        return Step(StepKind.RECORD, (stale(elapsed, limits, now),))
    return Step(StepKind.SUBMIT)


def stale(elapsed: Elapsed, limits: Limits, now: datetime) -> Rejected:
    words = (
        f"first published {elapsed.age:.0f} s ago, the limit is {limits.max_order_age_seconds:.0f} s; it was not sent"
    )
    return Rejected(at=now, reason=Reason(ReasonCode.STALE_ORDER, words))


def _step_of_submitting(order: Order, now: datetime, elapsed: Elapsed, limits: Limits, refusal: Reason | None) -> Step:
    finding, window = elapsed.finding, limits.find_window_seconds
    is_fresh = order.cancel_wish is None and not is_stale(elapsed, limits)
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
    if order.cancel_wish is None and left is not None and left <= 0:
        reason = Reason(ReasonCode.TIMEOUT, f"not filled within {timeout:g} s")
        return Step(StepKind.RECORD, (CancelRequested(at=now, reason=reason, requested_by="execution-service"),))
    if order.cancel_wish is not None:
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
    """How much of its time-out has passed, less than nothing where the opening is still to come; None: that is not known, or it does not run,
    since the broker holds the order and has not said until when."""
    if order.hold is None or limits.counts_while_held or elapsed.sent is None:
        return elapsed.sent
    return None if elapsed.opened is None else min(elapsed.sent, elapsed.opened)


def timeout_seconds(order: Order, limits: Limits) -> float | None:
    """How long the order may work before it is cancelled; None: it rests.

    The order's own `timeout_seconds` comes first (0: none); an explicit DAY or GTC means that it rests; stops rest until triggered.
    """
    request = order.request
    if not isinstance(request, OrderRequest):
        return None
    if request.timeout_seconds is not None:
        return float(request.timeout_seconds) or None
    if request.tif in (Tif.DAY, Tif.GTC) or request.order_type in (OrderType.STOP, OrderType.STOP_LIMIT):
        return None
    return limits.order_timeout_seconds or None


UNKNOWN_ENTRY_SECONDS = 5.0
"""How long an exit waits for an entry that nobody has heard of: the queue may deliver the two in either order."""


@dataclass(frozen=True, slots=True)
class ExitAllowance:
    """What must be recorded before an exit is sent: nothing, its instrument, a reduction, or its rejection."""

    events: tuple[Event, ...] = ()
    is_unbound: bool = False
    """The entry that it names is not ours: nothing limits it."""
    products: frozenset[str | None] = frozenset()
    """In which entries of it were traded, other than what the exit is to be traded in; None: the usual one."""


def exit_allowance(
    order: Order, entries: Sequence[Order], exits: Sequence[Order], now: datetime, *, may_entry_come: bool = False
) -> ExitAllowance | None:
    """How much of an exit its entry allows: what that filled and no other exit has taken. None: the entry has not finished, or come.

    `entries` are orders called what the exit names, `exits` those that name the same. An entry that is not ours allows everything, once
    it is no longer to be expected (`may_entry_come`).
    """
    named = [e for e in entries if e.identity.purpose is Purpose.ENTRY]
    if not named:
        return None if may_entry_come else ExitAllowance(is_unbound=True)
    own = [e for e in named if _is_entry_of(order, e)]
    if not own and len(named) < max(e.request.total_legs for e in named):
        return None  # the leg that it closes may still come
    if not all(e.status.is_final for e in own):
        return None
    wanted = order.ticket().quantity
    filled = sum((e.filled_quantity for e in own), ZERO)
    takers = [x for x in exits if x.order_id != order.order_id and _takes_from_same(order, x)]
    taken = sum(map(_taken, takers), ZERO)
    left = max(ZERO, filled - taken)
    matched = _matched(order, own, now)
    products = frozenset(e.accepted_request.product for e in own) - {apply_all(order, matched).accepted_request.product}
    if left >= wanted:
        return ExitAllowance(matched, products=products)
    words = f"the entry filled {filled}, other exits have taken {taken}{_of_that_adopted(takers)}"
    if not own:
        words = "the entry that it names was refused, or is of another account, instrument or side"
    if not left:
        return ExitAllowance((Rejected(at=now, reason=Reason(ReasonCode.NOTHING_TO_EXIT, words)),))
    capped = Capped(at=now, quantity=left, message=f"reduced from {wanted} to {left}: {words}")
    return ExitAllowance((*matched, capped), products=products)


def _of_that_adopted(takers: Sequence[Order]) -> str:
    told = [(x.filled_quantity, x.adoption.occasion, x.signal_id) for x in takers if x.adoption and x.filled_quantity]
    return "".join(f", of that {quantity} by {occasion} ({name})" for quantity, occasion, name in told)


def as_its_entry_says(order: Order, entries: Sequence[Order], now: datetime) -> Order:
    """The exit with the instrument that would be traded for it, were it sent now."""
    return apply_all(order, _matched(order, [e for e in entries if _is_entry_of(order, e)], now))


def _matched(order: Order, own: Sequence[Order], now: datetime) -> tuple[Event, ...]:
    """The exit is booked against its entry's position, so it takes that one's name for the instrument, and its product where it names none;
    unless entries differ in it."""
    request = order.accepted_request
    instruments = {e.accepted_request.instrument for e in own}
    products = {e.accepted_request.product for e in own}
    named = request.instrument
    instrument = _said_more_fully(instruments.pop(), named) if len(instruments) == 1 else named
    product = products.pop() if request.product is None and len(products) == 1 else None
    if instrument == named and product is None:
        return ()
    return (InstrumentMatched(at=now, instrument=instrument, product=product),)


def _said_more_fully(entrys: Instrument, named: Instrument) -> Instrument:
    """What the exit alone says of the contract stays said: the broker has to confirm it."""
    return replace(
        entrys,
        multiplier=entrys.multiplier or named.multiplier,
        trading_class=entrys.trading_class or named.trading_class,
        isin=entrys.isin or named.isin,
    )


def _takes_from_same(order: Order, other: Order) -> bool:
    """What adds to a position names its entry too, but takes nothing of it."""
    return _same_line(order, other) and other.request.side is order.request.side


def _same_line(order: Order, other: Order) -> bool:
    """Same account, and an instrument that may be the same: some senders name the exchange or currency in the entry only."""
    is_taken = isinstance(other.request, OrderRequest)
    return is_taken and _is_same_account(order, other) and may_be_of_one_contract(order, other)


def _is_entry_of(order: Order, other: Order) -> bool:
    return (
        other.identity.purpose is Purpose.ENTRY
        and _same_line(order, other)
        and other.accepted_request.side is order.accepted_request.side.opposite
    )


def _taken(order: Order) -> Decimal:
    """What an exit has taken or may still take. One that has not been sent will be measured in its turn."""
    is_at_work = order.status is not Status.PENDING and not order.status.is_final
    return order.filled_quantity + (order.remaining_quantity if is_at_work else ZERO)


def fitting(order: Order, ticket: Ticket, now: datetime) -> tuple[Event, ...]:
    """What is to be recorded of the order's fitting to the market, `ticket` being what will be sent; nothing if it fits as it is."""
    asked = order.ticket()
    values = {
        name: getattr(ticket, name)
        for name in ("quantity", "limit_price", "stop_price", "cash_quantity")
        if getattr(ticket, name) != getattr(asked, name)
    }
    if not values:
        return ()
    words = [
        f"{name.replace('_', ' ')} {value}" + ("" if getattr(asked, name) is None else f" for {getattr(asked, name)}")
        for name, value in values.items()
    ]
    return (Fitted(at=now, message=f"sent with {', '.join(words)}, as the market takes it", **values),)


def cancel_wish(order: Order, reason: Reason, requested_by: str, now: datetime) -> tuple[Event, ...]:
    """The wish to cancel an order that has not ended and has not been asked to."""
    if order.status.is_final or order.cancel_wish is not None:
        return ()
    return (CancelRequested(at=now, reason=reason, requested_by=requested_by),)


def unsupported_reason(order: Order, capabilities: Capabilities, broker: str) -> str | None:
    """Why the broker cannot take this order at all; None: it can."""
    request = order.accepted_request
    problems = []
    if request.order_type not in capabilities.order_types:
        problems.append(f"{request.order_type} orders")
    if request.tif is not None and request.tif not in capabilities.tifs:
        problems.append(f"time in force {request.tif}")
    if request.instrument.asset_class not in capabilities.asset_classes:
        problems.append(f"{request.instrument.asset_class} instruments")
    is_leg = request.total_legs > 1 and order.identity.purpose is Purpose.ENTRY
    if is_leg and request.instrument.asset_class is AssetClass.OPTION and not capabilities.splits_option_combinations:
        problems.append(f"an option alone that is one of {request.total_legs} legs: it would stand naked")
    return f"{broker} does not take {' or '.join(problems)}" if problems else None


UNKNOWN_LEG_SECONDS = 30.0
"""How long a leg waits for the others of its signal, where none may be placed alone; then it is refused."""


def refusing_leg(order: Order, legs: Sequence[Order], capabilities: Capabilities, broker: str) -> Reason | None:
    """Why the signal that the order is a leg of cannot be carried out whole, as far as the records of `legs` tell: one has ended without a
    fill, is to be cancelled, or is of no kind that the broker takes. None: nothing is against it."""
    for leg in other_legs(order, legs):
        why: Reason | None = None
        if leg.status.is_final and not leg.filled_quantity:
            why = leg.reason or Reason(ReasonCode.BROKER_REJECTED, f"it is {leg.status}")
        elif leg.status is Status.PENDING:
            why = leg.cancel_wish
            unsupported = unsupported_reason(leg, capabilities, broker) if _is_same_account(order, leg) else None
            if unsupported is not None:
                why = Reason(ReasonCode.UNSUPPORTED_ORDER, unsupported)
        if why is not None:
            return about_leg(leg, why)
    return None


def about_leg(leg: Order, why: Reason) -> Reason:
    """A leg's reason as one for the others of its signal."""
    place = f"leg {leg.identity.leg_index + 1} of {leg.request.total_legs}"
    return Reason(why.code, f"not placed without {place}: {why.message}")


def other_legs(order: Order, legs: Sequence[Order]) -> list[Order]:
    """The entries among them that are other legs of the order's signal."""
    mine = order.identity
    return [
        leg
        for leg in legs
        if (leg.signal_id, leg.identity.purpose) == (mine.signal_id, mine.purpose)
        and leg.identity.leg_index != mine.leg_index
    ]


def pending_legs(order: Order, legs: Sequence[Order]) -> list[Order]:
    """The other legs that the same account has still to send."""
    return [leg for leg in other_legs(order, legs) if leg.status is Status.PENDING and _is_same_account(order, leg)]


def missing_legs(order: Order, legs: Sequence[Order]) -> list[int]:
    """The numbers, from 1, of the legs that have not come."""
    present = {order.identity.leg_index, *(leg.identity.leg_index for leg in other_legs(order, legs))}
    return [number + 1 for number in range(order.request.total_legs) if number not in present]


def _is_same_account(order: Order, other: Order) -> bool:
    return order.request.account_id == other.request.account_id


def _slower(since: float | None, pauses: Sequence[float]) -> float:
    """The pause between two questions: short while a thing is young (2 s), longer later (30 s), then the last."""
    if since is None or since < 2.0:
        return pauses[0]
    return pauses[1] if since < 30.0 else pauses[2]


def _ask(kind: StepKind, elapsed: Elapsed, pause: float) -> Step:
    if elapsed.asked is None or elapsed.asked >= pause:
        return Step(kind)
    return Step(StepKind.NONE, wait_seconds=pause - elapsed.asked)
