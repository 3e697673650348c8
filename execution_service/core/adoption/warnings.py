"""What would be suspicious about an adoption, for the person who asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from execution_service.core.adoption.money import EXACT_MONEY
from execution_service.core.adoption.records import (
    AdoptionBooks,
    After,
)
from execution_service.core.exact import ZERO
from execution_service.core.orders.request import OrderRequest
from execution_service.core.orders.status import AT_WORK
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey
from execution_service.core.positions.position import Position
from execution_service.core.reconcile.instruments import may_be_the_same
from execution_service.core.reconcile.positions import Holding, compare_positions
from execution_service.core.texts.values import plain

# --- what speaks against it ------------------------------------------------------------------------------------------


def after_adoption(entry: LedgerEntry, position: Position, realized: Decimal) -> After:
    return After(
        strategy=entry.key.strategy,
        holding=entry.key.instrument_key,
        instrument=entry.instrument,
        before=entry.position.quantity,
        after=position.quantity,
        before_average=entry.position.average_price,
        after_average=position.average_price,
        realized=realized.normalize(EXACT_MONEY) + ZERO,
    )


def warnings_about(
    books: AdoptionBooks,
    touched: Iterable[LedgerEntry],
    after: Mapping[LedgerKey, Position],
    discrepancy_id: str | None,
) -> tuple[str, ...]:
    touched = list(touched)
    warnings = []
    working = [
        order
        for order in books.at_work
        if order.status in AT_WORK
        and isinstance(order.request, OrderRequest)
        and any(may_be_the_same(order.accepted_request.instrument, e.instrument) for e in touched)
    ]
    warnings += [
        f"order {order.order_id} ({plain(order.signal_id)}) is {order.status}: the broker's word on it may still come, "
        "and it is for what was held before; cancel it or let it end first"
        for order in working
    ]
    warnings += _increased_differences(books, touched, after)
    warnings += [
        f"discrepancy {plain(str(discrepancy_id))} is to be closed by {each} already" for each in books.closing_it
    ]
    return tuple(warnings)


def _increased_differences(
    books: AdoptionBooks, touched: Sequence[LedgerEntry], after: Mapping[LedgerKey, Position]
) -> list[str]:
    """Where the adoption would increase the difference between our book and the broker's."""
    if books.theirs is None:
        return []
    known = {entry.key: entry for entry in (*books.ledgers, *touched)}
    before = [_holding(e, e.position.quantity) for e in known.values()]
    then = [_holding(e, after.get(e.key, e.position).quantity) for e in known.values()]
    gaps = {f.subject: f for f in compare_positions(before, books.theirs).findings}
    found = []
    for finding in compare_positions(then, books.theirs).findings:
        gap = abs(Decimal(gaps[finding.subject].steady)) if finding.subject in gaps else ZERO
        if abs(Decimal(finding.steady)) > gap:
            found.append(
                f"the books would differ by more than now: {plain(finding.subject)}: ours {finding.ours} then, the broker's {finding.theirs}"
            )
    return found


def _holding(entry: LedgerEntry, amount: Decimal) -> Holding:
    return Holding(instrument=entry.instrument, quantity=amount, strategy=entry.key.strategy, terms=entry.terms)
