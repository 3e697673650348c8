"""Whether one part of the outside answers: said when it stops, and when it answers again; nobody is asked here."""

from __future__ import annotations

import structlog

from execution_service.runtime.clock import Clock

log = structlog.get_logger(__name__)


class Connectivity:
    """Told by whoever asks the part how that went; says only what is new. `name` is the part's, for people."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._silent_since: float | None = None

    def fails(self, why: str) -> None:
        if self._silent_since is None:
            self._silent_since = self._clock.monotonic()
            log.warning(f"{self._name} does not answer: {why}", action="part_silent", part=self._name)

    def answers(self) -> None:
        if self._silent_since is not None:
            seconds = self._clock.monotonic() - self._silent_since
            self._silent_since = None
            log.info(f"{self._name} answers again, after {seconds:.0f} s", action="part_answers", part=self._name)

    def silent_seconds(self) -> float:
        """How long it has not answered; 0: it does, or was not asked."""
        return 0.0 if self._silent_since is None else self._clock.monotonic() - self._silent_since
