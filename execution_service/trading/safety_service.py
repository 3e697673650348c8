"""The safety service as this process knows it: asked every two seconds, never while an order waits for the answer; what is not known lets no new
risk pass. How it is asked is told in transport, what its answers mean in core."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import structlog

from execution_service.core.messages.events_in import Hint
from execution_service.core.risk.safety import (
    NotReached,
    Policy,
    SafetyStatus,
    UnclearAnswer,
    read_policies,
    read_status,
)
from execution_service.core.texts.safety import safety_stops, safety_unknown, safety_well
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.connectivity import Connectivity
from execution_service.runtime.supervision import Part
from execution_service.runtime.wake_up import WakeUp

log = structlog.get_logger(__name__)

ASK_SECONDS = 2.0
ASK_AGAIN_SECONDS = 0.5
"""After a question that got no clear answer."""
KNOWN_SECONDS = 5.0
"""An answer counts so long from the moment that it was asked for."""
HINTS = ("ess.", "policy.")
"""Events that begin so say that something there may have changed."""


class AsksSafetyService(Protocol):
    """The wire. Each call ends within a bounded time."""

    async def status(self) -> bytes:
        """The body of a good answer. Raises NotReached, UnclearAnswer."""

    async def policies(self) -> bytes | None:
        """The body of a good answer; None: it has no policies. Raises NotReached, UnclearAnswer."""


class Standing(StrEnum):
    """How things stand with the safety service."""

    ALLOWS = "ALLOWS"
    STOPS = "STOPS"
    UNKNOWN = "UNKNOWN"


class SafetyService:
    """Whether new risk may pass by it, and its policies; from memory, at any moment."""

    def __init__(self, *, asked: AsksSafetyService, clock: Clock, alerts: RaisesAlerts, is_fail_open: bool) -> None:
        """`is_fail_open` (ESS_FAIL_OPEN): what is not known stops nothing. A stop that was told holds until its end is told."""
        self._asked = asked
        self._clock = clock
        self._alerts = alerts
        self._is_fail_open = is_fail_open
        self._wake = WakeUp(clock)
        self._connectivity = Connectivity("The safety service", clock)
        self._status: SafetyStatus | None = None
        """As it was told last; it counts until `_counts_until`, but for a stop where what is unknown stops nothing."""
        self._counts_until = float("-inf")
        self._trouble = "it was not asked yet"
        """Why there is no clear answer of the latest question."""
        self._policies: tuple[Policy, ...] = ()
        """The last that could be read: they stay in force while others cannot."""
        self._policy_trouble: str | None = "they were not asked for yet"
        self._hints = 0
        self._said: Standing | None = None
        self._unknown_since: float | None = clock.monotonic()
        """By the monotonic clock; None: it is known."""

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process. Without it nothing is known, which its orders notice; the service goes on."""
        return (Part("safety service", self.watch, is_vital=False),)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await self._wake.wait(ASK_SECONDS if self._trouble == "" else ASK_AGAIN_SECONDS)

    def take_hint(self, hint: Hint) -> None:
        """Something may have changed there: asked at once. What the hint says counts for nothing, least of all as an end of a stop."""
        if hint.event_type.startswith(HINTS):
            self._hints += 1
            self._wake.tell()

    async def look(self) -> None:
        """Asks once; people are told of what has changed. Raises nothing for what is answered, or is not."""
        begun_at, hints = self._clock.monotonic(), self._hints
        is_hinted, self._hints = hints > 0, 0
        try:
            status = read_status(await self._asked.status())
        except UnclearAnswer as exc:
            self._is_unclear(str(exc))
        except NotReached as exc:
            self._connectivity.fails(str(exc))
            self._trouble = str(exc)
            if is_hinted:
                self._counts_until = float("-inf")  # what was told before may be over
        else:
            self._connectivity.answers()
            self._status, self._trouble, self._counts_until = status, "", begun_at + KNOWN_SECONDS
            await self._look_at_policies()
        await self._tell()

    def _is_unclear(self, why: str) -> None:
        """It has answered, and nobody can tell what."""
        self._connectivity.answers()
        self._trouble, self._counts_until = why, float("-inf")

    async def _look_at_policies(self) -> None:
        try:
            body = await self._asked.policies()
            policies = () if body is None else read_policies(body)
        except (UnclearAnswer, NotReached) as exc:
            self._policy_trouble = str(exc)
            return
        self._policy_trouble = None
        if policies != self._policies:
            told = ", ".join(f"{p.limit} {p.value.normalize():f} ({p.key})" for p in policies) or "none"
            log.warning(f"Policies of the safety service: {told}", action="safety_policies")
            self._policies = policies

    # --- what is known ------------------------------------------------------------------------------------------

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The last that could be read."""
        return self._policies

    def reasons(self) -> tuple[str, ...]:
        """Why no new risk may pass at this moment, in words; empty: it may."""
        is_known = self._clock.monotonic() <= self._counts_until
        if self._status is not None and self._status.stops is not None and (is_known or self._is_fail_open):
            return (self._status.stops,)
        if self._is_fail_open:
            return ()
        if not is_known:
            why = self._trouble or f"its last answer is older than {KNOWN_SECONDS:g} s"
            return (f"the state of the safety service is not known: {why}",)
        if self._policy_trouble is not None:
            return (f"the policies of the safety service are not known: {self._policy_trouble}",)
        return ()

    def silent_seconds(self) -> float:
        """How long it has not been known whether it lets trade; 0: it is. For figures, as others' silence."""
        return 0.0 if self._unknown_since is None else self._clock.monotonic() - self._unknown_since

    def standing(self) -> tuple[Standing, str]:
        """With the reason, or the state that it told."""
        is_known = self._clock.monotonic() <= self._counts_until
        if self._status is not None and self._status.stops is not None and (is_known or self._is_fail_open):
            return Standing.STOPS, self._status.stops
        if not is_known:
            return Standing.UNKNOWN, self._trouble or f"its last answer is older than {KNOWN_SECONDS:g} s"
        if self._policy_trouble is not None:
            return Standing.UNKNOWN, f"policies: {self._policy_trouble}"
        assert self._status is not None
        return Standing.ALLOWS, self._status.state

    def component(self) -> dict[str, str | None]:
        """For `/health` and the notice for scripts: `status` is OK or DEGRADED."""
        standing, words = self.standing()
        if standing is Standing.ALLOWS:
            return {"status": "OK", "message": words}
        effect = "unknown stops nothing (ESS_FAIL_OPEN)" if not self.reasons() else "no new risk passes"
        return {"status": "DEGRADED", "message": f"{words}; {effect}"}

    # --- telling ------------------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        """Each change once."""
        standing, words = self.standing()
        if standing is Standing.UNKNOWN and self._unknown_since is None:
            self._unknown_since = self._clock.monotonic()
        elif standing is not Standing.UNKNOWN:
            self._unknown_since = None
        before, self._said = self._said, standing
        if standing is before:
            return
        log.warning(f"The safety service {standing.lower()}: {words}", action="safety_service", standing=standing.value)
        if standing is Standing.STOPS:
            await self._alerts.raise_alert("safety_stops", safety_stops(reason=words))
        elif standing is Standing.UNKNOWN:
            text = safety_unknown(reason=words, is_fail_open=self._is_fail_open)
            await self._alerts.raise_alert("safety_unknown", text)
        elif before is not None:
            await self._alerts.raise_alert("safety_well", safety_well(state=words))
