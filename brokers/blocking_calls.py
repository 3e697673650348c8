"""Calls to a broker through a blocking client library: threads, time-outs, the rate budget, and a session whose calls
can be cut off. No broker's dialect."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import queue
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from enum import StrEnum
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

from brokers.errors import BrokerError, BrokerUnavailable, RateLimited
from brokers.rate import BudgetSpent, CallPriority, RateBudget, RateLimit

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_C = TypeVar("_C")
_PLACING_THREADS = 8
_OTHER_THREADS = 2
_PATIENCE_SECONDS = 2.0
"""How long the first of the waiting calls waits for the rate budget: longer than a limit per second can require.
Orders that must wait for a limit per minute or day wait in the service, where they can be cancelled and may become
too old."""
AFTER_TOO_MANY_SECONDS = 1.0
_ENDING_SECONDS = 2.0
"""How long a call may take to end after its connection was cut: only a DNS lookup takes longer."""


class CallKind(StrEnum):
    """What a call does to the account, and so what its failure may leave behind."""

    QUERY = "query"
    PLACE = "place"
    EXIT = "exit"
    CANCEL = "cancel"
    CANCEL_AGAIN = "cancel-again"


_PLACING = frozenset({CallKind.PLACE, CallKind.EXIT})
_CANCELLING = frozenset({CallKind.CANCEL, CallKind.CANCEL_AGAIN})
_CLAIMS = {
    CallKind.EXIT: CallPriority.EXIT,
    CallKind.CANCEL: CallPriority.CANCEL,
    CallKind.PLACE: CallPriority.ORDINARY,
    CallKind.QUERY: CallPriority.ORDINARY,
    CallKind.CANCEL_AGAIN: CallPriority.REPEATED,
}


class _Slot:
    """One call's place in its pool."""

    __slots__ = ("is_free",)

    def __init__(self) -> None:
        self.is_free = False


class _Pool:
    """The threads for one kind of call, as many as may be made at once. A call that was given up is cut off and so
    releases its thread; if it does not end even then, it is abandoned with its thread, which is replaced."""

    def __init__(self, title: str, kind: CallKind, size: int) -> None:
        self._title = title
        self._name, self._size = f"{title.lower()}-{kind}", size
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
        _log.warning(
            "A call to %s does not end even though it was cut off; other threads take over from its own", self._title
        )
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
        self._session: ExactSession | None = None
        self._is_cut = False

    def begin(self, session: ExactSession) -> bool:
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


class BlockingCalls(ABC, Generic[_C]):
    """One account's calls, each made once, in a thread of its kind's pool, so that a hanging call does not block
    calls of another kind. A broker's own says how its client is made and used, and what its errors mean."""

    def __init__(
        self,
        title: str,
        *,
        order_limits: tuple[RateLimit, ...],
        other_limits: tuple[RateLimit, ...],
        answer_timeout_seconds: float,
    ) -> None:
        """`title`: the broker's name for people. `answer_timeout_seconds`: for the whole answer; a read time-out
        restarts with every byte."""
        self._title = title
        self._answer_timeout_seconds = answer_timeout_seconds
        self._order_budget = RateBudget(order_limits)
        self._other_budget = RateBudget(other_limits)
        self._pools: dict[CallKind, _Pool] = {}
        self._idle: queue.LifoQueue[_C] = queue.LifoQueue()

    @abstractmethod
    def _client(self) -> _C:
        """A client of the library, for one call at a time."""

    @abstractmethod
    def _session_of(self, client: _C) -> ExactSession:
        """The session through which the client makes its calls."""

    @abstractmethod
    def _called(self, client: _C, call: Callable[[_C], _T]) -> _T:
        """Makes the call with the client, in a thread. May translate an error itself."""

    @abstractmethod
    def _translated(self, exc: Exception, kind: CallKind) -> BrokerError:
        """The one place where the library's errors become ours."""

    def open(self) -> None:
        """Idempotent."""
        for kind in CallKind:
            if kind not in self._pools:
                self._pools[kind] = _Pool(self._title, kind, _PLACING_THREADS if kind in _PLACING else _OTHER_THREADS)

    def close(self) -> None:
        """Does not wait for calls in progress; they end with their time-outs."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.close()
        while not self._idle.empty():
            self._session_of(self._idle.get_nowait()).close()

    def check_budget(self, kind: CallKind) -> None:
        """Raises RateLimited if a call would now have to wait longer than `ask` allows."""
        wait_seconds = self._budget_of(kind).wait_seconds(_CLAIMS[kind])
        if wait_seconds > _PATIENCE_SECONDS:
            raise self._spent(BudgetSpent(wait_seconds))

    def remember_order_calls(self, ages_seconds: Iterable[float]) -> None:
        """Counts the order calls of an earlier process, given by their age in seconds."""
        self._order_budget.remember(ages_seconds)

    async def ask(self, call: Callable[[_C], _T], kind: CallKind = CallKind.QUERY) -> _T:
        """Makes the call in a thread, once. Raises the errors of `brokers.errors` and no others."""
        pool = self._pools.get(kind)
        if pool is None:
            raise BrokerUnavailable(f"{self._title} is not connected")
        # A call counts from the moment it is sent, so a thread must be free by then.
        slot, under_way = await self._slot_of(pool, kind), _UnderWay()
        try:
            await self._wait_for_budget(kind)
            running = pool.submit(lambda: self._make(call, under_way))
        except BaseException as exc:
            pool.release(slot)
            if isinstance(exc, RuntimeError):
                raise BrokerUnavailable(f"{self._title} was disconnected before the call was made") from exc
            raise
        loop = asyncio.get_running_loop()
        running.add_done_callback(pool.release_from(loop, slot))
        try:
            async with asyncio.timeout(self._answer_timeout_seconds):
                return await asyncio.wrap_future(running)
        except BrokerError:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._pools.get(kind) is pool or (task is not None and task.cancelling()):
                raise
            raise BrokerUnavailable(f"{self._title} was disconnected before the call was made") from None
        except Exception as exc:
            raise self._translated(exc, kind) from exc
        finally:
            if not running.done():
                under_way.cut()
                loop.call_later(_ENDING_SECONDS, pool.abandon, slot)

    def left(self) -> dict[tuple[str, float], int]:
        """As LimitsCalls.calls_left."""
        budgets = {"orders": self._order_budget, "queries": self._other_budget}
        return {(kind, seconds): n for kind, budget in budgets.items() for seconds, n in budget.left().items()}

    async def _slot_of(self, pool: _Pool, kind: CallKind) -> _Slot:
        """A cancel does not wait long for those before it, so that its caller knows whether it was sent."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS if kind in _CANCELLING else None):
                return await pool.take()
        except TimeoutError as exc:
            words = f"{self._title} has not answered the cancels before this one yet"
            raise RateLimited(words, wait_seconds=AFTER_TOO_MANY_SECONDS) from exc

    async def _wait_for_budget(self, kind: CallKind) -> None:
        queues_seconds = _PATIENCE_SECONDS if kind in _CANCELLING else None
        try:
            await self._budget_of(kind).take(
                _CLAIMS[kind], patience_seconds=_PATIENCE_SECONDS, queues_seconds=queues_seconds
            )
        except BudgetSpent as exc:
            raise self._spent(exc) from exc

    def _budget_of(self, kind: CallKind) -> RateBudget:
        return self._other_budget if kind is CallKind.QUERY else self._order_budget

    def _spent(self, spent: BudgetSpent) -> RateLimited:
        return RateLimited(f"{self._title}: {spent}", wait_seconds=spent.wait_seconds)

    def _make(self, call: Callable[[_C], _T], under_way: _UnderWay) -> _T:
        try:
            client = self._idle.get_nowait()
        except queue.Empty:
            client = self._client()
        session = self._session_of(client)
        try:
            if not under_way.begin(session):
                raise BrokerUnavailable("The call was given up before it was made")
            return self._called(client, call)
        finally:
            if under_way.end():
                self._idle.put(client)
            else:
                session.close()


class ExactSession(requests.Session):
    """Numbers come as exact decimals; nothing is sent twice; the root's path is put before the route. For one call
    at a time, which another thread may cut off: a read time-out restarts with every byte and so does not bound an
    answer."""

    def __init__(self, path: str = "") -> None:
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


def never_connected(exc: Exception) -> bool:
    """True only if no connection was made for the call, so that nothing can have been sent."""
    if not isinstance(exc, requests.ConnectionError):
        return False
    cause = exc.args[0] if exc.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    return isinstance(reason, NewConnectionError | ConnectTimeoutError)
