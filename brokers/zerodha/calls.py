"""Calls to Zerodha through its library: threads, time-outs, the rate budget, the access token, and the meaning of
each error. No orders."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import requests
from kiteconnect import KiteConnect
from kiteconnect import exceptions as kite_errors
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

from brokers.errors import AuthRequired, BrokerError, BrokerUnavailable, OrderRefused, OutcomeUnknown, RateLimited
from brokers.rate import BudgetSpent, CallPriority, RateBudget, RateLimit, limits
from brokers.zerodha import codes

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_PLACING_THREADS = 8
_OTHER_THREADS = 2
_PATIENCE_SECONDS = 2.0
"""How long the first of the waiting calls waits for the rate budget: longer than a limit per second can require.
Orders that must wait for a limit per minute or day wait in the service, where they can be cancelled and may become
too old."""
_AFTER_TOO_MANY_SECONDS = 1.0
_ENDING_SECONDS = 2.0
"""How long a call may take to end after its connection was cut: only a DNS lookup takes longer."""
_SAME_TOKEN_AGAIN_SECONDS = 30.0
AUTH_REQUIRED = "AUTH_REQUIRED"
CONNECT_SECONDS = 3.05
READ_SECONDS = 7.0
ANSWER_SECONDS = 20.0


class CallKind(StrEnum):
    """What a call does to the account, and so what its failure may leave behind."""

    QUERY = "query"
    QUOTE = "quote"
    PLACE = "place"
    EXIT = "exit"
    CANCEL = "cancel"
    CANCEL_AGAIN = "cancel-again"


_PLACING = frozenset({CallKind.PLACE, CallKind.EXIT})
_ASKING = frozenset({CallKind.QUERY, CallKind.QUOTE})
_CANCELLING = frozenset({CallKind.CANCEL, CallKind.CANCEL_AGAIN})
_CLAIMS = {
    CallKind.EXIT: CallPriority.EXIT,
    CallKind.CANCEL: CallPriority.CANCEL,
    CallKind.PLACE: CallPriority.ORDINARY,
    CallKind.QUERY: CallPriority.ORDINARY,
    CallKind.QUOTE: CallPriority.ORDINARY,
    CallKind.CANCEL_AGAIN: CallPriority.REPEATED,
}
RESERVE_PERCENT = 20
ORDER_LIMITS = limits(per_second=8, per_minute=180, per_day=2_800, reserve_percent=RESERVE_PERCENT)
"""For placing and cancelling. A part of each is reserved for exits and first cancels."""
OTHER_LIMITS = limits(per_second=8)
QUOTE_LIMITS = (RateLimit(calls=1, seconds=1.2),)
"""Kite's own for quotes, one a second, beside that for other queries (kite.trade, "API rate limits"); calls take unlike times to arrive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the account is reached. The token is read from its file, if one is named."""

    api_key: str = field(repr=False)
    access_token: str = field(default="", repr=False)
    access_token_file: Path | None = None
    root_url: str | None = None
    """None: Zerodha's own. Its path, if any, is put before every route."""
    connect_timeout_seconds: float = CONNECT_SECONDS
    read_timeout_seconds: float = READ_SECONDS
    answer_timeout_seconds: float = ANSWER_SECONDS
    """For the whole answer: the read time-out restarts with every byte."""
    order_limits: tuple[RateLimit, ...] = ORDER_LIMITS
    other_limits: tuple[RateLimit, ...] = OTHER_LIMITS


class _Slot:
    """One call's place in its pool."""

    __slots__ = ("is_free",)

    def __init__(self) -> None:
        self.is_free = False


class _Pool:
    """The threads for one kind of call, as many as may be made at once. A call that was given up is cut off and so
    releases its thread; if it does not end even then, it is abandoned with its thread, which is replaced."""

    def __init__(self, kind: CallKind, size: int) -> None:
        self._name, self._size = f"zerodha-{kind}", size
        self._threads = self._new_threads()
        self._free = asyncio.Semaphore(size)
        self._is_closed = False

    async def take(self) -> _Slot:
        """Waits until a thread is free."""
        await self._free.acquire()
        return _Slot()

    def submit(self, make: Callable[[], _T]) -> Future[_T]:
        """Raises RuntimeError once the pool is closed."""
        return self._threads.submit(make)

    def release(self, slot: _Slot) -> None:
        if not slot.is_free:
            slot.is_free = True
            self._free.release()

    def release_from(self, loop: asyncio.AbstractEventLoop, slot: _Slot) -> Callable[[object], None]:
        """To be called at the end of a call, in any thread."""

        def release(_: object) -> None:
            try:
                loop.call_soon_threadsafe(self.release, slot)
            except RuntimeError:
                # The loop has ended before the call, and nobody waits for the thread.
                return

        return release

    def abandon(self, slot: _Slot) -> None:
        """The call was cut off long enough ago: if it has not ended, its thread is no longer waited for."""
        if slot.is_free or self._is_closed:
            return
        _log.warning("A call to Zerodha does not end even though it was cut off; other threads take over from its own")
        self._threads.shutdown(wait=False)
        self._threads = self._new_threads()
        self.release(slot)

    def close(self) -> None:
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _new_threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._size, thread_name_prefix=self._name)


class _UnderWay:
    """One call in progress, which another thread may give up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._session: _ExactSession | None = None
        self._is_cut = False

    def begin(self, session: _ExactSession) -> bool:
        """False: it was given up before it began."""
        with self._lock:
            self._session = session
            return not self._is_cut

    def end(self) -> bool:
        """False: it was given up, and its session cannot be used again."""
        with self._lock:
            self._session = None
            return not self._is_cut

    def cut(self) -> None:
        """Closes its connection, which ends the call."""
        with self._lock:
            self._is_cut = True
            if self._session is not None:
                self._session.cut()


class KiteCalls:
    """One account's calls, each made once, in a thread of its kind's pool, so that a hanging call does not block
    calls of another kind."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._token = AccessToken(access)
        self._order_budget = RateBudget(access.order_limits)
        self._other_budget = RateBudget(access.other_limits)
        self._quote_budget = RateBudget(QUOTE_LIMITS)
        self._pools: dict[CallKind, _Pool] = {}
        self._idle: queue.LifoQueue[KiteConnect] = queue.LifoQueue()

    @property
    def token(self) -> str:
        """The token as last read."""
        return self._token.text

    def open(self) -> None:
        """Idempotent."""
        for kind in CallKind:
            if kind not in self._pools:
                self._pools[kind] = _Pool(kind, _PLACING_THREADS if kind in _PLACING else _OTHER_THREADS)

    def close(self) -> None:
        """Does not wait for calls in progress; they end with their time-outs."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.close()
        while not self._idle.empty():
            self._idle.get_nowait().reqsession.close()

    def check_budget(self, kind: CallKind) -> None:
        """Raises RateLimited if a call would now have to wait longer than `ask` allows."""
        wait_seconds = self._budget_of(kind).wait_seconds(_CLAIMS[kind])
        if wait_seconds > _PATIENCE_SECONDS:
            raise _spent(BudgetSpent(wait_seconds))

    def remember_order_calls(self, ages_seconds: Iterable[float]) -> None:
        """Counts the order calls of an earlier process, given by their age in seconds."""
        self._order_budget.remember(ages_seconds)

    async def ask(self, call: Callable[[KiteConnect], _T], kind: CallKind = CallKind.QUERY) -> _T:
        """Makes the call in a thread, once. Raises the errors of `brokers.errors` and no others."""
        pool = self._pools.get(kind)
        if pool is None:
            raise BrokerUnavailable("Zerodha is not connected")
        # A call counts from the moment it is sent, so a thread must be free by then.
        slot, under_way = await self._slot_of(pool, kind), _UnderWay()
        try:
            await self._wait_for_budget(kind)
            running = pool.submit(lambda: self._make(call, under_way))
        except BaseException as exc:
            pool.release(slot)
            if isinstance(exc, RuntimeError):
                raise BrokerUnavailable("Zerodha was disconnected before the call was made") from exc
            raise
        loop = asyncio.get_running_loop()
        running.add_done_callback(pool.release_from(loop, slot))
        try:
            async with asyncio.timeout(self._access.answer_timeout_seconds):
                return await asyncio.wrap_future(running)
        except BrokerError:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._pools.get(kind) is pool or (task is not None and task.cancelling()):
                raise
            raise BrokerUnavailable("Zerodha was disconnected before the call was made") from None
        except Exception as exc:
            raise self._translated(exc, kind) from exc
        finally:
            if not running.done():
                under_way.cut()
                loop.call_later(_ENDING_SECONDS, pool.abandon, slot)

    async def _slot_of(self, pool: _Pool, kind: CallKind) -> _Slot:
        """A cancel does not wait long for those before it, so that its caller knows whether it was sent."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS if kind in _CANCELLING else None):
                return await pool.take()
        except TimeoutError as exc:
            words = "Zerodha has not answered the cancels before this one yet"
            raise RateLimited(words, wait_seconds=_AFTER_TOO_MANY_SECONDS) from exc

    async def _wait_for_budget(self, kind: CallKind) -> None:
        queues_seconds = _PATIENCE_SECONDS if kind in _CANCELLING else None
        try:
            await self._budget_of(kind).take(
                _CLAIMS[kind], patience_seconds=_PATIENCE_SECONDS, queues_seconds=queues_seconds
            )
        except BudgetSpent as exc:
            raise _spent(exc) from exc

    def left(self) -> dict[tuple[str, float], int]:
        """As LimitsCalls.calls_left."""
        budgets = {"orders": self._order_budget, "queries": self._other_budget, "quotes": self._quote_budget}
        return {(kind, seconds): n for kind, budget in budgets.items() for seconds, n in budget.left().items()}

    def _budget_of(self, kind: CallKind) -> RateBudget:
        if kind is CallKind.QUOTE:
            return self._quote_budget
        return self._other_budget if kind is CallKind.QUERY else self._order_budget

    def _make(self, call: Callable[[KiteConnect], _T], under_way: _UnderWay) -> _T:
        token = self._token.current()
        try:
            kite = self._idle.get_nowait()
        except queue.Empty:
            kite = self._client()
        kite.set_access_token(token)
        try:
            if not under_way.begin(kite.reqsession):
                raise BrokerUnavailable("The call was given up before it was made")
            return call(kite)
        except kite_errors.KiteException as exc:
            # Zerodha's texts go into records, messages and alerts: any credential that they repeat is removed.
            exc.args = tuple(_without(str(part), self._access.api_key, token) for part in exc.args)
            if isinstance(exc, kite_errors.TokenException):
                raise self._token.died(token, str(exc)) from exc
            raise
        finally:
            if under_way.end():
                self._idle.put(kite)
            else:
                kite.reqsession.close()

    def _client(self) -> KiteConnect:
        access = self._access
        host, path = _split(access.root_url)
        timeouts = (access.connect_timeout_seconds, access.read_timeout_seconds)
        kite = _PlainKite(access.api_key, root=host, timeout=timeouts)
        kite.reqsession = _ExactSession(path)
        return kite

    def _translated(self, exc: Exception, kind: CallKind) -> BrokerError:
        """The one place where the library's errors become ours."""
        words = f"Zerodha: {exc or type(exc).__name__}"
        status = exc.code if isinstance(exc, kite_errors.KiteException) else None
        meaning = codes.meaning(status, type(exc).__name__, _text(exc))
        if meaning is codes.Meaning.NOT_TAKEN:
            self._budget_of(kind).pause(_AFTER_TOO_MANY_SECONDS)
            words = f"Zerodha takes no more calls now ({_text(exc)})"
            return RateLimited(words, wait_seconds=_AFTER_TOO_MANY_SECONDS)
        if _never_connected(exc):
            return BrokerUnavailable("Zerodha cannot be reached")
        if kind in _ASKING:
            return BrokerUnavailable(words if status is None else f"Zerodha: {_text(exc)}")
        if meaning is codes.Meaning.REFUSED:
            return OrderRefused(_text(exc))
        return OutcomeUnknown(words if status is None else f"Zerodha ({status}): {_text(exc)}")


def _without(text: str, *secrets: str) -> str:
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


class AccessToken:
    """The day's token, and whether it was refused. Used from several threads: each step replaces one reference."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._read: tuple[object, str] = (None, access.access_token)
        self._dead: tuple[str, float, str] | None = None

    @property
    def text(self) -> str:
        return self._read[1]

    def current(self) -> str:
        """The token to use. Raises AuthRequired if there is none, or if it was refused recently."""
        token = self._from_file()
        if not token:
            raise self._required("there is no access token")
        dead = self._dead
        if dead is not None and dead[0] == token and time.monotonic() - dead[1] < _SAME_TOKEN_AGAIN_SECONDS:
            raise self._required(f"the access token is dead ({dead[2]})")
        return token

    def died(self, token: str, words: str) -> AuthRequired:
        """Notes that this token was refused, so that it is not used again for a while."""
        self._dead = (token, time.monotonic(), words)
        return self._required(f"the access token is dead ({words})")

    def _from_file(self) -> str:
        path = self._access.access_token_file
        if path is None:
            return self._access.access_token
        try:
            state = path.stat()
            version = (state.st_mtime_ns, state.st_size, state.st_ino)
            if self._read[0] != version:
                self._read = (version, path.read_text().strip())
        except (OSError, ValueError) as exc:
            raise self._required(f"the access token cannot be read from {path} ({exc})") from exc
        return self._read[1]

    def _required(self, why: str) -> AuthRequired:
        path = self._access.access_token_file
        where = "set KITE_ACCESS_TOKEN anew and restart" if path is None else f"write the new token to {path}"
        return AuthRequired(f"{AUTH_REQUIRED}: {why}; log in at Zerodha and {where}")


class _PlainKite(KiteConnect):  # type: ignore[misc]
    """Returns lists as received: the library's own conversion fails for the whole list if one row is malformed."""

    def _format_response(self, data: Any) -> Any:
        return data

    def _parse_instruments(self, data: Any) -> Any:
        return data


class _ExactSession(requests.Session):
    """Numbers come as exact decimals; nothing is sent twice; the root's path is put before the route. For one call
    at a time, which another thread may cut off: a read time-out restarts with every byte and so does not bound an
    answer."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._lock = threading.Lock()
        self._line: tuple[HTTPConnection, socket.socket] | None = None
        """The last opened connection, and a duplicate handle of its socket, which stays valid whatever the library
        does with the first."""
        self._is_cut = False
        # A redirected form would be sent a second time, to another server.
        self.max_redirects = 0
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(self._opened))

    def request(self, method: str, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        parts = urlsplit(url if isinstance(url, str) else url.decode())
        try:
            response = super().request(
                method, urlunsplit(parts._replace(path=self._path + parts.path)), *args, **options
            )
        finally:
            self._hang_up(only_if_closed=True)
        vars(response)["json"] = functools.partial(_decimals, response)
        return response

    def cut(self) -> None:
        """Ends whatever is being sent or read, and prevents further sending. From any thread."""
        with self._lock:
            self._is_cut = True
            if self._line is not None:
                _shut(self._line[1])

    def close(self) -> None:
        super().close()
        self._hang_up(only_if_closed=False)

    def _opened(self, connection: HTTPConnection, line: socket.socket) -> None:
        self._hang_up(only_if_closed=False)
        with self._lock:
            self._line = connection, line.dup()
            if self._is_cut:
                _shut(line)

    def _hang_up(self, *, only_if_closed: bool) -> None:
        """Closes the duplicate handle; while it is open, the other side does not see the connection end."""
        with self._lock:
            if self._line is not None and not (only_if_closed and self._line[0].sock is not None):
                self._line[1].close()
                self._line = None


def _shut(line: socket.socket) -> None:
    # The other side may have closed it already.
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    """Reports every connection that it opens; sends nothing again."""

    def __init__(self, opened: Callable[[HTTPConnection, socket.socket], None]) -> None:
        class Line(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                line: socket.socket = super()._new_conn()
                opened(self, line)
                return line

        class SecureLine(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                line: socket.socket = super()._new_conn()
                opened(self, line)
                return line

        self._connections = {"http": Line, "https": SecureLine}
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        lines, secure_lines = self._connections["http"], self._connections["https"]

        class Pool(HTTPConnectionPool):
            ConnectionCls = lines

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = secure_lines

        self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}


def _decimals(response: requests.Response) -> Any:
    return json.loads(response.content, parse_float=Decimal)


def _split(root_url: str | None) -> tuple[str | None, str]:
    """The root without its path (which the library would drop), and the path."""
    if root_url is None:
        return None, ""
    parts = urlsplit(root_url)
    return urlunsplit((parts.scheme, parts.netloc, "/", "", "")), parts.path.rstrip("/")


def _spent(spent: BudgetSpent) -> RateLimited:
    return RateLimited(f"Zerodha: {spent}", wait_seconds=spent.wait_seconds)


def _never_connected(exc: Exception) -> bool:
    """True only if no connection was made for the call, so that nothing can have been sent."""
    if not isinstance(exc, requests.ConnectionError):
        return False
    cause = exc.args[0] if exc.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    return isinstance(reason, NewConnectionError | ConnectTimeoutError)


def _text(exc: Exception) -> str:
    return str(exc.args[0]) if exc.args else type(exc).__name__
