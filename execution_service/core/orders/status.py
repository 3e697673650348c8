"""The statuses of an order, and the closed list of reasons why one ended or is held. Which status follows which is
in transitions.py."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    PENDING = "PENDING"
    SUBMITTING = "SUBMITTING"
    SUBMITTED = "SUBMITTED"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    IN_DOUBT = "IN_DOUBT"

    @property
    def is_final(self) -> bool:
        return self in FINAL


FINAL = frozenset({Status.FILLED, Status.REJECTED, Status.CANCELLED, Status.EXPIRED})


class ReasonCode(StrEnum):
    """The closed list of reason codes in confirmations; docs/messages.md explains each."""

    INVALID_ORDER = "INVALID_ORDER"
    DUPLICATE_CONFLICT = "DUPLICATE_CONFLICT"
    NOTHING_TO_EXIT = "NOTHING_TO_EXIT"
    UNKNOWN_ACCOUNT = "UNKNOWN_ACCOUNT"
    UNSUPPORTED_ORDER = "UNSUPPORTED_ORDER"
    STALE_ORDER = "STALE_ORDER"
    BROKER_REJECTED = "BROKER_REJECTED"
    BROKER_UNAVAILABLE = "BROKER_UNAVAILABLE"
    BROKER_CANCELLED = "BROKER_CANCELLED"
    BROKER_EXPIRED = "BROKER_EXPIRED"
    TIMEOUT = "TIMEOUT"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    RESOLVED_BY_PERSON = "RESOLVED_BY_PERSON"
    KILL_SWITCH = "KILL_SWITCH"


@dataclass(frozen=True, slots=True)
class Reason:
    """`message` is for people."""

    code: ReasonCode
    message: str
