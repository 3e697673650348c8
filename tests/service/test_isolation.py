"""One order of an account whose own work fails: it rests alone, people are told once, and everything else is traded as ever."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Capabilities, Report
from brokers.errors import BrokerUnavailable, OutcomeUnknown
from execution_service.core.orders.exit_bound import ExitPositionCheck
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.recording.live_orders import LiveOrder
from execution_service.trading import reconciliation
from execution_service.trading.trader import TradingRules
from tests.fakes import ACCOUNT, BY_HAND, RESTING, World, world_of
from tests.service.audit import audit

ODD = "odd"
TITLE = "Set Aside"
ONE_BY_ONE = Capabilities(refuses_repeated_client_id=True, needs_reservation=True)


class Foreseen(Exception):
    """By this test, and by nothing in the service."""


def orders_among(values: tuple[Any, ...]) -> Iterator[tuple[str, str]]:
    """Signals and tags of the orders that a call is about."""
    for value in values:
        if isinstance(value, LiveOrder):
            value = value.order
        if isinstance(value, Order):
            yield value.signal_id, ""
        elif isinstance(value, Report):
            yield "", value.client_order_id
        elif isinstance(value, tuple | list):
            yield from orders_among(tuple(value))


class Stumbles:
    """Makes functions of the service raise for one order, until it is `mended`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.is_mended = False
        self.times = 0

    def over(self, path: str, signal_id: str = ODD, *, purpose: Purpose = Purpose.ENTRY) -> None:
        module_name, _, name = path.rpartition(".")
        module = importlib.import_module(f"execution_service.{module_name}")
        whole = getattr(module, name)
        about = {(signal_id, ""), ("", World.client_id(signal_id, purpose))}

        def stumbling(*args: Any, **kwargs: Any) -> Any:
            if not self.is_mended and about & set(orders_among((*args, *kwargs.values()))):
                self.times += 1
                raise Foreseen(f"{name} of {signal_id}")
            return whole(*args, **kwargs)

        self._monkeypatch.setattr(module, name, stumbling)


@pytest.fixture
def stumbles(monkeypatch: pytest.MonkeyPatch) -> Stumbles:
    return Stumbles(monkeypatch)


def is_undisturbed(world: World) -> bool:
    """The account was never begun anew, and its connection never lost."""
    stumbled = [line for line in world.logs if line.get("action") in ("step_failed", "check_failed", "queue_failed")]
    restarted = [line for line in world.logs if str(line.get("part", "")).startswith("trader")]
    return not (stumbled or restarted) and world.broker_calls.count(("connect", "")) == 1


ENTRIES = {
    "deciding what is next": "trading.order_steps.next_step",
    "what a report tells": "trading.report_poller.new_events",
    "whether the report is sound": "trading.report_poller.sanitized",
    "whether the report is another's": "trading.report_poller.is_of_another",
    "whether fills are missing": "core.orders.report_events.fills_are_missing",
    "what the broker cannot take": "trading.pre_trade_checks.unsupported_reason",
    "what leaves": "trading.submission.apply_all",
    "what may be stored": "storage.mongo.orders.apply_all",
    "what differs at the broker": "trading.reconciliation.order_findings",
}
WORDS = {
    "the line of the log": "recording.live_orders.log_line",
    "the message to people": "delivery.notifications.order_alert",
}


@pytest.mark.parametrize(
    ("path", "capabilities"),
    [
        *((path, None) for path in ENTRIES.values()),
        *((path, ONE_BY_ONE) for path in (*ENTRIES.values(), "trading.submission.fitting")),
    ],
)
async def test_whatever_fails_for_one_order_the_others_trade(
    tmp_path: Path, stumbles: Stumbles, path: str, capabilities: Capabilities | None
) -> None:
    stumbles.over(path)
    rules = TradingRules(reconcile_interval_seconds=10.0)
    async with world_of(tmp_path, capabilities=capabilities, rules=rules) as world:
        world.send("before")
        world.send(ODD)
        world.send("same")
        world.send("other", symbol="MSFT")
        await world.run(5)
        world.send("later")
        world.exit("out", "other", symbol="MSFT")
        await world.run(20)
        statuses = {record.signal_id: record.status for record in world.records() if record.signal_id != ODD}
        assert statuses == dict.fromkeys(("before", "same", "other", "later", "out"), Status.FILLED)
        assert is_undisturbed(world)
        assert len(world.placed()) == len({placed.ticket.client_order_id for placed in world.placed()})
        assert stumbles.times
        if not world.record(ODD).status.is_final:
            (text,) = [text for text in world.notifier.texts if TITLE in text or "Not Compared" in text]
            assert ODD in text
            assert "Foreseen" in text
        stumbles.is_mended = True
        await world.run(70)
        assert world.record(ODD).status.is_final
        audit(world)


@pytest.mark.parametrize("path", WORDS.values(), ids=WORDS)
async def test_an_order_without_words_is_traded_like_any_other(tmp_path: Path, stumbles: Stumbles, path: str) -> None:
    stumbles.over(path)
    async with world_of(tmp_path) as world:
        world.send(ODD)
        world.send("same")
        await world.run(5)
        assert stumbles.times
        assert world.record(ODD).status is Status.FILLED
        assert world.record("same").status is Status.FILLED
        assert is_undisturbed(world)


EXITS = {
    "how much of its entry it may take": "trading.pre_trade_checks.exit_allowance",
    "what it would be like": "trading.pre_trade_checks.apply_all",
    "whether it was told of before": "trading.exit_check.was_noted",
    "its end": "trading.order_steps.next_step",
}


@pytest.mark.parametrize("path", EXITS.values(), ids=EXITS)
async def test_whatever_fails_for_one_exit_the_others_leave(tmp_path: Path, stumbles: Stumbles, path: str) -> None:
    stumbles.over(path, "odd-out", purpose=Purpose.EXIT)
    rules = TradingRules(exit_position_check=ExitPositionCheck.ALWAYS)
    async with world_of(tmp_path, rules=rules) as world:
        for name in ("in", "odd-in"):
            world.send(name)
        await world.run(2)
        world.broker_faults.errors["positions"] = [OutcomeUnknown("silent")] * 20
        world.exit("odd-out", "odd-in")
        world.exit("out", "in")
        await world.run(30)
        assert world.exit_record("out").status is Status.FILLED
        assert is_undisturbed(world)
        assert stumbles.times
        stumbles.is_mended = True
        await world.run(70)
        assert world.exit_record("odd-out").status.is_final
        audit(world)


async def test_what_fails_for_an_order_that_others_wait_for_holds_up_only_those(
    tmp_path: Path, stumbles: Stumbles
) -> None:
    stumbles.over("trading.report_poller.new_events")
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(ODD)
        world.exit("its-exit", ODD)
        world.send("other")
        world.exit("others-exit", "other")
        await world.run(1)
        world.fill("other")
        await world.run(5)
        world.fill("others-exit", purpose=Purpose.EXIT)
        await world.run(5)
        assert world.exit_record("others-exit").status is Status.FILLED
        assert world.exit_record("its-exit").status is Status.PENDING


async def test_an_order_whose_holding_cannot_be_told_holds_up_no_exit_and_no_comparison(
    tmp_path: Path, stumbles: Stumbles
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=TradingRules(reconcile_interval_seconds=10.0)) as world:
        for name, symbol in ((ODD, "AAPL"), ("in", "MSFT")):
            world.send(name, symbol=symbol)
        await world.run(1)
        stumbles.over("trading.holdings.key_of")
        world.fill(ODD, 40)
        world.fill("in")
        await world.run(5)
        world.send("out", symbol="MSFT", side="SELL", signal_type="EXIT")
        await world.run(5)
        world.fill("out", purpose=Purpose.EXIT)
        await world.run(60)
        assert stumbles.times
        assert world.exit_record("out").status is Status.FILLED
        assert not world.documents("execution_discrepancies")
        assert not [line for line in world.logs if line.get("action") == "reconcile_failed"]
        assert is_undisturbed(world)


async def test_pauses_grow_and_a_command_does_not_wait_for_their_end(tmp_path: Path, stumbles: Stumbles) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(ODD, tif="DAY")
        await world.run(2)
        stumbles.over("trading.order_steps.next_step")
        await world.run(300)
        assert 5 < stumbles.times < 20
        said = [line for line in world.logs if line.get("action") == "order_isolated"]
        pauses = [line["event"].split(" for ")[1].split(" s,")[0] for line in said]
        assert pauses[:7] == ["0.5", "1", "2", "4", "8", "16", "30"]
        assert len(world.notifier.titled(TITLE)) == 1
        stumbles.is_mended = True
        world.cancel(signal_id=ODD)
        await world.run(2)
        assert world.record(ODD).status is Status.CANCELLED


async def test_a_thousand_failing_orders_are_told_of_in_few_messages(tmp_path: Path, stumbles: Stumbles) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        for number in range(200):
            stumbles.over("trading.order_steps.next_step", f"odd-{number}")
            world.send(f"odd-{number}", symbol=f"S{number}")
        world.send("sound", symbol="MSFT")
        await world.run(10)
        assert world.record("sound").status is Status.SUBMITTED
        assert 1 <= len(world.notifier.titled(TITLE)) <= 2


async def test_what_a_part_cannot_heed_is_heeded_by_the_others(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:

        def stumbling(live: LiveOrder) -> None:
            raise Foreseen(live.order.signal_id)

        world.service.live_orders.on_recorded.insert(0, stumbling)
        world.send()
        await world.run(2)
        assert world.record().status is Status.FILLED
        assert world.publisher.statuses("sig") == ["FILLED"]
        assert is_undisturbed(world)


async def test_an_alert_about_several_orders_is_sent_though_there_are_no_words_for_one(
    tmp_path: Path, stumbles: Stumbles
) -> None:
    stumbles.over("trading.order_steps.next_step", "odd-1")
    stumbles.over("trading.order_steps.next_step", "odd-2")
    stumbles.over("core.texts.orders.order_summary", "odd-2")
    async with world_of(tmp_path) as world:
        world.send("odd-1")
        world.send("odd-2", symbol="MSFT")
        await world.run(5)
        (text,) = [text for text in world.notifier.texts if TITLE in text]
        assert "odd-1" in text
        assert "odd-2" in text


async def test_a_comparison_goes_on_without_an_order_and_a_position_that_cannot_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stumbles: Stumbles
) -> None:
    whole: Callable[..., Any] = reconciliation.compare_positions

    def stumbling(ours: Any, theirs: Any) -> Any:
        if any(each.instrument.symbol == "AAPL" for each in (*ours, *theirs)):
            raise Foreseen("a position of AAPL")
        return whole(ours, theirs)

    stumbles.over("trading.reconciliation.order_findings")
    monkeypatch.setattr(reconciliation, "compare_positions", stumbling)
    async with world_of(tmp_path, rules=TradingRules(reconcile_interval_seconds=10.0)) as world:
        for name, symbol in ((ODD, "AAPL"), ("sound", "MSFT")):
            world.send(name, symbol=symbol)
        await world.run(2)
        world.broker_faults.held = lambda told: [p for p in told if p.instrument.symbol != "MSFT"]
        await world.run(60)
        assert [row["finding"]["subject"] for row in world.documents("execution_discrepancies")] == []
        world.broker_faults.held = lambda told: [_of_seven(p) if p.instrument.symbol == "MSFT" else p for p in told]
        await world.run(120)
        assert [row["finding"]["subject"] for row in world.documents("execution_discrepancies")] == ["MSFT|STOCK"]
        (text,) = world.notifier.titled("Not Compared")
        assert "AAPL" in text
        assert is_undisturbed(world)


def _of_seven(position: Any) -> Any:
    return replace(position, quantity=Decimal(7))


async def test_orders_that_cannot_be_rejected_end_no_connection(tmp_path: Path, stumbles: Stumbles) -> None:
    stumbles.over("storage.mongo.orders.apply_all")
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unavailable = BrokerUnavailable("no route")
        await world.start()
        world.send(ODD)
        world.send("same")
        await world.run(60)
        assert world.record("same").status is Status.REJECTED
        assert not [line for line in world.logs if line.get("action") == "part_restarted"]
        stumbles.is_mended, world.broker_faults.unavailable = True, None
        world.send("later")
        await world.run(60)
        assert world.record("later").status is Status.FILLED
        assert world.service.accounts.traders[ACCOUNT].is_connected


async def test_a_record_of_the_end_of_time_makes_no_other_order_wait(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("odd")
        await world.run(2)
        await world.kill()
        changes = {"$set": {"published_at": datetime(9999, 12, 31, 23, 59, tzinfo=UTC)}}
        world.mongo["trading"]["execution_orders"].update_one({"_id": world.record("odd").order_id}, changes)
        await world.start()
        await world.run(120)
        world.send("sound", symbol="MSFT")
        await world.run(5)
        assert [order.ticket.instrument.symbol for order in world.placed()] == ["AAPL", "MSFT"]


async def test_a_report_of_an_order_that_comes_in_hand_as_its_record_is_read_is_heard_as_any_other(
    tmp_path: Path, stumbles: Stumbles
) -> None:
    """While the order is isolated nothing is done for it, by whichever way its report has come."""
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(ODD)
        await world.run(1)
        trader: Any = world.service.accounts.traders[ACCOUNT]
        live_orders, store = world.service.live_orders, trader._report_poller._store
        order_id = world.record(ODD).order_id
        live, find = live_orders.by_id[order_id], store.find
        stored = (await find([f"client:{World.client_id(ODD)}"]))[0]
        live_orders.forget(live)
        came: list[LiveOrder] = []

        async def found_as_it_comes(names: Any) -> Any:
            found = await find(names)
            if not came and any(each.order.order_id == order_id for each in found):
                came.append(live_orders.adopt(stored))
                trader._isolation.failed(came[0], Foreseen("by this test"), doing="this test")
            return found

        world.fill(ODD)
        store.find = found_as_it_comes
        heard: list[LiveOrder] = []
        learn = trader._report_poller._learn

        async def learns(live: LiveOrder, report: Report) -> None:
            if trader._isolation.holds(live):
                heard.append(live)
            await learn(live, report)

        trader._report_poller._learn = learns
        trader.hinted()
        await world.run(0.2)
        assert came
        assert not heard
        await world.run(10)
        assert world.record(ODD).status is Status.FILLED
