"""What a person decides where something is not known, not readable or not the same: orders in doubt, dead letters, books that differ."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access
from execution_service.api.answers import (
    Body,
    Recent,
    answer,
    cursor_of,
    done,
    known_query,
    next_link,
    one_of,
    place_of,
    whole_number,
)
from execution_service.api.problems import Problem, documented, reason
from execution_service.api.standing import Standing
from execution_service.api.stories import brief, dead_letter
from execution_service.api.verb_calls import (
    VerbCalls,
    fields_of,
    invalid_request,
    named_person,
    optional_text,
    refused_problem,
    required_text,
)
from execution_service.control.requests import ALLOWED_SECONDS, LONGEST_ALLOWED_SECONDS, Decision, Kind
from execution_service.control.results import Done, Refused
from execution_service.control.shown import command_fields, dead_letter_fields, discrepancy_fields
from execution_service.core.errors import UnreadableRecord
from execution_service.core.messages.fields import Number, exact_decimal
from execution_service.core.orders.order import Order
from execution_service.core.texts.values import plain
from execution_service.storage.ports.commands import Command, CommandStatus, CommandStore
from execution_service.storage.ports.queries import Place, QueryStore
from execution_service.storage.ports.tokens import Role

ROWS = 100
LONGEST_NAME = 256
LONGEST_MESSAGE_ID = 1024
COMPARED_WITHIN_SECONDS = 20.0
"""So long a comparison with a broker's books is waited for; after that it goes on, and its command tells what came of it."""
MOST_COMPARED = 100
"""So many accounts are compared by one call."""
_STATES = {"open": True, "all": False}


class ConfiguredAccounts(Protocol):
    @property
    def named(self) -> Collection[str]: ...

    def is_known(self, account_id: str) -> bool: ...


class RepairRoutes:
    """The verbs that `execctl resolve`, `allow`, `replay` and `reconcile` call, and the lists that they are about."""

    def __init__(
        self,
        *,
        access: Access,
        queries: QueryStore,
        store: CommandStore,
        calls: VerbCalls,
        accounts: ConfiguredAccounts,
        standing: Standing,
        recent: Recent,
    ) -> None:
        self._access = access
        self._queries = queries
        self._store = store
        self._calls = calls
        self._accounts = accounts
        self._standing = standing
        self._recent = recent

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/execution", tags=["Repairs"])
        router.add_api_route(
            "/orders/{name}/resolve",
            self.resolve,
            methods=["POST"],
            summary="Say what became of an order in doubt",
            openapi_extra=_RESOLVE,
            responses=_NOT_YET | documented(400, 401, 403, 404, 409, 413, 415, 503),
        )
        router.add_api_route(
            "/orders/{name}/allow",
            self.allow,
            methods=["POST"],
            summary="Let one order that limits of risk refused come once more, under a new name",
            openapi_extra=_ALLOW,
            responses=documented(400, 401, 403, 404, 409, 413, 415, 503),
        )
        router.add_api_route(
            "/reconcile",
            self.reconcile,
            methods=["POST"],
            summary="Have our books compared with the brokers' now",
            openapi_extra=_RECONCILE,
            responses=_NOT_YET | documented(400, 401, 403, 404, 413, 415, 503),
        )
        router.add_api_route(
            "/discrepancies",
            self.discrepancies,
            summary="What our books and a broker's disagree about, the latest first",
            openapi_extra=_OF_DISCREPANCIES,
            responses=documented(400, 401, 503),
        )
        router.add_api_route(
            "/dead-letters",
            self.dead_letters,
            summary="Messages that could not be taken for orders, the latest first",
            openapi_extra=_PAGES,
            responses=documented(400, 401, 503),
        )
        router.add_api_route(
            "/dead-letters/{message_id:path}/replay",
            self.replay,
            methods=["POST"],
            summary="Take a dead letter again, as if it had just come",
            openapi_extra=_EMPTY,
            responses=_NOT_YET | documented(400, 401, 403, 404, 409, 413, 415, 503),
        )
        router.add_api_route(
            "/dead-letters/{message_id:path}",
            self.dead_letter,
            summary="One of them, whole",
            responses=documented(401, 404, 503),
        )
        router.add_api_route(
            "/commands/{command_id}",
            self.command,
            summary="What came of a command",
            responses=documented(401, 404, 503),
        )
        return router

    # --- orders in doubt ----------------------------------------------------------------------------------------

    async def resolve(self, request: Request, name: str) -> Response:
        """Recorded as an event like any other. `send-again` has it sent anew: only for who knows that it is not at the broker."""
        caller = await self._access.caller(request, Role.ADMIN)
        fields = await fields_of(request, "decision", "person", "note", "broker_order_id")
        decision, broker_order_id = fields.get("decision"), optional_text(fields, "broker_order_id")
        if type(decision) is not str or decision not in tuple(Decision):
            raise invalid_request(f"decision has to be one of {', '.join(Decision)}")
        if (decision == Decision.PLACED) != (broker_order_id is not None):
            raise invalid_request("broker_order_id goes with the decision placed, which needs it")
        person, note = named_person(caller, fields), required_text(fields, "note")
        orders = await self._orders_called(name)
        if len(orders) > 1:
            ids = ", ".join(order.order_id for order in orders[:10])
            words = f"{plain(name)[:80]!r} names {len(orders)} orders; name one of {ids}"
            raise Problem(409, "ambiguous-order", words, reasons=[reason("AMBIGUOUS_ORDER", words)])
        order_id = orders[0].order_id
        body: dict[str, object] = {"order_id": order_id, "decision": decision, "by": person, "note": note}
        body |= {} if broker_order_id is None else {"broker_order_id": broker_order_id}
        command = self._calls.command(request, Kind.RESOLVE, body)
        return await self._answered(command, order_id)

    async def allow(self, request: Request, name: str) -> Response:
        """For `seconds` (300 unless told), an order of the same content passes the limits, once, under a name of its own; the refused one stays as it
        is. Who let it through, and past what, stands in its record. 409: it was not refused by a limit."""
        caller = await self._access.caller(request, Role.ADMIN)
        fields = await fields_of(request, "person", "reason", "seconds")
        given = fields.get("seconds", Number(ALLOWED_SECONDS))
        seconds = exact_decimal(given) if isinstance(given, Number) else None
        if seconds is None or seconds != seconds.to_integral_value() or not 1 <= seconds <= LONGEST_ALLOWED_SECONDS:
            raise invalid_request(f"seconds has to be a whole number from 1 to {LONGEST_ALLOWED_SECONDS}")
        person, why = named_person(caller, fields), required_text(fields, "reason")
        await self._orders_called(name)
        body = {"order_id": name, "person": person, "reason": why, "seconds": int(seconds)}
        return done(await self._calls.carried_out(request, Kind.ALLOW, body))

    async def _orders_called(self, name: str) -> list[Order]:
        """Raises Problem where there is none."""
        found = await self._queries.orders_named(name) if len(name) <= LONGEST_NAME else []
        orders = [stored.order for stored in found if stored.order.adoption is None]
        if not orders:
            words = f"no order is called {plain(name)[:80]!r}"
            raise Problem(404, "unknown-order", words, reasons=[reason("UNKNOWN_ORDER", words)])
        return orders

    # --- dead letters -------------------------------------------------------------------------------------------

    async def dead_letters(self, request: Request) -> Response:
        """In brief; each is whole under its own address. `next` leads to the following page."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request, "limit", "cursor")
        limit, place = whole_number(request, "limit", ROWS), place_of(request.query_params.get("cursor"))
        return await self._recent.answer(request, self._page_of_dead_letters(request, place, limit))

    async def _page_of_dead_letters(self, request: Request, place: Place | None, limit: int) -> Body:
        found = await self._queries.latest_dead_letters(limit + 1, place)
        page, following = found[:limit], None
        if len(found) > limit:
            following = next_link(request, cursor_of(page[-1].received_at, page[-1].message_id))
        return Body(lambda: {"dead_letters": [dead_letter(letter) for letter in page], "next": following})

    async def dead_letter(self, request: Request, message_id: str) -> Response:
        await self._access.caller(request, Role.VIEWER)
        known_query(request)
        try:
            letter = await self._store.dead_letter(message_id) if len(message_id) <= LONGEST_MESSAGE_ID else None
        except UnreadableRecord as exc:
            words = f"the record of the dead letter {plain(message_id)[:80]!r} cannot be read"
            raise Problem(500, "unreadable-record", words) from exc
        if letter is None:
            raise _unknown_dead_letter(message_id)
        return answer(request, dead_letter_fields(letter))

    async def replay(self, request: Request, message_id: str) -> Response:
        """An order that it brings has its identity, and is placed once, however often it is replayed. 409: it is a dead letter again, and why."""
        await self._access.caller(request, Role.OPERATOR)
        await fields_of(request, is_body_needed=False)
        if len(message_id) > LONGEST_MESSAGE_ID or await self._store.dead_letter(message_id) is None:
            raise _unknown_dead_letter(message_id)
        return await self._answered(self._calls.command(request, Kind.REPLAY, {"message_id": message_id}))

    # --- books that differ --------------------------------------------------------------------------------------

    async def discrepancies(self, request: Request) -> Response:
        """`adopted_as` names the adoptions that are to close it."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request, "account", "state", "limit", "cursor")
        limit, place = whole_number(request, "limit", ROWS), place_of(request.query_params.get("cursor"))
        is_open = one_of(request, "state", _STATES)
        account = request.query_params.get("account")
        page = self._page_of_discrepancies(request, is_open is not False, account, place, limit)
        return await self._recent.answer(request, page)

    async def _page_of_discrepancies(
        self, request: Request, is_open: bool, account: str | None, place: Place | None, limit: int
    ) -> Body:
        found = await self._queries.page_of_discrepancies(
            is_open=is_open, account_id=account, after=place, limit=limit + 1
        )
        page, following = found[:limit], None
        if len(found) > limit:
            following = next_link(request, cursor_of(page[-1].opened_at, page[-1].discrepancy_id))
        adopted = await self._queries.adoptions_closing([each.discrepancy_id for each in page])

        def draw() -> Mapping[str, Any]:
            rows = [{**discrepancy_fields(each), "adopted_as": adopted.get(each.discrepancy_id, [])} for each in page]
            return {"discrepancies": rows, "next": following}

        return Body(draw)

    async def reconcile(self, request: Request) -> Response:
        """Of `account_id`, or of every account that is configured or at work. 200: each has been compared or could not be, as `outcome` says; 202:
        some are still being compared. `all_agree`: everything was compared, and agrees."""
        await self._access.caller(request, Role.OPERATOR)
        fields = await fields_of(request, "account_id", is_body_needed=False)
        account_ids = self._accounts_meant(optional_text(fields, "account_id"))
        commands = {
            account_id: self._calls.command(request, Kind.RECONCILE, {"account_id": account_id})
            for account_id in account_ids
        }
        await asyncio.gather(*(self._calls.give(each, COMPARED_WITHIN_SECONDS) for each in commands.values()))
        outcomes = {account_id: await self._calls.stored(each) for account_id, each in commands.items()}
        body = {
            "all_agree": all(each.outcome.startswith("Reconciled") for each in outcomes.values()),
            "accounts": [{"account_id": account_id, **command_fields(each)} for account_id, each in outcomes.items()],
        }
        is_open = any(each.status is CommandStatus.NEW for each in outcomes.values())
        return done(body, status=202 if is_open else 200)

    def _accounts_meant(self, wanted: str | None) -> Collection[str]:
        """Raises Problem."""
        at_work = self._standing.account_states()
        if wanted is None:
            known = sorted({*self._accounts.named, *at_work})
            if len(known) > MOST_COMPARED:
                raise invalid_request(f"there are {len(known)} accounts: name one as account_id")
            return known
        if wanted not in at_work and not self._accounts.is_known(wanted):
            words = f"account {plain(wanted)[:80]!r} is not configured"
            raise Problem(404, "unknown-account", words, reasons=[reason("UNKNOWN_ACCOUNT", words)])
        return [wanted]

    # --- commands -----------------------------------------------------------------------------------------------

    async def command(self, request: Request, command_id: str) -> Response:
        """`status` is NEW, DONE or REFUSED, `outcome` what came of it. Of arming nothing is told: only who made its first step is told the nonce."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request)
        kept = await self._store.command(command_id) if len(command_id) <= LONGEST_NAME else None
        if kept is None or kept.kind == Kind.ARM:
            words = f"there is no command {plain(command_id)[:80]!r}"
            raise Problem(404, "unknown-command", words, reasons=[reason("UNKNOWN_COMMAND", words)])
        return answer(request, command_fields(kept))

    async def _answered(self, command: Command, *order_ids: str) -> Response:
        """200: done; 202: stored, and not carried out yet. Raises Problem where it is refused."""
        result = await self._calls.give(command)
        if isinstance(result, Refused):
            raise refused_problem(result, command)
        found = [stored for order_id in order_ids for stored in await self._queries.orders_named(order_id)]
        words = plain(result.words) if isinstance(result, Done) else "stored; it is carried out as soon as possible"
        body = {"command_id": command.command_id, "message": words, "orders": [brief(stored) for stored in found]}
        return done(body, status=200 if isinstance(result, Done) else 202)


def _unknown_dead_letter(message_id: str) -> Problem:
    words = f"there is no dead letter {plain(message_id)[:80]!r}"
    return Problem(404, "unknown-dead-letter", words, reasons=[reason("UNKNOWN_DEAD_LETTER", words)])


# --- described ------------------------------------------------------------------------------------------------------


def _body(schema: Mapping[str, Any], example: Mapping[str, Any], *, is_needed: bool) -> dict[str, Any]:
    object_schema = {"type": "object", "additionalProperties": False, **schema}
    content = {"application/json": {"schema": object_schema, "example": dict(example)}}
    return {"requestBody": {"required": is_needed, "content": content}}


def _query(name: str, words: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": words, "schema": dict(schema)}


_TEXT = {"type": "string", "minLength": 1, "maxLength": 500}
_NOT_YET: dict[int | str, dict[str, Any]] = {
    202: {"description": "Stored, and not carried out yet; `command_id` leads to what comes of it"}
}
_RESOLVE = _body(
    {
        "required": ["decision", "note"],
        "properties": {
            "decision": {"type": "string", "enum": list(Decision)},
            "person": {**_TEXT, "description": "Who decided; the token's holder unless told"},
            "note": {**_TEXT, "description": "How they know"},
            "broker_order_id": {**_TEXT, "description": "With the decision placed: the broker's id for it"},
        },
    },
    {"decision": "not-placed", "person": "Ada", "note": "the broker's own page does not show it"},
    is_needed=True,
)
_ALLOW = _body(
    {
        "required": ["reason"],
        "properties": {
            "person": {**_TEXT, "description": "Who answers for it; the token's name is added"},
            "reason": _TEXT,
            "seconds": {
                "type": "integer",
                "minimum": 1,
                "maximum": LONGEST_ALLOWED_SECONDS,
                "default": ALLOWED_SECONDS,
                "description": "How long it may come",
            },
        },
    },
    {"person": "Ada", "reason": "the size is meant", "seconds": 120},
    is_needed=True,
)
_RECONCILE = _body(
    {"properties": {"account_id": {**_TEXT, "description": "Only this account"}}},
    {"account_id": "DU000001"},
    is_needed=True,
)
_EMPTY = _body({"properties": {}}, {}, is_needed=True)
_LIMIT = _query("limit", "At most so many", {"type": "integer", "minimum": 1, "maximum": 1000, "default": ROWS})
_CURSOR = _query("cursor", "As `next` of the page before has it", {"type": "string"})
_PAGES: dict[str, Any] = {"parameters": [_LIMIT, _CURSOR]}
_OF_DISCREPANCIES: dict[str, Any] = {
    "parameters": [
        _query("account", "Only this account's", {"type": "string"}),
        _query("state", "`all`: closed ones too", {"type": "string", "enum": list(_STATES), "default": "open"}),
        _LIMIT,
        _CURSOR,
    ]
}
