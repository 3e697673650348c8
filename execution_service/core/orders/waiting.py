"""Why an order that is to be sent has not left: the reasons as values, for whoever decides what is next and for whoever tells people; not what is
done about them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose


class WaitingReason(StrEnum):
    """The values stand in records, by which a later life of the service knows the alerts that were raised: they must not change."""

    ENTRY = "its entry has not ended"
    LEGS = "the other legs of its signal have not come"
    CONNECTION = "the broker is not connected"
    EARLIER_ORDER = "an order before it is looked for"
    """One of the same instrument was perhaps sent: until it is found, nothing follows it."""
    POSITIONS = "the broker's positions are being looked at"
    CALLS = "calls are spent"
    """The account's, for the moment; some are kept for exits."""
    HELD_BACK = "held back"
    """The connection stands, and the broker lacks something that it needs to take orders of this instrument; or the store is away."""
    NOT_TAKEN = "the broker does not take it"
    EARLIER_ID = "an order of the account is looked for"
    """It has an id of a sequence, and may have to leave again under it before any later id does."""
    RISK = "the risk gate lets no more pass for now"
    """The minute is full, its market is closed, or what is counted of its account cannot be read."""
    PROTECTION = "protective orders have not made way"
    """They are being cancelled at the broker, and their end is not confirmed: until then both together could sell more than is held."""
    STOP = "the broker has not told what its stop has filled"
    """Of a target that the broker links to a stop: it may only leave beside one that has filled nothing."""
    TURN = "its turn has not come"

    @property
    def lets_others_pass(self) -> bool:
        """It steps out of its queue, and those behind it pass: it waits for what becomes of other orders, for an answer that no other
        order needs, or for the risk gate, which may hold an entry and never an exit."""
        return self in _OUTSIDE_ITS_QUEUE


_OUTSIDE_ITS_QUEUE = frozenset(
    {
        WaitingReason.ENTRY,
        WaitingReason.LEGS,
        WaitingReason.RISK,
        WaitingReason.PROTECTION,
        WaitingReason.STOP,
    }
)


def others_of(order: Order) -> WaitingReason | None:
    """What of other orders this one may have to wait for before it leaves. Raises TypeError for one that was refused at the door."""
    request, purpose = order.accepted_request, order.identity.purpose
    if request.protective is not None:
        return None  # its entry may go on filling
    if purpose is Purpose.EXIT:
        return WaitingReason.ENTRY if request.entry_refs else None
    return WaitingReason.LEGS if request.total_legs > 1 else None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why an order has not left. `seconds`: so long it surely will not, None until something happens; 0: it may be tried now, and this is why
    it did not leave when it was tried last."""

    reason: WaitingReason
    words: str = ""
    """For people: why an exit stays."""
    seconds: float | None = None

    @property
    def is_over(self) -> bool:
        return self.seconds is not None and self.seconds <= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """What keeps the orders of one instrument from leaving though the connection stands, and until when by a clock that never jumps; it stays
    known until the broker has taken one of them."""

    reason: WaitingReason
    words: str
    until: float
    failures: int = 0
    """Sendings in succession that the broker could not take."""
    is_alerted: bool = False
    """An alert was raised that orders are held for something that the broker lacks."""

    def waiting(self, now: float) -> Waiting:
        return Waiting(self.reason, self.words, max(0.0, self.until - now))
