"""The manifest of the broker that trades on historical bars."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import quote

from pydantic import AfterValidator

from brokers.manifest import Fact, Manifest
from brokers.variables import Allowed, BrokerVariables, RootedPath

FOLDER = "simulated"
"""In the DATA_DIR: a book for each account."""
BY_SETTLING, BY_COMMAND = "settled", "command"


def book_of(folder: Path, account_id: str) -> Path:
    """The account's own file: its orders, and where its market stands. Beside it lies the manifest of what that is made of."""
    return folder / quote(account_id, safe="").replace(".", "%2E") / "book.db"


def _pace(text: str) -> str:
    if text not in (BY_SETTLING, BY_COMMAND):
        seconds = float(text)
        if not 0 < seconds <= 1000:
            raise ValueError(text)
    return text


Pace = Annotated[
    str, AfterValidator(_pace), Allowed(f"{BY_SETTLING}, {BY_COMMAND}, or how many bars a second, at most 1000")
]


class SimulatedVariables(BrokerVariables):
    prefix: ClassVar[str] = "simulated_"

    simulated_bars: RootedPath | None = None
    simulated_simulation: RootedPath | None = None
    simulated_actions: RootedPath | None = None
    simulated_start: Annotated[datetime | None, Allowed("a time with its zone, as in 2005-01-03T00:00:00Z")] = None
    simulated_pace: Pace = BY_SETTLING

    def account_keys(self, own: Collection[str], data_dir: Path) -> dict[str, object]:
        """With the folder of the books."""
        return super().account_keys(own, data_dir) | {"folder": data_dir / FOLDER}


MANIFEST = Manifest(
    name="simulated",
    title="the broker on historical bars",
    adapter="brokers.simulated.adapter",
    variables=SimulatedVariables,
    is_simulated=True,
    is_for_training_alone=True,
    is_paper=lambda config: True,
    is_live_unless_said=lambda config: False,
    path_keys=frozenset({"bars", "simulation", "actions", "folder"}),
    facts=frozenset(
        {
            Fact.REJECTS_AT_ONCE,
            Fact.HINTS,
            Fact.SHARED_BOOK,
            Fact.TELLS_EXPIRY,
            Fact.REFUSES_REPEATED_IDS,
            Fact.PAYS_THE_PRICE,
            Fact.EXACT_COMMISSIONS,
            Fact.SHARED_VOLUME,
        }
    ),
    simulator="simulators.stage_simulated:SIMULATOR",
)
