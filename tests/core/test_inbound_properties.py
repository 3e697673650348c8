"""Reading under random messages: nothing raises, and what is accepted means what the message says."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.base import OrderType, Side
from execution_service.core.messages.fields import MAX_DIGITS, exact_decimal, written
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

FIELD_NAMES = (
    "signal_id leg_index total_legs order_id symbol instrument instrument_type secType side action direction signal_type account_id account "
    "strategy_name strategy_id order_type quantity price limit_price stop_price stop_loss take_profit tif timeout_seconds exchange currency "
    "product variety expiry strike right multiplier underlying legs entry_signal_id entry_signal_ref mathematricks_signal_id command reason"
)
VALUES = (
    "BUY SELL ENTRY EXIT LONG SHORT SCALE_IN SCALE_OUT MARKET LIMIT STOP STOP_LIMIT STOCK FOREX FUTURE OPTION CRYPTO DAY GTC IOC MIS CALL P "
    "AUDCAD AUD/CAD SPY 20251219 202512 USD regular CANCEL MODIFY 1 0 -1 0.5 1e5 65f0c0ffee65f0c0ffee65f0"
)
OWN_FIELDS, WORDS = FIELD_NAMES.split(), VALUES.split()

numbers = st.one_of(
    st.integers(-2, 10**6), st.floats(allow_nan=True, allow_infinity=True), st.decimals(0, 1000, places=2)
)
leaves = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=20), st.sampled_from(WORDS))
anything = st.recursive(
    leaves,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3),
    max_leaves=6,
)
messages = st.dictionaries(st.sampled_from(OWN_FIELDS) | st.text(max_size=8), anything, max_size=30)

amounts = st.integers(1, 10**12).map(lambda n: Decimal(n).scaleb(-6))
names = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=30)
symbols = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._\-/&:]{0,20}", fullmatch=True)


def check(answer: ParsedOrder | Unusable) -> None:
    """What holds for every answer."""
    if isinstance(answer, Unusable):
        assert answer.reason
        assert answer.reason.isprintable()
        return
    assert isinstance(answer.request, OrderRequest if not answer.problems else RefusedRequest)
    assert answer.identity.signal_id.isprintable()
    assert 1 <= len(answer.identity.signal_id) <= 256
    assert answer.identity.order_id
    assert all(problem.isprintable() and len(problem) < 400 for problem in answer.problems)
    json.loads(answer.raw, parse_constant=pytest.fail)
    if isinstance(answer.request, OrderRequest):
        request = answer.request
        assert request.quantity > 0
        assert (request.limit_price is not None) == (request.order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT))
        assert (request.stop_price is not None) == (request.order_type in (OrderType.STOP, OrderType.STOP_LIMIT))
        prices = (
            request.limit_price,
            request.stop_price,
            request.reference_price,
            request.stop_loss,
            request.take_profit,
        )
        assert all(price is None or price > 0 for price in prices)
        assert 0 <= answer.identity.leg_index < request.total_legs


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    check(parse_order(data))
    assert isinstance(parse_command(data), CancelCommand | RefusedCommand | Unusable)


@given(messages)
def test_arbitrary_objects_never_raise(message: dict[str, Any]) -> None:
    data = written({"signal_id": "s", **message}).encode()
    check(parse_order(data))
    command = parse_command(data)
    if isinstance(command, CancelCommand):
        assert command.order_id is not None or command.signal_id is not None
        assert command.reason.isprintable()


@st.composite
def valid_messages(draw: st.DrawFn) -> dict[str, Any]:
    """A message that is an order, in either dialect or a mixture, with numbers written in any permitted way."""

    def number(value: Decimal) -> object:
        return draw(st.sampled_from([value, str(value), format(value, "E"), f" {value:f} "]))

    side = draw(st.sampled_from(Side))
    order_type = draw(st.sampled_from(OrderType))
    message: dict[str, Any] = {
        "signal_id": draw(names),
        draw(st.sampled_from(["account_id", "account"])): draw(names),
        draw(st.sampled_from(["strategy_name", "strategy_id"])): draw(names),
        draw(st.sampled_from(["symbol", "instrument"])): draw(symbols),
        "order_type": order_type.value,
        "quantity": number(draw(amounts)),
        "price": number(draw(amounts)),
    }
    match draw(st.sampled_from(["side", "action", "both", "legacy entry", "legacy exit"])):
        case "side":
            message["side"] = side.value
        case "action":
            message["action"] = side.value.lower()
        case "both":
            message |= {"action": side.value, "direction": "LONG" if side is Side.BUY else "SHORT"}
        case "legacy entry":
            message |= {"action": "ENTRY", "direction": "LONG" if side is Side.BUY else "SHORT"}
        case _:
            message |= {"action": "EXIT", "direction": "SHORT" if side is Side.BUY else "LONG", "signal_type": "EXIT"}
    if order_type is OrderType.STOP_LIMIT:
        message["stop_price"] = number(draw(amounts))
    if draw(st.booleans()):
        message["limit_price"] = number(draw(amounts))
    message["meant side"] = side.value
    return message


@given(valid_messages())
def test_accepted_order_means_what_its_message_says(message: dict[str, Any]) -> None:
    answer = parse_order(written(message).encode())
    check(answer)
    assert isinstance(answer, ParsedOrder)
    request = answer.request
    assert isinstance(request, OrderRequest), answer.problems
    price = Decimal(str(message["price"]).strip())
    limit = Decimal(str(message.get("limit_price", price)).strip())
    assert answer.identity.signal_id == message["signal_id"]
    assert answer.identity.purpose is (Purpose.EXIT if message.get("action") == "EXIT" else Purpose.ENTRY)
    assert request.account_id == message.get("account_id", message.get("account"))
    assert request.strategy == message.get("strategy_name", message.get("strategy_id"))
    assert request.instrument.symbol == str(message.get("symbol", message.get("instrument"))).upper()
    assert request.side == message["meant side"]
    assert request.quantity == Decimal(str(message["quantity"]).strip())
    assert request.order_type == message["order_type"]
    assert request.reference_price == price
    if request.limit_price is not None:
        assert request.limit_price == limit
    if request.order_type is OrderType.STOP:
        assert request.stop_price == price
    if request.order_type is OrderType.STOP_LIMIT:
        assert request.stop_price == Decimal(str(message["stop_price"]).strip())


@given(valid_messages(), st.data())
def test_damaged_messages_never_raise(message: dict[str, Any], data: st.DataObject) -> None:
    whole = bytearray(written(message).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    check(parse_order(bytes(whole)))
    check(parse_order(bytes(whole[: data.draw(st.integers(0, len(whole)))])))


@given(valid_messages(), st.dictionaries(st.sampled_from(OWN_FIELDS), anything, min_size=1, max_size=2))
def test_an_order_with_one_wrong_field_is_refused_or_still_whole(
    message: dict[str, Any], change: dict[str, Any]
) -> None:
    check(parse_order(written({**message, **change}).encode()))


@given(
    amounts,
    amounts,
    symbols,
    st.sampled_from(Side),
    st.sampled_from([OrderType.MARKET, OrderType.LIMIT, OrderType.STOP]),
)
def test_both_dialects_of_any_order_have_one_content(
    quantity: Decimal, price: Decimal, symbol: str, side: Side, order_type: OrderType
) -> None:
    own_price: dict[str, Any] = {}
    if order_type is OrderType.LIMIT:
        own_price["limit_price"] = price
    elif order_type is OrderType.STOP:
        own_price["stop_price"] = str(price)
    spec: dict[str, Any] = {
        "signal_id": "s",
        "account_id": "a",
        "strategy_name": "t",
        "symbol": symbol,
        "side": side.value,
        "quantity": quantity,
    }
    upstream = {
        "signal_id": "s",
        "account": "a",
        "strategy_id": "t",
        "instrument": symbol.lower(),
        "instrument_type": None,
        "action": side.value,
        "direction": "LONG" if side is Side.BUY else "SHORT",
        "signal_type": "ENTRY",
        "order_type": order_type.value,
        "price": price,
        "quantity": format(quantity, "E"),
        "stop_loss": 0.0,
        "leg_index": 0,
        "total_legs": 1,
    }
    one = parse_order(written({**spec, **own_price, "order_type": order_type.value}).encode())
    other = parse_order(written(upstream).encode())
    assert isinstance(one, ParsedOrder)
    assert isinstance(other, ParsedOrder)
    assert isinstance(one.request, OrderRequest), one.problems
    assert isinstance(other.request, OrderRequest), other.problems
    assert one.request.content == other.request.content
    assert one.identity == other.identity == Identity(signal_id="s")


@given(messages)
def test_a_mapping_and_its_json_are_one_order(message: dict[str, Any]) -> None:
    message = {"signal_id": "s", **message}
    by_mapping, by_text = parse_order_fields(message), parse_order(written(message).encode())
    assert by_mapping == by_text


@given(
    st.one_of(
        st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
        st.floats(allow_nan=False, allow_infinity=False).map(repr),
    )
)
def test_a_number_is_exact_or_refused_by_its_digits(text: str) -> None:
    number = Decimal(text)
    digits = "".join(map(str, number.as_tuple().digits)).strip("0")
    fits = not digits or (
        len(digits) <= MAX_DIGITS
        and number.adjusted() < MAX_DIGITS
        and number.adjusted() - len("".join(map(str, number.as_tuple().digits)).lstrip("0").rstrip("0")) + 1
        >= -MAX_DIGITS
    )
    assert exact_decimal(text) == (number if fits else None)
