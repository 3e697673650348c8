"""Which record updates are written next, and together: accounts by turns, and which of them hurry; writes nothing."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from execution_service.runtime.clock import Clock

COMMIT, SHORT_COMMIT, STATEMENT = 100, 8, 64
"""Updates in one commit, in one while several accounts are at work, and in one statement. Long commits cost each update less; but an account
that has little to write must not wait long for one that has much."""
SHORT_COMMITS_SECONDS = 10.0
"""For so long after somebody else's last update the accounts at work count as several."""
LEAVING_SHARE = 0.75
"""So much of a commit is for what is about to be sent; the rest is for what has happened, however much is about to be sent."""


class Update(Protocol):
    @property
    def statement(self) -> str:
        """Equal where the same statement serves several records."""
        ...


U = TypeVar("U", bound=Update)


class WriteQueue(Generic[U]):
    """The updates that wait to be written, each account's in their order."""

    def __init__(self) -> None:
        self._leaving: _Queues[U] = _Queues()
        """Of orders that are about to be sent."""
        self._happened: _Queues[U] = _Queues()

    def __bool__(self) -> bool:
        return bool(self._leaving or self._happened)

    def put(self, update: U, account_id: str | None, *, is_leaving: bool = False) -> None:
        """`account_id`: whose turn it takes; None for what nobody's order waits for. `is_leaving`: its order is sent when this is durable."""
        (self._leaving if is_leaving else self._happened).put(update, account_id)

    def take(self, limit: int) -> list[U]:
        """At most so many, of every account that has something waiting: one with little to write is not behind one with much."""
        commit = self._leaving.take(int(limit * LEAVING_SHARE))
        return commit + self._happened.take(limit - len(commit))


class EmbeddedWriteQueue(WriteQueue[U]):
    """The same for a server that is held up by each update of a commit: commits are short while several accounts are at work, and what an
    account with little to write is about to send has commits of its own."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._last_writer = ""
        self._last_wrote_at = self._another_wrote_at = float("-inf")

    def put(self, update: U, account_id: str | None, *, is_leaving: bool = False) -> None:
        if account_id is not None:
            if account_id != self._last_writer:
                self._last_writer, self._another_wrote_at = account_id, self._last_wrote_at
            self._last_wrote_at = self._clock.monotonic()
        super().put(update, account_id, is_leaving=is_leaving)

    @property
    def has_hurry(self) -> bool:
        """Whether an account with less to write than the busiest is about to send something."""
        return bool(self._with_less())

    def take_hurry(self) -> list[U]:
        """What accounts with less to write than the busiest are about to send, and hardly anything else."""
        commit = self._leaving.take_from(self._with_less(), STATEMENT)
        return commit + self._happened.take(int(len(commit) * (1 / LEAVING_SHARE - 1)))

    def take_commit(self) -> list[U]:
        """Of everything."""
        are_several = self._clock.monotonic() - self._another_wrote_at < SHORT_COMMITS_SECONDS
        return self.take(SHORT_COMMIT if are_several else COMMIT)

    def _with_less(self) -> list[str]:
        """Of the accounts that are about to send something the one with the least, and the next ones as far as they fit in."""
        accounts = {*self._leaving.accounts, *self._happened.accounts}
        waiting = {a: self._leaving.waiting(a) + self._happened.waiting(a) for a in accounts}
        most = max(waiting.values(), default=0)
        ranked = sorted((a for a in self._leaving.accounts if waiting[a] < most), key=lambda a: waiting[a])
        sums = itertools.accumulate(map(self._leaving.waiting, ranked))
        return [
            a for place, (a, total) in enumerate(zip(ranked, sums, strict=True)) if not place or total <= SHORT_COMMIT
        ]


class _Queues(Generic[U]):
    """Account by account, and one more for what belongs to none."""

    def __init__(self) -> None:
        self._of_accounts: OrderedDict[str, deque[U]] = OrderedDict()
        self._others: deque[U] = deque()

    def __bool__(self) -> bool:
        return bool(self._of_accounts or self._others)

    @property
    def accounts(self) -> Iterable[str]:
        """Those that have something waiting."""
        return self._of_accounts

    def waiting(self, account_id: str) -> int:
        return len(self._of_accounts.get(account_id, ()))

    def put(self, update: U, account_id: str | None) -> None:
        queue = self._others if account_id is None else self._of_accounts.setdefault(account_id, deque())
        queue.append(update)

    def take(self, limit: int) -> list[U]:
        """One statement from each account by turns, and as many of the others as of all accounts, for as long as there are any of both;
        a statement takes along those behind it that are served by the same."""
        taken: list[U] = []
        while self and len(taken) < limit:
            if self._of_accounts:
                account_id, queue = self._of_accounts.popitem(last=False)
                taken += _alike(queue, min(STATEMENT, limit - len(taken)))
                if queue:
                    self._of_accounts[account_id] = queue
            if self._others and len(taken) < limit:
                taken += _alike(self._others, min(STATEMENT, limit - len(taken)))
        return taken

    def take_from(self, account_ids: Iterable[str], limit: int) -> list[U]:
        """What these accounts have waiting."""
        taken: list[U] = []
        for account_id in account_ids:
            queue = self._of_accounts[account_id]
            while queue and len(taken) < limit:
                taken.append(queue.popleft())
            if not queue:
                del self._of_accounts[account_id]
        return taken


def _alike(queue: deque[U], limit: int) -> Iterator[U]:
    first = queue[0].statement
    while queue and limit and queue[0].statement == first:
        limit -= 1
        yield queue.popleft()
