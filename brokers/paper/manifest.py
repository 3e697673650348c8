"""The manifest of the mock broker, which stands in for all others and trades at a paper exchange of its own."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Annotated, ClassVar

from brokers.manifest import Fact, Manifest
from brokers.variables import Allowed, Amount, BrokerVariables, Rate, Seconds

BOOK = "mock_broker.db"


class MockVariables(BrokerVariables):
    prefix: ClassVar[str] = "mock_"

    mock_fill_delay_seconds: Seconds = 0
    mock_rejection_rate: Rate = 0
    mock_partial_fill_rate: Rate = 0
    mock_slippage_bps: Amount = Decimal(0)
    mock_commission_per_order: Amount = Decimal("1.00")
    mock_seed: Annotated[int | None, Allowed("a whole number")] = None

    def account_keys(self, own: Collection[str], data_dir: Path) -> dict[str, object]:
        """With the one book that all accounts share."""
        return super().account_keys(own, data_dir) | {"path": data_dir / BOOK}


MANIFEST = Manifest(
    name="mock",
    title="the mock broker",
    adapter="brokers.paper.adapter",
    variables=MockVariables,
    is_stand_in=True,
    is_simulated=True,
    is_paper=lambda config: True,
    facts=frozenset(Fact) - {Fact.IDS_OF_A_CONNECTION, Fact.SILENT_ENDINGS, Fact.REFUSALS_UNLISTED, Fact.SHARED_VOLUME},
    simulator="simulators.stage_paper:SIMULATOR",
)
