"""What strategies and symbols have made, by the ledger and present prices; and what is not known."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from brokers.base import ContractTerms
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey
from execution_service.core.positions.position import Position
from execution_service.core.risk.limits import OFF, Scope
from execution_service.core.risk.results import Profit, profit_of, result_of
from execution_service.core.views.record import ledger_from_document, ledger_to_document
from tests.builders import instrument
from tests.core.risk_cases import ACCOUNT, STRATEGY, SYMBOL, tables

ONE = Decimal(1)
WHERE = Scope(account_id=ACCOUNT, strategy=STRATEGY, symbol=SYMBOL)


def entry(quantity: int = 0, cost: int = 0, realized: int = 0, **changes: object) -> LedgerEntry:
    usual = LedgerEntry(
        key=LedgerKey(ACCOUNT, STRATEGY, instrument().key),
        instrument=instrument(),
        version=1,
        position=Position(quantity=Decimal(quantity), cost=Decimal(cost)),
        realized=Decimal(realized),
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("quantity", "cost", "realized", "price", "amount"),
    [
        (0, 0, 0, None, 0),
        (0, 0, -70, None, -70),
        (100, 1000, 0, 12, 200),
        (100, 1000, -300, 12, -100),
        (-100, -1000, 0, 12, -200),
        (-100, -1000, 50, 9, 150),
        (100, 1000, 5, None, None),
    ],
)
def test_realised_and_open_profit_are_added_up(
    quantity: int, cost: int, realized: int, price: int | None, amount: int | None
) -> None:
    found = profit_of(entry(quantity, cost, realized), None if price is None else Decimal(price), ONE)
    assert found == Profit(scope=WHERE, amount=None if amount is None else Decimal(amount))


def test_a_contract_counts_with_its_size_and_another_currency_by_its_rate() -> None:
    gold = entry(2, 3900, 1000, instrument=instrument(multiplier=Decimal(100)))
    assert profit_of(gold, Decimal(1960), Decimal("0.5")).amount == (1000 + (2 * 1960 - 3900) * 100) / 2
    assert profit_of(gold, Decimal(1960), None).amount is None


def test_without_anything_made_no_rate_is_needed() -> None:
    assert profit_of(entry(), None, None).amount == 0


def test_of_a_contract_whose_size_is_not_known_nothing_is_known() -> None:
    unknown = ContractTerms(is_size_unknown=True)
    assert profit_of(entry(realized=10, terms=unknown), None, ONE).amount is None
    assert profit_of(entry(1, 10, terms=unknown), Decimal(12), ONE).amount is None


def of(strategy: str, symbol: str, amount: int | None) -> Profit:
    where = Scope(account_id=ACCOUNT, strategy=strategy, symbol=symbol)
    return Profit(scope=where, amount=None if amount is None else Decimal(amount))


def test_a_scope_has_the_profits_that_it_covers_and_an_unknown_one_makes_it_unknown() -> None:
    profits = [of("one", "A", 5), of("one", "B", -7), of("other", "A", 100), of("third", "C", None)]
    assert result_of(Scope(account_id=ACCOUNT, strategy="one"), profits) == -2
    assert result_of(Scope(account_id=ACCOUNT, symbol="A"), profits) == 105
    assert result_of(Scope(account_id=ACCOUNT, strategy="one", symbol="B"), profits) == -7
    assert result_of(Scope(account_id=ACCOUNT, strategy="third"), profits) is None
    assert result_of(Scope(account_id=ACCOUNT, strategy="new"), profits) == 0
    assert result_of(Scope(account_id=ACCOUNT), profits) is None


def test_results_are_wanted_of_strategies_and_symbols_whose_loss_somebody_limits() -> None:
    limits = tables(
        (Scope(), {"max_daily_loss": 10}),
        (Scope(account_id="other", symbol="X"), {"max_daily_loss": 10}),
        (Scope(account_id=ACCOUNT, symbol="X"), {"max_drawdown": 10}),
        (Scope(strategy="s"), {"max_daily_loss": 10}),
        (Scope(strategy="t"), {"max_gross_exposure": 10}),
        (Scope(strategy="u"), {"max_daily_loss": OFF}),
    )
    assert set(limits.results_wanted(ACCOUNT)) == {
        Scope(account_id=ACCOUNT, symbol="X"),
        Scope(account_id=ACCOUNT, strategy="s"),
    }


def test_what_was_made_is_stored_and_an_entry_of_an_earlier_version_begins_with_nothing() -> None:
    document = ledger_to_document(entry(realized=-70))
    assert ledger_from_document(document).realized == -70
    del document["realized"]
    assert ledger_from_document(document).realized == 0
