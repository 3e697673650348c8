"""Figures for Prometheus: what is counted as orders are recorded, and a picture of the moment; drawn up away from the event loop."""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from execution_service.core.orders.events import Accepted
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.orders.status import Status
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
TAKEN_AT_ONCE, TAKEN_WHEN_ASKED = 50, 500
COUNTED_EVERY_SECONDS = 1.0
COUNTS_SECONDS = 15.0
"""So long what was counted in the store is believed: to count it means to walk through all records."""
LOOKED_AT_MOST = 5000
"""Of the orders in hand, for the lag of the delivery: more would hold up the event loop."""
STEPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The picture that is drawn up."""

    orders: Mapping[tuple[str, str, str], int]
    """Records by status, account and broker."""
    sizes: Mapping[str, int]
    counts_age_seconds: float
    parts: Mapping[str, Mapping[str, str | int]]
    accounts: Mapping[str, Mapping[str, str]]
    silent: Mapping[str, float]
    queues: Mapping[str, int]
    lag_events: Mapping[str, int]
    lag_seconds: Mapping[str, float]
    oldest_pending_seconds: float
    dropped: int


@dataclass(frozen=True, slots=True)
class Performance:
    """What spec 002 asks for."""

    placed: int
    filled: int
    failed: int
    average_latency_ms: float
    average_slippage_percent: float


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
    at: float = float("-inf")


class Measures:
    """Recording costs an append here; all else is done later, and bounded."""

    def __init__(
        self,
        *,
        live_orders: LiveOrders,
        queries: QueryStore,
        brokers: NamesBrokers,
        states: ShowsStates,
        clock: Clock,
        threads: Blocking,
        version: str,
    ) -> None:
        self._live = live_orders
        self._queries = queries
        self._brokers = brokers
        self._states = states
        self._clock = clock
        self._threads = threads
        self._noted: deque[Order] = deque()
        self._dropped = 0
        self._versions: OrderedDict[str, int] = OrderedDict()
        self._counts = _Counts()
        self._latency, self._slippage = _Mean(), _Mean()
        self._registry = CollectorRegistry()
        self._picture = _Picture(version)
        self._registry.register(self._picture)
        labels = ("outcome", "account", "broker")
        self._outcomes = Counter(
            "execution_order_outcomes",
            "Outcomes recorded since the start, by this process",
            labels,
            registry=self._registry,
        )
        self._steps = Histogram(
            "execution_step_seconds",
            "From one step of an order to the next: published, received, sent, acknowledged, filled",
            ("step", "broker"),
            buckets=STEPS,
            registry=self._registry,
        )
        live_orders.on_recorded.append(self._note)

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        return [Part("metrics", self.run, is_vital=False)]

    def _note(self, live: LiveOrder) -> None:
        if len(self._noted) >= NOTED_AT_MOST:
            self._dropped += 1
        else:
            self._noted.append(live.order)

    async def run(self) -> None:
        """Counts what was recorded, some at once, so that trading comes in between. Until cancelled."""
        while True:
            self._take(TAKEN_AT_ONCE)
            await self._clock.sleep(0.0 if self._noted else COUNTED_EVERY_SECONDS)

    def _take(self, at_most: int) -> None:
        for _ in range(min(at_most, len(self._noted))):
            self._count(self._noted.popleft())

    def _count(self, order: Order) -> None:
        before = self._versions.pop(order.order_id, 0)
        if order.version <= before:
            return
        self._versions[order.order_id] = order.version
        if len(self._versions) > NOTED_AT_MOST:
            self._versions.popitem(last=False)
        account_id = order.request.account_id or ""
        broker = self._brokers.broker_of(account_id)
        fresh = order.events[before:]
        if any(isinstance(event, Accepted) for event in fresh):
            self._outcomes.labels("placed", account_id, broker).inc()
            self._observe_sending(order, broker, [e.at for e in fresh if isinstance(e, Accepted)][-1])
        earlier = order.as_of(before).status if before else None
        if order.status is not earlier and order.status in (*_FINISHED, Status.IN_DOUBT):
            self._outcomes.labels(order.status.value.lower(), account_id, broker).inc()
            if order.status is Status.FILLED:
                self._observe_filled(order, broker)

    def _observe_sending(self, order: Order, broker: str, acknowledged_at: datetime) -> None:
        self._observe("published_to_received", broker, order.published_at, order.received_at)
        self._observe("received_to_sent", broker, order.received_at, order.submitted_at)
        self._observe("sent_to_acknowledged", broker, order.submitted_at, acknowledged_at)
        if order.submitted_at is not None:
            self._latency.add(max(0.0, (acknowledged_at - order.submitted_at).total_seconds()) * 1000)

    def _observe_filled(self, order: Order, broker: str) -> None:
        self._observe("sent_to_filled", broker, order.submitted_at, order.filled_at)
        request, average = order.request, order.average_price
        if isinstance(request, OrderRequest) and request.reference_price and average is not None:
            paid_more = (average - request.reference_price) * request.side.sign
            self._slippage.add(float(paid_more / request.reference_price * 100))

    def _observe(self, step: str, broker: str, since: datetime | None, until: datetime | None) -> None:
        if since is not None and until is not None:
            self._steps.labels(step, broker).observe(max(0.0, (until - since).total_seconds()))

    # --- asked for ----------------------------------------------------------------------------------------------

    async def text(self) -> bytes:
        """For a scrape. A store that does not answer leaves what it was asked for as it was, and its age grows."""
        self._take(TAKEN_WHEN_ASKED)
        await self._count_in_store()
        self._picture.moment = self._moment()
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
        except StoreUnavailable:
            return
        self._counts = _Counts(orders, sizes, now)

    def _moment(self) -> Moment:
        lag_events, lag_seconds, oldest = self._lag()
        broker_of = self._brokers.broker_of
        return Moment(
            orders={(status, account, broker_of(account)): n for (status, account), n in self._counts.orders.items()},
            sizes=self._counts.sizes,
            counts_age_seconds=self._clock.monotonic() - self._counts.at,
            parts=self._states.part_states(),
            accounts=self._states.account_states(),
            silent=self._states.silent_seconds(),
            queues=self._states.queues(),
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


class _Picture(Collector):
    """The moment as Prometheus reads it; called in a thread, and touches nothing but the moment."""

    def __init__(self, version: str) -> None:
        self._version = version
        self.moment: Moment | None = None

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield _info("execution_build", "What runs", {"version": self._version, "python": sys.version.split()[0]})
        moment = self.moment
        if moment is None:
            return
        yield _gauge(
            "execution_orders_stored",
            "Records in the store",
            ("status", "account", "broker"),
            {key: float(count) for key, count in moment.orders.items()},
        )
        in_doubt = sum(n for (status, _, _), n in moment.orders.items() if status == Status.IN_DOUBT.value)
        yield _gauge(
            "execution_orders_in_doubt", "Orders of which it is not known what became of them", (), {(): in_doubt}
        )
        for name, words in (
            ("dead_letters", "Messages that could not be taken for an order"),
            ("new_commands", "Commands that nobody has carried out yet"),
            ("unsent_alerts", "Alerts that people have not been sent"),
            ("open_discrepancies", "Differences between our books and a broker's"),
        ):
            if name in moment.sizes:
                yield _gauge(f"execution_{name}", words, (), {(): moment.sizes[name]})
        yield _gauge(
            "execution_counts_age_seconds", "How long ago the store was counted", (), {(): moment.counts_age_seconds}
        )
        yield _gauge(
            "execution_part_running",
            "1: the part of the process runs; 0: it failed and is begun anew",
            ("part",),
            {(name,): float(state["state"] == "RUNNING") for name, state in moment.parts.items()},
        )
        restarts = CounterMetricFamily("execution_part_restarts", "How often a part was begun anew", labels=("part",))
        for name, state in moment.parts.items():
            restarts.add_metric((name,), float(state["restarts"]))
        yield restarts
        yield _gauge(
            "execution_broker_connected",
            "1: the account's broker is connected",
            ("account", "broker"),
            {(a, s["broker"]): float(s["state"] == "CONNECTED") for a, s in moment.accounts.items()},
        )
        yield _gauge(
            "execution_silent_seconds",
            "How long the store or Pub/Sub has not answered; 0: it does",
            ("service",),
            {(name,): seconds for name, seconds in moment.silent.items()},
        )
        yield _gauge("execution_waiting", "What waits", ("queue",), {(q,): float(n) for q, n in moment.queues.items()})
        yield _gauge(
            "execution_delivery_lag_events",
            "Recorded events that a sink does not have yet, of the orders in hand",
            ("cursor",),
            {(cursor,): float(n) for cursor, n in moment.lag_events.items()},
        )
        yield _gauge(
            "execution_delivery_lag_seconds",
            "Age of the oldest recorded event that a sink does not have yet",
            ("cursor",),
            {(cursor,): seconds for cursor, seconds in moment.lag_seconds.items()},
        )
        yield _gauge(
            "execution_oldest_pending_seconds",
            "Age of the oldest order not sent yet",
            (),
            {(): moment.oldest_pending_seconds},
        )
        dropped = CounterMetricFamily("execution_uncounted_records", "Records that these figures have missed")
        dropped.add_metric((), float(moment.dropped))
        yield dropped


def _gauge(name: str, words: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _info(name: str, words: str, values: Mapping[str, str]) -> InfoMetricFamily:
    return InfoMetricFamily(name, words, value=dict(values))
