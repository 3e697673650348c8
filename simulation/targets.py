"""Target positions on historical bars: the service's own planner decides, the matcher fills, and what is missing is said.

Decisions see only bars that have closed; their orders fill at opens from their time on. Increases wait for reductions as they do in the service,
unless the account has a margin, or no limit of money.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from brokers.base import Instrument
from execution_service.core.planning.facts import Fees, InstrumentFacts, Money, PlanSettings
from execution_service.core.planning.plan import Plan, make_plan
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
from simulation.bars import History
from simulation.books import Account
from simulation.lanes import InstrumentLane
from simulation.matching.codes import DAY as FOR_THE_DAY
from simulation.matching.codes import MARKET, WORKING
from simulation.orders import OrderColumns
from simulation.problems import Collected as Problems
from simulation.run import Collected, Result, Together, Told
from simulation.settings import Settings
from simulation.units import moment, parsed_time

ACCOUNT = "simulation"
COLUMNS = ("decision_id", "time", "symbol")
MORE = ("quantity", "weight", "strategy_id", "complete", "allow_flatten", "aggressiveness")
OF_ORDERS = ("profile_version_id", "regime_id", "universe_id")
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
class _Working:
    """A plan at work: what was released, and where each order is."""

    plan: Plan
    releases: dict[str, Release] = field(default_factory=dict)
    orders: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By signal id: the instrument's lane and the order's number in it."""
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
                for lane, number in older.orders.values():
                    self._together.lanes[lane].cancel(number)
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
                        each.orders[release.signal_id] = self._place(each.plan, release, at)
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
        outcomes = {
            signal_id: self._outcome(*order, each.releases[signal_id]) for signal_id, order in each.orders.items()
        }
        return progress(each.plan, each.releases, outcomes, now, is_superseded=each.is_superseded)

    def _outcome(self, lane: int, number: int, release: Release) -> Outcome:
        orders = self._together.lanes[lane].orders
        filled = release.quantity - self._settings.lot * orders.left[number]
        return Outcome(filled=filled, is_final=orders.status[number] != WORKING)

    def _place(self, plan: Plan, release: Release, at: int) -> tuple[int, int]:
        leg, settings, columns = plan.leg(release.leg), self._settings, self._columns
        lane = self._lane_of[leg.instrument.key]
        quantity, rest = divmod(release.quantity, settings.lot)
        assert not rest, "the planner keeps to lots, and so does what is held"
        arrival = at + int(settings.latency_seconds * 1_000_000)
        book = self._strategies.index(plan.targets.strategy_id)
        row = len(columns)
        columns.order_id.append(release.signal_id)
        for column, value in (
            (columns.arrival, arrival), (columns.symbol, lane), (columns.side, leg.side.sign), (columns.quantity, int(quantity)),
            (columns.kind, MARKET), (columns.limit, 0), (columns.stop, 0), (columns.tif, FOR_THE_DAY), (columns.strategy, book),
            (columns.group, -1), (columns.reduce_only, 1 if leg.is_exit else 0),
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
        number = self._together.lanes[lane].add(
            side=leg.side.sign,
            quantity=int(quantity),
            arrival=arrival,
            session=self._history.session_from(arrival),
            book=book,
            row=row,
            tif=FOR_THE_DAY,
            reduce_only=1 if leg.is_exit else 0,
        )
        return lane, number


def simulate_targets(
    decisions: Sequence[TargetPositions], history: History, settings: Settings, *, told: Told | None = None
) -> Result:
    """Every list of targets, planned as the service plans it. `told` is called with the number of bars done."""
    return TargetsRun(decisions, history, settings).run(told)
