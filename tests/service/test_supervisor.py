"""What keeps the long-running parts alive: restarts with growing pauses, what people hear, and when it is in vain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog

from execution_service.app.log_lines import redact
from execution_service.app.supervisor import FAILURES_AT_MOST, WELL_AFTER_SECONDS, Supervisor
from execution_service.core.backoff import DEFAULT_BACKOFF
from execution_service.runtime.supervision import Part
from tests.fakes import HandClock


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


class Scripted:
    """A part whose every run does what the script says next: an error to raise, seconds to run before that, or None: it runs on."""

    def __init__(self, clock: HandClock, *script: Exception | float | None) -> None:
        self._clock = clock
        self._script = list(script)
        self.begun_at: list[float] = []
        self.ended = 0

    async def run(self) -> None:
        self.begun_at.append(self._clock.monotonic())
        try:
            while self._script:
                step = self._script.pop(0)
                if isinstance(step, Exception):
                    raise step
                if step is None:
                    break
                await self._clock.sleep(step)
            await asyncio.get_running_loop().create_future()
        finally:
            self.ended += 1

    @property
    def pauses(self) -> list[float]:
        return [after - before for before, after in zip(self.begun_at, self.begun_at[1:], strict=False)]


class Stage:
    """A supervisor on the hand-moved clock, and what people were told."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.told: list[tuple[str, str]] = []
        self.alert_errors: list[Exception] = []
        self.supervisor = Supervisor(self.clock, self)

    async def raise_alert(self, kind: str, text: str) -> None:
        if self.alert_errors:
            raise self.alert_errors.pop(0)
        self.told.append((kind, text))

    def keep(self, name: str, *script: Exception | float | None, account_id: str | None = None) -> Scripted:
        part = Scripted(self.clock, *script)
        self.supervisor.keep(Part(name, part.run, account_id))
        return part

    async def run(self, seconds: float) -> None:
        end = self.clock.monotonic() + seconds
        await settle()
        while (wake := self.clock.next_wake()) is not None and wake <= end:
            self.clock.move_to(wake)
            await settle()
        self.clock.move_to(end)
        await settle()

    def state(self, name: str) -> Any:
        return self.supervisor.states()[name]

    async def has_given_up(self) -> str | None:
        try:
            return await asyncio.wait_for(self.supervisor.given_up(), 0.001)
        except TimeoutError:
            return None


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.supervisor.end_all()


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as found:
        yield found


def failures(count: int) -> list[Exception]:
    return [RuntimeError(f"failure {n}") for n in range(1, count + 1)]


async def test_a_part_that_fails_is_begun_anew_after_pauses_that_grow_up_to_a_limit(stage: Stage) -> None:
    part = stage.keep("part", *failures(9), None)
    await stage.run(200)
    assert part.pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert stage.state("part")["state"] == "RUNNING"
    assert stage.state("part")["restarts"] == 9


async def test_a_part_that_returns_has_failed(stage: Stage) -> None:
    begun = 0

    async def returns() -> None:
        nonlocal begun
        begun += 1

    stage.supervisor.keep(Part("part", returns))
    await stage.run(0.6)
    assert begun == 2
    assert "it has ended" in stage.state("part")["last_failure"]


async def test_a_cancellation_of_what_it_waited_for_does_not_end_a_part(stage: Stage) -> None:
    begun = 0

    async def waits_for_a_cancelled_future() -> None:
        nonlocal begun
        begun += 1
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    stage.supervisor.keep(Part("part", waits_for_a_cancelled_future))
    await stage.run(0.6)
    assert begun == 2
    assert "cancelled" in stage.state("part")["last_failure"]


async def test_to_be_ended_is_no_failure(stage: Stage, logs: list[Any]) -> None:
    part = stage.keep("part", None)
    await stage.run(1)
    await stage.supervisor.end("part", "another that is not kept")
    assert (part.ended, len(part.begun_at)) == (1, 1)
    assert (stage.told, logs, stage.supervisor.states()) == ([], [], {})


async def test_a_part_can_be_ended_while_it_waits_for_its_next_try(stage: Stage) -> None:
    part = stage.keep("part", *failures(3))
    await stage.run(0.1)
    await stage.supervisor.end("part")
    await stage.run(60)
    assert len(part.begun_at) == 1


async def test_people_are_told_once_for_each_trouble(stage: Stage) -> None:
    stage.keep("part", *failures(3), WELL_AFTER_SECONDS, RuntimeError("much later"), None)
    await stage.run(10)
    assert [kind for kind, _ in stage.told] == ["part_failed:part"]
    assert "failure 1" in stage.told[0][1]
    await stage.run(60)
    assert [kind for kind, _ in stage.told] == ["part_failed:part"] * 2
    assert "much later" in stage.told[1][1]


async def test_after_a_time_of_running_well_the_pauses_begin_anew(stage: Stage) -> None:
    part = stage.keep("part", *failures(3), WELL_AFTER_SECONDS, *failures(2), None)
    await stage.run(200)
    assert part.pauses == [0.5, 1, 2, WELL_AFTER_SECONDS + 0.5, 1]


async def test_the_log_says_each_failure_and_how_long_until_the_next_try(stage: Stage, logs: list[Any]) -> None:
    stage.keep("part", *failures(2), None)
    await stage.run(10)
    said = [line["event"] for line in logs if line["action"] == "part_restarted"]
    assert said == [
        "part failed (1 in succession) and begins anew in 0.5 s: failure 1",
        "part failed (2 in succession) and begins anew in 1 s: failure 2",
    ]


async def test_the_state_says_since_when_and_why(stage: Stage) -> None:
    stage.keep("part", *failures(5), None)
    stage.keep("other", None)
    began = stage.clock.now().isoformat()
    await stage.run(1)
    assert stage.state("other") == {"state": "RUNNING", "restarts": 0, "last_failure": "", "since": began}
    found = stage.state("part")
    assert (found["state"], found["restarts"], found["last_failure"]) == ("RESTARTING", 1, "failure 2")
    assert found["since"] > began


async def test_what_the_state_and_people_are_told_holds_no_secret_and_is_short(stage: Stage) -> None:
    redact("hunter22hunter22")
    stage.keep("part", RuntimeError("mongodb://me:hunter22hunter22@host/ " + "x" * 5000), None)
    await stage.run(10)
    for text in (stage.state("part")["last_failure"], stage.told[0][1]):
        assert "hunter22" not in text
        assert len(text) < 1000


async def test_of_several_failures_at_once_the_first_is_told(stage: Stage) -> None:
    stage.keep("part", ExceptionGroup("unhandled errors in a TaskGroup", [RuntimeError("the first"), OSError()]), None)
    await stage.run(1)
    assert stage.state("part")["last_failure"] == "the first"


async def test_what_cannot_be_kept_alive_makes_the_process_end(stage: Stage) -> None:
    part = stage.keep("part", *failures(50))
    await stage.run(120)
    assert await stage.has_given_up() is None
    await stage.run(600)
    assert len(part.begun_at) == FAILURES_AT_MOST
    why = await stage.has_given_up()
    assert why is not None
    assert "part" in why
    assert f"failure {FAILURES_AT_MOST}" in why
    assert stage.state("part")["state"] == "GIVEN_UP"
    assert [kind for kind, _ in stage.told] == ["part_failed:part", "part_given_up:part"]


async def test_failures_between_which_it_ran_well_are_not_in_succession(stage: Stage) -> None:
    script: list[Exception | float] = []
    for failure in failures(3 * FAILURES_AT_MOST):
        script += [WELL_AFTER_SECONDS, failure]
    part = stage.keep("part", *script)
    await stage.run(3 * FAILURES_AT_MOST * (WELL_AFTER_SECONDS + 1))
    assert len(part.begun_at) > 2 * FAILURES_AT_MOST
    assert await stage.has_given_up() is None


async def test_one_accounts_part_does_not_end_the_trading_of_the_others(stage: Stage) -> None:
    part = stage.keep("trader one", *failures(50), account_id="one")
    stage.keep("trader two", None, account_id="two")
    await stage.run(300)
    assert await stage.has_given_up() is None
    assert set(part.pauses[10:]) == {DEFAULT_BACKOFF.longest_seconds}
    assert [kind for kind, _ in stage.told] == ["part_failed:trader one", "part_failing_on:trader one"]
    assert "one" in stage.told[1][1]


async def test_a_part_that_is_not_vital_never_ends_the_process_and_is_tried_on(stage: Stage) -> None:
    part = Scripted(stage.clock, *failures(FAILURES_AT_MOST + 5))
    stage.supervisor.keep(Part("HTTP API", part.run, is_vital=False))
    await stage.run(600)
    assert await stage.has_given_up() is None
    assert len(part.begun_at) == FAILURES_AT_MOST + 6
    assert [kind for kind, _ in stage.told] == ["part_failed:HTTP API"]


async def test_where_no_account_is_well_the_process_ends(stage: Stage) -> None:
    stage.keep("trader one", *failures(50), account_id="one")
    stage.keep("connection one", None, account_id="one")
    stage.keep("trader two", *failures(50), account_id="two")
    stage.keep("delivery", None)
    await stage.run(300)
    assert await stage.has_given_up() is not None


async def test_the_restart_waits_for_no_alert(stage: Stage, logs: list[Any]) -> None:
    """What stores or sends alerts may be the part that fails."""
    stage.alert_errors = [RuntimeError("the alerts fail, too")] * 3
    part = stage.keep("alerts", RuntimeError("first"), None)
    await stage.run(0.6)
    assert len(part.begun_at) == 2
    assert stage.told == []
    said = [line["event"] for line in logs if line["action"] == "alert_failed"]
    assert "Alert part_failed:alerts could not be raised: the alerts fail, too" in said
    await stage.run(10)
    assert [kind for kind, _ in stage.told] == ["part_failed:alerts"]


async def test_an_alert_that_hangs_delays_no_restart(stage: Stage) -> None:
    class Hangs:
        async def raise_alert(self, kind: str, text: str) -> None:
            await asyncio.get_running_loop().create_future()

    supervisor = Supervisor(stage.clock, Hangs())
    part = Scripted(stage.clock, *failures(2), None)
    supervisor.keep(Part("part", part.run))
    await stage.run(2)
    assert len(part.begun_at) == 3
    assert supervisor.is_alerting
    await supervisor.end_all()
    assert not supervisor.states()
    assert not supervisor.is_alerting


async def test_what_is_to_be_done_once_is_tried_until_it_is_done(stage: Stage) -> None:
    tries = 0

    async def done_at_the_third() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise RuntimeError("not yet")

    work = asyncio.create_task(stage.supervisor.see_through(Part("opening", done_at_the_third)))
    await stage.run(1.4)
    assert not work.done()
    assert stage.state("opening")["state"] == "RESTARTING"
    await stage.run(0.2)
    assert work.done()
    assert (tries, stage.supervisor.states()) == (3, {})


async def test_a_name_is_kept_once(stage: Stage) -> None:
    stage.keep("part", None)
    with pytest.raises(ValueError, match="part is kept already"):
        stage.keep("part", None)
    await stage.supervisor.end("part")
    stage.keep("part", None)


async def test_a_part_that_is_kept_again_while_it_is_being_ended_begins_when_that_has_ended(stage: Stage) -> None:
    events: list[str] = []

    async def ends_slowly() -> None:
        events.append("begun")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await stage.clock.sleep(3)
            events.append("ended")

    stage.supervisor.keep(Part("part", ends_slowly))
    await settle()
    ending = asyncio.create_task(stage.supervisor.end("part"))
    await settle()
    stage.supervisor.keep(Part("part", ends_slowly))
    await settle()
    assert events == ["begun"]
    await stage.run(3)
    assert events == ["begun", "ended", "begun"]
    assert ending.done()
    again = asyncio.create_task(stage.supervisor.end("part"))
    await stage.run(3)
    assert again.done()
    assert stage.supervisor.states() == {}


def test_the_pauses_have_a_bound_however_often_it_failed() -> None:
    assert DEFAULT_BACKOFF.pause_seconds(1) == 0.5
    assert DEFAULT_BACKOFF.pause_seconds(10**6) == DEFAULT_BACKOFF.longest_seconds
