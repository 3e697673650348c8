"""Which refusal of one leg takes the others with it, and which legs are still to come."""

from __future__ import annotations

from dataclasses import replace

import pytest

from brokers.base import AssetClass, Capabilities
from execution_service.core.orders.events import Event
from execution_service.core.orders.legs import missing_legs, refusing_leg
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Reason, ReasonCode
from execution_service.core.orders.tickets import unsupported_reason
from tests.builders import (
    accepted,
    cancel_requested,
    cancelled,
    filled_by,
    identity,
    instrument,
    nothing_sent,
    order,
    rejected,
    submit_started,
)


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("asset_class", [AssetClass.OPTION, AssetClass.STOCK])
@pytest.mark.parametrize("legs", [1, 2])
@pytest.mark.parametrize("splits", [True, False])
def test_an_option_that_is_one_leg_of_several_does_not_stand_naked(
    purpose: Purpose, asset_class: AssetClass, legs: int, splits: bool
) -> None:
    leg = order(of=identity(purpose=purpose), instrument=instrument(asset_class=asset_class), total_legs=legs)
    reason = unsupported_reason(leg, Capabilities(splits_option_combinations=splits), "IBKR")
    is_naked = (purpose, asset_class, legs, splits) == (Purpose.ENTRY, AssetClass.OPTION, 2, False)
    assert (reason is not None) == is_naked
    assert reason is None or "one of 2 legs" in reason


def leg(number: int, *events: Event, account: str = "acct-1", kind: AssetClass = AssetClass.STOCK) -> Order:
    return order(
        of=identity(leg_index=number),
        events=events,
        instrument=instrument(asset_class=kind),
        account_id=account,
        total_legs=3,
    )


WHOLE = Capabilities(splits_option_combinations=False)


def test_a_leg_is_refused_by_what_the_others_say_and_by_nothing_else() -> None:
    mine = leg(0)
    option = leg(1, kind=AssetClass.OPTION)
    assert refusing_leg(mine, [mine, leg(1), leg(2)], WHOLE, "IBKR") is None
    assert refusing_leg(mine, [mine, option], Capabilities(), "Zerodha") is None
    refused = refusing_leg(mine, [mine, option], WHOLE, "IBKR")
    assert refused is not None
    assert refused.message.startswith("not placed without leg 2 of 3: IBKR does not take an option alone")
    assert refusing_leg(mine, [leg(1, account="other", kind=AssetClass.OPTION)], WHOLE, "IBKR") is None
    for events in ([rejected()], [cancel_requested()]):
        assert refusing_leg(mine, [leg(2, *events)], WHOLE, "IBKR") is not None
    filled_in_part = leg(2, submit_started(), filled_by("f1", 40), cancelled(filled_quantity=40))
    assert refusing_leg(mine, [filled_in_part], WHOLE, "IBKR") is None


def test_a_leg_is_refused_with_the_reason_of_the_other() -> None:
    mine, words = leg(0), "not placed without leg 2 of 3: insufficient margin"
    assert refusing_leg(mine, [leg(1, rejected())], WHOLE, "IBKR") == Reason(ReasonCode.BROKER_REJECTED, words)
    asked = Reason(ReasonCode.CANCEL_REQUESTED, "not placed without leg 2 of 3: asked by upstream")
    assert refusing_leg(mine, [leg(1, cancel_requested())], WHOLE, "IBKR") == asked
    wished_while_it_was_sent = leg(1, submit_started(), cancel_requested(), nothing_sent())
    assert refusing_leg(mine, [wished_while_it_was_sent], WHOLE, "IBKR") == asked
    of_no_kind = refusing_leg(mine, [leg(1, kind=AssetClass.OPTION)], WHOLE, "IBKR")
    assert of_no_kind is not None
    assert of_no_kind.code is ReasonCode.UNSUPPORTED_ORDER
    message_not_composed = replace(leg(1, rejected()), reason=None)
    said = Reason(ReasonCode.BROKER_REJECTED, "not placed without leg 2 of 3: it is REJECTED")
    assert refusing_leg(mine, [message_not_composed], WHOLE, "IBKR") == said


def test_a_leg_that_has_left_is_not_judged_again_by_what_the_broker_takes() -> None:
    """It was sent: the others complete it. To refuse them now would leave it alone."""
    for events in ([submit_started()], [submit_started(), accepted()], [submit_started(), filled_by("f1", 100)]):
        assert refusing_leg(leg(0), [leg(1, *events, kind=AssetClass.OPTION)], WHOLE, "IBKR") is None


def test_legs_that_have_not_come_are_numbered_from_one() -> None:
    assert missing_legs(leg(1), [leg(1)]) == [1, 3]
    assert missing_legs(leg(1), [leg(0), leg(1), leg(2)]) == []
    assert missing_legs(leg(1), [order(of=identity(leg_index=0, purpose=Purpose.EXIT))]) == [1, 3]
