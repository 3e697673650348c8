"""Brings options that are legs of one signal to the broker as one order: all of them are judged, then written down as leaving, then sent by one call;
not when their queues have their turn, nor what such an order is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog

from brokers.base import Combination
from brokers.errors import BrokerError, OrderRefused
from execution_service.core.orders.combination import combination_of, is_combined, was_never_sent
from execution_service.core.orders.events import AwaitsOpening, Event, Noted, NothingSent, Rejected, SubmitStarted
from execution_service.core.orders.legs import other_legs
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Identity
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.orders.waiting import Waiting, WaitingReason
from execution_service.recording.cancels import Cancels
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import OrderStore
from execution_service.trading.connection import AFTER_FAILURE_SECONDS, Connection, reason_of
from execution_service.trading.instrument_queues import InstrumentQueues
from execution_service.trading.isolation import Isolation
from execution_service.trading.placement import Placement
from execution_service.trading.report_poller import ReportPoller
from execution_service.trading.risk_gate import RiskGate
from execution_service.trading.submission import CANCELLED_SOON_SECONDS, Intent, Submission

log = structlog.get_logger(__name__)

UNPROTECTED = "a leg of a combination has no protective orders: what closes one leg would leave the others alone"


class CombinedSubmission:
    """The first leg leads: when its turn comes, the others leave with it. Until then they wait."""

    def __init__(
        self,
        *,
        connection: Connection,
        queues: InstrumentQueues,
        submission: Submission,
        placement: Placement,
        report_poller: ReportPoller,
        isolation: Isolation,
        live_orders: LiveOrders,
        store: OrderStore,
        clock: Clock,
        cancels: Cancels,
        risk_gate: RiskGate,
    ) -> None:
        self._connection = connection
        self._queues = queues
        self._submission = submission
        self._placement = placement
        self._report_poller = report_poller
        self._isolation = isolation
        self._live = live_orders
        self._store = store
        self._clock = clock
        self._cancels = cancels
        self._risk_gate = risk_gate

    def takes(self, batch: Sequence[LiveOrder]) -> bool:
        """Whether what is about to leave is a leg that leaves with others only."""
        return len(batch) == 1 and is_combined(batch[0].order, self._connection.capabilities)

    async def submit(self, live: LiveOrder) -> None:
        """The turn of one leg: all leave, or it waits for the others, or ends. When this returns, what became of it is recorded."""
        legs = self._legs_of(live.order)
        if legs is None or live is not legs[0] or not all(map(self._may_be_taken, legs[1:])):
            await self._wait(live, leader=None if legs is None else legs[0])
            return
        others = legs[1:]
        for leg in others:
            self._queues.begin(leg)
        try:
            await self._submit(legs)
        finally:
            for leg in others:
                self._queues.end(leg)

    def _legs_of(self, order: Order) -> Sequence[LiveOrder] | None:
        """All legs of its signal, the first one first; None: they are not all in hand, or some are of another account, which
        alone sends them."""
        mine = order.identity
        found = [
            self._live.by_id.get(Identity(signal_id=mine.signal_id, leg_index=n, purpose=mine.purpose).order_id)
            for n in range(order.request.total_legs)
        ]
        account_id = self._connection.account_id
        legs = [live for live in found if live is not None and live.order.request.account_id == account_id]
        return legs if len(legs) == len(found) else None

    def _may_be_taken(self, leg: LiveOrder) -> bool:
        """Whether this leg could leave now, as far as its place in its own queue says."""
        is_free = not self._queues.is_under_way(leg) and not self._isolation.holds(leg)
        is_turn = self._queues.of(leg.order).may_leave(self._clock.monotonic())
        return leg.order.status is Status.PENDING and is_free and is_turn

    async def _wait(self, live: LiveOrder, *, leader: LiveOrder | None) -> None:
        """For the others, unless something is found by which it ends."""
        try:
            found = await self._submission.checked(live)
        except (BrokerError, TimeoutError) as exc:
            self._submission.preparation_failed(live, exc)
            return
        if isinstance(found, Waiting):
            return
        if found:
            await self._live.record_unless_changed(live, found, since=live.order)
            return
        self._queues.wait_for_others(live, WaitingReason.LEGS)
        if leader is not None and leader is not live:
            self._queues.bring_back(leader)

    # --- all legs -----------------------------------------------------------------------------------------------

    async def _submit(self, legs: Sequence[LiveOrder]) -> None:
        leader = legs[0]
        try:
            named = await self._cancels.named_by_cancels([leg.order for leg in legs])
        except StoreUnavailable as exc:
            self._store_is_away(leader, exc)
            return
        if named:
            self._queues.rest(leader.order, WaitingReason.HELD_BACK, CANCELLED_SOON_SECONDS, "it is being cancelled")
            return
        intents = await self._prepared(legs)
        if intents is None:
            return
        tickets = [leg.order.ticket() if i.ticket is None else i.ticket for leg, i in zip(legs, intents, strict=True)]
        whole = combination_of(tickets)
        if any(ticket.quantity != leg.order.quantity for leg, ticket in zip(legs, tickets, strict=True)):
            whole = Reason(ReasonCode.UNSUPPORTED_ORDER, "rounded to the market, its legs would have another ratio")
        if isinstance(whole, Reason):
            await self._refuse(legs, whole)
            return
        try:
            reserved = await self._submission.reserved_id(leader, tickets[0])
        except OrderRefused as exc:
            await self._refuse(legs, reason_of(exc))
            return
        except (BrokerError, TimeoutError):
            self._stay(legs)
            return
        complete = [_as_leg(leg.order, intent, whole, reserved) for leg, intent in zip(legs, intents, strict=True)]
        if await self._are_written(legs, complete):
            handed = await self._placement.place_combined(legs)
            await handed.recording

    async def _prepared(self, legs: Sequence[LiveOrder]) -> Sequence[Intent] | None:
        """One after the other, so that each is judged by what those before it reserve; None: one of them does not leave now, so none does."""
        now, intents = self._clock.now(), []
        for place, leg in enumerate(legs):
            try:
                intent = await self._submission.prepare(leg, now, is_leg=True)
            except StoreUnavailable as exc:
                self._stay(legs[:place])
                self._store_is_away(legs[0], exc)
                return None
            except Exception as exc:  # noqa: BLE001  whatever it is, it is about this leg
                self._stay(legs[:place])
                self._submission.intent_failed(leg, exc)
                return None
            if intent is None or intent.ends:
                self._stay(legs[:place])
                if intent is not None:
                    await self._submission.write(leg, intent)
                elif leg is not legs[0]:
                    self._queues.wait_for_others(legs[0], WaitingReason.LEGS)
                if intent is None:
                    await self._keep_with(leg.order, legs)
                return None
            intents.append(intent)
        return intents

    async def _keep_with(self, order: Order, legs: Sequence[LiveOrder]) -> None:
        """Where one of them is kept for an opening, so are all, and the age of each counts from there."""
        now = self._clock.now()
        kept = next((event for event in reversed(order.events) if isinstance(event, AwaitsOpening)), None)
        if kept is None or kept.until <= now:
            return
        for leg in legs:
            if leg.order.opens_at != kept.until:
                await self._live.record_unless_changed(leg, (replace(kept, at=now),), since=leg.order)

    def _store_is_away(self, leader: LiveOrder, exc: StoreUnavailable) -> None:
        log.info(f"Nothing is sent while the store is away: {exc}", action="sending_waits")
        self._queues.rest(leader.order, WaitingReason.HELD_BACK, AFTER_FAILURE_SECONDS, "the store is away")

    def _stay(self, legs: Sequence[LiveOrder]) -> None:
        """The risk gate let them pass, and they do not leave."""
        for leg in legs:
            self._risk_gate.not_leaving(leg)

    async def _refuse(self, legs: Sequence[LiveOrder], why: Reason) -> None:
        for leg in legs:
            rejected = Rejected(at=self._clock.now(), reason=why)
            await self._live.record_unless_changed(leg, (rejected,), since=leg.order)
        self._stay(legs)

    async def _are_written(self, legs: Sequence[LiveOrder], intents: Sequence[Intent]) -> bool:
        """Whether each is durable. Where one is not, nothing leaves, and that is written of the others."""
        writing = (self._submission.write(leg, intent) for leg, intent in zip(legs, intents, strict=True))
        written = await asyncio.gather(*writing, return_exceptions=True)
        if all(outcome is True for outcome in written):
            return True
        words = "another leg of its combination could not be written down as leaving"
        for leg, outcome in zip(legs, written, strict=True):
            if outcome is True:
                await self._placement.nothing_was_sent(leg, words, counts=False, sent=leg.order)
            elif isinstance(outcome, BaseException):
                self._submission.intent_failed(leg, outcome)
        return False

    # --- after a death ------------------------------------------------------------------------------------------

    async def find(self, live: LiveOrder) -> None:
        """Looks for a combination that was perhaps sent; where the records of its legs prove that it was not, that is recorded."""
        order = live.order
        stored = await self._store.find([f"signal:{order.signal_id}"])
        if not was_never_sent(order, other_legs(order, [self._live.latest(each) for each in stored])):
            await self._report_poller.find(live)
            return
        words = "its combination was not sent: the record of another leg proves it"
        nothing = NothingSent(at=self._clock.now(), message=words)
        await self._live.record_unless_changed(live, (nothing,), since=order)


def _as_leg(order: Order, intent: Intent, whole: Combination, reserved: str | None) -> Intent:
    """The intent of leaving by itself, as one of leaving with the others."""
    started = intent.events[-1]
    assert isinstance(started, SubmitStarted), "whoever leaves has such an event"
    said: tuple[Event, ...] = ()
    if order.wants_protection:
        said = (Noted(at=started.at, message=UNPROTECTED, alert=True),)
    leaving = replace(started, reserved_order_id=reserved, combination=whole)
    return replace(intent, events=(*intent.events[:-1], *said, leaving))
