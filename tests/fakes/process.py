"""The border of the service's process: it may die at any call that crosses it."""

from __future__ import annotations

from enum import StrEnum


class Died(BaseException):
    """Comes out of every call to the outside world once the process is dead."""


class Moment(StrEnum):
    BEFORE = "before"
    HALFWAY = "halfway"
    """Of a bulk write, only the first half has arrived."""
    AFTER = "after"


class Gate:
    """Counts the calls by which the service changes the outside world, and lets the process die at one of them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.dies_at: tuple[int, Moment] | None = None
        self.is_dead = False
        self.passed: list[tuple[int, Moment] | None] = []
        """Each moment at which it could have died, in their sequence; None where the outside world has moved on by itself in between."""

    def enter(self, name: str) -> int:
        self._raise_if_dead()
        self.names.append(name)
        number = len(self.names)
        self.dies_if((number, Moment.BEFORE))
        return number

    def leave(self, number: int) -> None:
        self._raise_if_dead()
        self.dies_if((number, Moment.AFTER))

    def is_halved(self, number: int) -> bool:
        return self.dies_at == (number, Moment.HALFWAY)

    def dies_if(self, here: tuple[int, Moment]) -> None:
        self.passed.append(here)
        if self.dies_at == here:
            self.is_dead = True
        self._raise_if_dead()

    def shows_more_after(self, number: int) -> bool:
        """Whether to die after this call is another thing than to die before the next one: it has come to its end, and the outside world
        has moved on before the next one began."""
        here, next_one = (number, Moment.AFTER), (number + 1, Moment.BEFORE)
        return here in self.passed and self.passed[self.passed.index(here) + 1 :][:1] != [next_one]

    def revive(self) -> None:
        self.is_dead, self.dies_at = False, None

    def _raise_if_dead(self) -> None:
        if self.is_dead:
            raise Died
