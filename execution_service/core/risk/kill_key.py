"""What the text of a kill key means: a key in a store of others that says whether trade is to stop; from the text alone."""

from __future__ import annotations

LONGEST_TEXT = 64
"""Of what stands there no more is looked at, in characters."""
NOT_KILLED = frozenset({"", "0", "false", "off", "no"})


def means_kill(text: str | None) -> bool:
    """Whether it says that trade is to stop. None: the key is not there, and nobody says so. Whatever cannot be understood stops: somebody has
    written something where only a stop is asked for."""
    return text is not None and text.strip().casefold() not in NOT_KILLED
