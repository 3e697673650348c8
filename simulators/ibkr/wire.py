"""The wire format of the gateway's socket: frames, client messages and server messages. No book, no sockets."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum
from zoneinfo import ZoneInfo

from simulators.ibkr.contracts import Listing, Query

SERVER_VERSION = 176
"""The last version whose fields are all plain text in both client libraries."""
UNSET_DOUBLE = "1.7976931348623157E308"
_HELLO = b"API\0"
_ALWAYS = {"comboLegs": 0, "orderComboLegs": 0, "smartRouting": 0, "deltaNeutral": 0, "conditions": 0}
"""Counts that the clients read as numbers; all other fields may be empty."""
_OPEN_ORDER_TAIL = (
    "outsideRth hidden discretionaryAmt goodAfterTime allocation faGroup faMethod faPercentage faProfile modelCode goodTillDate rule80A "
    "percentOffset settlingFirm shortSaleSlot designatedLocation exemptCode auctionStrategy startingPrice stockRefPrice delta "
    "stockRangeLower stockRangeUpper displaySize blockOrder sweepToFill allOrNone minQty ocaType eTradeOnly firmQuoteOnly nbboPriceCap "
    "parentId triggerMethod volatility volatilityType neutralOrderType neutralAuxPrice continuousUpdate referencePriceType trailStopPrice "
    "trailingPercent basisPoints basisPointsType comboLegsDescrip comboLegs orderComboLegs smartRouting scaleInit scaleSubs "
    "scaleIncrement hedgeType optOut clearingAccount clearingIntent notHeld deltaNeutral algoStrategy solicited whatIf status "
    "initMarginBefore maintMarginBefore equityBefore initMarginChange maintMarginChange equityChange initMarginAfter maintMarginAfter "
    "equityAfter commission minCommission maxCommission commissionCurrency warningText randomizeSize randomizePrice conditions "
    "adjustedOrderType triggerPrice adjustedTrailStop lmtPriceOffset adjustedStop adjustedStopLimit adjustedTrailing adjustableUnit "
    "tierName tierValue tierDisplay cashQty dontUseAutoPrice isOmsContainer discretionaryUpToLimit usePriceMgmt duration postToAts "
    "autoCancelParent minTradeQty minCompeteSize competeOffset midOffsetWhole midOffsetHalf"
)
_COMPLETED_ORDER_TAIL = (
    "outsideRth hidden discretionaryAmt goodAfterTime faGroup faMethod faPercentage faProfile modelCode goodTillDate rule80A "
    "percentOffset settlingFirm shortSaleSlot designatedLocation exemptCode startingPrice stockRefPrice delta stockRangeLower "
    "stockRangeUpper displaySize sweepToFill allOrNone minQty ocaType triggerMethod volatility volatilityType neutralOrderType "
    "neutralAuxPrice continuousUpdate referencePriceType trailStopPrice trailingPercent comboLegsDescrip comboLegs orderComboLegs "
    "smartRouting scaleInit scaleSubs scaleIncrement hedgeType clearingAccount clearingIntent notHeld deltaNeutral algoStrategy "
    "solicited status randomizeSize randomizePrice conditions adjustedTrailStop lmtPriceOffset cashQty dontUseAutoPrice isOmsContainer "
    "autoCancelDate filledQuantity refFuturesConId autoCancelParent shareholder imbalanceOnly routeMarketableToBbo parentPermId "
    "completedTime completedStatus minTradeQty minCompeteSize competeOffset midOffsetWhole midOffsetHalf"
)


class Ask(IntEnum):
    """Client messages, by number."""

    MARKET_DATA = 1
    CANCEL_MARKET_DATA = 2
    PLACE_ORDER = 3
    CANCEL_ORDER = 4
    OPEN_ORDERS = 5
    ACCOUNT_UPDATES = 6
    EXECUTIONS = 7
    IDS = 8
    CONTRACT_DETAILS = 9
    AUTO_OPEN_ORDERS = 15
    ALL_OPEN_ORDERS = 16
    CURRENT_TIME = 49
    GLOBAL_CANCEL = 58
    POSITIONS = 61
    ACCOUNT_SUMMARY = 62
    CANCEL_ACCOUNT_SUMMARY = 63
    CANCEL_POSITIONS = 64
    START_API = 71
    ACCOUNT_UPDATES_MULTI = 76
    CANCEL_ACCOUNT_UPDATES_MULTI = 77
    MARKET_RULE = 91
    MARKET_DATA_TYPE = 59
    COMPLETED_ORDERS = 99


class FrameReader:
    """Splits a client's bytes into frames of text fields, however they are chunked."""

    def __init__(self) -> None:
        self._bytes = b""
        self._is_greeted = False

    def feed(self, data: bytes) -> Iterator[list[str]]:
        """The frames completed so far; the first is the client's version range. Raises ValueError for another
        protocol."""
        self._bytes += data
        if not self._is_greeted:
            if len(self._bytes) < len(_HELLO):
                return
            if not self._bytes.startswith(_HELLO):
                raise ValueError("not a client of this gateway")
            self._bytes, self._is_greeted = self._bytes[len(_HELLO) :], True
        while len(self._bytes) >= 4:
            (size,) = struct.unpack(">I", self._bytes[:4])
            if len(self._bytes) < 4 + size:
                return
            body, self._bytes = self._bytes[4 : 4 + size], self._bytes[4 + size :]
            yield body.decode("utf-8", "backslashreplace").removesuffix("\0").split("\0")


def frame(*fields: object) -> bytes:
    """One message, its fields as text."""
    body = "".join(f"{_text(field)}\0" for field in fields).encode()
    return struct.pack(">I", len(body)) + body


def wire_time(moment: datetime) -> str:
    """With its zone: the libraries read a time without one in their own machine's zone."""
    return moment.astimezone(UTC).strftime("%Y%m%d %H:%M:%S UTC")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComboLeg:
    """One leg of a combination, as orders name it."""

    con_id: int
    ratio: int
    action: str
    exchange: str

    @property
    def fields(self) -> tuple[object, ...]:
        """With the four that say nothing here: whether it opens, and of short sales where the shares come from."""
        return (self.con_id, self.ratio, self.action, self.exchange, 0, 0, "", -1)


_LEG_FIELDS = 8
_LEGS_AT = 35
"""Where the legs of a combination stand in a placeOrder message; in any other these fields are not there at all."""
BAG = "BAG"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceRequest:
    """A client's placeOrder message."""

    order_id: int
    contract: Query
    action: str
    quantity: Decimal
    order_type: str
    limit_price: Decimal | None
    aux_price: Decimal | None
    tif: str
    account: str
    order_ref: str
    transmit: bool
    outside_rth: bool
    what_if: bool
    cash_quantity: Decimal | None
    oca_group: str
    display_size: Decimal | None
    """Of an iceberg: how much of it is shown."""
    legs: tuple[ComboLeg, ...] = ()
    """Of a combination."""
    routing: tuple[tuple[str, str], ...] = ()
    """How a combination is to be routed, as tags and values."""


def place_request(fields: list[str]) -> PlaceRequest:
    """Reads a message without prices of single legs, conditions or algorithms."""
    legs, routing, fields = _without_legs(fields)
    return PlaceRequest(
        legs=legs,
        routing=routing,
        order_id=int(fields[1]),
        contract=contract_query(fields[2:14]),
        action=fields[16],
        quantity=Decimal(fields[17] or 0),
        order_type=fields[18],
        limit_price=_optional(fields[19]),
        aux_price=_optional(fields[20]),
        tif=fields[21],
        account=fields[23],
        order_ref=fields[26],
        transmit=fields[27] == "1",
        outside_rth=fields[33] == "1",
        what_if=fields[85] == "1",
        cash_quantity=_optional(fields[101]) or None,
        oca_group=fields[22],
        display_size=_optional(fields[31]) or None,
    )


def _without_legs(
    fields: list[str],
) -> tuple[tuple[ComboLeg, ...], tuple[tuple[str, str], ...], list[str]]:
    """The legs and the routing of a combination, and the message as if it had none. Raises ValueError for prices of
    single legs."""
    if fields[4] != BAG:
        return (), (), fields
    at = _LEGS_AT + 1
    legs = []
    for _ in range(int(fields[_LEGS_AT])):
        con_id, ratio, action, exchange, *_ = fields[at : at + _LEG_FIELDS]
        legs.append(ComboLeg(con_id=int(con_id), ratio=int(ratio), action=action, exchange=exchange))
        at += _LEG_FIELDS
    if int(fields[at] or 0):
        raise ValueError("the simulated gateway takes no prices of single legs")
    count, at = int(fields[at + 1] or 0), at + 2
    routing = tuple((fields[at + 2 * n], fields[at + 2 * n + 1]) for n in range(count))
    return tuple(legs), routing, [*fields[:_LEGS_AT], *fields[at + 2 * count :]]


def contract_query(fields: list[str]) -> Query:
    """Reads the twelve fields by which clients name a contract."""
    con_id, symbol, sec_type, expiry, strike, right, multiplier, exchange, primary, currency, _, trading_class = fields
    return Query(
        con_id=int(con_id or 0),
        symbol=symbol,
        sec_type=sec_type,
        expiry=expiry,
        strike="" if not strike or not Decimal(strike) else strike,
        right=right if right in ("C", "P", "CALL", "PUT") else "",
        multiplier=multiplier,
        exchange=exchange,
        primary_exchange=primary,
        currency=currency,
        trading_class=trading_class,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRow:
    """One order as the gateway sends it."""

    order_id: int
    client_id: int
    perm_id: int
    listing: Listing
    account: str
    action: str
    quantity: Decimal
    order_type: str
    limit_price: Decimal | None
    aux_price: Decimal | None
    tif: str
    order_ref: str
    cash_quantity: Decimal
    display_size: Decimal | None
    status: str
    filled: Decimal
    average_price: Decimal
    last_price: Decimal
    reason: str
    finished_at: datetime
    legs: tuple[ComboLeg, ...] = ()

    @property
    def remaining(self) -> Decimal:
        return max(self.quantity - self.filled, Decimal(0))

    @property
    def said_of_legs(self) -> dict[str, object]:
        legs = (len(self.legs), *(field for leg in self.legs for field in leg.fields))
        words = ",".join(f"{leg.con_id}|{leg.ratio if leg.action == 'BUY' else -leg.ratio}" for leg in self.legs)
        return {"comboLegs": legs, "comboLegsDescrip": words} if self.legs else {}

    @property
    def _head(self) -> tuple[object, ...]:
        order = (self.action, self.quantity, self.order_type, self.limit_price or 0, self.aux_price or 0, self.tif)
        return (*self.listing.order_fields, *order, "", self.account, "O", 0, self.order_ref)


def server_hello(moment: datetime, written: str | None = None) -> bytes:
    return frame(SERVER_VERSION, wire_time(moment) if written is None else written)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How times are written: a strftime form, in a zone."""

    form: str
    zone: str = "UTC"

    def of(self, moment: datetime) -> str:
        return moment.astimezone(ZoneInfo(self.zone)).strftime(self.form)


@dataclass(slots=True, kw_only=True)
class Garble:
    """A corruption of one field of one kind of message."""

    message: int
    field: int
    text: str
    named: str = ""
    """Not empty: only in messages with a field of this value."""
    times: int | None = None
    """How often; None: always."""


def garbled(data: bytes, garbles: Iterable[Garble]) -> bytes:
    """Complete frames, with fields corrupted as `garbles` say, which counts these."""
    unreadable = b""
    while data:
        size = 4 + int.from_bytes(data[:4], "big")
        fields = data[4:size].decode("utf-8", "backslashreplace").removesuffix("\0").split("\0")
        original = list(fields)
        for each in garbles:
            is_meant = original[0] == str(each.message) and (not each.named or each.named in original)
            if is_meant and each.times != 0 and each.field < len(fields):
                fields[each.field] = each.text
                each.times = None if each.times is None else each.times - 1
        unreadable += data[:size] if fields == original else frame(*fields)
        data = data[size:]
    return unreadable


def next_valid_id(order_id: int) -> bytes:
    return frame(9, 1, order_id)


def managed_accounts(names: list[str]) -> bytes:
    return frame(15, 1, ",".join(names))


def error(request_or_order_id: int, code: int, text: str) -> bytes:
    return frame(4, 2, request_or_order_id, code, text, "")


def order_status(row: OrderRow, status: str | None = None) -> bytes:
    return frame(
        3,
        row.order_id,
        status or row.status,
        row.filled,
        row.remaining,
        row.average_price,
        row.perm_id,
        0,
        row.last_price,
        row.client_id,
        "",
        0,
    )


def open_order(row: OrderRow, status: str | None = None) -> bytes:
    said: dict[str, object] = {
        "status": status or row.status,
        "cashQty": row.cash_quantity,
        "displaySize": row.display_size or 0,
        "clearingIntent": "IB",
        "exemptCode": -1,
        **row.said_of_legs,
    }
    tail = _tail(_OPEN_ORDER_TAIL, said)
    return frame(5, row.order_id, *row._head, row.client_id, row.perm_id, *tail)


def completed_order(row: OrderRow) -> bytes:
    """Completed orders are sent without the client's id and order id."""
    said: dict[str, object] = {
        "status": row.status,
        "cashQty": row.cash_quantity,
        "displaySize": row.display_size or 0,
        "filledQuantity": row.filled,
        "clearingIntent": "IB",
        "exemptCode": -1,
        **row.said_of_legs,
        "completedTime": wire_time(row.finished_at),
        "completedStatus": row.reason or f"Filled Size: {row.filled}",
    }
    tail = _tail(_COMPLETED_ORDER_TAIL, said)
    return frame(101, *row._head, row.perm_id, *tail)


def execution(
    request_id: int,
    row: OrderRow,
    *,
    exec_id: str,
    quantity: Decimal,
    price: Decimal,
    moment: datetime,
    written: str | None = None,
) -> bytes:
    """`written`: the time in the message, if it is not `wire_time`."""
    time = wire_time(moment) if written is None else written
    return frame(
        *(11, request_id, row.order_id, *row.listing.order_fields, exec_id, time, row.account, "SIM"),
        *("BOT" if row.action == "BUY" else "SLD", quantity, price, row.perm_id, row.client_id, 0, row.filled),
        *(row.average_price, row.order_ref, "", "", "", 1),
    )


def commission_report(exec_id: str, commission: Decimal, currency: str) -> bytes:
    return frame(59, 1, exec_id, commission, currency, UNSET_DOUBLE, UNSET_DOUBLE, "")


def contract_details(request_id: int, listing: Listing) -> bytes:
    if listing.sec_type == "BOND":
        return frame(
            *(18, request_id, listing.symbol, "BOND", listing.symbol, 2, "20440215", "", "", "", "", False, False),
            *(False, "", listing.exchange, listing.currency, listing.symbol, listing.symbol, listing.con_id),
            *(listing.min_tick, "LMT,MKT", listing.exchange, "", "", False, "", "A bond", "", 0, 0),
            *(1, "", listing.size_increment, listing.size_increment, listing.size_increment),
        )
    rule = "" if listing.market_rule is None else listing.market_rule
    return frame(
        *(10, request_id, listing.symbol, listing.sec_type, listing.expiry, listing.strike, listing.right),
        *(listing.exchange, listing.currency, listing.local_symbol, listing.trading_class, listing.trading_class),
        *(listing.con_id, listing.min_tick, listing.multiplier, "LMT,MKT,STP,STPLMT", listing.exchange),
        *(listing.magnifier, 0, listing.symbol, listing.primary_exchange, listing.expiry[:6], "", "", "", "UTC"),
        *("", "", "", 0, *(("1", "ISIN", listing.isin) if listing.isin else ("0",)), 1, "", "", rule),
        *(listing.expiry, listing.stock_type, listing.size_increment, listing.size_increment, listing.size_increment),
    )


def market_rule(number: int, steps: list[tuple[str, str]]) -> bytes:
    return frame(93, number, len(steps), *(value for step in steps for value in step))


def market_data_type(request_id: int, kind: int) -> bytes:
    return frame(58, 1, request_id, kind)


def tick_price(request_id: int, kind: int, price: Decimal | None) -> bytes:
    """-1 where there is none."""
    return frame(1, 6, request_id, kind, -1 if price is None else price, 100, 0)


def tick_text(request_id: int, kind: int, text: str) -> bytes:
    return frame(46, 6, request_id, kind, text)


def position(account: str, listing: Listing, quantity: Decimal, average_cost: Decimal) -> bytes:
    return frame(61, 3, account, *listing.order_fields, quantity, average_cost)


def _tail(names: str, said: dict[str, object]) -> list[object]:
    """A tuple stands for several fields."""
    values = (said.get(name, _ALWAYS.get(name, "")) for name in names.split())
    return [field for value in values for field in (value if isinstance(value, tuple) else (value,))]


def _optional(text: str) -> Decimal | None:
    return Decimal(text) if text and text != UNSET_DOUBLE else None


def _text(field: object) -> str:
    if isinstance(field, bool):
        return "1" if field else "0"
    if isinstance(field, Decimal):
        return format(field, "f")
    return "" if field is None else str(field)
