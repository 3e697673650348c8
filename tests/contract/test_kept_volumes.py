"""Volumes that a broker has told are kept for a while, and so is that it tells none."""

from __future__ import annotations

from decimal import Decimal

from brokers.volumes import KeptVolumes


def test_what_was_told_counts_for_so_many_seconds() -> None:
    now = 0.0
    kept = KeptVolumes(10, lambda: now)
    assert kept.to_ask(["A", "B"]) == ["A", "B"]
    assert kept.of("A") is None
    kept.keep(["A", "B"], {"A": Decimal(5), "C": Decimal(7)})
    assert [kept.of(symbol) for symbol in "ABC"] == [Decimal(5), None, Decimal(7)]
    now = 9.9
    assert kept.to_ask(["A", "B", "C", "D"]) == ["D"]
    now = 10.0
    assert kept.to_ask(["A", "B", "C"]) == ["A", "B", "C"]
