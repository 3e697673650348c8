"""From an instrument to IBKR's contract, its ticks and increments: how queries are built and answers are read. No
socket."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from typing import Any

from brokers.base import (
    DERIVATIVES,
    ONE,
    AssetClass,
    Combination,
    ContractTerms,
    Instrument,
    OptionRight,
    OrderType,
    Side,
    Ticket,
    Tif,
)
from brokers.errors import OrderRefused
from brokers.ibkr.library import UNSET, Library
from brokers.ticks import limit_on_tick, stop_on_tick

_SEC_TYPES = {
    AssetClass.STOCK: "STK",
    AssetClass.ETF: "STK",
    AssetClass.OPTION: "OPT",
    AssetClass.FUTURE: "FUT",
    AssetClass.FOREX: "CASH",
    AssetClass.CRYPTO: "CRYPTO",
    AssetClass.BOND: "BOND",
    AssetClass.CFD: "CFD",
    AssetClass.FUND: "FUND",
}
TRADED = frozenset(_SEC_TYPES)
_SHOWN_IN_PART = frozenset({AssetClass.STOCK, AssetClass.ETF, AssetClass.OPTION, AssetClass.FUTURE})
"""By interactivebrokers.com, "Iceberg/Reserve Orders": stocks, options, futures and warrants, with a limit. Which of their
exchanges do it IBKR itself must say."""
_EXCHANGES = {AssetClass.FOREX: "IDEALPRO", AssetClass.FUTURE: "", AssetClass.FUND: "FUNDSERV"}
_CANDIDATES_NAMED = 8
_NAMED_BY_OTHERS = frozenset({AssetClass.BOND, AssetClass.FUND})
"""Symbols at IBKR hardly match those used elsewhere."""
BAG = "BAG"
"""The security type of combinations."""
_BOND = "BOND"
"""Quoted in per cent of a face value. The gateway's answer contains neither that value nor a multiplier or
magnifier."""
_SIZED = frozenset({"FUT", "OPT", "FOP"})
"""For these a contract without a size is meaningless."""
_CENT = Decimal("0.01")
_BEYOND = Decimal(10) ** 18
"""No quantity, price or amount of money is this large."""


@dataclass(frozen=True, slots=True)
class Step:
    """From the price `edge` upwards, prices are multiples of `increment`."""

    edge: Decimal
    increment: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Qualified:
    """A contract that the gateway has confirmed. `contract` is the library's object."""

    contract: Any
    asset_class: AssetClass
    steps: tuple[Step, ...]
    size_increment: Decimal
    terms: ContractTerms


def question_for(
    library: Library, instrument: Instrument, *, crypto_exchange: str, default_currency: str = "USD"
) -> Any:
    """The library's Contract to query, by its number if that is known. Raises OrderRefused. Multiplier, trading
    class and ISIN are not part of the query but checked in the answers (`the_one`): so a refusal can name the
    candidates, and a sender may mean by the multiplier the contract's own or the money per point."""
    asset_class = instrument.asset_class
    if asset_class not in TRADED:
        raise OrderRefused(f"IBKR cannot trade an instrument of type {asset_class}", unsupported=True)
    contract = library.contract()
    exchange = instrument.exchange or _EXCHANGES.get(asset_class, "SMART")
    if asset_class is AssetClass.CRYPTO:
        exchange = instrument.exchange or crypto_exchange
    if asset_class in (AssetClass.STOCK, AssetClass.ETF):
        # Orders are routed; the exchange only decides between two shares of the same name.
        exchange = "SMART"
        contract.primaryExchange = "" if instrument.exchange in (None, "SMART") else instrument.exchange
    contract.exchange = exchange
    if instrument.con_id is not None:
        contract.conId = instrument.con_id
        return contract
    contract.secType = _SEC_TYPES[asset_class]
    contract.currency = instrument.currency or default_currency
    contract.symbol = instrument.symbol
    if asset_class is AssetClass.FOREX:
        _name_pair(contract, instrument)
    elif asset_class is AssetClass.OPTION:
        _name_option(contract, instrument)
    elif asset_class is AssetClass.FUTURE:
        if not instrument.expiry:
            raise OrderRefused("A FUTURE needs its expiry, or its contract number")
        contract.lastTradeDateOrContractMonth = instrument.expiry
    return contract


def the_one(instrument: Instrument, details: Sequence[Any]) -> Any:
    """The only matching details. Raises OrderRefused if there is none or, naming the candidates, if there are
    several. Whatever is said besides a contract number must match it."""
    if instrument.con_id is not None and len(details) == 1:
        wrong = [*_disagreements(instrument, details[0]), *_wrong_facts(instrument, details[0])]
        if wrong:
            raise OrderRefused(
                f"The contract number {instrument.con_id} is {_named(details)} at IBKR: not {' and '.join(wrong)}"
            )
        return details[0]
    named = [each for each in details if _fits(instrument, each)]
    fitting = [each for each in named if not _wrong_facts(instrument, each)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise OrderRefused(f"{instrument.full_key} fits {len(fitting)} contracts at IBKR: {_named(fitting)}")
    if named:
        wrong = list(dict.fromkeys(words for each in named for words in _wrong_facts(instrument, each)))
        raise OrderRefused(
            f"{instrument.full_key} is not what IBKR has: not {' or '.join(wrong)}; it has {_named(named)}"
        )
    known = f"; it knows {_named(details)}" if details else ""
    raise OrderRefused(f"IBKR knows no contract for {instrument.full_key}{known}")


def terms_of(details: Any) -> ContractTerms:
    """The contract's facts. Raises OrderRefused for figures from which no amount could be computed."""
    contract = details.contract
    return ContractTerms(
        multiplier=_multiplier_of(contract),
        price_magnifier=_magnifier_of(details),
        currency=contract.currency or None,
        trading_class=contract.tradingClass or None,
        con_id=int(contract.conId) or None,
        local_symbol=contract.localSymbol or None,
        exchange=contract.primaryExchange or contract.exchange or None,
        isin=_isin_of(details),
        is_size_unknown=contract.secType == _BOND,
    )


def reported_multiplier(contract: Any) -> Decimal | None:
    """None if no number above 0 is given."""
    try:
        multiplier = Decimal(str(contract.multiplier or "").strip())
    except InvalidOperation:
        return None
    return multiplier if multiplier.is_finite() and multiplier > 0 else None


def _multiplier_of(contract: Any) -> Decimal | None:
    """None if none is given and the kind needs none. Raises OrderRefused."""
    multiplier, words = reported_multiplier(contract), str(contract.multiplier or "")
    if multiplier is None and (words or contract.secType in _SIZED):
        raise OrderRefused(
            f"IBKR tells the multiplier {words!r} of {_name(contract)}: what one contract is worth is not known"
        )
    return multiplier


def _magnifier_of(details: Any) -> Decimal:
    """Raises OrderRefused."""
    reported, contract = details.priceMagnifier, details.contract
    if not reported and contract.secType == _BOND:
        return ONE
    if not isinstance(reported, int) or reported <= 0:
        raise OrderRefused(
            f"IBKR tells the price magnifier {reported!r} of {_name(contract)}: what its prices are in is not known"
        )
    return Decimal(reported)


def _isin_of(details: Any) -> str | None:
    return next((str(each.value) for each in details.secIdList or () if each.tag == "ISIN"), None)


def qualified(instrument: Instrument, details: Any, rule: Iterable[Any]) -> Qualified:
    """With the price increments of the market rule, else the contract's minimum tick. Raises OrderRefused for
    figures from which no amount could be computed."""
    steps = tuple(Step(number(step.lowEdge), number(step.increment)) for step in rule if step.increment)
    tick = _or_none(details.minTick)
    if not steps and tick is not None:
        steps = (Step(Decimal(0), tick),)
    return Qualified(
        contract=details.contract,
        asset_class=instrument.asset_class,
        steps=steps,
        size_increment=_or_none(details.sizeIncrement) or Decimal(1),
        terms=terms_of(details),
    )


def rule_number(details: Any) -> int | None:
    """The market rule of the exchange that the contract is routed to. None: the gateway names none."""
    rules = str(details.marketRuleIds or "").split(",")
    exchanges = str(details.validExchanges or "").split(",")
    by_exchange = dict(zip(exchanges, rules, strict=False))
    chosen = by_exchange.get(details.contract.exchange, rules[0])
    return int(chosen) if chosen.isascii() and chosen.isdigit() else None


def fitted(ticket: Ticket, contract: Qualified) -> Ticket:
    """The ticket with limits rounded in the order's favour, stops away from the market, and the quantity rounded
    down to the increment or replaced by an amount of money. Unchanged if it fits. Raises OrderRefused if nothing is
    left."""
    if not ticket.quantity.is_finite() or ticket.quantity <= 0:
        raise OrderRefused(f"A quantity must be above 0, not {ticket.quantity}")
    _check_prices(ticket)
    _check_is_same(ticket, contract)
    if not contract.steps and (ticket.limit_price is not None or ticket.stop_price is not None):
        raise OrderRefused(f"IBKR tells no tick of {_name(contract.contract)}: no price can be put on it")
    ticket = replace(
        ticket,
        terms=contract.terms,
        limit_price=_stepped(ticket.limit_price, contract.steps, ticket.side, limit_on_tick),
        stop_price=_stepped(ticket.stop_price, contract.steps, ticket.side, stop_on_tick),
    )
    if spends_cash(ticket):
        return replace(ticket, cash_quantity=ticket.cash_quantity or _money(ticket))
    quantity = ticket.quantity // contract.size_increment * contract.size_increment
    if not quantity:
        raise OrderRefused(
            f"The quantity {plain(ticket.quantity)} is less than {plain(contract.size_increment)}, "
            f"the increment of {ticket.instrument.symbol}"
        )
    return replace(ticket, quantity=quantity, display_quantity=_displayed(ticket, quantity, contract.size_increment))


def _displayed(ticket: Ticket, quantity: Decimal, increment: Decimal) -> Decimal | None:
    """How much of the quantity is shown: IBKR counts that in whole units. None: all of it. Raises OrderRefused for what
    is not shown in part."""
    if ticket.display_quantity is None:
        return None
    if ticket.instrument.asset_class not in _SHOWN_IN_PART:
        kinds = ", ".join(sorted(_SHOWN_IN_PART))
        raise OrderRefused(
            f"IBKR shows parts of {kinds} alone, not of {ticket.instrument.asset_class}", unsupported=True
        )
    if ticket.order_type is not OrderType.LIMIT or ticket.tif is Tif.IOC:
        raise OrderRefused("IBKR shows a part only of what rests with a limit", unsupported=True)
    step = max(ONE, increment)
    shown = ticket.display_quantity // step * step
    if not shown:
        raise OrderRefused(f"display_quantity {plain(ticket.display_quantity)} is less than {plain(step)}")
    return shown if shown < quantity else None


def bag_of(library: Library, combination: Combination, legs: Sequence[Qualified]) -> Any:
    """The library's Contract of a combination of these, in the sequence of its legs. Raises OrderRefused where IBKR has
    no one contract of them."""
    contracts = [leg.contract for leg in legs]
    places = {(each.symbol, each.currency, each.exchange) for each in contracts}
    if len(places) > 1:
        named = ", ".join(f"{symbol} in {currency} on {exchange}" for symbol, currency, exchange in sorted(places))
        raise OrderRefused(f"IBKR combines options of one underlying, currency and exchange, not of {named}")
    bag = library.contract()
    bag.secType = BAG
    bag.symbol, bag.currency, bag.exchange = places.pop()
    bag.comboLegs = [
        library.combo_leg(conId=leg.con_id, ratio=leg.ratio, action=leg.side.value, exchange=bag.exchange)
        for leg in combination.legs
    ]
    return bag


def _check_is_same(ticket: Ticket, contract: Qualified) -> None:
    """What was recorded about the contract before sending must hold for the contract that is sent."""
    recorded = None if ticket.terms is None else ticket.terms.con_id
    if recorded not in (None, contract.terms.con_id):
        raise OrderRefused(
            f"{ticket.instrument.full_key} was the contract number {recorded} when it was recorded, and is "
            f"{_name(contract.contract)} (number {contract.terms.con_id}) now"
        )


def spends_cash(ticket: Ticket) -> bool:
    """IBKR sells crypto at the market for an amount of money, not by quantity."""
    is_crypto = ticket.instrument.asset_class is AssetClass.CRYPTO
    return is_crypto and ticket.side is Side.BUY and ticket.order_type is OrderType.MARKET


def _money(ticket: Ticket) -> Decimal:
    """The expected cost of the quantity, rounded down to cents."""
    if ticket.reference_price is None:
        raise OrderRefused("A purchase of crypto at the market needs a price to make an amount of money of it")
    money = (ticket.quantity * ticket.reference_price).quantize(_CENT, rounding=ROUND_DOWN)
    if not money:
        raise OrderRefused(f"{plain(ticket.quantity)} {ticket.instrument.symbol} come to less than a cent")
    return money


def instrument_of(contract: Any) -> Instrument:
    """The library's contract as our Instrument."""
    classes = {word: asset_class for asset_class, word in _SEC_TYPES.items() if asset_class is not AssetClass.ETF}
    asset_class = classes.get(contract.secType, AssetClass.STOCK)
    symbol = contract.symbol + contract.currency if asset_class is AssetClass.FOREX else contract.symbol
    strike = _or_none(contract.strike)
    is_derivative = asset_class in DERIVATIVES
    return Instrument(
        symbol=symbol,
        asset_class=asset_class,
        expiry=contract.lastTradeDateOrContractMonth or None,
        strike=strike,
        right={"C": OptionRight.CALL, "P": OptionRight.PUT}.get(str(contract.right)[:1]),
        currency=contract.currency or None,
        multiplier=reported_multiplier(contract) if is_derivative else None,
        trading_class=(contract.tradingClass or None) if is_derivative else None,
    )


def other_symbols(contract: Any) -> frozenset[str]:
    """Other names that an order may have used for the contract: the venue's symbol, which is padded for options."""
    local = str(contract.localSymbol or "")
    return frozenset({local, local.replace(" ", "")} - {""})


def number(value: Any) -> Decimal:
    """The libraries turn the wire's decimals into floats; a float's shortest text is the decimal that it came from."""
    text = format(Decimal(str(value)), "f")
    return Decimal(text.removesuffix(".0"))


def amount(value: Any, *, least: int | None = None) -> Decimal:
    """A quantity or price of an order. Raises ValueError for an impossible value: not finite, too large, or less
    than `least`."""
    try:
        found = Decimal(str(value))
    except ArithmeticError as exc:
        raise ValueError(f"{value!r} is no number") from exc
    if not found.is_finite() or abs(found) >= _BEYOND or (least is not None and found < least):
        raise ValueError(f"{value!r} is no amount")
    return number(value)


def optional_amount(value: Any) -> Decimal | None:
    """None if the gateway omits it. Raises ValueError as `amount`."""
    if value is None or value == "" or UNSET <= float(value) < float("inf"):
        return None
    return amount(value)


def amount_or_none(value: Any) -> Decimal | None:
    """As `optional_amount`, but None also for an impossible value."""
    try:
        return optional_amount(value)
    except ValueError:
        return None


def _or_none(value: Any) -> Decimal | None:
    found = optional_amount(value)
    return found if found else None


def _name_pair(contract: Any, instrument: Instrument) -> None:
    pair = "".join(letter for letter in instrument.symbol if letter.isalpha())
    if len(pair) != 6:
        raise OrderRefused(f"A currency pair has two times three letters, not {instrument.symbol!r}")
    contract.symbol, contract.currency = pair[:3], pair[3:]


def _name_option(contract: Any, instrument: Instrument) -> None:
    missing = [name for name in ("expiry", "strike", "right") if getattr(instrument, name) is None]
    if missing:
        raise OrderRefused(f"An OPTION needs {' and '.join(missing)}, or its contract number")
    contract.symbol = instrument.underlying or instrument.symbol
    contract.lastTradeDateOrContractMonth = instrument.expiry
    contract.strike = plain(instrument.strike or Decimal(0))
    contract.right = "C" if instrument.right is OptionRight.CALL else "P"


def _wrong_facts(instrument: Instrument, details: Any) -> list[str]:
    """Each statement of the sender about currency, exchange, size, class or ISIN that is not true of the contract,
    or that the gateway does not confirm."""
    contract, wrong = details.contract, []
    if instrument.currency is not None and instrument.currency != contract.currency:
        wrong.append(f"in {instrument.currency}")
    homes = ("SMART", contract.exchange, contract.primaryExchange, *_exchanges_of(details))
    if instrument.exchange is not None and instrument.exchange not in homes:
        wrong.append(f"on {instrument.exchange}")
    if instrument.multiplier is not None and not _means(instrument.multiplier, details):
        wrong.append(f"the multiplier {plain(instrument.multiplier)}")
    class_of_it = (instrument.trading_class or "").upper()
    if class_of_it and class_of_it != str(contract.tradingClass or "").upper():
        wrong.append(f"the trading class {instrument.trading_class}")
    if instrument.isin is not None and instrument.isin != (_isin_of(details) or "").upper():
        reported = "" if _isin_of(details) else ", which IBKR does not tell"
        wrong.append(f"the ISIN {instrument.isin}{reported}")
    return wrong


def _means(multiplier: Decimal, details: Any) -> bool:
    """Unreadable figures match any: they are refused with a reason of their own (`terms_of`)."""
    try:
        return terms_of(details).means(multiplier)
    except OrderRefused:
        return True


def _disagreements(instrument: Instrument, details: Any) -> list[str]:
    """Each statement of the sender that is not true of the contract with that number."""
    contract = details.contract
    found = instrument_of(contract)
    strike = None if instrument.strike is None else plain(instrument.strike)
    reported: tuple[tuple[str, object, Sequence[object]], ...] = (
        ("a", instrument.asset_class.value, _kinds_of(contract)),
        # A month may be that of the last trading day or the venue's contract month.
        ("the expiry", instrument.expiry, (found.expiry, (found.expiry or "")[:6], details.contractMonth)),
        ("the strike", strike, (found.strike and plain(found.strike),)),
        ("the right", instrument.right, (found.right,)),
    )
    if instrument.asset_class not in _NAMED_BY_OTHERS:
        names = (found.symbol, contract.localSymbol, contract.tradingClass)
        reported = (("named", instrument.symbol, names), *reported)
    return [f"{words} {said}" for words, said, true in reported if said is not None and said not in true]


def _exchanges_of(details: Any) -> list[str]:
    return str(details.validExchanges or "").split(",")


def _kinds_of(contract: Any) -> list[str]:
    """IBKR has one security type for shares and for funds that trade like shares."""
    return [asset_class.value for asset_class, word in _SEC_TYPES.items() if word == contract.secType]


def _fits(instrument: Instrument, details: Any) -> bool:
    found = details.contract.lastTradeDateOrContractMonth or ""
    if instrument.expiry and instrument.asset_class is AssetClass.OPTION and len(instrument.expiry) == 8:
        return bool(found == instrument.expiry)
    return True


def _named(details: Sequence[Any]) -> str:
    names = []
    for each in details[:_CANDIDATES_NAMED]:
        contract = each.contract
        where = contract.primaryExchange or contract.exchange
        parts = (_name(contract), contract.secType, where, contract.currency)
        facts = [f"multiplier {contract.multiplier}"] if contract.multiplier else []
        facts += [f"class {contract.tradingClass}"] if contract.tradingClass else []
        facts.append(f"number {contract.conId}")
        names.append(f"{' '.join(part for part in parts if part)} ({', '.join(facts)})")
    return ", ".join(names) + (", …" if len(details) > _CANDIDATES_NAMED else "")


def _name(contract: Any) -> str:
    return str(contract.localSymbol or contract.symbol or f"the contract {contract.conId}")


def _check_prices(ticket: Ticket) -> None:
    missing = []
    if ticket.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) and ticket.limit_price is None:
        missing.append("a limit price")
    if ticket.order_type in (OrderType.STOP, OrderType.STOP_LIMIT) and ticket.stop_price is None:
        missing.append("a stop price")
    if missing:
        raise OrderRefused(f"A {ticket.order_type} order needs {' and '.join(missing)}")


def _stepped(
    price: Decimal | None, steps: Sequence[Step], side: Side, on_tick: Callable[[Decimal, Decimal, Side], Decimal]
) -> Decimal | None:
    if price is None:
        return None
    increment = max((step for step in steps if step.edge <= price), key=lambda step: step.edge, default=None)
    if increment is None:
        return price
    stepped = on_tick(price, increment.increment, side)
    if not stepped:
        raise OrderRefused(f"The price {plain(price)} is less than one tick ({plain(increment.increment)})")
    return stepped


def plain(value: Decimal) -> str:
    return format(value.normalize(), "f")
