"""How option positions ended, by the account's activities: expiries, assignments and exercises, each with the shares that it moved."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from brokers.alpaca import dialect
from brokers.alpaca.calls import AlpacaCalls
from brokers.alpaca.rows import Malformed, number, text
from brokers.base import Delivered, EndingKind, Instrument, OptionRight, PositionEnding
from brokers.errors import AnswerUnclear, BrokerUnavailable

_log = logging.getLogger(__name__)
_PATH = "/account/activities"
_ROWS_A_PAGE, _MOST_PAGES = 100, 50
_KINDS = {"OPEXP": EndingKind.EXPIRY, "OPASN": EndingKind.ASSIGNMENT, "OPEXC": EndingKind.EXERCISE}
_SHARES_MOVED = "OPTRD"
"""The activity beside an assignment or exercise: the shares, at the strike."""
_DONE = "executed"
_SHARES_A_CONTRACT = Decimal(100)
"""Of contracts whose root is a plain ticker; what others deliver is not known here."""
_NEW_YORK, _CLOSE = ZoneInfo("America/New_York"), time(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Activity:
    kind: str
    activity_id: str
    symbol: str
    quantity: Decimal
    money: Decimal | None
    day: date
    is_done: bool
    """Neither corrected nor taken back."""


async def read_endings(calls: AlpacaCalls, since: datetime) -> list[PositionEnding]:
    """As `TellsEndings.endings`."""
    query: dict[str, object] = {
        "activity_types": ",".join((*_KINDS, _SHARES_MOVED)),
        "after": since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "direction": "asc",
        "page_size": _ROWS_A_PAGE,
    }
    rows: list[object] = []
    for _ in range(_MOST_PAGES):
        page = dict(query)
        said = await calls.ask(lambda client: client.get(_PATH, page))  # noqa: B023  asked at once
        if not isinstance(said, list):
            raise BrokerUnavailable("Alpaca answered with no list of activities")
        rows += said
        last = said[-1].get("id") if said and isinstance(said[-1], Mapping) else None
        if len(said) < _ROWS_A_PAGE:
            return endings_of(rows)
        if not isinstance(last, str) or last == query.get("page_token"):
            break
        query["page_token"] = last
    raise AnswerUnclear("Alpaca's list of activities does not end")


def endings_of(rows: Sequence[object]) -> list[PositionEnding]:
    """Without those of options of which any activity cannot be read, was corrected or taken back; none where it cannot even be read what an activity
    is about. An assignment or exercise counts with the shares that the contract delivers, of that day and for the strike."""
    activities: dict[tuple[str, str, str], _Activity] = {}
    unclear: set[str] = set()
    for row in rows:
        try:
            found = _activity(row)
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


def _ending(activity: _Activity, moved: list[_Activity]) -> PositionEnding | None:
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


def _activity(row: object) -> _Activity:
    """Raises Malformed."""
    if not isinstance(row, Mapping):
        raise Malformed("it is no object")
    return _Activity(
        kind=text(row, "activity_type"),
        activity_id=text(row, "id"),
        symbol=text(row, "symbol"),
        quantity=number(row, "qty"),
        money=number(row, "net_amount") if row.get("net_amount") is not None else None,
        day=_day(row),
        is_done=row.get("status", _DONE) == _DONE,
    )


def _day(row: Mapping[str, Any]) -> date:
    """Raises Malformed."""
    try:
        return date.fromisoformat(text(row, "date"))
    except ValueError as exc:
        raise Malformed(f"its date is {row.get('date')!r}") from exc


def _root_of_options(symbol: str) -> str:
    """A share's symbol as the roots of its options spell it."""
    return symbol.replace(".", "").replace("/", "")
