"""A market of the past for the tests of its broker: bars that stand at one price, and its book, opened beside it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Market
from brokers.simulated.manifest import BY_COMMAND, FOLDER, MANIFEST, book_of
from simulators.simulator import Place, Simulator, Stage

SYMBOLS = ("SPY", "AAPL", "MSFT")
PRICE = "100.25"
BARS = 400
BEGIN = datetime(2024, 1, 2, tzinfo=UTC)
STEADY_BARS = 5_000
"""For hundreds of orders, one after the other: each needs a bar."""
APART = "APART"
"""What nothing else of a stage trades."""
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
    exchange = _beside(folder, account, market.currency)
    try:
        yield Stage(exchange=exchange, config=config)
    finally:
        exchange.close()


def _beside(folder: Path, account: str, currency: str) -> PaperExchange:
    """The account's book, without a market: what is done in it is what a person or the venue does past the service. Nothing fills in it by chance."""
    market = Market(fill_delay_seconds=None, currency=currency)
    return PaperExchange(book_of(folder, account), account_id=account, market=market)


def account_keys(folder: Path, market: Market) -> dict[str, object]:
    """Writes bars and settings into the folder; the account's keys by which they are used."""
    volume = PART if market.partial_fill_rate else 1_000_000
    delay = market.fill_delay_seconds
    pace = BY_COMMAND if delay is None else f"{FASTEST if not delay else min(FASTEST, 1 / delay):g}"
    return {**_steady_files(folder, SYMBOLS[:1], BARS, volume, market), "pace": pace}


def _steady_files(folder: Path, symbols: Sequence[str], bars: int, volume: int, market: Market) -> dict[str, object]:
    """Bars of a minute that stand at one price."""
    folder.mkdir(parents=True, exist_ok=True)
    file, settings = folder / "bars.csv", folder / "simulation.toml"
    lines = ["symbol,time,open,high,low,close,volume"]
    for n in range(bars):
        at = (BEGIN + timedelta(minutes=n)).isoformat()
        lines += [f"{symbol},{at},{PRICE},{PRICE},{PRICE},{PRICE},{volume}" for symbol in symbols]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings.write_text(
        f'stamp = "open"\ninterval = "1m"\nparticipation = 1\ncurrency = "{market.currency}"\n'
        f'commission = {{ model = "per_order", per_order = {market.commission_per_order} }}\n',
        encoding="utf-8",
    )
    return {"bars": str(file), "simulation": str(settings)}


def steady_account(place: Place) -> dict[str, object]:
    """All accounts of a folder have the same bars, and each is a market of its own. It goes on as it does for people: when all has settled."""
    files = _steady_files(place.folder / "past", (*SYMBOLS, APART), STEADY_BARS, 1_000_000, Market())
    return {"mode": "TRAINING", **files}


def open_book(data_dir: Path, account_id: str) -> PaperExchange:
    """Each account has its own."""
    return _beside(data_dir / FOLDER, account_id, Market().currency)


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
    steady_account=steady_account,
    open_book=open_book,
    apart={"symbol": APART},
    demo_account_id="Training_Demo",
    samples=("equity_simple_signal_1.json --account Training_Demo",),
)
