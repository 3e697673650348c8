"""What the views are made from, worked out again from the records alone: orders as they were told, positions from their first fill on; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from execution_service.core.effects import Happening, bare, happenings
from execution_service.core.ledger import LedgerEntry, Line, fold
from execution_service.core.order import Order, apply_all
from execution_service.core.position import Position
from execution_service.core.views import Booked


@dataclass(frozen=True, slots=True)
class Booking:
    """An order with its lines in the ledger."""

    order: Order
    lines: Mapping[int, Line]


def as_told(booking: Booking, told: int) -> Booked | None:
    """The order as the world was last told of it, with the profit booked until then; None if it never was."""
    if not told:
        return None
    order = booking.order
    then = order if order.version <= told else apply_all(bare(order), order.events[:told])
    realized = sum((line.realized for number, line in booking.lines.items() if number <= told), Decimal(0))
    return Booked(then, realized)


def refolded(entry: LedgerEntry, bookings: Iterable[Booking]) -> tuple[LedgerEntry, tuple[str, ...]]:
    """The entry with every episode that ever ended, folded again from all its orders' fills in the order of their lines.

    Also says, one sentence each, where the records contradict the entry; its present position is then left as it is stored. Lines
    beyond the entry's sequence are of later: they came after it was read.
    """
    steps = sorted((s for s in _steps(bookings) if s[0].sequence <= entry.sequence), key=lambda step: step[0].sequence)
    folded = LedgerEntry(key=entry.key, instrument=entry.instrument)
    known: dict[str, dict[int, Line]] = {}
    ended: dict[int, Position] = {}
    contradictions = []
    for line, order, happening in steps:
        folded, lines = fold(folded, order, (happening,), known.get(order.order_id, {}))
        known[order.order_id] = lines
        ended.update((position.episode, position) for position in folded.ended)
        if lines[happening.number] != line:
            contradictions.append(
                f"{entry.key.ledger_id}: line {line.sequence} (order {order.order_id}, event {happening.number}) "
                f"realised {line.realized} in episode {line.episode}, folded again {lines[happening.number].realized} "
                f"in episode {lines[happening.number].episode}"
            )
        folded = replace(folded, ended=(), applied={})
    if folded.position != entry.position or folded.sequence != entry.sequence:
        contradictions.append(
            f"{entry.key.ledger_id}: {entry.position.quantity} after {entry.sequence} lines as stored, "
            f"{folded.position.quantity} after {folded.sequence} lines folded again"
        )
    return replace(entry, ended=tuple(ended[episode] for episode in sorted(ended))), tuple(contradictions)


def _steps(bookings: Iterable[Booking]) -> Iterable[tuple[Line, Order, Happening]]:
    for booking in bookings:
        for happening in happenings(booking.order):
            line = booking.lines.get(happening.number)
            if line is not None:
                yield line, booking.order, happening
