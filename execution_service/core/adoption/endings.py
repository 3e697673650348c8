"""Which endings of option positions (expiry, assignment, exercise) the broker's own records prove: then they are booked without a person. Values in,
values out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, time, timedelta
from decimal import Decimal

from brokers.base import (
    AssetClass,
    BrokerPosition,
    Delivered,
    EndingKind,
    Instrument,
    OptionRight,
    PositionEnding,
    Report,
    Side,
)
from execution_service.core.adoption.broker_exits import (
    BY,
    ExitToBook,
    NotProven,
    adopted_by_people,
    candidates,
    holder,
    name_of_booking,
)
from execution_service.core.adoption.money import contract_size
from execution_service.core.adoption.records import instrument_fields
from execution_service.core.exact import ZERO
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.reconcile.discrepancies import Discrepancy
from execution_service.core.reconcile.instruments import may_be_the_same, names_of
from execution_service.core.texts.values import plain, quantity

TOGETHER = timedelta(days=1)
"""So far apart the executions of an option and of the shares that it delivers may be."""


def ending_name(account_id: str, ending: PositionEnding) -> str:
    """The name under which this ending is booked."""
    return name_of_booking(account_id, "ending", ending.ending_id, ending.instrument.key)


def endings_about(row: Discrepancy, endings: Sequence[PositionEnding]) -> list[PositionEnding]:
    """Of the options that the difference is about."""
    return [ending for ending in endings if any(_is_of(ending, mine) for mine in row.finding.instruments)]


def endings_by_executions(row: Discrepancy, held: LedgerEntry, trades: Sequence[Report]) -> list[PositionEnding]:
    """What executions of others in the option at a price of 0 mean: the contracts are gone, and with an execution in the underlying, of the number
    that they deliver and at their strike, they were exercised or assigned; else they may have expired."""
    option, size, is_long = held.instrument, contract_size(held), held.position.quantity > 0
    came = (option.right is OptionRight.CALL) is is_long
    moved = [
        (report, fill)
        for report in trades
        if report.instrument is not None
        and report.instrument.asset_class is not AssetClass.OPTION
        and report.side is (Side.BUY if came else Side.SELL)
        and names_of(report.instrument) & names_of(option)
        for fill in report.fills
        if fill.fill_id not in report.busted_fill_ids and fill.price == option.strike
    ]
    endings = []
    for report, fill in candidates(row, trades):
        if fill.price or report.side is None or report.is_unclear:
            continue
        due = ZERO if size is None else fill.quantity * size
        own = next(
            (each for each in moved if each[1].quantity == due and abs(each[1].time - fill.time) <= TOGETHER), None
        )
        delivered, kind = None, EndingKind.EXPIRY
        if own is not None and own[0].instrument is not None:
            moved.remove(own)
            shares = due if came else -due
            delivered = Delivered(instrument=own[0].instrument, quantity=shares, price=own[1].price)
            kind = EndingKind.EXERCISE if is_long else EndingKind.ASSIGNMENT
        endings.append(
            PositionEnding(
                ending_id=f"execution {fill.fill_id} of order {report.broker_order_id}",
                kind=kind,
                instrument=option,
                quantity=fill.quantity * report.side.sign,
                at=fill.time,
                delivered=delivered,
            )
        )
    return endings


def endings_to_book(
    row: Discrepancy,
    ledgers: Sequence[LedgerEntry],
    unclear: Sequence[Instrument],
    endings: Sequence[PositionEnding],
    booked: Collection[str],
    now: datetime,
    adoptions: Sequence[Order],
    theirs: Sequence[BrokerPosition] | None,
    *,
    are_by_executions: bool = False,
) -> tuple[ExitToBook, ...] | NotProven:
    """As `exits_to_book`, for what the broker recorded of options that ended; `theirs`: its positions, None where they are not known now;
    `are_by_executions`: the endings are those of `endings_by_executions`.

    Proven is an ending where one strategy alone holds the option, the broker holds less of it, and what it recorded since the position was opened
    comes to exactly the difference. Of an expiry the contract must have expired by then; of an assignment or exercise the shares must be those that
    the contract delivers, at its strike, and the broker must show them beyond all that our books hold of them. What executions show to be gone
    has expired only where the broker holds what our books hold of the underlying.
    """
    held = holder(row, ledgers, unclear)
    if isinstance(held, NotProven):
        return held
    opened_at = held.position.opened_at
    if opened_at is not None and not are_by_executions:
        opened_at = datetime.combine(opened_at.date(), time.min, opened_at.tzinfo)  # of a record the day alone is known
    found = [
        ending
        for ending in _not_adopted(endings_about(row, endings), held, adoptions)
        if ending_name(row.account_id, ending) not in booked and (opened_at is None or ending.at >= opened_at)
    ]
    total = sum((ending.quantity for ending in found), ZERO)
    if not found or total != row.finding.amount:
        missing = abs(row.finding.amount or ZERO)
        return NotProven(
            f"what the broker recorded of it comes to {quantity(abs(total))}, and {quantity(missing)} is missing"
        )
    for ending in found:
        problem = _problem_with(ending, held)
        if problem is not None:
            return NotProven(problem)
    problem = _missing_shares(found, ledgers, theirs)
    if problem is not None:
        return NotProven(problem)
    is_guessed = are_by_executions and any(ending.kind is EndingKind.EXPIRY for ending in found)
    if is_guessed and not _agrees_in_underlying(held.instrument, ledgers, theirs):
        return NotProven("it is gone at a price of 0, and it is not certain that nothing was delivered for it")
    made: list[ExitToBook] = []
    for ending in found:
        booking = _booking(row, held, ending, ledgers, now)
        if isinstance(booking, NotProven):
            return booking
        made.append(booking)
    return tuple(made)


def _is_of(ending: PositionEnding, mine: Instrument) -> bool:
    return mine.asset_class is AssetClass.OPTION and (
        mine.symbol in ending.also_called or may_be_the_same(ending.instrument, mine)
    )


def _not_adopted(
    found: Sequence[PositionEnding], held: LedgerEntry, adoptions: Sequence[Order]
) -> list[PositionEnding]:
    """Without those that people knew of when they adopted: of before a person last adopted anything of the option, or of the quantity that a person
    named."""
    closing = Side.SELL if held.position.quantity > 0 else Side.BUY
    by_people = adopted_by_people(adoptions)
    last = max((told.at for told, _ in by_people), default=None)
    named: defaultdict[str, Decimal] = defaultdict(Decimal)
    for told, order in by_people:
        if order.accepted_request.side is closing:
            named[told.command_id] += order.filled_quantity
    unmatched, left = list(named.values()), []
    for ending in sorted(found, key=lambda each: each.at):
        if abs(ending.quantity) in unmatched:
            unmatched.remove(abs(ending.quantity))
        elif last is None or ending.at > last:
            left.append(ending)
    return left


def _problem_with(ending: PositionEnding, held: LedgerEntry) -> str | None:
    """Why what the broker recorded cannot be what became of this position."""
    option, is_long = held.instrument, held.position.quantity > 0
    if ending.quantity * held.position.quantity >= 0:
        return "what the broker recorded of it has also opened or added to it"
    if ending.kind is EndingKind.EXPIRY:
        expiry = option.expiry or ending.instrument.expiry
        if ending.delivered is not None or expiry is None or f"{ending.at:%Y%m%d}" < expiry:
            return "the broker recorded its expiry, and it had not expired by then"
        return None
    if (ending.kind is EndingKind.EXERCISE) is not is_long:
        return f"the broker recorded an {ending.kind.value.lower()}, and that cannot be of what we hold"
    size, delivered = contract_size(held), ending.delivered
    if size is None or option.strike is None or option.right is None:
        return "our book does not say what the option delivers"
    came = (option.right is OptionRight.CALL) is is_long
    due = abs(ending.quantity) * size * (1 if came else -1)
    if delivered is None or (delivered.quantity, delivered.price) != (due, option.strike):
        return "the shares that the broker recorded are not what the option delivers"
    return None


def _missing_shares(
    found: Sequence[PositionEnding], ledgers: Sequence[LedgerEntry], theirs: Sequence[BrokerPosition] | None
) -> str | None:
    """Why the shares have not arrived, or not left, by the broker's own positions."""
    moved: defaultdict[Instrument, Decimal] = defaultdict(Decimal)
    for ending in found:
        if ending.delivered is not None:
            moved[ending.delivered.instrument] += ending.delivered.quantity
    for shares, came in moved.items():
        if theirs is None or any(position.is_unclear for position in theirs):
            return "the broker's positions are not known now"
        shown = sum((each.quantity for each in theirs if _are_shares(each, shares)), ZERO)
        ours = sum((entry.position.quantity for entry in ledgers if may_be_the_same(entry.instrument, shares)), ZERO)
        if (shown - ours) * came <= 0 or abs(shown - ours) < abs(came):
            return f"the broker does not show the {quantity(abs(came))} {plain(shares.symbol)} that moved"
    return None


def _agrees_in_underlying(
    option: Instrument, ledgers: Sequence[LedgerEntry], theirs: Sequence[BrokerPosition] | None
) -> bool:
    if theirs is None or any(position.is_unclear for position in theirs):
        return False
    names = names_of(option)

    def is_underlying(other: Instrument) -> bool:
        return other.asset_class is not AssetClass.OPTION and bool(names & names_of(other))

    shown = sum((each.quantity for each in theirs if is_underlying(each.instrument)), ZERO)
    ours = sum((entry.position.quantity for entry in ledgers if is_underlying(entry.instrument)), ZERO)
    return shown == ours


def _are_shares(position: BrokerPosition, shares: Instrument) -> bool:
    return may_be_the_same(position.instrument, shares) or (
        position.instrument.asset_class is not AssetClass.OPTION and shares.symbol in position.also_called
    )


def _booking(
    row: Discrepancy, held: LedgerEntry, ending: PositionEnding, ledgers: Sequence[LedgerEntry], now: datetime
) -> ExitToBook | NotProven:
    happened_at = min(ending.at, now)
    if held.position.opened_at is not None:
        happened_at = max(happened_at, held.position.opened_at)
    body: dict[str, object] = {
        "occasion": ending.kind.value,
        "account_id": row.account_id,
        "strategy": held.key.strategy,
        "by": BY,
        "reason": f"the broker recorded it as {plain(ending.ending_id)}",
        "holding": held.key.instrument_key,
        "quantity": str(abs(ending.quantity)),
        "happened_at": happened_at.isoformat(),
        "discrepancy_id": row.discrepancy_id,
        "is_forced": True,
    }
    delivered = ending.delivered
    if delivered is not None:
        own = [
            entry.instrument
            for entry in ledgers
            if entry.key.strategy == held.key.strategy and may_be_the_same(entry.instrument, delivered.instrument)
        ]
        if len(own) > 1:
            return NotProven("our books name the shares in several ways")
        body |= {
            "successor": instrument_fields(own[0]) if own else {"symbol": delivered.instrument.symbol},
            "new_quantity": str(abs(delivered.quantity)),
            "new_price": str(delivered.price),
        }
    return ExitToBook(name=ending_name(row.account_id, ending), body=body)
