"""What comes twice, contradicts itself or cannot be read, in both dialects, among good orders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from execution_service.core.orders.status import ReasonCode, Status
from tests.fakes import World, world_of
from tests.service.audit import audit

UPSTREAM: dict[str, Any] = {
    "_id": "b" * 24,
    "order_id": "sig_ORD",
    "signal_id": "sig",
    "mathematricks_signal_id": None,
    "strategy_id": "momentum",
    "account": "acct-1",
    "timestamp": "2025-03-03 15:00:00.123456",
    "instrument": "AAPL",
    "instrument_type": "STOCK",
    "direction": "LONG",
    "action": "BUY",
    "signal_type": "ENTRY",
    "order_type": "MARKET",
    "price": 10.0,
    "quantity": 100.0,
    "stop_loss": 0.0,
    "take_profit": 0.0,
    "expiry": None,
    "underlying": None,
    "exchange": None,
    "leg_index": 0,
    "total_legs": 1,
    "is_multi_leg": False,
    "cerebro_decision": {"risk_metrics": {"sharpe": float("nan")}},
    "environment": "staging",
    "status": "PENDING",
}


def send_upstream(world: World, **changes: Any) -> str:
    return world.send_raw(json.dumps(UPSTREAM | changes).encode())


async def test_repeated_order_is_acknowledged_and_ignored(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        for _ in range(3):
            world.send()
        await world.run(1)
        world.send()
        await world.run(1)
        await world.restart()
        world.send()
        await world.run(1)
        assert len(world.placed()) == 1
        assert not world.orders.unacknowledged
        assert not world.documents("execution_dead_letters")
        audit(world)


@pytest.mark.parametrize("is_upstream_first", [True, False])
async def test_the_same_order_in_the_other_dialect_is_a_repetition(tmp_path: Path, is_upstream_first: bool) -> None:
    async with world_of(tmp_path) as world:
        ways: list[Callable[[], str]] = [lambda: send_upstream(world), lambda: world.send()]
        for way in ways if is_upstream_first else ways[::-1]:
            way()
            await world.run(1)
        assert len(world.placed()) == 1
        assert not world.documents("execution_dead_letters")


@pytest.mark.parametrize(
    "changes",
    [{"quantity": 7}, {"side": "SELL"}, {"symbol": "NVDA"}, {"account_id": "acct-2"}, {"strategy_name": "other"}],
)
@pytest.mark.parametrize("is_in_one_batch", [True, False])
async def test_the_same_id_with_other_content_is_not_placed_and_people_are_told(
    tmp_path: Path, changes: dict[str, Any], is_in_one_batch: bool
) -> None:
    async with world_of(tmp_path, accounts=("acct-1", "acct-2")) as world:
        world.send()
        if not is_in_one_batch:
            await world.run(1)
        message_id = world.send(**changes)
        await world.run(1)
        assert len(world.placed()) == 1
        assert world.record().quantity == 100
        (letter,) = world.documents("execution_dead_letters")
        assert letter["_id"] == message_id
        assert letter["reason"].startswith("DUPLICATE_CONFLICT")
        assert world.notifier.titled("Conflicting Order")
        assert world.publisher.statuses("sig") == ["FILLED"]


async def test_conflicts_are_told_once_a_minute_with_a_count(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        for n in range(10):
            world.send(quantity=n + 1)
            await world.run(5)
        assert len(world.notifier.titled("Conflicting Order")) == 1
        await world.run(60)
        texts = world.notifier.titled("Conflicting Order")
        assert len(texts) == 2
        assert "×9" in texts[1]
        await world.run(120)
        assert len(world.notifier.titled("Conflicting Order")) == 2


async def test_alarm_of_a_second_life_in_the_same_minute_is_told_too(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send_raw(b"rubbish 1")
        await world.run(1)
        assert len(world.notifier.titled("Dead Letter")) == 1
        await world.restart()
        world.send_raw(b"rubbish 2")
        await world.run(70)
        assert len(world.notifier.titled("Dead Letter")) == 2


@pytest.mark.parametrize(
    "data",
    [b"", b"not json", b"[1, 2]", b"null", b'{"a": 1}', b'{"signal_id": ""}', b"\xff\xfe", b"x" * (1024 * 1024 + 1)],
)
async def test_message_without_a_signal_is_a_dead_letter_as_it_came(tmp_path: Path, data: bytes) -> None:
    async with world_of(tmp_path) as world:
        message_id = world.send_raw(data)
        await world.run(1)
        (letter,) = world.documents("execution_dead_letters")
        assert (letter["_id"], bytes(letter["payload"])) == (message_id, data)
        assert not world.orders.unacknowledged
        assert len(world.notifier.titled("Dead Letter")) == 1


async def test_poison_among_good_orders_harms_none_of_them(tmp_path: Path) -> None:
    poison = [
        b"\x00",
        b'{"signal_id": 5}',
        b'{"signal_id": "a", "quantity": 1e999}',
        b'{"signal_id": "' + b"x" * 3000 + b'"}',
        b'{"signal_id": "s", "signal_id": "t"}',
        b'{"signal_id": "\\ud800", "account_id": "\\ud800"}',
        b'{"signal_id": "$where", "symbol": {"$gt": ""}, "quantity": [1]}',
        b'{"signal_id": "deep", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"signal_id": "nul\\u0000", "strategy_name": "a\\u0000b"}',
        b'{"signal_id": "dots", "$set": {"a.b": 1}, "a.b": 2}',
        json.dumps(UPSTREAM | {"signal_id": "huge", "quantity": "9" * 400}).encode(),
    ]
    async with world_of(tmp_path) as world:
        for n, data in enumerate(poison):
            world.send(f"good-{n}")
            world.send_raw(data)
        await world.run(5)
        assert {world.record(f"good-{n}").status for n in range(len(poison))} == {Status.FILLED}
        assert len(world.placed()) == len(poison)
        assert not world.orders.unacknowledged
        await world.restart()
        await world.run(5)
        audit(world)


async def test_order_that_cannot_be_executed_is_rejected_with_all_that_is_wrong(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(quantity=-5, side="HOLD", order_type="ICEBERG", symbol="")
        await world.run(1)
        (body,) = world.publisher.of("sig")
        assert body["status"] == "REJECTED"
        assert body["reason"]["code"] == "INVALID_ORDER"
        for word in ("quantity", "side", "order_type", "symbol"):
            assert word in body["reason"]["message"]
        assert body["quantity"] is None
        world.send(quantity=-5, side="HOLD", order_type="ICEBERG", symbol="")
        await world.run(1)
        assert len(world.publisher.of("sig")) == 1
        assert not world.documents("execution_dead_letters")


async def test_contradiction_between_the_dialects_is_refused(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        send_upstream(world, action="SELL")
        await world.run(1)
        assert world.record().status is Status.REJECTED
        assert not world.placed()


async def test_order_for_an_account_that_is_not_configured_is_rejected(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(account_id="nobody")
        await world.run(1)
        (body,) = world.publisher.of("sig")
        assert body["reason"]["code"] == ReasonCode.UNKNOWN_ACCOUNT
        assert body["account_id"] == "nobody"
        audit(world)


async def test_order_whose_insertion_was_answered_by_a_broken_connection_is_worked_all_the_same(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.lost_answers["execution_orders.insert_many"] = 1
        world.send()
        world.send("bad", quantity=-1)
        await world.run(5)
        assert world.record().status is Status.FILLED
        assert world.publisher.statuses("bad") == ["REJECTED"]
        assert not world.orders.unacknowledged
        audit(world)


async def test_repetition_takes_no_finished_order_up_again(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(2)
        world.send()
        await world.run(2)
        assert not world.service.live_orders.by_id
        assert len(world.publisher.of("sig")) == 1


async def test_upstreams_message_fills_every_shared_document(tmp_path: Path) -> None:
    hex_id = "65f0c0ffee65f0c0ffee65f0"
    async with world_of(tmp_path) as world:
        signals, rows = world.mongo["trading"]["signal_store"], world.mongo["trading"]["trading_orders"]
        signals.insert_one(
            {
                "_id": ObjectId(hex_id),
                "signal_id": "sig",
                "strategy_id": "momentum",
                "instrument": "AAPL",
                "direction": "LONG",
                "cerebro_decision": {"decision": "APPROVE"},
                "execution": None,
                "position_status": None,
                "pnl_realized": None,
                "exit_signals": [],
            }
        )
        rows.insert_one({"order_id": "sig_ORD", "status": "PENDING"})
        world.mongo["trading"]["trading_accounts"].insert_one({"_id": "acct-1", "open_positions": [], "broker": "Mock"})
        send_upstream(world, mathematricks_signal_id=hex_id)
        await world.run(1)
        found = signals.find_one(
            {
                "strategy_id": "momentum",
                "instrument": "AAPL",
                "direction": "LONG",
                "position_status": "OPEN",
                "cerebro_decision.decision": "APPROVE",
                "execution.status": "FILLED",
            }
        )
        assert found["execution"]["quantity_filled"] == 100.0
        assert found["execution"]["order_id"] == "sig_ORD"
        assert found["execution"]["broker_order_id"] == found["order_id"] == world.record().broker_order_id
        assert found["execution_status"] == "FILLED"
        row = rows.find_one({"order_id": "sig_ORD"})
        assert (row["status"], row["filled_quantity"]) == ("FILLED", 100.0)
        (account,) = world.documents("trading_accounts")
        (position,) = account["open_positions"]
        assert (position["strategy_id"], position["quantity"], position["direction"]) == ("momentum", 100.0, "LONG")

        exit_hex = "65f0c0ffee65f0c0ffee65f1"
        send_upstream(
            world,
            signal_id="out",
            order_id="out_ORD",
            mathematricks_signal_id=exit_hex,
            action="SELL",
            direction="SHORT",
            signal_type="EXIT",
            entry_signal_id=hex_id,
            entry_signal_ref="sig",
            price=12.0,
        )
        await world.run(1)
        closed = signals.find_one({"_id": ObjectId(hex_id)})
        assert closed["position_status"] == "CLOSED"
        assert closed["exit_signals"] == [ObjectId(exit_hex)]
        assert closed["pnl_realized"] == 200.0
        assert closed["closed_at"] is not None
        way_out = signals.find_one({"_id": ObjectId(exit_hex)})
        assert way_out["position_status"] == "CLOSED"
        assert (way_out["pnl"]["gross_pnl"], way_out["pnl"]["net_pnl"]) == (200.0, 198.0)
        assert world.documents("trading_accounts")[0]["open_positions"] == []
        audit(world)


async def test_replayed_dead_letter_is_taken_as_an_order_of_its_first_publication(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        letter = world.send(quantity=7)
        await world.run(1)
        for command_id in ("cmd-1", "cmd-2"):
            world.mongo["trading"]["execution_commands"].insert_one(
                {
                    "_id": command_id,
                    "kind": "REPLAY",
                    "body": {"message_id": letter if command_id == "cmd-1" else "nothing"},
                    "published_at": world.clock.now(),
                    "received_at": world.clock.now(),
                    "status": "NEW",
                    "outcome": "",
                    "active_until": None,
                }
            )
        await world.run(3)
        told = {d["_id"]: (d["status"], d["outcome"]) for d in world.documents("execution_commands")}
        assert {command_id: status for command_id, (status, _) in told.items()} == {
            "cmd-1": "REFUSED",
            "cmd-2": "REFUSED",
        }
        assert "is a dead letter again: DUPLICATE_CONFLICT" in told["cmd-1"][1]
        assert len(world.placed()) == 1
