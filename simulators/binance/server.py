"""Binance USD-M futures on loopback: REST and the account's stream over a paper exchange, with faults on demand. No money,
no market prices.

    python -m simulators.binance --port 8085 --data binance.db     a book that outlives the server
    python -m simulators.binance … --faults 7:0.2                  a fifth of the calls fails, reproducibly by the seed 7

Besides the API's own routes, for tests and people:

    GET  /_control      state: calls, weight, listeners, faults, orders in the book
    POST /_control      {"do": "...", ...}: the commands of every gateway (see `simulators.control`), and:

    http_fault      fault: the fields of `HttpFault`, as in {"kind": "error", "route": "POST /fapi/v1/order", "status": 503, "code": -1008}
    clock_ahead     seconds: the server's clock is so far ahead of this machine's
    hedge_mode (on) the account keeps long and short positions apart
    expire_listen_key   drop_feed   mute_feed (muted)   the stream: its key expires, it is cut, or silent
    without_symbol (on) GET allOrders without a symbol is answered, or refused as on hosts that lag behind
    hide_trade (number)     trades with this number are missing from the lists, while later ones are there; nothing: all are there
    rest_by_hand    symbol, quantity (below 0: sells), price: somebody else's resting order that only reduces the position
    quote           as of every gateway; without one a contract is quoted one tick around its last price, and one that has none is shown with zeros
    force_close     symbol, kind (liquidation, deleveraging, settlement), quantity (nothing: all), price: by Binance itself, under a client id of
                    its own
    show_oddly      route, order, fields: from now on the rows of this order (its number or client id; a position's symbol) in the
                    answers of that route have these fields instead of their own

What a stop waits for is not simulated: it is triggered when the book fills it, and becomes an order of its own then.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.responses import HTMLResponse, Response
from starlette.websockets import WebSocket

from brokers.base import OrderRef, OrderType, ReportStatus, Side, Ticket, Tif
from brokers.errors import BrokerUnavailable, OrderRefused
from brokers.paper.model import Action, Fault, Market, Operation, PaperOrder
from simulators.binance import DEFAULT_API_KEY, DEFAULT_API_SECRET
from simulators.binance.book import (
    BinanceBook,
    algo_item,
    book_ticker_item,
    child_of,
    day_ticker_item,
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
from simulators.binance.market import LISTINGS, REDUCE_ONLY, Listing, Refused, read_order
from simulators.control import Command
from simulators.http_faults import HttpFault
from simulators.http_gateway import HttpGateway, run_program
from simulators.listener import Listener
from simulators.loopback_http import HttpCall, json_response

_EARLY_MS = 1000
_LONGEST_PAGE = 1000
_FORCED = {"liquidation": "autoclose-", "deleveraging": "adl_autoclose", "settlement": "settlement_autoclose-"}
"""How the client ids of orders begin that Binance itself makes."""
_NO_LIMIT = 1_000_000
_STREAM_PATH = "/private/ws"
_TOLD_EVENTS = frozenset({"ORDER_TRADE_UPDATE", "ALGO_UPDATE", "listenKeyExpired"})
"""Those that this server has."""
_WEIGHTS = {
    "GET /fapi/v1/allOrders": 5,
    "GET /fapi/v1/allAlgoOrders": 5,
    "GET /fapi/v1/userTrades": 5,
    "GET /fapi/v3/positionRisk": 5,
    "GET /fapi/v3/balance": 5,
    "GET /fapi/v1/accountConfig": 5,
    "GET /fapi/v1/ticker/bookTicker": 5,
    "GET /fapi/v1/ticker/24hr": 1,
    "POST /fapi/v1/order": 0,
    "POST /fapi/v1/algoOrder": 0,
}
_QUOTES = "GET /fapi/v1/ticker/bookTicker"
_QUOTE_OF_ONE_WEIGHS = 2
_NOT_ACCURATE = 2_399
"""What an answer with quotes tells as the weight used, whatever that is: at Binance, too, it "is not accurate from this endpoint"."""
_WITHOUT_SYMBOL_40 = frozenset({"GET /fapi/v1/openOrders", "GET /fapi/v1/openAlgoOrders", "GET /fapi/v1/ticker/24hr"})
_OPERATIONS = {
    "GET /fapi/v1/accountConfig": (Operation.CONNECT,),
    "GET /fapi/v1/allOrders": (Operation.REPORTS, Operation.FIND),
    "GET /fapi/v1/order": (Operation.FIND,),
    "GET /fapi/v3/positionRisk": (Operation.POSITIONS,),
    "GET /fapi/v3/balance": (Operation.BALANCES,),
    _QUOTES: (Operation.QUOTES,),
    "GET /fapi/v1/ticker/24hr": (Operation.QUOTES,),
}
_PLACING = ("POST /fapi/v1/order", "POST /fapi/v1/algoOrder")
_CANCELLING = ("DELETE /fapi/v1/order", "DELETE /fapi/v1/algoOrder")
_UNSIGNED = frozenset(
    {
        *("/fapi/v1/time", "/fapi/v1/exchangeInfo", "/fapi/v1/listenKey", "/fapi/v1/ping"),
        *("/fapi/v1/ticker/bookTicker", "/fapi/v1/ticker/24hr"),
    }
)


class FaultKind(StrEnum):
    ERROR = "error"
    """An error in Binance's form, with `status`, `code` (None: none), `text` and, if set, the header Retry-After."""
    HTML = "html"
    """`status` with a page that is not JSON, as from a proxy."""
    EMPTY = "empty"
    """`status` without a body."""
    NO_ID = "no_id"
    """Success, with an answer that has none of the expected fields."""
    SLOW = "slow"
    """The proper answer, `seconds` late."""
    DROP = "drop"
    """The connection is closed without an answer."""
    NEVER_ANSWER = "never_answer"
    TRICKLE = "trickle"
    """An endless answer, one byte at a time."""
    TRUNCATED = "truncated"
    """The first half of the proper answer, as if it were complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BinanceFault(HttpFault):
    kinds = FaultKind

    code: int | None = None
    retry_after: int | None = None


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


class SimulatedBinance(HttpGateway[Call, object]):
    """The server, in threads of its own: `with SimulatedBinance(path) as server: ... server.base_url, server.book`.

    One account, with one key. With `weight_per_minute`, more is answered with 429, and going on with 418. The book
    survives the server. Port 0 takes any free port. Raises ValueError for a host other than loopback, OSError for a port in use.
    """

    thread_name = "simulated-binance"
    fault_type = BinanceFault
    refused = Refused
    placings = _PLACING
    cancels = _CANCELLING
    book: BinanceBook

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
        super().__init__(host, port)
        self.api_key = api_key
        self.api_secret = api_secret
        self.account_id = account_id
        self.book = BinanceBook(path, account_id=account_id, market=replace(market or Market(), currency="USDT"))
        self.listings = {each.symbol: each for each in listings}
        self.is_hedged = False
        self._hidden_trade: int | None = None
        self.answers_without_symbol = True
        self.clock_ahead_seconds = 0.0
        self._weight_per_minute = weight_per_minute
        self._leverage: dict[str, int] = {}
        self._margin_types: dict[str, str] = {}
        self._listen_key = ""

    @property
    def base_url(self) -> str:
        """For `BINANCE_BASE_URL`."""
        return self.url

    @property
    def stream_url(self) -> str:
        """For `BINANCE_STREAM_URL`."""
        return f"ws://127.0.0.1:{self.port}"

    def weight(self, seconds: float = 60.0) -> int:
        """What the calls of the last so many seconds weighed together."""
        now = time.monotonic()
        with self._lock:
            return sum(map(self._weight_of, self._calls_within(seconds, now)))

    def expire_listen_key(self) -> None:
        """Listeners are told, and get nothing more under the old key."""
        with self._lock:
            key, self._listen_key = self._listen_key, ""
            listeners, self._listeners = tuple(self._listeners), set()
        for listener in listeners:
            listener.send(json.dumps({"e": "listenKeyExpired", "E": self._now_ms(), "listenKey": key}))

    # Calls

    def _answer(self, http_call: HttpCall) -> Response:
        call = Call(
            http_call.method,
            http_call.path,
            http_call.query,
            dict(parse_qsl(http_call.query, keep_blank_values=True)),
            http_call.headers.get("x-mbx-apikey", ""),
            time.monotonic(),
        )
        try:
            answer = self.answer(call)
            response = answer if isinstance(answer, Response) else json_response(200, answer)
        except Refused as refusal:
            response = _refusal(refusal)
        except BrokerUnavailable as exc:
            response = _refusal(Refused(-1008, str(exc), 503))
        response.headers["X-MBX-USED-WEIGHT-1M"] = str(_NOT_ACCURATE if call.route == _QUOTES else self.weight())
        if call.route in _PLACING:
            response.headers["X-MBX-ORDER-COUNT-10S"] = str(self._orders(10))
            response.headers["X-MBX-ORDER-COUNT-1M"] = str(self._orders(60))
        return response

    def _refuse(self, status: int, words: str) -> Response:
        return _refusal(Refused(-1000, words, status))

    def _refusal_of(self, fault: Fault, *, is_order: bool) -> Exception:
        if fault.action is Action.REFUSE:
            return Refused(-2010, fault.reason)
        return Refused(-1008 if is_order else -1001, fault.reason, 503)

    def _truncated(self, answer: object) -> Response:
        whole = json.dumps(answer)
        return Response(whole[: len(whole) // 2], media_type="application/json")

    def _fail(self, fault: BinanceFault, call: Call) -> object:
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
        raise AssertionError(fault.kind)

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
            case "GET", "v1/ticker/bookTicker":
                return self._tickers(call, self._book_ticker)
            case "GET", "v1/ticker/24hr":
                return self._tickers(call, self._day_ticker)
            case "GET", "v1/accountConfig":
                return {"canTrade": True, "dualSidePosition": self.is_hedged, "multiAssetsMargin": False, "feeTier": 0}
            case "GET", "v1/positionSide/dual":
                return {"dualSidePosition": self.is_hedged}
            case "GET", "v1/symbolConfig":
                return [
                    {
                        "symbol": symbol,
                        "marginType": self._margin_types.get(symbol, "CROSSED"),
                        "isAutoAddMargin": False,
                        "leverage": self._leverage.get(symbol, 20),
                        "maxNotionalValue": "1000000",
                    }
                    for symbol in ([form["symbol"]] if "symbol" in form else self.listings)
                ]
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
            case "GET", "v1/allAlgoOrders":
                return self._all_algos(call)
            case "GET", "v1/openAlgoOrders":
                return self._open_algos(call)
            case "GET", "v1/allOrders":
                return self._all_orders(call)
            case "GET", "v1/userTrades":
                return self._trades(call)
            case "GET", "v3/positionRisk":
                return [
                    position_item(each) | self._distorted_fields(call.route, each.symbol)
                    for each in self.book.positions_held()
                ]
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
        return item | self._distorted_fields(call.route, str(item["orderId"]), order.ticket.client_order_id)

    def _one_algo(self, call: Call) -> dict[str, Any]:
        order = self._named_algo(call.form)
        if order is None or self.book.is_hidden(order, counts=False):
            raise Refused(-2013, "Order does not exist.")
        item = algo_item(order, order.report())
        return item | self._distorted_fields(call.route, str(item["algoId"]), order.ticket.client_order_id)

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
            | self._distorted_fields(call.route, str(number_of(order)), order.ticket.client_order_id)
            for order in self.book.orders()
            if is_algo(order)
            and order.status is ReportStatus.WORKING
            and symbol in (None, order.ticket.instrument.symbol)
            and not self.book.is_hidden(order, counts=False)
        ]

    def _all_algos(self, call: Call) -> list[dict[str, Any]]:
        form = call.form
        if "symbol" not in form:
            raise Refused(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        self.book.advance()
        rows = [
            algo_item(order, order.report())
            | self._distorted_fields(call.route, str(number_of(order)), order.ticket.client_order_id)
            for order in self.book.orders()
            if is_algo(order)
            and order.ticket.instrument.symbol == form["symbol"]
            and millis(order.placed_at) >= int(form.get("startTime", 0))
            and not self.book.is_hidden(order, counts=False)
        ]
        return rows[: min(int(form.get("limit", 500)), _LONGEST_PAGE)]

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
            item = order_item(order, report) | self._distorted_fields(
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
            item | self._distorted_fields(call.route, str(item["orderId"]), order.ticket.client_order_id)
            for order in self._matching(call)
            for item in trade_items(order, order.report())
            if item["id"] != self._hidden_trade
        ]
        rows.sort(key=lambda item: int(item["id"]))
        if "orderId" in form:
            rows = [item for item in rows if str(item["orderId"]) == form["orderId"]]
        if "fromId" in form:
            rows = [item for item in rows if int(item["id"]) >= int(form["fromId"])]
        if "startTime" in form:
            rows = [item for item in rows if int(item["time"]) >= int(form["startTime"])]
        return rows[: min(int(form.get("limit", 500)), _LONGEST_PAGE)]

    def _tickers(self, call: Call, ticker_of: Callable[[Listing], dict[str, Any]]) -> object:
        """Of the one contract that was named, or of all."""
        named = call.form.get("symbol")
        if named is not None and named not in self.listings:
            raise Refused(-1121, "Invalid symbol.")
        chosen = [self.listings[named]] if named is not None else list(self.listings.values())
        rows = [ticker_of(each) | self._distorted_fields(call.route, each.symbol) for each in chosen]
        return rows if named is None else rows[0]

    def _book_ticker(self, listing: Listing) -> dict[str, Any]:
        return book_ticker_item(listing, self.book.quote(listing.symbol), self._now_ms())

    def _day_ticker(self, listing: Listing) -> dict[str, Any]:
        return day_ticker_item(listing, self._now_ms())

    def _now_ms(self) -> int:
        return int((datetime.now(UTC).timestamp() + self.clock_ahead_seconds) * 1000)

    # Weights

    def _weight_of(self, call: Call) -> int:
        if call.route in _WITHOUT_SYMBOL_40:
            return 1 if "symbol" in call.form else 40
        if call.route == _QUOTES and "symbol" in call.form:
            return _QUOTE_OF_ONE_WEIGHS
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
        with self._lock:
            return sum(call.route in _PLACING for call in self._calls_within(seconds, time.monotonic()))

    def _is_too_often(self, call: Call) -> bool:
        limit = self._weight_per_minute
        return limit is not None and self.weight() + self._weight_of(call) > limit

    def _too_often(self) -> Exception:
        status = 418 if self._too_many > 10 else 429
        return Refused(-1003, "Too many requests; current limit is reached.", status, retry_after=1)

    # The stream

    async def _serve_feed(self, websocket: WebSocket) -> None:
        """As at Binance, a listener on another path, with another key, or that does not name the events that it wants, is connected and
        never told anything."""
        query = dict(parse_qsl(websocket.url.query))
        named = set(query.get("events", "").split("/"))
        await websocket.accept()
        is_known = websocket.url.path == _STREAM_PATH and query.get("listenKey") == self._listen_key
        if is_known and named >= _TOLD_EVENTS:
            await self._serve_listener(websocket)
        else:
            await Listener(websocket).serve()

    def _frames_of(self, order: PaperOrder) -> Iterable[str]:
        return map(json.dumps, events_of(order))

    # The operator's side

    def _own_state(self) -> Mapping[str, Any]:
        return {"weight": self.weight(), "leverage": self._leverage, "margin_types": self._margin_types}

    def _own_commands(self) -> Mapping[str, Command]:
        return {
            "clock_ahead": self.set_clock,
            "hedge_mode": self.keep_apart,
            "without_symbol": self.answer_without_symbol,
            "hide_trade": self.hide_trade,
            "rest_by_hand": self.rest_by_hand,
            "force_close": self.force_close,
            "expire_listen_key": self.expire_listen_key,
        }

    def set_clock(self, seconds: float) -> None:
        """So far ahead of this machine's; below 0: behind."""
        self.clock_ahead_seconds = float(seconds)

    def keep_apart(self, on: bool = True) -> None:
        """Whether the account keeps long and short positions apart."""
        self.is_hedged = bool(on)

    def rest_by_hand(self, symbol: str, quantity: object, price: object) -> dict[str, str]:
        """A resting order of somebody else that only reduces the position; a quantity below 0 sells. Returns its id."""
        amount = Decimal(str(quantity))
        ticket = Ticket(
            client_order_id="",
            instrument=self.listings[symbol].instrument,
            side=Side.BUY if amount > 0 else Side.SELL,
            quantity=abs(amount),
            order_type=OrderType.LIMIT,
            limit_price=Decimal(str(price)),
            tif=Tif.GTC,
            product=REDUCE_ONLY,
        )
        self.book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD, client_order_id=""))
        try:
            return {"order_id": self.book.take(ticket).broker_order_id}
        except Refused as exc:
            raise ValueError(exc.message) from exc

    def force_close(
        self, symbol: str, kind: str = "liquidation", quantity: object = None, price: object = None
    ) -> dict[str, str]:
        """As much of the position is closed by Binance itself. Returns the order's id. Raises ValueError where nothing is held, KeyError for another
        kind."""
        starts, instrument = _FORCED[kind], self.listings[symbol].instrument
        held = sum((each.quantity for each in self.book.positions() if each.instrument.symbol == symbol), Decimal(0))
        if not held:
            raise ValueError(f"no {symbol} is held")
        amount = abs(held) if quantity is None else Decimal(str(quantity))
        paid = None if price is None else Decimal(str(price))
        order = self.book.trade_by_hand(instrument, amount.copy_sign(-held), paid)
        number = number_of(order)
        client_id = starts if kind == "deleveraging" else f"{starts}{number}"
        for route in ("GET /fapi/v1/allOrders", "GET /fapi/v1/order"):
            self.show_oddly(route, str(number), {"clientOrderId": client_id})
        self._wake_up.set()
        return {"order_id": order.broker_order_id}

    def hide_trade(self, number: int | None = None) -> None:
        """The trades with this number are not listed, while later ones are. None: all are."""
        self._hidden_trade = number

    def answer_without_symbol(self, on: bool = True) -> None:
        self.answers_without_symbol = bool(on)


def _refusal(refusal: Refused) -> Response:
    response = json_response(refusal.status, {"code": refusal.code, "msg": refusal.message})
    if refusal.retry_after is not None:
        response.headers["Retry-After"] = str(refusal.retry_after)
    return response


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(
        argv,
        name="binance",
        title="Simulated Binance",
        port=8085,
        account="BINANCE1",
        make=lambda chosen, market: SimulatedBinance(
            chosen.data,
            account_id=chosen.account,
            market=market,
            port=chosen.port,
            weight_per_minute=chosen.weight_per_minute,
        ),
        settings=lambda server: {
            "BINANCE_BASE_URL": server.base_url,
            "BINANCE_API_KEY": server.api_key,
            "BINANCE_API_SECRET": server.api_secret,
        },
        limits={"--weight-per-minute": "weight a minute"},
    )
