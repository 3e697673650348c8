"""The tables of the scripts: on a narrow terminal, on a wide one and in a pipe, no id is ever broken."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from rich.console import Console

from scripts.display import WIDE, cell, print_table

ORDER_ID = "ord_5bf37e37c40dcc89e9b89dde"
SIGNAL_ID = "sig_20261122_014636_886941_equity"
SENTENCE = "no running service works this account: look at the broker"
MOMENT = datetime(2024, 11, 24, 10, 30, 10, 125000, tzinfo=UTC)


def printed(width: int, *rows: tuple[object, ...], columns: tuple[str, ...], **how: tuple[str, ...]) -> str:
    console = Console(
        file=io.StringIO(),
        force_terminal=width != WIDE,
        color_system=None,
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
    )
    print_table(console, "Title", columns, rows, **how)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80, 120, WIDE])
def test_an_id_stands_in_one_piece_however_narrow_the_terminal(width: int) -> None:
    row = (MOMENT, SIGNAL_ID, ORDER_ID, "Mock_Paper", "FILLED", SENTENCE)
    columns = ("Time", "Signal", "Order", "Account", "Status", "Reason")
    for prose in ((), ("Reason",)):
        out = printed(width, row, columns=columns, prose=prose)
        for whole in (ORDER_ID, SIGNAL_ID, "Mock_Paper", "FILLED"):
            assert whole in out, out


def test_where_there_is_no_room_the_least_columns_are_left_out_first() -> None:
    columns, row = ("Time", "Order", "Status"), (MOMENT, ORDER_ID, "FILLED")
    assert "2024-11-24" in printed(80, row, columns=columns, dispensable=("Time",))
    narrow = printed(45, row, columns=columns, dispensable=("Time",))
    assert "2024-11-24" not in narrow
    assert "╭" in narrow
    assert all(len(line) <= 45 for line in narrow.splitlines())


def test_sentences_are_wrapped_between_words() -> None:
    out = printed(50, (ORDER_ID, SENTENCE), columns=("Order", "Reason"), prose=("Reason",))
    assert all(len(line) <= 50 for line in out.splitlines())
    assert ORDER_ID in out
    assert set(SENTENCE.split()) <= set(out.split())


def test_too_wide_for_a_table_each_row_is_a_card_with_every_word_that_there_is() -> None:
    out = printed(60, (SIGNAL_ID, ORDER_ID, None, "FILLED"), columns=("Signal", "Order", "Average", "Status"))
    assert out.splitlines() == ["Title", SIGNAL_ID, f"  Order {ORDER_ID}   Status FILLED"]


def test_a_long_last_column_is_left_to_the_terminal() -> None:
    address = f"mongodb://{'x' * 70}"
    rows = (("store", "up", address), ("orders", "DOWN", "1 IN_DOUBT"))
    out = printed(60, *rows, columns=("Part", "State", "Detail"), prose=("Detail",))
    assert out.splitlines() == ["Title", f"store   up    {address}", "orders  DOWN  1 IN_DOUBT"]


def test_times_in_tables_are_whole_seconds() -> None:
    out = printed(WIDE, (MOMENT,), columns=("Time",))
    assert "2024-11-24 10:30:10Z" in out


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("10.0", "10"), ("4", "4"), ("1E+2", "100"), ("0.00", "0"), ("0.00000001", "0.00000001"), ("-2.50", "-2.5")],
)
def test_amounts_have_no_needless_zeros_and_no_exponent(amount: str, shown: str) -> None:
    assert cell(Decimal(amount)) == shown
