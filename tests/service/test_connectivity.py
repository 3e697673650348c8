"""A part of the outside that stops answering is said once, and so is its return."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.iam.v1 import iam_policy_pb2
from structlog.testing import capture_logs

from execution_service.app.clock import SystemClock
from execution_service.runtime.clock import Clock
from execution_service.runtime.connectivity import Connectivity
from execution_service.transport.ports import TopicMissing
from execution_service.transport.pubsub import KEEP_ALIVE, GooglePublisher, GoogleSubscriber
from tests.external.proxy import Mood, Proxy
from tests.external.service_process import ORDERS_SUBSCRIPTION, ORDERS_TOPIC, PROJECT, pubsub_server
from tests.fakes import HandClock, world_of


def sentences(logs: Sequence[MutableMapping[str, Any]], *actions: str) -> list[str]:
    return [str(line["event"]) for line in logs if line.get("action") in actions]


def test_silence_is_said_once_and_the_return_with_its_length() -> None:
    clock = HandClock()
    with capture_logs() as logs:
        connectivity = Connectivity("The store", clock)
        connectivity.answers()
        connectivity.fails("connection refused")
        clock.move_to(clock.monotonic() + 7)
        connectivity.fails("timed out")
        connectivity.answers()
        connectivity.answers()
        connectivity.fails("timed out")
    assert sentences(logs, "part_silent", "part_answers") == [
        "The store does not answer: connection refused",
        "The store answers again, after 7 s",
        "The store does not answer: timed out",
    ]


async def test_telegrams_return_is_said(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        with capture_logs() as logs:
            world.notifier.is_away = True
            world.send()
            await world.run(10)
            assert sentences(logs, "telegram_failed")
            assert not sentences(logs, "telegram_answers")
            world.notifier.is_away = False
            await world.run(60)
        assert sentences(logs, "telegram_answers") == ["Telegram message sent after all"]


class LastReported(Connectivity):
    """Lets a test wait for what is told."""

    def __init__(self, name: str, clock: Clock) -> None:
        super().__init__(name, clock)
        self.failed, self.answered = asyncio.Event(), asyncio.Event()

    def fails(self, why: str) -> None:
        super().fails(why)
        self.failed.set()

    def answers(self) -> None:
        super().answers()
        self.answered.set()


async def test_pubsub_that_is_gone_is_noticed_without_any_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = pubsub_server(tmp_path)
    host = f"127.0.0.1:{server.port}"
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", host)
    monkeypatch.setattr("execution_service.transport.pubsub.WATCH_SECONDS", 0.05)
    clock = SystemClock()
    heard = LastReported("Pub/Sub", clock)
    subscriber = GoogleSubscriber(PROJECT, ORDERS_SUBSCRIPTION, emulator_host=host, clock=clock, connectivity=heard)
    with capture_logs() as logs:
        watch = asyncio.create_task(subscriber.watch())
        async with asyncio.timeout(60):
            await heard.failed.wait()
            with server:
                await heard.answered.wait()
        watch.cancel()
    await subscriber.close()
    told = sentences(logs, "part_silent", "part_answers")
    assert told[0].startswith("Pub/Sub does not answer: ")
    assert told[1].startswith("Pub/Sub answers again, after ")


async def test_a_connection_to_pubsub_that_died_in_silence_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("execution_service.transport.pubsub.WATCH_SECONDS", 0.05)
    swift = [(name, 500) for name, _ in KEEP_ALIVE]
    monkeypatch.setattr("execution_service.transport.pubsub.KEEP_ALIVE", swift)
    clock = SystemClock()
    heard = LastReported("Pub/Sub", clock)
    with pubsub_server(tmp_path) as server, Proxy(server.port) as proxy:
        host = f"127.0.0.1:{proxy.port}"
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", host)
        subscriber = GoogleSubscriber(PROJECT, ORDERS_SUBSCRIPTION, emulator_host=host, clock=clock, connectivity=heard)
        watch = asyncio.create_task(subscriber.watch())
        async with asyncio.timeout(60):
            await heard.answered.wait()
            heard.failed.clear()
            proxy.be(Mood.FORGOTTEN)
            await heard.failed.wait()
            heard.answered.clear()
            await heard.answered.wait()
        watch.cancel()
        await subscriber.close()


async def test_a_message_larger_than_a_channels_own_limit_does_not_stop_those_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SystemClock()
    sizes = [5 * 1024 * 1024, 5]
    with pubsub_server(tmp_path) as server:
        host = f"127.0.0.1:{server.port}"
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", host)
        connectivity = Connectivity("Pub/Sub", clock)
        publisher = GooglePublisher(
            PROJECT, ORDERS_TOPIC, emulator_host=host, connectivity=connectivity, uses_ordering_keys=False
        )
        subscriber = GoogleSubscriber(
            PROJECT, ORDERS_SUBSCRIPTION, emulator_host=host, clock=clock, connectivity=connectivity
        )
        pull = asyncio.create_task(subscriber.run())
        for size in sizes:
            await publisher.publish(b"x" * size, {}, "")
        async with asyncio.timeout(60):
            heard = [await subscriber.messages.get() for _ in sizes]
        assert sorted(len(message.data) for message in heard) == sorted(sizes)
        pull.cancel()
        await asyncio.gather(pull, return_exceptions=True)
        await publisher.close()
        await subscriber.close()


class Grants(grpc.GenericRpcHandler):
    """A Pub/Sub that lets nobody look, and says which permissions the caller has."""

    def __init__(self, *granted: str) -> None:
        self.granted = granted
        self.looked = threading.Semaphore(0)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        is_test = details.method == "/google.iam.v1.IAMPolicy/TestIamPermissions"
        return grpc.unary_unary_rpc_method_handler(self._tell if is_test else self._refuse)

    def _tell(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        asked = iam_policy_pb2.TestIamPermissionsRequest.FromString(request).permissions
        permissions = [permission for permission in asked if permission in self.granted]
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=permissions).SerializeToString()

    def _refuse(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.looked.release()
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "User not authorized to perform this action.")
        raise AssertionError("abort always raises")


@contextlib.contextmanager
def strict_pubsub(*granted: str) -> Iterator[tuple[str, Grants]]:
    grants = Grants(*granted)
    server = grpc.server(ThreadPoolExecutor(2), handlers=[grants])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", grants
    finally:
        server.stop(None)


@pytest.mark.parametrize("is_granted", [True, False])
async def test_the_right_to_use_a_subscription_and_a_topic_suffices_without_the_right_to_look(
    monkeypatch: pytest.MonkeyPatch, is_granted: bool
) -> None:
    clock = SystemClock()
    connectivity = Connectivity("Pub/Sub", clock)
    rights = ("pubsub.subscriptions.consume", "pubsub.topics.publish") if is_granted else ("pubsub.topics.list",)
    with strict_pubsub(*rights) as (host, _):
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", host)
        publisher = GooglePublisher(
            PROJECT, ORDERS_TOPIC, emulator_host=host, connectivity=connectivity, uses_ordering_keys=False
        )
        subscriber = GoogleSubscriber(
            PROJECT, ORDERS_SUBSCRIPTION, emulator_host=host, clock=clock, connectivity=connectivity
        )
        for part in (publisher, subscriber):
            with contextlib.nullcontext() if is_granted else pytest.raises(TopicMissing, match="not authorized"):
                await part.check()
        await publisher.close()
        await subscriber.close()


async def test_a_subscription_that_may_no_longer_be_used_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("execution_service.transport.pubsub.WATCH_SECONDS", 0.01)
    clock = SystemClock()
    with strict_pubsub() as (host, grants), capture_logs() as logs:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", host)
        connectivity = Connectivity("Pub/Sub", clock)
        subscriber = GoogleSubscriber(
            PROJECT, ORDERS_SUBSCRIPTION, emulator_host=host, clock=clock, connectivity=connectivity
        )
        watch = asyncio.create_task(subscriber.watch())
        for _ in range(4):
            assert await asyncio.to_thread(grants.looked.acquire, timeout=30)
        watch.cancel()
        await subscriber.close()
    assert len(sentences(logs, "pubsub_refuses")) == 1
    assert not sentences(logs, "part_silent")
