"""The mock broker without threads, behind the process's border, with a connection's troubles and other brokers' capabilities."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from brokers.base import (
    AssetClass,
    Balance,
    BrokerPosition,
    Capabilities,
    Combination,
    ContractTerms,
    Instrument,
    NoQuote,
    OrderRef,
    PositionEnding,
    PositionMovement,
    Quote,
    Report,
    Reports,
    Ticket,
    Unreadable,
)
from brokers.errors import AnswerUnclear, BrokerUnavailable, OrderRefused, ReservationLost
from brokers.paper.adapter import MockBroker
from brokers.paper.broker import Venue
from brokers.paper.exchange import PaperExchange
from tests.fakes.process import Gate

T = TypeVar("T")


class InlineExecutor(ThreadPoolExecutor):
    """Makes each call on the spot, so that a run is the same each time."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as exc:  # noqa: BLE001  whatever it was belongs to the caller, as with a thread
            done.set_exception(exc)
        return done


class BookInPlace(MockBroker):
    """The mock broker without its thread; with `is_unique` false its book takes a repeated client id, as venues do where it is only a tag."""

    def __init__(self, *, is_unique: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._is_unique = is_unique

    async def connect(self) -> None:
        if self._venue is None:
            self._venue = Venue(self._path, InlineExecutor())
            self._venue.accounts = 1
        await super().connect()

    def _open(self, venue: Venue) -> PaperExchange:
        return PaperExchange(
            self._path,
            account_id=self._account_id,
            market=self._market,
            faults=self._faults,
            clock=self._clock,
            unique_client_order_ids=self._is_unique,
        )


class BrokerFaults:
    """How the connection to the brokers behaves."""

    def __init__(self) -> None:
        self.unavailable: BrokerUnavailable | None = None
        """Raised by every call while it is set."""
        self.errors: dict[str, list[BaseException]] = {}
        """By operation: raised by the next calls, one after the other, before the book hears of them."""
        self.unfitting: dict[str, list[Exception]] = {}
        """By symbol: raised by the next calls that fit a ticket to its market."""
        self.holds: dict[str, asyncio.Event] = {}
        """By operation: calls wait here before they reach the book."""
        self.holds_answer: dict[str, asyncio.Event] = {}
        """By operation: the book has done it, the answer waits here."""
        self.found: dict[str, Report] = {}
        """By client order id: what `find` tells of an order that the book does not have."""
        self.retold: Callable[[Sequence[Report]], Sequence[Report]] | None = None
        """What is told of the orders instead, by lists and by `find`, which tells the first."""
        self.unreadable: Sequence[Unreadable] = ()
        """What of the lists cannot be read."""
        self.held: Callable[[Sequence[BrokerPosition]], Sequence[BrokerPosition]] | None = None
        """What is told of the positions instead."""
        self.balances: Sequence[Balance] | None = None
        """What is told of the account's money instead."""
        self.endings: Sequence[PositionEnding] = ()
        """What is told of options that ended."""
        self.movements: Sequence[PositionMovement] = ()
        """What is told of shares that moved without an order."""
        self.concern: str | None = None
        """What is amiss with the sessions, besides their capabilities."""
        self.retells_changes = False
        """Whether that is made of what has changed only, as at brokers that push."""


class Reservations:
    """The broker's ids, given beforehand and taken in their sequence only, as IBKR does it; they outlive every life of the service."""

    def __init__(self) -> None:
        self._highest_given = 0
        self._highest_sent = 0

    def give(self, taken: Collection[str]) -> str:
        """As after a restart: what was given and never sent is given again, unless it is said to be taken."""
        numbers = [int(each.removeprefix("R-")) for each in taken]
        self._highest_given = max(self._highest_given, *numbers, 0) + 1
        return f"R-{self._highest_given}"

    def begin_life(self) -> None:
        """A new connection knows of ids what was sent."""
        self._highest_given = self._highest_sent

    def pass_over(self) -> None:
        """Another program sends under the next id."""
        self.send(self.give(()))

    def send(self, reserved: str) -> None:
        number = int(reserved.removeprefix("R-"))
        if number < self._highest_sent:
            raise ReservationLost(f"The id {reserved} was passed over by a later one; nothing was sent")
        self._highest_sent = number
        self._highest_given = max(self._highest_given, number)


class GatedBroker:
    """The Broker that the service speaks to: a mock broker behind the gate, with faults and other capabilities where wanted."""

    def __init__(
        self,
        inner: BookInPlace,
        gate: Gate,
        faults: BrokerFaults,
        calls: list[tuple[str, str]],
        capabilities: Capabilities | None,
        ids: Reservations,
        combined: list[Combination] | None = None,
    ) -> None:
        self.inner = inner
        self._gate = gate
        self._faults = faults
        self._calls = calls
        self._capabilities = capabilities
        self._ids = ids
        self._combined = [] if combined is None else combined
        """What was placed as one order of several legs, in every life."""
        self._known_combinations: dict[str, Combination] = {}
        """By the tag of the whole, as at IBKR: one of another net limit is another."""
        self._has_new_combination = False
        self.repetitions = 0
        """Of the requests to cancel: how many said that they were made before."""

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def capabilities(self) -> Capabilities:
        own = self._capabilities or self.inner.capabilities
        return own if self._faults.concern is None else replace(own, concern=self._faults.concern)

    async def connect(self) -> None:
        await self._pass("connect", "", self.inner.connect)
        self._ids.begin_life()

    async def fitted(self, ticket: Ticket) -> Ticket:
        wrong = self._faults.unfitting.get(ticket.instrument.symbol)
        if wrong:
            raise wrong.pop(0)
        ticket = await self.inner.fitted(ticket)
        if not self.capabilities.combines_option_legs or ticket.instrument.asset_class is not AssetClass.OPTION:
            return ticket
        con_id = zlib.crc32(ticket.instrument.full_key.encode())
        return replace(ticket, terms=ContractTerms(con_id=con_id, multiplier=Decimal(100)))

    async def reserve(self, ticket: Ticket, *, taken: Collection[str] = ()) -> str | None:
        async def next_id() -> str | None:
            return self._ids.give(taken) if self.capabilities.needs_reservation else None

        return await self._pass("reserve", ticket.client_order_id, next_id)

    async def place_order(self, ticket: Ticket) -> Report:
        async def place() -> Report:
            if ticket.reserved_order_id is not None:
                self._ids.send(ticket.reserved_order_id)
            return await self.inner.place_order(ticket)

        return await self._pass("place_order", ticket.client_order_id, place)

    async def place_combined(self, combination: Combination, tickets: Sequence[Ticket]) -> Sequence[Report]:
        async def place() -> Sequence[Report]:
            assert [leg.client_order_id for leg in combination.legs] == [each.client_order_id for each in tickets]
            if tickets[0].reserved_order_id is not None:
                self._ids.send(tickets[0].reserved_order_id)
            self._known_combinations[combination.client_order_id] = combination
            return await self._place_legs(combination, tickets)

        return await self._pass("place_combined", combination.client_order_id, place)

    async def _place_legs(self, combination: Combination, tickets: Sequence[Ticket]) -> Sequence[Report]:
        """In the book each leg is an order of its own: what is one order is which are placed and cancelled together."""
        self._combined.append(combination)
        return [await self.inner.place_order(replace(each, reserved_order_id=None)) for each in tickets]

    def know_combination(self, combination: Combination) -> bool:
        is_new = self._known_combinations.get(combination.client_order_id) != combination
        self._known_combinations[combination.client_order_id] = combination
        self._has_new_combination = self._has_new_combination or is_new
        return is_new

    def _whole_of(self, client_order_id: str) -> Combination | None:
        return next((c for c in self._combined if client_order_id in {leg.client_order_id for leg in c.legs}), None)

    def _as_shown(self, report: Report) -> Report:
        """What legs fill of which this connection has not been told stands under the tag of the whole."""
        whole = self._whole_of(report.client_order_id)
        if whole is None or whole.client_order_id in self._known_combinations:
            return report
        return replace(report, client_order_id=whole.client_order_id)

    async def cancel_order(self, ref: OrderRef, *, again: bool = False) -> None:
        self.repetitions += again
        await self._pass("cancel_order", ref.client_order_id, lambda: self._cancel(ref, again=again))

    async def _cancel(self, ref: OrderRef, *, again: bool) -> None:
        whole = self._whole_of(ref.client_order_id)
        if whole is None:
            await self.inner.cancel_order(ref, again=again)
            return
        for leg in whole.legs:
            with contextlib.suppress(OrderRefused):  # it was cancelled with another leg
                await self.inner.cancel_order(OrderRef(client_order_id=leg.client_order_id), again=again)

    async def reports(self, since: int | None = None) -> Reports:
        is_mark = self._faults.retold is None or self._faults.retells_changes
        if self._has_new_combination:
            since, self._has_new_combination = None, False
        answer = await self._pass("reports", "", lambda: self.inner.reports(since if is_mark else None))
        if self._combined:
            answer = replace(answer, reports=[self._as_shown(each) for each in answer.reports])
        if self._faults.retold is None:
            return replace(answer, unreadable=self._faults.unreadable)
        mark = answer.mark if is_mark else None
        return Reports(self._faults.retold(answer.reports), mark, unreadable=self._faults.unreadable)

    async def find(self, client_order_id: str) -> Report | None:
        report = await self._pass("find", client_order_id, lambda: self.inner.find(client_order_id))
        report = report or self._faults.found.get(client_order_id)
        return report if report is None or self._faults.retold is None else self._faults.retold([report])[0]

    async def find_all(self, client_order_ids: Collection[str]) -> Mapping[str, Report | None]:
        async def look() -> dict[str, Report | None]:
            found = dict(await self.inner.find_all(client_order_ids))
            for tag in client_order_ids:
                for error in self._next_error("find"):
                    if not isinstance(error, AnswerUnclear):
                        raise error
                    del found[tag]
            for tag in found:
                found[tag] = found[tag] or self._faults.found.get(tag)
            return found

        found = await self._pass("find_all", "", look)
        if self._faults.retold is None:
            return found
        return {
            tag: None if report is None else next(iter(self._faults.retold([report])), None)
            for tag, report in found.items()
        }

    def _next_error(self, operation: str) -> list[Exception]:
        errors = self._faults.errors.get(operation)
        return [errors.pop(0)] if errors else []

    async def positions(self) -> Sequence[BrokerPosition]:
        told = await self._pass("positions", "", self.inner.positions)
        return told if self._faults.held is None else self._faults.held(told)

    async def balances(self) -> Sequence[Balance]:
        told = await self._pass("balances", "", self.inner.balances)
        return told if self._faults.balances is None else self._faults.balances

    async def endings(self, since: datetime) -> Sequence[PositionEnding]:
        async def told() -> Sequence[PositionEnding]:
            return [ending for ending in self._faults.endings if ending.at >= since]

        return await self._pass("endings", "", told)

    async def movements(self, since: datetime) -> Sequence[PositionMovement]:
        async def told() -> Sequence[PositionMovement]:
            return [movement for movement in self._faults.movements if movement.on >= since.date()]

        return await self._pass("movements", "", told)

    async def quotes(self, instruments: Collection[Instrument]) -> Mapping[Instrument, Quote | NoQuote]:
        about = ",".join(sorted(each.symbol for each in instruments))
        return await self._pass("quotes", about, lambda: self.inner.quotes(instruments))

    def on_hint(self, callback: Callable[[], None] | None) -> None:
        self.inner.on_hint(callback)

    async def close(self) -> None:
        await self.inner.close()

    async def _pass(self, operation: str, about: str, call: Callable[[], Awaitable[T]]) -> T:
        number = self._gate.enter(f"broker.{operation}")
        self._calls.append((operation, about))
        hold = self._faults.holds.get(operation)
        if hold is not None:
            await hold.wait()
        if self._faults.unavailable is not None:
            raise self._faults.unavailable
        if self._faults.errors.get(operation):
            raise self._faults.errors[operation].pop(0)
        answer = await call()
        self._gate.leave(number)
        hold = self._faults.holds_answer.get(operation)
        if hold is not None:
            await hold.wait()
        return answer
