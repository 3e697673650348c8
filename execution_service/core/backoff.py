"""How long to wait before something that failed is tried again: longer after each failure, up to a limit; who waits is not known here."""

from __future__ import annotations

from dataclasses import dataclass

# Every pause worth waiting is reached long before; a float ends at two to the power of 1024.
_MOST_DOUBLINGS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """`first_seconds` after the first failure, twice as long after each further one, never longer than `longest_seconds`.

    No chance in it: what is waited for here has one caller a process and account, which nobody else's pauses coincide with.
    """

    first_seconds: float
    longest_seconds: float

    def __post_init__(self) -> None:
        """Raises ValueError for pauses that could never grow, or would shrink."""
        if not 0 < self.first_seconds <= self.longest_seconds:
            raise ValueError(f"pauses of {self.first_seconds:g} to {self.longest_seconds:g} s cannot grow")

    def pause_seconds(self, failures: int) -> float:
        """The pause after so many failures in succession, however many; none without a failure."""
        if failures <= 0:
            return 0.0
        return min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))


USUAL = Backoff(first_seconds=0.5, longest_seconds=30.0)
"""Where nothing speaks for another: connecting, sending again, what was set aside, parts that are begun anew."""
