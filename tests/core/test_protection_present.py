"""Which fills of an entry are held now: those since exits last closed all of it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from brokers.base import Side
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.protection.present import average_price, begins_after, present_fills
from tests.builders import accepted, at, busted, filled_by, identity, order, submit_started


def traded(name: str, *fills: tuple[int, int], is_exit: bool = False, busts: tuple[int, ...] = ()) -> Order:
    """`fills` are times and quantities; each is bought at its time as a price. `busts` are the times of those that were annulled."""
    events = [filled_by(f"{name}-{t}", quantity, str(t), time=at(t)) for t, quantity in fills]
    return order(
        of=identity(name, purpose=Purpose.EXIT if is_exit else Purpose.ENTRY),
        side=Side.SELL if is_exit else Side.BUY,
        entry_refs=("in",) if is_exit else (),
        signal_type="EXIT" if is_exit else None,
        events=[submit_started(), accepted(), *events, *(busted(f"{name}-{t}") for t in busts)],
    )


ENTRY = traded("in", (1, 50), (2, 30), (9, 20))


@pytest.mark.parametrize(
    ("exits", "after"),
    [
        ([], 0),
        ([traded("out", (5, 79), is_exit=True)], 0),
        ([traded("out", (5, 80), is_exit=True)], 80),
        ([traded("out", (5, 40), (6, 40), is_exit=True)], 80),
        ([traded("out", (5, 40), is_exit=True), traded("other", (6, 40), is_exit=True)], 80),
        ([traded("out", (9, 80), is_exit=True)], 0),
        ([traded("out", (10, 100), is_exit=True)], 0),
        ([traded("out", (5, 80), is_exit=True, busts=(5,))], 0),
    ],
    ids=["none", "a-part", "all", "in-parts", "by-two", "at-the-same-time", "nothing-since", "annulled"],
)
def test_a_position_begins_anew_where_all_of_it_was_closed_and_more_has_filled(exits: list[Order], after: int) -> None:
    assert begins_after(ENTRY, exits) == after


def test_what_is_held_now_has_a_price_of_its_own() -> None:
    assert average_price(present_fills(ENTRY, Decimal(80))) == 9
    assert average_price(present_fills(ENTRY, Decimal(0))) == ENTRY.average_price
    assert average_price(()) is None
