"""What may be asked of the service, a typed value for each verb, and how each is read from a stored command; whoever asks stores a command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

from execution_service.control.results import Refused
from execution_service.core.adoption.records import AdoptionRequest, Plan, read_adoption_request
from execution_service.core.adoption.records import Refused as Unreadable
from execution_service.core.errors import UnreadableRecord
from execution_service.core.messages.inbound import CancelCommand
from execution_service.core.orders.cancel import Cancel
from execution_service.core.orders.status import Reason, ReasonCode
from execution_service.core.views.record import plan_from_document
from execution_service.storage.ports.commands import Command

MESSAGE = "msg-"
"""What the ids of commands begin with that came by Pub/Sub."""
REQUESTED_BY = "order-commands"
"""Who asked for a cancel, where the command does not say it."""


class Kind(StrEnum):
    """The verbs, as the stored commands name them."""

    CANCEL = "CANCEL"
    RESOLVE = "RESOLVE"
    REPLAY = "REPLAY"
    RECONCILE = "RECONCILE"
    POSITIONS = "POSITIONS"
    ADOPT = "ADOPT"


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


Request: TypeAlias = Cancel | Resolution | Replay | Comparison | PositionsQuestion | Adoption | UndoneAdoption


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
    return Refused(f"{command.kind!r} is not a command of this service")


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
