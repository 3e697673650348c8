"""What Alpaca's activities prove of options that expired, were assigned or exercised, and what they leave open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.alpaca.adapter import AlpacaBroker
from brokers.alpaca.endings import endings_of
from brokers.base import AssetClass, EndingKind, Instrument, OptionRight, PositionEnding
from simulators.alpaca.server import SimulatedAlpaca
from tests.contract.alpaca.stage import PRICE

CALL = "AAPL261218C00200000"
DAY_BEFORE = timedelta(days=1)
OPTION = Instrument(
    symbol=CALL, asset_class=AssetClass.OPTION, expiry="20261218", strike=Decimal(200), right=OptionRight.CALL
)


def row(kind: str, quantity: str, **changes: Any) -> dict[str, Any]:
    usual = {
        "activity_type": kind,
        "id": f"20261219010203000::{kind}",
        "date": "2026-12-18",
        "symbol": "AAPL" if kind == "OPTRD" else CALL,
        "qty": quantity,
        "net_amount": "0",
        "status": "executed",
    }
    return usual | changes


def moved(quantity: str, money: str, **changes: Any) -> dict[str, Any]:
    return row("OPTRD", quantity, **{"net_amount": money, "price": "90"} | changes)


def told(endings: list[PositionEnding]) -> list[tuple[EndingKind, Decimal, tuple[str, Decimal, Decimal] | None]]:
    return [
        (
            each.kind,
            each.quantity,
            each.delivered and (each.delivered.instrument.symbol, each.delivered.quantity, each.delivered.price),
        )
        for each in endings
    ]


@pytest.mark.parametrize(
    ("kind", "held", "shares"),
    [("expiry", 2, None), ("expiry", -2, None), ("exercise", 2, 200), ("assignment", -2, -200)],
)
async def test_an_option_that_has_ended_is_told_once_its_activities_are_posted(
    server: SimulatedAlpaca, broker: AlpacaBroker, kind: str, held: int, shares: int | None
) -> None:
    server.book.trade_by_hand(OPTION, Decimal(held), PRICE)
    since = datetime.now(UTC) - DAY_BEFORE
    server.end_option(CALL, kind, posted_in_seconds=60)
    expected = {} if shares is None else {"AAPL": shares}
    assert {each.instrument.symbol: each.quantity for each in await broker.positions()} == expected
    assert await broker.endings(since) == []
    server.book.trade_by_hand(OPTION, Decimal(held), PRICE)
    server.end_option(CALL, kind)
    (ending,) = await broker.endings(since)
    delivered = None if shares is None else ("AAPL", Decimal(shares), Decimal(200))
    assert told([ending]) == [(EndingKind(kind.upper()), Decimal(-held), delivered)]
    assert (ending.instrument.symbol, ending.instrument.strike, ending.also_called) == ("AAPL", 200, {CALL})
    assert await broker.endings(since) == [ending], "by the same name each time"
    assert await broker.endings(datetime.now(UTC) + DAY_BEFORE) == []


async def test_more_endings_than_a_page_has_are_all_told(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    server.book.trade_by_hand(OPTION, Decimal(130), PRICE)
    for _ in range(130):
        server.end_option(CALL, "expiry", contracts=1)
    assert len(await broker.endings(datetime.now(UTC) - DAY_BEFORE)) == 130


def test_the_day_of_an_activity_ends_with_the_close_in_new_york() -> None:
    (winter,) = endings_of([row("OPEXP", "-1")])
    (summer,) = endings_of([row("OPEXP", "-1", date="2026-07-17")])
    assert [winter.at, summer.at] == [datetime(2026, 12, 18, 21, tzinfo=UTC), datetime(2026, 7, 17, 20, tzinfo=UTC)]


def test_each_assignment_has_shares_of_its_own_by_the_money_that_was_paid() -> None:
    put = "AAPL261218P00150000"
    rows = [
        row("OPASN", "2"),
        row("OPASN", "2", id="20261219010203000::another"),
        moved("-200", "40000"),
        row("OPASN", "1", symbol=put),
        moved("100", "-15000", id="x"),
    ]
    assert told(endings_of(rows)) == [
        (EndingKind.ASSIGNMENT, 2, ("AAPL", -200, 200)),
        (EndingKind.ASSIGNMENT, 1, ("AAPL", 100, 150)),
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [row("OPASN", "2")],
        [row("OPASN", "2"), moved("-200", "39000")],
        [row("OPASN", "2"), moved("200", "-40000")],
        [row("OPASN", "2"), moved("-200", "40000", date="2026-12-17")],
        [row("OPASN", "2"), moved("-200", "40000", symbol="MSFT")],
        [row("OPASN", "2"), moved("-200", "40000", status="canceled")],
        [row("OPASN", "2"), moved("-200", "40000", net_amount=None)],
        [row("OPASN", "2", symbol="AAPL1261218C00200000"), moved("-200", "40000")],
        [row("OPASN", "2", symbol="AAPL")],
        [row("OPEXP", "-2", net_amount="12.5")],
        [row("OPEXP", "-2", status="correct")],
        [row("OPEXP", "-2"), row("OPEXP", "2", id="y", status="canceled")],
        [row("OPEXP", "0")],
        [row("OPEXP", "many")],
        [row("OPEXP", "-2", date="yesterday")],
        [row("OPEXP", "-2"), row("OPEXP", "-2", id="y", symbol=None)],
        [row("OPEXP", "-2"), "nothing"],
    ],
    ids=str,
)
def test_what_does_not_agree_with_itself_or_cannot_be_read_proves_nothing(rows: list[Any]) -> None:
    assert endings_of(rows) == []


def test_what_is_wrong_with_one_option_says_nothing_of_another() -> None:
    assert len(endings_of([row("OPEXP", "many"), row("OPEXP", "-1", symbol="MSFT261218C00400000")])) == 1
