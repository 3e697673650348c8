"""Writes of the shared collections, and the few questions that are asked of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from execution_service.core.views.shared import HexId


class View(StrEnum):
    """The collections that others read."""

    CONFIRMATIONS = "CONFIRMATIONS"
    SIGNALS = "SIGNALS"
    POSITIONS = "POSITIONS"
    TRADING_ORDERS = "TRADING_ORDERS"
    TRADING_ACCOUNTS = "TRADING_ACCOUNTS"
    TRADES = "TRADES"


@dataclass(frozen=True, slots=True)
class ViewWrite:
    """One document of a shared collection brought up to date. With `number`, it only moves forward: an older number changes nothing."""

    view: View
    document_id: Any
    changes: Mapping[str, Any]
    number_field: str | None = None
    number: int = 0
    creates: bool = True
    """False: updated only if it is there."""
    match_field: str = "_id"
    adds_to_sets: Mapping[str, Any] = field(default_factory=dict)
    is_probably_new: bool = False
    """Tried as an insert first, which costs the store a fraction of an upsert."""
    is_for_ever: bool = False
    """Made once and never changed: where the document is there already, nothing is done, and nothing is wrong. Such a write `is_probably_new`."""
    rewrites: bool = False
    """A document of the same number is written again, too: for repair."""


class ViewStore(Protocol):
    """The shared collections: ours to write in part, others' to read."""

    async def write_views(self, writes: Sequence[ViewWrite]) -> None:
        """May be made again: what is further on already stays."""

    async def signal_documents(self, signal_ids: Sequence[str], *, besides: Collection[HexId] = ()) -> dict[str, Any]:
        """The `_id` of the `signal_store` document of each signal that has one, besides these."""

    async def has_trading_account(self, account_id: str) -> bool:
        """Whether the shared collection of accounts has it."""
