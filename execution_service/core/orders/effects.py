"""Which effects each event owes the world; not how or when they are delivered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from execution_service.core.orders.events import (
    Busted,
    Cancelled,
    CancelRequested,
    Capped,
    CommissionReported,
    Completed,
    ContractTold,
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
    SubmitStarted,
)
from execution_service.core.orders.order import Order, apply, bare

__all__ = ["Happening", "bare", "happenings", "happenings_since"]


@dataclass(frozen=True, slots=True)
class Happening:
    """One event with the order before and after it. `number` is the event's, from 1."""

    number: int
    before: Order
    event: Event
    after: Order

    @property
    def moves_position(self) -> bool:
        """A fill that was new, or the annulment of one that had been booked."""
        return isinstance(self.event, Filled | Busted) and len(self.before.fills) != len(self.after.fills)

    @property
    def is_correction(self) -> bool:
        """It changes what had been told as final."""
        if isinstance(self.event, Busted):
            return self.moves_position
        return self.before.status.is_final and (self.moves_position or isinstance(self.event, CommissionReported))

    @property
    def is_published(self) -> bool:
        """Partial fill, fill, rejection, cancellation, expiry, doubt, correction; nothing else goes to `execution-confirmations`. Of what was
        adopted nothing does: no order was sent for it, and its readers wait for news of theirs."""
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
        """The views are brought up to date for it; the others wait for the next that is."""
        silent = (
            SubmitStarted | NothingSent | Capped | ContractTold | Fitted | InstrumentMatched | Held | Released | Noted
        )
        return not isinstance(self.event, silent)


def happenings(order: Order, after_number: int = 0) -> Iterator[Happening]:
    """The order's story from event `after_number` + 1 on, each with the order as it was then. Costs some steps for each event that it
    tells of and a few more, however long the order's history is."""
    if after_number < order.version:
        yield from happenings_since(order.as_of(after_number), order)


def happenings_since(earlier: Order, order: Order) -> Iterator[Happening]:
    """The story from an earlier state of the order on: a step for each event but the last, after which it is as it is."""
    state = earlier
    for number, event in enumerate(order.events[earlier.version :], earlier.version + 1):
        then = order if number == order.version else apply(state, event)
        yield Happening(number, state, event, then)
        state = then
