"""Rows of `trades` on MongoDB: pages by their ids, which rise with time, and exact sums by the server."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from bson import Decimal128

from execution_service.core.errors import UnreadableRecord
from execution_service.core.trades.documents import UNSUMMED, trade_from_document
from execution_service.core.trades.rows import BEHIND_LAST_ID, FIRST_ID, TradeKind, TradeRow, id_from
from execution_service.core.views.record import Document
from execution_service.storage.mongo.names import TRADES_VIEW
from execution_service.storage.mongo.port import MongoPort, Place
from execution_service.storage.ports.queries import Cash, PageOfTrades
from execution_service.storage.ports.queries import Place as PagePlace

LONGEST_QUERY_MS = 10_000
WINDOWS = (timedelta(days=1), timedelta(days=30))


@dataclass(slots=True)
class _Sums:
    traded: Decimal = Decimal(0)
    commissions: Decimal = Decimal(0)
    unknown: int = 0


class MongoTrades(MongoPort):
    """Reads alone."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._now = place.clock.now

    async def latest_trades(self, after: PagePlace | None, limit: int) -> PageOfTrades:
        def read() -> PageOfTrades:
            until = self._now() if after is None else after.moment
            found: list[Document] = []
            for window in (*WINDOWS, None):
                # Not every server sorts by an index, though each bounds by one.
                lowest = FIRST_ID if window is None else id_from(until - window)
                bounds = {"$gte": lowest, "$lt": BEHIND_LAST_ID if after is None else after.row_id}
                read_now = self._db[TRADES_VIEW].find(
                    {"_id": bounds}, sort=[("_id", -1)], limit=limit + 1, max_time_ms=LONGEST_QUERY_MS
                )
                found = list(read_now)
                if len(found) > limit:
                    break
            rows = list(readable_trades(found[:limit]))
            if len(found) <= limit:
                return PageOfTrades(rows, None)
            # By what was read, and not by what could be: documents of others end no page.
            return PageOfTrades(rows, PagePlace(moment=rows[-1].at if rows else until, row_id=found[limit - 1]["_id"]))

        return await self._calls.look(read)

    async def trades_named(self, trade_ids: Collection[str]) -> list[TradeRow]:
        query = {"_id": {"$in": list(trade_ids)}}
        return await self._calls.look(lambda: list(readable_trades(self._db[TRADES_VIEW].find(query))))

    async def cash_by_trades(self) -> Sequence[Cash]:
        def read() -> Sequence[Cash]:
            sums: defaultdict[tuple[str, str], _Sums] = defaultdict(_Sums)
            trades = self._db[TRADES_VIEW]
            for place, found in _groups(trades.aggregate(_summed("$currency", "cash"), maxTimeMS=LONGEST_QUERY_MS)):
                sums[place].traded += _exact(found["sum"])
                sums[place].unknown += int(found["unknown"])
            paid_in = {"$ifNull": ["$commission_currency", "$currency"]}
            for place, found in _groups(trades.aggregate(_summed(paid_in, "commission"), maxTimeMS=LONGEST_QUERY_MS)):
                sums[place].commissions += _exact(found["sum"])
            for row in readable_trades(trades.find({UNSUMMED: True}, max_time_ms=LONGEST_QUERY_MS)):
                sums[row.account_id, row.currency].unknown += row.unknown_amounts
                if row.moves_cash:
                    sums[row.account_id, row.currency].traded -= row.value or 0
                sums[row.account_id, row.commission_currency or row.currency].commissions += row.commission or 0
            return [
                Cash(account_id=account_id, currency=currency, **asdict(each))
                for (account_id, currency), each in sorted(sums.items())
                if each != _Sums()
            ]

        return await self._calls.look(read)


def readable_trades(documents: Iterable[Document]) -> Iterator[TradeRow]:
    """Others may write into that collection, too: what is none of ours is left out."""
    for document in documents:
        with contextlib.suppress(UnreadableRecord):
            yield trade_from_document(document)


def _summed(currency: Any, amount: str) -> list[Document]:
    """The server adds up exact decimals of up to 34 digits; rows of longer ones are marked, and added up here."""
    is_unknown = {"$eq": [{"$ifNull": ["$exact.cash", None]}, None]}
    is_taken_back = {"$eq": ["$kind", TradeKind.REVERSAL.value]}
    group: Document = {
        "_id": {"account_id": "$account_id", "currency": currency},
        "sum": {"$sum": {"$toDecimal": f"$exact.{amount}"}},
        "unknown": {"$sum": {"$cond": [is_unknown, {"$cond": [is_taken_back, -1, 1]}, 0]}},
    }
    return [{"$match": {UNSUMMED: {"$exists": False}, "exact": {"$type": "object"}}}, {"$group": group}]


def _groups(found: Iterable[Document]) -> Iterator[tuple[tuple[str, str], Document]]:
    for each in found:
        place = (each["_id"].get("account_id"), each["_id"].get("currency"))
        if isinstance(place[0], str) and isinstance(place[1], str):
            yield place, each


def _exact(number: Any) -> Decimal:
    """Of no row that has such an amount the sum is a plain 0."""
    return number.to_decimal() if isinstance(number, Decimal128) else Decimal(number)
