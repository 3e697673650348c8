"""The verb to cancel: every order that is meant ends, or is asked to at the broker, and those that come later do not leave."""

from __future__ import annotations

from typing import Protocol

import structlog

from execution_service.control.background import Background
from execution_service.control.remembered_cancels import RememberedCancels
from execution_service.control.results import Done, Refused
from execution_service.core.orders.cancel import Cancel
from execution_service.core.orders.events import Event
from execution_service.core.orders.next_step import cancel_request
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Reason
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.store import Store
from execution_service.storage.ports.views import View

log = structlog.get_logger(__name__)

SHOWN_AGAIN_AFTER_SECONDS = (2.0, 15.0)


class CancelsOrders(Protocol):
    """Who works an account's orders."""

    async def cancel(self, live: LiveOrder, reason: Reason, requested_by: str) -> None:
        """Records the wish. An order that was not sent ends by it; any other is cancelled at the broker next."""


class CancellingAccounts(Protocol):
    """The accounts whose orders are cancelled."""

    def trader_of(self, account_id: str | None) -> CancelsOrders | None:
        """None: it is not traded here."""


class ShowsOrders(Protocol):
    """Who writes what the signal's sender reads of its order."""

    async def show_again(self, order: Order) -> None:
        """Writes it once more. Raises StoreUnavailable."""


class CancelOrders:
    """May be asked for again after a death in the middle: an order is asked to end once, and one that has ended stays as it is."""

    def __init__(
        self,
        *,
        accounts: CancellingAccounts,
        cancels: RememberedCancels,
        ownership: Ownership,
        views: ShowsOrders,
        live_orders: LiveOrders,
        store: Store,
        clock: Clock,
        background: Background,
    ) -> None:
        self._accounts = accounts
        self._cancels = cancels
        self._ownership = ownership
        self._views = views
        self._live = live_orders
        self._store = store
        self._clock = clock
        self._background = background

    async def carry_out(self, cancel: Cancel) -> Done | Refused:
        """Done when every order meant has ended, or its end has been asked for durably. Raises StoreUnavailable."""
        # Remembered with the look, so that no order slips in between.
        in_hand = cancel.meant_of([live.order for live in self._live.by_id.values()])
        self._cancels.remember(cancel, in_hand)
        results = [await self._cancel(order, cancel) for order in in_hand]
        if not in_hand or cancel.order_id is None:
            # What is in hand has been cancelled without asking the store, which may be busy; other legs may be finished.
            known = {order.order_id for order in in_hand}
            others = [order for order in await self._cancels.known(cancel) if order.order_id not in known]
            self._cancels.remember(cancel, others)
            results += [await self._cancel(order, cancel) for order in others]
        unreadable = [] if results else self._store.unreadable(cancel.lookup)
        if unreadable:
            return Refused(
                f"{cancel.words} is not cancelled: its record cannot be read; cancel it at the broker "
                f"({'; '.join(unreadable)})"
            )
        if not results:
            later = "comes yet" if cancel.order_id is not None else "was published before this cancel"
            return Done(f"{cancel.words} is not known; it will not be placed if it {later}")
        words = "; ".join(result.words for result in results)
        return Done(words) if all(isinstance(result, Done) for result in results) else Refused(words)

    async def _cancel(self, order: Order, cancel: Cancel) -> Done | Refused:
        if cancel.spares(order):
            log.warning(
                f"Cancel of {cancel.words} does not reach {order.order_id}, which was published after it",
                action="cancel_not_meant",
                signal_id=order.signal_id,
            )
            return Done(f"{order.order_id} was published after this cancel and goes on")
        if order.request.request_order_id is not None:
            self._background.begin(self._show_again(order))
        if order.status.is_final:
            log.info(
                f"Cancel of a finished order: {order.order_id} is {order.status}",
                action="cancel_too_late",
                signal_id=order.signal_id,
            )
            return Done(f"{order.order_id} is {order.status} already")
        account_id = order.request.account_id
        trader, live = self._accounts.trader_of(account_id), self._live.by_id.get(order.order_id)
        if trader is not None and live is not None:
            await trader.cancel(live, cancel.reason, cancel.requested_by)
        elif self._ownership.has_others:

            def wish(order: Order) -> tuple[Event, ...]:
                return cancel_request(order, cancel.reason, cancel.requested_by, self._clock.now())

            await self._ownership.leave_to_holder(await self._live.record_for_holder(order, wish))
        else:
            return Refused(
                f"{order.order_id} is not cancelled: account {account_id} is not traded here; cancel it at the broker"
            )
        return Done(f"{order.order_id} asked to be cancelled")

    async def _show_again(self, order: Order) -> None:
        """Upstream marks an order as CANCEL_REQUESTED after it has published its cancel, over a final state that we may have written."""
        for pause in SHOWN_AGAIN_AFTER_SECONDS:
            await self._clock.sleep(pause)
            try:
                for stored in await self._store.load([order.order_id]):
                    if stored.order.status.is_final:
                        await self._views.show_again(stored.order)
            except StoreUnavailable as exc:
                log.warning(f"{View.TRADING_ORDERS} not written again: {exc}", action="views_waiting")
