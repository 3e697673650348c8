"""The worked example of the simulation (docs/simulation-example.md): the same targets under four stances, on real bars of AAPL, IBM and MSFT.

make example                    inputs, results and the page, in data/simulation-example
make example ARGS=--write-docs  also the table and the picture of the documentation (the picture needs Chromium)
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simulation.__main__ import main as simulate

ROOT = Path(__file__).resolve().parent.parent
PAGE, PICTURE = ROOT / "docs" / "simulation-example.md", ROOT / "docs" / "images" / "simulation-report.png"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->"
STANCES = ("PASSIVE", "NORMAL", "URGENT", "EMERGENCY")
FIRST, LAST = "2008-07-01", "2008-11-28"
HELD = {"AAPL": 8_000_000, "IBM": 6_000_000, "MSFT": 24_000_000}
BOUGHT = tuple(f"2008-08-{day:02d}" for day in (4, 5, 6, 7, 8, 11, 12, 13, 14, 15))
"""Days on which a tenth is to be bought."""
SOLD = ("2008-09-15", "2008-09-22", "2008-09-29", "2008-10-06")
"""Mondays on which a quarter is to be sold: the week of Lehman's end, and the three after it."""
CONFIG = """# Four strategies trade the same at the same time: so that none takes another's volume, a bar has room for all.
stamp = "open"
interval = "390min"
tick = 0.0001
participation = 1
cash = 20000000000
slippage = [{ model = "half_spread", ticks = 100 }, { model = "sqrt", y = 1 }]
commission = { model = "per_share", per_share = 0.005, minimum = 1.00 }
"""
_COLUMNS = ("Open", "High", "Low", "Close", "Volume")


class NoPrices(Exception):
    """The package with the prices is not installed."""


def real_bars() -> Iterator[Sequence[str]]:
    """Daily bars as they were traded (neither splits nor dividends are in them), by symbol and time; times are the openings in New York, as if
    there were no summer time. Raises NoPrices.

    The package is not imported, which would load pandas: its file is read.
    """
    found = find_spec("bokeh_sampledata")
    if found is None or found.origin is None:
        raise NoPrices("the real prices are those of the package bokeh-sampledata, which is not installed (make setup)")
    with gzip.open(Path(found.origin).parent / "_data" / "stocks.csv.gz", "rt", encoding="utf-8") as file:
        rows = sorted(
            (row["Ticker"], row["Date"], *(row[name] for name in _COLUMNS))
            for row in csv.DictReader(file)
            if row["Ticker"] in HELD and FIRST <= row["Date"] <= LAST
        )
    yield ("symbol", "time", *(name.lower() for name in _COLUMNS))
    for symbol, day, *figures in rows:
        yield (symbol, f"{day}T14:30:00Z", *figures)


def targets() -> Iterator[Sequence[str]]:
    """For each stance a strategy of its own, all with the same targets: bought at the market by tenths, and sold by quarters."""
    yield ("decision_id", "time", "symbol", "quantity", "strategy_id", "aggressiveness")
    bought = [(day, number, len(BOUGHT)) for number, day in enumerate(BOUGHT, 1)]
    sold = [(day, len(SOLD) - number, len(SOLD)) for number, day in enumerate(SOLD, 1)]
    for day, part, parts in (*bought, *sold):
        for stance in STANCES:
            urgency = stance if day in SOLD else "NORMAL"
            for symbol, held in HELD.items():
                yield (day, f"{day}T00:00:00Z", symbol, str(held * part // parts), f"sold {stance.lower()}", urgency)


def write_inputs(folder: Path) -> None:
    """Raises NoPrices, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("bars.csv", real_bars()), ("targets.csv", targets())):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        (folder / name).write_text(text.getvalue(), encoding="utf-8")
    (folder / "simulation.toml").write_text(CONFIG, encoding="utf-8")


def run(folder: Path) -> Path:
    """The folder of the results, as the command writes them. Raises NoPrices, OSError, RuntimeError."""
    write_inputs(folder)
    names = {"--bars": "bars.csv", "--targets": "targets.csv", "--config": "simulation.toml", "--out": "results"}
    arguments = [word for option, name in names.items() for word in (option, str(folder / name))]
    if simulate([*arguments, "--format", "csv"]):
        raise RuntimeError("the example was refused")
    return folder / "results"


def figures(results: Path) -> str:
    """The table of the documentation, from what the run wrote."""
    realized: dict[str, float] = {}
    for row in _rows(results / "positions.csv"):
        realized[row["strategy_id"]] = realized.get(row["strategy_id"], 0.0) + float(row["realized_pnl"])
    left: dict[str, int] = {}
    for row in _rows(results / "positions.csv"):
        left[row["strategy_id"]] = left.get(row["strategy_id"], 0) + int(row["quantity"])
    by_name = {row["name"]: row for row in _rows(results / "quality.csv") if row["by"] == "stance"}
    lines = [
        "| stance | orders | part filled | median | mean by value | 95 % | cost, $ million | until filled, median | left at the end |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for stance in STANCES:
        row, strategy = by_name[f"{stance}, reducing"], f"sold {stance.lower()}"
        days = float(row["seconds_to_last_fill"]) / 86_400
        basis_points = " | ".join(f"{float(row[name]):+.1f}" for name in ("median_bps", "mean_bps", "p95_bps"))
        lines.append(
            f"| `{stance}` | {row['orders']} | {float(row['filled_part']):.0%} | {basis_points} | {float(row['cost']) / 1e6:.1f} | "
            f"{days:.1f} days | {left[strategy]:,} shares |"
        )
    return "\n".join(lines) + "\n"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_docs(results: Path) -> None:
    """The table and the picture. Raises OSError, and CalledProcessError where the browser fails."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(before + BEGIN + figures(results) + END + rest.partition(END)[2], encoding="utf-8")
    browser = shutil.which("chromium")
    if browser is None:
        print("Without Chromium the picture stays as it is.", file=sys.stderr)
        return
    with TemporaryDirectory() as profile:
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1040,1960")
        picture = (
            f"--user-data-dir={profile}",
            f"--screenshot={PICTURE}",
            (results / "report.html").resolve().as_uri(),
        )
        subprocess.run([browser, *options, *picture], check=True, timeout=120, capture_output=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "data" / "simulation-example")
    parser.add_argument(
        "--write-docs", action="store_true", help="write the table and the picture of the documentation anew"
    )
    chosen = parser.parse_args(arguments)
    try:
        results = run(chosen.folder)
    except NoPrices as exc:
        print(exc, file=sys.stderr)
        return 1
    print(figures(results))
    print(f"The page: {results / 'report.html'}")
    if chosen.write_docs:
        write_docs(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
