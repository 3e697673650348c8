"""The one place that imports IBKR's client libraries, ib_insync or ib_async, and what is used of them; no behaviour of ours."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@contextlib.contextmanager
def _event_loop() -> Iterator[None]:
    """Both libraries ask for the thread's event loop when they are imported, and fail where there is none any more; they do not use it."""
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
"""A number at or above it stands for "not said"."""


@dataclass(frozen=True, slots=True)
class Library:
    """Of either library only the socket client and the plain records are used: not its `IB` class, whose picture of orders goes wrong
    (it takes every error on an order's id for the order's end) and is dropped with the socket."""

    name: str
    version: str
    client: Any
    contract: Any
    order: Any
    execution_filter: Any


def _as_debug(record: logging.LogRecord) -> bool:
    record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


def choose(wanted: str) -> Library:
    """`auto` (ib_insync, else ib_async) or a library's name. Raises ValueError where that one is not installed or not known."""
    found = {"ib_insync": ib_insync, "ib_async": ib_async}
    if wanted != "auto" and wanted not in NAMES:
        raise ValueError(f"library must be auto, ib_insync or ib_async, not {wanted!r}")
    names = NAMES if wanted == "auto" else (wanted,)
    module: Any = next((found[name] for name in names if found[name] is not None), None)
    if module is None:
        extra = "ibkr-async" if wanted == "ib_async" else "ibkr"
        raise ValueError(f"{wanted} is not installed: pip install 'execution-service[{extra}]'")
    # The socket client raises or tells the adapter whatever it logs, and the adapter's caller says it.
    logging.getLogger(f"{module.__name__}.client").addFilter(_as_debug)
    return Library(
        name=module.__name__,
        version=str(module.__version__),
        client=module.Client,
        contract=module.Contract,
        order=module.Order,
        execution_filter=module.ExecutionFilter,
    )
