"""Random faults of a simulated gateway, reproducible by a seed: which and when. How a gateway carries them out is
not here."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from brokers.base import Ticket
from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Action, Fault, Operation

DEFAULT_RATE = 0.1
_REMEMBERED = 1000
_LONGEST_SECONDS = 3.0
_ACTIONS: Mapping[tuple[Operation, bool], tuple[Action, ...]] = {
    (Operation.CONNECT, True): (Action.UNAVAILABLE, Action.SLOW),
    (Operation.PLACE, True): (
        Action.REFUSE,
        Action.UNAVAILABLE,
        Action.DROP_BEFORE_ACCEPT,
        Action.ACCEPT_THEN_DROP,
        Action.NEVER_ANSWER,
        Action.SLOW,
    ),
    (Operation.PLACE, False): (Action.REJECT, Action.HOLD, Action.OVERFILL, Action.LATE_COMMISSION),
    (Operation.CANCEL, True): (Action.REFUSE, Action.DROP_BEFORE_ACCEPT, Action.ACCEPT_THEN_DROP, Action.SLOW),
    (Operation.CANCEL, False): (Action.IGNORE_CANCEL, Action.CANCEL_RACE, Action.LATE_FILL_AFTER_CANCEL),
    (Operation.REPORTS, True): (Action.UNAVAILABLE, Action.DROP_BEFORE_ACCEPT, Action.SLOW),
}
"""By operation, and whether it happens on the way to the book (True) or in it."""


@dataclass(frozen=True, slots=True)
class Played:
    """One fault of the plan that hit a call: the `number`th (from 1) of its operation about this order (or about
    none)."""

    operation: Operation
    client_order_id: str
    number: int
    action: Action


class FaultPlan:
    """Drawn for each call from the seed, the operation, the order and the number of such calls, so that neither the
    sequence of orders nor timing matters. `rate` is the probability, 0 to 1, applied once on the way to the book and
    once in the book. Thread-safe."""

    def __init__(self, seed: str, rate: float = DEFAULT_RATE) -> None:
        """Raises ValueError."""
        if not seed or not 0 < rate <= 1:
            raise ValueError(f"a fault plan needs a seed and a rate above 0 and up to 1, not {seed!r} and {rate}")
        self.seed = seed
        self.rate = rate
        self.played: deque[Played] = deque(maxlen=_REMEMBERED)
        """The latest faults, oldest first."""
        self._count = 0
        self._calls: Counter[tuple[Operation, bool, str]] = Counter()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, said: str) -> FaultPlan:
        """`SEED` or `SEED:RATE`. Raises ValueError."""
        seed, _, rate = said.partition(":")
        return cls(seed, float(rate) if rate else DEFAULT_RATE)

    def draw(self, operation: Operation, client_order_id: str, *, on_the_way: bool) -> list[Fault]:
        """The faults of this call: none or one."""
        actions = _ACTIONS.get((operation, on_the_way))
        if actions is None:
            return []
        with self._lock:
            key = operation, on_the_way, client_order_id
            self._calls[key] += 1
            number = self._calls[key]
            luck = random.Random(f"{self.seed}:{operation}:{on_the_way}:{client_order_id}:{number}")
            if luck.random() >= self.rate:
                return []
            fault = Fault(
                operation=operation,
                action=luck.choice(actions),
                reason=f"Refused by the fault plan {self.seed}",
                seconds=round(luck.uniform(0.1, _LONGEST_SECONDS), 1),
                quantity=Decimal(1),
                accepted=luck.random() < 0.5,
            )
            self._count += 1
            self.played.append(Played(operation, client_order_id, number, fault.action))
            return [fault]

    def state(self) -> dict[str, Any]:
        """For the gateway's state."""
        with self._lock:
            latest = [(p.operation, p.client_order_id, p.number, p.action) for p in self.played]
            return {"seed": self.seed, "rate": self.rate, "played": self._count, "latest": latest}


class PlannedBook(PaperExchange):
    """A book whose gateway plays the faults of a plan, if there is one, besides those that were armed."""

    fault_plan: FaultPlan | None = None
    stops_rest = True

    def draw(
        self, operation: Operation, client_order_id: str = "", symbol: str | None = None, now: datetime | None = None
    ) -> tuple[Fault, ...]:
        ordered = super().draw(operation, client_order_id, symbol, now)
        return ordered or tuple(self._planned(operation, client_order_id, on_the_way=True))

    def clear_faults(self) -> None:
        """Including those of the plan, which is ended."""
        super().clear_faults()
        self.fault_plan = None

    def _faults_in_the_book(
        self, db: sqlite3.Connection, operation: Operation, ticket: Ticket, moment: int
    ) -> dict[Action, Fault]:
        ordered = super()._faults_in_the_book(db, operation, ticket, moment)
        if ordered:
            return ordered
        planned = self._planned(operation, ticket.client_order_id, on_the_way=False)
        return {fault.action: fault for fault in planned}

    def _planned(self, operation: Operation, client_order_id: str, *, on_the_way: bool) -> list[Fault]:
        plan = self.fault_plan
        return [] if plan is None else plan.draw(operation, client_order_id, on_the_way=on_the_way)
