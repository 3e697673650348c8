"""Several calls at once, of which none is left behind when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def side_by_side(*calls: Coroutine[Any, Any, T]) -> list[T]:
    """All of these at once, begun in this sequence; what they return. Raises what the first raises that fails, when the others have ended."""
    first: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
    if first is not None:
        raise first  # out here, as it was: its cause stays what it is
    return [task.result() for task in tasks]
