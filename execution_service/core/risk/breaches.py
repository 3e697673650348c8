"""Which limits that tell of trouble an account has broken, and which kill switch that engages, where the limits say so; engages none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo

from execution_service.core.risk.book import RiskBook
from execution_service.core.risk.counters import Counters, Trip, rolled
from execution_service.core.risk.kill import KillLevel
from execution_service.core.risk.limits import ENGAGING, UNTIL_ENABLED, BreachRule, LimitType, RiskLimits, Scope
from execution_service.core.risk.usage import Usage, bound_of, usages


@dataclass(frozen=True, slots=True, kw_only=True)
class EngagingBreach:
    """One limit that is broken, of which the switch of its scope is to be engaged: once, however often it is found."""

    limit: LimitType
    scope: Scope
    level: KillLevel
    reason: str
    """In words, for the switch's history."""
    mark: str
    """The same for the same breach, whoever finds it and however often: a switch that a person has armed again is not engaged by it again."""
    new_trip: Trip | None = None
    """Of a limit that stays broken until it is enabled again, and was not known to be broken: to be kept before."""


def engaging_breaches(limits: RiskLimits, book: RiskBook, now: datetime, zone: tzinfo) -> Iterator[EngagingBreach]:
    """By the limits that hold now and what is counted; of limits for which `on_breach` names a level."""
    counters = rolled(book.counters, now, zone)
    for trip in counters.trips:
        bound = bound_of(limits, trip.limit, trip.scope)
        rule = BreachRule.REFUSE if bound is None else limits.on_breach(bound.scope)
        if rule is not BreachRule.REFUSE:
            yield _from_trip(book.account_id, trip, rule)
    known = {(trip.limit, trip.scope) for trip in counters.trips}
    for usage in usages(limits, book, now, zone):
        rule = limits.on_breach(usage.table)
        is_broken = usage.limit_type in ENGAGING and usage.used >= usage.value
        if not is_broken or rule is BreachRule.REFUSE or (usage.limit_type, usage.scope) in known:
            continue
        words = f"{usage.used.normalize():f}, the limit is {usage.value.normalize():f}"
        if usage.limit_type in UNTIL_ENABLED:
            new = Trip(scope=usage.scope, limit=usage.limit_type, value=words, at=now)
            yield _from_trip(book.account_id, new, rule, new)
        else:
            yield EngagingBreach(
                limit=usage.limit_type,
                scope=usage.scope,
                level=KillLevel(rule.value),
                reason=f"{usage.limit_type} of {usage.scope} is broken: {words}",
                mark=f"breach:{book.account_id}:{usage.limit_type}:{usage.scope}:{_occasion(counters, usage)}",
            )


def _from_trip(account_id: str, trip: Trip, rule: BreachRule, new: Trip | None = None) -> EngagingBreach:
    return EngagingBreach(
        limit=trip.limit,
        scope=trip.scope,
        level=KillLevel(rule.value),
        reason=f"{trip.limit} of {trip.scope} is broken: {trip.value}",
        mark=f"breach:{account_id}:{trip.limit}:{trip.scope}:{trip.at.isoformat(timespec='milliseconds')}",
        new_trip=new,
    )


def _occasion(counters: Counters, usage: Usage) -> str:
    """What tells this breach from the next of the same limit: the day of a loss, the peak that was fallen from."""
    result = counters.result(usage.scope)
    is_from_peak = usage.limit_type in (LimitType.MAX_DRAWDOWN, LimitType.MAX_DRAWDOWN_PCT)
    if is_from_peak and result is not None:
        return f"{result.peak.normalize():f}"
    return str(counters.day)
