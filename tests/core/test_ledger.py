"""The ledger's entry: every fill is booked exactly once, however it is delivered, and every line is found where it was left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import Side
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.events import Event
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.positions.ledger import Held, LedgerEntry, LedgerKey, Line, fold, key_of, settled
from execution_service.core.reconcile.positions import Holding, by_product
from execution_service.core.views.record import ledger_from_document, ledger_to_document
from tests.builders import (
    accepted,
    at,
    busted,
    cancelled,
    commission_reported,
    filled_by,
    identity,
    instrument,
    noted,
    order,
    refused_request,
    submit_started,
)

THOROUGH = settings(max_examples=200, deadline=None)
NO_LINES: Mapping[int, Line] = {}


def working(signal_id: str = "signal-1", side: Side = Side.BUY, *events: Event, **changes: Any) -> Order:
    about = order(of=identity(signal_id), side=side, events=(submit_started(), accepted(f"B-{signal_id}")), **changes)
    return apply_all(about, events)


def empty(about: Order) -> LedgerEntry:
    return LedgerEntry(key=key_of(about), instrument=about.accepted_request.instrument)


def folded(
    entry: LedgerEntry, about: Order, *, after_number: int = 0, known: Mapping[int, Line] = NO_LINES
) -> tuple[LedgerEntry, dict[int, Line]]:
    return fold(entry, about, applied_events(about, after_number), known)


# --- keys -----------------------------------------------------------------------------------------------------------


def test_the_key_is_account_strategy_and_instrument() -> None:
    about = order(account_id="a", strategy="s", instrument=instrument("GC", expiry="202512"))
    assert key_of(about) == LedgerKey("a", "s", "GC|STOCK|expiry=202512")


def test_no_choice_of_names_makes_two_keys_share_an_id() -> None:
    assert LedgerKey("a", "b|1:c", "X").ledger_id != LedgerKey("a|7:b", "c", "X").ledger_id
    assert LedgerKey("ab", "c", "X").ledger_id != LedgerKey("a", "bc", "X").ledger_id


def test_a_refused_order_has_no_key() -> None:
    with pytest.raises(TypeError):
        key_of(order(asked=refused_request()))


# --- folding --------------------------------------------------------------------------------------------------------


def test_a_fill_is_booked_with_its_line() -> None:
    about = working("signal-1", Side.BUY, filled_by("f1", 40, "10.00"))
    entry, lines = folded(empty(about), about)
    assert entry.position.quantity == 40
    assert lines == {3: Line(3, 1, 1, Decimal(0))}
    assert entry.applied == {about.order_id: (lines[3],)}
    assert entry.position.order_ids == ("B-signal-1",)


def test_an_order_without_a_broker_id_is_named_by_our_own() -> None:
    about = order(events=(filled_by("f1", 40),))
    assert folded(empty(about), about)[0].position.order_ids == (about.order_id,)


def test_only_fills_and_their_annulment_get_lines() -> None:
    about = working(
        "signal-1",
        Side.BUY,
        filled_by("f1", 40),
        commission_reported("f1"),
        noted(),
        filled_by("f1", 40),
        busted("f9"),
        cancelled(40),
    )
    assert set(folded(empty(about), about)[1]) == {3}


def test_a_repeated_delivery_changes_nothing() -> None:
    about = working("signal-1", Side.BUY, filled_by("f1", 40), filled_by("f2", 60))
    once, lines = folded(empty(about), about)
    twice, again = folded(once, about)
    assert twice is once
    assert again == lines


def test_a_delivery_in_parts_is_a_delivery_at_once() -> None:
    first = working("signal-1", Side.BUY, filled_by("f1", 40))
    whole = apply_all(first, [filled_by("f2", 60, "11")])
    part, lines = folded(empty(first), first)
    split = folded(part, whole, after_number=first.version, known=lines)
    assert split == folded(empty(whole), whole)


def test_a_delivery_after_the_lines_were_pruned_from_the_entry_changes_nothing() -> None:
    about = working("signal-1", Side.BUY, filled_by("f1", 40), filled_by("f2", 60))
    entry, lines = folded(empty(about), about)
    pruned = settled(entry, {about.order_id: about.version}, ended_are_shown=True)
    assert pruned.applied == {}
    assert folded(pruned, about, known=lines) == (pruned, lines)


def test_the_line_of_an_exit_tells_its_profit() -> None:
    entry_order = working("in", Side.BUY, filled_by("f1", 100, "10"))
    exit_order = working("out", Side.SELL, filled_by("x1", 40, "12"), filled_by("x2", 60, "9"))
    entry, _ = folded(empty(entry_order), entry_order)
    entry, lines = folded(entry, exit_order)
    assert [line.realized for line in lines.values()] == [80, -60]
    assert [line.closed for line in lines.values()] == [40, 60]
    assert [p.episode for p in entry.ended] == [1]


def test_each_line_keeps_the_position_as_it_was_after_it() -> None:
    entry_order = working("in", Side.BUY, filled_by("f1", 40, "10.00"), filled_by("f2", 60, "11.00"))
    entry, lines = folded(empty(entry_order), entry_order)
    assert [lines[n].held for n in (3, 4)] == [
        Held(Decimal(40), Decimal(400), Decimal(0)),
        Held(Decimal(100), Decimal(1060), Decimal(0)),
    ]
    turn = working("turn", Side.SELL, filled_by("f3", 130, "12.00"))
    _, lines = folded(entry, turn)
    assert lines[3].held == Held(Decimal(-30), Decimal(-360), Decimal(140)), (
        "the profit is that of the trade that ended"
    )


def test_the_instruments_multiplier_counts() -> None:
    gold = instrument("GC", multiplier=Decimal(100))
    entry_order = working("in", Side.SELL, filled_by("f1", 1, "1950"), instrument=gold, quantity=1)
    exit_order = working("out", Side.BUY, filled_by("x1", 1, "1952"), instrument=gold, quantity=1)
    entry, _ = folded(empty(entry_order), entry_order)
    assert folded(entry, exit_order)[1][3].realized == -200


def test_the_annulment_of_a_fill_whose_line_is_only_in_the_orders_record_takes_its_profit_back() -> None:
    entry_order = working("in", Side.BUY, filled_by("f1", 100, "10"))
    exit_order = working("out", Side.SELL, filled_by("x1", 100, "12"))
    entry, _ = folded(empty(entry_order), entry_order)
    entry, lines = folded(entry, exit_order)
    pruned = settled(entry, everything(entry_order, exit_order), ended_are_shown=True)
    annulled = apply_all(exit_order, [busted("x1")])
    after, all_lines = folded(pruned, annulled, after_number=exit_order.version, known=lines)
    assert all_lines[4] == Line(4, 3, 1, Decimal(-200))
    assert (after.position.quantity, after.position.average_price) == (Decimal(100), Decimal(10))
    assert after.position.realized_pnl == 0
    assert after.applied == {annulled.order_id: (all_lines[4],)}


def test_a_fill_and_its_annulment_in_one_delivery_leave_nothing() -> None:
    about = working("signal-1", Side.BUY, filled_by("f1", 40), busted("f1"))
    entry, lines = folded(empty(about), about)
    assert entry.position.quantity == 0
    assert sorted(lines) == [3, 4]


def test_the_annulment_of_an_exit_that_ended_an_episode_shows_that_episode_open_again() -> None:
    entry_order = working("in", Side.BUY, filled_by("f1", 100, "10"))
    exit_order = working("out", Side.SELL, filled_by("x1", 100, "10"), busted("x1"))
    entry, _ = folded(empty(entry_order), entry_order)
    entry, _ = folded(entry, exit_order)
    assert entry.position.episode == 1
    assert entry.position.quantity == 100
    assert entry.position.closed_at is None


# --- settling -------------------------------------------------------------------------------------------------------


def everything(*orders: Order) -> dict[str, int]:
    return {o.order_id: o.version for o in orders}


def test_lines_that_an_order_does_not_have_of_its_own_yet_stay() -> None:
    one, other = working("one", Side.BUY, filled_by("f1", 1)), working("other", Side.BUY, filled_by("f1", 1))
    entry, _ = folded(empty(one), one)
    entry, _ = folded(entry, other)
    assert set(settled(entry, everything(other), ended_are_shown=False).applied) == {one.order_id}


def test_a_line_that_came_after_what_an_order_has_of_its_own_stays() -> None:
    about = working("one", Side.BUY, filled_by("f1", 1), filled_by("f2", 1))
    entry, _ = folded(empty(about), about)
    assert settled(entry, {about.order_id: about.version - 1}, ended_are_shown=True).applied == entry.applied


def test_ended_episodes_stay_until_they_are_shown() -> None:
    in_, out = working("in", Side.BUY, filled_by("f1", 1)), working("out", Side.SELL, filled_by("f1", 1))
    entry, _ = folded(empty(in_), in_)
    entry, _ = folded(entry, out)
    assert settled(entry, {}, ended_are_shown=False) is entry
    assert settled(entry, {}, ended_are_shown=True).ended == ()


# --- any interleaving -----------------------------------------------------------------------------------------------


@dataclass
class Delivery:
    """Several orders that the delivery brings in any rhythm: late, twice, with forgotten results, with pruned entries."""

    entry: LedgerEntry
    orders: Sequence[Order]
    seen: dict[str, int] = field(default_factory=dict)
    """How far an order has come; it goes on only."""
    struck: dict[str, int] = field(default_factory=dict)
    recorded: dict[str, dict[int, Line]] = field(default_factory=dict)
    journal: dict[tuple[str, int], Line] = field(default_factory=dict)

    def deliver(self, which: int, more: int, is_struck: bool) -> None:
        whole = self.orders[which % len(self.orders)]
        name = whole.order_id
        version = self.seen[name] = min(whole.version, self.seen.get(name, 0) + more)
        about = apply_all(replace(order(of=whole.identity), request=whole.request), whole.events[:version])
        struck = self.struck.get(name, 0)
        self.entry, lines = fold(self.entry, about, applied_events(about, struck), self.recorded.get(name, {}))
        for number, line in lines.items():
            assert self.journal.setdefault((name, number), line) == line, "a line never changes"
        if is_struck:
            self.struck[name], self.recorded[name] = version, lines

    def prune(self) -> None:
        self.entry = settled(self.entry, self.struck, ended_are_shown=True)

    def deliver_all(self) -> None:
        for number, whole in enumerate(self.orders):
            self.deliver(number, whole.version, is_struck=True)


@st.composite
def lives(draw: st.DrawFn) -> list[Order]:
    orders = []
    for number in range(draw(st.integers(1, 3))):
        events: list[Event] = []
        fills = draw(st.lists(st.tuples(st.integers(1, 60), st.integers(90, 110)), min_size=1, max_size=4))
        for n, (quantity, price) in enumerate(fills):
            events.append(filled_by(f"f{n}", quantity, price, time=at(n)))
            if draw(st.integers(0, 4)) == 0:
                events.append(busted(f"f{draw(st.integers(0, n))}"))
        orders.append(working(f"s{number}", draw(st.sampled_from(Side)), *events))
    return orders


STEPS = st.lists(
    st.one_of(st.tuples(st.integers(0, 2), st.integers(0, 3), st.booleans()), st.none()),
    max_size=25,
)


@THOROUGH
@given(lives(), STEPS)
def test_any_interleaving_books_each_fill_once(orders: list[Order], steps: list[tuple[int, int, bool] | None]) -> None:
    delivery = Delivery(empty(orders[0]), orders)
    for step in steps:
        if step is None:
            delivery.prune()
        else:
            delivery.deliver(*step)
    delivery.deliver_all()
    moving = {(o.order_id, h.number) for o in orders for h in applied_events(o) if h.moves_position}
    assert set(delivery.journal) == moving
    assert sorted(line.sequence for line in delivery.journal.values()) == list(range(1, len(moving) + 1))
    assert delivery.entry.sequence == len(moving)
    held = sum(o.filled_quantity * o.accepted_request.side.sign for o in orders)
    assert delivery.entry.position.quantity == held
    paid = sum(f.quantity * f.price * o.accepted_request.side.sign for o in orders for f in o.fills)
    realized = sum(line.realized for line in delivery.journal.values())
    assert delivery.entry.position.cost - realized == paid
    assert delivery.entry.realized == realized, "the profit of all that was ever booked, once"


@THOROUGH
@given(lives(), STEPS)
def test_lines_are_in_the_orders_record_or_in_the_entry(
    orders: list[Order], steps: list[tuple[int, int, bool] | None]
) -> None:
    delivery = Delivery(empty(orders[0]), orders)
    for step in steps:
        if step is None:
            delivery.prune()
        else:
            delivery.deliver(*step)
        for (name, number), line in delivery.journal.items():
            held = {x.event_number: x for x in delivery.entry.applied.get(name, ())} | delivery.recorded.get(name, {})
            assert held[number] == line


# --- products -------------------------------------------------------------------------------------------------------


def bought(
    entry: LedgerEntry, signal_id: str, quantity: int, product: str | None, side: Side = Side.BUY
) -> LedgerEntry:
    done = order(
        of=identity(signal_id),
        quantity=quantity,
        side=side,
        product=product,
        events=(submit_started(), accepted(), filled_by(f"f-{signal_id}", quantity)),
    )
    return fold(entry, done, applied_events(done), {})[0]


def test_products_are_kept_apart_and_add_up_to_the_position() -> None:
    entry = LedgerEntry(key=key_of(order()), instrument=instrument())
    entry = bought(bought(entry, "a", 10, "MIS"), "b", 5, None)
    assert entry.known_products == {"MIS": Decimal(10), "": Decimal(5)}
    entry = bought(entry, "c", 10, "CNC", Side.SELL)
    assert entry.known_products == {"MIS": Decimal(10), "": Decimal(5), "CNC": Decimal(-10)}
    assert by_product(entry, ("CNC", "MIS")) == [
        Holding(instrument=instrument(), strategy="momentum", product="CNC", quantity=Decimal(-5)),
        Holding(instrument=instrument(), strategy="momentum", product="MIS", quantity=Decimal(10)),
    ]
    assert by_product(entry, ()) == [Holding(instrument=instrument(), strategy="momentum", quantity=Decimal(5))]


def test_products_of_a_position_that_was_begun_before_they_were_kept_are_not_known_until_it_is_flat() -> None:
    entry = LedgerEntry(key=key_of(order()), instrument=instrument())
    old = replace(bought(entry, "a", 10, "MIS"), products={}, version=1)
    read = ledger_from_document({k: v for k, v in ledger_to_document(old).items() if k != "products"})
    assert read.known_products is None
    assert [h.product for h in by_product(read, ("CNC", "MIS"))] == [None]
    more = bought(read, "b", 5, "MIS")
    assert more.known_products is None
    flat = bought(more, "c", 15, "MIS", Side.SELL)
    assert flat.known_products == {}
    assert bought(flat, "d", 3, "MIS").known_products == {"MIS": Decimal(3)}


def test_products_of_a_position_that_another_hand_has_closed_begin_anew() -> None:
    entry = bought(LedgerEntry(key=key_of(order()), instrument=instrument()), "a", 10, "MIS")
    closed = replace(entry, position=replace(entry.position, quantity=Decimal(0)))
    assert closed.known_products == {}
    assert bought(closed, "b", 4, "CNC").known_products == {"CNC": Decimal(4)}


def test_products_are_stored_with_the_entry() -> None:
    entry = bought(LedgerEntry(key=key_of(order()), instrument=instrument(), version=1), "a", 10, "MIS")
    assert ledger_from_document(ledger_to_document(entry)).products == {"MIS": Decimal(10)}
