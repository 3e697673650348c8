"""Which product an order, or a holding, is about where the broker keeps products of one instrument apart and none was named."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from brokers.base import POSITION_SIDES, Side
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose


def usual_product(products: Sequence[str], side: Side, purpose: Purpose) -> str | None:
    """The product of an order that names none: the first. Where the products are the sides of a position, the side which such an order opens, or as
    an exit closes; that is also what such orders have filled. None: the broker keeps none apart."""
    if tuple(products) != POSITION_SIDES:
        return products[0] if products else None
    long, short = POSITION_SIDES
    return long if (side is Side.BUY) is (purpose is Purpose.ENTRY) else short


def product_of(order: Order, products: Sequence[str]) -> str | None:
    """What the order is traded in: as it names it, or as it is understood; None: the broker keeps no products apart."""
    if not products:
        return None
    request = order.accepted_request
    return request.product or usual_product(products, request.side, order.identity.purpose)


def usual_product_held(products: Sequence[str], quantity: Decimal) -> str:
    """The product of a holding, positive or negative, that orders without one have built; of one or more products."""
    if tuple(products) != POSITION_SIDES:
        return products[0]
    long, short = POSITION_SIDES
    return long if quantity >= 0 else short


def unnamed_side(order: Order, products: Sequence[str]) -> str | None:
    """The side of the position that an order means without naming it, where the products are those sides; None: it names one, the broker keeps none
    apart, or the order might be meant either way, as a sale that is no exit."""
    is_understood = order.identity.purpose is Purpose.EXIT or order.accepted_request.side is Side.BUY
    if tuple(products) != POSITION_SIDES or order.accepted_request.product is not None or not is_understood:
        return None
    return product_of(order, products)
