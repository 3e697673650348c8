"""Translates between Alpaca's terms and ours: instruments, order forms, statuses, what replaced orders add up to. No
calls, no clock, no parsing of rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import ROUND_DOWN, Decimal

from brokers.alpaca.rows import AccountRow, AssetRow, FillRow, OrderRow, PositionRow
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

CURRENCY = "USD"
EQUITY, OPTION, CRYPTO = "us_equity", "us_option", "crypto"
SHARES = frozenset({AssetClass.STOCK, AssetClass.ETF, AssetClass.FUND})
VARIETIES = {"extended_hours": None, "opg": "opg", "cls": "cls", "fok": "fok"}
"""By a ticket's variety, the time in force that it stands for; `extended_hours` keeps the ticket's own."""
_ORDER_TYPES = {
    OrderType.MARKET: "market",
    OrderType.LIMIT: "limit",
    OrderType.STOP: "stop",
    OrderType.STOP_LIMIT: "stop_limit",
}
_TYPES_OF = {
    EQUITY: frozenset(OrderType),
    OPTION: frozenset({OrderType.MARKET, OrderType.LIMIT}),
    CRYPTO: frozenset({OrderType.MARKET, OrderType.LIMIT, OrderType.STOP_LIMIT}),
}
_TIFS_OF = {
    EQUITY: (Tif.DAY, Tif.GTC, Tif.IOC),
    OPTION: (Tif.DAY,),
    CRYPTO: (Tif.GTC, Tif.IOC),
}
"""The first is that of an order that names none."""
_CLASS_WORDS = {EQUITY: "shares", OPTION: "options", CRYPTO: "crypto"}
_FINAL = {
    "filled": ReportStatus.FILLED,
    "canceled": ReportStatus.CANCELLED,
    "expired": ReportStatus.EXPIRED,
    "rejected": ReportStatus.REJECTED,
}
_KNOWN_WORKING = frozenset(
    {
        *("new", "accepted", "pending_new", "accepted_for_bidding", "partially_filled", "stopped", "held"),
        *("pending_review", "suspended", "pending_cancel", "pending_replace", "done_for_day", "calculated", "replaced"),
    }
)
REPLACED = "replaced"
_AT_THE_MARKET = frozenset({"new", "partially_filled"})
_WAITS_FOR_THE_MARKET = "accepted"
"""Received by Alpaca and not passed on yet: for a moment by day, until the opening by night."""
_OCC = re.compile(r"([A-Z]{1,6}\d?)(\d{2})(\d{2})(\d{2})([CP])(\d{8})")
_QUOTES = ("USDT", "USDC", "USD", "BTC")
"""What coins are quoted in; the longer name first."""
_HOME = frozenset({"SMART", "US"})
_SAME_EXCHANGE = {"NYSEARCA": "ARCA", "NYSEAMERICAN": "AMEX", "ISLAND": "NASDAQ"}
_CENT, _HUNDREDTH_OF_A_CENT = Decimal("0.01"), Decimal("0.0001")
_FRACTION = Decimal("0.000000001")
_MOST_FEES = Decimal("0.01")
"""Of the coins bought; Alpaca's own is a quarter of that."""
_LEAST_PURCHASE, _LEAST_PURCHASE_OF_COINS = Decimal(1), Decimal(10)
"""In dollars; of coins only where they are priced in dollars."""
_BEYOND_THE_STOP = Decimal("0.05")
"""How far beyond the stop the limit of a protective stop in coins lies, as a part of it."""


# Instruments


def class_of(instrument: Instrument) -> str:
    """Alpaca's name of the asset class. Raises OrderRefused."""
    if instrument.currency not in (None, CURRENCY) and instrument.asset_class is not AssetClass.CRYPTO:
        raise OrderRefused(f"Alpaca trades in {CURRENCY}, not in {instrument.currency}", unsupported=True)
    if instrument.asset_class in SHARES:
        return EQUITY
    if instrument.asset_class is AssetClass.OPTION:
        return OPTION
    if instrument.asset_class is AssetClass.CRYPTO:
        return CRYPTO
    raise OrderRefused(f"Alpaca has no {instrument.asset_class.value.lower()}s", unsupported=True)


def symbol_of(instrument: Instrument) -> str:
    """Alpaca's symbol: of a share class as BRK.B, of a coin as BTC/USD, of an option as AAPL261218C00200000. Raises
    OrderRefused."""
    symbol = instrument.symbol.upper()
    match class_of(instrument):
        case "us_option":
            return symbol if _OCC.fullmatch(symbol) else _occ_symbol(instrument)
        case "crypto":
            return _pair(symbol, instrument.currency)
    return symbol.replace(" ", ".").replace("/", ".")


def _occ_symbol(instrument: Instrument) -> str:
    root = (instrument.underlying or instrument.symbol).upper()
    expiry, strike, right = instrument.expiry, instrument.strike, instrument.right
    if expiry is None or not re.fullmatch(r"\d{8}", expiry) or strike is None or right is None:
        raise OrderRefused("An option needs its expiry (YYYYMMDD), strike and right, or its OCC symbol")
    thousandths = strike * 1000
    if thousandths != thousandths.to_integral_value() or not 0 < thousandths < 10**8:
        raise OrderRefused(f"A strike of {strike:f} has no OCC symbol")
    return f"{root}{expiry[2:]}{'C' if right is OptionRight.CALL else 'P'}{int(thousandths):08d}"


def _pair(symbol: str, currency: str | None) -> str:
    if "/" in symbol:
        return symbol
    for quote in _QUOTES:
        if symbol.endswith(quote) and len(symbol) > len(quote):
            return f"{symbol.removesuffix(quote)}/{quote}"
    return f"{symbol}/{(currency or CURRENCY).upper()}"


def terms_of(asset: AssetRow, instrument: Instrument) -> ContractTerms:
    """The contract's facts. Raises OrderRefused naming what the order says of the contract and is not true, or cannot
    be verified."""
    terms = ContractTerms(
        multiplier=asset.multiplier,
        currency=_priced_in(asset),
        local_symbol=asset.symbol,
        exchange=asset.exchange or None,
        is_one_size=True,
    )
    wrong = []
    if instrument.multiplier is not None and not terms.means(instrument.multiplier):
        wrong.append(f"the multiplier {instrument.multiplier:f}, where it is {terms.multiplier or ONE:f}")
    if instrument.con_id is not None:
        wrong.append(f"the con_id {instrument.con_id}: Alpaca has no such numbers")
    if instrument.trading_class is not None:
        wrong.append(f"the trading_class {instrument.trading_class}: Alpaca tells none")
    if instrument.isin is not None and (asset.cusip is None or instrument.isin[2:11] != asset.cusip):
        told = "tells none" if asset.cusip is None else f"tells the CUSIP {asset.cusip}"
        wrong.append(f"the isin {instrument.isin}: Alpaca {told}")
    exchange = (instrument.exchange or "").upper()
    listed_at = asset.exchange if asset.asset_class == EQUITY else ""
    if exchange and exchange not in _HOME and listed_at and _SAME_EXCHANGE.get(exchange, exchange) != listed_at:
        wrong.append(f"the exchange {instrument.exchange}, where it is {listed_at}")
    if wrong:
        raise OrderRefused(f"{asset.symbol} is not what the order names: {'; '.join(wrong)}")
    return terms


def unlisted(symbol: str, asset_class: str) -> AssetRow:
    """For an exit of something that Alpaca does not list any more, or of which it tells nothing now."""
    multiplier = Decimal(100) if asset_class == OPTION else None
    is_share = asset_class == EQUITY
    return AssetRow(
        symbol=symbol, asset_class=asset_class, is_tradable=True, is_fractionable=is_share, multiplier=multiplier
    )


def instrument_of(symbol: str, asset_class: str) -> tuple[Instrument, frozenset[str]]:
    """The instrument of a position, and the other symbols under which an order may have named it."""
    if asset_class == CRYPTO:
        pair = _pair(symbol, None)
        base, _, quote = pair.partition("/")
        return Instrument(symbol=pair, asset_class=AssetClass.CRYPTO), frozenset({base + quote, base, pair})
    found = _OCC.fullmatch(symbol) if asset_class == OPTION else None
    if found is not None:
        root, year, month, day, right, strike = found.groups()
        instrument = Instrument(
            symbol=root,
            asset_class=AssetClass.OPTION,
            expiry=f"20{year}{month}{day}",
            strike=Decimal(strike) / 1000,
            right=OptionRight.CALL if right == "C" else OptionRight.PUT,
            underlying=root,
        )
        return instrument, frozenset({symbol})
    return Instrument(symbol=symbol), frozenset({symbol, symbol.replace(".", " "), symbol.replace(".", "/")})


# Order forms


def fitted(ticket: Ticket, asset: AssetRow) -> Ticket:
    """With prices on the tick, the quantity on its step, and the contract's facts. Raises OrderRefused for what Alpaca
    would not accept; what it no longer trades is refused unless the order is an exit."""
    terms = terms_of(asset, ticket.instrument)
    if not asset.is_tradable and not ticket.is_exit:
        raise OrderRefused(f"{asset.symbol} is not tradable at Alpaca now: halted, or not listed any more")
    kind = asset.asset_class
    words = _CLASS_WORDS.get(kind, kind)
    ticket = _with_wide_limit(ticket, asset)
    if ticket.order_type not in _TYPES_OF.get(kind, ()) and not _leaves_as_stop_limit(ticket, asset):
        raise OrderRefused(f"Alpaca has no {ticket.order_type} orders for {words}", unsupported=True)
    limit = stop = None
    if ticket.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) or _leaves_as_stop_limit(ticket, asset):
        limit = _priced(ticket.limit_price, "a limit price", asset, ticket.side, is_stop=False)
    if ticket.order_type in (OrderType.STOP, OrderType.STOP_LIMIT):
        stop = _priced(ticket.stop_price, "a stop price", asset, ticket.side, is_stop=True)
    return replace(
        ticket,
        terms=terms,
        quantity=_quantity(ticket, asset),
        limit_price=ticket.limit_price if limit is None else limit,
        stop_price=ticket.stop_price if stop is None else stop,
        tif=tif_of(ticket, asset),
    )


def _leaves_as_stop_limit(ticket: Ticket, asset: AssetRow) -> bool:
    """There are no plain stops in coins: one that protects a position leaves with a limit that the market should not jump over."""
    return ticket.is_protective and ticket.order_type is OrderType.STOP and asset.asset_class == CRYPTO


def _with_wide_limit(ticket: Ticket, asset: AssetRow) -> Ticket:
    if not _leaves_as_stop_limit(ticket, asset) or ticket.stop_price is None or ticket.limit_price is not None:
        return ticket
    return replace(ticket, limit_price=ticket.stop_price * (1 + ticket.side.sign * _BEYOND_THE_STOP))


def without_fees(ticket: Ticket, held: PositionRow | None) -> Ticket:
    """A sale that is to close a position in coins takes what is there, where that is smaller by no more than the fees
    that were taken out of the coins; any other difference is Alpaca's to refuse."""
    available = None if held is None else held.available
    if available is None or not ticket.quantity * (1 - _MOST_FEES) <= available < ticket.quantity:
        return ticket
    return replace(ticket, quantity=available)


def tif_of(ticket: Ticket, asset: AssetRow) -> Tif:
    """The ticket's own, else the usual one of the asset class. Raises OrderRefused for one that the class or a
    fraction of a share does not have."""
    allowed = _TIFS_OF[asset.asset_class]
    tif = ticket.tif or allowed[0]
    if tif not in allowed:
        words = _CLASS_WORDS[asset.asset_class]
        raise OrderRefused(f"Alpaca has no {tif} orders for {words}", unsupported=True)
    if ticket.is_protective and _is_fraction(ticket, asset):
        # It is placed again when the day's has expired; refused, it would protect nothing at all.
        return Tif.DAY
    if tif is not Tif.DAY and _is_fraction(ticket, asset):
        raise OrderRefused("A fraction of a share is for the day only at Alpaca", unsupported=True)
    return tif


def order_form(ticket: Ticket, asset: AssetRow) -> dict[str, object]:
    """The body of the placing call, every number as text. Raises OrderRefused. `ticket` is on its ticks and steps."""
    tif = tif_of(ticket, asset)
    is_widened = _leaves_as_stop_limit(ticket, asset)
    form: dict[str, object] = {
        "symbol": asset.symbol,
        "side": ticket.side.value.lower(),
        "type": "stop_limit" if is_widened else _ORDER_TYPES[ticket.order_type],
        "time_in_force": tif.value.lower(),
        "client_order_id": ticket.client_order_id,
    }
    if ticket.cash_quantity is not None:
        if asset.asset_class == OPTION or ticket.order_type is not OrderType.MARKET:
            raise OrderRefused("An amount of money is for market orders in shares and crypto only", unsupported=True)
        form["notional"] = _plain(ticket.cash_quantity.quantize(_CENT, ROUND_DOWN))
    else:
        form["qty"] = _plain(ticket.quantity)
    if ticket.limit_price is not None and (is_widened or ticket.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT)):
        form["limit_price"] = _plain(ticket.limit_price)
    if ticket.stop_price is not None and ticket.order_type in (OrderType.STOP, OrderType.STOP_LIMIT):
        form["stop_price"] = _plain(ticket.stop_price)
    if asset.asset_class == OPTION and ticket.is_exit:
        # Alpaca itself then lets the order only close.
        form["position_intent"] = f"{ticket.side.value.lower()}_to_close"
    return form | _variety(ticket, asset, tif)


def _variety(ticket: Ticket, asset: AssetRow, tif: Tif) -> dict[str, object]:
    variety = (ticket.variety or "").lower()
    if variety in ("", "regular"):
        return {}
    if variety not in VARIETIES or asset.asset_class != EQUITY:
        known = ", ".join(VARIETIES)
        raise OrderRefused(f"The variety {variety} is not supported; for shares there are {known}", unsupported=True)
    if _is_fraction(ticket, asset) and variety != "extended_hours":
        raise OrderRefused("A fraction of a share is for the day only at Alpaca", unsupported=True)
    own_tif = VARIETIES[variety]
    if own_tif is not None:
        return {"time_in_force": own_tif}
    if ticket.order_type is not OrderType.LIMIT or tif is Tif.IOC:
        raise OrderRefused("Extended hours are for limit orders with DAY or GTC only", unsupported=True)
    return {"extended_hours": True}


def _is_fraction(ticket: Ticket, asset: AssetRow) -> bool:
    return asset.asset_class == EQUITY and ticket.quantity != ticket.quantity.to_integral_value()


def _quantity(ticket: Ticket, asset: AssetRow) -> Decimal:
    """On the asset's step, never more than asked for. Raises OrderRefused."""
    quantity = ticket.quantity
    if asset.asset_class == CRYPTO:
        step = asset.quantity_step or _FRACTION
        quantity = (quantity / step).to_integral_value(ROUND_DOWN) * step
        least = asset.least_quantity or step
        if quantity < least and not ticket.is_exit:
            raise OrderRefused(f"{ticket.quantity:f} of {asset.symbol} is less than Alpaca's least, {least:f}")
    elif quantity != quantity.to_integral_value():
        if asset.asset_class == OPTION or not asset.is_fractionable:
            raise OrderRefused(f"{asset.symbol} is traded in whole numbers only, and not as {quantity:f}")
        quantity = quantity.quantize(_FRACTION, ROUND_DOWN)
    if quantity <= 0:
        raise OrderRefused(f"{ticket.quantity:f} of {asset.symbol} is less than one step")
    price = ticket.limit_price if ticket.limit_price is not None else ticket.reference_price
    least_value = _least_value(asset)
    is_small = price is not None and quantity * price * (asset.multiplier or ONE) < least_value
    if is_small and ticket.side is Side.BUY and not ticket.is_exit:
        raise OrderRefused(f"{quantity:f} of {asset.symbol} is worth less than Alpaca's least purchase, ${least_value}")
    return quantity


def _least_value(asset: AssetRow) -> Decimal:
    if asset.asset_class != CRYPTO:
        return _LEAST_PURCHASE
    return _LEAST_PURCHASE_OF_COINS if _priced_in(asset) == CURRENCY else Decimal(0)


def _priced_in(asset: AssetRow) -> str:
    """Coins may be priced in other coins."""
    return (asset.symbol.partition("/")[2] if asset.asset_class == CRYPTO else "") or CURRENCY


def _priced(price: Decimal | None, words: str, asset: AssetRow, side: Side, *, is_stop: bool) -> Decimal:
    if price is None:
        raise OrderRefused(f"The order needs {words}")
    tick = asset.price_step if asset.asset_class == CRYPTO else _CENT if price >= 1 else _HUNDREDTH_OF_A_CENT
    if asset.asset_class == OPTION:
        tick = _CENT
    if tick is None:
        return price
    rounded = (stop_on_tick if is_stop else limit_on_tick)(price, tick, side)
    if rounded <= 0:
        raise OrderRefused(f"{words.removeprefix('a ').capitalize()} {price:f} is less than one tick ({tick:f})")
    return rounded


def _plain(number: Decimal) -> str:
    return format(number, "f")


# Orders and fills


def is_over(row: OrderRow) -> bool:
    """Whether nothing of this row changes any more: it has ended, or was replaced."""
    return row.status == REPLACED or row.status in _FINAL


def chains(rows: Iterable[OrderRow]) -> list[list[OrderRow]]:
    """The rows grouped by order: one that was replaced together with its successors, the first one first, as far as
    they are among these rows. In the sequence of the first ones."""
    by_id = {row.order_id: row for row in rows}
    found = []
    for row in by_id.values():
        if row.replaces is not None and row.replaces in by_id:
            continue
        chain, seen = [row], {row.order_id}
        while (following := chain[-1].replaced_by) is not None and following in by_id and following not in seen:
            seen.add(following)
            chain.append(by_id[following])
        found.append(chain)
    return found


def report_of(
    chain: Sequence[OrderRow],
    fills: Mapping[str, Sequence[Fill]],
    *,
    opens_at: datetime | None = None,
    note: str | None = None,
) -> Report:
    """The report of an order and of those that replaced it: the last one's status, the executions of all. `fills` by
    Alpaca's id. `opens_at`: when the market of shares and options opens; None: it is open, or that is not known. `note`
    is added to what is said of the order."""
    first, last = chain[0], chain[-1]
    own = [_charged(fill, row) for row in chain for fill in fills.get(row.order_id, ())]
    counted = sum((row.filled for row in chain), Decimal(0))
    shown = sum((fill.quantity for fill in own), Decimal(0))
    status = _FINAL.get(last.status, ReportStatus.WORKING)
    # The successor of a replaced order is not known yet, or the word is a new one: nothing is concluded.
    is_unclear = last.status == REPLACED
    is_held = _is_held(last, opens_at) if status is ReportStatus.WORKING else None
    said = last.status if len(chain) == 1 else f"{last.status} (replaced by {last.order_id})"
    if status is ReportStatus.WORKING and last.status not in _KNOWN_WORKING:
        said = f"{last.status} (a status that is not known here)"
    return Report(
        client_order_id=first.tag,
        broker_order_id=first.order_id,
        status=status,
        # The executions are queried after the orders and may be ahead of them.
        filled_quantity=max(counted, shown),
        fills=tuple(own),
        fills_shown=FillsShown.ALL if shown == counted and not is_unclear else FillsShown.SOME,
        reason=_reason(status),
        said=said if note is None else f"{said}; {note}",
        is_held=is_held,
        held_until=opens_at if is_held else None,
        is_unclear=is_unclear,
        instrument=instrument_of(first.symbol, _class_of(first))[0] if first.symbol and _class_of(first) else None,
        side={"buy": Side.BUY, "sell": Side.SELL}.get(first.side),
    )


def _reason(status: ReportStatus) -> str | None:
    if status is ReportStatus.REJECTED:
        return "Rejected after Alpaca had taken the order; it tells no reason"
    return None


def may_be_held(row: OrderRow) -> bool:
    """Whether it waits for the opening if its market is closed; that of coins never is, whose symbols do not tell them
    from shares: `BTCUSD` is one (alpaca-py issue 374)."""
    return row.status == _WAITS_FOR_THE_MARKET and _class_of(row) != CRYPTO


def _class_of(row: OrderRow) -> str:
    """The order's class of assets; empty: not known. Only the symbol of a pair of coins has a stroke."""
    said = row.asset_class if row.asset_class in _CLASS_WORDS else ""
    return said or (CRYPTO if "/" in row.symbol else "")


def _is_held(row: OrderRow, opens_at: datetime | None) -> bool | None:
    if row.status in _AT_THE_MARKET:
        return False
    return True if opens_at is not None and may_be_held(row) else None


def fill_of(row: FillRow, received_at: datetime) -> Fill:
    """Without its commission, which depends on the order's class of assets."""
    return Fill(
        fill_id=row.activity_id,
        quantity=row.quantity,
        price=row.price,
        time=row.time or received_at,
        is_time_estimated=row.time is None,
    )


def _charged(fill: Fill, order: OrderRow) -> Fill:
    """Alpaca charges no commission for shares and options. The fee of a crypto trade is taken out of what is received
    and posted by day and symbol, not by order: it is not told, and none of what is of a class that is not known."""
    is_free = _class_of(order) in (EQUITY, OPTION)
    return replace(fill, commission=Decimal(0), commission_currency=CURRENCY) if is_free else fill


# Account


def positions(rows: Iterable[PositionRow | None]) -> list[BrokerPosition]:
    found = []
    for row in rows:
        if row is None:
            found.append(UNNAMED_POSITION)
            continue
        instrument, names = instrument_of(row.symbol, row.asset_class)
        is_option = row.asset_class == OPTION
        terms = ContractTerms(multiplier=Decimal(100), currency=CURRENCY, local_symbol=row.symbol, is_one_size=True)
        found.append(
            BrokerPosition(
                instrument=instrument,
                quantity=Decimal(0) if row.quantity is None else row.quantity,
                average_price=row.average_price,
                also_called=names,
                terms=terms if is_option else None,
                is_unclear=row.quantity is None,
            )
        )
    return found


def balances(account: AccountRow) -> list[Balance]:
    return [Balance(currency=account.currency, cash=account.cash, equity=account.equity)]


def asset_classes(account: AccountRow | None) -> frozenset[AssetClass]:
    """What the account may trade, as far as it says."""
    classes = {AssetClass.STOCK, AssetClass.ETF}
    if account is None or account.options_level is None or account.options_level > 0:
        classes.add(AssetClass.OPTION)
    if account is None or account.crypto_status in (None, "ACTIVE"):
        classes.add(AssetClass.CRYPTO)
    return frozenset(classes)


def account_notes(account: AccountRow) -> list[str]:
    """What the operator should know about the account, one sentence each."""
    notes = [f"Account {account.number or 'without a number'}, {account.status or 'status not told'}."]
    if account.allows_shorts is False:
        notes.append("It may not sell short.")
    if account.crypto_status not in (None, "ACTIVE"):
        notes.append(f"It is not enabled for crypto ({account.crypto_status}).")
    if account.options_level == 0:
        notes.append("It is not enabled for options.")
    return notes


def concern_of(account: AccountRow) -> str | None:
    """What keeps the account from trading, in one sentence. None: nothing."""
    if account.blocks:
        return f"Alpaca has barred the account: {', '.join(account.blocks)}"
    if account.status not in ("", "ACTIVE"):
        return f"The account is {account.status} and not ACTIVE: orders may be refused"
    return None
