"""From a ticket to the body of Alpaca's placing call: what it must be, and what is refused before it is sent."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from brokers.alpaca import dialect
from brokers.alpaca.rows import AssetRow, PositionRow
from brokers.base import AssetClass, Instrument, OptionRight, OrderType, Side, Ticket, Tif
from brokers.errors import OrderRefused
from execution_service.core.reconcile.positions import Holding, compare_positions
from tests.contract.alpaca.stage import ticket

AAPL = AssetRow(
    symbol="AAPL", asset_class="us_equity", exchange="NASDAQ", is_tradable=True, is_fractionable=True, cusip="037833100"
)
BRK = AssetRow(symbol="BRK.B", asset_class="us_equity", exchange="NYSE", is_tradable=True)
BTC = AssetRow(
    symbol="BTC/USD",
    asset_class="crypto",
    is_tradable=True,
    least_quantity=Decimal("0.0001"),
    quantity_step=Decimal("0.0001"),
    price_step=Decimal(1),
)
CALL = AssetRow(symbol="AAPL261218C00200000", asset_class="us_option", is_tradable=True, multiplier=Decimal(100))
COIN = Instrument(symbol="BTC/USD", asset_class=AssetClass.CRYPTO)
OPTION = Instrument(
    symbol="AAPL", asset_class=AssetClass.OPTION, expiry="20261218", strike=Decimal(200), right=OptionRight.CALL
)


def form(order: Ticket, asset: AssetRow = AAPL) -> dict[str, object]:
    return dialect.order_form(dialect.fitted(order, asset), asset)


def refused(order: Ticket, asset: AssetRow = AAPL) -> str:
    with pytest.raises(OrderRefused) as caught:
        form(order, asset)
    return caught.value.reason


def test_a_limit_order_in_shares_is_for_the_day_and_all_numbers_are_text() -> None:
    order = ticket(limit_price=Decimal("190.051"))
    assert form(order) == {
        "symbol": "AAPL",
        "side": "buy",
        "type": "limit",
        "time_in_force": "day",
        "client_order_id": order.client_order_id,
        "qty": "10",
        "limit_price": "190.05",
    }


@pytest.mark.parametrize(
    ("price", "side", "order_type", "sent"),
    [
        ("190.059", Side.BUY, OrderType.LIMIT, {"limit_price": "190.05"}),
        ("190.051", Side.SELL, OrderType.LIMIT, {"limit_price": "190.06"}),
        ("0.91239", Side.BUY, OrderType.LIMIT, {"limit_price": "0.9123"}),
        ("190.051", Side.BUY, OrderType.STOP, {"stop_price": "190.06"}),
        ("190.059", Side.SELL, OrderType.STOP, {"stop_price": "190.05"}),
    ],
)
def test_prices_go_to_the_tick_never_to_the_orders_disadvantage(
    price: str, side: Side, order_type: OrderType, sent: dict[str, str]
) -> None:
    name = "stop_price" if order_type is OrderType.STOP else "limit_price"
    made = form(ticket(order_type, side=side, **{name: Decimal(price)}))
    assert {key: value for key, value in made.items() if key.endswith("_price")} == sent


def test_a_tiny_quantity_is_written_without_an_exponent() -> None:
    order = ticket(OrderType.MARKET, quantity=Decimal("1E-8") * 100000000 / 3, reference_price=Decimal(190))
    assert form(order)["qty"] == "0.333333333"


def test_a_fraction_is_for_the_day_and_where_the_asset_allows_it() -> None:
    half = Decimal("0.5")
    assert form(ticket(quantity=half))["time_in_force"] == "day"
    assert "for the day only" in refused(ticket(quantity=half, tif=Tif.GTC))
    assert "whole numbers" in refused(ticket(quantity=half, instrument=Instrument(symbol="BRK.B")), BRK)


def test_an_amount_of_money_goes_out_instead_of_a_quantity() -> None:
    made = form(ticket(OrderType.MARKET, cash_quantity=Decimal("250.009")))
    assert made["notional"] == "250.00"
    assert "qty" not in made


def test_less_than_a_dollar_is_no_purchase_but_may_be_sold() -> None:
    small = ticket(quantity=Decimal("0.001"), limit_price=Decimal(190))
    assert "least purchase" in refused(small)
    assert form(replace(small, side=Side.SELL))["qty"] == "0.001000000"


def test_coins_for_dollars_are_bought_for_ten_at_least_and_for_other_coins_for_any_amount() -> None:
    small = ticket(instrument=COIN, quantity=Decimal("0.0002"), limit_price=Decimal(40000))
    assert "least purchase, $10" in refused(small, BTC)
    assert form(replace(small, side=Side.SELL), BTC)["qty"] == "0.0002"
    pair = Instrument(symbol="ETH/BTC", asset_class=AssetClass.CRYPTO)
    for_bitcoin = ticket(instrument=pair, quantity=Decimal(5), limit_price=Decimal("0.05"))
    in_bitcoin = replace(BTC, symbol="ETH/BTC", price_step=Decimal("0.00001"))
    assert form(for_bitcoin, in_bitcoin)["qty"] == "5"


def test_what_coins_are_priced_in_is_told_so_that_no_profit_in_bitcoin_is_one_in_dollars() -> None:
    pair = ticket(instrument=Instrument(symbol="ETH/BTC", asset_class=AssetClass.CRYPTO), limit_price=Decimal("0.05"))
    in_bitcoin = dialect.fitted(pair, replace(BTC, symbol="ETH/BTC", price_step=Decimal("0.00001")))
    in_dollars = dialect.fitted(ticket(instrument=COIN, limit_price=Decimal(40000)), BTC)
    assert [each.terms and each.terms.currency for each in (in_bitcoin, in_dollars)] == ["BTC", "USD"]


@pytest.mark.parametrize(
    ("variety", "changes", "sent"),
    [
        ("extended_hours", {}, {"extended_hours": True, "time_in_force": "day"}),
        ("extended_hours", {"tif": Tif.GTC}, {"extended_hours": True, "time_in_force": "gtc"}),
        ("opg", {}, {"time_in_force": "opg"}),
        ("cls", {}, {"time_in_force": "cls"}),
        ("FOK", {}, {"time_in_force": "fok"}),
    ],
)
def test_varieties_of_shares(variety: str, changes: dict[str, object], sent: dict[str, object]) -> None:
    made = form(ticket(variety=variety, **changes))
    assert {name: made[name] for name in sent} == sent


def test_extended_hours_need_a_limit_that_rests() -> None:
    assert "limit orders" in refused(ticket(OrderType.MARKET, variety="extended_hours"))
    assert "limit orders" in refused(ticket(variety="extended_hours", tif=Tif.IOC))
    assert "not supported" in refused(ticket(variety="iceberg"))


def test_a_halted_asset_takes_exits_only() -> None:
    halted = replace(AAPL, is_tradable=False)
    assert "not tradable" in refused(ticket(), halted)
    assert form(ticket(side=Side.SELL, is_exit=True), halted)["side"] == "sell"


def test_a_symbol_at_another_exchange_is_another_share() -> None:
    assert "the exchange NSE" in refused(ticket(instrument=Instrument(symbol="AAPL", exchange="NSE")))
    for exchange in ("SMART", "NASDAQ", "ISLAND", None):
        assert form(ticket(instrument=Instrument(symbol="AAPL", exchange=exchange)))["symbol"] == "AAPL"


def test_what_the_order_says_of_the_contract_is_confirmed_or_refused() -> None:
    assert form(ticket(instrument=Instrument(symbol="AAPL", isin="US0378331005")))["symbol"] == "AAPL"
    assert "isin" in refused(ticket(instrument=Instrument(symbol="AAPL", isin="US0000000000")))
    assert "con_id" in refused(ticket(instrument=Instrument(symbol="AAPL", con_id=265598)))
    assert "multiplier 10" in refused(ticket(instrument=replace(OPTION, multiplier=Decimal(10))), CALL)


@pytest.mark.parametrize("symbol", ["BTC/USD", "BTCUSD", "BTC"])
def test_a_coin_has_one_name_at_alpaca(symbol: str) -> None:
    assert dialect.symbol_of(Instrument(symbol=symbol, asset_class=AssetClass.CRYPTO)) == "BTC/USD"


def test_coins_rest_until_cancelled_and_are_cut_to_their_step() -> None:
    order = ticket(instrument=COIN, quantity=Decimal("0.12345"), limit_price=Decimal("60000.9"))
    made = form(order, BTC)
    assert (made["time_in_force"], made["qty"], made["limit_price"]) == ("gtc", "0.1234", "60000")
    assert "no DAY orders for crypto" in refused(replace(order, tif=Tif.DAY), BTC)
    assert "no STOP orders for crypto" in refused(ticket(OrderType.STOP, instrument=COIN), BTC)
    assert "less than" in refused(replace(order, quantity=Decimal("0.00009")), BTC)


def test_an_option_is_named_by_its_occ_symbol() -> None:
    assert dialect.symbol_of(OPTION) == "AAPL261218C00200000"
    assert dialect.symbol_of(Instrument(symbol="AAPL261218C00200000", asset_class=AssetClass.OPTION)) == CALL.symbol
    with pytest.raises(OrderRefused, match="expiry"):
        dialect.symbol_of(replace(OPTION, expiry="202612"))


def test_an_exit_in_options_may_only_close() -> None:
    order = ticket(instrument=OPTION, quantity=Decimal(2), limit_price=Decimal("3.15"), side=Side.SELL)
    assert form(replace(order, is_exit=True), CALL)["position_intent"] == "sell_to_close"
    assert "position_intent" not in form(order, CALL)
    assert dialect.fitted(order, CALL).terms.multiplier == 100
    assert "no STOP orders for options" in refused(replace(order, order_type=OrderType.STOP), CALL)
    assert "no GTC orders for options" in refused(replace(order, tif=Tif.GTC), CALL)


@pytest.mark.parametrize("asset_class", [AssetClass.FUTURE, AssetClass.FOREX, AssetClass.BOND])
def test_what_alpaca_does_not_trade_is_refused(asset_class: AssetClass) -> None:
    with pytest.raises(OrderRefused) as caught:
        dialect.symbol_of(Instrument(symbol="ES", asset_class=asset_class))
    assert caught.value.unsupported


def test_another_currency_is_refused() -> None:
    with pytest.raises(OrderRefused, match="INR"):
        dialect.symbol_of(Instrument(symbol="INFY", currency="INR"))


def test_a_position_in_an_option_or_a_coin_is_what_an_order_names() -> None:
    option, names = dialect.instrument_of("AAPL261218C00200000", "us_option")
    assert option.could_be(OPTION)
    assert names == {"AAPL261218C00200000"}
    coin, names = dialect.instrument_of("BTCUSD", "crypto")
    assert coin.could_be(COIN)
    assert names >= {"BTCUSD", "BTC"}


HELD = dialect.positions(
    [
        PositionRow(symbol="AAPL261218C00200000", asset_class="us_option", quantity=Decimal(2), average_price=None),
        PositionRow(symbol="BTCUSD", asset_class="crypto", quantity=Decimal(2), average_price=None),
        PositionRow(symbol="BRK.B", asset_class="us_equity", quantity=Decimal(2), average_price=None),
    ]
)


@pytest.mark.parametrize(
    "instrument",
    [
        OPTION,
        replace(OPTION, exchange="SMART", currency="USD", multiplier=Decimal(100), underlying="AAPL"),
        Instrument(symbol="AAPL261218C00200000", asset_class=AssetClass.OPTION),
        COIN,
        Instrument(symbol="BTC", asset_class=AssetClass.CRYPTO, currency="USD"),
        Instrument(symbol="BTCUSD", asset_class=AssetClass.CRYPTO),
        Instrument(symbol="BRK B"),
        Instrument(symbol="BRK.B", asset_class=AssetClass.ETF),
        Instrument(symbol="BRK.B", exchange="NYSE"),
    ],
    ids=lambda each: each.full_key,
)
def test_whatever_an_order_calls_it_the_position_is_known_as_its_own(instrument: Instrument) -> None:
    compared = compare_positions([Holding(instrument=instrument, quantity=Decimal(2))], HELD)
    assert (compared.agreeing, compared.findings) == (1, ())
