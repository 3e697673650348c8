"""Compares the ledger's positions with the broker's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import MappingProxyType

from brokers.base import (
    DERIVATIVES,
    AssetClass,
    BrokerPosition,
    ContractTerms,
    Instrument,
    Side,
)
from execution_service.core.exact import ZERO
from execution_service.core.orders.contracts import Contract
from execution_service.core.orders.exits import without_linked
from execution_service.core.orders.order import Order
from execution_service.core.orders.products import usual_product_held
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.reconcile.discrepancies import DiscrepancyKind, Finding, amount_text
from execution_service.core.reconcile.instruments import agree, family_of, may_be_the_same, names_of

# --- positions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """The position of one strategy in one instrument by our ledger, open or flat. `quantity` is signed."""

    instrument: Instrument
    quantity: Decimal
    strategy: str = ""
    product: str | None = None
    """None: the broker keeps no products apart, or the product is not known."""
    is_unclear: bool = False
    """The ledger entry cannot be read; `quantity` is meaningless."""
    terms: ContractTerms | None = None
    """The contract's facts, as the broker reported them when it was traded."""


def by_product(entry: LedgerEntry, products: Sequence[str]) -> list[Holding]:
    """The ledger entry's position split into these products, including those with 0. What orders without a product have
    built counts as the usual one."""
    whole = Holding(
        instrument=entry.instrument,
        quantity=entry.position.quantity,
        strategy=entry.key.strategy,
        terms=entry.terms,
    )
    known = entry.known_products
    if not products or known is None:
        return [whole]
    quantities = dict.fromkeys(products, ZERO)
    for name, quantity in known.items():
        product = name or usual_product_held(products, quantity)
        quantities[product] = quantities.get(product, ZERO) + quantity
    return [replace(whole, product=product, quantity=quantity) for product, quantity in quantities.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentGroup:
    """The positions on both sides that may be in one instrument."""

    ours: tuple[Holding, ...]
    theirs: tuple[BrokerPosition, ...]

    @property
    def held(self) -> Decimal:
        return sum((holding.quantity for holding in self.ours), ZERO)

    @property
    def shown(self) -> Decimal:
        return sum((position.quantity for position in self.theirs), ZERO)

    @property
    def is_unclear(self) -> bool:
        """Part of it cannot be read, so neither a difference nor its absence is known."""
        return any(holding.is_unclear for holding in self.ours) or any(position.is_unclear for position in self.theirs)

    @property
    def instrument_key(self) -> str:
        return min(_contract(holding).holding_name for holding in self.ours)

    @property
    def subject(self) -> str:
        """The subject of a finding about it."""
        return self.instrument_key if self.product is None else f"{self.instrument_key}|product={self.product}"

    @property
    def product(self) -> str | None:
        """The product of all of it; None if that is not known."""
        products = {holding.product for holding in self.ours}
        return products.pop() if len(products) == 1 else None

    def is_about(self, instrument: Instrument, product: str | None = None) -> bool:
        """Whether the instrument, in this product, is or may be one of ours in this group."""
        return agree(self.product, product) and any(
            h.instrument.could_be(instrument) or may_be_the_same(h.instrument, instrument) for h in self.ours
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionsCompared:
    agreeing: int
    """Instruments with the same quantity on both sides."""
    findings: tuple[Finding, ...]
    instruments: Mapping[str, tuple[Instrument, ...]]
    """By a finding's subject: every instrument of our ledger that it is about."""
    not_ours: tuple[BrokerPosition, ...]
    """The broker's positions in instruments that our ledger never had."""
    unclear: frozenset[str] = frozenset()
    """Subjects whose rows at the broker cannot be read, or that an unreadable row may be about: neither a difference
    nor its absence is known."""
    groups: Mapping[str, InstrumentGroup] = field(default_factory=lambda: MappingProxyType({}))
    """By a finding's subject: both sides."""


def compare_positions(ours: Sequence[Holding], theirs: Sequence[BrokerPosition]) -> PositionsCompared:
    """Compares the positions of both sides. Positions that may be in the same instrument are taken together, since
    one side may name an exchange or currency that the other leaves open."""
    findings: list[Finding] = []
    groups: dict[str, InstrumentGroup] = {}
    unclear: set[str] = set()
    not_ours: list[BrokerPosition] = []
    agreeing = 0
    for group in _groups(ours, theirs):
        if not group.ours:
            not_ours += [position for position in group.theirs if position.quantity and not position.is_unclear]
        elif group.is_unclear:
            unclear.add(group.subject)
        elif group.held == group.shown:
            agreeing += bool(group.held)
        else:
            finding = _position_finding(group)
            groups[finding.subject] = group
            findings.append(finding)
    return PositionsCompared(
        agreeing=agreeing,
        findings=tuple(sorted(findings, key=lambda f: f.subject)),
        instruments={subject: tuple(h.instrument for h in group.ours) for subject, group in groups.items()},
        not_ours=tuple(sorted(not_ours, key=lambda p: p.instrument.key)),
        unclear=frozenset(unclear),
        groups=groups,
    )


def _groups(ours: Sequence[Holding], theirs: Sequence[BrokerPosition]) -> Iterator[InstrumentGroup]:
    """The positions grouped by instrument. A broker's row without a legible instrument may belong to any of ours
    that the broker does not show otherwise."""
    unnamed = tuple(position for position in theirs if position.is_unnamed)
    for mine, other in _grouped(ours, [position for position in theirs if not position.is_unnamed]):
        is_missing = not other and any(holding.quantity for holding in mine)
        yield InstrumentGroup(ours=tuple(mine), theirs=unnamed if is_missing else tuple(other))


def _position_finding(group: InstrumentGroup) -> Finding:
    named = {holding.instrument.key: holding.instrument for holding in group.ours}
    return Finding(
        kind=DiscrepancyKind.POSITION_DIFFERS,
        subject=group.subject,
        ours=amount_text(group.held),
        theirs=amount_text(group.shown),
        steady=amount_text(group.shown - group.held),
        instrument=group.instrument_key,
        instruments=tuple(named[key] for key in sorted(named)),
        product=group.product or "",
    )


def group_of(
    instrument: Instrument,
    ours: Sequence[Holding],
    theirs: Sequence[BrokerPosition],
    product: str | None = None,
) -> InstrumentGroup:
    """Both sides' positions in what may be this instrument and product, grouped as in a comparison, even if our
    ledger never had it."""
    asked = Holding(instrument=instrument, quantity=ZERO, product=product)
    for group in _groups((asked, *ours), theirs):
        if any(holding is asked for holding in group.ours):
            return group
    raise AssertionError("what was asked for is in a group")


def _grouped(
    ours: Sequence[Holding], theirs: Sequence[BrokerPosition]
) -> list[tuple[list[Holding], list[BrokerPosition]]]:
    """Both sides grouped by what may be the same, directly or through a third. Only positions with a name in common
    are compared."""
    everything: list[Holding | BrokerPosition] = [*ours, *theirs]
    parent = list(range(len(everything)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    by_name: dict[str | int, list[int]] = {}
    for place, each in enumerate(everything):
        number = _number(each)
        numbers: set[str | int] = set() if number is None else {number}
        for name in numbers | names_of(each.instrument) | _other_names(each):
            alike = by_name.setdefault(name, [])
            for other in alike:
                if root(place) != root(other) and _are_one(each, everything[other]):
                    parent[root(place)] = root(other)
            alike.append(place)
    groups: dict[int, tuple[list[Holding], list[BrokerPosition]]] = {}
    for place, each in enumerate(everything):
        mine, other_side = groups.setdefault(root(place), ([], []))
        if isinstance(each, Holding):
            mine.append(each)
        else:
            other_side.append(each)
    return list(groups.values())


def _are_one(one: Holding | BrokerPosition, other: Holding | BrokerPosition) -> bool:
    if not agree(one.product, other.product):
        return False
    if _number(one) is not None and _number(other) is not None:
        return _number(one) == _number(other)
    if not _contract(one).agrees_with(_contract(other)):
        return False
    if may_be_the_same(one.instrument, other.instrument):
        return True
    names = (_other_names(one) & names_of(other.instrument)) | (_other_names(other) & names_of(one.instrument))
    families = {family_of(one.instrument), family_of(other.instrument)}
    # A venue's symbol identifies the instrument, whatever asset class an order used (a currency future is ordered as
    # FOREX or FUTURE), except that a share may bear the name of a future's underlying.
    return bool(names) and (len(families) == 1 or AssetClass.STOCK not in families)


def _number(each: Holding | BrokerPosition) -> int | None:
    """The broker's contract number, which identifies the contract by itself. For a share, whose number changes with
    corporate actions, only if the order named it."""
    reported = each.con_id if isinstance(each, BrokerPosition) else _contract(each).con_id
    return reported if reported is not None else each.instrument.con_id


def _contract(each: Holding | BrokerPosition) -> Contract:
    return Contract(each.instrument, each.terms if each.instrument.asset_class in DERIVATIVES else None)


def _other_names(each: Holding | BrokerPosition) -> frozenset[str]:
    return each.also_called if isinstance(each, BrokerPosition) else frozenset()


def resting_exits(group: InstrumentGroup, exits: Iterable[Order]) -> str:
    """The working exits of the group's instrument that may take the broker's position beyond what our strategies
    hold. They were sent before the position changed, and while our books
    do not follow only a person may cancel them. Empty: none."""
    nets: dict[str, Decimal] = {}
    for holding in group.ours:
        nets[holding.strategy] = nets.get(holding.strategy, ZERO) + holding.quantity
    long = sum((held for held in nets.values() if held > 0), ZERO)
    short = long - sum(nets.values(), ZERO)
    named = []
    for side, most in ((Side.SELL, group.shown + short), (Side.BUY, long - group.shown)):
        at_work = without_linked(order for order in exits if order.accepted_request.side is side)
        if sum((order.remaining_quantity for order in at_work), ZERO) > max(ZERO, most):
            named += [f"{order.signal_id} ({side} {amount_text(order.remaining_quantity)})" for order in at_work]
    return ", ".join(sorted(named))
