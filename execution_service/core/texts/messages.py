"""The form of Telegram messages (HTML): title, lines, counts, lists of orders; no message about anything in particular."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape, unescape

from execution_service.core.orders.order import Order
from execution_service.core.texts.values import UNKNOWN, counted_noun, order_summary, plain, shortened

LONGEST_OF_LINE = 80
LONGEST_OF_CAUSE = 200
"""Characters of each name and reason in a message about many orders."""
NAMED_AT_MOST = 5
"""How many orders a message about many names individually."""


def one_line(text: str) -> str:
    """An alert as one line of the log, without tags and line breaks."""
    return unescape(" | ".join(line for line in text.splitlines() if line))


def with_count(text: str, count: int) -> str:
    """An alert that stands for `count` alike, with the count after its title."""
    title, _, rest = text.partition("\n")
    return text if count == 1 else f"{counted_title(title, count)}\n{rest}"


# --- many orders of an account in one message ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MentionedOrder:
    """One order in a message about several. `moment` is since or until when, as the message says."""

    order: Order
    moment: datetime | None
    words: str = ""
    """Text about this order alone, if the message has one for each."""


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


def list_of_orders(orders: Sequence[tuple[Order, str]]) -> str:
    named = [
        f"{order_summary(order)} ({shortened(signal_of(order), LONGEST_OF_LINE)}){more}"
        for order, more in orders[:NAMED_AT_MOST]
    ]
    rest = len(orders) - NAMED_AT_MOST
    return "; ".join(named) + (f"; and {rest} more" if rest > 0 else "")


def count_of_orders(count: int) -> str:
    return counted_noun(count, "order")


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
