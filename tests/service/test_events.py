"""Events of the systems around us, in and out, through the whole service."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import OrderType
from execution_service.control.replay import ReplayDeadLetter
from execution_service.control.requests import Replay
from execution_service.core.messages.events_in import DECISION, INTENT, MANUAL, Hint
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.trading.trader import TradingRules
from tests.core.test_events_in import DECIDED, OF_THE_ENGINE, OF_THE_ROUTER
from tests.fakes import ACCOUNT, BY_HAND, RESTING, UNPROTECTED, Moment, RecordingEvents, World, world_of
from tests.service.audit import audit


def decision(world: World, **changes: Any) -> dict[str, Any]:
    return DECIDED | {"timestamp": world.clock.now().isoformat()} | changes


async def test_decision_becomes_one_order_however_often_it_comes(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=UNPROTECTED) as world:
        body = decision(world)
        for _ in range(3):
            world.event(DECISION, body)
        await world.run(1)
        world.event(INTENT, body | {"side": "BUY"})
        await world.restart()
        world.event(DECISION, body)
        await world.run(5)
        (order,) = world.records()
        assert (order.status, order.filled_quantity) == (Status.FILLED, Decimal("0.002"))
        assert len(world.book().orders()) == 1
        assert not world.events.unacknowledged
        audit(world)


async def test_copy_that_the_router_makes_of_a_decision_is_no_second_trade(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=UNPROTECTED) as world:
        world.event(INTENT, OF_THE_ENGINE | {"timestamp": world.clock.now().isoformat()})
        later = world.clock.now() + timedelta(seconds=1)
        world.event(INTENT, OF_THE_ROUTER | {"timestamp": later.replace(tzinfo=None).isoformat()})
        await world.run(5)
        assert len(world.records()) == 1
        world.clock.move(120)
        world.event(INTENT, OF_THE_ENGINE | {"timestamp": world.clock.now().isoformat()})
        await world.run(5)
        assert len(world.records()) == 2


async def test_old_decision_is_not_traded_however_new_its_message(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=UNPROTECTED) as world:
        world.event(DECISION, decision(world, timestamp=(world.clock.now() - timedelta(hours=1)).isoformat()))
        await world.run(5)
        (order,) = world.records()
        assert order.reason is not None
        assert order.reason.code == "STALE_ORDER"
        assert not world.book().orders()


@pytest.mark.parametrize(
    ("seconds_old", "words"),
    [
        (59, None),
        (61, "decided 61 s before it came"),
        (-59, None),
        (-3600, "ahead of our clock"),  # a sender that writes local time for UTC
    ],
)
@pytest.mark.parametrize("event_type", [DECISION, MANUAL])
async def test_decision_whose_age_is_too_great_or_not_known_is_recorded_told_and_not_traded(
    tmp_path: Path, seconds_old: int, words: str | None, event_type: str
) -> None:
    events = RecordingEvents()
    async with world_of(tmp_path, rules=UNPROTECTED, events_out=events) as world:
        decided_at = (world.clock.now() - timedelta(seconds=seconds_old)).isoformat()
        wish = decision(world) if event_type == DECISION else {"symbol": "BTCUSDT", "side": "buy", "quantity": 1}
        for _ in range(2):
            world.event(event_type, wish | {"timestamp": decided_at})
            await world.run(3)
        (order,) = world.records()
        if words is None:
            assert order.status is Status.FILLED
            return
        assert order.reason is not None
        assert (order.status, order.reason.code) == (Status.REJECTED, "STALE_ORDER")
        assert words in order.reason.message
        assert "MAX_SIGNAL_AGE_SECONDS is 60" in order.reason.message
        assert not world.book().orders()
        assert any(words in text for text in world.notifier.texts)
        assert {e.event_type for e in events.told} == {"order.failed", "execution.result"}
        assert not world.documents("execution_dead_letters")


async def test_history_that_is_published_anew_is_refused_and_what_was_traded_of_it_stays(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=UNPROTECTED) as world:
        traded, missed = decision(world), decision(world, symbol="ETHUSDT")
        world.event(DECISION, traded)
        await world.run(5)
        world.clock.move(120)
        for _ in range(2):
            world.event(DECISION, traded)
            world.event(DECISION, missed)
            await world.restart()
            await world.run(5)
        assert {order.accepted_request.instrument.symbol: order.status for order in world.records()} == {
            "BTCUSDT": Status.FILLED,
            "ETHUSDT": Status.REJECTED,
        }
        assert len(world.book().orders()) == 1
        audit(world)


async def test_exit_that_comes_late_leaves(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=UNPROTECTED) as world:
        world.event(DECISION, decision(world))
        await world.run(5)
        world.clock.move(120)
        late = (world.clock.now() - timedelta(seconds=100)).isoformat()
        world.event(
            DECISION,
            decision(world, side="sell", reduceOnly=True, timestamp=late) | {"stop_loss": None, "take_profit": None},
        )
        await world.run(5)
        exit_ = next(order for order in world.records() if order.identity.purpose is Purpose.EXIT)
        assert exit_.status is Status.FILLED


async def test_age_of_signals_is_not_looked_at_where_it_is_switched_off(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=UNPROTECTED, max_signal_age_seconds=0) as world:
        world.event(DECISION, decision(world, timestamp=(world.clock.now() - timedelta(seconds=200)).isoformat()))
        await world.run(5)
        (order,) = world.records()
        assert order.status is Status.FILLED


async def test_manual_order_that_names_its_stop_is_sized(tmp_path: Path) -> None:
    rules = TradingRules(risk_per_trade=Decimal("0.01"), order_timeout_seconds=0.0)
    async with world_of(tmp_path, market=BY_HAND, rules=rules) as world:
        wish = {"signal_id": "mine", "symbol": "AAPL", "side": "buy", "price": 50, "stop_loss": 48}
        for _ in range(2):
            world.event(MANUAL, wish)
            await world.run(3)
        order = world.record("mine")
        assert (order.status, order.quantity) == (Status.SUBMITTED, 5000)
        assert [placed.ticket.quantity for placed in world.placed()] == [5000]


async def test_same_decision_with_another_size_is_never_placed(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=UNPROTECTED) as world:
        body = decision(world)
        world.event(DECISION, body)
        await world.run(1)
        world.event(DECISION, body | {"position_size_usd": 400})
        await world.run(1)
        assert len(world.book().orders()) == 1
        (letter,) = world.documents("execution_dead_letters")
        assert "DUPLICATE_CONFLICT" in letter["reason"]


@pytest.mark.parametrize(
    "data", [b"\xff\x00binary", b"{" * 3000, b"[]", b"x" * (2 * 1024 * 1024), b'{"symbol":"BTCUSDT","side":"buy"}']
)
async def test_hostile_event_is_a_dead_letter_and_the_next_is_traded(tmp_path: Path, data: bytes) -> None:
    async with world_of(tmp_path, rules=UNPROTECTED) as world:
        world.event(DECISION, data)
        world.event(DECISION, decision(world))
        await world.run(5)
        (letter,) = world.documents("execution_dead_letters")
        assert letter["reason"].startswith(DECISION)
        assert {"name": "received_as", "value": DECISION} in letter["attributes"]
        assert [o.status for o in world.records()] == [Status.FILLED]


async def test_dead_letter_of_an_event_is_replayed_as_the_event(tmp_path: Path) -> None:
    async with world_of(tmp_path, events_account=None, rules=UNPROTECTED) as world:
        world.event(DECISION, decision(world))
        await world.run(1)
        (letter,) = world.documents("execution_dead_letters")
        assert "EVENTS_ACCOUNT" in letter["reason"]
        world._events_account = ACCOUNT
        await world.restart()
        verb = ReplayDeadLetter(intake=world.service.intake, store=world.service._store)
        await verb.carry_out(Replay(command_id="c", message_id=letter["_id"]))
        await world.run(5)
        (order,) = world.records()
        assert order.status is Status.FILLED


async def test_attributes_of_an_order_cannot_make_it_an_event(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=UNPROTECTED) as world:
        world.send_raw(b"no json", attributes={"received_as": DECISION, "mine": "kept"})
        await world.run(1)
        (letter,) = world.documents("execution_dead_letters")
        assert letter["attributes"] == [{"name": "mine", "value": "kept"}]


async def test_hold_is_acknowledged_and_leaves_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=UNPROTECTED) as world:
        world.event(DECISION, decision(world, side="hold"))
        await world.run(1)
        assert not world.events.unacknowledged
        assert not world.records()
        assert not world.documents("execution_dead_letters")


class Listener:
    def __init__(self) -> None:
        self.hints: list[Hint] = []

    def take_hint(self, hint: Hint) -> None:
        self.hints.append(hint)


async def test_hints_reach_those_who_can_ask_and_make_no_order(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=UNPROTECTED) as world:
        listener = Listener()
        world.service.event_reader.listeners.append(listener)
        world.event("ess.tripped", {"reason": "drawdown", "trip_count": 1})
        world.event("policy.updated", {"key": "rl.max_leverage", "new_value": 3})
        world.event("model.promoted", {"model_type": "xgb"})
        await world.run(1)
        assert [hint.event_type for hint in listener.hints] == ["ess.tripped", "policy.updated", "model.promoted"]
        assert not world.records()
        assert not world.events.unacknowledged


async def test_manual_order_with_a_price_is_a_limit_order(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=UNPROTECTED) as world:
        world.event(MANUAL, {"symbol": "BTCUSDT", "side": "long", "quantity": 0.001, "price": 50000, "leverage": 10})
        await world.run(5)
        (order,) = world.records()
        assert order.accepted_request.order_type is OrderType.LIMIT
        assert order.status is Status.FILLED
        assert "neither signal_id nor timestamp" in order.notes[0].message
        world.event(MANUAL, {"signal_id": "mine", "symbol": "BTCUSDT", "side": "sell", "quantity": 0.001})
        await world.run(5)
        assert not world.record("mine").notes


async def test_service_that_dies_at_any_call_before_or_after_the_acknowledgement_places_one_order(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path / "calm", rules=UNPROTECTED) as world:
        before = len(world.gate.names)
        world.event(DECISION, decision(world))
        await world.run(5)
        calls = world.gate.names[before:]
    assert "events.ack" in calls
    for number in range(1, len(calls) + 1):
        for moment in (Moment.BEFORE, Moment.AFTER):
            folder = tmp_path / f"{number}-{moment}"
            async with world_of(folder, rules=UNPROTECTED) as world:
                world.gate.dies_at = (len(world.gate.names) + number, moment)
                world.event(DECISION, decision(world))
                await world.run(5)
                await world.restart()
                await world.run(10)
                (order,) = world.records()
                assert (order.status, len(world.book().orders())) == (Status.FILLED, 1)
                assert not world.events.unacknowledged


# --- out ------------------------------------------------------------------------------------------------------------


async def test_whole_trade_is_told(tmp_path: Path) -> None:
    told = RecordingEvents()
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, events_out=told) as world:
        world.send("in", currency="USD", quantity=100, stop_loss=9)
        await world.run(1)
        world.fill("in", 40, price=10)
        await world.run(1)
        world.fill("in", 60, price=11)
        await world.run(5)
        world.exit("out", "in", currency="USD", quantity=100)
        await world.run(1)
        world.fill("out", 50, price=12, purpose=Purpose.EXIT)
        await world.run(1)
        world.fill("out", 50, price=13, purpose=Purpose.EXIT)
        await world.run(5)
        assert [event.event_type for event in told.told if event.signal_id in ("in", "out")] == [
            "order.placed",
            "trade.opened",
            "position.updated",
            "execution.result",
            "order.filled",
            "position.updated",
            "execution.result",
            "order.placed",
            "position.updated",
            "execution.result",
            "order.filled",
            "trade.closed",
            "position.updated",
            "execution.result",
        ]
        (opened,), (closed,) = told.of("trade.opened"), told.of("trade.closed")
        assert (opened["side"], opened["quantity"], opened["entry_price"], opened["stop_loss"]) == ("LONG", 40, 10, 9)
        assert closed["trade_id"] == opened["trade_id"]
        assert closed["trade_id"] in {d["_id"] for d in world.documents("positions")}
        expected = {"side": "LONG", "quantity": 100, "entry_price": 10.6, "exit_price": 12.5, "pnl": 190}
        assert {name: closed[name] for name in expected} == expected
        assert closed["pnl_usd"] == closed["realized_pnl"] == closed["realizedPnl"] == 190
        assert closed["pnl_pct"] == pytest.approx(17.924528)
        positions = [(b["quantity"], b["entry_price"], b["unrealized_pnl"]) for b in told.of("position.updated")]
        assert positions == [(40, 10, 0), (100, 10.6, 40), (50, 10.6, 70), (0, 13, 0)]
        results = [b for b in told.of("execution.result") if b["signal_id"] in ("in", "out")]
        assert [(b["status"], b["qty"]) for b in results] == [
            ("PARTIAL", 40),
            ("FILLED", 60),
            ("PARTIAL", 50),
            ("FILLED", 50),
        ]
        assert all(None not in event.body.values() for event in told.told)
        assert len({event.event_id for event in told.told}) == len(told.told)
        assert not world.unsettled()


async def test_refused_order_is_told_and_one_that_somebody_cancelled_has_not_failed(tmp_path: Path) -> None:
    told = RecordingEvents()
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, events_out=told) as world:
        world.send("bad", quantity=-1)
        world.send("unwanted", symbol="MSFT")
        await world.run(1)
        world.cancel(signal_id="unwanted")
        await world.run(20)
        assert world.record("unwanted").status is Status.CANCELLED
        (failed,) = told.of("order.failed")
        assert (failed["signal_id"], failed["reason_code"], failed["symbol"]) == ("bad", "INVALID_ORDER", "AAPL")
        assert "quantity" in str(failed["reason"])
        statuses = {b["signal_id"]: b["status"] for b in told.of("execution.result")}
        assert statuses == {"bad": "REJECTED", "unwanted": "CANCELLED"}


async def test_turned_position_is_one_trade_that_ends_and_one_that_begins(tmp_path: Path) -> None:
    told = RecordingEvents()
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, events_out=told) as world:
        world.send("in", quantity=10)
        await world.run(1)
        world.fill("in", 10, price=10)
        world.send("turn", side="SELL", quantity=30)
        await world.run(5)
        world.fill("turn", 30, price=9)
        await world.run(5)
        (closed,) = told.of("trade.closed")
        first, second = told.of("trade.opened")
        assert (closed["trade_id"], closed["side"], closed["quantity"], closed["pnl"]) == (
            first["trade_id"],
            "LONG",
            10,
            -10,
        )
        assert (second["side"], second["quantity"], second["entry_price"]) == ("SHORT", 20, 9)
        assert second["trade_id"] != first["trade_id"]


async def test_events_wait_for_a_place_that_is_away_while_trading_goes_on(tmp_path: Path) -> None:
    told = RecordingEvents()
    told.is_away = True
    async with world_of(tmp_path, events_out=told) as world:
        world.send("one")
        world.send("two", symbol="MSFT")
        await world.run(60)
        assert [o.status for o in world.records()] == [Status.FILLED] * 2
        assert world.publisher.statuses("one") == ["FILLED"]
        assert len(world.notifier.titled("Events Not Published")) == 1
        await world.restart()
        told.is_away = False
        await world.run(60)
        assert sorted(b["signal_id"] for b in told.of("order.filled")) == ["one", "two"]
        assert not world.unsettled()
