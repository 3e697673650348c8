"""What Zerodha says of orders that wait for the opening, of after-market orders, and of an exchange line that is down."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import Instrument, OrderRef, OrderType, Side, Ticket
from brokers.errors import OrderRefused
from brokers.paper.model import Market
from brokers.zerodha.adapter import Configuration, ZerodhaBroker
from brokers.zerodha.dialect import held
from brokers.zerodha.rows import OrderRow
from simulators.stage_zerodha import config_for, serving_kite


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
