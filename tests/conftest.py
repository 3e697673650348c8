"""What every run of the tests says of itself first, and what no test may leave unsaid: that IBKR's libraries could not read a message."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import pytest

with contextlib.suppress(ModuleNotFoundError):  # the environment for ib_async is without it
    import hypothesis  # early: its plugin does it at the very end, so deep in calls that CPython 3.11.7 cannot compile it there

    # How long one example takes, and how quickly they are drawn, says how busy the machine is.
    hypothesis.settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("any machine")


BEGUN_FIRST = (
    "test_demo.py",
    "test_operations.py",
    "test_matrix.py",
    "test_crash_at_every_step.py",
    "test_kill.py",
    "test_lives.py",
    "test_calls_overnight.py",
)
"""The longest files: a worker takes whole ones, and one that is begun last is waited for by all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then what starts processes, since that mostly waits; the quick ones fill up what is left."""

    def place(item: pytest.Item) -> tuple[bool, bool]:
        return item.path.name not in BEGUN_FIRST, item.path.parent.name not in ("external", "faults")

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What is loaded by now stays: the collector of garbage need not look at it again in every test."""
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    """Which of the two client libraries for IBKR this run has: they exclude each other, so there is a run for each."""
    found = []
    for name in ("ib-insync", "ib-async"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"IBKR library: {', '.join(found) or 'none'}"


class _Unread(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or "cannot be read" in record.getMessage():
            self.messages.append(record.getMessage())


@pytest.fixture(autouse=True)
def unread_messages() -> Iterator[list[str]]:
    """What the libraries' decoders could not read, as they or the adapter log it. A test that sends such things empties the list."""
    handler = _Unread()
    decoders = [logging.getLogger(name) for name in ("ib_insync.Decoder", "ib_async.Decoder", "brokers.ibkr.session")]
    for decoder in decoders:
        decoder.addHandler(handler)
    yield handler.messages
    for decoder in decoders:
        decoder.removeHandler(handler)
    assert handler.messages == []
