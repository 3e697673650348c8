"""What protection a position should have, beside what there is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import Side
from execution_service.core.orders.protective import ProtectionState, Protective, ProtectiveRole
from execution_service.core.protection.plan import (
    MOST_PIECES,
    Abilities,
    Ending,
    Place,
    ProtectedEntry,
    ProtectedPosition,
    ProtectionPlan,
    ProtectiveOrder,
    Stage,
    protection_plan,
)
from execution_service.core.protection.trailing import Trail

NOW = datetime(2026, 1, 5, 15, 0, tzinfo=UTC)
STOP, TARGET, CLOSE = ProtectiveRole.STOP, ProtectiveRole.TARGET, ProtectiveRole.CLOSE
LINKS = Abilities(links=True)


def order(role: ProtectiveRole = STOP, piece: int = 1, quantity: int = 100, **fields: Any) -> ProtectiveOrder:
    linked = fields.pop("is_linked", False)
    if "ending" in fields:
        fields = {"stage": Stage.GONE, "ended_at": NOW} | fields
    filled = Decimal(fields.pop("filled", 0))
    after = fields.pop("begins_after", None)
    protective = Protective(entry_order_id="ord_e", role=role, piece=piece, is_linked=linked, begins_after=after)
    name = f"{role.lower()}-{piece}"
    return ProtectiveOrder(order_id=name, protective=protective, quantity=Decimal(quantity), filled=filled, **fields)


def entry(*orders: ProtectiveOrder, filled: int = 100, **fields: Any) -> ProtectedEntry:
    values: dict[str, Any] = {"order_id": "ord_e", "stop": Decimal(9), "target": None} | fields
    return ProtectedEntry(open_quantity=Decimal(filled), orders=orders, **values)


def position(*entries: ProtectedEntry, held: int | None = None, **fields: Any) -> ProtectedPosition:
    total = sum((each.open_quantity for each in entries), Decimal(0)) if held is None else Decimal(held)
    for name in ("shown", "leaving"):
        if fields.get(name) is not None:
            fields[name] = Decimal(fields[name])
    price = fields.pop("price", None)
    if price is not None:
        fields["span"] = Decimal(price), Decimal(price)
    return ProtectedPosition(**{"side": Side.BUY, "held": total, "entries": entries, "now": NOW} | fields)


def planned(*entries: ProtectedEntry, **fields: Any) -> ProtectionPlan:
    return protection_plan(position(*entries, **fields))


def placed(plan: ProtectionPlan) -> list[tuple[ProtectiveRole, int, int]]:
    return [(each.role, each.piece, int(each.quantity)) for each in plan.place]


def taken_back(plan: ProtectionPlan) -> list[str]:
    return [each.order_id for each in plan.take_back]


def state(plan: ProtectionPlan) -> ProtectionState:
    return plan.standing["ord_e"].state


def test_what_has_filled_gets_a_stop_of_exactly_that_quantity() -> None:
    plan = planned(entry(filled=40, is_working=True))
    assert plan.place == (
        Place(entry_order_id="ord_e", role=STOP, piece=1, quantity=Decimal(40), stop_price=Decimal(9)),
    )
    assert state(plan) is ProtectionState.PLACING


def test_a_further_fill_gets_a_stop_of_its_own_so_that_none_is_changed() -> None:
    plan = planned(entry(order(quantity=40)))
    assert (placed(plan), taken_back(plan)) == ([(STOP, 2, 60)], [])


def test_a_whole_stop_protects() -> None:
    plan = planned(entry(order()))
    assert (placed(plan), taken_back(plan), state(plan)) == ([], [], ProtectionState.PROTECTED)
    assert plan.standing["ord_e"].protected == 100


def test_one_that_is_on_its_way_or_in_doubt_gets_no_second_one() -> None:
    for stage in (Stage.UNSENT, Stage.UNCERTAIN):
        plan = planned(entry(order(stage=stage)))
        assert (placed(plan), state(plan)) == ([], ProtectionState.PLACING)
    plan = planned(entry(order(stage=Stage.UNCERTAIN, why="nowhere at the broker")))
    assert (placed(plan), state(plan)) == ([], ProtectionState.IN_DOUBT)
    assert plan.standing["ord_e"].reason == "protect-e-stop-1 is in doubt: nowhere at the broker"


def test_what_nothing_protects_is_said_though_an_order_beside_it_is_in_doubt() -> None:
    doubtful = order(quantity=40, stage=Stage.UNCERTAIN, why="nowhere at the broker")
    plan = planned(entry(doubtful, order(piece=2, quantity=60, ending=Ending.REFUSED, why="not today")))
    assert (placed(plan), state(plan)) == ([], ProtectionState.UNPROTECTED)
    assert "not today" in plan.standing["ord_e"].reason


def test_of_too_many_small_stops_the_smallest_is_replaced_with_what_is_missing() -> None:
    pieces = [order(piece=n, quantity=10 * n) for n in range(1, MOST_PIECES + 1)]
    plan = planned(entry(*pieces, filled=105))
    assert (placed(plan), taken_back(plan)) == ([], ["stop-1"])
    pieces[0] = replace(pieces[0], is_asked_to_end=True)
    assert placed(planned(entry(*pieces, filled=105))) == []
    pieces[0] = replace(pieces[0], stage=Stage.GONE, ending=Ending.TAKEN_BACK)
    assert placed(planned(entry(*pieces, filled=105))) == [(STOP, MOST_PIECES + 1, 15)]


def test_a_partial_exit_shrinks_first_and_places_the_rest_when_that_is_confirmed() -> None:
    plan = planned(entry(order(), filled=60))
    assert (placed(plan), taken_back(plan)) == ([], ["stop-1"])
    going = order(is_asked_to_end=True)
    plan = planned(entry(going, filled=60))
    assert (placed(plan), taken_back(plan)) == ([], [])
    gone = order(ending=Ending.TAKEN_BACK)
    assert placed(planned(entry(gone, filled=60))) == [(STOP, 2, 60)]


def test_the_piece_that_fits_is_taken_back() -> None:
    pieces = order(piece=1, quantity=50), order(piece=2, quantity=30), order(piece=3, quantity=20)
    assert taken_back(planned(entry(*pieces, filled=70))) == ["stop-2"]
    assert taken_back(planned(entry(*pieces, filled=10))) == ["stop-1", "stop-2", "stop-3"]
    assert set(taken_back(planned(entry(*pieces, filled=0)))) == {"stop-1", "stop-2", "stop-3"}


def test_protection_makes_way_for_another_exit_and_keeps_the_rest() -> None:
    plan = planned(entry(order(quantity=60), order(piece=2, quantity=40)), leaving=40)
    assert taken_back(plan) == ["stop-2"]
    plan = planned(entry(order(quantity=60), order(piece=2, quantity=40, ending=Ending.TAKEN_BACK)), leaving=40)
    assert (placed(plan), taken_back(plan), state(plan)) == ([], [], ProtectionState.PROTECTED)
    plan = planned(entry(order(ending=Ending.TAKEN_BACK)), leaving=100)
    assert (placed(plan), state(plan)) == ([], ProtectionState.MAKING_WAY)


def test_nothing_outlives_the_position() -> None:
    plan = planned(entry(order(), filled=0))
    assert (taken_back(plan), state(plan)) == (["stop-1"], ProtectionState.PLACING)
    plan = planned(entry(order(ending=Ending.TAKEN_BACK), filled=0))
    assert (plan.place, taken_back(plan), state(plan)) == ((), [], ProtectionState.CLOSED)


def test_a_position_that_was_closed_by_an_exit_without_a_name_is_not_protected() -> None:
    assert taken_back(planned(entry(order()), held=0)) == ["stop-1"]


def test_exits_without_a_name_have_closed_the_oldest_entry_first() -> None:
    old, new = entry(order()), entry(order_id="ord_new", filled=50)
    plan = planned(old, new, held=50)
    assert taken_back(plan) == ["stop-1"]
    assert [(each.entry_order_id, each.quantity) for each in plan.place] == [("ord_new", 50)]


def test_the_sum_of_several_strategies_entries_never_exceeds_what_is_held() -> None:
    plan = planned(entry(), entry(order_id="ord_2"), entry(order_id="ord_3"), held=150)
    assert sum(each.quantity for each in plan.place) == 150


def test_what_a_person_sold_at_the_broker_shrinks_it() -> None:
    plan = planned(entry(order()), shown=30)
    assert taken_back(plan) == ["stop-1"]
    assert placed(planned(entry(order(ending=Ending.TAKEN_BACK)), shown=30)) == [(STOP, 2, 30)]
    plan = planned(entry(order(ending=Ending.TAKEN_BACK)), shown=0)
    assert (placed(plan), state(plan)) == ([], ProtectionState.UNPROTECTED)


def test_what_a_person_bought_at_the_broker_is_not_ours_to_protect() -> None:
    assert placed(planned(entry(order()), shown=500)) == []


def test_the_target_follows_when_the_broker_has_taken_the_stop_that_it_is_linked_to() -> None:
    with_target = entry(target=Decimal(12))
    plan = planned(with_target, abilities=LINKS)
    assert plan.place[0].is_linked
    assert placed(plan) == [(STOP, 1, 100)]
    for stage in (Stage.UNSENT, Stage.UNCERTAIN):
        assert (
            placed(planned(replace(with_target, orders=(order(is_linked=True, stage=stage),)), abilities=LINKS)) == []
        )
    plan = planned(replace(with_target, orders=(order(is_linked=True),)), abilities=LINKS)
    assert placed(plan) == [(TARGET, 1, 100)]
    both = order(is_linked=True), order(TARGET, is_linked=True)
    plan = planned(replace(with_target, orders=both), abilities=LINKS)
    assert (placed(plan), state(plan)) == ([], ProtectionState.PROTECTED)


def test_a_linked_target_that_has_not_left_is_watched() -> None:
    unsent = order(TARGET, is_linked=True, stage=Stage.UNSENT)
    waits = entry(order(is_linked=True), unsent, target=Decimal(12))
    plan = planned(waits, abilities=LINKS, price=11)
    assert (placed(plan), taken_back(plan), state(plan)) == ([], [], ProtectionState.PLACING)
    assert plan.band is not None
    assert (plan.band.low, plan.band.high) == (None, 12)
    assert taken_back(planned(waits, abilities=LINKS, price=12)) == ["stop-1", "target-1"]
    for stage in (Stage.UNCERTAIN, Stage.WORKING):
        sent = entry(order(is_linked=True), replace(unsent, stage=stage), target=Decimal(12))
        assert taken_back(planned(sent, abilities=LINKS, price=12)) == []


def test_linked_orders_count_once_and_what_the_target_fills_is_off_the_stop() -> None:
    both = order(is_linked=True), order(TARGET, is_linked=True, filled=20)
    plan = planned(entry(*both, filled=80, target=Decimal(12)), abilities=LINKS)
    assert (placed(plan), taken_back(plan), state(plan)) == ([], [], ProtectionState.PROTECTED)
    assert plan.standing["ord_e"].protected == 80


@pytest.mark.parametrize("stage", [Stage.UNSENT, Stage.UNCERTAIN, Stage.WORKING])
def test_a_target_whose_stop_has_begun_to_fill_is_taken_back_and_the_stop_stays(stage: Stage) -> None:
    stop = order(is_linked=True, filled=30)
    plan = planned(
        entry(stop, order(TARGET, is_linked=True, stage=stage), filled=70, target=Decimal(12)), abilities=LINKS
    )
    assert (placed(plan), taken_back(plan)) == ([], ["target-1"])
    going = order(TARGET, is_linked=True, stage=stage, is_asked_to_end=True)
    plan = planned(entry(stop, going, filled=70, target=Decimal(12)), abilities=LINKS)
    assert (placed(plan), taken_back(plan)) == ([], [])
    gone = order(TARGET, is_linked=True, ending=Ending.TAKEN_BACK)
    plan = planned(entry(stop, gone, filled=70, target=Decimal(12)), abilities=LINKS)
    assert (placed(plan), taken_back(plan), state(plan)) == ([], [], ProtectionState.WATCHED)
    assert plan.standing["ord_e"].protected == 70


def test_a_target_whose_stop_has_begun_to_fill_counts_for_all_that_it_has_open() -> None:
    going = order(TARGET, is_linked=True, is_asked_to_end=True)
    grown = entry(order(is_linked=True, filled=30), going, filled=95, target=Decimal(12))
    assert placed(planned(grown, abilities=LINKS)) == []  # 25 filled meanwhile, and the target may take them
    shrunk = entry(order(is_linked=True, filled=30), going, filled=20, target=Decimal(12))
    assert taken_back(planned(shrunk, abilities=LINKS)) == ["stop-1"]


def test_no_target_is_placed_behind_a_stop_that_has_begun_to_fill_or_was_triggered() -> None:
    for stop in (order(is_linked=True, filled=30), order(is_linked=True, triggered_at=NOW)):
        plan = planned(entry(stop, filled=100 - int(stop.filled), target=Decimal(12)), abilities=LINKS)
        assert (placed(plan), taken_back(plan)) == ([], [])


def test_the_sibling_of_a_filled_one_is_taken_back() -> None:
    both = order(is_linked=True, filled=100, ending=Ending.FILLED), order(TARGET, is_linked=True)
    plan = planned(entry(*both, filled=0, target=Decimal(12)), abilities=LINKS)
    assert taken_back(plan) == ["target-1"]


def test_a_target_whose_stop_was_removed_is_taken_back_and_both_are_placed_anew() -> None:
    both = order(is_linked=True, ending=Ending.REMOVED), order(TARGET, is_linked=True)
    plan = planned(entry(*both, target=Decimal(12)), abilities=LINKS)
    assert (placed(plan), taken_back(plan)) == ([], ["target-1"])
    both = both[0], order(TARGET, is_linked=True, ending=Ending.TAKEN_BACK)
    later = NOW + timedelta(seconds=60)
    plan = planned(entry(*both, target=Decimal(12)), abilities=LINKS, now=later)
    assert placed(plan) == [(STOP, 2, 100)]


def test_without_a_link_the_target_is_watched_and_the_stop_ends_before_it_is_closed() -> None:
    watched = entry(order(), target=Decimal(12))
    assert state(planned(watched)) is ProtectionState.WATCHED
    assert placed(planned(watched, price="11.99")) == []
    plan = planned(watched, price=12)
    assert (placed(plan), taken_back(plan), state(plan)) == ([], ["stop-1"], ProtectionState.CLOSING)
    gone = entry(order(ending=Ending.TAKEN_BACK), target=Decimal(12))
    assert placed(planned(gone, price="12.5")) == [(CLOSE, 2, 100)]


def test_a_target_alone_rests() -> None:
    assert placed(planned(entry(stop=None, target=Decimal(12)))) == [(TARGET, 1, 100)]


def test_a_stop_that_cannot_rest_is_watched() -> None:
    no_stops = Abilities(rests_stops=False)
    assert state(planned(entry(), abilities=no_stops)) is ProtectionState.WATCHED
    assert placed(planned(entry(), abilities=no_stops, price="9.01")) == []
    assert placed(planned(entry(), abilities=no_stops, price=9)) == [(CLOSE, 1, 100)]
    short = {"side": Side.SELL, "abilities": no_stops}
    assert placed(planned(entry(), price="8.99", **short)) == []
    assert placed(planned(entry(), price="9.5", **short)) == [(CLOSE, 1, 100)]


@pytest.mark.parametrize("side", list(Side))
def test_a_price_that_was_shown_once_reaches_no_watched_stop_or_target(side: Side) -> None:
    stop, target = Decimal(10) - side.sign, Decimal(10) + 2 * side.sign
    watched = entry(stop=stop, target=target)
    able: dict[str, Any] = {"side": side, "abilities": Abilities(rests_stops=False, rests_targets=False)}
    for edge in (stop, target):
        low, high = sorted((edge, Decimal(10)))
        assert placed(planned(watched, span=(low, high), **able)) == []
        assert placed(planned(watched, span=(edge, edge), **able)) == [(CLOSE, 1, 100)]


def test_a_stop_whose_price_was_passed_is_closed_at_the_market_once() -> None:
    passed = order(ending=Ending.PASSED, why="trigger price is above the last price")
    plan = planned(entry(passed))
    assert (placed(plan), state(plan)) == ([(CLOSE, 2, 100)], ProtectionState.CLOSING)
    assert "above the last price" in plan.standing["ord_e"].reason
    for stage in (Stage.UNSENT, Stage.UNCERTAIN, Stage.WORKING):
        plan = planned(entry(passed, order(CLOSE, 2, stage=stage)))
        assert (placed(plan), state(plan)) == ([], ProtectionState.CLOSING)
    plan = planned(entry(passed, order(CLOSE, 2, ending=Ending.REFUSED, why="no")))
    assert (placed(plan), state(plan)) == ([], ProtectionState.UNPROTECTED)


def test_other_stops_end_before_it_is_closed_at_the_market() -> None:
    orders = order(quantity=40), order(piece=2, quantity=60, ending=Ending.PASSED)
    assert (placed(planned(entry(*orders))), taken_back(planned(entry(*orders)))) == ([], ["stop-1"])


def test_a_refused_stop_is_tried_again_more_and_more_rarely_and_it_is_said() -> None:
    refused = [order(piece=1, ending=Ending.REFUSED, why="margin")]
    plan = planned(entry(*refused))
    assert (placed(plan), state(plan)) == ([], ProtectionState.UNPROTECTED)
    assert "margin" in plan.standing["ord_e"].reason
    assert plan.look_again_at == NOW + timedelta(seconds=2)
    assert placed(planned(entry(*refused), now=NOW + timedelta(seconds=2))) == [(STOP, 2, 100)]
    refused += [order(piece=n, ending=Ending.REFUSED) for n in (2, 3)]
    assert planned(entry(*refused)).look_again_at == NOW + timedelta(seconds=8)
    refused += [order(piece=n, ending=Ending.REFUSED) for n in range(4, 90)]
    assert planned(entry(*refused)).look_again_at == NOW + timedelta(seconds=600)


def test_an_order_of_the_day_is_placed_again_at_the_next_opening() -> None:
    opens_at = NOW + timedelta(hours=15)
    expired = entry(order(ending=Ending.EXPIRED))
    night = {"abilities": Abilities(keeps_overnight=False), "opens_at": opens_at}
    plan = planned(expired, now=NOW + timedelta(hours=1), **night)
    assert (placed(plan), state(plan), plan.look_again_at) == ([], ProtectionState.UNPROTECTED, opens_at)
    assert placed(planned(expired, now=opens_at)) == [(STOP, 2, 100)]
    assert placed(planned(entry(), **night)) == [(STOP, 1, 100)]  # something has filled: the calendar may be wrong


def test_what_a_triggered_stop_has_become_fills_within_ten_seconds_or_is_closed_at_the_market_once() -> None:
    stuck = order(triggered_at=NOW, filled=30)
    rests = planned(entry(stuck, filled=70), now=NOW + timedelta(seconds=9))
    assert (rests.take_back, rests.place, rests.look_again_at) == ((), (), NOW + timedelta(seconds=10))
    late = NOW + timedelta(seconds=10)
    assert taken_back(planned(entry(stuck, filled=70), now=late)) == ["stop-1"]
    going = replace(stuck, is_asked_to_end=True)
    plan = planned(entry(going, filled=70), now=late)
    assert (plan.take_back, plan.place, plan.look_again_at, state(plan)) == ((), (), None, ProtectionState.CLOSING)
    gone = order(triggered_at=NOW, filled=30, ending=Ending.PASSED)
    plan = planned(entry(gone, filled=70), now=late)
    assert (placed(plan), plan.standing["ord_e"].reason) == (
        [(CLOSE, 2, 70)],
        "its stop was triggered and has not filled",
    )
    close = order(CLOSE, piece=2, quantity=70)
    assert planned(entry(gone, close, filled=70), now=late + timedelta(hours=1)).place == ()
    assert planned(entry(gone, filled=0), now=late).place == ()  # it has filled after all


def test_a_triggered_stop_is_not_moved() -> None:
    trailing = entry(order(stop_price=Decimal(9), triggered_at=NOW), **TEN_PERCENT)
    assert taken_back(planned(trailing, kept_price=Decimal(11))) == []


@pytest.mark.parametrize("side", list(Side))
def test_a_stop_whose_limit_the_market_has_jumped_over_counts_as_triggered(side: Side) -> None:
    limit = Decimal(10) - side.sign
    resting = entry(order(stop_price=limit + side.sign, limit_price=limit))
    beyond = planned(resting, side=side, passed_price=limit - side.sign)
    assert [each.order_id for each in beyond.triggered] == ["stop-1"]
    for price in (limit, limit + side.sign, None):
        assert planned(resting, side=side, passed_price=price, kept_price=limit - side.sign).triggered == ()
    assert beyond.band is not None
    assert limit in (beyond.band.low, beyond.band.high)
    known = entry(order(stop_price=limit + side.sign, limit_price=limit, triggered_at=NOW))
    assert planned(known, side=side, passed_price=limit - side.sign).triggered == ()


def test_prices_of_before_the_entry_filled_trigger_nothing() -> None:
    resting = entry(order(stop_price=Decimal(9), limit_price=Decimal(8)), held_since=NOW)
    before, since = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
    late = NOW + timedelta(seconds=9)
    assert planned(resting, passed_price=Decimal(7), kept_since=before, now=late).triggered == ()
    assert len(planned(resting, passed_price=Decimal(7), kept_since=since, now=late).triggered) == 1


def test_a_stop_that_was_triggered_for_an_earlier_holding_closes_nothing_of_a_later_one() -> None:
    passed = order(quantity=4, ending=Ending.PASSED, triggered_at=NOW)
    later = NOW + timedelta(seconds=30)
    anew = planned(entry(passed, filled=6, begins_after=Decimal(4)), now=later)
    assert placed(anew) == [(STOP, 2, 6)]
    again = order(piece=2, quantity=6, ending=Ending.PASSED, begins_after=Decimal(4))
    assert placed(planned(entry(passed, again, filled=6, begins_after=Decimal(4)), now=later)) == [(CLOSE, 3, 6)]
    by_others = planned(entry(passed, filled=6), opened_at=NOW + timedelta(seconds=1), now=later)
    assert placed(by_others) == [(STOP, 2, 6)]  # exits that name no entry have closed what it was triggered for
    assert placed(planned(entry(passed, filled=6), opened_at=NOW - timedelta(seconds=1), now=later)) == [(CLOSE, 2, 6)]


@pytest.mark.parametrize("first", [1, 2])
def test_of_several_stops_one_that_was_triggered_closes_all_whichever_ends_first(first: int) -> None:
    late = NOW + timedelta(seconds=10)
    pieces = {
        1: order(quantity=40, triggered_at=NOW, is_asked_to_end=True),
        2: order(piece=2, quantity=60, is_asked_to_end=True),
    }
    ends = {1: Ending.PASSED, 2: Ending.TAKEN_BACK}
    for number in (first, 3 - first):
        assert placed(planned(entry(*pieces.values()), now=late)) == []
        pieces[number] = replace(pieces[number], stage=Stage.GONE, ending=ends[number], ended_at=late)
    plan = planned(entry(*pieces.values()), now=late)
    assert (placed(plan), state(plan)) == ([(CLOSE, 3, 100)], ProtectionState.CLOSING)
    tried = order(CLOSE, 3, ending=Ending.REFUSED)
    assert placed(planned(entry(*pieces.values(), tried), now=late + timedelta(hours=1))) == [(STOP, 4, 100)]  # once


TEN_PERCENT = {"trail": Trail(percent=Decimal(10)), "average_price": Decimal(10), "stop": None}


def test_a_trailing_stop_begins_behind_what_the_entry_paid_and_needs_no_other() -> None:
    (place,) = planned(entry(**TEN_PERCENT)).place
    assert (place.role, place.stop_price) == (STOP, 9)
    (place,) = planned(entry(**TEN_PERCENT | {"stop": Decimal("9.5")})).place
    assert place.stop_price == Decimal("9.5")  # the entry's own is nearer, until the market has gone far enough
    (place,) = planned(entry(**TEN_PERCENT), side=Side.SELL).place
    assert place.stop_price == 11


def test_whatever_protects_what_filled_after_all_was_closed_says_so() -> None:
    anew = TEN_PERCENT | {"begins_after": Decimal(80), "filled": 20, "target": Decimal(12)}
    (stop,) = planned(entry(**anew), abilities=LINKS).place
    resting = order(quantity=20, stop_price=Decimal(9), is_linked=True, begins_after=Decimal(80))
    (target,) = planned(entry(resting, **anew), abilities=LINKS).place
    (close,) = planned(entry(**anew), abilities=Abilities(rests_stops=False), price=9).place
    assert [each.role for each in (stop, target, close)] == [STOP, TARGET, CLOSE]
    assert {each.begins_after for each in (stop, target, close)} == {80}


def test_a_trailing_stop_follows_by_steps_and_is_never_moved_away_from_the_market() -> None:
    trailing = entry(order(stop_price=Decimal(9)), **TEN_PERCENT)
    assert taken_back(planned(trailing, kept_price=Decimal("10.05"))) == []
    assert taken_back(planned(trailing, kept_price=Decimal("9.2"))) == []
    moved = planned(trailing, kept_price=Decimal(11))
    assert (taken_back(moved), moved.standing["ord_e"].trailed_to) == (["stop-1"], Decimal("9.9"))
    going = order(stop_price=Decimal(9), is_asked_to_end=True)
    assert taken_back(planned(entry(going, **TEN_PERCENT), kept_price=Decimal(12))) == []
    gone = order(stop_price=Decimal(9), ending=Ending.TAKEN_BACK)
    for price in ("11", "10.2", "9.5"):  # it has stood at 9.9 by its record, wherever the market is by now
        (place,) = planned(entry(gone, trailed_to=Decimal("9.9"), **TEN_PERCENT), kept_price=Decimal(price)).place
        assert (place.piece, place.stop_price) == (2, Decimal("9.9"))


@pytest.mark.parametrize("side", list(Side))
def test_what_fills_later_moves_a_trailing_stop_by_a_step_at_least_or_not_at_all(side: Side) -> None:
    resting = order(stop_price=Decimal(10) - side.sign)
    for better, moves in (("0.09", []), ("0.13", ["stop-1"])):
        average = Decimal(10) + side.sign * Decimal(better)
        paid = {"average_price": average, "stop": None, "trail": Trail(amount=Decimal(1))}
        plan = planned(entry(resting, **paid), side=side)
        assert taken_back(plan) == moves
        assert plan.standing["ord_e"].trailed_to == average - side.sign
    grown = planned(entry(resting, filled=150, **TEN_PERCENT | {"average_price": Decimal("10.05")}))
    assert (placed(grown), grown.take_back) == ([(STOP, 2, 50)], ()) if side is Side.BUY else True


def test_of_several_stops_one_is_moved_after_the_other() -> None:
    pieces = [order(piece=n, quantity=50, stop_price=Decimal(9)) for n in (1, 2)]
    assert taken_back(planned(entry(*pieces, **TEN_PERCENT), kept_price=Decimal(11))) == ["stop-1"]


def test_a_trailing_stop_that_rests_nowhere_is_watched_where_it_stood() -> None:
    watched = entry(**TEN_PERCENT | {"trailed_to": Decimal("9.9")})
    nothing_rests = Abilities(rests_stops=False)
    plan = planned(watched, abilities=nothing_rests, kept_price=Decimal(10), price=10)
    assert (state(plan), plan.standing["ord_e"].trailed_to) == (ProtectionState.WATCHED, Decimal("9.9"))
    assert plan.band is not None
    assert (plan.band.low, plan.band.high) == (Decimal("9.9"), Decimal("11.12359551"))
    assert placed(planned(watched, abilities=nothing_rests, price="9.9")) == [(CLOSE, 1, 100)]


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("trail", [Trail(percent=Decimal("2.5")), Trail(amount=Decimal("0.4"))])
def test_a_stop_is_moved_at_the_price_that_is_said_and_not_before(trail: Trail, side: Side) -> None:
    stop = trail.stop_at(Decimal(20), side)
    moves_at = trail.moves_at(stop, side)
    assert trail.moved(stop, moves_at + side.sign * Decimal("0.0001"), side) != stop
    assert trail.moved(stop, moves_at - side.sign * Decimal("0.0001"), side) == stop


@pytest.mark.parametrize("piece", [1, 2])
def test_only_what_the_broker_has_taken_is_called_protected(piece: int) -> None:
    orders = [order(piece=1, quantity=50), order(piece=2, quantity=50)]
    orders[piece - 1] = replace(orders[piece - 1], stage=Stage.UNSENT)
    plan = planned(entry(*orders))
    assert (plan.standing["ord_e"].protected, state(plan)) == (50, ProtectionState.PLACING)
