"""The process that listens for callers of the API, as a part of the service: started, kept, and ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Sequence

import structlog

from execution_service.app.embedded import REPOSITORY_ROOT, childs_environment
from execution_service.app.front_process import LEAVE
from execution_service.runtime.supervision import Part

log = structlog.get_logger(__name__)

PROGRAM = "execution_service.app.front_process"
END_SECONDS = 2.5
LONGEST_LINE = 64 * 1024


class FrontEnded(Exception):
    """The process has ended by itself."""


class FrontProcess:
    """Has no credential, no store and no order; callers are judged by the service, which it asks."""

    def __init__(self, *, listening: socket.socket, host: str, service: socket.socket) -> None:
        """`listening` is where callers come in at `host`; `service` is where the service itself listens, for that process alone."""
        self._listening = listening
        self._host = host
        self._service = service

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        return [Part("HTTP API, for callers", self.run, is_vital=False)]

    async def run(self) -> None:
        """Until cancelled. Raises FrontEnded; may then be called again."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            PROGRAM,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=[self._listening.fileno()],
            start_new_session=True,
            cwd=REPOSITORY_ROOT,
            env=childs_environment(),
            limit=LONGEST_LINE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            told = {"fd": self._listening.fileno(), "host": self._host, "service": self._service.getsockname()[:2]}
            process.stdin.write(json.dumps(told).encode() + b"\n")
            async for line in process.stdout:
                log.warning(f"The process for callers: {line.decode('utf-8', 'replace').strip()}", action="api_front")
            raise FrontEnded(f"it ended with status {await process.wait()}")
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """In order where it still runs, and in bounded time."""
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(LEAVE + b"\n")
        process.stdin.close()
    try:
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
