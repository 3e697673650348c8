"""Says of old records what their contracts are, where that is known by now, and corrects the profits in the ledger; shows nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from brokers.base import DERIVATIVES, ContractTerms
from execution_service.core.orders.contracts import Contract
from execution_service.core.orders.events import ContractDeclared
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, key_of
from execution_service.core.views.refold import OrderWithLines, corrected
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.orders import CursorCommit, Stored, VersionConflict
from execution_service.storage.ports.store import Store

CHUNK = 200
OURSELVES = "rebuild-views"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a person says of a contract; `instrument_key` as execctl shows the instrument of an order or a position."""

    instrument_key: str
    terms: ContractTerms
    by: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    orders: int = 0
    """Whose contract is known now."""
    holdings: int = 0
    """Whose profits were corrected."""
    unknown: tuple[str, ...] = ()
    """Instruments of which nobody has said what one contract is worth, each with the number of its orders."""
    moved: tuple[str, ...] = ()
    """Orders and holdings that changed meanwhile and were left for another run."""
    unheard: tuple[str, ...] = ()
    """Instruments that a person spoke of and no record without facts is about."""


class KnowsPractice(Protocol):
    """Which orders were for practice."""

    def is_of_the_mock(self, order: Order) -> bool:
        """Its contracts are worth what the orders say, so nothing is missing."""


class Facts:
    """One pass over all records. What it writes are events like any others, so that what was said stays said."""

    def __init__(self, store: Store, clock: Clock, *, said: Sequence[Said], practice: KnowsPractice) -> None:
        self._store = store
        self._clock = clock
        self._said = {each.instrument_key: each for each in said}
        self._heard: set[str] = set()
        self._practice = practice

    async def mend(self, order_ids: Sequence[str], entries: Sequence[LedgerEntry]) -> Mended:
        """Raises StoreUnavailable; may then be run again. `entries`: the whole ledger, read before `order_ids`."""
        known, bare = await self._sorted(order_ids)
        declared, moved = 0, []
        unknown: Counter[str] = Counter()
        for order_id in bare:
            (stored,) = await self._store.load([order_id])
            event = self._event_for(stored.order, known)
            if event is None:
                if not (
                    stored.order.accepted_request.instrument.multiplier or self._practice.is_of_the_mock(stored.order)
                ):
                    unknown[stored.order.accepted_request.instrument.key] += 1
            elif await self._declare(stored, event):
                declared += 1
            else:
                moved.append(order_id)
        holdings, moved_holdings = await self._correct(order_ids, entries)
        return Mended(
            orders=declared,
            holdings=holdings,
            unknown=tuple(f"{key} ({_orders(count)})" for key, count in sorted(unknown.items())),
            moved=(*moved, *moved_holdings),
            unheard=tuple(sorted(self._said.keys() - self._heard)),
        )

    async def _sorted(self, order_ids: Sequence[str]) -> tuple[dict[str, set[Contract]], list[str]]:
        """What brokers and people have told of contracts, by account; and the orders of derivatives that filled and of which nobody has."""
        known: dict[str, set[Contract]] = {}
        bare = []
        for chunk in _chunks(order_ids):
            for stored in await self._store.load(chunk):
                order = stored.order
                if not isinstance(order.request, OrderRequest):
                    continue
                instrument = order.accepted_request.instrument
                if order.terms is not None and not order.terms.is_size_unknown:
                    known.setdefault(order.request.account_id, set()).add(Contract(instrument, order.terms))
                elif order.fills and (order.terms is not None or instrument.asset_class in DERIVATIVES):
                    bare.append(order.order_id)
        return known, bare

    def _event_for(self, order: Order, known: Mapping[str, set[Contract]]) -> ContractDeclared | None:
        key = order.accepted_request.instrument.key
        said = self._said.get(key)
        if said is not None:
            self._heard.add(key)
            return ContractDeclared(at=self._clock.now(), by=said.by, terms=said.terms, message=said.note)
        mine = Contract(order.accepted_request.instrument, order.terms)
        others = known.get(str(order.request.account_id), set())
        alike = [each for each in others if mine.instrument.could_be(each.instrument) and mine.agrees_with(each)]
        told = {each.terms for each in alike if each.terms is not None}
        if len({(terms.money_per_point, terms.currency) for terms in told}) != 1:
            return None
        words = "as the broker told it when another order of the contract was sent"
        terms = sorted(told, key=lambda each: each.con_id or 0)[0]
        return ContractDeclared(at=self._clock.now(), by=OURSELVES, terms=terms, message=words)

    async def _declare(self, stored: Stored, event: ContractDeclared) -> bool:
        """False if the order moved meanwhile. What had been told to everybody stays told: the views are written by whoever rebuilds them."""
        order, told = stored.order, stored.told
        try:
            after = await self._store.append(order, [event])
        except VersionConflict:
            return False
        if order.status.is_final and told.lowest == order.version:
            struck = CursorCommit(
                order_id=order.order_id,
                version=after.version,
                is_settled=True,
                world=after.version,
                people=after.version,
                others=dict.fromkeys(told.others, after.version),
            )
            await self._store.commit_cursors([struck])
        return True

    async def _correct(self, order_ids: Sequence[str], entries: Sequence[LedgerEntry]) -> tuple[int, list[str]]:
        """The holdings of all orders of which it was ever said afterwards what their contract is: also of a run that was broken off."""
        by_key: dict[LedgerKey, list[OrderWithLines]] = {}
        concerned: set[LedgerKey] = set()
        applied = {order_id: lines for entry in entries for order_id, lines in entry.applied.items()}
        for chunk in _chunks(order_ids):
            for stored in await self._store.load(chunk):
                order = stored.order
                if not isinstance(order.request, OrderRequest) or not order.fills:
                    continue
                own = {line.event_number: line for line in applied.get(order.order_id, ())} | dict(stored.told.lines)
                by_key.setdefault(key_of(order), []).append(OrderWithLines(order, own))
                if any(isinstance(event, ContractDeclared) for event in order.events):
                    concerned.add(key_of(order))
        count, moved = 0, []
        for entry in entries:
            better = corrected(entry, by_key[entry.key]) if entry.key in concerned else None
            if better is None:
                continue
            (is_saved,) = await self._store.save_ledgers([better.entry])
            if is_saved:
                await self._store.keep_lines(better.lines)
                count += 1
            else:
                moved.append(entry.key.instrument_key)
        return count, moved


def _orders(count: int) -> str:
    return "1 order" if count == 1 else f"{count} orders"


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
