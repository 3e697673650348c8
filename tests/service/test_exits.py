"""Exits: capped to what their entry filled and others have not taken, late ones, and the order of things within one instrument."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Capabilities, Instrument
from brokers.errors import BrokerUnavailable, NotAnswered, RateLimited
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import ReasonCode, Status
from tests.fakes import BY_HAND, RESTING, World, world_of
from tests.service.audit import audit


def reason(world: World, signal_id: str) -> ReasonCode:
    said = world.exit_record(signal_id).reason
    assert said is not None
    return said.code


async def test_exit_is_capped_to_what_its_entry_filled_and_says_so(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        await world.run(1)
        world.fill("sig", 40)
        await world.run(1)
        world.cancel(signal_id="sig")
        await world.run(1)
        world.exit("out", "sig", quantity=100)
        await world.run(1)
        order = world.exit_record("out")
        assert order.quantity == 40
        assert world.book().orders(order.client_order_id)[0].ticket.quantity == 40
        world.fill("out", purpose=Purpose.EXIT)
        await world.run(1)
        assert world.publisher.of("out")[-1]["quantity"] == 40
        assert world.notifier.titled("Exit Capped")
        audit(world)


async def test_exit_of_an_entry_that_filled_nothing_is_rejected(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.cancel(signal_id="sig")
        await world.run(1)
        world.exit("out", "sig")
        await world.run(1)
        assert world.exit_record("out").status is Status.REJECTED
        assert reason(world, "out") is ReasonCode.NOTHING_TO_EXIT
        assert len(world.placed()) == 1


async def test_second_exit_of_a_closed_entry_is_rejected(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        world.exit("out-1", "sig")
        await world.run(2)
        world.exit("out-2", "sig")
        await world.run(2)
        assert reason(world, "out-2") is ReasonCode.NOTHING_TO_EXIT
        assert world.documents("positions")[0]["status"] == "CLOSED"


async def test_many_exits_of_one_entry_at_once_never_take_more_than_it_filled(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        for n in range(40):
            world.exit(f"out-{n}", "sig", quantity=30)
        await world.run(3)
        taken = [p for p in world.placed() if p.ticket.side == "SELL"]
        assert sum(p.ticket.quantity for p in taken) == 100
        assert {o.status for o in world.records() if o.identity.purpose is Purpose.EXIT} == {"FILLED", "REJECTED"}
        audit(world)


async def test_exit_waits_for_its_entry_to_finish(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        world.exit("out", "sig")
        await world.run(10)
        assert world.exit_record("out").status is Status.PENDING
        world.fill("sig")
        await world.run(2)
        assert world.exit_record("out").status is Status.SUBMITTED


async def test_exit_that_waits_holds_up_no_other_order_of_its_instrument(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        world.exit("out", "sig")
        world.send("other")
        await world.run(2)
        assert world.record("other").status is Status.SUBMITTED


async def test_exit_that_waits_goes_on_when_its_entry_is_filled_by_the_side_door(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        world.exit("out", "sig")
        await world.run(2)
        order_id = world.record().order_id
        await world.service.handle_order_fill(order_id, {"fill_id": "F-9", "quantity": 100, "price": "10"})
        await world.run(2)
        assert world.exit_record("out").status is Status.SUBMITTED


async def test_exit_that_waits_is_cancelled_at_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        world.exit("out", "sig")
        await world.run(2)
        world.cancel(signal_id="out")
        await world.run(1)
        assert world.exit_record("out").status is Status.CANCELLED
        world.fill("sig")
        await world.run(2)
        assert len(world.placed()) == 1


async def test_exit_that_waits_is_taken_up_again_after_a_restart(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        world.exit("out", "sig")
        await world.run(2)
        await world.kill()
        world.fill("sig")
        await world.start()
        await world.run(2)
        assert world.exit_record("out").status is Status.SUBMITTED


@pytest.mark.parametrize("entry", ["somebody-else", None])
@pytest.mark.parametrize(("held", "leaves"), [(100, 100), (250, 100), (40, 40), (0, None), (-30, None)])
async def test_exit_of_what_our_books_do_not_hold_takes_what_the_broker_holds_and_no_more(
    tmp_path: Path, entry: str | None, held: int, leaves: int | None
) -> None:
    """What was held before this service came, say; and with nothing there it would open a position."""
    async with world_of(tmp_path) as world:
        if held:
            world.book().move_position(Instrument(symbol="AAPL"), Decimal(held), Decimal(10))
        if entry is None:
            world.send("out", signal_type="EXIT", side="SELL")
        else:
            world.exit("out", entry)
        await world.run(15)
        out = world.exit_record("out")
        if leaves is None:
            assert out.reason is not None
            assert out.reason.code is ReasonCode.NOTHING_TO_EXIT
            assert f"the broker holds {held} of AAPL" in out.reason.message
            assert not world.placed()
        else:
            assert (out.status, out.filled_quantity) == (Status.FILLED, leaves)
            assert bool(world.notifier.titled("Exit Capped")) == (leaves < 100)


async def test_exit_of_an_entry_that_is_not_ours_is_not_remarked_upon_where_it_reduces(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        world.exit("out", "somebody-else")
        await world.run(10)
        assert world.exit_record("out").status is Status.FILLED
        assert not world.notifier.titled("Attention")


async def test_exit_that_comes_before_its_entry_is_capped_by_it_all_the_same(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.exit("out", "sig", quantity=250)
        await world.run(1)
        assert world.exit_record("out").status is Status.PENDING
        world.send()
        await world.run(3)
        assert world.exit_record("out").filled_quantity == 100
        assert [p.ticket.side.value for p in world.placed()] == ["BUY", "SELL"]
        audit(world)


async def test_exit_of_an_entry_that_was_refused_at_the_door_is_rejected(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(quantity=-1)
        await world.run(1)
        world.exit("out", "sig")
        await world.run(1)
        assert not world.placed()
        assert reason(world, "out") is ReasonCode.NOTHING_TO_EXIT


async def test_exit_of_another_instrument_than_its_entry_bought_is_rejected(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        world.exit("out", "sig", symbol="NVDA")
        await world.run(1)
        assert [p.ticket.instrument.symbol for p in world.placed()] == ["AAPL"]
        assert reason(world, "out") is ReasonCode.NOTHING_TO_EXIT


async def test_exit_that_leaves_its_entrys_exchange_open_is_executed_and_capped(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(exchange="ARCA", quantity=10)
        await world.run(1)
        world.exit("out", "sig", quantity=15)
        await world.run(1)
        assert world.exit_record("out").status is Status.FILLED
        assert world.exit_record("out").filled_quantity == 10
        (position,) = world.documents("positions")
        assert position["status"] == "CLOSED"
        assert world.placed()[-1].ticket.instrument.exchange == "ARCA"
        world.exit("out", "sig", quantity=15)
        await world.run(1)
        assert not world.documents("execution_dead_letters")
        audit(world)


async def test_late_exit_that_leaves_its_entrys_exchange_open_is_executed(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(exchange="ARCA")
        await world.run(1)
        world.exit("out", "sig", age_seconds=1000)
        await world.run(10)
        assert world.exit_record("out").status is Status.FILLED
        assert world.documents("positions")[0]["status"] == "CLOSED"
        audit(world)


async def test_exit_with_its_entrys_own_id_is_an_order_of_its_own(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        world.exit("sig", "sig", price=11)
        await world.run(1)
        assert world.record().status is world.exit_record("sig").status is Status.FILLED
        (document,) = world.documents("signal_store")
        assert document["position_status"] == "CLOSED"
        assert document["pnl_realized"] == 100.0


async def test_legs_of_a_pair_are_closed_leg_by_leg(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(leg_index=0, total_legs=2)
        world.send(leg_index=1, total_legs=2, symbol="NVDA", side="SELL", price=20)
        await world.run(1)
        world.exit("out", "sig", leg_index=0, total_legs=2, price=11)
        await world.run(1)
        (document,) = world.documents("signal_store", signal_id="sig")
        assert document["position_status"] == "OPEN"
        world.exit("out", "sig", leg_index=1, total_legs=2, symbol="NVDA", side="BUY", price=19)
        await world.run(1)
        (document,) = world.documents("signal_store", signal_id="sig")
        assert document["position_status"] == "CLOSED"
        assert document["pnl_realized"] == 200.0
        audit(world)


# --- late exits -----------------------------------------------------------------------------------------------------


async def test_late_exit_that_reduces_what_we_hold_is_executed_and_people_are_told(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        world.exit("out", "sig", age_seconds=1000)
        await world.run(10)
        assert world.exit_record("out").status is Status.FILLED
        assert any("late exit" in text for text in world.notifier.titled("Attention"))
        audit(world)


async def test_late_exit_without_a_reference_is_executed_if_it_reduces(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        world.send("out", signal_type="EXIT", side="SELL", age_seconds=1000)
        await world.run(10)
        assert world.exit_record("out").status is Status.FILLED


async def test_late_exit_is_capped_and_executed(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.fill("sig", 40)
        world.cancel(signal_id="sig")
        await world.run(2)
        world.exit("out", "sig", age_seconds=1000)
        await world.run(10)
        assert world.exit_record("out").status is Status.SUBMITTED
        assert world.exit_record("out").quantity == 40


async def test_late_exit_of_an_entry_that_is_not_ours_is_executed_if_it_reduces(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        world.exit("out", "somebody-elses", age_seconds=1000)
        await world.run(20)
        assert world.exit_record("out").status is Status.FILLED
        audit(world)


async def test_late_exit_that_would_open_a_position_is_stale(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.exit("out", "somebody-else", age_seconds=1000)
        await world.run(10)
        assert reason(world, "out") is ReasonCode.STALE_ORDER


async def test_late_exit_is_executed_though_its_entrys_fill_was_heard_of_a_moment_ago(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        world.exit("out", "sig")
        await world.run(1)
        await world.kill()
        world.fill("sig")
        world.clock.move(1000)
        await world.start()
        await world.run(10)
        assert world.record().status is Status.FILLED
        assert world.exit_record("out").status is Status.SUBMITTED


async def test_late_exit_waits_out_a_broker_that_is_down(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        world.broker_faults.unavailable = BrokerUnavailable("nightly restart", known_pause=True)
        world.exit("out", "sig")
        await world.run(600)
        assert world.exit_record("out").status is Status.PENDING
        world.broker_faults.unavailable = None
        await world.run(60)
        assert world.exit_record("out").status is Status.FILLED


async def test_exit_that_waits_for_a_resting_entry_keeps_waiting_while_it_would_reduce(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        world.exit("out", "sig")
        await world.run(2)
        world.fill("sig", 40)
        await world.run(400)
        assert world.exit_record("out").status is Status.PENDING
        world.cancel(signal_id="sig")
        await world.run(10)
        assert world.exit_record("out").status is Status.SUBMITTED
        assert world.exit_record("out").quantity == 40


async def test_exit_that_waits_for_an_entry_without_a_fill_becomes_stale(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        world.exit("out", "sig")
        await world.run(400)
        assert reason(world, "out") is ReasonCode.STALE_ORDER


# --- sequence -------------------------------------------------------------------------------------------------------


async def test_orders_of_one_instrument_are_placed_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        for n in range(50):
            world.send(f"sig-{n}")
        await world.run(2)
        placed = [p.ticket.client_order_id for p in world.placed()]
        assert placed == [world.client_id(f"sig-{n}") for n in range(50)]


async def test_across_instruments_exits_go_ahead_of_entries(tmp_path: Path) -> None:
    one_at_a_time = Capabilities(concurrent_calls=1, refuses_repeated_client_id=True)
    async with world_of(tmp_path, capabilities=one_at_a_time) as world:
        world.broker_faults.unavailable = BrokerUnavailable("for a moment", known_pause=True)
        await world.run(10)
        for n in range(20):
            world.send(f"in-{n}", symbol=f"IN{n}")
        for n in range(5):
            world.book().move_position(Instrument(symbol=f"OUT{n}"), Decimal(100), Decimal(10))
            world.send(f"out-{n}", signal_type="EXIT", side="SELL", symbol=f"OUT{n}")
        await world.run(1)
        world.broker_faults.unavailable = None
        await world.run(60)
        first = [p.ticket.side.value for p in world.placed()][:5]
        assert first == ["SELL"] * 5


async def test_nothing_follows_an_order_of_the_instrument_that_is_being_looked_for(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.errors["place_order"] = [TimeoutError("no answer")]
        world.broker_faults.holds["find"] = asyncio.Event()
        for n in range(5):
            world.send(f"sig-{n}")
        world.send("else", symbol="NVDA")
        await world.run(3)
        assert [o.status for o in world.records() if o.signal_id.startswith("sig-")] == ["SUBMITTING"] + ["PENDING"] * 4
        assert world.record("else").status is Status.FILLED
        world.broker_faults.holds.pop("find").set()
        await world.run(10)
        placed = [p.ticket.client_order_id for p in world.placed() if p.ticket.instrument.symbol == "AAPL"]
        assert placed == [world.client_id(f"sig-{n}") for n in range(5)]


async def test_people_are_told_once_of_an_exit_that_waits_long_for_its_entry(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send("in", order_type="LIMIT", limit_price=10, tif="GTC")
        await world.run(1)
        world.fill("in", 40)
        world.exit("out", "in", quantity=40)
        await world.run(25)
        told = "waits until its entry (in) has ended"
        assert not [text for text in world.notifier.texts if told in text]
        await world.run(1800)
        await world.restart()
        await world.run(1800)
        assert len([text for text in world.notifier.texts if told in text]) == 1
        world.cancel(signal_id="in")
        await world.run(10)
        assert world.exit_record("out").status is Status.SUBMITTED


@pytest.mark.parametrize("exchange", [None, "NASDAQ"])
async def test_an_exit_that_took_its_entrys_exchange_keeps_its_lane_and_its_pauses(
    tmp_path: Path, exchange: str | None
) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send("in", exchange=exchange)
        await world.run(1)
        world.fill("in")
        await world.run(1)
        world.broker_faults.errors["place_order"] = [NotAnswered("busy")] * 3
        world.exit("out", "in")
        await world.settle()
        assert world.exit_record("out").status is Status.PENDING
        await world.run(10)
        assert [type(e).__name__ for e in world.exit_record("out").events].count("NothingSent") == 3


@pytest.mark.parametrize("exchange", [None, "NASDAQ"])
async def test_an_exit_that_took_its_entrys_exchange_rests_while_the_calls_are_spent(
    tmp_path: Path, exchange: str | None
) -> None:
    reserving = Capabilities(needs_reservation=True, refuses_repeated_client_id=False)
    async with world_of(tmp_path, market=BY_HAND, capabilities=reserving) as world:
        world.send("in", exchange=exchange)
        await world.run(1)
        world.fill("in")
        await world.run(1)
        before = len(world.calls("reserve"))
        world.broker_faults.errors["place_order"] = [RateLimited("spent", wait_seconds=3.0)]
        world.exit("out", "in")
        await world.settle()
        world.broker_faults.errors["reserve"] = [RateLimited("spent", wait_seconds=3.0)] * 3
        await world.run(20)
        assert world.exit_record("out").status is Status.SUBMITTED
        assert len(world.calls("reserve")) - before <= 6


async def test_exit_that_waits_under_another_exchange_goes_on_when_its_entry_ends(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send("entry", exchange="NASDAQ")
        await world.run(1)
        world.exit("out", "entry")
        await world.run(1)
        world.fill("entry")
        await world.run(10)
        assert world.exit_record("out").status is Status.SUBMITTED


async def test_exit_whose_intent_waited_out_a_store_outage_is_looked_at_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        commits: Any = world.service._store._commits
        make = commits.make

        async def away_at_first(*args: Any, **kwargs: Any) -> None:
            commits.make = make
            world.store_faults.is_away = True
            await make(*args, **kwargs)

        commits.make = away_at_first
        world.book().move_position(Instrument(symbol="AAPL"), Decimal(100), Decimal(10))
        world.exit("out", "", entry_signal_id=None)
        await world.run(900)
        world.store_faults.is_away = False
        await world.run(60)
        assert not world.placed()
        reason = world.exit_record("out").reason
        assert reason is not None
        assert reason.code is ReasonCode.STALE_ORDER


async def test_two_exits_that_name_no_entry_sell_what_is_held_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(10)
        world.send("out-1", signal_type="EXIT", side="SELL", quantity=60)
        await world.run(5)
        world.send("out-2", signal_type="EXIT", side="SELL", quantity=60)
        await world.run(20)
        world.fill("out-1", purpose=Purpose.EXIT)
        world.fill("out-2", purpose=Purpose.EXIT)
        await world.run(20)
        assert [world.exit_record(name).filled_quantity for name in ("out-1", "out-2")] == [60, 40]


async def test_an_exit_of_an_entry_sells_nothing_that_one_without_an_entry_is_selling(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(10)
        world.send("out-1", signal_type="EXIT", side="SELL")
        await world.run(5)
        world.exit("out-2", "in")
        await world.run(20)
        assert len(world.placed()) == 2
        assert world.exit_record("out-2").status is Status.REJECTED
