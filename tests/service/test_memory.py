"""What a finished order leaves behind in the process: next to nothing."""

from __future__ import annotations

import gc
from pathlib import Path

from execution_service.core.orders.order import Order
from execution_service.recording.live_orders import LiveOrder
from tests.fakes import world_of

SOME = 400


def kept(kind: type) -> int:
    gc.collect()
    return sum(type(thing) is kind for thing in gc.get_objects())


async def test_finished_orders_do_not_stay_in_memory_until_their_time_out(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        lives_before, orders_before = kept(LiveOrder), kept(Order)
        for number in range(SOME):
            world.send(f"sig-{number}", symbol=f"SYM{number % 50}")
            if number % 50 == 49:
                await world.run(1)
        await world.run(1)
        assert not world.service.live_orders.by_id
        assert kept(LiveOrder) - lives_before < SOME / 4
        assert kept(Order) - orders_before < SOME / 4
