"""Reads the rows of Kite's lists, each by itself; unreadable rows are returned with the reason. Their meaning for
our orders is not known here."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

T = TypeVar("T")

IST = timezone(timedelta(hours=5, minutes=30), "IST")
"""India has had no daylight saving time since 1945."""
ICEBERG = "iceberg"
AMO = "amo"
AMO_WAITING = "AMO REQ RECEIVED"
_OUR_TAG = re.compile(r"[a-z][a-z0-9]{18}")
_NOTED = ("exchange", "tradingsymbol", "transaction_type", "variety", "product", "order_type")
_TRADE_TIMES = ("fill_timestamp", "exchange_timestamp", "order_timestamp")
_SHOWN_CHARACTERS = 200
_BEYOND = Decimal(10) ** 18
"""No quantity, price or amount of money is this large."""
_FIRST_YEAR, _LAST_YEAR = 2000, 2200

Row = Mapping[str, Any]
"""One element of a list that Kite sends."""


class Malformed(ValueError):
    """A row that cannot be read. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """The part of an iceberg order that a row is. `number` counts from 1; `total` is the whole order's quantity,
    `quantity` this part's (None if the row does not say it legibly)."""

    number: int
    total: Decimal
    quantity: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRow:
    """One order in the list, or one leg of an iceberg order."""

    order_id: str
    parent_order_id: str | None = None
    tag: str = ""
    """Our tag; empty for somebody else's order."""
    status: str
    """Kite's own word; new ones may appear."""
    variety: str = "regular"
    filled: Decimal = Decimal(0)
    reason: str | None = None
    leg: Leg | None = None
    """None if the order is not an iceberg."""
    placed_at: datetime | None = None
    """None if the row does not say it legibly."""
    is_stop: bool = False
    """It waits, or has waited, for a trigger."""
    noted: Mapping[str, str] | None = None
    """The fields with which a contract note is requested. None if the row lacks any."""
    exchange: str = ""
    symbol: str = ""
    side: str = ""
    """Empty if the row does not say them legibly."""

    @property
    def is_waiting_amo(self) -> bool:
        """An after-market order that Zerodha has not passed on to the exchange yet."""
        return self.status == AMO_WAITING

    @property
    def cancelled_as(self) -> str:
        """The variety under which it is cancelled. An after-market order is always shown as one, but is cancelled as
        a regular order once the exchange has it (kite.trade discussion, comment 40302)."""
        return "regular" if self.variety == AMO and not self.is_waiting_amo else self.variety


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeRow:
    """One execution. A trade's id is unique only within its exchange and day."""

    order_id: str
    trade_id: str
    quantity: Decimal
    price: Decimal
    time: datetime | None
    """None if the row does not say it legibly."""
    time_text: str = ""
    """Then its text in the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRow:
    """One line of an exchange's instruments list. Prices are in rupees; `lot` is the step of quantities, `tick` that
    of prices. If quantities are counted in lots (currencies, commodities), the units in a lot are not in the list."""

    symbol: str
    exchange: str
    name: str
    kind: str
    """EQ, FUT, CE or PE."""
    segment: str
    tick: Decimal
    lot: Decimal
    expiry: date | None
    strike: Decimal
    token: int | None = None
    """Kite's number of the instrument. None if it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteRow:
    """The market in one instrument, by the five levels of its depth. None: there is no such price."""

    bid: Decimal | None
    ask: Decimal | None
    last: Decimal | None
    at: datetime
    """When the exchange last told anything of it, by its clock."""
    last_at: datetime | None
    """When the last trade was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedRow:
    """A row that could not be read. Nothing may be concluded about the order that it may belong to, above all not
    that it does not exist."""

    order_id: str | None = None
    """None: unknown."""
    tag: str | None = None
    """None: unknown; empty: not ours."""
    parent_order_id: str | None = None
    variety: str | None = None
    status: str | None = None
    words: str

    def may_concern(self, tag: str) -> bool:
        return self.tag is None or self.tag == tag


def read_orders(rows: object) -> tuple[list[OrderRow], list[MalformedRow]]:
    """The order list; a repeated row counts once. A later leg of an iceberg order is tied to the first by its parent,
    and need not have the tag itself: it gets it here, whether it can be read or not. Raises Malformed for anything that
    is no list."""
    read, malformed = _each(rows, _order, "order")
    first: dict[str, OrderRow] = {}
    for row in read:
        first.setdefault(row.order_id, row)
    tags = {row.order_id: row.tag for row in malformed if row.order_id and row.tag}
    tags |= {order_id: row.tag for order_id, row in first.items() if row.leg and row.tag}
    tags |= {row.parent_order_id: row.tag for row in first.values() if row.leg and row.tag and row.parent_order_id}

    def inherited(row: OrderRow | MalformedRow) -> str:
        return tags.get(row.parent_order_id or "", "") if row.tag == "" else ""

    return (
        [replace(row, tag=tag) if row.leg and (tag := inherited(row)) else row for row in first.values()],
        [replace(row, tag=tag) if (tag := inherited(row)) else row for row in malformed],
    )


def read_trades(rows: object) -> tuple[list[TradeRow], list[MalformedRow]]:
    """The trade list. Raises Malformed for anything that is no list."""
    return _each(rows, _trade, "trade")


def read_listing(page: object) -> tuple[list[ListedRow], list[str]]:
    """The lines of an instruments list, and the trading symbols of unreadable lines. Raises Malformed for anything
    else, or an incomplete list."""
    if not isinstance(page, bytes | str):
        raise Malformed(f"the instruments list came as {type(page).__name__}")
    lines = csv.DictReader(io.StringIO(_tame(page if isinstance(page, str) else page.decode("utf-8", "replace"))))
    good: list[ListedRow] = []
    malformed: list[str] = []
    last = None
    try:
        for line in lines:
            try:
                last = _listed(line)
                good.append(last)
            except Malformed:
                last = None
                malformed.append(str(line.get("tradingsymbol")))
    except csv.Error as exc:
        raise Malformed(f"the instruments list cannot be read: {exc}") from exc
    if last is None:
        raise Malformed("the instruments list is empty, or ends in the middle of a line")
    return good, malformed


def _tame(page: str) -> str:
    """Without characters that would make a CSV reader merge lines or stop."""
    page = page.replace("\0", "\ufffd")
    if '"' not in page:
        return page
    lines = page.splitlines(keepends=True)
    return "".join(line.replace('"', "") if line.count('"') % 2 else line for line in lines)


def read_profile(reported: object) -> Row:
    """The user, the exchanges on which he may trade, and his consent; unreadable fields are left out. Raises
    Malformed for anything that is no profile."""
    if not isinstance(reported, Mapping):
        raise Malformed(f"Zerodha answered with no profile: {_shown(reported)}")
    exchanges, meta = reported.get("exchanges"), reported.get("meta")
    profile: dict[str, Any] = {"user_id": reported.get("user_id")}
    if isinstance(exchanges, list | tuple):
        profile["exchanges"] = [each for each in exchanges if isinstance(each, str)]
    if isinstance(meta, Mapping):
        profile["meta"] = meta
    return profile


def _listed(line: Row) -> ListedRow:
    lot, tick = number(line, "lot_size", least=0), number(line, "tick_size", least=0)
    if lot and not tick:
        raise Malformed("it has a lot and no tick")
    try:
        expiry = date.fromisoformat(line["expiry"]) if line["expiry"] else None
    except (KeyError, TypeError, ValueError) as exc:
        raise Malformed(f"its expiry is {line.get('expiry')!r}") from exc
    return ListedRow(
        symbol=text(line, "tradingsymbol"),
        exchange=text(line, "exchange"),
        name=line.get("name") or "",
        kind=text(line, "instrument_type"),
        segment=text(line, "segment"),
        tick=tick,
        strike=number(line, "strike", least=0),
        lot=lot,
        expiry=expiry,
        token=int(token) if isinstance(token := line.get("instrument_token"), str) and token.isdecimal() else None,
    )


def read_quote(row: object) -> QuoteRow:
    """Raises Malformed, also for a quote of which nobody can tell how old it is."""
    row = _a_row(row)
    at, last_at = _moment(row.get("timestamp")), _moment(row.get("last_trade_time"))
    if at is None and last_at is None:
        raise Malformed(f"its timestamp is {row.get('timestamp')!r}")
    depth = row.get("depth")
    bids, asks = (_prices(depth.get(side)) if isinstance(depth, Mapping) else [] for side in ("buy", "sell"))
    last = number(row, "last_price", least=0) if row.get("last_price") is not None else None
    return QuoteRow(
        bid=max(bids, default=None),
        ask=min(asks, default=None),
        last=last or None,
        at=at or last_at,  # type: ignore[arg-type]
        last_at=last_at,
    )


def _prices(levels: object) -> list[Decimal]:
    """Of one side of the depth. Empty levels have a price of 0."""
    rows = levels if isinstance(levels, list) else []
    return [price for row in rows if (price := number(_a_row(row), "price", least=0))]


def tag_of(row: Row) -> str:
    """Our tag on an order; empty for somebody else's. Raises Malformed if that cannot be determined."""
    single, several = row.get("tag"), row.get("tags")
    if several is not None and not isinstance(several, list):
        several = [several]
    tags = [single, *(several or ())]
    for tag in tags:
        if isinstance(tag, str) and _OUR_TAG.fullmatch(tag):
            return tag
    if not all(tag is None or isinstance(tag, str) for tag in tags):
        raise Malformed(f"its tag is {single!r}, its tags are {row.get('tags')!r}")
    return ""


def utc(reported: datetime | str) -> datetime:
    """Kite's times have no zone and are Indian. Raises ValueError, OverflowError."""
    moment = reported if isinstance(reported, datetime) else datetime.fromisoformat(reported)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=IST)).astimezone(UTC)


def number(row: Row, name: str, *, least: int | None = None) -> Decimal:
    """A number in the row, exactly. Raises Malformed for anything else, and for less than `least`."""
    reported = row.get(name)
    try:
        value = (
            None if isinstance(reported, bool) or not isinstance(reported, int | str | Decimal) else Decimal(reported)
        )
    except InvalidOperation:
        value = None
    is_amount = value is not None and value.is_finite() and abs(value) < _BEYOND
    if value is None or not is_amount or (least is not None and value < least):
        raise Malformed(f"its {name} is {reported!r}")
    return value


def text(row: Row, name: str) -> str:
    """A text in the row, not empty; a whole number is accepted. Raises Malformed."""
    reported = row.get(name)
    if isinstance(reported, bool) or not isinstance(reported, str | int) or not str(reported).strip():
        raise Malformed(f"its {name} is {reported!r}")
    return str(reported)


def _each(rows: object, read: Callable[[Row], T], kind: str) -> tuple[list[T], list[MalformedRow]]:
    if not isinstance(rows, list):
        raise Malformed(f"Zerodha answered with no list of {kind}s")
    good: list[T] = []
    malformed: list[MalformedRow] = []
    for row in rows:
        try:
            good.append(read(_a_row(row)))
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

    def readable(read: Callable[[], str]) -> str | None:
        try:
            return read()
        except Malformed:
            return None

    return MalformedRow(
        order_id=readable(lambda: text(row, "order_id")),
        tag=readable(lambda: tag_of(row)),
        parent_order_id=_parent(row),
        variety=readable(lambda: text(row, "variety")),
        status=readable(lambda: text(row, "status")),
        words=words,
    )


def _shown(row: object) -> str:
    if isinstance(row, Mapping):
        named = {name: row.get(name) for name in ("order_id", "trade_id", "tag") if name in row}
        return repr(named)[:_SHOWN_CHARACTERS]
    return repr(row)[:_SHOWN_CHARACTERS]


def _order(row: Row) -> OrderRow:
    variety = text(row, "variety") if row.get("variety") is not None else _variety_by_meta(row)
    status = text(row, "status")
    # An order that was refused may come without a count, since nothing of it can have filled.
    is_uncounted = row.get("filled_quantity") is None and status == "REJECTED"
    noted = {name: row.get(name) for name in _NOTED}
    return OrderRow(
        order_id=text(row, "order_id"),
        parent_order_id=_parent(row),
        tag=tag_of(row),
        status=status,
        variety=variety,
        filled=Decimal(0) if is_uncounted else number(row, "filled_quantity", least=0),
        reason=_text_or_none(row.get("status_message")) or _text_or_none(row.get("status_message_raw")),
        leg=_leg(row) if variety == ICEBERG else None,
        placed_at=_moment(row.get("order_timestamp")),
        exchange=_text_or_none(row.get("exchange")) or "",
        symbol=_text_or_none(row.get("tradingsymbol")) or "",
        side=_text_or_none(row.get("transaction_type")) or "",
        is_stop=row.get("order_type") in ("SL", "SL-M"),
        noted={name: str(reported) for name, reported in noted.items()} if all(map(_is_word, noted.values())) else None,
    )


def _variety_by_meta(row: Row) -> str:
    """Of a row that does not say its variety."""
    meta = row.get("meta")
    return ICEBERG if isinstance(meta, Mapping) and meta.get("iceberg") else "regular"


def _parent(row: Row) -> str | None:
    """None if it has none, or the row does not say it legibly: then its tag alone says whose it is."""
    try:
        return text(row, "parent_order_id") if row.get("parent_order_id") else None
    except Malformed:
        return None


def _leg(row: Row) -> Leg:
    meta = row.get("meta")
    iceberg = meta.get("iceberg") if isinstance(meta, Mapping) else None
    if not isinstance(iceberg, Mapping):
        raise Malformed(f"it is part of an iceberg order, and its meta is {_shown(meta)}")
    place = number(iceberg, "leg", least=1)
    if place != place.to_integral_value():
        raise Malformed(f"its leg is {place}")
    try:
        quantity = number(row, "quantity", least=1)
    except Malformed:
        quantity = None
    return Leg(number=int(place), total=number(iceberg, "total_quantity", least=1), quantity=quantity)


def _trade(row: Row) -> TradeRow:
    quantity, price = number(row, "quantity", least=0), number(row, "average_price", least=0)
    if not quantity:
        raise Malformed("its quantity is 0")
    if not price:
        # As users see of completed orders (openalgo issue 425): nothing is traded for nothing.
        raise Malformed("its average_price is 0")
    reported = [row.get(name) for name in _TRADE_TIMES]
    # The first one that has a date: the order's own time comes without.
    time = next((moment for moment in map(_moment, reported) if moment is not None), None)
    return TradeRow(
        order_id=text(row, "order_id"),
        trade_id=text(row, "trade_id"),
        quantity=quantity,
        price=price,
        time=time,
        time_text="" if time is not None else f"its times are {', '.join(_shown(each) for each in reported)}",
    )


def _moment(reported: object) -> datetime | None:
    """None if it is not a date and time."""
    if not isinstance(reported, datetime | str) or (
        isinstance(reported, str) and len(reported) < len("2026-11-23 09:16")
    ):
        return None
    try:
        moment = utc(reported)
    except (ValueError, OverflowError):
        return None
    return moment if _FIRST_YEAR <= moment.year < _LAST_YEAR else None


def _text_or_none(reported: object) -> str | None:
    return reported if isinstance(reported, str) and reported else None


def _is_word(reported: object) -> bool:
    return isinstance(reported, str) and bool(reported)
