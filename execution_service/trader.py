"""One account's orders, each taken one step further: submit, find, check, cancel; when that happens, not what is decided."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

import structlog
import tenacity

from brokers.base import Broker, BrokerPosition, Capabilities, OrderRef, Report, Ticket
from brokers.errors import (
    AnswerUnclear,
    AuthRequired,
    BrokerError,
    BrokerUnavailable,
    CallsSpent,
    HeldBack,
    NotAnswered,
    OrderAlreadyExists,
    OrderRefused,
    OutcomeUnknown,
    ReservationLost,
)
from execution_service.core import alerts
from execution_service.core.decide import (
    UNKNOWN_ENTRY_SECONDS,
    UNKNOWN_LEG_SECONDS,
    Elapsed,
    ExitAllowance,
    Limits,
    StepKind,
    about_leg,
    as_its_entry_says,
    cancel_wish,
    exit_allowance,
    fills_are_missing,
    fitting,
    is_of_another,
    is_stale,
    missing_legs,
    news,
    next_step,
    pending_legs,
    refusing_leg,
    stale,
    unsupported_reason,
    was_noted,
)
from execution_service.core.effects import happenings
from execution_service.core.heard import Heard, name_of
from execution_service.core.ledger import LedgerEntry, key_of, with_unbooked
from execution_service.core.order import (
    Cancelled,
    CancelRefused,
    CancelRequested,
    Capped,
    Event,
    InstrumentMatched,
    Noted,
    NothingSent,
    Order,
    Purpose,
    Reason,
    ReasonCode,
    Rejected,
    Status,
    SubmitStarted,
    apply_all,
)
from execution_service.live import LiveOrder, LiveOrders
from execution_service.ports import Clock, Store, Stored, StoreUnavailable

log = structlog.get_logger(__name__)
T = TypeVar("T")

AT_WORK = frozenset({Status.SUBMITTING, Status.SUBMITTED, Status.PARTIALLY_FILLED, Status.IN_DOUBT})
LANE = "lane"
LANE_BATCH = 64
WAITING_SECONDS = 2.0
SILENCE_ALERT_SECONDS = 60.0
UNUSABLE_TOLERATED = 3
LONGEST_PAUSE_SECONDS = 30.0
RESENDINGS_ALERT = 3
RESENDINGS_WAITED_FOR = 2
"""So many times an order was to be sent again without a clear answer, or could not be, and later ids no longer wait for it."""
PLACE_SECONDS = 30.0
QUERY_SECONDS = 30.0
CONNECT_SECONDS = 60.0
CLOSE_SECONDS = 5.0
MISSING_FILLS_ALERT_SECONDS = 30.0
CANCEL_ALERT_AFTER = 3
AFTER_FAILURE_SECONDS = 1.0
LATE_EXIT_SECONDS = 5.0
LEAST_WAIT_SECONDS = 0.001
LONGEST_REST_SECONDS = 5.0
"""How long a lane rests at once when the account's calls are spent: an exit that may leave all the same can have come to its front."""
LEASE_PAUSE_SECONDS = 0.25
IDLE_CHECK_SECONDS = 5.0
"""How often a broker is asked without an order at work: fills may come after the end, and not every broker tells by itself."""
LOOKED_UP_AT_ONCE = 50
"""While the store answers such a question others wait."""
LOOKED_THROUGH_AT_ONCE = 2000
LOGIN_LOOK_SECONDS = 2.0
"""How often it is looked whether a person has logged in."""
KEPT_APPOINTMENTS = 64
"""So many appointments with orders that are over may lie about."""
FINISHED_REMEMBERED = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TradingRules:
    """The settings that a trader obeys; times in seconds."""

    order_timeout_seconds: float = 60.0
    max_order_age_seconds: float = 300.0
    max_retry_attempts: int = 3
    reconcile_interval_seconds: float = 60.0
    """0: only after each connection and when asked."""


class AccountState(StrEnum):
    """How an account stands with its broker."""

    CONNECTED = "CONNECTED"
    UNAVAILABLE = "UNAVAILABLE"
    AUTH_REQUIRED = "AUTH_REQUIRED"


class Lane:
    """The pending orders of one instrument, in the order in which they came; only one batch of a lane is on its way at a time."""

    __slots__ = ("failures", "is_busy", "is_hold_told", "is_queued", "not_before", "orders", "unresolved")

    def __init__(self) -> None:
        self.orders: deque[LiveOrder] = deque()
        self.failures = 0
        """Sendings in succession that the broker could not take."""
        self.not_before = 0.0
        self.is_busy = False
        self.is_hold_told = False
        """People know that its orders are held for something that the broker lacks."""
        self.is_queued = False
        self.unresolved: set[str] = set()
        """Orders of the lane that were perhaps sent: until they are found, nothing follows them."""


@dataclass(frozen=True, slots=True)
class _Handed:
    """What became of handing an order over: `recording` makes it durable, for the caller to run."""

    recording: Coroutine[Any, Any, None]
    is_clear: bool
    """The broker has taken it: the next order of the instrument may follow before that is recorded."""


@dataclass(frozen=True, slots=True)
class _Reservation:
    """What will be sent, and the id that the broker gives it beforehand, if it does."""

    ticket: Ticket
    order_id: str | None


class Trader:
    """Owns the conversation with one broker about one account."""

    def __init__(
        self,
        *,
        account_id: str,
        account_name: str,
        broker_name: str,
        create_broker: Callable[[], Broker],
        live_orders: LiveOrders,
        store: Store,
        clock: Clock,
        rules: TradingRules,
        nonce: str,
        raise_alarm: Callable[[str, str], Awaitable[None]],
        is_cancelled: Callable[[Order], Reason | None],
        look_for_cancels: Callable[[], Awaitable[None]],
        is_live: bool = True,
        holds_desk: Callable[[], bool] = lambda: True,
    ) -> None:
        """`holds_desk`: whether this process surely holds the account at this moment. Nothing new is begun at the broker otherwise."""
        self.account_id = account_id
        self.account_name = account_name
        self.broker_name = broker_name
        self._create_broker = create_broker
        self._live = live_orders
        self._store = store
        self._clock = clock
        self._rules = rules
        self._nonce = nonce
        self._raise_alarm = raise_alarm
        self._is_cancelled = is_cancelled
        self._look_for_cancels = look_for_cancels
        self._is_live = is_live
        self._holds_desk = holds_desk
        self._broker: Broker | None = None
        self._limits = Limits(
            order_timeout_seconds=rules.order_timeout_seconds, max_order_age_seconds=rules.max_order_age_seconds
        )
        self._capabilities = Capabilities()
        self.is_connected = False
        self.trouble = "not connected yet"
        self.is_login_needed = False
        """A person has to log in at the broker; `trouble` says how."""
        self._told_concern: str | None = None
        self._answered_at: float | None = None
        self._lost = asyncio.Event()
        self._wake = asyncio.Event()
        self._lanes: dict[str, Lane] = {}
        self._ready_exits: deque[Lane] = deque()
        self._ready_entries: deque[Lane] = deque()
        self._waiting: dict[str, LiveOrder] = {}
        """Exits whose entry has not ended, and legs whose signal's others have not come."""
        self._lanes_under_way = 0
        self._due: list[tuple[float, int, LiveOrder]] = []
        self._missed = 0
        """How many of these are not kept: the order has ended, or has an earlier one."""
        self._ticket = itertools.count()
        self._is_draining = False
        self._unusable_answers = 0
        self._check_wanted = False
        self._check_running = False
        self._check_pause_until = 0.0
        self._mark: int | None = None
        self._finished = Heard(FINISHED_REMEMBERED)
        """What the broker has said of orders that are not in hand."""
        self._exit_lock = asyncio.Lock()
        self._missing: dict[str, tuple[LiveOrder, Report]] = {}
        self._left_reserved: set[str] = set()
        """The broker's ids under which other processes, or earlier lives of this one, have perhaps sent."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_connected: Callable[[], None] = lambda: None
        """Called when a connection stands and everything of before it has been read."""
        self.on_ended: Callable[[Order, Report], None] = lambda order, report: None
        """Called with an ended order whose record has all that the report tells."""
        self.alongside: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """What runs for as long as the account is traded here."""

    # --- what others tell the trader ----------------------------------------------------------------------------

    def take(self, live: LiveOrder) -> None:
        """An unfinished order of this account, new or found in the store at start."""
        if live.order.status is Status.PENDING:
            self._enqueue(live)
        elif live.order.status is Status.SUBMITTING:
            self._lane_of(live.order).unresolved.add(live.order.order_id)
        if live.order.reserved_order_id is not None and live.order.status in (Status.SUBMITTING, Status.IN_DOUBT):
            self._left_reserved.add(live.order.reserved_order_id)
        for waiting in [each for each in self._waiting.values() if each.order.signal_id == live.order.signal_id]:
            self._look_at_waiting(waiting)
        self._schedule(live, 0.0)

    def look_again(self, live: LiveOrder) -> None:
        """The order was changed by somebody else's word (a fill, a resolution): step it now."""
        if live.order.status is Status.PENDING and live not in self._lane_of(live.order).orders:
            self._enqueue(live)
        self._schedule(live, 0.0)

    async def cancel(self, live: LiveOrder, reason: Reason, requested_by: str) -> None:
        """Records the wish; a PENDING order ends by it at once, any other is cancelled at the broker next."""

        await self._live.record(live, lambda order: cancel_wish(order, reason, requested_by, self._clock.now()))
        self._schedule(live, 0.0)

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. Working orders stay at the broker."""
        connection = self._spawn(self._stay_connected(), "connection")
        for work in self.alongside:
            self._spawn(work(), "alongside")
        try:
            while True:
                timeout = self._turn()
                await self._wait(timeout)
                if connection.done():
                    connection.result()
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._broker is not None:
                self._broker.on_hint(None)
                try:
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await self._broker.close()
                except Exception as exc:  # noqa: BLE001  it is the end all the same
                    log.warning(
                        f"Broker connection could not be closed: {str(exc) or type(exc).__name__}",
                        action="broker_close_failed",
                        account_id=self.account_id,
                    )
            self._broker, self.is_connected = None, False

    async def drain(self) -> None:
        """Sends nothing new and returns when no order is on its way to the broker any more."""
        self._is_draining = True
        while lanes := [task for task in self._tasks if task.get_name().endswith(LANE)]:
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _wait(self, timeout: float | None) -> None:
        """Until there is news, or something is due."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._wake.wait())]
        if timeout is not None:
            waits.append(asyncio.ensure_future(self._clock.sleep(timeout)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._wake.clear()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"{self.account_id}-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error(f"Step failed: {exc}", action="step_failed", account_id=self.account_id, exc_info=exc)
        self._wake.set()

    # --- connection ---------------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        while True:
            await self._connect()
            await self._lost.wait()

    async def _connect(self) -> None:
        self._lost.clear()
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Exception),
            wait=_pause_seconds,
            before_sleep=self._connection_failed,
            sleep=self._clock.sleep,
        )
        async for attempt in attempts:
            with attempt:
                if self._broker is None:
                    self._broker = self._create_broker()
                    self._broker.on_hint(self._hinted)
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._broker.connect()
                if not self._is_live and self._broker.capabilities.is_paper is False:
                    raise BrokerUnavailable(
                        "live = false, but the broker's account is a real one: nothing is sent to it"
                    )
                self._take_capabilities(self._broker)
                # Everything that happened while we were away is read before anything is sent.
                await self._check(whole=True)
        was_down = attempts.statistics.get("attempt_number", 1) > self._rules.max_retry_attempts
        was_down = was_down or self.is_login_needed
        self.is_connected, self.trouble, self.is_login_needed = True, "", False
        log.info(
            f"Broker connected: {self.broker_name} for account {self.account_id}",
            action="broker_connected",
            account_id=self.account_id,
        )
        if was_down:
            await self._raise_alarm(
                f"broker_up:{self.account_id}",
                alerts.broker_up(account_name=self.account_name, broker=self.broker_name),
            )
        await self._tell_of_concern()
        self.on_connected()
        self._wake.set()

    async def _tell_of_concern(self) -> None:
        """Once for as long as each session has the same."""
        concern, told = self._capabilities.concern, self._told_concern
        self._told_concern = concern
        if concern is not None and concern != told:
            words = alerts.session_concern(account_name=self.account_name, broker=self.broker_name, concern=concern)
            await self._raise_alarm(f"session_concern:{self.account_id}", words)

    async def _connection_failed(self, state: tenacity.RetryCallState) -> None:
        exc = state.outcome.exception() if state.outcome is not None else None
        self.trouble = str(exc) or type(exc).__name__
        if isinstance(exc, StoreUnavailable):
            return  # the broker is there; what it told waits to be recorded
        needed_before, self.is_login_needed = self.is_login_needed, isinstance(exc, AuthRequired)
        if self.is_login_needed and not needed_before:
            words = alerts.auth_required(account_name=self.account_name, broker=self.broker_name, reason=self.trouble)
            await self._raise_alarm(f"auth_required:{self.account_id}", words)
        number = state.attempt_number
        if number <= self._rules.max_retry_attempts or number % 20 == 0:
            log.warning(
                f"Broker connection failed (attempt {number}): {self.trouble}",
                action="broker_connection_failed",
                account_id=self.account_id,
            )
        if number == self._rules.max_retry_attempts and not self.is_login_needed:
            words = alerts.broker_down(account_name=self.account_name, broker=self.broker_name, reason=self.trouble)
            await self._raise_alarm(f"broker_down:{self.account_id}", words)
        is_pause = isinstance(exc, BrokerUnavailable) and exc.known_pause
        if number >= self._rules.max_retry_attempts and not is_pause:
            await self._reject_pending(f"no connection after {number} attempts: {self.trouble}")

    async def _reject_pending(self, message: str) -> None:
        def reject(order: Order) -> Sequence[Event]:
            if order.status is not Status.PENDING:
                return ()
            return (Rejected(at=self._clock.now(), reason=Reason(ReasonCode.BROKER_UNAVAILABLE, message)),)

        pending = [live for lane in self._lanes.values() for live in lane.orders]
        await asyncio.gather(*(self._live.record(live, reject) for live in pending))

    def _take_capabilities(self, broker: Broker) -> None:
        self.broker_name = broker.name
        self._capabilities = broker.capabilities
        self._limits = replace(
            self._limits,
            find_window_seconds=self._capabilities.find_window_seconds,
            send_again_seconds=self._capabilities.send_again_seconds,
            refuses_repeated_client_id=self._capabilities.refuses_repeated_client_id,
            poll_seconds=self._capabilities.poll_seconds,
        )

    @property
    def state(self) -> AccountState:
        """How the account stands with its broker now."""
        if self.is_connected:
            return AccountState.CONNECTED
        return AccountState.AUTH_REQUIRED if self.is_login_needed else AccountState.UNAVAILABLE

    def _lose_connection(self, why: Exception) -> None:
        if self.is_connected:
            self.is_connected, self.trouble = False, str(why)
            log.warning(f"Broker connection lost: {why}", action="broker_connection_lost", account_id=self.account_id)
            self._lost.set()

    def _hinted(self) -> None:
        self._check_wanted = True
        self._wake.set()

    # --- the turn -----------------------------------------------------------------------------------------------

    def _turn(self) -> float | None:
        """Starts whatever is due and can be started; returns the seconds until something is due next. Waits for nothing."""
        if not self._holds_desk():
            return LEASE_PAUSE_SECONDS
        now = self._clock.monotonic()
        while self._due and self._due[0][0] <= now:
            due_at, _, live = heapq.heappop(self._due)
            if live.due_at != due_at:
                self._missed -= 1
                continue
            live.due_at = None
            if not live.is_busy:  # else whoever is busy with it looks at it again at the end
                self._step(live, now)
        if self.is_connected:
            if self._answered_at is None or now >= self._answered_at + IDLE_CHECK_SECONDS:
                self._check_wanted = True
            if self._check_wanted and not self._check_running and now >= self._check_pause_until:
                self._spawn(self._check_once(), "check")
            if not self._is_draining:
                self._start_lanes()
        moments = [self._due[0][0]] if self._due else []
        if self.is_connected and not self._check_running:
            if self._check_wanted:
                moments.append(self._check_pause_until)
            if self._answered_at is not None:
                moments.append(max(self._check_pause_until, self._answered_at + IDLE_CHECK_SECONDS))
        return max(0.0, min(moments) - now) if moments else None

    def _step(self, live: LiveOrder, now: float) -> None:
        if live.order.status.is_final:
            self._settle(live)  # it ended by somebody else's word, and others may wait for that
            return
        if live.not_before > now:
            self._schedule(live, live.not_before - now)
            return
        if self._is_unanswered(live, now):
            live.is_silence_told = True
            words = (
                f"perhaps sent {now - (live.sent_at or now):.0f} s ago, and the broker cannot be asked; it may be alive"
            )
            note = Noted(at=self._clock.now(), message=words, alert=True)
            self._spawn_step(live, lambda: self._record(live, (note,)))
            return
        elapsed = self._elapsed(live, now)
        is_useless = live.is_passed_over or live.is_taken  # to send it again
        limits = replace(self._limits, refuses_repeated_client_id=False) if is_useless else self._limits
        step = next_step(live.order, self._clock.now(), elapsed, limits, refusal=live.refusal)
        match step.kind:
            case StepKind.SUBMIT:
                limit = self._limits.max_order_age_seconds
                if live.order.order_id in self._waiting:
                    # What it waits for may have happened where nobody here hears of it: refused at the door, or worked by another process.
                    self._look_at_waiting(live)
                    self._schedule(live, WAITING_SECONDS)
                elif limit:
                    self._schedule(live, max(0.1, limit - (now - live.age_from) + 0.001))
            case StepKind.RECORD if live.order.status is Status.PENDING:
                self._spawn_step(live, lambda: self._end_unsent(live))
            case StepKind.RECORD:
                self._spawn_step(live, lambda: self._record(live, step.events))
            case StepKind.NONE:
                if step.wait_seconds is not None:
                    # What is left of a pause may be too little for a float to add to the time.
                    self._schedule(live, max(step.wait_seconds, LEAST_WAIT_SECONDS))
            case _ if not self.is_connected:
                self._schedule(live, 1.0)
            case StepKind.CHECK:
                self._check_wanted = True
                self._schedule(live, 1.0 if self._check_running else 0.1)
            case StepKind.FIND:
                self._spawn_step(live, lambda: self._find(live))
            case StepKind.CANCEL:
                self._spawn_step(live, lambda: self._send_cancel(live))
            case StepKind.SUBMIT_AGAIN:
                self._spawn_step(live, lambda: self._send_again(live))

    def _is_unanswered(self, live: LiveOrder, now: float) -> bool:
        """An order that was perhaps sent and could not be looked for since, long enough that people must know."""
        is_open = live.order.status is Status.SUBMITTING and live.finding_from is None and live.sent_at is not None
        limit = max(SILENCE_ALERT_SECONDS, self._limits.find_window_seconds)
        return is_open and not live.is_silence_told and now - (live.sent_at or now) > limit

    def _elapsed(self, live: LiveOrder, now: float) -> Elapsed:
        """With the last answer about all orders counted as an answer about this one, if it was sent before that was asked."""
        elapsed = live.elapsed(now)
        is_working = live.order.status in (Status.SUBMITTED, Status.PARTIALLY_FILLED)
        if (
            is_working
            and self._answered_at is not None
            and live.sent_at is not None
            and live.sent_at < self._answered_at
        ):
            since = now - self._answered_at
            return replace(elapsed, asked=since if elapsed.asked is None else min(since, elapsed.asked))
        return elapsed

    def _spawn_step(self, live: LiveOrder, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        live.is_busy = True

        async def step() -> None:
            try:
                await work()
            except Exception:
                live.not_before = self._clock.monotonic() + AFTER_FAILURE_SECONDS
                raise
            finally:
                live.is_busy = False
                self._settle(live)

        self._spawn(step(), live.order.order_id)

    def _schedule(self, live: LiveOrder, wait_seconds: float) -> None:
        due_at = self._clock.monotonic() + wait_seconds
        if live.due_at is None or due_at < live.due_at:
            self._miss(live)
            live.due_at = due_at
            heapq.heappush(self._due, (due_at, next(self._ticket), live))
            self._wake.set()

    def _miss(self, live: LiveOrder) -> None:
        """The appointment with the order is off. Left in the heap until its time, it would keep every order of the last minutes in memory."""
        if live.due_at is None:
            return
        live.due_at = None
        self._missed += 1
        if self._missed > max(KEPT_APPOINTMENTS, len(self._due) // 2):
            self._due = [entry for entry in self._due if entry[2].due_at == entry[0]]
            heapq.heapify(self._due)
            self._missed = 0

    async def _record(self, live: LiveOrder, events: Iterable[Event]) -> None:
        """Records events that follow from the order as it was; if it has changed meanwhile, nothing, and the next step decides anew."""
        decided_for = live.order

        def unless_changed(order: Order) -> Sequence[Event]:
            return tuple(events) if order is decided_for else ()

        await self._live.record(live, unless_changed)

    # --- submitting ---------------------------------------------------------------------------------------------

    def _lane_of(self, order: Order) -> Lane:
        key = order.accepted_request.instrument.key
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane()
        return lane

    def _enqueue(self, live: LiveOrder) -> None:
        lane = self._lane_of(live.order)
        lane.orders.append(live)
        self._make_ready(lane)

    def _make_ready(self, lane: Lane) -> None:
        if lane.is_queued or lane.is_busy or lane.unresolved or not lane.orders:
            return
        lane.is_queued = True
        pause = lane.not_before - self._clock.monotonic()
        if pause > 0:
            self._spawn(self._queue_lane_later(lane, pause), "pause")
        else:
            self._queue_lane(lane)

    async def _queue_lane_later(self, lane: Lane, pause_seconds: float) -> None:
        await self._clock.sleep(pause_seconds)
        self._queue_lane(lane)

    def _queue_lane(self, lane: Lane) -> None:
        if not lane.orders:
            lane.is_queued = False
            return
        is_exit = lane.orders[0].order.identity.purpose is Purpose.EXIT
        (self._ready_exits if is_exit else self._ready_entries).append(lane)
        self._wake.set()

    def _is_earlier_id_awaited(self) -> bool:
        """An order that was perhaps sent under an id that the broker gave beforehand may have to leave again under it, which it can no more
        once a later id has left."""
        return self._capabilities.needs_reservation and any(
            self._may_leave_again(order_id) for lane in self._lanes.values() for order_id in lane.unresolved
        )

    def _may_leave_again(self, order_id: str) -> bool:
        live = self._live.by_id.get(order_id)
        if live is None or live.order.status is not Status.SUBMITTING or live.order.reserved_order_id is None:
            return False
        is_refused = live.is_passed_over or live.refusal is not None
        is_settled = live.is_taken or is_refused or live.unclear_resendings >= RESENDINGS_WAITED_FOR
        is_wanted = live.order.cancel_wish is None and not is_stale(live.elapsed(self._clock.monotonic()), self._limits)
        return is_wanted and not is_settled

    def _start_lanes(self) -> None:
        if (self._ready_exits or self._ready_entries) and self._is_earlier_id_awaited():
            return
        while self._lanes_under_way < self._capabilities.concurrent_calls and (
            self._ready_exits or self._ready_entries
        ):
            lane = (self._ready_exits or self._ready_entries).popleft()
            lane.is_queued = False
            if lane.is_busy or lane.unresolved:
                continue
            # Where the broker does not itself refuse a repeated id, each order whose sending was begun and not finished when we die
            # is in doubt; and where it gives the ids beforehand, one that a later one has passed over can never be sent again. There the
            # intent is written one by one.
            batch = _next_batch(lane, LANE_BATCH if self._can_go_together else 1)
            if batch:
                lane.is_busy = True
                self._lanes_under_way += 1
                self._spawn(self._run_lane(lane, batch), LANE)

    @property
    def _can_go_together(self) -> bool:
        return self._limits.refuses_repeated_client_id and not self._capabilities.needs_reservation

    async def _run_lane(self, lane: Lane, batch: Sequence[LiveOrder]) -> None:
        answers: Sequence[asyncio.Task[None]] = ()
        try:
            answers = await self._submit(lane, batch)
        finally:
            lane.is_busy = False
            self._lanes_under_way -= 1
            if answers:
                self._spawn(self._record_answers(lane, batch, answers), f"answers-{LANE}")
            else:
                self._end_batch(lane, batch)
            self._make_ready(lane)

    async def _record_answers(
        self, lane: Lane, batch: Sequence[LiveOrder], answers: Sequence[asyncio.Task[None]]
    ) -> None:
        try:
            await asyncio.gather(*answers)
        finally:
            self._end_batch(lane, batch)

    def _end_batch(self, lane: Lane, batch: Sequence[LiveOrder]) -> None:
        for live in reversed(batch):
            live.is_busy = False
            if live.order.status is Status.PENDING and live.order.order_id not in self._waiting:
                lane.orders.appendleft(live)
        for live in batch:
            self._settle(live)

    async def _submit(self, lane: Lane, batch: Sequence[LiveOrder]) -> Sequence[asyncio.Task[None]]:
        """Writes down the intent for all, hands them over one after the other, and writes down the answers as they come. Returns the
        writing that is still going on where the lane need not wait for it."""
        await self._look_for_cancels()
        rested_until = lane.not_before
        now = self._clock.now()  # one moment for all, so that the store can write their intents as one statement
        intents = await asyncio.gather(*(self._intend(live, now) for live in batch), return_exceptions=True)
        answers: list[asyncio.Task[None]] = []
        clear: list[bool] = []
        is_clear = False
        try:
            for live, is_leaving in zip(batch, intents, strict=True):
                if is_leaving is True and (lane.unresolved or lane.not_before != rested_until):
                    why = "is being looked for" if lane.unresolved else "has to wait"
                    held = self._nothing_was_sent(live, f"the order before it {why}", counts=False)
                    answers.append(asyncio.create_task(held))
                elif is_leaving is True:
                    handed = await self._place(live)
                    answers.append(asyncio.create_task(handed.recording))
                    clear.append(handed.is_clear)
            is_clear = self._can_go_together and len(clear) == len(batch) and all(clear)
        except asyncio.CancelledError:
            for answer in answers:
                answer.cancel()  # the store may be away; what is not recorded now is asked for by whoever works the order next
            raise
        finally:
            if not is_clear:
                await asyncio.gather(*answers)
        failures = [failure for failure in intents if isinstance(failure, BaseException)]
        if failures:
            # Those orders are PENDING as before; the others of the batch have gone their way.
            log.warning(f"Orders not sent yet: {failures[0]}", action="sending_waits", account_id=self.account_id)
            await self._clock.sleep(AFTER_FAILURE_SECONDS)
        return answers if is_clear else ()

    async def _intend(self, live: LiveOrder, now: datetime) -> bool:
        """The last look before the order leaves, and the record that it is about to; False if it does not leave."""
        if live.order.identity.purpose is Purpose.EXIT:
            # Two exits of one entry must not both count on what is left of it.
            async with self._exit_lock:
                return await self._write_intent(live, now)
        return await self._write_intent(live, now)

    async def _write_intent(self, live: LiveOrder, now: datetime) -> bool:
        wish = live.order.cancel_wish
        first = await self._last_look(live)
        if first is None:
            return False
        ends = bool(first) and not isinstance(first[-1], Capped | InstrumentMatched | Noted)
        if not ends:
            reserved = None
            if self._capabilities.needs_reservation:
                reservation = await self._reserve(live, apply_all(live.order, first))
                if reservation is None:
                    return False
                first = (*first, *fitting(apply_all(live.order, first), reservation.ticket, now))
                reserved = reservation.order_id
            first = (*first, SubmitStarted(at=now, nonce=self._nonce, reserved_order_id=reserved))

        def start(order: Order) -> Sequence[Event]:
            return first if order.status is Status.PENDING and order.cancel_wish == wish else ()

        # What is known of an attempt before this one does not hold for it.
        live.is_taken, live.is_passed_over, live.unclear_resendings = False, False, 0
        return bool(await self._live.record(live, start)) and not ends

    async def _reserve(self, live: LiveOrder, order: Order) -> _Reservation | None:
        """None: as far as the broker is concerned, the order may not leave now, or never."""
        assert self._broker is not None
        try:
            ticket = await self._ask(self._broker.fitted(order.ticket()), QUERY_SECONDS)
            reserving = self._broker.reserve(ticket, taken=self._left_reserved)
            return _Reservation(ticket, await self._ask(reserving, QUERY_SECONDS))
        except OrderRefused as exc:
            await self._record(live, (Rejected(at=self._clock.now(), reason=_reason_of(exc)),))
        except (BrokerError, TimeoutError) as exc:
            self._preparation_failed(live, exc)
        return None

    def _preparation_failed(self, live: LiveOrder, exc: Exception) -> None:
        """Nothing was sent; the lane waits, and a question that got no answer says nothing about the connection."""
        if isinstance(exc, HeldBack):
            self._rest(live.order, exc)
            return
        if not isinstance(exc, NotAnswered):
            self._lose_connection(exc)
        self._slow_down(live.order)
        if not (isinstance(exc, BrokerUnavailable) and exc.known_pause):
            live.sending_failures += 1
            live.last_failure = str(exc) or type(exc).__name__

    def _slow_down(self, order: Order) -> None:
        """The lane makes a pause, longer each time."""
        lane = self._lane_of(order)
        lane.failures += 1
        lane.not_before = self._clock.monotonic() + min(LONGEST_PAUSE_SECONDS, 0.25 * 2**lane.failures)

    def _rest(self, order: Order, held: HeldBack) -> None:
        """The lane goes on when its orders may leave again; the connection is as good as before."""
        lane = self._lane_of(order)
        pause = max(LEAST_WAIT_SECONDS, min(held.wait_seconds, LONGEST_REST_SECONDS))
        lane.not_before = self._clock.monotonic() + pause
        if not isinstance(held, CallsSpent) and not lane.is_hold_told:
            lane.is_hold_told = True
            words = alerts.orders_held(account_name=self.account_name, broker=self.broker_name, reason=str(held))
            self._spawn(self._raise_held(words), "held")

    async def _raise_held(self, words: str) -> None:
        await self._raise_alarm(f"orders_held:{self.account_id}", words)

    async def _last_look(self, live: LiveOrder) -> tuple[Event, ...] | None:
        """What must be recorded before the order is sent: nothing, a reduction, or its end. None: it has to
        wait, for its entry, the other legs of its signal, or the broker."""
        order, now = live.order, self._clock.now()
        if order.cancel_wish is not None:
            return (Cancelled(at=now, reason=order.cancel_wish, filled_quantity=order.filled_quantity),)
        cancelled = self._is_cancelled(order)
        if cancelled is not None:
            return (CancelRequested(at=now, reason=cancelled, requested_by="order-commands"),)
        unsupported = unsupported_reason(order, self._capabilities, self.broker_name)
        if unsupported is not None:
            return (Rejected(at=now, reason=Reason(ReasonCode.UNSUPPORTED_ORDER, unsupported)),)
        if live.sending_failures >= self._rules.max_retry_attempts:
            why = f": {live.last_failure}" if live.last_failure else ""
            words = f"the broker could not be reached in {live.sending_failures} attempts; nothing was sent{why}"
            return (Rejected(at=now, reason=Reason(ReasonCode.BROKER_UNAVAILABLE, words)),)
        if order.identity.purpose is Purpose.ENTRY and order.accepted_request.total_legs > 1:
            refusal = await self._refused_for_its_legs(live)
            if refusal is None or refusal:
                return refusal
        first: tuple[Event, ...] = ()
        if order.identity.purpose is Purpose.EXIT and order.accepted_request.entry_refs:
            # Waiting from before the question on: the entry may end while the store is being asked.
            self._waiting[order.order_id] = live
            allowed = await self._allowed_exit(live)
            if allowed is None:
                return None
            self._waiting.pop(order.order_id, None)
            if allowed.events and isinstance(allowed.events[-1], Rejected):
                return allowed.events
            first = allowed.events
            if allowed.is_unbound and not await self._reduces_position(order):
                words = "the entry that it names is not ours, and it reduces nothing that we hold; sent as it is"
                first = (*first, Noted(at=now, message=words, alert=True))
        elapsed = live.elapsed(self._clock.monotonic())
        if is_stale(elapsed, self._limits):
            if not await self._reduces_position(apply_all(order, first)):
                return (stale(elapsed, self._limits, now),)
            words = (
                f"late exit executed: first published {elapsed.age:.0f} s ago, and it reduces a position that we hold"
            )
            first = (*first, Noted(at=now, message=words, alert=True))
            live.is_late_allowed = True
        return first

    async def _refused_for_its_legs(self, live: LiveOrder) -> tuple[Event, ...] | None:
        """The rejection of a leg that would stand alone; nothing if it may leave; None: it has to wait for the others."""
        order = live.order
        # Waiting from before the question on: another leg may come while the store is being asked.
        self._waiting[order.order_id] = live
        legs = [self._latest(s) for s in await self._store.find([f"signal:{order.signal_id}"])]
        reason = refusing_leg(order, legs, self._capabilities, self.broker_name)
        missing = missing_legs(order, legs) if not self._capabilities.splits_option_combinations else []
        if reason is None and missing:
            if self._clock.monotonic() - live.known_from < UNKNOWN_LEG_SECONDS:
                return None
            numbers = ", ".join(str(number) for number in missing)
            words = f"of {order.request.total_legs} legs these have not come: {numbers}; none is placed alone"
            reason = Reason(ReasonCode.UNSUPPORTED_ORDER, words)
        self._waiting.pop(order.order_id, None)
        try:
            reason = reason or await self._unfitting_leg(order, legs)
        except (BrokerError, TimeoutError) as exc:
            self._preparation_failed(live, exc)
            return None
        return () if reason is None else (Rejected(at=self._clock.now(), reason=reason),)

    async def _unfitting_leg(self, order: Order, legs: Sequence[Order]) -> Reason | None:
        """Why the market will not take a leg that is still to be sent. Raises BrokerError, TimeoutError where it does not tell."""
        assert self._broker is not None
        for leg in pending_legs(order, legs) if self._capabilities.needs_reservation else []:
            try:
                await self._ask(self._broker.fitted(leg.ticket()), QUERY_SECONDS)
            except OrderRefused as exc:
                return about_leg(leg, _reason_of(exc))
        return None

    async def _place(self, live: LiveOrder, *, again: bool = False) -> _Handed:
        """Hands the order over. With `again` it may have left before: then neither that nothing was sent now nor a refusal proves
        anything."""
        order, broker = live.order, self._broker
        if not self._holds_desk():
            # This process was frozen, or the store away, since the intent was written. Whoever took the account over is looking for the
            # order at the broker by now, and must not be contradicted.
            return _Handed(self._was_overtaken(live), is_clear=False)
        # The store may have been away while the intent was being written.
        is_late = not live.is_late_allowed and is_stale(live.elapsed(self._clock.monotonic()), self._limits)
        if broker is None or not self.is_connected or order.cancel_wish is not None or is_late:
            held = self._nothing_was_sent(live, "held back before it left", counts=False, again=again)
            return _Handed(held, is_clear=False)
        try:
            report = await self._ask(broker.place_order(order.ticket()), PLACE_SECONDS)
        except HeldBack as exc:
            self._rest(order, exc)
            live.unclear_resendings += again
            return _Handed(self._nothing_was_sent(live, str(exc), counts=False, again=again), is_clear=False)
        except BrokerUnavailable as exc:
            self._lose_connection(exc)
            self._slow_down(order)
            unsent = self._nothing_was_sent(live, str(exc), counts=not exc.known_pause, again=again, sent=order)
            return _Handed(unsent, is_clear=False)
        except NotAnswered as exc:
            self._slow_down(order)
            live.unclear_resendings += again
            unsent = self._nothing_was_sent(live, str(exc), counts=True, again=again, sent=order)
            return _Handed(unsent, is_clear=False)
        except ReservationLost as exc:
            if again:
                return _Handed(self._was_passed_over(live, exc), is_clear=False)
            return _Handed(self._nothing_was_sent(live, str(exc), counts=True, sent=order), is_clear=False)
        except OrderRefused as exc:
            if again:
                return _Handed(self._was_refused_again(live, order, exc), is_clear=False)
            return _Handed(self._was_refused(live, order, exc), is_clear=False)
        except Exception as exc:  # noqa: BLE001  whatever it was, the order may have left
            live.finding_from = live.asked_at = None
            live.unclear_resendings += again
            live.is_taken = live.is_taken or isinstance(exc, OrderAlreadyExists)
            self._lane_of(order).unresolved.add(order.order_id)
            return _Handed(self._is_unclear(live, exc), is_clear=False)
        return _Handed(self._learn_placed(live, report), is_clear=True)

    async def _learn_placed(self, live: LiveOrder, report: Report) -> None:
        lane = self._lane_of(live.order)
        lane.failures, lane.is_hold_told = 0, False
        await self.learn(live, report)

    async def _was_passed_over(self, live: LiveOrder, lost: ReservationLost) -> None:
        """It cannot be told whether it had arrived before: that nobody shows it is looked at for the whole window, and then in doubt."""
        live.is_passed_over = True
        words = f"cannot be sent again under its id, and is only looked for: {lost}"

        def note(order: Order) -> Sequence[Event]:
            return (Noted(at=self._clock.now(), message=words),) if order.status is Status.SUBMITTING else ()

        await self._live.record(live, note)

    async def _was_overtaken(self, live: LiveOrder) -> None:
        log.warning(
            "Held back: the lease of the account has run out; the order is looked for at the broker before anything is sent",
            action="held_back",
            signal_id=live.order.signal_id,
        )

    async def _nothing_was_sent(
        self, live: LiveOrder, message: str, *, counts: bool, again: bool = False, sent: Order | None = None
    ) -> None:
        if again:
            live.finding_from = live.asked_at = None
            return
        if counts:
            live.sending_failures += 1
            live.last_failure = message

        def nothing(order: Order) -> Sequence[Event]:
            if order.status is not Status.SUBMITTING or (sent is not None and _is_worked_elsewhere(order, sent)):
                return ()
            return (NothingSent(at=self._clock.now(), message=message),)

        await self._live.record(live, nothing)

    async def _was_refused(self, live: LiveOrder, sent: Order, refusal: OrderRefused) -> None:
        def refuse(order: Order) -> Sequence[Event]:
            if order.status is not Status.SUBMITTING or _is_worked_elsewhere(order, sent):
                return ()
            return (Rejected(at=self._clock.now(), reason=_reason_of(refusal)),)

        await self._live.record(live, refuse)

    async def _was_refused_again(self, live: LiveOrder, sent: Order, refusal: OrderRefused) -> None:
        """The broker may refuse the repetition because the first sending arrived: the order is looked for before this is its end."""
        live.finding_from = live.asked_at = None
        words = f"refused when it was sent again, and looked for once more, since it may have arrived before: {refusal.reason}"

        def note(order: Order) -> Sequence[Event]:
            if order.status is not Status.SUBMITTING or _is_worked_elsewhere(order, sent):
                return ()
            live.refusal = _reason_of(refusal)
            return () if was_noted(order, words) else (Noted(at=self._clock.now(), message=words),)

        await self._live.record(live, note)

    async def _is_unclear(self, live: LiveOrder, exc: Exception) -> None:
        if not isinstance(exc, OrderAlreadyExists | OutcomeUnknown | TimeoutError):
            log.error(
                f"Unexpected error of the broker: {exc}",
                action="broker_error",
                signal_id=live.order.signal_id,
                exc_info=exc,
            )
        words = f"no clear answer, looking for the order at the broker: {str(exc) or type(exc).__name__}"

        def note(order: Order) -> Sequence[Event]:
            return (Noted(at=self._clock.now(), message=words),) if order.status is Status.SUBMITTING else ()

        await self._live.record(live, note)

    async def _send_again(self, live: LiveOrder) -> None:
        if not self._holds_desk():
            return
        live.resendings += 1
        live.not_before = self._clock.monotonic() + min(LONGEST_PAUSE_SECONDS, 0.25 * 2**live.resendings)
        words = "not found at the broker; sent again under the same id, which the broker takes only once"
        is_odd = live.resendings == RESENDINGS_ALERT

        def note(order: Order) -> Sequence[Event]:
            if order.status is not Status.SUBMITTING or order.cancel_wish is not None:
                return ()
            return (Noted(at=self._clock.now(), message=words, alert=is_odd),)

        if await self._live.record(live, note):
            live.sent_at = self._clock.monotonic()
            await (await self._place(live, again=True)).recording

    # --- exits --------------------------------------------------------------------------------------------------

    async def _allowed_exit(self, live: LiveOrder) -> ExitAllowance | None:
        """What an exit may take of its entry. None: the entry is not finished, or has not come yet."""
        order = live.order
        known_for = self._clock.monotonic() - live.known_from
        refs = order.accepted_request.entry_refs
        exits = await self._store.find([f"exit_of:{ref}" for ref in refs])
        entries = await self._store.find([f"signal:{ref}" for ref in refs])
        return exit_allowance(
            order,
            [self._latest(s) for s in entries],
            [self._latest(s) for s in exits],
            self._clock.now(),
            may_entry_come=known_for < UNKNOWN_ENTRY_SECONDS,
        )

    def _latest(self, stored: Stored) -> Order:
        live = self._live.by_id.get(stored.order.order_id)
        return stored.order if live is None or live.order.version < stored.order.version else live.order

    async def _reduces_position(self, order: Order) -> bool:
        if order.identity.purpose is not Purpose.EXIT:
            return False
        held = await self._held(order)
        is_other_way = held * order.accepted_request.side.sign < 0
        return is_other_way and (order.quantity or Decimal(0)) <= abs(held)

    async def _held(self, order: Order) -> Decimal:
        """The position that the order would change, with the fills that are recorded and not booked yet; negative: short."""
        key = key_of(order)
        entry = (await self._store.ledgers([key])).get(key)
        entry = entry or LedgerEntry(key=key, instrument=order.accepted_request.instrument)
        recorded = [
            (live.order, happenings(live.order, live.told.world), live.told.lines)
            for live in self._live.by_id.values()
            if live.order.fills and key_of(live.order) == key
        ]
        return with_unbooked(entry, recorded).position.quantity

    async def _end_unsent(self, live: LiveOrder) -> None:
        """A pending order that has become too old, or whose cancellation was asked while it was being sent."""
        order = live.order
        if order.cancel_wish is None and await self._may_be_late(order):
            live.not_before = self._clock.monotonic() + LATE_EXIT_SECONDS
            return
        self._waiting.pop(order.order_id, None)
        elapsed = live.elapsed(self._clock.monotonic())
        await self._record(live, next_step(order, self._clock.now(), elapsed, self._limits).events)

    async def _may_be_late(self, order: Order) -> bool:
        """An exit that reduces what we hold, or may turn out to. One that names its entry will be capped to that, so any holding will do."""
        if order.identity.purpose is not Purpose.EXIT:
            return False
        if order.accepted_request.entry_refs:
            entries = await self._store.find([f"signal:{ref}" for ref in order.accepted_request.entry_refs])
            order = as_its_entry_says(order, [s.order for s in entries], self._clock.now())
        request = order.accepted_request
        held = await self._held(order) * request.side.sign
        if held >= 0:
            # Nothing to reduce, unless the broker, who cannot be asked now, has filled what is at work.
            return not self.is_connected and any(
                live.order.status in AT_WORK
                and key_of(live.order) == key_of(order)
                and live.order.accepted_request.side is request.side.opposite
                for live in self._live.by_id.values()
            )
        is_capped = bool(request.entry_refs)
        return is_capped or (order.quantity or Decimal(0)) <= abs(held)

    def _look_at_waiting(self, live: LiveOrder) -> None:
        if self._waiting.pop(live.order.order_id, None) is not None:
            self._enqueue(live)

    def _settle(self, live: LiveOrder) -> None:
        """After any step: the lane goes on if this order held it up, and exits that waited for it are looked at again."""
        order = live.order
        lane = self._lane_of(order)
        if order.status is Status.SUBMITTING:
            if not live.is_busy:
                lane.unresolved.add(order.order_id)
        else:
            lane.unresolved.discard(order.order_id)
        if order.status.is_final:
            self._miss(live)
            self._waiting.pop(order.order_id, None)
            instrument = order.accepted_request.instrument
            for waiting in tuple(self._waiting.values()):
                is_leg = waiting.order.signal_id == order.signal_id
                if is_leg or waiting.order.accepted_request.instrument.could_be(instrument):
                    self._look_at_waiting(waiting)
            if not (lane.orders or lane.is_busy or lane.unresolved or lane.is_queued):
                self._lanes.pop(order.accepted_request.instrument.key, None)
        else:
            self._schedule(live, WAITING_SECONDS if order.order_id in self._waiting else 0.02)
        self._make_ready(lane)

    # --- finding, checking, cancelling --------------------------------------------------------------------------

    async def _find(self, live: LiveOrder) -> None:
        assert self._broker is not None
        try:
            for client_order_id in live.order.client_order_ids:
                report = await self._ask(self._broker.find(client_order_id), QUERY_SECONDS)
                if report is not None:
                    await self.learn(live, report)
        except (BrokerError, TimeoutError) as exc:
            self._query_failed(exc)
            live.not_before = self._clock.monotonic() + AFTER_FAILURE_SECONDS
            if not isinstance(exc, AnswerUnclear) or self._limits.refuses_repeated_client_id:
                return
            # An odd row may stay for the whole day. Where nothing is sent again, it leads to doubt like no answer at all, and whatever waits
            # for the order goes on.
        live.asked_at = self._clock.monotonic()
        if live.finding_from is None:
            live.finding_from = live.asked_at

    async def _send_cancel(self, live: LiveOrder) -> None:
        assert self._broker is not None
        if not self._holds_desk():
            return
        live.cancel_sent_at = self._clock.monotonic()
        live.cancels_sent += 1
        ref = OrderRef(client_order_id=live.order.client_order_id, broker_order_id=live.order.broker_order_id)
        said: tuple[Event, ...] = ()
        try:
            await self._ask(self._broker.cancel_order(ref), QUERY_SECONDS)
        except OrderRefused as exc:
            if live.cancels_sent <= CANCEL_ALERT_AFTER:
                said = (CancelRefused(at=self._clock.now(), message=exc.reason),)
        except (BrokerError, TimeoutError) as exc:
            self._query_failed(exc)
        if live.cancels_sent == CANCEL_ALERT_AFTER:
            words = (
                f"cancellation asked {live.cancels_sent} times and not confirmed by the broker; the order may be alive"
            )
            said = (*said, Noted(at=self._clock.now(), message=words, alert=True))

        def note(order: Order) -> Sequence[Event]:
            return said if order.status in (Status.SUBMITTED, Status.PARTIALLY_FILLED) else ()

        await self._live.record(live, note)
        self._check_wanted = True

    async def _check_once(self) -> None:
        try:
            await self._check()
        except (BrokerError, TimeoutError, StoreUnavailable) as exc:
            # A failed question changes no order's state; it is asked again.
            self._query_failed(exc)
        except Exception as exc:
            log.exception(
                f"What the broker says of the orders could not be taken in: {exc}",
                action="check_failed",
                account_id=self.account_id,
            )
            self._query_failed(exc)
        else:
            return
        self._check_wanted = True
        self._check_pause_until = self._clock.monotonic() + AFTER_FAILURE_SECONDS

    async def _check(
        self, *, whole: bool = False, heed: Callable[[Sequence[Report]], Awaitable[None]] | None = None
    ) -> None:
        """One question answers all orders; what is new is recorded, for finished orders too. `whole`: what was told before is told
        again, too. An answer that comes in parts is heard part by part, and so is it `heed`ed."""
        assert self._broker is not None
        self._check_running, self._check_wanted = True, False
        asked_at = self._clock.monotonic()
        try:
            since, goes_on, is_recorded = None if whole else self._mark, True, True
            while goes_on:
                answer = await self._ask(self._broker.reports(since), QUERY_SECONDS)
                since, goes_on = answer.mark, answer.goes_on
                is_recorded = await self._hear_all(answer.reports) and is_recorded
                self._unusable_answers = 0
                if heed is not None:
                    await heed(answer.reports)
            self._answered_at = asked_at
            if is_recorded:
                self._mark = since
            await self._tell_of_missing_fills()
        finally:
            self._check_running = False

    async def _hear_all(self, reports: Sequence[Report]) -> bool:
        """False: not everything could be recorded. The mark must stay, so that it is told again; other orders are not held up by it."""
        # Found at once: an order may be let out of hand while others are recorded, and its report would be lost.
        known = {r.client_order_id: live for r in reports if (live := self._live.by_client_id.get(r.client_order_id))}
        # Two accounts of ours may be one at the broker: each hears of its own orders only, or both would step them.
        own = {tag: live for tag, live in known.items() if live.order.request.account_id == self.account_id}
        in_hand = [(own[r.client_order_id], r) for r in reports if r.client_order_id in own]
        heard = await asyncio.gather(*(self._hear(live, r) for live, r in in_hand), return_exceptions=True)
        await self._hear_of_finished([r for r in reports if r.client_order_id and r.client_order_id not in known])
        failures = [failure for failure in heard if isinstance(failure, BaseException)]
        for failure in failures:
            log.error(
                f"A report could not be recorded: {failure}",
                action="report_failed",
                account_id=self.account_id,
                exc_info=failure,
            )
        return not failures

    # --- for the reconciliation ---------------------------------------------------------------------------------

    async def read_book(
        self, *, whole: bool, heed: Callable[[Sequence[Report]], Awaitable[None]] | None = None
    ) -> None:
        """Everything that the broker shows of the account's orders, or what has changed, recorded like any other answer, and then
        `heed`ed, part by part. Raises BrokerError, TimeoutError, StoreUnavailable."""
        try:
            await self._check(whole=whole, heed=heed)
        except (BrokerError, TimeoutError, StoreUnavailable) as exc:
            self._query_failed(exc)
            raise

    async def read_positions(self) -> Sequence[BrokerPosition]:
        """Raises BrokerError, TimeoutError, and whatever an adapter raises that cannot tell them: the connection is not judged by it."""
        assert self._broker is not None
        return await self._ask(self._broker.positions(), QUERY_SECONDS)

    async def look_for(self, live: LiveOrder) -> bool:
        """Whether the broker finds an order that it did not list; what it says of it is recorded. Raises BrokerError, TimeoutError."""
        assert self._broker is not None
        is_found = False
        for client_order_id in live.order.client_order_ids:
            report = await self._ask(self._broker.find(client_order_id), QUERY_SECONDS)
            if report is not None:
                is_found = True
                await self.learn(live, report)
        return is_found

    async def _hear(self, live: LiveOrder, report: Report) -> None:
        if not live.is_let_go:  # else another process hears of it
            await self.learn(live, report)

    async def _hear_of_finished(self, reports: Sequence[Report]) -> None:
        """Reports of orders that are not in hand: a late fill, a correction, a commission, or nothing new."""
        unheard: list[Report] = []
        for start in range(0, len(reports), LOOKED_THROUGH_AT_ONCE):
            some = reports[start : start + LOOKED_THROUGH_AT_ONCE]
            unheard += [r for r in some if not self._finished.is_known(name_of(r), _gist(r))]
            await asyncio.sleep(0)  # a whole day's answer must not hold up everybody else
        for start in range(0, len(unheard), LOOKED_UP_AT_ONCE):
            some = unheard[start : start + LOOKED_UP_AT_ONCE]
            stored = await self._store.find([f"client:{r.client_order_id}" for r in some])
            by_client_id = {c: s for s in stored for c in s.order.client_order_ids}
            for report in some:
                record = by_client_id.get(report.client_order_id)
                if record is not None and record.order.request.account_id == self.account_id:
                    await self._hear_late(record, report)
                self._finished.note(name_of(report), _gist(report))

    async def _hear_late(self, record: Stored, report: Report) -> None:
        if not news(record.order, report, self._clock.now()):
            return
        live = self._live.adopt(record)
        await self.learn(live, report)
        if not live.order.status.is_final:
            self.look_again(live)

    async def learn(self, live: LiveOrder, report: Report) -> Sequence[Event]:
        """Records what a report tells that is new; returns the events."""
        events = await self._live.record(live, lambda order: news(order, report, self._clock.now()))
        live.asked_at = now = self._clock.monotonic()
        if is_of_another(live.order, report):
            self._settle(live)
            return events
        if live.order.status.is_final:
            # The next answer about all orders tells it again; it need not be read from the store for that.
            self._finished.note(name_of(report), _gist(report))
            self.on_ended(live.order, report)
        if live.order.status.is_final or not fills_are_missing(live.order, report):
            live.missing_from = None
            self._missing.pop(live.order.order_id, None)
        else:
            live.missing_from = now if live.missing_from is None else live.missing_from
            self._missing[live.order.order_id] = (live, report)
        self._settle(live)
        return events

    async def _tell_of_missing_fills(self) -> None:
        """Says once that a broker's count and the executions it has shown have differed for long; a broker that tells only what is new
        does not repeat the report."""
        now = self._clock.monotonic()
        for live, report in tuple(self._missing.values()):
            if live.missing_from is None or now - live.missing_from <= MISSING_FILLS_ALERT_SECONDS:
                continue
            live.missing_from = float("inf")
            words = (
                f"the broker says {report.filled_quantity} filled ({report.status}), "
                f"the executions it has shown add up to {live.order.filled_quantity}"
            )
            note = Noted(at=self._clock.now(), message=words, alert=True)
            await self._live.record(live, lambda order, note=note: _unless_known(order, note))  # type: ignore[misc]

    async def _ask(self, question: Awaitable[T], timeout_seconds: float) -> T:
        """Every call to the broker ends in bounded time, whatever the adapter does. Raises TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            return await question

    def _query_failed(self, exc: Exception) -> None:
        is_unusable = not isinstance(exc, BrokerError | StoreUnavailable)
        self._unusable_answers = self._unusable_answers + 1 if is_unusable else 0
        if isinstance(exc, BrokerUnavailable) and not isinstance(exc, HeldBack):
            self._lose_connection(exc)
        elif self._unusable_answers >= UNUSABLE_TOLERATED:
            self._unusable_answers = 0
            words = (
                f"no usable answer to {UNUSABLE_TOLERATED} questions in succession: {str(exc) or type(exc).__name__}"
            )
            self._lose_connection(BrokerUnavailable(words))
        else:
            log.warning(
                f"Question to the broker failed, asked again soon: {str(exc) or type(exc).__name__}",
                action="query_failed",
                account_id=self.account_id,
            )


_BACK_OFF = tenacity.wait_exponential(multiplier=0.5, max=30.0)


def _pause_seconds(state: tenacity.RetryCallState) -> float:
    """Between two attempts to connect."""
    exc = state.outcome.exception() if state.outcome is not None else None
    usual = _BACK_OFF(state)
    return min(usual, LOGIN_LOOK_SECONDS) if isinstance(exc, AuthRequired) else usual


def _unless_known(order: Order, note: Noted) -> Sequence[Event]:
    return () if order.status.is_final or was_noted(order, note.message) else (note,)


def _next_batch(lane: Lane, limit: int) -> list[LiveOrder]:
    batch: list[LiveOrder] = []
    while lane.orders and len(batch) < limit:
        live = lane.orders[0]
        is_pending = live.order.status is Status.PENDING
        if is_pending and live.is_busy:
            break  # it is being looked at; after that the lane goes on with it
        lane.orders.popleft()
        if is_pending:
            live.is_busy = True
            batch.append(live)
    return batch


def _reason_of(refusal: OrderRefused) -> Reason:
    code = ReasonCode.UNSUPPORTED_ORDER if refusal.unsupported else ReasonCode.BROKER_REJECTED
    return Reason(code, refusal.reason)


def _is_worked_elsewhere(order: Order, sent: Order) -> bool:
    """Whether something but a wish to cancel was recorded since it was handed over: another process may have sent it again, so that what
    came of our own sending does not tell what became of the order."""
    return not all(isinstance(event, CancelRequested) for event in order.events[sent.version :])


def _gist(report: Report) -> tuple[object, ...]:
    """What would make a repeated report worth looking at."""
    return (
        report.status,
        report.filled_quantity,
        tuple(fill.commission for fill in report.fills),
        report.busted_fill_ids,
        report.orders_under_tag,
        report.fills_shown,
    )
