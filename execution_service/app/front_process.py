"""`python -m execution_service.app.front_process`: the process that listens for callers. It is told by its standard input where, and lives as
long as that is open: as long as the service does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys

import structlog

from execution_service.api.front import Front, TradingService
from execution_service.api.protection import Protection
from execution_service.api.server import HttpServer

LEAVE = b"leave"
"""The last line where the service ends in order: calls under way have their moment. Without it there is nobody left to ask."""
LOWER_PRIORITY = 5
STREAM_PATHS = frozenset({"/api/execution/events"})


class LoopTime:
    """By the event loop, as all that is bounded here."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


async def serve(listening: socket.socket, host: str, service: TradingService) -> None:
    """Until the service ends. `host`: the address that is configured."""
    front = Front(service, LoopTime())
    server = HttpServer(Protection(front, host=host, stream_paths=STREAM_PATHS), listening, front)
    serving = asyncio.create_task(server.run())
    left = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.readline))
    await asyncio.wait({serving, left}, return_when=asyncio.FIRST_COMPLETED)
    if not left.done():
        serving.result()
    if left.result().strip() != LEAVE:
        os._exit(0)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def main() -> int:
    """The first line of standard input is JSON: `fd` of the listening socket, `host`, and `service`, where the service itself is asked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever stops the service in a terminal means the service
    with contextlib.suppress(OSError):
        os.nice(LOWER_PRIORITY)  # trading goes first
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
    told = json.loads(sys.stdin.buffer.readline())
    listening = socket.socket(fileno=told["fd"])
    listening.setblocking(False)
    asyncio.run(serve(listening, told["host"], TradingService(*told["service"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
