"""What the real adapters add to the simulated gateway's own time, and how many calls open orders cost; processes on loopback, no service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import aiohttp
from alpaca.common.rest import RESTClient
from binance_common.configuration import ConfigurationRestAPI
from binance_common.utils import encoded_string, get_signature
from kiteconnect import KiteConnect

from benchmarks.figures import Figure, median, milliseconds
from benchmarks.traffic import MeasurementFailed
from benchmarks.worlds import REPOSITORY, wait_until
from brokers.base import AssetClass, Broker, Instrument, OrderType, Side, Ticket, Tif
from brokers.factory import BrokerFactory
from brokers.ibkr.library import Library, choose
from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Market
from simulators import alpaca as simulated_alpaca
from simulators import binance as simulated_binance
from simulators.alpaca.book import AlpacaBook
from simulators.binance.book import BinanceBook
from simulators.ibkr import DEFAULT_ACCOUNT
from simulators.ibkr.book import TwsBook
from simulators.zerodha import DEFAULT_ACCESS_TOKEN, DEFAULT_API_KEY
from simulators.zerodha.book import KiteBook

OPEN_ORDERS = 500
PRICE = Decimal("100.25")
_PAIRS_EACH = 20
_PAUSE_SECONDS = 0.1
"""Between two pairs: IBKR's libraries hold messages back when there are more than 45 a second."""
_ANSWER_SECONDS = 10.0
_BARE_CLIENT_ID = 77
_READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway's process. Nothing is filled there by itself, so that placing is all that is measured."""

    address: str
    control_url: str
    book_path: Path

    def state(self) -> Mapping[str, Any]:
        with urlopen(self.control_url, timeout=_ANSWER_SECONDS) as answer:
            said: Mapping[str, Any] = json.load(answer)
        return said


@contextlib.contextmanager
def _gateway(module: str, folder: Path) -> Iterator[Gateway]:
    folder.mkdir(parents=True)
    notice, book = folder / "notice.json", folder / "book.db"
    command = [sys.executable, "-m", module, "--port", "0", "--data", str(book), "--notice", str(notice)]
    with open(folder / "console.txt", "wb") as sink:
        process = subprocess.Popen(
            [*command, "--fill-delay-seconds", "86400"], cwd=REPOSITORY, stdout=sink, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: notice.exists() or process.poll() is not None, "the gateway is ready", _READY_SECONDS)
        if not notice.exists():
            raise MeasurementFailed(f"{module} ended at its start")
        said = json.loads(notice.read_text(encoding="utf-8"))
        yield Gateway(said["gateway"], said["control"], book)
    finally:
        process.terminate()
        process.wait(_READY_SECONDS)


def measure_adapters(folder: Path, pairs: int, say: Callable[[str], None]) -> list[Figure]:
    """Placing through the adapter beside the library's bare call, by turns; and the calls of one look at all orders."""
    figures: list[Figure] = []
    for name, module, measure in (
        ("ibkr", "simulators.ibkr", _measure_ibkr),
        ("zerodha", "simulators.zerodha", _measure_zerodha),
        ("alpaca", "simulators.alpaca", _measure_alpaca),
        ("binance", "simulators.binance", _measure_binance),
    ):
        say(f"adapters, {name}")
        with _gateway(module, folder / name) as gateway:
            figures += asyncio.run(measure(gateway, pairs))
    return figures


async def _measure_ibkr(gateway: Gateway, pairs: int) -> list[Figure]:
    host, _, port = gateway.address.rpartition(":")
    config = {"broker": "ibkr", "account_id": "bench", "host": host, "port": int(port), "poll_seconds": 0}
    broker = BrokerFactory.create_broker(config)
    bare = _BareTws(choose("auto"))
    ticket = _ticket(Instrument(symbol="SPY"))
    try:
        await broker.connect()
        await bare.connect(host, int(port))
        placement = await _placement("ibkr", pairs, bare.place, _through(broker, ticket))
        book = TwsBook(gateway.book_path, account_id=DEFAULT_ACCOUNT, market=Market(fill_delay_seconds=None))
        placed = [replace(ticket, reserved_order_id=f"99:{number}") for number in range(1, OPEN_ORDERS + 1)]
        return [placement, await _turn("ibkr", gateway, "messages", broker, book, placed)]
    finally:
        bare.close()
        await broker.close()


async def _measure_zerodha(gateway: Gateway, pairs: int) -> list[Figure]:
    limits = {f"order_calls_per_{unit}": 1_000_000 for unit in ("second", "minute", "day")}
    config = {
        "broker": "zerodha",
        "account_id": "bench",
        "api_key": DEFAULT_API_KEY,
        "access_token": DEFAULT_ACCESS_TOKEN,
        "root_url": gateway.address,
        "other_calls_per_second": 1_000_000,
        **limits,
    }
    broker = BrokerFactory.create_broker(config)
    kite = KiteConnect(DEFAULT_API_KEY, access_token=DEFAULT_ACCESS_TOKEN, root=gateway.address)
    instrument = Instrument(symbol="INFY", exchange="NSE")
    ticket = replace(_ticket(instrument), product="CNC")

    async def bare(number: int) -> None:
        await asyncio.to_thread(
            kite.place_order,
            variety="regular",
            exchange="NSE",
            tradingsymbol="INFY",
            transaction_type="BUY",
            quantity=10,
            product="CNC",
            order_type="LIMIT",
            price=float(PRICE),
            validity="DAY",
            tag=f"bare{number}",
        )

    try:
        await broker.connect()
        placement = await _placement("zerodha", pairs, bare, _through(broker, ticket))
        book = KiteBook(gateway.book_path, account_id="AB1234", market=Market(fill_delay_seconds=None))
        return [placement, await _turn("zerodha", gateway, "calls", broker, book, [ticket] * OPEN_ORDERS)]
    finally:
        await broker.close()


async def _measure_alpaca(gateway: Gateway, pairs: int) -> list[Figure]:
    keys = {"api_key": simulated_alpaca.DEFAULT_API_KEY, "secret_key": simulated_alpaca.DEFAULT_SECRET_KEY}
    limits = {f"{kind}_calls_per_{unit}": 1_000_000 for kind in ("order", "other") for unit in ("second", "minute")}
    broker = BrokerFactory.create_broker(
        {"broker": "alpaca", "account_id": "bench", "base_url": gateway.address, **keys, **limits}
    )
    client = RESTClient(gateway.address, keys["api_key"], keys["secret_key"], raw_data=True)
    form = {"symbol": "AAPL", "side": "buy", "type": "limit", "time_in_force": "day", "qty": "10"}

    async def bare(number: int) -> None:
        own = {**form, "limit_price": str(PRICE), "client_order_id": f"bare{number}"}
        await asyncio.to_thread(client.post, "/orders", own)

    try:
        await broker.connect()
        ticket = _ticket(Instrument(symbol="AAPL"))
        placement = await _placement("alpaca", pairs, bare, _through(broker, ticket))
        account, market = simulated_alpaca.DEFAULT_ACCOUNT, Market(fill_delay_seconds=None)
        book = AlpacaBook(gateway.book_path, account_id=account, market=market)
        return [placement, await _turn("alpaca", gateway, "calls", broker, book, [ticket] * OPEN_ORDERS, page=500)]
    finally:
        await broker.close()


async def _measure_binance(gateway: Gateway, pairs: int) -> list[Figure]:
    """The bare call is one over HTTP with the library's signature: the signed calls of the library itself raise a TypeError."""
    keys = {"api_key": simulated_binance.DEFAULT_API_KEY, "api_secret": simulated_binance.DEFAULT_API_SECRET}
    limits = {"rate_limit_rpm": 1_000_000, "orders_per_10_seconds": 100_000, "orders_per_minute": 500_000}
    broker = BrokerFactory.create_broker(
        {"broker": "binance", "account_id": "bench", "base_url": gateway.address, **keys, **limits}
    )
    signing = ConfigurationRestAPI(keys["api_key"], keys["api_secret"], base_path=gateway.address)
    encoded: Any = encoded_string
    signed: Any = get_signature
    instrument = Instrument(symbol="SOLUSDT", asset_class=AssetClass.CRYPTO)
    form = {"symbol": "SOLUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "10"}
    ticket = replace(_ticket(instrument), tif=Tif.GTC)
    async with aiohttp.ClientSession(headers={"X-MBX-APIKEY": keys["api_key"]}) as session:

        async def bare(number: int) -> None:
            own = {**form, "price": str(PRICE), "newClientOrderId": f"bare{number}"}
            query = encoded({**own, "timestamp": time.time_ns() // 1_000_000})
            url = f"{gateway.address}/fapi/v1/order?{query}&signature={signed(signing, query, None)}"
            async with session.post(url) as answer:
                if answer.status != 200:
                    raise MeasurementFailed(f"binance answers the bare call with {await answer.text()}")
                await answer.json()

        try:
            await broker.connect()
            placement = await _placement("binance", pairs, bare, _through(broker, ticket))
            market = Market(fill_delay_seconds=None)
            book = BinanceBook(gateway.book_path, account_id="BINANCE1", market=market)
            own = replace(ticket, instrument=replace(instrument, currency="USDT"))
            return [placement, await _turn("binance", gateway, "calls", broker, book, [own] * OPEN_ORDERS, page=1000)]
        finally:
            await broker.close()


Placement = Callable[[int], Awaitable[None]]


def _through(broker: Broker, ticket: Ticket) -> Placement:
    """As the service does it: the broker's own id is asked for first, where there is one."""

    async def place(number: int) -> None:
        own = replace(ticket, client_order_id=f"t{number:018d}")
        await broker.place_order(replace(own, reserved_order_id=await broker.reserve(own)))

    return place


async def _placement(name: str, pairs: int, bare: Placement, adapter: Placement) -> Figure:
    """Each pair is one order placed either way, one right after the other; who goes first changes."""
    for number in range(3):
        await bare(number)
        await adapter(number)
    base: list[float] = []
    ours: list[float] = []
    for number in range(3, 3 + pairs * _PAIRS_EACH):
        ways = ((bare, base), (adapter, ours))
        for place, seconds in ways if number % 2 else ways[::-1]:
            began = time.perf_counter()
            await place(number)
            seconds.append(time.perf_counter() - began)
        await asyncio.sleep(_PAUSE_SECONDS)
    parts = [
        median(ours[start : start + _PAIRS_EACH]) / median(base[start : start + _PAIRS_EACH])
        for start in range(0, len(ours), _PAIRS_EACH)
    ]
    added = median([mine - other for mine, other in zip(ours, base, strict=True)])
    return Figure(
        name=f"{name} placement through the adapter",
        ours=milliseconds(median(ours)),
        base=f"bare call {milliseconds(median(base))}",
        pairs=tuple(parts),
        note=f"{len(ours)} pairs of orders; the median pair differs by {1000 * added:+.2f} ms",
        raw={"seconds": ours, "bare_seconds": base},
    )


async def _turn(
    name: str,
    gateway: Gateway,
    counted: str,
    broker: Broker,
    book: PaperExchange,
    tickets: Sequence[Ticket],
    page: int | None = None,
) -> Figure:
    """`page`: how many orders the broker's list has in one answer, if it has pages."""
    await broker.reports()  # the first look of a session reads more
    few_open = int(gateway.state()["orders"])
    few = await _calls_of_one_look(gateway, counted, broker)
    for number, ticket in enumerate(tickets):
        book.place(replace(ticket, client_order_id=f"open{number:015d}"))
    book.close()
    many = await _calls_of_one_look(gateway, counted, broker)
    reports = (await broker.reports()).reports
    if len(reports) < OPEN_ORDERS:
        raise MeasurementFailed(f"{name} told of {len(reports)} orders where at least {OPEN_ORDERS} are open")
    return Figure(
        name=f"{name}: calls of one look at all orders, {len(tickets) + few_open} open",
        ours=str(many),
        base=f"{few} with {few_open}",
        target="as many with any number" if page is None else f"one more for each further {page}",
        is_met=many == few if page is None else many - few <= -(-len(tickets) // page),
        raw={"calls": many, "calls_with_few": few},
    )


async def _calls_of_one_look(gateway: Gateway, counted: str, broker: Broker) -> int:
    before = gateway.state()[counted]
    await broker.reports()
    return int(gateway.state()[counted] - before)


class _BareTws:
    """The library's socket client and nothing else: an order is placed when the server has said a word about it."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._client: Any = library.client(self)
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._next_id = 1

    async def connect(self, host: str, port: int) -> None:
        asyncio.set_event_loop(asyncio.get_running_loop())
        await self._client.connectAsync(host, port, _BARE_CLIENT_ID, _ANSWER_SECONDS)
        self._next_id = self._client.getReqId()

    async def place(self, number: int) -> None:
        library, order_id = self._library, self._next_id
        self._next_id += 1
        contract = library.contract(symbol="SPY", secType="STK", exchange="SMART", currency="USD")
        order = library.order(
            orderId=order_id, action="BUY", totalQuantity=10, orderType="LMT", lmtPrice=float(PRICE), tif="DAY"
        )
        order.account, order.orderRef = DEFAULT_ACCOUNT, f"bare{number}"
        answer = self._answers[order_id] = asyncio.get_running_loop().create_future()
        self._client.placeOrder(order_id, contract, order)
        async with asyncio.timeout(_ANSWER_SECONDS):
            await answer
        del self._answers[order_id]

    def close(self) -> None:
        self._client.disconnect()

    def openOrder(self, order_id: int, *_: object) -> None:
        answer = self._answers.get(order_id)
        if answer is not None and not answer.done():
            answer.set_result(None)

    def __getattr__(self, name: str) -> Any:
        # Whatever else the library hears is of no interest here.
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: None


def _ticket(instrument: Instrument) -> Ticket:
    return Ticket(
        client_order_id="t",
        instrument=instrument,
        side=Side.BUY,
        quantity=Decimal(10),
        order_type=OrderType.LIMIT,
        limit_price=PRICE,
    )
