"""The small whole numbers by which the matcher speaks, and the words for them. Plain ints, so that one function serves as it is and compiled."""

from __future__ import annotations

# What an order is.
MARKET, LIMIT, STOP, STOP_LIMIT = 0, 1, 2, 3
# How long it lives.
DAY, GTC, IOC = 0, 1, 2
# How it stands.
WORKING, FILLED, CANCELLED, EXPIRED = 0, 1, 2, 3
# Why it ended, if not by being filled.
(
    NONE,
    OF_IOC,
    OF_DAY,
    NO_TRADING,
    OF_OCO,
    INSUFFICIENT_FUNDS,
    REDUCE_ONLY,
    CORPORATE_ACTION,
    SHORT_NOT_ALLOWED,
    ASKED,
) = range(10)
# Which of two orders in one bar comes first.
ADVERSE, NEAREST, OHLC, OLHC = 0, 1, 2, 3
# Why a fill has its price.
AT_OPEN, AT_GAP, AT_LIMIT, AT_STOP, BY_PATH = 0, 1, 2, 3, 4
BY_VOLUME, SLIPPAGE_CAPPED = 8, 16

KINDS = {"MARKET": MARKET, "LIMIT": LIMIT, "STOP": STOP, "STOP_LIMIT": STOP_LIMIT}
TIFS = {"DAY": DAY, "GTC": GTC, "IOC": IOC}
PATHS = {"adverse": ADVERSE, "nearest": NEAREST, "ohlc": OHLC, "olhc": OLHC}
STATUSES = ("WORKING", "FILLED", "CANCELLED", "EXPIRED")
REASONS = (
    "",
    "IOC",
    "DAY_ENDED",
    "NO_TRADING",
    "OCO",
    "INSUFFICIENT_FUNDS",
    "REDUCE_ONLY",
    "CORPORATE_ACTION",
    "SHORT_NOT_ALLOWED",
    "CANCEL_REQUESTED",
)
_FILL_REASONS = ("open", "gap", "limit", "stop", "path")


def _fill_words(code: int) -> str:
    words = _FILL_REASONS[code & 7]
    if code & BY_VOLUME:
        words += "+capped_by_volume"
    return words + "+slippage_capped" if code & SLIPPAGE_CAPPED else words


FILL_REASONS = tuple(_fill_words(code) if code & 7 < len(_FILL_REASONS) else "" for code in range(32))
"""By code: what decided the price first, then what made the quantity or the slippage smaller."""
