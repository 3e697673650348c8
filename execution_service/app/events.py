"""Where events come from and go to, by the settings: the parts of Pub/Sub, of Redis Streams, and of a MemoryService; nothing of it where none is
set."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import socket
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from execution_service.app.settings.loading import Settings
from execution_service.app.topics import subscription_of, topics_of_events_in
from execution_service.core.messages.events_in import HINTS
from execution_service.core.messages.events_out import EVENTS_OUT, EXECUTION_RESULT
from execution_service.core.messages.memory_entries import REMEMBERED
from execution_service.delivery.account_names import NamesOfAccounts
from execution_service.delivery.events import Events
from execution_service.runtime.clock import Clock
from execution_service.runtime.connectivity import Connectivity
from execution_service.runtime.supervision import Part
from execution_service.runtime.threads import ThreadPool
from execution_service.storage.ports.bookmarks import BookmarkStore
from execution_service.transport.inbox import Inbox
from execution_service.transport.memory_files import FolderUnusable, MemoryFiles
from execution_service.transport.ports import EventPublisher, ReadsKey
from execution_service.transport.pubsub import GooglePublisher, GoogleSubscriber
from execution_service.transport.topics import TopicPublisher

if TYPE_CHECKING:
    from execution_service.transport.redis_streams import RedisSubscriber

REDIS_STREAMS = "execution_service.transport.redis_streams"
REDIS_KEYS = "execution_service.transport.redis_keys"
PUBSUB_CURSOR, REDIS_CURSOR, MEMORY_CURSOR = "events_pubsub", "events_redis", "memory"


class EventsUnusable(Exception):
    """What is set for events can never work; the message says why."""


class Topic(Protocol):
    """A topic or subscription that has to be there."""

    @property
    def path(self) -> str: ...

    def check(self) -> Awaitable[None]:
        """Raises TopicMissing, PublishFailed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsOut:
    """One place where events are published."""

    place: str
    """For people."""
    cursor: str
    """Of the delivery, in the record."""
    types: Sequence[str]
    publisher: EventPublisher
    takes_marks: bool = True
    """Whether positions are told there with their marks, too, over and over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSources:
    """All places of events. `inboxes`: of those that come in, by where they come from; `pulls` fill them."""

    account_id: str | None = None
    """Where orders go that name no account."""
    max_signal_age_seconds: float = 60.0
    """How old what an event asks for may be when it comes; 0: any age."""
    inboxes: Mapping[str, Inbox] = field(default_factory=dict)
    out: Sequence[EventsOut] = ()
    pulls: Sequence[Part] = ()
    topics: Sequence[Topic] = ()
    redis: RedisSubscriber | None = None
    kill_key: ReadsKey | None = None
    """Where a system around us says that trade is to stop; None: nowhere."""
    connectivity: Mapping[str, Connectivity] = field(default_factory=dict)
    """Whether what is there besides Pub/Sub answers."""


NO_EVENTS = EventSources()


def event_sinks(sources: EventSources, parties: NamesOfAccounts) -> Sequence[Events]:
    return [
        Events(place=o.place, cursor=o.cursor, publisher=o.publisher, parties=parties, types=o.types)
        for o in sources.out
    ]


@contextlib.asynccontextmanager
async def event_sources(
    settings: Settings, *, emulator_host: str | None, store: BookmarkStore, clock: Clock, pubsub: Connectivity
) -> AsyncIterator[EventSources]:
    """Opens nothing yet. Raises EventsUnusable, PublishFailed."""
    account_id = settings.events_account or (next(iter(settings.accounts)) if len(settings.accounts) == 1 else None)
    inboxes: dict[str, Inbox] = {}
    out: list[EventsOut] = []
    pulls: list[Part] = []
    topics: list[Topic] = []
    redis: RedisSubscriber | None = None
    kill_key: ReadsKey | None = None
    async with contextlib.AsyncExitStack() as stack:
        if settings.pubsub_events:
            publishers = {}
            for event_type in EVENTS_OUT:
                publishers[event_type] = GooglePublisher(
                    settings.google_cloud_project,
                    event_type,
                    emulator_host=emulator_host,
                    connectivity=pubsub,
                    uses_ordering_keys=settings.publish_ordering_keys,
                )
                stack.push_async_callback(publishers[event_type].close)
            publisher = TopicPublisher(publishers, uses_ordering_keys=settings.publish_ordering_keys)
            out.append(EventsOut(place="Pub/Sub", cursor=PUBSUB_CURSOR, types=EVENTS_OUT, publisher=publisher))
            topics += publishers.values()
            for event_type in topics_of_events_in(settings):
                subscriber = GoogleSubscriber(
                    settings.google_cloud_project,
                    subscription_of(event_type),
                    emulator_host=emulator_host,
                    clock=clock,
                    connectivity=pubsub,
                    event_type=event_type,
                )
                stack.push_async_callback(subscriber.close)
                inboxes[event_type] = subscriber.messages
                pulls.append(Part(f"pull of {event_type}", subscriber.run))
                topics.append(subscriber)
        around: dict[str, Connectivity] = {}
        if settings.memory_dir is not None:
            around["memory"] = Connectivity("The MemoryService's folder", clock)
            threads = ThreadPool("memory", 1)
            stack.callback(threads.close)
            memory = MemoryFiles(settings.memory_dir, threads=threads, connectivity=around["memory"])
            try:
                memory.prepare()
            except FolderUnusable as exc:
                raise EventsUnusable(str(exc)) from exc
            out.append(
                EventsOut(
                    place="the MemoryService",
                    cursor=MEMORY_CURSOR,
                    types=REMEMBERED,
                    publisher=memory,
                    takes_marks=False,
                )
            )
        url = _redis_url(settings)
        if url is not None:
            streams, connectivity = _redis_streams(), Connectivity("Redis", clock)
            around["redis"] = connectivity
            try:
                redis_out = streams.RedisPublisher(streams.connect(url), connectivity)
                stack.push_async_callback(redis_out.close)
                redis = streams.RedisSubscriber(
                    streams.connect(url),
                    topics_of_events_in(settings, HINTS),
                    consumer=_consumer(settings),
                    bookmarks=store,
                    clock=clock,
                    connectivity=connectivity,
                )
                stack.push_async_callback(redis.close)
                if settings.redis_kill_key is not None:
                    keys = importlib.import_module(REDIS_KEYS)
                    kill_key = key = keys.RedisKey(streams.connect(url), settings.redis_kill_key)
                    stack.push_async_callback(key.close)
            except streams.UnusableAddress as exc:
                raise EventsUnusable(str(exc)) from exc
            types = (*EVENTS_OUT, EXECUTION_RESULT)
            out.append(EventsOut(place="Redis", cursor=REDIS_CURSOR, types=types, publisher=redis_out))
            inboxes["Redis"] = redis.messages
            pulls.append(Part("pull of Redis streams", redis.run))
        yield EventSources(
            account_id=account_id,
            max_signal_age_seconds=settings.max_signal_age_seconds,
            inboxes=inboxes,
            out=out,
            pulls=pulls,
            topics=topics,
            redis=redis,
            kill_key=kill_key,
            connectivity=around,
        )


def _redis_streams() -> Any:
    """The module, which loads the client of Redis: only who uses that pays for it, or has to have it."""
    try:
        return importlib.import_module(REDIS_STREAMS)
    except ImportError as exc:
        words = "REDIS_URL or REDIS_HOST is set, but the client of Redis is not installed"
        raise EventsUnusable(f"{words}: pip install 'execution-service[redis]'") from exc


def _redis_url(settings: Settings) -> str | None:
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    if settings.redis_host is None:
        return None
    host = f"[{settings.redis_host}]" if ":" in settings.redis_host else settings.redis_host
    return f"redis://{host}:{settings.redis_port}/0"


def _consumer(settings: Settings) -> str:
    """The same in each life of one replica, so that it finds what the life before had in hand."""
    mark = hashlib.sha256(str(settings.data_dir.absolute()).encode()).hexdigest()[:8]
    return f"execution_{socket.gethostname()}_{mark}"
