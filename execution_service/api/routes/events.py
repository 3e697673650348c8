"""What happens to orders, as it happens."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access
from execution_service.api.live_feed import MOST_LISTENERS, EventStream, LiveFeed
from execution_service.api.problems import Problem, documented
from execution_service.storage.ports.tokens import Role

PATH = "/api/execution/events"


class EventRoutes:
    """Server-sent events."""

    def __init__(self, *, access: Access, feed: LiveFeed) -> None:
        self._access = access
        self._feed = feed

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Events"])
        router.add_api_route(
            PATH,
            self.events,
            summary="Orders as they are recorded (server-sent events)",
            responses={200: {"content": {"text/event-stream": {}}}, **documented(401, 503)},
        )
        return router

    async def events(self, request: Request) -> Response:
        """Event `order`: an order as it is now, with the events just recorded; `resync`: read everything anew. Whoever comes again with
        `Last-Event-ID` misses nothing that is still kept. Only what this process records is told."""
        await self._access.caller(request, Role.VIEWER)
        if self._feed.listeners >= MOST_LISTENERS:
            words = f"{MOST_LISTENERS} listen already"
            raise Problem(503, "too-many-listeners", words, headers={"Retry-After": "10"})
        return EventStream(self._feed, request.headers.get("last-event-id"))
