"""Measures the batch simulation from files to files, in a process of its own as its user runs it, and the planner; single thread."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

from benchmarks.figures import Figure, Say
from benchmarks.traffic import MeasurementFailed
from benchmarks.worlds import REPOSITORY
from brokers.base import Instrument
from execution_service.core.planning.facts import InstrumentFacts, Money, PlanSettings
from execution_service.core.planning.plan import make_plan
from execution_service.core.planning.targets import Mode, Target, TargetPositions

DAYS, ORDERS_EACH = 2_520, 1_000
"""Of each instrument; a thousand instruments are a million orders over ten years. The time of a run grows with them in proportion."""
MOST_MIB = 2_048
LEAST_RATE = {"plain": 1_000_000 / 60, "numba": 1_000_000 / 15}
"""Orders a second: a million within a minute, or within 15 s."""
PLANNED = 5_000
PLAN_SECONDS = 1.0
_CONFIG = """stamp = "open"
interval = "1d"
slippage = { model = "bps", bps = 5 }
commission = { model = "per_share", per_share = 0.005, minimum = 1.00 }
"""


def measure_simulation(folder: Path, say: Say, instruments: int) -> list[Figure]:
    """Orders a second, by each engine that is there; instruments planned within a second."""
    say(f"the batch simulation: writing bars and orders of {instruments} instruments")
    closes = _write_bars(folder / "bars.csv", instruments)
    _write_orders(folder / "orders.csv", closes)
    (folder / "simulation.toml").write_text(_CONFIG)
    few = folder / "few"
    few.mkdir()
    _write_orders(few / "orders.csv", _write_bars(few / "bars.csv", 1))
    (few / "simulation.toml").write_text(_CONFIG)
    engines = ["plain", *(["numba"] if find_spec("numba") is not None else [])]
    return [*(_rate(folder, few, engine, instruments, say) for engine in engines), _planning(say)]


def _rate(folder: Path, few: Path, engine: str, instruments: int, say: Say) -> Figure:
    if engine == "numba":
        say("the matcher is compiled, once for an installation")
        _run(few, engine)
    say(f"the batch simulation, {engine}")
    seconds, processor_seconds, mib = _run(folder, engine)
    orders = instruments * ORDERS_EACH
    rate = orders / seconds
    return Figure(
        name=f"simulated orders, {engine}, CSV to CSV",
        ours=f"{rate:,.0f} orders/s",
        target=f"{LEAST_RATE[engine]:,.0f} orders/s, {MOST_MIB:,} MiB",
        is_met=rate >= LEAST_RATE[engine] and mib <= MOST_MIB,
        note=f"{orders:,} orders over {instruments * DAYS:,} bars: {seconds:.1f} s, of the processor {processor_seconds:.1f} s; {mib:,.0f} MiB",
        raw={"seconds": seconds, "processor_seconds": processor_seconds, "mib": mib},
    )


def _run(folder: Path, engine: str) -> tuple[float, float, float]:
    """Seconds by the clock and of the processor, and the most memory, in MiB. Raises MeasurementFailed."""
    names = {"--bars": "bars.csv", "--orders": "orders.csv", "--config": "simulation.toml", "--out": f"out-{engine}"}
    arguments = [word for option, name in names.items() for word in (option, str(folder / name))]
    command = [sys.executable, "-m", "simulation", *arguments, "--engine", engine, "--format", "csv"]
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    # So that nobody waits for it once more.
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise MeasurementFailed(f"the simulation ended with status {process.returncode}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def _planning(say: Say) -> Figure:
    say("planning")
    at = datetime(2026, 1, 2, tzinfo=UTC)
    instruments = [Instrument(symbol=f"S{n:05d}") for n in range(PLANNED)]
    facts = {
        i.key: InstrumentFacts(instrument=i, held=Decimal(n % 9), price=Decimal(50)) for n, i in enumerate(instruments)
    }
    targets = TargetPositions(
        decision_id="d",
        account_id="a",
        strategy_id="s",
        as_of=at,
        mode=Mode.TRAINING,
        targets=tuple(Target(instrument=i, weight=Decimal("0.0002")) for i in instruments),
    )
    begun = time.perf_counter()
    make_plan(targets, facts, Money(equity=Decimal(10**8)), PlanSettings(), at)
    seconds = time.perf_counter() - begun
    return Figure(
        name="planning",
        ours=f"{seconds:.2f} s",
        target=f"{PLAN_SECONDS:.0f} s",
        is_met=seconds <= PLAN_SECONDS,
        note=f"{PLANNED:,} instruments",
        raw={"seconds": seconds},
    )


def _write_bars(path: Path, instruments: int) -> list[list[int]]:
    """Random walks from a seed; returns the closes, in cents, by instrument and day."""
    luck, closes = random.Random(1), []
    days = [_day(day) for day in range(DAYS)]
    price_of = _Prices()
    with path.open("w", encoding="utf-8") as file:
        file.write("symbol,time,open,high,low,close,volume\n")
        for n in range(instruments):
            price, mine, lines = luck.randint(2_000, 20_000), [], []
            gaps, moves, above, below = (luck.choices(span, k=DAYS) for span in _SPANS)
            volumes = luck.choices(_VOLUMES, k=DAYS)
            for day, gap, move, high, low, volume in zip(days, gaps, moves, above, below, volumes, strict=True):
                opens = max(1_000, price + gap)
                price = max(1_000, opens + move)
                shape = f"{price_of[opens]},{price_of[max(opens, price) + high]},{price_of[min(opens, price) - low]},{price_of[price]}"
                lines.append(f"S{n:04d},{day},{shape},{volume}\n")
                mine.append(price)
            file.writelines(lines)
            closes.append(mine)
    return closes


_SPANS = (range(-30, 31), range(-100, 101), range(61), range(61))
"""In cents: from close to open, from open to close, and how far beyond both the day goes up and down."""
_VOLUMES = range(1_000, 100_001)


class _Prices(dict[int, str]):
    """Cents as texts, each made once."""

    def __missing__(self, cents: int) -> str:
        text = self[cents] = f"{cents / 100:.2f}"
        return text


def _write_orders(path: Path, closes: list[list[int]]) -> None:
    """60 % market, 25 % limit, 10 % stop, 5 % stop-limit; half of those that rest are good till cancelled."""
    luck, count = random.Random(2), ORDERS_EACH * len(closes)
    days, price_of = [_day(day) for day in range(DAYS)], _Prices()
    draws = zip(
        luck.choices(range(len(closes)), k=count),
        luck.choices(range(DAYS - 1), k=count),
        luck.choices((1, -1), k=count),
        luck.choices(("MARKET", "LIMIT", "STOP", "STOP_LIMIT"), [60, 25, 10, 5], k=count),
        luck.choices(range(1, 151), k=count),
        luck.choices(("DAY", "GTC"), k=count),
        luck.choices(range(1, 2_001), k=count),
        strict=True,
    )
    with path.open("w", encoding="utf-8") as file:
        file.write("order_id,time,symbol,side,quantity,order_type,limit_price,stop_price,tif\n")
        for number, (n, day, sign, kind, distance, tif, quantity) in enumerate(draws):
            away, close = sign * distance, closes[n][day]
            limit = stop = ""
            if kind == "LIMIT":
                limit = price_of[close - away]
            elif kind != "MARKET":
                stop = price_of[close + away]
                limit = price_of[close + 2 * away] if kind == "STOP_LIMIT" else ""
            head = f"o{number},{days[day + 1]},S{n:04d},{'BUY' if sign > 0 else 'SELL'},{quantity},{kind}"
            file.write(f"{head},{limit},{stop},{'' if kind == 'MARKET' else tif}\n")


def _day(number: int) -> str:
    return (datetime(2010, 1, 1, tzinfo=UTC) + timedelta(days=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
