"""Which lanes go, what of a lane leaves together, and the intent that is durable before an order leaves; not the handing over itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import structlog

from brokers.base import ContractTerms, Ticket
from brokers.errors import BrokerError, BrokerUnavailable, HeldBack, NotAnswered, OrderRefused
from execution_service.core.orders.events import Capped, Event, InstrumentMatched, Noted, Rejected, SubmitStarted
from execution_service.core.orders.next_step import is_stale
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.orders.tickets import fitting
from execution_service.recording.cancels import Cancels
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.trading.connection import AFTER_FAILURE_SECONDS, Connection, reason_of
from execution_service.trading.holding_choice import HoldingChoice
from execution_service.trading.instrument_queues import Lane, Lanes
from execution_service.trading.isolation import Isolation
from execution_service.trading.placement import Placement
from execution_service.trading.pre_trade_checks import PreTradeChecks
from execution_service.trading.tasks import Tasks

log = structlog.get_logger(__name__)

LANE = "lane"
LANE_BATCH = 64
RESENDINGS_WAITED_FOR = 2
"""So many times an order was to be sent again without a clear answer, or could not be, and later ids no longer wait for it."""


Answers: TypeAlias = Sequence[tuple[LiveOrder, asyncio.Task[None]]]
"""What is being written down about orders that were handed over."""


@dataclass(frozen=True, slots=True)
class _Reservation:
    """What will be sent, and the id that the broker gives it beforehand, if it does."""

    ticket: Ticket
    order_id: str | None


class Submission:
    """Takes the orders of one account from their lanes to the broker."""

    def __init__(
        self,
        *,
        connection: Connection,
        lanes: Lanes,
        pre_trade_checks: PreTradeChecks,
        holding_choice: HoldingChoice,
        placement: Placement,
        isolation: Isolation,
        live_orders: LiveOrders,
        clock: Clock,
        tasks: Tasks,
        nonce: str,
        cancels: Cancels,
    ) -> None:
        """`nonce`: this process's, by which it knows its own intents. `cancels` is asked once more before orders leave."""
        self._connection = connection
        self._lanes = lanes
        self._pre_trade_checks = pre_trade_checks
        self._holding_choice = holding_choice
        self._placement = placement
        self._isolation = isolation
        self._live = live_orders
        self._clock = clock
        self._tasks = tasks
        self._nonce = nonce
        self._cancels = cancels
        self._lanes_under_way = 0
        self.exits_in_turn = asyncio.Lock()
        """Held by each exit from the last look on until its intent is written, and by whoever changes what exits may take."""
        self._left_reserved: set[str] = set()
        """The broker's ids under which other processes, or earlier lives of this one, have perhaps sent."""

    def begin_anew(self) -> None:
        """No lane is under way: what was has ended."""
        self._lanes_under_way = 0

    def take(self, order: Order) -> None:
        """An order that has come in hand: one that was perhaps sent keeps the id that the broker gave it."""
        if order.reserved_order_id is not None and order.status in (Status.SUBMITTING, Status.IN_DOUBT):
            self._left_reserved.add(order.reserved_order_id)

    async def reject_pending(self, message: str) -> None:
        """All that were to be sent: the broker cannot be reached."""

        def reject(order: Order) -> Sequence[Event]:
            if order.status is not Status.PENDING:
                return ()
            return (Rejected(at=self._clock.now(), reason=Reason(ReasonCode.BROKER_UNAVAILABLE, message)),)

        pending = self._lanes.pending()
        done = await asyncio.gather(*(self._live.record(live, reject) for live in pending), return_exceptions=True)
        for live, outcome in zip(pending, done, strict=True):
            if isinstance(outcome, Exception):
                self._isolation.failed(live, outcome, doing="its rejection")

    async def drain(self) -> None:
        """Until no order is on its way to the broker any more."""
        await self._tasks.wait_for(LANE)

    # --- lanes --------------------------------------------------------------------------------------------------

    def start_lanes(self) -> None:
        """As many as may be under way at once. Waits for nothing."""
        if self._lanes.has_ready and self._is_earlier_id_awaited():
            return
        while self._lanes_under_way < self._connection.capabilities.concurrent_calls and self._lanes.has_ready:
            lane = self._lanes.next_ready()
            if lane.is_busy or lane.unresolved or lane.held_for:
                continue
            # Where the broker does not itself refuse a repeated id, each order whose sending was begun and not finished when we die
            # is in doubt; and where it gives the ids beforehand, one that a later one has passed over can never be sent again. There the
            # intent is written one by one.
            batch = lane.next_batch(LANE_BATCH if self._can_go_together else 1, self._isolation.holds)
            if batch:
                lane.is_busy = True
                self._lanes_under_way += 1
                self._tasks.begin(self._run_lane(lane, batch), LANE)

    @property
    def _can_go_together(self) -> bool:
        return (
            self._connection.limits.refuses_repeated_client_id and not self._connection.capabilities.needs_reservation
        )

    def _is_earlier_id_awaited(self) -> bool:
        """An order that was perhaps sent under an id that the broker gave beforehand may have to leave again under it, which it can no more
        once a later id has left."""
        return self._connection.capabilities.needs_reservation and any(
            map(self._may_leave_again, self._lanes.unresolved())
        )

    def _may_leave_again(self, order_id: str) -> bool:
        live = self._live.by_id.get(order_id)
        if live is None or live.order.status is not Status.SUBMITTING or live.order.reserved_order_id is None:
            return False
        if self._isolation.holds(live):
            return False  # the others do not wait for it; passed over, it is looked for, and then in doubt
        is_refused = live.is_passed_over or live.refusal is not None
        is_settled = live.is_answered or is_refused or live.unclear_resendings >= RESENDINGS_WAITED_FOR
        is_in_time = not is_stale(live.elapsed(self._clock.monotonic()), self._connection.limits)
        return live.order.cancel_request is None and is_in_time and not is_settled

    async def _run_lane(self, lane: Lane, batch: Sequence[LiveOrder]) -> None:
        answers: Answers = ()
        try:
            answers = await self._submit(lane, batch)
        except Exception as exc:
            # Of no order by itself: the lane makes a pause, and others go on.
            log.exception(
                f"Orders of an instrument not sent: {exc}",
                action="lane_failed",
                account_id=self._connection.account_id,
            )
            self._lanes.slow_down(batch[0].order)
        finally:
            lane.is_busy = False
            self._lanes_under_way -= 1
            if answers:
                self._tasks.begin(self._record_answers(lane, batch, answers), f"answers-{LANE}")
            else:
                self._lanes.put_back(lane, batch)
            self._lanes.make_ready(lane)

    async def _record_answers(self, lane: Lane, batch: Sequence[LiveOrder], answers: Answers) -> None:
        try:
            await self._recorded(answers)
        finally:
            self._lanes.put_back(lane, batch)

    async def _recorded(self, answers: Answers) -> None:
        """When each is written down, or its order isolated."""
        outcomes = await asyncio.gather(*(writing for _, writing in answers), return_exceptions=True)
        for (live, _), outcome in zip(answers, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._isolation.failed(live, outcome, doing="recording what the broker answered")

    async def _submit(self, lane: Lane, batch: Sequence[LiveOrder]) -> Answers:
        """Writes down the intent for all, hands them over one after the other, and writes down the answers as they come. Returns the
        writing that is still going on where the lane need not wait for it."""
        try:
            await self._cancels.look_for_cancels([live.order for live in batch])
        except StoreUnavailable as exc:
            log.info(f"Nothing is sent while the store is away: {exc}", action="sending_waits")
            self._lanes.rest(batch[0].order, AFTER_FAILURE_SECONDS, words="the store is away", is_for_calls=False)
            return ()
        rested_until = lane.not_before
        now = self._clock.now()  # one moment for all, so that the store can write their intents as one statement
        intents = await asyncio.gather(*(self._intend(live, now) for live in batch), return_exceptions=True)
        intended = [live.order for live in batch]
        answers: list[tuple[LiveOrder, asyncio.Task[None]]] = []
        clear: list[bool] = []
        is_clear = is_held = False
        try:
            for live, is_leaving, order in zip(batch, intents, intended, strict=True):
                is_held = is_held or order.order_id in lane.held_for
                if is_leaving is True and (lane.unresolved or is_held or lane.not_before != rested_until):
                    why = "is being looked for" if lane.unresolved else "has to wait"
                    held = self._placement.nothing_was_sent(
                        live, f"the order before it {why}", counts=False, sent=order
                    )
                    answers.append((live, asyncio.create_task(held)))
                elif is_leaving is True:
                    try:
                        handed = await self._placement.place(live)
                    except Exception as exc:  # noqa: BLE001  it may have left, and is looked for; the others are still to leave
                        self._isolation.failed(live, exc, doing="handing it over to the broker")
                        clear.append(False)
                        continue
                    answers.append((live, asyncio.create_task(handed.recording)))
                    clear.append(handed.is_clear)
            is_clear = self._can_go_together and len(clear) == len(batch) and all(clear)
        except asyncio.CancelledError:
            for _, answer in answers:
                answer.cancel()  # the store may be away; what is not recorded now is asked for by whoever works the order next
            raise
        finally:
            if not is_clear:
                await self._recorded(answers)
        failed = [(live, got) for live, got in zip(batch, intents, strict=True) if isinstance(got, BaseException)]
        # Those orders are PENDING as before; the others of the batch have gone their way.
        for live, failure in failed:
            if not isinstance(failure, StoreUnavailable):
                self._intent_failed(live, failure)
        away = [failure for _, failure in failed if isinstance(failure, StoreUnavailable)]
        if away:
            log.warning(
                f"Orders not sent yet: {away[0]}", action="sending_waits", account_id=self._connection.account_id
            )
            await self._clock.sleep(AFTER_FAILURE_SECONDS)
        return answers if is_clear else ()

    # --- the intent ---------------------------------------------------------------------------------------------

    async def _intend(self, live: LiveOrder, now: datetime) -> bool:
        """The last look before the order leaves, and the record that it is about to; False if it does not leave."""
        if live.order.identity.purpose is Purpose.EXIT:
            # Two exits of one entry must not both count on what is left of it.
            async with self.exits_in_turn:
                return await self._write_intent(live, now)
        return await self._write_intent(live, now)

    async def _write_intent(self, live: LiveOrder, now: datetime) -> bool:
        wish = live.order.cancel_request
        try:
            first = await self._pre_trade_checks.before_leaving(live)
        except (BrokerError, TimeoutError) as exc:
            self._preparation_failed(live, exc)
            return False
        if first is None:
            return False
        ends = bool(first) and not isinstance(first[-1], Capped | InstrumentMatched | Noted)
        if not ends:
            order, reserved = apply_all(live.order, first), None
            terms: ContractTerms | None = None
            if self._connection.capabilities.fits_tickets or self._connection.capabilities.needs_reservation:
                reservation = await self._reserve(live, order)
                if reservation is None:
                    return False
                first = (*first, *fitting(order, reservation.ticket, now))
                reserved, terms = reservation.order_id, reservation.ticket.terms
            told = await self._holding_choice.told(order, terms, now)
            ends = bool(told) and isinstance(told[-1], Rejected)
            leaving = () if ends else (SubmitStarted(at=now, nonce=self._nonce, reserved_order_id=reserved),)
            first = (*first, *told, *leaving)

        def start(order: Order) -> Sequence[Event]:
            return first if order.status is Status.PENDING and order.cancel_request == wish else ()

        # What is known of an attempt before this one does not hold for it.
        live.is_answered, live.is_passed_over, live.unclear_resendings = False, False, 0
        return bool(await self._live.record(live, start)) and not ends

    async def _reserve(self, live: LiveOrder, order: Order) -> _Reservation | None:
        """None: as far as the broker is concerned, the order may not leave now, or never. `order` is as it would leave."""
        decided_for = live.order
        broker, taken = self._connection.broker, self._left_reserved
        try:
            ticket, able = order.ticket(), self._connection.capabilities
            if able.fits_tickets:
                ticket = await self._connection.ask(broker.fitted(ticket))
            if not able.needs_reservation:
                return _Reservation(ticket, None)
            return _Reservation(ticket, await self._connection.ask(broker.reserve(ticket, taken=taken)))
        except OrderRefused as exc:
            rejected = Rejected(at=self._clock.now(), reason=reason_of(exc))
            await self._live.record_unless_changed(live, (rejected,), since=decided_for)
        except (BrokerError, TimeoutError) as exc:
            self._preparation_failed(live, exc)
        return None

    def _intent_failed(self, live: LiveOrder, why: BaseException) -> None:
        """By something that nobody foresaw, of this order or its instrument: it counts like one that the broker cannot take, and holds up no
        other order."""
        self._isolation.failed(live, why, doing="preparing it for the broker")
        live.sending_failures += 1
        live.last_failure = str(why) or type(why).__name__

    def _preparation_failed(self, live: LiveOrder, exc: Exception) -> None:
        """Nothing was sent; the lane waits, and a question that got no answer says nothing about the connection."""
        if isinstance(exc, HeldBack):
            self._placement.rest(live.order, exc)
            return
        if isinstance(exc, TimeoutError):
            self._connection.query_failed(exc)
        elif not isinstance(exc, NotAnswered):
            self._connection.lose(exc)
        self._lanes.slow_down(live.order)
        if not (isinstance(exc, BrokerUnavailable) and exc.known_pause):
            live.sending_failures += 1
            live.last_failure = str(exc) or type(exc).__name__
