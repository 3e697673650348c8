"""The request of a person to adopt a position that changed without this service, and the records that it becomes.
Which movements it consists of is decided in `adoption/plan.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, localcontext
from hashlib import sha256

from brokers.base import AssetClass, BrokerPosition, ContractTerms, Fill, Instrument, OrderType, Side
from execution_service.core.exact import ZERO
from execution_service.core.messages.fields import Fields
from execution_service.core.messages.inbound import ParsedOrder, parse_order_fields
from execution_service.core.orders.events import Adopted, ContractResolved, Filled, Occasion
from execution_service.core.orders.order import Order, apply_all, new_order
from execution_service.core.orders.request import Identity, OrderRequest, Purpose
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.reconcile.discrepancies import Discrepancy
from execution_service.core.texts.values import plain, quantity

ALL_OF_IT = frozenset({Occasion.SPLIT, Occasion.RENAME, Occasion.MERGE})
"""These affect the whole holding."""
OPENING = frozenset({Occasion.TRADE, Occasion.TRANSFER_IN})
INTO_SHARES = frozenset({Occasion.ASSIGNMENT, Occasion.EXERCISE})
_STEP = timedelta(milliseconds=1)
"""Between the records of one adoption, so that what is closed is booked before what is opened."""
_EXACT = Context(prec=80)
_OCCASIONS = {occasion.value.upper().replace("-", "_"): occasion for occasion in Occasion}
_PRODUCTS = {word: word for word in ("MIS", "NRML", "CNC", "LONG", "SHORT")}
_SIDES = {side.value: side for side in Side}


# --- what the person says -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionRequest:
    """One adoption as requested; each field is valid by itself."""

    occasion: Occasion
    account_id: str
    strategy: str
    by: str
    reason: str
    instrument: Instrument | None = None
    holding: str | None = None
    """The instrument by its key in our ledger; otherwise `instrument` names it."""
    product: str | None = None
    """The product of what is opened, if the broker keeps products apart."""
    quantity: Decimal | None = None
    """None: all that is held."""
    price: Decimal | None = None
    side: Side | None = None
    successor: Mapping[str, object] | None = None
    """The instrument that replaced it, in an order's fields; fields not given are as before."""
    ratio: tuple[Decimal, Decimal] | None = None
    """(old, new): so many old units became so many new ones."""
    new_quantity: Decimal | None = None
    new_price: Decimal | None = None
    cash: Decimal = ZERO
    """Cash received besides, in the instrument's currency; negative: paid."""
    entries: tuple[str, ...] = ()
    """The signals of the entries that it belongs to."""
    discrepancy_id: str | None = None
    happened_at: datetime | None = None
    is_new: bool = False
    """It may open a position that the strategy did not have."""
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nothing is adopted: every reason."""

    problems: tuple[str, ...]

    @property
    def words(self) -> str:
        return "; ".join(self.problems)


def read_adoption_request(body: Mapping[str, object]) -> AdoptionRequest | Refused:
    """The request in a command's fields. Amounts are decimal text; `instrument` and `successor` are objects with an
    order's instrument fields."""
    fields = Fields(body)
    occasion = fields.word("occasion", _OCCASIONS)
    texts = {name: fields.text(name) for name in ("account_id", "strategy", "by", "reason")}
    for name in ("occasion", *texts):
        if not fields.has(name):
            fields.problems.append(f"{name} is missing")
    instrument = _named_instrument(fields) if fields.has("instrument") or not fields.has("holding") else None
    if fields.has("instrument") and fields.has("holding"):
        fields.problems.append("holding does not go with instrument: either names it")
    successor = fields.get("successor") or None
    if successor is not None and not isinstance(successor, Mapping):
        fields.wrong("successor", "an instrument's fields")
    request = {
        "holding": fields.text("holding"),
        "product": fields.word("product", _PRODUCTS),
        "quantity": fields.positive("quantity"),
        "price": fields.number("price"),
        "side": fields.word("side", _SIDES),
        "ratio": _ratio(fields),
        "new_quantity": fields.positive("new_quantity"),
        "new_price": fields.number("new_price"),
        "cash": fields.number("cash") or ZERO,
        "discrepancy_id": fields.text("discrepancy_id"),
        "happened_at": _moment(fields),
    }
    entries = fields.get("entries") or ()
    if not isinstance(entries, list | tuple) or not all(isinstance(each, str) and each.strip() for each in entries):
        fields.wrong("entries", "a list of signals")
        entries = ()
    if fields.problems:
        return Refused(tuple(fields.problems))
    assert occasion is not None
    made = AdoptionRequest(
        occasion=occasion,
        account_id=str(texts["account_id"]),
        strategy=str(texts["strategy"]),
        instrument=instrument,
        by=str(texts["by"]),
        reason=str(texts["reason"]),
        successor=successor if isinstance(successor, Mapping) else None,
        entries=tuple(str(each) for each in entries),
        is_new=body.get("is_new") is True,
        is_forced=body.get("is_forced") is True,
        **request,  # type: ignore[arg-type]
    )
    problems = _contradictions(made)
    return Refused(problems) if problems else made


def negative_prices(request: AdoptionRequest, instrument: Instrument) -> list[str]:
    """Some futures have traded below zero; nothing else has."""
    if instrument.asset_class is AssetClass.FUTURE:
        return []
    prices = {"price": request.price, "new_price": request.new_price}
    return [f"{name} must not be negative" for name, price in prices.items() if price is not None and price < 0]


def _named_instrument(fields: Fields) -> Instrument | None:
    given = fields.get("instrument")
    if not isinstance(given, Mapping):
        fields.problems.append("instrument is missing")
        return None
    found = read_instrument(given)
    if isinstance(found, Refused):
        fields.problems += found.problems
        return None
    return found


def read_instrument(given: Mapping[str, object]) -> Instrument | Refused:
    """By the rules for an order's instrument."""
    order = {"signal_id": "-", "account_id": "-", "strategy_name": "-", "side": "BUY", "quantity": "1"}
    parsed = parse_order_fields({**given, **order, "order_type": "MARKET"})
    if isinstance(parsed, ParsedOrder) and isinstance(parsed.request, OrderRequest):
        return parsed.request.instrument
    return Refused(parsed.problems if isinstance(parsed, ParsedOrder) else (parsed.reason,))


def instrument_fields(instrument: Instrument) -> dict[str, str]:
    """The instrument in an order's fields."""
    names = {each.name: getattr(instrument, each.name) for each in fields(Instrument)}
    return {
        "instrument_type" if name == "asset_class" else name: str(value)
        for name, value in names.items()
        if value is not None
    }


def _ratio(fields: Fields) -> tuple[Decimal, Decimal] | None:
    given = fields.get("ratio")
    if given is None:
        return None
    old, colon, new = str(given).partition(":")
    parts = Fields({"ratio": old, "new": new})
    numbers = parts.positive("ratio"), parts.positive("new")
    if not colon or parts.problems or None in numbers:
        fields.wrong("ratio", "OLD:NEW, such as 1:2 where one became two")
        return None
    return numbers[0] or ZERO, numbers[1] or ZERO


def _moment(fields: Fields) -> datetime | None:
    given = fields.get("happened_at")
    if given is None:
        return None
    if isinstance(given, datetime):
        return given
    try:
        moment = datetime.fromisoformat(str(given))
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        fields.wrong("happened_at", "a time such as 2026-11-24T15:30:00+05:30, or a date")
        return None
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _contradictions(request: AdoptionRequest) -> tuple[str, ...]:
    """Fields that are missing for this kind of adoption, and fields that do not belong to it."""
    occasion, problems = request.occasion, []

    def needs(name: str, value: object) -> None:
        if value is None:
            problems.append(f"{occasion} needs {name}")

    def excludes(name: str, value: object) -> None:
        if value is not None:
            problems.append(f"{name} does not go with {occasion}")

    if occasion in (Occasion.SQUARE_OFF, Occasion.TRADE, Occasion.TRANSFER_IN):
        needs("price", request.price)
    if occasion in OPENING:
        needs("quantity", request.quantity)
    if occasion is Occasion.TRADE:
        needs("side", request.side)
    elif occasion is not Occasion.TRANSFER_IN:
        excludes("side", request.side)
    if occasion in (Occasion.RENAME, Occasion.MERGE):
        needs("a successor (new_symbol)", request.successor)
    has_successor = occasion in ALL_OF_IT | INTO_SHARES
    if not has_successor:
        excludes("new_symbol", request.successor)
        excludes("new_quantity", request.new_quantity)
        excludes("new_price", request.new_price)
    if occasion in ALL_OF_IT:
        excludes("quantity (it is about all that is held)", request.quantity)
    if occasion in (Occasion.SPLIT, Occasion.MERGE) and request.ratio is None:
        needs("ratio or new_quantity", request.new_quantity)
    if occasion not in ALL_OF_IT:
        excludes("ratio", request.ratio)
        excludes("cash", request.cash or None)
    if request.ratio is not None:
        excludes("ratio beside new_quantity", request.new_quantity)
    if occasion is Occasion.TRANSFER_IN and request.entries:
        problems.append("entries does not go with transfer-in: it is an entry of its own")
    if occasion not in OPENING:
        excludes("product", request.product)
    if request.holding is not None and occasion is Occasion.TRANSFER_IN:
        needs("the instrument's own fields (symbol)", request.instrument)
    return tuple(problems)


# --- what there is ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionBooks:
    """What a plan is made from: our ledger and the broker's positions at one moment."""

    ledgers: tuple[LedgerEntry, ...] = ()
    """The account's open entries and those that the request may mean, including every recorded fill."""
    orders: tuple[Order, ...] = ()
    """The orders that built the positions, their exits, and those that the request names."""
    at_work: tuple[Order, ...] = ()
    """The account's unfinished orders."""
    theirs: Sequence[BrokerPosition] | None = None
    """The broker's positions; None: it did not report them."""
    discrepancy: Discrepancy | None = None
    """The discrepancy that the request names."""
    closing_it: tuple[str, ...] = ()
    """Adoptions in progress that are meant to close it too."""


@dataclass(frozen=True, slots=True)
class Deal:
    """The part of a movement that has one price."""

    quantity: Decimal
    price: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryProtection:
    """The stop and the target of an entry, as its request names them."""

    stop_loss: Decimal | None = None
    take_profit: Decimal | None = None
    trail_percent: Decimal | None = None
    trail_amount: Decimal | None = None

    @property
    def words(self) -> str:
        """For people, for example: , stop 45, target 60."""
        said = (
            ("stop", self.stop_loss, ""),
            ("target", self.take_profit, ""),
            ("trailing by", self.trail_percent, " %"),
            ("trailing by", self.trail_amount, ""),
        )
        return "".join(f", {name} {plain(f'{value:f}')}{unit}" for name, value, unit in said if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One record of the adoption: a closing or opening, for at most one entry."""

    instrument: Instrument
    holding: str
    """The ledger key of the holding that it changes."""
    side: Side
    purpose: Purpose
    deals: tuple[Deal, ...]
    """Several if a single price would have no finite decimal form, so that no money appears or vanishes."""
    entry_refs: tuple[str, ...] = ()
    stands_for: tuple[str, ...] = ()
    product: str | None = None
    terms: ContractTerms | None = None
    """What the broker reported of the holding's contract."""
    protection: EntryProtection | None = None
    """How what it opens is protected from now on; None: not at all."""

    @property
    def quantity(self) -> Decimal:
        return sum((deal.quantity for deal in self.deals), ZERO)

    @property
    def value(self) -> Decimal:
        """Quantity times price, exactly."""
        with localcontext(_EXACT):
            return sum((deal.quantity * deal.price for deal in self.deals), ZERO)

    @property
    def words(self) -> str:
        """For people, for example: SELL 4 INFY|STOCK at 1510."""
        with localcontext(_EXACT):
            price = quantity((self.value / self.quantity).quantize(Decimal("1e-8")))
        protected = "" if self.protection is None else self.protection.words
        return f"{self.side} {quantity(self.quantity)} {plain(self.holding)} at {price}{protected}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """One holding as it was when the plan was made."""

    ledger_id: str
    quantity: Decimal
    cost: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class After:
    """One holding after the adoption, and before it, for people."""

    strategy: str
    holding: str
    instrument: Instrument
    before: Decimal
    after: Decimal
    before_average: Decimal | None
    after_average: Decimal | None
    realized: Decimal
    """Realised by the adoption alone, in the instrument's currency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be recorded, and the holdings after that."""

    movements: tuple[Movement, ...]
    before: tuple[Before, ...]
    """Every holding that it changes. If one of them has changed by the time of execution, the plan is not executed."""
    holdings: tuple[After, ...]
    warnings: tuple[str, ...] = ()
    """Reasons not to do it without checking again."""


def _contract(movement: Movement, at: datetime) -> tuple[ContractResolved, ...]:
    """The event by which the record is booked in the holding that was shown, whatever the instrument's own name
    would give."""
    booked_as = None if movement.holding == movement.instrument.key else movement.holding
    resolved = ContractResolved(at=at, terms=movement.terms, booked_as=booked_as)
    return () if (resolved.terms, resolved.booked_as) == (None, None) else (resolved,)


# --- the records -----------------------------------------------------------------------------------------------------


def adoption_id(command_id: str) -> str:
    """Stands in the records for a signal id; the same for one command at all times."""
    return "adopt-" + sha256(command_id.encode()).hexdigest()[:16]


def records_of(
    request: AdoptionRequest, movements: Sequence[Movement], *, command_id: str, received_at: datetime, text: str
) -> tuple[Order, ...]:
    """The adoption as filled records, closings before openings. The same command always gives the same records.
    `text`: the command as received."""
    left = "; ".join(m.words for m in movements if m.purpose is Purpose.EXIT)
    came = "; ".join(m.words for m in movements if m.purpose is Purpose.ENTRY)
    made = []
    for number, movement in enumerate(movements):
        identity = Identity(signal_id=adoption_id(command_id), leg_index=number, purpose=movement.purpose)
        protection = movement.protection or EntryProtection()
        at = received_at + number * _STEP
        bare = new_order(
            identity,
            OrderRequest(
                account_id=request.account_id,
                strategy=request.strategy,
                instrument=movement.instrument,
                side=movement.side,
                quantity=movement.quantity,
                order_type=OrderType.MARKET,
                product=movement.product,
                entry_refs=movement.entry_refs,
                stands_for=movement.stands_for,
                stop_loss=protection.stop_loss,
                take_profit=protection.take_profit,
                trail_percent=protection.trail_percent,
                trail_amount=protection.trail_amount,
            ),
            received_at=at,
            published_at=at,
            message_id=command_id,
            raw=text,
        )
        adopted = Adopted(
            at=at,
            command_id=command_id,
            occasion=request.occasion,
            by=request.by,
            message=request.reason,
            left="" if number else left,
            came="" if number else came,
            discrepancy_id=request.discrepancy_id,
            record_count=len(movements),
        )
        moment = at if request.happened_at is None else request.happened_at + number * _STEP
        fills = [
            Filled(
                at=at,
                fill=Fill(
                    fill_id=f"{identity.signal_id}-{number}-{place}",
                    quantity=deal.quantity,
                    price=deal.price,
                    time=moment,
                ),
            )
            for place, deal in enumerate(movement.deals, 1)
        ]
        made.append(apply_all(bare, (adopted, *_contract(movement, at), *fills)))
    return tuple(made)


def is_half_recorded(records: Sequence[Order]) -> bool:
    """Whether an adoption, or its being taken back, is recorded in part only, so that the books are wrong until the rest is. `records`: all that
    there are of it now."""
    expected = max((each.adoption.record_count for each in records if each.adoption is not None), default=0)
    return len(records) < expected or len({bool(each.fills) for each in records}) > 1
