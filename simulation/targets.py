"""Target positions on historical bars: the service's own planner decides, the matcher fills, and what is missing is said.

Decisions see only bars that have closed; their orders fill at opens from their time on. Increases wait for reductions as they do in the service,
unless the account has a margin, or no limit of money. How orders are sent is by the plan's stance: each by the service's own table of terms, in
slices, one bar after the other, until the order is filled, nothing may be sent any more, or a newer decision takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from math import ceil, floor

from brokers.base import Instrument, Side
from execution_service.core.planning.facts import Fees, InstrumentFacts, Money, PlanSettings
from execution_service.core.planning.plan import LegReason, Plan, make_plan
from execution_service.core.planning.progress import (
    Outcome,
    PlanState,
    Progress,
    Release,
    next_releases,
    progress,
)
from execution_service.core.planning.targets import (
    Aggressiveness,
    Mode,
    PlanRefused,
    Target,
    TargetPositions,
)
from execution_service.core.planning.terms import Conduct, Terms, choose
from simulation.bars import History
from simulation.books import Account
from simulation.lanes import InstrumentLane
from simulation.matching.codes import (
    CORPORATE_ACTION,
    INSUFFICIENT_FUNDS,
    IOC,
    KINDS,
    REDUCE_ONLY,
    SHORT_NOT_ALLOWED,
    TIFS,
    WORKING,
)
from simulation.orders import OrderColumns
from simulation.problems import Collected as Problems
from simulation.run import Collected, Result, Together, Told
from simulation.settings import Settings
from simulation.slices import PARTS, latest_volumes, slice_lots
from simulation.units import DAY, moment, parsed_time

ACCOUNT = "simulation"
COLUMNS = ("decision_id", "time", "symbol")
MORE = ("quantity", "weight", "strategy_id", "complete", "allow_flatten", "aggressiveness")
OF_ORDERS = ("profile_version_id", "regime_id", "universe_id")
_LASTING = frozenset({INSUFFICIENT_FUNDS, REDUCE_ONLY, SHORT_NOT_ALLOWED, CORPORATE_ACTION})
"""Why a slice ended after which none follows: the next would end likewise."""
_TRUTHS = {"": False, "0": False, "false": False, "1": True, "true": True}


def read_targets(rows: Iterable[Sequence[str]], where: str) -> list[TargetPositions]:
    """Rows of one `decision_id`, `strategy_id` and `time` are one list; a list of nothing is a row without a symbol. Raises InputRefused."""
    problems = Problems()
    lines = iter(rows)
    header = [name.strip().lower() for name in next(lines, [])]
    missing = [name for name in COLUMNS if name not in header]
    unknown = [name for name in header if name not in (*COLUMNS, *MORE, *OF_ORDERS)]
    if missing or unknown:
        words = f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        problems.add(where, 1, "COLUMNS", words)
        problems.raise_if_any()
    lists: dict[tuple[str, str], _List] = {}
    for row, line in enumerate(lines, 2):
        if not line:
            continue
        if len(line) != len(header):
            problems.add(where, row, "COLUMNS", f"{len(line)} fields instead of {len(header)}")
            continue
        _take(dict(zip(header, line, strict=True)), lists, where, row, problems)
    problems.raise_if_any()
    return sorted((each.positions() for each in lists.values()), key=lambda targets: targets.as_of)


@dataclass(slots=True)
class _List:
    """One list of targets as its rows come."""

    head: Mapping[str, str]
    at: int
    targets: list[Target] = field(default_factory=list)

    def positions(self) -> TargetPositions:
        profile, regime, universe = (self.head.get(name) or None for name in OF_ORDERS)
        return TargetPositions(
            decision_id=self.head["decision_id"],
            account_id=ACCOUNT,
            strategy_id=self.head.get("strategy_id", ""),
            as_of=moment(self.at),
            mode=Mode.TRAINING,
            targets=tuple(self.targets),
            complete=_TRUTHS[self.head.get("complete", "").lower()],
            allow_flatten=_TRUTHS[self.head.get("allow_flatten", "").lower()],
            aggressiveness=Aggressiveness(self.head.get("aggressiveness") or Aggressiveness.NORMAL),
            profile_version_id=profile,
            regime_id=regime,
            universe_id=universe,
        )


def _take(
    values: Mapping[str, str], lists: dict[tuple[str, str], _List], where: str, row: int, problems: Problems
) -> None:
    count = problems.count
    try:
        at = parsed_time(values["time"])
    except ValueError as exc:
        problems.add(where, row, "TIME", f"{values['time']!r}: {exc}")
        at = 0
    for name in ("complete", "allow_flatten"):
        if values.get(name, "").lower() not in _TRUTHS:
            problems.add(where, row, name.upper(), f"{values[name]!r} is none of 0, 1, true, false")
    if values.get("aggressiveness") and values["aggressiveness"] not in tuple(Aggressiveness):
        problems.add(
            where, row, "AGGRESSIVENESS", f"{values['aggressiveness']!r} is not one of {', '.join(Aggressiveness)}"
        )
    numbers: dict[str, Decimal] = {}
    for name in ("quantity", "weight"):
        text = values.get(name, "")
        if text:
            try:
                number = Decimal(text)
            except ArithmeticError:
                number = Decimal("NaN")
            if number.is_finite():
                numbers[name] = number
            else:
                problems.add(where, row, name.upper(), f"{text!r} is no decimal number")
    if not values["decision_id"]:
        problems.add(where, row, "DECISION_ID", "is empty")
    if problems.count > count:
        return
    head = {name: value for name, value in values.items() if name not in ("symbol", "quantity", "weight")}
    known = lists.setdefault((values["decision_id"], values.get("strategy_id", "")), _List(head, at))
    if known.head != head:
        problems.add(where, row, "DECISION", "differs from the rows of its decision in more than the target")
    elif values["symbol"]:
        known.targets.append(Target(instrument=Instrument(symbol=values["symbol"]), **numbers))


@dataclass(slots=True)
class _Order:
    """A released order as it is worked: its slices are orders of the market, one after the other."""

    release: Release
    lane: int
    slices: list[int] = field(default_factory=list)
    """Their numbers in the lane."""
    filled_before: int = 0
    """Lots that all but the last have filled."""
    rung: int = 0
    """Of the ladder of an EMERGENCY: grows with each slice that does not fill whole."""
    is_over: bool = False
    """No slice follows."""


@dataclass(slots=True)
class _Working:
    """A plan at work: what was released, and how far each order is."""

    plan: Plan
    releases: dict[str, Release] = field(default_factory=dict)
    orders: dict[str, _Order] = field(default_factory=dict)
    """By signal id."""
    is_superseded: bool = False
    last: Progress | None = None


class TargetsRun:
    """All decisions against all bars."""

    def __init__(self, decisions: Sequence[TargetPositions], history: History, settings: Settings) -> None:
        self._decisions = sorted(decisions, key=lambda targets: targets.as_of)
        self._history, self._settings = history, settings
        self._strategies = sorted({targets.strategy_id for targets in decisions})
        self._account = Account(settings, {at: n for n, at in enumerate(history.open_times)})
        symbols = list(history.series)
        self._lane_of = {Instrument(symbol=symbol).key: n for n, symbol in enumerate(symbols)}
        self._columns = OrderColumns(symbols=symbols, strategies=list(self._strategies))
        self._contexts: list[tuple[str | None, ...]] = []
        lanes = [InstrumentLane(series, settings, len(self._strategies)) for series in history.series.values()]
        self._together = Together(lanes, history, settings, self._account)
        self._open: list[_Working] = []
        self._ended: list[_Working] = []
        self._refused: list[tuple[TargetPositions, str]] = []
        fees = sum((each.per_order + each.minimum for each in settings.commission), Decimal(0))
        rate = sum((each.percent / 100 for each in settings.commission), Decimal(0))
        given = settings.planning
        self._planning = PlanSettings(
            buffer=given.buffer,
            band=given.band,
            max_weights=given.max_weights,
            max_turnover=given.max_turnover,
            slices=given.slices,
            guard=given.guard,
            fees=Fees(per_order=fees, rate=rate),
        )

    def run(self, told: Told | None = None) -> Result:
        waiting = list(reversed(self._decisions))
        done = 0
        for at in self._history.open_times:
            while waiting and waiting[-1].as_of <= moment(at):
                self._decide(waiting.pop(), at)
            self._work(at)
            done += self._together.step(at)
            if told is not None:
                told(done)
        self._together.end()
        end = moment(self._history.open_times[-1] + self._settings.interval)
        for each in self._open:
            each.last = self._progress(each, end)
        for targets in reversed(waiting):
            self._refused.append((targets, "it was decided after the last bar"))
        collected = Collected(self._columns, self._history, self._settings, self._account)
        for symbol, lane in enumerate(self._together.lanes):
            collected.take(symbol, lane)
        plans = [each.last for each in (*self._ended, *self._open) if each.last is not None]
        return collected.result("plain", contexts=self._contexts, plans=plans, refused=self._refused)

    def _decide(self, targets: TargetPositions, at: int) -> None:
        facts = self._facts(targets)
        has_money = self._settings.cash is not None
        unit = self._account.unit
        money = Money(equity=unit * self._together.purse.equity if has_money else None)
        try:
            plan = make_plan(targets, facts, money, self._planning, moment(at))
        except PlanRefused as exc:
            self._refused.append((targets, str(exc)))
            return
        for older in self._open:
            is_same = older.plan.targets.strategy_id == targets.strategy_id
            if is_same and self._progress(older, moment(at)).state is PlanState.WORKING:
                older.is_superseded = True
                for order in older.orders.values():
                    order.is_over = True
                    for number in order.slices:
                        self._together.lanes[order.lane].cancel(number)
        self._open.append(_Working(plan))

    def _facts(self, targets: TargetPositions) -> Mapping[str, InstrumentFacts]:
        """Of every instrument that there is: prices of bars that had closed when it was decided."""
        settings, book = self._settings, self._strategies.index(targets.strategy_id)
        facts = {}
        for key, n in self._lane_of.items():
            lane = self._together.lanes[n]
            price = self._price(lane, self._together.bar_of[n], targets.as_of)
            facts[key] = InstrumentFacts(
                instrument=Instrument(symbol=lane.symbol),
                held=settings.lot * lane.held[book],
                price=None if price is None else settings.tick * price,
                unit_value=settings.multiplier,
                lot=settings.lot,
                min_quantity=settings.lot,
            )
        return facts

    def _price(self, lane: InstrumentLane, k: int, as_of: datetime) -> int | None:
        while k >= 0:
            closes = lane.bars.open_time[k] + self._settings.interval
            if lane.bars.trading[k] and moment(closes) <= as_of:
                return lane.bars.close[k]
            k -= 1
        return None

    def _work(self, at: int) -> None:
        """Releases what may be sent now, and lets go of plans that have ended."""
        now, still_open = moment(at), []
        is_free = self._settings.cash is None or self._settings.margin is not None
        for each in self._open:
            state = self._progress(each, now)
            each.last = state
            if state.state is PlanState.WORKING and not each.is_superseded:
                cash = None if is_free else self._account.unit * self._together.purse.cash
                held = self._held(each.plan.targets.strategy_id)
                for release in next_releases(state, each.releases, cash, held, now, phases_together=is_free):
                    each.releases[release.signal_id] = release
                    if release.quantity:
                        lane = self._lane_of[each.plan.leg(release.leg).instrument.key]
                        each.orders[release.signal_id] = _Order(release, lane)
                for order in each.orders.values():
                    self._continue(each.plan, order, at)
                state = self._progress(each, now)
                each.last = state
            if state.state is PlanState.WORKING:
                still_open.append(each)
            else:
                self._ended.append(each)
        self._open = still_open

    def _held(self, strategy_id: str) -> Mapping[str, Decimal]:
        book = self._strategies.index(strategy_id)
        return {key: self._settings.lot * self._together.lanes[n].held[book] for key, n in self._lane_of.items()}

    def _progress(self, each: _Working, now: datetime) -> Progress:
        outcomes = {signal_id: self._outcome(order) for signal_id, order in each.orders.items()}
        return progress(each.plan, each.releases, outcomes, now, is_superseded=each.is_superseded)

    def _filled(self, order: _Order) -> int:
        """In lots."""
        if not order.slices:
            return 0
        lane, last = self._together.lanes[order.lane], order.slices[-1]
        return order.filled_before + self._columns.quantity[lane.rows[last]] - lane.orders.left[last]

    def _outcome(self, order: _Order) -> Outcome:
        orders = self._together.lanes[order.lane].orders
        is_final = order.is_over and (not order.slices or orders.status[order.slices[-1]] != WORKING)
        return Outcome(filled=self._settings.lot * self._filled(order), is_final=is_final)

    def _still_works(self, order: _Order, at: int) -> bool:
        """Whether a slice of it may still fill: never more than one may. One for a day that is over ends as the next bar begins."""
        if not order.slices:
            return False
        orders, n = self._together.lanes[order.lane].orders, order.slices[-1]
        is_past = orders.tif[n] == TIFS["DAY"] and orders.session[n] < at // DAY
        return orders.status[n] == WORKING and not is_past

    def _continue(self, plan: Plan, order: _Order, at: int) -> None:
        """Sends the order's next slice, where none is at work and one is to follow."""
        if order.is_over or self._still_works(order, at):
            return
        quantity, rest = divmod(order.release.quantity, self._settings.lot)
        assert not rest, "the planner keeps to lots, and so does what is held"
        left = int(quantity) - self._filled(order)
        if not left or (order.slices and self._has_ended(plan, order, at)):
            order.is_over = True
            return
        leg, stance, lane = plan.leg(order.release.leg), plan.targets.aggressiveness, self._together.lanes[order.lane]
        k = self._together.bar_of[order.lane]
        has_missed = order.slices and lane.bars.trading[k] and lane.orders.left[order.slices[-1]]
        if stance is Aggressiveness.EMERGENCY and has_missed:
            order.rung += 1
        price = self._price(lane, k, moment(at))
        conduct = Conduct(stance=stance, price=None if price is None else self._settings.tick * price)
        chosen = choose(conduct, leg.side, leg.phase, order.rung)
        # What the plan sends at once is not sent again; nor is what may not be sent.
        order.is_over = isinstance(chosen, LegReason) or stance not in PARTS
        if not isinstance(chosen, LegReason):
            self._place(plan, order, chosen.terms, slice_lots(stance, left, latest_volumes(lane.series, k)), at)

    def _has_ended(self, plan: Plan, order: _Order, at: int) -> bool:
        """Whether what is left is not to be sent: the plan is not valid any more, money or holding ran out, or a split made it another quantity."""
        lane = self._together.lanes[order.lane]
        valid_until = plan.targets.valid_until
        is_split = self._together.bar_of[order.lane] + 1 in lane.series.split_up
        is_late = valid_until is not None and moment(at) >= valid_until
        return is_late or is_split or lane.orders.reason[order.slices[-1]] in _LASTING

    def _place(self, plan: Plan, order: _Order, terms: Terms, lots: int, at: int) -> None:
        leg, settings, columns = plan.leg(order.release.leg), self._settings, self._columns
        lane = self._together.lanes[order.lane]
        arrival = at + int(settings.latency_seconds * 1_000_000)
        book = self._strategies.index(plan.targets.strategy_id)
        row = len(columns)
        kind, limit = KINDS[terms.order_type.value], 0
        if terms.limit_price is not None:
            # To the tick, never beyond what the terms allow.
            ticks = terms.limit_price / settings.tick
            limit = floor(ticks) if leg.side is Side.BUY else ceil(ticks)
        # A bar tells nothing of the seconds within it: what is to work for some is decided by the open alone.
        tif = IOC if terms.timeout_seconds is not None else TIFS[terms.tif.value]
        reduce_only = 1 if leg.is_exit else 0
        name = order.release.signal_id
        columns.order_id.append(f"{name}/{len(order.slices)}" if order.slices else name)
        for column, value in (
            (columns.arrival, arrival), (columns.symbol, order.lane), (columns.side, leg.side.sign), (columns.quantity, lots),
            (columns.kind, kind), (columns.limit, limit), (columns.stop, 0), (columns.tif, tif), (columns.strategy, book),
            (columns.group, -1), (columns.reduce_only, reduce_only),
        ):  # fmt: skip
            column.append(value)
        targets = plan.targets
        context = (
            targets.profile_version_id,
            targets.regime_id,
            targets.universe_id,
            targets.decision_id,
            plan.plan_id,
        )
        self._contexts.append(context)
        number = lane.add(
            side=leg.side.sign,
            quantity=lots,
            arrival=arrival,
            session=self._history.session_from(arrival),
            book=book,
            row=row,
            tif=tif,
            reduce_only=reduce_only,
            kind=kind,
            limit=limit,
        )
        order.filled_before = self._filled(order)
        order.slices.append(number)


def simulate_targets(
    decisions: Sequence[TargetPositions], history: History, settings: Settings, *, told: Told | None = None
) -> Result:
    """Every list of targets, planned as the service plans it. `told` is called with the number of bars done."""
    return TargetsRun(decisions, history, settings).run(told)
