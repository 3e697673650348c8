"""Rows of `trades`: one for each execution and each later change of it, and their postings; amounts always add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import AssetClass, ContractTerms, Side
from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.events import CommissionReported, Event, Occasion
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.request import DecisionIds
from execution_service.core.positions.ledger import LedgerEntry, fold, key_of
from execution_service.core.trades.documents import FIRST_COLUMNS, trade_from_document, trade_to_document
from execution_service.core.trades.postings import Balances, Leg, postings_of
from execution_service.core.trades.rows import DECLARED, TradeKind, TradeRow, id_from, rows_of, trade_id_of
from tests.builders import (
    NOW,
    accepted,
    adopted,
    adopted_order,
    adoption_undone,
    at,
    busted,
    commission_reported,
    contract_declared,
    contract_resolved,
    fill,
    filled_by,
    identity,
    instrument,
    order,
    submit_started,
)

PLACE = ("acct-1", "USD")
THOROUGH = settings(max_examples=100, deadline=None)


def working(*events: Event, signal_id: str = "signal-1", **changes: Any) -> Order:
    return order(of=identity(signal_id), events=(submit_started(), accepted(), *events), **changes)


def rows(*orders: Order) -> list[TradeRow]:
    return [row for each in orders for applied in applied_events(each) for row in rows_of(applied, "PRODUCTION")]


def shown(found: Sequence[TradeRow]) -> list[tuple[str, str, Decimal | None]]:
    return [(row.kind.value, f"{row.side} {row.size} at {row.price}", row.commission) for row in found]


# --- rows -----------------------------------------------------------------------------------------------------------


def test_an_execution_is_one_row_with_all_that_says_where_it_comes_from() -> None:
    decision = DecisionIds(decision_id="d-1", profile_version_id="p", regime_id="r", universe_id="u", plan_id="plan_1")
    about = working(filled_by("f1", 40, "10.50", time=at(3), commission=Decimal(1)), decision=decision)
    (row,) = rows(about)
    assert (row.ticker, row.side, row.size, row.price, row.at) == ("AAPL", Side.BUY, 40, Decimal("10.50"), at(3))
    assert (row.order_id, row.broker_order_id, row.fill_id) == (about.order_id, about.broker_order_id, "f1")
    assert (row.strategy_id, row.account_id, row.decision) == ("momentum", "acct-1", decision)
    assert (row.ledger_id, row.currency, row.value) == (key_of(about).ledger_id, "USD", 420)
    assert row.trade_id == row.execution_trade_id == trade_id_of(about.order_id, about.fills[0])


def test_what_is_no_execution_makes_no_row() -> None:
    assert rows(working(busted("f1"), filled_by("f1"))) == [], "it was annulled before it was reported"
    assert len(rows(working(filled_by("f1"), filled_by("f1")))) == 1, "it was reported twice"
    assert rows(working(commission_reported("unheard"))) == []


def test_an_annulled_execution_is_taken_back_with_its_commission_and_its_row_stays() -> None:
    found = rows(working(filled_by("f1", 40, 10), commission_reported("f1", 2), busted("f1")))
    assert shown(found) == [
        ("FILL", "BUY 40 at 10", None),
        ("COMMISSION", "BUY 0 at 10", Decimal(2)),
        ("REVERSAL", "BUY -40 at 10", Decimal(-2)),
    ]
    assert {row.execution_trade_id for row in found} == {found[0].trade_id}
    assert len({row.trade_id for row in found}) == 3


def test_a_corrected_execution_is_a_reversal_and_another_execution() -> None:
    found = rows(working(filled_by("f1", 40, 10), busted("f1"), filled_by("f1.02", 40, "10.01")))
    assert [row.kind for row in found] == [TradeKind.FILL, TradeKind.REVERSAL, TradeKind.FILL]
    assert Balances().add_all(found).of(Leg.CASH) == {PLACE: Decimal("-400.40")}


def test_a_commission_that_changes_is_a_row_of_the_difference() -> None:
    found = rows(working(filled_by("f1"), commission_reported("f1", "1.25"), commission_reported("f1", "1.00")))
    assert [row.commission for row in found] == [None, Decimal("1.25"), Decimal("-0.25")]
    again = rows(working(filled_by("f1"), commission_reported("f1", 1), commission_reported("f1", "1.00")))
    assert [row.commission for row in again] == [None, 1], "the same amount is no change"


def test_a_commission_that_turns_out_to_be_of_nothing_is_said() -> None:
    assert [row.commission for row in rows(working(filled_by("f1"), commission_reported("f1", 0)))] == [None, 0]


def test_a_commission_that_turns_out_to_be_in_another_currency_is_taken_back_and_comes_anew() -> None:
    later = CommissionReported(at=NOW, fill_id="f1", commission=Decimal(90), currency="INR")
    found = rows(working(filled_by("f1", 1, 10, commission=Decimal(1), commission_currency="USD"), later))
    assert [(row.commission, row.commission_currency) for row in found] == [(1, "USD"), (-1, "USD"), (90, "INR")]
    assert Balances().add_all(found).of(Leg.FEES) == {PLACE: 0, ("acct-1", "INR"): 90}


def test_the_ids_of_rows_rise_with_their_time_and_do_not_depend_on_anything_else() -> None:
    about = working(filled_by("f1", 1, time=at(2)), filled_by("f2", 1, time=at(1)))
    first, second = rows(about)
    assert second.trade_id < first.trade_id
    assert id_from(at(1)) < second.trade_id < id_from(at(2)) < first.trade_id < id_from(at(3))
    assert [row.trade_id for row in rows(apply_all(about, (commission_reported("f1"),)))][:2] == [
        first.trade_id,
        second.trade_id,
    ]
    assert trade_id_of("ord_1", fill("ab")) != trade_id_of("ord_1a", fill("b"))


def test_a_row_is_the_same_once_the_record_was_read_again_which_keeps_milliseconds() -> None:
    recorded = replace(filled_by("f1", time=at(0.1239)), at=at(0.2349))
    read = replace(filled_by("f1", time=at(0.123)), at=at(0.234))
    assert rows(working(recorded)) == rows(working(read))


def test_an_execution_is_restated_when_it_becomes_known_what_its_contract_is_worth() -> None:
    future = instrument("ES", asset_class=AssetClass.FUTURE, expiry="202612")
    about = working(filled_by("f1", 2, 5000), contract_declared(50), instrument=future)
    found = rows(about)
    assert [(row.kind, row.size, row.value, row.reason) for row in found] == [
        (TradeKind.FILL, 2, 10_000, None),
        (TradeKind.REVERSAL, -2, -10_000, DECLARED),
        (TradeKind.FILL, 2, 500_000, DECLARED),
    ]
    assert len({row.trade_id for row in found}) == 3
    assert rows(apply_all(about, (contract_declared(50),))) == found, "it is declared again, and nothing changes"


def test_of_a_row_whose_worth_is_not_known_only_the_commission_is_posted_and_it_is_counted() -> None:
    future = instrument("ES", asset_class=AssetClass.FUTURE, expiry="202612")
    unknown = contract_resolved(multiplier=None, is_size_unknown=True)
    paid = filled_by("f1", 2, 5000, commission=Decimal(3))
    (row,) = rows(order(events=(unknown, submit_started(), accepted(), paid), instrument=future))
    assert (row.money_per_point, row.value) == (None, None)
    assert {posting.leg for posting in postings_of(row)} == {Leg.FEES, Leg.CASH}
    sums = Balances().add_all([row])
    assert (sums.unknown, sums.of(Leg.CASH)) == (1, {PLACE: -3})


def test_an_amount_that_is_not_known_counts_until_it_is_taken_back() -> None:
    future = instrument("ES", asset_class=AssetClass.FUTURE, expiry="202612")
    unknown = contract_resolved(multiplier=None, is_size_unknown=True)
    begun = (unknown, submit_started(), accepted(), filled_by("f1", 2, 5000))
    annulled = rows(order(events=(*begun, busted("f1")), instrument=future))
    declared = rows(order(events=(*begun, contract_declared(50)), instrument=future))
    assert [row.value for row in declared] == [None, None, 500_000]
    assert [Balances().add_all(found).unknown for found in (annulled, declared, declared[:1])] == [0, 0, 1]


@pytest.mark.parametrize(
    ("changes", "currency"),
    [
        ({}, "USD"),
        ({"instrument": instrument(currency="EUR")}, "EUR"),
        ({"product": "CNC"}, "INR"),
        ({"instrument": instrument("AUDCAD", asset_class=AssetClass.FOREX)}, "CAD"),
    ],
)
def test_the_currency_is_the_contracts_else_what_is_assumed_everywhere(changes: Any, currency: str) -> None:
    assert [row.currency for row in rows(working(filled_by("f1"), **changes))] == [currency]


def test_what_a_person_told_of_is_a_row_that_says_why() -> None:
    (row,) = rows(adopted_order(100, 10))
    assert (row.kind, row.reason, row.moves_cash) == (TradeKind.FILL, "square-off", True)
    taken_back = apply_all(adopted_order(100, 10), (adoption_undone(), busted("adopt-1-0-1")))
    assert Balances().add_all(rows(taken_back)).of(Leg.CASH) == {PLACE: 0}


def test_a_transfer_moves_no_cash() -> None:
    sums = Balances().add_all(rows(adopted_order(100, 10, told=adopted(Occasion.TRANSFER_OUT))))
    assert (sums.of(Leg.CASH), sums.of(Leg.TRANSFERS)) == ({}, {PLACE: 1000})
    assert sums.imbalance == {PLACE: 0}


# --- documents ------------------------------------------------------------------------------------------------------


def test_the_columns_of_the_specification_come_first_and_in_their_order() -> None:
    (row,) = rows(working(filled_by("f1", 40, "10.50")))
    document = trade_to_document(row)
    assert tuple(document)[:12] == FIRST_COLUMNS
    assert [document[name] for name in FIRST_COLUMNS[2:6]] == ["AAPL", "BUY", 40.0, 10.5]
    assert [document[name] for name in FIRST_COLUMNS[8:]] == [None] * 4
    assert document["exact"] == {"size": "40", "price": "10.50", "money_per_point": "1", "cash": "-420.00"}


@pytest.mark.parametrize(
    "about",
    [
        working(filled_by("f1", "0.1", "10.01"), commission_reported("f1"), decision=DecisionIds(decision_id="d")),
        working(filled_by("f1"), busted("f1"), instrument=instrument(currency="EUR", exchange="IBIS")),
        adopted_order(100, 10, told=adopted(Occasion.TRANSFER_IN)),
    ],
)
def test_a_row_is_read_as_it_was_written(about: Order) -> None:
    for row in rows(about):
        assert trade_from_document(trade_to_document(row)) == row


@pytest.mark.parametrize("change", [{"exact": {}}, {"exact": None}, {"size": 1, "exact": {"size": 1, "price": "1"}}])
def test_a_row_that_was_not_written_by_us_is_unreadable(change: dict[str, Any]) -> None:
    (row,) = rows(working(filled_by("f1")))
    with pytest.raises(UnreadableRecord):
        trade_from_document(trade_to_document(row) | change)


# --- double entry ---------------------------------------------------------------------------------------------------


@st.composite
def lives(draw: st.DrawFn) -> list[Order]:
    """Some orders of two strategies in two instruments, with executions, corrections and commissions in any sequence."""
    orders = []
    for number in range(draw(st.integers(1, 4))):
        events: list[Event] = []
        for n in range(draw(st.integers(1, 4))):
            price = Decimal(draw(st.integers(9000, 11_000))).scaleb(-2)
            paid = draw(st.none() | st.integers(-50, 300))
            events.append(
                filled_by(
                    f"f{n}",
                    draw(st.integers(1, 60)),
                    price,
                    time=at(draw(st.integers(0, 30))),
                    commission=None if paid is None else Decimal(paid).scaleb(-2),
                    commission_currency=None if paid is None else "USD",
                )
            )
            if draw(st.integers(0, 3)) == 0:
                events.append(commission_reported(f"f{draw(st.integers(0, n))}", draw(st.integers(-1, 3))))
            if draw(st.integers(0, 4)) == 0:
                events.append(busted(f"f{draw(st.integers(0, n))}"))
        size = draw(st.sampled_from([None, Decimal(50)]))
        traded = instrument("ES" if size else "AAPL", multiplier=size)
        changes = {"strategy": draw(st.sampled_from(["momentum", "value"])), "instrument": traded}
        orders.append(working(*events, signal_id=f"s{number}", side=draw(st.sampled_from(Side)), **changes))
    return orders


@THOROUGH
@given(lives(), st.randoms(use_true_random=False), st.integers(1, 20_000))
def test_every_posting_adds_up_and_equity_from_trades_alone_is_that_of_the_ledger(
    orders: list[Order], chance: Any, cents: int
) -> None:
    found = rows(*orders)
    arrived = list(found)
    chance.shuffle(arrived)
    sums = Balances()
    for row in arrived:
        sums.add(trade_from_document(trade_to_document(row)))
        assert not any(sums.imbalance.values()), "of each account and currency, after each row"
    entries: dict[str, LedgerEntry] = {}
    for about in orders:
        key = key_of(about)
        entry = entries.get(key.ledger_id) or LedgerEntry(key=key, instrument=about.accepted_request.instrument)
        entries[key.ledger_id], _ = fold(entry, about, applied_events(about), {})
    mark = Decimal(cents).scaleb(-2)
    expected = -sum((about.commission for about in orders), Decimal(0))
    for ledger_id, entry in entries.items():
        worth, position = entry.money_per_point or Decimal(1), entry.position
        expected += entry.realized + (mark * position.quantity - position.cost) * worth
        assert sums.holdings[PLACE, ledger_id].units == position.quantity
    assert sums.equity(dict.fromkeys(entries, mark)) == {PLACE: expected}
    fees = sums.of(Leg.FEES).get(PLACE, Decimal(0))
    assert fees == sum((about.commission for about in orders), Decimal(0))


@THOROUGH
@given(lives(), st.integers(0, 40))
def test_rows_are_the_same_whenever_they_are_worked_out(orders: list[Order], cut: int) -> None:
    for about in orders:
        before = replace(order(of=about.identity), request=about.request)
        early = apply_all(before, about.events[: min(cut, about.version)])
        later = [row for applied in applied_events(about, early.version) for row in rows_of(applied, "PRODUCTION")]
        assert [*rows(early), *later] == rows(about)
        assert len({row.trade_id for row in rows(about)}) == len(rows(about))


def test_terms_of_the_broker_name_the_currency() -> None:
    terms = ContractTerms(multiplier=Decimal(50), currency="EUR")
    about = order(events=(contract_resolved(currency="EUR"), submit_started(), accepted(), filled_by("f1", 1, 10)))
    assert about.terms is not None
    assert [(row.currency, row.value) for row in rows(about)] == [(terms.currency, 500)]
