"""Binance USD-M futures on loopback: REST and the account's stream over a paper exchange, with faults on demand. No money,
no market prices.

    python -m simulators.binance --port 8084 --data binance.db     a book that outlives the server
    python -m simulators.binance … --faults 7:0.2                  a fifth of the calls fails, reproducibly by the seed 7

Besides the API's own routes, for tests and people:

    GET  /_control      state: calls, weight, listeners, faults, orders in the book
    POST /_control      {"do": "...", ...}: the commands of every gateway (see `simulators.control`), and:

    http_fault      fault: the fields of `HttpFault`, as in {"kind": "error", "route": "POST /fapi/v1/order", "status": 503, "code": -1008}
    clock_ahead     seconds: the server's clock is so far ahead of this machine's
    hedge_mode (on) the account keeps long and short positions apart
    expire_listen_key   drop_feed   mute_feed (muted)   the stream: its key expires, it is cut, or silent
    without_symbol (on) GET allOrders without a symbol is answered, or refused as on hosts that lag behind
    show_oddly      route, order, fields: from now on the rows of this order (its number or client id; a position's symbol) in the
                    answers of that route have these fields instead of their own

What a stop waits for is not simulated: it is triggered when the book fills it, and becomes an order of its own then.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import hmac
import json
import secrets
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

from starlette.responses import HTMLResponse, Response
from starlette.websockets import WebSocket

from brokers.base import OrderRef, ReportStatus
from brokers.errors import BrokerUnavailable, OrderRefused
from brokers.paper.model import Action, Market, Operation, PaperOrder
from simulators import control
from simulators.binance import DEFAULT_API_KEY, DEFAULT_API_SECRET
from simulators.binance.book import (
    BinanceBook,
    algo_item,
    child_of,
    events_of,
    is_algo,
    is_triggered,
    millis,
    number_of,
    order_item,
    placed_item,
    position_item,
    trade_items,
    was_refused,
)
from simulators.binance.market import LISTINGS, Listing, Refused, read_order
from simulators.http_faults import FaultKind, HttpFault, HttpFaults
from simulators.listener import Listener
from simulators.loopback_http import Dropped, HttpCall, LoopbackServer, Trickled, json_response

_LOOK_SECONDS = 0.01
_ANSWER_FIRST_SECONDS = 0.05
_CALLS_REMEMBERED = 100_000
_EARLY_MS = 1000
_LONGEST_PAGE = 1000
_NO_LIMIT = 1_000_000
_STREAM_PATH = "/private/ws/"
_WEIGHTS = {
    "GET /fapi/v1/allOrders": 5,
    "GET /fapi/v1/userTrades": 5,
    "GET /fapi/v3/positionRisk": 5,
    "GET /fapi/v3/balance": 5,
    "GET /fapi/v1/accountConfig": 5,
    "POST /fapi/v1/order": 0,
    "POST /fapi/v1/algoOrder": 0,
}
_WITHOUT_SYMBOL_40 = frozenset({"GET /fapi/v1/openOrders", "GET /fapi/v1/openAlgoOrders"})
_OPERATIONS = {
    "GET /fapi/v1/accountConfig": (Operation.CONNECT,),
    "GET /fapi/v1/allOrders": (Operation.REPORTS, Operation.FIND),
    "GET /fapi/v1/order": (Operation.FIND,),
    "GET /fapi/v3/positionRisk": (Operation.POSITIONS,),
    "GET /fapi/v3/balance": (Operation.BALANCES,),
}
_PLACING = ("POST /fapi/v1/order", "POST /fapi/v1/algoOrder")
_CANCELLING = ("DELETE /fapi/v1/order", "DELETE /fapi/v1/algoOrder")
_UNSIGNED = frozenset({"/fapi/v1/time", "/fapi/v1/exchangeInfo", "/fapi/v1/listenKey", "/fapi/v1/ping"})


@dataclass(frozen=True, slots=True)
class Call:
    """One request, parsed. `at` is in monotonic seconds."""

    method: str
    path: str
    query: str
    form: Mapping[str, str]
    api_key: str
    at: float

    @property
    def route(self) -> str:
        return f"{self.method} {self.path}"


class SimulatedBinance:
    """The server, in threads of its own: `with SimulatedBinance(path) as server: ... server.base_url, server.book`.

    One account, with one key. With `weight_per_minute`, more is answered with 429, and going on with 418. The book
    survives the server. Port 0 takes any free port. Raises ValueError for a host other than loopback, OSError for a port in use.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        account_id: str = "BINANCE1",
        market: Market | None = None,
        listings: Sequence[Listing] = LISTINGS,
        api_key: str = DEFAULT_API_KEY,
        api_secret: str = DEFAULT_API_SECRET,
        host: str = "127.0.0.1",
        port: int = 0,
        weight_per_minute: int | None = None,
    ) -> None:
        self._host = host
        self._server = self._new_server(port)
        self.port = self._server.port
        """Stays the same over restarts."""
        self.api_key = api_key
        self.api_secret = api_secret
        self.account_id = account_id
        self.book = BinanceBook(path, account_id=account_id, market=replace(market or Market(), currency="USDT"))
        self.listings = {each.symbol: each for each in listings}
        self.faults = HttpFaults()
        self.is_hedged = False
        self.answers_without_symbol = True
        self.clock_ahead_seconds = 0.0
        self._weight_per_minute = weight_per_minute
        self._too_many = 0
        self._leverage: dict[str, int] = {}
        self._margin_types: dict[str, str] = {}
        self._calls: deque[tuple[Call, int]] = deque(maxlen=_CALLS_REMEMBERED)
        self._distortions: list[tuple[str, str, Mapping[str, Any]]] = []
        self._listen_key = ""
        self._listeners: set[Listener] = set()
        self._lock = threading.RLock()
        self.stopping = threading.Event()
        self._wake_up = threading.Event()
        self._timers: list[threading.Timer] = []
        self._serving = threading.Lock()
        self._feeding: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """For `BINANCE_BASE_URL`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def stream_url(self) -> str:
        """For `BINANCE_STREAM_URL`."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def listeners(self) -> int:
        """The number of listeners on the account's stream."""
        with self._lock:
            return len(self._listeners)

    def calls(self, route: str = "*") -> list[Call]:
        """The calls whose `METHOD /path` matches the shell pattern, oldest first, including failed ones."""
        with self._lock:
            return [call for call, _ in self._calls if fnmatchcase(call.route, route)]

    def weight(self, seconds: float = 60.0) -> int:
        """What the calls of the last so many seconds weighed together."""
        now = time.monotonic()
        with self._lock:
            return sum(weight for call, weight in self._calls if now - call.at < seconds)

    def show_oddly(self, route: str, order: str, fields: Mapping[str, Any]) -> None:
        """In the answers of this route, rows of this order or position get these fields instead of their own."""
        with self._lock:
            self._distortions.append((route, str(order), fields))

    def clear_faults(self) -> None:
        """The HTTP faults; the book's faults are kept."""
        self.faults.clear()
        with self._lock:
            self._distortions.clear()

    def expire_listen_key(self) -> None:
        """Listeners are told, and get nothing more under the old key."""
        with self._lock:
            key, self._listen_key = self._listen_key, ""
            listeners, self._listeners = tuple(self._listeners), set()
        for listener in listeners:
            listener.send(json.dumps({"e": "listenKeyExpired", "E": self._now_ms(), "listenKey": key}))

    def drop_feed(self) -> None:
        with self._lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener.drop()

    def mute_feed(self, muted: bool = True) -> None:
        """Connected listeners get nothing any more, not even pongs, and stay connected."""
        with self._lock:
            for listener in self._listeners:
                listener.mute(muted)

    def push(self, text: str) -> None:
        """Sends a text to every listener."""
        with self._lock:
            for listener in self._listeners:
                listener.send(text)

    def start(self) -> None:
        self._server.begin("simulated-binance")
        self._feeding = threading.Thread(target=self._feed, name="simulated-binance-feed", daemon=True)
        self._feeding.start()

    def stop(self) -> None:
        """Ends every open call and every listener. Idempotent."""
        self.stopping.set()
        self._wake_up.set()
        for timer in self._timers:
            timer.cancel()
        with self._serving:
            self._server.end()
        if self._feeding is not None:
            self._feeding.join()
            self._feeding = None
        self.book.close()

    def restart(self, closed_seconds: float = 0.0) -> None:
        """Cuts every call and listener, and closes the port for so long; the book is kept."""
        with self._serving:
            if self.stopping.is_set():
                return
            self._server.end()
            self.stopping.wait(closed_seconds)
            if not self.stopping.is_set():
                self._server = self._new_server(self.port)
                self._server.begin("simulated-binance")

    # Calls

    def _new_server(self, port: int) -> LoopbackServer:
        return LoopbackServer(
            self._host,
            port,
            self._answer,
            lambda status, words: _refusal(Refused(-1000, words, status)),
            self._serve_stream,
        )

    def _answer(self, http_call: HttpCall) -> Response:
        if http_call.path.startswith(control.PATH):
            return control.answer_control(http_call, self)
        call = Call(
            http_call.method,
            http_call.path,
            http_call.query,
            dict(parse_qsl(http_call.query, keep_blank_values=True)),
            http_call.headers.get("x-mbx-apikey", ""),
            time.monotonic(),
        )
        weight = self._weight_of(call)
        with self._lock:
            self._calls.append((call, weight))
        headers = {"X-MBX-USED-WEIGHT-1M": str(self.weight())}
        if call.route in _PLACING:
            headers |= {"X-MBX-ORDER-COUNT-10S": str(self._orders(10)), "X-MBX-ORDER-COUNT-1M": str(self._orders(60))}
        response = self._responded(call)
        response.headers.update(headers)
        return response

    def _responded(self, call: Call) -> Response:
        try:
            self._check_weight()
            fault = self.faults.draw(call.route)
            answer = self._after_book_faults(call) if fault is None else self._failed(fault, call)
        except Refused as refusal:
            return _refusal(refusal)
        except BrokerUnavailable as exc:
            return _refusal(Refused(-1008, str(exc), 503))
        return answer if isinstance(answer, Response) else json_response(200, answer)

    def _failed(self, fault: HttpFault, call: Call) -> object:
        if fault.accepted and not fault.late_seconds:
            with contextlib.suppress(Refused):
                self._carry_out(call)
        elif fault.accepted:
            later = threading.Timer(fault.late_seconds, self._carry_out_late, (call,))
            self._timers.append(later)
            later.start()
        match fault.kind:
            case FaultKind.ERROR if fault.code is None:
                return json_response(fault.status, {"msg": fault.text})
            case FaultKind.ERROR:
                raise Refused(fault.code or 0, fault.text, fault.status, fault.retry_after)
            case FaultKind.HTML:
                return HTMLResponse("<html><body>Blocked</body></html>", fault.status)
            case FaultKind.EMPTY:
                return Response(status_code=fault.status)
            case FaultKind.NO_ID:
                return {"symbol": "?"}
            case FaultKind.SLOW:
                self._server.stopping.wait(fault.seconds)
                return self._after_book_faults(call)
            case FaultKind.NEVER_ANSWER:
                self._server.stopping.wait()
            case FaultKind.TRICKLE:
                raise Trickled
            case FaultKind.TRUNCATED:
                whole = json.dumps(self._carry_out(call))
                return Response(whole[: len(whole) // 2], media_type="application/json")
        raise Dropped

    def _after_book_faults(self, call: Call) -> object:
        """Carries out the book's faults on the way to it, then the call."""
        operations, tag, symbol = self._concerned(call)
        faults = [fault for operation in operations for fault in self.book.draw(operation, tag, symbol)]
        for fault in faults:
            if fault.action is Action.REFUSE:
                raise Refused(-2010, fault.reason)
            if fault.action is Action.UNAVAILABLE:
                # Of a placing or cancelling it must be certain that it was not carried out.
                is_order = Operation.PLACE in operations or Operation.CANCEL in operations
                raise Refused(-1008, fault.reason, 503) if is_order else Refused(-1001, fault.reason, 503)
            if fault.action is Action.SLOW:
                if fault.accepted:
                    answer = self._carry_out(call)
                    self._server.stopping.wait(fault.seconds)
                    return answer
                self._server.stopping.wait(fault.seconds)
                continue
            if fault.action is not Action.DROP_BEFORE_ACCEPT and fault.accepted:
                self._carry_out(call)
            if fault.action is Action.NEVER_ANSWER:
                self._server.stopping.wait()
            raise Dropped
        return self._carry_out(call)

    def _concerned(self, call: Call) -> tuple[tuple[Operation, ...], str, str]:
        form = call.form
        if call.route in _PLACING:
            tag = form.get("newClientOrderId") or form.get("clientAlgoId", "")
            return (Operation.PLACE,), tag, form.get("symbol", "")
        if call.route in _CANCELLING:
            order = self._named_algo(form) if "algoOrder" in call.path else self._named(form)
            if order is None:
                return (Operation.CANCEL,), "", ""
            return (Operation.CANCEL,), order.ticket.client_order_id, order.ticket.instrument.symbol
        return _OPERATIONS.get(call.route, ()), "", ""

    def _carry_out_late(self, call: Call) -> None:
        with contextlib.suppress(Refused, BrokerUnavailable):
            self._carry_out(call)

    def _carry_out(self, call: Call) -> object:
        self._check_caller(call)
        form = call.form
        match call.method, call.path.removeprefix("/fapi/"):
            case "GET", "v1/ping":
                return {}
            case "GET", "v1/time":
                return {"serverTime": self._now_ms()}
            case "GET", "v1/exchangeInfo":
                return {
                    "timezone": "UTC",
                    "rateLimits": self._rate_limits(),
                    "symbols": [each.as_json() for each in self.listings.values()],
                }
            case "GET", "v1/accountConfig":
                return {"canTrade": True, "dualSidePosition": self.is_hedged, "multiAssetsMargin": False, "feeTier": 0}
            case "GET", "v1/positionSide/dual":
                return {"dualSidePosition": self.is_hedged}
            case "POST", "v1/leverage":
                leverage = int(form["leverage"])
                self._leverage[form["symbol"]] = leverage
                return {"leverage": leverage, "maxNotionalValue": "1000000", "symbol": form["symbol"]}
            case "POST", "v1/marginType":
                if self._margin_types.get(form["symbol"], "CROSSED") == form["marginType"]:
                    raise Refused(-4046, "No need to change margin type.")
                self._margin_types[form["symbol"]] = form["marginType"]
                return {"code": 200, "msg": "success"}
            case "POST", "v1/order" | "v1/algoOrder":
                return self._place(form)
            case "GET", "v1/order":
                return self._one_order(call)
            case "DELETE", "v1/order":
                return self._cancel(self._named(form))
            case "GET", "v1/algoOrder":
                return self._one_algo(call)
            case "DELETE", "v1/algoOrder":
                return self._cancel_algo(self._named_algo(form))
            case "GET", "v1/openOrders":
                return self._open_orders(call)
            case "GET", "v1/openAlgoOrders":
                return self._open_algos(call)
            case "GET", "v1/allOrders":
                return self._all_orders(call)
            case "GET", "v1/userTrades":
                return self._trades(call)
            case "GET", "v3/positionRisk":
                return [position_item(each) | self._odd(call.route, each.symbol) for each in self.book.positions_held()]
            case "GET", "v3/balance":
                return [
                    {"accountAlias": "x", "asset": asset, "balance": str(cash), "crossUnPnl": "0"}
                    for asset, cash in self.book.wallet().items()
                ]
            case "POST", "v1/listenKey":
                with self._lock:
                    self._listen_key = self._listen_key or secrets.token_hex(32)
                    return {"listenKey": self._listen_key}
            case "PUT", "v1/listenKey":
                if not self._listen_key:
                    raise Refused(-1125, "This listenKey does not exist.")
                return {"listenKey": self._listen_key}
            case "DELETE", "v1/listenKey":
                self._listen_key = ""
                return {}
        raise Refused(-1000, "Not found", 404)

    def _check_caller(self, call: Call) -> None:
        if call.path in _UNSIGNED and call.path != "/fapi/v1/listenKey":
            return
        if call.api_key != self.api_key:
            raise Refused(-2015, "Invalid API-key, IP, or permissions for action", 401)
        if call.path in _UNSIGNED:
            return
        signed, mark, signature = call.query.rpartition("&signature=")
        expected = hmac.new(self.api_secret.encode(), signed.encode(), hashlib.sha256).hexdigest()
        if not mark or not hmac.compare_digest(signature, expected):
            raise Refused(-1022, "Signature for this request is not valid.")
        timestamp, window = int(call.form.get("timestamp", 0)), int(call.form.get("recvWindow", 5000))
        now = self._now_ms()
        if timestamp > now + _EARLY_MS or now - timestamp > window:
            raise Refused(-1021, "Timestamp for this request is outside of the recvWindow.")

    def _place(self, form: Mapping[str, str]) -> dict[str, Any]:
        ticket = read_order(form, self.listings, is_hedged=self.is_hedged)
        try:
            order = self.book.take(ticket)
        except OrderRefused as exc:
            raise Refused(-1102, exc.reason) from exc
        self._wake_up.set()
        return (
            algo_item(order, replace(order.report(), status=ReportStatus.WORKING))
            if is_algo(order)
            else placed_item(order)
        )

    def _named(self, form: Mapping[str, str]) -> PaperOrder | None:
        """The order that the form names by its number or client id; of several under one id, the newest."""
        symbol = form.get("symbol", "")
        if "orderId" in form:
            return self.book.numbered(symbol, int(form["orderId"]))
        self.book.advance()
        own = [
            order
            for order in self.book.orders(form.get("origClientOrderId", ""))
            if order.ticket.instrument.symbol == symbol and (not is_algo(order) or is_triggered(order))
        ]
        return own[-1] if own else None

    def _named_algo(self, form: Mapping[str, str]) -> PaperOrder | None:
        if "algoId" in form:
            return self.book.algo_numbered(int(form["algoId"]))
        self.book.advance()
        own = [order for order in self.book.orders(form.get("clientAlgoId", "")) if is_algo(order)]
        return own[-1] if own else None

    def _one_order(self, call: Call) -> dict[str, Any]:
        order = self._named(call.form)
        if order is None or was_refused(order) or self.book.is_hidden(order, counts=False):
            raise Refused(-2013, "Order does not exist.")
        return self._order_row(call, order)

    def _order_row(self, call: Call, order: PaperOrder) -> dict[str, Any]:
        item = order_item(order, order.report())
        return item | self._odd(call.route, str(item["orderId"]), order.ticket.client_order_id)

    def _one_algo(self, call: Call) -> dict[str, Any]:
        order = self._named_algo(call.form)
        if order is None or self.book.is_hidden(order, counts=False):
            raise Refused(-2013, "Order does not exist.")
        item = algo_item(order, order.report())
        return item | self._odd(call.route, str(item["algoId"]), order.ticket.client_order_id)

    def _cancel(self, order: PaperOrder | None) -> dict[str, Any]:
        if order is None or order.status is not ReportStatus.WORKING or (is_algo(order) and not is_triggered(order)):
            raise Refused(-2011, "Unknown order sent.")
        self._cancel_in_book(order)
        return placed_item(order) | {"status": "CANCELED"}

    def _cancel_algo(self, order: PaperOrder | None) -> dict[str, Any]:
        if order is None or order.status is not ReportStatus.WORKING or is_triggered(order):
            raise Refused(-2011, "Unknown order sent.")
        self._cancel_in_book(order)
        item = algo_item(order, order.report())
        return {"algoId": item["algoId"], "clientAlgoId": item["clientAlgoId"], "code": "200", "msg": "success"}

    def _cancel_in_book(self, order: PaperOrder) -> None:
        try:
            self.book.cancel(OrderRef(client_order_id="", broker_order_id=order.broker_order_id))
        except OrderRefused as exc:
            raise Refused(-2011, "Unknown order sent.") from exc
        self._wake_up.set()

    def _matching(self, call: Call) -> list[PaperOrder]:
        """The orders in the matching engine, of the symbol that was named, if any."""
        symbol = call.form.get("symbol")
        self.book.advance()
        return [
            order
            for order in self.book.orders()
            if (not is_algo(order) or is_triggered(order)) and symbol in (None, order.ticket.instrument.symbol)
        ]

    def _open_orders(self, call: Call) -> list[dict[str, Any]]:
        return [
            self._order_row(call, order)
            for order in self._matching(call)
            if order.status is ReportStatus.WORKING and not self.book.is_hidden(order, counts=False)
        ]

    def _open_algos(self, call: Call) -> list[dict[str, Any]]:
        symbol = call.form.get("symbol")
        self.book.advance()
        return [
            algo_item(order, order.report())
            | self._odd(call.route, str(number_of(order)), order.ticket.client_order_id)
            for order in self.book.orders()
            if is_algo(order)
            and order.status is ReportStatus.WORKING
            and symbol in (None, order.ticket.instrument.symbol)
            and not self.book.is_hidden(order, counts=False)
        ]

    def _all_orders(self, call: Call) -> list[dict[str, Any]]:
        form = call.form
        if "symbol" not in form and not self.answers_without_symbol:
            raise Refused(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        begin, end = int(form.get("startTime", 0)), int(form.get("endTime", 2**62))
        rows = []
        for order, report in self.book.shown():
            if is_algo(order) and not is_triggered(order):
                continue
            if form.get("symbol") not in (None, order.ticket.instrument.symbol):
                continue
            item = order_item(order, report) | self._odd(
                call.route,
                str(child_of(order) if is_algo(order) else number_of(order)),
                order.ticket.client_order_id,
            )
            if begin <= millis(order.placed_at) <= end or begin <= item.get("time", 0) <= end:
                rows.append((order, item))
        rows = rows[: min(int(form.get("limit", 500)), _LONGEST_PAGE)]
        return [item for order, item in rows if not self.book.is_hidden(order, counts=True)]

    def _trades(self, call: Call) -> list[dict[str, Any]]:
        form = call.form
        if "symbol" not in form:
            raise Refused(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        rows = [
            item | self._odd(call.route, str(item["orderId"]), order.ticket.client_order_id)
            for order in self._matching(call)
            for item in trade_items(order, order.report())
        ]
        rows.sort(key=lambda item: int(item["id"]))
        if "orderId" in form:
            rows = [item for item in rows if str(item["orderId"]) == form["orderId"]]
        if "fromId" in form:
            rows = [item for item in rows if int(item["id"]) >= int(form["fromId"])]
        if "startTime" in form:
            rows = [item for item in rows if int(item["time"]) >= int(form["startTime"])]
        return rows[: min(int(form.get("limit", 500)), _LONGEST_PAGE)]

    def _odd(self, route: str, *names: str) -> dict[str, Any]:
        with self._lock:
            wanted = [fields for where, name, fields in self._distortions if where == route and name in names]
        return {key: value for fields in wanted for key, value in fields.items()}

    def _now_ms(self) -> int:
        return int((datetime.now(UTC).timestamp() + self.clock_ahead_seconds) * 1000)

    # Weights

    def _weight_of(self, call: Call) -> int:
        if call.route in _WITHOUT_SYMBOL_40:
            return 1 if "symbol" in call.form else 40
        return _WEIGHTS.get(call.route, 1)

    def _rate_limits(self) -> list[dict[str, Any]]:
        """As many as it enforces."""
        weight = self._weight_per_minute or _NO_LIMIT
        return [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight},
            {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": _NO_LIMIT},
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": _NO_LIMIT},
        ]

    def _orders(self, seconds: float) -> int:
        now = time.monotonic()
        with self._lock:
            return sum(1 for call, _ in self._calls if call.route in _PLACING and now - call.at < seconds)

    def _check_weight(self) -> None:
        if self._weight_per_minute is not None and self.weight() > self._weight_per_minute:
            self._too_many += 1
            status = 418 if self._too_many > 10 else 429
            raise Refused(-1003, "Too many requests; current limit is reached.", status, retry_after=1)

    # The stream

    async def _serve_stream(self, websocket: WebSocket) -> None:
        """Serves one listener until it disconnects or is dropped. Old paths connect and never say anything."""
        path = websocket.url.path
        key = path.removeprefix(_STREAM_PATH) if path.startswith(_STREAM_PATH) else None
        await websocket.accept()
        listener = Listener(websocket)
        if key is not None and key == self._listen_key:
            with self._lock:
                self._listeners.add(listener)
        try:
            await listener.serve()
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def _feed(self) -> None:
        mark = self.book.mark()
        while not self.stopping.is_set():
            self._wake_up.wait(_LOOK_SECONDS)
            self._wake_up.clear()
            if self.stopping.is_set():
                return
            try:
                self.book.advance()
                changed = self.book.changed_since(mark)
            except BrokerUnavailable:
                # If the book is busy, it is read again in a moment.
                continue
            mark = changed[-1].change if changed else mark
            with self._lock:
                listeners = tuple(self._listeners)
            for order in changed if listeners else ():
                for event in events_of(order):
                    text = json.dumps(event)
                    for listener in listeners:
                        listener.send(text)

    # The operator's side

    def state(self) -> dict[str, Any]:
        """The answer to `GET /_control`."""
        with self._lock:
            return {
                "calls": len(self._calls),
                "placings": sum(1 for call, _ in self._calls if call.route in _PLACING),
                "cancels": sum(1 for call, _ in self._calls if call.route in _CANCELLING),
                "weight": self.weight(),
                "too_many": self._too_many,
                "listeners": len(self._listeners),
                "leverage": self._leverage,
                "margin_types": self._margin_types,
                "faults": self.faults.as_json(),
                "book_faults": [str(fault) for operation in Operation for fault in self.book.armed_faults(operation)],
                "fault_plan": control.plan_state(self.book),
                "orders": len(self.book.orders()),
            }

    def book_orders(self) -> list[dict[str, Any]]:
        """The answer to `GET /_control/orders`."""
        return [control.order_as_json(order) for order in self.book.orders()]

    def control(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Carries out a `POST /_control`; returns the state after it. Raises one of control.BAD_REQUEST."""
        commands: dict[str, control.Command] = {
            **control.book_commands(self.book),
            "http_fault": lambda fault: self.faults.add(HttpFault.from_json(fault)),
            "clear_faults": self._clear_all_faults,
            "clock_ahead": lambda seconds: self._set("clock_ahead_seconds", float(seconds)),
            "hedge_mode": lambda on=True: self._set("is_hedged", bool(on)),
            "without_symbol": lambda on=True: self._set("answers_without_symbol", bool(on)),
            "expire_listen_key": self.expire_listen_key,
            "show_oddly": self.show_oddly,
            "drop": self._drop_soon,
            "restart": self._restart_soon,
            "drop_feed": self.drop_feed,
            "mute_feed": lambda muted=True: self.mute_feed(bool(muted)),
        }
        control.carry_out(commands, command)
        return self.state()

    def _set(self, name: str, value: object) -> None:
        setattr(self, name, value)

    def _clear_all_faults(self) -> None:
        self.clear_faults()
        self.book.clear_faults()

    def _drop_soon(self) -> None:
        self._restart_soon(0.0)

    def _restart_soon(self, closed_seconds: float = 0.0) -> None:
        """In another thread, so that the call that requests it is answered first."""
        later = threading.Timer(_ANSWER_FIRST_SECONDS, self.restart, (float(closed_seconds),))
        later.daemon = True
        self._timers.append(later)
        later.start()


def _refusal(refusal: Refused) -> Response:
    response = json_response(refusal.status, {"code": refusal.code, "msg": refusal.message})
    if refusal.retry_after is not None:
        response.headers["Retry-After"] = str(refusal.retry_after)
    return response


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m simulators.binance", description="Binance USD-M futures on loopback over a paper exchange."
    )
    parser.add_argument("--port", type=int, default=8084, help="0 takes any free port (default: %(default)s)")
    parser.add_argument("--data", type=Path, required=True, help="the file of the book; made if there is none")
    parser.add_argument("--notice", type=Path, help="a file to say in, while it runs, where it is to be found")
    parser.add_argument("--account", default="BINANCE1", help="the account's id (default: %(default)s)")
    parser.add_argument("--fill-delay-seconds", type=float, default=0.0)
    parser.add_argument("--partial-fill-rate", type=float, default=0.0)
    parser.add_argument("--rejection-rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--weight-per-minute", type=int, help="more is answered with 429 (default: no limit)")
    control.add_fault_plan_option(parser)
    chosen = parser.parse_args(argv)
    market = Market(
        fill_delay_seconds=chosen.fill_delay_seconds,
        partial_fill_rate=chosen.partial_fill_rate,
        rejection_rate=chosen.rejection_rate,
        seed=chosen.seed,
    )
    try:
        server = SimulatedBinance(
            chosen.data,
            account_id=chosen.account,
            market=market,
            port=chosen.port,
            weight_per_minute=chosen.weight_per_minute,
        )
    except (OSError, OverflowError, BrokerUnavailable) as exc:
        print(f"Cannot serve on 127.0.0.1:{chosen.port}: {exc}", file=sys.stderr)
        return 1
    server.book.fault_plan = chosen.faults
    stop_asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop_asked.set())
    with server:
        print(
            f"Simulated Binance on {server.base_url}; Ctrl-C ends it. Settings for the service:\n"
            f"  BINANCE_BASE_URL={server.base_url}\n  BINANCE_API_KEY={server.api_key}\n"
            f"  BINANCE_API_SECRET={server.api_secret}\n",
            flush=True,
        )
        if chosen.notice is not None:
            control.leave_notice(chosen.notice, gateway=server.base_url, control=server.base_url + control.PATH)
        stop_asked.wait()
        if chosen.notice is not None:
            control.take_back_notice(chosen.notice)
    return 0
