"""The toy broker: an account, behind a PIN, at a paper exchange whose book is a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from brokers.toy.manifest import MANIFEST
from pydantic import Field

from brokers.base import Capabilities
from brokers.errors import BrokerUnavailable
from brokers.manifest import Fact
from brokers.paper import adapter as paper
from brokers.paper.model import Market

PIN = "sesame-open"


class Configuration(paper.Configuration):
    pin: str = Field(repr=False)
    toy_account: str = "T1"
    """Of several accounts of the service each may lead to the same one here."""

    @property
    def market(self) -> Market:
        return Market(**self.model_dump(exclude={"account_id", "path", "pin", "toy_account"}))


def create(config: Mapping[str, object]) -> ToyBroker:
    return ToyBroker(Configuration.of(config, broker=MANIFEST.name))


class ToyBroker(paper.MockBroker):
    def __init__(self, configuration: Configuration) -> None:
        super().__init__(account_id=configuration.toy_account, path=configuration.path, market=configuration.market)
        self._pin = configuration.pin

    @property
    def name(self) -> str:
        return "TOY"

    @property
    def capabilities(self) -> Capabilities:
        return replace(
            super().capabilities,
            refuses_repeated_client_id=Fact.REFUSES_REPEATED_IDS in MANIFEST.facts,
            is_paper=True,
            notes=("This is the toy broker.",),
        )

    async def connect(self) -> None:
        if self._pin != PIN:
            raise BrokerUnavailable("The PIN is wrong")
        await super().connect()
