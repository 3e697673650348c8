"""Positions at average cost: the effect of a fill, and of its bust. No store, no clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Context, Decimal, localcontext

from brokers.base import Side

ZERO = Decimal(0)
ORDER_IDS_KEPT = 50
_EXACT = Context(prec=80)
"""Precise enough that sums and products of prices, quantities and costs are never rounded."""
_SMALLEST_SHARE = Decimal("1e-20")


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The position of one (account, strategy, instrument). An episode lasts from flat to flat; a flip ends one and
    begins the next."""

    quantity: Decimal = ZERO
    """Signed; negative is short."""
    cost: Decimal = ZERO
    """Quantity x average price, with the sign of the quantity, without the multiplier. Kept instead of the average,
    which may have no finite decimal form. If an exit's share of it has none either, that share is rounded to 20
    places and the rest stays here, so that no money appears or vanishes."""
    realized_pnl: Decimal = ZERO
    """Of this episode, at average cost, before commissions."""
    episode: int = 0
    """Counted from 1; 0: never held."""
    opened_at: datetime | None = None
    closed_at: datetime | None = None
    updated_at: datetime | None = None
    is_long: bool = True
    """The side of this episode, also after its end."""
    final_average: Decimal | None = None
    """The average price just before the episode ended; None before that."""
    order_ids: tuple[str, ...] = ()
    """The latest orders of this episode, at most 50."""
    order_count: int = 0

    @property
    def is_open(self) -> bool:
        return self.quantity != 0

    @property
    def average_price(self) -> Decimal | None:
        return self.cost / self.quantity if self.quantity else None


@dataclass(frozen=True, slots=True)
class FillEffect:
    """The effect of a fill: the position after it, the profit realised, and the episode that it ended, if any."""

    position: Position
    realized: Decimal = ZERO
    ended: Position | None = None
    closed: Decimal = ZERO
    """How much of the fill's quantity closed the position; the rest opened one."""


def apply_fill(
    position: Position,
    *,
    side: Side,
    quantity: Decimal,
    price: Decimal,
    multiplier: Decimal,
    at: datetime,
    order_id: str,
) -> FillEffect:
    """Books one fill. `quantity` is positive. `multiplier` is money per point and unit. The profit is in the
    instrument's currency."""
    with localcontext(_EXACT):
        return _traded(position, quantity * side.sign, price, multiplier, at, order_id)


def reverse_fill(
    position: Position,
    *,
    side: Side,
    quantity: Decimal,
    price: Decimal,
    realized: Decimal,
    closed: Decimal,
    episode: int,
    multiplier: Decimal,
    at: datetime,
    order_id: str,
) -> FillEffect:
    """Reverses a busted fill. `realized` and `closed` are what the fill had booked; `episode` was current after it.

    If the position has not crossed zero since, this is the exact inverse. Otherwise what cannot be taken out of the
    present episode is booked as an ordinary trade on the other side at the busted price. In every case quantities and
    money add up.
    """
    with localcontext(_EXACT):
        opened = quantity - closed
        first = FillEffect(position)
        if opened:
            first = _without_opening(position, opened * side.sign, price, episode, multiplier, at, order_id)
        if not closed:
            return first
        then = _without_closing(
            first.position,
            closed * side.sign,
            price,
            realized,
            None if opened else episode,
            multiplier,
            at,
            order_id,
        )
        return FillEffect(then.position, _tidy(first.realized + then.realized), then.ended or first.ended)


def _traded(
    position: Position, signed: Decimal, price: Decimal, multiplier: Decimal, at: datetime, order_id: str
) -> FillEffect:
    if not position.is_open:
        return FillEffect(_opened(position, signed, price, at, order_id))
    if _is_same_way(position, signed):
        return FillEffect(_changed(position, position.quantity + signed, position.cost + signed * price, at, order_id))
    held = abs(position.quantity)
    closing = min(abs(signed), held)
    closing_signed = closing.copy_sign(signed)
    released = position.cost if closing == held else _share(position.cost, closing, held)
    realized = _tidy((-closing_signed * price - released) * multiplier)
    after = _changed(
        position, position.quantity + closing_signed, position.cost - released, at, order_id, realized=realized
    )
    if closing < abs(signed):
        opened = _opened(after, signed - closing_signed, price, at, order_id)
        return FillEffect(opened, realized, after, closing)
    return FillEffect(after, realized, None if after.is_open else after, closing)


def _without_opening(
    position: Position,
    signed: Decimal,
    price: Decimal,
    episode: int,
    multiplier: Decimal,
    at: datetime,
    order_id: str,
) -> FillEffect:
    left, cost = position.quantity - signed, position.cost - signed * price
    # A remainder of the other sign was sold meanwhile. At a remainder of 0, any cost left belongs to profit that is
    # already booked, and is realised as by a trade. A cost that changes its sign shows that exits have already taken
    # this fill's cost.
    if position.episode != episode or left * signed <= 0 or cost * position.cost < 0:
        return _traded(position, -signed, price, multiplier, at, order_id)
    return FillEffect(_changed(position, left, cost, at, order_id))


def _without_closing(
    position: Position,
    signed: Decimal,
    price: Decimal,
    realized: Decimal,
    episode: int | None,
    multiplier: Decimal,
    at: datetime,
    order_id: str,
) -> FillEffect:
    """`episode` is the one that the fill reduced or ended. None: it ended one and opened the next, so the ended one
    is not resumed."""
    if _is_same_way(position, signed):
        return _traded(position, -signed, price, multiplier, at, order_id)
    if not position.is_open and position.episode != episode:
        position = _opened(position, ZERO, price, at, order_id)
    released = -signed * price - realized / multiplier
    after = _changed(position, position.quantity - signed, position.cost + released, at, order_id, realized=-realized)
    return FillEffect(replace(after, is_long=after.quantity > 0), -realized)


def _changed(
    position: Position,
    quantity: Decimal,
    cost: Decimal,
    at: datetime,
    order_id: str,
    *,
    realized: Decimal = ZERO,
) -> Position:
    """The same episode with another quantity: ended at 0, resumed if it had ended."""
    return _named(
        replace(
            position,
            quantity=_tidy(quantity),
            cost=_tidy(cost),
            realized_pnl=_tidy(position.realized_pnl + realized),
            closed_at=None if quantity else at,
            final_average=None if quantity else position.average_price,
            updated_at=at,
        ),
        order_id,
    )


def _is_same_way(position: Position, signed: Decimal) -> bool:
    """Whether both are long or both short. A flat position is neither."""
    return position.quantity * signed > 0


def _share(cost: Decimal, closing: Decimal, held: Decimal) -> Decimal:
    return (cost * closing / held).quantize(_SMALLEST_SHARE)


def _tidy(value: Decimal) -> Decimal:
    """The same number without trailing zeros, exponent or negative zero."""
    # Adding zero expands the exponent and removes the sign of a zero.
    return value.normalize() + ZERO


def _opened(position: Position, signed: Decimal, price: Decimal, at: datetime, order_id: str) -> Position:
    return Position(
        quantity=_tidy(signed),
        cost=_tidy(signed * price),
        is_long=signed > 0,
        episode=position.episode + 1,
        opened_at=at,
        updated_at=at,
        order_ids=(order_id,),
        order_count=1,
    )


def _named(position: Position, order_id: str) -> Position:
    kept = tuple(i for i in position.order_ids if i != order_id)
    return replace(
        position,
        order_ids=(*kept, order_id)[-ORDER_IDS_KEPT:],
        order_count=position.order_count + (1 if len(kept) == len(position.order_ids) else 0),
    )
