"""What is to be released of a stored plan next, and how it has ended, from the plan, what was released and what became of those orders.

Worked out anew each time from all three: repeated or late facts cannot count twice, and a death between two steps loses nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_CEILING, Decimal, localcontext
from enum import StrEnum
from types import MappingProxyType

from execution_service.core.exact import EXACT, ZERO
from execution_service.core.planning.facts import ONE
from execution_service.core.planning.plan import Leg, LegReason, LegState, Phase, Plan, signal_id_of
from execution_service.core.planning.quantities import Increase, affordable, whole_lots
from execution_service.core.planning.targets import Aggressiveness
from execution_service.core.planning.terms import (
    AS_PLANNED,
    AT_MARKET,
    Conduct,
    Terms,
    choose,
    is_too_tame,
    least_at_once,
    most_at_once,
)

NO_CONDUCT: Mapping[int, Conduct] = MappingProxyType({})
"""Every leg is sent as the plan says."""


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
    terms: Terms = AT_MARKET
    stance: Aggressiveness = Aggressiveness.NORMAL
    """Under which it was released."""
    rung: int = 0
    """Of the ladder of an EMERGENCY."""
    reason: LegReason | None = None
    """Why nothing is sent, or less than was wanted."""
    is_followed: bool = False
    """What it leaves is sent again, as the leg's next order."""
    is_replaced: bool = False
    """It was to make way for an order of a stricter stance: whatever counts when it has ended, what it leaves is not given up."""
    allotted: Decimal | None = None
    """Of an increase that is sent in parts: so much of its leg there is cash for in all, what had filled by then included. None: of no matter."""
    is_void: bool = False
    """It was not sent before its plan was superseded, and never will be."""


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
    to_follow: Mapping[int, bool]
    """By leg number, of those whose last order has left something that the next one is to take: whether that order filled whole."""

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
        by_leg = _by_leg(releases)
        filled = [ZERO] * len(plan.legs)
        legs: list[Leg] = []
        to_follow: dict[int, bool] = {}
        is_late = plan.targets.valid_until is not None and now >= plan.targets.valid_until
        for leg in plan.legs:
            mine = by_leg.get(leg.number, [])
            filled[leg.number] = sum((outcomes[r.signal_id].filled for r in mine if r.signal_id in outcomes), ZERO)
            stands = _as_it_stands(leg, mine, outcomes, filled[leg.number], is_superseded, is_late)
            if stands.state is LegState.RELEASED and _all_final(mine, outcomes):
                to_follow[leg.number] = outcomes[mine[-1].signal_id].filled >= mine[-1].quantity
            legs.append(stands)
        legs = [_still_wanted(leg, legs, filled, is_superseded, is_late) for leg in legs]
        state = _state(legs, filled, is_superseded)
        return Progress(
            plan=plan, state=state, legs=tuple(legs), filled=tuple(filled), to_follow=MappingProxyType(to_follow)
        )


def _by_leg(releases: Mapping[str, Release]) -> dict[int, list[Release]]:
    """Each leg's in the sequence in which they were released."""
    found: dict[int, list[Release]] = {}
    for release in releases.values():
        found.setdefault(release.leg, []).append(release)
    for mine in found.values():
        mine.sort(key=lambda release: release.child)
    return found


def _all_final(mine: list[Release], outcomes: Mapping[str, Outcome]) -> bool:
    return all(
        r.is_void or not r.quantity or (r.signal_id in outcomes and outcomes[r.signal_id].is_final) for r in mine
    )


def _as_it_stands(
    leg: Leg, mine: list[Release], outcomes: Mapping[str, Outcome], filled: Decimal, is_superseded: bool, is_late: bool
) -> Leg:
    released = [r for r in mine if not r.is_void]
    if not released:
        return leg
    sent, last = [r for r in released if r.quantity], released[-1]
    if not sent:
        skipped = replace(leg, state=LegState.SKIPPED, reason=last.reason or _nothing_sent(leg))
        if last.reason is None and skipped.reason is LegReason.NO_PRICE and leg.price is not None:
            return replace(skipped, note="what its currency is worth in the account's is not known")
        return skipped
    if not _all_final(mine, outcomes):
        return replace(leg, state=LegState.RELEASED)
    if filled >= leg.wanted:
        return replace(leg, state=LegState.DONE)
    rejections = [words for r in sent if (words := outcomes[r.signal_id].rejection) is not None]
    if last.is_followed and filled < leg.quantity and not is_superseded:
        if not is_late:
            return replace(leg, state=LegState.RELEASED)
        # What is late is not sent any more, whether or not it could be by now.
        note = "; ".join(rejections) or leg.note
        return replace(leg, state=LegState.SHORT, reason=LegReason.NO_LONGER_VALID, note=note)
    if rejections and not filled and last.reason is None:
        return replace(leg, state=LegState.REJECTED, note="; ".join(rejections))
    if filled >= leg.quantity and leg.reason is None:
        # All that was ordered: what is left is less than a lot.
        return replace(leg, state=LegState.DONE, reason=LegReason.DUST)
    reason = last.reason or leg.reason
    if last.reason is None and sum((r.quantity for r in mine), ZERO) < leg.quantity:
        reason = _nothing_sent(leg)
    return replace(leg, state=LegState.SHORT, reason=reason, note="; ".join(rejections) or leg.note)


def _nothing_sent(leg: Leg) -> LegReason:
    """Of a leg of which less was sent than was planned, where its release does not say why."""
    if leg.phase is Phase.REDUCE:
        return LegReason.NOTHING_HELD
    return LegReason.INSUFFICIENT_CASH if leg.is_priced else LegReason.NO_PRICE


_FINAL = frozenset(
    {LegState.DONE, LegState.SHORT, LegState.REJECTED, LegState.SKIPPED, LegState.BLOCKED, LegState.SUPERSEDED}
)


def _still_wanted(leg: Leg, legs: list[Leg], filled: list[Decimal], is_superseded: bool, is_late: bool) -> Leg:
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
    if is_late:
        return replace(leg, state=LegState.SKIPPED, reason=LegReason.NO_LONGER_VALID)
    return leg


def _state(legs: list[Leg], filled: list[Decimal], is_superseded: bool) -> PlanState:
    if any(leg.state not in _FINAL for leg in legs):
        return PlanState.WORKING
    if is_superseded:
        return PlanState.SUPERSEDED
    # What was left on purpose (the band, dust) is no failure of the plan.
    tolerated = (LegReason.IN_BAND, LegReason.DUST)
    wanting = [leg for leg in legs if leg.reason not in tolerated]
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
    conduct: Mapping[int, Conduct] = NO_CONDUCT,
) -> tuple[Release, ...]:
    """What may be sent now. Reductions: at once. Increases: when all reductions are final, for what `cash` pays for; None: cash is no bound. Where
    the volume lets only a part of an increase be sent at once, what follows takes no more than cash was found for at first, and than is there then.

    `cash` is what the broker confirms, less what is reserved; the proceeds of reductions are in it. `held` is the ledger now, by instrument key,
    less what other open orders may still take of it: a reduction never takes more than that, and an opening that follows a close waits until it
    is 0. `phases_together` (margin accounts): increases do not wait for reductions, except after their own close. `conduct` is by leg number; a
    leg of which nothing is sent now waits.
    """
    with localcontext(EXACT):
        by_leg = _by_leg(releases)
        waiting = [
            leg
            for leg in at.legs
            if leg.state is LegState.WAITING and conduct.get(leg.number, AS_PLANNED).not_now is None
        ]
        reductions = [leg for leg in waiting if leg.phase is Phase.REDUCE]
        made = [
            release
            for leg in _by_notional(reductions)
            for release in _of_reduction(at.plan, leg, held, now, conduct.get(leg.number, AS_PLANNED))
        ]
        to_follow = [leg for leg in at.legs if leg.number in at.to_follow]
        for leg in to_follow:
            if leg.phase is Phase.REDUCE:
                made += _follower(at, by_leg[leg.number], held, now, conduct.get(leg.number, AS_PLANNED))
        is_reduced = all(leg.state in _FINAL for leg in at.legs if leg.phase is Phase.REDUCE)
        if not is_reduced and not phases_together:
            return tuple(made)
        ready = [leg for leg in waiting if leg.phase is Phase.INCREASE and _is_ready(leg, at, held)]
        following = [leg for leg in to_follow if leg.phase is Phase.INCREASE]
        wishes = [_Wish(leg=leg, left=leg.quantity) for leg in _by_notional(ready)]
        for leg in following:
            how, mine = conduct.get(leg.number, AS_PLANNED), by_leg[leg.number]
            if how.not_now is not None:
                continue
            if not _goes_on(at, mine[-1], how):
                made.append(_release(at.plan, leg, mine[-1].child + 1, ZERO, now, reason=LegReason.SLICE_UNFILLED))
                continue
            left = max(
                ZERO, _allotted(leg, mine) - at.filled[leg.number]
            )  # the broker may have filled more than was asked
            wishes.append(_Wish(leg=leg, left=left, after=mine[-1]))
        free = None if cash is None else cash - _kept_for_parts(at, by_leg)
        return (*made, *_of_increases(at, wishes, free, now, conduct))


def tame_releases(
    at: Progress, releases: Mapping[str, Release], outcomes: Mapping[str, Outcome], conduct: Mapping[int, Conduct]
) -> tuple[Release, ...]:
    """The working orders of reductions that were sent more tamely than counts by now: they are to be cancelled, and what they leave is sent anew."""
    return tuple(
        release
        for release in releases.values()
        if at.legs[release.leg].phase is Phase.REDUCE
        and release.signal_id in outcomes
        and not outcomes[release.signal_id].is_final
        and is_too_tame(release.stance, conduct.get(release.leg, AS_PLANNED).stance)
    )


def with_followers(releases: Sequence[Release], replaced: Collection[Release]) -> tuple[Release, ...]:
    """The releases, with the mark that the last one of each leg of which one is replaced makes way for another."""
    last: dict[int, int] = {}
    for release in releases:
        last[release.leg] = max(last.get(release.leg, 0), release.child)
    legs = {release.leg for release in replaced}
    return tuple(
        replace(r, is_followed=True, is_replaced=True) if r.leg in legs and r.child == last[r.leg] else r
        for r in releases
    )


def cash_needed(at: Progress, releases: Mapping[str, Release]) -> Decimal:
    """For all increases of which something is to be sent and that cost their whole value, at the guard price, without fees."""
    with localcontext(EXACT):
        by_leg = _by_leg(releases)
        paid = [leg for leg in at.legs if leg.phase is Phase.INCREASE and leg.is_paid_in_full]
        waiting = sum((leg.notional for leg in paid if leg.state is LegState.WAITING), ZERO)
        following = sum(
            (
                (_allotted(leg, by_leg[leg.number]) - at.filled[leg.number]) * leg.unit_price
                for leg in paid
                if leg.number in at.to_follow
            ),
            ZERO,
        )
        return (waiting + following) * (ONE + at.plan.settings.guard) + _kept_for_parts(at, by_leg)


def _allotted(leg: Leg, mine: Sequence[Release]) -> Decimal:
    """So much of an increase that is sent in parts cash was found for."""
    found = mine[-1].allotted
    return leg.quantity if found is None else found


def _kept_for_parts(at: Progress, by_leg: Mapping[int, Sequence[Release]]) -> Decimal:
    """What is to follow orders of increases that still work is worth, at the guard price: others do not spend that."""
    settings, kept = at.plan.settings, ZERO
    for leg in at.legs:
        mine = by_leg.get(leg.number, ())
        is_at_work = leg.state is LegState.RELEASED and leg.number not in at.to_follow
        if is_at_work and leg.phase is Phase.INCREASE and leg.is_paid_in_full and mine[-1].is_followed:
            left = _allotted(leg, mine) - at.filled[leg.number] - mine[-1].quantity
            kept += max(ZERO, left) * leg.unit_price * (ONE + settings.guard)
    return kept


def _by_notional(legs: list[Leg]) -> list[Leg]:
    """The largest first; of one value those with the lower numbers, as they come."""
    return sorted(legs, key=lambda leg: -leg.notional)


def _is_ready(leg: Leg, at: Progress, held: Mapping[str, Decimal]) -> bool:
    return leg.after is None or (at.legs[leg.after].state is LegState.DONE and not held.get(leg.instrument.key, ZERO))


def _available(leg: Leg, held: Mapping[str, Decimal]) -> Decimal:
    """What is held now on the side that the reduction takes from."""
    return max(ZERO, held.get(leg.instrument.key, ZERO) * -leg.side.sign)


def _of_reduction(
    plan: Plan, leg: Leg, held: Mapping[str, Decimal], now: datetime, conduct: Conduct
) -> Iterator[Release]:
    """No more than is held now."""
    chosen = choose(conduct, leg.side, leg.phase, 0)
    if isinstance(chosen, LegReason):
        yield _release(plan, leg, 0, ZERO, now, reason=chosen)
        return
    available = _available(leg, held)
    first = _first_order(leg, min(leg.quantity, available), conduct)
    most = most_at_once(conduct, leg)
    # One order at a time: on the ladder, and where all of it were more than its part of what the market trades.
    is_single = conduct.stance is Aggressiveness.EMERGENCY or (most is not None and most < leg.quantity)
    parts = (first,) if is_single else leg.slices
    for child, wanted in enumerate(parts):
        quantity = min(wanted, available)
        available -= quantity
        if quantity or not child:
            is_followed = chosen.is_followed or (is_single and quantity < leg.quantity)
            made = _release(plan, leg, child, quantity, now, terms=chosen.terms, stance=conduct.stance)
            yield replace(made, is_followed=is_followed and bool(quantity))


def _goes_on(at: Progress, last: Release, conduct: Conduct) -> bool:
    """Whether anything follows a leg's last order on the same rung: it has filled whole, was replaced, or another stance counts by now."""
    return conduct.stance is not last.stance or at.to_follow[last.leg] or last.is_replaced


def _follower(
    at: Progress, mine: list[Release], held: Mapping[str, Decimal], now: datetime, conduct: Conduct
) -> Iterator[Release]:
    """A reduction's next order, for what is left of it; one for nothing ends the leg, with the reason. None of it where it is not to be sent now."""
    last = mine[-1]
    leg, child = at.legs[last.leg], last.child + 1
    if conduct.not_now is not None:
        return
    rung = 0
    if conduct.stance is Aggressiveness.EMERGENCY and last.stance is Aggressiveness.EMERGENCY:
        # One that filled whole was only as large as the venue allows.
        rung = last.rung if at.to_follow[leg.number] else last.rung + 1
    elif not _goes_on(at, last, conduct):
        yield _release(at.plan, leg, child, ZERO, now, reason=LegReason.SLICE_UNFILLED)
        return
    chosen = choose(conduct, leg.side, leg.phase, rung)
    if isinstance(chosen, LegReason):
        yield _release(at.plan, leg, child, ZERO, now, reason=chosen)
        return
    left = min(leg.quantity - at.filled[leg.number], _available(leg, held))
    quantity = _first_order(leg, left, conduct)
    if not quantity:
        yield _release(at.plan, leg, child, ZERO, now, reason=LegReason.NOTHING_HELD)
        return
    made = _release(at.plan, leg, child, quantity, now, terms=chosen.terms, stance=conduct.stance)
    yield replace(made, rung=rung, is_followed=chosen.is_followed or quantity < left)


def _first_order(leg: Leg, left: Decimal, conduct: Conduct) -> Decimal:
    """How much of what is left one order takes: no more than the venue allows, and than its part of what the market trades, in whole lots. Where too
    little for an order would be left then, all of it if the venue allows that, else so much less that an order is left, if both are large enough."""
    largest, least = leg.max_quantity, least_at_once(conduct, leg)
    if largest is not None:
        largest = max(leg.lot, whole_lots(largest, leg.lot))
    bounds = (left, largest, most_at_once(conduct, leg))
    quantity = min(bound for bound in bounds if bound is not None)
    if not ZERO < left - quantity < least:
        return quantity
    if largest is None or left <= largest:
        return left
    smaller = whole_lots(left - least, leg.lot)
    return smaller if smaller >= least else quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """An increase of which something is to be sent now."""

    leg: Leg
    left: Decimal
    """What is still to be sent of it."""
    after: Release | None = None
    """Its order before, which has ended; None: there was none."""


def _of_increases(
    at: Progress, wishes: Sequence[_Wish], cash: Decimal | None, now: datetime, conduct: Mapping[int, Conduct]
) -> Iterator[Release]:
    """For what `cash` pays for of all of them together, and of each no more at once than its part of what the market trades."""
    paid: list[tuple[_Wish, Conduct, Terms]] = []
    for wish in wishes:
        leg, how = wish.leg, conduct.get(wish.leg.number, AS_PLANNED)
        chosen = choose(how, leg.side, leg.phase, 0)
        if isinstance(chosen, LegReason):
            yield _release(at.plan, leg, _next_child(wish), ZERO, now, reason=chosen)
        elif cash is None or not leg.is_paid_in_full:
            yield from _parts_of_increase(at, wish, wish.left, now, how, chosen.terms)
        elif not leg.is_priced or not wish.left:
            # What it costs is not known, and so not whether there is cash for it; or nothing is left.
            yield from _parts_of_increase(at, wish, ZERO, now, how, chosen.terms)
        else:
            paid.append((wish, how, chosen.terms))
    if cash is None:
        return
    asked = [_asked(at, wish, how) for wish, how, _ in paid]
    for (wish, how, terms), quantity in zip(paid, affordable(asked, cash, at.plan.settings.fees), strict=True):
        yield from _parts_of_increase(at, wish, quantity, now, how, terms)


def _asked(at: Progress, wish: _Wish, conduct: Conduct) -> Increase:
    leg = wish.leg
    bounds = [bound for bound in (most_at_once(conduct, leg), leg.max_quantity, wish.left) if bound is not None]
    in_turn = int((wish.left / min(bounds)).to_integral_value(ROUND_CEILING))
    return Increase(
        key=leg.instrument.key,
        wanted=wish.left,
        unit_cost=leg.unit_price * (ONE + at.plan.settings.guard),
        lot=leg.lot,
        min_quantity=least_at_once(conduct, leg),
        orders=in_turn if _goes_in_turn(wish, wish.left, conduct) else len(leg.slices),
    )


def _next_child(wish: _Wish) -> int:
    return 0 if wish.after is None else wish.after.child + 1


def _goes_in_turn(wish: _Wish, quantity: Decimal, conduct: Conduct) -> bool:
    """Whether its orders follow each other: all of it were more than its part of what the market trades, or one of them has been sent."""
    most = most_at_once(conduct, wish.leg)
    return wish.after is not None or (most is not None and most < quantity)


def _parts_of_increase(
    at: Progress, wish: _Wish, quantity: Decimal, now: datetime, conduct: Conduct, terms: Terms
) -> Iterator[Release]:
    """Those of its orders that are sent now: all that it is cut into, or the first of those that follow each other by the volume."""
    leg, child = wish.leg, _next_child(wish)
    made = _release(at.plan, leg, child, quantity, now, terms=terms, stance=conduct.stance)
    if wish.after is not None and not quantity:
        reason = LegReason.INSUFFICIENT_CASH if leg.is_priced else LegReason.NO_PRICE
        yield replace(made, reason=reason)
        return
    if _goes_in_turn(wish, quantity, conduct):
        first = _first_order(leg, quantity, conduct)
        allotted = at.filled[leg.number] + quantity
        yield replace(made, quantity=first, is_followed=first < quantity, allotted=allotted)
        return
    cut = leg.sliced(quantity, len(leg.slices), price=conduct.price or leg.price)
    parts = leg.slices if quantity == leg.quantity else cut.slices or (ZERO,)
    for number, part in enumerate(parts):
        yield replace(made, signal_id=signal_id_of(at.plan.plan_id, leg.number, number), child=number, quantity=part)


def _release(
    plan: Plan,
    leg: Leg,
    child: int,
    quantity: Decimal,
    now: datetime,
    *,
    terms: Terms = AT_MARKET,
    stance: Aggressiveness = Aggressiveness.NORMAL,
    reason: LegReason | None = None,
) -> Release:
    return Release(
        signal_id=signal_id_of(plan.plan_id, leg.number, child),
        leg=leg.number,
        child=child,
        quantity=quantity,
        released_at=now,
        terms=terms,
        stance=stance,
        reason=reason,
    )
