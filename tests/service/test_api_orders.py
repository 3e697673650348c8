"""Orders over HTTP: placed once, whatever is repeated or lost; listed, told in full, cancelled."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo.errors import AutoReconnect

from execution_service.api.answers import RECENT_SECONDS
from execution_service.core.orders.status import Status
from execution_service.storage.mongo.queries import WINDOWS
from execution_service.trading.trader import TradingRules
from tests.core.risk_cases import written
from tests.fakes import ACCOUNT, BY_HAND, RESTING, World, world_of
from tests.service.audit import audit
from tests.service.http_calls import ORDER, ORDER_PATH, ORDERS, api_of, client_of, http_world

SPEC = {
    "symbol": "BTCUSDT",
    "side": "long",
    "quantity": 0.001,
    "price": 50000,
    "leverage": 10,
    "stop_loss": 49000,
    "take_profit": 52000,
}
PLACED_FIELDS = {
    *("success", "order_id", "trade_id", "symbol", "side", "quantity", "price", "status", "message", "timestamp"),
}


def codes(response: httpx.Response) -> list[str]:
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    return [each["code"] for each in body["reasons"]]


async def test_an_order_is_durable_when_the_call_is_answered_and_is_worked_as_any_other(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        response = await http.post(ORDER_PATH, json=SPEC)
        assert response.status_code == 200
        body = response.json()
        assert set(body) == PLACED_FIELDS
        assert (body["success"], body["symbol"], body["side"], body["quantity"]) == (True, "BTCUSDT", "long", 0.001)
        (stored,) = world.records()
        assert body["order_id"] == stored.order_id
        assert (stored.request.account_id, stored.request.strategy) == (ACCOUNT, "manual")
        assert (str(stored.limit_price), str(stored.quantity)) == ("50000", "0.001")
        assert (str(stored.accepted_request.stop_loss), str(stored.accepted_request.take_profit)) == ("49000", "52000")
        assert "leverage is recorded and not set" in body["message"]
        assert "stop_loss, take_profit placed at the broker for what has filled" in body["message"]
        await world.run(1)
        assert world.records()[0].status is Status.FILLED
        audit(world)


async def test_a_call_without_a_name_gets_one_and_is_warned(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        first, second = [await http.post(ORDER_PATH, json=ORDER) for _ in range(2)]
        assert "Idempotency-Key" in first.headers["warning"]
        assert first.headers["idempotency-key"] != second.headers["idempotency-key"]
        await world.run(1)
        assert len(world.placed()) == 2
        again = await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": first.headers["idempotency-key"]})
        assert again.headers["idempotency-replayed"] == "true"
        await world.run(1)
        assert len(world.placed()) == 2


@pytest.mark.parametrize(
    ("headers", "more"),
    [
        ({"Idempotency-Key": "k-1"}, {}),
        ({"Idempotency-Key": '"k-1"'}, {}),
        ({}, {"signal_id": "k-1"}),
        ({}, {"metadata": {"signal_id": "k-1"}}),
    ],
)
async def test_a_repeated_call_is_the_same_order(tmp_path: Path, headers: dict[str, str], more: dict[str, Any]) -> None:
    async with http_world(tmp_path) as (world, http):
        bodies = []
        for replayed in ("false", "true", "true"):
            response = await http.post(ORDER_PATH, json=ORDER | more, headers=headers)
            assert (response.status_code, response.headers["idempotency-replayed"]) == (200, replayed)
            assert "warning" not in response.headers
            bodies.append(response.json())
            await world.run(1)
        assert len({body["order_id"] for body in bodies}) == 1
        assert [body["status"] for body in bodies] == ["pending", "filled", "filled"]
        assert len(world.placed()) == 1
        assert world.record("k-1").status is Status.FILLED


async def test_the_same_name_with_other_content_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        named = {"Idempotency-Key": "k-1"}
        await http.post(ORDER_PATH, json=ORDER, headers=named)
        response = await http.post(ORDER_PATH, json=ORDER | {"quantity": 101}, headers=named)
        assert (response.status_code, codes(response)) == (422, ["DUPLICATE_CONFLICT"])
        await world.run(1)
        assert len(world.placed()) == 1
        assert world.documents("execution_dead_letters") == []


async def test_two_names_for_one_order_are_refused(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        response = await http.post(ORDER_PATH, json=ORDER | {"signal_id": "a"}, headers={"Idempotency-Key": "b"})
        assert (response.status_code, codes(response)) == (422, ["INVALID_ORDER"])
        assert world.records() == []


async def test_entry_that_names_a_stop_and_no_quantity_is_sized_once_and_the_answer_has_the_arithmetic(
    tmp_path: Path,
) -> None:
    rules = TradingRules(risk_per_trade=Decimal("0.01"), order_timeout_seconds=0.0)
    async with http_world(tmp_path, market=BY_HAND, rules=rules) as (world, http):
        wish = {"symbol": "AAPL", "side": "buy", "price": 50, "stop_loss": 48}
        first = await http.post(ORDER_PATH, json=wish, headers={"Idempotency-Key": "mine"})
        assert first.status_code == 200
        assert first.json()["quantity"] is None
        assert "its quantity is worked out from its stop as it leaves" in first.json()["message"]
        await world.run(3)
        again = await http.post(ORDER_PATH, json=wish, headers={"Idempotency-Key": "mine"})
        assert (again.json()["quantity"], again.headers["idempotency-replayed"]) == (5000, "true")
        arithmetic = "equity 1000000 x 0.01 = 10000 at risk; 2 lost by one unit from 50 to 48; 5000 units"
        assert arithmetic in again.json()["message"]
        story = (await http.get(f"{ORDERS}/mine")).json()["orders"][0]
        assert any(arithmetic in event["words"] for event in story["events"])
        assert [placed.ticket.quantity for placed in world.placed()] == [5000]
        other = await http.post(ORDER_PATH, json=wish | {"quantity": 5000}, headers={"Idempotency-Key": "mine"})
        assert (other.status_code, codes(other)) == (422, ["DUPLICATE_CONFLICT"])


async def test_a_refusal_of_a_sized_order_has_the_arithmetic(tmp_path: Path) -> None:
    rules = TradingRules(risk_per_trade=Decimal("0.01"), order_timeout_seconds=0.0)
    async with http_world(tmp_path, rules=rules, limits=written(max_gross_exposure=100)) as (world, http):
        wish = {"symbol": "AAPL", "side": "buy", "price": 50, "stop_loss": 48, "signal_id": "mine"}
        await http.post(ORDER_PATH, json=wish)
        await world.run(3)
        refused = await http.post(ORDER_PATH, json=wish)
        assert refused.status_code == 422
        assert refused.json()["sized"].startswith("equity 1000000 x 0.01 = 10000 at risk; 2 lost by one unit")
        assert refused.json()["reasons"][0]["actual_value"] == "250000"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "there is no stop_loss to size the order by"),
        ({"stop_loss": 48, "signal_type": "EXIT", "entry_signal_id": "e"}, "quantity is missing"),
        ({"stop_loss": 48, "total_legs": 2, "leg_index": 0}, "quantity is missing"),
        ({"stop_loss": 48, "quantity": 0}, "quantity"),
    ],
)
async def test_what_cannot_be_sized_is_refused_by_its_reason(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    async with http_world(tmp_path, rules=TradingRules(risk_per_trade=Decimal("0.01"))) as (world, http):
        response = await http.post(ORDER_PATH, json={"symbol": "AAPL", "side": "buy", "price": 50} | changes)
        assert (response.status_code, codes(response)) == (422, ["INVALID_ORDER"])
        assert words in response.json()["detail"]
        assert world.records() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"side": "up"}, "side has to be one of"),
        ({"side": None}, "side has to be one of"),
        ({"quantity": 0}, "quantity"),
        ({"quantity": -1}, "quantity"),
        ({"quantity": None}, "quantity is missing"),
        ({"quantity": None, "stop_loss": 9}, "quantity is missing: TRADE_RISK_PER_TRADE is not set"),
        ({"quantity": "1e400"}, "quantity"),
        ({"quantity": True}, "quantity"),
        ({"symbol": None}, "symbol"),
        ({"symbol": "A" * 33}, "symbol"),
        ({"price": -1}, "price"),
        ({"leverage": 126}, "leverage"),
        ({"leverage": 0}, "leverage"),
        ({"leverage": 1.5}, "leverage"),
        ({"leverage": "ten"}, "leverage"),
        ({"order_type": "ICEBERG"}, "order_type"),
        ({"account_id": "nobody"}, "account 'nobody' is not configured"),
        ({"account_id": 7}, "account 7 is not configured"),
    ],
)
async def test_what_is_wrong_with_an_order_is_said_and_nothing_is_stored(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    async with http_world(tmp_path) as (world, http):
        body = {name: value for name, value in (ORDER | changes).items() if value is not None}
        response = await http.post(ORDER_PATH, json=body)
        assert response.status_code == 422
        assert "INVALID_ORDER" in codes(response)
        assert words in response.json()["detail"]
        await world.run(1)
        assert world.records() == []
        assert world.documents("execution_dead_letters") == []


async def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        wrong: dict[str, object] = {
            "symbol": "???",
            "side": "up",
            "quantity": -1,
            "stop_loss": "x",
            "leverage": 0,
            "account_id": "nobody",
        }
        response = await http.post(ORDER_PATH, json=wrong)
        told = [each["message"] for each in response.json()["reasons"]]
        assert codes(response) == ["INVALID_ORDER"] * len(wrong)
        assert {word for word in wrong for each in told if each.startswith(word.removesuffix("_id"))} == wrong.keys()
        await world.run(1)
        assert world.records() == []


async def test_with_several_accounts_one_has_to_be_named(tmp_path: Path) -> None:
    async with http_world(tmp_path, accounts=("one", "two")) as (world, http):
        response = await http.post(ORDER_PATH, json=ORDER)
        assert response.status_code == 422
        assert "account_id is missing; configured: one, two" in response.json()["detail"]
        await http.post(ORDER_PATH, json=ORDER | {"metadata": {"account_id": "two", "strategy": "pairs"}})
        (order,) = world.records()
        assert (order.request.account_id, order.request.strategy) == ("two", "pairs")


async def test_without_a_price_the_order_is_at_the_market(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        await http.post(ORDER_PATH, json={"symbol": "AAPL", "side": "short", "quantity": 3})
        (order,) = world.records()
        assert (order.request.order_type, order.request.side) == ("MARKET", "SELL")


# --- the store in trouble -------------------------------------------------------------------------------------------


async def test_an_order_that_cannot_be_stored_is_not_placed_and_the_caller_is_told_so(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        world.store_faults.is_away = True
        response = await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "k-1"})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "5"
        world.store_faults.is_away = False
        await world.run(5)
        assert world.placed() == []
        again = await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "k-1"})
        assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "false")
        await world.run(1)
        assert len(world.placed()) == 1


async def test_an_order_whose_insertion_arrived_and_whose_answer_was_lost_is_worked_though_nobody_asks_again(
    tmp_path: Path,
) -> None:
    async with http_world(tmp_path) as (world, http):
        world.store_faults.lost_answers["execution_orders.insert_many"] = 1
        response = await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "k-1"})
        assert response.status_code == 503
        assert "may have been stored" in response.json()["detail"]
        await world.run(5)
        assert world.record("k-1").status is Status.FILLED
        again = await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "k-1"})
        assert (again.json()["status"], again.headers["idempotency-replayed"]) == ("filled", "true")
        assert len(world.placed()) == 1


async def test_an_order_that_was_answered_survives_a_death(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        async with client_of(api_of(world)) as http:
            await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "k-1"})
        await world.restart()
        await world.run(1)
        assert len(world.placed()) == 1
        async with client_of(api_of(world)) as http:
            again = await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "k-1"})
            assert again.json()["status"] == "filled"
        await world.run(1)
        assert len(world.placed()) == 1


# --- looking --------------------------------------------------------------------------------------------------------


async def test_pages_of_orders_leave_none_out_and_show_none_twice_whatever_comes_in(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        for number in range(7):
            world.send(f"sig-{number}")
            await world.run(0 if number in (2, 3) else 1)  # two of them in the same moment
        shown: list[str] = []
        path: str | None = f"{ORDERS}?limit=2"
        while path is not None:
            body = (await http.get(path)).json()
            shown += [order["signal_id"] for order in body["orders"]]
            path = body["next"]
            world.send(f"late-{len(shown)}")
            await world.run(1)
        assert sorted(shown) == [f"sig-{number}" for number in range(7)]
        assert shown[0] == "sig-6"


async def test_many_who_ask_the_same_cost_the_store_one_question_a_second(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        world.send("one")
        await world.run(1)
        await http.get("/health")
        before = world.store_faults.reads["execution_orders.find"]
        answers = await asyncio.gather(*(http.get(f"{ORDERS}?limit=1") for _ in range(50)))
        asked = world.store_faults.reads["execution_orders.find"] - before
        assert asked <= len(WINDOWS) + 1
        assert {answer.json()["orders"][0]["signal_id"] for answer in answers} == {"one"}
        world.send("two")
        await world.run(RECENT_SECONDS)
        (latest,) = (await http.get(f"{ORDERS}?limit=1")).json()["orders"]
        assert latest["signal_id"] == "two"


async def test_a_question_that_failed_is_asked_again_at_once(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        await http.get("/health")
        world.store_faults.breaks["execution_orders.find"] = [AutoReconnect("connection closed")]
        assert (await http.get(ORDERS)).status_code == 503
        assert (await http.get(ORDERS)).status_code == 200


async def test_old_orders_are_among_the_latest_where_there_are_few_younger_ones(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        for number, days in enumerate((0, 30, 1, 0.1, 0.001)):
            await world.restart(days * 86400 + 1)
            world.send(f"sig-{number}", symbol="OLD" if number == 0 else "AAPL")
            await world.run(1)
        async with client_of(api_of(world)) as http:
            shown = (await http.get(ORDERS)).json()["orders"]
            assert [order["signal_id"] for order in shown] == [f"sig-{number}" for number in (4, 3, 2, 1, 0)]
            first = (await http.get(f"{ORDERS}?limit=2")).json()
            second = (await http.get(first["next"])).json()
            assert [order["signal_id"] for order in second["orders"]] == ["sig-2", "sig-1"]
            (old,) = (await http.get(f"{ORDERS}?symbol=OLD")).json()["orders"]
            assert old["signal_id"] == "sig-0"


async def test_orders_are_filtered(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        world.send("one", symbol="AAPL", order_type="LIMIT", limit_price=10)
        world.send("two", symbol="MSFT", order_type="LIMIT", limit_price=10, strategy_name="pairs")
        world.send("bad", symbol="MSFT", quantity=-1)
        await world.run(1)

        async def asked(query: str) -> set[str]:
            response = await http.get(f"{ORDERS}?{query}")
            assert response.status_code == 200, response.text
            return {order["signal_id"] for order in response.json()["orders"]}

        assert await asked("status=open") == {"one", "two"}
        assert await asked("status=submitted&symbol=AAPL") == {"one"}
        assert await asked("strategy=pairs") == {"two"}
        assert await asked("status=REJECTED") == {"bad"}
        assert await asked(f"account={ACCOUNT}&status=open") == {"one", "two"}
        assert await asked("account=other") == set()


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=1001", "limit=x", "limit=%00", "status=working", "colour=red", "cursor=x", "cursor=!!!"),
        *("cursor=bnVsbA", "cursor=WzEsMl0", "cursor=W1tbW10", "cursor=" + "A" * 600),
    ],
)
async def test_a_question_that_is_none_is_refused_and_not_answered_with_everything(tmp_path: Path, query: str) -> None:
    async with http_world(tmp_path) as (_, http):
        response = await http.get(f"{ORDERS}?{query}")
        assert (response.status_code, codes(response)) == (400, ["INVALID_QUERY"])


async def test_the_story_of_an_order_is_found_by_each_of_its_names(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        world.send("sig", stop_loss=9)
        await world.run(1)
        order = world.record()
        for name in ("sig", order.order_id, order.broker_order_id, order.client_order_id):
            (told,) = (await http.get(f"{ORDERS}/{name}")).json()["orders"]
            assert [event["type"] for event in told["events"][:3]] == ["SubmitStarted", "Accepted", "Filled"]
            assert (told["protection"]["state"], told["protection"]["quantity"]) == ("PROTECTED", "100")
            assert told["fills"][0]["price"] == "10"
            assert (told["stop_loss"], told["delivered"]["people"]) == ("9", order.version)
        assert (await http.get(f"{ORDERS}/nobody")).status_code == 404


async def test_who_asks_again_is_told_when_nothing_has_changed(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        world.send("sig")
        await world.run(1)
        first = await http.get(f"{ORDERS}/sig")
        tag = {"If-None-Match": first.headers["etag"]}
        again = await http.get(f"{ORDERS}/sig", headers=tag)
        assert (again.status_code, again.content) == (304, b"")
        world.fill("sig")
        await world.run(5)
        assert (await http.get(f"{ORDERS}/sig", headers=tag)).status_code == 200


# --- cancelling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["signal", "order"])
async def test_a_cancel_goes_the_way_of_all_cancels(tmp_path: Path, by: str) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        world.send("sig")
        await world.run(1)
        name = "sig" if by == "signal" else world.record().order_id
        response = await http.post(f"{ORDERS}/{name}/cancel", json={"reason": "changed my mind"})
        assert response.status_code == 200
        assert "asked to be cancelled" in response.json()["message"]
        await world.run(5)
        assert world.record().status is Status.CANCELLED
        (command,) = world.documents("execution_commands")
        assert (command["kind"], command["status"]) == ("CANCEL", "DONE")
        assert command["body"]["requested_by"] == "API (local)"
        audit(world)


async def test_a_cancel_of_what_nobody_knows_stores_nothing(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        response = await http.post(f"{ORDERS}/nobody/cancel", json={})
        assert (response.status_code, codes(response)) == (404, ["UNKNOWN_ORDER"])
        assert world.documents("execution_commands") == []


async def test_a_cancel_by_an_id_that_several_orders_share_cancels_none(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        world.send("one", order_id="7")
        world.send("two", order_id="7")
        await world.run(1)
        response = await http.post(f"{ORDERS}/7/cancel", json={})
        assert (response.status_code, codes(response)) == (409, ["AMBIGUOUS_ORDER"])
        await world.run(2)
        assert {order.status for order in world.records()} == {Status.SUBMITTED}
        assert world.documents("execution_commands") == []


async def test_a_repeated_cancel_with_a_key_is_one_command(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        world.send("sig")
        await world.run(1)
        for _ in range(2):
            await http.post(f"{ORDERS}/sig/cancel", json={}, headers={"Idempotency-Key": "c-1"})
        assert len(world.documents("execution_commands")) == 1


async def test_what_wants_a_person_is_in_one_answer(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        world.send("bad", quantity=-1)
        world.send_raw(b"no order at all")
        await world.run(1)
        body = (await http.get("/api/execution/attention")).json()
        assert [order["signal_id"] for order in body["refused"]] == ["bad"]
        assert [letter["text"] for letter in body["dead_letters"]] == ["no order at all"]
        assert (body["in_doubt"], body["discrepancies"], body["parts_not_running"]) == ([], [], [])
        assert body["counts"]["dead_letters"] == 1


# --- refused orders -------------------------------------------------------------------------------------------------


async def waited_for(world: World, http: httpx.AsyncClient, seconds: float, **asked: Any) -> httpx.Response:
    call = asyncio.create_task(http.post(ORDER_PATH, **asked))
    await world.run(seconds)
    assert call.done()
    return await call


async def test_an_order_that_the_gate_refuses_is_a_problem_with_all_reasons_and_so_is_the_call_again(
    tmp_path: Path,
) -> None:
    limits = written(max_order_quantity=5, max_order_value=50)
    async with http_world(tmp_path, limits=limits) as (world, http):
        headers = {"Idempotency-Key": "large", "Prefer": "respond-async, wait=5"}
        first = await waited_for(world, http, 1, json=ORDER, headers=headers)
        assert (first.status_code, codes(first)) == (422, ["RISK_LIMIT", "RISK_LIMIT"])
        assert first.headers["preference-applied"] == "wait=5"
        body = first.json()
        kinds = {each["limit_type"]: (each["limit_value"], each["actual_value"]) for each in body["reasons"]}
        assert set(kinds) == {"max_order_quantity", "max_order_value"}
        assert kinds["max_order_quantity"] == ("5", "100")
        assert all(each["message"] for each in body["reasons"])
        again = await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "large"})
        assert (again.status_code, again.json()["reasons"]) == (422, body["reasons"])
        assert again.headers["idempotency-replayed"] == "true"
        (shown,) = (await http.get(f"{ORDERS}/large")).json()["orders"]
        assert [each["limit_type"] for each in shown["reasons"]] == [each["limit_type"] for each in body["reasons"]]
        assert (shown["order_id"], shown["status"]) == (body["order_id"], "REJECTED")
        assert world.placed() == []


async def test_who_prefers_to_wait_is_told_what_became_of_the_order_and_others_are_not_held_up(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        waited = await waited_for(world, http, 1, json=ORDER, headers={"Prefer": "wait=9"})
        assert (waited.status_code, waited.json()["status"] in ("placed", "filled")) == (200, True)
        world.broker_faults.holds["place_order"] = asyncio.Event()
        bounded = await waited_for(world, http, 2.5, json=ORDER, headers={"Prefer": "wait=2"})
        assert (bounded.status_code, bounded.json()["status"]) == (200, "pending")
        at_once = await http.post(ORDER_PATH, json=ORDER, headers={"Prefer": "wait=no"})
        assert "preference-applied" not in at_once.headers
        world.broker_faults.holds.pop("place_order").set()


async def test_a_list_that_takes_long_is_kept_longer_and_tells_its_age(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        store = type(world.service.commands._store)
        page_of_orders, asked = store.page_of_orders, 0

        async def slow(self: Any, *arguments: Any) -> Any:
            nonlocal asked
            asked += 1
            await world.clock.sleep(0.1)
            return await page_of_orders(self, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "page_of_orders", slow)
            call = asyncio.create_task(http.get(ORDERS))
            await world.run(0.5)
            assert (await call).headers["age"] == "0"
            await world.run(3.5)
            assert ((await http.get(ORDERS)).headers["age"], asked) == ("4", 1)
            await world.run(1.5)
            call = asyncio.create_task(http.get(ORDERS))
            await world.run(0.5)
            assert ((await call).headers["age"], asked) == ("0", 2)
