"""Sizing by the distance to the stop: worked examples, what refuses, and that it never risks more than was allowed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import Side
from execution_service.core.risk.sizing import Cap, NotSized, Sized, sized

DEFAULT_BACKOFF: dict[str, Any] = {
    "side": Side.BUY,
    "equity": Decimal(100_000),
    "risk_per_trade": Decimal("0.01"),
    "price": Decimal(50),
    "stop": Decimal(47),
    "unit_value": Decimal(1),
}


def size(**changes: Any) -> Sized:
    return sized(**DEFAULT_BACKOFF | changes)


def test_the_arithmetic_stands_in_the_record() -> None:
    assert size() == Sized(
        quantity=Decimal(333),
        arithmetic="equity 100000 x 0.01 = 1000 at risk; 3 lost by one unit from 50 to 47; 333.3333333333 units; rounded down to 333 (lot 1)",
    )


@pytest.mark.parametrize(
    ("changes", "quantity"),
    [
        ({"stop": Decimal(48)}, 500),
        ({"side": Side.SELL, "stop": Decimal(52)}, 500),
        ({"unit_value": Decimal(50)}, 6),
        ({"lot": Decimal(100)}, 300),
        ({"lot": Decimal("0.001")}, Decimal("333.333")),
        ({"buying_power": Decimal(5_000)}, 100),
        ({"buying_power": Decimal(5_049)}, 100),
        ({"unit_value": Decimal(2), "buying_power": Decimal(5_000)}, 50),
        ({"caps": (Cap(name="max_order_quantity", quantity=Decimal(120)),)}, 120),
        ({"caps": (Cap(name="a", quantity=Decimal(900)), Cap(name="b", quantity=Decimal("7.9")))}, 7),
        ({"risk_per_trade": Decimal(1), "stop": Decimal(49)}, 100_000),
    ],
)
def test_it_is_capped_and_rounded_down(changes: dict[str, Any], quantity: Decimal) -> None:
    assert size(**changes).quantity == quantity


def test_every_cap_that_counts_is_told() -> None:
    words = size(buying_power=Decimal(5_000), caps=(Cap(name="max_order_quantity", quantity=Decimal(40)),)).arithmetic
    assert "capped at 100 by the buying power; capped at 40 by max_order_quantity; rounded down to 40" in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stop": None}, "there is no stop"),
        ({"stop": Decimal(0)}, "there is no stop"),
        ({"stop": Decimal(50)}, "wrong side"),
        ({"stop": Decimal(51)}, "wrong side"),
        ({"side": Side.SELL}, "wrong side"),
        ({"equity": None}, "equity is not known"),
        ({"equity": Decimal(0)}, "equity is not known"),
        ({"price": None}, "no fresh price"),
        ({"price": Decimal(0)}, "no fresh price"),
        ({"risk_per_trade": None}, "no TRADE_RISK_PER_TRADE"),
        ({"risk_per_trade": Decimal(0)}, "above 0 and at most 1, it is 0"),
        ({"risk_per_trade": Decimal("1.01")}, "above 0 and at most 1"),
        ({"unit_value": None}, "what a point of the price is worth"),
        ({"unit_value": Decimal(0)}, "what a point of the price is worth"),
        ({"lot": Decimal(0)}, "the lot is not known"),
        ({"lot": Decimal(1000)}, "not even one lot"),
        ({"buying_power": Decimal(0)}, "not even one lot"),
        ({"buying_power": Decimal(-5)}, "not even one lot"),
        ({"caps": (Cap(name="a", quantity=Decimal(-1)),)}, "not even one lot"),
    ],
)
def test_what_it_refuses(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(NotSized, match=words):
        size(**changes)


def test_all_that_is_missing_is_said_at_once() -> None:
    with pytest.raises(NotSized) as caught:
        size(equity=None, price=None, stop=None, risk_per_trade=None, unit_value=None, lot=Decimal(-1))
    assert len(caught.value.problems) == 6


def test_a_missing_price_leaves_the_stop_unjudged() -> None:
    with pytest.raises(NotSized) as caught:
        size(price=None)
    assert caught.value.problems == ("no fresh price is known",)


positive = st.decimals(min_value="0.0001", max_value=10**9, places=4, allow_nan=False)


@settings(max_examples=300, deadline=None)
@given(
    positive,
    st.decimals("0.0001", "1", places=4),
    positive,
    positive,
    positive,
    st.sampled_from(["1", "0.001", "7", "100"]),
    positive,
)
def test_the_stop_never_loses_more_than_was_to_be_risked(
    equity: Decimal, part: Decimal, price: Decimal, stop: Decimal, worth: Decimal, lot: str, power: Decimal
) -> None:
    side = Side.BUY if stop < price else Side.SELL
    try:
        found = sized(
            side=side,
            equity=equity,
            risk_per_trade=part,
            price=price,
            stop=stop,
            unit_value=worth,
            lot=Decimal(lot),
            buying_power=power,
        ).quantity
    except NotSized:
        return
    assert found % Decimal(lot) == 0
    assert found * abs(price - stop) * worth <= equity * part
    assert found * price * worth <= power
    one_more = found + Decimal(lot)
    assert one_more * abs(price - stop) * worth > equity * part or one_more * price * worth > power


def test_the_arithmetic_shows_a_stop_right_beside_the_price_as_it_is() -> None:
    found = size(price=Decimal(6), stop=Decimal("5.999999999999"), caps=(Cap(name="a cap", quantity=Decimal(7)),))
    assert "0.000000000001 lost by one unit from 6 to 5.999999999999" in found.arithmetic
