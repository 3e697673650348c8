"""Finds the brokers: the packages beside this module that have a manifest. The only place that imports modules by a
configured name.

A broker from another distribution is found as soon as a folder `brokers` with its package is on Python's path.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from types import MappingProxyType, ModuleType

import brokers
from brokers.manifest import Manifest


def manifests() -> Mapping[str, Manifest]:
    """The manifests by broker name. Loads no adapter and no client library. Raises ValueError if two brokers have
    one name."""
    return _found(tuple(brokers.__path__))


def stand_in() -> Manifest:
    """The broker that serves every account when no real one is to be used."""
    (found,) = (manifest for manifest in manifests().values() if manifest.is_stand_in)
    return found


def quiet_loggers() -> tuple[str, ...]:
    return tuple(name for manifest in manifests().values() for name in manifest.quiet_loggers)


def loaded(module: str) -> ModuleType:
    """The module with that dotted name. Raises ImportError, and whatever the module raises when imported."""
    return importlib.import_module(module)


def named(reference: str) -> object:
    """The object that `module:name` refers to. Raises ImportError, AttributeError."""
    module, _, name = reference.partition(":")
    return getattr(loaded(module), name)


@cache
def _found(path: tuple[str, ...]) -> Mapping[str, Manifest]:
    found: dict[str, Manifest] = {}
    for package in pkgutil.iter_modules(path, "brokers."):
        if not package.ispkg or find_spec(f"{package.name}.manifest") is None:
            continue
        manifest = loaded(f"{package.name}.manifest").MANIFEST
        if manifest.name in found:
            raise ValueError(
                f"Two brokers are called {manifest.name}: {manifest.adapter} and {found[manifest.name].adapter}"
            )
        found[manifest.name] = manifest
    return MappingProxyType(dict(sorted(found.items())))
