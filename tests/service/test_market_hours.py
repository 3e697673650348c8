"""Trading hours: what the real calendars say, what happens where they say nothing, and that orders are held, refused and let go by them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest

from brokers.base import OrderType, ReportStatus
from execution_service.calendars import hours
from execution_service.calendars.hours import RETRY_SECONDS, ExchangeHours, Window, window_of
from execution_service.core.orders.events import AwaitsOpening, Sized
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.risk.gate import Session
from execution_service.core.risk.limits import SessionRule
from execution_service.runtime.threads import InPlace
from execution_service.trading.trader import TradingRules
from tests.core.risk_cases import written
from tests.fakes import BY_HAND, RESTING, World, world_of
from tests.fakes.clock import HandClock

T = TypeVar("T")
CLOSED_FOR = timedelta(hours=2)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- what the calendars say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calendar", "now", "until", "is_open"),
    [
        ("XNYS", "2025-03-03 14:29:59", "2025-03-03 14:30", False),
        ("XNYS", "2025-03-03 14:30:00", "2025-03-03 21:00", True),
        ("XNYS", "2025-03-03 20:59:59", "2025-03-03 21:00", True),
        ("XNYS", "2025-03-07 21:00:00", "2025-03-10 13:30", False),  # a weekend in which the clocks are changed
        ("XNYS", "2025-11-28 17:59:00", "2025-11-28 18:00", True),  # a short day
        ("XNYS", "2025-12-25 15:00:00", "2025-12-26 14:30", False),
        ("XBOM", "2025-03-03 03:45:00", "2025-03-03 10:00", True),
        ("XHKG", "2025-03-03 04:30:00", "2025-03-03 05:00", False),  # lunch
        ("24/7", "2025-12-25 15:00:00", None, True),
    ],
)
def test_what_a_calendar_says_of_a_moment(calendar: str, now: str, until: str | None, is_open: bool) -> None:
    window = window_of(calendar, at(now))
    assert window.covers(at(now))
    assert window.session.is_open is is_open
    assert until is None or window.ends == at(until)
    assert window.session.opens_at == (None if is_open else window.ends)


def test_a_moment_that_a_calendar_does_not_reach_is_not_known() -> None:
    with pytest.raises(LookupError):
        window_of("XNYS", at("2199-01-01 12:00"))


# --- a package that fails ------------------------------------------------------------------------------------------


async def test_what_was_looked_up_is_not_looked_up_again_before_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[datetime] = []

    def window(calendar: str, now: datetime) -> Window:
        asked.append(now)
        return Window(now, now + timedelta(hours=1), Session(is_open=True))

    monkeypatch.setattr(hours, "window_of", window)
    clock = HandClock()
    known = ExchangeHours(clock=clock, blocking=InPlace())
    now = at("2025-03-03 15:00")
    for minutes in (0, 30, 59, 60, 90):
        assert await known.session("XNYS", now + timedelta(minutes=minutes)) == Session(is_open=True)
    assert asked == [now, now + timedelta(minutes=60)]


async def test_a_package_that_is_missing_is_said_once_and_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def window(calendar: str, now: datetime) -> Window:
        tries.append(calendar)
        raise ImportError("No module named 'exchange_calendars'")

    monkeypatch.setattr(hours, "window_of", window)
    clock = HandClock()
    known = ExchangeHours(clock=clock, blocking=InPlace())
    for _ in range(3):
        assert await known.session("XNYS", clock.now()) is None
    assert len(tries) == 1
    clock.move(RETRY_SECONDS + 1)
    assert await known.session("XNYS", clock.now()) is None
    assert len(tries) == 2


async def test_a_calendar_that_is_slow_to_read_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never:
        async def run(self, call: Callable[[], T]) -> T:
            await asyncio.Event().wait()
            return call()

        def close(self) -> None:
            pass

    monkeypatch.setattr(hours, "PATIENCE_SECONDS", 0.01)
    known = ExchangeHours(clock=HandClock(), blocking=Never())
    assert await known.session("XNYS", at("2025-03-03 15:00")) is None
    assert len(known._reading) == 1
    for reading in known._reading.values():
        reading.cancel()


# --- orders ---------------------------------------------------------------------------------------------------------


class Hours:
    """Closed until a moment, then open; or not known."""

    def __init__(self, opens_at: datetime | None, *, is_known: bool = True) -> None:
        self.opens_at, self.is_known = opens_at, is_known

    async def session(self, calendar: str, now: datetime) -> Session | None:
        assert calendar == "XNYS"
        if not self.is_known:
            return None
        is_closed = self.opens_at is not None and now < self.opens_at
        return Session(is_open=not is_closed, opens_at=self.opens_at if is_closed else None)


def closed(world: World, rule: SessionRule = SessionRule.HOLD, **changes: Any) -> datetime:
    opens_at = world.clock.now() + CLOSED_FOR
    world.risk_rules.hours = Hours(opens_at, **changes)
    return opens_at


def rule(session: SessionRule, **more: Any) -> Any:
    return written(session=session, **more)


async def test_an_order_is_held_until_its_market_opens_however_old_it_gets(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=rule(SessionRule.HOLD)) as world:
        opens_at = closed(world)
        world.send()
        await world.run(600)  # twice its age limit
        order = world.record("sig")
        assert (order.status, order.opens_at) == (Status.PENDING, opens_at)
        assert sum(isinstance(event, AwaitsOpening) for event in order.events) == 1
        await world.run(CLOSED_FOR.total_seconds() - 590)
        assert world.record("sig").status is Status.SUBMITTED


async def test_it_is_held_through_a_death(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=rule(SessionRule.HOLD)) as world:
        opens_at = closed(world)
        world.send()
        await world.run(60)
        await world.restart(after_seconds=1200)
        await world.run(60)
        assert world.record("sig").status is Status.PENDING
        await world.run((opens_at - world.clock.now()).total_seconds() + 10)
        assert world.record("sig").status is Status.SUBMITTED


async def test_its_age_counts_from_the_opening(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=rule(SessionRule.HOLD)) as world:
        opens_at = closed(world)
        world.send()
        await world.run(60)
        await world.kill()
        world.clock.move((opens_at - world.clock.now()).total_seconds() + 400)
        await world.start()
        await world.run(10)
        order = world.record("sig")
        assert order.status is Status.REJECTED
        assert order.reason is not None
        assert order.reason.code is ReasonCode.STALE_ORDER


async def test_it_can_be_cancelled_while_it_is_held(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=rule(SessionRule.HOLD)) as world:
        closed(world)
        world.send()
        await world.run(10)
        world.cancel(signal_id="sig")
        await world.run(10)
        assert world.record("sig").status is Status.CANCELLED


async def test_a_closed_market_refuses_where_that_is_the_rule_and_names_the_opening(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=rule(SessionRule.REFUSE)) as world:
        opens_at = closed(world)
        world.send()
        await world.run(5)
        order = world.record("sig")
        assert order.status is Status.REJECTED
        assert f"it opens at {opens_at:%Y-%m-%d %H:%M} UTC" in str(order.reason)


@pytest.mark.parametrize(
    ("session", "status"), [(SessionRule.HOLD, Status.SUBMITTED), (SessionRule.REFUSE, Status.REJECTED)]
)
async def test_an_exit_leaves_in_a_closed_market_unless_that_refuses(
    tmp_path: Path, session: SessionRule, status: Status
) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=rule(session)) as world:
        world.risk_rules.hours = Hours(None)
        world.send("entry")
        await world.run(3)
        world.fill("entry")
        await world.run(3)
        closed(world)
        world.exit("out", "entry")
        await world.run(5)
        (out,) = (order for order in world.records() if order.signal_id == "out")
        assert out.status is status


async def test_an_exit_that_a_closed_market_refuses_takes_no_stop_down(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=rule(SessionRule.REFUSE)) as world:
        world.risk_rules.hours = Hours(None)
        world.send("entry", order_type="LIMIT", limit_price=10, stop_loss=9)
        await world.run(3)
        world.fill("entry")
        await world.run(3)
        (stop,) = [placed for placed in world.placed() if placed.ticket.order_type is OrderType.STOP]
        closed(world)
        world.exit("out", "entry")
        await world.run(30)
        (out,) = (order for order in world.records() if order.signal_id == "out")
        assert out.status is Status.REJECTED
        still = next(p for p in world.placed() if p.ticket.client_order_id == stop.ticket.client_order_id)
        assert still.status is ReportStatus.WORKING


@pytest.mark.parametrize("session", [SessionRule.HOLD, SessionRule.REFUSE])
async def test_where_nobody_knows_a_written_rule_refuses_new_risk(tmp_path: Path, session: SessionRule) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=rule(session)) as world:
        closed(world, is_known=False)
        world.send()
        await world.run(5)
        order = world.record("sig")
        assert order.status is Status.REJECTED
        assert "it cannot be told whether the market is open" in str(order.reason)


async def test_without_a_rule_no_calendar_is_asked(tmp_path: Path) -> None:
    class Asked:
        async def session(self, calendar: str, now: datetime) -> Session | None:
            raise AssertionError("asked")

    async with world_of(tmp_path, market=BY_HAND) as world:
        world.risk_rules.hours = Asked()
        world.send()
        await world.run(3)
        assert world.record("sig").status is Status.SUBMITTED


async def test_an_order_without_a_quantity_is_sized_at_the_opening(tmp_path: Path) -> None:
    rules = TradingRules(risk_per_trade=Decimal("0.01"))
    async with world_of(tmp_path, market=BY_HAND, rules=rules, limits=rule(SessionRule.HOLD)) as world:
        opens_at = closed(world)
        world.send(quantity=None, order_type="LIMIT", limit_price=50, price=None, stop_loss=48)
        await world.run(60)
        assert (world.record("sig").status, world.record("sig").quantity) == (Status.PENDING, None)
        await world.run(CLOSED_FOR.total_seconds())
        order = world.record("sig")
        (size,) = (event for event in order.events if isinstance(event, Sized))
        assert size.at >= opens_at
        assert order.quantity == 5000


@pytest.mark.parametrize(
    ("confidence", "status"),
    [(0.9, Status.SUBMITTED), ("0.8", Status.SUBMITTED), (0.79, Status.REJECTED), (None, Status.REJECTED)],
)
async def test_an_order_s_confidence_is_compared(tmp_path: Path, confidence: Any, status: Status) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=written(min_confidence="0.8")) as world:
        world.send(confidence=confidence)
        await world.run(3)
        assert world.record("sig").status is status
