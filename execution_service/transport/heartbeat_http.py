"""Our own heartbeat to a watcher outside, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import httpx

ANSWER_SECONDS = 5.0


class HeartbeatNotTaken(Exception):
    """The watcher may not know that we live; the message says why, and names no address, which may be a secret."""


class HeartbeatOverHttp:
    """Sends to one address; follows no redirection and goes by no proxy."""

    def __init__(self, url: str, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._url = url
        self._answer_seconds = answer_seconds
        self._client = httpx.AsyncClient(timeout=answer_seconds, follow_redirects=False, trust_env=False)

    async def send(self, body: Mapping[str, object]) -> None:
        """Raises HeartbeatNotTaken."""
        content = json.dumps(body).encode()
        try:
            async with (
                asyncio.timeout(self._answer_seconds),
                self._client.stream(
                    "POST", self._url, content=content, headers={"Content-Type": "application/json"}
                ) as answer,
            ):
                status = answer.status_code  # whatever else it says is not read
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as exc:
            raise HeartbeatNotTaken(f"it cannot be reached ({type(exc).__name__})") from exc
        if status // 100 != 2:
            raise HeartbeatNotTaken(f"it answered with HTTP {status}")

    async def close(self) -> None:
        await self._client.aclose()
