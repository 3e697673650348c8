"""The broker on historical bars: the Broker protocol over an exchange whose market is one of the past (`exchange`), and how its clock is moved."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import cast

from pydantic import AwareDatetime

from brokers.base import AssetClass, Capabilities, ContractTerms, Instrument, NoQuote, Quote, Ticket
from brokers.configuration import AccountConfiguration
from brokers.errors import BrokerError, BrokerUnavailable, OrderRefused
from brokers.paper.broker import ExchangeBroker, Venue
from brokers.paper.exchange import PaperExchange
from brokers.simulated.exchange import HistoricalExchange, Past
from brokers.simulated.manifest import BY_COMMAND, BY_SETTLING, Pace, book_of
from brokers.ticks import limit_on_tick, stop_on_tick
from simulation.files import write_manifest
from simulation.history import read_history
from simulation.problems import InputRefused
from simulation.settings import Settings, read_settings

_log = logging.getLogger(__name__)
ASSET_CLASSES = frozenset({AssetClass.STOCK, AssetClass.ETF, AssetClass.FUTURE, AssetClass.FOREX, AssetClass.CRYPTO})
_AFTER_FAILURE_SECONDS = 1.0


class Configuration(AccountConfiguration):
    """One account's settings."""

    bars: Path
    """A CSV or Parquet file, or a folder of them."""
    simulation: Path
    """simulation.toml: conventions and models."""
    actions: Path | None = None
    """Corporate actions, CSV."""
    folder: Path
    """Of the books: each account has its own folder in it."""
    start: AwareDatetime | None = None
    """Bars that open before it are known, and not traded in."""
    pace: Pace = BY_SETTLING

    @property
    def book(self) -> Path:
        """The account's file: its orders, and where its market stands."""
        return book_of(self.folder, self.account_id)


def create(config: Mapping[str, object]) -> SimulatedBroker:
    """A broker on historical bars. The settings are the fields of `Configuration`. Raises ValueError naming everything that is wrong."""
    return SimulatedBroker(Configuration.of(config, broker="simulated"))


def read_past(configuration: Configuration) -> Past:
    """Raises BrokerUnavailable, with all that is wrong with bars and settings."""
    try:
        settings = read_settings(configuration.simulation)
        history = read_history(configuration.bars, settings, actions=configuration.actions)
    except (InputRefused, OSError, ValueError) as exc:
        words = "; ".join(str(exc).splitlines())
        raise BrokerUnavailable(
            f"The bars or settings of account {configuration.account_id} cannot be used: {words}"
        ) from exc
    return Past(history, settings, configuration.start)


class SimulatedBroker(ExchangeBroker):
    """One account at a market of the past.

    With the pace `settled` and `command` the market goes on when it is told to (`move_on`), and only then; else so many bars a second by itself,
    while an order waits. Nobody but this account trades in it: another account of the same bars does not change a fill.
    """

    title = "The broker on historical bars"

    def __init__(self, configuration: Configuration, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Reads nothing yet."""
        super().__init__(account_id=configuration.account_id, path=configuration.book, clock=clock)
        self._configuration = configuration
        self._settings: Settings | None = None
        self._mover: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return "SIMULATED"

    @property
    def capabilities(self) -> Capabilities:
        settings = self._settings
        return Capabilities(
            asset_classes=ASSET_CLASSES,
            refuses_repeated_client_id=True,
            fits_tickets=True,
            commission_currency="USD" if settings is None else settings.currency,
            concurrent_calls=16,
            find_window_seconds=0.5,
            links_exits=True,
            notes=(f"This is a market of the past: no order leaves this machine. It goes on {self._when_it_goes_on}.",),
        )

    @property
    def _when_it_goes_on(self) -> str:
        pace = self._configuration.pace
        by_words = {BY_SETTLING: "when everything has settled", BY_COMMAND: "by command"}
        return by_words.get(pace, f"by {pace} bars a second")

    async def connect(self) -> None:
        """Opens the book and reads the bars. Raises BrokerUnavailable."""
        await super().connect()
        if self._mover is None and self._configuration.pace not in (BY_SETTLING, BY_COMMAND):
            self._mover = asyncio.get_running_loop().create_task(self._keep_moving(1 / float(self._configuration.pace)))

    async def close(self) -> None:
        """The market stands still; the book keeps what it has."""
        mover, self._mover = self._mover, None
        if mover is not None:
            mover.cancel()
        await super().close()

    async def fitted(self, ticket: Ticket) -> Ticket:
        """On ticks and lots, with what a point of the price is worth. Raises OrderRefused."""
        settings = self._settings
        if settings is None:
            raise BrokerUnavailable(f"{self.title} is not connected")
        quantity = (ticket.quantity / settings.lot).to_integral_value(ROUND_FLOOR) * settings.lot
        if not quantity:
            raise OrderRefused(f"{ticket.quantity} is less than a lot of {settings.lot}", unsupported=True)
        limit, stop = ticket.limit_price, ticket.stop_price
        multiplier = None if settings.multiplier == 1 else settings.multiplier
        return replace(
            ticket,
            quantity=quantity,
            limit_price=None if limit is None else limit_on_tick(limit, settings.tick, ticket.side),
            stop_price=None if stop is None else stop_on_tick(stop, settings.tick, ticket.side),
            terms=ContractTerms(multiplier=multiplier, currency=settings.currency, is_one_size=True),
        )

    async def quotes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Quote | NoQuote]:
        """The close of the latest bar that is over, which is what is known now; none where there was none yet."""

        def look(book: PaperExchange) -> dict[Instrument, Quote | NoQuote]:
            exchange, now = cast(HistoricalExchange, book), self._clock()
            return {each: _quote(exchange.last_price(each.symbol), now) for each in instruments}

        return await self._in_thread(look, BrokerUnavailable)

    async def usual_volumes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Decimal]:
        """The mean of the latest bars that traded and are over, as a batch run has it for slices."""

        def look(book: PaperExchange) -> dict[Instrument, Decimal]:
            exchange = cast(HistoricalExchange, book)
            known = ((each, exchange.usual_volume(each.symbol)) for each in instruments)
            return {each: volume for each, volume in known if volume is not None}

        return await self._in_thread(look, BrokerUnavailable)

    async def wants_to_move(self) -> bool:
        """As `HasMarketClock` says. A market that moves by itself wants nothing of others."""
        return self._mover is None and await self._in_thread(self._is_due, BrokerUnavailable)

    async def move_on(self) -> bool:
        """As `HasMarketClock` says."""
        if self._mover is not None:
            return False
        has_moved = await self._in_thread(self._moved, BrokerUnavailable)
        if has_moved:
            self._give_hint()
        return has_moved

    def _is_due(self, book: PaperExchange) -> bool:
        exchange = cast(HistoricalExchange, book)
        return exchange.is_asked_to_move or (self._configuration.pace != BY_COMMAND and exchange.waits)

    def _moved(self, book: PaperExchange) -> bool:
        return self._is_due(book) and cast(HistoricalExchange, book).move_on() is not None

    async def _keep_moving(self, period_seconds: float) -> None:
        while True:
            await asyncio.sleep(period_seconds)
            try:
                if await self._in_thread(self._moved, BrokerUnavailable):
                    self._give_hint()
            except BrokerError as exc:
                _log.warning("%s stands still for a moment: %s", self.title, exc)
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)

    def _open(self, venue: Venue) -> PaperExchange:
        past = read_past(self._configuration)
        try:
            exchange = HistoricalExchange(
                self._path, account_id=self._account_id, past=past, clock=self._clock, file=venue.file()
            )
        except ValueError as exc:
            raise BrokerUnavailable(f"The bars of account {self._account_id} cannot be used: {exc}") from exc
        self._settings = past.settings
        write_manifest(past.made_of(), self._path.parent)
        return exchange


def _quote(price: Decimal | None, now: datetime) -> Quote | NoQuote:
    if price is None:
        return NoQuote(reason="no bar of it is over yet")
    return Quote(bid=price, ask=price, last=price, at=now, last_at=now)
