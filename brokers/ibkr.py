"""One account at IBKR through a TWS or IB Gateway: the Broker protocol over a session and a blotter; the wire is the client library's."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationInfo, field_validator

from brokers import ibkr_codes as codes
from brokers.base import (
    AssetClass,
    Balance,
    BrokerPosition,
    Capabilities,
    Instrument,
    OrderRef,
    OrderType,
    Report,
    Reports,
    Ticket,
    Tif,
)
from brokers.configuration import Calls, MeteredConfiguration, Number, TimeOfDay, TimeOut, Whole, Wrong, Zone
from brokers.errors import (
    BrokerError,
    BrokerUnavailable,
    CallsSpent,
    NotAnswered,
    OrderAlreadyExists,
    OrderRefused,
    OutcomeUnknown,
    ReservationLost,
)
from brokers.ibkr_blotter import Blotter, Commission, Entry, Execution, Hold
from brokers.ibkr_contracts import (
    TRADED,
    Qualified,
    fitted,
    instrument_of,
    number,
    optional_number,
    other_symbols,
    plain,
    qualified,
    question_for,
    rule_number,
    the_one,
)
from brokers.ibkr_hold import hold_in
from brokers.ibkr_library import Library, choose
from brokers.ibkr_session import ClientIdInUse, NotConnected, QuestionFailed, Session
from brokers.rate import BudgetSpent, Claim, RateBudget

_log = logging.getLogger(__name__)
_ORDER_TYPES = {
    OrderType.MARKET: "MKT",
    OrderType.LIMIT: "LMT",
    OrderType.STOP: "STP",
    OrderType.STOP_LIMIT: "STP LMT",
}
_PAPER_ACCOUNTS = ("DU", "DF")
_CLIENT_ID_PAUSE_SECONDS = 0.25
_CLIENT_ID_PATIENCE = 2
"""How often the same client id is tried again before the next one: a gateway takes a moment to notice that a socket is gone."""
_OWN_CLIENT_ID_PATIENCE = 8
"""The same for the id that this adapter had last, two seconds: under another one it could not cancel what it has placed, but orders and news
wait meanwhile, and whoever has the id longer than that will not give it back soon."""
_HELD_SECONDS = 0.3
"""How long an order shown as inactive is waited for to be rejected, before it counts as taken and held."""
_SEND_AGAIN_SECONDS = 2.0
"""Orders of the account wait for it, since the same id may leave again only as long as no later one has; and if the order had arrived, it
changes into itself."""
_LINK_PATIENCE_SECONDS = 60.0
"""After so long without its servers the gateway is asked for a new session."""
_MESSAGES_A_SECOND = 45
"""What is above it the client libraries hold back, in one queue for all, in which nothing is urgent."""
_ORDER_PATIENCE_SECONDS = 2.0
"""How long the first of the waiting orders waits: longer than a second's limit makes it. Orders that have to wait for the minute or the day wait
with whoever has them, where they can still be cancelled and grow too old."""
_OTHER_PATIENCE_SECONDS = 5.0
_AFTER_TOO_MANY_SECONDS = 1.0
_CALLS_OF_A_ROUND = 3
_CALLS_OF_A_SUBSCRIPTION = 2
"""The question, and the word that no more is wanted."""
_TAKEN = frozenset({"PreSubmitted", "Submitted", "Filled", "Cancelled", "ApiCancelled", "PendingCancel"})


class Configuration(MeteredConfiguration):
    """One account's settings; times in seconds."""

    host: str = "127.0.0.1"
    port: Whole = Field(4002, ge=1, le=65535)
    client_id: Whole = Field(1, ge=0, le=2**31 - 100)
    client_id_tries: Whole = Field(5, ge=1, le=32)
    """So many ids from `client_id` on may be used when one is taken."""
    ibkr_account: str = ""
    """IBKR's own name of the account; empty: the only one of the login."""
    library: Literal["auto", "ib_insync", "ib_async"] = "auto"
    timezone: Zone | None = None
    """Of times that the gateway writes without one."""
    crypto_exchange: str = "PAXOS"
    outside_rth: bool = False
    connect_seconds: TimeOut = 10.0
    answer_seconds: TimeOut = 10.0
    """How long a placing or cancelling waits for the server's word."""
    query_seconds: TimeOut = 15.0
    poll_seconds: Number = Field(15.0, ge=0, le=86_400)
    """How often the lists of orders are read although the server pushes what happens; 0: for each call of `reports`."""
    restart_from: TimeOfDay = time_of_day(23, 40)
    restart_until: TimeOfDay = time_of_day(0, 50)
    restart_timezone: Zone = "America/New_York"
    """The hours in which the gateway may be away by routine; equal times: none."""
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


def create(config: Mapping[str, object]) -> IbkrBroker:
    """An IBKR broker, not yet connected; what may be told are the fields of `Configuration`. Raises ValueError naming all that is wrong."""
    configuration = Configuration.of(config, broker="ibkr")
    return IbkrBroker(configuration, choose(configuration.library))


@dataclass(slots=True)
class _Wait:
    """A placing or cancelling that waits for the server's word."""

    answer: asyncio.Future[None]
    client_order_id: str = ""
    held: asyncio.TimerHandle | None = None
    hold: Hold | None = None
    """It waits for the opening, as was said before the order itself was told of."""

    def settle(self, error: Exception | None = None) -> None:
        if self.held is not None:
            self.held.cancel()
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(None)
        else:
            self.answer.set_exception(error)


@dataclass(slots=True)
class _Waits:
    placing: dict[int, _Wait] = field(default_factory=dict)
    cancelling: dict[int, _Wait] = field(default_factory=dict)


class IbkrBroker:
    """Truth is what the server sends: statuses, executions, and the lists of open and completed orders, read whole after each connection and
    from time to time. The library's own picture of orders is not used.

    An order's id is `CLIENT:ORDER`, the two numbers by which the gateway knows what an API client placed. The gateway takes an order under
    one such id once: the same id again changes an order that is open (here into itself), and is refused (103, 104) for one that is done
    and for an id that a later order has passed over. Hence a ticket with a reserved id can be sent again and there is one order still,
    which is what `refuses_repeated_client_id` says. Ids therefore leave in the sequence in which they were reserved, one placing at a time,
    and one that was passed over is not sent at all.
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
        """The lists have been read whole in this session."""
        self._is_doubtful = False
        """Something was said that only the lists can settle."""
        self._read_at = 0.0
        self._link_lost_at: float | None = None
        self._connecting = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._looking_up = asyncio.Lock()
        self._waits = _Waits()
        self._next_order_id = 1
        self._highest_sent = 0
        self._last_client_id: int | None = None
        self._sent: dict[str, str] = {}
        """The ids under which tags have left, and perhaps arrived."""
        self._contracts: dict[str, Qualified] = {}
        self._instruments: dict[int, Instrument] = {}
        self._rules: dict[int, list[Any]] = {}
        self._hint: Callable[[], None] | None = None
        self._told_mark = 0
        self._order_calls = RateBudget(configuration.order_limits)
        self._other_calls = RateBudget(configuration.other_limits)
        self._rounds_begun = 0
        self._last_whole_round = 0

    @property
    def name(self) -> str:
        return "IBKR"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            asset_classes=TRADED,
            refuses_repeated_client_id=True,
            needs_reservation=True,
            splits_option_combinations=False,
            commission_currency="USD",
            concurrent_calls=1,
            find_window_seconds=10.0,
            send_again_seconds=_SEND_AGAIN_SECONDS,
            is_paper=self._account.upper().startswith(_PAPER_ACCOUNTS) if self._account else None,
            concern=self._concern(),
            notes=self._notes(),
        )

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
            except CallsSpent:
                raise
            except BrokerUnavailable:
                self._drop_session()
                raise
            self._blotter.forget_old()
            own = self._blotter.highest_order_id(session.client_id)
            self._next_order_id = max(session.next_order_id, own + 1, self._highest_sent + 1)
            self._is_ready = True

    async def close(self) -> None:
        """Calls that wait for an answer end with OutcomeUnknown or BrokerUnavailable."""
        self._drop_session()

    def on_hint(self, callback: Callable[[], None] | None) -> None:
        """`callback` is called whenever the server has told something new of the account's orders."""
        self._hint = callback

    async def _opened(self) -> Session:
        wanted = self._configuration
        for client_id in range(wanted.client_id, wanted.client_id + wanted.client_id_tries):
            patience = _OWN_CLIENT_ID_PATIENCE if client_id == self._last_client_id else _CLIENT_ID_PATIENCE
            for attempt in range(patience):
                session = Session(self._library, self, timezone=wanted.timezone or "")
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
            "An option that is one leg of several is refused: it would stand naked if the others did not fill.",
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
        if session is None or session.client_id == wanted:
            return None
        return f"Client id {wanted} is in use by another connection: what it placed cannot be cancelled from here."

    # Placing and cancelling

    async def fitted(self, ticket: Ticket) -> Ticket:
        """The ticket as its contract takes it; the contract is looked up first."""
        return fitted(ticket, await self._contract(self._ready_session(), ticket.instrument))

    async def reserve(self, ticket: Ticket, *, taken: Collection[str] = ()) -> str | None:
        """The order id, above all `taken`, once the contract is known and the ticket fits it. Raises OrderRefused, BrokerUnavailable:
        CallsSpent if the ticket would have to wait for more than the second's calls."""
        session = self._ready_session()
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
        """Without a reserved id it takes one. Nothing but the server's word is an answer."""
        session = self._ready_session()
        tag = ticket.client_order_id
        if self._blotter.tagged(tag) or any(wait.client_order_id == tag for wait in self._waits.placing.values()):
            raise OrderAlreadyExists(f"IBKR has an order {tag} already")
        reserved = ticket.reserved_order_id or self._sent.get(tag) or await self.reserve(ticket)
        contract = await self._contract(session, ticket.instrument)
        order = self._order(fitted(ticket, contract))
        await self._order_call(_claim_of(ticket))
        # From here to the sending nothing is awaited, so that ids leave in their sequence.
        session = self._ready_session()
        order_id = self._usable_number(session, reserved, tag)
        wait = _Wait(asyncio.get_running_loop().create_future(), tag)
        self._waits.placing[order_id] = wait
        try:
            session.place(order_id, contract.contract, order)
            self._highest_sent, self._sent[tag] = order_id, f"{session.client_id}:{order_id}"
            self._next_order_id = max(self._next_order_id, order_id + 1)
            return await self._placed(session, order_id, wait, ticket)
        except NotConnected as exc:
            raise self._unavailable(str(exc)) from exc
        except BrokerUnavailable:
            self._sent.pop(tag, None)
            raise
        finally:
            self._waits.placing.pop(order_id, None)

    async def cancel_order(self, ref: OrderRef, *, again: bool = False) -> None:
        session = self._ready_session()
        order_id = self._number_to_cancel(session, ref)
        await self._order_call(Claim.REPEATED if again else Claim.CANCEL, queues_seconds=_ORDER_PATIENCE_SECONDS)
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

    async def _placed(self, session: Session, order_id: int, wait: _Wait, ticket: Ticket) -> Report:
        try:
            async with asyncio.timeout(self._configuration.answer_seconds):
                await wait.answer
        except TimeoutError as exc:
            self._is_doubtful = True
            raise OutcomeUnknown(f"No answer from the gateway to the order {ticket.client_order_id}") from exc
        entry = self._blotter.of_ids(session.client_id, order_id)
        assert entry is not None, "whatever settles the wait has told of the order"
        if entry.client_order_id not in ("", ticket.client_order_id):
            raise OutcomeUnknown(f"What was told of order id {order_id} is about {entry.client_order_id}")
        return self._blotter.report(entry)

    def _order(self, ticket: Ticket) -> Any:
        """The library's order. Numbers go as text, so that they leave as they were written."""
        order = self._library.order()
        order.action = ticket.side.value
        order.orderType = _ORDER_TYPES[ticket.order_type]
        order.totalQuantity = plain(ticket.quantity)
        order.tif = (ticket.tif or Tif.DAY).value
        order.account = self._account
        order.orderRef = ticket.client_order_id
        order.outsideRth = self._configuration.outside_rth
        order.transmit = True
        if ticket.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) and ticket.limit_price is not None:
            order.lmtPrice = plain(ticket.limit_price)
        if ticket.order_type in (OrderType.STOP, OrderType.STOP_LIMIT) and ticket.stop_price is not None:
            order.auxPrice = plain(ticket.stop_price)
        if ticket.instrument.asset_class is AssetClass.CRYPTO:
            at_once = ticket.order_type is OrderType.MARKET
            order.tif = Tif.IOC.value if at_once else (ticket.tif or Tif.GTC).value
        if ticket.cash_quantity is not None:
            order.totalQuantity, order.cashQty = "0", plain(ticket.cash_quantity)
        return order

    def _usable_number(self, session: Session, reserved: str | None, tag: str) -> int:
        """The order id, if it was reserved under the present client id and no later one has left, which would have made it useless. The last
        one may leave again: if it had arrived, it changes that order into itself."""
        client_id, colon, order_id = (reserved or "").partition(":")
        if not colon or not order_id.isdigit() or client_id != str(session.client_id):
            raise ReservationLost(
                f"The order id {reserved} was not reserved under client id {session.client_id}; nothing was sent"
            )
        if int(order_id) < self._highest_sent or int(order_id) < session.next_order_id:
            raise ReservationLost(f"The order id {reserved} was passed over by a later one; nothing was sent")
        holder = self._blotter.of_ids(session.client_id, int(order_id))
        is_taken = holder is not None and holder.client_order_id not in ("", tag)
        if is_taken or any(sent == reserved and other != tag for other, sent in self._sent.items()):
            # Reserved before a death, and given to another order since: sent again, it would change that one.
            raise ReservationLost(f"The order id {reserved} is another order's by now; nothing was sent")
        return int(order_id)

    def _number_to_cancel(self, session: Session, ref: OrderRef) -> int:
        tagged = self._blotter.tagged(ref.client_order_id)
        own = [entry for entry in tagged if entry.broker_order_id == ref.broker_order_id]
        entry = (
            (own or self._blotter.twins(ref.client_order_id)[:1] or tagged)[-1]
            if tagged
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
        """Asked for once per instrument and process."""
        known = self._contracts.get(instrument.key)
        if known is not None:
            return known
        async with self._looking_up:
            if instrument.key not in self._contracts:
                found = await self._looked_up(session, instrument)
                self._contracts[instrument.key] = found
                self._instruments[int(found.contract.conId)] = instrument
        return self._contracts[instrument.key]

    async def _looked_up(self, session: Session, instrument: Instrument) -> Qualified:
        question = question_for(self._library, instrument, crypto_exchange=self._configuration.crypto_exchange)
        await self._other_calls_of(1)
        try:
            details = await session.contract_details(question, self._configuration.query_seconds)
        except QuestionFailed as exc:
            raise self._contract_error(instrument, exc) from exc
        except NotConnected as exc:
            raise self._unavailable(f"The contract {instrument.key} could not be looked up: {exc}") from exc
        except TimeoutError as exc:
            raise NotAnswered(f"The contract {instrument.key} could not be looked up: no answer in time") from exc
        chosen = the_one(instrument, details)
        return qualified(instrument, chosen, await self._market_rule(session, rule_number(chosen)))

    def _contract_error(self, instrument: Instrument, failed: QuestionFailed) -> BrokerError:
        """What an order learns from the gateway's answer that the contract cannot be told."""
        if failed.code == codes.NO_DEFINITION:
            return OrderRefused(f"IBKR knows no contract for {instrument.key}")
        words = f"The contract {instrument.key} could not be looked up: {failed}"
        match codes.meaning_for_question(failed.code):
            case codes.Meaning.REFUSED:
                return OrderRefused(words)
            case codes.Meaning.NOT_TAKEN if failed.code == codes.TOO_MANY:
                self.on_too_many()
                return CallsSpent(words, wait_seconds=_AFTER_TOO_MANY_SECONDS)
            case codes.Meaning.NOT_TAKEN:
                return self._unavailable(words)
        return NotAnswered(words)

    async def _market_rule(self, session: Session, rule: int | None) -> list[Any]:
        """Without an answer the contract's smallest tick serves, and IBKR refuses what does not fit."""
        if rule is None:
            return []
        if rule not in self._rules:
            await self._other_calls_of(1)
            try:
                self._rules[rule] = await session.market_rule(rule, self._configuration.query_seconds)
            except (NotConnected, QuestionFailed, TimeoutError) as exc:
                _log.info("The market rule %s was not told: %s", rule, exc)
                return []
        return self._rules[rule]

    # Questions

    async def reports(self, since: int | None = None) -> Reports:
        """From what the server has pushed; the lists are read first when it is time, or when something is doubtful."""
        session = self._ready_session()
        if self._is_doubtful or time.monotonic() - self._read_at >= self._configuration.poll_seconds:
            await self._read_lists(session)
        return Reports(self._blotter.reports(since), self._blotter.mark)

    async def find(self, client_order_id: str) -> Report | None:
        """None: all lists were answered, and none has an order with this tag."""
        await self._read_lists(self._ready_session())
        found = [entry for entry in self._blotter.tagged(client_order_id) if self._blotter.is_mentioned(entry)]
        if len(found) > 1:
            _log.error("%s orders at IBKR carry the tag %s", len(found), client_order_id)
        first = next(iter(self._blotter.twins(client_order_id)), None)
        return self._blotter.report(first or found[-1]) if found else None

    async def find_all(self, client_order_ids: Collection[str]) -> Mapping[str, Report | None]:
        """By one reading of the lists."""
        await self._read_lists(self._ready_session())
        return {tag: self._shown(tag) for tag in client_order_ids}

    def _shown(self, client_order_id: str) -> Report | None:
        found = [entry for entry in self._blotter.tagged(client_order_id) if self._blotter.is_mentioned(entry)]
        first = next(iter(self._blotter.twins(client_order_id)), None)
        return self._blotter.report(first or found[-1]) if found else None

    async def positions(self) -> Sequence[BrokerPosition]:
        session = self._ready_session()
        rows = await self._answered(lambda: session.positions(self._configuration.query_seconds), "positions")
        found = []
        for account, contract, quantity, average_cost in rows:
            if account == self._account and quantity:
                instrument = self._instruments.get(contract.conId) or instrument_of(contract)
                multiplier = optional_number(contract.multiplier) or Decimal(1)
                average = number(average_cost) / multiplier
                found.append(
                    BrokerPosition(
                        instrument=instrument,
                        quantity=number(quantity),
                        average_price=average,
                        also_called=other_symbols(contract),
                        con_id=int(contract.conId) or None,
                    )
                )
        return found

    async def balances(self) -> Sequence[Balance]:
        session = self._ready_session()
        seconds = self._configuration.query_seconds
        rows = await self._answered(lambda: session.account_values(self._account, seconds), "balances")
        values = {(key, currency): value for key, value, currency in rows}
        return [
            Balance(
                currency=currency,
                cash=Decimal(value),
                equity=optional_number(values.get(("NetLiquidationByCurrency", currency))),
            )
            for (key, currency), value in sorted(values.items())
            if key == "CashBalance" and currency not in ("", "BASE")
        ]

    async def _answered(self, ask: Callable[[], Awaitable[list[Any]]], what: str) -> list[Any]:
        try:
            async with self._asking:
                await self._other_calls_of(_CALLS_OF_A_SUBSCRIPTION)
                answer = await ask()
        except (NotConnected, QuestionFailed, TimeoutError) as exc:
            raise self._unavailable(f"The gateway did not tell the {what}: {str(exc) or 'no answer in time'}") from exc
        return answer

    async def _read_lists(self, session: Session) -> None:
        """All three, in the direction in which an order moves: what leaves one list meanwhile is in the next. Who waits while a round is read
        that began after he asked has his answer by it. Raises BrokerUnavailable unless each list was answered."""
        seconds = self._configuration.query_seconds
        wanted = self._rounds_begun + 1
        async with self._asking:
            if self._last_whole_round >= wanted:
                return
            await self._other_calls_of(_CALLS_OF_A_ROUND)
            self._rounds_begun += 1
            doubtful, self._is_doubtful = self._is_doubtful, False
            self._blotter.begin_round()
            questions = [
                asyncio.ensure_future(session.open_orders(seconds)),
                asyncio.ensure_future(session.completed_orders(seconds)),
                asyncio.ensure_future(session.executions(self._account, seconds)),
            ]
            try:
                await asyncio.gather(*questions)
            except (NotConnected, QuestionFailed, TimeoutError) as exc:
                self._is_doubtful = True
                why = str(exc) or "no answer in time"
                raise self._unavailable(f"The gateway did not tell the account's orders: {why}") from exc
            except BaseException:
                self._is_doubtful = doubtful
                raise
            finally:
                for question in questions:
                    question.cancel()
                await asyncio.gather(*questions, return_exceptions=True)
            self._blotter.end_round()
            self._last_whole_round = self._rounds_begun
            self._read_at = time.monotonic()

    # The rate budget

    async def _order_call(self, claim: Claim, *, queues_seconds: float | None = None) -> None:
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
        """The gateway says that there were too many messages."""
        self._order_calls.pause(_AFTER_TOO_MANY_SECONDS)
        self._other_calls.pause(_AFTER_TOO_MANY_SECONDS)

    # What the session hears

    def on_open_order(self, order: Any, state: Any) -> None:
        if order.account != self._account:
            return
        entry = self._blotter.order_said(
            client_id=order.clientId,
            order_id=order.orderId,
            perm_id=order.permId,
            client_order_id=order.orderRef or "",
            status=state.status or "",
        )
        hold = hold_in(state.warningText or "")
        if hold is not None:
            self._blotter.hold_said(entry, hold)
        self._answer_placing(entry, state.status)

    def on_order_status(self, order_id: int, status: str, filled: float, perm_id: int, client_id: int) -> None:
        entry = self._blotter.status_said(
            client_id=client_id, order_id=order_id, perm_id=perm_id, status=status, filled=number(filled)
        )
        wait = self._waits.placing.get(order_id) if self._is_own(client_id) else None
        if entry is None and wait is not None:
            entry = self._blotter.order_said(
                client_id=client_id,
                order_id=order_id,
                perm_id=perm_id,
                client_order_id=wait.client_order_id,
                status=status,
            )
        if entry is not None:
            self._answer_placing(entry, status)
        if self._is_own(client_id) and status in ("PendingCancel", "Cancelled", "ApiCancelled"):
            self._settle_cancelling(order_id)

    def on_completed_order(self, order: Any, state: Any) -> None:
        if order.account == self._account:
            filled = optional_number(order.filledQuantity)
            if filled is None and state.status == "Filled":
                filled = optional_number(
                    order.totalQuantity
                )  # not told is not nothing: executions of other days are not shown
            self._blotter.completed_said(
                perm_id=order.permId,
                client_order_id=order.orderRef or "",
                status=state.status or "",
                filled=filled or Decimal(0),
                words=state.completedStatus or "",
            )

    def on_execution(self, execution: Any) -> None:
        if execution.acctNumber == self._account:
            entry = self._blotter.execution_said(
                client_id=execution.clientId,
                order_id=execution.orderId,
                perm_id=execution.permId,
                client_order_id=execution.orderRef or "",
                execution=Execution(
                    exec_id=execution.execId,
                    quantity=number(execution.shares),
                    price=number(execution.price),
                    time=execution.time.astimezone(UTC),
                ),
            )
            self._answer_placing(entry, "Submitted")

    def on_commission(self, report: Any) -> None:
        amount = optional_number(report.commission)
        if amount is not None:
            self._blotter.commission_said(report.execId, Commission(amount=amount, currency=report.currency or "USD"))

    def on_order_error(self, order_id: int, code: int, text: str) -> None:
        """Words on one of our order ids. Only to a placing or cancelling that waits are they an answer."""
        session = self._session
        entry = None if session is None else self._blotter.of_ids(session.client_id, order_id)
        hold = hold_in(text) if code == codes.ORDER_MESSAGE else None
        if hold is not None and entry is not None:
            self._blotter.hold_said(entry, hold)
        is_beside = codes.meaning_for_order(code) is codes.Meaning.INFORMATION and code != codes.CANCELLED
        if entry is not None and not is_beside and code not in codes.CANCEL_REFUSED:
            self._blotter.reason_said(entry, text, rejected=codes.is_rejection(code))
        wait = self._waits.cancelling.get(order_id)
        if wait is not None:
            self._answer_cancelling(wait, code, text)
        placing = self._waits.placing.get(order_id)
        if placing is not None and entry is None:
            placing.hold = hold or placing.hold  # it may be said before anything else is told of the order
        if placing is not None:
            self._refuse_placing(placing, code, text)
        elif hold is None and code not in (codes.CANCELLED, *codes.CANCEL_REFUSED):
            _log.warning("IBKR says of order %s: %s (code %s)", order_id, text, code)
            self._is_doubtful = True
        if code in codes.CANCEL_REFUSED:
            self._is_doubtful = True

    def on_gap(self) -> None:
        self._is_doubtful = True
        self._give_hint()

    def on_heard(self) -> None:
        if self._blotter.mark != self._told_mark or self._is_doubtful:
            self._told_mark = self._blotter.mark
            self._give_hint()

    def on_lost(self) -> None:
        self._is_ready = False
        lost = OutcomeUnknown("The connection to the gateway broke before it answered")
        for wait in (*self._waits.placing.values(), *self._waits.cancelling.values()):
            wait.settle(lost)
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
        wait = self._waits.placing.get(entry.order_id) if self._is_own(entry.client_id) else None
        if wait is None:
            return
        if wait.hold is not None:
            self._blotter.hold_said(entry, wait.hold)
        if status in _TAKEN:
            wait.settle()
        elif status == "Inactive" and wait.held is None:
            # A rejection says so next; without one the order is alive, and held.
            wait.held = asyncio.get_running_loop().call_later(_HELD_SECONDS, wait.settle)

    def _refuse_placing(self, wait: _Wait, code: int, text: str) -> None:
        match codes.meaning_for_order(code):
            case codes.Meaning.REFUSED:
                wait.settle(OrderRefused(f"{text} (code {code})"))
            case codes.Meaning.EXISTS:
                self._is_doubtful = True
                wait.settle(OrderAlreadyExists(f"{text} (code {code})"))
            case codes.Meaning.NOT_TAKEN if code == codes.TOO_MANY:
                self.on_too_many()
                wait.settle(CallsSpent(f"{text} (code {code})", wait_seconds=_AFTER_TOO_MANY_SECONDS))
            case codes.Meaning.NOT_TAKEN:
                wait.settle(self._unavailable(f"{text} (code {code})"))
            case codes.Meaning.INFORMATION:
                _log.info("IBKR says while placing: %s (code %s)", text, code)
            case codes.Meaning.UNKNOWN:
                _log.warning("IBKR says while placing, and what it means is not known: %s (code %s)", text, code)

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


def _claim_of(ticket: Ticket) -> Claim:
    return Claim.EXIT if ticket.is_exit else Claim.ORDINARY


def _spent(spent: BudgetSpent) -> CallsSpent:
    return CallsSpent(f"IBKR: {spent}", wait_seconds=spent.wait_seconds)


def _is_loopback(host: str) -> bool:
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
