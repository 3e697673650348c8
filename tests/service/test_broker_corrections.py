"""What brokers tell late, take back, count differently or call complete: it is recorded as it is, and told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Report, Reports, ReportStatus
from brokers.errors import AnswerUnclear, NotAnswered
from brokers.paper.model import Action, Fault, Operation
from execution_service.core.orders.status import Status
from execution_service.trading.trader import TradingRules
from tests.fakes import ACCOUNT, BY_HAND, World, world_of
from tests.service.audit import audit


async def test_overfill_is_recorded_as_it_is_and_people_are_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.fill("sig", 130, force=True)
        await world.run(2)
        assert world.record().filled_quantity == 130
        assert world.notifier.titled("Overfill")
        assert world.documents("positions")[0]["quantity"] == 130


async def test_busted_trade_is_taken_back_everywhere(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        world.book().bust_fill(world.placed()[0].fills[0].fill_id)
        await world.run(10)
        order = world.record()
        assert order.filled_quantity == 0
        told = [(b["status"], b["filled_quantity"], b.get("correction")) for b in world.publisher.of("sig")]
        assert told == [("FILLED", 100, None), ("PARTIALLY_FILLED", 0, True), ("CANCELLED", 0, None)]
        assert world.documents("positions")[0]["status"] == "CLOSED"
        assert world.notifier.titled("Correction: Execution Annulled")


async def test_busted_exit_gives_its_profit_back_though_the_service_was_restarted(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        world.exit("out", "sig", price=11)
        await world.run(2)
        await world.restart()
        world.book().bust_fill(world.placed()[1].fills[0].fill_id)
        await world.run(10)
        shown = world.documents("positions")
        assert sum(d["realized_pnl"] for d in shown) == 0
        assert [d["quantity"] for d in shown if d["status"] == "OPEN"] == [100]
        assert world.publisher.of("out")[-1]["realized_pnl"] == 0


async def test_corrected_trade_is_a_reversal_and_a_new_fill(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        from_fill = world.placed()[0].fills[0].fill_id
        world.book().correct_fill(from_fill, price=Decimal("9.5"))
        await world.run(10)
        assert world.record().average_price == Decimal("9.5")
        shown = [d for d in world.documents("positions") if d["status"] == "OPEN"]
        assert [(d["quantity"], d["avg_entry_price"]) for d in shown] == [(100.0, 9.5)]


async def test_late_commission_is_told_as_a_correction(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.LATE_COMMISSION, seconds=20)
    async with world_of(tmp_path, faults=[fault]) as world:
        world.send()
        await world.run(30)
        bodies = world.publisher.of("sig")
        assert [(b["status"], b["commission"], b.get("correction")) for b in bodies] == [
            ("FILLED", 0, None),
            ("FILLED", 1, True),
        ]
        assert world.documents("execution_confirmations")[0]["commission"] == 1.0
        audit(world)


async def test_commission_that_changes_long_after_the_end_is_told_as_a_correction(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(30)
        world.book().set_commission(world.placed()[0].fills[0].fill_id, Decimal("2.35"))
        await world.run(10)
        assert [b["commission"] for b in world.publisher.of("sig")] == [1, 2.35]
        audit(world)


async def test_repeated_and_reordered_reports_change_nothing(tmp_path: Path) -> None:
    faults = [
        Fault(operation=Operation.REPORTS, action=Action.DUPLICATE, times=None),
        Fault(operation=Operation.REPORTS, action=Action.REORDER, times=None),
    ]
    async with world_of(tmp_path, market=BY_HAND, faults=faults) as world:
        for n in range(3):
            world.send(f"sig-{n}", symbol=f"S{n}")
        await world.run(1)
        for n in range(3):
            world.fill(f"sig-{n}", 40)
        await world.run(2)
        for n in range(3):
            world.fill(f"sig-{n}", 60)
        await world.run(2)
        audit(world)
        assert world.publisher.statuses("sig-1") == ["PARTIALLY_FILLED", "FILLED"]


async def test_count_ahead_of_the_executions_is_told_to_people_once_and_ends_nothing(tmp_path: Path) -> None:
    rules = TradingRules(reconcile_interval_seconds=0)
    async with world_of(tmp_path, market=BY_HAND, rules=rules) as world:
        world.send(order_type="LIMIT", limit_price=10, tif="GTC")
        await world.run(1)
        ahead = Report(
            client_order_id=world.record().client_order_id,
            broker_order_id=str(world.record().broker_order_id),
            status=ReportStatus.FILLED,
            filled_quantity=Decimal(10),
        )
        answers = iter([[ahead]])  # a broker that tells only what is new
        world.broker_faults.retold = lambda reports: next(answers, [])
        await world.run(120)
        assert world.record().status is Status.SUBMITTED
        assert len([text for text in world.notifier.titled("Attention") if "add up to 0" in text]) == 1


async def test_report_of_an_order_that_is_let_out_of_hand_meanwhile_is_heard(tmp_path: Path) -> None:
    """Between the answer and its recording the last delivery of a finished order may end."""
    async with world_of(tmp_path) as world:
        world.store_faults.refused.add("execution_confirmations")  # so that it stays in hand
        world.send()
        await world.run(2)
        live = world.service.live_orders.by_client_id[world.client_id("sig")]
        assert live.order.status is Status.FILLED
        world.book().set_commission(world.placed()[0].fills[0].fill_id, Decimal(7))
        report = world.book().find(world.client_id("sig"))
        assert report is not None
        broker: Any = world.brokers[ACCOUNT]
        reports = broker.reports

        async def told_as_it_is_let_go(since: int | None = None) -> Reports:
            asyncio.get_running_loop().call_soon(world.service.live_orders.forget, live)
            return Reports([report])

        broker.reports = told_as_it_is_let_go
        await world.service.accounts.traders[ACCOUNT].read_book(whole=True)
        broker.reports = reports
        assert world.record().commission == 7
        world.store_faults.refused.clear()


def calls_it_complete(world: World) -> None:
    """As after a person has made the order smaller in the broker's own screen."""
    world.broker_faults.retold = lambda told: [replace(r, status=ReportStatus.FILLED) for r in told]


@pytest.mark.parametrize("tif", ["DAY", None])
async def test_an_order_that_the_broker_calls_complete_with_less_ends_once_that_has_lasted(
    tmp_path: Path, tif: str | None
) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=10, tif=tif)
        await world.run(1)
        world.fill("sig", 60)
        calls_it_complete(world)
        await world.run(25)
        assert world.record().status is Status.PARTIALLY_FILLED
        await world.run(15)
        record = world.record()
        assert (record.status, record.filled_quantity) == (Status.CANCELLED, 60)
        assert record.reason is not None
        assert "less than was ordered" in record.reason.message
        assert world.publisher.statuses("sig")[-1] == "CANCELLED"


async def test_fills_that_come_after_the_word_complete_are_waited_for(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=10, tif="DAY")
        await world.run(1)
        world.fill("sig", 60)
        calls_it_complete(world)
        for quantity in (10, 10, 20):
            await world.run(25)
            world.fill("sig", quantity)
        await world.run(5)
        assert world.record().status is Status.FILLED
        assert "CANCELLED" not in world.publisher.statuses("sig")


async def test_an_order_that_is_called_complete_with_nothing_is_no_end_and_people_are_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=10, tif="DAY")
        await world.run(1)
        calls_it_complete(world)
        await world.run(120)
        assert world.record().status is Status.SUBMITTED
        assert any("the executions it has shown add up to 0" in text for text in world.notifier.texts)


async def test_what_is_called_complete_with_less_is_asked_for_once_more_before_it_ends(tmp_path: Path) -> None:
    """The broker's last word may be old: nobody else may have asked for half a minute."""
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=10, tif="DAY")
        await world.run(1)
        world.fill("sig", 60)
        calls_it_complete(world)
        world.broker_faults.errors["find"] = [NotAnswered("busy")]
        await world.run(45)
        assert world.record().status is Status.PARTIALLY_FILLED
        await world.run(30)
        assert world.record().status is Status.CANCELLED
        assert len(world.calls("find")) >= 2


async def test_an_order_that_cannot_be_read_holds_up_neither_the_others_news_nor_the_comparison(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        for name in ("odd", "plain"):
            world.send(name, order_type="LIMIT", limit_price=10, tif="DAY")
        await world.run(1)
        world.fill("odd", 60)
        calls_it_complete(world)  # of the other one nothing is shown at all
        world.broker_faults.errors["find"] = [AnswerUnclear("an odd row")] * 100
        await world.run(120)
        assert world.record("odd").status is Status.PARTIALLY_FILLED
        assert any("the executions it has shown add up to 0" in text for text in world.notifier.texts)
        assert not [line for line in world.logs if line.get("action") in ("check_failed", "reconcile_failed")]
