"""Store and Pub/Sub freeze, die, come back, and cut connections under the real service while orders flow: nothing is lost, nothing done twice."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.external.proxy import Mood, Proxy
from tests.external.service_process import (
    Listener,
    PubSub,
    Server,
    Service,
    assert_everything_agrees,
    is_listening,
    make_orders,
    pubsub_server,
    store_server,
    wait_until_settled,
)
from tests.waits import wait_until

pytestmark = [
    # What is ready at this moment, and no waiting, is just what these tests ask for.
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.timeout(150),
]

STOP_SECONDS = 10.0
QUIET_SECONDS = 0.6
WATCHED_SECONDS = 1.5


@dataclass(slots=True)
class Stage:
    """The service between a store and a Pub/Sub that the tests may do anything to, and all orders so far."""

    service: Service
    store: Server
    pubsub: Server
    proxy: Proxy
    listener: Listener
    asked: list[dict[str, Any]] = field(default_factory=list)

    def publish(self, count: int) -> None:
        orders = make_orders(count, seed=99, first=len(self.asked))
        with PubSub(f"127.0.0.1:{self.pubsub.port}") as pubsub:
            pubsub.publish(orders)
        self.asked += orders

    def placed(self) -> int:
        return self.service.book.placed()

    def unacknowledged(self) -> int:
        """Orders that Pub/Sub still holds for the service."""
        with contextlib.closing(sqlite3.connect(self.service.folder / "own-pubsub.db", timeout=5.0)) as db:
            (count,) = db.execute(
                "SELECT COUNT(*) FROM owed o JOIN subscriptions s ON s.id = o.subscription"
                " WHERE o.acknowledged = 0 AND s.name LIKE '%/trading-orders-sub'"
            ).fetchone()
            return int(count)

    def assert_no_placement(self) -> None:
        """What was on its way to the broker may still arrive; then nothing more does."""
        seen, since = self.placed(), time.monotonic()
        deadline = since + 10.0
        while time.monotonic() - since < QUIET_SECONDS:
            assert time.monotonic() < deadline, "orders are still being placed"
            if self.placed() != seen:
                seen, since = self.placed(), time.monotonic()
            time.sleep(0.02)
        deadline = time.monotonic() + WATCHED_SECONDS
        while time.monotonic() < deadline:
            assert self.placed() == seen
            time.sleep(0.05)

    def assert_all_ends_well(self) -> None:
        wait_until_settled(self.service, len(self.asked), within=60.0)
        wanted = {order["signal_id"] for order in self.asked}
        wait_until(
            lambda: self.listener.ended_signals() == wanted,
            "each order's end is told",
            within=30.0,
            more=lambda: str(sorted(wanted - self.listener.ended_signals())),
        )
        assert_everything_agrees(self.service, self.asked, self.listener.received)
        wait_until(lambda: self.unacknowledged() == 0, "every order is acknowledged")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("outages")
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(store_server(folder))
        pubsub = stack.enter_context(pubsub_server(folder))
        proxy = stack.enter_context(Proxy(store.port))
        service = stack.enter_context(
            Service(
                folder,
                MONGODB_URI=f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true",
                PUBSUB_EMULATOR_HOST=f"127.0.0.1:{pubsub.port}",
                MOCK_FILL_DELAY_SECONDS="0.3",
                MOCK_PARTIAL_FILL_RATE="0.4",
                MOCK_SEED="11",
                MAX_ORDER_AGE_SECONDS="0",
                ORDER_TIMEOUT_SECONDS="0",
            )
        )
        listener = stack.enter_context(Listener(lambda: f"127.0.0.1:{pubsub.port}"))
        service.start()
        yield Stage(service, store, pubsub, proxy, listener)


def test_a_frozen_store_stops_acknowledging_and_placing_until_it_wakes(stage: Stage) -> None:
    before = stage.placed()
    stage.publish(30)
    wait_until(lambda: stage.placed() >= before + 5, "orders flow", pause=0.002)
    stage.store.freeze()
    try:
        stage.publish(20)
        stage.assert_no_placement()
        assert stage.unacknowledged() >= 20
    finally:
        stage.store.thaw()
    stage.assert_all_ends_well()


def test_a_killed_store_stops_acknowledging_and_placing_until_it_is_back(stage: Stage) -> None:
    before = stage.placed()
    stage.publish(30)
    wait_until(lambda: stage.placed() >= before + 5, "orders flow", pause=0.002)
    stage.store.kill()
    stage.publish(20)
    stage.assert_no_placement()
    assert stage.unacknowledged() >= 20
    stage.store.start()
    stage.assert_all_ends_well()


def test_connections_to_the_store_that_are_cut_again_and_again_double_nothing(stage: Stage) -> None:
    before = stage.placed()
    stage.publish(40)
    for count in (2, 12, 25):
        wait_until(lambda count=count: stage.placed() >= before + count, "orders flow", pause=0.002)  # type: ignore[misc]
        stage.proxy.cut()
    stage.assert_all_ends_well()


def test_writes_whose_answers_are_lost_are_made_once(stage: Stage) -> None:
    for count in (1, 10):
        before = stage.placed()
        stage.publish(20)
        wait_until(lambda b=before, c=count: stage.placed() >= b + c, "orders flow", pause=0.002)  # type: ignore[misc]
        with stage.proxy.being(Mood.HALF_OPEN):
            stage.assert_no_placement()
    stage.assert_all_ends_well()


def test_orders_in_hand_go_on_while_pubsub_is_frozen(stage: Stage) -> None:
    before = stage.placed()
    stage.publish(30)
    wait_until(lambda: stage.placed() >= before + 5, "orders flow", pause=0.002)
    stage.pubsub.freeze()
    try:
        with stage.service.database() as db:
            in_hand = db["execution_orders"].count_documents({})
            wait_until(
                lambda: db["execution_orders"].count_documents({"status": "FILLED"}) >= in_hand, "orders in hand end"
            )
    finally:
        stage.pubsub.thaw()
    stage.assert_all_ends_well()


def test_confirmations_wait_while_pubsub_is_dead_and_orders_come_when_it_is_back(stage: Stage) -> None:
    before = stage.placed()
    stage.publish(30)
    wait_until(lambda: stage.placed() >= before + 5, "orders flow", pause=0.002)
    stage.pubsub.kill()
    with stage.service.database() as db:
        in_hand = db["execution_orders"].count_documents({})
        wait_until(
            lambda: db["execution_orders"].count_documents({"status": "FILLED"}) >= in_hand, "orders in hand end"
        )
        assert db["execution_orders"].count_documents({"lookup": "unsettled"}) > 0
    stage.pubsub.start()
    stage.publish(5)
    stage.assert_all_ends_well()


@pytest.mark.parametrize("part", ["store", "pubsub"])
def test_it_stops_in_time_while_a_part_is_frozen_and_goes_on_after_the_next_start(stage: Stage, part: str) -> None:
    server: Server = getattr(stage, part)
    before = stage.placed()
    stage.publish(20)
    wait_until(lambda: stage.placed() >= before + 3, "orders flow", pause=0.002)
    server.freeze()
    status, seconds = stage.service.stop(within=40.0)
    assert (status, seconds < STOP_SECONDS) == (0, True), f"{status} after {seconds} s\n{stage.service.console()}"
    server.thaw()
    stage.service.start()
    stage.assert_all_ends_well()


@pytest.mark.parametrize("part", ["secantusd-py", "simulators.pubsub"])
def test_an_embedded_part_that_dies_is_started_again(tmp_path: Path, part: str) -> None:
    with Service(tmp_path, MOCK_FILL_DELAY_SECONDS="0.3", ORDER_TIMEOUT_SECONDS="0") as service:
        service.start()
        asked = make_orders(20, seed=3)
        with service.pubsub() as pubsub:
            pubsub.publish(asked[:10])
        wait_until(lambda: service.book.placed() >= 2, "orders flow", pause=0.002)
        ports = (service.store_port, service.pubsub_port)
        (victim,) = [
            p for p in service.family() if part in " ".join(p.cmdline()) and "guardian" not in str(p.cmdline())
        ]
        victim.kill()
        wait_until(lambda: "started again" in service.console(), "the service says so", more=service.console)
        wait_until(lambda: all(is_listening(port) for port in ports), "it is back", more=service.console)
        with service.pubsub() as pubsub:
            pubsub.publish(asked[10:])
        wait_until_settled(service, len(asked))
        assert service.book.placed() == service.book.filled() == len(asked)
        assert service.stop()[0] == 0
