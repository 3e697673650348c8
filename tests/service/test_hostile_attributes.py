"""What stands beside a message's body has no say: the short cut of what `make fuzz` does with attributes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.deliveries import check_attributes


@pytest.mark.parametrize("seed", range(3))
async def test_hostile_attributes_change_no_order_and_are_kept_with_a_dead_letter(tmp_path: Path, seed: int) -> None:
    outcomes = await check_attributes(tmp_path, seed, 25)
    assert outcomes["order"]
    assert outcomes["dead letter"]
