"""Orders as Kite wants them: prices, lots, products, instruments and the lists in which they are found."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import AssetClass, Instrument, OptionRight, OrderRef, OrderType, ReportStatus, Side, Tif
from brokers.errors import HeldBack, OrderRefused
from brokers.zerodha import dialect, rows
from brokers.zerodha.adapter import ZerodhaBroker, create
from execution_service.core.reconcile.positions import Holding, compare_positions
from simulators.stage_zerodha import config_for
from simulators.zerodha.server import FaultKind, KiteFault, SimulatedKite
from tests.contract.zerodha.stage import INFY, TAG, found, hold, last_form, limit, order_row, orders_of, ticket
from tests.waits import until


async def test_a_market_order_carries_market_protection_and_our_tag(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    await broker.place_order(ticket())
    assert dict(last_form(server)) == {
        "variety": "regular",
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "transaction_type": "BUY",
        "quantity": "10",
        "product": "CNC",
        "order_type": "MARKET",
        "validity": "DAY",
        "tag": TAG,
        "market_protection": "-1",
    }
    await broker.place_order(ticket(OrderType.STOP, stop_price=Decimal(101)))
    assert last_form(server)["market_protection"] == "-1"
    await broker.place_order(limit())
    assert "market_protection" not in last_form(server)


@pytest.mark.parametrize(
    ("side", "stop", "limit_price", "trigger"),
    [
        (Side.SELL, "100.03", "95.00", "100.00"),
        (Side.BUY, "100.03", "105.05", "100.05"),
        (Side.SELL, "0.06", "0.05", "0.05"),
    ],
)
async def test_a_stop_that_protects_an_option_leaves_with_a_limit_beyond_its_trigger(
    server: SimulatedKite, broker: ZerodhaBroker, side: Side, stop: str, limit_price: str, trigger: str
) -> None:
    option = Instrument(symbol="INFY26DEC1500CE", asset_class=AssetClass.OPTION)
    changes = {"instrument": option, "quantity": Decimal(400), "side": side, "stop_price": Decimal(stop)}
    protective = await broker.fitted(ticket(OrderType.STOP, **changes, is_exit=True, is_protective=True))
    assert (protective.limit_price, protective.stop_price) == (Decimal(limit_price), Decimal(trigger))
    await broker.place_order(protective)
    form = last_form(server)
    assert (form["order_type"], form["price"], form["trigger_price"]) == ("SL", limit_price, trigger)
    assert "market_protection" not in form
    await broker.fitted(ticket(OrderType.STOP, **changes))
    share = await broker.fitted(ticket(OrderType.STOP, stop_price=Decimal(stop), is_exit=True, is_protective=True))
    assert share.limit_price is None


async def test_market_protection_can_be_configured(server: SimulatedKite) -> None:
    broker = create(config_for(server) | {"market_protection": "2.5"})
    await broker.connect()
    await broker.place_order(ticket())
    assert last_form(server)["market_protection"] == "2.5"
    await broker.close()


@pytest.mark.parametrize(
    ("side", "wished", "sent"),
    [
        # A limit is never worse than it was named, a stop never earlier.
        (Side.BUY, ("100.1237", "100.0237"), ("100.10", "100.05")),
        (Side.SELL, ("100.0237", "100.1237"), ("100.05", "100.10")),
        # Kite takes no purchase with the trigger above the limit: where the two would cross, the limit stands.
        (Side.BUY, ("100.03", "100.02"), ("100.00", "100.00")),
        (Side.BUY, ("100.02", "100.02"), ("100.00", "100.00")),
        (Side.BUY, ("100.05", "100.02"), ("100.05", "100.05")),
        (Side.SELL, ("100.02", "100.03"), ("100.05", "100.05")),
        (Side.SELL, ("100.00", "100.00"), ("100.00", "100.00")),
    ],
)
async def test_prices_are_rounded_to_the_tick_to_the_side_that_risks_less(
    server: SimulatedKite, broker: ZerodhaBroker, side: Side, wished: tuple[str, str], sent: tuple[str, str]
) -> None:
    hold(server)
    limit_price, stop_price = map(Decimal, wished)
    asked = ticket(OrderType.STOP_LIMIT, side=side, limit_price=limit_price, stop_price=stop_price)
    fitted = await broker.fitted(asked)
    await broker.place_order(fitted)
    (order,) = server.book.orders()
    assert (order.ticket.limit_price, order.ticket.stop_price) == tuple(map(Decimal, sent))
    assert (fitted.limit_price, fitted.stop_price) == (order.ticket.limit_price, order.ticket.stop_price)
    assert last_form(server)["order_type"] == "SL"


@pytest.mark.parametrize(("side", "sent"), [(Side.BUY, "100.05"), (Side.SELL, "100.00")])
async def test_a_stop_never_triggers_before_the_price_that_was_named(
    server: SimulatedKite, broker: ZerodhaBroker, side: Side, sent: str
) -> None:
    hold(server)
    await broker.place_order(ticket(OrderType.STOP, side=side, stop_price=Decimal("100.0237")))
    assert last_form(server)["trigger_price"] == sent


async def test_a_trigger_on_the_wrong_side_of_its_limit_is_left_to_kite_to_refuse(broker: ZerodhaBroker) -> None:
    with pytest.raises(OrderRefused, match="cannot be above the limit"):
        await broker.place_order(
            ticket(OrderType.STOP_LIMIT, limit_price=Decimal("100.00"), stop_price=Decimal("105.00"))
        )


NIFTY = Instrument(symbol="NIFTY26DECFUT", asset_class=AssetClass.FUTURE)


GOLD = Instrument(symbol="GOLDM26DECFUT", asset_class=AssetClass.FUTURE, exchange="MCX")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"multiplier": Decimal(50)}, r"multiplier 50, where it is 1, in lots of 75"),
        ({"con_id": 4711}, r"con_id 4711, where Kite's number of it is 13568258"),
        ({"trading_class": "NIFTY"}, "trading_class NIFTY"),
        ({"isin": "INE009A01021"}, "isin INE009A01021"),
        ({"currency": "USD"}, "not in USD"),
        ({"expiry": "20270128"}, "is not the FUTURE"),
    ],
)
async def test_what_is_said_of_a_contract_and_is_not_so_or_cannot_be_looked_up_is_refused_by_name(
    server: SimulatedKite, broker: ZerodhaBroker, said: dict[str, Any], words: str
) -> None:
    named = ticket(instrument=replace(NIFTY, **said), quantity=Decimal(75))
    for ask in (broker.fitted, broker.place_order):
        with pytest.raises(OrderRefused, match=words):
            await ask(named)
    assert server.calls("POST /orders/*") == []


@pytest.mark.parametrize("said", [{"multiplier": Decimal(1)}, {"multiplier": Decimal(75)}, {"con_id": 13568258}])
async def test_what_is_said_of_a_contract_and_is_so_is_taken(broker: ZerodhaBroker, said: dict[str, Any]) -> None:
    fitted = await broker.fitted(ticket(instrument=replace(NIFTY, **said), quantity=Decimal(75)))
    assert fitted.terms is not None
    assert (fitted.terms.money_per_point, fitted.terms.currency) == (1, "INR")


async def test_what_one_lot_of_a_commodity_is_of_is_known_once_kite_shows_a_position_in_it(
    broker: ZerodhaBroker,
) -> None:
    first = await broker.fitted(limit("121500", instrument=GOLD, quantity=Decimal(1)))
    assert first.terms is not None
    assert first.terms.money_per_point is None
    with pytest.raises(OrderRefused, match="the multiplier 10 cannot be checked"):
        await broker.fitted(limit("121500", instrument=replace(GOLD, multiplier=Decimal(10)), quantity=Decimal(1)))
    await broker.place_order(first)
    await found(broker)
    then = await broker.fitted(limit("121500", instrument=replace(GOLD, multiplier=Decimal(10)), quantity=Decimal(1)))
    assert then.terms is not None
    assert then.terms.money_per_point == 10
    (position,) = await broker.positions()
    assert position.terms == then.terms
    with pytest.raises(OrderRefused, match="the multiplier 100, where it is 10"):
        await broker.fitted(limit("121500", instrument=replace(GOLD, multiplier=Decimal(100)), quantity=Decimal(1)))


def test_an_odd_multiplier_beside_a_position_is_not_learned() -> None:
    rows = [
        {"exchange": "MCX", "tradingsymbol": "GOLDM26DECFUT", "multiplier": malformed}
        for malformed in (None, 0, -1, "None", Decimal("NaN"))
    ]
    assert dialect.lot_sizes([*rows, "no row", {"exchange": "NFO", "tradingsymbol": "X", "multiplier": 5}]) == {}


async def test_a_price_below_one_tick_is_refused(broker: ZerodhaBroker) -> None:
    with pytest.raises(OrderRefused, match="tick"):
        await broker.place_order(limit("0.03"))


@pytest.mark.parametrize("quantity", ["10.5", "0", "-1"])
async def test_a_quantity_that_is_no_whole_number_is_refused_and_not_cut(
    server: SimulatedKite, broker: ZerodhaBroker, quantity: str
) -> None:
    with pytest.raises(OrderRefused, match="lots"):
        await broker.place_order(ticket(quantity=Decimal(quantity)))
    assert server.calls("POST /orders/*") == []


async def test_a_quantity_that_is_no_whole_lot_is_refused_and_not_cut(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    future = Instrument(symbol="NIFTY26DECFUT", asset_class=AssetClass.FUTURE)
    with pytest.raises(OrderRefused, match=r"100 of NIFTY26DECFUT.*75"):
        await broker.place_order(ticket(instrument=future, quantity=Decimal(100)))
    await broker.place_order(ticket(instrument=future, quantity=Decimal(150)))
    assert (last_form(server)["exchange"], last_form(server)["product"]) == ("NFO", "NRML")


@pytest.mark.parametrize(
    ("instrument", "quantity", "expected"),
    [
        (Instrument(symbol="INFY", exchange="BSE"), 1, ("BSE", "INFY", "CNC")),
        (Instrument(symbol="BSE:INFY"), 1, ("BSE", "INFY", "CNC")),
        (Instrument(symbol="NIFTYBEES", asset_class=AssetClass.ETF), 1, ("NSE", "NIFTYBEES", "CNC")),
        (
            Instrument(symbol="USDINR26DECFUT", asset_class=AssetClass.FOREX, currency="INR"),
            1,
            ("CDS", "USDINR26DECFUT", "NRML"),
        ),
        (
            Instrument(symbol="GOLDM", asset_class=AssetClass.FUTURE, exchange="MCX", expiry="202612"),
            1,
            ("MCX", "GOLDM26DECFUT", "NRML"),
        ),
        (
            Instrument(symbol="SENSEX", asset_class=AssetClass.FUTURE, exchange="bfo", expiry="20261224"),
            20,
            ("BFO", "SENSEX26DECFUT", "NRML"),
        ),
        (
            Instrument(
                symbol="INFY",
                asset_class=AssetClass.OPTION,
                expiry="20261229",
                strike=Decimal(1500),
                right=OptionRight.CALL,
            ),
            400,
            ("NFO", "INFY26DEC1500CE", "NRML"),
        ),
        (
            Instrument(
                symbol="INFY put", asset_class=AssetClass.OPTION, underlying="INFY", right=OptionRight.PUT, strike=None
            ),
            400,
            ("NFO", "INFY26DEC1500PE", "NRML"),
        ),
    ],
    ids=lambda value: value.key if isinstance(value, Instrument) else "",
)
async def test_instruments_are_found_in_the_lists_of_their_exchanges(
    server: SimulatedKite, broker: ZerodhaBroker, instrument: Instrument, quantity: int, expected: tuple[str, str, str]
) -> None:
    await broker.place_order(ticket(instrument=instrument, quantity=Decimal(quantity)))
    form = last_form(server)
    assert (form["exchange"], form["tradingsymbol"], form["product"]) == expected
    report = await found(broker)
    ours = [Holding(instrument=instrument, quantity=report.filled_quantity)]
    is_told_whole = instrument.asset_class is not AssetClass.OPTION or instrument.strike is not None
    assert report.filled_quantity == quantity
    assert compare_positions(ours, await broker.positions()).agreeing == is_told_whole


@pytest.mark.parametrize(
    ("instrument", "why"),
    [
        (Instrument(symbol="NOSUCH"), "not in the instruments list of NSE"),
        (Instrument(symbol="NIFTY 50"), "index"),
        (Instrument(symbol="INFY", exchange="SMART"), "does not trade on SMART"),
        (Instrument(symbol="INFY", currency="USD"), "not in USD"),
        (Instrument(symbol="NIFTY26DECFUT", exchange="NFO"), "not the STOCK"),
        (
            Instrument(symbol="INFY", asset_class=AssetClass.OPTION, strike=Decimal(1500), right=OptionRight.CALL),
            "any of 2 instruments: INFY26D081500CE, INFY26DEC1500CE",
        ),
        (
            Instrument(symbol="INFY", asset_class=AssetClass.OPTION, strike=Decimal(1), right=OptionRight.CALL),
            "not in the instruments list of NFO",
        ),
    ],
    ids=lambda value: value.key if isinstance(value, Instrument) else "",
)
async def test_an_instrument_that_is_not_clear_or_not_there_is_refused_before_it_is_sent(
    server: SimulatedKite, broker: ZerodhaBroker, instrument: Instrument, why: str
) -> None:
    with pytest.raises(OrderRefused, match=why):
        await broker.place_order(ticket(instrument=instrument, quantity=Decimal(400)))
    assert server.calls("POST /orders/*") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"product": "MTF"},
        {"variety": "co"},
        {"tif": Tif.GTC},
        {"variety": "iceberg"},
        {
            "product": "CNC",
            "instrument": Instrument(symbol="NIFTY26DECFUT", asset_class=AssetClass.FUTURE),
            "quantity": Decimal(75),
        },
    ],
    ids=str,
)
async def test_what_zerodha_does_not_do_is_refused_before_it_is_sent(
    server: SimulatedKite, broker: ZerodhaBroker, changes: dict[str, Any]
) -> None:
    with pytest.raises(OrderRefused):
        await broker.place_order(ticket(**changes))
    assert server.calls("POST /orders/*") == []


async def test_product_variety_and_tif_are_passed_on(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    hold(server)
    placed = await broker.place_order(limit(product="MIS", variety="amo", tif=Tif.IOC))
    form = last_form(server)
    assert (form["product"], form["variety"], form["validity"]) == ("MIS", "amo", "IOC")
    assert (await found(broker)).status is ReportStatus.WORKING
    # A cancel names the variety, even of an order that another session placed.
    other = create(config_for(server))
    await other.connect()
    await other.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=placed.broker_order_id))
    assert (await found(other)).status is ReportStatus.CANCELLED
    await other.close()


async def test_the_legs_of_an_iceberg_order_are_one_order(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    hold(server)
    placed = await broker.place_order(limit(variety="iceberg", quantity=Decimal(24)))
    assert (last_form(server)["iceberg_legs"], last_form(server)["iceberg_quantity"]) == ("5", "5")
    order = OrderRef(client_order_id="", broker_order_id=placed.broker_order_id)
    server.book.fill_order(order, Decimal(5))
    report = await found(broker)
    assert (report.status, report.filled_quantity) == (ReportStatus.WORKING, Decimal(5))
    server.book.fill_order(order, Decimal(7))
    (report,) = (await broker.reports()).reports
    assert report.broker_order_id == placed.broker_order_id
    assert (report.status, report.filled_quantity) == (ReportStatus.WORKING, Decimal(12))
    await broker.cancel_order(OrderRef(client_order_id=TAG, broker_order_id=placed.broker_order_id))
    report = await found(broker)
    assert (report.status, report.filled_quantity) == (ReportStatus.CANCELLED, Decimal(12))
    assert sum(fill.quantity for fill in report.fills) == Decimal(12)
    assert server.book.orders()[0].status is ReportStatus.CANCELLED


async def test_an_iceberg_order_is_filled_when_its_last_leg_is(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    await broker.place_order(limit(variety="iceberg", quantity=Decimal(24)))
    report = await found(broker)
    assert (report.status, report.filled_quantity) == (ReportStatus.FILLED, Decimal(24))


def test_an_iceberg_order_between_two_legs_is_working() -> None:
    def leg(number: int, **changes: Any) -> dict[str, Any]:
        meta = {"iceberg": {"leg": number, "legs": 2, "total_quantity": 20}}
        return order_row(variety="iceberg", order_id=f"26112100000000{number}", meta=meta, **changes)

    done = {"status": "COMPLETE", "filled_quantity": 10}
    (report,) = dialect.reports(orders_of([leg(1, **done)]), {})
    assert (report.status, report.filled_quantity) == (ReportStatus.WORKING, Decimal(10))
    (report,) = dialect.reports(orders_of([leg(2, **done), leg(1, **done)]), {})
    assert (report.status, report.filled_quantity) == (ReportStatus.FILLED, Decimal(20))
    assert report.broker_order_id == "261121000000001"


async def test_instruments_are_read_once_a_day_and_exchange(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    for _ in range(5):
        await broker.place_order(ticket())
    await asyncio.gather(*(broker.place_order(ticket(instrument=replace(INFY, exchange="BSE"))) for _ in range(5)))
    assert sorted(call.path for call in server.calls("GET /instruments*")) == ["/instruments/BSE", "/instruments/NSE"]
    broker._listings["NSE"] = replace(broker._listings["NSE"], day=date(2026, 1, 1))
    await broker.place_order(ticket())
    assert len(server.calls("GET /instruments/NSE")) == 2
    with pytest.raises(OrderRefused):
        await broker.place_order(ticket(instrument=Instrument(symbol="NOSUCH")))
    assert len(server.calls("GET /instruments/NSE")) == 2


BAD_LISTS = [
    KiteFault(kind=FaultKind.SERVER_ERROR, route="GET /instruments/*", status=502, times=None),
    KiteFault(kind=FaultKind.HTML, route="GET /instruments/*", times=None),
    KiteFault(kind=FaultKind.TRUNCATED, route="GET /instruments/*", times=None),
]


@pytest.mark.parametrize("fault", BAD_LISTS, ids=lambda fault: str(fault.kind))
async def test_without_a_list_orders_are_held_with_growing_pauses_and_nothing_else_is(
    server: SimulatedKite, fault: KiteFault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brokers.zerodha.adapter._LIST_PAUSES_SECONDS", (0.05, 0.2))
    broker = create(config_for(server))
    await broker.connect()
    server.add_fault(fault)
    future = ticket(instrument=Instrument(symbol="USDINR26DECFUT", asset_class=AssetClass.FOREX), quantity=Decimal(1))
    for pause in (0.05, 0.1, 0.2, 0.2):
        with pytest.raises(HeldBack, match="instruments list of CDS") as held:
            await broker.fitted(future)
        assert held.value.wait_seconds == pause
        with pytest.raises(HeldBack) as again:
            await broker.place_order(future)
        assert again.value.wait_seconds <= pause
        asked = len(server.calls("GET /instruments/CDS"))
        await asyncio.sleep(pause)
    assert asked == 4, "an order that comes while the failure is young asks nobody"
    await broker.fitted(ticket())
    await broker.place_order(ticket())
    assert await broker.find(TAG) is not None
    server.clear_faults()
    await broker.fitted(future)
    await broker.close()


async def test_a_symbol_that_may_be_new_is_held_and_not_refused_while_the_list_cannot_be_read_again(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    broker._listings["NSE"] = replace(broker._listings["NSE"], read_at=time.monotonic() - 601)
    server.add_fault(BAD_LISTS[2])
    with pytest.raises(HeldBack):
        await broker.fitted(ticket(instrument=Instrument(symbol="NOSUCH")))
    await broker.fitted(ticket())


async def test_a_list_that_hangs_holds_up_no_order_of_another_exchange(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    server.add_fault(KiteFault(kind=FaultKind.NEVER_ANSWER, route="GET /instruments/BSE"))
    waiting = asyncio.create_task(broker.fitted(ticket(instrument=replace(INFY, exchange="BSE"))))
    await until(lambda: len(server.calls("GET /instruments/BSE")) == 1)
    async with asyncio.timeout(3.0):
        await broker.fitted(ticket())
        await broker.fitted(ticket(instrument=Instrument(symbol="USDINR26DECFUT", asset_class=AssetClass.FOREX)))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


def test_a_line_that_cannot_be_read_leaves_the_list_good_for_all_others() -> None:
    header = "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,segment,exchange"
    good = "1,1,{},,0,,0,0.05,1,EQ,NSE,NSE"
    lines = [
        header,
        good.format("AAA"),
        good.format("ODD").replace("0.05", "x"),
        good.format("ZERO").replace("0.05", "0"),
        good.format("ZZZ"),
    ]
    listing = dialect.Listing("NSE", "\n".join(lines))
    assert listing.by_symbol("AAA") is not None
    assert listing.by_symbol("ZZZ") is not None
    assert listing.odd_symbols == {"ODD", "ZERO"}
    for page in ("", header, "<html></html>", "\n".join(lines)[:-7], None, b"\xff\x00"):
        with pytest.raises(rows.Malformed):
            dialect.Listing("NSE", page)
