"""Carries out what a person tells of a position that changed past this service: reads both books, plans, records once; what is planned is decided in
core/adoption_plan.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import structlog

from brokers.base import BrokerPosition
from execution_service.core.adoption.entries import is_entry_of, refs_to
from execution_service.core.adoption.plan import plan
from execution_service.core.adoption.records import (
    AdoptionBooks,
    AdoptionRequest,
    Plan,
    Refused,
    adoption_id,
    read_adoption_request,
    records_of,
)
from execution_service.core.adoption.undoing import Recorded, plan_undoing, undoing
from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, key_of, with_unbooked
from execution_service.core.reconcile.discrepancies import Discrepancy
from execution_service.core.texts.log import log_line
from execution_service.core.views.record import plan_from_document
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.commands import Command, CommandStatus
from execution_service.storage.ports.orders import Stored, Told
from execution_service.storage.ports.store import Store

log = structlog.get_logger(__name__)

FOUND_AT_ONCE = 100


class Adopter(Protocol):
    """Who trades the account."""

    @property
    def exits_in_turn(self) -> asyncio.Lock: ...


class AdoptingAccounts(Protocol):
    """The accounts whose positions are adopted."""

    def is_known(self, account_id: str) -> bool: ...

    def trader_of(self, account_id: str | None) -> Adopter | None: ...

    async def positions_of(self, account_id: str) -> Sequence[BrokerPosition] | None:
        """By its broker; None where that does not tell them now."""

    def take(self, stored: Stored) -> None:
        """Gives a record to whoever delivers of it here."""

    def compare_soon(self, account_id: str) -> None:
        """Has the account's books compared now, and not only when that is due."""


class AdoptionCommands:
    """Each adoption is recorded once, whoever carries it out and however often: the command tells what was shown, and that is done or nothing."""

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
        self._turn = asyncio.Lock()
        """One adoption after the other: each counts on what the one before has made of the books."""
        self._store = store
        self._live = live_orders
        self._clock = clock

    async def carry_out(self, command: Command) -> tuple[CommandStatus, str] | None:
        """None: the account has gone to another process meanwhile, which does it. Raises StoreUnavailable: it may be carried out again."""
        if "undo" in command.body:
            return await self._undo(command)
        wish = read_adoption_request(command.body)
        if isinstance(wish, Refused):
            return CommandStatus.REFUSED, wish.words
        try:
            shown = plan_from_document(command.body["shown"])
        except (KeyError, UnreadableRecord) as exc:
            return CommandStatus.REFUSED, f"it does not say what was shown of it: {exc}"
        theirs = await self._accounts.positions_of(wish.account_id)
        async with self._no_exit_leaves(wish.account_id):
            if not await self._is_recorded(command):
                refusal = await self._refusal(wish, shown, theirs)
                # What was recorded meanwhile, by whomever, is what has changed the books.
                if refusal is not None and not await self._is_recorded(command):
                    return CommandStatus.REFUSED, refusal
            records = _records(wish, shown, command)
            if self._ownership.elsewhere(records[0]) is not None:
                return None
            await self._record(records)
        self._accounts.compare_soon(wish.account_id)
        return CommandStatus.DONE, f"{wish.occasion} adopted as {adoption_id(command.command_id)} by {wish.by}"

    @contextlib.asynccontextmanager
    async def _no_exit_leaves(self, account_id: str) -> AsyncIterator[None]:
        """An exit that has counted on what it may take has left by now, and what comes later counts on the adoption."""
        trader = self._accounts.trader_of(account_id)
        async with self._turn, contextlib.nullcontext() if trader is None else trader.exits_in_turn:
            yield

    async def _is_recorded(self, command: Command) -> bool:
        """Wholly or in part."""
        return bool(await records_named(self._store, adoption_id(command.command_id)))

    async def _refusal(self, wish: AdoptionRequest, shown: Plan, theirs: Sequence[BrokerPosition] | None) -> str | None:
        books = await read_books(self._store, wish, theirs)
        if not books.ledgers and not self._accounts.is_known(wish.account_id):
            return f"account {wish.account_id!r} is not configured, and nothing was ever held in it"
        now = plan(wish, books, self._clock.now())
        if isinstance(now, Refused):
            return now.words
        if (now.movements, now.before) != (shown.movements, shown.before):
            return "the books have changed since it was shown; look again, and adopt what is true now"
        return _unforced(now, shown, is_forced=wish.is_forced)

    async def _record(self, records: Sequence[Order]) -> None:
        """One after the other, so that a death leaves what left without what came and never the other way round."""
        stored = {s.order.order_id: s for s in await self._store.load([record.order_id for record in records])}
        for record in records:
            found = stored.get(record.order_id)
            if found is None:
                await self._store.insert_orders([record])
                _say(record)
                await self._pass_on(Stored(record, Told()))
            elif found.is_unsettled:
                await self._pass_on(found)

    async def _pass_on(self, stored: Stored) -> None:
        """To whoever tells of it: the account may have gone to another process while this one was writing."""
        partition = self._ownership.elsewhere(stored.order)
        if partition is None:
            self._accounts.take(stored)
        else:
            await self._store.leave({stored.order.order_id: partition})

    # --- taking one back ----------------------------------------------------------------------------------------

    async def _undo(self, command: Command) -> tuple[CommandStatus, str] | None:
        body = command.body
        name, by, reason = (str(body.get(each) or "").strip() for each in ("undo", "by", "reason"))
        if not (by and reason):
            return CommandStatus.REFUSED, "by and reason must not be blank: the record keeps them"
        found = await records_named(self._store, name)
        if not found:
            return CommandStatus.REFUSED, f"there is no adoption {name!r}"
        account_id = str(found[0].order.request.account_id)
        theirs = await self._accounts.positions_of(account_id)
        async with self._no_exit_leaves(account_id):
            found = await records_named(self._store, name)
            if not any(_is_undone_by(stored.order, command) for stored in found):
                refusal = await self._refusal_to_undo(found, body, theirs)
                if refusal is not None:
                    return CommandStatus.REFUSED, refusal
            if self._ownership.elsewhere(found[0].order) is not None:
                return None
            for stored in reversed(found):
                # The moment is the command's own: done again, it is the same event.
                live = self._live.adopt(stored)
                await self._live.record(
                    live,
                    lambda order: undoing(
                        order, command_id=command.command_id, by=by, message=reason, at=command.received_at
                    ),
                )
                await self._pass_on(Stored(live.order, live.told))
        self._accounts.compare_soon(account_id)
        return CommandStatus.DONE, f"{name} undone by {by}"

    async def _refusal_to_undo(
        self, found: Sequence[Stored], body: Mapping[str, Any], theirs: Sequence[BrokerPosition] | None
    ) -> str | None:
        if any(stored.order.status.is_final and not stored.order.fills for stored in found):
            return "it has been undone before"
        try:
            shown = plan_from_document(body["shown"])
        except (KeyError, UnreadableRecord) as exc:
            return f"it does not say what was shown of it: {exc}"
        now = await plan_of_undoing(self._store, found, theirs, self._clock.now())
        if isinstance(now, Refused):
            return now.words
        if now.before != shown.before:
            return "the books have changed since it was shown; look again"
        return _unforced(now, shown, is_forced=body.get("is_forced") is True)


def _records(wish: AdoptionRequest, shown: Plan, command: Command) -> tuple[Order, ...]:
    text = json.dumps({name: value for name, value in command.body.items() if name != "shown"}, default=str)
    return records_of(wish, shown.movements, command_id=command.command_id, received_at=command.received_at, text=text)


def _say(record: Order) -> None:
    line = log_line(record, record.events[0], record)
    if line is not None:
        log.info(line[0], action=line[1], signal_id=record.signal_id, order_id=record.order_id)


def _is_undone_by(order: Order, command: Command) -> bool:
    return any(getattr(event, "command_id", None) == command.command_id for event in order.events)


def _unforced(now: Plan, shown: Plan, *, is_forced: bool) -> str | None:
    """A warning is accepted only by a person who was shown it."""
    fresh = [warning for warning in now.warnings if not is_forced or warning not in shown.warnings]
    return f"{'; '.join(fresh)} (--force does it all the same)" if fresh else None


# --- reading ---------------------------------------------------------------------------------------------------------


async def records_named(store: Store, name: str) -> list[Stored]:
    """The records of one adoption, in their order."""
    found = [s for s in await store.find([f"signal:{name}"]) if s.order.signal_id == name and s.order.adoption]
    return sorted(found, key=lambda s: s.order.identity.leg_index)


async def read_books(store: Store, wish: AdoptionRequest, theirs: Sequence[BrokerPosition] | None) -> AdoptionBooks:
    """What a plan for the wish is made from. Raises StoreUnavailable."""
    named = (wish.successor or {}).get("symbol")
    symbols = {str(named).strip().upper()} if named is not None else set()
    if wish.instrument is not None:
        symbols.add(wish.instrument.symbol)
    ledgers, unsettled = await _ledgers(store, wish.account_id, sorted(symbols))
    meant = [
        entry
        for entry in ledgers.values()
        if entry.key.strategy == wish.strategy and (entry.position.is_open or entry.instrument.symbol in symbols)
    ]
    orders = await _orders_around(store, meant, unsettled, wish.entries)
    discrepancy: Discrepancy | None = None
    closing: tuple[str, ...] = ()
    if wish.discrepancy_id is not None:
        discrepancy = await store.discrepancy(wish.discrepancy_id)
        claims = await store.find([f"discrepancy:{wish.discrepancy_id}"])
        closing = tuple(sorted({s.order.signal_id for s in claims if s.order.fills}))
    return AdoptionBooks(
        ledgers=tuple(ledgers.values()),
        orders=tuple(orders),
        at_work=tuple(s.order for s in unsettled if not s.order.status.is_final),
        theirs=theirs,
        discrepancy=discrepancy,
        closing_it=closing,
    )


async def plan_of_undoing(
    store: Store, found: Sequence[Stored], theirs: Sequence[BrokerPosition] | None, now: datetime
) -> Plan | Refused:
    """How the books would stand without these records of one adoption. Raises StoreUnavailable."""
    account_id = str(found[0].order.request.account_id)
    symbols = sorted({str(stored.order.symbol) for stored in found})
    ledgers, unsettled = await _ledgers(store, account_id, symbols)
    keys = {key_of(stored.order) for stored in found}
    entries = [ref for stored in found for ref in refs_to(stored.order)]
    around = await _orders_around(store, [e for key, e in ledgers.items() if key in keys], unsettled, entries)
    books = AdoptionBooks(
        ledgers=tuple(ledgers.values()),
        orders=tuple(around),
        at_work=tuple(s.order for s in unsettled if not s.order.status.is_final),
        theirs=theirs,
    )
    return plan_undoing([Recorded(stored.order, stored.told.lines) for stored in found], books, now)


async def _ledgers(
    store: Store, account_id: str, symbols: Sequence[str]
) -> tuple[dict[LedgerKey, LedgerEntry], list[Stored]]:
    """The account's holdings with every fill that is recorded, and its unsettled records."""
    brief = await store.unsettled(account_id)
    unsettled: list[Stored] = []
    for start in range(0, len(brief), FOUND_AT_ONCE):
        unsettled += await store.load([u.order_id for u in brief[start : start + FOUND_AT_ONCE]])
    unsettled = [s for s in unsettled if isinstance(s.order.request, OrderRequest)]
    entries = {e.key: e for e in await store.ledgers_of_account(account_id, symbols)}
    filled = [s for s in unsettled if s.order.fills or s.order.busted_fill_ids]
    unread = {key for s in filled if (key := key_of(s.order)) not in entries}
    if unread:
        entries |= await store.ledgers(sorted(unread, key=lambda key: key.ledger_id))
    for s in filled:
        key = key_of(s.order)
        entry = entries.get(key) or LedgerEntry(key=key, instrument=s.order.accepted_request.instrument)
        entries[key] = with_unbooked(entry, [(s.order, applied_events(s.order, s.told.world), s.told.lines)])
    return dict(sorted(entries.items(), key=lambda item: item[0].ledger_id)), unsettled


async def _orders_around(
    store: Store, entries: Sequence[LedgerEntry], unsettled: Sequence[Stored], names: Iterable[str]
) -> list[Order]:
    """The orders that built these holdings and those of these names, with everything that an exit's allowance is counted from."""
    ids = sorted({order_id for entry in entries for order_id in entry.position.order_ids})
    found = {s.order.order_id: s.order for s in unsettled}
    for start in range(0, len(ids), FOUND_AT_ONCE):
        some = ids[start : start + FOUND_AT_ONCE]
        for s in (*await store.load(some), *await store.find([f"broker:{order_id}" for order_id in some])):
            found[s.order.order_id] = s.order
    called = set(names)
    for entry in entries:
        called |= {ref for order in found.values() if is_entry_of(order, entry.key) for ref in refs_to(order)}
    around = sorted(called)
    for start in range(0, len(around), FOUND_AT_ONCE):
        some = around[start : start + FOUND_AT_ONCE]
        for s in await store.find([f"{kind}:{name}" for kind in ("signal", "exit_of") for name in some]):
            found[s.order.order_id] = s.order
    return list(found.values())
