"""The outside safety service over HTTP, in both layouts that exist; alone imports httpx for that. What an answer means is told in core."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

import httpx

from execution_service.core.risk.safety import LARGEST_ANSWER_BYTES, NotReached, UnclearAnswer

ANSWER_SECONDS = 1.5
"""For one question, in whichever layout, from the first byte sent to the last received."""
STATUS_PATHS = ("/api/risk/ess/status", "/ess/status")
POLICY_PATHS = ("/api/policy", "/policy")
"""In the sequence of the layouts, as STATUS_PATHS."""


class SafetyOverHttp:
    """Asks over a connection that is kept. Follows no redirection and goes by no proxy: who answers is who was named."""

    def __init__(self, url: str, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        """`url`: without the paths of the layouts."""
        self._url = url.rstrip("/")
        self._answer_seconds = answer_seconds
        self._client = httpx.AsyncClient(
            timeout=answer_seconds,
            follow_redirects=False,
            trust_env=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            limits=httpx.Limits(max_connections=2, max_keepalive_connections=1),
        )
        self._layout = 0
        """The one that answered last, which is asked first."""

    async def close(self) -> None:
        await self._client.aclose()

    async def status(self) -> bytes:
        """The body of a good answer. Raises NotReached, UnclearAnswer."""
        body = await self._ask(STATUS_PATHS)
        if body is None:
            raise UnclearAnswer(f"it has neither {' nor '.join(STATUS_PATHS)}")
        return body

    async def policies(self) -> bytes | None:
        """The body of a good answer; None: it has no policies. Raises NotReached, UnclearAnswer."""
        return await self._ask(POLICY_PATHS)

    async def _ask(self, paths: Sequence[str]) -> bytes | None:
        """None: it has none of the paths."""
        try:
            async with asyncio.timeout(self._answer_seconds):
                for layout in sorted(range(len(paths)), key=lambda each: each != self._layout):
                    body = await self._get(paths[layout])
                    if body is not None:
                        self._layout = layout
                        return body
        except TimeoutError as exc:
            raise NotReached(f"no answer within {self._answer_seconds:g} s") from exc
        except httpx.TimeoutException as exc:
            raise NotReached(f"no answer within {self._answer_seconds:g} s") from exc
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
            raise NotReached(f"it cannot be reached ({type(exc).__name__})") from exc
        return None

    async def _get(self, path: str) -> bytes | None:
        async with self._client.stream("GET", f"{self._url}{path}") as answer:
            if answer.status_code == HTTPStatus.NOT_FOUND:
                return None
            if answer.status_code != HTTPStatus.OK:
                raise UnclearAnswer(f"it answered with HTTP {answer.status_code}")
            body = b""
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > LARGEST_ANSWER_BYTES:
                    raise UnclearAnswer(f"its answer is longer than {LARGEST_ANSWER_BYTES} bytes")
            return body
