"""The real service with messages that it has received and cannot store: stopped, or cut off from its store, it gives them back at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.external.proxy import Mood, Proxy
from tests.external.service_process import (
    COMMANDS_TOPIC,
    ORDERS_SUBSCRIPTION,
    PubSub,
    Server,
    Service,
    make_orders,
    pubsub_server,
    store_server,
)
from tests.waits import wait_until

pytestmark = [
    # What is ready at this moment, and no waiting, is just what these tests ask for.
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.timeout(150),
]

AT_ONCE_SECONDS = 1.0
STOP_SECONDS = 10.0
COMMANDS_SUBSCRIPTION = "order-commands-sub"


class Stage:
    """The service behind a proxy to its store, and somebody else who pulls the same subscriptions."""

    def __init__(self, service: Service, store: Server, proxy: Proxy, others: PubSub) -> None:
        self.service = service
        self.store = store
        self.proxy = proxy
        self.others = others

    def publish(self, count: int, *, seed: int) -> set[str]:
        orders = make_orders(count, seed=seed)
        self.others.publish(orders)
        return {order["signal_id"] for order in orders}

    def is_everything_received(self) -> bool:
        """By the service: nothing is left for others."""
        return not self.others.pull(ORDERS_SUBSCRIPTION, acknowledges=False)

    def seconds_until_others_have(self, count: int, subscription: str = ORDERS_SUBSCRIPTION) -> float:
        began, received = time.monotonic(), set[str]()

        def come() -> bool:
            received.update(each.message.message_id for each in self.others.pull(subscription))
            return len(received) >= count

        wait_until(come, f"others get {count} messages", within=40.0, more=self.service.console)
        return time.monotonic() - began


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(store_server(tmp_path))
        pubsub = stack.enter_context(pubsub_server(tmp_path))
        proxy = stack.enter_context(Proxy(store.port))
        shared: dict[str, Any] = {
            "MONGODB_URI": f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true",
            "PUBSUB_EMULATOR_HOST": f"127.0.0.1:{pubsub.port}",
            "ORDER_TIMEOUT_SECONDS": "0",
            "MAX_ORDER_AGE_SECONDS": "0",
        }
        service = stack.enter_context(Service(tmp_path, **shared))
        others = stack.enter_context(PubSub(f"127.0.0.1:{pubsub.port}"))
        service.start()
        yield Stage(service, store, proxy, others)


def test_a_service_that_is_stopped_gives_what_it_has_not_stored_to_others_at_once(stage: Stage) -> None:
    stage.publish(20, seed=1)
    wait_until(lambda: stage.service.book.filled() == 20, "orders flow", more=stage.service.console)
    stage.store.freeze()
    # More than the library lets through at once: some of them wait in queues of its own.
    sent = stage.publish(1100, seed=2)
    stage.others.publish([{"command": "CANCEL", "signal_id": "x", "reason": "test"}], COMMANDS_TOPIC)
    time.sleep(2.0)  # all that the service may hold has come to it
    began = time.monotonic()
    stage.service.send(15)
    seconds = stage.seconds_until_others_have(len(sent))
    seconds_of_commands = stage.seconds_until_others_have(1, COMMANDS_SUBSCRIPTION)
    assert stage.service.process is not None
    status = stage.service.process.wait(30)
    took = time.monotonic() - began
    print(f"others had {len(sent)} orders after {seconds:.2f} s, the command after {seconds_of_commands:.2f} s more")
    print(f"stopped after {took:.2f} s")
    assert seconds <= AT_ONCE_SECONDS
    assert seconds_of_commands <= AT_ONCE_SECONDS
    assert (status, took < STOP_SECONDS) == (0, True)


def test_what_was_stored_before_the_stop_does_not_come_again(stage: Stage) -> None:
    sent = stage.publish(400, seed=3)
    with stage.service.database() as db:
        orders = db["execution_orders"]
        wait_until(lambda: orders.estimated_document_count() >= 100, "orders are stored", pause=0.002)
        status, took = stage.service.stop()
        stored = {document["signal_id"] for document in orders.find({}, {"signal_id": 1})}
    assert (status, took < STOP_SECONDS) == (0, True)
    again = []
    deadline = time.monotonic() + 20.0
    while len(again) < len(sent) - len(stored) and time.monotonic() < deadline:
        again += stage.others.pull(ORDERS_SUBSCRIPTION)
    time.sleep(16.0)  # longer than the lease of a message that was neither acknowledged nor handed back
    again += stage.others.pull(ORDERS_SUBSCRIPTION)
    print(f"{len(stored)} of {len(sent)} stored, {len(again)} came again")
    # Of one batch that was being written when the stop came, it is not known whether it arrived.
    assert len(sent) - len(stored) <= len(again) <= len(sent) - len(stored) + 50


def test_a_service_that_has_lost_its_store_gives_its_messages_to_others_and_takes_them_again_later(
    stage: Stage,
) -> None:
    stage.publish(5, seed=4)
    wait_until(lambda: stage.service.book.filled() == 5, "orders flow", more=stage.service.console)
    with stage.proxy.being(Mood.HALF_OPEN):
        sent = stage.publish(60, seed=5)
        wait_until(stage.is_everything_received, "the service has them all")
        seconds = stage.seconds_until_others_have(len(sent))
        print(f"others had {len(sent)} orders after {seconds:.1f} s")
        assert seconds <= 15.0
        late = stage.publish(3, seed=6)
    with stage.service.database() as db:
        placed = {"signal_id": {"$in": sorted(late)}, "status": "FILLED"}
        wait_until(
            lambda: db["execution_orders"].count_documents(placed) == len(late),
            "orders are taken again",
            within=60.0,
            more=stage.service.console,
        )
    assert stage.service.console().count("what was received is handed back") == 1
