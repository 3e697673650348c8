"""An odd value in a stored record, command, alert or ledger entry makes one thing unclear, is told once, and stops nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import OrderRef, ReportStatus
from execution_service.core.orders.request import Identity, Purpose
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.views.record import ledger_from_document
from execution_service.delivery.rebuild import Rebuild
from execution_service.storage.reader import StoreReader
from tests.builders import NOW
from tests.fakes import ACCOUNT, BY_HAND, RESTING, AllAt, world_of
from tests.service.audit import audit
from tests.service.positions import positions_of, some_position
from tests.service.test_plans import body, publish

Spoil = Mapping[str, Any]


SPOILT_RECORDS: dict[str, Spoil] = {
    "another format": {"$set": {"format": 99}},
    "an unknown event": {"$set": {"events.0": {"type": "Danced"}}},
    "an event that is none": {"$set": {"events": "none"}},
    "nothing told": {"$unset": {"told": ""}},
    "told as text": {"$set": {"told": "all"}},
    "more told than happened": {"$set": {"told.world": 99}},
    "less told than nothing": {"$set": {"told.people": -1}},
    "no version": {"$unset": {"version": ""}},
    "a version as text": {"$set": {"version": "two"}},
    "no time": {"$unset": {"received_at": ""}},
    "a time as text": {"$set": {"received_at": "yesterday"}},
    "no request": {"$unset": {"request": ""}},
    "a quantity that is no number": {"$set": {"request.quantity": "NaN-ish"}},
    "lookup as text": {"$set": {"raw": 5, "purpose": "DANCE"}},
}


@pytest.mark.parametrize("lease_seconds", [None, 4.0], ids=["alone", "sharing"])
@pytest.mark.parametrize("spoil", SPOILT_RECORDS.values(), ids=SPOILT_RECORDS)
async def test_a_record_that_cannot_be_read_stops_no_start_and_no_other_order(
    tmp_path: Path, spoil: Spoil, lease_seconds: float | None
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, lease_seconds=lease_seconds) as world:
        world.send("odd")
        world.send("sound", symbol="MSFT")
        await world.run(5)
        await world.kill()
        orders = world.mongo["trading"]["execution_orders"]
        orders.update_one({"signal_id": "odd"}, spoil)
        await world.start()
        await world.run(15)
        world.fill("sound")
        world.send("new", symbol="TSLA")
        await world.run(5)
        world.fill("new")
        await world.run(5)
        assert world.publisher.statuses("sound") == ["FILLED"]
        assert world.publisher.statuses("new") == ["FILLED"]
        texts = world.notifier.titled("Record Cannot Be Read")
        assert 1 <= len(texts) <= 2
        assert "ord_" in texts[0]


async def test_a_record_that_cannot_be_read_stays_known_as_one_while_it_is_looked_at_in_brief(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, lease_seconds=4.0) as world:
        world.send("odd")
        await world.run(5)
        await world.kill()
        world.mongo["trading"]["execution_orders"].update_one({"signal_id": "odd"}, {"$set": {"format": 99}})
        await world.start()
        await world.run(100)
        store: Any = world.service._store
        assert len(store.unreadable(["signal:odd"])) == 1
        world.exit("out", "odd")
        await world.run(10)
        assert world.exit_record("out").status is Status.REJECTED
        await world.run(300)
        assert len(world.notifier.titled("Record Cannot Be Read")) == 1
        world.mongo["trading"]["execution_orders"].update_one({"signal_id": "odd"}, {"$set": {"format": 1}})
        await world.run(60)
        await world.restart()
        await world.run(30)
        world.fill("odd")
        await world.run(30)
        assert world.record("odd").status is Status.FILLED


async def test_a_message_that_comes_again_for_a_record_that_cannot_be_read_is_a_dead_letter(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("odd")
        await world.run(1)
        await world.kill()
        world.mongo["trading"]["execution_orders"].update_one({"signal_id": "odd"}, {"$set": {"format": 99}})
        await world.start()
        world.send("odd")
        world.send("new", symbol="MSFT")
        await world.run(1)
        assert world.orders.unacknowledged == []
        (letter,) = world.documents("execution_dead_letters")
        assert "cannot be read" in letter["reason"]
        assert len(world.placed()) == 2
        assert world.record("new").status is Status.SUBMITTED


async def test_a_cancel_of_a_record_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("odd")
        await world.run(1)
        await world.kill()
        world.mongo["trading"]["execution_orders"].update_one({"signal_id": "odd"}, {"$set": {"format": 99}})
        await world.start()
        world.cancel(signal_id="odd")
        await world.run(1)
        (command,) = world.documents("execution_commands")
        assert command["status"] == "REFUSED"
        assert "cannot be read" in command["outcome"]


@pytest.mark.parametrize("quantity", [100, 150])
async def test_an_exit_whose_entry_cannot_be_read_leaves_only_if_it_reduces_what_we_hold(
    tmp_path: Path, quantity: int
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(1)
        await world.kill()
        world.mongo["trading"]["execution_orders"].update_one({"signal_id": "in"}, {"$set": {"format": 99}})
        await world.start()
        world.exit("out", "in", quantity=quantity)
        await world.run(10)
        order = world.exit_record("out")
        if quantity == 100:
            assert order.status is Status.SUBMITTED
            assert [text for text in world.notifier.texts if "record of its entry cannot be read" in text]
        else:
            assert (order.status, order.reason and order.reason.code) == (Status.REJECTED, ReasonCode.NOTHING_TO_EXIT)


SPOILT_BESIDE: list[tuple[str, dict[str, Any]]] = [
    ("execution_commands", {"_id": "msg-odd", "status": "NEW"}),
    ("execution_commands", {"_id": 7, "status": "NEW", "kind": "CANCEL", "body": 5}),
    ("execution_alerts", {"_id": "odd", "sent_at": None}),
    ("execution_alerts", {"_id": "odd", "sent_at": None, "kind": 5, "text": None, "count": "many", "first_at": "now"}),
    ("execution_discrepancies", {"_id": "odd", "account_id": ACCOUNT, "state": "OPEN", "place": "nowhere"}),
    ("execution_leases", {"_id": "odd"}),
    (
        "execution_leases",
        {"_id": "odd", "holder": "h", "epoch": 1, "beat": 1, "term_seconds": float("nan"), "host": "h", "pid": 1}
        | dict.fromkeys(("taken_at", "renewed_at"), NOW),
    ),
    ("execution_leases", {"_id": "elsewhere", "holder": 5, "epoch": "one", "beat": None}),
    ("execution_positions", {"_id": "odd", "account_id": ACCOUNT, "is_open": True}),
    ("execution_positions", {"_id": 5, "account_id": ACCOUNT, "is_open": True, "instrument_key": 7, "instrument": 8}),
]


@pytest.mark.parametrize("lease_seconds", [None, 4.0], ids=["alone", "sharing"])
@pytest.mark.parametrize(("collection", "document"), SPOILT_BESIDE)
async def test_a_document_that_cannot_be_read_stops_nothing(
    tmp_path: Path, collection: str, document: dict[str, Any], lease_seconds: float | None
) -> None:
    rules = replace(RESTING, reconcile_interval_seconds=10.0)
    async with world_of(tmp_path, market=BY_HAND, rules=rules, lease_seconds=lease_seconds, starts=False) as world:
        world.mongo["trading"][collection].insert_one(dict(document))
        world.mongo["trading"]["trading_accounts"].insert_one({"_id": ACCOUNT, "open_positions": []})
        await world.start()
        await world.run(10)
        world.send("in")
        await world.run(2)
        world.fill("in")
        await world.run(5)
        world.send("away", symbol="MSFT")
        await world.run(2)
        world.cancel(signal_id="away")
        await world.run(30)
        assert world.publisher.statuses("in") == ["FILLED"]
        assert world.publisher.statuses("away") == ["CANCELLED"]
        if collection != "execution_leases" or lease_seconds is not None:
            assert len(world.notifier.titled("Record Cannot Be Read")) == 1
        assert [each for each in world.broker_calls if each[0] == "connect"] == [("connect", "")]
        assert not [entry for entry in world.logs if entry.get("action") == "part_restarted"]


async def test_a_ledger_entry_that_cannot_be_read_is_unclear_and_the_others_are_booked_and_compared(
    tmp_path: Path,
) -> None:
    rules = replace(RESTING, reconcile_interval_seconds=10.0)
    async with world_of(tmp_path, market=BY_HAND, rules=rules) as world:
        world.mongo["trading"]["trading_accounts"].insert_one({"_id": ACCOUNT, "open_positions": ["as it was"]})
        await positions_of(world)
        await world.kill()
        ledger = world.mongo["trading"]["execution_positions"]
        ledger.update_one({"instrument.symbol": "AAPL"}, {"$set": {"format": 99}})
        await world.start()
        shown = world.documents("trading_accounts")[0]["open_positions"]
        world.send("more", symbol="MSFT")
        await world.run(2)
        world.fill("more")
        await world.run(120)
        assert world.publisher.statuses("more") == ["FILLED"]
        assert world.documents("execution_discrepancies") == []
        assert world.documents("trading_accounts")[0]["open_positions"] == shown
        world.broker_faults.held = some_position("MSFT", Decimal(7))
        await world.run(120)
        (found,) = world.documents("execution_discrepancies")
        assert found["finding"]["subject"] == "MSFT|STOCK"


async def test_people_see_everything_but_what_cannot_be_read_and_that_it_is_left_out(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await positions_of(world)
        world.send("open", symbol="TSLA")
        world.send("shut", symbol="NVDA")
        await world.run(1)
        database = world.mongo["trading"]
        for name in ("a", "open"):
            database["execution_orders"].update_one(
                {"signal_id": name}, {"$set": {"format": 99}, "$unset": {"told": ""}}
            )
        database["execution_orders"].update_one({"signal_id": "shut"}, {"$set": {"account_id": 5}})
        database["execution_positions"].update_one({"instrument.symbol": "AAPL"}, {"$set": {"format": 99}})
        for collection, document in SPOILT_BESIDE:
            if not database[collection].find_one({"_id": document["_id"]}):
                database[collection].insert_one(dict(document))
        database["execution_dead_letters"].insert_one({"_id": "odd"})
        view = StoreReader(world.mongo, "trading")
        assert [each.order.signal_id for each in view.orders() if each.order.signal_id != "shut"] == ["m"]
        assert view.named("a") == []
        assert [each.instrument.symbol for each in view.ledgers()] == ["MSFT"]
        assert (view.dead_letters(10), view.discrepancies(), view.leases(), view.dead_letter("odd")) == (
            [],
            [],
            [],
            None,
        )
        assert view.command("msg-odd") is None
        assert [each.order_id for each in view.unfinished()] == [
            Identity(signal_id="open", leg_index=0, purpose=Purpose.ENTRY).order_id
        ]
        assert view.waiting().dead_letters == 1
        assert set(view.accounts()) == set(view.traded_accounts()) == {ACCOUNT}
        assert len(view.unreadable) >= 8


@pytest.mark.parametrize("odd", [{"format": 99}, {"version": -1}, {"version": 0}], ids=str)
async def test_a_fill_for_a_ledger_entry_that_cannot_be_read_is_booked_once_it_can(
    tmp_path: Path, odd: Mapping[str, int]
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await positions_of(world)
        await world.kill()
        ledger = world.mongo["trading"]["execution_positions"]
        usual = ledger.find_one({"instrument.symbol": "AAPL"})
        ledger.update_one({"instrument.symbol": "AAPL"}, {"$set": odd})
        await world.start()
        for name, symbol in (("odd", "AAPL"), ("sound", "MSFT")):
            world.send(name, symbol=symbol)
            await world.run(1)
            world.fill(name)
        await world.run(200)
        assert world.publisher.statuses("sound") == ["FILLED"]
        assert world.publisher.statuses("odd") == []
        assert len(world.notifier.titled("Delivery Failing")) == 1
        ledger.update_one({"instrument.symbol": "AAPL"}, {"$set": {name: usual[name] for name in odd}})
        await world.run(60)
        assert world.publisher.statuses("odd") == ["FILLED"]
        audit(world)


@pytest.mark.parametrize("spoil", [{"$set": {"format": 99, "version": 77}}, {"$unset": {"version": "", "told": ""}}])
async def test_a_record_that_is_spoilt_while_its_order_is_at_work_stops_no_other(tmp_path: Path, spoil: Spoil) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("odd")
        world.send("sound", symbol="MSFT")
        await world.run(1)
        world.mongo["trading"]["execution_orders"].update_one({"signal_id": "odd"}, spoil)
        world.fill("odd")
        world.fill("sound")
        world.send("new", symbol="TSLA")
        await world.run(3)
        world.fill("new")
        await world.run(30)
        assert world.publisher.statuses("sound") == ["FILLED"]
        assert world.publisher.statuses("new") == ["FILLED"]
        assert world.notifier.titled("Record Cannot Be Read")
        assert [each for each in world.broker_calls if each[0] == "connect"] == [("connect", "")]


@pytest.mark.parametrize(
    "fields",
    [
        {"order_id": None, "signal_id": {"$gt": ""}},
        {"order_id": ["a"], "leg_index": "two"},
        {"order_id": 5, "reason": {"a": 1}, "requested_by": []},
        {"signal_id": None, "reason": "x" * 100_000},
    ],
)
async def test_a_command_of_odd_values_stops_no_other(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.mongo["trading"]["execution_commands"].insert_one(
            {
                "_id": "cmd-odd",
                "status": "NEW",
                "kind": "CANCEL",
                "body": fields,
                "published_at": world.clock.now(),
                "received_at": world.clock.now(),
                "outcome": "",
                "active_until": None,
            }
        )
        await world.run(3)
        world.send("sound")
        await world.run(2)
        world.cancel(signal_id="sound")
        await world.run(5)
        assert world.publisher.statuses("sound") == ["CANCELLED"]
        (odd,) = world.documents("execution_commands", _id="cmd-odd")
        assert odd["status"] != "NEW"


@pytest.mark.parametrize("names_entry", [True, False])
async def test_a_late_exit_whose_ledger_entry_cannot_be_read_is_rejected_and_not_held_for_ever(
    tmp_path: Path, names_entry: bool
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await positions_of(world)
        await world.kill()
        database = world.mongo["trading"]
        database["execution_positions"].update_one({"instrument.symbol": "AAPL"}, {"$set": {"format": 99}})
        if names_entry:
            database["execution_orders"].update_one({"signal_id": "a"}, {"$set": {"format": 99}})
        await world.start()
        world.exit("out", "a" if names_entry else "of somebody else", age_seconds=600)
        world.send("new", symbol="TSLA")
        await world.run(30)
        assert world.exit_record("out").status is Status.REJECTED
        assert world.record("new").status is Status.SUBMITTED


async def test_what_is_told_of_an_order_whose_record_cannot_be_read_is_recorded_once_it_can(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=RESTING) as world:
        world.send("odd")
        await world.run(10)
        assert world.record("odd").filled_quantity == 100
        orders = world.mongo["trading"]["execution_orders"]
        orders.update_one({"signal_id": "odd"}, {"$set": {"format": 99}})
        world.book().bust_fill(world.placed()[0].fills[0].fill_id)
        await world.run(30)
        orders.update_one({"signal_id": "odd"}, {"$set": {"format": 1}})
        await world.run(30)
        assert world.record("odd").filled_quantity == 0


@pytest.mark.parametrize("spoilt", ["in", "out-1"])
async def test_the_profit_of_a_signal_stays_as_it_is_beside_a_record_that_cannot_be_read_and_follows_when_it_can(
    tmp_path: Path, spoilt: str
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in", price="10")
        await world.run(1)
        world.exit("out-1", "in", quantity=40)
        await world.run(1)
        world.fill("out-1", price="11", purpose=Purpose.EXIT)
        await world.run(5)
        assert world.documents("signal_store", signal_id="in")[0]["pnl_realized"] == 40
        orders = world.mongo["trading"]["execution_orders"]
        (document,) = orders.find({"signal_id": spoilt})
        orders.update_one({"_id": document["_id"]}, {"$set": {"version": "gone"}})
        world.exit("out-2", "in", quantity=60)
        await world.run(5)
        (sale,) = [p for p in world.placed() if p.status is ReportStatus.WORKING]
        world.book().fill_order(OrderRef(client_order_id=sale.ticket.client_order_id), price=Decimal(12))
        await world.run(10)
        assert world.publisher.statuses("out-2") == ["FILLED"]
        assert world.documents("signal_store", signal_id="in")[0]["pnl_realized"] == 40
        assert world.documents("execution_confirmations", signal_id="out-2")[0]["filled_quantity"] == 60
        orders.update_one({"_id": document["_id"]}, {"$set": {"version": document["version"]}})
        await world.run(60)
        assert world.documents("signal_store", signal_id="in")[0]["pnl_realized"] == 160
        audit(world)


@pytest.mark.parametrize("spoilt", ["in", "out-1"])
async def test_views_made_again_leave_the_profit_of_a_signal_beside_a_record_that_cannot_be_read(
    tmp_path: Path, spoilt: str
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in", price="10")
        for name, quantity, price in (("out-1", 40, "11"), ("out-2", 60, "12")):
            await world.run(1)
            world.exit(name, "in", quantity=quantity)
            await world.run(1)
            world.fill(name, price=price, purpose=Purpose.EXIT)
        await world.run(5)
        before = world.documents("signal_store")
        assert [each["pnl_realized"] for each in before if each["signal_id"] == "in"] == [160]
        orders = world.mongo["trading"]["execution_orders"]
        orders.update_one({"signal_id": spoilt}, {"$set": {"request": "gone"}})
        store = world.store_beside()
        entries = [ledger_from_document(each) for each in world.documents("execution_positions")]
        order_ids = [each["_id"] for each in world.documents("execution_orders")]
        found = await Rebuild(store, world.clock, brokers=AllAt("MOCK", shown="MOCK")).run(order_ids, entries)
        assert world.documents("signal_store") == before
        assert found.signals_left == tuple(sorted({"in", "out-1", "out-2"} - {spoilt}))


@pytest.mark.parametrize("ends", [True, False], ids=["over", "at work"])
@pytest.mark.parametrize("mended", ["while it runs", "after a kill", "after a stop"])
async def test_what_is_booked_beside_a_record_that_cannot_be_read_holds_up_no_plan(
    tmp_path: Path, mended: str, ends: bool
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("m", symbol="MSFT", quantity=30)
        world.send("in")
        await world.run(2)
        world.fill("m", price="10")
        world.fill("in", price="10")
        await world.run(2)
        world.exit("out-1", "in", quantity=40)
        await world.run(1)
        world.fill("out-1", price="11", purpose=Purpose.EXIT)
        await world.run(5)
        orders = world.mongo["trading"]["execution_orders"]
        (document,) = orders.find({"signal_id": "out-1"})
        orders.update_one({"_id": document["_id"]}, {"$set": {"version": "gone"}})
        world.exit("out-2", "in", quantity=60)
        await world.run(5)
        (sale,) = [p for p in world.placed() if p.status is ReportStatus.WORKING]
        sold = Decimal(60 if ends else 50)
        world.book().fill_order(OrderRef(client_order_id=sale.ticket.client_order_id), sold, Decimal(12))
        await world.run(10)
        world.quote("MSFT", bid="10", ask="10.02", last="10")
        publish(world, body(world, ("MSFT", 0), aggressiveness="EMERGENCY"))
        await world.run(10)
        (leg,) = [d for d in orders.find() if d["signal_id"].startswith("plan_")]
        assert (leg["request"]["instrument"]["symbol"], leg["status"]) == ("MSFT", "SUBMITTED")
        (told,) = [d["told"] for d in orders.find({"signal_id": "out-2"})]
        assert told["ledger"] == told["world"] > told["signals"]
        (waiting,) = [d for d in orders.documents.values() if d["signal_id"] == "out-2"]
        await world.run(120)
        assert orders.documents[waiting["_id"]] is waiting  # it is tried again and again, and written once
        if mended == "after a kill":
            await world.kill()
        elif mended == "after a stop":
            assert world.service.delivery.waiting == 0  # else a stop would wait for it in vain
            await world.stop()
        orders.update_one({"_id": document["_id"]}, {"$set": {"version": document["version"]}})
        if mended != "while it runs":
            await world.start()
        await world.run(60)
        assert world.documents("signal_store", signal_id="in")[0]["pnl_realized"] == 40 + 2 * sold
        (told,) = [d["told"] for d in orders.find({"signal_id": "out-2"})]
        assert set(told.values()) == {told["ledger"]}
        assert bool(orders.find_one({"signal_id": "out-2", "lookup": "unsettled"})) is not ends
        audit(world)
