"""A market of the past for the tests of its broker: bars that stand at one price, and its book, opened beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Market
from brokers.simulated.manifest import BY_COMMAND, MANIFEST, book_of
from simulators.simulator import Place, Simulator, Stage

SYMBOLS = ("SPY", "AAPL", "MSFT")
PRICE = "100.25"
BARS = 500
BEGIN = datetime(2024, 1, 2, tzinfo=UTC)
FASTEST = 200.0
"""Bars a second."""
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
    for symbol in SYMBOLS:
        for n in range(BARS):
            at = (BEGIN + timedelta(minutes=n)).isoformat()
            lines.append(f"{symbol},{at},{PRICE},{PRICE},{PRICE},{PRICE},{volume}")
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
    place.folder.mkdir(parents=True, exist_ok=True)
    return account_keys(place.folder, Market())


SIMULATOR = Simulator(open_stage=open_stage, symbols=SYMBOLS, account=account_of)
