"""The real service with the real IBKR adapter against the simulated gateway: the night's restart, lost links, lost answers, taken client ids."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest

from brokers.ibkr.library import choose
from brokers.paper.model import Action, Fault, Market, Operation, PaperOrder
from simulators.ibkr.book import TwsBook
from simulators.ibkr.gateway import TwsSimulator
from simulators.ibkr.wire import frame
from tests.external.service_process import COMMANDS_TOPIC, Service, free_port
from tests.waits import wait_until

pytestmark = [
    # What is ready at this moment, and no waiting, is just what these tests ask for.
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.timeout(150),
]

T = TypeVar("T")
ACCOUNTS = """
[accounts.night]
broker = "ibkr"
live = false
ibkr_account = "DU000001"
host = "127.0.0.1"
port = {port}
answer_seconds = 5
# So that whatever hour the test runs at is one of those in which the gateway may restart.
restart_from = "00:00"
restart_until = "23:59:59.999999"

[accounts.day]
broker = "ibkr"
live = false
ibkr_account = "DU000002"
host = "127.0.0.1"
port = {nobody}
restart_from = "00:00"
restart_until = "00:00"
"""


class Gateway:
    """The simulated gateway in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._thread.start()
        self._book = TwsBook(folder / "tws.db", account_id="DU000001", market=Market(fill_delay_seconds=0.02))
        self._simulator = TwsSimulator(self._book, port=free_port(), prices={"SPY": Decimal("100.25")})
        self.port = self._simulator.port

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def do(self, deed: Callable[[TwsSimulator], T]) -> T:
        async def done() -> T:
            return deed(self._simulator)

        return self._run(done())

    def start(self) -> None:
        self._run(self._simulator.start())

    def stop(self) -> None:
        self._run(self._simulator.stop())

    def restart(self, closed_seconds: float) -> None:
        self._run(self._simulator.restart(closed_seconds))

    def arm(self, operation: Operation, action: Action, **fields: Any) -> None:
        self.do(lambda gateway: gateway.book.add_fault(Fault(operation=operation, action=action, **fields)))

    def orders(self) -> list[PaperOrder]:
        return self.do(lambda gateway: gateway.book.orders())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._book.close()


class Stand:
    """A gateway, and a service that trades through it."""

    def __init__(self, gateway: Gateway, service: Service) -> None:
        self.gateway = gateway
        self.service = service
        self._numbers = itertools.count(1)

    def send(self, count: int = 1, **changes: Any) -> list[str]:
        usual = {"order_type": "MARKET", "symbol": "SPY", "side": "BUY", "quantity": 10, "price": 100.25}
        usual |= {"account_id": "night", "strategy_name": "Trend"}
        bodies = [usual | changes | {"signal_id": f"sig_{next(self._numbers):04d}"} for _ in range(count)]
        with self.service.pubsub() as pubsub:
            pubsub.publish(bodies)
        return [str(body["signal_id"]) for body in bodies]

    def cancel(self, signal_id: str) -> None:
        with self.service.pubsub() as pubsub:
            pubsub.publish([{"command": "CANCEL", "signal_id": signal_id, "reason": "test"}], COMMANDS_TOPIC)

    def record(self, signal_id: str) -> dict[str, Any] | None:
        with self.service.database() as db:
            found: dict[str, Any] | None = db["execution_orders"].find_one({"signal_id": signal_id})
        return found

    def status(self, signal_id: str) -> str:
        record = self.record(signal_id)
        return "" if record is None else str(record["status"])

    def wait(self, signal_id: str, status: str, within: float = 45.0) -> dict[str, Any]:
        wait_until(
            lambda: self.status(signal_id) == status,
            f"{signal_id} is {status}",
            within=within,
            pause=0.05,
            more=lambda: f"{self.record(signal_id)}\n{self.service.console()[-3000:]}",
        )
        record = self.record(signal_id)
        assert record is not None
        return record

    def wait_for_line(self, words: str, deed: Callable[[], object]) -> None:
        seen = self.service.console().count(words)
        deed()
        wait_until(lambda: self.service.console().count(words) > seen, words, within=30, more=self.service.console)

    def assert_each_is_placed_once(self, signal_ids: list[str]) -> None:
        tags = [self.wait(signal_id, "FILLED")["client_order_id"] for signal_id in signal_ids]
        placed = [order.ticket.client_order_id for order in self.gateway.orders()]
        assert {tag: placed.count(tag) for tag in tags} == dict.fromkeys(tags, 1)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("ibkr")
    gateway = Gateway(folder)
    (folder / "accounts.toml").write_text(ACCOUNTS.format(port=gateway.port, nobody=free_port()), encoding="utf-8")
    settings = {"USE_MOCK_BROKER": "false", "ACCOUNTS_FILE": str(folder / "accounts.toml")}
    with Service(folder / "service", **settings) as service:
        service.start()  # the gateway is not there yet
        gateway.start()
        try:
            yield Stand(gateway, service)
        finally:
            gateway.close()


def test_a_gateway_that_was_not_there_at_the_start_is_traded_once_it_is(stand: Stand) -> None:
    signal_ids = stand.send(3)
    stand.assert_each_is_placed_once(signal_ids)


def test_the_check_names_the_client_library_of_this_environment(stand: Stand) -> None:
    _, said = stand.service.run("--check")
    assert f"by {choose('auto').name} " in " ".join(said.split())


def test_orders_wait_for_a_gateway_that_restarts_at_night(stand: Stand) -> None:
    # From the third attempt on an order would be rejected at any other hour.
    stand.wait_for_line("Broker connection failed (attempt 3)", stand.gateway.stop)
    (signal_id,) = stand.send()
    wait_until(lambda: stand.status(signal_id) == "PENDING", "the order is stored")
    stand.wait_for_line("Broker connected: IBKR for account night", stand.gateway.start)
    stand.assert_each_is_placed_once([signal_id])


def test_at_any_other_hour_they_are_rejected(stand: Stand) -> None:
    (signal_id,) = stand.send(account_id="day")
    record = stand.wait(signal_id, "REJECTED")
    assert record["events"][-1]["reason"]["code"] == "BROKER_UNAVAILABLE"


@pytest.mark.parametrize("data_kept", [True, False])
def test_orders_wait_while_the_gateway_has_lost_its_servers(stand: Stand, data_kept: bool) -> None:
    stand.gateway.arm(Operation.PLACE, Action.HOLD)
    (held,) = stand.send(tif="DAY")
    stand.wait(held, "SUBMITTED")
    stand.wait_for_line("Broker connection lost", lambda: stand.gateway.do(lambda gateway: gateway.lose_link()))
    (signal_id,) = stand.send()
    wait_until(lambda: stand.status(signal_id) == "PENDING", "the order is stored")
    stand.gateway.do(lambda gateway: gateway.restore_link(data_kept=data_kept))
    stand.assert_each_is_placed_once([signal_id])
    stand.cancel(held)
    stand.wait(held, "CANCELLED")


@pytest.mark.parametrize("action", [Action.ACCEPT_THEN_DROP, Action.DROP_BEFORE_ACCEPT, Action.NEVER_ANSWER])
def test_an_order_whose_answer_was_lost_is_placed_once(stand: Stand, action: Action) -> None:
    stand.gateway.arm(Operation.PLACE, action)
    stand.assert_each_is_placed_once(stand.send())


def test_a_gateway_that_restarts_in_a_burst_gets_each_order_once_and_ids_go_on(stand: Stand) -> None:
    before = {order.broker_order_id for order in stand.gateway.orders()}
    signal_ids = stand.send(40)
    wait_until(lambda: len(stand.gateway.orders()) >= len(before) + 5, "some are placed")
    stand.gateway.restart(0.5)
    stand.assert_each_is_placed_once(signal_ids)
    new = [order.broker_order_id for order in stand.gateway.orders() if order.broker_order_id not in before]
    assert len(new) == len(set(new)) == 40
    assert min(_number(each) for each in new) > max(_number(each) for each in before)


def test_what_fits_no_tick_and_no_increment_is_recorded_as_it_was_sent(stand: Stand) -> None:
    (signal_id,) = stand.send(order_type="LIMIT", limit_price=100.257, quantity=10.00005)
    record = stand.wait(signal_id, "FILLED")
    (order,) = [each for each in stand.gateway.orders() if each.ticket.client_order_id == record["client_order_id"]]
    (fitted,) = [event for event in record["events"] if event["type"] == "Fitted"]
    assert (fitted["quantity"], fitted["limit_price"]) == ("10.0000", "100.25")
    assert (order.ticket.quantity, order.ticket.limit_price) == (Decimal(10), Decimal("100.25"))


def test_coins_bought_for_money_are_an_order_filled_with_what_that_bought(stand: Stand) -> None:
    stand.gateway.do(lambda gateway: gateway.prices.update(BTC=Decimal(51_000)))
    (signal_id,) = stand.send(symbol="BTC", instrument_type="CRYPTO", quantity=0.001, price=50_000)
    record = stand.wait(signal_id, "FILLED")
    assert record["filled_quantity"] == "0.00098039"
    with stand.service.database() as db:
        shown = wait_until(
            lambda: db["execution_confirmations"].find_one({"signal_id": signal_id, "status": "FILLED"}), "shown"
        )
    assert shown["filled_quantity"] == pytest.approx(0.00098039)


def test_another_client_with_our_id_makes_us_take_the_next_one(stand: Stand) -> None:
    assert stand.service.stop()[0] == 0
    with socket.create_connection(("127.0.0.1", stand.gateway.port)) as other:
        other.sendall(b"API\0" + frame("v157..176"))
        other.recv(4096)
        other.sendall(frame(71, 2, 1, ""))
        other.recv(4096)
        stand.service.start()
        (signal_id,) = stand.send()
        record = stand.wait(signal_id, "FILLED")
    assert str(record["broker_order_id"]).startswith("2:")
    assert "client id 1 is in use" in stand.service.console()


def _number(broker_order_id: str) -> int:
    return int(broker_order_id.partition(":")[2])
