"""The HTTP application: which routes there are, and what becomes of an error. A new group of routes is a file in routes/ and a line here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from execution_service.api.access import Access
from execution_service.api.answers import Recent
from execution_service.api.live_feed import LiveFeed
from execution_service.api.measures import Measures
from execution_service.api.pace import Pace
from execution_service.api.placing import Placing
from execution_service.api.problems import PROBLEM_SCHEMA, Problem
from execution_service.api.protection import Protection
from execution_service.api.risk_figures import HoldsLimits
from execution_service.api.routes import events
from execution_service.api.routes.accounts import AccountDirectory, AccountRoutes, AtBrokers
from execution_service.api.routes.attention import AttentionRoutes
from execution_service.api.routes.board import BoardRoutes
from execution_service.api.routes.control import ControlRoutes
from execution_service.api.routes.description import DescriptionRoutes
from execution_service.api.routes.events import EventRoutes
from execution_service.api.routes.health import HealthRoutes
from execution_service.api.routes.heartbeat import HeartbeatRoutes, TakesHeartbeats
from execution_service.api.routes.orders import OrderRoutes
from execution_service.api.routes.page import PageRoutes
from execution_service.api.routes.quality import QualityRoutes
from execution_service.api.routes.repairs import RepairRoutes
from execution_service.api.routes.targets import TargetRoutes
from execution_service.api.routes.trades import TradeRoutes
from execution_service.api.sessions import Sessions
from execution_service.api.standing import Standing
from execution_service.api.verb_calls import VerbCalls
from execution_service.control.commands import Commands
from execution_service.control.fill_quality import NamesBrokers, QualityReader
from execution_service.runtime.clock import Clock
from execution_service.runtime.threads import Blocking
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.queries import QueryStore
from execution_service.storage.ports.store import Store

log = structlog.get_logger(__name__)

STREAM_PATHS = frozenset({events.PATH})
_ABOUT = (
    "Places orders exactly once, and shows what became of them. Amounts of our own routes are exact decimals as text; those of spec 002 are "
    "numbers. Errors are application/problem+json with all reasons. Where a token exists, every call but the probes needs one: "
    "Authorization: Bearer TOKEN."
)


class Routes(Protocol):
    """A group of routes."""

    def router(self) -> APIRouter: ...


class ReadDirectory(AccountDirectory, Protocol):
    """The accounts as they are configured."""

    def is_known(self, account_id: str) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiParts:
    """What the routes are made of."""

    access: Access
    sessions: Sessions
    queries: QueryStore
    placing: Placing
    commands: Commands
    store: Store
    rules: HoldsLimits
    standing: Standing
    directory: ReadDirectory
    at_brokers: AtBrokers
    brokers: NamesBrokers
    measures: Measures
    pace: Pace
    feed: LiveFeed
    dead_man: TakesHeartbeats | None
    clock: Clock
    threads: Blocking
    """Where answers and figures are drawn up: the event loop has trading to do."""


def http_application(parts: ApiParts, *, host: str) -> ASGIApp:
    """Everything that is served at `host`, protected."""
    recent = Recent(parts.clock, parts.threads)
    calls = VerbCalls(commands=parts.commands, store=parts.store, clock=parts.clock)
    groups: Sequence[Routes] = (
        HealthRoutes(access=parts.access, standing=parts.standing, measures=parts.measures),
        OrderRoutes(
            access=parts.access,
            queries=parts.queries,
            placing=parts.placing,
            commands=parts.commands,
            clock=parts.clock,
            recent=recent,
            threads=parts.threads,
        ),
        TradeRoutes(access=parts.access, queries=parts.queries, recent=recent),
        AttentionRoutes(access=parts.access, queries=parts.queries, standing=parts.standing, recent=recent),
        ControlRoutes(
            access=parts.access,
            calls=calls,
            store=parts.store,
            rules=parts.rules,
            clock=parts.clock,
            recent=recent,
        ),
        RepairRoutes(
            access=parts.access,
            queries=parts.queries,
            store=parts.store,
            calls=calls,
            accounts=parts.directory,
            standing=parts.standing,
            recent=recent,
        ),
        AccountRoutes(
            access=parts.access,
            directory=parts.directory,
            at_brokers=parts.at_brokers,
            queries=parts.queries,
            leases=parts.store,
            recent=recent,
        ),
        HeartbeatRoutes(access=parts.access, dead_man=parts.dead_man),
        TargetRoutes(access=parts.access, commands=parts.commands, clock=parts.clock),
        EventRoutes(access=parts.access, feed=parts.feed),
        DescriptionRoutes(access=parts.access),
        BoardRoutes(access=parts.access, queries=parts.queries, pace=parts.pace, recent=recent),
        QualityRoutes(
            access=parts.access,
            quality=QualityReader(parts.queries, parts.brokers, parts.threads),
            clock=parts.clock,
            recent=recent,
        ),
        PageRoutes(access=parts.access, sessions=parts.sessions),
    )
    app = _Application(
        title="Execution service",
        version=parts.standing.version,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    for group in groups:
        app.include_router(group.router())
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(StoreUnavailable, _store_unavailable)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    return Protection(app, host=host, stream_paths=STREAM_PATHS)


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            description = super().openapi()
            components = description.setdefault("components", {})
            components.setdefault("schemas", {})["Problem"] = dict(PROBLEM_SCHEMA)
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            description["security"] = [{"token": []}, {}]
        return self.openapi_schema or {}


async def _problem(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, Problem)
    return exc.response()


async def _store_unavailable(request: Request, exc: Exception) -> Response:
    log.debug(f"A call of the API waits in vain for the store: {exc}", action="api_store_away")
    return Problem(503, "store-unavailable", "the store does not answer", headers={"Retry-After": "5"}).response()


async def _http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    kind = {404: "unknown-path", 405: "unknown-method"}.get(exc.status_code, "refused")
    return Problem(exc.status_code, kind, str(exc.detail), headers=dict(exc.headers or {})).response()


async def _invalid(request: Request, exc: Exception) -> Response:
    return Problem(400, "invalid-query", "the call has a parameter that cannot be read").response()


async def _failed(request: Request, exc: Exception) -> Response:
    return Problem(500, "internal", "the call failed; the log of the service says why").response()
