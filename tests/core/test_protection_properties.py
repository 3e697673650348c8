"""Whatever fills, is annulled, exits, is traded by hand or dies in between: stops add up to what is held, and no two exits exceed it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from brokers.base import Side
from execution_service.core.orders.protective import Protective, ProtectiveRole
from execution_service.core.protection.plan import (
    Abilities,
    Ending,
    Place,
    ProtectedEntry,
    ProtectedPosition,
    ProtectiveOrder,
    Stage,
    protection_plan,
)
from execution_service.core.protection.trailing import Trail

ZERO = Decimal(0)
START = datetime(2026, 1, 5, 15, 0, tzinfo=UTC)


@dataclass
class Venue:
    """One position with its entries, and a broker that keeps what it promises about links, and nothing about time."""

    luck: random.Random
    abilities: Abilities
    target: Decimal | None
    filled: dict[str, Decimal] = field(default_factory=dict)
    exited: dict[str, Decimal] = field(default_factory=dict)
    orders: dict[str, ProtectiveOrder] = field(default_factory=dict)
    missed: dict[str, Decimal] = field(default_factory=dict)
    """By the target, what its stop had filled when the broker took the target: it is not taken off that."""
    leaving: Decimal = ZERO
    """Of an exit without a name, at the broker."""
    waiting: Decimal = ZERO
    """Of an exit without a name that waits for protection to make way."""
    sold: Decimal = ZERO
    """By exits without a name."""
    by_hand: Decimal = ZERO
    """Sold by a person at the broker, and not known to our books."""
    now: datetime = START
    trail: Trail | None = None
    price: Decimal = Decimal(10)
    trailed_to: dict[str, Decimal] = field(default_factory=dict)
    """As the records of the entries have it."""

    @property
    def held(self) -> Decimal:
        children = sum((o.filled for o in self.orders.values()), ZERO)
        return sum(self.filled.values(), ZERO) - self.sold - children

    @property
    def at_risk(self) -> Decimal:
        """What protective orders that are, or may be, at the broker can still sell, by the venue's own rule of links."""
        most: dict[str, Decimal] = {}
        for order in self.orders.values():
            if order.is_alive:
                name = order.protective.link or order.order_id
                most[name] = max(most.get(name, ZERO), self.left(order))
        return sum(most.values(), ZERO)

    def left(self, order: ProtectiveOrder) -> Decimal:
        link = order.protective.link
        linked = [o for o in self.orders.values() if link is not None and o.protective.link == link]
        filled = sum((o.filled for o in linked), ZERO) if link else order.filled
        filled -= self.missed.get(order.order_id, ZERO)
        return max(ZERO, max((o.quantity for o in linked), default=order.quantity) - filled)

    def position(self) -> ProtectedPosition:
        entries = []
        for name, quantity in self.filled.items():
            own = tuple(o for o in self.orders.values() if o.protective.entry_order_id == name)
            taken = sum((o.filled for o in own), ZERO)
            entries.append(
                ProtectedEntry(
                    order_id=name,
                    open_quantity=max(ZERO, quantity - taken),
                    stop=Decimal(9),
                    target=self.target,
                    orders=own,
                    trail=self.trail,
                    average_price=Decimal(10),
                    trailed_to=self.trailed_to.get(name),
                )
            )
        return ProtectedPosition(
            side=Side.BUY,
            held=max(ZERO, self.held),
            shown=max(ZERO, self.held - self.by_hand) if self.by_hand else None,
            leaving=self.leaving + self.waiting,
            entries=tuple(entries),
            abilities=self.abilities,
            kept_price=self.price if self.trail is not None else None,
            now=self.now,
        )

    # --- what happens -------------------------------------------------------------------------------------------

    def turn(self, *, dies: bool = False) -> int:
        """What is planned is done, up to where a death ends it; how much that was."""
        plan = protection_plan(self.position())
        if self.trail is not None:
            for name, standing in plan.standing.items():
                stood = self.trailed_to.get(name)
                assert standing.trailed_to is not None
                assert stood is None or standing.trailed_to >= stood
                self.trailed_to[name] = standing.trailed_to
        actions = [*plan.take_back, *plan.place]
        done = actions[: self.luck.randrange(len(actions) + 1)] if dies else actions
        for action in done:
            if isinstance(action, Place):
                self.place(action)
            else:
                order = self.orders[action.order_id]
                unsent = order.stage is Stage.UNSENT
                self.orders[action.order_id] = (
                    self.gone(order, Ending.TAKEN_BACK) if unsent else replace(order, is_asked_to_end=True)
                )
        if not dies:
            assert not [
                name for name in self.missed if self.orders[name].is_alive and not self.orders[name].is_asked_to_end
            ]
        return len(actions)

    def place(self, place: Place) -> None:
        protective = Protective(
            entry_order_id=place.entry_order_id, role=place.role, piece=place.piece, is_linked=place.is_linked
        )
        # The same name again is the same order, whoever died in between.
        self.orders.setdefault(
            protective.signal_id,
            ProtectiveOrder(
                order_id=protective.signal_id,
                protective=protective,
                quantity=place.quantity,
                stage=Stage.UNSENT,
                stop_price=place.stop_price,
            ),
        )

    def gone(self, order: ProtectiveOrder, ending: Ending) -> ProtectiveOrder:
        return replace(order, stage=Stage.GONE, ending=ending, ended_at=self.now)

    def sends(self) -> None:
        """An order leaves if what is held covers it beside all others, as the check before leaving has it."""
        for name, order in list(self.orders.items()):
            if order.stage is not Stage.UNSENT:
                continue
            others = replace(order, stage=Stage.GONE)
            self.orders[name] = others
            link = order.protective.link
            linked = any(o.is_alive and o.protective.link == link for o in self.orders.values()) if link else False
            room = self.held - self.by_hand - self.leaving - (ZERO if linked else self.at_risk)
            fits = order.quantity <= room or (linked and order.quantity <= self.left(order))
            stage = self.luck.choice([Stage.WORKING, Stage.WORKING, Stage.UNCERTAIN])
            if linked:
                fits = fits and not self.fills_of_its_stop(order)
                if fits and self.luck.random() < 0.3:
                    self.overtakes(order)
            self.orders[name] = replace(order, stage=stage) if fits else self.gone(order, Ending.REFUSED)

    def stop_of(self, target: ProtectiveOrder) -> ProtectiveOrder:
        link = target.protective.link
        return next(o for o in self.orders.values() if o.protective.link == link and o.role is ProtectiveRole.STOP)

    def fills_of_its_stop(self, target: ProtectiveOrder) -> Decimal:
        return self.stop_of(target).filled

    def overtakes(self, target: ProtectiveOrder) -> None:
        """The stop fills a part while the target is on its way."""
        stop = self.stop_of(target)
        part = min(self.left(stop), Decimal(4))
        if stop.is_alive and 0 < part < self.left(stop):
            self.orders[stop.order_id] = replace(stop, filled=stop.filled + part)
            self.missed[target.order_id] = part

    def venue_does(self) -> None:
        """One thing that brokers and people do."""
        alive = [o for o in self.orders.values() if o.stage in (Stage.WORKING, Stage.UNCERTAIN)]
        match self.luck.randrange(9):
            case 0:
                name = self.luck.choice(["e1", "e2"])
                self.filled[name] = self.filled.get(name, ZERO) + self.luck.choice([1, 10, 40])
            case 1 if self.filled and not alive and not self.leaving:
                name = self.luck.choice(list(self.filled))  # an execution is annulled that nothing was built upon
                own = sum((o.filled for o in self.orders.values() if o.protective.entry_order_id == name), ZERO)
                self.filled[name] = max(own, self.filled[name] - 5) if self.held >= 5 else self.filled[name]
            case 2 if alive:
                order = self.luck.choice(alive)
                left = self.left(order)
                part = left if self.luck.random() < 0.5 else min(left, Decimal(3))
                self.orders[order.order_id] = replace(order, filled=order.filled + part)
                self.settle_links()
            case 3 if alive:
                order = self.luck.choice(alive)
                self.orders[order.order_id] = self.gone(order, self.luck.choice([Ending.REMOVED, Ending.EXPIRED]))
            case 4 if self.held > 0 and not self.waiting and not self.leaving:
                self.waiting = min(self.held, Decimal(self.luck.choice([5, 20, 1000])))
            case 5 if self.leaving:
                part = self.leaving if self.luck.random() < 0.5 else min(self.leaving, Decimal(2))
                self.sold, self.leaving = self.sold + part, self.leaving - part
            case 6:
                self.leaving = ZERO  # cancelled
            case 7 if self.held - self.by_hand > self.at_risk + self.leaving:
                self.by_hand += 1
            case _:
                self.confirms()
        if self.waiting and self.held - self.by_hand - self.at_risk >= min(self.waiting, self.held):
            self.leaving, self.waiting = min(self.waiting, self.held), ZERO
        self.price = max(Decimal(5), self.price + self.luck.choice([Decimal("-0.7"), Decimal("0.1"), Decimal("0.6")]))
        self.now += timedelta(seconds=self.luck.choice([1, 5, 60, 700]))

    def confirms(self) -> None:
        for name, order in list(self.orders.items()):
            if order.is_alive and order.is_asked_to_end:
                self.orders[name] = self.gone(order, Ending.TAKEN_BACK)
            elif order.stage is Stage.UNCERTAIN:
                self.orders[name] = replace(order, stage=Stage.WORKING)

    def settle_links(self) -> None:
        for name, order in list(self.orders.items()):
            if order.is_alive and not self.left(order):
                whole = order.filled >= order.quantity
                self.orders[name] = self.gone(order, Ending.FILLED if whole else Ending.TAKEN_BACK)


@pytest.mark.parametrize("trail", [None, Trail(percent=Decimal(8)), Trail(amount=Decimal("0.9"))])
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_stops_add_up_to_what_is_held_and_never_exceed_it(seed: int, links: bool, trail: Trail | None) -> None:
    luck = random.Random(f"{seed}-{links}")
    venue = Venue(luck, Abilities(links=links), luck.choice([None, Decimal(12)]), trail=trail)
    for _ in range(60):
        venue.venue_does()
        venue.turn(dies=luck.random() < 0.3)
        venue.sends()
        most = max(ZERO, venue.held - venue.by_hand) + sum(venue.missed.values(), ZERO)
        assert venue.at_risk + venue.leaving <= most or any(o.is_asked_to_end for o in venue.orders.values())
    venue.waiting = ZERO
    for _ in range(40):  # nothing happens any more but what was asked for
        venue.now += timedelta(seconds=700)
        venue.confirms()
        if not venue.turn() and not any(o.stage is Stage.UNSENT for o in venue.orders.values()):
            break
        venue.sends()
    venue.confirms()
    wanted = max(ZERO, venue.held - venue.by_hand - venue.leaving)
    stops = [o for o in venue.orders.values() if o.role is ProtectiveRole.STOP and o.is_alive]
    assert sum((venue.left(o) for o in stops), ZERO) == wanted
    for stop in stops if trail is not None else ():
        assert stop.stop_price == venue.trailed_to[stop.protective.entry_order_id]
    assert not [o for o in venue.orders.values() if o.is_alive and not wanted]
