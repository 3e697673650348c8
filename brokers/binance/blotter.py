"""What is known of an account's orders at Binance, read by as few calls as its weights allow: the recent orders in one
call, the open ones once a minute, trades only of contracts in which something was executed. No order is sent from here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

from brokers.base import Fill, Report, Side
from brokers.binance.calls import BinanceCalls, Refusal
from brokers.binance.codes import SYMBOL_MISSING, Meaning
from brokers.binance.rows import (
    AlgoRow,
    Malformed,
    MalformedRow,
    OrderRow,
    amount_or_none,
    made_by_binance,
    our_tag,
    read_algo,
    read_order,
    read_rows,
    read_trade,
    report_of,
    report_of_algo,
)
from brokers.errors import BrokerUnavailable

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_DAY_MS = 86_400_000
_WEEK_MS = 7 * _DAY_MS - 60_000
"""The longest window that Binance answers for."""
_PAGE = 1000
_EVERYTHING_SECONDS = 60.0
"""How often the whole day and all open orders are read. Between, what may still change is."""
_STILL_READ_MS = 600_000
"""How long after its creation a finished order is still read at every turn."""
_RECENT_MS = 120_000
_BY_ITSELF_SECONDS = 10.0
"""For how long an order may have executed more than the contract's trades show, before its own are asked for: a trade that was listed
after a later one is missing from the sequence for good."""
_REASONS_REMEMBERED = 10_000
_MALFORMED_REMEMBERED = 1_000

Key = tuple[str, int]
"""A symbol and an order's number, which is unique within it."""


class Blotter:
    """For one account and event loop."""

    def __init__(
        self,
        calls: BinanceCalls,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls
        self._monotonic = monotonic
        self._turn = asyncio.Lock()
        self._orders: dict[Key, OrderRow] = {}
        self._algos: dict[int, AlgoRow] = {}
        self._algo_tags: set[str] = set()
        """Of these."""
        self._algo_of: dict[Key, int] = {}
        """By the order that it became."""
        self._symbols: dict[str, str] = {}
        """By tag."""
        self._fills: defaultdict[Key, dict[int, Fill]] = defaultdict(dict)
        self._last_trade: dict[str, int] = {}
        self._short_since: dict[Key, float] = {}
        """Since when, or since the last time its own trades were asked for, an order has executed more than is known."""
        self._reasons: dict[str, str] = {}
        """By tag: why an order expired or was rejected, which only the stream tells."""
        self._changed: dict[Key, tuple[object, Decimal | None]] = {}
        """What the stream named and the reading of recent orders may not show, with the status and the executed quantity that it told."""
        self._everything_read_at = float("-inf")
        self._is_asked_by_symbol = False
        self._malformed_logged: set[str] = set()

    async def begin(self) -> None:
        """The next turn reads everything."""
        self._everything_read_at = float("-inf")

    def learn_place(self, tag: str, symbol: str) -> None:
        self._symbols[tag] = symbol

    def learn_algo(self, algo: AlgoRow) -> None:
        self._algos[algo.number] = algo
        if algo.child is not None:
            self._algo_of[algo.symbol, algo.child] = algo.number
        if algo.tag:
            self._symbols[algo.tag] = algo.symbol
            self._algo_tags.add(algo.tag)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """An event of the stream: which order it is about, and its reason if it has one. Anything that cannot be read is
        passed over, since the calls tell the same."""
        details = event.get("o")
        if not isinstance(details, Mapping):
            return
        number = details.get("i")
        if isinstance(details.get("s"), str) and isinstance(number, int):
            self._changed[details["s"], number] = details.get("X"), amount_or_none(details, "z")
        client_id = str(details.get("c") or details.get("caid") or "")
        why = made_by_binance(client_id)
        if why is not None:
            _log.error("%s in %s (%s)", why, details.get("s"), client_id)
        reason = str(details.get("rm") or "")
        expiry = str(details.get("er") or "0")
        if not reason and expiry != "0":
            reason = f"Expired at Binance, reason {expiry}"
        if reason and our_tag(client_id):
            if len(self._reasons) > _REASONS_REMEMBERED:
                self._reasons.clear()
            self._reasons[client_id] = reason

    async def reports(self) -> tuple[list[Report], list[MalformedRow]]:
        """All orders of the last 24 hours and all open ones, and the rows that cannot be read. Raises Malformed and the errors
        of `brokers.errors`."""
        async with self._turn:
            await self._calls.pace()
            malformed: list[MalformedRow] = []
            is_whole = self._monotonic() - self._everything_read_at >= _EVERYTHING_SECONDS
            now_ms = self._calls.now_ms()
            since_ms = now_ms - _DAY_MS if is_whole else self._horizon(now_ms)
            is_first = self._everything_read_at == float("-inf")
            if is_whole:
                await self._read_open(malformed)
            listed, duplicates = await self._read_recent(since_ms, malformed)
            if is_first:
                await self._read_algos_of_the_day(now_ms - _DAY_MS, malformed)
            await self._read_changed(since_ms, malformed)
            await self._read_algos(malformed)
            await self._read_trades(malformed)
            if is_whole:
                self._everything_read_at = self._monotonic()
                self._forget(now_ms - _DAY_MS)
            for row in malformed:
                self._log_malformed(row.words)
            return self._reported(listed, duplicates), malformed

    async def find(self, tags: Sequence[str]) -> dict[str, Report | None]:
        """The orders with these tags; one about which the answer is unclear is left out."""
        malformed: list[MalformedRow] = []
        wanted, rows = set(tags), dict[Key, OrderRow]()
        algos: dict[str, AlgoRow] = {}
        if len(wanted) == 1:
            (tag,) = wanted
            symbol = self._symbols.get(tag)
            row = None if symbol is None else await self.one_order(symbol, tag=tag)
            if row is not None and row.tag == tag and not self._may_be_triggered(row):
                return await self._reports_on([tag], {row.key: row}, {}, malformed)
        for tag in wanted:
            algo = await self.one_algo(tag=tag)
            if algo is not None:
                algos[tag] = algo
        if wanted - set(algos):
            symbols = {self._symbols.get(tag) for tag in wanted}
            only = symbols.pop() if len(symbols) == 1 else None
            rows |= {row.key: row for row in await self._open_orders(malformed, only)}
            missing = wanted - set(algos) - {row.tag for row in rows.values()}
            now_ms = self._calls.now_ms()
            for begin_ms in (now_ms - _DAY_MS, now_ms - _WEEK_MS) if missing else ():
                found = await self._window(begin_ms, None, malformed)
                rows |= {row.key: row for row in found}
                missing -= {row.tag for row in found}
                if not missing or begin_ms < now_ms - _DAY_MS or not self._may_be_older(missing):
                    break
        return await self._reports_on(tags, rows, algos, malformed)

    async def closing(self, symbol: str, side: Side) -> list[OrderRow]:
        """The open orders of this side that can only close a position. Raises Malformed and the errors of `brokers.errors`."""
        malformed: list[MalformedRow] = []
        rows = await self._open_orders(malformed, symbol)
        if malformed:
            raise Malformed(malformed[0].words)
        return [row for row in rows if row.closing_side is side]

    async def one_order(self, symbol: str, number: int | None = None, *, tag: str = "") -> OrderRow | None:
        """None: Binance does not show it now."""
        name: dict[str, object] = {"orderId": number} if number is not None else {"origClientOrderId": tag}
        try:
            row = read_order(await self._calls.ask("GET", "/fapi/v1/order", {"symbol": symbol, **name}))
        except Refusal as refusal:
            if refusal.meaning is Meaning.NOT_THERE:
                return None
            raise BrokerUnavailable(f"Binance: {refusal}") from refusal
        self._learn([row])
        return row

    async def one_algo(self, *, number: int | None = None, tag: str = "") -> AlgoRow | None:
        """None: Binance does not show it now."""
        name: dict[str, object] = {"algoId": number} if number is not None else {"clientAlgoId": tag}
        try:
            row = read_algo(await self._calls.ask("GET", "/fapi/v1/algoOrder", name))
        except Refusal as refusal:
            if refusal.meaning is Meaning.NOT_THERE:
                return None
            raise BrokerUnavailable(f"Binance: {refusal}") from refusal
        self.learn_algo(row)
        return row

    # One turn

    def _horizon(self, now_ms: int) -> int:
        """Since when orders may still change."""
        moving = [
            row.created_ms
            for row in self._orders.values()
            if row.is_working or self._is_short(row) or now_ms - row.created_ms < _STILL_READ_MS
        ]
        return max(min((*moving, now_ms - _RECENT_MS)) - 1, now_ms - _DAY_MS)

    async def _read_open(self, malformed: list[MalformedRow]) -> None:
        """Every open order, however old; what was open before and is not listed is asked for by itself."""
        before = {key for key, row in self._orders.items() if row.is_working}
        rows = await self._open_orders(malformed)
        self._changed |= dict.fromkeys(before - {row.key for row in rows}, (None, None))
        answer = await self._calls.ask("GET", "/fapi/v1/openAlgoOrders", weight=40)
        algos, odd = read_rows(answer, read_algo, "conditional orders", "clientAlgoId")
        malformed += odd
        for algo in algos:
            self.learn_algo(algo)

    async def _open_orders(self, malformed: list[MalformedRow], symbol: str | None = None) -> list[OrderRow]:
        params = {} if symbol is None else {"symbol": symbol}
        answer = await self._calls.ask("GET", "/fapi/v1/openOrders", params, weight=40 if symbol is None else 1)
        rows, odd = read_rows(answer, read_order, "open orders")
        malformed += odd
        self._learn(rows)
        return rows

    async def _read_recent(self, since_ms: int, malformed: list[MalformedRow]) -> tuple[list[Key], list[Key]]:
        """In the sequence of the answer: each order once, and those that it repeats."""
        rows = await self._window(since_ms, None, malformed)
        listed: dict[Key, None] = {}
        repeated = [row.key for row in rows if row.key in listed or listed.setdefault(row.key)]
        return list(listed), repeated

    async def _window(self, begin_ms: int, end_ms: int | None, malformed: list[MalformedRow]) -> list[OrderRow]:
        """The orders created in this time. In which sequence a full page comes, and so which orders are missing from it, is
        not relied upon: the time is halved instead."""
        if self._is_asked_by_symbol:
            return await self._window_by_symbol(begin_ms, malformed)
        params: dict[str, object] = {"startTime": begin_ms, "limit": _PAGE}
        if end_ms is not None:
            params["endTime"] = end_ms
        try:
            answer = await self._calls.ask("GET", "/fapi/v1/allOrders", params, weight=5)
        except Refusal as refusal:
            if refusal.code != SYMBOL_MISSING:
                raise BrokerUnavailable(f"Binance: {refusal}") from refusal
            # Optional since 2026-08-25; a host that lags behind is asked for each contract.
            self._is_asked_by_symbol = True
            return await self._window_by_symbol(begin_ms, malformed)
        if isinstance(answer, list) and len(answer) >= _PAGE:
            last_ms = self._calls.now_ms() if end_ms is None else end_ms
            middle_ms = (begin_ms + last_ms) // 2
            if begin_ms < middle_ms < last_ms:
                earlier = await self._window(begin_ms, middle_ms, malformed)
                return earlier + await self._window(middle_ms + 1, end_ms, malformed)
        rows, odd = read_rows(answer, read_order, "orders")
        malformed += odd
        self._learn(rows)
        return rows

    async def _window_by_symbol(self, begin_ms: int, malformed: list[MalformedRow]) -> list[OrderRow]:
        found: list[OrderRow] = []
        known = {*self._symbols.values(), *(symbol for symbol, _ in self._orders)}
        for symbol in sorted(known):
            params = {"symbol": symbol, "startTime": begin_ms, "limit": _PAGE}
            rows, odd = read_rows(
                await self._calls.ask("GET", "/fapi/v1/allOrders", params, weight=5), read_order, "orders"
            )
            malformed += odd
            found += rows
        self._learn(found)
        return found

    async def _read_changed(self, since_ms: int, malformed: list[MalformedRow]) -> None:
        """Orders that the stream named, or that are open no more, and that are older than what was just read, or shown there as they were
        before."""
        changed, self._changed = self._changed, {}
        for key, (status, executed) in sorted(changed.items(), key=lambda each: each[0]):
            row = self._orders.get(key)
            if row is None:
                continue
            is_behind = row.is_working and (row.status, row.executed) != (status, executed)
            if row.created_ms < since_ms or is_behind:
                await _read_by_itself(self.one_order(*key), row.tag, malformed)

    async def _read_algos_of_the_day(self, since_ms: int, malformed: list[MalformedRow]) -> None:
        """Of the contracts with orders of ours: so that what a conditional order became is known as that, however it is shown. Not told by
        every host; then it is known where it says so itself."""
        for symbol in sorted({row.symbol for row in self._orders.values() if row.tag}):
            try:
                answer = await self._calls.ask(
                    "GET", "/fapi/v1/allAlgoOrders", {"symbol": symbol, "startTime": since_ms, "limit": _PAGE}, weight=5
                )
            except Refusal as refusal:
                _log.warning("Binance does not list the conditional orders of the day (%s)", refusal)
                return
            algos, odd = read_rows(answer, read_algo, "conditional orders", "clientAlgoId")
            malformed += odd
            for algo in algos:
                self.learn_algo(algo)

    async def _read_algos(self, malformed: list[MalformedRow]) -> None:
        """Of the contracts with conditional orders that may change. One that is listed no more is asked for by itself, as is the
        one that became an order which says so."""
        asked = set[str]()
        for row in list(self._orders.values()):
            is_child = row.tag and row.key not in self._algo_of and self._may_be_triggered(row)
            if is_child and row.tag not in asked:
                asked.add(row.tag)
                found = await _read_by_itself(self.one_algo(tag=row.tag), row.tag, malformed)
                if found is not None and found.child is None:
                    self._algo_of[row.key] = found.number
        moving = [algo for algo in self._algos.values() if algo.may_change]
        for symbol in sorted({algo.symbol for algo in moving}):
            answer = await self._calls.ask("GET", "/fapi/v1/openAlgoOrders", {"symbol": symbol})
            algos, odd = read_rows(answer, read_algo, "conditional orders", "clientAlgoId")
            malformed += odd
            for algo in algos:
                self.learn_algo(algo)
            listed = {algo.number for algo in algos}
            for algo in moving:
                if algo.symbol == symbol and algo.number not in listed:
                    await _read_by_itself(self.one_algo(number=algo.number), algo.tag, malformed)
        for algo in list(self._algos.values()):
            if algo.child is not None and (algo.symbol, algo.child) not in self._orders:
                await _read_by_itself(self.one_order(algo.symbol, algo.child), algo.tag, malformed)

    async def _read_trades(self, malformed: list[MalformedRow]) -> None:
        """Of each contract in which more was executed than the known trades show."""
        short: defaultdict[str, list[OrderRow]] = defaultdict(list)
        for row in self._orders.values():
            if self._is_short(row):
                short[row.symbol].append(row)
        for symbol, rows in sorted(short.items()):
            await self._read_trades_of(symbol, min(row.created_ms for row in rows), malformed)
            for row in rows:
                if self._is_to_be_read_by_itself(row):
                    await self._read_trades_by_order(row, malformed)

    def _is_to_be_read_by_itself(self, row: OrderRow) -> bool:
        if not self._is_short(row):
            self._short_since.pop(row.key, None)
            return False
        now = self._monotonic()
        if row.created_ms < self._calls.now_ms() - _WEEK_MS:
            return True
        if now - self._short_since.setdefault(row.key, now) < _BY_ITSELF_SECONDS:
            return False
        self._short_since[row.key] = now
        return True

    async def _read_trades_of(self, symbol: str, since_ms: int, malformed: list[MalformedRow]) -> None:
        while True:
            last = self._last_trade.get(symbol)
            begin: dict[str, object] = (
                {"startTime": max(since_ms - 1, self._calls.now_ms() - _WEEK_MS)}
                if last is None
                else {"fromId": last + 1}
            )
            if await self._learn_trades({"symbol": symbol, **begin}, malformed, counts=True) < _PAGE:
                return

    async def _read_trades_by_order(self, row: OrderRow, malformed: list[MalformedRow]) -> None:
        await self._learn_trades({"symbol": row.symbol, "orderId": row.number}, malformed, counts=False)

    async def _learn_trades(self, params: Mapping[str, object], malformed: list[MalformedRow], *, counts: bool) -> int:
        """Returns how many came. `counts`: they continue the sequence of the contract's trades."""
        answer = await self._calls.ask("GET", "/fapi/v1/userTrades", {**params, "limit": _PAGE}, weight=5)
        trades, odd = read_rows(answer, read_trade, "trades", "orderId")
        for row in odd:
            malformed.append(replace(row, tag=None))
        for trade in trades:
            self._fills[trade.symbol, trade.order][trade.number] = trade.fill
        if counts and trades and not odd:
            symbol = trades[0].symbol
            self._last_trade[symbol] = max(self._last_trade.get(symbol, 0), *(trade.number for trade in trades))
        return len(answer)

    # Answers

    def _reported(self, listed: Sequence[Key], repeated: Sequence[Key]) -> list[Report]:
        """Every order that is known, those that were just listed last and in their sequence."""
        sequence = [*(key for key in self._orders if key not in set(listed)), *listed, *repeated]
        rows = [self._orders[key] for key in sequence if key in self._orders and key not in self._algo_of]
        reports = [report_of(row, self._fills_of(row), self._reasons.get(row.tag)) for row in rows]
        reports += [self._report_of_algo(algo) for algo in self._algos.values()]
        return _with_all_ids(reports)

    def _report_of_algo(self, algo: AlgoRow) -> Report:
        child = None if algo.child is None else self._orders.get((algo.symbol, algo.child))
        if child is None:
            # Found by its id, before the conditional order itself names it.
            key = next((key for key, number in self._algo_of.items() if number == algo.number), None)
            child = None if key is None else self._orders.get(key)
        fills = [] if child is None else self._fills_of(child)
        return report_of_algo(algo, child, fills, self._reasons.get(algo.tag))

    async def _reports_on(
        self,
        tags: Iterable[str],
        rows: Mapping[Key, OrderRow],
        algos: Mapping[str, AlgoRow],
        malformed: list[MalformedRow],
    ) -> dict[str, Report | None]:
        odd = {row.tag for row in malformed}
        told: dict[str, Report | None] = {}
        for tag in tags:
            algo = algos.get(tag)
            own = sorted((row for row in rows.values() if row.tag == tag), key=lambda row: (row.created_ms, row.number))
            if algo is not None:
                child = None if algo.child is None else await self.one_order(algo.symbol, algo.child)
                if child is not None:
                    await self._complete(child, malformed)
                told[tag] = self._report_of_algo(algo)
            elif own:
                for row in own:
                    await self._complete(row, malformed)
                reports = [report_of(row, self._fills_of(row), self._reasons.get(tag)) for row in own]
                told[tag] = _with_all_ids(reports)[0]
            elif tag not in odd and None not in odd:
                told[tag] = None
        return told

    async def _complete(self, row: OrderRow, malformed: list[MalformedRow]) -> None:
        if self._is_short(row):
            await self._read_trades_by_order(row, malformed)

    # What is known

    def _learn(self, rows: Iterable[OrderRow]) -> None:
        for row in rows:
            self._orders[row.key] = row
            if row.tag:
                self._symbols[row.tag] = row.symbol

    def _fills_of(self, row: OrderRow) -> list[Fill]:
        return [fill for _, fill in sorted(self._fills.get(row.key, {}).items())]

    def _is_short(self, row: OrderRow) -> bool:
        known = self._fills.get(row.key)
        return row.executed > sum((fill.quantity for fill in known.values()), Decimal(0)) if known else row.executed > 0

    def _may_be_triggered(self, row: OrderRow) -> bool:
        """Whether it says so, or has the tag of a conditional order."""
        return row.is_triggered or row.tag in self._algo_tags

    def _may_be_older(self, tags: set[str]) -> bool:
        """Whether an order with one of these tags may have been placed before the last 24 hours: not if this process itself has
        placed or seen it since it was connected."""
        return not all(tag in self._symbols for tag in tags)

    def _forget(self, before_ms: int) -> None:
        """Finished orders that are older than a day, with what belongs to them."""
        gone = [
            key
            for key, row in self._orders.items()
            if row.created_ms < before_ms and not row.is_working and not self._is_short(row)
        ]
        for key in gone:
            row = self._orders.pop(key)
            self._fills.pop(key, None)
            self._short_since.pop(key, None)
            self._symbols.pop(row.tag, None)
            number = self._algo_of.pop(key, None)
            algo = None if number is None else self._algos.pop(number, None)
            if algo is not None:
                self._algo_tags.discard(algo.tag)
        for algo in list(self._algos.values()):
            if algo.created_ms < before_ms and not algo.may_change and algo.child is None:
                self._algos.pop(algo.number)
                self._algo_tags.discard(algo.tag)
                self._symbols.pop(algo.tag, None)

    def _log_malformed(self, words: str) -> None:
        """Once each: the lists are read every second."""
        if words not in self._malformed_logged:
            if len(self._malformed_logged) > _MALFORMED_REMEMBERED:
                self._malformed_logged.clear()
            self._malformed_logged.add(words)
            _log.warning("%s", words)


async def _read_by_itself(question: Awaitable[_T | None], tag: str, malformed: list[MalformedRow]) -> _T | None:
    """The answer; one that cannot be read is noted and spoils no other."""
    try:
        return await question
    except Malformed as exc:
        malformed.append(MalformedRow(tag, f"An order that Binance was asked for cannot be read: {exc}"))
        return None


def _with_all_ids(reports: Sequence[Report]) -> list[Report]:
    """Where several orders bear one tag, each report names them all, oldest first."""
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for report in reports:
        if report.client_order_id and report.broker_order_id not in ids[report.client_order_id]:
            ids[report.client_order_id].append(report.broker_order_id)
    return [
        replace(report, orders_under_tag=tuple(sorted(own, key=_number_of)))
        if report.client_order_id and len(own := ids[report.client_order_id]) > 1
        else report
        for report in reports
    ]


def _number_of(broker_order_id: str) -> int:
    return int(broker_order_id.rpartition(":")[2])
