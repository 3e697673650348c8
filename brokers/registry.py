"""Which brokers there are: packages beside this module that have a manifest. The one place that loads a module by a name that it was given.

A broker that is not part of this distribution is found as soon as a folder `brokers` with its package is on Python's path.
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
    """By the brokers' names, in their sequence. Loads no adapter and no client library. Raises ValueError where two have one name."""
    return _found(tuple(brokers.__path__))


def stand_in() -> Manifest:
    """The broker that serves every account where no real one is to be used."""
    (found,) = (manifest for manifest in manifests().values() if manifest.is_stand_in)
    return found


def quiet_loggers() -> tuple[str, ...]:
    return tuple(name for manifest in manifests().values() for name in manifest.quiet_loggers)


def loaded(module: str) -> ModuleType:
    """The module of that dotted name. Raises ImportError, and whatever the module itself raises."""
    return importlib.import_module(module)


def named(reference: str) -> object:
    """What `module:name` stands for. Raises ImportError, AttributeError."""
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
