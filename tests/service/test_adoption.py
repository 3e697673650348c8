"""A position changes past the service, and a person has our book follow it: what is recorded, what exits may take then, what others see."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import AssetClass, Capabilities, OptionRight
from execution_service.control.adoption_books import plan_of_undoing, records_named
from execution_service.core.adoption.records import Refused, adoption_id
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.core.views.record import discrepancy_from_document, ledger_from_document, plan_to_document
from execution_service.delivery.rebuild import Rebuild
from tests.fakes import ACCOUNT, BY_HAND, AllAt, World, two_worlds, world_of
from tests.service.adoptions import adopt, by_hand, command_body, give, held, outcome, planned, records, undo

MINUTE = 60.0


def discrepancies(world: World) -> list[tuple[str, str, str]]:
    found = [discrepancy_from_document(d) for d in world.documents("execution_discrepancies", state="OPEN")]
    return [(row.finding.subject, row.finding.ours, row.finding.theirs) for row in found]


def realized(world: World) -> float:
    return sum(d["realized_pnl"] for d in world.documents("positions"))


def signal(world: World, signal_id: str = "sig") -> dict[str, Any]:
    (document,) = world.documents("signal_store", signal_id=signal_id)
    return document


async def holding(world: World, quantity: int = 10, signal_id: str = "sig", **changes: Any) -> None:
    world.send(signal_id, quantity=quantity, **changes)
    await world.run(2)
    assert world.record(signal_id).status is Status.FILLED


async def test_a_square_off_that_is_adopted_closes_the_difference_and_caps_the_exit(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        by_hand(world, -4, price="12")
        await world.run(2 * MINUTE)
        assert discrepancies(world) == [("AAPL|STOCK", "10", "6")]
        command = await adopt(world, "square-off", quantity="4", price="12")
        await world.run(30)
        assert outcome(world, command)[0] == "DONE"
        assert discrepancies(world) == []
        assert held(world) == {"AAPL": (6.0, 10.0)}
        assert realized(world) == 8.0
        assert signal(world)["position_status"] == "OPEN"
        assert signal(world)["pnl_realized"] == 8.0
        world.exit("out", "sig", quantity=10)
        await world.run(5)
        exit_order = world.exit_record("out")
        assert (exit_order.status, exit_order.filled_quantity) == (Status.FILLED, 6)
        assert held(world) == {}
        assert signal(world)["position_status"] == "CLOSED"
        assert [p.quantity for p in world.book().positions() if p.quantity] == []


async def test_what_is_adopted_is_told_to_people_once_and_to_no_reader_of_confirmations(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        by_hand(world, -4)
        command = await adopt(world, "square-off", quantity="4", price="12")
        await world.run(30)
        (text,) = world.notifier.titled("Position Adopted")
        assert "Left: SELL 4 AAPL|STOCK at 12" in text
        assert "By: Ann" in text
        assert "Reason: the broker's note" in text
        name = adoption_id(command)
        assert world.publisher.of(name) == []
        assert world.documents("signal_store", signal_id=name) == []
        (confirmation,) = world.documents("execution_confirmations", signal_id=name)
        assert (confirmation["status"], confirmation["client_order_id"]) == ("FILLED", None)
        assert confirmation["adopted"]["occasion"] == "square-off"
        assert not world.unsettled()


async def test_a_renamed_share_is_closed_by_an_exit_under_the_new_name(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        by_hand(world, -10)
        by_hand(world, 10, "AAPLNEW", price="10")
        command = await adopt(world, "rename", successor={"symbol": "AAPLNEW"})
        await world.run(2 * MINUTE)
        assert outcome(world, command)[0] == "DONE"
        assert held(world) == {"AAPLNEW": (10.0, 10.0)}
        assert discrepancies(world) == []
        assert realized(world) == 0.0
        assert signal(world)["position_status"] == "OPEN"
        (text,) = world.notifier.titled("Position Adopted")
        assert "Left: SELL 10 AAPL|STOCK at 10" in text
        assert "Came: BUY 10 AAPLNEW|STOCK at 10" in text
        world.exit("out", "sig", quantity=10, symbol="AAPLNEW", price=11)
        await world.run(5)
        assert world.exit_record("out").filled_quantity == 10
        assert held(world) == {}
        assert realized(world) == 10.0
        assert signal(world)["position_status"] == "CLOSED"
        assert signal(world, "out")["pnl"]["gross_pnl"] == 10.0


async def test_an_exit_under_the_old_name_after_a_rename_is_refused(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        await adopt(world, "rename", successor={"symbol": "AAPLNEW"})
        await world.run(5)
        world.exit("out", "sig", quantity=10)
        await world.run(5)
        assert world.exit_record("out").status is Status.REJECTED


async def test_after_a_split_an_exit_of_twice_as_many_is_right(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world, 10, price=100)
        by_hand(world, 10, price="0.01")
        await adopt(world, "split", ratio="1:2")
        await world.run(2 * MINUTE)
        assert held(world) == {"AAPL": (20.0, 50.0)}
        assert discrepancies(world) == []
        world.exit("out", "sig", quantity=25, price=60)
        await world.run(5)
        assert world.exit_record("out").filled_quantity == 20
        assert realized(world) == 200.0
        assert signal(world)["position_status"] == "CLOSED"
        assert signal(world, "out")["pnl"]["gross_pnl"] == 200.0


PUT: dict[str, Any] = {
    "asset_class": AssetClass.OPTION,
    "expiry": "20261218",
    "strike": Decimal(50),
    "right": OptionRight.PUT,
    "multiplier": Decimal(100),
}
OPTION = {"instrument_type": "OPTION", "expiry": "20261218", "strike": "50", "right": "P", "multiplier": "100"}


async def test_an_assigned_put_leaves_the_shares_that_its_exit_may_sell(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world, 1, symbol="XYZ", side="SELL", price=3.20, **OPTION)
        by_hand(world, 1, "XYZ", price="0.01", **PUT)
        by_hand(world, 100, "XYZ", price="50")
        command = await adopt(world, "assignment", "XYZ", instrument=OPTION)
        await world.run(5)
        assert outcome(world, command)[0] == "DONE"
        assert held(world) == {"XYZ": (100.0, 50.0)}
        assert realized(world) == 320.0
        assert [r.accepted_request.instrument.asset_class for r in records(world, command)] == ["OPTION", "STOCK"]
        world.exit("out", "sig", quantity=150, symbol="XYZ", price=49)
        await world.run(5)
        assert world.exit_record("out").filled_quantity == 100
        assert realized(world) == 220.0


async def test_an_expired_option_has_cost_its_whole_premium(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world, 2, symbol="XYZ", price=3.20, **OPTION)
        await adopt(world, "expiry", "XYZ", instrument=OPTION)
        await world.run(5)
        assert held(world) == {}
        assert realized(world) == -640.0


async def test_a_merge_in_a_ratio_with_cash_keeps_the_cost_less_the_cash(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world, 30, price=10)
        await adopt(world, "merge", ratio="3:1", cash="60", successor={"symbol": "BIG"})
        await world.run(5)
        assert held(world) == {"BIG": (10.0, 24.0)}
        assert realized(world) == 0.0


async def test_costs_without_an_end_are_carried_to_the_last_place(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world, 1, "a", price=1)
        await holding(world, 2, "b", price=1.01)
        by_hand(world, -3)
        by_hand(world, 3, "NEW")
        await adopt(world, "rename", successor={"symbol": "NEW"})
        await world.run(5)
        assert realized(world) == 0.0
        world.exit("x", "a", quantity=1, symbol="NEW", price=2)
        world.exit("y", "b", quantity=2, symbol="NEW", price=2)
        await world.run(5)
        (entry,) = world.documents("execution_positions", **{"instrument.symbol": "NEW"})
        assert entry["position"]["realized_pnl"] == "2.98"


async def test_a_trade_by_hand_is_an_entry_that_an_exit_may_name(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        by_hand(world, 5)
        command = await adopt(world, "trade", side="BUY", quantity="5", price="10", is_new=True)
        await world.run(5)
        assert held(world) == {"AAPL": (5.0, 10.0)}
        world.exit("out", adoption_id(command), quantity=9)
        await world.run(5)
        assert world.exit_record("out").filled_quantity == 5
        assert held(world) == {}


async def test_rebuilt_views_say_the_same_of_what_was_adopted(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world, 9, price=11)
        world.exit("first", "sig", quantity=2, price=12)
        await world.run(5)
        by_hand(world, 14)
        await adopt(world, "split", ratio="1:3")
        await world.run(5)
        world.exit("out", "sig", quantity=21, price=4)
        await holding(world, 3, "b", price=7)
        undone = await adopt(world, "square-off", quantity="1", price="8")
        await world.run(5)
        await undo(world, undone)
        await world.run(60)
        names = ("execution_confirmations", "signal_store", "positions")
        volatile = ("updated_at", "sequence")
        before = {n: _without(world.documents(n), volatile) for n in names}
        for name in names:
            world.mongo["trading"][name].delete_many({})
        store = world.store_beside()
        rebuild = Rebuild(store, world.clock, brokers=AllAt("MOCK"))
        keys = [ledger_from_document(d) for d in world.documents("execution_positions")]
        ids = [d["_id"] for d in world.documents("execution_orders")]
        found = await rebuild.run(ids, keys)
        assert found.contradictions == ()
        for n in names:
            assert _without(world.documents(n), volatile) == before[n]
        assert signal(world, "first")["pnl"]["gross_pnl"] == 2.0
        assert round(signal(world, "out")["pnl"]["gross_pnl"], 9) == 7.0
        assert signal(world)["position_status"] == "CLOSED"
        assert [a["occasion"] for a in signal(world)["adoptions"]] == ["split", "split"]


def _without(documents: list[dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    kept = [{k: v for k, v in d.items() if k not in names} for d in documents]
    return sorted(kept, key=lambda d: str(d["_id"]))


# --- exactly once ---------------------------------------------------------------------------------------------------


async def test_a_command_that_is_carried_out_twice_books_once(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        command = await adopt(world, "rename", successor={"symbol": "NEW"})
        await world.run(5)
        world.mongo["trading"]["execution_commands"].update_one({"_id": command}, {"$set": {"status": "NEW"}})
        await world.restart()
        await world.run(5)
        assert outcome(world, command)[0] == "DONE"
        assert held(world) == {"NEW": (10.0, 10.0)}
        assert len(records(world, command)) == 2
        assert len(world.notifier.titled("Position Adopted")) == 1


async def test_a_command_given_while_nothing_runs_is_carried_out_at_the_start(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        await world.stop()
        by_hand(world, -4)
        command = await adopt(world, "square-off", quantity="4", price="9")
        await world.start()
        await world.run(10)
        assert outcome(world, command)[0] == "DONE"
        assert held(world) == {"AAPL": (6.0, 10.0)}


async def test_books_that_have_changed_since_they_were_shown_are_left_alone(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        hold = world.broker_faults.holds["positions"] = asyncio.Event()
        command = await adopt(world, "square-off", quantity="4", price="9")
        await world.run(2)
        world.exit("out", "sig", quantity=3)
        await world.run(2)
        assert outcome(world, command)[0] == "NEW", "it waits for the broker's positions"
        hold.set()
        await world.run(10)
        status, words = outcome(world, command)
        assert status == "REFUSED"
        assert "changed since it was shown" in words
        assert held(world) == {"AAPL": (7.0, 10.0)}


async def test_an_adoption_waits_for_the_exit_that_is_just_leaving(tmp_path: Path) -> None:
    reserving = Capabilities(refuses_repeated_client_id=True, needs_reservation=True, find_window_seconds=1.0)
    async with world_of(tmp_path, capabilities=reserving) as world:
        await holding(world)
        by_hand(world, -4)
        hold = world.broker_faults.holds["reserve"] = asyncio.Event()
        world.exit("out", "sig", quantity=10)
        await world.run(0.5)
        command = await adopt(world, "square-off", quantity="4", price="9")
        await world.run(3)
        assert outcome(world, command)[0] == "NEW"
        world.broker_faults.holds.clear()
        hold.set()
        await world.run(30)
        assert outcome(world, command)[0] == "REFUSED"
        assert records(world, command) == []


async def test_an_account_that_goes_to_another_process_meanwhile_is_adopted_by_that_one(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        await holding(one)
        hold = one.broker_faults.holds["positions"] = asyncio.Event()
        command = await adopt(one, "rename", successor={"symbol": "NEW"})
        await one.run(2)
        one.store_faults.is_away = True  # it cannot renew its lease
        await one.run(20)
        one.store_faults.is_away = False
        hold.set()
        await one.run(60)
        assert outcome(one, command)[0] == "DONE"
        assert held(one) == {"NEW": (10.0, 10.0)}
        assert len(one.notifier.titled("Position Adopted")) == 1
        assert one.service.delivery.waiting == other.service.delivery.waiting == 0


@pytest.mark.parametrize("call", ["execution_orders.insert_many", "execution_commands.update_one"])
async def test_an_answer_of_the_store_that_is_lost_books_nothing_twice(tmp_path: Path, call: str) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        world.store_faults.lost_answers[call] = 1
        command = await adopt(world, "rename", successor={"symbol": "NEW"})
        await world.run(10)
        world.store_faults.is_away = True
        await world.run(10)
        world.store_faults.is_away = False
        await world.run(30)
        assert outcome(world, command)[0] == "DONE"
        assert held(world) == {"NEW": (10.0, 10.0)}
        assert len(world.notifier.titled("Position Adopted")) == 1


@pytest.mark.parametrize(
    "body",
    [
        "text",
        {"shown": []},
        {"shown": {"movements": 4}},
        {"undo": 7, "by": "x", "reason": "y"},
        {"undo": "adopt-no", "shown": None},
    ],
)
async def test_a_command_of_any_content_stops_nothing(tmp_path: Path, body: Any) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        usual = command_body("square-off", quantity="4", price="9")
        now = world.clock.now()
        world.mongo["trading"]["execution_commands"].insert_one(
            {"_id": "ctl-odd", "kind": "ADOPT", "body": usual | body if isinstance(body, dict) else body}
            | {"published_at": now, "received_at": now, "status": "NEW", "outcome": "", "active_until": None}
        )
        await world.run(5)
        assert outcome(world, "ctl-odd")[0] == "REFUSED"
        await holding(world, 3, "next")


async def test_what_is_left_of_an_account_that_no_file_names_any_more_is_adopted_too(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        await world.stop()
        world.unname_accounts()
        await world.start()
        command = await adopt(world, "transfer-out", asks_broker=False)
        await world.run(10)
        assert outcome(world, command)[0] == "DONE"
        assert held(world) == {}
        assert not world.unsettled()
        usual = command_body("transfer-in", quantity="1", price="1", account_id="typo")
        shown = await planned(world, usual)
        await give(world, "ctl-typo", usual | {"shown": plan_to_document(shown)})  # type: ignore[arg-type]
        await world.run(5)
        assert outcome(world, "ctl-typo") == (
            "REFUSED",
            "account 'typo' is not configured, and nothing was ever held in it",
        )


async def test_only_the_process_that_trades_the_account_adopts(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        await holding(one)
        by_hand(one, -4)
        command = await adopt(one, "square-off", quantity="4", price="9")
        await one.run(5)
        assert outcome(one, command)[0] == "DONE"
        assert held(one) == {"AAPL": (6.0, 10.0)}
        assert len(one.notifier.titled("Position Adopted")) == 1
        assert other.calls("positions") == []


async def test_an_adoption_is_finished_by_whoever_takes_the_account_over(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        await holding(one)
        command = await adopt(one, "rename", successor={"symbol": "NEW"})
        await one.kill()
        await other.run(60)
        assert outcome(other, command)[0] == "DONE"
        assert held(other) == {"NEW": (10.0, 10.0)}


# --- refusals -------------------------------------------------------------------------------------------------------


async def refusal(world: World, occasion: str, symbol: str = "AAPL", **said: Any) -> str:
    found = await planned(world, command_body(occasion, symbol, **said))
    assert isinstance(found, Refused), found
    return found.words


async def test_what_cannot_be_is_refused_with_its_reason(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        await holding(world, 5, "other", strategy_name="value")
        assert "holds 10 AAPL|STOCK, not 11" in await refusal(world, "square-off", quantity="11", price="9")
        words = await refusal(world, "square-off", strategy="nobody", price="9")
        assert words == "nobody holds no AAPL|STOCK in account acct-1; it is held by momentum 10, value 5"
        assert "never held MSFT|STOCK" in await refusal(world, "trade", "MSFT", side="BUY", quantity="1", price="9")
        assert "quantity must be a number" in await refusal(world, "square-off", quantity="four", price="9")
        assert "price must be a number" in await refusal(world, "square-off", quantity="4", price="NaN")
        assert await refusal(world, "square-off", quantity="4", price="9", by=" ") == "by is missing"
        assert await refusal(world, "square-off", quantity="4", price="9", reason="") == "reason is missing"
        assert "there is no discrepancy dis_1" in await refusal(
            world, "square-off", quantity="4", price="9", discrepancy_id="dis_1"
        )
        assert "no entry that has anything left" in await refusal(
            world, "square-off", quantity="4", price="9", entries=["other"]
        )
        assert "would open the other side" in await refusal(world, "trade", side="SELL", quantity="11", price="9")


async def test_what_may_belong_to_several_entries_has_to_name_one(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world, 6, "a")
        await holding(world, 4, "b")
        words = await refusal(world, "square-off", quantity="5", price="9")
        assert words == "say which entry it belongs to (--entry): a has 6 left, b has 4 left"
        await adopt(world, "square-off", quantity="5", price="9", entries=["b", "a"])
        await world.run(5)
        world.exit("x", "a", quantity=6)
        world.exit("y", "b", quantity=4)
        await world.run(5)
        assert world.exit_record("x").filled_quantity == 5
        assert world.exit_record("y").status is Status.REJECTED


async def test_a_working_order_in_the_instrument_stands_in_the_way(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(quantity=10)
        await world.run(1)
        world.fill("sig")
        await world.run(5)
        world.send("rests", side="SELL", quantity=10, order_type="LIMIT", limit_price=99, tif="GTC")
        await world.run(2)
        command = await adopt(world, "square-off", quantity="4", price="9", is_forced=False)
        await world.run(5)
        status, words = outcome(world, command)
        assert status == "REFUSED"
        assert "(rests) is SUBMITTED: the broker's word on it may still come" in words
        command = await adopt(world, "square-off", quantity="4", price="9")
        await world.run(5)
        assert outcome(world, command)[0] == "DONE"


async def test_an_adoption_by_which_the_books_would_differ_more_needs_force_and_to_be_shown(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        for is_forced, asks_broker in ((False, True), (True, False)):
            command = await adopt(
                world, "square-off", quantity="4", price="9", is_forced=is_forced, asks_broker=asks_broker
            )
            await world.run(5)
            status, words = outcome(world, command)
            assert status == "REFUSED"
            assert "the books would differ by more than now: AAPL|STOCK: ours 6 then, the broker's 10" in words
            assert held(world) == {"AAPL": (10.0, 10.0)}
            assert records(world, command) == []


async def test_a_command_without_what_was_shown_is_refused(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        await give(world, "ctl-x", command_body("square-off", quantity="4", price="9"))
        await world.run(5)
        assert outcome(world, "ctl-x")[0] == "REFUSED"
        assert held(world) == {"AAPL": (10.0, 10.0)}


# --- taking one back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
async def test_an_adoption_that_is_undone_leaves_everything_as_it_was(tmp_path: Path, restarts: bool) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        by_hand(world, -4)
        command = await adopt(world, "square-off", quantity="4", price="12")
        await world.run(5)
        by_hand(world, 4)
        if restarts:
            await world.restart()
            await world.run(5)
        again = await undo(world, command)
        await world.run(30)
        assert outcome(world, again)[0] == "DONE"
        assert held(world) == {"AAPL": (10.0, 10.0)}
        assert realized(world) == 0.0
        assert [o.status for o in records(world, command)] == [Status.CANCELLED]
        assert len(world.notifier.titled("Adoption Undone")) == 1
        assert discrepancies(world) == []
        world.exit("out", "sig", quantity=10)
        await world.run(5)
        assert world.exit_record("out").filled_quantity == 10


async def test_a_rename_is_undone_as_a_whole_unless_it_was_traded_since(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        command = await adopt(world, "rename", successor={"symbol": "NEW"})
        await world.run(5)
        assert held(world) == {"NEW": (10.0, 10.0)}
        await undo(world, command)
        await world.run(5)
        assert held(world) == {"AAPL": (10.0, 10.0)}
        assert realized(world) == 0.0
        by_hand(world, -10)
        by_hand(world, 10, "NEW")
        command = await adopt(world, "rename", successor={"symbol": "NEW"})
        await world.run(5)
        world.exit("out", "sig", quantity=3, symbol="NEW")
        await world.run(5)
        found = await plan_of_undoing(
            world.store_beside(),
            await records_named(world.store_beside(), adoption_id(command)),
            None,
            world.clock.now(),
        )
        assert isinstance(found, Refused)
        assert "10 NEW|STOCK came by it and only 7 is left: it has been traded since" in found.words


async def test_a_broker_is_asked_for_its_positions_by_a_command(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        await give(world, "ctl-p", {"account_id": ACCOUNT}, kind="POSITIONS")
        await world.run(3)
        status, words = outcome(world, "ctl-p")
        assert status == "DONE"
        assert '"symbol": "AAPL"' in words
        assert world.record().identity.purpose is Purpose.ENTRY


async def test_what_is_squared_off_in_one_product_leaves_what_is_held_in_another(tmp_path: Path) -> None:
    apart = Capabilities(needs_reservation=True, share_products=("CNC", "MIS"))
    async with world_of(tmp_path, capabilities=apart) as world:
        for product in ("CNC", "MIS"):
            world.send(f"in-{product}", quantity=10, product=product)
        await world.run(2)
        world.broker_faults.held = lambda told: [replace(each, quantity=Decimal(10), product="CNC") for each in told]
        await world.run(200)
        (row,) = world.documents("execution_discrepancies", state="OPEN")
        assert row["finding"]["subject"] == "AAPL|STOCK|product=MIS"
        refused = await planned(world, command_body("square-off", price="9"))
        assert isinstance(refused, Refused)
        assert "several products (10 in CNC, 10 in MIS)" in refused.words
        command = await adopt(world, "square-off", price="9", discrepancy_id=row["_id"], asks_broker=False)
        await world.run(200)
        assert outcome(world, command)[0] == "DONE"
        (record,) = records(world, command)
        assert (record.accepted_request.entry_refs, record.accepted_request.product) == (("in-MIS",), "MIS")
        assert held(world) == {"AAPL": (10.0, 10.0)}
        assert world.documents("execution_discrepancies", state="OPEN") == []
        world.exit("out", "in-CNC", quantity=10)
        await world.run(10)
        assert world.exit_record("out").status is Status.FILLED
