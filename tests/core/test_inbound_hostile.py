"""Hostile messages against a naive second reading: the short cut of `make fuzz`, and proof that its oracle notices what it should."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import Side, Tif
from execution_service.core.messages.inbound import ParsedOrder, Unusable, parse_order
from execution_service.core.orders.request import OrderRequest
from tests.fuzz import oracle
from tests.fuzz.mutations import COMMANDS, Mutator, sample_messages, text_of
from tests.fuzz.oracle import MeaningChanged, check_command, check_order

GOOD = b'{"signal_id":"s","account_id":"a","strategy_name":"t","symbol":"AAPL","side":"BUY","quantity":100,"limit_price":9.5,"order_type":"LIMIT"}'


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_hostile_messages_become_orders_that_mean_what_they_say_or_nothing(seed: int) -> None:
    orders, commands = Mutator(seed), Mutator(seed, list(COMMANDS))
    for _ in range(20):
        check_order(orders.message())
        check_command(commands.message())


def test_a_number_beyond_all_decimals_in_a_field_that_nobody_reads_changes_nothing() -> None:
    beyond = b"1e" + b"9" * 30
    assert check_command(b'{"command":"CANCEL","signal_id":"s","note":' + beyond + b"}") == "cancel"
    assert check_command(b'{"command":"CANCEL","signal_id":"s","leg_index":' + beyond + b"}") != "cancel"
    assert check_order(GOOD[:-1] + b',"note":' + beyond + b"}") == "order"
    assert check_order(GOOD.replace(b'"quantity":100', b'"quantity":' + beyond)) != "order"


def test_mutations_reach_every_outcome() -> None:
    orders, commands = Mutator(1), Mutator(1, list(COMMANDS))
    assert {check_order(orders.message()) for _ in range(300)} == {"order", "refusal", "dead letter"}
    assert {check_command(commands.message()) for _ in range(300)} == {"cancel", "refusal", "dead letter"}


@pytest.mark.parametrize("message", sample_messages(), ids=lambda m: str(m.get("signal_id")))
def test_samples_pass_the_oracle(message: dict[str, Any]) -> None:
    assert check_order(text_of(message).encode()) in ("order", "refusal")


@pytest.mark.parametrize(
    "change",
    [
        {"side": Side.SELL},
        {"quantity": Decimal("100.000000000000000001")},
        {"limit_price": Decimal(9)},
        {"stop_price": Decimal(9)},
        {"account_id": "b"},
        {"strategy": "u"},
        {"tif": Tif.DAY},
        {"take_profit": Decimal(11)},
    ],
    ids=str,
)
def test_the_oracle_notices_an_order_that_means_something_else(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def misread(data: bytes) -> ParsedOrder | Unusable:
        answer = parse_order(data)
        assert isinstance(answer, ParsedOrder)
        assert isinstance(answer.request, OrderRequest)
        return replace(answer, request=replace(answer.request, **change))

    assert check_order(GOOD) == "order"
    monkeypatch.setattr(oracle, "parse_order", misread)
    with pytest.raises(MeaningChanged):
        check_order(GOOD)


@pytest.mark.parametrize(
    "data",
    [
        GOOD.replace(b'"quantity":100', b'"quantity":100,"quantity":1'),
        GOOD.replace(b"100", b"1" * 1000),
        GOOD.replace(b"100", b"1e999999999"),
        GOOD.replace(b"AAPL", b"AAPL\\u0000"),
        GOOD.replace(b"AAPL", b"\\ud800"),
        GOOD.replace(b"AAPL", b"AA\\nPL"),
        GOOD.replace(b'"a"', b'"a\\u202eb"'),
        GOOD.replace(b"100", b"[" * 50 + b"]" * 50),
        GOOD.replace(b"100", "\uff11\uff10".encode().join([b'"', b'"'])),
    ],
    ids=range(9),
)
def test_what_cannot_be_meant_is_refused(data: bytes) -> None:
    assert check_order(data) == "refusal"


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + GOOD,
        b"\x1f\x8b\x08\x00" + GOOD,
        GOOD + b"\x00",
        GOOD + GOOD,
        GOOD.decode().encode("utf-16"),
        GOOD.replace(b"100", b"[" * 101 + b"]" * 101),
        GOOD.replace(b"100", b"[" * 100_000 + b"]" * 100_000),
        GOOD + b" " * 1024 * 1024,
        GOOD.replace(b'"s"', b'"s\\u0000"'),
        GOOD.replace(b'"s"', b'"\\ud800"'),
    ],
    ids=range(10),
)
def test_what_is_no_message_is_a_dead_letter(data: bytes) -> None:
    assert check_order(data) == "dead letter"
