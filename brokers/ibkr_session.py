"""One socket to a gateway: questions and their answers, and what the server says by itself, word for word; no orders' state.

The client library encodes, decodes and throttles. It calls the camel-case methods here with what came over the socket, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from types import SimpleNamespace
from typing import Any, Protocol

from brokers import ibkr_codes as codes
from brokers.ibkr_library import Library

_log = logging.getLogger(__name__)
_IN_USE = "Client id in use"
_FIRST_REQUEST_ID = 1_000_000_000
"""Far above order ids, which share the error messages' number with them."""


_OPEN, _COMPLETED, _POSITIONS = "open", "completed", "positions"
_LATE_ANSWER_SECONDS = 300.0
"""So long after it was given up a question may still be answered."""


class Listener(Protocol):
    """Who hears what the server says of orders. Every call is made on the loop's thread; `heard` after each piece of data."""

    def on_open_order(self, order: Any, state: Any) -> None: ...

    def on_order_status(self, order_id: int, status: str, filled: float, perm_id: int, client_id: int) -> None: ...

    def on_completed_order(self, order: Any, state: Any) -> None: ...

    def on_execution(self, execution: Any) -> None: ...

    def on_commission(self, report: Any) -> None: ...

    def on_order_error(self, order_id: int, code: int, text: str) -> None: ...

    def on_too_many(self) -> None:
        """The gateway says that there were too many messages, and not which."""

    def on_gap(self) -> None:
        """Something may have been said that was not heard."""

    def on_heard(self) -> None: ...

    def on_lost(self) -> None: ...


class NotConnected(Exception):
    """The session could not be opened, or has ended."""


class ClientIdInUse(NotConnected):
    """Another connection has this client id."""


class QuestionFailed(Exception):
    """The gateway answered a question with an error. `code` is its code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} (code {code})")
        self.code = code


class _Unreadable(logging.Handler):
    """The libraries log what they cannot decode, and go on without it: an answer with such a hole must not pass for a whole one."""

    def __init__(self, session: Session) -> None:
        super().__init__(logging.ERROR)
        self._session = session

    def emit(self, record: logging.LogRecord) -> None:
        self._session.on_unreadable()


@dataclass(slots=True)
class _Question:
    answer: asyncio.Future[list[Any]]
    items: list[Any] = field(default_factory=list)


class Session:
    """Open from `open` until the socket breaks or `close`; not to be opened again. Times in seconds."""

    def __init__(self, library: Library, listener: Listener, *, timezone: str = "") -> None:
        self._library = library
        self._listener = listener
        self._client: Any = library.client(self)
        self._client.apiError += self._on_api_error
        self._decoder_log = logging.getLogger(f"{library.name}.Decoder")
        self._unreadable = _Unreadable(self)
        self.ib = SimpleNamespace(TimezoneTWS=timezone)
        """Where the libraries look for the zone of times that name none."""
        self.defaultTimezone = UTC
        self.accounts: list[str] = []
        self.server_version = 0
        self.client_id = -1
        self.next_order_id = 0
        self.is_open = False
        self.is_linked = True
        """False between the gateway's word that its servers are out of reach and that they are back."""
        self.trouble = ""
        self._questions: dict[str | int, _Question] = {}
        self._positions_owed_until = 0.0
        """Until then the answer to an earlier question for the positions may come, which looks like that to a later one."""
        self._next_request_id = _FIRST_REQUEST_ID
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, host: str, port: int, client_id: int, timeout_seconds: float) -> None:
        """Raises ClientIdInUse, NotConnected."""
        # ib_insync asks the policy for the loop, which need not be the one that runs.
        asyncio.set_event_loop(asyncio.get_running_loop())
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
        self._decoder_log.addHandler(self._unreadable)
        self.is_open = True
        self.server_version = self._client.serverVersion()
        self.accounts = list(self._client.getAccounts())

    def close(self) -> None:
        self._lose("closed by us")
        self._client.disconnect()

    # What is sent

    def place(self, order_id: int, contract: Any, order: Any) -> None:
        """Returns when it is handed to the socket. Raises NotConnected, and then nothing was."""
        self._require()
        self._client.placeOrder(order_id, contract, order)

    def cancel(self, order_id: int) -> None:
        self._require()
        self._client.cancelOrder(order_id)

    async def open_orders(self, timeout_seconds: float) -> None:
        """Asks for the open orders of all clients; the listener hears them. Raises as `_ask`."""
        await self._ask(_OPEN, self._client.reqAllOpenOrders, timeout_seconds)

    async def completed_orders(self, timeout_seconds: float) -> None:
        await self._ask(_COMPLETED, lambda: self._client.reqCompletedOrders(False), timeout_seconds)

    async def executions(self, account: str, timeout_seconds: float) -> None:
        wanted = self._library.execution_filter(acctCode=account)
        number = self._number()
        await self._ask(number, lambda: self._client.reqExecutions(number, wanted), timeout_seconds)

    async def contract_details(self, contract: Any, timeout_seconds: float) -> list[Any]:
        """The libraries' ContractDetails that fit. QuestionFailed with code 200: none."""
        number = self._number()
        return await self._ask(number, lambda: self._client.reqContractDetails(number, contract), timeout_seconds)

    async def market_rule(self, rule: int, timeout_seconds: float) -> list[Any]:
        """The rule's steps, each with `lowEdge` and `increment`."""
        return await self._ask(f"rule {rule}", lambda: self._client.reqMarketRule(rule), timeout_seconds)

    async def positions(self, timeout_seconds: float) -> list[Any]:
        """Tuples of account, contract, quantity and average cost, of all accounts; the last said of each contract."""
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
        return list(
            {(account, contract.conId): (account, contract, *rest) for account, contract, *rest in rows}.values()
        )

    async def account_values(self, account: str, timeout_seconds: float) -> list[Any]:
        """Tuples of key, value and currency."""
        number = self._number()
        found = await self._ask(
            number, lambda: self._client.reqAccountUpdatesMulti(number, account, "", True), timeout_seconds
        )
        self._client.cancelAccountUpdatesMulti(number)
        return found

    async def _ask(self, key: str | int, send: Callable[[], None], timeout_seconds: float) -> list[Any]:
        """Raises NotConnected, QuestionFailed, and TimeoutError: an answer that did not come is no empty answer. The lists of orders have no
        number by which a late answer could be told from that to a later question: whoever gives one up gives the session up."""
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
        self._decoder_log.removeHandler(self._unreadable)
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

    # What the server says

    def connectAck(self) -> None: ...

    def tcpDataProcessed(self) -> None:
        if self.is_open:
            self._listener.on_heard()

    def nextValidId(self, order_id: int) -> None:
        self.next_order_id = max(self.next_order_id, order_id)

    def managedAccounts(self, names: str) -> None: ...

    def error(self, number: int, code: int, text: str, reject_json: str = "") -> None:
        if number >= _FIRST_REQUEST_ID:
            self._fail_question(number, code, text)
        elif number > 0:
            self._listener.on_order_error(number, code, text)
        else:
            self._system_said(code, text)

    def _fail_question(self, number: int, code: int, text: str) -> None:
        question = self._questions.get(number)
        is_warning = codes.meaning_for_order(code) is codes.Meaning.INFORMATION
        if question is not None and not question.answer.done() and not is_warning:
            question.answer.set_exception(QuestionFailed(code, text))

    def on_unreadable(self) -> None:
        self._fail_questions("A part of what the gateway said could not be read")
        self._listener.on_gap()

    def _fail_questions(self, why: str, code: int = 0) -> None:
        """Whatever is being asked gets no answer that could be believed."""
        for question in self._questions.values():
            if not question.answer.done():
                question.answer.set_exception(QuestionFailed(code, why))

    def _system_said(self, code: int, text: str) -> None:
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
        self._listener.on_execution(execution)

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
