"""Alpaca's market data: the latest quote and trade of shares, options and coins, by one call for each of these classes, of the feed that the
account has; and how much of shares is traded. No orders; a failure here says nothing about the account."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

import requests
from alpaca.common.exceptions import APIError

from brokers.alpaca import dialect
from brokers.alpaca.calls import Access, RawClient, refusal_of, seconds_to_reset
from brokers.alpaca.codes import TOO_MANY, Refusal
from brokers.alpaca.rows import Malformed, SnapshotRow, read_snapshot, read_snapshots, read_volumes
from brokers.base import Instrument, NoQuote, Quote
from brokers.blocking_calls import BlockingCalls, ExactSession, never_connected
from brokers.call_kinds import CallKind
from brokers.errors import BrokerError, BrokerUnavailable, OrderRefused, RateLimited
from brokers.volumes import KeptVolumes

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_SYMBOLS_A_CALL = 100
"""Alpaca's limit for options; a list of symbols is part of the address, and should not grow without end."""
_CAN_BE_LISTED = re.compile(r"[A-Z0-9][A-Z0-9./-]{0,31}")
"""Anything else would be taken for several symbols, or for none."""
_WIDEST = Decimal("0.05")
_WIDEST_OF_OPTIONS = Decimal("0.25")
"""Parts of the bid. A bid and an ask that lie further apart (before the opening, of one exchange, of an option that nobody trades) show where
a few orders stand, and not where the market is. Options are cheap, and their quotes are wider by nature."""
_NOT_SUBSCRIBED = ("subscription", "agreement")
"""Of the refusal of a feed that the account does not have: "subscription does not permit querying recent SIP data", "OPRA agreement is not
signed"."""
_A_SHARE, _AN_OPTION = "SPY", "SPY301220C00500000"
"""By which it is found out what the account is told; the option need not exist."""


_SESSIONS, _SESSION_MINUTES = 20, 390
"""The usual volume is the mean of so many sessions, spread over the minutes of the regular one (9:30 to 16:00 in New York)."""
_LATEST_SESSION = timedelta(hours=24)
"""A day's bar has the time of its midnight in New York: one that began so long ago is over. That is also more than the quarter of an hour within
which the tape of all exchanges is kept to those who subscribe to it ("About Market Data API": older data are for everybody)."""
_FIRST_SESSION = timedelta(days=35)
_CALLS_FOR_BARS = 4
_MOST_BARS = 10_000
"""A page of bars has no more; more than a hundred symbols are never asked about at once."""
_VOLUMES_KEPT_SECONDS = 3_600.0


class Feed(StrEnum):
    """Where the quotes of shares come from."""

    AUTO = "auto"
    """The consolidated tape where the account subscribes to it, else IEX."""
    SIP = "sip"
    """All exchanges."""
    IEX = "iex"
    """One exchange."""
    DELAYED_SIP = "delayed_sip"
    """All exchanges, a quarter of an hour ago."""


class FeedRefused(BrokerUnavailable):
    """Alpaca has positively no data for what was asked: the account has not got the feed, or a symbol is none."""

    def __init__(self, words: str, refusal: Refusal) -> None:
        super().__init__(words)
        self.refusal = refusal

    @property
    def wants_subscription(self) -> bool:
        return _wants_subscription(self.refusal)

    def invalid_among(self, symbols: Collection[str]) -> str | None:
        """The one of these symbols that Alpaca calls invalid: it answers for none of the others then."""
        named = re.search(r"invalid symbol: (\S+)", self.refusal.words)
        symbol = None if named is None else named[1].rstrip(".,;\"'")
        return symbol if symbol in symbols else None


class MarketDataCalls(BlockingCalls[RawClient]):
    """Calls to the host of the market data, within a limit of its own. They fail with BrokerUnavailable, FeedRefused or RateLimited."""

    def __init__(self, access: Access) -> None:
        """`access.base_url` is the data's; `access.other_limits` are those of these calls."""
        super().__init__(
            "Alpaca's market data",
            order_limits=(),
            other_limits=access.other_limits,
            answer_timeout_seconds=access.answer_timeout_seconds,
        )
        self._access = access

    async def snapshots(self, version: str, path: str, symbols: Sequence[str], feed: str | None = None) -> Any:
        query = {"symbols": ",".join(symbols)} | ({} if feed is None else {"feed": feed})
        return await self.ask(lambda client: client.get(path, query, version=version), CallKind.QUOTE)

    async def daily_bars(self, symbols: Sequence[str], start: datetime, end: datetime) -> Any:
        """Of shares on all exchanges, prices and volumes as they are after splits."""
        query = {
            "symbols": ",".join(symbols),
            "timeframe": "1Day",
            "start": f"{start:%Y-%m-%dT%H:%M:%SZ}",
            "end": f"{end:%Y-%m-%dT%H:%M:%SZ}",
            "adjustment": "split",
            "sort": "asc",
            "feed": Feed.SIP,
            "limit": str(_MOST_BARS),
        }
        return await self.ask(lambda client: client.get("/stocks/bars", query, version="v2"), CallKind.QUOTE)

    def calls_left(self) -> dict[tuple[str, float], int]:
        return {("quotes", seconds): n for (kind, seconds), n in self.left().items() if kind == "queries"}

    def _client(self) -> RawClient:
        return RawClient(self._access, self._count)

    def _session_of(self, client: RawClient) -> ExactSession:
        return client.session

    def _called(self, client: RawClient, call: Callable[[RawClient], _T]) -> _T:
        return call(client)

    def _count(self, response: requests.Response) -> None:
        """Other programs of the account may have used the last call of the minute."""
        if response.headers.get("X-RateLimit-Remaining") == "0":
            self._other_budget.pause(seconds_to_reset(response))

    def _translated(self, exc: Exception, kind: CallKind) -> BrokerError:
        if never_connected(exc):
            return BrokerUnavailable("Alpaca's market data cannot be reached")
        if not isinstance(exc, APIError):
            return BrokerUnavailable(self._access.without_secrets(f"Alpaca's market data: {exc or type(exc).__name__}"))
        refusal = refusal_of(exc)
        words = self._access.without_secrets(f"Alpaca's market data ({refusal.status}): {refusal.words}")
        if refusal.status == TOO_MANY:
            seconds = seconds_to_reset(exc.response)
            self._other_budget.pause(seconds)
            return RateLimited(words, wait_seconds=seconds)
        is_about_this = refusal.status in (400, 404, 422) or _wants_subscription(refusal)
        return FeedRefused(words, refusal) if refusal.fields and is_about_this else BrokerUnavailable(words)


class AccountQuotes:
    """The quotes of one account. Which feed of shares the account has is found out by the first call of a session."""

    def __init__(self, access: Access, *, feed: Feed) -> None:
        self._calls = MarketDataCalls(access)
        self._wanted = feed
        self._shares_from = feed
        self._volumes = KeptVolumes(_VOLUMES_KEPT_SECONDS)

    def open(self) -> None:
        """Idempotent. What the account is told is found out anew."""
        self._calls.open()
        self._shares_from = self._wanted

    def close(self) -> None:
        self._calls.close()

    def calls_left(self) -> dict[tuple[str, float], int]:
        return self._calls.calls_left()

    async def quotes(self, instruments: Collection[Instrument]) -> dict[Instrument, Quote | NoQuote]:
        """By one call for each class of assets; of more than a hundred of a class the rest is left out. Raises BrokerUnavailable if one
        of the calls fails."""
        found: dict[Instrument, Quote | NoQuote] = {}
        wanted: dict[str, dict[str, list[Instrument]]] = {}
        for instrument in instruments:
            try:
                kind, symbol = dialect.class_of(instrument), dialect.symbol_of(instrument)
            except OrderRefused as exc:
                found[instrument] = NoQuote(reason=exc.reason)
                continue
            if _CAN_BE_LISTED.fullmatch(symbol) is None:
                found[instrument] = NoQuote(reason=f"{symbol} is no symbol of Alpaca's")
                continue
            wanted.setdefault(kind, {}).setdefault(symbol, []).append(instrument)
        asked = [self._quotes_of(kind, list(symbols)[:_SYMBOLS_A_CALL]) for kind, symbols in wanted.items()]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for symbols, told in zip(wanted.values(), answers, strict=True):
            if isinstance(told, BaseException):
                raise told
            for symbol, quote in told.items():
                found |= dict.fromkeys(symbols[symbol], quote)
        return found

    async def usual_volumes(self, instruments: Collection[Instrument]) -> dict[Instrument, Decimal]:
        """Of shares alone: a minute's part of the mean of the last 20 sessions on all exchanges, by one call for all that are not known yet, at
        most every hour. Options have none (orders are of contracts that hardly trade), and what is traded in coins at Alpaca's own venue is not
        their market. Of more than a hundred the rest is left out. Raises BrokerUnavailable."""
        symbols: dict[Instrument, str] = {}
        for instrument in instruments:
            try:
                kind, symbol = dialect.class_of(instrument), dialect.symbol_of(instrument)
            except OrderRefused:
                continue
            if kind == dialect.EQUITY and _CAN_BE_LISTED.fullmatch(symbol) is not None:
                symbols[instrument] = symbol
        to_ask = self._volumes.to_ask(dict.fromkeys(symbols.values()))[:_SYMBOLS_A_CALL]
        if to_ask:
            await self._keep_volumes_of(to_ask)
        found = ((instrument, self._volumes.of(symbol)) for instrument, symbol in symbols.items())
        return {instrument: volume for instrument, volume in found if volume is not None}

    async def _keep_volumes_of(self, symbols: Sequence[str]) -> None:
        """Where one of them is no symbol of Alpaca's, that is kept, and the others are asked about again, since they are not answered then. Raises
        BrokerUnavailable; whatever else is refused says nothing of what is traded."""
        now = datetime.now(UTC)
        for _ in range(_CALLS_FOR_BARS):
            try:
                said = await self._calls.daily_bars(symbols, now - _FIRST_SESSION, now - _LATEST_SESSION)
                told = read_volumes(said)
            except FeedRefused as exc:
                invalid = exc.invalid_among(symbols)
                if invalid is None:
                    raise
                self._volumes.keep([invalid], {})
                symbols = [symbol for symbol in symbols if symbol != invalid]
                if not symbols:
                    return
                continue
            except Malformed as exc:
                raise BrokerUnavailable(f"Alpaca's bars cannot be read: {exc}") from exc
            latest = {symbol: volumes[-_SESSIONS:] for symbol, volumes in told.items()}
            means = ((symbol, sum(mine, Decimal(0)) / len(mine)) for symbol, mine in latest.items() if mine)
            self._volumes.keep(symbols, {symbol: mean / _SESSION_MINUTES for symbol, mean in means if mean})
            return
        raise BrokerUnavailable(f"Alpaca calls {_CALLS_FOR_BARS} of the symbols invalid, and tells the volume of none")

    async def in_words(self, *, has_options: bool, has_coins: bool) -> str:
        """Which quotes the account is told, in one sentence."""
        said = [await self._said_of_shares()]
        if has_options:
            said.append(await self._said_of_options())
        if has_coins:
            said.append("coins at Alpaca's own venue")
        return f"Quotes of {'; '.join(said)}."

    async def _quotes_of(self, kind: str, symbols: Sequence[str]) -> Mapping[str, Quote | NoQuote]:
        """Of these; where one of them is no symbol of Alpaca's, of that one alone, since the others are not answered then."""
        try:
            told = await self._snapshots(kind, symbols)
        except FeedRefused as exc:
            invalid = exc.invalid_among(symbols)
            return dict.fromkeys(symbols if invalid is None else [invalid], NoQuote(reason=str(exc)))
        except Malformed as exc:
            raise BrokerUnavailable(f"Alpaca's quotes cannot be read: {exc}") from exc
        return {symbol: self._quote(kind, symbol, told.get(symbol)) for symbol in symbols}

    async def _snapshots(self, kind: str, symbols: Sequence[str]) -> Mapping[str, object]:
        if kind == dialect.CRYPTO:
            return read_snapshots(await self._calls.snapshots("v1beta3", "/crypto/us/snapshots", symbols))
        if kind == dialect.OPTION:
            # The other feed of options has prices that are derived, and of no market.
            return read_snapshots(await self._calls.snapshots("v1beta1", "/options/snapshots", symbols, "opra"))
        return read_snapshots(await self._of_shares(symbols))

    async def _of_shares(self, symbols: Sequence[str]) -> object:
        first = Feed.SIP if self._shares_from is Feed.AUTO else self._shares_from
        try:
            answer = await self._calls.snapshots("v2", "/stocks/snapshots", symbols, first)
        except FeedRefused as exc:
            if self._wanted is not Feed.AUTO or first is not Feed.SIP or not exc.wants_subscription:
                raise
            _log.info("Quotes of shares come from IEX alone: %s", exc)
            self._shares_from = Feed.IEX
            return await self._calls.snapshots("v2", "/stocks/snapshots", symbols, Feed.IEX)
        self._shares_from = first
        return answer

    def _quote(self, kind: str, symbol: str, said: object) -> Quote | NoQuote:
        if said is None:
            return NoQuote(reason=f"Alpaca has no quote of {symbol}")
        try:
            row = read_snapshot(said)
        except Malformed as exc:
            return NoQuote(reason=f"Alpaca's quote of {symbol} cannot be read: {exc}")
        of_shares = kind == dialect.EQUITY
        has_market = _is_two_sided(row, _WIDEST_OF_OPTIONS if kind == dialect.OPTION else _WIDEST)
        return Quote(
            bid=row.bid if has_market else None,
            ask=row.ask if has_market else None,
            last=row.last,
            at=row.at,
            last_at=row.last_at,
            is_delayed=of_shares and self._shares_from is Feed.DELAYED_SIP,
        )

    async def _said_of_shares(self) -> str:
        try:
            await self._of_shares([_A_SHARE])
        except BrokerError as exc:
            return f"shares: none ({exc})"
        return {
            Feed.SIP: "shares on all exchanges (SIP)",
            Feed.IEX: "shares on IEX alone, one exchange of many",
            Feed.DELAYED_SIP: "shares with a delay (delayed_sip), which are taken for none",
        }[self._shares_from]

    async def _said_of_options(self) -> str:
        try:
            await self._calls.snapshots("v1beta1", "/options/snapshots", [_AN_OPTION], "opra")
        except FeedRefused as exc:
            return (
                f"options: none ({exc.refusal.words})" if exc.wants_subscription else "options on all exchanges (OPRA)"
            )
        except BrokerError as exc:
            return f"options: none ({exc})"
        return "options on all exchanges (OPRA)"


def _wants_subscription(refusal: Refusal) -> bool:
    return refusal.status == 403 and any(word in refusal.words.lower() for word in _NOT_SUBSCRIBED)


def _is_two_sided(row: SnapshotRow, widest: Decimal) -> bool:
    """Whether bid and ask say where the market is; else the latest trade alone does, as long as it is young."""
    return row.bid is not None and row.ask is not None and row.bid > 0 and 0 < row.ask <= row.bid * (1 + widest)
