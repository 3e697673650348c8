"""Fill quality as people see it: in an order's story, by strategy and broker over HTTP and with `execctl quality`, and as figures."""

from __future__ import annotations

import argparse
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from execution_service.api.measures import OTHER_STRATEGIES
from execution_service.control.fill_quality import PAGE, QualityFilter, QualityReader, since_of
from execution_service.runtime.threads import InPlace
from scripts import quality
from tests.builders import NOW
from tests.fakes import BY_HAND, RESTING, AllAt, World
from tests.service.http_calls import http_world
from tests.service.test_figures import scrape, value

PATH = "/api/execution/quality"
WHERE = {"strategy": "momentum", "broker": "MOCK"}


async def traded(world: World, name: str, filled_at: str, *, seen: str | None = "10", **order: Any) -> None:
    """A purchase of 100 at the market whose author saw 10."""
    world.send(name, price=seen, **order)
    await world.run(2)
    world.fill(name, None, filled_at)
    await world.run(5)


async def test_the_story_of_an_order_tells_how_well_it_was_filled(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await traded(world, "a", "10.01")
        (told,) = (await http.get("/api/execution/orders/a")).json()["orders"]
        shown = told["quality"]
        assert (shown["arrival_source"], float(shown["arrival_price"])) == ("MESSAGE", 10)
        assert (shown["slippage_bps"], float(shown["cost"]), shown["benchmark"]) == ("10.0000", 1, "ARRIVAL")
        assert 1 < float(shown["seconds_to_last_fill"]) < 4
        assert shown["missing"] == {"share_of_volume": "NOT_TOLD"}


async def test_an_execution_of_ours_is_the_price_at_arrival_of_the_next_order(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await traded(world, "a", "10")
        await traded(world, "b", "10.02", seen=None)
        (told,) = (await http.get("/api/execution/orders/b")).json()["orders"]
        assert (told["quality"]["arrival_source"], told["quality"]["slippage_bps"]) == ("EXECUTION", "20.0000")


async def test_figures_are_by_strategy_and_broker_and_can_be_narrowed(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await traded(world, "a", "10.01")
        await traded(world, "b", "10.03", strategy_name="other")
        await traded(world, "c", "10.02", seen=None, symbol="MSFT", strategy_name="other")
        world.send("refused", quantity=-1)
        await world.run(2)
        body = (await http.get(PATH)).json()
        assert (body["orders"], body["is_complete"]) == (3, True)
        mine, other = sorted(body["groups"], key=lambda group: group["strategy"] == "other")
        assert (mine["broker"], mine["currency"], mine["sent"], mine["filled"]) == ("MOCK", "USD", 1, 1)
        assert (mine["median_bps"], mine["mean_bps"], mine["p95_bps"]) == ("10.0000",) * 3
        assert (other["filled"], other["measured"], other["unmeasured"]) == (2, 1, {"NO_PRICE": 1})
        for query, orders in (
            ("strategy=other", 2),
            ("account=nobody", 0),
            ("broker=mock", 3),
            ("broker=ibkr", 0),
            ("since=1s", 0),
            ("limit=1", 1),
        ):
            body = (await http.get(f"{PATH}?{query}")).json()
            assert (body["orders"], body["is_complete"]) == (orders, query != "limit=1"), query


@pytest.mark.parametrize(
    "query", ["since=yesterday", "since=2026-01-01T00:00:00", "limit=0", "limit=5001", "stratgy=a"]
)
async def test_what_cannot_be_read_is_refused(tmp_path: Path, query: str) -> None:
    async with http_world(tmp_path) as (_, http):
        assert (await http.get(f"{PATH}?{query}")).status_code == 400


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (None, NOW - timedelta(days=7)),
        ("90m", NOW - timedelta(minutes=90)),
        ("2025-03-01", datetime(2025, 3, 1, tzinfo=UTC)),
        ("2025-03-01T12:00:00+02:00", datetime(2025, 3, 1, 10, tzinfo=UTC)),
    ],
)
def test_since_is_a_date_a_time_or_how_long_ago(text: str | None, moment: datetime) -> None:
    assert since_of(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "7", "-7d", "999999d", "0001-01-01T00:00:00+23:00", "2025-13-01"])
def test_since_is_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        since_of(text, NOW)


async def test_more_orders_than_a_page_are_all_counted_once(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, _):
        for number in range(20):
            world.send(f"sig-{number}", symbol=f"S{number}")
        await world.run(10)
        reading = QualityReader(world.store_beside(), _AllAtMock(), InPlace())
        chosen = QualityFilter(since=NOW - timedelta(days=3660))
        with pytest.MonkeyPatch.context() as patch:
            assert PAGE > 20
            whole = await reading.read(chosen)
            patch.setattr("execution_service.control.fill_quality.PAGE", 7)
            assert (await reading.read(chosen)).orders == whole.orders
            some = await reading.read(chosen, most=9)
        assert (len(whole.orders), whole.is_complete) == (20, True)
        assert (some.orders, some.is_complete) == (whole.orders[:9], False)


class _AllAtMock:
    def broker_of(self, account_id: str) -> str:
        return "MOCK"


class Context:
    """As execctl makes it, on the world's store."""

    def __init__(self, world: World, *, wants_json: bool = False, **options: Any) -> None:
        self.store = world.store_beside()
        self.settings: Any = None
        self.console = Console(file=io.StringIO(), width=250)
        # The world's time is that of the tests, and the command goes by the clock of the machine.
        given: dict[str, Any] = {"account": None, "strategy": None, "broker": None, "limit": None}
        self.options = argparse.Namespace(**given | {"since": NOW - timedelta(days=1)} | options)
        self.wants_json = wants_json

    @property
    def text(self) -> str:
        file = self.console.file
        assert isinstance(file, io.StringIO)
        return file.getvalue()


async def test_execctl_shows_a_table_and_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, _):
        await traded(world, "a", "10.01")
        context = Context(world)
        assert await quality.show(context, AllAt("MOCK")) == 0
        assert "1 order sent since" in context.text
        for word in ("momentum", "MOCK", "+10.00", "$1.00"):
            assert word in context.text, context.text
        assert await quality.show(Context(world, wants_json=True), AllAt(None)) == 0
        (group,) = json.loads(capsys.readouterr().out)["groups"]
        assert (group["broker"], group["median_bps"]) == ("NONE", "10.0000")
        limited = Context(world, limit=1)
        await traded(world, "b", "10.01")
        await quality.show(limited, AllAt("MOCK"))
        assert "There are older ones" in limited.text


async def test_each_order_that_ends_is_observed_once_in_the_histograms(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await traded(world, "a", "10.01")
        await traded(world, "b", "9.90")
        world.send("resting", price="10")
        await world.run(2)
        text = await scrape(http)
        count = "execution_slippage_basis_points_count"
        assert value(text, count, **WHERE) == 2
        assert value(text, "execution_slippage_basis_points_bucket", le="0.0", **WHERE) == 1
        assert value(text, "execution_slippage_basis_points_bucket", le="10.0", **WHERE) == 2
        for fill in ("first", "last"):
            assert value(text, "execution_fill_seconds_count", fill=fill, **WHERE) == 2


async def test_strategies_that_somebody_makes_up_are_no_series_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("execution_service.api.measures.STRATEGIES_NAMED", 2)
    async with http_world(tmp_path) as (world, http):
        for number in range(5):
            world.send(f"sig-{number}", symbol=f"S{number}", strategy_name=f"made up {number}")
        await world.run(5)
        text = await scrape(http)
        assert value(text, "execution_slippage_basis_points_count", strategy=OTHER_STRATEGIES, broker="MOCK") == 3
        assert text.count("execution_slippage_basis_points_count{") == 3


async def test_a_strategy_of_any_printable_name_can_be_scraped(tmp_path: Path) -> None:
    async with http_world(tmp_path) as (world, http):
        world.send("odd", strategy_name='odd "\\{},é')
        await world.run(5)
        text = await scrape(http)
        assert value(text, "execution_slippage_basis_points_count", strategy='odd "\\{},é', broker="MOCK") == 1
