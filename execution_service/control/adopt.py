"""The verb to adopt: the book follows a position that changed past this service, as a person says; what is recorded for that is planned in
core/adoption."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol

import structlog

from brokers.base import BrokerPosition
from execution_service.control.adoption_books import plan_of_undoing, read_books, records_named
from execution_service.control.requests import Adoption, UndoneAdoption
from execution_service.control.results import Done, Elsewhere, Refused, Result, Unfinished
from execution_service.core.adoption.plan import plan
from execution_service.core.adoption.records import AdoptionRequest, Plan, adoption_id, records_of
from execution_service.core.adoption.records import Refused as Unplannable
from execution_service.core.adoption.undoing import undoing
from execution_service.core.orders.order import Order
from execution_service.core.texts.log import log_line
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import Stored, Told
from execution_service.storage.ports.store import Store

log = structlog.get_logger(__name__)


class SendsExits(Protocol):
    """Who trades an account."""

    @property
    def exits_in_turn(self) -> asyncio.Lock:
        """While it is held, no exit is between its last check and its sending."""


class AdoptingAccounts(Protocol):
    """The accounts whose positions are adopted."""

    def is_known(self, account_id: str) -> bool:
        """Whether it is configured."""

    def trader_of(self, account_id: str | None) -> SendsExits | None:
        """None: it is not traded here."""

    async def positions_of(self, account_id: str) -> Sequence[BrokerPosition] | None:
        """By its broker; None where that does not show them now."""

    def take(self, stored: Stored) -> None:
        """Gives a record to whoever delivers of it here."""

    def compare_soon(self, account_id: str) -> None:
        """Has the account's books compared now, and not only when that is due."""


class AdoptPositions:
    """Each adoption is recorded once, whoever carries it out and however often: what was shown is done, or nothing."""

    def __init__(
        self,
        *,
        store: Store,
        live_orders: LiveOrders,
        clock: Clock,
        accounts: AdoptingAccounts,
        ownership: Ownership,
    ) -> None:
        self._accounts = accounts
        self._ownership = ownership
        self._one_at_a_time = asyncio.Lock()
        """One adoption after the other: each counts on what the one before has made of the books."""
        self._store = store
        self._live = live_orders
        self._clock = clock

    async def carry_out(self, asked: Adoption) -> Result:
        """Done when the records are durable. Raises StoreUnavailable; Unfinished when some are and the others cannot be."""
        if self._ownership.belongs_elsewhere(asked.account_id):
            return Elsewhere()
        wish, shown = asked.wish, asked.shown
        theirs = await self._accounts.positions_of(wish.account_id)
        async with self._no_exit_leaves(wish.account_id):
            if not await self._is_recorded(asked):
                refusal = await self._refusal(wish, shown, theirs)
                # What was recorded meanwhile, by whomever, is what has changed the books.
                if refusal is not None and not await self._is_recorded(asked):
                    return Refused(refusal)
            records = records_of(
                wish, shown.movements, command_id=asked.command_id, received_at=asked.asked_at, text=asked.text
            )
            if self._ownership.elsewhere(records[0]) is not None:
                return Elsewhere()
            await self._record(records)
        self._accounts.compare_soon(wish.account_id)
        return Done(f"{wish.occasion} adopted as {adoption_id(asked.command_id)} by {wish.by}")

    @contextlib.asynccontextmanager
    async def _no_exit_leaves(self, account_id: str) -> AsyncIterator[None]:
        """An exit that has counted on what it may take has left by now, and what comes later counts on the adoption."""
        trader = self._accounts.trader_of(account_id)
        async with self._one_at_a_time, contextlib.nullcontext() if trader is None else trader.exits_in_turn:
            yield

    async def _is_recorded(self, asked: Adoption) -> bool:
        """Wholly or in part."""
        return bool(await records_named(self._store, adoption_id(asked.command_id)))

    async def _refusal(self, wish: AdoptionRequest, shown: Plan, theirs: Sequence[BrokerPosition] | None) -> str | None:
        books = await read_books(self._store, wish, theirs)
        if not books.ledgers and not self._accounts.is_known(wish.account_id):
            return f"account {wish.account_id!r} is not configured, and nothing was ever held in it"
        now = plan(wish, books, self._clock.now())
        if isinstance(now, Unplannable):
            return now.words
        if (now.movements, now.before) != (shown.movements, shown.before):
            return "the books have changed since it was shown; look again, and adopt what is true now"
        return _unforced(now, shown, is_forced=wish.is_forced)

    async def _record(self, records: Sequence[Order]) -> None:
        """One after the other, so that a death leaves what left without what came and never the other way round."""
        stored = {s.order.order_id: s for s in await self._store.load([record.order_id for record in records])}
        for record in records:
            found = stored.get(record.order_id)
            with _finishing(is_begun=bool(stored) or record is not records[0]):
                if found is None:
                    await self._store.insert_orders([record])
                    _say(record)
                    await self._pass_on(Stored(record, Told()))
                elif found.is_unsettled:
                    await self._pass_on(found)

    async def _pass_on(self, stored: Stored) -> None:
        """To whoever delivers of it: the account may have gone to another process while this one was writing."""
        partition = self._ownership.elsewhere(stored.order)
        if partition is None:
            self._accounts.take(stored)
        else:
            await self._store.leave({stored.order.order_id: partition})

    # --- taking one back ----------------------------------------------------------------------------------------

    async def undo(self, asked: UndoneAdoption) -> Result:
        """Done when what takes it back is durable. Raises StoreUnavailable; Unfinished when a part of it is and the rest cannot be."""
        if self._ownership.belongs_elsewhere(asked.account_id):
            return Elsewhere()
        name = asked.adoption_id
        found = await records_named(self._store, name)
        if not found:
            return Refused(f"there is no adoption {name!r}")
        account_id = str(found[0].order.request.account_id)
        theirs = await self._accounts.positions_of(account_id)
        async with self._no_exit_leaves(account_id):
            found = await records_named(self._store, name)
            if not any(_is_undone_by(stored.order, asked) for stored in found):
                refusal = await self._refusal_to_undo(found, asked, theirs)
                if refusal is not None:
                    return Refused(refusal)
            if self._ownership.elsewhere(found[0].order) is not None:
                return Elsewhere()
            is_begun = any(_is_undone_by(stored.order, asked) for stored in found)
            for stored in reversed(found):
                # The moment is the command's own: done again, it is the same event.
                with _finishing(is_begun=is_begun or stored is not found[-1]):
                    live = self._live.adopt(stored)
                    await self._live.record(
                        live,
                        lambda order: undoing(
                            order, command_id=asked.command_id, by=asked.by, message=asked.reason, at=asked.asked_at
                        ),
                    )
                    await self._pass_on(Stored(live.order, live.told))
        self._accounts.compare_soon(account_id)
        return Done(f"{name} undone by {asked.by}")

    async def _refusal_to_undo(
        self, found: Sequence[Stored], asked: UndoneAdoption, theirs: Sequence[BrokerPosition] | None
    ) -> str | None:
        if any(stored.order.status.is_final and not stored.order.fills for stored in found):
            return "it has been undone before"
        now = await plan_of_undoing(self._store, found, theirs, self._clock.now())
        if isinstance(now, Unplannable):
            return now.words
        if now.before != asked.shown.before:
            return "the books have changed since it was shown; look again"
        return _unforced(now, asked.shown, is_forced=asked.is_forced)


@contextlib.contextmanager
def _finishing(*, is_begun: bool) -> Iterator[None]:
    """What fails here is no refusal where a part is recorded. Raises Unfinished then."""
    try:
        yield
    except StoreUnavailable:
        raise
    except Exception as exc:
        if not is_begun:
            raise
        words = "a part of it is recorded, and its exits wait; the next start of the service records the rest"
        raise Unfinished(f"{words} ({type(exc).__name__}: {exc})") from exc


def _say(record: Order) -> None:
    line = log_line(record, record.events[0], record)
    if line is not None:
        log.info(line[0], action=line[1], signal_id=record.signal_id, order_id=record.order_id)


def _is_undone_by(order: Order, asked: UndoneAdoption) -> bool:
    return any(getattr(event, "command_id", None) == asked.command_id for event in order.events)


def _unforced(now: Plan, shown: Plan, *, is_forced: bool) -> str | None:
    """A warning is accepted only by a person who was shown it."""
    fresh = [warning for warning in now.warnings if not is_forced or warning not in shown.warnings]
    return f"{'; '.join(fresh)} (--force does it all the same)" if fresh else None
