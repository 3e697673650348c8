"""What Pub/Sub does for Google's unmodified clients: one suite for our local server and for Google's emulator.

Below it, what only our server promises: durability, its command line, and its refusals. The service's own use of
Pub/Sub is tested elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import re
import signal
import sqlite3
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import pubsub_v1
from google.protobuf import duration_pb2
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport
from hypothesis import given
from hypothesis import strategies as st

from simulators.pubsub import rules
from simulators.pubsub.backlog import Backlog, Owed, Receiver
from simulators.pubsub.hub import Hub
from simulators.pubsub.ledger import Ledger, LedgerUnusableError
from simulators.pubsub.server import AddressRefusedError, LocalPubSub, wall_clock_us
from tests.contract.pubsub_servers import EMULATOR_MISSING, ChildServer, emulator_script, google_emulator
from tests.waits import PATIENCE_SECONDS

# Pulling without waiting is what the tests of "nothing comes" need; Google deprecates it for production.
pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning")

PROJECT = "test-project"


class Clients:
    """One test's clients of one server, and a topic with a subscription of its own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.publisher = pubsub_v1.PublisherClient(
            publisher_options=pubsub_v1.types.PublisherOptions(enable_message_ordering=True)
        )
        self.subscriber = pubsub_v1.SubscriberClient()
        self.label = uuid.uuid4().hex[:12]
        self.topic = self.topic_name("topic")
        self.subscription = self.subscription_name("sub")

    def topic_name(self, word: str) -> str:
        return f"projects/{PROJECT}/topics/{word}-{self.label}"

    def subscription_name(self, word: str) -> str:
        return f"projects/{PROJECT}/subscriptions/{word}-{self.label}"

    def open(self, **settings: Any) -> None:
        """Create the topic and its subscription."""
        self.publisher.create_topic(name=self.topic)
        self.subscriber.create_subscription(request={"name": self.subscription, "topic": self.topic, **settings})

    def publish(self, *payloads: str, ordering_key: str = "") -> list[str]:
        """Publish in one request and return the message ids."""
        messages = [{"data": payload.encode(), "ordering_key": ordering_key} for payload in payloads]
        return self.publish_messages(*messages)

    def publish_messages(self, *messages: dict[str, Any], topic: str = "") -> list[str]:
        """One Publish request, without the client's batching."""
        request = types.PublishRequest(topic=topic or self.topic, messages=[types.PubsubMessage(m) for m in messages])
        response = self.publisher.transport.publish(request, timeout=PATIENCE_SECONDS)
        return list(response.message_ids)

    def pull(self, count: int = 100, subscription: str = "") -> list[Any]:
        """What is ready at this moment."""
        request = {
            "subscription": subscription or self.subscription,
            "max_messages": count,
            "return_immediately": True,
        }
        return list(self.subscriber.pull(request=request).received_messages)

    def pull_until(self, count: int, *, subscription: str = "", within: float = PATIENCE_SECONDS) -> list[Any]:
        """Pull until `count` messages have come."""
        received: list[Any] = []
        deadline = time.monotonic() + within
        while len(received) < count and time.monotonic() < deadline:
            received += self.pull(subscription=subscription)
            if len(received) < count:
                time.sleep(0.02)
        assert len(received) >= count, f"only {len(received)} of {count} messages came within {within} s"
        return received

    def acknowledge(self, received: list[Any]) -> None:
        self.subscriber.acknowledge(subscription=self.subscription, ack_ids=[each.ack_id for each in received])

    def set_deadline(self, received: list[Any], seconds: int) -> None:
        self.subscriber.modify_ack_deadline(
            subscription=self.subscription, ack_ids=[each.ack_id for each in received], ack_deadline_seconds=seconds
        )

    def stream(self, **first: Any) -> Stream:
        """A bare StreamingPull call, without the client library's lease keeping."""
        return Stream(self, first)

    def close(self) -> None:
        self.publisher.stop()
        self.publisher.transport.close()
        self.subscriber.close()


class Stream:
    """A StreamingPull call whose messages a thread collects."""

    def __init__(self, clients: Clients, first: dict[str, Any]) -> None:
        self._requests: queue.SimpleQueue[types.StreamingPullRequest | None] = queue.SimpleQueue()
        self.send(subscription=clients.subscription, **{"stream_ack_deadline_seconds": 60, **first})
        self._call = clients.subscriber.streaming_pull(requests=iter(self._requests.get, None))
        self._arrived = threading.Condition()
        self.received: list[Any] = []
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def send(self, **fields: Any) -> None:
        self._requests.put(types.StreamingPullRequest(**fields))

    def wait_for(self, count: int, *, within: float = PATIENCE_SECONDS) -> list[Any]:
        """The messages received so far, once there are `count`."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self.received) >= count or self.error is not None, within)
            assert len(self.received) >= count, f"only {len(self.received)} of {count}; {self.error}"
            return list(self.received)

    def wait_for_error(self) -> Exception:
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.error is not None, PATIENCE_SECONDS), "the stream goes on"
            assert self.error is not None
            return self.error

    def stays_at(self, count: int, *, seconds: float = 0.5) -> None:
        """No further message comes for a while."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self.received) > count, seconds)
            assert len(self.received) == count

    def close(self) -> None:
        self._call.cancel()
        self._requests.put(None)
        self._thread.join(PATIENCE_SECONDS)

    def _collect(self) -> None:
        try:
            for response in self._call:
                with self._arrived:
                    self.received += response.received_messages
                    self._arrived.notify_all()
        except exceptions.GoogleAPICallError as error:
            with self._arrived:
                self.error = error
                self._arrived.notify_all()


def texts(received: list[Any]) -> list[str]:
    return [each.message.data.decode() for each in received]


ENDS_WITHIN_SECONDS = 20
"""Far beyond what a busy machine takes, and far below for ever."""
SERVERS = ["local server", *(["google emulator"] if emulator_script() else [])]


@pytest.fixture(scope="module", params=SERVERS)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "local server":
        with ChildServer(tmp_path_factory.mktemp("pubsub") / "pubsub.db", "--exit-with-stdin") as server:
            yield server.address
        return
    script = emulator_script()
    assert script is not None
    with google_emulator(script) as found:
        yield found


@pytest.fixture
def clients(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clients]:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
    clients = Clients(address)
    yield clients
    clients.close()


@pytest.fixture
def ours_only(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Skips a test on Google's emulator, saying what it lacks."""

    def check(lack: str) -> None:
        if "google" in request.node.callspec.id:
            pytest.skip(f"Google's emulator {lack}")

    return check


# What both must do.


def test_google_emulator_goes_through_the_same_suite() -> None:
    if "google emulator" not in SERVERS:
        pytest.skip(EMULATOR_MISSING)


def test_subscription_lives_from_creation_to_deletion(clients: Clients) -> None:
    clients.open()
    found = clients.subscriber.get_subscription(subscription=clients.subscription)
    assert (found.topic, found.ack_deadline_seconds) == (clients.topic, 10)
    assert found.message_retention_duration == timedelta(days=7)
    listed = clients.subscriber.list_subscriptions(project=f"projects/{PROJECT}")
    assert clients.subscription in [each.name for each in listed]
    clients.subscriber.delete_subscription(subscription=clients.subscription)
    with pytest.raises(exceptions.NotFound):
        clients.subscriber.get_subscription(subscription=clients.subscription)


def test_creating_twice_is_already_exists(clients: Clients) -> None:
    clients.open()
    with pytest.raises(exceptions.AlreadyExists):
        clients.publisher.create_topic(name=clients.topic)
    with pytest.raises(exceptions.AlreadyExists):
        clients.subscriber.create_subscription(name=clients.subscription, topic=clients.topic)


def test_missing_resources_are_not_found(clients: Clients) -> None:
    nowhere = clients.topic_name("nowhere")
    with pytest.raises(grpc.RpcError) as publishing:
        clients.publish_messages({"data": b"lost"}, topic=nowhere)
    assert publishing.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(exceptions.NotFound):
        clients.subscriber.create_subscription(name=clients.subscription, topic=nowhere)
    with pytest.raises(exceptions.NotFound):
        clients.pull()
    with pytest.raises(exceptions.NotFound):
        clients.subscriber.acknowledge(subscription=clients.subscription, ack_ids=["any"])


@pytest.mark.parametrize("bad", ["topics/x", "topics/goog-thing", "topics/1abc", "topics/a b c", "subscriptions/abc"])
def test_bad_topic_name_is_invalid(clients: Clients, bad: str) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        clients.publisher.create_topic(name=f"projects/{PROJECT}/{bad}")


@pytest.mark.parametrize("messages", [[], [{}], [{"data": b"good"}, {"ordering_key": "k"}]])
def test_empty_publish_is_invalid_and_publishes_nothing(clients: Clients, messages: list[dict[str, Any]]) -> None:
    clients.open()
    with pytest.raises(grpc.RpcError) as refused:
        clients.publish_messages(*messages)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert clients.pull() == []


def test_message_keeps_data_attributes_and_key(clients: Clients) -> None:
    clients.open()
    before = datetime.now(tz=UTC) - timedelta(seconds=5)
    [message_id] = clients.publish_messages(
        {"data": b"\x00\xffbytes", "attributes": {"kind": "fill", "empty": ""}, "ordering_key": "AAPL"}
    )
    [received] = clients.pull_until(1)
    message = received.message
    assert (message.data, dict(message.attributes)) == (b"\x00\xffbytes", {"kind": "fill", "empty": ""})
    assert (message.ordering_key, message.message_id) == ("AAPL", message_id)
    assert before < message.publish_time < datetime.now(tz=UTC) + timedelta(seconds=5)


def test_attributes_alone_are_a_message(clients: Clients) -> None:
    clients.open()
    clients.publish_messages({"attributes": {"only": "this"}})
    assert dict(clients.pull_until(1)[0].message.attributes) == {"only": "this"}


def test_message_ids_differ(clients: Clients) -> None:
    clients.open()
    assert len({*clients.publish("a", "b", "c"), *clients.publish("d")}) == 4


def test_subscription_gets_only_what_is_published_after_its_creation(clients: Clients) -> None:
    clients.publisher.create_topic(name=clients.topic)
    clients.publish("before")
    clients.subscriber.create_subscription(name=clients.subscription, topic=clients.topic)
    clients.publish("after")
    assert texts(clients.pull_until(1)) == ["after"]


def test_every_subscription_gets_every_message(clients: Clients) -> None:
    clients.open()
    second = clients.subscription_name("second")
    clients.subscriber.create_subscription(name=second, topic=clients.topic)
    clients.publish("a", "b")
    clients.acknowledge(clients.pull_until(2))
    assert sorted(texts(clients.pull_until(2, subscription=second))) == ["a", "b"]


def test_acknowledged_message_does_not_come_back(clients: Clients) -> None:
    clients.open()
    clients.publish("once")
    received = clients.pull_until(1)
    clients.set_deadline(received, 1)
    clients.acknowledge(received)
    time.sleep(1.3)
    assert clients.pull() == []


def test_acknowledging_twice_is_harmless(clients: Clients) -> None:
    clients.open()
    clients.publish("once")
    received = clients.pull_until(1)
    clients.acknowledge(received)
    clients.acknowledge(received)
    assert clients.pull() == []


def test_pull_takes_no_more_than_asked(clients: Clients) -> None:
    clients.open()
    clients.publish(*map(str, range(5)))
    assert len(clients.pull(2)) <= 2


def test_waiting_pull_returns_when_a_message_comes(clients: Clients) -> None:
    clients.open()
    timer = threading.Timer(0.3, clients.publish, ["late"])
    timer.start()
    started = time.monotonic()
    received: list[Any] = []
    while not received and time.monotonic() - started < PATIENCE_SECONDS:
        received = list(
            clients.subscriber.pull(subscription=clients.subscription, max_messages=5, timeout=4).received_messages
        )
    timer.join()
    assert texts(received) == ["late"]


def test_pull_of_no_messages_is_invalid(clients: Clients) -> None:
    clients.open()
    with pytest.raises(exceptions.InvalidArgument):
        clients.pull(0)


def test_nacked_message_is_at_once_available_again(clients: Clients) -> None:
    clients.open()
    clients.publish("again")
    clients.set_deadline(clients.pull_until(1), 0)
    assert texts(clients.pull_until(1, within=1.0)) == ["again"]


def test_message_comes_back_after_its_deadline_and_not_before(clients: Clients) -> None:
    clients.open()
    clients.publish("again")
    clients.set_deadline(clients.pull_until(1), 1)
    assert clients.pull() == []
    assert texts(clients.pull_until(1, within=3.0)) == ["again"]


def test_extended_lease_holds(clients: Clients) -> None:
    clients.open()
    clients.publish("held")
    received = clients.pull_until(1)
    clients.set_deadline(received, 1)
    clients.set_deadline(received, 60)
    time.sleep(1.3)
    assert clients.pull() == []


def test_stale_ack_id_does_not_settle_the_new_delivery(clients: Clients) -> None:
    clients.open()
    clients.publish("twice")
    first = clients.pull_until(1)
    clients.set_deadline(first, 0)
    second = clients.pull_until(1)
    clients.acknowledge(first)
    clients.set_deadline(second, 0)
    assert texts(clients.pull_until(1)) == ["twice"]


def test_nonsense_ack_id_is_invalid(clients: Clients) -> None:
    clients.open()
    with pytest.raises(exceptions.InvalidArgument):
        clients.subscriber.acknowledge(subscription=clients.subscription, ack_ids=["nonsense"])
    with pytest.raises(exceptions.InvalidArgument):
        clients.subscriber.acknowledge(subscription=clients.subscription, ack_ids=[])


def test_client_library_receives_and_acknowledges_everything(clients: Clients) -> None:
    clients.open()
    expected = {f"order {number}" for number in range(300)}
    seen: list[str] = []
    complete = threading.Event()

    def receive(message: Any) -> None:
        seen.append(message.data.decode())
        message.ack()
        if len(set(seen)) == len(expected):
            complete.set()

    pulling = clients.subscriber.subscribe(clients.subscription, callback=receive)
    for future in [clients.publisher.publish(clients.topic, text.encode()) for text in sorted(expected)]:
        future.result(PATIENCE_SECONDS)
    assert complete.wait(PATIENCE_SECONDS)
    pulling.cancel()
    pulling.result(PATIENCE_SECONDS)
    assert sorted(seen) == sorted(expected)
    assert clients.pull() == []


def test_message_nacked_in_the_client_library_comes_again(clients: Clients) -> None:
    clients.open()
    deliveries: queue.SimpleQueue[str] = queue.SimpleQueue()
    refused = threading.Event()

    def receive(message: Any) -> None:
        deliveries.put(message.message_id)
        if refused.is_set():
            message.ack()
        else:
            refused.set()
            message.nack()

    pulling = clients.subscriber.subscribe(clients.subscription, callback=receive)
    [message_id] = clients.publish("again")
    assert [deliveries.get(timeout=PATIENCE_SECONDS) for _ in range(2)] == [message_id, message_id]
    pulling.cancel()
    pulling.result(PATIENCE_SECONDS)


async def test_asyncio_clients_publish_and_pull(address: str, clients: Clients) -> None:
    clients.open()
    async with grpc.aio.insecure_channel(address) as channel:
        publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel))
        subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel))
        await publisher.publish(topic=clients.topic, messages=[types.PubsubMessage(data=b"async")])
        response = await subscriber.pull(subscription=clients.subscription, max_messages=1, timeout=PATIENCE_SECONDS)
        assert texts(list(response.received_messages)) == ["async"]
        await subscriber.acknowledge(
            subscription=clients.subscription, ack_ids=[response.received_messages[0].ack_id], timeout=PATIENCE_SECONDS
        )
    assert clients.pull() == []


def test_stream_takes_acks_nacks_and_heartbeats(clients: Clients) -> None:
    clients.open()
    stream = clients.stream()
    stream.send()
    clients.publish("keep")
    [kept] = stream.wait_for(1)
    stream.send(ack_ids=[kept.ack_id])
    clients.publish("refuse")
    refused = stream.wait_for(2)[1]
    stream.send(modify_deadline_ack_ids=[refused.ack_id], modify_deadline_seconds=[0])
    again = stream.wait_for(3)
    assert texts(again) == ["keep", "refuse", "refuse"]
    stream.send(ack_ids=[again[2].ack_id])
    stream.stays_at(3)
    stream.close()
    assert clients.pull() == []


def test_streams_share_a_subscription_without_duplicates(clients: Clients) -> None:
    clients.open()
    streams = [clients.stream() for _ in range(3)]
    expected = [f"{number:03}" for number in range(60)]
    for text in expected:
        clients.publish(text)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while sum(len(stream.received) for stream in streams) < len(expected) and time.monotonic() < deadline:
        time.sleep(0.02)
    received = [each for stream in streams for each in stream.received]
    clients.acknowledge(received)
    for stream in streams:
        stream.close()
    assert sorted(texts(received)) == expected


@pytest.mark.parametrize("seconds", [0, 9, 601])
def test_stream_deadline_out_of_range_is_invalid(clients: Clients, seconds: int) -> None:
    clients.open()
    stream = clients.stream(stream_ack_deadline_seconds=seconds)
    assert isinstance(stream.wait_for_error(), exceptions.InvalidArgument)


def test_unequal_lists_in_a_stream_are_invalid(clients: Clients) -> None:
    clients.open()
    stream = clients.stream()
    stream.send(modify_deadline_ack_ids=["one"], modify_deadline_seconds=[])
    assert isinstance(stream.wait_for_error(), exceptions.InvalidArgument)


def test_stream_of_a_missing_subscription_is_not_found(clients: Clients) -> None:
    assert isinstance(clients.stream().wait_for_error(), exceptions.NotFound)


def test_deleting_a_subscription_ends_its_streams(clients: Clients) -> None:
    clients.open()
    stream = clients.stream()
    clients.publish("open")
    stream.wait_for(1)
    clients.subscriber.delete_subscription(subscription=clients.subscription)
    assert isinstance(stream.wait_for_error(), exceptions.NotFound)


# What Google's service does and its emulator does not.


def test_refusals_name_the_resource(clients: Clients, ours_only: Callable[[str], None]) -> None:
    ours_only("does not name every resource")
    clients.open()
    with pytest.raises(exceptions.AlreadyExists, match=clients.topic):
        clients.publisher.create_topic(name=clients.topic)
    with pytest.raises(exceptions.NotFound, match=clients.topic_name("none")):
        clients.publisher.get_topic(topic=clients.topic_name("none"))


def test_too_large_publish_is_invalid(clients: Clients, ours_only: Callable[[str], None]) -> None:
    ours_only("cuts the connection instead")
    clients.open()
    with pytest.raises(grpc.RpcError) as refused:
        clients.publish_messages({"data": b"x" * 10_000_001})
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert clients.publish_messages({"data": b"x" * 9_900_000})


def test_stream_gets_no_more_messages_than_it_may_hold(clients: Clients, ours_only: Callable[[str], None]) -> None:
    ours_only("has no flow control in its streams")
    clients.open()
    clients.publish(*map(str, range(6)))
    stream = clients.stream(max_outstanding_messages=2)
    held = stream.wait_for(2)
    stream.stays_at(2)
    stream.send(ack_ids=[held[0].ack_id])
    stream.wait_for(3)
    stream.stays_at(3, seconds=0.2)
    clients.set_deadline([held[1]], 0)
    stream.wait_for(4)
    stream.close()


@pytest.mark.parametrize("seconds", [5, 601])
def test_ack_deadline_out_of_range_is_invalid(clients: Clients, seconds: int, ours_only: Callable[[str], None]) -> None:
    ours_only("takes any deadline")
    clients.publisher.create_topic(name=clients.topic)
    with pytest.raises(exceptions.InvalidArgument):
        clients.subscriber.create_subscription(
            request={"name": clients.subscription, "topic": clients.topic, "ack_deadline_seconds": seconds}
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"filter": 'attributes.kind = "fill"'},
        {"enable_message_ordering": True},
        {"retain_acked_messages": True},
        {"retry_policy": {"minimum_backoff": {"seconds": 1}}},
        {"dead_letter_policy": {"dead_letter_topic": f"projects/{PROJECT}/topics/dead"}},
        {"enable_exactly_once_delivery": True},
        {"push_config": {"push_endpoint": "http://127.0.0.1/push"}},
        {"bigquery_config": {"table": "p.d.t"}},
        {"cloud_storage_config": {"bucket": "b"}},
        {"expiration_policy": {"ttl": duration_pb2.Duration(seconds=86400)}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_unsupported_subscription_is_refused_by_name(
    clients: Clients, settings: dict[str, Any], ours_only: Callable[[str], None]
) -> None:
    ours_only("has other limits")
    clients.publisher.create_topic(name=clients.topic)
    with pytest.raises(exceptions.MethodNotImplemented, match=next(iter(settings))):
        clients.subscriber.create_subscription(
            request={"name": clients.subscription, "topic": clients.topic, **settings}
        )
    with pytest.raises(exceptions.NotFound):
        clients.subscriber.get_subscription(subscription=clients.subscription)


@pytest.mark.parametrize(
    "settings",
    [{"schema_settings": {"schema": "projects/p/schemas/s"}}, {"message_retention_duration": {"seconds": 600}}],
    ids=lambda settings: next(iter(settings)),
)
def test_unsupported_topic_is_refused_by_name(
    clients: Clients, settings: dict[str, Any], ours_only: Callable[[str], None]
) -> None:
    ours_only("has other limits")
    with pytest.raises(exceptions.MethodNotImplemented, match=next(iter(settings))):
        clients.publisher.create_topic(request={"name": clients.topic, **settings})


def test_unsupported_methods_are_refused_by_name(clients: Clients, ours_only: Callable[[str], None]) -> None:
    ours_only("has other limits")
    clients.open()
    with pytest.raises(exceptions.MethodNotImplemented, match=r"Subscriber\.CreateSnapshot"):
        clients.subscriber.create_snapshot(
            name=f"projects/{PROJECT}/snapshots/snap", subscription=clients.subscription, timeout=5
        )
    with pytest.raises(exceptions.MethodNotImplemented, match=r"Subscriber\.Seek"):
        clients.subscriber.seek(request={"subscription": clients.subscription}, timeout=5)
    with pytest.raises(exceptions.MethodNotImplemented, match=r"Publisher\.DetachSubscription"):
        clients.publisher.detach_subscription(request={"subscription": clients.subscription}, timeout=5)


# What only our server promises.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pubsub.db"


@contextmanager
def clients_at(address: str, monkeypatch: pytest.MonkeyPatch, like: Clients | None = None) -> Iterator[Clients]:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
    clients = Clients(address)
    if like is not None:
        clients.topic, clients.subscription, clients.label = like.topic, like.subscription, like.label
    try:
        yield clients
    finally:
        clients.close()


def test_nothing_published_is_lost_by_kill_9(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[str] = []
    with ChildServer(path) as server, clients_at(server.address, monkeypatch) as first:
        first.open()

        def publish_until_killed() -> None:
            with contextlib.suppress(grpc.RpcError):
                while True:
                    answered.extend(first.publish(*(str(len(answered) + number) for number in range(5))))

        publishing = threading.Thread(target=publish_until_killed)
        publishing.start()
        assert len(first.pull_until(50)) >= 50
        server.kill()
        publishing.join(PATIENCE_SECONDS)
    with ChildServer(path) as server, clients_at(server.address, monkeypatch, like=first) as second:
        received = second.pull_until(len(answered))
    assert set(answered) <= {each.message.message_id for each in received}


def test_acknowledged_messages_stay_gone_and_leases_do_not_survive(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ChildServer(path) as server, clients_at(server.address, monkeypatch) as first:
        first.open(ack_deadline_seconds=600)
        first.publish("done", "held")
        received = {each.message.data: each for each in first.pull_until(2)}
        first.acknowledge([received[b"done"]])
        assert server.terminate() == 0
    with ChildServer(path) as server, clients_at(server.address, monkeypatch, like=first) as second:
        again = second.pull_until(1)
        assert texts(again) == ["held"]
        second.acknowledge([received[b"held"]])
        second.set_deadline(again, 0)
        assert texts(second.pull_until(1)) == ["held"], "an ack id of the earlier run settled a delivery of this one"


def test_resources_and_messages_survive_a_restart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ChildServer(path) as server, clients_at(server.address, monkeypatch) as first:
        first.open(ack_deadline_seconds=33, message_retention_duration={"seconds": 600})
        first.publish("a", "b")
        before = first.subscriber.get_subscription(subscription=first.subscription)
        assert server.terminate() == 0
    with ChildServer(path) as server, clients_at(server.address, monkeypatch, like=first) as second:
        assert second.subscriber.get_subscription(subscription=first.subscription) == before
        received = second.pull_until(2)
        assert texts(received) == ["a", "b"]
        assert int(second.publish("c")[0]) > int(received[1].message.message_id)


def test_file_of_a_version_with_more_features_is_served_without_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ChildServer(path) as server, clients_at(server.address, monkeypatch) as first:
        first.open()
        first.publish("acknowledged and kept", "owed")
        found = first.subscriber.get_subscription(subscription=first.subscription)
        assert server.terminate() == 0
    found.enable_message_ordering = True
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as earlier:
        earlier.execute("UPDATE subscriptions SET resource = ?", (types.Subscription.serialize(found),))
        earlier.execute("UPDATE owed SET acknowledged = 1 WHERE message = (SELECT min(message) FROM owed)")
        earlier.execute("UPDATE owed SET failures = 3")
    with ChildServer(path) as server, clients_at(server.address, monkeypatch, like=first) as second:
        assert texts(second.pull_until(1)) == ["owed"]
        server.process.terminate()
        assert "without its ['enable_message_ordering']" in server.stderr.read()


def test_command_line_says_one_line_and_creates_what_is_missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ("--project", "clients", "--topic", "orders", "--subscription", "orders-sub=orders")
    for _ in range(2):
        with ChildServer(path, *wanted) as server, clients_at(server.address, monkeypatch) as clients:
            assert re.fullmatch(r"Pub/Sub listening on 127\.0\.0\.1:\d+", server.first_line)
            found = clients.subscriber.get_subscription(subscription="projects/clients/subscriptions/orders-sub")
            assert found.topic == "projects/clients/topics/orders"
            server.process.terminate()
            rest, errors = server.process.communicate(timeout=ENDS_WITHIN_SECONDS)
            assert (rest, errors, server.process.returncode) == ("", "", 0)


def test_server_ends_with_its_standard_input(path: Path) -> None:
    with ChildServer(path, "--exit-with-stdin") as server:
        server.stdin.close()
        assert server.process.wait(timeout=ENDS_WITHIN_SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_busy_server_in_time(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    with ChildServer(path) as server, clients_at(server.address, monkeypatch) as clients:
        clients.open()
        stream = clients.stream()
        clients.publish("held")
        stream.wait_for(1)
        server.process.send_signal(number)
        assert server.process.wait(timeout=ENDS_WITHIN_SECONDS) == 0
        assert isinstance(stream.wait_for_error(), exceptions.ServiceUnavailable)


def test_second_server_on_one_file_is_refused(path: Path) -> None:
    with ChildServer(path), ChildServer(path) as second:
        assert second.process.wait(timeout=ENDS_WITHIN_SECONDS) == 1
        assert "two servers cannot share one file" in second.stderr.read()


def test_taken_port_is_refused(path: Path, tmp_path: Path) -> None:
    with ChildServer(path) as first:
        port = first.address.rpartition(":")[2]
        with ChildServer(tmp_path / "other.db", "--port", port) as second:
            assert second.process.wait(timeout=ENDS_WITHIN_SECONDS) == 1
            assert f"127.0.0.1:{port}" in second.stderr.read()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.com", "::"])
def test_host_that_is_not_loopback_is_refused(path: Path, host: str) -> None:
    with pytest.raises(AddressRefusedError, match="loopback"):
        asyncio.run(LocalPubSub(path=path, host=host).start())
    assert not path.exists()


def test_files_are_for_their_owner_only(path: Path) -> None:
    path.touch(mode=0o644)
    with ChildServer(path, "--topic", "orders"):
        modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()}
    assert set(modes) >= {"pubsub.db", "pubsub.db-wal", "pubsub.db.lock"}
    assert set(modes.values()) == {0o600}


def test_link_in_place_of_the_file_is_refused(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(b"precious")
    path.symlink_to(target)
    with pytest.raises(LedgerUnusableError):
        asyncio.run(LocalPubSub(path=path).start())
    assert target.read_bytes() == b"precious"


def test_file_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs(x)")
    content = path.read_bytes()
    with pytest.raises(LedgerUnusableError, match="not a file of this"):
        asyncio.run(LocalPubSub(path=path).start())
    assert path.read_bytes() == content


class InProcess:
    """A server in this process and bare asyncio clients of it."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.server = LocalPubSub(path=path, **options)

    async def __aenter__(self) -> InProcess:
        port = await self.server.start()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=self.channel))
        self.subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=self.channel))
        await self.server.ensure("clients", topics=["orders"], subscriptions=[("orders-sub", "orders")])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.server.stop()

    async def publish(self, *payloads: bytes) -> None:
        messages = [types.PubsubMessage(data=payload) for payload in payloads]
        await self.publisher.publish(topic="projects/clients/topics/orders", messages=messages, retry=None, timeout=5)

    async def pull(self, count: int = 1000) -> list[Any]:
        request = {
            "subscription": "projects/clients/subscriptions/orders-sub",
            "max_messages": count,
            "return_immediately": True,
        }
        return list((await self.subscriber.pull(request=request, timeout=5)).received_messages)


async def test_message_past_its_retention_is_not_delivered(path: Path) -> None:
    async with InProcess(path) as service:
        await service.publish(b"old")
    eight_days_us = 8 * 86_400 * 1_000_000
    async with InProcess(path, now_us=lambda: wall_clock_us() + eight_days_us) as service:
        await service.publish(b"new")
        assert [each.message.data for each in await service.pull()] == [b"new"]


@pytest.mark.parametrize("jump_seconds", [-3600, 3600])
async def test_wall_clock_jump_does_not_touch_leases(path: Path, jump_seconds: int) -> None:
    offset_us = 0
    async with InProcess(path, now_us=lambda: wall_clock_us() + offset_us) as service:
        await service.publish(b"held", b"short")
        held, short = await service.pull()
        offset_us = jump_seconds * 1_000_000
        await service.subscriber.modify_ack_deadline(
            subscription="projects/clients/subscriptions/orders-sub", ack_ids=[short.ack_id], ack_deadline_seconds=1
        )
        assert await service.pull() == []
        response = await service.subscriber.pull(
            subscription="projects/clients/subscriptions/orders-sub", max_messages=10, timeout=8
        )
        assert [each.message.data for each in response.received_messages] == [b"short"]
        assert held.message.message_id != response.received_messages[0].message.message_id


async def test_publish_that_cannot_be_written_is_refused_and_not_delivered(path: Path) -> None:
    async with InProcess(path) as service:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as saboteur:
            saboteur.execute(
                "CREATE TRIGGER full BEFORE INSERT ON owed WHEN NEW.size > 500"
                " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
            )
        outcomes = await asyncio.gather(service.publish(b"x" * 1000), service.publish(b"small"), return_exceptions=True)
        assert isinstance(outcomes[0], exceptions.ServiceUnavailable)
        assert outcomes[1] is None
        assert [each.message.data for each in await service.pull()] == [b"small"]


async def test_what_was_begun_to_be_created_is_there_though_its_caller_has_hung_up(path: Path) -> None:
    """The file and the running server must not differ about it."""
    ledger = Ledger(path)
    contents = await ledger.open()
    hub = Hub(ledger, now_us=wall_clock_us)
    hub.load(contents)
    name = "projects/local/topics/orders"
    caller = asyncio.create_task(hub.create_topic(rules.Topic(name=name)))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait({caller})
    assert caller.cancelled()
    await ledger.run(lambda connection: None)
    assert hub.topic(name).name == name
    with pytest.raises(rules.RefusedError):
        await hub.create_topic(rules.Topic(name=name))
    await hub.stop()
    await ledger.close()


async def test_waiting_publishes_share_one_commit(path: Path) -> None:
    ledger = Ledger(path)
    await ledger.open()
    commits: list[str] = []
    gate, started = threading.Event(), threading.Event()

    def hold(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
        started.set()
        gate.wait(PATIENCE_SECONDS)

    holding = asyncio.create_task(ledger.run(hold))
    await asyncio.to_thread(started.wait, PATIENCE_SECONDS)
    committed: list[int] = []
    inserts = [
        asyncio.create_task(ledger.insert([(1, number, 0, "", 1, b"x")], on_commit=partial(committed.append, number)))
        for number in range(20)
    ]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(holding, *inserts)
    await ledger.close()
    assert committed == list(range(20))
    assert len(commits) == 2


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "take", "ack", "nack", "lapse", "extend"]), st.integers(0, 50)), max_size=60
)


@given(operations=OPERATIONS)
def test_backlog_loses_nothing_and_settles_nothing_twice(operations: list[tuple[str, int]]) -> None:
    backlog = Backlog()
    receiver = Receiver()
    now, added = 0.0, 0
    done: list[int] = []
    out: dict[int, int] = {}

    def take(limit: int) -> None:
        for owed in backlog.take(receiver, now=now, deadline_seconds=10, max_messages=limit, max_bytes=10**6):
            assert owed.message_id not in done
            out[owed.message_id] = owed.generation

    def acknowledge(message_id: int) -> None:
        if backlog.acknowledge(message_id, out.pop(message_id)):
            done.append(message_id)

    for operation, number in operations:
        if operation == "add":
            added += 1
            backlog.add(Owed(added, 0, b"0123456789"))
        elif operation == "take":
            take(number % 4 + 1)
        elif operation == "lapse":
            now += number
            backlog.expire(now)
        elif out:
            message_id = sorted(out)[number % len(out)]
            if operation == "ack":
                acknowledge(message_id)
            elif operation == "nack":
                backlog.refuse(message_id, out.pop(message_id))
            else:
                backlog.extend(message_id, out[message_id], now=now, seconds=number)
    for _ in range(3 * added + 1):
        now += 100
        backlog.expire(now)
        take(100)
        for message_id in sorted(out):
            acknowledge(message_id)
    assert sorted(done) == list(range(1, added + 1))
    assert (len(backlog), receiver.held) == (0, 0)
