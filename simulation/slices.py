"""How much of a plan's order is sent at once, by its stance: a part of what the market usually trades in a bar.

Type, limit and part of each slice are those of the service (`core/planning/terms.py`), which bounds orders likewise where its broker tells a volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from execution_service.core.planning.targets import Aggressiveness
from execution_service.core.planning.terms import PARTICIPATION
from simulation.bars import Series

USUAL_BARS = 20
"""So many bars that traded say what the market usually trades in one. The bar that is to come says nothing: it is not known yet."""
PARTS = PARTICIPATION
"""Of what is usually traded in a bar. Without one: the whole order at once, as the plan says."""


def slice_lots(stance: Aggressiveness, left: int, volumes: Sequence[int]) -> int:
    """Of `left` lots; one at least. `volumes`: as `latest_volumes`; none: nothing is known, and one lot is sent."""
    part = PARTS.get(stance)
    if part is None:
        return left
    usual = part * sum(volumes) / len(volumes) if volumes else Decimal(0)
    return min(left, max(1, int(usual)))


def latest_volumes(series: Series, k: int) -> list[int]:
    """In lots, of the last `USUAL_BARS` bars that traded, of those up to bar `k`."""
    found: list[int] = []
    while k >= 0 and len(found) < USUAL_BARS:
        if series.trading[k]:
            found.append(series.volume[k])
        k -= 1
    return found
