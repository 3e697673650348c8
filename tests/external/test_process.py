"""The real process from outside: starting, refusing to start, stopping, what it leaves on disk and what it never shows."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from execution_service.app import embedded
from execution_service.app import process as process_room
from execution_service.app.check import check
from execution_service.app.endings import CannotStart
from execution_service.app.own_servers import own_servers
from execution_service.app.process import serve
from execution_service.app.settings.loading import load_settings
from tests.external.service_process import (
    COMMANDS_TOPIC,
    CONFIRMATIONS_TOPIC,
    ORDERS_SUBSCRIPTION,
    ORDERS_TOPIC,
    PROGRAM,
    READY,
    Service,
    free_port,
    is_alive,
    make_orders,
    pubsub_server,
    wait_until_settled,
)
from tests.waits import wait_until

# What is ready at this moment, and no waiting, is just what these tests ask for.
pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning")

STOP_SECONDS = 10.0
TOKEN_CANARY = "7654321:AAcanary-bot-token-QZJXK"
PASSWORD_CANARY = "canary/pass:word?QZJXK"
QUOTED_PASSWORD = "canary%2Fpass%3Aword%3FQZJXK"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that only look."""
    with Service(tmp_path_factory.mktemp("running"), by_its_path=True) as service:
        service.start()
        yield service


def test_the_endpoints_are_named_for_the_owner_only_while_it_runs(running: Service) -> None:
    assert stat.S_IMODE(running.endpoints_path.stat().st_mode) == 0o600
    endpoints = running.endpoints()
    assert endpoints["pid"] == running.pid
    with running.database() as db, running.pubsub() as pubsub:
        assert db.command("ping")["ok"] == 1.0
        assert pubsub.pull(ORDERS_SUBSCRIPTION) == []


def test_a_second_service_on_the_same_data_refuses_with_one_sentence(running: Service) -> None:
    status, printed = running.run()
    assert status == 1
    (line,) = printed.strip().splitlines()
    assert "another execution service is running" in line
    assert running.exit_status() is None
    assert running.endpoints()["pid"] == running.pid


def test_check_beside_a_running_service_says_so(running: Service) -> None:
    status, printed = running.run("--check")
    assert status == 0, printed
    assert str(running.pid) in printed


def test_check_of_a_store_that_is_not_there_says_so(tmp_path: Path) -> None:
    status, printed = Service(tmp_path, MONGODB_URI=f"mongodb://127.0.0.1:{free_port()}/").run("--check")
    assert status == 2, printed
    assert "NO" in printed.split()
    assert "Topology" not in printed
    assert printed.lstrip().startswith("Execution service: what works")


@pytest.mark.parametrize("in_the_way", ["service.lock", "pubsub.log", "store.log"])
def test_a_data_folder_that_cannot_be_written_is_said_in_one_sentence(tmp_path: Path, in_the_way: str) -> None:
    service = Service(tmp_path)
    # Root may write in every folder: a folder where the file should be keeps it out too.
    (service.data_dir / in_the_way).mkdir(parents=True)
    words = f"the folder {service.data_dir} (DATA_DIR) cannot be used: Is a directory"
    status, printed = service.run()
    assert (status, printed.strip().splitlines()[-1]) == (1, f"Execution service cannot start: {words}")
    assert "Traceback" not in printed
    status, printed = service.run("--check")
    assert (status, "Traceback" in printed) == (2, False)
    assert "Is a directory" in printed


def test_a_data_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(embedded.EmbeddedPartFailed, match=r"\(DATA_DIR\) cannot be used: Permission denied"):
        embedded.make_private(tmp_path)


async def test_check_is_not_fooled_by_what_a_killed_service_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")
    monkeypatch.setattr(embedded, "STORE_PROGRAM", "no-such-store")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "endpoints.json").write_text('{"pid": 4194304}', encoding="utf-8")
    given = {"PUBSUB_EMULATOR_HOST": "127.0.0.1:1", "DATA_DIR": str(tmp_path), "HOME": str(tmp_path)}
    settings = load_settings(given, use_mock_broker=True, root=tmp_path)
    printed = io.StringIO()
    assert not await check(settings, Console(file=printed, width=200))
    assert "no-such-store" in printed.getvalue()
    assert "4194304" not in printed.getvalue()


def test_every_problem_of_the_configuration_is_listed_before_anything_starts(tmp_path: Path) -> None:
    service = Service(
        tmp_path,
        MONGODB_URI="postgres://example",
        ORDER_TIMEOUT_SECONDS="soon",
        PUBSUB_EMULATOR_HOST="nowhere",
        ACCOUNTS_FILE=str(tmp_path / "missing.toml"),
        MOCK_REJECTION_RATE="2",
        TELEGRAM_ENABLED="true",
    )
    status, printed = service.run()
    assert status == 2
    for name in (
        "MONGODB_URI",
        "ORDER_TIMEOUT_SECONDS",
        "PUBSUB_EMULATOR_HOST",
        "missing.toml",
        "MOCK_REJECTION_RATE",
        "TELEGRAM_BOT_TOKEN",
    ):
        assert name in printed
    assert "Traceback" not in printed
    assert not service.data_dir.exists()


def test_check_of_an_unconfigured_machine_works_from_any_folder_and_leaves_nothing_running(tmp_path: Path) -> None:
    service = Service(tmp_path)
    done = subprocess.run(
        [sys.executable, PROGRAM.name, "--check"],
        cwd=PROGRAM.parent,
        env=service.environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    printed = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, printed
    assert "NO" not in printed.split()
    assert not service.endpoints_path.exists()
    assert not service.book.orders()
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_with_orders_in_flight(tmp_path: Path, number: signal.Signals) -> None:
    asked = make_orders(40, seed=int(number))
    with Service(tmp_path, by_its_path=True, MOCK_FILL_DELAY_SECONDS="1", ORDER_TIMEOUT_SECONDS="0") as service:
        service.start(cwd=Path("/"))
        with service.pubsub() as pubsub:
            pubsub.publish(asked)
        wait_until(lambda: service.book.working() > 0, "orders are working at the broker")
        family = service.family()
        status, seconds = service.stop(number)
        assert (status, seconds < STOP_SECONDS) == (0, True), f"{status} after {seconds} s\n{service.console()}"
        assert not any(is_alive(member) for member in family)
        assert not service.endpoints_path.exists()
        assert service.console().rstrip().endswith("Execution service stopped")
        assert "Traceback" not in service.console()
        if number is signal.SIGTERM:  # once is enough
            service.start()
            wait_until_settled(service, len(asked))
            assert service.book.placed() == service.book.filled() == len(asked)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.start()
        family = service.family()
        service.send(signal.SIGTERM)
        wait_until(lambda: "Execution service stops" in service.console(), "it has heard the first", pause=0.002)
        status, _ = service.stop(signal.SIGTERM)
        assert status != 0, "it has stopped in order"
        wait_until(lambda: not any(is_alive(member) for member in family), "its children have gone with it")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell what a process catches")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("python", "arguments"),
    [((), ()), (("-S",), ()), ((), ("--check",)), (("-S",), ("--check",))],
    ids=["service", "python-without-libraries", "check", "check-without-libraries"],
)
def test_a_signal_before_it_is_up_ends_it_at_once(
    tmp_path: Path, python: tuple[str, ...], arguments: tuple[str, ...], number: signal.Signals
) -> None:
    """With status 0; but a check that did not come to its end has not said that all works."""
    service = Service(tmp_path)
    expected = 128 + number if arguments else 0
    for pause in (0.0, 0.2, 0.6):
        process = subprocess.Popen(
            [sys.executable, *python, str(PROGRAM), *arguments],
            env=service.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda p=process: is_caught(p.pid, number), "it catches the signal", pause=0.001)  # type: ignore[misc]
            time.sleep(pause)
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
            printed, _ = process.communicate(timeout=STOP_SECONDS)
        finally:
            process.kill()
        assert (process.returncode, b"Traceback" in printed) == (expected, False), printed.decode()
        wait_until(lambda f=family: not any(is_alive(member) for member in f), "its children end too")  # type: ignore[misc]


def is_caught(pid: int, number: signal.Signals) -> bool:
    """Whether the process, loading nothing of size yet, has a handler for it."""
    assert "pydantic" not in Path(f"/proc/{pid}/maps").read_text(), "libraries are loaded, and it is not caught yet"
    caught = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())
    is_default_interrupt = number is signal.SIGINT and not is_caught(pid, signal.SIGTERM)  # Python's own
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1) and not is_default_interrupt


def test_a_signal_while_it_waits_for_its_store_ends_it_with_status_0(tmp_path: Path) -> None:
    with Service(tmp_path, MONGODB_URI=f"mongodb://127.0.0.1:{free_port()}/") as service:
        service.launch()
        wait_until(lambda: "Waiting for the store" in service.console(), "it says that it waits", more=service.console)
        status, seconds = service.stop()
        assert (status, seconds < STOP_SECONDS) == (0, True), f"{status} after {seconds} s\n{service.console()}"


async def test_a_store_that_is_not_there_is_waited_for_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_room, "START_SECONDS", 4.0)
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")
    port = free_port()
    given = {
        "MONGODB_URI": f"mongodb://127.0.0.1:{port}/",
        "PUBSUB_EMULATOR_HOST": "127.0.0.1:1",
        "DATA_DIR": str(tmp_path),
        "HOME": str(tmp_path),
        "API_PORT": "0",
    }
    settings = load_settings(given, use_mock_broker=True, root=tmp_path)
    async with own_servers(settings) as servers:
        with pytest.raises(CannotStart, match=f"the store could not be reached for 4 s: .*{port}") as raised:
            async with asyncio.timeout(30):
                await serve(settings, servers, lambda _: None)
    assert "trading-orders-sub) could not be reached" in str(raised.value), "all that is missing is named at once"


@pytest.mark.parametrize(
    ("missing", "topics", "subscriptions"),
    [
        (
            f"projects/mathematricks-trader/topics/{CONFIRMATIONS_TOPIC}",
            (ORDERS_TOPIC, COMMANDS_TOPIC),
            (f"{ORDERS_TOPIC}-sub={ORDERS_TOPIC}", f"{COMMANDS_TOPIC}-sub={COMMANDS_TOPIC}"),
        ),
        (
            f"projects/mathematricks-trader/subscriptions/{ORDERS_TOPIC}-sub",
            (ORDERS_TOPIC, COMMANDS_TOPIC, CONFIRMATIONS_TOPIC),
            (f"{COMMANDS_TOPIC}-sub={COMMANDS_TOPIC}",),
        ),
    ],
    ids=["topic", "subscription"],
)
def test_what_is_missing_at_pubsub_is_named(
    tmp_path: Path, missing: str, topics: tuple[str, ...], subscriptions: tuple[str, ...]
) -> None:
    with pubsub_server(tmp_path, topics=topics, subscriptions=subscriptions) as server:
        service = Service(tmp_path, PUBSUB_EMULATOR_HOST=f"127.0.0.1:{server.port}")
        status, printed = service.run()
        assert status == 1
        assert missing in printed.strip().splitlines()[-1]
        assert "Traceback" not in printed
        if "topics" in missing:  # once is enough
            status, table = service.run("--check")
            assert status == 2
            assert "NO" in table.split()


# --- logs -----------------------------------------------------------------------------------------------------------


def trade_one(service: Service) -> None:
    with service.pubsub() as pubsub:
        pubsub.publish(make_orders(1, seed=5))
    wait_until_settled(service, 1)


def test_a_console_that_is_the_log_file_is_not_written_twice(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.log_dir.mkdir()
        output = service.log_dir / "execution_service.log"
        service.start(output=output)
        trade_one(service)
        lines = [line for line in service.log().splitlines() if " | [EXECUTION] | " in line]
    assert sum(READY in line for line in lines) == 1
    assert sum("Order filled" in line for line in lines) == 1
    assert len(lines) == len(set(lines))


def test_a_log_folder_that_cannot_be_made_stops_no_trading(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.log_dir.write_text("a file stands where the folder should be", encoding="utf-8")
        service.start()
        trade_one(service)
        assert "Cannot write the log" in service.console()
        assert "Order filled" in service.console()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_the_logs_stops_no_trading(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.log_dir.mkdir()
        for name in ("execution_service.log", "signal_processing.log"):
            (service.log_dir / name).symlink_to("/dev/full")
        service.start()
        trade_one(service)
        wait_until(lambda: "No space left on device" in service.console(), "it says so on the console")
        assert "Order filled" in service.console()


# --- secrets --------------------------------------------------------------------------------------------------------


def test_no_secret_is_ever_shown(tmp_path: Path) -> None:
    """Neither while it trades with a Telegram that is not there nor while its store refuses it, and talking as much as it can."""
    chatty = {
        "LOG_LEVEL": "DEBUG",
        "TELEGRAM_ENABLED": "true",
        "TELEGRAM_BOT_TOKEN": TOKEN_CANARY,
        "TELEGRAM_CHAT_ID": "1",
        "TELEGRAM_API_BASE_URL": f"http://127.0.0.1:{free_port()}",
    }
    trading = Service(tmp_path / "trading", by_its_path=True, **chatty)
    address = f"mongodb://someone:{QUOTED_PASSWORD}@127.0.0.1:{free_port()}/?serverSelectionTimeoutMS=500"
    waiting = Service(tmp_path / "waiting", by_its_path=True, **chatty, MONGODB_URI=address)
    shown: list[str] = []
    with trading, waiting:
        waiting.launch()
        trading.start()
        with trading.pubsub() as pubsub:
            pubsub.publish(make_orders(1, seed=5))
        wait_until(lambda: "Order filled" in trading.console(), "it trades")
        wait_until(lambda: "elegram" in trading.console(), "it tells that Telegram is not there", more=trading.console)
        shown.append(trading.endpoints_path.read_text(encoding="utf-8"))
        wait_until(lambda: "Waiting for the store" in waiting.console(), "it waits", more=waiting.console)
        for member in (*trading.family(), *waiting.family()):
            shown += member.cmdline()
        shown += [*waiting.run("--check")[1:], trading.console(), waiting.console()]
        assert trading.stop()[0] == waiting.stop()[0] == 0
    kept = [path for place in (trading, waiting) for path in place.folder.rglob("*") if path.is_file()]
    assert any(path.name == "execution_service.log" for path in kept)
    for secret in (TOKEN_CANARY, PASSWORD_CANARY, QUOTED_PASSWORD, TOKEN_CANARY.partition(":")[2]):
        assert not [text for text in shown if secret in text]
        assert not [path for path in kept if secret.encode() in path.read_bytes()]


def test_what_it_writes_is_for_its_owner_only(running: Service) -> None:
    readable = [
        path
        for folder in (running.data_dir, running.log_dir)
        for path in (folder, *folder.iterdir())
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) and path.parent.stat().st_mode & stat.S_IRWXO
    ]
    assert readable == [], os.listdir(running.folder)
