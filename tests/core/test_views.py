"""The documents that others read: every field that the specification and our contract name, and the money in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from brokers.base import AssetClass, OrderType, Side
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.events import Event, Rejected
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.positions.ledger import LedgerEntry, fold, key_of
from execution_service.core.views.shared import (
    BookedOrder,
    confirmation_fields,
    confirmation_id,
    made_up_signal_id,
    open_position_element,
    position_documents,
    signal_document_id,
    signal_fields,
    trading_order_fields,
)
from tests.builders import (
    NOW,
    accepted,
    at,
    busted,
    cancelled,
    commission_reported,
    filled_by,
    identity,
    instrument,
    order,
    order_in,
    refused_request,
    rejected,
    submit_started,
)

LATER = at(500)
HEX = "0123456789abcdef01234567"


def placed(*events: Event, signal_id: str = "signal-1", leg_index: int = 0, exit_of: str = "", **changes: Any) -> Order:
    """An order at its broker, an exit if it names what it closes."""
    purpose = Purpose.EXIT if exit_of else Purpose.ENTRY
    refs = (exit_of,) if exit_of else ()
    return order(
        of=identity(signal_id, leg_index, purpose),
        events=(submit_started(), accepted(f"B-{signal_id}-{leg_index}-{purpose}"), *events),
        entry_refs=refs,
        **changes,
    )


def confirmation(about: Order, realized: str = "0") -> dict[str, Any]:
    return confirmation_fields(about, broker="MOCK", realized_pnl=Decimal(realized), now=LATER)


def booked(about: Order, realized: str = "0") -> BookedOrder:
    return BookedOrder(about, Decimal(realized))


def shown(*signal: BookedOrder, entries: Sequence[Order] = (), exits: Sequence[BookedOrder] = ()) -> dict[str, Any]:
    return signal_fields(signal, entries, exits, LATER)


def ledger_of(*orders: Order) -> LedgerEntry:
    entry = LedgerEntry(key=key_of(orders[0]), instrument=orders[0].accepted_request.instrument)
    for about in orders:
        entry, _ = fold(entry, about, applied_events(about), {})
    return entry


def positions_of(*orders: Order) -> list[tuple[str, dict[str, Any]]]:
    return [document for _, document in position_documents(ledger_of(*orders))]


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def assert_plain(document: Mapping[str, Any]) -> None:
    """Doubles, whole numbers, texts, dates and null: what every reader's arithmetic takes."""
    for leaf in leaves(document):
        assert leaf is None or isinstance(leaf, float | int | str | datetime), repr(leaf)
        assert not isinstance(leaf, datetime) or leaf.tzinfo is not None


# --- execution_confirmations ----------------------------------------------------------------------------------------


def test_a_filled_order_reads_as_specified() -> None:
    about = placed(
        filled_by("f1", 100, "235.15", time=at(2), commission=Decimal("1.00"), commission_currency="USD"),
        signal_id="sig_1732450800_5678",
        strategy="SPX 1-Day Options",
        account_id="acc_abc123",
        instrument=instrument("SPY"),
        request_order_id="up-1",
    )
    document = confirmation(about)
    specified = {
        "order_id": "B-sig_1732450800_5678-0-ENTRY",
        "signal_id": "sig_1732450800_5678",
        "strategy_name": "SPX 1-Day Options",
        "account_id": "acc_abc123",
        "symbol": "SPY",
        "side": "BUY",
        "quantity": 100.0,
        "filled_quantity": 100.0,
        "order_type": "MARKET",
        "avg_fill_price": 235.15,
        "status": "FILLED",
        "submitted_at": NOW,
        "filled_at": at(2),
        "broker": "MOCK",
        "commission": 1.0,
        "total_value": 23515.0,
        "notes": "Filled in 2 seconds",
    }
    of_the_contract = {
        "leg_index": 0,
        "purpose": "ENTRY",
        "instrument": "SPY",
        "strategy_id": "SPX 1-Day Options",
        "direction": "LONG",
        "timestamp": at(2),
        "reason": None,
        "realized_pnl": 0.0,
        "unrealized_pnl": None,
        "client_order_id": about.client_order_id,
        "request_order_id": "up-1",
        "protection": None,
        "fills": [
            {
                "fill_id": "f1",
                "quantity": 100.0,
                "price": 235.15,
                "commission": 1.0,
                "commission_currency": "USD",
                "time": at(2),
            }
        ],
    }
    assert {name: document[name] for name in specified} == specified
    assert {name: document[name] for name in of_the_contract} == of_the_contract
    others = {"remaining_quantity", "limit_price", "stop_price", "updated_at", "instrument_type", "exchange"}
    others |= {"expiry", "strike", "right", "currency", "multiplier", "price_magnifier", "trading_class"}
    assert set(document) == set(specified) | set(of_the_contract) | others
    assert_plain(document)


def test_the_document_id_follows_from_the_order() -> None:
    about = placed()
    assert confirmation_id(about) == "exec_" + about.order_id.removeprefix("ord_")
    assert confirmation_id(placed(leg_index=1)) != confirmation_id(about)
    assert confirmation_id(placed(exit_of="x")) != confirmation_id(about)


def test_a_rejection_tells_why_and_has_a_timestamp() -> None:
    document = confirmation(order_in(Status.REJECTED))
    assert (document["status"], document["notes"]) == ("REJECTED", "insufficient margin")
    assert document["reason"] == {"code": "BROKER_REJECTED", "message": "insufficient margin"}
    assert (document["avg_fill_price"], document["total_value"], document["realized_pnl"]) == (None, None, None)
    assert (document["filled_quantity"], document["timestamp"], document["filled_at"]) == (0.0, NOW, None)


@pytest.mark.parametrize("status", list(Status))
def test_every_status_is_shown_in_plain_values_with_a_timestamp(status: Status) -> None:
    document = confirmation(order_in(status))
    assert document["status"] == status.value
    assert isinstance(document["timestamp"], datetime)
    assert_plain(document)


def test_a_message_refused_at_the_door_is_shown_with_what_could_be_read() -> None:
    refusal = Rejected(at=NOW, reason=Reason(ReasonCode.INVALID_ORDER, "no quantity"))
    document = confirmation(order(asked=refused_request(), events=(refusal,)))
    assert (document["symbol"], document["quantity"], document["side"]) == ("AAPL", None, None)
    assert document["reason"]["code"] == "INVALID_ORDER"
    assert_plain(document)


def test_the_value_counts_the_multiplier_and_the_price_is_weighted() -> None:
    gold = instrument("GC", asset_class=AssetClass.FUTURE, expiry="202512", multiplier=Decimal(100))
    document = confirmation(
        placed(filled_by("f1", 1, "1950"), filled_by("f2", 3, "1954"), instrument=gold, quantity=4, side=Side.SELL)
    )
    assert (document["avg_fill_price"], document["total_value"]) == (1953.0, 781200.0)
    assert (document["instrument_type"], document["expiry"], document["multiplier"]) == ("FUTURE", "202512", 100.0)
    assert document["direction"] == "SHORT"


def test_limits_stops_and_unplaced_protection_are_told() -> None:
    document = confirmation(
        placed(
            order_type=OrderType.STOP_LIMIT,
            limit_price=Decimal("10.5"),
            stop_price=Decimal("10.4"),
            stop_loss=Decimal(9),
        )
    )
    assert (document["order_type"], document["limit_price"], document["stop_price"]) == ("STOP_LIMIT", 10.5, 10.4)
    assert document["protection"] == {"state": "NOT_PLACED", "stop_loss": 9.0, "take_profit": None}


def test_a_late_commission_is_in_the_total_and_in_its_fill() -> None:
    document = confirmation(placed(filled_by("f1", 100), commission_reported("f1", "1.25")))
    assert document["commission"] == 1.25
    assert document["fills"][0]["commission"] == 1.25


# --- signal_store ---------------------------------------------------------------------------------------------------


def test_an_entry_fills_its_signal_as_upstream_reads_it() -> None:
    about = placed(
        filled_by("f1", 100, "10.00", time=at(3), commission=Decimal(1)),
        request_order_id="up-1",
        instrument=instrument(multiplier=Decimal(5)),
    )
    document = shown(booked(about))
    assert document == {
        "signal_id": "signal-1",
        "order_id": "B-signal-1-0-ENTRY",
        "execution_status": "FILLED",
        "filled_at": at(3),
        "updated_at": LATER,
        "position_status": "OPEN",
        "closed_at": None,
        "execution": {
            "order_id": "up-1",
            "broker_order_id": "B-signal-1-0-ENTRY",
            "client_order_id": about.client_order_id,
            "status": "FILLED",
            "avg_fill_price": 10.0,
            "quantity_filled": 100.0,
            "fills": [
                {
                    "fill_id": "f1",
                    "quantity": 100.0,
                    "price": 10.0,
                    "commission": 1.0,
                    "commission_currency": None,
                    "time": at(3),
                }
            ],
            "filled_at": at(3),
            "commission": 1.0,
            "total_cost_basis": 5000.0,
            "reason": None,
        },
    }
    assert_plain(document)


def test_execution_is_always_set_as_a_whole() -> None:
    for status in Status:
        document = shown(booked(order_in(status)))
        assert isinstance(document["execution"], dict)
        assert not any("." in name for name in document)


def test_a_working_order_does_not_say_filled() -> None:
    document = shown(booked(order_in(Status.PARTIALLY_FILLED)))
    assert document["execution_status"] == "PARTIALLY_FILLED"
    assert document["execution"]["status"] == "PARTIALLY_FILLED"
    assert document["position_status"] == "OPEN"


def test_a_finished_order_that_filled_in_part_says_filled_in_execution_only() -> None:
    document = shown(booked(placed(filled_by("f1", 40), cancelled(40))))
    assert document["execution_status"] == "CANCELLED"
    assert document["execution"]["status"] == "FILLED"
    assert document["execution"]["quantity_filled"] == 40.0


def test_a_rejected_entry_holds_nothing() -> None:
    document = shown(booked(order_in(Status.REJECTED)))
    assert (document["execution_status"], document["execution"]["status"]) == ("REJECTED", "REJECTED")
    assert "position_status" not in document
    assert document["execution"]["reason"]["message"] == "insufficient margin"


# legs


def pair(*, second: Sequence[Event], total: int = 2) -> tuple[Order, Order]:
    one = placed(filled_by("f1", 100, "10", time=at(1)), signal_id="pair", total_legs=total)
    other = placed(
        *second, signal_id="pair", leg_index=1, total_legs=total, side=Side.SELL, instrument=instrument("NVDA")
    )
    return one, other


def test_the_legs_of_a_pair_keep_their_own_data_side_by_side() -> None:
    one, other = pair(second=[filled_by("f9", 100, "20", time=at(2))])
    document = shown(booked(other), booked(one))
    execution = document["execution"]
    assert execution["status"] == "FILLED"
    assert execution["avg_fill_price"] == 10.0
    assert {
        k: (v["instrument"], v["avg_fill_price"], v["fills"][0]["fill_id"]) for k, v in execution["legs"].items()
    } == {
        "0": ("AAPL", 10.0, "f1"),
        "1": ("NVDA", 20.0, "f9"),
    }
    assert document["order_id"] == "B-pair-0-ENTRY"
    assert document["filled_at"] == at(2)
    assert_plain(document)


@pytest.mark.parametrize(
    ("second", "execution_status", "status"),
    [
        ([], "PARTIALLY_FILLED", "PARTIALLY_FILLED"),
        ([filled_by("f9", 40)], "PARTIALLY_FILLED", "PARTIALLY_FILLED"),
        ([rejected()], "PARTIALLY_FILLED", "PARTIALLY_FILLED"),
        ([filled_by("f9", 40), cancelled(40)], "PARTIALLY_FILLED", "FILLED"),
        ([filled_by("f9", 100)], "FILLED", "FILLED"),
    ],
)
def test_a_pair_says_filled_only_when_all_its_legs_are(
    second: Sequence[Event], execution_status: str, status: str
) -> None:
    document = shown(*(booked(o) for o in pair(second=second)))
    assert document["execution_status"] == execution_status
    assert document["execution"]["status"] == status


def test_a_leg_whose_other_leg_has_not_arrived_does_not_say_filled() -> None:
    one, _ = pair(second=[])
    document = shown(booked(one))
    assert document["execution"]["status"] == "PARTIALLY_FILLED"
    assert document["execution_status"] == "PARTIALLY_FILLED"


def test_a_pair_is_held_until_both_legs_are_closed() -> None:
    one, other = pair(second=[filled_by("f9", 100, "20")])
    out_one = placed(filled_by("x1", 100, "11"), signal_id="out", side=Side.SELL, exit_of="pair", total_legs=2)
    out_other = placed(
        filled_by("x2", 100, "19"),
        signal_id="out",
        leg_index=1,
        exit_of="pair",
        total_legs=2,
        instrument=instrument("NVDA"),
    )
    legs = (booked(one), booked(other))
    assert shown(*legs, exits=[booked(out_one, "100")])["position_status"] == "OPEN"
    whole = shown(*legs, exits=[booked(out_one, "100"), booked(out_other, "100")])
    assert (whole["position_status"], whole["pnl_realized"]) == ("CLOSED", 200.0)
    own = shown(booked(out_one, "100"), booked(out_other, "100"), entries=[one, other])
    assert own["pnl"]["gross_pnl"] == 200.0


# exits


def entry_at(price: str, side: Side = Side.BUY, **changes: Any) -> Order:
    return placed(
        filled_by("f1", 10, price, time=at(10), commission=Decimal(2)),
        signal_id="in",
        side=side,
        quantity=10,
        **changes,
    )


def exit_at(price: str, quantity: int = 10, side: Side = Side.SELL, name: str = "out", **changes: Any) -> Order:
    done = filled_by("x1", quantity, price, time=at(70), commission=Decimal("0.5"))
    return placed(done, signal_id=name, side=side, quantity=quantity, exit_of="in", **changes)


def test_an_exit_tells_its_profit_against_the_fills_of_its_entry() -> None:
    document = shown(booked(exit_at("12"), "20"), entries=[entry_at("10")])
    assert document["pnl"] == {
        "gross_pnl": 20.0,
        "commission": 2.5,
        "net_pnl": 17.5,
        "pnl_percent": 17.5,
        "holding_period_seconds": 60.0,
    }
    assert (document["pnl_realized"], document["position_status"]) == (20.0, "CLOSED")
    assert_plain(document)


def test_a_short_sold_at_150_and_bought_back_at_152_is_shown_as_a_loss() -> None:
    entry, leaving = entry_at("150", Side.SELL), exit_at("152", side=Side.BUY)
    document = shown(booked(leaving, "-20"), entries=[entry])
    assert (document["pnl"]["gross_pnl"], document["pnl"]["net_pnl"], document["pnl_realized"]) == (-20.0, -22.5, -20.0)


def test_the_profit_counts_the_multiplier() -> None:
    gold = instrument("GC", multiplier=Decimal(100))
    document = shown(booked(exit_at("12", instrument=gold), "2000"), entries=[entry_at("10", instrument=gold)])
    assert document["pnl"]["gross_pnl"] == 2000.0
    assert document["pnl"]["pnl_percent"] == pytest.approx(19.975)


def test_a_partial_exit_bears_its_share_of_the_entrys_commission() -> None:
    document = shown(booked(exit_at("12", 4), "8"), entries=[entry_at("10")])
    assert (document["pnl"]["gross_pnl"], document["pnl"]["commission"]) == (8.0, 1.3)


def test_a_partial_exit_leaves_the_entry_open_and_profits_add_up() -> None:
    first = booked(exit_at("12", 4, name="out-1"), "8")
    second = booked(exit_at("9", 6, name="out-2"), "-6")
    after_one = shown(booked(entry_at("10")), exits=[first])
    assert (after_one["position_status"], after_one["pnl_realized"], after_one["closed_at"]) == ("OPEN", 8.0, None)
    after_both = shown(booked(entry_at("10")), exits=[first, second])
    assert (after_both["position_status"], after_both["pnl_realized"]) == ("CLOSED", 2.0)
    assert after_both["closed_at"] == at(70)


def test_a_scale_in_is_no_exit() -> None:
    more = placed(filled_by("m1", 4, "11"), signal_id="more", quantity=4)
    assert shown(booked(entry_at("10")), booked(more))["position_status"] == "OPEN"


def test_an_exit_of_another_instrument_closes_nothing() -> None:
    other = booked(exit_at("12", instrument=instrument("MSFT")), "0")
    assert shown(booked(entry_at("10")), exits=[other])["position_status"] == "OPEN"


def test_an_unfilled_exit_leaves_the_entry_as_it_was() -> None:
    refused = placed(rejected(), signal_id="out", side=Side.SELL, exit_of="in")
    document = shown(booked(entry_at("10")), exits=[booked(refused)])
    assert document["position_status"] == "OPEN"
    assert "pnl_realized" not in document


def test_an_annulled_exit_opens_the_entry_again_and_takes_its_profit_back() -> None:
    undone = apply_all(exit_at("12"), [busted("x1")])
    document = shown(booked(entry_at("10")), exits=[booked(undone, "0")])
    assert (document["position_status"], document["pnl_realized"], document["closed_at"]) == ("OPEN", 0.0, None)


def test_an_exit_whose_entry_is_not_ours_tells_the_ledgers_profit() -> None:
    document = shown(booked(exit_at("12"), "33.5"))
    assert document["pnl"]["gross_pnl"] == 33.5
    assert document["pnl"]["net_pnl"] == 33.0
    assert (document["pnl"]["pnl_percent"], document["pnl"]["holding_period_seconds"]) == (None, None)


def test_an_entry_and_its_exit_may_share_one_signal() -> None:
    leaving = exit_at("12", name="in")
    document = shown(booked(entry_at("10")), booked(leaving, "20"))
    assert document["order_id"] == "B-in-0-ENTRY"
    assert document["execution"]["avg_fill_price"] == 10.0
    assert (document["position_status"], document["closed_at"], document["pnl_realized"]) == ("CLOSED", at(70), 20.0)
    assert document["pnl"]["net_pnl"] == 17.5
    part = shown(booked(entry_at("10")), booked(exit_at("12", 4, name="in"), "8"))
    assert (part["position_status"], part["pnl_realized"]) == ("OPEN", 8.0)


def test_an_exit_refused_at_the_door_is_shown_like_any_other() -> None:
    refusal = Rejected(at=NOW, reason=Reason(ReasonCode.INVALID_ORDER, "no quantity"))
    refused = order(of=identity("out", purpose=Purpose.EXIT), asked=refused_request(), events=(refusal,))
    document = shown(booked(refused), entries=[entry_at("10")])
    assert document["execution_status"] == "REJECTED"
    assert document["pnl"]["gross_pnl"] == 0.0
    same_signal = order(of=identity("in", purpose=Purpose.EXIT), asked=refused_request(), events=(refusal,))
    assert shown(booked(entry_at("10")), booked(same_signal))["position_status"] == "OPEN"


def test_a_signals_document_is_known_by_the_messages_id_or_by_one_that_never_changes() -> None:
    assert signal_document_id(placed(mathematricks_signal_id=HEX)) == HEX
    assert signal_document_id(placed()) is None
    assert made_up_signal_id("s") == made_up_signal_id("s")
    assert made_up_signal_id("s") != made_up_signal_id("t")
    assert len(made_up_signal_id("s")) == 24


# --- positions and trading_accounts ---------------------------------------------------------------------------------


def test_an_open_position_reads_as_specified() -> None:
    about = placed(
        filled_by("f1", 100, "235.15", time=at(2)),
        account_id="acc_abc123",
        strategy="SPX 1-Day Options",
        instrument=instrument("SPY"),
    )
    ((name, document),) = positions_of(about)
    assert name.startswith("pos_")
    assert document == {
        "ledger_id": key_of(about).ledger_id,
        "strategy_name": "SPX 1-Day Options",
        "strategy_id": "SPX 1-Day Options",
        "account_id": "acc_abc123",
        "symbol": "SPY",
        "instrument": "SPY",
        "instrument_type": "STOCK",
        "exchange": None,
        "expiry": None,
        "strike": None,
        "right": None,
        "currency": None,
        "multiplier": None,
        "price_magnifier": 1.0,
        "trading_class": None,
        "side": "LONG",
        "quantity": 100.0,
        "avg_entry_price": 235.15,
        "realized_pnl": 0.0,
        "status": "OPEN",
        "opened_at": at(2),
        "closed_at": None,
        "updated_at": at(2),
        "order_ids": ["B-signal-1-0-ENTRY"],
        "order_count": 1,
    }
    assert_plain(document)


def test_a_closed_position_keeps_its_side_price_and_profit() -> None:
    ((_, document),) = positions_of(entry_at("150", Side.SELL), exit_at("152", side=Side.BUY))
    assert (document["side"], document["quantity"], document["status"]) == ("SHORT", 0.0, "CLOSED")
    assert (document["avg_entry_price"], document["realized_pnl"], document["closed_at"]) == (150.0, -20.0, at(70))


def test_a_flip_closes_one_document_and_opens_another() -> None:
    turning = placed(filled_by("x1", 15, "11", time=at(70)), signal_id="turn", side=Side.SELL)
    (first, closed), (second, opened) = positions_of(entry_at("10"), turning)
    assert first != second
    assert (closed["status"], closed["side"], closed["realized_pnl"], closed["quantity"]) == (
        "CLOSED",
        "LONG",
        10.0,
        0.0,
    )
    assert (opened["status"], opened["side"], opened["quantity"], opened["avg_entry_price"]) == (
        "OPEN",
        "SHORT",
        5.0,
        11.0,
    )


def test_at_most_one_document_of_a_key_is_open_and_it_comes_last() -> None:
    orders = [
        placed(filled_by(f"f{n}", 10 + n, "10"), signal_id=f"s{n}", side=Side.SELL if n % 2 else Side.BUY)
        for n in range(4)
    ]
    assert [document["status"] for _, document in positions_of(*orders)][-1] == "OPEN"
    assert [document["status"] for _, document in positions_of(*orders)].count("OPEN") == 1


def test_a_reopened_position_is_the_same_document() -> None:
    in_, out = entry_at("10"), exit_at("12")
    ((name, closed),) = positions_of(in_, out)
    ((again, opened),) = positions_of(in_, apply_all(out, [busted("x1")]))
    assert again == name
    assert (closed["status"], opened["status"]) == ("CLOSED", "OPEN")
    assert (opened["quantity"], opened["avg_entry_price"], opened["realized_pnl"]) == (10.0, 10.0, 0.0)


def test_nothing_held_ever_is_no_document() -> None:
    assert positions_of(placed()) == []


def test_an_element_of_an_accounts_positions_has_every_field_that_is_read() -> None:
    gold = instrument("GC", asset_class=AssetClass.FUTURE, multiplier=Decimal(100))
    element = open_position_element(ledger_of(entry_at("150", Side.SELL, instrument=gold)))
    expected = {
        "strategy_id": "momentum",
        "instrument": "GC",
        "direction": "SHORT",
        "status": "OPEN",
        "quantity": 10.0,
        "avg_entry_price": 150.0,
        "entry_price": 150.0,
        "current_price": 150.0,
        "unrealized_pnl": 0.0,
        "total_cost_basis": 150000.0,
        "last_order_id": "B-in-0-ENTRY",
        "created_at": at(10),
        "updated_at": at(10),
    }
    assert {name: element[name] for name in expected} == expected
    assert_plain(element)


# --- trading_orders -------------------------------------------------------------------------------------------------


def test_upstreams_order_gets_status_and_numbers() -> None:
    about = placed(filled_by("f1", 40, "10"), cancelled(40))
    assert trading_order_fields(about, LATER) == {
        "status": "CANCELLED",
        "broker_order_id": "B-signal-1-0-ENTRY",
        "filled_quantity": 40.0,
        "avg_fill_price": 10.0,
        "updated_at": LATER,
    }
