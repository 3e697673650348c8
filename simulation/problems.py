"""What is wrong with what a simulation was given: each problem with its file, row and rule, all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOWN = 50
"""So many problems are kept; more are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`row` counts the lines of a file, its header being line 1; 0: it is of the whole file."""

    where: str
    row: int
    rule: str
    message: str

    def __str__(self) -> str:
        place = self.where if not self.row else f"{self.where}, row {self.row}"
        return f"{place}: {self.rule}: {self.message}"


class InputRefused(Exception):
    """Nothing was simulated. `problems` are the first 50; `count` is how many there are."""

    def __init__(self, problems: Iterable[Problem], count: int | None = None) -> None:
        self.problems = tuple(problems)
        self.count = len(self.problems) if count is None else count
        more = "" if self.count <= len(self.problems) else f"\nand {self.count - len(self.problems)} more"
        super().__init__("\n".join(map(str, self.problems)) + more)


class Collected:
    """Problems as they are found."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._count = 0

    @property
    def count(self) -> int:
        return self._count

    @property
    def first(self) -> Sequence[Problem]:
        """As many as are kept."""
        return tuple(self._problems)

    def add(self, where: str, row: int, rule: str, message: str) -> None:
        self._count += 1
        if len(self._problems) < SHOWN:
            self._problems.append(Problem(where=where, row=row, rule=rule, message=message))

    def raise_if_any(self) -> None:
        """Raises InputRefused."""
        if self._count:
            raise InputRefused(self._problems, self._count)
