"""What people are still to be told of orders, and in which message: which letters wait, which go alone, which together; the words are in
core/alerts.py, alarms that belong to no order in the outbox."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from execution_service.core import alerts
from execution_service.core.effects import happenings
from execution_service.core.order import Order, Status
from execution_service.ports import Clock, Strike
from notifications.base import NotificationFailed, Notifier

log = structlog.get_logger(__name__)

ALERT_LIFETIME = timedelta(hours=1)
ALONE_AT_MOST = 10
"""Orders whose outcomes wait are told of one by one; of more, many in one message."""
LONGEST_DIGEST = 3500
"""In UTF-16 units, without the title: Telegram takes 4096."""
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
SAID_AT_SECONDS = (1.0, 8.0)
"""The pauses at which a failure is said: the first, and one that shows that it lasts."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of an order: as a text of its own (None: many waited already when it was written), and as one line among others'."""

    at: datetime
    text: str | None
    line: str


@dataclass(slots=True)
class _Letter:
    """What waits to be told of one order, up to one of its versions."""

    order_id: str
    account_id: str | None
    version: int
    is_final: bool
    alerts: deque[tuple[datetime, str]] = field(default_factory=deque)
    """What a person should look at: goes first, and alone."""
    outcomes: list[_Outcome] = field(default_factory=list)
    is_in_doubt: bool = False
    """A person has to decide, however long ago that began: its alerts do not grow old."""
    is_let_go: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.alerts or self.outcomes)


@dataclass(frozen=True, slots=True)
class _Mail:
    """One message, and what it says of whom."""

    text: str
    alert_of: _Letter | None = None
    outcomes: Sequence[tuple[_Letter, _Outcome]] = ()


class Channel:
    """One sender's way to people: after each failure it waits longer, and it says that it fails and that it is back."""

    def __init__(self, notifier: Notifier, clock: Clock) -> None:
        self._notifier = notifier
        self._clock = clock
        self._pause = SHORTEST_PAUSE_SECONDS

    async def is_sent(self, text: str) -> bool:
        """Tries once. False: it was not sent, and now it is time to try again."""
        try:
            await self._notifier.send(text)
        except NotificationFailed as exc:
            least = exc.retry_after_seconds or 0.0
            if self._pause in SAID_AT_SECONDS:
                log.warning(f"Telegram message not sent, tried again: {exc}", action="telegram_failed")
        except Exception as exc:
            least = 0.0
            log.error(f"Telegram message not sent: {exc}", action="telegram_failed", exc_info=exc)
        else:
            if self._pause > SHORTEST_PAUSE_SECONDS:
                log.info("Telegram message sent after all", action="telegram_answers")
            self._pause = SHORTEST_PAUSE_SECONDS
            return True
        await self._clock.sleep(max(self._pause, least))
        self._pause = min(LONGEST_PAUSE_SECONDS, self._pause * 2)
        return False


class Letters:
    """One letter an order waits at most; it holds texts and numbers, not the order. What was sent is struck out of the record, so that a
    death loses nothing and repeats at most what was being sent."""

    def __init__(
        self, *, notifier: Notifier, clock: Clock, strike_out: Callable[[Sequence[Strike]], Awaitable[None]]
    ) -> None:
        """`strike_out` returns when it is durable."""
        self._notifier = notifier
        self._channel = Channel(notifier, clock)
        self._clock = clock
        self._strike_out = strike_out
        self._waiting: dict[str, _Letter] = {}
        self._urgent: deque[_Letter] = deque()
        """One place for each alert that waits."""
        self._being_struck: dict[str, int] = {}
        """Versions of orders of which everything was sent, and which the record does not know yet."""
        self._behind: dict[str, _Letter] = {}
        """Later versions of those, with nothing to be told: to be struck out next."""
        self._news = asyncio.Event()

    def awaits(self, order_id: str) -> bool:
        """Whether the record is still owed the news that people were told."""
        return order_id in self._waiting or order_id in self._being_struck

    def has_words(self, order: Order, after_number: int) -> bool:
        """Whether people are told of anything after that event."""
        return self._notifier.enabled and any(
            alerts.order_alert(h.before, h.event, h.after, account_name=None, broker="") is not None
            for h in happenings(order, after_number)
        )

    def write(self, order: Order, after_number: int, *, account_name: str | None, broker: str) -> None:
        """What people are owed of the events after that one. Of an order whose letter waits it is written into that one."""
        letter = self._waiting.get(order.order_id)
        after_number = max(
            after_number, self._being_struck.get(order.order_id, 0), 0 if letter is None else letter.version
        )
        fresh = letter or _Letter(order.order_id, order.request.account_id, order.version, order.status.is_final)
        fresh.version, fresh.is_final = max(fresh.version, order.version), order.status.is_final
        fresh.is_in_doubt = order.status is Status.IN_DOUBT
        is_crowded = len(self._waiting) >= ALONE_AT_MOST
        for happening in happenings(order, after_number):
            before, event, after = happening.before, happening.event, happening.after
            text = alerts.order_alert(before, event, after, account_name=account_name, broker=broker)
            if text is None:
                continue
            line = alerts.outcome_line(before, event, after, account_name=account_name)
            if line is None:
                fresh.alerts.append((event.at, text))
                self._urgent.append(fresh)
            elif is_crowded:
                fresh.outcomes = [_Outcome(event.at, None, line)]
            else:
                fresh.outcomes.append(_Outcome(event.at, text, line))
        if letter is None and not fresh.is_empty:
            self._waiting[order.order_id] = fresh
        elif letter is None and order.order_id in self._being_struck:
            self._behind[order.order_id] = fresh
        if self._waiting:
            self._news.set()

    def let_go(self, is_theirs: Callable[[str | None], bool]) -> None:
        """Others tell of the orders of those accounts from now on."""
        for letter in [letter for letter in self._waiting.values() if is_theirs(letter.account_id)]:
            letter.is_let_go = True
            del self._waiting[letter.order_id]

    async def run(self) -> None:
        """Until cancelled. Tries on while the channel fails, each text for an hour after what it tells of."""
        while True:
            await self._news.wait()
            while self._waiting:
                await self._give_up_old()
                mail = self._next()
                if mail is not None and await self._channel.is_sent(mail.text):
                    await self._sent(mail)
            self._news.clear()  # not before: a run that fails in between leaves the rest to the next

    def _next(self) -> _Mail | None:
        """None: nothing is left to be told."""
        while self._urgent:
            letter = self._urgent[0]
            if letter.alerts and not letter.is_let_go:
                return _Mail(letter.alerts[0][1], alert_of=letter)
            self._urgent.popleft()
        told = [letter for letter in self._waiting.values() if letter.outcomes]
        if not told:
            return None
        first = told[0].outcomes[0]
        if len(told) <= ALONE_AT_MOST and first.text is not None:
            return _Mail(first.text, outcomes=[(told[0], first)])
        lines: list[str] = []
        room = LONGEST_DIGEST
        shared: list[tuple[_Letter, _Outcome]] = []
        for letter in told:
            line = letter.outcomes[-1].line
            room -= len(line.encode("utf-16-le", "replace")) // 2 + 1
            if room < 0 and lines:
                break
            lines.append(line)
            shared += [(letter, outcome) for outcome in letter.outcomes]
        return _Mail(alerts.digest(lines, waiting=len(told) - len(lines)), outcomes=shared)

    async def _sent(self, mail: _Mail) -> None:
        letters: dict[str, _Letter] = {}
        if mail.alert_of is not None:
            mail.alert_of.alerts.popleft()
            letters[mail.alert_of.order_id] = mail.alert_of
        for letter, outcome in mail.outcomes:
            letter.outcomes = [other for other in letter.outcomes if other is not outcome]
            letters[letter.order_id] = letter
        await self._strike_empty(letters.values())

    async def _give_up_old(self) -> None:
        oldest = self._clock.now() - ALERT_LIFETIME
        late = [
            letter
            for letter in self._waiting.values()
            if (any(at <= oldest for at, _ in letter.alerts) and not letter.is_in_doubt)
            or any(o.at <= oldest for o in letter.outcomes)
        ]
        if not late:
            return
        count = 0
        for letter in late:
            had = len(letter.alerts) + len(letter.outcomes)
            letter.alerts = deque(alert for alert in letter.alerts if letter.is_in_doubt or alert[0] > oldest)
            letter.outcomes = [outcome for outcome in letter.outcomes if outcome.at > oldest]
            count += had - len(letter.alerts) - len(letter.outcomes)
        log.error(f"{count} Telegram messages given up after an hour", action="telegram_given_up", count=count)
        await self._strike_empty(late)

    async def _strike_empty(self, letters: Iterable[_Letter]) -> None:
        """Nothing of these is owed any more. One that was let go is its new holder's to strike out."""
        done = [letter for letter in letters if letter.is_empty and not letter.is_let_go]
        for letter in done:
            del self._waiting[letter.order_id]
        while done:
            self._being_struck |= {letter.order_id: letter.version for letter in done}
            try:
                await self._strike_out([_strike(letter) for letter in done])
            finally:
                for letter in done:
                    self._being_struck.pop(letter.order_id, None)
            done = [self._behind.pop(letter.order_id) for letter in done if letter.order_id in self._behind]

    def __len__(self) -> int:
        return len(self._waiting)


def _strike(letter: _Letter) -> Strike:
    return Strike(order_id=letter.order_id, version=letter.version, is_settled=letter.is_final, people=letter.version)
