"""Positions of the simulated account that change without an order, by the end of an option or by what is done to shares: what moves in the book, and
the activities that tell of it later."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from brokers.base import Instrument
from simulators.alpaca.book import AlpacaBook, alpaca_time
from simulators.alpaca.market import Asset

_KINDS = {
    "expiry": ("OPEXP", "Option Expiry"),
    "assignment": ("OPASN", "Option Assignment"),
    "exercise": ("OPEXC", "Option Exercise"),
}
_ACTIONS = {
    "split": ("SPLIT", "Stock Split"),
    "spin_off": ("SPIN", "Spin Off"),
    "merger": ("MA", "Merger/Acquisition"),
    "rename": ("NC", "Name Change"),
    "transfer": ("ACATS", "ACATS Transfer"),
}
_SHARES = Decimal(100)
_ROWS_A_PAGE = 100


class Movements:
    """As at Alpaca: positions have changed at once, without an order or an execution; the activities come when they are posted, an assignment or
    exercise as two: the contracts, and the shares at the strike."""

    def __init__(self, book: AlpacaBook) -> None:
        self._book = book
        self._rows: list[tuple[datetime, dict[str, Any]]] = []
        """With when each is posted, in that sequence."""

    def end(
        self, asset: Asset, kind: str, contracts: Decimal | None = None, posted_in_seconds: float = 0.0
    ) -> list[dict[str, Any]]:
        """`contracts`: so many of those held; None: all. Returns the activities. Raises ValueError where none are held, KeyError for another kind."""
        now = datetime.now(UTC)
        shown = [each.quantity for each in self._book.positions() if each.instrument.symbol == asset.symbol]
        held = sum(shown, Decimal(0))
        if not held or (contracts is not None and not 0 < contracts <= abs(held)):
            raise ValueError(f"{held} of {asset.symbol} are held")
        change = -held if contracts is None else contracts.copy_sign(-held)
        word, description = _KINDS[kind]
        rows = [_row(word, description, asset.symbol, change, Decimal(0), None, now)]
        self._book.move_position(asset.instrument(), change)
        if kind != "expiry":
            came = (asset.right == "call") is (kind == "exercise")
            shares = abs(change) * _SHARES * (1 if came else -1)
            paid = -shares * asset.strike
            self._book.move_position(Instrument(symbol=asset.underlying), shares, asset.strike)
            rows.append(_row("OPTRD", "Option Trade", asset.underlying, shares, paid, asset.strike, now))
        self._post(rows, now + timedelta(seconds=posted_in_seconds))
        return rows

    def act(
        self, kind: str, changes: Mapping[str, Decimal], posted_in_seconds: float = 0.0, *, is_told: bool = True
    ) -> list[dict[str, Any]]:
        """A corporate action, or a transfer: so many shares of each symbol come (negative: leave), a row each. With `is_told` false no activity ever
        tells of it. Raises KeyError for another kind, ValueError for a quantity of 0."""
        now = datetime.now(UTC)
        word, description = _ACTIONS[kind]
        rows = [_row(word, description, symbol, change, Decimal(0), None, now) for symbol, change in changes.items()]
        for symbol, change in changes.items():
            self._book.move_position(Instrument(symbol=symbol), change)
        if is_told:
            self._post(rows, now + timedelta(seconds=posted_in_seconds))
        return rows

    def _post(self, rows: list[dict[str, Any]], posted_at: datetime) -> None:
        number = len(self._rows)
        for place, row in enumerate(rows, number + 1):
            row["id"] = f"{posted_at:%Y%m%d%H%M%S}000::00000000-0000-4000-9000-{place:012d}"
            self._rows.append((posted_at, row))
        self._rows.sort(key=lambda each: each[0])

    def posted(self, query: dict[str, str]) -> list[dict[str, Any]]:
        """The page that the query asks for."""
        now = datetime.now(UTC)
        kinds = set(query.get("activity_types", "").split(","))
        after = query.get("after", "")
        rows = [
            row
            for posted_at, row in self._rows
            if posted_at <= now and row["activity_type"] in kinds and alpaca_time(posted_at) > after
        ]
        is_descending = query.get("direction", "desc") == "desc"
        rows.sort(key=lambda row: str(row["id"]), reverse=is_descending)
        token = query.get("page_token")
        if token:
            rows = [row for row in rows if (row["id"] < token if is_descending else row["id"] > token)]
        return rows[: min(int(query.get("page_size", _ROWS_A_PAGE)), _ROWS_A_PAGE)]


def _row(
    kind: str, description: str, symbol: str, quantity: Decimal, money: Decimal, price: Decimal | None, now: datetime
) -> dict[str, Any]:
    row = {
        "activity_type": kind,
        "date": now.astimezone(ZoneInfo("America/New_York")).date().isoformat(),
        "net_amount": format(money, "f"),
        "description": description,
        "symbol": symbol,
        "qty": format(quantity, "f"),
        "status": "executed",
    }
    return row if price is None else row | {"price": format(price, "f")}
