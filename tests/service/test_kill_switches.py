"""Kill switches from a person's word to the last look before an order leaves, by a hand-moved clock."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from brokers.base import Capabilities, OrderType, Side
from brokers.errors import OutcomeUnknown
from brokers.paper.model import PaperOrder
from execution_service.control.requests import Kill, Kind, read_request
from execution_service.control.results import Done, Refused, Result
from execution_service.control.switches import NobodyLearns, Switches
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.risk.kill import KillLevel
from execution_service.core.risk.limits import Scope
from execution_service.core.risk.switch_record import record_from_document
from execution_service.storage.ports.commands import Command
from execution_service.storage.ports.errors import StoreUnavailable
from tests.fakes import BY_HAND, DATABASE, RESTING, World, two_worlds, world_of
from tests.service.audit import audit

SWITCHES = "execution_kill_switches"
LIMIT = {"order_type": "LIMIT", "limit_price": 9}


def say(world: World, command: str, **fields: Any) -> str:
    """By the topic of commands."""
    body = {"command": command, "scope": "all", "reason": "runaway strategy"} | fields
    return world.commands.publish(json.dumps(body).encode(), world.clock.now())


def kill(world: World, scope: str = "all", **fields: Any) -> str:
    return say(world, "KILL", scope=scope, **{"by": "ann"} | fields)


async def give(world: World, kind: Kind, command_id: str, **body: Any) -> Result | None:
    """As an API calls a verb."""
    now = world.clock.now()
    fields = {"scope": "all", "reason": "runaway strategy"} | body
    command = Command(command_id=command_id, kind=kind, body=fields, published_at=now, received_at=now)
    return await world.service.commands.give(command)


def answer(result: Result | None) -> dict[str, Any]:
    assert isinstance(result, Done), result
    told: dict[str, Any] = json.loads(result.words)
    return told


async def hold_and_sell(world: World, *quantities: int) -> None:
    """100 shares are held, sales of so many rest, and an entry of another instrument."""
    world.send("held", quantity=100)
    await world.run(1)
    world.fill("held", price="10")
    await world.run(1)
    for number, quantity in enumerate(quantities):
        world.send(f"sale-{number}", side="SELL", quantity=quantity, order_type="LIMIT", limit_price=12)
    world.send("entry", symbol="MSFT", **LIMIT)
    await world.run(1)
    assert len(world.placed()) == len(quantities) + 2


def why_not(result: Result | None) -> str:
    assert isinstance(result, Refused), result
    return result.words


def outcome(world: World, message_id: str) -> dict[str, Any]:
    (command,) = world.documents("execution_commands", _id=f"msg-{message_id}")
    assert command["status"] == "DONE", command
    told: dict[str, Any] = json.loads(command["outcome"])
    return told


def switch(world: World, scope: str = "all") -> dict[str, Any]:
    (document,) = world.documents(SWITCHES, _id=scope)
    return document


def is_engaged(world: World, scope: str = "all") -> bool:
    return any(record_from_document(d).switch.is_engaged for d in world.documents(SWITCHES, _id=scope))


def placed_of(world: World, signal_id: str, purpose: Purpose = Purpose.ENTRY) -> list[PaperOrder]:
    return world.book().orders(world.client_id(signal_id, purpose))


async def hold(world: World, quantity: int = 100) -> None:
    """A position of so many, whose entry is over."""
    world.send("entry", quantity=quantity)
    await world.run(1)
    world.fill("entry")
    await world.run(2)
    assert world.record("entry").status is Status.FILLED


# --- what leaves ----------------------------------------------------------------------------------------------------


async def test_an_entry_is_refused_with_the_reason_while_a_switch_is_engaged(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        kill(world)
        await world.run(0.1)
        world.send("late")
        await world.run(1)
        order = world.record("late")
        assert order.status is Status.REJECTED
        assert order.reason is not None
        assert order.reason.code is ReasonCode.KILL_SWITCH
        assert "runaway strategy" in order.reason.message
        assert "ann" in order.reason.message
        assert not world.placed()
        assert world.publisher.statuses("late") == ["REJECTED"]
        audit(world)


@pytest.mark.parametrize(
    ("scope", "is_stopped"),
    [
        ("all", True),
        ("account:acct-1", True),
        ("account:other", False),
        ("strategy:momentum", True),
        ("strategy:other", False),
        ("symbol:AAPL", True),
        ("symbol:aapl", True),
        ("symbol:MSFT", False),
        ("strategy:momentum+symbol:AAPL", True),
        ("strategy:momentum+symbol:MSFT", False),
    ],
)
async def test_a_switch_stops_its_scope_and_nothing_else(tmp_path: Path, scope: str, is_stopped: bool) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        kill(world, scope)
        await world.run(0.1)
        world.send("late")
        await world.run(1)
        assert (world.record("late").status is Status.REJECTED) is is_stopped
        assert bool(world.placed()) is not is_stopped


async def test_at_reduce_only_an_exit_leaves_and_nothing_that_calls_itself_one(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world)
        kill(world)
        await world.run(0.1)
        world.send("adds", signal_type="EXIT", side="BUY", quantity=10)
        world.send("elsewhere", signal_type="EXIT", side="SELL", symbol="MSFT", quantity=10)
        world.exit("out", "entry", quantity=60)
        await world.run(2)
        for name in ("adds", "elsewhere"):
            assert world.exit_record(name).status is Status.REJECTED
            assert not placed_of(world, name, Purpose.EXIT)
        assert [p.ticket.quantity for p in placed_of(world, "out", Purpose.EXIT)] == [60]


async def test_at_reduce_only_what_leaves_never_takes_a_position_past_zero(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world)
        kill(world)
        await world.run(0.1)
        world.exit("out", "entry", quantity=60)
        await world.run(1)
        # What works already counts: each would fit alone, and the last is a flip by any reckoning.
        for name, quantity in (("second", 60), ("flip", 150)):
            world.send(name, signal_type="EXIT", side="SELL", quantity=quantity)
            await world.run(2)
        sold = [p.open_quantity for p in world.placed() if p.ticket.side is Side.SELL]
        assert sum(sold) <= 100
        assert placed_of(world, "out", Purpose.EXIT)[0].open_quantity == 60


async def test_at_halt_not_even_an_exit_leaves_and_a_cancel_does(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world)
        world.send("rests", **LIMIT)
        await world.run(1)
        kill(world, level="halt")
        await world.run(0.1)
        world.exit("out", "entry")
        world.cancel(signal_id="rests")
        await world.run(2)
        order = world.exit_record("out")
        assert order.status is Status.REJECTED
        assert order.reason is not None
        assert order.reason.code is ReasonCode.KILL_SWITCH
        assert world.record("rests").status is Status.CANCELLED


async def test_an_entry_whose_intent_was_written_when_the_switch_was_engaged_does_not_leave(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        engaged = False
        inner = world.service.live_orders.record

        async def record(live: Any, decide: Any) -> Any:
            nonlocal engaged
            done = await inner(live, decide)
            if live.order.status is Status.SUBMITTING and not engaged:
                engaged = True
                await give(world, Kind.KILL, "api-1", by="ann")
            return done

        world.service.live_orders.record = record  # type: ignore[method-assign]
        world.send("just")
        await world.run(2)
        assert engaged
        assert not world.placed()
        order = world.record("just")
        assert order.status is Status.REJECTED
        assert order.reason is not None
        assert order.reason.code is ReasonCode.KILL_SWITCH


async def test_a_working_entry_goes_on_unless_its_cancel_is_asked_for(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("rests", **LIMIT)
        await world.run(1)
        told = answer(await give(world, Kind.KILL, "api-1", by="ann"))
        assert (told["working_entries"], told["cancels_asked"]) == (1, 0)
        await world.run(5)
        assert world.record("rests").status is Status.SUBMITTED
        message = kill(world, cancel_entries=True)
        await world.run(5)
        assert world.record("rests").status is Status.CANCELLED
        told = outcome(world, message)
        assert told == {
            "version": 2,
            "scope": "all",
            "level": "reduce_only",
            "engaged_at": told["engaged_at"],
            "working_entries": 1,
            "cancels_asked": 1,
            "cancels_confirmed": 1,
            "cancels_unknown": 0,
        }


@pytest.mark.parametrize(("besides", "end"), [(10, Status.SUBMITTED), (11, Status.CANCELLED)])
async def test_cancelling_entries_leaves_what_reduces_and_ends_what_might_open(
    tmp_path: Path, besides: int, end: Status
) -> None:
    """Plain sales of what is held are exits by projected exposure; where they may sell more than that together, none of them is."""
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold_and_sell(world, 90, besides)
        message = kill(world, cancel_entries=True)
        await world.run(5)
        assert [world.record(name).status for name in ("sale-0", "sale-1")] == [end] * 2
        assert world.record("entry").status is Status.CANCELLED
        told, count = outcome(world, message), 1 if end is Status.SUBMITTED else 3
        assert (told["working_entries"], told["cancels_asked"], told["cancels_confirmed"]) == (count, count, count)


@pytest.mark.parametrize("trouble", ["a difference from the broker", "a ledger", "a record"])
async def test_cancelling_entries_ends_a_sale_of_which_it_is_not_known_what_it_does(
    tmp_path: Path, trouble: str
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold_and_sell(world, 90)
        if trouble == "a difference from the broker":
            world.book().move_position(world.record("held").accepted_request.instrument, Decimal(-40))
            await world.run(400)
            assert world.documents("execution_discrepancies", state="OPEN")
        elif trouble == "a ledger":
            world.mongo["trading"]["execution_positions"].update_one({}, {"$set": {"position": "gone"}})
        else:
            world.mongo["trading"]["execution_orders"].update_one({"signal_id": "entry"}, {"$set": {"request": "gone"}})
        message = kill(world, cancel_entries=True)
        await world.run(5)
        assert world.record("sale-0").status is Status.CANCELLED
        assert outcome(world, message)["cancels_asked"] == (1 if trouble == "a record" else 2)


async def test_what_is_engaged_is_not_told_as_so_when_it_has_not_been_known_for_long(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await world.run(2)
        assert world.service.kill_switches.component() == {"status": "OK", "message": "none is engaged"}
        world.store_faults.is_away = True
        await world.run(15)
        told = world.service.kill_switches.component()
        assert (told["status"], str(told["message"])[:13]) == ("DEGRADED", "not known for")
        world.store_faults.is_away = False


@pytest.mark.parametrize(("product", "end"), [("CNC", Status.SUBMITTED), ("MIS", Status.CANCELLED)])
async def test_cancelling_entries_ends_a_sale_of_another_product_than_what_is_held(
    tmp_path: Path, product: str, end: Status
) -> None:
    apart = Capabilities(share_products=("CNC", "MIS"))
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=apart) as world:
        world.send("held", quantity=100, product="CNC")
        await world.run(1)
        world.fill("held", price="10")
        await world.run(1)
        world.send("sale", side="SELL", quantity=100, product=product, order_type="LIMIT", limit_price=12)
        await world.run(1)
        message = kill(world, cancel_entries=True)
        await world.run(5)
        assert world.record("sale").status is end
        assert outcome(world, message)["working_entries"] == (0 if end is Status.SUBMITTED else 1)


async def test_a_cancel_that_the_broker_does_not_confirm_is_told_as_unknown_and_tried_on(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("rests", **LIMIT)
        world.send("goes", symbol="MSFT", **LIMIT)
        await world.run(1)
        world.broker_faults.holds["cancel_order"] = asyncio.Event()
        message = kill(world, "symbol:AAPL", cancel_entries=True)
        await world.run(5)
        told = outcome(world, message)
        assert (told["working_entries"], told["cancels_asked"]) == (1, 1)
        assert (told["cancels_confirmed"], told["cancels_unknown"]) == (0, 1)
        assert world.record("goes").status is Status.SUBMITTED
        world.broker_faults.holds.pop("cancel_order").set()
        await world.run(5)
        assert world.record("rests").status is Status.CANCELLED


# --- engaging -------------------------------------------------------------------------------------------------------


async def test_engaging_never_lowers_a_level_and_is_one_change_however_often_it_is_said(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        kill(world, level="HALT")
        await world.run(0.1)
        for _ in range(3):
            kill(world, level="reduce-only")
            kill(world, level="halt", by="bob")
        await world.run(2)
        document = switch(world)
        assert document["version"] == 1
        assert document["switch"]["level"] == "halt"
        assert [(c["deed"], c["by"], c["version"]) for c in document["history"]] == [("engaged", "ann", 1)]
        assert len(world.notifier.titled("Kill Switch Engaged")) == 1


@pytest.mark.parametrize(
    "fields", [{"scope": None}, {"scope": "everything"}, {"scope": "\ud800"}, {"level": "maximum"}]
)
async def test_a_kill_that_names_nothing_that_could_be_stopped_is_refused_and_people_are_told(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    async with world_of(tmp_path) as world:
        say(world, "KILL", **fields)
        await world.run(2)
        assert not world.documents(SWITCHES)
        assert world.notifier.titled("Kill Not Carried Out")
        assert not world.commands.unacknowledged


async def test_it_is_not_answered_as_engaged_while_the_store_is_away_and_is_engaged_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.store_faults.breaks[f"{SWITCHES}.insert_one"] = [AutoReconnect("connection refused")]
        with pytest.raises(StoreUnavailable):
            await give(world, Kind.KILL, "api-1", by="ann")
        assert not world.documents(SWITCHES)
        await world.run(3)  # the command is stored, and is carried out
        assert is_engaged(world)
        assert world.documents("execution_commands", _id="api-1")[0]["status"] == "DONE"


async def test_a_switch_survives_a_restart(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        kill(world)
        await world.run(0.1)
        await world.restart(after_seconds=3600)
        world.send("late")
        await world.run(1)
        assert world.record("late").status is Status.REJECTED
        assert len(world.notifier.titled("Kill Switch Engaged")) == 1


# --- two processes --------------------------------------------------------------------------------------------------


async def test_under_load_no_entry_leaves_at_either_process_a_second_after_it_was_engaged(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND, rules=RESTING, accounts=("acct-1", "acct-2")) as (one, other):
        await other.start()
        await one.run(3)
        one.send("rests", **LIMIT)
        await one.run(1)
        for number in range(10):
            for account in ("acct-1", "acct-2"):
                one.send(f"before-{number}-{account}", account_id=account, symbol=f"S{number}")
            await one.run(0.1)
        kill(one)
        await one.run_until(lambda: is_engaged(one))
        engaged_at = one.clock.now()
        for number in range(30):
            for account in ("acct-1", "acct-2"):
                (one if number % 2 else other).send(
                    f"after-{number}-{account}", account_id=account, symbol=f"S{number % 10}"
                )
            await one.run(0.1)
        await one.run(3)
        late = [
            (p.ticket.client_order_id, p.placed_at)
            for account in ("acct-1", "acct-2")
            for p in one.placed(account)
            if (p.placed_at - engaged_at).total_seconds() > 1.0
        ]
        assert late == []
        for account in ("acct-1", "acct-2"):
            assert one.record(f"after-29-{account}").status is Status.REJECTED
        assert one.record("rests").status is Status.SUBMITTED
        assert len(one.notifier.titled("Kill Switch Engaged")) == 1


# --- arming ---------------------------------------------------------------------------------------------------------


async def test_arming_takes_two_steps_a_person_and_a_minute(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        await give(world, Kind.KILL, "k", by="ann")
        first = answer(await give(world, Kind.ARM, "a1", person="bob", reason="mended"))
        await world.run(30)
        early = why_not(await give(world, Kind.ARM, "a2", person="bob", reason="mended", nonce=first["nonce"]))
        assert "not before" in early
        await world.run(31)
        assert is_engaged(world)  # nothing arms by itself
        other = why_not(await give(world, Kind.ARM, "a3", person="eve", reason="mended", nonce=first["nonce"]))
        assert "person" in other
        why_not(await give(world, Kind.ARM, "a4", person="bob", reason="mended", nonce="000000000000"))
        why_not(await give(world, Kind.ARM, "a5", person="", reason="mended", nonce=first["nonce"]))
        why_not(await give(world, Kind.ARM, "a6", person="bob", reason=" ", nonce=first["nonce"]))
        assert is_engaged(world)
        done = answer(await give(world, Kind.ARM, "a7", person="bob", reason="mended", nonce=first["nonce"]))
        assert (done["level"], done["person"]) == (None, "bob")
        assert not is_engaged(world)
        why_not(await give(world, Kind.ARM, "a8", person="bob", reason="mended", nonce=first["nonce"]))
        world.send("free")
        await world.run(1)
        assert placed_of(world, "free")
        deeds = [(c["deed"], c["by"]) for c in switch(world)["history"]]
        assert deeds == [("engaged", "ann"), ("arming_asked", "bob"), ("armed", "bob")]
        assert len(world.notifier.titled("Kill Switch Armed")) == 1
        assert not any(first["nonce"] in text for text in world.notifier.texts)
        assert not any(first["nonce"] in str(line) for line in world.logs)


async def test_whoever_kills_in_between_voids_the_first_step(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await give(world, Kind.KILL, "k1", by="ann")
        first = answer(await give(world, Kind.ARM, "a1", person="bob", reason="mended"))
        await world.run(61)
        await give(world, Kind.KILL, "k2", by="ann")
        why_not(await give(world, Kind.ARM, "a2", person="bob", reason="mended", nonce=first["nonce"]))
        second = answer(await give(world, Kind.ARM, "a3", person="bob", reason="mended"))
        why_not(await give(world, Kind.ARM, "a4", person="bob", reason="mended", nonce=second["nonce"]))  # 60 s anew
        assert is_engaged(world)


async def test_a_step_that_is_carried_out_again_is_the_same_step_and_a_kill_never_undoes_a_later_arming(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        killed = answer(await give(world, Kind.KILL, "k", by="ann"))
        first = answer(await give(world, Kind.ARM, "a1", person="bob", reason="mended"))
        await world.run(61)
        for command_id, told in (("k", killed), ("a1", first)):
            world.mongo[DATABASE]["execution_commands"].update_one({"_id": command_id}, {"$set": {"status": "NEW"}})
            await world.run(2)
            again = json.loads(world.documents("execution_commands", _id=command_id)[0]["outcome"])
            assert again.get("nonce") == told.get("nonce")
        answer(await give(world, Kind.ARM, "a2", person="bob", reason="mended", nonce=first["nonce"]))
        for command_id in ("k", "a2"):
            world.mongo[DATABASE]["execution_commands"].update_one({"_id": command_id}, {"$set": {"status": "NEW"}})
        await world.run(2)
        assert not is_engaged(world)
        assert len(switch(world)["history"]) == 3


# --- a document that cannot be read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "stops_msft"),
    [
        ({"_id": "symbol:AAPL", "version": "odd"}, False),
        ({"_id": "symbol:AAPL"}, False),
        (
            {"_id": "symbol:AAPL", "version": 3, "format": 1, "switch": {"scope": {}, "version": 3}, "history": []},
            False,
        ),
        ({"_id": "what is this", "version": 1}, True),
        ({"_id": 7}, True),
    ],
)
async def test_a_switch_that_cannot_be_read_counts_as_engaged_and_is_told_once(
    tmp_path: Path, document: dict[str, Any], stops_msft: bool
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world)
        world.mongo[DATABASE][SWITCHES].insert_one(document)
        await world.run(1)
        world.send("late")
        world.send("other", symbol="MSFT")
        world.exit("out", "entry")
        await world.run(3)
        assert world.record("late").status is Status.REJECTED
        assert (world.record("other").status is Status.REJECTED) is stops_msft
        assert placed_of(world, "out", Purpose.EXIT)
        assert len(world.notifier.titled("Kill Switch Unreadable")) == 1
        await world.restart()
        await world.run(3)
        assert len(world.notifier.titled("Kill Switch Unreadable")) == 1


async def test_a_person_gets_out_of_an_unreadable_switch_by_killing_and_arming(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.mongo[DATABASE][SWITCHES].insert_one({"_id": "symbol:AAPL", "version": "odd", "note": "by hand"})
        await world.run(1)
        refused = why_not(await give(world, Kind.ARM, "a0", scope="symbol:AAPL", person="bob", reason="mended"))
        assert "cannot be read" in refused
        answer(await give(world, Kind.KILL, "k", scope="symbol:AAPL", by="ann"))
        assert "by hand" in switch(world, "symbol:AAPL")["history"][0]["replaced"]
        first = answer(await give(world, Kind.ARM, "a1", scope="symbol:AAPL", person="bob", reason="mended"))
        await world.run(61)
        answer(
            await give(world, Kind.ARM, "a2", scope="symbol:AAPL", person="bob", reason="mended", nonce=first["nonce"])
        )
        world.send("free")
        await world.run(1)
        assert placed_of(world, "free")


async def test_the_projected_side_of_a_short_position_is_the_purchase(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("entry", side="SELL")
        await world.run(1)
        world.fill("entry")
        await world.run(2)
        kill(world)
        await world.run(0.1)
        world.send("out", signal_type="EXIT", side="BUY", quantity=100)
        await world.run(2)
        (placed,) = placed_of(world, "out", Purpose.EXIT)
        assert (placed.ticket.side, placed.ticket.order_type) == (Side.BUY, OrderType.MARKET)


async def test_an_order_that_was_perhaps_sent_is_not_sent_again_past_a_switch_and_holds_up_no_exit(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world)
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("no answer")]
        world.send("perhaps")
        await world.run(0.05)
        assert world.record("perhaps").status is Status.SUBMITTING
        kill(world)
        world.exit("out", "entry")
        await world.run(60)
        assert not placed_of(world, "perhaps")
        assert world.record("perhaps").status is Status.IN_DOUBT
        assert placed_of(world, "out", Purpose.EXIT)


async def test_while_the_switches_cannot_be_read_entries_wait_and_exits_leave(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world)
        broken = world.store_faults.breaks[f"{SWITCHES}.find"] = [AutoReconnect("not for you") for _ in range(200)]
        await world.run(2)
        world.send("waits")
        world.exit("out", "entry", quantity=40)
        await world.run(5)
        assert world.record("waits").status is Status.PENDING
        assert placed_of(world, "out", Purpose.EXIT)
        broken.clear()
        await world.run(3)
        assert placed_of(world, "waits")


async def test_an_exit_does_not_forget_a_halt_that_cannot_be_read_any_more(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world)
        kill(world, level="halt")
        await world.run(1)
        world.store_faults.breaks[f"{SWITCHES}.find"] = [AutoReconnect("not for you") for _ in range(200)]
        await world.run(2)
        world.exit("out", "entry")
        await world.run(3)
        assert world.exit_record("out").status is Status.REJECTED


async def test_the_counts_are_of_all_processes_whichever_of_them_answers_first(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND, rules=RESTING, accounts=("acct-1", "acct-2")) as (one, other):
        await other.start()
        await one.run(3)
        for number in range(6):
            one.send(f"s{number}", account_id=f"acct-{number % 2 + 1}", symbol=f"S{number}", **LIMIT)
        await one.run(2)
        message = kill(one, cancel_entries=True)
        await one.run_until(lambda: any(o.cancel_request is not None for o in one.records()))
        await other.run(0)
        await one.run(6)
        told = outcome(one, message)
        assert (told["working_entries"], told["cancels_asked"], told["cancels_confirmed"]) == (6, 6, 6)
        command = Command(
            command_id=f"msg-{message}",
            kind=Kind.KILL,
            body={"scope": "all", "reason": "runaway strategy", "by": "ann", "cancel_entries": True},
            published_at=one.clock.now(),
            received_at=one.clock.now(),
        )
        request = read_request(command)
        assert isinstance(request, Kill)
        late = asyncio.create_task(other.service.commands.runner._verbs.kill.carry_out(request))
        await one.run(5)
        assert answer(late.result())["cancels_asked"] == 6  # who comes when all is done tells the same


async def test_a_flood_of_refused_orders_is_no_flood_of_messages(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        kill(world)
        await world.run(1)
        before = len(world.notifier.texts)
        world.notifier.hold = asyncio.Event()  # people are told less quickly than orders are refused
        for number in range(200):
            world.send(f"late-{number}", symbol=f"S{number % 20}")
        await world.run(1)
        world.notifier.hold.set()
        await world.run(30)
        assert all(o.status is Status.REJECTED for o in world.records())
        assert len(world.notifier.texts) - before <= 25
        assert len(world.publisher.messages) == 200


class _FencesOf:
    """Says when fences are raised, and whether the switch was stored by then."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.seen: list[tuple[str, bool]] = []
        self.fails = 0

    async def raise_fences(self, scope: Scope) -> int:
        self.seen.append((str(scope), is_engaged(self._world, str(scope))))
        if self.fails:
            self.fails -= 1
            raise StoreUnavailable("away")
        return 1


async def test_fences_are_raised_after_the_switch_is_stored_and_before_it_is_answered_each_time(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        fences = _FencesOf(world)
        switches = Switches(store=world.store_beside(), clock=world.clock, fences=fences, learner=NobodyLearns())
        asked = Kill(
            command_id="k1",
            scope=Scope(symbol="AAPL"),
            level=KillLevel.REDUCE_ONLY,
            by="ann",
            reason="runaway",
            cancel_entries=False,
            asked_at=world.clock.now(),
        )
        fences.fails = 1
        with pytest.raises(StoreUnavailable):
            await switches.engage(asked)
        await switches.engage(asked)
        assert fences.seen == [("symbol:AAPL", True)] * 2
        assert switch(world, "symbol:AAPL")["version"] == 1
