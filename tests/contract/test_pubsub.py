"""What Pub/Sub does for Google's unmodified clients: one suite for our local server and for Google's emulator.

Below it, what only our server promises: durability, its command line, and its refusals. The service's own use of
Pub/Sub is tested elsewhere.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import pubsub_v1
from google.protobuf import duration_pb2, field_mask_pb2
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport

from tests.contract.pubsub_servers import EMULATOR_MISSING, EMULATOR_VARIABLE, ChildServer, google_emulator

PROJECT = "test-project"
PATIENCE_SECONDS = 10.0


class Desk:
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
        return list(self.publisher.api.publish(topic=self.topic, messages=messages).message_ids)

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

    def __init__(self, desk: Desk, first: dict[str, Any]) -> None:
        self._requests: queue.SimpleQueue[types.StreamingPullRequest | None] = queue.SimpleQueue()
        self.send(subscription=desk.subscription, **{"stream_ack_deadline_seconds": 60, **first})
        self._call = desk.subscriber.streaming_pull(requests=iter(self._requests.get, None))
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


@pytest.fixture(scope="module", params=["local server", "google emulator"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "local server":
        with ChildServer(tmp_path_factory.mktemp("pubsub") / "pubsub.db", "--exit-with-stdin") as server:
            yield server.address
        return
    script = os.environ.get(EMULATOR_VARIABLE)
    if not script:
        pytest.skip(EMULATOR_MISSING)
    with google_emulator(script) as found:
        yield found


@pytest.fixture
def desk(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
    desk = Desk(address)
    yield desk
    desk.close()


@pytest.fixture
def on_google(request: pytest.FixtureRequest) -> bool:
    return "google" in request.node.callspec.id


def probe(*args):
    print(*args)


def test_probe(desk: Desk, on_google: bool) -> None:
    desk.open()
    def attempt(what, f):
        try:
            r = f()
            print(what, "->", str(r)[:300].replace("\n", " "))
        except Exception as e:
            print(what, "->", type(e).__name__, getattr(e, "message", e))
    P = desk.publisher; S = desk.subscriber
    attempt("create dup", lambda: P.create_topic(name=desk.topic))
    attempt("get missing topic", lambda: P.get_topic(topic=desk.topic_name("none")))
    attempt("get missing sub", lambda: S.get_subscription(subscription=desk.subscription_name("none")))
    attempt("publish missing", lambda: P.api.publish(topic=desk.topic_name("none"), messages=[{"data": b"x"}]))
    attempt("publish empty", lambda: P.api.publish(topic=desk.topic, messages=[{}]))
    attempt("publish none", lambda: P.api.publish(topic=desk.topic, messages=[]))
    attempt("publish 11MB", lambda: P.api.publish(topic=desk.topic, messages=[{"data": b"x" * 11_000_000}]))
    attempt("bad topic name", lambda: P.create_topic(name=f"projects/{PROJECT}/topics/g"))
    attempt("goog topic name", lambda: P.create_topic(name=f"projects/{PROJECT}/topics/goog-x"))
    attempt("bad deadline", lambda: S.create_subscription(request={"name": desk.subscription_name("d"), "topic": desk.topic, "ack_deadline_seconds": 5}))
    attempt("sub missing topic", lambda: S.create_subscription(request={"name": desk.subscription_name("d"), "topic": desk.topic_name("none")}))
    attempt("dup sub", lambda: S.create_subscription(request={"name": desk.subscription, "topic": desk.topic}))
    attempt("get sub", lambda: S.get_subscription(subscription=desk.subscription))
    attempt("get topic", lambda: P.get_topic(topic=desk.topic))
    attempt("ack malformed", lambda: S.acknowledge(subscription=desk.subscription, ack_ids=["nonsense"]))
    attempt("ack none", lambda: S.acknowledge(subscription=desk.subscription, ack_ids=[]))
    attempt("modack 700", lambda: S.modify_ack_deadline(subscription=desk.subscription, ack_ids=["nonsense"], ack_deadline_seconds=700))
    attempt("pull 0", lambda: S.pull(subscription=desk.subscription, max_messages=0))
    attempt("update sub", lambda: S.update_subscription(subscription={"name": desk.subscription, "ack_deadline_seconds": 33}, update_mask={"paths": ["ack_deadline_seconds"]}))
    attempt("update sub topic", lambda: S.update_subscription(subscription={"name": desk.subscription, "topic": desk.topic}, update_mask={"paths": ["topic"]}))
    attempt("update sub nomask", lambda: S.update_subscription(subscription={"name": desk.subscription, "ack_deadline_seconds": 34}))
    attempt("update topic", lambda: P.update_topic(topic={"name": desk.topic, "labels": {"a": "b"}}, update_mask={"paths": ["labels"]}))
    attempt("update sub retry", lambda: S.update_subscription(subscription={"name": desk.subscription, "retry_policy": {}}, update_mask={"paths": ["retry_policy"]}))
    attempt("seek", lambda: S.seek(request={"subscription": desk.subscription, "time": datetime.now(tz=UTC)}))
    attempt("dlq missing topic", lambda: S.create_subscription(request={"name": desk.subscription_name("d"), "topic": desk.topic, "dead_letter_policy": {"dead_letter_topic": desk.topic_name("none")}}))
    dlt = desk.topic_name("dead"); P.create_topic(name=dlt); S.create_subscription(name=desk.subscription_name("dead"), topic=dlt)
    attempt("dlq", lambda: S.create_subscription(request={"name": desk.subscription_name("d2"), "topic": desk.topic, "dead_letter_policy": {"dead_letter_topic": dlt, "max_delivery_attempts": 5}}))
    attempt("dlq 3", lambda: S.create_subscription(request={"name": desk.subscription_name("d3"), "topic": desk.topic, "dead_letter_policy": {"dead_letter_topic": dlt, "max_delivery_attempts": 3}}))
    attempt("goog attr", lambda: P.api.publish(topic=desk.topic, messages=[{"data": b"x", "attributes": {"googx": "1"}}]))
    attempt("ordering", lambda: S.create_subscription(request={"name": desk.subscription_name("o"), "topic": desk.topic, "enable_message_ordering": True}))
    desk.publish("dead")
    for i in range(7):
        try:
            r = desk.pull_until(1, subscription=desk.subscription_name("d2"), within=2)
        except AssertionError as e:
            print("dlq", i, e); break
        print("dlq attempt", i, r[0].delivery_attempt)
        S.modify_ack_deadline(subscription=desk.subscription_name("d2"), ack_ids=[r[0].ack_id], ack_deadline_seconds=0)
    attempt("dead", lambda: desk.pull_until(1, subscription=desk.subscription_name("dead"), within=2)[0].message)
    # ordering
    desk.subscription = desk.subscription_name("o")
    desk.pull()
    desk.publish("a", "b", "c", ordering_key="k")
    r = desk.pull_until(3, within=3); print("ordered pull", texts(r))
    desk.acknowledge([r[-1]]); desk.set_deadline([r[-3]], 0)
    try:
        r2 = desk.pull_until(3, within=2); print("after ack c, nack a:", texts(r2))
    except AssertionError as e: print("after ack c, nack a:", e)
    # pull again while outstanding
    desk.publish("d", "e", ordering_key="k2")
    a = desk.pull(1); b = desk.pull(1); print("two pulls for one key", texts(a), texts(b))
    # wait pull
    desk.subscription = desk.subscription_name("sub")
    t = time.monotonic()
    attempt("drain", lambda: desk.pull())
    attempt("wait pull 3s", lambda: S.pull(subscription=desk.subscription, max_messages=1, timeout=3)); print(time.monotonic() - t)
    for kw in ({"stream_ack_deadline_seconds": 5}, {"stream_ack_deadline_seconds": 0}):
        st = desk.stream(**kw); time.sleep(0.5); print("stream", kw, st.error); st.close()
    st = desk.stream(max_outstanding_messages=3)
    desk.publish(*[str(i) for i in range(10)]); time.sleep(0.5); print("flow", len(st.received))
    st.send(ack_ids=[m.ack_id for m in st.received]); time.sleep(0.5); print("flow after ack", len(st.received))
    st.send(modify_deadline_ack_ids=[m.ack_id for m in st.received[3:]], modify_deadline_seconds=[0] * len(st.received[3:])); time.sleep(0.5); print("after nack", len(st.received))
    st.send(modify_deadline_ack_ids=["x"], modify_deadline_seconds=[]); time.sleep(0.5); print("bad modack", st.error)
    st.close()
    st = desk.stream(); st.send(subscription=desk.subscription); time.sleep(0.5); print("second with sub", st.error); st.close()
    st = desk.stream(); S.delete_subscription(subscription=desk.subscription); time.sleep(0.5); print("deleted", st.error); st.close()
    P.delete_topic(topic=desk.topic)
    attempt("get orphan", lambda: S.get_subscription(subscription=desk.subscription_name("o")))
    attempt("list", lambda: len(list(P.list_topics(project=f"projects/{PROJECT}", ))))
    attempt("filter", lambda: S.create_subscription(request={"name": desk.subscription_name("f"), "topic": dlt, "filter": "attributes:x"}))
    attempt("retry", lambda: S.create_subscription(request={"name": desk.subscription_name("r"), "topic": dlt, "retry_policy": {"minimum_backoff": duration_pb2.Duration(seconds=1)}}))
    desk.topic = dlt; desk.subscription = desk.subscription_name("r"); desk.publish("r")
    r = desk.pull_until(1); desk.set_deadline(r, 0); t = time.monotonic()
    attempt("backoff", lambda: desk.pull_until(1, within=4)); print(time.monotonic() - t)
    # late ack
    desk.subscription = desk.subscription_name("r2"); S.create_subscription(request={"name": desk.subscription, "topic": dlt})
    desk.publish("late"); r = desk.pull_until(1); desk.set_deadline(r, 1); time.sleep(1.5); desk.acknowledge(r); time.sleep(0.2); print("late ack then pull", len(desk.pull()))
    desk.publish("late2"); r = desk.pull_until(1); desk.set_deadline(r, 0); r2 = desk.pull_until(1); desk.acknowledge(r); desk.set_deadline(r2, 0); time.sleep(0.2); print("ack with old id, then pull", len(desk.pull()))
    assert 0
