"""What stops trading and lets it go on, over HTTP: the same verbs, the same answers, by roles."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

import pytest

from execution_service.core.orders.status import ReasonCode, Status
from execution_service.storage.ports.tokens import Role
from tests.fakes import ACCOUNT, BY_HAND, RESTING, world_of
from tests.service.http_calls import ORDER, ORDER_PATH, api_of, client_of, http_world, make_token

KILL, ARM = "/api/execution/kill", "/api/execution/arm"
FLATTEN, LIMITS = "/api/execution/flatten", "/api/execution/limits"
ALL = {"scope": "all", "reason": "the model runs away"}
KILLED = {"version", "scope", "level", "engaged_at", "working_entries"} | {
    f"cancels_{end}" for end in ("asked", "confirmed", "unknown")
}


async def test_health_tells_what_is_stopped_and_by_whom(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        await world.run(2)
        told = (await http.get("/health")).json()["components"]["kill switches"]
        assert told == {"status": "OK", "message": "none is engaged"}
        for scope in ("symbol:AAPL", "all"):
            await http.post(KILL, json={"scope": scope, "level": "HALT", "by": "Ada", "reason": "why"})
        body = (await http.get("/health")).json()
        assert body["status"] == "OK"
        by = "Ada (API, local)"
        words = f"engaged for all: halt, by {by}; symbol:AAPL: halt, by {by}"
        assert body["components"]["kill switches"]["message"] == words


async def test_a_kill_stops_the_next_order_and_two_steps_let_trade_again(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        response = await http.post(KILL, json=ALL)
        assert (response.status_code, set(response.json())) == (200, KILLED)
        assert (response.json()["scope"], response.json()["level"]) == ("all", "reduce_only")
        await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "stopped"})
        await world.run(3)
        assert world.record("stopped").reason.code is ReasonCode.KILL_SWITCH
        (shown,) = (await http.get(KILL)).json()["switches"]
        assert (shown["is_engaged"], shown["scope"], shown["by"]) == (True, "all", "API (local)")
        assert [change["deed"] for change in shown["history"]] == ["engaged"]

        step = {"scope": "all", "person": "Ada", "reason": "mended"}
        first = await http.post(ARM, json=step)
        assert first.status_code == 202
        assert "nonce" not in (await http.get(KILL)).text
        early = await http.post(ARM, json=step | {"nonce": first.json()["nonce"]})
        assert early.status_code == 409
        until = datetime.fromisoformat(first.json()["not_before"]) - world.clock.now()
        await world.run(until.total_seconds() + 1)
        second = await http.post(ARM, json=step | {"nonce": first.json()["nonce"]})
        assert (second.status_code, second.json()["level"], second.json()["person"]) == (200, None, "Ada")
        await world.run(2)
        await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "after"})
        await world.run(3)
        assert world.record("after").status is Status.FILLED


async def test_a_kill_that_cancels_tells_what_came_of_the_cancels(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "resting"})
        await world.run(2)
        assert world.record("resting").status is Status.SUBMITTED
        call = asyncio.create_task(http.post(KILL, json=ALL | {"cancel_entries": True}))
        await world.run(5)
        body = (await call).json()
        assert [
            body[each] for each in ("working_entries", "cancels_asked", "cancels_confirmed", "cancels_unknown")
        ] == [*(1, 1, 1, 0)]
        assert world.record("resting").status is Status.CANCELLED


async def test_a_repeated_call_with_its_name_changes_nothing(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (_, http):
        key = {"Idempotency-Key": "k"}
        first = await http.post(KILL, json=ALL, headers=key)
        again = await http.post(KILL, json=ALL, headers=key)
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.json()["version"] == first.json()["version"] == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (KILL, {}),
        (KILL, {"scope": "everything", "reason": "r"}),
        (KILL, {"scope": "all", "level": "softly", "reason": "r"}),
        (KILL, {"scope": "all", "cancel_entries": "yes", "reason": "r"}),
        (KILL, {"scope": ["all"], "reason": "r"}),
        (KILL, {"scope": "all", "reason": "r", "sope": "all"}),
        (ARM, {"scope": "all", "person": "Ada", "reason": "r", "nonce": ""}),
        (FLATTEN, {"scope": "account:", "person": "Ada", "reason": "r"}),
    ],
)
async def test_what_is_not_understood_is_refused_and_stops_nobody(
    tmp_path: Path, path: str, body: dict[str, object]
) -> None:
    async with http_world(tmp_path) as (_, http):
        response = await http.post(path, json=body)
        assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
        assert response.json()["reasons"]
        assert (await http.get(KILL)).json() == {"switches": []}


async def test_a_body_that_is_no_json_is_refused(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (_, http):
        for text in (b"", b"[", b"[1]", b"\xff", b'{"scope": NaN}'):
            response = await http.post(KILL, content=text, headers={"Content-Type": "application/json"})
            assert response.status_code == 400, text


async def test_flatten_makes_an_exit_of_each_holding(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "entry"})
        await world.run(5)
        response = await http.post(FLATTEN, json={"scope": "all", "person": "Ada", "reason": "we leave"})
        assert response.status_code == 200
        (made,) = response.json()["orders"]
        assert (made["account_id"], made["symbol"], made["side"]) == (ACCOUNT, "AAPL", "SELL")
        await world.run(5)
        (left,) = [order for order in world.records() if order.signal_id == made["signal_id"]]
        assert left.status is Status.FILLED
        nobody = await http.post(FLATTEN, json={"scope": "all", "reason": "we leave"})
        assert nobody.status_code == 409


async def test_limits_show_what_is_used(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "entry"})
        await world.run(10)
        body = (await http.get(LIMITS)).json()
        assert set(body) == {"limits", "off_until_enabled"}
        (runs,) = [each for each in body["limits"] if each["limit_type"] == "max_consecutive_rejections"]
        told = [runs[name] for name in ("account_id", "limit_value", "actual_value", "percent", "written_in")]
        assert told == [ACCOUNT, "20", "0", "0", "built in"]


async def test_who_may_what_by_roles(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        api = api_of(world)
        texts = {role: (await make_token(world, role))[1] for role in Role}
        step = {"scope": "all", "reason": "mended"}
        async with client_of(api) as nobody:
            assert (await nobody.post(KILL, json=ALL)).status_code == 401
        async with client_of(api, token=texts[Role.VIEWER]) as viewer:
            assert (await viewer.get(KILL)).status_code == (await viewer.get(LIMITS)).status_code == 200
            assert (await viewer.post(KILL, json=ALL)).status_code == 403
        async with client_of(api, token=texts[Role.OPERATOR]) as operator:
            assert (await operator.post(KILL, json=ALL)).status_code == 200
            for path in (ARM, FLATTEN):
                assert (await operator.post(path, json=step)).status_code == 403
        async with client_of(api, token=texts[Role.ADMIN]) as admin:
            assert (await admin.post(ARM, json=step)).status_code == 202
            await world.run(2)
            (shown,) = (await admin.get(KILL)).json()["switches"]
            assert shown["arming"]["person"] == "a admin"


async def test_a_stance_counts_from_the_answer_on_and_is_shown_with_who_said_it(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "resting"})
        await world.run(2)
        said = {"scope": "all", "stance": "EMERGENCY", "by": "Ada", "reason": "the market gaps"}
        told = await http.post("/api/execution/stance", json=said)
        assert (told.status_code, told.json()["stance"], told.json()["cancels_asked"]) == (200, "EMERGENCY", 1)
        await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": "stopped"})
        await world.run(3)
        assert world.record("resting").status is Status.CANCELLED
        assert world.record("stopped").reason.code is ReasonCode.KILL_SWITCH
        (shown,) = (await http.get("/api/execution/stances")).json()["stances"]
        assert (shown["counts"], shown["by"]) == ("EMERGENCY", "Ada (API, local)")


async def test_an_operator_may_set_an_emergency_and_only_an_administrator_ends_it(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        api = api_of(world)
        texts = {role: (await make_token(world, role))[1] for role in (Role.OPERATOR, Role.ADMIN)}
        calls = [
            (Role.OPERATOR, "EMERGENCY"),
            (Role.OPERATOR, "NORMAL"),
            (Role.ADMIN, "NORMAL"),
            (Role.OPERATOR, "HALT"),
        ]
        answers = []
        for role, word in calls:
            async with client_of(api, token=texts[role]) as http:
                said = {"scope": "all", "stance": word, "reason": "the market gaps"}
                call = asyncio.create_task(http.post("/api/execution/stance", json=said))
                await world.run(5)
                answers.append((await call).status_code)
        assert answers == [200, 403, 200, 200]
        (switch,) = world.documents("execution_kill_switches")
        assert switch["switch"]["level"] == "halt"
