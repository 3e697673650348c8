"""Rebuilds the inputs of the views from the records alone: orders as last shown, positions from their first fill. No
I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from execution_service.core.exact import EXACT
from execution_service.core.orders.effects import AppliedEvent, applied_events
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import LedgerEntry, Line, fold
from execution_service.core.positions.position import Position
from execution_service.core.views.shared import BookedOrder


@dataclass(frozen=True, slots=True)
class OrderWithLines:
    """An order with its lines in the ledger."""

    order: Order
    lines: Mapping[int, Line]


def as_last_shown(booking: OrderWithLines, shown_version: int) -> BookedOrder | None:
    """The order as it was at version `shown_version`, up to which the views show it, with the profit booked by then. None if
    they do not show it."""
    if not shown_version:
        return None
    order = booking.order
    then = order if order.version <= shown_version else order.as_of(shown_version)
    realized = sum((line.realized for number, line in booking.lines.items() if number <= shown_version), Decimal(0))
    return BookedOrder(then, realized)


@dataclass(frozen=True, slots=True)
class Corrected:
    """A ledger entry with its version raised by one, and the order lines with the profits that follow from the
    corrected contract facts."""

    entry: LedgerEntry
    lines: Mapping[str, Mapping[int, Line]]
    """By our order id; only lines that changed."""


def corrected(entry: LedgerEntry, bookings: Sequence[OrderWithLines]) -> Corrected | None:
    """The entry after contract facts were declared for some of its orders; None if that changes nothing. Only
    profits may change: if anything else would, the records contradict the entry (which `refolded` reports), and
    nothing is corrected."""
    folded, known = _folded(entry, bookings)
    stored, fresh = entry.position, replace(folded.position, realized_pnl=entry.position.realized_pnl)
    if fresh != stored or folded.sequence != entry.sequence:
        return None
    changed: dict[str, dict[int, Line]] = {}
    realized = entry.realized
    for booking in bookings:
        order_id = booking.order.order_id
        for number, line in known.get(order_id, {}).items():
            before = booking.lines[number]
            if replace(line, realized=before.realized) != before:
                return None
            if line != before:
                changed.setdefault(order_id, {})[number] = line
                realized = EXACT.add(realized, EXACT.subtract(line.realized, before.realized))
    if not changed and folded.position == stored and folded.terms == entry.terms:
        return None
    applied = {
        order_id: tuple(changed.get(order_id, {}).get(line.event_number, line) for line in lines)
        for order_id, lines in entry.applied.items()
    }
    whole = replace(entry, version=entry.version + 1, position=folded.position, terms=folded.terms, applied=applied)
    whole = replace(whole, realized=realized)
    return Corrected(whole, changed)


def _folded(entry: LedgerEntry, bookings: Iterable[OrderWithLines]) -> tuple[LedgerEntry, dict[str, dict[int, Line]]]:
    """The entry rebuilt from the fills of all its orders, and each order's lines in it."""
    steps = sorted((s for s in _steps(bookings) if s[0].sequence <= entry.sequence), key=lambda step: step[0].sequence)
    folded = LedgerEntry(key=entry.key, instrument=entry.instrument)
    known: dict[str, dict[int, Line]] = {}
    for _, order, applied_event in steps:
        folded, known[order.order_id] = fold(folded, order, (applied_event,), known.get(order.order_id, {}))
        folded = replace(folded, ended=(), applied={})
    return folded, known


def refolded(entry: LedgerEntry, bookings: Iterable[OrderWithLines]) -> tuple[LedgerEntry, tuple[str, ...]]:
    """The entry with every ended episode, rebuilt from the fills of all its orders in the order of their lines.

    Also returns one sentence for each contradiction between records and entry; the stored present position is kept in
    any case. Lines beyond the entry's sequence are ignored: they were booked after the entry was read.
    """
    steps = sorted((s for s in _steps(bookings) if s[0].sequence <= entry.sequence), key=lambda step: step[0].sequence)
    folded = LedgerEntry(key=entry.key, instrument=entry.instrument)
    known: dict[str, dict[int, Line]] = {}
    ended: dict[int, Position] = {}
    contradictions = []
    for line, order, applied_event in steps:
        folded, lines = fold(folded, order, (applied_event,), known.get(order.order_id, {}))
        known[order.order_id] = lines
        ended.update((position.episode, position) for position in folded.ended)
        if lines[applied_event.number] != line:
            contradictions.append(
                f"{entry.key.ledger_id}: line {line.sequence} (order {order.order_id}, event {applied_event.number}) "
                f"realised {line.realized} in episode {line.episode}, folded again {lines[applied_event.number].realized} "
                f"in episode {lines[applied_event.number].episode}"
            )
        folded = replace(folded, ended=(), applied={})
    if folded.position != entry.position or folded.sequence != entry.sequence:
        contradictions.append(
            f"{entry.key.ledger_id}: {entry.position.quantity} after {entry.sequence} lines as stored, "
            f"{folded.position.quantity} after {folded.sequence} lines folded again"
        )
    return replace(entry, ended=tuple(ended[episode] for episode in sorted(ended))), tuple(contradictions)


def _steps(bookings: Iterable[OrderWithLines]) -> Iterable[tuple[Line, Order, AppliedEvent]]:
    for booking in bookings:
        for applied_event in applied_events(booking.order):
            line = booking.lines.get(applied_event.number)
            if line is not None:
                yield line, booking.order, applied_event
