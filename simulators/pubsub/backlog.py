"""One subscription's messages in memory: what is ready, leased, resting or held back by its ordering key.

No gRPC, no disk and no clock here: every moment is passed in as monotonic seconds, so a jump of the wall clock can
neither end nor lengthen a lease.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from heapq import heappop, heappush
from itertools import islice

# A bounded exponent keeps the back-off's power of two small; the maximum back-off is reached long before.
_LARGEST_EXPONENT = 20


class Standing(Enum):
    """Where one owed message stands with its subscription."""

    READY = auto()
    LEASED = auto()
    RESTING = auto()
    SETTLED_EARLY = auto()
    EXHAUSTED = auto()
    GONE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a subscription asks for. Durations are seconds; `max_attempts` of None means no dead-letter policy."""

    ack_deadline_seconds: int
    ordered: bool
    min_backoff_seconds: float = 0.0
    max_backoff_seconds: float = 0.0
    max_attempts: int | None = None


class Receiver:
    """One open stream or waiting pull, and how much it may hold unacknowledged (0 or less: no limit)."""

    __slots__ = ("_on_room", "held_bytes", "held_messages", "max_bytes", "max_messages")

    def __init__(
        self, *, max_messages: int = 0, max_bytes: int = 0, on_room: Callable[[Receiver], None] | None = None
    ) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.held_messages = 0
        self.held_bytes = 0
        self._on_room = on_room

    def fits(self, size: int) -> bool:
        """Whether one more message of `size` bytes may be sent; a receiver holding nothing takes any size."""
        if self.held_messages == 0:
            return True
        if 0 < self.max_messages <= self.held_messages:
            return False
        return self.max_bytes <= 0 or self.held_bytes + size <= self.max_bytes

    def take(self, size: int) -> None:
        """Count one message of `size` bytes as held."""
        self.held_messages += 1
        self.held_bytes += size

    def give_back(self, size: int) -> None:
        """Count one message of `size` bytes as no longer held."""
        self.held_messages -= 1
        self.held_bytes -= size
        if self._on_room is not None:
            self._on_room(self)


@dataclass(slots=True, eq=False)
class Owed:
    """One message owed to one subscription; `body` is None while the payload stays on disk."""

    message_id: int
    published_us: int
    size: int
    ordering_key: str
    body: bytes | None = None
    failures: int = 0
    standing: Standing = Standing.READY
    generation: int = 0
    deadline: float = 0.0
    rests_until: float = 0.0
    receiver: Receiver | None = None


@dataclass(slots=True)
class Lane:
    """The unsettled messages of one ordering key in publish order; the first `delivered` of them are out."""

    owed: deque[Owed] = field(default_factory=deque)
    delivered: int = 0


class Backlog:
    """All messages one subscription still owes, and who holds which of them."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._owed: dict[int, Owed] = {}
        self._ready: list[int] = []
        self._resting: list[tuple[float, int]] = []
        self._leases: list[tuple[float, int, int]] = []
        self._lanes: dict[str, Lane] = {}
        self._exhausted: list[Owed] = []
        self._failed: list[Owed] = []

    def __len__(self) -> int:
        return len(self._owed)

    @property
    def ready_estimate(self) -> int:
        """How many messages may be ready: never too few, sometimes too many."""
        # In an ordered subscription only the first message of a key is on the heap; the rest of it may go along.
        return len(self._owed) if self.terms.ordered else len(self._ready)

    def add(self, owed: Owed) -> None:
        """Take in a newly published (or reloaded) message; messages must come in rising `message_id`."""
        self._owed[owed.message_id] = owed
        if self.terms.ordered and owed.ordering_key:
            lane = self._lanes.setdefault(owed.ordering_key, Lane())
            lane.owed.append(owed)
            if len(lane.owed) > 1:
                return
        heappush(self._ready, owed.message_id)

    def peek(self) -> Owed | None:
        """The next message to deliver, without taking it."""
        while self._ready:
            owed = self._owed.get(self._ready[0])
            if owed is not None and owed.standing is Standing.READY and self._is_first(owed):
                return owed
            heappop(self._ready)
        return None

    def take(
        self, receiver: Receiver, *, now: float, deadline_seconds: float, max_messages: int, max_bytes: int
    ) -> list[Owed]:
        """Lease what is ready to `receiver`, at most `max_messages` and about `max_bytes` (always at least one that fits)."""
        taken: list[Owed] = []
        room = max_bytes
        while len(taken) < max_messages:
            owed = self.peek()
            if owed is None or not receiver.fits(owed.size) or (taken and owed.size > room):
                break
            heappop(self._ready)
            lane = self._lane_of(owed)
            run = (owed,) if lane is None else tuple(islice(lane.owed, max_messages))
            for each in run:
                if each is not owed and (
                    each.standing is not Standing.READY
                    or len(taken) >= max_messages
                    or each.size > room
                    or not receiver.fits(each.size)
                ):
                    break
                self._lease(each, receiver, now + deadline_seconds)
                room -= each.size
                taken.append(each)
                if lane is not None:
                    lane.delivered += 1
        return taken

    def acknowledge(self, message_id: int, generation: int) -> list[Owed]:
        """Settle one delivery; returns the messages that are now done for good (none for a stale delivery)."""
        owed = self._owed.get(message_id)
        if owed is None or owed.generation != generation or owed.standing is Standing.EXHAUSTED:
            return []
        lane = self._lane_of(owed)
        if lane is None or lane.owed[0] is owed:
            return self._remove(owed)
        if owed.standing is Standing.LEASED:
            # Should an earlier message of the key fail, this one is delivered again after it, as Google does.
            self._end_lease(owed)
            owed.standing = Standing.SETTLED_EARLY
        return []

    def extend(self, message_id: int, generation: int, *, now: float, seconds: float) -> None:
        """Move the end of a lease to `seconds` from now; a stale delivery is left alone."""
        owed = self._leased(message_id, generation)
        if owed is None:
            return
        shortened = now + seconds < owed.deadline
        owed.deadline = now + seconds
        if shortened:
            heappush(self._leases, (owed.deadline, message_id, generation))

    def refuse(self, message_id: int, generation: int, *, now: float) -> None:
        """A nack: the delivery failed and its acknowledgement id is void."""
        owed = self._leased(message_id, generation)
        if owed is not None:
            self._fail(owed, now)
            owed.generation += 1

    def put_back(self, owed: Owed, *, now: float) -> None:
        """Undo a lease whose message never left the server; it is no failed delivery."""
        if owed.standing is Standing.LEASED:
            self._return(owed, now)

    def expire(self, now: float) -> None:
        """End the leases that are over and wake the messages whose back-off is over."""
        while self._leases and self._leases[0][0] <= now:
            _, message_id, generation = heappop(self._leases)
            owed = self._leased(message_id, generation)
            if owed is None:
                continue
            if owed.deadline > now:
                heappush(self._leases, (owed.deadline, message_id, generation))
            else:
                self._fail(owed, now)
        while self._resting and self._resting[0][0] <= now:
            _, message_id = heappop(self._resting)
            owed = self._owed.get(message_id)
            if owed is not None and owed.standing is Standing.RESTING and owed.rests_until <= now:
                owed.standing = Standing.READY
                heappush(self._ready, message_id)

    def next_event(self) -> float | None:
        """When `expire` has something to look at again, or None."""
        while self._leases and self._leased(*self._leases[0][1:]) is None:
            heappop(self._leases)
        candidates = [heap[0][0] for heap in (self._leases, self._resting) if heap]
        return min(candidates, default=None)

    def drain_exhausted(self) -> list[Owed]:
        """Messages that used up their delivery attempts since the last call; settle them with `discard`."""
        exhausted, self._exhausted = self._exhausted, []
        return exhausted

    def drain_failed(self) -> list[Owed]:
        """Messages whose count of failed deliveries changed since the last call."""
        failed, self._failed = self._failed, []
        return failed

    def retry_exhausted(self, owed: Owed, *, now: float) -> None:
        """Offer a message again that could not be forwarded to its dead-letter topic."""
        if owed.standing is Standing.EXHAUSTED:
            owed.standing = Standing.READY
            self._return(owed, now)

    def discard(self, owed: Owed) -> list[Owed]:
        """Settle a message whatever its standing; returns the messages that are now done for good."""
        return [] if owed.standing is Standing.GONE else self._remove(owed)

    def published_before(self, moment_us: int) -> list[Owed]:
        """The owed messages published before a moment (microseconds since 1970 UTC)."""
        return [owed for owed in self._owed.values() if owed.published_us < moment_us]

    def rebuild(self, replayed: Iterable[Owed]) -> None:
        """Take in `replayed` messages of the past; in an ordered subscription all leases end, to restore the order."""
        everything = {owed.message_id: owed for owed in replayed}
        everything.update(self._owed)
        self._owed, self._ready, self._lanes = {}, [], {}
        for message_id in sorted(everything):
            owed = everything[message_id]
            if self.terms.ordered and owed.standing is not Standing.EXHAUSTED:
                self._end_lease(owed)
                owed.generation += 1
                owed.standing = Standing.READY
            self.add(owed)

    def clear(self) -> None:
        """Forget everything, as when the subscription is deleted."""
        for owed in self._owed.values():
            self._end_lease(owed)
            owed.standing = Standing.GONE
        for holding in (self._owed, self._ready, self._resting, self._leases, self._lanes):
            holding.clear()

    def _leased(self, message_id: int, generation: int) -> Owed | None:
        owed = self._owed.get(message_id)
        if owed is None or owed.generation != generation or owed.standing is not Standing.LEASED:
            return None
        return owed

    def _lane_of(self, owed: Owed) -> Lane | None:
        if not self.terms.ordered or not owed.ordering_key:
            return None
        return self._lanes.get(owed.ordering_key)

    def _is_first(self, owed: Owed) -> bool:
        lane = self._lane_of(owed)
        return lane is None or (lane.delivered == 0 and lane.owed[0] is owed)

    def _lease(self, owed: Owed, receiver: Receiver, deadline: float) -> None:
        owed.standing = Standing.LEASED
        owed.generation += 1
        owed.deadline = deadline
        owed.receiver = receiver
        receiver.take(owed.size)
        heappush(self._leases, (deadline, owed.message_id, owed.generation))

    def _end_lease(self, owed: Owed) -> None:
        receiver, owed.receiver = owed.receiver, None
        if receiver is not None:
            receiver.give_back(owed.size)

    def _remove(self, owed: Owed) -> list[Owed]:
        self._end_lease(owed)
        done = [owed]
        lane = self._lane_of(owed)
        if lane is not None:
            place = lane.owed.index(owed)
            del lane.owed[place]
            if place < lane.delivered:
                lane.delivered -= 1
            while lane.delivered and lane.owed[0].standing is Standing.SETTLED_EARLY:
                done.append(lane.owed.popleft())
                lane.delivered -= 1
            if not lane.owed:
                del self._lanes[owed.ordering_key]
            elif lane.delivered == 0:
                self._offer(lane.owed[0])
        for each in done:
            each.standing = Standing.GONE
            self._owed.pop(each.message_id, None)
        return done

    def _fail(self, owed: Owed, now: float) -> None:
        owed.failures += 1
        if self.terms.max_attempts is not None:
            self._failed.append(owed)
        if self.terms.min_backoff_seconds > 0:
            exponent = min(owed.failures - 1, _LARGEST_EXPONENT)
            pause = min(self.terms.min_backoff_seconds * 2**exponent, self.terms.max_backoff_seconds)
            owed.rests_until = now + pause
        self._return(owed, now)

    def _return(self, owed: Owed, now: float) -> None:
        """Bring a message back to be delivered again, and with it every later one of its ordering key."""
        self._end_lease(owed)
        lane = self._lane_of(owed)
        if lane is not None:
            place = lane.owed.index(owed)
            for position in range(place + 1, lane.delivered):
                later = lane.owed[position]
                self._end_lease(later)
                later.generation += 1
                later.standing = Standing.READY
            lane.delivered = min(lane.delivered, place)
        owed.standing = Standing.RESTING if owed.rests_until > now else Standing.READY
        if self.terms.max_attempts is not None and owed.failures >= self.terms.max_attempts:
            owed.standing = Standing.EXHAUSTED
            self._exhausted.append(owed)
        elif lane is None or lane.delivered == 0:
            self._offer(owed if lane is None else lane.owed[0])

    def _offer(self, owed: Owed) -> None:
        if owed.standing is Standing.READY:
            heappush(self._ready, owed.message_id)
        elif owed.standing is Standing.RESTING:
            heappush(self._resting, (owed.rests_until, owed.message_id))
