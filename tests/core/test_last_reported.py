"""What is remembered of what was said, and for how long."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Hashable
from dataclasses import dataclass
from decimal import Decimal

import pytest

from execution_service.core.orders.last_reported import LastReported


def test_only_the_last_thing_said_is_a_repetition() -> None:
    heard = LastReported(10)
    assert not heard.is_known("a", ("FILLED", 1))
    heard.note("a", ("FILLED", 1))
    assert heard.is_known("a", ("FILLED", 1))
    assert not heard.is_known("a", ("FILLED", 2))
    assert not heard.is_known("b", ("FILLED", 1))
    heard.note("a", ("FILLED", 2))
    assert not heard.is_known("a", ("FILLED", 1)), "said before, but not last"


def test_what_an_older_memory_has_does_not_outweigh_what_was_said_since() -> None:
    heard = LastReported(2)
    heard.note("a", 1)
    heard.note("b", 1)
    heard.note("a", 2)
    assert heard.is_known("a", 2)
    assert not heard.is_known("a", 1)


def test_the_latest_are_remembered_and_the_oldest_forgotten() -> None:
    heard = LastReported(100)
    for number in range(1000):
        heard.note(f"name-{number}", number)
        assert len(heard) <= 200
    assert all(heard.is_known(f"name-{n}", n) for n in range(900, 1000))
    assert not any(heard.is_known(f"name-{n}", n) for n in range(800))


def test_what_is_heard_again_and_again_is_not_forgotten() -> None:
    heard = LastReported(10)
    heard.note("steady", 1)
    for number in range(500):
        heard.note(f"name-{number}", number)
        if number % 5 == 0:
            assert heard.is_known("steady", 1)


@dataclass(frozen=True)
class Unprintable:
    """Two of these are equal to `hash`, and different."""

    number: int

    def __hash__(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Decimal(-1), Decimal(-2)),
        (-1, -2),
        (Decimal("1"), Decimal("1.0")),
        (Decimal("1"), True),
        (1, True),
        (1, 1.0),
        (("a", "b"), ("a, b",)),
        (("a",), "a"),
        ((None,), ("None",)),
        (Unprintable(1), Unprintable(2)),
        ((frozenset({"a", "b"}),), (frozenset({"a", "c"}),)),
        (frozenset({("f1", Decimal(-1))}), frozenset({("f1", Decimal(-2))})),
    ],
)
def test_what_differs_in_any_way_is_no_repetition(before: Hashable, after: Hashable) -> None:
    heard = LastReported(10)
    heard.note("a", before)
    assert heard.is_known("a", before)
    assert not heard.is_known("a", after)


def test_sets_of_the_same_things_are_the_same_whatever_was_put_in_first() -> None:
    heard = LastReported(10)
    names = [f"fill-{number}" for number in range(200)]
    heard.note("a", frozenset(names))
    assert heard.is_known("a", frozenset(reversed(names)))


def test_names_that_are_equal_to_hash_are_two_names() -> None:
    class Name(str):
        def __hash__(self) -> int:
            return 7

    heard = LastReported(10)
    heard.note(Name("a"), 1)
    heard.note(Name("b"), 2)
    assert heard.is_known("a", 1)
    assert heard.is_known("b", 2)


def test_an_order_takes_at_most_two_hundred_bytes_however_much_is_said_of_it() -> None:
    count = 4000
    said = tuple(Decimal(number) for number in range(100))
    tracemalloc.start()
    try:
        heard = LastReported(count)
        before, _ = tracemalloc.get_traced_memory()
        for number in range(count):
            heard.note(f"x{number:018d} broker-{number}", (said, number))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(heard) == count
    assert (after - before) / count < 200
