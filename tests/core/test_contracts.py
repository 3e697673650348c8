"""What tells two contracts apart, and which holding an order belongs to: also beside books that an earlier version kept."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import AssetClass, ContractTerms, Instrument, Side
from execution_service.core.orders.contracts import Contract, may_be_of_one_contract
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.events import ContractResolved
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import LedgerEntry, fold, holding_for, key_of
from execution_service.core.views.record import ledger_from_document, ledger_to_document, order_from_document
from tests.builders import NOW, accepted, filled_by, identity, order, submit_started

SILVER = Instrument(symbol="SI", asset_class=AssetClass.FUTURE, expiry="202612")
CORN = Instrument(symbol="ZC", asset_class=AssetClass.FUTURE, expiry="202612")
LARGE = ContractTerms(multiplier=Decimal(5000), trading_class="SI", con_id=1, currency="USD")
SMALL = ContractTerms(multiplier=Decimal(1000), trading_class="SIL", con_id=2, currency="USD")
CENTS = ContractTerms(
    multiplier=Decimal(5000), price_magnifier=Decimal(100), trading_class="ZC", con_id=3, currency="USD"
)


def sized(instrument: Instrument, multiplier: int | None) -> Instrument:
    return replace(instrument, multiplier=None if multiplier is None else Decimal(multiplier))


def about(instrument: Instrument, terms: ContractTerms | None = None, signal_id: str = "s", **changes: Any) -> Order:
    told = () if terms is None else (ContractResolved(at=NOW, terms=terms),)
    return order(of=identity(signal_id), instrument=instrument, events=told, **changes)


@pytest.mark.parametrize(
    ("said", "terms", "is_meant"),
    [
        (5000, CENTS, True),
        (50, CENTS, True),
        (500, CENTS, False),
        (100, ContractTerms(), False),
        (1, ContractTerms(), True),
        (75, ContractTerms(multiplier=Decimal(1), lot_size=Decimal(75)), True),
    ],
)
def test_a_multiplier_means_the_contract_by_its_size_its_points_or_its_lot(
    said: int, terms: ContractTerms, is_meant: bool
) -> None:
    assert terms.means(Decimal(said)) is is_meant


def test_a_point_of_a_price_in_cents_is_worth_a_hundredth_of_the_multiplier() -> None:
    assert CENTS.money_per_point == 50
    assert ContractTerms().money_per_point == 1
    assert ContractTerms(is_size_unknown=True).money_per_point is None


@pytest.mark.parametrize("said", [None, 50, 5000])
def test_entry_and_exit_are_of_one_contract_whichever_of_its_multipliers_either_says(said: int | None) -> None:
    entry = about(sized(CORN, 5000), CENTS)
    assert may_be_of_one_contract(about(sized(CORN, said)), entry)
    assert not may_be_of_one_contract(about(sized(CORN, 500)), entry)
    assert not may_be_of_one_contract(about(replace(CORN, trading_class="XC")), entry)
    assert may_be_of_one_contract(about(replace(CORN, trading_class="ZC")), entry)


def test_two_sizes_of_one_future_are_two_holdings_and_one_size_is_one_however_it_is_named() -> None:
    names = {holding_for(about(sized(SILVER, said)), terms, {}) for said, terms in ((1000, SMALL), (None, SMALL))}
    (small,) = names
    assert small != holding_for(about(sized(SILVER, 5000)), LARGE, {})
    assert small == holding_for(about(replace(SILVER, trading_class="SIL")), SMALL, {})


def test_a_trading_class_is_the_same_in_whatever_capitals_the_venue_writes_it() -> None:
    mixed = replace(SMALL, trading_class="siL")
    assert may_be_of_one_contract(about(replace(SILVER, trading_class="SIL")), about(SILVER, mixed))
    assert holding_for(about(SILVER), mixed, {}) == holding_for(about(SILVER), SMALL, {})


def test_a_holding_named_by_the_contracts_number_or_its_exchange_is_the_same_one() -> None:
    held = {"SI|FUTURE|con_id=2": Contract(Instrument(symbol="SI", asset_class=AssetClass.FUTURE, con_id=2), SMALL)}
    assert holding_for(about(replace(SILVER, exchange="COMEX")), SMALL, held) == "SI|FUTURE|con_id=2"
    assert holding_for(about(SILVER), LARGE, held) != "SI|FUTURE|con_id=2"


def test_where_no_broker_tells_the_order_that_leaves_the_size_open_means_the_only_holding_there_is() -> None:
    small, large = (holding_for(about(sized(SILVER, size)), None, {}) for size in (1000, 5000))
    assert small != large
    held = {small: Contract(sized(SILVER, 1000))}
    assert holding_for(about(SILVER), None, held) == small
    assert holding_for(about(sized(SILVER, 5000)), None, held) == large


@pytest.mark.parametrize("said", [None, "NMS"])
def test_a_share_has_one_holding_with_its_trading_class_or_without(said: str | None) -> None:
    share, terms = Instrument(symbol="AAPL"), ContractTerms(con_id=7, trading_class="NMS", currency="USD")
    named = about(replace(share, trading_class=said))
    assert holding_for(named, terms, {"AAPL|STOCK": Contract(share, terms)}) == "AAPL|STOCK"


def test_where_the_symbol_stands_for_one_size_the_holding_goes_by_the_symbol_alone() -> None:
    gold = Instrument(symbol="GOLDM26DECFUT", asset_class=AssetClass.FUTURE, exchange="MCX")
    unknown = ContractTerms(is_one_size=True, is_size_unknown=True)
    known = ContractTerms(is_one_size=True, multiplier=Decimal(10))
    assert holding_for(about(gold), unknown, {}) == holding_for(about(gold), known, {}) == gold.key
    assert may_be_of_one_contract(about(gold, known), about(gold, unknown))


# --- books of an earlier version --------------------------------------------------------------------------------------

OLD_ORDER = {
    "_id": "ord_0",
    "format": 1,
    "signal_id": "old",
    "leg_index": 0,
    "purpose": "ENTRY",
    "account_id": "acct-1",
    "request": {
        "account_id": "acct-1",
        "strategy": "momentum",
        "instrument": {"symbol": "SI", "asset_class": "FUTURE", "expiry": "202612", "multiplier": "1000"},
        "side": "BUY",
        "quantity": "2",
        "order_type": "MARKET",
        "entry_refs": [],
        "total_legs": 1,
    },
    "received_at": NOW,
    "published_at": NOW,
    "message_id": "m",
    "raw": "{}",
    "events": [
        {"type": "SubmitStarted", "at": NOW, "nonce": "n", "reserved_order_id": "1:1"},
        {"type": "Accepted", "at": NOW, "broker_order_id": "1:1"},
        {"type": "Filled", "at": NOW, "fill": {"fill_id": "f", "quantity": "2", "price": "30", "time": NOW}},
    ],
}
OLD_LEDGER = {
    "_id": "led_54d9bd84d962d532073f3b53",
    "format": 1,
    "account_id": "acct-1",
    "strategy": "momentum",
    "instrument_key": "SI|FUTURE|expiry=202612",
    "instrument": {"symbol": "SI", "asset_class": "FUTURE", "expiry": "202612", "multiplier": "1000"},
    "version": 1,
    "sequence": 1,
    "is_open": True,
    "position": {
        "quantity": "2",
        "cost": "60",
        "realized_pnl": "0",
        "episode": 1,
        "opened_at": NOW,
        "updated_at": NOW,
        "is_long": True,
        "order_ids": ["1:1"],
        "order_count": 1,
    },
    "ended": [],
    "applied": [],
}


@pytest.mark.parametrize("said", [None, 1000])
def test_a_sale_after_the_upgrade_closes_the_holding_of_before(said: int | None) -> None:
    entry, bought = ledger_from_document(OLD_LEDGER), order_from_document(OLD_ORDER)
    assert (key_of(bought), entry.key.ledger_id) == (entry.key, OLD_LEDGER["_id"])
    asked = about(sized(SILVER, said), signal_id="new", side=Side.SELL, quantity=2)
    name = holding_for(asked, SMALL, {entry.key.instrument_key: entry.contract})
    assert name == entry.key.instrument_key
    told = ContractResolved(at=NOW, terms=SMALL, booked_as=name)
    sold = order(
        of=identity("new"),
        asked=asked.request,
        events=(told, submit_started(), accepted(), filled_by("g", 2, 31)),
    )
    assert key_of(sold) == entry.key
    closed, lines = fold(entry, sold, applied_events(sold), {})
    assert (closed.position.quantity, closed.position.realized_pnl) == (0, 2000)
    assert [line.realized for line in lines.values()] == [2000]
    assert ledger_from_document(ledger_to_document(closed)) == closed


def test_the_other_size_is_not_booked_to_the_holding_of_before() -> None:
    entry = ledger_from_document(OLD_LEDGER)
    held = {entry.key.instrument_key: entry.contract}
    assert (
        holding_for(about(sized(SILVER, 5000)), LARGE, held)
        == "SI|FUTURE|expiry=202612|trading_class=SI|multiplier=5000"
    )


def test_an_order_of_before_keeps_its_content_and_its_holding() -> None:
    bought = order_from_document(OLD_ORDER)
    assert bought.terms is None
    assert bought.value == 60_000
    assert isinstance(LedgerEntry(key=key_of(bought), instrument=SILVER).contract, Contract)
