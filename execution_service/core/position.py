"""Positions by average cost: what a fill, or its annulment, does to one; no store and no clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from brokers.base import Side

ZERO = Decimal(0)
ORDER_IDS_KEPT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """One holding of (account, strategy, instrument). An episode lasts from flat to flat; a flip ends one and begins the next."""

    quantity: Decimal = ZERO
    """Signed: negative is short."""
    cost: Decimal = ZERO
    """Quantity times average price, signed like the quantity, without the multiplier; kept instead of the average so that nothing is rounded."""
    realized_pnl: Decimal = ZERO
    """Of this episode, by average cost, before commissions."""
    episode: int = 0
    """Counts from 1; 0: never held."""
    opened_at: datetime | None = None
    closed_at: datetime | None = None
    updated_at: datetime | None = None
    is_long: bool = True
    """The side of this episode, also after it has ended."""
    final_average: Decimal | None = None
    """The average price just before the episode ended; None while it lasts."""
    order_ids: tuple[str, ...] = ()
    """The latest orders that built this episode, at most 100."""
    order_count: int = 0

    @property
    def is_open(self) -> bool:
        return self.quantity != 0

    @property
    def average_price(self) -> Decimal | None:
        return self.cost / self.quantity if self.quantity else None


@dataclass(frozen=True, slots=True)
class Booked:
    """What a fill did: the position now, the profit it realised, and the episode that it ended, if any."""

    position: Position
    realized: Decimal = ZERO
    ended: Position | None = None


def apply_fill(
    position: Position,
    *,
    side: Side,
    quantity: Decimal,
    price: Decimal,
    multiplier: Decimal,
    at: datetime,
    order_id: str,
) -> Booked:
    """Books one fill. `quantity` is positive; `multiplier` is money per point and unit; the profit is in the instrument's currency."""
    signed = quantity * side.sign
    if not position.is_open:
        return Booked(_opened(position, signed, price, at, order_id))
    if (position.quantity > 0) == (signed > 0):
        grown = replace(
            position, quantity=position.quantity + signed, cost=position.cost + signed * price, updated_at=at
        )
        return Booked(_named(grown, order_id))
    closing = min(quantity, abs(position.quantity))
    share = closing / abs(position.quantity)
    released = position.cost if closing == abs(position.quantity) else position.cost * share
    realized = (closing * (1 if position.quantity > 0 else -1) * price - released) * multiplier
    left = position.quantity + closing * side.sign
    after = _named(
        replace(
            position,
            quantity=left,
            cost=position.cost - released if left else ZERO,
            realized_pnl=position.realized_pnl + realized,
            closed_at=None if left else at,
            final_average=None if left else position.average_price,
            updated_at=at,
        ),
        order_id,
    )
    if quantity == closing:
        return Booked(after, realized, None if left else after)
    return Booked(_opened(after, (quantity - closing) * side.sign, price, at, order_id), realized, after)


def reverse_fill(
    position: Position,
    *,
    side: Side,
    quantity: Decimal,
    price: Decimal,
    realized: Decimal,
    multiplier: Decimal,
    at: datetime,
    order_id: str,
) -> Booked:
    """Takes an annulled fill back. `realized` is the profit that the fill had booked; it is taken back, too.

    Where the position has not crossed zero since, this is the exact inverse; where it has, what cannot be taken out of the present
    episode is an ordinary trade the other way at the annulled price.
    """
    signed = quantity * side.sign
    if realized:
        # It had closed: the closed part comes back at the cost it had then.
        basis = signed * price + realized / multiplier
        restored = position if position.is_open else _opened(position, ZERO, price, at, order_id)
        after = replace(
            restored,
            quantity=restored.quantity - signed,
            cost=restored.cost - basis,
            realized_pnl=restored.realized_pnl - realized,
            closed_at=None,
            final_average=None,
            is_long=restored.quantity - signed > 0,
            updated_at=at,
        )
        return Booked(_named(after, order_id), -realized)
    if position.is_open and (position.quantity > 0) == (signed > 0) and abs(position.quantity) >= quantity:
        left = position.quantity - signed
        after = replace(
            position,
            quantity=left,
            cost=position.cost - signed * price if left else ZERO,
            closed_at=None if left else at,
            final_average=None if left else position.average_price,
            updated_at=at,
        )
        # Taking the last opening fill out of an averaged position may leave a cost that belongs to profit already booked.
        leftover = (position.cost - signed * price) if not left else ZERO
        after = replace(after, realized_pnl=after.realized_pnl - leftover * multiplier)
        return Booked(_named(after, order_id), -leftover * multiplier, None if left else after)
    return apply_fill(
        position, side=side.opposite, quantity=quantity, price=price, multiplier=multiplier, at=at, order_id=order_id
    )


def _opened(position: Position, signed: Decimal, price: Decimal, at: datetime, order_id: str) -> Position:
    return Position(
        quantity=signed,
        cost=signed * price,
        is_long=signed > 0,
        episode=position.episode + 1,
        opened_at=at,
        updated_at=at,
        order_ids=(order_id,),
        order_count=1,
    )


def _named(position: Position, order_id: str) -> Position:
    if position.order_ids and position.order_ids[-1] == order_id:
        return position
    kept = tuple(i for i in position.order_ids if i != order_id)
    return replace(
        position,
        order_ids=(*kept, order_id)[-ORDER_IDS_KEPT:],
        order_count=position.order_count + (1 if len(kept) == len(position.order_ids) else 0),
    )
