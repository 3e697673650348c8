"""What a person decides over HTTP where something is not known, not readable or not the same: the same verbs and answers as execctl's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from brokers.base import Capabilities
from brokers.errors import OutcomeUnknown
from brokers.paper.model import Action, Fault, Market, Operation
from execution_service.core.orders.status import Status
from execution_service.storage.ports.tokens import Role
from tests.core.risk_cases import written
from tests.fakes import ACCOUNT, BY_HAND, World, two_worlds, world_of
from tests.fakes.broker import GatedBroker
from tests.service.http_calls import ORDERS, api_of, client_of, http_world, make_token
from tests.service.test_limit_breaches import Money, tell
from tests.service.test_reconciliation import trade_by_hand

RECONCILE, DISCREPANCIES = "/api/execution/reconcile", "/api/execution/discrepancies"
LETTERS, COMMANDS = "/api/execution/dead-letters", "/api/execution/commands"
ACCOUNTS, ENABLE = "/api/execution/accounts", "/api/execution/limits/enable"
REBASE = "/api/execution/limits/rebase"
TAG = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0)
LOST = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
LOOKED = {"person": "Ada", "note": "the broker's page does not show it"}


def resolve_path(name: str = "sig-1") -> str:
    return f"{ORDERS}/{name}/resolve"


async def in_doubt(world: World) -> None:
    world.send()
    await world.run(10)
    assert world.record().status is Status.IN_DOUBT


# --- orders in doubt ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decision", "end"), [("not-placed", Status.REJECTED), ("cancelled", Status.CANCELLED)])
async def test_a_person_ends_an_order_in_doubt_and_the_record_says_who(
    tmp_path: Path, decision: str, end: Status
) -> None:
    async with http_world(tmp_path, capabilities=TAG, is_unique=False, faults=[LOST]) as (world, http):
        await in_doubt(world)
        response = await http.post(resolve_path(world.record().signal_id), json={"decision": decision, **LOOKED})
        assert response.status_code == 200, response.text
        assert [order["status"] for order in response.json()["orders"]] == [end]
        assert world.record().status is end
        (told,) = [event for event in world.record().events if getattr(event, "by", "").startswith("Ada")]
        assert getattr(told, "by") == "Ada (API, local)"  # noqa: B009


async def test_a_repeated_call_to_send_again_sends_once(tmp_path: Path) -> None:
    async with http_world(tmp_path, capabilities=TAG, is_unique=False) as (world, http):
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("lost"), OutcomeUnknown("lost again")]
        await in_doubt(world)
        body, key = {"decision": "send-again", **LOOKED}, {"Idempotency-Key": "once"}
        first = await http.post(resolve_path(world.record().signal_id), json=body, headers=key)
        assert first.status_code == 200, first.text
        await world.run(10)
        # The second sending was lost as well: the same call again must not be a second decision.
        assert world.record().status is Status.IN_DOUBT
        again = await http.post(resolve_path(world.record().signal_id), json=body, headers=key)
        assert (again.status_code, again.json()["command_id"]) == (200, first.json()["command_id"])
        await world.run(10)
        assert (world.record().status, world.record().attempt) == (Status.IN_DOUBT, 2)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"decision": "forget", **LOOKED}, 400),
        ({"decision": ["not-placed"], **LOOKED}, 400),
        ({"decision": "not-placed", "person": "Ada"}, 400),
        ({"decision": "not-placed", "note": "nobody said it"}, 400),
        ({"decision": "not-placed", "person": "Ada", "note": " "}, 400),
        ({"decision": "not-placed", "person": "Ada", "note": "two\nlines"}, 400),
        ({"decision": "placed", **LOOKED}, 400),
        ({"decision": "not-placed", "broker_order_id": "B-1", **LOOKED}, 400),
        ({"decision": "not-placed", "order_id": "other", **LOOKED}, 400),
        ({"decision": "not-placed", **LOOKED}, 409),
    ],
)
async def test_what_cannot_be_decided_changes_no_order(tmp_path: Path, body: dict[str, object], status: int) -> None:
    async with http_world(tmp_path) as (world, http):
        world.send()
        await world.run(5)
        before = world.record()
        assert before.status is Status.FILLED
        response = await http.post(resolve_path(before.signal_id), json=body)
        assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
        assert response.json()["reasons"]
        assert world.record() == before


async def test_a_decision_about_an_order_that_there_is_not_is_404(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (_, http):
        for name in ("nobody", "n" * 300):
            response = await http.post(resolve_path(name), json={"decision": "cancelled", **LOOKED})
            assert response.status_code == 404


async def test_an_order_that_a_limit_refused_comes_once_more_when_an_admin_allows_it(tmp_path: Path) -> None:
    async with http_world(tmp_path, limits=written(max_order_quantity=5)) as (world, http):
        world.send()
        await world.run(3)
        assert world.record().status is Status.REJECTED
        path, body = f"{ORDERS}/sig/allow", {"person": "Ada", "reason": "the size is meant"}
        for wrong in ({}, {"person": "Ada"}, body | {"seconds": 0}, body | {"seconds": 1.5}, body | {"seconds": "all"}):
            assert (await http.post(path, json=wrong)).status_code == 400, wrong
        assert (await http.post(f"{ORDERS}/nobody/allow", json=body)).status_code == 404
        response = await http.post(path, json=body | {"seconds": 60})
        assert response.status_code == 200, response.text
        told = response.json()
        assert (told["limits"], told["person"]) == (["max_order_quantity"], "Ada (API, local)")
        for name, end in (("again", Status.FILLED), ("and-again", Status.REJECTED)):
            world.send(name)
            await world.run(3)
            assert world.record(name).status is end
        assert (await http.post(f"{ORDERS}/again/allow", json=body)).status_code == 409


# --- dead letters ---------------------------------------------------------------------------------------------------


async def test_dead_letters_come_in_pages_and_whole_and_are_taken_again(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        for number in range(3):
            world.send_raw(f'{{"no": "signal {number}"}}'.encode())
            await world.run(1)
        page = (await http.get(f"{LETTERS}?limit=2")).json()
        rest = (await http.get(page["next"])).json()
        ids = [letter["message_id"] for letter in (*page["dead_letters"], *rest["dead_letters"])]
        assert (len(ids), len(set(ids)), rest["next"]) == (3, 3, None)
        whole = (await http.get(f"{LETTERS}/{ids[0]}")).json()
        assert set(whole) == {"message_id", "reason", "publish_time", "received_at", "attributes", "payload"}
        assert whole["payload"] == '{"no": "signal 2"}'
        # It is still no order.
        refused = await http.post(f"{LETTERS}/{ids[0]}/replay", json={})
        assert (refused.status_code, refused.json()["reasons"][0]["code"]) == (409, "REFUSED")
        mended = {"signal_id": "mended", "account_id": ACCOUNT, "strategy_name": "s", "order_type": "MARKET"}
        mended |= {"symbol": "AAPL", "side": "BUY", "quantity": "5", "price": "10"}
        world.mongo["trading"]["execution_dead_letters"].update_one(
            {"_id": ids[1]}, {"$set": {"payload": json.dumps(mended).encode()}}
        )
        for _ in range(2):
            response = await http.post(f"{LETTERS}/{ids[1]}/replay", headers={"Content-Type": "application/json"})
            assert response.status_code == 200, response.text
        await world.run(5)
        assert [order.signal_id for order in world.records()] == ["mended"]
        assert (await http.get(f"{LETTERS}/nothing")).status_code == 404
        assert (await http.post(f"{LETTERS}/a/b/replay", json={})).status_code == 404


# --- books that differ ----------------------------------------------------------------------------------------------


async def differing(world: World) -> None:
    """Somebody trades in the broker's own screen."""
    world.send()
    await world.run(5)
    trade_by_hand(world, -7)
    await world.run(200)


async def test_a_difference_is_listed_until_it_is_gone_and_then_among_all(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        await differing(world)
        rows = (await http.get(DISCREPANCIES)).json()["discrepancies"]
        (row,) = [each for each in rows if each["kind"] == "POSITION_DIFFERS"]
        assert (row["account_id"], row["state"], row["theirs"] != "", row["adopted_as"]) == (ACCOUNT, "OPEN", True, [])
        assert row["next_step"]
        assert (await http.get(f"{DISCREPANCIES}?account=other")).json()["discrepancies"] == []
        trade_by_hand(world, 7)
        await world.run(200)
        assert (await http.get(DISCREPANCIES)).json() == {"discrepancies": [], "next": None}
        every = (await http.get(f"{DISCREPANCIES}?state=all")).json()["discrepancies"]
        assert (row["discrepancy_id"], "CLOSED") in [(each["discrepancy_id"], each["state"]) for each in every]
        first = (await http.get(f"{DISCREPANCIES}?state=all&limit=1")).json()
        assert (first["discrepancies"], first["next"] is None) == (every[:1], len(every) == 1)
        assert (await http.get(f"{DISCREPANCIES}?state=closed")).status_code == 400


async def called(world: World, call: Any, seconds: float) -> httpx.Response:
    task: asyncio.Task[httpx.Response] = asyncio.create_task(call)
    await world.run(seconds)
    return await task


async def test_books_are_compared_now_and_the_answer_says_whether_they_agree(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        world.send()
        await world.run(5)
        response = await called(world, http.post(RECONCILE, json={}), 30)
        assert (response.status_code, response.json()["all_agree"]) == (200, True), response.text
        (row,) = response.json()["accounts"]
        assert (row["account_id"], row["status"], row["kind"]) == (ACCOUNT, "DONE", "RECONCILE")
        trade_by_hand(world, -7)
        response = await called(world, http.post(RECONCILE, json={"account_id": ACCOUNT}), 30)
        assert (response.status_code, response.json()["all_agree"]) == (200, False), response.text
        shown = (await http.get(f"{COMMANDS}/{row['command_id']}")).json()
        assert shown == {name: value for name, value in row.items() if name != "account_id"}


async def test_a_comparison_that_takes_longer_is_answered_by_its_commands(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        await world.run(5)
        world.broker_faults.holds["reports"] = asyncio.Event()
        response = await called(world, http.post(RECONCILE, json={}), 22)
        assert response.status_code == 202
        (row,) = response.json()["accounts"]
        assert row["status"] == "NEW"
        assert (await http.get(f"{COMMANDS}/{row['command_id']}")).json()["status"] == "NEW"
        world.broker_faults.holds.pop("reports").set()


async def test_an_account_that_nobody_configured_is_not_compared(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (_, http):
        response = await http.post(RECONCILE, json={"account_id": "nobody's"})
        assert (response.status_code, response.json()["reasons"][0]["code"]) == (404, "UNKNOWN_ACCOUNT")


async def test_of_arming_no_command_tells(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        await http.post("/api/execution/kill", json={"scope": "all", "reason": "r"})
        await http.post("/api/execution/arm", json={"scope": "all", "person": "Ada", "reason": "r"})
        (arm,) = world.mongo["trading"]["execution_commands"].find({"kind": "ARM"})
        assert "nonce" in arm["outcome"]
        assert (await http.get(f"{COMMANDS}/{arm['_id']}")).status_code == 404


# --- accounts, limits -----------------------------------------------------------------------------------------------


async def test_accounts_tell_where_they_are_and_how_they_stand(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        await world.run(5)
        (account,) = (await http.get(ACCOUNTS)).json()["accounts"]
        told = [account[name] for name in ("account_id", "state", "mode", "is_worked_here", "trouble")]
        assert told == [ACCOUNT, "CONNECTED", "PAPER", True, None]
        assert (account["open_discrepancies"], account["held_positions"]) == (0, 0)


async def test_an_account_of_another_process_is_shown_as_that(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND) as (one, other):
        await other.start()
        await one.run(5)
        async with client_of(api_of(one)) as of_one, client_of(api_of(other)) as of_other:
            (mine,) = (await of_one.get(ACCOUNTS)).json()["accounts"]
            (others,) = (await of_other.get(ACCOUNTS)).json()["accounts"]
        assert (mine["state"], others["state"]) == ("CONNECTED", "ELSEWHERE")
        assert others["worked_by"]["pid"] > 0


async def test_a_named_person_enables_again_what_a_broken_limit_switched_off(tmp_path: Path) -> None:
    refusing = Market(rejection_rate=1.0)
    limits = written(max_consecutive_rejections=2)
    async with http_world(tmp_path, market=refusing, limits=limits) as (world, http):
        for number in range(3):
            world.send(f"sig-{number}", symbol=f"S{number}")
            await world.run(5)
        body = {"scope": f"account:{ACCOUNT}", "person": "Ada", "reason": "the feed is mended"}
        for wrong in (
            {},
            body | {"scope": "everything"},
            body | {"reason": ""},
            {k: v for k, v in body.items() if k != "person"},
        ):
            assert (await http.post(ENABLE, json=wrong)).status_code == 400, wrong
        assert len((await http.get("/api/execution/limits")).json()["off_until_enabled"]) == 1
        response = await http.post(ENABLE, json=body)
        assert (response.status_code, response.json()) == (200, {"scope": f"account:{ACCOUNT}", "enabled": 1})
        await world.run(10)
        assert (await http.get("/api/execution/limits")).json()["off_until_enabled"] == []
        assert any("Ada (API, local)" in text for text in world.notifier.texts)
        assert (await http.post(ENABLE, json=body)).json()["enabled"] == 0


async def test_who_may_what_by_roles(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        api = api_of(world)
        texts = {role: (await make_token(world, role))[1] for role in Role}
        posts = {
            resolve_path("nobody"): (Role.ADMIN, {"decision": "cancelled", "note": "n"}, 404),
            ENABLE: (Role.ADMIN, {"scope": "all", "reason": "r"}, 200),
            REBASE: (Role.ADMIN, {"scope": "all", "reason": "r"}, 200),
            RECONCILE: (Role.OPERATOR, {"account_id": "nobody's"}, 404),
            f"{LETTERS}/nothing/replay": (Role.OPERATOR, {}, 404),
        }
        for role in Role:
            async with client_of(api, token=texts[role]) as caller:
                for path in (LETTERS, DISCREPANCIES, ACCOUNTS):
                    assert (await caller.get(path)).status_code == 200
                for path, (needed, body, status) in posts.items():
                    wanted = status if role.includes(needed) else 403
                    assert (await caller.post(path, json=body)).status_code == wanted, (role, path)
        async with client_of(api) as nobody:
            for path in (LETTERS, DISCREPANCIES, ACCOUNTS, f"{COMMANDS}/x"):
                assert (await nobody.get(path)).status_code == 401


async def test_a_named_person_has_losses_measured_anew_for_money_that_was_paid_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    money = Money()
    monkeypatch.setattr(GatedBroker, "balances", lambda _: money.balances())
    body = {"scope": f"account:{ACCOUNT}", "person": "Ada", "reason": "400 paid out"}
    async with http_world(tmp_path, limits=written(max_daily_loss=100)) as (world, http):
        await tell(world, money, 1_000)
        await tell(world, money, 600)
        world.send("before")
        await world.run(5)
        assert world.record("before").status is Status.REJECTED
        for wrong in ({}, body | {"scope": "everything"}, body | {"reason": ""}, body | {"person": ""}):
            assert (await http.post(REBASE, json=wrong)).status_code == 400, wrong
        response = await http.post(REBASE, json=body)
        assert (response.status_code, response.json()) == (200, {"scope": f"account:{ACCOUNT}", "rebased": 1})
        await tell(world, money, 600)  # until it is read anew, what was measured applies
        world.send("after")
        await world.run(5)
        assert world.record("after").status is Status.FILLED
        (told,) = world.documents("execution_alerts", kind="risk_rebased")
        assert "Ada (API, local)" in told["text"]
