"""What goes wrong at the calls by which a replica meets the outside, and inside it: which call meets what, drawn beforehand and armed at its time."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from tests.simulation.loop import OWNER


class Action(StrEnum):
    """What becomes of a call. `done` means that the outside has carried it out."""

    REFUSE = "refuse"
    """Not done, and an error of the port's own says so."""
    LOST = "lost"
    """Done, and the answer is lost."""
    LATE = "late"
    """Done, the answer comes after some seconds."""
    SLOW = "slow"
    """Done after some seconds, answered then."""
    HANG = "hang"
    """Not done; after some seconds the port gives up."""
    HANG_DONE = "hang_done"
    """Done; no answer, and after some seconds the port gives up."""
    ARRIVES_LATER = "arrives_later"
    """The port gives up at once; it is done some seconds later."""
    BREAK = "break"
    """Not done; an error of nobody's making."""
    BREAK_DONE = "break_done"
    """Done; then an error of nobody's making."""
    TWICE = "twice"
    """Done twice, as by a network that repeats."""
    ODD = "odd"
    """Done, and answered by something senseless."""
    HALF = "half"
    """Of a bulk write the first half is done, and then the connection breaks."""
    DIE_BEFORE = "die_before"
    """The process dies before the call has left."""
    DIE_AFTER = "die_after"
    """The process dies when it is done, before it has the answer."""


class Broken(RuntimeError):
    """An error that nobody foresaw."""


@dataclass(slots=True)
class Armed:
    """The next `times` calls whose name and subject fit the patterns of a shell meet `action`."""

    pattern: str
    action: Action
    times: int = 1
    about: str = "*"
    replica: int | None = None
    seconds: float = 0.0
    skips: int = 0
    """So many fitting calls are let through first."""


class Plan:
    """What is armed, and which ports are away for whom."""

    def __init__(self) -> None:
        self.armed: list[Armed] = []
        self._away: dict[tuple[int, str], float] = {}
        self.is_over = False

    def meet(self, replica: int, name: str, about: str = "") -> Armed | None:
        for each in self.armed:
            if (
                (each.replica is None or each.replica == replica)
                and fnmatchcase(name, each.pattern)
                and fnmatchcase(about, each.about)
            ):
                if each.skips:
                    each.skips -= 1
                    continue
                each.times -= 1
                if not each.times:
                    self.armed.remove(each)
                return each
        return None

    def take_away(self, replica: int, port: str, until: float) -> None:
        self._away[replica, port] = until

    def is_away(self, replica: int, port: str, now: float) -> bool:
        return bool(self._away) and self._away.get((replica, port), 0.0) > now

    def end(self) -> None:
        """From now on the outside is well."""
        self.armed.clear()
        self._away.clear()
        self.is_over = True


# --- inside the service ---------------------------------------------------------------------------------------------


def _signal_of(argument: Any) -> str:
    order = getattr(argument, "order", argument)
    return str(getattr(order, "signal_id", ""))


INSIDE: dict[str, tuple[str, str, Callable[..., str]]] = {
    # name: module, what of it raises, whom a call is about
    "inside.next_step": ("execution_service.trading.order_steps", "next_step", lambda *a: _signal_of(a[0])),
    "inside.take_turns": ("execution_service.storage.mongo.write_queue", "WriteQueue.take", lambda *a: ""),
    "inside.next_letter": ("execution_service.delivery.notifications", "Notifications._next", lambda *a: ""),
    "inside.confirmation": ("execution_service.delivery.views", "confirmation_fields", lambda *a: _signal_of(a[0])),
    "inside.learn": ("execution_service.trading.report_poller", "ReportPoller.learn", lambda *a: _signal_of(a[1])),
    "inside.intend": ("execution_service.trading.submission", "Submission._write_intent", lambda *a: _signal_of(a[1])),
    "inside.start_queues": ("execution_service.trading.order_steps", "OrderSteps.start_queues", lambda *a: ""),
}
"""Where a part of the service may raise inside. Who moves one of these says here where it is now: a name that is not there fails every life."""


@contextlib.contextmanager
def open_inside() -> Iterator[None]:
    """While it is entered, these places ask the life that runs whether they are to raise."""
    undo = []
    for name, (module, path, about) in INSIDE.items():
        owner: Any = importlib.import_module(module)
        *way, last = path.split(".")
        for step in way:
            owner = getattr(owner, step)
        whole = getattr(owner, last)
        setattr(owner, last, _raising(name, whole, about))
        undo.append((owner, last, whole))
    try:
        yield
    finally:
        for owner, last, whole in undo:
            setattr(owner, last, whole)


def _raising(name: str, whole: Callable[..., Any], about: Callable[..., str]) -> Callable[..., Any]:
    @functools.wraps(whole)
    def meets(*args: Any, **kwargs: Any) -> Any:
        replica = OWNER.get()
        if replica is not None and replica.meets_inside(name, about, args):
            raise Broken(f"{name} broke")
        return whole(*args, **kwargs)

    return meets
