"""What people have to be told is told once it is durable, though the alert could not be stored at first."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from pymongo.errors import AutoReconnect

from brokers.base import BrokerPosition, Capabilities, Instrument, Unreadable
from brokers.errors import AuthRequired, BrokerUnavailable, HeldBack, RateLimited
from execution_service.trading.trader import TradingRules
from tests.fakes import ACCOUNT, BY_HAND, two_worlds, world_of

RESERVING = Capabilities(needs_reservation=True, refuses_repeated_client_id=False)


def broken() -> RuntimeError:
    return RuntimeError("of nobody's making")


async def test_people_hear_of_orders_that_nobody_works_though_the_store_failed_in_that_moment(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, lease_seconds=8.0) as world:
        world.send()
        await world.run(2)
        await world.stop()
        world.unname_accounts()
        await world.start()
        assert not world.notifier.titled("Account Not Configured")
        world.store_faults.is_away = True
        await world.run(3)
        world.store_faults.is_away = False
        await world.run(90)
        assert len(world.notifier.titled("Account Not Configured")) == 1


async def test_people_hear_of_orders_whose_holder_is_dead_and_that_nobody_works(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, lease_seconds=8.0) as world:
        world.send()
        await world.run(2)
        await world.kill()
        world.unname_accounts()
        await world.start()
        await world.run(180)
        assert len(world.notifier.titled("Account Not Configured")) == 1


async def test_people_hear_of_orders_that_nobody_works_though_the_alert_failed_at_first(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(2)
        await world.kill()
        world.unname_accounts()
        await world.start()
        world.store_faults.breaks["execution_alerts.update_one"] = [broken()]
        await world.run(90)
        assert len(world.notifier.titled("Account Not Configured")) == 1


async def test_people_hear_of_a_record_that_cannot_be_read_though_the_alert_failed_at_first(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.mongo["trading"]["execution_orders"].insert_one(
            {"_id": "odd", "account_id": ACCOUNT, "lookup": ["unsettled"], "version": "x"}
        )
        world.store_faults.breaks["execution_alerts.update_one"] = [broken()]
        await world.start()
        await world.run(90)
        assert len(world.notifier.titled("Record Cannot Be Read")) == 1


async def test_a_dead_letter_is_acknowledged_when_its_alert_is_stored(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        away = [AutoReconnect("connection refused")] * 100
        world.store_faults.breaks["execution_alerts.update_one"] = list(away)
        world.send_raw(b"not an order")
        await world.run(3)
        await world.restart()
        world.store_faults.breaks.clear()
        await world.run(90)
        assert len(world.notifier.titled("Dead Letter")) == 1
        assert world.orders.unacknowledged == []


async def test_exits_that_cannot_leave_are_told_though_the_alert_failed_at_first(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=RESERVING) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(2)
        spent = RateLimited("the rate budget is spent", wait_seconds=86_128.0)
        world.broker_faults.errors["reserve"] = [spent] * 10_000
        world.exit("out", "in")
        await world.run(5.5)
        world.store_faults.breaks["execution_alerts.update_one"] = [broken()]
        await world.run(200)
        assert len(world.notifier.titled("Cannot Leave")) == 1


async def test_exits_that_cannot_leave_are_told_though_the_trader_was_begun_anew_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send("in")
        await world.run(1)
        world.fill("in")
        await world.run(2)
        world.broker_faults.unavailable = BrokerUnavailable("the line is cut", known_pause=True)
        world.exit("out", "in")
        await world.run(5.5)
        trader = world.service.accounts.traders[ACCOUNT]
        turn = trader._turn

        def stumbles_once() -> float | None:
            monkeypatch.setattr(trader, "_turn", turn)
            raise broken()

        monkeypatch.setattr(trader, "_turn", stumbles_once)
        trader._timers.wake()
        await world.run(100)
        assert len(world.notifier.titled("Cannot Leave")) == 1


async def test_people_hear_of_orders_that_are_held_though_the_alert_failed_at_first(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=RESERVING) as world:
        held = HeldBack("the instruments list cannot be had", wait_seconds=10.0)
        world.broker_faults.errors["reserve"] = [held] * 10_000
        world.store_faults.breaks["execution_alerts.update_one"] = [broken()]
        world.send()
        await world.run(60)
        assert len(world.notifier.titled("Orders Held")) == 1


async def test_people_hear_that_a_login_is_needed_though_the_alert_failed_at_first(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unavailable = AuthRequired("log in")
        world.store_faults.breaks["execution_alerts.update_one"] = [broken()]
        await world.start()
        await world.run(60)
        assert len(world.notifier.titled("Login Required")) == 1


async def test_people_hear_of_a_limited_session_though_the_alert_failed_at_first(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False, capabilities=Capabilities(concern="another client id")) as world:
        world.store_faults.breaks["execution_alerts.update_one"] = [broken()]
        await world.start()
        await world.run(60)
        assert len(world.notifier.titled("Limited Session")) == 1


async def test_people_hear_of_a_report_that_cannot_be_read_though_the_alert_failed_at_first(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unreadable = (Unreadable(words="a row"),)
        world.store_faults.breaks["execution_alerts.update_one"] = [broken()]
        await world.start()
        await world.run(60)
        assert len(world.notifier.titled("Cannot Be Read")) == 1


async def test_people_hear_of_a_position_that_cannot_be_read_though_the_alert_failed_at_first(tmp_path: Path) -> None:
    rules = TradingRules(reconcile_interval_seconds=10.0)
    async with world_of(tmp_path, starts=False, rules=rules) as world:
        unclear = BrokerPosition(instrument=Instrument(symbol="AAPL"), quantity=Decimal(0), is_unclear=True)
        world.broker_faults.held = lambda told: [unclear]
        world.store_faults.breaks["execution_alerts.update_one"] = [broken()]
        await world.start()
        await world.run(60)
        assert len(world.notifier.titled("Cannot Be Read")) == 1


async def test_people_do_not_hear_of_orders_that_another_process_has_ended_meanwhile(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND) as (one, other):
        one.send()
        await one.run(2)
        other.unname_accounts()
        await other.start()
        other.service.accounts.take((await other.store_beside().load([one.record().order_id]))[0])
        await other.run(5)
        one.fill("sig")
        await one.run(5)
        await one.stop()
        await other.run(200)
        assert not other.notifier.titled("Account Not Configured")
        assert other.service.orphans.by_account == {}


async def test_alerts_that_wait_for_the_store_survive_one_that_cannot_be_stored(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.breaks["execution_alerts.update_one"] = [
            AutoReconnect("connection refused"),
            AutoReconnect("connection refused"),
            broken(),
        ]
        await world.service.delivery.raise_alert("one", "One")
        await world.service.delivery.raise_alert("other", "Other")
        await world.run(30)
        assert sorted(text for text in world.notifier.texts if text in ("One", "Other")) == ["One", "Other"]
