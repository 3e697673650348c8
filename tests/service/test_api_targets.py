"""Target positions over HTTP: the stored plan as the answer, a dry run that keeps nothing, refusals with every reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from brokers.base import Side
from execution_service.core.orders.request import Purpose
from execution_service.storage.ports.tokens import Role
from tests.fakes import BY_HAND, RESTING
from tests.service.http_calls import api_of, client_of, http_world, make_token
from tests.service.test_plans import body, planned

TARGETS = "/api/execution/targets"


async def test_targets_are_planned_once_and_the_stored_plan_is_the_answer(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        wanted = body(world, ("AAPL", 100), ("MSFT", "-2.0"))
        first = await http.post(TARGETS, json=wanted)
        assert first.status_code == 200
        assert [(o["symbol"], o["side"], o["quantity"]) for o in first.json()["orders"]] == [
            ("AAPL", "BUY", "100"),
            ("MSFT", "SELL", "2"),
        ]
        await world.run(2)
        assert planned(world)["AAPL-ENTRY"] == (Side.BUY, "100", Purpose.ENTRY)
        again = await http.post(TARGETS, json=wanted)
        assert again.json()["orders"] == first.json()["orders"]
        await world.run(2)
        assert len(world.placed()) == 2


async def test_a_dry_run_shows_the_orders_and_places_none(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        response = await http.post(TARGETS, params={"dry_run": "true"}, json=body(world, ("AAPL", 100)))
        assert (response.status_code, response.json()["dry_run"]) == (200, True)
        assert response.json()["orders"][0]["quantity"] == "100"
        await world.run(2)
        assert world.records() == []


@pytest.mark.parametrize(("change", "status", "codes"), [
    ({"mode": "TRAINING", "targets": []}, 409, ["REFUSED", "REFUSED"]),
    ({"targets": [{"symbol": "AAPL", "quantity": 1}, {"symbol": "AAPL", "weight": 3}]}, 409, ["REFUSED", "REFUSED"]),
    ({"as_of": 5, "mode": "PAPER"}, 400, ["INVALID_REQUEST", "INVALID_REQUEST"]),
])  # fmt: skip
async def test_what_is_refused_is_answered_with_every_reason(
    tmp_path: Path, change: dict[str, object], status: int, codes: list[str]
) -> None:
    async with http_world(tmp_path) as (world, http):
        response = await http.post(TARGETS, json=body(world, ("AAPL", 1)) | change)
        assert response.status_code == status
        assert [each["code"] for each in response.json()["reasons"]] == codes
        assert world.records() == []


async def test_who_only_looks_may_not_plan(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, _):
        _, viewer = await make_token(world, Role.VIEWER)
        async with client_of(api_of(world), token=viewer) as http:
            assert (await http.post(TARGETS, json=body(world, ("AAPL", 1)))).status_code == 403
