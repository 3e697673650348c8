"""What a plan is computed from, read at one moment: holdings by the ledger, our own open orders, differences to the broker, prices and money."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Generic, Protocol, TypeVar

from brokers.base import AssetClass, Balance, Instrument, Tif
from brokers.errors import BrokerError
from execution_service.core.exact import ZERO
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.core.planning.facts import InstrumentFacts, Money
from execution_service.core.planning.plan import ON_MARGIN, Leg
from execution_service.core.planning.rules import PlanRule, PlanRules
from execution_service.core.planning.stances import Stances
from execution_service.core.planning.targets import Aggressiveness, Target, TargetPositions
from execution_service.core.planning.terms import MOST_ORDERS_BY_VOLUME, Conduct
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.reconcile.discrepancies import DiscrepancyState
from execution_service.core.risk.exposure import in_currency
from execution_service.core.risk.kill import KillLevel, KillState, lets_pass
from execution_service.core.risk.limits import Scope
from execution_service.core.risk.prices import ReferencePrice, best_reference
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.store import Store

OLDEST_PRICE = timedelta(minutes=15)
"""A price that is older tells no quantity."""
SMALLEST_COIN = Decimal("0.00000001")
BROKER_AWAY = "its broker cannot be reached"
STANCES_UNKNOWN = "the stances cannot be read"
T = TypeVar("T")
_UNSURE = frozenset({Status.SUBMITTING, Status.IN_DOUBT})


class KnowsMarket(Protocol):
    """An account's trader, as far as a plan asks it."""

    def known_prices(self, instrument_key: str) -> Sequence[ReferencePrice]:
        """All that is known, however old."""

    async def read_balances(self) -> Sequence[Balance]:
        """Raises BrokerError, TimeoutError."""

    async def ask_prices(self, wanted: Mapping[str, Instrument]) -> None:
        """Has the broker asked for its quotes of these, by their keys in the ledger, where it tells any; returns when it has answered, after a second
        at the latest."""

    async def read_volumes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Decimal]:
        """What the market usually trades of each in a bar, of those of which its broker has told it; returns after a second at the latest. One call
        after the other."""

    @property
    def is_connected(self) -> bool:
        """Whether its broker can be reached."""

    @property
    def makes_up_prices(self) -> bool:
        """Whether its broker trades at a price of its own where an order names none."""

    @property
    def is_on_bars(self) -> bool:
        """Whether its market is one of the past."""

    @property
    def usual_currency(self) -> str | None:
        """In which instruments are priced that name no currency, where accounts have one of their own; None: in the account's, whatever that is."""

    def takes(self, tif: Tif) -> bool:
        """Whether its broker knows that time in force."""

    def trades(self, instrument: Instrument) -> bool:
        """Whether its broker trades that kind of instrument at all, as far as it says."""


class TradesAccounts(Protocol):
    """Who trades each account."""

    def trader_of(self, account_id: str | None) -> KnowsMarket | None:
        """None: it is not traded here."""


@dataclass(frozen=True, slots=True)
class NotNow:
    """The facts cannot be told yet; why, for people."""

    words: str


class KnowsStances(Protocol):
    """What counts at present beside the plan itself."""

    async def now(self) -> Stances:
        """As they were within the last second."""

    async def state(self) -> KillState:
        """Of the kill switches, likewise."""


class _ByName(Generic[T]):
    """Things of instruments, found by whatever may name the same one; without looking at those of others."""

    def __init__(self) -> None:
        self._by_symbol: dict[str, list[tuple[Instrument, T]]] = {}
        self._by_contract: dict[int, list[tuple[Instrument, T]]] = {}

    def add(self, instrument: Instrument, thing: T) -> None:
        self._by_symbol.setdefault(instrument.symbol, []).append((instrument, thing))
        if instrument.con_id is not None:
            self._by_contract.setdefault(instrument.con_id, []).append((instrument, thing))

    def meant_by(self, instrument: Instrument) -> list[T]:
        candidates = list(self._by_symbol.get(instrument.symbol, ()))
        if instrument.con_id is not None:
            # The contract number decides, whatever the symbol is written like.
            others = self._by_contract.get(instrument.con_id, ())
            candidates += [each for each in others if each[0].symbol != instrument.symbol]
        return [thing for named, thing in candidates if named.could_be(instrument)]


class _Known:
    """An account's and strategy's holdings and open orders, by their instruments."""

    def __init__(self, entries: Sequence[LedgerEntry], orders: Sequence[Order]) -> None:
        self.entries = _ByName[LedgerEntry]()
        self.orders = _ByName[Order]()
        for entry in entries:
            self.entries.add(entry.instrument, entry)
        for order in orders:
            self.orders.add(order.accepted_request.instrument, order)
        self._meant = Counter[str]()

    def mean(self, instruments: Iterable[Instrument]) -> None:
        """These are asked for: whatever of the holdings and orders several of them may mean is none's for sure."""
        for instrument in instruments:
            self._meant.update(_names(self.entries.meant_by(instrument), self.orders.meant_by(instrument)))

    def is_shared(self, entries: Sequence[LedgerEntry], orders: Sequence[Order]) -> bool:
        """Whether one of them may be meant by another instrument that is asked for, too."""
        return any(self._meant[name] > 1 for name in _names(entries, orders))


def _names(entries: Sequence[LedgerEntry], orders: Sequence[Order]) -> list[str]:
    return [*(entry.key.ledger_id for entry in entries), *(order.order_id for order in orders)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worth:
    """What an account is worth, in which currency, and what others are worth in that. None: not known."""

    equity: Decimal | None = None
    currency: str | None = None
    rates: Mapping[str, Decimal] = field(default_factory=dict)
    is_unread: bool = False
    """The broker did not tell it just now."""

    def of(self, amount: Decimal, currency: str | None) -> Decimal | None:
        """In the account's currency. One that nobody names is taken for the account's, and every one for that of an account that has several and
        none of its own; None: what it is worth there is not known."""
        if currency is None or (self.currency is None and not self.is_unread):
            return amount
        return in_currency(amount, currency, self.currency, self.rates)


class Holdings:
    """Reads them for one account and strategy."""

    def __init__(
        self, *, store: Store, live_orders: LiveOrders, accounts: TradesAccounts, stances: KnowsStances, clock: Clock
    ) -> None:
        self._store = store
        self._stances = stances
        self._live = live_orders
        self._accounts = accounts
        self._clock = clock
        self._currencies: dict[str, str] = {}

    async def held(self, account_id: str, strategy_id: str) -> Mapping[str, Decimal] | None:
        """Signed, by instrument key: by the ledger, less what our own open orders may still take of it. None: it is not known now. Raises
        StoreUnavailable."""
        entries = await self._entries(account_id, strategy_id)
        if entries is None or self._is_lagging(account_id, strategy_id):
            return None
        orders = _Known((), self._orders(account_id, strategy_id)).orders
        return {entry.instrument.key: self._available(entry, orders.meant_by(entry.instrument)) for entry in entries}

    async def facts(
        self, targets: TargetPositions, rules: PlanRules
    ) -> tuple[Mapping[str, InstrumentFacts], Money] | NotNow:
        """Of all that is targeted, and of all that the strategy holds or trades, by instrument key. Raises StoreUnavailable."""
        account_id, strategy_id = targets.account_id, targets.strategy_id
        trader = self._accounts.trader_of(account_id)
        worth = _Worth()
        if trader is not None:  # first: what is read of the holdings is of one moment
            await trader.ask_prices({target.instrument.key: target.instrument for target in targets.targets})
            worth = await self._worth(account_id, trader)
        entries = await self._entries(account_id, strategy_id)
        if entries is None:
            return NotNow("the positions cannot all be read")
        if self._is_lagging(account_id, strategy_id):
            return NotNow("the last fills are not booked yet")
        orders = self._orders(account_id, strategy_id)
        found = await self._store.discrepancies()
        differing = {
            each.finding.instrument
            for each in found
            if each.account_id == account_id and each.state is DiscrepancyState.OPEN
        }
        found_of = _Known(entries, orders)
        instruments = {target.instrument.key: target.instrument for target in targets.targets}
        named = _ByName[Instrument]()
        for instrument in instruments.values():
            named.add(instrument, instrument)
        for other in (*(entry.instrument for entry in entries), *(o.accepted_request.instrument for o in orders)):
            if not named.meant_by(other):
                instruments[other.key] = other
                named.add(other, other)
        found_of.mean(instruments.values())
        stances, now = await self._stances.now(), self._clock.now()
        if not stances.is_known:
            return NotNow(STANCES_UNKNOWN)
        facts = {}
        for key, instrument in instruments.items():
            where = Scope(account_id=account_id, strategy=strategy_id, symbol=instrument.symbol)
            rule = rules.of(where)
            facts[key] = replace(
                self._of(instrument, found_of, differing, trader, rule, worth),
                stance=stances.of(where, targets.aggressiveness, now),
            )
        if worth.is_unread and any(_waits_for_worth(each, facts[each.instrument.key]) for each in targets.targets):
            return NotNow("the broker does not tell what its account's money is worth in other currencies")
        return facts, Money(equity=worth.equity)

    async def conduct(
        self, targets: TargetPositions, legs: Sequence[Leg], to_send: Collection[int], rule: PlanRule
    ) -> Mapping[int, Conduct] | NotNow:
        """What counts for each of these legs, by leg number; with prices for those of which something may be sent now. NotNow: how anything is to be
        sent is not known."""
        stances, kill, now = await self._stances.now(), await self._stances.state(), self._clock.now()
        if not stances.is_known:
            return NotNow(STANCES_UNKNOWN)
        trader = self._accounts.trader_of(targets.account_id)
        away = None if trader is not None and trader.is_connected else BROKER_AWAY
        of_leg = {}
        for leg in legs:
            where = Scope(account_id=targets.account_id, strategy=targets.strategy_id, symbol=leg.instrument.symbol)
            level, unknown = kill.level(where), None
            if not kill.is_known and not lets_pass(level or KillLevel.REDUCE_ONLY, is_exit=leg.is_exit):
                # It would be refused, and might be let pass a moment later.
                unknown = "whether a kill switch stops it is not known"
            of_leg[leg.number] = Conduct(
                stance=stances.of(where, targets.aggressiveness, now),
                not_now=away or unknown,
                is_halted=level is KillLevel.HALT,
                takes_at_once=trader is None or trader.takes(Tif.IOC),
                may_use_market=rule.market_in_emergency is True,
            )
        sent = [leg for leg in legs if leg.number in to_send and of_leg[leg.number].not_now is None]
        priced = [leg for leg in sent if of_leg[leg.number].stance is not Aggressiveness.NORMAL]
        if trader is None or not priced:
            return of_leg
        _, volumes = await asyncio.gather(
            trader.ask_prices({leg.instrument.key: leg.instrument for leg in priced}),
            trader.read_volumes([leg.instrument for leg in priced]),
        )
        for leg in priced:
            own = replace(
                of_leg[leg.number],
                usual_volume=volumes.get(leg.instrument),
                most_orders_by_volume=None if trader.is_on_bars else MOST_ORDERS_BY_VOLUME,
            )
            best = self._best_price(trader, leg.instrument.key)
            if best is not None:
                own = replace(own, price=best.price, bid=best.bid, ask=best.ask)
            of_leg[leg.number] = own
        return of_leg

    async def cash(self, account_id: str, increases: Sequence[Leg]) -> Decimal | NotNow | None:
        """What increases may spend: the cash that the broker tells, less what other entries of the account may still take of it. None: they are not
        bounded by it: the broker tells no cash, or has it in several currencies without one of them being the account's; or it makes up the prices
        of instruments of which none is known, or is a market of the past, which fills no more than there is cash for."""
        trader = self._accounts.trader_of(account_id)
        if trader is None:
            return NotNow("nobody trades the account here")
        if (trader.makes_up_prices or trader.is_on_bars) and any(leg.price is None for leg in increases):
            return None
        if not trader.is_connected:
            return NotNow(BROKER_AWAY)
        try:
            balances = await trader.read_balances()
        except (BrokerError, TimeoutError) as exc:
            return NotNow(f"the broker does not tell the account's cash: {exc}")
        known = balances if len(balances) == 1 else [each for each in balances if each.is_base]
        if len(known) != 1:
            return None
        worth = _Worth(currency=known[0].currency, rates=_rates(balances))
        reserved = ZERO
        for live in self._live.by_id.values():
            order = live.order
            if order.request.account_id != account_id or order.status.is_final:
                continue
            is_paid = order.accepted_request.instrument.asset_class not in ON_MARGIN
            if order.identity.purpose is Purpose.ENTRY and order.adoption is None and is_paid:
                best = self._best_price(trader, order.accepted_request.instrument.key)
                price = order.limit_price or order.stop_price or (None if best is None else best.price)
                point = order.accepted_request.instrument.multiplier or Decimal(1)
                currency = order.accepted_request.instrument.currency or trader.usual_currency
                amount = worth.of(order.remaining_quantity * (price or ZERO) * point, currency)
                if amount is None:
                    return NotNow(f"what an open order in {currency} may still take is not known")
                reserved += amount
        return known[0].cash - reserved

    def _best_price(self, trader: KnowsMarket, key: str) -> ReferencePrice | None:
        now = self._clock.now()
        return best_reference([p for p in trader.known_prices(key) if now - p.at <= OLDEST_PRICE], now, None)

    async def _entries(self, account_id: str, strategy_id: str) -> list[LedgerEntry] | None:
        entries = await self._store.open_ledgers(account_id)
        return None if entries is None else [entry for entry in entries if entry.key.strategy == strategy_id]

    def _live_of(self, account_id: str, strategy_id: str) -> list[LiveOrder]:
        return [
            live
            for live in self._live.by_id.values()
            if (live.order.request.account_id, live.order.request.strategy) == (account_id, strategy_id)
        ]

    def _is_lagging(self, account_id: str, strategy_id: str) -> bool:
        """Whether something was filled that the ledger does not have yet."""
        mine = self._live_of(account_id, strategy_id)
        return any(live.order.fills and live.told.ledger < live.order.version for live in mine)

    def _orders(self, account_id: str, strategy_id: str) -> list[Order]:
        mine = (live.order for live in self._live_of(account_id, strategy_id))
        return [order for order in mine if not order.status.is_final]

    @staticmethod
    def _available(entry: LedgerEntry, orders: Sequence[Order]) -> Decimal:
        quantity = entry.position.quantity
        for order in orders:
            if order.accepted_request.side.sign * quantity < 0:
                quantity += order.remaining_quantity * order.accepted_request.side.sign
        return quantity if quantity * entry.position.quantity > 0 else ZERO

    def _of(
        self,
        instrument: Instrument,
        known: _Known,
        differing: Collection[str | None],
        trader: KnowsMarket | None,
        rule: PlanRule,
        worth: _Worth,
    ) -> InstrumentFacts:
        mine, working = known.entries.meant_by(instrument), known.orders.meant_by(instrument)
        keys = {instrument.key, instrument.full_key, *(entry.key.instrument_key for entry in mine)}
        blocked, is_shared = None, known.is_shared(mine, working)
        if len(mine) > 1:
            blocked = f"{len(mine)} holdings may be meant"
        elif is_shared:
            blocked = "a holding or open order may be this or another instrument of the list"
        elif any(order.status in _UNSURE for order in working):
            blocked = "an order is under way or in doubt"
        elif any(key in differing for key in keys):
            blocked = "our books and the broker's differ"
        key = mine[0].key.instrument_key if mine else instrument.key
        price = None if trader is None else self._best_price(trader, key)
        point = (mine[0].money_per_point if mine else None) or instrument.multiplier or Decimal(1)
        usual = None if trader is None else trader.usual_currency
        currency = (mine[0].currency if mine else None) or instrument.currency or usual
        is_coin = instrument.asset_class is AssetClass.CRYPTO
        return InstrumentFacts(
            # The holding's own name: what closes it must mean it.
            instrument=mine[0].instrument if len(mine) == 1 and not is_shared else instrument,
            held=sum((entry.position.quantity for entry in mine), ZERO),
            working=sum((order.remaining_quantity * order.accepted_request.side.sign for order in working), ZERO),
            blocked=blocked,
            price=None if price is None else price.price,
            unit_value=worth.of(point, currency),
            currency=currency,
            lot=rule.lot or (SMALLEST_COIN if is_coin else Decimal(1)),
            min_quantity=rule.min_quantity or ZERO,
            max_quantity=rule.max_quantity,
            min_notional=rule.min_value or ZERO,
            unknown=None if trader is None or trader.trades(instrument) else "its broker does not trade this kind",
        )

    async def _worth(self, account_id: str, trader: KnowsMarket) -> _Worth:
        """Of several currencies the base currency is the account's, and none where no base is told. Where the broker does not answer, the currency
        is what it was: that of an account does not change."""
        unread = _Worth(currency=self._currencies.get(account_id), is_unread=True)
        if not trader.is_connected:
            return unread
        try:
            worth = _worth_of(await trader.read_balances())
        except (BrokerError, TimeoutError):
            return unread
        if worth.currency is not None:
            self._currencies[account_id] = worth.currency
        return worth


def _worth_of(balances: Sequence[Balance]) -> _Worth:
    rates = _rates(balances)
    base = next((each for each in balances if each.is_base), None)
    if base is not None and base.account_equity is not None:
        return _Worth(equity=base.account_equity, currency=base.currency, rates=rates)
    known = [balance for balance in balances if balance.equity is not None]
    if len(known) == 1:
        return _Worth(equity=known[0].equity, currency=known[0].currency, rates=rates)
    only = balances[0] if len(balances) == 1 else base
    return _Worth(currency=None if only is None else only.currency, rates=rates)


def _rates(balances: Sequence[Balance]) -> Mapping[str, Decimal]:
    """What one unit of each currency is worth in the account's, as far as the broker says."""
    return {each.currency: each.rate for each in balances if each.rate is not None}


def _waits_for_worth(target: Target, known: InstrumentFacts) -> bool:
    """Whether more is to be held of what is worth nobody knows what. A reduction does not wait for that; a weight is refused without an equity."""
    if known.unit_value is not None or not target.quantity:
        return False
    return target.quantity * known.held <= 0 or abs(target.quantity) > abs(known.held)
