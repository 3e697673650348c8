"""Reads `risk.toml`: every problem at once with its place in the file, or the limits; and what differs between two readings. Nothing is judged here.

Tables: `[defaults]`, `[accounts.ID]`, `[strategies."NAME"]`, `[symbols.SYMBOL]`, and for a symbol within one of the first two
`[accounts.ID.symbols.SYMBOL]` and `[strategies."NAME".symbols.SYMBOL]`. A limit is switched off by the word "off" and never by its absence: what is
absent is left to the wider tables, and at last to what is built in.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from brokers.base import OrderType
from execution_service.app.settings.problems import ConfigurationError
from execution_service.core.risk.limits import (
    BUILT_IN,
    OF_ACCOUNTS_ONLY,
    OFF,
    BreachRule,
    LimitSet,
    LimitType,
    Off,
    Repetition,
    RiskLimits,
    Scope,
    SessionRule,
    StopRule,
    Value,
    combined,
    loosens_nothing,
)
from execution_service.core.risk.prices import Rate

_NEAR_RATIO = 0.6
_CURRENCY = re.compile("[A-Z]{3}")
_MAX_BYTES = 1_000_000


def _number(value: object) -> object:
    """Numbers as TOML has them, exact; a true is no number, and neither is a text with one in it."""
    if value == "off":
        return OFF
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("it must be a number or off")
    return Decimal(value)


def _texts(value: object) -> object:
    if value == "off":
        return OFF
    if not isinstance(value, list) or not all(isinstance(each, str) and each.strip() for each in value):
        raise ValueError('it must be a list of texts or off, as in ["AAPL", "MSFT"]')
    return frozenset(each.strip().upper() for each in value)


def _times(value: object) -> object:
    return OFF if value == "off" else value


def _truth(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError("it must be true or false")
    return value


Amount = Annotated[Annotated[Decimal, Field(gt=0)] | Off, BeforeValidator(_number)]
Count = Annotated[Annotated[Decimal, Field(ge=0, multiple_of=1)] | Off, BeforeValidator(_number)]
AtLeastOne = Annotated[Annotated[Decimal, Field(ge=1, multiple_of=1)] | Off, BeforeValidator(_number)]
Percent = Annotated[Annotated[Decimal, Field(gt=0, le=100)] | Off, BeforeValidator(_number)]
AnyPercent = Annotated[Annotated[Decimal, Field(gt=0)] | Off, BeforeValidator(_number)]
Reserve = Annotated[Annotated[Decimal, Field(ge=0, le=1000)] | Off, BeforeValidator(_number)]
Seconds = Annotated[Annotated[Decimal, Field(gt=0, le=86_400)] | Off, BeforeValidator(_number)]
Part = Annotated[Annotated[Decimal, Field(ge=0, le=1)] | Off, BeforeValidator(_number)]
Truth = Annotated[bool, BeforeValidator(_truth)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class _Repetition(_Strict):
    count: Annotated[int, Field(ge=1, strict=True)]
    window_seconds: Annotated[Decimal, Field(gt=0, le=86_400)]


class _Rate(_Strict):
    rate: Annotated[Annotated[Decimal, Field(gt=0)], BeforeValidator(_number)]
    on: Annotated[date, Field(strict=True)]
    max_age_days: Annotated[int, Field(ge=1, le=366, strict=True)]


class _Table(_Strict):
    """One table; the names of its fields are the keys."""

    max_order_quantity: Amount | None = None
    max_order_value: Amount | None = None
    max_position_quantity: Amount | None = None
    max_position_value: Amount | None = None
    max_gross_exposure: Amount | None = None
    max_net_exposure: Amount | None = None
    max_open_orders: Count | None = None
    max_orders_per_minute: AtLeastOne | None = None
    cancel_reserve_pct: Reserve | None = None
    max_orders_per_day: Count | None = None
    max_daily_loss: Amount | None = None
    max_drawdown: Amount | None = None
    max_drawdown_pct: Percent | None = None
    price_collar_pct: AnyPercent | None = None
    reference_price_max_age_seconds: Seconds | None = None
    balance_max_age_seconds: Seconds | None = None
    duplicate_window_seconds: Seconds | None = None
    repeated_executions: Annotated[_Repetition | Off, BeforeValidator(_times)] | None = None
    max_consecutive_rejections: AtLeastOne | None = None
    allowed_symbols: Annotated[frozenset[str] | Off, BeforeValidator(_texts)] | None = None
    allowed_order_types: Annotated[frozenset[OrderType] | Off, BeforeValidator(_texts)] | None = None
    session: SessionRule | None = None
    max_leverage: Amount | None = None
    check_buying_power: Truth | None = None
    allow_short: Truth | None = None
    min_confidence: Part | None = None
    max_slippage_pct: AnyPercent | None = None
    min_stop_distance_pct: Percent | None = None
    max_stop_distance_pct: Percent | None = None
    max_target_distance_pct: AnyPercent | None = None
    stop_out_of_range: StopRule | None = None
    on_breach: BreachRule | None = None


_ALLOWED: Mapping[str, str] = {
    "allowed_symbols": 'a list of texts, as in ["AAPL", "MSFT"], or "off"',
    "allowed_order_types": f'a list of {", ".join(OrderType)}, or "off"',
    "session": '"hold", "refuse" or "ignore"',
    "stop_out_of_range": '"refuse" or "adjust"',
    "on_breach": '"refuse", "reduce_only" or "halt"',
    "repeated_executions": '{ count = 10, window_seconds = 60 } with a count of 1 or more and at most 86400 seconds, or "off"',
    "check_buying_power": "true or false",
    "allow_short": "true or false",
    "max_open_orders": 'a whole number, 0 or more, or "off"',
    "max_orders_per_day": 'a whole number, 0 or more, or "off"',
    "max_orders_per_minute": 'a whole number, 1 or more, or "off"',
    "max_consecutive_rejections": 'a whole number, 1 or more, or "off"',
    "cancel_reserve_pct": 'a number from 0 to 1000, or "off"',
    "max_drawdown_pct": 'per cent, above 0 and at most 100, or "off"',
    "min_stop_distance_pct": 'per cent, above 0 and at most 100, or "off"',
    "max_stop_distance_pct": 'per cent, above 0 and at most 100, or "off"',
    "min_confidence": 'a number from 0 to 1, or "off"',
    "reference_price_max_age_seconds": 'seconds, above 0 and at most 86400, or "off"',
    "balance_max_age_seconds": 'seconds, above 0 and at most 86400, or "off"',
    "duplicate_window_seconds": 'seconds, above 0 and at most 86400, or "off"',
}
_A_NUMBER = 'a number above 0, or "off"'
_KINDS: Mapping[str, Literal["account", "strategy", "symbol"]] = {
    "accounts": "account",
    "strategies": "strategy",
    "symbols": "symbol",
}


def load_risk_limits(
    path: Path, *, accounts: Collection[str] | None = None, symbols: Collection[str] = (), must_exist: bool = False
) -> RiskLimits:
    """The limits of the file; without one, what is built in.

    `accounts`: those there are; a table for another is refused, since it limits nothing (None: any may come). `symbols`: the setting
    TRADING_SYMBOLS, which stands for `allowed_symbols` of everybody where the file says nothing of that. `must_exist`: a setting names the file.
    Raises ConfigurationError with all that is wrong.
    """
    problems: list[str] = []
    document = toml_document(path, "RISK_FILE", problems, must_exist=must_exist)
    rates = tuple(_rates(document.get("rates", {}), path.name, problems))
    tables = list(_tables(document, path.name, accounts, problems))
    _contradictions(path.name, tables, problems)
    if problems:
        raise ConfigurationError(tuple(problems))
    if symbols:
        allowed = LimitSet(allowed_symbols=frozenset(symbol.strip().upper() for symbol in symbols))
        tables.insert(0, (Scope(), allowed))
    return replace(combined(tables), rates=rates)


def _rates(table: object, name: str, problems: list[str]) -> Iterator[Rate]:
    """`"EUR/USD" = { rate = 1.0825, on = 2026-11-30, max_age_days = 7 }`: one euro is so many dollars."""
    if not isinstance(table, dict):
        problems.append(f"{name}: rates must be a table.")
        return
    seen: set[frozenset[str]] = set()
    for pair, value in table.items():
        where = f"{name}, [rates] {said(pair)}"
        base, _, quoted = pair.partition("/")
        if not (_CURRENCY.fullmatch(base) and _CURRENCY.fullmatch(quoted)) or base == quoted:
            problems.append(f'{where}: a pair is two currencies, as in "EUR/USD": what one euro is worth in dollars.')
            continue
        if frozenset((base, quoted)) in seen:
            problems.append(f"{where}: these two currencies stand there twice.")
        seen.add(frozenset((base, quoted)))
        try:
            read = _Rate.model_validate(value)
        except ValidationError:
            problems.append(
                f"{where} is {said(value)}; allowed: {{ rate = 1.0825, on = 2026-11-30, max_age_days = 7 }} with a rate above 0, the day that it is "
                "of, and from 1 to 366 days."
            )
            continue
        yield Rate(
            base=base,
            quoted=quoted,
            rate=read.rate,
            source=name,
            at=datetime.combine(read.on, time(), UTC),
            max_age_seconds=Decimal(read.max_age_days * 86_400),
        )


def toml_document(path: Path, setting: str, problems: list[str], *, must_exist: bool) -> Mapping[str, Any]:
    """What stands in the file, its numbers exact; nothing where there is none or it cannot be read, which is among the problems then. `setting` is
    the variable that names it."""
    if not path.exists():
        if must_exist:
            problems.append(f"{setting} names {path}, which does not exist.")
        return {}
    try:
        content = path.read_bytes()
        if len(content) > _MAX_BYTES:
            problems.append(f"{path.name} is larger than {_MAX_BYTES} bytes.")
            return {}
        return tomllib.loads(content.decode("utf-8"), parse_float=Decimal)
    except tomllib.TOMLDecodeError as exc:
        problems.append(f"{path.name} is not valid TOML: {exc}.")
    except UnicodeDecodeError:
        problems.append(f"{path.name} is not UTF-8 text.")
    except (OSError, RecursionError) as exc:
        problems.append(f"{path.name} cannot be read: {getattr(exc, 'strerror', None) or type(exc).__name__}.")
    return {}


def _tables(
    document: Mapping[str, Any], name: str, accounts: Collection[str] | None, problems: list[str]
) -> Iterator[tuple[Scope, LimitSet]]:
    for key, value in document.items():
        if key == "rates":
            continue
        if key == "defaults" and isinstance(value, dict):
            yield from _read(Scope(), value, name, problems)
        elif key in _KINDS and isinstance(value, dict):
            for whose, table in value.items():
                yield from _of_one(_KINDS[key], whose, table, name, accounts, problems)
        elif key == "defaults" or key in _KINDS:
            problems.append(f"{name}: {key} must be a table.")
        else:
            problems.append(f"{name}: {key} is not known{meant(key, ('defaults', 'rates', *_KINDS))}")


def _of_one(
    kind: str, whose: str, table: object, name: str, accounts: Collection[str] | None, problems: list[str]
) -> Iterator[tuple[Scope, LimitSet]]:
    scope = _scope(kind, whose)
    if not whose.strip() or whose != whose.strip() or not whose.isprintable():
        problems.append(f"{name}: [{kind} {whose!r}] must be printable text without spaces at its ends.")
        return
    if kind == "account" and accounts is not None and whose not in accounts:
        problems.append(f"{name}, {shown(scope)}: there is no such account{meant(whose, accounts)}")
    if not isinstance(table, dict):
        problems.append(f"{name}: {shown(scope)} must be a table.")
        return
    inner = table.get("symbols") if kind != "symbol" else None
    own = {key: value for key, value in table.items() if key != "symbols" or kind == "symbol"}
    yield from _read(scope, own, name, problems)
    if inner is not None and not isinstance(inner, dict):
        problems.append(f"{name}, {shown(scope)}: symbols must be a table.")
    elif inner is not None:
        for symbol, each in inner.items():
            narrow = Scope(account_id=scope.account_id, strategy=scope.strategy, symbol=symbol.strip().upper())
            if not isinstance(each, dict):
                problems.append(f"{name}: {shown(narrow)} must be a table.")
            else:
                yield from _read(narrow, each, name, problems)


def _scope(kind: str, whose: str) -> Scope:
    match kind:
        case "account":
            return Scope(account_id=whose)
        case "strategy":
            return Scope(strategy=whose)
    return Scope(symbol=whose.upper())


def _read(
    scope: Scope, table: Mapping[str, object], name: str, problems: list[str]
) -> Iterator[tuple[Scope, LimitSet]]:
    """The limits of one table, or what is wrong with it."""
    where, wrong = f"{name}, {shown(scope)}", set()
    for key, value in table.items():
        if key not in _Table.model_fields:
            problems.append(f"{where}: {key} is not known{meant(key, tuple(_Table.model_fields))}")
            wrong.add(key)
            continue
        limit = LimitType(key)
        if limit in OF_ACCOUNTS_ONLY and (scope.strategy is not None or scope.symbol is not None):
            problems.append(
                f"{where}: {key} compares the account's money, and stands in [defaults] or [accounts.ID] only."
            )
        elif limit is LimitType.ALLOWED_SYMBOLS and scope.symbol is not None:
            problems.append(f"{where}: {key} says nothing about a single symbol; it stands in wider tables.")
        elif value == "off" and loosens_nothing(limit, scope):
            problems.append(
                f"{where}: {key} switched off here switches nothing off: it is the figure of {scope} alone, and no wider table has that."
            )
    try:
        read = _Table.model_validate({key: value for key, value in table.items() if key not in wrong})
    except ValidationError as exc:
        keys = dict.fromkeys(str(error["loc"][0]) for error in exc.errors())
        problems += [f"{where}: {key} is {said(table[key])}; allowed: {_ALLOWED.get(key, _A_NUMBER)}." for key in keys]
        return
    values = {key: value for key in table if key not in wrong and (value := getattr(read, key)) is not None}
    if isinstance(values.get("repeated_executions"), _Repetition):
        repetition = values["repeated_executions"]
        values["repeated_executions"] = Repetition(count=repetition.count, window_seconds=repetition.window_seconds)
    yield scope, LimitSet(**values)


def _contradictions(name: str, tables: list[tuple[Scope, LimitSet]], problems: list[str]) -> None:
    seen: set[Scope] = set()
    for scope, table in tables:
        if scope in seen:
            problems.append(f"{name}: {shown(scope)} stands there twice, in small and capital letters.")
        seen.add(scope)
        low, high = table.min_stop_distance_pct, table.max_stop_distance_pct
        if isinstance(low, Decimal) and isinstance(high, Decimal) and low > high:
            problems.append(
                f"{name}, {shown(scope)}: min_stop_distance_pct {low} is more than max_stop_distance_pct {high}; no stop could be right."
            )


def said(value: object) -> str:
    """A value as people wrote it, shortened."""
    return (
        str(value) if isinstance(value, Decimal) else repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}…"
    )


def meant(key: str, known: Collection[str]) -> str:
    """The end of a sentence about a word that is not known."""
    near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=_NEAR_RATIO)
    return f"; was {near[0]} meant?" if near else "."


def shown(scope: Scope) -> str:
    """The scope as its table is written in the file."""
    symbol = "" if scope.symbol is None else f"symbols.{_key(scope.symbol)}"
    for kind, whose in (("accounts", scope.account_id), ("strategies", scope.strategy)):
        if whose is not None:
            return f"[{kind}.{_key(whose)}{'.' + symbol if symbol else ''}]"
    return f"[{symbol or 'defaults'}]"


def _key(text: str) -> str:
    is_bare = text.isascii() and all(c.isalnum() or c in "-_" for c in text)
    return text if is_bare else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- two readings ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RateDifference:
    """One rate of exchange that another reading of the file has changed."""

    pair: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"[rates] {self.pair}: {self.before} -> {self.after}"


@dataclass(frozen=True, slots=True)
class Difference:
    """One limit that another reading of the file has changed."""

    scope: Scope
    limit: LimitType
    before: Value | None
    after: Value | None

    def __str__(self) -> str:
        return f"{shown(self.scope)} {self.limit}: {_value(self.before)} -> {_value(self.after)}"


def differences(before: RiskLimits, after: RiskLimits) -> tuple[Difference | RateDifference, ...]:
    """What has changed, table by table in the sequence of their width, for the log; nothing where both say the same."""
    scopes = sorted({*before.tables, *after.tables}, key=lambda scope: (scope.rank, str(scope)))
    none = LimitSet()
    old, new = dict(map(_rate_shown, before.rates)), dict(map(_rate_shown, after.rates))
    rates = tuple(
        RateDifference(pair, old.get(pair, "(not written)"), new.get(pair, "(not written)"))
        for pair in sorted({*old, *new})
        if old.get(pair) != new.get(pair)
    )
    return rates + tuple(
        Difference(scope, limit, was, now)
        for scope in scopes
        for limit in LimitType
        if (was := before.tables.get(scope, none).of(limit)) != (now := after.tables.get(scope, none).of(limit))
    )


def _rate_shown(rate: Rate) -> tuple[str, str]:
    days = "" if rate.max_age_seconds is None else f", {rate.max_age_seconds / 86_400:f} days"
    return f"{rate.base}/{rate.quoted}", f"{rate.rate:f} of {rate.at:%Y-%m-%d}{days}"


def _value(value: Value | None) -> str:
    match value:
        case None:
            return "(not written)"
        case Off():
            return "off"
        case bool():
            return str(value).lower()
        case Decimal():
            return f"{value:f}"
        case frozenset():
            return ", ".join(sorted(map(str, value)))
    return str(value)


def effective(limits: RiskLimits) -> Iterator[tuple[str, str, str]]:
    """Every limit that holds for everybody, every rate of exchange, and every one that a table says: table, key and value, as people read them."""
    defaults = limits.tables.get(Scope(), LimitSet())
    for limit in LimitType:
        written = defaults.of(limit)
        where = "built in" if written is None else shown(Scope())
        yield where, limit.value, _value(BUILT_IN.of(limit) if written is None else written)
    for pair, shown_rate in map(_rate_shown, limits.rates):
        yield "[rates]", pair, shown_rate
    for scope in sorted(limits.tables, key=lambda scope: (scope.rank, str(scope))):
        if scope.rank:
            for limit in LimitType:
                value = limits.tables[scope].of(limit)
                if value is not None:
                    yield shown(scope), limit.value, _value(value)
