"""Which events a broker's report is, beside what the order's record holds already; decided from values alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime

from brokers.base import (
    Fill,
    FillsShown,
    Report,
    ReportStatus,
)
from execution_service.core.orders.events import (
    Accepted,
    Busted,
    Cancelled,
    CommissionReported,
    Completed,
    Event,
    Expired,
    Filled,
    Held,
    Noted,
    Rejected,
    Released,
)
from execution_service.core.orders.order import Order, apply
from execution_service.core.orders.status import Reason, ReasonCode, Status

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
