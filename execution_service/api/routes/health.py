"""Whether the service is well: for probes, for people, and for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access
from execution_service.api.answers import answer, done
from execution_service.api.measures import CONTENT_TYPE, Measures
from execution_service.api.problems import Problem, documented
from execution_service.api.standing import Standing
from execution_service.storage.ports.tokens import Role

SERVICE = "execution-service"


class HealthRoutes:
    """Probes need no token; without one they are told no more than a word where tokens are used."""

    def __init__(self, *, access: Access, standing: Standing, measures: Measures) -> None:
        self._access = access
        self._standing = standing
        self._measures = measures

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Health"])
        router.add_api_route("/health", self.health, summary="How the service stands", responses=_HEALTH)
        router.add_api_route("/ready", self.ready, summary="Whether orders can be taken", responses=documented(503))
        router.add_api_route(
            "/metrics",
            self.prometheus,
            summary="Figures for Prometheus",
            responses={200: {"content": {"text/plain": {}}}},
        )
        router.add_api_route("/api/execution/metrics", self.performance, summary="How orders fare", responses=_METRICS)
        return router

    async def health(self, request: Request) -> Response:
        """Always 200 while the process answers; `status` says how it is."""
        body: dict[str, object] = {
            "service": SERVICE,
            "status": self._standing.status(),
            "version": self._standing.version,
            "mode": self._standing.mode,
        }
        if await self._may_see(request):
            body["components"] = self._standing.components()
        return done(body)

    async def ready(self, request: Request) -> Response:
        """200, or 503 while orders could not be stored."""
        if not self._standing.is_ready():
            raise Problem(503, "not-ready", "orders cannot be stored now", headers={"Retry-After": "5"})
        return done({"status": "ready"})

    async def prometheus(self, request: Request) -> Response:
        await self._access.caller(request, Role.VIEWER)
        return Response(
            await self._measures.text(), headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}
        )

    async def performance(self, request: Request) -> Response:
        """Counts are of all records. The rate is of the orders that were filled or failed: one that works, or was cancelled, says nothing of it.
        Latency and slippage are of what this process has seen since its start. No limit of calls is known here: 0."""
        await self._access.caller(request, Role.VIEWER)
        found = await self._measures.performance()
        ended = found.filled + found.failed
        body = {
            "orders_placed_total": found.placed,
            "orders_filled_total": found.filled,
            "orders_failed_total": found.failed,
            "success_rate_pct": round(100 * found.filled / ended, 2) if ended else 0.0,
            "avg_order_latency_ms": round(found.average_latency_ms, 3),
            "avg_slippage_pct": round(found.average_slippage_percent, 6),
            "rate_limit_tokens_available": 0,
            "rate_limit_tokens_per_minute": 0,
        }
        return answer(request, body)

    async def _may_see(self, request: Request) -> bool:
        try:
            await self._access.caller(request, Role.VIEWER)
        except Problem:
            return False
        return True


_HEALTH: dict[int | str, dict[str, object]] = {
    200: {
        "description": "How it stands",
        "content": {
            "application/json": {
                "example": {
                    "service": SERVICE,
                    "status": "OK",
                    "version": "0.1.0",
                    "mode": "PAPER",
                    "components": {
                        "store": {"status": "OK", "message": None},
                        "pubsub": {"status": "OK", "message": None},
                    },
                }
            }
        },
    }
}
_METRICS: dict[int | str, dict[str, object]] = {
    200: {
        "description": "Figures",
        "content": {
            "application/json": {
                "example": {
                    "orders_placed_total": 120,
                    "orders_filled_total": 114,
                    "orders_failed_total": 2,
                    "success_rate_pct": 98.28,
                    "avg_order_latency_ms": 41.2,
                    "avg_slippage_pct": 0.0021,
                    "rate_limit_tokens_available": 0,
                    "rate_limit_tokens_per_minute": 0,
                }
            }
        },
    },
    **documented(401, 403),
}
