"""How long what has failed rests before it is tried again; not what that is."""

from __future__ import annotations

LONGEST_PAUSE_SECONDS = 30.0


def growing_pause(failures: int) -> float:
    """Seconds, longer after each failure in succession."""
    return min(LONGEST_PAUSE_SECONDS, 0.25 * (1 << min(failures, 10)))
