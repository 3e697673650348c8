"""What execctl shows people of a plan."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from execution_service.control.results import Done
from scripts import plans
from tests.fakes import BY_HAND, RESTING, World, world_of
from tests.service.test_plans import body, give, hold


async def shown(world: World, message: dict[str, Any], *, is_dry: bool, command_id: str = "c-1") -> str:
    told = await give(world, message, is_dry=is_dry, command_id=command_id)
    assert isinstance(told, Done)
    out = StringIO()
    plans.show(told.words, Console(file=out, width=200))
    return out.getvalue()


async def test_orders_stand_in_their_sequence_and_what_is_left_with_its_reason(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await hold(world, "AAPL", 100)
        asked = body(world, ("AAPL", 60), ("MSFT", 5), aggressiveness="EMERGENCY")
        text = await shown(world, asked, is_dry=True)
        assert "Nothing is placed, and nothing kept: decision d-1" in text
        assert text.index("AAPL|STOCK | 100 -> 60") < text.index("EMERGENCY_REDUCE_ONLY")
        nothing = body(world, ("AAPL", 100), decision="d-2")
        assert "every target is held" in await shown(world, nothing, is_dry=True, command_id="c-2")
        assert "WORKING: decision d-1" in await shown(world, asked, is_dry=False, command_id="c-3")
