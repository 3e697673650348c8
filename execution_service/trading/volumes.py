"""What one account's broker says is usually traded: never waited for long, and left alone for a while where it does not say it; judges nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from decimal import Decimal

import structlog

from brokers.base import Instrument, TellsVolume
from brokers.errors import BrokerError
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from execution_service.trading.connection import Connection
from execution_service.trading.quotes import ANSWER_SECONDS, INSTRUMENTS_REMEMBERED, PAUSES, WAIT_SECONDS
from execution_service.trading.tasks import Tasks

log = structlog.get_logger(__name__)


class Volumes:
    """One call at a time. What was told last of an instrument counts until the broker tells something else of it."""

    def __init__(self, *, connection: Connection, tasks: Tasks, clock: Clock, is_on_bars: bool) -> None:
        self._connection = connection
        self._tasks = tasks
        self._clock = clock
        # A market of the past stands still meanwhile, and the same is to come of it each time: its answer is awaited.
        self._wait_seconds = None if is_on_bars else WAIT_SECONDS
        self._answer_seconds = None if is_on_bars else ANSWER_SECONDS
        self._told: dict[Instrument, Decimal] = {}
        self._call: asyncio.Task[None] | None = None
        self._rest_until = float("-inf")
        self._failures = 0
        """In succession."""
        self._is_in_trouble = False

    async def read(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Decimal]:
        """As `TellsVolume.usual_volumes`, of those of which it is known; returns after a second at the latest. Raises nothing of the broker's."""
        broker = self._connection.broker
        if instruments and isinstance(broker, TellsVolume) and self._may_ask:
            answered = WakeUp(self._clock)
            call = self._call = self._tasks.begin(self._ask(broker, instruments), "volumes")
            call.add_done_callback(lambda _: answered.tell())
            await answered.wait(self._wait_seconds)
            if not call.done():
                self._note(f"no answer within {WAIT_SECONDS:g} s")
        return {each: self._told[each] for each in instruments if each in self._told}

    @property
    def _may_ask(self) -> bool:
        is_free = self._call is None or self._call.done()
        return is_free and self._connection.is_connected and self._clock.monotonic() >= self._rest_until

    async def _ask(self, broker: TellsVolume, instruments: Collection[Instrument]) -> None:
        try:
            found = await self._connection.ask(broker.usual_volumes(instruments), self._answer_seconds)
        except (BrokerError, TimeoutError) as exc:
            self._failures += 1
            self._rest_until = self._clock.monotonic() + PAUSES.pause_seconds(self._failures)
            self._note(str(exc))
            return
        self._failures = 0
        self._note(None)
        for each in instruments:
            self._told.pop(each, None)
            if each in found:
                self._told[each] = found[each]
        while len(self._told) > INSTRUMENTS_REMEMBERED:
            del self._told[next(iter(self._told))]

    def _note(self, trouble: str | None) -> None:
        """Said once when it begins, and once when it is over."""
        account_id = self._connection.account_id
        if trouble is not None and not self._is_in_trouble:
            log.warning(
                f"Orders of plans are not bounded by the market's volume where the broker has not told it yet: {trouble}",
                action="volume_unknown",
                account_id=account_id,
            )
        elif trouble is None and self._is_in_trouble:
            log.info("The broker tells the market's volume again", action="volume_known", account_id=account_id)
        self._is_in_trouble = trouble is not None
