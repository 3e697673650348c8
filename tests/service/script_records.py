"""A store of their own for the records that the tests of the scripts look at; no tests here."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import mongomock

from execution_service.core.orders.order import Order
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey
from execution_service.core.positions.position import Position
from execution_service.core.views.record import ledger_to_document, order_to_document
from execution_service.storage.mongo.documents import lease_to_document
from execution_service.storage.mongo.names import LEASES, ORDERS, POSITIONS, UNSETTLED
from execution_service.storage.ports.leases import Lease
from execution_service.storage.reader import StoreReader
from tests.builders import NOW, instrument


class Records:
    """The store of one test, and the view of it that scripts have."""

    def __init__(self) -> None:
        self.client: Any = mongomock.MongoClient(tz_aware=True)
        self.db = self.client["records"]
        self.view = StoreReader(self.client, "records")

    def keep(self, order: Order, *, told: int | None = None) -> Order:
        """`told`: the number of the last event that was delivered; all of them unless given."""
        number = order.version if told is None else told
        is_settled = order.status.is_final and number >= order.version
        document = order_to_document(order)
        document["lookup"] += [] if is_settled else [UNSETTLED]
        self.db[ORDERS].insert_one(document | {"told": {"world": number, "people": number}})
        return order

    def lease(self, partition: str, renewed_at: datetime) -> None:
        lease = Lease(
            partition=partition,
            holder="process-1",
            epoch=1,
            beat=1,
            term_seconds=8.0,
            host="there",
            pid=7,
            taken_at=NOW,
            renewed_at=renewed_at,
        )
        self.db[LEASES].insert_one(lease_to_document(lease))

    def hold(self, account_id: str) -> None:
        held = Position(quantity=Decimal(5), cost=Decimal(50))
        key = LedgerKey(account_id=account_id, strategy="momentum", instrument_key="AAPL|STOCK")
        entry = LedgerEntry(key=key, instrument=instrument(), position=held, version=1)
        self.db[POSITIONS].insert_one(ledger_to_document(entry))
