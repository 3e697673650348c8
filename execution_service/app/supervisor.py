"""Keeps every long-running part of the process alive: restarts it when it has failed, alerts people, and again when restarting does not help;
knows none of the parts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import structlog

from execution_service.app.log_lines import safe
from execution_service.core import backoff
from execution_service.core.texts.service import part_failed, part_failing_on, service_ends
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part

log = structlog.get_logger(__name__)

WELL_AFTER_SECONDS = 60.0
"""A part that has run so long is well again: its next failure is the first of another trouble."""
FAILURES_AT_MOST = 10
"""In succession, which with the pauses between them takes two minutes: more of the same is in vain."""
LONGEST_REASON = 300


class PartState(StrEnum):
    """How a part stands."""

    RUNNING = "RUNNING"
    RESTARTING = "RESTARTING"
    """It has failed and waits for its next try."""
    GIVEN_UP = "GIVEN_UP"
    """It cannot be kept alive, and so the process ends."""


class PartEnded(Exception):
    """A part has returned, though it is to run for as long as the process."""


class PartCancelled(Exception):
    """Something that a part waited for was cancelled, by nobody who wants the part to end."""


@dataclass(slots=True)
class _Kept:
    """One part, and how it has fared. `since` is when it came into its state, `began_at` when its present run did, by the monotonic clock."""

    part: Part
    since: datetime
    began_at: float
    state: PartState = PartState.RUNNING
    failures: int = 0
    """In succession."""
    restarts: int = 0
    last_failure: str = ""
    task: asyncio.Task[None] | None = None


class AlertsPeople(Protocol):
    """Who stores alerts for people and has them sent."""

    async def raise_alert(self, kind: str, text: str) -> None: ...


class Supervisor:
    """Restarts what fails, after a pause that grows, and alerts people at the first failure, and when restarting does not help.

    What cannot be kept alive makes the process end (`given_up`): a service without one of its parts would look alive and not be. One account's
    part does so only where no other account is well, since the others' trading must not end for it, and one that is not vital never does; they
    are tried on at the longest pause.
    """

    def __init__(self, clock: Clock, alerts: AlertsPeople) -> None:
        self._clock = clock
        self._people = alerts
        self._kept: dict[str, _Kept] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._alerts: set[asyncio.Task[None]] = set()
        self._reason = ""
        self._has_given_up = asyncio.Event()

    # --- what is kept -------------------------------------------------------------------------------------------

    def keep(self, part: Part) -> asyncio.Task[None]:
        """Runs the part from now on, and again each time it has failed; where one of its name is being ended, when that has ended. Raises
        ValueError for a name that is kept already."""
        kept, predecessor = self._begin(part), self._ending.get(part.name)
        kept.task = asyncio.create_task(self._run_after(predecessor, kept), name=part.name)
        return kept.task

    async def see_through(self, part: Part) -> None:
        """Runs, in the caller's own task, what is done when it returns; again each time it has failed. Raises ValueError as `keep`."""
        kept = self._begin(part)
        try:
            await self._run(kept, is_done_by_return=True)
        finally:
            self._forget(kept)

    async def end(self, *names: str) -> None:
        """Cancels these parts, as far as they are kept, and returns when they have ended, also where somebody else ends them already. To be
        ended is no failure."""
        ending = [self._kept.pop(name) for name in names if name in self._kept]
        tasks = {kept.part.name: kept.task for kept in ending if kept.task is not None}
        for task in tasks.values():
            task.cancel()
        others = {self._ending[name] for name in names if name in self._ending and name not in tasks}
        self._ending |= tasks
        await asyncio.gather(*tasks.values(), *others, return_exceptions=True)
        for name, task in tasks.items():
            if self._ending.get(name) is task:
                del self._ending[name]

    async def end_all(self) -> None:
        """Ends every part, and gives up the alerts that could not be raised until now; they stand in the log."""
        await self.end(*self._kept)
        for task in tuple(self._alerts):
            task.cancel()
        await asyncio.gather(*self._alerts, return_exceptions=True)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parts that are kept, in the order in which they were begun."""
        return tuple(self._kept)

    def states(self) -> dict[str, dict[str, str | int]]:
        """By name: state, restarts since the start, why it failed the last time, and since when (ISO 8601, UTC) it is in that state."""
        return {
            name: {
                "state": kept.state.value,
                "restarts": kept.restarts,
                "last_failure": kept.last_failure,
                "since": kept.since.isoformat(),
            }
            for name, kept in self._kept.items()
        }

    async def given_up(self) -> str:
        """Waits until the process has to end; why."""
        await self._has_given_up.wait()
        return self._reason

    # --- one part -----------------------------------------------------------------------------------------------

    def _begin(self, part: Part) -> _Kept:
        if part.name in self._kept:
            raise ValueError(f"{part.name} is kept already")
        kept = self._kept[part.name] = _Kept(part, self._clock.now(), self._clock.monotonic())
        return kept

    def _forget(self, kept: _Kept) -> None:
        if self._kept.get(kept.part.name) is kept:
            del self._kept[kept.part.name]

    async def _run_after(self, predecessor: asyncio.Task[None] | None, kept: _Kept) -> None:
        if predecessor is not None:
            await asyncio.wait({predecessor})
        await self._run(kept, is_done_by_return=False)

    async def _run(self, kept: _Kept, *, is_done_by_return: bool) -> None:
        while True:
            kept.began_at = self._clock.monotonic()
            failure: Exception
            try:
                await kept.part.run()
                if is_done_by_return:
                    return
                failure = PartEnded("it has ended, though it is to run for as long as the service")
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                failure = PartCancelled("something that it waited for was cancelled")
            except Exception as exc:  # noqa: BLE001  whatever it was, the part is begun anew
                failure = exc
            await self._take_failure(kept, failure)
            kept.restarts += 1
            kept.state, kept.since = PartState.RUNNING, self._clock.now()

    async def _take_failure(self, kept: _Kept, failure: Exception) -> None:
        """Logs and alerts it, and returns when it is time for the next try: never, where the process has to end for it."""
        if self._clock.monotonic() - kept.began_at >= WELL_AFTER_SECONDS:
            kept.failures = 0
        kept.failures += 1
        kept.last_failure = _in_short(failure)
        kept.state, kept.since = PartState.RESTARTING, self._clock.now()
        name, pause = kept.part.name, backoff.DEFAULT_BACKOFF.pause_seconds(kept.failures)
        is_in_vain = kept.failures >= FAILURES_AT_MOST
        if is_in_vain and self._ends_the_process(kept.part):
            await self._give_up(kept, failure)
        log.error(
            f"{name} failed ({kept.failures} in succession) and begins anew in {pause:g} s: {kept.last_failure}",
            action="part_restarted",
            part=name,
            exc_info=failure,
        )
        if kept.failures == 1:
            self._tell(f"part_failed:{name}", part_failed(part=name, reason=kept.last_failure))
        elif kept.failures == FAILURES_AT_MOST and kept.part.is_vital:
            words = part_failing_on(
                part=name, account_id=kept.part.account_id, failures=kept.failures, reason=kept.last_failure
            )
            self._tell(f"part_failing_on:{name}", words)
        await self._clock.sleep(pause)

    async def _give_up(self, kept: _Kept, failure: Exception) -> None:
        kept.state, name = PartState.GIVEN_UP, kept.part.name
        words = f"{name} cannot be kept alive, {kept.failures} failures in succession: {kept.last_failure}"
        log.critical(f"{words}; the service ends", action="part_given_up", part=name, exc_info=failure)
        self._tell(
            f"part_given_up:{name}",
            service_ends(part=name, failures=kept.failures, reason=kept.last_failure),
        )
        self._reason = self._reason or words
        self._has_given_up.set()
        await asyncio.get_running_loop().create_future()  # until it is cancelled: nobody may take it for done

    def _ends_the_process(self, part: Part) -> bool:
        """Whether without this part nothing is left that would be worth going on for."""
        if not part.is_vital:
            return False
        if part.account_id is None:
            return True
        states: dict[str, set[PartState]] = {}
        for other in self._kept.values():
            if other.part.account_id is not None:
                states.setdefault(other.part.account_id, set()).add(other.state)
        return not any(
            found == {PartState.RUNNING} for account_id, found in states.items() if account_id != part.account_id
        )

    # --- people -------------------------------------------------------------------------------------------------

    @property
    def is_alerting(self) -> bool:
        """Whether an alert of a part that failed is not stored yet."""
        return bool(self._alerts)

    def _tell(self, kind: str, text: str) -> None:
        task = asyncio.create_task(self._until_raised(kind, text), name=f"alert {kind}")
        self._alerts.add(task)
        task.add_done_callback(self._alerts.discard)

    async def _until_raised(self, kind: str, text: str) -> None:
        """Beside the restart, which waits for no alert: what stores or sends alerts may be the very part that fails."""
        failures = 0
        while True:
            try:
                await self._people.raise_alert(kind, text)
                return
            except Exception as exc:
                failures += 1
                log.error(f"Alert {kind} could not be raised: {exc}", action="alert_failed", kind=kind, exc_info=exc)
            await self._clock.sleep(backoff.DEFAULT_BACKOFF.pause_seconds(failures))


def _in_short(failure: BaseException) -> str:
    """One line without secrets; of several failures at once, the first."""
    while isinstance(failure, BaseExceptionGroup) and failure.exceptions:
        failure = failure.exceptions[0]
    words = safe(str(failure) or type(failure).__name__)
    return words if len(words) <= LONGEST_REASON else words[:LONGEST_REASON] + "…"
