"""One account's orders and executions as Alpaca's lists show them: read, put together, and reported. No placing, no
session."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import quote

from brokers.alpaca import dialect
from brokers.alpaca.calls import AlpacaCalls
from brokers.alpaca.history import Executions, OlderOrders, leave_soon, window_start
from brokers.alpaca.rows import (
    FillRow,
    Malformed,
    MalformedRow,
    OrderRow,
    read_clock,
    read_fills,
    read_order,
    read_orders,
)
from brokers.base import Fill, FillsShown, Report, Reports, Unreadable
from brokers.errors import AnswerUnclear, BrokerUnavailable
from brokers.settled_reports import SettledTracker

_log = logging.getLogger(__name__)
_ORDERS_A_PAGE = 500
_FILLS_A_PAGE = 100
_MOST_PAGES = 200
_ONE_BY_ONE = 8
"""How many orders at most are asked for by themselves in one look."""
_CHAIN_LENGTH = 50
_MARKET_SECONDS = 60.0
"""How long the word that the market is open is good enough."""
_SETTLED_SECONDS = 20.0
"""How long an order and its executions must agree before one that is missing counts as annulled."""
_CORRECTED_BY = Decimal("0.0001")
"""The part by which the order's average price must differ from that of its executions for them to be read again."""
_WHOLE_SECONDS = 60.0
"""How often the day's whole list is read; in between it is read from the first order on that may still change."""
_REMEMBERED = 1_000


class AccountOrders:
    """What the account's lists say, with what is known from earlier looks. For one event loop."""

    def __init__(self, calls: AlpacaCalls, clock: Callable[[], datetime]) -> None:
        self._calls = calls
        self._clock = clock
        self._executions = Executions()
        self._older = OlderOrders()
        self._related: dict[str, OrderRow] = {}
        """Members of chains of replaced orders that the lists did not show, by Alpaca's id."""
        self._last_of: dict[str, str] = {}
        """By the id of a replaced order that of the last one of its chain."""
        self._annulled: dict[str, str] = {}
        """By order id, what the stream told of a busted or corrected execution."""
        self._read_again: set[str] = set()
        """Of these orders the executions are to be read anew."""
        self._averages: dict[str, tuple[Decimal, Decimal]] = {}
        """By order id, the count and average price for which that was done."""
        self._settled_tracker = SettledTracker(_SETTLED_SECONDS)
        self._opens_at: datetime | None = None
        self._market_read_at = float("-inf")
        self._malformed_logged: set[str] = set()
        self._over: list[OrderRow] = []
        """The day's first orders, in their sequence, as far as nothing of them changes any more."""
        self._whole_at = float("-inf")
        """When the day's whole list was read, in monotonic seconds."""

    async def reports(self) -> Reports:
        """As `Broker.reports`."""
        recent, older, malformed = await self._recent()
        rows = [*older, *recent]
        rows = await self._with_related(rows)
        odd_fills = await self._learn_executions(rows)
        self._set_over(recent, [*malformed, *odd_fills])
        await self._learn_opening(rows)
        unknown = {row.order_id for row in malformed} | {row.tag for row in malformed if row.tag}
        unclear = frozenset(row.order_id for row in odd_fills if row.order_id is not None)
        reports = [
            self._report(chain, unclear)
            for chain in dialect.chains(rows)
            if not unknown & {chain[0].order_id, chain[0].tag} - {None, ""}
        ]
        judged = self._settled_tracker.judge(reports, time.monotonic())
        return Reports(judged, unreadable=_unreadable([*malformed, *odd_fills], rows))

    async def find(self, client_order_id: str) -> Report | None:
        """As `Broker.find`."""
        row = await self.by_tag(client_order_id)
        if row is None:
            return None
        chain = await self._chain_from(row)
        odd_fills = await self._learn_executions(chain, each=True)
        await self._learn_opening(chain)
        return self._report(chain, frozenset(row.order_id for row in odd_fills if row.order_id is not None))

    def last_of(self, order_id: str) -> str:
        """The id of the order that this one was replaced by in the end, as far as it is known; else its own."""
        return self._last_of.get(order_id, order_id)

    async def by_tag(self, tag: str) -> OrderRow | None:
        """Raises AnswerUnclear."""
        query = {"client_order_id": tag}
        said = await self._calls.ask(lambda client: client.get_or_none("/orders:by_client_order_id", query))
        row = _order_or_none(said)
        if row is not None and row.tag != tag:
            raise AnswerUnclear(f"Alpaca answered with another order than {tag}")
        return row

    async def by_id(self, order_id: str) -> OrderRow | None:
        """Raises AnswerUnclear."""
        path = f"/orders/{quote(order_id, safe='')}"
        return _order_or_none(await self._calls.ask(lambda client: client.get_or_none(path)))

    def note_annulled(self, order_id: str, event: str) -> None:
        if len(self._annulled) > _REMEMBERED:
            self._annulled.clear()
        self._annulled[order_id] = event
        self._read_again.add(order_id)
        _log.warning(
            "Alpaca tells %s of order %s: compare its executions with the account's activities", event, order_id
        )

    def note_change(self, order_id: str | None) -> None:
        """Something happened to this order, or to any: it is not taken for over in the next look."""
        if order_id is None or any(row.order_id == order_id for row in self._over):
            self._whole_at = float("-inf")

    # Lists

    async def _recent(self) -> tuple[list[OrderRow], list[OrderRow], list[MalformedRow]]:
        """The orders submitted since the window's beginning; and older ones that were open at the last look."""
        now = self._clock()
        window = window_start(now)
        start = _written(window)
        recent, malformed = await self._order_pages(self._from_where(start))
        if self._over:
            known = {row.order_id for row in self._over}
            recent = [*self._over, *(row for row in recent if row.order_id not in known)]
        if self._older.open_ids or not self._older.are_known_at(window):
            still_open, odd = await self._order_pages({"status": "open", "until": start})
            malformed += odd
            gone = self._older.open_ids - {row.order_id for row in still_open} - {row.order_id for row in recent}
            self._older.learn(still_open)
            for order_id in list(gone)[:_ONE_BY_ONE]:
                ended = await self.by_id(order_id)
                if ended is not None:
                    self._older.learn([ended])
            self._older.forget_finished()
        self._older.read_at(window)
        named = {row.order_id for row in recent}
        # An order that leaves the window while it is open stays known.
        older = [row for row in self._older.rows() if row.order_id not in named]
        self._older.learn(leave_soon(recent, now))
        return recent, older, malformed

    def _from_where(self, start: str) -> Mapping[str, object]:
        """The whole window from time to time, else from the first order on that may still change."""
        now = time.monotonic()
        if now - self._whole_at >= _WHOLE_SECONDS:
            self._whole_at, self._over = now, []
        if not self._over:
            return {"status": "all", "after": start}
        return {"status": "all", "after_order_id": self._over[-1].order_id}

    def _set_over(self, recent: Sequence[OrderRow], malformed: Sequence[MalformedRow]) -> None:
        """Whole pages of orders that are over need not be read in the next looks."""
        over: list[OrderRow] = []
        for row in () if malformed else recent:
            if not dialect.is_over(row) or row in self._differing([row]):
                break
            over.append(row)
        self._over = over[: len(over) // _ORDERS_A_PAGE * _ORDERS_A_PAGE]

    async def _order_pages(self, query: Mapping[str, object]) -> tuple[list[OrderRow], list[MalformedRow]]:
        """All pages, oldest first. Raises BrokerUnavailable, AnswerUnclear."""
        asked: dict[str, object] = {**query, "direction": "asc", "limit": _ORDERS_A_PAGE, "nested": "false"}
        rows: dict[str, OrderRow] = {}
        malformed: list[MalformedRow] = []
        for _ in range(_MOST_PAGES):
            page = asked
            said = await self._calls.ask(lambda client: client.get("/orders", page))  # noqa: B023  asked at once
            try:
                good, odd = read_orders(said)
            except Malformed as exc:
                raise BrokerUnavailable(str(exc)) from exc
            rows |= {row.order_id: row for row in good}
            for each in odd:
                self._log_malformed(each.words)
            malformed += odd
            last = said[-1].get("id") if said and isinstance(said[-1], Mapping) else None
            if len(said) < _ORDERS_A_PAGE:
                return list(rows.values()), malformed
            if not isinstance(last, str) or last == asked.get("after_order_id"):
                break
            asked = {name: value for name, value in asked.items() if name not in ("after", "until")}
            asked["after_order_id"] = last
            last_at = good[-1].submitted_at if good else None
            if "until" in query and last_at is not None and _written(last_at) > str(query["until"]):
                # A page by id knows no end: what lies beyond it is read by the other list.
                return list(rows.values()), malformed
        raise AnswerUnclear("Alpaca's list of orders does not end")

    async def _with_related(self, rows: Sequence[OrderRow]) -> list[OrderRow]:
        """With the orders that replaced these or were replaced by them, a few new ones of them at a time."""
        by_id = {row.order_id: row for row in rows}
        asked = 0
        pending = [row for row in rows if row.replaced_by is not None or row.replaces is not None]
        while pending:
            row = pending.pop()
            for other in (row.replaced_by, row.replaces):
                if other is None or other in by_id:
                    continue
                found = self._related.get(other)
                if found is None or not dialect.is_over(found):
                    if asked >= _ONE_BY_ONE:
                        continue
                    asked += 1
                    found = await self.by_id(other)
                if found is not None:
                    self._remember_related(found)
                    by_id[other] = found
                    pending.append(found)
        return list(by_id.values())

    async def _chain_from(self, row: OrderRow) -> list[OrderRow]:
        chain, seen = [row], {row.order_id}
        while (following := chain[-1].replaced_by) is not None and following not in seen:
            if len(chain) >= _CHAIN_LENGTH:
                break
            found = await self.by_id(following)
            if found is None:
                break
            seen.add(following)
            chain.append(found)
        return chain

    def _remember_related(self, row: OrderRow) -> None:
        if len(self._related) > _REMEMBERED:
            self._related.clear()
        self._related[row.order_id] = row

    def _report(self, chain: Sequence[OrderRow], unclear: frozenset[str]) -> Report:
        """`unclear`: the orders of which an execution cannot be read."""
        if len(chain) > 1:
            if len(self._last_of) > _REMEMBERED:
                self._last_of.clear()
            self._last_of |= {row.order_id: chain[-1].order_id for row in chain[:-1]}
        told = next((self._annulled[row.order_id] for row in chain if row.order_id in self._annulled), None)
        note = None if told is None else f"the stream told a {told}"
        fills = self._executions.by_order(row.order_id for row in chain)
        report = dialect.report_of(chain, fills, opens_at=self._opens_at, note=note)
        if any(row.order_id in unclear for row in chain):
            return replace(report, is_unclear=True, fills_shown=FillsShown.SOME)
        return report

    async def _learn_opening(self, rows: Sequence[OrderRow]) -> None:
        """Asks for the market's hours, if an order may wait for them and they are not known."""
        now = self._clock()
        if self._opens_at is not None and now >= self._opens_at:
            self._opens_at = None
        if self._opens_at is not None or not any(dialect.may_be_held(row) for row in rows):
            return
        if time.monotonic() - self._market_read_at < _MARKET_SECONDS:
            return
        self._market_read_at = time.monotonic()
        try:
            opens_at = read_clock(await self._calls.ask(lambda client: client.get("/clock")))
        except BrokerUnavailable as exc:
            _log.info("Whether the market is open is not known: %s", exc)
            return
        self._opens_at = opens_at if opens_at is not None and opens_at > now else None

    # Executions

    async def _learn_executions(self, rows: Sequence[OrderRow], *, each: bool = False) -> list[MalformedRow]:
        """Reads new executions if an order counts others than are known; for what then still differs, all of the order.
        `each`: all of these orders at once."""
        differing = self._differing(rows)
        if not differing:
            return []
        malformed: list[MalformedRow] = []
        if not each:
            malformed += await self._read_executions(self._new_executions())
            differing = self._differing(rows)
        # The newest first: those of earlier days may differ for ever.
        for row in differing[::-1][:_ONE_BY_ONE]:
            self._read_again.discard(row.order_id)
            if row.average_price is not None:
                self._averages[row.order_id] = row.filled, row.average_price
            malformed += await self._read_executions({"order_id": row.order_id}, row.order_id)
        if len(self._averages) > _REMEMBERED:
            self._averages.clear()
        return malformed

    def _differing(self, rows: Iterable[OrderRow]) -> list[OrderRow]:
        return [
            row
            for row in rows
            if row.filled != self._executions.total(row.order_id)
            or row.order_id in self._read_again
            or self._is_corrected(row)
        ]

    def _is_corrected(self, row: OrderRow) -> bool:
        """Whether the order's average price is not that of its executions, and these were not read for that yet."""
        ours, theirs = self._executions.average(row.order_id), row.average_price
        if ours is None or theirs is None or abs(ours - theirs) <= ours * _CORRECTED_BY:
            return False
        return self._averages.get(row.order_id) != (row.filled, theirs)

    def _new_executions(self) -> dict[str, object]:
        token = self._executions.page_token
        return {"after": _written(window_start(self._clock()))} if token is None else {"page_token": token}

    async def _read_executions(self, query: Mapping[str, object], order_id: str | None = None) -> list[MalformedRow]:
        """`order_id`: the query is for all executions of this order, and what it does not show is not there."""
        found: list[tuple[FillRow, Fill]] = []
        asked: dict[str, object] = {**query, "direction": "asc", "page_size": _FILLS_A_PAGE}
        malformed: list[MalformedRow] = []
        for _ in range(_MOST_PAGES):
            page = asked
            said = await self._calls.ask(
                lambda client: client.get("/account/activities/FILL", page)  # noqa: B023  asked at once
            )
            try:
                rows, odd = read_fills(said)
            except Malformed as exc:
                raise BrokerUnavailable(str(exc)) from exc
            now = self._clock()
            found += [(row, dialect.fill_of(row, now)) for row in rows]
            for each in odd:
                self._log_malformed(each.words)
            malformed += odd
            if len(said) < _FILLS_A_PAGE or not rows or rows[-1].activity_id == asked.get("page_token"):
                if order_id is None:
                    self._executions.add(found)
                else:
                    self._executions.replace(order_id, found)
                return malformed
            asked["page_token"] = rows[-1].activity_id
        raise AnswerUnclear("Alpaca's list of executions does not end")

    def _log_malformed(self, words: str) -> None:
        """Once each: the lists are read every second."""
        if words not in self._malformed_logged:
            if len(self._malformed_logged) > _REMEMBERED:
                self._malformed_logged.clear()
            self._malformed_logged.add(words)
            _log.warning("Alpaca: %s", words)


def _order_or_none(said: object) -> OrderRow | None:
    if said is None:
        return None
    try:
        return read_order(said)
    except Malformed as exc:
        raise AnswerUnclear(f"An order of Alpaca's cannot be read: {exc}") from exc


def _unreadable(malformed: Sequence[MalformedRow], rows: Sequence[OrderRow]) -> list[Unreadable]:
    """What cannot be read and may be about an order of ours."""
    tags = {row.order_id: row.tag for row in rows}
    told = [(row.tag if row.tag is not None else tags.get(row.order_id or ""), row.words) for row in malformed]
    return [Unreadable(client_order_id=tag or "", words=words) for tag, words in told if tag != ""]


def _written(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
