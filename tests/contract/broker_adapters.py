"""The adapters that the broker contract suite runs on: all that have a manifest and a simulator, each with its stage; no test."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from brokers.base import Instrument
from brokers.manifest import Fact, Manifest
from brokers.paper.model import Market
from brokers.registry import manifests
from simulators.catalogue import simulator_of
from simulators.simulator import Simulator, Stage

ACCOUNT = "PAPER1"


@dataclass(frozen=True, slots=True)
class Adapter:
    """One broker. `open_stage(folder, market)` sets the venue up and takes it down again."""

    manifest: Manifest
    simulator: Simulator

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def instrument(self) -> Instrument:
        return self.simulator.instrument

    @property
    def product(self) -> str | None:
        return self.simulator.product

    @property
    def facts(self) -> frozenset[Fact]:
        return self.manifest.facts

    @property
    def open_stage(self) -> Callable[[Path, Market], AbstractAsyncContextManager[Stage]]:
        return lambda folder, market: self.simulator.open_stage(folder, ACCOUNT, market)


ADAPTERS = tuple(
    Adapter(manifest, simulator_of(name)) for name, manifest in manifests().items() if manifest.simulator is not None
)
