"""Where log lines go and what they look like: console and two files, written by one thread; what is worth a line is decided elsewhere.

`structlog.get_logger(...)` and the libraries' stdlib records end in the same place. The caller only puts a record into a queue: formatting,
redaction and writing happen in the thread, so a slow disk or terminal holds up no order.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import logging
import os
import queue
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO
from urllib.parse import quote

import structlog

SERVICE_LOG = "execution_service.log"
JOURNEY_LOG = "signal_processing.log"

_MAX_CHARACTERS = 20_000
_MIN_SECRET_CHARACTERS = 6
_STOP_SECONDS = 5.0
_BATCH_RECORDS = 500
_CHATTY_LIBRARIES = ("asyncio", "google", "grpc", "pymongo", "telegram", "urllib3")
# Their INFO lines carry addresses, and Telegram's addresses carry the bot's token. The brokers' own are said by their manifests.
_LEAKY_LIBRARIES = ("httpx", "httpcore")

# Control characters, line and paragraph separators, marks that reorder or hide text, lone surrogates, tag characters.
_DANGEROUS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def redact(*secrets: str) -> None:
    """From now on these values appear in no line of any log; those under 6 characters are ignored, as too common."""
    _redactor.add(secrets)


def safe(text: str) -> str:
    """The text as it may be shown outside the log: one line, no secret that `redact` was told, nothing that a terminal would obey."""
    return _visible(_redactor(text))


class Logging:
    """The running log. `stop` writes what is queued and puts the process's logging back as it was."""

    def __init__(self, intake: _Intake, writer: _Writer, restore: Callable[[], None]) -> None:
        self._intake = intake
        self._writer = writer
        self._restore = restore
        self._stopped = False

    def flush(self, timeout_seconds: float = _STOP_SECONDS) -> bool:
        """Waits until everything logged before this call is written; False if that took too long."""
        return self._writer.flush(timeout_seconds)

    def stop(self) -> None:
        """Flushes and ends the log, at once if it had ended already. Never raises; waits 5 s at most for a disk or terminal that hangs."""
        if self._stopped:
            return
        self._stopped = True
        atexit.unregister(self.stop)
        self._restore()
        self._writer.stop(_STOP_SECONDS)


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

    service_log = _LogFile(log_dir / SERVICE_LOG, max_file_bytes, kept_files)
    journey_log = _LogFile(log_dir / JOURNEY_LOG, max_file_bytes, kept_files)
    targets = [
        _Target(service_log, retry_seconds=retry_seconds),
        _Target(journey_log, retry_seconds=retry_seconds, journey_only=True),
    ]
    stream = sys.stdout if stream is None else stream
    if not _is_same_file(stream, log_dir / SERVICE_LOG):
        targets.append(_Target(_Console(stream), retry_seconds=retry_seconds))
    intake = _Intake(queue_records)
    writer = _Writer(intake, targets, _json_line if format == "json" else _text_line)
    _running = Logging(intake, writer, _route_to(intake, level_number, leaky))
    writer.start()
    atexit.register(_running.stop)
    return _running


_running: Logging | None = None


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nobody's log lines appear meanwhile: for a program that says itself what it found."""
    structlog_before = structlog.get_config() if structlog.is_configured() else None
    disabled_before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    structlog.configure(processors=[_drop])
    try:
        yield
    finally:
        logging.disable(disabled_before)
        if structlog_before is None:
            structlog.reset_defaults()
        else:
            structlog.configure(**structlog_before)


def _drop(logger: object, method: str, keys: Mapping[str, Any]) -> Mapping[str, Any]:
    raise structlog.DropEvent


class _Redactor:
    """Replaces known secrets in finished text, in the spellings in which they may stand there."""

    def __init__(self) -> None:
        self._spellings: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secrets: tuple[str, ...]) -> None:
        for secret in secrets:
            if len(secret) >= _MIN_SECRET_CHARACTERS:
                in_json = json.dumps(secret, ensure_ascii=False)[1:-1]
                self._spellings |= {
                    secret,
                    in_json,
                    quote(secret, safe=""),
                    quote(secret),
                    _visible(secret),
                    repr(secret)[1:-1],
                }
        longest_first = sorted(self._spellings, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub("***", text)


def _visible(text: str) -> str:
    """The text with every character that could forge, hide or reorder a line turned into its escape."""
    return _DANGEROUS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def _visible_in_json(line: str) -> str:
    return _DANGEROUS.sub(lambda found: json.dumps(found[0])[1:-1], line)


_redactor = _Redactor()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """One thing that was logged, not yet turned into text. `time` in seconds since 1970."""

    time: float
    level: int
    logger: str
    message: object
    keys: Mapping[str, object] = field(default_factory=dict)
    exc_info: Any = None

    @property
    def signal_id(self) -> str | None:
        given = self.keys.get("signal_id")
        return None if given is None or given == "" else str(given)


class _Intake(logging.Handler):
    """The caller's side: takes records from structlog and stdlib into the queue. Never blocks, never raises."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.waiting: queue.SimpleQueue[_Record | logging.LogRecord | threading.Event | None] = queue.SimpleQueue()
        self._capacity = capacity
        self._dropped = 0
        self._dropped_lock = threading.Lock()

    def put(self, record: _Record | logging.LogRecord) -> None:
        if self.waiting.qsize() < self._capacity:
            self.waiting.put(record)
        else:
            with self._dropped_lock:
                self._dropped += 1

    def take_dropped(self) -> int:
        """How many records were dropped since the last call."""
        if not self._dropped:
            return 0
        with self._dropped_lock:
            dropped, self._dropped = self._dropped, 0
        return dropped

    def handle(self, record: logging.LogRecord) -> bool:
        # Instead of the inherited lock and error printing: a put into the queue needs neither.
        self.put(record)
        return True


class _Channel:
    """What a structlog logger ends in: each call becomes a record of that logger's name."""

    def __init__(self, intake: _Intake, name: str) -> None:
        self._intake = intake
        self._name = name

    def _take(self, level: int, keys: dict[str, Any]) -> None:
        message = keys.pop("event", "")
        exc_info = keys.pop("exc_info", None)
        if exc_info is True:
            exc_info = sys.exc_info()
        elif isinstance(exc_info, BaseException):
            exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
        self._intake.put(
            _Record(time=time.time(), level=level, logger=self._name, message=message, keys=keys, exc_info=exc_info)
        )

    def debug(self, keys: dict[str, Any]) -> None:
        self._take(logging.DEBUG, keys)

    def info(self, keys: dict[str, Any]) -> None:
        self._take(logging.INFO, keys)

    def warning(self, keys: dict[str, Any]) -> None:
        self._take(logging.WARNING, keys)

    def error(self, keys: dict[str, Any]) -> None:
        self._take(logging.ERROR, keys)

    def critical(self, keys: dict[str, Any]) -> None:
        self._take(logging.CRITICAL, keys)

    warn = warning
    exception = error
    fatal = critical
    msg = info


def _whole(logger: object, method: str, keys: Mapping[str, Any]) -> tuple[tuple[Mapping[str, Any]], dict[str, Any]]:
    return (keys,), {}


def _route_to(intake: _Intake, level: int, leaky: Collection[str]) -> Callable[[], None]:
    """Points structlog and the root logger at the intake. Returns what undoes it."""
    root = logging.getLogger()
    root_level = root.level
    structlog_before = structlog.get_config() if structlog.is_configured() else None
    quiet = {name: level if level <= logging.DEBUG else max(level, logging.WARNING) for name in _CHATTY_LIBRARIES}
    quiet |= {name: max(level, logging.WARNING) for name in (*_LEAKY_LIBRARIES, *leaky)}
    library_levels = {name: logging.getLogger(name).level for name in quiet}

    # Google's libraries keep their records to themselves unless told otherwise.
    google = logging.getLogger("google")
    google_propagated, google.propagate = google.propagate, True

    root.addHandler(intake)
    root.setLevel(level)
    for name, library_level in quiet.items():
        logging.getLogger(name).setLevel(library_level)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _whole],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *names: _Channel(intake, str(names[0]) if names else "execution_service"),
        # A cached logger would go on writing to a log that was stopped.
        cache_logger_on_first_use=False,
    )

    def restore() -> None:
        root.removeHandler(intake)
        root.setLevel(root_level)
        google.propagate = google_propagated
        for name, library_level in library_levels.items():
            logging.getLogger(name).setLevel(library_level)
        if structlog_before is None:
            structlog.reset_defaults()
        else:
            structlog.configure(**structlog_before)

    return restore


_STDLIB_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def _from_stdlib(record: logging.LogRecord) -> _Record:
    keys = {name: value for name, value in vars(record).items() if name not in _STDLIB_ATTRIBUTES}
    return _Record(
        time=record.created,
        level=record.levelno,
        logger=record.name,
        message=record.getMessage(),
        keys=keys,
        exc_info=record.exc_info,
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """A finished record: `text` is one line, `more` the lines of a traceback, none of which can be taken for a record."""

    text: str
    more: str
    of_signal: bool


def _shortened(message: object) -> str:
    # Redacted first: a cut might leave half of a secret.
    text = _redactor(str(message))
    if len(text) <= _MAX_CHARACTERS:
        return text
    return f"{text[:_MAX_CHARACTERS]} ({len(text) - _MAX_CHARACTERS} more characters)"


def _traceback_of(record: _Record) -> str:
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return _shortened("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))


def _text_line(record: _Record) -> _Line:
    signal_id = record.signal_id
    shown_id = None if signal_id is None else _visible(signal_id)
    message = _visible(_shortened(record.message))
    if record.level >= logging.WARNING:
        message = f"{logging.getLevelName(record.level)} | {message}"
    if shown_id is not None and not re.search(rf"(?<![\w-]){re.escape(shown_id)}(?![\w-])", message):
        message = f"{message} | {shown_id}"
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.time))
    more = "".join(f"    | {_visible(line)}\n" for line in _traceback_of(record).split("\n") if line)
    return _Line(f"{stamp} | [EXECUTION] | {_redactor(message)}\n", _redactor(more), signal_id is not None)


def _json_line(record: _Record) -> _Line:
    milliseconds = int(record.time * 1000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    shown: dict[str, object] = {
        "time": f"{stamp}.{milliseconds % 1000:03}Z",
        "level": logging.getLevelName(record.level),
        "message": _shortened(record.message),
    }
    if "action" in record.keys:
        shown["action"] = record.keys["action"]
    if record.signal_id is not None:
        shown["signal_id"] = record.signal_id
    shown["logger"] = record.logger
    for key, value in record.keys.items():
        if key not in {"action", "signal_id"}:
            shown[f"{key}_" if key in shown else key] = value
    if trace := _traceback_of(record):
        shown["traceback"] = trace
    try:
        line = json.dumps(shown, ensure_ascii=False, allow_nan=False, default=str)
    except (TypeError, ValueError):
        # NaN, a circular value or a key that is no text: said in Python's spelling rather than not at all.
        line = json.dumps(
            {key: value if isinstance(value, str) else repr(value) for key, value in shown.items()}, ensure_ascii=False
        )
    return _Line(f"{_visible_in_json(_redactor(line))}\n", "", record.signal_id is not None)


class _Sink(Protocol):
    """A place for finished text. `write` raises OSError or ValueError (closed) where it cannot."""

    name: str

    def write(self, text: str) -> None: ...

    def close(self) -> None: ...


class _LogFile:
    """A file that only its owner can read, begun anew when full; older parts are kept as NAME.1 (the newest), NAME.2, ….

    Several processes may write to it: each write appends whole lines, and a file that another process has moved away is opened again.
    """

    def __init__(self, path: Path, max_bytes: int, kept: int) -> None:
        self.name = str(path)
        self._path = path
        self._max_bytes = max_bytes
        self._kept = kept
        self._fd: int | None = None
        self._torn = False

    def write(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        fd, size = self._opened()
        if size and size + len(data) > self._max_bytes:
            self._rotate()
            fd, size = self._opened()
        if self._torn:
            data = b"\n" + data
        while data:
            try:
                written = os.write(fd, data)
            except OSError:
                self.close()
                raise
            self._torn = written < len(data)
            data = data[written:]

    def close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _opened(self) -> tuple[int, int]:
        """The file's descriptor and size, after making sure that it still is the file of that name."""
        if self._fd is not None:
            ours = os.fstat(self._fd)
            try:
                there = os.stat(self._path)
            except FileNotFoundError:
                self.close()
            else:
                if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):
                    return self._fd, ours.st_size
                self.close()
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # The file may be older than we are; another owner's file stays as that owner wants it.
        with contextlib.suppress(PermissionError):
            os.fchmod(self._fd, 0o600)
        return self._fd, os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self.close()
        for number in range(self._kept, 0, -1):
            older = self._path if number == 1 else self._numbered(number - 1)
            with contextlib.suppress(FileNotFoundError):
                older.replace(self._numbered(number))
        if not self._kept:
            self._path.unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class _Console:
    """A text stream that somebody else owns."""

    def __init__(self, stream: TextIO) -> None:
        self.name = getattr(stream, "name", "the console")
        self._stream = stream
        self._gone = False

    def write(self, text: str) -> None:
        if self._gone:
            raise BrokenPipeError
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()
        except BrokenPipeError:
            self._gone = True
            # Otherwise Python tries again at exit to flush what nobody reads, and ends with an error of its own.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            raise

    def close(self) -> None:
        """Leaves the stream open."""


def _is_same_file(stream: TextIO, path: Path) -> bool:
    """Whether the stream already goes into that file (`… > logs/execution_service.log`)."""
    try:
        descriptor = stream.fileno()
        there, ours = os.stat(path), os.fstat(descriptor)
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            return False
        # A shell's ">" writes at an offset of its own: whatever else is printed there would overwrite our lines.
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_APPEND)
    except (OSError, ValueError, AttributeError):
        return False
    return True


class _Target:
    """A sink that may fail: it is left out for a while, and what happened to it is said once."""

    def __init__(self, sink: _Sink, *, retry_seconds: float, journey_only: bool = False) -> None:
        self._sink = sink
        self._retry_seconds = retry_seconds
        self._journey_only = journey_only
        self._lost_lines = 0
        self._failed_at: float | None = None

    def write(self, lines: list[_Line]) -> str | None:
        """Writes its part of the lines. Returns a sentence for the other targets if it has just failed or recovered."""
        chosen = [line for line in lines if line.of_signal] if self._journey_only else lines
        if not chosen:
            return None
        if self._failed_at is not None and time.monotonic() - self._failed_at < self._retry_seconds:
            self._lost_lines += len(chosen)
            return None
        text = "".join(line.text if self._journey_only else line.text + line.more for line in chosen)
        try:
            self._sink.write(text)
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with one place, the others and the service go on
            first = self._failed_at is None
            self._failed_at = time.monotonic()
            self._lost_lines += len(chosen)
            return (
                f"Cannot write the log to {self._sink.name}: {_reason(exc)}; logging goes on without it"
                if first
                else None
            )
        if self._failed_at is None:
            return None
        lost, self._lost_lines, self._failed_at = self._lost_lines, 0, None
        return f"The log {self._sink.name} is written again; up to {lost} lines are missing from it"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            # The lines were handed over; a disk's last complaint has nobody left to hear it.
            self._sink.close()


def _reason(exc: Exception) -> str:
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc) or type(exc).__name__


class _Writer:
    """The thread that empties the queue into the targets."""

    def __init__(self, intake: _Intake, targets: list[_Target], to_line: Callable[[_Record], _Line]) -> None:
        self._intake = intake
        self._targets = targets
        self._to_line = to_line
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def flush(self, timeout_seconds: float) -> bool:
        written = threading.Event()
        self._intake.waiting.put(written)
        return written.wait(timeout_seconds)

    def stop(self, timeout_seconds: float) -> None:
        self._intake.waiting.put(None)
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        going_on = True
        while going_on:
            lines: list[_Line] = []
            flushed: list[threading.Event] = []
            for item in self._batch():
                if item is None:
                    going_on = False
                elif isinstance(item, threading.Event):
                    flushed.append(item)
                else:
                    lines.append(self._line(item))
            if dropped := self._intake.take_dropped():
                lines.append(
                    self._own(f"{dropped} log records were dropped: they came faster than they could be written")
                )
            self._write(lines)
            for event in flushed:
                event.set()
        for target in self._targets:
            target.close()

    def _batch(self) -> Iterator[_Record | logging.LogRecord | threading.Event | None]:
        yield self._intake.waiting.get()
        for _ in range(_BATCH_RECORDS):
            try:
                yield self._intake.waiting.get_nowait()
            except queue.Empty:
                return

    def _line(self, item: _Record | logging.LogRecord) -> _Line:
        try:
            return self._to_line(_from_stdlib(item) if isinstance(item, logging.LogRecord) else item)
        except Exception as exc:  # noqa: BLE001 - any value may be logged, also one that cannot be shown; the thread must survive it
            return self._own(f"A log record could not be shown: {type(exc).__name__}")

    def _own(self, message: str, level: int = logging.WARNING) -> _Line:
        return self._to_line(_Record(time=time.time(), level=level, logger=__name__, message=message))

    def _write(self, lines: list[_Line]) -> None:
        news = [sentence for target in self._targets if (sentence := target.write(lines)) is not None]
        # What is said about one place may bring another to light; a place that fails or recovers all the time ends it here.
        for _ in self._targets:
            if not news:
                return
            said = [self._own(sentence) for sentence in news]
            news = [sentence for target in self._targets if (sentence := target.write(said)) is not None]
