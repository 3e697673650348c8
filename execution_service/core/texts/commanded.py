"""What is answered to people who command and ask in a chat, as Telegram's HTML with escaped values; no notice of anything that happened by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from html import escape

from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.reconcile.discrepancies import Discrepancy
from execution_service.core.risk.counters import Trip
from execution_service.core.risk.usage import Usage
from execution_service.core.texts.discrepancies import difference
from execution_service.core.texts.log import log_line
from execution_service.core.texts.messages import signal_of
from execution_service.core.texts.values import (
    UNKNOWN,
    clock_time,
    counted_noun,
    fill_progress,
    money,
    order_summary,
    plain,
    price,
    quantity,
    reason_of,
    shortened,
)

ROWS = 15
"""So many rows of a list are shown; how many there are beyond is said."""
STORY_EVENTS = 12
LONGEST_NAME = 60
LONGEST_WORDS = 160

HELP = "\n".join(
    (
        "<b>Commands</b>",
        "/status — health, kill switches, what is open",
        "/orders — what has not ended",
        "/order ID — the story of one order",
        "/positions — what is held",
        "/limits — how much of each limit is used",
        "/attention — what wants a person",
        "/daily — the day so far",
        "/mute [KIND… LENGTH] — leaves notices out for a time; never those of kills and of orders in doubt",
        "/cancel ID, /cancel all",
        "/kill [scope] [halt] [cancel] [reason] — at once; without a scope everything. cancel: working entries too",
        "/resume scope reason, then /resume scope NONCE — not before 60 s after the kill",
        "/rebase scope reason, then /rebase scope NONCE — daily loss and drawdown are measured anew",
        "/stance SCOPE STANCE reason — how urgently plans are carried out; EMERGENCY: reductions only; alone: what counts",
        "A scope is all, account:ID, strategy:NAME, symbol:SYMBOL, or some joined by +",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DayOfAccount:
    """What became of an account's orders in one day, in one currency."""

    account_id: str
    currency: str
    orders: int = 0
    """That came in on that day."""
    fills: int = 0
    refused: int = 0
    realized: Decimal = Decimal(0)
    """Before commissions; of fills of that day whose contract's worth is known."""
    commission: Decimal = Decimal(0)


def _safe(text: object, most: int = LONGEST_WORDS) -> str:
    return escape(shortened(plain(str(text)), most), quote=False)


def _titled(title: str, lines: Iterable[str]) -> str:
    return "\n".join((f"<b>{_safe(title)}</b>", *lines))


def _listed(title: str, rows: Sequence[str], *, has_more: bool = False, none: str) -> str:
    shown = rows[:ROWS]
    left = len(rows) - len(shown)
    more = [f"and {left}{' or more' if has_more else ''} more"] if left or has_more else []
    return _titled(title, [*shown, *more] if rows else [none])


def age(seconds: float) -> str:
    """5 s, 3 min, 2 h, 4 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


# --- questions ------------------------------------------------------------------------------------------------------


def status(
    *,
    mode: str,
    health: str,
    version: str,
    troubles: Sequence[str],
    engaged: Sequence[str],
    stances: Sequence[str] = (),
    muted: Sequence[str],
    counts: Mapping[str, int],
    last_activity: datetime | None,
    now: datetime,
) -> str:
    """`counts`: records by status, of those that have not ended."""
    in_doubt = counts.get("IN_DOUBT", 0)
    activity = (
        "none" if last_activity is None else f"{clock_time(last_activity)} ({age_between(last_activity, now)} ago)"
    )
    lines = [
        f"Health: {_safe(health)}",
        *(f"  {_safe(trouble)}" for trouble in troubles[:ROWS]),
        "Kill switches: none engaged" if not engaged else "🛑 ENGAGED:",
        *(f"  {_safe(words)}" for words in engaged[:ROWS]),
        *(f"🎚 {_safe(words)}" for words in stances[:ROWS]),
        *(f"🔕 Muted: {_safe(words)}" for words in muted),
        f"Open orders: {sum(counts.values())}",
        f"In doubt: {in_doubt}" + (" ❓" if in_doubt else ""),
        f"Last activity: {activity}",
        f"Version: {_safe(version)}",
    ]
    return _titled(f"{mode} · {health}", lines)


def age_between(then: datetime, now: datetime) -> str:
    return age((now - then).total_seconds())


def orders(found: Sequence[Order], *, now: datetime, has_more: bool) -> str:
    rows = [_order_row(order, now) for order in found]
    return _listed("Open orders", rows, has_more=has_more, none="none")


def _order_row(order: Order, now: datetime) -> str:
    filled = f" · {_safe(fill_progress(order))}" if order.filled_quantity else ""
    account = _safe(order.request.account_id or UNKNOWN, LONGEST_NAME)
    what = f"{_safe(order_summary(order))} · {order.status.value}{filled} · {age_between(order.received_at, now)}"
    return f"{what}\n  <code>{_safe(order.signal_id)}</code> · {account}"


def story(order: Order) -> str:
    """The order as it is, and the latest that happened to it."""
    lines = [
        f"Signal: <code>{_safe(signal_of(order))}</code>",
        f"Order: <code>{order.order_id}</code>",
        f"Account: {_safe(order.request.account_id or UNKNOWN, LONGEST_NAME)}",
        f"Strategy: {_safe(order.request.strategy or UNKNOWN, LONGEST_NAME)}",
        f"At the broker: {_safe(order.broker_order_id or 'no number')}",
        f"Filled: {_safe(fill_progress(order))}",
        *([] if order.reason is None else [f"Reason: {order.reason.code.value}: {_safe(reason_of(order))}"]),
    ]
    first = max(0, order.version - STORY_EVENTS)
    if first:
        lines.append(f"… {counted_noun(first, 'earlier event')}")
    for applied in applied_events(order, first):
        told = log_line(applied.before, applied.event, applied.after)
        if told is not None:
            lines.append(f"{applied.event.at:%H:%M:%S} {_safe(told[0])}")
    return _titled(f"{order_summary(order)} · {order.status.value}", lines)


def positions(held: Sequence[LedgerEntry]) -> str:
    rows = []
    for entry in held:
        average, realized = entry.position.average_price, entry.position.realized_pnl
        side = "LONG" if entry.position.quantity > 0 else "SHORT"
        result = UNKNOWN if entry.money_per_point is None else _amount(realized, entry.currency)
        rows.append(
            f"{_safe(entry.instrument.symbol, LONGEST_NAME)} {side} {quantity(abs(entry.position.quantity))}"
            f" @ {_safe(_amount(average, entry.currency))} · realised {_safe(result)}"
            f"\n  {_safe(entry.key.account_id, LONGEST_NAME)} · {_safe(entry.key.strategy, LONGEST_NAME)}"
        )
    return _listed("Positions", rows, none="nothing is held")


def _amount(amount: Decimal | None, currency: str | None) -> str:
    """Without a sign where nobody has told the currency."""
    return price(amount, currency) if currency is not None else quantity(amount)


def limits(uses: Sequence[Usage], trips: Sequence[tuple[str, Trip]]) -> str:
    """Those that are used most come first."""
    off = [
        f"🚫 {_safe(account, LONGEST_NAME)}: {trip.limit} of {_safe(trip.scope)}: {_safe(trip.value)}"
        for account, trip in trips
    ]
    ordered = sorted(uses, key=lambda use: use.percent, reverse=True)
    rows = [
        f"{use.limit_type} {_safe(use.scope)}: {quantity(use.shown_used)} of {quantity(use.value)} ({use.shown_percent(0)} %)"
        for use in ordered
    ]
    shown = _listed("Limits", rows, none="nothing is used of any limit")
    return "\n".join((shown, "Off until a person enables it:", *off[:ROWS])) if off else shown


def attention(
    *,
    in_doubt: Sequence[Order],
    unprotected: Sequence[Order] = (),
    discrepancies: Sequence[Discrepancy],
    refused: Sequence[Order],
    dead_letters: Sequence[str],
    commands_waiting: int,
    troubles: Sequence[str],
) -> str:
    """What wants a person, the most pressing first. `refused`: of the day; `dead_letters`: why each could not be read."""
    groups = (
        (
            "🚨 Unprotected",
            [
                f"{_safe(order_summary(each))} <code>{_safe(each.signal_id)}</code>: "
                f"{_safe('' if each.protection is None else each.protection.reason)}"
                for each in unprotected
            ],
        ),
        ("❓ In doubt", [f"{_safe(order_summary(each))} <code>{_safe(each.signal_id)}</code>" for each in in_doubt]),
        (
            "⚖️ Differences",
            [f"{_safe(each.account_id, LONGEST_NAME)}: {_safe(difference(each.finding))}" for each in discrepancies],
        ),
        ("🔌 Not well", [_safe(each) for each in troubles]),
        ("📭 Unusable messages", [_safe(each) for each in dead_letters]),
        ("🚫 Refused today", [f"{_safe(order_summary(each))}: {_safe(reason_of(each))}" for each in refused]),
    )
    lines: list[str] = []
    for title, rows in groups:
        if rows:
            left = len(rows) - 5
            lines += [
                f"{title}: {len(rows)}",
                *(f"  {row}" for row in rows[:5]),
                *([f"  and {left} more"] if left > 0 else []),
            ]
    if commands_waiting:
        lines.append(f"Commands that nobody has carried out yet: {commands_waiting}")
    return _titled("Attention", lines or ["nothing wants a person"])


def daily(days: Sequence[DayOfAccount], *, day: datetime, is_cut: bool) -> str:
    """The day is UTC's. `is_cut`: there were more orders than were looked at."""
    lines = []
    for each in days:
        result = money(each.realized, each.currency)
        lines.append(
            f"{_safe(each.account_id, LONGEST_NAME)}: {counted_noun(each.orders, 'order')}, {counted_noun(each.fills, 'fill')}, "
            f"{each.refused} refused, realised {_safe(result)} before {_safe(money(each.commission, each.currency))} of commissions"
        )
    if is_cut:
        lines.append("There were more orders than could be looked at: the figures are of the latest.")
    return _titled(f"Since {day:%Y-%m-%d} 00:00 UTC", lines or ["no orders"])


# --- verbs ----------------------------------------------------------------------------------------------------------


def killed(told: Mapping[str, object]) -> str:
    """`told`: the fields of `control.kill.Killed`."""
    lines = [
        f"{_safe(told['level'])}, since {_safe(told['engaged_at'])}. It stays so until a person arms it.",
        f"Entries working: {told['working_entries']}; cancels asked {told['cancels_asked']}, "
        f"confirmed {told['cancels_confirmed']}, not known {told['cancels_unknown']}.",
    ]
    return _titled(f"🛑 KILLED {told['scope']}", lines)


def kill_begun(scope: str) -> str:
    return _titled(f"🛑 KILLED {scope}", ["Cancels of working entries are being asked for; what came of them follows."])


def cancels_of_kill(scope: str, told: Mapping[str, int]) -> str:
    words = f"{told['cancels_asked']} asked, {told['cancels_confirmed']} confirmed, {told['cancels_unknown']} not known"
    return _titled(f"🛑 KILLED {scope}", [f"Cancels of working entries: {words}."])


def kill_not_known(scope: str) -> str:
    return _titled("🚨 Kill", [f"It is not known whether {_safe(scope)} is stopped. /status tells; give it again."])


def arming_begun(*, second: str, not_before: str) -> str:
    """`second`: the second step, as it is to be written."""
    return _titled("⏳ Not armed yet", [f"Not before {_safe(not_before)}:", f"<code>{_safe(second, 500)}</code>"])


def rebase_begun(*, scope: str, second: str, seconds: float) -> str:
    words = (
        f"Daily loss and drawdown within {scope} would count from the next readings on, and losses from before no more. "
        f"Within {age(seconds)}:"
    )
    return _titled("⏳ Not measured anew yet", [_safe(words, 500), f"<code>{_safe(second, 500)}</code>"])


def rebased(*, scope: str, by: str, count: int) -> str:
    """`count`: in how many accounts that has changed something."""
    if not count:
        return _titled("Not measured anew", [f"Within {_safe(scope)} nothing is measured yet."])
    words = f"In {counted_noun(count, 'account')}, by {by}: from the next readings on; until then what was measured applies."
    return _titled(f"✅ MEASURED ANEW {_safe(scope)}", [_safe(words, 500)])


def armed(*, scope: str, person: str) -> str:
    return _titled(f"🟢 ARMED {scope}", [f"by {_safe(person)}: it stops nothing any more."])


def resume_usage(engaged: Sequence[str]) -> str:
    which = [f"  {_safe(words)}" for words in engaged[:ROWS]] or ["  none is engaged"]
    return _titled("Resume", ["Name the scope and why it is safe again: /resume all reason", "Engaged:", *which])


def stance_set(scope: str, stance: str, *, is_done: bool) -> str:
    when = "from now on" if is_done else "as soon as it is carried out: see /stance"
    return _titled(f"🎚 {_safe(scope)}: {_safe(stance)}", [f"It counts {when}."])


def stances(rows: Sequence[str]) -> str:
    """What counts otherwise than plans say."""
    return _titled("🎚 Stances", [_safe(row) for row in rows[:ROWS]] or ["none: plans are carried out as they say"])


def done(what: str, words: str) -> str:
    return _titled(what, [_safe(words, 1500)])


def cancelled(answers: Sequence[tuple[str, str]]) -> str:
    """For each order that was meant: which, and what came of it."""
    rows = [f"<code>{_safe(name)}</code>: {_safe(words)}" for name, words in answers]
    return _listed(f"Cancel: {counted_noun(len(rows), 'order')}", rows, none="no order is open")


def not_carried_out(command: str) -> str:
    return _titled("🚨 Not carried out", [f"{_safe(command)}: the store does not answer. Give it again."])


def muted(rows: Sequence[str]) -> str:
    """Kinds of notice that are left out for a time."""
    title = "🔕 Muted" if rows else "🔔 Nothing is muted"
    return _titled(title, [*(_safe(row) for row in rows), "Kills and orders in doubt are always told."])


def waiting_for_store(command: str) -> str:
    return _titled("⏳ Waiting", [f"{_safe(command)}: the store does not answer; it is tried on."])


def too_old(count: int) -> str:
    return _titled("Not carried out", [f"{counted_noun(count, 'command')} came too late; give again what still holds."])


def failed(command: str) -> str:
    return _titled("🚨 Failed", [f"{_safe(command)}: the log of the service says why."])


def unknown_command(word: str) -> str:
    return _titled("Unknown", [f"/{_safe(word, LONGEST_NAME)} is no command. /help"])


def usage(words: str) -> str:
    return _titled("How", [_safe(words)])


def stranger(*, user_id: int, name: str, chat_id: int) -> tuple[tuple[str, str], ...]:
    """The lines of the alert about somebody who may not command."""
    return (
        ("User", f"{shortened(name, LONGEST_NAME)} ({user_id})"),
        ("Chat", str(chat_id)),
        ("Answered", "no; nothing was carried out"),
        ("To do", "if it is one of you: TELEGRAM_ALLOWED_USERS and TELEGRAM_CHAT_ID; else nothing"),
    )
