"""Bars and orders in a line each, for the tests of the simulation."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from simulation.actions import read_actions
from simulation.bars import BarReader, History
from simulation.matching.codes import FILL_REASONS, REASONS, STATUSES
from simulation.orders import OrderReader
from simulation.run import Result, simulate_orders
from simulation.settings import Settings, settings_of

D = Decimal
DAILY: dict[str, Any] = {"stamp": "open", "interval": "1d", "participation": 1}
VOLUME = "1000000"


def day(n: int, hour: int = 0) -> str:
    """The n-th day, from 1."""
    return f"2024-01-{n:02d}T{hour:02d}:00:00Z"


def bars_of(settings: Settings, *lines: str) -> History:
    """`O H L C`, one a day, of the instrument A; more words: the volume, `halted`."""
    reader = BarReader(settings)
    rows = [["symbol", "time", "open", "high", "low", "close", "volume", "halted"]]
    for n, line in enumerate(lines, 1):
        words = line.split()
        if words == ["-"]:
            continue
        rows.append(["A", day(n), *words[:4], words[4] if len(words) > 4 else VOLUME, "1" if "halted" in words else ""])
    reader.rows(rows, "bars")
    return reader.history()


def order_rows(*lines: str) -> list[list[str]]:
    """`SIDE QUANTITY TYPE [limit=] [stop=] [tif=] [at=DAY] [oco=] [reduce_only=] [strategy=]`; ids o1, o2; at the first day unless told."""
    names = ("limit_price", "stop_price", "tif", "strategy_id", "oco", "reduce_only")
    short = {"limit": "limit_price", "stop": "stop_price", "strategy": "strategy_id"}
    rows = [["order_id", "time", "symbol", "side", "quantity", "order_type", *names]]
    for n, line in enumerate(lines, 1):
        side, quantity, kind, *more = line.split()
        told = {short.get(k, k): v for k, v in (word.split("=") for word in more)}
        at = day(int(told.pop("at", "1")))
        rows.append([f"o{n}", at, "A", side, quantity, kind, *(told.get(name, "") for name in names)])
    return rows


def simulated(
    bars: list[str], orders: list[str], engine: str = "plain", actions: str | None = None, **settings: Any
) -> Result:
    """`actions`: lines of `symbol,ex_date,type,value`."""
    known = settings_of(DAILY | settings)
    history = bars_of(known, *bars)
    if actions is not None:
        with NamedTemporaryFile("w", suffix=".csv") as file:
            file.write("symbol,ex_date,type,value\n" + actions)
            file.flush()
            read_actions(Path(file.name), history, known)
    reader = OrderReader(known, history)
    reader.rows(order_rows(*orders), "orders")
    return simulate_orders(reader.orders(), history, known, engine=engine)


def fills(result: Result) -> list[tuple[str, Decimal, Decimal]]:
    """Order, quantity, price."""
    tick, lot = result.settings.tick, result.settings.lot
    return [
        (result.orders.order_id[row], lot * q, tick * p)
        for row, q, p in zip(result.trades.order, result.trades.quantity, result.trades.price, strict=True)
    ]


def reasons(result: Result) -> list[str]:
    return [FILL_REASONS[code] for code in result.trades.reason]


def ends(result: Result) -> list[str]:
    """`STATUS REASON` by order."""
    return [f"{STATUSES[s]} {REASONS[r]}".strip() for s, r in zip(result.status, result.reason, strict=True)]
