"""The simulated Kite Connect, spoken to by Zerodha's own library: what it takes, what it refuses and how it fails."""

from __future__ import annotations

import json
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import requests
from kiteconnect import KiteConnect, KiteTicker
from kiteconnect import exceptions as kite_errors
from twisted.internet import reactor

from brokers.base import OrderRef, ReportStatus
from brokers.paper.model import Action, Fault, Market, Operation
from brokers.zerodha.feed import _run_reactor
from simulators.zerodha import DEFAULT_API_KEY, DEFAULT_API_SECRET
from simulators.zerodha.server import FaultKind, KiteFault, SimulatedKite
from tests.waits import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SimulatedKite]:
    with SimulatedKite(tmp_path / "kite.db", prices={"INFY": Decimal("100.25")}) as server:
        yield server


@pytest.fixture
def kite(server: SimulatedKite) -> KiteConnect:
    return client_of(server)


def client_of(server: SimulatedKite) -> KiteConnect:
    return KiteConnect(server.api_key, access_token=server.access_token, root=server.root_url, timeout=5)


FUTURES = {
    "exchange": "NFO",
    "tradingsymbol": "NIFTY26DECFUT",
    "product": "NRML",
    "order_type": "LIMIT",
    "price": 25000,
}


def form(**changes: object) -> dict[str, object]:
    plain: dict[str, object] = {
        "variety": "regular",
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "transaction_type": "BUY",
        "quantity": 10,
        "product": "CNC",
        "order_type": "MARKET",
        "validity": "DAY",
        "tag": "simulatortest1",
        "market_protection": -1,
    }
    return {key: value for key, value in (plain | changes).items() if value is not None}


def control(server: SimulatedKite, **wish: object) -> dict[str, object]:
    request = Request(f"{server.root_url}/_control", json.dumps(wish).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=5) as answer:
        said: dict[str, object] = json.load(answer)
    return said


# Orders


def test_a_market_order_is_filled_at_the_last_price_and_shown_in_all_lists(kite: KiteConnect) -> None:
    order_id = kite.place_order(**form())
    (order,) = kite.orders()
    (trade,) = kite.trades()
    assert (order["order_id"], order["status"], order["filled_quantity"]) == (order_id, "COMPLETE", 10)
    assert (order["tag"], order["tags"], order["average_price"]) == ("simulatortest1", ["simulatortest1"], 100.25)
    assert isinstance(order["order_timestamp"], datetime)
    assert (trade["order_id"], trade["quantity"], trade["average_price"]) == (order_id, 10, 100.25)
    assert kite.order_trades(order_id) == [trade]
    assert [row["status"] for row in kite.order_history(order_id)][-1] == "COMPLETE"
    assert kite.positions()["net"][0]["quantity"] == 10
    assert kite.margins()["equity"]["available"]["live_balance"] == pytest.approx(1_000_000 - 1002.5 - 1)
    assert kite.margins("commodity")["enabled"] is False
    assert kite.holdings() == []


def test_the_same_tag_twice_makes_two_orders(kite: KiteConnect) -> None:
    assert kite.place_order(**form()) != kite.place_order(**form())
    assert len(kite.orders()) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"market_protection": None}, "market protection"),
        ({"market_protection": 0}, "market protection"),
        ({"order_type": "SL-M", "trigger_price": 100, "market_protection": None}, "market protection"),
        ({"tag": "x" * 21}, "tag"),
        ({"tag": "under_score"}, "tag"),
        ({"quantity": 0}, "quantity"),
        ({"exchange": "SMART"}, "exchange"),
        ({"tradingsymbol": "NOSUCH"}, "does not exist"),
        ({"tradingsymbol": "NIFTY 50"}, "does not exist"),
        ({"order_type": "LIMIT", "price": 100.03}, "multiple of tick"),
        ({"order_type": "LIMIT"}, "price"),
        ({"product": "NRML"}, "product"),
        ({"validity": "GTC"}, "validity"),
        ({"exchange": "NFO", "tradingsymbol": "NIFTY26DECFUT", "product": "NRML"}, "multiples of 75"),
        ({"variety": "iceberg", "iceberg_legs": 1, "iceberg_quantity": 10}, "iceberg_legs"),
        ({"variety": "iceberg", "quantity": 102, "iceberg_legs": 51, "iceberg_quantity": 2}, "iceberg_legs"),
        (FUTURES | {"quantity": 1875}, "use iceberg orders"),
        (
            FUTURES | {"variety": "iceberg", "quantity": 3750, "iceberg_legs": 2, "iceberg_quantity": 1875},
            "maximum quantity",
        ),
        # 13 of 20 in two legs: Kite wants the half.
        ({"variety": "iceberg", "quantity": 20, "iceberg_legs": 2, "iceberg_quantity": 13}, "iceberg_quantity"),
    ],
)
def test_a_wrong_form_is_refused_and_leaves_nothing(
    server: SimulatedKite, kite: KiteConnect, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(kite_errors.InputException, match=words) as refusal:
        kite.place_order(**form(**changes))
    assert refusal.value.code == 400
    assert server.book.orders() == []


def test_a_call_that_would_make_several_orders_is_refused(server: SimulatedKite, kite: KiteConnect) -> None:
    with pytest.raises(kite_errors.InputException, match="one order of each call"):
        kite.place_autoslice_order(**form())
    assert server.book.orders() == []


def test_a_working_order_is_cancelled_under_its_own_variety_only(server: SimulatedKite, kite: KiteConnect) -> None:
    server.book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD, times=None))
    order_id = kite.place_order(**form(variety="amo", order_type="LIMIT", price=99.5))
    assert kite.orders()[0]["status"] == "AMO REQ RECEIVED"
    with pytest.raises(kite_errors.InputException):
        kite.cancel_order("regular", order_id)
    assert kite.cancel_order("amo", order_id) == order_id
    assert kite.orders()[0]["status"] == "CANCELLED"
    with pytest.raises(kite_errors.OrderException):
        kite.cancel_order("amo", order_id)
    with pytest.raises(kite_errors.GeneralException):
        kite.cancel_order("regular", "1")


def test_a_stop_order_waits_for_its_trigger(server: SimulatedKite, kite: KiteConnect) -> None:
    server.book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD))
    kite.place_order(**form(order_type="SL", price=101, trigger_price=100.5))
    (order,) = kite.orders()
    assert (order["status"], order["price"], order["trigger_price"]) == ("TRIGGER PENDING", 101, 100.5)


def test_the_legs_of_an_iceberg_order_come_one_after_the_other(server: SimulatedKite, kite: KiteConnect) -> None:
    server.book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD))
    order_id = kite.place_order(
        **form(variety="iceberg", order_type="LIMIT", price=100, quantity=29, iceberg_legs=3, iceberg_quantity=10)
    )
    assert [(row["order_id"], row["quantity"]) for row in kite.orders()] == [(order_id, 10)]
    server.book.fill_order(OrderRef(client_order_id="", broker_order_id=order_id), Decimal(12))
    legs = kite.orders()
    assert [(leg["status"], leg["filled_quantity"]) for leg in legs] == [("COMPLETE", 10), ("OPEN", 2)]
    assert [leg["parent_order_id"] for leg in legs] == [None, order_id]
    assert legs[1]["meta"]["iceberg"]["total_quantity"] == 29
    assert sum(trade["quantity"] for trade in kite.trades()) == 12
    with pytest.raises(kite_errors.OrderException, match="being processed"):
        kite.cancel_order("iceberg", order_id)
    kite.cancel_order("iceberg", legs[1]["order_id"])
    assert [leg["status"] for leg in kite.orders()] == ["COMPLETE", "CANCELLED"]


def test_each_leg_of_an_iceberg_that_fills_by_itself_has_its_brokerage(tmp_path: Path) -> None:
    with SimulatedKite(tmp_path / "kite.db", market=Market(commission_per_order=Decimal(20))) as server:
        client_of(server).place_order(
            **form(variety="iceberg", order_type="LIMIT", price=100, quantity=29, iceberg_legs=3, iceberg_quantity=10)
        )
        wait_until(
            lambda: sum(trade["quantity"] for trade in client_of(server).trades()) == 29, "all legs are executed"
        )
        (order,) = server.book.orders()
        assert [(fill.quantity, fill.commission) for fill in order.fills] == [(10, 20), (10, 20), (9, 20)]


def test_an_execution_is_of_one_leg_of_an_iceberg_order_and_each_leg_has_its_brokerage(
    server: SimulatedKite, kite: KiteConnect
) -> None:
    server.book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD))
    order_id = kite.place_order(
        **form(variety="iceberg", order_type="LIMIT", price=100, quantity=29, iceberg_legs=3, iceberg_quantity=10)
    )
    ref, charge = OrderRef(client_order_id="", broker_order_id=order_id), server.book.market.commission_per_order
    for quantity in (4, 21, 4):
        server.book.fill_order(ref, Decimal(quantity))
    (order,) = server.book.orders()
    assert [(fill.quantity, fill.commission) for fill in order.fills] == [
        (4, charge),
        (6, 0),
        (10, charge),
        (5, charge),
        (4, 0),
    ]


def test_orders_are_not_modified(kite: KiteConnect) -> None:
    order_id = kite.place_order(**form())
    with pytest.raises(kite_errors.OrderException):
        kite.modify_order("regular", order_id, quantity=5)


def test_instruments_are_listed_by_exchange(kite: KiteConnect) -> None:
    everything, futures = kite.instruments(), kite.instruments("NFO")
    assert {row["exchange"] for row in futures} == {"NFO"}
    assert len(everything) > len(futures) > 0
    (row,) = (row for row in futures if row["tradingsymbol"] == "NIFTY26DECFUT")
    assert (row["lot_size"], row["tick_size"], str(row["expiry"])) == (75, 0.05, "2026-12-31")


def test_the_contract_note_tells_the_charges_of_an_order(kite: KiteConnect) -> None:
    order_id = kite.place_order(**form())
    (order,) = kite.orders()
    asked = {
        name: order[name]
        for name in ("exchange", "tradingsymbol", "transaction_type", "variety", "product", "order_type")
    }
    (note,) = kite.get_virtual_contract_note([asked | {"order_id": order_id, "quantity": 10, "average_price": 100.25}])
    assert note["charges"]["total"] == 1


def test_a_new_day_forgets_orders_trades_and_tags(server: SimulatedKite, kite: KiteConnect) -> None:
    kite.place_order(**form())
    server.new_day()
    assert kite.orders() == kite.trades() == []
    kite.place_order(**form())
    assert len(kite.orders()) == 1
    assert len(server.book.orders()) == 2


# Session


def test_a_session_is_opened_with_a_request_token_once(server: SimulatedKite) -> None:
    kite = KiteConnect(DEFAULT_API_KEY, root=server.root_url)
    request_token = server.log_in()
    old = server.access_token
    session = kite.generate_session(request_token, DEFAULT_API_SECRET)
    assert session["access_token"] == server.access_token != old
    assert kite.profile()["user_id"] == server.user_id
    with pytest.raises(kite_errors.TokenException):
        kite.generate_session(request_token, DEFAULT_API_SECRET)
    with pytest.raises(kite_errors.TokenException):
        kite.generate_session(server.log_in(), "wrong secret")
    kite.invalidate_access_token()
    with pytest.raises(kite_errors.TokenException) as dead:
        kite.profile()
    assert dead.value.code == 403


def test_the_book_and_the_session_outlive_the_server(tmp_path: Path) -> None:
    path = tmp_path / "kite.db"
    with SimulatedKite(path, market=Market()) as first:
        token = first.new_token()
        order_id = client_of(first).place_order(**form())
    with SimulatedKite(path, market=Market()) as second:
        assert second.access_token == token
        assert [row["order_id"] for row in client_of(second).orders()] == [order_id]


# Faults


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        (FaultKind.TOKEN_EXPIRED, kite_errors.TokenException, 403),
        (FaultKind.RATE_LIMITED, kite_errors.NetworkException, 429),
        (FaultKind.SERVER_ERROR, kite_errors.GeneralException, 500),
        (FaultKind.HTML, kite_errors.DataException, 502),
        (FaultKind.CHECK_ORDER_BOOK, kite_errors.OrderException, 400),
        (FaultKind.MARGIN, kite_errors.GeneralException, 400),
    ],
)
@pytest.mark.parametrize("accepted", [True, False])
def test_a_fault_hits_once_and_the_call_is_carried_out_if_so_armed(
    server: SimulatedKite, kite: KiteConnect, kind: FaultKind, error: type[Exception], code: int, accepted: bool
) -> None:
    server.add_fault(KiteFault(kind=kind, accepted=accepted))
    with pytest.raises(error) as failure:
        kite.place_order(**form())
    assert failure.value.code == code
    assert len(server.book.orders()) == accepted
    kite.place_order(**form())
    assert len(server.calls("POST /orders/*")) == 2


def test_an_answer_without_a_content_type_is_an_error_of_the_library(server: SimulatedKite, kite: KiteConnect) -> None:
    server.add_fault(KiteFault(kind=FaultKind.NO_CONTENT_TYPE, status=200))
    with pytest.raises(KeyError):
        kite.place_order(**form())


@pytest.mark.parametrize("accepted", [True, False])
def test_a_dropped_call_is_not_sent_again_by_the_library(
    server: SimulatedKite, kite: KiteConnect, accepted: bool
) -> None:
    server.add_fault(KiteFault(kind=FaultKind.DROP, accepted=accepted))
    with pytest.raises(requests.ConnectionError):
        kite.place_order(**form())
    assert len(server.calls("POST /orders/*")) == 1
    assert len(server.book.orders()) == accepted


def test_an_order_may_come_into_the_book_after_its_answer(server: SimulatedKite, kite: KiteConnect) -> None:
    server.add_fault(KiteFault(kind=FaultKind.CHECK_ORDER_BOOK, accepted=True, late_seconds=0.2))
    with pytest.raises(kite_errors.OrderException, match="check the order book"):
        kite.place_order(**form())
    assert kite.orders() == []
    wait_until(lambda: len(kite.orders()) == 1)


def test_slow_and_unanswered_calls(server: SimulatedKite, kite: KiteConnect) -> None:
    server.add_fault(KiteFault(kind=FaultKind.SLOW, seconds=0.2))
    begun = time.monotonic()
    kite.place_order(**form())
    assert time.monotonic() - begun >= 0.2
    server.add_fault(KiteFault(kind=FaultKind.NEVER_ANSWER, route="GET /orders"))
    kite.timeout = 0.2
    with pytest.raises(requests.ReadTimeout):
        kite.orders()


def test_too_many_calls_in_a_second_are_answered_with_429(tmp_path: Path) -> None:
    with SimulatedKite(tmp_path / "kite.db", order_calls_per_second=3) as server:
        kite = client_of(server)
        for _ in range(3):
            kite.place_order(**form())
        with pytest.raises(kite_errors.NetworkException) as refusal:
            kite.place_order(**form())
        assert refusal.value.code == 429
        assert kite.orders()
        assert (server.state()["calls"], server.state()["too_many"]) == (5, 1)


# Order feed


class Ears:
    """The library's own ticker, listening."""

    def __init__(self, server: SimulatedKite) -> None:
        _run_reactor()
        self.orders: queue.Queue[dict[str, object]] = queue.Queue()
        self.frames: queue.Queue[bytes] = queue.Queue()
        self.ticker = KiteTicker(server.api_key, server.access_token, root=server.ticker_url)
        self.ticker.on_order_update = lambda _, order: self.orders.put(order)
        self.ticker.on_message = lambda _, payload, is_binary: self.frames.put(payload) if is_binary else None
        reactor.callFromThread(self.ticker.connect, threaded=True)
        wait_until(lambda: server.listeners == 1)

    def close(self) -> None:
        reactor.callFromThread(self.ticker.close)


@pytest.fixture
def ears(server: SimulatedKite) -> Iterator[Ears]:
    ears = Ears(server)
    yield ears
    ears.close()
    wait_until(lambda: server.listeners == 0)


def test_the_feed_tells_of_each_change_and_beats(server: SimulatedKite, kite: KiteConnect, ears: Ears) -> None:
    server.book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD))
    order_id = kite.place_order(**form(order_type="LIMIT", price=99))
    first = ears.orders.get(timeout=PATIENCE_SECONDS)
    server.book.fill_order(OrderRef(client_order_id="", broker_order_id=order_id))
    second = ears.orders.get(timeout=PATIENCE_SECONDS)
    assert [first["status"], second["status"]] == ["OPEN", "COMPLETE"]
    assert (second["order_id"], second["checksum"]) == (order_id, "")
    assert ears.frames.get(timeout=PATIENCE_SECONDS) == b"\x00"


def test_the_feed_is_closed_to_a_wrong_token(server: SimulatedKite) -> None:
    head = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: bm9uY2Ugb2YgYSB0ZXN0IQ==\r\nSec-WebSocket-Version: 13\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(f"GET /?api_key=a&access_token=b HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n".encode())
        assert b"403" in connection.recv(100)


# The operator's side


def test_the_control_route_does_what_it_is_asked(server: SimulatedKite, kite: KiteConnect) -> None:
    control(server, do="fault", fault={"operation": "place", "action": "hold", "times": None})
    control(server, do="http_fault", fault={"kind": "rate_limited"})
    with pytest.raises(kite_errors.NetworkException):
        kite.place_order(**form())
    order_id = kite.place_order(**form(order_type="LIMIT", price=99))
    control(server, do="fill", order="simulatortest1", quantity=4)
    control(server, do="cancel", order=order_id, reason="Halted")
    (order,) = kite.orders()
    assert (order["status"], order["filled_quantity"], order["status_message"]) == ("CANCELLED", 4, "Halted")
    assert server.book.orders()[0].status is ReportStatus.CANCELLED
    control(server, do="clear_faults")
    control(server, do="price", symbol="INFY", price="101.5")
    kite.place_order(**form(tag="second"))
    assert kite.trades()[-1]["average_price"] == 101.5
    token = control(server, do="new_token")["access_token"]
    assert token == server.access_token
    control(server, do="kill_token")
    assert control(server, do="new_day")["token_is_good"] is False


def test_the_control_route_tells_the_whole_book(server: SimulatedKite, kite: KiteConnect) -> None:
    control(server, do="fault", fault={"operation": "reports", "action": "hide", "times": None})
    order_id = kite.place_order(**form())
    assert kite.orders() == []
    answer = requests.get(f"{server.root_url}/_control/orders", timeout=5).json()
    (order,) = answer["orders"]
    assert (order["broker_order_id"], order["client_order_id"], order["status"]) == (
        order_id,
        "simulatortest1",
        "FILLED",
    )
    assert [fill["price"] for fill in order["fills"]] == ["100.25"]


def test_a_restart_cuts_everybody_off_and_keeps_book_and_session(server: SimulatedKite, kite: KiteConnect) -> None:
    kite.place_order(**form())
    control(server, do="restart", closed_seconds=0.3)
    wait_until(lambda: is_closed(server.port))
    wait_until(lambda: not is_closed(server.port))
    assert len(client_of(server).orders()) == 1


def is_closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("wish", [{"do": "nonsense"}, {"do": "http_fault", "fault": {"kind": "no"}}, {"do": "fill"}])
def test_a_wish_that_is_not_understood_is_refused(server: SimulatedKite, wish: dict[str, object]) -> None:
    answer = requests.post(f"{server.root_url}/_control", json=wish, timeout=5)
    assert answer.status_code == 400


def test_only_loopback_is_served(server: SimulatedKite, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loopback"):
        SimulatedKite(tmp_path / "other.db", host="0.0.0.0")
    answer = requests.get(f"{server.root_url}/orders", headers={"Host": "evil.example"}, timeout=5)
    assert answer.status_code == 403


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    notice = tmp_path / "kite.json"
    command = [sys.executable, "-m", "simulators.zerodha", "--port", "0", "--data", str(tmp_path / "kite.db")]
    command += ["--notice", str(notice)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(4)]
        said = dict(line.split("=", 1) for line in lines[1:])
        kite = KiteConnect(said["KITE_API_KEY"], access_token=said["KITE_ACCESS_TOKEN"], root=said["KITE_ROOT_URL"])
        kite.place_order(**form())
        assert len(kite.orders()) == 1
        wait_until(notice.exists)
        told = json.loads(notice.read_text())
        assert (told["pid"], told["gateway"]) == (process.pid, said["KITE_ROOT_URL"])
        assert requests.get(told["control"], timeout=5).json()["orders"] == 1
    finally:
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 0
    assert not notice.exists()


# Positions that change without an order of ours


def test_products_are_apart_and_a_square_off_is_in_the_order_list(server: SimulatedKite, kite: KiteConnect) -> None:
    kite.place_order(**form(product="MIS"))
    control(server, do="trade_by_hand", instrument="INFY", quantity=-4, product="MIS")
    control(server, do="trade_by_hand", instrument="INFY", quantity=3)
    held = {(row["tradingsymbol"], row["product"]): row["quantity"] for row in kite.positions()["net"]}
    assert held == {("INFY", "MIS"): 6, ("INFY", "CNC"): 3}
    squared = kite.orders()[1]
    assert (squared["tag"], squared["status"], squared["transaction_type"], squared["product"]) == (
        None,
        "COMPLETE",
        "SELL",
        "MIS",
    )
    assert len(kite.trades()) == 3


def test_delivered_shares_come_as_holdings_and_all_else_that_moves_as_a_position(
    server: SimulatedKite, kite: KiteConnect
) -> None:
    control(server, do="move", instrument="INFY", quantity=50)
    control(server, do="move", instrument="RELIANCE", quantity=5, product="MIS")
    assert [(row["tradingsymbol"], row["quantity"], row["product"]) for row in kite.holdings()] == [("INFY", 50, "CNC")]
    assert [(row["tradingsymbol"], row["quantity"]) for row in kite.positions()["net"]] == [("RELIANCE", 5)]
    assert kite.orders() == []
