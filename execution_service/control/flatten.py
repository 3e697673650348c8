"""The verb to flatten: an ordinary exit order for each holding within a scope, through the one intake; what may leave of it the last look decides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any

from brokers.base import Side
from execution_service.control.replay import TakesOrders
from execution_service.control.requests import Flatten
from execution_service.control.results import Done, Refused
from execution_service.core.messages.inbound import ParsedOrder, parse_order
from execution_service.core.orders.request import Identity, OrderRequest, Purpose
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.risk.kill import KillLevel, KillState
from execution_service.core.risk.limits import Scope
from execution_service.core.risk.switch_record import SwitchRecord
from execution_service.core.texts.switches import flattening
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.store import Store
from execution_service.transport.ports import Message

HOLDS_FOR = timedelta(seconds=60)
"""A wish to flatten that nobody could carry out for so long is not meant any more: it would sell at some later start."""


@dataclass(frozen=True, slots=True)
class _Exit:
    """One holding's exit, as a message."""

    identity: Identity
    fields: dict[str, Any]

    @property
    def order_id(self) -> str:
        return self.identity.order_id


class FlattenPositions:
    """May be asked for again: each exit has an identity made of the command and the holding, and is one order. It cancels nothing: working entries
    are asked to end by a kill with `cancel_entries` before."""

    def __init__(self, *, store: Store, intake: TakesOrders, alerts: RaisesAlerts, clock: Clock) -> None:
        self._store = store
        self._intake = intake
        self._alerts = alerts
        self._clock = clock

    async def carry_out(self, asked: Flatten) -> Done | Refused:
        """Done when the exits are durably ours; the words are JSON: `scope`, `orders`, `left_out` with the reasons. Raises StoreUnavailable."""
        if not (asked.person and asked.reason):
            return Refused("the person and the reason must be named")
        if self._clock.now() - asked.asked_at > HOLDS_FOR:
            return Refused(
                f"it was asked for more than {HOLDS_FOR.seconds} s ago; ask again. Exits that were made meanwhile go on"
            )
        exits, left_out = await self._exits(asked)
        if not exits and not left_out:
            left_out = [f"nothing is held within {asked.scope}, so nothing is closed"]
        text = flattening(scope=str(asked.scope), person=asked.person, reason=asked.reason, count=len(exits))
        await self._alerts.raise_alert_once(f"flatten:{asked.command_id}", f"flatten:{asked.command_id}", text)
        known = {stored.order.order_id for stored in await self._store.load([each.order_id for each in exits])}
        new = [each for each in exits if each.order_id not in known]
        if new:
            await self._intake.take([self._message(each) for each in new])
        told = {
            "scope": str(asked.scope),
            "orders": [
                {
                    name: each.fields[name]
                    for name in ("signal_id", "account_id", "strategy_name", "symbol", "side", "quantity")
                }
                for each in exits
            ],
            "left_out": list(left_out),
        }
        return Done(json.dumps(told))

    async def _exits(self, asked: Flatten) -> tuple[Sequence[_Exit], Sequence[str]]:
        scope, exits, left_out = asked.scope, list[_Exit](), list[str]()
        accounts = [scope.account_id] if scope.account_id is not None else await self._store.accounts_holding()
        kept = await self._store.switches()
        stops = KillState(tuple(each.switch for each in kept if isinstance(each, SwitchRecord)))
        for account_id in accounts:
            entries = await self._store.open_ledgers(account_id)
            if entries is None:
                left_out.append(
                    f"{account_id}: its positions cannot all be read; close them at the broker, or mend them"
                )
                continue
            for entry in entries:
                where = Scope(account_id=account_id, strategy=entry.key.strategy, symbol=entry.instrument.symbol)
                if not scope.covers(where):
                    continue
                if stops.level(where) is KillLevel.HALT:
                    left_out.append(f"{where}: a kill switch at halt lets not even exits leave")
                    continue
                for product, quantity in (entry.known_products or {"": entry.position.quantity}).items():
                    made = _exit_of(entry, product, quantity, asked)
                    if made is not None:
                        exits.append(made)
                    else:
                        left_out.append(f"{where}: no order can be written for {entry.instrument.full_key}")
        return exits, left_out

    def _message(self, exit_: _Exit) -> Message:
        return Message(
            message_id=exit_.identity.signal_id,
            data=json.dumps(exit_.fields).encode(),
            publish_time=self._clock.now(),
        )


def _exit_of(entry: LedgerEntry, product: str, quantity: Decimal, asked: Flatten) -> _Exit | None:
    """None: what would be read of the message is not what is held, and nothing is traded that was not named."""
    held, key = entry.instrument, entry.key
    mark = sha256(f"{len(asked.command_id)}:{asked.command_id}|{key.ledger_id}|{product}".encode()).hexdigest()[:20]
    side = Side.SELL if quantity > 0 else Side.BUY
    named: dict[str, Any] = {
        "signal_id": f"flatten-{mark}",
        "account_id": key.account_id,
        "strategy_name": key.strategy,
        "signal_type": "EXIT",
        "symbol": held.symbol,
        "instrument_type": held.asset_class.value,
        "side": side.value,
        "quantity": f"{abs(quantity):f}",
        "order_type": "MARKET",
        "product": product or None,
        "exchange": held.exchange,
        "expiry": held.expiry,
        "strike": None if held.strike is None else f"{held.strike:f}",
        "right": None if held.right is None else held.right.value,
        "currency": held.currency,
        "multiplier": None if held.multiplier is None else f"{held.multiplier:f}",
        "underlying": held.underlying,
        "con_id": held.con_id,
        "trading_class": held.trading_class,
        "isin": held.isin,
        "flattened_by": asked.person,
        "reason": asked.reason,
    }
    fields = {name: value for name, value in named.items() if value is not None}
    parsed = parse_order(json.dumps(fields).encode())
    request = parsed.request if isinstance(parsed, ParsedOrder) else None
    is_meant = (
        isinstance(request, OrderRequest)
        and request.instrument == held
        and (request.account_id, request.strategy) == (key.account_id, key.strategy)
        and (request.side, request.quantity) == (side, abs(quantity))
    )
    identity = Identity(signal_id=f"flatten-{mark}", leg_index=0, purpose=Purpose.EXIT)
    return (
        _Exit(identity, fields)
        if is_meant and isinstance(parsed, ParsedOrder) and parsed.identity == identity
        else None
    )
