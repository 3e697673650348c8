"""The operator's page as it is served: its files and their policy, logging in and out, and what only boards ask for."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from execution_service.api.access import FRESH_SECONDS
from execution_service.api.sessions import SESSION_SECONDS
from execution_service.storage.ports.tokens import Role
from tests.fakes import ACCOUNT, BY_HAND, world_of
from tests.service.http_calls import ORDER, ORDER_PATH, ORDERS, api_of, client_of, http_world, make_token

SESSION = "/api/execution/session"
PAGE = Path(__file__).resolve().parents[2] / "execution_service" / "api" / "page"
COOKIE = "execution_session_8002"


async def logged_in(http: httpx.AsyncClient, token: str, **headers: str) -> httpx.Response:
    """The client keeps the cookie, as a browser does."""
    return await http.post(SESSION, json={"token": token}, headers=headers)


# --- files ----------------------------------------------------------------------------------------------------------


async def test_the_page_comes_whole_without_a_token_and_from_nowhere_else(tmp_path: Path) -> None:
    async with http_world(tmp_path, token="hunter2-hunter2") as (_, http):
        page = await http.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        named = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text)
        for path in PAGE.glob("*.js"):
            named += [f"page/{name}" for name in re.findall(r'from "\./([^"]+)"', path.read_text(encoding="utf-8"))]
        assert len(set(named)) > 10
        for name in sorted(set(named)):
            answer = await http.get(f"/{name}")
            assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff"), name
            again = await http.get(f"/{name}", headers={"If-None-Match": answer.headers["etag"]})
            assert again.status_code == 304


async def test_what_is_no_file_of_the_page_is_not_served(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (_, http):
        for name in ("__init__.py", "..%2Faccess.py", "%2Fetc%2Fpasswd", "nothing.js"):
            assert (await http.get(f"/page/{name}")).status_code == 404, name


async def test_the_page_may_run_nothing_but_its_own_files_and_stand_in_no_frame(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (_, http):
        policy = (await http.get("/")).headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"


def test_nothing_in_the_page_reads_markup_or_names_another_place() -> None:
    served = [path for path in PAGE.iterdir() if path.suffix in (".html", ".css", ".js")]
    assert len(served) > 3
    for path in served:
        text = path.read_text(encoding="utf-8")
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "parseFloat",
            "style=",
        ):
            assert forbidden not in text, (path.name, forbidden)
        others = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert others == set(), path.name


# --- logging in -----------------------------------------------------------------------------------------------------


async def test_a_token_is_presented_once_and_a_cookie_that_no_script_reads_stands_for_it(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        _, token = await make_token(world, Role.OPERATOR, name="Ada")
        assert (await http.get(SESSION)).json() == {"role": None, "name": None, "is_open": False}
        assert (await http.get(ORDERS)).status_code == 401
        answer = await logged_in(http, token)
        assert answer.json() == {"role": "operator", "name": "Ada", "is_open": False, "seconds": SESSION_SECONDS}
        cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "Path=/", "SameSite=strict", f"Max-Age={SESSION_SECONDS}"} <= set(cookie.split("; "))
        assert "Secure" not in cookie, "else a browser would drop it where nothing encrypts"
        assert token.split("_")[2] not in cookie
        assert (await http.get(ORDERS)).status_code == 200
        assert (await http.post(ORDER_PATH, json=ORDER)).status_code == 200
        assert (await http.get(SESSION)).json()["role"] == "operator"


async def test_behind_a_proxy_that_encrypts_the_cookie_is_sent_encrypted_alone(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        _, token = await make_token(world, Role.VIEWER)
        headers = {"Origin": "https://127.0.0.1:8002", "Sec-Fetch-Site": "same-origin"}
        assert "Secure" in (await logged_in(http, token, **headers)).headers["set-cookie"]


async def test_a_session_may_do_what_its_token_may_and_no_more(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        _, token = await make_token(world, Role.VIEWER)
        await logged_in(http, token)
        assert (await http.post(ORDER_PATH, json=ORDER)).status_code == 403
        assert world.records() == []


async def test_a_session_ends_when_its_token_is_revoked(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        kept, token = await make_token(world, Role.OPERATOR)
        await logged_in(http, token)
        await world.store_beside().revoke_token(kept.token_id, world.clock.now())
        await world.run(FRESH_SECONDS)
        answer = await http.get(ORDERS)
        assert (answer.status_code, "log in again" in answer.text) == (401, True)


async def test_a_session_ends_after_eight_hours_and_with_its_token(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        _, token = await make_token(world, Role.OPERATOR)
        _, brief = await make_token(world, Role.OPERATOR, expires_at=world.clock.now() + timedelta(seconds=60))
        await logged_in(http, brief)
        await world.run(61)
        assert (await http.get(ORDERS)).status_code == 401
        await logged_in(http, token)
        world.clock.jump_wall(SESSION_SECONDS - 1)
        assert (await http.get(ORDERS)).status_code == 200
        world.clock.jump_wall(2)
        assert (await http.get(ORDERS)).status_code == 401


async def test_whoever_logs_out_is_out(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        _, token = await make_token(world, Role.OPERATOR)
        await logged_in(http, token)
        assert (await http.delete(SESSION)).json()["role"] is None
        assert (await http.get(ORDERS)).status_code == 401


async def test_the_environments_token_logs_in_too_and_another_one_ends_its_sessions(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        async with client_of(api_of(world, token="hunter2-hunter2")) as http:
            assert (await logged_in(http, "hunter2-hunter2")).json()["role"] == "admin"
            assert (await http.get(ORDERS)).status_code == 200
            cookies = http.cookies
        async with client_of(api_of(world, token="another-one-now")) as http:
            http.cookies = cookies
            assert (await http.get(ORDERS)).status_code == 401


@pytest.mark.parametrize("body", [{}, {"token": ""}, {"token": 7}, {"token": ["exec_"]}, []])
async def test_a_log_in_without_a_token_is_refused(tmp_path: Path, body: object) -> None:
    async with http_world(tmp_path, token="hunter2-hunter2") as (_, http):
        answer = await http.post(SESSION, json=body)
        assert (answer.status_code, "set-cookie" in answer.headers) == (400, False)


async def test_a_cookie_that_somebody_made_up_opens_nothing(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        kept, token = await make_token(world, Role.ADMIN)
        other, _ = await make_token(world, Role.ADMIN)
        await logged_in(http, token)
        cookie = http.cookies[COOKIE]
        forged = [
            cookie[:-1],
            cookie.replace(kept.token_id, other.token_id),
            f"{kept.token_id}.{kept.secret_sha256}.x",
            "API_TOKEN" + cookie.removeprefix(kept.token_id),
            "..",
            "a.b.c",
            "." * 600,
            "é.1.2",
        ]
        for text in forged:
            http.cookies.clear()
            headers = {"Cookie": f"{COOKIE}={text}".encode()}
            assert (await http.get(ORDERS, headers=headers)).status_code == 401, text  # type: ignore[arg-type]


async def test_a_page_of_another_site_can_neither_log_in_nor_use_a_session(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        _, token = await make_token(world, Role.OPERATOR)
        foreign = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
        assert (await logged_in(http, token, **foreign)).status_code == 403
        await logged_in(http, token)
        assert (await http.post(ORDER_PATH, json=ORDER, headers=foreign)).status_code == 403
        assert world.records() == []


async def test_where_there_are_no_tokens_nobody_has_to_log_in(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (_, http):
        assert (await http.get(SESSION)).json() == {"role": "admin", "name": None, "is_open": True}


# --- what boards ask for --------------------------------------------------------------------------------------------


async def test_holdings_are_exact_and_told_by_account_and_strategy(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND) as (world, http):
        for key, quantity, price in (("one", "0.3", "10.1"), ("two", "0.6", "10.4")):
            body = {**ORDER, "quantity": quantity, "price": price, "account_id": ACCOUNT, "strategy_name": "Trend"}
            await http.post(ORDER_PATH, json=body, headers={"Idempotency-Key": key})
            await world.run(5)
            world.fill(key, price=price)
            await world.run(5)
        (held,) = (await http.get("/api/execution/holdings")).json()["holdings"]
    assert (held["account_id"], held["strategy"], held["symbol"], held["side"]) == (ACCOUNT, "Trend", "AAPL", "LONG")
    assert (held["quantity"], held["average_price"], held["last_price"]) == ("0.9", "10.3", "10.4")
    assert Decimal(held["unrealized_pnl"]) == Decimal("0.09")
    assert held["realized_pnl"] == "0.00"


async def test_the_pace_tells_each_minute_of_the_last_hour(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        api = api_of(world)
        async with client_of(api) as http:
            for key in ("one", "two"):
                await http.post(ORDER_PATH, json=ORDER, headers={"Idempotency-Key": key})
            await world.run(5)
            await api.measures.text()
            minutes = (await http.get("/api/execution/pace")).json()["minutes"]
            assert [(m["received"], m["filled"], m["refused"], m["acknowledged"]) for m in minutes] == [(2, 2, 0, 2)]
            assert minutes[0]["latency_ms_p50"] <= minutes[0]["latency_ms_p95"]
            world.clock.jump_wall(2 * 3600)
            await world.run(2)
            minutes = (await http.get("/api/execution/pace")).json()["minutes"]
            assert (len(minutes), sum(m["received"] for m in minutes)) == (60, 0)
            assert minutes[-1]["latency_ms_p95"] is None
