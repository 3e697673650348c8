"""The simulated gateway against the libraries' own high-level client, over its control side, as a process, and through restarts."""

from __future__ import annotations

import asyncio
import functools
import json
import signal
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from brokers.ibkr.library import ib_async, ib_insync
from brokers.paper.model import Action, Fault, Market, Operation
from simulators.ibkr.gateway import TwsSimulator
from simulators.ibkr.wire import FrameReader, frame
from simulators.stage_ibkr import serving_tws
from tests.waits import until

ROOT = Path(__file__).parents[3]
LIBRARIES = [library for library in (ib_insync, ib_async) if library is not None]


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.__name__)
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[TwsSimulator]:
    async with serving_tws(tmp_path, "DU000001", Market()) as gateway:
        yield gateway


async def connected(library: Any, port: int, client_id: int = 7) -> Any:
    asyncio.set_event_loop(asyncio.get_running_loop())
    ib = library.IB()
    await ib.connectAsync("127.0.0.1", port, clientId=client_id, timeout=5)
    return ib


async def test_the_librarys_own_client_synchronises_and_trades(gateway: TwsSimulator, library: Any) -> None:
    ib = await connected(library, gateway.port)
    contract = library.Stock("SPY", "SMART", "USD")
    await ib.qualifyContractsAsync(contract)
    order = library.LimitOrder("BUY", 10, 100.25, account="DU000001", orderRef="mine")
    trade = ib.placeOrder(contract, order)
    async with asyncio.timeout(5):
        while not trade.isDone():
            await trade.statusEvent
    assert (trade.orderStatus.status, trade.filled()) == ("Filled", 10)
    assert (contract.conId != 0, contract.primaryExchange) == (True, "ARCA")
    ib.disconnect()
    again = await connected(library, gateway.port)
    assert [fill.execution.orderRef for fill in again.fills()] == ["mine"]
    assert [position.position for position in again.positions()] == [10]
    assert {value.tag for value in again.accountValues()} == {"CashBalance", "ExchangeRate", "NetLiquidationByCurrency"}
    assert again.client.getReqId() >= 2
    again.disconnect()


async def test_a_client_id_is_given_once(gateway: TwsSimulator, library: Any) -> None:
    first = await connected(library, gateway.port)
    second = library.IB()
    codes = []
    second.errorEvent += lambda number, code, text, contract: codes.append(code)
    with pytest.raises((TimeoutError, asyncio.TimeoutError)):
        await second.connectAsync("127.0.0.1", gateway.port, clientId=7, timeout=0.5)
    assert codes == [326]
    first.disconnect()


def call(url: str, **wish: object) -> dict[str, Any]:
    """One call of the control side; raises HTTPError for what makes no sense."""
    body = json.dumps(wish).encode() if wish else None
    with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=10) as answer:
        said: dict[str, Any] = json.load(answer)
    return said


async def test_the_control_side_orders_trouble(gateway: TwsSimulator) -> None:
    url = await gateway.start_control()
    fault = {"operation": "place", "action": "accept_then_drop", "symbol": "SPY"}
    for wish in (
        {"do": "fault", "fault": fault},
        {"do": "lose_link"},
        {"do": "restore_link", "data_kept": False},
        {"do": "chunks", "size": 3},
    ):
        assert (await asyncio.to_thread(lambda wish=wish: call(url, **wish)))["is_linked"] is (
            wish["do"] != "lose_link"
        )
    expected = [Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP, symbol="SPY")]
    assert gateway.book.armed_faults(Operation.PLACE) == expected
    assert gateway.bytes_per_chunk == 3
    for wish in (
        {"do": "dance"},
        {"do": "fault", "fault": {**fault, "action": "late_fill_after_cancel"}},
        {"do": "fill", "order": "nobody's"},
        {"do": "say"},
    ):
        with pytest.raises(HTTPError, match="400"):
            await asyncio.to_thread(lambda wish=wish: call(url, **wish))


async def test_an_order_may_be_answered_by_words_alone_before_it_is_taken_or_after(
    gateway: TwsSimulator, library: Any
) -> None:
    url = await gateway.start_control()
    call_it = functools.partial(asyncio.to_thread, call, url)
    ib = await connected(library, gateway.port)
    heard: list[tuple[int, int, str]] = []
    ib.errorEvent += lambda number, code, text, contract: heard.append((number, code, text))

    def placed(tag: str) -> Any:
        order = library.LimitOrder("BUY", 10, 99.5, account="DU000001", orderRef=tag)
        return ib.placeOrder(library.Stock("SPY", "SMART", "USD"), order)

    await call_it(do="answer_with_words", symbol="S*", code=10268, text="Not supported")
    await call_it(do="answer_with_words", client_order_id="late", code=31999, text="?", taken_after=0.2)
    alone, late = placed("alone"), placed("late")
    await until(lambda: bool(gateway.book.orders("late")))
    assert [(number, code) for number, code, _ in heard if code >= 10000] == [
        (alone.order.orderId, 10268),
        (late.order.orderId, 31999),
    ]
    assert gateway.book.orders("alone") == []
    assert gateway.book.order(f"7:{late.order.orderId}") is not None
    await call_it(do="answer_with_words", code=10311, text="Beside", times=None, taken_after=0, is_taken_first=True)
    placed("beside")
    await until(lambda: any(code == 10311 for _, code, _ in heard))
    assert len(gateway.book.orders("beside")) == 1
    state = await call_it(do="answer_with_words", code=0, text="", times=0)
    placed("plain")
    await until(lambda: bool(gateway.book.orders("plain")))
    assert state["messages_placed"] == 3
    with pytest.raises(HTTPError, match="400"):
        await call_it(do="answer_with_words", text="without a code")
    ib.disconnect()


@pytest.mark.parametrize(
    ("action", "tif", "price", "code"),
    [
        ("BUY", "GTC", 50_000, 201),
        ("SELL", "DAY", 50_000, 201),
        ("BUY", "Minutes", 49_800, 202),
        ("BUY", "Minutes", 49_990, None),
        ("SELL", "IOC", 60_000, None),
    ],
)
async def test_coins_with_a_limit_are_taken_by_the_accounts_terms(
    gateway: TwsSimulator, library: Any, action: str, tif: str, price: float, code: int | None
) -> None:
    gateway.prices["BTC"] = Decimal(50_000)
    ib = await connected(library, gateway.port)
    heard: list[int] = []
    ib.errorEvent += lambda number, code, text, contract: heard.append(code)
    order = library.LimitOrder(action, 0.001, price, account="DU000001", tif=tif, orderRef="coins")
    ib.placeOrder(library.Crypto("BTC", "PAXOS", "USD"), order)
    await until(lambda: code in heard if code else bool(gateway.book.orders("coins")))
    assert bool(gateway.book.orders("coins")) is (code is None)
    ib.disconnect()


async def test_the_control_side_shows_and_changes_the_book(gateway: TwsSimulator, library: Any) -> None:
    url = await gateway.start_control()
    call_it = functools.partial(asyncio.to_thread, call, url)
    await call_it(do="fault", fault={"operation": "place", "action": "hold"})
    ib = await connected(library, gateway.port)
    order = library.LimitOrder("BUY", 10, 99.5, account="DU000001", orderRef="by-its-tag")
    trade = ib.placeOrder(library.Stock("SPY", "SMART", "USD"), order)
    await until(lambda: bool(gateway.book.orders()))
    await call_it(do="fill", order="by-its-tag", quantity="4", price=99.25, late_commission=True)
    (shown,) = (await asyncio.to_thread(call, f"{url}/orders"))["orders"]
    assert (shown["filled_quantity"], shown["status"], shown["fills"][0]["price"]) == ("4", "WORKING", "99.25")
    await call_it(do="commission", fill_id=shown["fills"][0]["fill_id"], commission="0.35")
    await call_it(do="correct", fill_id=shown["fills"][0]["fill_id"], price="99.10")
    await call_it(do="cancel", order=shown["broker_order_id"], reason="Halted")
    (shown,) = (await asyncio.to_thread(call, f"{url}/orders"))["orders"]
    assert [(f["price"], f["commission"], f["busted"]) for f in shown["fills"]] == [
        ("99.25", "0.35", True),
        ("99.10", "0.35", False),
    ]
    async with asyncio.timeout(5):
        while trade.orderStatus.status != "Cancelled":
            await trade.statusEvent
    await call_it(do="restart", closed_seconds=0.2)
    await until(lambda: not ib.isConnected())
    async with asyncio.timeout(5):
        while True:
            try:
                again = await connected(library, gateway.port)
                break
            except OSError:
                await asyncio.sleep(0.05)
    assert again.client.getReqId() > trade.order.orderId
    again.disconnect()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"displaySize": 10}, 321),
        ({"displaySize": 4, "orderType": "MKT", "lmtPrice": 0.0}, 387),
    ],
    ids=["all of it", "at the market"],
)
async def test_a_part_is_shown_of_an_order_with_a_limit_alone(
    gateway: TwsSimulator, library: Any, change: dict[str, Any], code: int
) -> None:
    ib = await connected(library, gateway.port)
    codes: list[int] = []
    ib.errorEvent += lambda number, code, text, contract: codes.append(code)
    order = library.LimitOrder("BUY", 10, 99.5, account="DU000001", tif="DAY", displaySize=4)
    for name, value in change.items():
        setattr(order, name, value)
    ib.placeOrder(library.Stock("SPY", "SMART", "USD"), order)
    await until(lambda: bool(codes))
    assert codes == [code]
    assert gateway.book.orders() == []
    # One of 4 at a time is taken, and shown with it.
    ib.placeOrder(
        library.Stock("SPY", "SMART", "USD"),
        library.LimitOrder("BUY", 10, 99.5, account="DU000001", tif="DAY", displaySize=4),
    )
    await until(lambda: bool(ib.trades()) and bool(gateway.book.orders()))
    assert gateway.book.orders()[0].ticket.display_quantity == 4
    ib.disconnect()


@pytest.mark.parametrize(
    "change",
    [
        {"action": "SELL"},
        {"totalQuantity": 11},
        {"lmtPrice": 99.25},
        {"displaySize": 4},
        {"tif": "GTC"},
        {"orderRef": "somebody-else's"},
        {"orderType": "MKT", "lmtPrice": 0.0},
        {"symbol": "AAPL"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_known_order_id_changes_an_order_into_nothing_but_itself(
    gateway: TwsSimulator, library: Any, change: dict[str, Any]
) -> None:
    """What a real gateway would make of it: another order under an id whose order somebody counts on."""
    gateway.book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD))
    ib = await connected(library, gateway.port)
    codes: list[int] = []
    ib.errorEvent += lambda number, code, text, contract: codes.append(code)
    order = library.LimitOrder("BUY", 10, 99.5, account="DU000001", orderRef="by-its-tag", tif="DAY")
    ib.placeOrder(library.Stock("SPY", "SMART", "USD"), order)
    await until(lambda: bool(gateway.book.orders()))
    contract = library.Stock(change.pop("symbol", "SPY"), "SMART", "USD")
    for name, value in change.items():
        setattr(order, name, value)
    ib.client.placeOrder(order.orderId, contract, order)
    await until(lambda: bool(codes))
    assert codes == [105]
    (kept,) = gateway.book.orders()
    assert (kept.ticket.client_order_id, kept.ticket.side, kept.ticket.quantity) == ("by-its-tag", "BUY", Decimal(10))
    ib.disconnect()


async def test_the_process_keeps_its_book_through_a_kill(tmp_path: Path, library: Any) -> None:
    async def start() -> tuple[asyncio.subprocess.Process, int]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "simulators.ibkr", "--port", "0", "--data", str(tmp_path / "book.db")),
            *("--fill-delay-seconds", "0"),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        return process, int(line.split()[1].rpartition(":")[2])

    process, port = await start()
    try:
        ib = await connected(library, port)
        trade = ib.placeOrder(library.Stock("AAPL", "SMART", "USD"), library.MarketOrder("BUY", 3, account="DU000001"))
        async with asyncio.timeout(5):
            while not trade.isDone():
                await trade.statusEvent
        process.kill()
        await process.wait()
        process, port = await start()
        ib = await connected(library, port)
        assert [(fill.execution.orderId, fill.execution.shares) for fill in ib.fills()] == [(trade.order.orderId, 3)]
        assert ib.client.getReqId() > trade.order.orderId
        ib.disconnect()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_frames_are_read_from_pieces_of_any_size(size: int) -> None:
    stream = b"API\0" + frame("v157..176") + frame(71, 2, 1, "") + frame(5, Decimal("0.00000001"), True, None)
    reader = FrameReader()
    found = [fields for at in range(0, len(stream), size) for fields in reader.feed(stream[at : at + size])]
    assert found == [["v157..176"], ["71", "2", "1", ""], ["5", "0.00000001", "1", ""]]


def test_a_stranger_is_turned_away() -> None:
    with pytest.raises(ValueError, match="not a client"):
        list(FrameReader().feed(b"GET / HTTP/1.1\r\n"))
