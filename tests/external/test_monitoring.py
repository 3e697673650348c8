"""The figures of a running service, and the alert rules, the board and the page that are written for them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.external.forked import REPOSITORY
from tests.external.service_process import Service
from tests.waits import wait_until

FOLDER = REPOSITORY / "docs" / "monitoring"
RULES, RULE_TESTS = FOLDER / "alerts.yml", FOLDER / "alerts_test.yml"
PROMETHEUS_OWN = {"instance", "job", "le"}
"""Labels that Prometheus itself gives."""
HISTOGRAMS = {"execution_step_seconds", "execution_slippage_basis_points", "execution_fill_seconds"}
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def promtool(*arguments: str, text: str = "") -> str:
    done = subprocess.run(
        ["promtool", *arguments], input=text, capture_output=True, text=True, cwd=FOLDER, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a service in which an order was filled and another was refused."""
    with Service(tmp_path_factory.mktemp("monitoring")) as service:
        service.start()
        base = str(service.endpoints()["api"])
        for price in (100, 1_000_000):
            body = {"symbol": "AAPL", "side": "buy", "quantity": 10, "price": price}
            assert httpx.post(f"{base}/api/execution/order", json=body).status_code == 200

        def confirmed() -> str | None:
            text = httpx.get(f"{base}/metrics").text
            steps = [s for s in samples(text) if s.name == "execution_step_seconds_count"]
            counts = {s.labels["step"]: s.value for s in steps}
            is_there = counts.get("recorded_to_confirmed", 0) >= 2 and "sent_to_filled" in counts
            return text if is_there and "execution_refusals_total{" in text else None

        yield wait_until(confirmed, "both orders are confirmed")


def samples(text: str) -> list[Any]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def documented() -> Mapping[str, tuple[str, frozenset[str]]]:
    """Of each figure of the page: its kind, and its labels."""
    table = (FOLDER / "README.md").read_text(encoding="utf-8").partition("figures: begin -->")[2].partition("<!--")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| `")]
    assert all(len(row) == 5 and row[3] and row[4] for row in rows), "each has a unit and a meaning"
    return {row[0].strip("`"): (row[1], frozenset(re.findall(r"`(\w+)`", row[2]))) for row in rows}


def shown(text: str) -> dict[str, str]:
    """The figures of a scrape with their kinds, by the names that the page has."""
    found = {}
    for family in text_string_to_metric_families(text):
        kind = str(family.type)
        is_info = kind == "gauge" and family.name.endswith("_info")
        name = f"{family.name}_total" if kind == "counter" else family.name
        found[name] = "info" if is_info else kind
    return {name: kind for name, kind in found.items() if not name.endswith("_created")}


def base_name(name: str) -> str:
    """Of a series, its figure."""
    figure = re.sub(r"_(bucket|count|sum)$", "", name)
    return figure if figure in HISTOGRAMS else name


def expressions_of_rules() -> dict[str, str]:
    """By the name of the alert or of the record."""
    text = RULES.read_text(encoding="utf-8")
    found = {}
    for name, body in re.findall(r"- (?:alert|record): (\S+)\n(.*?)(?=\n +- (?:alert|record):|\Z)", text, re.DOTALL):
        expression = re.search(r"expr: (?:>-\n)?(.*?)(?=\n +(?:for|labels|annotations):|\Z)", body, re.DOTALL)
        assert expression is not None, name
        found[name] = expression[1].partition("\n\n")[0]
    return found


def board() -> Any:
    return json.loads((FOLDER / "board.json").read_text(encoding="utf-8"))


def expressions_of_board() -> dict[str, str]:
    """By the panel's title and the query's letter."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board()["panels"]
        for target in panel.get("targets", ())
    }


def names_in(expression: str) -> set[str]:
    bare = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"\bexecution[_:][a-z_:0-9]+", bare))


def labels_in(expression: str) -> set[str]:
    bare = re.sub(r'"[^"]*"', '""', expression)
    named = re.findall(r'(\w+) *(?:=~|!~|!=|=) *""', bare)
    listed = [
        label for group in re.findall(r"\b(?:by|on|without|ignoring) *\(([^)]*)\)", bare) for label in group.split(",")
    ]
    return {label.strip() for label in (*named, *listed) if label.strip()}


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_has_every_figure_of_a_running_service_and_no_other(scrape: str) -> None:
    assert {name: kind for name, (kind, _) in documented().items()} == shown(scrape)


def test_every_figure_has_the_labels_that_the_page_says(scrape: str) -> None:
    page = documented()
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                assert set(sample.labels) - {"le"} == page[base_name(sample.name)][1], sample.name


def test_every_step_of_the_page_is_measured_and_no_other(scrape: str) -> None:
    steps = (FOLDER / "README.md").read_text(encoding="utf-8").partition("### Steps")[2].partition("\n## ")[0]
    measured = {s.labels["step"] for s in samples(scrape) if s.name == "execution_step_seconds_count"}
    assert set(re.findall(r"^\| `(\w+)` \|", steps, re.MULTILINE)) - measured <= {"published_to_received"}
    assert measured <= set(re.findall(r"^\| `(\w+)` \|", steps, re.MULTILINE))


@needs_promtool
def test_promtool_finds_nothing_to_say_of_a_scrape(scrape: str) -> None:
    assert promtool("check", "metrics", text=scrape) == ""


# --- the rules ------------------------------------------------------------------------------------------------------


@needs_promtool
def test_the_rules_are_valid_and_every_alert_fires_when_it_should() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES.name)
    assert "SUCCESS" in promtool("test", "rules", RULE_TESTS.name)


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    alerts = set(re.findall(r"- alert: (\S+)", RULES.read_text(encoding="utf-8")))
    tests = RULE_TESTS.read_text(encoding="utf-8")
    fired = set(re.findall(r"alertname: (\S+)\n +exp_alerts:\n +- exp_labels", tests))
    assert fired == alerts


def test_every_alert_says_what_is_wrong_how_bad_it_is_and_where_to_read_on() -> None:
    text = RULES.read_text(encoding="utf-8")
    chapters = re.findall(r"^#+ (.+)$", (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8"), re.M)
    anchors = {re.sub(r"[^\w -]", "", chapter).lower().replace(" ", "-") for chapter in chapters}
    for name, body in re.findall(r"- alert: (\S+)\n(.*?)(?=\n +- alert:|\Z)", text, re.DOTALL):
        assert re.search(r"severity: (page|ticket)\}", body), name
        assert re.search(r"summary: \S", body), name
        anchor = re.search(r"runbook_url: docs/operations\.md#([\w-]+)\n?", body)
        assert anchor is not None, name
        assert anchor[1] in anchors, name


@pytest.mark.parametrize("where", ["rules", "board"])
def test_every_figure_and_label_that_is_asked_for_exists(scrape: str, where: str) -> None:
    page, there = documented(), shown(scrape)
    recorded = {name for name in expressions_of_rules() if ":" in name}
    expressions = expressions_of_rules() if where == "rules" else expressions_of_board()
    assert len(expressions) > 20, "they are found"
    for name, expression in expressions.items():
        asked = {base_name(each) for each in names_in(expression)}
        assert asked - recorded - there.keys() == set(), name
        labels = PROMETHEUS_OWN.union(*(page[each][1] for each in asked - recorded))
        assert labels_in(expression) - labels == set(), name


# --- the board ------------------------------------------------------------------------------------------------------


def test_the_board_has_its_rows_and_every_panel_a_place_a_source_and_a_query() -> None:
    panels = board()["panels"]
    assert [p["title"] for p in panels if p["type"] == "row"] == [
        *("Health", "Flow", "Latency", "Risk", "Brokers", "Store", "Fill quality")
    ]
    assert len({p["id"] for p in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["targets"], panel["title"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources), panel["title"]


def test_the_board_chooses_its_source_and_its_instances() -> None:
    variables = {each["name"]: each for each in board()["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert names_in(variables["instance"]["query"]["query"]) == {"execution_build_info"}
    for name, expression in expressions_of_board().items():
        assert ":" in expression.partition("{")[0] or "$instance" in expression, name


@needs_promtool
def test_every_query_of_the_board_can_be_parsed(tmp_path: Path) -> None:
    rules = [
        {"record": f"board:query{number}", "expr": expression}
        for number, expression in enumerate(expressions_of_board().values())
    ]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}), encoding="utf-8")
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path))


@needs_promtool
def test_promtool_would_say_so_if_a_query_were_wrong(tmp_path: Path) -> None:
    path = tmp_path / "queries.yml"
    path.write_text(
        json.dumps({"groups": [{"name": "b", "rules": [{"record": "a:b", "expr": "sum(("}]}]}), encoding="utf-8"
    )
    with pytest.raises(AssertionError, match="parse error"):
        promtool("check", "rules", str(path))
