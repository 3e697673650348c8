"""Recognises the gateway's message that an order is held for the opening of its market.

IBKR accepts an order while its market is closed, shows it as PreSubmitted and sends a message with code 399, for
example `Warning: your order will not be placed at the exchange until 2026-11-25 09:30:00 US/Eastern`. Other messages
have the same code.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from brokers.ibkr.blotter import Hold

_WORDS = re.compile(r"will not be placed at the exchange until\s*([^.\r\n]*)", re.IGNORECASE)
_MOMENT = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})[ -]+(\d{2}):(\d{2})(?::(\d{2}))?\s+([A-Za-z][A-Za-z0-9_+/-]*)")
_EASTERN = {"EST": "US/Eastern", "EDT": "US/Eastern"}
"""As IBKR means them: in the zone database EST is a fixed offset, and EDT does not exist."""


def hold_in(text: str) -> Hold | None:
    """None if the text says nothing of the kind."""
    found = _WORDS.search(text)
    if found is None:
        return None
    return Hold(words=" ".join(found.group(0).split()), until=_moment(found.group(1)))


def _moment(words: str) -> datetime | None:
    """None if the zone is missing or unknown: a time read in the wrong zone could start a time-out at night."""
    found = _MOMENT.search(words)
    if found is None:
        return None
    *numbers, zone = found.groups()
    year, month, day, hour, minute, second = (int(number or 0) for number in numbers)
    try:
        there = ZoneInfo(_EASTERN.get(zone, zone))
        return datetime(year, month, day, hour, minute, second, tzinfo=there).astimezone(UTC)
    except (LookupError, ValueError, OSError, OverflowError):
        return None
