"""The risk gate: one order, all that is known at this moment, and the limits; out comes a verdict with every reason. Nothing is asked or kept here.

An order that is an exit by projected exposure passes every limit but a halt and a closed market that is to refuse: a limit exists to stop new risk.
For all other orders what is not known is never taken for harmless: a figure that a written limit needs and that cannot be had refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from functools import cached_property, partial, reduce
from typing import TypeAlias

from brokers.base import AssetClass, OrderType, Side
from execution_service.core.exact import EXACT, ZERO, shown_beside
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.positions.ledger import key_of
from execution_service.core.risk.counters import Counters, Trip, content_of, rolled
from execution_service.core.risk.exposure import (
    Exposure,
    Holding,
    Reservation,
    exit_room,
    exposure,
    in_currency,
    released,
    working_quantity,
)
from execution_service.core.risk.kill import KillState, lets_pass, strictest
from execution_service.core.risk.limits import (
    MINUTE_SECONDS,
    QUOTIENT_PLACES,
    QUOTIENTS,
    Applicable,
    Bound,
    LimitType,
    Repetition,
    RiskLimits,
    Scope,
    SessionRule,
    StopRule,
)
from execution_service.core.risk.prices import (
    HUNDRED,
    PriceRange,
    PriceSource,
    Rate,
    ReferencePrice,
    best_reference,
    distance_pct,
    execution_range,
    is_fresh,
    price_of_message,
    rates_into,
    used_price,
)
from execution_service.core.risk.verdict import (
    KILL_SWITCH,
    SAFETY_SERVICE,
    Breach,
    Decision,
    Override,
    Unjudged,
    Use,
    Verdict,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An amount in the account's currency, as the broker told it."""

    value: Decimal
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Of the order's market."""

    is_open: bool
    opens_at: datetime | None = None
    """When it is closed: until when, where the calendar tells."""
    opened_at: datetime | None = None
    """When it is open: since when, where the calendar tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known when an order is judged. None and an empty collection differ: None is not known.

    `holdings` and `working` must be of one moment: a fill that is in both counts twice, which is careful; one that is in neither is risk that nobody
    counts. Best are the ledger with all recorded fills, and of orders in hand what is left by their records.
    """

    now: datetime
    zone: tzinfo
    """Of the account's trading day."""
    account_currency: str | None
    order_currency: str | None
    """In which the order's prices are quoted."""
    holdings: tuple[Holding, ...] | None
    """Of the whole account. An instrument that is not among them is not held."""
    working: tuple[Reservation, ...]
    """All orders of the account that are at the broker, perhaps are, or are about to be."""
    counters: Counters
    kill: KillState
    prices: tuple[ReferencePrice, ...] = ()
    """Of the order's instrument, per unit of its quoted price; the message's own need not be among them."""
    no_quote: str | None = None
    """Why the broker's quote of it is not among them, in words; None: it is, or nobody asked."""
    rates: tuple[Rate, ...] = ()
    exit_cap: Decimal | None = None
    """The most that a comparison with the broker's positions lets an exit take (core/orders/exit_bound.py); None: nothing is known to differ."""
    equity: Reading | None = None
    buying_power: Reading | None = None
    """What the broker would let the account buy; working orders are not taken off by it."""
    safety: tuple[str, ...] = ()
    """Why an outside service lets no new risk pass, in words; one that could not be asked is such a reason, too."""
    session: Session | None = None
    confidence: Decimal | None = None
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True, slots=True)
class _Wait:
    breach: Breach
    until: datetime | None


@dataclass(frozen=True, slots=True)
class _Moved:
    """The stop, as the rule adjusts it."""

    stop: Decimal


_Finding: TypeAlias = Breach | Use | Unjudged | _Wait | Trip | _Moved


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One order as it is judged, with what several limits ask for worked out once, and only where one asks."""

    order: Order
    facts: Facts
    limits: Applicable
    where: Scope
    counters: Counters
    reference: ReferencePrice | None
    """Of the market or the message, fresh enough."""
    range: PriceRange
    rate: Decimal | None
    """What one unit of price for one unit of quantity is worth in the account's currency."""
    reservation: Reservation

    @cached_property
    def others(self) -> tuple[Reservation, ...]:
        """What works but for the order itself."""
        return released(self.facts.working, self.order.order_id)

    @property
    def adds(self) -> int:
        """How many orders it is more than are counted: none where it reserves already, since it was counted with that."""
        return 1 if len(self.others) == len(self.facts.working) else 0

    @cached_property
    def before(self) -> Exposure:
        return exposure(_held(self.facts, self.reservation), self.others)

    @cached_property
    def after(self) -> Exposure:
        """With the order."""
        return self.before.plus(self.reservation)

    @property
    def side(self) -> Side:
        return self.order.accepted_request.side

    @property
    def value(self) -> Decimal | None:
        """What the order costs at most."""
        return self.reservation.value

    @property
    def market(self) -> ReferencePrice | None:
        """What the market, and not the message, says."""
        told = self.reference
        return None if told is None or told.source is PriceSource.MESSAGE else told

    def bound(self, limit: LimitType) -> Bound | None:
        return self.limits.bound(limit)

    def bounds(self, limit: LimitType) -> tuple[Bound, ...]:
        return self.limits.bounds(limit)


def judge(order: Order, facts: Facts, limits: RiskLimits) -> Verdict:
    """Whether the order may be sent now. What `facts.working` holds of the order itself is left out: it is judged as if it were new.

    A verdict holds until anything of the facts changes: its reservation must be written by a compare-and-set on the document that `working` and
    `counters` were read from, before or with the intent.
    """
    case = _case(order, facts, limits)
    room = _exit_room(case)
    is_exit = order.cash_quantity is None and ZERO < case.reservation.quantity <= room
    on = case.limits.on
    found = [f for check, needed in _CHECKS if not needed or not on.isdisjoint(needed) for f in check(case)]
    if is_exit:
        found = [finding for finding in found if isinstance(finding, Use | Trip)]
    findings: list[_Finding] = [*_kill_switches(case, is_exit, room), *_closed_market(case, is_exit), *found]
    breaches = tuple(f for f in findings if isinstance(f, Breach))
    waits = tuple(f for f in findings if isinstance(f, _Wait))
    override = None
    if breaches and not any(breach.is_final for breach in breaches):
        override = next((each for each in facts.overrides if each.lets(order, facts.now)), None)
    decision = Decision.HOLD if waits else Decision.PASS
    if breaches and override is None:
        decision = Decision.REFUSE
    return Verdict(
        order_id=order.order_id,
        at=facts.now,
        decision=decision,
        is_exit=is_exit,
        exit_room=room,
        breaches=breaches,
        waits=tuple(wait.breach for wait in waits),
        hold_until=_latest(waits) if decision is Decision.HOLD else None,
        uses=tuple(f for f in findings if isinstance(f, Use)),
        unjudged=tuple(f for f in findings if isinstance(f, Unjudged)),
        reservation=None
        if decision is not Decision.PASS
        else _as_exit(case.reservation)
        if is_exit
        else case.reservation,
        override=override,
        trips=tuple(f for f in findings if isinstance(f, Trip)),
        price=used_price(case.reference, facts.now),
        adjusted_stop=next((f.stop for f in findings if isinstance(f, _Moved)), None),
    )


def refused_although_exit(order: Order, facts: Facts, limits: RiskLimits) -> Verdict | None:
    """The refusal of an order that may not leave even as an exit, by a kill switch at halt or a closed market whose rule is to refuse; None: as an
    exit it may. Nothing but the switches and the session is looked at, so that it can be told before protective orders make way for it."""
    case = _case(order, facts, limits)
    found: list[Breach | _Wait] = [*_kill_switches(case, True, ZERO), *_closed_market(case, True)]
    breaches = tuple(finding for finding in found if isinstance(finding, Breach) and finding.is_final)
    if not breaches:
        return None
    return Verdict(
        order_id=order.order_id, at=facts.now, decision=Decision.REFUSE, is_exit=True, exit_room=ZERO, breaches=breaches
    )


def _as_exit(reservation: Reservation) -> Reservation:
    return replace(reservation, is_exit=True)


def reservation_of(order: Order, facts: Facts, limits: RiskLimits) -> Reservation:
    """What an order that was sent without being reserved for may still do: one from before there was a gate, or before a limit that adds up."""
    return _case(order, facts, limits).reservation


def _latest(waits: tuple[_Wait, ...]) -> datetime | None:
    """When all of them may be over; None: nobody can tell of one."""
    latest = waits[0].until
    for wait in waits:
        latest = None if latest is None or wait.until is None else max(latest, wait.until)
    return latest


# --- what several limits ask for ------------------------------------------------------------------------------------


def _case(order: Order, facts: Facts, limits: RiskLimits) -> _Case:
    request = order.accepted_request
    where = Scope(account_id=request.account_id, strategy=request.strategy, symbol=request.instrument.symbol)
    applicable = limits.of(where)
    oldest = applicable.bound(LimitType.REFERENCE_PRICE_MAX_AGE_SECONDS)
    max_age = None if oldest is None else oldest.number
    seen = price_of_message(order)
    reference = best_reference((*(() if seen is None else (seen,)), *facts.prices), facts.now, max_age)
    prices = execution_range(order, None if reference is None else reference.price)
    rate = _rate(order, facts, max_age)
    reservation = Reservation(
        order_id=order.order_id,
        strategy=request.strategy,
        instrument_key=key_of(order).instrument_key,
        symbol=request.instrument.symbol,
        side=request.side,
        quantity=order.remaining_quantity,
        unit_value=_unit_value(order, facts, prices, rate, max_age),
        is_exit=False,
        at=facts.now,
        is_paid_in_full=request.instrument.asset_class not in _ON_MARGIN,
    )
    return _Case(
        order=order,
        facts=facts,
        limits=applicable,
        where=where,
        counters=rolled(facts.counters, facts.now, facts.zone),
        reference=reference,
        range=prices,
        rate=rate,
        reservation=reservation,
    )


def _held(facts: Facts, order: Reservation) -> tuple[Holding, ...]:
    """Where positions are not known, that of the order's instrument is an unknown one, and so every figure that it is part of."""
    if facts.holdings is not None:
        return facts.holdings
    unknown = Holding(strategy=order.strategy, instrument_key=order.instrument_key, symbol=order.symbol, quantity=None)
    return (unknown,)


def _fresh_rates(facts: Facts, max_age: Decimal | None) -> dict[str, Decimal]:
    """What one unit of a currency is worth in the account's, by the youngest rate that is young enough."""
    return rates_into(facts.account_currency, facts.rates, facts.now, max_age)


def _rate(order: Order, facts: Facts, max_age: Decimal | None) -> Decimal | None:
    rates = _fresh_rates(facts, max_age)
    return in_currency(order.money_per_point, facts.order_currency, facts.account_currency, rates)


def _unit_value(
    order: Order, facts: Facts, prices: PriceRange, rate: Decimal | None, max_age: Decimal | None
) -> Decimal | None:
    """What one unit costs at most. Of an order for an amount of money that amount, spread over what it is expected to buy."""
    if order.cash_quantity is not None:
        rates = _fresh_rates(facts, max_age)
        spent = in_currency(order.cash_quantity, facts.order_currency, facts.account_currency, rates)
        return None if spent is None or not order.remaining_quantity else EXACT.divide(spent, order.remaining_quantity)
    return None if rate is None or prices.most is None else EXACT.multiply(prices.most, rate)


def _exit_room(case: _Case) -> Decimal:
    order, facts = case.reservation, case.facts
    if facts.holdings is None:
        return ZERO
    mine = (order.strategy, order.instrument_key)
    held = [each.quantity for each in facts.holdings if (each.strategy, each.instrument_key) == mine]
    working = working_quantity(case.others, order.strategy, order.instrument_key, order.side)
    return exit_room(held[0] if held else ZERO, order.side, working, facts.exit_cap)


# --- how a figure is told -------------------------------------------------------------------------------------------


def _product(*factors: Decimal) -> Decimal:
    return reduce(EXACT.multiply, factors)


def _amount(value: Decimal) -> str:
    """Exactly, without an exponent or trailing zeros."""
    return f"{value.normalize():f}"


def _quotient(value: Decimal, limit: Decimal) -> str:
    return _amount(shown_beside(value, limit, QUOTIENT_PLACES))


def _in(bound: Bound) -> str:
    table = bound.scope if bound.is_written else "built in"
    return f"({table})"


def _not_judged(bound: Bound, what: str) -> Breach | Unjudged:
    """What a limit needs cannot be had."""
    words = f"{bound.limit}: {what}"
    if not bound.is_written:
        return Unjudged(
            limit=bound.limit, message=f"{words}; the limit is only built in, so the order was not refused for it"
        )
    return Breach(limit_type=bound.limit, limit_value=_value_of(bound), message=f"{words} {_in(bound)}")


def _value_of(bound: Bound) -> str:
    if isinstance(bound.value, bool):
        return str(bound.value).lower()
    return _amount(bound.value) if isinstance(bound.value, Decimal) else str(bound.value)


def _figure(
    bound: Bound,
    actual: Decimal | None,
    what: str,
    missing: str = "",
    *,
    before: Callable[[], Decimal | None] = lambda: None,
) -> Iterator[_Finding]:
    """The use of a limit, and the breach of it: by an order that brings the figure past the limit, or further past it. `before` tells what the
    figure is without the order, and is asked only then."""
    if actual is None:
        yield _not_judged(bound, missing)
        return
    yield Use(limit=bound.limit, total=bound.total, limit_value=bound.number, actual_value=actual)
    if actual <= bound.number:
        return
    earlier = before()
    if earlier is None or actual > earlier:
        shown = _quotient(actual, bound.number) if bound.limit in QUOTIENTS else _amount(actual)
        words = f"{what} would be {shown}, the limit is {_amount(bound.number)} {_in(bound)}"
        yield Breach(limit_type=bound.limit, limit_value=_amount(bound.number), actual_value=shown, message=words)


_ON_MARGIN = frozenset({AssetClass.FUTURE, AssetClass.CFD, AssetClass.FOREX})
"""What they cost is a part of their value that only the broker knows."""
_NO_PRICE = "what the order costs cannot be told: no fresh price, no size of the contract, or no rate of exchange"
_NO_EXPOSURE = "the exposure cannot be told: a position, a price, a size or a rate of exchange is not known"
_NO_POSITION = "the position is not known"


def _without_quote(case: _Case, words: str) -> str:
    """What is missing, with the reason why the broker's quote is not there instead."""
    why = case.facts.no_quote
    return words if why is None or case.market is not None else f"{words} ({why})"


# --- the stops: of everything, or of new risk ----------------------------------------------------------------------


def _kill_switches(case: _Case, is_exit: bool, room: Decimal) -> Iterator[Breach | _Wait]:
    facts = case.facts
    if not facts.kill.is_known and not is_exit:
        words = "the state of the kill switch is not known, so no new risk is taken until it is"
        yield _Wait(Breach(limit_type=KILL_SWITCH, limit_value="known", message=words), None)
    stopping = facts.kill.stopping(case.where) if facts.kill.is_known or is_exit else ()
    may_reduce = lets_pass(strictest(switch.level for switch in stopping), is_exit=True)
    for switch in stopping:
        assert switch.level is not None
        if not lets_pass(switch.level, is_exit=is_exit):
            words = f"the kill switch of {switch.scope} is engaged ({switch.level}, by {switch.by}): {switch.reason}"
            if room and may_reduce:
                words += f"; as an exit {_amount(room)} could leave"
            yield Breach(
                limit_type=KILL_SWITCH,
                limit_value="armed",
                actual_value=switch.level,
                message=words,
                is_final=True,
            )
    if is_exit:
        return
    for words in facts.safety:
        yield Breach(limit_type=SAFETY_SERVICE, limit_value="normal", message=words, is_final=True)
    for trip in case.counters.tripped(case.where):
        words = f"{trip.limit} was broken by {trip.scope} ({trip.value}); off until a named person enables it again"
        yield Breach(
            limit_type=trip.limit, limit_value="enabled", actual_value=trip.value, message=words, is_final=True
        )


def _closed_market(case: _Case, is_exit: bool) -> Iterator[Breach | _Wait]:
    bound = case.bound(LimitType.SESSION)
    session = case.facts.session
    if bound is None or bound.value is SessionRule.IGNORE or (session is not None and session.is_open):
        return
    if is_exit and (bound.value is SessionRule.HOLD or session is None):
        return
    rule, until = str(bound.value), None if session is None else session.opens_at
    if session is None:
        words = f"it cannot be told whether the market is open {_in(bound)}"
    else:
        when = "nobody knows when" if until is None else f"at {until:%Y-%m-%d %H:%M} UTC"
        words = f"the market is closed, it opens {when} {_in(bound)}"
    closed = None if session is None else "closed"
    breach = Breach(
        limit_type=LimitType.SESSION, limit_value=rule, actual_value=closed, message=words, is_final=session is not None
    )
    if session is not None and bound.value is SessionRule.HOLD:
        yield _Wait(breach, until)
    else:
        yield breach


# --- the order itself -----------------------------------------------------------------------------------------------


def _allowed(case: _Case) -> Iterator[_Finding]:
    request = case.order.accepted_request
    for limit, mine in (
        (LimitType.ALLOWED_SYMBOLS, request.instrument.symbol),
        (LimitType.ALLOWED_ORDER_TYPES, request.order_type),
    ):
        bound = case.bound(limit)
        if bound is not None and isinstance(bound.value, frozenset) and mine not in bound.value:
            allowed = ", ".join(sorted(map(str, bound.value))) or "none"
            words = f"{mine} is not among those allowed: {allowed} {_in(bound)}"
            yield Breach(limit_type=limit, limit_value=allowed, actual_value=str(mine), message=words)


def _size(case: _Case) -> Iterator[_Finding]:
    bound = case.bound(LimitType.MAX_ORDER_QUANTITY)
    if bound is not None:
        yield from _figure(bound, case.reservation.quantity, "the order's quantity")
    bound = case.limits.order_value(case.order.accepted_request.instrument.asset_class)
    if bound is None:
        return
    least = None if case.rate is None else _product(case.range.least, case.rate, case.reservation.quantity)
    if case.value is None and least is not None and least > bound.number:
        yield from _figure(bound, least, "the order's value, at the least,")
    else:
        yield from _figure(bound, case.value, "the order's value", _without_quote(case, _NO_PRICE))


def _collar(case: _Case) -> Iterator[_Finding]:
    """Of orders with a limit: how far that lies from the reference price; of one that rests behind a stop, from the stop."""
    bound, order = case.bound(LimitType.PRICE_COLLAR_PCT), case.order
    if bound is None or order.limit_price is None or order.accepted_request.order_type not in _WITH_LIMIT:
        return
    is_behind_stop = order.accepted_request.order_type is OrderType.STOP_LIMIT
    reference = order.stop_price if is_behind_stop else None if case.reference is None else case.reference.price
    away = None if reference is None else distance_pct(order.limit_price, reference)
    what = f"the distance of the limit {_amount(order.limit_price)} from {_amount(reference or ZERO)}, in per cent,"
    yield from _figure(bound, away, what, _without_quote(case, "no fresh reference price"))


_WITH_LIMIT = frozenset({OrderType.LIMIT, OrderType.STOP_LIMIT})


def _slippage(case: _Case) -> Iterator[_Finding]:
    """Of orders at the market: how far it has gone against the price that their author saw."""
    bound, request = case.bound(LimitType.MAX_SLIPPAGE_PCT), case.order.accepted_request
    if bound is None or request.order_type is not OrderType.MARKET:
        return
    seen, market, slipped = request.reference_price, case.market, None
    if seen is not None and market is not None:
        against = (market.price - seen) * request.side.sign
        slipped = EXACT.divide(max(ZERO, against) * HUNDRED, seen)
    missing = "the market's price, or the price that the order's author saw, is not known"
    what = "what the market has gone against the order, in per cent,"
    yield from _figure(bound, slipped, what, _without_quote(case, missing))


def _protection(case: _Case) -> Iterator[_Finding]:
    """Stop and target on their sides, and the stop as far away as it should be; measured from the order's own price, else the reference. A stop
    on the wrong side is never moved: where it is meant, nobody can tell."""
    request, rule = case.order.accepted_request, case.bound(LimitType.STOP_OUT_OF_RANGE)
    low, high = case.bound(LimitType.MIN_STOP_DISTANCE_PCT), case.bound(LimitType.MAX_STOP_DISTANCE_PCT)
    farthest = case.bound(LimitType.MAX_TARGET_DISTANCE_PCT)
    price = (
        case.order.limit_price or case.order.stop_price or (None if case.reference is None else case.reference.price)
    )
    sign, stop, target = request.side.sign, request.stop_loss, request.take_profit
    is_trailing = stop is None and (request.trail_percent is not None or request.trail_amount is not None)
    if is_trailing and price is not None:
        stop = EXACT.subtract(price, _trail(request, price) * sign)
    if price is None:
        missing = _without_quote(case, "no fresh price to measure the stop from")
        yield from (_not_judged(bound, missing) for bound in (low, high) if bound and (stop or is_trailing))
        if farthest is not None and target is not None:
            yield _not_judged(farthest, _without_quote(case, "no fresh price to measure the target from"))
        return
    if target is not None and (target - price) * sign <= 0:
        words = f"the target {_amount(target)} is on the wrong side of {_amount(price)}"
        yield Breach(limit_type="take_profit", limit_value=_amount(price), actual_value=_amount(target), message=words)
    elif target is not None and farthest is not None:
        yield from _figure(farthest, distance_pct(target, price), "the distance of the target, in per cent,")
    if stop is None:
        return
    away = EXACT.divide((price - stop) * sign * HUNDRED, price)
    least, most = low.number if low else ZERO, high.number if high else None
    allowed = least if away < least or away <= 0 else most if most is not None and away > most else None
    if allowed is None and is_trailing and stop <= 0:
        allowed = HUNDRED
    if allowed is None:
        return
    if rule is not None and rule.value is StopRule.ADJUST and away > 0 and not is_trailing:
        yield _Moved(EXACT.subtract(price, EXACT.divide(price * allowed * sign, HUNDRED)))
        return
    broken = high if most is not None and away > most else low
    limit = "stop_loss" if broken is None or away <= 0 else str(broken.limit)
    words = f"the stop {_amount(stop)} is {_quotient(away, allowed)} per cent on the losing side of {_amount(price)}, allowed is {_amount(allowed)}"
    yield Breach(limit_type=limit, limit_value=_amount(allowed), actual_value=_quotient(away, allowed), message=words)


def _trail(request: OrderRequest, price: Decimal) -> Decimal:
    """How far behind that price a trailing stop begins."""
    if request.trail_amount is not None:
        return request.trail_amount
    return EXACT.divide(price * (request.trail_percent or ZERO), HUNDRED)


def _confidence(case: _Case) -> Iterator[_Finding]:
    bound, mine = case.bound(LimitType.MIN_CONFIDENCE), case.facts.confidence
    if bound is None:
        return
    if mine is None:
        yield _not_judged(bound, "the order tells no confidence")
    elif mine < bound.number:
        words = f"the confidence is {_amount(mine)}, at least {_amount(bound.number)} is needed {_in(bound)}"
        yield Breach(
            limit_type=bound.limit, limit_value=_amount(bound.number), actual_value=_amount(mine), message=words
        )


# --- what is held and works -----------------------------------------------------------------------------------------


def _before(case: _Case, figure: Callable[[Exposure], Decimal | None]) -> Callable[[], Decimal | None]:
    """The figure as it is without the order."""
    return lambda: figure(case.before)


def _position(case: _Case) -> Iterator[_Finding]:
    """An order always takes the position further on its own side, so what it is without the order need not be asked."""
    key, side = case.reservation.instrument_key, case.side
    way = "long" if side is Side.BUY else "short"
    for bound in case.bounds(LimitType.MAX_POSITION_QUANTITY):
        quantity = case.after.position_quantity(key, bound.total.strategy, side)
        yield from _figure(bound, quantity, f"the {way} position", _NO_POSITION)
    for bound in case.bounds(LimitType.MAX_POSITION_VALUE):
        value = case.after.position_value(key, bound.total.strategy, side)
        yield from _figure(bound, value, f"the value of the {way} position", _NO_EXPOSURE)


def _short(case: _Case) -> Iterator[_Finding]:
    """A sale beyond what its strategy holds, less what is being sold already."""
    bound = case.bound(LimitType.ALLOW_SHORT)
    if bound is None or bound.value is not False or case.side is Side.BUY:
        return
    short = case.after.position_quantity(case.reservation.instrument_key, case.where.strategy, Side.SELL)
    if short is None:
        yield _not_judged(bound, _NO_POSITION)
    elif short > 0:
        words = f"it would sell {_amount(short)} more than is held and not being sold already {_in(bound)}"
        yield Breach(limit_type=bound.limit, limit_value="false", actual_value=_amount(short), message=words)


def _exposures(case: _Case) -> Iterator[_Finding]:
    for bound in case.bounds(LimitType.MAX_GROSS_EXPOSURE):
        figure = partial(Exposure.gross, scope=bound.total)
        what = f"the gross exposure of {bound.total}"
        yield from _figure(bound, figure(case.after), what, _NO_EXPOSURE, before=_before(case, figure))
    for bound in case.bounds(LimitType.MAX_NET_EXPOSURE):
        figure = partial(Exposure.net, scope=bound.total)
        what = f"the net exposure of {bound.total}"
        yield from _figure(bound, figure(case.after), what, _NO_EXPOSURE, before=_before(case, figure))


def _leverage(case: _Case) -> Iterator[_Finding]:
    bound, missing = (
        case.bound(LimitType.MAX_LEVERAGE),
        "the exposure or the equity of the account is not known, or there is no equity",
    )
    if bound is None:
        return
    equity, account = _recent(case, case.facts.equity), Scope(account_id=case.where.account_id)
    if equity is None or equity <= 0:
        yield _not_judged(bound, missing)
        return
    bound = replace(bound, total=account)
    figure = partial(_by_equity, account=account, equity=equity)
    yield from _figure(
        bound, figure(case.after), "the gross exposure by the equity", missing, before=_before(case, figure)
    )


def _by_equity(exposure: Exposure, account: Scope, equity: Decimal) -> Decimal | None:
    gross = exposure.gross(account)
    return None if gross is None else EXACT.divide(gross, equity)


def _buying_power(case: _Case) -> Iterator[_Finding]:
    """Every order of new risk needs what it costs, a short sale too; so does all that works and is no exit."""
    bound = case.bound(LimitType.CHECK_BUYING_POWER)
    if bound is None or bound.value is not True:
        return
    power, needed = _recent(case, case.facts.buying_power), ZERO
    for each in (*case.others, case.reservation):
        if each.is_exit:
            continue
        if each.value is None or power is None or not each.is_paid_in_full:
            yield _not_judged(bound, "the buying power is not known, or what this or a working order takes of it")
            return
        needed = EXACT.add(needed, each.value)
    if power is not None and needed > power:
        words = f"{_amount(needed)} would be needed by this and all working orders, the buying power is {_amount(power)} {_in(bound)}"
        yield Breach(limit_type=bound.limit, limit_value=_amount(power), actual_value=_amount(needed), message=words)


def _recent(case: _Case, reading: Reading | None) -> Decimal | None:
    oldest = case.bound(LimitType.BALANCE_MAX_AGE_SECONDS)
    if reading is None or not is_fresh(reading.at, case.facts.now, None if oldest is None else oldest.number):
        return None
    return reading.value


# --- what is counted ------------------------------------------------------------------------------------------------


def _counts(case: _Case) -> Iterator[_Finding]:
    for bound in case.bounds(LimitType.MAX_OPEN_ORDERS):
        works = sum(bound.total.covers(_scope_of(case, each)) for each in case.others)
        yield from _figure(bound, Decimal(works + 1), f"the open orders of {bound.total}")
    for bound in case.bounds(LimitType.MAX_ORDERS_PER_DAY):
        today = case.counters.orders_today(bound.total)
        yield from _figure(bound, Decimal(today + case.adds), f"the orders of {bound.total} today")
    for bound in case.bounds(LimitType.MAX_CONSECUTIVE_REJECTIONS):
        run = Decimal(case.counters.rejections(bound.total))
        yield Use(limit=bound.limit, total=bound.total, limit_value=bound.number, actual_value=run)
        if run >= bound.number:
            yield from _trip(case, bound, _amount(run))


def _scope_of(case: _Case, each: Reservation) -> Scope:
    return Scope(account_id=case.where.account_id, strategy=each.strategy, symbol=each.symbol)


def _trip(case: _Case, bound: Bound, counted: str) -> Iterator[_Finding]:
    words = f"{bound.limit} of {bound.total} is broken: {counted}, the limit is {_value_of(bound)} {_in(bound)}"
    yield Breach(
        limit_type=bound.limit, limit_value=_value_of(bound), actual_value=counted, message=words, is_final=True
    )
    yield Trip(scope=bound.total, limit=bound.limit, value=counted, at=case.facts.now)


def _rate_of_orders(case: _Case) -> Iterator[_Finding]:
    """Orders wait. Beside their own number there is a reserve that only cancels and exits use, which never wait."""
    now, counters = case.facts.now, case.counters
    reserve = case.bound(LimitType.CANCEL_RESERVE_PCT)
    for bound in case.bounds(LimitType.MAX_ORDERS_PER_MINUTE):
        most = bound.number
        kept = (
            ZERO if reserve is None else (most * reserve.number / HUNDRED).to_integral_value(rounding="ROUND_CEILING")
        )
        orders = counters.orders_within(bound.total, MINUTE_SECONDS, now)
        messages = orders + counters.cancels_within(bound.total, MINUTE_SECONDS, now)
        yield Use(limit=bound.limit, total=bound.total, limit_value=most, actual_value=Decimal(orders + case.adds))
        if orders + case.adds > most or messages + case.adds > most + kept:
            first = counters.earliest_within(bound.total, MINUTE_SECONDS, now)
            words = f"{orders} orders and {messages - orders} cancels of {bound.total} within a minute, the limit is {_amount(most)} {_in(bound)}"
            breach = Breach(
                limit_type=bound.limit, limit_value=_amount(most), actual_value=str(orders + case.adds), message=words
            )
            yield _Wait(breach, now if first is None else first + timedelta(minutes=1))


def _losses(case: _Case) -> Iterator[_Finding]:
    account = Scope(account_id=case.where.account_id)
    for bound in (*case.bounds(LimitType.MAX_DAILY_LOSS), *case.bounds(LimitType.MAX_DRAWDOWN)):
        is_daily = bound.limit is LimitType.MAX_DAILY_LOSS
        result = case.counters.result(bound.total)
        known = result is not None and _recent(case, Reading(value=result.latest, at=result.at)) is not None
        if result is None or not known:
            yield _not_judged(bound, f"the result of {bound.total} is not known, or too old")
            continue
        loss = max(ZERO, result.loss) if is_daily else result.drawdown
        yield Use(limit=bound.limit, total=bound.total, limit_value=bound.number, actual_value=loss)
        if loss >= bound.number:
            what = f"has lost {_amount(loss)} today" if is_daily else f"is {_amount(loss)} below its highest"
            words = f"{bound.total} {what}, the limit is {_amount(bound.number)} {_in(bound)}"
            yield Breach(
                limit_type=bound.limit, limit_value=_amount(bound.number), actual_value=_amount(loss), message=words
            )
    drawdown = case.bound(LimitType.MAX_DRAWDOWN_PCT)
    if drawdown is not None:
        bound, result = drawdown, case.counters.result(account)
        known = result is not None and _recent(case, Reading(value=result.latest, at=result.at)) is not None
        fallen = result.drawdown_pct if result is not None and known else None
        if fallen is None:
            yield _not_judged(bound, "the account's equity is not known, or too old")
            return
        yield Use(limit=bound.limit, total=account, limit_value=bound.number, actual_value=fallen)
        if fallen >= bound.number:
            shown = _quotient(fallen, bound.number)
            words = f"the equity is {shown} per cent below its peak, the limit is {_amount(bound.number)} {_in(bound)}"
            yield Breach(limit_type=bound.limit, limit_value=_amount(bound.number), actual_value=shown, message=words)


def _repetition(case: _Case) -> Iterator[_Finding]:
    bound, now = case.bound(LimitType.DUPLICATE_WINDOW_SECONDS), case.facts.now
    if bound is not None:
        content = content_of(case.order)
        earlier = case.counters.like(content, bound.number, now, signal_id=case.order.signal_id)
        if earlier is not None:
            words = f"the same was sent as {earlier.signal_id} within {_amount(bound.number)} s {_in(bound)}"
            yield Breach(
                limit_type=bound.limit,
                limit_value=_amount(bound.number),
                actual_value=earlier.order_id,
                message=words,
            )
    bound = case.bound(LimitType.REPEATED_EXECUTIONS)
    if bound is not None and isinstance(bound.value, Repetition):
        executed = case.counters.executions_within(case.where, bound.value.window_seconds, now)
        most = Decimal(bound.value.count)
        yield Use(limit=bound.limit, total=case.where, limit_value=most, actual_value=Decimal(executed))
        if executed >= bound.value.count:
            yield from _trip(case, bound, str(executed))


_CHECKS: tuple[tuple[Callable[[_Case], Iterator[_Finding]], tuple[LimitType, ...]], ...] = (
    (_allowed, (LimitType.ALLOWED_SYMBOLS, LimitType.ALLOWED_ORDER_TYPES)),
    (_size, (LimitType.MAX_ORDER_QUANTITY, LimitType.MAX_ORDER_VALUE)),
    (_collar, (LimitType.PRICE_COLLAR_PCT,)),
    (_slippage, (LimitType.MAX_SLIPPAGE_PCT,)),
    (_protection, ()),
    (_confidence, (LimitType.MIN_CONFIDENCE,)),
    (_position, (LimitType.MAX_POSITION_QUANTITY, LimitType.MAX_POSITION_VALUE)),
    (_short, (LimitType.ALLOW_SHORT,)),
    (_exposures, (LimitType.MAX_GROSS_EXPOSURE, LimitType.MAX_NET_EXPOSURE)),
    (_leverage, (LimitType.MAX_LEVERAGE,)),
    (_buying_power, (LimitType.CHECK_BUYING_POWER,)),
    (_counts, (LimitType.MAX_OPEN_ORDERS, LimitType.MAX_ORDERS_PER_DAY, LimitType.MAX_CONSECUTIVE_REJECTIONS)),
    (_rate_of_orders, (LimitType.MAX_ORDERS_PER_MINUTE,)),
    (_losses, (LimitType.MAX_DAILY_LOSS, LimitType.MAX_DRAWDOWN, LimitType.MAX_DRAWDOWN_PCT)),
    (_repetition, (LimitType.DUPLICATE_WINDOW_SECONDS, LimitType.REPEATED_EXECUTIONS)),
)
"""Each with the limits of which one must be on; without any it is always made."""
