"""The largest quantity that an exit may send, given the broker's positions and our ledger. Pure arithmetic; nothing
is queried."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from brokers.base import Side

ZERO = Decimal(0)


class ExitPositionCheck(StrEnum):
    """When an exit queries the broker's positions before it is sent."""

    WHEN_DIFFERS = "when_differs"
    """Only while a discrepancy, confirmed or suspected, is about its instrument."""
    ALWAYS = "always"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """The positions in everything that may be the exit's instrument. Quantities are unsigned, except `own` and
    `difference`."""

    long: Decimal
    """The sum of the long positions of all our strategies, by the ledger."""
    short: Decimal
    """The sum of the short positions of all our strategies, by the ledger."""
    own: Decimal
    """The position of the exit's own strategy; negative: short."""
    difference: Decimal
    """The broker's position minus the sum of our ledger. Our own fills change both, so it stays the same."""
    at_work: Decimal = ZERO
    """What other orders that are, or may be, at the broker can still fill on the exit's side."""
    own_at_work: Decimal = ZERO
    """The part of it that is the own strategy's."""

    @property
    def shown(self) -> Decimal:
        """The broker's position, as the difference and our present ledger give it."""
        return self.long - self.short + self.difference


def exit_limit(side: Side, exposure: Exposure) -> Decimal:
    """The most that an exit may sell, or buy back, now. First come, first served: nothing is reserved for other
    strategies.

    A sale may take what the broker holds, plus what other strategies are short by our books (their shorts offset our
    longs in the broker's net position), minus what other working orders may still sell. Whatever of all this fills, and
    in whatever order, exits then never bring the broker's position below the sum of our shorts, nor above the sum of
    our longs, nor further beyond if it is there already. A strategy that holds a position takes no more than that
    position.
    """
    if side is Side.SELL:
        most, own = exposure.long + exposure.difference, exposure.own
    else:
        most, own = exposure.short - exposure.difference, -exposure.own
    most += min(ZERO, own) - exposure.at_work
    if own > 0:
        most = min(most, own - exposure.own_at_work)
    return max(ZERO, most)
