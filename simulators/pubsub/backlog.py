"""One subscription's messages in memory: what is ready and what is leased to whom.

No gRPC, no disk and no clock here: every moment is passed in as monotonic seconds, so a jump of the wall clock can
neither end nor lengthen a lease.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol


class HasRoom(Protocol):
    """Who learns that a receiver may take messages again."""

    def stir(self, receiver: Receiver) -> None: ...


class Receiver:
    """One open stream or waiting pull, and how many messages it may hold unacknowledged (0 or less: no limit)."""

    __slots__ = ("_max_messages", "_owner", "held")

    def __init__(self, *, max_messages: int = 0, owner: HasRoom | None = None) -> None:
        self._max_messages = max_messages
        self.held = 0
        self._owner = owner

    @property
    def has_room(self) -> bool:
        return not 0 < self._max_messages <= self.held

    def take(self) -> None:
        """One message more is held."""
        self.held += 1

    def give_back(self) -> None:
        """One message less is held."""
        self.held -= 1
        if self._owner is not None:
            self._owner.stir(self)


@dataclass(slots=True, eq=False)
class Owed:
    """One message that a subscription has not had acknowledged. `body` is a serialized PubsubMessage; `receiver` holds it leased until `deadline`
    (monotonic); `generation` counts its deliveries."""

    message_id: int
    published_us: int
    body: bytes
    generation: int = 0
    deadline: float = 0.0
    receiver: Receiver | None = None


class Backlog:
    """All messages one subscription still owes, and who holds which of them. A delivery is a message id and a generation."""

    def __init__(self) -> None:
        self._owed: dict[int, Owed] = {}
        self._ready: list[int] = []
        self._leases: list[tuple[float, int, int]] = []

    def __len__(self) -> int:
        return len(self._owed)

    @property
    def ready_estimate(self) -> int:
        """How many messages may be ready: never too few, sometimes too many."""
        return len(self._ready)

    def add(self, owed: Owed) -> None:
        """Take in a newly published (or reloaded) message."""
        self._owed[owed.message_id] = owed
        heappush(self._ready, owed.message_id)

    def peek(self) -> Owed | None:
        """The next message to deliver, the earliest published, without taking it."""
        while self._ready:
            owed = self._owed.get(self._ready[0])
            if owed is not None and owed.receiver is None:
                return owed
            heappop(self._ready)
        return None

    def take(
        self, receiver: Receiver, *, now: float, deadline_seconds: float, max_messages: int, max_bytes: int
    ) -> list[Owed]:
        """Lease what is ready to `receiver`, at most `max_messages` and about `max_bytes`, but one message however large it is."""
        taken: list[Owed] = []
        room = max_bytes
        while len(taken) < max_messages:
            owed = self.peek()
            if owed is None or not receiver.has_room or (taken and len(owed.body) > room):
                break
            heappop(self._ready)
            owed.generation += 1
            owed.deadline = now + deadline_seconds
            owed.receiver = receiver
            receiver.take()
            heappush(self._leases, (owed.deadline, owed.message_id, owed.generation))
            room -= len(owed.body)
            taken.append(owed)
        return taken

    def acknowledge(self, message_id: int, generation: int) -> bool:
        """Settle one delivery for good, also one whose lease has ended if it was not delivered again; False for a stale one."""
        owed = self._owed.get(message_id)
        if owed is None or owed.generation != generation:
            return False
        self.discard(owed)
        return True

    def extend(self, message_id: int, generation: int, *, now: float, seconds: float) -> None:
        """Move the end of a lease to `seconds` from now; a stale delivery is left alone."""
        owed = self._leased(message_id, generation)
        if owed is None:
            return
        is_shorter = now + seconds < owed.deadline
        owed.deadline = now + seconds
        if is_shorter:
            heappush(self._leases, (owed.deadline, message_id, generation))

    def refuse(self, message_id: int, generation: int) -> None:
        """A nack: the message is ready again, and the delivery's acknowledgement id is void."""
        owed = self._leased(message_id, generation)
        if owed is not None:
            self.put_back(owed)
            owed.generation += 1

    def put_back(self, owed: Owed) -> None:
        """End a lease, acknowledged or not: the message is ready again."""
        if owed.receiver is not None:
            self._end_lease(owed)
            heappush(self._ready, owed.message_id)

    def expire(self, now: float) -> None:
        """End the leases that are over."""
        while self._leases and self._leases[0][0] <= now:
            _, message_id, generation = heappop(self._leases)
            owed = self._leased(message_id, generation)
            if owed is not None and owed.deadline > now:
                heappush(self._leases, (owed.deadline, message_id, generation))
            elif owed is not None:
                self.put_back(owed)

    def next_event(self) -> float | None:
        """When `expire` has something to look at again, or None."""
        while self._leases and self._leased(*self._leases[0][1:]) is None:
            heappop(self._leases)
        return self._leases[0][0] if self._leases else None

    def discard(self, owed: Owed) -> None:
        """Settle a message, leased or not."""
        self._end_lease(owed)
        self._owed.pop(owed.message_id, None)

    def published_before(self, moment_us: int) -> list[Owed]:
        """The owed messages published before a moment (microseconds since 1970 UTC)."""
        return [owed for owed in self._owed.values() if owed.published_us < moment_us]

    def _leased(self, message_id: int, generation: int) -> Owed | None:
        owed = self._owed.get(message_id)
        if owed is None or owed.generation != generation or owed.receiver is None:
            return None
        return owed

    def _end_lease(self, owed: Owed) -> None:
        receiver, owed.receiver = owed.receiver, None
        if receiver is not None:
            receiver.give_back()
