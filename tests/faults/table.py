"""What came of a run: the table for the eye and as Markdown, and its place in a document; nothing is played or judged here."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from tests.external.forked import REPOSITORY
from tests.faults.stage import Outcome

HEADS = ("Scenario", "Broker", "Runs", "Agrees", "Orders per signal", "Seconds to recover")
BEGIN, END = "<!-- last table: begin -->", "<!-- last table: end -->"


def rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """One for each scenario at each broker; the longest recovery of its runs."""
    grouped: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        grouped.setdefault((outcome.scenario, outcome.broker), []).append(outcome)
    found: list[tuple[str, ...]] = []
    for (name, broker), group in sorted(grouped.items()):
        if not group[0].is_run:
            said = "yes" if all(outcome.agrees for outcome in group) else "NO"
            figures = "; ".join(outcome.figures for outcome in group if outcome.figures)
            found.append((name, broker, "-", said, figures or "-", "-"))
            continue
        agreed = sum(outcome.agrees for outcome in group)
        counts = sorted({count for outcome in group for count in outcome.placed})
        said = "yes" if agreed == len(group) else f"NO ({len(group) - agreed} of {len(group)})"
        longest = max(outcome.recovery_seconds for outcome in group)
        take_over = max(outcome.take_over_seconds for outcome in group)
        times = f"{longest:.1f}" + (f", taken over in {take_over:.1f}" if take_over else "")
        doubts = sum(outcome.doubts for outcome in group)
        settled = f"; {doubts} doubt{'s' if doubts > 1 else ''} settled by a person" if doubts else ""
        found.append((name, broker, str(len(group)), said, (", ".join(map(str, counts)) or "-") + settled, times))
    return found


def for_the_eye(outcomes: Sequence[Outcome]) -> Table:
    table = Table(title="Faults")
    for head in HEADS:
        table.add_column(head)
    for row in rows(outcomes):
        table.add_row(*row)
    return table


def as_markdown(outcomes: Sequence[Outcome]) -> str:
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(outcomes)]
    return "\n".join(lines) + "\n"


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line: `285 runs, 0 disagree`."""
    ran = sum(outcome.is_run for outcome in outcomes)
    return f"{ran} runs, {sum(not outcome.agrees for outcome in outcomes)} disagree"


def write_between_markers(page: Path, outcomes: Sequence[Outcome], *, command: str, seconds: float) -> None:
    """Puts the run in the place of the last one. Raises ValueError if the page has no such place."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the table: {BEGIN} … {END}")
    wrong = [outcome for outcome in outcomes if not outcome.agrees]
    about = (
        f"`{command}`, commit {commit()}, {datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[2]:.1f}: **{summary(outcomes)}**, {seconds / 60:.0f} minutes."
    )
    parts = [BEGIN, "## The last run", about, ""]
    parts += [f"- **{each.scenario} at {each.broker}**: {'; '.join(each.wrong)[:400]}" for each in wrong]
    parts += [""] if wrong else []
    page.write_text(before + "\n".join(parts) + "\n" + as_markdown(outcomes) + END + after, encoding="utf-8")


def commit() -> str:
    """The one that was played, and whether anything was changed since; `unknown` outside of a repository."""
    try:
        named = _git("rev-parse", "--short=12", "HEAD")
        is_changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{named} with changes that are not committed" if is_changed else named


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, check=True, text=True)
    return done.stdout.strip()
