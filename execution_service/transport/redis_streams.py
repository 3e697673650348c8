"""Events on Redis Streams, in and out; this module alone imports the client of Redis, and is loaded only where it is used."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import redis.exceptions
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from execution_service.core.backoff import DEFAULT_BACKOFF
from execution_service.core.messages.events_in import entry_data
from execution_service.core.messages.events_out import OutEvent, stream_entry
from execution_service.core.messages.fields import MAX_MESSAGE_BYTES
from execution_service.runtime.clock import Clock
from execution_service.runtime.connectivity import Connectivity
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.bookmarks import BookmarkStore
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.transport.inbox import Inbox
from execution_service.transport.ports import Message, PublishFailed

log = structlog.get_logger(__name__)

STREAM = "quantum:stream:"
GROUP = "quantum:group:execution:"
MAX_LENGTH = 10_000
"""Of a stream, about: Redis cuts it where that costs nothing."""
COUNT = 10
BLOCK_MILLISECONDS = 2_000
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0
"""Longer than a read waits for entries: a server that says nothing for so long is away."""
IN_HAND, IN_HAND_BYTES = 500, 16 * 1024 * 1024
"""Read and not acknowledged: beyond either nothing is read."""
IDLE_SECONDS = 60.0
"""An entry that a consumer has held for so long without a sign is another's to take."""
CLAIM_SECONDS = 15.0
REFUSED_SECONDS = 5.0
BOOKMARK_SECONDS = 1.0
PUBLISHED_TOGETHER = 64

_Fields: TypeAlias = Mapping[bytes, bytes] | None
_Entry: TypeAlias = tuple[bytes, _Fields]
_Key: TypeAlias = tuple[str, str]
_BEGINNING = "0-0"


class UnusableAddress(Exception):
    """The client of Redis cannot use the address."""


def connect(url: str) -> Redis:
    """A client that has not connected yet. Raises UnusableAddress."""
    try:
        client: Redis = Redis.from_url(
            url,
            protocol=2,
            decode_responses=False,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            health_check_interval=15,
            # Who calls tries again: what was sent may have arrived.
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as exc:
        raise UnusableAddress("REDIS_URL is not an address that the client of Redis can use") from exc
    return client


SILENCE = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError, TimeoutError)
"""What says that Redis was not reached, or could not answer; any other of its errors is an answer."""


class RedisPublisher:
    """Publishes events; those that wait at the same time travel together."""

    def __init__(self, client: Redis, connectivity: Connectivity) -> None:
        self._client = client
        self._connectivity = connectivity
        self._waiting: deque[tuple[OutEvent, asyncio.Future[None]]] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def publish_events(self, events: Sequence[OutEvent]) -> None:
        loop = asyncio.get_running_loop()
        answers = [loop.create_future() for _ in events]
        self._waiting.extend(zip(events, answers, strict=True))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_waiting())
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise PublishFailed(str(outcome) or type(outcome).__name__) from outcome

    async def _send_waiting(self) -> None:
        await asyncio.sleep(0)  # with what others publish in the same moment
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(PUBLISHED_TOGETHER, len(self._waiting)))]
            try:
                outcomes: Sequence[Any] = await self._send([event for event, _ in batch])
            except asyncio.CancelledError:
                for _, answer in batch:
                    answer.cancel()
                raise
            except Exception as exc:  # noqa: BLE001  whatever it is, those who published must learn of it
                if isinstance(exc, SILENCE):
                    self._connectivity.fails(str(exc) or type(exc).__name__)
                outcomes = [exc] * len(batch)
            else:
                self._connectivity.answers()
                if any(isinstance(outcome, ReadOnlyError) for outcome in outcomes):
                    await forget_connections(self._client)
            for (_, answer), outcome in zip(batch, outcomes, strict=True):
                if answer.done():
                    continue
                if isinstance(outcome, Exception):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(None)

    async def _send(self, events: Sequence[OutEvent]) -> Sequence[Any]:
        async with self._client.pipeline(transaction=False) as pipe:
            for event in events:
                name = STREAM + event.event_type
                fields: dict[Any, Any] = dict(stream_entry(event))
                pipe.xadd(name, fields, maxlen=MAX_LENGTH, approximate=True)
            result: Sequence[Any] = await pipe.execute(raise_on_error=False)
            return result

    async def close(self) -> None:
        """What is not sent by then is owed still."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        await close_client(self._client)


async def forget_connections(client: Redis) -> None:
    """The next call makes a new one, which leads to whoever has the address by then."""
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(CONNECT_SECONDS):
            await client.connection_pool.disconnect()


async def close_client(client: Redis) -> None:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await client.aclose()
    except Exception as exc:  # noqa: BLE001  it ends with the process
        log.debug(f"The connection to Redis was not closed in order: {exc}", action="redis_close")


class RedisSubscriber:
    """Reads the streams of some events into an inbox, for as long as the inbox accepts, whatever becomes of the connection.

    An entry stays pending with this consumer until its message is acknowledged, and that is when it is durably ours. What was read and not
    acknowledged is read again by the next life, which has the same name, or claimed by another replica.
    """

    def __init__(
        self,
        client: Redis,
        event_types: Sequence[str],
        *,
        consumer: str,
        bookmarks: BookmarkStore,
        clock: Clock,
        connectivity: Connectivity,
    ) -> None:
        """`bookmarks` outlive a flush of the server: there the last entries are noted that were stored."""
        self._client = client
        self._event_types = tuple(event_types)
        self._consumer = consumer
        self._bookmarks = bookmarks
        self._clock = clock
        self._connectivity = connectivity
        self.messages = Inbox()
        self._in_hand: dict[_Key, int] = {}
        """Sizes of the entries that were put into the inbox and are not acknowledged to Redis yet."""
        self._acknowledged: set[_Key] = set()
        """Durably ours; Redis is to be told."""
        self._wake_up = WakeUp(clock)
        self._room = asyncio.Event()
        self._marks: dict[str, str] = {}
        """The bookmarks that are to be written, by stream."""
        self._failures = 0

    async def run(self) -> None:
        """Until cancelled. Fails only for what is no answer of Redis and no silence either."""
        while True:
            await self.messages.until_accepting()
            refusing = asyncio.ensure_future(self.messages.until_refusing())
            reading = asyncio.ensure_future(self._read_all())
            try:
                await asyncio.wait({refusing, reading}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                is_broken = reading.done()
                await _end(refusing, reading)
            if self.messages.is_refusing:
                self._forget()
            if is_broken and not reading.cancelled():
                await self._rest(reading.exception())

    def _forget(self) -> None:
        """What is not stored stays pending at the server, and is read again when messages are wanted again."""
        self.messages.discard()
        self._in_hand = {key: size for key, size in self._in_hand.items() if key in self._acknowledged}

    async def _rest(self, exc: BaseException | None) -> None:
        if exc is not None and not isinstance(exc, (*SILENCE, RedisError, StoreUnavailable)):
            raise exc
        if exc is not None and not isinstance(exc, StoreUnavailable):
            self._connectivity.fails(str(exc) or type(exc).__name__)
        self._failures += 1
        await forget_connections(self._client)
        await self._clock.sleep(DEFAULT_BACKOFF.pause_seconds(self._failures))

    async def _read_all(self) -> None:
        """Returns never; raises what ends the first of the readers, when all have ended."""
        readers = [asyncio.create_task(self._read(each)) for each in self._event_types]
        readers.append(asyncio.create_task(self._tell_acknowledged()))
        try:
            done, _ = await asyncio.wait(readers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await _end(*readers)
        for reader in done:
            reader.result()

    def _answers(self) -> None:
        self._failures = 0
        self._connectivity.answers()

    # --- reading ------------------------------------------------------------------------------------------------

    async def _read(self, event_type: str) -> None:
        """One stream. An answer that says no (a key that is no stream, say) is this stream's trouble, and the others go on."""
        refusal = ""
        while True:
            try:
                await self._read_on(event_type)
            except ReadOnlyError:
                raise  # another server is the primary now: it is found by a new connection
            except ResponseError as exc:
                self._answers()
                if "NOGROUP" not in str(exc):
                    if str(exc) != refusal:
                        refusal = str(exc)
                        words = f"Redis refuses to have {STREAM}{event_type} read: {refusal}"
                        log.error(words, action="redis_refuses", event_type=event_type)
                    await self._clock.sleep(REFUSED_SECONDS)

    async def _read_on(self, event_type: str) -> None:
        stream, group = STREAM + event_type, GROUP + event_type
        await self._ensure_group(stream, group)
        after = "0"
        while own := await self._entries(stream, group, after):  # of an earlier life, or handed back
            self._take(event_type, own)
            after = own[-1][0].decode()
            await self._until_room()
        claimed_at = float("-inf")
        while True:
            await self._until_room()
            if self._clock.monotonic() >= claimed_at + CLAIM_SECONDS:
                claimed_at = self._clock.monotonic()
                await self._claim(event_type, stream, group)
            self._take(event_type, await self._entries(stream, group, ">", block=BLOCK_MILLISECONDS))

    async def _entries(self, stream: str, group: str, after: str, *, block: int | None = None) -> list[_Entry]:
        reply: Any = await self._client.xreadgroup(group, self._consumer, {stream: after}, count=COUNT, block=block)
        self._answers()
        return [entry for _, entries in reply or () for entry in entries]

    async def _claim(self, event_type: str, stream: str, group: str) -> None:
        """Takes over what other consumers have held too long: they are dead. What we hold ourselves we have in hand, or handed back."""
        begin = _BEGINNING
        while True:
            reply = await self._client.xautoclaim(
                stream, group, self._consumer, min_idle_time=int(IDLE_SECONDS * 1000), start_id=begin, count=COUNT
            )
            self._answers()
            begin = reply[0].decode()
            self._take(event_type, [entry for entry in reply[1] if entry and entry[0] is not None])
            if begin == _BEGINNING:
                return
            await self._until_room()

    def _take(self, event_type: str, entries: Sequence[_Entry]) -> None:
        stream, now = STREAM + event_type, self._clock.now()
        for entry_id, fields in entries:
            key = (stream, entry_id.decode())
            if key in self._in_hand:
                continue
            if not fields:  # cut off the stream before it was read: there is nothing to be had any more
                log.error(f"Entry {key[1]} of {stream} was gone before it was read", action="redis_entry_gone")
                self._acknowledge(key)
                continue
            data = entry_data(fields)[: MAX_MESSAGE_BYTES + 1]
            self._in_hand[key] = len(data)
            self.messages.put_nowait(
                Message(
                    message_id=f"{stream}:{key[1]}",
                    data=data,
                    publish_time=min(now, _time_of(key[1]) or now),
                    event_type=event_type,
                    ack=lambda key=key: self._acknowledge(key),  # type: ignore[misc]
                    nack=lambda key=key: self._hand_back(key),  # type: ignore[misc]
                )
            )

    async def _until_room(self) -> None:
        while len(self._in_hand) >= IN_HAND or sum(self._in_hand.values()) >= IN_HAND_BYTES:
            self._room.clear()
            await self._room.wait()

    # --- acknowledging ------------------------------------------------------------------------------------------

    def _acknowledge(self, key: _Key) -> None:
        self._acknowledged.add(key)
        self._wake_up.tell()

    def _hand_back(self, key: _Key) -> None:
        """It is claimed again when it has been idle long enough."""
        self._in_hand.pop(key, None)
        self._room.set()

    async def _tell_acknowledged(self) -> None:
        """Until cancelled; what Redis was not told by then it is told the next time."""
        marked_at = float("-inf")
        while True:
            keys = tuple(self._acknowledged)
            if keys:
                async with self._client.pipeline(transaction=False) as pipe:
                    for stream, entry_id in keys:
                        pipe.xack(stream, GROUP + stream.removeprefix(STREAM), entry_id)
                    await pipe.execute(raise_on_error=False)
                self._answers()
                self._told(keys)
            now = self._clock.monotonic()
            if self._marks and now >= marked_at + BOOKMARK_SECONDS:
                marked_at = now
                await self._write_marks()
            await self._wake_up.wait(BOOKMARK_SECONDS if self._marks else None)

    def _told(self, keys: Sequence[_Key]) -> None:
        for key in keys:
            self._acknowledged.discard(key)
            self._in_hand.pop(key, None)
        self._room.set()
        for stream in {stream for stream, _ in keys}:
            last = max((entry_id for each, entry_id in keys if each == stream), key=_order_of)
            waiting = [entry_id for each, entry_id in self._in_hand if each == stream]
            if all(_order_of(entry_id) > _order_of(last) for entry_id in waiting):
                self._marks[stream] = last

    async def _write_marks(self) -> None:
        for stream, mark in tuple(self._marks.items()):
            try:
                before = await self._bookmarks.bookmark(stream)
                if before is None or _order_of(before) < _order_of(mark):
                    await self._bookmarks.set_bookmark(stream, mark)
            except StoreUnavailable:
                return
            if self._marks.get(stream) == mark:
                del self._marks[stream]

    async def _ensure_group(self, stream: str, group: str) -> None:
        """The group, made where it is missing: at the stream's end the first time, later where we had read to. A stream that does not reach
        so far is a new one, and is read from its beginning. Raises StoreUnavailable."""
        end, mark = await self._end_of(stream), await self._bookmarks.bookmark(stream)
        if mark is None:
            await self._bookmarks.set_bookmark(stream, end)
            begin = end
        else:
            begin = mark if _order_of(end) >= _order_of(mark) else _BEGINNING
        try:
            await self._client.xgroup_create(stream, group, id=begin, mkstream=True)
        except ResponseError as exc:
            if "BUSYGROUP" not in str(exc):
                raise
        else:
            words = f"{group} reads {stream} from {begin} on"
            log.info(words, action="redis_group_made", stream=stream, begin=begin)

    async def _end_of(self, stream: str) -> str:
        try:
            about: Mapping[Any, Any] = await self._client.xinfo_stream(stream)
        except ResponseError as exc:
            if "no such key" in str(exc):
                return _BEGINNING
            raise
        last = about.get("last-generated-id", about.get(b"last-generated-id", _BEGINNING))
        return last.decode() if isinstance(last, bytes) else str(last)

    async def check(self) -> None:
        """Raises PublishFailed where Redis cannot be asked."""
        try:
            await self._client.ping()
        except (RedisError, *SILENCE) as exc:
            raise PublishFailed(f"Redis: {exc}") from exc

    async def close(self) -> None:
        await close_client(self._client)


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancels them until they have ended: up to Python 3.11 `asyncio.wait_for`, by which the client writes, swallows a cancellation that comes
    as it ends."""
    waiting: set[asyncio.Future[Any]] = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        done, waiting = await asyncio.wait(waiting, timeout=0.1)
        for task in done:
            if not task.cancelled():
                task.exception()  # looked at, so that nobody complains that it was not


def _order_of(entry_id: str) -> tuple[int, int]:
    first, _, second = entry_id.partition("-")
    return (int(first) if first.isdigit() else 0, int(second) if second.isdigit() else 0)


def _time_of(entry_id: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(_order_of(entry_id)[0] / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
