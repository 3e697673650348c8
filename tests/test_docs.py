"""Documents that must not drift from the code: the state table, the reason codes, the settings, the links between the pages."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby, pairwise, takewhile
from pathlib import Path

import pytest

from execution_service.app.settings.model import setting_names
from execution_service.core.orders.events import stored_name
from execution_service.core.orders.exits import UNKNOWN_ENTRY_SECONDS
from execution_service.core.orders.legs import UNKNOWN_LEG_SECONDS
from execution_service.core.orders.repetition import CANCELS, FINDS
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.orders.transitions import TRANSITIONS
from execution_service.core.reconcile.discrepancies import DiscrepancyKind
from execution_service.core.risk.limits import BUILT_IN, OFF, LimitType

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BEGIN, END = "<!-- transitions: begin -->\n", "<!-- transitions: end -->"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "tests" / "README.md", *DOCS.rglob("*.md")])


def state_table() -> str:
    """The transition table as docs/architecture.md shows it: statuses in their own order, then by target."""
    order = {status: n for n, status in enumerate(Status)}
    rows = sorted(
        ((before, after, stored_name(event)) for (before, event), after in TRANSITIONS.items()),
        key=lambda row: (order[row[0]], order[row[1]]),
    )
    lines = ["| in | on | becomes |", "|---|---|---|"]
    for (before, after), group in groupby(rows, key=lambda row: row[:2]):
        events = ", ".join(f"`{name}`" for _, _, name in group)
        lines.append(f"| {before} | {events} | {'(stays)' if before is after else after} |")
    return "\n".join(lines) + "\n"


def test_the_state_table_of_the_architecture_page_is_the_codes() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    shown = text.partition(BEGIN)[2].partition(END)[0]
    assert shown == state_table(), f"put this between the marks in docs/architecture.md:\n\n{state_table()}"


def test_every_reason_code_is_explained_and_no_other() -> None:
    text = (DOCS / "messages.md").read_text(encoding="utf-8").partition("### Reason codes")[2]
    explained = re.findall(r"^\| `([A-Z_]+)` \|", text, flags=re.MULTILINE)
    assert sorted(explained) == sorted(code.value for code in ReasonCode)


def test_every_status_that_is_told_is_in_the_messages_page() -> None:
    text = (DOCS / "messages.md").read_text(encoding="utf-8")
    told = set(Status) - {Status.PENDING, Status.SUBMITTING, Status.SUBMITTED}
    assert {status for status in told if f"`{status}`" not in text} == set()


def test_every_kind_of_discrepancy_is_explained_and_no_other() -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8").partition("## Discrepancies")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `([A-Z_]+)` \|", text, flags=re.MULTILINE)
    assert sorted(explained) == sorted(kind.value for kind in DiscrepancyKind)


def test_every_limit_of_risk_is_explained_and_what_is_built_in_is_as_the_page_says() -> None:
    text = (DOCS / "risk.md").read_text(encoding="utf-8")
    assert [limit.value for limit in LimitType if f"`{limit}" not in text] == []
    table = text.partition("### Written, and built in")[2].partition("\nAll others are off.")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    said = {
        name: value.replace(",", "")
        for names, values in rows
        for name, value in zip(re.findall("`([a-z_]+)`", names), values.split(", "), strict=True)
    }
    on = {limit.value: BUILT_IN.of(limit) for limit in LimitType if BUILT_IN.of(limit) is not OFF}
    assert said == {name: str(value).lower() for name, value in on.items()}


def test_how_long_an_exit_waits_for_its_entry_and_a_leg_for_the_others_is_as_the_pages_say() -> None:
    operations = (DOCS / "operations.md").read_text(encoding="utf-8")
    assert f"the entry has not arrived at all, the exit waits {UNKNOWN_ENTRY_SECONDS:g} s for it" in operations
    messages = (DOCS / "messages.md").read_text(encoding="utf-8")
    assert f"a leg waits up to {UNKNOWN_LEG_SECONDS:g} s for the others" in messages


def test_how_often_things_are_asked_again_is_as_the_page_says() -> None:
    operations = (DOCS / "operations.md").read_text(encoding="utf-8")
    assert CANCELS.pauses_seconds == (2, 5, 15, 60, 5 * 60, 15 * 60, 30 * 60, 60 * 60)
    assert "asked for again after 2, 5, 15 and 60 s, 5, 15 and 30 minutes, and then once an hour" in operations
    assert f"at most {CANCELS.an_hour} times an hour and {CANCELS.a_day} times a day" in operations
    assert FINDS.pauses_seconds == (5, 30, 60, 5 * 60, 15 * 60, 30 * 60, 60 * 60)
    assert "together, after 5, 30 and 60 s, 5, 15 and 30 minutes, and then once an hour" in operations


def test_every_setting_is_explained_and_no_other() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    table = text.partition("## Settings")[2].partition("\n## ")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    explained = [name for cell in first_cells for name in re.findall(r"`([A-Z_]+)`", cell)]
    assert sorted(explained) == sorted(setting_names())


def test_the_example_of_the_environment_has_every_setting_and_no_other() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    names = re.findall(r"^#?([A-Z_]+)=", text, flags=re.MULTILINE)
    assert sorted(names) == sorted(setting_names())


def _map_of_the_rooms() -> list[str]:
    """The names at the beginnings of its lines, each with the names of the lines that it is indented under: `core/orders/status.py`."""
    drawn = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("```\n")[2].partition("\n```")[0]
    names: list[str] = []
    above: list[tuple[int, str]] = []
    for line in drawn.splitlines():
        indent = len(line) - len(line.lstrip())
        above = [(column, room) for column, room in above if column < indent]
        first = list(takewhile(lambda word: word.endswith(("/", ".py")), line.strip().partition("  ")[0].split()))
        names += ["".join(room for _, room in above) + name for name in first]
        if first and first[0].endswith("/"):
            above.append((indent, first[0]))
    return names


def test_the_map_names_every_room_once_and_none_that_is_not_there() -> None:
    names = _map_of_the_rooms()
    assert {name: count for name, count in Counter(names).items() if count > 1} == {}
    assert [name for name in names if not (ROOT / name).exists()] == []
    rooms = [ROOT / "execution_service", ROOT / "execution_service" / "core", ROOT / "brokers", ROOT / "simulators"]
    packages = {f"{init.parent.relative_to(ROOT)}/" for room in rooms for init in room.glob("*/__init__.py")}
    assert packages - set(names) == set()


NAMED_ONE_BY_ONE = (
    "execution_service/app",
    "execution_service/core/orders",
    "execution_service/delivery",
    "execution_service/planning",
    "execution_service/recording",
    "execution_service/trading",
    "execution_service/transport",
    "brokers",
    "notifications",
    "simulators",
)


@pytest.mark.parametrize("room", NAMED_ONE_BY_ONE)
def test_the_map_names_every_module_of_a_room_that_it_shows_by_its_files(room: str) -> None:
    drawn = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("```\n")[2].partition("\n```")[0]
    modules = {path.name for path in (ROOT / room).glob("*.py")} - {"__init__.py", "__main__.py"}
    assert sorted(modules - set(re.findall(r"[a-z_]+\.py", drawn))) == []


def _defined() -> tuple[set[str], set[str]]:
    """What modules of the service and of the brokers define: functions and classes; and `Class.method`."""
    names: set[str] = set()
    methods: set[str] = set()
    for package in ("execution_service", "brokers"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    functions = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
                    methods |= {f"{node.name}.{each.name}" for each in functions}
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    names.add(node.name)
    return names, methods


def test_the_walks_name_calls_that_exist() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    walks = page.partition("\n## Walks\n")[2].partition("\n## ")[0]
    steps = [step for step in re.findall(r"`([A-Za-z_.]+)`", walks) if step not in ("transport.pubsub", "execctl")]
    names, methods = _defined()
    assert len(steps) > 50
    assert [step for step in steps if step not in (methods if "." in step else names)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_is_said_twice_in_a_row(page: Path) -> None:
    """As where two branches have changed one line, and both were kept."""
    said = [line for line in page.read_text(encoding="utf-8").splitlines() if len(line) >= 60 and line[0] not in "|$+"]
    assert [line for line, after in pairwise(said) if line[:60] == after[:60]] == []


def test_every_section_of_the_changelog_is_there_once() -> None:
    for version in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        sections = re.findall(r"^### (.+)$", version, re.MULTILINE)
        assert len(sections) == len(set(sections)), version.splitlines()[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    assert [link for link in local_links(page) if not (page.parent / link).exists()] == []


def local_links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            yield target.partition("#")[0] or page.name


def test_every_decision_is_listed_and_numbered_without_a_gap() -> None:
    records = sorted(path.name for path in (DOCS / "adr").glob("[0-9]*.md"))
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))
    listed = re.findall(r"\]\((\d{4}-[^)]+)\)", (DOCS / "adr" / "README.md").read_text(encoding="utf-8"))
    assert listed == records


@pytest.mark.parametrize("page", sorted((DOCS / "adr").glob("[0-9]*.md")), ids=lambda page: page.name)
def test_a_decision_tells_context_decision_consequences_and_alternatives(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    needed = ["Context", "Decision", "Consequences", "Alternatives"]
    assert [h for h in headings if h in needed] == needed


def test_every_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`make ([a-z]+)`", page.read_text(encoding="utf-8"))}
    assert named - targets == set()
    assert {"run", "test"} <= named
