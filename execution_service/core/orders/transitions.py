"""The one table that says which event may follow in which status, and what the status is then."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from execution_service.core.orders.events import (
    Accepted,
    Adopted,
    AdoptionUndone,
    AwaitsOpening,
    Cancelled,
    CancelRefused,
    CancelRequested,
    Capped,
    Completed,
    ContractResolved,
    DeclaredCancelled,
    DeclaredNotPlaced,
    DeclaredPlaced,
    Doubted,
    Event,
    Expired,
    Fitted,
    Held,
    InstrumentMatched,
    NothingSent,
    Rejected,
    Released,
    SendAgainOrdered,
    Sized,
    SubmitStarted,
    Triggered,
)
from execution_service.core.orders.status import Status

_P, _S, _W, _PF, _D = Status.PENDING, Status.SUBMITTING, Status.SUBMITTED, Status.PARTIALLY_FILLED, Status.IN_DOUBT

TRANSITIONS: Mapping[tuple[Status, type[Event]], Status] = MappingProxyType(
    {
        (_P, AwaitsOpening): _P,
        (_P, Sized): _P,
        (_P, Capped): _P,
        (_P, InstrumentMatched): _P,
        (_P, ContractResolved): _P,
        (_P, Fitted): _P,
        (_P, SubmitStarted): _S,
        (_P, Rejected): Status.REJECTED,
        (_P, CancelRequested): Status.CANCELLED,
        (_P, Cancelled): Status.CANCELLED,  # cancelled while it was being sent, and nothing had been sent
        (_P, Accepted): _W,  # "nothing sent" was wrong: the broker has it
        (_S, NothingSent): _P,
        (_S, Accepted): _W,
        (_S, Doubted): _D,
        (_S, Rejected): Status.REJECTED,
        (_S, CancelRequested): _S,
        (_S, Cancelled): Status.CANCELLED,  # immediate-or-cancel, or found cancelled
        (_S, Expired): Status.EXPIRED,
        (_S, DeclaredNotPlaced): Status.REJECTED,
        (_S, DeclaredPlaced): _W,
        (_W, Accepted): _W,  # some brokers replace the id once the venue has the order
        (_W, Rejected): Status.REJECTED,  # unsolicited and late, but venues do it
        (_W, CancelRequested): _W,
        (_W, CancelRefused): _W,
        (_W, Held): _W,
        (_W, Released): _W,
        (_W, Triggered): _W,
        (_W, Cancelled): Status.CANCELLED,
        (_W, Expired): Status.EXPIRED,
        (_W, DeclaredCancelled): Status.CANCELLED,
        (_PF, Accepted): _PF,
        (_PF, Rejected): Status.CANCELLED,  # the rest was refused; what filled stays filled
        (_PF, CancelRequested): _PF,
        (_PF, CancelRefused): _PF,
        (_PF, Held): _PF,
        (_PF, Released): _PF,
        (_PF, Triggered): _PF,
        (_PF, Cancelled): Status.CANCELLED,
        (_PF, Expired): Status.EXPIRED,
        (_PF, Completed): Status.FILLED,
        (_PF, DeclaredCancelled): Status.CANCELLED,
        (_D, Accepted): _W,
        (_D, Rejected): Status.REJECTED,
        (_D, CancelRequested): _D,
        (_D, Cancelled): Status.CANCELLED,
        (_D, Expired): Status.EXPIRED,
        (_D, DeclaredNotPlaced): Status.REJECTED,
        (_D, DeclaredPlaced): _W,
        (_D, DeclaredCancelled): Status.CANCELLED,
        (_D, SendAgainOrdered): _P,
        (_P, Adopted): _P,  # stored in one write with its fills, so that this status is never observed
        (Status.FILLED, AdoptionUndone): Status.CANCELLED,
    }
)
"""Complete, except for six events that are allowed in every status: a fill and a bust (the next status follows from
the quantities), a commission, contract facts declared later, a note, and how an entry is protected (which do not
change the status)."""
