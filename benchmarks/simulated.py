"""Measures the batch simulation from files to files, and the planner; alone in this process, single thread."""

from __future__ import annotations

import random
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from benchmarks.figures import Figure, Say
from brokers.base import Instrument
from execution_service.core.planning.facts import InstrumentFacts, Money, PlanSettings
from execution_service.core.planning.plan import make_plan
from execution_service.core.planning.targets import Mode, Target, TargetPositions
from simulation.__main__ import main as simulate

INSTRUMENTS, DAYS, ORDERS = 100, 2_520, 100_000
"""A tenth of a thousand instruments over ten years: the time of a run grows with them in proportion."""
LEAST_RATE = {"plain": 1_000_000 / 60, "numba": 1_000_000 / 15}
"""Orders a second: a million within a minute, or within 15 s."""
PLANNED = 5_000
PLAN_SECONDS = 1.0
_CONFIG = """stamp = "open"
interval = "1d"
slippage = { model = "bps", bps = 5 }
commission = { model = "per_share", per_share = 0.005, minimum = 1.00 }
"""


def measure_simulation(folder: Path, say: Say) -> list[Figure]:
    """Orders a second, by each engine that is there; instruments planned within a second."""
    say("the batch simulation: writing its bars and orders")
    closes = _write_bars(folder / "bars.csv")
    _write_orders(folder / "orders.csv", closes)
    (folder / "simulation.toml").write_text(_CONFIG)
    engines = ["plain", *(["numba"] if find_spec("numba") is not None else [])]
    return [*(_rate(folder, engine, say) for engine in engines), _planning(say)]


def _rate(folder: Path, engine: str, say: Say) -> Figure:
    say(f"the batch simulation, {engine}")
    names = {"--bars": "bars.csv", "--orders": "orders.csv", "--config": "simulation.toml", "--out": f"out-{engine}"}
    arguments = [word for option, name in names.items() for word in (option, str(folder / name))]
    begun = time.perf_counter()
    with redirect_stdout(StringIO()):
        status = simulate([*arguments, "--engine", engine, "--format", "csv"])
    seconds = time.perf_counter() - begun
    assert status == 0
    rate = ORDERS / seconds
    return Figure(
        name=f"simulated orders, {engine}, CSV to CSV",
        ours=f"{rate:,.0f} orders/s",
        target=f"{LEAST_RATE[engine]:,.0f} orders/s",
        is_met=rate >= LEAST_RATE[engine],
        note=f"{ORDERS:,} orders over {INSTRUMENTS * DAYS:,} bars",
        raw={"seconds": seconds},
    )


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


def _write_bars(path: Path) -> list[list[int]]:
    """Random walks from a seed; returns the closes, in cents, by instrument and day."""
    luck, closes = random.Random(1), []
    with path.open("w", encoding="utf-8") as file:
        file.write("symbol,time,open,high,low,close,volume\n")
        for n in range(INSTRUMENTS):
            price, mine = luck.randint(2_000, 20_000), []
            for day in range(DAYS):
                opens = max(1_000, price + luck.randint(-30, 30))
                price = max(1_000, opens + luck.randint(-100, 100))
                high, low = max(opens, price) + luck.randint(0, 60), min(opens, price) - luck.randint(0, 60)
                shape = ",".join(f"{cents / 100:.2f}" for cents in (opens, high, low, price))
                file.write(f"S{n:04d},{_day(day)},{shape},{luck.randint(1_000, 100_000)}\n")
                mine.append(price)
            closes.append(mine)
    return closes


def _write_orders(path: Path, closes: list[list[int]]) -> None:
    """60 % market, 25 % limit, 10 % stop, 5 % stop-limit; half of those that rest are good till cancelled."""
    luck = random.Random(2)
    with path.open("w", encoding="utf-8") as file:
        file.write("order_id,time,symbol,side,quantity,order_type,limit_price,stop_price,tif\n")
        for number in range(ORDERS):
            n, day = luck.randrange(INSTRUMENTS), luck.randrange(DAYS - 1)
            side, kind = (
                luck.choice(["BUY", "SELL"]),
                luck.choices(["MARKET", "LIMIT", "STOP", "STOP_LIMIT"], [60, 25, 10, 5])[0],
            )
            away = luck.randint(1, 150) * (1 if side == "BUY" else -1)
            close = closes[n][day]
            limit = {"LIMIT": f"{(close - away) / 100:.2f}", "STOP_LIMIT": f"{(close + 2 * away) / 100:.2f}"}.get(
                kind, ""
            )
            stop = f"{(close + away) / 100:.2f}" if kind in ("STOP", "STOP_LIMIT") else ""
            tif = "" if kind == "MARKET" else luck.choice(["DAY", "GTC"])
            quantity = luck.randint(1, 2_000)
            file.write(f"o{number},{_day(day + 1)},S{n:04d},{side},{quantity},{kind},{limit},{stop},{tif}\n")


def _day(number: int) -> str:
    return (datetime(2010, 1, 1, tzinfo=UTC) + timedelta(days=number)).strftime("%Y-%m-%dT%H:%M:%SZ")
