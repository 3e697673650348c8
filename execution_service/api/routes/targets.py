"""Target positions over HTTP: planned and worked, or with `dry_run` only shown."""

from __future__ import annotations

import json
import secrets
from hashlib import sha256

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access
from execution_service.api.answers import done, known_query
from execution_service.api.problems import Problem, documented, reason
from execution_service.control.commands import Commands
from execution_service.control.requests import Kind, read_request
from execution_service.control.results import Done, Refused
from execution_service.core.messages.fields import UnreadableMessage, text_of
from execution_service.core.texts.values import plain
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.commands import Command
from execution_service.storage.ports.tokens import Role


class TargetRoutes:
    """The same verb that the topic `target-positions` and `execctl plan` call."""

    def __init__(self, *, access: Access, commands: Commands, clock: Clock) -> None:
        self._access = access
        self._commands = commands
        self._clock = clock

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/execution", tags=["Targets"])
        router.add_api_route(
            "/targets",
            self.plan,
            methods=["POST"],
            summary="Plan target positions and work them; with dry_run=true show the orders and place none",
            openapi_extra=_TARGETS,
            responses=_ANSWERS | documented(400, 401, 403, 409, 413, 415, 503),
        )
        return router

    async def plan(self, request: Request) -> Response:
        """Answered when the plan is durably ours, before its first order. The same decision again is answered with its stored plan. 202: orders of
        the plan before it are being cancelled, and it is planned as soon as they have ended."""
        await self._access.caller(request, Role.OPERATOR)
        known_query(request, "dry_run")
        told = request.query_params.get("dry_run", "false")
        if told not in ("true", "false"):
            words = "dry_run has to be true or false"
            raise Problem(400, "invalid-query", words, reasons=[reason("INVALID_REQUEST", words)])
        try:
            text = text_of(await request.body())
        except UnreadableMessage as exc:
            raise Problem(400, "unreadable", str(exc), reasons=[reason("INVALID_REQUEST", str(exc))]) from exc
        command = self._command(request, text, is_dry=told == "true")
        asked = read_request(command)
        if isinstance(asked, Refused):
            raise _refused(asked, command, 400, "INVALID_REQUEST")
        result = await self._commands.give(command)
        if isinstance(result, Refused):
            raise _refused(result, command, 409, "REFUSED")
        if not isinstance(result, Done):
            return done({"state": "PENDING", "command_id": command.command_id}, status=202)
        return done(json.loads(result.words))

    def _command(self, request: Request, text: str, *, is_dry: bool) -> Command:
        """With an `Idempotency-Key` the same command, however often the call is repeated."""
        key, now = request.headers.get("idempotency-key"), self._clock.now()
        body = {"targets": text, "dry_run": is_dry}
        mark = secrets.token_hex(8)
        if key is not None:
            mark = sha256(f"{is_dry}\n{key}\n{text}".encode("utf-8", "replace")).hexdigest()[:24]
        return Command(command_id=f"api-{mark}", kind=Kind.PLAN, body=body, published_at=now, received_at=now)


def _refused(result: Refused, command: Command, status: int, code: str) -> Problem:
    words = plain(result.words)
    kind = "invalid-request" if status == 400 else "refused"
    reasons = [reason(code, each) for each in words.split("; ")]
    return Problem(status, kind, words, reasons=reasons, command_id=command.command_id)


# --- described ------------------------------------------------------------------------------------------------------

_TEXT = {"type": "string", "minLength": 1}
_NUMBER = {"type": ["number", "string"], "description": "Signed; exact decimals as text"}
_TARGETS = {
    "parameters": [
        {"name": "dry_run", "in": "query", "required": False, "schema": {"type": "boolean", "default": False}},
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["decision_id", "account_id", "strategy_id", "as_of", "mode", "targets"],
                    "additionalProperties": False,
                    "properties": {
                        "decision_id": _TEXT,
                        "account_id": _TEXT,
                        "strategy_id": _TEXT,
                        "as_of": {"type": "string", "format": "date-time"},
                        "mode": {"type": "string", "enum": ["PRODUCTION", "TRAINING"]},
                        "targets": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["symbol"],
                                "properties": {"symbol": _TEXT, "quantity": _NUMBER, "weight": _NUMBER},
                            },
                        },
                        "complete": {"type": "boolean", "default": False},
                        "allow_flatten": {"type": "boolean", "default": False},
                        "aggressiveness": {
                            "type": "string",
                            "enum": ["PASSIVE", "NORMAL", "URGENT", "EMERGENCY"],
                            "default": "NORMAL",
                        },
                        "on_partial": {
                            "type": ["string", "null"],
                            "pattern": "^(REPORT|UNWIND|RETRY ([1-9]|10))$",
                            "description": "What follows when it ends short; null: what the account's settings say",
                        },
                        "valid_until": {"type": ["string", "null"], "format": "date-time"},
                        "profile_version_id": {"type": ["string", "null"]},
                        "regime_id": {"type": ["string", "null"]},
                        "universe_id": {"type": ["string", "null"]},
                        "expected_positions": {"type": ["array", "null"], "items": {"type": "object"}},
                    },
                },
                "example": {
                    "decision_id": "2026-11-30-close",
                    "account_id": "DU000001",
                    "strategy_id": "momentum",
                    "as_of": "2026-11-30T21:00:00Z",
                    "mode": "PRODUCTION",
                    "targets": [{"symbol": "AAPL", "quantity": 100}, {"symbol": "MSFT", "quantity": 0}],
                },
            }
        },
    },
}
_ANSWERS: dict[int | str, dict[str, object]] = {
    200: {"description": "The stored plan, or with dry_run what it would be"},
    202: {"description": "Stored; orders of the plan before it have to end first"},
}
