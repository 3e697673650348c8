"""The meaning of Kite's error answers for an order that was to be placed: HTTP statuses and Kite's error names, each
with the reason. No calls.

Sources: Kite Connect's page on exceptions and errors; its support's statement that after any status but 400 the order
book must be checked, since the order may have been placed nevertheless (kite.trade forum, discussion 41029); and that
orders refused by risk checks usually get an order id and status REJECTED, so that an error answer is about the request
itself (discussion 740). An answer that is not JSON appears as a DataException with status 502, whatever its own status
was: a page from an intermediary proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum


class Meaning(StrEnum):
    REFUSED = "nothing was placed, and the same request will not be"
    NOT_TAKEN = "nothing was placed, and the same request may be later"
    UNKNOWN = "it may have been placed"


TOO_MANY = 429
STOP_PASSED_WORDS = (
    "should be lower than the last traded price",
    "should be higher than the last traded price",
    "trigger prices must bracket current price",
)
"""Parts of the refusal of a stop whose trigger the price has passed, in small letters: "Trigger price for stoploss sell orders should be lower than
the last traded price" and its like."""
STATUSES: Mapping[int, tuple[Meaning, str]] = {
    400: (
        Meaning.REFUSED,
        "parameters missing or bad, or the request refused by what they ask for: the one status that says no",
    ),
    403: (Meaning.REFUSED, "not permitted; a dead session is told by its name, TokenException, and heeded before"),
    404: (Meaning.REFUSED, "no such route or order: nothing behind it has seen the request"),
    405: (Meaning.REFUSED, "the route does not take this method: as 404"),
    410: (Meaning.REFUSED, "the route is gone for good: as 404"),
    413: (Meaning.REFUSED, "longer than it may be, and so not read"),
    TOO_MANY: (Meaning.NOT_TAKEN, "too many calls: counted before they are looked at"),
    408: (Meaning.UNKNOWN, "the request timed out, at whichever point"),
    500: (Meaning.UNKNOWN, "something unexpected, perhaps after the order had gone on"),
    502: (Meaning.UNKNOWN, "the order management system is down or its answer was lost"),
    503: (Meaning.UNKNOWN, "the service is not available: perhaps only its answer"),
    504: (Meaning.UNKNOWN, "no answer in time from behind the gateway"),
}
"""Any other status is unknown: 401, 409, 422 and 499 are not Kite's, and whoever sent them may have done so after
the order was passed on. The same holds for an answer with neither an error nor an order id."""

ERRORS: Mapping[str, tuple[Meaning | None, str]] = {
    "InputException": (None, "a field is missing or bad"),
    "OrderException": (
        None,
        "placing failed, or an order could not be fetched: with 400 in words that nobody knows it is a refusal like others",
    ),
    "MarginException": (None, "too little money; the library has no class for it, and makes it a GeneralException"),
    "HoldingException": (None, "too little to sell; likewise"),
    "UserException": (None, "about the user's account; likewise"),
    "PermissionException": (None, "not permitted"),
    "GeneralException": (None, "not classified"),
    "NetworkException": (Meaning.UNKNOWN, "Kite could not reach the order management system, or lost it on the way"),
    "DataException": (
        Meaning.UNKNOWN,
        "Kite did not understand that system's answer, which there was; or the answer was no JSON",
    ),
}
"""By Kite's name of the error. None: the status decides. An unlisted name is not classified either."""

_PERHAPS_ARRIVED = re.compile(r"tim(?:ed?|ing)[ -]?out|check (?:the |your )?order ?book", re.IGNORECASE)
"""Phrases that contradict a status of refusal, as in "the request timed out, check the order book before placing
again"."""


def meaning(status: object, error: str, text: str) -> Meaning:
    """The meaning of an error answer to a call that was to change something."""
    by_name, _ = ERRORS.get(error, (None, ""))
    by_status, _ = STATUSES.get(status, (Meaning.UNKNOWN, "")) if isinstance(status, int) else (Meaning.UNKNOWN, "")
    if by_status is Meaning.REFUSED and (by_name is Meaning.UNKNOWN or _PERHAPS_ARRIVED.search(text)):
        return Meaning.UNKNOWN
    return by_status
