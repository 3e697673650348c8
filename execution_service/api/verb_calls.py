"""A verb that is called over HTTP: read strictly, given as a stored command, and answered when it is carried out or when that takes too long."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from starlette.requests import Request

from execution_service.api.access import Caller
from execution_service.api.problems import Problem, reason
from execution_service.control.commands import Commands
from execution_service.control.requests import LONGEST_REMARK, LONGEST_SCOPE, Kind, read_request
from execution_service.control.results import Done, Refused
from execution_service.core.messages.fields import RepeatedNames, UnreadableMessage, object_of, shown, text_of
from execution_service.core.risk.kill import scope_from_text
from execution_service.core.risk.limits import Scope
from execution_service.core.texts.values import plain
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.commands import Command, CommandStatus, CommandStore

LOOK_SECONDS = 0.1
WAITED_SECONDS = 4.0
"""So long a verb that takes its time is waited for, unless its route says otherwise."""


class VerbCalls:
    """Gives commands and waits for what comes of them, in this process or in another."""

    def __init__(self, *, commands: Commands, store: CommandStore, clock: Clock) -> None:
        self._commands = commands
        self._store = store
        self._clock = clock

    def command(self, request: Request, kind: Kind, body: Mapping[str, object]) -> Command:
        """With an `Idempotency-Key` the same command, however often the call is repeated with that body."""
        key, now = request.headers.get("idempotency-key"), self._clock.now()
        told = f"{kind}\n{json.dumps(body, sort_keys=True, default=str)}\n{key}"
        mark = secrets.token_hex(8) if key is None else sha256(told.encode("utf-8", "replace")).hexdigest()[:24]
        return Command(command_id=f"api-{mark}", kind=kind, body=body, published_at=now, received_at=now)

    async def give(self, command: Command, within_seconds: float = WAITED_SECONDS) -> Done | Refused | None:
        """What came of it; None: it is stored, and not carried out yet. Raises StoreUnavailable: it may have been stored."""
        result = await self._commands.give(command)
        if isinstance(result, Done | Refused):
            return result
        end = self._clock.monotonic() + within_seconds
        while True:
            kept = await self.stored(command)
            if kept.status is not CommandStatus.NEW:
                return Done(kept.outcome) if kept.status is CommandStatus.DONE else Refused(kept.outcome)
            if self._clock.monotonic() >= end:
                return None
            await self._clock.sleep(LOOK_SECONDS)

    async def stored(self, command: Command) -> Command:
        """As it stands in the store now. Raises StoreUnavailable."""
        return await self._store.command(command.command_id) or command

    async def carried_out(self, request: Request, kind: Kind, body: Mapping[str, object]) -> Mapping[str, Any]:
        """Of a verb whose words are a JSON object: that object. Raises Problem, StoreUnavailable."""
        command = self.command(request, kind, body)
        asked = read_request(command)
        if isinstance(asked, Refused):
            raise refused_problem(asked, command, status=400)
        result = await self.give(command)
        if isinstance(result, Refused):
            raise refused_problem(result, command)
        if result is None:
            raise Problem(503, "not-known", "stored, and not carried out yet", command_id=command.command_id)
        told: Mapping[str, Any] = json.loads(result.words)
        return told


# --- what a call says -----------------------------------------------------------------------------------------------


async def fields_of(request: Request, *known: str, is_body_needed: bool = True) -> Mapping[str, Any]:
    """Of the body. Raises Problem, also for a field that nobody reads."""
    body = await request.body()
    if not (is_body_needed or body.strip()):
        return {}
    try:
        fields = object_of(text_of(body))
    except UnreadableMessage as exc:
        raise Problem(400, "unreadable", str(exc), reasons=[reason("INVALID_REQUEST", str(exc))]) from exc
    if isinstance(fields, RepeatedNames):
        raise invalid_request(f"{', '.join(map(shown, fields.names[:10]))} stands more than once in the call")
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise invalid_request(
            f"{plain(', '.join(unknown))[:200]} is not asked for here; known: {', '.join(known) or 'none'}"
        )
    return fields


def invalid_request(words: str) -> Problem:
    return Problem(400, "invalid-request", words, reasons=[reason("INVALID_REQUEST", words)])


def optional_text(fields: Mapping[str, Any], name: str) -> str | None:
    """None: it is absent, or null. Raises Problem for what is no text, blank, not on one line, or too long."""
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is not str or len(value) > LONGEST_REMARK or not (value.strip() and value.isprintable()):
        raise invalid_request(f"{name} has to be a text of at most {LONGEST_REMARK} characters, on one line")
    return value.strip()


def required_text(fields: Mapping[str, Any], name: str) -> str:
    """Raises Problem."""
    text = optional_text(fields, name)
    if text is None:
        raise invalid_request(f"{name} is missing: the record keeps it")
    return text


def scope_of_call(fields: Mapping[str, Any]) -> Scope:
    """Raises Problem."""
    text = required_text(fields, "scope")
    if len(text) > LONGEST_SCOPE:
        raise invalid_request(f"scope has more than {LONGEST_SCOPE} characters")
    try:
        return scope_from_text("all" if text.casefold() == "all" else text)
    except ValueError as exc:
        raise invalid_request(plain(str(exc))) from exc


# --- who calls ------------------------------------------------------------------------------------------------------


def token_name(caller: Caller) -> str | None:
    """None where nobody had to say who they are: then a person must be named."""
    return None if caller.name == "local" else caller.name


def named(caller: Caller, by: str | None) -> str:
    """For the record: whom the call names, and whose token it has."""
    return f"API ({caller.name})" if by is None else f"{by} (API, {caller.name})"


def named_person(caller: Caller, fields: Mapping[str, Any]) -> str:
    """Who answers for it: `person`, with the token's name beside it, or the token's holder. Raises Problem where nobody is named."""
    person = optional_text(fields, "person")
    if person is None and token_name(caller) is None:
        raise invalid_request("person is missing: the record keeps who decided")
    return named(caller, person)


def refused_problem(result: Refused, command: Command, *, status: int = 409) -> Problem:
    """400: the call asks for nothing that there is; 409: what it asks for may not be, and why."""
    words = plain(result.words)
    kind = "invalid-request" if status == 400 else "refused"
    code = "INVALID_REQUEST" if status == 400 else "REFUSED"
    return Problem(status, kind, words, reasons=[reason(code, words)], command_id=command.command_id)
