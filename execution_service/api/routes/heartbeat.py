"""Where somebody outside says that all is well, over and over; who does not any more stops new risk."""

from __future__ import annotations

from typing import Protocol

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access
from execution_service.api.answers import done, known_query
from execution_service.api.problems import Problem, documented
from execution_service.storage.ports.tokens import Role


class TakesHeartbeats(Protocol):
    """The dead man's switch."""

    seconds: float
    """The longest silence."""

    async def beat(self) -> None:
        """Durable when it returns. Raises StoreUnavailable."""


class HeartbeatRoutes:
    """One call."""

    def __init__(self, *, access: Access, dead_man: TakesHeartbeats | None) -> None:
        self._access = access
        self._dead_man = dead_man

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/execution", tags=["Control"])
        router.add_api_route(
            "/heartbeat",
            self.beat,
            methods=["POST"],
            summary="All is well: the dead man's switch counts anew, on every replica",
            responses=documented(401, 403, 409, 415, 503),
        )
        return router

    async def beat(self, request: Request) -> Response:
        """Answered when it counts. Where no dead man's switch is set there is nobody to whom it would mean anything, and that is said."""
        await self._access.caller(request, Role.OPERATOR)
        known_query(request)
        if self._dead_man is None:
            words = "DEAD_MAN_SECONDS is not set: nobody counts heartbeats"
            raise Problem(409, "no-dead-man", words)
        await self._dead_man.beat()
        return done({"dead_man_seconds": self._dead_man.seconds})
