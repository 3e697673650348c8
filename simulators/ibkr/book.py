"""The paper exchange's book with a gateway's ids. No socket, no wire format."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from brokers.base import Report, Ticket
from brokers.paper.model import Market, PaperOrder
from simulators.fault_plan import PlannedBook

_FIRST_PERM_ID = 1_900_000_000


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

    def next_order_id(self, client_id: int) -> int:
        """One above the highest that the client ever used."""
        return self._highest.get(client_id, 0) + 1

    def _remember(self, broker_order_id: str) -> None:
        client_id, colon, order_id = broker_order_id.partition(":")
        if colon:
            self._highest[int(client_id)] = max(self._highest.get(int(client_id), 0), int(order_id))


def perm_id(order: PaperOrder) -> int:
    """The gateway's permanent id of the order."""
    return _FIRST_PERM_ID + order.number


def client_and_order_id(order: PaperOrder) -> tuple[int, int]:
    """(0, 0) for an order that no client placed."""
    client_id, colon, order_id = order.broker_order_id.partition(":")
    return (int(client_id), int(order_id)) if colon else (0, 0)


def next_version(exec_id: str) -> str:
    """`….01` -> `….02`."""
    base, _, version = exec_id.rpartition(".")
    return f"{base}.{int(version) + 1:02d}"
