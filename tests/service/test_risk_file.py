"""`risk.toml`: what it says is what holds, everything wrong with it is said at once, and the example is what is built in."""

from __future__ import annotations

import re
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import OrderType
from execution_service.app.risk_file import differences, effective, load_risk_limits, shown
from execution_service.app.settings.problems import ConfigurationError
from execution_service.core.risk.limits import (
    BUILT_IN,
    OFF,
    LimitSet,
    LimitType,
    Repetition,
    RiskLimits,
    Scope,
    SessionRule,
    StopRule,
)

EXAMPLE = Path(__file__).resolve().parents[2] / "risk.example.toml"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "risk.toml"


def read(path: Path, text: str, **options: Any) -> RiskLimits:
    path.write_text(text, encoding="utf-8")
    return load_risk_limits(path, **options)


def problems(path: Path, text: str, **options: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read(path, text, **options)
    return list(caught.value.problems)


# --- what it says ----------------------------------------------------------------------------------------------------


def test_without_a_file_there_is_what_is_built_in(path: Path) -> None:
    assert load_risk_limits(path) == RiskLimits()


def test_a_file_that_a_setting_names_must_exist(path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"RISK_FILE names .*risk\.toml, which does not exist"):
        load_risk_limits(path, must_exist=True)


def test_every_table_and_every_limit_is_read(path: Path) -> None:
    limits = read(
        path,
        """
        [defaults]
        max_order_quantity = 100
        max_order_value = 25_000.50
        max_position_quantity = 1e3
        max_position_value = "off"
        max_gross_exposure = 5
        max_net_exposure = 6
        max_open_orders = 0
        max_orders_per_minute = 1
        cancel_reserve_pct = 0
        max_orders_per_day = 100
        max_daily_loss = 500
        max_drawdown_pct = 100
        price_collar_pct = 0.5
        reference_price_max_age_seconds = 0.5
        balance_max_age_seconds = 86400
        duplicate_window_seconds = 10
        repeated_executions = { count = 20, window_seconds = 60 }
        max_consecutive_rejections = "off"
        allowed_symbols = ["aapl", " MSFT "]
        allowed_order_types = ["limit"]
        session = "hold"
        max_leverage = 1.5
        check_buying_power = false
        allow_short = false
        min_confidence = 0.75
        max_slippage_pct = 1
        min_stop_distance_pct = 0.1
        max_stop_distance_pct = 10
        stop_out_of_range = "adjust"
        [accounts.acct-1]
        max_order_value = 1
        [accounts.acct-1.symbols.aapl]
        max_order_value = 2
        [strategies."SPX 1-Day Options"]
        max_order_value = 3
        [strategies."SPX 1-Day Options".symbols."BRK.B"]
        max_order_value = 4
        [symbols.aapl]
        max_order_value = "off"
        """,
    )
    spx = "SPX 1-Day Options"
    assert limits.tables == {
        Scope(): LimitSet(
            max_order_quantity=Decimal(100),
            max_order_value=Decimal("25000.50"),
            max_position_quantity=Decimal(1000),
            max_position_value=OFF,
            max_gross_exposure=Decimal(5),
            max_net_exposure=Decimal(6),
            max_open_orders=Decimal(0),
            max_orders_per_minute=Decimal(1),
            cancel_reserve_pct=Decimal(0),
            max_orders_per_day=Decimal(100),
            max_daily_loss=Decimal(500),
            max_drawdown_pct=Decimal(100),
            price_collar_pct=Decimal("0.5"),
            reference_price_max_age_seconds=Decimal("0.5"),
            balance_max_age_seconds=Decimal(86400),
            duplicate_window_seconds=Decimal(10),
            repeated_executions=Repetition(count=20, window_seconds=Decimal(60)),
            max_consecutive_rejections=OFF,
            allowed_symbols=frozenset({"AAPL", "MSFT"}),
            allowed_order_types=frozenset({OrderType.LIMIT}),
            session=SessionRule.HOLD,
            max_leverage=Decimal("1.5"),
            check_buying_power=False,
            allow_short=False,
            min_confidence=Decimal("0.75"),
            max_slippage_pct=Decimal(1),
            min_stop_distance_pct=Decimal("0.1"),
            max_stop_distance_pct=Decimal(10),
            stop_out_of_range=StopRule.ADJUST,
        ),
        Scope(account_id="acct-1"): LimitSet(max_order_value=Decimal(1)),
        Scope(account_id="acct-1", symbol="AAPL"): LimitSet(max_order_value=Decimal(2)),
        Scope(strategy=spx): LimitSet(max_order_value=Decimal(3)),
        Scope(strategy=spx, symbol="BRK.B"): LimitSet(max_order_value=Decimal(4)),
        Scope(symbol="AAPL"): LimitSet(max_order_value=OFF),
    }


def test_numbers_are_exact(path: Path) -> None:
    limits = read(path, "[defaults]\nmax_order_value = 0.1000000000000000055511151231257827\n")
    assert limits.tables[Scope()].max_order_value == Decimal("0.1000000000000000055511151231257827")


def test_the_setting_of_symbols_stands_for_everybody_unless_the_file_says_otherwise(path: Path) -> None:
    limits = read(path, "[defaults]\nallow_short = false\n", symbols=("aapl", "MSFT"))
    assert limits.tables[Scope()] == LimitSet(allowed_symbols=frozenset({"AAPL", "MSFT"}), allow_short=False)
    own = read(path, '[defaults]\nallowed_symbols = "off"\n', symbols=("aapl",))
    assert own.tables[Scope()].allowed_symbols is OFF


# --- the example -----------------------------------------------------------------------------------------------------


def test_the_example_as_it_is_writes_nothing() -> None:
    assert load_risk_limits(EXAMPLE) == RiskLimits()


def test_the_example_has_every_limit_at_the_value_that_is_built_in(path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8").partition("#[accounts.")[0]
    uncommented = re.sub(r"^#(?=\[|[a-z_]+ = )", "", text, flags=re.MULTILINE)
    assert read(path, uncommented).tables == {Scope(): BUILT_IN}


def test_the_examples_tables_can_all_be_used(path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    limits = read(path, re.sub(r"^#(?=\[|[a-z_]+ = )", "", text, flags=re.MULTILINE), accounts=("Mock_Paper",))
    assert {shown(scope) for scope in limits.tables} == {
        "[defaults]",
        "[accounts.Mock_Paper]",
        '[strategies."SPX 1-Day Options"]',
        "[symbols.SPY]",
    }


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_every_problem_is_said_at_once_with_its_place(path: Path) -> None:
    found = problems(
        path,
        """
        deafults = 1
        symbols = 3
        [defaults]
        max_order_valeu = 3
        max_order_value = -1
        session = "closed"
        [accounts.acct1]
        max_open_orders = 1.5
        [accounts.acct-1]
        allow_short = "no"
        symbols = 3
        [strategies.momentum]
        max_leverage = 2
        max_drawdown_pct = 5
        max_daily_loss = "off"
        [strategies.momentum.symbols.AAPL]
        allowed_symbols = ["AAPL"]
        [strategies.other.symbols]
        AAPL = 1
        """,
        accounts=("acct-1",),
    )
    assert found == [
        "risk.toml: deafults is not known; was defaults meant?",
        "risk.toml: symbols must be a table.",
        "risk.toml, [defaults]: max_order_valeu is not known; was max_order_value meant?",
        'risk.toml, [defaults]: max_order_value is -1; allowed: a number above 0, or "off".',
        'risk.toml, [defaults]: session is \'closed\'; allowed: "hold", "refuse" or "ignore".',
        "risk.toml, [accounts.acct1]: there is no such account; was acct-1 meant?",
        'risk.toml, [accounts.acct1]: max_open_orders is 1.5; allowed: a whole number, 0 or more, or "off".',
        "risk.toml, [accounts.acct-1]: allow_short is 'no'; allowed: true or false.",
        "risk.toml, [accounts.acct-1]: symbols must be a table.",
        "risk.toml, [strategies.momentum]: max_leverage compares the account's money, and stands in [defaults] or [accounts.ID] only.",
        "risk.toml, [strategies.momentum]: max_drawdown_pct compares the account's money, and stands in [defaults] or [accounts.ID] only.",
        "risk.toml, [strategies.momentum]: max_daily_loss switched off here switches nothing off: it is the figure of strategy:momentum alone,"
        " and no wider table has that.",
        "risk.toml, [strategies.momentum.symbols.AAPL]: allowed_symbols says nothing about a single symbol; it stands in wider tables.",
        "risk.toml: [strategies.other.symbols.AAPL] must be a table.",
    ]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("max_order_value", ["0", "-1", "nan", "inf", "true", '"10"', '"OFF"', '""', "[1]", "{}", "2025-01-01"]),
        ("max_open_orders", ["-1", "0.5", "nan", "true"]),
        ("max_orders_per_minute", ["0", "1.5"]),
        ("max_consecutive_rejections", ["0"]),
        ("max_drawdown_pct", ["0", "100.1"]),
        ("min_confidence", ["-0.1", "1.1"]),
        ("cancel_reserve_pct", ["-1", "1001"]),
        ("duplicate_window_seconds", ["0", "86401"]),
        (
            "repeated_executions",
            ["5", "{ count = 0, window_seconds = 1 }", "{ count = 1 }", "{ count = 1.5, window_seconds = 1 }"],
        ),
        ("repeated_executions", ["{ count = 1, window_seconds = 0 }", "{ count = 1, window_seconds = 1, more = 2 }"]),
        ("allowed_symbols", ['"AAPL"', "[1]", '[""]', "true"]),
        ("allowed_order_types", ['["GUESS"]', "[1]"]),
        ("session", ['"off"', "true", "1"]),
        ("stop_out_of_range", ['"off"', "1"]),
        ("allow_short", ['"true"', "1", '"off"']),
        ("check_buying_power", ["0"]),
    ],
)
def test_a_value_that_is_none_is_refused_and_says_what_is_allowed(path: Path, key: str, values: list[str]) -> None:
    for value in values:
        (found,) = problems(path, f"[defaults]\n{key} = {value}\n")
        assert found.startswith(f"risk.toml, [defaults]: {key} is ")
        assert "; allowed: " in found


def test_every_limit_has_words_for_what_is_allowed(path: Path) -> None:
    for limit in LimitType:
        (found,) = problems(path, f"[defaults]\n{limit} = {{ odd = 1 }}\n")
        assert found.startswith(f"risk.toml, [defaults]: {limit} is {{'odd': 1}}; allowed: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[defaults", "is not valid TOML"),
        ("[defaults]\nallow_short = true\nallow_short = false\n", "is not valid TOML"),
        ("x = " + "[" * 3000, "risk.toml"),
        ('[accounts.""]\n', "must be printable text"),
        ('[strategies." x"]\n', "must be printable text"),
        ("[strategies]\nx = 1\n", r"\[strategies.x\] must be a table"),
        ("[defaults]\nmin_stop_distance_pct = 5\nmax_stop_distance_pct = 1\n", "no stop could be right"),
        ("[symbols.aapl]\nallow_short = true\n[symbols.AAPL]\nallow_short = false\n", "stands there twice"),
        ("[symbols.AAPL]\nsymbols = 1\n", "symbols is not known"),
    ],
)
def test_a_file_that_says_nothing_sure_is_refused(path: Path, text: str, words: str) -> None:
    assert re.search(words, "; ".join(problems(path, text)))


def test_a_file_that_is_no_text_or_too_large_or_cannot_be_read_is_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="is not UTF-8 text"):
        load_risk_limits(path)
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigurationError, match="is larger than"):
        load_risk_limits(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_risk_limits(path)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
def test_any_text_at_all_is_limits_or_a_list_of_problems(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "risk.toml"
        path.write_text(text, encoding="utf-8")
        try:
            found = load_risk_limits(path)
        except ConfigurationError:
            return
    assert found == RiskLimits()  # nothing that is limits is met by chance


# --- two readings ----------------------------------------------------------------------------------------------------


def test_the_difference_between_two_readings_is_told_line_by_line(path: Path) -> None:
    before = read(
        path,
        """
        [defaults]
        max_order_value = 100
        allow_short = true
        max_open_orders = 5
        [strategies.momentum]
        session = "hold"
        [symbols.AAPL]
        repeated_executions = { count = 5, window_seconds = 60 }
        """,
    )
    after = read(
        path,
        """
        [defaults]
        max_order_value = 250.5
        allow_short = false
        max_open_orders = 5.0
        max_daily_loss = "off"
        [symbols.AAPL]
        repeated_executions = { count = 6, window_seconds = 60 }
        allowed_order_types = ["LIMIT", "MARKET"]
        """,
    )
    assert [str(each) for each in differences(before, after)] == [
        "[defaults] max_order_value: 100 -> 250.5",
        "[defaults] max_daily_loss: (not written) -> off",
        "[defaults] allow_short: true -> false",
        "[strategies.momentum] session: hold -> (not written)",
        "[symbols.AAPL] repeated_executions: 5 in 60 s -> 6 in 60 s",
        "[symbols.AAPL] allowed_order_types: (not written) -> LIMIT, MARKET",
    ]
    assert differences(after, after) == ()


def test_all_limits_that_hold_are_listed(path: Path) -> None:
    rows = list(effective(read(path, "[defaults]\nmax_open_orders = 3\n[symbols.AAPL]\nallow_short = false\n")))
    assert len(rows) == len(LimitType) + 1
    assert ("[defaults]", "max_open_orders", "3") in rows
    assert ("built in", "max_order_value", "1000000") in rows
    assert ("built in", "max_daily_loss", "off") in rows
    assert rows[-1] == ("[symbols.AAPL]", "allow_short", "false")


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        (Scope(), "[defaults]"),
        (Scope(account_id="a_b-1"), "[accounts.a_b-1]"),
        (Scope(strategy='say "x"', symbol="BRK.B"), r'[strategies."say \"x\"".symbols."BRK.B"]'),
        (Scope(account_id="a", symbol="AAPL"), "[accounts.a.symbols.AAPL]"),
        (Scope(symbol="EUR/USD"), '[symbols."EUR/USD"]'),
    ],
)
def test_a_scope_is_shown_as_its_table_is_written(scope: Scope, words: str) -> None:
    assert shown(scope) == words


# --- rates of exchange ----------------------------------------------------------------------------------------------

RATES = """
[rates]
"EUR/USD" = { rate = 1.0825, on = 2026-11-30, max_age_days = 7 }
"""


def test_rates_of_exchange_have_a_day_and_the_age_that_they_may_have(path: Path) -> None:
    limits = read(path, RATES)
    (rate,) = limits.rates
    assert (rate.base, rate.quoted, rate.rate) == ("EUR", "USD", Decimal("1.0825"))
    assert (rate.at, rate.max_age_seconds) == (datetime(2026, 11, 30, tzinfo=UTC), 7 * 86_400)
    assert ("[rates]", "EUR/USD", "1.0825 of 2026-11-30, 7 days") in list(effective(limits))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("rates = 3", "rates must be a table"),
        ('[rates]\n"EURUSD" = { rate = 1, on = 2026-11-30, max_age_days = 7 }', "a pair is two currencies"),
        ('[rates]\n"EUR/EUR" = { rate = 1, on = 2026-11-30, max_age_days = 7 }', "a pair is two currencies"),
        ('[rates]\n"EUR/USD" = 1.08', "allowed: { rate"),
        ('[rates]\n"EUR/USD" = { rate = 1.08, max_age_days = 7 }', "allowed: { rate"),
        ('[rates]\n"EUR/USD" = { rate = 1.08, on = 2026-11-30 }', "allowed: { rate"),
        ('[rates]\n"EUR/USD" = { rate = 0, on = 2026-11-30, max_age_days = 7 }', "allowed: { rate"),
        ('[rates]\n"EUR/USD" = { rate = inf, on = 2026-11-30, max_age_days = 7 }', "allowed: { rate"),
        ('[rates]\n"EUR/USD" = { rate = "off", on = 2026-11-30, max_age_days = 7 }', "allowed: { rate"),
        ('[rates]\n"EUR/USD" = { rate = 1.08, on = "today", max_age_days = 7 }', "allowed: { rate"),
        ('[rates]\n"EUR/USD" = { rate = 1.08, on = 2026-11-30, max_age_days = 0 }', "allowed: { rate"),
        (RATES + '"USD/EUR" = { rate = 0.9, on = 2026-11-30, max_age_days = 7 }', "stand there twice"),
    ],
)
def test_a_rate_that_is_none_is_named(path: Path, content: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(path, content)
    assert any(words in problem for problem in refused.value.problems)


def test_a_rate_that_has_changed_is_a_difference(path: Path) -> None:
    before, after = read(path, RATES), read(path, RATES.replace("1.0825", "1.09"))
    assert [str(each) for each in differences(before, after)] == [
        "[rates] EUR/USD: 1.0825 of 2026-11-30, 7 days -> 1.09 of 2026-11-30, 7 days"
    ]
    assert [str(each) for each in differences(after, read(path, ""))] == [
        "[rates] EUR/USD: 1.09 of 2026-11-30, 7 days -> (not written)"
    ]
