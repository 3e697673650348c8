"""The verb to plan: a list of target positions becomes a stored plan, once, or is refused with every reason; a dry run only shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from execution_service.control.requests import PlanRequest
from execution_service.control.results import Done, Elsewhere, Refused
from execution_service.core.errors import UnreadableRecord
from execution_service.core.messages.targets import content_of, plan_shown
from execution_service.core.planning.plan import Plan, make_plan, refusals_of_list
from execution_service.core.planning.records import PlanRecord
from execution_service.core.planning.rules import PlanRule, PlanRules
from execution_service.core.planning.targets import (
    Mode,
    PlanRefused,
    Refusal,
    RefusalCode,
    TargetPositions,
)
from execution_service.core.risk.limits import Scope
from execution_service.core.texts.plans import plan_refused
from execution_service.ownership.ownership import Ownership
from execution_service.planning.holdings import Holdings, NotNow
from execution_service.planning.plans import Plans
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.store import Store


class KnowsAccounts(Protocol):
    """The accounts that there are."""

    def mode_of(self, account_id: str) -> Mode | None:
        """Whether it trades at a broker, or in TRAINING; None: it is not configured."""


class PlanPositions:
    """May be asked for again: a decision has one plan, and its stored plan is the answer, whatever has been filled since."""

    def __init__(
        self,
        *,
        store: Store,
        accounts: KnowsAccounts,
        holdings: Holdings,
        plans: Plans,
        ownership: Ownership,
        alerts: RaisesAlerts,
        clock: Clock,
        rules: PlanRules,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._holdings = holdings
        self._plans = plans
        self._ownership = ownership
        self._alerts = alerts
        self._clock = clock
        self._rules = rules

    async def carry_out(self, asked: PlanRequest) -> Done | Refused | Elsewhere:
        """Done when the plan is durably ours; its words are JSON. Elsewhere: another process works the account, or an older plan's orders have
        to end first; it is to be asked again. Raises StoreUnavailable."""
        targets = asked.targets
        try:
            return await self._planned(targets, is_dry=asked.is_dry)
        except PlanRefused as exc:
            if not asked.is_dry:
                text = plan_refused(targets, exc.refusals)
                await self._alerts.raise_alert_once(f"plan_refused:{asked.command_id}", "plan_refused", text)
            return Refused(str(exc))
        except UnreadableRecord as exc:
            return Refused(f"a stored plan cannot be read: {exc}")

    async def _planned(self, targets: TargetPositions, *, is_dry: bool) -> Done | Refused | Elsewhere:
        self._check_account(targets)
        if self._ownership.is_worked_elsewhere(targets.account_id):
            return Refused("another process works the account: ask there") if is_dry else Elsewhere()
        content = content_of(targets)
        kept = await self._store.plan_named(targets.plan_id)
        if kept is not None:
            return self._repeated(kept, content)
        latest = await self._store.latest_plan(targets.account_id, targets.strategy_id)
        plan = await self._plan(targets, _stale(latest, targets))
        if not is_dry and latest is not None and not latest.is_told:
            # Refused before anything is cancelled for it.
            if await self._is_superseding(latest, targets):
                return Elsewhere()
            plan = await self._plan(targets)
        if isinstance(plan, NotNow):
            return Refused(plan.words) if is_dry else Elsewhere()
        if is_dry:
            return Done(json.dumps(plan_shown(plan) | {"dry_run": True}))
        stored = await self._store.insert_plan(PlanRecord(plan=plan, content=content))
        self._plans.wake.tell()
        return self._repeated(stored, content)

    def _check_account(self, targets: TargetPositions) -> None:
        """Raises PlanRefused, with all that is wrong with the list besides: of an account that is another nothing more can be said."""
        refusals = list[Refusal]()
        mode = self._accounts.mode_of(targets.account_id)
        if mode is None:
            words = f"account {targets.account_id} is not configured"
            refusals.append(Refusal(RefusalCode.UNKNOWN_ACCOUNT, words))
        elif targets.mode is not mode:
            words = f"account {targets.account_id} is in mode {mode.value}, the plan in {targets.mode.value}"
            refusals.append(Refusal(RefusalCode.WRONG_MODE, words))
        if refusals:
            settings = self._rule(targets).settings
            raise PlanRefused([*refusals, *refusals_of_list(targets, settings, self._clock.now())])

    def _rule(self, targets: TargetPositions) -> PlanRule:
        return self._rules.of(Scope(account_id=targets.account_id, strategy=targets.strategy_id))

    @staticmethod
    def _repeated(kept: PlanRecord, content: str) -> Done:
        """Raises PlanRefused."""
        if kept.content != content:
            words = f"decision {kept.first_plan.targets.decision_id} came again with another content and is not planned anew"
            raise PlanRefused([Refusal(RefusalCode.PLAN_CONFLICT, words)])
        told = plan_shown(kept.first_plan) | {"state": kept.state.value, "dry_run": False}
        return Done(json.dumps(told))

    async def _is_superseding(self, latest: PlanRecord, targets: TargetPositions) -> bool:
        """Whether orders of the older plan may still fill: then what is missing is not known yet."""
        if latest.superseded_by is None:
            marked = replace(latest, superseded_by=targets.plan_id, version=latest.version + 1)
            await self._store.put_plan(marked)
            self._plans.wake.tell()
            return True
        return await self._plans.is_at_work(latest)

    async def _plan(self, targets: TargetPositions, refusals: Sequence[Refusal] = ()) -> Plan | NotNow:
        """Raises PlanRefused, with these reasons and all others."""
        known = await self._holdings.facts(targets, self._rules)
        settings, now = self._rule(targets).settings, self._clock.now()
        if isinstance(known, NotNow):
            # What is wrong with it whatever is held is not waited with: its time may be over by now.
            wrong = [*refusals, *refusals_of_list(targets, settings, now)]
            if wrong:
                raise PlanRefused(wrong)
            return known
        facts, money = known
        try:
            plan = make_plan(targets, facts, money, settings, now)
        except PlanRefused as exc:
            raise PlanRefused([*refusals, *exc.refusals]) from exc
        if refusals:
            raise PlanRefused(refusals)
        return plan


def _stale(latest: PlanRecord | None, targets: TargetPositions) -> list[Refusal]:
    if latest is None or latest.plan.targets.as_of < targets.as_of:
        return []
    words = f"a plan of {latest.plan.targets.as_of.isoformat()} is there already ({latest.plan_id})"
    return [Refusal(RefusalCode.STALE_PLAN, words)]
