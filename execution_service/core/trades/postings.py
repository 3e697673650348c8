"""Double entry: each row of `trades` as postings that add up to 0 in each currency, and what postings add up to. Values in, values out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from execution_service.core.exact import EXACT, ZERO
from execution_service.core.trades.rows import TradeRow


class Leg(StrEnum):
    """Where a posting goes."""

    POSITION = "POSITION"
    """What units have cost, less what was had for those that left: negative where more came than was paid."""
    CASH = "CASH"
    FEES = "FEES"
    TRANSFERS = "TRANSFERS"
    """What units were worth that came or left without money, as the person said who adopted it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One side of an entry. Positive amounts are what the leg has more of."""

    leg: Leg
    account_id: str
    currency: str
    amount: Decimal
    ledger_id: str | None = None
    """Of a POSITION."""
    units: Decimal = ZERO
    """Signed, of a POSITION."""


def postings_of(row: TradeRow) -> tuple[Posting, ...]:
    """They add up to 0 in each currency. Of a row of which it is not known what a unit is worth, only those of its commission."""
    value = row.value
    account_id, postings = row.account_id, []
    if row.size and value is not None:
        other = Leg.CASH if row.moves_cash else Leg.TRANSFERS
        postings += [
            Posting(
                leg=Leg.POSITION,
                account_id=account_id,
                currency=row.currency,
                amount=value,
                ledger_id=row.ledger_id,
                units=row.size * row.side.sign,
            ),
            Posting(leg=other, account_id=account_id, currency=row.currency, amount=value.copy_negate()),
        ]
    if row.commission:
        paid_in = row.commission_currency or row.currency
        postings += [
            Posting(leg=Leg.FEES, account_id=account_id, currency=paid_in, amount=row.commission),
            Posting(leg=Leg.CASH, account_id=account_id, currency=paid_in, amount=row.commission.copy_negate()),
        ]
    return tuple(postings)


@dataclass(frozen=True, slots=True)
class Holding:
    """What the rows say is held under one ledger entry."""

    units: Decimal = ZERO
    """Signed."""
    amount: Decimal = ZERO
    """Of the POSITION leg: cost less realised profit."""
    money_per_point: Decimal | None = None
    price: Decimal | None = None
    """Of the latest row that was added."""


Place = tuple[str, str]
"""An account and a currency."""


class Balances:
    """Sums of postings; rows may be added in any sequence."""

    def __init__(self) -> None:
        self._sums: dict[Leg, defaultdict[Place, Decimal]] = {leg: defaultdict(Decimal) for leg in Leg}
        self.holdings: dict[tuple[Place, str], Holding] = {}
        """By account and currency, and the ledger's entry."""
        self.unknown = 0
        """Executions that stand and of which it is not known what a unit is worth: no amount is complete while there are any."""

    def add_all(self, rows: Iterable[TradeRow]) -> Balances:
        for row in rows:
            self.add(row)
        return self

    def add(self, row: TradeRow) -> None:
        self.unknown += row.unknown_amounts
        for posting in postings_of(row):
            place = (posting.account_id, posting.currency)
            self._sums[posting.leg][place] = EXACT.add(self._sums[posting.leg][place], posting.amount)
            if posting.ledger_id is not None:
                held = self.holdings.get((place, posting.ledger_id), Holding())
                self.holdings[place, posting.ledger_id] = Holding(
                    EXACT.add(held.units, posting.units),
                    EXACT.add(held.amount, posting.amount),
                    row.money_per_point,
                    row.price,
                )

    def of(self, leg: Leg) -> Mapping[Place, Decimal]:
        return self._sums[leg]

    @property
    def imbalance(self) -> Mapping[Place, Decimal]:
        """Of each account and currency the sum of all postings: 0."""
        found: defaultdict[Place, Decimal] = defaultdict(Decimal)
        for sums in self._sums.values():
            for place, amount in sums.items():
                found[place] = EXACT.add(found[place], amount)
        return found

    def equity(self, marks: Mapping[str, Decimal]) -> Mapping[Place, Decimal]:
        """What the trades have made of nothing: cash, and what is held at these prices (by ledger entry; at its latest price where none is
        named)."""
        found: defaultdict[Place, Decimal] = defaultdict(Decimal, self._sums[Leg.CASH])
        for (place, ledger_id), held in self.holdings.items():
            price = marks.get(ledger_id, held.price)
            if held.units and price is not None and held.money_per_point is not None:
                worth = EXACT.multiply(EXACT.multiply(held.units, price), held.money_per_point)
                found[place] = EXACT.add(found[place], worth)
        return found
