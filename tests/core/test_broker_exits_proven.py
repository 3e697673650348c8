"""Which executions of others prove an exit that the broker made, to the unit, and which leave it to a person."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import Fill, Instrument, Report, ReportStatus, Side
from execution_service.core.adoption.broker_exits import ExitToBook, NotProven, booking_id, exits_to_book
from execution_service.core.adoption.records import AdoptionRequest, read_adoption_request
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey
from execution_service.core.positions.position import Position
from execution_service.core.reconcile.discrepancies import Discrepancy, DiscrepancyKind, Finding, owner_of
from tests.builders import adopted, adopted_order, adoption_undone, busted

NOW = datetime(2026, 1, 5, 15, 0, tzinfo=UTC)
OPENED = NOW - timedelta(hours=2)
INFY = Instrument(symbol="INFY")


def difference(amount: int, product: str = "") -> Discrepancy:
    finding = Finding(
        kind=DiscrepancyKind.POSITION_DIFFERS,
        subject=INFY.key,
        ours="10",
        theirs="?",
        steady=str(amount),
        instruments=(INFY,),
        product=product,
    )
    return Discrepancy(
        account_id="a", finding=finding, opened_at=NOW, updated_at=NOW, owner=owner_of(finding.kind), next_step=""
    )


def held(quantity: int = 10, strategy: str = "s") -> LedgerEntry:
    position = Position(quantity=Decimal(quantity), cost=Decimal(quantity * 100), episode=1, opened_at=OPENED)
    return LedgerEntry(
        key=LedgerKey(account_id="a", strategy=strategy, instrument_key=INFY.key), instrument=INFY, position=position
    )


def fill(quantity: int, number: int = 1, **fields: Any) -> Fill:
    values: dict[str, Any] = {"fill_id": f"f{number}", "price": Decimal(101), "time": NOW - timedelta(hours=1)} | fields
    return Fill(quantity=Decimal(quantity), **values)


def theirs(*fills: Fill, side: Side | None = Side.SELL, **fields: Any) -> Report:
    values: dict[str, Any] = {
        "client_order_id": "",
        "broker_order_id": "b1",
        "status": ReportStatus.FILLED,
        "filled_quantity": sum((each.quantity for each in fills), Decimal(0)),
        "fills": fills,
        "instrument": INFY,
        "side": side,
    }
    return Report(**values | fields)


def found(
    *trades: Report, amount: int = -4, ledgers: tuple[LedgerEntry, ...] = (held(),), **how: Any
) -> tuple[ExitToBook, ...] | NotProven:
    return exits_to_book(
        difference(amount, how.get("product", "")),
        ledgers,
        how.get("unclear", ()),
        trades,
        how.get("booked", ()),
        NOW,
        how.get("adoptions", ()),
    )


def test_each_execution_is_a_request_that_a_person_might_have_made() -> None:
    exits = found(theirs(fill(3, 1), fill(1, 2, price=Decimal("99.5"), time=NOW)))
    assert isinstance(exits, tuple)
    wishes = [read_adoption_request(each.body) for each in exits]
    assert all(isinstance(wish, AdoptionRequest) for wish in wishes)
    told = [(w.quantity, w.price, w.holding, w.strategy) for w in wishes if isinstance(w, AdoptionRequest)]
    assert told == [(3, 101, INFY.key, "s"), (1, Decimal("99.5"), INFY.key, "s")]
    assert len({each.name for each in exits}) == 2


def test_why_the_broker_closed_it_stands_in_the_reason() -> None:
    exits = found(theirs(fill(4), reason="Binance liquidated the position"))
    assert isinstance(exits, tuple)
    assert str(exits[0].body["reason"]).startswith("Binance liquidated the position: the broker shows execution f1")


def test_what_is_held_in_one_product_is_not_closed_by_a_trade_in_another() -> None:
    overnight = replace(held(), products={"CNC": Decimal(10)})
    assert isinstance(found(theirs(fill(4)), ledgers=(overnight,), product="MIS"), NotProven)
    assert isinstance(found(theirs(fill(4)), ledgers=(held(),), product="CNC"), NotProven)
    assert not isinstance(found(theirs(fill(4)), ledgers=(overnight,), product="CNC"), NotProven)


def test_a_short_position_is_closed_by_purchases() -> None:
    exits = found(theirs(fill(4), side=Side.BUY), amount=4, ledgers=(held(-10),))
    assert isinstance(exits, tuple)
    assert len(exits) == 1


def test_what_was_booked_counts_no_more() -> None:
    first, second = theirs(fill(6, 1)), theirs(fill(4, 2), broker_order_id="b2")
    booked = [booking_id("a", first, first.fills[0])]
    exits = found(first, second, booked=booked)
    assert isinstance(exits, tuple)
    assert [each.body["quantity"] for each in exits] == ["4"]


def told(quantity: int, price: int = 101, *, after: timedelta = timedelta(hours=2), **changes: Any) -> Order:
    """What a person said of INFY, so long after the position was opened."""
    about = adopted(at=OPENED + after, **changes.pop("by", {}))
    return adopted_order(quantity, price, told=about, instrument=INFY, **changes)


def test_what_was_before_a_person_spoke_counts_no_more() -> None:
    first, later = theirs(fill(4, 1)), theirs(fill(4, 2, time=NOW), broker_order_id="b2")
    said = told(4, after=timedelta(minutes=90))
    assert isinstance(found(first, adoptions=[said]), NotProven)
    exits = found(first, later, adoptions=[said])
    assert isinstance(exits, tuple)
    assert [each.name for each in exits] == [booking_id("a", later, later.fills[0])]
    bought = theirs(fill(5, 3, time=OPENED), side=Side.BUY, broker_order_id="b3")
    assert isinstance(found(bought, first, later, adoptions=[said]), tuple), (
        "that somebody bought before was known to him"
    )


def test_what_a_person_foretold_counts_no_more() -> None:
    first, second = theirs(fill(4, 1)), theirs(fill(4, 2), broker_order_id="b2")
    parts = [told(number, after=timedelta(0), leg_index=number) for number in (1, 3)]
    assert isinstance(found(first, adoptions=parts), NotProven)
    assert isinstance(found(first, second, adoptions=parts), tuple)
    assert isinstance(found(first, adoptions=[told(4, 100, after=timedelta(0))]), tuple), "it was of another price"


def test_what_the_service_has_booked_or_a_person_has_taken_back_leaves_out_nothing_else() -> None:
    own = told(6, by={"command_id": booking_id("a", theirs(fill(6)), fill(6)) + "-2"})
    undone = apply_all(told(4), (adoption_undone(), busted("adopt-1-0-1")))
    assert isinstance(found(theirs(fill(4)), adoptions=[own, undone]), tuple)


def test_an_execution_of_before_the_position_closed_none_of_it() -> None:
    assert isinstance(found(theirs(fill(4, time=OPENED - timedelta(seconds=1)))), NotProven)


@pytest.mark.parametrize(
    "case",
    [
        {"trades": []},
        {"trades": [theirs(fill(3))]},
        {"trades": [theirs(fill(5))]},
        {"trades": [theirs(fill(4)), theirs(fill(1, 2), side=Side.BUY)]},
        {"trades": [theirs(fill(4), side=None)]},
        {"trades": [theirs(fill(4), is_unclear=True)]},
        {"trades": [replace(theirs(fill(4)), filled_quantity=Decimal(6))]},
        {"trades": [theirs(fill(4), busted_fill_ids=frozenset({"f1"}))]},
        {"trades": [theirs(fill(4), instrument=None)]},
        {"trades": [theirs(fill(4), instrument=Instrument(symbol="TCS"))]},
        {"trades": [theirs(fill(4))], "amount": 4},
        {"trades": [theirs(fill(14))], "amount": -14},
        {"trades": [theirs(fill(4))], "ledgers": ()},
        {"trades": [theirs(fill(4))], "ledgers": (held(6), held(4, "other"))},
        {"trades": [theirs(fill(4))], "unclear": (INFY,)},
    ],
)
def test_anything_that_is_less_than_a_proof_is_left_to_a_person(case: dict[str, Any]) -> None:
    trades = case.pop("trades")
    assert isinstance(found(*trades, **case), NotProven)


def test_an_execution_that_was_booked_before_its_order_was_known_is_not_booked_again() -> None:
    alone = theirs(fill(4), broker_order_id="x1")
    booked = booking_id("a", alone, alone.fills[0])
    named = replace(alone, broker_order_id="b1", earlier_ids={"f1": "x1"})
    assert isinstance(found(named), tuple)
    assert isinstance(found(named, booked=[booked]), NotProven)
