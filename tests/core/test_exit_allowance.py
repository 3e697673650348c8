"""How much of an exit its entry allows, and what a broker cannot take at all; values in, values out."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from brokers.base import AssetClass, Capabilities, OrderType, Side, Tif
from execution_service.core.orders.events import Capped, InstrumentMatched, Rejected
from execution_service.core.orders.exits import ExitAllowance, exit_allowance, with_instrument_of_entry
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.orders.tickets import unsupported_reason
from tests.builders import (
    NOW,
    accepted,
    cancelled,
    filled_by,
    identity,
    instrument,
    order,
    refused_request,
    rejected,
    submit_started,
)

WORKING = (submit_started(), accepted())


def entry(signal_id: str = "entry", filled: int = 100, *, is_final: bool = True, **changes: Any) -> Order:
    end = () if not is_final or filled >= 100 else (cancelled(filled),)
    fills = (filled_by("f1", filled),) if filled else ()
    return order(of=identity(signal_id), events=(*WORKING, *fills, *end), **changes)


def leaving(quantity: int = 100, signal_id: str = "exit", events: Any = (), **changes: Any) -> Order:
    usual: dict[str, Any] = {"side": Side.SELL, "entry_refs": ("entry",)}
    of = identity(signal_id, purpose=Purpose.EXIT)
    return order(of=of, quantity=quantity, events=events, **usual | changes)


def allowed(this: Order, entries: list[Order], exits: list[Order] | None = None, **kwargs: Any) -> ExitAllowance | None:
    return exit_allowance(this, entries, exits or [], NOW, **kwargs)


def capped_to(quantity: int, allowance: ExitAllowance | None) -> bool:
    assert allowance is not None
    (event,) = allowance.events
    return isinstance(event, Capped) and event.quantity == quantity and event.at == NOW


def test_an_exit_within_what_its_entry_filled_is_sent_as_it_is() -> None:
    assert allowed(leaving(100), [entry(filled=100)]) == ExitAllowance()
    assert allowed(leaving(99), [entry(filled=100)]) == ExitAllowance()


def test_an_exit_of_more_is_reduced_and_says_so() -> None:
    allowance = allowed(leaving(100), [entry(filled=40)])
    assert capped_to(40, allowance)
    assert allowance is not None
    (event,) = allowance.events
    assert isinstance(event, Capped)
    assert event.message == "reduced from 100 to 40: the entry filled 40, other exits have taken 0"


def test_nothing_filled_leaves_nothing_to_exit() -> None:
    allowance = allowed(leaving(), [entry(filled=0)])
    words = "the entry filled 0, other exits have taken 0"
    assert allowance == ExitAllowance((Rejected(at=NOW, reason=Reason(ReasonCode.NOTHING_TO_EXIT, words)),))


def test_an_exit_waits_for_its_entry_to_end() -> None:
    assert allowed(leaving(), [entry(filled=40, is_final=False)]) is None
    assert allowed(leaving(), [entry(), entry("again", filled=40, is_final=False)]) is None


def test_an_entry_that_is_not_ours_allows_everything_once_it_is_not_to_be_expected() -> None:
    assert allowed(leaving(), []) == ExitAllowance(is_unbound=True)
    assert allowed(leaving(), [], may_entry_come=True) is None
    assert allowed(leaving(), [leaving(signal_id="entry")]) == ExitAllowance(is_unbound=True), "an exit is no entry"


def test_a_leg_that_has_not_come_is_waited_for() -> None:
    other_leg = entry(instrument=instrument("NVDA"), total_legs=2)
    assert allowed(leaving(), [other_leg]) is None
    last = order(
        of=identity("entry", 1), events=(*WORKING, filled_by("f1", 100)), instrument=instrument("QQQ"), total_legs=2
    )
    allowance = allowed(leaving(), [other_leg, last])
    assert allowance is not None
    (event,) = allowance.events
    assert isinstance(event, Rejected)
    assert "another account, instrument or side" in event.reason.message


def test_an_exit_of_a_leg_that_has_come_does_not_wait_for_the_others() -> None:
    assert allowed(leaving(), [entry(total_legs=3)]) == ExitAllowance()


def test_a_leg_is_waited_for_although_another_was_unreadable_and_told_no_number_of_legs() -> None:
    unreadable = order(of=identity("entry", 1), asked=refused_request(), events=(rejected(),))
    other_leg = entry(instrument=instrument("NVDA"), total_legs=3)
    assert allowed(leaving(), [other_leg, unreadable]) is None
    assert allowed(leaving(), [unreadable, other_leg]) is None


@pytest.mark.parametrize(
    "changes",
    [{"account_id": "acct-2"}, {"instrument": instrument("MSFT")}, {"side": Side.SELL}],
    ids=["account", "instrument", "side"],
)
def test_an_entry_of_another_account_instrument_or_side_allows_nothing(changes: dict[str, Any]) -> None:
    allowance = allowed(leaving(), [entry(**changes)])
    assert allowance is not None
    (event,) = allowance.events
    assert isinstance(event, Rejected)
    assert event.reason.code is ReasonCode.NOTHING_TO_EXIT


def test_a_refused_entry_allows_nothing() -> None:
    refused = order(of=identity("entry"), asked=refused_request(), events=(rejected(),))
    allowance = allowed(leaving(), [refused])
    assert allowance is not None
    assert isinstance(allowance.events[0], Rejected)


def test_entries_of_one_name_count_together() -> None:
    assert capped_to(70, allowed(leaving(), [entry(filled=40), entry("entry", filled=30)]))


# What other exits have taken


def test_what_a_finished_exit_filled_is_taken() -> None:
    done = leaving(30, "other", (*WORKING, filled_by("x1", 30)))
    assert done.status is Status.FILLED
    assert capped_to(70, allowed(leaving(), [entry()], [done]))


def test_a_cancelled_exit_has_taken_only_what_it_filled() -> None:
    done = leaving(50, "other", (*WORKING, filled_by("x1", 10), cancelled(10)))
    assert capped_to(90, allowed(leaving(), [entry()], [done]))


def test_an_exit_at_work_may_still_take_all_that_it_asked_for() -> None:
    at_work = leaving(50, "other", (*WORKING, filled_by("x1", 10)))
    assert capped_to(50, allowed(leaving(), [entry()], [at_work]))


def test_an_exit_that_was_not_sent_has_taken_nothing() -> None:
    waiting = leaving(50, "other")
    assert waiting.status is Status.PENDING
    assert allowed(leaving(), [entry()], [waiting]) == ExitAllowance()


def test_an_overfilled_exit_has_taken_what_it_filled() -> None:
    over = leaving(20, "other", (*WORKING, filled_by("x1", 30)))
    assert capped_to(70, allowed(leaving(), [entry()], [over]))


def test_an_exit_takes_nothing_from_itself_nor_those_of_other_lines() -> None:
    this = leaving(events=(*WORKING, filled_by("x1", 10)))
    elsewhere = leaving(60, "other", (*WORKING,), account_id="acct-2")
    refused = order(of=identity("r", purpose=Purpose.EXIT), asked=refused_request(), events=(rejected(),))
    assert allowed(this, [entry()], [this, elsewhere, refused]) == ExitAllowance()


def test_all_taken_leaves_nothing_never_less() -> None:
    over = leaving(100, "other", (*WORKING, filled_by("x1", 130)))
    allowance = allowed(leaving(10), [entry()], [over])
    assert allowance is not None
    (event,) = allowance.events
    assert isinstance(event, Rejected)
    assert event.at == NOW
    assert event.reason.message == "the entry filled 100, other exits have taken 130"


# The instrument


def test_an_exit_takes_its_entrys_name_for_the_instrument() -> None:
    exact = instrument("AAPL", exchange="NASDAQ", currency="USD")
    this = leaving(120)
    allowance = allowed(this, [entry(instrument=exact)])
    assert allowance is not None
    matched, capped = allowance.events
    assert matched == InstrumentMatched(at=NOW, instrument=exact)
    assert isinstance(capped, Capped)
    assert with_instrument_of_entry(this, [entry(instrument=exact)], NOW).ticket().instrument == exact


def test_entries_that_differ_in_the_instrument_leave_the_exits_own() -> None:
    entries = [
        entry(instrument=instrument("AAPL", exchange="NASDAQ")),
        entry("entry", instrument=instrument("AAPL", currency="USD")),
    ]
    assert allowed(leaving(), entries) == ExitAllowance()
    assert with_instrument_of_entry(leaving(), entries, NOW).events == ()


def test_only_its_entry_gives_an_exit_the_name_of_its_instrument() -> None:
    """What else bears the entry's name: another leg, one refused at the door, and an exit that has a signal id of its own choosing."""
    named = instrument("AAPL", exchange="NASDAQ")
    this = leaving()
    others = [
        entry(instrument=named, side=Side.SELL),
        entry(instrument=named, account_id="acct-2"),
        order(of=identity("entry", 1), asked=refused_request(), events=(rejected(),)),
        leaving(signal_id="entry", instrument=named, side=Side.BUY),
    ]
    for other in others:
        assert with_instrument_of_entry(this, [other], NOW) == this
    exact = instrument("AAPL", exchange="ARCA")
    assert with_instrument_of_entry(this, [*others, entry(instrument=exact)], NOW).ticket().instrument == exact


# What a broker cannot take


def test_what_a_broker_takes_has_no_objection() -> None:
    assert unsupported_reason(order(), Capabilities(), "IBKR") is None
    assert unsupported_reason(order(tif=Tif.DAY), Capabilities(), "IBKR") is None


def test_each_thing_a_broker_does_not_take_is_named() -> None:
    narrow = Capabilities(
        order_types=frozenset({OrderType.LIMIT}),
        tifs=frozenset({Tif.DAY}),
        asset_classes=frozenset({AssetClass.FOREX}),
    )
    asked = order(order_type=OrderType.STOP, stop_price=Decimal(9), tif=Tif.GTC)
    expected = "KITE does not take STOP orders or time in force GTC or STOCK instruments"
    assert unsupported_reason(asked, narrow, "KITE") == expected
    one = Capabilities(tifs=frozenset({Tif.DAY}))
    assert unsupported_reason(order(tif=Tif.GTC), one, "KITE") == "KITE does not take time in force GTC"
    assert unsupported_reason(order(), one, "KITE") is None, "none was asked for"


def test_a_variety_that_the_broker_does_not_have_is_never_left_away() -> None:
    none, some = Capabilities(varieties=frozenset()), Capabilities(varieties=frozenset({"fok"}))
    assert unsupported_reason(order(variety="fok"), none, "IBKR") == "IBKR does not take the variety fok"
    assert unsupported_reason(order(variety="regular"), none, "IBKR") is None
    assert unsupported_reason(order(variety="fok"), some, "ALPACA") is None
    assert unsupported_reason(order(variety="amo"), some, "ALPACA") == "ALPACA does not take the variety amo"
    assert unsupported_reason(order(variety="amo"), Capabilities(), "KITE") is None


def test_an_option_leg_alone_is_refused_only_as_an_entry_where_it_would_stand_naked() -> None:
    option = instrument("SPY", asset_class=AssetClass.OPTION)
    whole = Capabilities(splits_option_combinations=False)
    leg = order(instrument=option, total_legs=2)
    assert "naked" in str(unsupported_reason(leg, whole, "IBKR"))
    assert unsupported_reason(leg, Capabilities(), "IBKR") is None
    assert unsupported_reason(order(instrument=option), whole, "IBKR") is None
    assert unsupported_reason(order(total_legs=2), whole, "IBKR") is None
    assert unsupported_reason(leaving(instrument=option, total_legs=2), whole, "IBKR") is None


def test_what_adds_to_a_position_takes_nothing_of_its_entry() -> None:
    """A SCALE_IN may name the entry that it adds to."""
    adding = leaving(signal_id="add", side=Side.BUY, events=(*WORKING, filled_by("a1", 100)))
    assert allowed(leaving(), [entry()], [adding]) == ExitAllowance()


def test_exit_that_names_no_product_takes_that_of_its_entry() -> None:
    intraday = entry(product="MIS")
    found = allowed(leaving(), [intraday])
    assert found is not None
    assert apply_all(leaving(), found.events).ticket().product == "MIS"
    assert found.products == frozenset()
    delivered = entry("entry-2", product="CNC")
    assert allowed(leaving(product="CNC"), [intraday]) == ExitAllowance(products=frozenset({"MIS"}))
    assert allowed(leaving(), [intraday, delivered]) == ExitAllowance(products=frozenset({"MIS", "CNC"}))
    assert allowed(leaving(product="CNC"), [delivered]) == ExitAllowance()
