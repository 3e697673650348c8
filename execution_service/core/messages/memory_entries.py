"""Events of orders as the entries that a MemoryService reads: one JSON object each; nothing is written here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from execution_service.core.messages.events_out import (
    EXECUTION_RESULT,
    ORDER_PLACED,
    POSITION_UPDATED,
    OutEvent,
)

REMEMBERED = (ORDER_PLACED, EXECUTION_RESULT, POSITION_UPDATED)
"""The events that become entries: that the broker has an order; each fill and each end; what is held after it."""
SOURCE_SERVICE = "ExecutionService"
_ODD = re.compile(r"[^A-Za-z0-9_.-]")
_OF_FILLS = frozenset({"FILLED", "PARTIAL", "BUSTED"})
_OF_FAILURES = frozenset({"REJECTED", "IN_DOUBT"})


@dataclass(frozen=True, slots=True)
class MemoryEntry:
    """One entry, ready to be written. The same event is the same entry each time."""

    entry_id: str
    """A file may be called so."""
    text: str
    """JSON."""


def memory_entry(event: OutEvent) -> MemoryEntry:
    """An entry of type Trade for a fill, OrderStatus for an order that was placed or has ended, Error for one that was rejected or is in doubt,
    PortfolioUpdate for a position."""
    entry_id = _ODD.sub("_", event.event_id)
    entry = {
        "entry_id": entry_id,
        "entry_type": _type_of(event),
        "timestamp": event.body.get("time", event.body["timestamp"]),
        "source_service": SOURCE_SERVICE,
        "payload": dict(event.body),
        "metadata": {
            "event_type": event.event_type,
            "signal_id": event.signal_id,
            "event_number": event.number,
        },
    }
    return MemoryEntry(entry_id, json.dumps(entry, ensure_ascii=True, allow_nan=False, indent=2))


def _type_of(event: OutEvent) -> str:
    if event.event_type == POSITION_UPDATED:
        return "PortfolioUpdate"
    status = event.body.get("status")
    if event.event_type == EXECUTION_RESULT and status in _OF_FILLS:
        return "Trade"
    return "Error" if status in _OF_FAILURES else "OrderStatus"
