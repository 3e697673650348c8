"""What a measurement says and how it is shown: medians, ratios pair by pair, targets, one table, one JSON file; measures nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.box import ASCII, ROUNDED
from rich.console import Console
from rich.table import Table

_PIPE_COLUMNS = 170


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table."""

    name: str
    ours: str
    base: str = "-"
    """What ours is compared with."""
    pairs: tuple[float, ...] = ()
    """Ours divided by its base, pair by pair."""
    target: str = "-"
    is_met: bool | None = None
    """None: there is no target, or nothing was measured."""
    note: str = ""
    raw: dict[str, object] = field(default_factory=dict)
    """The single measurements, for the JSON file."""

    @property
    def verdict(self) -> str:
        return {True: "met", False: "NOT MET", None: "-"}[self.is_met]

    @property
    def shown_pairs(self) -> str:
        if not self.pairs:
            return "-"
        return f"{statistics.median(self.pairs):.2f} ({' '.join(f'{pair:.2f}' for pair in self.pairs)})"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least `share` (0 to 1) of them do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def machine(folder: Path) -> dict[str, object]:
    """What the figures depend on, besides the program; `folder` is where the measurements write."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 2),
        "fsync_ms": round(1000 * _fsync_seconds(folder), 2),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _fsync_seconds(folder: Path) -> float:
    """The median time to make 4 KiB durable."""
    took = []
    with tempfile.TemporaryFile(dir=folder) as probe:
        for _ in range(40):
            probe.write(b"x" * 4096)
            probe.flush()
            began = time.perf_counter()
            os.fsync(probe.fileno())
            took.append(time.perf_counter() - began)
    return median(took)


def print_figures(figures: Sequence[Figure], about: Sequence[str]) -> None:
    is_terminal = os.isatty(1)
    console = Console(markup=False, highlight=False, emoji=False, width=None if is_terminal else _PIPE_COLUMNS)
    table = Table(box=ROUNDED if is_terminal else ASCII, show_lines=True)
    for title in ("Figure", "Ours", "Beside it", "Ours / beside it: median (pairs)", "Target", "Verdict", "Note"):
        table.add_column(title, overflow="fold")
    for figure in figures:
        style = {True: "green", False: "bold red", None: ""}[figure.is_met]
        words = (figure.name, figure.ours, figure.base, figure.shown_pairs, figure.target, figure.verdict, figure.note)
        table.add_row(*words, style=style if is_terminal else "")
    console.print(table)
    for sentence in about:
        console.print(sentence)


def write_json(path: Path, figures: Sequence[Figure], about: dict[str, object]) -> None:
    body = {"about": about, "figures": [{**dataclasses.asdict(f), "verdict": f.verdict} for f in figures]}
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


Say = Callable[[str], None]
"""Tells a waiting person what is being done."""
