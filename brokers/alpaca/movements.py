"""How positions in shares changed without an order, by the account's activities: splits and other corporate actions, and transfers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

from brokers.alpaca import dialect
from brokers.alpaca.activities import activity_of, read_activities
from brokers.alpaca.calls import AlpacaCalls
from brokers.alpaca.rows import Malformed
from brokers.base import MovementKind, PositionMovement

_log = logging.getLogger(__name__)
_KINDS: Mapping[str, MovementKind] = {
    "SPLIT": MovementKind.SPLIT,
    "SPIN": MovementKind.SPIN_OFF,
    "MA": MovementKind.MERGER,
    "NC": MovementKind.RENAME,
    "REORG": MovementKind.REORGANIZATION,
    "ACATS": MovementKind.TRANSFER,
    "JNLS": MovementKind.TRANSFER,
}
"""As Alpaca's client library names the types of activities (`ActivityType`). Of a change of name `qty` is below 0 of the old symbol and above 0 of
the new one, by Alpaca's answers about corporate actions."""


async def read_movements(calls: AlpacaCalls, since: datetime) -> list[PositionMovement]:
    """As `RecordsMovements.movements`."""
    return movements_of(await read_activities(calls, _KINDS, since))


def movements_of(rows: Sequence[object]) -> list[PositionMovement]:
    """Without those of symbols of which any activity cannot be read, was corrected or taken back, and without those that moved only money; none where
    it cannot even be read what an activity is about."""
    found: dict[str, PositionMovement] = {}
    unclear: set[str] = set()
    for row in rows:
        symbol = row.get("symbol") if isinstance(row, Mapping) else None
        if isinstance(row, Mapping) and row.get("qty") is None:
            continue  # cash in place of a fraction, a fee
        try:
            activity = activity_of(row)
        except Malformed as exc:
            _log.warning("Alpaca: an activity about shares cannot be read: %s", exc)
            if not isinstance(symbol, str):
                return []
            unclear.add(symbol)
            continue
        if not activity.is_done:
            unclear.add(activity.symbol)
        elif activity.quantity and activity.kind in _KINDS:
            instrument, names = dialect.instrument_of(activity.symbol, dialect.EQUITY)
            found[activity.activity_id] = PositionMovement(
                movement_id=f"{activity.kind} {activity.activity_id}",
                kind=_KINDS[activity.kind],
                instrument=instrument,
                also_called=names,
                quantity=activity.quantity,
                on=activity.day,
            )
    kept = [each for each in found.values() if each.instrument.symbol not in unclear]
    return sorted(kept, key=lambda each: (each.on, each.movement_id))
