"""The process that answers callers, as a value: what it keeps, for whom, and what it says where the service does not answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from execution_service.api.front import SHARED_PATHS, Front, HeaderList, ServiceAway, TradingService
from execution_service.api.protection import Protection
from execution_service.api.routes import events
from execution_service.app.front_process import STREAM_PATHS
from execution_service.storage.ports.tokens import Role
from tests.fakes import HandClock, world_of
from tests.service.http_calls import BASE, api_of, http_world, make_token

LIST = "/api/execution/orders"


class Behind:
    """A service that answers as it is told, and counts."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes, dict[bytes, bytes], bytes]] = []
        self.status = 200
        self.is_away = False
        self.breaks_off = False
        self.answers = asyncio.Event()
        self.answers.set()

    @contextlib.asynccontextmanager
    async def exchange(self) -> AsyncIterator[Behind]:
        if self.is_away:
            raise ServiceAway("refused", was_taken=False)
        yield self

    async def ask(self, method: str, target: bytes, headers: HeaderList, body: bytes) -> tuple[int, HeaderList]:
        self.asked.append((method, target, dict(headers), body))
        await self.answers.wait()
        if self.breaks_off:
            raise ServiceAway("broken off", was_taken=True)
        return self.status, [(b"content-type", b"application/json"), (b"etag", b'"one"')]

    async def pieces(self) -> AsyncIterator[bytes]:
        yield f'{{"number": {len(self.asked)}}}'.encode()


class Stage:
    def __init__(self) -> None:
        self.behind, self.clock = Behind(), HandClock()
        front = Front(cast(TradingService, self.behind), self.clock)
        app = Protection(front, host="127.0.0.1", stream_paths=STREAM_PATHS)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app, raise_app_exceptions=False), base_url=BASE)

    async def get(self, path: str = LIST, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


async def test_one_question_serves_all_who_ask_the_same_within_a_second() -> None:
    stage = Stage()
    for _ in range(50):
        assert (await stage.get()).json() == {"number": 1}
    stage.clock.move(1.0)
    assert (await stage.get()).json() == {"number": 2}
    assert (await stage.get(f"{LIST}?limit=5")).json() == {"number": 3}


async def test_those_who_ask_at_once_wait_for_one_answer() -> None:
    stage = Stage()
    stage.behind.answers.clear()
    calls = [asyncio.create_task(stage.get()) for _ in range(20)]
    await asyncio.sleep(0)
    stage.behind.answers.set()
    assert {(await call).status_code for call in calls} == {200}
    assert len(stage.behind.asked) == 1


async def test_an_answer_is_given_to_nobody_with_another_token_or_cookie() -> None:
    stage = Stage()
    for number, headers in enumerate(
        ({}, {"authorization": "Bearer a"}, {"authorization": "Bearer b"}, {"cookie": "c"})
    ):
        assert (await stage.get(**headers)).json() == {"number": number + 1}
    assert stage.behind.asked[1][2][b"authorization"] == b"Bearer a"


async def test_a_single_order_is_always_asked_for_and_so_is_what_failed() -> None:
    stage = Stage()
    assert [(await stage.get(f"{LIST}/one")).json()["number"] for _ in range(2)] == [1, 2]
    stage.behind.status = 503
    assert [(await stage.get()).json()["number"] for _ in range(2)] == [3, 4]


async def test_who_has_the_answer_is_told_so_and_the_service_is_never_asked_whether_it_changed() -> None:
    stage = Stage()
    unchanged = await stage.get(if_none_match='W/"zero", "one"')
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", '"one"')
    assert (await stage.get(if_none_match='"other"')).status_code == 200
    assert b"if-none-match" not in stage.behind.asked[0][2]


async def test_a_call_that_changes_something_is_passed_on_as_it_came_each_time() -> None:
    stage = Stage()
    for _ in range(2):
        response = await stage.http.post(
            "/api/execution/order?a=%2F", json={"symbol": "A"}, headers={"Idempotency-Key": "k"}
        )
        assert response.status_code == 200
    (first, second) = stage.behind.asked
    assert first == second
    method, target, headers, body = first
    assert (method, target, body) == ("POST", b"/api/execution/order?a=%2F", b'{"symbol":"A"}')
    assert (headers[b"idempotency-key"], headers[b"host"]) == (b"k", b"127.0.0.1:8002")


async def test_what_is_hostile_does_not_reach_the_service() -> None:
    stage = Stage()
    refused = [
        await stage.http.get(LIST, headers={"Host": "evil.example"}),
        await stage.http.post("/api/execution/order", json={}, headers={"Origin": "http://evil.example"}),
        await stage.http.post("/api/execution/order", content=b"{}", headers={"Content-Type": "text/plain"}),
        await stage.http.post("/api/execution/order", json={"symbol": "A" * 70_000}),
    ]
    assert [each.status_code for each in refused] == [421, 403, 415, 413]
    assert stage.behind.asked == []


@pytest.mark.parametrize("path", [LIST, f"{LIST}/one"])
async def test_a_service_that_is_away_is_said_and_the_next_call_tries_again(path: str) -> None:
    stage = Stage()
    stage.behind.is_away = True
    for _ in range(2):
        response = await stage.get(path)
        assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json")
    stage.behind.is_away = False
    assert (await stage.get(path)).status_code == 200


async def test_where_it_is_not_known_whether_a_call_was_taken_that_is_said_and_it_is_not_sent_again() -> None:
    stage = Stage()
    stage.behind.breaks_off = True
    response = await stage.http.post("/api/execution/order", json={})
    assert response.status_code == 503
    assert "may have been carried out" in response.json()["detail"]
    assert len(stage.behind.asked) == 1


async def test_what_is_kept_for_a_second_is_what_the_service_itself_keeps(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (_, http):
        for path in SHARED_PATHS:
            assert (await http.get(path)).status_code == 200, path
    assert {events.PATH} == STREAM_PATHS


async def test_behind_the_front_each_token_may_what_it_may(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        _, viewer = await make_token(world, Role.VIEWER)
        app = api_of(world).application
        stage = Stage()

        class Real(Behind):
            async def ask(self, method: str, target: bytes, headers: HeaderList, body: bytes) -> tuple[int, HeaderList]:
                inner = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=BASE)
                given: Any = await inner.request(method, target.decode(), headers=list(headers), content=body)
                return given.status_code, [(b"content-type", b"application/json")]

        stage.behind.ask = Real().ask  # type: ignore[method-assign]
        assert (await stage.get(authorization=f"Bearer {viewer}")).status_code == 200
        assert (await stage.get()).status_code == 401
        assert (await stage.get(authorization="Bearer other")).status_code == 401
