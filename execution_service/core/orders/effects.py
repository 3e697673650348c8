"""What an event requires outside the record: a change of position, a published message, an update of the views. How
and when they are delivered is decided elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from execution_service.core.orders.events import (
    AwaitsOpening,
    Busted,
    Cancelled,
    CancelRequested,
    Capped,
    CommissionReported,
    Completed,
    ContractResolved,
    DeclaredCancelled,
    DeclaredNotPlaced,
    Doubted,
    Event,
    Expired,
    Filled,
    Fitted,
    Held,
    InstrumentMatched,
    Noted,
    NothingSent,
    Rejected,
    Released,
    Sized,
    SubmitStarted,
    Triggered,
)
from execution_service.core.orders.order import Order, apply, bare

__all__ = ["AppliedEvent", "applied_events", "applied_events_since", "bare"]


@dataclass(frozen=True, slots=True)
class AppliedEvent:
    """One event with the order before and after it. `number` is the event's number in the order, from 1."""

    number: int
    before: Order
    event: Event
    after: Order

    @property
    def moves_position(self) -> bool:
        """True for a new fill, and for a bust of a fill that had been booked."""
        return isinstance(self.event, Filled | Busted) and len(self.before.fills) != len(self.after.fills)

    @property
    def is_correction(self) -> bool:
        """True if it changes an outcome that was published as final."""
        if isinstance(self.event, Busted):
            return self.moves_position
        return self.before.status.is_final and (self.moves_position or isinstance(self.event, CommissionReported))

    @property
    def is_published(self) -> bool:
        """Whether it is published on `execution-confirmations`: a partial fill, fill, rejection, cancellation,
        expiry, doubt or correction. Nothing is published of an adoption: no order was sent for it, and nobody waits
        for its outcome."""
        if self.after.adoption is not None:
            return False
        match self.event:
            case Filled() | Busted():
                return self.moves_position
            case CommissionReported():
                return self.is_correction
            case (
                Rejected()
                | Cancelled()
                | Expired()
                | Completed()
                | Doubted()
                | DeclaredNotPlaced()
                | DeclaredCancelled()
            ):
                return True
            case CancelRequested():
                return self.after.status.is_final and not self.before.status.is_final
        return False

    @property
    def is_shown(self) -> bool:
        """Whether the views are updated for it. The events that are not are shown with the next one that is."""
        silent = (
            SubmitStarted
            | NothingSent
            | AwaitsOpening
            | Sized
            | Capped
            | ContractResolved
            | Fitted
            | InstrumentMatched
            | Held
            | Released
            | Triggered
            | Noted
        )
        return not isinstance(self.event, silent)


def applied_events(order: Order, after_number: int = 0) -> Iterator[AppliedEvent]:
    """The order's story from event `after_number` + 1 on, each with the order as it was then. Costs some steps for each event that it
    tells of and a few more, however long the order's history is."""
    if after_number < order.version:
        yield from applied_events_since(order.as_of(after_number), order)


def applied_events_since(earlier: Order, order: Order) -> Iterator[AppliedEvent]:
    """The story from an earlier state of the order on: a step for each event but the last, after which it is as it is."""
    state = earlier
    for number, event in enumerate(order.events[earlier.version :], earlier.version + 1):
        then = order if number == order.version else apply(state, event)
        yield AppliedEvent(number, state, event, then)
        state = then
