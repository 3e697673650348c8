"""What may be asked of the service, a typed value for each verb, and how each is read from a stored command; whoever asks stores a command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeAlias

from execution_service.control.results import Refused
from execution_service.core.adoption.records import AdoptionRequest, Plan, read_adoption_request
from execution_service.core.adoption.records import Refused as Unreadable
from execution_service.core.errors import UnreadableRecord
from execution_service.core.messages.inbound import ArmCommand, CancelCommand, KillCommand, StanceCommand
from execution_service.core.messages.targets import UnusableTargets, parse_targets
from execution_service.core.orders.cancel import Cancel
from execution_service.core.orders.status import Reason, ReasonCode
from execution_service.core.planning.stances import HALT
from execution_service.core.planning.targets import Aggressiveness, TargetPositions
from execution_service.core.risk.kill import KillLevel, scope_from_text
from execution_service.core.risk.limits import Scope
from execution_service.core.views.record import plan_from_document
from execution_service.storage.ports.commands import Command

MESSAGE = "msg-"
"""What the ids of commands begin with that came by Pub/Sub."""
REQUESTED_BY = "order-commands"
"""Who asked for a cancel or a kill, where the command does not say it."""
LONGEST_SCOPE, LONGEST_REMARK = 300, 500
MOST_PROBLEMS = 50
ALLOWED_SECONDS, LONGEST_ALLOWED_SECONDS = 300, 86_400
"""How long an order may be let through past its limits, where nothing is said, and at most."""


class Kind(StrEnum):
    """The verbs, as the stored commands name them."""

    CANCEL = "CANCEL"
    RESOLVE = "RESOLVE"
    REPLAY = "REPLAY"
    RECONCILE = "RECONCILE"
    POSITIONS = "POSITIONS"
    ADOPT = "ADOPT"
    KILL = "KILL"
    ARM = "ARM"
    FLATTEN = "FLATTEN"
    ALLOW = "ALLOW"
    PLAN = "PLAN"
    STANCE = "STANCE"


class Decision(StrEnum):
    """What a person decides about an order of which it is not known what became of it."""

    NOT_PLACED = "not-placed"
    CANCELLED = "cancelled"
    SEND_AGAIN = "send-again"
    PLACED = "placed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A person's decision about one order."""

    order_id: str
    """Ours."""
    decision: Decision
    by: str
    note: str
    broker_order_id: str
    """The broker's id of an order that was placed; empty otherwise."""
    decided_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A message that could not be taken for an order is to be taken once more."""

    command_id: str
    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An account's books are to be compared with its broker's now."""

    command_id: str
    account_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionsQuestion:
    """Somebody waits to be shown what an account holds by its broker."""

    account_id: str
    asked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """The book is to follow a position that changed past this service."""

    command_id: str
    account_id: str
    wish: AdoptionRequest
    shown: Plan
    """What the person was shown would be done, and agreed to."""
    text: str
    """The wish as it was given, for the record."""
    asked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoneAdoption:
    """An adoption is to be taken back."""

    command_id: str
    account_id: str
    adoption_id: str
    by: str
    reason: str
    shown: Plan
    """What the person was shown would be done, and agreed to."""
    is_forced: bool
    asked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A kill switch is to be engaged."""

    command_id: str
    scope: Scope
    level: KillLevel
    by: str
    reason: str
    cancel_entries: bool
    """Entries within the scope that work at the broker are to be cancelled."""
    asked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A kill switch is to let trade again, in two steps."""

    command_id: str
    scope: Scope
    person: str
    reason: str
    nonce: str | None
    """That the first step was answered with; None: this is the first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flatten:
    """Everything that is held within the scope is to be closed, by ordinary exits."""

    command_id: str
    scope: Scope
    person: str
    reason: str
    asked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """An order of the same content as one that limits of risk refused is to be let through, once."""

    command_id: str
    order_id: str
    """Of the refused order: ours, upstream's, or its signal's."""
    person: str
    reason: str
    seconds: int
    """So long after it was asked for."""
    asked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """Positions that an account's strategy is to hold."""

    command_id: str
    targets: TargetPositions
    is_dry: bool
    """It is only to be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StanceRequest:
    """How urgently plans within a scope are to be carried out from now on."""

    command_id: str
    scope: Scope
    stance: Aggressiveness
    by: str
    reason: str
    until: datetime | None
    """None: until somebody says otherwise."""
    asked_at: datetime
    """When it was said: a wish that comes later than one said after it is not carried out."""


Request: TypeAlias = (
    Cancel
    | Resolution
    | Replay
    | Comparison
    | PositionsQuestion
    | Adoption
    | UndoneAdoption
    | Kill
    | Arm
    | Flatten
    | Allow
    | PlanRequest
    | StanceRequest
)


def cancel_body(cancel: CancelCommand) -> dict[str, object]:
    """A cancel that came as a message, as the body of the command that is stored for it."""
    return {
        "order_id": cancel.order_id,
        "signal_id": cancel.signal_id,
        "leg_index": cancel.leg_index,
        "reason": cancel.reason,
    }


def read_request(command: Command) -> Request | Refused:
    """What a stored command asks for; Refused, with what is wrong, where it asks for nothing that there is."""
    if not isinstance(command.body, Mapping):
        return Refused(f"its body is {str(command.body)[:200]!r}")
    match command.kind:
        case Kind.CANCEL:
            return _cancel(command)
        case Kind.RESOLVE:
            return _resolution(command)
        case Kind.REPLAY:
            return Replay(command_id=command.command_id, message_id=str(command.body.get("message_id")))
        case Kind.RECONCILE:
            return Comparison(command_id=command.command_id, account_id=_account_id(command))
        case Kind.POSITIONS:
            return PositionsQuestion(account_id=_account_id(command), asked_at=command.received_at)
        case Kind.ADOPT:
            return _undone_adoption(command) if "undo" in command.body else _adoption(command)
        case Kind.KILL:
            return _kill(command)
        case Kind.ARM:
            return _arm(command)
        case Kind.FLATTEN:
            return _flatten(command)
        case Kind.ALLOW:
            return _allow(command)
        case Kind.PLAN:
            return _plan(command)
        case Kind.STANCE:
            return _stance(command)
    return Refused(f"{command.kind!r} is not a command of this service")


def kill_body(kill: KillCommand) -> dict[str, object]:
    """A kill that came as a message, as the body of the command that is stored for it."""
    return {
        "scope": kill.scope,
        "level": kill.level,
        "by": kill.by,
        "reason": kill.reason,
        "cancel_entries": kill.cancel_entries,
    }


def arm_body(arm: ArmCommand) -> dict[str, object]:
    """Likewise of a step of arming."""
    return {"scope": arm.scope, "person": arm.person, "reason": arm.reason, "nonce": arm.nonce}


def stance_body(stance: StanceCommand) -> dict[str, object]:
    """Likewise of a stance that is to be set."""
    return {
        "scope": stance.scope,
        "stance": stance.stance,
        "by": stance.by,
        "reason": stance.reason,
        "until": stance.until,
    }


def read_cancel(command: Command) -> Cancel | None:
    """None: it is another command, or one that would be refused."""
    request = read_request(command)
    return request if isinstance(request, Cancel) else None


def _account_id(command: Command) -> str:
    return str(command.body.get("account_id"))


def _cancel(command: Command) -> Cancel | Refused:
    body = command.body
    order_id, signal_id, leg_index = (body.get(name) for name in ("order_id", "signal_id", "leg_index"))
    name = signal_id if order_id is None else order_id
    if not isinstance(name, str):
        return Refused(f"it names no order and no signal: {name!r}")
    if isinstance(leg_index, float) and leg_index.is_integer():
        leg_index = int(leg_index)  # a shell of the database writes every number so
    is_leg = isinstance(leg_index, int) and not isinstance(leg_index, bool)
    if not (is_leg or leg_index is None or order_id is not None):
        return Refused(f"leg_index is {leg_index!r}, and no number of a leg")
    return Cancel(
        command_id=command.command_id,
        order_id=order_id,
        signal_id=signal_id if isinstance(signal_id, str) else None,
        leg_index=leg_index if is_leg else None,
        reason=Reason(ReasonCode.CANCEL_REQUESTED, str(body.get("reason") or "cancel requested")),
        requested_by=str(body.get("requested_by") or REQUESTED_BY),
        published_at=command.published_at,
        received_at=command.received_at,
        is_message=command.command_id.startswith(MESSAGE),
    )


def _scope(command: Command) -> Scope | Refused:
    text = command.body.get("scope")
    if not isinstance(text, str) or len(text) > LONGEST_SCOPE or not text.isprintable():
        return Refused(f"it names no scope: {str(text)[:200]!r}; all, account:ID, strategy:NAME or symbol:SYMBOL")
    try:
        return scope_from_text("all" if text.strip().casefold() == "all" else text.strip())
    except ValueError as exc:
        return Refused(str(exc))


def stop_all(command_id: str, *, by: str, reason: str, now: datetime) -> Command:
    """The command by which no person stops all new risk."""
    body = {
        "scope": str(Scope()),
        "level": KillLevel.REDUCE_ONLY.value,
        "by": by,
        "reason": reason,
        "cancel_entries": False,
    }
    return Command(command_id=command_id, kind=Kind.KILL, body=body, published_at=now, received_at=now)


def _one_line(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return "".join(letter if letter.isprintable() else " " for letter in text[:LONGEST_REMARK]).strip()


def _kill(command: Command) -> Kill | Refused:
    """Whoever stops is not turned away for want of a name or of words; a scope or a level that was guessed would stop somebody else, or too
    little."""
    scope, level = _scope(command), command.body.get("level")
    if isinstance(scope, Refused):
        return scope
    name = str(level).strip().lower().replace("-", "_").replace(" ", "_") if level else KillLevel.REDUCE_ONLY
    if name not in tuple(KillLevel):
        return Refused(f"unknown level {str(level)[:200]!r}; known: {', '.join(KillLevel)}")
    return Kill(
        command_id=command.command_id,
        scope=scope,
        level=KillLevel(name),
        by=_one_line(command.body.get("by")) or (REQUESTED_BY if command.command_id.startswith(MESSAGE) else "?"),
        reason=_one_line(command.body.get("reason")) or "(no reason given)",
        cancel_entries=command.body.get("cancel_entries") is True,
        asked_at=command.received_at,
    )


def _arm(command: Command) -> Arm | Refused:
    scope, nonce = _scope(command), command.body.get("nonce")
    if isinstance(scope, Refused):
        return scope
    if nonce is not None and not (isinstance(nonce, str) and nonce):
        return Refused("the nonce is no text")
    return Arm(
        command_id=command.command_id,
        scope=scope,
        person=_one_line(command.body.get("person")),
        reason=_one_line(command.body.get("reason")),
        nonce=nonce,
    )


def _flatten(command: Command) -> Flatten | Refused:
    scope = _scope(command)
    if isinstance(scope, Refused):
        return scope
    return Flatten(
        command_id=command.command_id,
        scope=scope,
        person=_one_line(command.body.get("person")),
        reason=_one_line(command.body.get("reason")),
        asked_at=command.received_at,
    )


def _allow(command: Command) -> Allow | Refused:
    name, seconds = command.body.get("order_id"), command.body.get("seconds", ALLOWED_SECONDS)
    if not (isinstance(name, str) and name.strip()):
        return Refused("it names no order")
    if isinstance(seconds, float) and seconds.is_integer():
        seconds = int(seconds)  # a shell of the database writes every number so
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not 0 < seconds <= LONGEST_ALLOWED_SECONDS:
        return Refused(f"for {str(seconds)[:100]} s; allowed: a whole number from 1 to {LONGEST_ALLOWED_SECONDS}")
    return Allow(
        command_id=command.command_id,
        order_id=name.strip(),
        person=_one_line(command.body.get("person")),
        reason=_one_line(command.body.get("reason")),
        seconds=seconds,
        asked_at=command.received_at,
    )


def _plan(command: Command) -> PlanRequest | Refused:
    text = command.body.get("targets")
    read = parse_targets(text) if isinstance(text, str) else UnusableTargets(("it has no list of targets",))
    if isinstance(read, UnusableTargets):
        return Refused("; ".join(read.problems[:MOST_PROBLEMS]))
    return PlanRequest(command_id=command.command_id, targets=read, is_dry=command.body.get("dry_run") is True)


def _stance(command: Command) -> StanceRequest | Kill | Refused:
    """HALT is a kill: there is one thing that stops everything."""
    scope, word = _scope(command), str(command.body.get("stance") or "").strip().upper()
    if isinstance(scope, Refused):
        return scope
    by, reason = _one_line(command.body.get("by")), _one_line(command.body.get("reason"))
    if word == HALT:
        return Kill(
            command_id=command.command_id,
            scope=scope,
            level=KillLevel.HALT,
            by=by or "?",
            reason=reason or "(no reason given)",
            cancel_entries=True,
            asked_at=command.received_at,
        )
    if word not in tuple(Aggressiveness):
        return Refused(f"unknown stance {word[:80]!r}; known: {', '.join(Aggressiveness)}, {HALT}")
    until = command.body.get("until")
    try:
        ends = datetime.fromisoformat(until) if isinstance(until, str) else None
        ends = None if ends is None or ends.tzinfo is None else ends.astimezone(UTC)
    except (ValueError, OverflowError):  # the end of the last year, in a zone behind
        ends = None
    if until is not None and ends is None:
        return Refused(f"until is {str(until)[:80]!r}, and no time in ISO 8601 with Z or an offset")
    return StanceRequest(
        command_id=command.command_id,
        scope=scope,
        stance=Aggressiveness(word),
        by=by,
        reason=reason,
        until=ends,
        asked_at=command.published_at,
    )


def _resolution(command: Command) -> Resolution | Refused:
    body = command.body
    chosen = body.get("decision")
    if chosen not in tuple(Decision):
        return Refused(f"unknown decision {chosen!r}; known: {', '.join(Decision)}")
    if chosen == Decision.PLACED and not body.get("broker_order_id"):
        return Refused("it does not say under which id the broker has the order: broker_order_id is missing")
    return Resolution(
        order_id=str(body.get("order_id")),
        decision=Decision(chosen),
        by=str(body.get("by", "?")),
        note=str(body.get("note", "")),
        broker_order_id=str(body.get("broker_order_id") or ""),
        decided_at=command.received_at,
    )


def _adoption(command: Command) -> Adoption | Refused:
    wish = read_adoption_request(command.body)
    if isinstance(wish, Unreadable):
        return Refused(wish.words)
    try:
        shown = plan_from_document(command.body["shown"])
    except (KeyError, UnreadableRecord) as exc:
        return Refused(f"it does not say what was shown of it: {exc}")
    return Adoption(
        command_id=command.command_id,
        account_id=_account_id(command),
        wish=wish,
        shown=shown,
        text=json.dumps({name: value for name, value in command.body.items() if name != "shown"}, default=str),
        asked_at=command.received_at,
    )


def _undone_adoption(command: Command) -> UndoneAdoption | Refused:
    body: Mapping[str, Any] = command.body
    name, by, reason = (str(body.get(each) or "").strip() for each in ("undo", "by", "reason"))
    if not (by and reason):
        return Refused("by and reason must not be blank: the record keeps them")
    try:
        shown = plan_from_document(body["shown"])
    except (KeyError, UnreadableRecord) as exc:
        return Refused(f"it does not say what was shown of it: {exc}")
    return UndoneAdoption(
        command_id=command.command_id,
        account_id=_account_id(command),
        adoption_id=name,
        by=by,
        reason=reason,
        shown=shown,
        is_forced=body.get("is_forced") is True,
        asked_at=command.received_at,
    )
