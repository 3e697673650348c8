"""Tells a watcher outside, over and over, that this process lives and can take orders; what the watcher does when it stops is the watcher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from execution_service.runtime.clock import Clock
from execution_service.runtime.connectivity import Connectivity
from execution_service.runtime.supervision import Part
from execution_service.transport.heartbeat_http import HeartbeatNotTaken


class SendsHeartbeats(Protocol):
    """The wire. Each call ends within a bounded time."""

    async def send(self, body: Mapping[str, object]) -> None:
        """Raises HeartbeatNotTaken."""


class Stands(Protocol):
    """How the service stands, from memory alone."""

    mode: str
    version: str

    def status(self) -> str: ...


class Heartbeat:
    """While orders could be neither stored nor worked none is sent: then the watcher is to notice."""

    def __init__(self, *, wire: SendsHeartbeats, standing: Stands, seconds: float, clock: Clock) -> None:
        """`seconds`: from one to the next."""
        self._wire = wire
        self._standing = standing
        self._seconds = seconds
        self._clock = clock
        self.connectivity = Connectivity("The watcher (HEARTBEAT_URL)", clock)

    def part(self) -> Part:
        """What runs for as long as the process; trading goes on without it."""
        return Part("heartbeat", self.run, is_vital=False)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            status = self._standing.status()
            if status != "DOWN":
                body = {
                    "service": "execution",
                    "status": status,
                    "mode": self._standing.mode,
                    "version": self._standing.version,
                    "timestamp": self._clock.now().isoformat(timespec="seconds"),
                }
                try:
                    await self._wire.send(body)
                except HeartbeatNotTaken as exc:
                    self.connectivity.fails(str(exc))
                else:
                    self.connectivity.answers()
            await self._clock.sleep(self._seconds)
