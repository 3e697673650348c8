"""Exits while the broker holds another position than our books say: looked at afresh, capped, refused, and never stuck."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import BrokerPosition, Capabilities, Instrument, Report
from brokers.errors import BrokerUnavailable, NotAnswered, OutcomeUnknown
from brokers.ibkr.blotter import Blotter, Execution
from execution_service.core.orders.events import Capped, Noted
from execution_service.core.orders.exit_bound import ExitPositionCheck
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.reconcile.discrepancies import DiscrepancyKind, DiscrepancyState
from execution_service.core.views.record import discrepancy_from_document
from execution_service.trading.trader import TradingRules
from tests.fakes import ACCOUNT, BY_HAND, RESTING, World, two_worlds, world_of
from tests.service.audit import audit

MINUTE = 60.0
STOCK = Instrument(symbol="AAPL")
ALWAYS = TradingRules(exit_position_check=ExitPositionCheck.ALWAYS)
OFF = TradingRules(exit_position_check=ExitPositionCheck.OFF)


def rows(world: World, state: DiscrepancyState = DiscrepancyState.OPEN) -> list[Any]:
    found = [discrepancy_from_document(d) for d in world.documents("execution_discrepancies")]
    return [row for row in found if row.state is state]


def by_hand(world: World, quantity: int, symbol: str = "AAPL") -> None:
    world.book().trade_by_hand(Instrument(symbol=symbol), Decimal(quantity), Decimal(10))


def shown(world: World, symbol: str = "AAPL") -> Decimal:
    held = [p.quantity for p in world.book().positions() if p.instrument.symbol == symbol]
    return sum(held, Decimal(0))


def words_of(order: Order) -> str:
    assert order.reason is not None
    return order.reason.message


async def holding(world: World, quantity: int = 100, **changes: Any) -> None:
    world.send(quantity=quantity, **changes)
    await world.run(2)


async def differing(world: World, by: int, quantity: int = 100) -> None:
    """We hold `quantity` by our books, and by a trade past us `by` more; people know."""
    await holding(world, quantity)
    by_hand(world, by)
    await world.run(2 * MINUTE)
    assert [row.finding.kind for row in rows(world)] == [DiscrepancyKind.POSITION_DIFFERS]


# --- the rule -------------------------------------------------------------------------------------------------------


async def test_exit_of_what_the_broker_has_sold_already_is_refused_and_names_the_difference(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -100)
        world.exit("out", "sig")
        await world.run(5)
        order = world.exit_record("out")
        assert order.status is Status.REJECTED
        assert order.reason is not None
        assert order.reason.code is ReasonCode.NOTHING_TO_EXIT
        since = rows(world)[0].opened_at
        assert words_of(order).startswith(
            f"the broker holds 0 of AAPL|STOCK, our books 100; they differ since {since:%Y-%m-%d %H:%M} UTC"
        )
        assert shown(world) == 0
        assert any("the broker holds 0" in text for text in world.notifier.titled("Order Rejected"))
        audit(world)


async def test_exit_is_capped_to_what_a_sale_by_hand_has_left(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -40)
        world.exit("out", "sig")
        await world.run(5)
        order = world.exit_record("out")
        assert (order.status, order.filled_quantity, order.quantity) == (Status.FILLED, 60, 60)
        assert shown(world) == 0
        (text,) = world.notifier.titled("Exit Capped")
        assert "60 of 100" in text
        assert "the broker holds 60 of AAPL|STOCK, our books 100" in text
        await world.run(5 * MINUTE)
        (row,) = rows(world)
        assert (row.finding.ours, row.finding.theirs) == ("40", "0")
        assert len(world.notifier.titled("Discrepancy")) == 1, "our own exit leaves the difference as it was"
        audit(world)


async def test_account_that_is_on_the_other_side_by_hand_is_not_brought_further(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -130)
        world.exit("out", "sig")
        world.send("again", signal_type="EXIT", side="SELL", quantity=10)
        await world.run(5)
        assert {world.exit_record(name).status for name in ("out", "again")} == {Status.REJECTED}
        assert shown(world) == -30


async def test_short_position_is_mirrored(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world, side="SELL")
        by_hand(world, 70)
        await world.run(2 * MINUTE)
        world.exit("out", "sig", side="BUY")
        await world.run(5)
        assert world.exit_record("out").filled_quantity == 30
        assert shown(world) == 0


async def test_exit_without_an_entry_is_bound_too(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -40)
        world.send("out", signal_type="EXIT", side="SELL", quantity=100)
        await world.run(5)
        assert world.exit_record("out").filled_quantity == 60


async def test_first_reading_binds_before_anybody_is_told(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        await world.run(MINUTE)
        by_hand(world, -100)
        calls = len(world.calls("positions"))
        await world.run_until(lambda: len(world.calls("positions")) > calls)
        assert rows(world) == []
        world.exit("out", "sig")
        await world.run(2)
        assert world.exit_record("out").status is Status.REJECTED
        assert shown(world) == 0


async def test_nothing_is_asked_while_nothing_differs(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        await world.run(2 * MINUTE)
        asked, read = len(world.calls("positions")), world.store_faults.reads["execution_discrepancies.find"]
        world.exit("out", "sig")
        await world.run(1)
        assert world.exit_record("out").status is Status.FILLED
        assert len(world.calls("positions")) == asked
        assert world.store_faults.reads["execution_discrepancies.find"] == read


async def test_difference_in_another_instrument_binds_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -100)
        world.send("other", symbol="SPY")
        await world.run(2)
        asked = len(world.calls("positions"))
        world.exit("out", "other", symbol="SPY")
        await world.run(1)
        assert world.exit_record("out").status is Status.FILLED
        assert len(world.calls("positions")) == asked


async def test_difference_that_has_gone_meanwhile_binds_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -40)
        by_hand(world, 40)
        world.exit("out", "sig")
        await world.run(5)
        assert world.exit_record("out").filled_quantity == 100
        assert not world.notifier.titled("Exit Capped")


async def test_holding_of_a_persons_own_beside_ours_caps_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, 50)
        world.exit("out", "sig")
        await world.run(5)
        assert world.exit_record("out").filled_quantity == 100
        assert shown(world) == 50


async def test_rows_of_an_earlier_life_bind_the_first_exit(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -100)
        await world.kill()
        world.exit("out", "sig")
        await world.start()
        await world.run(5)
        assert world.exit_record("out").status is Status.REJECTED
        assert shown(world) == 0
        audit(world)


async def test_rows_bind_in_the_replica_that_took_the_account_over(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await one.run(2)
        await differing(one, -100)
        await one.kill()
        await other.start()
        other.exit("out", "sig")
        await other.run(30)
        assert other.exit_record("out").status is Status.REJECTED
        assert shown(other) == 0


async def test_off_is_the_operators_way_out(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=OFF) as world:
        await differing(world, -100)
        asked = len(world.calls("positions"))
        world.exit("out", "sig")
        await world.run(5)
        assert world.exit_record("out").filled_quantity == 100
        assert len(world.calls("positions")) == asked


async def test_always_looks_for_every_exit_though_nobody_has_compared(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=ALWAYS) as world:
        await holding(world)
        await world.run(MINUTE)
        by_hand(world, -30)
        world.exit("out", "sig")
        await world.run(2)
        assert world.exit_record("out").filled_quantity == 70
        world.exit("more", "sig", quantity=10)
        await world.run(2)
        assert world.exit_record("more").status is Status.REJECTED
        assert shown(world) == 0


async def test_always_lets_an_exit_go_that_reduces_what_is_there(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=ALWAYS) as world:
        await holding(world)
        world.exit("out", "sig")
        await world.run(5)
        assert world.exit_record("out").status is Status.FILLED
        assert not world.notifier.titled("Exit Capped")
        audit(world)


# --- several strategies, several exits ------------------------------------------------------------------------------


async def test_what_is_left_goes_to_whoever_exits_first(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        for name in ("one", "two"):
            world.send(name, strategy_name=name, quantity=10)
        await world.run(2)
        by_hand(world, -10)
        await world.run(2 * MINUTE)
        for name in ("one", "two"):
            world.exit(f"out-{name}", name, strategy_name=name, quantity=10)
        await world.run(5)
        assert world.exit_record("out-one").filled_quantity == 10
        assert world.exit_record("out-two").status is Status.REJECTED
        assert shown(world) == 0


async def test_short_of_another_strategy_hides_none_of_what_may_be_sold(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send("long", quantity=30)
        world.send("short", strategy_name="other", side="SELL", quantity=20)
        await world.run(2)
        by_hand(world, -5)
        await world.run(2 * MINUTE)
        assert shown(world) == 5
        world.exit("out", "long", quantity=30)
        await world.run(5)
        assert world.exit_record("out").filled_quantity == 25
        assert shown(world) == -20, "as the other strategy is short"
        audit(world)


async def test_exits_at_work_count_with_all_that_they_may_still_sell(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        for name in ("one", "two"):
            world.send(name, strategy_name=name, quantity=10)
        await world.run(2)
        for name in ("one", "two"):
            world.fill(name)
        world.exit("rests", "one", strategy_name="one", quantity=8, order_type="LIMIT", limit_price=12, tif="GTC")
        await world.run(2)
        by_hand(world, -6)
        await world.run(2 * MINUTE)
        world.exit("out", "two", strategy_name="two", quantity=10)
        await world.run(5)
        assert world.exit_record("out").quantity == 6
        assert any("may still sell 8" in text for text in world.notifier.titled("Exit Capped"))
        for name in ("rests", "out"):
            world.fill(name, purpose=Purpose.EXIT)
        await world.run(2)
        assert shown(world) == 0


async def test_many_exits_at_once_take_together_no_more_than_is_there(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -35)
        for n in range(20):
            world.exit(f"out-{n}", "sig", quantity=10)
        await world.run(20)
        assert shown(world) == 0
        assert {o.status for o in world.records() if o.identity.purpose is Purpose.EXIT} == {"FILLED", "REJECTED"}
        audit(world)


async def test_exit_is_not_overtaken_while_it_is_looked_at(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -40)
        world.broker_faults.holds_answer["positions"] = asyncio.Event()
        world.exit("out", "sig")
        world.send("turn", side="SELL", quantity=25)
        world.send("else", symbol="SPY", quantity=5)
        await world.run(2)
        assert world.record("else").status is Status.FILLED, "another instrument does not wait"
        assert world.record("turn").status is Status.PENDING
        world.broker_faults.holds_answer.pop("positions").set()
        await world.run(2)
        assert world.exit_record("out").filled_quantity == 60
        assert world.record("turn").status is Status.FILLED
        assert [p.ticket.quantity for p in world.placed()][-3:] == [5, 60, 25]


# --- when the broker does not tell ----------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [NotAnswered("busy"), ValueError("not to be read"), TimeoutError()])
async def test_exit_leaves_by_the_last_known_difference_where_positions_are_not_told(
    tmp_path: Path, failure: Exception
) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -40)
        world.broker_faults.errors["positions"] = [failure] * 1000
        world.exit("out", "sig")
        await world.run(8)
        assert world.exit_record("out").status is Status.PENDING
        await world.run(4)
        order = world.exit_record("out")
        assert order.filled_quantity == 60
        assert [type(e) for e in order.events][:2] == [Noted, Capped]
        assert any("did not tell its positions" in text for text in world.notifier.titled("Attention"))
        assert shown(world) == 0


async def test_what_our_own_exits_took_since_the_last_known_figure_counts(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -40)
        world.broker_faults.errors["positions"] = [NotAnswered("busy")] * 1000
        world.exit("out-1", "sig", quantity=50)
        world.exit("out-2", "sig", quantity=50)
        await world.run(30)
        assert world.exit_record("out-1").filled_quantity == 50
        assert world.exit_record("out-2").filled_quantity == 10
        assert shown(world) == 0


async def test_answer_that_never_comes_holds_an_exit_for_ten_seconds_at_most(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -40)
        world.broker_faults.holds["positions"] = asyncio.Event()
        world.exit("out", "sig")
        await world.run(12)
        assert world.exit_record("out").filled_quantity == 60
        world.broker_faults.holds.pop("positions").set()


async def test_exit_leaves_by_our_books_where_nothing_was_ever_told(tmp_path: Path) -> None:
    never = Capabilities(reports_positions=False)
    async with world_of(tmp_path, rules=ALWAYS, starts=False, capabilities=never) as world:
        await world.start()
        await holding(world)
        world.exit("out", "sig")
        await world.run(2)
        assert world.calls("positions") == []
        assert world.exit_record("out").filled_quantity == 100
        assert any("measured by what our own books hold" in text for text in world.notifier.titled("Attention"))


@pytest.mark.parametrize("failures", [1, 1000])
async def test_trade_by_hand_is_not_forgotten_because_the_comparison_after_it_failed(
    tmp_path: Path, failures: int
) -> None:
    async with world_of(tmp_path, rules=TradingRules(reconcile_interval_seconds=600)) as world:
        await holding(world)
        await world.run(5 * MINUTE)
        asked = len(world.calls("positions"))
        world.broker_faults.errors["positions"] = [NotAnswered("busy")] * failures
        by_hand(world, -100)
        await world.run(8)
        assert len(world.calls("positions")) > asked, "compared in vain"
        world.exit("out", "sig")
        await world.run(14)
        if failures == 1:
            assert world.exit_record("out").status is Status.REJECTED
            assert shown(world) == 0
        else:
            assert world.exit_record("out").status is Status.FILLED
            assert any("did not tell its positions" in text for text in world.notifier.titled("Attention"))


async def test_lost_connection_is_waited_for_as_ever(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -40)
        world.broker_faults.unavailable = BrokerUnavailable("nightly restart", known_pause=True)
        world.exit("out", "sig")
        await world.run(60)
        assert world.exit_record("out").status is Status.PENDING
        world.broker_faults.unavailable = None
        await world.run(60)
        assert world.exit_record("out").filled_quantity == 60
        assert shown(world) == 0


async def test_exit_is_cancelled_while_it_is_looked_at(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -40)
        world.broker_faults.holds["positions"] = asyncio.Event()
        world.exit("out", "sig")
        await world.run(1)
        world.cancel(signal_id="out")
        await world.run(1)
        assert world.exit_record("out").status is Status.CANCELLED
        world.broker_faults.holds.pop("positions").set()
        await world.run(15)
        world.exit("next", "sig")
        await world.run(5)
        assert world.exit_record("next").filled_quantity == 60


async def test_death_while_it_is_looked_at_loses_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -40)
        world.broker_faults.holds["positions"] = asyncio.Event()
        world.exit("out", "sig")
        await world.run(1)
        await world.kill()
        world.broker_faults.holds.pop("positions").set()
        await world.start()
        await world.run(5)
        assert world.exit_record("out").filled_quantity == 60
        assert shown(world) == 0


# --- races ----------------------------------------------------------------------------------------------------------


async def test_fill_that_comes_while_it_is_looked_at_is_neither_missed_nor_counted_twice(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        for name in ("one", "two"):
            world.send(name, strategy_name=name, quantity=10)
        await world.run(2)
        for name in ("one", "two"):
            world.fill(name)
        world.exit("rests", "one", strategy_name="one", quantity=10, order_type="LIMIT", limit_price=12, tif="GTC")
        await world.run(2)
        by_hand(world, -4)
        await world.run(2 * MINUTE)
        broker: Any = world.brokers[ACCOUNT]
        positions = broker.positions

        async def with_a_fill_at_that_moment() -> Any:
            broker.positions = positions
            told = await positions()
            world.fill("rests", 5, purpose=Purpose.EXIT)
            return told

        broker.positions = with_a_fill_at_that_moment
        world.exit("out", "two", strategy_name="two", quantity=10)
        await world.run(10)
        assert world.exit_record("out").quantity == 6
        for name in ("rests", "out"):
            world.fill(name, purpose=Purpose.EXIT)
        await world.run(2)
        assert shown(world) == 0
        audit(world)


# --- the difference that becomes another one ------------------------------------------------------------------------


async def test_difference_that_becomes_another_is_a_new_row_and_a_new_alert(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -100)
        by_hand(world, -20)
        await world.run(2 * MINUTE)
        (row,), (closed,) = rows(world), rows(world, DiscrepancyState.CLOSED)
        assert (closed.finding.theirs, row.finding.theirs, row.finding.before) == (
            "0",
            "-20",
            "ours 100, the broker's 0",
        )
        first, second = world.notifier.titled("Discrepancy")
        assert "the broker's 0" in first
        assert "the broker's -20; before: ours 100, the broker's 0" in second
        await world.run(10 * MINUTE)
        await world.restart()
        await world.run(5 * MINUTE)
        assert len(world.notifier.titled("Discrepancy")) == 2


async def test_difference_that_flickers_is_not_told_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=TradingRules(reconcile_interval_seconds=60)) as world:
        await differing(world, -100)
        broker: Any = world.brokers[ACCOUNT]
        positions, count = broker.positions, 0

        async def late_at_times() -> Any:
            nonlocal count
            count += 1
            return [] if count % 2 else [*await positions(), *_held(7)]

        broker.positions = late_at_times
        await world.run(10 * MINUTE)
        assert count > 5
        assert len(world.notifier.titled("Discrepancy")) == 1
        assert len(rows(world)) == 1


def _held(quantity: int) -> list[Any]:
    return [BrokerPosition(instrument=STOCK, quantity=Decimal(quantity))]


async def test_exit_that_rests_at_the_broker_already_is_named_and_left_alone(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        await world.run(1)
        world.fill("sig")
        world.exit("rests", "sig", order_type="LIMIT", limit_price=12, tif="GTC")
        await world.run(2)
        by_hand(world, -100)
        await world.run(2 * MINUTE)
        (text,) = world.notifier.titled("Discrepancy")
        assert "exits at the broker that may take more than it holds, to be cancelled if so: rests (SELL 100)" in text
        assert world.calls("cancel_order") == []


async def test_trade_by_hand_is_compared_soon_and_not_after_a_minute(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=TradingRules(reconcile_interval_seconds=600)) as world:
        await holding(world)
        await world.run(5 * MINUTE)
        by_hand(world, -100)
        await world.run(8)
        world.exit("out", "sig")
        await world.run(2)
        assert world.exit_record("out").status is Status.REJECTED
        assert shown(world) == 0


async def test_exit_right_after_a_trade_by_hand_that_was_heard_of_is_bound_before_anything_is_compared(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, rules=TradingRules(reconcile_interval_seconds=0)) as world:
        await holding(world)
        await world.run(MINUTE)
        asked = len(world.calls("positions"))
        by_hand(world, -70)
        await world.run(6)
        assert len(world.calls("positions")) == asked
        world.exit("out", "sig")
        await world.run(2)
        assert world.exit_record("out").filled_quantity == 30
        (text,) = world.notifier.titled("Exit Capped")
        assert "an order of somebody else has filled there" in text


async def test_each_trade_of_others_that_names_no_order_of_theirs_binds_exits(tmp_path: Path) -> None:
    """As IBKR tells its liquidations: client id 0, order id 0 or -1, and perhaps no permanent id."""
    blotter = Blotter()

    def as_ibkr_tells(reports: Sequence[Report]) -> list[Report]:
        for report in reports:
            for fill in () if report.client_order_id else report.fills:
                execution = Execution(exec_id=fill.fill_id, quantity=fill.quantity, price=fill.price, time=fill.time)
                blotter.note_execution(client_id=0, order_id=-1, perm_id=0, client_order_id="", execution=execution)
        return [*(report for report in reports if report.client_order_id), *blotter.reports(None)]

    async with world_of(tmp_path, rules=TradingRules(reconcile_interval_seconds=600)) as world:
        await holding(world)
        await world.run(MINUTE)
        world.broker_faults.retold = as_ibkr_tells
        by_hand(world, -100, "MSFT")
        await world.run(2 * MINUTE)
        by_hand(world, -100)
        await world.run(6)
        world.exit("out", "sig")
        await world.run(2)
        assert world.exit_record("out").status is Status.REJECTED
        assert shown(world) == 0


async def test_position_that_cannot_be_read_is_like_one_that_is_not_told(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -40)
        broker: Any = world.brokers[ACCOUNT]

        async def unclear() -> Any:
            return [BrokerPosition(instrument=STOCK, quantity=Decimal(0), is_unclear=True)]

        broker.positions = unclear
        world.exit("out", "sig")
        await world.run(12)
        assert world.exit_record("out").filled_quantity == 60
        assert any("cannot be read" in text for text in world.notifier.titled("Attention"))


@pytest.mark.parametrize("theirs", [[], [0], [0, 0]])
async def test_position_that_is_absent_or_shown_as_nothing_is_nothing(tmp_path: Path, theirs: list[int]) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        broker: Any = world.brokers[ACCOUNT]

        async def told() -> Any:
            return [BrokerPosition(instrument=STOCK, quantity=Decimal(quantity)) for quantity in theirs]

        broker.positions = told
        await world.run(2 * MINUTE)
        world.exit("out", "sig")
        await world.run(5)
        assert world.exit_record("out").status is Status.REJECTED


async def test_exit_in_doubt_counts_as_if_it_could_still_sell(tmp_path: Path) -> None:
    once = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0, concurrent_calls=4)
    async with world_of(tmp_path, capabilities=once, is_unique=False) as world:
        for name in ("one", "two"):
            world.send(name, strategy_name=name, quantity=10)
        await world.run(2)
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("no answer")]
        world.exit("doubtful", "one", strategy_name="one", quantity=10)
        await world.run(20)
        assert world.exit_record("doubtful").status is Status.IN_DOUBT
        by_hand(world, -5)
        await world.run(2 * MINUTE)
        world.exit("out", "two", strategy_name="two", quantity=10)
        await world.run(10)
        assert world.exit_record("out").filled_quantity == 5
        assert any("may still sell 10" in text for text in world.notifier.titled("Exit Capped"))


async def test_store_that_is_away_while_it_is_looked_at_is_waited_for(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, -40)
        world.broker_faults.holds["positions"] = asyncio.Event()
        world.exit("out", "sig")
        await world.run(1)
        world.store_faults.is_away = True
        world.broker_faults.holds.pop("positions").set()
        await world.run(30)
        world.store_faults.is_away = False
        await world.run(30)
        assert world.exit_record("out").filled_quantity == 60
        assert shown(world) == 0


@pytest.mark.parametrize("by", [-40, -100])
async def test_partial_exits_one_after_the_other_take_what_is_there_and_no_more(tmp_path: Path, by: int) -> None:
    async with world_of(tmp_path) as world:
        await differing(world, by)
        for n in range(5):
            world.exit(f"out-{n}", "sig", quantity=20)
            await world.run(7)
        taken = sum(world.exit_record(f"out-{n}").filled_quantity for n in range(5))
        assert taken == 100 + by
        assert shown(world) == 0
        audit(world)


# --- exits that fail ------------------------------------------------------------------------------------------------


async def test_exit_that_ends_with_something_left_has_an_alert_of_its_own(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.fill("sig")
        world.exit("out", "sig", timeout_seconds=30)
        await world.run(2)
        world.fill("out", 70, purpose=Purpose.EXIT)
        await world.run(60)
        assert world.exit_record("out").status is Status.CANCELLED
        (text,) = world.notifier.titled("Exit Failed")
        assert "Remaining: 30 not closed by it" in text
        assert not world.notifier.titled("Order Timeout")


async def test_failed_exit_is_no_line_among_others(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.fill("sig")
        await world.run(1)
        world.notifier.is_away = True
        world.exit("out", "sig")
        for n in range(20):
            world.send(f"more-{n}", order_type="LIMIT", limit_price=9)
        await world.run(90)
        world.notifier.is_away = False
        await world.run(2 * MINUTE)
        assert len(world.notifier.titled("Exit Failed")) == 1


async def test_exit_that_somebody_cancels_or_that_has_nothing_to_exit_has_not_failed(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.fill("sig")
        world.exit("out", "sig")
        await world.run(2)
        world.cancel(signal_id="out")
        await world.run(5)
        world.exit("none", "sig", symbol="NVDA")
        await world.run(10)
        assert world.exit_record("out").status is Status.CANCELLED
        assert world.exit_record("none").status is Status.REJECTED
        assert not world.notifier.titled("Exit Failed")


# --- expiry, assignment, other names --------------------------------------------------------------------------------

PUT: dict[str, Any] = {
    "symbol": "XYZ",
    "instrument_type": "OPTION",
    "expiry": "20250303",
    "strike": 50,
    "right": "P",
    "multiplier": 100,
}


def move(world: World, symbol: str, quantity: int, **fields: Any) -> None:
    """Comes, or leaves, without an order."""
    traded = [p.ticket.instrument for p in world.placed() if p.ticket.instrument.symbol == symbol]
    world.book().move_position(traded[-1] if traded else Instrument(symbol=symbol, **fields), Decimal(quantity))


async def test_assigned_option_is_told_in_one_message_and_its_exit_is_refused_with_it(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(**PUT, side="SELL", quantity=1)
        await world.run(MINUTE)
        world.book().move_position(Instrument(symbol="XYZ"), Decimal(100))
        move(world, "XYZ", 1)
        await world.run(2 * MINUTE)
        (text,) = world.notifier.titled("Discrepancy")
        for fact in ("its expiry is now (20250303)", "+100 XYZ|STOCK came", "1 short put of 100", "execctl adopt"):
            assert fact in text
        world.exit("out", "sig", **PUT, side="BUY", quantity=1)
        await world.run(5)
        assert "+100 XYZ|STOCK came" in words_of(world.exit_record("out"))
        await world.restart()
        await world.run(5 * MINUTE)
        assert len(world.notifier.titled("Discrepancy")) == 1


async def test_shares_that_come_later_than_the_option_leaves_are_told_again(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.book().move_position(Instrument(symbol="XYZ"), Decimal(50))
        world.send(**PUT, side="SELL", quantity=1)
        await world.run(2 * MINUTE)
        move(world, "XYZ", 1)
        await world.run(2 * MINUTE)
        (text,) = world.notifier.titled("Discrepancy")
        assert "came" not in text, "the 50 were there before"
        world.book().move_position(Instrument(symbol="XYZ"), Decimal(100))
        await world.run(2 * MINUTE)
        _, second = world.notifier.titled("Discrepancy")
        assert "+100 XYZ|STOCK came" in second
        (row,) = rows(world)
        assert row.finding.successor == "XYZ|STOCK"
        await world.restart()
        await world.run(5 * MINUTE)
        assert len(world.notifier.titled("Discrepancy")) == 2
        assert rows(world) == [row]


async def test_renamed_shares_are_named_and_their_exit_is_refused_with_that(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world, symbol="OLD")
        await world.run(MINUTE)
        move(world, "OLD", -100)
        move(world, "NEW", 100)
        await world.run(2 * MINUTE)
        (text,) = world.notifier.titled("Discrepancy")
        assert "+100 NEW|STOCK came, as many as left: perhaps the same under another name" in text
        world.exit("out", "sig", symbol="OLD")
        await world.run(5)
        assert "+100 NEW|STOCK came" in words_of(world.exit_record("out"))


async def test_split_is_named_and_an_exit_sells_what_its_author_named(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await holding(world)
        await world.run(MINUTE)
        move(world, "AAPL", 300)
        await world.run(2 * MINUTE)
        (text,) = world.notifier.titled("Discrepancy")
        assert "split or merger of shares 4 for 1" in text
        world.exit("out", "sig")
        await world.run(5)
        assert world.exit_record("out").filled_quantity == 100


PRODUCTS = Capabilities(
    refuses_repeated_client_id=False,
    needs_reservation=True,
    fits_tickets=True,
    share_products=("CNC", "MIS", "NRML"),
    derivative_products=("NRML", "MIS"),
)


@pytest.mark.parametrize(
    ("entry", "leaving", "held_in", "leaves"),
    [
        ({"product": "MIS"}, {}, "MIS", True),
        ({"product": "MIS"}, {"product": "MIS"}, "MIS", True),
        ({}, {"product": "NRML"}, "NRML", True),
        ({"product": "NRML"}, {}, "NRML", True),
        ({"product": "MIS"}, {"product": "NRML"}, "MIS", False),
        ({}, {"product": "MIS"}, "NRML", False),
        ({"product": "MIS"}, {"product": "NRML"}, "NRML", True),  # a person has converted the position
    ],
)
async def test_an_exit_in_another_product_than_its_entrys_opens_no_position(
    tmp_path: Path, entry: dict[str, str], leaving: dict[str, str], held_in: str, leaves: bool
) -> None:
    future = {"symbol": "NIFTY26DECFUT", "instrument_type": "FUTURE", "expiry": "202612", "quantity": 50}
    async with world_of(tmp_path, capabilities=PRODUCTS, rules=RESTING) as world:
        world.broker_faults.held = lambda told: [replace(each, product=held_in) for each in told]
        world.send("in", **future, **entry)
        await world.run(2)
        world.exit("out", "in", **future, **leaving)
        await world.run(15)
        order = world.exit_record("out")
        if leaves:
            assert order.status is Status.FILLED
            assert order.ticket().product == (leaving or entry)["product"]
        else:
            assert (order.status, order.reason and order.reason.code) == (Status.REJECTED, ReasonCode.NOTHING_TO_EXIT)
            assert order.reason is not None
            assert (
                f"the broker holds 0 of NIFTY26DECFUT|FUTURE|expiry=202612 in {leaving['product']}"
                in order.reason.message
            )
        assert len(world.placed()) == 1 + leaves


@pytest.mark.parametrize(
    ("held_in", "named", "leaves_in"),
    [
        ("MIS", None, "MIS"),  # the one that its strategy holds
        ("MIS", "MIS", "MIS"),
        ("CNC", None, None),  # the usual one, which need not be named
        ("MIS", "CNC", ""),
        ("CNC", "MIS", ""),
    ],
)
async def test_an_exit_without_an_entry_closes_what_its_strategy_holds_in_its_product(
    tmp_path: Path, held_in: str, named: str | None, leaves_in: str | None
) -> None:
    """`leaves_in`: empty where it is to be refused, since it would open a position in another product."""
    async with world_of(tmp_path, capabilities=PRODUCTS, rules=RESTING) as world:
        world.broker_faults.held = lambda told: [replace(each, product=held_in) for each in told]
        world.send(**({} if held_in == "CNC" else {"product": held_in}))
        await world.run(1)
        world.send("out", signal_type="EXIT", side="SELL", **({} if named is None else {"product": named}))
        await world.run(15)
        order = world.exit_record("out")
        if leaves_in == "":
            assert order.reason is not None
            assert order.reason.code is ReasonCode.NOTHING_TO_EXIT
            assert len(world.placed()) == 1
        else:
            assert (order.status, order.ticket().product) == (Status.FILLED, leaves_in)
