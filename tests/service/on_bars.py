"""A service whose account trades on historical bars, in this process and without threads; no test."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Collection, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import structlog

from brokers.base import Instrument
from brokers.paper.broker import Venue
from brokers.simulated.adapter import Configuration, SimulatedBroker
from brokers.simulated.clock import MarketClock
from brokers.simulated.exchange import HistoricalExchange
from brokers.simulated.manifest import book_of
from execution_service.app.settings.accounts import Account
from execution_service.core.planning.targets import Mode
from tests.fakes import ACCOUNT, Moment, World
from tests.fakes.broker import GatedBroker, InlineExecutor

DAILY = 'stamp = "open"\ninterval = "1d"\nparticipation = 1\n'


class MarketInPlace(SimulatedBroker):
    """The broker on historical bars without its thread."""

    async def connect(self) -> None:
        if self._venue is None:
            self._venue = Venue(self._path, InlineExecutor())
            self._venue.accounts = 1
        await super().connect()


class GatedMarket(GatedBroker):
    """Its clock is moved through the process's border, too, and the process may die there."""

    def __init__(self, world: BarsWorld, inner: Any) -> None:
        super().__init__(inner, world.gate, world.broker_faults, world.broker_calls, None, world.reservations)
        self._world = world

    async def usual_volumes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Decimal]:
        return await self._pass("usual_volumes", "", lambda: self.inner.usual_volumes(instruments))

    async def wants_to_move(self) -> bool:
        return await self._pass("wants_to_move", "", self.inner.wants_to_move)

    async def move_on(self) -> bool:
        if self._world.dies_at_move is not None:
            self._gate.dies_at = (len(self._gate.names) + 1, self._world.dies_at_move)
        return await self._pass("move_on", "", self.inner.move_on)


class BarsWorld(World):
    """The world's one account is in TRAINING, at a market of the past."""

    def __init__(self, folder: Path, bars: str, settings: str = DAILY, **kwargs: Any) -> None:
        """`bars` are the lines of a file; `pace` and `start` are the account's."""
        keys = {name: kwargs.pop(name) for name in ("pace", "start") if name in kwargs}
        super().__init__(folder, **kwargs)
        (folder / "bars.csv").write_text("symbol,time,open,high,low,close,volume\n" + bars, encoding="utf-8")
        (folder / "simulation.toml").write_text(settings, encoding="utf-8")
        self.dies_at_move: Moment | None = None
        """The process dies before or after the next move of the clock."""
        self.keys: dict[str, object] = {
            "account_id": ACCOUNT,
            "bars": folder / "bars.csv",
            "simulation": folder / "simulation.toml",
            "folder": folder / "simulated",
            **keys,
        }
        self._path = book_of(folder / "simulated", ACCOUNT)
        self._accounts = {
            ACCOUNT: Account(
                account_id=ACCOUNT, name="Past", broker="simulated", live=False, config=self.keys, mode=Mode.TRAINING
            )
        }

    def create_broker(self, config: Mapping[str, object]) -> GatedBroker:
        inner: Any = MarketInPlace(Configuration.of(config, broker="simulated"), clock=self.clock.now)
        self._inner.append(inner)
        broker = self.brokers[ACCOUNT] = GatedMarket(self, inner)
        return broker

    @property
    def exchange(self) -> HistoricalExchange:
        """The account's, as the service has it open."""
        exchange = self.brokers[ACCOUNT].inner._book
        assert isinstance(exchange, HistoricalExchange)
        return exchange

    @property
    def market_clock(self) -> MarketClock:
        """As a person has it."""
        return MarketClock(self._path, ACCOUNT)

    def arrivals(self) -> dict[int, int]:
        """By the orders' numbers: when each arrived at the market, in microseconds."""
        with contextlib.closing(sqlite3.connect(self._path)) as db:
            return dict(db.execute("SELECT order_number, arrival FROM market_inputs WHERE what = 'place'").fetchall())

    def plan(self, decision: str, as_of: str, *wanted: tuple[str, int], mode: str = "TRAINING", **more: Any) -> None:
        """Publishes a list of targets."""
        body = {
            "decision_id": decision,
            "account_id": ACCOUNT,
            "strategy_id": "momentum",
            "as_of": as_of,
            "mode": mode,
            "targets": [{"symbol": symbol, "quantity": quantity} for symbol, quantity in wanted],
        }
        self.targets.publish(json.dumps(body | more).encode(), self.clock.now())


@contextlib.asynccontextmanager
async def world_on(folder: Path, bars: str, settings: str = DAILY, **kwargs: Any) -> AsyncIterator[BarsWorld]:
    """A living service on these bars."""
    with structlog.testing.capture_logs() as logs:
        world = BarsWorld(folder, bars, settings, **kwargs)
        world.logs = logs
        try:
            await world.start()
            yield world
        finally:
            await world.close()
