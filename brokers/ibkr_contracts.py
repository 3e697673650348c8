"""From an instrument to the contract that IBKR knows, its ticks and its sizes; what is asked and how answers are read, no socket."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from math import isfinite
from typing import Any

from brokers.base import AssetClass, BrokerPosition, Instrument, OptionRight, OrderType, Side, Ticket
from brokers.errors import OrderRefused
from brokers.ibkr_library import UNSET, Library

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
_EXCHANGES = {AssetClass.FOREX: "IDEALPRO", AssetClass.FUTURE: "", AssetClass.FUND: "FUNDSERV"}
_CANDIDATES_NAMED = 8
_NAMED_BY_OTHERS = frozenset({AssetClass.BOND, AssetClass.FUND})
"""Kinds whose symbol at IBKR is hardly the one that others know."""
_CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Step:
    """From `edge` on prices move in steps of `increment`."""

    edge: Decimal
    increment: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Qualified:
    """One contract that the gateway has confirmed. `contract` is the library's record of it."""

    contract: Any
    asset_class: AssetClass
    steps: tuple[Step, ...]
    size_increment: Decimal


def question_for(library: Library, instrument: Instrument, *, crypto_exchange: str) -> Any:
    """The library's Contract to ask for, by its number where that is known. Raises OrderRefused."""
    asset_class = instrument.asset_class
    if asset_class not in TRADED:
        raise OrderRefused(f"IBKR cannot trade an instrument of type {asset_class}", unsupported=True)
    contract = library.contract()
    exchange = instrument.exchange or _EXCHANGES.get(asset_class, "SMART")
    if asset_class is AssetClass.CRYPTO:
        exchange = instrument.exchange or crypto_exchange
    if asset_class in (AssetClass.STOCK, AssetClass.ETF):
        # Orders are routed; the exchange says only which of two like-named shares is meant.
        exchange = "SMART"
        contract.primaryExchange = "" if instrument.exchange in (None, "SMART") else instrument.exchange
    contract.exchange = exchange
    if instrument.con_id is not None:
        contract.conId = instrument.con_id
        return contract
    contract.secType = _SEC_TYPES[asset_class]
    contract.currency = instrument.currency or "USD"
    contract.symbol = instrument.symbol
    if asset_class is AssetClass.FOREX:
        _name_pair(contract, instrument)
    elif asset_class is AssetClass.OPTION:
        _name_option(contract, instrument)
    elif asset_class is AssetClass.FUTURE:
        if not instrument.expiry:
            raise OrderRefused("A FUTURE needs its expiry, or its contract number")
        contract.lastTradeDateOrContractMonth = instrument.expiry
        contract.multiplier = "" if instrument.multiplier is None else plain(instrument.multiplier)
    return contract


def the_one(instrument: Instrument, details: Sequence[Any]) -> Any:
    """The only details that fit. Raises OrderRefused for none and, with the candidates named, for several. What is said beside a contract's
    number must agree with it."""
    if instrument.con_id is not None and len(details) == 1:
        wrong = _disagreements(instrument, details[0].contract)
        if wrong:
            raise OrderRefused(
                f"The contract number {instrument.con_id} is {_named(details)} at IBKR: not {' and '.join(wrong)}"
            )
        return details[0]
    fitting = [each for each in details if _fits(instrument, each)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        named = f"; it knows {_named(details)}" if details else ""
        raise OrderRefused(f"IBKR knows no contract for {instrument.key}{named}")
    raise OrderRefused(f"{instrument.key} fits {len(fitting)} contracts at IBKR: {_named(fitting)}")


def qualified(instrument: Instrument, details: Any, rule: Iterable[Any]) -> Qualified:
    """With the steps of the market rule, else the contract's smallest tick; nulls from the gateway are tolerated."""
    steps = tuple(Step(number(step.lowEdge), number(step.increment)) for step in rule if step.increment)
    tick = _or_none(details.minTick)
    if not steps and tick is not None:
        steps = (Step(Decimal(0), tick),)
    return Qualified(
        contract=details.contract,
        asset_class=instrument.asset_class,
        steps=steps,
        size_increment=_or_none(details.sizeIncrement) or Decimal(1),
    )


def rule_number(details: Any) -> int | None:
    """The market rule of the exchange that the contract is routed to; None: the gateway names none."""
    rules = str(details.marketRuleIds or "").split(",")
    exchanges = str(details.validExchanges or "").split(",")
    by_exchange = dict(zip(exchanges, rules, strict=False))
    chosen = by_exchange.get(details.contract.exchange, rules[0])
    return int(chosen) if chosen.isdigit() else None


def fitted(ticket: Ticket, contract: Qualified) -> Ticket:
    """The ticket with its prices on the market's ticks, limits towards the order's advantage, stops away from the market, and its quantity
    rounded down to the increment, or turned into an amount of money. What fits comes back as it is. Raises OrderRefused where nothing is left."""
    if not ticket.quantity.is_finite() or ticket.quantity <= 0:
        raise OrderRefused(f"A quantity must be above 0, not {ticket.quantity}")
    _check_prices(ticket)
    buys = ticket.side is Side.BUY
    ticket = replace(
        ticket,
        limit_price=_on_tick(ticket.limit_price, contract.steps, up=not buys),
        stop_price=_on_tick(ticket.stop_price, contract.steps, up=buys),
    )
    if spends_cash(ticket):
        return replace(ticket, cash_quantity=ticket.cash_quantity or _money(ticket))
    quantity = ticket.quantity // contract.size_increment * contract.size_increment
    if not quantity:
        raise OrderRefused(
            f"The quantity {plain(ticket.quantity)} is less than {plain(contract.size_increment)}, "
            f"the increment of {ticket.instrument.symbol}"
        )
    return replace(ticket, quantity=quantity)


def spends_cash(ticket: Ticket) -> bool:
    """IBKR buys crypto at the market for an amount of money, not by quantity."""
    is_crypto = ticket.instrument.asset_class is AssetClass.CRYPTO
    return is_crypto and ticket.side is Side.BUY and ticket.order_type is OrderType.MARKET


def _money(ticket: Ticket) -> Decimal:
    """What the quantity was expected to cost, never more, in cents."""
    if ticket.reference_price is None:
        raise OrderRefused("A purchase of crypto at the market needs a price to make an amount of money of it")
    money = (ticket.quantity * ticket.reference_price).quantize(_CENT, rounding=ROUND_DOWN)
    if not money:
        raise OrderRefused(f"{plain(ticket.quantity)} {ticket.instrument.symbol} come to less than a cent")
    return money


def instrument_of(contract: Any) -> Instrument:
    """The library's contract in our words."""
    classes = {word: asset_class for asset_class, word in _SEC_TYPES.items() if asset_class is not AssetClass.ETF}
    asset_class = classes.get(contract.secType, AssetClass.STOCK)
    symbol = contract.symbol + contract.currency if asset_class is AssetClass.FOREX else contract.symbol
    strike = _or_none(contract.strike)
    return Instrument(
        symbol=symbol,
        asset_class=asset_class,
        expiry=contract.lastTradeDateOrContractMonth or None,
        strike=strike,
        right={"C": OptionRight.CALL, "P": OptionRight.PUT}.get(str(contract.right)[:1]),
        currency=contract.currency or None,
        multiplier=_or_none(contract.multiplier),
    )


def position_of(contract: Any, known: Instrument | None, quantity: Any, average_cost: Any) -> BrokerPosition:
    """One row of the positions; `known`: what an order of ours called the contract. A quantity, strike or multiplier that is no number makes
    it unclear, an average cost that is none leaves that out."""
    illegible = [name for name in ("strike", "multiplier") if not _is_legible(getattr(contract, name))]
    if illegible:
        contract = copy(contract)
        for name in illegible:
            setattr(contract, name, "")
    held = optional_number(quantity) if _is_legible(quantity) else None
    cost = optional_number(average_cost) if _is_legible(average_cost) else None
    multiplier = optional_number(contract.multiplier) or Decimal(1)
    is_unclear = held is None or bool(illegible)
    return BrokerPosition(
        instrument=known or instrument_of(contract),
        quantity=Decimal(0) if is_unclear or held is None else held,
        average_price=None if cost is None else cost / multiplier,
        also_called=other_symbols(contract),
        con_id=int(contract.conId) or None,
        is_unclear=is_unclear,
    )


def _is_legible(value: Any) -> bool:
    """A finite number, or what the gateway leaves out."""
    try:
        return value is None or value == "" or isfinite(float(value))
    except (TypeError, ValueError):
        return False


def other_symbols(contract: Any) -> frozenset[str]:
    """What an order may have called the contract instead: the venue's symbol, which for options is padded."""
    local = str(contract.localSymbol or "")
    return frozenset({local, local.replace(" ", "")} - {""})


def number(value: Any) -> Decimal:
    """The libraries turn the wire's decimals into floats; a float's shortest text is the decimal that it came from."""
    text = format(Decimal(str(value)), "f")
    return Decimal(text.removesuffix(".0"))


def optional_number(value: Any) -> Decimal | None:
    """None for what the gateway leaves out."""
    if value is None or value == "" or float(value) >= UNSET:
        return None
    return number(value)


def _or_none(value: Any) -> Decimal | None:
    found = optional_number(value)
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
    contract.multiplier = "" if instrument.multiplier is None else plain(instrument.multiplier)


def _disagreements(instrument: Instrument, contract: Any) -> list[str]:
    """What the sender said, and the contract of that number is not."""
    found = instrument_of(contract)
    strike = None if instrument.strike is None else plain(instrument.strike)
    told: tuple[tuple[str, object, Sequence[object]], ...] = (
        ("a", instrument.asset_class.value, _kinds_of(contract)),
        ("the expiry", instrument.expiry, (found.expiry, (found.expiry or "")[:6])),
        ("the strike", strike, (found.strike and plain(found.strike),)),
        ("the right", instrument.right, (found.right,)),
        ("in", instrument.currency, (found.currency,)),
    )
    if instrument.asset_class not in _NAMED_BY_OTHERS:
        names = (found.symbol, contract.localSymbol, contract.tradingClass)
        told = (("named", instrument.symbol, names), *told)
    return [f"{words} {said}" for words, said, true in told if said is not None and said not in true]


def _kinds_of(contract: Any) -> list[str]:
    """IBKR has one word for shares and funds that are traded like shares."""
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
        parts = (contract.localSymbol or contract.symbol, contract.secType, where, contract.currency)
        names.append(f"{' '.join(part for part in parts if part)} (number {contract.conId})")
    return ", ".join(names) + (", …" if len(details) > _CANDIDATES_NAMED else "")


def _check_prices(ticket: Ticket) -> None:
    missing = []
    if ticket.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) and ticket.limit_price is None:
        missing.append("a limit price")
    if ticket.order_type in (OrderType.STOP, OrderType.STOP_LIMIT) and ticket.stop_price is None:
        missing.append("a stop price")
    if missing:
        raise OrderRefused(f"A {ticket.order_type} order needs {' and '.join(missing)}")


def _on_tick(price: Decimal | None, steps: Sequence[Step], *, up: bool) -> Decimal | None:
    if price is None:
        return None
    increment = max((step for step in steps if step.edge <= price), key=lambda step: step.edge, default=None)
    if increment is None:
        return price
    whole = (price / increment.increment).to_integral_value(rounding=ROUND_CEILING if up else ROUND_FLOOR)
    if not whole:
        raise OrderRefused(f"The price {plain(price)} is less than one tick ({plain(increment.increment)})")
    return whole * increment.increment


def plain(value: Decimal) -> str:
    return format(value.normalize(), "f")
