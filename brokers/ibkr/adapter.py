"""One account at IBKR through TWS or IB Gateway: the Broker protocol, on top of a session and a blotter. The wire
format is the client library's."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any, Literal, TypeVar
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationInfo, field_validator

from brokers.base import (
    DERIVATIVES,
    ONE,
    UNNAMED_POSITION,
    AssetClass,
    Balance,
    BrokerPosition,
    Capabilities,
    Combination,
    ContractTerms,
    Instrument,
    NoQuote,
    OrderRef,
    OrderType,
    Quote,
    Report,
    Reports,
    Side,
    Ticket,
    Tif,
)
from brokers.configuration import Calls, MeteredConfiguration, Number, TimeOfDay, TimeOut, Whole, Wrong, Zone
from brokers.errors import (
    AnswerUnclear,
    BrokerError,
    BrokerUnavailable,
    NotAnswered,
    OrderAlreadyExists,
    OrderRefused,
    OutcomeUnknown,
    RateLimited,
    ReservationLost,
    UndocumentedAnswer,
)
from brokers.ibkr import codes
from brokers.ibkr.balances import balances_in
from brokers.ibkr.blotter import Blotter, Commission, Entry, Execution, Hold, UnreadableGap
from brokers.ibkr.contracts import (
    BAG,
    TRADED,
    Qualified,
    amount,
    amount_or_none,
    bag_of,
    fitted,
    instrument_of,
    optional_amount,
    other_symbols,
    plain,
    qualified,
    question_for,
    rule_number,
    the_one,
)
from brokers.ibkr.hold import hold_in
from brokers.ibkr.library import Library, choose
from brokers.ibkr.manifest import MANIFEST, is_paper
from brokers.ibkr.quotes import quote_in
from brokers.ibkr.session import ClientIdInUse, NotConnected, QuestionFailed, Session
from brokers.ibkr.times import Moment
from brokers.ibkr.unacknowledged import Unacknowledged, on_one_line
from brokers.ibkr.wire import Unreadable
from brokers.manifest import Fact
from brokers.rate import BudgetSpent, CallPriority, RateBudget

_log = logging.getLogger(__name__)
T = TypeVar("T")
_ORDER_TYPES = {
    OrderType.MARKET: "MKT",
    OrderType.LIMIT: "LMT",
    OrderType.STOP: "STP",
    OrderType.STOP_LIMIT: "STP LMT",
}
_CLIENT_ID_PAUSE_SECONDS = 0.25
_CLIENT_ID_PATIENCE = 2
"""How often a client id is retried before the next one is tried: a gateway takes a moment to notice that a socket is
gone."""
_OWN_CLIENT_ID_PATIENCE = 8
"""The same for the id that this adapter used last (two seconds in all): under another one it could not cancel what
it has placed. But orders and reports wait meanwhile, and whoever holds the id longer will not release it soon."""
_HELD_SECONDS = 0.3
"""How long after an order is shown as Inactive a rejection is awaited, before the order counts as accepted and held."""
_WORDS_SECONDS = 0.2
"""How long after a message on an order's id its acknowledgement is still awaited. This applies to refusals and to
"nothing was taken" as well, since the messages usual for failed orders may also come for working ones. No other
order is sent meanwhile."""
_REMARK_SECONDS = 1.0
"""The same after an informational message, with which an acknowledgement is expected."""
_REPEATED_SECONDS = 2.0
"""The longest wait for an answer to a repeated sending: if the first had arrived it is answered at once, and the
lists show the rest."""
_SEND_AGAIN_SECONDS = 2.0
"""The account's other orders wait for it, since the same id may be used again only until a later one is. If the
order had arrived, it is modified into itself."""
_LINK_PATIENCE_SECONDS = 60.0
"""After so long without its servers, a new session is requested from the gateway."""
_MESSAGES_A_SECOND = 45
"""Beyond this rate the client libraries delay messages in one common queue, without priorities."""
_ORDER_PATIENCE_SECONDS = 2.0
"""How long the first of the waiting orders waits for the rate budget: longer than a limit per second can require.
Orders that must wait for a limit per minute or day wait in the service, where they can be cancelled and may become
too old."""
_OTHER_PATIENCE_SECONDS = 5.0
_AFTER_TOO_MANY_SECONDS = 1.0
_ESTIMATES_REMEMBERED = 20_000
_SENT_REMEMBERED = 20_000
"""The ids under which the latest orders were sent. For older ones the gateway's lists are used; a skipped id is
never sent."""
_DAY_SECONDS = 86_400.0
_BETWEEN_DOUBTS_SECONDS = 2.0
_ORDER_IDS_END = 2**31 - 1
_CALLS_OF_A_ROUND = 3
_MARGIN_WARNED_SECONDS = 3600.0
"""For how long a warning of the account's margin is one. IBKR repeats it while it lasts."""
_IN_HUNDREDTHS = frozenset({"GBP", "ILS", "ZAR"})
"""Currencies in which shares may be priced in hundredths (pence, agorot, cents), while their cost is told in whole units (gloomberb pull
request 537, bankroll issue 31)."""
_CALLS_OF_A_CONTRACT = 3
"""Its facts, its price increments, and what is wanted of it."""
_QUOTE_SECONDS = 2.0
"""A snapshot that is not whole by then is taken as it is: of a market without trades it never is."""
_NO_ANSWER_NOW = frozenset({0, 101, codes.TOO_MANY, *codes.LINK_LOST})
"""Too many subscriptions or messages, or no connection to IBKR's servers: said of the moment, and not of the account's rights."""
_CALLS_OF_A_SUBSCRIPTION = 2
"""The subscription and its cancellation."""
_COIN_TIFS: Mapping[str, frozenset[Tif]] = {
    "Minutes": frozenset({Tif.IOC}),
    "IOC": frozenset({Tif.IOC}),
    "DAY": frozenset(Tif),
    "GTC": frozenset(Tif),
}
"""By `crypto_tif`: the other times in force that a limit order for coins may name. IBKR documents DAY, GTC, IOC and
Minutes (cancelled after five minutes); accounts were answered 201 to DAY and GTC, "must be Minutes or IOC" (Lean
pull request 9766)."""
_COIN_TYPES = (OrderType.MARKET, OrderType.LIMIT)
"""IBKR's page on order types lists no others for coins."""
_CONTRACTS_REMEMBERED = 10_000
_LEARNED_AT_ONCE = 20
_LEARNING_SECONDS = 3.0
"""How long an answer about positions waits at most for contract facts, because exits may be waiting for it."""
_LEARNED_AGAIN_SECONDS = 300.0
"""After so long a contract is queried again, if the gateway gave neither its facts nor the answer that it has none."""
_IN_PAIRS = frozenset({AssetClass.FOREX, AssetClass.CRYPTO})
"""The currency is part of what is bought."""
_NEVER_IN_HUNDREDTHS = _IN_PAIRS | {AssetClass.BOND}
"""Bonds are priced in percent of their nominal value, and their facts never say how much money a point is worth."""
_CANCELLING = frozenset({"PendingCancel", "Cancelled", "ApiCancelled"})
_TAKEN = frozenset({"PreSubmitted", "Submitted", "Filled", "Cancelled", "ApiCancelled", "PendingCancel"})


class Configuration(MeteredConfiguration):
    """One account's settings. Times are in seconds."""

    host: str = "127.0.0.1"
    port: Whole = Field(4002, ge=1, le=65535)
    client_id: Whole = Field(1, ge=0, le=2**31 - 100)
    client_id_tries: Whole = Field(5, ge=1, le=32)
    """How many ids, counted from `client_id`, may be tried when one is in use."""
    ibkr_account: str = ""
    """IBKR's account number; empty: the login's only account."""
    library: Literal["auto", "ib_insync", "ib_async"] = "auto"
    timezone: Zone | None = None
    """The zone of times that the gateway writes without one."""
    crypto_exchange: str = "PAXOS"
    crypto_tif: Literal["Minutes", "IOC", "DAY", "GTC"] = "Minutes"
    """The time in force of limit orders for coins that name none; it also determines which others are allowed
    (`_COIN_TIFS`)."""
    option_legs: Literal["together", "refused"] = "together"
    """What becomes of options that are legs of one signal: one combination of all of them, or a refusal."""
    outside_rth: bool = False
    connect_seconds: TimeOut = 10.0
    answer_seconds: TimeOut = 4.0
    """How long a placing or cancelling call waits for the server's answer. Other orders wait for a placing; one
    without an answer is searched for."""
    query_seconds: TimeOut = 15.0
    poll_seconds: Number = Field(15.0, ge=0, le=86_400)
    """How often the order lists are read, although the server pushes changes; 0: for each call of `reports`."""
    restart_from: TimeOfDay = time_of_day(23, 40)
    restart_until: TimeOfDay = time_of_day(0, 50)
    restart_timezone: Zone = "America/New_York"
    """The hours in which the gateway may be down for its routine restart; equal times: none."""
    order_calls_per_second: Calls = 30
    other_calls_per_second: Calls = Field(15, validate_default=True)

    @field_validator("library")
    @classmethod
    def _is_installed(cls, library: str) -> str:
        try:
            choose(library)
        except ValueError as exc:
            raise Wrong(str(exc)) from exc
        return library

    @field_validator("other_calls_per_second")
    @classmethod
    def _fits_beside_order_calls(cls, calls: int, info: ValidationInfo) -> int:
        total = calls + info.data.get("order_calls_per_second", 0)
        if total > _MESSAGES_A_SECOND:
            raise Wrong(
                f"order_calls_per_second and other_calls_per_second may come to {_MESSAGES_A_SECOND}, not to {total}"
            )
        return calls


class _NoContract(OrderRefused):
    """The gateway has no such contract."""


@dataclass(frozen=True, slots=True)
class _CachedContract:
    """A contract that was queried, as an order named it, and the day (UTC) for which the answer is valid."""

    found: Qualified
    instrument: Instrument
    day: date


def create(config: Mapping[str, object]) -> IbkrBroker:
    """An IBKR broker, not yet connected. The settings are the fields of `Configuration`. Raises ValueError naming
    everything that is wrong."""
    configuration = Configuration.of(config, broker="ibkr")
    return IbkrBroker(configuration, choose(configuration.library))


@dataclass(slots=True)
class _Wait:
    """A placing or cancelling call that waits for the server's answer."""

    answer: asyncio.Future[None]
    client_order_id: str = ""
    held: asyncio.TimerHandle | None = None
    hold: Hold | None = None
    """The order is held for the opening, as a message said before the order itself was shown."""
    words: list[str] = field(default_factory=list)
    """Messages on the order's id, received while it is not acknowledged."""
    is_refused: bool = False
    """One of the messages is a refusal."""
    not_taken: BrokerUnavailable | None = None
    """The error to raise if the gateway said that it took nothing."""
    ends: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Cancels the timers."""
        for timer in (self.held, self.ends):
            if timer is not None:
                timer.cancel()

    def settle(self, error: Exception | None = None) -> None:
        self.stop()
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(None)
        else:
            self.answer.set_exception(error)

    def settle_by_messages(self, lost: OutcomeUnknown | None = None) -> None:
        """Ends the wait for an acknowledgement. `lost` is the result if there was no message."""
        words = "; ".join(self.words)
        if self.is_refused:
            self.settle(OrderRefused(words))
        else:
            self.settle(self.not_taken or (UndocumentedAnswer(words) if words else lost))

    def end_in(self, seconds: float) -> None:
        """Ends the wait after so long, or earlier if it was already to end earlier."""
        loop = asyncio.get_running_loop()
        if self.ends is None or loop.time() + seconds < self.ends.when():
            if self.ends is not None:
                self.ends.cancel()
            self.ends = loop.call_later(seconds, self.settle_by_messages)


@dataclass(slots=True)
class _Waits:
    placement: dict[int, _Wait] = field(default_factory=dict)
    cancelling: dict[int, _Wait] = field(default_factory=dict)


class IbkrBroker:
    """Relies only on what the server sends: statuses, executions, and the lists of open and completed orders, which are
    read completely after each connection and periodically. The library's own view of orders is not used.

    An order's id is `CLIENT:ORDER`, the two numbers by which the gateway identifies an API order. The gateway takes an
    order under such an id once: the same id again modifies an open order (here into itself), and is refused (103, 104)
    if the order is done or a higher id was used. So a ticket with a reserved id can be sent again and there is still
    one order, which is what `refuses_repeated_client_id` means. Ids therefore leave in the order of their reservation,
    one placing at a time, and a skipped id is never used.
    """

    def __init__(
        self,
        configuration: Configuration,
        library: Library,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._configuration = configuration
        self._library = library
        self._clock = clock
        self._account = configuration.ibkr_account
        self._blotter = Blotter()
        self._session: Session | None = None
        self._is_ready = False
        """All lists have been read completely in this session."""
        self._must_read_lists = False
        """A message was received that only the lists can settle."""
        self._read_at = 0.0
        self._link_lost_at: float | None = None
        self._connecting = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._looking_up = asyncio.Lock()
        self._learning = asyncio.Lock()
        self._waits = _Waits()
        self._next_order_id = 1
        self._highest_sent = 0
        self._last_client_id: int | None = None
        self._sent: OrderedDict[str, str] = OrderedDict()
        """By tag: the id under which it was sent, and may have arrived; latest last."""
        self._last_sent = ("", "")
        """The id and the tag of the last sending."""
        self._forgotten_on: date | None = None
        """The day (UTC) on which orders of earlier days were last removed."""
        self._unacknowledged = Unacknowledged()
        self._contracts: dict[Instrument, _CachedContract] = {}
        """By everything that an order says of its instrument."""
        self._by_number: dict[int, _CachedContract] = {}
        """The same by IBKR's contract number, each as it was last named."""
        self._unknown_on: dict[int, date] = {}
        """Contract numbers for which the gateway had no facts, and when it was asked."""
        self._unanswered: dict[int, float] = {}
        """Contract numbers that the gateway did not answer, and until when (monotonic) they are not asked for again."""
        self._rules: dict[int, list[Any]] = {}
        self._hint: Callable[[], None] | None = None
        self._hinted_mark = 0
        self._order_calls = RateBudget(configuration.order_limits)
        self._other_calls = RateBudget(configuration.other_limits)
        self._lists_required_at = float("-inf")
        self._margin_warning, self._margin_warned_at = "", float("-inf")
        self._estimates_logged: OrderedDict[str, None] = OrderedDict()
        self._rounds_begun = 0
        self._last_whole_round = 0

    @property
    def name(self) -> str:
        return "IBKR"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            asset_classes=TRADED,
            varieties=frozenset(),
            takes_display_quantity=True,
            refuses_repeated_client_id=Fact.REFUSES_REPEATED_IDS in MANIFEST.facts,
            needs_reservation=True,
            fits_tickets=True,
            splits_option_combinations=False,
            combines_option_legs=self._combines_legs,
            commission_currency="USD",
            has_base_currency=True,
            concurrent_calls=1,
            find_window_seconds=10.0,
            links_exits=True,
            send_again_seconds=_SEND_AGAIN_SECONDS,
            is_paper=is_paper({"ibkr_account": self._account}) if self._account else None,
            concern=self._concern(),
            notes=self._notes(),
        )

    @property
    def _combines_legs(self) -> bool:
        return self._configuration.option_legs == "together"

    # Life

    async def connect(self) -> None:
        """Opens a session, unless there is a live one, and reads every list of orders before anything may be sent."""
        async with self._connecting:
            session = self._session
            if session is None or not session.is_open or self._has_waited_for_link(session):
                self._drop_session()
                session = self._session = await self._opened()
            if not session.is_linked:
                self._link_lost_at = self._link_lost_at or time.monotonic()
                raise self._unavailable(f"The gateway has no connection to IBKR: {session.trouble}")
            self._link_lost_at = None
            try:
                self._choose_account(session)
                await self._read_lists(session)
            except RateLimited:
                raise
            except BrokerUnavailable:
                self._drop_session()
                raise
            self._forget_old()
            own = self._blotter.highest_order_id(session.client_id)
            self._next_order_id = max(session.next_order_id, own + 1, self._highest_sent + 1)
            self._is_ready = True

    def _forget_old(self) -> None:
        """Removes what is of an earlier day, by lists that were just read completely."""
        self._blotter.forget_old()
        self._unacknowledged.forget_before(time.monotonic() - _DAY_SECONDS)
        self._forgotten_on = self._clock().date()

    async def close(self) -> None:
        """Waiting calls end with OutcomeUnknown or BrokerUnavailable."""
        self._drop_session()

    def on_hint(self, callback: Callable[[], None] | None) -> None:
        """`callback` is called when the server has sent something new about the account's orders."""
        self._hint = callback

    async def _opened(self) -> Session:
        wanted = self._configuration
        for client_id in range(wanted.client_id, wanted.client_id + wanted.client_id_tries):
            patience = _OWN_CLIENT_ID_PATIENCE if client_id == self._last_client_id else _CLIENT_ID_PATIENCE
            for attempt in range(patience):
                session = Session(
                    self._library,
                    self,
                    account=wanted.ibkr_account,
                    timezone=wanted.timezone or "",
                    clock=self._clock,
                )
                try:
                    await session.open(wanted.host, wanted.port, client_id, wanted.connect_seconds)
                    return self._begun(session)
                except ClientIdInUse:
                    session.close()
                    if attempt + 1 < patience:
                        await asyncio.sleep(_CLIENT_ID_PAUSE_SECONDS)
                except NotConnected as exc:
                    session.close()
                    raise self._unavailable(str(exc)) from exc
                except BaseException:
                    session.close()
                    raise
        last = wanted.client_id + wanted.client_id_tries - 1
        raise self._unavailable(f"The gateway's client ids {wanted.client_id} to {last} are all in use")

    def _begun(self, session: Session) -> Session:
        self._last_client_id = session.client_id
        if session.client_id != self._configuration.client_id:
            _log.warning(
                "The gateway's client id %s is in use; connected as %s, which cannot cancel what the other one placed",
                self._configuration.client_id,
                session.client_id,
            )
        return session

    def _choose_account(self, session: Session) -> None:
        names = session.accounts
        if not self._configuration.ibkr_account:
            if len(names) != 1:
                raise BrokerUnavailable(
                    f"The login has the accounts {', '.join(names)}: set ibkr_account to one of them"
                )
            self._account = names[0]
        elif self._configuration.ibkr_account not in names:
            raise BrokerUnavailable(
                f"The login has no account {self._configuration.ibkr_account}, only {', '.join(names) or 'none'}"
            )

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        self._is_ready = False
        if session is not None:
            session.close()

    def _has_waited_for_link(self, session: Session) -> bool:
        lost_at = self._link_lost_at
        return not session.is_linked and lost_at is not None and time.monotonic() - lost_at > _LINK_PATIENCE_SECONDS

    def _ready_session(self) -> Session:
        session = self._session
        if session is None or not session.is_open:
            trouble = "" if session is None else f": {session.trouble}"
            raise self._unavailable(f"There is no session with the gateway{trouble}")
        if not session.is_linked:
            raise self._unavailable(f"The gateway has no connection to IBKR: {session.trouble}")
        if not self._is_ready:
            raise self._unavailable("The account's orders have not been read yet")
        return session

    def _unavailable(self, message: str) -> BrokerUnavailable:
        return BrokerUnavailable(message, known_pause=self._is_restart_time())

    def _is_restart_time(self) -> bool:
        start, end = self._configuration.restart_from, self._configuration.restart_until
        now = self._clock().astimezone(ZoneInfo(self._configuration.restart_timezone)).time()
        return start <= now < end if start <= end else now >= start or now < end

    def _notes(self) -> tuple[str, ...]:
        session, wanted = self._session, self._configuration
        if session is None:
            return ()
        notes = [
            f"Account {self._account} by {self._library.name} {self._library.version}, client id {session.client_id}, "
            f"server version {session.server_version}.",
            "Options that are legs of one signal are sent as one combination, which fills as a whole (option_legs)."
            if self._combines_legs
            else "An option that is one leg of several is refused (option_legs): it would stand naked if the others "
            "did not fill.",
            f"Orders are held, not rejected, when the gateway is away from {wanted.restart_from:%H:%M} to "
            f"{wanted.restart_until:%H:%M} {wanted.restart_timezone}.",
        ]
        concern = self._concern()
        if concern is not None:
            notes.append(concern)
        if wanted.client_id == 0:
            notes.append("Client id 0 also receives orders that are entered by hand.")
        if not _is_loopback(wanted.host):
            notes.append("The gateway is on another machine, and its connection is not encrypted.")
        return tuple(notes)

    def _concern(self) -> str | None:
        session, wanted = self._session, self._configuration.client_id
        concerns = []
        if time.monotonic() - self._margin_warned_at < _MARGIN_WARNED_SECONDS:
            concerns.append(f"IBKR warns of the account's margin: {self._margin_warning}")
        if session is not None and session.client_id != wanted:
            words = f"Client id {wanted} is in use by another connection: what it placed cannot be cancelled from here."
            concerns.append(words)
        return " ".join(concerns) or None

    # Placing and cancelling

    async def fitted(self, ticket: Ticket) -> Ticket:
        """The ticket rounded to its contract, which is looked up first."""
        self._check_coins(ticket)
        return fitted(ticket, await self._contract(self._ready_session(), ticket.instrument))

    async def reserve(self, ticket: Ticket, *, taken: Collection[str] = ()) -> str | None:
        """An order id above all those in `taken`, once the contract is known and the ticket fits it. Raises
        OrderRefused, BrokerUnavailable: RateLimited if the ticket would have to wait longer than a limit per second
        requires."""
        session = self._ready_session()
        self._check_coins(ticket)
        fitted(ticket, await self._contract(session, ticket.instrument))
        wait_seconds = self._order_calls.wait_seconds(_claim_of(ticket))
        if wait_seconds > _ORDER_PATIENCE_SECONDS:
            raise _spent(BudgetSpent(wait_seconds))
        named = [each.partition(":") for each in taken]
        numbers = [int(number) for client_id, _, number in named if client_id == str(session.client_id)]
        order_id = max([self._next_order_id, *(number + 1 for number in numbers)])
        self._next_order_id = order_id + 1
        return f"{session.client_id}:{order_id}"

    async def place_order(self, ticket: Ticket) -> Report:
        """Reserves an id if the ticket has none. Only the server's message is an answer. After an UndocumentedAnswer
        the order is not sent again."""

        async def as_sent(session: Session) -> tuple[Any, Any]:
            contract = await self._contract(session, ticket.instrument)
            return contract.contract, self._order(fitted(ticket, contract))

        return self._blotter.report(await self._place(ticket, as_sent))

    async def place_combined(self, combination: Combination, tickets: Sequence[Ticket]) -> Sequence[Report]:
        """As a guaranteed combination (BAG): IBKR fills all legs of a unit or none. It is bought, and what each leg does
        is said by the leg; a credit is a negative price."""
        self.know_combination(combination)

        async def as_sent(session: Session) -> tuple[Any, Any]:
            found = [await self._contract(session, ticket.instrument) for ticket in tickets]
            for ticket, contract in zip(tickets, found, strict=True):
                fitted(ticket, contract)
            bag = bag_of(self._library, combination, found)
            whole = replace(
                tickets[0],
                side=Side.BUY,
                quantity=combination.quantity,
                limit_price=combination.limit_price,
                display_quantity=None,
            )
            return bag, self._order(whole)

        return self._blotter.reports_of(await self._place(tickets[0], as_sent))

    def know_combination(self, combination: Combination) -> bool:
        return self._blotter.know_combination(combination)

    async def _place(self, ticket: Ticket, as_sent: Callable[[Session], Awaitable[tuple[Any, Any]]]) -> Entry:
        """Sends it once, under the ticket's tag and id, and returns what the gateway then shows. `as_sent` makes the
        library's contract and order."""
        session = self._ready_session()
        tag = ticket.client_order_id
        if words := self._unacknowledged.messages_of(tag):
            raise UndocumentedAnswer(words)
        if self._blotter.with_tag(tag) or any(wait.client_order_id == tag for wait in self._waits.placement.values()):
            raise OrderAlreadyExists(f"IBKR has an order {tag} already")
        reserved = ticket.reserved_order_id or self._sent_as(tag) or await self.reserve(ticket)
        contract, order = await as_sent(session)
        await self._order_call(_claim_of(ticket))
        # No await from here to the sending, so that ids leave in their order.
        session = self._ready_session()
        order_id = self._usable_number(session, reserved, tag)
        wait = _Wait(asyncio.get_running_loop().create_future(), tag)
        self._waits.placement[order_id] = wait
        try:
            session.place(order_id, contract, order)
            is_repetition = ticket.is_repetition or bool(self._sent_as(tag))
            named = f"{session.client_id}:{order_id}"
            self._highest_sent, self._last_sent = order_id, (named, tag)
            self._remember_sent(tag, named)
            self._unacknowledged.sent(tag, named, is_repetition=is_repetition, now=time.monotonic())
            self._next_order_id = max(self._next_order_id, order_id + 1)
            patience = self._configuration.answer_seconds
            return await self._placed(
                session, order_id, wait, ticket, min(patience, _REPEATED_SECONDS) if is_repetition else patience
            )
        except NotConnected as exc:
            raise self._unavailable(str(exc)) from exc
        except BrokerUnavailable:
            self._sent.pop(tag, None)
            if self._last_sent[1] == tag:
                self._last_sent = ("", "")
            self._unacknowledged.forget(tag)
            raise
        finally:
            wait.stop()
            self._waits.placement.pop(order_id, None)

    def _sent_as(self, tag: str) -> str:
        return self._sent.get(tag) or self._unacknowledged.id_of(tag)

    def _remember_sent(self, tag: str, order_id: str) -> None:
        self._sent[tag] = order_id
        self._sent.move_to_end(tag)
        while len(self._sent) > _SENT_REMEMBERED:
            self._sent.popitem(last=False)

    async def cancel_order(self, ref: OrderRef, *, again: bool = False) -> None:
        session = self._ready_session()
        order_id = self._number_to_cancel(session, ref)
        if not again and self._is_cancelled_with_another_leg(ref, order_id):
            return
        await self._order_call(
            CallPriority.REPEATED if again else CallPriority.CANCEL, queues_seconds=_ORDER_PATIENCE_SECONDS
        )
        wait = _Wait(asyncio.get_running_loop().create_future())
        self._waits.cancelling[order_id] = wait
        try:
            session.cancel(order_id)
            async with asyncio.timeout(self._configuration.answer_seconds):
                await wait.answer
        except NotConnected as exc:
            raise self._unavailable(str(exc)) from exc
        except TimeoutError as exc:
            raise OutcomeUnknown("No answer from the gateway to the cancellation") from exc
        finally:
            self._waits.cancelling.pop(order_id, None)

    def _is_cancelled_with_another_leg(self, ref: OrderRef, order_id: int) -> bool:
        """Whether the whole of which this is a leg is being cancelled, or is cancelled: asked once more, the gateway
        would refuse."""
        shown = self._blotter.with_tag(ref.client_order_id)
        is_leg = self._blotter.is_leg(ref.client_order_id)
        return is_leg and (order_id in self._waits.cancelling or any(each.status in _CANCELLING for each in shown))

    async def _placed(
        self, session: Session, order_id: int, wait: _Wait, ticket: Ticket, patience_seconds: float
    ) -> Entry:
        try:
            async with asyncio.timeout(patience_seconds):
                await asyncio.shield(wait.answer)
        except TimeoutError:
            self._must_read_lists = True
            wait.settle_by_messages(OutcomeUnknown(f"No answer from the gateway to the order {ticket.client_order_id}"))
            await wait.answer
        entry = self._blotter.of_ids(session.client_id, order_id)
        assert entry is not None, "whatever settles the wait has told of the order"
        if entry.client_order_id not in ("", ticket.client_order_id):
            raise OutcomeUnknown(f"What was told of order id {order_id} is about {entry.client_order_id}")
        return entry

    def _check_coins(self, ticket: Ticket) -> None:
        """Raises OrderRefused for coin orders with a time in force that the account does not allow. Market orders
        are always IOC."""
        if ticket.instrument.asset_class is not AssetClass.CRYPTO:
            return
        if ticket.order_type not in _COIN_TYPES:
            raise OrderRefused(
                f"IBKR takes coins at the market or with a limit, not as {ticket.order_type}", unsupported=True
            )
        usual = self._configuration.crypto_tif
        allowed = _COIN_TIFS[usual]
        if ticket.order_type is OrderType.LIMIT and ticket.tif is not None and ticket.tif not in allowed:
            taken = " or ".join(dict.fromkeys((usual, *sorted(allowed))))
            raise OrderRefused(
                f"The account's coins with a limit are {taken}, not {ticket.tif}; its setting crypto_tif says so",
                unsupported=True,
            )

    def _order(self, ticket: Ticket) -> Any:
        """The library's order object. Numbers are passed as text, so that they are sent as written."""
        order = self._library.order()
        order.action = ticket.side.value
        order.orderType = _ORDER_TYPES[ticket.order_type]
        order.totalQuantity = plain(ticket.quantity)
        order.tif = (ticket.tif or Tif.DAY).value
        order.account = self._account
        order.orderRef = ticket.client_order_id
        order.outsideRth = self._configuration.outside_rth
        order.transmit = True
        if ticket.link is not None:
            # One cancels all, with block: only one of them is worked at a time, and what it fills is taken off the others.
            order.ocaGroup, order.ocaType = ticket.link, 2
        if ticket.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) and ticket.limit_price is not None:
            order.lmtPrice = plain(ticket.limit_price)
        if ticket.order_type in (OrderType.STOP, OrderType.STOP_LIMIT) and ticket.stop_price is not None:
            order.auxPrice = plain(ticket.stop_price)
        if ticket.instrument.asset_class is AssetClass.CRYPTO:
            at_once = ticket.order_type is OrderType.MARKET
            order.tif = Tif.IOC.value if at_once else str(ticket.tif or self._configuration.crypto_tif)
        if ticket.display_quantity is not None:
            order.displaySize = int(ticket.display_quantity)
        if ticket.cash_quantity is not None:
            order.totalQuantity, order.cashQty = "0", plain(ticket.cash_quantity)
        return order

    def _usable_number(self, session: Session, reserved: str | None, tag: str) -> int:
        """The order id, if it was reserved under the present client id and no higher one was used. The last one may
        be used again: if it had arrived, the order is modified into itself."""
        client_id, colon, order_id = (reserved or "").partition(":")
        if not colon or not order_id.isdigit() or client_id != str(session.client_id):
            raise ReservationLost(
                f"The order id {reserved} was not reserved under client id {session.client_id}; nothing was sent"
            )
        if int(order_id) < self._highest_sent or int(order_id) < session.next_order_id:
            raise ReservationLost(f"The order id {reserved} was passed over by a later one; nothing was sent")
        holder = self._blotter.of_ids(session.client_id, int(order_id))
        is_taken = holder is not None and holder.client_order_id not in ("", tag)
        last_id, last_tag = self._last_sent  # ids below it were skipped
        if is_taken or (last_id == reserved and last_tag != tag):
            # Reserved before a crash, and since then used by another order, which sending it again would modify.
            raise ReservationLost(f"The order id {reserved} is another order's by now; nothing was sent")
        return int(order_id)

    def _number_to_cancel(self, session: Session, ref: OrderRef) -> int:
        with_tag = self._blotter.with_tag(ref.client_order_id)
        own = [entry for entry in with_tag if entry.broker_order_id == ref.broker_order_id]
        entry = (
            (own or self._blotter.duplicates(ref.client_order_id)[:1] or with_tag)[-1]
            if with_tag
            else self._blotter.named(ref.broker_order_id or "")
        )
        named = entry.broker_order_id if entry is not None and entry.order_id else ref.broker_order_id or ""
        client_id, colon, order_id = named.partition(":")
        if not colon or not order_id.isdigit():
            state = "" if entry is None else f", which is {entry.report_status}"
            raise OrderRefused(f"No order {ref.broker_order_id or ref.client_order_id} that can be cancelled{state}")
        if client_id != str(session.client_id):
            raise OrderRefused(
                f"The order {named} was placed under client id {client_id}, and this session has {session.client_id}: "
                "only the one that placed it, or a person at the gateway, can cancel it"
            )
        return int(order_id)

    async def _contract(self, session: Session, instrument: Instrument) -> Qualified:
        """Queried once a day for each way of naming an instrument."""
        known = self._known(self._contracts.get(instrument))
        if known is not None:
            return known
        async with self._looking_up:
            known = self._known(self._contracts.get(instrument))
            if known is None:
                known = await self._looked_up(session, instrument)
                self._remember(instrument, known)
        return known

    def _remember(self, instrument: Instrument, found: Qualified) -> None:
        if len(self._contracts) > _CONTRACTS_REMEMBERED:
            self._contracts.clear()
            self._by_number.clear()
        known = _CachedContract(found, instrument, self._clock().date())
        self._contracts[instrument] = known
        if found.terms.con_id is not None:
            self._by_number[found.terms.con_id] = known

    def _known(self, known: _CachedContract | None) -> Qualified | None:
        return known.found if known is not None and known.day == self._clock().date() else None

    async def _looked_up(self, session: Session, instrument: Instrument, *, with_rule: bool = True) -> Qualified:
        """In dollars, if the order leaves the currency open and there is such a contract; else in the only currency
        there is. `with_rule`: including its price increments, which only an order needs."""
        try:
            details = await self._details(session, instrument, default_currency="USD")
        except _NoContract:
            if instrument.currency is not None or instrument.con_id is not None or instrument.asset_class in _IN_PAIRS:
                raise
            details = await self._details(session, instrument, default_currency="")
        try:
            chosen = the_one(instrument, details)
            rule = rule_number(chosen) if with_rule else None
            return qualified(instrument, chosen, await self._market_rule(session, rule))
        except (ValueError, ArithmeticError) as exc:
            raise NotAnswered(f"The contract {instrument.full_key} cannot be read: {exc}") from exc

    async def _details(self, session: Session, instrument: Instrument, *, default_currency: str) -> list[Any]:
        question = question_for(
            self._library,
            instrument,
            crypto_exchange=self._configuration.crypto_exchange,
            default_currency=default_currency,
        )
        await self._other_calls_of(1)
        try:
            return await session.contract_details(question, self._configuration.query_seconds)
        except QuestionFailed as exc:
            raise self._contract_error(instrument, exc) from exc
        except NotConnected as exc:
            raise self._unavailable(f"The contract {instrument.full_key} could not be looked up: {exc}") from exc
        except TimeoutError as exc:
            raise NotAnswered(f"The contract {instrument.full_key} could not be looked up: no answer in time") from exc

    def _contract_error(self, instrument: Instrument, failed: QuestionFailed) -> BrokerError:
        """The error for an order when the gateway answers that the contract cannot be determined."""
        if failed.code == codes.NO_DEFINITION:
            return _NoContract(f"IBKR knows no contract for {instrument.full_key}")
        words = f"The contract {instrument.full_key} could not be looked up: {failed}"
        match codes.meaning_for_question(failed.code):
            case codes.Meaning.REFUSED:
                return OrderRefused(words)
            case codes.Meaning.NOT_TAKEN if failed.code == codes.TOO_MANY:
                self.on_too_many()
                return RateLimited(words, wait_seconds=_AFTER_TOO_MANY_SECONDS)
            case codes.Meaning.NOT_TAKEN:
                return self._unavailable(words)
        return NotAnswered(words)

    async def _market_rule(self, session: Session, rule: int | None) -> list[Any]:
        """Without an answer the contract's minimum tick is used, and IBKR refuses prices that do not fit."""
        if rule is None:
            return []
        if rule not in self._rules:
            await self._other_calls_of(1)
            try:
                steps = await session.market_rule(rule, self._configuration.query_seconds)
                for step in steps:
                    amount(step.increment, least=0)
                    amount(step.lowEdge, least=0)
                self._rules[rule] = steps
            except (NotConnected, QuestionFailed, TimeoutError, ValueError) as exc:
                _log.info("The market rule %s was not told: %s", rule, exc)
                return []
        return self._rules[rule]

    # Questions

    async def reports(self, since: int | None = None) -> Reports:
        """From what the server has pushed. The lists are read first when they are due, or when something is
        doubtful."""
        session = self._ready_session()
        if self._must_read_lists or time.monotonic() - self._read_at >= self._configuration.poll_seconds:
            await self._read_lists(session)
        return Reports(self._blotter.reports(since), self._blotter.mark, unreadable=self._blotter.unreadable())

    async def find(self, client_order_id: str) -> Report | None:
        """None: all lists were answered and none has an order with this tag (which does not mean that it was
        refused). Raises AnswerUnclear if something unreadable in them may be the order."""
        await self._read_lists(self._ready_session())
        hole = self._gap(client_order_id)
        if hole is not None:
            raise AnswerUnclear(f"Order {client_order_id} may be one that cannot be read: {hole.words}")
        return self._shown(client_order_id)

    async def find_all(self, client_order_ids: Collection[str]) -> Mapping[str, Report | None]:
        """With one reading of the lists."""
        await self._read_lists(self._ready_session())
        return {tag: self._shown(tag) for tag in client_order_ids if self._gap(tag) is None}

    def _listed(self, client_order_id: str) -> list[Entry]:
        return [entry for entry in self._blotter.with_tag(client_order_id) if self._blotter.is_mentioned(entry)]

    def _gap(self, client_order_id: str) -> UnreadableGap | None:
        """Something unreadable in the lists that may be an order with this tag, if they do not show it otherwise."""
        return None if self._listed(client_order_id) else self._blotter.gap_of(client_order_id)

    def _shown(self, client_order_id: str) -> Report | None:
        found = self._listed(client_order_id)
        if len(found) > 1:
            _log.error("%s orders at IBKR carry the tag %s", len(found), client_order_id)
        if not found:
            # An order that was shown once was acknowledged; being no longer shown is no refusal.
            is_known = bool(self._blotter.with_tag(client_order_id))
            whole = self._blotter.whole_tag(client_order_id)
            refused = None if is_known else self._unacknowledged.refusal_of(whole)
            return None if refused is None else replace(refused, client_order_id=client_order_id)
        first = next(iter(self._blotter.duplicates(client_order_id)), None)
        return self._blotter.report(first or found[-1], client_order_id)

    async def positions(self) -> Sequence[BrokerPosition]:
        session = self._ready_session()
        rows, odd = await self._answered(lambda: session.positions(self._configuration.query_seconds), "positions")
        own = [(contract, *rest) for account, contract, *rest in rows if account == self._account and rest[0]]
        await self._learn(session, [contract for contract, *_ in own])
        return [*map(self._unclear_position, odd), *(self._position(*row) for row in own)]

    async def _learn(self, session: Session, contracts: Sequence[Any]) -> None:
        """Queries the facts of contracts that no order has asked for yet, where prices may be in another unit than costs; until they are
        known, average prices are not reported. A contract without facts is queried once a day, one without an answer after a pause. No order
        waits for this."""
        unknown = [each for each in contracts if self._is_to_be_learned(each)][:_LEARNED_AT_ONCE]
        if not unknown:
            return
        asked: Any = None
        try:
            async with asyncio.timeout(_LEARNING_SECONDS), self._learning:
                for asked in filter(self._is_to_be_learned, unknown):
                    await self._learn_of(session, asked)
        except TimeoutError:
            if asked is not None:
                self._postpone(int(asked.conId), "no answer in time")
        except BrokerError as exc:
            _log.info("What positions are worth is not asked any further now: %s", exc)

    async def _learn_of(self, session: Session, contract: Any) -> None:
        instrument, con_id = instrument_of(contract), int(contract.conId)
        today = self._clock().date()
        try:
            found = await self._looked_up(session, replace(instrument, con_id=con_id), with_rule=False)
        except OrderRefused as exc:
            self._unknown_on[con_id] = today
            _log.info("What a position in %s is worth is not known: %s", instrument.full_key, exc)
        except NotAnswered as exc:
            self._postpone(con_id, str(exc))
        else:
            self._by_number[con_id] = _CachedContract(found, instrument, today)

    def _postpone(self, con_id: int, why: str) -> None:
        self._unanswered[con_id] = time.monotonic() + _LEARNED_AGAIN_SECONDS
        _log.info("What a position in contract %s is worth was not told: %s", con_id, why)

    def _is_to_be_learned(self, contract: Any) -> bool:
        try:
            held = instrument_of(contract)
        except ValueError:
            return False  # it is reported as unclear
        con_id = int(contract.conId)
        is_asked = con_id in self._by_number or self._unknown_on.get(con_id) == self._clock().date()
        is_put_off = time.monotonic() < self._unanswered.get(con_id, 0.0)
        return bool(con_id) and not (is_asked or is_put_off) and _is_worth_unknown(held)

    def _position(self, contract: Any, quantity: Any, average_cost: Any) -> BrokerPosition:
        """IBKR reports the average cost of one contract in its currency, including the multiplier and never in
        cents; the price magnifier comes from the contract's facts. Unclear if the quantity is impossible or the
        contract cannot be identified."""
        con_id = int(contract.conId) or None
        known = None if con_id is None else self._by_number.get(con_id)
        try:
            reported = instrument_of(contract)
        except ValueError:
            return UNNAMED_POSITION
        terms = None if known is None else known.found.terms
        held = amount_or_none(quantity)
        return BrokerPosition(
            instrument=reported if known is None else known.instrument,
            quantity=held or Decimal(0),
            average_price=_price_of_cost(amount_or_none(average_cost), reported, terms),
            also_called=other_symbols(contract),
            con_id=con_id,
            terms=terms,
            is_unclear=held is None,
        )

    def _unclear_position(self, row: Unreadable) -> BrokerPosition:
        """The position that an unreadable row may be about, as far as it can be identified."""
        if not row.contract:
            known = self._by_number.get(row.con_id)
            if known is None:
                return UNNAMED_POSITION
            return replace(UNNAMED_POSITION, instrument=known.instrument, con_id=row.con_id)
        symbol, kind, expiry, strike, right, _, _, currency, local = row.contract
        contract = self._library.contract(
            conId=row.con_id,
            symbol=symbol,
            secType=kind,
            lastTradeDateOrContractMonth=expiry,
            strike=amount_or_none(strike) or 0.0,
            right=right,
            currency=currency,
            localSymbol=local,
        )
        return self._position(contract, float("nan"), float("nan")) if symbol else UNNAMED_POSITION

    async def balances(self) -> Sequence[Balance]:
        session = self._ready_session()
        seconds = self._configuration.query_seconds
        rows = await self._answered(lambda: session.account_values(self._account, seconds), "balances")
        return balances_in(rows)

    async def quotes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Quote | NoQuote]:
        """A snapshot for each, all at once, of the data that the account subscribes to. Half of the calls within a second that are not for orders are
        left to others: of more instruments the rest is left out."""
        session = self._ready_session()
        spare = min(self._other_calls.left().values()) - self._configuration.other_calls_per_second // 2
        if spare < 1:
            raise RateLimited("IBKR is asked for no quotes now: the calls are needed for orders", wait_seconds=1.0)
        asked: list[Instrument] = []
        for instrument in instruments:
            spare -= 1 if self._known(self._contracts.get(instrument)) is not None else _CALLS_OF_A_CONTRACT
            if spare < 0:
                break
            asked.append(instrument)
        told = await asyncio.gather(*(self._quote(session, each) for each in asked))
        return {each: quote for each, quote in zip(asked, told, strict=True) if quote is not None}

    async def quotes_in_words(self) -> str:
        """Nothing is asked: each market has a subscription of its own."""
        return "Quotes of the markets whose live data the account subscribes to; delayed ones are taken for none."

    async def _quote(self, session: Session, instrument: Instrument) -> Quote | NoQuote | None:
        """None: it was not answered."""
        try:
            contract = (await self._contract(session, instrument)).contract
            await self._other_calls_of(1)
            ticks = await session.snapshot(contract, _QUOTE_SECONDS)
        except OrderRefused as exc:
            return NoQuote(reason=exc.reason)
        except QuestionFailed as exc:
            return None if exc.code in _NO_ANSWER_NOW else NoQuote(reason=str(exc))
        except NotConnected as exc:
            raise self._unavailable(f"The gateway did not tell a quote: {exc}") from exc
        except NotAnswered:
            return None
        return quote_in(ticks, self._clock())

    async def _answered(self, ask: Callable[[], Awaitable[T]], what: str) -> T:
        try:
            async with self._asking:
                await self._other_calls_of(_CALLS_OF_A_SUBSCRIPTION)
                answer = await ask()
        except (NotConnected, QuestionFailed, TimeoutError) as exc:
            raise self._unavailable(f"The gateway did not tell the {what}: {str(exc) or 'no answer in time'}") from exc
        return answer

    async def _read_lists(self, session: Session) -> None:
        """All three lists, in the direction in which an order moves, so that an order that leaves one is found in
        the next. A caller that waits while a reading is under way that began after its request uses that reading.
        Raises BrokerUnavailable unless each list was answered."""
        seconds = self._configuration.query_seconds
        wanted = self._rounds_begun + 1
        async with self._asking:
            if self._last_whole_round >= wanted:
                return
            await self._other_calls_of(_CALLS_OF_A_ROUND)
            self._rounds_begun += 1
            begun_at = time.monotonic()
            doubtful, self._must_read_lists = self._must_read_lists, False
            self._blotter.begin_round()
            questions = [
                asyncio.ensure_future(session.open_orders(seconds)),
                asyncio.ensure_future(session.completed_orders(seconds)),
                asyncio.ensure_future(session.executions(self._account, seconds)),
            ]
            try:
                await asyncio.gather(*questions)
            except (NotConnected, QuestionFailed, TimeoutError) as exc:
                self._must_read_lists = True
                why = str(exc) or "no answer in time"
                raise self._unavailable(f"The gateway did not tell the account's orders: {why}") from exc
            except BaseException:
                self._must_read_lists = doubtful
                raise
            finally:
                for question in questions:
                    question.cancel()
                await asyncio.gather(*questions, return_exceptions=True)
            self._blotter.end_round()
            self._unacknowledged.lists_read(begun_at)
            if self._is_ready and self._forgotten_on != self._clock().date():
                self._forget_old()
            self._last_whole_round = self._rounds_begun
            self._read_at = time.monotonic()

    # The rate budget

    async def _order_call(self, claim: CallPriority, *, queues_seconds: float | None = None) -> None:
        try:
            await self._order_calls.take(claim, patience_seconds=_ORDER_PATIENCE_SECONDS, queues_seconds=queues_seconds)
        except BudgetSpent as exc:
            raise _spent(exc) from exc

    async def _other_calls_of(self, number: int) -> None:
        try:
            for _ in range(number):
                await self._other_calls.take(patience_seconds=_OTHER_PATIENCE_SECONDS)
        except BudgetSpent as exc:
            raise _spent(exc) from exc

    def on_too_many(self) -> None:
        """The gateway reported too many messages."""
        self._order_calls.pause(_AFTER_TOO_MANY_SECONDS)
        self._other_calls.pause(_AFTER_TOO_MANY_SECONDS)

    # What the session hears

    def on_open_order(self, order: Any, state: Any) -> None:
        if order.account != self._account:
            return
        entry = self._blotter.note_order(
            client_id=order.clientId,
            order_id=_checked_order_id(order.orderId),
            perm_id=order.permId,
            client_order_id=order.orderRef or self._unacknowledged.tag_of(f"{order.clientId}:{order.orderId}"),
            status=state.status or "",
        )
        if entry is None:
            return
        self._acknowledged(entry)
        hold = hold_in(state.warningText or "")
        if hold is not None:
            self._blotter.note_hold(entry, hold)
        self._answer_placing(entry, state.status)

    def on_order_status(self, order_id: int, status: str, filled: float, perm_id: int, client_id: int) -> None:
        entry = self._blotter.note_status(
            client_id=client_id,
            order_id=_checked_order_id(order_id),
            perm_id=perm_id,
            status=status,
            filled=amount(filled, least=0),
        )
        tag = self._unacknowledged.tag_of(f"{client_id}:{order_id}")
        if entry is None and tag:
            entry = self._blotter.note_order(
                client_id=client_id, order_id=order_id, perm_id=perm_id, client_order_id=tag, status=status
            )
        if entry is not None:
            self._acknowledged(entry)
            self._answer_placing(entry, status)
        if self._is_own(client_id) and status in ("PendingCancel", "Cancelled", "ApiCancelled"):
            self._settle_cancelling(order_id)

    def on_completed_order(self, order: Any, state: Any) -> None:
        if order.account == self._account:
            filled = optional_amount(order.filledQuantity)
            if filled is None and state.status == "Filled":
                filled = optional_amount(
                    order.totalQuantity
                )  # unknown, not zero: executions of earlier days are not shown
            entry = self._blotter.note_completed(
                perm_id=order.permId,
                client_order_id=order.orderRef or "",
                status=state.status or "",
                filled=filled or Decimal(0),
                words=state.completedStatus or "",
            )
            if entry is not None:
                self._acknowledged(entry)

    def on_execution(self, execution: Any, moment: Moment, contract: Any) -> None:
        if execution.acctNumber == self._account and contract.secType != BAG:
            # A combination's own row says once more, at the net price, what the rows of its legs say.
            if moment.is_estimated:
                self._log_estimate(execution, moment)
            tag = execution.orderRef or self._unacknowledged.tag_of(f"{execution.clientId}:{execution.orderId}")
            entry = self._blotter.note_execution(
                client_id=execution.clientId,
                order_id=_checked_order_id(execution.orderId),
                perm_id=execution.permId,
                client_order_id=tag,
                execution=Execution(
                    exec_id=execution.execId,
                    quantity=amount(execution.shares, least=0),
                    price=amount(execution.price),
                    time=moment.at,
                    is_time_estimated=moment.is_estimated,
                    con_id=int(contract.conId or 0),
                ),
                traded=None if tag else _traded(contract, execution),
            )
            self._acknowledged(entry)
            self._answer_placing(entry, "Submitted")

    def _log_estimate(self, execution: Any, moment: Moment) -> None:
        """Once per execution: the lists repeat it."""
        if execution.execId not in self._estimates_logged:
            self._estimates_logged[execution.execId] = None
            if len(self._estimates_logged) > _ESTIMATES_REMEMBERED:
                self._estimates_logged.popitem(last=False)
            _log.warning(
                "Order %s: execution %s is taken as of %s, %s",
                execution.orderRef or f"{execution.clientId}:{execution.orderId}",
                execution.execId,
                moment.at.isoformat(),
                moment.trouble,
            )

    def on_commission(self, report: Any) -> None:
        reported = amount_or_none(report.commission)
        if reported is not None:
            self._blotter.note_commission(report.execId, Commission(amount=reported, currency=report.currency or "USD"))

    def on_unreadable(self, message: Unreadable) -> None:
        """It may be about an order of ours. The lists are not read again for it while they are being read (it would
        be there again), nor for each of many: the next periodic reading comes anyway."""
        self._blotter.note_unreadable(
            client_id=message.client_id,
            order_id=message.order_id,
            perm_id=message.perm_id,
            client_order_id=message.tag,
            words=message.words,
        )
        now = time.monotonic()
        if not self._asking.locked() and now - self._lists_required_at >= _BETWEEN_DOUBTS_SECONDS:
            self._lists_required_at = now
            self.on_gap()

    def on_order_error(self, order_id: int, code: int, text: str) -> None:
        """A message on one of our order ids. For a waiting placing it is an answer only if no acknowledgement
        follows. It never ends an acknowledged order, whose status says what became of it."""
        if self._session is None:
            return
        client_id, named = self._session.client_id, f"{self._session.client_id}:{order_id}"
        is_shown = not self._unacknowledged.tag_of(named)
        entry = self._blotter.of_ids(client_id, order_id) if is_shown else None
        hold = hold_in(text) if code == codes.ORDER_MESSAGE else None
        if hold is not None and entry is not None:
            self._blotter.note_hold(entry, hold)
        is_remark = codes.meaning_for_order(code) is codes.Meaning.INFORMATION
        if entry is not None and not is_remark and code not in codes.CANCEL_REFUSED:
            rejected, cancelled = codes.is_rejection(code), code == codes.CANCELLED
            self._blotter.note_reason(entry, on_one_line(code, text), rejected=rejected, cancelled=cancelled)
        if order_id not in self._waits.cancelling:
            self._unacknowledged.said(named, code, text, time.monotonic(), hold=hold)
        wait = self._waits.cancelling.get(order_id)
        if wait is not None:
            self._answer_cancelling(wait, code, text)
        placement = self._waits.placement.get(order_id)
        if placement is not None and entry is None:
            placement.hold = hold or placement.hold  # it may come before anything else about the order
        if placement is not None:
            self._on_placing_message(placement, code, text, is_shown=is_shown)
            return
        if hold is not None or (code == codes.CANCELLED and entry is not None and entry.is_final):
            return  # nothing is open about it
        if code not in codes.CANCEL_REFUSED:
            _log.warning("IBKR says of order %s: %s (code %s)", order_id, text, code)
        self._must_read_lists = True

    def on_margin_warning(self, text: str) -> None:
        """Unless it names another account of the login. An id may begin or end with another's: whole words count."""
        accounts = () if self._session is None else self._session.accounts
        named = {name for name in accounts if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)}
        if named and self._account not in named:
            return
        self._margin_warning, self._margin_warned_at = " ".join(text.split()), time.monotonic()
        _log.warning("IBKR warns of the margin of account %s: %s", self._account, self._margin_warning)

    def on_gap(self) -> None:
        self._must_read_lists = True
        self._give_hint()

    def on_data(self) -> None:
        if self._blotter.mark != self._hinted_mark or self._must_read_lists:
            self._hinted_mark = self._blotter.mark
            self._give_hint()

    def on_lost(self) -> None:
        self._is_ready = False
        lost = OutcomeUnknown("The connection to the gateway broke before it answered")
        for wait in (*self._waits.placement.values(), *self._waits.cancelling.values()):
            wait.settle_by_messages(lost)
        self._give_hint()

    def _is_own(self, client_id: int) -> bool:
        return self._session is not None and self._session.client_id == client_id

    def _give_hint(self) -> None:
        if self._hint is not None and self._session is not None:
            asyncio.get_running_loop().call_soon(self._call_hint)

    def _call_hint(self) -> None:
        if self._hint is not None and self._session is not None:
            self._hint()

    def _answer_placing(self, entry: Entry, status: str) -> None:
        wait = self._waits.placement.get(entry.order_id) if self._is_own(entry.client_id) else None
        if wait is None:
            return
        if wait.hold is not None:
            self._blotter.note_hold(entry, wait.hold)
        if status in _TAKEN:
            wait.settle()
        elif status == "Inactive" and wait.held is None:
            # A rejection says so in its next message; without one the order is working, and held.
            wait.held = asyncio.get_running_loop().call_later(_HELD_SECONDS, wait.settle)

    def _acknowledged(self, entry: Entry) -> None:
        """The gateway has shown the order: its earlier messages on this id become remarks, and the reason in case it
        ends."""
        earlier = self._unacknowledged.acknowledged(entry.client_order_id)
        if earlier is not None and earlier.words:
            self._blotter.note_reason(entry, earlier.words, rejected=earlier.is_rejection)
        if earlier is not None and earlier.hold is not None:
            self._blotter.note_hold(entry, earlier.hold)

    def _on_placing_message(self, wait: _Wait, code: int, text: str, *, is_shown: bool) -> None:
        """A message on the id of an order whose placing waits. `is_shown`: the gateway has shown the order, though
        not as working."""
        said, meaning = on_one_line(code, text), codes.meaning_for_order(code)
        if meaning is codes.Meaning.EXISTS:
            self._must_read_lists = True
            wait.settle(OrderAlreadyExists(said))
            return
        _log.info("IBKR says while placing: %s; %s", said, meaning)
        if code == codes.TOO_MANY:
            self.on_too_many()
            wait.not_taken = RateLimited(said, wait_seconds=_AFTER_TOO_MANY_SECONDS)
        elif meaning is codes.Meaning.NOT_TAKEN:
            wait.not_taken = self._unavailable(said)
        else:
            wait.words.append(said)
            wait.is_refused = wait.is_refused or meaning is codes.Meaning.REFUSED
        if wait.is_refused and is_shown:
            wait.settle_by_messages()
        else:
            wait.end_in(_REMARK_SECONDS if meaning is codes.Meaning.INFORMATION else _WORDS_SECONDS)

    def _settle_cancelling(self, order_id: int) -> None:
        wait = self._waits.cancelling.get(order_id)
        if wait is not None:
            wait.settle()

    def _answer_cancelling(self, wait: _Wait, code: int, text: str) -> None:
        if code == codes.CANCELLED:
            wait.settle()
        elif code in codes.CANCEL_REFUSED:
            wait.settle(OrderRefused(f"{text} (code {code})"))
        elif codes.meaning_for_order(code) is codes.Meaning.NOT_TAKEN:
            wait.settle(self._unavailable(f"{text} (code {code})"))


def _claim_of(ticket: Ticket) -> CallPriority:
    return CallPriority.EXIT if ticket.is_exit else CallPriority.ORDINARY


def _is_worth_unknown(held: Instrument) -> bool:
    """Whether only the contract's facts tell how much money one unit of its price is."""
    is_in_hundredths = held.currency in _IN_HUNDREDTHS and held.asset_class not in _NEVER_IN_HUNDREDTHS
    return is_in_hundredths or held.asset_class in DERIVATIVES


def _price_of_cost(cost: Decimal | None, held: Instrument, terms: ContractTerms | None) -> Decimal | None:
    """The cost of one contract as a market price; None if the money per point is not known. A bond's is returned as
    it is."""
    worth = None if _is_worth_unknown(held) else ONE
    if terms is not None and not terms.is_size_unknown:
        worth = terms.money_per_point
    return None if cost is None or worth is None else cost / worth


def _traded(contract: Any, execution: Any) -> tuple[Instrument, Side] | None:
    """What somebody else has traded, and on which side; None: that cannot be read."""
    side = {"BOT": Side.BUY, "SLD": Side.SELL}.get(str(execution.side))
    try:
        return None if side is None else (instrument_of(contract), side)
    except (ValueError, ArithmeticError):
        return None


def _checked_order_id(order_id: int) -> int:
    """Raises ValueError for an impossible id: ids count up from the highest, and the gateway takes at most 32 bits."""
    if order_id >= _ORDER_IDS_END:
        raise ValueError(f"{order_id} is no order id")
    return order_id


def _spent(spent: BudgetSpent) -> RateLimited:
    return RateLimited(f"IBKR: {spent}", wait_seconds=spent.wait_seconds)


def _is_loopback(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
