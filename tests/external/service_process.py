"""The real service as a process of its own, and what stands around it: orders in, confirmations out, store, book, children. No tests here."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pymongo
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import pubsub_v1

from execution_service.app.settings.model import secret_names, setting_names
from tests.external.forked import REPOSITORY, Forked, can_be_forked
from tests.waits import wait_until

T = TypeVar("T")

PROGRAM = REPOSITORY / "execution_service" / "execution_main.py"
PROJECT = "mathematricks-trader"
DATABASE = "mathematricks_trading"
READY = "Execution service ready"
ORDERS_TOPIC = "trading-orders"
COMMANDS_TOPIC = "order-commands"
CONFIRMATIONS_TOPIC = "execution-confirmations"
ORDERS_SUBSCRIPTION = "trading-orders-sub"
CONFIRMATIONS_SUBSCRIPTION = "execution-confirmations-sub"
START_SECONDS = 40.0
CALL_SECONDS = 10.0

_NAMING = threading.Lock()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_alive(process: psutil.Process) -> bool:
    """Still running; a zombie is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """As they are at this moment; none of a process that is gone."""
    while True:
        try:
            return process.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        except FileNotFoundError:
            # psutil lets this through where a process ends while it is looked at and another is given its number: on the next look it is that one.
            continue


def text_of(path: Path) -> str:
    """What a process writes there; nothing before it has begun, or while it moves the file aside."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def end(processes: Sequence[psutil.Process]) -> None:
    """Kills what is left of these, stopped ones too."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for process in processes:
        # psutil lets FileNotFoundError through where a process ends while it is waited for.
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired, FileNotFoundError):
            process.wait(timeout=5)


# --- the service ----------------------------------------------------------------------------------------------------


class Service:
    """One place (data, logs, settings) and the service processes that live there one after the other. A process is forked from one that has
    the libraries loaded, or, with `by_its_path`, started as people do, which costs three times as much."""

    def __init__(self, folder: Path, *, program: Path = PROGRAM, by_its_path: bool = False, **settings: str) -> None:
        self.folder = folder
        self.program = program
        self.by_its_path = by_its_path
        self.data_dir = folder / "data"
        self.log_dir = folder / "logs"
        self.console_path = folder / "console.txt"
        self.settings = settings
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self._ever: dict[int, psutil.Process] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def environment(self) -> dict[str, str]:
        """Nothing of whoever runs the tests but the way to the programs."""
        ours = {*setting_names(), *(f"{name}_FILE" for name in secret_names()), "GOOGLE_APPLICATION_CREDENTIALS"}
        # Another thread may take a variable out meanwhile.
        kept = {n: value for n in list(os.environ) if n not in ours and (value := os.environ.get(n)) is not None}
        usual = {
            "HOME": str(self.folder),
            # Else the repository's own .env would be obeyed, and with it the store of whoever trades from here.
            "ENV_FILE": os.devnull,
            "CLOUDSDK_CONFIG": str(self.folder / "gcloud"),
            "DATA_DIR": str(self.data_dir),
            "LOG_DIR": str(self.log_dir),
            "USE_MOCK_BROKER": "true",
            "TELEGRAM_ENABLED": "false",
            "API_PORT": "0",
            # A process less to start for each test; those of the API have it.
            "API_OWN_PROCESS": "false",
            "PYTHONUNBUFFERED": "1",
        }
        return kept | usual | self.settings

    def launch(self, *arguments: str, cwd: Path | None = None, output: Path | None = None) -> None:
        """Starts the process and does not wait."""
        assert self.process is None or self.process.poll() is not None, "one life after the other"
        environment, folder, sink = self.environment(), cwd or self.folder, output or self.console_path
        if self.by_its_path or not can_be_forked(environment):
            self.process = self._started(arguments, environment, folder, sink)
        else:
            self.process = Forked(self.program, arguments, environment=environment, folder=folder, out=sink, err=sink)
        self._ever[self.process.pid] = psutil.Process(self.process.pid)

    def _started(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path
    ) -> subprocess.Popen[bytes]:
        with open(output, "ab") as sink:
            return subprocess.Popen(
                [sys.executable, str(self.program), *arguments],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self, *arguments: str, cwd: Path | None = None, output: Path | None = None) -> None:
        """Starts the process and waits until it says that it is ready."""
        seen = self.console(output).count(READY)
        self.launch(*arguments, cwd=cwd, output=output)
        wait_until(
            lambda: self.console(output).count(READY) > seen or self.exit_status() is not None,
            "the service is ready",
            within=START_SECONDS,
            pause=0.02,
            more=lambda: self.console(output),
        )
        assert self.exit_status() is None, self.console(output)
        self.family()

    def run(self, *arguments: str, within: float = START_SECONDS) -> tuple[int, str]:
        """A whole life that ends by itself: exit status and all that it printed."""
        done = subprocess.run(
            [sys.executable, str(self.program), *arguments],
            env=self.environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=within,
            check=False,
        )
        return done.returncode, done.stdout.decode()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def exit_status(self) -> int | None:
        return None if self.process is None else self.process.poll()

    def console(self, output: Path | None = None) -> str:
        return text_of(output or self.console_path)

    def log(self, name: str = "execution_service.log") -> str:
        return text_of(self.log_dir / name)

    def family(self) -> list[psutil.Process]:
        """The process's descendants as they are now."""
        try:
            members = descendants(psutil.Process(self.pid))
        except psutil.NoSuchProcess:
            return []
        self._ever |= {member.pid: member for member in members}
        return members

    def kill(self) -> None:
        """kill -9 of the service itself; its children are not touched."""
        assert self.process is not None
        self.family()
        self.process.kill()
        self.process.wait()

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM, *, within: float = 20.0) -> tuple[int, float]:
        """Sends the signal; exit status and how many seconds it took."""
        assert self.process is not None
        self.family()
        began = time.monotonic()
        self.send(number)
        status = self.process.wait(within)
        return status, time.monotonic() - began

    def end(self) -> None:
        """Leaves nothing running, whatever state it is in."""
        if self.process is not None and self.process.poll() is None:
            self.family()
            self.process.kill()
            self.process.wait()
        end(list(self._ever.values()))

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # What stands around it

    @property
    def endpoints_path(self) -> Path:
        return self.data_dir / "endpoints.json"

    def endpoints(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self.endpoints_path.read_text(encoding="utf-8"))
        return found

    @property
    def store_port(self) -> int:
        return int(str(self.endpoints()["mongodb_uri"]).split(":")[2].split("/")[0])

    @property
    def pubsub_port(self) -> int:
        return int(str(self.endpoints()["pubsub_emulator_host"]).rpartition(":")[2])

    @property
    def book(self) -> Book:
        return Book(self.data_dir / "mock_broker.db")

    @contextlib.contextmanager
    def database(self) -> Iterator[pymongo.database.Database[dict[str, Any]]]:
        """The store of the present life."""
        with database(self.settings.get("MONGODB_URI") or self.endpoints()["mongodb_uri"]) as found:
            yield found

    @contextlib.contextmanager
    def pubsub(self) -> Iterator[PubSub]:
        """Pub/Sub of the present life."""
        with PubSub(str(self.endpoints()["pubsub_emulator_host"])) as found:
            yield found


@contextlib.contextmanager
def database(uri: str) -> Iterator[pymongo.database.Database[dict[str, Any]]]:
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
        uri, tz_aware=True, serverSelectionTimeoutMS=5000, socketTimeoutMS=10000
    )
    try:
        yield client[DATABASE]
    finally:
        client.close()


# --- the mock broker's book -----------------------------------------------------------------------------------------


class Book:
    """What the mock broker truly has, read beside the running service."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, question: str) -> list[tuple[Any, ...]]:
        """No rows before there is a book."""
        if not self._path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=5.0)) as db:
            try:
                return db.execute(question).fetchall()
            except sqlite3.OperationalError as exc:
                if "no such table" in str(exc):
                    return []
                raise

    def _count(self, question: str) -> int:
        rows = self.ask(question)
        return int(rows[0][0]) if rows else 0

    def placed(self) -> int:
        return self._count("SELECT COUNT(*) FROM orders")

    def working(self) -> int:
        return self._count("SELECT COUNT(*) FROM orders WHERE status = 'WORKING'")

    def filled(self) -> int:
        return self._count("SELECT COUNT(*) FROM orders WHERE status = 'FILLED'")

    def orders(self) -> list[BookOrder]:
        fills: dict[int, dict[str, tuple[Decimal, Decimal]]] = {}
        for number, fill_id, quantity, price in self.ask("SELECT order_number, fill_id, quantity, price FROM fills"):
            fills.setdefault(number, {})[fill_id] = (Decimal(quantity), Decimal(price))
        rows = self.ask(
            "SELECT number, client_id, broker_id, account, symbol, side, quantity, status FROM orders ORDER BY number"
        )
        return [
            BookOrder(client_id, broker_id, account, symbol, side, Decimal(quantity), status, fills.get(number, {}))
            for number, client_id, broker_id, account, symbol, side, quantity, status in rows
        ]


@dataclass(frozen=True, slots=True)
class BookOrder:
    client_order_id: str
    broker_order_id: str
    account_id: str
    symbol: str
    side: str
    quantity: Decimal
    status: str
    fills: Mapping[str, tuple[Decimal, Decimal]]
    """Quantity and price by fill id."""


# --- Pub/Sub --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Confirmation:
    attributes: Mapping[str, str]
    body: Mapping[str, Any]


class PubSub:
    """Google's own clients at one address."""

    def __init__(self, address: str) -> None:
        with _NAMING:
            before = os.environ.get("PUBSUB_EMULATOR_HOST")
            os.environ["PUBSUB_EMULATOR_HOST"] = address  # the clients look there and nowhere else
            try:
                self.publisher = pubsub_v1.PublisherClient()
                self.subscriber = pubsub_v1.SubscriberClient()
            finally:
                if before is None:
                    del os.environ["PUBSUB_EMULATOR_HOST"]
                else:
                    os.environ["PUBSUB_EMULATOR_HOST"] = before

    def publish(self, bodies: Sequence[Mapping[str, Any]], topic: str = ORDERS_TOPIC) -> list[str]:
        """Returns when Pub/Sub has confirmed all of them."""
        path = self.publisher.topic_path(PROJECT, topic)
        futures = [self.publisher.publish(path, json.dumps(body).encode()) for body in bodies]
        # All clients of one process share a connection, which after an outage is tried again only now and then.
        return [future.result(3 * CALL_SECONDS) for future in futures]

    def pull(self, subscription: str = CONFIRMATIONS_SUBSCRIPTION, *, acknowledges: bool = True) -> list[Any]:
        """What is there at this moment."""
        path = self.subscriber.subscription_path(PROJECT, subscription)
        request = {"subscription": path, "max_messages": 1000, "return_immediately": True}
        received = list(self.subscriber.pull(request=request, timeout=CALL_SECONDS, retry=None).received_messages)
        if received and acknowledges:
            ack_ids = [each.ack_id for each in received]
            self.subscriber.acknowledge(subscription=path, ack_ids=ack_ids, timeout=CALL_SECONDS, retry=None)
        return received

    def close(self) -> None:
        self.publisher.stop()
        self.publisher.transport.close()
        self.subscriber.close()

    def __enter__(self) -> PubSub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Listener:
    """Collects the confirmations of one service over all its lives."""

    def __init__(self, address: Callable[[], str | None]) -> None:
        self._address = address
        self._ended = threading.Event()
        self._received: list[Confirmation] = []
        self._thread = threading.Thread(target=self._listen, name="confirmations", daemon=True)

    @property
    def received(self) -> list[Confirmation]:
        return list(self._received)

    def ended_signals(self) -> set[str]:
        """Those with a confirmation of an order's end."""
        final = ("FILLED", "REJECTED", "CANCELLED", "EXPIRED")
        return {c.body["signal_id"] for c in self.received if c.body["status"] in final}

    def _listen(self) -> None:
        client: PubSub | None = None
        known: str | None = None
        while not self._ended.is_set():
            address = self._address()
            try:
                if address != known or client is None:
                    if client is not None:
                        client.close()
                    client, known = (None if address is None else PubSub(address)), address
                messages = [] if client is None else client.pull()
            except GoogleAPICallError:
                messages = []  # nobody there just now
            for message in messages:
                body = json.loads(message.message.data)
                self._received.append(Confirmation(dict(message.message.attributes), body))
            if not messages:
                self._ended.wait(0.05)
        if client is not None:
            client.close()

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(2 * CALL_SECONDS)
        assert not self._thread.is_alive()


def embedded_address(service: Service) -> Callable[[], str | None]:
    """Where the service's own Pub/Sub is at this moment; None while it has none."""

    def address() -> str | None:
        try:
            return str(service.endpoints()["pubsub_emulator_host"])
        except FileNotFoundError:
            return None

    return address


# --- servers that a test owns ---------------------------------------------------------------------------------------


def wide_limits(folder: Path) -> Path:
    """A file of risk limits for stages whose orders are no story of one market: their prices differ widely, and refusals follow each other."""
    path = folder / "risk.toml"
    path.write_text('[defaults]\nprice_collar_pct = "off"\nmax_consecutive_rejections = "off"\n', encoding="utf-8")
    return path


class Server:
    """A program on a fixed port that can be frozen, killed and started again on the same data."""

    def __init__(self, name: str, command: Sequence[str], port: int, log: Path) -> None:
        self.port = port
        self._name = name
        self._command = list(command)
        self._log = log
        self.process: psutil.Popen | None = None

    def start(self) -> None:
        with open(self._log, "ab") as sink:
            self.process = psutil.Popen(
                self._command,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        wait_until(
            lambda: is_listening(self.port),
            f"{self._name} listens",
            within=START_SECONDS,
            more=lambda: text_of(self._log),
        )

    def freeze(self) -> None:
        assert self.process is not None
        self.process.suspend()

    def thaw(self) -> None:
        assert self.process is not None
        self.process.resume()

    def kill(self) -> None:
        assert self.process is not None
        end([*descendants(self.process), self.process])
        self.process.wait()
        self.process = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.kill()


def store_server(folder: Path, *arguments: str) -> Server:
    """SecantusDB, durable at each commit."""
    port = free_port()
    program = shutil.which("secantusd-py", path=str(Path(sys.executable).parent))
    assert program is not None, "secantusdb is not installed"
    command = [program, "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(folder / "own-store")]
    return Server(
        "the store",
        [*command, "--sync-on-commit", "--log-level", "WARNING", *arguments],
        port,
        folder / "own-store.log",
    )


def pubsub_server(folder: Path, *, topics: Sequence[str] = (), subscriptions: Sequence[str] | None = None) -> Server:
    """Our Pub/Sub server; with all that the service needs, unless told otherwise. `subscriptions`: NAME=TOPIC."""
    port = free_port()
    command = [sys.executable, "-m", "simulators.pubsub", "--port", str(port), "--data", str(folder / "own-pubsub.db")]
    command += ["--project", PROJECT]
    for topic in topics or (ORDERS_TOPIC, COMMANDS_TOPIC, CONFIRMATIONS_TOPIC):
        command += ["--topic", topic]
    usual = [f"{name}-sub={name}" for name in (ORDERS_TOPIC, COMMANDS_TOPIC, CONFIRMATIONS_TOPIC)]
    for pair in usual if subscriptions is None else subscriptions:
        command += ["--subscription", pair]
    return Server("Pub/Sub", command, port, folder / "own-pubsub.log")


# --- orders ---------------------------------------------------------------------------------------------------------

PRICES = {"SPY": "235.15", "AAPL": "189.37", "MSFT": "401.02", "QQQ": "350.55", "IWM": "198.41"}


def make_orders(count: int, *, seed: int, first: int = 0) -> list[dict[str, Any]]:
    """Market and limit orders, both sides, of several symbols, accounts and strategies; the same for the same seed."""
    luck = random.Random(seed)
    orders = []
    for number in range(first, first + count):
        symbol = luck.choice(sorted(PRICES))
        order_type = luck.choice(("MARKET", "LIMIT"))
        body: dict[str, Any] = {
            "signal_id": f"sig_{seed}_{number:04d}",
            "order_type": order_type,
            "symbol": symbol,
            "side": luck.choice(("BUY", "SELL")),
            "quantity": luck.randint(2, 200),
            "account_id": luck.choice(("acc_one", "acc_two")),
            "strategy_name": luck.choice(("Trend", "Carry")),
        }
        if order_type == "LIMIT":
            body["limit_price"] = PRICES[symbol]
        orders.append(body)
    return orders


# --- what must be true in the end -----------------------------------------------------------------------------------


def unsettled(db: pymongo.database.Database[dict[str, Any]]) -> int:
    """Orders that are unfinished, or still owe the world something."""
    return db["execution_orders"].count_documents({"lookup": "unsettled"})


def wait_until_settled(service: Service, count: int, *, within: float = 60.0) -> None:
    """All `count` orders have ended and everything about them was told."""
    with service.database() as db:
        wait_until(
            lambda: db["execution_orders"].estimated_document_count() == count and unsettled(db) == 0,
            f"{count} orders are settled",
            within=within,
            pause=0.1,
            share=0.02,
            more=lambda: (
                f"{db['execution_orders'].count_documents({})} stored, {unsettled(db)} unsettled, "
                f"{service.book.placed()} placed, {service.book.working()} working\n{service.console()[-3000:]}"
            ),
        )


def assert_everything_agrees(
    service: Service, asked: Sequence[Mapping[str, Any]], confirmations: Sequence[Confirmation]
) -> None:
    """The book has exactly one order a signal, and record, ledger, positions, views and confirmations tell the same as it."""
    book = {order.client_order_id: order for order in service.book.orders()}
    assert service.book.placed() == len(book) == len(asked)
    with service.database() as db:
        records = {record["signal_id"]: record for record in db["execution_orders"].find()}
        shown = {document["signal_id"]: document for document in db["execution_confirmations"].find()}
        signals = {document["signal_id"]: document for document in db["signal_store"].find()}
        ledgers = list(db["execution_positions"].find())
        open_positions = list(db["positions"].find({"status": "OPEN"}))
        dead_letters = db["execution_dead_letters"].count_documents({})
    wanted = {order["signal_id"]: order for order in asked}
    assert set(records) == set(shown) == set(signals) == set(wanted)
    assert dead_letters == 0
    for signal_id, order in wanted.items():
        record, truth = records[signal_id], book[records[signal_id]["client_order_id"]]
        assert (truth.symbol, truth.side, truth.quantity) == (order["symbol"], order["side"], order["quantity"])
        assert (record["status"], truth.status) == ("FILLED", "FILLED")
        recorded = [event["fill"] for event in record["events"] if "fill" in event]
        assert {f["fill_id"]: (Decimal(f["quantity"]), Decimal(f["price"])) for f in recorded} == truth.fills
        assert len(recorded) == len(truth.fills), "a fill is recorded once"
        assert shown[signal_id]["filled_quantity"] == order["quantity"]
        assert shown[signal_id]["order_id"] == signals[signal_id]["order_id"] == truth.broker_order_id
        assert signals[signal_id]["execution_status"] == "FILLED"
    _assert_positions(book.values(), wanted, records, shown, ledgers, open_positions)
    _assert_confirmations(wanted, records, book, confirmations)


def _assert_positions(
    book: Any,
    wanted: Mapping[str, Mapping[str, Any]],
    records: Mapping[str, Mapping[str, Any]],
    shown: Mapping[str, Mapping[str, Any]],
    ledgers: Sequence[Mapping[str, Any]],
    open_positions: Sequence[Mapping[str, Any]],
) -> None:
    strategy_of = {record["client_order_id"]: wanted[name]["strategy_name"] for name, record in records.items()}
    quantities: dict[tuple[str, str, str], Decimal] = {}
    money: dict[tuple[str, str, str], Decimal] = {}
    for order in book:
        key = (order.account_id, strategy_of[order.client_order_id], order.symbol)
        for quantity, price in order.fills.values():
            signed = quantity if order.side == "BUY" else -quantity
            quantities[key] = quantities.get(key, Decimal(0)) + signed
            money[key] = money.get(key, Decimal(0)) - signed * price
    realized: dict[tuple[str, str, str], Decimal] = {}
    for signal_id, document in shown.items():
        order = wanted[signal_id]
        key = (order["account_id"], order["strategy_name"], order["symbol"])
        realized[key] = realized.get(key, Decimal(0)) + Decimal(str(document["realized_pnl"] or 0))
    assert len(ledgers) == len(quantities), "one ledger document for ever per key"
    for ledger in ledgers:
        key = (ledger["account_id"], ledger["strategy"], ledger["instrument"]["symbol"])
        held, cost = Decimal(ledger["position"]["quantity"]), Decimal(ledger["position"]["cost"])
        assert held == quantities[key], f"position of {key}"
        # What came in and went out is what was realised less what the open part cost: true in whatever sequence the fills were booked.
        assert abs(realized[key] - cost - money[key]) < Decimal("0.001"), f"money of {key}"
    view = {
        (p["account_id"], p["strategy_name"], p["symbol"]): p["quantity"] * (1 if p["side"] == "LONG" else -1)
        for p in open_positions
    }
    assert len(view) == len(open_positions)
    assert view == {key: quantity for key, quantity in quantities.items() if quantity}


def _assert_confirmations(
    wanted: Mapping[str, Mapping[str, Any]],
    records: Mapping[str, Mapping[str, Any]],
    book: Mapping[str, BookOrder],
    confirmations: Sequence[Confirmation],
) -> None:
    by_event: dict[str, Confirmation] = {}
    by_signal: dict[str, list[Confirmation]] = {}
    for confirmation in confirmations:
        first = by_event.setdefault(confirmation.attributes["event_id"], confirmation)
        if first is confirmation:
            by_signal.setdefault(confirmation.attributes["signal_id"], []).append(confirmation)
        assert confirmation.body == first.body, "what is told again is told the same"
    assert set(by_signal) == set(wanted)
    for signal_id, told in by_signal.items():
        told.sort(key=lambda c: int(c.attributes["event_number"]))
        truth = book[records[signal_id]["client_order_id"]]
        assert [c.body["status"] for c in told] == ["PARTIALLY_FILLED"] * (len(truth.fills) - 1) + ["FILLED"]
        assert {c.body["last_fill"]["fill_id"] for c in told} == set(truth.fills)
        assert told[-1].body["filled_quantity"] == wanted[signal_id]["quantity"]
        assert told[-1].body["client_order_id"] == truth.client_order_id
