"""Which processes of this machine are provably gone; what follows from that for an account is decided elsewhere.

Linux only, by `/proc`: where anything that the proof needs cannot be had (another system, another namespace, a `/proc` that hides), nothing is proven
and nobody is gone. Every doubt is for the living.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from execution_service.storage.ports.leases import ProcessIdentity

PROC = Path("/proc")
_ENDED = frozenset("ZXx")
"""States of a process whose threads run no more: a zombie, of which only the exit status is left, and one that is being removed."""


class SendsSignals(Protocol):
    """As `os.kill` does."""

    def __call__(self, pid: int, number: int, /) -> None:
        """Signal 0 only asks. Raises ProcessLookupError where there is no such process, PermissionError where it is another user's."""


class ProcessTable:
    """The processes of this machine, as far as they can be seen from here."""

    def __init__(self, proc: Path = PROC, signal: SendsSignals = os.kill) -> None:
        """`proc` and `signal` are the system's; tests hand in others."""
        self._proc = proc
        self._signal = signal
        self._own = self._read_own()

    @property
    def own(self) -> ProcessIdentity | None:
        """This process; None where it cannot be distinguished from every other that ever was."""
        return self._own

    def is_gone(self, process: ProcessIdentity) -> bool:
        """True only if that process surely runs no more, nor ever will again.

        Its number is looked up in our own namespace of processes, so it must be one of the same kernel and the same namespace. The kernel may
        have given the number of a namespace that is gone to a newer one. Then all that lived in the former is gone too, for a namespace
        lasts as long as its processes: not to find it here is as true a proof.
        """
        own = self._own
        if own is None or process.place != own.place:
            return False
        if not self._is_taken(process.pid):
            return True
        # `/proc` may have been mounted anew, and show another namespace than ours.
        if self._read_own() != own:
            return False
        found = self._look_up(process.pid)
        return found is not None and (found.start_ticks != process.start_ticks or found.has_ended)

    def _is_taken(self, pid: int) -> bool:
        """Whether a process has this number in our namespace. Asked of the kernel itself, for `/proc` may hide the processes of others."""
        try:
            self._signal(pid, 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            return True  # there and not ours to touch, or we may not ask
        return True

    def _look_up(self, pid: int) -> _Found | None:
        """None where it is hidden from us, or has just gone."""
        try:
            return _parse_stat((self._proc / str(pid) / "stat").read_text(encoding="ascii", errors="replace"))
        except (OSError, ValueError, IndexError):
            return None

    def _read_own(self) -> ProcessIdentity | None:
        pid = os.getpid()
        try:
            # More than one number: this `/proc` is that of a namespace around ours, and its entries are other processes than our numbers mean.
            status = (self._proc / "self" / "status").read_text(encoding="ascii", errors="replace")
            numbers = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
            found = self._look_up(pid)
            if numbers != [str(pid)] or found is None:
                return None
            return ProcessIdentity(
                boot_id=(self._proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
                pid_namespace=os.readlink(self._proc / "self/ns/pid"),
                time_namespace=self._time_namespace(),
                pid=pid,
                start_ticks=found.start_ticks,
            )
        except (OSError, ValueError, StopIteration):
            return None

    def _time_namespace(self) -> str:
        """Start times are shown by the clock of whoever reads them; a kernel without such namespaces has one clock."""
        try:
            return os.readlink(self._proc / "self/ns/time")
        except FileNotFoundError:
            return ""


@dataclass(frozen=True, slots=True)
class _Found:
    """What the kernel says of a number's present owner."""

    start_ticks: int
    has_ended: bool


def _parse_stat(text: str) -> _Found:
    """Of `/proc/PID/stat`; the second field is the program's name in brackets, which may contain anything. Raises ValueError, IndexError."""
    fields = text.rpartition(")")[2].split()
    state, threads, start_ticks = fields[0], int(fields[17]), int(fields[19])
    # The first thread of a process may have ended, and look like a zombie, while others run on.
    return _Found(start_ticks, state in _ENDED and threads <= 1)
