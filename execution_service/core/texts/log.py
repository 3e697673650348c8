"""The log's sentences about orders."""

from __future__ import annotations

from brokers.base import Combination, OrderType
from execution_service.core.orders.events import (
    Accepted,
    Adopted,
    AdoptionUndone,
    AwaitsOpening,
    Busted,
    Cancelled,
    CancelRefused,
    CancelRequested,
    Capped,
    CommissionReported,
    Completed,
    ContractDeclared,
    ContractResolved,
    DeclaredCancelled,
    DeclaredNotPlaced,
    DeclaredPlaced,
    Doubted,
    Event,
    Expired,
    Filled,
    Fitted,
    Held,
    InstrumentMatched,
    Noted,
    NothingSent,
    ProtectionChanged,
    Rejected,
    Released,
    SendAgainOrdered,
    Sized,
    SubmitStarted,
    Triggered,
)
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import NEEDS_A_PERSON
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.texts.values import (
    UNKNOWN,
    clock_time,
    contract_summary,
    currency_of,
    execution_text,
    fill_progress,
    is_overfilled,
    money,
    order_summary,
    plain,
    quantity,
    quoted,
    reason_of,
)

CONFIRMATION_PUBLISHED = "Published execution confirmation"


def order_received(signal_id: str) -> str:
    """The log's sentence for a stored order."""
    return f"Received order: {plain(signal_id)}"


# --- the log --------------------------------------------------------------------------------------------------------


def log_line(order_before: Order, event: Event, order: Order) -> tuple[str, str] | None:
    """The log's sentence and action for an event, `order` being the state after it. None: the event had no effect."""
    match event:
        case SubmitStarted():
            price = None if event.risk is None else event.risk.price
            by = "" if price is None else f", let pass by the price of {price}"
            whole = "" if event.combination is None else f", {_combination(event.combination, order)}"
            return f"Placing order: {order_summary(order)} {_type(order)}{by}{whole}", "order_placing"
        case NothingSent():
            return f"Order not sent: {plain(event.message)}", "order_not_sent"
        case Accepted():
            return f"Order submitted: {plain(event.broker_order_id)}", "order_submitted"
        case Adopted():
            words = f"{event.occasion}, {order_summary(order_before)}, by {plain(event.by)}: {plain(event.message)}"
            return f"Position adopted: {words}", "position_adopted"
        case AdoptionUndone():
            return f"Adoption undone by {plain(event.by)}: {plain(event.message)}", "adoption_undone"
        case Filled() if order.adoption is not None:
            return f"Booked: {execution_text(order, event.fill.quantity, event.fill.price)}", "adoption_booked"
        case Filled():
            return _fill_line(order_before, event, order)
        case Busted():
            return (f"Execution annulled: {plain(event.fill_id)}; {fill_progress(order)} stand", "fill_busted")
        case CommissionReported():
            amount = money(event.commission, event.currency or currency_of(order))
            return f"Commission reported: {amount} for execution {plain(event.fill_id)}", "commission_reported"
        case CancelRefused():
            return f"Cancel refused: {plain(event.message)}", "cancel_refused"
        case AwaitsOpening():
            return f"Order kept for the opening until {clock_time(event.until)}: {plain(event.message)}", "order_kept"
        case Sized():
            return f"Order sized: {quantity(event.quantity)}: {plain(event.arithmetic)}", "order_sized"
        case Capped():
            words = f"{quantity(event.quantity)} of {quantity(order_before.quantity)}"
            return f"Exit capped: {words}: {plain(event.message)}", "exit_capped"
        case InstrumentMatched():
            product = "" if event.product is None else f" in {plain(event.product)}"
            if order.identity.purpose is Purpose.ENTRY and event.product is not None:
                return f"Order understood as one{product}: {plain(event.instrument.key)}", "product_understood"
            return f"Exit closes its entry's instrument: {plain(event.instrument.key)}{product}", "exit_matched"
        case ContractResolved():
            return _contract_line(event, order)
        case ContractDeclared():
            return (
                f"Contract declared by {plain(event.by)}: {contract_summary(event.terms)}; {plain(event.message)}",
                "contract_declared",
            )
        case Fitted():
            return f"Order fitted: {plain(event.message)}", "order_fitted"
        case Held():
            until = "" if event.until is None else f" until {clock_time(event.until)}"
            return f"Order held for the opening{until}: {plain(event.message)}", "order_held"
        case Released():
            return f"Order released to the market: {plain(event.message)}", "order_released"
        case Triggered():
            return f"Stop triggered: {plain(event.message)}", "stop_triggered"
        case Completed():
            return f"Order filled: {_execution_of_all(order)}", "order_filled"
        case Noted():
            return f"Note: {plain(event.message)}", "order_noted"
        case ProtectionChanged():
            words = f": {plain(event.reason)}" if event.reason else ""
            covered = f"{quantity(event.quantity)} of {quantity(order.filled_quantity)} filled"
            return f"Protection {event.state.value}, {covered}{words}", "protection_changed"
    return _end_line(order_before, event, order)


def _combination(whole: Combination, order: Order) -> str:
    price = "at the market" if whole.limit_price is None else f"at a net limit of {quoted(whole.limit_price, order)}"
    return f"as one order of {len(whole.legs)} legs, {quantity(whole.quantity)} units {price}"


def _contract_line(event: ContractResolved, order: Order) -> tuple[str, str]:
    words = [] if event.terms is None else [contract_summary(event.terms)]
    if event.booked_as is not None:
        words.append(f"booked as {plain(event.booked_as)}")
    return f"Contract: {', '.join(words) or plain(order.symbol or UNKNOWN)}", "contract_told"


def wants_a_person(event: Event) -> bool:
    """Whether its log line is a warning that somebody should look at."""
    if isinstance(event, ProtectionChanged):
        return event.state in NEEDS_A_PERSON
    return isinstance(event, Doubted) or (isinstance(event, Noted) and event.alert)


def _fill_line(before: Order, event: Filled, order: Order) -> tuple[str, str] | None:
    if len(order.fills) == len(before.fills):
        return None
    if is_overfilled(order):
        return f"Order overfilled: {fill_progress(order)}", "order_overfilled"
    if before.status.is_final:
        execution = execution_text(order, event.fill.quantity, event.fill.price)
        return f"Late fill: {execution}; {fill_progress(order)}, now {order.status.value}", "late_fill"
    if order.status is Status.FILLED:
        return f"Order filled: {_execution_of_all(order)}", "order_filled"
    return f"Order partially filled: {fill_progress(order)}", "order_partially_filled"


def _end_line(before: Order, event: Event, order: Order) -> tuple[str, str] | None:
    match event:
        case CancelRequested() if order.status.is_final:
            return f"Order cancelled: {plain(event.reason.message)}", "order_cancelled"
        case CancelRequested() if event.reason.code is ReasonCode.TIMEOUT:
            return f"Order timeout: {plain(event.reason.message)}; cancelling", "order_timeout"
        case CancelRequested():
            words = f"{plain(event.reason.message)} (by {plain(event.requested_by)})"
            return f"Cancelling order: {words}", "cancel_requested"
        case Rejected() if order.status is Status.REJECTED:
            return f"Order rejected: {reason_of(order)}", "order_rejected"
        case Rejected() | Cancelled():
            return f"Order cancelled: {reason_of(order)}; filled {fill_progress(order)}", "order_cancelled"
        case Expired():
            return f"Order expired: {reason_of(order)}; filled {fill_progress(order)}", "order_expired"
        case Doubted():
            return f"Order in doubt: {plain(event.message)}", "order_in_doubt"
        case DeclaredNotPlaced():
            return f"Order declared not placed by {plain(event.by)}: {plain(event.message)}", "order_resolved"
        case DeclaredPlaced():
            found = f"Order declared placed as {plain(event.broker_order_id)} by {plain(event.by)}"
            return f"{found}: {plain(event.message)}", "order_resolved"
        case DeclaredCancelled():
            return f"Order declared cancelled by {plain(event.by)}: {plain(event.message)}", "order_resolved"
        case SendAgainOrdered():
            words = f"Sending again ordered by {plain(event.by)}: {plain(event.message)}"
            return f"{words}; attempt {order.attempt}", "order_resolved"
    return None


def _execution_of_all(order: Order) -> str:
    return f"{quantity(order.filled_quantity)} @ {quoted(order.average_price, order)}"


def _type(order: Order) -> str:
    request = order.request
    if not isinstance(request, OrderRequest):
        return UNKNOWN
    stop = f" stop {quoted(order.stop_price, order)}" if order.stop_price is not None else ""
    limit = f" @ {quoted(order.limit_price, order)}" if order.limit_price is not None else ""
    if request.order_type is OrderType.STOP:
        stop = f" @ {quoted(order.stop_price, order)}"
    return f"{request.order_type.value}{stop}{limit}"
