"""Which legs are one order at the broker, what that order is, and what records prove of one that a death interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.base import AssetClass, Capabilities, Combination, ContractTerms, OrderType, Side, Ticket
from execution_service.core.orders.combination import (
    MOST_LEGS,
    combination_of,
    has_missed,
    is_combined,
    uncombinable,
    was_never_sent,
)
from execution_service.core.orders.events import Event
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Reason
from tests.builders import (
    accepted,
    at,
    doubted,
    filled_by,
    identity,
    instrument,
    nothing_sent,
    order,
    rejected,
    send_again_ordered,
    submit_started,
)

COMBINING = Capabilities(splits_option_combinations=False, combines_option_legs=True)


def leg(number: int, *events: Event, **changes: object) -> Order:
    named = {"asset_class": AssetClass.OPTION, "strike": Decimal(500 + 10 * number)}
    own: dict[str, object] = {"instrument": instrument("SPY", **named), "quantity": 2, "total_legs": 2}
    return order(of=identity(leg_index=number), events=events, **own | changes)  # type: ignore[arg-type]


def ticket(number: int, side: Side, quantity: int, limit: Decimal | None) -> Ticket:
    return replace(
        leg(number).ticket(),
        side=side,
        quantity=Decimal(quantity),
        limit_price=limit,
        order_type=OrderType.MARKET if limit is None else OrderType.LIMIT,
        terms=ContractTerms(con_id=number + 1),
    )


WHOLE = combination_of([ticket(0, Side.BUY, 2, None), ticket(1, Side.SELL, 2, None)])
assert isinstance(WHOLE, Combination)
INTENT = replace(submit_started(), combination=WHOLE)


@pytest.mark.parametrize(
    ("changes", "is_one"),
    [({}, True), ({"total_legs": 1}, False), ({"instrument": instrument("SPY")}, False)],
)
def test_only_options_of_several_legs_are_combined(changes: dict[str, object], is_one: bool) -> None:
    assert is_combined(leg(0, **changes), COMBINING) is is_one
    assert not is_combined(leg(0, **changes), Capabilities())


def test_exits_leave_by_themselves() -> None:
    option = instrument("SPY", asset_class=AssetClass.OPTION)
    assert not is_combined(order(of=identity(purpose=Purpose.EXIT), instrument=option, total_legs=2), COMBINING)


def test_legs_of_two_accounts_or_too_many_are_not_one_order() -> None:
    assert uncombinable([leg(0), leg(1)]) is None
    assert uncombinable([leg(number) for number in range(MOST_LEGS)]) is None
    assert uncombinable([leg(number) for number in range(MOST_LEGS + 1)]) is not None
    refused = uncombinable([leg(0), leg(1, account_id="another")])
    assert refused is not None
    assert "different accounts" in refused.message


def test_a_part_of_a_leg_is_not_shown_by_itself() -> None:
    refused = uncombinable([leg(0), leg(1, display_quantity=Decimal(1))])
    assert refused is not None
    assert "display_quantity" in refused.message


@given(
    st.lists(
        st.tuples(st.sampled_from(Side), st.integers(1, 40), st.decimals("0.05", "90", places=2)),
        min_size=2,
        max_size=4,
    )
)
def test_the_units_of_a_combination_come_to_what_the_legs_ask_for(legs: Sequence[tuple[Side, int, Decimal]]) -> None:
    tickets = [ticket(number, *asked) for number, asked in enumerate(legs)]
    whole = combination_of(tickets)
    assert isinstance(whole, Combination)
    assert [each.ratio * whole.quantity for each in whole.legs] == [each.quantity for each in tickets]
    assert gcd(*(each.ratio for each in whole.legs)) == 1
    assert whole.limit_price is not None
    asked = sum(side.sign * quantity * limit for side, quantity, limit in legs)
    assert whole.limit_price * whole.quantity == asked  # what all of it may cost at most; negative: must bring at least


def test_an_order_at_the_market_has_no_net_limit() -> None:
    assert WHOLE.limit_price is None


@pytest.mark.parametrize("con_id", [None, 1])
def test_a_leg_that_cannot_be_told_from_the_others_is_none(con_id: int | None) -> None:
    second = replace(ticket(1, Side.SELL, 2, None), terms=ContractTerms(con_id=con_id))
    assert isinstance(combination_of([ticket(0, Side.BUY, 2, None), second]), Reason)


def test_the_record_says_of_which_order_it_is_a_leg_until_nothing_was_sent() -> None:
    assert leg(0, INTENT).combination == WHOLE
    assert leg(0, INTENT, accepted()).combination == WHOLE
    assert leg(0, INTENT, nothing_sent()).combination is None
    again = leg(0, INTENT, doubted(), send_again_ordered())
    assert (again.combination, again.combinations) == (None, (WHOLE,))


def test_a_leg_with_a_stop_wants_no_protection_once_it_left_with_others() -> None:
    assert leg(0, stop_loss=Decimal(1)).wants_protection
    assert not leg(0, INTENT, stop_loss=Decimal(1)).wants_protection


def test_a_leg_that_was_perhaps_sent_with_others_wants_no_protection_though_it_is_to_leave_again() -> None:
    for events in ([nothing_sent()], [doubted(), send_again_ordered()]):
        assert not leg(0, INTENT, *events, stop_loss=Decimal(1)).wants_protection


def test_what_is_sent_anew_under_one_tag_is_the_latest_of_it() -> None:
    other = replace(WHOLE, limit_price=Decimal(3))
    anew = leg(0, INTENT, nothing_sent(), replace(submit_started(), combination=other))
    assert anew.combinations == (other,)


def test_a_leg_that_was_not_written_down_with_the_others_does_not_leave() -> None:
    assert has_missed(leg(1), [leg(0)]) is None
    for begun in (leg(0, INTENT), leg(0, INTENT, doubted())):
        assert has_missed(leg(1), [begun]) is not None
    assert has_missed(leg(1), [leg(0, INTENT, accepted())]) is not None
    assert has_missed(leg(1), [leg(0, INTENT, filled_by("f1", 1))]) is not None


def test_a_leg_of_another_attempt_may_wait_for_the_others() -> None:
    again = leg(1, INTENT, doubted(), send_again_ordered())
    assert has_missed(again, [leg(0, INTENT, doubted())]) is None


def test_only_a_leg_that_ended_without_the_intent_proves_that_nothing_left() -> None:
    begun = leg(0, INTENT)
    assert was_never_sent(begun, [leg(1, rejected())])
    assert not was_never_sent(begun, [leg(1)])
    assert not was_never_sent(begun, [leg(1, INTENT)])
    assert not was_never_sent(begun, [leg(1, INTENT, rejected())])
    assert not was_never_sent(leg(0, submit_started()), [leg(1, rejected())])


def test_a_leg_that_has_the_same_sending_recorded_as_not_sent_proves_it_for_all() -> None:
    begun = leg(0, INTENT)
    assert was_never_sent(begun, [leg(1, INTENT, nothing_sent())])
    assert was_never_sent(begun, [leg(1, INTENT, nothing_sent(), rejected())])


@pytest.mark.parametrize("changes", [{"at": at(5)}, {"nonce": "process-2"}, {"reserved_order_id": "7:2"}])
def test_that_an_earlier_sending_was_none_proves_nothing_of_a_later_one(changes: dict[str, object]) -> None:
    """A process that was frozen may still write the later one down for the other leg, and send it."""
    later = replace(INTENT, **changes)  # type: ignore[arg-type]
    assert not was_never_sent(leg(0, INTENT, nothing_sent(), later), [leg(1, INTENT, nothing_sent())])
    assert not was_never_sent(
        leg(0, INTENT, nothing_sent(), later), [leg(1, INTENT, nothing_sent(), later, doubted(), rejected())]
    )
