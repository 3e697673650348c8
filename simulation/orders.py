"""The orders of a batch run, checked against bars and steps, in columns of whole numbers."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from simulation.bars import LARGEST, History
from simulation.blocks import Block, Texts, csv_texts, repeated, texts_of
from simulation.matching.codes import DAY, KINDS, LIMIT, MARKET, STOP, STOP_LIMIT, TIFS
from simulation.problems import Collected
from simulation.settings import Settings
from simulation.units import Kept, Whole, parsed_time, truth

COLUMNS = ("order_id", "time", "symbol", "side", "quantity", "order_type")
MORE = ("limit_price", "stop_price", "tif", "strategy_id", "oco", "reduce_only")
SIDES = {"BUY": 1, "SELL": -1}
LIMITED, STOPPED = (LIMIT, STOP_LIMIT), (STOP, STOP_LIMIT)
"""The orders that have a limit price, and a stop price."""


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
        symbols = list(history.series)
        self._columns = OrderColumns(symbols=symbols)
        self._symbols = {symbol: n for n, symbol in enumerate(symbols)}
        self._strategies: dict[str, int] = {}
        self._groups: dict[str, tuple[int, int]] = {}
        """By name: the group's number, and its instrument's."""
        self._ids: set[str] = set()
        self._latency = int(settings.latency_seconds * 1_000_000)
        self._readers: Mapping[str, Kept[str, int]] = {
            "time": Kept(self._arrival_of),
            "symbol": Kept(self._symbol_of),
            "side": Kept(partial(_one_of, SIDES)),
            "quantity": Kept(partial(_positive, Whole(settings.lot))),
            "order_type": Kept(partial(_one_of, KINDS)),
            "tif": Kept(partial(_one_of, {"": DAY, **TIFS})),
            "reduce_only": Kept(_flag),
        }
        """What makes whole numbers of the texts of a column, and raises ValueError where they are none."""
        self._price = Kept(partial(_positive, Whole(settings.tick)))
        self.problems = Collected()

    def _arrival_of(self, text: str) -> int:
        return parsed_time(text) + self._latency

    def _symbol_of(self, text: str) -> int:
        number = self._symbols.get(text)
        if number is None:
            raise ValueError("has no bars")
        return number

    def csv(self, path: Path) -> None:
        """Rows that cannot be read are noted, and left out. Raises OSError."""
        with csv_texts(path, self.problems) as texts:
            self._take_texts(texts, path.name)

    def rows(self, rows: Iterable[Sequence[str]], where: str) -> None:
        """Texts, a header first. Rows that cannot be read are noted, and left out."""
        self._take_texts(texts_of(rows, where, self.problems), where)

    def add_checked(self, columns: OrderColumns) -> bool:
        """All orders of a run at once, by somebody who has checked of each row what is checked here. False: an id is empty or there twice, or
        other orders were read before, and nothing was taken."""
        ids = set(columns.order_id)
        if self._ids or "" in ids or len(ids) < len(columns):
            return False
        self._ids = ids
        self._strategies = {name: n for n, name in enumerate(columns.strategies)}
        self._columns = columns
        return True

    def _take_texts(self, texts: Texts, where: str) -> None:
        header = texts.header
        missing = [name for name in COLUMNS if name not in header]
        unknown = [name for name in header if name not in (*COLUMNS, *MORE)]
        twice = repeated(header)
        if missing or unknown or twice:
            words = "; ".join(
                f"{what}: {', '.join(names) or 'none'}"
                for what, names in (("missing", missing), ("unknown", unknown), ("twice", twice))
            )
            self.problems.add(where, 1, "COLUMNS", words)
            return
        for block in texts.blocks:
            columns = block.columns
            if columns is None or not self._take(dict(zip(header, columns, strict=True)), len(columns[0])):
                self._take_one_by_one(block, header, where)

    def _take(self, texts: Mapping[str, Sequence[str]], count: int) -> bool:
        """Takes `count` rows whole. False: something is wrong with one of them, and none was taken."""
        absent = ("",) * count
        order_ids = texts["order_id"]
        fresh = set(order_ids)
        try:
            read = {
                name: list(map(reader.__getitem__, texts.get(name, absent))) for name, reader in self._readers.items()
            }
            limit = self._prices(texts.get("limit_price", absent), read["order_type"], LIMITED)
            stop = self._prices(texts.get("stop_price", absent), read["order_type"], STOPPED)
            group = self._groups_of(texts.get("oco", absent), read["symbol"])
        except ValueError:
            return False
        if "" in fresh or len(fresh) != count or not self._ids.isdisjoint(fresh):
            return False
        self._ids |= fresh
        strategies = texts.get("strategy_id", absent)
        for name in dict.fromkeys(strategies):
            self._strategies.setdefault(name, len(self._strategies))
        columns = self._columns
        columns.order_id.extend(order_ids)
        columns.arrival.extend(read["time"])
        columns.symbol.extend(read["symbol"])
        columns.side.extend(read["side"])
        columns.quantity.extend(read["quantity"])
        columns.kind.extend(read["order_type"])
        columns.limit.extend(limit)
        columns.stop.extend(stop)
        columns.tif.extend(read["tif"])
        columns.strategy.extend(map(self._strategies.__getitem__, strategies))
        columns.group.extend(group)
        columns.reduce_only.extend(read["reduce_only"])
        return True

    def _prices(self, texts: Sequence[str], kinds: Sequence[int], priced: Container[int]) -> list[int]:
        """In ticks, of those orders that have one; 0 of the others, whatever stands there. Raises ValueError."""
        price = self._price
        return [price[text] if kind in priced else 0 for text, kind in zip(texts, kinds, strict=True)]

    def _groups_of(self, names: Sequence[str], symbols: Sequence[int]) -> Sequence[int]:
        """Raises ValueError where a group has orders of several symbols."""
        if not any(names):
            return array("q", [-1]) * len(names)
        return [self._group(name, symbol) if name else -1 for name, symbol in zip(names, symbols, strict=True)]

    def _group(self, name: str, symbol: int) -> int:
        group, of = self._groups.setdefault(name, (len(self._groups), symbol))
        if of != symbol:
            raise ValueError("has orders of several symbols")
        return group

    def _take_one_by_one(self, block: Block, header: Sequence[str], where: str) -> None:
        for row, line in enumerate(block.rows, block.first):
            if not line:
                continue
            if len(line) != len(header):
                self.problems.add(where, row, "COLUMNS", f"{len(line)} fields instead of {len(header)}")
                continue
            texts = dict(zip(header, line, strict=True))
            if not self._take({name: (text,) for name, text in texts.items()}, 1):
                self._name_what_is_wrong(texts, where, row)

    def _name_what_is_wrong(self, texts: Mapping[str, str], where: str, row: int) -> None:
        read: dict[str, int] = {}

        def tell(name: str, reader: Callable[[str], int]) -> None:
            text = texts.get(name, "")
            try:
                read[name] = reader(text)
            except ValueError as exc:
                self.problems.add(where, row, name.upper(), f"{text!r} {exc}")

        order_id = texts["order_id"]
        if not order_id:
            self.problems.add(where, row, "ORDER_ID", "is empty")
        elif order_id in self._ids:
            self.problems.add(where, row, "DUPLICATE", f"order {order_id} was there already")
        for name, reader in self._readers.items():
            tell(name, reader.__getitem__)
        kind = read.get("order_type", MARKET)
        if kind in LIMITED:
            tell("limit_price", self._price.__getitem__)
        if kind in STOPPED:
            tell("stop_price", self._price.__getitem__)
        if texts.get("oco") and "symbol" in read:
            tell("oco", lambda name: self._group(name, read["symbol"]))

    def orders(self) -> OrderColumns:
        """Raises InputRefused."""
        self.problems.raise_if_any()
        self._columns.strategies = list(self._strategies)
        return self._columns


def _one_of(codes: Mapping[str, int], text: str) -> int:
    """Raises ValueError."""
    code = codes.get(text.upper())
    if code is None:
        raise ValueError(f"is not one of {', '.join(filter(None, codes))}")
    return code


def _flag(text: str) -> int:
    """Raises ValueError."""
    return int(truth(text))


def _positive(steps: Whole, text: str) -> int:
    """Raises ValueError."""
    number = steps.parsed(text)
    if not 0 < number < LARGEST:
        raise ValueError("must be more than 0, and not so large")
    return number
