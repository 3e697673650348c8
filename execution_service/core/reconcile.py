"""Compares our books with the broker's: which differences there are, and which have lasted long enough to be
reported. Pure decisions: nothing is queried or recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from hashlib import sha256
from types import MappingProxyType
from typing import TypeAlias

from brokers.base import (
    DERIVATIVES,
    AssetClass,
    BrokerPosition,
    ContractTerms,
    Instrument,
    OptionRight,
    Report,
    ReportStatus,
    Side,
)
from execution_service.core.exact import ZERO
from execution_service.core.orders.contracts import Contract
from execution_service.core.orders.order import Order
from execution_service.core.orders.report_events import fills_are_missing
from execution_service.core.orders.status import Status
from execution_service.core.positions.ledger import LedgerEntry

READINGS = 2
"""A difference is opened after it was seen in so many consecutive readings, and closed after it was missing in as
many."""
LASTING_SECONDS = 30.0
"""How long a difference must last, besides, if the broker's lists may merely be late."""

_OUR_TAG = re.compile(r"x[a-z2-7]{18}")
SHARES = frozenset({AssetClass.STOCK, AssetClass.ETF, AssetClass.FUND})
_WORKING = frozenset({Status.SUBMITTED, Status.PARTIALLY_FILLED})


class DiscrepancyKind(StrEnum):
    """The closed list of differences; docs/operations.md says what to do about each."""

    ORDER_NOT_SHOWN = "ORDER_NOT_SHOWN"
    """Working by our record, but the broker neither lists nor finds it."""
    ORDER_UNKNOWN = "ORDER_UNKNOWN"
    """At the broker under a tag of our form that no record of ours has."""
    ORDER_ALIVE = "ORDER_ALIVE"
    """Working at the broker, but by our record it has ended or was sent again."""
    ORDER_TWICE = "ORDER_TWICE"
    """Several orders at the broker under one tag of ours."""
    EARLIER_ATTEMPT_FILLED = "EARLIER_ATTEMPT_FILLED"
    """A person had the order sent again, and then the first sending filled."""
    FILLS_MISSING = "FILLS_MISSING"
    """The broker's filled quantity differs from the sum of the executions that it shows."""
    OVERFILLED = "OVERFILLED"
    IN_DOUBT = "IN_DOUBT"
    POSITION_DIFFERS = "POSITION_DIFFERS"


OF_POSITIONS = frozenset({DiscrepancyKind.POSITION_DIFFERS})
OF_REPORTS = frozenset(DiscrepancyKind) - OF_POSITIONS
_SURE = frozenset({DiscrepancyKind.IN_DOUBT, DiscrepancyKind.OVERFILLED, DiscrepancyKind.EARLIER_ATTEMPT_FILLED})
"""Proven by our own record alone: one reading is enough."""
_LASTING = frozenset({DiscrepancyKind.ORDER_NOT_SHOWN, DiscrepancyKind.FILLS_MISSING})


class Owner(StrEnum):
    """Who has to act."""

    OPERATOR = "OPERATOR"
    SERVICE = "SERVICE"
    """The service keeps checking, and the difference may end by itself; people are informed."""


class DiscrepancyState(StrEnum):
    OPEN = "OPEN"
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference, as seen in one reading."""

    kind: DiscrepancyKind
    subject: str
    """What it is about: our order id, a tag at the broker, or an instrument's key."""
    ours: str
    theirs: str
    steady: str = ""
    """Must be equal in two readings for the difference to count as the same."""
    order_id: str | None = None
    signal_id: str | None = None
    client_order_id: str | None = None
    instrument: str | None = None
    is_alerted: bool = False
    """The order itself has its own alert about it."""
    instruments: tuple[Instrument, ...] = ()
    """For a position: every instrument of our ledger that it is about. Exits of these are restricted by it."""
    product: str = ""
    """For a position: the product, if the broker keeps products apart."""
    note: str = ""
    """What is known or likely about the cause, in one or two sentences."""
    resting: str = ""
    """Working exits that may take more than the broker holds."""
    successor: str = ""
    """The keys of the instruments that have probably replaced the position."""
    before: str = ""
    """What the difference was before it changed into this one."""

    @property
    def key(self) -> Key:
        return self.kind, self.subject

    @property
    def sameness(self) -> str:
        """Equal in two readings that show the same difference."""
        return f"{self.steady} {self.successor}".rstrip()

    @property
    def amount(self) -> Decimal | None:
        """For a position: the broker's quantity minus ours, which our own fills do not change; negative: the broker
        has less."""
        try:
            return Decimal(self.steady) if self.kind is DiscrepancyKind.POSITION_DIFFERS else None
        except InvalidOperation:
            return None

    def is_about(self, instrument: Instrument, product: str | None = None) -> bool:
        """For a position: whether it is about this instrument, under any of its names, in this product."""
        if not agree(self.product or None, product):
            return False
        mine = self.instruments or ((told,) if (told := instrument_of_key(self.subject)) is not None else ())
        return self.kind is DiscrepancyKind.POSITION_DIFFERS and any(
            each.could_be(instrument) or may_be_the_same(each, instrument) for each in mine
        )


Key: TypeAlias = tuple[DiscrepancyKind, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """A difference that nothing recorded explains, from its opening to its closing."""

    account_id: str
    finding: Finding
    opened_at: datetime
    updated_at: datetime
    """When either side last changed."""
    owner: Owner
    next_step: str
    """What a person should do, in one or two sentences."""
    state: DiscrepancyState = DiscrepancyState.OPEN
    closed_at: datetime | None = None
    is_alerted: bool = False

    @property
    def key(self) -> Key:
        return self.finding.key

    @property
    def place(self) -> str:
        """Equal for the same difference of the same account, of which only one may be open at a time."""
        text = f"{len(self.account_id)}:{self.account_id}|{self.finding.kind}|{self.finding.subject}"
        return sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:24]

    @property
    def discrepancy_id(self) -> str:
        return f"dis_{self.place}_{int(self.opened_at.timestamp() * 1000)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRestriction:
    """A position difference that restricts the exits of its instruments."""

    finding: Finding
    since: datetime | None = None
    """When it was opened. None: suspected after a first reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciliationOutcome:
    """The result of one complete comparison, for people."""

    is_compared: bool
    """False: it could not be made, and nothing is known."""
    is_clean: bool = False
    words: str
    """A summary line, then one line for each difference and each order or position that is not ours."""


def is_our_tag(client_order_id: str) -> bool:
    """Whether it has the form of the tags that this service puts on its orders (any installation of it)."""
    return _OUR_TAG.fullmatch(client_order_id) is not None


def owner_of(kind: DiscrepancyKind) -> Owner:
    return Owner.SERVICE if kind in (DiscrepancyKind.FILLS_MISSING, DiscrepancyKind.ORDER_NOT_SHOWN) else Owner.OPERATOR


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
            client_order_id=order.client_order_id,
            instrument=order.accepted_request.instrument.key,
            is_alerted=is_alerted,
        )

    ours = f"{order.status}, {_progress(order)}"
    found = []
    if order.status is Status.IN_DOUBT:
        theirs = _shown(shown) if shown else "not found"
        found.append(
            finding(DiscrepancyKind.IN_DOUBT, f"perhaps sent as {order.client_order_id}", theirs, is_alerted=True)
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
    """The ledger entry's position split into these products, including those with 0. Orders without a product count
    as the first."""
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
        product = name or products[0]
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


def may_be_the_same(one: Instrument, other: Instrument) -> bool:
    """Whether a position in one may be shown as a position in the other: brokers name instruments more or less fully
    than orders do.

    Shares are the same on every exchange and whichever kind of share (STOCK, ETF, FUND) they are called. A derivative
    may be named by its own symbol or by its underlying, its expiry by day or by month.
    """
    if one.con_id is not None and other.con_id is not None:
        return one.con_id == other.con_id
    if family_of(one) != family_of(other) or not agree(one.currency, other.currency):
        return False
    if one.asset_class in SHARES:
        return symbol_of(one) == symbol_of(other)
    if not agree(_upper(one.exchange), _upper(other.exchange)) or not _expiries_agree(one.expiry, other.expiry):
        return False
    if not agree(one.strike, other.strike) or not agree(one.right, other.right):
        return False
    if symbol_of(one) == symbol_of(other):
        return True
    # Under another name it is the same only if both sides say everything else that distinguishes it.
    is_option = one.asset_class is AssetClass.OPTION
    needed = (one.expiry, other.expiry, *((one.strike, other.strike, one.right, other.right) if is_option else ()))
    return all(each is not None for each in needed) and bool(names_of(one) & names_of(other))


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
    told = each.con_id if isinstance(each, BrokerPosition) else _contract(each).con_id
    return told if told is not None else each.instrument.con_id


def _contract(each: Holding | BrokerPosition) -> Contract:
    return Contract(each.instrument, each.terms if each.instrument.asset_class in DERIVATIVES else None)


def _other_names(each: Holding | BrokerPosition) -> frozenset[str]:
    return each.also_called if isinstance(each, BrokerPosition) else frozenset()


def family_of(instrument: Instrument) -> AssetClass:
    return AssetClass.STOCK if instrument.asset_class in SHARES else instrument.asset_class


def symbol_of(instrument: Instrument) -> str:
    if instrument.asset_class is AssetClass.FOREX:
        return "".join(letter for letter in instrument.symbol if letter.isalpha())
    return instrument.symbol.rpartition(":")[2]


def names_of(instrument: Instrument) -> set[str]:
    as_written = instrument.symbol.rpartition(":")[2]
    return {symbol_of(instrument), as_written} | (
        {instrument.underlying} if instrument.underlying is not None else set()
    )


def instrument_of_key(key: str) -> Instrument | None:
    """The instrument that an `Instrument.key` stands for: old rows kept only the key."""
    parts = key.split("|")
    names = [place for place, part in enumerate(parts) if place and part in AssetClass.__members__]
    if not names:
        return None
    place = names[0]
    said = dict(part.split("=", 1) for part in parts[place + 1 :] if "=" in part)
    try:
        return Instrument(
            symbol="|".join(parts[:place]),
            asset_class=AssetClass(parts[place]),
            exchange=said.get("exchange"),
            expiry=said.get("expiry"),
            strike=Decimal(said["strike"]) if "strike" in said else None,
            right=OptionRight(said["right"]) if "right" in said else None,
            currency=said.get("currency"),
            con_id=int(said["con_id"]) if "con_id" in said else None,
        )
    except (ValueError, InvalidOperation):
        return None


def _upper(text: str | None) -> str | None:
    return None if text is None else text.upper()


def agree(one: object, other: object) -> bool:
    return one is None or other is None or one == other


def _expiries_agree(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one.startswith(other) or other.startswith(one)


def amount_text(amount: Decimal) -> str:
    return format(amount.normalize(), "f") if amount else "0"


# --- lasting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A difference that has not lasted long enough yet, or that has been opened."""

    steady: str
    since: float
    """Seconds of a monotonic clock."""
    readings: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What earlier readings showed."""

    suspicions: Mapping[Key, Suspicion] = field(default_factory=lambda: MappingProxyType({}))
    absences: Mapping[Key, int] = field(default_factory=lambda: MappingProxyType({}))
    """Of the open differences: in how many consecutive readings each was missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    watch: Watch
    opened: tuple[Finding, ...] = ()
    changed: tuple[Finding, ...] = ()
    """Open differences whose values have changed."""
    replaced: tuple[Finding, ...] = ()
    """Open differences that have turned into others and lasted as such, so that what people were told no longer
    holds."""
    closed: tuple[Key, ...] = ()
    unconfirmed: tuple[Finding, ...] = ()
    """Seen, but not for long enough."""

    @property
    def is_unsettled(self) -> bool:
        """Whether another reading soon would settle something."""
        return bool(self.unconfirmed or self.watch.absences)


def judge(
    watch: Watch,
    open_now: Mapping[Key, Finding],
    findings: Iterable[Finding],
    *,
    judged: AbstractSet[DiscrepancyKind],
    held_back: AbstractSet[Key] = frozenset(),
    now: float,
    lasting_seconds: float = LASTING_SECONDS,
) -> Judgement:
    """The effect of one more reading on what is open and suspected. `judged`: the kinds that this reading could see;
    `held_back`: differences about orders or positions that changed during it, on which it has no say. `now` is of a
    monotonic clock."""
    found = {f.key: f for f in findings if f.kind in judged and f.key not in held_back}
    suspicions: dict[Key, Suspicion] = {
        key: suspicion
        for key, suspicion in watch.suspicions.items()
        if key not in found and (key[0] not in judged or key in held_back)
    }
    opened: list[Finding] = []
    changed: list[Finding] = []
    replaced: list[Finding] = []
    unconfirmed: list[Finding] = []
    for key, finding in found.items():
        before = watch.suspicions.get(key)
        if before is None or before.steady != finding.sameness:
            suspicion = Suspicion(steady=finding.sameness, since=now)
        else:
            suspicion = replace(before, readings=before.readings + 1)
        suspicions[key] = suspicion
        has_lasted = _has_lasted(finding.kind, suspicion, now, lasting_seconds)
        if key not in open_now:
            (opened if has_lasted else unconfirmed).append(finding)
        elif _is_another(open_now[key], finding):
            (replaced if has_lasted else unconfirmed).append(finding)
        elif (finding.ours, finding.theirs) != (open_now[key].ours, open_now[key].theirs):
            changed.append(_as_known(finding, open_now[key]))
    absences: dict[Key, int] = {}
    closed = []
    for key in open_now:
        if key in found:
            continue
        if key[0] not in judged or key in held_back:
            if key in watch.absences:
                absences[key] = watch.absences[key]
            continue
        missed = watch.absences.get(key, 0) + 1
        if missed >= READINGS:
            closed.append(key)
        else:
            absences[key] = missed
    return Judgement(
        watch=Watch(suspicions=suspicions, absences=absences),
        opened=tuple(opened),
        changed=tuple(changed),
        replaced=tuple(replaced),
        closed=tuple(closed),
        unconfirmed=tuple(unconfirmed),
    )


def resting_exits(group: InstrumentGroup, exits: Iterable[Order]) -> str:
    """The working exits of the group's instrument that may take the broker's position beyond what our strategies
    hold. They were sent before the position changed, and only a person may cancel them. Empty: none."""
    nets: dict[str, Decimal] = {}
    for holding in group.ours:
        nets[holding.strategy] = nets.get(holding.strategy, ZERO) + holding.quantity
    long = sum((held for held in nets.values() if held > 0), ZERO)
    short = long - sum(nets.values(), ZERO)
    named = []
    for side, most in ((Side.SELL, group.shown + short), (Side.BUY, long - group.shown)):
        at_work = [order for order in exits if order.accepted_request.side is side]
        if sum((order.remaining_quantity for order in at_work), ZERO) > max(ZERO, most):
            named += [f"{order.signal_id} ({side} {amount_text(order.remaining_quantity)})" for order in at_work]
    return ", ".join(sorted(named))


def _is_another(opened: Finding, finding: Finding) -> bool:
    """Whether a position difference has turned into another: its amount changed (our own fills do not change it), or
    what replaced the position became known."""
    if finding.kind not in OF_POSITIONS:
        return False
    is_explained = bool(finding.successor) and finding.successor != opened.successor
    return finding.steady != opened.steady or is_explained


def _as_known(finding: Finding, opened: Finding) -> Finding:
    """With the known facts about the difference, which a later reading may no longer show."""
    return replace(
        finding,
        note=finding.note or opened.note,
        successor=finding.successor or opened.successor,
        before=opened.before,
    )


def _has_lasted(kind: DiscrepancyKind, suspicion: Suspicion, now: float, lasting_seconds: float) -> bool:
    if kind in _SURE:
        return True
    is_long = kind not in _LASTING or now - suspicion.since >= lasting_seconds
    return suspicion.readings >= READINGS and is_long
