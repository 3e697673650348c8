"""Works stored plans until they end: releases their orders as ordinary signals, has rounds follow that ended short, and tells the result once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

import structlog

from execution_service.core.messages.targets import order_of, plan_result
from execution_service.core.orders.cancel import Cancel
from execution_service.core.orders.request import Identity, Purpose
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.planning.plan import Leg, LegState, Phase, Plan, make_plan
from execution_service.core.planning.progress import (
    Outcome,
    PlanState,
    Progress,
    Release,
    cash_needed,
    next_releases,
    progress,
    tame_releases,
    with_followers,
)
from execution_service.core.planning.records import PlanRecord, Round, RoundKind
from execution_service.core.planning.rounds import (
    ended,
    next_round,
    settings_of_round,
    targets_of_round,
    wants_equity,
)
from execution_service.core.planning.rules import PlanRule, PlanRules
from execution_service.core.planning.targets import PlanRefused
from execution_service.core.risk.limits import Scope
from execution_service.core.texts.plans import plan_ended, plan_set_aside, plan_waits_for_broker
from execution_service.core.trades.rows import trade_id_of
from execution_service.ownership.ownership import Ownership
from execution_service.planning.holdings import Holdings, NotNow
from execution_service.planning.order_records import OrderRecords
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
LEGS_A_LOOK = 500
"""With more of them open the looks are rarer in proportion, so that plans of any size take a small part of the process's time."""
CASH_WAIT = timedelta(seconds=30)
"""So long after the last fill of a plan its increases wait for the broker to show the cash that they need; then they are cut to what it shows."""
WAIT_TOLD_AFTER = timedelta(seconds=60)
"""A plan that has waited for its broker for so long is told to people, once."""
_NOT_KNOWN_WHAT_IS_HELD = "what is held is not known now"


class TakesSignals(Protocol):
    """The one intake."""

    async def take(self, messages: Sequence[Message]) -> list[str]:
        """Stores what the messages mean. Raises StoreUnavailable."""


class CancelsSignals(Protocol):
    """The verb to cancel."""

    async def carry_out(self, cancel: Cancel) -> object:
        """Raises StoreUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """One round as it stands: its orders' records by signal id, and what became of them."""

    round: Round
    stored: Mapping[str, Stored]
    outcomes: Mapping[str, Outcome]
    at: Progress


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
        records: OrderRecords,
        ownership: Ownership,
        alerts: RaisesAlerts,
        clock: Clock,
        results: Publisher | None,
        rules: PlanRules,
    ) -> None:
        """`results`: where results are published; None: nowhere, they are in the store."""
        self._store = store
        self._records = records
        self._intake = intake
        self._cancels = cancels
        self._holdings = holdings
        self._ownership = ownership
        self._alerts = alerts
        self._clock = clock
        self._results = results
        self._rules = rules
        self._turn = asyncio.Lock()
        self.wake = WakeUp(clock)
        """To be told when a plan was stored."""

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        return (Part("plans", self.run),)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            legs = 1
            try:
                legs = await self.work()
            except StoreUnavailable as exc:
                log.debug(f"Plans wait for the store: {exc}", action="plans_waiting")
            await self.wake.wait(LOOK_SECONDS * max(1.0, legs / LEGS_A_LOOK) if legs else IDLE_SECONDS)

    async def work(self) -> int:
        """Takes every open plan of our accounts one step further; how many legs there are in open plans, at least one for each. One call
        after the other. Raises StoreUnavailable."""
        async with self._turn:
            return await self._work_all()

    async def _work_all(self) -> int:
        found = await self._store.open_plans()
        for record in found:
            if not self._ownership.is_ours(record.plan.targets.account_id):
                continue
            try:
                await self._step(record)
            except (StoreUnavailable, PublishFailed) as exc:
                log.debug(f"Plan {record.plan_id} waits: {exc}", action="plan_waiting")
            except Exception as exc:
                # One plan that cannot be worked must not hold up the others.
                plan_id = record.plan_id
                log.error(f"Plan {plan_id} failed: {exc}", action="plan_failed", plan_id=plan_id, exc_info=exc)
                words = plan_set_aside(plan_id=plan_id, reason=f"{type(exc).__name__}: {exc}")
                await self._alerts.raise_alert_once(f"plan_failed:{plan_id}", "plan_failed", words)
        return sum(max(1, len(record.plan.legs)) for record in found)

    async def is_at_work(self, record: PlanRecord) -> bool:
        """Whether orders of the plan may still fill, or be sent. One in doubt is not waited for: it blocks its own instrument, and no other. Raises
        StoreUnavailable."""
        now = self._clock.now()
        for each in record.rounds:
            looked = await self._look(record, each, now)
            sent = [release for release in each.releases if release.quantity and not release.is_void]
            if any(r.signal_id not in looked.stored or _may_go_on(looked, r.signal_id) for r in sent):
                return True
        return False

    # --- one step -------------------------------------------------------------------------------------------------

    async def _step(self, record: PlanRecord) -> None:
        now = self._clock.now()
        here = await self._look(record, record.rounds[-1], now)
        unsent = [r for r in record.releases if r.quantity and not r.is_void and r.signal_id not in here.stored]
        if record.superseded_by is not None:
            if unsent:
                await self._void(record, unsent)
                return
            await self._cancel(here.stored, f"superseded by {record.superseded_by}")
        elif unsent:
            await self._send(unsent, record)
            return
        elif here.at.state is PlanState.WORKING:
            await self._go_on(record, here, now)
            return
        if here.at.state is not PlanState.WORKING:
            await self._end(record, here, now)

    async def _go_on(self, record: PlanRecord, here: _Round, now: datetime) -> None:
        """What may be sent next is sent; what is sent too tamely for the present makes way."""
        targets = record.plan.targets
        held = await self._holdings.held(targets.account_id, targets.strategy_id)
        if held is None:
            await self._wait(record, here, now, _NOT_KNOWN_WHAT_IS_HELD)
            return
        waiting = [leg for leg in here.at.legs if leg.state in (LegState.WAITING, LegState.RELEASED)]
        to_send = {leg.number for leg in waiting if leg.state is LegState.WAITING} | here.at.to_follow.keys()
        conduct = await self._holdings.conduct(targets, waiting, to_send, self._rule(record.plan))
        if isinstance(conduct, NotNow):
            await self._wait(record, here, now, conduct.words)
            return
        releases = record.releases_by_signal
        tame = [
            release
            for release in tame_releases(here.at, releases, here.outcomes, conduct)
            if here.stored[release.signal_id].order.cancel_request is None
        ]
        if tame:
            await self._replace(record, here, tame)
            return
        cash = await self._cash(record, here, waiting, now)
        if isinstance(cash, NotNow):
            # Reductions bring the cash, and need none.
            increases = [leg.number for leg in waiting if not leg.is_exit]
            conduct = {**conduct, **{n: replace(conduct[n], not_now=cash.words) for n in increases}}
        more = next_releases(
            here.at,
            releases,
            None if isinstance(cash, NotNow) else cash,
            held,
            now,
            phases_together=self._rule(record.plan).phases_together is True,
            conduct=conduct,
        )
        if more:
            await self._release(record, more)
            return
        reasons = [each.not_now for each in conduct.values() if each.not_now is not None]
        if reasons:
            await self._wait(record, here, now, reasons[0])

    async def _wait(self, record: PlanRecord, here: _Round, now: datetime, why: str) -> None:
        """Told once it has lasted, unless an order is at work meanwhile."""
        if not any(leg.state is LegState.RELEASED and leg.number not in here.at.to_follow for leg in here.at.legs):
            await self._tell_waiting(record, here, now, why)

    async def _cash(
        self, record: PlanRecord, here: _Round, waiting: Sequence[Leg], now: datetime
    ) -> Decimal | NotNow | None:
        """What increases may spend. None: they are not bounded by it. NotNow: it is not known, or not yet there."""
        to_send = [leg for leg in waiting if leg.state is LegState.WAITING or leg.number in here.at.to_follow]
        increases = [leg for leg in to_send if leg.phase is Phase.INCREASE]
        rule = self._rule(record.plan)
        is_their_turn = rule.phases_together is True or all(
            leg.state not in (LegState.WAITING, LegState.RELEASED) for leg in here.at.legs if leg.is_exit
        )
        if not (increases and is_their_turn and rule.is_bounded_by_cash):
            return None
        cash = await self._holdings.cash(record.plan.targets.account_id, increases)
        if not isinstance(cash, Decimal) or cash >= cash_needed(here.at, record.releases_by_signal):
            return cash
        fills = _fill_times(here)
        if fills and now - max(fills) < CASH_WAIT:
            return NotNow("the broker does not show the cash of the last fills yet")
        return cash

    def _rule(self, plan: Plan) -> PlanRule:
        return self._rules.of(Scope(account_id=plan.targets.account_id, strategy=plan.targets.strategy_id))

    async def _release(self, record: PlanRecord, more: Sequence[Release]) -> None:
        """Durable before anything is sent; who else has changed the plan since decides anew."""
        changed = replace(record, releases=(*record.releases, *more), version=record.version + 1)
        if await self._store.put_plan(changed):
            await self._send([release for release in more if release.quantity], changed)

    async def _send(self, releases: Sequence[Release], record: PlanRecord) -> None:
        """Each is one order, however often it is sent. Its age counts from its release. Whoever has lost the account leaves it to who has it."""
        messages = [
            Message(message_id=r.signal_id, data=order_of(record.plan, r), publish_time=r.released_at) for r in releases
        ]
        if messages and self._ownership.is_ours(record.plan.targets.account_id):
            await self._intake.take(messages)

    async def _void(self, record: PlanRecord, unsent: Collection[Release]) -> None:
        """What was released and not sent before the plan was superseded never is: durable before the newer plan is computed."""
        names = {release.signal_id for release in unsent}
        releases = tuple(replace(r, is_void=True) if r.signal_id in names else r for r in record.releases)
        await self._store.put_plan(replace(record, releases=releases, version=record.version + 1))
        self.wake.tell()

    async def _replace(self, record: PlanRecord, here: _Round, tame: Sequence[Release]) -> None:
        """Durable that another order follows, before the one that works is asked to end."""
        marked = with_followers(record.releases, tame)
        if marked != record.releases:
            changed = replace(record, releases=marked, version=record.version + 1)
            if not await self._store.put_plan(changed):
                return
        stored = {name: each for name, each in here.stored.items() if name in {r.signal_id for r in tame}}
        await self._cancel(stored, "another order takes its place, since the stance has changed")

    # --- what there is --------------------------------------------------------------------------------------------

    async def _look(self, record: PlanRecord, each: Round, now: datetime) -> _Round:
        by_order = {
            _order_id(each.plan, release): release.signal_id
            for release in each.releases
            if release.quantity and not release.is_void
        }
        found = await self._records.of(by_order)
        stored = {by_order[order_id]: one for order_id, one in found.items()}
        outcomes = {signal_id: _outcome(one) for signal_id, one in stored.items()}
        releases = {release.signal_id: release for release in each.releases}
        is_superseded = record.superseded_by is not None
        at = progress(each.plan, releases, outcomes, now, is_superseded=is_superseded)
        return _Round(round=each, stored=stored, outcomes=outcomes, at=at)

    async def _cancel(self, some: Mapping[str, Stored], words: str) -> None:
        for signal_id, each in some.items():
            order, now = each.order, self._clock.now()
            if order.status.is_final or order.cancel_request is not None:
                continue
            await self._cancels.carry_out(
                Cancel(
                    command_id=f"plan-{signal_id}",
                    order_id=None,
                    signal_id=signal_id,
                    leg_index=0,
                    reason=Reason(ReasonCode.CANCEL_REQUESTED, words),
                    requested_by="plan",
                    published_at=now,
                    received_at=now,
                    is_message=False,
                )
            )

    # --- the end --------------------------------------------------------------------------------------------------

    async def _end(self, record: PlanRecord, here: _Round, now: datetime) -> None:
        """Another round where one is to follow, else the result."""
        following = next_round(record, here.at, self._rule(record.plan).when_short, now)
        if following is None:
            rounds = [*[await self._look(record, each, now) for each in record.earlier], here]
            await self._tell(record, rounds, now)
        elif record.next_round_at is None:
            await self._store.put_plan(replace(record, next_round_at=following.at, version=record.version + 1))
            self.wake.tell()
        elif now >= record.next_round_at:
            await self._follow(record, here, following.kind)

    async def _follow(self, record: PlanRecord, here: _Round, kind: RoundKind) -> None:
        """Planned once, like the first: what is stored is the answer. Where nothing can be planned, nothing follows."""
        planned = record.plan.targets
        held = await self._holdings.held(planned.account_id, planned.strategy_id)
        if held is None:
            await self._tell_waiting(record, here, self._clock.now(), _NOT_KNOWN_WHAT_IS_HELD)
            return
        targets = targets_of_round(record, here.at, kind, held)
        known = await self._holdings.facts(targets, self._rules)
        if isinstance(known, NotNow):
            await self._tell_waiting(record, here, self._clock.now(), known.words)
            return
        facts, money = known
        settings = settings_of_round(self._rule(record.plan).settings, kind)
        if wants_equity(record, kind, targets, settings, money):
            await self._tell_waiting(record, here, self._clock.now(), "the account's equity is not known")
            return
        try:
            plan = make_plan(targets, facts, money, settings, self._clock.now())
            changed = record.with_round(kind, plan)
        except PlanRefused as exc:
            log.warning(f"Nothing follows plan {record.plan_id}: {exc}", action="plan_round_refused")
            changed = replace(record, is_over=True, version=record.version + 1)
        await self._store.put_plan(changed)
        self.wake.tell()

    async def _tell(self, record: PlanRecord, rounds: Sequence[_Round], now: datetime) -> None:
        """May be told again after a death; each time the same, under one id."""
        stand = [each.at for each in rounds]
        state = ended(record, stand).state
        trades = [trade for each in rounds for outcome in each.outcomes.values() for trade in outcome.trade_ids]
        body = plan_result(record, stand, trades, now)
        if state in (PlanState.PARTIAL, PlanState.FAILED):
            await self._alerts.raise_alert_once(f"plan:{record.plan_id}", "plan_ended", plan_ended(record, stand))
        if self._results is not None:
            account_id = record.plan.targets.account_id
            attributes = {"event_id": record.plan_id, "status": state.value, "account_id": account_id}
            await self._results.publish(json.dumps(body).encode(), attributes, "")
        log.info(f"Plan {record.plan_id} has ended: {state}", action="plan_ended", plan_id=record.plan_id)
        await self._store.put_plan(replace(record, version=record.version + 1, state=state, is_told=True))
        self._records.forget([_order_id(each.round.plan, r) for each in rounds for r in each.round.releases])

    async def _tell_waiting(self, record: PlanRecord, here: _Round, now: datetime, why: str) -> None:
        moved = [record.plan.planned_at, *(r.released_at for r in record.releases), *_fill_times(here)]
        if now - max(moved) >= WAIT_TOLD_AFTER:
            words = plan_waits_for_broker(record.first_plan.targets, why)
            await self._alerts.raise_alert_once(f"plan_waits:{record.plan.plan_id}", "plan_waits", words)


def _order_id(plan: Plan, release: Release) -> str:
    purpose = Purpose.EXIT if plan.leg(release.leg).is_exit else Purpose.ENTRY
    return Identity(signal_id=release.signal_id, leg_index=0, purpose=purpose).order_id


def _fill_times(here: _Round) -> list[datetime]:
    return [fill.time for stored in here.stored.values() for fill in stored.order.fills]


def _may_go_on(looked: _Round, signal_id: str) -> bool:
    is_in_doubt = looked.stored[signal_id].order.status is Status.IN_DOUBT
    return not (looked.outcomes[signal_id].is_final or is_in_doubt)


def _outcome(stored: Stored) -> Outcome:
    order = stored.order
    reason = None if order.reason is None else f"{order.reason.code.value}: {order.reason.message}"
    return Outcome(
        filled=order.filled_quantity,
        # Only when the ledger has all of it: the next step goes by what is held.
        is_final=order.status.is_final and (not order.fills or stored.told.ledger >= order.version),
        rejection=reason if order.status is Status.REJECTED else None,
        trade_ids=tuple(trade_id_of(order.order_id, fill) for fill in order.fills),
    )
