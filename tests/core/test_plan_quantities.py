"""Quantities of a plan: lots, slices that add up, and increases that share what cash there is."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execution_service.core.planning.facts import Fees
from execution_service.core.planning.quantities import Increase, affordable, divided, slices_of, whole_lots

D = Decimal
FREE = Fees()


def wish(key: str, wanted: str, cost: str, *, lot: str = "1", least: str = "0") -> Increase:
    return Increase(key=key, wanted=D(wanted), unit_cost=D(cost), lot=D(lot), min_quantity=D(least))


def bought(cash: str, *wishes: Increase, fees: Fees = FREE) -> list[str]:
    return [f"{quantity.normalize():f}" for quantity in affordable(wishes, D(cash), fees)]


# --- lots and slices --------------------------------------------------------------------------------------------------


def test_a_quantity_is_rounded_towards_zero_to_the_lot_however_large_it_is() -> None:
    assert (whole_lots(D("29.9"), D(10)), whole_lots(D("-29.9"), D(10))) == (20, -20)
    assert whole_lots(D(10) ** 40 + D("0.5"), D(1)) == D(10) ** 40


def test_a_quotient_is_never_further_from_zero_than_it_is() -> None:
    assert Fraction(divided(D(2), D(3))) < Fraction(2, 3)
    assert Fraction(divided(D(-2), D(3))) > Fraction(-2, 3)


@pytest.mark.parametrize(("total", "count", "lot", "largest", "parts"), [
    ("10", 3, "1", None, "4 3 3"),
    ("2", 5, "1", None, "1 1"),
    ("1", 3, "0.1", None, "0.4 0.3 0.3"),
    ("105", 2, "10", None, "55 50"),  # what is no whole lot goes with the first
    ("5", 2, "10", None, "5"),
    ("0", 3, "1", None, ""),
    ("100", 1, "10", "40", "40 30 30"),
    ("100", 4, "10", "40", "30 30 20 20"),
    ("80", 1, "10", "40", "40 40"),
    ("85", 1, "10", "40", "40 40 5"),  # the first has no room for it
    ("75", 1, "10", "45", "45 30"),
    ("25", 1, "10", "12", "10 10 5"),
    ("5", 1, "10", "12", "5"),
])  # fmt: skip
def test_slices_add_up(total: str, count: int, lot: str, largest: str | None, parts: str) -> None:
    made = slices_of(D(total), count, D(lot), None if largest is None else D(largest))
    assert " ".join(f"{part.normalize():f}" for part in made) == parts


@pytest.mark.parametrize(("total", "count", "lot", "largest", "least", "parts"), [
    ("10", 3, "1", None, "4", "5 5"),
    ("10", 5, "1", None, "6", "10"),
    ("3", 5, "1", None, "6", "3"),
    ("100", 5, "10", None, "21", "40 30 30"),
    ("100", 1, "10", "40", "35", "40 30 30"),  # the venue's largest goes before
    ("85", 1, "10", "40", "6", "30 30 25"),
    ("85", 1, "10", "40", "5", "40 40 5"),
    ("85", 1, "10", "40", "25", "40 40 5"),  # three parts of at least 25 there are not
    ("75", 1, "10", "40", "6", "40 35"),
    ("25", 1, "10", "12", "6", "10 10 5"),
])  # fmt: skip
def test_no_slice_is_too_small_to_be_placed(
    total: str, count: int, lot: str, largest: str | None, least: str, parts: str
) -> None:
    made = slices_of(D(total), count, D(lot), None if largest is None else D(largest), D(least))
    assert " ".join(f"{part.normalize():f}" for part in made) == parts


@given(st.integers(1, 500), st.integers(1, 9), st.integers(1, 12), st.integers(0, 60))
def test_slices_are_placeable_where_the_whole_is(total: int, count: int, lot: int, least: int) -> None:
    parts = slices_of(D(total), count, D(lot), None, D(least))
    assert (sum(parts), len(parts) <= count) == (total, True)
    if total >= least:
        assert all(part >= least for part in parts)


@given(st.integers(0, 500), st.integers(1, 9), st.integers(1, 12), st.integers(0, 60))
def test_no_slice_is_larger_than_the_venue_takes_and_their_sum_is_exact(
    total: int, count: int, lot: int, more: int
) -> None:
    largest = lot + more
    made = slices_of(D(total), count, D(lot), D(largest))
    assert sum(made) == total
    assert all(0 < part <= largest for part in made)
    assert len(made) <= max(count, -(-(total // lot) // (largest // lot))) + 1


def test_a_largest_order_below_a_lot_is_no_bound() -> None:
    assert slices_of(D(20), 1, D(10), D(5)) == (20,)


# --- cash -------------------------------------------------------------------------------------------------------------


def test_what_there_is_cash_for_is_bought_whole_also_where_it_is_no_whole_lot() -> None:
    assert bought("15", wish("a", "1.5", "10")) == ["1.5"]
    assert bought("14.99", wish("a", "1.5", "10")) == ["1"]


def test_fees_are_inside() -> None:
    rate = Fees(rate=D("0.1"))
    assert (bought("110", wish("a", "1", "100"), fees=rate), bought("109", wish("a", "1", "100"), fees=rate)) == (
        ["1"],
        ["0"],
    )
    each = Fees(per_order=D(10))
    assert bought("100", wish("a", "0", "90"), wish("b", "1", "90"), fees=each) == ["0", "1"]
    assert bought("15", wish("a", "0", "3"), wish("b", "1", "3"), fees=each) == ["0", "1"]
    assert bought("100", wish("a", "0.5", "180", lot="0.1"), fees=each) == ["0.5"]


@pytest.mark.parametrize("cash", ["15", "20"])
def test_where_not_all_fees_can_be_paid_the_smallest_wishes_last_longest(cash: str) -> None:
    each = Fees(per_order=D(10))
    assert bought(cash, wish("a", "1", "100"), wish("b", "1", "3"), fees=each) == ["0", "1"]
    assert bought(cash, wish("a", "1", "3"), wish("b", "1", "3"), fees=each) == ["1", "0"]


def test_each_order_of_an_increase_has_its_fee() -> None:
    fees = Fees(per_order=D(5))
    one = wish("A", "10", "10")
    assert bought("105", one, fees=fees) == ["10"]
    assert bought("105", replace(one, orders=3), fees=fees) == ["9"]
    assert bought("14", replace(one, orders=3), fees=fees) == ["0"]


def test_a_little_more_than_the_fees_is_spent() -> None:
    assert bought("21", wish("a", "1", "0.5"), wish("b", "1", "0.5"), fees=Fees(per_order=D(10))) == ["1", "1"]


def test_too_little_cash_scales_all_by_one_factor_and_the_largest_remainder_gets_the_rest() -> None:
    assert bought("50", wish("a", "5", "10"), wish("b", "3", "10")) == ["3", "2"]
    assert bought("7000", wish("a", "50", "100"), wish("b", "30", "100"), wish("c", "20", "100")) == ["35", "21", "14"]


def test_of_equal_remainders_the_earlier_key_is_first() -> None:
    assert bought("50", wish("b", "3", "10"), wish("a", "3", "10")) == ["2", "3"]


def test_remainders_are_compared_in_lots() -> None:
    # Three quarters of a lot of a, and a quarter of one of b, which is two and a half.
    assert bought("48", wish("a", "5", "8"), wish("b", "30", "0.8", lot="10")) == ["4", "20"]


def test_the_rest_buys_no_more_than_was_wanted_and_all_of_it_where_it_can() -> None:
    assert bought("1818", wish("a", "2", "10"), wish("b", "2", "1000")) == ["2", "1"]
    assert bought("2864.25", wish("a", "1.5", "10"), wish("b", "3", "1000")) == ["1", "2"]


def test_the_smallest_of_what_comes_out_too_small_goes_without_for_the_others() -> None:
    assert bought("50", wish("a", "5", "10", least="5"), wish("b", "6", "5", least="5")) == ["5", "0"]
    assert bought("30", wish("b", "5", "5", least="5"), wish("a", "5", "5", least="5")) == ["5", "0"]


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 90), st.sampled_from([1, 10]), st.integers(0, 9)), max_size=5),
    st.integers(0, 3000),
    st.integers(0, 12),
    st.sampled_from(["0", "0.01"]),
)  # fmt: skip
def test_cash_is_never_overspent_and_each_gets_a_tradable_quantity_or_nothing(
    some: list[tuple[int, int, int, int]], cash: int, fee: int, rate: str
) -> None:
    wishes = [
        wish(str(n), str(wanted * lot), str(cost), lot=str(lot), least=str(least))
        for n, (wanted, cost, lot, least) in enumerate(some)
    ]
    fees = Fees(per_order=D(fee), rate=D(rate))
    got = affordable(wishes, D(cash), fees)
    spent = sum(
        q * each.unit_cost * (1 + fees.rate) + (fees.per_order if q else 0) for q, each in zip(got, wishes, strict=True)
    )
    assert spent <= cash
    for quantity, each in zip(got, wishes, strict=True):
        assert 0 <= quantity <= each.wanted
        assert quantity in (0, each.wanted) or (quantity % each.lot == 0 and quantity >= each.min_quantity)
