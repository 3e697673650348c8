"""What somebody wants to hold: target positions as values, the plan's id, and the reasons for which a list of targets is refused. No arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256

from brokers.base import Instrument
from execution_service.core.errors import CoreError


class Mode(StrEnum):
    """Where an account's orders go: to its broker, or to the simulated one on historical bars."""

    PRODUCTION = "PRODUCTION"
    TRAINING = "TRAINING"


class Aggressiveness(StrEnum):
    """How much a plan may pay to get done. EMERGENCY reduces only."""

    PASSIVE = "PASSIVE"
    NORMAL = "NORMAL"
    URGENT = "URGENT"
    EMERGENCY = "EMERGENCY"


class WhenShort(StrEnum):
    """What is done of itself when a plan has ended and its targets are not all reached."""

    REPORT = "REPORT"
    """Nothing: the result and people are told."""
    RETRY = "RETRY"
    """What is missing is planned anew, with the prices of then."""
    UNWIND = "UNWIND"
    """What was filled is traded back to what was held before."""


MOST_RETRIES = 10


@dataclass(frozen=True, slots=True)
class OnPartial:
    """What a plan does when it ends short; `retries` is how often, with RETRY."""

    what: WhenShort = WhenShort.REPORT
    retries: int = 0

    def __str__(self) -> str:
        return f"{self.what.value} {self.retries}" if self.what is WhenShort.RETRY else self.what.value


def on_partial_of(text: str) -> OnPartial:
    """Of `REPORT`, `UNWIND`, or `RETRY n` with n from 1 to 10. Raises ValueError for anything else: what is traded of itself is not guessed."""
    word, _, count = text.partition(" ")
    if word == WhenShort.RETRY:
        if not (count.isascii() and count.isdecimal() and 1 <= int(count) <= MOST_RETRIES):
            raise ValueError(f"RETRY needs how often, from 1 to {MOST_RETRIES}: RETRY 2")
        return OnPartial(WhenShort.RETRY, int(count))
    if text not in (WhenShort.REPORT, WhenShort.UNWIND):
        raise ValueError(f"{text[:80]!r} is none of REPORT, RETRY n, UNWIND")
    return OnPartial(WhenShort(text))


class RefusalCode(StrEnum):
    """Why nothing at all of a list of targets is planned."""

    EMPTY = "EMPTY"
    FLATTEN_NOT_ALLOWED = "FLATTEN_NOT_ALLOWED"
    DUPLICATE_INSTRUMENT = "DUPLICATE_INSTRUMENT"
    QUANTITY_OR_WEIGHT = "QUANTITY_OR_WEIGHT"
    UNKNOWN_INSTRUMENT = "UNKNOWN_INSTRUMENT"
    WEIGHTS_OVER_LIMIT = "WEIGHTS_OVER_LIMIT"
    NO_EQUITY = "NO_EQUITY"
    STALE_PLAN = "STALE_PLAN"
    FUTURE_PLAN = "FUTURE_PLAN"
    STALE_POSITIONS = "STALE_POSITIONS"
    NO_LONGER_VALID = "NO_LONGER_VALID"
    WRONG_MODE = "WRONG_MODE"
    UNKNOWN_ACCOUNT = "UNKNOWN_ACCOUNT"
    PLAN_CONFLICT = "PLAN_CONFLICT"


@dataclass(frozen=True, slots=True)
class Refusal:
    code: RefusalCode
    message: str


class PlanRefused(CoreError):
    """Nothing is planned and nothing is placed; `refusals` are all the reasons."""

    def __init__(self, refusals: Iterable[Refusal]) -> None:
        self.refusals = tuple(refusals)
        super().__init__("; ".join(f"{each.code}: {each.message}" for each in self.refusals))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is to be held of one instrument: a signed quantity, or a signed part of the equity. Exactly one of the two."""

    instrument: Instrument
    quantity: Decimal | None = None
    weight: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedHolding:
    """What the decision's author took for held."""

    key: str
    """Of the instrument."""
    quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPositions:
    """One decision of a portfolio service for one account and strategy."""

    decision_id: str
    account_id: str
    strategy_id: str
    as_of: datetime
    """When it was decided; of two plans of an account and strategy the later one is wanted."""
    mode: Mode
    targets: tuple[Target, ...]
    complete: bool = False
    """Whether what is not mentioned is to be 0. False: it is left alone."""
    allow_flatten: bool = False
    """Confirms that a complete list without any target other than 0 is meant: everything is closed."""
    aggressiveness: Aggressiveness = Aggressiveness.NORMAL
    valid_until: datetime | None = None
    profile_version_id: str | None = None
    regime_id: str | None = None
    universe_id: str | None = None
    expected_positions: tuple[ExpectedHolding, ...] = ()
    """Holdings that the decision was made from; any that differs refuses the plan. Empty: not checked."""
    on_partial: OnPartial | None = None
    """None: what the account's settings say."""

    @property
    def plan_id(self) -> str:
        return plan_id_of(self.account_id, self.strategy_id, self.decision_id)


def plan_id_of(account_id: str, strategy_id: str, decision_id: str) -> str:
    """The same for the same decision, for ever; no text in one field can look like another's."""
    parts = (account_id, strategy_id, decision_id)
    text = "|".join(f"{len(part)}:{part}" for part in parts)
    return "plan_" + sha256(text.encode()).hexdigest()[:24]
