"""The connection to one account's broker: made, kept and lost, and questions that end in bounded time; not what is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any, Protocol, TypeVar

import structlog
import tenacity

from brokers.base import Broker, Capabilities, CombinesOrders, LimitsCalls
from brokers.errors import AuthRequired, BrokerError, BrokerUnavailable, HeldBack, OrderRefused
from execution_service.core import backoff
from execution_service.core.orders.next_step import Limits
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Reason, ReasonCode
from execution_service.core.texts.service import auth_required, broker_down, broker_up, orders_held, session_concern
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.trading.traded_account import TradedAccount

log = structlog.get_logger(__name__)
T = TypeVar("T")

UNUSABLE_TOLERATED = 3
QUERY_SECONDS = 30.0
CONNECT_SECONDS = 60.0
CLOSE_SECONDS = 5.0
CONCERN_SECONDS = 60.0
"""How often is looked whether there is something new of the session that people must know."""
CANCELLED_SECONDS = 1.0
"""How long a call that was cancelled may take to end."""
AFTER_FAILURE_SECONDS = 1.0
"""Before what failed is tried again."""
LOGIN_LOOK_SECONDS = 2.0
"""How often it is looked whether a person has logged in."""


class AccountState(StrEnum):
    """How an account stands with its broker."""

    CONNECTED = "CONNECTED"
    UNAVAILABLE = "UNAVAILABLE"
    AUTH_REQUIRED = "AUTH_REQUIRED"


class Conversation(Protocol):
    """What is said over the connection."""

    async def catch_up(self) -> None:
        """Reads everything that happened while there was no connection; the connection stands after it. Raises BrokerError, TimeoutError,
        StoreUnavailable: then it does not stand."""

    def connected(self) -> None:
        """The connection stands, and everything of before it has been read."""

    async def reject_pending(self, message: str) -> None:
        """Ends what could not be sent."""

    def hinted(self) -> None:
        """The broker has news, and has not said which."""


class NoLongerWaitedFor(Exception):
    """What a call would answer has become known by another way."""


class Connection:
    """How one account stands with its broker, and the way there."""

    def __init__(
        self,
        *,
        account: TradedAccount,
        limits: Limits,
        max_attempts: int,
        clock: Clock,
        alerts: RaisesAlerts,
        conversation: Conversation,
    ) -> None:
        """`limits`: those of the settings, to which the broker adds its own. After `max_attempts` attempts to connect in vain the orders that
        could not be sent are ended."""
        self.account_id = account.account_id
        self.account_name = account.name
        self.broker_name = account.broker_name
        self.limits = limits
        self.capabilities = Capabilities()
        self.is_connected = False
        self.trouble = "not connected yet"
        self.is_login_needed = False
        """A person has to log in at the broker; `trouble` says how."""
        self.is_paused = False
        """The broker has said that it is away for a time that is known beforehand."""
        self._account = account
        self._max_attempts = max_attempts
        self._clock = clock
        self._alerts = alerts
        self._conversation = conversation
        self._broker: Broker | None = None
        self._alerted_concern: str | None = None
        self._is_login_alerted = False
        self._unusable_answers = 0
        self._lost = WakeUp(clock)
        self._left_behind: set[asyncio.Future[Any]] = set()
        """Calls that nobody waits for any more; kept, so that they are not collected while they run."""

    # --- questions ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> AccountState:
        if self.is_connected:
            return AccountState.CONNECTED
        return AccountState.AUTH_REQUIRED if self.is_login_needed else AccountState.UNAVAILABLE

    @property
    def broker(self) -> Broker:
        """Whom to ask; there is one from the first attempt to connect on."""
        assert self._broker is not None
        return self._broker

    def calls_left(self) -> Mapping[tuple[str, float], int]:
        """As LimitsCalls says it; of a broker that limits none, nothing."""
        return self._broker.calls_left() if isinstance(self._broker, LimitsCalls) else {}

    def tell_combinations(self, order: Order) -> bool:
        """Says to the broker of which of its orders this one is, or was, a leg. True: one of them was new to it, and what it has shown of the order
        before is not to be believed."""
        if not isinstance(self._broker, CombinesOrders):
            return False
        were_new = [self._broker.know_combination(each) for each in order.combinations]
        return any(were_new)

    async def ask(
        self,
        question: Awaitable[T],
        timeout_seconds: float | None = None,
        *,
        until: asyncio.Future[None] | None = None,
    ) -> T:
        """Every call to the broker ends in bounded time, whatever the adapter does, even one that ignores its cancellation. None: QUERY_SECONDS.
        Raises TimeoutError, and NoLongerWaitedFor when `until` is done first."""
        return await self._bounded(question, QUERY_SECONDS if timeout_seconds is None else timeout_seconds, until)

    async def _bounded(
        self, call: Awaitable[T], timeout_seconds: float, until: asyncio.Future[None] | None = None
    ) -> T:
        """What has not ended in time is cancelled, and left behind where it does not end by that either."""
        under_way = asyncio.ensure_future(call)
        awaited: set[asyncio.Future[Any]] = {under_way} if until is None else {under_way, until}
        try:
            await asyncio.wait(awaited, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
            if not under_way.done():
                if until is not None and until.done():
                    raise NoLongerWaitedFor
                raise TimeoutError(f"no answer within {timeout_seconds:g} s")
            if under_way.cancelled():
                raise TimeoutError("the call was given up, and not by us")
            return under_way.result()
        finally:
            if not under_way.done():
                under_way.cancel()
                await asyncio.wait({under_way}, timeout=CANCELLED_SECONDS)
                self._leave_behind(under_way)

    def _leave_behind(self, call: asyncio.Future[Any]) -> None:
        if call.done():
            if not call.cancelled():
                call.exception()  # it is over, and whoever asked has gone on without an answer
            return
        log.error(
            "A call to the broker ends neither in time nor when it is cancelled, and is left behind",
            action="call_left_behind",
            account_id=self.account_id,
        )
        self._left_behind.add(call)
        call.add_done_callback(self._ended_late)

    def _ended_late(self, call: asyncio.Future[Any]) -> None:
        self._left_behind.discard(call)
        if not call.cancelled():
            call.exception()

    def was_usable(self) -> None:
        """An answer could be taken in."""
        self._unusable_answers = 0

    def query_failed(self, exc: Exception) -> None:
        """A question got no answer, or none that could be taken in: the connection is lost if that says so, or happens too often."""
        is_unusable = not isinstance(exc, BrokerError | StoreUnavailable)
        self._unusable_answers = self._unusable_answers + 1 if is_unusable else 0
        if isinstance(exc, BrokerUnavailable) and not isinstance(exc, HeldBack):
            self.lose(exc)
        elif self._unusable_answers >= UNUSABLE_TOLERATED:
            self._unusable_answers = 0
            words = (
                f"no usable answer to {UNUSABLE_TOLERATED} questions in succession: {str(exc) or type(exc).__name__}"
            )
            self.lose(BrokerUnavailable(words))
        else:
            log.warning(
                f"Question to the broker failed, asked again soon: {str(exc) or type(exc).__name__}",
                action="query_failed",
                account_id=self.account_id,
            )

    # --- life ---------------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Until cancelled. Called again after a failure, it connects again as after any loss."""
        self.lose(BrokerUnavailable("the connection is made anew"))
        while True:
            await self._connect()
            while self.is_connected:
                await self._lost.wait(CONCERN_SECONDS)
                await self._alert_of_concern()

    def lose(self, why: Exception) -> None:
        if self.is_connected:
            self.is_connected, self.trouble = False, str(why)
            log.warning(f"Broker connection lost: {why}", action="broker_connection_lost", account_id=self.account_id)
            self._lost.tell()

    async def close(self) -> None:
        if self._broker is not None:
            try:
                self._broker.on_hint(None)
                await self._bounded(self._broker.close(), CLOSE_SECONDS)
            except Exception as exc:  # noqa: BLE001  it is the end all the same
                log.warning(
                    f"Broker connection could not be closed: {str(exc) or type(exc).__name__}",
                    action="broker_close_failed",
                    account_id=self.account_id,
                )
        self._broker, self.is_connected = None, False

    async def _connect(self) -> None:
        attempts = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Exception),
            wait=_pause_seconds,
            before_sleep=self._failed,
            sleep=self._clock.sleep,
        )
        async for attempt in attempts:
            with attempt:
                if self._broker is None:
                    self._broker = self._account.create_broker()
                    self._broker.on_hint(self._conversation.hinted)
                await self._bounded(self._broker.connect(), CONNECT_SECONDS)
                if not self._account.is_live and self._broker.capabilities.is_paper is False:
                    raise BrokerUnavailable(
                        "live = false, but the broker's account is a real one: nothing is sent to it"
                    )
                self._take_capabilities(self._broker)
                # Everything that happened while we were away is read before anything is sent.
                await self._conversation.catch_up()
        was_down = attempts.statistics.get("attempt_number", 1) > self._max_attempts
        was_down = was_down or self.is_login_needed
        self.is_connected, self.trouble, self.is_login_needed, self._is_login_alerted = True, "", False, False
        self.is_paused = False
        log.info(
            f"Broker connected: {self.broker_name} for account {self.account_id}",
            action="broker_connected",
            account_id=self.account_id,
        )
        if was_down:
            await self._alerts.raise_alert(
                f"broker_up:{self.account_id}",
                broker_up(account_name=self.account_name, broker=self.broker_name),
            )
        await self._alert_of_concern()
        self._conversation.connected()

    async def _failed(self, state: tenacity.RetryCallState) -> None:
        exc = state.outcome.exception() if state.outcome is not None else None
        self.trouble = str(exc) or type(exc).__name__
        self.is_paused = isinstance(exc, BrokerUnavailable) and exc.known_pause
        if isinstance(exc, StoreUnavailable):
            return  # the broker is there; what it reported waits to be recorded
        is_login_needed = isinstance(exc, AuthRequired)
        if is_login_needed and not self._is_login_alerted:
            words = auth_required(account_name=self.account_name, broker=self.broker_name, reason=self.trouble)
            self.is_login_needed = True
            await self._alerts.raise_alert(f"auth_required:{self.account_id}", words)
        self.is_login_needed = self._is_login_alerted = is_login_needed
        number = state.attempt_number
        if number <= self._max_attempts or number % 20 == 0:
            log.warning(
                f"Broker connection failed (attempt {number}): {self.trouble}",
                action="broker_connection_failed",
                account_id=self.account_id,
            )
        if number == self._max_attempts and not self.is_login_needed:
            words = broker_down(account_name=self.account_name, broker=self.broker_name, reason=self.trouble)
            await self._alerts.raise_alert(f"broker_down:{self.account_id}", words)
        if number >= self._max_attempts and not self.is_paused:
            await self._conversation.reject_pending(f"no connection after {number} attempts: {self.trouble}")

    def _take_capabilities(self, broker: Broker) -> None:
        self.broker_name = broker.name
        self.capabilities = broker.capabilities
        self.limits = replace(
            self.limits,
            find_window_seconds=self.capabilities.find_window_seconds,
            send_again_seconds=self.capabilities.send_again_seconds,
            refuses_repeated_client_id=self.capabilities.refuses_repeated_client_id,
            poll_seconds=self.capabilities.poll_seconds,
        )

    # --- words for people ---------------------------------------------------------------------------------------

    async def _alert_of_concern(self) -> None:
        """Once for as long as the session has the same; another one may come meanwhile."""
        if self._broker is None or not self.is_connected:
            return
        concern = self._broker.capabilities.concern
        if concern is not None and concern != self._alerted_concern:
            words = session_concern(account_name=self.account_name, broker=self.broker_name, concern=concern)
            await self._alerts.raise_alert(f"session_concern:{self.account_id}", words)
        self._alerted_concern = concern

    async def alert_of_hold(self, reason: str) -> None:
        """Orders are held for something that the broker lacks."""
        words = orders_held(account_name=self.account_name, broker=self.broker_name, reason=reason)
        await self._alerts.raise_alert(f"orders_held:{self.account_id}", words)


def reason_of(refusal: OrderRefused) -> Reason:
    """As it stands in the record."""
    code = ReasonCode.UNSUPPORTED_ORDER if refusal.unsupported else ReasonCode.BROKER_REJECTED
    return Reason(code, refusal.reason)


def _pause_seconds(state: tenacity.RetryCallState) -> float:
    """Between two attempts to connect."""
    exc = state.outcome.exception() if state.outcome is not None else None
    usual = backoff.DEFAULT_BACKOFF.pause_seconds(state.attempt_number)
    return min(usual, LOGIN_LOOK_SECONDS) if isinstance(exc, AuthRequired) else usual
