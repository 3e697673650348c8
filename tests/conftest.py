"""What a run of the tests says of itself first; no fixtures."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def pytest_report_header() -> str:
    """Which of the two client libraries for IBKR this run has: they exclude each other, so there is a run for each."""
    found = []
    for name in ("ib-insync", "ib-async"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"IBKR library: {', '.join(found) or 'none'}"
