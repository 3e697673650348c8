"""A key of a Redis server, read; loaded only where one is used."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from execution_service.core.risk.kill_key import LONGEST_TEXT
from execution_service.transport.ports import KeyNotRead
from execution_service.transport.redis_streams import SILENCE, close_client, forget_connections

READ_SECONDS = 1.5
"""For one reading, a new connection included."""
NO_TEXT = "(no text)"
"""What a key says that holds a list or a map, say."""


class RedisKey:
    """Reads the beginning of its text over a connection of its own, which is made anew after any failure: an answer that came too late must not be
    taken for the next one's."""

    def __init__(self, client: Redis, key: str) -> None:
        self.name = f"{key} in Redis"
        self._client = client
        self._key = key

    async def read(self) -> str | None:
        """Raises KeyNotRead. An empty text is one; a missing key reads as one too, and means the same."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                found = await self._client.getrange(self._key, 0, LONGEST_TEXT - 1)
        except ResponseError as exc:
            if str(exc).startswith("WRONGTYPE"):
                return NO_TEXT
            raise KeyNotRead(f"Redis refuses to have it read: {exc}") from exc
        except (RedisError, *SILENCE) as exc:
            await forget_connections(self._client)
            why = f"no answer within {READ_SECONDS:g} s" if isinstance(exc, TimeoutError) else f"{type(exc).__name__}"
            raise KeyNotRead(f"Redis does not answer ({why})") from exc
        return found.decode("utf-8", "backslashreplace") if isinstance(found, bytes) else str(found)

    async def close(self) -> None:
        await close_client(self._client)
