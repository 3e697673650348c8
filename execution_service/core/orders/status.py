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
AT_WORK = frozenset({Status.SUBMITTING, Status.SUBMITTED, Status.PARTIALLY_FILLED, Status.IN_DOUBT})
"""An order in one of these may fill at any moment."""


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
    REDUCE_ONLY = "REDUCE_ONLY"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    RESOLVED_BY_PERSON = "RESOLVED_BY_PERSON"
    RISK_LIMIT = "RISK_LIMIT"
    KILL_SWITCH = "KILL_SWITCH"
    SAFETY_SERVICE = "SAFETY_SERVICE"
    UNKNOWN_DECISION = "UNKNOWN_DECISION"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitBreach:
    """One of the reasons for which the risk gate refused an order, as it is told outside."""

    limit_type: str
    """A key of `risk.toml`, or what a reason is called that is no limit."""
    limit_value: str
    actual_value: str | None = None
    """None: it could not be told, and that is the reason."""
    message: str

    @property
    def told(self) -> dict[str, str | None]:
        return {
            "limit_type": self.limit_type,
            "limit_value": self.limit_value,
            "actual_value": self.actual_value,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class Reason:
    """`message` is for people."""

    code: ReasonCode
    message: str
    breaches: tuple[LimitBreach, ...] | None = None
    """All that the risk gate found; None: it was not the gate that ended the order."""
