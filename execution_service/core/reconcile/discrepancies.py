"""A difference between our books and the broker's: its kinds, its facts, and its record. How differences are found is
not here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from hashlib import sha256
from typing import TypeAlias

from brokers.base import (
    Instrument,
)
from execution_service.core.reconcile.instruments import agree, instrument_of_key, may_be_the_same


class DiscrepancyKind(StrEnum):
    """The closed list of differences; docs/operations.md says what to do about each."""

    ORDER_NOT_SHOWN = "ORDER_NOT_SHOWN"
    """Working by our record, but the broker neither lists nor finds it."""
    ORDER_UNKNOWN = "ORDER_UNKNOWN"
    """At the broker under a tag of our form that no record of ours has."""
    ORDER_ALIVE = "ORDER_ALIVE"
    """Working at the broker, but by our record it has ended or was sent again."""
    ORDER_TWICE = "ORDER_TWICE"
    """Several orders at the broker under one tag of ours."""
    EARLIER_ATTEMPT_FILLED = "EARLIER_ATTEMPT_FILLED"
    """A person had the order sent again, and then the first sending filled."""
    FILLS_MISSING = "FILLS_MISSING"
    """The broker's filled quantity differs from the sum of the executions that it shows."""
    OVERFILLED = "OVERFILLED"
    IN_DOUBT = "IN_DOUBT"
    POSITION_DIFFERS = "POSITION_DIFFERS"


OF_POSITIONS = frozenset({DiscrepancyKind.POSITION_DIFFERS})
OF_REPORTS = frozenset(DiscrepancyKind) - OF_POSITIONS


class Owner(StrEnum):
    """Who has to act."""

    OPERATOR = "OPERATOR"
    SERVICE = "SERVICE"
    """The service keeps checking, and the difference may end by itself; people are informed."""


class DiscrepancyState(StrEnum):
    OPEN = "OPEN"
    CLOSED = "CLOSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference, as seen in one reading."""

    kind: DiscrepancyKind
    subject: str
    """What it is about: our order id, a tag at the broker, or an instrument's key."""
    ours: str
    theirs: str
    steady: str = ""
    """Must be equal in two readings for the difference to count as the same."""
    order_id: str | None = None
    signal_id: str | None = None
    client_order_id: str | None = None
    instrument: str | None = None
    is_alerted: bool = False
    """The order itself has its own alert about it."""
    instruments: tuple[Instrument, ...] = ()
    """For a position: every instrument of our ledger that it is about. Exits of these are restricted by it."""
    product: str = ""
    """For a position: the product, if the broker keeps products apart."""
    note: str = ""
    """What is known or likely about the cause, in one or two sentences."""
    resting: str = ""
    """Working exits that may take more than the broker holds."""
    successor: str = ""
    """The keys of the instruments that have probably replaced the position."""
    recorded: str = ""
    """The broker's names of its records of how the position changed."""
    before: str = ""
    """What the difference was before it changed into this one."""

    @property
    def key(self) -> Key:
        return self.kind, self.subject

    @property
    def sameness(self) -> str:
        """Equal in two readings that show the same difference."""
        return f"{self.steady} {self.successor} {self.recorded}".rstrip()

    @property
    def amount(self) -> Decimal | None:
        """For a position: the broker's quantity minus ours, which our own fills do not change; negative: the broker
        has less."""
        try:
            return Decimal(self.steady) if self.kind is DiscrepancyKind.POSITION_DIFFERS else None
        except InvalidOperation:
            return None

    def is_about(self, instrument: Instrument, product: str | None = None) -> bool:
        """For a position: whether it is about this instrument, under any of its names, in this product."""
        if not agree(self.product or None, product):
            return False
        mine = self.instruments or ((named,) if (named := instrument_of_key(self.subject)) is not None else ())
        return self.kind is DiscrepancyKind.POSITION_DIFFERS and any(
            each.could_be(instrument) or may_be_the_same(each, instrument) for each in mine
        )


Key: TypeAlias = tuple[DiscrepancyKind, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """A difference that nothing recorded explains, from its opening to its closing."""

    account_id: str
    finding: Finding
    opened_at: datetime
    updated_at: datetime
    """When either side last changed."""
    owner: Owner
    next_step: str
    """What a person should do, in one or two sentences."""
    state: DiscrepancyState = DiscrepancyState.OPEN
    closed_at: datetime | None = None
    is_alerted: bool = False

    @property
    def key(self) -> Key:
        return self.finding.key

    @property
    def place(self) -> str:
        """Equal for the same difference of the same account, of which only one may be open at a time."""
        text = f"{len(self.account_id)}:{self.account_id}|{self.finding.kind}|{self.finding.subject}"
        return sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:24]

    @property
    def discrepancy_id(self) -> str:
        return f"dis_{self.place}_{int(self.opened_at.timestamp() * 1000)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitRestriction:
    """A position difference that restricts the exits of its instruments."""

    finding: Finding
    since: datetime | None = None
    """When it was opened. None: suspected after a first reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciliationOutcome:
    """The result of one complete comparison, for people."""

    is_compared: bool
    """False: it could not be made, and nothing is known."""
    is_clean: bool = False
    words: str
    """A summary line, then one line for each difference and each order or position that is not ours."""


def owner_of(kind: DiscrepancyKind) -> Owner:
    return Owner.SERVICE if kind in (DiscrepancyKind.FILLS_MISSING, DiscrepancyKind.ORDER_NOT_SHOWN) else Owner.OPERATOR


def amount_text(amount: Decimal) -> str:
    return format(amount.normalize(), "f") if amount else "0"
