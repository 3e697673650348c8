"""Prices of an account's instruments in which something waits for a price: the broker is asked for them, and whoever waits is woken; what is then
done is decided elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from brokers.base import Instrument, Side
from execution_service.core.protection.plan import PriceBand
from execution_service.core.risk.prices import PriceSource, ReferencePrice, best_reference
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp

FRESH_SECONDS = Decimal(60)
"""An older price says nothing of where the market is."""
LOOK_SECONDS = 2.0
"""Between two looks at the prices that are watched."""
APART_SECONDS = 1.0
"""Of two looks that are closer together the second one confirms nothing."""
LOOKS_IN_SUCCESSION, THEN_EVERY = 3, 5
"""The listener is woken by the first looks that show a price outside of its band, and by every fifth while that lasts: what it cannot do now it
cannot do two seconds later."""


class KnowsPrices(Protocol):
    """Where reference prices come from."""

    def of(self, instrument_key: str) -> tuple[ReferencePrice, ...]:
        """All that is known, however old."""


class AsksForQuotes(Protocol):
    """Who asks the broker for its quotes, beside everything else and as seldom as will do."""

    def missing(self, wanted: Mapping[str, Instrument], good_for_seconds: Decimal) -> dict[str, Instrument]:
        """Those of these instruments that the broker would be asked about now."""

    def ask_for(self, wanted: Mapping[str, Instrument]) -> None:
        """What the broker answers is among the reference prices soon."""

    async def ask_now(self, wanted: Mapping[str, Instrument]) -> None:
        """What the broker answers, whatever it has answered before, is among the reference prices on return. Raises BrokerError, TimeoutError."""


class WaitsForPrices(Protocol):
    """Who is woken."""

    def price_left_band(self) -> None:
        """A watched price has left its band. Raises nothing."""


@dataclass(slots=True)
class _Watched:
    instrument_key: str
    instrument: Instrument
    band: PriceBand
    looks_outside: int = 0
    """So many in succession have shown a price outside of the band."""


@dataclass(slots=True)
class _Found:
    """What two looks at one instrument have found, whether one answer or two; None: no price was known."""

    at: float
    """When the second one was, by the monotonic clock."""
    first: Decimal | None
    second: Decimal | None


class PriceWatch:
    """While nothing is watched nobody is asked anything."""

    def __init__(
        self,
        *,
        prices: KnowsPrices,
        quotes: AsksForQuotes,
        clock: Clock,
        listener: WaitsForPrices,
        is_on_bars: bool = False,
    ) -> None:
        """`is_on_bars`: the market is one of the past. It is looked at when it has settled (`look_at_bar`) and never by our clock, what is known
        of a bar says nothing once the market has gone on, and a price that was shown once counts, since bars show no wrong one."""
        self._is_on_bars = is_on_bars
        self._prices = prices
        self._quotes = quotes
        self._clock = clock
        self._listener = listener
        self._watched: dict[Hashable, _Watched] = {}
        self._looks: dict[str, tuple[ReferencePrice | None, ReferencePrice | None]] = {}
        """By the instrument's key, the last two prices that came one after the other, the later one last; None: there was none any more."""
        self._found: dict[str, _Found] = {}
        """By the instrument's key."""
        self._wake_up = WakeUp(clock)

    def span(self, instrument_key: str) -> tuple[Decimal, Decimal] | None:
        """The lowest and the highest of where the market stands and where the last two looks found it, though one answer may have served both: what
        lies beyond these is more than one short-lived price. On bars where it stands alone. None: one of them found no price."""
        price, found = self._price(instrument_key), self._found.get(instrument_key)
        if price is None or self._is_on_bars:
            return None if price is None else (price, price)
        if found is None or found.first is None or found.second is None:
            return None
        prices = price, found.first, found.second
        return min(prices), max(prices)

    def _price(self, instrument_key: str) -> Decimal | None:
        """Where the market stands, by the broker's quote or an execution of ours; None: that is not known, or was long ago."""
        best = self._looks.get(instrument_key, (None, None))[1] if self._is_on_bars else self._best(instrument_key)
        return None if best is None else best.price

    def kept(self, instrument_key: str, side: Side) -> Decimal | None:
        """The less favourable, for a position of this side, of the last two prices; None: there are not two, so that one alone moves nothing. On bars
        the last one."""
        prices = self._last_two(instrument_key)
        return (min if side is Side.BUY else max)(prices, default=None)

    def passed(self, instrument_key: str, side: Side) -> Decimal | None:
        """The more favourable of the same: so far against a position of this side the market has gone, and no one wrong price says so."""
        return self.kept(instrument_key, side.opposite)

    def _last_two(self, instrument_key: str) -> Sequence[Decimal]:
        if self._is_on_bars:
            price = self._price(instrument_key)
            return () if price is None else (price,)
        earlier, latest = self._looks.get(instrument_key, (None, None))
        return () if earlier is None or latest is None else (earlier.price, latest.price)

    def kept_since(self, instrument_key: str) -> datetime | None:
        """When the first of these two prices was one; None: there are not two, or on bars, since what has filled in a bar did so before its close."""
        earlier, latest = self._looks.get(instrument_key, (None, None))
        if self._is_on_bars or earlier is None or latest is None:
            return None
        return min(earlier.at, latest.at)

    def _best(self, instrument_key: str) -> ReferencePrice | None:
        known = [each for each in self._prices.of(instrument_key) if each.source is not PriceSource.MESSAGE]
        return best_reference(known, self._clock.now(), FRESH_SECONDS)

    def _looked(self, instrument_key: str) -> tuple[ReferencePrice | None, ReferencePrice | None]:
        """The last two prices with what is known now: one that two looks find is one price."""
        (earlier, latest), found = self._looks.get(instrument_key, (None, None)), self._best(instrument_key)
        return (earlier, latest) if found is not None and found == latest else (latest, found)

    def _found_now(self, instrument_key: str) -> _Found:
        now, known = self._clock.monotonic(), self._found.get(instrument_key)
        if known is not None and now - known.at < APART_SECONDS:
            return known
        return _Found(now, None if known is None else known.second, self._price(instrument_key))

    def watch(self, name: Hashable, instrument_key: str, instrument: Instrument, band: PriceBand | None) -> None:
        """From now on by this band; None: not any more. The listener is woken also where the price has left it already."""
        if band is None:
            self._watched.pop(name, None)
            return
        known = self._watched.get(name)
        if known is None or known.band != band:
            self._watched[name] = _Watched(instrument_key, instrument, band)
        if known is None:
            self._wake_up.tell()

    def keep_only(self, names: Collection[Hashable]) -> None:
        """Whatever has another name is not watched any more."""
        for name in [name for name in self._watched if name not in names]:
            del self._watched[name]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake_up.wait(LOOK_SECONDS if self._watched and not self._is_on_bars else None)
            if self._is_on_bars:
                continue
            wanted = self._wanted
            self._quotes.ask_for(self._quotes.missing(wanted, Decimal(LOOK_SECONDS) / 2))
            self._look(wanted)

    async def look_at_bar(self) -> None:
        """Of a market of the past that has settled: what its last bar has come to. Raises BrokerError, TimeoutError: nothing was looked at."""
        wanted = self._wanted
        if wanted:
            await self._quotes.ask_now(wanted)
            self._look(wanted)

    def bar_is_over(self) -> None:
        """The market of the past has gone on."""
        self._looks.clear()
        for each in self._watched.values():
            each.looks_outside = 0

    @property
    def _wanted(self) -> Mapping[str, Instrument]:
        return {each.instrument_key: each.instrument for each in self._watched.values()}

    def _look(self, wanted: Mapping[str, Instrument]) -> None:
        self._looks = {key: self._looked(key) for key in wanted}
        self._found = {key: self._found_now(key) for key in wanted}
        waking = [each for each in self._watched.values() if self._wakes(each)]
        if waking:
            self._listener.price_left_band()

    def _wakes(self, watched: _Watched) -> bool:
        price = self._price(watched.instrument_key)
        if price is None or watched.band.holds(price):
            watched.looks_outside = 0
            return False
        watched.looks_outside += 1
        return watched.looks_outside <= LOOKS_IN_SUCCESSION or watched.looks_outside % THEN_EVERY == 0
