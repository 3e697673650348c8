"""The world's side of a measurement: publishes orders and cancels, and notes when confirmations come; knows no process and no target."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from google.api_core.exceptions import GoogleAPICallError
from google.cloud import pubsub_v1
from google.cloud.pubsub_v1.subscriber.message import Message
from google.cloud.pubsub_v1.subscriber.scheduler import ThreadScheduler

from benchmarks import COMMANDS_TOPIC, CONFIRMATIONS_TOPIC, ORDERS_TOPIC, PROJECT

STALL_SECONDS = 30.0
_CALL_SECONDS = 30.0
_CLOSE_SECONDS = 5.0
_FINAL = frozenset({"FILLED", "REJECTED", "CANCELLED", "EXPIRED"})
_numbers = itertools.count(1)


class MeasurementFailed(Exception):
    """What was to be measured did not happen; there is no figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What orders are about: `symbols` by turns, and `accounts` by turns of whole rounds of symbols."""

    name: str
    symbols: int
    accounts: int


ONE_LANE = Mix(name="1 symbol, 1 account", symbols=1, accounts=1)
MANY_LANES = Mix(name="20 symbols, 4 accounts", symbols=20, accounts=4)


@dataclass(frozen=True, slots=True)
class OrderMessage:
    signal_id: str
    data: bytes


def order_messages(count: int, mix: Mix, **more: object) -> list[OrderMessage]:
    """Market orders that nobody has seen before, bought and sold by turns, without stops: an entry that is protected is three orders. `more` replaces
    fields of all of them."""
    messages = []
    for position in range(count):
        signal_id = f"bench_{os.getpid()}_{next(_numbers):07d}"
        lane = position % (mix.symbols * mix.accounts)
        is_sale = (position // (mix.symbols * mix.accounts)) % 2 == 1
        body: dict[str, object] = {
            "signal_id": signal_id,
            "order_type": "MARKET",
            "symbol": f"SYM{lane % mix.symbols}",
            "side": "SELL" if is_sale else "BUY",
            "quantity": 100,
            "price": 101.25,
            "account_id": f"bench_{lane // mix.symbols}",
            "strategy_name": "Benchmark",
        }
        messages.append(OrderMessage(signal_id, json.dumps(body | more).encode()))
    return messages


def resting_messages(count: int, symbol: str) -> list[OrderMessage]:
    """Limit orders that are good till cancelled."""
    return order_messages(count, ONE_LANE, symbol=symbol, order_type="LIMIT", limit_price=101.25, tif="GTC")


class Traffic:
    """Google's own clients at one Pub/Sub server. Times are `time.perf_counter()` seconds."""

    def __init__(self, host: str) -> None:
        with _emulator(host):
            batched = pubsub_v1.types.BatchSettings(max_messages=100, max_latency=0.005)
            self._publisher = pubsub_v1.PublisherClient(batch_settings=batched)
            self._publisher_of_one = pubsub_v1.PublisherClient(pubsub_v1.types.BatchSettings(max_messages=1))
            self._subscriber = pubsub_v1.SubscriberClient()
        self._arrived = threading.Condition()
        self._wanted: set[str] = set()
        self._other_ends: dict[str, str] = {}
        self._last_at = 0.0
        self._pull = self._subscriber.subscribe(
            self._subscriber.subscription_path(PROJECT, f"{CONFIRMATIONS_TOPIC}-sub"),
            self._receive,
            scheduler=ThreadScheduler(ThreadPoolExecutor(1)),
        )

    def burst(self, orders: Sequence[OrderMessage]) -> float:
        """Publishes all at once; seconds from the first publish call to the last FILLED. Raises MeasurementFailed."""
        began = self.publish(orders)
        return self.wait_until_filled() - began

    def one(self, order: OrderMessage) -> float:
        """Seconds from the publish call to FILLED. Raises MeasurementFailed."""
        self._expect([order])
        began = time.perf_counter()
        self._publisher_of_one.publish(self._topic(ORDERS_TOPIC), order.data)
        return self.wait_until_filled() - began

    def publish(self, orders: Sequence[OrderMessage], *, fills_expected: bool = True) -> float:
        """Returns the time of the first publish call, once Pub/Sub has taken all."""
        if fills_expected:
            self._expect(orders)
        topic = self._topic(ORDERS_TOPIC)
        began = time.perf_counter()
        for future in [self._publisher.publish(topic, order.data) for order in orders]:
            future.result(_CALL_SECONDS)
        return began

    def cancel(self, signal_id: str) -> float:
        """Returns the time of the publish call, at once."""
        body = {"command": "CANCEL", "signal_id": signal_id, "reason": "benchmark"}
        began = time.perf_counter()
        self._publisher_of_one.publish(self._topic(COMMANDS_TOPIC), json.dumps(body).encode())
        return began

    @property
    def outstanding(self) -> int:
        """Orders whose FILLED has not come."""
        with self._arrived:
            return len(self._wanted)

    def wait_until_outstanding(self, most: int) -> None:
        """Until at most so many orders are unconfirmed. Raises MeasurementFailed when confirmations stop coming."""
        with self._arrived:
            while len(self._wanted) > most:
                if not self._arrived.wait(STALL_SECONDS):
                    raise MeasurementFailed(
                        f"{len(self._wanted)} orders unconfirmed, and nothing came for {STALL_SECONDS:.0f} s"
                    )
            if self._other_ends:
                signal_id, status = next(iter(self._other_ends.items()))
                raise MeasurementFailed(f"{len(self._other_ends)} orders were not filled, {signal_id}: {status}")

    def wait_until_filled(self) -> float:
        """The time of the last FILLED that came. Raises MeasurementFailed."""
        self.wait_until_outstanding(0)
        return self._last_at

    def close(self) -> None:
        self._pull.cancel()
        with contextlib.suppress(TimeoutError, GoogleAPICallError):  # its last acknowledgements; nobody depends on them
            self._pull.result(_CLOSE_SECONDS)
        for publisher in (self._publisher, self._publisher_of_one):
            publisher.stop()
            publisher.transport.close()
        self._subscriber.close()

    def _topic(self, name: str) -> str:
        return str(self._publisher.topic_path(PROJECT, name))

    def _expect(self, orders: Sequence[OrderMessage]) -> None:
        with self._arrived:
            self._wanted = {order.signal_id for order in orders}
            self._other_ends = {}

    def _receive(self, message: Message) -> None:
        now = time.perf_counter()
        attributes: Mapping[str, Any] = message.attributes
        signal_id, status = attributes["signal_id"], attributes["status"]
        message.ack()
        with self._arrived:
            if signal_id not in self._wanted or status not in _FINAL:
                return
            if status != "FILLED":
                self._other_ends[signal_id] = status
            self._wanted.discard(signal_id)
            self._last_at = now
            self._arrived.notify_all()


def make_topics(host: str) -> None:
    """All that a service uses, with a subscription each, at a server that has none yet."""
    with _emulator(host):
        publisher, subscriber = pubsub_v1.PublisherClient(), pubsub_v1.SubscriberClient()
    with subscriber:
        for name in (ORDERS_TOPIC, COMMANDS_TOPIC, CONFIRMATIONS_TOPIC):
            topic = publisher.topic_path(PROJECT, name)
            publisher.create_topic(name=topic, timeout=_CALL_SECONDS)
            path = subscriber.subscription_path(PROJECT, f"{name}-sub")
            subscriber.create_subscription(name=path, topic=topic, timeout=_CALL_SECONDS)
    publisher.stop()
    publisher.transport.close()


@contextlib.contextmanager
def _emulator(host: str) -> Iterator[None]:
    """Google's clients take the server's address from the environment, at the moment when they are made."""
    before = os.environ.get("PUBSUB_EMULATOR_HOST")
    os.environ["PUBSUB_EMULATOR_HOST"] = host
    try:
        yield
    finally:
        if before is None:
            del os.environ["PUBSUB_EMULATOR_HOST"]
        else:
            os.environ["PUBSUB_EMULATOR_HOST"] = before
