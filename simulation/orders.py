"""The orders of a batch run, checked against bars and steps, in columns of whole numbers."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from simulation.bars import LARGEST, History
from simulation.matching.codes import DAY, KINDS, LIMIT, STOP, STOP_LIMIT, TIFS
from simulation.problems import Collected
from simulation.settings import Settings
from simulation.units import Whole, parsed_time

COLUMNS = ("order_id", "time", "symbol", "side", "quantity", "order_type")
MORE = ("limit_price", "stop_price", "tif", "strategy_id", "oco", "reduce_only")
SIDES = {"BUY": 1, "SELL": -1}


def _column() -> array[int]:
    return array("q")


@dataclass(slots=True)
class OrderColumns:
    """Orders in the sequence of their rows. `symbol`, `strategy` and `group` are indices of the lists beside them; a group of -1 is none."""

    symbols: list[str] = field(default_factory=list)
    strategies: list[str] = field(default_factory=list)
    order_id: list[str] = field(default_factory=list)
    arrival: array[int] = field(default_factory=_column)
    symbol: array[int] = field(default_factory=_column)
    side: array[int] = field(default_factory=_column)
    quantity: array[int] = field(default_factory=_column)
    kind: array[int] = field(default_factory=_column)
    limit: array[int] = field(default_factory=_column)
    stop: array[int] = field(default_factory=_column)
    tif: array[int] = field(default_factory=_column)
    strategy: array[int] = field(default_factory=_column)
    group: array[int] = field(default_factory=_column)
    reduce_only: array[int] = field(default_factory=_column)

    def __len__(self) -> int:
        return len(self.order_id)


class OrderReader:
    """Collects rows; `orders` checks what only all of them together show."""

    def __init__(self, settings: Settings, history: History) -> None:
        self._price, self._lots = Whole(settings.tick), Whole(settings.lot)
        self._latency = int(settings.latency_seconds * 1_000_000)
        symbols = list(history.series)
        self._columns = OrderColumns(symbols=symbols)
        self._symbols = {symbol: n for n, symbol in enumerate(symbols)}
        self._strategies: dict[str, int] = {}
        self._groups: dict[str, tuple[int, int]] = {}
        self._ids: set[str] = set()
        self._times: dict[str, int] = {}
        self.problems = Collected()

    def rows(self, rows: Iterable[Sequence[str]], where: str) -> None:
        """Texts, a header first."""
        lines = iter(rows)
        header = [name.strip().lower() for name in next(lines, [])]
        missing = [name for name in COLUMNS if name not in header]
        unknown = [name for name in header if name not in (*COLUMNS, *MORE)]
        if missing or unknown:
            words = f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
            self.problems.add(where, 1, "COLUMNS", words)
            return
        width = len(header)
        places = [header.index(name) for name in COLUMNS]
        more = [header.index(name) if name in header else width for name in MORE]
        try:
            for row, line in enumerate(lines, 2):
                if not line:
                    continue
                if len(line) != width:
                    self.problems.add(where, row, "COLUMNS", f"{len(line)} fields instead of {width}")
                    continue
                full = [*line, ""]
                self._take([full[n] for n in (*places, *more)], where, row)
        except (csv.Error, UnicodeDecodeError) as exc:
            self.problems.add(where, 0, "FORMAT", str(exc))

    def _take(self, values: list[str], where: str, row: int) -> None:
        order_id, time, symbol, side, quantity, kind, limit, stop, tif, strategy, oco, reduce_only = values
        wrong: list[tuple[str, str]] = []
        if not order_id:
            wrong.append(("ORDER_ID", "is empty"))
        elif order_id in self._ids:
            wrong.append(("DUPLICATE", f"order {order_id} was there already"))
        number = self._symbols.get(symbol)
        if number is None:
            wrong.append(("SYMBOL", f"there are no bars of {symbol!r}"))
        sign = SIDES.get(side.upper())
        if sign is None:
            wrong.append(("SIDE", f"{side!r} is not BUY or SELL"))
        at = self._times.get(time)
        if at is None:
            try:
                at = self._times[time] = parsed_time(time) + self._latency
            except ValueError as exc:
                wrong.append(("TIME", f"{time!r}: {exc}"))
        code = KINDS.get(kind.upper())
        if code is None:
            wrong.append(("ORDER_TYPE", f"{kind!r} is not one of {', '.join(KINDS)}"))
        lives = TIFS.get(tif.upper()) if tif else DAY
        if lives is None:
            wrong.append(("TIF", f"{tif!r} is not one of {', '.join(TIFS)}"))
        lots = self._whole("QUANTITY", quantity, self._lots, wrong)
        limit_ticks = self._whole("LIMIT_PRICE", limit, self._price, wrong) if code in (LIMIT, STOP_LIMIT) else 0
        stop_ticks = self._whole("STOP_PRICE", stop, self._price, wrong) if code in (STOP, STOP_LIMIT) else 0
        flag = reduce_only.strip().lower()
        if flag not in ("", "0", "1", "true", "false"):
            wrong.append(("REDUCE_ONLY", f"{reduce_only!r} is none of 0, 1, true, false"))
        group = -1
        if oco and number is not None:
            group, of = self._groups.setdefault(oco, (len(self._groups), number))
            if of != number:
                wrong.append(("OCO", f"group {oco} has orders of several symbols"))
        for rule, words in wrong:
            self.problems.add(where, row, rule, words)
        if wrong or number is None or sign is None or at is None or code is None or lives is None:
            return
        self._ids.add(order_id)
        columns = self._columns
        columns.order_id.append(order_id)
        columns.arrival.append(at)
        columns.symbol.append(number)
        columns.side.append(sign)
        columns.quantity.append(lots)
        columns.kind.append(code)
        columns.limit.append(limit_ticks)
        columns.stop.append(stop_ticks)
        columns.tif.append(lives)
        columns.strategy.append(self._strategies.setdefault(strategy, len(self._strategies)))
        columns.group.append(group)
        columns.reduce_only.append(1 if flag in ("1", "true") else 0)

    @staticmethod
    def _whole(rule: str, text: str, steps: Whole, wrong: list[tuple[str, str]]) -> int:
        try:
            number = steps.of(text)
        except ValueError as exc:
            wrong.append((rule, f"{text!r} {exc}"))
            return 0
        if not 0 < number < LARGEST:
            wrong.append((rule, f"{text!r} must be more than 0, and not so large"))
        return number

    def orders(self) -> OrderColumns:
        """Raises InputRefused."""
        self.problems.raise_if_any()
        self._columns.strategies = list(self._strategies)
        return self._columns
