"""The mock broker: the Broker protocol on top of a paper exchange whose market is chance, time and faults."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import Field, field_validator

from brokers.base import (
    Capabilities,
    Instrument,
    NoQuote,
    Quote,
)
from brokers.configuration import AccountConfiguration, Amount, Number, Whole
from brokers.paper.broker import ExchangeBroker, Venue
from brokers.paper.exchange import STOP_PASSED, PaperExchange
from brokers.paper.model import Fault, Market, Operation, ScriptedQuote
from brokers.variables import YEAR_SECONDS

_MARKET = Market()


class Configuration(AccountConfiguration):
    """One account's settings. Amounts are in the instrument's currency."""

    path: Path
    """The book's file."""
    fill_delay_seconds: Number = Field(0.0, ge=0, le=YEAR_SECONDS)
    rejection_rate: Number = Field(0.0, ge=0, le=1)
    partial_fill_rate: Number = Field(0.0, ge=0, le=1)
    slippage_bps: Amount = Field(_MARKET.slippage_bps, le=10_000)
    commission_per_order: Amount = _MARKET.commission_per_order
    seed: Whole | None = None
    currency: str = _MARKET.currency
    """ISO 4217; for instruments that name none."""
    opening_cash: Amount = _MARKET.opening_cash

    @field_validator("currency")
    @classmethod
    def _is_currency(cls, currency: str) -> str:
        if not re.fullmatch("[A-Z]{3}", currency):
            raise ValueError("three capital letters")
        return currency

    @property
    def market(self) -> Market:
        return Market(**self.model_dump(exclude={"account_id", "path"}))


def create(config: Mapping[str, object]) -> MockBroker:
    """A mock broker. The settings are the fields of `Configuration`. Raises ValueError naming everything that is
    wrong."""
    configuration = Configuration.of(config, broker="mock")
    return MockBroker(account_id=configuration.account_id, path=configuration.path, market=configuration.market)


class MockBroker(ExchangeBroker):
    """One account at a paper exchange. A random rejection is a Report with status REJECTED, kept in the book, so that
    asking again gives the same answer."""

    title = "The mock broker"

    def __init__(
        self,
        *,
        account_id: str,
        path: Path | str,
        market: Market | None = None,
        faults: Sequence[Fault] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(account_id=account_id, path=path, clock=clock)
        self._market = market or Market()
        self._faults = tuple(faults)
        self._capabilities = Capabilities(
            takes_display_quantity=True,
            refuses_repeated_client_id=True,
            commission_currency=self._market.currency,
            concurrent_calls=16,
            find_window_seconds=0.5,
            links_exits=True,
            stop_passed_words=(STOP_PASSED.lower(),),
            notes=("This is the mock broker: no order leaves this machine.",),
        )

    @property
    def name(self) -> str:
        return "MOCK"

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def quotes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Quote | NoQuote]:
        """As the book's script has them (`PaperExchange.set_quote`): the mock makes up no price."""

        def look(book: PaperExchange) -> dict[Instrument, Quote | NoQuote]:
            now = self._clock()
            return {each: _quote(book.quote(each.symbol), now) for each in instruments}

        return await self._ask(Operation.QUOTES, look)

    def _open(self, venue: Venue) -> PaperExchange:
        return PaperExchange(
            self._path,
            account_id=self._account_id,
            market=self._market,
            faults=self._faults,
            clock=self._clock,
            file=venue.file(),
        )


def _quote(found: ScriptedQuote | None, now: datetime) -> Quote | NoQuote:
    if found is None:
        return NoQuote(reason="the mock broker has no price of it")
    if found.refusal is not None:
        return NoQuote(reason=found.refusal)
    last_age = found.last_age_seconds
    return Quote(
        bid=found.bid,
        ask=found.ask,
        last=found.last,
        at=now - timedelta(seconds=found.age_seconds),
        last_at=None if last_age is None else now - timedelta(seconds=last_age),
        is_delayed=found.is_delayed,
    )
