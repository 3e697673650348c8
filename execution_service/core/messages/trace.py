"""The trace that an order belongs to, from the message that brought it to its confirmations: the W3C's Trace Context as text; knows no library.

An order's trace is worked out from its record alone, so that it is the same in every process and after every restart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from execution_service.core.orders.order import Order

TRACEPARENT, GOOGLES_TRACEPARENT = "traceparent", "googclient_traceparent"
"""Attributes of a message: as others name it, and as Google's Pub/Sub client does, which goes first."""
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.{0,200})?", re.ASCII)
_SAMPLED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderTrace:
    """The ids of an order's trace, as numbers."""

    trace_id: int
    parent_id: int | None
    """The span of whoever published the order; None: it came in no trace, and one was begun for it."""
    is_sampled: bool
    """Whoever published it wants it recorded."""


def read_traceparent(text: object) -> str | None:
    """None where it is none: then it counts as absent, as the W3C demands."""
    if not isinstance(text, str):
        return None
    found = _FORM.fullmatch(text)
    if found is None or int(found[2], 16) == 0 or int(found[3], 16) == 0 or (found[1] == "00" and found[5]):
        return None
    return f"00-{found[2]}-{found[3]}-{found[4]}"


def traceparent_in(attributes: Mapping[str, str]) -> str | None:
    """Of a message."""
    return read_traceparent(attributes.get(GOOGLES_TRACEPARENT)) or read_traceparent(attributes.get(TRACEPARENT))


def trace_of(order_id: str, traceparent: str | None) -> OrderTrace:
    given = read_traceparent(traceparent)
    if given is None:
        return OrderTrace(trace_id=_number(f"trace|{order_id}", 16), parent_id=None, is_sampled=True)
    _, trace_id, parent_id, flags = given.split("-")
    return OrderTrace(
        trace_id=int(trace_id, 16), parent_id=int(parent_id, 16), is_sampled=bool(int(flags, 16) & _SAMPLED)
    )


def span_id(order_id: str, name: str, number: int = 0) -> int:
    """Of one span of the order's: the same however often it is worked out. `number`: of the event that it is about."""
    return _number(f"{name}|{number}|{order_id}", 8)


def confirmation_attributes(order: Order, number: int) -> dict[str, str]:
    """By which the readers of a confirmation find the trace; the same for each repetition. Not under Google's name: Pub/Sub reserves what begins
    with `goog`, its emulator and the local one refuse it, and a confirmation must not be lost for its trace."""
    trace = trace_of(order.order_id, order.traceparent)
    sender = span_id(order.order_id, "confirm", number)
    text = f"00-{trace.trace_id:032x}-{sender:016x}-{int(trace.is_sampled):02x}"
    return {TRACEPARENT: text}


def _number(text: str, size: int) -> int:
    """Never 0, which would be no id."""
    return int.from_bytes(sha256(text.encode("utf-8", "backslashreplace")).digest()[:size]) or 1
