"""An order that fills in very many parts, through the whole service: what is done and written for each does not grow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from execution_service.core.orders import order as order_words
from execution_service.core.orders.order import apply_all
from execution_service.core.orders.protective import ProtectionState
from execution_service.core.orders.status import Status
from tests.builders import accepted, commission_reported, filled_by, order, submit_started
from tests.fakes import BY_HAND, RESTING, world_of
from tests.growth import LINEAR
from tests.service.audit import audit


async def test_what_is_worked_out_for_each_fill_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for records that are read from the store, which are folded whole."""
    count = 0
    whole = order_words._applied

    def counted(*args: Any) -> Any:
        nonlocal count
        count += sys._getframe(3).f_code.co_name != "order_from_document"
        return whole(*args)

    monkeypatch.setattr(order_words, "_applied", counted)
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send(quantity=192, tif="DAY")
        await world.run(1)

        async def steps_of(fills: int) -> int:
            before = count
            for _ in range(fills):
                world.fill("sig", 1)
                await world.run(1)
            return count - before

        await steps_of(48)  # how often the broker is asked has settled then
        earlier = await steps_of(48)
        await steps_of(48)
        assert await steps_of(48) <= 1.2 * earlier
        await world.run(60)
        assert world.record().status is Status.FILLED
        audit(world)


async def test_of_an_order_of_thousands_of_fills_only_what_is_new_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path) as world:
        store: Any = world.store_beside()
        written: list[dict[str, Any]] = []

        async def make(order_id: str, guard: Any, update: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            written.append(update)

        monkeypatch.setattr(store._commits, "make", make)
        fills = (filled_by(f"f{number}", 1) for number in range(5000))
        about = order(quantity=10_000, events=(submit_started(), accepted()))
        about = await store.append(apply_all(about, fills), [filled_by("new", 1)])
        await store.append(about, [commission_reported("new")])
        assert [set(update) for update in written] == [{"$set"}, {"$set"}]
        assert [set(update["$set"]) for update in written] == [
            {"version", "filled_quantity", "events.5002"},
            {"version", "events.5003"},
        ]


async def test_protection_reads_for_each_fill_what_has_changed_since_the_one_before(tmp_path: Path) -> None:
    """An entry that fills in very many parts has ever more protective orders that are over."""

    async def read_for(fills: int) -> int:
        async with world_of(tmp_path / str(fills), market=BY_HAND, rules=RESTING) as world:
            world.send("in", order_type="LIMIT", limit_price=10, stop_loss=9, quantity=fills)
            await world.run(1)
            for _ in range(fills):
                world.fill("in", 1)
                await world.run(2)
            audit(world)
            known = world.record("in").protection
            assert known is not None
            assert (known.state, known.quantity) == (ProtectionState.PROTECTED, fills)
            return sum(world.store_faults.documents_read.values())

    assert await read_for(50) < LINEAR * await read_for(25)
