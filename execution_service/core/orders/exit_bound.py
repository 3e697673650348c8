"""How much of an exit the broker's own position lets leave; from values alone, nothing is asked."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from brokers.base import Side

ZERO = Decimal(0)


class ExitPositionCheck(StrEnum):
    """When an exit takes a fresh look at the broker's positions before it leaves."""

    WHEN_DIFFERS = "when_differs"
    """While a comparison shows, or a first reading suspects, another position there than in our books."""
    ALWAYS = "always"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What an exit finds in all that may be its instrument; quantities without a sign but for `own` and `difference`."""

    long: Decimal
    """What the strategies of our ledger hold long, taken together."""
    short: Decimal
    own: Decimal
    """What the exit's own strategy holds; below 0: short."""
    difference: Decimal
    """What the broker holds beyond the sum of our ledger. Our own fills move both and leave it as it is."""
    at_work: Decimal = ZERO
    """What other orders that are at the broker, or perhaps are, may still take on the exit's side."""
    own_at_work: Decimal = ZERO
    """Of that the own strategy's."""

    @property
    def shown(self) -> Decimal:
        """What the broker holds, by the difference and by what our ledger says now."""
        return self.long - self.short + self.difference


def may_take(side: Side, standing: Standing) -> Decimal:
    """The most that an exit may sell, or buy back, now. First come, first served: nothing is kept for other strategies.

    A sale may take what the broker holds, and what other strategies are short by our books, which hides as much of our longs there; less
    what others at work may still sell. So whatever of all this fills, and in whatever sequence, exits bring the broker's position never
    below what our strategies are short, nor above what they are long, and never further beyond if it is there already. A strategy
    that holds something takes no more than that.
    """
    if side is Side.SELL:
        most, own = standing.long + standing.difference, standing.own
    else:
        most, own = standing.short - standing.difference, -standing.own
    most += min(ZERO, own) - standing.at_work
    if own > 0:
        most = min(most, own - standing.own_at_work)
    return max(ZERO, most)
