"""The example of spec 001, as docs/alpaca.md has it: a program with the service within, against the simulated gateway, run twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from brokers.paper.model import Market
from simulators.alpaca.server import SimulatedAlpaca

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- example: begin -->\n```python\n", "```\n<!-- example: end -->"


def example() -> str:
    page = (ROOT / "docs" / "alpaca.md").read_text(encoding="utf-8")
    return page.partition(BEGIN)[2].partition(END)[0]


def run(program: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    file = folder / "program.py"
    file.write_text(program)
    settings = {
        "DATA_DIR": str(folder / "data"),
        "LOG_DIR": str(folder / "logs"),
        "ENV_FILE": os.devnull,
        "PYTHONPATH": str(ROOT),
    }
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, str(file)],
        env={**kept, **settings, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
    )


@pytest.mark.timeout(200)
def test_the_example_places_one_order_and_follows_it_to_its_fill_and_a_later_life_is_bound_by_limits(
    tmp_path: Path,
) -> None:
    keys = {"api_key": "your_api_key", "secret_key": "your_secret_key"}
    with SimulatedAlpaca(tmp_path / "alpaca.db", market=Market(fill_delay_seconds=0.3), **keys) as server:
        ended = run(example(), tmp_path, ALPACA_BASE_URL=server.base_url)
        assert ended.returncode == 0, ended.stderr
        lines = [line for line in ended.stdout.splitlines() if line.startswith("ord_")]
        assert lines[-1].endswith("FILLED 10"), ended.stdout + ended.stderr
        assert "Discrepancies" not in ended.stdout
        (order,) = server.book.orders()
        assert (order.ticket.instrument.symbol, order.filled_quantity) == ("AAPL", 10)
        limits = tmp_path / "risk.toml"
        limits.write_text("[defaults]\nmax_order_quantity = 5\n")
        ended = run(example(), tmp_path, ALPACA_BASE_URL=server.base_url, RISK_FILE=str(limits))
        assert ended.returncode == 0, ended.stderr
        assert "REJECTED" in ended.stdout, ended.stdout + ended.stderr
        assert len(server.book.orders()) == 1
