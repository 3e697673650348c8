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
        if self.dies_at == here:
            self.is_dead = True
        self._raise_if_dead()

    def revive(self) -> None:
        self.is_dead, self.dies_at = False, None

    def _raise_if_dead(self) -> None:
        if self.is_dead:
            raise Died
