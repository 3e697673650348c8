"""`python -m benchmarks.readers ADDRESS RATE`: boards that read the API, at a steady rate over a few kept connections, until they are ended."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence

CONNECTIONS = 8
PATHS = (
    "/api/execution/orders?limit=50",
    "/api/execution/positions",
    "/api/execution/orders?status=open",
    "/api/execution/attention",
    "/api/execution/trades?limit=50",
    "/api/execution/limits",
    "/api/execution/kill",
    "/health",
)
"""What a board shows, each asked as often as the others."""


class Readers:
    """Counts what was answered with 200."""

    def __init__(self, host: str, port: int, paths: Sequence[str]) -> None:
        self.answered = 0
        self.failed = 0
        self._host, self._port, self._paths = host, port, paths

    async def read_for_ever(self, rate: float) -> None:
        """`rate` reads a second in all. Who is late asks at once, and leaves none out."""
        await asyncio.gather(*(self._connection(number, rate) for number in range(CONNECTIONS)))

    async def _connection(self, number: int, rate: float) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        pause = CONNECTIONS / rate
        due = time.monotonic() + pause * number / CONNECTIONS
        asked = number
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += pause
            path = self._paths[asked % len(self._paths)]
            asked += 1
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            if b" 200 " in lines[0]:
                self.answered += 1
            else:
                self.failed += 1


async def _run(address: str, rate: float) -> None:
    host, _, port = address.removeprefix("http://").rpartition(":")
    readers = Readers(host, int(port), PATHS)
    reading = asyncio.create_task(readers.read_for_ever(rate))
    began = time.monotonic()
    while not reading.done():
        await asyncio.sleep(0.5)
        print(f"{readers.answered} {readers.failed} {time.monotonic() - began:.3f}", flush=True)
    reading.result()


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], float(sys.argv[2])))
