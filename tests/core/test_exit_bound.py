"""How much of an exit the broker's position lets leave: worked examples, and whatever fills in whatever sequence."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import Side
from execution_service.core.orders.exit_bound import ZERO, Exposure, exit_limit

THOROUGH = settings(max_examples=500, deadline=None)
STRATEGIES = ("A", "B", "C")


def exposure(
    long: int = 0, short: int = 0, own: int = 0, difference: int = 0, at_work: int = 0, own_at_work: int = 0
) -> Exposure:
    return Exposure(
        long=Decimal(long),
        short=Decimal(short),
        own=Decimal(own),
        difference=Decimal(difference),
        at_work=Decimal(at_work),
        own_at_work=Decimal(own_at_work),
    )


@pytest.mark.parametrize(
    ("side", "found", "most"),
    [
        (Side.SELL, exposure(long=10, own=10), 10),
        (Side.SELL, exposure(long=10, own=10, difference=-4), 6),
        (Side.SELL, exposure(long=10, own=10, difference=-10), 0),
        (Side.SELL, exposure(long=10, own=10, difference=-14), 0),
        (Side.SELL, exposure(long=10, own=10, difference=7), 10),
        (Side.SELL, exposure(long=20, own=10, difference=-10), 10),
        (Side.SELL, exposure(long=20, own=10, difference=-10, at_work=10), 0),
        (Side.SELL, exposure(long=20, own=10, at_work=4, own_at_work=4), 6),
        (Side.SELL, exposure(long=30, short=20, own=30, difference=-5), 25),
        (Side.SELL, exposure(difference=100), 100),
        (Side.SELL, exposure(short=5, own=-5), 0),
        (Side.BUY, exposure(short=10, own=-10, difference=4), 6),
        (Side.BUY, exposure(short=10, own=-10, difference=14), 0),
        (Side.BUY, exposure(long=20, short=10, own=-10, difference=3), 7),
        (Side.BUY, exposure(difference=-100), 100),
    ],
)
def test_exit_takes_what_the_broker_has_for_it(side: Side, found: Exposure, most: int) -> None:
    assert exit_limit(side, found) == most


@dataclass
class Account:
    """What strategies hold by our ledger, what the broker holds, and the exits that are at work."""

    held: dict[str, Decimal]
    shown: Decimal
    at_work: list[list[object]] = field(default_factory=list)

    def exposure(self, strategy: str, side: Side) -> Exposure:
        same = [(name, left) for name, its_side, left in self.at_work if its_side is side]
        return Exposure(
            long=sum((q for q in self.held.values() if q > 0), ZERO),
            short=-sum((q for q in self.held.values() if q < 0), ZERO),
            own=self.held[strategy],
            difference=self.shown - sum(self.held.values(), ZERO),
            at_work=sum((left for _, left in same), ZERO),  # type: ignore[misc]
            own_at_work=sum((left for name, left in same if name == strategy), ZERO),  # type: ignore[misc]
        )

    def exit(self, strategy: str, side: Side, wanted: Decimal) -> None:
        quantity = min(wanted, exit_limit(side, self.exposure(strategy, side)))
        if quantity:
            self.at_work.append([strategy, side, quantity])

    def fill(self, place: int, most: Decimal) -> None:
        if self.at_work:
            working = self.at_work[place % len(self.at_work)]
            strategy, side, left = working
            assert isinstance(strategy, str)
            assert isinstance(side, Side)
            assert isinstance(left, Decimal)
            taken = min(left, most)
            self.held[strategy] += taken * side.sign
            self.shown += taken * side.sign
            working[2] = left - taken

    @property
    def beyond(self) -> tuple[Decimal, Decimal]:
        """How far the broker's position is below all that our strategies are short, and above all that they are long."""
        long = sum((q for q in self.held.values() if q > 0), ZERO)
        short = -sum((q for q in self.held.values() if q < 0), ZERO)
        return max(ZERO, -short - self.shown), max(ZERO, self.shown - long)


QUANTITIES = st.integers(0, 30).map(Decimal)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("exit"), st.sampled_from(STRATEGIES), st.sampled_from(list(Side)), QUANTITIES),
        st.tuples(st.just("fill"), st.integers(0, 20), st.just(None), QUANTITIES),
        st.tuples(st.just("hand"), st.just(None), st.just(None), st.integers(-20, 20).map(Decimal)),
    ),
    max_size=30,
)


@THOROUGH
@given(st.lists(st.integers(-30, 30).map(Decimal), min_size=3, max_size=3), st.integers(-40, 40).map(Decimal), STEPS)
def test_whatever_exits_fill_in_whatever_sequence_they_open_no_position(
    held: list[Decimal], difference: Decimal, steps: list[tuple[str, object, object, Decimal]]
) -> None:
    account = Account(dict(zip(STRATEGIES, held, strict=True)), sum(held, ZERO) + difference)
    for step, what, side, quantity in steps:
        below, above = account.beyond
        if step == "hand" and not any(left for _, _, left in account.at_work):
            account.shown += (
                quantity  # while exits rest, nothing that they were measured by may be taken from under them
            )
            continue
        if step == "exit":
            assert isinstance(what, str)
            assert isinstance(side, Side)
            account.exit(what, side, quantity)
        elif step == "fill":
            assert isinstance(what, int)
            account.fill(what, quantity)
        assert account.beyond[0] <= below
        assert account.beyond[1] <= above


@THOROUGH
@given(st.lists(st.integers(0, 30).map(Decimal), min_size=3, max_size=3), st.integers(0, 90).map(Decimal))
def test_all_that_is_there_can_be_exited_by_whoever_comes(held: list[Decimal], taken: Decimal) -> None:
    """No exit is stuck because of what another strategy might still want."""
    account = Account(dict(zip(STRATEGIES, held, strict=True)), max(ZERO, sum(held, ZERO) - taken))
    for name in STRATEGIES:
        account.exit(name, Side.SELL, account.held[name])
        account.fill(len(account.at_work) - 1, Decimal(100))
    assert account.shown == 0
