"""The kinds of calls to a broker that limits them: which go first, and what a failure may leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from brokers.rate import CallPriority


class CallKind(StrEnum):
    """What a call does to the account."""

    QUERY = "query"
    QUOTE = "quote"
    PLACE = "place"
    EXIT = "exit"
    CANCEL = "cancel"
    CANCEL_AGAIN = "cancel-again"


PLACING = frozenset({CallKind.PLACE, CallKind.EXIT})
CANCELLING = frozenset({CallKind.CANCEL, CallKind.CANCEL_AGAIN})
ASKING = frozenset({CallKind.QUERY, CallKind.QUOTE})
"""Those that change nothing: if one fails, nothing can have been carried out."""
PRIORITIES: Mapping[CallKind, CallPriority] = {
    CallKind.EXIT: CallPriority.EXIT,
    CallKind.CANCEL: CallPriority.CANCEL,
    CallKind.PLACE: CallPriority.ORDINARY,
    CallKind.QUERY: CallPriority.ORDINARY,
    CallKind.QUOTE: CallPriority.ORDINARY,
    CallKind.CANCEL_AGAIN: CallPriority.REPEATED,
}
