"""Amounts in other currencies than the account's: carried over by a rate that has a source and an age, or not known; never added as they are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import Balance, Capabilities
from brokers.errors import BrokerUnavailable
from execution_service.core.orders.status import Status
from execution_service.core.risk.limits import RiskLimits
from execution_service.core.risk.prices import Rate, rates_into
from tests.builders import NOW
from tests.core.risk_cases import written
from tests.fakes import BY_HAND, RESTING, World, world_of

EURO_ACCOUNT = Capabilities(
    refuses_repeated_client_id=True, has_base_currency=True, concurrent_calls=16, find_window_seconds=0.5
)


def euros(*more: Balance) -> tuple[Balance, ...]:
    """An account whose base currency is the euro, with some dollars in it, of which one is worth 0.80."""
    return (
        Balance(
            currency="EUR",
            cash=Decimal(1000),
            equity=Decimal(1000),
            rate=Decimal(1),
            is_base=True,
            account_equity=Decimal(1800),
        ),
        Balance(currency="USD", cash=Decimal(1000), equity=Decimal(1000), rate=Decimal("0.8")),
        *more,
    )


def of_file(limits: RiskLimits, base: str, quoted: str, rate: str, age: timedelta = timedelta(0)) -> RiskLimits:
    made = Rate(
        base=base,
        quoted=quoted,
        rate=Decimal(rate),
        source="risk.toml",
        at=NOW - age,
        max_age_seconds=Decimal(7 * 86_400),
    )
    return replace(limits, rates=(made,))


async def test_limits_are_in_the_account_s_base_currency_by_the_broker_s_rates(tmp_path: Path) -> None:
    async with world_of(
        tmp_path, market=BY_HAND, capabilities=EURO_ACCOUNT, limits=written(max_order_value=810)
    ) as world:
        world.broker_faults.balances = euros()
        world.send("dollars", price=10)  # 1,000 dollars are 800 euros
        world.send("more", price="10.2", symbol="MSFT")
        world.send("euros", price=10, currency="EUR", symbol="SAP")
        await world.run(3)
        statuses = {each: world.record(each).status for each in ("dollars", "more", "euros")}
        assert statuses == {"dollars": Status.SUBMITTED, "more": Status.REJECTED, "euros": Status.REJECTED}


async def test_the_equity_of_the_whole_account_counts_and_not_that_of_one_currency(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=EURO_ACCOUNT, limits=written(max_leverage=1)) as world:
        world.broker_faults.balances = euros()
        world.send("fits", price=10, currency="EUR", quantity=170)
        world.send("too-much", price=10, currency="EUR", quantity=20)
        await world.run(3)
        statuses = sorted(each.status for each in world.records())
        assert statuses == [Status.REJECTED, Status.SUBMITTED]


@pytest.mark.parametrize(
    "balances",
    [
        # Rates, and no currency in which the account is added up.
        (Balance(currency="USD", cash=Decimal(1000), rate=Decimal("0.8")),),
        # No rate of the order's currency.
        (Balance(currency="EUR", cash=Decimal(1000), rate=Decimal(1), is_base=True),),
    ],
)
async def test_what_cannot_be_carried_over_refuses_new_risk(tmp_path: Path, balances: tuple[Balance, ...]) -> None:
    async with world_of(
        tmp_path, market=BY_HAND, capabilities=EURO_ACCOUNT, limits=written(max_order_value=1_000_000)
    ) as world:
        world.broker_faults.balances = balances
        world.send(price=10)
        await world.run(3)
        order = world.record()
        assert order.status is Status.REJECTED
        assert order.reason is not None
        assert "no rate of exchange" in order.reason.message


async def test_as_long_as_the_base_currency_is_not_told_amounts_are_not_known_and_exits_leave(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, capabilities=EURO_ACCOUNT, rules=RESTING) as world:
        world.send("entry", price=10)
        await world.run(2)
        world.fill("entry")
        await world.run(3)
        world.broker_faults.errors["balances"] = [BrokerUnavailable("no values") for _ in range(9)]
        world.risk_rules.limits = written(max_gross_exposure=1_000_000)
        world.send("more", price=10)
        world.send("out", side="SELL", price=10)
        await world.run(3)
        assert world.record("more").status is Status.REJECTED
        assert world.record("out").status is Status.SUBMITTED


async def test_a_broker_that_tells_no_rates_is_in_its_own_currency(tmp_path: Path) -> None:
    async with world_of(
        tmp_path, market=BY_HAND, capabilities=EURO_ACCOUNT, limits=written(max_order_value=1000)
    ) as world:
        world.send(price=10)
        await world.run(3)
        assert world.record().status is Status.SUBMITTED


async def test_a_rate_of_the_file_counts_where_the_broker_tells_none(tmp_path: Path) -> None:
    limits = of_file(written(max_order_value=1250), "EUR", "USD", "1.25", timedelta(days=6))
    async with world_of(tmp_path, market=BY_HAND, limits=limits) as world:
        world.send("fits", price=10, currency="EUR", symbol="SAP")
        world.send("too-much", price="10.1", currency="EUR", symbol="SAP")
        await world.run(3)
        assert world.record("fits").status is Status.SUBMITTED
        assert world.record("too-much").status is Status.REJECTED


async def test_a_rate_of_the_file_that_is_too_old_is_none(tmp_path: Path) -> None:
    limits = of_file(written(max_order_value=1_000_000), "EUR", "USD", "1.25", timedelta(days=8))
    async with world_of(tmp_path, market=BY_HAND, limits=limits) as world:
        world.send(price=10, currency="EUR", symbol="SAP")
        await world.run(3)
        assert world.record().status is Status.REJECTED


async def test_holdings_in_two_currencies_are_added_up_in_one(tmp_path: Path) -> None:
    limits = of_file(written(max_gross_exposure=2250), "EUR", "USD", "1.25")
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=limits) as world:
        await hold(world, "dollars", symbol="AAPL")
        await hold(world, "euros", symbol="SAP", currency="EUR")
        world.send("more", quantity=1, price=10)
        await world.run(2)
        more = world.record("more")
        assert more.status is Status.REJECTED
        assert more.reason is not None
        assert "2260" in more.reason.message


async def hold(world: World, signal_id: str, **changes: object) -> None:
    world.send(signal_id, price=10, **changes)
    await world.run(2)
    world.fill(signal_id, price="10")
    await world.run(3)


def rate(base: str, quoted: str, of: str, *, age_seconds: int = 0, max_age: int | None = None) -> Rate:
    at = datetime(2026, 11, 30, tzinfo=UTC) - timedelta(seconds=age_seconds)
    limit = None if max_age is None else Decimal(max_age)
    return Rate(base=base, quoted=quoted, rate=Decimal(of), source="somebody", at=at, max_age_seconds=limit)


@pytest.mark.parametrize(
    ("rates", "found"),
    [
        ([rate("EUR", "USD", "1.25")], {"EUR": Decimal("1.25")}),
        ([rate("USD", "EUR", "0.8")], {"EUR": Decimal("1.25")}),
        ([rate("EUR", "GBP", "0.85"), rate("GBP", "USD", "1.3")], {"GBP": Decimal("1.3")}),
        (
            [rate("EUR", "USD", "1.2", age_seconds=50), rate("EUR", "USD", "1.25", age_seconds=10)],
            {"EUR": Decimal("1.25")},
        ),
        ([rate("EUR", "USD", "1.25", age_seconds=61)], {}),
        ([rate("EUR", "USD", "1.25", age_seconds=-61)], {}),
        ([rate("EUR", "USD", "1.25", age_seconds=61, max_age=100)], {"EUR": Decimal("1.25")}),
        ([rate("EUR", "USD", "1.25", age_seconds=59, max_age=10)], {}),
        ([rate("EUR", "USD", "0"), rate("GBP", "USD", "-1"), rate("CHF", "USD", "NaN")], {}),
        ([rate("USD", "USD", "2")], {}),
    ],
)
def test_which_rates_lead_into_a_currency(rates: list[Rate], found: dict[str, Decimal]) -> None:
    now = datetime(2026, 11, 30, tzinfo=UTC)
    assert rates_into("USD", rates, now, Decimal(60)) == found
    assert rates_into(None, rates, now, Decimal(60)) == {}
