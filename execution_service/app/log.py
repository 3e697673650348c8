"""Where log lines go: console and two files, written by one thread; what a line looks like and what is worth one is decided elsewhere.

`structlog.get_logger(...)` and the libraries' stdlib records end in the same place. The caller only puts a record into a queue: formatting,
redaction and writing happen in the thread, so a slow disk or terminal holds up no order. Queue, thread and rotation are the standard
library's; what had to be added to them, and why, stands in docs/adr/0026-the-log-by-the-standard-library.md.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Collection, Iterator, MutableMapping
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import Any, NoReturn, Protocol, TextIO

import structlog

from execution_service.app.log_lines import Record, json_line, of_stdlib, text_line
from execution_service.app.log_places import Console, LogFile, Target, is_same_file

SERVICE_LOG = "execution_service.log"
JOURNEY_LOG = "signal_processing.log"

_STOP_SECONDS = 5.0
_BATCH_RECORDS = 500
_TOGETHER_SECONDS = 0.01
"""So long a line waits for those that come right behind it: they are one write."""
_CHATTY_LIBRARIES = ("asyncio", "google", "grpc", "pymongo", "telegram", "urllib3")
# Their INFO lines carry addresses, and Telegram's addresses carry the bot's token. The brokers' own are said by their manifests.
_LEAKY_LIBRARIES = ("httpx", "httpcore")
_LEVELS = {name.lower(): number for name, number in logging.getLevelNamesMapping().items()}


class Logging:
    """The running log. `stop` writes what is queued and puts the process's logging back as it was."""

    def __init__(self, writer: _Writer, before: contextlib.ExitStack) -> None:
        """`before`: closed, it puts the process's logging back as it was."""
        self._writer = writer
        self._before = before
        self._stopped = False

    def flush(self, timeout_seconds: float = _STOP_SECONDS) -> bool:
        """Waits until everything logged before this call is written; False if that took too long."""
        written = threading.Event()
        self._writer.queue.put(written)
        return written.wait(timeout_seconds)

    def stop(self) -> None:
        """Flushes and ends the log, at once if it had ended already. Never raises; waits 5 s at most for a disk or terminal that hangs."""
        if self._stopped:
            return
        self._stopped = True
        atexit.unregister(self.stop)
        self._before.close()
        if self.flush():
            self._writer.stop()
        else:
            self._writer.give_up()


def start_logging(
    log_dir: Path,
    level: str,
    format: str,
    *,
    stream: TextIO | None = None,
    max_file_bytes: int = 20_000_000,
    kept_files: int = 10,
    queue_records: int = 100_000,
    retry_seconds: float = 30.0,
    leaky: Collection[str] = (),
) -> Logging:
    """Starts logging to `stream` (default: standard output) and to the two files in `log_dir`, made if absent.

    A file that cannot be written is announced, left out and tried again every `retry_seconds`. Beyond `queue_records` waiting records
    new ones are dropped, and their number is logged. Of the loggers `leaky` nothing below WARNING is let through. A log that still
    runs is stopped first. Raises ValueError for an unknown level.
    """
    global _running
    level_number = logging.getLevelNamesMapping().get(level.upper())
    if not level_number:
        raise ValueError(f"{level!r} is not a log level")
    if _running is not None:
        _running.stop()

    targets: list[Target] = [
        LogFile(log_dir / SERVICE_LOG, max_file_bytes, kept_files),
        LogFile(log_dir / JOURNEY_LOG, max_file_bytes, kept_files, journey_only=True),
    ]
    stream = sys.stdout if stream is None else stream
    if not is_same_file(stream, log_dir / SERVICE_LOG):
        targets.append(Console(stream))
    for target in targets:
        target.retry_seconds = retry_seconds
    intake = _Intake(queue_records)
    writer = _Writer(intake, targets, json_line if format == "json" else text_line)
    _running = Logging(writer, _route_to(intake, level_number, leaky))
    writer.start()
    atexit.register(_running.stop)
    return _running


_running: Logging | None = None


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No log line is written for the duration of the block: for a program that prints itself what it found."""
    disabled_before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with _structlog_configured(processors=[_drop]):
            yield
    finally:
        logging.disable(disabled_before)


def _drop(logger: object, method: str, keys: object) -> NoReturn:
    raise structlog.DropEvent


@contextlib.contextmanager
def _structlog_configured(**configuration: Any) -> Iterator[None]:
    """Configures structlog for the duration of the block."""
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.configure(**configuration)
    try:
        yield
    finally:
        if before is None:
            structlog.reset_defaults()
        else:
            structlog.configure(**before)


class _Intake(QueueHandler):
    """The callers' side: takes records from structlog and stdlib into the queue. Never blocks, never raises."""

    queue: queue.SimpleQueue[Any]

    def __init__(self, capacity: int) -> None:
        super().__init__(queue.SimpleQueue())
        self._capacity = capacity
        self._dropped = 0
        self._dropped_lock = threading.Lock()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Unchanged: the writer is a thread of this process, and formats the record there."""
        return record

    def enqueue(self, record: logging.LogRecord | Record) -> None:
        if self.queue.qsize() < self._capacity:
            self.queue.put(record)
        else:
            with self._dropped_lock:
                self._dropped += 1

    def take_dropped(self) -> int:
        """How many records were dropped since the last call."""
        with self._dropped_lock:
            dropped, self._dropped = self._dropped, 0
        return dropped


class _Entry:
    """What a structlog logger ends in, in place of a `logging.Logger`, which costs the caller as much again as everything else."""

    def __init__(self, intake: _Intake, name: str) -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = intake.enqueue


def _as_record(entry: _Entry, level: str, keys: MutableMapping[str, Any]) -> tuple[tuple[Record], dict[str, Any]]:
    """The last of structlog's processors: makes of the keys what the queue takes."""
    exc_info = keys.get("exc_info")
    if exc_info is True:
        keys["exc_info"] = sys.exc_info()
    elif isinstance(exc_info, BaseException):
        keys["exc_info"] = (type(exc_info), exc_info, exc_info.__traceback__)
    return (Record(time.time(), _LEVELS[level], entry.name, keys),), {}


def _route_to(intake: _Intake, level: int, leaky: Collection[str]) -> contextlib.ExitStack:
    """Points structlog and the root logger at the intake. Closed, what it returns undoes it."""
    root, google = logging.getLogger(), logging.getLogger("google")
    levels = {name: level if level <= logging.DEBUG else max(level, logging.WARNING) for name in _CHATTY_LIBRARIES}
    levels |= {name: max(level, logging.WARNING) for name in (*_LEAKY_LIBRARIES, *leaky)} | {"": level}
    levels_before = {name: logging.getLogger(name).level for name in levels}
    google_propagated = google.propagate

    root.addHandler(intake)
    # Google's libraries keep their records to themselves unless `propagate` is set.
    google.propagate = True
    for name, number in levels.items():
        logging.getLogger(name).setLevel(number)

    before = contextlib.ExitStack()
    before.enter_context(
        _structlog_configured(
            processors=[structlog.contextvars.merge_contextvars, _as_record],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=lambda *names: _Entry(intake, str(names[0]) if names else "execution_service"),
            # A cached logger would go on writing to a log that was stopped.
            cache_logger_on_first_use=False,
        )
    )
    for name, number in levels_before.items():
        before.callback(logging.getLogger(name).setLevel, number)
    before.callback(setattr, google, "propagate", google_propagated)
    before.callback(root.removeHandler, intake)
    return before


class LineFormat(Protocol):
    """How a record is written."""

    def __call__(self, record: Record, /) -> str:
        """One line, with its end; what belongs to it, as a traceback, follows in further lines."""


class _Writer(QueueListener):
    """The thread that empties the queue into the targets, many records at a time."""

    queue: queue.SimpleQueue[Any]

    def __init__(self, intake: _Intake, targets: list[Target], to_line: LineFormat) -> None:
        super().__init__(intake.queue)
        self._intake = intake
        self._targets = targets
        self._to_line = to_line

    def stop(self) -> None:
        super().stop()
        for target in self._targets:
            target.close()

    def give_up(self) -> None:
        """A place hangs: the thread is left behind, and nobody waits for it at the process's end."""
        for target in self._targets:
            target.is_given_up = True

    def handle(self, record: Any) -> None:
        """Writes the record, and those that come right behind it."""
        lines: list[str] = []
        journey: list[str] = []
        written: list[threading.Event] = []
        if not isinstance(record, threading.Event):
            # Woken for every line by itself, this thread would take the processor from the callers all the time.
            time.sleep(_TOGETHER_SECONDS)
        for item in (record, *self._waiting()):
            if isinstance(item, threading.Event):
                written.append(item)
                continue
            line, is_of_signal = self._line(item)
            lines.append(line)
            if is_of_signal:
                journey.append(line[: line.index("\n") + 1])
        if dropped := self._intake.take_dropped():
            lines.append(self._own(f"{dropped} log records were dropped: they came faster than they could be written"))
        remarks = self._write(lines, journey)
        # What is said about one place may bring another to light; a place that fails or recovers all the time ends it here.
        for _ in self._targets:
            remarks = self._write(remarks, [])
        for event in written:
            event.set()

    def _waiting(self) -> Iterator[Any]:
        for _ in range(_BATCH_RECORDS):
            try:
                item = self.queue.get_nowait()
            except queue.Empty:
                return
            if item is None:
                # The library's sign to end, to be found again once these are written.
                self.queue.put(None)
                return
            yield item

    def _line(self, item: logging.LogRecord | Record) -> tuple[str, bool]:
        try:
            record = of_stdlib(item) if isinstance(item, logging.LogRecord) else item
            return self._to_line(record), record.signal_id is not None
        except Exception as exc:  # noqa: BLE001 - any value may be logged, also one that cannot be shown; the thread must survive it
            return self._own(f"A log record could not be shown: {type(exc).__name__}"), False

    def _own(self, sentence: str) -> str:
        return self._to_line(Record(time.time(), logging.WARNING, __name__, {"event": sentence}))

    def _write(self, lines: list[str], journey: list[str]) -> list[str]:
        """Returns the lines about targets that have failed or recovered."""
        chosen = [(target, journey if target.journey_only else lines) for target in self._targets]
        remarks = [target.write(part) for target, part in chosen if part]
        return [self._own(sentence) for sentence in remarks if sentence is not None]
