"""The paper exchange's book with a gateway's ids. No socket, no wire format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from brokers.base import OrderRef, Report, ReportStatus, Ticket
from brokers.errors import OrderRefused
from brokers.paper.model import Market, PaperOrder
from simulators.fault_plan import PlannedBook
from simulators.ibkr.wire import ComboLeg

_FIRST_PERM_ID = 1_900_000_000
_LEG = "+"
"""Between the id of a combination and the number of a leg."""
_BAG = "BAG "


class TwsBook(PlannedBook):
    """One account's book. An order's `broker_order_id` is `CLIENT:ORDER`, the ids used by the client that placed it,
    or `p` and the permanent id if no client did. A client order id is only a tag here. A corrected execution keeps
    its id except for the version at its end."""

    def __init__(
        self,
        path: Path | str,
        *,
        account_id: str,
        market: Market | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(
            path,
            account_id=account_id,
            market=market,
            broker_order_id_format=f"p{_FIRST_PERM_ID // 10**8}{{number:08d}}",
            fill_id_format="0000e0d5.{number:08x}.01.01",
            corrected_fill_id=next_version,
            unique_client_order_ids=False,
            clock=clock,
        )
        self._highest: dict[int, int] = {}
        for order in self.orders():
            self._remember(order.broker_order_id)

    def place(self, ticket: Ticket, now: datetime | None = None) -> Report:
        report = super().place(ticket, now)
        self._remember(report.broker_order_id)
        return report

    def place_legs(self, tickets: Sequence[Ticket]) -> None:
        """A combination: in the book each leg is an order of its own, the first under the id of the whole."""
        whole = tickets[0].reserved_order_id
        for place, ticket in enumerate(tickets):
            named = whole if place == 0 else f"{whole}{_LEG}{place}"
            self.place(replace(ticket, reserved_order_id=named))

    def shown(self, orders: Iterable[PaperOrder]) -> list[PaperOrder]:
        """The orders that the gateway shows for these, each once: of legs their combination, which has the fills of all
        of them."""
        found: dict[str, PaperOrder] = {}
        for order in orders:
            base = base_id(order.broker_order_id)
            if base not in found:
                found[base] = _whole(self.legs_of(order)) if bag_in(order) is not None else order
        return list(found.values())

    def legs_of(self, order: PaperOrder) -> list[PaperOrder]:
        """The legs of the combination, as the book has each; of any other order that one alone."""
        bag, base = bag_in(order), base_id(order.broker_order_id)
        if bag is None:
            return [order]
        names = [base, *(f"{base}{_LEG}{place}" for place in range(1, len(bag.legs)))]
        return [leg for name in names if (leg := self.order(name)) is not None]

    def cancel_shown(self, order: PaperOrder) -> None:
        """Raises OrderRefused where nothing of it can be cancelled any more."""
        refusals, legs = [], self.legs_of(order)
        for leg in legs:
            try:
                self.cancel(OrderRef(client_order_id="", broker_order_id=leg.broker_order_id))
            except OrderRefused as exc:
                refusals.append(exc)
        if len(refusals) == len(legs):
            raise refusals[0]

    def next_order_id(self, client_id: int) -> int:
        """One above the highest that the client ever used."""
        return self._highest.get(client_id, 0) + 1

    def _remember(self, broker_order_id: str) -> None:
        client_id, colon, order_id = base_id(broker_order_id).partition(":")
        if colon:
            self._highest[int(client_id)] = max(self._highest.get(int(client_id), 0), int(order_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bag:
    """A combination as its client placed it. It is kept with each of its legs."""

    action: str
    quantity: Decimal
    order_type: str
    limit_price: Decimal | None
    legs: tuple[ComboLeg, ...]

    @property
    def as_text(self) -> str:
        legs = [[leg.con_id, leg.ratio, leg.action, leg.exchange] for leg in self.legs]
        limit = None if self.limit_price is None else str(self.limit_price)
        return _BAG + json.dumps([self.action, str(self.quantity), self.order_type, limit, legs])

    def filled_of(self, legs: Sequence[PaperOrder]) -> Decimal:
        """How many units are whole."""
        filled = (leg.filled_quantity // own.ratio for leg, own in zip(legs, self.legs, strict=True))
        return min(filled, default=Decimal(0))

    def price_of(self, legs: Sequence[PaperOrder]) -> Decimal:
        """The net price of one unit on the average, of what has filled; sales count as received."""
        net = Decimal(0)
        for leg, own in zip(legs, self.legs, strict=True):
            paid = sum((fill.quantity * fill.price for fill in leg.fills if not fill.busted), Decimal(0))
            average = paid / leg.filled_quantity if leg.filled_quantity else Decimal(0)
            net += average * own.ratio * leg.ticket.side.sign
        return net


def bag_in(order: PaperOrder) -> Bag | None:
    """The combination of which it is a leg; None: of none."""
    text = order.ticket.variety or ""
    if not text.startswith(_BAG):
        return None
    action, quantity, order_type, limit, legs = json.loads(text.removeprefix(_BAG))
    return Bag(
        action=action,
        quantity=Decimal(quantity),
        order_type=order_type,
        limit_price=None if limit is None else Decimal(limit),
        legs=tuple(ComboLeg(con_id=n, ratio=r, action=a, exchange=e) for n, r, a, e in legs),
    )


def base_id(broker_order_id: str) -> str:
    """The id of the whole, for that of a leg."""
    return broker_order_id.partition(_LEG)[0]


def _whole(legs: Sequence[PaperOrder]) -> PaperOrder:
    """As one order: it works until all have filled, or one has ended otherwise."""
    ended = [leg for leg in legs if leg.status not in (ReportStatus.WORKING, ReportStatus.FILLED)]
    is_done = all(leg.status is ReportStatus.FILLED for leg in legs)
    status = ended[0].status if ended else ReportStatus.FILLED if is_done else ReportStatus.WORKING
    latest = max(legs, key=lambda leg: leg.change)
    return replace(
        legs[0],
        status=status,
        reason=ended[0].reason if ended else None,
        changed_at=latest.changed_at,
        change=latest.change,
        fills=tuple(fill for leg in legs for fill in leg.fills),
    )


def perm_id(order: PaperOrder) -> int:
    """The gateway's permanent id of the order."""
    return _FIRST_PERM_ID + order.number


def client_and_order_id(order: PaperOrder) -> tuple[int, int]:
    """(0, 0) for an order that no client placed."""
    client_id, colon, order_id = base_id(order.broker_order_id).partition(":")
    return (int(client_id), int(order_id)) if colon else (0, 0)


def next_version(exec_id: str) -> str:
    """`….01` -> `….02`."""
    base, _, version = exec_id.rpartition(".")
    return f"{base}.{int(version) + 1:02d}"
