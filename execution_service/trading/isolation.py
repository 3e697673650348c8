"""Orders whose own work has failed by something that nobody foresaw: each rests alone, longer each time, an alert is raised, and the account goes on;
not what the work was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from weakref import WeakKeyDictionary

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Isolated:
    """How it stands with one order whose work has failed; moments by the monotonic clock."""

    until: float = 0.0
    failures: int = 0
    """In succession."""
    failed_at: float = float("-inf")
    is_alerted: bool = False
    """An alert was raised, or will be with the next message."""


class Isolation:
    """Takes what comes out of the work for one order of the account, wherever that is done, so that it ends there."""

    def __init__(
        self, *, connection: Connection, timers: Timers[LiveOrder], grouped_alerts: GroupedAlerts, clock: Clock
    ) -> None:
        self._connection = connection
        self._timers = timers
        self._grouped_alerts = grouped_alerts
        self._clock = clock
        self._isolated: WeakKeyDictionary[LiveOrder, _Isolated] = WeakKeyDictionary()

    def holds(self, live: LiveOrder) -> bool:
        """Whether nothing is begun for the order now."""
        return bool(self._isolated) and self.seconds_left(live) > 0

    def seconds_left(self, live: LiveOrder) -> float:
        """Until something may be begun for it again."""
        isolated = self._isolated.get(live)
        return 0.0 if isolated is None else isolated.until - self._clock.monotonic()

    def lift(self, live: LiveOrder) -> None:
        """What somebody commands is tried at once."""
        isolated = self._isolated.get(live)
        if isolated is not None:
            self._isolated[live] = replace(isolated, until=0.0)

    def failed(self, live: LiveOrder, why: BaseException, *, doing: str) -> None:
        """The order rests, and is looked at again after its pause. One alert is raised for each order; none of a store that is away, which all
        orders wait for. Raises nothing, and waits for nothing."""
        now, before = self._clock.monotonic(), self._isolated.get(live, _Isolated())
        if isinstance(why, StoreUnavailable):
            pause, isolated = AFTER_FAILURE_SECONDS, before
            log.info(f"An order waits for the store: {why}", action="order_waits", signal_id=live.order.signal_id)
        else:
            failures = 1 if now - before.failed_at > FORGIVEN_SECONDS else before.failures + 1
            pause = backoff.DEFAULT_BACKOFF.pause_seconds(failures)
            isolated = replace(before, failures=failures, failed_at=now, is_alerted=True)
            log.error(
                f"Order set aside for {pause:g} s, the others go on: {doing} failed: {_words(why)}",
                action="order_isolated",
                account_id=self._connection.account_id,
                signal_id=live.order.signal_id,
                order_id=live.order.order_id,
                exc_info=why,
            )
            if not before.is_alerted:
                self._alert(live, f"{doing}: {_words(why)}")
        self._isolated[live] = replace(isolated, until=max(before.until, now + pause))
        if not live.is_let_go:
            self._timers.make(live, pause)

    def _alert(self, live: LiveOrder, reason: str) -> None:
        words = partial(orders_isolated, account_name=self._connection.account_name)
        self._grouped_alerts.mention("order_isolated", MentionedOrder(live.order, None, reason), words)


def _words(why: BaseException) -> str:
    return f"{type(why).__name__}: {why}" if str(why) else type(why).__name__
