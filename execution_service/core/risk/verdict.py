"""What the gate says of one order: every reason, the use of every limit, what the order reserves; as values that an order's record can keep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256

from execution_service.core.exact import EXACT
from execution_service.core.orders.events import UsedPrice
from execution_service.core.orders.order import Order
from execution_service.core.risk.counters import Trip
from execution_service.core.risk.exposure import Reservation
from execution_service.core.risk.limits import LimitType, Scope

KILL_SWITCH, SAFETY_SERVICE = "kill_switch", "safety_service"
"""What a reason is called by that is no limit."""
NEAR = Decimal("0.8")
"""From this part of a limit on people are warned."""


class Decision(StrEnum):
    PASS = "PASS"
    HOLD = "HOLD"
    """Not now: it is judged again at `hold_until`, or when something has changed."""
    REFUSE = "REFUSE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """One reason why an order may not leave, or not yet."""

    limit_type: str
    """A key of `risk.toml`, or what a reason is called that is no limit."""
    limit_value: str
    actual_value: str | None = None
    """None: it cannot be told, and that is the reason."""
    message: str
    is_final: bool = False
    """No override lets it pass."""

    @property
    def told(self) -> dict[str, str | None]:
        """As it is told outside."""
        return {
            "limit_type": self.limit_type,
            "limit_value": self.limit_value,
            "actual_value": self.actual_value,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How much of one limit is used, this order counted."""

    limit: LimitType
    total: Scope
    """Whose figure it is."""
    limit_value: Decimal
    actual_value: Decimal

    @property
    def part(self) -> Decimal:
        """1 is all of it; of a limit of 0 anything at all is more than that."""
        if self.limit_value > 0:
            return EXACT.divide(self.actual_value, self.limit_value)
        return Decimal(2) if self.actual_value > 0 else Decimal(1)

    @property
    def is_near(self) -> bool:
        return self.part >= NEAR


@dataclass(frozen=True, slots=True, kw_only=True)
class Unjudged:
    """A limit that is built in and written nowhere, and that could not be judged."""

    limit: LimitType
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """An admin lets one order through that limits refused: once, until it expires, and for no other content."""

    override_id: str
    content: str
    """Of the refused order (`exact_content`): since an order that was rejected is never sent under its name, it comes again under another."""
    by: str
    reason: str
    at: datetime
    expires_at: datetime
    used_by: str | None = None
    """The order that it let through."""

    def lets(self, order: Order, now: datetime) -> bool:
        """Whether it is for this order. A clock that was set back to before it was given does not make it last longer."""
        is_in_time = self.at <= now < self.expires_at
        return is_in_time and self.used_by in (None, order.order_id) and self.content == exact_content(order)

    def used(self, order: Order) -> Override:
        return replace(self, used_by=order.order_id)


def exact_content(order: Order) -> str:
    """Equal for orders that are the same in all but their name: account, strategy, instrument, side, quantity, type and the prices it uses."""
    parts = [str(part) for part in order.accepted_request.content]
    return sha256("|".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "backslashreplace")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    order_id: str
    at: datetime
    decision: Decision
    is_exit: bool
    """By projected exposure, whatever the order calls itself."""
    exit_room: Decimal
    """So much an order of this side could trade now and be an exit."""
    breaches: tuple[Breach, ...] = ()
    """All of them; of an order that was let through by an override, those that it broke."""
    waits: tuple[Breach, ...] = ()
    """What it has to wait for."""
    hold_until: datetime | None = None
    """With HOLD, the earliest moment to judge it again; None: nobody can tell."""
    uses: tuple[Use, ...] = ()
    unjudged: tuple[Unjudged, ...] = ()
    reservation: Reservation | None = None
    """With PASS: to be written before or with the intent."""
    override: Override | None = None
    """It passes by this one alone."""
    trips: tuple[Trip, ...] = ()
    """Limits that were found broken for good: to be kept, and the kill switch of their scope to be engaged at reduce only."""
    price: UsedPrice | None = None
    """The reference price that it was judged by; None: none is known that is young enough."""
    adjusted_stop: Decimal | None = None
    """The stop that was moved to the nearest allowed price, where the rule is to adjust."""

    @property
    def override_id(self) -> str | None:
        return None if self.override is None else self.override.override_id

    @property
    def is_by_document(self) -> bool:
        """A refusal that a person may have lifted by a word in the account's risk document: an override, or what is enabled again."""
        return self.decision is Decision.REFUSE and self.code == "RISK_LIMIT"

    @property
    def code(self) -> str:
        """The reason code of a refusal."""
        kinds = {breach.limit_type for breach in self.breaches}
        if KILL_SWITCH in kinds:
            return "KILL_SWITCH"
        return "SAFETY_SERVICE" if SAFETY_SERVICE in kinds else "RISK_LIMIT"

    @property
    def near(self) -> tuple[Use, ...]:
        """Of what people are to be warned."""
        return tuple(use for use in self.uses if use.is_near)
