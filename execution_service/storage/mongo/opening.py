"""A client with bounded waits, and the indexes that the service relies on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import pymongo
import structlog
from pymongo.database import Database
from pymongo.errors import (
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WTimeoutError,
)

from execution_service.core.reconcile.discrepancies import DiscrepancyState
from execution_service.core.views.record import (
    Document,
)
from execution_service.storage.mongo.calls import in_short
from execution_service.storage.mongo.names import (
    ALERTS,
    COMMANDS,
    CONFIRMATIONS_VIEW,
    DISCREPANCIES,
    ORDERS,
    PLANS,
    POSITIONS,
    POSITIONS_VIEW,
    SIGNALS_VIEW,
    TRADING_ORDERS_VIEW,
)
from execution_service.storage.ports.errors import StoreUnavailable

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Index:
    """One that the service relies on: for uniqueness, or for speed."""

    fields: tuple[str, ...]
    is_unique: bool = False
    only: Mapping[str, Any] | None = None
    """Of documents with these values alone."""

    @property
    def keys(self) -> list[tuple[str, int]]:
        return [(field, 1) for field in self.fields]

    @property
    def options(self) -> dict[str, Any]:
        unique = {"unique": True} if self.is_unique else {}
        return unique | ({} if self.only is None else {"partialFilterExpression": dict(self.only)})

    def is_served_by(self, found: Mapping[str, Any]) -> bool:
        """Whether an index, as the server tells of it, does for this one, whatever its name is."""
        return (
            list(found["key"].items()) == self.keys
            and (not self.is_unique or bool(found.get("unique")))
            and found.get("partialFilterExpression") == self.only
            and not any(found.get(name) for name in _LEAVES_OUT)
        )


_LEAVES_OUT = ("sparse", "collation", "hidden", "expireAfterSeconds")
"""An index with one of these does not answer every question about its fields."""
_BY_IDENTITY = Index(("signal_id", "leg_index", "purpose"), is_unique=True)
INDEXES: Mapping[str, Sequence[Index]] = {
    ORDERS: (
        _BY_IDENTITY,
        Index(("account_id", "client_order_id"), is_unique=True),
        Index(("lookup",)),
        Index(("received_at",)),
    ),
    COMMANDS: (Index(("status",)), Index(("active_until",)), Index(("body.order_id",)), Index(("body.signal_id",))),
    ALERTS: (Index(("sent_at",)),),
    PLANS: (Index(("is_open",)), Index(("account_id", "strategy_id", "as_of"))),
    POSITIONS: (Index(("account_id",)),),
    DISCREPANCIES: (
        Index(("place",), is_unique=True, only={"state": DiscrepancyState.OPEN.value}),
        Index(("account_id",)),
    ),
    CONFIRMATIONS_VIEW: (_BY_IDENTITY, Index(("submitted_at",)), Index(("timestamp",))),
    SIGNALS_VIEW: (Index(("signal_id",)),),
    POSITIONS_VIEW: (Index(("ledger_id",), is_unique=True, only={"status": "OPEN"}), Index(("opened_at",))),
    TRADING_ORDERS_VIEW: (Index(("order_id",)),),
}


def connect(uri: str) -> pymongo.MongoClient[Document]:
    """A client with bounded waits and durable writes; opens no connection yet. Raises StoreUnavailable for an address that is unusable."""
    try:
        return pymongo.MongoClient(
            uri,
            tz_aware=True,
            tzinfo=UTC,
            # One moment beyond the calendar, or one text that is none, would fail the reading of everything that is read with it.
            datetime_conversion="DATETIME_AUTO",
            unicode_decode_error_handler="replace",
            appname="execution-service",
            connectTimeoutMS=3000,
            serverSelectionTimeoutMS=3000,
            socketTimeoutMS=20000,
            timeoutMS=None,
            retryWrites=False,  # a repeated write is our own affair: see MongoStore
            w="majority",
            journal=True,
        )
    except (PyMongoError, ValueError) as exc:  # an option that is wrong, a name that does not resolve
        raise StoreUnavailable(f"MONGODB_URI cannot be used: {str(exc).splitlines()[0]}") from exc


def ensure_indexes(db: Database[Document], name: str) -> None:
    """Makes what is missing. One that keeps records unique must be there: without it the store is not fit to be used. Without another the
    service is slow, and says so."""
    collection = db[name]
    there = list(collection.list_indexes())
    for wanted in INDEXES[name]:
        if any(wanted.is_served_by(found) for found in there):
            continue
        try:
            collection.create_index(wanted.keys, **wanted.options)
        except (ExecutionTimeout, WTimeoutError):
            raise
        except OperationFailure as exc:
            words = f"the index of {name} on {wanted.fields} cannot be made: {in_short(exc)}"
            if wanted.is_unique:
                raise StoreUnavailable(words) from exc
            log.error(f"Slower than need be, {words}", action="index_missing", collection=name)
