"""The rules by which orders and commands are read, one table for each; random messages are in test_inbound_properties."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import AssetClass, OptionRight, OrderType, Side, Tif
from execution_service.core.messages.inbound import (
    CancelCommand,
    ParsedOrder,
    RefusedCommand,
    Unusable,
    parse_command,
    parse_order,
    parse_order_fields,
)
from execution_service.core.orders.request import Identity, OrderRequest, Purpose, RefusedRequest
from tests.growth import least_processor_seconds

SAMPLES = Path(__file__).parent.parent / "signals_testing"

SPEC: dict[str, object] = {
    "signal_id": "sig_1732450800_5678",
    "order_type": "MARKET",
    "symbol": "SPY",
    "side": "BUY",
    "quantity": 100,
    "account_id": "acc_abc123",
    "strategy_name": "SPX 1-Day Options",
}
UPSTREAM: dict[str, object] = {
    "_id": "65f0c0ffee65f0c0ffee65f1",
    "order_id": "sigA_ORD",
    "signal_id": "sigA",
    "mathematricks_signal_id": "65F0C0FFEE65f0c0ffee65f0",
    "strategy_id": "Trend",
    "account": "IBKR_Paper",
    "timestamp": "2025-11-24 10:30:10.123456",
    "created_at": "2025-11-24 10:30:10.123456",
    "instrument": "AAPL",
    "direction": "LONG",
    "action": "BUY",
    "signal_type": "ENTRY",
    "order_type": "MARKET",
    "price": 150.0,
    "quantity": 10.0,
    "stop_loss": 0.0,
    "take_profit": 0.0,
    "expiry": None,
    "instrument_type": None,
    "underlying": None,
    "exchange": None,
    "leg_index": 0,
    "total_legs": 1,
    "is_multi_leg": False,
    "cerebro_decision": {"risk_metrics": {"beta": 1.5}},
    "environment": "staging",
    "status": "PENDING",
}


def parsed(base: dict[str, object] = SPEC, /, **changes: object) -> ParsedOrder:
    """The base message with fields changed, or left out where the change is Ellipsis."""
    message = {name: value for name, value in {**base, **changes}.items() if value is not ...}
    answer = parse_order(json.dumps(message).encode())
    assert isinstance(answer, ParsedOrder), answer
    assert (answer.problems == ()) == isinstance(answer.request, OrderRequest)
    return answer


def accepted(base: dict[str, object] = SPEC, /, **changes: object) -> OrderRequest:
    answer = parsed(base, **changes)
    assert answer.problems == ()
    assert isinstance(answer.request, OrderRequest)
    return answer.request


def problems(base: dict[str, object] = SPEC, /, **changes: object) -> str:
    answer = parsed(base, **changes)
    assert isinstance(answer.request, RefusedRequest)
    return "; ".join(answer.problems)


def short_id(value: object) -> str:
    """Some values are too long for a test's name."""
    return "huge" if isinstance(value, int) and value.bit_length() > 100 else ascii(value)[:40]


def raw_text(text: str) -> ParsedOrder | Unusable:
    return parse_order(text.encode())


# --- both dialects --------------------------------------------------------------------------------------------------


def test_spec_order_is_read_whole() -> None:
    request = accepted(SPEC, stop_loss=230.0, take_profit="240.00")
    assert request.account_id == "acc_abc123"
    assert request.strategy == "SPX 1-Day Options"
    assert (request.instrument.symbol, request.instrument.asset_class) == ("SPY", AssetClass.STOCK)
    assert (request.side, request.quantity, request.order_type) == (Side.BUY, Decimal(100), OrderType.MARKET)
    assert (request.stop_loss, request.take_profit) == (Decimal("230.0"), Decimal("240.00"))
    assert parsed().identity == Identity(signal_id="sig_1732450800_5678", leg_index=0, purpose=Purpose.ENTRY)


def test_upstream_order_is_read_whole_and_its_nulls_and_zeros_are_absent() -> None:
    request = accepted(UPSTREAM)
    assert (request.account_id, request.strategy, request.instrument.symbol) == ("IBKR_Paper", "Trend", "AAPL")
    assert (request.side, request.direction, request.signal_type) == (Side.BUY, "LONG", "ENTRY")
    assert (request.reference_price, request.limit_price) == (Decimal(150), None)
    assert (request.stop_loss, request.take_profit, request.tif) == (None, None, None)
    assert (request.instrument.expiry, request.instrument.exchange) == (None, None)
    assert request.request_order_id == "sigA_ORD"
    assert request.mathematricks_signal_id == "65f0c0ffee65f0c0ffee65f0"


@pytest.mark.parametrize(
    ("spec", "upstream"),
    [
        ({}, {}),
        ({"side": "SELL"}, {"action": "SELL", "direction": "SHORT"}),
        ({"side": "SELL", "signal_type": "EXIT"}, {"action": "EXIT", "direction": "LONG", "signal_type": "EXIT"}),
        ({"symbol": "aud/cad", "instrument_type": "CASH"}, {"instrument": "AUDCAD", "instrument_type": "FOREX"}),
        ({"order_type": "LIMIT", "limit_price": "187.50"}, {"order_type": "LIMIT", "price": 187.5}),
        ({"order_type": "STOP", "stop_price": 90}, {"order_type": "STOP", "price": 90.0}),
    ],
)
def test_two_dialects_of_one_order_are_the_same_content(spec: dict[str, object], upstream: dict[str, object]) -> None:
    same = {"account": "acc_abc123", "strategy_id": "SPX 1-Day Options", "instrument": "SPY", "quantity": "100.00"}
    one, other = accepted(SPEC, **spec), accepted(UPSTREAM, **{**same, **upstream})
    assert one.content == other.content


def test_different_orders_differ_in_content() -> None:
    variants: list[dict[str, object]] = [
        {},
        {"account_id": "other"},
        {"strategy_name": "other"},
        {"symbol": "QQQ"},
        {"side": "SELL"},
        {"quantity": 101},
        {"order_type": "LIMIT", "price": 5},
        {"order_type": "LIMIT", "price": 6},
        {"entry_signal_id": "x"},
        {"exchange": "ARCA"},
    ]
    assert len({accepted(SPEC, **variant).content for variant in variants}) == len(variants)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"instrument": "QQQ"}, ("symbol 'SPY'", "instrument 'QQQ'")),
        ({"account": "other"}, ("account_id 'acc_abc123'", "account 'other'")),
        ({"strategy_id": "other"}, ("strategy_name", "strategy_id 'other'")),
        ({"action": "SELL"}, ("side 'BUY'", "action 'SELL'")),
        ({"direction": "SHORT"}, ("side 'BUY'", "direction 'SHORT'")),
        ({"action": "EXIT", "direction": "LONG"}, ("side 'BUY'", "direction 'LONG'")),
        ({"instrument_type": "STOCK", "secType": "FUT"}, ("instrument_type 'STOCK'", "secType 'FUT'")),
    ],
)
def test_two_fields_of_one_meaning_that_differ_are_refused_by_name(
    changes: dict[str, object], names: tuple[str, str]
) -> None:
    told = problems(SPEC, **changes)
    assert all(name in told for name in names)
    assert "contradicts" in told


def test_a_contradicted_field_counts_as_unread() -> None:
    refused = parsed(SPEC, account="other", strategy_id="other", instrument="QQQ").request
    assert isinstance(refused, RefusedRequest)
    assert (refused.account_id, refused.strategy, refused.symbol) == (None, None, None)


def test_both_dialects_at_once_are_fine_when_they_agree() -> None:
    request = accepted(
        SPEC, instrument="spy", account="acc_abc123", strategy_id="SPX 1-Day Options", action="BUY", direction="LONG"
    )
    assert request.content == accepted().content


def test_unknown_fields_are_kept_in_raw_only() -> None:
    answer = parsed(SPEC, colour="green")
    assert answer.problems == ()
    assert json.loads(answer.raw)["colour"] == "green"


# --- side and purpose -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "direction", "signal_type", "side", "purpose"),
    [
        ("BUY", "LONG", "ENTRY", Side.BUY, Purpose.ENTRY),
        ("SELL", "SHORT", "EXIT", Side.SELL, Purpose.EXIT),
        ("SELL", "SHORT", "ENTRY", Side.SELL, Purpose.ENTRY),
        ("BUY", "LONG", "EXIT", Side.BUY, Purpose.EXIT),
        ("BUY", None, None, Side.BUY, Purpose.ENTRY),
        ("sell", "short", "scale_out", Side.SELL, Purpose.EXIT),
        ("BUY", "LONG", "SCALE_IN", Side.BUY, Purpose.ENTRY),
        ("BUY", "LONG", "", Side.BUY, Purpose.ENTRY),
        ("ENTRY", "LONG", "ENTRY", Side.BUY, Purpose.ENTRY),
        ("ENTRY", "SHORT", None, Side.SELL, Purpose.ENTRY),
        ("ENTRY", "LONG", "SCALE_IN", Side.BUY, Purpose.ENTRY),
        ("EXIT", "LONG", None, Side.SELL, Purpose.EXIT),
        ("EXIT", "SHORT", "EXIT", Side.BUY, Purpose.EXIT),
        ("EXIT", "LONG", "SCALE_OUT", Side.SELL, Purpose.EXIT),
        (None, "SHORT", "ENTRY", Side.SELL, Purpose.ENTRY),
    ],
)
def test_side_and_purpose_follow_from_action_direction_and_signal_type(
    action: str | None, direction: str | None, signal_type: str | None, side: Side, purpose: Purpose
) -> None:
    answer = parsed(UPSTREAM, action=action, direction=direction, signal_type=signal_type)
    assert answer.problems == ()
    assert (answer.request.side, answer.identity.purpose) == (side, purpose)


@pytest.mark.parametrize(
    ("action", "direction", "signal_type", "words"),
    [
        ("SELL", "LONG", "ENTRY", "action 'SELL' contradicts direction 'LONG'"),
        ("BUY", "SHORT", "EXIT", "action 'BUY' contradicts direction 'SHORT'"),
        ("ENTRY", "LONG", "EXIT", "action 'ENTRY' contradicts signal_type 'EXIT'"),
        ("EXIT", "LONG", "ENTRY", "action 'EXIT' contradicts signal_type 'ENTRY'"),
        ("ENTRY", None, "ENTRY", "the side cannot be told"),
        (None, "LONG", None, "the side cannot be told"),
        (None, "LONG", "EXIT", "the side cannot be told"),
        (None, None, "ENTRY", "side (or action) is missing"),
        ("HOLD", "LONG", "ENTRY", "action must be one of BUY, SELL, ENTRY, EXIT, not 'HOLD'"),
        ("BUY", "UP", "ENTRY", "direction must be one of LONG, SHORT, not 'UP'"),
    ],
)
def test_side_is_never_guessed(action: str | None, direction: str | None, signal_type: str | None, words: str) -> None:
    assert words in problems(UPSTREAM, action=action, direction=direction, signal_type=signal_type)


def test_unreadable_side_is_told_once() -> None:
    assert problems(SPEC, side="HOLD") == "side must be one of BUY, SELL, not 'HOLD'"


def test_refused_contradiction_has_no_side() -> None:
    assert parsed(UPSTREAM, action="SELL").request.side is None


def test_entry_references_are_sorted_unique_and_without_empties() -> None:
    exit_fields: dict[str, object] = {"action": "SELL", "direction": "SHORT", "signal_type": "EXIT"}
    both = accepted(UPSTREAM, **exit_fields, entry_signal_id="zz", entry_signal_ref="aa")
    assert both.entry_refs == ("aa", "zz")
    turned = accepted(UPSTREAM, **exit_fields, entry_signal_id="aa", entry_signal_ref="zz")
    assert turned.content == both.content
    for n in range(20):
        refs = accepted(UPSTREAM, **exit_fields, entry_signal_id=f"b{n}", entry_signal_ref=f"a{n}").entry_refs
        assert refs == (f"a{n}", f"b{n}")
    assert accepted(UPSTREAM, **exit_fields, entry_signal_id="aa", entry_signal_ref="aa").entry_refs == ("aa",)
    assert accepted(UPSTREAM, **exit_fields, entry_signal_id="", entry_signal_ref=None).entry_refs == ()


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("10.0", "10"),
        ('"10.0"', "10"),
        ('" 10 "', "10"),
        ('"+10"', "10"),
        ("0.1", "0.1"),
        ("0.30000000000000004", "0.30000000000000004"),
        ("1e2", "100"),
        ("1E-8", "0.00000001"),
        ("123456789012345678", "123456789012345678"),
        ("100000000000000000000e-3", "100000000000000000"),
        ("0.123456789012345678", "0.123456789012345678"),
        ("1.00000000000000000000000000", "1"),
    ],
)
def test_numbers_are_read_exactly(written: str, value: str) -> None:
    answer = raw_text(json.dumps(SPEC).replace('"quantity": 100', f'"quantity": {written}'))
    assert isinstance(answer, ParsedOrder)
    assert answer.request.quantity == Decimal(value)
    assert answer.problems == ()


@pytest.mark.parametrize(
    "written",
    [
        *(
            "0",
            "-0",
            "0.0",
            "-5",
            '"-5"',
            "true",
            "false",
            "null",
            '""',
            '"ten"',
            '"1_000"',
            '"0x10"',
            '"１０"',
            "[]",
            "{}",
        ),
        *("NaN", "Infinity", "-Infinity", '"NaN"', '"Infinity"', '"sNaN"', "[1]", '"1e"', '"."', '"1,000"', '"1 0"'),
        *(
            "1234567890123456789",
            "0.1234567890123456789",
            "1e18",
            "1e-19",
            "1234567890.0987654321",
            "1." + "0" * 100,
            "1e999999",
            "1e-999999",
            '"1e999999"',
        ),
        *("1e99999999999999999999999", "9" * 5000, "0." + "1" * 100_000, '"' + "9" * 100_000 + '"'),
    ],
    ids=short_id,
)
def test_impossible_quantities_are_refused_at_once(written: str) -> None:
    text = json.dumps(SPEC).replace('"quantity": 100', f'"quantity": {written}')
    assert least_processor_seconds(lambda: raw_text(text)) < 0.5
    answer = raw_text(text)
    assert isinstance(answer, ParsedOrder)
    assert len(answer.problems) == 1
    assert "quantity" in answer.problems[0]
    assert len(answer.problems[0]) < 300
    assert answer.request.quantity is None


@pytest.mark.parametrize("name", ["price", "limit_price", "stop_price", "stop_loss", "take_profit", "multiplier"])
@pytest.mark.parametrize("written", ["NaN", "-1", "true", '"x"', "1e400"])
def test_wrong_prices_are_refused_even_where_the_type_does_not_use_them(name: str, written: str) -> None:
    answer = raw_text(json.dumps(SPEC)[:-1] + f', "{name}": {written}}}')
    assert isinstance(answer, ParsedOrder)
    assert [name in problem for problem in answer.problems] == [True]


def test_not_finite_numbers_elsewhere_become_null_in_raw_and_nothing_else_changes() -> None:
    text = json.dumps(SPEC)[:-1] + r', "m": [NaN, -Infinity, Infinity, "NaN \" Infinity", {"NaN": 1.10}]}'
    answer = raw_text(text)
    assert isinstance(answer, ParsedOrder)
    assert answer.problems == ()
    assert answer.raw.endswith(r', "m": [null, null, null, "NaN \" Infinity", {"NaN": 1.10}]}')
    plain = json.dumps(SPEC, indent=3)
    untouched = raw_text(plain)
    assert isinstance(untouched, ParsedOrder)
    assert untouched.raw == plain


# --- types and prices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "order_type", "limit", "stop"),
    [
        ({"order_type": "MARKET", "price": 0}, OrderType.MARKET, None, None),
        ({"order_type": "market", "price": 5}, OrderType.MARKET, None, None),
        ({"order_type": "MARKET", "limit_price": 5, "stop_price": 4}, OrderType.MARKET, None, None),
        ({"order_type": None}, OrderType.MARKET, None, None),
        ({"order_type": ..., "price": 150.0, "limit_price": 0, "stop_price": None}, OrderType.MARKET, None, None),
        ({"order_type": "LIMIT", "limit_price": 5, "price": 9}, OrderType.LIMIT, "5", None),
        ({"order_type": "LIMIT", "price": 9}, OrderType.LIMIT, "9", None),
        ({"order_type": "STOP", "stop_price": 4, "price": 9}, OrderType.STOP, None, "4"),
        ({"order_type": "STOP", "price": 9, "limit_price": 3}, OrderType.STOP, None, "9"),
        ({"order_type": "STOP_LIMIT", "stop_price": 4, "limit_price": 5}, OrderType.STOP_LIMIT, "5", "4"),
        ({"order_type": "stop-limit", "stop_price": 4, "price": 9}, OrderType.STOP_LIMIT, "9", "4"),
    ],
)
def test_each_type_takes_its_own_prices(
    fields: dict[str, object], order_type: OrderType, limit: str | None, stop: str | None
) -> None:
    request = accepted(SPEC, **fields)
    assert request.order_type is order_type
    assert request.limit_price == (None if limit is None else Decimal(limit))
    assert request.stop_price == (None if stop is None else Decimal(stop))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"order_type": "LIMIT"}, "LIMIT needs limit_price (or price)"),
        ({"order_type": "LIMIT", "price": 0}, "LIMIT needs limit_price (or price)"),
        ({"order_type": "LIMIT", "limit_price": 0, "price": 9}, "limit_price must be greater than zero, not 0"),
        ({"order_type": "STOP"}, "STOP needs stop_price (or price)"),
        ({"order_type": "STOP_LIMIT", "stop_price": 4}, "STOP_LIMIT needs limit_price (or price)"),
        ({"order_type": "STOP_LIMIT", "limit_price": 4, "price": 9}, "STOP_LIMIT needs stop_price"),
        ({"order_type": None, "limit_price": 4}, "order_type is missing, yet limit_price was given"),
        ({"order_type": "", "stop_price": "4"}, "order_type is missing, yet stop_price was given"),
        ({"order_type": "ICEBERG"}, "order_type must be one of MARKET, LIMIT, STOP, STOP_LIMIT, not 'ICEBERG'"),
        ({"order_type": 5}, "order_type must be one of"),
    ],
)
def test_a_type_without_its_price_is_refused(fields: dict[str, object], words: str) -> None:
    assert problems(SPEC, **fields) == words or words in problems(SPEC, **fields)


def test_stop_limit_does_not_use_one_price_twice() -> None:
    assert problems(SPEC, order_type="STOP_LIMIT", price=9) == "STOP_LIMIT needs stop_price"


# --- instruments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "asset_class"),
    [
        (None, AssetClass.STOCK),
        ("STK", AssetClass.STOCK),
        ("equity", AssetClass.STOCK),
        ("ETF", AssetClass.ETF),
        ("FUT", AssetClass.FUTURE),
        ("crypto", AssetClass.CRYPTO),
        ("BOND", AssetClass.BOND),
        ("CFD", AssetClass.CFD),
        ("FUND", AssetClass.FUND),
        ("IND", AssetClass.INDEX),
    ],
)
def test_instrument_types_have_aliases(alias: str | None, asset_class: AssetClass) -> None:
    assert accepted(SPEC, instrument_type=alias).instrument.asset_class is asset_class
    assert accepted(SPEC, secType=alias).instrument.asset_class is asset_class


@pytest.mark.parametrize("written", ["AUDCAD", "AUD/CAD", "aud.cad", "AUD-CAD", "AUD_CAD", "aud cad"])
def test_every_way_to_write_a_currency_pair_is_one_instrument(written: str) -> None:
    assert accepted(SPEC, symbol=written, instrument_type="FX").instrument.key == "AUDCAD|FOREX"


@pytest.mark.parametrize(
    "symbol", ["BRK.B", "M&M", "nifty 50", "BTC-USD", "ES_F", "AUD/CAD", "NSE:INFY", "7203", 7203, "A" * 32]
)
def test_symbols_that_exist_are_taken(symbol: object) -> None:
    assert accepted(SPEC, symbol=symbol).instrument.symbol == str(symbol).upper()


@pytest.mark.parametrize("symbol", ["A" * 33, "SPY;", "S\nY", "ÄÖ", "SPY\u202e", "$SPY", ["SPY"], True, 1.5, "A\x00"])
def test_other_symbols_are_refused(symbol: object) -> None:
    told = problems(SPEC, symbol=symbol)
    assert told.startswith("symbol must be 1 to 32 of letters, digits and . _ - / & : space, not ")
    assert told.isprintable()


def test_missing_fields_are_all_named_at_once() -> None:
    answer = raw_text('{"signal_id": "s", "account": "", "symbol": null}')
    assert isinstance(answer, ParsedOrder)
    assert answer.problems == (
        "account_id (or account) is missing",
        "strategy_name (or strategy_id) is missing",
        "side (or action) is missing",
        "symbol (or instrument) is missing",
        "quantity is missing",
    )


def test_future_carries_expiry_exchange_currency_and_multiplier() -> None:
    instrument = accepted(
        UPSTREAM,
        instrument="GC",
        instrument_type="FUTURE",
        expiry="20251229",
        exchange="comex",
        currency="usd",
        multiplier="100",
        underlying="gold",
    ).instrument
    assert instrument.key == "GC|FUTURE|exchange=COMEX|expiry=20251229|currency=USD"
    assert (instrument.multiplier, instrument.underlying) == (Decimal(100), "GOLD")


def test_expiry_copied_from_another_leg_does_not_make_a_share_another_instrument() -> None:
    share = accepted(UPSTREAM, instrument_type="STOCK", expiry="20251229").instrument
    assert share.key == "AAPL|STOCK"


@pytest.mark.parametrize(
    "expiry", ["20251301", "20250230", "2025-12-29", "2025", "251229", "٢٠٢٥١٢٢٩", 20251229.5, True, "00000101"]
)
def test_impossible_expiry_is_refused(expiry: object) -> None:
    assert problems(SPEC, instrument_type="FUT", expiry=expiry).startswith("expiry must be ")


@pytest.mark.parametrize("expiry", ["202512", "20251229", 20251229, 202512])
def test_expiry_is_a_date_or_a_month(expiry: object) -> None:
    assert accepted(SPEC, instrument_type="FUT", expiry=expiry).instrument.expiry == str(expiry)


@pytest.mark.parametrize(
    ("word", "right"), [("C", OptionRight.CALL), ("put", OptionRight.PUT), ("CALL", OptionRight.CALL)]
)
def test_option_with_strike_right_and_expiry_is_taken(word: str, right: OptionRight) -> None:
    option: dict[str, object] = {"instrument_type": "OPT", "strike": 450.0, "right": word, "expiry": "20251219"}
    instrument = accepted(SPEC, **option).instrument
    assert (instrument.strike, instrument.right, instrument.expiry) == (Decimal(450), right, "20251219")


def test_option_without_its_parts_or_with_legs_is_refused_clearly() -> None:
    told = problems(UPSTREAM, instrument_type="OPTION")
    assert told == "an OPTION needs strike, right and expiry: strike, right, expiry is missing"
    whole: dict[str, object] = {"instrument_type": "OPT", "strike": 450, "right": "C", "expiry": "20251219"}
    assert "legs cannot be executed" in problems(SPEC, **whole, legs=[{"strike": 450}])
    assert accepted(SPEC, **whole, legs=[]).instrument.asset_class is AssetClass.OPTION


def test_legs_are_refused_whatever_else_the_message_says() -> None:
    """SPY without its kind would be bought as a share."""
    assert problems(SPEC, legs=[{"strike": 450}]) == "legs cannot be executed as one order"


@pytest.mark.parametrize("name", ["con_id", "conId"])
@pytest.mark.parametrize(
    ("number", "told"), [(265598, 265598), ("15016062", 15016062), (8314.0, 8314), (0, None), (None, None)]
)
def test_a_contract_number_is_taken_under_either_name(name: str, number: object, told: int | None) -> None:
    assert accepted(SPEC, instrument_type="BOND", **{name: number}).instrument.con_id == told


@pytest.mark.parametrize("number", [-1, 1.5, 2**31, "AAPL", True])
def test_an_impossible_contract_number_is_refused(number: object) -> None:
    assert problems(SPEC, instrument_type="BOND", con_id=number).startswith("con_id must be ")


def test_a_contract_number_stands_for_the_parts_of_an_option_but_not_for_its_kind() -> None:
    option = accepted(SPEC, instrument_type="OPT", con_id=12345).instrument
    assert option.key == "SPY|OPTION|con_id=12345"
    assert "instrument_type is missing, yet con_id was given" in problems(SPEC, con_id=12345)


def test_an_exit_may_name_by_number_what_its_entry_named_by_its_parts() -> None:
    whole: dict[str, object] = {"instrument_type": "OPT", "strike": 450, "right": "C", "expiry": "20251219"}
    by_parts, by_number, by_both, another = (
        accepted(SPEC, **fields).instrument
        for fields in (
            whole,
            {"instrument_type": "OPT", "con_id": 5},
            {**whole, "con_id": 5},
            {**whole, "con_id": 6},
        )
    )
    assert by_parts.could_be(by_number)
    assert by_number.could_be(by_both)
    assert by_both.could_be(by_parts)
    assert not by_both.could_be(another)
    assert not by_number.could_be(accepted(SPEC, symbol="QQQ", **whole).instrument)


def test_trading_class_and_isin_are_facts_of_the_instrument() -> None:
    option: dict[str, object] = {"instrument_type": "OPT", "symbol": "SPX", "strike": 6000, "right": "P"}
    option |= {"expiry": "20251219"}
    weekly = accepted(SPEC, **option, tradingClass="spxw").instrument
    assert weekly == accepted(SPEC, **option, trading_class="SPXW").instrument
    assert weekly.key.endswith("|trading_class=SPXW")
    assert weekly.could_be(accepted(SPEC, **option).instrument)
    assert not weekly.could_be(accepted(SPEC, **option, trading_class="SPX").instrument)
    assert accepted(SPEC, isin="us78462f1030").instrument.isin == "US78462F1030"
    assert "isin must be an ISIN" in problems(SPEC, isin="SPY")
    assert "trading_class" in problems(SPEC, trading_class="SPX", tradingClass="SPXW")


@pytest.mark.parametrize("fact", [{"multiplier": 5000}, {"trading_class": "SIL"}, {"isin": "US78462F1030"}])
def test_an_order_for_another_contract_is_another_order(fact: dict[str, object]) -> None:
    silver: dict[str, object] = {"instrument_type": "FUTURE", "symbol": "SI", "expiry": "202612"}
    assert accepted(SPEC, **silver).content != accepted(SPEC, **silver, **fact).content


@pytest.mark.parametrize(
    "name",
    [
        *("local_symbol", "localSymbol", "lot_size", "LotSize", "cusip", "FIGI", "sec_id", "primary_exchange"),
        *("primaryExchange", "contract_month", "price_magnifier", "Multiplier", "instrument_token", "tradingsymbol"),
        *("expiration", "option_type", "putCall", "strike_price", "secIdType", "underlying_symbol", "contract"),
    ],
)
def test_a_field_that_looks_like_a_fact_of_the_contract_and_is_not_read_is_named(name: str) -> None:
    order = parsed(SPEC, **{name: "XYZ"})
    assert not order.problems
    assert order.warning is not None
    assert f"{name!r} ('XYZ')" in order.warning


def test_what_upstream_sends_besides_is_no_fact_of_the_contract() -> None:
    assert parsed(UPSTREAM).warning is None
    assert parsed(SPEC, commission_currency="USD", contracts=3, expires_at="2026", lot_size=None).warning is None


def test_kind_is_not_guessed_when_only_its_details_are_given() -> None:
    assert "instrument_type is missing, yet expiry was given" in problems(SPEC, symbol="GC", expiry="20251229")
    assert "strike and right belong to an OPTION" in problems(SPEC, instrument_type="STOCK", strike=5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("instrument_type", "WARRANT"),
        ("currency", "DOLLAR"),
        ("currency", 840),
        ("right", "X"),
        ("tif", "FOK"),
        ("product", "BO"),
        ("variety", "special"),
        ("exchange", "N S E"),
        ("timeout_seconds", -1),
        ("timeout_seconds", 1e9),
        ("mathematricks_signal_id", "123"),
        ("order_id", {"a": 1}),
        ("account_id", "a\nb"),
        ("account_id", "a" * 257),
        ("strategy_name", True),
        ("entry_signal_id", ["x"]),
        ("signal_type", {}),
    ],
)
def test_wrong_values_are_refused_by_field_and_value(name: str, value: object) -> None:
    told = problems(SPEC, **{name: value})
    assert f"{name} must be " in told
    assert ", not " in told


def test_handling_instructions_are_read() -> None:
    request = accepted(SPEC, tif="gtc", timeout_seconds="0", product="mis", variety="AMO")
    assert (request.tif, request.product, request.variety) == (Tif.GTC, "MIS", "amo")
    assert accepted(SPEC, variety="extended hours").variety == "extended_hours"
    assert accepted(SPEC, product="short").product == "SHORT"
    assert request.timeout_seconds == Decimal(0)


# --- legs and identity ----------------------------------------------------------------------------------------------


def test_legs_of_a_pair_are_two_identities() -> None:
    second = parsed(UPSTREAM, leg_index=1.0, total_legs="2")
    assert second.problems == ()
    assert second.identity == Identity(signal_id="sigA", leg_index=1)
    assert second.request.total_legs == 2


@pytest.mark.parametrize(
    ("leg_index", "total_legs", "identity"),
    [(2, 2, 2), (1, ..., 1), (-1, 2, 0), (0.5, 2, 0), (True, 2, 0), ("x", 2, 0), (0, 0, 0), (0, "two", 0), (0, 1e9, 0)],
)
def test_impossible_legs_are_refused(leg_index: object, total_legs: object, identity: int) -> None:
    answer = parsed(UPSTREAM, leg_index=leg_index, total_legs=total_legs)
    assert len(answer.problems) == 1
    assert answer.identity.leg_index == identity


@pytest.mark.parametrize(
    ("written", "signal_id"), [(12345, "12345"), (7.0, "7"), ("ünï ©", "ünï ©"), (" a ", " a "), ("x" * 256,) * 2]
)
def test_signal_ids_are_kept_as_they_are(written: object, signal_id: str) -> None:
    assert parsed(SPEC, signal_id=written).identity.signal_id == signal_id


@pytest.mark.parametrize(
    "signal_id", [..., None, "", "  ", "x" * 257, "a\nb", "a\x1b[31m", "\u202eabc", "\ud800", True, 1.5, [], {}, 10**30]
)
def test_message_without_usable_signal_id_is_a_dead_letter(signal_id: object) -> None:
    message = {**SPEC, "signal_id": signal_id}
    if signal_id is ...:
        del message["signal_id"]
    answer = parse_order(json.dumps(message).encode())
    assert isinstance(answer, Unusable)
    assert "signal_id" in answer.reason
    assert answer.reason.isprintable()


def test_refused_order_keeps_what_could_be_read_and_lists_all_that_is_wrong() -> None:
    answer = parsed(UPSTREAM, quantity=-3, order_type="ODD", tif="FOK")
    refused = answer.request
    assert isinstance(refused, RefusedRequest)
    assert [problem.split()[0] for problem in answer.problems] == ["quantity", "order_type", "tif"]
    assert (refused.account_id, refused.strategy, refused.symbol, refused.side) == (
        "IBKR_Paper",
        "Trend",
        "AAPL",
        Side.BUY,
    )
    assert (refused.quantity, refused.order_type, refused.direction) == (None, None, "LONG")
    assert (refused.request_order_id, refused.mathematricks_signal_id) == ("sigA_ORD", "65f0c0ffee65f0c0ffee65f0")


def test_fingerprint_is_that_of_the_text() -> None:
    data = json.dumps({**SPEC, "side": "?"}).encode()
    answer = parse_order(data)
    assert isinstance(answer, ParsedOrder)
    assert isinstance(answer.request, RefusedRequest)
    assert answer.request.fingerprint == hashlib.sha256(data).hexdigest()


# --- the JSON itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"signal_id": "a"', "not JSON"),
        (b'{"signal_id": "a"} {}', "not JSON"),
        (b"[]", "a list, not a JSON object"),
        (b'"text"', "'text', not a JSON object"),
        (b"5", "5, not a JSON object"),
        (b"null", "null, not a JSON object"),
        (b"NaN", "NaN, not a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        (b'\xef\xbb\xbf{"signal_id": "a"}', "byte order mark"),
        (b'{"signal_id": "a", "x": "' + b"y" * 1024 * 1024 + b'"}', "bytes, more than"),
        (b'{"signal_id": "a", "x": ' + b"[" * 101 + b"]" * 101 + b"}", "nested"),
        (b'{"x": ' * 100_000 + b"1" + b"}" * 100_000, "nested"),
        (b"[" * 1_000_000, "nested"),
    ],
    ids=short_id,
)
def test_what_is_no_small_json_object_is_a_dead_letter(data: bytes, words: str) -> None:
    for answer in (parse_order(data), parse_command(data)):
        assert isinstance(answer, Unusable)
        assert words in answer.reason


def test_brackets_in_text_and_many_flat_lists_are_no_depth() -> None:
    answer = parsed(SPEC, note="[" * 500 + '\\"' + "{" * 500, many=[[] for _ in range(500)])
    assert answer.problems == ()


def test_repeated_name_is_refused_whatever_its_values() -> None:
    answer = raw_text(json.dumps(SPEC)[:-1] + ', "quantity": 100}')
    assert isinstance(answer, ParsedOrder)
    assert answer.problems == ("'quantity' stands more than once in the message", "quantity is missing")
    twice = raw_text(json.dumps(SPEC)[:-1] + ', "signal_id": "other"}')
    assert isinstance(twice, Unusable)
    assert "'signal_id' stands more than once" in twice.reason


def test_repeated_name_inside_a_foreign_object_is_no_concern_of_ours() -> None:
    answer = raw_text(json.dumps(SPEC)[:-1] + ', "metrics": {"a": 1, "a": 2}}')
    assert isinstance(answer, ParsedOrder)
    assert answer.problems == ()


def test_the_largest_message_is_read_in_seconds_at_the_most() -> None:
    filler = ",".join(f'"k{n}": [NaN, "a\\"b", {{"x": 1.5}}]' for n in range(24_000))
    data = (json.dumps(SPEC)[:-1] + "," + filler + "}").encode()
    assert 700_000 < len(data) < 2**20
    assert isinstance(parse_order(data), ParsedOrder)
    # What grows with the square of the size takes minutes.
    assert least_processor_seconds(lambda: parse_order(data), times=1) < 10.0


# --- a mapping in place of a message --------------------------------------------------------------------------------


def test_mapping_is_read_by_the_same_rules() -> None:
    answer = parse_order_fields(
        {**SPEC, "quantity": 0.1, "stop_loss": Decimal("230.10"), "at": datetime(2025, 1, 1, tzinfo=UTC)}
    )
    assert isinstance(answer, ParsedOrder)
    assert answer.problems == ()
    assert isinstance(answer.request, OrderRequest)
    assert (answer.request.quantity, answer.request.stop_loss) == (Decimal("0.1"), Decimal("230.10"))
    assert json.loads(answer.raw)["at"] == "2025-01-01 00:00:00+00:00"


@pytest.mark.parametrize(
    "quantity",
    [float("nan"), float("inf"), Decimal("NaN"), Decimal("-Infinity"), True, None, 10**5000, b"5", "x", -1],
    ids=short_id,
)
def test_mapping_with_an_impossible_quantity_is_refused(quantity: object) -> None:
    answer = parse_order_fields({**SPEC, "quantity": quantity})
    assert isinstance(answer, ParsedOrder)
    assert "quantity" in answer.problems[0]
    json.loads(answer.raw, parse_constant=pytest.fail)


def test_mapping_that_contains_itself_is_a_dead_letter() -> None:
    circle: dict[str, object] = {**SPEC}
    circle["self"] = circle
    assert isinstance(parse_order_fields(circle), Unusable)


# --- commands -------------------------------------------------------------------------------------------------------


def command(**fields: object) -> CancelCommand | RefusedCommand | Unusable:
    return parse_command(json.dumps(fields).encode())


def test_cancel_by_order_id_is_read() -> None:
    answer = command(command="CANCEL", order_id="sigA_ORD", reason="closed\nearly", timestamp="2025-11-24T10:30:10")
    assert answer == CancelCommand(
        order_id="sigA_ORD", signal_id=None, leg_index=None, reason="closed early", timestamp="2025-11-24T10:30:10"
    )


def test_cancel_by_signal_and_leg_is_read() -> None:
    answer = command(command="cancel", signal_id="sigA", leg_index=1, reason=None)
    assert answer == CancelCommand(order_id=None, signal_id="sigA", leg_index=1, reason="", timestamp=None)


def test_a_strange_remark_does_not_stop_a_cancel() -> None:
    answer = command(command="CANCEL", order_id="x", reason={"a": 1}, timestamp=5)
    assert isinstance(answer, CancelCommand)
    assert (answer.reason, answer.timestamp) == ("an object", "5")


@pytest.mark.parametrize(
    ("fields", "word", "reason"),
    [
        ({"command": "MODIFY", "order_id": "x"}, "MODIFY", "command 'MODIFY' is not carried out"),
        ({"command": "DROP\x1b[0m"}, "DROP [0m", "is not carried out"),
        ({"order_id": "x"}, "", "command is missing"),
        ({"command": 5}, "5", "command 5 is not carried out"),
        ({"command": "CANCEL"}, "CANCEL", "order_id (or signal_id) is missing"),
        ({"command": "CANCEL", "order_id": "", "signal_id": None}, "CANCEL", "order_id (or signal_id) is missing"),
        ({"command": "CANCEL", "order_id": ["x"]}, "CANCEL", "order_id must be text, not a list"),
        ({"command": "CANCEL", "signal_id": "x", "leg_index": -1}, "CANCEL", "leg_index must be a whole number"),
        ({"command": "CANCEL", "signal_id": "x", "leg_index": True}, "CANCEL", "leg_index must be a number, not true"),
    ],
)
def test_other_commands_are_refused_with_a_reason(fields: dict[str, object], word: str, reason: str) -> None:
    answer = command(**fields)
    assert isinstance(answer, RefusedCommand)
    assert answer.command == word
    assert reason in answer.reason
    assert answer.reason.isprintable()


def test_cancel_with_a_repeated_name_is_refused() -> None:
    answer = parse_command(b'{"command": "CANCEL", "order_id": "a", "order_id": "b"}')
    assert isinstance(answer, RefusedCommand)


# --- the samples ----------------------------------------------------------------------------------------------------


def sample_orders() -> list[tuple[str, str]]:
    found = []
    for path in sorted(SAMPLES.glob("*.json")):
        text = path.read_text(encoding="utf-8").replace("{now}", "1732450800").replace("{entry}", "sig_entry")
        text = text.replace("{december}", "202712")
        content = json.loads(text)
        found += [(path.name, json.dumps(part)) for part in (content if isinstance(content, list) else [content])]
    return found


def test_no_sample_names_a_day_that_passes() -> None:
    dated = [
        path.name
        for path in SAMPLES.glob("*.json")
        if re.search(r'"expiry":\s*"?\d', path.read_text(encoding="utf-8")) is not None
    ]
    assert dated == []


def test_there_are_samples() -> None:
    assert len(sample_orders()) >= 14


@pytest.mark.parametrize(("name", "text"), sample_orders())
def test_every_sample_means_what_its_name_says(name: str, text: str) -> None:
    answer = raw_text(text)
    assert isinstance(answer, ParsedOrder)
    assert (answer.problems != ()) == ("refused" in name), answer.problems
    assert (answer.identity.purpose is Purpose.EXIT) == ("exit" in name)
    if "exit" in name:
        assert isinstance(answer.request, OrderRequest)
        assert "sig_entry" in answer.request.entry_refs
