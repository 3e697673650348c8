"""The adapters that the broker contract suite runs on, each with a stage: a venue's true book and how to reach it; no test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from brokers.base import Instrument
from brokers.paper.exchange import PaperExchange
from brokers.paper.words import Market
from tests.contract.stage_ibkr import config_for as ibkr_config
from tests.contract.stage_ibkr import serving_tws
from tests.contract.stage_zerodha import SYMBOL as ZERODHA_SYMBOL
from tests.contract.stage_zerodha import config_for as zerodha_config
from tests.contract.stage_zerodha import serving_kite

ACCOUNT = "PAPER1"


class Trait(StrEnum):
    """What not every venue can do; tests that need it are skipped, and say so, where it is missing."""

    REJECTS_AT_ONCE = "a rejection is the answer to placing"
    FILLS_AT_ONCE = "the answer to placing carries the fills of an immediate execution"
    LATE_COMMISSIONS = "commissions are told per execution, possibly later"
    BUSTS = "busted and corrected executions are told"
    EXTERNAL_ORDERS = "other people's orders on the account are shown"
    HINTS = "changes that the venue makes are hinted at"
    SHARED_BOOK = "several processes may use the venue's book without a venue between them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A venue with one account. Faults are armed, and the truth is read, in `exchange`."""

    exchange: PaperExchange
    config: Mapping[str, object]
    """What BrokerFactory needs, in this process or another one, to make an adapter that reaches the venue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One row of the table. `open_stage(folder, market)` sets the venue up and takes it down again."""

    name: str
    open_stage: Callable[[Path, Market], AbstractAsyncContextManager[Stage]]
    instrument: Instrument = field(default_factory=lambda: Instrument(symbol="SPY"))
    product: str | None = None
    traits: frozenset[Trait] = frozenset(Trait)


@asynccontextmanager
async def _mock_stage(folder: Path, market: Market) -> AsyncIterator[Stage]:
    path = folder / "mock_broker.db"
    exchange = PaperExchange(path, account_id=ACCOUNT, market=market)
    config = {
        "broker": "Mock",
        "account_id": ACCOUNT,
        "path": str(path),
        "fill_delay_seconds": market.fill_delay_seconds,
        "rejection_rate": market.rejection_rate,
        "partial_fill_rate": market.partial_fill_rate,
        "slippage_bps": str(market.slippage_bps),
        "commission_per_order": str(market.commission_per_order),
        "seed": market.seed,
        "currency": market.currency,
    }
    try:
        yield Stage(exchange=exchange, config=config)
    finally:
        exchange.close()


@asynccontextmanager
async def _zerodha_stage(folder: Path, market: Market) -> AsyncIterator[Stage]:
    async with serving_kite(folder, ACCOUNT, market) as server:
        yield Stage(exchange=server.book, config=zerodha_config(server))


@asynccontextmanager
async def _ibkr_stage(folder: Path, market: Market) -> AsyncIterator[Stage]:
    async with serving_tws(folder, ACCOUNT, market) as gateway:
        yield Stage(exchange=gateway.book, config=ibkr_config(gateway))


ADAPTERS: tuple[Adapter, ...] = (
    Adapter(name="mock", open_stage=_mock_stage),
    Adapter(
        name="ibkr",
        open_stage=_ibkr_stage,
        traits=frozenset({Trait.LATE_COMMISSIONS, Trait.BUSTS, Trait.EXTERNAL_ORDERS, Trait.HINTS}),
    ),
    Adapter(
        name="zerodha",
        open_stage=_zerodha_stage,
        instrument=Instrument(symbol=ZERODHA_SYMBOL),
        traits=frozenset({Trait.LATE_COMMISSIONS, Trait.EXTERNAL_ORDERS, Trait.HINTS}),
    ),
)
