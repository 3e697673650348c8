"""What Alpaca's activities say of shares that came or left without an order, and what they leave open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.alpaca.adapter import AlpacaBroker
from brokers.alpaca.movements import movements_of
from brokers.base import Instrument, MovementKind, PositionMovement, RecordsMovements
from simulators.alpaca.server import SimulatedAlpaca
from tests.contract.alpaca.stage import PRICE

DAY_BEFORE = timedelta(days=1)


def row(kind: str, symbol: str, quantity: str | None, **changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "activity_type": kind,
        "id": f"20261219010203000::{kind}-{symbol}-{quantity}",
        "date": "2026-12-18",
        "symbol": symbol,
        "net_amount": "0",
        "status": "executed",
    }
    return usual | ({} if quantity is None else {"qty": quantity}) | changes


def told(movements: list[PositionMovement]) -> list[tuple[MovementKind, str, Decimal]]:
    return [(each.kind, each.instrument.symbol, each.quantity) for each in movements]


async def test_a_split_changes_the_position_at_once_and_is_told_when_it_is_posted(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    assert isinstance(broker, RecordsMovements)
    server.book.trade_by_hand(Instrument(symbol="AAPL"), Decimal(10), PRICE)
    since = datetime.now(UTC) - DAY_BEFORE
    server.move_shares("split", {"AAPL": 10}, posted_in_seconds=60)
    (position,) = await broker.positions()
    assert position.quantity == 20
    assert await broker.movements(since) == []
    server.move_shares("split", {"AAPL": 20})
    (movement,) = await broker.movements(since)
    assert (movement.kind, movement.instrument.symbol, movement.quantity) == (MovementKind.SPLIT, "AAPL", 20)
    assert await broker.movements(since) == [movement], "by the same name each time"
    assert await broker.movements(datetime.now(UTC) + DAY_BEFORE) == []
    assert await broker.endings(since) == [], "no option has ended"


def test_a_change_of_name_is_what_leaves_and_what_comes() -> None:
    found = movements_of([row("NC", "OLD", "-70"), row("NC", "NEW", "70")])
    assert told(found) == [(MovementKind.RENAME, "NEW", Decimal(70)), (MovementKind.RENAME, "OLD", Decimal(-70))]


@pytest.mark.parametrize(
    ("kind", "meant"),
    [
        ("SPLIT", MovementKind.SPLIT),
        ("SPIN", MovementKind.SPIN_OFF),
        ("MA", MovementKind.MERGER),
        ("REORG", MovementKind.REORGANIZATION),
        ("ACATS", MovementKind.TRANSFER),
        ("JNLS", MovementKind.TRANSFER),
    ],
)
def test_each_type_of_activity_has_its_meaning(kind: str, meant: MovementKind) -> None:
    assert told(movements_of([row(kind, "A", "5")])) == [(meant, "A", Decimal(5))]


@pytest.mark.parametrize(
    "more",
    [
        row("SPLIT", "A", "5", status="canceled"),
        row("SPLIT", "A", "5", status="correct"),
        row("SPLIT", "A", "many"),
        row("SPLIT", "A", "5", date="soon"),
    ],
    ids=["taken back", "corrected", "no number", "no day"],
)
def test_of_a_share_with_an_odd_activity_nothing_is_told_and_of_others_it_is(more: dict[str, Any]) -> None:
    rows = [row("SPLIT", "A", "7"), row("SPLIT", "B", "3"), more]
    assert told(movements_of(rows)) == [(MovementKind.SPLIT, "B", Decimal(3))]


@pytest.mark.parametrize("odd", [row("SPLIT", "A", "5") | {"symbol": None}, "text", None, 3])
def test_where_it_cannot_be_read_what_an_activity_is_about_nothing_is_told(odd: object) -> None:
    assert movements_of([row("SPLIT", "A", "7"), odd]) == []


def test_money_alone_moves_no_shares() -> None:
    assert movements_of([row("MA", "A", None, net_amount="12.50"), row("SPLIT", "B", "0")]) == []
