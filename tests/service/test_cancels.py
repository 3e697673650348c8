"""Cancels in every state and in either order, by a hand-moved clock."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from brokers.base import Capabilities, OrderRef
from brokers.errors import BrokerUnavailable, OrderRefused, OutcomeUnknown
from brokers.paper.model import Action, Fault, Market, Operation
from execution_service.control.results import Done, Refused
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.storage.ports.commands import Command
from execution_service.trading.trader import TradingRules
from tests.fakes import ACCOUNT, BY_HAND, World, world_of

TAG = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0)


def is_now(world: World, *statuses: Status, signal_id: str = "sig") -> bool:
    return any(o.status in statuses for o in world.records() if o.signal_id == signal_id)


async def test_cancel_of_a_working_order_is_sent_at_once_and_told_when_confirmed(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.cancel(signal_id="sig")
        await world.run(0.2)
        assert len(world.calls("cancel_order")) == 1
        await world.run(1)
        order = world.record()
        assert order.status is Status.CANCELLED
        assert order.reason is not None
        assert order.reason.code is ReasonCode.CANCEL_REQUESTED
        assert order.reason.message == "changed my mind"
        assert world.publisher.statuses("sig") == ["CANCELLED"]
        assert world.notifier.titled("Order Cancelled")
        (command,) = world.documents("execution_commands")
        assert command["status"] == "DONE"


@pytest.mark.parametrize("name", ["request", "broker", "ours", "client"])
async def test_an_order_is_cancelled_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_id="sig_ORD")
        await world.run(1)
        order = world.record()
        names = {
            "request": "sig_ORD",
            "broker": order.broker_order_id,
            "ours": order.order_id,
            "client": order.client_order_id,
        }
        world.cancel(order_id=names[name])
        await world.run(1)
        assert world.record().status is Status.CANCELLED


async def test_without_a_leg_index_all_legs_are_cancelled_and_with_one_only_that(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        for leg, symbol in enumerate(("AAPL", "NVDA", "MSFT")):
            world.send(leg_index=leg, total_legs=3, symbol=symbol)
        await world.run(1)
        world.cancel(signal_id="sig", leg_index=1)
        await world.run(1)
        assert [world.record(leg_index=n).status for n in range(3)] == ["SUBMITTED", "CANCELLED", "SUBMITTED"]
        world.cancel(signal_id="sig")
        await world.run(1)
        assert {o.status for o in world.records()} == {Status.CANCELLED}


async def test_cancel_that_comes_first_stops_an_order_published_before_it(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.cancel(order_id="sig_ORD")
        await world.run(5)
        world.send(order_id="sig_ORD", age_seconds=6)
        await world.run(1)
        assert world.record().status is Status.CANCELLED
        assert not world.placed()
        assert world.publisher.statuses("sig") == ["CANCELLED"]


async def test_cancel_that_comes_first_spares_an_order_published_after_it(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.cancel(signal_id="sig")
        await world.run(5)
        world.send()
        await world.run(1)
        assert world.record().status is Status.FILLED


async def test_cancel_by_its_own_id_that_comes_first_stops_an_order_published_after_it_too(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.cancel(order_id="sig_ORD")
        await world.run(5)
        world.send(order_id="sig_ORD")
        await world.run(1)
        assert world.record().status is Status.CANCELLED
        assert not world.placed()
        assert world.publisher.statuses("sig") == ["CANCELLED"]


async def test_cancel_by_an_orders_own_id_is_remembered_over_a_restart_for_one_published_after_it(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        world.cancel(order_id="sig_ORD")
        await world.run(1)
        await world.restart()
        world.send(order_id="sig_ORD")
        await world.run(1)
        assert world.record().status is Status.CANCELLED
        assert not world.placed()


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("restarts", [True, False])
async def test_cancel_by_an_own_id_that_met_the_entry_spares_the_exit_published_later_under_it(
    tmp_path: Path, is_finished: bool, restarts: bool
) -> None:
    """Some senders give an exit its entry's signal id, and so its order id as well."""
    async with world_of(tmp_path, market=Market() if is_finished else BY_HAND) as world:
        world.send(order_id="sig_ORD")
        await world.run(1)
        if not is_finished:
            world.fill("sig", 40)
        world.cancel(order_id="sig_ORD")
        await world.run(2)
        if restarts:
            await world.restart()
        world.send(order_id="sig_ORD", signal_type="EXIT", side="SELL", entry_signal_id="sig", quantity=40)
        await world.run(2)
        way_out = world.record(purpose=Purpose.EXIT)
        assert way_out.status in (Status.FILLED, Status.SUBMITTED)
        assert way_out.cancel_request is None


async def test_early_cancel_is_remembered_over_a_restart(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.cancel(signal_id="sig")
        await world.run(1)
        await world.restart()
        world.send(age_seconds=3)
        await world.run(1)
        assert world.record().status is Status.CANCELLED
        assert not world.placed()


async def test_early_cancel_is_forgotten_after_ten_minutes_where_orders_are_too_old_sooner(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=TradingRules(max_order_age_seconds=60)) as world:
        world.cancel(signal_id="sig")
        await world.run(601)
        world.send(age_seconds=602)
        await world.run(1)
        order = world.record()
        assert order.reason is not None
        assert order.reason.code is ReasonCode.STALE_ORDER


async def test_pending_order_is_cancelled_at_once_while_the_broker_is_down(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unavailable = BrokerUnavailable("restarting", known_pause=True)
        await world.start()
        world.send()
        await world.run(1)
        world.cancel(signal_id="sig")
        await world.run(0.1)
        assert world.record().status is Status.CANCELLED
        world.broker_faults.unavailable = None
        await world.run(60)
        assert not world.calls("place_order")
        assert world.publisher.statuses("sig") == ["CANCELLED"]


async def test_cancel_while_the_placing_call_hangs_is_sent_when_it_has_answered(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        hold = world.broker_faults.holds["place_order"] = asyncio.Event()
        world.send()
        await world.run(1)
        world.cancel(signal_id="sig")
        await world.run(1)
        assert world.record().status is Status.SUBMITTING
        hold.set()
        await world.run(2)
        assert world.record().status is Status.CANCELLED
        assert world.placed()[0].status == "CANCELLED"


async def test_cancel_of_an_order_whose_answer_was_lost_is_sent_once_it_is_found(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP)
    hidden = Fault(operation=Operation.FIND, action=Action.HIDE, times=4)
    async with world_of(tmp_path, market=BY_HAND, capabilities=TAG, faults=[fault, hidden]) as world:
        world.broker_faults.holds["reports"] = asyncio.Event()
        world.send()
        await world.run(0.1)
        assert world.record().status is Status.SUBMITTING
        world.cancel(signal_id="sig")
        world.broker_faults.holds.pop("reports").set()
        await world.run(5)
        assert world.record().status is Status.CANCELLED


async def test_cancel_of_an_order_in_doubt_is_carried_out_when_it_turns_up(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP)
    hides = [
        Fault(operation=Operation.FIND, action=Action.HIDE, seconds=20),
        Fault(operation=Operation.REPORTS, action=Action.HIDE, seconds=20),
    ]
    async with world_of(tmp_path, market=BY_HAND, capabilities=TAG, faults=[fault, *hides]) as world:
        world.send()
        await world.run(10)
        assert world.record().status is Status.IN_DOUBT
        world.cancel(signal_id="sig")
        await world.run(40)
        assert world.record().status is Status.CANCELLED
        assert world.publisher.statuses("sig") == ["IN_DOUBT", "CANCELLED"]


async def test_cancel_of_a_partly_filled_order_keeps_the_filled_part(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.fill("sig", 30)
        await world.run(1)
        world.cancel(signal_id="sig")
        await world.run(1)
        last = world.publisher.of("sig")[-1]
        assert (last["status"], last["filled_quantity"], last["remaining_quantity"]) == ("CANCELLED", 30, 70)
        assert world.documents("positions")[0]["quantity"] == 30


async def test_cancel_that_comes_too_late_leaves_the_fill_and_is_recorded(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.CANCEL, action=Action.CANCEL_RACE)
    async with world_of(tmp_path, market=BY_HAND, faults=[fault]) as world:
        world.send()
        await world.run(1)
        world.cancel(signal_id="sig")
        await world.run(2)
        assert world.record().status is Status.FILLED
        assert world.publisher.statuses("sig") == ["FILLED"]


async def test_ignored_cancel_is_sent_again_and_people_are_told_at_the_third(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.CANCEL, action=Action.IGNORE_CANCEL, times=None)
    async with world_of(tmp_path, market=BY_HAND, faults=[fault]) as world:
        world.send()
        await world.run(1)
        world.cancel(signal_id="sig")
        await world.run(30)
        assert len(world.calls("cancel_order")) == 4
        assert world.brokers[ACCOUNT].repetitions == 3
        (told,) = world.notifier.titled("Cancel Not Confirmed")
        assert "asked 3 times" in told
        assert world.record().status is Status.SUBMITTED
        world.book().clear_faults()
        await world.run(60)
        assert world.record().status is Status.CANCELLED


async def test_a_command_to_cancel_is_no_repetition_however_often_it_was_asked_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repetitions have a small share of the account's calls; a person must not wait behind it."""
    ignored = Fault(operation=Operation.CANCEL, action=Action.IGNORE_CANCEL, times=None)
    async with world_of(tmp_path, market=BY_HAND, faults=[ignored]) as world:
        asked: list[bool] = []
        broker = world.brokers[ACCOUNT]
        cancel_order = broker.cancel_order

        async def heard(ref: OrderRef, *, again: bool = False) -> None:
            asked.append(again)
            await cancel_order(ref, again=again)

        monkeypatch.setattr(broker, "cancel_order", heard)
        world.send(timeout_seconds=5)
        await world.run(30)
        assert asked == [False, True, True, True]
        world.cancel(signal_id="sig")
        await world.run(10)
        assert asked[4:6] == [False, True]


async def test_refused_cancel_is_noted_and_the_order_goes_on(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.broker_faults.errors["cancel_order"] = [OrderRefused("being executed")]
        world.cancel(signal_id="sig")
        await world.run(0.5)
        world.fill("sig")
        await world.run(2)
        assert world.record().status is Status.FILLED


async def test_cancel_of_a_finished_order_is_recorded_and_changes_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        world.cancel(signal_id="sig")
        await world.run(1)
        (command,) = world.documents("execution_commands")
        assert command["status"] == "DONE"
        assert "FILLED already" in command["outcome"]
        assert world.publisher.statuses("sig") == ["FILLED"]


@pytest.mark.parametrize("market", [Market(), BY_HAND], ids=["finished before", "cancelled by it"])
async def test_upstreams_row_is_set_right_after_it_was_overwritten(tmp_path: Path, market: Market) -> None:
    async with world_of(tmp_path, market=market) as world:
        rows = world.mongo["trading"]["trading_orders"]
        rows.insert_one({"order_id": "sig_ORD", "status": "PENDING", "quantity": 100.0})
        world.send(order_id="sig_ORD")
        await world.run(1)
        world.cancel(order_id="sig_ORD")
        await world.run(1)
        end = world.record().status
        assert end.is_final
        rows.update_one({"order_id": "sig_ORD"}, {"$set": {"status": "CANCEL_REQUESTED"}})
        await world.run(20)
        assert rows.find_one({"order_id": "sig_ORD"})["status"] == end


@pytest.mark.parametrize(
    "body",
    [
        b'{"command": "MODIFY", "order_id": "sig_ORD", "quantity": 5}',
        b"not json",
        b"[]",
        b'{"command": "CANCEL"}',
        b'{"command": 7, "order_id": "x"}',
        b'{"command": "CANCEL", "order_id": ["x"]}',
    ],
)
async def test_any_other_command_is_refused_and_kept_and_the_next_is_carried_out(tmp_path: Path, body: bytes) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_id="sig_ORD")
        await world.run(1)
        world.commands.publish(body, world.clock.now())
        await world.run(1)
        (command,) = world.documents("execution_commands")
        assert command["status"] == "REFUSED"
        assert command["outcome"]
        assert not world.commands.unacknowledged
        assert world.record().status is Status.SUBMITTED
        world.cancel(signal_id="sig")
        await world.run(1)
        assert world.record().status is Status.CANCELLED


async def test_a_burst_of_orders_does_not_hold_up_a_cancel(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        hold = world.broker_faults.holds["place_order"] = asyncio.Event()
        for n in range(200):
            world.send(f"burst-{n}", symbol=f"S{n}")
        await world.run(0.1)
        world.cancel(signal_id="sig")
        await world.run(0.2)
        assert len(world.calls("cancel_order")) == 1
        hold.set()
        await world.run(1)
        assert world.record().status is Status.CANCELLED


# --- a person's decisions -------------------------------------------------------------------------------------------


async def test_a_command_that_cannot_be_read_stops_neither_start_nor_the_others(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False, market=BY_HAND) as world:
        world.mongo["trading"]["execution_commands"].insert_one(
            {
                "_id": "broken",
                "kind": "CANCEL",
                "body": "not even an object",
                "published_at": world.clock.now(),
                "received_at": world.clock.now(),
                "status": "NEW",
                "outcome": "",
                "active_until": None,
            }
        )
        await world.start()
        world.send()
        await world.run(2)
        world.cancel(signal_id="sig")
        await world.run(2)
        assert world.record().status is Status.CANCELLED
        assert world.documents("execution_commands", _id="broken")[0]["status"] == "REFUSED"


async def test_lost_answer_to_a_cancel_is_no_cancellation(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.broker_faults.errors["cancel_order"] = [OutcomeUnknown("no answer")]
        world.cancel(signal_id="sig")
        await world.run(1)
        assert world.record().status is Status.SUBMITTED
        await world.run(5)
        assert world.record().status is Status.CANCELLED
        assert world.publisher.statuses("sig") == ["CANCELLED"]


async def test_a_cancel_that_is_delivered_again_leaves_what_was_published_after_it(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=10, tif="GTC")
        await world.run(1)
        world.fill("sig", 40)
        await world.run(1)
        world.cancel(signal_id="sig")
        await world.run(5)
        assert world.record().status is Status.CANCELLED
        world.exit("sig", "sig", quantity=40, order_type="LIMIT", limit_price=12, tif="GTC")
        await world.run(60)
        world.cancel(signal_id="sig", age_seconds=65)  # the same again
        await world.run(5)
        assert world.exit_record("sig").status is Status.SUBMITTED
        outcome = world.documents("execution_commands")[-1]["outcome"]
        assert f"{world.exit_record('sig').order_id} was published after this cancel and goes on" in outcome


async def test_a_cancel_by_an_orders_own_name_is_carried_out_whatever_the_times(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_id="sig_ORD")
        await world.run(1)
        world.cancel(order_id="sig_ORD", age_seconds=30)
        await world.run(1)
        assert world.record().status is Status.CANCELLED


@pytest.mark.parametrize("age_seconds", [200, 600, 50_000])
async def test_a_cancel_is_remembered_for_a_late_exit_however_old_both_are(tmp_path: Path, age_seconds: int) -> None:
    async with world_of(tmp_path) as world:
        world.send("in")
        await world.run(3)
        world.cancel(signal_id="out", age_seconds=age_seconds - 10)
        await world.run(2)
        world.exit("out", "in", age_seconds=age_seconds)
        await world.run(30)
        assert world.exit_record("out").status is Status.CANCELLED
        assert len(world.placed()) == 1


async def test_a_cancel_that_nobody_can_carry_out_is_not_called_done(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        await world.kill()
        world.unname_accounts()
        await world.start()
        world.cancel(signal_id="sig")
        await world.run(5)
        (command,) = world.documents("execution_commands")
        assert command["status"] == "REFUSED"
        assert "is not traded here; cancel it at the broker" in command["outcome"]
        assert len(world.notifier.titled("Account Not Configured")) == 1


async def test_whoever_calls_a_verb_gets_its_result_and_twice_is_once(tmp_path: Path) -> None:
    """As an API in this process would; nothing came as a message."""
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        now = world.clock.now()
        command = Command(
            command_id="api-1",
            kind="CANCEL",
            body={"signal_id": "sig", "requested_by": "Ann"},
            published_at=now,
            received_at=now,
        )
        commands = world.service.commands
        results = await asyncio.gather(commands.give(command), commands.give(command))
        assert Done(f"{world.record().order_id} asked to be cancelled") in results
        await world.run(2)
        assert world.record().status is Status.CANCELLED
        assert len(world.calls("cancel_order")) == 1
        (stored,) = world.documents("execution_commands")
        assert (stored["_id"], stored["status"]) == ("api-1", "DONE")
        unknown = replace(command, command_id="api-2", kind="DANCE")
        assert await commands.give(unknown) == Refused("'DANCE' is not a command of this service")
