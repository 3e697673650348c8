"""How much of a plan's order is sent at once, by its stance: a part of what the market usually trades in a bar. From values alone.

Type and limit of each slice are those of the service (`core/planning/terms.py`). What the service does not do is wait for volume: it is not told any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from execution_service.core.planning.targets import Aggressiveness

USUAL_BARS = 20
"""So many bars that traded say what the market usually trades in one. The bar that is to come says nothing: it is not known yet."""
PARTS: Mapping[Aggressiveness, Decimal] = {
    Aggressiveness.PASSIVE: Decimal("0.05"),
    Aggressiveness.URGENT: Decimal("0.2"),
    Aggressiveness.EMERGENCY: Decimal("0.3"),
}
"""Of what is usually traded in a bar. Without one: the whole order at once, as the plan says."""


def slice_lots(stance: Aggressiveness, left: int, volumes: Sequence[int]) -> int:
    """Of `left` lots; one at least. `volumes`: of the bars that had traded, in lots, the latest last; none: nothing is known, and one lot is sent."""
    part = PARTS.get(stance)
    if part is None:
        return left
    latest = volumes[-USUAL_BARS:]
    usual = part * sum(latest) / len(latest) if latest else Decimal(0)
    return min(left, max(1, int(usual)))
