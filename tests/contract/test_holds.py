"""What brokers say of orders that wait for the opening: IBKR's message, Zerodha's statuses and hours."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import Instrument, OrderRef, OrderType, Side, Ticket
from brokers.errors import OrderRefused
from brokers.ibkr.blotter import Blotter, Execution, Hold
from brokers.ibkr.hold import hold_in
from brokers.paper.model import Market
from brokers.zerodha.adapter import Configuration, ZerodhaBroker
from brokers.zerodha.dialect import held
from brokers.zerodha.rows import OrderRow
from simulators.stage_zerodha import config_for, serving_kite

HEAD = "Order Message:\nBUY 10 SPY NASDAQ.NMS\nWarning: your order will not be placed at the exchange until "


@pytest.mark.parametrize(
    ("words", "until"),
    [
        ("2026-11-30 09:30:00 US/Eastern", datetime(2026, 11, 30, 14, 30, tzinfo=UTC)),
        ("2026-07-01 09:30:00 US/Eastern.", datetime(2026, 7, 1, 13, 30, tzinfo=UTC)),
        ("2026-07-01 09:30:00 EST", datetime(2026, 7, 1, 13, 30, tzinfo=UTC)),
        ("20261130 08:30:00 US/Central", datetime(2026, 11, 30, 14, 30, tzinfo=UTC)),
        ("20261130-09:00 MET", datetime(2026, 11, 30, 8, 0, tzinfo=UTC)),
        ("2026-11-30 09:30:00 XYZ", None),
        ("2026-11-30 09:30:00", None),
        ("2026-13-45 09:30:00 US/Eastern", None),
        ("2026-11-30 09:30:00 ../../etc/passwd", None),
        ("the market opens", None),
        ("", None),
    ],
)
def test_ibkrs_message_says_that_an_order_is_held_and_perhaps_until_when(words: str, until: datetime | None) -> None:
    hold = hold_in(HEAD + words)
    assert hold is not None
    assert hold.until == until
    assert hold.words.startswith("will not be placed at the exchange until")
    assert "\n" not in hold.words


@pytest.mark.parametrize(
    "text",
    [
        "Order Message:\nBUY 1 EUR.USD\nWarning: Your order size is below the minimum and will be routed as an odd lot",
        "Order Canceled - reason:",
        "",
    ],
)
def test_other_messages_hold_nothing(text: str) -> None:
    assert hold_in(text) is None


def row(status: str, *, variety: str = "amo", exchange: str = "NSE", filled: int = 0) -> OrderRow:
    return OrderRow(order_id="1", status=status, variety=variety, exchange=exchange, filled=Decimal(filled))


EVENING, PRE_OPEN, TRADING = (
    datetime(2026, 11, 23, 15, 30, tzinfo=UTC),
    datetime(2026, 11, 24, 3, 31, tzinfo=UTC),
    datetime(2026, 11, 24, 3, 45, tzinfo=UTC),
)
"""21:00, 09:01 and 09:15 in India."""


@pytest.mark.parametrize(
    ("shown", "now", "expected"),
    [
        (row("AMO REQ RECEIVED"), EVENING, (True, None)),
        (row("AMO REQ RECEIVED"), TRADING, (True, None)),
        (row("OPEN"), PRE_OPEN, (True, TRADING)),
        (row("TRIGGER PENDING"), PRE_OPEN, (True, TRADING)),
        (row("OPEN"), TRADING, (False, None)),
        (row("OPEN", filled=1), PRE_OPEN, (False, None)),
        (row("OPEN", exchange="MCX"), PRE_OPEN, (False, None)),
        (row("OPEN", exchange=""), PRE_OPEN, (True, TRADING)),
        (row("OPEN", variety="regular"), PRE_OPEN, (False, None)),
        (row("OPEN PENDING", variety="regular"), TRADING, (None, None)),
        (row("OPEN PENDING"), PRE_OPEN, (None, None)),
        (row("SOMETHING NEW"), PRE_OPEN, (None, None)),
    ],
)
def test_what_zerodhas_statuses_say(
    shown: OrderRow, now: datetime, expected: tuple[bool | None, datetime | None]
) -> None:
    assert held(shown, now) == expected


async def test_an_after_market_order_lives_through_the_night_and_is_cancelled_as_a_regular_one(tmp_path: Path) -> None:
    ticket = Ticket(
        client_order_id="t000000000000000001",
        instrument=Instrument(symbol="INFY"),
        side=Side.BUY,
        quantity=Decimal(5),
        order_type=OrderType.LIMIT,
        limit_price=Decimal(99),
        product="CNC",
        variety="amo",
    )
    now = EVENING
    async with serving_kite(tmp_path, "AB1234", Market()) as server:
        configuration = Configuration.of(config_for(server), broker="Zerodha")
        broker = ZerodhaBroker(configuration, clock=lambda: now)
        await broker.connect()
        placed = await broker.place_order(ticket)
        (report,) = (await broker.reports()).reports
        assert (report.is_held, report.held_until, report.said) == (True, None, "AMO REQ RECEIVED")
        server.new_day()
        assert (await broker.reports()).reports == []
        assert await broker.find_all([ticket.client_order_id]) == {ticket.client_order_id: None}
        server.pass_on_amo()
        now = PRE_OPEN
        (report,) = (await broker.reports()).reports
        assert report.broker_order_id == placed.broker_order_id
        assert (report.is_held, report.held_until) == (True, TRADING)
        now = TRADING
        (report,) = (await broker.reports()).reports
        assert report.is_held is False
        ref = OrderRef(client_order_id=ticket.client_order_id, broker_order_id=placed.broker_order_id)
        await broker.cancel_order(ref)
        assert [call.path for call in server.calls("DELETE *")] == [f"/orders/regular/{placed.broker_order_id}"]
        await broker.close()


async def test_one_look_at_the_list_finds_many_orders(tmp_path: Path) -> None:
    async with serving_kite(tmp_path, "AB1234", Market(fill_delay_seconds=None)) as server:
        broker = ZerodhaBroker(Configuration.of(config_for(server), broker="Zerodha"))
        await broker.connect()
        tags = [f"t00000000000000000{n}" for n in range(5)]
        for tag in tags[:4]:
            await broker.place_order(
                Ticket(
                    client_order_id=tag,
                    instrument=Instrument(symbol="INFY"),
                    side=Side.BUY,
                    quantity=Decimal(5),
                    order_type=OrderType.LIMIT,
                    limit_price=Decimal(99),
                )
            )
        before = len(server.calls("GET /orders"))
        found = await broker.find_all(tags)
        assert len(server.calls("GET /orders")) == before + 1
        assert [tag for tag, report in found.items() if report is not None] == tags[:4]
        assert found[tags[4]] is None
        server.show_oddly("GET /orders", tags[0], {"filled_quantity": "many"})
        assert set(await broker.find_all(tags)) == {*tags[1:4], tags[4]}
        server.show_oddly("GET /orders", tags[1], {"tag": 5, "tags": None, "filled_quantity": None})
        assert tags[4] not in await broker.find_all(tags), "it may be the one whose tag cannot be read"
        await broker.close()


async def test_a_line_that_is_down_takes_no_cancel(tmp_path: Path) -> None:
    async with serving_kite(tmp_path, "AB1234", Market()) as server:
        broker = ZerodhaBroker(Configuration.of(config_for(server), broker="Zerodha"))
        await broker.connect()
        server.set_line(is_down=True)
        ticket = Ticket(
            client_order_id="t000000000000000001",
            instrument=Instrument(symbol="INFY"),
            side=Side.BUY,
            quantity=Decimal(5),
            order_type=OrderType.LIMIT,
            limit_price=Decimal(99),
        )
        placed = await broker.place_order(ticket)
        ref = OrderRef(client_order_id=ticket.client_order_id, broker_order_id=placed.broker_order_id)
        (report,) = (await broker.reports()).reports
        assert (report.said, report.is_held) == ("OPEN PENDING", None)
        with pytest.raises(OrderRefused, match="being processed"):
            await broker.cancel_order(ref, again=True)
        server.set_line(is_down=False)
        (report,) = (await broker.reports()).reports
        assert (report.said, report.is_held) == ("OPEN", False)
        await broker.cancel_order(ref, again=True)
        await broker.close()


def test_what_was_said_of_one_opening_holds_for_no_later_one() -> None:
    blotter = Blotter()
    entry = blotter.note_order(client_id=1, order_id=1, perm_id=9, client_order_id="t", status="PreSubmitted")
    assert blotter.report(entry).is_held is None
    before = blotter.mark
    blotter.note_hold(entry, Hold(words="not before nine", until=EVENING))
    assert (blotter.report(entry).is_held, blotter.report(entry).held_until) == (True, EVENING)
    assert blotter.mark > before, "it is told"
    blotter.note_status(client_id=1, order_id=1, perm_id=9, status="Submitted", filled=Decimal(0))
    assert blotter.report(entry).is_held is False
    blotter.note_status(client_id=1, order_id=1, perm_id=9, status="PreSubmitted", filled=Decimal(0))
    assert (blotter.report(entry).is_held, blotter.report(entry).held_until) == (None, None), "it rests over night"


def test_what_has_filled_is_not_held() -> None:
    blotter = Blotter()
    entry = blotter.note_order(client_id=1, order_id=1, perm_id=9, client_order_id="t", status="PreSubmitted")
    blotter.note_hold(entry, Hold(words="not before nine", until=None))
    execution = Execution(exec_id="a.1", quantity=Decimal(1), price=Decimal(2), time=EVENING)
    blotter.note_execution(client_id=1, order_id=1, perm_id=9, client_order_id="t", execution=execution)
    assert blotter.report(entry).is_held is False
