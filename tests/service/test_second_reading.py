"""Races and silences that a second reading of the code found: each was seen to fail before it was mended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import mongomock
import pytest
from pymongo.errors import WriteError

from brokers.base import Capabilities, Instrument
from brokers.errors import BrokerUnavailable, OutcomeUnknown
from brokers.paper.model import Market
from execution_service.core.orders.events import Event
from execution_service.core.orders.order import Order
from execution_service.core.orders.report_events import new_events
from execution_service.core.orders.request import Identity
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.storage.ports.orders import CursorCommit, Told
from execution_service.trading.trader import TradingRules
from tests.fakes import ACCOUNT, world_of
from tests.service.audit import audit

BY_HAND = Market(fill_delay_seconds=None)
TAG = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0, concurrent_calls=4)


async def test_late_fill_that_is_written_while_its_order_is_put_away_is_booked_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send("late")
        await world.run(1)
        order_id = world.record("late").order_id
        store: Any = world.service._store
        commit, append = store.commit_cursors, store.append
        struck, written = asyncio.Event(), asyncio.Event()

        async def slow_commit(commits: Sequence[CursorCommit]) -> None:
            await commit(commits)
            if any(s.order_id == order_id for s in commits):
                await struck.wait()

        async def slow_append(order: Order, events: Sequence[Event], *, urgent: bool = False) -> Order:
            if order.order_id == order_id:
                await written.wait()
            done: Order = await append(order, events, urgent=urgent)
            return done

        async def never_commit(commits: Sequence[CursorCommit]) -> None:
            if any(s.order_id == order_id for s in commits):
                await asyncio.Event().wait()
            await commit(commits)

        store.commit_cursors = slow_commit
        world.cancel(signal_id="late")
        await world.run(1)
        store.append = slow_append
        world.fill("late", 4, force=True)
        await world.run(6)
        store.commit_cursors = commit
        struck.set()
        await world.settle()
        store.commit_cursors = never_commit
        written.set()
        await world.run(1)
        world.send("next")
        await world.run(1)
        world.fill("next")
        await world.run(3)
        await world.restart()
        await world.run(10)
        (position,) = world.documents("positions")
        assert position["quantity"] == float(sum(p.quantity for p in world.book().positions()))


async def test_exit_that_waits_under_another_exchange_goes_on_when_its_entry_ends(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send("entry", exchange="NASDAQ")
        await world.run(1)
        world.exit("out", "entry")
        await world.run(1)
        world.fill("entry")
        await world.run(10)
        assert world.exit_record("out").status is Status.SUBMITTED


async def test_broker_that_answers_nothing_is_called_down_and_people_hear_of_the_order(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TAG) as world:
        for operation in ("place_order", "find", "reports"):
            world.broker_faults.holds[operation] = asyncio.Event()
        world.send()
        # Time-outs run on the loop's own clock: they are brought about by hand.
        world.broker_faults.holds.clear()
        world.broker_faults.errors = {name: [TimeoutError()] * 500 for name in ("place_order", "find", "reports")}
        await world.run(200)
        assert world.record().status is Status.SUBMITTING
        assert [text for text in world.notifier.texts if "cannot be asked" in text]
        assert world.notifier.titled("Broker Down")


async def test_order_perhaps_sent_to_a_broker_that_then_goes_down_is_named_to_people(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=TAG) as world:
        world.broker_faults.errors = {"place_order": [OutcomeUnknown("lost")], "find": [TimeoutError()] * 50}
        world.send()
        await world.settle()
        world.broker_faults.unavailable = BrokerUnavailable("gone")
        await world.run(120)
        assert world.record().status is Status.SUBMITTING
        assert len([text for text in world.notifier.texts if "cannot be asked" in text]) == 1


async def test_broker_in_a_pause_that_still_connects_is_not_asked_without_rest(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.errors["place_order"] = [BrokerUnavailable("token", known_pause=True)] * 400
        world.send()
        await world.run(60)
        assert world.record().status is Status.PENDING
        assert len(world.calls("place_order")) < 12


async def test_three_short_failures_in_a_row_are_spread_over_more_than_an_instant(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.errors["place_order"] = [BrokerUnavailable("blip")] * 2
        world.send()
        await world.run(0.1)
        assert world.record().status is Status.PENDING
        await world.run(30)
        assert world.record().status is Status.FILLED


async def test_order_sent_again_and_again_without_an_answer_is_slowed_down_and_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=TradingRules(max_order_age_seconds=0)) as world:
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("lost")] * 10_000
        world.send()
        await world.run(600)
        assert len(world.calls("place_order")) < 60
        assert len([text for text in world.notifier.texts if "sent again under the same id" in text]) == 1


async def test_people_hear_of_a_fill_though_pubsub_is_away_for_hours(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.is_away = True
        world.send()
        await world.run(120)
        assert len(world.notifier.titled("Order Filled")) == 1
        await world.run(3700)
        world.publisher.is_away = False
        await world.run(120)
        assert len(world.notifier.titled("Order Filled")) == 1
        audit(world)


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


async def test_record_that_the_server_will_never_take_stops_no_other_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path) as world:
        update_one = mongomock.collection.Collection.update_one

        def refusing(self: Any, query: Any, update: Any, *args: Any, **kwargs: Any) -> Any:
            if str(query.get("_id")) == Identity(signal_id="bad").order_id:
                raise WriteError("too large", 17419)
            return update_one(self, query, update, *args, **kwargs)

        monkeypatch.setattr(mongomock.collection.Collection, "update_one", refusing)
        world.send("bad")
        world.send("good", symbol="MSFT")
        await world.run(60)
        assert world.record("good").status is Status.FILLED


@pytest.mark.parametrize(
    "wrong",
    [{"quantity": "NaN"}, {"quantity": "-5"}, {"quantity": 0}, {"price": "Infinity"}, {"price": None}, {"fill_id": ""}],
)
async def test_fill_told_by_hand_that_is_none_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        with pytest.raises(ValueError, match="fill"):
            await world.service.handle_order_fill(
                world.record().order_id, {"fill_id": "f1", "quantity": 10, "price": "10.5"} | wrong
            )
        assert world.record().filled_quantity == 0


async def test_fill_told_by_hand_may_give_its_time_as_text(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        data = {"fill_id": "f1", "quantity": 10, "price": "10.5", "time": "2025-03-03T15:00:01.123456Z"}
        await world.service.handle_order_fill(world.record().order_id, data)
        await world.run(5)
        assert world.record().filled_quantity == Decimal(10)
        assert world.service.accounts.traders[ACCOUNT] is not None


async def test_end_that_another_process_recorded_is_delivered_by_the_one_that_stumbles_over_it(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.book().cancel(world.ref("sig"))
        (report,) = world.book().reports().reports
        store: Any = world.service._store
        writing = asyncio.create_task(
            store.append(world.record(), new_events(world.record(), report, world.clock.now()))
        )
        await world.settle()
        await writing
        await world.run(10)
        assert world.publisher.statuses("sig") == ["CANCELLED"]
        assert not world.unsettled()


async def test_order_taken_in_hand_from_an_old_reading_is_booked_once(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.unavailable = BrokerUnavailable("for a moment", known_pause=True)
        world.send("slow")
        await world.run(1)
        store: Any = world.service._store
        reading = asyncio.create_task(store.load([world.record("slow").order_id]))
        await world.settle()
        (old,) = await reading
        world.broker_faults.unavailable = None
        await world.run(60)
        world.send("next")  # the ledger forgets the first order's line, which that has of its own by now
        await world.run(5)
        assert world.record("slow").status is Status.FILLED
        assert not world.unsettled()
        world.service.accounts.take(old)
        await world.run(10)
        assert world.documents("positions", status="OPEN")[0]["quantity"] == 200
        assert world.publisher.statuses("slow") == ["FILLED"]
        audit(world)


async def test_order_taken_in_hand_as_if_nothing_of_it_had_been_booked_is_booked_once(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send("first")
        await world.run(2)
        world.send("next")
        await world.run(5)
        store: Any = world.service._store
        reading = asyncio.create_task(store.load([world.record("first").order_id]))
        await world.settle()
        world.service.accounts.take(replace((await reading)[0], told=Told()))
        await world.run(10)
        assert world.documents("positions", status="OPEN")[0]["quantity"] == 200
        assert not world.unsettled()
        audit(world)
