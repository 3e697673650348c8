"""The one judgement of all fault tests: what the service says of a signal against what the broker's own book says; nothing is played here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from brokers.manifest import Fact
from brokers.registry import manifests
from execution_service.core.orders.events import DeclaredNotPlaced, Doubted
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Status
from execution_service.core.views.record import order_from_document
from tests.external.service_process import Confirmation

ZERO = Decimal(0)
CLOSE = Decimal("0.0000001")
"""Doubles are compared so: what is told goes through JSON."""
TRUE_STATUS = {
    "FILLED": {"FILLED"},
    "CANCELLED": {"CANCELLED"},
    "EXPIRED": {"EXPIRED"},
    "REJECTED": {"REJECTED"},
    "WORKING": {"SUBMITTED", "PARTIALLY_FILLED"},
}


class Placed(StrEnum):
    """How many orders the broker may have of a signal."""

    ONCE = "once"
    NEVER = "never"
    ONCE_OR_DOUBTED = "once, or never and in doubt"
    """Never only where nothing proves that it did not arrive, and the service says so; it stays in doubt until a person decides."""
    ONCE_OR_REFUSED = "once, or never and rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the parties hold of one signal."""

    broker: str
    expects: Placed
    record: Mapping[str, Any] | None
    view: Mapping[str, Any] | None
    placed: Sequence[Mapping[str, Any]]
    """The broker's orders under any of the signal's client order ids."""
    told: Sequence[Confirmation]


def disagreements(evidence: Evidence) -> list[str]:
    """Each a sentence; none when all is as it must be."""
    if evidence.record is None:
        return ["nothing is stored of the signal"]
    order = order_from_document(evidence.record)
    found = list(_placements(evidence, order))
    if evidence.placed:
        found += _against_book(order, evidence.placed[-1], evidence.broker)
    else:
        found += [f"{order.filled_quantity} filled of an order that was never placed"] if order.fills else []
    found += _confirmations(evidence, order)
    found += _shown(evidence.view, order)
    if order.status.is_final and "unsettled" in evidence.record["lookup"]:
        found.append("it has ended, and something is still owed to the world")
    return found


def _placements(evidence: Evidence, order: Order) -> list[str]:
    count, status = len(evidence.placed), order.status
    if count > 1:
        return [f"placed {count} times"]
    if count == 1:
        return ["placed, and must not have been"] if evidence.expects is Placed.NEVER else []
    if evidence.expects is Placed.ONCE:
        return [f"never placed; the record says {status}"]
    if evidence.expects is Placed.ONCE_OR_DOUBTED and status is not Status.IN_DOUBT and not _was_decided(order):
        return [f"never placed, and {status} instead of in doubt"]
    if not status.is_final and status is not Status.IN_DOUBT:
        return [f"never placed, and still {status}"]
    if status in (Status.FILLED, Status.EXPIRED):
        return [f"never placed, and {status}"]
    return []


def _was_decided(order: Order) -> bool:
    """Whether the order was in doubt and ended by a person's word that it was never placed."""
    kinds = [type(event) for event in order.events]
    return order.status is Status.REJECTED and Doubted in kinds and kinds[-1] is DeclaredNotPlaced


def true_fills(truth: Mapping[str, Any], *, annulled_too: bool = False) -> list[Mapping[str, Any]]:
    return [fill for fill in truth["fills"] if annulled_too or not fill["busted"]]


def _against_book(order: Order, truth: Mapping[str, Any], broker: str) -> list[str]:
    found = []
    fills = true_fills(truth)
    quantity = sum((Decimal(fill["quantity"]) for fill in fills), ZERO)
    paid = sum((Decimal(fill["quantity"]) * Decimal(fill["price"]) for fill in fills), ZERO)
    charged = sum((Decimal(fill["commission"] or 0) for fill in fills), ZERO)
    if order.filled_quantity != quantity:
        found.append(f"filled {order.filled_quantity}, truly {quantity}")
    elif quantity and abs((order.average_price or ZERO) - paid / quantity) > CLOSE:
        found.append(f"average price {order.average_price}, truly {paid / quantity}")
    if abs(order.commission - charged) > CLOSE:
        found.append(f"commission {order.commission}, truly {charged}")
    held = sorted((fill.quantity, fill.price) for fill in order.fills)
    if held != sorted((Decimal(fill["quantity"]), Decimal(fill["price"])) for fill in fills):
        found.append(f"fills {held} are not the book's")
    if order.status.value not in _true_statuses(truth, quantity, broker):
        found.append(f"status {order.status}, truly {truth['status']} with {quantity} of {truth['quantity']}")
    return found


def _true_statuses(truth: Mapping[str, Any], quantity: Decimal, broker: str) -> set[str]:
    if quantity >= Decimal(truth["quantity"]):
        # The book leaves an order cancelled that was filled afterwards; to the world it is filled.
        return {"FILLED"}
    if truth["status"] == "FILLED":
        # Filled once, and an execution annulled since: what the broker calls it then is its own affair.
        return {"FILLED", "PARTIALLY_FILLED", "SUBMITTED", "CANCELLED"}
    if truth["status"] == "REJECTED" and quantity:
        # The rest is refused and what filled stays filled: to the world that is a cancelled order.
        return {"REJECTED", "CANCELLED"}
    allowed = TRUE_STATUS[truth["status"]]
    return {"EXPIRED", "CANCELLED"} if truth["status"] == "EXPIRED" and not _tells_expiry(broker) else allowed


def _confirmations(evidence: Evidence, order: Order) -> list[str]:
    found = []
    by_event: dict[str, Confirmation] = {}
    for each in evidence.told:
        first = by_event.setdefault(each.attributes["event_id"], each)
        if each.body != first.body:
            found.append(f"event {each.attributes['event_id']} was told in two ways")
    if any(isinstance(event, Doubted) for event in order.events) and not any(
        each.body["status"] == "IN_DOUBT" for each in by_event.values()
    ):
        found.append("it was in doubt, and that was never told")
    told = sorted(by_event.values(), key=lambda each: int(each.attributes["event_number"]))
    if len({each.attributes["event_number"] for each in told}) != len(told):
        found.append("two events have one number")
    if not told:
        return [*found, "nothing was told"] if order.status.is_final or order.fills else found
    truth = evidence.placed[-1] if evidence.placed else None
    for each in told:
        found += _contradiction(each.body, truth, evidence.broker)
    last = told[-1].body
    if order.status.is_final or order.status is Status.IN_DOUBT:
        found += _same("last told", last, order)
    if truth is not None:
        heard = [(_decimal(b["quantity"]), _decimal(b["price"])) for b in (e.body["last_fill"] for e in told) if b]
        for fill in true_fills(truth):
            pair = Decimal(fill["quantity"]), Decimal(fill["price"])
            near = next((h for h in heard if h[0] == pair[0] and abs(h[1] - pair[1]) <= CLOSE), None)
            if near is None:
                found.append(f"the fill {fill['fill_id']} was never told")
            else:
                heard.remove(near)
    return found


def _contradiction(body: Mapping[str, Any], truth: Mapping[str, Any] | None, broker: str) -> list[str]:
    status, filled = body["status"], _decimal(body["filled_quantity"])
    if truth is None:
        return [f"told {status} of an order that was never placed"] if status in ("FILLED", "EXPIRED") or filled else []
    ever = sum((Decimal(fill["quantity"]) for fill in truth["fills"]), ZERO)
    if filled > ever:
        return [f"told {filled} filled, the broker never had more than {ever}"]
    if status == "FILLED" and ever < Decimal(truth["quantity"]):
        return [f"told FILLED, truly {ever} of {truth['quantity']}"]
    ends = {truth["status"]}
    if truth["status"] == "REJECTED" and ever:
        ends.add("CANCELLED")
    if not _tells_expiry(broker) and "EXPIRED" in ends:
        ends.add("CANCELLED")
    if status in ("REJECTED", "CANCELLED", "EXPIRED") and status not in ends:
        return [f"told {status} without evidence: at the broker it is {truth['status']}"]
    return []


def _shown(view: Mapping[str, Any] | None, order: Order) -> list[str]:
    if view is None:
        return ["no document shows it"] if order.status.is_final else []
    return _same("the document shows", view, order) if order.status.is_final else []


def _same(what: str, said: Mapping[str, Any], order: Order) -> list[str]:
    found = []
    if said["status"] != order.status.value:
        found.append(f"{what} {said['status']}, recorded {order.status}")
    for field, value in (
        ("filled_quantity", order.filled_quantity),
        ("avg_fill_price", order.average_price),
        ("commission", order.commission),
    ):
        if abs(_decimal(said[field]) - (value or ZERO)) > CLOSE:
            found.append(f"{what} {field} {said[field]}, recorded {value}")
    return found


def position_disagreements(
    placed: Sequence[Mapping[str, Any]],
    ledgers: Sequence[Mapping[str, Any]],
    open_positions: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Of one strategy, all its orders' fills against its ledger and the view of its position; by symbol, options by their own contract."""
    truly: dict[str, Decimal] = {}
    for order in placed:
        sign = 1 if order["side"] == "BUY" else -1
        for fill in true_fills(order):
            _add(truly, order, sign * Decimal(fill["quantity"]))
    held: dict[str, Decimal] = {}
    for ledger in ledgers:
        _add(held, ledger["instrument"], Decimal(ledger["position"]["quantity"]))
    shown: dict[str, Decimal] = {}
    for position in open_positions:
        sign = 1 if position["side"] == "LONG" else -1
        _add(shown, position, sign * _decimal(position["quantity"]))
    found = []
    for contract in truly.keys() | held.keys() | shown.keys():
        true, ours, view = (each.get(contract, ZERO) for each in (truly, held, shown))
        if ours != true or view != true:
            found.append(f"position of {contract}: ledger {ours}, shown {view}, truly {true}")
    return found


def _add(sums: dict[str, Decimal], of: Mapping[str, Any], quantity: Decimal) -> None:
    """To what is summed up of its contract: the symbol, of an option with strike and right."""
    strike = of.get("strike")
    contract = of["symbol"] if strike is None else f"{of['symbol']} {_decimal(strike).normalize():f} {of['right']}"
    sums[contract] = sums.get(contract, ZERO) + quantity


def _decimal(number: object) -> Decimal:
    return ZERO if number is None else Decimal(str(number))


def _tells_expiry(broker: str) -> bool:
    """Some have one word for cancelled and expired."""
    return Fact.TELLS_EXPIRY in manifests()[broker].facts
