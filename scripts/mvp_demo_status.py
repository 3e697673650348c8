"""Shows the health of every part in a table. Changes and starts nothing."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from execution_service.app.own_python import use_own_python

    use_own_python()

from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.cloud import pubsub_v1

from execution_service.app.clock import SystemClock
from execution_service.app.settings.loading import Settings
from execution_service.app.wiring import notifier_of
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.leases import Lease
from execution_service.storage.reader import BlockedExits, StoreReader
from notifications.base import NotificationFailed
from notifications.telegram import TelegramNotifier
from scripts.demo_gateway import GatewayFailed, left_gateway
from scripts.display import counted, new_console, print_json, print_table, table_time
from scripts.health import (
    KILL_SWITCH,
    MOST_ACCOUNTS_SHOWN,
    Part,
    State,
    of_alerts,
    of_discrepancies,
    of_idle_accounts,
    of_kill_switches,
    of_orders,
    of_parts,
    of_stances,
    of_telegram,
    of_unworked_orders,
    up_or_down,
    worked_accounts,
)
from scripts.locate import (
    HOW_TO_START,
    NotFound,
    Notice,
    pubsub_host,
    running_service,
    settings_or_exit,
    store_of,
    use_pubsub,
    view_of,
)

CALL_SECONDS = 4.0
MOCK = "MOCK"
"""The mock broker's name in the service's notice."""
EXIT_DOWN = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 only if no part is DOWN."""
    parser = argparse.ArgumentParser(description="Shows every part's health; exit status 0 only if all are up.")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(arguments)
    settings = settings_or_exit()
    notice = running_service(settings)
    stored, waiting = _store(settings, notice)
    stops = [part for part in stored if part.name == KILL_SWITCH]
    parts = [
        *stops,
        _process(settings, notice),
        *of_parts({} if notice is None else notice.parts),
        *_gateway(settings),
        *_safety(notice),
        *accounts_shown(notice),
        *(part for part in stored if part not in stops),
        *_pubsub(settings, notice),
        asyncio.run(_telegram(settings, waiting)),
        *_logs(settings),
    ]
    are_all_up = all(part.is_up for part in parts)
    if options.json:
        print_json({"up": are_all_up, "parts": [part.fields for part in parts]})
    else:
        rows = [(part.name, part.state.value, part.detail) for part in parts]
        print_table(new_console(), "Execution service", ("Part", "State", "Detail"), rows, prose=("Detail",))
    return 0 if are_all_up else EXIT_DOWN


def _process(settings: Settings, notice: Notice | None) -> Part:
    if notice is not None:
        return Part("service", State.UP, f"process {notice.pid}, ready")
    if (settings.data_dir / "endpoints.json").exists():
        return Part(
            "service", State.DOWN, f"the process that left its notice in {settings.data_dir} is dead: {HOW_TO_START}"
        )
    return Part("service", State.DOWN, f"none is ready on {settings.data_dir}: {HOW_TO_START}")


def _gateway(settings: Settings) -> list[Part]:
    """Only if the demo was started with one."""
    gateway = left_gateway(settings)
    if gateway is None:
        return []
    name = "simulated gateway"
    try:
        state = gateway.state()
    except GatewayFailed as exc:
        return [Part(name, State.DOWN, str(exc))]
    detail = (
        f"{gateway.broker}, process {gateway.pid}, {gateway.address}, {counted(state['orders'], 'order')} in its book"
    )
    if state.get("token_is_good") is False:
        return [Part(name, State.DOWN, f"{detail}; its access token is dead")]
    return [Part(name, State.UP, detail)]


def _safety(notice: Notice | None) -> list[Part]:
    """As the service reports it; nothing where there is no outside safety service."""
    if notice is None or notice.safety is None:
        return []
    return [Part("safety service", up_or_down(notice.safety["status"] == "OK"), notice.safety["message"] or "")]


def accounts_shown(notice: Notice | None) -> list[Part]:
    """As the service reports them, with what a person has to do. If there are many accounts, only those in trouble
    are named."""
    if notice is None:
        return []
    parts = [
        Part(
            f"account {account_id}",
            up_or_down(said["state"] == "CONNECTED"),
            f"{said['broker']} {said['state']}" + _why(said["trouble"]),
        )
        for account_id, said in notice.accounts.items()
    ]
    if len(parts) <= MOST_ACCOUNTS_SHOWN:
        return parts
    in_trouble = [part for part in parts if not part.is_up]
    return [Part("accounts", State.UP, f"{len(parts) - len(in_trouble)} of {len(parts)} CONNECTED"), *in_trouble]


def _why(trouble: str) -> str:
    return f": {trouble}" if trouble else ""


def _store(settings: Settings, notice: Notice | None) -> tuple[list[Part], BlockedExits | None]:
    """The store's rows, and the alerts waiting in it (None if they cannot be read)."""
    found = store_of(settings, notice)
    if found is None:
        return [Part("store", State.DOWN, "embedded, and runs with the service only")], None
    uri, database = found
    shown = uri if notice is not None and notice.mongodb_uri is not None else settings.printable()["MONGODB_URI"]
    try:
        view = view_of(found)
    except NotFound as exc:
        return [Part("store", State.DOWN, str(exc))], None
    try:
        began = time.monotonic()
        view.ping()
        milliseconds = (time.monotonic() - began) * 1000
        waiting = view.waiting()
        answers = Part("store", State.UP, f"{shown}, database {database}, answers in {milliseconds:.0f} ms")
        return [answers, *stored_parts(view, waiting, notice)], waiting
    except StoreUnavailable as exc:
        return [Part("store", State.DOWN, f"{shown}: {exc}")], None
    finally:
        view.close()


def stored_parts(view: StoreReader, waiting: BlockedExits, notice: Notice | None) -> list[Part]:
    """The rows from the store's records. Raises StoreUnavailable."""
    positions = view.ledgers(only_open=True)
    unfinished = view.unfinished()
    held = [lease for lease in view.leases() if lease.holder]
    now = SystemClock().now()
    is_alone = notice is not None and notice.mongodb_uri is not None
    worked = worked_accounts(notice.accounts if notice is not None and is_alone else (), held, now)
    busy = {*worked, *(order.account_id for order in unfinished)}
    return [
        *of_kill_switches(view.switches()),
        *of_stances(view.stances(), now),
        *([] if notice is None else _accounts_at_rest(notice, view.accounts(), busy, positions)),
        of_orders(waiting.by_status),
        *of_unworked_orders(unfinished, worked, now),
        Part("open positions", State.UP, str(len(positions))),
        Part(
            "unsettled records",
            State.UP,
            f"{waiting.unsettled}; unfinished, or with a confirmation or alert still to deliver",
        ),
        *([Part("leases", State.UP, _held_by(held))] if held else []),
        Part("commands waiting", State.UP, str(waiting.new_commands)),
        Part(
            "dead letters",
            State.UP,
            f"{waiting.dead_letters}" + ("; see execctl dead-letters" if waiting.dead_letters else ""),
        ),
        of_discrepancies(waiting.open_discrepancies),
        of_alerts(waiting),
    ]


def _accounts_at_rest(
    notice: Notice, known: Sequence[str], busy: Collection[str], positions: Sequence[LedgerEntry]
) -> list[Part]:
    """With the mock broker every name is an account, and is released after it has been idle for some time."""
    is_any_served = all(said["broker"] == MOCK for said in notice.accounts.values())
    at_rest = set(known) - set(busy) - set(notice.accounts)
    held = Counter(entry.key.account_id for entry in positions if entry.key.account_id in at_rest)
    return of_idle_accounts(at_rest, held, is_any_served=is_any_served)


def _held_by(held: Sequence[Lease]) -> str:
    counts = Counter(f"{lease.host} (process {lease.pid})" for lease in held)
    return ", ".join(f"{n} with {who}" for who, n in sorted(counts.items())) + "; see execctl leases"


def _pubsub(settings: Settings, notice: Notice | None) -> list[Part]:
    try:
        project = use_pubsub(settings, notice)
    except NotFound as exc:
        return [Part("Pub/Sub", State.DOWN, str(exc))]
    publisher, subscriber = pubsub_v1.PublisherClient(), pubsub_v1.SubscriberClient()
    confirmations = publisher.topic_path(project, settings.execution_confirmations_topic)
    orders = subscriber.subscription_path(project, settings.trading_orders_subscription)
    commands = subscriber.subscription_path(project, settings.order_commands_subscription)

    def topic() -> object:
        return publisher.get_topic(topic=confirmations, timeout=CALL_SECONDS, retry=None)

    def subscription(path: str) -> Callable[[], object]:
        return lambda: subscriber.get_subscription(subscription=path, timeout=CALL_SECONDS, retry=None)

    where = pubsub_host(settings, notice) or "Google"
    try:
        return [
            _asked("orders in", f"{orders} at {where}", subscription(orders)),
            _asked("commands in", f"{commands} at {where}", subscription(commands)),
            _asked("confirmations out", f"{confirmations} at {where}", topic),
        ]
    finally:
        publisher.stop()
        subscriber.close()


def _asked(name: str, what: str, ask: Callable[[], object]) -> Part:
    try:
        ask()
    except (GoogleAPICallError, RetryError) as exc:
        return Part(name, State.DOWN, f"{what}: {exc}")
    return Part(name, State.UP, what)


async def _telegram(settings: Settings, waiting: BlockedExits | None) -> Part:
    """Asks Telegram for the bot's name; sends nothing."""
    notifier = notifier_of(settings)
    if not isinstance(notifier, TelegramNotifier):
        return Part("Telegram", State.OFF, "TELEGRAM_ENABLED is not true")
    try:
        await notifier.start()
        return of_telegram(await notifier.check(), is_up=True, waiting=waiting)
    except NotificationFailed as exc:
        return of_telegram(str(exc), is_up=False, waiting=waiting)
    finally:
        await notifier.close()


def _logs(settings: Settings) -> list[Part]:
    return [
        _log(settings.log_dir / "execution_service.log", is_first=True),
        _log(settings.log_dir / "signal_processing.log"),
    ]


def _log(path: Path, *, is_first: bool = False) -> Part:
    """The service's own log exists from its start; that of the signals' journeys may come later."""
    name = f"log {path.name}"
    try:
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return Part(name, up_or_down(not is_first), f"{path}: not written yet")
    except OSError as exc:
        return Part(name, State.DOWN, f"{path}: {exc.strerror}")
    return Part(name, State.UP, f"{path}, last written {table_time(written)}")


if __name__ == "__main__":
    sys.exit(main())
