"""Open positions are told with what the market says they are worth, at a bounded rate, and what is not known is said."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from execution_service.core.orders.request import Purpose
from execution_service.delivery import position_marks
from tests.fakes import BY_HAND, UNPROTECTED, RecordingEvents, World, world_of

ROUND = 60.0


def marks(told: RecordingEvents) -> list[Mapping[str, object]]:
    return [body for body in told.of("position.updated") if body.get("is_mark")]


def figures(told: RecordingEvents) -> list[tuple[object, object, object, object]]:
    return [(b["symbol"], b["mark"], b["mark_source"], b["unrealized_pnl"]) for b in marks(told)]


async def holding(world: World, signal_id: str = "in", side: str = "BUY", price: str = "10", **changes: object) -> None:
    world.send(signal_id, side=side, quantity=100, **changes)
    await world.run(1)
    world.fill(signal_id, price=price)
    await world.run(1)


async def test_a_position_is_told_with_the_brokers_quote_and_its_profit(tmp_path: Path) -> None:
    told = RecordingEvents()
    async with world_of(
        tmp_path, market=BY_HAND, rules=UNPROTECTED, events_out=told, position_marks_seconds=ROUND
    ) as world:
        await holding(world)
        await holding(world, "short", "SELL", symbol="MSFT")
        world.quote(bid=11, ask="11.5", last="11.25")
        world.quote("MSFT", bid=9, ask=9, last=9)
        await world.run(ROUND)
        assert sorted(figures(told)) == [("AAPL", 11.25, "QUOTE", 125), ("MSFT", 9, "QUOTE", 100)]
        long, short = sorted(marks(told), key=lambda body: str(body["symbol"]))
        assert (long["side"], long["quantity"], long["entry_price"], long["is_open"]) == ("LONG", 100, 10, True)
        assert (short["side"], short["quantity"], short["entry_price"]) == ("SHORT", 100, 10)
        assert long["trade_id"] in {document["_id"] for document in world.documents("positions")}
        assert (long["account_id"], long["strategy_id"], long["current_price"]) == ("acct-1", "momentum", 11.25)


async def test_it_is_told_again_when_its_mark_has_changed_and_at_most_once_a_round(tmp_path: Path) -> None:
    told = RecordingEvents()
    async with world_of(
        tmp_path, market=BY_HAND, rules=UNPROTECTED, events_out=told, position_marks_seconds=ROUND
    ) as world:
        await holding(world)
        for price in (11, 11, 12):
            for _ in range(6):
                world.quote(bid=price, ask=price, last=price)
                await world.run(ROUND / 6)
        assert [mark for _, mark, _, _ in figures(told)] == [11, 12]
        assert len({event.event_id for event in told.told}) == len(told.told)
        calls = [name for name, _ in world.broker_calls if name == "quotes"]
        assert len(calls) == 3, "the broker is asked once a round"


async def test_that_no_price_is_known_is_said_once_with_null(tmp_path: Path) -> None:
    told = RecordingEvents()
    async with world_of(
        tmp_path, market=BY_HAND, rules=UNPROTECTED, events_out=told, position_marks_seconds=ROUND
    ) as world:
        await holding(world)
        world.quote(refusal="no subscription")
        await world.run(3 * ROUND)
        found = figures(told)
        assert found[-1] == ("AAPL", None, None, None), "the execution of ours is too old by now"
        assert found.count(found[-1]) == 1
        assert {"mark_at", "current_price"} <= {name for name, value in marks(told)[-1].items() if value is None}


async def test_what_a_contract_is_worth_is_counted_and_what_is_not_known_is_null(tmp_path: Path) -> None:
    told = RecordingEvents()
    async with world_of(
        tmp_path, market=BY_HAND, rules=UNPROTECTED, events_out=told, position_marks_seconds=ROUND
    ) as world:
        await holding(world, symbol="GC", instrument_type="FUTURE", expiry="20250627", multiplier="100")
        world.quote("GC", bid=12, ask=12, last=12)
        await world.run(ROUND)
        assert figures(told) == [("GC", 12, "QUOTE", 20_000)]


async def test_a_position_that_is_closed_is_told_no_more_and_nobody_is_asked_while_nothing_is_held(
    tmp_path: Path,
) -> None:
    told = RecordingEvents()
    async with world_of(
        tmp_path, market=BY_HAND, rules=UNPROTECTED, events_out=told, position_marks_seconds=ROUND
    ) as world:
        await world.run(2 * ROUND)
        assert "quotes" not in {name for name, _ in world.broker_calls}
        await holding(world)
        world.exit("out", "in", quantity=100)
        await world.run(1)
        world.fill("out", price="11", purpose=Purpose.EXIT)
        await world.run(3 * ROUND)
        assert marks(told) == []
        assert "quotes" not in {name for name, _ in world.broker_calls}


def latest(told: RecordingEvents) -> Mapping[str, object]:
    """As a reader sees the one position: of its events the one with the latest timestamp."""
    return max(told.of("position.updated"), key=lambda body: str(body["timestamp"]))


async def test_a_position_that_is_closed_while_its_price_is_asked_for_stays_told_as_closed(tmp_path: Path) -> None:
    told = RecordingEvents()
    async with world_of(
        tmp_path, market=BY_HAND, rules=UNPROTECTED, events_out=told, position_marks_seconds=ROUND
    ) as world:
        await holding(world)
        await world.run(ROUND - 3)
        world.exit("out", "in", quantity=100)
        world.quote(bid=11, ask=11, last=11)
        answer = world.broker_faults.holds["quotes"] = asyncio.Event()
        await world.run_until(lambda: "quotes" in {name for name, _ in world.broker_calls})
        world.fill("out", price="11", purpose=Purpose.EXIT)
        await world.run(0.5)
        assert latest(told)["is_open"] is False
        answer.set()
        await world.run(1)
        assert latest(told)["is_open"] is False
        assert marks(told) == []


async def test_a_mark_bears_the_moment_of_the_holding_and_not_that_of_the_price(tmp_path: Path) -> None:
    told = RecordingEvents()
    async with world_of(
        tmp_path, market=BY_HAND, rules=UNPROTECTED, events_out=told, position_marks_seconds=ROUND
    ) as world:
        await holding(world)
        world.quote(bid=11, ask=11, last=11)
        answer = world.broker_faults.holds["quotes"] = asyncio.Event()
        await world.run_until(lambda: "quotes" in {name for name, _ in world.broker_calls})
        asked_at = world.clock.now()
        await world.run(0.5)
        answer.set()
        await world.run(1)
        (mark,) = marks(told)
        assert mark["timestamp"] == asked_at.isoformat(timespec="milliseconds")


async def test_a_fill_that_is_recorded_and_not_booked_is_no_open_position_for_a_mark(tmp_path: Path) -> None:
    told = RecordingEvents()
    async with world_of(
        tmp_path, market=BY_HAND, rules=UNPROTECTED, events_out=told, position_marks_seconds=ROUND
    ) as world:
        await holding(world)
        await holding(world, "other", symbol="MSFT")
        world.exit("out", "in", quantity=100)
        await world.run(ROUND - 6)
        world.store_faults.refused.add("execution_positions")
        world.fill("out", price="11", purpose=Purpose.EXIT)
        await world.run(6)
        world.store_faults.refused.clear()
        assert {body["symbol"] for body in marks(told)} == {"MSFT"}, "of the other all is known"
        await world.run(ROUND - 1)
        closed = [body for body in told.of("position.updated") if body["symbol"] == "AAPL"]
        assert max(closed, key=lambda body: str(body["timestamp"]))["is_open"] is False


async def test_what_could_not_be_published_is_told_in_the_next_round_as_it_is_then(tmp_path: Path) -> None:
    told = RecordingEvents()
    async with world_of(
        tmp_path, market=BY_HAND, rules=UNPROTECTED, events_out=told, position_marks_seconds=ROUND
    ) as world:
        await holding(world)
        told.is_away = True
        world.quote(bid=11, ask=11, last=11)
        await world.run(ROUND)
        told.is_away = False
        await world.run(1)
        assert marks(told) == [], "it is not tried again by itself"
        world.quote(bid=12, ask=12, last=12)
        await world.run(ROUND)
        assert [mark for _, mark, _, _ in figures(told)] == [12]
        assert not world.unsettled()


async def test_many_positions_are_told_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position_marks, "POSITIONS_AT_ONCE", 2)
    told = RecordingEvents()
    async with world_of(
        tmp_path, market=BY_HAND, rules=UNPROTECTED, events_out=told, position_marks_seconds=ROUND
    ) as world:
        symbols = [f"S{number}" for number in range(5)]
        for symbol in symbols:
            await holding(world, symbol, symbol=symbol)
        counts = []
        for _ in range(3):
            await world.run(ROUND)
            counts.append(len(marks(told)))
        assert counts == [2, 4, 6]
        assert sorted(str(body["symbol"]) for body in marks(told)[:5]) == symbols


async def test_nothing_is_told_where_marks_are_not_asked_for(tmp_path: Path) -> None:
    told = RecordingEvents()
    async with world_of(tmp_path, market=BY_HAND, rules=UNPROTECTED, events_out=told) as world:
        await holding(world)
        await world.run(3 * ROUND)
        assert marks(told) == []
