"""What others need to know of the toy broker, which exists to show that a broker is one package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import SecretStr

from brokers.manifest import Fact, ImpliedAccount, Manifest
from brokers.variables import BrokerVariables, RootedPath


class ToyVariables(BrokerVariables):
    prefix: ClassVar[str] = "toy_"

    toy_path: RootedPath = Path("toy.db")
    toy_pin: SecretStr | None = None


def is_paper(config: Mapping[str, object]) -> bool | None:
    named = config.get("toy_account")
    return None if named is None else str(named).startswith("T")


def remedy(config: Mapping[str, object], error: Exception) -> str:
    return f"Is the toy's book at {config.get('path')}?"


MANIFEST = Manifest(
    name="toy",
    title="Toy Broker",
    adapter="brokers.toy.adapter",
    variables=ToyVariables,
    implied_account=ImpliedAccount(account_id="Toy_Main", variables=("TOY_PIN",)),
    secret_keys=frozenset({"pin"}),
    is_paper=is_paper,
    paper_hint="a toy_account that begins with T",
    remedy=remedy,
    quiet_loggers=("toy.wire",),
    products=("BOX",),
    facts=frozenset(Fact) - {Fact.IDS_OF_A_CONNECTION, Fact.REFUSALS_UNLISTED, Fact.SHARED_VOLUME},
    simulator="brokers.toy.simulator:SIMULATOR",
)
