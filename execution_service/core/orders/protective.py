"""What makes an order a protective one, and how a position is protected, as its entry's record keeps it; what protection is wanted is decided in
core/protection."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class ProtectiveRole(StrEnum):
    """What a protective order is for."""

    STOP = "STOP"
    """It rests at the broker and limits the loss."""
    TARGET = "TARGET"
    """It rests at the broker and takes the profit."""
    CLOSE = "CLOSE"
    """It leaves at the market now, since the stop's price has been passed or the target was reached and nothing at the broker takes care of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protective:
    """Of an exit that this service made by itself to protect what an entry bought or sold."""

    entry_order_id: str
    """Our id of the entry."""
    role: ProtectiveRole
    piece: int
    """From 1, each number once for an entry; the stop and the target that the broker links have the same one."""
    is_linked: bool = False
    """The broker takes what one order of the piece fills off the other."""
    stop_loss: Decimal | None = None
    """The entry's, by which the result of a trade is measured."""
    begins_after: Decimal | None = None
    """It is of what the entry has filled since it had filled so much, all of which was closed by then. None: of all of it, or it is of before that
    was recorded of stops that do not trail."""

    @property
    def link(self) -> str | None:
        """By what the broker links the orders of the piece: used once, and by no other order."""
        return f"{self.entry_order_id}-{self.piece}" if self.is_linked else None

    @property
    def signal_id(self) -> str:
        """Follows from the entry and the piece, so that a repetition is the same order."""
        return f"protect-{self.entry_order_id.removeprefix('ord_')}-{self.role.lower()}-{self.piece}"


class ProtectionState(StrEnum):
    """How what an entry has filled is protected. The values stand in records and messages."""

    NOT_PLACED = "NOT_PLACED"
    """Nothing has been done: nothing has filled, or the order is from before there were protective orders."""
    PLACING = "PLACING"
    """Its orders are on their way, or are being fitted to what is held."""
    PROTECTED = "PROTECTED"
    """Orders that the broker has taken cover all of it."""
    WATCHED = "WATCHED"
    """No order at the broker covers all that was asked for: the service watches the price for the rest."""
    IN_DOUBT = "IN_DOUBT"
    """A protective order was perhaps sent, and is looked for; no second one is sent meanwhile."""
    MAKING_WAY = "MAKING_WAY"
    """Other exits take it, and protective orders have made way for them."""
    CLOSING = "CLOSING"
    """It is being closed at the market."""
    UNPROTECTED = "UNPROTECTED"
    """It is held and nothing protects it: a person has to look."""
    CLOSED = "CLOSED"
    """Nothing of it is held any more, and none of its protective orders is left at the broker."""


NEEDS_A_PERSON = frozenset({ProtectionState.UNPROTECTED, ProtectionState.IN_DOUBT})
