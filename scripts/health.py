"""The rows of the status table: which parts are down, and which a person should look at. Pure decisions; nothing is
queried."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from execution_service.core.orders.status import Status
from execution_service.core.planning.stances import Stances
from execution_service.core.planning.targets import Aggressiveness
from execution_service.core.texts.switches import switch_words
from execution_service.storage.ports.leases import Lease
from execution_service.storage.ports.switches import KeptSwitch, UnreadableSwitch
from execution_service.storage.reader import BlockedExits, Unfinished
from scripts.display import counted

GRACE = timedelta(seconds=30)
"""Allowance for a take-over, for a notice about to be rewritten, and for clock differences between machines."""
RUNNING = "RUNNING"
"""The state that a service reports for a running part."""
MOST_SHOWN = 5
KILL_SWITCH = "kill switch"
MOST_ACCOUNTS_SHOWN = 20


class State(StrEnum):
    UP = "up"
    DOWN = "DOWN"
    """Something does not work, or only a person can resolve it: the exit status is 1."""
    LOOK = "look"
    """A person should look at it; it may be intended."""
    WAITING = "waiting"
    """In progress, and completes by itself."""
    IDLE = "idle"
    """Nothing to do at present."""
    OFF = "off"
    """Switched off by the operator."""


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    state: State
    detail: str

    @property
    def is_up(self) -> bool:
        return self.state is not State.DOWN

    @property
    def fields(self) -> Mapping[str, object]:
        return {"name": self.name, "state": self.state.value, "is_up": self.is_up, "detail": self.detail}


def up_or_down(is_up: bool) -> State:
    return State.UP if is_up else State.DOWN


def of_parts(reported: Mapping[str, Mapping[str, object]]) -> list[Part]:
    """One row for all long-running parts of a service, and one for each that has failed (DOWN while it is not
    running). No rows if the service does not report its parts."""
    if not reported:
        return []
    rows = [_part_row(name, part) for name, part in sorted(reported.items()) if part.get("last_failure")]
    running = sum(part.get("state") == RUNNING for part in reported.values())
    return [Part("parts", up_or_down(running == len(reported)), f"{running} of {len(reported)} run"), *rows]


def _part_row(name: str, part: Mapping[str, object]) -> Part:
    """A part that runs again is marked `look`: why it failed should be known, even if nothing was lost."""
    state, restarts, since = str(part.get("state")), part.get("restarts"), part.get("since")
    counted_restarts = "restarted once" if restarts == 1 else f"restarted {restarts} times"
    if state == RUNNING:
        words = f"{counted_restarts}, runs since {since}; the last failure"
    else:
        words = f"{state} since {since}, {counted_restarts} before; why"
    return Part(f"part {name}", State.LOOK if state == RUNNING else State.DOWN, f"{words}: {part.get('last_failure')}")


def of_orders(by_status: Mapping[str, int]) -> Part:
    """DOWN while any order is in doubt: only a person, or a later report by the broker, ends that."""
    counts = ", ".join(f"{n} {status}" for status, n in by_status.items()) or "none yet"
    if not by_status.get(Status.IN_DOUBT, 0):
        return Part("orders", State.UP, counts)
    return Part("orders", State.DOWN, f"{counts}; look at the broker, then execctl resolve")


def of_unworked_orders(unfinished: Iterable[Unfinished], worked: Collection[str], now: datetime) -> list[Part]:
    """One row, DOWN, if there are unfinished orders of accounts that no running service works; else none."""
    untended: dict[str, list[str]] = {}
    for order in unfinished:
        if order.account_id not in worked and now - order.received_at > GRACE:
            untended.setdefault(order.account_id, []).append(f"{order.order_id} {order.status.value}")
    if not untended:
        return []
    shown = [f"{account_id}: {_some(orders)}" for account_id, orders in sorted(untended.items())[:MOST_SHOWN]]
    more = f"; {len(untended) - MOST_SHOWN} accounts more" if len(untended) > MOST_SHOWN else ""
    advice = "no running service works these accounts: look at the broker, configure them again and start anew"
    return [Part("orders nobody works", State.DOWN, f"{'; '.join(shown)}{more}; {advice}")]


def of_idle_accounts(known: Iterable[str], held: Mapping[str, int], *, is_any_served: bool) -> list[Part]:
    """Rows for recorded accounts that no service works and that have no unfinished order.

    `held`: the number of open positions of each account that has any. `is_any_served`: accounts need not be configured.
    If they must be, unconfigured accounts without positions are not shown, and one with positions is marked, since
    nothing compares it.
    """
    accounts = sorted(known if is_any_served else held)
    shown = accounts if len(accounts) <= MOST_ACCOUNTS_SHOWN else [each for each in accounts if each in held]
    shown = shown[:MOST_ACCOUNTS_SHOWN]
    parts = [_at_rest(account_id, held.get(account_id, 0), is_any_served) for account_id in shown]
    left_out = len(accounts) - len(shown)
    return [*parts, *([Part("accounts at rest", State.IDLE, f"{left_out} more")] if left_out else [])]


def _at_rest(account_id: str, positions: int, is_any_served: bool) -> Part:
    holds = f"holds {counted(positions, 'open position')}" if positions else "holds nothing"
    if is_any_served:
        return Part(f"account {account_id}", State.IDLE, f"{holds}, no order at work")
    why = "no running service works it, and nobody compares its books with the broker's"
    return Part(f"account {account_id}", State.LOOK, f"{holds}; {why}")


def worked_accounts(accounts: Iterable[str], leases: Iterable[Lease], now: datetime) -> set[str]:
    """`accounts`: those of the service, if it is alone on its store. If several services share one: those with a
    recently renewed lease."""
    fresh = (lease.partition for lease in leases if lease.holder and now - lease.renewed_at <= GRACE)
    return {*accounts, *fresh}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + more


def of_discrepancies(count: int) -> Part:
    """Never DOWN: an intended one (your own position beside ours) stays open as long as it exists."""
    if not count:
        return Part("discrepancies", State.UP, "0 open")
    return Part("discrepancies", State.LOOK, f"{count} open; see execctl discrepancies")


def emergency_words(stances: Stances, now: datetime) -> list[str]:
    """One line for each scope in which only reductions pass at present."""
    words = [
        f"{record.scope}, set by {record.latest.by or 'nobody named'}: {record.latest.reason or 'no reason given'}"
        for record in stances.records
        if record.at(now) is Aggressiveness.EMERGENCY
    ]
    return [*words, *(f"{scope}, since its stance cannot be read" for scope in stances.doubtful)]


def of_stances(stances: Stances, now: datetime) -> list[Part]:
    """A row where plans are carried out otherwise than they say, and none elsewhere. Never DOWN: somebody meant it."""
    emergencies = [f"EMERGENCY: {words}" for words in emergency_words(stances, now)]
    tamer = [
        f"{each.scope} {each.at(now)}"
        for each in stances.records
        if each.at(now) not in (Aggressiveness.NORMAL, Aggressiveness.EMERGENCY)
    ]
    if not (emergencies or tamer):
        return []
    state = State.LOOK if emergencies else State.UP
    return [Part("stance", state, f"{_some([*emergencies, *tamer])}; see execctl stances")]


def engaged_words(kept: Sequence[KeptSwitch]) -> list[str]:
    """One line for each switch that stops something, or cannot be read."""
    words = []
    for each in kept:
        if isinstance(each, UnreadableSwitch):
            words.append(f"{each.key} (cannot be read, and counts as engaged: {each.reason})")
        elif each.switch.is_engaged:
            words.append(switch_words(each.switch))
    return words


def of_kill_switches(kept: Sequence[KeptSwitch]) -> list[Part]:
    """A row for all that are engaged, and none where nothing is stopped. Never DOWN: it stops because a person, or a rule of theirs, said so."""
    words = engaged_words(kept)
    return [Part(KILL_SWITCH, State.LOOK, f"ENGAGED: {'; '.join(words)}; see execctl switches")] if words else []


def of_alerts(waiting: BlockedExits) -> Part:
    """Never DOWN: alerts are sent automatically, and whether Telegram can be reached is another row."""
    count = _unsent(waiting)
    if not count:
        return Part("alerts not sent", State.UP, "0")
    orders = f"{waiting.untold_orders} about orders, {waiting.unsent_alerts} of no order"
    return Part("alerts not sent", State.WAITING, f"{count}: {orders}; of one order execctl order tells it")


def of_telegram(part: str, *, is_up: bool, waiting: BlockedExits | None) -> Part:
    """`part`: the bot's name, or why it could not be asked. Without a store the number of waiting alerts is unknown."""
    count = 0 if waiting is None else _unsent(waiting)
    waits = "" if waiting is None else f"; {count} to be sent" if count else "; nothing waits"
    return Part("Telegram", up_or_down(is_up), part + waits)


def _unsent(waiting: BlockedExits) -> int:
    return waiting.unsent_alerts + waiting.untold_orders
