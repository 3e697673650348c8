"""Turns a broker's report into the events that the order's record does not have yet. Pure decisions, no I/O."""

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
    Triggered,
)
from execution_service.core.orders.order import Order, apply
from execution_service.core.orders.protective import ProtectiveRole
from execution_service.core.orders.status import Reason, ReasonCode, Status

_UNACCEPTED = frozenset({Status.PENDING, Status.SUBMITTING, Status.IN_DOUBT})


def new_events(order: Order, report: Report, now: datetime, *, is_settled: bool = False) -> list[Event]:
    """The events that follow from the report and are not in the record; none for an old, repeated or incomplete report.

    A final status is recorded only when our fills add up to what the broker says it filled, and never from an unclear
    report. A report under a tag that is not one of the order's yields nothing; one of another order under the same tag
    yields only a note that there is one. `is_settled`: the broker has reported the same for so long that nothing more
    is expected.
    """
    if report.client_order_id not in ("", *order.client_order_ids):
        return []
    events: list[Event] = []

    def learn(event: Event) -> None:
        nonlocal order
        order = apply(order, event)
        events.append(event)

    def note(words: str) -> None:
        if not was_noted(order, words):
            learn(Noted(at=now, message=words, alert=True))

    if len(report.orders_under_tag) > 1:
        note(_several_under_tag(order, report))
        if is_of_another(order, report):
            return events
    if report.fills_shown is not FillsShown.SOME and order.attempt == 1:
        report, is_corrected = _with_corrections(order, report)
        is_older = order.status.is_final and report.status is ReportStatus.WORKING
        if is_corrected and (report.fills_shown is FillsShown.ALL or is_older):
            # Until it is known whether executions were busted, their replacements are not added to them. A finished
            # order that is shown as working again is no bust: it is an older snapshot, however long it is shown.
            return events
    is_present_attempt = _is_of_present_attempt(order, report)
    if (
        is_present_attempt
        and order.status in _UNACCEPTED
        and (report.status is not ReportStatus.REJECTED or report.filled_quantity)
    ):
        learn(Accepted(at=now, broker_order_id=report.broker_order_id))
    elif _names_another(order, report):
        # A cancel would go to whatever order has the id that the person entered.
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
        note(
            f"filled under {report.client_order_id}, which it was sent as before it was sent again "
            f"as {order.client_order_id}: both may fill"
        )
    is_working = order.status in (Status.SUBMITTED, Status.PARTIALLY_FILLED)
    if is_present_attempt and is_working and order.broker_order_id is None and report.broker_order_id:
        learn(Accepted(at=now, broker_order_id=report.broker_order_id))
    if report.status is ReportStatus.WORKING and (
        not is_present_attempt or (order.status.is_final and order.broker_order_id is None)
    ):
        note(f"the broker shows order {report.broker_order_id} ({report.client_order_id}) working, against our record")
    if is_present_attempt:
        for event in (*_of_hold(order, report, now), *_of_trigger(order, report, now)):
            learn(event)
    is_clear = not report.is_unclear and not fills_are_missing(order, report)
    if is_present_attempt and not order.status.is_final and is_clear:
        end = _end(order, report, now, is_settled=is_settled)
        if end is not None:
            learn(end)
    return events


def _several_under_tag(order: Order, report: Report) -> str:
    ids = ", ".join(report.orders_under_tag)
    return (
        f"placed twice? the broker shows {len(report.orders_under_tag)} orders under {report.client_order_id}: {ids}; "
        f"only {_own_of(order, report)} is taken for this one, what others fill is not counted here"
    )


def _with_corrections(order: Order, report: Report) -> tuple[Report, bool]:
    """The report with its executions under the ids by which the record has them, and with those busted that it no
    longer shows or shows with other figures; and whether that changes anything. A busted execution that is shown
    again counts as another one, under a versioned id."""
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
"""Separates a broker's execution id from our version number, from the second version on."""


def _shown_as(fill_id: str) -> str:
    return fill_id.partition(_AGAIN)[0]


def is_of_another(order: Order, report: Report) -> bool:
    """Whether the report is about another order with the same tag: somebody else's, or ours placed twice."""
    return len(report.orders_under_tag) > 1 and report.broker_order_id != _own_of(order, report)


def _own_of(order: Order, report: Report) -> str:
    """Of the orders under one tag, the one whose broker id the record has; else the oldest."""
    known = order.broker_order_id
    return known if known in report.orders_under_tag else report.orders_under_tag[0]


def _names_another(order: Order, report: Report) -> bool:
    """Whether the broker shows our working order under another id than the one that a person entered."""
    is_shown = report.client_order_id == order.client_order_id and report.broker_order_id not in (
        "",
        order.broker_order_id,
    )
    is_working = order.status in (Status.SUBMITTED, Status.PARTIALLY_FILLED)
    return is_shown and is_working and order.is_named_by_person


def was_noted(order: Order, words: str) -> bool:
    """Whether the record has this very note already, so that it is neither recorded nor notified again."""
    return any(note.message == words for note in order.notes)


UNREADABLE = "cannot be read at the broker: "


def unreadable_note(order: Order, words: str, now: datetime) -> tuple[Event, ...]:
    """Recorded once per order, when something that the broker reports about it cannot be read."""
    if any(note.message.startswith(UNREADABLE) for note in order.notes):
        return ()
    return (Noted(at=now, message=f"{UNREADABLE}{words}; nothing is concluded from it", alert=True),)


def _of_hold(order: Order, report: Report, now: datetime) -> tuple[Event, ...]:
    """What is new about the broker holding the order for the opening. A report that does not mention it changes
    nothing."""
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


def _of_trigger(order: Order, report: Report, now: datetime) -> tuple[Event, ...]:
    """That a stop which protects a position was triggered, once."""
    is_stop = order.protective is not None and order.protective.role is ProtectiveRole.STOP
    if not (is_stop and report.is_triggered) or order.triggered_at is not None:
        return ()
    if order.status not in (Status.SUBMITTED, Status.PARTIALLY_FILLED):
        return ()
    return (Triggered(at=now, message=report.said or "the broker says so"),)


def _as_kept(fill: Fill) -> Fill:
    """With its time cut to whole milliseconds, as it is stored: so it is the same before and after a restart."""
    return replace(fill, time=fill.time.replace(microsecond=fill.time.microsecond // 1000 * 1000))


def _end(order: Order, report: Report, now: datetime, *, is_settled: bool) -> Event | None:
    """The event that ends the order; None: it goes on, or the record cannot yet account for its end."""
    match report.status:
        case ReportStatus.REJECTED:
            reason = Reason(ReasonCode.BROKER_REJECTED, report.reason or "the broker gave no reason")
            return Rejected(at=now, reason=reason, filled_quantity=order.filled_quantity)
        case ReportStatus.EXPIRED:
            reason = Reason(ReasonCode.BROKER_EXPIRED, report.reason or "the order expired at the venue")
            return Expired(at=now, reason=reason, filled_quantity=order.filled_quantity)
        case ReportStatus.CANCELLED:
            asked = order.cancel_request
            words = report.reason or "cancelled by the broker or the venue"
            return Cancelled(
                at=now,
                reason=asked or Reason(ReasonCode.BROKER_CANCELLED, words),
                filled_quantity=order.filled_quantity,
            )
        case ReportStatus.FILLED if order.cash_quantity is not None and order.filled_quantity:
            return Completed(at=now, filled_quantity=order.filled_quantity)
        case ReportStatus.FILLED if order.busted_fill_ids or is_settled:
            # An execution was busted and not replaced, or a person reduced the order at the broker.
            reason = Reason(ReasonCode.BROKER_CANCELLED, "done at the broker with less than was ordered")
            return Cancelled(at=now, reason=reason, filled_quantity=order.filled_quantity)
    return None


def fills_are_missing(order: Order, report: Report) -> bool:
    """True if the broker's filled quantity differs from the sum of the executions that it has shown."""
    is_done = report.status is ReportStatus.FILLED
    if is_done and not (report.filled_quantity or report.busted_fill_ids or order.busted_fill_ids):
        return True  # complete, with nothing filled: the count itself is still to come
    if order.attempt == 1:
        return report.filled_quantity != order.filled_quantity
    # Fills of earlier attempts are not part of this count: compare only with the fills that this report shows.
    shown = {fill.fill_id for fill in report.fills}
    return report.filled_quantity != sum(f.quantity for f in order.fills if f.fill_id in shown)


def is_short(order: Order, report: Report) -> bool:
    """True if the broker calls the order complete although less than ordered has filled, and shows all of that. A
    status may be reported ahead of its fills, so this ends the order only once it has lasted."""
    is_done = report.status is ReportStatus.FILLED and not report.is_unclear and not order.status.is_final
    return is_done and _is_of_present_attempt(order, report) and not fills_are_missing(order, report)


def _is_of_present_attempt(order: Order, report: Report) -> bool:
    return report.client_order_id in ("", order.client_order_id)
