"""The pause before a failed attempt is repeated: exponential, with an upper limit. Who waits is decided elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

# The limit is reached long before; 2.0 ** 1024 would overflow.
_MOST_DOUBLINGS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """`first_seconds` after the first failure, doubled after each further one, at most `longest_seconds`.

    There is no jitter: every wait has a single caller per process and account, so there is no herd to spread out.
    """

    first_seconds: float
    longest_seconds: float

    def __post_init__(self) -> None:
        """Raises ValueError for pauses that could not grow."""
        if not 0 < self.first_seconds <= self.longest_seconds:
            raise ValueError(f"pauses of {self.first_seconds:g} to {self.longest_seconds:g} s cannot grow")

    def pause_seconds(self, failures: int) -> float:
        """The pause after so many failures in succession; 0 without a failure."""
        if failures <= 0:
            return 0.0
        return min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))


DEFAULT_BACKOFF = Backoff(first_seconds=0.5, longest_seconds=30.0)
"""The default: connecting, sending again, orders set aside, restarting parts."""
