"""What a run is told of: fill quality by worked examples, and one page of HTML with everything in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from simulation.__main__ import main
from simulation.orders import OrderReader
from simulation.quality import INSTRUMENT, ORDER_TYPE, STANCE, STRATEGY, order_figures, run_quality
from simulation.report import deepest_fall, drawdowns, evenly, write_report
from simulation.run import Result, simulate_orders
from simulation.settings import settings_of
from simulation.svg import POINTS, TimeChart, nice_ticks, thinned, time_ticks
from simulation.tables import order_quality_table, quality_table
from simulation.targets import read_targets, simulate_targets
from simulation.units import microseconds, parsed_time
from tests.builders import NOW
from tests.simulated.cases import DAILY, D, bars_of, order_rows, simulated
from tests.simulated.test_batch import files
from tests.simulated.test_targets import FLAT, PLAIN, history_of, target_rows

VOID = {"meta", "br", "line", "polyline", "polygon", "rect"}


def ran(bars: list[str], orders: list[str], **settings: Any) -> tuple[Result, Any]:
    known = settings_of(DAILY | settings)
    history = bars_of(known, *bars)
    reader = OrderReader(known, history)
    reader.rows(order_rows(*orders), "orders")
    return simulate_orders(reader.orders(), history, known, engine="plain"), history


# --- fill quality ---------------------------------------------------------------------------------------------------


def test_each_order_is_measured_against_the_last_close_before_it_arrived() -> None:
    ticks = {"model": "ticks", "ticks": 5}
    bars = ["100 100 100 100", "101 101 101 101", "101 101 90 101"]
    result, history = ran(
        bars, ["BUY 10 MARKET at=2", "SELL 10 MARKET at=2", "BUY 5 LIMIT limit=95 at=3"], slippage=ticks
    )
    bought, sold, limit = order_figures(result, history)
    # 101.05 and 100.95 against 100: what the one loses the other has, but for the slippage of both.
    assert (bought.benchmark, bought.slippage_bps, bought.cost, bought.value) == (10_000, 105, D("10.50"), 1000)
    assert (sold.slippage_bps, sold.cost) == (-95, D("-9.50"))
    assert (limit.slippage_bps, limit.cost) == (D(-6) / 101 * 10_000, -30)


def test_a_stop_is_measured_by_its_stop_and_what_came_before_any_trade_by_nothing() -> None:
    result, history = ran(["100 100 80 90"], ["SELL 10 STOP stop=90", "BUY 10 MARKET"])
    stop, first = order_figures(result, history)
    assert (stop.benchmark, stop.slippage_bps) == (9_000, 0)
    assert (first.is_measured, first.value) == (False, 0)
    quality = run_quality(result, history)
    assert quality.whole.slippage.measured == 1
    assert list(order_quality_table(result, quality).rows)[1][:5] == ("o2", None, "100", None, None)


def test_a_bar_without_trading_is_no_price_at_arrival() -> None:
    bars = ["100 100 100 100", "500 500 500 500 0", "600 600 600 600 1000 halted", "100 100 100 100"]
    result, history = ran(bars, ["BUY 10 MARKET at=4"])
    (only,) = order_figures(result, history)
    assert only.slippage_bps == 0


@pytest.mark.parametrize(("action", "close"), [("split,2", 50), ("split,1/2", 200), ("dividend,1.50", D("98.50"))])
def test_a_price_from_before_a_corporate_action_counts_as_it_is_after_it(action: str, close: Any) -> None:
    kind, value = action.split(",")
    known = settings_of(DAILY)
    bars = ["100 100 100 100", f"{close} {close} {close} {close}"]
    result = simulated(bars, ["BUY 10 MARKET at=2"], actions=f"A,2024-01-02,{kind},{value}")
    history = bars_of(known, *bars)
    series = next(iter(history.series.values()))
    if kind == "split":
        over, _, under = value.partition("/")
        series.split_up[1], series.split_down[1] = int(over), int(under or 1)
    else:
        series.dividend[1] = D(value)
    (only,) = order_figures(result, history)
    assert only.slippage_bps == 0


def test_partial_fills_are_measured_together_with_their_share_and_their_time() -> None:
    bars = ["10 10 10 10 100", "10 10 10 10 100", "11 11 11 11 100", "11 11 11 11 100"]
    result, history = ran(bars, ["BUY 40 MARKET tif=GTC at=2"], participation="0.2")
    (only,) = order_figures(result, history)
    assert (only.lots, only.slippage_bps, only.volume) == (40, 500, 200)
    assert (only.to_first_fill, only.to_last_fill) == (0, 86_400_000_000)
    whole = run_quality(result, history).whole
    assert (whole.share_of_volume, whole.seconds_to_last_fill) == (D("0.2"), 86_400)


def test_groups_tell_how_much_of_what_was_asked_was_filled() -> None:
    bars = ["10 10 10 10 100", "10 10 10 10 100"]
    orders = ["BUY 40 MARKET strategy=a at=2", "BUY 10 LIMIT limit=5 strategy=b at=2"]
    result, history = ran(bars, orders, participation="0.2")
    quality = run_quality(result, history)
    a, b = quality.by(STRATEGY)
    assert (a.name, a.orders, a.filled, a.filled_part) == ("a", 1, 1, D("0.5"))
    assert (b.name, b.filled, b.filled_part, b.slippage.median_bps) == ("b", 0, 0, None)
    assert [group.name for group in quality.by(ORDER_TYPE)] == ["LIMIT", "MARKET"]
    assert [group.name for group in quality.by(INSTRUMENT)] == ["A"]
    assert quality.by(STANCE) == ()
    assert (quality.whole.orders, quality.is_complete) == (2, True)
    rows = [dict(zip(quality_table(quality).header, row, strict=True)) for row in quality_table(quality).rows]
    assert [(row["by"], row["name"], row["mean_bps"]) for row in rows[:2]] == [
        ("strategy", "a", "0"),
        ("strategy", "b", None),
    ]
    assert rows[-1]["by"] == "all"
    table = order_quality_table(result, quality)
    (only,) = (dict(zip(table.header, row, strict=True)) for row in table.rows)
    assert (only["order_id"], only["benchmark_price"], only["avg_fill_price"], only["cost"]) == ("o1", "10", "10", "0")
    assert (only["share_of_volume"], only["seconds_to_last_fill"]) == ("0.2", "0")


def test_orders_of_targets_are_told_by_the_stance_of_their_plan() -> None:
    known = settings_of(DAILY | PLAIN)
    history = history_of(known, A=FLAT)
    targets = ["2 A quantity=10 aggressiveness=URGENT", "4 A quantity=0 aggressiveness=EMERGENCY"]
    result = simulate_targets(read_targets(target_rows(*targets), "targets"), history, known)
    quality = run_quality(result, history)
    names = [(group.name, group.orders) for group in quality.by(STANCE)]
    assert names == [("EMERGENCY, reducing", 1), ("URGENT, increasing", 1)]


def test_the_slices_of_an_order_are_measured_by_the_arrival_of_the_first() -> None:
    known = settings_of(DAILY | PLAIN)
    history = history_of(known, A=["10 10 10 10 100", "10 11 10 11 100", "11 12 11 12 100", "12 12 12 12 100"])
    targets = ["2 A quantity=7 aggressiveness=PASSIVE"]
    result = simulate_targets(read_targets(target_rows(*targets), "targets"), history, known)
    first, second = order_figures(result, history)
    assert (first.slippage_bps, second.slippage_bps) == (0, 1000), "what the market did meanwhile is a cost of waiting"
    assert (first.to_last_fill, second.to_last_fill) == (0, 86_400_000_000)


def test_of_very_many_orders_the_first_are_measured_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulation.quality.MOST_MEASURED", 1)
    result, history = ran(["10 10 10 10"] * 3, ["BUY 1 MARKET at=2", "BUY 1 MARKET at=2"])
    quality = run_quality(result, history)
    assert (quality.whole.orders, quality.is_complete) == (1, False)


# --- equity ---------------------------------------------------------------------------------------------------------


def test_the_deepest_drawdown_is_from_the_height_before_it() -> None:
    equity = [D(n) for n in (100, 120, 90, 130, 104, 125)]
    fall = deepest_fall(equity, [1, 2, 3, 4, 5, 6])
    assert (fall.amount, fall.part, fall.begun, fall.at) == (30, D("0.25"), 2, 3)
    assert [each.amount for each in drawdowns(equity)] == [0, 0, 30, 0, 26, 5]
    assert deepest_fall([D(1), D(2)], [1, 2]).amount == 0
    assert deepest_fall([D(0), D(-5)], [1, 2]).part is None, "a part of nothing is no figure"


def test_equity_and_drawdown_begin_with_the_capital_at_the_start(tmp_path: Path) -> None:
    """Bought at 10 on the first day, which closed at 8, and 9 on the second: the loss is of what was there before any bar."""
    text = page_of(tmp_path, ["10 10 8 8", "9 9 9 9"], ["BUY 50 MARKET"], cash=1000)
    assert "It begins at 1,000.00, ends at 950.00, and lies between 900.00 and 1,000.00." in text
    assert "The deepest: 100.00, at 2024-01-02, from its height at 2024-01-01." in text
    assert "100.00 (10.00 %), 2024-01-01 to 2024-01-02" in text
    assert "Equity from 2024-01-01T00:00:00Z to 2024-01-03T00:00:00Z" in text
    assert "<td>2024-01-01T00:00:00Z</td><td>1,000.00</td><td>0.00</td><td>0.00 %</td>" in text


# --- the page -------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags as they are nested; what loads or runs; and the names that titles refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop() == tag, tag


def page_of(tmp_path: Path, bars: list[str], orders: list[str], **settings: Any) -> str:
    result, history = ran(bars, orders, **settings)
    return write_report(result, history, run_quality(result, history), {"seed": "<0>"}, tmp_path / "r.html").read_text()


def test_the_page_loads_and_runs_nothing_and_is_well_formed(tmp_path: Path) -> None:
    hostile = 'x"><script>alert(1)</script>'
    orders = [f"BUY 10 MARKET strategy={hostile.replace(' ', '')} at=2", "SELL 5 MARKET strategy=b at=3"]
    text = page_of(tmp_path, ["10 10 10 10"] * 4, orders, currency="<b>")
    page = Page(text)
    assert page.open == []
    assert [
        tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe", "object", "b", "image", "use")
    ] == []
    assert {name for _, attributes in page.tags for name in attributes} & {"src", "href", "onclick", "onload"} == set()
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text
    policies = [a.get("content") for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "&lt;0&gt;" in text, "the manifest is in it"


def test_every_drawing_has_a_title_a_description_and_a_table(tmp_path: Path) -> None:
    text = page_of(tmp_path, ["10 10 10 10"] * 4, ["BUY 10 MARKET strategy=a at=2", "SELL 5 MARKET strategy=b at=3"])
    page = Page(text)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    drawings = [a for tag, a in page.tags if tag == "svg"]
    assert len(drawings) >= 4
    for attributes in drawings:
        assert attributes["role"] == "img"
        assert set(str(attributes["aria-labelledby"]).split()) <= set(ids)
    assert text.count("<caption>") >= len(drawings)
    for words in ("Equity", "Drawdown", "Slippage by strategy", "Slippage by order type", "Price of A with its fills"):
        assert words in text, words
    assert len(re.findall(r'<polygon class="up"', text)) == len(re.findall(r'<polygon class="down"', text)) == 1
    assert "prefers-color-scheme:dark" in text


def test_a_run_without_fills_or_money_has_a_page_too(tmp_path: Path) -> None:
    text = page_of(tmp_path, ["10 10 10 10"], [])
    assert "Nothing was filled." in text
    assert Page(text).open == []
    losing = page_of(tmp_path, ["10 11 9 11", "9 9 9 9"], ["BUY 10 MARKET"])
    assert "from its height at 2024-01-02" in losing
    assert "Drawdown, in per cent" not in losing, "what began at nothing has no part of it"


def test_the_page_is_written_where_it_is_wanted(tmp_path: Path) -> None:
    assert main([*files(tmp_path), "--format", "csv", "--report", str(tmp_path / "new" / "page.html")]) == 0
    assert "<h2>Manifest</h2>" in (tmp_path / "new" / "page.html").read_text()
    assert not (tmp_path / "out" / "report.html").exists()
    assert '"page.html"' in (tmp_path / "out" / "manifest.json").read_text()


# --- drawings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (9_385_510, 21_037_840, [10_000_000, 12_500_000, 15_000_000, 17_500_000, 20_000_000]),
        (-0.5, 0.7, [-0.5, -0.25, 0, 0.25, 0.5]),
        (5, 5, [4.96, 4.98, 5, 5.02, 5.04]),
    ],
)
def test_ticks_are_round_figures(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(0, 2, ["0.0", "0.5", "1.0", "1.5", "2.0"]), (18e9, 20e9, ["18.0 bn", "18.5 bn", "19.0 bn", "19.5 bn", "20.0 bn"]),
     (-3e7, 0, ["-30 M", "-20 M", "-10 M", "0 M"]), (0, 2e6, ["0", "500,000", "1,000,000", "1,500,000", "2,000,000"])],
)  # fmt: skip
def test_the_words_of_an_axis_fit_beside_it(low: float, high: float, shown: list[str]) -> None:
    text = TimeChart("a", "b", "c", (0, 1), (low, high)).svg()
    assert re.findall(r'text-anchor="end">([^<]+)<', text) == shown
    assert all(len(words) <= 11 for words in shown)


@pytest.mark.parametrize(
    ("until", "words"),
    [
        ("2044-01-01", ["2028", "2031", "2034", "2037", "2040", "2043"]),
        ("2025-07-01", ["2025-04", "2025-05", "2025-06", "2025-07"]),
        ("2025-03-09", 7),
        ("2025-03-04", 7),
    ],
)
def test_times_have_the_words_that_fit_their_span(until: str, words: Any) -> None:
    begin = microseconds(NOW)
    found = time_ticks(begin, parsed_time(until))
    assert ([text for _, text in found] if isinstance(words, list) else len(found)) == words
    assert all(begin <= at <= parsed_time(until) for at, _ in found)
    assert len({text for _, text in found}) == len(found)


def test_a_thinned_line_keeps_its_ends_and_its_extremes() -> None:
    points = [(n, float(n % 7)) for n in range(10_000)]
    points[4321] = (4321, 99.0)
    points[8765] = (8765, -99.0)
    shown = thinned(points)
    assert len(shown) <= POINTS + 2
    assert {points[0], points[-1], points[4321], points[8765]} <= set(shown)
    assert list(shown) == sorted(shown)
    assert thinned(points[:10]) == points[:10]


def test_rows_are_chosen_evenly_with_both_ends() -> None:
    assert evenly(3, 5) == [0, 1, 2]
    chosen = evenly(1000, 5)
    assert (chosen[0], chosen[-1], len(set(chosen))) == (0, 999, 5)
