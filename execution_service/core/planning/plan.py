"""Targets and what is held -> a plan: which orders, in which phase, and why something is not traded. Computed once; what is stored is the answer.

A leg is one order, or several in slices, of one instrument: a close, or an opening. Closes and other reductions come first; increases wait for
the cash that those bring.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from enum import StrEnum

from brokers.base import AssetClass, Instrument, Side
from execution_service.core.exact import EXACT, ZERO
from execution_service.core.planning.facts import InstrumentFacts, Money, PlanSettings
from execution_service.core.planning.quantities import divided, lots_for, slices_of, whole_lots
from execution_service.core.planning.targets import (
    Aggressiveness,
    Mode,
    PlanRefused,
    Refusal,
    RefusalCode,
    Target,
    TargetPositions,
)


class Phase(StrEnum):
    REDUCE = "REDUCE"
    INCREASE = "INCREASE"


class LegState(StrEnum):
    """How far a leg is. Those from DONE on are final."""

    WAITING = "WAITING"
    RELEASED = "RELEASED"
    DONE = "DONE"
    SHORT = "SHORT"
    """Its orders are finished and filled less than was wanted."""
    REJECTED = "REJECTED"
    SKIPPED = "SKIPPED"
    BLOCKED = "BLOCKED"
    SUPERSEDED = "SUPERSEDED"


class LegReason(StrEnum):
    """Why a leg does less than its target asks."""

    IN_BAND = "IN_BAND"
    DUST = "DUST"
    NO_PRICE = "NO_PRICE"
    BLOCKED = "BLOCKED"
    OPEN_ORDERS = "OPEN_ORDERS"
    EMERGENCY_REDUCE_ONLY = "EMERGENCY_REDUCE_ONLY"
    TURNOVER = "TURNOVER"
    INSUFFICIENT_CASH = "INSUFFICIENT_CASH"
    NOTHING_HELD = "NOTHING_HELD"
    CLOSE_INCOMPLETE = "CLOSE_INCOMPLETE"
    NO_LONGER_VALID = "NO_LONGER_VALID"
    SUPERSEDED = "SUPERSEDED"
    HALTED = "HALTED"
    """A kill switch at halt lets nothing leave; what waited is not sent later either."""
    OUTSIDE_COLLAR = "OUTSIDE_COLLAR"
    """The market was beyond the widest collar."""
    SLICE_UNFILLED = "SLICE_UNFILLED"
    """An order that was bounded by what the market trades did not fill whole, and there is no further rung: the rest is not sent."""


ON_MARGIN = frozenset({AssetClass.FUTURE, AssetClass.FOREX, AssetClass.CFD})
"""Kinds of instruments of which an account pays no more than a margin."""
MOST_ORDERS = 1000
"""Of one leg: what would take more of them, by the largest order of its venue, is not traded."""
AHEAD = timedelta(minutes=5)
"""So far the clock of whoever decides may be before ours."""
_BLOCKING = frozenset({LegReason.BLOCKED, LegReason.OPEN_ORDERS, LegReason.NO_PRICE})
"""What the plan could not decide, as opposed to what it decided not to trade."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One step in one instrument. `wanted` is what the step needs, `quantity` what is to be ordered of it, both positive."""

    number: int
    instrument: Instrument
    side: Side
    phase: Phase
    wanted: Decimal
    quantity: Decimal
    target: Decimal
    """The signed holding that the plan aims at in the instrument."""
    held: Decimal
    """The signed holding that the leg was computed from, working orders included."""
    price: Decimal | None
    unit_value: Decimal | None
    lot: Decimal
    min_quantity: Decimal
    slices: tuple[Decimal, ...]
    """The quantities of its orders; they add up to `quantity`."""
    after: int | None = None
    """The number of the closing leg that must have filled whole before this one is sent."""
    state: LegState = LegState.WAITING
    reason: LegReason | None = None
    note: str = ""
    max_quantity: Decimal | None = None
    """The largest quantity of one order; None: no limit is known."""
    min_notional: Decimal = ZERO
    """The smallest value of an order, in money of the account; what closes a holding whole may be less."""

    @property
    def is_exit(self) -> bool:
        return self.phase is Phase.REDUCE

    @property
    def is_paid_in_full(self) -> bool:
        """Whether an increase costs its whole value in cash, as opposed to a margin that only the broker knows."""
        return self.instrument.asset_class not in ON_MARGIN

    @property
    def is_priced(self) -> bool:
        """Whether it is known what it is worth in money of the account."""
        return self.price is not None and self.unit_value is not None

    @property
    def unit_price(self) -> Decimal:
        """Money of the account for one unit; 0 where that is not known."""
        return (self.price or ZERO) * (self.unit_value or ZERO)

    def least_at(self, price: Decimal | None) -> Decimal:
        """The venue's smallest order, by quantity and by value at this price; by quantity alone where no price is known."""
        if not price or not self.unit_value:
            return self.min_quantity
        return max(self.min_quantity, lots_for(divided(self.min_notional, price * self.unit_value), self.lot))

    def sliced(self, quantity: Decimal, count: int, *, price: Decimal | None) -> Leg:
        """With this quantity, in so many slices, as far as the venue's smallest order at this price and its largest let it."""
        slices = slices_of(quantity, count, self.lot, self.max_quantity, self.least_at(price))
        return replace(self, quantity=quantity, slices=slices)

    @property
    def notional(self) -> Decimal:
        """In money of the account; 0 where no price is known."""
        return self.quantity * self.unit_price


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer to one list of targets, with the figures that it was computed from."""

    plan_id: str
    targets: TargetPositions
    planned_at: datetime
    money: Money
    settings: PlanSettings
    legs: tuple[Leg, ...]
    """By number; numbers follow the instruments' keys, a close before its opening."""

    def leg(self, number: int) -> Leg:
        return self.legs[number]

    def in_sequence(self) -> tuple[Leg, ...]:
        """As they are to be sent: reductions first, the largest first; then increases, likewise; ties by number."""
        return tuple(sorted(self.legs, key=lambda leg: (leg.phase is Phase.INCREASE, -leg.notional)))


def signal_id_of(plan_id: str, leg: int, child: int) -> str:
    """The name of a leg's order under which it is placed at most once; `child` counts from 0."""
    return f"{plan_id}:{leg:03d}" + (f".{child}" if child else "")


def make_plan(
    targets: TargetPositions,
    facts: Mapping[str, InstrumentFacts],
    money: Money,
    settings: PlanSettings,
    now: datetime,
) -> Plan:
    """`facts` are by instrument key: of every instrument that is targeted and, for a complete list, of all that is held.

    Raises PlanRefused, with every reason.
    """
    with localcontext(EXACT):
        refusals = (*refusals_of_list(targets, settings, now), *refusals_of_facts(targets, facts, money))
        if refusals:
            raise PlanRefused(refusals)
        wanted = {target.instrument.key: target for target in targets.targets}
        keys = set(wanted)
        if targets.complete:
            keys |= {key for key, known in facts.items() if known.held or known.working}
        aims = {key: _target_quantity(wanted.get(key), facts[key], money, settings) for key in sorted(keys)}
        if targets.complete and not targets.allow_flatten and not any(aim is None or aim for aim in aims.values()):
            raise PlanRefused([_flatten_refused("a complete list whose weights all come to less than a lot")])
        legs: list[Leg] = []
        for key, aim in aims.items():
            step = _Step(
                known=facts[key],
                aim=aim,
                settings=settings,
                equity=money.equity,
                is_emergency=_stance(facts[key], targets) is Aggressiveness.EMERGENCY,
            )
            legs += step.legs(len(legs))
        if settings.max_turnover is not None and money.equity is not None:
            legs = _within_turnover(legs, settings.max_turnover * money.equity, facts)
        return Plan(
            plan_id=targets.plan_id,
            targets=targets,
            planned_at=now,
            money=money,
            settings=settings,
            legs=tuple(legs),
        )


def _stance(known: InstrumentFacts, targets: TargetPositions) -> Aggressiveness:
    return targets.aggressiveness if known.stance is None else known.stance


def refusals_of_list(targets: TargetPositions, settings: PlanSettings, now: datetime) -> Iterator[Refusal]:
    """All that is wrong with it whatever is held."""
    if not targets.targets and not targets.complete:
        yield Refusal(RefusalCode.EMPTY, "no targets, and the list is not complete: nothing is asked for")
    if targets.complete and not targets.allow_flatten and not any(t.quantity or t.weight for t in targets.targets):
        yield _flatten_refused("a complete list of nothing")
    if targets.mode is Mode.PRODUCTION and targets.as_of > now + AHEAD:
        # Taken, it would refuse all that are decided until then.
        yield Refusal(RefusalCode.FUTURE_PLAN, f"as_of {targets.as_of.isoformat()} lies in the future")
    if targets.valid_until is not None and now >= targets.valid_until:
        yield Refusal(RefusalCode.NO_LONGER_VALID, f"valid until {targets.valid_until.isoformat()}")
    yield from _named_twice(targets)
    for target in targets.targets:
        key = target.instrument.key
        if (target.quantity is None) == (target.weight is None):
            yield Refusal(RefusalCode.QUANTITY_OR_WEIGHT, f"{key} needs a quantity or a weight, and not both")
    with localcontext(EXACT):
        weights = sum((abs(target.weight) for target in targets.targets if target.weight is not None), ZERO)
    if weights > settings.max_weights:
        yield Refusal(
            RefusalCode.WEIGHTS_OVER_LIMIT, f"the weights add up to {weights}, more than {settings.max_weights}"
        )


def _flatten_refused(what: str) -> Refusal:
    return Refusal(RefusalCode.FLATTEN_NOT_ALLOWED, f"{what} closes everything: it needs allow_flatten")


def _named_twice(targets: TargetPositions) -> Iterator[Refusal]:
    """Of targets that name one instrument, or may name one: both would be reached, and together they are what nobody wants."""
    seen = _Seen()
    for target in targets.targets:
        mine = target.instrument
        other = seen.like(mine)
        if other is not None:
            is_same = other.full_key == mine.full_key
            words = "is named more than once" if is_same else f"may be {other.full_key}, which is named too"
            yield Refusal(RefusalCode.DUPLICATE_INSTRUMENT, f"{mine.full_key} {words}")
        seen.add(mine)


class _Seen:
    """Instruments, found by whatever may name the same one; without looking at every other contract of a symbol."""

    def __init__(self) -> None:
        self._by_number: dict[int, Instrument] = {}
        self._numbered: dict[str, list[Instrument]] = {}
        self._by_contract: dict[tuple[object, ...], list[Instrument]] = {}
        self._unnumbered: dict[str, list[Instrument]] = {}

    def add(self, instrument: Instrument) -> None:
        if instrument.con_id is not None:
            self._by_number[instrument.con_id] = instrument
            self._numbered.setdefault(instrument.symbol, []).append(instrument)
        else:
            self._by_contract.setdefault(_contract_of(instrument), []).append(instrument)
            self._unnumbered.setdefault(instrument.symbol, []).append(instrument)

    def like(self, instrument: Instrument) -> Instrument | None:
        """The first that may be the same; None: there is none."""
        if instrument.con_id is None:
            # A number may stand for any contract of its symbol.
            among = (self._by_contract.get(_contract_of(instrument)), self._numbered.get(instrument.symbol))
        else:
            same = self._by_number.get(instrument.con_id)
            among = (None if same is None else [same], self._unnumbered.get(instrument.symbol))
        return next((each for some in among for each in some or () if each.could_be(instrument)), None)


def _contract_of(instrument: Instrument) -> tuple[object, ...]:
    """What two without a number must agree in to be the same."""
    return instrument.symbol, instrument.asset_class, instrument.expiry, instrument.strike, instrument.right


def refusals_of_facts(
    targets: TargetPositions, facts: Mapping[str, InstrumentFacts], money: Money
) -> Iterator[Refusal]:
    """All for which it cannot be planned with what is held and known."""
    for target in targets.targets:
        known = facts.get(target.instrument.key)
        if known is None or known.unknown is not None:
            why = "" if known is None or not known.unknown else f": {known.unknown}"
            yield Refusal(RefusalCode.UNKNOWN_INSTRUMENT, f"{target.instrument.key} is not known{why}")
    if any(target.weight for target in targets.targets) and (money.equity is None or money.equity <= 0):
        yield Refusal(RefusalCode.NO_EQUITY, "weights need the account's equity, and none is known")
    for expected in targets.expected_positions:
        held = facts[expected.key].held if expected.key in facts else ZERO
        if held != expected.quantity:
            yield Refusal(RefusalCode.STALE_POSITIONS, f"{expected.key}: expected {expected.quantity}, held is {held}")


def _target_quantity(
    target: Target | None, known: InstrumentFacts, money: Money, settings: PlanSettings
) -> Decimal | None:
    """Signed; None: it depends on a price that is not known."""
    if target is None:
        return ZERO
    if target.quantity is not None:
        return target.quantity
    assert target.weight is not None
    if not target.weight:
        return ZERO
    if not known.unit_price or money.equity is None:
        return None
    worth = target.weight * money.equity * (1 - settings.buffer)
    return whole_lots(divided(worth, known.unit_price), known.lot)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One instrument on its way to its target."""

    known: InstrumentFacts
    aim: Decimal | None
    settings: PlanSettings
    equity: Decimal | None
    is_emergency: bool

    @property
    def projected(self) -> Decimal:
        return self.known.held + self.known.working

    @property
    def delta(self) -> Decimal:
        return ZERO if self.aim is None else self.aim - self.projected

    def legs(self, number: int) -> Iterator[Leg]:
        known, delta, projected = self.known, self.delta, self.projected
        if self.aim is None:
            why = "a weight needs a fresh price"
            if known.unit_value is None:
                why = f"a weight needs what {known.currency or 'its currency'} is worth in the account's currency"
            yield self._off(number, Phase.INCREASE, ZERO, LegReason.NO_PRICE, why)
            return
        closing = min(abs(delta), abs(projected)) if projected * delta < 0 else ZERO
        opening = abs(delta) - closing
        phase = Phase.REDUCE if closing else Phase.INCREASE
        if known.blocked is not None:
            yield self._off(number, phase, abs(delta), LegReason.BLOCKED, known.blocked)
            return
        if known.working * delta < 0:
            # What an open order may still add is no holding yet: an order against it might open the other side.
            why = "open orders go the other way and must be finished first"
            yield self._off(number, phase, abs(delta), LegReason.OPEN_ORDERS, why)
            return
        if closing and closing < abs(projected):
            yield self._change(number, Phase.REDUCE, closing)
        elif closing:
            yield self._leg(number, Phase.REDUCE, closing, closing)
        if opening and closing:
            yield replace(self._change(number + 1, Phase.INCREASE, opening), after=number)
        elif opening:
            yield self._change(number, Phase.INCREASE, opening)

    def _change(self, number: int, phase: Phase, wanted: Decimal) -> Leg:
        """A reduction that leaves something, or an increase: those keep to the band, to lots and to the venue's minimum."""
        known = self.known
        if phase is Phase.INCREASE and self.is_emergency:
            return self._off(number, phase, wanted, LegReason.EMERGENCY_REDUCE_ONLY, "only reductions in an emergency")
        if phase is Phase.INCREASE and self.settings.max_turnover is not None and self.equity is None:
            why = "the limit of turnover needs the account's equity, and it is not known"
            return self._off(number, phase, wanted, LegReason.BLOCKED, why)
        if self.settings.is_whole:
            return self._leg(number, phase, wanted, wanted)
        quantity = whole_lots(wanted, known.lot)
        if not quantity or quantity < known.min_quantity:
            least = max(known.lot, known.min_quantity)
            return self._off(
                number, phase, wanted, LegReason.DUST, f"{wanted} is less than the smallest order, {least}"
            )
        if known.unit_price is None:
            if phase is Phase.INCREASE and self.settings.max_turnover is not None:
                return self._off(number, phase, wanted, LegReason.NO_PRICE, "the limit of turnover needs a price")
            return self._leg(number, phase, wanted, quantity)
        value = quantity * known.unit_price
        if value < known.min_notional:
            why = f"worth {value}, less than the smallest order, {known.min_notional}"
            return self._off(number, phase, wanted, LegReason.DUST, why)
        band = ZERO if self.is_emergency or self.equity is None else self.settings.band * self.equity
        if value < band:
            return self._off(number, phase, wanted, LegReason.IN_BAND, f"worth {value}, less than the band, {band}")
        return self._leg(number, phase, wanted, quantity)

    def _off(self, number: int, phase: Phase, wanted: Decimal, reason: LegReason, note: str) -> Leg:
        state = LegState.BLOCKED if reason in _BLOCKING else LegState.SKIPPED
        return replace(self._leg(number, phase, wanted, ZERO), state=state, reason=reason, note=note)

    def _leg(self, number: int, phase: Phase, wanted: Decimal, quantity: Decimal) -> Leg:
        known = self.known
        if known.max_quantity and quantity > known.max_quantity * MOST_ORDERS:
            why = f"{quantity} would take more than {MOST_ORDERS} orders of at most {known.max_quantity}"
            return self._off(number, phase, wanted, LegReason.BLOCKED, why)
        leg = Leg(
            number=number,
            instrument=known.instrument,
            side=Side.BUY if self.delta > 0 else Side.SELL,
            phase=phase,
            wanted=wanted,
            quantity=quantity,
            target=self.projected if self.aim is None else self.aim,
            held=self.projected,
            price=known.price,
            unit_value=known.unit_value,
            lot=known.lot,
            min_quantity=known.min_quantity,
            max_quantity=known.max_quantity,
            min_notional=known.min_notional,
            slices=(),
        )
        return leg.sliced(quantity, self.settings.slices, price=leg.price)


def _within_turnover(legs: list[Leg], most: Decimal, facts: Mapping[str, InstrumentFacts]) -> list[Leg]:
    """Increases scaled by one factor, so that all that is traded is worth `most`; reductions take from it and stay as they are."""
    reduced = sum((leg.notional for leg in legs if leg.phase is Phase.REDUCE), ZERO)
    increased = sum((leg.notional for leg in legs if leg.phase is Phase.INCREASE), ZERO)
    left = max(ZERO, most - reduced)
    if increased <= left:
        return legs
    why = f"the plan may trade {most} in all"
    by_name = {known.instrument.key: known for known in facts.values()}
    scaled = []
    for leg in legs:
        if leg.phase is Phase.REDUCE or not leg.quantity:
            scaled.append(leg)
            continue
        quantity = whole_lots(divided(leg.quantity * left, increased), leg.lot)
        known = by_name[leg.instrument.key]
        if not quantity or quantity < leg.min_quantity or quantity * leg.unit_price < known.min_notional:
            off = replace(leg, quantity=ZERO, slices=(), state=LegState.SKIPPED)
            scaled.append(replace(off, reason=LegReason.TURNOVER, note=why))
            continue
        cut = leg.sliced(quantity, len(leg.slices), price=leg.price)
        scaled.append(replace(cut, reason=LegReason.TURNOVER, note=why))
    return scaled
