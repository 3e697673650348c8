"""What strategies and symbols have made, by the ledger and present prices, in the account's currency; nothing is kept or compared here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from execution_service.core.exact import EXACT, ZERO
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.risk.limits import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Profit:
    """Of one strategy in one instrument, since its ledger is kept, realised and not, before commissions."""

    scope: Scope
    """Account, strategy and symbol."""
    amount: Decimal | None
    """In the account's currency. None: it is not known."""


def profit_of(entry: LedgerEntry, price: Decimal | None, rate: Decimal | None) -> Profit:
    """`price`: of the instrument now, as it is quoted; `rate`: what one unit of the instrument's currency is worth in the account's. None: not known.
    Neither is needed where nothing is held and nothing was made."""
    key, position, point = entry.key, entry.position, entry.money_per_point
    made: Decimal | None = entry.realized
    if position.quantity:
        worth = None if price is None else EXACT.subtract(EXACT.multiply(position.quantity, price), position.cost)
        made = None if worth is None or point is None else EXACT.add(entry.realized, EXACT.multiply(worth, point))
    if made and (rate is None or point is None):
        made = None  # of a contract whose size is not known what was realised is not known either
    amount = made if not made or rate is None else EXACT.multiply(made, rate)
    where = Scope(account_id=key.account_id, strategy=key.strategy, symbol=entry.instrument.symbol)
    return Profit(scope=where, amount=amount)


def result_of(scope: Scope, profits: Iterable[Profit]) -> Decimal | None:
    """What all that the scope covers has made; nothing traded makes 0. None: one of them is not known."""
    total = ZERO
    for profit in profits:
        if not scope.covers(profit.scope):
            continue
        if profit.amount is None:
            return None
        total = EXACT.add(total, profit.amount)
    return total
