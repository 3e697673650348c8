"""`simulation.toml`: the conventions of the bars and the models of the market, typed; every problem at once, nothing guessed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from execution_service.core.planning.facts import PlanSettings
from simulation.matching.codes import PATHS
from simulation.problems import Collected

ZERO = Decimal(0)
MICROSECONDS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slippage:
    """One model. Several are added exactly, then rounded up to the tick, once."""

    model: str
    ticks: Decimal = ZERO
    bps: Decimal = ZERO
    """Of the price."""
    price_impact: Decimal = Decimal("0.1")
    """volume_share: the part of the price by which a fill of the whole bar's volume would move it; a smaller share moves it by its square."""
    y: Decimal = Decimal(1)
    sigma: Decimal | None = None
    """sqrt: daily volatility as a part of the price. None: of the last `days` sessions that are over."""
    adv: Decimal | None = None
    """sqrt: average daily volume. None: likewise."""
    days: Decimal = Decimal(20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commission:
    """One model, by order and cumulative: what has been charged for an order is the fee of all of it that is filled."""

    model: str
    per_share: Decimal = ZERO
    per_contract: Decimal = ZERO
    per_order: Decimal = ZERO
    percent: Decimal = ZERO
    """Per cent of the amount after slippage."""
    minimum: Decimal = ZERO
    maximum_pct: Decimal | None = None
    """Per cent of the amount; comes after the minimum."""
    side: str | None = None
    """`buy` or `sell`: the fee is of those orders alone (taxes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the bars mean, and how the market is modelled."""

    stamp: str
    """`open` or `close`: which end of a bar its time is."""
    interval: int
    """Of a bar, in microseconds."""
    tick: Decimal = Decimal("0.01")
    lot: Decimal = Decimal(1)
    multiplier: Decimal = Decimal(1)
    """Money for one point of the price and one unit."""
    currency: str = "USD"
    limit_fill: str = "through"
    path: str = "adverse"
    participation: Decimal = Decimal("0.1")
    slippage: tuple[Slippage, ...] = ()
    commission: tuple[Commission, ...] = ()
    cash: Decimal | None = None
    """What the account begins with. None: fills are not bounded by money, and shorts are allowed."""
    margin: Decimal | None = None
    """The equity that each unit of exposure needs; with it shorts are allowed. None: a cash account."""
    seed: int = 0
    latency_seconds: Decimal = ZERO
    """From an order's time to its arrival at the market."""
    planning: PlanSettings = field(default_factory=PlanSettings)
    """How targets are planned."""
    source: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """As it was read, for the manifest."""


_MODELS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "slippage": {
        "none": (),
        "ticks": ("ticks",),
        "bps": ("bps",),
        "half_spread": ("ticks",),
        "volume_share": ("price_impact",),
        "sqrt": ("y", "sigma", "adv", "days"),
    },
    "commission": {
        "none": (),
        "per_share": ("per_share", "minimum", "maximum_pct"),
        "per_contract": ("per_contract", "minimum", "maximum_pct"),
        "per_order": ("per_order",),
        "percent": ("percent", "minimum", "maximum_pct"),
    },
}
_PLANNING = ("buffer", "band", "max_weights", "max_turnover", "slices", "guard")
_NEEDED = {"ticks": "ticks", "bps": "bps", "half_spread": "ticks", "per_share": "per_share"}
_NEEDED |= {"per_contract": "per_contract", "per_order": "per_order", "percent": "percent"}


def read_settings(path: Path) -> Settings:
    """Raises InputRefused, with all that is wrong, and OSError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        problems = Collected()
        problems.add(path.name, 0, "TOML", str(exc))
        problems.raise_if_any()
        raise AssertionError from exc
    return settings_of(table, path.name)


def settings_of(table: Mapping[str, Any], where: str = "settings") -> Settings:
    """The same from a mapping; numbers as int, Decimal or text. Raises InputRefused."""
    reading = _Reading(table, where)
    known: dict[str, Any] = {
        "stamp": reading.choice("stamp", ("open", "close"), None),
        "interval": reading.interval(),
        "tick": reading.number("tick", Decimal("0.01"), is_positive=True),
        "lot": reading.number("lot", Decimal(1), is_positive=True),
        "multiplier": reading.number("multiplier", Decimal(1), is_positive=True),
        "currency": reading.text("currency", "USD"),
        "limit_fill": reading.choice("limit_fill", ("through", "touch"), "through"),
        "path": reading.choice("path", tuple(PATHS), "adverse"),
        "participation": reading.number("participation", Decimal("0.1"), is_positive=True, most=Decimal(1)),
        "slippage": reading.models("slippage", Slippage),
        "commission": reading.models("commission", Commission),
        "cash": reading.number("cash", None),
        "margin": reading.number("margin", None, is_positive=True, most=Decimal(1)),
        "seed": reading.whole("seed", 0),
        "latency_seconds": reading.number("latency_seconds", ZERO),
        "planning": reading.planning(),
    }
    reading.end(known)
    return Settings(**known, source=dict(table))


class _Reading:
    def __init__(self, table: Mapping[str, Any], where: str) -> None:
        self._table, self._where = table, where
        self._problems = Collected()

    def _wrong(self, key: str, message: str) -> None:
        self._problems.add(self._where, 0, key, message)

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None) -> str:
        value = self._table.get(key, default)
        if value is None:
            self._wrong(key, f"must be stated: one of {', '.join(allowed)}")
        elif value not in allowed:
            self._wrong(key, f"{value!r} is not one of {', '.join(allowed)}")
        return str(value)

    def text(self, key: str, default: str) -> str:
        value = self._table.get(key, default)
        if not isinstance(value, str) or not value:
            self._wrong(key, f"{value!r} is no text")
        return str(value)

    def interval(self) -> int:
        value = self._table.get("interval")
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value * MICROSECONDS["s"]
        found = re.fullmatch(r"([1-9][0-9]{0,5}) ?(s|m|min|h|d)", value) if isinstance(value, str) else None
        if found is None:
            self._wrong("interval", "must be stated: seconds, or a number with s, m, h or d, such as 1d")
            return 1
        return int(found[1]) * MICROSECONDS[found[2][0]]

    def number(
        self, key: str, default: Decimal | None, *, is_positive: bool = False, most: Decimal | None = None
    ) -> Decimal | None:
        value = self._table.get(key)
        return default if value is None else self._decimal(key, value, is_positive=is_positive, most=most)

    def _decimal(self, key: str, value: Any, *, is_positive: bool = False, most: Decimal | None = None) -> Decimal:
        number = _exact(value)
        if number is None:
            self._wrong(key, f"{value!r} is no decimal number")
            return Decimal(1)
        if number < 0 or (is_positive and not number) or (most is not None and number > most):
            bounds = "positive" if is_positive else "not negative"
            self._wrong(key, f"{value} must be {bounds}" + ("" if most is None else f" and at most {most}"))
            return Decimal(1)
        return number

    def whole(self, key: str, default: int) -> int:
        value = self._table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(key, f"{value!r} is no whole number")
            return default
        return value

    def models(self, key: str, kind: type[Any]) -> tuple[Any, ...]:
        value = self._table.get(key, ())
        rows = [value] if isinstance(value, Mapping) else value
        if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
            self._wrong(key, "is a table with `model`, or a list of such")
            return ()
        return tuple(model for row in rows if (model := self._model(key, row, kind)) is not None)

    def _model(self, key: str, row: Mapping[str, Any], kind: type[Any]) -> Any:
        name = row.get("model")
        fields = _MODELS[key].get(name) if isinstance(name, str) else None
        if fields is None:
            self._wrong(key, f"model {name!r} is not one of {', '.join(_MODELS[key])}")
            return None
        allowed = {"model", *fields} | ({"side"} if key == "commission" else set())
        for other in row.keys() - allowed:
            self._wrong(f"{key}.{other}", f"is no setting of the model {name}")
        needed = _NEEDED.get(str(name))
        if needed is not None and needed not in row:
            self._wrong(f"{key}.{needed}", f"the model {name} needs it")
        values = {f: self._decimal(f"{key}.{f}", row[f]) for f in fields if f in row}
        side = row.get("side")
        if side is not None:
            if side not in ("buy", "sell"):
                self._wrong(f"{key}.side", f"{side!r} is not buy or sell")
            values["side"] = side
        return None if name == "none" else kind(model=name, **values)

    def planning(self) -> PlanSettings:
        table = self._table.get("planning", {})
        if not isinstance(table, Mapping):
            self._wrong("planning", "is a table")
            return PlanSettings()
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in _PLANNING:
                self._wrong(f"planning.{key}", f"is not one of {', '.join(_PLANNING)}")
            elif key == "slices" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                self._wrong("planning.slices", f"{value!r} is no whole number from 1 on")
            else:
                values[key] = value if key == "slices" else self._decimal(f"planning.{key}", value)
        return PlanSettings(**values)

    def end(self, known: Mapping[str, Any]) -> None:
        for key in self._table.keys() - known.keys():
            self._wrong(key, "is no setting of a simulation")
        if known["margin"] is not None and known["cash"] is None:
            self._wrong("margin", "needs cash")
        self._problems.raise_if_any()


def _exact(value: Any) -> Decimal | None:
    """A finite decimal of an int, a Decimal or text. A binary float is not taken: it may not be what was written."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    try:
        number = Decimal(value)
    except ArithmeticError:
        return None
    return number if number.is_finite() else None
