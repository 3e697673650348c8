"""The one place where reference prices come from: each with its source and time, the most trusted first; none is made up."""

from __future__ import annotations

from brokers.base import OrderType
from execution_service.core.orders.events import Filled
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import key_of
from execution_service.core.risk.prices import PriceSource, ReferencePrice, price_of_message

INSTRUMENTS_REMEMBERED = 16_384
"""There is no end of instruments: those of which a price was noted least lately are forgotten."""


class ReferencePrices:
    """Of one account's instruments, by their keys in the ledger: the broker's quotes (quotes.py asks for them), executions of ours, and what the
    authors of orders saw."""

    def __init__(self, *, makes_up_prices: bool) -> None:
        """`makes_up_prices`: the account's broker is a stand-in that trades at a price of its own where an order names none; such an execution is
        no reference."""
        self._makes_up_prices = makes_up_prices
        self._prices: dict[str, dict[PriceSource, ReferencePrice]] = {}

    def of(self, instrument_key: str) -> tuple[ReferencePrice, ...]:
        """All that is known, however old."""
        return tuple(self._prices.get(instrument_key, {}).values())

    def note_message(self, order: Order) -> None:
        """What the order's author saw."""
        seen = price_of_message(order)
        if seen is not None:
            self._note(key_of(order).instrument_key, seen)

    def note_quote(self, instrument_key: str, price: ReferencePrice) -> None:
        """What the broker said."""
        self._note(instrument_key, price)

    def note_fill(self, order: Order, event: Filled) -> None:
        request = order.accepted_request
        names_price = request.reference_price is not None or request.order_type is not OrderType.MARKET
        if names_price or not self._makes_up_prices:
            price = ReferencePrice(price=event.fill.price, source=PriceSource.EXECUTION, at=event.fill.time)
            self._note(key_of(order).instrument_key, price)

    def _note(self, key: str, price: ReferencePrice) -> None:
        known = self._prices.pop(key, {})
        latest = known.get(price.source)
        if price.is_usable and (latest is None or latest.at <= price.at):
            known[price.source] = price
        self._prices[key] = known
        if len(self._prices) > INSTRUMENTS_REMEMBERED:
            del self._prices[next(iter(self._prices))]
