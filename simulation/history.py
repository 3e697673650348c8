"""The bars of a run from its files, whatever their format, with their corporate actions; and what a repetition needs to know of a run's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from simulation.actions import read_actions
from simulation.bars import BarReader, History, digests, files_of
from simulation.problems import Collected
from simulation.settings import Settings

ENDINGS = (".csv", ".parquet")
WORTH_COMPILING = 20_000_000
"""Bytes of CSV files, from which on reading them by numba saves more time than it takes to be loaded."""
RULES = 1
"""The version of the rules of fills: another one where the same orders would fill otherwise. A book on bars is not opened under another."""


def read_history(bars: Path, settings: Settings, *, actions: Path | None = None, given: Sequence[Path] = ()) -> History:
    """`bars` is a file or a folder. `given`: other files of the run, whose hashes its manifest has, too. Raises InputRefused, also where bars or
    actions are written to meanwhile; OSError."""
    reader = BarReader(settings)
    files = files_of(bars, ENDINGS)
    read = [*files, *([] if actions is None else [actions])]
    before = [_stamp(file) for file in read]
    for file in files:
        read_bars(file, reader, settings)
    history = reader.history(dict(digests([*files, *given, *([] if actions is None else [actions])])))
    if actions is not None:
        read_actions(actions, history, settings)
    problems = Collected()
    for file, stamp in zip(read, before, strict=True):
        if _stamp(file) != stamp:
            problems.add(
                file.name, 0, "CHANGED", "it was written to while it was read: the hash may be that of other rows"
            )
    problems.raise_if_any()
    return history


def _stamp(file: Path) -> tuple[int, int, int]:
    """Another one after the file was written to or replaced."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def read_bars(path: Path, reader: BarReader, settings: Settings, quick: Any = None) -> None:
    """`quick`: as `quick_texts`. Raises InputRefused where the format needs what is not installed, and OSError."""
    if path.suffix.lower() == ".parquet":
        parquet_for(path).read_bars(path, reader, settings)
    elif quick is None or not quick.read_bars(path, reader, settings):
        reader.csv(path)


def quick_texts(paths: Sequence[Path], engine: str) -> Any:
    """The module that reads CSV files by numba: where `engine` asks for that, or leaves it open and they are large enough. None: there is none.
    Raises OSError."""
    is_worth_it = engine == "auto" and sum(path.stat().st_size for path in paths) >= WORTH_COMPILING
    if find_spec("numba") is None or not (engine == "numba" or is_worth_it):
        return None
    return import_module("simulation.compiled_texts")


def parquet_for(path: Path) -> Any:
    """The module that reads it. Raises InputRefused."""
    if find_spec("polars") is None:
        problems = Collected()
        problems.add(path.name, 0, "FORMAT", "Parquet needs polars: install the extra simulation, or give CSV")
        problems.raise_if_any()
    return import_module("simulation.parquet")


def inputs_of(history: History, settings: Settings) -> dict[str, Any]:
    """The part of a manifest that says what a run was made of: hashes of its files, settings, conventions. The same inputs give the same."""
    return {
        "version": RULES,
        "inputs": dict(history.files),
        "settings": settings.source,
        "seed": settings.seed,
        "conventions": {
            "stamp": settings.stamp,
            "interval_microseconds": settings.interval,
            "session": "UTC date of the bar's opening",
        },
    }
