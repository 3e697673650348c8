"""Protective orders of one account and the monitor of its protected positions: when it is looked at what protects them, and how what is wanted comes
about; what is wanted is decided in core/protection."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, Protocol

import structlog

from brokers.base import BrokerPosition, Instrument, Side, TellsQuotes
from brokers.errors import BrokerError, OrderRefused
from execution_service.core.exact import ZERO
from execution_service.core.orders.contracts import may_be_of_one_contract
from execution_service.core.orders.events import Event, ProtectionChanged, Triggered
from execution_service.core.orders.exits import without_linked
from execution_service.core.orders.order import Order
from execution_service.core.orders.products import product_of
from execution_service.core.orders.protective import NEEDS_A_PERSON, ProtectionState, ProtectiveRole
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import AT_WORK, Reason, ReasonCode, Status
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey
from execution_service.core.positions.position import Position
from execution_service.core.protection.orders import (
    abilities_of,
    are_all_that_traded,
    is_of_an_earlier_position,
    protected_entry,
    protective_order,
)
from execution_service.core.protection.plan import (
    Ending,
    MarkTriggered,
    Place,
    ProtectedPosition,
    ProtectionPlan,
    Standing,
    StopMove,
    TakeBack,
    protection_plan,
)
from execution_service.core.reconcile.positions import group_of
from execution_service.core.risk.gate import Session
from execution_service.core.views.record import protected_in
from execution_service.ownership.ownership import Ownership
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import Stored, Told
from execution_service.storage.ports.store import Store
from execution_service.trading.connection import Connection
from execution_service.trading.holdings import booked_to, entry_with_unbooked, held_in, holdings
from execution_service.trading.price_watch import AsksForQuotes, KnowsPrices, PriceWatch

log = structlog.get_logger(__name__)

LASTING_SECONDS = 5.0
"""What passes by itself within so long is not recorded."""
CONFIRM_SECONDS = 3.0
"""Between two looks at the broker's positions where the first shows less than our records."""
ENDED_REMEMBERED = 1000
REQUESTED_BY = "execution-service"
_PASSING = frozenset({ProtectionState.PLACING})


class Conversation(Protocol):
    """The account's trader, as far as protection needs it."""

    async def cancel(self, live: LiveOrder, reason: Reason, requested_by: str) -> None:
        """Records the wish; the broker is asked next."""

    async def read_positions(self) -> Sequence[BrokerPosition]:
        """Raises BrokerError, TimeoutError."""

    @property
    def reports_positions(self) -> bool: ...

    def products_of(self, instrument: Instrument) -> Sequence[str]: ...


class TakesStored(Protocol):
    """Who takes orders in hand."""

    def take(self, stored: Stored) -> None:
        """What it owes is delivered, and its trader brings it to its end."""


class KnowsMarket(Protocol):
    """What is known of the markets of the account's instruments."""

    @property
    def prices(self) -> KnowsPrices: ...

    @property
    def quotes(self) -> AsksForQuotes: ...

    async def session_of(self, order: Order) -> Session | None:
        """Whether the order's market is open now; None: that is not known. Raises nothing."""


def _left_of(at_work: Iterable[tuple[Order, Decimal]], entry: Order) -> Decimal:
    """What these may still take that name the entry."""
    return sum(
        (left for other, left in at_work if not set(other.accepted_request.entry_refs).isdisjoint(entry.names)), ZERO
    )


def _is_of_one_entry(one: Order, other: Order) -> bool:
    """Both are protective orders of it, by names that say which."""
    return (
        one.protective is not None
        and other.protective is not None
        and one.protective.entry_order_id == other.protective.entry_order_id
    )


def _said(known: ProtectionChanged) -> tuple[object, ...]:
    return known.state, known.reason, known.quantity, known.stop_price, known.begins_after


class _Line(NamedTuple):
    """What one strategy holds of one instrument, in one product, on one side."""

    key: LedgerKey
    product: str | None
    side: Side


@dataclass(slots=True)
class _Shown:
    """What the broker's positions show of a line beside our records."""

    less: Decimal = ZERO
    """So much less than these, as two looks in succession showed it."""
    suspected: Decimal = ZERO
    """So much less, as the latest look showed it."""
    more: Decimal = ZERO
    """So much more, as the latest look showed it; below 0 less."""
    held_by_all: Decimal = ZERO
    """What all strategies together held by our records in that look, on the line's side."""
    at: datetime | None = None
    """When the latest look was."""
    last_price: Decimal | None = None
    """The last price of the market at which nothing was to be done, as far as it is watched."""
    moves: int = -1
    looks: int = 0
    """So many in succession have shown that."""


@dataclass(slots=True)
class _Waiting:
    """An order that waits for protective ones to make way."""

    live: LiveOrder
    line: _Line
    quantity: Decimal


class Protection:
    """Keeps what entries with a stop or a target have filled protected. Everything that it does follows from the records and is asked anew each time,
    so that a death in between changes nothing."""

    def __init__(
        self,
        *,
        connection: Connection,
        conversation: Conversation,
        orders: TakesStored,
        market: KnowsMarket,
        live_orders: LiveOrders,
        store: Store,
        clock: Clock,
        ownership: Ownership,
        interval_seconds: float,
        is_on_bars: bool = False,
    ) -> None:
        """`interval_seconds`: between two looks at the broker's positions while anything is protected; 0: nothing is protected. `is_on_bars`: the
        market is one of the past."""
        self._connection = connection
        self._conversation = conversation
        self._orders = orders
        self._market = market
        self._live = live_orders
        self._store = store
        self._clock = clock
        self._ownership = ownership
        self._interval = interval_seconds
        self._is_on_bars = is_on_bars
        self._wake_up = WakeUp(clock)
        self.price_watch = PriceWatch(
            prices=market.prices, quotes=market.quotes, clock=clock, listener=self, is_on_bars=is_on_bars
        )
        self._is_looking = False
        self._entries: dict[str, Order] = {}
        """By our id, entries whose protection has not ended."""
        self._alive: dict[str, LiveOrder] = {}
        """By our id, protective orders that have not ended."""
        self._waiting: dict[str, _Waiting] = {}
        """By our id."""
        self._shown: dict[_Line, _Shown] = {}
        self._adopted: dict[str, Decimal] = {}
        """By our id, what an adoption has booked."""
        self._rests_for: dict[str, Decimal] = {}
        """By our id of a resting stop: the price nearest to the market of which the market's ticks make the price at which it rests."""
        self._moves = 0
        """Counts the fills of the account that were recorded, and annulled."""
        self._passing: dict[str, tuple[ProtectionState, float]] = {}
        """By our id of the entry: a state that may pass, and since when it has lasted."""
        self._used: dict[str, int] = {}
        """By our id of the entry: the last piece whose name somebody else's order bears."""
        self._ended: OrderedDict[str, Order] = OrderedDict()
        """By our id, entries whose protection has ended lately: an execution that is annulled may bring back what they had."""
        self._annulled: dict[str, int] = {}
        """By our id, how many executions of an order are known to be annulled."""
        self._to_reopen: set[str] = set()
        """Names of entries of whose exits an execution was annulled: they are read again."""
        self._failed: set[str] = set()
        self._looked_at = float("-inf")
        self._is_look_wanted = False
        """Somebody took a protective order down: what the broker's positions show may say why."""
        self._is_loaded = False

    # --- what others tell and ask -------------------------------------------------------------------------------

    @property
    def unprotected(self) -> Sequence[Order]:
        """The entries of which a person has to know, by what is recorded."""
        return [e for e in self._entries.values() if e.protection is not None and e.protection.state in NEEDS_A_PERSON]

    @property
    def has_settled(self) -> bool:
        """Whether everything that it was told is dealt with: what is to be placed for that is on its way, and in hand."""
        return not self._is_looking and not self._wake_up.is_pending

    def connected(self) -> None:
        """A connection stands."""
        self._wake_up.tell()

    def price_left_band(self) -> None:
        """A price at which something is to be done."""
        self._wake_up.tell()

    def note_record(self, live: LiveOrder) -> None:
        """Called after each record, and for each order that comes in hand."""
        order, request = live.order, live.order.request
        if not isinstance(request, OrderRequest) or request.account_id != self._connection.account_id:
            return
        if request.protective is not None:
            if order.status.is_final:
                self._alive.pop(order.order_id, None)
                self._rests_for.pop(order.order_id, None)
                self._is_look_wanted |= order.status is not Status.FILLED and order.cancel_request is None
            else:
                self._alive[order.order_id] = live
            self._note_move(order)
            self._note_annulled(order)
            self._wake_up.tell()
            return
        self._note_annulled(order)
        if order.adoption is not None:
            self._note_adoption(order)
        if self._ended and order.fills and order.identity.purpose is Purpose.EXIT:
            self._reopen_ended(order, order.accepted_request.side)  # the exit of one entry may leave what another has
        if order.wants_protection:
            self._note_entry(order)
        if order.order_id in self._waiting and order.status is not Status.PENDING:
            del self._waiting[order.order_id]
            self._wake_up.tell()
        if self._entries:
            self._note_move(order)
            if order.identity.purpose is Purpose.EXIT or order.fills:
                self._wake_up.tell()

    def _note_entry(self, order: Order) -> None:
        before = self._entries.get(order.order_id)
        if not self._interval:
            return
        if order.is_protection_open:
            self._entries[order.order_id] = order
            if before is None or (before.filled_quantity, before.status) != (order.filled_quantity, order.status):
                self._wake_up.tell()
        elif before is not None and before.is_protection_open:
            self._forget(order)
        elif before is not None:
            self._entries[order.order_id] = order  # brought back, and not looked at yet

    def _note_adoption(self, order: Order) -> None:
        """Our books follow what the broker shows already: by so much less do they differ from it now, or by more where it was taken back."""
        before = self._adopted.get(order.order_id, ZERO)
        self._adopted[order.order_id] = order.filled_quantity
        moved = (order.filled_quantity - before) * order.accepted_request.side.sign
        side = order.accepted_request.side
        closed = self._line_of(order, side=side.opposite) if moved and self._shown else None
        for line, shown in self._shown.items():
            if line == closed:
                shown.less = max(ZERO, shown.less + moved * line.side.sign)
                shown.suspected = max(ZERO, shown.suspected + moved * line.side.sign)

    def _forget(self, order: Order) -> None:
        """Its protection has ended."""
        self._entries.pop(order.order_id, None)
        self._ended[order.order_id] = order
        if len(self._ended) > ENDED_REMEMBERED:
            self._ended.popitem(last=False)

    def _note_annulled(self, order: Order) -> None:
        """What exits have closed may be held again."""
        annulled = len(order.busted_fill_ids)
        if annulled <= self._annulled.get(order.order_id, 0):
            return
        self._annulled[order.order_id] = annulled
        self._to_reopen |= set(order.accepted_request.entry_refs)
        self._reopen_ended(order, None)
        self._wake_up.tell()

    def _reopen_ended(self, order: Order, side: Side | None) -> None:
        """Entries of the order's strategy and instrument, and of that side if one is given, are looked at once more."""
        for order_id, entry in list(self._ended.items()):
            is_alike = entry.request.strategy == order.request.strategy and side in (None, entry.request.side)
            if is_alike and may_be_of_one_contract(entry, order):
                del self._ended[order_id]
                self._entries[order_id] = entry

    def _note_move(self, order: Order) -> None:
        if order.fills or order.busted_fill_ids:
            self._moves += 1

    def is_beside(self, order: Order) -> bool:
        """Whether protective orders of its strategy stand beside it, which may have to make way for it."""
        return bool(self._beside(order))

    def _beside(self, order: Order) -> list[Order]:
        strategy = order.accepted_request.strategy
        return [
            each.order
            for each in self._alive.values()
            if each.order.request.strategy == strategy and self._may_be_of_one_holding(each.order, order)
        ]

    async def must_wait(self, live: LiveOrder, order: Order) -> bool:
        """Whether the order, which is about to leave, has to wait until protective orders have ended: it would sell what they may sell, or open anew
        what a left-over one would close. They are asked to end by this. Raises StoreUnavailable."""
        beside, request = self._beside(order), order.accepted_request
        same = [each for each in beside if each.accepted_request.side is request.side]
        left_over = [each for each in beside if each.accepted_request.side is not request.side]
        if not same and not left_over:
            return False
        line = self._line_of((same or left_over)[0], side=(same or left_over)[0].accepted_request.side.opposite)
        if line is None:
            return True
        held = await self._held(line, request.instrument)
        if held is None:
            return True
        if not same:
            return held <= 0
        wanted = max(ZERO, min(order.ticket().quantity, held))
        others = sum((left for other, left in self._orders_at_work(line, order) if other is not order), ZERO)
        at_work = self._may_still_fill(same) + others
        if held - at_work >= wanted > 0 or not self._may_still_fill(same):
            return False
        if (
            live.order.status is Status.PENDING
        ):  # else it has ended while the books were read, and nothing is to make way for it
            self._waiting[order.order_id] = _Waiting(live, line, wanted)
            self._wake_up.tell()
        return True

    def _may_be_of_one_holding(self, one: Order, other: Order) -> bool:
        products = {self._product(each) for each in (one, other)}
        return len(products) == 1 and may_be_of_one_contract(one, other)

    def _product(self, order: Order) -> str | None:
        """What it is traded in, where the broker holds products apart."""
        products = self._conversation.products_of(order.accepted_request.instrument)
        return product_of(order, products)

    @staticmethod
    def _may_still_fill(some: Iterable[Order]) -> Decimal:
        return sum((order.remaining_quantity for order in without_linked(some)), ZERO)

    # --- life ---------------------------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """All is read again."""
        for kept in (
            self._entries,
            self._alive,
            self._waiting,
            self._shown,
            self._passing,
            self._ended,
            self._annulled,
            self._adopted,
            self._rests_for,
        ):
            kept.clear()
        self._is_loaded = False

    async def run(self) -> None:
        """Until cancelled."""
        with self._live.telling(self.note_record):
            self._wake_up.tell()
            wait: float | None = None
            while True:
                await self._wake_up.wait(wait)
                self._is_looking = True
                try:
                    wait = await self._turn()
                except StoreUnavailable as exc:
                    log.warning(f"Protection waits for the store: {exc}", action="protection_waits")
                    wait = 1.0
                self._is_looking = False

    async def _turn(self) -> float | None:
        """One look at all that is protected; the seconds until the next, None: only when there is news."""
        if not self._interval:
            return None
        if not self._ownership.holds(self._connection.account_id):
            return 1.0
        if not self._connection.is_connected:
            return None  # what the broker can do is not known before, and nothing could be done: `connected` says when
        if not self._is_loaded:
            for stored in await self._store.find([protected_in(self._connection.account_id)]):
                order = self._live.latest(stored)
                if order.is_protection_open:
                    self._entries[order.order_id] = order
            self._is_loaded = True
        await self._reopen()
        lines = self._lines()
        self.price_watch.keep_only(lines)
        if not self._entries:
            return None
        now = self._clock.monotonic()
        is_due = now - self._looked_at >= self._interval
        is_suspected = any(shown.suspected != shown.less for shown in self._shown.values())
        if is_due or self._is_look_wanted or (is_suspected and now - self._looked_at >= CONFIRM_SECONDS):
            self._looked_at, self._is_look_wanted = now, False
            await self._look_at_positions(lines)
        wait = self._interval
        for line, entries in lines.items():
            again = await self._look_at_line(line, entries)
            if again is not None:
                wait = min(wait, max(0.05, (again - self._clock.now()).total_seconds()))
        if any(shown.suspected != shown.less for shown in self._shown.values()):
            wait = min(wait, CONFIRM_SECONDS)
        return min(wait, LASTING_SECONDS) if self._passing else wait

    async def _reopen(self) -> None:
        while self._to_reopen:
            names = [f"signal:{name}" for name in self._to_reopen]
            for stored in await self._store.find(names):
                order = self._live.latest(stored)
                if order.wants_protection and order.fills and order.request.account_id == self._connection.account_id:
                    self._entries.setdefault(order.order_id, order)
            self._to_reopen.clear()

    def _lines(self) -> Mapping[_Line, list[Order]]:
        found: dict[_Line, list[Order]] = {}
        for order in sorted(self._entries.values(), key=lambda e: (e.received_at, e.order_id)):
            line = self._line_of(order, side=order.accepted_request.side)
            if line is not None:
                found.setdefault(line, []).append(order)
        for line in self._shown.keys() - found.keys():
            del self._shown[line]
        return found

    def _line_of(self, order: Order, *, side: Side) -> _Line | None:
        """None: it is not known where its fills are booked, which is said there."""
        key = booked_to(order)
        if key is None:
            return None
        return _Line(key, self._product(order), side)

    # --- one line -----------------------------------------------------------------------------------------------

    async def _look_at_line(self, line: _Line, entries: Sequence[Order]) -> datetime | None:
        """Does what is to be done about it; when it is to be looked at again."""
        try:
            plan = await self._planned(line, entries)
            if plan is None:
                return None
            instrument = entries[0].accepted_request.instrument
            self.price_watch.watch(line, line.key.instrument_key, instrument, plan.band)
            self._note_price(line, plan)
            await self._carry_out(plan, entries)
            self._failed.discard(line.key.ledger_id)
            return plan.look_again_at
        except StoreUnavailable:
            raise
        except Exception as exc:
            # The others are looked at, and this one again with the next turn.
            if line.key.ledger_id not in self._failed:
                self._failed.add(line.key.ledger_id)
                log.exception(f"Protection of {line.key.instrument_key} failed: {exc}", action="protection_failed")
            return None

    def _note_price(self, line: _Line, plan: ProtectionPlan) -> None:
        span = self.price_watch.span(line.key.instrument_key)
        if span is not None and plan.band is not None and all(map(plan.band.holds, span)):
            self._shown.setdefault(line, _Shown()).last_price = span[0]

    async def _planned(self, line: _Line, entries: Sequence[Order]) -> ProtectionPlan | None:
        """None: something about it cannot be read, and nothing is concluded."""
        moves = self._moves
        latest = [self._latest(entry) for entry in entries]
        names = [f"exit_of:{name}" for entry in latest for name in entry.names]
        found = await self._store.find(names)
        self._take_unsent(found)
        exits = [self._live.latest(stored) for stored in found]
        if self._store.unreadable(names):
            self._say_unknown(line, "the record of an exit cannot be read")
            return None
        instrument = latest[0].accepted_request.instrument
        booked = await entry_with_unbooked(self._live, self._store, line.key, instrument)
        held = None if booked is None else self._held_of(booked, line, instrument)
        if booked is None or held is None:
            self._say_unknown(line, "what is held cannot be told")
            return None
        capabilities = self._connection.capabilities
        abilities = abilities_of(
            capabilities, instrument, tells_quotes=isinstance(self._connection.broker, TellsQuotes)
        )
        if moves != self._moves:  # something has filled meanwhile: what was read does not belong together
            self._wake_up.tell()
            return None
        shown = self._shown.get(line)
        at_work = list(self._orders_at_work(line, latest[0])) + self._orders_waiting(line)
        over = await self._of_earlier_positions(booked.position, latest) if held > 0 else frozenset()
        stood_for = await self._stood_for(latest)
        protected = [
            protected_entry(
                entry,
                exits,
                capabilities,
                leaving=_left_of(at_work, entry),
                before=stood_for,
                is_over=entry.order_id in over,
                rests_for=self._rests_for,
            )
            for entry in latest
        ]
        was_taken_down = any(order.ending is Ending.REMOVED for entry in protected for order in entry.orders)
        session = None
        if was_taken_down or not abilities.keeps_overnight:
            session = await self._market.session_of(latest[0])
        return protection_plan(
            ProtectedPosition(
                side=line.side,
                held=max(ZERO, held),
                opened_at=booked.position.opened_at,
                is_reversed=held < 0,
                shown=None if shown is None or not shown.less else max(ZERO, held - shown.less),
                more=ZERO if shown is None else shown.more,
                held_by_all=ZERO if shown is None else shown.held_by_all,
                compared_at=None if shown is None else shown.at,
                priced_at=self._clock.now()
                if self._is_on_bars
                else self.price_watch.kept_since(line.key.instrument_key),
                last_price=None if shown is None else shown.last_price,
                leaving=sum((quantity for _, quantity in at_work), ZERO),
                entries=tuple(protected),
                abilities=abilities,
                span=self.price_watch.span(line.key.instrument_key),
                kept_price=self.price_watch.kept(line.key.instrument_key, line.side),
                passed_price=self.price_watch.passed(line.key.instrument_key, line.side),
                kept_since=self.price_watch.kept_since(line.key.instrument_key),
                opens_at=None if session is None or session.is_open else session.opens_at,
                market_opened_at=None if session is None or not session.is_open else session.opened_at,
                now=self._clock.now(),
            )
        )

    def _take_unsent(self, found: Iterable[Stored]) -> None:
        """Protective orders that were stored without an answer: nobody else would bring them to the broker."""
        for stored in found:
            order = stored.order
            is_unsent = order.protective is not None and order.status is Status.PENDING
            is_ours = order.request.account_id == self._connection.account_id
            if is_unsent and is_ours and order.order_id not in self._live.by_id:
                self._orders.take(stored)

    def _latest(self, entry: Order) -> Order:
        live = self._live.by_id.get(entry.order_id)
        return entry if live is None or live.order.version < entry.version else live.order

    async def _held(self, line: _Line, instrument: Instrument) -> Decimal | None:
        """What is held on the line's side, below 0 on the other; None: that is not known. Raises StoreUnavailable."""
        entry = await entry_with_unbooked(self._live, self._store, line.key, instrument)
        return None if entry is None else self._held_of(entry, line, instrument)

    def _held_of(self, entry: LedgerEntry, line: _Line, instrument: Instrument) -> Decimal:
        return held_in(entry, line.product, self._conversation.products_of(instrument)) * line.side.sign

    async def _of_earlier_positions(self, position: Position, entries: Sequence[Order]) -> frozenset[str]:
        """Our ids of those of which nothing is held any more, since their strategy has turned its position and back: what it holds now others have
        bought. Raises StoreUnavailable."""
        found = frozenset(entry.order_id for entry in entries if is_of_an_earlier_position(entry, position))
        if not found:
            return found
        stored = await self._store.find([f"broker:{shown}" for shown in position.order_ids])
        stored = [*stored, *await self._store.load(position.order_ids)]
        return found if are_all_that_traded(map(self._live.latest, stored), entries[0], position) else frozenset()

    async def _stood_for(self, entries: Sequence[Order]) -> Sequence[Order]:
        """The entries whose place any of these has taken. Raises StoreUnavailable."""
        names = [f"signal:{name}" for entry in entries for name in entry.accepted_request.stands_for]
        return [self._live.latest(stored) for stored in await self._store.find(names)] if names else ()

    def _orders_at_work(self, line: _Line, order: Order) -> Iterator[tuple[Order, Decimal]]:
        """Orders that are not protective, are or may be at the broker, and may still take so much of the line."""
        for live in self._live.by_id.values():
            other = live.order
            if other.status not in AT_WORK or other.protective is not None:
                continue
            request = other.accepted_request
            if (
                (request.account_id, request.strategy) == (line.key.account_id, line.key.strategy)
                and request.side is line.side.opposite
                and self._may_be_of_one_holding(order, other)
            ):
                yield other, other.remaining_quantity

    def _orders_waiting(self, line: _Line) -> list[tuple[Order, Decimal]]:
        return [(each.live.order, each.quantity) for each in self._waiting.values() if each.line == line]

    def _say_unknown(self, line: _Line, why: str) -> None:
        if line.key.ledger_id not in self._failed:
            self._failed.add(line.key.ledger_id)
            log.warning(f"Protection of {line.key.instrument_key} rests: {why}", action="protection_rests")

    # --- the broker's positions ---------------------------------------------------------------------------------

    async def _look_at_positions(self, lines: Iterable[_Line]) -> None:
        """What a person, the broker or an expiry took of what we hold shrinks protection: seen twice, with nothing of ours moving between."""
        if not (self._connection.is_connected and self._conversation.reports_positions):
            return
        moves = self._moves
        try:
            theirs = await self._conversation.read_positions()
            ours = await holdings(
                self._live, self._store, self._connection.account_id, (), self._conversation.products_of
            )
        except (BrokerError, TimeoutError) as exc:
            log.info(f"Positions are not told for protection: {exc}", action="positions_not_told")
            return
        if moves != self._moves:
            return
        for line in lines:
            entry = next((e for e in self._entries.values() if booked_to(e) == line.key), None)
            if entry is None:
                continue
            group = group_of(entry.accepted_request.instrument, ours, theirs, line.product)
            if group.is_unclear:
                continue
            less = max(ZERO, (group.held - group.shown) * line.side.sign)
            shown = self._shown.setdefault(line, _Shown())
            shown.more, shown.at = (group.shown - group.held) * line.side.sign, self._clock.now()
            shown.held_by_all = group.held * line.side.sign
            is_same = (less, moves) == (shown.suspected, shown.moves)
            shown.suspected, shown.moves, shown.looks = less, moves, shown.looks + 1 if is_same else 1
            # That nothing at all is shown is what a broker with trouble of its own tells, too.
            if less <= shown.less or shown.looks >= (2 if theirs else 3):
                shown.less = less

    # --- carrying out -------------------------------------------------------------------------------------------

    async def _carry_out(self, plan: ProtectionPlan, entries: Sequence[Order]) -> None:
        """Shrinks first."""
        by_id = {entry.order_id: self._latest(entry) for entry in entries}
        for order_id, standing in plan.standing.items():
            await self._record_move(by_id[order_id], standing)
        for mark in plan.triggered:
            await self._mark_triggered(mark)
        moves = dict.fromkeys(back.move for back in plan.take_back)
        put_off = [move for move in moves if move is not None and not await self._is_worth(move)]
        for back in plan.take_back:
            if back.move not in put_off:
                await self._take_back(back)
        for place in plan.place:
            await self._place(by_id[place.entry_order_id], place)
        for order_id, standing in plan.standing.items():
            if not (put_off and standing.state in _PASSING):
                await self._record(by_id[order_id], standing)
            entry = self._entries.get(order_id)
            if standing.state is ProtectionState.CLOSED and entry is not None and not entry.is_protection_open:
                self._forget(entry)

    async def _mark_triggered(self, mark: MarkTriggered) -> None:
        def change(order: Order) -> Sequence[Event]:
            is_working = order.status in (Status.SUBMITTED, Status.PARTIALLY_FILLED)
            return (
                (Triggered(at=self._clock.now(), message=mark.why),)
                if is_working and order.triggered_at is None
                else ()
            )

        live = self._live.by_id.get(mark.order_id)
        if live is not None:
            await self._live.record(live, change)

    async def _is_worth(self, move: StopMove) -> bool:
        """Whether the market takes a stop at this price, and at another tick than that at which the order rests, so that it is not taken down for
        nothing. Where the broker does not tell, it is asked again with the next look."""
        order_id, stop_price = move.order_id, move.stop_price
        live, broker = self._live.by_id.get(order_id), self._connection.broker
        if live is None or not self._connection.capabilities.fits_tickets:
            return True
        try:
            fitted = await self._connection.ask(broker.fitted(replace(live.order.ticket(), stop_price=stop_price)))
        except OrderRefused as exc:
            log.info(f"The market takes no stop at {stop_price:f}: {exc}", action="stop_not_moved", order_id=order_id)
        except (BrokerError, TimeoutError) as exc:
            log.info(f"A stop is not moved yet: {exc}", action="stop_not_moved", order_id=order_id)
            return False
        else:
            if fitted.stop_price != live.order.stop_price:
                return True
        self._rests_for[order_id] = stop_price
        self._wake_up.tell()
        return False

    async def _take_back(self, back: TakeBack) -> None:
        live = self._live.by_id.get(back.order_id)
        if live is not None and live.order.cancel_request is None and not live.order.status.is_final:
            await self._conversation.cancel(live, Reason(ReasonCode.CANCEL_REQUESTED, back.why), REQUESTED_BY)

    async def _place(self, entry: Order, place: Place) -> None:
        """The record is stored, and goes the way of every order. What is stored under its name already is the same one, made by an earlier try."""
        if place.role is not ProtectiveRole.TARGET:
            place = replace(place, piece=max(place.piece, self._used.get(entry.order_id, 0) + 1))
        order = protective_order(entry, place, self._connection.capabilities, self._clock.now())
        (found,) = await self._store.insert_orders([order])
        if found is None:
            log.info(
                f"Protective order made: {place.role} {place.quantity:f}",
                action="protective_order_made",
                signal_id=order.signal_id,
                order_id=order.order_id,
            )
            self._orders.take(Stored(order, Told()))
        elif not isinstance(found, Order) or not _is_of_one_entry(found, order):
            # Somebody has given an order of theirs this name: it is nothing to us, and the next number is free.
            if place.role is not ProtectiveRole.TARGET:
                self._used[entry.order_id] = place.piece
                self._wake_up.tell()
        else:
            (stored,) = await self._store.load([order.order_id])
            if stored.is_unsettled:
                self._orders.take(stored)

    async def _record_move(self, entry: Order, standing: Standing) -> None:
        """Where a trailing stop is to stand is durable before anything is done about it, so that no fall of the price meanwhile, and no death, leaves
        it further away."""
        known = entry.protection
        if known is None or standing.trailed_to is None:
            return
        if (standing.trailed_to, standing.begins_after) == (known.stop_price, known.begins_after):
            return
        before = Standing(state=known.state, reason=known.reason, protected=known.quantity)
        moved = replace(before, trailed_to=standing.trailed_to, begins_after=standing.begins_after)
        await self._record(entry, moved, is_lasting=True, judged_by=known.filled_quantity)

    async def _record(
        self, entry: Order, standing: Standing, *, is_lasting: bool = False, judged_by: Decimal | None = None
    ) -> None:
        """`is_lasting`: also what may pass by itself. `judged_by`: how much of the entry was filled where that was decided; as `entry` tells, unless
        given. What has filled since is judged anew."""
        filled = entry.filled_quantity if judged_by is None else judged_by
        entry = self._latest(entry)
        known = entry.protection
        told = (standing.state, standing.reason, standing.protected, standing.trailed_to, standing.begins_after)
        if known is not None and _said(known) == told:
            self._passing.pop(entry.order_id, None)
            if standing.state is not ProtectionState.CLOSED or known.filled_quantity == filled:
                return
        if standing.state in _PASSING and not is_lasting and not self._has_lasted(entry.order_id, standing.state):
            return
        self._passing.pop(entry.order_id, None)

        def change(order: Order) -> Sequence[Event]:
            found = order.protection
            is_known = found is not None and _said(found) == told
            if is_known and found is not None and found.filled_quantity == order.filled_quantity:
                return ()
            return (
                ProtectionChanged(
                    at=self._clock.now(),
                    state=standing.state,
                    reason=standing.reason,
                    quantity=standing.protected,
                    filled_quantity=filled,
                    stop_price=standing.trailed_to,
                    begins_after=standing.begins_after,
                ),
            )

        live = self._live.by_id.get(entry.order_id)
        if live is None:
            stored = await self._store.load([entry.order_id])
            if not stored or not change(stored[0].order) or not self._ownership.holds(self._connection.account_id):
                return
            live = self._live.by_id.get(entry.order_id) or self._live.adopt(stored[0])
        await self._live.record(live, change)

    def _has_lasted(self, order_id: str, state: ProtectionState) -> bool:
        now = self._clock.monotonic()
        known, since = self._passing.setdefault(order_id, (state, now))
        if known is not state:
            self._passing[order_id] = state, now
            return False
        return now - since >= LASTING_SECONDS
