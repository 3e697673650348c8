"""Zerodha's Kite Connect on loopback: REST, order feed and login over a paper exchange, with faults on demand. No money,
no market prices.

    python -m simulators.zerodha --port 8083 --data kite.db        a book that outlives the server
    python -m simulators.zerodha … --faults 7:0.2                  a fifth of the calls fails, reproducibly by the seed 7

Besides the API's own routes, for tests and people:

    GET  /_control      state: token, calls, listeners, faults, orders in the book
    POST /_control      {"do": "...", ...}: the commands of every gateway (see `simulators.control`), and:

    http_fault      fault: the fields of `HttpFault`, as in {"kind": "html", "route": "POST /orders/*", "times": 2, "accepted": true};
                    token_expired, rate_limited, server_error, html, no_content_type, check_order_book, margin, slow, drop, never_answer, trickle,
                    truncated
    kill_token, new_token, request_token    the session ends; a new one (returned); the result of a login in the browser (returned)
    price           symbol, price       new_day     the day's orders are no longer shown
    pass_on_amo     the after-market orders are at the exchange: shown again under the same ids, as OPEN
    line_down (on)  the line to the exchange is down: orders stay OPEN PENDING, and cancels are refused
    drop_feed       mute_feed (muted)   the order feed is disconnected, or silent
    show_oddly      route, order, fields: from now on the rows of this order (its id or tag; a position's symbol) in the lists of
                    that route (`GET /orders`) have these fields instead of their own

Not simulated: errors about a working order, which Kite's API does not have.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl

from starlette.responses import Response
from starlette.websockets import WebSocket

from brokers.base import OrderRef, ReportStatus
from brokers.errors import BrokerUnavailable, OrderRefused
from brokers.paper.model import Action, Fault, Market, Operation, PaperOrder, ScriptedQuote
from simulators.control import Command
from simulators.http_faults import HttpFault
from simulators.http_gateway import HttpGateway, run_program
from simulators.listener import Listener
from simulators.loopback_http import HttpCall, json_response
from simulators.zerodha import DEFAULT_ACCESS_TOKEN, DEFAULT_API_KEY, DEFAULT_API_SECRET
from simulators.zerodha.book import (
    USUAL_LEGS,
    KiteBook,
    charges_item,
    holding_item,
    margins,
    order_items,
    position_item,
    quote_item,
    trade_items,
)
from simulators.zerodha.market import EXCHANGES, ICEBERG, LISTINGS, Listing, Refused, as_csv, read_order

HEARTBEAT = b"\x00"
HEARTBEAT_SECONDS = 1.0
_OPERATIONS = {
    "GET /user/profile": (Operation.CONNECT,),
    "GET /orders": (Operation.REPORTS, Operation.FIND),
    "GET /portfolio/positions": (Operation.POSITIONS,),
    "GET /user/margins": (Operation.BALANCES,),
    "GET /quote": (Operation.QUOTES,),
}


class FaultKind(StrEnum):
    TOKEN_EXPIRED = "token_expired"
    """403 TokenException; the token stays valid for other calls."""
    RATE_LIMITED = "rate_limited"
    """429, as for a caller that calls too often."""
    SERVER_ERROR = "server_error"
    """`status` (default 500) with an error in JSON, with name `error` and message `text`."""
    HTML = "html"
    """`status` with a page that is not JSON, as from a proxy."""
    NO_CONTENT_TYPE = "no_content_type"
    NO_DATA = "no_data"
    """200 and success, with data that contain no order id."""
    CHECK_ORDER_BOOK = "check_order_book"
    """400 OrderException saying that the request timed out and that the order book should be checked."""
    MARGIN = "margin"
    """400 MarginException, an error type without a class in the client library."""
    SLOW = "slow"
    """The proper answer, `seconds` late."""
    DROP = "drop"
    """The connection is closed without an answer."""
    NEVER_ANSWER = "never_answer"
    TRICKLE = "trickle"
    """An endless answer, one byte at a time, so that no single read times out."""
    TRUNCATED = "truncated"
    """The first half of the proper answer, as if it were complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KiteFault(HttpFault):
    kinds = FaultKind

    route: str = "POST /orders/*"
    error: str = "GeneralException"
    text: str = "Something unexpected happened. Please try again."


@dataclass(frozen=True, slots=True)
class Call:
    """One request, parsed. `at` is in monotonic seconds."""

    method: str
    path: str
    form: Mapping[str, str]
    body: bytes
    authorization: str
    at: float
    query: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def route(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Page:
    """An answer that is not the API's usual JSON."""

    content: str
    content_type: str | None
    status: int = 200


class SimulatedKite(HttpGateway[Call, object]):
    """The server, in threads of its own: `with SimulatedKite(path) as server: ... server.root_url, server.book`.

    One account, one user. `prices` are last prices by trading symbol. With `order_calls_per_second` or
    `other_calls_per_second`, more calls within a second are answered with 429; so are
    quotes, of which Kite allows one. The book and the session survive the
    server (the session in a file beside the book). Port 0 takes any free port. Raises ValueError for a host other than
    loopback, OSError for a port in use.
    """

    thread_name = "simulated-kite"
    fault_type = KiteFault
    refused = Refused
    placings = ("POST /orders/*",)
    cancels = ("DELETE /orders/*",)
    exchange = EXCHANGES[0]
    book: KiteBook

    def __init__(
        self,
        path: Path | str,
        *,
        account_id: str = "AB1234",
        market: Market | None = None,
        prices: Mapping[str, Decimal] | None = None,
        listings: Sequence[Listing] = LISTINGS,
        api_key: str = DEFAULT_API_KEY,
        api_secret: str = DEFAULT_API_SECRET,
        host: str = "127.0.0.1",
        port: int = 0,
        order_calls_per_second: int | None = None,
        other_calls_per_second: int | None = None,
        quote_calls_per_second: int | None = 1,
    ) -> None:
        super().__init__(host, port)
        self.api_key = api_key
        self._api_secret = api_secret
        self.user_id = account_id
        self.book = KiteBook(
            path, account_id=account_id, market=replace(market or Market(), currency="INR"), clock=lambda: datetime.now(UTC)
        )  # fmt: skip
        self._listings = {(each.exchange, each.symbol): each for each in listings}
        self._set_prices(prices or {})
        self._session_path = Path(path).with_name(Path(path).name + ".session.json")
        self._session = self._read_session()
        self._request_tokens: set[str] = set()
        self.is_line_down = False
        self.legs_shown_as = USUAL_LEGS
        self._beat_at = time.monotonic()
        self._limits = {
            "order": order_calls_per_second,
            "other": other_calls_per_second,
            "quote": quote_calls_per_second,
        }

    @property
    def root_url(self) -> str:
        """For `KITE_ROOT_URL`."""
        return self.url

    @property
    def ticker_url(self) -> str:
        """For `KITE_TICKER_URL`."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def access_token(self) -> str:
        """The only valid token; empty if there is none."""
        return str(self._session["access_token"])

    def kill_token(self) -> None:
        """As at six in the morning, or when the user logs in elsewhere."""
        self._write_session(access_token="")

    def new_token(self) -> str:
        """A fresh session, without a login; the old token becomes invalid."""
        self._write_session(access_token=secrets.token_hex(16))
        return self.access_token

    def new_day(self) -> None:
        """Hides all orders and trades so far, including their tags."""
        orders = self.book.orders()
        self._write_session(forgotten=max((order.number for order in orders), default=0))

    def pass_on_amo(self) -> None:
        """As at nine in the morning: held orders are now at the exchange under the same ids, and shown again if a
        new day hid them."""
        waiting = [str(each) for each in self._session["amo"]]
        orders = [order.number for order in self.book.orders() if order.broker_order_id in waiting]
        self._write_session(amo=[], shown_again=[*self._session["shown_again"], *orders])
        self._wake_up.set()

    def set_line(self, *, is_down: bool) -> None:
        """Whether placed orders reach the exchange."""
        self.is_line_down = is_down

    # Calls

    def _answer(self, http_call: HttpCall) -> Response:
        form = dict(parse_qsl(http_call.query))
        if http_call.content_type == "application/x-www-form-urlencoded":
            form |= dict(parse_qsl(http_call.body.decode("utf-8", "replace"), keep_blank_values=True))
        authorization = http_call.headers.get("authorization", "")
        try:
            at, query = time.monotonic(), parse_qs(http_call.query)
            answer = self.answer(Call(http_call.method, http_call.path, form, http_call.body, authorization, at, query))
        except Refused as refusal:
            return _refusal(refusal)
        except BrokerUnavailable as exc:
            return _refusal(Refused(503, "NetworkException", str(exc)))
        if isinstance(answer, Page):
            return Response(answer.content, answer.status, media_type=answer.content_type)
        return json_response(200, {"status": "success", "data": answer}, _plain)

    def _refuse(self, status: int, words: str) -> Response:
        return _refusal(Refused(status, {403: "PermissionException", 413: "InputException"}[status], words))

    def _refusal_of(self, fault: Fault, *, is_order: bool) -> Exception:
        if fault.action is Action.REFUSE:
            return Refused(400, "InputException", fault.reason)
        return Refused(429 if is_order else 503, "NetworkException", fault.reason)

    def _truncated(self, answer: object) -> Page:
        whole = "" if isinstance(answer, Page) else json.dumps({"status": "success", "data": answer}, default=_plain)
        page = answer if isinstance(answer, Page) else Page(whole, "application/json")
        return replace(page, content=page.content[: len(page.content) // 2])

    def _fail(self, fault: KiteFault, call: Call) -> object:
        match fault.kind:
            case FaultKind.TOKEN_EXPIRED:
                raise Refused(403, "TokenException", "Incorrect `api_key` or `access_token`.")
            case FaultKind.RATE_LIMITED:
                raise Refused(429, "NetworkException", "Too many requests")
            case FaultKind.SERVER_ERROR:
                raise Refused(fault.status, fault.error, fault.text)
            case FaultKind.HTML:
                return Page("<html><body>Bad gateway</body></html>", "text/html", fault.status)
            case FaultKind.NO_CONTENT_TYPE:
                return Page("{}", None, fault.status)
            case FaultKind.NO_DATA:
                return {"order_id": None}
            case FaultKind.CHECK_ORDER_BOOK:
                words = "The order request timed out. Please check the order book and confirm before placing again."
                raise Refused(400, "OrderException", words)
            case FaultKind.MARGIN:
                words = "Insufficient funds. Required margin is 1000.00 but available margin is 0.00."
                raise Refused(400, "MarginException", words)
        raise AssertionError(fault.kind)

    def _concerned(self, call: Call) -> tuple[tuple[Operation, ...], str, str]:
        if call.method == "POST" and call.path.startswith("/orders/"):
            return (Operation.PLACE,), call.form.get("tag", ""), call.form.get("tradingsymbol", "")
        if call.method == "DELETE" and call.path.startswith("/orders/"):
            order = self.book.known(call.path.rsplit("/", 1)[1])
            if order is None:
                return (Operation.CANCEL,), "", ""
            return (Operation.CANCEL,), order.ticket.client_order_id, order.ticket.instrument.symbol
        return _OPERATIONS.get(call.route, ()), "", ""

    def _carry_out(self, call: Call) -> object:
        parts = call.path.strip("/").split("/")
        match call.method, parts:
            case "POST", ["session", "token"]:
                return self._open_session(call.form)
            case "DELETE", ["session", "token"]:
                self._check_token(call)
                self.kill_token()
                return True
        self._check_token(call)
        match call.method, parts:
            case "GET", ["user", "profile"]:
                return self._profile()
            case "GET", ["user", "margins", *segment]:
                both = margins(self.book)
                return both[segment[0]] if segment else both
            case "GET", ["instruments", *exchange]:
                chosen = [each for each in self._listings.values() if not exchange or each.exchange == exchange[0]]
                return Page(as_csv(chosen), "text/csv")
            case "GET", ["quote"]:
                return {name: item for name in call.query.get("i", []) if (item := self._quote(name)) is not None}
            case "GET", ["orders"]:
                return self._listed(
                    call.route, lambda order, report, token: order_items(order, report, token, self.legs_shown_as)
                )
            case "GET", ["trades"]:
                return self._listed(call.route, trade_items)
            case "GET", ["orders", order_id]:
                return self._history(order_id)
            case "GET", ["orders", order_id, "trades"]:
                order = self._order(order_id)
                return trade_items(order, order.report(), self._token(order))
            case "POST", ["orders", variety]:
                return self._place(variety, call.form)
            case "DELETE", ["orders", variety, order_id]:
                return self._cancel(variety, order_id)
            case "PUT", ["orders", _, _]:
                raise Refused(400, "OrderException", "The simulator does not modify orders.")
            case "GET", ["portfolio", "positions"]:
                net = [
                    position_item(
                        each,
                        self._token_of(each.instrument.exchange, each.instrument.symbol),
                        self._size_of(each.instrument.exchange, each.instrument.symbol),
                    )
                    | self._distorted_fields(call.route, each.instrument.symbol)
                    for each in self.book.net()
                ]
                return {"net": net, "day": net}
            case "GET", ["portfolio", "holdings"]:
                return [
                    holding_item(
                        each,
                        self.book.sold_of(each),
                        self._token_of(each.instrument.exchange, each.instrument.symbol),
                    )
                    | self._distorted_fields(call.route, each.instrument.symbol)
                    for each in self.book.holdings()
                ]
            case "POST", ["charges", "orders"]:
                return [charges_item(asked, self.book) for asked in json.loads(call.body)]
        raise Refused(404, "GeneralException", "Route not found")

    def _listed(self, route: str, items: Callable[[Any, Any, int], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        rows = []
        for order, report in self._shown():
            odd = self._standing(order, report) if route == "GET /orders" else {}
            odd |= self._distorted_fields(route, order.broker_order_id, order.ticket.client_order_id)
            for item in items(order, report, self._token(order)):
                of_leg = (
                    {} if item["order_id"] == order.broker_order_id else self._distorted_fields(route, item["order_id"])
                )
                rows.append(item | odd | of_leg)
        return rows

    def _standing(self, order: Any, report: Any) -> dict[str, Any]:
        """The status of a working order that is not at the exchange."""
        if report.status is not ReportStatus.WORKING:
            return {}
        if order.broker_order_id in self._session["amo"]:
            return {"status": "AMO REQ RECEIVED"}
        return {"status": "OPEN PENDING"} if self.is_line_down else {}

    def _place(self, variety: str, form: Mapping[str, str]) -> dict[str, str]:
        ticket = read_order(variety, form, self._listings)
        try:
            if variety == "amo" or self.is_line_down:
                self.book.add_fault(
                    Fault(operation=Operation.PLACE, action=Action.HOLD, client_order_id=ticket.client_order_id or "*")
                )
            report = self.book.place(ticket)
        except OrderRefused as exc:
            raise Refused(400, "OrderException", exc.reason) from exc
        if variety == "amo":
            self._write_session(amo=[*self._session["amo"], report.broker_order_id])
        self._wake_up.set()
        return {"order_id": report.broker_order_id}

    def _cancel(self, variety: str, order_id: str) -> dict[str, str]:
        order = self._order(order_id)
        own = order.ticket.variety or "regular"
        if own == "amo" and order.broker_order_id not in self._session["amo"]:
            # The list continues to call it an after-market order; cancelling it as one has no effect.
            own = "regular"
            if variety == "amo":
                raise Refused(504, "NetworkException", f"request {order_id} timed out")
        if variety != own:
            raise Refused(400, "InputException", f"The order is not of the variety {variety}.")
        rows = order_items(order, order.report(), self._token(order), self.legs_shown_as)
        is_done = all(row["status"] == "COMPLETE" for row in rows if row["order_id"] == order_id)
        if self.is_line_down or (own == ICEBERG and is_done):
            words = "Order cannot be cancelled as it is being processed. Try later."
            raise Refused(400, "OrderException", words)
        try:
            self.book.cancel(OrderRef(client_order_id="", broker_order_id=order.broker_order_id))
        except OrderRefused as exc:
            raise Refused(400, "OrderException", f"Order cannot be cancelled. {exc.reason}") from exc
        self._wake_up.set()
        return {"order_id": order_id}

    def _order(self, order_id: str) -> Any:
        # A leg of an iceberg order has two digits after the id in the book.
        known = self.book.known(order_id) or self.book.known(order_id[:-2])
        if known is None:
            raise Refused(404, "GeneralException", "Couldn't find that `order_id`.")
        return next(
            order
            for order in self.book.orders(known.ticket.client_order_id)
            if order.broker_order_id == known.broker_order_id
        )

    def _history(self, order_id: str) -> list[dict[str, Any]]:
        order = self._order(order_id)
        rows = order_items(order, order.report(), self._token(order), self.legs_shown_as)
        now = next((row for row in rows if row["order_id"] == order_id), rows[0])
        begun = {"filled_quantity": 0, "pending_quantity": now["quantity"], "average_price": 0, "status_message": None}
        return [{**now, **begun, "status": status} for status in ("PUT ORDER REQ RECEIVED", "VALIDATION PENDING")] + [
            now
        ]

    def _shown(self) -> list[tuple[Any, Any]]:
        forgotten, again = int(self._session["forgotten"]), self._session["shown_again"]
        try:
            return [
                (order, report)
                for order, report in self.book.shown()
                if order.number > forgotten or order.number in again
            ]
        except BrokerUnavailable as exc:
            raise Refused(503, "NetworkException", str(exc)) from exc

    def _profile(self) -> dict[str, Any]:
        return {
            "user_id": self.user_id,
            "user_type": "individual",
            "email": "somebody@example.com",
            "user_name": "Simulated Person",
            "user_shortname": "Simulated",
            "broker": "ZERODHA",
            "exchanges": list(EXCHANGES),
            "products": ["CNC", "NRML", "MIS"],
            "order_types": ["MARKET", "LIMIT", "SL", "SL-M"],
            "avatar_url": None,
            "meta": {"demat_consent": "consent"},
        }

    def _quote(self, name: str) -> dict[str, Any] | None:
        """As it was set, else one tick around the listing's last price, at this moment; of an instrument that is not listed, or refused, nothing."""
        exchange, _, symbol = name.partition(":")
        listing, now = self._listings.get((exchange, symbol)), datetime.now(UTC)
        if listing is None:
            return None
        scripted = self.book.quote(symbol)
        if scripted is None:
            last, tick = listing.last_price, listing.tick
            scripted = ScriptedQuote(symbol=symbol, bid=last - tick, ask=last + tick, last=last, last_age_seconds=0)
        if scripted.refusal is not None:
            return None
        return quote_item(scripted, listing, now)

    def _token(self, order: Any) -> int:
        return self._token_of(order.ticket.instrument.exchange, order.ticket.instrument.symbol)

    def _token_of(self, exchange: str | None, symbol: str) -> int:
        listing = self._listings.get((exchange or "", symbol))
        return 0 if listing is None else listing.token

    def _size_of(self, exchange: str | None, symbol: str) -> int:
        listing = self._listings.get((exchange or "", symbol))
        return 1 if listing is None else listing.multiplier

    def _set_prices(self, prices: Mapping[str, Decimal]) -> None:
        for key, listing in self._listings.items():
            if listing.symbol in prices:
                self._listings[key] = replace(listing, last_price=prices[listing.symbol])

    # Session

    def _open_session(self, form: Mapping[str, str]) -> dict[str, Any]:
        request_token = form.get("request_token", "")
        expected = hashlib.sha256((self.api_key + request_token + self._api_secret).encode()).hexdigest()
        if form.get("api_key") != self.api_key or form.get("checksum") != expected:
            raise Refused(403, "TokenException", "Invalid `checksum`.")
        with self._lock:
            if request_token not in self._request_tokens:
                raise Refused(403, "TokenException", "Token is invalid or has expired.")
            self._request_tokens.discard(request_token)
        login_time = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        return {**self._profile(), "access_token": self.new_token(), "login_time": login_time, "api_key": self.api_key}

    def log_in(self) -> str:
        """The request token from a person's login in the browser; valid once."""
        token = secrets.token_hex(16)
        with self._lock:
            self._request_tokens.add(token)
        return token

    def _check_token(self, call: Call) -> None:
        if not self.access_token or call.authorization != f"token {self.api_key}:{self.access_token}":
            raise Refused(403, "TokenException", "Incorrect `api_key` or `access_token`.")

    def is_feed_open_to(self, query: str) -> bool:
        said = parse_qs(query)
        return said.get("api_key") == [self.api_key] and said.get("access_token") == [self.access_token]

    def _read_session(self) -> dict[str, Any]:
        first = {"access_token": DEFAULT_ACCESS_TOKEN, "forgotten": 0, "amo": [], "shown_again": []}
        if self._session_path.exists():
            said: dict[str, Any] = json.loads(self._session_path.read_text())
            return first | said
        return first

    def _write_session(self, **changes: object) -> None:
        with self._lock:
            self._session = self._session | changes
            new = self._session_path.with_suffix(".new")
            new.touch(mode=0o600)
            new.write_text(json.dumps(self._session))
            os.replace(new, self._session_path)

    # Faults and limits

    def _is_too_often(self, call: Call) -> bool:
        kind = _kind(call)
        limit = self._limits[kind]
        if limit is None:
            return False
        return sum(_kind(earlier) == kind for earlier in self._calls_within(1.0, call.at)) >= limit

    def _too_often(self) -> Exception:
        return Refused(429, "NetworkException", "Too many requests")

    # Order feed

    async def _serve_feed(self, websocket: WebSocket) -> None:
        """Serves one listener until it disconnects or is dropped."""
        if not self.is_feed_open_to(websocket.url.query):
            refusal = Refused(403, "TokenException", "Incorrect `api_key` or `access_token`.")
            await websocket.send_denial_response(_refusal(refusal))
            return
        await websocket.accept()
        await self._serve_listener(websocket)

    def _frames_of(self, order: PaperOrder) -> Iterable[str]:
        for item in order_items(order, order.report(), self._token(order)):
            yield json.dumps({"type": "order", "id": "", "data": {**item, "checksum": ""}}, default=_plain)

    def _beat(self, listeners: Sequence[Listener]) -> None:
        if time.monotonic() - self._beat_at >= HEARTBEAT_SECONDS:
            self._beat_at = time.monotonic()
            for listener in listeners:
                listener.send(HEARTBEAT)

    # The operator's side

    def _own_state(self) -> Mapping[str, Any]:
        return {"token_is_good": bool(self.access_token)}

    def _own_commands(self) -> Mapping[str, Command]:
        return {
            "kill_token": self.kill_token,
            "new_token": lambda: {"access_token": self.new_token()},
            "request_token": lambda: {"request_token": self.log_in()},
            "price": lambda symbol, price: self._set_prices({str(symbol): Decimal(str(price))}),
            "new_day": self.new_day,
            "pass_on_amo": self.pass_on_amo,
            "line_down": lambda on=True: self.set_line(is_down=bool(on)),
        }


def _kind(call: Call) -> str:
    """Whose limit the call counts against."""
    if call.path.startswith("/orders/") and call.method != "GET":
        return "order"
    return "quote" if call.path.startswith("/quote") else "other"


def _refusal(refusal: Refused) -> Response:
    words = {"message": refusal.message, "data": None, "error_type": refusal.error_type}
    return json_response(refusal.status, {"status": "error", **words})


def _plain(value: object) -> int | float:
    """Numbers as the API sends them: whole ones without a decimal point."""
    if not isinstance(value, Decimal):
        raise TypeError(f"{value!r} has no place in an answer")
    return int(value) if value == value.to_integral_value() else float(value)


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(
        argv,
        name="zerodha",
        title="Simulated Kite",
        port=8083,
        account="AB1234",
        make=lambda chosen, market: SimulatedKite(
            chosen.data,
            account_id=chosen.account,
            market=market,
            port=chosen.port,
            order_calls_per_second=chosen.order_calls_per_second,
            other_calls_per_second=chosen.other_calls_per_second,
        ),
        settings=lambda server: {
            "KITE_ROOT_URL": server.root_url,
            "KITE_API_KEY": server.api_key,
            "KITE_ACCESS_TOKEN": server.access_token,
        },
        limits={"--order-calls-per-second": "order calls a second", "--other-calls-per-second": "other calls a second"},
    )
