"""An odd value from a broker, in a report or a position, makes one thing unclear, is told once, and stops nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import UNNAMED_POSITION, Capabilities, Report, ReportStatus, Unreadable
from execution_service.core.orders.exit_bound import ExitPositionCheck
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import ReasonCode, Status
from tests.fakes import BY_HAND, RESTING, World, world_of
from tests.service.audit import audit
from tests.service.positions import positions_of, some_position


def spoiling(world: World, signal_id: str, spoil: Callable[[Report], Report]) -> None:
    """The broker tells of this order what `spoil` makes of it."""
    tag = World.client_id(signal_id)

    def retold(reports: Sequence[Report]) -> list[Report]:
        return [spoil(report) if report.client_order_id == tag else report for report in reports]

    world.broker_faults.retold = retold


def with_fill(report: Report, **changes: Any) -> Report:
    return replace(report, fills=tuple(replace(fill, **changes) for fill in report.fills))


ODD_REPORTS: dict[str, Callable[[Report], Report]] = {
    "a price that is no number": lambda report: with_fill(report, price=Decimal("NaN")),
    "an infinite price": lambda report: with_fill(report, price=Decimal("Infinity")),
    "a price as text": lambda report: with_fill(report, price="10.5"),
    "a price of none": lambda report: with_fill(report, price=None),
    "a quantity of nothing": lambda report: with_fill(report, quantity=Decimal(0)),
    "a negative quantity": lambda report: with_fill(report, quantity=Decimal(-100)),
    "a huge quantity": lambda report: with_fill(report, quantity=Decimal("1E+300")),
    "an execution without an id": lambda report: with_fill(report, fill_id=""),
    "an execution that is none": lambda report: replace(report, fills=(None,)),  # type: ignore[arg-type]
    "a count that is no number": lambda report: replace(report, filled_quantity=Decimal("NaN"), fills=()),
    "a negative count": lambda report: replace(report, filled_quantity=Decimal(-1), fills=()),
    "no executions at all": lambda report: replace(report, fills=None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("spoil", ODD_REPORTS.values(), ids=ODD_REPORTS)
async def test_a_report_with_an_odd_value_holds_up_no_other_order(
    tmp_path: Path, spoil: Callable[[Report], Report]
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("odd")
        world.send("sound", symbol="MSFT")
        await world.run(1)
        spoiling(world, "odd", spoil)
        world.fill("odd")
        world.fill("sound")
        await world.run(60)
        assert world.record("sound").status is Status.FILLED
        assert world.record("odd").status is Status.SUBMITTED
        world.send("new", symbol="TSLA")
        await world.run(1)
        world.fill("new")
        await world.run(2)
        assert world.record("new").status is Status.FILLED
        assert [each for each in world.broker_calls if each[0] == "connect"] == [("connect", "")]
        told = [text for text in world.notifier.texts if "odd" in text and "cannot be read" in text.lower()]
        assert len(told) == 1
        assert len([entry for entry in world.logs if entry.get("log_level") == "error"]) <= 1
        world.broker_faults.retold = None
        await world.run(70)
        assert world.record("odd").status is Status.FILLED
        audit(world)


async def test_an_exit_whose_contract_makes_the_adapter_stumble_holds_up_no_other_order(tmp_path: Path) -> None:
    one_by_one = Capabilities(refuses_repeated_client_id=True, fits_tickets=True, needs_reservation=True)
    async with world_of(tmp_path, rules=RESTING, capabilities=one_by_one) as world:
        world.send("in")
        await world.run(1)
        world.broker_faults.unfitting["AAPL"] = [ValueError("a figure that is none")] * 1000
        world.exit("out", "in")
        await world.run(0.2)
        for name, symbol in (("new", "MSFT"), ("newer", "TSLA")):
            world.send(name, symbol=symbol)
        await world.run(1)
        assert world.record("new").status is Status.FILLED
        assert world.record("newer").status is Status.FILLED
        await world.run(10)
        order = world.exit_record("out")
        assert (order.status, order.reason and order.reason.code) == (Status.REJECTED, ReasonCode.BROKER_UNAVAILABLE)
        assert order.reason is not None
        assert "a figure that is none" in order.reason.message
        assert len(world.notifier.titled("Exit Failed")) == 1


@pytest.mark.parametrize("quantity", [Decimal("NaN"), Decimal("Infinity"), Decimal("1E+300")])
async def test_an_exit_leaves_though_the_broker_tells_a_position_that_can_be_none(
    tmp_path: Path, quantity: Decimal
) -> None:
    rules = replace(RESTING, exit_position_check=ExitPositionCheck.ALWAYS)
    async with world_of(tmp_path, rules=rules) as world:
        world.send("in")
        await world.run(1)
        world.broker_faults.held = lambda told: [replace(each, quantity=quantity) for each in told]
        world.exit("out", "in")
        await world.run(15)
        assert world.exit_record("out").status is Status.FILLED
        assert [text for text in world.notifier.texts if "cannot be read" in text and "own books hold" in text]


async def test_what_of_an_odd_report_is_sound_is_recorded(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("odd")
        await world.run(1)
        spoiling(
            world,
            "odd",
            lambda report: replace(
                report,
                status=ReportStatus.CANCELLED,
                fills=(*report.fills, *(with_fill(report, fill_id="f-2", quantity=Decimal("NaN")).fills)),
            ),
        )
        world.fill("odd", 40)
        await world.run(5)
        order = world.record("odd")
        assert (order.status, order.filled_quantity) == (Status.PARTIALLY_FILLED, 40)


@pytest.mark.parametrize(
    "moment",
    [None, "2025-03-03", datetime(2025, 3, 3, 15), datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)],  # noqa: DTZ001
)
async def test_a_fill_whose_time_can_be_none_is_taken_as_of_now_and_marked(tmp_path: Path, moment: Any) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("odd")
        await world.run(1)
        spoiling(world, "odd", lambda report: with_fill(report, time=moment))
        world.fill("odd")
        await world.run(2)
        (fill,) = world.record("odd").fills
        assert fill.is_time_estimated
        first = fill.time
        await world.run(70)
        await world.restart()
        await world.run(70)
        (fill,) = world.record("odd").fills
        assert fill.time == first
        (body,) = [body for body in world.publisher.of("odd") if body["status"] == "FILLED"]
        assert body["last_fill"]["is_time_estimated"] is True
        (shown,) = world.documents("execution_confirmations")
        assert shown["fills"][0]["is_time_estimated"] is True
        assert not [body for body in world.publisher.of("odd") if body.get("correction")]
        audit(world)


async def test_a_fill_of_the_future_is_kept_and_breaks_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in", mathematricks_signal_id="0" * 24)
        await world.run(1)
        ahead = world.clock.now().replace(year=world.clock.now().year + 1)
        spoiling(world, "in", lambda report: with_fill(report, time=ahead))
        world.fill("in")
        await world.run(2)
        world.exit("out", "in")
        await world.run(2)
        world.fill("out", purpose=Purpose.EXIT)
        await world.run(2)
        assert world.record("in").fills[0].time == ahead
        assert world.exit_record("out").status is Status.FILLED
        (signal,) = world.documents("signal_store", signal_id="out")
        assert signal["pnl"]["holding_period_seconds"] == 0.0
        audit(world)


async def test_an_unclear_report_ends_no_order_and_is_told_of_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("odd")
        await world.run(1)
        tag = World.client_id("odd")
        spoiling(world, "odd", lambda report: replace(report, status=ReportStatus.CANCELLED, is_unclear=True))
        world.broker_faults.unreadable = (Unreadable(client_order_id=tag, words="an execution: 11,x,y"),)
        await world.run(120)
        await world.restart()
        await world.run(120)
        assert world.record("odd").status is Status.SUBMITTED
        assert len([text for text in world.notifier.texts if "11,x,y" in text]) == 1
        world.broker_faults.retold, world.broker_faults.unreadable = None, ()
        world.fill("odd")
        await world.run(10)
        assert world.record("odd").status is Status.FILLED


async def test_what_cannot_be_read_and_belongs_to_no_order_is_told_in_one_alert(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.broker_faults.unreadable = tuple(Unreadable(words=f"row {n}") for n in range(20))
        await world.run(300)
        (text,) = world.notifier.titled("Cannot Be Read")
        assert "row 0" in text
        assert "19 more" in text


async def test_a_report_of_a_finished_order_that_cannot_be_recorded_holds_up_no_other(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        for name in ("odd", "sound"):
            world.send(name)
            await world.run(1)
            world.fill(name, 40)
            world.cancel(signal_id=name)
            await world.run(2)
        spoiling(world, "odd", lambda report: with_fill(report, commission=Decimal("NaN"), price=Decimal("NaN")))
        world.fill("sound", 10, force=True)
        world.fill("odd", 10, force=True)
        await world.run(70)
        assert world.record("sound").filled_quantity == 50
        world.broker_faults.retold = None
        await world.run(70)
        assert world.record("odd").filled_quantity == 50
        audit(world)


@pytest.mark.parametrize(
    "held",
    [
        some_position("AAPL", Decimal("NaN")),
        some_position("AAPL", None),
        some_position("AAPL", "100"),
        some_position("AAPL", Decimal(0), is_unclear=True),
        lambda told: [UNNAMED_POSITION, *(p for p in told if p.instrument.symbol != "AAPL")],
    ],
)
async def test_a_position_that_cannot_be_read_is_not_compared_and_the_others_are(tmp_path: Path, held: Any) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await positions_of(world)
        world.broker_faults.held = held
        await world.run(200)
        assert world.documents("execution_discrepancies") == []
        (text,) = world.notifier.titled("Cannot Be Read")
        assert "AAPL" in text or "does not say what is held" in text
        world.broker_faults.held = lambda told: some_position("MSFT", Decimal(7))(held(told))
        await world.run(200)
        (found,) = world.documents("execution_discrepancies")
        assert (found["finding"]["subject"], found["finding"]["theirs"]) == ("MSFT|STOCK", "7")


async def test_a_difference_stays_open_while_the_position_cannot_be_read(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await positions_of(world)
        world.broker_faults.held = some_position("AAPL", Decimal(7))
        await world.run(200)
        assert [each["state"] for each in world.documents("execution_discrepancies")] == ["OPEN"]
        world.broker_faults.held = some_position("AAPL", Decimal(0), is_unclear=True)
        await world.run(300)
        assert [each["state"] for each in world.documents("execution_discrepancies")] == ["OPEN"]
        world.broker_faults.held = None
        await world.run(300)
        assert [each["state"] for each in world.documents("execution_discrepancies")] == ["CLOSED"]
