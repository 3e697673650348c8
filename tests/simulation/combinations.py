"""A broker's book in which options that are legs of one order are placed, executed and ended together, or not at all. How a replica calls it is not
here."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from brokers.base import Combination, CombinationLeg, OrderRef, Report, Reports, ReportStatus, Ticket
from brokers.paper import book as paper_book
from brokers.paper import market as paper_market
from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Action, Fault, Operation, PaperFill, PaperOrder, Step


class CombinedBook(PaperExchange):
    """Each leg has a row of its own, so that the judge reads its executions as those of any order; what the venue does to one row of a whole it does
    to all of them, at one moment, in the ratios of the legs. `wholes`: what was accepted as one order, shared by all views of the book."""

    def __init__(self, *args: Any, wholes: list[Combination], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wholes = wholes
        self._placed: Combination | None = None
        self._fate: dict[Action, Fault] | None = None

    # --- what an adapter calls ----------------------------------------------------------------------------------------

    def place_combined(
        self, combination: Combination, tickets: Sequence[Ticket], now: datetime | None = None
    ) -> Sequence[Report]:
        """All legs, or none: what refuses one is raised before any has its row. Raises as `place`."""
        moment = self._moment(now)
        first = tickets[0]
        rows = [first, *(replace(each, reserved_order_id=None) for each in tickets[1:])]
        with self._as_one(combination), self._writing() as db:
            fate = self._faults_in_the_book(db, Operation.PLACE, first, moment)
            numbers = [self._accept(db, each, moment) for each in rows]
            self._wholes.append(combination)
            for number, ticket in zip(numbers, rows, strict=True):
                self._plan(db, number, ticket, fate, moment)
            self._apply_due(db, moment)
            placed = [paper_book.order_numbered(db, number) for number in numbers]
        return [self._as_shown(each.report()) for each in placed]

    def cancel(self, ref: OrderRef, now: datetime | None = None) -> None:
        order = self._of(ref)
        whole = None if order is None else self.whole_of(order.ticket.client_order_id)
        if whole is None:
            super().cancel(ref, now)
            return
        with self._as_one(whole):
            for leg in whole.legs:
                super().cancel(OrderRef(client_order_id=leg.client_order_id), now)

    def reports(self, since: int | None = None, now: datetime | None = None, *, at_most: int | None = None) -> Reports:
        answer = super().reports(since, now, at_most=at_most)
        return replace(answer, reports=[self._as_shown(each) for each in answer.reports]) if self._wholes else answer

    def find(self, client_order_id: str, now: datetime | None = None) -> Report | None:
        """Of a leg only where the whole is seen."""
        whole = self.whole_of(client_order_id)
        if whole is not None and super().find(whole.client_order_id, now) is None:
            return None
        found = super().find(client_order_id, now)
        return None if found is None else self._as_shown(found)

    # --- what the venue does -------------------------------------------------------------------------------------------

    def fill_order(
        self, ref: OrderRef, quantity: Decimal | None = None, price: Decimal | None = None, **more: Any
    ) -> PaperFill:
        """Of a whole so many units as are in `quantity` of its first leg, at least one; not by another leg."""
        order = self._of(ref)
        whole = None if order is None else self.whole_of(order.ticket.client_order_id)
        if whole is None or order is None:
            return super().fill_order(ref, quantity, price, **more)
        first = self._first_of(whole, order)
        units = max(Decimal(1), (first.open_quantity if quantity is None else quantity) // whole.legs[0].ratio)
        fills = [
            super(CombinedBook, self).fill_order(
                OrderRef(client_order_id=leg.client_order_id), units * leg.ratio, price, **more
            )
            for leg in whole.legs
        ]
        return fills[0]

    def _finish(self, ref: OrderRef, status: ReportStatus, reason: str, now: datetime | None) -> None:
        order = self._of(ref)
        whole = None if order is None else self.whole_of(order.ticket.client_order_id)
        legs = [ref] if whole is None else [OrderRef(client_order_id=leg.client_order_id) for leg in whole.legs]
        for each in legs:
            super()._finish(each, status, reason, now)

    # --- one fate for all ------------------------------------------------------------------------------------------------

    def whole_of(self, client_order_id: str) -> Combination | None:
        return next((w for w in self._wholes if any(leg.client_order_id == client_order_id for leg in w.legs)), None)

    @contextlib.contextmanager
    def _as_one(self, whole: Combination) -> Iterator[None]:
        """Within it, whatever faults hit one leg hit all, and count once."""
        self._placed, self._fate = whole, None
        try:
            yield
        finally:
            self._placed, self._fate = None, None

    def _faults_in_the_book(
        self, db: sqlite3.Connection, operation: Operation, ticket: Ticket, moment: int
    ) -> dict[Action, Fault]:
        if self._placed is None:
            return super()._faults_in_the_book(db, operation, ticket, moment)
        if self._fate is None:
            self._fate = super()._faults_in_the_book(db, operation, ticket, moment)
        ratio = _leg(self._placed, ticket.client_order_id).ratio
        return {
            action: fault if fault.quantity is None else replace(fault, quantity=fault.quantity * ratio)
            for action, fault in self._fate.items()
        }

    def _plan(
        self, db: sqlite3.Connection, number: int, ticket: Ticket, faults: dict[Action, Fault], moment: int
    ) -> None:
        """What chance decides of the whole, by its tag and its units, in each leg's own contracts and at its own price."""
        whole = self._placed
        if whole is None:
            super()._plan(db, number, ticket, faults, moment)
            return
        ratio = _leg(whole, ticket.client_order_id).ratio
        units = replace(ticket, client_order_id=whole.client_order_id, quantity=whole.quantity, display_quantity=None)
        decision = paper_market.decide(units, self.market, faults, moment)
        if decision.rejection is not None:
            paper_book.touch(db, number, moment, ReportStatus.REJECTED, decision.rejection)
        for planned in decision.plan:
            if planned.step is Step.FILL:
                planned = replace(planned, quantity=planned.quantity * ratio)
            paper_book.schedule(db, self.account_id, number, planned)

    def _of(self, ref: OrderRef) -> PaperOrder | None:
        with self._reading() as db:
            return self._named(db, ref)

    def _first_of(self, whole: Combination, order: PaperOrder) -> PaperOrder:
        if order.ticket.client_order_id != whole.client_order_id:
            raise ValueError("it is executed with the first leg of its whole")
        return order

    def _as_shown(self, report: Report) -> Report:
        """Every leg bears the broker's id of the whole."""
        whole = self.whole_of(report.client_order_id)
        if whole is None or whole.client_order_id == report.client_order_id:
            return report
        first = self._of(OrderRef(client_order_id=whole.client_order_id))
        return report if first is None else replace(report, broker_order_id=first.broker_order_id)


def _leg(whole: Combination, client_order_id: str) -> CombinationLeg:
    return next(leg for leg in whole.legs if leg.client_order_id == client_order_id)
