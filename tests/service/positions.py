"""Two positions at the broker, and what it tells of one of them instead. No tests here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from brokers.base import BrokerPosition
from tests.fakes import World


def some_position(symbol: str, quantity: object, **changes: Any) -> Callable[[Sequence[BrokerPosition]], Any]:
    def held(told: Sequence[BrokerPosition]) -> list[BrokerPosition]:
        return [
            replace(position, quantity=quantity, **changes) if position.instrument.symbol == symbol else position
            for position in told
        ]

    return held


async def positions_of(world: World) -> None:
    for name, symbol in (("a", "AAPL"), ("m", "MSFT")):
        world.send(name, symbol=symbol)
        await world.run(1)
        world.fill(name)
        await world.run(1)
