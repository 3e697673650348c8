"""Exits that a broker made without us (a square-off, a liquidation, a trade by hand, an option that expired, was assigned or exercised): where its
own executions or records prove them, they are booked by the verb to adopt; what they do not prove is left to a person."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from brokers.base import AssetClass, BrokerPosition, PositionEnding, Report
from execution_service.control.adoption_books import read_books, read_holdings
from execution_service.control.commands import Commands
from execution_service.control.results import Done
from execution_service.core.adoption.broker_exits import (
    ExitToBook,
    NotProven,
    booking_ids,
    candidates,
    exits_to_book,
    holder,
)
from execution_service.core.adoption.endings import ending_name, endings_about, endings_by_executions, endings_to_book
from execution_service.core.adoption.plan import plan
from execution_service.core.adoption.records import Refused, read_adoption_request
from execution_service.core.reconcile.discrepancies import Discrepancy
from execution_service.core.views.record import plan_to_document
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.storage.ports.commands import Command, CommandStatus
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.store import Store

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
ENDINGS_AGAIN_SECONDS = 300.0
"""How often a broker is asked how options ended, while one differs: it may record that a day later."""
ENDINGS_BACK = timedelta(days=10)
"""What a broker recorded so long before a difference was seen may explain it: the service may have been down."""
REFUSED_AGAIN_SECONDS = 300.0
"""How often a booking that the books refused is planned again while nothing that is seen here has changed: its entries may have."""
MOST_TRIES = 3
"""A booking is refused where the books have changed since it was planned: it is planned anew, under a name of its own."""


class ComparedBooks(Protocol):
    """What the latest comparison of an account's books with its broker's has shown."""

    @property
    def position_differences(self) -> Sequence[Discrepancy]:
        """Those that are open."""

    @property
    def orders_of_others(self) -> Sequence[Report]:
        """All that the broker shows of orders that are none of ours."""


class ComparedAccounts(Protocol):
    """The accounts that are traded here."""

    def compared(self) -> Mapping[str, ComparedBooks]:
        """By account."""

    async def positions_of(self, account_id: str) -> Sequence[BrokerPosition] | None:
        """By its broker; None where that does not show them now."""

    async def endings_of(self, account_id: str, since: datetime) -> Sequence[PositionEnding]:
        """What its broker recorded from then on of options that ended; none where it records nothing, or does not tell it now."""


class BrokerExits:
    """Books each execution, and each ending of an option, once: the command's id follows from it, and what is stored under that counts, taken back
    or not."""

    def __init__(self, *, accounts: ComparedAccounts, commands: Commands, store: Store, clock: Clock) -> None:
        self._accounts = accounts
        self._commands = commands
        self._store = store
        self._clock = clock
        self._judged: dict[str, tuple[object, ...]] = {}
        """By discrepancy, what was known when it was looked at last: it is looked at again when that has changed."""
        self._refused_at: dict[str, float] = {}
        """By discrepancy whose booking the books refused when it was looked at last, when that was, by the monotonic clock."""
        self._left: dict[str, str] = {}
        """By discrepancy, why it was left to a person, as it was said last."""
        self._endings: dict[str, tuple[float, Sequence[PositionEnding]]] = {}
        """By discrepancy about an option, what its broker recorded, and when it was asked, by the monotonic clock."""

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        return (Part("exits made at brokers", self.watch),)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            compared = self._accounts.compared()
            is_open = {row.discrepancy_id for books in compared.values() for row in books.position_differences}
            self._judged = {name: known for name, known in self._judged.items() if name in is_open}
            self._refused_at = {name: at for name, at in self._refused_at.items() if name in is_open}
            self._left = {name: reason for name, reason in self._left.items() if name in is_open}
            self._endings = {name: asked for name, asked in self._endings.items() if name in is_open}
            try:
                for account_id, books in compared.items():
                    for row in books.position_differences:
                        await self._look_alone(account_id, row, books.orders_of_others)
            except StoreUnavailable as exc:
                log.debug(f"Exits made at brokers wait for the store: {exc}", action="broker_exits_waiting")

    async def _look_alone(self, account_id: str, row: Discrepancy, trades: Sequence[Report]) -> None:
        """One that cannot be judged is left to a person, and the others are looked at. Raises StoreUnavailable."""
        try:
            await self._look(account_id, row, trades)
        except StoreUnavailable:
            raise
        except Exception as exc:
            known = ("failed", repr(exc))
            if self._judged.get(row.discrepancy_id) != known:
                self._judged[row.discrepancy_id] = known
                log.exception(
                    f"An exit at the broker is left to a person: {row.finding.subject}: {exc}",
                    action="broker_exit_failed",
                    account_id=account_id,
                )

    async def _look(self, account_id: str, row: Discrepancy, trades: Sequence[Report]) -> None:
        """Raises StoreUnavailable: what is not done by then is done at the next look."""
        found = candidates(row, trades)
        asked_at, endings = await self._endings_of(account_id, row)
        finding, executions = row.finding, tuple((report.broker_order_id, fill.fill_id) for report, fill in found)
        known = (finding.steady, finding.ours, finding.theirs, executions, asked_at)
        if not (found or endings) or (self._judged.get(row.discrepancy_id) == known and not self._is_due_again(row)):
            return
        refused: Refused | None = None
        exits = await self._proven(account_id, row, trades, endings)
        if isinstance(exits, NotProven):
            if self._is_news(row, exits.reason):
                log.info(
                    f"An exit at the broker is left to a person: {finding.subject}: {exits.reason}",
                    action="broker_exit_not_proven",
                    account_id=account_id,
                )
        else:
            for each in exits:
                booked = await self._book(account_id, each)
                if isinstance(booked, Refused):
                    refused = booked
                    break
                if not booked:
                    return  # planned anew at the next look
        self._judged[row.discrepancy_id] = known
        if refused is None:
            self._refused_at.pop(row.discrepancy_id, None)
            return
        self._refused_at[row.discrepancy_id] = self._clock.monotonic()
        if self._is_news(row, refused.words):
            _say_refused(account_id, refused.words)

    def _is_due_again(self, row: Discrepancy) -> bool:
        """Whether its booking was refused, and may be no more by what is not seen here."""
        refused_at = self._refused_at.get(row.discrepancy_id)
        return refused_at is not None and self._clock.monotonic() - refused_at >= REFUSED_AGAIN_SECONDS

    def _is_news(self, row: Discrepancy, reason: str) -> bool:
        """Whether it was not the latest reason that was said of it; it is from now on."""
        before = self._left.get(row.discrepancy_id)
        self._left[row.discrepancy_id] = reason
        return before != reason

    async def _proven(
        self,
        account_id: str,
        row: Discrepancy,
        trades: Sequence[Report],
        endings: Sequence[PositionEnding],
    ) -> tuple[ExitToBook, ...] | NotProven:
        """By executions that have a price, else by what the broker recorded of the option, else by executions without a price."""
        ledgers, adoptions = await read_holdings(self._store, account_id, row.finding.instruments)
        unclear, now = self._store.unreadable_ledgers(account_id), self._clock.now()
        names = [name for each in candidates(row, trades) for name in booking_ids(account_id, *each)]
        exits = exits_to_book(row, ledgers, unclear, trades, await self._booked(names), now, adoptions)
        held = holder(row, ledgers, unclear)
        if not isinstance(exits, NotProven) or isinstance(held, NotProven):
            return exits
        shown = endings or endings_by_executions(row, held, trades)
        if not shown:
            return exits
        booked = await self._booked([ending_name(account_id, ending) for ending in shown])
        theirs = await self._accounts.positions_of(account_id)
        return endings_to_book(
            row, ledgers, unclear, shown, booked, now, adoptions, theirs, are_by_executions=not endings
        )

    async def _booked(self, names: Sequence[str]) -> Collection[str]:
        """Those of these bookings that were made, or tried in vain."""
        return [name for name in names if await self._next_try(name) is None]

    async def _endings_of(self, account_id: str, row: Discrepancy) -> tuple[float, Sequence[PositionEnding]]:
        """What the broker recorded of the options that the difference is about, and when it was asked."""
        if not any(each.asset_class is AssetClass.OPTION for each in row.finding.instruments):
            return 0.0, ()
        asked_at, endings = self._endings.get(row.discrepancy_id, (float("-inf"), ()))
        if self._clock.monotonic() - asked_at >= ENDINGS_AGAIN_SECONDS:
            told = await self._accounts.endings_of(account_id, row.opened_at - ENDINGS_BACK)
            asked_at, endings = self._clock.monotonic(), endings_about(row, told)
            self._endings[row.discrepancy_id] = asked_at, endings
        return asked_at, endings

    async def _next_try(self, name: str) -> str | None:
        """The id of the command by which it is to be booked; None: it has been, taken back or not, or it was tried in vain. A command that was
        refused has recorded nothing, so that no two of them ever book one execution."""
        for number in range(1, MOST_TRIES + 1):
            command_id = name if number == 1 else f"{name}-{number}"
            known = await self._store.command(command_id)
            if known is None or known.status is CommandStatus.NEW:
                return command_id
            if known.status is CommandStatus.DONE:
                return None
        return None

    async def _book(self, account_id: str, exit_: ExitToBook) -> bool | Refused:
        """By the same plan, shown and carried out, as a person's; Refused: there is no plan of it, and nothing was stored. False: it is to be planned
        anew. Raises StoreUnavailable."""
        command_id = await self._next_try(exit_.name)
        if command_id is None:
            return False
        wish = read_adoption_request(exit_.body)
        if isinstance(wish, Refused):
            return wish
        theirs = await self._accounts.positions_of(account_id)
        now = self._clock.now()
        shown = plan(wish, await read_books(self._store, wish, theirs), now)
        if isinstance(shown, Refused):
            return shown
        command = Command(
            command_id=command_id,
            kind="ADOPT",
            body=exit_.body | {"shown": plan_to_document(shown)},
            published_at=now,
            received_at=now,
        )
        result = await self._commands.give(command)
        if isinstance(result, Done):
            return True
        _say_refused(account_id, str(result))
        return False


def _say_refused(account_id: str, why: str) -> None:
    log.warning(
        f"An exit at the broker is left to a person: {why}", action="broker_exit_refused", account_id=account_id
    )
