"""Works stored plans until they end: releases their orders as ordinary signals, and tells the result once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

import structlog

from execution_service.core.messages.targets import order_of, plan_result
from execution_service.core.orders.cancel import Cancel
from execution_service.core.orders.request import Identity, Purpose
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.planning.progress import (
    Outcome,
    PlanState,
    Progress,
    Release,
    next_releases,
    progress,
)
from execution_service.core.planning.records import PlanRecord
from execution_service.core.texts.plans import plan_ended, plan_set_aside
from execution_service.ownership.ownership import Ownership
from execution_service.planning.holdings import Holdings
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.store import Store
from execution_service.transport.ports import Message, Publisher, PublishFailed

log = structlog.get_logger(__name__)

LOOK_SECONDS, IDLE_SECONDS = 0.5, 60.0
"""Between two looks: while a plan is open, and while none is. A plan is stored by the process that works its account, which wakes itself; idle looks
are for accounts that were taken over."""


class TakesSignals(Protocol):
    """The one intake."""

    async def take(self, messages: Sequence[Message]) -> list[str]:
        """Stores what the messages mean. Raises StoreUnavailable."""


class CancelsSignals(Protocol):
    """The verb to cancel."""

    async def carry_out(self, cancel: Cancel) -> object:
        """Raises StoreUnavailable."""


class Plans:
    """What is to be done for a plan follows each time from its record and its orders' records: a death at any point loses nothing, and does
    nothing twice."""

    def __init__(
        self,
        *,
        store: Store,
        intake: TakesSignals,
        cancels: CancelsSignals,
        holdings: Holdings,
        ownership: Ownership,
        alerts: RaisesAlerts,
        clock: Clock,
        results: Publisher | None,
    ) -> None:
        """`results`: where results are published; None: nowhere, they are in the store."""
        self._store = store
        self._intake = intake
        self._cancels = cancels
        self._holdings = holdings
        self._ownership = ownership
        self._alerts = alerts
        self._clock = clock
        self._results = results
        self._turn = asyncio.Lock()
        self.wake = WakeUp(clock)
        """To be told when a plan was stored."""

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        return (Part("plans", self.run),)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            has_open = True
            try:
                has_open = await self.work()
            except StoreUnavailable as exc:
                log.debug(f"Plans wait for the store: {exc}", action="plans_waiting")
            await self.wake.wait(LOOK_SECONDS if has_open else IDLE_SECONDS)

    async def work(self) -> bool:
        """Takes every open plan of our accounts one step further; whether there is any. One call after the other. Raises StoreUnavailable."""
        async with self._turn:
            return await self._work_all()

    async def _work_all(self) -> bool:
        found = await self._store.open_plans()
        for record in found:
            if not self._ownership.is_ours(record.plan.targets.account_id):
                continue
            try:
                await self._step(record)
            except (StoreUnavailable, PublishFailed) as exc:
                log.debug(f"Plan {record.plan.plan_id} waits: {exc}", action="plan_waiting")
            except Exception as exc:
                # One plan that cannot be worked must not hold up the others.
                plan_id = record.plan.plan_id
                log.error(f"Plan {plan_id} failed: {exc}", action="plan_failed", plan_id=plan_id, exc_info=exc)
                words = plan_set_aside(plan_id=plan_id, reason=f"{type(exc).__name__}: {exc}")
                await self._alerts.raise_alert_once(f"plan_failed:{plan_id}", "plan_failed", words)
        return bool(found)

    async def is_at_work(self, record: PlanRecord) -> bool:
        """Whether orders of the plan may still fill. Raises StoreUnavailable."""
        _, outcomes = await self._outcomes(record)
        sent = [release for release in record.releases if release.quantity]
        return any(r.signal_id not in outcomes or not outcomes[r.signal_id].is_final for r in sent)

    async def _step(self, record: PlanRecord) -> None:
        stored, outcomes = await self._outcomes(record)
        now = self._clock.now()
        at = self._progress(record, outcomes, now)
        await self._send([r for r in record.releases if r.quantity and r.signal_id not in stored], record)
        if record.superseded_by is not None:
            await self._cancel_working(record, stored)
        elif at.state is PlanState.WORKING:
            targets = record.plan.targets
            held = await self._holdings.held(targets.account_id, targets.strategy_id)
            if held is not None:
                more = next_releases(at, record.releases_by_signal, None, held, now)
                if more:
                    await self._release(record, more)
                    return
        if at.state is not PlanState.WORKING:
            await self._tell(record, at, outcomes, now)

    def _progress(self, record: PlanRecord, outcomes: Mapping[str, Outcome], now: datetime) -> Progress:
        is_superseded = record.superseded_by is not None
        return progress(record.plan, record.releases_by_signal, outcomes, now, is_superseded=is_superseded)

    async def _release(self, record: PlanRecord, more: Sequence[Release]) -> None:
        """Durable before anything is sent; who else has changed the plan since decides anew."""
        changed = replace(record, releases=(*record.releases, *more), version=record.version + 1)
        if await self._store.put_plan(changed):
            await self._send([release for release in more if release.quantity], changed)

    async def _send(self, releases: Sequence[Release], record: PlanRecord) -> None:
        """Each is one order, however often it is sent. Its age counts from its release."""
        messages = [
            Message(message_id=r.signal_id, data=order_of(record.plan, r), publish_time=r.released_at) for r in releases
        ]
        if messages:
            await self._intake.take(messages)

    async def _outcomes(self, record: PlanRecord) -> tuple[Mapping[str, Stored], Mapping[str, Outcome]]:
        by_order = {_order_id(record, release): release.signal_id for release in record.releases if release.quantity}
        found = await self._store.load(list(by_order)) if by_order else []
        stored = {by_order[each.order.order_id]: each for each in found}
        return stored, {signal_id: _outcome(each) for signal_id, each in stored.items()}

    async def _cancel_working(self, record: PlanRecord, stored: Mapping[str, Stored]) -> None:
        for signal_id, each in stored.items():
            order, now = each.order, self._clock.now()
            if order.status.is_final or order.cancel_request is not None:
                continue
            await self._cancels.carry_out(
                Cancel(
                    command_id=f"plan-{signal_id}",
                    order_id=None,
                    signal_id=signal_id,
                    leg_index=0,
                    reason=Reason(ReasonCode.CANCEL_REQUESTED, f"superseded by {record.superseded_by}"),
                    requested_by="plan",
                    published_at=now,
                    received_at=now,
                    is_message=False,
                )
            )

    async def _tell(self, record: PlanRecord, at: Progress, outcomes: Mapping[str, Outcome], now: datetime) -> None:
        """May be told again after a death; each time the same, under one id."""
        plan = record.plan
        trades = [trade for outcome in outcomes.values() for trade in outcome.trade_ids]
        body = plan_result(at, trades, now)
        if at.state in (PlanState.PARTIAL, PlanState.FAILED):
            await self._alerts.raise_alert_once(f"plan:{plan.plan_id}", "plan_ended", plan_ended(at))
        if self._results is not None:
            attributes = {"event_id": plan.plan_id, "status": at.state.value, "account_id": plan.targets.account_id}
            await self._results.publish(json.dumps(body).encode(), attributes, "")
        log.info(f"Plan {plan.plan_id} has ended: {at.state}", action="plan_ended", plan_id=plan.plan_id)
        await self._store.put_plan(replace(record, version=record.version + 1, state=at.state, is_told=True))


def _order_id(record: PlanRecord, release: Release) -> str:
    purpose = Purpose.EXIT if record.plan.leg(release.leg).is_exit else Purpose.ENTRY
    return Identity(signal_id=release.signal_id, leg_index=0, purpose=purpose).order_id


def _outcome(stored: Stored) -> Outcome:
    order = stored.order
    reason = None if order.reason is None else f"{order.reason.code.value}: {order.reason.message}"
    return Outcome(
        filled=order.filled_quantity,
        # Only when the ledger has all of it: the next step goes by what is held.
        is_final=order.status.is_final and (not order.fills or stored.told.ledger >= order.version),
        rejection=reason if order.status is Status.REJECTED else None,
        trade_ids=tuple(fill.fill_id for fill in order.fills),
    )
