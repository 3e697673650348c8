"""`--check`: connects to everything once and prints what works and what does not; places nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from brokers.base import Broker, DescribesQuotes, TellsQuotes
from brokers.errors import AnswerUnclear, BrokerError
from brokers.factory import BrokerFactory
from brokers.registry import manifests
from execution_service.app.embedded import AlreadyRunning, EmbeddedPartFailed
from execution_service.app.endings import CannotStart
from execution_service.app.log import silence
from execution_service.app.log_lines import safe
from execution_service.app.notice import ENDPOINTS, endpoints_writer
from execution_service.app.settings.accounts import Account
from execution_service.app.settings.loading import Settings
from execution_service.app.wiring import World, notifier_of, real_world
from execution_service.core.planning.targets import Mode
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.transport.ports import PublishFailed, TopicMissing
from notifications.base import NotificationFailed
from notifications.telegram import TelegramNotifier

CALL_SECONDS = 20.0
QUOTES_SECONDS = 8.0
EMBEDDED = "store and Pub/Sub"


@dataclass(frozen=True, slots=True)
class Finding:
    part: str
    works: bool
    detail: str


async def check(settings: Settings, console: Console | None = None) -> bool:
    """Prints the table of what was tried; True if all works."""
    with silence():
        findings = await _findings(settings)
    _show(findings, console or Console())
    return all(finding.works for finding in findings)


async def _findings(settings: Settings) -> list[Finding]:
    findings = [_log_folder(settings)]
    try:
        async with real_world(settings) as world:
            findings += await _connections(settings, world)
    except AlreadyRunning as exc:
        findings.append(_running_service(settings, exc))
    except CannotStart as exc:
        findings.append(Finding("store and Pub/Sub", False, str(exc)))
    except EmbeddedPartFailed as exc:
        findings.append(Finding(EMBEDDED, False, str(exc)))
    if settings.use_mock_broker and not settings.accounts:
        findings.append(Finding("accounts", True, "every account is served by the mock broker"))
    elif not settings.accounts:
        findings.append(
            Finding(
                "accounts",
                False,
                "none configured: every order will be rejected. Copy accounts.example.toml to "
                f"{settings.accounts_file.name} and fill it in, or start with --use-mock-broker",
            )
        )
    findings += [await account_finding(settings.account(a) or account) for a, account in settings.accounts.items()]
    findings.append(await _telegram(settings))
    findings += [Finding("settings", True, f"note: {warning}") for warning in settings.warnings]
    return findings


def _show(findings: list[Finding], console: Console) -> None:
    table = Table(title="Execution service: what works")
    for column in ("Part", "Works", "Detail"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        # Text, not markup: a broker's words are shown as they are.
        verdict = Text("yes", style="green") if finding.works else Text("NO", style="red")
        table.add_row(Text(safe(finding.part)), verdict, Text(safe(finding.detail)))
    console.print(table)


async def _connections(settings: Settings, world: World) -> list[Finding]:
    where = settings.printable()["MONGODB_URI"] if settings.mongodb_uri is not None else "embedded store"
    found = [await _tried("store", f"{where}, database {settings.mongodb_database}", world.parts.store.open)]
    for name, part in (
        ("orders in", world.orders),
        ("commands in", world.commands),
        ("confirmations out", world.publisher),
    ):
        found.append(await _tried(name, part.path, part.check))
    found += [await _tried("events", part.path, part.check) for part in world.parts.events.topics]
    if world.parts.events.redis is not None:
        found.append(await _tried("events on Redis", "Redis Streams", world.parts.events.redis.check))
    return found


async def _tried(part: str, detail: str, call: Callable[[], Awaitable[None]]) -> Finding:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            await call()
    except (StoreUnavailable, PublishFailed, TopicMissing) as exc:
        return Finding(part, False, str(exc))
    except TimeoutError:
        return Finding(part, False, f"{detail}: no answer within {CALL_SECONDS:.0f} s")
    return Finding(part, True, detail)


def _log_folder(settings: Settings) -> Finding:
    probe = settings.log_dir / ".write-test"
    try:
        settings.log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as exc:
        return Finding("logs", False, f"{settings.log_dir}: {exc.strerror}; the service would log to the console only")
    return Finding("logs", True, str(settings.log_dir))


def _running_service(settings: Settings, exc: AlreadyRunning) -> Finding:
    """The embedded parts belong to one process: if a service runs on them, they work."""
    pid = endpoints_writer(settings.data_dir / ENDPOINTS)
    if pid is None:
        return Finding(EMBEDDED, False, f"{exc} (it is starting or stopping)")
    return Finding(EMBEDDED, True, f"in use by the running service (process {pid})")


async def account_finding(account: Account) -> Finding:
    """Whether it answers, what it may trade, and what is missing, with what to do about it."""
    part = f"account {account.account_id}"
    try:
        broker = BrokerFactory.create_broker(account.config)
    except (BrokerError, ValueError) as exc:
        return Finding(part, False, str(exc))
    try:
        async with asyncio.timeout(CALL_SECONDS):
            await broker.connect()
            balances = await broker.balances()
            able = broker.capabilities
        quotes = await _quotes_in_words(broker)
    except AnswerUnclear as exc:
        return Finding(part, False, f"{account.broker}: its answer cannot be read ({exc})")
    except (BrokerError, TimeoutError) as exc:
        return Finding(part, False, f"{account.broker}: {exc or 'no answer in time'}{_remedy(account, exc)}")
    except Exception as exc:  # noqa: BLE001  the other accounts are to be shown, too
        words = f"its answer cannot be read ({type(exc).__name__}: {exc})"
        return Finding(part, False, f"{account.broker}: {words}")
    finally:
        with contextlib.suppress(BrokerError, TimeoutError):
            await asyncio.wait_for(broker.close(), CALL_SECONDS)
    if able.is_paper is False and not account.live:
        words = (
            "live = false, but the broker's account is a real one: the service would send nothing. Set live = true, or "
        )
        return Finding(part, False, f"{broker.name}: {words}name the paper account")
    money = ", ".join(f"{b.cash:,.2f} {b.currency}" for b in balances) or "no balances shown"
    trades = f"Trades {_listed(able.asset_classes)}; {_listed(able.order_types)}; {_listed(able.tifs)}."
    notes = " ".join(words for words in (quotes, *able.notes) if words)
    if able.is_paper and account.live:
        notes += " live = true, but the broker's account is one for practice."
    kind = "LIVE" if account.live else "paper" if account.mode is Mode.PRODUCTION else account.mode.value
    return Finding(part, True, f"{broker.name}, {kind}, {account.name}: {money}. {trades} {notes}".strip())


async def _quotes_in_words(broker: Broker) -> str:
    """Which prices the account is told. A failure here says nothing about the account."""
    if not isinstance(broker, TellsQuotes):
        return "It tells no quotes."
    if not isinstance(broker, DescribesQuotes):
        return ""
    try:
        async with asyncio.timeout(QUOTES_SECONDS):
            return await broker.quotes_in_words()
    except Exception as exc:  # noqa: BLE001  it trades without
        return f"Quotes: none now ({exc or 'no answer in time'})."


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(str(word) for word in words))


def _remedy(account: Account, exc: Exception) -> str:
    """What a person can do, where the error's own words do not say it."""
    words = manifests()[account.broker].remedy(account.config, exc)
    return f". {words}" if words else ""


async def _telegram(settings: Settings) -> Finding:
    notifier = notifier_of(settings)
    if not isinstance(notifier, TelegramNotifier):
        return Finding("Telegram", True, "off (TELEGRAM_ENABLED is not true)")
    try:
        await notifier.start()
        return Finding("Telegram", True, await notifier.check())
    except NotificationFailed as exc:
        return Finding("Telegram", False, str(exc))
    finally:
        await notifier.close()
