"""Which executions of others closed what we hold, and whether they prove it: then they are booked without a person. Values in, values out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import sha256

from brokers.base import AssetClass, Fill, Instrument, Report, Side
from execution_service.core.exact import ZERO
from execution_service.core.orders.events import Adopted, Occasion
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.reconcile.discrepancies import Discrepancy
from execution_service.core.reconcile.instruments import may_be_the_same, names_of
from execution_service.core.texts.values import plain, quantity

BY = "execution-service"
BOOKING = "broker-exit-"
"""Begins the name of every booking of our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitToBook:
    """One execution of somebody else that closed a part of what we hold, or one ending of an option position."""

    name: str
    """Follows from the broker's own name of it, so that it is booked once, by whomever and however often."""
    body: dict[str, object]
    """Of the command ADOPT, in the words of a person's, without what was shown."""


@dataclass(frozen=True, slots=True)
class NotProven:
    """Why a person has to say what happened, without a full stop."""

    reason: str


def booking_id(account_id: str, report: Report, fill: Fill) -> str:
    """The name under which this execution is booked."""
    return name_of_booking(account_id, report.broker_order_id, fill.fill_id)


def booking_ids(account_id: str, report: Report, fill: Fill) -> list[str]:
    """That name, and the one under which it may have been booked before the broker said which order it is of."""
    earlier = report.earlier_ids.get(fill.fill_id)
    names = [] if earlier is None else [name_of_booking(account_id, earlier, fill.fill_id)]
    return [booking_id(account_id, report, fill), *names]


def name_of_booking(*names: str) -> str:
    return BOOKING + sha256("\n".join(names).encode()).hexdigest()[:24]


def candidates(row: Discrepancy, trades: Sequence[Report]) -> list[tuple[Report, Fill]]:
    """The executions of others in what the difference is about."""
    return [
        (report, fill)
        for report in trades
        if report.instrument is not None
        and any(may_be_the_same(report.instrument, mine) for mine in row.finding.instruments)
        for fill in report.fills
        if fill.fill_id not in report.busted_fill_ids
    ]


def exits_to_book(
    row: Discrepancy,
    ledgers: Sequence[LedgerEntry],
    unclear: Sequence[Instrument],
    trades: Sequence[Report],
    booked: Collection[str],
    now: datetime,
    adoptions: Sequence[Order] = (),
) -> tuple[ExitToBook, ...] | NotProven:
    """`ledgers`: all entries of the account; `unclear`: what those are about that cannot be read. `trades`: all orders of others that the broker
    shows. `booked`: the names of bookings that were made, taken back or not. `adoptions`: the records of what was adopted of it in the account.

    Proven is an exit where one strategy alone holds it, in one product where these are kept apart, the broker holds less of it and not the other
    side, and executions of others since it was opened, all of the closing side and all of them told, come to exactly the difference. What a
    person has told of counts no more: that is every execution of before a person adopted anything of it, and a later one of the quantity and
    price that a person named.
    """
    held = holder(row, ledgers, unclear)
    if isinstance(held, NotProven):
        return held
    position, missing = held.position, abs(row.finding.amount or ZERO)
    closing = Side.SELL if position.quantity > 0 else Side.BUY
    found: list[tuple[Report, Fill]] = []
    told = _adopted_already(candidates(row, trades), adoptions)
    for report, fill in candidates(row, trades):
        if (report.broker_order_id, fill.fill_id) in told:
            continue
        if position.opened_at is not None and fill.time < position.opened_at:
            continue
        if any(name in booked for name in booking_ids(row.account_id, report, fill)):
            continue
        if held.instrument.asset_class is AssetClass.OPTION and not fill.price:
            return NotProven("an execution at a price of 0 does not say how the option ended")
        if _goes_with_an_option(report, fill, trades):
            return NotProven("an option on it has ended at that price")
        if report.side is not closing:
            return NotProven("executions of others have also opened or added to it")
        if report.is_unclear or sum((each.quantity for each in report.fills), ZERO) != report.filled_quantity:
            return NotProven("not all executions of an order of others are told yet")
        found.append((report, fill))
    total = sum((fill.quantity for _, fill in found), ZERO)
    if total != missing:
        return NotProven(f"executions of others come to {quantity(total)}, and {quantity(missing)} is missing")
    found.sort(key=lambda each: (each[1].time, each[1].fill_id))
    return tuple(_exit(row, held, report, fill, now) for report, fill in found)


def holder(row: Discrepancy, ledgers: Sequence[LedgerEntry], unclear: Sequence[Instrument]) -> LedgerEntry | NotProven:
    """The one entry that holds what the difference is about, of which the broker holds less, and not the other side."""
    about = row.finding.instruments
    if any(may_be_the_same(each, mine) for each in unclear for mine in about):
        return NotProven("a part of our books about it cannot be read")
    holders = [
        entry
        for entry in ledgers
        if entry.position.is_open and any(may_be_the_same(entry.instrument, mine) for mine in about)
    ]
    if len(holders) != 1:
        return NotProven(f"it is held by {len(holders)} of our books")
    (held,) = holders
    position, amount, product = held.position, row.finding.amount, row.finding.product
    if product and (held.known_products or {}).get(product) != position.quantity:
        return NotProven(f"not all of what we hold is in product {product}")
    if amount is None or amount * position.quantity >= 0 or abs(amount) > abs(position.quantity):
        return NotProven("the broker does not hold a part of what we hold")
    return held


def _goes_with_an_option(report: Report, fill: Fill, trades: Sequence[Report]) -> bool:
    """Whether it may be the shares of an option that ended without a price: then both are booked as one."""
    shares = report.instrument
    return shares is not None and any(
        option.asset_class is AssetClass.OPTION
        and option.strike == fill.price
        and bool(names_of(option) & names_of(shares))
        and any(not each.price for each in other.fills)
        for other in trades
        if (option := other.instrument) is not None
    )


def _adopted_already(found: Sequence[tuple[Report, Fill]], adoptions: Sequence[Order]) -> set[tuple[str, str]]:
    """The executions that people knew of when they adopted, and those of options whose ending was booked, by order and execution."""
    by_people = adopted_by_people(adoptions)
    last = max((told.at for told, _ in by_people), default=None)
    named: defaultdict[tuple[str, Side, Decimal], Decimal] = defaultdict(Decimal)
    for told, order in (*by_people, *_booked_endings(adoptions)):
        for fill in order.fills:
            named[told.command_id, order.accepted_request.side, fill.price] += fill.quantity
    unmatched = [(side, price, amount) for (_, side, price), amount in named.items()]
    left_out: set[tuple[str, str]] = set()
    for report, fill in sorted(found, key=lambda each: each[1].time):
        same = None if report.side is None else (report.side, fill.price, fill.quantity)
        if same in unmatched:
            unmatched.remove(same)
        elif last is None or fill.time > last:
            continue
        left_out.add((report.broker_order_id, fill.fill_id))
    return left_out


def adopted_by_people(adoptions: Sequence[Order]) -> list[tuple[Adopted, Order]]:
    """Without bookings of our own, and what was taken back."""
    return [
        (told, order)
        for order in adoptions
        if (told := order.adoption) is not None and not told.command_id.startswith(BOOKING) and order.fills
    ]


def _booked_endings(adoptions: Sequence[Order]) -> list[tuple[Adopted, Order]]:
    return [
        (told, order)
        for order in adoptions
        if (told := order.adoption) is not None
        and told.command_id.startswith(BOOKING)
        and told.occasion is not Occasion.SQUARE_OFF
    ]


def _exit(row: Discrepancy, held: LedgerEntry, report: Report, fill: Fill, now: datetime) -> ExitToBook:
    execution = plain(f"{fill.fill_id} of order {report.broker_order_id}")
    why = f"the broker shows execution {execution}, which is none of ours"
    return ExitToBook(
        name=booking_id(row.account_id, report, fill),
        body={
            "occasion": Occasion.SQUARE_OFF.value.upper().replace("-", "_"),
            "account_id": row.account_id,
            "strategy": held.key.strategy,
            "by": BY,
            "reason": why if report.reason is None else f"{plain(report.reason)}: {why}",
            "holding": held.key.instrument_key,
            "quantity": str(fill.quantity),
            "price": str(fill.price),
            "happened_at": min(fill.time, now).isoformat(),
            "discrepancy_id": row.discrepancy_id,
            "is_forced": True,
        },
    )
