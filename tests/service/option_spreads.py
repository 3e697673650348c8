"""Options that are legs of one signal, and a broker that takes them as one order. No tests here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brokers.base import Capabilities

COMBINING = Capabilities(
    fits_tickets=True,
    needs_reservation=True,
    refuses_repeated_client_id=True,
    splits_option_combinations=False,
    combines_option_legs=True,
    find_window_seconds=10.0,
    send_again_seconds=2.0,
)
LOW: Mapping[str, Any] = {
    "instrument_type": "OPTION",
    "symbol": "SPY",
    "strike": 500,
    "right": "CALL",
    "expiry": "20270115",
}
HIGH: Mapping[str, Any] = {**LOW, "strike": 510, "side": "SELL"}
SPREAD = ({**LOW, "quantity": 2}, {**HIGH, "quantity": 2})
