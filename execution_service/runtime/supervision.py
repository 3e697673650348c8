"""How a component says what of it runs for as long as the process, and by whom that is kept alive; keeps nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Part:
    """Something that runs for as long as the process, or for as long as an account is worked here.

    `run` may be called again whenever it has failed, and then takes up what the run before had in hand. To return is to fail.
    """

    name: str
    """Unique in the process; it stands in alerts, in the log and in the status."""
    run: Callable[[], Coroutine[Any, Any, None]]
    account_id: str | None = None
    """Whose part it is, where it serves one account alone."""
    is_vital: bool = True
    """False: the service goes on without it, however often it fails."""


class Keeper(Protocol):
    """Who keeps parts alive: the supervisor, for those that may not import it."""

    def keep(self, part: Part) -> asyncio.Task[None]:
        """Runs the part from now on, and again each time it has failed."""

    async def end(self, *names: str) -> None:
        """Cancels these parts, as far as they are kept, and returns when they have ended."""

    async def see_through(self, part: Part) -> None:
        """Runs, in the caller's own task, what is done when it returns; again each time it has failed."""
