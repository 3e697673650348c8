"""`python -m benchmarks`: arguments, order of the measurements and their table; the measurements are in `suite`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figure, machine, print_figures, write_json
from benchmarks.suite import MEASUREMENTS, Plan
from benchmarks.traffic import MeasurementFailed
from benchmarks.worlds import REPOSITORY, refuse_real_places
from execution_service.app.embedded import make_private

FINISHED_ORDERS = 4000
FINISHED_ORDERS_IN_FULL = 20_000
AFTER_FINISHED = 500
AFTER_FINISHED_IN_FULL = 1000
INSTRUMENTS = 50
INSTRUMENTS_IN_FULL = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when everything could be measured, whether or not targets are met; 1 when something could not."""
    options = _parser().parse_args(arguments)
    # So that the processes started here are ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.perf_counter()
    figures: list[Figure] = []
    failures = 0
    make_private(options.folder)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder, ignore_cleanup_errors=True) as folder:
        about = machine(Path(folder))
        plan = Plan(
            folder=Path(folder),
            say=lambda sentence: print(
                f"{time.perf_counter() - began:6.0f} s  {sentence}", file=sys.stderr, flush=True
            ),
            pairs=options.pairs,
            burst=options.orders,
            finished=options.finished or (FINISHED_ORDERS_IN_FULL if options.full else FINISHED_ORDERS),
            after_finished=AFTER_FINISHED_IN_FULL if options.full else AFTER_FINISHED,
            open_orders=options.open_orders,
            instruments=INSTRUMENTS_IN_FULL if options.full else INSTRUMENTS,
        )
        try:
            refuse_real_places(plan.folder)
        except MeasurementFailed as exc:
            print(f"Nothing was measured: {exc}.", file=sys.stderr)
            return 1
        for name in dict.fromkeys(options.only or MEASUREMENTS):
            try:
                figures += MEASUREMENTS[name](plan)
            except Exception as exc:  # noqa: BLE001  the other measurements go on without this one
                failures += 1
                if not isinstance(exc, MeasurementFailed):
                    traceback.print_exc()
                figures.append(Figure(name=name, ours="could not be measured", note=str(exc) or type(exc).__name__))
    about |= {
        "pairs": options.pairs,
        "seconds": round(time.perf_counter() - began),
        "load_average_at_end": round(os.getloadavg()[0], 2),
    }
    print_figures(figures, _words(about, figures))
    if options.json:
        write_json(options.json, figures, about)
    return 1 if failures else 0


def _words(about: dict[str, object], figures: Sequence[Figure]) -> list[str]:
    targets = [figure for figure in figures if figure.is_met is not None]
    met = sum(figure.is_met is True for figure in targets)
    return [
        f"{met} of {len(targets)} targets met. Took {about['seconds']} s, {about['pairs']} pairs.",
        f"{about['system']}, {about['cores']} cores, Python {about['python']}, fsync {about['fsync_ms']} ms, "
        f"load {about['load_average']} before and {about['load_average_at_end']} after, {about['time']}.",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures the service beside the least that its work can cost, on an embedded store, durably. "
        "A target that is not met is said and does not change the exit status.",
    )
    parser.add_argument("--only", action="append", choices=tuple(MEASUREMENTS), help="this one; may be repeated")
    parser.add_argument("--pairs", type=_count, default=3, help="interleaved pairs (default: %(default)s)")
    parser.add_argument("--orders", type=_count, default=2000, help="orders in a burst (default: %(default)s)")
    parser.add_argument(
        "--finished",
        type=_count,
        help=f"finished orders before the later ones (default: {FINISHED_ORDERS}; with --full {FINISHED_ORDERS_IN_FULL})",
    )
    parser.add_argument(
        "--open-orders", type=_count, default=1000, help="open orders at a start (default: %(default)s)"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help=f"{FINISHED_ORDERS_IN_FULL} finished orders and {AFTER_FINISHED_IN_FULL} after them, and {INSTRUMENTS_IN_FULL} simulated "
        "instruments, as the targets have it; takes longer",
    )
    parser.add_argument(
        "--folder",
        type=lambda text: Path(text).absolute(),
        default=REPOSITORY / "data",
        help="where the measured processes write, on a real disk; emptied afterwards (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single measurement there")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
