"""How sure a signal says it is: read where messages have it, and nothing made up."""

from __future__ import annotations

from decimal import Decimal

import pytest

from execution_service.core.risk.confidence import confidence_of


@pytest.mark.parametrize(
    ("raw", "confidence"),
    [
        ('{"confidence": 0.85}', "0.85"),
        ('{"event": {"confidence": "0.7"}}', "0.7"),
        ('{"metadata": {"confidence": 1}}', "1"),
        ('{"confidence": 0.9, "event": {"confidence": 0.6}}', "0.6"),
    ],
)
def test_a_confidence_is_read_and_of_several_the_lowest(raw: str, confidence: str) -> None:
    assert confidence_of(raw) == Decimal(confidence)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"confidence": null}',
        '{"confidence": true}',
        '{"confidence": 85}',
        '{"confidence": -0.1}',
        '{"confidence": NaN}',
        '{"confidence": "NaN"}',
        '{"confidence": "sure"}',
        '{"confidence": 1e999999999}',
        '{"confidence": 0.9, "event": {"confidence": "sure"}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_confidence_is_none(raw: str) -> None:
    assert confidence_of(raw) is None
