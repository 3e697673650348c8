"""Reads `planning.toml`: every problem at once with its place in the file, or how plans are made and carried out. Nothing is planned here.

Tables: `[defaults]`, `[accounts.ID]`, `[strategies."NAME"]`, and `[symbols.SYMBOL]` for the sizes of orders. What a table leaves out is left to the
wider ones, and at last to what is built in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

from execution_service.app.risk_file import meant, said, shown, toml_document
from execution_service.app.settings.problems import ConfigurationError
from execution_service.core.planning.rules import OF_SYMBOLS, PlanRule, PlanRules
from execution_service.core.planning.targets import on_partial_of
from execution_service.core.risk.limits import Scope

MOST_SLICES = 1000
_KINDS = ("accounts", "strategies", "symbols")


def _decimal(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not Decimal(value).is_finite():
        raise ValueError("no number")
    return Decimal(value)


def _part(value: object) -> Decimal:
    number = _decimal(value)
    if not 0 <= number < 1:
        raise ValueError("out of range")
    return number


def _amount(value: object) -> Decimal:
    number = _decimal(value)
    if number < 0:
        raise ValueError("out of range")
    return number


def _above_zero(value: object) -> Decimal:
    number = _decimal(value)
    if number <= 0:
        raise ValueError("out of range")
    return number


def _slices(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_SLICES:
        raise ValueError("out of range")
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")
    return value


def _on_partial(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("no text")
    return on_partial_of(value)


_A_PART = "a part from 0 to below 1, as in 0.0025"
_FIELDS: Mapping[str, tuple[Callable[[object], object], str]] = MappingProxyType(
    {
        "buffer": (_part, _A_PART),
        "band": (_part, _A_PART),
        "guard": (_part, _A_PART),
        "fee_rate": (_part, _A_PART),
        "fee_per_order": (_amount, "an amount, 0 or more"),
        "max_weights": (_above_zero, "a number above 0: 1 is the whole equity"),
        "max_turnover": (_above_zero, "a number above 0: 1 is the whole equity"),
        "slices": (_slices, f"a whole number from 1 to {MOST_SLICES}"),
        "bounded_by_cash": (_truth, "true or false"),
        "phases_together": (_truth, "true or false"),
        "market_in_emergency": (_truth, "true or false"),
        "on_partial": (_on_partial, '"REPORT", "RETRY 2" (from 1 to 10) or "UNWIND"'),
        "lot": (_above_zero, "a number above 0"),
        "min_quantity": (_amount, "a number, 0 or more"),
        "max_quantity": (_above_zero, "a number above 0"),
        "min_value": (_amount, "an amount, 0 or more"),
    }
)


def load_plan_rules(path: Path, *, accounts: Collection[str] | None = None, must_exist: bool = False) -> PlanRules:
    """What the file says; without one, what is built in. `accounts`: those there are (None: any may come). `must_exist`: a setting names the file.
    Raises ConfigurationError with all that is wrong."""
    problems: list[str] = []
    document = toml_document(path, "PLANNING_FILE", problems, must_exist=must_exist)
    tables = dict(_tables(document, path.name, accounts, problems))
    for scope, rule in tables.items():
        low, high = rule.min_quantity, rule.max_quantity
        if low is not None and high is not None and low > high:
            problems.append(f"{path.name}, {shown(scope)}: min_quantity {low} is more than max_quantity {high}.")
    if problems:
        raise ConfigurationError(tuple(problems))
    return PlanRules(tables)


def _tables(
    document: Mapping[str, object], name: str, accounts: Collection[str] | None, problems: list[str]
) -> Iterator[tuple[Scope, PlanRule]]:
    for key, value in document.items():
        if key not in ("defaults", *_KINDS):
            problems.append(f"{name}: {key} is not known{meant(key, ('defaults', *_KINDS))}")
        elif not isinstance(value, dict):
            problems.append(f"{name}: {key} must be a table.")
        elif key == "defaults":
            yield Scope(), _rule(Scope(), value, name, problems)
        else:
            for whose, table in value.items():
                scope = _scope(key, whose)
                if not whose.strip() or whose != whose.strip() or not whose.isprintable():
                    problems.append(f"{name}: [{key} {whose!r}] must be printable text without spaces at its ends.")
                elif key == "accounts" and accounts is not None and whose not in accounts:
                    problems.append(f"{name}, {shown(scope)}: there is no such account{meant(whose, accounts)}")
                elif not isinstance(table, dict):
                    problems.append(f"{name}: {shown(scope)} must be a table.")
                else:
                    yield scope, _rule(scope, table, name, problems)


def _scope(kind: str, whose: str) -> Scope:
    if kind == "accounts":
        return Scope(account_id=whose)
    return Scope(strategy=whose) if kind == "strategies" else Scope(symbol=whose.upper())


def _rule(scope: Scope, table: Mapping[str, object], name: str, problems: list[str]) -> PlanRule:
    """What one table says; what is wrong with it is among the problems, and left out."""
    values: dict[str, object] = {}
    for key, value in table.items():
        if key not in _FIELDS:
            problems.append(f"{name}, {shown(scope)}: {key} is not known{meant(key, tuple(_FIELDS))}")
        elif scope.symbol is not None and key not in OF_SYMBOLS:
            problems.append(f"{name}, {shown(scope)}: {key} is of a plan as a whole, and of no single symbol.")
        else:
            read, allowed = _FIELDS[key]
            try:
                values[key] = read(value)
            except ValueError:
                problems.append(f"{name}, {shown(scope)}: {key} is {said(value)}; allowed: {allowed}.")
    return PlanRule(**values)  # type: ignore[arg-type]
