"""The only place that imports IBKR's client libraries, ib_insync or ib_async, and the parts of them that are used.
No behaviour of ours."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@contextlib.contextmanager
def _event_loop() -> Iterator[None]:
    """Both libraries request the thread's event loop when imported, and fail if there is none; they do not use it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            yield
        finally:
            asyncio.set_event_loop(None)
            loop.close()
    else:
        yield


with _event_loop():
    try:
        import ib_insync  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        ib_insync = None  # type: ignore[assignment,unused-ignore]
    try:
        import ib_async  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        ib_async = None  # type: ignore[assignment,unused-ignore]

if ib_insync is None and ib_async is None:
    raise ImportError("neither ib_insync nor ib_async is installed")

NAMES = ("ib_insync", "ib_async")
UNSET = 1.7e308
"""A number at or above it means "not set"."""


@dataclass(frozen=True, slots=True)
class Library:
    """Only the socket client and the plain data classes of either library are used, not its `IB` class, whose order
    state is unreliable (it takes every error on an order's id for the order's end) and is lost with the socket."""

    name: str
    version: str
    client: Any
    contract: Any
    combo_leg: Any
    order: Any
    execution_filter: Any


def _as_debug(record: logging.LogRecord) -> bool:
    record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


def choose(wanted: str) -> Library:
    """`auto` (ib_insync, else ib_async) or a library's name. Raises ValueError if it is not installed or unknown."""
    found = {"ib_insync": ib_insync, "ib_async": ib_async}
    if wanted != "auto" and wanted not in NAMES:
        raise ValueError(f"library must be auto, ib_insync or ib_async, not {wanted!r}")
    names = NAMES if wanted == "auto" else (wanted,)
    module: Any = next((found[name] for name in names if found[name] is not None), None)
    if module is None:
        extra = "ibkr-async" if wanted == "ib_async" else "ibkr"
        raise ValueError(f"{wanted} is not installed: pip install 'execution-service[{extra}]'")
    # Whatever the socket client logs it also raises or passes to the adapter, whose caller reports it.
    logging.getLogger(f"{module.__name__}.client").addFilter(_as_debug)
    return Library(
        name=module.__name__,
        version=str(module.__version__),
        client=module.Client,
        contract=module.Contract,
        combo_leg=module.ComboLeg,
        order=module.Order,
        execution_filter=module.ExecutionFilter,
    )
