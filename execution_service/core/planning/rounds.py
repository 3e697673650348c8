"""What follows a plan that has ended short: a retry of what is missing, or the way back; and what a decision has come to over all its rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal, localcontext

from execution_service.core.exact import EXACT, ZERO
from execution_service.core.planning.facts import Money, PlanSettings
from execution_service.core.planning.plan import Leg, LegReason, LegState
from execution_service.core.planning.progress import PlanState, Progress
from execution_service.core.planning.records import PlanRecord, RoundKind
from execution_service.core.planning.targets import OnPartial, Target, TargetPositions, WhenShort

RETRY_PAUSE = timedelta(seconds=10)
"""Between the end of a round and the retry, so that whatever stood in its way may pass."""
_SHORT = (PlanState.PARTIAL, PlanState.FAILED)


@dataclass(frozen=True, slots=True)
class NextRound:
    """A round that is to follow, and when at the earliest."""

    kind: RoundKind
    at: datetime


def next_round(record: PlanRecord, at: Progress, standard: OnPartial, now: datetime) -> NextRound | None:
    """What follows the round that has ended at `at`; None: nothing, and the result is told. `standard`: what the account's settings say. Nothing
    follows a plan that was superseded, nor the way back; nothing is tried again that is not valid any more."""
    targets = record.first_plan.targets
    wish = targets.on_partial or standard
    is_late = targets.valid_until is not None and now >= targets.valid_until
    if record.is_over or record.superseded_by is not None or at.state not in _SHORT or record.kind is RoundKind.UNWIND:
        return None
    match wish.what:
        case WhenShort.RETRY if not is_late and len(record.earlier) < wish.retries and _missed(at):
            return NextRound(RoundKind.RETRY, now + RETRY_PAUSE)
        case WhenShort.UNWIND if any(at.filled) and _missed(at):
            return NextRound(RoundKind.UNWIND, now)
    return None


def _missed(at: Progress) -> list[Leg]:
    """The legs of which something is missing that was to be reached: what the limit of turnover left is not, nor what a HALT stopped, which is not
    sent later either, nor an instrument that could not be traded and fits. Of one without a price it is not known how much that is."""
    on_purpose = (LegReason.TURNOVER, LegReason.HALTED, LegReason.IN_BAND, LegReason.DUST)
    legs = [leg for leg in at.legs if leg.state is not LegState.DONE and leg.reason not in on_purpose]
    return [leg for leg in legs if leg.wanted or leg.reason is LegReason.NO_PRICE]


def _way_back(held: Decimal, filled: Decimal, before: Decimal) -> Decimal:
    """What is held once this is traded back, and never more than was held before on a side that is not held now; all signed."""
    aim = EXACT.subtract(held, filled)
    is_theirs = aim * held > 0
    is_restored = aim * before > 0 and abs(aim) <= abs(before)
    return aim if is_theirs or is_restored else ZERO


def targets_of_round(record: PlanRecord, at: Progress, kind: RoundKind, held: Mapping[str, Decimal]) -> TargetPositions:
    """What the next round is to reach: of each instrument in which something is missing its target as it was planned; on the way back, of each in
    which something filled, what is `held` now (signed, by instrument key) without that."""
    first = record.first_plan
    aims: dict[str, Target] = {}
    if kind is RoundKind.UNWIND:
        filled: dict[str, Decimal] = {}
        before: dict[str, Decimal] = {}
        for leg in at.legs:
            key = leg.instrument.key
            filled[key] = EXACT.add(filled.get(key, ZERO), at.filled[leg.number] * leg.side.sign)
            before.setdefault(key, leg.held)
        for leg in at.legs:
            key = leg.instrument.key
            if filled[key]:
                quantity = _way_back(held.get(key, ZERO), filled[key], before[key])
                aims[key] = Target(instrument=leg.instrument, quantity=quantity)
    else:
        wanted = {leg.instrument.key for leg in _missed(at)}
        missing = {key: quantity for key, quantity in at.residuals.items() if key in wanted}
        weights = [each for each in at.plan.targets.targets if each.weight]
        for leg in at.legs:
            key = leg.instrument.key
            # The leg bears the holding's own name, where something is held.
            asked = (each for each in weights if each.instrument.could_be(leg.instrument))
            again = next(asked, None) if leg.reason is LegReason.NO_PRICE else None
            if again is not None:
                aims[key] = again  # how much that is was never known
            elif key in missing:
                aims[key] = Target(instrument=leg.instrument, quantity=leg.target)
    return replace(
        first.targets,
        targets=tuple(aims.values()),
        complete=False,
        expected_positions=(),
        # The way back is not bound to the time for which the decision was meant.
        valid_until=None if kind is RoundKind.UNWIND else first.targets.valid_until,
    )


def settings_of_round(settings: PlanSettings, kind: RoundKind) -> PlanSettings:
    """What a round is planned with: the account's settings, but the way back whole."""
    if kind is not RoundKind.UNWIND:
        return settings
    return replace(settings, band=ZERO, max_turnover=None, is_whole=True)


def wants_equity(
    record: PlanRecord, kind: RoundKind, targets: TargetPositions, settings: PlanSettings, money: Money
) -> bool:
    """Whether a round waits for the equity: it needs one, and its decision was planned with one, so that it is away for a moment only. Not the way
    back, of which quantities are known. `targets` and `settings` are the round's own: of most weights a retry knows the quantity."""
    was_known = record.first_plan.money.equity is not None
    needs_it = any(each.weight for each in targets.targets) or bool(settings.band) or settings.max_turnover is not None
    return kind is RoundKind.RETRY and money.equity is None and was_known and needs_it


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A decision at its end, over all its rounds."""

    state: PlanState
    residuals: dict[str, Decimal]
    """Of its own targets, by instrument key; signed as the position."""
    is_unwound: bool | None = None
    """Whether the way back was gone to its end; None: it was not gone."""


def ended(record: PlanRecord, rounds: Sequence[Progress]) -> Ended:
    """`rounds` are all of them, as they stand, the last one ended."""
    last = rounds[-1]
    if record.superseded_by is not None:
        return Ended(state=PlanState.SUPERSEDED, residuals=_missing(rounds))
    if record.kind is RoundKind.UNWIND:
        is_back = last.state is PlanState.COMPLETED and not any(last.residuals.values())
        residuals = _missing(rounds)
        return Ended(state=PlanState.FAILED if is_back else PlanState.PARTIAL, residuals=residuals, is_unwound=is_back)
    state = last.state
    if state is PlanState.FAILED and any(any(each.filled) for each in rounds):
        state = PlanState.PARTIAL
    return Ended(state=state, residuals=last.residuals)


def _missing(rounds: Sequence[Progress]) -> dict[str, Decimal]:
    """Of the first round's targets, with all that was filled in any round."""
    with localcontext(EXACT):
        wanted: dict[str, Decimal] = {}
        for leg in rounds[0].legs:
            wanted[leg.instrument.key] = wanted.get(leg.instrument.key, ZERO) + leg.wanted * leg.side.sign
        for each in rounds:
            for leg in each.legs:
                key = leg.instrument.key
                wanted[key] = wanted.get(key, ZERO) - each.filled[leg.number] * leg.side.sign
        return {key: quantity for key, quantity in wanted.items() if quantity}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """In money of the account, by the prices of the plan: what the plan's instruments come to, and what they were to come to."""

    net: Decimal
    gross: Decimal
    target_net: Decimal
    target_gross: Decimal
    unpriced: tuple[str, ...]
    """The keys of instruments that are left out, for want of a price."""


def exposure(first: Progress, residuals: dict[str, Decimal]) -> Exposure:
    net = gross = target_net = target_gross = ZERO
    unpriced = []
    with localcontext(EXACT):
        for key, leg in {leg.instrument.key: leg for leg in first.legs}.items():
            if not leg.is_priced:
                unpriced.append(key)
                continue
            unit = leg.unit_price
            wanted, reached = leg.target * unit, (leg.target - residuals.get(key, ZERO)) * unit
            net, gross = net + reached, gross + abs(reached)
            target_net, target_gross = target_net + wanted, target_gross + abs(wanted)
    return Exposure(net=net, gross=gross, target_net=target_net, target_gross=target_gross, unpriced=tuple(unpriced))


def reasons_not_reached(record: PlanRecord, rounds: Sequence[Progress]) -> list[str]:
    """Why, in words for people: each leg that was not done of the last round towards the targets, and of the way back from them."""
    towards = [at for each, at in zip(record.rounds, rounds, strict=True) if each.kind is not RoundKind.UNWIND]
    back = [at for each, at in zip(record.rounds, rounds, strict=True) if each.kind is RoundKind.UNWIND]
    return [
        f"{leg.instrument.symbol} {leg.side.value}: {leg.state.value}"
        + ("" if leg.reason is None else f" ({leg.reason.value})")
        + (f", {leg.note}" if leg.note else "")
        for at in (towards[-1], *back)
        for leg in at.legs
        if leg.state is not LegState.DONE
    ]
