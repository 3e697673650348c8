"""Leases as they are kept: who works which account, and how one is taken, renewed and given back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """Tells a process from every other that ever was, on any machine."""

    boot_id: str
    """Of one run of one kernel; containers share it."""
    pid_namespace: str
    """In which the process has its number: containers have their own, and each may have a process 7."""
    time_namespace: str
    """By whose clock its start is shown; empty where the kernel has none."""
    pid: int
    start_ticks: int
    """Since the kernel's start: one number is given to many processes in turn."""

    @property
    def place(self) -> tuple[str, str, str]:
        """Where its number and its start mean what they mean."""
        return (self.boot_id, self.pid_namespace, self.time_namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who works a desk: an account's orders, or what belongs to no account. `holder` is empty where it was given back."""

    partition: str
    holder: str
    epoch: int
    """Rises with each taking."""
    beat: int
    """Rises with each renewal: what a contender watches, for the clocks of two machines cannot be compared."""
    term_seconds: float
    """Its holder's: after so long without a beat it may be taken over."""
    host: str
    pid: int
    taken_at: datetime
    renewed_at: datetime
    process: ProcessIdentity | None = None
    """The holder, where it can be told whether that is dead; None of one that could not say so, or of an earlier version."""

    @property
    def mark(self) -> tuple[str, int, int]:
        """Differs from any other state that this lease was ever in."""
        return (self.holder, self.epoch, self.beat)


class LeaseStore(Protocol):
    """Which process works which account."""

    async def leases(self) -> list[Lease]:
        """One that cannot be read is left out: nobody's to take, and nobody's to keep."""

    async def take_lease(self, lease: Lease, seen: Lease | None) -> bool:
        """Puts this lease in the place of the one that was seen; False if somebody has moved that since."""

    async def renew_leases(self, holder: str, partitions: Sequence[str], at: datetime) -> None:
        """Moves the beat of those of these that the holder still has."""

    async def release_leases(self, holder: str, partitions: Sequence[str]) -> None:
        """Gives back those of these that the holder has."""
