"""What is asked of the decisions that others keep."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class DecisionStore(Protocol):
    """The collection `pipeline_decisions`: others' to write."""

    async def known_decisions(self, decision_ids: Collection[str]) -> frozenset[str]:
        """Those of them that exist. Raises StoreUnavailable where that cannot be told."""
