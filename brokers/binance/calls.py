"""Calls to Binance: signature, clock, rate budgets, time-outs, and the meaning of each error. No orders."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import aiohttp
from binance_common.configuration import ConfigurationRestAPI
from binance_common.signature import Signers
from binance_common.utils import encoded_string, get_signature
from yarl import URL

from brokers.binance.codes import Meaning, OtherPositionMode, meaning
from brokers.call_kinds import ASKING, CANCELLING, PLACING, PRIORITIES, CallKind
from brokers.errors import (
    AuthRequired,
    BrokerError,
    BrokerUnavailable,
    HeldBack,
    OrderAlreadyExists,
    OrderRefused,
    OutcomeUnknown,
    RateLimited,
)
from brokers.rate import BudgetSpent, RateBudget, RateLimit, limit

_log = logging.getLogger(__name__)
_encoded_form: Callable[[Mapping[str, object]], str] = cast(Any, encoded_string)
_signature: Callable[[ConfigurationRestAPI, str, Any], str] = cast(Any, get_signature)
"""The library's annotations of these two are wrong: what they take is this."""
CONNECT_SECONDS = 3.05
ANSWER_SECONDS = 10.0
RECEIVE_WINDOW_MS = 5000
"""Binance refuses a call that arrives later than this after its time: nothing older can become an order."""
_PATIENCE_SECONDS = 2.0
"""How long the first of the waiting calls waits for a rate budget. Orders that must wait longer wait in the service."""
_AFTER_TOO_MANY_SECONDS = 1.0
_AFTER_BAN_SECONDS = 120.0
_AFTER_FAILURE_SECONDS = 1.0
_CLOCK_AGAIN_SECONDS = 600.0
_CLOCK_RETRY_SECONDS = 60.0
_LONGEST_PACE_SECONDS = 1.0
_SPARED_SHARE = 0.5
_CONNECTIONS = 16
_TOO_LONG_FOR_THE_LOOP = 100_000
"""A longer answer is parsed in a thread: the list of all symbols is more than a megabyte."""
_OPENS_AFTER_FAILURES = 5
_OPEN_SECONDS = (2.0, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the account is reached, with a secret or a private key (RSA or Ed25519, in a file)."""

    api_key: str = field(repr=False)
    api_secret: str = field(default="", repr=False)
    private_key_file: Path | None = None
    base_url: str
    connect_timeout_seconds: float = CONNECT_SECONDS
    answer_timeout_seconds: float = ANSWER_SECONDS
    """For a whole call, from its connection to the last byte of the answer."""
    weight_limits: tuple[RateLimit, ...] = (limit(calls=1200, seconds=60.0),)
    """Binance counts a weight for each call, by address."""
    order_limits: tuple[RateLimit, ...] = (limit(calls=240, seconds=10.0), limit(calls=960, seconds=60.0))
    """It counts orders by account."""


class Refusal(BrokerUnavailable):
    """An answer that is no success, as Binance gave it: with its code, if it has one, and its text. Only queries, and cancels of
    orders that are not there, end with it: nothing was carried out."""

    def __init__(self, meaning: Meaning, code: int | None, text: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(text if code is None else f"{text} ({code})")
        self.meaning = meaning
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class CircuitBreaker:
    """After some failures in succession nothing is asked for a while, so that a venue in trouble is not asked in vain
    by every order; then one call at a time tries again. The pauses double, up to a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._pause_seconds = 0.0
        self._not_before = float("-inf")

    def check(self) -> None:
        """Raises BrokerUnavailable while it is open."""
        wait_seconds = self._not_before - self._clock()
        if wait_seconds > 0:
            raise BrokerUnavailable(
                f"Binance did not answer {self._failures} calls in succession; asked again in {wait_seconds:.0f} s"
            )
        if self._failures >= _OPENS_AFTER_FAILURES:
            # This call tries; those that come before its answer are refused.
            self._not_before = self._clock() + self._pause_seconds

    def check_closed(self) -> None:
        """For a call that is not needed enough to be the one that tries again. Raises BrokerUnavailable."""
        if self._failures >= _OPENS_AFTER_FAILURES:
            raise BrokerUnavailable(f"Binance did not answer {self._failures} calls in succession")

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= _OPENS_AFTER_FAILURES:
            first, longest = _OPEN_SECONDS
            self._pause_seconds = min(max(self._pause_seconds * 2, first), longest)
            self._not_before = self._clock() + self._pause_seconds

    def succeeded(self) -> None:
        self._failures, self._pause_seconds, self._not_before = 0, 0.0, float("-inf")


class BinanceCalls:
    """One account's calls, each sent once, on the event loop."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._weights = RateBudget(access.weight_limits)
        self._orders = RateBudget(access.order_limits)
        self._breaker = CircuitBreaker()
        self._session: aiohttp.ClientSession | None = None
        self._clock_offset_ms = 0
        self._clock_read_at: float | None = None
        # The library's own form of the secrets, for its signature.
        self._signing = ConfigurationRestAPI(
            api_key=access.api_key, api_secret=access.api_secret or None, base_path=access.base_url, retries=0
        )
        self._signer: Any = None

    def open(self) -> None:
        """Idempotent. Raises BrokerUnavailable if the private key cannot be read."""
        if self._session is not None:
            return
        if self._access.private_key_file is not None and self._signer is None:
            try:
                key = self._access.private_key_file.read_text()
                self._signer = Signers.get_signer(key)
                self._signing.private_key = key
            except (OSError, ValueError, IndexError, TypeError) as exc:
                raise BrokerUnavailable(
                    f"The private key in {self._access.private_key_file} cannot be read: {type(exc).__name__}"
                ) from None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"X-MBX-APIKEY": self._access.api_key},
            timeout=aiohttp.ClientTimeout(
                total=self._access.answer_timeout_seconds, sock_connect=self._access.connect_timeout_seconds
            ),
        )
        # The library sends a GET, PUT or DELETE again if a kept connection drops, and has no public switch for it.
        self._session._retry_connection = False

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """Raises BrokerUnavailable if it is closed."""
        if self._session is None:
            raise BrokerUnavailable("Binance is not connected")
        return self._session

    def keep_within(self, *, weight_per_minute: int | None, orders_by_seconds: Mapping[float, int]) -> None:
        """Lowers the budgets to Binance's own limits where these are lower."""
        self._weights.lower({60.0: weight_per_minute} if weight_per_minute else {})
        self._orders.lower(orders_by_seconds)

    def check_budget(self, kind: CallKind) -> None:
        """Raises RateLimited if a placing or cancelling call would now have to wait longer than `ask` allows."""
        wait_seconds = max(budget.wait_seconds(PRIORITIES[kind]) for budget in (self._weights, self._orders))
        if wait_seconds > _PATIENCE_SECONDS:
            raise _spent(BudgetSpent(wait_seconds))

    def check_spare(self) -> None:
        """Raises RateLimited if less than half of the weight is left that ordinary calls may use: the rest is for orders, cancels and reports."""
        if self._weights.share_left() < _SPARED_SHARE:
            raise RateLimited("Binance: the rest of the minute's weight is left to orders", wait_seconds=1.0)

    def now_ms(self) -> int:
        """Milliseconds since 1970 by Binance's clock, as far as it is known."""
        return time.time_ns() // 1_000_000 + self._clock_offset_ms

    def by_our_clock(self, moment_ms: int) -> int:
        """The same moment, which Binance told by its clock."""
        return moment_ms - self._clock_offset_ms

    def left(self) -> dict[tuple[str, float], int]:
        """As LimitsCalls.calls_left."""
        budgets = {"orders": self._orders, "weight": self._weights}
        return {(kind, seconds): n for kind, budget in budgets.items() for seconds, n in budget.left().items()}

    async def pace(self) -> None:
        """Waits a little before one more reading of the account's state when less than half of the weight is left, up to a
        second when nothing is: readings that follow hints never use up what orders and cancels need."""
        spent = 1 - 2 * self._weights.share_left()
        if spent > 0:
            await asyncio.sleep(spent * _LONGEST_PACE_SECONDS)

    async def ask(
        self,
        method: str,
        path: str,
        params: Mapping[str, object] | None = None,
        *,
        weight: int = 1,
        kind: CallKind = CallKind.QUERY,
        is_signed: bool = True,
    ) -> Any:
        """The answer, parsed, with exact decimals. Raises Refusal with a meaning of NOT_THERE, or for a query or quote also
        REFUSED; else the errors of `brokers.errors`."""
        session = self.session
        if is_signed and (self._clock_read_at is None or kind is CallKind.QUERY):
            await self._read_clock()
        for is_last in (False, True):
            if kind is CallKind.QUOTE:
                self._breaker.check_closed()
            elif kind not in (CallKind.EXIT, CallKind.CANCEL):
                self._breaker.check()
            await self._wait_for_budget(kind, weight)
            try:
                answer = await self._send(session, method, path, params or {}, kind, is_signed=is_signed)
            except Refusal as refusal:
                if refusal.meaning is Meaning.CLOCK and not is_last:
                    await self._read_clock(anew=True)
                    continue
                raise self._translated(refusal, kind) from refusal
            return answer
        raise AssertionError("the last try returns or raises")

    async def _send(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        params: Mapping[str, object],
        kind: CallKind,
        *,
        is_signed: bool,
    ) -> Any:
        given = {name: value for name, value in params.items() if value is not None}
        query = self._signed(given) if is_signed else _encoded_form(given)
        url = f"{self._access.base_url}{path}" + (f"?{query}" if query else "")
        try:
            async with session.request(method, _encoded(url), allow_redirects=False) as response:
                status, headers, body = response.status, response.headers, await response.text("utf-8", "replace")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            self._note_outcome(kind, has_failed=True)
            raise BrokerUnavailable("Binance cannot be reached") from exc
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            self._note_outcome(kind, has_failed=True)
            raise _unclear(kind, f"Binance did not answer ({type(exc).__name__})") from exc
        if kind is not CallKind.QUOTE:
            # Of the answers with quotes Binance says that the weight in them is not accurate.
            self._count(headers)
        try:
            answer = await _parsed(body)
        except ValueError:
            answer = None
        if status == 200 and answer is not None:
            self._note_outcome(kind, has_failed=False)
            return answer
        if status < 400:
            raise _unclear(kind, f"Binance answered with status {status} and nothing that can be read")
        code, text = _error_of(answer, body)
        refusal = Refusal(meaning(status, code, text), code, text, _seconds(headers.get("Retry-After")))
        is_failure = refusal.meaning in (Meaning.UNKNOWN, Meaning.FAILED) and status >= 500
        self._note_outcome(kind, has_failed=is_failure)
        raise refusal

    def _note_outcome(self, kind: CallKind, *, has_failed: bool) -> None:
        """Calls for quotes say nothing about whether orders are taken."""
        if kind is CallKind.QUOTE:
            return
        if has_failed:
            self._breaker.failed()
        else:
            self._breaker.succeeded()

    def _signed(self, params: Mapping[str, object]) -> str:
        query = _encoded_form({**params, "recvWindow": RECEIVE_WINDOW_MS, "timestamp": self.now_ms()})
        return query + "&" + _encoded_form({"signature": _signature(self._signing, query, self._signer)})

    async def _read_clock(self, *, anew: bool = False) -> None:
        """Learns how far Binance's clock is from ours: at first, every ten minutes before a query, and when it says that we are off. Where it
        was learned before, a failure of the routine reading fails nothing."""
        read_at = self._clock_read_at
        if not anew and read_at is not None and time.monotonic() - read_at < _CLOCK_AGAIN_SECONDS:
            return
        self._clock_read_at = time.monotonic()
        try:
            before = time.time_ns()
            answer = await self.ask("GET", "/fapi/v1/time", is_signed=False)
            middle = (before + time.time_ns()) // 2_000_000
            self._clock_offset_ms = int(answer["serverTime"]) - middle
        except (KeyError, TypeError, ValueError, BrokerUnavailable) as exc:
            if not anew and read_at is not None:
                _log.info("Binance does not tell its time now (%s): what was known of it is used", exc)
                self._clock_read_at = time.monotonic() - _CLOCK_AGAIN_SECONDS + _CLOCK_RETRY_SECONDS
                return
            self._clock_read_at = read_at
            if isinstance(exc, BrokerUnavailable) and not isinstance(exc, Refusal):
                raise
            raise BrokerUnavailable("Binance does not tell its time") from exc
        except BaseException:
            self._clock_read_at = read_at
            raise

    async def _wait_for_budget(self, kind: CallKind, weight: int) -> None:
        queues_seconds = _PATIENCE_SECONDS if kind in CANCELLING else None
        budget, cost = (self._orders, 1) if kind in PLACING else (self._weights, weight)
        try:
            await budget.take(
                PRIORITIES[kind], patience_seconds=_PATIENCE_SECONDS, queues_seconds=queues_seconds, cost=cost
            )
        except BudgetSpent as exc:
            raise _spent(exc) from exc

    def _count(self, headers: Mapping[str, str]) -> None:
        """What Binance itself has counted, other processes behind the same address and on the same account included."""
        for budget, name, seconds in (
            (self._weights, "X-MBX-USED-WEIGHT-1M", 60.0),
            (self._orders, "X-MBX-ORDER-COUNT-10S", 10.0),
            (self._orders, "X-MBX-ORDER-COUNT-1M", 60.0),
        ):
            said = headers.get(name, "")
            if said.isdecimal():
                budget.count_at_least(int(said), seconds)

    def _translated(self, refusal: Refusal, kind: CallKind) -> BrokerError | Refusal:
        """The one place where Binance's refusals become our errors."""
        words = f"Binance: {refusal}"
        match refusal.meaning:
            case Meaning.TOO_MANY:
                wait_seconds = refusal.retry_after_seconds or _AFTER_TOO_MANY_SECONDS
                (self._orders if kind in PLACING and refusal.code == -1015 else self._weights).pause(wait_seconds)
                return RateLimited(f"Binance takes no more calls now ({refusal})", wait_seconds=wait_seconds)
            case Meaning.BANNED:
                wait_seconds = refusal.retry_after_seconds or _AFTER_BAN_SECONDS
                for budget in (self._weights, self._orders):
                    budget.pause(wait_seconds)
                words = f"Binance shuts this address out for {wait_seconds:.0f} s, since it was called too often"
                _log.error("%s (%s)", words, refusal)
                return HeldBack(words, wait_seconds=wait_seconds)
            case Meaning.AUTH if kind is CallKind.QUOTE:
                return BrokerUnavailable(words)
            case Meaning.AUTH:
                return AuthRequired(
                    f"Binance does not accept the API key ({refusal}): check key, secret, permissions and allowed addresses, "
                    "and that they are those of this environment (live or test)"
                )
            case Meaning.OTHER_MODE:
                return OtherPositionMode(
                    f"The account's position mode at Binance is not the one that position_mode names ({refusal})"
                )
            case Meaning.BLOCKED:
                return BrokerUnavailable(f"Something before Binance turned the call away (403): {refusal}")
            case Meaning.CLOCK:
                return BrokerUnavailable(f"Binance does not accept our clock's time: {refusal}")
            case Meaning.FAILED:
                return HeldBack(
                    f"Binance is overloaded and did not carry it out: {refusal}", wait_seconds=_AFTER_FAILURE_SECONDS
                )
            case Meaning.NOT_THERE if kind not in PLACING:
                return refusal
            case Meaning.UNKNOWN:
                return _unclear(kind, words)
            case Meaning.EXISTS if kind in PLACING:
                return OrderAlreadyExists(words)
        return refusal if kind in ASKING else OrderRefused(str(refusal))


async def _parsed(body: str) -> Any:
    if len(body) > _TOO_LONG_FOR_THE_LOOP:
        return await asyncio.to_thread(json.loads, body, parse_float=Decimal)
    return json.loads(body, parse_float=Decimal)


def _encoded(url: str) -> URL:
    """As it is: what is sent must be what was signed."""
    return URL(url, encoded=True)


def _error_of(answer: object, body: str) -> tuple[int | None, str]:
    if isinstance(answer, dict):
        code = answer.get("code")
        if isinstance(code, int) and not isinstance(code, bool):
            return code, str(answer.get("msg", ""))
        return None, str(answer.get("msg", body))[:200]
    return None, body[:200]


def _seconds(said: str | None) -> float | None:
    try:
        seconds = float(said or "")
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None


def _unclear(kind: CallKind, words: str) -> BrokerError:
    """A query that failed says nothing; anything else may have been carried out."""
    return BrokerUnavailable(words) if kind in ASKING else OutcomeUnknown(words)


def _spent(spent: BudgetSpent) -> RateLimited:
    return RateLimited(f"Binance: {spent}", wait_seconds=spent.wait_seconds)
