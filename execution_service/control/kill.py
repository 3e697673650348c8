"""The verbs to kill and to arm as commands: the switch is engaged, working entries are cancelled where that is asked, what came of it is counted."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from execution_service.control.requests import Arm, Kill
from execution_service.control.results import Done, Refused
from execution_service.control.switches import Switches
from execution_service.core.exact import ZERO
from execution_service.core.orders.cancel import Cancel
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, key_of
from execution_service.core.risk.exposure import exit_room
from execution_service.core.risk.kill import ArmingRefused
from execution_service.core.risk.limits import Scope
from execution_service.core.risk.switch_record import SwitchRecord, scope_of
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.store import Store

CONFIRMED_WITHIN_SECONDS = 3.0
"""So long the brokers' confirmations of the cancels are waited for; what is not confirmed by then is told as not known."""
LOOK_SECONDS = 0.25
WORKING = frozenset({Status.SUBMITTING, Status.SUBMITTED, Status.PARTIALLY_FILLED, Status.IN_DOUBT})
"""At the broker, or perhaps there."""


class CancelsByName(Protocol):
    """Who cancels an order that is named, wherever it is worked."""

    async def carry_out(self, cancel: Cancel) -> Done | Refused:
        """Done when its end has been asked for durably. May be asked for again. Raises StoreUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """What came of engaging a kill switch. The names are those of `POST kill`."""

    version: int
    scope: str
    level: str
    engaged_at: str
    """ISO 8601, UTC."""
    working_entries: int
    """Entries at the broker or perhaps there, as the records were right after the switch was engaged."""
    cancels_asked: int
    cancels_confirmed: int
    """Of those asked: the order has ended, with what it had filled by then."""
    cancels_unknown: int
    """Of those asked: it has not ended yet, or it is not known."""


class KillTrading:
    """May be asked for again after a death anywhere: the switch is engaged once by one command, and a working entry is asked to end once."""

    def __init__(self, *, switches: Switches, cancel: CancelsByName, store: Store, clock: Clock) -> None:
        self._switches = switches
        self._cancel = cancel
        self._store = store
        self._clock = clock

    async def engage(self, asked: Kill) -> None:
        """What of it nothing may wait for. Raises StoreUnavailable."""
        await self._switches.engage(asked)

    async def carry_out(self, asked: Kill) -> Done | Refused:
        """Done when the switch is durably engaged, and the cancels that were asked for have been waited for a little; the words are `Killed` as JSON.
        Raises StoreUnavailable."""
        record = await self._switches.engage(asked)
        entries = await working_entries(self._store, asked.scope)
        # Several processes may carry it out at once: the count that stands was made before any of them asked for a cancel.
        working = await self._store.first_count(asked.command_id, len(entries))
        if not (asked.cancel_entries and record.switch.is_engaged):
            return Done(json.dumps(asdict(_killed(record, asked, working, 0, 0))))
        for order in entries:
            await self._cancel.carry_out(_cancel_of(order, asked))
        left = await self._unended(asked.scope)
        return Done(json.dumps(asdict(_killed(record, asked, working, working, min(left, working)))))

    async def _unended(self, scope: Scope) -> int:
        """How many have not ended after a while, whoever asked them to. No entry begins to work meanwhile but those that were on their way."""
        end = self._clock.monotonic() + CONFIRMED_WITHIN_SECONDS
        while True:
            left = len(await working_entries(self._store, scope))
            if not left or self._clock.monotonic() >= end:
                return left
            await self._clock.sleep(LOOK_SECONDS)


class ArmTrading:
    """May be asked for again: one command makes one step."""

    def __init__(self, *, switches: Switches) -> None:
        self._switches = switches

    async def carry_out(self, asked: Arm) -> Done | Refused:
        """Of the first step the words are `{"nonce", "not_before"}` as JSON, of the second `{"scope", "version", "level", "person"}`. Raises
        StoreUnavailable."""
        try:
            record = await self._switches.arm(asked)
        except ArmingRefused as exc:
            return Refused(str(exc))
        return arming_answer(record, asked)


def arming_answer(record: SwitchRecord, asked: Arm) -> Done | Refused:
    """What is told of a step that was made."""
    arming = record.switch.arming
    if asked.nonce is None:
        if arming is None or arming.person != asked.person.strip():
            return Refused("the switch was changed again since this first step: make it anew")
        return Done(json.dumps({"nonce": arming.nonce, "not_before": _text(arming.not_before)}))
    level = None if record.switch.level is None else record.switch.level.value
    told = {
        "scope": str(record.switch.scope),
        "version": record.switch.version,
        "level": level,
        "person": asked.person.strip(),
    }
    return Done(json.dumps(told))


def killed_answer(record: SwitchRecord, asked: Kill, working: int) -> Done:
    """What is told where nobody cancels anything."""
    return Done(json.dumps(asdict(_killed(record, asked, working, 0, 0))))


def _killed(record: SwitchRecord, asked: Kill, working: int, cancels: int, unended: int) -> Killed:
    switch = record.switch
    return Killed(
        version=switch.version,
        scope=str(switch.scope),
        level=(switch.level or asked.level).value,
        engaged_at="" if switch.engaged_at is None else _text(switch.engaged_at),
        working_entries=working,
        cancels_asked=cancels,
        cancels_confirmed=cancels - unended,
        cancels_unknown=unended,
    )


async def working_entries(store: Store, scope: Scope) -> list[Order]:
    """The entries within the scope that are at the broker or perhaps there, by what is recorded. An order that is surely an exit by projected
    exposure is none, however it calls itself. Raises StoreUnavailable."""
    brief = await store.unsettled(scope.account_id)
    found = await store.load([each.order_id for each in brief])
    entries = [
        stored.order for stored in found if _is_working_entry(stored.order) and scope.covers(scope_of(stored.order))
    ]
    if len(found) < len(brief):
        return entries  # a record that cannot be read may be of what reduces the same holding
    exits = await _sure_exits(store, entries, found)
    return [order for order in entries if order.order_id not in exits]


async def _sure_exits(store: Store, asked: Sequence[Order], unsettled: Sequence[Stored]) -> set[str]:
    """Those of which nothing that works, is not booked yet, or differs at the broker can make an entry."""
    held: dict[LedgerKey, LedgerEntry] = {}
    for account_id in {key_of(order).account_id for order in asked}:
        if not await store.open_discrepancies(account_id):
            held |= {entry.key: entry for entry in await store.open_ledgers(account_id) or ()}
    beside: dict[LedgerKey, list[Stored]] = defaultdict(list)
    for stored in unsettled:
        if isinstance(stored.order.request, OrderRequest):
            beside[key_of(stored.order)].append(stored)
    return {
        order.order_id
        for order in asked
        if _is_surely_exit(order, _held_for(order, held.get(key_of(order))), beside[key_of(order)])
    }


def _held_for(order: Order, entry: LedgerEntry | None) -> Decimal | None:
    """What the ledger holds that the order can reduce; None: nothing, or some of it in another product than the order names, where a broker would
    open anew."""
    product = order.accepted_request.product or ""
    products = None if entry is None else entry.known_products
    return None if entry is None or products is None or set(products) - {product} else entry.position.quantity


def _is_surely_exit(order: Order, held: Decimal | None, beside: Sequence[Stored]) -> bool:
    """`held`: by the ledger. `beside`: what is unsettled of the same holding, the order among it."""
    if any(each.told.ledger < each.order.version and each.order.fills for each in beside):
        return False
    side = order.accepted_request.side
    rivals = (each.order for each in beside if each.order.order_id != order.order_id)
    working = sum(
        (each.remaining_quantity for each in rivals if not each.status.is_final and each.accepted_request.side is side),
        ZERO,
    )
    return order.cash_quantity is None and ZERO < order.remaining_quantity <= exit_room(held, side, working)


def _is_working_entry(order: Order) -> bool:
    is_order = isinstance(order.request, OrderRequest) and order.adoption is None
    return is_order and order.status in WORKING and order.identity.purpose is Purpose.ENTRY


def _cancel_of(order: Order, asked: Kill) -> Cancel:
    words = f"the kill switch of {asked.scope} was engaged by {asked.by}: {asked.reason}"
    return Cancel(
        command_id=f"{asked.command_id}:{order.order_id}",
        order_id=order.order_id,
        signal_id=None,
        leg_index=None,
        reason=Reason(ReasonCode.CANCEL_REQUESTED, words),
        requested_by=asked.by,
        published_at=asked.asked_at,
        received_at=asked.asked_at,
        is_message=False,
    )


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
