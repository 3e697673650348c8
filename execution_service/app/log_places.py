"""The places that log lines go to, console and files, each of which may fail without holding anybody up; what is written there is not known here."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
import time
from logging.handlers import RotatingFileHandler, WatchedFileHandler
from pathlib import Path
from typing import Any, TextIO

_FILE_BUFFER_BYTES = 1_000_000


class Target(logging.StreamHandler[TextIO]):
    """A place for lines that may fail: it is left out for a while, and what happened to it is said once. Only the writer comes here."""

    terminator = ""
    retry_seconds = 0.0
    journey_only = False
    is_given_up = False
    _lost_lines = 0
    _failed_at: float | None = None
    _failure: BaseException | None = None

    def write(self, lines: list[str]) -> str | None:
        """Writes whole lines in one go. Returns a sentence for the other targets if it has just failed or recovered."""
        if self._failed_at is not None and time.monotonic() - self._failed_at < self.retry_seconds:
            self._lost_lines += len(lines)
            return None
        self._failure = None
        self.emit(logging.makeLogRecord({"msg": "".join(lines)}))
        if self._failure is not None:
            is_first = self._failed_at is None
            self._failed_at = time.monotonic()
            self._lost_lines += len(lines)
            reason = getattr(self._failure, "strerror", None) or str(self._failure) or type(self._failure).__name__
            return f"Cannot write the log to {self.place}: {reason}; logging goes on without it" if is_first else None
        if self._failed_at is None:
            return None
        lost, self._lost_lines, self._failed_at = self._lost_lines, 0, None
        return f"The log {self.place} is written again; up to {lost} lines are missing from it"

    @property
    def place(self) -> str:
        return str(getattr(self.stream, "name", "the console"))

    def handleError(self, record: logging.LogRecord) -> None:
        # Whatever is wrong with one place, the others and the service go on.
        self._failure = sys.exc_info()[1]

    # Without the lock that the library takes: at the process's end `logging.shutdown` comes for it, and must not wait for a place that hangs.
    def flush(self) -> None:
        if self.stream is not None and not self.is_given_up:
            self.stream.flush()

    def close(self) -> None:
        # The lines were handed over; a disk's last complaint is of no use to anybody.
        if not self.is_given_up:
            with contextlib.suppress(OSError, ValueError):
                super().close()


class LogFile(Target, RotatingFileHandler, WatchedFileHandler):
    """A file that only its owner can read, begun anew when full; older parts are kept as NAME.1 (the newest), NAME.2, ….

    Several processes may write to it: whole lines are appended, and a file that another process has moved away is opened again.
    """

    def __init__(self, path: Path, max_bytes: int, kept: int, *, journey_only: bool = False) -> None:
        RotatingFileHandler.__init__(self, path, maxBytes=max_bytes, backupCount=kept, delay=True)
        self.journey_only = journey_only
        self.dev = self.ino = -1

    @property
    def place(self) -> str:
        return self.baseFilename

    def shouldRollover(self, record: logging.LogRecord) -> int:
        self.reopenIfNeeded()
        return super().shouldRollover(record)

    def handleError(self, record: logging.LogRecord) -> None:
        super().handleError(record)
        # With what is left in its buffer, which would otherwise come out of its turn.
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.close()

    def _open(self) -> Any:
        path = Path(self.baseFilename)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stream = os.fdopen(fd, "a", _FILE_BUFFER_BYTES, "utf-8", "backslashreplace")
        # The file may be older than we are; another owner's file stays as that owner wants it.
        with contextlib.suppress(PermissionError):
            os.fchmod(fd, 0o600)
        found = os.fstat(fd)
        self.dev, self.ino = found.st_dev, found.st_ino
        if found.st_size and os.pread(fd, 1, found.st_size - 1) != b"\n":
            # A full disk or a crash tore the last line: what follows begins on a line of its own.
            stream.write("\n")
        return stream


class Console(Target):
    """A text stream that somebody else owns, and that stays open."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:
        super().handleError(record)
        if isinstance(self._failure, BrokenPipeError):
            # Its reader will not come back.
            self.retry_seconds = float("inf")
            # Otherwise Python tries again at exit to flush what nobody reads, and ends with an error of its own.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)


def is_same_file(stream: TextIO, path: Path) -> bool:
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
