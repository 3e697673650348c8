"""The Broker protocol on top of a paper exchange (`exchange`): calls in one thread, faults on the way, hints. What the exchange's market is, its
adapter says."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from brokers.base import (
    Balance,
    BrokerPosition,
    Capabilities,
    OrderRef,
    Report,
    Reports,
    Ticket,
)
from brokers.errors import BrokerError, BrokerUnavailable, OrderRefused, OutcomeUnknown
from brokers.paper.exchange import PaperExchange
from brokers.paper.file import BookFile
from brokers.paper.model import Action, Fault, Operation

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_BookCall = Callable[[PaperExchange], _T]
_REPORTS_AT_ONCE = 1000
_TIMER_MARGIN_SECONDS = 0.001
_RETRY_SECONDS = 1.0
_UNKNOWN_WHEN_LOST = frozenset({Operation.PLACE, Operation.CANCEL})


@dataclass(frozen=True, slots=True)
class _Hit:
    """The call was not made, because these faults come first."""

    faults: tuple[Fault, ...]


class Venue:
    """What the accounts of one book share in this process: one thread and one open file, for any number of accounts."""

    def __init__(self, path: Path, thread: ThreadPoolExecutor | None = None) -> None:
        self.path = path
        self.accounts = 0
        self.thread = thread or ThreadPoolExecutor(1, thread_name_prefix=f"exchange-{path.stem}")
        self._file: BookFile | None = None

    def file(self) -> BookFile:
        """The open book. To be called in the thread only. Raises BrokerUnavailable."""
        if self._file is None:
            self._file = BookFile(self.path)
        return self._file

    def close(self) -> None:
        """To be called in the thread only."""
        if self._file is not None:
            self._file.close()


# By resolved path: accounts are created independently, and those of one book share its venue here.
_venues: dict[Path, Venue] = {}


def _enter(path: Path) -> Venue:
    key = path.resolve()
    venue = _venues.get(key)
    if venue is None:
        venue = _venues[key] = Venue(key)
    venue.accounts += 1
    return venue


async def _leave(venue: Venue) -> None:
    """The last user closes the book."""
    venue.accounts -= 1
    if not venue.accounts:
        if _venues.get(venue.path) is venue:
            del _venues[venue.path]
        try:
            await asyncio.get_running_loop().run_in_executor(venue.thread, venue.close)
        finally:
            venue.thread.shutdown(wait=False)


class ExchangeBroker(ABC):
    """One account at a paper exchange, whatever its market is.

    The calls of all accounts of a book run one after another in one thread, because its file allows one writer. A call
    that is cancelled while the thread works on it is completed there: the book has all of it or nothing, as with a
    broker whose answer was not awaited.
    """

    title = "The broker"
    """For people, at the beginning of a sentence."""

    def __init__(self, *, account_id: str, path: Path | str, clock: Callable[[], datetime]) -> None:
        self._account_id = account_id
        self._path = Path(path)
        self._clock = clock
        self._venue: Venue | None = None
        self._book: PaperExchange | None = None
        self._closed = asyncio.Event()
        self._hint: Callable[[], None] | None = None
        self._due: datetime | None = None
        self._reported_due: tuple[datetime | None] | None = None
        """The time last passed to `_set_timer`; None if it must be passed again. Used in the thread only."""
        self._timer: asyncio.TimerHandle | None = None
        self._tick: asyncio.Task[None] | None = None

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    @abstractmethod
    def _open(self, venue: Venue) -> PaperExchange:
        """The account's exchange, in the venue's book. Called in the thread only."""

    async def connect(self) -> None:
        """Opens the book. Raises BrokerUnavailable."""
        if self._book is None:
            self._closed.clear()
            self._reported_due = None
            venue = self._venue = self._venue or _enter(self._path)
            with _translated_errors(BrokerUnavailable, self.title):
                self._book = await asyncio.get_running_loop().run_in_executor(venue.thread, self._open, venue)
        try:
            await self._ask(Operation.CONNECT, lambda book: book.advance())
        except BrokerError:
            await self.close()
            raise

    async def fitted(self, ticket: Ticket) -> Ticket:
        """Unchanged: every price and quantity is accepted."""
        return ticket

    async def reserve(self, ticket: Ticket, *, taken: Collection[str] = ()) -> str | None:
        """None: the mock assigns ids when placing."""
        return None

    async def place_order(self, ticket: Ticket) -> Report:
        return await self._ask(
            Operation.PLACE, lambda book: book.place(ticket), ticket.client_order_id, ticket.instrument.symbol
        )

    async def cancel_order(self, ref: OrderRef, *, again: bool = False) -> None:
        await self._ask(Operation.CANCEL, lambda book: book.cancel(ref), ref.client_order_id)
        self._give_hint()

    async def reports(self, since: int | None = None) -> Reports:
        return await self._ask(Operation.REPORTS, lambda book: book.reports(since, at_most=_REPORTS_AT_ONCE))

    async def find(self, client_order_id: str) -> Report | None:
        return await self._ask(Operation.FIND, lambda book: book.find(client_order_id), client_order_id)

    async def find_all(self, client_order_ids: Collection[str]) -> Mapping[str, Report | None]:
        """One after another: the book finds orders by id."""
        return {tag: await self.find(tag) for tag in client_order_ids}

    async def positions(self) -> Sequence[BrokerPosition]:
        return await self._ask(Operation.POSITIONS, lambda book: book.positions())

    async def balances(self) -> Sequence[Balance]:
        return await self._ask(Operation.BALANCES, lambda book: book.balances())

    def on_hint(self, callback: Callable[[], None] | None) -> None:
        """`callback` is called when something scheduled has happened. Changes by other processes are noticed only by
        asking."""
        self._hint = callback

    async def close(self) -> None:
        """Waiting calls end with OutcomeUnknown; the book keeps what it has."""
        self._closed.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._tick is not None:
            self._tick.cancel()
        book, self._book = self._book, None
        venue, self._venue = self._venue, None
        self._due = None
        if venue is not None:
            try:
                if book is not None:
                    await asyncio.get_running_loop().run_in_executor(venue.thread, book.close)
            finally:
                await _leave(venue)

    # Calls to the book

    async def _ask(
        self, operation: Operation, call: _BookCall[_T], client_order_id: str = "", symbol: str | None = None
    ) -> _T:
        """Makes the call, unless faults hit it, which are then carried out. Without faults it takes one switch to
        the thread."""

        def call_unless_hit(book: PaperExchange) -> _T | _Hit:
            faults = book.draw(operation, client_order_id, symbol)
            return _Hit(faults) if faults else call(book)

        lost = OutcomeUnknown if operation in _UNKNOWN_WHEN_LOST else BrokerUnavailable
        answer = await self._in_thread(call_unless_hit, lost)
        return await self._play(answer.faults, call, lost) if isinstance(answer, _Hit) else answer

    async def _play(self, faults: Sequence[Fault], call: _BookCall[_T], lost: type[BrokerError]) -> _T:
        answers: list[_T] = []
        for fault in faults:
            if fault.action is Action.REFUSE:
                raise OrderRefused(fault.reason)
            if fault.action is Action.UNAVAILABLE:
                raise BrokerUnavailable(fault.reason)
            heard = fault.action is not Action.DROP_BEFORE_ACCEPT and fault.accepted
            if heard and not answers:
                try:
                    answers.append(await self._in_thread(call, lost))
                except BrokerError:
                    if fault.action is Action.SLOW:
                        await asyncio.sleep(fault.seconds)
                        raise
            if fault.action is Action.SLOW:
                await asyncio.sleep(fault.seconds)
                continue
            if fault.action is Action.NEVER_ANSWER:
                await self._closed.wait()
            raise lost(f"No answer from the mock broker ({fault.action})")
        return answers[0] if answers else await self._in_thread(call, lost)

    async def _in_thread(self, call: _BookCall[_T], lost: type[BrokerError]) -> _T:
        book, venue = self._book, self._venue
        if book is None or venue is None:
            raise BrokerUnavailable(f"{self.title} is not connected")
        loop = asyncio.get_running_loop()

        def work() -> _T:
            try:
                return call(book)
            finally:
                # From here and not after the await below, which a cancelled caller never passes.
                self._report_due(book, loop)

        with _translated_errors(lost, self.title):
            return await loop.run_in_executor(venue.thread, work)

    def _report_due(self, book: PaperExchange, loop: asyncio.AbstractEventLoop) -> None:
        try:
            reported = (book.next_due(),)
            if reported != self._reported_due:
                self._reported_due = reported
                loop.call_soon_threadsafe(self._set_timer, *reported)
        except (BrokerError, RuntimeError) as exc:
            # The call before it has its own outcome, which this error must not hide: only a hint is lost, or the loop
            # is closed.
            _log.warning("%s could not plan its next hint: %s", self.title, exc)

    # Hints

    def _give_hint(self) -> None:
        if self._hint is not None:
            asyncio.get_running_loop().call_soon(self._hint)

    def _set_timer(self, due: datetime | None) -> None:
        if self._closed.is_set():
            return
        passed = self._due is not None and self._due <= self._clock()
        self._due = due
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            delay_seconds = max((due - self._clock()).total_seconds(), 0.0) + _TIMER_MARGIN_SECONDS
            self._timer = asyncio.get_running_loop().call_later(delay_seconds, self._on_due)
        if passed:
            self._give_hint()

    def _on_due(self) -> None:
        self._tick = asyncio.get_running_loop().create_task(self._advance())

    async def _advance(self) -> None:
        def advance(book: PaperExchange) -> None:
            # After the wall clock was set back, the same event is due again, and the timer must be set for it again.
            self._reported_due = None
            book.advance()

        try:
            await self._in_thread(advance, BrokerUnavailable)
        except BrokerUnavailable as exc:
            _log.warning("%s: its book did not answer, trying again: %s", self.title, exc)
            if not self._closed.is_set():
                self._timer = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._on_due)


@contextmanager
def _translated_errors(lost: type[BrokerError], title: str) -> Iterator[None]:
    """Turns every error that is not a broker's into `lost`, since its effect is unknown."""
    try:
        yield
    except BrokerError:
        raise
    except Exception as exc:
        _log.exception("%s failed", title)
        raise lost(f"{title} failed: {exc}") from exc
