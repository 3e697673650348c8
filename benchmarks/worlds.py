"""The processes that are measured, each in a folder of its own: the real service, and the floor; no figures here."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import psutil
import pymongo
from pymongo.database import Database

from benchmarks import COMMANDS_TOPIC, CONFIRMATIONS_TOPIC, ORDERS_TOPIC, PROJECT, floor
from benchmarks.traffic import MeasurementFailed, OrderMessage, Traffic, make_topics
from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Action, Fault, Operation
from execution_service.app.embedded import STORE_PROGRAM
from execution_service.app.settings.loading import load_settings
from execution_service.app.settings.model import secret_names, setting_names
from execution_service.app.settings.problems import ConfigurationError

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 90.0
CHILDREN_SECONDS = 30.0
_POLL_SECONDS = 0.005
_LAST_WORDS = 1500
_SERVICE_READY = "Execution service ready"
_DATABASE = "mathematricks_trading"
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """Seconds of all threads, those of the first thread (which runs the event loop) among them, and those spent in the system's calls."""

    total: float
    first_thread: float
    system: float

    def since(self, before: ProcessorTime) -> ProcessorTime:
        return ProcessorTime(
            self.total - before.total, self.first_thread - before.first_thread, self.system - before.system
        )


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
        began = time.perf_counter()
        self.launch()
        return self.wait_until_ready() - began

    def launch(self) -> None:
        """Starts the process and does not wait."""
        self._console.write_bytes(b"")
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

    def wait_until_ready(self) -> float:
        """Returns the time, by `time.perf_counter()`, at which the process said that it is ready. Raises MeasurementFailed."""
        ready = self.ready_words.encode()
        try:
            wait_until(
                lambda: ready in self._console.read_bytes() or self._is_over(),
                "the process says that it is ready",
                START_SECONDS,
            )
            ready_at = time.perf_counter()
            # The file of addresses is written right after those words.
            wait_until(lambda: self._endpoints_path.exists() or self._is_over(), "it tells its addresses", 10.0)
        finally:
            self._remember_children()
        if self._is_over():
            raise MeasurementFailed(f"{self.folder.name} ended at its start")
        return ready_at

    def stop(self) -> None:
        """Ends the process and its children at once: what they hold is thrown away."""
        self._leave_traffic()
        self._remember_children()
        self._end_family()

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

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

    def kill_and_launch(self, waiting: Sequence[OrderMessage]) -> float:
        """kill -9, and the next life at once, whatever the children of the last are doing; these orders wait for it in Pub/Sub. Returns the
        time of the kill, by `time.perf_counter()`."""
        assert self._process is not None
        # While it is frozen its Pub/Sub, which dies with it, takes the orders, and it does not.
        self.send_signal(signal.SIGSTOP)
        self.traffic.publish(waiting, fills_expected=False)
        self._leave_traffic()
        return self._kill_and_launch()

    def _kill_and_launch(self) -> float:
        assert self._process is not None
        self._remember_children()
        killed_at = time.perf_counter()
        self._process.kill()
        self._process.wait()
        self.launch()
        return killed_at

    @property
    def traffic(self) -> Traffic:
        if self._traffic is None:
            self._traffic = Traffic(self.pubsub_host)
        return self._traffic

    @contextlib.contextmanager
    def database(self, name: str) -> Iterator[Database[dict[str, Any]]]:
        with pymongo.MongoClient[dict[str, Any]](self.mongodb_uri) as client:
            yield client[name]

    @property
    def pubsub_host(self) -> str:
        return str(self._endpoints()["pubsub_emulator_host"])

    @property
    def mongodb_uri(self) -> str:
        return str(self._endpoints()["mongodb_uri"])

    def rss_mebibytes(self) -> float:
        """Resident memory of the process itself, without its store and its Pub/Sub."""
        assert self._process is not None
        return float(psutil.Process(self._process.pid).memory_info().rss) / 2**20

    def processor_time(self) -> ProcessorTime:
        """What the process itself has used so far, without its store and its Pub/Sub."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        times = process.cpu_times()
        first = next(thread for thread in process.threads() if thread.id == process.pid)
        return ProcessorTime(times.user + times.system, first.user_time + first.system_time, times.system)

    def writes_of_documents(self) -> Counter[str]:
        """How many times a document of each collection was written so far, by the store's own log of them."""
        with self.database("local") as local:
            written = local["oplog.rs"].find({"op": {"$in": ["i", "u", "d"]}}, {"ns": 1})
            return Counter(str(entry["ns"]).partition(".")[2] for entry in written)

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
    def api(self) -> str:
        """The address of its API."""
        return str(self._endpoints()["api"])

    @property
    def book_path(self) -> Path:
        return self.data_dir / "mock_broker.db"

    def hold_orders(self, symbol: str, count: int) -> None:
        """The next `count` orders for that symbol (`*`: for any) rest at the broker for ever. To be called before the process is started."""
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


class ServersApart:
    """A store and a Pub/Sub that were started by themselves and live on when whoever uses them is killed, as a MongoDB and Google's do. The
    Pub/Sub is Google's emulator where `wants_google` and it is found, else ours."""

    def __init__(self, folder: Path, *, wants_google: bool = False) -> None:
        self._folder = folder
        self._servers = contextlib.ExitStack()
        self._emulator = emulator_script() if wants_google else None
        self.mongodb_uri = self.pubsub_host = ""

    @property
    def pubsub_name(self) -> str:
        return "the local Pub/Sub" if self._emulator is None else "Google's emulator"

    def start(self) -> None:
        """Raises MeasurementFailed."""
        try:
            store_port = self._start("store", self._store_command)
            pubsub_port = self._start("pubsub", self._pubsub_command)
            self.mongodb_uri = f"mongodb://127.0.0.1:{store_port}/?directConnection=true"
            self.pubsub_host = f"127.0.0.1:{pubsub_port}"
            if self._emulator is not None:
                make_topics(self.pubsub_host)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._servers.close()

    def _store_command(self, port: int) -> Sequence[str]:
        program = shutil.which(STORE_PROGRAM, path=str(Path(sys.executable).parent)) or shutil.which(STORE_PROGRAM)
        if program is None:
            raise MeasurementFailed(f"{STORE_PROGRAM} is not installed")
        where = ["--host", "127.0.0.1", "--port", str(port), "--storage-path", str(self._folder / "store")]
        return [program, *where, "--sync-on-commit", "--log-level", "WARNING"]

    def _pubsub_command(self, port: int) -> Sequence[str]:
        if self._emulator is not None:
            return [self._emulator, "--host=127.0.0.1", f"--port={port}"]
        command = [sys.executable, "-m", "simulators.pubsub", "--port", str(port), "--project", PROJECT]
        command += ["--data", str(self._folder / "pubsub.db")]
        for topic in (ORDERS_TOPIC, COMMANDS_TOPIC, CONFIRMATIONS_TOPIC):
            command += ["--topic", topic, "--subscription", f"{topic}-sub={topic}"]
        return command

    def _start(self, name: str, command: Callable[[int], Sequence[str]]) -> int:
        """Returns the port on which it listens."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        with open(self._folder / f"{name}.log", "ab") as sink:
            process = psutil.Popen(
                list(command(port)),
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        self._servers.callback(_end_process, process)

        def is_listening() -> bool:
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        wait_until(lambda: is_listening() or process.poll() is not None, f"the {name} listens", START_SECONDS)
        if process.poll() is not None:
            raise MeasurementFailed(f"the {name} did not start")
        return port


class SharingService(Service):
    """The same on servers of its own that live on when it is killed."""

    wants_google = False

    def __init__(self, folder: Path, settings: Mapping[str, str] = NO_SETTINGS) -> None:
        super().__init__(folder, settings)
        self.servers = ServersApart(folder, wants_google=self.wants_google)

    def __enter__(self) -> Self:
        self.servers.start()
        addresses = {"MONGODB_URI": self.servers.mongodb_uri, "PUBSUB_EMULATOR_HOST": self.servers.pubsub_host}
        self._settings = {**self._settings, **addresses}
        return self

    def stop(self) -> None:
        super().stop()
        self.servers.close()

    def kill_and_launch(self, waiting: Sequence[OrderMessage]) -> float:
        traffic = self.traffic
        killed_at = self._kill_and_launch()
        # Not before the kill: what was handed to a process that died is kept for it until its time to acknowledge is over.
        traffic.publish(waiting, fills_expected=False)
        return killed_at

    @property
    def pubsub_host(self) -> str:
        return self.servers.pubsub_host

    @property
    def mongodb_uri(self) -> str:
        return self.servers.mongodb_uri


class ProductionService(SharingService):
    """As production runs it: `MONGODB_URI`, leases, and Google's emulator where it is found."""

    wants_google = True


def _end_process(process: psutil.Popen) -> None:
    """With its children: the emulator's script starts a Java."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
    process.wait(10)


def emulator_script() -> str | None:
    """What starts Google's Pub/Sub emulator: named by the variable that the tests know too, else that of the installed Google Cloud SDK."""
    named, gcloud = os.environ.get("PUBSUB_EMULATOR_BIN"), shutil.which("gcloud")
    if named or gcloud is None or shutil.which("java") is None:
        return named or None
    script = Path(gcloud).resolve().parent.parent / "platform" / "pubsub-emulator" / "bin" / "cloud-pubsub-emulator"
    return str(script) if script.is_file() else None


class Floor(World):
    """The floor loop with that many threads."""

    ready_words = floor.READY
    _where: Sequence[str] = ()

    def __init__(self, folder: Path, workers: int) -> None:
        super().__init__(folder)
        self.workers = workers

    def command(self) -> Sequence[str]:
        module = [sys.executable, "-m", "benchmarks.floor"]
        return [*module, "--data", str(self.data_dir), "--workers", str(self.workers), *self._where]

    def finished(self) -> int:
        """Orders in their last state, each step counted."""
        with self.database(floor.DATABASE) as database:
            return int(database[floor.COLLECTION].count_documents({"state": floor.FINAL_STATE, "version": 3}))


class SharingFloor(Floor):
    """The same on servers that are those of a `ProductionService`, started for it alone."""

    def __init__(self, folder: Path, workers: int) -> None:
        super().__init__(folder, workers)
        self.servers = ServersApart(folder, wants_google=True)

    def __enter__(self) -> Self:
        self.servers.start()
        self._where = ("--mongodb-uri", self.servers.mongodb_uri, "--pubsub-host", self.servers.pubsub_host)
        return self

    def stop(self) -> None:
        super().stop()
        self.servers.close()


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
