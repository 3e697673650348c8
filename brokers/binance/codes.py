"""What Binance's HTTP statuses and error codes mean for the caller. No orders, no network."""

from __future__ import annotations

from enum import Enum, auto

from brokers.errors import AuthRequired


class OtherPositionMode(AuthRequired):
    """The account keeps long and short positions otherwise than its settings say: nothing is sent until a person changes one of the two."""

    def __init__(self, words: str) -> None:
        super().__init__(f"{words}: nothing is sent. Change one of the two")


class Meaning(Enum):
    REFUSED = auto()
    """Binance has not taken what was asked, and will not."""
    UNKNOWN = auto()
    """It may have been carried out."""
    FAILED = auto()
    """Certainly not carried out; the same call may succeed in a moment."""
    TOO_MANY = auto()
    """Not carried out: too many calls."""
    BANNED = auto()
    """Not carried out: this address is shut out, since it went on calling after TOO_MANY."""
    AUTH = auto()
    """The key, its rights, or the signature is not accepted."""
    BLOCKED = auto()
    """Something before Binance's API turned the call away."""
    OTHER_MODE = auto()
    """Not carried out: the account keeps long and short positions otherwise than the call supposed."""
    EXISTS = auto()
    """An open order has this client order id."""
    CLOCK = auto()
    """Certainly not carried out: the call's time was outside of the permitted window."""
    NOT_THERE = auto()
    """Binance shows no such order now. For an order that was just sent this proves nothing: a filled order has been
    seen to be unknown for more than 13 seconds."""


_BY_CODE = {
    # Processed by a part that did not answer in time, or reported as undetermined by the API itself.
    -1000: Meaning.UNKNOWN,
    -1001: Meaning.UNKNOWN,
    -1006: Meaning.UNKNOWN,
    -1007: Meaning.UNKNOWN,
    -1008: Meaning.FAILED,
    -1003: Meaning.TOO_MANY,
    -1015: Meaning.TOO_MANY,
    -1002: Meaning.AUTH,
    -1022: Meaning.AUTH,
    -2014: Meaning.AUTH,
    -2015: Meaning.AUTH,
    -1021: Meaning.CLOCK,
    -5028: Meaning.CLOCK,
    -4061: Meaning.OTHER_MODE,
    -4116: Meaning.EXISTS,
    -2011: Meaning.NOT_THERE,
    -2013: Meaning.NOT_THERE,
}
_THROTTLED = "service unavailable."
LISTEN_KEY_UNKNOWN = -1125
SYMBOL_MISSING = -1102
MARGIN_TYPE_AS_ASKED = -4046
NOTHING_LEFT_TO_REDUCE = frozenset({-2022, -4118})
"""Refusals of an order that may only reduce: there is no position, or other open orders would close all of it before. Resting orders
at a limit count, those that wait for their trigger do not."""
PASSING = frozenset({-4131})
"""Refusals by the market's state of a moment: its best price is too far from the mark price."""


def meaning(status: int, code: int | None, text: str) -> Meaning:
    """Of an answer that is no success: its HTTP status, the error's code if it has one, and its text. Where in doubt,
    UNKNOWN."""
    if status == 418:
        return Meaning.BANNED
    if status == 429:
        return Meaning.TOO_MANY
    if code is not None and code in _BY_CODE:
        return _BY_CODE[code]
    if status == 503 and text.strip().lower() == _THROTTLED:
        return Meaning.FAILED
    if status >= 500 or status == 408 or status < 400:
        return Meaning.UNKNOWN
    if code is None:
        return {401: Meaning.AUTH, 403: Meaning.BLOCKED}.get(status, Meaning.UNKNOWN)
    return Meaning.REFUSED
