"""Figures for Prometheus: what is counted as orders are recorded, and a picture of the moment; drawn up away from the event loop."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from execution_service.api.pace import Pace
from execution_service.api.picture import Moment, Picture
from execution_service.api.risk_figures import (
    HoldsLimits,
    KnowsSwitches,
    Use,
    engaged,
    risk_use,
)
from execution_service.control.limit_uses import KeepsRiskBooks, limit_uses
from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.events import Accepted, Rejected
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.orders.status import Status
from execution_service.core.quality.order_quality import order_quality
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.runtime.threads import Blocking
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import LEDGER, PEOPLE, WORLD
from execution_service.storage.ports.queries import QueryStore

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NOTED_AT_MOST = 20_000
"""So many records may wait to be counted; more are dropped, and that is counted."""
TAKEN_AT_ONCE, TAKEN_WHEN_ASKED = 50, 200
COUNTED_EVERY_SECONDS = 1.0
COUNTS_SECONDS = 15.0
"""So long what was counted in the store is believed: to count it means to walk through all records."""
LOOKED_AT_MOST = 5000
"""Of the orders in hand, for the lag of the delivery: more would hold up the event loop."""
STEPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
SLIPPAGES = (-100, -50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
"""In basis points."""
STRATEGIES_NAMED = 50
OTHER_STRATEGIES = "(other)"
"""Each strategy is a series of its own for ever, and messages name them: the first of a process's life are named, the others are one."""
NO_BROKER = "NONE"
"""What the broker of an account that is not configured is called."""
_FINISHED = {Status.FILLED, Status.REJECTED, Status.CANCELLED, Status.EXPIRED}


class NamesBrokers(Protocol):
    """Which broker serves an account."""

    def broker_of(self, account_id: str) -> str: ...


class ShowsStates(Protocol):
    """How the parts of the process and its accounts stand."""

    def part_states(self) -> Mapping[str, Mapping[str, str | int]]: ...

    def account_states(self) -> Mapping[str, Mapping[str, str]]: ...

    def silent_seconds(self) -> Mapping[str, float]:
        """For the store and Pub/Sub, how long they have not answered; 0: they do."""

    def queues(self) -> Mapping[str, int]:
        """What waits, by the queue's name."""


class ShowsMessages(Protocol):
    """Who receives messages."""

    @property
    def oldest(self) -> datetime | None:
        """When the oldest was published that is received or was handed back, and is not acknowledged; None: there is none."""


class ShowsSilence(Protocol):
    """Whether one service around answers."""

    def silent_seconds(self) -> float: ...


class ShowsBrokers(Protocol):
    """How the accounts stand at their brokers, beyond whether they are connected."""

    def paused(self) -> Mapping[str, bool]:
        """By account: whether its broker is away for a time that is known beforehand."""

    def unprotected(self) -> Mapping[str, int]:
        """By account: how many entries are held without the protection that they ask for, or it is in doubt."""

    def calls_left(self) -> Mapping[tuple[str, str, str], float]:
        """By account, kind of call and period in seconds, where a broker limits its calls."""


class PublishedConfirmation(Protocol):
    """A confirmation that Pub/Sub has taken."""

    @property
    def broker(self) -> str: ...

    @property
    def recorded_at(self) -> datetime:
        """When the event that it tells was recorded."""


class CountsStore(QueryStore, KeepsRiskBooks, Protocol):
    """What is asked of the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Whom a scrape asks for the figures of the moment; none of them asks anybody outside but the store."""

    brokers: NamesBrokers
    states: ShowsStates
    at_brokers: ShowsBrokers
    inboxes: Mapping[str, ShowsMessages]
    around: Mapping[str, ShowsSilence]
    """Services beside the store and Pub/Sub, by the name that the figure has."""
    limits: HoldsLimits
    switches: KnowsSwitches
    reconcile_interval_seconds: float


@dataclass(frozen=True, slots=True)
class Performance:
    """What spec 002 asks for."""

    placed: int
    filled: int
    failed: int
    average_latency_ms: float
    average_slippage_percent: float


@dataclass(frozen=True, slots=True)
class _Noted:
    """An order that has come in hand or of which something was recorded, to be counted."""

    order: Order
    durable_at: datetime | None = None
    """When it was seen to be stored, where that is new."""


@dataclass(frozen=True, slots=True)
class _Published:
    """A confirmation, to be counted."""

    broker: str
    recorded_at: datetime
    published_at: datetime


@dataclass(slots=True)
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else 0.0


@dataclass(slots=True)
class _Counts:
    """As they were counted in the store."""

    orders: Mapping[tuple[str, str], int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    discrepancies_since: Mapping[str, datetime] = field(default_factory=dict)
    """By account, when its oldest open one was opened."""
    risk_use: Mapping[Use, float] = field(default_factory=dict)
    at: float = float("-inf")


class Measures:
    """Recording costs an append here; all else is done later, and bounded."""

    def __init__(
        self,
        *,
        live_orders: LiveOrders,
        queries: CountsStore,
        sources: Sources,
        clock: Clock,
        threads: Blocking,
        version: str,
        pace: Pace,
    ) -> None:
        self._pace = pace
        self._live = live_orders
        self._queries = queries
        self._sources = sources
        self._clock = clock
        self._threads = threads
        self._began_at = clock.now()
        self._noted: deque[_Noted | _Published] = deque()
        self._dropped = 0
        self._versions: OrderedDict[str, int] = OrderedDict()
        self._counts = _Counts()
        self._latency, self._slippage = _Mean(), _Mean()
        self._registry = CollectorRegistry()
        self._picture = Picture(version)
        self._registry.register(self._picture)
        labels = ("outcome", "account", "broker")
        self._outcomes = Counter(
            "execution_order_outcomes",
            "Outcomes recorded since the start, by this process",
            labels,
            registry=self._registry,
        )
        self._refusals = Counter(
            "execution_refusals",
            "Orders refused since the start, by this process, by the reason's code",
            ("code", "account"),
            registry=self._registry,
        )
        self._steps = Histogram(
            "execution_step_seconds",
            "From one step of an order to the next: published, received, durable, sent, acknowledged, filled; and recorded to confirmed",
            ("step", "broker"),
            buckets=STEPS,
            registry=self._registry,
        )
        self._slippages = Histogram(
            "execution_slippage_basis_points",
            "How much worse than the price at arrival (of a stop order: its stop) orders were filled that have ended, in basis points",
            ("strategy", "broker"),
            buckets=SLIPPAGES,
            registry=self._registry,
        )
        self._times_to_fill = Histogram(
            "execution_fill_seconds",
            "From receiving an order to its first and its last fill, by the venue's times, of orders that have ended",
            ("fill", "strategy", "broker"),
            buckets=STEPS,
            registry=self._registry,
        )
        self._strategies: set[str] = set()
        for live in live_orders.by_id.values():
            self._remember(live.order.order_id, live.order.version)
        live_orders.on_taken.append(self._note_taken)
        live_orders.on_recorded.append(self._note_recorded)

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        return [Part("metrics", self.run, is_vital=False)]

    # --- noted, at once -----------------------------------------------------------------------------------------

    def _note_taken(self, live: LiveOrder) -> None:
        """What happened before this process began was counted by another one."""
        order = live.order
        if order.received_at < self._began_at:
            self._remember(order.order_id, order.version)
        else:
            self._note(_Noted(order, self._clock.now()))

    def _note_recorded(self, live: LiveOrder) -> None:
        self._note(_Noted(live.order))

    def note_confirmed(self, confirmation: PublishedConfirmation) -> None:
        """It was published at this moment."""
        self._note(_Published(confirmation.broker, confirmation.recorded_at, self._clock.now()))

    def _note(self, noted: _Noted | _Published) -> None:
        if len(self._noted) >= NOTED_AT_MOST:
            self._dropped += 1
        else:
            self._noted.append(noted)

    # --- counted, later -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Counts what was noted, some at once, so that trading comes in between. Until cancelled."""
        while True:
            self._take(TAKEN_AT_ONCE)
            await self._clock.sleep(0.0 if self._noted else COUNTED_EVERY_SECONDS)

    def _take(self, at_most: int) -> None:
        for _ in range(min(at_most, len(self._noted))):
            self._count(self._noted.popleft())

    def _remember(self, order_id: str, version: int) -> None:
        self._versions[order_id] = version
        if len(self._versions) > NOTED_AT_MOST:
            self._versions.popitem(last=False)

    def _count(self, noted: _Noted | _Published) -> None:
        if isinstance(noted, _Published):
            self._observe("recorded_to_confirmed", noted.broker, noted.recorded_at, noted.published_at)
            return
        order = noted.order
        account, broker = self._where(order.request.account_id or "")
        self._observe("received_to_durable", broker, order.received_at, noted.durable_at)
        if noted.durable_at is not None:
            self._pace.received(noted.durable_at)
        before = self._versions.pop(order.order_id, 0)
        self._remember(order.order_id, max(before, order.version))
        if order.version <= before:
            return
        fresh = order.events[before:]
        accepted = [event.at for event in fresh if isinstance(event, Accepted)]
        if accepted:
            self._outcomes.labels("placed", account, broker).inc()
            self._observe_sending(order, broker, accepted[-1])
        for event in fresh:
            if isinstance(event, Rejected):
                self._refusals.labels(event.reason.code.value, account).inc()
        earlier = order.as_of(before).status if before else None
        if order.status is not earlier and order.status in (*_FINISHED, Status.IN_DOUBT):
            self._outcomes.labels(order.status.value.lower(), account, broker).inc()
            if order.status is Status.REJECTED:
                self._pace.refused(order.finished_at or self._clock.now())
            if order.status is Status.FILLED:
                self._pace.filled(order.finished_at or self._clock.now())
                self._observe_filled(order, broker)
            if order.status in _FINISHED and order.filled_quantity:
                self._observe_quality(order, broker)

    def _where(self, account_id: str) -> tuple[str, str]:
        """The account and its broker. Accounts that somebody made up are one: each would be a series of its own, for ever."""
        broker = self._sources.brokers.broker_of(account_id)
        return ("" if broker == NO_BROKER else account_id), broker

    def _observe_sending(self, order: Order, broker: str, acknowledged_at: datetime) -> None:
        self._observe("published_to_received", broker, order.published_at, order.received_at)
        self._observe("received_to_sent", broker, order.received_at, order.submitted_at)
        self._observe("sent_to_acknowledged", broker, order.submitted_at, acknowledged_at)
        self._observe("received_to_acknowledged", broker, order.received_at, acknowledged_at)
        if order.submitted_at is not None:
            seconds = max(0.0, (acknowledged_at - order.submitted_at).total_seconds())
            self._latency.add(seconds * 1000)
            self._pace.acknowledged(acknowledged_at, seconds)

    def _observe_filled(self, order: Order, broker: str) -> None:
        self._observe("sent_to_filled", broker, order.submitted_at, order.filled_at)
        request, average = order.request, order.average_price
        if isinstance(request, OrderRequest) and request.reference_price and average is not None:
            paid_more = (average - request.reference_price) * request.side.sign
            self._slippage.add(float(paid_more / request.reference_price * 100))

    def _observe_quality(self, order: Order, broker: str) -> None:
        """As the order has ended: what is corrected later is not counted anew."""
        quality, strategy = order_quality(order), self._named_strategy(order)
        if quality.slippage_bps is not None:
            self._slippages.labels(strategy, broker).observe(float(quality.slippage_bps))
        times = (("first", quality.seconds_to_first_fill), ("last", quality.seconds_to_last_fill))
        for which, seconds in times:
            if seconds is not None:
                self._times_to_fill.labels(which, strategy, broker).observe(float(seconds))

    def _named_strategy(self, order: Order) -> str:
        name = order.request.strategy or ""
        if len(self._strategies) < STRATEGIES_NAMED:
            self._strategies.add(name)
        return name if name in self._strategies else OTHER_STRATEGIES

    def _observe(self, step: str, broker: str, since: datetime | None, until: datetime | None) -> None:
        if since is not None and until is not None:
            self._steps.labels(step, broker).observe(max(0.0, (until - since).total_seconds()))

    # --- asked for ----------------------------------------------------------------------------------------------

    async def text(self) -> bytes:
        """For a scrape. A store that does not answer leaves what it was asked for as it was, and its age grows."""
        self._take(TAKEN_WHEN_ASKED)
        await self._count_in_store()
        self._picture.moment = await self._moment()
        return await self._threads.run(lambda: generate_latest(self._registry))

    async def performance(self) -> Performance:
        self._take(TAKEN_WHEN_ASKED)
        await self._count_in_store()
        by_status: dict[str, int] = {}
        for (status, _), count in self._counts.orders.items():
            by_status[status] = by_status.get(status, 0) + count
        return Performance(
            placed=self._counts.sizes.get("placed_orders", 0),
            filled=by_status.get(Status.FILLED.value, 0),
            failed=by_status.get(Status.REJECTED.value, 0),
            average_latency_ms=self._latency.value,
            average_slippage_percent=self._slippage.value,
        )

    async def _count_in_store(self) -> None:
        now = self._clock.monotonic()
        if now - self._counts.at < COUNTS_SECONDS:
            return
        try:
            orders, sizes = await self._queries.counts_of_orders(), await self._queries.sizes()
            discrepancies = await self._queries.discrepancies()
            limits, zones = self._sources.limits.limits, self._sources.limits.zones
            found = await limit_uses(self._queries, limits, zones, self._clock.now())
        except (StoreUnavailable, UnreadableRecord):
            return
        since: dict[str, datetime] = {}
        for each in discrepancies:
            since[each.account_id] = min(each.opened_at, since.get(each.account_id, each.opened_at))
        self._counts = _Counts(orders, sizes, since, risk_use(found.usages), now)

    async def _switches(self) -> tuple[Mapping[tuple[str, str], float], bool]:
        state = await self._sources.switches.state()
        return (engaged(state.switches), True) if state.is_known else ({}, False)

    async def _moment(self) -> Moment:
        switches, are_known = await self._switches()
        lag_events, lag_seconds, oldest = self._lag()
        now, sources, counts = self._clock.now(), self._sources, self._counts
        orders: dict[tuple[str, str, str], int] = {}
        for (status, account_id), count in counts.orders.items():
            account, broker = self._where(account_id)
            orders[status, account, broker] = orders.get((status, account, broker), 0) + count
        accounts = sources.states.account_states()
        since = counts.discrepancies_since
        return Moment(
            orders=orders,
            in_doubt=sum(n for (status, _), n in counts.orders.items() if status == Status.IN_DOUBT.value),
            sizes=counts.sizes,
            counts_age_seconds=self._clock.monotonic() - counts.at,
            oldest_discrepancy_seconds={
                account: _age(since.get(account), now) for account in sorted(since.keys() | accounts.keys())
            },
            reconcile_interval_seconds=sources.reconcile_interval_seconds,
            risk_use=counts.risk_use,
            switches=switches,
            are_switches_known=are_known,
            parts=sources.states.part_states(),
            accounts=accounts,
            paused=sources.at_brokers.paused(),
            calls_left=sources.at_brokers.calls_left(),
            unprotected=sources.at_brokers.unprotected(),
            silent={
                **sources.states.silent_seconds(),
                **{name: each.silent_seconds() for name, each in sources.around.items()},
            },
            queues=sources.states.queues(),
            unacknowledged_seconds={name: _age(inbox.oldest, now) for name, inbox in sources.inboxes.items()},
            lag_events=lag_events,
            lag_seconds=lag_seconds,
            oldest_pending_seconds=oldest,
            dropped=self._dropped,
        )

    def _lag(self) -> tuple[dict[str, int], dict[str, float], float]:
        """How far each delivery cursor is behind what is recorded of the orders in hand, and how long the oldest pending one waits."""
        now = self._clock.now()
        events, seconds, oldest = (
            dict.fromkeys((WORLD, PEOPLE, LEDGER), 0),
            dict.fromkeys((WORLD, PEOPLE, LEDGER), 0.0),
            0.0,
        )
        for place, live in enumerate(self._live.by_id.values()):
            if place >= LOOKED_AT_MOST:
                break
            order = live.order
            if order.status is Status.PENDING:
                oldest = max(oldest, (now - order.received_at).total_seconds())
            for cursor in {WORLD, PEOPLE, LEDGER, *live.told.others}:
                told = live.told.at(cursor)
                if told < order.version:
                    events[cursor] = events.get(cursor, 0) + order.version - told
                    waited = (now - order.events[told].at).total_seconds()
                    seconds[cursor] = max(seconds.get(cursor, 0.0), waited)
        return events, seconds, oldest


def _age(moment: datetime | None, now: datetime) -> float:
    """In seconds; 0 where there is none."""
    return 0.0 if moment is None else max(0.0, (now - moment).total_seconds())
