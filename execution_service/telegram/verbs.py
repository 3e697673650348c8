"""The verbs that are called from the chat: stored commands like any others, named after the update that asked for them, but for `rebase`, which is
said straight in the store, as over the API."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from execution_service.control.commands import Commands
from execution_service.control.enable_risk import rebase
from execution_service.control.kill import CONFIRMED_WITHIN_SECONDS, working_entries
from execution_service.control.requests import Kind
from execution_service.control.results import Done, Refused, Result
from execution_service.core.planning.stances import HALT
from execution_service.core.risk.kill import KillLevel, scope_from_text
from execution_service.core.risk.limits import Scope
from execution_service.core.texts import commanded
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.commands import Command
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.queries import OrderFilter
from execution_service.storage.ports.store import Store
from execution_service.telegram.answers import Answers
from execution_service.telegram.asked import KillAsked, StanceAsked, StepAsked, Word, second_step
from execution_service.telegram.questions import OPEN, Questions
from execution_service.trading.risk_rules import RiskRules

log = structlog.get_logger(__name__)

LONGEST_NAME = 256
MOST_CANCELS = 500
"""Of one `/cancel all`; it may be asked for again."""
NONCE_BYTES = 6
REBASE_WITHIN_SECONDS = 600.0
"""So long the second step may follow the first."""
COUNT_AGAIN_SECONDS = CONFIRMED_WITHIN_SECONDS + 1.0


@dataclass(frozen=True, slots=True)
class _BegunRebase:
    """The first step, as it was made; by the monotonic clock."""

    scope: Scope
    by: str
    reason: str
    until: float


class ChatVerbs:
    """Each may be called again for the same update, by this life or another: the same commands are given, and each is carried out once. All raise
    StoreUnavailable: it may have been stored, and is to be called again."""

    def __init__(
        self,
        *,
        commands: Commands,
        questions: Questions,
        store: Store,
        rules: RiskRules,
        clock: Clock,
        answers: Answers,
    ) -> None:
        self._rules = rules
        self._rebases: dict[str, _BegunRebase] = {}
        self._commands = commands
        self._questions = questions
        self._store = store
        self._clock = clock
        self._answers = answers

    async def kill(self, asked: KillAsked, by: str, command_id: str, sent_at: datetime) -> str:
        """The switch is engaged when it returns, unless the text says otherwise."""
        body = {
            "scope": asked.scope,
            "level": asked.level.value,
            "by": by,
            "reason": asked.reason,
            "cancel_entries": asked.cancel_entries,
        }
        result = await self._give(Kind.KILL, body, command_id, sent_at)
        if isinstance(result, Done):
            return commanded.killed(json.loads(result.words))
        if isinstance(result, Refused):
            return commanded.done("🚨 Nothing was stopped", result.words)
        if not any(words.startswith(f"{asked.scope} (") for words in await self._questions.engaged()):
            return commanded.kill_not_known(asked.scope)
        return commanded.kill_begun(asked.scope)

    async def told_of_cancels(self, asked: KillAsked, command_id: str) -> None:
        """What came of the cancels of a kill, as the verb counts it, once that has waited for them; said in the chat."""
        await self._clock.sleep(COUNT_AGAIN_SECONDS)
        try:
            scope = scope_from_text(asked.scope)
            left = len(await working_entries(self._store, scope))
            seen = await self._store.first_count(command_id, left)
        except (StoreUnavailable, ValueError) as exc:
            log.warning(f"What came of a kill's cancels is not known: {exc}", action="telegram_kill_not_counted")
            return
        unknown = min(left, seen)
        told = {"cancels_asked": seen, "cancels_confirmed": seen - unknown, "cancels_unknown": unknown}
        self._answers.give(commanded.cancels_of_kill(asked.scope, told), is_urgent=True)

    async def resume(self, asked: StepAsked, by: str, command_id: str, sent_at: datetime) -> str:
        """One of the two steps; the second brings what the first was answered with."""
        reason = asked.reason or ("" if asked.nonce is None else "as said in the first step")
        body = {"scope": asked.scope, "person": by, "reason": reason, "nonce": asked.nonce}
        result = await self._give(Kind.ARM, body, command_id, sent_at)
        if not isinstance(result, Done):
            return commanded.done("Not armed", result.words if isinstance(result, Refused) else "it is not known")
        told = json.loads(result.words)
        if asked.nonce is None:
            second = second_step(Word.RESUME, asked.scope, told["nonce"])
            return commanded.arming_begun(second=second, not_before=told["not_before"])
        return commanded.armed(scope=told["scope"], person=told["person"])

    async def rebase(self, asked: StepAsked, by: str) -> str:
        """One of the two steps; the second brings what this life answered to the first, and is carried out once."""
        try:
            scope = scope_from_text("all" if asked.scope.casefold() == "all" else asked.scope)
        except ValueError as exc:
            return commanded.done(_NOT_REBASED, str(exc))
        now = self._clock.monotonic()
        self._rebases = {nonce: begun for nonce, begun in self._rebases.items() if now < begun.until}
        if asked.nonce is None:
            nonce = secrets.token_hex(NONCE_BYTES)
            self._rebases[nonce] = _BegunRebase(scope, by, asked.reason, now + REBASE_WITHIN_SECONDS)
            second = second_step(Word.REBASE, str(scope), nonce)
            return commanded.rebase_begun(scope=str(scope), second=second, seconds=REBASE_WITHIN_SECONDS)
        begun = self._rebases.get(asked.nonce)
        if begun is None or begun.scope != scope:
            return commanded.done(
                _NOT_REBASED, "no first step of this scope has this answer, or it is too old: begin again"
            )
        if begun.by != by:
            return commanded.done(
                _NOT_REBASED, f"both steps are made by the same person, and the first was by {begun.by}"
            )
        zones, said_at = self._rules.zones, self._clock.now()
        count = await rebase(self._store, scope, by=by, reason=begun.reason, now=said_at, zones=zones)
        del self._rebases[asked.nonce]
        return commanded.rebased(scope=str(scope), by=by, count=count)

    async def stance(self, asked: StanceAsked, by: str, command_id: str, sent_at: datetime) -> str:
        """The stance is set when it returns, unless the text says otherwise."""
        if asked.stance == HALT:
            return await self.kill(KillAsked(asked.scope, KillLevel.HALT, True, asked.reason), by, command_id, sent_at)
        body = {"scope": asked.scope, "stance": asked.stance, "by": by, "reason": asked.reason}
        result = await self._give(Kind.STANCE, body, command_id, sent_at)
        if isinstance(result, Refused):
            return commanded.done("🎚 Nothing was changed", result.words)
        scope = json.loads(result.words)["scope"] if isinstance(result, Done) else asked.scope
        return commanded.stance_set(scope, asked.stance, is_done=isinstance(result, Done))

    async def cancel(self, name: str, by: str, command_id: str, sent_at: datetime) -> str:
        """All orders of a signal, or the one order of any other name."""
        found = [] if len(name) > LONGEST_NAME else await self._store.orders_named(name)
        orders = [stored.order for stored in found]
        if not orders:
            return commanded.done("Cancel", f"no order is called {name[:80]!r}")
        if all(name in order.names for order in orders):
            meant: dict[str, object] = {"signal_id": name, "leg_index": None}
        elif len(orders) == 1:
            meant = {"order_id": orders[0].order_id}
        else:
            ids = ", ".join(order.order_id for order in orders[:10])
            return commanded.done("Cancel", f"{name[:80]!r} names {len(orders)} orders; name one of {ids}")
        body = {**meant, "reason": "cancelled from the chat", "requested_by": by}
        return commanded.done("Cancel", _words(await self._give(Kind.CANCEL, body, command_id, sent_at)))

    async def cancel_all(self, by: str, command_id: str, sent_at: datetime) -> str:
        """Every order that has not ended, exits too; one command for each, so that each says what came of it."""
        found = await self._store.page_of_orders(OrderFilter(statuses=OPEN), None, MOST_CANCELS)
        told = []
        for order in (stored.order for stored in found):
            body = {"order_id": order.order_id, "reason": "cancelled from the chat", "requested_by": by}
            result = await self._give(Kind.CANCEL, body, f"{command_id}-{order.order_id}", sent_at)
            told.append((order.signal_id, _words(result)))
        return commanded.cancelled(told)

    async def _give(self, kind: Kind, body: Mapping[str, object], command_id: str, sent_at: datetime) -> Result | None:
        return await self._commands.give(
            Command(command_id=command_id, kind=kind, body=body, published_at=sent_at, received_at=self._clock.now())
        )


_NOT_REBASED = "Not measured anew"


def _words(result: Result | None) -> str:
    if isinstance(result, Done | Refused):
        return result.words
    return "stored; whoever works the account carries it out"
