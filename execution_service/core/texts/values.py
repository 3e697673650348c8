"""Amounts, times and parts of orders as text for people; no whole message."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal

from brokers.base import ONE, ContractTerms, Side
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import INDIAN_PRODUCTS, OrderRequest

UNKNOWN = "?"
LONGEST_VALUE = 600
PRICE_DECIMALS = 8

_SIGNS = {"USD": "$", "INR": "₹", "EUR": "€", "GBP": "£"}
# Precise enough for any product of two numbers of 18 digits: a total for people must not raise.
EXACT = Context(prec=60)


# --- values ---------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """The text on one line, shortened, without characters that a terminal or bidirectional display would interpret."""
    if len(text) > LONGEST_VALUE:
        text = text[:LONGEST_VALUE] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def quantity(amount: Decimal | None) -> str:
    """Units without trailing zeros: 100, 0.25."""
    return UNKNOWN if amount is None else format(without_zeros(amount), "f")


def price(amount: Decimal | None, currency: str) -> str:
    """At least two decimals, more if the amount has them: $235.15, $0.9123. Long averages are rounded."""
    return UNKNOWN if amount is None else _with_sign(amount, currency, ".{}f")


def money(amount: Decimal, currency: str) -> str:
    """As `price`, with thousands separators: $23,515.00."""
    return _with_sign(amount, currency, ",.{}f")


def _with_sign(amount: Decimal, currency: str, form: str) -> str:
    rounded = without_zeros(rounded_amount(amount))
    digits = format(rounded.copy_abs(), form.format(decimals_of(rounded)))
    sign = _SIGNS.get(currency) or f"{plain(currency)} "
    return f"{'-' if rounded < 0 else ''}{sign}{digits}"


def decimals_of(amount: Decimal) -> int:
    return max(2, -int(amount.as_tuple().exponent))


def rounded_amount(amount: Decimal) -> Decimal:
    """To 8 decimals, or to 8 significant digits for a price below 0.1."""
    if -int(amount.as_tuple().exponent) <= PRICE_DECIMALS:
        return amount
    decimals = max(PRICE_DECIMALS, PRICE_DECIMALS - 1 - amount.adjusted())
    return amount.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN, EXACT)


def without_zeros(amount: Decimal) -> Decimal:
    return amount.normalize(EXACT) if amount else Decimal(0)


def currency_of(order: Order) -> str:
    """The currency of the order's amounts: of the contract as the broker reported it, else of the instrument, else
    of its commissions, else INR for an Indian product, else USD."""
    request = order.request
    if order.terms is not None and order.terms.currency is not None:
        return order.terms.currency
    if order.instrument is not None and order.instrument.currency is not None:
        return order.instrument.currency
    if order.commission_currency is not None:
        return order.commission_currency
    is_indian = isinstance(request, OrderRequest) and request.product in INDIAN_PRODUCTS
    return "INR" if is_indian else "USD"


def quoted(amount: Decimal | None, order: Order) -> str:
    """A price of the order as its market quotes it: $235.15, or 450.25 (in 1/100 USD) if it is quoted in a fraction
    of the currency."""
    currency = currency_of(order)
    magnifier = ONE if order.terms is None else order.terms.price_magnifier
    if amount is None or magnifier == ONE:
        return price(amount, currency)
    rounded = without_zeros(rounded_amount(amount))
    digits = format(rounded, f".{decimals_of(rounded)}f")
    return f"{digits} (in 1/{quantity(magnifier)} {plain(currency)})"


def duration(seconds: Decimal) -> str:
    """Whole seconds from 1 on, one decimal below: 2 seconds, 1 second, 0.3 seconds."""
    tenths = max(Decimal(0), seconds).quantize(Decimal("0.1"), ROUND_HALF_UP)
    if tenths < 1:
        return f"{tenths} seconds"
    whole = int(seconds.quantize(Decimal(1), ROUND_HALF_UP))
    return "1 second" if whole == 1 else f"{whole} seconds"


def total_value(order: Order) -> str:
    worth = order.money_per_point
    if worth is None:
        return f"{UNKNOWN} (the broker does not tell what one contract is worth)"
    return money(order.value or Decimal(0), currency_of(order))


def contract_line(order: Order) -> tuple[tuple[str, str], ...]:
    """The multiplier, if the total is not simply price x quantity."""
    if order.money_per_point in (None, ONE):
        return ()
    reported = order.terms
    if reported is None or reported.multiplier is None:
        return (("Contract", f"{money(order.money_per_point or ONE, currency_of(order))} a point"),)
    quotes = (
        ""
        if reported.price_magnifier == ONE
        else f", quoted in 1/{quantity(reported.price_magnifier)} {currency_of(order)}"
    )
    return (("Contract", f"multiplier {quantity(reported.multiplier)}{quotes}"),)


def commissions_text(order: Order) -> str:
    sums: dict[str, Decimal] = {}
    for fill in order.fills:
        if fill.commission is not None:
            currency = fill.commission_currency or currency_of(order)
            sums[currency] = sums.get(currency, Decimal(0)) + fill.commission
    return " + ".join(money(amount, currency) for currency, amount in sums.items()) or "not reported yet"


def time_taken(order: Order) -> str:
    """From sending (else arrival) to the last fill."""
    begun = order.submitted_at or order.received_at
    if order.filled_at is None:
        return UNKNOWN
    taken = order.filled_at - begun
    return duration(Decimal(taken.days * 86400 + taken.seconds) + Decimal(taken.microseconds).scaleb(-6))


def side_of(side: Side | None) -> str:
    return UNKNOWN if side is None else side.value


def order_summary(order: Order) -> str:
    """For example: BUY 100 SPY."""
    return f"{side_of(order.request.side)} {quantity(order.quantity)} {plain(order.symbol or UNKNOWN)}"


def fill_progress(order: Order) -> str:
    """For example: 50/100 @ $235.20."""
    counts = f"{quantity(order.filled_quantity)}/{quantity(order.quantity)}"
    return f"{counts} @ {quoted(order.average_price, order)}" if order.filled_quantity else counts


def reason_of(order: Order) -> str:
    return plain(order.reason.message) if order.reason is not None and order.reason.message else "no reason given"


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def is_overfilled(order: Order) -> bool:
    """An order for an amount of money may buy more than expected."""
    return order.cash_quantity is None and order.quantity is not None and order.filled_quantity > order.quantity


def counted_noun(count: int, name: str) -> str:
    if count == 1:
        return f"1 {name}"
    return f"{count} {name.removesuffix('y')}ies" if name.endswith("y") else f"{count} {name}s"


def clock_time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def execution_text(order: Order, amount: Decimal, at: Decimal) -> str:
    return f"{quantity(amount)} @ {quoted(at, order)}"


def contract_summary(reported: ContractTerms) -> str:
    """The broker's facts about a contract, in one line."""
    words = (
        reported.local_symbol,
        None if reported.trading_class is None else f"class {reported.trading_class}",
        None if reported.multiplier is None else f"multiplier {quantity(reported.multiplier)}",
        None if reported.price_magnifier == ONE else f"quoted in 1/{quantity(reported.price_magnifier)}",
        reported.currency,
        None if reported.con_id is None else f"number {reported.con_id}",
        "what one contract is worth is not told" if reported.is_size_unknown else None,
    )
    return plain(", ".join(word for word in words if word is not None) or "nothing told")
