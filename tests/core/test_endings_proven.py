"""Which records of the broker prove how an option position ended, to the contract, and which leave it to a person."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import (
    AssetClass,
    BrokerPosition,
    Delivered,
    EndingKind,
    Fill,
    Instrument,
    OptionRight,
    PositionEnding,
    Report,
    ReportStatus,
    Side,
)
from execution_service.core.adoption.broker_exits import ExitToBook, NotProven, exits_to_book
from execution_service.core.adoption.endings import ending_name, endings_by_executions, endings_to_book
from execution_service.core.adoption.records import AdoptionRequest, read_adoption_request
from execution_service.core.orders.events import Occasion
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey
from execution_service.core.positions.position import Position
from execution_service.core.reconcile.discrepancies import Discrepancy, DiscrepancyKind, Finding, owner_of
from tests.builders import adopted, adopted_order, adoption_undone, busted

NOW = datetime(2026, 1, 20, 12, 0, tzinfo=UTC)
CLOSE = datetime(2026, 1, 16, 21, 0, tzinfo=UTC)
OPENED = datetime(2026, 1, 16, 21, 10, tzinfo=UTC)
"""Some options are traded until a quarter of an hour after the close."""
CALL = Instrument(
    symbol="XYZ",
    asset_class=AssetClass.OPTION,
    expiry="20260116",
    strike=Decimal(50),
    right=OptionRight.CALL,
    multiplier=Decimal(100),
)
SHARES = Instrument(symbol="XYZ")


def held(quantity: int, of: Instrument = CALL, strategy: str = "s", **changes: Any) -> LedgerEntry:
    position = Position(quantity=Decimal(quantity), cost=Decimal(quantity * 3), episode=1, opened_at=OPENED)
    key = LedgerKey(account_id="a", strategy=strategy, instrument_key=of.key)
    return replace(LedgerEntry(key=key, instrument=of, position=position), **changes)


def difference(amount: int, about: Instrument = CALL) -> Discrepancy:
    finding = Finding(
        kind=DiscrepancyKind.POSITION_DIFFERS,
        subject=about.key,
        ours="?",
        theirs="?",
        steady=str(amount),
        instruments=(about,),
    )
    return Discrepancy(
        account_id="a", finding=finding, opened_at=NOW, updated_at=NOW, owner=owner_of(finding.kind), next_step=""
    )


def ending(kind: EndingKind, quantity: int, shares: int = 0, **changes: Any) -> PositionEnding:
    delivered = Delivered(instrument=SHARES, quantity=Decimal(shares), price=Decimal(50)) if shares else None
    usual: dict[str, Any] = {"ending_id": "e1", "instrument": CALL, "at": CLOSE, "delivered": delivered}
    return PositionEnding(kind=kind, quantity=Decimal(quantity), **usual | changes)


def shown(quantity: int) -> list[BrokerPosition]:
    return [BrokerPosition(instrument=SHARES, quantity=Decimal(quantity))]


def found(
    *endings: PositionEnding, amount: int, ledgers: tuple[LedgerEntry, ...], **how: Any
) -> tuple[ExitToBook, ...] | NotProven:
    return endings_to_book(
        difference(amount, how.get("about", CALL)),
        ledgers,
        how.get("unclear", ()),
        endings,
        how.get("booked", ()),
        NOW,
        how.get("adoptions", ()),
        how.get("theirs", ()),
    )


def request(exits: tuple[ExitToBook, ...] | NotProven) -> AdoptionRequest:
    assert isinstance(exits, tuple), exits
    (exit_,) = exits
    wish = read_adoption_request(exit_.body)
    assert isinstance(wish, AdoptionRequest), wish
    return wish


EXPIRY, ASSIGNMENT, EXERCISE = EndingKind.EXPIRY, EndingKind.ASSIGNMENT, EndingKind.EXERCISE


def test_an_expiry_is_a_request_that_a_person_might_have_made() -> None:
    wish = request(found(ending(EXPIRY, -2), amount=-2, ledgers=(held(2),)))
    assert (wish.occasion, wish.quantity, wish.holding, wish.strategy) == (Occasion.EXPIRY, 2, CALL.key, "s")
    assert wish.happened_at == OPENED, "the broker tells the day alone, and nothing was held before"


@pytest.mark.parametrize(
    ("right", "kind", "contracts", "shares", "of_ours"),
    [
        (OptionRight.CALL, EXERCISE, 2, 200, 0),
        (OptionRight.CALL, ASSIGNMENT, -2, -200, 200),
        (OptionRight.PUT, EXERCISE, 2, -200, 200),
        (OptionRight.PUT, ASSIGNMENT, -2, 200, -50),
    ],
)
def test_the_shares_go_the_way_that_the_contract_says_and_the_broker_shows_them(
    right: OptionRight, kind: EndingKind, contracts: int, shares: int, of_ours: int
) -> None:
    option = replace(CALL, right=right)
    ledgers = (held(contracts, option), held(of_ours, SHARES))
    told = ending(kind, -contracts, shares, instrument=option)
    wish = request(found(told, amount=-contracts, ledgers=ledgers, theirs=shown(of_ours + shares), about=option))
    assert (wish.occasion.value, wish.new_quantity, wish.new_price) == (kind.value.lower(), 200, 50)
    assert wish.successor is not None
    assert wish.successor["symbol"] == "XYZ"
    wrong = replace(told, delivered=Delivered(instrument=SHARES, quantity=Decimal(-shares), price=Decimal(50)))
    there = shown(of_ours - shares)
    assert isinstance(found(wrong, amount=-contracts, ledgers=ledgers, theirs=there, about=option), NotProven)


def test_shares_that_the_strategy_holds_under_another_name_are_the_same_holding() -> None:
    fund = replace(SHARES, asset_class=AssetClass.ETF, exchange="ARCA")
    exits = found(ending(EXERCISE, -1, 100), amount=-1, ledgers=(held(1), held(10, fund)), theirs=shown(110))
    successor = request(exits).successor
    assert successor is not None
    assert (successor["instrument_type"], successor["exchange"]) == ("ETF", "ARCA")


def test_an_option_that_an_order_names_by_its_own_symbol_is_known_by_that() -> None:
    by_symbol = Instrument(symbol="XYZ260116C00050000", asset_class=AssetClass.OPTION)
    told = ending(EXPIRY, -1, also_called=frozenset({by_symbol.symbol}))
    assert isinstance(found(told, amount=-1, ledgers=(held(1, by_symbol),), about=by_symbol), tuple)


def test_each_of_several_is_booked_under_a_name_of_its_own_and_once() -> None:
    first, second = ending(ASSIGNMENT, 1, -100), ending(ASSIGNMENT, 2, -200, ending_id="e2")
    exits = found(first, second, amount=3, ledgers=(held(-3),), theirs=shown(-300))
    assert isinstance(exits, tuple)
    assert [each.name for each in exits] == [ending_name("a", first), ending_name("a", second)]
    left = found(first, second, amount=2, ledgers=(held(-2),), theirs=shown(-200), booked=[exits[0].name])
    assert request(left).quantity == 2


def told(quantity: int, at: datetime, **changes: Any) -> Order:
    """What a person said of the call, bought back or sold."""
    return adopted_order(quantity, 0, told=adopted(at=at, **changes.pop("by", {})), instrument=CALL, **changes)


def test_what_a_person_has_told_counts_no_more() -> None:
    first, later = ending(EXPIRY, -1), ending(EXPIRY, -1, ending_id="e2", at=CLOSE + timedelta(days=1))
    after, before = CLOSE + timedelta(hours=1), CLOSE - timedelta(hours=12)
    for at in (after, before):
        assert isinstance(found(first, amount=-1, ledgers=(held(2),), adoptions=[told(1, at)]), NotProven)
        assert isinstance(found(first, later, amount=-1, ledgers=(held(2),), adoptions=[told(1, at)]), tuple)
    bought = told(1, before, side=Side.BUY)
    undone = apply_all(told(1, after), (adoption_undone(), busted("adopt-1-0-1")))
    own = told(1, after, by={"command_id": ending_name("a", later)})
    assert isinstance(found(first, amount=-1, ledgers=(held(2),), adoptions=[bought, undone, own]), tuple)


@pytest.mark.parametrize(
    "case",
    [
        {"endings": []},
        {"endings": [ending(EXPIRY, -1)]},
        {"endings": [ending(EXPIRY, -3)]},
        {"endings": [ending(EXPIRY, -3), ending(EXPIRY, 1, ending_id="e2")]},
        {"endings": [ending(EXPIRY, -2, instrument=replace(CALL, strike=Decimal(55)))]},
        {"endings": [ending(EXPIRY, -2, at=CLOSE - timedelta(days=1))]},
        {"endings": [ending(EXPIRY, -2, 200)], "theirs": shown(200)},
        {"endings": [ending(EXERCISE, -2)]},
        {"endings": [ending(EXERCISE, -2, 100)], "theirs": shown(200)},
        {"endings": [ending(EXERCISE, -2, 200)], "theirs": shown(100)},
        {"endings": [ending(EXERCISE, -2, 200)], "theirs": shown(-200)},
        {"endings": [ending(EXERCISE, -2, 200)], "theirs": None},
        {"endings": [ending(EXERCISE, -2, 200)], "theirs": [replace(shown(200)[0], is_unclear=True)]},
        {
            "endings": [ending(EXERCISE, -2, 200)],
            "theirs": shown(200),
            "ledgers": (held(2), held(200, SHARES, "other")),
        },
        {
            "endings": [ending(EXERCISE, -2, 200)],
            "theirs": shown(225),
            "ledgers": (held(2), held(10, SHARES), held(15, replace(SHARES, exchange="ARCA"))),
        },
        {
            "endings": [ending(EXERCISE, -2, 200)],
            "theirs": shown(200),
            "ledgers": (held(2, replace(CALL, multiplier=None)),),
        },
        {"endings": [ending(ASSIGNMENT, -2, -200)], "theirs": shown(-200)},
        {"endings": [ending(EXPIRY, -2)], "ledgers": (held(1), held(1, CALL, "other"))},
        {"endings": [ending(EXPIRY, -2)], "unclear": (CALL,)},
    ],
    ids=str,
)
def test_anything_that_is_less_than_a_proof_is_left_to_a_person(case: dict[str, Any]) -> None:
    how = {"ledgers": (held(2),), **case}
    endings = how.pop("endings")
    assert isinstance(found(*endings, amount=-2, **how), NotProven)


def test_an_option_does_not_expire_before_its_day() -> None:
    option = replace(CALL, expiry="20260220")
    exits = found(ending(EXPIRY, -2, instrument=option), amount=-2, ledgers=(held(2, option),), about=option)
    assert isinstance(exits, NotProven)
    assert "had not expired" in exits.reason


# --- executions without a price --------------------------------------------------------------------------------------


def executed(instrument: Instrument, quantity: int, price: int, order_id: str, **changes: Any) -> Report:
    """Somebody else's order; a negative quantity sells."""
    at = changes.pop("at", OPENED)
    fill = Fill(fill_id=f"f-{order_id}", quantity=abs(Decimal(quantity)), price=Decimal(price), time=at)
    usual = Report(
        client_order_id="",
        broker_order_id=order_id,
        status=ReportStatus.FILLED,
        filled_quantity=fill.quantity,
        fills=(fill,),
        instrument=instrument,
        side=Side.BUY if quantity > 0 else Side.SELL,
    )
    return replace(usual, **changes)


def by_executions(
    *trades: Report, amount: int, ledgers: tuple[LedgerEntry, ...], **how: Any
) -> tuple[ExitToBook, ...] | NotProven:
    row = difference(amount)
    endings = endings_by_executions(row, ledgers[0], trades)
    theirs = how.get("theirs", ())
    return endings_to_book(row, ledgers, (), endings, (), NOW, (), theirs, are_by_executions=True)


def test_an_execution_at_a_price_of_0_is_no_sale_and_those_beside_it_are() -> None:
    gone, sold = executed(CALL, -2, 0, "b1"), executed(CALL, -2, 3, "b2")
    at_nothing = exits_to_book(difference(-2), (held(2),), (), (gone,), (), NOW)
    assert isinstance(at_nothing, NotProven)
    assert "price of 0" in at_nothing.reason
    assert isinstance(exits_to_book(difference(-2), (held(2),), (), (sold,), (), NOW), tuple)
    booked = told(2, NOW, by={"command_id": ending_name("a", ending(EXPIRY, -2)), "occasion": Occasion.EXPIRY})
    exits = exits_to_book(difference(-2), (held(2),), (), (gone, sold), (), NOW, (booked,))
    assert isinstance(exits, tuple), "what was booked as an ending is left out, and holds up nothing"
    assert len(exits) == 1


def test_contracts_that_went_without_a_price_or_shares_have_expired() -> None:
    wish = request(by_executions(executed(CALL, -2, 0, "b1"), amount=-2, ledgers=(held(2),)))
    assert (wish.occasion, wish.quantity, wish.price) == (Occasion.EXPIRY, 2, None)


@pytest.mark.parametrize(
    ("contracts", "shares", "occasion"), [(2, 200, Occasion.EXERCISE), (-2, -200, Occasion.ASSIGNMENT)]
)
def test_contracts_that_went_with_their_shares_were_exercised_or_assigned(
    contracts: int, shares: int, occasion: Occasion
) -> None:
    option, stock = executed(CALL, -contracts, 0, "b1"), executed(SHARES, shares, 50, "b2")
    wish = request(by_executions(option, stock, amount=-contracts, ledgers=(held(contracts),), theirs=shown(shares)))
    assert (wish.occasion, wish.new_quantity, wish.new_price) == (occasion, 200, 50)
    holding = (held(-shares, SHARES), held(contracts))
    row = replace(difference(shares), finding=replace(difference(shares).finding, instruments=(SHARES,)))
    alone = exits_to_book(row, holding, (), (option, stock), (), NOW)
    assert isinstance(alone, NotProven), "the shares are not booked by themselves"
    assert "an option on it" in alone.reason


@pytest.mark.parametrize(
    "case",
    [
        {"trades": [executed(CALL, -2, 0, "b1")], "theirs": shown(200)},
        {"trades": [executed(CALL, -2, 0, "b1")], "theirs": None},
        {"trades": [executed(CALL, -2, 0, "b1", side=None)]},
        {"trades": [executed(CALL, -2, 0, "b1", is_unclear=True)]},
        {"trades": [executed(CALL, -1, 0, "b1")]},
        {"trades": [executed(CALL, -2, 0, "b1"), executed(SHARES, 200, 49, "b2")], "theirs": shown(200)},
        {"trades": [executed(CALL, -2, 0, "b1"), executed(SHARES, 100, 50, "b2")], "theirs": shown(100)},
        {"trades": [executed(CALL, -2, 0, "b1"), executed(SHARES, -200, 50, "b2")], "theirs": shown(-200)},
        {"trades": [executed(CALL, -2, 0, "b1"), executed(SHARES, 200, 50, "b2")], "theirs": shown(0)},
        {"trades": [executed(CALL, -2, 0, "b1", at=OPENED - timedelta(minutes=1))]},
    ],
    ids=str,
)
def test_how_an_option_ended_is_left_to_a_person_where_executions_leave_it_open(case: dict[str, Any]) -> None:
    trades = case.pop("trades")
    assert isinstance(by_executions(*trades, amount=-2, ledgers=(held(2),), **case), NotProven)
