"""A market of the past for the tests of its broker: bars that stand at one price, and its book, opened beside it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Market
from brokers.simulated.manifest import BY_COMMAND, MANIFEST, book_of
from simulators.simulator import Place, Simulator, Stage

SYMBOLS = ("SPY", "AAPL", "MSFT")
PRICE = "100.25"
BARS = 400
BEGIN = datetime(2024, 1, 2, tzinfo=UTC)
FASTEST = 200.0
"""Bars a second."""
DAYS, SATURDAY = 730, 5
PART = 6
"""So many units a bar has where orders are to be filled in parts."""


@asynccontextmanager
async def open_stage(folder: Path, account: str, market: Market) -> AsyncIterator[Stage]:
    """A market order of up to `PART` units fills in a bar where the market has partial fills, and any does else; commission is by order."""
    keys = account_keys(folder, market)
    config = {"broker": MANIFEST.name, "account_id": account, "folder": str(folder), **keys}
    exchange = PaperExchange(
        book_of(folder, account), account_id=account, market=Market(fill_delay_seconds=None, currency=market.currency)
    )
    try:
        yield Stage(exchange=exchange, config=config)
    finally:
        exchange.close()


def account_keys(folder: Path, market: Market) -> dict[str, object]:
    """Writes bars and settings into the folder; the account's keys by which they are used."""
    bars, settings = folder / "bars.csv", folder / "simulation.toml"
    volume = PART if market.partial_fill_rate else 1_000_000
    lines = ["symbol,time,open,high,low,close,volume"]
    for n in range(BARS):
        at = (BEGIN + timedelta(minutes=n)).isoformat()
        lines.append(f"{SYMBOLS[0]},{at},{PRICE},{PRICE},{PRICE},{PRICE},{volume}")
    bars.write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings.write_text(
        f'stamp = "open"\ninterval = "1m"\nparticipation = 1\ncurrency = "{market.currency}"\n'
        f'commission = {{ model = "per_order", per_order = {market.commission_per_order} }}\n',
        encoding="utf-8",
    )
    delay = market.fill_delay_seconds
    pace = BY_COMMAND if delay is None else f"{FASTEST if not delay else min(FASTEST, 1 / delay):g}"
    return {"bars": str(bars), "simulation": str(settings), "pace": pace}


def account_of(place: Place) -> dict[str, object]:
    """Two years of made-up days for the demo, always the same ones, with costs."""
    place.folder.mkdir(parents=True, exist_ok=True)
    bars, settings = place.folder / "bars.csv", place.folder / "simulation.toml"
    bars.write_text("\n".join(["symbol,time,open,high,low,close,volume", *made_up_days()]) + "\n", encoding="utf-8")
    settings.write_text(
        'stamp = "open"\ninterval = "1d"\ncash = 1000000\nmargin = 0.5\nslippage = { model = "bps", bps = 5 }\n'
        'commission = { model = "per_share", per_share = 0.005, minimum = 1.00 }\n',
        encoding="utf-8",
    )
    return {"mode": "TRAINING", "bars": str(bars), "simulation": str(settings)}


def made_up_days() -> Iterator[str]:
    """Rows of a bars file: a random walk of each symbol from a seed, by day."""
    luck = random.Random(20240102)
    at = {"SPY": 45_000, "AAPL": 15_000, "MSFT": 30_000}
    for n in range(DAYS):
        day = BEGIN + timedelta(days=n)
        if day.weekday() >= SATURDAY:
            continue
        for symbol, before in at.items():
            opens = before + luck.randint(-before, before) // 200
            closes = at[symbol] = opens + luck.randint(-opens, opens) // 100
            high = max(opens, closes) + luck.randint(0, opens) // 200
            low = min(opens, closes) - luck.randint(0, opens) // 200
            prices = ",".join(f"{price / 100:.2f}" for price in (opens, high, low, closes))
            yield f"{symbol},{day:%Y-%m-%d},{prices},{luck.randint(20, 90) * 10_000}"


SIMULATOR = Simulator(
    open_stage=open_stage,
    symbols=SYMBOLS,
    account=account_of,
    demo_account_id="Training_Demo",
    samples=("equity_simple_signal_1.json --account Training_Demo",),
)
