"""Telegram messages about orders. Which event is notified, when and how often is decided elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from html import escape

from execution_service.core.orders.events import (
    Adopted,
    AdoptionUndone,
    Busted,
    Cancelled,
    CancelRequested,
    Capped,
    Completed,
    DeclaredCancelled,
    DeclaredNotPlaced,
    Doubted,
    Event,
    Expired,
    Filled,
    Fitted,
    Noted,
    ProtectionChanged,
    Rejected,
)
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import ProtectionState
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.texts.messages import (
    LONGEST_OF_CAUSE,
    LONGEST_OF_LINE,
    NAMED_AT_MOST,
    MentionedOrder,
    about_order,
    account_label,
    count_of_orders,
    counted_title,
    html_message,
    list_of_orders,
    signal_of,
)
from execution_service.core.texts.values import (
    UNKNOWN,
    clock_time,
    commissions_text,
    contract_line,
    execution_text,
    fill_progress,
    is_overfilled,
    order_summary,
    plain,
    quantity,
    quoted,
    reason_of,
    shortened,
    time_taken,
    total_value,
)

# --- Telegram -------------------------------------------------------------------------------------------------------


def order_alert(
    order_before: Order, event: Event, order: Order, *, account_name: str | None, broker: str
) -> str | None:
    """The Telegram text about one event of an order, `order` being the state after it. None: people are not notified
    of this event."""
    account = ("Account", account_label(order, account_name))
    if order.adoption is not None and not isinstance(event, ProtectionChanged):
        return _adoption_text(event, order, account)
    if order.protective is not None and isinstance(event, _OF_PROTECTIVE_ORDERS):
        return None  # what of it a person must know is told with the position that it protects
    match event:
        case Filled() if len(order.fills) != len(order_before.fills):
            return _fill_text(order_before, event, order, account)
        case Busted() if len(order.fills) != len(order_before.fills):
            annulled = order_before.fill_of(event.fill_id)
            words = UNKNOWN if annulled is None else execution_text(order_before, annulled.quantity, annulled.price)
            now = (("Filled now", fill_progress(order)), ("Status", order.status.value))
            return about_order(order, "🔧 Correction: Execution Annulled", ("Annulled", words), *now, account)
        case Cancelled() if event.reason.code is ReasonCode.REDUCE_ONLY:
            return _excess_exit_text(order, account)
        case Rejected() | Cancelled() | Expired() if is_failed_exit(order_before, event, order):
            return _failed_exit_text(order, account)
        case Rejected() | Cancelled() | Expired() | CancelRequested() | DeclaredNotPlaced() | DeclaredCancelled():
            return _end_text(order, account) if order.status.is_final else None
        case Doubted():
            return _doubt_text(order, account, broker)
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
        case ProtectionChanged():
            return _protection_text(order_before, event, order, account)
    return None


def _doubt_text(order: Order, account: tuple[str, str], broker: str) -> str:
    """With the name by which a person decides it, also of a protective order: how its position stands does not tell that."""
    protects: tuple[tuple[str, str], ...] = ()
    if order.protective is not None:
        entry = order.accepted_request.entry_refs[0]
        protects = (("Protects", entry), ("Meanwhile", "no other is placed in its stead, whatever that leaves open"))
    to_do = "look for it at the broker, then decide with execctl resolve; it is not sent again by itself"
    if order.combination is not None:
        to_do = (
            f"look at the broker for the combination {order.tag_at_broker}, of which it is a leg, then decide the same of each leg with "
            "execctl resolve; it is not sent again by itself"
        )
    return about_order(
        order,
        "❓ Order In Doubt",
        *protects,
        ("Reason", reason_of(order)),
        ("Broker", broker),
        account,
        ("To do", to_do),
    )


_OF_PROTECTIVE_ORDERS = (Rejected, Cancelled, Expired, CancelRequested, Fitted, Capped)
_PROTECTION_TITLES = {
    ProtectionState.UNPROTECTED: "🚨 Position Unprotected",
    ProtectionState.CLOSING: "🛡️ Closing Position",
}
_PROTECTION_TO_DO = {
    ProtectionState.UNPROTECTED: "protect or close it in the broker's own screen, or flatten it; it is tried again by itself",
    ProtectionState.CLOSING: "nothing; what comes of it is told",
}


def _protection_text(before: Order, event: ProtectionChanged, order: Order, account: tuple[str, str]) -> str | None:
    """Only where a person has to know at once, and has not been told: a doubt is told of the protective order itself."""
    title, known = _PROTECTION_TITLES.get(event.state), before.protection
    was_told = known is not None and known.state is event.state
    if title is None or (was_told and (event.state is ProtectionState.CLOSING or known.reason == event.reason)):  # type: ignore[union-attr]
        return None
    return about_order(
        order,
        title,
        ("Reason", event.reason),
        ("Covered", f"{quantity(event.quantity)} by orders at the broker"),
        account,
        ("To do", _PROTECTION_TO_DO[event.state]),
    )


def _adoption_text(event: Event, order: Order, account: tuple[str, str]) -> str | None:
    """One message for all records of an adoption, sent with the first."""
    adoption, strategy = order.adoption, ("Strategy", order.request.strategy or UNKNOWN)
    if adoption is None or order.identity.leg_index:
        return None
    facts = [(name, words) for name, words in (("Left", adoption.left), ("Came", adoption.came)) if words]
    match event:
        case Adopted():
            closes = [] if adoption.discrepancy_id is None else [("Closes", adoption.discrepancy_id)]
            by = (("By", adoption.by), ("Reason", adoption.message))
            about = (account, strategy, ("What", adoption.occasion.value), *facts, *by, *closes)
            return html_message("📒 Position Adopted", *about, ("Adoption", order.signal_id))
        case AdoptionUndone():
            by = (("By", event.by), ("Reason", event.message))
            undone = [(f"{name}, annulled", words) for name, words in facts]
            about = (account, strategy, ("What", adoption.occasion.value), *undone, *by)
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
        case Cancelled() if event.reason.code is ReasonCode.REDUCE_ONLY:
            return None
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


_NO_FAILURE = frozenset({ReasonCode.CANCEL_REQUESTED, ReasonCode.NOTHING_TO_EXIT, ReasonCode.REDUCE_ONLY})
"""An exit that ends with a remainder for one of these reasons has not failed: somebody asked for it, or there is
nothing to exit, or less."""


def is_failed_exit(before: Order, event: Event, order: Order) -> bool:
    """Whether this event ends an exit that still had something to close and that nobody wanted to end: its position
    is still open."""
    if order.identity.purpose is not Purpose.EXIT or before.status.is_final or not order.status.is_final:
        return False
    is_left = not isinstance(order.request, OrderRequest) or order.quantity is None or order.remaining_quantity > 0
    reason = event.reason if isinstance(event, Rejected | Cancelled | Expired) else None
    return is_left and reason is not None and reason.code not in _NO_FAILURE


def _excess_exit_text(order: Order, account: tuple[str, str]) -> str:
    to_do = "nothing where nothing is left; else send another exit if it is still meant: this one is not sent again"
    about = (("Filled", fill_progress(order)), ("Reason", reason_of(order)), account, ("To do", to_do))
    return about_order(order, "✂️ Exit Cancelled: Position Smaller", *about)


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


def digest(lines: Sequence[str], *, waiting: int) -> str:
    """One Telegram text about many outcomes, each a line of `outcome_line`. `waiting`: how many orders remain to be
    reported."""
    title = "📋 1 Order" if len(lines) == 1 else f"📋 {len(lines)} Orders"
    rest = f" ({waiting} more to come)" if waiting else ""
    return "\n".join((f"{title}{rest}", "", *lines))


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


def targets_waiting(orders: Sequence[MentionedOrder], *, account_name: str, broker: str) -> str:
    """Targets that are to be linked to a stop at the broker, and have been unable to leave since the moments given."""
    named = [(each.order, f" since {clock_time(each.moment)}" if each.moment else "") for each in orders]
    return html_message(
        "⏳ Target Waits For Its Stop" if len(orders) == 1 else f"⏳ {len(orders)} Targets Wait For Their Stops",
        ("Account", account_name),
        ("Broker", broker),
        ("Targets", list_of_orders(named)),
        ("Reason", "the broker does not tell what the stop has filled that it links to the target"),
        ("Meanwhile", "the stop is at the broker, by what it last told of it; no profit is taken"),
        ("To do", "nothing: it is placed as soon as the broker tells; to take the profit now, send an exit"),
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


def exits_not_measured(orders: Sequence[MentionedOrder], *, account_name: str) -> str:
    """Whether these exits may take more than is left is not known; `words` of each says why."""
    named = [(each.order, f": {shortened(each.words, LONGEST_OF_CAUSE)}") for each in orders]
    return html_message(
        "⚠️ Exit Not Measured" if len(orders) == 1 else f"⚠️ {len(orders)} Exits Not Measured",
        ("Account", account_name),
        ("Exits", list_of_orders(named)),
        ("Means", "what they close has changed, and it is not known whether they may take more than is left"),
        ("Meanwhile", "they are left as they are, and measured again, with longer and longer pauses"),
        (
            "To do",
            "compare what they may still take with what is held, in the broker's own screen; cancel what is too much",
        ),
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


def conflict(*, count: int, signal_id: str, detail: str) -> str:
    """An order came again with different content, and the second was not placed; `signal_id` and `detail` are those
    of the latest."""
    return html_message(
        counted_title("⚠️ Conflicting Order", count),
        ("Signal", signal_id),
        ("Reason", detail),
        ("To do", "see execctl dead-letters; the first order stands, the second was not placed"),
    )


def decision_unknown(*, decision_id: str, signal_id: str, is_exit: bool) -> str:
    """An order was taken that names a decision which does not exist; `signal_id` is that of the first."""
    return html_message(
        "⚠️ Unknown Decision",
        ("Decision", decision_id),
        ("Signal", signal_id),
        ("Reason", "it is not in pipeline_decisions" + ("; its exit is sent all the same" if is_exit else "")),
        ("To do", "ask who publishes decisions; trades of it refer to nothing until it is there"),
    )


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
