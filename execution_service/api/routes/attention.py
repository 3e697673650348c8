"""All that wants a person, in one answer."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access
from execution_service.api.answers import Body, Recent, known_query
from execution_service.api.problems import documented
from execution_service.api.standing import Standing
from execution_service.api.stories import brief, dead_letter, protection
from execution_service.core.orders.status import Status
from execution_service.core.texts.discrepancies import difference
from execution_service.core.texts.values import plain
from execution_service.storage.ports.queries import OrderFilter, QueryStore
from execution_service.storage.ports.tokens import Role

ROWS = 50


class AttentionRoutes:
    """What is in doubt, what differs, what could not be read, what was refused, what does not run."""

    def __init__(self, *, access: Access, queries: QueryStore, standing: Standing, recent: Recent) -> None:
        self._access = access
        self._recent = recent
        self._queries = queries
        self._standing = standing

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/execution", tags=["Attention"])
        router.add_api_route(
            "/attention", self.attention, summary="What wants a person", responses=documented(401, 503)
        )
        return router

    async def attention(self, request: Request) -> Response:
        """The latest 50 of each kind. `commands_waiting` are those that nobody has carried out yet."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request)
        return await self._recent.answer(request, self._all())

    async def _all(self) -> Body:
        unprotected = await self._queries.unprotected_entries()
        in_doubt, refused, differences, letters, commands, sizes = await asyncio.gather(
            self._queries.page_of_orders(OrderFilter(statuses=frozenset({Status.IN_DOUBT})), None, ROWS),
            self._queries.page_of_orders(OrderFilter(statuses=frozenset({Status.REJECTED})), None, ROWS),
            self._queries.discrepancies(),
            self._queries.latest_dead_letters(ROWS),
            self._queries.unfinished_commands(),
            self._queries.sizes(),
        )
        return Body(
            lambda: {
                "unprotected": [brief(each) | {"protection": protection(each.order)} for each in unprotected[:ROWS]],
                "in_doubt": [brief(stored) for stored in in_doubt],
                "discrepancies": [
                    {
                        "discrepancy_id": each.discrepancy_id,
                        "account_id": each.account_id,
                        "kind": each.finding.kind,
                        "words": plain(difference(each.finding)),
                        "order_id": each.finding.order_id,
                        "signal_id": each.finding.signal_id,
                        "opened_at": each.opened_at,
                    }
                    for each in differences[:ROWS]
                ],
                "dead_letters": [dead_letter(letter) for letter in letters],
                "refused": [brief(stored) for stored in refused],
                "commands_waiting": [
                    {"command_id": each.command_id, "kind": each.kind, "received_at": each.received_at}
                    for each in commands[:ROWS]
                ],
                "parts_not_running": [
                    {"part": name, "reason": plain(why)} for name, why in self._standing.failed_parts()
                ],
                "components": self._standing.components(),
                "counts": dict(sizes),
            }
        )
