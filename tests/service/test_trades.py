"""The collection `trades`: each execution once, whatever happens to the service, to the store and to the rows of before."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from execution_service.core.exact import EXACT
from execution_service.core.trades.documents import FIRST_COLUMNS
from execution_service.delivery.past_trades import BOOKMARK, DONE, ORDERS_AT_ONCE, START_SECONDS
from execution_service.delivery.rebuild import Rebuild, Rebuilt
from execution_service.runtime.threads import InPlace
from execution_service.storage.mongo.store import MongoStore
from tests.fakes import DATABASE, AllAt, FakeMongoClient, Gate, World, world_of
from tests.service.audit import audit
from tests.service.http_calls import http_world

DECISION = {"decision_id": "d-1", "profile_version_id": "p-3", "regime_id": 7, "universe_id": "us", "plan_id": "plan_1"}


def trades(world: World) -> list[dict[str, Any]]:
    return sorted(world.documents("trades"), key=lambda document: str(document["_id"]))


def lose_trades(world: World, *ids: str) -> None:
    for document in world.documents("trades"):
        if not ids or document["_id"] in ids:
            world.mongo[DATABASE]["trades"].remove(document["_id"])


async def rebuilt(world: World) -> Rebuilt:
    """`execctl rebuild-views`."""
    client: Any = FakeMongoClient(world.mongo, Gate(), world.store_faults)
    store = MongoStore(client, DATABASE, nonce="ctl", clock=world.clock, threads=InPlace())
    await store.open()
    try:
        order_ids = [str(document["_id"]) for document in world.documents("execution_orders")]
        entries = await store.ledgers_of_account("acct-1", ["AAPL"])
        return await Rebuild(store, world.clock, brokers=AllAt("MOCK", shown="MOCK")).run(order_ids, entries)
    finally:
        await store.close()


async def test_an_execution_is_a_row_with_the_ids_of_its_decision(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(price=10, **DECISION)
        await world.run(2)
        (row,) = trades(world)
        assert tuple(row)[1:13] == FIRST_COLUMNS
        assert (row["ticker"], row["direction"], row["size"], row["price"]) == ("AAPL", "BUY", 100.0, 10.0)
        assert (row["order_id"], row["_id"]) == (world.record().order_id, row["trade_id"])
        kept = [row[name] for name in ("decision_id", "profile_version_id", "regime_id", "universe_id", "plan_id")]
        assert kept == ["d-1", "p-3", "7", "us", "plan_1"]
        assert (row["mode"], row["exact"]["cash"], row["exact"]["commission"]) == ("PRODUCTION", "-1000", "1.00")
        audit(world)


async def test_a_stop_that_the_service_made_is_of_its_entrys_decision(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(price=10, stop_loss=9, **DECISION)
        await world.run(30)
        stops = [order for order in world.records() if order.protective is not None]
        assert [order.accepted_request.decision for order in stops] == [world.record().accepted_request.decision]


@pytest.mark.parametrize("wrong", [["d"], {"id": 1}, True, "x" * 129, "a\nb"])
async def test_an_id_that_cannot_be_read_stops_no_order_and_is_said(tmp_path: Path, wrong: object) -> None:
    async with world_of(tmp_path) as world:
        world.send(decision_id=wrong)
        await world.run(2)
        assert [row["decision_id"] for row in trades(world)] == [None]
        assert "decision_id" in world.record().notes[0].message


async def test_the_same_order_of_another_decision_is_another_content(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(decision_id="d-1")
        await world.run(2)
        world.send(decision_id="d-1", note="again")
        world.send(decision_id="d-2")
        await world.run(2)
        (letter,) = world.documents("execution_dead_letters")
        assert letter["reason"].startswith("DUPLICATE_CONFLICT")


async def test_rows_are_there_once_though_they_are_delivered_again_after_a_death(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(0.3)
        before = trades(world)
        await world.kill()
        await world.start()
        await world.run(2)
        assert trades(world) == before
        audit(world)


async def test_a_row_is_never_changed_by_its_delivery(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(0.3)
        (row,) = trades(world)
        world.mongo[DATABASE]["trades"].alter(row["_id"], "note", "a reader's own")
        await world.kill()
        await world.start()
        await world.run(2)
        assert [document.get("note") for document in trades(world)] == ["a reader's own"]


async def test_no_row_is_written_before_the_ledger_has_its_execution(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.refused.add("execution_positions")
        world.send()
        await world.run(5)
        assert world.record().filled_quantity == 100
        assert trades(world) == []
        world.store_faults.refused.clear()
        await world.run(40)
        audit(world)


@pytest.mark.parametrize("call", ["trades.insert_many", "execution_confirmations.insert_many"])
async def test_a_write_whose_answer_is_lost_leaves_each_row_once(tmp_path: Path, call: str) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.lost_answers[call] = 2
        world.send()
        world.exit("out", "sig", price=11)
        await world.run(60)
        assert not world.store_faults.lost_answers[call]
        assert len(trades(world)) == 2
        audit(world)


async def test_trades_of_an_earlier_version_are_written_once_after_the_start(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        for number in range(5):
            world.send(f"s{number}", price=10 + number)
        await world.run(3)
        world.book().bust_fill(world.placed()[0].fills[0].fill_id)
        await world.run(15)
        before = trades(world)
        assert len(before) == 6
        lose_trades(world)
        world.mongo[DATABASE]["execution_bookmarks"].remove(BOOKMARK)
        await world.restart()
        await world.run(START_SECONDS + 5)
        assert trades(world) == before
        assert [d["value"] for d in world.documents("execution_bookmarks", _id=BOOKMARK)] == [DONE]
        lose_trades(world)
        await world.restart()
        await world.run(START_SECONDS + 5)
        assert trades(world) == [], "it is done once; rebuild-views mends what is lost later"


async def test_what_a_death_left_of_the_trades_of_an_earlier_version_comes_later(tmp_path: Path) -> None:
    count = ORDERS_AT_ONCE + 20
    async with world_of(tmp_path) as world:
        for number in range(count):
            world.send(f"s{number}", symbol=f"S{number}")
        await world.run(10)
        lose_trades(world)
        world.mongo[DATABASE]["execution_bookmarks"].remove(BOOKMARK)
        await world.restart()
        await world.run(START_SECONDS + 0.02)
        assert 0 < len(trades(world)) < count
        await world.kill()
        await world.start()
        await world.run(START_SECONDS + 5)
        assert len(trades(world)) == count


async def test_a_rebuild_writes_the_rows_that_are_missing_as_they_were(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(price=10, **DECISION)
        world.exit("out", "sig", price=11)
        await world.run(3)
        before = trades(world)
        assert len(before) == 2
        lose_trades(world, before[0]["_id"])
        done = await rebuilt(world)
        assert (done.trades, done.contradictions) == (2, ())
        assert trades(world) == before


async def test_a_rebuild_tells_of_a_row_that_a_hand_has_changed_and_leaves_it(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(price=10)
        await world.run(3)
        (row,) = trades(world)
        world.mongo[DATABASE]["trades"].alter(row["_id"], "exact", row["exact"] | {"size": "101"})
        changed = trades(world)
        (words,) = (await rebuilt(world)).contradictions
        assert row["_id"] in words
        assert row["order_id"] in words
        assert trades(world) == changed


async def test_fees_of_the_trade_that_the_api_shows_are_those_of_its_rows(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(price=10)
        world.exit("out", "sig", price=11)
        await world.run(3)
        fees = sum(Decimal(row["exact"]["commission"]) for row in trades(world))
        assert fees == sum((order.commission for order in world.records()), Decimal(0)) == 2
        (shown,) = world.documents("positions")
        cash = sum(Decimal(row["exact"]["cash"]) for row in trades(world))
        assert float(cash) == shown["realized_pnl"] == 100


async def test_the_trade_that_the_api_shows_names_its_rows(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        world.send(price=10)
        world.exit("out", "sig", price=11)
        await world.run(3)
        (shown,) = (await http.get("/api/execution/trades")).json()["trades"]
        assert shown["metadata"]["trade_ids"] == [row["trade_id"] for row in trades(world)]
        assert len(shown["metadata"]["trade_ids"]) == 2


# --- as the API shows them ------------------------------------------------------------------------------------------


async def test_rows_and_cash_are_told_exactly(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        world.send(price="10.01", quantity="0.3", **DECISION)
        await world.run(3)
        (row,) = (await http.get("/api/execution/trade-rows")).json()["trades"]
        assert tuple(row)[:12] == FIRST_COLUMNS
        assert (row["size"], row["price"], row["cash"], row["decision_id"]) == ("0.3", "10.01", "-3.003", "d-1")
        (cash,) = (await http.get("/api/execution/cash")).json()["cash"]
        assert (cash["account_id"], cash["currency"], cash["traded"]) == ("acct-1", "USD", "-3.003")
        assert (cash["commissions"], cash["change"], cash["unknown_amounts"]) == ("1.00", "-4.003", 0)


async def test_pages_of_rows_follow_each_other(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        for number in range(5):
            world.send(f"s{number}", symbol=f"S{number}")
            await world.run(1)
        shown: list[str] = []
        address: str | None = "/api/execution/trade-rows?limit=2"
        while address is not None:
            page = await http.get(address)
            shown += [row["ticker"] for row in page.json()["trades"]]
            address = page.headers["Link"][1:].partition(">")[0] if "Link" in page.headers else None
        assert shown == ["S4", "S3", "S2", "S1", "S0"]
        assert (await http.get("/api/execution/trade-rows?cursor=nonsense")).status_code == 400


async def test_amounts_that_no_server_adds_up_are_in_the_sum_and_those_of_strangers_are_not(tmp_path: Path) -> None:
    long = "1.00000000000000001"
    async with http_world(tmp_path) as (world, http):
        world.send(price=long, quantity=long, multiplier=long)
        world.send("more", price=2, quantity=3, symbol="MSFT")
        await world.run(3)
        collection = world.mongo[DATABASE]["trades"]
        for stranger in ({}, {"exact": 1}, {"exact": {"cash": "5"}, "account_id": 3, "currency": "USD"}):
            collection.leave({"_id": f"trade_{len(collection.documents)}", **stranger})
        assert [row.get("unsummed") for row in trades(world) if "unsummed" in row] == [True]
        (cash,) = (await http.get("/api/execution/cash")).json()["cash"]
        assert Decimal(cash["traded"]) == -6 - EXACT.power(Decimal(long), 3)
        assert len((await http.get("/api/execution/trade-rows")).json()["trades"]) == 2


async def test_an_amount_that_is_not_known_is_counted_and_not_guessed(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        world.send(price=10)
        await world.run(3)
        (row,) = trades(world)
        unknown = {name: text for name, text in row["exact"].items() if name not in ("cash", "money_per_point")}
        world.mongo[DATABASE]["trades"].alter(row["_id"], "exact", unknown)
        (cash,) = (await http.get("/api/execution/cash")).json()["cash"]
        assert (cash["traded"], cash["commissions"], cash["unknown_amounts"]) == ("0", "1.00", 1)
        (shown,) = (await http.get("/api/execution/trade-rows")).json()["trades"]
        assert (shown["cash"], shown["money_per_point"]) == (None, None)
