"""What the world is told, and when Pub/Sub, Telegram or the store are away; by a hand-moved clock."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import Capabilities
from brokers.errors import BrokerUnavailable
from brokers.paper.model import Action, Fault, Market, Operation
from execution_service.core.orders.status import Status
from execution_service.recording.live_orders import LiveOrder
from execution_service.storage.ports.orders import CursorCommit
from execution_service.trading.trader import TradingRules
from tests.fakes import World, world_of
from tests.service.audit import audit

BY_HAND = Market(fill_delay_seconds=None)
TAG = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0, concurrent_calls=4)
HOUR = 3600.0


# --- the store away -------------------------------------------------------------------------------------------------


async def test_alarms_raised_while_the_store_is_away_are_told_once_it_is_back(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await world.run(1)
        world.store_faults.is_away = True
        for number in (1, 2, 3):
            await world.service.outbox.raise_alert("broker_down:acct-1", f"🔌 *Broker Down* {number}")
        await world.service.outbox.raise_alert("dead_letter", "📭 *Unusable Message*", 7)
        await world.run(30)
        assert not world.notifier.texts
        world.store_faults.is_away = False
        await world.run(30)
        assert len([text for text in world.notifier.texts if "Broker Down* 3" in text]) == 1
        assert len([text for text in world.notifier.texts if "Unusable Message" in text]) == 1
        await world.run(300)
        assert len(world.notifier.texts) == 2
        assert sorted(d["count"] for d in world.documents("execution_alerts")) == [3, 7]


async def test_an_alarm_does_not_wait_because_one_of_another_kind_has_to(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        for _ in range(2):
            await world.service.outbox.raise_alert("broker_down:acct-1", "🔌 *Broker Down*")
            await world.run(2)
        await world.service.outbox.raise_alert("dead_letter", "📭 *Unusable Message*")
        await world.run(2)
        assert [text.partition("*")[2] for text in world.notifier.texts] == ["Broker Down*", "Unusable Message*"]
        await world.run(60)
        assert len(world.notifier.titled("Broker Down")) == 2


# --- Pub/Sub away ---------------------------------------------------------------------------------------------------


async def test_orders_go_on_while_confirmations_wait_and_all_are_delivered_later_in_order(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.publisher.is_away = True
        for n in range(5):
            world.send(f"sig-{n}", symbol=f"S{n}")
        await world.run(1)
        for n in range(5):
            world.fill(f"sig-{n}", 40)
        await world.run(5)
        for n in range(5):
            world.fill(f"sig-{n}", 60)
        await world.run(300)
        assert {o.status for o in world.records()} == {Status.FILLED}
        assert {d["status"] for d in world.documents("execution_confirmations")} == {"FILLED"}
        assert len(world.documents("positions")) == 5
        assert not world.publisher.messages
        world.publisher.is_away = False
        await world.run(60)
        for n in range(5):
            assert world.publisher.statuses(f"sig-{n}") == ["PARTIALLY_FILLED", "FILLED"]
        audit(world)


async def test_people_are_told_after_three_attempts_and_not_at_each(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.is_away = True
        world.send()
        await world.run(1.5)
        assert not world.notifier.titled("Confirmations Not Published")
        await world.run(600)
        assert world.publisher.tries > 10
        assert len(world.notifier.titled("Confirmations Not Published")) == 1


async def test_confirmations_that_wait_survive_a_restart(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.is_away = True
        world.send()
        await world.run(10)
        await world.restart()
        world.publisher.is_away = False
        await world.run(60)
        assert world.publisher.statuses("sig") == ["FILLED"]
        audit(world)


async def test_confirmation_that_breaks_the_publisher_holds_up_no_other(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.breaks_on = "poison"
        for n in range(5):
            world.send(f"sig-{n}", symbol=f"S{n}")
        world.send("poison")
        await world.run(5)
        for n in range(5):
            assert world.publisher.statuses(f"sig-{n}") == ["FILLED"]
        world.publisher.breaks_on = None
        await world.run(60)
        assert world.publisher.statuses("poison") == ["FILLED"]
        audit(world)


async def test_ordering_key_is_the_orders_identity_only_where_wanted(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        assert [key for _, _, key in world.publisher.messages] == [""]
    (tmp_path / "keyed").mkdir()
    async with world_of(tmp_path / "keyed", uses_ordering_keys=True) as world:
        world.send()
        await world.run(1)
        assert [key for _, _, key in world.publisher.messages] == [world.record().order_id]


# --- Telegram away --------------------------------------------------------------------------------------------------


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
    async with world_of(tmp_path, faults=[fault], capabilities=TAG, is_unique=False) as world:
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


async def test_alert_is_not_lost_by_a_later_event_that_needs_none(tmp_path: Path) -> None:
    """The cancel wish, of which people are not told, must not strike out the partial fill, of which they were to be."""
    async with world_of(tmp_path, market=BY_HAND, rules=TradingRules(order_timeout_seconds=0)) as world:
        world.notifier.is_away = True
        world.send()
        await world.run(1)
        world.fill("sig", 40)
        await world.run(5)
        world.broker_faults.holds["cancel_order"] = asyncio.Event()
        world.cancel(signal_id="sig")
        await world.run(5)
        assert world.record().cancel_request is not None
        world.broker_faults.holds.clear()
        await world.restart()
        world.notifier.is_away = False
        await world.run(120)
        assert len(world.notifier.titled("Partial Fill")) == 1


async def test_news_without_words_while_a_letter_is_being_struck_out_leaves_nothing_owed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commission, of which people are not told, comes between the sending of the letter and the record of that."""
    async with world_of(tmp_path) as world:
        store, may_commit = world.service._store, asyncio.Event()
        commit = store.commit_cursors

        async def late(commits: Sequence[CursorCommit]) -> None:
            await may_commit.wait()
            await commit(commits)

        monkeypatch.setattr(store, "commit_cursors", late)
        world.send()
        await world.run_until(lambda: bool(world.notifier.titled("Order Filled")))
        world.book().set_commission(world.placed()[0].fills[0].fill_id, Decimal(7))
        await world.run_until(lambda: len(world.publisher.of("sig")) == 2)
        await world.run(1)
        may_commit.set()
        await world.run(1)
        assert not world.unsettled()
        assert len(world.notifier.texts) == 1


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


# --- the store away -------------------------------------------------------------------------------------------------


async def test_store_gone_while_running_nothing_is_acknowledged_or_placed_and_it_goes_on_by_itself(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.is_away = True
        world.send()
        world.cancel(signal_id="nobody")
        world.send_raw(b"rubbish")
        await world.run(120)
        assert len(world.orders.unacknowledged) == 2
        assert len(world.commands.unacknowledged) == 1
        assert not world.calls("place_order")
        world.store_faults.is_away = False
        await world.run(30)
        assert world.record().status is Status.FILLED
        assert len(world.documents("execution_dead_letters")) == 1
        audit(world)


async def test_store_gone_between_storing_and_placing_nothing_is_placed_until_it_is_back(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.unavailable = BrokerUnavailable("pause", known_pause=True)
        await world.run(10)
        for n in range(20):
            world.send(f"sig-{n}")
        world.exit("out", "sig-0")
        await world.run(1)
        world.store_faults.is_away = True
        world.broker_faults.unavailable = None
        await world.run(60)
        assert not world.calls("place_order")
        world.store_faults.is_away = False
        await world.run(60)
        assert {o.status for o in world.records()} == {Status.FILLED}
        audit(world)


async def test_store_gone_after_placing_what_the_broker_said_is_recorded_when_it_is_back(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=TradingRules(order_timeout_seconds=0)) as world:
        world.send()
        await world.run(1)
        world.store_faults.is_away = True
        world.fill("sig")
        await world.run(120)
        world.store_faults.is_away = False
        await world.run(30)
        assert world.record().status is Status.FILLED
        assert world.publisher.statuses("sig") == ["FILLED"]
        audit(world)


@pytest.mark.parametrize(
    "call",
    [
        "execution_orders.insert_many",
        "execution_orders.update_one",
        "execution_orders.bulk_write",
        "execution_positions.insert_one",
        "execution_confirmations.insert_many",
        "positions.bulk_write",
        "signal_store.insert_many",
        "execution_ledger_lines.insert_many",
        "execution_dead_letters.insert_many",
        "execution_alerts.update_one",
        "execution_commands.insert_many",
        "execution_commands.update_one",
    ],
)
@pytest.mark.parametrize("times", [1, 3])
async def test_write_whose_answer_was_lost_is_neither_lost_nor_made_twice(
    tmp_path: Path, call: str, times: int
) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.lost_answers[call] = times
        world.send()
        world.send("other", symbol="NVDA")
        world.exit("out", "sig", price=11)
        world.send_raw(b"rubbish")
        world.cancel(signal_id="nobody")
        await world.run(60)
        assert {o.status for o in world.records()} == {Status.FILLED}
        assert not world.unsettled()
        assert len(world.notifier.titled("Dead Letter")) == 1
        audit(world)


async def test_restart_with_much_owed_delivers_all_of_it(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.is_away = True
        for n in range(150):
            world.send(f"sig-{n}", symbol=f"S{n % 7}", side="BUY" if n % 3 else "SELL")
        await world.run(5)
        await world.restart()
        world.publisher.is_away = False
        await world.run(120)
        assert not world.unsettled()
        assert len(world.publisher.messages) == 150
        audit(world)
        assert_all_told(world)


def assert_all_told(world: World) -> None:
    assert not world.service.live_orders.by_id
    assert world.service.outbox.waiting == 0


# --- more than Telegram takes ---------------------------------------------------------------------------------------


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
    async with world_of(tmp_path, capabilities=TAG, is_unique=False) as world:
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
        assert world.service.outbox.unsent_notifications == 150
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
