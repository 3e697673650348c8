"""How option positions ended, by the account's activities: expiries, assignments and exercises, each with the shares that it moved."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time
from decimal import Decimal
from zoneinfo import ZoneInfo

from brokers.alpaca import dialect
from brokers.alpaca.activities import Activity, activity_of, read_activities
from brokers.alpaca.calls import AlpacaCalls
from brokers.alpaca.rows import Malformed
from brokers.base import Delivered, EndingKind, Instrument, OptionRight, PositionEnding

_log = logging.getLogger(__name__)
_KINDS = {"OPEXP": EndingKind.EXPIRY, "OPASN": EndingKind.ASSIGNMENT, "OPEXC": EndingKind.EXERCISE}
_SHARES_MOVED = "OPTRD"
"""The activity beside an assignment or exercise: the shares, at the strike."""
_SHARES_A_CONTRACT = Decimal(100)
"""Of contracts whose root is a plain ticker; what others deliver is not known here."""
_NEW_YORK, _CLOSE = ZoneInfo("America/New_York"), time(16)


async def read_endings(calls: AlpacaCalls, since: datetime) -> list[PositionEnding]:
    """As `TellsEndings.endings`."""
    return endings_of(await read_activities(calls, (*_KINDS, _SHARES_MOVED), since))


def endings_of(rows: Sequence[object]) -> list[PositionEnding]:
    """Without those of options of which any activity cannot be read, was corrected or taken back; none where it cannot even be read what an activity
    is about. An assignment or exercise counts with the shares that the contract delivers, of that day and for the strike."""
    activities: dict[tuple[str, str, str], Activity] = {}
    unclear: set[str] = set()
    for row in rows:
        try:
            found = activity_of(row)
        except Malformed as exc:
            _log.warning("Alpaca: an activity of an option cannot be read: %s", exc)
            symbol = row.get("symbol") if isinstance(row, Mapping) else None
            if not isinstance(symbol, str):
                return []
            unclear.add(symbol)
            continue
        if not found.is_done:
            unclear.add(found.symbol)
        activities[found.kind, found.activity_id, found.symbol] = found
    moved = [each for each in activities.values() if each.kind == _SHARES_MOVED and each.symbol not in unclear]
    endings = []
    for each in activities.values():
        if each.kind in _KINDS and each.symbol not in unclear:
            ending = _ending(each, moved)
            endings += [] if ending is None else [ending]
    return sorted(endings, key=lambda ending: (ending.at, ending.ending_id))


def _ending(activity: Activity, moved: list[Activity]) -> PositionEnding | None:
    """None: what it says is no proof. The shares that belong to it are taken out of `moved`."""
    kind = _KINDS[activity.kind]
    option, names = dialect.instrument_of(activity.symbol, dialect.OPTION)
    if option.strike is None or option.symbol[-1].isdigit() or not activity.quantity:
        return None
    delivered = None
    if kind is EndingKind.EXPIRY:
        if activity.money:
            return None
    else:
        came = (option.right is OptionRight.CALL) is (kind is EndingKind.EXERCISE)
        shares = abs(activity.quantity) * _SHARES_A_CONTRACT * (1 if came else -1)
        own = (activity.day, option.symbol, shares, -shares * option.strike)
        found = next((m for m in moved if (m.day, _root_of_options(m.symbol), m.quantity, m.money) == own), None)
        if found is None:
            return None
        moved.remove(found)
        delivered = Delivered(instrument=Instrument(symbol=found.symbol), quantity=shares, price=option.strike)
    return PositionEnding(
        ending_id=f"{activity.kind} {activity.activity_id}",
        kind=kind,
        instrument=option,
        also_called=names,
        quantity=activity.quantity,
        at=datetime.combine(activity.day, _CLOSE, _NEW_YORK).astimezone(UTC),
        delivered=delivered,
    )


def _root_of_options(symbol: str) -> str:
    """A share's symbol as the roots of its options spell it."""
    return symbol.replace(".", "").replace("/", "")
