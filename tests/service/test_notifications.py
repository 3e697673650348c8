"""What people are told, by which rules many lines become one message, and when Telegram is away; by a hand-moved clock."""

from __future__ import annotations

import asyncio
import gc
from datetime import datetime
from pathlib import Path

import pytest

from brokers.paper.model import Action, Fault, Operation
from execution_service.core.orders.status import Status
from execution_service.core.texts.notices import NoticeKind
from execution_service.recording.live_orders import LiveOrder
from execution_service.storage.ports.alerts import Alert
from tests.fakes import ONLY_A_TAG, world_of
from tests.service.audit import audit

HOUR = 3600.0


async def test_what_tells_of_a_kill_goes_before_alerts_that_wait(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.notifier.is_away = True
        for number in range(5):
            await world.service.delivery.raise_alert(f"odd{number}", f"odd {number}")
        await world.run(5)
        await world.service.delivery.raise_alert_once("kill_switch:x", "kill_switch:x", "killed")
        await world.run(5)
        world.notifier.is_away = False
        await world.run(120)
        assert world.notifier.texts[0] == "killed"
        assert sorted(world.notifier.texts[1:]) == [f"odd {number}" for number in range(5)]


async def test_kinds_that_are_switched_off_are_not_sent_but_kills_are(tmp_path: Path) -> None:
    async with world_of(tmp_path, notices=frozenset({NoticeKind.ENDINGS})) as world:
        world.send("sig")
        world.send("bad", quantity=-5)
        await world.service.delivery.raise_alert("odd", "odd")
        await world.service.delivery.raise_alert_once("kill_switch:x", "kill_switch:x", "killed")
        await world.run(120)
        assert world.record().status is Status.FILLED
        assert len(world.notifier.texts) == 2
        assert "killed" in world.notifier.texts
        assert not world.unsettled()
        assert not world.documents("execution_alerts", sent_at=None)


async def test_alarms_raised_while_the_store_is_away_are_told_once_it_is_back(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await world.run(1)
        world.store_faults.is_away = True
        for number in (1, 2, 3):
            await world.service.delivery.raise_alert("broker_down:acct-1", f"🔌 *Broker Down* {number}")
        await world.service.delivery.raise_alert("dead_letter", "📭 *Unusable Message*", 7)
        await world.run(30)
        assert not world.notifier.texts
        world.store_faults.is_away = False
        await world.run(30)
        assert len([text for text in world.notifier.texts if "Broker Down* 3" in text]) == 1
        assert len([text for text in world.notifier.texts if "Unusable Message" in text]) == 1
        await world.run(300)
        assert len(world.notifier.texts) == 2
        assert sorted(d["count"] for d in world.documents("execution_alerts")) == [3, 7]


async def test_an_alert_that_is_stored_when_another_of_its_kind_is_being_sent_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path) as world:
        alerts, sent, stored = world.service.delivery.alerts, asyncio.Event(), asyncio.Event()
        raise_alert, alert_sent = alerts._store.raise_alert, alerts._store.alert_sent

        async def late(alert: Alert) -> bool:
            if "second" in alert.text:
                await sent.wait()
            elif "third" in alert.text:
                await stored.wait()
            return await raise_alert(alert)

        async def marks(alert: Alert, at: datetime) -> None:
            if not sent.is_set():
                sent.set()
                await world.clock.sleep(1)
            await alert_sent(alert, at)
            stored.set()

        monkeypatch.setattr(alerts._store, "raise_alert", late)
        monkeypatch.setattr(alerts._store, "alert_sent", marks)
        raised = asyncio.gather(
            *(alerts.raise_alert("odd", f"*Odd* {which}") for which in ("first", "second", "third"))
        )
        await world.run(200)
        await raised
        assert "first" in world.notifier.texts[0]
        documents = world.documents("execution_alerts")
        assert "third" in world.notifier.texts[-1]
        assert sum(d["count"] for d in documents) == 3
        assert all(d["sent_at"] is not None and d["sent_count"] == d["count"] for d in documents)


async def test_an_alarm_does_not_wait_because_one_of_another_kind_has_to(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        for _ in range(2):
            await world.service.delivery.raise_alert("broker_down:acct-1", "🔌 *Broker Down*")
            await world.run(2)
        await world.service.delivery.raise_alert("dead_letter", "📭 *Unusable Message*")
        await world.run(2)
        assert [text.partition("*")[2] for text in world.notifier.texts] == ["Broker Down*", "Unusable Message*"]
        await world.run(60)
        assert len(world.notifier.titled("Broker Down")) == 2


async def test_dead_telegram_delays_nothing_and_its_alerts_come_later(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.notifier.is_away = True
        for n in range(10):
            world.send(f"sig-{n}", symbol=f"S{n}")
        await world.run(2)
        assert all(world.publisher.statuses(f"sig-{n}") == ["FILLED"] for n in range(10))
        await world.run(1800)
        world.notifier.is_away = False
        await world.run(120)
        assert len(world.notifier.titled("Order Filled")) == 10


async def test_alert_older_than_an_hour_is_dropped_and_a_younger_one_is_not(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.notifier.is_away = True
        world.send("old")
        await world.run(HOUR - 100)
        world.send("young")
        await world.run(300)
        world.notifier.is_away = False
        await world.run(120)
        (text,) = world.notifier.titled("Order Filled")
        assert "young" in text
        assert not world.unsettled()


async def test_doubt_that_still_stands_is_told_however_old_it_is(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)
    async with world_of(tmp_path, faults=[fault], capabilities=ONLY_A_TAG, is_unique=False) as world:
        world.notifier.is_away = True
        world.send()
        await world.run(HOUR - 100)
        await world.restart()
        await world.run(300)
        world.notifier.is_away = False
        await world.run(120)
        assert world.record().status is Status.IN_DOUBT
        assert len(world.notifier.titled("Order In Doubt")) == 1


async def test_alert_younger_than_an_hour_survives_a_restart(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.notifier.is_away = True
        world.send()
        world.send_raw(b"rubbish")
        await world.run(600)
        await world.restart()
        world.notifier.is_away = False
        await world.run(120)
        assert len(world.notifier.titled("Order Filled")) == 1
        assert len(world.notifier.titled("Dead Letter")) == 1


async def test_broken_notifier_stops_no_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world_of(tmp_path) as world:
        send, broken = world.notifier.send, [True]

        async def breaks(text: str) -> None:
            if broken:
                broken.pop()
                raise RuntimeError("the notifier broke")
            await send(text)

        monkeypatch.setattr(world.notifier, "send", breaks)
        for n in range(5):
            world.send(f"sig-{n}")
            await world.run(2)
        await world.run(60)
        assert all(world.publisher.statuses(f"sig-{n}") for n in range(5))
        assert not world.unsettled()
        assert len(world.notifier.titled("Order Filled")) == 5


async def test_without_telegram_orders_are_settled_all_the_same(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.notifier.enabled = False
        world.send()
        world.send_raw(b"rubbish")
        await world.run(2)
        assert not world.unsettled()
        assert not world.documents("execution_alerts", sent_at=None)


async def test_many_waiting_outcomes_go_together_a_line_an_order(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.notifier.is_away = True
        for n in range(120):
            world.send(f"sig-{n:03d}", symbol=f"S{n % 7}")
        await world.run(20)
        world.notifier.is_away = False
        await world.run(120)
        digests = world.notifier.titled("Orders")
        assert len(world.notifier.sent) < 20
        lines = [line for text in digests for line in text.splitlines()[2:]]
        assert all(len(text) <= 4096 for text in world.notifier.texts)
        alone = world.notifier.titled("Order Filled")
        told = [n for n in range(120) if any(f"sig-{n:03d} ·" in line for line in lines)]
        assert len(told) + len(alone) == 120
        assert not world.unsettled()
        audit(world)


async def test_an_alert_goes_first_and_alone(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=ONLY_A_TAG, is_unique=False) as world:
        world.notifier.is_away = True
        for n in range(30):
            world.send(f"sig-{n}")
        await world.run(5)
        world.book().add_fault(Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT))
        world.send("lost")
        await world.run_until(lambda: world.record("lost").status is Status.IN_DOUBT, limit_seconds=60)
        await world.run(5)
        world.notifier.is_away = False
        await world.run(120)
        first = world.notifier.texts[0]
        assert "Order In Doubt" in first.partition("\n")[0]
        assert "lost" in first
        assert len(world.notifier.texts) < 10


async def test_what_waits_to_be_told_keeps_no_order_in_memory(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.notifier.is_away = True
        for n in range(150):
            world.send(f"untold-{n}")
        await world.run(60)
        gc.collect()
        assert world.service.delivery.unsent_notifications == 150
        # By name: tests before this one may have left some of theirs.
        held = [thing for thing in gc.get_objects() if type(thing) is LiveOrder]
        assert sum(thing.order.signal_id.startswith("untold-") for thing in held) < 75


async def test_a_death_while_many_wait_loses_none_of_them(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.notifier.is_away = True
        for n in range(40):
            world.send(f"sig-{n:02d}")
        await world.run(30)
        await world.restart()
        await world.run(5)
        world.notifier.is_away = False
        await world.run(120)
        told = "\n".join(world.notifier.texts)
        assert all(told.count(f"sig-{n:02d}") == 1 for n in range(40))
        assert not world.unsettled()
