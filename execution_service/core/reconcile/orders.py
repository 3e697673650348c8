"""Compares the records of orders with the broker's complete answer about orders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from brokers.base import (
    Report,
    ReportStatus,
)
from execution_service.core.orders.order import Order
from execution_service.core.orders.report_events import fills_are_missing
from execution_service.core.orders.status import Status
from execution_service.core.reconcile.discrepancies import DiscrepancyKind, Finding, amount_text

_OUR_TAG = re.compile(r"x[a-z2-7]{18}")
_WORKING = frozenset({Status.SUBMITTED, Status.PARTIALLY_FILLED})


def is_our_tag(client_order_id: str) -> bool:
    """Whether it has the form of the tags that this service puts on its orders (any installation of it)."""
    return _OUR_TAG.fullmatch(client_order_id) is not None


# --- orders ---------------------------------------------------------------------------------------------------------


HELD_UNLISTED_AT_MOST = timedelta(days=4)
"""Over a weekend with a holiday on either side."""


def may_be_unlisted(order: Order, now: datetime) -> bool:
    """Whether a working order may be missing from the broker's lists: it is held for an opening whose time the
    broker did not give. A broker's list may be empty in the morning, until after-market orders are passed on to the
    exchange."""
    hold = order.hold
    return hold is not None and hold.until is None and now - hold.since < HELD_UNLISTED_AT_MOST


def order_findings(order: Order, shown: Sequence[Report], *, was_asked: bool) -> list[Finding]:
    """Compares an order's record, which already includes this answer, with everything that the broker's answer has
    under the order's tags.

    `was_asked`: the order was working before the query, is missing from the answer, and was searched for by its tags.
    """

    def finding(
        kind: DiscrepancyKind, ours: str, theirs: str, *, steady: str = "", is_alerted: bool = False
    ) -> Finding:
        return Finding(
            kind=kind,
            subject=order.order_id,
            ours=ours,
            theirs=theirs,
            steady=steady,
            order_id=order.order_id,
            signal_id=order.signal_id,
            client_order_id=order.tag_at_broker,
            instrument=order.accepted_request.instrument.key,
            is_alerted=is_alerted,
        )

    ours = f"{order.status}, {_progress(order)}"
    found = []
    if order.status is Status.IN_DOUBT:
        theirs = _shown(shown) if shown else "not found"
        found.append(
            finding(DiscrepancyKind.IN_DOUBT, f"perhaps sent as {order.tag_at_broker}", theirs, is_alerted=True)
        )
    if was_asked and not shown and order.status in _WORKING:
        found.append(finding(DiscrepancyKind.ORDER_NOT_SHOWN, ours, "neither listed nor found"))
    alive = [r for r in shown if r.status is ReportStatus.WORKING and _is_against_record(order, r)]
    if alive:
        # Orders of an earlier sending, or never seen accepted, are alerted when their report is recorded.
        is_alerted = order.broker_order_id is None or all(r.client_order_id != order.client_order_id for r in alive)
        found.append(finding(DiscrepancyKind.ORDER_ALIVE, ours, _shown(alive), is_alerted=is_alerted))
    by_tag: dict[str, set[str]] = {}
    for report in shown:
        by_tag.setdefault(report.client_order_id, set()).add(report.broker_order_id)
    if any(len(ids) > 1 for ids in by_tag.values()):
        # If the broker's own list says so, people are alerted when its report is recorded.
        is_alerted = any(len(report.orders_under_tag) > 1 for report in shown)
        found.append(finding(DiscrepancyKind.ORDER_TWICE, f"one order, {ours}", _shown(shown), is_alerted=is_alerted))
    earlier = [r for r in shown if r.client_order_id in order.client_order_ids[:-1] and r.filled_quantity]
    if earlier:
        sent_again = f"sent again as {order.client_order_id}; {ours}"
        found.append(finding(DiscrepancyKind.EARLIER_ATTEMPT_FILLED, sent_again, _shown(earlier), is_alerted=True))
    is_amount = order.cash_quantity is not None  # an amount of money: what it buys is its quantity
    if order.quantity is not None and order.filled_quantity > order.quantity and not is_amount:
        found.append(
            finding(DiscrepancyKind.OVERFILLED, ours, _shown(shown) if shown else "not shown", is_alerted=True)
        )
    present = [r for r in shown if r.client_order_id == order.client_order_id]
    # With two orders under one tag, neither count is the record's.
    if len(present) == 1 and fills_are_missing(order, present[0]):
        counted, held = present[0].filled_quantity, order.filled_quantity
        steady = f"{counted} {held}"
        is_alerted = not order.status.is_final
        found.append(
            finding(DiscrepancyKind.FILLS_MISSING, ours, _shown(present), steady=steady, is_alerted=is_alerted)
        )
    return found


def unknown_order(report: Report) -> Finding:
    """An order at the broker under a tag of our form that no record of ours has."""
    return Finding(
        kind=DiscrepancyKind.ORDER_UNKNOWN,
        subject=report.client_order_id,
        ours="no record",
        theirs=_shown([report]),
        client_order_id=report.client_order_id,
    )


def _is_against_record(order: Order, report: Report) -> bool:
    return order.status.is_final or report.client_order_id != order.client_order_id


def _progress(order: Order) -> str:
    quantity = "?" if order.quantity is None else amount_text(order.quantity)
    return f"{amount_text(order.filled_quantity)} of {quantity} filled"


def _shown(reports: Sequence[Report]) -> str:
    return "; ".join(
        f"{r.broker_order_id} ({r.client_order_id}) {r.status}, {amount_text(r.filled_quantity)} filled"
        for r in sorted(reports, key=lambda r: (r.client_order_id, r.broker_order_id))
    )
