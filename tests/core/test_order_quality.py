"""How well one order was filled, by its record; and many together."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import ContractTerms, OrderType, Side
from execution_service.core.orders.events import ContractResolved, Event, RiskVerdict, SubmitStarted, UsedPrice
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.quality.order_quality import Benchmark, Missing, order_quality
from execution_service.core.quality.slippage import Measured, median, percentile, rounded, slippage_of
from execution_service.core.quality.summary import GroupKey, quality_groups
from tests.builders import (
    NOW,
    accepted,
    adopted_order,
    at,
    busted,
    filled_by,
    nothing_sent,
    order,
    rejected,
    submit_started,
)

D = Decimal


def price(amount: str, *, source: str = "QUOTE", age: str = "0.5") -> UsedPrice:
    return UsedPrice(price=D(amount), source=source, at=NOW, age_seconds=D(age))


def sent_at(known: UsedPrice | None) -> SubmitStarted:
    """The sending of an order that was judged by this price."""
    return replace(submit_started(), risk=RiskVerdict(is_exit=False, price=known))


def filled(*events: Event, known: UsedPrice | None = None, **asked: Any) -> Order:
    """Sent when that price was known, accepted, and then those events."""
    return order(events=(sent_at(known), accepted(), *events), **asked)


# --- slippage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "paid", "bps", "cost"),
    [
        (Side.BUY, "100.10", "10", "10.00"),
        (Side.BUY, "99.90", "-10", "-10.00"),
        (Side.SELL, "99.90", "10", "10.00"),
        (Side.SELL, "100.10", "-10", "-10.00"),
    ],
)
def test_slippage_is_positive_where_it_costs_for_buys_and_sells_alike(
    side: Side, paid: str, bps: str, cost: str
) -> None:
    quality = order_quality(filled(filled_by("f1", 100, paid), known=price("100"), side=side))
    assert (quality.slippage_bps, quality.cost, quality.benchmark_value) == (D(bps), D(cost), D("10000"))
    assert (quality.benchmark, quality.benchmark_price, quality.average_price) == (Benchmark.ARRIVAL, D("100"), D(paid))


def test_the_average_is_over_all_fills_that_stand() -> None:
    fills = (filled_by("f1", 25, "100"), filled_by("f2", 75, "101"))
    assert order_quality(filled(*fills, known=price("100"))).slippage_bps == D("75")
    annulled = order_quality(filled(*fills, busted("f2"), known=price("100")))
    assert (annulled.slippage_bps, annulled.filled_quantity, annulled.cost) == (0, 25, 0)


def test_cost_counts_what_a_point_of_the_contract_is_worth() -> None:
    resolved = ContractResolved(at=NOW, terms=ContractTerms(multiplier=D(50)))
    quality = order_quality(
        order(events=(resolved, sent_at(price("100")), accepted(), filled_by("f1", 2, "101")), quantity=2)
    )
    assert (quality.cost, quality.benchmark_value) == (D(100), D(10_000))


def test_without_the_contracts_size_slippage_is_known_and_no_amount() -> None:
    resolved = ContractResolved(at=NOW, terms=ContractTerms(is_size_unknown=True))
    quality = order_quality(
        order(events=(resolved, sent_at(price("100")), accepted(), filled_by("f1", 2, "101")), quantity=2)
    )
    assert (quality.slippage_bps, quality.cost, quality.benchmark_value) == (D(100), None, None)
    assert quality.missing["cost"] is Missing.NO_CONTRACT_SIZE


def test_a_stop_order_is_measured_by_its_stop() -> None:
    stop = filled(
        filled_by("f1", 100, "89"), known=price("105"), side=Side.SELL, order_type=OrderType.STOP, stop_price=D(90)
    )
    quality = order_quality(stop)
    assert quality.benchmark is Benchmark.STOP
    assert (quality.slippage_bps, quality.cost) == (D(1) / 90 * 10_000, D(100))
    assert quality.arrival is not None, "where the market stood is told all the same"
    assert order_quality(replace(stop, events=(submit_started(), *stop.events[1:]))).benchmark is Benchmark.STOP


def test_a_stop_limit_order_is_measured_by_its_stop_too_and_no_other_order_is() -> None:
    limited = {"order_type": OrderType.STOP_LIMIT, "stop_price": D("0.5"), "limit_price": D("0.4")}
    cents = order_quality(filled(filled_by("f1", 100, "0.45"), known=price("0.6"), side=Side.SELL, **limited))
    assert (cents.benchmark, cents.benchmark_price) == (Benchmark.STOP, D("0.5"))
    for asked in (
        {"order_type": OrderType.MARKET, "stop_price": D(90)},
        {"order_type": OrderType.STOP, "stop_price": D(0)},
    ):
        assert order_quality(filled(filled_by("f1", 100, "89"), known=price("105"), **asked)).benchmark_price == 105
    assert (
        order_quality(filled(filled_by("f1", 100, "89"), known=price("105"), order_type=OrderType.STOP)).benchmark_price
        == 105
    )


# --- the price at arrival -------------------------------------------------------------------------------------------


def test_the_price_at_arrival_is_that_of_the_first_sending() -> None:
    events = (sent_at(price("100")), nothing_sent(), sent_at(price("103")), accepted(), filled_by("f1", 100, "103"))
    assert order_quality(order(events=events)).slippage_bps == D(300)


def test_where_only_the_author_of_the_order_saw_a_price_it_is_that() -> None:
    quality = order_quality(filled(filled_by("f1", 100, "10.10"), reference_price=D(10), quantity=100))
    assert quality.arrival == price("10", source="MESSAGE", age="0")
    assert quality.slippage_bps == D(100)


def test_a_price_of_a_minute_is_young_enough() -> None:
    assert order_quality(filled(known=price("100", age="60"))).arrival == price("100", age="60")


def test_an_orders_own_stop_is_no_price_of_the_market() -> None:
    asked = {"order_type": OrderType.STOP, "stop_price": D(10), "reference_price": D(10)}
    quality = order_quality(filled(filled_by("f1", 100, "9"), **asked))
    assert (quality.arrival, quality.missing["arrival_price"]) == (None, Missing.OWN_PRICE)


@pytest.mark.parametrize(("known", "why"), [
    (None, Missing.NO_PRICE), (price("100", age="60.1"), Missing.OLD_PRICE),
    *((price(odd), Missing.NO_PRICE) for odd in ("0", "-1", "NaN", "Infinity")),
])  # fmt: skip
def test_without_a_young_price_there_is_no_slippage_and_the_reason(known: UsedPrice | None, why: Missing) -> None:
    quality = order_quality(filled(filled_by("f1", 100, "100"), known=known))
    assert (quality.arrival, quality.slippage_bps, quality.cost, quality.average_price) == (None, None, None, D(100))
    assert {quality.missing[name] for name in ("arrival_price", "benchmark_price", "slippage_bps", "cost")} == {why}


def test_an_orders_own_limit_is_no_price_of_the_market() -> None:
    asked = {"order_type": OrderType.LIMIT, "limit_price": D(10), "reference_price": D(10)}
    quality = order_quality(filled(filled_by("f1", 100, "9"), **asked))
    assert (quality.arrival, quality.slippage_bps) == (None, None)
    assert quality.missing["slippage_bps"] is Missing.OWN_PRICE
    judged = order_quality(filled(filled_by("f1", 100, "9"), known=price("10", source="MESSAGE"), **asked))
    assert judged.missing["slippage_bps"] is Missing.OWN_PRICE
    quoted = order_quality(filled(filled_by("f1", 100, "9"), known=price("10"), **asked))
    assert quoted.slippage_bps == -1000


def test_no_slippage_is_zero_and_not_minus_zero() -> None:
    quality = order_quality(filled(filled_by("f1", 100, "10"), known=price("10"), side=Side.SELL))
    assert str(quality.slippage_bps).strip("0.") == str(quality.fields()["slippage_bps"]).strip("0.") == ""
    assert str(rounded(D("-0.00001"))) == "0.0000"


def test_what_an_author_saw_more_than_a_minute_before_the_sending_is_too_old() -> None:
    late = order(
        events=(submit_started(), accepted(), filled_by("f1", 100, "10")),
        published_at=at(-61),
        reference_price=D(10),
    )
    assert order_quality(late).missing["arrival_price"] is Missing.OLD_PRICE


def test_a_record_from_before_there_was_a_risk_gate_can_be_read() -> None:
    quality = order_quality(order(events=(submit_started(), accepted(), filled_by("f1", 100, "10"))))
    assert quality.missing["slippage_bps"] is Missing.NO_PRICE


def test_what_was_never_sent_has_no_figures() -> None:
    for never in (order(), order(events=(rejected(),)), adopted_order()):
        quality = order_quality(never)
        assert (quality.arrival, quality.slippage_bps) == (None, None)
        assert quality.missing["slippage_bps"] is Missing.NOT_SENT
    names = (
        *("arrival_price", "benchmark_price", "average_price", "slippage_bps", "cost"),
        *("seconds_to_first_fill", "seconds_to_last_fill"),
    )
    not_filled = {"share_of_volume": Missing.NOT_FILLED}
    assert order_quality(order()).missing == dict.fromkeys(names, Missing.NOT_SENT) | not_filled


def test_an_order_that_works_has_a_price_at_arrival_and_no_slippage_yet() -> None:
    quality = order_quality(filled(known=price("100")))
    assert quality.arrival == price("100")
    assert quality.missing == dict.fromkeys(
        (
            *("average_price", "slippage_bps", "cost"),
            *("seconds_to_first_fill", "seconds_to_last_fill", "share_of_volume"),
        ),
        Missing.NOT_FILLED,
    )


# --- times and volume -----------------------------------------------------------------------------------------------


def test_times_run_from_the_receipt_to_the_fills_and_are_never_negative() -> None:
    fills = (filled_by("f1", 40, time=at(2)), filled_by("f2", 60, time=at(5.5)))
    quality = order_quality(filled(*fills, received_at=at(1)))
    assert (quality.seconds_to_first_fill, quality.seconds_to_last_fill) == (1, D("4.5"))
    early = order_quality(filled(filled_by("f1", 100, time=at(0)), received_at=at(0.4)))
    assert (early.seconds_to_first_fill, early.seconds_to_last_fill) == (0, 0)


def test_fills_of_another_clock_tell_no_times() -> None:
    quality = order_quality(filled(filled_by("f1", 100, time=at(-86_400))))
    assert (quality.seconds_to_first_fill, quality.seconds_to_last_fill) == (None, None)
    assert quality.missing["seconds_to_last_fill"] is Missing.OTHER_CLOCK
    one_of_two = filled(filled_by("f1", 40, time=at(-61)), filled_by("f2", 60, time=at(0)))
    assert order_quality(one_of_two).missing["seconds_to_first_fill"] is Missing.OTHER_CLOCK
    a_minute_early = order_quality(filled(filled_by("f1", 100, time=at(-60))))
    assert (a_minute_early.seconds_to_first_fill, a_minute_early.seconds_to_last_fill) == (0, 0)


def test_the_share_of_volume_is_known_where_the_broker_tells_what_was_traded_with_each_fill() -> None:
    fills = (filled_by("f1", 40, market_volume=D(400)), filled_by("f2", 60, market_volume=D(1600)))
    assert order_quality(filled(*fills)).share_of_volume == D("0.05")
    some = order_quality(filled(fills[0], filled_by("f2", 60)))
    assert (some.share_of_volume, some.missing["share_of_volume"]) == (None, Missing.NOT_TOLD)


# --- many together --------------------------------------------------------------------------------------------------


def test_the_mean_is_by_value_and_the_others_are_by_orders() -> None:
    some = [Measured(slippage_bps=D(bps), cost=D(bps) * 1000 * bps / 10_000, value=D(1000) * bps) for bps in (1, 2, 97)]
    found = slippage_of(some)
    assert (found.measured, found.median_bps, found.p95_bps) == (3, 2, 97)
    assert found.mean_bps == D(1 + 4 + 97 * 97) / 100
    assert found == slippage_of(reversed(some))


PRICES = st.decimals(min_value="0.01", max_value="1000", places=2)


@given(PRICES, st.lists(st.tuples(st.integers(1, 50), PRICES), min_size=1, max_size=4), st.sampled_from(Side))
@settings(max_examples=60)
def test_slippage_and_cost_say_the_same_and_a_sale_is_the_mirror_of_a_buy(
    arrival: Decimal, parts: list[tuple[int, Decimal]], side: Side
) -> None:
    fills = [filled_by(f"f{n}", quantity, paid) for n, (quantity, paid) in enumerate(parts)]
    total = sum(quantity for quantity, _ in parts)
    known = price(str(arrival))
    quality = order_quality(filled(*fills, known=known, side=side, quantity=total))
    mirror = order_quality(filled(*fills, known=known, side=side.opposite, quantity=total))
    assert quality.slippage_bps is not None
    assert quality.cost is not None
    assert quality.benchmark_value is not None
    assert quality.cost == sum(side.sign * quantity * (paid - arrival) for quantity, paid in parts), "exact"
    assert abs(quality.cost * 10_000 / quality.benchmark_value - quality.slippage_bps) < D("1e-15")
    assert mirror.slippage_bps == -quality.slippage_bps
    assert mirror.cost == -quality.cost


@given(st.lists(st.tuples(st.integers(-500, 500), st.integers(1, 1000)), min_size=1, max_size=30))
@settings(max_examples=60)
def test_the_figures_of_many_lie_among_theirs(some: list[tuple[int, int]]) -> None:
    found = slippage_of(
        [Measured(slippage_bps=D(bps), cost=D(bps * value) / 10_000, value=D(value)) for bps, value in some]
    )
    least, most = min(bps for bps, _ in some), max(bps for bps, _ in some)
    assert found.median_bps is not None
    assert found.mean_bps is not None
    assert found.p95_bps is not None
    assert least <= found.median_bps <= found.p95_bps <= most
    assert least - D("1e-15") <= found.mean_bps <= most + D("1e-15")
    assert sum(bps <= found.p95_bps for bps, _ in some) >= D("0.95") * len(some)


def test_nothing_measured_is_no_zero() -> None:
    found = slippage_of(())
    assert (found.measured, found.median_bps, found.mean_bps, found.p95_bps) == (0, None, None, None)
    assert (found.cost, found.value) == (None, None)
    sizeless = slippage_of([Measured(slippage_bps=D(3))])
    assert (sizeless.measured, sizeless.median_bps, sizeless.mean_bps) == (1, 3, None)
    assert (sizeless.cost, sizeless.value) == (None, None)


def test_the_median_of_an_even_number_is_half_way_and_a_percentile_is_one_of_the_figures() -> None:
    assert median([D(1), D(2)]) == D("1.5")
    assert median([D(1), D(2), D(4), D(8)]) == 3
    assert median([1, 2, 4, 8, 9]) == 4
    hundred = [D(n) for n in range(1, 101)]
    assert percentile(hundred, D("0.95")) == 95
    assert percentile(hundred[:20], D("0.95")) == 19
    assert percentile(hundred[:1], D("0.95")) == 1
    assert percentile(hundred[:21], D("0.95")) == 20
    assert percentile(hundred, D(1)) == 100


def test_orders_are_put_together_by_strategy_broker_and_currency() -> None:
    dollars = GroupKey(strategy="a", broker="IBKR", currency="USD")
    rupees = replace(dollars, currency="INR")
    good = order_quality(filled(filled_by("f1", 100, "101"), known=price("100")))
    dear = order_quality(filled(filled_by("f1", 100, "102"), known=price("100")))
    blind = order_quality(filled(filled_by("f1", 100, "101")))
    resting = order_quality(filled(known=price("100")))
    inr, usd = quality_groups([(dollars, good), (rupees, good), (dollars, dear), (dollars, blind), (dollars, resting)])
    assert (inr.key, inr.sent, inr.slippage.cost) == (rupees, 1, 100)
    assert (usd.sent, usd.filled, usd.slippage.measured, usd.unmeasured) == (4, 3, 2, {"NO_PRICE": 1})
    assert (usd.slippage.median_bps, usd.slippage.mean_bps, usd.slippage.p95_bps) == (150, 150, 200)
    assert usd.fields() == {
        "strategy": "a",
        "broker": "IBKR",
        "currency": "USD",
        "sent": 4,
        "filled": 3,
        "measured": 2,
        "median_bps": 150,
        "mean_bps": 150,
        "p95_bps": 200,
        "cost": 300,
        "value": 20_000,
        "median_seconds_to_last_fill": 0,
        "median_share_of_volume": None,
        "unmeasured": {"NO_PRICE": 1},
    }


def test_medians_are_of_what_is_known_and_reasons_stand_in_their_sequence() -> None:
    key = GroupKey(strategy="a", broker="IBKR", currency="USD")
    some = [filled(filled_by("f1", 100, time=at(seconds), market_volume=D(traded)))
            for seconds, traded in ((9, 1000), (1, 200), (5, 500))]  # fmt: skip
    some.append(filled(filled_by("f1", 100, time=at(-86_400)), known=price("100", age="99")))
    (group,) = quality_groups([(key, order_quality(each)) for each in some])
    assert (group.seconds_to_last_fill, group.share_of_volume) == (5, D("0.2"))
    assert list(group.unmeasured.items()) == [("NO_PRICE", 3), ("OLD_PRICE", 1)]
    (same,) = quality_groups([(key, order_quality(each)) for each in reversed(some)])
    assert list(same.unmeasured.items()) == [("NO_PRICE", 3), ("OLD_PRICE", 1)]


def test_the_fields_of_an_order_are_its_figures_by_their_names() -> None:
    fills = (
        filled_by("f1", 40, "101", time=at(2), market_volume=D(400)),
        filled_by("f2", 60, "101", time=at(5), market_volume=D(600)),
    )
    assert order_quality(filled(*fills, known=price("100"), received_at=at(1))).fields() == {
        "arrival_price": D(100),
        "arrival_source": "QUOTE",
        "arrival_at": NOW,
        "arrival_age_seconds": D("0.5"),
        "benchmark": "ARRIVAL",
        "benchmark_price": D(100),
        "average_price": D(101),
        "slippage_bps": D(100),
        "cost": D(100),
        "share_of_volume": D("0.1"),
        "seconds_to_first_fill": D(1),
        "seconds_to_last_fill": D(4),
        "missing": {},
    }
    blind = order_quality(filled()).fields()
    assert [blind[f"arrival_{name}"] for name in ("price", "source", "at", "age_seconds")] == [None] * 4


def test_the_fields_say_what_is_missing_and_why() -> None:
    fields = order_quality(filled(filled_by("f1", 100, "100"))).fields()
    assert fields["slippage_bps"] is None
    assert fields["missing"]["slippage_bps"] == "NO_PRICE"
    told = order_quality(apply_all(filled(known=price("3")), [filled_by("f1", 100, "3.001")])).fields()
    assert (told["slippage_bps"], told["arrival_source"]) == (D("3.3333"), "QUOTE")
