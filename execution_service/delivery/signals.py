"""How orders of one signal, their legs, entries and exits belong together, and what of `signal_store` is to be written for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.views.shared import (
    BookedOrder,
    HexId,
    made_up_signal_id,
    signal_document_id,
    signal_fields,
    trading_order_fields,
)
from execution_service.storage.ports.views import View, ViewWrite


class Relations:
    """The orders around those that are to be shown, arranged by the signals' documents that they belong to."""

    def __init__(self, orders: Iterable[BookedOrder], documents: Mapping[str, Any]) -> None:
        """`documents`: the `_id` of each signal that is known in `signal_store` by its signal id only."""
        self._documents = documents
        self._by_document: dict[Any, list[BookedOrder]] = {}
        self._by_name: dict[str, list[Order]] = {}
        self._exits_by_ref: dict[str, list[BookedOrder]] = {}
        for booked in orders:
            order = booked.order
            if order.adoption is None:
                self._by_document.setdefault(self._document_id(order), []).append(booked)
            for name in order.names:
                self._by_name.setdefault(name, []).append(order)
            for ref in _refs_of(order):
                self._exits_by_ref.setdefault(ref, []).append(booked)

    def signal_writes(self, order: Order, now: datetime) -> list[ViewWrite]:
        """The document of the order's own signal and, for an exit, those of the entries that it closes. What was adopted has no signal: it is
        seen in those of the entries that it took from or stands for."""
        writes = [] if order.adoption is not None else [self._write(order, order, now)]
        if order.identity.purpose is Purpose.EXIT or order.adoption is not None:
            for entry in self._named(_entries_of(order)):
                is_entry = entry.identity.purpose is Purpose.ENTRY and entry.adoption is None
                if is_entry and (order.adoption is not None or self._document_id(entry) != self._document_id(order)):
                    exit_id = signal_document_id(order)
                    writes.append(self._write(entry, order, now, {"exit_signals": exit_id} if exit_id else {}))
        return list({write.document_id: write for write in writes}.values())

    def _write(self, subject: Order, cause: Order, now: datetime, adds: Mapping[str, HexId] | None = None) -> ViewWrite:
        document_id = self._document_id(subject)
        signal = self._by_document[document_id]
        refs = {ref for booked in signal for ref in _refs_of(booked.order)}
        names = {name for booked in signal for name in booked.order.names}
        exits = {b.order.order_id: b for name in names for b in self._exits_by_ref.get(name, ())}
        is_new = cause is subject and signal_document_id(cause) is None and cause.signal_id not in self._documents
        return ViewWrite(
            View.SIGNALS,
            document_id,
            signal_fields(
                signal,
                self._named(refs),
                list(exits.values()),
                now,
                stand_ins=[order for order in self._named(names) if order.adoption is not None],
            ),
            f"execution_reflects.{cause.order_id}",
            cause.version,
            adds_to_sets=adds or {},
            is_probably_new=is_new,
        )

    def _document_id(self, order: Order) -> Any:
        named = signal_document_id(order)
        return named or self._documents.get(order.signal_id) or made_up_signal_id(order.signal_id)

    def _named(self, refs: Iterable[str]) -> list[Order]:
        return list({o.order_id: o for ref in refs for o in self._by_name.get(ref, ())}.values())


def related_names(order: Order, *, was_told: bool) -> set[str]:
    """What must be looked up to write the order's signal; nothing for the first news of a plain entry."""
    own = {f"signal:{name}" for name in order.names}
    if order.adoption is not None:
        return {f"{kind}:{name}" for kind in ("signal", "exit_of") for name in _entries_of(order)}
    if order.identity.purpose is Purpose.EXIT:
        refs = _refs_of(order)
        return own | {f"signal:{r}" for r in refs} | {f"exit_of:{r}" for r in refs}
    names = own if order.request.total_legs > 1 or was_told else set()
    # Told before: exits may have come meanwhile.
    return names | {f"exit_of:{name}" for name in order.names} if was_told else names


def trading_order_write(order: Order, now: datetime) -> ViewWrite:
    """Upstream's own row of the order, brought up to date if it is there."""
    return ViewWrite(
        View.TRADING_ORDERS,
        order.request.request_order_id,
        trading_order_fields(order, now),
        creates=False,
        match_field="order_id",
    )


def _refs_of(order: Order) -> tuple[str, ...]:
    return order.request.entry_refs if isinstance(order.request, OrderRequest) else ()


def _entries_of(order: Order) -> tuple[str, ...]:
    """The entry that it closes, or in whose place it came."""
    stands_for = order.request.stands_for if isinstance(order.request, OrderRequest) else ()
    return (*_refs_of(order), *stands_for)
