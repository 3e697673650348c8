"""What is counted over time: orders a minute and a day, repeated content, executions, rejections in a row, the day's result; folds over events.

Nothing here asks for the time: each call is told it. The wall clock may jump. What has been counted is never freed by a clock that jumps back: a
moment that lies ahead of `now` counts as now, and a day that has begun lasts until a later one begins. Where a clock had run ahead, people are told
(`is_day_ahead`), and a named person puts it right (`Rebased`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from hashlib import sha256
from typing import TypeAlias

from execution_service.core.exact import EXACT
from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import key_of
from execution_service.core.risk.limits import LimitType, Scope
from execution_service.core.risk.prices import HUNDRED, age_seconds

OUTCOMES_KEPT = 50
"""Of the latest orders it is known that their outcome was counted, should it be told again."""


# --- what happens ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """An order's intent is about to be written. Told again for the same attempt within the time that is remembered it counts once."""

    at: datetime
    order_id: str
    attempt: int
    signal_id: str
    strategy: str
    symbol: str
    content: str
    """Equal for orders that do the same (`content_of`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelSent:
    at: datetime
    strategy: str
    symbol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    at: datetime
    fill_id: str
    """Unique together with the order's."""
    order_id: str
    strategy: str
    symbol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What the broker answered an order of new risk with. Of exits nothing is counted: that one was taken must not end a run of refusals."""

    at: datetime
    order_id: str
    attempt: int
    strategy: str
    symbol: str
    is_rejected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A reading: of an account its equity, of a strategy or symbol in it the profit, realised and not, since whenever. In the account's currency."""

    at: datetime
    scope: Scope
    value: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """A limit that stays broken once it was: no new risk of this scope until a named person enables it again."""

    scope: Scope
    limit: LimitType
    value: str
    """What was counted, and the limit."""
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Enabled:
    """A named person lets the scope trade again: its trips and its run of rejections are over."""

    at: datetime
    scope: Scope
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebased:
    """A named person has losses and drawdowns within the scope measured from the first reading after this on, as after money was paid in or out:
    the latest may be older than the payment. Where the scope has the whole account, its day is that of now, as after a clock had run ahead. What was
    counted is kept."""

    at: datetime
    scope: Scope
    by: str
    reason: str


Happened: TypeAlias = Sent | CancelSent | Executed | Answered | Measured | Trip | Enabled | Rebased


# --- what is kept ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many orders of one strategy and symbol were sent this day."""

    strategy: str
    symbol: str
    orders: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """So many rejections in a row within the scope."""

    scope: Scope
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The readings of one scope."""

    scope: Scope
    baseline: Decimal
    """What the day's loss is measured from: the higher of the last reading before the day and the first of it; or the first that a person wanted."""
    peak: Decimal
    """The highest ever, or since a person had it measured anew, which the drawdown is measured from."""
    latest: Decimal
    at: datetime
    read_on: date
    """The day of the latest reading."""
    anew_after: datetime | None = None
    """The first reading after this is what is measured from; until it is there, what was said above is. None: nothing is to be measured anew."""

    @property
    def loss(self) -> Decimal:
        """Of the day; below 0: a profit."""
        return EXACT.subtract(self.baseline, self.latest)

    @property
    def drawdown(self) -> Decimal:
        """From the peak, as an amount."""
        return EXACT.subtract(self.peak, self.latest)

    @property
    def drawdown_pct(self) -> Decimal | None:
        """From the peak, in per cent of it; None where there never was anything."""
        if self.peak <= 0:
            return None
        return EXACT.divide(EXACT.subtract(self.peak, self.latest) * HUNDRED, self.peak)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Of one account, kept in its risk document."""

    account_id: str
    day: date | None = None
    """In the account's zone. It only moves forward."""
    tallies: tuple[Tally, ...] = ()
    sent: tuple[Sent, ...] = ()
    cancels: tuple[CancelSent, ...] = ()
    executions: tuple[Executed, ...] = ()
    runs: tuple[Run, ...] = ()
    answered: tuple[str, ...] = ()
    results: tuple[Result, ...] = ()
    trips: tuple[Trip, ...] = ()

    # Each question is about what the scope covers; `now` is the wall clock's.

    def orders_within(self, scope: Scope, seconds: Decimal, now: datetime) -> int:
        return sum(self._covers(scope, each) and _is_within(each.at, seconds, now) for each in self.sent)

    def cancels_within(self, scope: Scope, seconds: Decimal, now: datetime) -> int:
        return sum(self._covers(scope, each) and _is_within(each.at, seconds, now) for each in self.cancels)

    def executions_within(self, scope: Scope, seconds: Decimal, now: datetime) -> int:
        return sum(self._covers(scope, each) and _is_within(each.at, seconds, now) for each in self.executions)

    def earliest_within(self, scope: Scope, seconds: Decimal, now: datetime) -> datetime | None:
        """When the first of the orders and cancels of that window was sent; None: there is none."""
        both: tuple[Sent | CancelSent, ...] = (*self.sent, *self.cancels)
        moments = [
            min(each.at, now) for each in both if self._covers(scope, each) and _is_within(each.at, seconds, now)
        ]
        return min(moments, default=None)

    def orders_today(self, scope: Scope) -> int:
        """Of the day that these counters are of: `rolled` first."""
        return sum(tally.orders for tally in self.tallies if self._covers(scope, tally))

    def like(self, content: str, seconds: Decimal, now: datetime, *, signal_id: str) -> Sent | None:
        """The latest order of the same content in that window that belongs to another signal: the legs of one are not repetitions of each other."""
        found = [
            each
            for each in self.sent
            if each.content == content and each.signal_id != signal_id and _is_within(each.at, seconds, now)
        ]
        return found[-1] if found else None

    def rejections(self, scope: Scope) -> int:
        return next((run.count for run in self.runs if run.scope == scope), 0)

    def result(self, scope: Scope) -> Result | None:
        return next((each for each in self.results if each.scope == scope), None)

    def tripped(self, where: Scope) -> tuple[Trip, ...]:
        return tuple(trip for trip in self.trips if trip.scope.covers(where))

    def is_day_ahead(self, now: datetime, zone: tzinfo) -> bool:
        """A clock has run ahead into a day that has not come: what counts by the day does not begin anew until that day is over, or a person rebases
        it."""
        return self.day is not None and self.day > day_of(now, zone)

    def _covers(self, scope: Scope, each: Sent | CancelSent | Executed | Tally) -> bool:
        return scope.covers(Scope(account_id=self.account_id, strategy=each.strategy, symbol=each.symbol))


@dataclass(frozen=True, slots=True)
class Zones:
    """In which zone each account's trading day begins and ends; UTC where none is named."""

    by_account: Mapping[str, tzinfo] = field(default_factory=dict)

    def of(self, account_id: str) -> tzinfo:
        return self.by_account.get(account_id, UTC)


def day_of(now: datetime, zone: tzinfo) -> date:
    """The trading day is the calendar day in the account's zone, 23 or 25 hours where its clocks are changed."""
    return now.astimezone(zone).date()


def content_of(order: Order) -> str:
    """Equal for orders of one account that trade the same quantity of the same instrument on the same side, whoever sent them and at what price."""
    request = order.accepted_request
    quantity = order.quantity if order.quantity is not None else request.quantity
    amount = "" if quantity is None else f"{quantity.normalize():f}"
    parts = (request.account_id, key_of(order).instrument_key, request.side.value, amount)
    return sha256("|".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "backslashreplace")).hexdigest()


def _is_within(at: datetime, seconds: Decimal, now: datetime) -> bool:
    """One that lies ahead of the clock, which was set back since, is within any window."""
    return at >= now or age_seconds(at, now) < seconds


# --- the folds ------------------------------------------------------------------------------------------------------


def rolled(counters: Counters, now: datetime, zone: tzinfo) -> Counters:
    """As of today: a day that is later than the one that is counted begins with nothing counted, and measures its loss from where the last ended."""
    today = day_of(now, zone)
    if counters.day is not None and today <= counters.day:
        return counters
    results = tuple(replace(each, baseline=each.latest) for each in counters.results)
    return replace(counters, day=today, tallies=(), results=results)


def fold(counters: Counters, event: Happened, *, now: datetime, zone: tzinfo, keep_seconds: Decimal) -> Counters:
    """After the event. `keep_seconds`: how far back what was sent and executed is remembered (`RiskLimits.longest_window_seconds`); of what was sent
    longer ago a repetition is not known for one."""
    counters = _pruned(rolled(counters, now, zone), now, keep_seconds)
    match event:
        case Sent():
            return _with_order(counters, event, now)
        case CancelSent():
            return replace(counters, cancels=(*counters.cancels, replace(event, at=min(event.at, now))))
        case Executed():
            if any((e.order_id, e.fill_id) == (event.order_id, event.fill_id) for e in counters.executions):
                return counters
            return replace(counters, executions=(*counters.executions, replace(event, at=min(event.at, now))))
        case Answered():
            return _with_answer(counters, event)
        case Measured():
            return _with_reading(counters, event, now, zone)
        case Trip():
            kept = [t for t in counters.trips if (t.scope, t.limit) != (event.scope, event.limit)]
            return counters if len(kept) < len(counters.trips) else replace(counters, trips=(*kept, event))
        case Enabled():
            return replace(
                counters,
                trips=tuple(trip for trip in counters.trips if not event.scope.covers(trip.scope)),
                runs=tuple(run for run in counters.runs if not event.scope.covers(run.scope)),
            )
        case Rebased():
            return _rebased(counters, event, day_of(now, zone))


def fold_all(
    counters: Counters, events: Iterable[Happened], *, now: datetime, zone: tzinfo, keep_seconds: Decimal
) -> Counters:
    for event in events:
        counters = fold(counters, event, now=now, zone=zone, keep_seconds=keep_seconds)
    return counters


def _pruned(counters: Counters, now: datetime, keep_seconds: Decimal) -> Counters:
    """Without what no window reaches any more; moments that lie ahead become now, so that they last one window and not until a clock that had run
    ahead comes there again."""
    sent = tuple(replace(e, at=min(e.at, now)) for e in counters.sent if _is_within(e.at, keep_seconds, now))
    cancels = tuple(replace(e, at=min(e.at, now)) for e in counters.cancels if _is_within(e.at, keep_seconds, now))
    executions = tuple(
        replace(e, at=min(e.at, now)) for e in counters.executions if _is_within(e.at, keep_seconds, now)
    )
    return replace(counters, sent=sent, cancels=cancels, executions=executions)


def _with_order(counters: Counters, event: Sent, now: datetime) -> Counters:
    if any((each.order_id, each.attempt) == (event.order_id, event.attempt) for each in counters.sent):
        return counters
    mine = (event.strategy, event.symbol)
    before = next((t.orders for t in counters.tallies if (t.strategy, t.symbol) == mine), 0)
    others = tuple(t for t in counters.tallies if (t.strategy, t.symbol) != mine)
    tally = Tally(strategy=event.strategy, symbol=event.symbol, orders=before + 1)
    return replace(counters, sent=(*counters.sent, replace(event, at=min(event.at, now))), tallies=(*others, tally))


def _with_answer(counters: Counters, event: Answered) -> Counters:
    name = f"{event.order_id}:{event.attempt}:{event.is_rejected}"
    if name in counters.answered:
        return counters
    where = Scope(account_id=counters.account_id, strategy=event.strategy, symbol=event.symbol)
    of = [scope for scope in where.wider() if scope.account_id is not None]
    runs = tuple(run for run in counters.runs if run.scope not in of)
    if event.is_rejected:
        runs += tuple(Run(scope=scope, count=counters.rejections(scope) + 1) for scope in of)
    return replace(counters, runs=runs, answered=(*counters.answered, name)[-OUTCOMES_KEPT:])


def _with_reading(counters: Counters, event: Measured, now: datetime, zone: tzinfo) -> Counters:
    """A reading that is older than the one that is held came late, and changes nothing. The first of a day may raise the baseline."""
    at, known = min(event.at, now), counters.result(event.scope)
    today = counters.day or day_of(now, zone)
    if known is None:
        made = Result(
            scope=event.scope, baseline=event.value, peak=event.value, latest=event.value, at=at, read_on=today
        )
        return replace(counters, results=(*counters.results, made))
    if at < min(known.at, now):
        return counters
    anew_after = None if known.anew_after is None else min(known.anew_after, now)
    is_first, is_anew = known.read_on < today, anew_after is not None and at > anew_after
    baseline = max(known.baseline, event.value) if is_first else known.baseline
    made = replace(
        known,
        baseline=event.value if is_anew else baseline,
        peak=event.value if is_anew else max(known.peak, event.value),
        anew_after=None if is_anew else anew_after,
        latest=event.value,
        at=at,
        read_on=today,
    )
    return replace(counters, results=tuple(made if each is known else each for each in counters.results))


def _rebased(counters: Counters, event: Rebased, today: date) -> Counters:
    account = Scope(account_id=counters.account_id)
    day = today if event.scope.covers(account) else counters.day
    results = tuple(
        replace(each, anew_after=event.at, read_on=min(each.read_on, day or today))
        if event.scope.covers(each.scope)
        else each
        for each in counters.results
    )
    return replace(counters, day=day, results=results)


def sent(order: Order, now: datetime) -> Sent:
    """What is counted of an order whose intent is about to be written."""
    request = order.accepted_request
    return Sent(
        at=now,
        order_id=order.order_id,
        attempt=order.attempt,
        signal_id=order.signal_id,
        strategy=request.strategy,
        symbol=request.instrument.symbol,
        content=content_of(order),
    )
