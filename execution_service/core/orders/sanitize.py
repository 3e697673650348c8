"""Removes impossible values (a NaN price, a fill of zero, a date in 1900) from a broker's report, so that the rest
of it can be used."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from brokers.base import BrokerPosition, Fill, FillsShown, Report

_BEYOND = Decimal(10) ** 18
"""No quantity, price or amount of money is this large."""
_FIRST_YEAR, _LAST_YEAR = 1970, 2200


def sanitized(report: Report, now: datetime) -> tuple[Report, str | None]:
    """The report without impossible executions, counts and times, and a description of what was removed (None:
    nothing). A report of which something was removed can end no order. A fill with an impossible time gets `now`."""
    problems: list[str] = []
    fills = []
    for fill in report.fills:
        problem = _problem(fill)
        if problem is None:
            fills.append(_with_sound_details(fill, now))
        else:
            problems.append(problem)
    filled = report.filled_quantity
    if not _is_amount(filled) or filled < 0:
        problems.append(f"its count of what is filled is {_shown(filled)}")
        filled = sum((fill.quantity for fill in fills), Decimal(0))
    if not problems:
        return (report if tuple(fills) == report.fills else replace(report, fills=tuple(fills))), None
    # The removed executions were shown by the broker all the same: their absence here must not be taken for a bust.
    left = replace(report, fills=tuple(fills), filled_quantity=filled, fills_shown=FillsShown.SOME, is_unclear=True)
    return left, "; ".join(problems)


def sanitized_position(position: BrokerPosition) -> BrokerPosition:
    """The position, marked unclear if its quantity is impossible, and without an impossible average price."""
    if not _is_amount(position.quantity):
        position = replace(position, quantity=Decimal(0), is_unclear=True)
    if position.average_price is not None and not _is_amount(position.average_price):
        position = replace(position, average_price=None)
    return position


def _problem(fill: Fill) -> str | None:
    if not isinstance(fill.fill_id, str) or not fill.fill_id:
        return f"an execution's id is {_shown(fill.fill_id)}"
    if not _is_amount(fill.quantity) or fill.quantity <= 0:
        return f"the quantity of execution {fill.fill_id} is {_shown(fill.quantity)}"
    if not _is_amount(fill.price):
        return f"the price of execution {fill.fill_id} is {_shown(fill.price)}"
    return None


def _with_sound_details(fill: Fill, now: datetime) -> Fill:
    if fill.commission is not None and not _is_amount(fill.commission):
        fill = replace(fill, commission=None, commission_currency=None)
    is_time = isinstance(fill.time, datetime) and fill.time.tzinfo is not None
    if is_time and _FIRST_YEAR < fill.time.year < _LAST_YEAR:
        return fill
    return replace(fill, time=now, is_time_estimated=True)


def _is_amount(value: object) -> bool:
    return isinstance(value, Decimal) and value.is_finite() and abs(value) < _BEYOND


def _shown(value: object) -> str:
    return repr(value)[:60]
