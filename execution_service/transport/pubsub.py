"""Google Pub/Sub: the subscriber, whose threads hop to the event loop, and the publisher; the only room that names a topic path."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import grpc
import structlog
from google.api_core.exceptions import (
    Aborted,
    GoogleAPICallError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RetryError,
    ServerError,
)
from google.api_core.retry import Retry, if_exception_type
from google.auth.exceptions import GoogleAuthError
from google.cloud import pubsub_v1
from google.cloud.pubsub_v1.subscriber.message import Message as GoogleMessage
from google.cloud.pubsub_v1.subscriber.scheduler import Scheduler
from google.pubsub_v1 import PublisherClient, PublishRequest
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from execution_service.runtime.clock import Clock
from execution_service.runtime.connectivity import Connectivity
from execution_service.runtime.threads import ThreadPool
from execution_service.transport.inbox import Inbox
from execution_service.transport.ports import Message, PublishFailed, TopicMissing

log = structlog.get_logger(__name__)

OUTSTANDING_MESSAGES = 1000
OUTSTANDING_BYTES = 64 * 1024 * 1024
LEASE_EXTENSION_SECONDS = 15
"""What was sent to us on a connection that is dead, and nobody knows it yet, comes again after so long; the library's own choice is a minute."""
LONGEST_LEASE_SECONDS = 600
"""A message that we neither acknowledge nor hand back in this time is no longer kept from others, whatever holds us up."""
HAND_BACK_SECONDS = 3.0
"""How long the end of a stream may take: its acknowledgements sent, and all other messages handed back."""
PUBLISH_SECONDS = 20.0
REQUESTS_AT_ONCE, REQUESTS_OF_KEYS_AT_ONCE = 4, 32
"""Of publications, each in a thread; with ordering keys mostly of one message each."""
REQUEST_MESSAGES, REQUEST_BYTES = 100, 1_000_000
"""At most in one. Pub/Sub takes 1,000 messages and 10 MB."""
QUERY_SECONDS = 5.0
WATCH_SECONDS = 5.0
"""Between two questions whether Pub/Sub is there."""
CLOSE_SECONDS = 2.0
KEEP_ALIVE = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
)
"""The questions of `watch` go between these pings, so that no server counts them as too many."""
SOON_AGAIN = (("grpc.max_reconnect_backoff_ms", 5_000),)
"""Left to itself a connection is tried less and less often, in the end every two minutes: so late would orders come after a long outage."""
ANY_SIZE = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""As to Google. A channel's own limit is 4 MiB: one larger message, or many small ones in one answer, would end the stream each time anew."""
PASSING = Retry(predicate=if_exception_type(Aborted, ServerError), initial=0.1, maximum=2.0, timeout=PUBLISH_SECONDS)
"""What a publication that failed is tried again for at once; after that whoever publishes tries again."""
SILENCE = (RetryError, ServerError)
"""What says that Pub/Sub was not reached, or could not answer; anything else is an answer."""


_RawMessage, _RawRequest = pubsub_v1.types.PubsubMessage.pb(), PublishRequest.pb()
"""As the wire has them: Google's wrappers cost several times as much."""


def _transport(kind: Any, emulator_host: str | None) -> dict[str, Any]:
    """How a client of Google's is to reach an emulator. Left to itself it would not keep that connection alive, as it does those to Google:
    one that a router forgot would look quiet for ever."""
    if emulator_host is None:
        return {}
    return {"transport": kind(channel=grpc.insecure_channel(emulator_host, (*KEEP_ALIVE, *SOON_AGAIN, *ANY_SIZE)))}


_Batch: TypeAlias = list[tuple[Any, asyncio.Future[None]]]
"""Messages of one request, each with what its publisher waits for."""


class GooglePublisher:
    """Publishes to one topic. Messages that are there at the same time travel together, and none waits for another to come: while few requests
    are under way each leaves at once, and what comes behind many of them leaves together when one is answered."""

    def __init__(
        self,
        project: str,
        topic: str,
        *,
        emulator_host: str | None,
        connectivity: Connectivity,
        uses_ordering_keys: bool,
    ) -> None:
        """`uses_ordering_keys`: a request then carries the messages of one key, as Pub/Sub demands. Whoever publishes waits for the answer
        before the next message of the same key, so that they stay in their order."""
        with _usable_credentials():
            self._client = PublisherClient(**_transport(PublisherGrpcTransport, emulator_host))
        self._connectivity = connectivity
        self._uses_ordering_keys = uses_ordering_keys
        self.path = self._client.topic_path(project, topic)
        self._waiting: deque[tuple[Any, asyncio.Future[None]]] = deque()
        self._at_once = REQUESTS_OF_KEYS_AT_ONCE if uses_ordering_keys else REQUESTS_AT_ONCE
        self._threads = ThreadPool("publish", self._at_once)
        self._under_way: set[asyncio.Task[None]] = set()

    async def check(self) -> None:
        """Raises TopicMissing, naming what is not there or may not be used, or PublishFailed when Pub/Sub cannot be asked."""
        await asyncio.to_thread(
            _ask,
            self._client,
            self.path,
            "pubsub.topics.publish",
            lambda: self._client.get_topic(topic=self.path, timeout=QUERY_SECONDS, retry=None),
        )

    async def publish(self, data: bytes, attributes: Mapping[str, str], ordering_key: str) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        message = _RawMessage(data=data, attributes=attributes, ordering_key=ordering_key)
        if not self._waiting:
            loop.call_soon(self._send_waiting)  # with what others publish in the same moment
        self._waiting.append((message, done))
        try:
            await done
        except Exception as exc:
            if isinstance(exc, SILENCE):
                self._connectivity.fails(str(exc) or type(exc).__name__)
            raise PublishFailed(str(exc) or type(exc).__name__) from exc
        self._connectivity.answers()

    def _send_waiting(self) -> None:
        while len(self._under_way) < self._at_once and (batch := self._take()):
            request = asyncio.create_task(self._send(batch))
            self._under_way.add(request)
            request.add_done_callback(self._answered)

    def _answered(self, request: asyncio.Task[None]) -> None:
        self._under_way.discard(request)
        self._send_waiting()

    async def _send(self, batch: _Batch) -> None:
        """A refusal may be of one message's own: then each is sent by itself, so that the others are not kept by it."""
        error = await self._error_of(batch)
        if isinstance(error, InvalidArgument) and len(batch) > 1:
            for message, done in batch:
                if not done.done():
                    await self._send([(message, done)])
            return
        for _, done in batch:
            if not done.done():
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

    async def _error_of(self, batch: _Batch) -> Exception | None:
        """Sends one request; None: Pub/Sub has taken it."""
        request = PublishRequest.wrap(_RawRequest(topic=self.path, messages=[message for message, _ in batch]))
        try:
            await self._threads.run(
                lambda: self._client.publish(request=request, retry=PASSING, timeout=PUBLISH_SECONDS)
            )
        except Exception as exc:  # noqa: BLE001  whatever it is, those who published must learn of it
            return exc
        return None

    def _take(self) -> _Batch:
        """What goes into the next request; what nobody waits for any more is left out."""
        batch: _Batch = []
        size = 0
        while self._waiting and len(batch) < REQUEST_MESSAGES:
            message, done = self._waiting[0]
            size += len(message.data)
            is_of_another_key = self._uses_ordering_keys and batch and batch[0][0].ordering_key != message.ordering_key
            if is_of_another_key or (batch and size > REQUEST_BYTES):
                break
            self._waiting.popleft()
            if not done.done():
                batch.append((message, done))
        return batch

    async def close(self) -> None:
        """Waits for the answers that are still to come, for a bounded time; what is not sent by then is owed still, and told after the next
        start."""
        self._waiting.clear()
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=CLOSE_SECONDS)
        self._threads.close()
        self._client.transport.close()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _usable_credentials() -> Iterator[None]:
    """Raises PublishFailed where Google's client finds no credentials that it can use."""
    try:
        yield
    except GoogleAuthError as exc:
        raise PublishFailed(f"Google's credentials cannot be used: {exc}") from exc


class _Held(Scheduler):  # type: ignore[misc]
    """The messages of one stream that were received and are neither acknowledged nor handed back.

    Google's client asks it where a callback is to run: on the thread that received the message, for ours only hands it to the event loop.
    When the stream ends, the client asks it for what is left, hands that back and then sends everything that waits to be sent, so that
    an acknowledgement given before is not lost, and none given after that undoes a handing back.
    """

    def __init__(self, inbox: Inbox, event_type: str | None) -> None:
        self.event_type = event_type
        self._inbox, self._loop = inbox, asyncio.get_running_loop()
        self._queue: queue.Queue[Any] = queue.Queue()
        self._lock = threading.Lock()
        self._messages: dict[str, GoogleMessage] = {}
        self._arrived: list[Message] = []
        """Those on their way to the event loop, which is woken once for all of them."""

    @property
    def queue(self) -> queue.Queue[Any]:
        return self._queue

    def schedule(self, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        callback(*args, **kwargs)

    def add(self, message: GoogleMessage) -> None:
        """On the thread that receives."""
        received = _message(message, self)
        with self._lock:
            self._messages[message.ack_id] = message
            self._arrived.append(received)
            is_first = len(self._arrived) == 1
        if is_first:
            self._loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, []
        for message in arrived:
            self._inbox.put_nowait(message)

    def settle(self, message: GoogleMessage, answer: Callable[[], None]) -> None:
        """Gives the answer, unless one was given."""
        with self._lock:
            if self._messages.pop(message.ack_id, None) is not None:
                answer()

    def shutdown(self, await_msg_callbacks: bool = False) -> list[GoogleMessage]:
        with self._lock:
            left, self._messages = list(self._messages.values()), {}
        return left


class GoogleSubscriber:
    """Pulls one subscription into an inbox for as long as it lives and the inbox accepts, whatever happens to the stream.

    A message that is not acknowledged when the pulling ends is handed back, so that another process has it at once.
    """

    def __init__(
        self,
        project: str,
        subscription: str,
        *,
        emulator_host: str | None,
        clock: Clock,
        connectivity: Connectivity,
        event_type: str | None = None,
    ) -> None:
        """`event_type`: what its messages are, where they are events."""
        with _usable_credentials():
            self._client = pubsub_v1.SubscriberClient(**_transport(SubscriberGrpcTransport, emulator_host))
        self._clock = clock
        self._connectivity = connectivity
        self._event_type = event_type
        self.path = self._client.subscription_path(project, subscription)
        self.messages = Inbox()
        self.trouble = ""

    async def check(self) -> None:
        """Raises TopicMissing, naming what is not there or may not be used, or PublishFailed when Pub/Sub cannot be asked."""
        await asyncio.to_thread(
            _ask,
            self._client,
            self.path,
            "pubsub.subscriptions.consume",
            lambda: self._client.get_subscription(subscription=self.path, timeout=QUERY_SECONDS, retry=None),
        )

    async def watch(self) -> None:
        """Until cancelled. A stream without messages looks the same whether Pub/Sub has none or is away: only a question can tell."""
        refusal = ""
        while True:
            await self._clock.sleep(WATCH_SECONDS)
            try:
                await self.check()
            except PublishFailed as exc:
                self._connectivity.fails(str(exc))
            except TopicMissing as exc:
                self._connectivity.answers()
                if str(exc) != refusal:
                    refusal = str(exc)
                    log.error(f"Pub/Sub refuses: {exc}", action="pubsub_refuses")
            else:
                refusal = ""
                self._connectivity.answers()

    async def run(self) -> None:
        """Until cancelled. The client reconnects by itself; a stream that ended for good is opened again."""
        flow = pubsub_v1.types.FlowControl(
            max_messages=OUTSTANDING_MESSAGES,
            max_bytes=OUTSTANDING_BYTES,
            max_lease_duration=LONGEST_LEASE_SECONDS,
            max_duration_per_lease_extension=LEASE_EXTENSION_SECONDS,
        )
        while True:
            await self.messages.until_accepting()
            held = _Held(self.messages, self._event_type)
            pull = self._client.subscribe(
                self.path,
                held.add,
                flow_control=flow,
                scheduler=held,
                await_callbacks_on_shutdown=False,
            )
            ended = asyncio.wrap_future(_watched(pull))
            refusing = asyncio.ensure_future(self.messages.until_refusing())
            try:
                await asyncio.wait({ended, refusing}, return_when=asyncio.FIRST_COMPLETED)
                is_broken = ended.done()
            finally:
                refusing.cancel()
                await self._hand_back(pull, ended)
            if is_broken:
                exc = ended.exception()
                self.trouble = str(exc) or type(exc).__name__
                log.error(f"Pulling {self.path} ended, tried again: {self.trouble}", action="pull_ended")
                await self._clock.sleep(2.0)
                self.trouble = ""

    async def _hand_back(self, pull: Any, ended: asyncio.Future[None]) -> None:
        """Ends the stream. What was not acknowledged goes back to Pub/Sub, and what was is told to it, in bounded time; of what could not be
        said by then Pub/Sub learns when the leases run out, some seconds later."""
        pull.cancel()
        await asyncio.wait({ended}, timeout=HAND_BACK_SECONDS)
        if ended.done():
            ended.exception()  # looked at, so that nobody complains that it was not
        else:
            ended.cancel()
            log.warning(f"{self.path}: Pub/Sub does not take back what was not stored yet", action="hand_back_unsaid")
        self.messages.discard()

    async def close(self) -> None:
        """Within a bounded time; a connection that hangs ends with the process."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._client.close), CLOSE_SECONDS)


def _watched(pull: Any) -> concurrent.futures.Future[None]:
    """The pull's end as a future that can be cancelled without touching the pull."""
    ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    def done(future: Any) -> None:
        if ended.set_running_or_notify_cancel():
            exc = future.exception()
            if exc is None:
                ended.set_exception(ConnectionError("the stream was closed"))
            else:
                ended.set_exception(exc)

    pull.add_done_callback(done)
    return ended


def _message(message: GoogleMessage, held: _Held) -> Message:
    return Message(
        message_id=message.message_id,
        data=message.data,
        publish_time=message.publish_time,
        attributes=dict(message.attributes),
        event_type=held.event_type,
        ack=functools.partial(held.settle, message, message.ack),
        nack=functools.partial(held.settle, message, message.nack),
    )


def _ask(client: Any, name: str, permission: str, question: Callable[[], Any]) -> None:
    """Whether it is there, and where we may not see that, whether we may use it: the least rights that suffice do not include looking."""
    try:
        try:
            question()
        except PermissionDenied:
            request = {"resource": name, "permissions": [permission]}
            granted = client.test_iam_permissions(request=request, timeout=QUERY_SECONDS, retry=None).permissions
            if permission not in granted:
                raise
    except (NotFound, PermissionDenied) as exc:
        raise TopicMissing(f"{name}: {exc.message}") from exc
    except (GoogleAPICallError, RetryError) as exc:
        raise PublishFailed(f"{name}: {exc}") from exc
