"""Alpaca's trading API on loopback: REST and the stream of trade updates over a paper exchange, and its market data as they are
set, with faults on demand. No money.

    python -m simulators.alpaca --port 8084 --data alpaca.db       a book that outlives the server
    python -m simulators.alpaca … --faults 7:0.2                   a fifth of the calls fails, reproducibly by the seed 7

Besides the API's own routes, for tests and people:

    GET  /_control      state: calls, listeners, faults, orders in the book
    POST /_control      {"do": "...", ...}: the commands of every gateway (see `simulators.control`), and:

    http_fault      fault: the fields of `HttpFault`, as in {"kind": "html", "status": 504, "accepted": true}
    kill_keys, new_keys     the keys are not accepted any more; they are again
    price           symbol, price       asset           symbol, tradable: halts an asset, or lets it trade again
    replace         order, limit_price, quantity, stop_price: as by a person in the dashboard
    shown_as        order, status: the order's status in Alpaca's words, from now on (empty: its own)
    wash_trades     on: whether orders that might trade with a resting one of the other side are refused, as at Alpaca (at first not)
    market          opens_in_seconds: the market is closed for so long (nothing: it is open), and orders wait for it
    end_option      symbol, kind (expiry, assignment, exercise), contracts (nothing: all), posted_in_seconds: positions change at once, without an
                    execution, and the activities come so much later (on paper accounts of Alpaca's the next day)
    move_shares     kind (split, spin_off, merger, rename, transfer), changes: so many shares of each symbol come or, below 0, leave without an
                    order; posted_in_seconds: as of end_option, is_told: false where no activity ever tells of it
    lag             orders, fills: how many seconds later the lists show what is new
    market_data     plus: whether the account subscribes to all exchanges (SIP, OPRA); at first not: shares on IEX, options as indications
    quote           as of every gateway; without one an asset is quoted one step around its last price
    drop_feed       mute_feed (muted)       the stream is disconnected, or silent
    show_oddly      route, order, fields: from now on the rows of this order (its id or tag; a position's symbol) in the answers of
                    that route (`GET /v2/orders`) have these fields instead of their own
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from starlette.responses import Response
from starlette.websockets import WebSocket

from brokers.base import OrderRef, OrderType, ReportStatus, Side, Ticket
from brokers.errors import BrokerUnavailable, OrderAlreadyExists, OrderRefused
from brokers.paper.model import Action, Fault, Market, Operation, PaperOrder
from simulators import control
from simulators.alpaca import DEFAULT_ACCOUNT, DEFAULT_API_KEY, DEFAULT_SECRET_KEY
from simulators.alpaca.book import (
    AlpacaBook,
    account_row,
    activity_rows,
    alpaca_time,
    day_bar,
    kind_of,
    order_row,
    position_row,
    snapshot_item,
    status_of,
)
from simulators.alpaca.market import ASSETS, Asset, Refused, find_asset, read_order
from simulators.alpaca.movements import Movements
from simulators.http_faults import HttpFault
from simulators.http_gateway import HttpGateway, run_program
from simulators.listener import Listener
from simulators.loopback_http import HttpCall, json_response

_ORDERS_A_PAGE, _MOST_ORDERS_A_PAGE = 50, 500
_MOST_FILLS_A_PAGE = 100
_MINUTE = 60.0
_CENT = Decimal("0.01")
_RESTING_AGAINST = frozenset({OrderType.MARKET, OrderType.STOP})
_OPERATIONS = {
    "GET /v2/account": (Operation.CONNECT, Operation.BALANCES),
    "GET /v2/orders": (Operation.REPORTS,),
    "GET /v2/positions": (Operation.POSITIONS,),
    "GET /v2/stocks/snapshots": (Operation.QUOTES,),
    "GET /v1beta1/options/snapshots": (Operation.QUOTES,),
    "GET /v1beta3/crypto/us/snapshots": (Operation.QUOTES,),
    "GET /v2/stocks/bars": (Operation.QUOTES,),
}
_QUOTED = {"stocks": "us_equity", "options": "us_option", "crypto": "crypto"}
_FREE_FEEDS, _PLUS_FEEDS = frozenset({"iex", "delayed_sip", "indicative"}), frozenset({"sip", "opra"})
_NOT_SUBSCRIBED = {
    "sip": "subscription does not permit querying recent SIP data",
    "opra": "OPRA agreement is not signed",
}
_DELAY_SECONDS = 900.0
_BARS = "/v2/stocks/bars"
_SATURDAY = 5
_SYMBOL = re.compile(r"[A-Z0-9./]+")


class FaultKind(StrEnum):
    FORBIDDEN = "forbidden"
    """403 without a code, as for keys that are not accepted."""
    RATE_LIMITED = "rate_limited"
    """429, as for a caller that calls too often: without a code."""
    SERVER_ERROR = "server_error"
    """`status` with an error in JSON: code 50010000 and the message `text`."""
    HTML = "html"
    """`status` with a page that is not JSON, as from a gateway."""
    MOVED = "moved"
    """301 without a body."""
    NO_ID = "no_id"
    """200 with an object that is no order."""
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
class AlpacaFault(HttpFault):
    kinds = FaultKind

    route: str = "POST /v2/orders"
    text: str = "internal server error occurred"


@dataclass(frozen=True, slots=True)
class Call:
    """One request, parsed. `at` is in monotonic seconds."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Mapping[str, Any]
    keys: tuple[str, str]
    at: float

    @property
    def route(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(slots=True)
class _Chain:
    """What the book does not know of an order: what replaced it, what it replaced, in which words it is shown."""

    replaced_by: str | None = None
    replaces: str | None = None
    status: str = ""

    def fields(self) -> dict[str, Any]:
        status = "replaced" if self.replaced_by is not None else self.status
        return {"replaced_by": self.replaced_by, "replaces": self.replaces, "status": status}


class SimulatedAlpaca(HttpGateway[Call, Response]):
    """The server, in threads of its own: `with SimulatedAlpaca(path) as server: ... server.base_url, server.book`.

    One account. With `calls_per_minute`, more calls within a minute are answered with 429; with `data_calls_per_minute`, those for
    market data, which are at another host at Alpaca and are counted by themselves. The book survives the server.
    Port 0 takes any free port. Raises ValueError for a host other than loopback, OSError for a port in use.
    """

    thread_name = "simulated-alpaca"
    fault_type = AlpacaFault
    refused = Refused
    placings = ("POST /v2/orders",)
    cancels = ("DELETE /v2/orders/*",)
    book: AlpacaBook

    def __init__(
        self,
        path: Path | str,
        *,
        account_id: str = DEFAULT_ACCOUNT,
        market: Market | None = None,
        prices: Mapping[str, Decimal] | None = None,
        assets: Sequence[Asset] = ASSETS,
        api_key: str = DEFAULT_API_KEY,
        secret_key: str = DEFAULT_SECRET_KEY,
        host: str = "127.0.0.1",
        port: int = 0,
        calls_per_minute: int | None = None,
        data_calls_per_minute: int | None = None,
    ) -> None:
        super().__init__(host, port)
        self.api_key, self.secret_key = api_key, secret_key
        self.are_keys_good = True
        self.book = AlpacaBook(path, account_id=account_id, market=market or Market())
        self._movements = Movements(self.book)
        self._assets = {asset.symbol: asset for asset in assets}
        for symbol, price in (prices or {}).items():
            self.set_price(symbol, price)
        self._chains: dict[str, _Chain] = {}
        self.order_lag_seconds = self.fill_lag_seconds = 0.0
        self.account_fields: Mapping[str, Any] = {}
        """Shown of the account instead of its own, from now on."""
        self.opens_at: datetime | None = None
        """When the market opens; None: it is open. Until then orders for shares are `accepted` and not filled by themselves."""
        self.refuses_wash_trades = False
        """Alpaca's rule against orders of one account that might trade with each other; off, since other brokers' scenarios are played here too."""
        self._limits = {False: calls_per_minute, True: data_calls_per_minute}
        """By whether they are calls for market data."""
        self.data_feeds = _FREE_FEEDS
        self._busted: dict[str, int] = {}

    @property
    def base_url(self) -> str:
        """For `ALPACA_BASE_URL`."""
        return self.url

    def show_as(self, order: str, status: str) -> None:
        """The order's status, in Alpaca's words, until it is shown as something else (empty: as it is)."""
        self._chain(self._known(order).broker_order_id).status = status

    def set_price(self, symbol: str, price: Decimal) -> None:
        self._assets[symbol] = replace(self._assets[symbol], last_price=price)

    def set_tradable(self, symbol: str, tradable: bool) -> None:
        self._assets[symbol] = replace(self._assets[symbol], is_tradable=tradable)

    def set_keys_good(self, good: bool) -> None:
        self.are_keys_good = good

    # Calls

    def _answer(self, http_call: HttpCall) -> Response:
        try:
            body = json.loads(http_call.body) if http_call.body else {}
        except ValueError:
            body = {}
        headers = http_call.headers
        call = Call(
            http_call.method,
            http_call.path,
            dict(parse_qsl(http_call.query)),
            body if isinstance(body, dict) else {},
            (headers.get("apca-api-key-id", ""), headers.get("apca-api-secret-key", "")),
            time.monotonic(),
        )
        try:
            response = self.answer(call)
        except Refused as refusal:
            response = json_response(refusal.status, refusal.fields, control.plain)
        except BrokerUnavailable as exc:
            response = json_response(503, {"code": 50010000, "message": str(exc)})
        response.headers.update(self._rate_headers(call))
        return response

    def _refuse(self, status: int, words: str) -> Response:
        return json_response(status, {"message": words})

    def _refusal_of(self, fault: Fault, *, is_order: bool) -> Exception:
        if fault.action is Action.REFUSE:
            return Refused(403, 40310000, fault.reason)
        return Refused(429, None, fault.reason) if is_order else Refused(503, 50010000, fault.reason)

    def _truncated(self, answer: Response) -> Response:
        whole = bytes(answer.body)
        return Response(whole[: len(whole) // 2], media_type="application/json")

    def _fail(self, fault: AlpacaFault, call: Call) -> Response:
        match fault.kind:
            case FaultKind.FORBIDDEN:
                raise Refused(403, None, "forbidden.")
            case FaultKind.RATE_LIMITED:
                raise Refused(429, None, "too many requests.")
            case FaultKind.SERVER_ERROR:
                raise Refused(fault.status, 50010000, fault.text)
            case FaultKind.HTML:
                return Response("<html><body>Gateway time-out</body></html>", fault.status, media_type="text/html")
            case FaultKind.MOVED:
                return Response(status_code=301, headers={"Location": f"{self.base_url}/elsewhere"})
            case FaultKind.NO_ID:
                return json_response(200, {"status": "ok"})
        raise AssertionError(fault.kind)

    def _concerned(self, call: Call) -> tuple[tuple[Operation, ...], str, str]:
        if call.route == "POST /v2/orders":
            return (Operation.PLACE,), str(call.body.get("client_order_id", "")), str(call.body.get("symbol", ""))
        if call.method == "DELETE" and call.path.startswith("/v2/orders/"):
            order = self.book.order(call.path.rsplit("/", 1)[1])
            if order is None:
                return (Operation.CANCEL,), "", ""
            return (Operation.CANCEL,), order.ticket.client_order_id, order.ticket.instrument.symbol
        if call.path == "/v2/orders:by_client_order_id":
            return (Operation.FIND,), call.query.get("client_order_id", ""), ""
        if call.route == "GET /v2/orders" and call.query.get("status") != "all":
            return (), "", ""
        return _OPERATIONS.get(call.route, ()), "", ""

    def _carry_out(self, call: Call) -> Response:
        if not self.are_keys_good or call.keys != (self.api_key, self.secret_key):
            raise Refused(403, None, "forbidden.")
        answer = self._market_data(call) if _is_of_data(call) else self._data(call)
        return Response(status_code=204) if answer is None else json_response(200, answer, control.plain)

    def _data(self, call: Call) -> object:
        parts = [unquote(part) for part in call.path.removeprefix("/v2/").split("/")]
        self.book.advance()
        match call.method, parts:
            case "GET", ["account"]:
                return account_row(self.book) | dict(self.account_fields)
            case "GET", ["account", "activities", "FILL"]:
                return self._activities(call)
            case "GET", ["account", "activities"]:
                return self._movements.posted(dict(call.query))
            case "GET", ["assets", *symbol]:
                return self._asset("/".join(symbol), "us_equity", "crypto").row()
            case "GET", ["options", "contracts", symbol]:
                return self._asset(symbol, "us_option").row()
            case "GET", ["clock"]:
                now, opens_at = datetime.now(UTC), self.opens_at
                next_open = alpaca_time(opens_at or now + timedelta(days=1))
                times = {"timestamp": alpaca_time(now), "next_open": next_open, "next_close": next_open}
                return {**times, "is_open": opens_at is None}
            case "GET", ["positions"]:
                return [self._position(each, call.route) for each in self.book.positions()]
            case "GET", ["positions", *symbol]:
                return self._position_in("/".join(symbol), call.route)
            case "GET", ["orders"]:
                return self._listed(call)
            case "GET", ["orders:by_client_order_id"]:
                return self._by_client_id(call)
            case "GET", ["orders", order_id]:
                return self._row(self._known(order_id), "GET /v2/orders/{id}")
            case "POST", ["orders"]:
                return self._place(call)
            case "PATCH", ["orders", order_id]:
                return self._row(self.replace(order_id, **call.body), call.route)
            case "DELETE", ["orders", order_id]:
                self._cancel(order_id)
                return None
        raise Refused(404, 40410000, f"endpoint not found: {call.route}")

    # Orders

    def _place(self, call: Call) -> dict[str, Any]:
        ticket = read_order(call.body, self._assets)
        if self.book.orders(ticket.client_order_id) and ticket.client_order_id:
            raise Refused(422, 40010001, "client_order_id must be unique")
        self._check_locked(ticket)
        self._check_wash_trade(ticket)
        if self.opens_at is not None:
            tag = ticket.client_order_id or "*"
            self.book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD, client_order_id=tag))
        try:
            report = self.book.place(ticket)
        except OrderAlreadyExists as exc:
            raise Refused(422, 40010001, "client_order_id must be unique") from exc
        except OrderRefused as exc:
            raise Refused(422, 40010001, exc.reason) from exc
        self._wake_up.set()
        row = self._row(self._known(report.broker_order_id), call.route)
        # The answer is written before the order reaches the market.
        return {**row, "status": "pending_new", "filled_qty": "0", "filled_avg_price": None, "filled_at": None}

    def _check_locked(self, ticket: Ticket) -> None:
        """Shares that an open order would sell cannot be sold by another one."""
        symbol = ticket.instrument.symbol
        held = self.book.held_by_orders(symbol, ticket.side)
        quantity = sum((p.quantity for p in self.book.positions() if p.instrument.symbol == symbol), Decimal(0))
        closes = quantity * ticket.side.sign < 0
        available = abs(quantity) - sum(held.values(), Decimal(0))
        is_crypto = kind_of(ticket.instrument) == "crypto"
        if is_crypto and ticket.side is Side.SELL and ticket.quantity > available:
            words = f"insufficient balance for {symbol.partition('/')[0]} (requested: {ticket.quantity}, available: {available})"
            raise Refused(403, 40310000, words, available=str(available), balance=str(abs(quantity)))
        if not closes or not held or ticket.quantity <= available:
            return
        words = f"insufficient qty available for order (requested: {ticket.quantity}, available: {max(available, Decimal(0))})"
        raise Refused(
            403,
            40310000,
            words,
            available=str(max(available, Decimal(0))),
            existing_qty=str(abs(quantity)),
            held_for_orders=str(sum(held.values(), Decimal(0))),
            related_orders=list(held),
            symbol=symbol,
        )

    def _check_wash_trade(self, ticket: Ticket) -> None:
        """Against a plain stop or market order that rests, no market or stop order of the other side; against a limit
        none that would trade with it."""
        if not self.refuses_wash_trades:
            return
        against = self.book.held_by_orders(ticket.instrument.symbol, ticket.side.opposite)
        for order_id in against:
            resting = self._known(order_id).ticket
            is_open_ended = ticket.order_type in _RESTING_AGAINST and resting.order_type in _RESTING_AGAINST
            buy, sell = (ticket, resting) if ticket.side is Side.BUY else (resting, ticket)
            crosses = (
                buy.limit_price is not None and sell.limit_price is not None and buy.limit_price >= sell.limit_price
            )
            if is_open_ended or crosses:
                words = "potential wash trade detected. use complex orders"
                raise Refused(
                    403, 40310000, words, existing_order_id=order_id, reject_reason="opposite side order exists"
                )

    def replace(
        self,
        order: str,
        limit_price: object = None,
        qty: object = None,
        stop_price: object = None,
        of_the_whole: bool = False,
        **_: object,
    ) -> PaperOrder:
        """Replaces a working order by a new one with an id and a client id of its own, of what is left to fill; `of_the_whole`: of
        the whole quantity once more, as was seen of orders that had filled in part (Alpaca-API issue 165)."""
        old = self._known(order)
        if old.status is not ReportStatus.WORKING:
            raise Refused(422, 42210000, f'order is already in "{status_of(old)}" state')
        quantity = old.ticket.quantity if qty is None else Decimal(str(qty))
        self.book.cancel_unasked(OrderRef(client_order_id="", broker_order_id=old.broker_order_id), "Replaced")
        ticket = replace(
            old.ticket,
            client_order_id=f"{old.broker_order_id}-r{old.number}",
            quantity=quantity if of_the_whole else quantity - old.filled_quantity,
            limit_price=old.ticket.limit_price if limit_price is None else Decimal(str(limit_price)),
            stop_price=old.ticket.stop_price if stop_price is None else Decimal(str(stop_price)),
        )
        new = self._known(self.book.place(ticket).broker_order_id)
        self._chain(old.broker_order_id).replaced_by = new.broker_order_id
        self._chain(new.broker_order_id).replaces = old.broker_order_id
        self._wake_up.set()
        return new

    def _cancel(self, order_id: str) -> None:
        order = self._known(order_id)
        status = self._row(order, "")["status"]
        if status in ("replaced", "pending_replace", "pending_cancel"):
            raise Refused(422, 42210000, f'order is already in "{status}" state')
        try:
            self.book.cancel(OrderRef(client_order_id="", broker_order_id=order.broker_order_id))
        except OrderRefused as exc:
            raise Refused(422, 42210000, f'order is already in "{status}" state') from exc
        self._wake_up.set()

    def _known(self, name: str) -> PaperOrder:
        """By Alpaca's id, or a client id."""
        order = self.book.order(name)
        if order is None:
            order = next(iter(self.book.orders(name)), None) if name else None
        if order is None:
            raise Refused(404, 40410000, f"order not found for {name}")
        return order

    def _by_client_id(self, call: Call) -> dict[str, Any]:
        tag = call.query.get("client_order_id", "")
        if self.book.find(tag) is None:
            raise Refused(404, 40410000, f"order not found for {tag}")
        return self._row(self._known(tag), call.route)

    def _listed(self, call: Call) -> list[dict[str, Any]]:
        query, wanted = call.query, call.query.get("status", "open")
        if wanted == "all":
            shown = [
                order for report in self.book.reports().reports if (order := self.book.order(report.broker_order_id))
            ]
        else:
            is_open = wanted == "open"
            shown = [each for each in self.book.orders() if (each.status is ReportStatus.WORKING) is is_open]
        now = datetime.now(UTC)
        ordered = sorted(shown, key=lambda order: order.number)
        ordered = [each for each in ordered if now - each.placed_at >= timedelta(seconds=self.order_lag_seconds)]
        if query.get("after"):
            ordered = [each for each in ordered if each.placed_at > datetime.fromisoformat(query["after"])]
        if query.get("until"):
            ordered = [each for each in ordered if each.placed_at < datetime.fromisoformat(query["until"])]
        if query.get("after_order_id"):
            if query.get("after") or query.get("until"):
                raise Refused(422, 40010001, "after_order_id cannot be used with after or until")
            mark = self._known(query["after_order_id"]).number
            ordered = [each for each in ordered if each.number > mark]
        if query.get("direction", "desc") == "desc":
            ordered.reverse()
        limit = min(int(query.get("limit", _ORDERS_A_PAGE)), _MOST_ORDERS_A_PAGE)
        return [self._row(order, call.route) for order in ordered[:limit]]

    def _row(self, order: PaperOrder, route: str) -> dict[str, Any]:
        chain = self._chains.get(order.broker_order_id)
        row = order_row(order, {} if chain is None else chain.fields())
        if self.opens_at is not None and row["status"] == "new" and row["asset_class"] != "crypto":
            row["status"] = "accepted"
        return row | self._distorted_fields(route, order.broker_order_id, order.ticket.client_order_id)

    def _chain(self, order_id: str) -> _Chain:
        return self._chains.setdefault(order_id, _Chain())

    def _activities(self, call: Call) -> list[dict[str, Any]]:
        query = call.query
        rows = activity_rows(self.book.orders())
        if query.get("order_id"):
            rows = [row for row in rows if row["order_id"] == query["order_id"]]
        latest = alpaca_time(datetime.now(UTC) - timedelta(seconds=self.fill_lag_seconds))
        rows = [row for row in rows if row["transaction_time"] <= latest]
        if query.get("after"):
            rows = [row for row in rows if row["transaction_time"] > query["after"]]
        descending = query.get("direction", "desc") == "desc"
        if descending:
            rows.reverse()
        token = query.get("page_token")
        if token:
            rows = [row for row in rows if (row["id"] < token if descending else row["id"] > token)]
        size = min(int(query.get("page_size", _MOST_FILLS_A_PAGE)), _MOST_FILLS_A_PAGE)
        return [row | self._distorted_fields(call.route, str(row["order_id"])) for row in rows[:size]]

    # Assets and positions

    def _asset(self, symbol: str, *kinds: str) -> Asset:
        asset = find_asset(symbol, self._assets)
        if asset is None or asset.kind not in kinds:
            raise Refused(404, 40410000, f"asset not found for {symbol}")
        return asset

    def _position(self, position: Any, route: str) -> dict[str, Any]:
        symbol = position.instrument.symbol
        side = Side.SELL if position.quantity > 0 else Side.BUY
        held = sum(self.book.held_by_orders(symbol, side).values(), Decimal(0))
        return position_row(position, held) | self._distorted_fields(route, symbol)

    def _position_in(self, symbol: str, route: str) -> dict[str, Any]:
        for each in self.book.positions():
            if each.instrument.symbol.replace("/", "") == symbol.replace("/", ""):
                return self._position(each, route)
        raise Refused(404, 40410000, "position does not exist")

    # Market data

    def _market_data(self, call: Call) -> object:
        return self._daily_bars(call) if call.path == _BARS else self._snapshots(call)

    def _snapshots(self, call: Call) -> object:
        """Of the assets that are known; one of these symbols that can be none fails the whole call."""
        kind = _QUOTED[call.path.split("/")[2]]
        feed = {"us_equity": "sip", "us_option": "opra"}.get(kind)
        feed = None if feed is None else call.query.get("feed") or next(iter({feed} & self.data_feeds), "iex")
        if feed is not None and feed not in self.data_feeds:
            raise Refused(403, None, _NOT_SUBSCRIBED.get(feed, f"invalid feed: {feed}"))
        found = {}
        for symbol in call.query.get("symbols", "").split(","):
            if _SYMBOL.fullmatch(symbol) is None:
                raise Refused(400, None, f"code=400, message=invalid symbol: {symbol}")
            asset, scripted = find_asset(symbol, self._assets), self.book.quote(symbol)
            if asset is not None and asset.kind == kind and (scripted is None or scripted.refusal is None):
                delay = _DELAY_SECONDS if feed == "delayed_sip" else 0.0
                item = snapshot_item(asset.last_price, asset.price_step or _CENT, scripted, delay)
                found[symbol] = item | self._distorted_fields(call.route, symbol)
        return found if kind == "us_equity" else {"snapshots": found, "next_page_token": None}

    def _daily_bars(self, call: Call) -> object:
        """Of every weekday; of the last quarter of an hour, and so of the present day, for subscribers alone."""
        query = call.query
        start, end = (datetime.fromisoformat(query[name]) for name in ("start", "end"))
        feed = query.get("feed", "sip")
        if feed not in self.data_feeds and end > datetime.now(UTC) - timedelta(seconds=_DELAY_SECONDS):
            raise Refused(403, None, _NOT_SUBSCRIBED.get(feed, f"invalid feed: {feed}"))
        if query.get("timeframe") != "1Day":
            raise Refused(400, None, "only days are simulated")
        found = {}
        for symbol in query.get("symbols", "").split(","):
            if _SYMBOL.fullmatch(symbol) is None:
                raise Refused(400, None, f"code=400, message=invalid symbol: {symbol}")
            asset = find_asset(symbol, self._assets)
            if asset is not None and asset.kind == "us_equity":
                bar = day_bar(asset.last_price, asset.day_volume) | self._distorted_fields(call.route, symbol)
                found[symbol] = [{"t": alpaca_time(at), **bar} for at in _sessions(start, end)]
        bars = sum(map(len, found.values()))
        return {"bars": found, "next_page_token": "more" if bars > int(query.get("limit", 1_000)) else None}

    def subscribe(self, plus: bool = True) -> None:
        """Whether the account has the feeds of all exchanges."""
        self.data_feeds = _FREE_FEEDS | (_PLUS_FEEDS if plus else frozenset())

    # Faults and limits

    def _is_too_often(self, call: Call) -> bool:
        limit = self._limits[_is_of_data(call)]
        return limit is not None and self._within_a_minute(call) >= limit

    def _too_often(self) -> Exception:
        return Refused(429, None, "too many requests.")

    def _within_a_minute(self, call: Call) -> int:
        """The calls of the minute before it that are counted together with it."""
        return sum(1 for each in self._calls_within(_MINUTE, call.at) if _is_of_data(each) is _is_of_data(call))

    def _rate_headers(self, call: Call) -> dict[str, str]:
        limit = self._limits[_is_of_data(call)]
        with self._lock:
            left = 1_000_000 if limit is None else max(0, limit - self._within_a_minute(call))
        reset = int(time.time()) + (1 if limit is None else int(_MINUTE))
        return {
            "X-RateLimit-Limit": str(limit or 1_000_000),
            "X-RateLimit-Remaining": str(left),
            "X-RateLimit-Reset": str(reset),
        }

    # Stream

    async def _serve_feed(self, websocket: WebSocket) -> None:
        """Serves one listener until it disconnects or is dropped; it hears nothing before it is authorised."""
        await websocket.accept()
        listener = Listener(websocket)
        try:
            await listener.serve(lambda said: self._receive(listener, said))
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def _receive(self, listener: Listener, said: str | bytes) -> None:
        try:
            message = json.loads(said)
            action, data = message["action"], message["data"]
        except (ValueError, KeyError, TypeError):
            return
        if action == "authenticate":
            keys = (data.get("key_id"), data.get("secret_key"))
            is_good = self.are_keys_good and keys == (self.api_key, self.secret_key)
            status = "authorized" if is_good else "unauthorized"
            listener.send(_frame("authorization", {"status": status, "action": "authenticate"}))
            if is_good:
                with self._lock:
                    self._listeners.add(listener)
        elif action == "listen":
            listener.send(_frame("listening", {"streams": ["trade_updates"]}))

    def _frames_of(self, order: PaperOrder) -> Iterable[bytes]:
        annulled = sum(fill.busted for fill in order.fills)
        is_bust = annulled > self._busted.get(order.broker_order_id, 0)
        self._busted[order.broker_order_id] = annulled
        yield _frame("trade_updates", self._event(order, is_bust))

    def _event(self, order: PaperOrder, is_bust: bool) -> dict[str, Any]:
        row = self._row(order, "stream")
        event = {"partially_filled": "partial_fill", "filled": "fill"}.get(row["status"], row["status"])
        last = order.fills[-1] if order.fills else None
        executed = (
            {}
            if last is None
            else {"execution_id": last.fill_id[-36:], "price": str(last.price), "qty": str(last.quantity)}
        )
        now = alpaca_time(datetime.now(UTC))
        return {"event": "trade_bust" if is_bust else event, "timestamp": now, "order": row, **executed}

    # The operator's side

    def _own_state(self) -> Mapping[str, Any]:
        return {"keys_are_good": self.are_keys_good}

    def _own_commands(self) -> Mapping[str, control.Command]:
        return {
            "kill_keys": lambda: self.set_keys_good(False),
            "new_keys": lambda: self.set_keys_good(True),
            "price": lambda symbol, price: self.set_price(str(symbol), Decimal(str(price))),
            "asset": lambda symbol, tradable: self.set_tradable(str(symbol), bool(tradable)),
            "replace": self._replace_by_hand,
            "shown_as": self.show_as,
            "lag": self.set_lag,
            "market_data": self.subscribe,
            "wash_trades": self.refuse_wash_trades,
            "market": self.set_market,
            "end_option": self.end_option,
            "move_shares": self.move_shares,
        }

    def end_option(
        self, symbol: str, kind: str, contracts: object = None, posted_in_seconds: float = 0.0
    ) -> list[dict[str, Any]]:
        """An option position ends, or so many contracts of it. Returns the activities."""
        number = None if contracts is None else Decimal(str(contracts))
        rows = self._movements.end(self._asset(symbol, "us_option"), kind, number, posted_in_seconds)
        self._wake_up.set()
        return rows

    def move_shares(
        self, kind: str, changes: Mapping[str, object], posted_in_seconds: float = 0.0, is_told: bool = True
    ) -> list[dict[str, Any]]:
        """Shares come or leave without an order, of each symbol so many. Returns the activities."""
        moved = {symbol: Decimal(str(change)) for symbol, change in changes.items()}
        rows = self._movements.act(kind, moved, posted_in_seconds, is_told=is_told)
        self._wake_up.set()
        return rows

    def refuse_wash_trades(self, on: bool = True) -> None:
        self.refuses_wash_trades = bool(on)

    def set_market(self, opens_in_seconds: float | None = None) -> None:
        """Closes the market for so long; None: it is open."""
        self.opens_at = None if opens_in_seconds is None else datetime.now(UTC) + timedelta(seconds=opens_in_seconds)
        self._wake_up.set()

    def set_lag(self, orders: float = 0.0, fills: float = 0.0) -> None:
        """How many seconds later the lists show orders and executions that are new."""
        self.order_lag_seconds, self.fill_lag_seconds = float(orders), float(fills)

    def _replace_by_hand(
        self, order: str, limit_price: object = None, quantity: object = None, stop_price: object = None
    ) -> dict[str, str]:
        try:
            new = self.replace(order, limit_price, quantity, stop_price)
        except Refused as exc:
            raise ValueError(str(exc)) from exc
        return {"order_id": new.broker_order_id}


def _is_of_data(call: Call) -> bool:
    """It is for the market data, which are at another host at Alpaca."""
    return call.path.endswith("/snapshots") or call.path == _BARS


def _sessions(start: datetime, end: datetime) -> list[datetime]:
    """The weekdays that begin between these; a day's bar has the time of its midnight in New York, here that of winter."""
    first = start.replace(hour=5, minute=0, second=0, microsecond=0) - timedelta(days=1)
    days = (first + timedelta(days=n) for n in range((end - first).days + 1))
    return [day for day in days if start <= day <= end and day.weekday() < _SATURDAY]


def _frame(stream: str, data: Mapping[str, Any]) -> bytes:
    """Alpaca's frames are binary."""
    return json.dumps({"stream": stream, "data": data}, default=control.plain).encode()


def main(argv: Sequence[str] | None = None) -> int:
    return run_program(
        argv,
        name="alpaca",
        title="Simulated Alpaca",
        port=8084,
        account=DEFAULT_ACCOUNT,
        make=lambda chosen, market: SimulatedAlpaca(
            chosen.data,
            account_id=chosen.account,
            market=market,
            port=chosen.port,
            calls_per_minute=chosen.calls_per_minute,
        ),
        settings=lambda server: {
            "ALPACA_BASE_URL": server.base_url,
            "ALPACA_API_KEY": server.api_key,
            "ALPACA_SECRET_KEY": server.secret_key,
        },
        limits={"--calls-per-minute": "calls a minute"},
    )
