"""From a broker's name to its adapter, loaded on demand. No adapter's settings."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from brokers import registry
from brokers.base import Broker
from brokers.errors import BrokerLibraryMissing, UnknownBroker

if TYPE_CHECKING:
    from brokers.configuration import AccountConfiguration


class BrokerFactory:
    """Creates brokers by name. An adapter's client library is needed only when that adapter is requested."""

    @staticmethod
    def supported() -> tuple[str, ...]:
        """The names that `create_broker` takes, in lower case."""
        return tuple(registry.manifests())

    @staticmethod
    def create_broker(config: Mapping[str, object]) -> Broker:
        """The broker named `config["broker"]` (in any case), created from `config`, not yet connected.

        Raises UnknownBroker, BrokerLibraryMissing, and ValueError if the adapter finds the configuration wrong.
        """
        wanted = config.get("broker")
        name = wanted.strip().lower() if isinstance(wanted, str) else ""
        manifest = registry.manifests().get(name)
        if manifest is None:
            known = ", ".join(BrokerFactory.supported())
            raise UnknownBroker(f"There is no broker {wanted!r}; known are: {known}")
        try:
            adapter = registry.loaded(manifest.adapter)
        except ImportError as exc:
            remedy = (
                f"; install its library: pip install 'execution-service[{manifest.extra}]'" if manifest.extra else ""
            )
            raise BrokerLibraryMissing(f"The {name} broker cannot be loaded ({exc}){remedy}") from exc
        broker: Broker = adapter.create(config)
        return broker

    @staticmethod
    def configuration_of(name: str) -> type[AccountConfiguration] | None:
        """The settings model of that adapter, which is loaded for it. None if it cannot be loaded: that is reported
        when such a broker is created."""
        BrokerFactory.load((name,))
        manifest = registry.manifests().get(name)
        adapter = None if manifest is None else sys.modules.get(manifest.adapter)
        found: type[AccountConfiguration] | None = getattr(adapter, "Configuration", None)
        return found

    @staticmethod
    def load(names: Collection[str]) -> None:
        """Loads these adapters in advance; each may take a tenth of a second. If one cannot be loaded, that is
        reported when such a broker is created, and affects only its accounts."""
        for name, manifest in registry.manifests().items():
            if name in names:
                with contextlib.suppress(Exception):
                    registry.loaded(manifest.adapter)
