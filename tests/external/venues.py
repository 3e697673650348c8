"""Every broker beside the real service: the mock's book and the simulated gateways as processes, each with its account. No tests here."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from brokers.base import Tif
from brokers.registry import manifests
from simulators import control
from simulators.catalogue import simulator_of
from simulators.simulator import Place, account_table
from simulators.zerodha import DEFAULT_ACCESS_TOKEN, DEFAULT_API_KEY
from tests.external.service_process import Server, Service, free_port, wide_limits
from tests.waits import wait_until

BROKERS = tuple(name for name, manifest in manifests().items() if manifest.simulator is not None)
PLAYED_EACH_TIME = (
    BROKERS
    if os.environ.get("EVERY_BROKER")
    else tuple(b for b in BROKERS if b not in ("alpaca", "binance", "simulated"))
)
"""Where every run of the tests plays faults, crashes, outages and the demo. EVERY_BROKER=1 plays them at all, and so does
`make faults`; the contract suite, and the service at each broker, are always for all."""
LIMITED = "zerodha with limits"
"""Zerodha with its own limits on both sides: the adapter's default budget, and a server that answers too many calls with 429."""
ACCOUNTS = {LIMITED: "Zerodha_Limited", "ibkr": "IBKR_One"}
"""Where it is not the broker's name with `_One`."""
PRICE = Decimal("100.25")
FINAL = ("FILLED", "REJECTED", "CANCELLED", "EXPIRED")
API_KEY_NAME = "TEST_KITE_API_KEY"


class Venue(ABC):
    """One broker's true side: its book, and trouble on demand (the wishes of `simulators.control`)."""

    def __init__(self, name: str) -> None:
        self.broker = name
        self.account_id = account_id_at(name)
        simulator = simulator_of(name.partition(" ")[0])
        self.symbol, self.order_fields = simulator.symbols[0], simulator.order_fields

    @abstractmethod
    def do(self, what: str, **wish: object) -> Mapping[str, Any]:
        """Makes trouble, or asks; `what` is a wish of the control side."""

    @abstractmethod
    def orders(self) -> list[dict[str, Any]]:
        """The whole book, oldest first."""

    def of(self, client_order_id: str) -> list[dict[str, Any]]:
        return [order for order in self.orders() if order["client_order_id"] == client_order_id]

    def fault(self, operation: str, action: str, **fields: object) -> None:
        self.do("fault", fault={"operation": operation, "action": action, **fields})


class BookVenue(Venue):
    """The book is a file that the service's own adapter keeps, and the test opens beside it."""

    def __init__(self, name: str, service: Service) -> None:
        super().__init__(name)
        open_book = simulator_of(name).open_book
        assert open_book is not None
        self._book = open_book(service.data_dir, self.account_id)

    def do(self, what: str, **wish: object) -> Mapping[str, Any]:
        control.carry_out(control.book_commands(self._book), {"do": what, **wish})
        return {}

    def orders(self) -> list[dict[str, Any]]:
        return [control.order_as_json(order) for order in self._book.orders()]

    def close(self) -> None:
        self._book.close()


class GatewayVenue(Venue):
    """A gateway in a process of its own, asked on its control side."""

    def __init__(self, name: str, server: Server, control_port: int) -> None:
        super().__init__(name)
        self.server = server
        self._url = f"http://127.0.0.1:{control_port}/_control"

    def do(self, what: str, **wish: object) -> Mapping[str, Any]:
        return self._call(Request(self._url, json.dumps({"do": what, **wish}).encode()))

    def state(self) -> Mapping[str, Any]:
        return self._call(Request(self._url))

    def orders(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call(Request(f"{self._url}/orders"))["orders"]
        return found

    def _call(self, request: Request) -> Mapping[str, Any]:
        with urlopen(request, timeout=10) as answer:
            said: Mapping[str, Any] = json.load(answer)
        return said


class VenueStage:
    """The service with an account at each broker, and who publishes to it and looks."""

    def __init__(self, service: Service, venues: Mapping[str, Venue], token_file: Path) -> None:
        self.service = service
        self.venues = venues
        self.token_file = token_file

    def body(self, venue: Venue, side: str = "BUY", quantity: int = 10, **more: Any) -> dict[str, Any]:
        """A LIMIT order at PRICE under a signal id of its own, unless told otherwise."""
        body = {
            "signal_id": f"{venue.account_id}-{uuid.uuid4().hex[:12]}",
            "symbol": venue.symbol,
            "side": side,
            "order_type": "LIMIT",
            "limit_price": str(PRICE),
            "quantity": quantity,
            "account_id": venue.account_id,
            "strategy_name": "Each",
            "tif": Tif.DAY.value,
            **venue.order_fields,
        } | more
        return {name: value for name, value in body.items() if value is not None}

    def publish(self, *bodies: Mapping[str, Any], topic: str | None = None) -> None:
        with self.service.pubsub() as pubsub:
            pubsub.publish(bodies) if topic is None else pubsub.publish(bodies, topic)

    def record(self, signal_id: str) -> dict[str, Any] | None:
        with self.service.database() as db:
            found: dict[str, Any] | None = db["execution_orders"].find_one({"signal_id": signal_id})
        return found

    def confirmation(self, signal_id: str) -> dict[str, Any]:
        with self.service.database() as db:
            found: dict[str, Any] | None = db["execution_confirmations"].find_one({"signal_id": signal_id})
        return found or {}

    def wait(
        self, body: Mapping[str, Any], *statuses: str, within: float = 30.0, and_told: bool = True
    ) -> dict[str, Any]:
        """The record, once it has one of these statuses (any final one, if none is named) and all was told of it."""
        signal_id = str(body["signal_id"])

        def is_there() -> dict[str, Any] | None:
            record = self.record(signal_id)
            if record is None or record["status"] not in (statuses or FINAL):
                return None
            is_open = record["status"] not in FINAL
            return record if is_open or not and_told or "unsettled" not in record["lookup"] else None

        return wait_until(
            is_there,
            f"{signal_id} is {' or '.join(statuses or FINAL)}",
            within=within,
            pause=0.03,
            more=lambda: f"{self.record(signal_id)}\n{self.service.console()[-3000:]}",
        )


def account_id_at(name: str) -> str:
    return ACCOUNTS.get(name, f"{name.title()}_One")


def currency_at(broker: str) -> str:
    return simulator_of(broker).currency


def accounts_file(ports: Mapping[str, int], folder: Path, token_file: Path) -> str:
    tables = []
    for broker in BROKERS:
        simulator = simulator_of(broker)
        place = Place(address=simulator.address_at(ports[broker]), folder=folder)
        keys = {**simulator.test_account(place), **simulator.hasty, **simulator.short_search}
        tables.append(account_table(account_id_at(broker), {"broker": broker, **keys}))
    limited = {
        "broker": "zerodha",
        "api_key": {"env": API_KEY_NAME},
        "access_token_file": f"{token_file}.limited",
        "root_url": f"http://127.0.0.1:{ports[LIMITED]}",
        "live": False,
    }
    return "\n".join([*tables, account_table(account_id_at(LIMITED), limited)])


def gateway_server(broker: str, folder: Path, port: int, control_port: int) -> tuple[Server, int]:
    """The broker's simulated gateway at this port, and the port of its control side: `control_port`, or the same."""
    simulator = simulator_of(broker)
    assert simulator.program is not None
    command = [sys.executable, "-m", simulator.program, "--port", str(port), "--data", str(folder / f"{broker}.db")]
    command += ["--fill-delay-seconds", "0"]
    if simulator.has_own_control_port:
        command += ["--control-port", str(control_port)]
    else:
        control_port = port
    return Server(f"the simulated {broker}", command, control_port, folder / f"{broker}.log"), control_port


def kite_server(folder: Path, port: int, *arguments: str, name: str = "kite") -> Server:
    command = [sys.executable, "-m", "simulators.zerodha", "--port", str(port), "--data", str(folder / f"{name}.db")]
    return Server("the simulated Kite", [*command, *arguments], port, folder / f"{name}.log")


def tws_server(folder: Path, port: int, control_port: int, *arguments: str) -> Server:
    command = [sys.executable, "-m", "simulators.ibkr", "--port", str(port), "--control-port", str(control_port)]
    command += ["--data", str(folder / "tws.db"), "--fill-delay-seconds", "0"]
    return Server("the simulated gateway", [*command, *arguments], control_port, folder / "tws.log")


@contextlib.contextmanager
def stage_with_all_brokers(folder: Path, **settings: str) -> Iterator[VenueStage]:
    """Everything started, with the token of a login in its file; all of it ended afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    token_file = folder / "access_token"
    token_file.write_text(DEFAULT_ACCESS_TOKEN)
    Path(f"{token_file}.limited").write_text(DEFAULT_ACCESS_TOKEN)
    ports = {name: free_port() for name in (*BROKERS, LIMITED)}
    accounts = folder / "accounts.toml"
    accounts.write_text(accounts_file(ports, folder, token_file), encoding="utf-8")
    chosen = {
        "ACCOUNTS_FILE": str(accounts),
        "RISK_FILE": str(wide_limits(folder)),
        "USE_MOCK_BROKER": "false",
        API_KEY_NAME: DEFAULT_API_KEY,
        "MAX_RETRY_ATTEMPTS": "30",
    }
    for broker in BROKERS:
        chosen |= simulator_of(broker).environment
    with contextlib.ExitStack() as stack:
        venues: dict[str, Venue] = {}
        for broker in BROKERS:
            if simulator_of(broker).program is not None:
                server, control_port = gateway_server(broker, folder, ports[broker], free_port())
                venues[broker] = GatewayVenue(broker, stack.enter_context(server), control_port)
        limits = ("--order-calls-per-second", "10", "--other-calls-per-second", "10")
        limited = stack.enter_context(kite_server(folder, ports[LIMITED], *limits, name="limited"))
        venues[LIMITED] = GatewayVenue(LIMITED, limited, ports[LIMITED])
        service = stack.enter_context(Service(folder, **(chosen | settings)))
        service.start()
        for broker in BROKERS:
            if broker not in venues:
                book = venues[broker] = BookVenue(broker, service)
                stack.callback(book.close)
        yield VenueStage(service, venues, token_file)


def events(record: Mapping[str, Any]) -> list[str]:
    return [str(event["type"]) for event in record["events"]]
