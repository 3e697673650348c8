"""Orders whose own work has failed by something that nobody foresaw: each rests alone, longer each time, people are told, and the account goes on;
not what the work was."""

from __future__ import annotations

from functools import partial

import structlog

from execution_service.core import backoff
from execution_service.core.texts.messages import MentionedOrder
from execution_service.core.texts.orders import orders_isolated
from execution_service.recording.live_orders import LiveOrder
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.trading.connection import AFTER_FAILURE_SECONDS, Connection
from execution_service.trading.grouped_alerts import GroupedAlerts
from execution_service.trading.timers import Timers

log = structlog.get_logger(__name__)

FORGIVEN_SECONDS = 2 * backoff.DEFAULT_BACKOFF.longest_seconds
"""After so long without another failure the pauses are short again."""


class Isolation:
    """Takes what comes out of the work for one order of the account, wherever that is done, so that it ends there."""

    def __init__(self, *, connection: Connection, timers: Timers, grouped_alerts: GroupedAlerts, clock: Clock) -> None:
        self._connection = connection
        self._timers = timers
        self._grouped_alerts = grouped_alerts
        self._clock = clock

    def holds(self, live: LiveOrder) -> bool:
        """Whether nothing is begun for the order now."""
        return live.isolated_until > self._clock.monotonic()

    def failed(self, live: LiveOrder, why: BaseException, *, doing: str) -> None:
        """The order rests, and is looked at again after its pause. People are told once for each order; not of a store that is away, which all
        orders wait for. Raises nothing, and waits for nothing."""
        now = self._clock.monotonic()
        if isinstance(why, StoreUnavailable):
            pause = AFTER_FAILURE_SECONDS
            log.info(f"An order waits for the store: {why}", action="order_waits", signal_id=live.order.signal_id)
        else:
            live.failures = 1 if now - live.failed_at > FORGIVEN_SECONDS else live.failures + 1
            live.failed_at = now
            pause = backoff.DEFAULT_BACKOFF.pause_seconds(live.failures)
            log.error(
                f"Order set aside for {pause:g} s, the others go on: {doing} failed: {_words(why)}",
                action="order_isolated",
                account_id=self._connection.account_id,
                signal_id=live.order.signal_id,
                order_id=live.order.order_id,
                exc_info=why,
            )
            self._tell(live, f"{doing}: {_words(why)}")
        live.isolated_until = max(live.isolated_until, now + pause)
        if not live.is_let_go:
            self._timers.make(live, pause)

    def _tell(self, live: LiveOrder, reason: str) -> None:
        if live.is_isolation_told:
            return
        live.is_isolation_told = True
        words = partial(orders_isolated, account_name=self._connection.account_name)
        self._grouped_alerts.mention("order_isolated", MentionedOrder(live.order, None, reason), words)


def _words(why: BaseException) -> str:
    return f"{type(why).__name__}: {why}" if str(why) else type(why).__name__
