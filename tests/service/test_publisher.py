"""Publishing to a Pub/Sub that takes its time, fails for a moment, or does not answer at all."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.pubsub_v1 import PublishRequest, PublishResponse

from execution_service.app.clock import SystemClock
from execution_service.runtime.connectivity import Connectivity
from execution_service.transport.ports import PublishFailed
from execution_service.transport.pubsub import PASSING, REQUESTS_AT_ONCE, GooglePublisher

WAIT_SECONDS = 20.0


class Server(grpc.GenericRpcHandler):
    """Takes publications when it is let, and remembers what came in which request."""

    def __init__(self) -> None:
        self.requests: list[list[tuple[bytes, str]]] = []
        self.refusals: list[grpc.StatusCode] = []
        """What the next requests are answered with."""
        self.never_taken: set[bytes] = set()
        """What stands in each request that is refused."""
        self.came = threading.Semaphore(0)
        self.answers = threading.Event()
        self.answers.set()
        self.host = ""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(self._publish)

    def _publish(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        messages = PublishRequest.deserialize(data).messages
        self.requests.append([(message.data, message.ordering_key) for message in messages])
        self.came.release()
        self.answers.wait(WAIT_SECONDS)
        if self.never_taken & {message.data for message in messages}:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not by the topic's schema")
        if self.refusals:
            context.abort(self.refusals.pop(0), "as it was told")
        return bytes(PublishResponse.serialize(PublishResponse(message_ids=["1"] * len(messages))))


@pytest.fixture
def server() -> Iterator[Server]:
    pubsub = Server()
    with ThreadPoolExecutor(2 * REQUESTS_AT_ONCE) as threads:
        real = grpc.server(threads)
        real.add_generic_rpc_handlers((pubsub,))
        pubsub.host = f"127.0.0.1:{real.add_insecure_port('127.0.0.1:0')}"
        real.start()
        yield pubsub
        pubsub.answers.set()
        real.stop(None).wait()


@contextlib.asynccontextmanager
async def publishing(host: str, *, uses_ordering_keys: bool = False) -> AsyncIterator[GooglePublisher]:
    connectivity = Connectivity("Pub/Sub", SystemClock())
    publisher = GooglePublisher(
        "p", "t", emulator_host=host, connectivity=connectivity, uses_ordering_keys=uses_ordering_keys
    )
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            yield publisher
    finally:
        await publisher.close()


async def test_what_is_published_in_one_moment_travels_together(server: Server) -> None:
    async with publishing(server.host) as publisher:
        await asyncio.gather(*(publisher.publish(f"{n}".encode(), {}, "") for n in range(5)))
    assert [[data for data, _ in request] for request in server.requests] == [[b"0", b"1", b"2", b"3", b"4"]]


async def test_what_comes_while_many_requests_are_under_way_leaves_together_when_one_is_answered(
    server: Server,
) -> None:
    server.answers.clear()
    async with publishing(server.host) as publisher:
        first = []
        for number in range(REQUESTS_AT_ONCE):
            first.append(asyncio.create_task(publisher.publish(f"{number}".encode(), {}, "")))
            assert await asyncio.to_thread(server.came.acquire, timeout=WAIT_SECONDS)
        later = [asyncio.create_task(publisher.publish(b"later", {}, "")) for _ in range(7)]
        await asyncio.sleep(0)
        server.answers.set()
        await asyncio.gather(*first, *later)
    assert [len(request) for request in server.requests] == [1] * REQUESTS_AT_ONCE + [7]


async def test_a_request_carries_messages_of_one_ordering_key(server: Server) -> None:
    async with publishing(server.host, uses_ordering_keys=True) as publisher:
        keys = ("a", "a", "b", "a")
        await asyncio.gather(*(publisher.publish(b"x", {}, key) for key in keys))
    assert sorted([key for _, key in request] for request in server.requests) == [["a"], ["a", "a"], ["b"]]


async def test_a_passing_trouble_of_the_server_is_nobodys_affair(server: Server) -> None:
    server.refusals = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
    async with publishing(server.host) as publisher:
        await publisher.publish(b"x", {}, "")
    assert [[data for data, _ in request] for request in server.requests] == [[b"x"]] * 3


async def test_a_refusal_is_for_the_caller_who_may_try_again(server: Server) -> None:
    server.refusals = [grpc.StatusCode.PERMISSION_DENIED]
    async with publishing(server.host) as publisher:
        with pytest.raises(PublishFailed, match="as it was told"):
            await publisher.publish(b"x", {}, "")
        await publisher.publish(b"y", {}, "")
    assert [[data for data, _ in request] for request in server.requests] == [[b"x"], [b"y"]]


async def test_a_message_that_is_never_taken_keeps_none_that_travel_with_it(server: Server) -> None:
    server.never_taken = {b"odd"}
    async with publishing(server.host) as publisher:
        sent = [publisher.publish(data, {}, "") for data in (b"before", b"odd", b"behind")]
        before, odd, behind = await asyncio.gather(*sent, return_exceptions=True)
    assert (before, behind) == (None, None)
    assert isinstance(odd, PublishFailed)
    assert [len(request) for request in server.requests] == [3, 1, 1, 1]


async def test_no_answer_is_a_failure_in_bounded_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("execution_service.transport.pubsub.PUBLISH_SECONDS", 0.05)
    monkeypatch.setattr("execution_service.transport.pubsub.PASSING", PASSING.with_timeout(0.1))
    server.answers.clear()
    async with publishing(server.host) as publisher:
        with pytest.raises(PublishFailed, match=r"Deadline|Timeout"):
            await publisher.publish(b"x", {}, "")
        server.answers.set()


async def test_what_was_given_up_is_not_sent_any_more(server: Server) -> None:
    async with publishing(server.host) as publisher:
        given_up = asyncio.create_task(publisher.publish(b"given up", {}, ""))
        kept = asyncio.create_task(publisher.publish(b"kept", {}, ""))
        await asyncio.sleep(0)
        given_up.cancel()
        await kept
    assert [[data for data, _ in request] for request in server.requests] == [[b"kept"]]


async def test_publishing_after_the_end_fails(server: Server) -> None:
    async with publishing(server.host) as publisher:
        pass
    with pytest.raises(PublishFailed):
        await publisher.publish(b"x", {}, "")
