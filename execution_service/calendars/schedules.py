"""When exchanges are open, as the package exchange-calendars has it; imported by name, where somebody asks, since it brings pandas."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime

import exchange_calendars
import pandas


def open_hours(calendar: str, first: date, last: date) -> Iterator[tuple[datetime, datetime]]:
    """From its opening until its close, one after the other, of the sessions of these days; lunch breaks and early closes are taken out, and what
    joins is one. Raises whatever the package raises."""
    schedule = exchange_calendars.get_calendar(calendar).schedule.loc[pandas.Timestamp(first) : pandas.Timestamp(last)]
    begun: tuple[datetime, datetime] | None = None
    for row in schedule.itertuples():
        break_begins, break_ends = row.break_start, row.break_end
        has_break = not pandas.isna(break_begins)
        for opens, closes in (
            [(row.open, break_begins), (break_ends, row.close)] if has_break else [(row.open, row.close)]
        ):
            part = (_moment(opens), _moment(closes))
            if begun is None:
                begun = part
            elif part[0] <= begun[1]:
                begun = (begun[0], part[1])
            else:
                yield begun
                begun = part
    if begun is not None:
        yield begun


def _moment(stamp: pandas.Timestamp) -> datetime:
    moment: datetime = stamp.to_pydatetime()
    return moment.astimezone(UTC)
