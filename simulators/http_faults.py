"""Faults of a simulated HTTP API: which calls go wrong, and how the ways work that every API has. An API's own kinds are its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Self


class Wire(StrEnum):
    """What may happen to the answer of any API. An API's kinds of faults have those of these that it can play, under the same values."""

    SLOW = "slow"
    """The proper answer, `seconds` late."""
    DROP = "drop"
    """The connection is closed without an answer."""
    NEVER_ANSWER = "never_answer"
    TRICKLE = "trickle"
    """An endless answer, one byte at a time, so that no single read times out."""
    TRUNCATED = "truncated"
    """The first half of the proper answer, as if it were complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFault:
    """The fault of the next `times` calls (None: of all) whose `METHOD /path` matches the shell pattern `route`.
    With `accepted` the call is carried out nevertheless, `late_seconds` after its answer."""

    kinds: ClassVar[type[StrEnum]] = Wire

    kind: StrEnum
    route: str
    times: int | None = 1
    seconds: float = 0.0
    status: int = 500
    text: str = "Internal error"
    accepted: bool = False
    late_seconds: float = 0.0

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """Raises ValueError for anything but a fault's fields."""
        try:
            return cls(**{**said, "kind": cls.kinds(said["kind"])})
        except (KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"not a fault: {exc}") from exc


class HttpFaults:
    """The armed faults. Thread-safe."""

    def __init__(self) -> None:
        self._faults: list[Any] = []
        self._lock = threading.Lock()

    def add(self, *faults: HttpFault) -> None:
        with self._lock:
            self._faults.extend(faults)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def draw(self, route: str) -> Any:
        """The fault of this call, which counts as used; None: none."""
        with self._lock:
            for index, fault in enumerate(self._faults):
                if not fnmatchcase(route, fault.route):
                    continue
                if fault.times == 1:
                    del self._faults[index]
                elif fault.times is not None:
                    self._faults[index] = replace(fault, times=fault.times - 1)
                return fault
        return None

    def as_json(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(fault) for fault in self._faults]
