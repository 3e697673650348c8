"""The verbs that ask an account's broker and change no order: to compare the books with it now, and to show what it holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

from brokers.base import BrokerPosition
from execution_service.control.requests import Comparison, PositionsQuestion
from execution_service.control.results import Done, Elsewhere, Refused, Result
from execution_service.core.reconcile.discrepancies import ReconciliationOutcome
from execution_service.core.views.record import positions_to_documents
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.store import Store

OTHERS_COMPARE_SECONDS = 30.0
"""How long another process is given to answer for an account of which we have no answer."""
ANSWERED_WITHIN_SECONDS = 60.0
"""Whoever asked for a broker's positions longer ago does not wait for them any more."""


class AskedAccounts(Protocol):
    """The accounts whose brokers are asked."""

    async def positions_of(self, account_id: str) -> Sequence[BrokerPosition] | None:
        """By its broker; None where that does not show them now."""

    async def compare_now(self, account_id: str) -> ReconciliationOutcome | None:
        """What a comparison with the broker shows; None: the account is not configured."""


class CompareBooks:
    """Has an account's books compared with its broker's, by whoever works the account."""

    def __init__(self, *, accounts: AskedAccounts, ownership: Ownership, store: Store, clock: Clock) -> None:
        self._accounts = accounts
        self._ownership = ownership
        self._store = store
        self._clock = clock

    async def carry_out(self, asked: Comparison) -> Result:
        """Takes as long as the broker does. Raises StoreUnavailable."""
        if self._ownership.is_worked_elsewhere(asked.account_id):
            return Elsewhere()
        outcome = await self._accounts.compare_now(asked.account_id)
        if self._ownership.has_others and (outcome is None or not outcome.is_compared):
            # The account may be another process's, whose answer counts more than that we have none.
            await self._clock.sleep(OTHERS_COMPARE_SECONDS)
            waiting = await self._store.new_commands()
            if all(each.command_id != asked.command_id for each in waiting):
                return Elsewhere()
        if outcome is None:
            return Refused(f"account {asked.account_id!r} is not configured")
        return Done(outcome.words)


class ShowPositions:
    """Shows what an account holds by its broker, to who asks from another process."""

    def __init__(self, *, accounts: AskedAccounts, ownership: Ownership, live_orders: LiveOrders) -> None:
        self._accounts = accounts
        self._ownership = ownership
        self._live = live_orders

    async def carry_out(self, asked: PositionsQuestion) -> Result:
        """Takes as long as the broker does; the words are JSON."""
        if self._ownership.belongs_elsewhere(asked.account_id):
            return Elsewhere()
        if self._live.age_seconds(asked.asked_at) > ANSWERED_WITHIN_SECONDS:
            return Refused("whoever asked has gone")
        theirs = await self._accounts.positions_of(asked.account_id)
        if theirs is None:
            return Refused("the broker does not tell its positions now")
        return Done(json.dumps(positions_to_documents(theirs)))
