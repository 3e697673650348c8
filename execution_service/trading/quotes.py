"""The quotes of one account's broker: asked for as seldom as possible, kept as reference prices, never waited for long; judges nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

import structlog

from brokers.base import Instrument, NoQuote, Quote, TellsQuotes
from brokers.errors import BrokerError, HeldBack
from execution_service.core.backoff import Backoff
from execution_service.core.risk.prices import price_of_quote
from execution_service.core.texts.service import no_quotes, quotes_again
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from execution_service.trading.connection import Connection
from execution_service.trading.reference_prices import ReferencePrices

log = structlog.get_logger(__name__)

GOOD_FOR_SECONDS = Decimal(2)
"""So long after the broker's answer it is not asked about the same instrument again; half the greatest age that the limits allow a reference price,
where that is less."""
NONE_AGAIN_SECONDS = 60.0
"""So long an instrument is not asked about again of which the broker has no quote for this account, or none that gives a price."""
WAIT_SECONDS = 1.0
"""So long an order waits at most for a quote, whatever the broker does."""
ANSWER_SECONDS = 3.0
"""So long a call is waited for, since what it brings serves later orders."""
PAUSES = Backoff(first_seconds=5.0, longest_seconds=60.0)
"""After calls that failed nothing is asked, and no order waits, for so long."""
LEFT_OUT_SECONDS = 0.25
"""After an answer that left some out the next call waits so long."""
INSTRUMENTS_REMEMBERED = 16_384
_NOT_TOLD = "the broker tells no quotes"


@dataclass(frozen=True, slots=True)
class _Answered:
    """What became of the latest question about one instrument."""

    at: float
    """By the monotonic clock."""
    trouble: str | None
    """Why there is no price, in words; None: there is one."""
    is_lasting: bool = False
    """The broker has answered, and would answer the same again soon."""
    is_left_out: bool = False
    """It has not answered: the calls were needed for others, or it took too long."""


class AwaitsQuotes(Protocol):
    """Who has asked for quotes."""

    def quotes_answered(self) -> None:
        """A call has ended, whatever it brought. Waits for nothing and raises nothing."""


class Quotes:
    """One call for all instruments that orders wait for, and one call at a time: a burst of orders asks no more often than a single one."""

    def __init__(
        self,
        *,
        connection: Connection,
        clock: Clock,
        alerts: RaisesAlerts,
        reference_prices: ReferencePrices,
        listener: AwaitsQuotes,
    ) -> None:
        """What the broker answers is noted in `reference_prices`, with its time."""
        self._connection = connection
        self._clock = clock
        self._alerts = alerts
        self._prices = reference_prices
        self._listener = listener
        self._wanted: dict[str, Instrument] = {}
        """By their keys in the ledger; asked about with the next call."""
        self._asked: Mapping[str, Instrument] = {}
        """Those that the call is about that is under way."""
        self._answered: dict[str, _Answered] = {}
        self._asked_at: float | None = None
        """When the call was made that is under way."""
        self._rest_until = float("-inf")
        self._failures = 0
        """In succession; a call that had to wait for the account's budget is none."""
        self._trouble: str | None = None
        """Why the latest call failed; None: it did not."""
        self._is_told = False
        """People have been told of the trouble that lasts."""
        self._to_ask = WakeUp(clock)
        self._waiting: list[WakeUp] = []
        """Of those who wait for the call that is under way, or for the next one."""

    # --- questions ----------------------------------------------------------------------------------------------

    def why_none(self, key: str) -> str | None:
        """Why the broker's quote of the instrument is not among the reference prices, in words; None: it is, or was never asked for."""
        if self._trouble is not None:
            return self._trouble
        answered = self._answered.get(key)
        return None if answered is None else answered.trouble

    def missing(self, wanted: Mapping[str, Instrument], good_for_seconds: Decimal) -> dict[str, Instrument]:
        """Those of these instruments that the broker would be asked about now: its last answer is older than that."""
        now = self._clock.monotonic()
        is_slow = self._asked_at is not None and now - self._asked_at >= WAIT_SECONDS
        if not self._connection.is_connected or now < self._rest_until or is_slow:
            return {}
        return {key: each for key, each in wanted.items() if not self._is_good(key, now, float(good_for_seconds))}

    def _is_good(self, key: str, now: float, good_for: float) -> bool:
        answered = self._answered.get(key)
        if answered is None or answered.is_left_out:
            return False
        return now - answered.at < (NONE_AGAIN_SECONDS if answered.is_lasting else good_for)

    def ask_for(self, wanted: Mapping[str, Instrument]) -> None:
        """The broker is asked about these soon, together with all others that are wanted by then; the listener is told when it has answered, or will
        not."""
        if wanted and not isinstance(self._connection.broker, TellsQuotes):
            now = self._clock.monotonic()
            self._answered |= dict.fromkeys(wanted, _Answered(now, _NOT_TOLD, is_lasting=True))
            return
        self._wanted |= {key: each for key, each in wanted.items() if key not in self._asked}
        if self._wanted:
            self._to_ask.tell()

    async def ask_now(self, wanted: Mapping[str, Instrument]) -> None:
        """The broker is asked about these at once, whatever it has answered before; returns when it has answered. Raises BrokerError, TimeoutError:
        nothing is noted then."""
        broker = self._connection.broker
        if isinstance(broker, TellsQuotes):
            found = await self._connection.ask(broker.quotes(frozenset(wanted.values())), ANSWER_SECONDS)
            for key, instrument in wanted.items():
                self._note(key, found.get(instrument))

    async def ask_and_wait(self, wanted: Mapping[str, Instrument]) -> None:
        """As `ask_for`, of those of which no answer is good by now; returns when there is one, after a second at the latest."""
        good_for = GOOD_FOR_SECONDS
        missing, end = self.missing(wanted, good_for), self._clock.monotonic() + WAIT_SECONDS
        self.ask_for(missing)
        wake = WakeUp(self._clock)
        self._waiting.append(wake)
        try:
            while self.missing(missing, good_for) and (left := end - self._clock.monotonic()) > 0:
                await wake.wait(left)
        finally:
            self._waiting.remove(wake)

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled: asks the broker whenever an instrument is wanted."""
        while True:
            await self._to_ask.wait()
            while self._wanted:
                self._asked, self._wanted = self._wanted, {}
                try:
                    await self._ask(self._asked)
                finally:
                    asked, self._asked, self._asked_at = self._asked, {}, None
                    self._listener.quotes_answered()
                    for wake in self._waiting:
                        wake.tell()
                if any(answered.is_left_out for key in asked if (answered := self._answered.get(key)) is not None):
                    await self._clock.sleep(LEFT_OUT_SECONDS)
            await self._tell()

    async def _ask(self, asked: Mapping[str, Instrument]) -> None:
        broker = self._connection.broker
        if not isinstance(broker, TellsQuotes) or not self._connection.is_connected:
            return
        self._asked_at = self._clock.monotonic()
        try:
            found = await self._connection.ask(broker.quotes(frozenset(asked.values())), ANSWER_SECONDS)
        except HeldBack as exc:
            self._trouble, self._rest_until = str(exc), self._clock.monotonic() + 1.0
            return
        except (BrokerError, TimeoutError) as exc:
            self._failures += 1
            pause_seconds = PAUSES.pause_seconds(self._failures)
            self._trouble, self._rest_until = str(exc), self._clock.monotonic() + pause_seconds
            log.warning(
                f"The broker tells no quotes, asked again in {pause_seconds:g} s: {exc}",
                action="quotes_failed",
                account_id=self._connection.account_id,
            )
            return
        self._trouble, self._failures = None, 0
        for key, instrument in asked.items():
            self._note(key, found.get(instrument))
        while len(self._answered) > INSTRUMENTS_REMEMBERED:
            del self._answered[next(iter(self._answered))]

    def _note(self, key: str, found: Quote | NoQuote | None) -> None:
        now = self._clock.monotonic()
        before = self._answered.pop(key, None)
        if found is None:
            self._answered[key] = _Answered(now, "the broker did not tell a quote in time", is_left_out=True)
            return
        price = found.reason if isinstance(found, NoQuote) else price_of_quote(found)
        if not isinstance(price, str):
            self._prices.note_quote(key, price)
            self._answered[key] = _Answered(now, None)
            return
        self._answered[key] = _Answered(now, price, is_lasting=isinstance(found, NoQuote) or found.is_delayed)
        if before is None or before.trouble != price:
            log.info(
                f"No price of {key} from the broker: {price}",
                action="no_quote",
                account_id=self._connection.account_id,
            )

    async def _tell(self) -> None:
        """People are told once of a broker that tells no quotes at all, and once when it does again."""
        if self._trouble is not None and self._failures and not self._is_told:
            self._is_told = True
            text = no_quotes(account_name=self._connection.account_name, reason=self._trouble)
            await self._alerts.raise_alert(f"no_quotes:{self._connection.account_id}", text)
        elif self._trouble is None and self._is_told:
            self._is_told = False
            text = quotes_again(account_name=self._connection.account_name)
            await self._alerts.raise_alert(f"quotes_again:{self._connection.account_id}", text)
