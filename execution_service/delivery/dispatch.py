"""The front of the delivery: takes each order with news to every sink, and holds what is common to them; delivers nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import structlog

from execution_service.core.orders.order import Order
from execution_service.core.texts.notices import ALL_NOTICES, NoticeKind
from execution_service.delivery.account_names import NamesOfAccounts
from execution_service.delivery.alerts import Alerts
from execution_service.delivery.cursor import Cursors, Failures
from execution_service.delivery.ledger import Ledger, LinesOfOrders
from execution_service.delivery.ledger_and_views import LedgerAndViews
from execution_service.delivery.mutes import Mutes
from execution_service.delivery.notifications import Notifications
from execution_service.delivery.past_trades import PastTrades
from execution_service.delivery.signals import trading_order_write
from execution_service.delivery.stream import Sink, Stream
from execution_service.delivery.views import Views
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.storage.ports.orders import LEDGER, PEOPLE
from execution_service.storage.ports.store import Store
from notifications.base import Notifier

log = structlog.get_logger(__name__)


class Delivery:
    """Delivers what the events owe, in order per order; each delivery may be repeated without harm.

    Each sink has a cursor of its own and waits for no other: ledger and views, people, and the streams of messages.
    """

    def __init__(
        self,
        *,
        live_orders: LiveOrders,
        store: Store,
        notifier: Notifier,
        clock: Clock,
        sinks: Sequence[Sink],
        parties: NamesOfAccounts,
        max_attempts: int,
        ownership: Ownership,
        notices: Collection[NoticeKind] = ALL_NOTICES,
    ) -> None:
        """`sinks`: the streams of messages, confirmations among them. Delivered is only what `ownership` says is
        surely this process's at that moment. `max_attempts`: as in `Stream`."""
        self._store = store
        self._clock = clock
        self.mutes = Mutes(store=store, clock=clock)
        self.alerts = Alerts(
            store=store, notifier=notifier, clock=clock, ownership=ownership, mutes=self.mutes, notices=notices
        )
        self.raise_alert = self.alerts.raise_alert
        self.raise_alert_durably = self.alerts.raise_alert_durably
        self.raise_alert_once = self.alerts.raise_alert_once
        failures = Failures(self.alerts)
        lines_of_orders = LinesOfOrders()
        self._cursors = Cursors(
            names=(LEDGER, PEOPLE, *(sink.cursor for sink in sinks)),
            live_orders=live_orders,
            store=store,
            clock=clock,
            failures=failures,
            kept_lines=lines_of_orders,
        )
        self.streams = [
            Stream(
                sink,
                cursors=self._cursors,
                clock=clock,
                failures=failures,
                ownership=ownership,
                max_attempts=max_attempts,
                alerts=self.alerts,
            )
            for sink in sinks
        ]
        ledger = Ledger(store=store, cursors=self._cursors, lines_of_orders=lines_of_orders)
        self.books = LedgerAndViews(
            ledger=ledger,
            views=Views(store=store, live_orders=live_orders, cursors=self._cursors, clock=clock, parties=parties),
            cursors=self._cursors,
            clock=clock,
            failures=failures,
            ownership=ownership,
            followers=self.streams,
        )
        self.notifications = Notifications(
            notifier=notifier,
            clock=clock,
            cursors=self._cursors,
            failures=failures,
            parties=parties,
            mutes=self.mutes,
            notices=notices,
        )
        self._past_trades = PastTrades(store=store, clock=clock, parties=parties)
        live_orders.on_recorded.append(self.wake)

    # --- life ---------------------------------------------------------------------------------------------------

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process. Each may be cancelled and begun anew at any time: what it had in hand is looked at again."""
        return [
            Part(self.books.name, self.books.run),
            *(Part(stream.name, stream.run) for stream in self.streams),
            Part(f"{self.notifications.name} to write", self.notifications.write_for_ever),
            Part(self.notifications.name, self.notifications.send_for_ever),
            Part("delivery cursors", self._cursors.run),
            *self.alerts.parts(),
            *self._past_trades.parts(),
            Part("muted notices", lambda: self.mutes.watch(self.alerts), is_vital=False),
        ]

    async def drain(self) -> None:
        """Returns when nothing is on its way any more but to people, and what was delivered is committed."""
        await self._cursors.drain()

    # --- orders -------------------------------------------------------------------------------------------------

    def wake(self, live: LiveOrder) -> None:
        """The order has events, or may owe something from before. A finished one of which nothing is owed leaves memory."""
        if live.is_let_go:
            return
        progress = self._cursors.of(live)
        self.books.wake(progress)
        self.notifications.wake(progress)
        for stream in self.streams:
            stream.wake(progress)
        self._cursors.let_out(progress)
        self._cursors.reckon(progress)

    def has_taken(self, order_id: str, version: int) -> bool:
        """The order is finished, and the sinks hold all that is still to be delivered of it up to that version: nobody needs it in memory for
        that."""
        return self._cursors.has_taken(order_id, version)

    async def show_again(self, order: Order) -> None:
        """Writes what the signal's sender reads of the order once more, for somebody else has written over it. Raises StoreUnavailable."""
        await self._store.write_views([trading_order_write(order, self._clock.now())])

    def let_go(self, is_theirs: Callable[[str | None], bool]) -> None:
        """Others deliver for those accounts from now on."""
        self._cursors.let_go(is_theirs)
        self.notifications.let_go()
        for stream in self.streams:
            stream.let_go()

    @property
    def waiting(self) -> int:
        """Orders of which something is still to be delivered to others than people."""
        return self._cursors.waiting

    @property
    def unsent_notifications(self) -> int:
        """Orders of which people are still to be told something."""
        return len(self.notifications)

    @property
    def accounts_in_hand(self) -> set[str | None]:
        """Accounts for which something is still to be delivered."""
        return self._cursors.accounts_in_hand
