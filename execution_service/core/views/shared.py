"""The documents of the shared collections, built from orders and ledger entries. No database; when they are written
is decided elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any, TypeAlias

from brokers.base import ContractTerms, Fill, Instrument
from execution_service.core.orders.contracts import may_be_of_one_contract
from execution_service.core.orders.events import Adopted
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import ProtectionState
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import Status
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.positions.position import Position

Fields: TypeAlias = dict[str, Any]
ZERO = Decimal(0)


class HexId(str):
    """24 hexadecimal digits: the `_id` of a document in a collection that others own."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class BookedOrder:
    """An order with the profit that the ledger booked for it, before commissions."""

    order: Order
    realized_pnl: Decimal


def number(value: Decimal | None) -> float | None:
    """A double, because readers of the shared collections calculate with plain numbers."""
    return None if value is None else float(value)


# --- execution_confirmations -----------------------------------------------------------------------------------------


def confirmation_fields(order: Order, *, broker: str, realized_pnl: Decimal, now: datetime) -> Fields:
    """The order's document without its `_id`."""
    request = order.request
    return {
        "signal_id": order.signal_id,
        "leg_index": order.identity.leg_index,
        "purpose": order.identity.purpose.value,
        "order_id": order.broker_order_id,
        "request_order_id": request.request_order_id,
        "client_order_id": order.client_order_id if order.adoption is None else None,
        "strategy_name": request.strategy,
        "strategy_id": request.strategy,
        "account_id": request.account_id,
        "symbol": order.symbol,
        "instrument": order.symbol,
        **({} if order.instrument is None else _contract_fields(order.instrument, order.terms)),
        "side": None if request.side is None else request.side.value,
        "direction": _direction(order),
        "quantity": number(order.quantity),
        "filled_quantity": number(order.filled_quantity),
        "remaining_quantity": number(order.remaining_quantity),
        "order_type": None if request.order_type is None else request.order_type.value,
        "limit_price": number(order.limit_price),
        "stop_price": number(order.stop_price),
        "avg_fill_price": number(order.average_price),
        "status": order.status.value,
        "submitted_at": order.submitted_at,
        "filled_at": order.filled_at,
        "timestamp": order.filled_at or order.finished_at or order.submitted_at or order.received_at,
        "updated_at": now,
        "broker": broker,
        "commission": number(order.commission),
        "total_value": number(order.value),
        "notes": _notes(order),
        "fills": [fill_fields(fill) for fill in order.fills],
        "reason": None if order.reason is None else {"code": order.reason.code.value, "message": order.reason.message},
        "realized_pnl": number(realized_pnl) if order.fills and order.money_per_point is not None else None,
        "unrealized_pnl": None,
        "protection": _protection(order),
        **({} if order.adoption is None else {"adopted": _adopted(order.adoption)}),
    }


def _adopted(adoption: Adopted) -> Fields:
    """Marks the record of an adoption, which is not an order, with the person's report."""
    return {
        "occasion": adoption.occasion.value,
        "by": adoption.by,
        "reason": adoption.message,
        "discrepancy_id": adoption.discrepancy_id,
        "command_id": adoption.command_id,
    }


def confirmation_id(order: Order) -> str:
    return "exec_" + order.order_id.removeprefix("ord_")


def fill_fields(fill: Fill) -> Fields:
    """`is_time_estimated` is present only if true."""
    fields: Fields = {
        "fill_id": fill.fill_id,
        "quantity": number(fill.quantity),
        "price": number(fill.price),
        "commission": number(fill.commission),
        "commission_currency": fill.commission_currency,
        "time": fill.time,
    }
    return fields | {"is_time_estimated": True} if fill.is_time_estimated else fields


def _direction(order: Order) -> str | None:
    """LONG for a purchase, SHORT for a sale: the direction of this trade, not of the position."""
    if order.request.side is None:
        return order.request.direction
    return "LONG" if order.request.side.sign > 0 else "SHORT"


def _notes(order: Order) -> str:
    if order.adoption is not None and order.reason is None:
        return f"Adopted ({order.adoption.occasion}) by {order.adoption.by}: {order.adoption.message}"
    if order.status is Status.FILLED and order.filled_at is not None:
        seconds = (order.filled_at - (order.submitted_at or order.received_at)).total_seconds()
        return f"Filled in {max(0.0, seconds):.0f} seconds"
    return order.reason.message if order.reason is not None else ""


def _protection(order: Order) -> Fields | None:
    """Of an order that names a stop or a target: what it names, how it is protected and why, and how much of it."""
    request, known = order.request, order.protection
    if not isinstance(request, OrderRequest):
        return None
    trail = {"trail_percent": number(request.trail_percent), "trail_amount": number(request.trail_amount)}
    is_trailing = any(value is not None for value in trail.values())
    if request.stop_loss is None and request.take_profit is None and not is_trailing:
        return None
    return {
        **({**trail, "stop_price": None if known is None else number(known.stop_price)} if is_trailing else {}),
        "state": (ProtectionState.NOT_PLACED if known is None else known.state).value,
        "stop_loss": number(request.stop_loss),
        "take_profit": number(request.take_profit),
        **({} if known is None else {"reason": known.reason, "quantity": number(known.quantity), "since": known.at}),
    }


def _contract_fields(instrument: Instrument, terms: ContractTerms | None) -> Fields:
    """The contract's facts as the broker reported them, else as the order named them."""
    reported = terms or ContractTerms()
    return {
        "instrument_type": instrument.asset_class.value,
        "exchange": instrument.exchange,
        "expiry": instrument.expiry,
        "strike": number(instrument.strike),
        "right": None if instrument.right is None else instrument.right.value,
        "currency": reported.currency or instrument.currency,
        "multiplier": number(reported.multiplier or (instrument.multiplier if terms is None else None)),
        "price_magnifier": number(reported.price_magnifier),
        "trading_class": reported.trading_class or instrument.trading_class,
    }


# --- signal_store ----------------------------------------------------------------------------------------------------


def signal_document_id(order: Order) -> HexId | None:
    """The `_id` that the message named. None: the document is found by its `signal_id`."""
    named = order.request.mathematricks_signal_id
    return None if named is None else HexId(named)


def made_up_signal_id(signal_id: str) -> HexId:
    """The `_id` of a document that we create: the same for one signal at all times, so that it is created once."""
    return HexId(sha256(f"signal_store:{signal_id}".encode()).hexdigest()[:24])


def signal_fields(
    signal: Sequence[BookedOrder],
    entries: Sequence[Order],
    exits: Sequence[BookedOrder],
    now: datetime,
    stand_ins: Sequence[Order] = (),
) -> Fields:
    """The fields of a signal's document that describe its orders.

    `signal`: all orders of the signal known so far; `entries`: what its exits close; `exits`: those that close this
    signal's entry; `stand_ins`: adopted positions that took that entry's place.
    """
    own_entries = [b.order for b in signal if b.order.identity.purpose is Purpose.ENTRY]
    own_exits = [b for b in signal if b.order.identity.purpose is Purpose.EXIT]
    shown = sorted(own_entries or [b.order for b in own_exits], key=lambda o: o.identity.leg_index)
    first = shown[0]
    fields: Fields = {
        "signal_id": first.signal_id,
        "order_id": first.broker_order_id,
        "execution_status": _combined_status(shown),
        "filled_at": max((o.filled_at for o in shown if o.filled_at is not None), default=None),
        "execution": _execution(shown),
        "updated_at": now,
    }
    if own_exits:
        fields["pnl"] = _pnl(own_exits, [*entries, *own_entries])
        fields["pnl_realized"] = number(sum((b.realized_pnl for b in own_exits), ZERO))
        if not own_entries and all(b.order.status.is_final for b in own_exits):
            fields["position_status"] = "CLOSED"
    if own_entries and any(o.filled_quantity for o in own_entries):
        closing = list({b.order.order_id: b for b in (*exits, *own_exits)}.values())
        fields.update(_holding(own_entries, closing, stand_ins))
        adopted = [order for order in (*(b.order for b in closing), *stand_ins) if order.adoption is not None]
        if adopted:
            fields["adoptions"] = [_adoption(order) for order in sorted(adopted, key=lambda o: o.received_at)]
    return fields


def _adoption(order: Order) -> Fields:
    """An adoption that changed the position of the signal's entry. A reversed one has the quantity 0."""
    assert order.adoption is not None
    return {
        "adoption_id": order.signal_id,
        "occasion": order.adoption.occasion.value,
        "side": None if order.request.side is None else order.request.side.value,
        "instrument": order.symbol,
        "quantity": number(order.filled_quantity),
        "price": number(order.average_price),
        "time": order.filled_at,
        "by": order.adoption.by,
    }


def _execution(orders: Sequence[Order]) -> Fields:
    first = orders[0]
    whole = _leg(first)
    if first.request.total_legs > 1 or len(orders) > 1:
        done = len(orders) >= first.request.total_legs and all(o.status.is_final for o in orders)
        filled = all(o.filled_quantity for o in orders)
        whole["status"] = Status.FILLED.value if done and filled else _combined_status(orders)
        if whole["status"] == Status.FILLED.value and not done:
            whole["status"] = Status.PARTIALLY_FILLED.value
        whole["legs"] = {str(o.identity.leg_index): _leg(o) | {"instrument": o.symbol} for o in orders}
    return whole


def _leg(order: Order) -> Fields:
    has_filled = order.status.is_final and bool(order.filled_quantity)
    return {
        "order_id": order.request.request_order_id,
        "broker_order_id": order.broker_order_id,
        "client_order_id": order.client_order_id,
        "status": Status.FILLED.value if has_filled else order.status.value,
        "avg_fill_price": number(order.average_price),
        "quantity_filled": number(order.filled_quantity),
        "fills": [fill_fields(fill) for fill in order.fills],
        "filled_at": order.filled_at,
        "commission": number(order.commission),
        "total_cost_basis": number(order.value),
        "reason": None if order.reason is None else {"code": order.reason.code.value, "message": order.reason.message},
    }


def _combined_status(orders: Sequence[Order]) -> str:
    statuses = {o.status for o in orders}
    are_all_here = len(orders) >= orders[0].request.total_legs
    if len(statuses) == 1 and are_all_here:
        return orders[0].status.value
    if Status.IN_DOUBT in statuses:
        return Status.IN_DOUBT.value
    if any(o.filled_quantity for o in orders):
        return Status.PARTIALLY_FILLED.value
    working = [o for o in orders if not o.status.is_final]
    return (working or list(orders))[0].status.value


def _pnl(exits: Sequence[BookedOrder], entries: Sequence[Order]) -> Fields:
    """Profit of the exits, each matched with the fills of the entry that it closes; at average cost if that entry is
    not ours."""
    gross = commission = basis = ZERO
    is_known = True
    held_for: float | None = None
    for exit_ in exits:
        order = exit_.order
        commission += order.commission
        entry = _entry_of(order, entries)
        if entry is None or entry.average_price is None or order.average_price is None:
            gross += exit_.realized_pnl
            continue
        worth = order.money_per_point
        if worth is None:
            is_known = False
            continue
        sign = entry.accepted_request.side.sign
        gross += (order.average_price - entry.average_price) * order.filled_quantity * sign * worth
        commission += entry.commission * order.filled_quantity / entry.filled_quantity
        basis += entry.average_price * order.filled_quantity * worth
        if entry.filled_at is not None and order.filled_at is not None:
            held_for = max(held_for or 0.0, (order.filled_at - entry.filled_at).total_seconds())
    net = gross - commission
    return {
        "gross_pnl": number(gross) if is_known else None,
        "commission": number(commission),
        "net_pnl": number(net) if is_known else None,
        "pnl_percent": number(net / basis * 100) if basis and is_known else None,
        "holding_period_seconds": held_for,
    }


def _entry_of(exit_: Order, entries: Iterable[Order]) -> Order | None:
    """What the exit closed: its entry, or the adopted position that had taken its place by then."""
    fitting = _fitting(exit_, entries)
    came = [
        e
        for e in fitting
        if e.adoption is not None and e.filled_at and exit_.filled_at and e.filled_at <= exit_.filled_at
    ]
    if came:
        return max(came, key=lambda e: (e.filled_at, e.received_at))
    return _of_its_leg(exit_, [e for e in fitting if e.adoption is None])


def _fitting(exit_: Order, entries: Iterable[Order]) -> list[Order]:
    if exit_.instrument is None:
        return []
    side = exit_.accepted_request.side.opposite
    return [e for e in entries if e.request.side is side and may_be_of_one_contract(exit_, e)]


def _of_its_leg(exit_: Order, fitting: Sequence[Order]) -> Order | None:
    same_leg = [e for e in fitting if e.identity.leg_index == exit_.identity.leg_index]
    return next(iter(same_leg or fitting), None)


def _holding(entries: Sequence[Order], closing: Sequence[BookedOrder], stand_ins: Sequence[Order]) -> Fields:
    """Whether the entry is still held, leg by leg: closed when exits took everything that filled, including adopted
    positions in its place."""
    held = {entry.order_id: entry.filled_quantity for entry in entries}
    heads = list(entries)
    for order in stand_ins:
        same = [h for h in heads if _is_same_line(h, order)]
        if not same:
            heads.append(order)
        held[(same or [order])[0].order_id] = held.get((same or [order])[0].order_id, ZERO) + order.filled_quantity
    left = ZERO
    for head in heads:
        closed = [b.order for b in closing if _of_its_leg(b.order, _fitting(b.order, heads)) is head]
        left += max(ZERO, held[head.order_id] - sum((order.filled_quantity for order in closed), ZERO))
    filled = [b for b in closing if b.order.filled_quantity]
    fields: Fields = {"position_status": "CLOSED" if not left else "OPEN"}
    if filled or any(b.order.busted_fill_ids for b in closing):
        fields["pnl_realized"] = number(sum((b.realized_pnl for b in closing), ZERO))
    fields["closed_at"] = (
        max((b.order.filled_at for b in filled if b.order.filled_at), default=None) if not left else None
    )
    return fields


def _is_same_line(one: Order, other: Order) -> bool:
    return one.request.side is other.request.side and may_be_of_one_contract(one, other)


# --- positions and trading_accounts ----------------------------------------------------------------------------------


def position_documents(entry: LedgerEntry) -> list[tuple[int, tuple[str, Fields]]]:
    """(episode, (`_id`, fields)) to be written, ended episodes first, so that a key never has two open ones."""
    episodes = {p.episode: p for p in (*entry.ended, entry.position) if p.episode}
    ordered = sorted(episodes.values(), key=lambda p: (p.is_open, p.episode))
    return [(p.episode, (position_id(entry, p.episode), _position_fields(entry, p))) for p in ordered]


def position_id(entry: LedgerEntry, episode: int) -> str:
    return f"pos_{entry.key.ledger_id.removeprefix('led_')}_{episode}"


def _position_fields(entry: LedgerEntry, position: Position) -> Fields:
    return {
        "ledger_id": entry.key.ledger_id,
        "strategy_name": entry.key.strategy,
        "strategy_id": entry.key.strategy,
        "account_id": entry.key.account_id,
        "symbol": entry.instrument.symbol,
        "instrument": entry.instrument.symbol,
        **_contract_fields(entry.instrument, entry.terms),
        "side": "LONG" if position.is_long else "SHORT",
        "quantity": number(abs(position.quantity)),
        "avg_entry_price": number(position.average_price if position.is_open else position.final_average),
        "realized_pnl": _profit(entry, position),
        "status": "OPEN" if position.is_open else "CLOSED",
        "opened_at": position.opened_at,
        "closed_at": position.closed_at,
        "updated_at": position.updated_at,
        "order_ids": list(position.order_ids),
        "order_count": position.order_count,
    }


def _profit(entry: LedgerEntry, position: Position) -> float | None:
    """None if the money per point of the price is not known."""
    return None if entry.money_per_point is None else number(position.realized_pnl)


def open_position_element(entry: LedgerEntry) -> Fields:
    """One element of `trading_accounts.open_positions`. We receive no market prices: the current price shown is the
    entry's."""
    position = entry.position
    worth = entry.money_per_point
    average = number(position.average_price)
    return {
        "strategy_id": entry.key.strategy,
        "instrument": entry.instrument.symbol,
        **_contract_fields(entry.instrument, entry.terms),
        "direction": "LONG" if position.is_long else "SHORT",
        "status": "OPEN",
        "quantity": number(abs(position.quantity)),
        "avg_entry_price": average,
        "entry_price": average,
        "current_price": average,
        "unrealized_pnl": 0.0,
        "total_cost_basis": None if worth is None else number(abs(position.cost) * worth),
        "realized_pnl": _profit(entry, position),
        "last_order_id": position.order_ids[-1] if position.order_ids else None,
        "created_at": position.opened_at,
        "updated_at": position.updated_at,
    }


# --- trading_orders --------------------------------------------------------------------------------------------------


def trading_order_fields(order: Order, now: datetime) -> Mapping[str, Any]:
    return {
        "status": order.status.value,
        "broker_order_id": order.broker_order_id,
        "filled_quantity": number(order.filled_quantity),
        "avg_fill_price": number(order.average_price),
        "updated_at": now,
    }
