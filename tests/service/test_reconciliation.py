"""Our books beside the broker's while the service runs, dies and comes back: what is recorded, what is said once, what is left alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Capabilities, Instrument, MovementKind, OrderRef, OrderType, PositionMovement, Side, Ticket
from brokers.errors import AnswerUnclear, BrokerUnavailable, NotAnswered, OutcomeUnknown
from brokers.paper import broker as paper_broker
from brokers.paper.model import Action, Fault, Operation
from execution_service.core.orders.events import Noted
from execution_service.core.orders.status import Status
from execution_service.core.reconcile.discrepancies import DiscrepancyKind, DiscrepancyState
from execution_service.core.views.record import discrepancy_from_document
from execution_service.storage.ports.commands import Command, CommandStatus
from execution_service.trading import reconciliation
from execution_service.trading.trader import TradingRules
from tests.builders import identity
from tests.fakes import ACCOUNT, BY_HAND, ONLY_A_TAG, Moment, World, two_worlds, world_of
from tests.service.audit import audit

STRANGER = "x" + "a" * 18
MINUTE = 60.0


def trade_by_hand(world: World, quantity: int, symbol: str = "AAPL", tag: str = "") -> None:
    """Somebody trades in the broker's own screen; negative sells. Limit orders rest where the market fills nothing by itself."""
    ticket = Ticket(
        client_order_id=tag or f"hand-{len(world.placed())}",
        instrument=Instrument(symbol=symbol),
        side=Side.BUY if quantity > 0 else Side.SELL,
        quantity=abs(Decimal(quantity)),
        order_type=OrderType.LIMIT,
        limit_price=Decimal(10),
    )
    world.book().place(ticket)


def rows(world: World, state: DiscrepancyState | None = DiscrepancyState.OPEN) -> list[Any]:
    found = [discrepancy_from_document(d) for d in world.documents("execution_discrepancies")]
    return [row for row in found if state is None or row.state is state]


def open_kinds(world: World) -> list[DiscrepancyKind]:
    return sorted(row.finding.kind for row in rows(world))


def outcomes(world: World) -> list[str]:
    return [entry["event"] for entry in world.logs if entry.get("action") == "reconciled"]


def closing_lines(world: World) -> list[str]:
    return [entry["event"] for entry in world.logs if entry.get("action") == "discrepancy_closed"]


async def holding(world: World, quantity: int = 100) -> None:
    world.send(quantity=quantity)
    await world.run(2)
    assert world.record().status is Status.FILLED


# --- the outcome line -----------------------------------------------------------------------------------------------


async def test_start_says_reconciled_in_one_line(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        world.send("rests", order_type="LIMIT", limit_price=9, tif="GTC", symbol="SPY")
        await world.run(1)
        world.logs.clear()
        await world.restart()
        await world.run(5)
        assert outcomes(world) == [f"Reconciled: 0 open orders, 2 executions, 2 positions agree (account {ACCOUNT})"]


async def test_agreeing_books_are_compared_every_minute_and_said_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send("rests", order_type="LIMIT", limit_price=9, tif="GTC")
        await world.run(1)
        world.logs.clear()
        asked = len(world.calls("positions"))
        await world.run(10 * MINUTE)
        assert len(world.calls("positions")) - asked in (9, 10, 11)
        assert outcomes(world) == []
        assert rows(world, None) == []


async def test_interval_of_zero_compares_only_after_a_connection(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=TradingRules(reconcile_interval_seconds=0)) as world:
        await world.run(10 * MINUTE)
        assert len(world.calls("positions")) == 1


async def test_whole_day_is_read_again_after_a_lost_connection(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        asked = len(world.calls("positions"))
        world.broker_faults.unavailable = BrokerUnavailable("gone")
        await world.run(10)
        world.broker_faults.unavailable = None
        await world.run(20)
        assert len(world.calls("positions")) == asked + 1
        assert outcomes(world)[-1].startswith("Reconciled: 0 open orders, 1 execution, 1 position agree")


async def test_account_whose_book_cannot_be_read_at_start_sends_nothing_until_it_can(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.holds["reports"] = asyncio.Event()
        await world.start()
        world.send()
        await world.run(5 * MINUTE - 5)
        assert world.calls("connect")
        assert world.placed() == []
        assert outcomes(world) == []
        world.send("fresh")
        world.broker_faults.holds.pop("reports").set()
        await world.run(MINUTE)
        assert world.record("fresh").status is Status.FILLED
        assert outcomes(world)[0].startswith("Reconciled")


async def test_on_a_day_of_many_orders_whole_answers_are_rarer_and_positions_compared_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "SECONDS_FOR_EACH_REPORT", 300.0)
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=9, tif="GTC")
        await world.run(90)
        broker: Any = world.brokers[ACCOUNT]
        reports, wholes = broker.reports, []

        async def counted(since: int | None = None) -> Any:
            wholes.append(since is None)
            return await reports(since)

        broker.reports = counted
        world.fill("sig")
        await world.run(10)
        trade_by_hand(world, 50)
        world.book().fill_order(OrderRef(client_order_id=world.placed()[-1].ticket.client_order_id))
        await world.run(2 * MINUTE)
        assert open_kinds(world) == [DiscrepancyKind.POSITION_DIFFERS]
        await world.run(18 * MINUTE)
        assert 2 <= sum(wholes) <= 4
        assert len(wholes) > 20


# --- what can be proven is recorded ---------------------------------------------------------------------------------


async def test_fills_cancels_and_corrections_of_a_dead_time_are_ordinary_events(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        for signal in ("filled", "cancelled", "corrected"):
            world.send(signal, order_type="LIMIT", limit_price=10, tif="GTC")
        await world.run(1)
        wrong = world.fill("corrected", price="9")
        await world.run(10)
        await world.kill()
        world.clock.move(3600)
        world.fill("filled")
        world.book().cancel_unasked(world.ref("cancelled"), "halted")
        world.book().correct_fill(wrong, price=Decimal(8))
        await world.start()
        await world.run(MINUTE)
        assert world.record("filled").status is Status.FILLED
        assert world.record("cancelled").status is Status.CANCELLED
        assert world.record("corrected").average_price == Decimal(8)
        assert rows(world, None) == []
        assert outcomes(world)[-1].startswith("Reconciled: 0 open orders, 2 executions, 1 position agree")
        audit(world)


# --- positions ------------------------------------------------------------------------------------------------------


async def test_position_that_differs_is_one_row_and_one_alert_until_it_is_restored(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        trade_by_hand(world, 50)
        await world.run(2 * MINUTE)
        (row,) = rows(world)
        assert (row.finding.kind, row.finding.ours, row.finding.theirs) == (
            DiscrepancyKind.POSITION_DIFFERS,
            "100",
            "150",
        )
        assert len(world.notifier.titled("Discrepancy")) == 1
        await world.run(20 * MINUTE)
        assert len(world.notifier.titled("Discrepancy")) == 1
        trade_by_hand(world, -50)
        await world.run(3 * MINUTE)
        assert open_kinds(world) == []
        (closed,) = rows(world, DiscrepancyState.CLOSED)
        assert closed.discrepancy_id == row.discrepancy_id
        assert closed.closed_at is not None
        assert len(closing_lines(world)) == 1
        assert len(world.notifier.titled("Discrepancy")) == 1


async def test_many_positions_that_differ_are_all_named_to_people(tmp_path: Path) -> None:
    """As after a square-off of all that is held: the first are told at once, the others together a minute later."""
    symbols = ("AAPL", "MSFT", "QQQ", "SPY")
    async with world_of(tmp_path) as world:
        for symbol in symbols:
            world.send(symbol, symbol=symbol)
        await world.run(2)
        for symbol in symbols:
            trade_by_hand(world, -100, symbol=symbol)
        await world.run(4 * MINUTE)
        assert len(rows(world)) == len(symbols)
        texts = world.notifier.titled("Discrepancy")
        assert len(texts) == 2
        for symbol in symbols:
            assert f"Position differs: {symbol}|STOCK: ours 100; the broker's 0" in "".join(texts)


async def test_open_discrepancy_survives_restarts_without_a_second_row_or_alert(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        trade_by_hand(world, 50)
        await world.run(2 * MINUTE)
        for _ in range(3):
            await world.restart()
            await world.run(2 * MINUTE)
        assert len(rows(world, None)) == 1
        assert len(world.notifier.titled("Discrepancy")) == 1
        trade_by_hand(world, -50)
        await world.restart()
        await world.run(2 * MINUTE)
        assert open_kinds(world) == []


async def test_alert_that_a_death_kept_from_being_raised_is_raised_by_the_next_life(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        trade_by_hand(world, 50)
        await world.run_until(lambda: bool(rows(world)))
        # As the store is after a death between the row and its alert.
        row = rows(world)[0]
        await world.kill()
        collection = world.mongo["trading"]["execution_discrepancies"]
        collection.update_one({"_id": row.discrepancy_id}, {"$set": {"is_alerted": False}})
        world.mongo["trading"]["execution_alerts"].delete_many({})
        world.notifier.sent.clear()
        await world.start()
        await world.run(2 * MINUTE)
        assert len(world.notifier.titled("Discrepancy")) == 1
        assert rows(world)[0].is_alerted


async def test_amounts_that_leave_the_difference_as_it_is_are_written_into_its_row(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        trade_by_hand(world, 50)
        await world.run(2 * MINUTE)
        world.send("more", quantity=25)
        await world.run(2 * MINUTE)
        (row,) = rows(world)
        assert (row.finding.ours, row.finding.theirs) == ("125", "175")
        assert row.updated_at > row.opened_at
        assert len(world.notifier.titled("Discrepancy")) == 1


async def test_another_difference_is_another_row(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        trade_by_hand(world, 50)
        await world.run(2 * MINUTE)
        trade_by_hand(world, 25)
        await world.run(2 * MINUTE)
        (row,), (closed,) = rows(world), rows(world, DiscrepancyState.CLOSED)
        assert (closed.finding.theirs, row.finding.theirs) == ("150", "175")
        assert len(world.notifier.titled("Discrepancy")) == 2


async def test_position_in_what_we_never_traded_is_counted_and_not_alarmed_about(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        trade_by_hand(world, 7, "TSLA")
        await world.run(10 * MINUTE)
        assert rows(world, None) == []
        assert world.notifier.titled("Discrepancy") == []
        assert "not ours and left alone: 1 order and 1 position" in outcomes(world)[-1]
        entry = next(e for e in reversed(world.logs) if e.get("action") == "reconciled")
        assert entry["not_ours"] == ["7 TSLA|STOCK"]


async def test_resting_order_of_somebody_else_is_shown_and_not_touched(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        trade_by_hand(world, 7, "TSLA", tag="by-hand")
        await world.run(10 * MINUTE)
        assert rows(world, None) == []
        assert world.calls("cancel_order") == []
        entry = next(e for e in reversed(world.logs) if e.get("action") == "reconciled")
        assert entry["not_ours"] == [f"order {world.placed()[0].broker_order_id}, working"]


async def test_broker_that_does_not_tell_positions_is_said_once_and_not_alarmed_about(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False, capabilities=Capabilities(reports_positions=False)) as world:
        await world.start()
        await holding(world)
        trade_by_hand(world, 50)
        await world.run(5 * MINUTE)
        assert [e["event"] for e in world.logs if e.get("action") == "positions_not_told"] == [
            "The broker does not tell positions, they are not compared: this broker tells no positions"
        ]
        assert rows(world, None) == []
        assert world.notifier.titled("Discrepancy") == []
        assert "positions not told" in outcomes(world)[0]
        assert world.calls("positions") == []


async def test_failing_question_for_positions_does_not_close_what_is_open(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        trade_by_hand(world, 50)
        await world.run(2 * MINUTE)
        world.broker_faults.errors["positions"] = [BrokerUnavailable("busy")] * 5
        await world.run(5 * MINUTE)
        assert open_kinds(world) == [DiscrepancyKind.POSITION_DIFFERS]


async def test_fill_between_the_readings_of_orders_and_positions_is_no_difference(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=TradingRules(reconcile_interval_seconds=10)) as world:
        world.send(order_type="LIMIT", limit_price=10, tif="GTC", quantity=1000)
        await world.run(1)
        broker: Any = world.brokers[ACCOUNT]
        positions = broker.positions

        async def with_a_fill_at_that_moment() -> Any:
            world.fill("sig", 10)
            return await positions()

        broker.positions = with_a_fill_at_that_moment
        await world.run(5 * MINUTE)
        assert world.record().filled_quantity >= 200
        assert rows(world, None) == []
        broker.positions = positions
        await world.run(MINUTE)
        assert outcomes(world)[-1].startswith("Reconciled")


async def test_ledger_that_is_behind_the_records_is_no_difference(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=10, tif="GTC")
        await world.run(1)
        store: Any = world.service._store
        never = asyncio.Event()

        async def never_saved(entries: Any) -> Any:
            await never.wait()

        store.save_ledgers = never_saved
        world.fill("sig", 40)
        await world.run(5 * MINUTE)
        assert world.record().filled_quantity == 40
        assert world.documents("execution_positions") == []
        assert rows(world, None) == []


async def test_order_that_is_perhaps_being_sent_holds_back_its_instrument_only(tmp_path: Path) -> None:
    async with world_of(
        tmp_path, capabilities=replace(ONLY_A_TAG, find_window_seconds=600.0), is_unique=False
    ) as world:
        await holding(world)
        world.send("spy", symbol="SPY")
        await world.run(2)
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("no answer")]
        world.send("doubtful")
        trade_by_hand(world, 50)
        trade_by_hand(world, 5, "SPY")
        await world.run(3 * MINUTE)
        assert world.record("doubtful").status is Status.SUBMITTING
        assert [row.finding.subject for row in rows(world)] == ["SPY|STOCK"]


# --- orders ---------------------------------------------------------------------------------------------------------


def hidden(world: World, signal_id: str = "sig") -> None:
    tag = world.client_id(signal_id)
    for operation in (Operation.REPORTS, Operation.FIND):
        world.book().add_fault(
            Fault(operation=operation, action=Action.HIDE, client_order_id=tag, times=None),
        )


async def test_resting_order_that_the_broker_shows_no_more_is_said_once_and_never_concluded_dead(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=9, tif="GTC")
        await world.run(MINUTE)
        hidden(world)
        await world.run(10 * MINUTE)
        assert world.record().status is Status.SUBMITTED
        (row,) = rows(world)
        assert (row.finding.kind, row.finding.signal_id) == (DiscrepancyKind.ORDER_NOT_SHOWN, "sig")
        assert len(world.notifier.titled("Discrepancy")) == 1
        world.book().clear_faults()
        await world.run(3 * MINUTE)
        assert open_kinds(world) == []
        assert len(closing_lines(world)) == 1


async def test_order_missing_from_one_answer_only_is_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=9, tif="GTC")
        await world.run(30)
        hidden(world)
        await world.run(45)
        world.book().clear_faults()
        await world.run(5 * MINUTE)
        assert rows(world, None) == []


async def test_order_that_is_not_listed_but_found_is_recorded_as_it_is(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=9, tif="GTC")
        await world.run(30)
        fault = Fault(
            operation=Operation.REPORTS, action=Action.HIDE, client_order_id=world.client_id("sig"), times=None
        )
        world.book().add_fault(fault)
        world.fill("sig")
        await world.run(2 * MINUTE)
        assert world.record().status is Status.FILLED
        assert rows(world, None) == []


async def test_an_order_that_cannot_be_read_is_not_missing_and_holds_up_no_comparison(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=9, tif="GTC")
        await world.run(MINUTE)
        hidden(world)
        world.broker_faults.errors["find"] = [AnswerUnclear("its filled_quantity is None")] * 1000
        trade_by_hand(world, 5, tag=STRANGER)
        await world.run(5 * MINUTE)
        assert open_kinds(world) == [DiscrepancyKind.ORDER_UNKNOWN]
        assert world.record().status is Status.SUBMITTED
        assert len(world.calls("connect")) == 1


async def test_order_under_a_tag_of_ours_that_no_record_has_is_a_discrepancy(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        trade_by_hand(world, 5, tag=STRANGER)
        await world.run(3 * MINUTE)
        (row,) = rows(world)
        assert (row.finding.kind, row.finding.subject) == (DiscrepancyKind.ORDER_UNKNOWN, STRANGER)
        assert world.calls("cancel_order") == []
        assert len(world.notifier.titled("Discrepancy")) == 1


async def test_order_that_works_at_the_broker_after_its_end_by_our_record_is_a_discrepancy(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=ONLY_A_TAG, is_unique=False) as world:
        world.send(order_type="LIMIT", limit_price=9, tif="GTC")
        await world.run(2)
        world.cancel(signal_id="sig")
        await world.run(5)
        assert world.record().status is Status.CANCELLED
        with world.book()._writing() as db:
            db.execute("UPDATE orders SET status = 'WORKING', changed = changed + 100")
            db.execute("UPDATE counters SET value = value + 200 WHERE name = 'change'")
        await world.run(3 * MINUTE)
        assert open_kinds(world) == [DiscrepancyKind.ORDER_ALIVE]
        assert len(world.notifier.titled("Discrepancy")) == 1
        assert world.record().status is Status.CANCELLED


async def in_doubt(world: World) -> None:
    """An order whose sending was cut off, and that the broker hides."""
    world.broker_faults.errors["place_order"] = [OutcomeUnknown("no answer")]
    world.send(order_type="LIMIT", limit_price=10, tif="GTC", timeout_seconds=0)
    await world.run(10)
    assert world.record().status is Status.IN_DOUBT


async def decide(world: World, decision: str, **body: Any) -> None:
    now = world.clock.now()
    order_id = world.record().order_id
    told = {"order_id": order_id, "decision": decision, "by": "op", "note": "looked"} | body
    command = Command(command_id=f"c-{decision}", kind="RESOLVE", body=told, published_at=now, received_at=now)
    await world.service._store.insert_command(command)
    await world.run(5)


async def test_order_in_doubt_is_listed_without_a_second_alert_until_it_is_resolved(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=ONLY_A_TAG, is_unique=False) as world:
        await in_doubt(world)
        await world.run(2 * MINUTE)
        assert open_kinds(world) == [DiscrepancyKind.IN_DOUBT]
        assert len(world.notifier.titled("In Doubt")) == 1
        assert world.notifier.titled("Discrepancy") == []
        await decide(world, "not-placed")
        await world.run(3 * MINUTE)
        assert open_kinds(world) == []


async def test_fill_of_an_earlier_sending_is_alerted_and_listed(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=ONLY_A_TAG, is_unique=False) as world:
        await in_doubt(world)
        await decide(world, "send-again")
        assert world.record().status is Status.SUBMITTED
        first = identity("sig").client_order_id(1)
        trade_by_hand(world, 100, tag=first)  # the first sending was on its way all the time
        (late,) = world.book().orders(first)
        await world.run(10)
        world.book().fill_order(world.ref("sig"), Decimal(30))
        assert late.broker_order_id in {o.broker_order_id for o in world.placed()}
        await world.run(2 * MINUTE)
        record = world.record()
        assert record.filled_quantity == 30
        notes = [e.message for e in record.events if isinstance(e, Noted) and e.alert]
        assert any("both may fill" in words for words in notes)
        assert DiscrepancyKind.EARLIER_ATTEMPT_FILLED in open_kinds(world)
        assert len([t for t in world.notifier.titled("Attention") if "both may fill" in t]) == 1


async def test_overfill_is_listed_without_a_second_alert(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=10, tif="GTC")
        await world.run(1)
        world.fill("sig", 130, force=True)
        await world.run(3 * MINUTE)
        assert open_kinds(world) == [DiscrepancyKind.OVERFILLED]
        assert world.notifier.titled("Discrepancy") == []
        assert len(world.notifier.titled("Overfill")) == 1


async def test_missing_fills_alert_is_not_repeated_by_a_restart(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=10, tif="GTC")
        await world.run(1)
        show_a_count_ahead(world)
        await world.run(3 * MINUTE)
        assert open_kinds(world) == [DiscrepancyKind.FILLS_MISSING]
        alerts = len(world.notifier.titled("Attention"))
        assert alerts == 1
        await world.restart()
        show_a_count_ahead(world)
        await world.run(3 * MINUTE)
        assert len(world.notifier.titled("Attention")) == 1
        assert len(rows(world, None)) == 1


async def test_position_that_missing_fills_explain_is_not_said_twice(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=10, tif="GTC")
        await world.run(1)
        world.fill("sig", 10)
        await world.run(5)
        show_a_count_ahead(world)
        broker: Any = world.brokers[ACCOUNT]
        positions = broker.positions

        async def with_them() -> Any:
            return [replace(held, quantity=held.quantity + 40) for held in await positions()]

        broker.positions = with_them
        await world.run(3 * MINUTE)
        assert open_kinds(world) == [DiscrepancyKind.FILLS_MISSING]


def show_a_count_ahead(world: World) -> None:
    broker: Any = world.brokers[ACCOUNT]
    reports = broker.reports

    async def ahead(since: int | None = None) -> Any:
        answer = await reports(since)
        return replace(answer, reports=[replace(r, filled_quantity=r.filled_quantity + 40) for r in answer.reports])

    broker.reports = ahead


# --- asking for it --------------------------------------------------------------------------------------------------


async def reconcile(world: World, account_id: str = ACCOUNT, seconds: float = 15) -> dict[str, Any]:
    now = world.clock.now()
    command = Command(
        command_id="c-1", kind="RECONCILE", body={"account_id": account_id}, published_at=now, received_at=now
    )
    await world.service._store.insert_command(command)
    await world.run(seconds)
    (document,) = world.documents("execution_commands", _id="c-1")
    return document


async def test_command_compares_now_and_keeps_the_outcome(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        done = await reconcile(world, seconds=2)
        assert done["status"] == CommandStatus.DONE
        assert done["outcome"] == "Reconciled: 0 open orders, 1 execution, 1 position agree"


async def test_command_does_not_call_reconciled_what_was_compared_without_positions(tmp_path: Path) -> None:
    """`execctl reconcile` exits with 0 only if everything was compared, and that again it can be is told, too."""
    async with world_of(tmp_path) as world:
        await holding(world)
        trade_by_hand(world, 50)
        world.broker_faults.errors["positions"] = [NotAnswered("too many requests")] * 2
        done = await reconcile(world, seconds=2)
        assert done["outcome"].startswith("Not reconciled: 0 open orders, 1 execution agree; positions not told")
        world.broker_faults.errors.clear()
        await world.run(3 * MINUTE)
        assert outcomes(world)[-1].startswith("Not reconciled: 0 open orders, 1 execution, 0 positions agree")
        assert [line for line in outcomes(world) if "positions not told" in line] != []


async def test_command_confirms_what_it_sees_for_the_first_time(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        trade_by_hand(world, 50)
        done = await reconcile(world)
        first, second, *_ = done["outcome"].split("\n")
        assert first.startswith("Not reconciled: 0 open orders, 1 execution, 0 positions agree; 1 discrepancy open")
        assert second.startswith("open: Position differs: AAPL|STOCK: ours 100; the broker's 150. ")
        assert open_kinds(world) == [DiscrepancyKind.POSITION_DIFFERS]


async def test_command_for_an_account_whose_broker_is_away_compares_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unavailable = BrokerUnavailable("connection refused")
        await world.start()
        done = await reconcile(world)
        assert done["outcome"] == "Not compared: the broker is not connected (connection refused)"


async def test_command_for_an_unknown_account_is_refused(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        done = await reconcile(world, "nobody")
        assert (done["status"], done["outcome"]) == (CommandStatus.REFUSED, "account 'nobody' is not configured")


async def test_command_that_a_broker_keeps_waiting_holds_up_no_other(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(order_type="LIMIT", limit_price=9, tif="GTC")
        await world.run(1)
        world.broker_faults.holds["positions"] = asyncio.Event()
        waiting = await reconcile(world, seconds=3)
        assert waiting["status"] == CommandStatus.NEW
        world.cancel(signal_id="sig")
        await world.run(3)
        assert world.record().status is Status.CANCELLED


# --- trouble --------------------------------------------------------------------------------------------------------


async def test_store_that_is_away_for_a_while_loses_no_row_and_no_alert(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        trade_by_hand(world, 50)
        world.store_faults.is_away = True
        await world.run(3 * MINUTE)
        world.store_faults.is_away = False
        await world.run(3 * MINUTE)
        assert len(rows(world)) == 1
        assert len(world.notifier.titled("Discrepancy")) == 1


async def test_lost_answer_to_the_opening_makes_one_row_and_one_alert(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        trade_by_hand(world, 50)
        world.store_faults.lost_answers["execution_discrepancies.insert_many"] = 1
        await world.run(5 * MINUTE)
        assert len(rows(world, None)) == 1
        assert rows(world)[0].is_alerted
        assert len(world.notifier.titled("Discrepancy")) == 1


async def test_answer_that_nobody_foresaw_stops_neither_trading_nor_the_next_comparison(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        trader: Any = world.service.accounts.traders[ACCOUNT]
        read_book = trader.read_book

        async def broken(*, whole: bool, heed: Any = None) -> Any:
            raise RuntimeError("a surprise")

        trader.read_book = broken
        await world.run(2 * MINUTE)
        await holding(world)
        trader.read_book = read_book
        trade_by_hand(world, 50)
        await world.run(3 * MINUTE)
        assert open_kinds(world) == [DiscrepancyKind.POSITION_DIFFERS]


@pytest.mark.parametrize("accounts", [(ACCOUNT, "acct-2")])
async def test_accounts_are_compared_by_themselves(tmp_path: Path, accounts: tuple[str, ...]) -> None:
    async with world_of(tmp_path, accounts=accounts) as world:
        await holding(world)
        world.send("other", account_id="acct-2")
        await world.run(2)
        trade_by_hand(world, 50)
        await world.run(3 * MINUTE)
        assert [(row.account_id, row.finding.theirs) for row in rows(world)] == [(ACCOUNT, "150")]


async def opened_and_closed(world: World, *, dies_at: tuple[int, Moment] | None = None) -> list[str]:
    """A difference comes and goes, with a death on the way where wanted; returns the steps outside."""
    await holding(world)
    trade_by_hand(world, 50)
    world.gate.dies_at = dies_at
    await world.run(MINUTE + 30)
    if world.gate.is_dead:
        await world.restart()
        await world.run(MINUTE + 30)
    assert open_kinds(world) == [DiscrepancyKind.POSITION_DIFFERS]
    assert rows(world)[0].is_alerted
    trade_by_hand(world, -50)
    await world.run(MINUTE + 30)
    if world.gate.is_dead:
        await world.restart()
        await world.run(MINUTE + 30)
    assert [row.state for row in rows(world, None)] == [DiscrepancyState.CLOSED]
    return world.gate.names


async def test_death_at_any_step_leaves_one_row_and_never_a_silent_one(tmp_path: Path) -> None:
    async with world_of(tmp_path / "whole") as world:
        names = await opened_and_closed(world)
    ours = ("execution_discrepancies", "execution_alerts", "telegram")
    steps = [n for n, name in enumerate(names, 1) if name.startswith(ours) and n > names.index("broker.place_order")]
    written = [names[n - 1] for n in steps if names[n - 1].startswith("execution_discrepancies")]
    assert written == ["execution_discrepancies.insert_many", *["execution_discrepancies.replace_one"] * 2]
    for step in steps:
        for moment in (Moment.BEFORE, Moment.AFTER):
            async with world_of(tmp_path / f"{step}-{moment}") as world:
                await opened_and_closed(world, dies_at=(step, moment))
                alerts = len(world.notifier.titled("Discrepancy"))
                # Once people have the message, only its being struck out keeps it from being sent again.
                is_told_and_not_struck = (
                    names[step - 1] == "telegram" or names[step - 1] == "execution_alerts.update_one"
                )
                assert alerts == 1 or (is_told_and_not_struck and alerts == 2), (names[step - 1], moment)


# --- several processes ----------------------------------------------------------------------------------------------


async def test_whoever_trades_the_account_answers_the_command_and_nobody_speaks_over_it(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        await holding(one)
        done = await reconcile(other, seconds=5)
        assert done["outcome"] == "Reconciled: 0 open orders, 1 execution, 1 position agree"
        await one.run(2 * MINUTE)
        (document,) = one.documents("execution_commands", _id="c-1")
        assert document["outcome"] == done["outcome"]
        assert other.calls("positions") == []


async def test_take_over_carries_an_open_discrepancy_on_without_a_second_row_or_alert(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        await holding(one)
        trade_by_hand(one, 50)
        await one.run(2 * MINUTE)
        (row,) = rows(one)
        await one.kill()
        await other.run(3 * MINUTE)
        assert other.calls("positions")
        assert [each.discrepancy_id for each in rows(other, None)] == [row.discrepancy_id]
        assert len(other.notifier.titled("Discrepancy")) == 1
        trade_by_hand(other, -50)
        await other.run(3 * MINUTE)
        assert open_kinds(other) == []


# --- answers that come in parts -------------------------------------------------------------------------------------


async def test_an_answer_in_parts_is_compared_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper_broker, "_REPORTS_AT_ONCE", 2)
    async with world_of(tmp_path) as world:
        for number in range(7):
            world.send(f"sig-{number}")
        await world.run(2)
        world.send("rests", order_type="LIMIT", limit_price=9, tif="GTC", symbol="SPY")
        await world.run(2)
        world.logs.clear()
        await world.restart()
        await world.run(5)
        assert outcomes(world) == [f"Reconciled: 0 open orders, 8 executions, 2 positions agree (account {ACCOUNT})"]
        assert rows(world, None) == []


async def test_a_second_order_under_one_tag_is_found_in_another_part_of_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper_broker, "_REPORTS_AT_ONCE", 1)
    async with world_of(tmp_path, capabilities=ONLY_A_TAG, is_unique=False) as world:
        await holding(world)
        await world.run(3 * MINUTE)
        trade_by_hand(world, 1, symbol="SPY")
        trade_by_hand(world, 50, tag=world.record().client_order_id)
        await world.run(3 * MINUTE)
        assert DiscrepancyKind.ORDER_TWICE in open_kinds(world)


# --- asked for while the account ends -------------------------------------------------------------------------------


async def test_a_comparison_that_is_asked_for_when_nobody_compares_any_more_is_answered(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await world.run(1)
        trader: Any = world.service.accounts.traders[ACCOUNT]
        await trader._keeper.end(f"comparison {ACCOUNT}")
        assert trader.is_connected
        asked = asyncio.create_task(trader.reconciliation.compare_now())
        await world.run(10)
        assert asked.done()
        assert not asked.result().is_compared


async def test_a_comparison_that_is_asked_for_as_the_account_is_let_go_is_answered(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await world.run(1)
        trader: Any = world.service.accounts.traders[ACCOUNT]
        world.broker_faults.holds["reports"] = asyncio.Event()
        asked = asyncio.create_task(trader.reconciliation.compare_now())
        await world.run(1)
        await trader._keeper.end(f"comparison {ACCOUNT}")
        await world.run(1)
        assert asked.done()
        assert not asked.result().is_compared


# --- what the broker recorded of a position that changed ----------------------------------------------------------------


def split_of(quantity: int, world: World, symbol: str = "AAPL") -> PositionMovement:
    return PositionMovement(
        movement_id=f"SPLIT {quantity}",
        kind=MovementKind.SPLIT,
        instrument=Instrument(symbol=symbol),
        quantity=Decimal(quantity),
        on=world.clock.now().date(),
    )


def told_of_difference(world: World) -> list[str]:
    return [text for text in world.notifier.texts if "Position differs" in text]


async def test_a_split_that_the_broker_recorded_is_told_as_what_it_is(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        world.book().move_position(Instrument(symbol="AAPL"), Decimal(100))
        world.broker_faults.movements = [split_of(100, world)]
        await world.run(3 * MINUTE)
        (text,) = told_of_difference(world)
        assert "the broker recorded +100 by a split on" in text
        assert "execctl adopt split" in text
        assert "if it was no trade" not in text
        assert world.gate.names.count("broker.movements") == 1


async def test_a_split_that_is_recorded_later_is_told_then_and_once(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        world.book().move_position(Instrument(symbol="AAPL"), Decimal(100))
        await world.run(3 * MINUTE)
        (first,) = told_of_difference(world)
        assert "split or merger of shares 2 for 1, if it was no trade" in first
        world.broker_faults.movements = [split_of(100, world)]
        await world.run(20 * MINUTE)
        _, second = told_of_difference(world)
        assert "the broker recorded +100 by a split on" in second
        assert [row.finding.recorded for row in rows(world)] == ["SPLIT 100"]
        await world.restart()
        await world.run(20 * MINUTE)
        assert len(told_of_difference(world)) == 2


@pytest.mark.parametrize("failure", [BrokerUnavailable("no socket"), NotAnswered("no"), RuntimeError("odd")])
async def test_a_broker_that_does_not_tell_its_records_keeps_nothing_from_being_compared(
    tmp_path: Path, failure: Exception
) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        world.book().move_position(Instrument(symbol="AAPL"), Decimal(100))
        world.broker_faults.errors["movements"] = [failure] * 10
        await world.run(3 * MINUTE)
        assert open_kinds(world) == [DiscrepancyKind.POSITION_DIFFERS]
        assert "if it was no trade" in told_of_difference(world)[0]


async def test_records_are_asked_for_only_while_shares_differ(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        await world.run(20 * MINUTE)
        assert "broker.movements" not in world.gate.names
