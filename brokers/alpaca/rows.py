"""Reads the rows of Alpaca's answers, each by itself; unreadable rows are returned with the reason. Their meaning for
our orders is not known here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

T = TypeVar("T")
Row = Mapping[str, Any]
_OUR_TAG = re.compile(r"[a-z][a-z0-9]{18}")
_BEYOND = Decimal(10) ** 18
"""No quantity, price or amount of money is this large."""
_SHOWN_CHARACTERS = 200
_FIRST_YEAR, _LAST_YEAR = 2000, 2200


class Malformed(ValueError):
    """A row that cannot be read. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRow:
    """One order. Where one was replaced, each of the chain is a row of its own."""

    order_id: str
    tag: str = ""
    """Our client order id; empty for somebody else's order."""
    status: str
    """Alpaca's own word; new ones may appear."""
    filled: Decimal
    average_price: Decimal | None = None
    """Of its executions. None: there are none, or it cannot be read."""
    symbol: str = ""
    asset_class: str = ""
    """Alpaca's own word; empty: the row does not say it."""
    side: str = ""
    tif: str = ""
    submitted_at: datetime | None = None
    replaced_by: str | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FillRow:
    """One execution, as the account's activities show it."""

    activity_id: str
    order_id: str
    quantity: Decimal
    price: Decimal
    time: datetime | None
    """None if the row does not say it legibly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetRow:
    """What Alpaca says of an asset or of an option contract. None: it does not say."""

    symbol: str
    asset_class: str
    exchange: str = ""
    is_tradable: bool
    is_fractionable: bool = False
    cusip: str | None = None
    least_quantity: Decimal | None = None
    quantity_step: Decimal | None = None
    price_step: Decimal | None = None
    multiplier: Decimal | None = None
    """Of an option contract."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionRow:
    """What is held, shorts below zero. None: that part cannot be read."""

    symbol: str
    asset_class: str
    quantity: Decimal | None
    average_price: Decimal | None
    available: Decimal | None = None
    """What no open order holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRow:
    """The market in one asset: its latest quote and its latest trade. None: there is no such price."""

    bid: Decimal | None
    ask: Decimal | None
    last: Decimal | None
    at: datetime
    """When the quote came to stand so; without one, when the trade was."""
    last_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRow:
    number: str
    status: str
    currency: str
    cash: Decimal
    equity: Decimal | None
    blocks: tuple[str, ...] = ()
    """What keeps the account from trading, by Alpaca's names."""
    options_level: int | None = None
    crypto_status: str | None = None
    allows_shorts: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedRow:
    """A row that could not be read. Nothing may be concluded about the order that it may belong to."""

    order_id: str | None = None
    """None: unknown."""
    tag: str | None = None
    """None: unknown; empty: not ours."""
    words: str


def read_orders(rows: object) -> tuple[list[OrderRow], list[MalformedRow]]:
    """A page of the order list. Raises Malformed for anything that is no list."""
    return _each(rows, read_order, "order")


def read_fills(rows: object) -> tuple[list[FillRow], list[MalformedRow]]:
    """A page of the account's fills. Raises Malformed for anything that is no list."""
    return _each(rows, _fill, "fill")


def read_order(row: object) -> OrderRow:
    """Raises Malformed."""
    order = _a_row(row)
    return OrderRow(
        order_id=text(order, "id"),
        tag=tag_of(order),
        status=text(order, "status"),
        filled=number(order, "filled_qty", least=0),
        average_price=_number_or_none(order, "filled_avg_price"),
        symbol=_text_or_none(order.get("symbol")) or "",
        asset_class=_text_or_none(order.get("asset_class")) or "",
        side=_text_or_none(order.get("side")) or "",
        tif=_text_or_none(order.get("time_in_force")) or "",
        submitted_at=moment(order.get("submitted_at")) or moment(order.get("created_at")),
        replaced_by=_text_or_none(order.get("replaced_by")),
        replaces=_text_or_none(order.get("replaces")),
    )


def read_positions(rows: object) -> list[PositionRow | None]:
    """None for a row that does not even name its asset. Raises Malformed for anything that is no list."""
    if not isinstance(rows, list):
        raise Malformed("Alpaca answered with no list of positions")
    return [_position(row) for row in rows]


def read_position(said: object) -> PositionRow:
    """Raises Malformed."""
    row = _position(said)
    if row is None:
        raise Malformed("it names no asset")
    return row


def read_account(said: object) -> AccountRow:
    """Raises Malformed."""
    row = _a_row(said)
    level = row.get("options_trading_level")
    shorts = row.get("shorting_enabled")
    return AccountRow(
        number=_text_or_none(row.get("account_number")) or "",
        status=_text_or_none(row.get("status")) or "",
        currency=_text_or_none(row.get("currency")) or "USD",
        cash=number(row, "cash"),
        equity=_number_or_none(row, "equity"),
        blocks=tuple(
            name
            for name in ("trading_blocked", "account_blocked", "trade_suspended_by_user", "transfers_blocked")
            if row.get(name) is True
        ),
        options_level=level if isinstance(level, int) and not isinstance(level, bool) else None,
        crypto_status=_text_or_none(row.get("crypto_status")),
        allows_shorts=shorts if isinstance(shorts, bool) else None,
    )


def read_clock(said: object) -> datetime | None:
    """When the market of shares opens. None: it is open, or the answer says neither."""
    row = said if isinstance(said, Mapping) else {}
    return moment(row.get("next_open")) if row.get("is_open") is False else None


def read_asset(said: object) -> AssetRow:
    """Raises Malformed."""
    row = _a_row(said)
    return AssetRow(
        symbol=text(row, "symbol"),
        asset_class=_text_or_none(row.get("class")) or "us_equity",
        exchange=(_text_or_none(row.get("exchange")) or "").upper(),
        is_tradable=row.get("tradable") is True and row.get("status") == "active",
        is_fractionable=row.get("fractionable") is True,
        cusip=_text_or_none(row.get("cusip")),
        least_quantity=_step(row, "min_order_size"),
        quantity_step=_step(row, "min_trade_increment"),
        price_step=_step(row, "price_increment"),
    )


def read_contract(said: object) -> AssetRow:
    """An option contract. Raises Malformed."""
    row = _a_row(said)
    multiplier = number(row, "multiplier" if row.get("multiplier") is not None else "size", least=1)
    return AssetRow(
        symbol=text(row, "symbol"),
        asset_class="us_option",
        is_tradable=row.get("tradable") is True and row.get("status") == "active",
        multiplier=multiplier,
    )


def read_snapshots(said: object) -> Mapping[str, object]:
    """What is told by symbol; that of shares stands by itself, that of others under a name. Raises Malformed."""
    row = _a_row(said)
    inner = row.get("snapshots", row)
    return _a_row(inner)


def read_volumes(said: object) -> Mapping[str, Sequence[Decimal]]:
    """By symbol, what was traded in each of its bars, as they come; a symbol of which one cannot be read is left out. Raises Malformed, also where
    there are more pages."""
    row = _a_row(said)
    if row.get("next_page_token") is not None:
        raise Malformed("there are more bars than a page has")
    found = {}
    for symbol, bars in _a_row(row.get("bars")).items():
        try:
            volumes, malformed = _each(bars, lambda bar: number(_a_row(bar), "v", least=0), "bar")
        except Malformed:
            continue
        if not malformed:
            found[symbol] = volumes
    return found


def read_snapshot(said: object) -> SnapshotRow:
    """Raises Malformed, also for one of which nobody can tell how old it is."""
    row = _a_row(said)
    quote, trade = (row.get(name) for name in ("latestQuote", "latestTrade"))
    bid, ask = _price_in(quote, "bp"), _price_in(quote, "ap")
    last, last_at = _price_in(trade, "p"), moment(trade.get("t")) if isinstance(trade, Mapping) else None
    at = moment(quote.get("t")) if isinstance(quote, Mapping) else last_at
    if at is None:
        raise Malformed("it does not say when that was")
    return SnapshotRow(bid=bid, ask=ask, last=last, at=at, last_at=last_at)


def _price_in(row: object, name: str) -> Decimal | None:
    """0 and what is missing is no price. Raises Malformed for anything else that is none."""
    if row is None:
        return None
    fields = _a_row(row)
    return number(fields, name, least=0) or None if fields.get(name) is not None else None


def tag_of(row: Row) -> str:
    """Our tag on an order; empty for somebody else's. Raises Malformed if that cannot be determined."""
    said = row.get("client_order_id")
    if said is not None and not isinstance(said, str):
        raise Malformed(f"its client_order_id is {said!r}")
    return said if said and _OUR_TAG.fullmatch(said) else ""


def number(row: Row, name: str, *, least: int | None = None) -> Decimal:
    """A number in the row, exactly. Raises Malformed for anything else, and for less than `least`."""
    said = row.get(name)
    try:
        value = None if isinstance(said, bool) or not isinstance(said, int | str | Decimal) else Decimal(said)
    except InvalidOperation:
        value = None
    is_amount = value is not None and value.is_finite() and abs(value) < _BEYOND
    if value is None or not is_amount or (least is not None and value < least):
        raise Malformed(f"its {name} is {said!r}")
    return value


def text(row: Row, name: str) -> str:
    """A text in the row, not empty. Raises Malformed."""
    said = row.get(name)
    if not isinstance(said, str) or not said.strip():
        raise Malformed(f"its {name} is {said!r}")
    return said


def moment(said: object) -> datetime | None:
    """None if it is not a date and time with a zone. Alpaca's nanoseconds become microseconds."""
    if not isinstance(said, str):
        return None
    try:
        time = datetime.fromisoformat(said)
        time = time.astimezone(UTC) if time.tzinfo is not None else None  # type: ignore[assignment]
    except (ValueError, OverflowError):
        return None
    return time if time is not None and _FIRST_YEAR <= time.year < _LAST_YEAR else None


def _each(rows: object, read: Callable[[object], T], kind: str) -> tuple[list[T], list[MalformedRow]]:
    if not isinstance(rows, list):
        raise Malformed(f"Alpaca answered with no list of {kind}s")
    good: list[T] = []
    malformed: list[MalformedRow] = []
    for row in rows:
        try:
            good.append(read(row))
        except Malformed as exc:
            malformed.append(_malformed_row(row, f"The {kind} row {_shown(row)} cannot be read: {exc}"))
    return good, malformed


def _a_row(row: object) -> Row:
    if not isinstance(row, Mapping):
        raise Malformed("it is no object")
    return row


def _malformed_row(row: object, words: str) -> MalformedRow:
    if not isinstance(row, Mapping):
        return MalformedRow(words=words)
    is_fill = "activity_type" in row
    order_id = _text_or_none(row.get("order_id" if is_fill else "id"))
    try:
        tag = None if is_fill else tag_of(row)
    except Malformed:
        tag = None
    return MalformedRow(order_id=order_id, tag=tag, words=words)


def _shown(row: object) -> str:
    if isinstance(row, Mapping):
        named = {name: row.get(name) for name in ("id", "order_id", "client_order_id") if name in row}
        return repr(named)[:_SHOWN_CHARACTERS]
    return repr(row)[:_SHOWN_CHARACTERS]


def _fill(said: object) -> FillRow:
    row = _a_row(said)
    quantity, price = number(row, "qty"), number(row, "price", least=0)
    if not quantity or not price:
        raise Malformed(f"it is of {quantity:f} at {price:f}")
    return FillRow(
        activity_id=text(row, "id"),
        order_id=text(row, "order_id"),
        # Some of Alpaca's documents show sales below zero.
        quantity=abs(quantity),
        price=price,
        time=moment(row.get("transaction_time")),
    )


def _position(said: object) -> PositionRow | None:
    symbol = _text_or_none(said.get("symbol")) if isinstance(said, Mapping) else None
    if symbol is None:
        return None
    row = _a_row(said)
    try:
        quantity = number(row, "qty")
    except Malformed:
        quantity = None
    if quantity is not None and row.get("side") == "short":
        quantity = -abs(quantity)
    return PositionRow(
        symbol=symbol,
        asset_class=_text_or_none(row.get("asset_class")) or "us_equity",
        quantity=quantity,
        average_price=_number_or_none(row, "avg_entry_price"),
        available=_number_or_none(row, "qty_available"),
    )


def _step(row: Row, name: str) -> Decimal | None:
    value = _number_or_none(row, name)
    return value if value is not None and value > 0 else None


def _number_or_none(row: Row, name: str) -> Decimal | None:
    try:
        return number(row, name)
    except Malformed:
        return None


def _text_or_none(said: object) -> str | None:
    return said if isinstance(said, str) and said.strip() else None
