"""The entries to which a position belongs, and what each has left of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from brokers.base import Instrument, OrderType, Side
from execution_service.core.exact import ZERO
from execution_service.core.orders.events import ContractResolved
from execution_service.core.orders.exits import entries_of
from execution_service.core.orders.exits_at_work import left_of_entries
from execution_service.core.orders.order import Order, apply_all, new_order
from execution_service.core.orders.request import Identity, OrderRequest, Purpose
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, key_of
from execution_service.core.texts.values import plain, quantity

_BEYOND_ALL_AMOUNTS = Decimal("1e18")


class CannotBeAdopted(Exception):
    """The adoption is impossible. The message says why."""


@dataclass(frozen=True, slots=True)
class EntryHolding:
    """An entry with the quantity that it still has of a holding."""

    refs: tuple[str, ...]
    left: Decimal
    instrument: Instrument
    """As the entry names it."""
    product: str | None


@dataclass(frozen=True, slots=True)
class PartOfEntry:
    """The quantity of a movement that belongs to one entry; `holder` None: to no known entry."""

    quantity: Decimal
    holder: EntryHolding | None

    @property
    def refs(self) -> tuple[str, ...]:
        return () if self.holder is None else self.holder.refs

    @property
    def product(self) -> str | None:
        return None if self.holder is None else self.holder.product


def is_entry_of(order: Order, key: LedgerKey) -> bool:
    """Whether the order's fills were booked in that holding as an entry's."""
    is_entry = isinstance(order.request, OrderRequest) and order.identity.purpose is Purpose.ENTRY
    return is_entry and bool(order.filled_quantity) and key_of(order) == key


def refs_to(entry: Order) -> tuple[str, ...]:
    """The ids by which an exit refers to the entry; an adopted position is also referred to by the ids of the one
    that it replaced."""
    stands_for = entry.request.stands_for if isinstance(entry.request, OrderRequest) else ()
    return stands_for or entry.names


def left_for_exit(
    refs: Sequence[str], entry: LedgerEntry, side: Side, orders: Sequence[Order], now: datetime
) -> Decimal:
    """What exits that refer to the entry by these ids have not filled of it; nothing while it may still fill. What is told has happened, so exits at
    work yield to it: they are cut down to what is left then."""
    names = set(refs)
    probe = new_order(
        Identity(signal_id="?", purpose=Purpose.EXIT),
        OrderRequest(
            account_id=entry.key.account_id,
            strategy=entry.key.strategy,
            instrument=entry.instrument,
            side=side.opposite,
            quantity=_BEYOND_ALL_AMOUNTS,
            order_type=OrderType.MARKET,
            entry_refs=tuple(refs),
        ),
        received_at=now,
        published_at=now,
    )
    probe = apply_all(probe, (ContractResolved(at=now, terms=entry.terms, booked_as=entry.key.instrument_key),))
    called = [o for o in orders if names.intersection(o.names)]
    exits = [o for o in orders if isinstance(o.request, OrderRequest) and names.intersection(o.request.entry_refs)]
    if not all(each.status.is_final for each in entries_of(probe, called)):
        return ZERO
    left = left_of_entries(probe, called, exits)
    return ZERO if left is None else max(ZERO, left.quantity)


def oldest_first(holders: Sequence[EntryHolding], leaving: Decimal) -> list[PartOfEntry]:
    """Taken from one entry after the other; the last part is what none of them has."""
    parts = []
    for holder in holders:
        taken = min(holder.left, leaving)
        if taken:
            parts.append(PartOfEntry(taken, holder))
            leaving -= taken
    return [*parts, PartOfEntry(leaving, None)] if leaving else parts


def named_holders(holders: Sequence[EntryHolding]) -> str:
    return ", ".join(f"{plain(h.refs[0])} has {quantity(h.left)} left" for h in holders) or "none has"
