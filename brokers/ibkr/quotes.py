"""What the gateway's ticks of a market say: one quote, or why there is none. Nothing is asked here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum

from brokers.base import NoQuote, Quote
from brokers.ibkr.contracts import amount_or_none

DATA_TYPE = -1
"""Stands for the message that says of which type the data are; all other kinds are the API's tick types."""
_BID, _ASK, _LAST, _LAST_TIME = 1, 2, 4, 45
_DELAYED_BID, _DELAYED_ASK, _DELAYED_LAST, _DELAYED_LAST_TIME = 66, 67, 68, 88
_DELAYED = frozenset({*range(66, 77), _DELAYED_LAST_TIME})
WHOLE_QUOTE = frozenset({_BID, _ASK, _LAST})
_FIRST_SECOND, _LAST_SECOND = 946_684_800, 7_258_118_400
"""Of the years 2000 to 2199."""


class MarketDataType(IntEnum):
    LIVE = 1
    FROZEN = 2
    """As they were when the market closed."""
    DELAYED = 3
    DELAYED_FROZEN = 4


@dataclass(frozen=True, slots=True)
class MarketTick:
    """One price, time or type of data, as the library gave it."""

    kind: int
    value: float | int | str


def quote_in(ticks: Sequence[MarketTick], received_at: datetime) -> Quote | NoQuote | None:
    """The gateway tells no time of bid and ask: they are as of when they came. -1 and 0 mean that there is none. None: nothing was told in time."""
    told = {tick.kind: tick.value for tick in ticks}
    data_type = told.pop(DATA_TYPE, MarketDataType.LIVE)
    if not told:
        return None
    if data_type == MarketDataType.FROZEN:
        return NoQuote(reason="IBKR tells only how the market stood when it closed")
    is_delayed = data_type != MarketDataType.LIVE or bool(_DELAYED & told.keys())
    bid, ask, last, last_time = (
        (_DELAYED_BID, _DELAYED_ASK, _DELAYED_LAST, _DELAYED_LAST_TIME)
        if is_delayed
        else (_BID, _ASK, _LAST, _LAST_TIME)
    )
    return Quote(
        bid=_price(told.get(bid)),
        ask=_price(told.get(ask)),
        last=_price(told.get(last)),
        at=received_at,
        last_at=_moment(told.get(last_time)),
        is_delayed=is_delayed,
    )


def _price(value: object) -> Decimal | None:
    price = amount_or_none(value)
    return price if price is not None and price > 0 else None


def _moment(value: object) -> datetime | None:
    """Seconds since 1970, as text."""
    if not isinstance(value, str) or not (value.isascii() and value.isdigit() and len(value) < 12):
        return None
    seconds = int(value)
    return datetime.fromtimestamp(seconds, UTC) if _FIRST_SECOND <= seconds < _LAST_SECOND else None
