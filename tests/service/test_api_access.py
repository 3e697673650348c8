"""Who may call the API: nobody's token, another's role, a page of another site; and hostile calls, which place nothing and tell nothing."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from execution_service.api import protection
from execution_service.api.access import FRESH_SECONDS, STALE_SECONDS
from execution_service.api.tokens import new_token, read_token
from execution_service.storage.ports.tokens import Role
from tests.fakes import world_of
from tests.service.http_calls import BASE, ORDER, ORDER_PATH, ORDERS, api_of, client_of, http_world, make_token

OPEN = {"/health", "/ready"}
NEEDED = {
    "/api/execution/order": Role.OPERATOR,
    "/api/execution/orders/{name}/cancel": Role.OPERATOR,
    "/api/execution/kill": Role.OPERATOR,
    "/api/execution/stance": Role.OPERATOR,
    "/api/execution/heartbeat": Role.OPERATOR,
    "/api/execution/targets": Role.OPERATOR,
    "/api/execution/arm": Role.ADMIN,
    "/api/execution/flatten": Role.ADMIN,
    "/api/execution/limits/enable": Role.ADMIN,
    "/api/execution/limits/rebase": Role.ADMIN,
    "/api/execution/orders/{name}/resolve": Role.ADMIN,
    "/api/execution/orders/{name}/allow": Role.ADMIN,
    "/api/execution/reconcile": Role.OPERATOR,
    "/api/execution/dead-letters/{message_id}/replay": Role.OPERATOR,
}
"""What more than looking needs."""


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_a_token_is_read_back_and_a_mistyped_one_is_none() -> None:
    token = new_token()
    assert read_token(token.text) == token
    assert token.secret not in repr(token)
    for wrong in (token.text[:-1], token.text + "0", token.text.replace("exec_", "exec-"), "", "_" * 300, "é_ü_x_y"):
        assert read_token(wrong) is None


async def test_every_route_needs_its_role_once_there_is_a_token(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        _, viewer = await make_token(world, Role.VIEWER)
        api = api_of(world)
        app: Any = api.application
        inner: FastAPI = app._app
        paths = [(path, method) for path, methods in inner.openapi()["paths"].items() for method in methods]
        paths += [("/openapi.json", "get"), ("/docs", "get")]
        assert len(paths) > 12
        async with client_of(api) as http:
            for path, method in paths:
                if path in OPEN or path.endswith("/events"):
                    continue
                url = path.replace("{name}", "sig").replace("{trade_id}", "pos_1")
                json_body = {"json": {}} if method == "post" else {}
                nobody = await http.request(method, url, **json_body)
                assert nobody.status_code == 401, path
                assert nobody.headers["www-authenticate"].startswith("Bearer")
                looking = await http.request(method, url, headers=bearer(viewer), **json_body)
                assert (looking.status_code == 403) == (method == "post" and path in NEEDED), path


async def test_without_any_token_whoever_is_on_this_machine_may_do_all(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (_, http):
        assert (await http.post(ORDER_PATH, json=ORDER)).status_code == 200


async def test_the_token_of_the_environment_is_an_admins(tmp_path: Path) -> None:
    async with http_world(tmp_path, token="hunter2-hunter2") as (world, http):
        assert (await http.post(ORDER_PATH, json=ORDER)).status_code == 401
        assert (await http.post(ORDER_PATH, json=ORDER, headers=bearer("hunter2-hunter3"))).status_code == 401
        assert world.records() == []
        assert (await http.post(ORDER_PATH, json=ORDER, headers=bearer("hunter2-hunter2"))).status_code == 200


async def test_a_token_that_is_revoked_or_expired_is_refused_and_opens_nothing_again(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        kept, operator = await make_token(world, Role.OPERATOR)
        _, brief = await make_token(world, Role.OPERATOR, expires_at=world.clock.now() + timedelta(seconds=30))
        for token in (operator, brief):
            assert (await http.post(ORDER_PATH, json=ORDER, headers=bearer(token))).status_code == 200
        await world.store_beside().revoke_token(kept.token_id, world.clock.now())
        await world.run(FRESH_SECONDS)
        assert (await http.post(ORDER_PATH, json=ORDER, headers=bearer(operator))).status_code == 401
        await world.run(30)
        assert (await http.post(ORDER_PATH, json=ORDER, headers=bearer(brief))).status_code == 401
        assert (await http.post(ORDER_PATH, json=ORDER)).status_code == 401, "nobody without a token, either"


async def test_what_is_kept_of_a_token_is_not_enough_to_call(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        kept, text = await make_token(world, Role.ADMIN)
        (document,) = world.documents("execution_api_tokens")
        assert text not in json.dumps(document, default=str)
        assert text.split("_")[2] not in json.dumps(document, default=str)
        for guess in (kept.secret_sha256, f"exec_{kept.token_id}_{kept.secret_sha256}", new_token().text):
            assert (await http.get(ORDERS, headers=bearer(guess))).status_code == 401


async def test_while_the_store_is_away_a_known_token_is_believed_for_a_minute(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        _, viewer = await make_token(world, Role.VIEWER)
        assert (await http.get("/metrics", headers=bearer(viewer))).status_code == 200
        world.store_faults.is_away = True
        await world.run(FRESH_SECONDS + 1)
        assert (await http.get("/metrics", headers=bearer(viewer))).status_code == 200
        await world.run(STALE_SECONDS)
        response = await http.get("/metrics", headers=bearer(viewer))
        assert (response.status_code, "cannot be told" in response.text) == (503, True)


async def test_probes_need_no_token_and_tell_strangers_one_word(tmp_path: Path) -> None:
    async with http_world(tmp_path, token="hunter2-hunter2") as (_, http):
        body = (await http.get("/health")).json()
        assert set(body) == {"service", "status", "version", "mode"}
        assert (body["service"], body["status"], body["mode"]) == ("execution-service", "OK", "PAPER")
        assert (await http.get("/ready")).json() == {"status": "ready"}
        assert "components" in (await http.get("/health", headers=bearer("hunter2-hunter2"))).json()


# --- pages of other sites -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8002", "", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", "[", "a b"]
)
async def test_a_page_whose_name_was_led_here_is_not_served(tmp_path: Path, host: str) -> None:
    async with http_world(tmp_path) as (world, http):
        for path, method in ((ORDERS, "GET"), (ORDER_PATH, "POST")):
            response = await http.request(
                method, path, headers={"Host": host}, json=ORDER if method == "POST" else None
            )
            assert response.status_code == 421
        assert world.records() == []


@pytest.mark.parametrize("host", ["localhost", "localhost:8002", "LOCALHOST", "127.0.0.1", "127.0.0.1:1", "[::1]:8002"])
async def test_this_machines_own_names_are_served(tmp_path: Path, host: str) -> None:
    async with http_world(tmp_path) as (_, http):
        assert (await http.get(ORDERS, headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "is_ours"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": BASE}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": BASE}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": BASE}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://["}, False),
        ({"Origin": "http://127.0.0.1:9999"}, False),
    ],
)
async def test_a_page_of_another_site_places_nothing(tmp_path: Path, headers: dict[str, str], is_ours: bool) -> None:
    async with http_world(tmp_path) as (world, http):
        response = await http.post(ORDER_PATH, json=ORDER, headers=headers)
        assert response.status_code == (200 if is_ours else 403)
        assert len(world.records()) == is_ours
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_what_a_form_can_send_is_not_taken(tmp_path: Path, kind: str) -> None:
    async with http_world(tmp_path) as (world, http):
        response = await http.post(ORDER_PATH, content=json.dumps(ORDER), headers={"Content-Type": kind})
        assert response.status_code == 415
        assert world.records() == []


# --- hostile calls --------------------------------------------------------------------------------------------------

HOSTILE = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[1]",
    "no text": b"\xff\xfe{}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "deep": b'{"metadata":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "repeated names": b'{"symbol":"AAPL","side":"buy","quantity":1,"quantity":1000}',
    "not a number": b'{"symbol":"AAPL","side":"buy","quantity":NaN}',
    "endless": b'{"symbol":"AAPL","side":"buy","quantity":Infinity}',
    "a huge number": b'{"symbol":"AAPL","side":"buy","quantity":1e999999999}',
    "a long number": b'{"symbol":"AAPL","side":"buy","quantity":' + b"9" * 30_000 + b"}",
    "too many decimals": b'{"symbol":"AAPL","side":"buy","quantity":0.' + b"0" * 60 + b"1}",
    "an object for a number": b'{"symbol":"AAPL","side":"buy","quantity":{"$gt":0}}',
    "an object for a name": b'{"symbol":"AAPL","side":"buy","quantity":1,"signal_id":{"$ne":null},"leverage":[]}',
    "an object for an account": b'{"symbol":"AAPL","side":"buy","quantity":1,"account_id":{"$ne":null}}',
    "half a character": b'{"symbol":"AAPL\\ud800","side":"buy","quantity":1}',
    "too large": b'{"symbol":"' + b"A" * 70_000 + b'"}',
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_body_places_nothing_and_the_service_goes_on(tmp_path: Path, name: str) -> None:
    async with http_world(tmp_path) as (world, http):
        response = await http.post(ORDER_PATH, content=HOSTILE[name], headers={"Content-Type": "application/json"})
        assert response.status_code in (400, 413, 422), response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert len(response.content) < 4000
        await world.run(1)
        assert world.records() == []
        assert (await http.post(ORDER_PATH, json=ORDER)).status_code == 200


@pytest.mark.parametrize("key", ["", " ", "a b", "a" * 201, "ä", '"', '""', "\x7f", '"a"b"'])
async def test_a_key_that_is_none_is_refused(tmp_path: Path, key: str) -> None:
    async with http_world(tmp_path) as (world, http):
        response = await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": key.encode()})  # type: ignore[dict-item]
        assert response.status_code == 400
        assert world.records() == []


async def test_a_body_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protection, "BODY_SECONDS", 0.05)
    async with world_of(tmp_path) as world:
        sent: list[Any] = []
        never: Any = _never
        scope = {
            "type": "http",
            "method": "POST",
            "path": ORDER_PATH,
            "raw_path": ORDER_PATH.encode(),
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        }

        async def send(message: Any) -> None:
            sent.append(message)

        await api_of(world).application(scope, never, send)
        assert sent[0]["status"] == 408
        assert world.records() == []


async def _never() -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_call_that_fails_tells_the_caller_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with http_world(tmp_path) as (world, http):

        async def fail(*_: object) -> None:
            raise RuntimeError("mongodb://user:secret@host")

        monkeypatch.setattr(type(world.service.commands._store), "page_of_orders", fail)
        response = await http.get(ORDERS)
        assert response.status_code == 500
        assert "secret" not in response.text
        assert any(line.get("action") == "api_call_failed" for line in world.logs)


async def test_unknown_paths_and_methods_are_problems(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (_, http):
        for method, path, status in (
            ("GET", "/nothing", 404),
            ("DELETE", ORDERS, 405),
            ("TRACE", ORDERS, 405),
            ("PUT", ORDERS, 405),
            ("POST", ORDERS, 415),
            ("GET", "/" + "a" * 9000, 404),
        ):
            response = await http.request(method, path)
            assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")


async def test_the_description_has_every_route_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (_, http):
        described = (await http.get("/openapi.json")).json()
        page = await http.get("/docs")
        for path in described["paths"]:
            assert path in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert [word for word in ("http://", "https://", "<script", "src=") if word in page.text] == []
