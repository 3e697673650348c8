"""Orders, requests, fills, reports and events with sensible defaults for every test; no assertions and no fakes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias

from brokers.base import ContractTerms, Fill, Instrument, OrderType, Report, ReportStatus, Side
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
    Occasion,
    ProtectionChanged,
    Rejected,
    Released,
    SendAgainOrdered,
    Sized,
    SubmitStarted,
    Triggered,
)
from execution_service.core.orders.next_step import Elapsed, Limits
from execution_service.core.orders.order import Order, apply_all, new_order
from execution_service.core.orders.protective import ProtectionState
from execution_service.core.orders.request import Identity, OrderRequest, Purpose, RefusedRequest
from execution_service.core.orders.status import Reason, ReasonCode, Status

Amount: TypeAlias = Decimal | str | int

NOW = datetime(2025, 3, 3, 15, 0, tzinfo=UTC)
BROKER_ID = "B-1"


def at(seconds: float) -> datetime:
    """The moment so many seconds after NOW."""
    return NOW + timedelta(seconds=seconds)


def amount(value: Amount) -> Decimal:
    return Decimal(value)


def identity(signal_id: str = "signal-1", leg_index: int = 0, purpose: Purpose = Purpose.ENTRY) -> Identity:
    return Identity(signal_id=signal_id, leg_index=leg_index, purpose=purpose)


def instrument(symbol: str = "AAPL", **changes: Any) -> Instrument:
    return replace(Instrument(symbol=symbol), **changes)


def request(*, quantity: Amount = 100, **changes: Any) -> OrderRequest:
    """To buy 100 AAPL at the market for account `acct-1`, strategy `momentum`."""
    usual = OrderRequest(
        account_id="acct-1",
        strategy="momentum",
        instrument=instrument(),
        side=Side.BUY,
        quantity=amount(quantity),
        order_type=OrderType.MARKET,
    )
    return replace(usual, **changes)


def refused_request(**changes: Any) -> RefusedRequest:
    return replace(RefusedRequest(account_id="acct-1", symbol="AAPL", fingerprint="f" * 64), **changes)


def order(
    *,
    of: Identity | None = None,
    asked: OrderRequest | RefusedRequest | None = None,
    events: Iterable[Event] = (),
    published_at: datetime = NOW,
    received_at: datetime = NOW,
    **request_changes: Any,
) -> Order:
    """A PENDING order, or what it becomes by `events`. Other keywords change its usual request."""
    bare = new_order(
        of or identity(),
        asked or request(**request_changes),
        received_at=received_at,
        published_at=published_at,
        message_id="message-1",
        raw="{}",
    )
    return apply_all(bare, events)


def order_in(status: Status, *, filled: Amount = 40, **request_changes: Any) -> Order:
    """An order that came to `status` in the ordinary way. `filled` matters for PARTIALLY_FILLED only."""
    usual = order(**request_changes)
    quantity = usual.accepted_request.quantity
    working = (submit_started(), accepted())
    histories: dict[Status, tuple[Event, ...]] = {
        Status.PENDING: (),
        Status.SUBMITTING: (submit_started(),),
        Status.SUBMITTED: working,
        Status.PARTIALLY_FILLED: (*working, filled_by("f1", filled)),
        Status.FILLED: (*working, filled_by("f1", quantity)),
        Status.REJECTED: (submit_started(), rejected()),
        Status.CANCELLED: (*working, cancel_requested(), cancelled()),
        Status.EXPIRED: (*working, expired()),
        Status.IN_DOUBT: (submit_started(), doubted()),
    }
    return apply_all(usual, histories[status])


def fill(fill_id: str = "f1", quantity: Amount = 40, price: Amount = "10.00", **changes: Any) -> Fill:
    """An execution of 40 at 10.00 whose commission is not known yet."""
    return replace(Fill(fill_id=fill_id, quantity=amount(quantity), price=amount(price), time=NOW), **changes)


def report(
    about: Order,
    status: ReportStatus = ReportStatus.WORKING,
    fills: Iterable[Fill] = (),
    *,
    filled_quantity: Amount | None = None,
    busted: Iterable[str] = (),
    **changes: Any,
) -> Report:
    """A snapshot of the order's present attempt. The broker's count is the sum of the standing fills unless given."""
    shown, annulled = tuple(fills), frozenset(busted)
    count = sum((f.quantity for f in shown if f.fill_id not in annulled), Decimal(0))
    usual = Report(
        client_order_id=about.client_order_id,
        broker_order_id=about.broker_order_id or BROKER_ID,
        status=status,
        filled_quantity=count if filled_quantity is None else amount(filled_quantity),
        fills=shown,
        busted_fill_ids=annulled,
    )
    return replace(usual, **changes)


def limits(**changes: Any) -> Limits:
    return replace(Limits(), **changes)


def elapsed(age: float = 1.0, **changes: Any) -> Elapsed:
    return replace(Elapsed(age=age), **changes)


# --- events ---------------------------------------------------------------------------------------------------------


def submit_started(nonce: str = "process-1", reserved_order_id: str | None = None) -> SubmitStarted:
    return SubmitStarted(at=NOW, nonce=nonce, reserved_order_id=reserved_order_id)


def nothing_sent() -> NothingSent:
    return NothingSent(at=NOW, message="no connection")


def accepted(broker_order_id: str = BROKER_ID) -> Accepted:
    return Accepted(at=NOW, broker_order_id=broker_order_id)


def doubted() -> Doubted:
    return Doubted(at=NOW, message="not found at the broker")


def rejected(filled_quantity: Amount = 0) -> Rejected:
    reason = Reason(ReasonCode.BROKER_REJECTED, "insufficient margin")
    return Rejected(at=NOW, reason=reason, filled_quantity=amount(filled_quantity))


def filled_by(fill_id: str = "f1", quantity: Amount = 40, price: Amount = "10.00", **changes: Any) -> Filled:
    return Filled(at=NOW, fill=fill(fill_id, quantity, price, **changes))


def busted(fill_id: str = "f1") -> Busted:
    return Busted(at=NOW, fill_id=fill_id)


def commission_reported(fill_id: str = "f1", commission: Amount = "1.25") -> CommissionReported:
    return CommissionReported(at=NOW, fill_id=fill_id, commission=amount(commission), currency="USD")


def cancel_requested() -> CancelRequested:
    return CancelRequested(
        at=NOW, reason=Reason(ReasonCode.CANCEL_REQUESTED, "asked by upstream"), requested_by="upstream"
    )


def cancel_refused() -> CancelRefused:
    return CancelRefused(at=NOW, message="too late")


def cancelled(filled_quantity: Amount = 0) -> Cancelled:
    reason = Reason(ReasonCode.BROKER_CANCELLED, "cancelled at the venue")
    return Cancelled(at=NOW, reason=reason, filled_quantity=amount(filled_quantity))


def expired(filled_quantity: Amount = 0) -> Expired:
    reason = Reason(ReasonCode.BROKER_EXPIRED, "end of day")
    return Expired(at=NOW, reason=reason, filled_quantity=amount(filled_quantity))


def awaits_opening() -> AwaitsOpening:
    return AwaitsOpening(at=NOW, message="the market is closed", until=NOW + timedelta(hours=2))


def sized(quantity: Amount = 100) -> Sized:
    return Sized(at=NOW, quantity=amount(quantity), arithmetic="200 at risk; 2 lost by one unit; 100 units")


def capped(quantity: Amount = 60) -> Capped:
    return Capped(at=NOW, quantity=amount(quantity), message="the entry has 60 left")


def instrument_matched() -> InstrumentMatched:
    return InstrumentMatched(at=NOW, instrument=Instrument(symbol="AAPL", exchange="ARCA", currency="USD"))


def contract_resolved(booked_as: str | None = None, **changes: Any) -> ContractResolved:
    """That one contract is 50 units, quoted in the currency, unless told otherwise."""
    usual = ContractTerms(multiplier=Decimal(50), currency="USD", trading_class="ES", con_id=11, local_symbol="ESZ6")
    return ContractResolved(at=NOW, terms=replace(usual, **changes), booked_as=booked_as)


def contract_declared(multiplier: Amount = 50) -> ContractDeclared:
    return ContractDeclared(
        at=NOW, by="operator", terms=ContractTerms(multiplier=amount(multiplier)), message="by the venue's page"
    )


def fitted() -> Fitted:
    return Fitted(at=NOW, message="on the market's tick and increment", quantity=amount(99), limit_price=amount("9.95"))


def held(until: datetime | None = None) -> Held:
    return Held(at=NOW, message="not at the exchange before the opening", until=until)


def triggered(seconds: float = 0.0) -> Triggered:
    return Triggered(at=at(seconds), message="TRIGGERED")


def released(seconds: float = 0.0) -> Released:
    return Released(at=at(seconds), message="Submitted")


def completed(filled_quantity: Amount = 40) -> Completed:
    return Completed(at=NOW, filled_quantity=amount(filled_quantity))


def protection_changed() -> ProtectionChanged:
    return ProtectionChanged(at=NOW, state=ProtectionState.PROTECTED, quantity=Decimal(40), filled_quantity=Decimal(40))


def noted(message: str = "a remark") -> Noted:
    return Noted(at=NOW, message=message)


def declared_not_placed() -> DeclaredNotPlaced:
    return DeclaredNotPlaced(at=NOW, by="operator", message="not in the broker's list")


def declared_placed(broker_order_id: str = "B-9") -> DeclaredPlaced:
    return DeclaredPlaced(at=NOW, by="operator", broker_order_id=broker_order_id, message="seen on the screen")


def declared_cancelled() -> DeclaredCancelled:
    return DeclaredCancelled(at=NOW, by="operator", message="dead at the broker")


def send_again_ordered() -> SendAgainOrdered:
    return SendAgainOrdered(at=NOW, by="operator", message="send it once more")


def adopted(occasion: Occasion = Occasion.SQUARE_OFF, **changes: Any) -> Adopted:
    usual = Adopted(
        at=NOW,
        command_id="ctl-1",
        occasion=occasion,
        by="operator",
        message="squared off by the broker",
        left="SELL 100 AAPL|STOCK at 10",
    )
    return replace(usual, **changes)


def adoption_undone() -> AdoptionUndone:
    return AdoptionUndone(at=NOW, command_id="ctl-2", by="operator", message="told by mistake")


def adopted_order(quantity: Amount = 100, price: Amount = 10, *, told: Adopted | None = None, **changes: Any) -> Order:
    """A movement past the service, of which a person told: 100 AAPL sold, unless said otherwise."""
    signal_id, leg_index = changes.pop("signal_id", "adopt-1"), changes.pop("leg_index", 0)
    purpose = changes.pop("purpose", Purpose.EXIT)
    usual: dict[str, Any] = {"side": Side.SELL if purpose is Purpose.EXIT else Side.BUY}
    events = (told or adopted(), filled_by(f"{signal_id}-{leg_index}-1", quantity, price))
    of = identity(signal_id, leg_index, purpose)
    return order(of=of, quantity=quantity, events=events, **usual | changes)


def one_event_of_each_kind(about: Order) -> dict[type[Event], Event]:
    """One event of every class; claims of a filled quantity are those that the order holds."""
    held = about.filled_quantity
    samples: tuple[Event, ...] = (
        submit_started(),
        nothing_sent(),
        accepted(),
        doubted(),
        rejected(held),
        filled_by("f-new", 10),
        busted("f1"),
        commission_reported("f1"),
        cancel_requested(),
        cancel_refused(),
        cancelled(held),
        expired(held),
        awaits_opening(),
        sized(),
        capped(),
        instrument_matched(),
        contract_resolved(),
        contract_declared(),
        fitted(),
        Held(at=NOW, message="not at the exchange before the opening", until=at(60)),
        released(),
        triggered(),
        completed(held),
        noted(),
        protection_changed(),
        declared_not_placed(),
        declared_placed(),
        declared_cancelled(),
        send_again_ordered(),
        adopted(),
        adoption_undone(),
    )
    return {type(event): event for event in samples}
