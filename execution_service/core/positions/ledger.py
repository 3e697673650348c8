"""The entry of the position ledger for one key: applies an order's fills exactly once, however often they are
delivered. No store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from brokers.base import ONE, ContractTerms, Instrument
from execution_service.core.errors import CoreError
from execution_service.core.exact import EXACT
from execution_service.core.orders.contracts import Contract
from execution_service.core.orders.effects import AppliedEvent
from execution_service.core.orders.events import Busted, Filled
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.positions.position import FillEffect, Position, apply_fill, reverse_fill

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class LedgerKey:
    account_id: str
    strategy: str
    instrument_key: str

    @property
    def ledger_id(self) -> str:
        text = f"{len(self.account_id)}:{self.account_id}|{len(self.strategy)}:{self.strategy}|{self.instrument_key}"
        return "led_" + sha256(text.encode()).hexdigest()[:24]


def key_of(order: Order) -> LedgerKey:
    """The ledger key of the order's fills: as decided before it was sent, else by the name of its instrument."""
    request = order.accepted_request
    return LedgerKey(request.account_id, request.strategy, order.booked_as or request.instrument.key)


class SeveralHoldings(CoreError):
    """An exit leaves open which of several holdings it means; `keys` are their instrument keys."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = tuple(sorted(keys))
        super().__init__(f"it may mean any of {len(self.keys)} holdings: {'; '.join(self.keys)}")


def holding_for(order: Order, terms: ContractTerms | None, held: Mapping[str, Contract]) -> str:
    """The instrument key under which the order's fills are booked. `terms` is what the broker reported of its contract;
    `held` are the open or growing holdings of the same account and strategy, by key. Raises SeveralHoldings.

    Two contracts that differ in multiplier or trading class have two keys. One contract has one key, however an order
    describes it: if exactly one of the holdings is of this contract, its key is used, even if it was named otherwise or
    by an earlier version, whose keys had no multiplier.
    """
    mine = Contract(order.accepted_request.instrument, terms)
    same = {key for key, other in held.items() if mine.is_same_as(other)}
    if len(same) == 1:
        return same.pop()
    own = mine.holding_name
    if same and own not in same and order.identity.purpose is Purpose.EXIT:
        raise SeveralHoldings(same)
    return own


@dataclass(frozen=True, slots=True)
class Held:
    """The position of the key right after a line: what events about positions and trades tell."""

    quantity: Decimal
    """Signed; negative is short."""
    cost: Decimal
    """As `Position.cost`."""
    realized: Decimal
    """The profit, before commissions, of the episode that the line ended; else of the one that goes on."""


@dataclass(frozen=True, slots=True)
class Line:
    """What the ledger booked for one event of one order."""

    event_number: int
    sequence: int
    """The position among all lines of the key, from 1. Replaying in this order gives the same ledger."""
    episode: int
    realized: Decimal
    closed: Decimal = ZERO
    """How much of the fill closed an existing position; needed if the fill is busted."""
    held: Held | None = field(default=None, compare=False)
    """None in lines that earlier versions booked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """The ledger of one key, kept for ever in one document. `applied` has the lines of orders whose own record does
    not have them yet."""

    key: LedgerKey
    instrument: Instrument
    terms: ContractTerms | None = None
    """What the broker reported of the contract when the latest order was sent; None: it reported nothing."""
    version: int = 0
    sequence: int = 0
    position: Position = field(default_factory=Position)
    ended: tuple[Position, ...] = ()
    """Episodes that have ended and may not be in the view yet."""
    applied: Mapping[str, tuple[Line, ...]] = field(default_factory=lambda: MappingProxyType({}))
    products: Mapping[str, Decimal] = field(default_factory=lambda: MappingProxyType({}))
    """The position's signed quantity by product, as the orders named it ("": none). Products with quantity 0 are
    left out."""
    realized: Decimal = ZERO
    """The profit of all episodes, before commissions, in the instrument's currency; of an entry that an earlier version
    kept, since then. Annulled fills take theirs back."""

    @property
    def known_products(self) -> Mapping[str, Decimal] | None:
        """As `products`. None if they do not add up to the position (it was opened before products were kept, or
        changed by somebody else): then they are unknown until it is flat."""
        return _known(self.products, self.position)

    @property
    def contract(self) -> Contract:
        return Contract(self.instrument, self.terms)

    @property
    def currency(self) -> str | None:
        """The currency of its amounts; None if neither a broker nor an order has named it."""
        return self.instrument.currency if self.terms is None else self.terms.currency or self.instrument.currency

    @property
    def money_per_point(self) -> Decimal | None:
        """As `Order.money_per_point`."""
        return (self.instrument.multiplier or ONE) if self.terms is None else self.terms.money_per_point


def fold(
    entry: LedgerEntry, order: Order, applied_events: Iterable[AppliedEvent], known: Mapping[int, Line]
) -> tuple[LedgerEntry, dict[int, Line]]:
    """Applies those of the order's events that change a position and are not booked yet, neither in `known` (the lines
    in the order's own record) nor in the entry.

    Returns the entry and all lines of the order.
    """
    lines = dict(known)
    lines.update((line.event_number, line) for line in entry.applied.get(order.order_id, ()))
    position, sequence, ended = entry.position, entry.sequence, list(entry.ended)
    products, realized = entry.products, entry.realized
    fresh: list[Line] = []
    for applied_event in applied_events:
        if not applied_event.moves_position or applied_event.number in lines:
            continue
        booked = _book(position, order, applied_event, lines)
        products = _by_product(products, position, booked.position, order.accepted_request.product or "")
        position, sequence = booked.position, sequence + 1
        if booked.ended is not None:
            ended.append(booked.ended)
        # A fill that flips the position belongs to two episodes; the order is listed with the one that it opens.
        profit = (booked.ended or position).realized_pnl
        held = Held(position.quantity, position.cost, profit)
        line = Line(applied_event.number, sequence, position.episode, booked.realized, booked.closed, held)
        lines[applied_event.number] = line
        realized = EXACT.add(realized, booked.realized)
        fresh.append(line)
    if not fresh:
        return entry, lines
    applied = dict(entry.applied)
    applied[order.order_id] = (*entry.applied.get(order.order_id, ()), *fresh)
    changes: dict[str, Any] = {"position": position, "sequence": sequence, "ended": tuple(ended), "applied": applied}
    changes["realized"] = realized
    terms = _better_known(entry.terms, order.terms)
    return replace(entry, products=products, terms=terms, **changes), lines


def _better_known(before: ContractTerms | None, later: ContractTerms | None) -> ContractTerms | None:
    """The later facts, unless they lack what the earlier ones have."""
    if later is None or (before is not None and later.is_size_unknown):
        return before
    return later


def _by_product(
    products: Mapping[str, Decimal], before: Position, after: Position, product: str
) -> Mapping[str, Decimal]:
    known = _known(products, before)
    if known is None:
        return {}
    changed = {**known, product: known.get(product, ZERO) + after.quantity - before.quantity}
    return {name: quantity for name, quantity in changed.items() if quantity}


def _known(products: Mapping[str, Decimal], position: Position) -> Mapping[str, Decimal] | None:
    if sum(products.values(), ZERO) == position.quantity:
        return products
    return None if position.quantity else {}


def with_unbooked(
    entry: LedgerEntry, orders: Iterable[tuple[Order, Iterable[AppliedEvent], Mapping[int, Line]]]
) -> LedgerEntry:
    """The entry as it will be once the recorded fills of these orders are booked. Each order comes with the events
    that may not be booked and the lines that its record has; lines beyond the entry's own sequence are ignored."""
    booked = entry.sequence
    for order, applied_events, own_lines in orders:
        known = {number: line for number, line in own_lines.items() if line.sequence <= booked}
        entry, _ = fold(entry, order, applied_events, known)
    return entry


def settled(entry: LedgerEntry, kept: Mapping[str, int], *, ended_are_shown: bool) -> LedgerEntry:
    """The entry without what has been stored elsewhere: lines that the orders' own records have (up to the event
    number in `kept`, by our order id), and ended episodes once they are in the view."""
    applied = {
        order_id: lines for order_id, lines in entry.applied.items() if lines[-1].event_number > kept.get(order_id, 0)
    }
    ended = () if ended_are_shown else entry.ended
    if len(applied) == len(entry.applied) and ended == entry.ended:
        return entry
    return replace(entry, applied=applied, ended=ended)


def _book(position: Position, order: Order, applied_event: AppliedEvent, lines: Mapping[int, Line]) -> FillEffect:
    request = order.accepted_request
    multiplier = order.money_per_point or ONE
    event = applied_event.event
    if isinstance(event, Filled):
        return apply_fill(
            position,
            side=request.side,
            quantity=event.fill.quantity,
            price=event.fill.price,
            multiplier=multiplier,
            at=event.fill.time,
            order_id=_shown_id(applied_event.after),
        )
    assert isinstance(event, Busted)
    annulled = applied_event.before.fill_of(event.fill_id)
    assert annulled is not None
    line = lines[
        next(n for n, e in enumerate(order.events, 1) if isinstance(e, Filled) and e.fill.fill_id == event.fill_id)
    ]
    return reverse_fill(
        position,
        side=request.side,
        quantity=annulled.quantity,
        price=annulled.price,
        realized=line.realized,
        closed=line.closed,
        episode=line.episode,
        multiplier=multiplier,
        at=event.at,
        order_id=_shown_id(applied_event.after),
    )


def _shown_id(order: Order) -> str:
    return order.broker_order_id or order.order_id
