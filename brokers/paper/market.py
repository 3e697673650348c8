"""A paper exchange's market: what happens to an order, its price, and what executions add up to. Pure functions: no
book, no clock."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from brokers.base import Balance, BrokerPosition, Instrument, OrderType, Ticket, Tif
from brokers.paper.model import LIMITED, Action, Execution, Fault, Market, Planned, Step, micros_of

_SLIPPAGE_PLACES = 4
_MOST_PLACES = 8
_MOST_PARTS = 50
"""In so many fills an order is done of which only a part is shown at a time."""
_REJECTIONS = (
    "Insufficient margin",
    "Price outside of the permitted range",
    "Instrument halted",
    "Risk limit exceeded",
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is decided about an order when it is accepted."""

    rejection: str | None
    """Why it is rejected; None: it is not."""
    plan: tuple[Planned, ...] = ()


@dataclass(frozen=True, slots=True)
class Holdings:
    """An account's positions and balances."""

    positions: tuple[BrokerPosition, ...]
    balances: tuple[Balance, ...]


def decide(ticket: Ticket, market: Market, faults: Mapping[Action, Fault], moment: int) -> Decision:
    """Decided by chance and by the `faults` that hit the order when it is accepted, at `moment` (microseconds since
    1970)."""
    luck = random.Random() if market.seed is None else random.Random(f"{market.seed}:{ticket.client_order_id}")
    rejected = luck.random() < market.rejection_rate
    reason = luck.choice(_REJECTIONS)
    partial = luck.random() < market.partial_fill_rate
    first = _first_part(ticket.quantity, luck.random()) if partial else ticket.quantity
    parts = _parts(ticket, first)
    if Action.REJECT in faults:
        rejected, reason = True, faults[Action.REJECT].reason
    if rejected:
        return Decision(reason)
    is_resting = ticket.is_protective and ticket.order_type is not OrderType.MARKET
    if market.fill_delay_seconds is None or is_resting or Action.HOLD in faults:
        return Decision(None)
    price = price_of(ticket, market)
    delay = micros_of(market.fill_delay_seconds)
    late = faults.get(Action.LATE_COMMISSION)
    due = moment + delay
    plan = [Planned(due, Step.FILL, parts[0], price, None if late else market.commission_per_order)]
    if len(parts) > 1 and ticket.tif is Tif.IOC:
        plan.append(Planned(due, Step.CANCEL, reason="The rest of an IOC order is cancelled"))
    else:
        for part in parts[1:]:
            due += delay
            plan.append(Planned(due, Step.FILL, part, price, None if late else Decimal(0)))
    over = faults.get(Action.OVERFILL)
    if over is not None:
        extra = ticket.quantity if over.quantity is None else over.quantity
        plan.append(Planned(due, Step.FILL, extra, price, None if late else Decimal(0)))
    if late is not None:
        charged = due + micros_of(late.seconds)
        plan.append(Planned(charged, Step.COMMISSION, commission=market.commission_per_order))
    return Decision(None, tuple(plan))


def is_due_at(ticket: Ticket, price: Decimal) -> bool:
    """Whether a protective order is due at that price of the market."""
    if ticket.order_type is OrderType.LIMIT:
        return ticket.limit_price is not None and (price - ticket.limit_price) * ticket.side.sign <= 0
    return ticket.stop_price is not None and (price - ticket.stop_price) * ticket.side.sign >= 0


def price_of(ticket: Ticket, market: Market) -> Decimal:
    """The price of a fill: the order's own or the symbol's, with slippage unless a limit forbids it."""
    own = {
        OrderType.MARKET: ticket.reference_price,
        OrderType.STOP: ticket.stop_price,
        OrderType.LIMIT: ticket.limit_price,
        OrderType.STOP_LIMIT: ticket.limit_price,
    }[ticket.order_type]
    price = symbol_price(ticket.instrument.symbol, market) if own is None else own
    if ticket.order_type in LIMITED or not market.slippage_bps:
        return price
    slipped = price + ticket.side.sign * abs(price) * market.slippage_bps / 10_000
    places = _places(price)
    rounded = round(slipped, min(max(places, _SLIPPAGE_PLACES), _MOST_PLACES)).normalize()
    return round(rounded, places) if _places(rounded) < places else rounded


def symbol_price(symbol: str, market: Market) -> Decimal:
    """The price of a symbol if the order names none: 10 to 500, always the same with the same seed."""
    return Decimal(random.Random(f"price:{market.seed}:{symbol}").randint(1_000, 50_000)).scaleb(-2)


def add_up(executions: Iterable[Execution], market: Market) -> Holdings:
    """The executions must be sorted by time. Equity values positions at the price of their last execution."""
    held: dict[str, tuple[Instrument, Decimal, Decimal, Decimal]] = {}
    cash = defaultdict(Decimal, {market.currency: market.opening_cash})
    for execution in executions:
        instrument, bought, price = execution.instrument, execution.bought, execution.price
        _, before, average, _ = held.get(instrument.full_key, (instrument, Decimal(0), Decimal(0), Decimal(0)))
        after = before + bought
        if before * bought >= 0:
            average = (before * average + bought * price) / after
        elif after * before < 0:
            average = price
        held[instrument.full_key] = (instrument, after, average, price)
        if execution.is_transfer:
            continue
        cash[execution.currency] -= bought * price * (instrument.multiplier or 1) + execution.commission
    worth: defaultdict[str, Decimal] = defaultdict(Decimal)
    for instrument, quantity, _, last in held.values():
        worth[instrument.currency or market.currency] += quantity * last * (instrument.multiplier or 1)
    return Holdings(
        positions=tuple(
            BrokerPosition(instrument=instrument, quantity=quantity, average_price=_tidy(average))
            for instrument, quantity, average, _ in held.values()
            if quantity
        ),
        balances=tuple(
            Balance(currency=currency, cash=amount, equity=amount + worth[currency])
            for currency, amount in sorted(cash.items())
        ),
    )


def _parts(ticket: Ticket, first: Decimal) -> list[Decimal]:
    """What fills at a time: what is shown at a time, else `first` and the rest."""
    if ticket.display_quantity is None:
        return [part for part in (first, ticket.quantity - first) if part]
    parts: list[Decimal] = []
    left = ticket.quantity
    while left > 0:
        part = left if len(parts) == _MOST_PARTS - 1 else min(left, ticket.display_quantity)
        parts.append(part)
        left -= part
    return parts


def _first_part(quantity: Decimal, luck: float) -> Decimal:
    """Between nothing and all of it, in steps of the quantity's own smallest decimal; all of it if it has only one
    step."""
    step = Decimal(1).scaleb(-_places(quantity))
    steps = int(quantity / step)
    return quantity if steps < 2 else step * (1 + int(luck * (steps - 1)))


def _tidy(price: Decimal) -> Decimal:
    return round(price, _MOST_PLACES) if _places(price) > _MOST_PLACES else price


def _places(number: Decimal) -> int:
    """The number of decimals."""
    exponent = number.as_tuple().exponent
    return max(-exponent, 0) if isinstance(exponent, int) else 0
