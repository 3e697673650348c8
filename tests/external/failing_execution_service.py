"""The service as the tests of its supervision start it: the product's own program, with one part that ends by itself.

    python failing_execution_service.py PART TIMES [arguments of the program]

`PART` is `writers` (what writes record updates, in the middle of a batch) or `pull` (what pulls orders from Pub/Sub), `TIMES` how often it ends
before it runs well; or `start`, which says that it hangs, and does, each time. Nobody waits long between two tries here.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from execution_service import execution_main
from execution_service.app.service import ExecutionService
from execution_service.core import backoff
from execution_service.storage.mongo.commits import Commits
from execution_service.transport.pubsub import GoogleSubscriber

PAUSE_SECONDS = 0.1


def break_part(owner: Any, name: str, times: int, fault: Callable[[], BaseException], *, applies: str = "") -> None:
    """The first so many calls of this coroutine method end with the fault, and with nothing done. `applies`: a word in the path of a
    subscriber that is meant."""
    plain, left = getattr(owner, name), [times]

    async def call(self: Any, *arguments: Any, **named: Any) -> Any:
        if left[0] > 0 and applies in getattr(self, "path", ""):
            left[0] -= 1
            raise fault()
        return await plain(self, *arguments, **named)

    setattr(owner, name, call)


async def hangs(self: ExecutionService) -> None:
    print("the start hangs", flush=True)
    await asyncio.get_running_loop().create_future()


def main() -> int:
    part, times = sys.argv[1], int(sys.argv[2])
    del sys.argv[1:3]
    backoff.DEFAULT_BACKOFF = backoff.Backoff(first_seconds=PAUSE_SECONDS, longest_seconds=PAUSE_SECONDS)
    if part == "writers":
        break_part(Commits, "_outcomes", times, asyncio.CancelledError)
    elif part == "start":
        ExecutionService.start = hangs  # type: ignore[method-assign]
    else:
        break_part(GoogleSubscriber, "run", times, lambda: RuntimeError("the pull broke"), applies="trading-orders")
    return execution_main.main()


if __name__ == "__main__":
    sys.exit(main())
