"""Telegram messages about connections, delivery, messages from upstream and the parts of the service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal

from execution_service.core.texts.messages import counted_title, html_message
from execution_service.core.texts.values import UNKNOWN, duration, quantity


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


def no_quotes(*, account_name: str, reason: str) -> str:
    return html_message(
        "❓ No Quotes From the Broker",
        ("Account", account_name),
        ("Reason", reason),
        (
            "Meanwhile",
            "reference prices are our executions and what messages say; where a written limit has none that is young enough, "
            "new risk is refused. Exits leave",
        ),
    )


def quotes_again(*, account_name: str) -> str:
    return html_message("✅ Quotes Again", ("Account", account_name))


def risk_limit_near(*, account_name: str, limit: str, total: str, used: Decimal, most: Decimal) -> str:
    """`total`: whose figure it is."""
    return html_message(
        "⚠️ Risk Limit Near",
        ("Account", account_name),
        ("Limit", limit),
        ("Of", total),
        ("Used", f"{quantity(used)} of {quantity(most)}"),
        ("Note", "told once a day for each limit; from the limit on, new risk is refused, and exits leave"),
    )


def risk_limit_broken(*, account_name: str, limit: str, total: str, counted: str) -> str:
    """One that stays broken until a person enables it again."""
    return html_message(
        "🛑 Risk Limit Broken",
        ("Account", account_name),
        ("Limit", limit),
        ("Of", total),
        ("Counted", counted),
        ("Orders", "new risk is refused, exits leave"),
        ("To do", "find the reason; then execctl limits --enable SCOPE --by NAME --reason WHY"),
    )


def risk_enabled(*, scope: str, by: str, reason: str, count: int) -> str:
    return html_message(
        "✅ Risk Limit Enabled Again", ("Scope", scope), ("By", by), ("Reason", reason), ("Broken limits", str(count))
    )


def risk_rebased(*, scope: str, by: str, reason: str, count: int) -> str:
    return html_message(
        "✅ Losses Measured Anew",
        ("Scope", scope),
        ("By", by),
        ("Reason", reason),
        ("Accounts", str(count)),
        (
            "Losses",
            "daily loss and drawdown are measured from the first readings after this on; until then what was measured applies",
        ),
    )


def risk_day_ahead(*, account_id: str, account_name: str, day: date, today: date) -> str:
    """What counts by the day counts one that has not come."""
    return html_message(
        "⚠️ Clock Has Run Ahead",
        ("Account", account_name),
        ("Counted day", f"{day}; today is {today}"),
        ("Limits", "what counts by the day does not begin anew before that day is over"),
        ("To do", f"put the clock right; then execctl limits --rebase account:{account_id} --by NAME --reason WHY"),
    )


def risk_allowed(*, signal_id: str, limits: Sequence[str], by: str, reason: str, until: datetime) -> str:
    """One order that was refused may come once more."""
    return html_message(
        "⚠️ Order Allowed Past Its Limits",
        ("Signal", signal_id),
        ("Limits", ", ".join(dict.fromkeys(limits)) or UNKNOWN),
        ("By", by),
        ("Reason", reason),
        ("Until", f"{until:%Y-%m-%d %H:%M:%S} UTC"),
        ("Orders", "one of the same content, under a new signal; nothing is sent by this"),
    )


def risk_file_refused(*, name: str, problems: Sequence[str]) -> str:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return html_message(
        "⚠️ Risk File Not Taken",
        ("File", name),
        ("Problem", f"{problems[0]}{more}" if problems else UNKNOWN),
        ("Limits", "those of before stay in force; the log names every problem"),
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


def command_set_aside(*, kind: str, command_id: str, about: str, reason: str) -> str:
    """A command that could be neither carried out nor refused."""
    return html_message(
        "🚨 Command Not Carried Out",
        ("Command", f"{kind} {command_id}"),
        ("About", about or UNKNOWN),
        ("Reason", reason),
        ("Orders", "one that it is to cancel and that was not sent is not sent"),
        ("To do", "look at it in the store; do at the broker what it was to do, or give it again"),
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


def events_failing(*, place: str, waiting: int, attempts: int, reason: str) -> str:
    """`waiting`: orders with events that are not published there yet."""
    return html_message(
        f"📡 Events Not Published on {place}",
        ("Waiting", str(waiting)),
        ("Attempts", str(attempts)),
        ("Reason", reason),
        ("To do", "nothing is lost, and trading goes on: they are tried for ever, in order"),
    )


def publish_failing(*, waiting: int, attempts: int, reason: str) -> str:
    """`waiting`: confirmations that are not delivered yet."""
    return html_message(
        "📡 Confirmations Not Published",
        ("Waiting", str(waiting)),
        ("Attempts", str(attempts)),
        ("Reason", reason),
        ("To do", "nothing is lost: they are tried for ever, in order"),
    )
