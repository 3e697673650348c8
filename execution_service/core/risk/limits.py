"""The limits of the risk gate as frozen values, who they are written for, and which of them bind one order; no file is read and nothing is judged.

A limit is written in one of the tables of `risk.toml`: for everybody, an account, a strategy, a symbol, or a symbol within an account or strategy.
Which one counts, `RiskLimits.bounds` says; there are three kinds of limits (`Kind`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from enum import Enum, StrEnum
from functools import cached_property
from itertools import product
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from brokers.base import AssetClass, OrderType
from execution_service.core.risk.prices import Rate

T = TypeVar("T")


class LimitType(StrEnum):
    """Each limit by its key in `risk.toml`, which is also its `limit_type` wherever a refusal is told."""

    MAX_ORDER_QUANTITY = "max_order_quantity"
    MAX_ORDER_VALUE = "max_order_value"
    MAX_POSITION_QUANTITY = "max_position_quantity"
    MAX_POSITION_VALUE = "max_position_value"
    MAX_GROSS_EXPOSURE = "max_gross_exposure"
    MAX_NET_EXPOSURE = "max_net_exposure"
    MAX_OPEN_ORDERS = "max_open_orders"
    MAX_ORDERS_PER_MINUTE = "max_orders_per_minute"
    CANCEL_RESERVE_PCT = "cancel_reserve_pct"
    MAX_ORDERS_PER_DAY = "max_orders_per_day"
    MAX_DAILY_LOSS = "max_daily_loss"
    MAX_DRAWDOWN = "max_drawdown"
    MAX_DRAWDOWN_PCT = "max_drawdown_pct"
    PRICE_COLLAR_PCT = "price_collar_pct"
    REFERENCE_PRICE_MAX_AGE_SECONDS = "reference_price_max_age_seconds"
    BALANCE_MAX_AGE_SECONDS = "balance_max_age_seconds"
    DUPLICATE_WINDOW_SECONDS = "duplicate_window_seconds"
    REPEATED_EXECUTIONS = "repeated_executions"
    MAX_CONSECUTIVE_REJECTIONS = "max_consecutive_rejections"
    ALLOWED_SYMBOLS = "allowed_symbols"
    ALLOWED_ORDER_TYPES = "allowed_order_types"
    SESSION = "session"
    MAX_LEVERAGE = "max_leverage"
    CHECK_BUYING_POWER = "check_buying_power"
    ALLOW_SHORT = "allow_short"
    MIN_CONFIDENCE = "min_confidence"
    MAX_SLIPPAGE_PCT = "max_slippage_pct"
    MIN_STOP_DISTANCE_PCT = "min_stop_distance_pct"
    MAX_STOP_DISTANCE_PCT = "max_stop_distance_pct"
    MAX_TARGET_DISTANCE_PCT = "max_target_distance_pct"
    STOP_OUT_OF_RANGE = "stop_out_of_range"
    ON_BREACH = "on_breach"


SCOPES_REMEMBERED = 4096
"""There is no end of strategies and symbols."""


class Off(Enum):
    """The value of a limit that somebody has switched off in writing; not to be confused with None, which says nothing."""

    OFF = "off"


OFF = Off.OFF
MINUTE_SECONDS = Decimal(60)


class SessionRule(StrEnum):
    """What becomes of an order while its market is closed."""

    HOLD = "hold"
    """It waits for the opening."""
    REFUSE = "refuse"
    IGNORE = "ignore"


class StopRule(StrEnum):
    """What becomes of an order whose stop is on the wrong side, too near or too far."""

    REFUSE = "refuse"
    ADJUST = "adjust"
    """The stop is moved to the nearest allowed price, and that is told."""


class BreachRule(StrEnum):
    """What becomes of the kill switch when a limit is broken that tells of trouble, and not of one order (`ENGAGING`)."""

    REFUSE = "refuse"
    """Nothing: orders of new risk are refused for as long as the limit is broken."""
    REDUCE_ONLY = "reduce_only"
    """That of the limit's scope is engaged at this level; a named person arms it again."""
    HALT = "halt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """So many executions within so many seconds."""

    count: int
    window_seconds: Decimal

    def __str__(self) -> str:
        return f"{self.count} in {self.window_seconds:f} s"


Number: TypeAlias = Decimal | Off | None
Value: TypeAlias = (
    Decimal | Off | Repetition | frozenset[str] | frozenset[OrderType] | SessionRule | StopRule | BreachRule | bool
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSet:
    """What one table says. None: it says nothing of that limit, and a wider one holds. Amounts are in the account's currency, parts in per cent."""

    max_order_quantity: Number = None
    max_order_value: Number = None
    max_position_quantity: Number = None
    max_position_value: Number = None
    max_gross_exposure: Number = None
    max_net_exposure: Number = None
    max_open_orders: Number = None
    max_orders_per_minute: Number = None
    cancel_reserve_pct: Number = None
    max_orders_per_day: Number = None
    max_daily_loss: Number = None
    max_drawdown: Number = None
    max_drawdown_pct: Number = None
    price_collar_pct: Number = None
    reference_price_max_age_seconds: Number = None
    balance_max_age_seconds: Number = None
    duplicate_window_seconds: Number = None
    repeated_executions: Repetition | Off | None = None
    max_consecutive_rejections: Number = None
    allowed_symbols: frozenset[str] | Off | None = None
    allowed_order_types: frozenset[OrderType] | Off | None = None
    session: SessionRule | None = None
    max_leverage: Number = None
    check_buying_power: bool | None = None
    allow_short: bool | None = None
    min_confidence: Number = None
    max_slippage_pct: Number = None
    min_stop_distance_pct: Number = None
    max_stop_distance_pct: Number = None
    max_target_distance_pct: Number = None
    stop_out_of_range: StopRule | None = None
    on_breach: BreachRule | None = None

    def of(self, limit: LimitType) -> Value | None:
        return getattr(self, limit.value)  # type: ignore[no-any-return]


BUILT_IN = LimitSet(
    max_order_quantity=OFF,
    max_order_value=Decimal(1_000_000),
    max_position_quantity=OFF,
    max_position_value=OFF,
    max_gross_exposure=OFF,
    max_net_exposure=OFF,
    max_open_orders=OFF,
    max_orders_per_minute=OFF,
    cancel_reserve_pct=Decimal(20),
    max_orders_per_day=OFF,
    max_daily_loss=OFF,
    max_drawdown=OFF,
    max_drawdown_pct=OFF,
    price_collar_pct=Decimal(20),
    reference_price_max_age_seconds=Decimal(60),
    balance_max_age_seconds=Decimal(300),
    duplicate_window_seconds=OFF,
    repeated_executions=OFF,
    max_consecutive_rejections=Decimal(20),
    allowed_symbols=OFF,
    allowed_order_types=OFF,
    session=SessionRule.IGNORE,
    max_leverage=OFF,
    check_buying_power=True,
    allow_short=True,
    min_confidence=OFF,
    max_slippage_pct=OFF,
    min_stop_distance_pct=OFF,
    max_stop_distance_pct=OFF,
    max_target_distance_pct=OFF,
    stop_out_of_range=StopRule.REFUSE,
    on_breach=BreachRule.REFUSE,
)
"""What holds where no table says anything. One of these judges what can be judged; where it lacks a figure it says so and lets the order pass,
since nobody has written it down (`Bound.is_written`)."""


FUTURES_ORDER_VALUE = Decimal(10_000_000)
"""What is built in for `max_order_value` of futures. They count with what they are worth, of which a trader pays a tenth or less: ordinary orders of
a few contracts are beyond the figure for shares, and one with a digit too many is beyond this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose orders are meant: all for which each of the parts that are named is the same. Nothing named: all."""

    account_id: str | None = None
    strategy: str | None = None
    symbol: str | None = None

    @property
    def rank(self) -> int:
        """Rises as the scope narrows: a symbol outweighs a strategy, and that an account."""
        return 4 * (self.symbol is not None) + 2 * (self.strategy is not None) + (self.account_id is not None)

    def covers(self, other: Scope) -> bool:
        """Whether all of the other is within this one."""
        mine = (self.account_id, self.strategy, self.symbol)
        theirs = (other.account_id, other.strategy, other.symbol)
        return all(own is None or own == their for own, their in zip(mine, theirs, strict=True))

    def wider(self) -> tuple[Scope, ...]:
        """This scope and all that cover it, the widest first."""
        parts = ((None, self.symbol), (None, self.strategy), (None, self.account_id))
        made = (Scope(account_id=a, strategy=s, symbol=y) for y, s, a in product(*parts))
        return tuple(dict.fromkeys(made))

    def __str__(self) -> str:
        """As a person names it: `all`, `account:ID`, `strategy:NAME`, `symbol:SYMBOL`, several of them joined by `+`."""
        named = (("account", self.account_id), ("strategy", self.strategy), ("symbol", self.symbol))
        return "+".join(f"{kind}:{name}" for kind, name in named if name is not None) or "all"


class Kind(Enum):
    """What a limit compares, and so which of several that were written for one order count."""

    ORDER = "order"
    """The order itself: the narrowest alone counts."""
    POSITION = "position"
    """The position in the order's instrument. Those written for everybody, an account or a symbol bind what the account holds, and the narrowest of
    them counts; those written for a strategy bind what that strategy holds, likewise. One of each binds together."""
    TOTAL = "total"
    """What is added up over many orders: exposure, orders, losses, rejections. Each table binds its own total: that of the account, of the strategy
    in it, of the symbol in it, or of the strategy in the symbol. All of them bind together; of two with the same total the narrower counts."""


_OF_THE_ORDER_ALONE = frozenset(
    {
        LimitType.MAX_ORDER_QUANTITY,
        LimitType.MAX_ORDER_VALUE,
        LimitType.PRICE_COLLAR_PCT,
        LimitType.REFERENCE_PRICE_MAX_AGE_SECONDS,
        LimitType.BALANCE_MAX_AGE_SECONDS,
        LimitType.CANCEL_RESERVE_PCT,
        LimitType.MAX_CONSECUTIVE_REJECTIONS,
        LimitType.ALLOWED_SYMBOLS,
        LimitType.ALLOWED_ORDER_TYPES,
        LimitType.SESSION,
        LimitType.MIN_CONFIDENCE,
        LimitType.MAX_SLIPPAGE_PCT,
        LimitType.MIN_STOP_DISTANCE_PCT,
        LimitType.MAX_STOP_DISTANCE_PCT,
        LimitType.MAX_TARGET_DISTANCE_PCT,
        LimitType.STOP_OUT_OF_RANGE,
        LimitType.ON_BREACH,
    }
)
"""Two orders that each keep these keep them together: nothing need be reserved for them. A run of rejections counts what the broker answered, and
no order that is on its way."""
_POSITIONS = frozenset({LimitType.MAX_POSITION_QUANTITY, LimitType.MAX_POSITION_VALUE})
_TOTALS = frozenset(
    {
        LimitType.MAX_GROSS_EXPOSURE,
        LimitType.MAX_NET_EXPOSURE,
        LimitType.MAX_OPEN_ORDERS,
        LimitType.MAX_ORDERS_PER_MINUTE,
        LimitType.MAX_ORDERS_PER_DAY,
        LimitType.MAX_DAILY_LOSS,
        LimitType.MAX_DRAWDOWN,
        LimitType.MAX_CONSECUTIVE_REJECTIONS,
    }
)
OF_RESULTS = (LimitType.MAX_DAILY_LOSS, LimitType.MAX_DRAWDOWN)
"""They compare readings of an account's equity, or of the profit of a strategy or symbol in it."""
QUOTIENTS = frozenset(
    {
        LimitType.MAX_LEVERAGE,
        LimitType.MAX_DRAWDOWN_PCT,
        LimitType.PRICE_COLLAR_PCT,
        LimitType.MAX_SLIPPAGE_PCT,
        LimitType.MIN_STOP_DISTANCE_PCT,
        LimitType.MAX_STOP_DISTANCE_PCT,
        LimitType.MAX_TARGET_DISTANCE_PCT,
    }
)
"""What they compare are quotients, which may have no end of digits: they are compared exactly, and shown with `QUOTIENT_PLACES`."""
QUOTIENT_PLACES = 6
OF_ACCOUNTS_ONLY = frozenset(
    {
        LimitType.MAX_DRAWDOWN_PCT,
        LimitType.MAX_LEVERAGE,
        LimitType.CHECK_BUYING_POWER,
        LimitType.BALANCE_MAX_AGE_SECONDS,
    }
)
"""They compare the account's money: no strategy and no symbol has any of its own."""


ENGAGING = (
    LimitType.MAX_DAILY_LOSS,
    LimitType.MAX_DRAWDOWN,
    LimitType.MAX_DRAWDOWN_PCT,
    LimitType.MAX_CONSECUTIVE_REJECTIONS,
    LimitType.REPEATED_EXECUTIONS,
)
"""Limits that engage a kill switch where `on_breach` says so."""
UNTIL_ENABLED = frozenset({LimitType.MAX_CONSECUTIVE_REJECTIONS, LimitType.REPEATED_EXECUTIONS})
"""Once broken, these stay so until a named person enables them again."""


_OF_PRICES = frozenset(
    {
        LimitType.MAX_ORDER_VALUE,
        LimitType.MAX_POSITION_VALUE,
        LimitType.MAX_GROSS_EXPOSURE,
        LimitType.MAX_NET_EXPOSURE,
        LimitType.MAX_LEVERAGE,
        LimitType.CHECK_BUYING_POWER,
        LimitType.PRICE_COLLAR_PCT,
        LimitType.MAX_SLIPPAGE_PCT,
        LimitType.MIN_STOP_DISTANCE_PCT,
        LimitType.MAX_STOP_DISTANCE_PCT,
        LimitType.MAX_TARGET_DISTANCE_PCT,
    }
)
OF_AMOUNTS = (
    LimitType.MAX_ORDER_VALUE,
    LimitType.MAX_POSITION_VALUE,
    LimitType.MAX_GROSS_EXPOSURE,
    LimitType.MAX_NET_EXPOSURE,
    LimitType.MAX_DAILY_LOSS,
    LimitType.MAX_DRAWDOWN,
)
"""These are amounts of money, in the account's currency."""
OF_HOLDINGS_WORTH = (
    LimitType.MAX_POSITION_VALUE,
    LimitType.MAX_GROSS_EXPOSURE,
    LimitType.MAX_NET_EXPOSURE,
    LimitType.MAX_LEVERAGE,
)
"""These need a price of everything that is held, and not only of what an order trades."""


def is_of_prices(limit: LimitType) -> bool:
    """Whether a price of the market is needed to judge it."""
    return limit in _OF_PRICES


def is_of_the_order_alone(limit: LimitType) -> bool:
    """Whether it compares nothing but the order itself: no part of it is used between two orders."""
    return limit in _OF_THE_ORDER_ALONE


def kind_of(limit: LimitType) -> Kind:
    if limit in _POSITIONS:
        return Kind.POSITION
    return Kind.TOTAL if limit in _TOTALS else Kind.ORDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One limit that binds one order."""

    limit: LimitType
    value: Value
    scope: Scope
    """The table that it was taken from."""
    total: Scope
    """Whose figure it compares; of a limit of the order itself, the order's own scope."""
    is_written: bool
    """It stands in the file. What it needs and cannot have refuses new risk then; of one that is only built in it is told."""

    @property
    def number(self) -> Decimal:
        """Raises TypeError of a limit that is no number."""
        if isinstance(self.value, Decimal):
            return self.value
        raise TypeError(f"{self.limit} is {self.value}, and no number")


@dataclass(frozen=True)
class Applicable:
    """The tables that bind the orders of one account, strategy and symbol, the widest first."""

    where: Scope
    tables: tuple[tuple[Scope, LimitSet], ...]
    _known: dict[LimitType, tuple[Bound, ...]] = field(default_factory=dict, init=False, compare=False, repr=False)
    """What was worked out already: the tables do not change, and each order asks for most limits."""

    def bounds(self, limit: LimitType) -> tuple[Bound, ...]:
        """Those that bind together, the widest first; none where it is switched off. What nobody has written is built in."""
        known = self._known.get(limit)
        if known is None:
            known = self._known[limit] = self._bounds(limit)
        return known

    def _bounds(self, limit: LimitType) -> tuple[Bound, ...]:
        kind, built_in = kind_of(limit), BUILT_IN.of(limit)
        assert built_in is not None
        everybody = _total(kind, Scope(), self.where)
        found = {everybody: Bound(limit=limit, value=built_in, scope=Scope(), total=everybody, is_written=False)}
        for scope, table in self.tables:
            value = table.of(limit)
            if value is not None:
                total = _total(kind, scope, self.where)
                found[total] = Bound(limit=limit, value=value, scope=scope, total=total, is_written=True)
        return tuple(bound for bound in found.values() if bound.value is not OFF)

    def bound(self, limit: LimitType) -> Bound | None:
        """Of a limit of the order itself: the one that counts; None: it is switched off."""
        found = self.bounds(limit)
        assert len(found) < 2, limit
        return found[0] if found else None

    def order_value(self, asset_class: AssetClass) -> Bound | None:
        """Of `max_order_value`, for which another figure is built in for futures. None: it is switched off."""
        bound = self.bound(LimitType.MAX_ORDER_VALUE)
        if bound is None or bound.is_written or asset_class is not AssetClass.FUTURE:
            return bound
        return replace(bound, value=FUTURES_ORDER_VALUE)

    @cached_property
    def needs_prices(self) -> bool:
        """Whether somebody has written a limit down that compares prices or what these make of quantities."""
        found = (bound for limit in _OF_PRICES for bound in self.bounds(limit))
        return any(bound.is_written and bound.value is not False for bound in found)

    @cached_property
    def on(self) -> frozenset[LimitType]:
        """Those that are not switched off, and so need to be judged."""
        return frozenset(limit for limit in LimitType if self.bounds(limit))


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskLimits:
    """All limits that hold. `tables` has what was written, by whom it is for."""

    tables: Mapping[Scope, LimitSet] = field(default_factory=lambda: MappingProxyType({}))
    rates: tuple[Rate, ...] = ()
    """Of exchange, as somebody has written them down."""
    _known: dict[Scope, Applicable] = field(default_factory=dict, init=False, compare=False, repr=False)
    _answers: dict[tuple[str, ...], object] = field(default_factory=dict, init=False, compare=False, repr=False)

    def of(self, where: Scope) -> Applicable:
        """Those for an order of `where`, of which all three parts are named."""
        known = self._known.get(where)
        if known is None:
            if len(self._known) >= SCOPES_REMEMBERED:
                self._known.clear()
            known = self._known[where] = self._of(where)
        return known

    def _of(self, where: Scope) -> Applicable:
        wider = where.wider() if self.tables else ()
        return Applicable(where, tuple((scope, self.tables[scope]) for scope in wider if scope in self.tables))

    def on_breach(self, scope: Scope) -> BreachRule:
        """What a breach does of a limit that is written for that scope: the narrowest table counts that is for it or for more."""
        said = [self.tables[each].on_breach for each in scope.wider() if each in self.tables]
        return next((rule for rule in reversed(said) if rule is not None), BreachRule.REFUSE)

    def adds_up(self, account_id: str) -> bool:
        """Whether a table that may bind the account's orders has a limit that compares more than the order itself, so that each order must be
        reserved for."""
        return self._once(("adds up", account_id), lambda: self._adds_up(account_id))

    def _adds_up(self, account_id: str) -> bool:
        return any(
            value is not None and value is not OFF
            for scope, table in self.tables.items()
            if scope.account_id in (None, account_id)
            for limit in LimitType
            if limit not in _OF_THE_ORDER_ALONE
            for value in (table.of(limit),)
        )

    def writes(self, account_id: str, *limits: LimitType) -> bool:
        """Whether a table that may bind the account's orders has one of these, and does not switch it off."""
        return self._once((account_id, *limits), lambda: self._writes(account_id, limits))

    def _once(self, question: tuple[str, ...], answer: Callable[[], T]) -> T:
        """The limits do not change, and each order asks the same: it is worked out once for each account."""
        if question not in self._answers:
            if len(self._answers) >= SCOPES_REMEMBERED:
                self._answers.clear()
            self._answers[question] = answer()
        return self._answers[question]  # type: ignore[return-value]

    def _writes(self, account_id: str, limits: tuple[LimitType, ...]) -> bool:
        return any(
            table.of(limit) not in (None, OFF, False)
            for scope, table in self.tables.items()
            if scope.account_id in (None, account_id)
            for limit in limits
        )

    def results_wanted(self, account_id: str) -> tuple[Scope, ...]:
        """The strategies and symbols of the account of which somebody has limited the loss or drawdown, so that their profit is to be read."""
        return self._once(("results", account_id), lambda: self._results_wanted(account_id))

    def _results_wanted(self, account_id: str) -> tuple[Scope, ...]:
        return tuple(
            replace(scope, account_id=account_id)
            for scope, table in self.tables.items()
            if scope.account_id in (None, account_id)
            and (scope.strategy, scope.symbol) != (None, None)
            and any(table.of(limit) not in (None, OFF) for limit in OF_RESULTS)
        )

    def longest_window_seconds(self) -> Decimal:
        """How far back what was sent and executed must be remembered: the longest window that any table has, 0 where none has any. What is
        remembered is written with each order, so nobody pays for windows that are switched off."""
        windows = [Decimal(0)]
        for table in (BUILT_IN, *self.tables.values()):
            if isinstance(table.max_orders_per_minute, Decimal):
                windows.append(MINUTE_SECONDS)
            if isinstance(table.duplicate_window_seconds, Decimal):
                windows.append(table.duplicate_window_seconds)
            if isinstance(table.repeated_executions, Repetition):
                windows.append(table.repeated_executions.window_seconds)
        return max(windows)


def _total(kind: Kind, scope: Scope, where: Scope) -> Scope:
    """Whose figure a limit of that kind compares for an order of `where`, when it is written for `scope`."""
    if kind is Kind.ORDER:
        return where
    strategy = None if scope.strategy is None else where.strategy
    is_of_symbol = kind is Kind.POSITION or scope.symbol is not None
    return Scope(account_id=where.account_id, strategy=strategy, symbol=where.symbol if is_of_symbol else None)


def loosens_nothing(limit: LimitType, scope: Scope) -> bool:
    """Whether `off` in this table would switch nothing off, since no wider table has the same figure: the person who wrote it means another one."""
    match kind_of(limit):
        case Kind.ORDER:
            return False
        case Kind.POSITION:
            return scope.strategy is not None and scope.symbol is None
        case Kind.TOTAL:
            return scope.strategy is not None or (scope.symbol is not None and scope.account_id is None)


def combined(tables: Iterable[tuple[Scope, LimitSet]]) -> RiskLimits:
    """The limits of these tables; of two for one scope what the later says counts."""
    found: dict[Scope, LimitSet] = {}
    for scope, table in tables:
        said = {f.name: value for f in fields(table) if (value := getattr(table, f.name)) is not None}
        found[scope] = replace(found.get(scope, LimitSet()), **said)
    return RiskLimits(tables=MappingProxyType(found))
