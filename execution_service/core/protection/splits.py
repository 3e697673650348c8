"""Whether a price that has reached a stop or a target may have been split, and not moved: from what the broker shows beside our records, and from how
the price came there. From values alone."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from brokers.base import Side
from execution_service.core.orders.protective import ProtectiveRole

SPLIT_JUMP = Decimal("0.1")
"""The smallest split that is usual, 5 for 4, moves the price by a fifth and the quantity by a quarter. From one look to the next an ordinary market
moves by less than a tenth, and what changes a quantity by less than that moves no price by a tenth."""
SPLIT_GAP = Decimal("0.2")
"""So far beyond a stop that its broker took down, in parts of it, a price is taken for one after a split, though no quantity has changed yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A stop or a target of a position."""

    price: Decimal
    side: Side
    """Of the position's entries."""
    role: ProtectiveRole

    @property
    def is_below(self) -> bool:
        """A lower price reaches it."""
        return (self.role is ProtectiveRole.STOP) is (self.side is Side.BUY)

    def is_reached(self, span: tuple[Decimal, Decimal]) -> bool:
        """By every price between these two."""
        return span[1] <= self.price if self.is_below else span[0] >= self.price

    def is_far_beyond(self, span: tuple[Decimal, Decimal]) -> bool:
        """Every one of them is beyond it by as much as a split makes."""
        gap = self.price * SPLIT_GAP
        return span[1] <= self.price - gap if self.is_below else span[0] >= self.price + gap


def may_be_split(
    level: Level, *, more: Decimal, held: Decimal, span: tuple[Decimal, Decimal] | None, before: Decimal | None
) -> bool:
    """Whether the level may be reached by a split or a merger of shares alone. `more`: so many more units the broker shows than our records, below
    0 fewer; more units have a lower price. `held`: what these say that all strategies together hold, of which a split makes a part more or fewer;
    where they cancel each other out, or are on the other side, any difference may be one. `span`: the lowest and the highest price of now; None: it
    is not known. `before`: the last price that had not reached the level; None: none is known."""
    fits = more > 0 if level.is_below else more < 0
    if not fits or abs(more) < held * SPLIT_JUMP:
        return False
    if span is None:
        return True
    if not level.is_reached(span):
        return False
    if before is None:
        return True
    jump = before - span[1] if level.is_below else span[0] - before
    return jump >= before * SPLIT_JUMP
