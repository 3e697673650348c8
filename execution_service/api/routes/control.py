"""What stops trading and lets it go on: kill switches, flattening, and how near each limit of risk is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access
from execution_service.api.answers import Body, Recent, done, known_query
from execution_service.api.problems import Problem, documented, reason
from execution_service.api.risk_figures import HoldsLimits
from execution_service.api.verb_calls import (
    VerbCalls,
    fields_of,
    named,
    named_person,
    optional_text,
    refused_problem,
    required_text,
    scope_of_call,
    token_name,
)
from execution_service.control.enable_risk import RiskAndAlertStore, enable_again, rebase
from execution_service.control.kill import CONFIRMED_WITHIN_SECONDS, killed_answer, working_entries
from execution_service.control.limit_uses import LimitUses, limit_uses
from execution_service.control.requests import Kill, Kind, read_request
from execution_service.control.results import Done, Refused
from execution_service.control.shown import stance_fields, switch_fields, use_fields
from execution_service.core.planning.stances import HALT
from execution_service.core.planning.targets import Aggressiveness
from execution_service.core.risk.counters import Zones
from execution_service.core.risk.kill import KillLevel
from execution_service.core.risk.limits import Scope
from execution_service.core.risk.switch_record import SwitchRecord
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.store import Store
from execution_service.storage.ports.tokens import Role

COUNTED_WITHIN_SECONDS = CONFIRMED_WITHIN_SECONDS + 1.0
"""So long a kill that cancels is waited for; after that it is answered with what is known."""


class Decides(Protocol):
    """What a named person says of the risk that is counted."""

    async def __call__(
        self, store: RiskAndAlertStore, scope: Scope, *, by: str, reason: str, now: datetime, zones: Zones
    ) -> int: ...


class ControlRoutes:
    """The same verbs that `execctl` and the chat call, each a stored command."""

    def __init__(
        self, *, access: Access, calls: VerbCalls, store: Store, rules: HoldsLimits, clock: Clock, recent: Recent
    ) -> None:
        self._access = access
        self._calls = calls
        self._store = store
        self._rules = rules
        self._clock = clock
        self._recent = recent

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/execution", tags=["Control"])
        router.add_api_route(
            "/kill", self.switches, summary="The kill switches and who changed them", responses=documented(401, 503)
        )
        router.add_api_route(
            "/kill",
            self.kill,
            methods=["POST"],
            summary="Engage a kill switch: at once, on every replica, until a person arms it",
            openapi_extra=_KILL,
            responses=_KILLED | documented(400, 401, 403, 409, 413, 415, 503),
        )
        router.add_api_route(
            "/arm",
            self.arm,
            methods=["POST"],
            summary="Let trade again, in two steps",
            openapi_extra=_ARM,
            responses=_FIRST_STEP | documented(400, 401, 403, 409, 413, 415, 503),
        )
        router.add_api_route(
            "/flatten",
            self.flatten,
            methods=["POST"],
            summary="Close all that is held within a scope, by ordinary exits",
            openapi_extra=_FLATTEN,
            responses=documented(400, 401, 403, 409, 413, 415, 503),
        )
        router.add_api_route(
            "/stances",
            self.stances,
            summary="How urgently plans are carried out, and who said so",
            responses=documented(401, 503),
        )
        router.add_api_route(
            "/stance",
            self.stance,
            methods=["POST"],
            summary="Say how urgently plans are carried out from now on",
            openapi_extra=_STANCE,
            responses=documented(400, 401, 403, 409, 413, 415, 503),
        )
        router.add_api_route(
            "/limits", self.limits, summary="How near each limit of risk is", responses=documented(401, 503)
        )
        router.add_api_route(
            "/limits/enable",
            self.enable,
            methods=["POST"],
            summary="Let trade again what a broken limit has switched off",
            openapi_extra=_ENABLE,
            responses=documented(400, 401, 403, 413, 415, 503),
        )
        router.add_api_route(
            "/limits/rebase",
            self.rebase,
            methods=["POST"],
            summary="Measure losses and drawdowns from the next readings on",
            openapi_extra=_REBASE,
            responses=documented(400, 401, 403, 413, 415, 503),
        )
        return router

    async def switches(self, request: Request) -> Response:
        """Every switch that was ever engaged. One that cannot be read counts as engaged."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request)
        return await self._recent.answer(request, self._switches())

    async def _switches(self) -> Body:
        kept = await self._store.switches()
        return Body(lambda: {"switches": [switch_fields(each) for each in kept]})

    async def stances(self, request: Request) -> Response:
        """Every stance that was ever set; `counts` is what counts of it now. Where one cannot be read only reductions pass."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request)
        return await self._recent.answer(request, self._stances())

    async def _stances(self) -> Body:
        kept, now = await self._store.stances(), self._clock.now()
        return Body(
            lambda: {
                "stances": [stance_fields(record, now) for record in kept.records],
                "unreadable": [str(scope) for scope in kept.doubtful],
            }
        )

    async def stance(self, request: Request) -> Response:
        """Answered when it is durably set, and in an EMERGENCY when the working entries were asked to end. HALT engages the kill switch of the scope
        at halt. EMERGENCY and HALT are for operators, the rest for administrators, since it may let trade again."""
        caller = await self._access.caller(request, Role.OPERATOR)
        fields = await fields_of(request, "scope", "stance", "by", "reason", "until")
        word = str(fields.get("stance") or "").strip().upper()
        if word not in (HALT, Aggressiveness.EMERGENCY.value):
            await self._access.caller(request, Role.ADMIN)
        by = fields.get("by")
        body = {
            "scope": fields.get("scope"),
            "stance": word,
            "by": named(caller, by.strip() if isinstance(by, str) and by.strip() else None),
            "reason": fields.get("reason"),
            "until": fields.get("until"),
        }
        return done(await self._calls.carried_out(request, Kind.STANCE, body))

    async def limits(self, request: Request) -> Response:
        """Of limits that compare more than one order, those that bind; and what is off until a named person enables it again."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request)
        return await self._recent.answer(request, self._limits())

    async def _limits(self) -> Body:
        found = await limit_uses(self._store, self._rules.limits, self._rules.zones, self._clock.now())
        return Body(lambda: _uses_shown(found))

    async def enable(self, request: Request) -> Response:
        """Ends what is off until a person enables it, within the scope, in every account; `enabled` is how many limits that were. People are told
        who did it and why."""
        return await self._decided(request, "enabled", enable_again)

    async def rebase(self, request: Request) -> Response:
        """For money that was paid in or out, once the broker's balance shows it: with the next reading losses from before are over. What was counted
        is kept, and what is off until enabled stays off. `rebased` is in how many accounts that has changed something. People are told who did it
        and why."""
        return await self._decided(request, "rebased", rebase)

    async def _decided(self, request: Request, counted_as: str, decide: Decides) -> Response:
        caller = await self._access.caller(request, Role.ADMIN)
        fields = await fields_of(request, "scope", "person", "reason")
        person, reason_given = named_person(caller, fields), required_text(fields, "reason")
        scope = scope_of_call(fields)
        now, zones = self._clock.now(), self._rules.zones
        count = await decide(self._store, scope, by=person, reason=reason_given, now=now, zones=zones)
        return done({"scope": str(scope), counted_as: count})

    async def kill(self, request: Request) -> Response:
        """Answered when the switch is durably engaged; with `cancel_entries` when the cancels were confirmed, or after four seconds."""
        caller = await self._access.caller(request, Role.OPERATOR)
        fields = await fields_of(request, "scope", "level", "reason", "by", "cancel_entries")
        if not isinstance(fields.get("cancel_entries", False), bool):
            words = "cancel_entries has to be true or false"
            raise Problem(400, "invalid-request", words, reasons=[reason("INVALID_REQUEST", words)])
        by = fields.get("by")  # whoever stops is not turned away for want of a name or of words
        body = {
            "scope": fields.get("scope"),
            "level": fields.get("level", KillLevel.REDUCE_ONLY.value),
            "by": named(caller, by.strip() if isinstance(by, str) and by.strip() else None),
            "reason": fields.get("reason"),
            "cancel_entries": fields.get("cancel_entries", False),
        }
        command = self._calls.command(request, Kind.KILL, body)
        asked = read_request(command)
        if isinstance(asked, Refused):
            raise refused_problem(asked, command, status=400)
        assert isinstance(asked, Kill)
        result = await self._calls.give(command, COUNTED_WITHIN_SECONDS)
        if isinstance(result, Refused):
            raise refused_problem(result, command)
        if isinstance(result, Done):
            return done(json.loads(result.words))
        # It is engaged, and the cancels take longer.
        kept = await self._store.switches()
        record = next(
            (each for each in kept if isinstance(each, SwitchRecord) and each.switch.scope == asked.scope), None
        )
        if record is None:
            raise Problem(
                503,
                "not-known",
                "stored; whether the switch is engaged yet is not known",
                command_id=command.command_id,
            )
        answer = killed_answer(record, asked, len(await working_entries(self._store, asked.scope)))
        return done(json.loads(answer.words) | {"command_id": command.command_id}, status=202)

    async def arm(self, request: Request) -> Response:
        """202 with `nonce` and `not_before`; then the same again with that nonce, not before that moment and by the same person: 200."""
        caller = await self._access.caller(request, Role.ADMIN)
        fields = await fields_of(request, "scope", "person", "reason", "nonce")
        body = {
            "scope": fields.get("scope"),
            "person": optional_text(fields, "person") or token_name(caller),
            "reason": fields.get("reason"),
            "nonce": fields.get("nonce"),
        }
        told = await self._calls.carried_out(request, Kind.ARM, body)
        return done(told, status=202 if body["nonce"] is None else 200)

    async def flatten(self, request: Request) -> Response:
        """Answered when the exits are durably ours, with each of them, and with what is left out and why. Working entries are not cancelled: kill
        with `cancel_entries` before."""
        caller = await self._access.caller(request, Role.ADMIN)
        fields = await fields_of(request, "scope", "person", "reason")
        body = {
            "scope": fields.get("scope"),
            "person": optional_text(fields, "person") or token_name(caller),
            "reason": fields.get("reason"),
        }
        return done(await self._calls.carried_out(request, Kind.FLATTEN, body))


def _uses_shown(found: LimitUses) -> Mapping[str, Any]:
    return {
        "limits": [
            {
                **use_fields(usage),
                "limit_type": usage.limit_type.value,
                "is_near": usage.is_near,
                "written_in": str(usage.table) if usage.is_written else "built in",
            }
            for usage in found.usages
        ],
        "off_until_enabled": [
            {
                "account_id": broken.account_id,
                "limit_type": broken.trip.limit,
                "scope": str(broken.trip.scope),
                "since": broken.trip.at,
            }
            for broken in found.broken
        ],
    }


# --- described ------------------------------------------------------------------------------------------------------

_ONE_SCOPE = r"(account|strategy|symbol):[A-Za-z0-9._-]+"
_SCOPE_PATTERN = rf"^(all|{_ONE_SCOPE}(\+{_ONE_SCOPE})*)$"
_SCOPE = {
    "type": "string",
    "pattern": _SCOPE_PATTERN,
    "description": "all, account:ID, strategy:NAME, symbol:SYMBOL, or some joined by +",
}
_TEXT = {"type": "string", "minLength": 1}


def _body(required: list[str], properties: Mapping[str, Any], example: Mapping[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": dict(properties), "additionalProperties": False}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": dict(example)}},
        }
    }


_KILL = _body(
    ["scope"],
    {
        "scope": _SCOPE,
        "level": {"type": "string", "enum": [level.value for level in KillLevel], "default": "reduce_only"},
        "reason": {"description": "Why, as text; nobody is turned away for want of it"},
        "by": {"description": "Who says so, as text; the token's name is added"},
        "cancel_entries": {"type": "boolean", "default": False},
    },
    {"scope": "all", "level": "reduce_only", "reason": "the model runs away", "cancel_entries": True},
)
_ARM = _body(
    ["scope", "reason"],
    {
        "scope": _SCOPE,
        "person": {"type": "string", "description": "Who answers for it; the token's name unless told"},
        "reason": _TEXT,
        "nonce": {"type": ["string", "null"], "description": "For the second step: what the first was answered with"},
    },
    {"scope": "all", "person": "Ada", "reason": "the model is mended"},
)
_STANCE = _body(
    ["scope", "stance"],
    {
        "scope": _SCOPE,
        "stance": {"type": "string", "enum": [*(each.value for each in Aggressiveness), HALT]},
        "by": {"description": "Who says so, as text; the token's name is added"},
        "reason": {"description": "Why, as text; only EMERGENCY and HALT need none"},
        "until": {"type": ["string", "null"], "format": "date-time", "description": "When it ends by itself"},
    },
    {"scope": "account:DU000001", "stance": "EMERGENCY", "by": "Ada", "reason": "the market gaps"},
)
_FLATTEN = _body(
    ["scope", "reason"],
    {"scope": _SCOPE, "person": {"type": "string"}, "reason": _TEXT},
    {"scope": "account:DU000001", "person": "Ada", "reason": "we leave this market"},
)


def _decision(because: str) -> dict[str, Any]:
    """What a named person decides for a scope."""
    return _body(
        ["scope", "reason"],
        {
            "scope": _SCOPE,
            "person": {"type": "string", "description": "Who decided; the token's name is added"},
            "reason": _TEXT,
        },
        {"scope": "account:DU000001", "person": "Ada", "reason": because},
    )


_ENABLE = _decision("the feed is mended")
_REBASE = _decision("200 were paid out")
_FIRST_STEP: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "The first step is made: the same again with this nonce, not before that moment",
        "content": {
            "application/json": {"example": {"nonce": "64e00de58427", "not_before": "2026-01-02T03:05:05.678+00:00"}}
        },
    }
}
_KILLED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The switch is engaged, for every order that has not left",
        "content": {
            "application/json": {
                "example": {
                    "version": 1,
                    "scope": "all",
                    "level": "reduce_only",
                    "engaged_at": "2026-01-02T03:04:05.678+00:00",
                    "working_entries": 2,
                    "cancels_asked": 2,
                    "cancels_confirmed": 1,
                    "cancels_unknown": 1,
                }
            }
        },
    },
    202: {"description": "The switch is engaged; what came of the cancels is not known yet"},
}
