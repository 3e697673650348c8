"""The texts for people: Telegram messages (HTML) and sentences for the log. Who gets which, when and how often is
decided elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from html import escape, unescape

from brokers.base import ONE, ContractTerms, OrderType, Side
from execution_service.core.orders.events import (
    Accepted,
    Adopted,
    AdoptionUndone,
    Busted,
    Cancelled,
    CancelRefused,
    CancelRequested,
    Capped,
    CommissionReported,
    Completed,
    ContractDeclared,
    ContractResolved,
    DeclaredCancelled,
    DeclaredNotPlaced,
    DeclaredPlaced,
    Doubted,
    Event,
    Expired,
    Filled,
    Fitted,
    Held,
    InstrumentMatched,
    Noted,
    NothingSent,
    Rejected,
    Released,
    SendAgainOrdered,
    SubmitStarted,
)
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.reconcile import Discrepancy, DiscrepancyKind, Finding

CONFIRMATION_PUBLISHED = "Published execution confirmation"
UNKNOWN = "?"
LONGEST_VALUE = 600
LONGEST_OF_LINE = 80
LONGEST_OF_CAUSE = 200
"""Characters of each name and reason in a message about many orders."""
PRICE_DECIMALS = 8
LONGEST_OF_FINDINGS = 2500
"""Characters of all differences named in one message; Telegram allows 4096 in all."""
NAMED_AT_MOST = 5
"""How many orders a message about many names individually."""

_SIGNS = {"USD": "$", "INR": "₹", "EUR": "€", "GBP": "£"}
_INDIAN_PRODUCTS = frozenset({"MIS", "NRML", "CNC"})
# Precise enough for any product of two numbers of 18 digits: a total for people must not raise.
EXACT = Context(prec=60)


def order_received(signal_id: str) -> str:
    """The log's sentence for a stored order."""
    return f"Received order: {plain(signal_id)}"


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
    is_indian = isinstance(request, OrderRequest) and request.product in _INDIAN_PRODUCTS
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
    told = order.terms
    if told is None or told.multiplier is None:
        return (("Contract", f"{money(order.money_per_point or ONE, currency_of(order))} a point"),)
    quotes = (
        "" if told.price_magnifier == ONE else f", quoted in 1/{quantity(told.price_magnifier)} {currency_of(order)}"
    )
    return (("Contract", f"multiplier {quantity(told.multiplier)}{quotes}"),)


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


# --- Telegram -------------------------------------------------------------------------------------------------------


def order_alert(
    order_before: Order, event: Event, order: Order, *, account_name: str | None, broker: str
) -> str | None:
    """The Telegram text about one event of an order, `order` being the state after it. None: people are not notified
    of this event."""
    account = ("Account", account_label(order, account_name))
    if order.adoption is not None:
        return _adoption_text(event, order, account)
    match event:
        case Filled() if len(order.fills) != len(order_before.fills):
            return _fill_text(order_before, event, order, account)
        case Busted() if len(order.fills) != len(order_before.fills):
            annulled = order_before.fill_of(event.fill_id)
            words = UNKNOWN if annulled is None else execution_text(order_before, annulled.quantity, annulled.price)
            now = (("Filled now", fill_progress(order)), ("Status", order.status.value))
            return about_order(order, "🔧 Correction: Execution Annulled", ("Annulled", words), *now, account)
        case Rejected() | Cancelled() | Expired() if is_failed_exit(order_before, event, order):
            return _failed_exit_text(order, account)
        case Rejected() | Cancelled() | Expired() | CancelRequested() | DeclaredNotPlaced() | DeclaredCancelled():
            return _end_text(order, account) if order.status.is_final else None
        case Doubted():
            return about_order(
                order,
                "❓ Order In Doubt",
                ("Reason", reason_of(order)),
                ("Broker", broker),
                account,
                (
                    "To do",
                    "look for it at the broker, then decide with execctl resolve; it is not sent again by itself",
                ),
            )
        case Completed():
            return _filled_text(order)
        case Fitted(quantity=Decimal() as rounded):
            words = f"{quantity(rounded)} of {quantity(order_before.quantity)}"
            return about_order(
                order_before, "✂️ Order Rounded", ("Executing", words), ("Reason", event.message), account
            )
        case Capped():
            words = f"{quantity(event.quantity)} of {quantity(order_before.quantity)}"
            return about_order(order_before, "✂️ Exit Capped", ("Executing", words), ("Reason", event.message), account)
        case Noted(alert=True):
            return about_order(order, "⚠️ Attention", ("Note", event.message), account)
    return None


def _adoption_text(event: Event, order: Order, account: tuple[str, str]) -> str | None:
    """One message for all records of an adoption, sent with the first."""
    told, strategy = order.adoption, ("Strategy", order.request.strategy or UNKNOWN)
    if told is None or order.identity.leg_index:
        return None
    facts = [(name, words) for name, words in (("Left", told.left), ("Came", told.came)) if words]
    match event:
        case Adopted():
            closes = [] if told.discrepancy_id is None else [("Closes", told.discrepancy_id)]
            by = (("By", told.by), ("Reason", told.message))
            about = (account, strategy, ("What", told.occasion.value), *facts, *by, *closes)
            return html_message("📒 Position Adopted", *about, ("Adoption", order.signal_id))
        case AdoptionUndone():
            by = (("By", event.by), ("Reason", event.message))
            undone = [(f"{name}, annulled", words) for name, words in facts]
            about = (account, strategy, ("What", told.occasion.value), *undone, *by)
            return html_message("📒 Adoption Undone", *about, ("Adoption", order.signal_id))
    return None


def outcome_line(order_before: Order, event: Event, order: Order, *, account_name: str | None) -> str | None:
    """The text of `order_alert` in one line, for a message about many orders. None: the event needs a message of its
    own."""
    if order.adoption is not None:
        return None
    match event:
        case Filled() if order_before.status.is_final or is_overfilled(order):
            return None
        case Filled() | Completed() if order.status is Status.FILLED:
            sign, words = "✅", f"{order_summary(order)} @ {quoted(order.average_price, order)}"
        case Filled():
            sign, words = "⚠️", f"{order_summary(order)}: {fill_progress(order)} so far"
        case Rejected() | Cancelled() | Expired() if is_failed_exit(order_before, event, order):
            return None
        case Rejected() | Cancelled() | Expired() | CancelRequested() | DeclaredNotPlaced() | DeclaredCancelled():
            sign, ended = _ending(order)
            why = shortened(reason_of(order), LONGEST_OF_LINE)
            filled = f", filled {fill_progress(order)}" if order.filled_quantity else ""
            words = f"{order_summary(order)} {ended}{filled}: {why}"
        case _:
            return None
    about = (
        words,
        shortened(signal_of(order), LONGEST_OF_LINE),
        shortened(account_label(order, account_name), LONGEST_OF_LINE),
    )
    return f"{sign} {' · '.join(escape(plain(each), quote=False) for each in about)}"


_NO_FAILURE = frozenset({ReasonCode.CANCEL_REQUESTED, ReasonCode.NOTHING_TO_EXIT})
"""An exit that ends with a remainder for one of these reasons needs no action: somebody asked for it, or there is
nothing to exit."""


def is_failed_exit(before: Order, event: Event, order: Order) -> bool:
    """Whether this event ends an exit that still had something to close and that nobody wanted to end: its position
    is still open."""
    if order.identity.purpose is not Purpose.EXIT or before.status.is_final or not order.status.is_final:
        return False
    is_left = not isinstance(order.request, OrderRequest) or order.quantity is None or order.remaining_quantity > 0
    reason = event.reason if isinstance(event, Rejected | Cancelled | Expired) else None
    return is_left and reason is not None and reason.code not in _NO_FAILURE


def _failed_exit_text(order: Order, account: tuple[str, str]) -> str:
    _, ended = _ending(order)
    remaining = order.remaining_quantity if isinstance(order.request, OrderRequest) else order.quantity
    left = f"{quantity(remaining)} not closed by it"
    to_do = "it is not tried again by itself: send another exit, or close what is left in the broker's own screen"
    return about_order(
        order,
        "🚨 Exit Failed",
        ("Ended", ended),
        ("Filled", fill_progress(order)),
        ("Remaining", left),
        ("Reason", reason_of(order)),
        account,
        ("To do", to_do),
    )


def _ending(order: Order) -> tuple[str, str]:
    if order.status is Status.REJECTED:
        return "❌", "rejected"
    if order.status is Status.EXPIRED:
        return "⌛", "expired"
    is_timeout = order.reason is not None and order.reason.code is ReasonCode.TIMEOUT
    return ("⏱️", "timed out") if is_timeout else ("🚫", "cancelled")


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def digest(lines: Sequence[str], *, waiting: int) -> str:
    """One Telegram text about many outcomes, each a line of `outcome_line`. `waiting`: how many orders remain to be
    reported."""
    title = "📋 1 Order" if len(lines) == 1 else f"📋 {len(lines)} Orders"
    rest = f" ({waiting} more to come)" if waiting else ""
    return "\n".join((f"{title}{rest}", "", *lines))


def is_overfilled(order: Order) -> bool:
    """An order for an amount of money may buy more than expected."""
    return order.cash_quantity is None and order.quantity is not None and order.filled_quantity > order.quantity


def _fill_text(before: Order, event: Filled, order: Order, account: tuple[str, str]) -> str:
    if is_overfilled(order) and order.quantity is not None:
        excess = order.filled_quantity - order.quantity
        values = (("Filled", fill_progress(order)), ("Too many", quantity(excess)), account)
        return about_order(order, "🚨 Overfill", *values)
    if before.status.is_final:
        words = execution_text(order, event.fill.quantity, event.fill.price)
        story = (("Late fill", words), ("Filled now", fill_progress(order)))
        status = f"{order.status.value} (was {before.status.value})"
        return about_order(order, "🔧 Correction: Late Fill", *story, ("Status", status), account)
    if order.status is Status.FILLED:
        return _filled_text(order)
    return html_message(
        "⚠️ Partial Fill",
        ("Signal", signal_of(order)),
        ("Order", order_summary(order)),
        ("Filled", fill_progress(order)),
        ("Remaining", quantity(order.remaining_quantity)),
    )


def _filled_text(order: Order) -> str:
    return html_message(
        "✅ Order Filled",
        ("Signal", signal_of(order)),
        ("Strategy", order.request.strategy or UNKNOWN),
        ("Order", f"{order_summary(order)} @ {quoted(order.average_price, order)}"),
        ("Total", total_value(order)),
        *contract_line(order),
        ("Commission", commissions_text(order)),
        ("Time", time_taken(order)),
    )


def _end_text(order: Order, account: tuple[str, str]) -> str:
    reason = ("Reason", reason_of(order))
    if order.status is Status.REJECTED:
        return about_order(order, "❌ Order Rejected", reason, account)
    filled = ("Filled", fill_progress(order))
    if order.status is Status.EXPIRED:
        return about_order(order, "⌛ Order Expired", filled, reason, account)
    timed_out = order.reason is not None and order.reason.code is ReasonCode.TIMEOUT
    return about_order(order, "⏱️ Order Timeout" if timed_out else "🚫 Order Cancelled", filled, reason, account)


# --- reconciliation ---------------------------------------------------------------------------------------------------

_DIFFERENCES = {
    DiscrepancyKind.ORDER_NOT_SHOWN: "Working order not shown by the broker",
    DiscrepancyKind.ORDER_UNKNOWN: "Order at the broker with a tag of ours and no record",
    DiscrepancyKind.ORDER_ALIVE: "Order working at the broker against our record",
    DiscrepancyKind.ORDER_TWICE: "Several orders at the broker under one tag",
    DiscrepancyKind.EARLIER_ATTEMPT_FILLED: "Earlier sending filled after the order was sent again",
    DiscrepancyKind.FILLS_MISSING: "Broker's count and executions differ",
    DiscrepancyKind.OVERFILLED: "More filled than ordered",
    DiscrepancyKind.IN_DOUBT: "Order in doubt",
    DiscrepancyKind.POSITION_DIFFERS: "Position differs",
}


def difference(finding: Finding) -> str:
    """One difference in one sentence: what it is, what it is about, and both sides."""
    about = plain(finding.signal_id or finding.instrument or finding.client_order_id or finding.subject)
    about += f" in {plain(finding.product)}" if finding.product else ""
    sides = f"ours {plain(finding.ours)}; the broker's {plain(finding.theirs)}"
    more = background(finding)
    return f"{_DIFFERENCES[finding.kind]}: {about}: {sides}{'; ' if more else ''}{more}"


def background(finding: Finding) -> str:
    """The background of a difference: what is known besides its two sides."""
    said = [f"before: {plain(finding.before)}"] if finding.before else []
    said += [plain(finding.note)] if finding.note else []
    if finding.resting:
        said.append(
            f"exits at the broker that may take more than it holds, to be cancelled if so: {plain(finding.resting)}"
        )
    return "; ".join(said)


def next_step(finding: Finding) -> str:
    """What a person should do about a difference; docs/operations.md says more."""
    order, tag = plain(finding.order_id or ""), plain(finding.client_order_id or "")
    match finding.kind:
        case DiscrepancyKind.ORDER_NOT_SHOWN:
            return (
                f"Look for {tag} in the broker's own screen, finished orders and earlier days too. Dead with the fills that we hold: "
                f"execctl resolve {order} --as cancelled. Alive: nothing, it is asked on."
            )
        case DiscrepancyKind.ORDER_UNKNOWN:
            return (
                f"Find out who placed {tag}: another installation on this account, or this one before its store was restored. "
                "Until then cancel it at the broker if it is not wanted; this service does not touch it."
            )
        case DiscrepancyKind.ORDER_ALIVE:
            return f"Cancel it in the broker's own screen if it is not wanted; see execctl order {order}. What it fills is recorded."
        case DiscrepancyKind.ORDER_TWICE:
            return "Cancel the one too many in the broker's own screen, and undo by hand what it has filled."
        case DiscrepancyKind.EARLIER_ATTEMPT_FILLED:
            return f"See execctl order {order}: cancel it if it still works, and undo by hand what has filled twice."
        case DiscrepancyKind.FILLS_MISSING:
            return (
                f"Compare the executions of {tag} in the broker's own screen with execctl order {order}. They are asked for on; "
                "no fill is made up."
            )
        case DiscrepancyKind.OVERFILLED:
            return f"See execctl order {order}, and undo by hand what is too much; a correction by the broker is recorded by itself."
        case DiscrepancyKind.IN_DOUBT:
            return f"Look for {tag} at the broker among open, finished and rejected orders, then decide: execctl resolve {order}."
        case DiscrepancyKind.POSITION_DIFFERS:
            return (
                "Compare the broker's trades with execctl orders: a square-off, a trade by hand, an assignment or expiry, a transfer, or an order "
                "in doubt. Undo it at the broker, have our books follow it (see execctl adopt --help), or leave it if it is meant. "
                "Until it is resolved, exits of it take no more than the broker holds."
            )


def discrepancy_opened(opened: Discrepancy, *, account_name: str, broker: str) -> str:
    """The Telegram text when a discrepancy is opened; no other is sent."""
    return discrepancy(
        count=1,
        account_name=account_name,
        broker=broker,
        detail=difference(opened.finding),
        to_do=opened.next_step,
    )


def reconciled(
    *,
    open_orders: int,
    executions: int,
    positions: int | None,
    discrepancies: int,
    unconfirmed: int,
    looked_for: int,
    orders_not_ours: int,
    positions_not_ours: int,
) -> str:
    """The outcome of a complete comparison, for the log. `positions`: how many agree; None if the broker does not
    report them."""
    counts = f"{counted_noun(open_orders, 'open order')}, {counted_noun(executions, 'execution')}"
    agree = f"{counts} agree" if positions is None else f"{counts}, {counted_noun(positions, 'position')} agree"
    differ = ["positions not told"] if positions is None else []
    if discrepancies:
        differ.append(f"{counted_noun(discrepancies, 'discrepancy')} open, see execctl discrepancies")
    if unconfirmed:
        differ.append(f"{counted_noun(unconfirmed, 'difference')} to be confirmed by the next reading")
    if looked_for:
        differ.append(f"{counted_noun(looked_for, 'order')} perhaps sent and still looked for")
    foreign = []
    if orders_not_ours:
        foreign.append(counted_noun(orders_not_ours, "order"))
    if positions_not_ours:
        foreign.append(counted_noun(positions_not_ours, "position"))
    said = [f"{'Not reconciled' if differ else 'Reconciled'}: {agree}", *differ]
    if foreign:
        said.append(f"not ours and left alone: {' and '.join(foreign)}")
    return "; ".join(said)


def counted_noun(count: int, name: str) -> str:
    if count == 1:
        return f"1 {name}"
    return f"{count} {name.removesuffix('y')}ies" if name.endswith("y") else f"{count} {name}s"


def one_line(text: str) -> str:
    """An alert as one line of the log, without tags and line breaks."""
    return unescape(" | ".join(line for line in text.splitlines() if line))


def with_count(text: str, count: int) -> str:
    """An alert that stands for `count` alike, with the count after its title."""
    title, _, rest = text.partition("\n")
    return text if count == 1 else f"{counted_title(title, count)}\n{rest}"


def discrepancies(texts: Sequence[str], count: int) -> str:
    """Several discrepancies of one account, opened together, in one message that names as many as fit."""
    if len(texts) == 1:
        return with_count(texts[0], count)
    lines = [dict(line.partition(": ")[::2] for line in text.split("\n")[2:]) for text in texts]
    found = list(dict.fromkeys(each["Found"] for each in lines if "Found" in each))
    named = [words for place, words in enumerate(found) if sum(map(len, found[: place + 1])) <= LONGEST_OF_FINDINGS]
    if len(named) < len(found):
        named.append(f"and {len(found) - len(named)} more: see execctl discrepancies")
    steps = {each["To do"] for each in lines if "To do" in each}
    to_do = steps.pop() if len(steps) == 1 else "execctl discrepancies says for each what to do"
    told = lines[-1] | {"Found": "".join(f"\n- {words}" for words in named), "To do": to_do}
    title = texts[-1].partition("\n")[0]
    body = "\n".join(f"{name}:{value}" if name == "Found" else f"{name}: {value}" for name, value in told.items())
    return f"{counted_title(title, count)}\n\n{body}"


def broker_down(*, account_name: str, broker: str, reason: str, count: int = 1) -> str:
    """`count`: how often the connection was lost since the last notification."""
    return html_message(
        counted_title("🔌 Broker Down", count), ("Account", account_name), ("Broker", broker), ("Reason", reason)
    )


def broker_up(*, account_name: str, broker: str, down_seconds: Decimal | None = None) -> str:
    after = () if down_seconds is None else (("Down for", duration(down_seconds)),)
    return html_message("✅ Broker Up", ("Account", account_name), ("Broker", broker), *after)


def session_concern(*, account_name: str, broker: str, concern: str, count: int = 1) -> str:
    """The account is traded, but not as it should be. `count`: how often since the last notification."""
    return html_message(
        counted_title("🔌 Limited Session", count), ("Account", account_name), ("Broker", broker), ("Concern", concern)
    )


def auth_required(*, account_name: str, broker: str, reason: str, count: int = 1) -> str:
    """`count`: how often since the last notification."""
    return html_message(
        counted_title("🔑 Login Required", count),
        ("Account", account_name),
        ("Broker", broker),
        ("Reason", reason),
        ("Orders", "held until then, and rejected when they are too old"),
    )


def orders_held(*, account_name: str, broker: str, reason: str) -> str:
    return html_message(
        "⏸ Orders Held",
        ("Account", account_name),
        ("Broker", broker),
        ("Reason", reason),
        ("Orders", "those that need it are held, and rejected when they are too old; others go on"),
    )


def cannot_be_read(*, account_name: str, broker: str, what: Sequence[str]) -> str:
    """Parts of a broker's answers, or records of the account, that cannot be read and cannot be attributed to an
    order."""
    more = f" (and {len(what) - 1} more)" if len(what) > 1 else ""
    return html_message(
        "❓ Cannot Be Read",
        ("Account", account_name),
        ("Broker", broker),
        ("What", f"{what[0]}{more}" if what else UNKNOWN),
        ("Orders", "what it is about is unclear, and nothing is concluded from it; everything else goes on"),
        ("To do", "look at it at the broker, and compare"),
    )


def delivery_failing(*, signal_id: str, reason: str) -> str:
    """One order cannot be booked, shown or published, for a reason of its own."""
    return html_message(
        "📤 Delivery Failing",
        ("Order", signal_id),
        ("Reason", reason),
        ("Orders", "this one's ledger, views or confirmation wait, and it is tried on; others go on"),
    )


def record_cannot_be_read(*, account_name: str | None, what: Sequence[str]) -> str:
    """Documents of our own that cannot be read."""
    more = f" (and {len(what) - 1} more)" if len(what) > 1 else ""
    return html_message(
        "❓ Record Cannot Be Read",
        ("Account", account_name or UNKNOWN),
        ("What", f"{what[0]}{more}" if what else UNKNOWN),
        ("Orders", "what it is about is left alone; everything else goes on"),
        ("To do", "look at it in the store and at the broker; whatever it was at work on is not followed"),
    )


def part_failed(*, part: str, reason: str) -> str:
    """A long-running part of the service failed and is restarted."""
    return html_message(
        "🔧 Part Restarted",
        ("Part", part),
        ("Reason", reason),
        ("Orders", "it is begun anew by itself and takes up what it had in hand; nothing is lost or done twice"),
    )


def part_failing_on(*, part: str, account_id: str | None, failures: int, reason: str) -> str:
    """An account's part keeps failing; the service goes on for the other accounts."""
    return html_message(
        "🚨 Account Not Worked",
        ("Account", account_id or UNKNOWN),
        ("Part", part),
        ("Failed", f"{failures} times in succession"),
        ("Reason", reason),
        (
            "To do",
            "its orders may not be followed: look at them at the broker, and at the log; it is tried on meanwhile",
        ),
    )


def service_ends(*, part: str, failures: int, reason: str) -> str:
    """A part without which the service cannot run keeps failing."""
    return html_message(
        "🛑 Service Ends",
        ("Part", part),
        ("Failed", f"{failures} times in succession"),
        ("Reason", reason),
        ("Orders", "those at work stay at the broker, and nobody follows them here until a service is started"),
        ("To do", "see the log, mend it, and start the service again; it takes up where it was"),
    )


# --- many orders of an account in one message ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MentionedOrder:
    """One order in a message about several. `moment` is since or until when, as the message says."""

    order: Order
    moment: datetime | None
    words: str = ""
    """Text about this order alone, if the message has one for each."""


def held_for_opening(orders: Sequence[MentionedOrder], *, account_name: str, broker: str, words: str) -> str:
    """The broker holds them until the moments given. `words` is the broker's own text about the latest."""
    untils = sorted({each.moment for each in orders if each.moment is not None})
    until = " or ".join(map(clock_time, untils[:NAMED_AT_MOST])) or "the opening"
    held = f"{count_of_orders(len(orders))} of {account_name} {'is' if len(orders) == 1 else 'are'} held until {until}"
    return html_message(
        "⏸ Held for the Opening",
        ("Account", account_name),
        ("Broker", broker),
        ("Held", f"{held}: {list_of_orders([(each.order, '') for each in orders])}"),
        ("Broker's words", words),
        ("To do", "nothing, if they are meant; their time-out runs from the opening on. Else cancel them"),
    )


def exits_waiting(orders: Sequence[MentionedOrder], *, account_name: str, broker: str, reason: str, to_do: str) -> str:
    """They have been unable to leave since the moments given."""
    named = [(each.order, f" since {clock_time(each.moment)}" if each.moment else "") for each in orders]
    title = "🚨 Exit Cannot Leave" if len(orders) == 1 else f"🚨 {len(orders)} Exits Cannot Leave"
    return html_message(
        title,
        ("Account", account_name),
        ("Broker", broker),
        ("Exits", list_of_orders(named)),
        ("Reason", reason),
        ("To do", to_do),
    )


def orders_isolated(orders: Sequence[MentionedOrder], *, account_name: str) -> str:
    """An unexpected error occurred in the processing of these orders; `words` of each says which."""
    named = [(each.order, f": {shortened(each.words, LONGEST_OF_CAUSE)}") for each in orders]
    return html_message(
        "🚧 Order Set Aside" if len(orders) == 1 else f"🚧 {len(orders)} Orders Set Aside",
        ("Account", account_name),
        ("Orders" if len(orders) > 1 else "Order", list_of_orders(named)),
        ("Meanwhile", "it is tried again, with longer and longer pauses; the account's other orders go on"),
        ("To do", "see how it stands with execctl order and in the broker's own screen, and tell the maintainers"),
    )


def not_compared(*, account_name: str, broker: str, why: Mapping[str, str]) -> str:
    """An unexpected error kept these from being compared with the broker; others were. `why`: by signal or position."""
    named = [
        f"{shortened(what, LONGEST_OF_LINE)}: {shortened(reason, LONGEST_OF_CAUSE)}" for what, reason in why.items()
    ]
    more = f"; and {len(named) - NAMED_AT_MOST} more" if len(named) > NAMED_AT_MOST else ""
    return html_message(
        "⚠️ Not Compared",
        ("Account", account_name),
        ("Broker", broker),
        ("What", f"{'; '.join(named[:NAMED_AT_MOST])}{more}"),
        ("Meanwhile", "nothing is concluded of it; everything else is compared as ever"),
        ("To do", "compare it by hand with the broker's own screen, and tell the maintainers"),
    )


def message_not_composed(subject: str, signal_ids: Sequence[str]) -> str:
    """Replaces a message about orders that could not be composed: that there was one, and about which orders."""
    named = ", ".join(shortened(signal_id, LONGEST_OF_LINE) for signal_id in signal_ids[:NAMED_AT_MOST])
    more = f" and {len(signal_ids) - NAMED_AT_MOST} more" if len(signal_ids) > NAMED_AT_MOST else ""
    return html_message(
        "⚠️ Attention",
        ("About", subject.replace("_", " ")),
        ("Orders", f"{named}{more}"),
        ("Note", "the message about them could not be put together; see execctl order and the log"),
    )


def cancels_unconfirmed(orders: Sequence[MentionedOrder], *, account_name: str, broker: str, times: int) -> str:
    """Their cancellation was requested `times` times, and the broker has confirmed none."""
    return html_message(
        "⚠️ Cancel Not Confirmed",
        ("Account", account_name),
        ("Broker", broker),
        ("Orders", list_of_orders([(each.order, "") for each in orders])),
        ("Reason", f"cancellation asked {times} times and not confirmed by the broker; they may be alive"),
        ("To do", "see them in the broker's own screen; they are asked for again, more and more rarely"),
    )


def list_of_orders(orders: Sequence[tuple[Order, str]]) -> str:
    named = [
        f"{order_summary(order)} ({shortened(signal_of(order), LONGEST_OF_LINE)}){more}"
        for order, more in orders[:NAMED_AT_MOST]
    ]
    rest = len(orders) - NAMED_AT_MOST
    return "; ".join(named) + (f"; and {rest} more" if rest > 0 else "")


def count_of_orders(count: int) -> str:
    return counted_noun(count, "order")


def clock_time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def take_over(*, account: str, host: str, pid: int, has_died: bool = False) -> str:
    """An account is now worked by another process, because its former one was silent or, `has_died`, is proven dead."""
    why = "which died and gave nothing back" if has_died else "which did not renew its lease"
    to_do = "see why it died" if has_died else "see whether that process is dead, frozen or cut off from the store"
    return html_message(
        "🔁 Taken Over", ("Account", account), ("From", f"{host}, process {pid}, {why}"), ("To do", to_do)
    )


def messages_handed_back(*, what: str, count: int, seconds: float) -> str:
    """Sent when the store is back. `what` the messages are; `seconds` since the first failure."""
    return html_message(
        "↩️ Messages Handed Back",
        ("What", f"{what}, {count} messages at least"),
        (
            "Why",
            f"a process could not reach the store for {seconds:.0f} s; others could take them from Pub/Sub meanwhile",
        ),
        ("Now", "the store answers, and messages are taken again"),
        ("To do", "see what kept that process from the store"),
    )


def dead_letters(*, count: int, reason: str) -> str:
    """`count` messages since the last notification; `reason` is that of the latest."""
    return html_message(
        counted_title("📭 Dead Letter", count),
        ("Reason", reason),
        ("To do", "see execctl dead-letters; nothing was placed for it"),
    )


def conflict(*, count: int, signal_id: str, detail: str) -> str:
    """An order came again with different content, and the second was not placed; `signal_id` and `detail` are those
    of the latest."""
    return html_message(
        counted_title("⚠️ Conflicting Order", count),
        ("Signal", signal_id),
        ("Reason", detail),
        ("To do", "see execctl dead-letters; the first order stands, the second was not placed"),
    )


def discrepancy(*, count: int, account_name: str, broker: str, detail: str, to_do: str = "") -> str:
    """The broker's books and ours differ."""
    where = (("Account", account_name), ("Broker", broker))
    then = (("To do", to_do),) if to_do else ()
    return html_message(counted_title("⚠️ Discrepancy", count), *where, ("Found", detail), *then)


def account_not_configured(account_id: str, signal_ids: Sequence[str]) -> str:
    """Unfinished orders of an account that is no longer configured: nobody watches them."""
    named = ", ".join(signal_ids[:5]) + (f" and {len(signal_ids) - 5} more" if len(signal_ids) > 5 else "")
    return html_message(
        "⚠️ Account Not Configured",
        ("Account", account_id),
        ("Unfinished", named),
        (
            "To do",
            "this service does not watch these orders: configure the account again, then end them or let them end",
        ),
    )


def fills_missing(order: Order, *, broker_filled: Decimal, seconds: Decimal, account_name: str | None) -> str:
    """For `seconds` the broker has counted another quantity as filled than the executions that it shows."""
    counts = f"{quantity(broker_filled)} by the broker's count, {quantity(order.filled_quantity)} shown as executions"
    account = ("Account", account_label(order, account_name))
    return about_order(order, "⚠️ Fills Missing", ("Filled", counts), ("For", duration(seconds)), account)


def publish_failing(*, waiting: int, attempts: int, reason: str) -> str:
    """`waiting`: confirmations that are not delivered yet."""
    return html_message(
        "📡 Confirmations Not Published",
        ("Waiting", str(waiting)),
        ("Attempts", str(attempts)),
        ("Reason", reason),
        ("To do", "nothing is lost: they are tried for ever, in order"),
    )


def late_exit_note(age_seconds: Decimal) -> str:
    """The note on an exit that was executed in spite of its age."""
    return f"late exit executed: first published {duration(age_seconds)} ago; it reduces a position that is held"


def about_order(order: Order, title: str, *lines: tuple[str, str]) -> str:
    strategy = order.request.strategy or UNKNOWN
    return html_message(
        title, ("Signal", signal_of(order)), ("Strategy", strategy), ("Order", order_summary(order)), *lines
    )


def html_message(title: str, *lines: tuple[str, str]) -> str:
    body = "\n".join(f"{name}: {escape(plain(value), quote=False)}" for name, value in lines)
    return f"{title}\n\n{body}"


def counted_title(title: str, count: int) -> str:
    return title if count == 1 else f"{title} (×{count})"


def signal_of(order: Order) -> str:
    legs = order.request.total_legs
    return order.signal_id if legs == 1 else f"{order.signal_id} (leg {order.identity.leg_index + 1} of {legs})"


def account_label(order: Order, account_name: str | None) -> str:
    return account_name or order.request.account_id or UNKNOWN


def execution_text(order: Order, amount: Decimal, at: Decimal) -> str:
    return f"{quantity(amount)} @ {quoted(at, order)}"


# --- the log --------------------------------------------------------------------------------------------------------


def log_line(order_before: Order, event: Event, order: Order) -> tuple[str, str] | None:
    """The log's sentence and action for an event, `order` being the state after it. None: the event had no effect."""
    match event:
        case SubmitStarted():
            return f"Placing order: {order_summary(order)} {_type(order)}", "order_placing"
        case NothingSent():
            return f"Order not sent: {plain(event.message)}", "order_not_sent"
        case Accepted():
            return f"Order submitted: {plain(event.broker_order_id)}", "order_submitted"
        case Adopted():
            words = f"{event.occasion}, {order_summary(order_before)}, by {plain(event.by)}: {plain(event.message)}"
            return f"Position adopted: {words}", "position_adopted"
        case AdoptionUndone():
            return f"Adoption undone by {plain(event.by)}: {plain(event.message)}", "adoption_undone"
        case Filled() if order.adoption is not None:
            return f"Booked: {execution_text(order, event.fill.quantity, event.fill.price)}", "adoption_booked"
        case Filled():
            return _fill_line(order_before, event, order)
        case Busted():
            return (f"Execution annulled: {plain(event.fill_id)}; {fill_progress(order)} stand", "fill_busted")
        case CommissionReported():
            amount = money(event.commission, event.currency or currency_of(order))
            return f"Commission reported: {amount} for execution {plain(event.fill_id)}", "commission_reported"
        case CancelRefused():
            return f"Cancel refused: {plain(event.message)}", "cancel_refused"
        case Capped():
            words = f"{quantity(event.quantity)} of {quantity(order_before.quantity)}"
            return f"Exit capped: {words}: {plain(event.message)}", "exit_capped"
        case InstrumentMatched():
            product = "" if event.product is None else f" in {plain(event.product)}"
            return f"Exit closes its entry's instrument: {plain(event.instrument.key)}{product}", "exit_matched"
        case ContractResolved():
            return _contract_line(event, order)
        case ContractDeclared():
            return (
                f"Contract declared by {plain(event.by)}: {contract_summary(event.terms)}; {plain(event.message)}",
                "contract_declared",
            )
        case Fitted():
            return f"Order fitted: {plain(event.message)}", "order_fitted"
        case Held():
            until = "" if event.until is None else f" until {clock_time(event.until)}"
            return f"Order held for the opening{until}: {plain(event.message)}", "order_held"
        case Released():
            return f"Order released to the market: {plain(event.message)}", "order_released"
        case Completed():
            return f"Order filled: {_execution_of_all(order)}", "order_filled"
        case Noted():
            return f"Note: {plain(event.message)}", "order_noted"
    return _end_line(order_before, event, order)


def _contract_line(event: ContractResolved, order: Order) -> tuple[str, str]:
    words = [] if event.terms is None else [contract_summary(event.terms)]
    if event.booked_as is not None:
        words.append(f"booked as {plain(event.booked_as)}")
    return f"Contract: {', '.join(words) or plain(order.symbol or UNKNOWN)}", "contract_told"


def contract_summary(told: ContractTerms) -> str:
    """The broker's facts about a contract, in one line."""
    words = (
        told.local_symbol,
        None if told.trading_class is None else f"class {told.trading_class}",
        None if told.multiplier is None else f"multiplier {quantity(told.multiplier)}",
        None if told.price_magnifier == ONE else f"quoted in 1/{quantity(told.price_magnifier)}",
        told.currency,
        None if told.con_id is None else f"number {told.con_id}",
        "what one contract is worth is not told" if told.is_size_unknown else None,
    )
    return plain(", ".join(word for word in words if word is not None) or "nothing told")


def wants_a_person(event: Event) -> bool:
    """Whether its log line is a warning that somebody should look at."""
    return isinstance(event, Doubted) or (isinstance(event, Noted) and event.alert)


def _fill_line(before: Order, event: Filled, order: Order) -> tuple[str, str] | None:
    if len(order.fills) == len(before.fills):
        return None
    if is_overfilled(order):
        return f"Order overfilled: {fill_progress(order)}", "order_overfilled"
    if before.status.is_final:
        execution = execution_text(order, event.fill.quantity, event.fill.price)
        return f"Late fill: {execution}; {fill_progress(order)}, now {order.status.value}", "late_fill"
    if order.status is Status.FILLED:
        return f"Order filled: {_execution_of_all(order)}", "order_filled"
    return f"Order partially filled: {fill_progress(order)}", "order_partially_filled"


def _end_line(before: Order, event: Event, order: Order) -> tuple[str, str] | None:
    match event:
        case CancelRequested() if order.status.is_final:
            return f"Order cancelled: {plain(event.reason.message)}", "order_cancelled"
        case CancelRequested() if event.reason.code is ReasonCode.TIMEOUT:
            return f"Order timeout: {plain(event.reason.message)}; cancelling", "order_timeout"
        case CancelRequested():
            words = f"{plain(event.reason.message)} (by {plain(event.requested_by)})"
            return f"Cancelling order: {words}", "cancel_requested"
        case Rejected() if order.status is Status.REJECTED:
            return f"Order rejected: {reason_of(order)}", "order_rejected"
        case Rejected() | Cancelled():
            return f"Order cancelled: {reason_of(order)}; filled {fill_progress(order)}", "order_cancelled"
        case Expired():
            return f"Order expired: {reason_of(order)}; filled {fill_progress(order)}", "order_expired"
        case Doubted():
            return f"Order in doubt: {plain(event.message)}", "order_in_doubt"
        case DeclaredNotPlaced():
            return f"Order declared not placed by {plain(event.by)}: {plain(event.message)}", "order_resolved"
        case DeclaredPlaced():
            found = f"Order declared placed as {plain(event.broker_order_id)} by {plain(event.by)}"
            return f"{found}: {plain(event.message)}", "order_resolved"
        case DeclaredCancelled():
            return f"Order declared cancelled by {plain(event.by)}: {plain(event.message)}", "order_resolved"
        case SendAgainOrdered():
            words = f"Sending again ordered by {plain(event.by)}: {plain(event.message)}"
            return f"{words}; attempt {order.attempt}", "order_resolved"
    return None


def _execution_of_all(order: Order) -> str:
    return f"{quantity(order.filled_quantity)} @ {quoted(order.average_price, order)}"


def _type(order: Order) -> str:
    request = order.request
    if not isinstance(request, OrderRequest):
        return UNKNOWN
    stop = f" stop {quoted(order.stop_price, order)}" if order.stop_price is not None else ""
    limit = f" @ {quoted(order.limit_price, order)}" if order.limit_price is not None else ""
    if request.order_type is OrderType.STOP:
        stop = f" @ {quoted(order.stop_price, order)}"
    return f"{request.order_type.value}{stop}{limit}"
