"""The picture of one moment, as Prometheus reads it; drawn in a thread, from values that nobody changes any more."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Labels = TypeVar("Labels", bound=tuple[str, ...])
"""The values of a figure's labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is shown. What the store tells is as old as `counts_age_seconds`, all else is of now."""

    orders: Mapping[tuple[str, str, str], int]
    """Records by status, account and broker."""
    in_doubt: int
    sizes: Mapping[str, int]
    """How many dead letters, new commands, unsent alerts and open discrepancies there are."""
    counts_age_seconds: float
    oldest_discrepancy_seconds: Mapping[str, float]
    """By account; 0: none is open."""
    reconcile_interval_seconds: float
    risk_use: Mapping[tuple[str, str, str], float]
    """By account, limit and where the limit is written; 1: used up."""
    switches: Mapping[tuple[str, str], float]
    """By scope and level; 1: engaged."""
    are_switches_known: bool
    parts: Mapping[str, Mapping[str, str | int]]
    accounts: Mapping[str, Mapping[str, str]]
    paused: Mapping[str, bool]
    """Accounts whose broker has said that it is away for a time that is known beforehand."""
    calls_left: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    """By account, kind of call and period in seconds: how many may leave now."""
    unprotected: Mapping[str, int] = field(default_factory=dict)
    """By account: entries that are held without the protection that they ask for, or it is in doubt."""
    silent: Mapping[str, float]
    queues: Mapping[str, int]
    unacknowledged_seconds: Mapping[str, float]
    """By inbox: the age of the oldest message that is received and not acknowledged, or was handed back."""
    lag_events: Mapping[str, int]
    lag_seconds: Mapping[str, float]
    oldest_pending_seconds: float
    dropped: int


class Picture(Collector):
    """Touches nothing but the moment that was put there last."""

    def __init__(self, version: str) -> None:
        self._version = version
        self.moment: Moment | None = None

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        what_runs = {"version": self._version, "python": sys.version.split()[0]}
        yield InfoMetricFamily("execution_build", "What runs", value=what_runs)
        moment = self.moment
        if moment is None:
            return
        yield from _of_orders(moment)
        yield from _of_risk(moment)
        yield from _of_the_outside(moment)
        yield from _of_the_process(moment)


def _of_orders(moment: Moment) -> Iterator[Metric]:
    orders = {key: float(count) for key, count in moment.orders.items()}
    yield _gauge("execution_orders_stored", "Records in the store", ("status", "account", "broker"), orders)
    yield _gauge(
        "execution_orders_in_doubt",
        "Orders of which it is not known what became of them",
        (),
        {(): float(moment.in_doubt)},
    )
    for name, words in (
        ("dead_letters", "Messages that could not be taken for an order"),
        ("new_commands", "Commands that nobody has carried out yet"),
        ("unsent_alerts", "Alerts that people have not been sent"),
        ("open_discrepancies", "Differences between our books and a broker's"),
    ):
        yield _gauge(f"execution_{name}", words, (), {(): float(moment.sizes[name])} if name in moment.sizes else {})
    yield _gauge(
        "execution_counts_age_seconds", "How long ago the store was counted", (), {(): moment.counts_age_seconds}
    )
    yield _gauge(
        "execution_oldest_discrepancy_seconds",
        "Age of the account's oldest open discrepancy; 0: none is open",
        ("account",),
        _by_one(moment.oldest_discrepancy_seconds),
    )
    yield _gauge(
        "execution_reconcile_interval_seconds",
        "How often books are compared; 0: only after a connection and when asked",
        (),
        {(): moment.reconcile_interval_seconds},
    )


def _of_risk(moment: Moment) -> Iterator[Metric]:
    yield _gauge(
        "execution_positions_unprotected",
        "Entries that are held without the protection that they ask for, or it is in doubt",
        ("account",),
        _by_one({account: float(count) for account, count in moment.unprotected.items()}),
    )
    yield _gauge(
        "execution_risk_use_ratio",
        "The largest used part of a limit, 1: used up; of positions and exposure, as the account's document last had it",
        ("account", "limit", "scope"),
        moment.risk_use,
    )
    yield _gauge(
        "execution_kill_switch_engaged",
        "1: the kill switch of the scope is engaged at this level",
        ("scope", "level"),
        moment.switches,
    )
    yield _gauge(
        "execution_kill_switches_known",
        "0: the state of the kill switches cannot be read, and no new risk passes",
        (),
        {(): float(moment.are_switches_known)},
    )


def _of_the_outside(moment: Moment) -> Iterator[Metric]:
    yield _gauge(
        "execution_broker_connected",
        "1: the account's broker is connected",
        ("account", "broker"),
        {(a, s["broker"]): float(s["state"] == "CONNECTED") for a, s in moment.accounts.items()},
    )
    yield _gauge(
        "execution_broker_paused",
        "1: the account's broker is away for a time that is known beforehand, as at night",
        ("account", "broker"),
        {(a, s["broker"]): float(moment.paused.get(a, False)) for a, s in moment.accounts.items()},
    )
    yield _gauge(
        "execution_broker_calls_left",
        "How many ordinary calls may leave now within the period, of brokers that limit them",
        ("account", "kind", "period_seconds"),
        moment.calls_left,
    )
    yield _gauge(
        "execution_silent_seconds",
        "How long a service around has not answered; 0: it does",
        ("service",),
        _by_one(moment.silent),
    )


def _of_the_process(moment: Moment) -> Iterator[Metric]:
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
    yield _gauge("execution_waiting", "What waits", ("queue",), {(q,): float(n) for q, n in moment.queues.items()})
    yield _gauge(
        "execution_oldest_unacknowledged_seconds",
        "Age of the oldest message that is received or handed back, and not acknowledged",
        ("queue",),
        _by_one(moment.unacknowledged_seconds),
    )
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
        _by_one(moment.lag_seconds),
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


def _by_one(values: Mapping[str, float]) -> Mapping[tuple[str], float]:
    return {(name,): value for name, value in values.items()}


def _gauge(name: str, words: str, labels: Sequence[str], values: Mapping[Labels, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
