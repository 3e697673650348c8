"""The embedded store and the local Pub/Sub that the settings ask for, begun before whoever uses them is loaded: they come up meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any

from execution_service.app.embedded import embedded_store, local_pubsub, make_private, owned
from execution_service.app.settings.loading import Settings
from execution_service.app.topics import topic_plan
from execution_service.runtime.concurrency import side_by_side
from execution_service.runtime.supervision import Part

STORE, PUBSUB = "store", "pubsub"


class OwnServers:
    """They end with the context that began them."""

    def __init__(self, starting: asyncio.Task[Mapping[str, str]], revivals: Sequence[Part]) -> None:
        self._starting = starting
        self.revivals = revivals
        """What starts each again should it end, for a supervisor to keep; complete when they listen."""

    async def addresses(self) -> Mapping[str, str]:
        """When they listen: the store's URI and Pub/Sub's `host:port`, each only where it is our own. Raises EmbeddedPartFailed."""
        return await self._starting


@contextlib.asynccontextmanager
async def own_servers(settings: Settings) -> AsyncIterator[OwnServers]:
    """Is entered while they still start. Raises EmbeddedPartFailed, AlreadyRunning where another service has their folder."""
    revivals: list[Part] = []
    async with contextlib.AsyncExitStack() as stack:
        is_embedded = settings.mongodb_uri is None
        has_local_pubsub = settings.pubsub_emulator_host is None and not settings.has_google_credentials
        if is_embedded or has_local_pubsub:
            stack.enter_context(owned(settings.data_dir))
        make_private(settings.data_dir)
        own: dict[str, Coroutine[Any, Any, str]] = {}
        if has_local_pubsub:
            own[PUBSUB] = stack.enter_async_context(local_pubsub(settings.data_dir, topic_plan(settings), revivals))
        if is_embedded:
            own[STORE] = stack.enter_async_context(embedded_store(settings.data_dir, revivals))
        starting = asyncio.create_task(_started(own))
        try:
            yield OwnServers(starting, revivals)
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)


async def _started(own: Mapping[str, Coroutine[Any, Any, str]]) -> Mapping[str, str]:
    return dict(zip(own, await side_by_side(*own.values()), strict=True))
