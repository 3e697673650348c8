"""Where a trailing stop stands: as far behind the best price that the market has kept as its entry says, and never further from the market than it
has stood before. Values in, values out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal

from brokers.base import Side
from execution_service.core.orders.request import MOST_TRAIL_PERCENT

STEP = Decimal("0.1")
"""A stop is moved when it can come nearer by so much of its distance: each move leaves a moment without it, and costs two calls."""
_ALMOST = Decimal("0.999")
"""Of a step, where the best price is worked out from a rounded stop."""
_PRICE = Context(prec=10)
"""Of a stop's price; the broker's package rounds it to the market's tick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """How far behind the market the stop stays: one of both."""

    percent: Decimal | None = None
    """Of the best price; above 0, at most MOST_TRAIL_PERCENT."""
    amount: Decimal | None = None
    """In units of the price."""

    def distance_at(self, price: Decimal) -> Decimal:
        return self.amount if self.amount is not None else price * self._share

    def stop_at(self, price: Decimal, side: Side) -> Decimal:
        """Where it stands when this has been the best price; `side`: of the entry."""
        return _PRICE.plus(price - self.distance_at(price) * side.sign)

    def moved(self, stop: Decimal, price: Decimal, side: Side) -> Decimal:
        """Where the stop is to stand at this price: nearer by a step at least, or where it stands."""
        nearer = self.stop_at(price, side)
        gained = (nearer - stop) * side.sign
        return nearer if nearer > 0 and gained >= self.distance_at(price) * STEP else stop

    def is_behind(self, resting: Decimal, stop: Decimal, side: Side) -> bool:
        """Whether an order that rests there has to be placed anew to stand at this stop: nearer by a step at least."""
        best = (
            stop + self.amount * side.sign
            if self.amount is not None
            else _PRICE.divide(stop, 1 - self._share * side.sign)
        )
        return (stop - resting) * side.sign >= self.distance_at(best) * STEP * _ALMOST

    def moves_at(self, stop: Decimal, side: Side) -> Decimal:
        """The price at which it is to be moved next."""
        if self.amount is not None:
            return stop + self.amount * (1 + STEP) * side.sign
        return _PRICE.divide(stop, 1 - self._share * (1 + STEP) * side.sign)

    @property
    def _share(self) -> Decimal:
        return (self.percent or MOST_TRAIL_PERCENT) / 100


def tightest(stops: Iterable[Decimal | None], side: Side) -> Decimal | None:
    """The one nearest to the market; None: there is none. `side`: of the entry."""
    known = [stop for stop in stops if stop is not None and stop > 0]
    return (max if side is Side.BUY else min)(known, default=None)
