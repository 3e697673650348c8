"""Documents: records with what was told of them, commands, alerts, leases, dead letters, and writes of the shared collections; values in and out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from bson import Binary, ObjectId
from pymongo import UpdateOne

from execution_service.core.errors import UnreadableRecord
from execution_service.core.risk.kill import scope_from_text
from execution_service.core.risk.limits import Scope
from execution_service.core.risk.switch_record import record_from_document
from execution_service.core.views.record import Document, lines_from_document, order_from_document
from execution_service.core.views.shared import HexId
from execution_service.storage.ports.alerts import Alert
from execution_service.storage.ports.commands import Command, CommandStatus, DeadLetter
from execution_service.storage.ports.leases import Lease, ProcessIdentity
from execution_service.storage.ports.orders import PEOPLE, WORLD, Stored, Told
from execution_service.storage.ports.queries import PositionRow
from execution_service.storage.ports.switches import KeptSwitch, UnreadableSwitch
from execution_service.storage.ports.tokens import KeptToken, Role
from execution_service.storage.ports.views import ViewWrite


@contextlib.contextmanager
def _reading(kind: str, document: Mapping[str, Any]) -> Iterator[None]:
    """Whatever is not as it was written makes the document unreadable."""
    try:
        yield
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as exc:
        raise UnreadableRecord(f"{kind} {document.get('_id')!r}: {type(exc).__name__}: {exc}") from exc


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise TypeError(f"{value!r} is no length of time")
    return float(value)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):  # of a number `bytes` would make as many zeros
        raise TypeError(f"{value!r} is no bytes")
    return bytes(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def stored_from_document(document: Mapping[str, Any], lines: Any) -> Stored:
    """A record, with what its order has of its own in the ledger: `lines` as they are stored. Raises UnreadableRecord."""
    told = document.get("told")
    if not isinstance(told, Mapping) or not {WORLD, PEOPLE} <= told.keys() or not all(map(_is_count, told.values())):
        raise UnreadableRecord(f"order {document['_id']!r}: what was told of it is {told!r}")
    try:
        own = lines_from_document(lines)
    except UnreadableRecord as exc:
        raise UnreadableRecord(f"order {document['_id']!r}: {exc}") from exc
    order = order_from_document(document)
    if document["_id"] != order.order_id:
        # No write would ever reach it.
        raise UnreadableRecord(f"order {document['_id']!r}: it says that it is {order.order_id}")
    if document.get("version") != order.version:
        # No write would ever match it.
        raise UnreadableRecord(
            f"order {document['_id']!r}: version {document.get('version')!r} with {order.version} events"
        )
    if not all(0 <= number <= order.version for number in told.values()):
        # What came after it would never be told, or what came before it again.
        raise UnreadableRecord(f"order {document['_id']!r}: what was told of {order.version} events is {told!r}")
    others = {name: number for name, number in told.items() if name not in (WORLD, PEOPLE)}
    return Stored(order, Told(world=told[WORLD], people=told[PEOPLE], lines=own, others=others))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def command_to_document(command: Command) -> Document:
    return {
        "_id": command.command_id,
        "kind": command.kind,
        "body": dict(command.body),
        "published_at": command.published_at,
        "received_at": command.received_at,
        "status": command.status.value,
        "outcome": command.outcome,
        "active_until": command.active_until,
    }


def command_from_document(document: Mapping[str, Any]) -> Command:
    """Raises UnreadableRecord."""
    with _reading(_command_words(document), document):
        return Command(
            command_id=_text(document["_id"]),
            kind=_text(document["kind"]),
            body=document["body"],  # whoever carries it out refuses one that is none
            published_at=_utc(document["published_at"]),
            received_at=_utc(document["received_at"]),
            status=CommandStatus(document["status"]),
            outcome=_text(document["outcome"]),
            active_until=None if document["active_until"] is None else _utc(document["active_until"]),
        )


def _command_words(document: Mapping[str, Any]) -> str:
    """With what can be read of what it is about: a cancel that cannot be read ends no order, and a person has to."""
    body = document.get("body")
    named = [body.get(name) for name in ("order_id", "signal_id")] if isinstance(body, Mapping) else []
    about = next((f" of {name}" for name in named if isinstance(name, str)), "")
    kind = document.get("kind")
    return f"command {kind}{about}," if isinstance(kind, str) else f"command{about}"


def dead_letter_to_document(letter: DeadLetter) -> Document:
    return {
        "_id": letter.message_id,
        "message_id": letter.message_id,
        "payload": Binary(letter.payload),
        "text": letter.payload[:4096].decode("utf-8", "replace"),
        "reason": letter.reason,
        "publish_time": letter.publish_time,
        "attributes": [{"name": k, "value": v} for k, v in letter.attributes.items()],
        "received_at": letter.received_at,
    }


def dead_letter_from_document(document: Mapping[str, Any]) -> DeadLetter:
    """Raises UnreadableRecord."""
    with _reading("dead letter", document):
        return DeadLetter(
            message_id=_text(document["message_id"]),
            payload=_bytes(document["payload"]),
            reason=_text(document["reason"]),
            publish_time=_utc(document["publish_time"]),
            attributes={_text(a["name"]): _text(a["value"]) for a in document["attributes"]},
            received_at=_utc(document["received_at"]),
        )


def alert_from_document(document: Mapping[str, Any]) -> Alert:
    """Raises UnreadableRecord."""
    with _reading("alert", document):
        return Alert(
            alert_id=_text(document["_id"]),
            kind=_text(document["kind"]),
            text=_text(document["text"]),
            count=_count(document["count"]),
            first_at=_utc(document["first_at"]),
        )


def token_to_document(token: KeptToken) -> Document:
    fields = asdict(token)
    return {"_id": fields.pop("token_id"), **fields, "role": token.role.value}


def token_from_document(document: Mapping[str, Any]) -> KeptToken:
    """Raises UnreadableRecord."""
    with _reading("API token", document):
        expires_at, revoked_at = document["expires_at"], document["revoked_at"]
        return KeptToken(
            token_id=_text(document["_id"]),
            name=_text(document["name"]),
            role=Role(document["role"]),
            secret_sha256=_text(document["secret_sha256"]),
            created_at=_utc(document["created_at"]),
            expires_at=None if expires_at is None else _utc(expires_at),
            revoked_at=None if revoked_at is None else _utc(revoked_at),
        )


def position_row_from_document(document: Mapping[str, Any]) -> PositionRow:
    """Raises UnreadableRecord."""
    with _reading("position", document):
        document_id = _text(document["_id"])
        closed_at, average = document["closed_at"], document["avg_entry_price"]
        profit, currency = document["realized_pnl"], document.get("currency")
        return PositionRow(
            document_id=document_id,
            ledger_id=_text(document["ledger_id"]),
            episode=int(document_id.rpartition("_")[2]),
            account_id=_text(document["account_id"]),
            strategy=_text(document["strategy_name"]),
            symbol=_text(document["symbol"]),
            is_long=document["side"] == "LONG",
            is_open=document["status"] == "OPEN",
            quantity=float(document["quantity"]),
            average_price=None if average is None else float(average),
            realized_pnl=None if profit is None else float(profit),
            currency=None if currency is None else _text(currency),
            opened_at=_utc(document["opened_at"]),
            closed_at=None if closed_at is None else _utc(closed_at),
            shown_order_ids=tuple(map(_text, document["order_ids"])),
            order_count=_count(document["order_count"]),
        )


def lease_to_document(lease: Lease) -> Document:
    fields = asdict(lease)
    return {"_id": fields.pop("partition"), **fields}


def lease_from_document(document: Mapping[str, Any]) -> Lease:
    """Raises UnreadableRecord."""
    with _reading("lease", document):
        return Lease(
            partition=_text(document["_id"]),
            holder=_text(document["holder"]),
            epoch=_count(document["epoch"]),
            beat=_count(document["beat"]),
            term_seconds=_seconds(document["term_seconds"]),
            host=_text(document["host"]),
            pid=_count(document["pid"]),
            taken_at=_utc(document["taken_at"]),
            renewed_at=_utc(document["renewed_at"]),
            process=_process(document.get("process")),
        )


def _process(found: Any) -> ProcessIdentity | None:
    """None of what is no whole identity: then nothing can be proven by it, and the lease is as good as any."""
    if not isinstance(found, Mapping):
        return None
    names = (found.get("boot_id"), found.get("pid_namespace"), found.get("time_namespace"))
    pid, start_ticks = found.get("pid"), found.get("start_ticks")
    if not all(isinstance(name, str) for name in names) or not isinstance(pid, int) or not isinstance(start_ticks, int):
        return None
    boot_id, pid_namespace, time_namespace = map(str, names)
    if not boot_id or not pid_namespace or pid <= 0:
        return None
    return ProcessIdentity(
        boot_id=boot_id,
        pid_namespace=pid_namespace,
        time_namespace=time_namespace,
        pid=int(pid),
        start_ticks=int(start_ticks),
    )


def view_update(write: ViewWrite) -> UpdateOne:
    """Does nothing, or is refused as a duplicate, where the document is further on already."""
    match: Document = {write.match_field: with_ids(write.document_id)}
    changes: Document = dict(write.changes)
    if write.number_field is not None:
        match[write.number_field] = {"$not": {"$gt" if write.rewrites else "$gte": write.number}}
        changes[write.number_field] = write.number
    update: Document = {"$set": changes}
    if write.adds_to_sets:
        update["$addToSet"] = {name: with_ids(value) for name, value in write.adds_to_sets.items()}
    return UpdateOne(match, update, upsert=write.creates)


def view_document(write: ViewWrite) -> Document:
    """What the write makes where no document is."""
    document: Document = {"_id": with_ids(write.document_id), **write.changes}
    if write.number_field is not None:
        name, _, inner = write.number_field.partition(".")
        document[name] = {inner: write.number} if inner else write.number
    document.update((name, [with_ids(value)]) for name, value in write.adds_to_sets.items())
    return document


def is_further_on(document: Mapping[str, Any] | None, write: ViewWrite) -> bool:
    value: Any = document
    for name in (write.number_field or "").split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(value, int | float):
        return False  # nothing, or a stranger's word
    return value > write.number or (value == write.number and not write.rewrites)


def with_ids(value: Any) -> Any:
    """Upstream's ids as the server knows them."""
    return ObjectId(value) if isinstance(value, HexId) else value


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


SWITCH_CONTENT_KEPT = 2000


def kept_switch_from_document(document: Mapping[str, Any]) -> KeptSwitch:
    """Raises nothing: what cannot be read stands for itself."""
    try:
        return record_from_document(document)
    except UnreadableRecord as exc:
        key = document.get("_id")
        return UnreadableSwitch(
            key=key,
            scope=_scope_of(key),
            version=document.get("version"),
            reason=str(exc),
            content=repr(document)[:SWITCH_CONTENT_KEPT],
        )


def _scope_of(key: Any) -> Scope | None:
    try:
        scope = scope_from_text(key) if isinstance(key, str) else None
    except ValueError:
        return None
    return scope if str(scope) == key else None
