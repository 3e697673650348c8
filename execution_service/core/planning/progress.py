"""What is to be released of a stored plan next, and how it has ended, from the plan, what was released and what became of those orders.

Worked out anew each time from all three: repeated or late facts cannot count twice, and a death between two steps loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, localcontext
from enum import StrEnum

from execution_service.core.exact import EXACT, ZERO
from execution_service.core.planning.facts import ONE
from execution_service.core.planning.plan import Leg, LegReason, LegState, Phase, Plan, signal_id_of
from execution_service.core.planning.quantities import Increase, affordable, slices_of


class PlanState(StrEnum):
    """How far a plan is. Those from COMPLETED on are final."""

    WORKING = "WORKING"
    COMPLETED = "COMPLETED"
    PARTIAL = "PARTIAL"
    """It has ended, and something of its targets is not reached."""
    FAILED = "FAILED"
    """It has ended, and nothing of what it wanted was done."""
    SUPERSEDED = "SUPERSEDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A leg's order that may be sent: decided once, stored before it is sent, and never computed again. A quantity of 0 is the decision to send
    nothing."""

    signal_id: str
    leg: int
    child: int
    quantity: Decimal
    released_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is known of one released order."""

    filled: Decimal = ZERO
    is_final: bool = False
    rejection: str | None = None
    """Why it was refused, by us or by the broker."""
    trade_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A plan's legs as they stand, and the plan's state."""

    plan: Plan
    state: PlanState
    legs: tuple[Leg, ...]
    """Those of the plan, with their present state, reason and note."""
    filled: tuple[Decimal, ...]
    """By leg number."""

    def residual(self, leg: Leg) -> Decimal:
        """What is missing, signed as the position: positive if too little is held."""
        return (leg.wanted - self.filled[leg.number]) * leg.side.sign

    @property
    def residuals(self) -> dict[str, Decimal]:
        """By instrument key, of those whose target is not reached; a close and its opening together."""
        with localcontext(EXACT):
            missing: dict[str, Decimal] = {}
            for leg in self.legs:
                key = leg.instrument.key
                missing[key] = missing.get(key, ZERO) + self.residual(leg)
            return {key: quantity for key, quantity in missing.items() if quantity}


def progress(
    plan: Plan,
    releases: Mapping[str, Release],
    outcomes: Mapping[str, Outcome],
    now: datetime,
    *,
    is_superseded: bool = False,
) -> Progress:
    """`releases` and `outcomes` are by signal id; a release without an outcome is on its way."""
    with localcontext(EXACT):
        by_leg: dict[int, list[Release]] = {}
        for release in releases.values():
            by_leg.setdefault(release.leg, []).append(release)
        filled = [ZERO] * len(plan.legs)
        legs: list[Leg] = []
        for leg in plan.legs:
            mine = by_leg.get(leg.number, [])
            filled[leg.number] = sum((outcomes[r.signal_id].filled for r in mine if r.signal_id in outcomes), ZERO)
            legs.append(_as_it_stands(leg, mine, outcomes, filled[leg.number]))
        legs = [_still_wanted(leg, legs, filled, plan, now, is_superseded) for leg in legs]
        state = _state(legs, filled, is_superseded)
        return Progress(plan=plan, state=state, legs=tuple(legs), filled=tuple(filled))


def _as_it_stands(leg: Leg, mine: list[Release], outcomes: Mapping[str, Outcome], filled: Decimal) -> Leg:
    if leg.state is not LegState.WAITING or not mine:
        return leg
    ordered = sum((r.quantity for r in mine), ZERO)
    if not ordered:
        is_reduction = leg.phase is Phase.REDUCE
        nothing = LegReason.NOTHING_HELD if is_reduction else LegReason.INSUFFICIENT_CASH
        if not is_reduction and leg.price is None:
            nothing = LegReason.NO_PRICE
        return replace(leg, state=LegState.SKIPPED, reason=nothing)
    if any(r.signal_id not in outcomes or not outcomes[r.signal_id].is_final for r in mine):
        return replace(leg, state=LegState.RELEASED)
    if filled >= leg.wanted:
        return replace(leg, state=LegState.DONE)
    rejections = [words for r in mine if (words := outcomes[r.signal_id].rejection) is not None]
    if rejections and not filled:
        return replace(leg, state=LegState.REJECTED, note="; ".join(rejections))
    if filled >= ordered and filled >= leg.quantity and leg.reason is None:
        # All that was ordered: what is left is less than a lot.
        return replace(leg, state=LegState.DONE, reason=LegReason.DUST)
    reason = leg.reason
    if ordered < leg.quantity:
        reason = LegReason.NOTHING_HELD if leg.phase is Phase.REDUCE else LegReason.INSUFFICIENT_CASH
    return replace(leg, state=LegState.SHORT, reason=reason, note="; ".join(rejections) or leg.note)


_FINAL = frozenset(
    {LegState.DONE, LegState.SHORT, LegState.REJECTED, LegState.SKIPPED, LegState.BLOCKED, LegState.SUPERSEDED}
)


def _still_wanted(
    leg: Leg, legs: list[Leg], filled: list[Decimal], plan: Plan, now: datetime, is_superseded: bool
) -> Leg:
    """A leg that waits, with what ends its waiting for good."""
    if leg.state is not LegState.WAITING:
        return leg
    if is_superseded:
        return replace(leg, state=LegState.SUPERSEDED, reason=LegReason.SUPERSEDED)
    if leg.after is not None:
        close = legs[leg.after]
        if close.state in _FINAL and filled[close.number] < close.wanted:
            why = f"the close before it filled {filled[close.number]} of {close.wanted}"
            return replace(leg, state=LegState.SKIPPED, reason=LegReason.CLOSE_INCOMPLETE, note=why)
    valid_until = plan.targets.valid_until
    if valid_until is not None and now >= valid_until:
        return replace(leg, state=LegState.SKIPPED, reason=LegReason.NO_LONGER_VALID)
    return leg


def _state(legs: list[Leg], filled: list[Decimal], is_superseded: bool) -> PlanState:
    if any(leg.state not in _FINAL for leg in legs):
        return PlanState.WORKING
    if is_superseded:
        return PlanState.SUPERSEDED
    # What was left on purpose (the band, dust) is no failure of the plan.
    tolerated = (LegReason.IN_BAND, LegReason.DUST)
    wanting = [leg for leg in legs if not (leg.state is LegState.SKIPPED and leg.reason in tolerated)]
    if all(leg.state is LegState.DONE for leg in wanting):
        return PlanState.COMPLETED
    return PlanState.PARTIAL if any(filled) else PlanState.FAILED


def next_releases(
    at: Progress,
    releases: Mapping[str, Release],
    cash: Decimal | None,
    held: Mapping[str, Decimal],
    now: datetime,
    *,
    phases_together: bool = False,
) -> tuple[Release, ...]:
    """What may be sent now. Reductions: at once. Increases: when all reductions are final, for what `cash` pays for; None: cash is no bound.

    `cash` is what the broker confirms, less what is reserved; the proceeds of reductions are in it. `held` is the ledger now, by instrument key,
    less what other open orders may still take of it: a reduction never takes more than that, and an opening that follows a close waits until it
    is 0. `phases_together` (margin accounts): increases do not wait for reductions, except after their own close.
    """
    with localcontext(EXACT):
        waiting = [leg for leg in at.legs if leg.state is LegState.WAITING and leg.number not in _released(releases)]
        reductions = [leg for leg in waiting if leg.phase is Phase.REDUCE]
        made = [release for leg in _by_notional(reductions) for release in _of_reduction(at.plan, leg, held, now)]
        is_reduced = all(leg.state in _FINAL for leg in at.legs if leg.phase is Phase.REDUCE)
        if not is_reduced and not phases_together:
            return tuple(made)
        ready = [leg for leg in waiting if leg.phase is Phase.INCREASE and _is_ready(leg, at, held)]
        return (*made, *_of_increases(at.plan, _by_notional(ready), cash, now))


def _released(releases: Mapping[str, Release]) -> set[int]:
    return {release.leg for release in releases.values()}


def _by_notional(legs: list[Leg]) -> list[Leg]:
    return sorted(legs, key=lambda leg: (-leg.notional, leg.number))


def _is_ready(leg: Leg, at: Progress, held: Mapping[str, Decimal]) -> bool:
    return leg.after is None or (at.legs[leg.after].state is LegState.DONE and not held.get(leg.instrument.key, ZERO))


def _of_reduction(plan: Plan, leg: Leg, held: Mapping[str, Decimal], now: datetime) -> Iterator[Release]:
    """No more than is held now on the side that it takes from."""
    available = max(ZERO, held.get(leg.instrument.key, ZERO) * -leg.side.sign)
    for child, wanted in enumerate(leg.slices):
        quantity = min(wanted, available)
        available -= quantity
        if quantity or not child:
            yield _release(plan, leg, child, quantity, now)


def _of_increases(plan: Plan, legs: list[Leg], cash: Decimal | None, now: datetime) -> Iterator[Release]:
    settings = plan.settings
    if cash is None:
        for leg in legs:
            for child, quantity in enumerate(leg.slices):
                yield _release(plan, leg, child, quantity, now)
        return
    priced = [leg for leg in legs if leg.price is not None and leg.unit_value is not None]
    for leg in legs:
        if leg not in priced:
            # What it costs is not known, and so not whether there is cash for it.
            yield _release(plan, leg, 0, ZERO, now)
    wishes = [
        Increase(
            key=leg.instrument.key,
            wanted=leg.quantity,
            unit_cost=(leg.price or ZERO) * (leg.unit_value or ZERO) * (ONE + settings.guard),
            lot=leg.lot,
            min_quantity=leg.min_quantity,
        )
        for leg in priced
    ]
    for leg, quantity in zip(priced, affordable(wishes, cash, settings.fees), strict=True):
        parts = slices_of(quantity, len(leg.slices), leg.lot, max(leg.slices)) or (ZERO,)
        for child, part in enumerate(parts):
            yield _release(plan, leg, child, part, now)


def _release(plan: Plan, leg: Leg, child: int, quantity: Decimal, now: datetime) -> Release:
    return Release(
        signal_id=signal_id_of(plan.plan_id, leg.number, child),
        leg=leg.number,
        child=child,
        quantity=quantity,
        released_at=now,
    )
