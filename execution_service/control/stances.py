"""The verb to set a stance: written with its audit in one write; an EMERGENCY has working entries cancelled. HALT is the verb to kill (kill.py)."""

from __future__ import annotations

import json
from typing import Protocol

from execution_service.control.kill import CancelsByName, working_entries
from execution_service.control.requests import StanceRequest
from execution_service.control.results import Done, Refused
from execution_service.core.orders.cancel import Cancel
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import Reason, ReasonCode
from execution_service.core.planning.stances import StanceRecord, StanceRefused, with_stance
from execution_service.core.planning.targets import Aggressiveness
from execution_service.core.texts.plans import stance_set
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.stances import StanceStore
from execution_service.storage.ports.store import Store

MOST_TRIES = 50
"""So often in succession somebody else may be first to change a stance."""


class LearnsStances(Protocol):
    """Who goes by the stances in this process."""

    def learn(self, record: StanceRecord) -> None:
        """This process has written it: it counts from now on."""


class NobodyLearnsStances:
    """In a process that sends no orders."""

    def learn(self, record: StanceRecord) -> None:
        """Nothing leaves here."""


class StanceWriter:
    """Sets stances, for whoever asks: the service, and execctl where no service runs. One command sets one once, however often it is called."""

    def __init__(self, *, store: StanceStore, learner: LearnsStances, clock: Clock) -> None:
        self._store = store
        self._learner = learner
        self._clock = clock

    async def set(self, asked: StanceRequest) -> StanceRecord:
        """Durable, and every order that was judged before is judged anew, when it returns. Raises StanceRefused; StoreUnavailable: it may be set, and
        is to be asked for again."""
        for _ in range(MOST_TRIES):
            before, record = await self._wanted(asked)
            if record is before or await self._store.put_stance(record):
                self._learner.learn(record)
                await self._store.raise_fences(asked.scope)
                return record
        raise StoreUnavailable(
            f"the stance of {asked.scope} could not be written: it is changed by others all the time"
        )

    async def check(self, asked: StanceRequest) -> None:
        """Writes nothing. Raises StanceRefused: it would not be set as things stand; StoreUnavailable."""
        await self._wanted(asked)

    async def _wanted(self, asked: StanceRequest) -> tuple[StanceRecord | None, StanceRecord]:
        """The record as it is, and as it is to be: the same where this command has set it."""
        known = await self._store.stances()
        before = next((each for each in known.records if each.scope == asked.scope), None)
        record = with_stance(
            before,
            asked.scope,
            asked.stance,
            by=asked.by,
            reason=asked.reason,
            asked_at=asked.asked_at,
            now=self._clock.now(),
            until=asked.until,
            command_id=asked.command_id,
        )
        return before, record


class SetStance:
    """May be asked for again after a death anywhere: the stance is set once by one command, and a working entry is asked to end once."""

    def __init__(
        self, *, writer: StanceWriter, cancel: CancelsByName, store: Store, alerts: RaisesAlerts, clock: Clock
    ) -> None:
        self._writer = writer
        self._cancel = cancel
        self._store = store
        self._alerts = alerts
        self._clock = clock

    async def carry_out(self, asked: StanceRequest) -> Done | Refused:
        """Done when it is durable, and where it is an EMERGENCY that holds the working entries within the scope have been asked to end; the words are
        JSON. Refused: nothing has changed. Raises StoreUnavailable."""
        try:
            record = await self._writer.set(asked)
        except StanceRefused as exc:
            return Refused(str(exc))
        change = record.change_by(asked.command_id) or record.latest
        mark = f"stance:{record.scope}:{change.version}"
        await self._alerts.raise_alert_once(mark, mark, stance_set(str(record.scope), change))
        cancels = 0
        # One that is taken up again after its end has nothing to cancel any more.
        holds = record.latest is change and record.at(self._clock.now()) is Aggressiveness.EMERGENCY
        if holds:
            entries = await working_entries(self._store, asked.scope)
            for order in entries:
                await self._cancel.carry_out(_cancel_of(order, asked))
            cancels = len(entries)
        return Done(json.dumps(stance_answer(record) | {"cancels_asked": cancels}))


def stance_answer(record: StanceRecord) -> dict[str, object]:
    """What is told of a stance."""
    latest = record.latest
    return {
        "scope": str(record.scope),
        "stance": latest.stance.value,
        "version": latest.version,
        "by": latest.by,
        "reason": latest.reason,
        "since": latest.at.isoformat(timespec="milliseconds"),
        "until": None if latest.until is None else latest.until.isoformat(timespec="milliseconds"),
    }


def _cancel_of(order: Order, asked: StanceRequest) -> Cancel:
    words = (
        f"stance EMERGENCY of {asked.scope}, set by {asked.by or 'nobody named'}: {asked.reason or 'no reason given'}"
    )
    return Cancel(
        command_id=f"{asked.command_id}:{order.order_id}",
        order_id=order.order_id,
        signal_id=None,
        leg_index=None,
        reason=Reason(ReasonCode.CANCEL_REQUESTED, words),
        requested_by=asked.by or "stance",
        published_at=asked.asked_at,
        received_at=asked.asked_at,
        is_message=False,
    )
