"""Stances in the running service: set by any door, kept over a death, and told; what plans and other orders do under each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import structlog
from pymongo.errors import AutoReconnect

from brokers.base import Instrument, OrderType, Side
from brokers.errors import BrokerUnavailable
from brokers.paper.model import Action, Fault, Operation
from execution_service.control.requests import Kind
from execution_service.control.results import Done, Refused
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.core.planning.rules import PlanRule, PlanRules
from execution_service.core.risk.limits import Scope
from execution_service.storage.ports.commands import Command
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.trading import volumes
from tests.fakes import ACCOUNT, BY_HAND, DATABASE, DOWN, RESTING, Moment, World, world_of
from tests.fakes.broker import GatedBroker
from tests.service.audit import audit
from tests.service.test_plans import body, hold, planned, publish, results


def say(world: World, stance: str, scope: str = "all", **more: Any) -> None:
    """As a message."""
    said = {"command": "STANCE", "scope": scope, "stance": stance, "by": "Ada", "reason": "the market gaps"} | more
    world.commands.publish(json.dumps(said).encode(), world.clock.now())


async def set_stance(world: World, stance: str, scope: str = "all", **more: Any) -> Any:
    said = {"scope": scope, "stance": stance, "by": "Ada", "reason": "the market gaps"} | more
    now = world.clock.now()
    command_id = f"c-{stance}-{now.timestamp()}"
    command = Command(command_id=command_id, kind=Kind.STANCE, body=said, published_at=now, received_at=now)
    return await world.service.commands.give(command)


def children(world: World, symbol: str = "AAPL") -> list[tuple[str, str, str | None, Status]]:
    """Of the plan's orders in a symbol, the oldest first: name behind the leg's, quantity, limit, status."""
    found = [o for o in world.records() if o.signal_id.startswith("plan_") and o.symbol == symbol]
    found.sort(key=lambda order: order.signal_id)
    return [
        (
            o.signal_id.partition(":")[2],
            str(o.quantity),
            None if o.limit_price is None else str(o.limit_price),
            o.status,
        )
        for o in found
    ]


def exits_at_work(world: World) -> list[str]:
    return [o.signal_id for o in world.records() if o.identity.purpose is Purpose.EXIT and not o.status.is_final]


async def held(world: World) -> dict[str, Decimal]:
    rows = await world.store_beside().open_ledgers(ACCOUNT) or []
    return {row.instrument.symbol: row.position.quantity for row in rows}


async def test_in_an_emergency_reductions_climb_the_ladder_with_one_order_at_a_time(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        world.quote("AAPL", bid="10", ask="10.02", last="10")
        say(world, "EMERGENCY")
        await world.run(2)
        publish(world, body(world, ("AAPL", 0), ("MSFT", 5)))
        await world.run(3)
        assert children(world) == [("000", "100", "9.9000", Status.SUBMITTED)]
        world.fill(exits_at_work(world)[0], quantity=30, purpose=Purpose.EXIT)
        world.quote("AAPL", bid="9", ask="9.02", last="9")
        await world.run(18)
        assert children(world)[1:] == [("000.1", "70", "8.7300", Status.SUBMITTED)]
        assert len(exits_at_work(world)) == 1
        await world.run(17)
        assert children(world)[2:] == [("000.2", "70", "8.1000", Status.SUBMITTED)]
        await world.run(20)
        (told,) = results(world)
        assert told["residuals"] == {"AAPL|STOCK": "-70", "MSFT|STOCK": "5"}
        assert [leg["reason"] for leg in told["legs"]] == ["OUTSIDE_COLLAR", "EMERGENCY_REDUCE_ONLY"]
        assert await held(world) == {"AAPL": 70}
        assert all(o.accepted_request.order_type is OrderType.LIMIT for o in world.records() if o.symbol == "AAPL"
                   and o.identity.purpose is Purpose.EXIT)  # fmt: skip
        audit(world)


@pytest.mark.parametrize(("volume", "slices"), [("500", ["150", "150"]), ("0.1", ["3", "3"]), (None, ["300"])])
async def test_where_the_broker_tells_a_volume_reductions_leave_in_parts_of_it_and_a_hundred_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, volume: str | None, slices: list[str]
) -> None:
    async def usual_volumes(_: Any, instruments: Collection[Instrument]) -> dict[Instrument, Decimal]:
        return {} if volume is None else dict.fromkeys(instruments, Decimal(volume))

    monkeypatch.setattr(GatedBroker, "usual_volumes", usual_volumes, raising=False)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 300)
        world.quote("AAPL", bid="10", ask="10.02", last="10")
        publish(world, body(world, ("AAPL", 0), aggressiveness="EMERGENCY"))
        await world.run(3)
        for n, quantity in enumerate(slices):
            assert [each[1] for each in children(world)] == slices[: n + 1]
            world.fill(exits_at_work(world)[0], quantity=int(quantity), purpose=Purpose.EXIT)
            await world.run(3)


async def test_where_the_broker_tells_a_volume_increases_leave_in_parts_of_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Market(monkeypatch, Decimal(500))
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.quote("AAPL", bid="10", ask="10.02", last="10")
        publish(world, body(world, ("AAPL", 250), aggressiveness="URGENT"))
        await world.run(3)
        for n, quantity in enumerate(("100", "100", "50")):
            bought = [o for o in world.records() if o.symbol == "AAPL"]
            assert [f"{o.quantity:f}" for o in bought] == ["100", "100", "50"][: n + 1]
            world.fill(bought[-1].signal_id, quantity=int(quantity))
            await world.run(3)
        assert results(world)[0]["state"] == "COMPLETED"
        assert await held(world) == {"AAPL": 250}
        audit(world)


class Market:
    """What a broker says of usual volumes: a figure, what it raises, or nothing at all (None)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, says: Decimal | BrokerUnavailable | None) -> None:
        self.says = says
        self.calls = 0
        market = self

        async def usual_volumes(_: Any, instruments: Collection[Instrument]) -> dict[Instrument, Decimal]:
            market.calls += 1
            if market.says is None:
                await asyncio.Event().wait()
            if isinstance(market.says, BrokerUnavailable):
                raise market.says
            return dict.fromkeys(instruments, market.says)

        monkeypatch.setattr(GatedBroker, "usual_volumes", usual_volumes, raising=False)
        monkeypatch.setattr(volumes, "ANSWER_SECONDS", 3600.0)  # a call ends in this clock's time, or not at all


def volume_lines(logs: Sequence[Any]) -> list[str]:
    return [line["action"] for line in logs if str(line.get("action")).startswith("volume_")]


async def test_a_reduction_waits_a_second_for_a_volume_that_does_not_come_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = Market(monkeypatch, None)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        for symbol, strategy in (("AAPL", "momentum"), ("MSFT", "value")):
            await hold(world, symbol, 300, strategy=strategy)
            world.quote(symbol, bid="10", ask="10.02", last="10")
        with structlog.testing.capture_logs() as logs:
            publish(world, body(world, ("AAPL", 0), aggressiveness="EMERGENCY"))
            await world.run(3)
            publish(world, body(world, ("MSFT", 0), strategy_id="value", aggressiveness="EMERGENCY"))
            await world.run(2)
            assert [each[1] for each in (*children(world), *children(world, "MSFT"))] == ["300", "300"]
            await world.run(40)
        assert [each[2] for each in children(world)] == ["9.9000", "9.7000", "9.0000"]
        assert (market.calls, volume_lines(logs)) == (1, ["volume_unknown"])


async def test_a_broker_that_tells_no_volume_is_left_alone_for_a_while_and_what_it_told_before_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = Market(monkeypatch, Decimal(500))
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        for symbol, strategy in (("AAPL", "momentum"), ("MSFT", "value")):
            await hold(world, symbol, 450, strategy=strategy)
            world.quote(symbol, bid="10", ask="10.02", last="10")
        with structlog.testing.capture_logs() as logs:
            publish(world, body(world, ("AAPL", 0), aggressiveness="EMERGENCY"))
            await world.run(2)
            market.says, market.calls = BrokerUnavailable("out of order"), 0
            for _ in range(2):
                world.fill(exits_at_work(world)[0], quantity=150, purpose=Purpose.EXIT)
                await world.run(1.5)
            assert [each[1] for each in children(world)] == ["150", "150", "150"]
            publish(world, body(world, ("MSFT", 0), strategy_id="value", aggressiveness="EMERGENCY"))
            await world.run(1.5)
            assert [each[1] for each in children(world, "MSFT")] == ["450"]
            assert (market.calls, volume_lines(logs)) == (1, ["volume_unknown"])
            market.says = Decimal(500)
            await world.run(16)
        assert [each[1] for each in children(world, "MSFT")] == ["450", "150"]
        assert volume_lines(logs) == ["volume_unknown", "volume_known"]


async def test_while_the_broker_is_away_nothing_is_asked_for_what_cannot_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = Market(monkeypatch, Decimal(500))
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 300)
        world.quote("AAPL", bid="10", ask="10.02", last="10")
        world.broker_faults.unavailable = DOWN
        await world.run(30)
        with structlog.testing.capture_logs() as logs:
            publish(world, body(world, ("AAPL", 0), aggressiveness="EMERGENCY"))
            await world.run(60)
        assert (market.calls, volume_lines(logs), children(world)) == (0, [], [])
        world.broker_faults.unavailable = None
        await world.run(60)
        assert [each[1] for each in children(world)][:1] == ["150"]


async def test_a_market_order_ends_the_ladder_where_the_operator_allows_it(tmp_path: Path) -> None:
    rules = PlanRules({Scope(): PlanRule(market_in_emergency=True)})
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, plan_rules=rules) as world:
        await hold(world, "AAPL", 100)
        world.quote("AAPL", bid="10", ask="10.02", last="10")
        publish(world, body(world, ("AAPL", 0), aggressiveness="EMERGENCY"))
        await world.run(60)
        assert [limit for _, _, limit, _ in children(world)] == ["9.9000", "9.7000", "9.0000", None]
        world.fill(exits_at_work(world)[0], purpose=Purpose.EXIT)
        await world.run(3)
        assert results(world)[0]["state"] == "COMPLETED"


async def test_a_working_exit_that_is_too_tame_makes_way_and_its_late_fill_counts(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        world.quote("AAPL", bid="10", ask="10.02", last="10")
        publish(world, body(world, ("AAPL", 0), aggressiveness="PASSIVE"))
        await world.run(3)
        assert children(world) == [("000", "100", "10.02", Status.SUBMITTED)]
        world.fill(exits_at_work(world)[0], quantity=40, purpose=Purpose.EXIT)
        say(world, "EMERGENCY", f"account:{ACCOUNT}")
        await world.run(6)
        assert children(world) == [
            ("000", "100", "10.02", Status.CANCELLED),
            ("000.1", "60", "9.9000", Status.SUBMITTED),
        ]
        world.fill(exits_at_work(world)[0], purpose=Purpose.EXIT)
        await world.run(3)
        assert results(world)[0]["state"] == "COMPLETED"
        assert await held(world) == {}


async def test_an_exit_that_made_way_for_a_stance_that_was_lifted_meanwhile_is_sent_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        world.quote("AAPL", bid="10", ask="10.02", last="10")
        publish(world, body(world, ("AAPL", 0), aggressiveness="PASSIVE"))
        await world.run(3)
        world.broker_faults.errors["cancel_order"] = [DOWN] * 1000
        await set_stance(world, "EMERGENCY")
        await world.run(3)
        await set_stance(world, "NORMAL")
        await world.run(2)
        assert [(name, status) for name, *_, status in children(world)] == [("000", Status.SUBMITTED)]
        world.broker_faults.errors["cancel_order"].clear()
        await world.run(10)
        assert children(world) == [
            ("000", "100", "10.02", Status.CANCELLED),
            ("000.1", "100", "10.02", Status.SUBMITTED),
        ]
        world.fill(exits_at_work(world)[0], purpose=Purpose.EXIT)
        await world.run(3)
        assert results(world)[0]["state"] == "COMPLETED"


async def test_an_exit_that_cannot_be_cancelled_holds_up_no_other(tmp_path: Path) -> None:
    stuck = [Fault(operation=Operation.CANCEL, action=Action.IGNORE_CANCEL, symbol="AAPL", times=None)]
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, faults=stuck) as world:
        for symbol in ("AAPL", "MSFT"):
            await hold(world, symbol, 100)
            world.quote(symbol, bid="10", ask="10.02", last="10")
        publish(world, body(world, ("AAPL", 0), ("MSFT", 0), aggressiveness="PASSIVE"))
        await world.run(3)
        say(world, "EMERGENCY")
        await world.run(6)
        assert [name for name, *_ in children(world)] == ["000"]
        assert [name for name, *_ in children(world, "MSFT")] == ["001", "001.1"]


async def test_an_emergency_stops_every_entry_and_cancels_the_working_ones(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("working", symbol="NVDA", quantity=10)
        publish(world, body(world, ("MSFT", 5)))
        await world.run(3)
        say(world, "EMERGENCY")
        await world.run(5)
        assert {o.symbol: o.status for o in world.records()} == dict.fromkeys(("NVDA", "MSFT"), Status.CANCELLED)
        world.send("later", symbol="AAPL", quantity=1)
        await world.run(3)
        refused = world.record("later")
        assert refused.status is Status.REJECTED
        assert refused.reason is not None
        assert "stance EMERGENCY" in refused.reason.message
        assert len(world.notifier.titled("Stance EMERGENCY")) == 1
        audit(world)


async def test_a_stance_outlives_the_process_and_ends_when_it_is_said_to(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        until = (world.clock.now() + timedelta(seconds=60)).isoformat()
        assert isinstance(await set_stance(world, "EMERGENCY", until=until), Done)
        await world.restart()
        world.send("early", symbol="AAPL", quantity=1)
        await world.run(3)
        assert world.record("early").status is Status.REJECTED
        await world.run(60)
        world.send("late", symbol="AAPL", quantity=1)
        await world.run(3)
        assert world.record("late").status is Status.SUBMITTED


async def test_an_emergency_that_comes_when_it_is_over_changes_nothing_and_people_are_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("working", symbol="NVDA", quantity=10)
        await set_stance(world, "URGENT")
        await world.run(1)
        await world.kill()
        say(world, "EMERGENCY", until=(world.clock.now() + timedelta(seconds=30)).isoformat())
        world.clock.move(60)
        await world.start()
        await world.run(5)
        assert world.record("working").status is Status.SUBMITTED
        (kept,) = (await world.store_beside().stances()).records
        assert [change.stance.value for change in kept.history] == ["URGENT"]
        (command,) = world.documents("execution_commands", status="REFUSED")
        assert "over already" in command["outcome"]
        (notice,) = world.notifier.titled("Stance Not Set")
        assert "over already" in notice


async def test_an_emergency_whose_process_died_before_the_cancels_cancels_nothing_after_its_end(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("working", symbol="NVDA", quantity=10)
        await world.run(1)
        world.store_faults.breaks["execution_alerts.update_one"] = [AutoReconnect("away")] * 3
        with pytest.raises(StoreUnavailable):
            await set_stance(world, "EMERGENCY", until=(world.clock.now() + timedelta(seconds=30)).isoformat())
        await world.kill()
        world.store_faults.breaks.clear()
        world.clock.move(60)
        await world.start()
        await world.run(5)
        assert world.record("working").status is Status.SUBMITTED
        (command,) = world.documents("execution_commands")
        assert (command["status"], json.loads(command["outcome"])["cancels_asked"]) == ("DONE", 0)


async def test_a_stance_that_stops_and_cannot_be_read_is_told_to_people(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        say(world, "EMERGENCY", "accounts")
        say(world, "HALT", "accounts")
        say(world, "URGENT", "accounts")
        await world.run(2)
        assert len(world.notifier.titled("Stance Not Set")) == 1
        assert len(world.notifier.titled("Kill Not Carried Out")) == 1


async def test_a_stance_of_a_strategy_leaves_the_others_alone(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.quote("AAPL", bid="10", ask="10.02", last="10")
        await set_stance(world, "URGENT", "strategy:momentum")
        publish(world, body(world, ("AAPL", 5)))
        publish(world, body(world, ("AAPL", 7), strategy_id="value"))
        await world.run(3)
        sent = {str(o.quantity): o.accepted_request.order_type for o in world.records()}
        assert sent == {"5": OrderType.LIMIT, "7": OrderType.MARKET}


async def test_halt_is_the_kill_switch_and_beats_an_emergency(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        world.quote("AAPL", bid="10", ask="10.02", last="10")
        await set_stance(world, "EMERGENCY")
        say(world, "HALT")
        await world.run(5)
        (switch,) = await world.store_beside().switches()
        assert switch.switch.level.value == "halt"  # type: ignore[union-attr]
        publish(world, body(world, ("AAPL", 0)))
        await world.run(5)
        assert planned(world) == {}
        (told,) = results(world)
        assert [leg["reason"] for leg in told["legs"]] == ["HALTED"]


async def test_a_halt_ends_a_ladder_that_has_begun(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        world.quote("AAPL", bid="10", ask="10.02", last="10")
        publish(world, body(world, ("AAPL", 0), aggressiveness="EMERGENCY"))
        await world.run(3)
        say(world, "HALT")
        await world.run(30)
        assert len(children(world)) == 1
        (told,) = results(world)
        assert [leg["reason"] for leg in told["legs"]] == ["HALTED"]


@pytest.mark.parametrize(("said", "words"), [
    ({"stance": "PANIC"}, "unknown stance"),
    ({"stance": "EMERGENCY", "scope": "accounts"}, "is no scope"),
    ({"stance": "URGENT", "by": " "}, "must be named"),
    ({"stance": "URGENT", "until": "tomorrow"}, "no time in ISO 8601"),
    ({"stance": "URGENT", "until": "2000-01-01T00:00:00Z"}, "over already"),
])  # fmt: skip
async def test_a_stance_that_makes_no_sense_is_refused_and_changes_nothing(
    tmp_path: Path, said: dict[str, Any], words: str
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        told = await set_stance(world, said.pop("stance"), said.pop("scope", "all"), **said)
        assert isinstance(told, Refused)
        assert words in told.words
        assert (await world.store_beside().stances()).records == ()


async def test_where_a_stance_cannot_be_read_nothing_is_increased_until_it_is_set_anew(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        world.mongo[DATABASE]["execution_stances"].insert_one({"_id": "symbol:MSFT", "version": "?"})
        await world.run(2)
        world.send("entry", symbol="MSFT", quantity=1)
        world.send("other", symbol="NVDA", quantity=1)
        await world.run(3)
        assert world.record("entry").status is Status.REJECTED
        assert world.record("other").status is Status.SUBMITTED
        assert isinstance(await set_stance(world, "NORMAL", "symbol:MSFT"), Done)
        world.send("again", symbol="MSFT", quantity=1)
        await world.run(3)
        assert world.record("again").status is Status.SUBMITTED
        assert world.record("again").accepted_request.side is Side.BUY


async def climb(folder: Path, dies_at: tuple[int, Moment] | None) -> list[str]:
    """A ladder on which nothing fills, with one death in its course; without one, the calls that it takes."""
    async with world_of(folder, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        world.quote("AAPL", bid="10", ask="10.02", last="10")
        begun = len(world.gate.names)
        world.gate.dies_at = None if dies_at is None else (begun + dies_at[0], dies_at[1])
        publish(world, body(world, ("AAPL", 0), aggressiveness="EMERGENCY"))
        for _ in range(120):
            await world.run(1)
            assert len(exits_at_work(world)) <= 1
            if world.gate.is_dead:
                await world.restart()
            if results(world):
                break
        calls = list(world.gate.names) if dies_at is None else []
        assert [name for name, *_ in children(world)] == ["000", "000.1", "000.2"]
        assert len(world.placed()) == 4
        assert results(world)[0]["residuals"] == {"AAPL|STOCK": "-100"}
        return calls[begun:]


async def test_whenever_the_process_dies_each_rung_is_placed_once(tmp_path: Path) -> None:
    """A death before each write of the plan's record, and after it."""

    def place(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        return folder

    calls = await climb(place("whole"), None)
    writes = [n for n, name in enumerate(calls, 1) if name.startswith("execution_plans.")]
    assert len(writes) >= 6
    for number in writes:
        for moment in (Moment.BEFORE, Moment.AFTER):
            await climb(place(f"{number}-{moment}"), (number, moment))


@pytest.mark.parametrize("until", ["9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+05:00", "soon", 7])
async def test_an_end_that_no_clock_can_show_is_refused_and_stops_no_other_command(
    tmp_path: Path, until: object
) -> None:
    async with world_of(tmp_path) as world:
        world.cancel(command="STANCE", scope="all", stance="EMERGENCY", by="ann", until=until)
        await world.run(2)
        (command,) = world.documents("execution_commands")
        assert (command["status"], "until" in command["outcome"]) == ("REFUSED", True)
        await world.restart()
        assert world.service is not None
