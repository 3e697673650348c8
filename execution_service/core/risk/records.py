"""A verdict of the risk gate as what an order's record keeps of it: with its intent, or as its end."""

from __future__ import annotations

from datetime import datetime

from execution_service.core.orders.events import AwaitsOpening, LimitUse, Noted, Rejected, RiskVerdict
from execution_service.core.orders.status import LimitBreach, Reason, ReasonCode
from execution_service.core.risk.limits import LimitType
from execution_service.core.risk.prices import PriceSource
from execution_service.core.risk.verdict import Breach, Verdict


def refusal(verdict: Verdict, at: datetime) -> Rejected:
    """The end of an order that the gate refused, with all reasons."""
    words = "; ".join(breach.message for breach in verdict.breaches)
    if verdict.price is not None and verdict.code == ReasonCode.RISK_LIMIT:
        words = f"{words} (by the price of {verdict.price})"
    return Rejected(at=at, reason=Reason(ReasonCode(verdict.code), words, _breaches(verdict.breaches)))


def opening(verdict: Verdict, at: datetime) -> AwaitsOpening | None:
    """Of an order that is held for the opening of its market; None: that is not what it waits for, or nobody can tell when."""
    closed = next((wait for wait in verdict.waits if wait.limit_type == LimitType.SESSION), None)
    if closed is None or verdict.hold_until is None:
        return None
    return AwaitsOpening(at=at, message=closed.message, until=verdict.hold_until)


def kept_verdict(verdict: Verdict, *, keeps_uses: bool) -> RiskVerdict:
    """Of an order that passes. `keeps_uses`: also how much of each limit it used, where somebody has written limits down."""
    uses = (
        ()
        if not keeps_uses
        else tuple(
            LimitUse(
                limit=use.limit.value,
                total=str(use.total),
                limit_value=use.limit_value,
                actual_value=use.actual_value,
            )
            for use in verdict.uses
        )
    )
    return RiskVerdict(
        is_exit=verdict.is_exit,
        uses=uses or None,
        unjudged=tuple(each.limit.value for each in verdict.unjudged) or None,
        breaches=_breaches(verdict.breaches) or None,
        override_id=verdict.override_id,
        allowed_by=None if verdict.override is None else verdict.override.by,
        allowed_for=None if verdict.override is None else verdict.override.reason,
        allowed_until=None if verdict.override is None else verdict.override.expires_at,
        price=verdict.price if keeps_uses or _is_of_market(verdict) else None,
    )


def _is_of_market(verdict: Verdict) -> bool:
    """Else it is in the order's request already."""
    return verdict.price is not None and verdict.price.source != PriceSource.MESSAGE


def remarks(verdict: Verdict, at: datetime) -> tuple[Noted, ...]:
    """What people are to read of an order that passes."""
    found: list[Noted] = []
    if verdict.adjusted_stop is not None:
        words = f"the stop is moved to the nearest allowed price, {verdict.adjusted_stop.normalize():f}"
        found.append(Noted(at=at, message=words))
    if verdict.override is not None:
        past = "; ".join(breach.message for breach in verdict.breaches)
        words = f"let through past its limits, once, by {verdict.override.by} ({verdict.override.reason}): {past}"
        found.append(Noted(at=at, message=words, alert=True))
    return tuple(found)


def _breaches(some: tuple[Breach, ...]) -> tuple[LimitBreach, ...]:
    return tuple(
        LimitBreach(
            limit_type=str(breach.limit_type),
            limit_value=breach.limit_value,
            actual_value=breach.actual_value,
            message=breach.message,
        )
        for breach in some
    )
