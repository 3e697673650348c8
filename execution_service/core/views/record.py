"""Orders and ledger entries as plain documents and back: exact decimals as text, times as datetimes. No database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeAlias, TypeVar, get_args

from brokers.base import AssetClass, BrokerPosition, ContractTerms, Fill, Instrument
from execution_service.core.adoption.records import Before, Movement, Plan
from execution_service.core.codec import decode, encode, read_decimal, read_moment, read_text, read_whole, storable
from execution_service.core.errors import CoreError, UnreadableRecord
from execution_service.core.orders.events import Event, LimitUse, RiskVerdict, UsedPrice, stored_name
from execution_service.core.orders.order import Order, apply_all, new_order
from execution_service.core.orders.protective import NEEDS_A_PERSON
from execution_service.core.orders.request import Identity, OrderRequest, Purpose, RefusedRequest
from execution_service.core.orders.status import LimitBreach, Reason
from execution_service.core.positions.ledger import Held, LedgerEntry, LedgerKey, Line
from execution_service.core.positions.position import Position
from execution_service.core.reconcile.discrepancies import Discrepancy

Document: TypeAlias = dict[str, Any]
T = TypeVar("T")

RECORD_FORMAT = 1
_EVENTS: Mapping[str, type[Event]] = {stored_name(cls): cls for cls in get_args(Event)}


def order_to_document(order: Order) -> Document:
    """The complete document of a new record: the fixed part, the events, and the fields derived from them."""
    refused = isinstance(order.request, RefusedRequest)
    document: Document = {
        "_id": order.order_id,
        "format": RECORD_FORMAT,
        "signal_id": order.signal_id,
        "leg_index": order.identity.leg_index,
        "purpose": order.identity.purpose.value,
        "account_id": order.request.account_id,
        "refused_request" if refused else "request": encode(order.request),
        "received_at": order.received_at,
        "published_at": order.published_at,
        "message_id": order.message_id,
        "raw": order.raw,
        "events": [event_to_document(event) for event in order.events],
    }
    if order.traceparent is not None:
        document["traceparent"] = order.traceparent
    document.update(state_of(order))
    return document


def state_of(order: Order) -> Document:
    """The fields derived from the events, for people and queries. The events are authoritative."""
    return {
        "version": order.version,
        "status": order.status.value,
        "client_order_id": order.client_order_id,
        "broker_order_id": order.broker_order_id,
        "filled_quantity": str(order.filled_quantity),
        "lookup": lookup_keys(order),
    }


def lookup_keys(order: Order) -> list[str]:
    """Every id by which this order may be looked up, in one indexed list."""
    request = order.request
    keys = [f"client:{c}" for c in order.client_order_ids]
    if order.broker_order_id is not None:
        keys.append(f"broker:{order.broker_order_id}")
    if request.request_order_id is not None:
        keys.append(f"request:{request.request_order_id}")
    keys += [f"signal:{name}" for name in reversed(order.names)]
    if order.adoption is not None and order.adoption.discrepancy_id is not None:
        keys.append(f"discrepancy:{order.adoption.discrepancy_id}")
    if isinstance(request, OrderRequest):
        keys += [f"exit_of:{ref}" for ref in request.entry_refs]
    if order.is_protection_open:
        keys.append(protected_in(str(request.account_id)))
        if order.protection is not None and order.protection.state in NEEDS_A_PERSON:
            keys.append(UNPROTECTED)
    return keys


_FOR_GOOD = ("client:", "request:", "signal:", "discrepancy:", "exit_of:")


def is_for_good(name: str) -> bool:
    """Whether an order that once bears the name bears it at each later version, too. The broker's id may be replaced by another, and what
    `protected_in` and `UNPROTECTED` name goes away."""
    return name.startswith(_FOR_GOOD)


UNPROTECTED = "unprotected"
"""The name by which entries are found that are held without the protection that they ask for, or it is in doubt."""


def protected_in(account_id: str) -> str:
    """The name by which the entries of an account are found whose protection has not ended."""
    return f"protected:{account_id}"


def event_to_document(event: Event) -> Document:
    return {"type": stored_name(type(event)), **encode(event)}


def event_from_document(document: Mapping[str, Any]) -> Event:
    cls = _EVENTS.get(str(document.get("type")))
    if cls is None:
        raise UnreadableRecord(f"unknown event type {document.get('type')!r}")
    return decode(cls, document)


def order_from_document(document: Mapping[str, Any]) -> Order:
    """The order, rebuilt from its stored events. Raises UnreadableRecord if the document was not written by
    `order_to_document`."""
    try:
        if document["format"] != RECORD_FORMAT:
            raise UnreadableRecord(f"record format {document['format']!r} is not known here")
        taken = document.get("request")
        request = decode(RefusedRequest, document["refused_request"]) if taken is None else decode(OrderRequest, taken)
        identity = Identity(
            signal_id=read_text(document["signal_id"]),
            leg_index=read_whole(document["leg_index"]),
            purpose=Purpose(document["purpose"]),
        )
        order = new_order(
            identity,
            request,
            received_at=read_moment(document["received_at"]),
            published_at=read_moment(document["published_at"]),
            message_id=read_text(document["message_id"]),
            raw=read_text(document["raw"]),
            traceparent=traced if isinstance(traced := document.get("traceparent"), str) else None,
        )
        return apply_all(order, (event_from_document(d) for d in document["events"]))
    except (CoreError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as exc:
        raise UnreadableRecord(f"order {document.get('_id')!r}: {type(exc).__name__}: {exc}") from exc


def as_stored(event: T) -> T:
    """The event exactly as reading it back from the record will give it, so that what is published is the same
    before and after a restart."""
    changes = {}
    for part in fields(event):  # type: ignore[arg-type]
        value = getattr(event, part.name)
        kept = _as_stored_value(value)
        if kept != value:
            changes[part.name] = kept
    return replace(event, **changes) if changes else event  # type: ignore[type-var]


def _as_stored_value(value: Any) -> Any:
    if type(value) is str:
        return storable(value)
    if isinstance(value, Reason | Fill | ContractTerms | RiskVerdict | LimitBreach | LimitUse | UsedPrice):
        return as_stored(value)
    if isinstance(value, tuple):
        kept = tuple(map(_as_stored_value, value))
        return value if kept == value else kept
    return value


# --- the ledger ------------------------------------------------------------------------------------------------------


def ledger_to_document(entry: LedgerEntry) -> Document:
    position = entry.position
    return {
        "_id": entry.key.ledger_id,
        "format": RECORD_FORMAT,
        "account_id": entry.key.account_id,
        "strategy": entry.key.strategy,
        "instrument_key": entry.key.instrument_key,
        "instrument": encode(entry.instrument),
        "terms": None if entry.terms is None else encode(entry.terms),
        "version": entry.version,
        "sequence": entry.sequence,
        "is_open": position.is_open,
        "position": encode(position),
        "ended": [encode(p) for p in entry.ended],
        "applied": [{"order_id": o, "lines": lines_to_document(_by_number(ls))} for o, ls in entry.applied.items()],
        "products": [{"product": name, "quantity": str(quantity)} for name, quantity in entry.products.items()],
        "realized": str(entry.realized),
    }


def ledger_from_document(document: Mapping[str, Any]) -> LedgerEntry:
    """Raises UnreadableRecord if the document was not written by `ledger_to_document`."""
    try:
        if document["format"] != RECORD_FORMAT:
            raise UnreadableRecord(f"record format {document['format']!r} is not known here")
        entry = LedgerEntry(
            key=LedgerKey(*(read_text(document[name]) for name in ("account_id", "strategy", "instrument_key"))),
            instrument=decode(Instrument, document["instrument"]),
            terms=None if document.get("terms") is None else decode(ContractTerms, document["terms"]),
            version=read_whole(document["version"]),
            sequence=read_whole(document["sequence"]),
            position=decode(Position, document["position"]),
            ended=tuple(decode(Position, d) for d in document["ended"]),
            applied={
                read_text(d["order_id"]): tuple(lines_from_document(d["lines"]).values()) for d in document["applied"]
            },
            products={read_text(d["product"]): read_decimal(d["quantity"]) for d in document.get("products", ())},
            realized=read_decimal(document.get("realized", "0")),
        )
        if document["_id"] != entry.key.ledger_id:
            raise UnreadableRecord(f"it says that it is {entry.key.ledger_id}")
        if entry.version < 1:  # a version below 1 would make the next write an insert, which never succeeds
            raise UnreadableRecord(f"version {entry.version} was never stored")
        return entry
    except (CoreError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as exc:
        raise UnreadableRecord(f"ledger {document.get('_id')!r}: {type(exc).__name__}: {exc}") from exc


def instrument_of_ledger(document: Mapping[str, Any]) -> Instrument:
    """The instrument of a ledger entry that cannot be read, as far as it can be told; without a symbol if it cannot."""
    try:
        return decode(Instrument, document["instrument"])
    except (CoreError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError):
        symbol, _, rest = str(document.get("instrument_key", "")).partition("|")
        kind = rest.partition("|")[0]
        return (
            Instrument(symbol=symbol, asset_class=AssetClass(kind))
            if kind in tuple(AssetClass)
            else Instrument(symbol=symbol)
        )


def lines_to_document(lines: Mapping[int, Line]) -> Document:
    return {str(number): _line_to_document(line) for number, line in lines.items()}


def _line_to_document(line: Line) -> Document:
    document: Document = {"sequence": line.sequence, "episode": line.episode, "realized": str(line.realized)}
    if line.closed:
        document["closed"] = str(line.closed)
    if line.held is not None:
        document["held"] = [str(line.held.quantity), str(line.held.cost), str(line.held.realized)]
    return document


def lines_from_document(document: Mapping[str, Any]) -> dict[int, Line]:
    """Raises UnreadableRecord."""
    try:
        return {
            int(n): Line(
                int(n),
                read_whole(d["sequence"]),
                read_whole(d["episode"]),
                read_decimal(d["realized"]),
                read_decimal(d.get("closed", "0")),
                _held(d.get("held")),
            )
            for n, d in document.items()
        }
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as exc:
        raise UnreadableRecord(f"ledger lines: {type(exc).__name__}: {exc}") from exc


def _held(values: Any) -> Held | None:
    return None if values is None else Held(*map(read_decimal, values))


def _by_number(lines: tuple[Line, ...]) -> dict[int, Line]:
    return {line.event_number: line for line in lines}


# --- adoptions -------------------------------------------------------------------------------------------------------


def plan_to_document(plan: Plan) -> Document:
    """The part of the plan that the confirming command carries, so that exactly what was shown is done."""
    return {
        "movements": [encode(movement) for movement in plan.movements],
        "before": [encode(before) for before in plan.before],
        "warnings": list(plan.warnings),
    }


def plan_from_document(document: Mapping[str, Any]) -> Plan:
    """The plan without the fields that are for people only. Raises UnreadableRecord."""
    try:
        return Plan(
            movements=tuple(decode(Movement, each) for each in document["movements"]),
            before=tuple(decode(Before, each) for each in document["before"]),
            holdings=(),
            warnings=tuple(map(str, document["warnings"])),
        )
    except (CoreError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as exc:
        raise UnreadableRecord(f"plan of an adoption: {type(exc).__name__}: {exc}") from exc


def positions_to_documents(positions: Iterable[BrokerPosition]) -> list[Document]:
    """A broker's positions, for another process of this service."""
    return [encode(position) for position in positions]


def positions_from_documents(documents: Iterable[Mapping[str, Any]]) -> list[BrokerPosition]:
    """Raises UnreadableRecord."""
    try:
        reported = [decode(BrokerPosition, document) for document in documents]
        return [replace(position, also_called=frozenset(position.also_called)) for position in reported]
    except (CoreError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as exc:
        raise UnreadableRecord(f"a broker's positions: {type(exc).__name__}: {exc}") from exc


# --- discrepancies ---------------------------------------------------------------------------------------------------


def discrepancy_to_document(discrepancy: Discrepancy) -> Document:
    document: Document = {"_id": discrepancy.discrepancy_id, "format": RECORD_FORMAT, "place": discrepancy.place}
    document.update(encode(discrepancy))
    return document


def discrepancy_from_document(document: Mapping[str, Any]) -> Discrepancy:
    """Raises UnreadableRecord if the document was not written by `discrepancy_to_document`."""
    try:
        if document["format"] != RECORD_FORMAT:
            raise UnreadableRecord(f"record format {document['format']!r} is not known here")
        return decode(Discrepancy, document)
    except (CoreError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as exc:
        raise UnreadableRecord(f"discrepancy {document.get('_id')!r}: {type(exc).__name__}: {exc}") from exc
