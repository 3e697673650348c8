"""How sure an order's signal says it is, from the message that the order came in. Limits compare it (`min_confidence`); nothing else is read here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal

PLACES = ("event", "metadata")
"""Beside the message's own fields: the event that an order was made of, and what a caller over HTTP added."""


def confidence_of(raw: str) -> Decimal | None:
    """From 0 to 1; None: it says none, or nothing that could be one. Of several that differ the lowest. Never raises."""
    try:
        message = json.loads(raw, parse_float=Decimal)
    except (ValueError, RecursionError, ArithmeticError):
        return None
    if not isinstance(message, Mapping):
        return None
    found = [place.get("confidence") for place in (message, *map(message.get, PLACES)) if isinstance(place, Mapping)]
    told = [_confidence(value) for value in found if value is not None]
    return min((each for each in told if each is not None), default=None) if None not in told else None


def _confidence(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str) or len(str(value)) > 40:
        return None
    try:
        number = Decimal(value)
    except ArithmeticError:
        return None
    return number if number.is_finite() and 0 <= number <= 1 else None
