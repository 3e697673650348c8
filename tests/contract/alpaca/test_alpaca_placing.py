"""Placing and cancelling at Alpaca when something goes wrong: what certainly was not sent, what was refused, what nobody knows."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from brokers.alpaca.adapter import AlpacaBroker, create
from brokers.base import AssetClass, Instrument, OrderRef, OrderType, Side, Tif
from brokers.errors import (
    AuthRequired,
    BrokerUnavailable,
    HeldBack,
    NotAnswered,
    OrderAlreadyExists,
    OrderRefused,
    OutcomeUnknown,
    RateLimited,
)
from simulators.alpaca.server import AlpacaFault, FaultKind, SimulatedAlpaca
from simulators.stage_alpaca import config_for
from tests.contract.alpaca.stage import ref, report_of, ticket

UNKNOWN = [
    AlpacaFault(kind=FaultKind.HTML, status=504, accepted=True),
    AlpacaFault(kind=FaultKind.HTML, status=503),
    AlpacaFault(kind=FaultKind.SERVER_ERROR, status=500, accepted=True),
    AlpacaFault(kind=FaultKind.MOVED),
    AlpacaFault(kind=FaultKind.MOVED, accepted=True),
    AlpacaFault(kind=FaultKind.NO_ID, accepted=True),
    AlpacaFault(kind=FaultKind.TRUNCATED),
    AlpacaFault(kind=FaultKind.DROP, accepted=True),
    AlpacaFault(kind=FaultKind.HTML, status=403),
]


@pytest.mark.parametrize("fault", UNKNOWN, ids=lambda fault: f"{fault.kind}-{fault.status}-{fault.accepted}")
async def test_an_answer_that_says_nothing_is_an_unknown_outcome_of_one_sending(
    server: SimulatedAlpaca, broker: AlpacaBroker, fault: AlpacaFault
) -> None:
    server.add_fault(fault)
    order = ticket()
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(order)
    assert len(server.calls("POST /v2/orders")) == 1
    is_there = fault.accepted or fault.kind is FaultKind.TRUNCATED
    assert (await broker.find(order.client_order_id) is not None) is is_there


async def test_an_order_that_had_arrived_is_refused_under_its_id_and_found(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    server.add_fault(AlpacaFault(kind=FaultKind.HTML, status=504, accepted=True))
    order = ticket()
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(order)
    with pytest.raises(OrderAlreadyExists):
        await broker.place_order(order)
    found = await broker.find(order.client_order_id)
    assert found is not None
    await broker.cancel_order(ref(found))
    with pytest.raises(OrderAlreadyExists):
        await broker.place_order(order)
    assert len(server.book.orders(order.client_order_id)) == 1


async def test_an_answer_without_end_is_cut_off(server: SimulatedAlpaca) -> None:
    broker = create({**config_for(server), "answer_timeout_seconds": 0.3})
    await broker.connect()
    server.add_fault(AlpacaFault(kind=FaultKind.TRICKLE, accepted=True))
    order = ticket()
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(order)
    assert await broker.find(order.client_order_id) is not None
    await broker.close()


async def test_keys_that_are_not_accepted_any_more_are_a_matter_for_people_and_nothing_was_sent(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    server.set_keys_good(False)
    with pytest.raises(AuthRequired):
        await broker.place_order(ticket(instrument=Instrument(symbol="SPY")))
    with pytest.raises(AuthRequired):
        await broker.connect()
    assert server.book.orders() == []
    server.set_keys_good(True)
    await broker.connect()
    await broker.place_order(ticket())


async def test_too_many_calls_pause_all_calls_of_the_account(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    await broker.fitted(ticket())
    server.add_fault(AlpacaFault(kind=FaultKind.RATE_LIMITED))
    with pytest.raises(RateLimited) as caught:
        await broker.place_order(ticket())
    assert 0 < caught.value.wait_seconds <= 65
    assert server.book.orders() == []
    # Quotes are asked of another host, which counts by itself.
    assert {left for (kind, _), left in broker.calls_left().items() if kind != "quotes"} == {0}


async def test_when_few_calls_are_left_queries_wait_and_orders_leave(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("few") / "book.db"
    with SimulatedAlpaca(path, calls_per_minute=12) as server:
        broker = create(config_for(server))
        await broker.connect()
        await broker.fitted(ticket())
        with pytest.raises(RateLimited):
            await _ask_often(broker)
        await broker.place_order(ticket())
        assert server.state()["too_many"] == 0
        await broker.close()


async def _ask_often(broker: AlpacaBroker) -> None:
    for _ in range(12):
        await broker.positions()


async def test_a_refusal_has_alpacas_words(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    server.set_tradable("AAPL", False)
    exit_order = ticket(side=Side.SELL, is_exit=True)
    with pytest.raises(OrderRefused, match="asset AAPL is not tradable"):
        await broker.place_order(exit_order)
    with pytest.raises(OrderRefused, match="halted"):
        await broker.fitted(ticket())
    assert len(server.calls("POST /v2/orders")) == 1


async def test_a_symbol_that_is_not_listed_is_refused_before_it_is_sent(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    unlisted = ticket(instrument=Instrument(symbol="NOSUCH"))
    with pytest.raises(OrderRefused, match="does not list NOSUCH"):
        await broker.fitted(unlisted)
    with pytest.raises(OrderRefused):
        await broker.place_order(unlisted)
    assert server.calls("POST /v2/orders") == []


async def test_while_nothing_is_said_of_an_asset_its_orders_wait(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    server.add_fault(AlpacaFault(kind=FaultKind.HTML, status=404, route="GET /v2/assets/*"))
    with pytest.raises(HeldBack):
        await broker.fitted(ticket())
    await broker.fitted(ticket())
    await broker.fitted(ticket())
    assert len(server.calls("GET /v2/assets/*")) == 2


async def test_an_exit_waits_for_no_facts_of_its_asset(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    server.add_fault(AlpacaFault(kind=FaultKind.HTML, status=503, route="GET /v2/assets/*", times=None))
    leaving = ticket(side=Side.SELL, is_exit=True)
    await broker.place_order(await broker.fitted(leaving))
    assert len(server.book.orders(leaving.client_order_id)) == 1
    with pytest.raises(HeldBack):
        await broker.fitted(ticket())


async def test_what_alpaca_repeats_of_the_keys_goes_into_no_message(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    words = f"bad request by {server.api_key} with {server.secret_key}"
    server.add_fault(AlpacaFault(kind=FaultKind.SERVER_ERROR, status=422, text=words))
    with pytest.raises(OrderRefused, match=r"bad request by \*\*\* with \*\*\*"):
        await broker.place_order(ticket())


async def _holding(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    bought = ticket(OrderType.MARKET)
    report = await broker.place_order(bought)
    server.book.fill_order(ref(report))


async def test_an_exit_whose_shares_are_held_by_another_order_waits_and_says_by_which(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    await _holding(server, broker)
    resting = await broker.place_order(ticket(side=Side.SELL, limit_price=server.book.symbol_price("AAPL") * 9))
    own_exit = ticket(OrderType.MARKET, side=Side.SELL, is_exit=True)
    with pytest.raises(HeldBack, match=f"10 of AAPL are held by {resting.broker_order_id}"):
        await broker.place_order(own_exit)
    with pytest.raises(OrderRefused, match="are held by"):
        await broker.place_order(ticket(OrderType.MARKET, side=Side.SELL))
    await broker.cancel_order(ref(resting))
    await broker.place_order(own_exit)
    assert len(server.book.orders(own_exit.client_order_id)) == 1


SHORTAGE = "insufficient qty available for order (requested: 10, available: 0)"


async def test_an_exit_of_shares_that_alpaca_shows_and_does_not_release_yet_waits(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    await _holding(server, broker)
    server.add_fault(AlpacaFault(kind=FaultKind.SERVER_ERROR, status=403, text=SHORTAGE, times=2))
    own_exit = ticket(OrderType.MARKET, side=Side.SELL, is_exit=True)
    with pytest.raises(HeldBack, match="does not let it go yet"):
        await broker.place_order(own_exit)
    server.add_fault(AlpacaFault(kind=FaultKind.HTML, status=502, route="GET /v2/positions/*"))
    with pytest.raises(HeldBack, match="does not let it go yet"):
        await broker.place_order(own_exit)
    await broker.place_order(own_exit)


async def test_an_exit_of_shares_that_alpaca_does_not_show_is_refused_for_good(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    server.add_fault(AlpacaFault(kind=FaultKind.SERVER_ERROR, status=403, text=SHORTAGE))
    with pytest.raises(OrderRefused, match="insufficient qty"):
        await broker.place_order(ticket(OrderType.MARKET, side=Side.SELL, is_exit=True))


async def test_a_stop_that_protects_a_fraction_of_a_share_is_for_the_day(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    stop = ticket(OrderType.STOP, side=Side.SELL, quantity=Decimal("2.5"), tif=Tif.GTC, is_exit=True)
    with pytest.raises(OrderRefused, match="for the day only"):
        await broker.fitted(stop)
    protective = replace(stop, is_protective=True)
    await broker.place_order(await broker.fitted(protective))
    assert server.calls("POST /v2/orders")[-1].body["time_in_force"] == "day"
    whole = replace(protective, quantity=Decimal(2), client_order_id="a222222222222222222")
    await broker.place_order(await broker.fitted(whole))
    assert server.calls("POST /v2/orders")[-1].body["time_in_force"] == "gtc"


async def test_an_exit_that_alpaca_calls_a_wash_trade_waits_and_an_entry_is_refused(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    server.refuse_wash_trades()
    await broker.place_order(ticket(OrderType.STOP))
    with pytest.raises(OrderRefused, match="other side rests"):
        await broker.place_order(ticket(OrderType.MARKET, side=Side.SELL))
    with pytest.raises(HeldBack, match="wash trade"):
        await broker.place_order(ticket(OrderType.MARKET, side=Side.SELL, is_exit=True))


# Coins

COIN = Instrument(symbol="BTC/USD", asset_class=AssetClass.CRYPTO)


async def _coins_held(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    bought = ticket(instrument=COIN, quantity=Decimal("0.1"), limit_price=Decimal(60000))
    server.book.fill_order(ref(await broker.place_order(await broker.fitted(bought))))


async def test_an_exit_in_coins_takes_what_the_fees_have_left(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    await _coins_held(server, broker)
    (held,) = await broker.positions()
    assert (held.instrument.symbol, held.quantity) == ("BTC/USD", Decimal("0.09975"))
    leaving = ticket(
        OrderType.MARKET, instrument=COIN, quantity=Decimal("0.1"), side=Side.SELL, is_exit=True, reference_price=None
    )
    fitted = await broker.fitted(leaving)
    assert fitted.quantity == Decimal("0.0997")
    await broker.place_order(fitted)
    (order,) = server.book.orders(leaving.client_order_id)
    assert order.ticket.quantity == Decimal("0.0997")


async def test_an_exit_in_coins_that_another_order_holds_waits(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    await _coins_held(server, broker)
    half = ticket(instrument=COIN, quantity=Decimal("0.09"), side=Side.SELL, limit_price=Decimal(90000))
    resting = await broker.place_order(await broker.fitted(half))
    leaving = ticket(OrderType.MARKET, instrument=COIN, quantity=Decimal("0.05"), side=Side.SELL, is_exit=True)
    with pytest.raises(HeldBack, match=r"0\.0900+ of BTC/USD are held"):
        await broker.place_order(leaving)
    await broker.cancel_order(ref(resting))
    await broker.place_order(leaving)


async def test_a_stop_that_protects_coins_leaves_with_a_limit_beyond_it(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    await _coins_held(server, broker)
    stop = ticket(
        OrderType.STOP,
        instrument=COIN,
        quantity=Decimal("0.09"),
        side=Side.SELL,
        stop_price=Decimal(50000),
        is_exit=True,
    )
    with pytest.raises(OrderRefused, match="no STOP orders for crypto"):
        await broker.fitted(stop)
    protective = await broker.fitted(replace(stop, is_protective=True, tif=Tif.GTC))
    assert (protective.stop_price, protective.limit_price) == (Decimal(50000), Decimal(47500))
    await broker.place_order(protective)
    body = server.calls("POST /v2/orders")[-1].body
    assert (body["type"], body["stop_price"], body["limit_price"]) == ("stop_limit", "50000", "47500")


async def test_what_fees_do_not_explain_is_alpacas_to_refuse(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    await _coins_held(server, broker)
    leaving = ticket(OrderType.MARKET, instrument=COIN, quantity=Decimal("0.2"), side=Side.SELL, is_exit=True)
    assert (await broker.fitted(leaving)).quantity == Decimal("0.2")
    with pytest.raises(OrderRefused, match="insufficient balance for BTC"):
        await broker.place_order(leaving)


async def test_while_the_position_in_coins_is_not_told_its_exit_waits(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    await _coins_held(server, broker)
    leaving = ticket(OrderType.MARKET, instrument=COIN, quantity=Decimal("0.1"), side=Side.SELL, is_exit=True)
    server.add_fault(AlpacaFault(kind=FaultKind.HTML, status=404, route="GET /v2/positions/*"))
    with pytest.raises(NotAnswered):
        await broker.fitted(leaving)
    assert (await broker.fitted(leaving)).quantity == Decimal("0.0997")


# Cancelling


async def test_a_cancel_without_the_brokers_id_finds_the_order(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    order = ticket()
    await broker.place_order(order)
    await broker.cancel_order(ref(order))
    assert (await report_of(broker, order)).status == "CANCELLED"
    with pytest.raises(OrderRefused, match="no order"):
        await broker.cancel_order(OrderRef(client_order_id="a999999999999999999"))


async def test_a_cancel_of_a_replaced_order_reaches_the_one_that_replaced_it(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    placed = await broker.place_order(ticket())
    new = server.replace(placed.broker_order_id, limit_price="101")
    await broker.cancel_order(ref(placed))
    assert server.book.order(new.broker_order_id).status == "CANCELLED"  # type: ignore[union-attr]


async def test_a_cancel_that_was_taken_already_is_no_refusal(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    placed = await broker.place_order(ticket())
    server.show_as(placed.broker_order_id, "pending_cancel")
    await broker.cancel_order(ref(placed))
    server.show_as(placed.broker_order_id, "pending_replace")
    with pytest.raises(HeldBack):
        await broker.cancel_order(ref(placed))


async def test_no_answer_to_a_cancel_is_unknown_and_one_that_cannot_leave_was_not_sent(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    placed = await broker.place_order(ticket())
    server.add_fault(AlpacaFault(kind=FaultKind.HTML, status=502, route="DELETE /v2/orders/*"))
    with pytest.raises(OutcomeUnknown):
        await broker.cancel_order(ref(placed))
    server.stop()
    with pytest.raises((BrokerUnavailable, OutcomeUnknown)):
        await broker.cancel_order(ref(placed))
