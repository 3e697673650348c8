"""The description of the API, held against the application by generated calls, right and wrong ones: nothing fails inside, no answer is another than
is described, and nothing wrong is taken for right."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from execution_service.storage.ports.tokens import Role
from tests.fakes import BY_HAND, World, world_of
from tests.service.http_calls import BASE, ORDER, ORDER_PATH, api_of, client_of, make_token

CALLS = {GenerationMode.POSITIVE: 12, GenerationMode.NEGATIVE: 8}
"""Of each route."""
ENDLESS = "/events"
ASKED = ("method", "url", "headers", "params", "json", "content")
LEFT_OUT = [positive_data_acceptance]
"""Whether a name, a cursor or a person is right depends on what there is, which no description tells."""


@dataclass
class Stage:
    """A service with an order in it, in an event loop that goes on between the calls; whoever calls is an admin."""

    runner: asyncio.Runner
    world: World
    http: httpx.AsyncClient
    token: str

    def call(self, asked: Mapping[str, Any]) -> httpx.Response:
        return self.runner.run(self._call(asked))

    async def _call(self, asked: Mapping[str, Any]) -> httpx.Response:
        task = asyncio.create_task(self.http.request(**asked))
        for _ in range(5):
            await asyncio.sleep(0)
        while not task.done():
            await self.world.run(0.5)
        return await task


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with asyncio.Runner() as runner:
        about = world_of(Path(tmp_path_factory.mktemp("schema")), market=BY_HAND)
        world = runner.run(about.__aenter__())
        try:
            _, token = runner.run(make_token(world, Role.ADMIN))
            on = Stage(runner, world, client_of(api_of(world), token=token), token)
            assert on.call({"method": "POST", "url": ORDER_PATH, "json": ORDER}).status_code == 200
            yield on
        finally:
            runner.run(about.__aexit__(None, None, None))


def held_against(stage: Stage, case: Any) -> None:
    """One call, and all that schemathesis finds wrong with its answer."""
    asked = case.as_transport_kwargs(base_url=BASE)
    if isinstance(asked.get("data"), bytes | str):
        asked["content"] = asked["data"]
    response = stage.call({name: asked[name] for name in ASKED if asked.get(name) is not None})
    told = schemathesis.Response(
        status_code=response.status_code,
        headers={name: [value] for name, value in response.headers.items()},
        content=response.content,
        request=requests.Request(asked["method"], asked["url"]).prepare(),
        elapsed=0.0,
        verify=False,
        http_version="1.1",
    )
    case.validate_response(told, excluded_checks=LEFT_OUT)


@pytest.mark.parametrize("mode", list(CALLS))
def test_the_application_does_what_its_description_says(stage: Stage, mode: GenerationMode) -> None:
    description = stage.call({"method": "GET", "url": "/openapi.json"}).json()
    held = 0
    for found in schemathesis.openapi.from_dict(description).get_all_operations():
        operation = found.ok()
        has_choice = bool(operation.body or operation.query)
        if operation.path.endswith(ENDLESS) or (mode is GenerationMode.NEGATIVE and not has_choice):
            continue

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=CALLS[mode],
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        def holds(case: Any) -> None:
            held_against(stage, case)

        holds()
        held += 1
    assert held > 10
    assert stage.call({"method": "GET", "url": "/health"}).json()["status"] == "OK"


def test_a_failure_inside_would_be_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("a canary of the inside")

    monkeypatch.setattr(type(stage.world.store_beside()), "page_of_orders", fail)
    description = stage.call({"method": "GET", "url": "/openapi.json"}).json()
    case = schemathesis.openapi.from_dict(description)["/api/execution/orders"]["GET"].Case(query={"limit": 7})
    with pytest.raises(FailureGroup, match="Server error") as failure:
        held_against(stage, case)
    assert "canary" not in str(failure.value)


HOSTILE_BODIES = [
    b"[" * 30_000,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    b'{"symbol": "AAPL", "side": "buy", "quantity": NaN}',
    b'{"symbol": "AAPL", "side": "buy", "quantity": Infinity}',
    b'{"symbol": "AAPL", "side": "buy", "quantity": 1e999999999}',
    b'{"symbol": "AAPL", "side": "buy", "quantity": 1, "quantity": 1000}',
    b'{"symbol": "\\ud800", "side": "buy", "quantity": 1}',
    b'{"symbol": "AAPL", "side": "buy", "quantity": true}',
    b'{"symbol": "AAPL\\u0000", "side": "buy", "quantity": 1}',
    b'{"symbol": "AAPL", "side": "\\ud83d", "quantity": 1, "signal_id": "\\udfff"}',
    b'{"scope": "\\ud800", "reason": "\\udfff"}',
    b'{"decision": "\\ud800", "note": "\\udfff", "person": "\\u0000"}',
    b'{"scope": "all", "scope": "account:x", "reason": 1e400}',
    b"\xff\xfe\x00",
    b'"' + b"a" * 60_000 + b'"',
    b"{" + b",".join(b'"k%d": 1' % number for number in range(5000)) + b"}",
    b"0" * 60_000,
]


@pytest.mark.parametrize("body", HOSTILE_BODIES, ids=range(len(HOSTILE_BODIES)))
def test_hostile_bodies_place_nothing_stop_nobody_and_are_answered(stage: Stage, body: bytes) -> None:
    description = stage.call({"method": "GET", "url": "/openapi.json"}).json()
    before = len(stage.world.records()), stage.call({"method": "GET", "url": "/api/execution/kill"}).json()
    for path, methods in description["paths"].items():
        if "post" not in methods:
            continue
        url = path.replace("{name}", "nobody").replace("{message_id}", "nothing")
        headers = {"Content-Type": "application/json"}
        response = stage.call({"method": "POST", "url": url, "content": body, "headers": headers})
        assert 400 <= response.status_code < 500, (path, response.status_code, response.text)
        assert response.headers["content-type"] == "application/problem+json"
        assert "Traceback" not in response.text
        assert stage.token not in response.text
    assert (len(stage.world.records()), stage.call({"method": "GET", "url": "/api/execution/kill"}).json()) == before
