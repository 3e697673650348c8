"""The account's activities besides executions: which there are of some types, and one as a value. What they mean is not here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from brokers.alpaca.calls import AlpacaCalls
from brokers.alpaca.rows import Malformed, number, text
from brokers.errors import AnswerUnclear, BrokerUnavailable

_PATH = "/account/activities"
_ROWS_A_PAGE, _MOST_PAGES = 100, 50
_DONE = "executed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    kind: str
    activity_id: str
    symbol: str
    quantity: Decimal
    money: Decimal | None
    day: date
    is_done: bool
    """Neither corrected nor taken back."""


async def read_activities(calls: AlpacaCalls, types: Collection[str], since: datetime) -> list[object]:
    """The rows of these types that were made from then on, oldest first. Raises BrokerUnavailable and AnswerUnclear."""
    query: dict[str, object] = {
        "activity_types": ",".join(types),
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
            return rows
        if not isinstance(last, str) or last == query.get("page_token"):
            break
        query["page_token"] = last
    raise AnswerUnclear("Alpaca's list of activities does not end")


def activity_of(row: object) -> Activity:
    """Raises Malformed."""
    if not isinstance(row, Mapping):
        raise Malformed("it is no object")
    return Activity(
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
