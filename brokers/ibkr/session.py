"""One connection to a gateway: queries and their answers, and the messages that the server pushes, unchanged. No order
state.

The client library encodes, decodes and throttles. It calls the camel-case methods here with what came over the socket,
and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from brokers.ibkr import codes
from brokers.ibkr import times as ibkr_times
from brokers.ibkr.library import Library
from brokers.ibkr.quotes import DATA_TYPE, WHOLE_QUOTE, MarketDataType, MarketTick
from brokers.ibkr.times import GatewayZone, Moment
from brokers.ibkr.wire import EXECUTION_TIME, OF_ORDERS, MessageKind, Unreadable, execution_to_decode, unreadable

_log = logging.getLogger(__name__)
_IN_USE = "Client id in use"
_FIRST_REQUEST_ID = 1_000_000_000
"""Far above order ids, with which request ids share the number field of error messages."""


_OPEN, _COMPLETED, _POSITIONS = "open", "completed", "positions"
_LATE_ANSWER_SECONDS = 300.0
"""A query may still be answered so long after it was given up."""
_UNREADABLE_REMEMBERED = 1000
_SAME_BREATH_SECONDS = 0.02
_GREETING_BYTES = 1024


class Listener(Protocol):
    """Receives what the server sends about orders. Every call is made on the loop's thread; `on_data` after each
    chunk of data."""

    def on_open_order(self, order: Any, state: Any) -> None: ...

    def on_order_status(self, order_id: int, status: str, filled: float, perm_id: int, client_id: int) -> None: ...

    def on_completed_order(self, order: Any, state: Any) -> None: ...

    def on_execution(self, execution: Any, moment: Moment, contract: Any) -> None:
        """`moment` is the execution's time; the time in the library's object must not be used."""

    def on_commission(self, report: Any) -> None: ...

    def on_order_error(self, order_id: int, code: int, text: str) -> None: ...

    def on_too_many(self) -> None:
        """The gateway reported too many messages, without saying which."""

    def on_margin_warning(self, text: str) -> None:
        """IBKR may close positions of an account, which the text names."""

    def on_gap(self) -> None:
        """Messages may have been missed."""

    def on_unreadable(self, message: Unreadable) -> None:
        """A message about an order, or about something unknown, could not be read."""

    def on_data(self) -> None: ...

    def on_lost(self) -> None: ...


class NotConnected(Exception):
    """The session could not be opened, or has ended."""


class ClientIdInUse(NotConnected):
    """Another connection uses this client id."""


class QuestionFailed(Exception):
    """The gateway answered a query with an error; `code` is its code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} (code {code})")
        self.code = code


class _DecoderTrouble(logging.Filter):
    """The libraries log what they cannot decode, and continue without it. While a session decodes a message, the
    session judges and reports that itself; `library`'s own lines become debug lines."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR or not self._session.is_own_record(record):
            return True
        record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


@dataclass(slots=True)
class _Question:
    answer: asyncio.Future[list[Any]]
    items: list[Any] = field(default_factory=list)


class Session:
    """Usable from `open` until the socket breaks or `close`; cannot be reopened. Times are in seconds."""

    def __init__(
        self,
        library: Library,
        listener: Listener,
        *,
        account: str = "",
        timezone: str = "",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`account`: whose messages are wanted; empty: the login's only account. `timezone`: the zone of times that
        name none; empty: the gateway's."""
        self._library = library
        self._listener = listener
        self._account = account
        self._timezone = timezone
        self._clock = clock
        self._client: Any = library.client(self)
        self._client.apiError += self._on_api_error
        self._client.conn.hasData += self._on_greeting
        self._decode: Callable[[list[str]], None] = self._client.decoder.interpret
        self._client.decoder.interpret = self._interpret
        self._decoder_log = logging.getLogger(f"{library.name}.Decoder")
        self._decoder_trouble = _DecoderTrouble(self)
        self._is_decoding = False
        self._trouble_of_message: BaseException | str | None = None
        self._moment: Moment | None = None
        """The time of the execution that is being decoded."""
        self._greeting = b""
        self._gateway_zone = GatewayZone()
        self._logged_unreadable: set[str] = set()
        self.defaultTimezone = UTC
        """ib_async reads here in which zone times are to be given."""
        self.accounts: list[str] = []
        self.server_version = 0
        self.client_id = -1
        self.next_order_id = 0
        self.is_open = False
        self.is_linked = True
        """False from the gateway's message that its servers are unreachable until the one that they are back."""
        self.trouble = ""
        self._questions: dict[str | int, _Question] = {}
        self._positions_owed_until = 0.0
        """Until then the answer to an earlier query for positions may arrive, which a later query could not
        distinguish from its own."""
        self._next_request_id = _FIRST_REQUEST_ID
        self._is_live_wanted = False
        """The gateway was told that live data are wanted, and delayed ones only where it has no others."""
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, host: str, port: int, client_id: int, timeout_seconds: float) -> None:
        """Raises ClientIdInUse, NotConnected."""
        # ib_insync asks the policy for the loop, which may not be the running one.
        asyncio.set_event_loop(asyncio.get_running_loop())
        self._decoder_log.addFilter(self._decoder_trouble)
        self.client_id = client_id
        opening = asyncio.ensure_future(self._client.connectAsync(host, port, client_id, timeout_seconds))
        try:
            await asyncio.wait({opening, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done() or self.trouble.startswith(_IN_USE):
                raise self._end()
            await opening
        except (OSError, TimeoutError) as exc:
            words = str(exc) or "it did not answer in time"
            raise NotConnected(f"No session with the gateway at {host}:{port}: {words}") from exc
        finally:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        if self._ended.done():
            raise self._end()
        self.is_open = True
        self.server_version = self._client.serverVersion()
        self.accounts = list(self._client.getAccounts())

    def close(self) -> None:
        self._lose("closed by us")
        self._client.disconnect()

    # What is sent

    def place(self, order_id: int, contract: Any, order: Any) -> None:
        """Returns when the order is written to the socket. Raises NotConnected, and then nothing was sent."""
        self._require()
        self._client.placeOrder(order_id, contract, order)

    def cancel(self, order_id: int) -> None:
        self._require()
        self._client.cancelOrder(order_id)

    async def open_orders(self, timeout_seconds: float) -> None:
        """Requests the open orders of all clients, which go to the listener. Raises as `_ask`."""
        await self._ask(_OPEN, self._client.reqAllOpenOrders, timeout_seconds)

    async def completed_orders(self, timeout_seconds: float) -> None:
        await self._ask(_COMPLETED, lambda: self._client.reqCompletedOrders(False), timeout_seconds)

    async def executions(self, account: str, timeout_seconds: float) -> None:
        wanted = self._library.execution_filter(acctCode=account)
        number = self._number()
        await self._ask(number, lambda: self._client.reqExecutions(number, wanted), timeout_seconds)

    async def contract_details(self, contract: Any, timeout_seconds: float) -> list[Any]:
        """The matching ContractDetails of the library. QuestionFailed with code 200: there are none."""
        number = self._number()
        return await self._ask(number, lambda: self._client.reqContractDetails(number, contract), timeout_seconds)

    async def market_rule(self, rule: int, timeout_seconds: float) -> list[Any]:
        """The rule's steps, each with `lowEdge` and `increment`."""
        return await self._ask(f"rule {rule}", lambda: self._client.reqMarketRule(rule), timeout_seconds)

    async def positions(self, timeout_seconds: float) -> tuple[list[Any], list[Unreadable]]:
        """Tuples of account, contract, quantity and average cost, of all accounts, the last message per contract;
        and the rows that cannot be read."""
        if time.monotonic() < self._positions_owed_until:
            raise QuestionFailed(0, "an earlier question for the positions may still be answered")
        try:
            rows = await self._ask(_POSITIONS, self._client.reqPositions, timeout_seconds)
        except BaseException:
            self._positions_owed_until = time.monotonic() + _LATE_ANSWER_SECONDS
            raise
        finally:
            if self.is_open:
                self._client.cancelPositions()
        odd = [row for row in rows if isinstance(row, Unreadable)]
        reported = [row for row in rows if not isinstance(row, Unreadable)]
        latest = {(account, contract.conId): (account, contract, *rest) for account, contract, *rest in reported}
        return list(latest.values()), odd

    async def snapshot(self, contract: Any, timeout_seconds: float) -> list[MarketTick]:
        """What the gateway tells of the market at this moment: until bid, ask and last trade are there, it says that this
        is all, or the time is over; perhaps nothing. It is a snapshot of a subscription that the account has, never one
        that costs by itself, and of live data where there are any. It ends by itself at the gateway, within about 11 s.
        Raises NotConnected, and QuestionFailed where there are no data for this account."""
        self._require()
        if not self._is_live_wanted:
            self._is_live_wanted = True
            self._client.reqMarketDataType(MarketDataType.LIVE)
        number = self._number()
        question = self._questions[number] = _Question(asyncio.get_running_loop().create_future())
        try:
            self._client.reqMktData(number, contract, "", True, False, [])
            async with asyncio.timeout(timeout_seconds):
                return await question.answer
        except TimeoutError:
            return question.items
        finally:
            del self._questions[number]

    async def account_values(self, account: str, timeout_seconds: float) -> list[Any]:
        """Tuples of key, value and currency; unreadable ones are left out."""
        number = self._number()
        found = await self._ask(
            number, lambda: self._client.reqAccountUpdatesMulti(number, account, "", True), timeout_seconds
        )
        self._client.cancelAccountUpdatesMulti(number)
        return found

    async def _ask(self, key: str | int, send: Callable[[], None], timeout_seconds: float) -> list[Any]:
        """Raises NotConnected, QuestionFailed, and TimeoutError: a missing answer is not an empty one. Requests for
        order lists have no number by which a late answer could be told from that to a later request, so a caller
        that gives one up gives up the session."""
        self._require()
        if key in self._questions:
            raise QuestionFailed(0, f"the question {key} is being asked already")
        question = self._questions[key] = _Question(asyncio.get_running_loop().create_future())
        try:
            send()
            async with asyncio.timeout(timeout_seconds):
                return await question.answer
        except BaseException:
            if key in (_OPEN, _COMPLETED):
                self._lose("a list of orders was not told whole")
                self._client.disconnect()
            raise
        finally:
            del self._questions[key]

    def _number(self) -> int:
        self._next_request_id += 1
        return self._next_request_id

    def _require(self) -> None:
        if not self.is_open:
            raise self._end()

    # How it ends

    def _end(self) -> NotConnected:
        if self.trouble.startswith(_IN_USE):
            return ClientIdInUse(self.trouble)
        return NotConnected(self.trouble or "There is no session with the gateway")

    def _lose(self, why: str) -> None:
        was_open, self.is_open = self.is_open, False
        self.trouble = self.trouble or why
        self._decoder_log.removeFilter(self._decoder_trouble)
        if not self._ended.done():
            self._ended.set_result(None)
        for question in self._questions.values():
            if not question.answer.done():
                question.answer.set_exception(NotConnected(self.trouble))
        if was_open:
            self._listener.on_lost()

    def _on_api_error(self, text: str) -> None:
        self._lose(text)

    def setEventsDone(self) -> None:
        """Called whenever the socket is gone."""
        self._lose("the gateway closed the connection")

    def connectionClosed(self) -> None:
        self._lose("the gateway closed the connection")

    # What cannot be read

    def is_own_record(self, record: logging.LogRecord) -> bool:
        """Whether the library's log record is about a message of this session."""
        if self._is_decoding:
            trouble = record.exc_info[1] if record.exc_info else None
            self._trouble_of_message = self._trouble_of_message or trouble or record.getMessage()
        return self._is_decoding

    def _interpret(self, fields: list[str]) -> None:
        """Replaces the library's decoder, which it calls. A message that cannot be decoded affects only what it is
        about."""
        if len(fields) > EXECUTION_TIME and fields[0] == str(MessageKind.EXECUTION.value):
            reported = fields[EXECUTION_TIME]
            self._moment = ibkr_times.read(
                reported, received_at=self._clock(), zone=self._timezone, gateway=self._gateway_zone
            )
            decoded = execution_to_decode(fields, int(self._moment.at.timestamp()))
        else:
            decoded = [*fields]
        self._is_decoding, self._trouble_of_message = True, None
        try:
            self._decode(decoded)
        finally:
            self._is_decoding = False
        if self._trouble_of_message is not None:
            self._on_unreadable(fields, self._trouble_of_message)

    def _on_unreadable(self, fields: list[str], why: BaseException | str) -> None:
        message = unreadable(fields, self._account or "".join(self.accounts[:1]), self.accounts, why)
        if message.words not in self._logged_unreadable:
            if len(self._logged_unreadable) >= _UNREADABLE_REMEMBERED:
                self._logged_unreadable.clear()
            self._logged_unreadable.add(message.words)
            _log.warning("Of what the gateway said %s", message.words)
        if message.is_other_account or not self.is_open:
            return
        words = "A part of what the gateway said could not be read"
        match message.kind:
            case MessageKind.POSITION:
                self._collect(_POSITIONS, message)
            case MessageKind.MARKET_RULE:
                self._fail(f"rule {message.request_id}", words)
            case MessageKind.ACCOUNT_VALUE | MessageKind.COMMISSION:
                pass  # a missing figure matters only where it would be used
            case (
                MessageKind.CONTRACT
                | MessageKind.BOND
                | MessageKind.CONTRACTS_END
                | MessageKind.EXECUTIONS_END
                | MessageKind.ACCOUNT_VALUES_END
            ):
                asked = [message.request_id] if message.request_id in self._questions else list(self._questions)
                for number in asked:
                    if isinstance(number, int):
                        self._fail(number, words)
            case MessageKind.ERROR:
                self._on_unreadable_error(message.request_id, words)
            case None if message.is_numbered:
                pass  # of a kind that is neither requested nor used here
            case None:
                self._collect(_POSITIONS, message)
                self._listener.on_unreadable(message)
            case kind if kind in OF_ORDERS:
                self._listener.on_unreadable(message)

    def _on_unreadable_error(self, number: int | None, words: str) -> None:
        if number is not None and number >= _FIRST_REQUEST_ID:
            self._fail(number, words)
        else:
            self._listener.on_gap()

    def _fail(self, key: str | int, why: str) -> None:
        question = self._questions.get(key)
        if question is not None and not question.answer.done():
            question.answer.set_exception(QuestionFailed(0, why))

    def _on_greeting(self, data: bytes) -> None:
        """The gateway's first frame: its version, and the time by its own clock, which the library ignores."""
        self._greeting += data
        size = int.from_bytes(self._greeting[:4], "big")
        if len(self._greeting) < 4 + size and len(self._greeting) < _GREETING_BYTES:
            return
        self._client.conn.hasData -= self._on_greeting
        _, _, reported = self._greeting[4 : 4 + size].decode(errors="backslashreplace").partition("\0")
        self._gateway_zone = GatewayZone.greeted(reported.rstrip("\0"), self._clock())
        self._greeting = b""

    # What the server says

    def connectAck(self) -> None: ...

    def tcpDataProcessed(self) -> None:
        if self.is_open:
            self._listener.on_data()

    def nextValidId(self, order_id: int) -> None:
        self.next_order_id = max(self.next_order_id, order_id)

    def managedAccounts(self, names: str) -> None: ...

    def error(self, number: int, code: int, text: str, reject_json: str = "") -> None:
        if number >= _FIRST_REQUEST_ID:
            self._fail_question(number, code, text)
        elif number > 0:
            self._listener.on_order_error(number, code, text)
        else:
            self._on_system_message(code, text)

    def _fail_question(self, number: int, code: int, text: str) -> None:
        question = self._questions.get(number)
        is_warning = codes.meaning_for_order(code) is codes.Meaning.INFORMATION
        if question is not None and not question.answer.done() and not is_warning:
            question.answer.set_exception(QuestionFailed(code, text))

    def _fail_questions(self, why: str, code: int = 0) -> None:
        """Open queries cannot get an answer that could be trusted."""
        for question in self._questions.values():
            if not question.answer.done():
                question.answer.set_exception(QuestionFailed(code, why))

    def _on_system_message(self, code: int, text: str) -> None:
        if code == codes.CLIENT_ID_IN_USE:
            self._lose(f"{_IN_USE}: {text}")
        elif code in codes.LINK_LOST:
            self.is_linked, self.trouble = False, text
            self._fail_questions(text, code)
        elif code in (codes.LINK_RESTORED_DATA_LOST, codes.LINK_RESTORED_DATA_KEPT):
            self.is_linked, self.trouble = True, ""
            self._listener.on_gap()
        elif code == codes.TOO_MANY:
            _log.warning("The gateway says: %s (code %s)", text, code)
            self._listener.on_too_many()
        elif code == codes.MARGIN_WARNING:
            self._listener.on_margin_warning(text)
        elif not 2100 <= code < 2200:
            if not self.is_open:
                self.trouble = self.trouble or text
            _log.warning("The gateway says: %s (code %s)", text, code)

    def openOrder(self, order_id: int, contract: Any, order: Any, state: Any) -> None:
        self._listener.on_open_order(order, state)

    def openOrderEnd(self) -> None:
        self._answer(_OPEN)

    def orderStatus(
        self,
        order_id: int,
        status: str,
        filled: float,
        remaining: float,
        average_price: float,
        perm_id: int,
        parent_id: int,
        last_price: float,
        client_id: int,
        why_held: str,
        cap_price: float = 0.0,
    ) -> None:
        self._listener.on_order_status(order_id, status, filled, perm_id, client_id)

    def completedOrder(self, contract: Any, order: Any, state: Any) -> None:
        self._listener.on_completed_order(order, state)

    def completedOrdersEnd(self) -> None:
        self._answer(_COMPLETED)

    def execDetails(self, number: int, contract: Any, execution: Any) -> None:
        assert self._moment is not None, "an execution is decoded here only"
        self._listener.on_execution(execution, self._moment, contract)

    def execDetailsEnd(self, number: int) -> None:
        self._answer(number)

    def commissionReport(self, report: Any) -> None:
        self._listener.on_commission(report)

    def contractDetails(self, number: int, details: Any) -> None:
        self._collect(number, details)

    def bondContractDetails(self, number: int, details: Any) -> None:
        self._collect(number, details)

    def contractDetailsEnd(self, number: int) -> None:
        self._answer(number)

    def marketRule(self, rule: int, steps: list[Any]) -> None:
        for step in steps:
            self._collect(f"rule {rule}", step)
        self._answer(f"rule {rule}")

    def position(self, account: str, contract: Any, quantity: float, average_cost: float) -> None:
        self._collect(_POSITIONS, (account, contract, quantity, average_cost))

    def positionEnd(self) -> None:
        self._positions_owed_until = 0.0
        self._answer(_POSITIONS)

    def priceSizeTick(self, number: int, kind: int, price: float, size: float) -> None:
        self._collect(number, MarketTick(kind, price))
        question = self._questions.get(number)
        if question is not None and {each.kind for each in question.items} >= WHOLE_QUOTE:
            # The time of the last trade comes in the same breath.
            asyncio.get_running_loop().call_later(_SAME_BREATH_SECONDS, self._answer, number)

    def tickString(self, number: int, kind: int, text: str) -> None:
        self._collect(number, MarketTick(kind, text))

    def marketDataType(self, number: int, kind: int) -> None:
        self._collect(number, MarketTick(DATA_TYPE, kind))

    def tickSnapshotEnd(self, number: int) -> None:
        self._answer(number)

    def accountUpdateMulti(self, number: int, account: str, model: str, key: str, value: str, currency: str) -> None:
        self._collect(number, (key, value, currency))

    def accountUpdateMultiEnd(self, number: int) -> None:
        self._answer(number)

    def _collect(self, key: str | int, item: Any) -> None:
        question = self._questions.get(key)
        if question is not None:
            question.items.append(item)

    def _answer(self, key: str | int) -> None:
        question = self._questions.get(key)
        if question is not None and not question.answer.done():
            question.answer.set_result(question.items)
