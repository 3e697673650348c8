"""From a broker's name to its simulator, loaded on demand."""

from __future__ import annotations

from brokers.registry import manifests, named
from simulators.simulator import Simulator


def simulator_of(broker: str) -> Simulator:
    """Raises KeyError for an unknown broker, or one without a simulator."""
    reference = manifests()[broker].simulator
    if reference is None:
        raise KeyError(broker)
    found = named(reference)
    assert isinstance(found, Simulator)
    return found


def in_process() -> tuple[str, ...]:
    """The brokers that need no program, since the service has them in itself, but an account of their own."""
    return tuple(
        name
        for name, manifest in manifests().items()
        if manifest.simulator is not None and not manifest.is_stand_in and simulator_of(name).program is None
    )


def programs() -> tuple[str, ...]:
    """The brokers that a program on this machine can simulate."""
    return tuple(
        name
        for name, manifest in manifests().items()
        if manifest.simulator is not None and simulator_of(name).program is not None
    )
