"""An IBKR account's money in several currencies: its base currency, the rates into that, and what the whole is worth."""

from __future__ import annotations

from decimal import Decimal

import pytest

from brokers.ibkr.balances import balances_in
from simulators.control import instrument_of
from tests.contract.ibkr.stage import IbkrStage

ROWS = [
    ("CashBalance", "1800", "BASE"),
    ("CashBalance", "1000", "EUR"),
    ("CashBalance", "1000", "USD"),
    ("ExchangeRate", "1.00", "BASE"),
    ("ExchangeRate", "1.00", "EUR"),
    ("ExchangeRate", "0.80", "USD"),
    ("NetLiquidationByCurrency", "1800.5", "BASE"),
    ("NetLiquidationByCurrency", "1000.5", "EUR"),
    ("NetLiquidationByCurrency", "1000", "USD"),
]


def test_the_base_currency_is_the_one_of_which_one_is_worth_one() -> None:
    euros, dollars = balances_in(ROWS)
    assert (euros.currency, euros.is_base, euros.equity, euros.account_equity) == (
        "EUR",
        True,
        Decimal("1000.5"),
        Decimal("1800.5"),
    )
    assert (dollars.currency, dollars.is_base, dollars.rate, dollars.account_equity) == (
        "USD",
        False,
        Decimal("0.80"),
        None,
    )


def test_the_currency_of_the_net_liquidation_decides_where_it_is_told() -> None:
    balances = balances_in([*ROWS, ("NetLiquidation", "2250", "USD")])
    assert [each.currency for each in balances if each.is_base] == ["USD"]


@pytest.mark.parametrize("rate", ["1", "1.0000"])
def test_of_two_that_may_be_it_none_is_the_base_currency(rate: str) -> None:
    balances = balances_in([*ROWS, ("CashBalance", "5", "USDX"), ("ExchangeRate", rate, "USDX")])
    assert not any(each.is_base for each in balances)


@pytest.mark.parametrize("rate", ["0", "-1", "much", "", "1.7976931348623157E308"])
def test_a_rate_that_is_none_is_not_told(rate: str) -> None:
    rows = [row for row in ROWS if row[0] != "ExchangeRate" or row[2] != "USD"]
    _, dollars = balances_in([*rows, ("ExchangeRate", rate, "USD")])
    assert dollars.rate is None


async def test_the_gateway_tells_rates_and_the_sum_of_all(stage: IbkrStage) -> None:
    broker = await stage.connect()
    assert broker.capabilities.has_base_currency
    stage.gateway.rates["EUR"] = Decimal("1.25")
    fund = instrument_of(stage.book, {"symbol": "SAP", "currency": "EUR"})
    stage.book.trade_by_hand(fund, Decimal(10), Decimal(100))
    euros, dollars = sorted(await broker.balances(), key=lambda each: each.currency)
    assert (dollars.is_base, dollars.rate) == (True, 1)
    assert euros.rate == Decimal("1.25")
    assert euros.equity is not None
    assert dollars.equity is not None
    assert dollars.account_equity == dollars.equity + euros.equity * Decimal("1.25")
