"""How an order of a plan is sent, by how much may be paid to get it done: type, limit, time in force and time-out. One table, from values alone.

PASSIVE rests at the near side of the market. NORMAL is a market order for the day, as plans were always sent. URGENT takes what is within half a per
cent. EMERGENCY increases nothing, and reduces by a ladder of collars: each limit reaches further than the one before, one order at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from types import MappingProxyType

from brokers.base import OrderType, Side, Tif
from execution_service.core.exact import EXACT
from execution_service.core.planning.facts import ONE
from execution_service.core.planning.plan import Leg, LegReason, Phase
from execution_service.core.planning.quantities import divided, lots_for, whole_lots
from execution_service.core.planning.targets import Aggressiveness

URGENT_COLLAR = Decimal("0.005")
EMERGENCY_COLLARS = (Decimal("0.01"), Decimal("0.03"), Decimal("0.1"))
"""How far each rung of the ladder reaches, as parts of the price at which the market stands by then."""
RUNG_SECONDS = 15
"""So long an order of the ladder works before what it leaves goes to the next rung."""
TAKE_SECONDS = 5
"""So long an URGENT order works where the broker knows no immediate-or-cancel."""
PARTICIPATION: Mapping[Aggressiveness, Decimal] = MappingProxyType(
    {
        Aggressiveness.PASSIVE: Decimal("0.05"),
        Aggressiveness.URGENT: Decimal("0.2"),
        Aggressiveness.EMERGENCY: Decimal("0.3"),
    }
)
"""How much of what is usually traded one order may be. NORMAL has no bound: as the plan says."""
MOST_ORDERS_BY_VOLUME = 100
"""Into so many orders at most the volume divides a leg at a live market, however little is traded there: each is a hundredth of it at least. One that
an account holds many days' volume of would else leave in orders that nobody would wait for. The venue's largest order may divide it into more."""
_DIGITS = 5
"""A limit has at least so many significant digits, and two decimals; the broker's package fits it to the tick."""
_URGENCY = {
    Aggressiveness.PASSIVE: 0,
    Aggressiveness.URGENT: 1,
    Aggressiveness.EMERGENCY: 2,
    # A market order waits for no price: nothing is more urgent.
    Aggressiveness.NORMAL: 3,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a released order says beside instrument, side and quantity."""

    order_type: OrderType = OrderType.MARKET
    limit_price: Decimal | None = None
    tif: Tif = Tif.DAY
    timeout_seconds: int | None = None
    """After which it is cancelled; None: it may work for as long as its time in force."""


AT_MARKET = Terms()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conduct:
    """What counts for one leg at the moment at which something of it is to be sent."""

    stance: Aggressiveness = Aggressiveness.NORMAL
    not_now: str | None = None
    """Why nothing of it is sent at this moment, for people: it waits. None: it may be sent."""
    is_halted: bool = False
    """A kill switch at halt covers it."""
    price: Decimal | None = None
    """Where the market stands; None: no price is known that is fresh enough."""
    bid: Decimal | None = None
    ask: Decimal | None = None
    takes_at_once: bool = True
    """The broker knows immediate-or-cancel."""
    may_use_market: bool = False
    """The account's settings allow a market order at the ladder's end."""
    usual_volume: Decimal | None = None
    """What the whole market usually trades in a bar; None: nobody says, and orders are not bounded by it."""
    most_orders_by_volume: int | None = None
    """Into so many orders at most its part of the volume divides the leg; None: into any number."""


AS_PLANNED = Conduct()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The terms of a leg's next order. `is_followed`: what it leaves is sent again, by the next rung."""

    terms: Terms
    is_followed: bool = False


def choose(conduct: Conduct, side: Side, phase: Phase, rung: int) -> Chosen | LegReason:
    """The terms for this rung (0 but on the ladder), or why nothing is sent."""
    if conduct.is_halted:
        return LegReason.HALTED
    match conduct.stance:
        case Aggressiveness.NORMAL:
            return Chosen(terms=AT_MARKET)
        case Aggressiveness.PASSIVE:
            near = conduct.bid if side is Side.BUY else conduct.ask
            price = near or conduct.price
            if price is None:
                return LegReason.NO_PRICE
            return Chosen(terms=Terms(order_type=OrderType.LIMIT, limit_price=price))
        case Aggressiveness.URGENT:
            return _taking(conduct, side)
    if phase is Phase.INCREASE:
        return LegReason.EMERGENCY_REDUCE_ONLY
    return _of_ladder(conduct, side, rung)


def _taking(conduct: Conduct, side: Side) -> Chosen | LegReason:
    limit = _collared(conduct, side, URGENT_COLLAR)
    if limit is None:
        return LegReason.NO_PRICE
    if conduct.takes_at_once:
        return Chosen(terms=Terms(order_type=OrderType.LIMIT, limit_price=limit, tif=Tif.IOC))
    return Chosen(terms=Terms(order_type=OrderType.LIMIT, limit_price=limit, timeout_seconds=TAKE_SECONDS))


def _of_ladder(conduct: Conduct, side: Side, rung: int) -> Chosen | LegReason:
    if rung < len(EMERGENCY_COLLARS):
        limit = _collared(conduct, side, EMERGENCY_COLLARS[rung])
        if limit is not None:
            terms = Terms(order_type=OrderType.LIMIT, limit_price=limit, timeout_seconds=RUNG_SECONDS)
            return Chosen(terms=terms, is_followed=True)
        if not conduct.may_use_market:
            return LegReason.NO_PRICE
        return Chosen(terms=AT_MARKET)
    is_market = conduct.may_use_market and rung == len(EMERGENCY_COLLARS)
    return Chosen(terms=AT_MARKET) if is_market else LegReason.OUTSIDE_COLLAR


def least_at_once(conduct: Conduct, leg: Leg) -> Decimal:
    """The venue's smallest order, by quantity and by value at the present price, else at the plan's; by quantity alone where no price is known."""
    return leg.least_at(conduct.price or leg.price)


def most_at_once(conduct: Conduct, leg: Leg) -> Decimal | None:
    """How much the volume lets one order be, in whole lots, one at least, and no less than the venue's smallest order; None: there is no bound."""
    part = PARTICIPATION.get(conduct.stance)
    if part is None or conduct.usual_volume is None:
        return None
    least = max(leg.lot, least_at_once(conduct, leg))
    if conduct.most_orders_by_volume is not None:
        least = max(least, divided(leg.quantity, Decimal(conduct.most_orders_by_volume)))
    return max(lots_for(least, leg.lot), whole_lots(part * conduct.usual_volume, leg.lot))


def is_too_tame(stance: Aggressiveness, now: Aggressiveness) -> bool:
    """Whether a working reduction that was sent under the first is to make way for one under the second."""
    return _URGENCY[stance] < _URGENCY[now] and now in (Aggressiveness.URGENT, Aggressiveness.EMERGENCY)


def _collared(conduct: Conduct, side: Side, collar: Decimal) -> Decimal | None:
    """So far beyond the far side of the market, and never further: rounded towards it."""
    far = conduct.ask if side is Side.BUY else conduct.bid
    price = far or conduct.price
    if price is None:
        return None
    with localcontext(EXACT):
        limit = price * (ONE + collar * side.sign)
        places = max(2, _DIGITS - 1 - limit.adjusted())
        rounding = ROUND_FLOOR if side is Side.BUY else ROUND_CEILING
        return limit.quantize(Decimal(1).scaleb(-places), rounding=rounding)
