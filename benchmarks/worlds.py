"""The processes that are measured, each in a folder of its own: the real service, and the floor; no figures here."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import psutil
import pymongo
from pymongo.database import Database

from benchmarks import COMMANDS_TOPIC, CONFIRMATIONS_TOPIC, ORDERS_TOPIC, PROJECT, floor
from benchmarks.traffic import MeasurementFailed, Traffic
from brokers.paper.exchange import PaperExchange
from brokers.paper.words import Action, Fault, Operation
from execution_service.settings import ConfigurationError, load_settings, secret_names, setting_names

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 90.0
CHILDREN_SECONDS = 30.0
_POLL_SECONDS = 0.005
_LAST_WORDS = 1500
_SERVICE_READY = "Execution service ready"
_DATABASE = "mathematricks_trading"
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


class World(ABC):
    """One running process with its store and its Pub/Sub, and the traffic to and from it. A context: nothing is left running after it."""

    ready_words: str

    def __init__(self, folder: Path, settings: Mapping[str, str] = NO_SETTINGS) -> None:
        """`settings`: what differs from those of all measurements."""
        folder.mkdir(parents=True)
        self.folder = folder
        self._settings = settings
        self.data_dir = folder / "data"
        self._console = folder / "console.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self._family: dict[int, psutil.Process] = {}
        self._traffic: Traffic | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What starts the process."""

    def start(self) -> float:
        """Returns the seconds from the start of the process to its word that it is ready. Raises MeasurementFailed."""
        self._console.write_bytes(b"")
        began = time.perf_counter()
        with open(self._console, "ab") as sink:
            self._process = subprocess.Popen(
                self.command(),
                cwd=REPOSITORY,
                env={**environment(self.folder), **self._settings},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._family[self._process.pid] = psutil.Process(self._process.pid)
        ready = self.ready_words.encode()
        try:
            wait_until(
                lambda: ready in self._console.read_bytes() or self._is_over(),
                "the process says that it is ready",
                START_SECONDS,
            )
            seconds = time.perf_counter() - began
            # The file of addresses is written right after those words.
            wait_until(lambda: self._endpoints_path.exists() or self._is_over(), "it tells its addresses", 10.0)
        finally:
            self._remember_children()
        if self._is_over():
            raise MeasurementFailed(f"{self.folder.name} ended at its start")
        return seconds

    def stop(self) -> None:
        """Ends the process and its children at once: what they hold is thrown away."""
        self._leave_traffic()
        self._remember_children()
        self._end_family()

    def kill(self) -> None:
        """kill -9; its children end by themselves, and are waited for."""
        self._leave_traffic()
        self._remember_children()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        psutil.wait_procs(list(self._family.values()), timeout=CHILDREN_SECONDS)
        self._endpoints_path.unlink(missing_ok=True)
        self._end_family()

    @property
    def traffic(self) -> Traffic:
        if self._traffic is None:
            self._traffic = Traffic(str(self._endpoints()["pubsub_emulator_host"]))
        return self._traffic

    @contextlib.contextmanager
    def database(self, name: str) -> Iterator[Database[dict[str, Any]]]:
        with pymongo.MongoClient[dict[str, Any]](str(self._endpoints()["mongodb_uri"])) as client:
            yield client[name]

    def rss_mebibytes(self) -> float:
        """Resident memory of the process itself, without its store and its Pub/Sub."""
        assert self._process is not None
        return float(psutil.Process(self._process.pid).memory_info().rss) / 2**20

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, MeasurementFailed) and self._console.exists():
            last = self._console.read_text(encoding="utf-8", errors="replace")[-_LAST_WORDS:]
            print(f"The last words of {self.folder.name}:\n{last}", file=sys.stderr, flush=True)
        self.stop()

    @property
    def _endpoints_path(self) -> Path:
        return self.data_dir / "endpoints.json"

    def _endpoints(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads(self._endpoints_path.read_text(encoding="utf-8"))
        return found

    def _is_over(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _leave_traffic(self) -> None:
        if self._traffic is not None:
            self._traffic.close()
            self._traffic = None

    def _remember_children(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self._process.pid).children(recursive=True)
            self._family |= {child.pid: child for child in children}

    def _end_family(self) -> None:
        for process in self._family.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(list(self._family.values()), timeout=10)
        if self._process is not None:
            self._process.wait()
        self._family.clear()
        self._process = None


class Service(World):
    """`execution_main.py --use-mock-broker`, as an operator starts it, on the embedded store."""

    ready_words = _SERVICE_READY

    def command(self) -> Sequence[str]:
        return [sys.executable, str(REPOSITORY / "execution_service" / "execution_main.py"), "--use-mock-broker"]

    @property
    def book_path(self) -> Path:
        return self.data_dir / "mock_broker.db"

    def hold_orders(self, symbol: str, count: int) -> None:
        """The next `count` orders for that symbol rest at the broker for ever. To be called before the process is started."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        fault = Fault(operation=Operation.PLACE, action=Action.HOLD, symbol=symbol, times=count)
        PaperExchange(self.book_path, account_id="benchmark", faults=[fault]).close()

    def in_book(self, status: str, account_id: str | None = None) -> int:
        """How many orders, or orders of that account, the broker has in that status."""
        query = "SELECT count(*) FROM orders WHERE status = ? AND account = coalesce(?, account)"
        with self.book() as book:
            return int(book.execute(query, (status, account_id)).fetchone()[0])

    @contextlib.contextmanager
    def book(self) -> Iterator[sqlite3.Connection]:
        """The broker's book, read from outside."""
        with contextlib.closing(sqlite3.connect(f"file:{self.book_path}?mode=ro", uri=True, timeout=5.0)) as book:
            yield book

    def owes_something(self) -> bool:
        """Whether anything that the service has taken is unfinished or not told yet; counts in the store, which is a load of its own."""
        with self.records() as records:
            return bool(records.count_documents({"lookup": "unsettled"}, limit=1))

    def durable_at(self, signal_ids: Collection[str]) -> dict[str, datetime]:
        """When the service said that it had stored each of these orders, to the millisecond; it must log JSON. Waits for the log, which
        is written behind. Raises MeasurementFailed."""
        found: dict[str, datetime] = {}

        def is_complete() -> bool:
            for path in sorted((self.folder / "logs").glob("execution_service.log*")):
                for line in path.read_text(encoding="utf-8").splitlines():
                    if '"order_received"' in line:
                        entry = json.loads(line)
                        if entry["signal_id"] in signal_ids:
                            found[entry["signal_id"]] = datetime.fromisoformat(entry["time"])
            return len(found) == len(signal_ids)

        wait_until(is_complete, "the log tells of all orders", START_SECONDS)
        return found

    def stored(self) -> int:
        """How many orders the service has taken in."""
        with self.records() as records:
            return int(records.estimated_document_count())

    def recorded(self, status: str) -> int:
        """How many orders the service's own record has in that status."""
        with self.records() as records:
            return int(records.count_documents({"status": status}))

    @contextlib.contextmanager
    def records(self) -> Iterator[Any]:
        """The collection of the service's own records."""
        with self.database(_DATABASE) as database:
            yield database["execution_orders"]


class Floor(World):
    """The floor loop with that many threads."""

    ready_words = floor.READY

    def __init__(self, folder: Path, workers: int) -> None:
        super().__init__(folder)
        self.workers = workers

    def command(self) -> Sequence[str]:
        module = [sys.executable, "-m", "benchmarks.floor"]
        return [*module, "--data", str(self.data_dir), "--workers", str(self.workers)]

    def finished(self) -> int:
        """Orders in their last state, each step counted."""
        with self.database(floor.DATABASE) as database:
            return int(database[floor.COLLECTION].count_documents({"state": floor.FINAL_STATE, "version": 3}))


def environment(folder: Path) -> dict[str, str]:
    """The defaults of a machine where nothing is configured, whatever the caller's own settings are."""
    settings = {*setting_names(), *(f"{name}_FILE" for name in secret_names()), "GOOGLE_APPLICATION_CREDENTIALS"}
    kept = {name: value for name, value in os.environ.items() if name not in settings and name != "K_SERVICE"}
    accounts = folder / "accounts.toml"
    accounts.write_text('[accounts.bench_0]\nbroker = "mock"\n', encoding="utf-8")
    return kept | {
        "HOME": str(folder),
        "ENV_FILE": os.devnull,
        "CLOUDSDK_CONFIG": str(folder / "gcloud"),
        "DATA_DIR": str(folder / "data"),
        "LOG_DIR": str(folder / "logs"),
        "ACCOUNTS_FILE": str(accounts),
        "GOOGLE_CLOUD_PROJECT": PROJECT,
        "TRADING_ORDERS_SUBSCRIPTION": f"{ORDERS_TOPIC}-sub",
        "ORDER_COMMANDS_SUBSCRIPTION": f"{COMMANDS_TOPIC}-sub",
        "EXECUTION_CONFIRMATIONS_TOPIC": CONFIRMATIONS_TOPIC,
        "MONGODB_DATABASE": _DATABASE,
        "TELEGRAM_ENABLED": "false",
        "LOG_LEVEL": "INFO",
        "LOG_FORMAT": "text",
        "API_PORT": "0",
        "ORDER_TIMEOUT_SECONDS": "60",
        "MAX_ORDER_AGE_SECONDS": "300",
        "PUBLISH_ORDERING_KEYS": "false",
        "MOCK_FILL_DELAY_SECONDS": "0",
        "MOCK_REJECTION_RATE": "0",
        "MOCK_PARTIAL_FILL_RATE": "0",
        "MOCK_SLIPPAGE_BPS": "0",
        "PYTHONUNBUFFERED": "1",
    }


def refuse_real_places(folder: Path) -> None:
    """Raises MeasurementFailed if a service started by us would reach a store or a Pub/Sub that is not its own.

    `.env` in the repository counts too, and an unset variable does not outrank it.
    """
    try:
        settings = load_settings(environment(folder), use_mock_broker=True)
    except ConfigurationError as exc:
        raise MeasurementFailed(f"the service cannot be configured here: {exc}") from exc
    if settings.mongodb_uri is not None or settings.pubsub_emulator_host is not None:
        raise MeasurementFailed(
            "move .env away: it names a store or a Pub/Sub, and the orders of a benchmark go to neither"
        )
    if settings.has_google_credentials:
        raise MeasurementFailed("this machine has Google credentials of its own; run the benchmark on another one")


def wait_until(condition: Callable[[], object], what: str, timeout_seconds: float) -> None:
    """Raises MeasurementFailed."""
    end = time.perf_counter() + timeout_seconds
    while not condition():
        if time.perf_counter() > end:
            raise MeasurementFailed(f"not within {timeout_seconds:.0f} s: {what}")
        time.sleep(_POLL_SECONDS)
