"""Reverses an adoption: the events that take it back, and the books after that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from execution_service.core.adoption.entries import left_for_exit, refs_to
from execution_service.core.adoption.records import (
    AdoptionBooks,
    Before,
    Plan,
    Refused,
)
from execution_service.core.adoption.warnings import after_adoption, warnings_about
from execution_service.core.exact import ZERO
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.events import AdoptionUndone, Busted, Event
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.request import Purpose
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, Line, fold, key_of
from execution_service.core.texts.values import plain, quantity

# --- taking one back -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recorded:
    """One record of an adoption with its lines in the ledger."""

    order: Order
    lines: Mapping[int, Line]


def undoing(order: Order, *, command_id: str, by: str, message: str, at: datetime) -> tuple[Event, ...]:
    """The events that reverse one record of an adoption; none if it has been reversed."""
    if order.adoption is None or any(isinstance(event, AdoptionUndone) for event in order.events):
        return ()
    annulled = [Busted(at=at, fill_id=fill.fill_id) for fill in order.fills]
    return (AdoptionUndone(at=at, command_id=command_id, by=by, message=message), *annulled)


def _adopted_since(orders: Sequence[Order], books: AdoptionBooks) -> list[str]:
    """Later adoptions, not reversed, of the same holdings or entries."""
    keys, refs = {key_of(order) for order in orders}, {ref for order in orders for ref in _entry_of(order)}
    first = orders[0]
    return sorted(
        {
            other.signal_id
            for other in books.orders
            if other.adoption is not None
            and other.fills
            and other.signal_id != first.signal_id
            and other.received_at > first.received_at
            and (key_of(other) in keys or refs.intersection(_entry_of(other)))
        }
    )


def _entry_of(adopted: Order) -> tuple[str, ...]:
    request = adopted.accepted_request
    return (*request.entry_refs, *request.stands_for)


def plan_undoing(records: Sequence[Recorded], books: AdoptionBooks, now: datetime) -> Plan | Refused:
    """The books after these records were reversed, or why they cannot be."""
    later = _adopted_since([record.order for record in records], books)
    if later:
        return Refused((f"{', '.join(later)} came after it and counts on it: take that back first",))
    entries = {entry.key: entry for entry in books.ledgers}
    after: dict[LedgerKey, LedgerEntry] = {}
    realized: dict[LedgerKey, Decimal] = {}
    for record in reversed(records):
        order = record.order
        key, request = key_of(order), order.accepted_request
        entry = entries.setdefault(key, LedgerEntry(key=key, instrument=request.instrument, terms=order.terms))
        then = after.get(key, entry)
        if order.identity.purpose is Purpose.ENTRY:
            left = left_for_exit(refs_to(order), entry, request.side, books.orders, now)
            left = max(ZERO, min(left, then.position.quantity * request.side.sign))
            if left < order.filled_quantity:
                came = f"{quantity(order.filled_quantity)} {plain(key.instrument_key)}"
                words = f"{came} came by it and only {quantity(left)} is left: it has been traded since"
                return Refused((f"{words}; tell what is true now by another adoption",))
        undone = apply_all(order, undoing(order, command_id="?", by="?", message="?", at=now))
        after[key], lines = fold(then, undone, applied_events(undone, order.version), record.lines)
        fresh = sum((line.realized for number, line in lines.items() if number > order.version), ZERO)
        realized[key] = realized.get(key, ZERO) + fresh
    touched = [entries[key] for key in after]
    positions = {key: entry.position for key, entry in after.items()}
    return Plan(
        movements=(),
        before=tuple(
            Before(ledger_id=e.key.ledger_id, quantity=e.position.quantity, cost=e.position.cost) for e in touched
        ),
        holdings=tuple(after_adoption(e, positions[e.key], realized[e.key]) for e in touched),
        warnings=warnings_about(books, touched, positions, None),
    )
