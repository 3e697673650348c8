"""The quantity of an order that names a stop in its place: what may be lost, divided by the distance to the stop; rounded down, never up."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_DOWN, Context, Decimal

from brokers.base import Side
from execution_service.core.errors import CoreError
from execution_service.core.exact import EXACT, ZERO

_DOWN = Context(prec=60, rounding=ROUND_DOWN)


class NotSized(CoreError):
    """No quantity can be worked out; `problems` says all that is missing or wrong."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        CoreError.__init__(self, "; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """Something that allows no more than this quantity."""

    name: str
    quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """The quantity, and how it was worked out, for the record."""

    quantity: Decimal
    arithmetic: str


_DIGITS_OF_A_PRICE = 18


def sized(
    *,
    side: Side,
    equity: Decimal | None,
    risk_per_trade: Decimal | None,
    price: Decimal | None,
    stop: Decimal | None,
    unit_value: Decimal | None,
    lot: Decimal = Decimal(1),
    buying_power: Decimal | None = None,
    caps: tuple[Cap, ...] = (),
) -> Sized:
    """Equity times the part that is risked, divided by what one unit loses until the stop; capped, and rounded down to whole lots. Raises NotSized.

    `equity` and `buying_power` (None: the broker tells none, and it caps nothing) are in the account's currency; `risk_per_trade` is a part, 0.01 is
    one per cent; `unit_value` is what one point of price is worth for one unit in the account's currency; `caps` come from the limits.
    """
    problems = tuple(_problems(side, equity, risk_per_trade, price, stop, unit_value, lot))
    if equity is None or risk_per_trade is None or price is None or stop is None or unit_value is None or problems:
        raise NotSized(problems)
    distance = abs(EXACT.subtract(price, stop))
    risked, lost = EXACT.multiply(equity, risk_per_trade), EXACT.multiply(distance, unit_value)
    wanted = _DOWN.divide(risked, lost)
    words = [
        f"equity {_shortened(equity)} x {_shortened(risk_per_trade)} = {_shortened(risked)} at risk",
        f"{_shortened(lost)} lost by one unit from {_shortened(price)} to {_shortened(stop)}",
        f"{_shortened(wanted)} units",
    ]
    quantity = wanted
    affordable = () if buying_power is None else (_affordable(buying_power, price, unit_value),)
    for cap in (*affordable, *caps):
        if cap.quantity < quantity:
            quantity = max(ZERO, cap.quantity)
            words.append(f"capped at {_shortened(quantity)} by {cap.name}")
    rounded = EXACT.multiply(_DOWN.divide(quantity, lot).to_integral_value(rounding=ROUND_DOWN), lot)
    words.append(f"rounded down to {_shortened(rounded)} (lot {_shortened(lot)})")
    arithmetic = "; ".join(words)
    if rounded <= 0:
        raise NotSized((f"not even one lot: {arithmetic}",))
    return Sized(quantity=rounded, arithmetic=arithmetic)


def _affordable(buying_power: Decimal, price: Decimal, unit_value: Decimal) -> Cap:
    return Cap(
        name="the buying power", quantity=_DOWN.divide(max(ZERO, buying_power), EXACT.multiply(price, unit_value))
    )


def _problems(
    side: Side,
    equity: Decimal | None,
    risk_per_trade: Decimal | None,
    price: Decimal | None,
    stop: Decimal | None,
    unit_value: Decimal | None,
    lot: Decimal,
) -> list[str]:
    found = []
    if risk_per_trade is None:
        found.append("no TRADE_RISK_PER_TRADE is set")
    elif not 0 < risk_per_trade <= 1:
        found.append(
            f"the part of the equity to be risked must be above 0 and at most 1, it is {_shortened(risk_per_trade)}"
        )
    if equity is None or equity <= 0:
        found.append("the equity is not known, or there is none")
    if unit_value is None or unit_value <= 0:
        found.append("what a point of the price is worth is not known: no size of the contract, or no rate of exchange")
    if lot <= 0:
        found.append("the lot is not known")
    if price is None or price <= 0:
        found.append("no fresh price is known")
    if stop is None or stop <= 0:
        found.append("there is no stop to size by")
    elif price is not None and (price - stop) * side.sign <= 0:
        found.append(f"the stop {_shortened(stop)} is on the wrong side of {_shortened(price)}")
    return found


def _shortened(value: Decimal) -> str:
    """Without trailing zeros; exactly where it has no more digits than a price may have, else cut off after 10 decimals."""
    shown = value.normalize(EXACT)
    if len(shown.as_tuple().digits) > _DIGITS_OF_A_PRICE:
        shown = value.quantize(Decimal("1e-10"), rounding=ROUND_DOWN, context=EXACT).normalize(EXACT)
    return f"{shown:f}"
