"""Translates between Zerodha's terms and ours: instruments, order forms, the meaning of its rows. No calls, no
clock, no parsing of rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from types import MappingProxyType

from brokers.base import (
    ONE,
    UNNAMED_POSITION,
    AssetClass,
    Balance,
    BrokerPosition,
    ContractTerms,
    Fill,
    FillsShown,
    Instrument,
    OptionRight,
    OrderType,
    Report,
    ReportStatus,
    Side,
    Ticket,
    Tif,
)
from brokers.errors import OrderRefused
from brokers.ticks import limit_on_tick, stop_on_tick
from brokers.zerodha.rows import (
    AMO,
    ICEBERG,
    IST,
    ListedRow,
    Malformed,
    MalformedRow,
    OrderRow,
    Row,
    TradeRow,
    number,
    read_listing,
    text,
)

CURRENCY = "INR"
EXCHANGES = ("NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX")
PRODUCTS = ("CNC", "MIS", "NRML")
_FUNDED = "MTF"
"""The product of shares bought with Zerodha's margin. It is shown, and not traded here."""
VARIETIES = ("regular", "amo", ICEBERG)

_ASSET_CLASSES = {
    "NSE": (AssetClass.STOCK, AssetClass.ETF),
    "BSE": (AssetClass.STOCK, AssetClass.ETF),
    "NFO": (AssetClass.OPTION, AssetClass.FUTURE),
    "BFO": (AssetClass.OPTION, AssetClass.FUTURE),
    "CDS": (AssetClass.FOREX, AssetClass.OPTION, AssetClass.FUTURE),
    "BCD": (AssetClass.FOREX, AssetClass.OPTION, AssetClass.FUTURE),
    "MCX": (AssetClass.OPTION, AssetClass.FUTURE),
}
_HOME_EXCHANGE = {
    AssetClass.STOCK: "NSE",
    AssetClass.ETF: "NSE",
    AssetClass.OPTION: "NFO",
    AssetClass.FUTURE: "NFO",
    AssetClass.FOREX: "CDS",
}
_KINDS = {
    AssetClass.STOCK: frozenset({"EQ"}),
    AssetClass.ETF: frozenset({"EQ"}),
    AssetClass.FUTURE: frozenset({"FUT"}),
    AssetClass.FOREX: frozenset({"FUT"}),
    AssetClass.OPTION: frozenset({"CE", "PE"}),
}
_ORDER_TYPES = {
    OrderType.MARKET: "MARKET",
    OrderType.LIMIT: "LIMIT",
    OrderType.STOP: "SL-M",
    OrderType.STOP_LIMIT: "SL",
}
_BEYOND_THE_STOP = Decimal("0.05")
"""How far beyond its trigger the limit of a protective stop in options lies, as a part of it."""
_FINAL = {
    "COMPLETE": ReportStatus.FILLED,
    "CANCELLED": ReportStatus.CANCELLED,
    "REJECTED": ReportStatus.REJECTED,
}
_AT_THE_EXCHANGE = frozenset({"OPEN", "TRIGGER PENDING"})
"""All other statuses of a working order are intermediate, for example `OPEN PENDING`."""
_LATEST_BEGIN = time_of_day(9, 15)
_TRADING_BEGINS = {"CDS": time_of_day(9), "BCD": time_of_day(9), "MCX": time_of_day(9)}
"""Indian time. After-market orders are passed on to NSE and BSE at 9:00, into their pre-open session."""
IN_LOTS = frozenset({"CDS", "BCD", "MCX"})
"""On these exchanges Kite counts quantities in lots. The units in a lot are reported only with a position
(`multiplier`), never in the list."""
_CANDIDATES_NAMED = 5
_LEAST_ICEBERG_LEGS = 2
MOST_ICEBERG_LEGS = 50
"""By Zerodha's announcement of January 2026 (kite.trade discussion, comment 51724); it was 20, and 10, before."""
_MICROSECOND = timedelta(microseconds=1)


# Instruments


class Listing:
    """One exchange's instruments on one day."""

    def __init__(self, exchange: str, page: object) -> None:
        """`page` as Kite sends it. Raises Malformed."""
        self.exchange = exchange
        self._by_symbol: dict[str, ListedRow] = {}
        self._derivatives: defaultdict[str, list[ListedRow]] = defaultdict(list)
        rows, malformed = read_listing(page)
        self.odd_symbols = frozenset(malformed)
        """Symbols of unreadable lines: these instruments exist, and nothing else is known."""
        for listed in rows:
            self._by_symbol[listed.symbol] = listed
            if listed.kind != "EQ":
                self._derivatives[listed.name].append(listed)

    def by_symbol(self, symbol: str) -> ListedRow | None:
        return self._by_symbol.get(symbol)

    def resolve(self, instrument: Instrument) -> ListedRow | None:
        """The line that is meant: by trading symbol, else by underlying, expiry, strike and right. None: there is
        none. Raises OrderRefused if it cannot be traded, or naming the lines if several match."""
        symbol = instrument.symbol.removeprefix(f"{self.exchange}:")
        listed = self._by_symbol.get(symbol)
        if listed is None:
            fitting = [
                each for each in self._derivatives.get(instrument.underlying or symbol, ()) if _fits(each, instrument)
            ]
            if not fitting and instrument.underlying is not None:
                fitting = [each for each in self._derivatives.get(symbol, ()) if _fits(each, instrument)]
            if len(fitting) > 1:
                names = ", ".join(sorted(each.symbol for each in fitting)[:_CANDIDATES_NAMED])
                raise OrderRefused(
                    f"{instrument.symbol} on {self.exchange} may be any of {len(fitting)} instruments: {names}"
                )
            return fitting[0] if fitting else None
        if listed.segment == "INDICES" or listed.lot < 1:
            raise OrderRefused(f"{listed.symbol} on {self.exchange} is an index: it cannot be traded itself")
        if not _fits(listed, instrument):
            raise OrderRefused(
                f"{listed.symbol} on {self.exchange} is not the {instrument.asset_class} that the order describes"
            )
        return listed


def _fits(listed: ListedRow, instrument: Instrument) -> bool:
    right = {"CE": OptionRight.CALL, "PE": OptionRight.PUT}.get(listed.kind)
    expiry = "" if listed.expiry is None else listed.expiry.strftime("%Y%m%d")
    return (
        listed.kind in _KINDS.get(instrument.asset_class, ())
        and (instrument.expiry is None or expiry.startswith(instrument.expiry))
        and (instrument.strike is None or listed.strike == instrument.strike)
        and (instrument.right is None or right is instrument.right)
    )


def exchange_of(instrument: Instrument) -> str:
    """Where the instrument trades: as it says, else its asset class's usual exchange. Raises OrderRefused for an
    exchange that Zerodha does not have."""
    exchange = instrument.exchange
    prefix = instrument.symbol.partition(":")[0]
    if not exchange and prefix in EXCHANGES:
        exchange = prefix
    exchange = (exchange or _HOME_EXCHANGE.get(instrument.asset_class, "NSE")).upper()
    if exchange not in EXCHANGES:
        raise OrderRefused(f"Zerodha does not trade on {exchange}; known are {', '.join(EXCHANGES)}", unsupported=True)
    if instrument.currency not in (None, CURRENCY):
        raise OrderRefused(f"Zerodha trades in {CURRENCY}, not in {instrument.currency}", unsupported=True)
    return exchange


def terms_of(listed: ListedRow, instrument: Instrument, lot_sizes: Mapping[tuple[str, str], Decimal]) -> ContractTerms:
    """The contract's facts. `lot_sizes`: units per lot, as Kite reported them with positions, by exchange and
    symbol. Raises OrderRefused naming what the order says of the contract and is not true, or cannot be verified."""
    is_counted_in_lots = listed.exchange in IN_LOTS
    multiplier = lot_sizes.get((listed.exchange, listed.symbol)) if is_counted_in_lots else ONE
    terms = ContractTerms(
        multiplier=multiplier,
        currency=CURRENCY,
        local_symbol=listed.symbol,
        exchange=listed.exchange,
        lot_size=None if is_counted_in_lots else listed.lot,
        is_one_size=True,
        is_size_unknown=multiplier is None,
    )
    wrong = _wrong_facts(listed, instrument, terms)
    if wrong:
        raise OrderRefused(f"{listed.symbol} on {listed.exchange} is not what the order names: {'; '.join(wrong)}")
    return terms


def _wrong_facts(listed: ListedRow, instrument: Instrument, terms: ContractTerms) -> list[str]:
    wrong = []
    if instrument.multiplier is not None and terms.is_size_unknown:
        wrong.append(
            f"the multiplier {instrument.multiplier:f} cannot be checked, since Kite has not told yet what one lot is of; leave it out"
        )
    elif instrument.multiplier is not None and not terms.means(instrument.multiplier):
        lot = "" if terms.lot_size in (None, ONE) else f", in lots of {listed.lot:f}"
        wrong.append(f"the multiplier {instrument.multiplier:f}, where it is {terms.multiplier or ONE:f}{lot}")
    if instrument.con_id is not None and instrument.con_id != listed.token:
        token = "has none that can be read" if listed.token is None else f"is {listed.token}"
        wrong.append(f"the con_id {instrument.con_id}, where Kite's number of it {token}")
    if instrument.trading_class is not None:
        wrong.append(f"the trading_class {instrument.trading_class}: Kite tells none")
    if instrument.isin is not None:
        wrong.append(f"the isin {instrument.isin}: Kite's list tells none")
    return wrong


def lot_sizes(net: Iterable[object]) -> dict[tuple[str, str], Decimal]:
    """Units per lot, by exchange and symbol, from the day's positions, including closed ones."""
    found = {}
    for row in net:
        try:
            exchange, symbol = named(row)
            assert isinstance(row, Mapping)
            multiplier = number(row, "multiplier")
        except Malformed:
            continue
        if exchange in IN_LOTS and multiplier > 0:
            found[exchange, symbol] = multiplier
    return found


def asset_classes(exchanges: Iterable[str]) -> frozenset[AssetClass]:
    """The asset classes that can be traded on these exchanges."""
    return frozenset(kind for exchange in exchanges for kind in _ASSET_CLASSES.get(exchange, ()))


# Order forms


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderDefaults:
    """The defaults for orders that do not say it."""

    market_protection: Decimal = Decimal(-1)
    """-1: Zerodha's own; else a percentage above 0, up to 100."""
    equity_product: str = "CNC"
    derivatives_product: str = "NRML"
    iceberg_legs: int = 5


def order_form(ticket: Ticket, listed: ListedRow, order_defaults: OrderDefaults) -> dict[str, object]:
    """The arguments of the placing call, with prices on the tick (`brokers/ticks.py`). Raises OrderRefused for what
    Zerodha would not accept. A quantity is never changed."""
    is_derivative = listed.kind != "EQ"
    product = (
        ticket.product or (order_defaults.derivatives_product if is_derivative else order_defaults.equity_product)
    ).upper()
    variety = (ticket.variety or "regular").lower()
    if ticket.display_quantity is not None and variety == "regular":
        variety = ICEBERG
    if product not in PRODUCTS or (is_derivative and product == "CNC"):
        raise OrderRefused(f"{listed.symbol} is not traded with the product {product}", unsupported=True)
    if variety not in VARIETIES:
        raise OrderRefused(
            f"The variety {variety} is not supported; known are {', '.join(VARIETIES)}", unsupported=True
        )
    if ticket.quantity != ticket.quantity.to_integral_value() or ticket.quantity % listed.lot or ticket.quantity <= 0:
        raise OrderRefused(f"{ticket.quantity:f} of {listed.symbol} is no whole number of lots of {listed.lot:f}")
    form: dict[str, object] = {
        "variety": variety,
        "exchange": listed.exchange,
        "tradingsymbol": listed.symbol,
        "transaction_type": ticket.side.value,
        "quantity": int(ticket.quantity),
        "product": product,
        "order_type": "SL" if _leaves_with_limit(ticket, listed) else _ORDER_TYPES[ticket.order_type],
        "validity": (ticket.tif or Tif.DAY).value,
        "tag": ticket.client_order_id,
    }
    if ticket.tif is Tif.GTC:
        raise OrderRefused("Zerodha has no orders that are good till cancelled", unsupported=True)
    limit, trigger = _prices(ticket, listed)
    if limit is not None:
        form["price"] = format(limit, "f")
    else:
        form["market_protection"] = format(order_defaults.market_protection, "f")
    if trigger is not None:
        form["trigger_price"] = format(trigger, "f")
    if ticket.display_quantity is not None and variety != ICEBERG:
        raise OrderRefused(f"An order of the variety {variety} is shown whole", unsupported=True)
    if variety == ICEBERG:
        form |= _iceberg(ticket, listed, order_defaults.iceberg_legs)
    return form


def _leaves_with_limit(ticket: Ticket, listed: ListedRow) -> bool:
    """The exchanges have no SL-M orders for options: a stop that protects a position leaves with a limit that the market should not jump over."""
    return ticket.is_protective and ticket.order_type is OrderType.STOP and listed.kind in _KINDS[AssetClass.OPTION]


def _prices(ticket: Ticket, listed: ListedRow) -> tuple[Decimal | None, Decimal | None]:
    """Limit and trigger price on the tick. Kite accepts no purchase with its trigger above its limit, and no sale
    with its trigger below. If both are on the same tick and rounding would move them past each other, the limit is
    kept and the trigger set to it."""
    limit = trigger = None
    if ticket.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT):
        limit = _on_tick(ticket.limit_price, "a limit price", listed, ticket.side, limit_on_tick)
    if ticket.order_type in (OrderType.STOP, OrderType.STOP_LIMIT):
        trigger = _on_tick(ticket.stop_price, "a stop price", listed, ticket.side, stop_on_tick)
    if trigger is not None and _leaves_with_limit(ticket, listed):
        wide = limit_on_tick(trigger * (1 + ticket.side.sign * _BEYOND_THE_STOP), listed.tick, ticket.side)
        return (min if ticket.side is Side.SELL else max)(trigger, wide), trigger
    if limit is None or trigger is None or ticket.limit_price is None or ticket.stop_price is None:
        return limit, trigger
    asked_in_order = (ticket.limit_price - ticket.stop_price) * ticket.side.sign >= 0
    are_crossed = (limit - trigger) * ticket.side.sign < 0
    return limit, limit if asked_in_order and are_crossed else trigger


def _on_tick(
    price: Decimal | None,
    words: str,
    listed: ListedRow,
    side: Side,
    on_tick: Callable[[Decimal, Decimal, Side], Decimal],
) -> Decimal:
    if price is None:
        raise OrderRefused(f"The order needs {words}")
    rounded = on_tick(price, listed.tick, side)
    if rounded <= 0:
        raise OrderRefused(f"{words.removeprefix('a ').capitalize()} {price:f} is less than one tick ({listed.tick:f})")
    return rounded


def _iceberg(ticket: Ticket, listed: ListedRow, usual_legs: int) -> dict[str, object]:
    """In legs of equal size, in whole lots, the last one smaller: Kite takes no other size than the quantity by the
    legs, rounded up to a lot. So many legs that none is more than what may be seen at once, if the order names that."""
    if ticket.order_type is not OrderType.LIMIT or ticket.tif is Tif.IOC:
        # Each leg is a new order with the same terms, and the market has passed a trigger by then.
        raise OrderRefused("An iceberg order is one with a limit, good for the day", unsupported=True)
    lots = int(ticket.quantity / listed.lot)
    legs = min(usual_legs, lots)
    if ticket.display_quantity is not None:
        shown = int(ticket.display_quantity / listed.lot)
        if not shown:
            raise OrderRefused(f"display_quantity {ticket.display_quantity:f} is less than a lot of {listed.lot:f}")
        legs = -(-lots // shown)
    if legs < _LEAST_ICEBERG_LEGS:
        raise OrderRefused("An iceberg order has at least two lots")
    if legs > MOST_ICEBERG_LEGS:
        least = -(-lots // MOST_ICEBERG_LEGS) * listed.lot
        raise OrderRefused(
            f"An iceberg order has at most {MOST_ICEBERG_LEGS} legs, and this one would have {legs}: show at least {least:f}"
        )
    part = -(-lots // legs)
    # With parts of whole lots the last leg may be empty.
    return {"iceberg_legs": -(-lots // part), "iceberg_quantity": int(part * listed.lot)}


# Order and trade lists


def reports(
    orders: Sequence[OrderRow],
    fills: Mapping[str, Sequence[Fill]],
    malformed: Sequence[MalformedRow] = (),
    malformed_trades: Sequence[MalformedRow] = (),
    *,
    now: datetime | None = None,
) -> list[Report]:
    """One report per order, one for all legs of an iceberg order, as far as the list shows them. `fills` by order id.
    `now` decides whether trading has begun today.

    An order with an unreadable row gets no report: its present state is unknown. One with an unreadable trade gets an
    unclear report.
    """
    unknown = {row.tag for row in malformed if row.tag}
    groups = [group for group in placed(orders) if group[0].tag not in unknown]
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for group in groups:
        ids[group[0].tag].append(group[0].order_id)
    untold = {trade.order_id for trade in malformed_trades}
    return [
        replace(report, is_unclear=True, fills_shown=FillsShown.SOME)
        if any(leg.order_id in untold for leg in group)
        else report
        for group in groups
        for report in [_report(group, fills, ids[group[0].tag] if group[0].tag else (), now)]
    ]


def placed(orders: Sequence[OrderRow]) -> list[list[OrderRow]]:
    """The rows grouped by placement: each order by itself, the legs of one iceberg order together, in their order. Of
    those with one tag, the oldest comes first.

    A leg belongs to the order that it names as its parent. If none of the rows is that, it belongs to the oldest
    iceberg order of its tag and size that has come as far as the leg before it, or else nearest to that: two first
    legs are two orders.
    """
    groups: list[list[OrderRow]] = []
    shown = {row.order_id for row in orders}
    for row in sorted(orders, key=lambda row: (1 if row.leg is None else row.leg.number, *_age(row.order_id))):
        fitting = [group for group in groups if _continues(group, row, shown)]
        group = min(fitting, key=lambda group: _distance(group[-1], row), default=None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    return sorted(groups, key=lambda group: _age(group[0].order_id))


def _age(order_id: str) -> tuple[int, str]:
    """Kite's ids increase."""
    return len(order_id), order_id


def _continues(group: Sequence[OrderRow], row: OrderRow, shown: Container[str]) -> bool:
    first, last = group[0], group[-1]
    if row.leg is None or last.leg is None or row.tag != first.tag:
        return False
    parent = row.parent_order_id
    if parent is not None and (parent in shown or parent == first.parent_order_id):
        return parent == first.parent_order_id or parent in {leg.order_id for leg in group}
    return bool(row.tag) and row.leg.number > last.leg.number and row.leg.total == last.leg.total


def _distance(before: OrderRow, row: OrderRow) -> tuple[int, bool]:
    """How far a leg is from being the next one after `before`: that is placed when the one before it is done."""
    assert row.leg is not None
    assert before.leg is not None
    return row.leg.number - before.leg.number, _FINAL.get(before.status) is not ReportStatus.FILLED


def _is_broken(legs: Sequence[OrderRow]) -> bool:
    """Whether a leg is missing before the last one that is shown."""
    return [leg.leg.number for leg in legs if leg.leg is not None] != list(range(1, len(legs) + 1))


def _next_leg_follows(legs: Sequence[OrderRow]) -> bool:
    """Whether these legs of an iceberg order are filled, and are not all of it: Kite places the next one by itself. It
    is over when the legs come to the whole order, however much of that was annulled later."""
    last = legs[-1].leg
    if last is None or any(_FINAL.get(leg.status) is not ReportStatus.FILLED for leg in legs):
        return False
    placed_so_far = sum((leg.leg.quantity or leg.filled for leg in legs if leg.leg is not None), Decimal(0))
    return max(placed_so_far, sum((leg.filled for leg in legs), Decimal(0))) < last.total


def legs_to_come(orders: Sequence[OrderRow]) -> int:
    """How many more orders Zerodha may make by itself, of the icebergs at work."""
    return sum(_legs_to_come(group) for group in placed(orders))


def _legs_to_come(legs: Sequence[OrderRow]) -> int:
    last = legs[-1].leg
    is_at_work = _next_leg_follows(legs) or any(leg.status not in _FINAL for leg in legs)
    if last is None or not is_at_work:
        return 0
    sizes = [leg.leg.quantity for leg in legs if leg.leg is not None and leg.leg.quantity is not None]
    most = max(MOST_ICEBERG_LEGS - last.number, 0)
    if not sizes:
        return most
    # All but the last leg are of one size.
    left = max(last.total - max(sizes) * last.number, Decimal(0))
    return min(most, math.ceil(left / max(sizes)))


def _ascending(fills: Sequence[Fill]) -> list[Fill]:
    """Each later than the one before it: those of a leg follow those of the leg before, whose last second may be the
    same."""
    ascending: list[Fill] = []
    for fill in fills:
        before = ascending[-1].time if ascending else None
        ascending.append(fill if before is None or fill.time > before else replace(fill, time=before + _MICROSECOND))
    return ascending


def _report(
    legs: Sequence[OrderRow], fills: Mapping[str, Sequence[Fill]], under_tag: Sequence[str], now: datetime | None
) -> Report:
    own = _ascending([fill for leg in legs for fill in fills.get(leg.order_id, ())])
    reported = sum((leg.filled for leg in legs), Decimal(0))
    first, last = legs[0], legs[-1]
    is_working = any(leg.status not in _FINAL for leg in legs)
    is_broken = last.leg is not None and _is_broken(legs)
    is_next_leg_absent = _next_leg_follows(legs)
    status = ReportStatus.WORKING if is_working or is_next_leg_absent else _FINAL[last.status]
    shown = sum((fill.quantity for fill in own), Decimal(0))
    # The next leg may have come and filled, and be missing from this list.
    are_all_shown = shown == reported and not is_broken and not is_next_leg_absent
    is_held, held_until = held(last, now) if is_working else (None, None)
    return Report(
        client_order_id=first.tag,
        # Placing answers with the first leg's id.
        broker_order_id=(is_broken and first.parent_order_id) or first.order_id,
        status=status,
        # The trades are queried after the orders and may be ahead of them.
        filled_quantity=max(reported, shown),
        fills=tuple(own),
        fills_shown=FillsShown.ALL if are_all_shown else FillsShown.SOME,
        reason=last.reason,
        said=last.status,
        # What waits for its trigger is TRIGGER PENDING.
        is_triggered=last.is_stop and last.status == "OPEN",
        is_held=is_held,
        held_until=held_until,
        orders_under_tag=tuple(under_tag) if len(under_tag) > 1 else (),
        is_unclear=is_broken,
        # Of shares alone: what a derivative is follows from the list of instruments.
        instrument=Instrument(symbol=last.symbol) if last.symbol and last.exchange in ("NSE", "BSE") else None,
        side={"BUY": Side.BUY, "SELL": Side.SELL}.get(last.side),
    )


def held(row: OrderRow, now: datetime | None) -> tuple[bool | None, datetime | None]:
    """Whether Zerodha holds a working order for the opening, and until when: an after-market order until it is
    passed on to the exchange, and then until trading begins, since the exchange takes orders some minutes earlier.
    None: the row says neither."""
    if row.is_waiting_amo:
        return True, None
    if row.status not in _AT_THE_EXCHANGE:
        return None, None
    if now is None:
        return (None if row.variety == AMO else False), None
    here = now.astimezone(IST)
    opening = datetime.combine(here.date(), _TRADING_BEGINS.get(row.exchange, _LATEST_BEGIN), IST)
    if row.variety == AMO and not row.filled and here < opening:
        return True, opening.astimezone(UTC)
    return False, None


def fills_by_order(trades: Iterable[TradeRow], received_at: Callable[[TradeRow], datetime]) -> dict[str, list[Fill]]:
    """The executions of each order, oldest first. Zerodha gives whole seconds; executions within one second are kept
    in order by microseconds. A trade's id is unique only within its exchange and day, which is enough within an
    order. One with an unreadable time gets the time when it was first received."""
    by_order: defaultdict[str, dict[str, TradeRow]] = defaultdict(dict)
    for trade in trades:
        by_order[trade.order_id][trade.trade_id] = trade
    return {order_id: _in_sequence(own.values(), received_at) for order_id, own in by_order.items()}


def _in_sequence(trades: Iterable[TradeRow], received_at: Callable[[TradeRow], datetime]) -> list[Fill]:
    fills: list[Fill] = []
    timed = [(received_at(trade) if trade.time is None else trade.time, trade) for trade in trades]
    for reported, trade in sorted(timed, key=lambda each: (each[0], *_age(each[1].trade_id))):
        time = reported if not fills or reported > fills[-1].time else fills[-1].time + _MICROSECOND
        fills.append(
            Fill(
                fill_id=trade.trade_id,
                quantity=trade.quantity,
                price=trade.price,
                time=time,
                is_time_estimated=trade.time is None,
            )
        )
    return fills


def to_cancel(
    orders: Sequence[OrderRow], malformed: Sequence[MalformedRow], client_order_id: str, order_id: str | None
) -> dict[str, str]:
    """The ids to cancel for this order, and the variety of each: itself, or the legs of an iceberg order that are
    unfinished or perhaps so. If its id is not known, all with its tag. Empty if there is none; if all are done, the
    last."""
    unread = unread_legs(orders, malformed, client_order_id, order_id)
    legs = working_legs(orders, client_order_id, order_id)
    found = {leg.order_id: leg.cancelled_as for leg in legs if not unread or leg.status not in _FINAL}
    return found | dict.fromkeys(unread, ICEBERG)


def working_legs(orders: Sequence[OrderRow], client_order_id: str, order_id: str | None) -> list[OrderRow]:
    """This order's rows that are not done; if all are, the last. Empty if there is none."""
    rows = [row for group in _groups_of(orders, client_order_id, order_id) for row in group]
    return [row for row in rows if row.status not in _FINAL] or rows[-1:]


def unread_legs(
    orders: Sequence[OrderRow], malformed: Sequence[MalformedRow], client_order_id: str, order_id: str | None
) -> list[str]:
    """The ids of rows that cannot be read and belong to this iceberg order, by their parent or else by their tag. Not
    those that are filled."""
    legs = [row for group in _groups_of(orders, client_order_id, order_id) for row in group]
    own = {each for leg in legs for each in (leg.order_id, leg.parent_order_id) if each} | {order_id}
    shown = {row.order_id for row in orders}
    found = []
    for row in malformed:
        if row.order_id is None or row.status == "COMPLETE":
            continue
        is_named = row.order_id in own or (row.parent_order_id is not None and row.parent_order_id in own)
        is_tagged = bool(client_order_id) and row.tag == client_order_id and row.parent_order_id not in shown
        if (is_named and row.variety in (ICEBERG, None)) or (is_tagged and row.variety == ICEBERG):
            found.append(row.order_id)
    return found


def leg_before_next(
    orders: Sequence[OrderRow], malformed: Sequence[MalformedRow], client_order_id: str, order_id: str | None
) -> str | None:
    """The id of the leg that is done, if this order is an iceberg between two legs, where there is nothing that could
    be cancelled."""
    if unread_legs(orders, malformed, client_order_id, order_id):
        return None
    groups = _groups_of(orders, client_order_id, order_id)
    return next((group[-1].order_id for group in groups if _next_leg_follows(group)), None)


def is_overtaken(
    asked: Container[str],
    before: tuple[Sequence[OrderRow], Sequence[MalformedRow]],
    now: tuple[Sequence[OrderRow], Sequence[MalformedRow]],
    client_order_id: str,
    order_id: str | None,
) -> bool:
    """Whether a leg that was to be cancelled has filled between two readings of the list, and the order goes on."""
    ended = {row.order_id for rows in now for row in rows if row.status == "COMPLETE"}
    ended -= {row.order_id for rows in before for row in rows if row.status == "COMPLETE"}
    if not any(leg_id in asked for leg_id in ended if leg_id is not None):
        return False
    if leg_before_next(*now, client_order_id, order_id) is not None:
        return True
    legs = working_legs(now[0], client_order_id, order_id)
    return any(leg.status not in _FINAL for leg in legs) or bool(unread_legs(*now, client_order_id, order_id))


def _groups_of(orders: Sequence[OrderRow], client_order_id: str, order_id: str | None) -> list[list[OrderRow]]:
    groups = placed(orders)
    own = [group for group in groups if any(row.order_id == order_id for row in group)]
    return own or [group for group in groups if client_order_id and group[0].tag == client_order_id]


# Contract notes


def note_requests(order: OrderRow, fills: Sequence[Fill]) -> list[dict[str, object]]:
    """The requests for an order's contract notes: after its first fill, after its second, and so on, because
    brokerage is charged per order. None for an order whose row lacks the fields."""
    requests: list[dict[str, object]] = []
    quantity = paid = Decimal(0)
    for fill in fills if order.noted is not None else ():
        quantity += fill.quantity
        paid += fill.quantity * fill.price
        requests.append(
            {
                "order_id": order.order_id,
                **(order.noted or {}),
                "quantity": int(quantity),
                "average_price": float(paid / quantity),
            }
        )
    return requests


def note_total(note: object) -> Decimal:
    """An order's total cost by its contract note: brokerage, taxes and charges, in rupees. Raises Malformed."""
    charges = note.get("charges") if isinstance(note, Mapping) else None
    if not isinstance(charges, Mapping):
        raise Malformed(f"no charges are in the contract note {note!r}")
    return number(charges, "total")


# Account


def positions(
    net: Iterable[object],
    holdings: Iterable[object],
    kinds: Mapping[tuple[str, str], ListedRow],
    sizes: Mapping[tuple[str, str], Decimal] = MappingProxyType({}),
) -> list[BrokerPosition]:
    """The positions, by product: Zerodha does not net products. Settled shares come from the holdings, and what is sold of
    them today from the day's positions. `kinds`: known instruments by exchange and symbol; `sizes`: units per lot
    likewise.

    A row with an unreadable quantity makes its instrument unclear; one without a legible instrument becomes an unnamed
    position.
    """
    held: defaultdict[tuple[str, str, str | None], list[_Part | None]] = defaultdict(list)
    found = []
    for rows, quantity_of in ((net, _day_quantity), (holdings, _quantity_before_today)):
        for row in rows:
            try:
                instrument, product = named(row), _product(row)
            except Malformed:
                found.append(UNNAMED_POSITION)
                continue
            held[*instrument, product].append(_part(row, quantity_of))
            funded = row.get("mtf") if isinstance(row, Mapping) and rows is holdings else None
            if funded:
                held[*instrument, _FUNDED].append(_part(funded, _funded_quantity))
    for (exchange, symbol, product), reported in held.items():
        parts = [part for part in reported if part is not None]
        quantity = sum((part.quantity for part in parts), Decimal(0))
        is_unclear = len(parts) < len(reported)
        if quantity or is_unclear:
            average = None if is_unclear else _average([part for part in parts if part.quantity * quantity > 0])
            found.append(
                BrokerPosition(
                    instrument=_instrument(exchange, symbol, kinds.get((exchange, symbol))),
                    quantity=quantity,
                    average_price=average,
                    also_called=frozenset({symbol}),
                    terms=_terms_of_held(kinds.get((exchange, symbol)), sizes),
                    is_unclear=is_unclear,
                    product=product,
                )
            )
    return found


def _terms_of_held(listed: ListedRow | None, sizes: Mapping[tuple[str, str], Decimal]) -> ContractTerms | None:
    return None if listed is None else terms_of(listed, Instrument(symbol=listed.symbol), sizes)


@dataclass(frozen=True, slots=True)
class _Part:
    quantity: Decimal
    price: Decimal | None


def named(row: object) -> tuple[str, str]:
    """The exchange and the trading symbol of a position or holding. Raises Malformed."""
    if not isinstance(row, Mapping):
        raise Malformed(f"A position cannot be read: {row!r}")
    return text(row, "exchange"), text(row, "tradingsymbol")


def _product(row: object) -> str | None:
    """None if the row does not say it legibly."""
    reported = row.get("product") if isinstance(row, Mapping) else None
    return reported.upper() if isinstance(reported, str) and reported else None


def _part(row: object, quantity_of: Callable[[Row], Decimal]) -> _Part | None:
    """None if its quantity cannot be read."""
    if not isinstance(row, Mapping):
        return None
    try:
        quantity = quantity_of(row)
    except Malformed:
        return None
    try:
        price = number(row, "average_price")
    except Malformed:
        price = None
    return _Part(quantity, price)


def _average(parts: Sequence[_Part]) -> Decimal | None:
    """What one unit has cost; None if one of the parts does not say it. A sale of some does not change it for the rest."""
    costs = [None if part.price is None else part.quantity * part.price for part in parts]
    if None in costs:
        return None
    return sum(filter(None, costs), Decimal(0)) / sum((part.quantity for part in parts), Decimal(0))


def _day_quantity(row: Row) -> Decimal:
    return number(row, "quantity")


def _quantity_before_today(row: Row) -> Decimal:
    """All that was owned of a holding before anything was sold today, which the day's positions show as a negative one.

    Kite divides it: `quantity` is free to be sold, `t1_quantity` is not settled yet, and what is pledged is in
    `collateral_quantity` alone (openalgo issue 1625). `used_quantity` was sold today; whether it is taken off `quantity`
    already, as Zerodha's support page on stocks sold from holdings says of its own screen, follows from what was there
    in the morning (`opening_quantity`), which may count what is pledged or not. In Zerodha's own samples of a morning
    (kiteconnect-mocks, holdings.json) it counts what is not settled; of a day with sales nothing is known, so that it
    may or may not. Raises Malformed if that fits neither or both, or if a `short_quantity` is told, of which nothing
    says how it counts.
    """
    if _or_0(row, "short_quantity"):
        raise Malformed("a short quantity is told of a holding")
    free, unsettled = number(row, "quantity"), _or_0(row, "t1_quantity")
    pledged, sold = _or_0(row, "collateral_quantity"), _or_0(row, "used_quantity")
    owned = free + unsettled + pledged
    if not sold:
        return owned
    opening = number(row, "opening_quantity")
    counted = {free + each for each in (Decimal(0), unsettled, pledged, unsettled + pledged)}
    is_taken_off = opening - sold in counted
    if is_taken_off is (opening in counted):
        raise Malformed(f"{sold:f} sold and {free:f} left of {opening:f} is not clear")
    return owned + (sold if is_taken_off else 0)


def _funded_quantity(funded: Row) -> Decimal:
    """What was held before today of shares bought with Zerodha's margin (MTF), which a holding's row has in `mtf`, beside
    what is owned (Kite's page on the portfolio). Raises Malformed if some was sold today: nothing says whether that
    is taken off."""
    if _or_0(funded, "used_quantity"):
        raise Malformed("some of what was bought with margin is sold")
    return number(funded, "quantity")


def _or_0(row: Row, name: str) -> Decimal:
    """0 if the row does not have it."""
    return Decimal(0) if row.get(name) is None else number(row, name)


def _instrument(exchange: str, symbol: str, listed: ListedRow | None) -> Instrument:
    kind = "EQ" if listed is None and exchange in ("NSE", "BSE") else "FUT" if listed is None else listed.kind
    if kind == "EQ":
        return Instrument(symbol=symbol, exchange=exchange)
    if listed is None or kind == "FUT":
        expiry = None if listed is None or listed.expiry is None else listed.expiry.strftime("%Y%m%d")
        return Instrument(
            symbol=symbol,
            asset_class=AssetClass.FUTURE,
            exchange=exchange,
            expiry=expiry,
            underlying=None if listed is None else listed.name,
        )
    return Instrument(
        symbol=symbol,
        asset_class=AssetClass.OPTION,
        exchange=exchange,
        expiry=None if listed.expiry is None else listed.expiry.strftime("%Y%m%d"),
        strike=listed.strike,
        right=OptionRight.CALL if listed.kind == "CE" else OptionRight.PUT,
        underlying=listed.name,
    )


def balances(margins: Mapping[str, Row]) -> list[Balance]:
    """The total cash of the enabled segments, without the value of holdings. Raises Malformed: a sum without one of
    the segments would be wrong."""
    if not isinstance(margins, Mapping):
        raise Malformed(f"Zerodha answered with no margins: {margins!r}")
    cash = Decimal(0)
    for name, segment in margins.items():
        if not isinstance(segment, Mapping):
            raise Malformed(f"the segment {name} is {segment!r}")
        if segment.get("enabled", True):
            available = segment.get("available")
            if not isinstance(available, Mapping):
                raise Malformed(f"the segment {name} has {available!r} available")
            cash += number(available, "cash" if available.get("live_balance") is None else "live_balance")
    return [Balance(currency=CURRENCY, cash=cash)]


def account_notes(profile: Row) -> list[str]:
    """What the operator should know about the account, one sentence each."""
    missing = [
        exchange
        for exchange in ("NSE", "BSE", "NFO", "BFO", "CDS", "MCX")
        if "exchanges" in profile and exchange not in profile["exchanges"]
    ]
    notes = [f"The token is good, for user {profile.get('user_id')}; Zerodha ends it at about 06:00 Indian time."]
    if missing:
        notes.append(f"The account is not enabled for {', '.join(missing)}.")
    if (profile.get("meta") or {}).get("demat_consent") == "physical":
        notes.append(
            "Shares cannot be sold by the API before the demat holdings are authorised (TPIN) or a DDPI is signed."
        )
    return notes
