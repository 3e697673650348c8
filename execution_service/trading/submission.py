"""What of a queue leaves together, and the intent that is durable before an order leaves; not whose turn it is, nor the handing over itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import structlog

from brokers.base import ContractTerms, Ticket
from brokers.errors import BrokerError, BrokerUnavailable, HeldBack, NotAnswered, OrderRefused
from execution_service.core.orders.events import (
    AwaitsOpening,
    Capped,
    Event,
    InstrumentMatched,
    Noted,
    Rejected,
    SubmitStarted,
)
from execution_service.core.orders.next_step import is_stale
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.orders.tickets import fitting
from execution_service.core.orders.waiting import Waiting, WaitingReason, others_of
from execution_service.core.risk.records import kept_verdict, opening, refusal, remarks
from execution_service.core.risk.verdict import Decision
from execution_service.recording.cancels import Cancels
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.trading.connection import AFTER_FAILURE_SECONDS, Connection, reason_of
from execution_service.trading.holding_choice import HoldingChoice
from execution_service.trading.instrument_queues import InstrumentQueue, InstrumentQueues
from execution_service.trading.isolation import Isolation
from execution_service.trading.order_sizing import OrderSizing
from execution_service.trading.placement import Placement
from execution_service.trading.pre_trade_checks import PreTradeChecks
from execution_service.trading.risk_gate import RiskGate

log = structlog.get_logger(__name__)

CANCELLED_SOON_SECONDS = 0.25
"""How long orders stay that a stored cancel names, and those behind them; then it is looked whether it has been carried out."""
LARGEST_BATCH = 64
REPETITIONS_WAITED_FOR = 2
"""So many times an order was to be sent again without a clear answer, or could not be, and later ids no longer wait for it."""


Answers: TypeAlias = Sequence[tuple[LiveOrder, asyncio.Task[None]]]
"""What is being written down about orders that were handed over."""


@dataclass(frozen=True, slots=True)
class _Reservation:
    """What will be sent, and the id that the broker gives it beforehand, if it does."""

    ticket: Ticket
    order_id: str | None


@dataclass(frozen=True, slots=True)
class Intent:
    """What is to be recorded of an order that is about to leave."""

    events: tuple[Event, ...]
    """The last one is its SubmitStarted, or its end."""
    ticket: Ticket | None
    """As it was fitted to the market; None: this market takes tickets unchanged."""
    wish: Reason | None
    """The wish to cancel it that was known when it was judged."""
    ends: bool
    has_passed: bool
    """The risk gate let it pass, and counts it as leaving."""


class Submission:
    """Brings the orders of one account from their queues to the broker, when their turn has come."""

    def __init__(
        self,
        *,
        connection: Connection,
        queues: InstrumentQueues,
        pre_trade_checks: PreTradeChecks,
        holding_choice: HoldingChoice,
        placement: Placement,
        isolation: Isolation,
        live_orders: LiveOrders,
        clock: Clock,
        nonce: str,
        cancels: Cancels,
        risk_gate: RiskGate,
        order_sizing: OrderSizing,
    ) -> None:
        """`nonce`: this process's, by which it knows its own intents. `cancels` is asked once more before orders leave."""
        self._connection = connection
        self._queues = queues
        self._pre_trade_checks = pre_trade_checks
        self._holding_choice = holding_choice
        self._placement = placement
        self._isolation = isolation
        self._live = live_orders
        self._clock = clock
        self._nonce = nonce
        self._cancels = cancels
        self._risk_gate = risk_gate
        self._order_sizing = order_sizing
        self._sized_in_turn = asyncio.Lock()
        self.exits_in_turn = asyncio.Lock()
        """Held by each exit from the last look on until its intent is written, and by whoever changes what exits may take."""
        self._left_reserved: set[str] = set()
        """The broker's ids under which other processes, or earlier lives of this one, have perhaps sent."""

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

        pending = self._queues.pending()
        done = await asyncio.gather(*(self._live.record(live, reject) for live in pending), return_exceptions=True)
        for live, outcome in zip(pending, done, strict=True):
            if isinstance(outcome, Exception):
                self._isolation.failed(live, outcome, doing="its rejection")

    @property
    def batch_size(self) -> int:
        """Where the broker does not itself refuse a repeated id, each order whose sending was begun and not finished when we die is in doubt;
        and where it gives the ids beforehand, one that a later one has passed over can never be sent again. There the intent is written one
        by one. So it is where legs are combined: those of one order are of several queues."""
        return LARGEST_BATCH if self._can_go_together else 1

    @property
    def _can_go_together(self) -> bool:
        able = self._connection.capabilities
        is_one_by_one = able.needs_reservation or able.combines_option_legs
        return self._connection.limits.refuses_repeated_client_id and not is_one_by_one

    def is_earlier_id_awaited(self) -> bool:
        """An order that was perhaps sent under an id that the broker gave beforehand may have to leave again under it, which it can no more
        once a later id has left."""
        return self._connection.capabilities.needs_reservation and any(
            map(self._may_leave_again, self._queues.perhaps_sent())
        )

    def _may_leave_again(self, order_id: str) -> bool:
        live = self._live.by_id.get(order_id)
        if live is None or live.order.status is not Status.SUBMITTING or live.order.reserved_order_id is None:
            return False
        if self._isolation.holds(live):
            return False  # the others do not wait for it; passed over, it is looked for, and then in doubt
        if live.order.combination is not None:
            return False  # a combination is not sent again
        sending = live.sending
        is_settled = sending.is_answered or sending.is_refused or sending.unclear_repetitions >= REPETITIONS_WAITED_FOR
        is_in_time = not is_stale(live.elapsed(self._clock.monotonic()), self._connection.limits)
        return live.order.cancel_request is None and is_in_time and not is_settled

    async def recorded(self, answers: Answers) -> None:
        """When each is written down, or its order isolated."""
        outcomes = await asyncio.gather(*(writing for _, writing in answers), return_exceptions=True)
        for (live, _), outcome in zip(answers, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._isolation.failed(live, outcome, doing="recording what the broker answered")

    async def submit(self, queue: InstrumentQueue, batch: Sequence[LiveOrder]) -> Answers:
        """Writes down the intent for all, hands them over one after the other, and writes down the answers as they come. Returns the
        writing that is still going on where the queue need not wait for it."""
        try:
            named = await self._cancels.named_by_cancels([live.order for live in batch])
        except StoreUnavailable as exc:
            log.info(f"Nothing is sent while the store is away: {exc}", action="sending_waits")
            self._queues.rest(batch[0].order, WaitingReason.HELD_BACK, AFTER_FAILURE_SECONDS, "the store is away")
            return ()
        if named:
            self._queues.rest(batch[0].order, WaitingReason.HELD_BACK, CANCELLED_SOON_SECONDS, "it is being cancelled")
            return ()
        pause_before = queue.pause
        now = self._clock.now()  # one moment for all, so that the store can write their intents as one statement
        intents = await asyncio.gather(*(self._intend(live, now) for live in batch), return_exceptions=True)
        intended = [live.order for live in batch]
        answers: list[tuple[LiveOrder, asyncio.Task[None]]] = []
        clear: list[bool] = []
        is_clear = is_held = False
        try:
            for live, is_leaving, order in zip(batch, intents, intended, strict=True):
                is_held = is_held or order.order_id in queue.awaiting_positions
                has_paused = queue.pause is not None and queue.pause is not pause_before
                if is_leaving is True and (queue.perhaps_sent or is_held or has_paused):
                    why = "is being looked for" if queue.perhaps_sent else "has to wait"
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
                await self.recorded(answers)
        failed = [(live, got) for live, got in zip(batch, intents, strict=True) if isinstance(got, BaseException)]
        # Those orders are PENDING as before; the others of the batch have gone their way.
        for live, failure in failed:
            if not isinstance(failure, StoreUnavailable):
                self.intent_failed(live, failure)
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
        if live.order.quantity is None:
            # Nor two orders on the same buying power: each is sized by what those before it leave.
            async with self._sized_in_turn:
                return await self._write_intent(live, now)
        return await self._write_intent(live, now)

    async def _write_intent(self, live: LiveOrder, now: datetime) -> bool:
        intent = await self.prepare(live, now)
        return intent is not None and await self.write(live, intent)

    async def prepare(self, live: LiveOrder, now: datetime, *, is_leg: bool = False) -> Intent | None:
        """What is to be recorded before the order leaves, or for its end; None: it does not leave now. `is_leg`: of a combination, whose id is
        reserved once for all of its legs. Raises StoreUnavailable."""
        wish, has_passed = live.order.cancel_request, False
        ticket: Ticket | None = None
        try:
            first = await self.checked(live)
        except (BrokerError, TimeoutError) as exc:
            self.preparation_failed(live, exc)
            return None
        if isinstance(first, Waiting):
            return None
        ends = bool(first) and not isinstance(first[-1], Capped | InstrumentMatched | Noted)
        if not ends and live.order.quantity is None:
            if await self._risk_gate.waits_for_quote(apply_all(live.order, first)):
                await self._keep(live, None)
                return None
            size = await self._size(live, apply_all(live.order, first), now)
            if size is None:
                return None
            if isinstance(size[-1], AwaitsOpening):
                await self._keep(live, size[-1])
                return None
            first, ends = (*first, *size), isinstance(size[-1], Rejected)
        if not ends:
            order, reserved = apply_all(live.order, first), None
            terms: ContractTerms | None = None
            if self._connection.capabilities.fits_tickets or self._connection.capabilities.needs_reservation:
                reservation = await self._reserve(live, order, is_leg=is_leg)
                if reservation is None:
                    return None
                ticket = reservation.ticket
                first = (*first, *fitting(order, ticket, now))
                reserved, terms = reservation.order_id, ticket.terms
            contract = await self._holding_choice.contract_events(order, terms, now)
            ends = bool(contract) and isinstance(contract[-1], Rejected)
            first = (*first, *contract)
            if not ends:
                if await self._risk_gate.waits_for_quote(apply_all(live.order, first)):
                    await self._keep(live, None)
                    return None
                verdict = await self._risk_gate.judge(apply_all(live.order, first))
                if verdict.decision is Decision.HOLD:
                    await self._keep(live, opening(verdict, now))
                    return None
                ends, has_passed = verdict.decision is Decision.REFUSE, verdict.decision is Decision.PASS
                if ends:
                    first = (*first, refusal(verdict, now))
                else:
                    kept = kept_verdict(verdict, keeps_uses=self._risk_gate.has_written_limits)
                    started = SubmitStarted(at=now, nonce=self._nonce, reserved_order_id=reserved, risk=kept)
                    first = (*first, *remarks(verdict, now), started)
        return Intent(first, ticket, wish, ends=ends, has_passed=has_passed)

    async def write(self, live: LiveOrder, intent: Intent) -> bool:
        """Makes it durable, unless the order has changed meanwhile; whether the order may leave."""

        def start(order: Order) -> Sequence[Event]:
            is_as_judged = order.status is Status.PENDING and order.cancel_request == intent.wish
            return intent.events if is_as_judged else ()

        is_recorded = bool(await self._live.record(live, start))
        if intent.has_passed and not is_recorded:
            self._risk_gate.not_leaving(live)
        return is_recorded and not intent.ends

    async def _keep(self, live: LiveOrder, until: AwaitsOpening | None) -> None:
        """It waits for the risk gate. What it is kept for is recorded once, so that its age counts from there in every life."""
        self._queues.wait_for_others(live, WaitingReason.RISK)
        if until is not None and live.order.opens_at != until.until:
            await self._live.record_unless_changed(live, (until,), since=live.order)

    async def checked(self, live: LiveOrder) -> tuple[Event, ...] | Waiting:
        """What must be recorded before it leaves, or for what it has to wait. It waits for others from before they are asked about on: its
        entry may end, or another leg come, while the store answers."""
        others = others_of(live.order)
        if others is not None:
            self._queues.wait_for_others(live, others)
        found: tuple[Event, ...] | Waiting = ()
        try:
            found = await self._pre_trade_checks.before_leaving(live)
            if isinstance(found, Waiting) and found.reason in (WaitingReason.PROTECTION, WaitingReason.STOP):
                self._queues.wait_for_others(live, found.reason)
        finally:
            if not (isinstance(found, Waiting) and found.reason.lets_others_pass):
                self._queues.cease_waiting(live.order)
        return found

    async def _size(self, live: LiveOrder, order: Order, now: datetime) -> tuple[Event, ...] | None:
        """The quantity of an order that names none, or its end; None: it cannot be told now. `order` is as it would leave."""
        try:
            return await self._order_sizing.events_for(order, now)
        except OrderRefused as exc:
            return (Rejected(at=now, reason=reason_of(exc)),)
        except (BrokerError, TimeoutError) as exc:
            self.preparation_failed(live, exc)
            return None

    async def _reserve(self, live: LiveOrder, order: Order, *, is_leg: bool = False) -> _Reservation | None:
        """None: as far as the broker is concerned, the order may not leave now, or never. `order` is as it would leave; of a leg only its ticket
        is fitted."""
        decided_for = live.order
        broker, taken = self._connection.broker, self._left_reserved
        try:
            ticket, able = order.ticket(), self._connection.capabilities
            if able.fits_tickets:
                ticket = await self._connection.ask(broker.fitted(ticket))
            if is_leg or not able.needs_reservation:
                return _Reservation(ticket, None)
            return _Reservation(ticket, await self._connection.ask(broker.reserve(ticket, taken=taken)))
        except OrderRefused as exc:
            rejected = Rejected(at=self._clock.now(), reason=reason_of(exc))
            await self._live.record_unless_changed(live, (rejected,), since=decided_for)
        except (BrokerError, TimeoutError) as exc:
            self.preparation_failed(live, exc)
        return None

    async def reserved_id(self, live: LiveOrder, ticket: Ticket) -> str | None:
        """The broker's id for a combination, by the ticket of its first leg; None: it needs none. Raises OrderRefused, BrokerError, TimeoutError,
        after the last two of which the order waits."""
        if not self._connection.capabilities.needs_reservation:
            return None
        try:
            return await self._connection.ask(self._connection.broker.reserve(ticket, taken=self._left_reserved))
        except OrderRefused:
            raise
        except (BrokerError, TimeoutError) as exc:
            self.preparation_failed(live, exc)
            raise

    def intent_failed(self, live: LiveOrder, why: BaseException) -> None:
        """By something that nobody foresaw, of this order or its instrument: it counts like one that the broker cannot take, and holds up no
        other order."""
        self._isolation.failed(live, why, doing="preparing it for the broker")
        live.tries = live.tries.failed(str(why) or type(why).__name__)

    def preparation_failed(self, live: LiveOrder, exc: Exception) -> None:
        """Nothing was sent; the queue waits, and a question that got no answer says nothing about the connection."""
        if isinstance(exc, HeldBack):
            self._placement.rest(live.order, exc)
            return
        if isinstance(exc, TimeoutError):
            self._connection.query_failed(exc)
        elif not isinstance(exc, NotAnswered):
            self._connection.lose(exc)
        self._queues.slow_down(live.order, str(exc) or type(exc).__name__)
        if not (isinstance(exc, BrokerUnavailable) and exc.known_pause):
            live.tries = live.tries.failed(str(exc) or type(exc).__name__)
