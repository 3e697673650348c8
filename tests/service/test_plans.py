"""Target positions from message to result: planned once, worked in the right order, told once, whatever dies on the way."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from brokers.base import AssetClass, Balance, Capabilities, Instrument, Side
from brokers.paper.model import Action, Fault, Market, Operation
from execution_service.control.requests import Kind
from execution_service.control.results import Done, Refused, Result
from execution_service.core.messages.targets import parse_targets
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.core.planning.records import PlanRecord
from execution_service.core.planning.rules import PlanRule, PlanRules
from execution_service.core.planning.targets import OnPartial, TargetPositions, WhenShort
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey
from execution_service.core.positions.position import Position
from execution_service.core.risk.limits import Scope
from execution_service.planning.holdings import Holdings, NotNow
from execution_service.planning.stances import StancesInForce
from execution_service.storage.ports.commands import Command
from tests.fakes import ACCOUNT, BY_HAND, DATABASE, DOWN, ONLY_A_TAG, RESTING, Moment, World, world_of
from tests.service.audit import audit


def body(world: World, *wanted: tuple[str, Any], decision: str = "d-1", **more: Any) -> dict[str, Any]:
    return {
        "decision_id": decision,
        "account_id": ACCOUNT,
        "strategy_id": "momentum",
        "as_of": world.clock.now().isoformat(),
        "mode": "PRODUCTION",
        "targets": [{"symbol": symbol, "quantity": quantity} for symbol, quantity in wanted],
    } | more


def publish(world: World, message: dict[str, Any]) -> None:
    world.targets.publish(json.dumps(message).encode(), world.clock.now())


async def give(
    world: World, message: dict[str, Any], *, is_dry: bool = False, command_id: str = "c-1"
) -> Result | None:
    now = world.clock.now()
    asked = {"targets": json.dumps(message), "dry_run": is_dry}
    command = Command(command_id=command_id, kind=Kind.PLAN, body=asked, published_at=now, received_at=now)
    return await world.service.commands.give(command)


async def hold(world: World, symbol: str, quantity: int, side: str = "BUY", strategy: str = "momentum") -> None:
    world.send(f"hold-{symbol}", symbol=symbol, quantity=quantity, side=side, strategy_name=strategy)
    await world.run(1)
    world.fill(f"hold-{symbol}")
    await world.run(2)


def planned(world: World) -> dict[str, tuple[Side, str, Purpose]]:
    """By symbol and purpose, the orders of plans."""
    return {
        f"{o.symbol}-{o.identity.purpose.value}": (o.accepted_request.side, str(o.quantity), o.identity.purpose)
        for o in world.records()
        if o.signal_id.startswith("plan_")
    }


def signal_of(world: World, symbol: str, purpose: Purpose = Purpose.ENTRY) -> str:
    found = [
        o.signal_id
        for o in world.records()
        if o.signal_id.startswith("plan_") and o.symbol == symbol and o.identity.purpose is purpose
    ]
    return found[-1]


def results(world: World) -> list[dict[str, Any]]:
    return [told for told, _, _ in world.plan_results.messages]


async def test_targets_are_reached_and_the_result_is_told_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=Market(fill_delay_seconds=0.1)) as world:
        publish(world, body(world, ("AAPL", 100), ("MSFT", -30)))
        await world.run(10)
        assert planned(world) == {
            "AAPL-ENTRY": (Side.BUY, "100", Purpose.ENTRY),
            "MSFT-ENTRY": (Side.SELL, "30", Purpose.ENTRY),
        }
        (told,) = results(world)
        assert (told["state"], told["residuals"], told["decision_id"]) == ("COMPLETED", {}, "d-1")
        assert len(told["trade_ids"]) == 2
        assert world.targets.unacknowledged == []
        audit(world)


async def test_reductions_go_first_and_increases_wait_for_them(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        publish(world, body(world, ("AAPL", 0), ("MSFT", 50)))
        await world.run(3)
        assert planned(world) == {"AAPL-EXIT": (Side.SELL, "100", Purpose.EXIT)}
        world.fill(signal_of(world, "AAPL", Purpose.EXIT), purpose=Purpose.EXIT)
        await world.run(3)
        assert planned(world)["MSFT-ENTRY"] == (Side.BUY, "50", Purpose.ENTRY)
        world.fill(signal_of(world, "MSFT"))
        await world.run(3)
        assert [told["state"] for told in results(world)] == ["COMPLETED"]


async def test_crossing_zero_opens_only_when_the_close_has_filled_whole(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        publish(world, body(world, ("AAPL", -20)))
        await world.run(3)
        assert list(planned(world)) == ["AAPL-EXIT"]
        world.fill(signal_of(world, "AAPL", Purpose.EXIT), purpose=Purpose.EXIT)
        await world.run(3)
        assert planned(world)["AAPL-ENTRY"] == (Side.SELL, "20", Purpose.ENTRY)


async def test_a_plan_that_ends_short_tells_what_is_missing_and_people_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        publish(world, body(world, ("AAPL", 0), ("MSFT", 0)))
        await world.run(3)
        world.cancel(signal_id=signal_of(world, "AAPL", Purpose.EXIT))
        await world.run(5)
        (told,) = results(world)
        assert (told["state"], told["residuals"]) == ("FAILED", {"AAPL|STOCK": "-100"})
        assert len(world.notifier.titled("Plan Ended Short")) == 1


async def test_a_repeated_message_is_the_stored_plan_and_places_nothing_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        message = body(world, ("AAPL", 100))
        publish(world, message)
        await world.run(3)
        world.fill(signal_of(world, "AAPL"), quantity=40)
        await world.run(2)
        publish(world, message)
        await world.run(3)
        assert len(world.placed()) == 1
        told = await give(world, message)
        assert isinstance(told, Done)
        assert json.loads(told.words)["orders"][0]["quantity"] == "100"


async def test_the_same_decision_with_another_content_is_refused_and_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        message = body(world, ("AAPL", 100))
        publish(world, message)
        await world.run(3)
        publish(world, message | {"targets": [{"symbol": "AAPL", "quantity": 200}]})
        await world.run(3)
        assert len(world.placed()) == 1
        (notice,) = world.notifier.titled("Plan Refused")
        assert "PLAN_CONFLICT" in notice


async def test_a_newer_plan_supersedes_and_counts_what_filled_meanwhile(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        publish(world, body(world, ("AAPL", 100)))
        await world.run(3)
        first = signal_of(world, "AAPL")
        world.fill(first, quantity=40)
        await world.run(2)
        publish(world, body(world, ("AAPL", 90), decision="d-2"))
        await world.run(8)
        assert world.record(first).status is Status.CANCELLED
        assert planned(world)["AAPL-ENTRY"] == (Side.BUY, "50", Purpose.ENTRY)
        world.fill(signal_of(world, "AAPL"))
        await world.run(3)
        assert [(told["decision_id"], told["state"]) for told in results(world)] == [
            ("d-1", "SUPERSEDED"),
            ("d-2", "COMPLETED"),
        ]


async def test_an_older_plan_that_comes_later_is_refused(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        old = body(world, ("AAPL", 7), decision="old", as_of=(world.clock.now() - timedelta(hours=1)).isoformat())
        publish(world, body(world, ("AAPL", 100)))
        await world.run(3)
        told = await give(world, old)
        assert isinstance(told, Refused)
        assert "STALE_PLAN" in told.words
        assert len(world.placed()) == 1


@pytest.mark.parametrize(("change", "words"), [
    ({"mode": "TRAINING"}, "WRONG_MODE"),
    ({"account_id": "nobody"}, "UNKNOWN_ACCOUNT"),
    ({"targets": []}, "EMPTY"),
    ({"targets": [], "complete": True}, "FLATTEN_NOT_ALLOWED"),
    ({"targets": [{"symbol": "AAPL", "weight": 2}]}, "WEIGHTS_OVER_LIMIT"),
    ({"targets": [{"symbol": "AAPL", "quantity": 1}, {"symbol": "AAPL", "quantity": 2}]}, "DUPLICATE_INSTRUMENT"),
    ({"valid_until": "2000-01-01T00:00:00Z"}, "NO_LONGER_VALID"),
    ({"expected_positions": [{"symbol": "AAPL", "quantity": 3}]}, "STALE_POSITIONS"),
    ({"targets": [{"symbol": "AAPL", "quantity": "NaN"}]}, "must be a number"),
    ({"targets": [{"symbol": "AAPL"}]}, "either quantity or weight"),
    ({"targets": [{"symbol": "AAPL", "quantity": 1, "limit": 2}]}, "limit is not known"),
    ({"as_of": "yesterday"}, "as_of must be a time"),
    ({"complet": True}, "complet is not known"),
    ({"decision_id": None}, "decision_id is missing"),
])  # fmt: skip
async def test_a_bad_list_is_refused_with_its_reason_and_nothing_is_placed(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    async with world_of(tmp_path) as world:
        told = await give(world, body(world, ("AAPL", 1)) | change)
        await world.run(3)
        assert isinstance(told, Refused), told
        assert words in told.words
        assert world.records() == []


async def test_a_dry_run_shows_the_orders_and_keeps_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        told = await give(world, body(world, ("AAPL", 60), ("MSFT", 5)), is_dry=True)
        assert isinstance(told, Done)
        shown = [(o["symbol"], o["side"], o["quantity"]) for o in json.loads(told.words)["orders"]]
        assert shown == [("AAPL", "SELL", "40"), ("MSFT", "BUY", "5")]
        await world.run(3)
        assert planned(world) == {}
        assert await world.store_beside().open_plans() == []


async def test_what_a_complete_list_does_not_mention_is_closed(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        await hold(world, "NVDA", 10)
        publish(world, body(world, ("AAPL", 100), complete=True))
        await world.run(3)
        assert planned(world) == {"NVDA-EXIT": (Side.SELL, "10", Purpose.EXIT)}


async def test_other_strategies_holdings_are_left_alone(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        publish(world, body(world, ("AAPL", 0), strategy_id="other"))
        await world.run(3)
        assert planned(world) == {}
        assert [told["state"] for told in results(world)] == ["COMPLETED"]


async def test_a_result_that_cannot_be_published_is_told_later(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=Market(fill_delay_seconds=0.1)) as world:
        world.plan_results.is_away = True
        publish(world, body(world, ("AAPL", 100)))
        await world.run(5)
        assert results(world) == []
        world.plan_results.is_away = False
        await world.run(3)
        assert [told["state"] for told in results(world)] == ["COMPLETED"]


async def test_an_instrument_in_doubt_blocks_itself_only(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("working", symbol="AAPL", side="SELL", quantity=10)
        await world.run(2)
        publish(world, body(world, ("AAPL", 10), ("MSFT", 5)))
        await world.run(3)
        assert planned(world) == {"MSFT-ENTRY": (Side.BUY, "5", Purpose.ENTRY)}


async def test_the_name_of_the_specification_plans_too(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        message = body(world, ("AAPL", 100))
        del message["mode"]
        told = await world.service.apply_execution_plan(message, "PRODUCTION")
        await world.run(2)
        assert planned(world) == {"AAPL-ENTRY": (Side.BUY, "100", Purpose.ENTRY)}
        assert told == await world.service.apply_execution_plan(message, "PRODUCTION")
        with pytest.raises(ValueError, match="WRONG_MODE"):
            await world.service.apply_execution_plan(message | {"decision_id": "d-2"}, "TRAINING")


@pytest.mark.parametrize("dies_after", [0.0, 0.2, 0.5, 0.8, 1.2, 2.0, 3.1])
async def test_a_death_at_any_time_loses_nothing_and_places_nothing_twice(tmp_path: Path, dies_after: float) -> None:
    async with world_of(tmp_path, market=Market(fill_delay_seconds=0.3)) as world:
        publish(world, body(world, ("AAPL", 10)))
        await world.run(6)
        publish(world, body(world, ("AAPL", -5), ("MSFT", 7), decision="d-2"))
        await world.run(dies_after)
        await world.restart()
        await world.run(20)
        held = {
            row.instrument.symbol: row.position.quantity
            for row in await world.store_beside().open_ledgers(ACCOUNT) or []
        }
        assert held == {"AAPL": -5, "MSFT": 7}
        assert len(world.placed()) == 4
        told = results(world)
        assert {each["decision_id"]: each["state"] for each in told} == {"d-1": "COMPLETED", "d-2": "COMPLETED"}


async def hand_in(world: World, message: dict[str, Any], **changes: Any) -> PlanRecord:
    """Publishes a list; the plan's record once its first orders are released, with `changes`, as if the process had died there."""
    publish(world, message)
    await world.run(2)
    (record,) = await world.store_beside().open_plans()
    await world.kill()
    return record


# --- a newer plan ---------------------------------------------------------------------------------------------------


async def test_what_was_released_and_not_sent_before_a_newer_plan_came_is_never_sent(tmp_path: Path) -> None:
    """The process died between the two; the next life must not send it only to cancel it."""
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        record = await hand_in(world, body(world, ("AAPL", 100), ("MSFT", 5)))
        await world.start()
        (record,) = await world.store_beside().open_plans()
        await world.kill()
        again = tuple(
            replace(r, signal_id=f"{record.plan_id}:{n:03d}.7", child=7) for n, r in enumerate(record.releases)
        )
        died = replace(
            record,
            releases=(*record.releases, *again),
            version=record.version + 1,
            superseded_by="plan_newer",
        )
        assert await world.store_beside().put_plan(died)
        await world.start()
        await world.run(5)
        assert len(world.placed()) == 2
        assert {o.signal_id for o in world.records()} == {r.signal_id for r in record.releases}
        assert {o.status for o in world.records()} == {Status.CANCELLED}
        assert [told["state"] for told in results(world)] == ["SUPERSEDED"]


async def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        publish(world, body(world, ("AAPL", 100)))
        await world.run(3)
        old = {
            "as_of": (world.clock.now() - timedelta(hours=1)).isoformat(),
            "targets": [{"symbol": "AAPL", "weight": 2}, {"symbol": "AAPL", "quantity": 2}],
            "expected_positions": [{"symbol": "MSFT", "quantity": 3}],
        }
        told = await give(world, body(world, decision="d-2", **old))
        assert isinstance(told, Refused)
        for code in ("STALE_PLAN", "WEIGHTS_OVER_LIMIT", "DUPLICATE_INSTRUMENT", "STALE_POSITIONS"):
            assert code in told.words
        other = await give(world, body(world, decision="d-3", mode="TRAINING", **old), command_id="c-2")
        assert isinstance(other, Refused)
        assert "WRONG_MODE" in other.words
        assert "DUPLICATE_INSTRUMENT" in other.words
        assert len(world.placed()) == 1


async def test_a_kind_of_instrument_that_the_broker_does_not_trade_refuses_the_list(tmp_path: Path) -> None:
    shares_only = Capabilities(asset_classes=frozenset({AssetClass.STOCK}))
    async with world_of(tmp_path, capabilities=shares_only) as world:
        future = {"symbol": "ES", "instrument_type": "FUTURE", "expiry": "202612", "exchange": "CME", "quantity": 1}
        told = await give(world, body(world) | {"targets": [{"symbol": "AAPL", "quantity": 1}, future]})
        assert isinstance(told, Refused)
        assert "UNKNOWN_INSTRUMENT" in told.words


# --- odd lists ------------------------------------------------------------------------------------------------------


async def test_a_list_that_waits_for_what_cannot_be_read_is_refused_when_its_time_is_over(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await world.run(2)
        async with unreadable(world, STANCES):
            await world.run(2)
            until = (world.clock.now() + timedelta(seconds=10)).isoformat()
            publish(world, body(world, ("AAPL", 100), valid_until=until))
            await world.run(5)
            assert world.notifier.titled("Plan Refused") == []
            await world.run(10)
            (notice,) = world.notifier.titled("Plan Refused")
            assert "NO_LONGER_VALID" in notice
        await world.run(5)
        assert world.records() == []


async def test_one_instrument_in_two_spellings_is_refused_and_nothing_is_placed(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        twice = [{"symbol": "AAPL", "quantity": 10}, {"symbol": "aapl", "exchange": "NASDAQ", "quantity": 10}]
        told = await give(world, body(world, targets=twice))
        assert isinstance(told, Refused)
        assert "DUPLICATE_INSTRUMENT" in told.words
        assert world.records() == []


async def test_a_holding_that_two_targets_may_mean_is_traded_for_neither(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "VOD", 100)
        two = [{"symbol": "VOD", "exchange": name, "quantity": 30} for name in ("LSE", "NASDAQ")]
        publish(world, body(world, targets=[*two, {"symbol": "MSFT", "quantity": 5}], on_partial="RETRY 1"))
        await world.run(3)
        world.fill(signal_of(world, "MSFT"))
        await world.run(20)
        assert list(planned(world)) == ["MSFT-ENTRY"]
        (told,) = results(world)
        assert [(leg["symbol"], leg["state"]) for leg in told["legs"]] == [
            ("MSFT", "DONE"),
            ("VOD", "BLOCKED"),
            ("VOD", "BLOCKED"),
        ]


async def test_a_list_from_the_future_leaves_the_way_free_for_those_of_today(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        publish(world, body(world, ("AAPL", 9), as_of="2999-01-01T00:00:00Z"))
        await world.run(2)
        publish(world, body(world, ("AAPL", 5), decision="d-2"))
        await world.run(3)
        assert planned(world) == {"AAPL-ENTRY": (Side.BUY, "5", Purpose.ENTRY)}
        (notice,) = world.notifier.titled("Plan Refused")
        assert "FUTURE_PLAN" in notice


@pytest.mark.parametrize("waits", [0.0, 0.25, 0.5, 0.75])
async def test_a_newer_list_right_behind_another_is_the_one_that_is_reached(tmp_path: Path, waits: float) -> None:
    """Between the store of the older plan and the release of its orders, or just behind it."""
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        publish(world, body(world, ("AAPL", 100)))
        await world.run(waits)
        world.clock.move(0.002)
        publish(world, body(world, ("AAPL", 60), decision="d-2"))
        await world.run(10)
        working = [o for o in world.records() if not o.status.is_final]
        assert [str(o.quantity) for o in working] == ["60"]
        world.fill(working[0].signal_id)
        await world.run(3)
        assert [(told["decision_id"], told["state"]) for told in results(world)] == [
            ("d-1", "SUPERSEDED"),
            ("d-2", "COMPLETED"),
        ]
        audit(world)


# --- several currencies ---------------------------------------------------------------------------------------------

IN_EUROS = Capabilities(has_base_currency=True, concurrent_calls=16, find_window_seconds=0.5)
TWO_CURRENCIES = (
    Balance(
        currency="EUR", cash=Decimal(5000), equity=Decimal(5000), rate=Decimal(1), is_base=True,
        account_equity=Decimal(10_000),
    ),
    Balance(currency="USD", cash=Decimal(6250), equity=Decimal(6250), rate=Decimal("0.8")),
)  # fmt: skip


async def test_weights_are_parts_of_what_the_whole_account_is_worth_in_its_own_currency(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=IN_EUROS) as world:
        world.broker_faults.balances = TWO_CURRENCIES
        for symbol in ("AAPL", "SAP", "SONY"):
            world.quote(symbol, bid="99", ask="101", last="100")
        await world.run(1)
        shares = [
            {"symbol": "AAPL", "weight": "0.2"},  # names no currency: the broker's own, dollars
            {"symbol": "SAP", "currency": "EUR", "weight": "0.2"},
            {"symbol": "SONY", "currency": "JPY", "weight": "0.2"},  # nobody tells what a yen is worth
        ]
        told = await give(world, body(world, targets=shares), is_dry=True)
        assert isinstance(told, Done)
        shown = json.loads(told.words)
        # 20 % of 10,000 euros less the buffer: 1,995, at 80 and at 100 euros each.
        assert {order["symbol"]: order["quantity"] for order in shown["orders"]} == {"AAPL": "24", "SAP": "19"}
        (yen,) = (leg for leg in shown["legs"] if leg["symbol"] == "SONY")
        assert (yen["state"], yen["reason"]) == ("BLOCKED", "NO_PRICE")
        assert "JPY" in yen["note"]


async def test_of_several_currencies_without_a_base_none_is_the_accounts_equity(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.broker_faults.balances = [replace(each, is_base=False, account_equity=None) for each in TWO_CURRENCIES]
        told = await give(world, body(world, targets=[{"symbol": "AAPL", "weight": "0.2"}]))
        assert isinstance(told, Refused)
        assert "NO_EQUITY" in told.words


THREE_CURRENCIES = (*TWO_CURRENCIES, Balance(currency="JPY", cash=Decimal(0), rate=Decimal("0.006")))


def share(symbol: str, currency: str, quantity: int) -> dict[str, Any]:
    return {"symbol": symbol, "currency": currency, "quantity": quantity}


async def test_what_an_increase_costs_is_carried_into_the_accounts_currency_also_of_a_list_of_quantities(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=IN_EUROS) as world:
        world.broker_faults.balances = THREE_CURRENCIES
        world.quote("SONY", bid="2999", ask="3001", last="3000")
        await world.run(1)
        publish(world, body(world, targets=[share("SONY", "JPY", 100)]))
        await world.run(3)
        # 300,000 yen are 1,800 of the 5,000 euros.
        assert planned(world) == {"SONY-ENTRY": (Side.BUY, "100", Purpose.ENTRY)}
        world.fill(signal_of(world, "SONY"))
        await world.run(3)
        assert Decimal(results(world)[0]["exposure"]["gross"]) == 1800


async def test_where_nobody_tells_what_a_currency_is_worth_increases_are_not_sent_and_reductions_are(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=IN_EUROS) as world:
        world.quote("SONY", bid="2999", ask="3001", last="3000")
        world.quote("TOTO", bid="2999", ask="3001", last="3000")
        world.send("hold-SONY", symbol="SONY", quantity=100, currency="JPY")
        await world.run(1)
        world.fill("hold-SONY")
        world.broker_faults.balances = TWO_CURRENCIES
        await world.run(2)
        publish(world, body(world, targets=[share("SONY", "JPY", 40), share("TOTO", "JPY", 5)]))
        await world.run(3)
        assert planned(world) == {"SONY-EXIT": (Side.SELL, "60", Purpose.EXIT)}
        world.fill(signal_of(world, "SONY", Purpose.EXIT), purpose=Purpose.EXIT)
        await world.run(3)
        (told,) = results(world)
        assert {leg["symbol"]: (leg["state"], leg["reason"]) for leg in told["legs"]} == {
            "SONY": ("DONE", None),
            "TOTO": ("SKIPPED", "NO_PRICE"),
        }
        (notice,) = world.notifier.titled("Plan Ended Short")
        assert "what its currency is worth in the account's is not known" in notice


async def test_what_another_order_may_spend_is_carried_into_the_accounts_currency(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=IN_EUROS) as world:
        world.broker_faults.balances = TWO_CURRENCIES
        world.quote("SAP", bid="99", ask="101", last="100")
        yen = {"order_type": "LIMIT", "limit_price": 3000, "price": 3000, "currency": "JPY"}
        world.send("other", symbol="SONY", quantity=100, **yen)
        await world.run(2)
        publish(world, body(world, targets=[share("SAP", "EUR", 40)]))
        await world.run(65)
        assert planned(world) == {}
        (notice,) = world.notifier.titled("Plan Waits")
        assert "what an open order in JPY may still take is not known" in notice
        world.broker_faults.balances = THREE_CURRENCIES
        await world.run(3)
        # 5,000 euros less 1,800, at 100.50 each.
        assert planned(world)["SAP-ENTRY"][1] == "31"


async def test_an_increase_in_a_named_currency_waits_until_it_is_known_what_the_accounts_is(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=IN_EUROS) as world:
        world.broker_faults.balances = THREE_CURRENCIES
        for symbol in ("SONY", "SAP"):
            world.quote(symbol, bid="99", ask="101", last="100")
        await world.run(1)
        world.broker_faults.errors["balances"] = [DOWN] * 1000
        asked = body(world, targets=[share("SAP", "EUR", 10)])
        dry = await give(world, asked, is_dry=True)
        assert dry == Refused("the broker does not tell what its account's money is worth in other currencies")
        closing = await give(world, body(world, targets=[share("SAP", "EUR", 0)]), is_dry=True, command_id="c-2")
        assert isinstance(closing, Done)
        world.broker_faults.errors["balances"].clear()
        assert isinstance(await give(world, asked, is_dry=True, command_id="c-3"), Done)
        world.broker_faults.errors["balances"] = [DOWN] * 1000
        # In which currency an account is does not change; what others are worth does.
        assert isinstance(await give(world, asked, is_dry=True, command_id="c-4"), Done)
        foreign = body(world, targets=[share("SONY", "JPY", 10)])
        assert isinstance(await give(world, foreign, is_dry=True, command_id="c-5"), Refused)


# --- cash -----------------------------------------------------------------------------------------------------------


async def test_increases_are_cut_to_the_confirmed_cash_and_that_is_said(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        for symbol in ("AAPL", "MSFT"):
            world.quote(symbol, bid="9999", ask="10001", last="10000")
        await world.run(1)
        publish(world, body(world, ("AAPL", 150), ("MSFT", 50)))
        await world.run(3)
        # 1,000,000 pays for 99 at 10,050 each, the guard included: half of all that is wanted, in whole shares.
        ordered = planned(world)
        assert (ordered["AAPL-ENTRY"][1], ordered["MSFT-ENTRY"][1]) == ("74", "25")
        for symbol in ("AAPL", "MSFT"):
            world.fill(signal_of(world, symbol))
        await world.run(3)
        (told,) = results(world)
        assert told["state"] == "PARTIAL"
        assert {leg["reason"] for leg in told["legs"]} == {"INSUFFICIENT_CASH"}
        assert told["residuals"] == {"AAPL|STOCK": "76", "MSFT|STOCK": "25"}
        assert told["exposure"]["gross"] == "990000"


async def test_what_another_order_may_spend_is_no_cash_for_a_plan(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.quote("MSFT", bid="9999", ask="10001", last="10000")
        world.send("other", symbol="AAPL", quantity=50, order_type="LIMIT", limit_price=10_000, price=10_000)
        await world.run(2)
        publish(world, body(world, ("MSFT", 90)))
        await world.run(3)
        assert planned(world)["MSFT-ENTRY"][1] == "49"


async def test_increases_wait_while_the_broker_does_not_tell_the_cash(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.quote("MSFT", bid="99", ask="101", last="100")
        await world.run(1)
        world.broker_faults.errors["balances"] = [DOWN] * 1000
        publish(world, body(world, ("MSFT", 90)))
        await world.run(90)
        assert planned(world) == {}
        assert len(world.notifier.titled("Plan Waits")) == 1
        world.broker_faults.errors["balances"].clear()
        await world.run(3)
        assert planned(world)["MSFT-ENTRY"][1] == "90"


async def test_before_the_first_attempt_to_connect_nobody_is_asked_for_cash(tmp_path: Path) -> None:
    """There is no broker to be asked, and a plan that waits is no failure."""

    async with world_of(tmp_path) as world:
        holdings = Holdings(
            store=world.store_beside(),
            live_orders=world.service.live_orders,
            accounts=_NotConnected(),  # type: ignore[arg-type]
            stances=StancesInForce(store=world.store_beside(), switches=world.service.kill_switches, clock=world.clock),
            clock=world.clock,
        )
        assert await holdings.cash(ACCOUNT, []) == NotNow("its broker cannot be reached")


class _NotConnected:
    """The trader of every account, right after the start."""

    is_connected = makes_up_prices = is_on_bars = False

    def trader_of(self, account_id: str | None) -> _NotConnected:
        return self

    async def read_balances(self) -> list[Balance]:
        raise AssertionError("there is no broker yet")


# --- what cannot be read for a moment ------------------------------------------------------------------------------

STANCES, SWITCHES = "execution_stances.find", "execution_kill_switches.find"


@asynccontextmanager
async def unreadable(world: World, *reads: str) -> AsyncIterator[None]:
    world.store_faults.breaks |= {read: [AutoReconnect("away")] * 100_000 for read in reads}
    yield
    for read in reads:
        del world.store_faults.breaks[read]


async def test_a_plan_that_comes_while_the_stances_cannot_be_read_waits_for_them(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await world.run(3)
        async with unreadable(world, STANCES):
            await world.run(2)
            publish(world, body(world, ("AAPL", 100)))
            await world.run(5)
            dry = await give(world, body(world, ("AAPL", 100)), is_dry=True)
            assert dry == Refused("the stances cannot be read")
            assert await world.store_beside().open_plans() == []
        await world.run(5)
        assert planned(world) == {"AAPL-ENTRY": (Side.BUY, "100", Purpose.ENTRY)}


async def test_a_leg_whose_time_comes_while_the_stances_cannot_be_read_waits_and_that_is_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        publish(world, body(world, ("AAPL", 0), ("MSFT", 50)))
        await world.run(3)
        async with unreadable(world, STANCES):
            await world.run(2)
            world.fill(signal_of(world, "AAPL", Purpose.EXIT), purpose=Purpose.EXIT)
            await world.run(65)
            assert list(planned(world)) == ["AAPL-EXIT"]
            assert results(world) == []
            (notice,) = world.notifier.titled("Plan Waits")
            assert "the stances cannot be read" in notice
        await world.run(3)
        assert planned(world)["MSFT-ENTRY"] == (Side.BUY, "50", Purpose.ENTRY)


async def test_a_leg_whose_time_comes_while_it_is_not_known_what_is_held_waits_and_that_is_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        publish(world, body(world, ("AAPL", 0), ("MSFT", 50)))
        await world.run(3)
        odd = {"_id": "odd", "account_id": ACCOUNT, "is_open": True}
        world.mongo[DATABASE]["execution_positions"].insert_one(odd)
        world.fill(signal_of(world, "AAPL", Purpose.EXIT), purpose=Purpose.EXIT)
        await world.run(65)
        assert list(planned(world)) == ["AAPL-EXIT"]
        (notice,) = world.notifier.titled("Plan Waits")
        assert "what is held is not known now" in notice
        world.mongo[DATABASE]["execution_positions"].delete_one({"_id": "odd"})
        await world.run(3)
        assert planned(world)["MSFT-ENTRY"] == (Side.BUY, "50", Purpose.ENTRY)


async def test_a_tame_order_does_not_make_way_while_the_stances_cannot_be_read(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        world.quote("AAPL", bid="10", ask="10.02", last="10")
        publish(world, body(world, ("AAPL", 0), aggressiveness="PASSIVE"))
        await world.run(3)
        async with unreadable(world, STANCES):
            await world.run(10)
            (exit_order,) = (o for o in world.records() if o.identity.purpose is Purpose.EXIT)
            assert (exit_order.status, exit_order.cancel_request) == (Status.SUBMITTED, None)


async def test_while_the_kill_switches_cannot_be_read_reductions_go_on_and_increases_wait(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        async with unreadable(world, SWITCHES):
            await world.run(2)
            publish(world, body(world, ("AAPL", 0), ("MSFT", 50)))
            await world.run(3)
            world.fill(signal_of(world, "AAPL", Purpose.EXIT), purpose=Purpose.EXIT)
            await world.run(65)
            assert list(planned(world)) == ["AAPL-EXIT"]
            (notice,) = world.notifier.titled("Plan Waits")
            assert "whether a kill switch stops it is not known" in notice
        await world.run(3)
        assert planned(world)["MSFT-ENTRY"] == (Side.BUY, "50", Purpose.ENTRY)
        world.fill(signal_of(world, "MSFT"))
        await world.run(3)
        assert [told["state"] for told in results(world)] == ["COMPLETED"]


async def test_a_halt_that_cannot_be_read_anew_ends_no_leg(tmp_path: Path) -> None:
    """It may have been armed since."""
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        world.cancel(command="KILL", scope="all", level="halt", by="Ada", reason="look")
        await world.run(2)
        async with unreadable(world, SWITCHES):
            await world.run(2)
            publish(world, body(world, ("AAPL", 0)))
            await world.run(5)
            assert results(world) == []
        await world.run(5)
        assert [leg["reason"] for leg in results(world)[0]["legs"]] == ["HALTED"]


# --- plans that end short -------------------------------------------------------------------------------------------


async def end_short(world: World, symbol: str, filled: int, purpose: Purpose = Purpose.ENTRY) -> None:
    """The working order of a plan in that symbol fills so far and is cancelled."""
    name = signal_of(world, symbol, purpose)
    if filled:
        world.fill(name, quantity=filled, purpose=purpose)
    await world.run(1)
    world.cancel(signal_id=name)
    await world.run(3)


async def test_a_retry_plans_what_is_missing_anew_and_one_result_tells_of_all(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        publish(world, body(world, ("AAPL", 100), ("MSFT", 5), on_partial="RETRY 2"))
        await world.run(3)
        world.fill(signal_of(world, "MSFT"))
        await end_short(world, "AAPL", 40)
        assert results(world) == []
        await world.run(12)
        retried = world.record(signal_of(world, "AAPL"))
        assert (retried.signal_id.endswith(".1:000"), str(retried.quantity)) == (True, "60")
        world.fill(retried.signal_id)
        await world.run(3)
        (told,) = results(world)
        assert (told["state"], told["residuals"], len(told["trade_ids"])) == ("COMPLETED", {}, 3)
        assert [(r["kind"], r["state"]) for r in told["rounds"]] == [("RETRY", "COMPLETED")]
        assert world.notifier.titled("Plan Ended Short") == []
        audit(world)


async def test_retries_end_and_then_people_are_told_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        publish(world, body(world, ("AAPL", 100), on_partial="RETRY 2"))
        await world.run(3)
        for filled in (40, 10, 0):
            await end_short(world, "AAPL", filled)
            await world.run(12)
        await world.run(30)
        assert len(world.placed()) == 3
        (told,) = results(world)
        assert (told["state"], told["residuals"]) == ("PARTIAL", {"AAPL|STOCK": "50"})
        (notice,) = world.notifier.titled("Plan Ended Short")
        assert "Tried again: 2 times" in notice


async def test_a_retry_waits_for_an_equity_that_its_plan_had_known(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        by_weight = [{"symbol": "AAPL", "weight": "0.01"}]
        publish(world, body(world, targets=by_weight, on_partial="RETRY 1"))
        await world.run(3)  # nobody knows a price yet
        world.broker_faults.errors["balances"] = [DOWN] * 1000
        world.quote("AAPL", bid="99", ask="101", last="100")
        await world.run(90)
        assert (results(world), planned(world)) == ([], {})
        (notice,) = world.notifier.titled("Plan Waits")
        assert "the account's equity is not known" in notice
        world.broker_faults.errors["balances"].clear()
        await world.run(3)
        assert planned(world) == {"AAPL-ENTRY": (Side.BUY, "99", Purpose.ENTRY)}


async def test_a_retry_of_a_weight_of_which_the_quantity_is_known_does_not_wait_for_the_equity(tmp_path: Path) -> None:
    cash_is_no_bound = PlanRules({Scope(): PlanRule(bounded_by_cash=False)})
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, plan_rules=cash_is_no_bound) as world:
        world.quote("AAPL", bid="99", ask="101", last="100")
        await world.run(1)
        by_weight = [{"symbol": "AAPL", "weight": "0.01"}]
        publish(world, body(world, targets=by_weight, on_partial="RETRY 2"))
        await world.run(3)
        world.broker_faults.errors["balances"] = [DOWN] * 1000
        await end_short(world, "AAPL", 40)
        await world.run(12)
        retried = world.record(signal_of(world, "AAPL"))
        assert (retried.signal_id.endswith(".1:000"), str(retried.quantity)) == (True, "59")


async def test_a_retry_that_waits_for_the_equity_ends_with_its_plan(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        until = (world.clock.now() + timedelta(seconds=30)).isoformat()
        by_weight = [{"symbol": "AAPL", "weight": "0.01"}]
        publish(world, body(world, targets=by_weight, on_partial="RETRY 1", valid_until=until))
        await world.run(3)
        world.broker_faults.errors["balances"] = [DOWN] * 1000
        await world.run(40)
        assert [told["state"] for told in results(world)] == ["FAILED"]


async def test_the_way_back_is_gone_whole_whatever_the_settings_call_too_small(tmp_path: Path) -> None:
    small = PlanRule(lot=Decimal(10), min_quantity=Decimal(50), min_value=Decimal(500))
    tables = {Scope(symbol="AAPL"): small, Scope(symbol="MSFT"): small}
    rules = PlanRules(tables | {Scope(): PlanRule(band=Decimal("0.0005"), max_turnover=Decimal("0.002"))})
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, plan_rules=rules) as world:
        for symbol in ("AAPL", "MSFT"):
            world.quote(symbol, bid="10", ask="10.02", last="10")
            await hold(world, symbol, 100)
        publish(world, body(world, ("AAPL", 200), ("MSFT", 40), on_partial="UNWIND"))
        await world.run(3)
        await end_short(world, "MSFT", 3, Purpose.EXIT)
        await end_short(world, "AAPL", 7)
        await world.run(2)
        back = {
            o.symbol: (o.accepted_request.side, str(o.quantity), o.identity.purpose)
            for o in world.records()
            if ".1:" in o.signal_id
        }
        assert back == {"AAPL": (Side.SELL, "7", Purpose.EXIT)}
        world.fill(signal_of(world, "AAPL", Purpose.EXIT), purpose=Purpose.EXIT)
        await world.run(3)
        assert str(world.record(signal_of(world, "MSFT")).quantity) == "3"
        world.fill(signal_of(world, "MSFT"))
        await world.run(3)
        (told,) = results(world)
        assert (told["state"], told["unwound"]) == ("FAILED", True)


async def test_the_way_back_trades_what_had_filled_and_is_said(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        publish(world, body(world, ("AAPL", 100), ("MSFT", -50), on_partial="UNWIND"))
        await world.run(3)
        world.fill(signal_of(world, "AAPL"))
        await end_short(world, "MSFT", 20)
        await world.run(2)
        back = {o.symbol: (o.accepted_request.side, str(o.quantity)) for o in world.records() if ".1:" in o.signal_id}
        assert back == {"AAPL": (Side.SELL, "100"), "MSFT": (Side.BUY, "20")}
        for symbol in back:
            world.fill(signal_of(world, symbol, Purpose.EXIT), purpose=Purpose.EXIT)
        await world.run(3)
        (told,) = results(world)
        assert (told["state"], told["unwound"]) == ("FAILED", True)
        assert told["residuals"] == {"AAPL|STOCK": "100", "MSFT|STOCK": "-50"}
        assert "traded back" in world.notifier.titled("Plan Ended Short")[0]
        assert await world.store_beside().open_ledgers(ACCOUNT) == []


async def test_nothing_follows_a_plan_that_is_superseded_while_it_waits_for_its_retry(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        publish(world, body(world, ("AAPL", 100), on_partial="RETRY 2"))
        await world.run(3)
        await end_short(world, "AAPL", 40)
        publish(world, body(world, ("AAPL", 50), decision="d-2"))
        await world.run(20)
        assert [str(o.ticket.quantity) for o in world.placed()] == ["100", "10"]
        assert [told["state"] for told in results(world)] == ["SUPERSEDED"]


async def test_nothing_is_tried_again_after_the_plan_is_no_longer_valid(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        until = (world.clock.now() + timedelta(seconds=12)).isoformat()
        publish(world, body(world, ("AAPL", 100), on_partial="RETRY 9", valid_until=until))
        await world.run(3)
        await end_short(world, "AAPL", 40)
        await world.run(30)
        assert len(world.placed()) == 1
        assert [told["state"] for told in results(world)] == ["PARTIAL"]


async def test_the_accounts_settings_say_what_follows_where_the_plan_does_not(tmp_path: Path) -> None:
    rules = PlanRules({Scope(strategy="momentum"): PlanRule(on_partial=OnPartial(WhenShort.RETRY, 1))})
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, plan_rules=rules) as world:
        publish(world, body(world, ("AAPL", 100)))
        await world.run(3)
        await end_short(world, "AAPL", 40)
        await world.run(12)
        assert len(world.placed()) == 2


@pytest.mark.parametrize("wish", ["RETRY", "RETRY 0", "RETRY 11", "RETRY -1", "retry 2", "ASK", ""])
async def test_what_is_to_follow_is_not_guessed(tmp_path: Path, wish: str) -> None:
    async with world_of(tmp_path) as world:
        told = await give(world, body(world, ("AAPL", 1), on_partial=wish))
        if wish:
            assert isinstance(told, Refused)
            assert "on_partial" in told.words


async def play_short(folder: Path, wish: str, dies_at: tuple[int, Moment] | None) -> list[str]:
    """A plan of two legs of which one is refused for good, with one death in its course; without one, the calls that it takes."""
    faults = [Fault(operation=Operation.PLACE, action=Action.REJECT, symbol="MSFT", times=None)]
    market = Market(fill_delay_seconds=0.3)
    async with world_of(folder, market=market, faults=faults) as world:
        begun = len(world.gate.names)
        world.gate.dies_at = None if dies_at is None else (begun + dies_at[0], dies_at[1])
        publish(world, body(world, ("AAPL", 10), ("MSFT", 5), on_partial=wish))
        for _ in range(60):
            await world.run(1)
            if world.gate.is_dead:
                await world.restart()
            if results(world):
                break
        await world.run(2)
        calls = list(world.gate.names) if dies_at is None else []
        assert {told["state"] for told in results(world)} == {"FAILED" if wish == "UNWIND" else "PARTIAL"}
        assert len({json.dumps(told["residuals"]) for told in results(world)}) == 1
        assert len(world.notifier.titled("Plan Ended Short")) == 1
        filled = [f"{o.ticket.side}{o.filled_quantity}" for o in world.placed() if o.filled_quantity]
        assert filled == (["BUY10", "SELL10"] if wish == "UNWIND" else ["BUY10"])
        assert len([o for o in world.records() if o.symbol == "MSFT"]) == (2 if wish == "RETRY 1" else 1)
        audit(world)
        return calls[begun:]


@pytest.mark.parametrize("wish", ["RETRY 1", "UNWIND"])
async def test_whenever_the_process_dies_what_follows_follows_once(tmp_path: Path, wish: str) -> None:
    """A death before each write of a plan's record, and after it."""

    def place(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        return folder

    calls = await play_short(place("whole"), wish, None)
    writes = [n for n, name in enumerate(calls, 1) if name.startswith("execution_plans.")]
    assert len(writes) >= 5
    for number in writes:
        for moment in (Moment.BEFORE, Moment.AFTER):
            await play_short(place(f"{number}-{moment}"), wish, (number, moment))


async def test_the_facts_of_thousands_of_instruments_are_known_in_time(tmp_path: Path) -> None:
    """In proportion to their number, by processor time: nobody else is served meanwhile."""
    async with world_of(tmp_path) as world:
        store = world.store_beside()
        holdings = Holdings(
            store=_Holding(store, 3000),  # type: ignore[arg-type]
            live_orders=world.service.live_orders,
            accounts=world.service.accounts,
            stances=StancesInForce(store=store, switches=world.service.kill_switches, clock=world.clock),
            clock=world.clock,
        )
        parsed = parse_targets(json.dumps(body(world, *((f"S{n}", 1) for n in range(1500, 4500)), complete=True)))
        assert isinstance(parsed, TargetPositions)
        begun = time.thread_time()
        known = await holdings.facts(parsed, PlanRules())
        assert not isinstance(known, NotNow)
        assert len(known[0]) == 4500
        assert sum(each.held for each in known[0].values()) == 3000
        assert time.thread_time() - begun < 5


class _Holding:
    """A store in which a strategy holds one of each of so many instruments."""

    def __init__(self, store: Any, count: int) -> None:
        self._store, self._count = store, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def open_ledgers(self, account_id: str) -> list[LedgerEntry]:
        entries = []
        for n in range(self._count):
            instrument = Instrument(symbol=f"S{n}")
            key = LedgerKey(account_id=account_id, strategy="momentum", instrument_key=instrument.key)
            position = Position(quantity=Decimal(1))
            entries.append(LedgerEntry(key=key, instrument=instrument, position=position))
        return entries


async def test_an_order_in_doubt_of_the_older_plan_holds_up_its_own_instrument_alone(tmp_path: Path) -> None:
    lost = [Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT, symbol="AAPL", times=None)]
    async with world_of(
        tmp_path, market=BY_HAND, rules=RESTING, capabilities=ONLY_A_TAG, is_unique=False, faults=lost
    ) as world:
        publish(world, body(world, ("AAPL", 100), ("MSFT", 5)))
        await world.run(15)
        assert world.record(signal_of(world, "AAPL")).status is Status.IN_DOUBT
        publish(world, body(world, ("AAPL", 50), ("MSFT", 8), decision="d-2"))
        await world.run(10)
        assert planned(world) == {
            "AAPL-ENTRY": (Side.BUY, "100", Purpose.ENTRY),
            "MSFT-ENTRY": (Side.BUY, "8", Purpose.ENTRY),
        }
        world.fill(signal_of(world, "MSFT"))
        await world.run(3)
        (told,) = results(world)
        assert {leg["symbol"]: leg["state"] for leg in told["legs"]} == {"AAPL": "BLOCKED", "MSFT": "DONE"}
