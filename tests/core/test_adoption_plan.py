"""Which movements an adoption is made of, for which entries, at what cost; what is refused; and that no money is lost or made by any of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import AssetClass, BrokerPosition, OptionRight, Side
from execution_service.core.adoption.plan import plan
from execution_service.core.adoption.records import (
    AdoptionBooks,
    AdoptionRequest,
    Plan,
    Refused,
    adoption_id,
    read_adoption_request,
    records_of,
)
from execution_service.core.adoption.undoing import Recorded, plan_undoing, undoing
from execution_service.core.orders.effects import AppliedEvent, applied_events
from execution_service.core.orders.events import Capped, Rejected
from execution_service.core.orders.exits import exit_allowance
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, Line, fold, key_of
from execution_service.core.reconcile.discrepancies import (
    Discrepancy,
    DiscrepancyKind,
    DiscrepancyState,
    Finding,
    Owner,
)
from execution_service.core.texts.log import log_line
from execution_service.core.texts.orders import order_alert, outcome_line
from execution_service.core.views.record import (
    order_from_document,
    order_to_document,
    plan_from_document,
    plan_to_document,
)
from execution_service.core.views.shared import confirmation_fields
from tests.builders import NOW, accepted, amount, at, filled_by, identity, instrument, order, submit_started

THOROUGH = settings(max_examples=80, deadline=None)
PUT = instrument(
    "XYZ",
    asset_class=AssetClass.OPTION,
    expiry="20261218",
    strike=Decimal(50),
    right=OptionRight.PUT,
    multiplier=Decimal(100),
)
PUT_FIELDS = {"symbol": "XYZ", "instrument_type": "OPTION", "expiry": "20261218", "strike": "50", "right": "P"}


class Portfolio:
    """Records and the ledger that they fold into, as the service would have them."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.entries: dict[LedgerKey, LedgerEntry] = {}
        self.lines: dict[str, dict[int, Line]] = {}
        self._seconds = 0

    def book(self, some: Iterable[Order]) -> None:
        for each in some:
            before = self.orders.get(each.order_id)
            self.orders[each.order_id] = each
            key = key_of(each)
            entry = self.entries.get(key) or LedgerEntry(key=key, instrument=each.accepted_request.instrument)
            story: list[AppliedEvent] = list(applied_events(each, 0 if before is None else before.version))
            known = self.lines.get(each.order_id, {})
            self.entries[key], self.lines[each.order_id] = fold(entry, each, story, known)

    def trade(
        self, signal_id: str, quantity: int | str, price: int | str, *, side: Side = Side.BUY, **changes: Any
    ) -> Order:
        """One order, filled at once."""
        self._seconds += 1
        purpose = Purpose.EXIT if changes.get("entry_refs") else Purpose.ENTRY
        done = filled_by(signal_id, quantity, price, time=at(self._seconds))
        made = order(
            of=identity(signal_id, purpose=purpose),
            quantity=quantity,
            events=(submit_started(), accepted(f"B-{signal_id}"), done),
            received_at=at(self._seconds),
            side=side,
            **changes,
        )
        self.book([made])
        return made

    def books(self, **more: Any) -> AdoptionBooks:
        return AdoptionBooks(ledgers=tuple(self.entries.values()), orders=tuple(self.orders.values()), **more)

    def held(self) -> dict[str, tuple[Decimal, Decimal]]:
        """By symbol and type: quantity and cost of what is open."""
        return {
            "|".join(key.instrument_key.split("|")[:2]): (entry.position.quantity, entry.position.cost)
            for key, entry in self.entries.items()
            if entry.position.is_open
        }

    @property
    def realized(self) -> Decimal:
        return sum((line.realized for lines in self.lines.values() for line in lines.values()), Decimal(0))

    def adopt(self, body: dict[str, Any], command_id: str = "ctl-1", **more: Any) -> tuple[Order, ...]:
        wish = command_body(body)
        made = plan(wish, self.books(**more), at(1000))
        assert isinstance(made, Plan), made
        shown = plan_from_document(plan_to_document(made))
        assert (shown.movements, shown.before, shown.warnings) == (made.movements, made.before, made.warnings)
        self._seconds += 60
        records = records_of(wish, made.movements, command_id=command_id, received_at=at(self._seconds), text="{}")
        assert all(each.status is Status.FILLED for each in records)
        assert [order_from_document(order_to_document(each)) for each in records] == list(records)
        self.book(records)
        for holding in made.holdings:
            entry = next(e for e in self.entries.values() if e.key.instrument_key == holding.holding)
            assert entry.position.quantity == holding.after
        return records

    def may_exit(self, entry: str, symbol: str = "AAPL", side: Side = Side.SELL, **changes: Any) -> Decimal:
        """How much an exit that names the entry would take."""
        wants = order(
            of=identity("probe", purpose=Purpose.EXIT),
            quantity=10**6,
            side=side,
            entry_refs=(entry,),
            **{"instrument": instrument(symbol)} | changes,
        )
        called = [o for o in self.orders.values() if entry in o.names]
        exits = [o for o in self.orders.values() if entry in o.accepted_request.entry_refs]
        allowance = exit_allowance(wants, called, exits, NOW)
        assert allowance is not None
        last = allowance.events[-1]
        if isinstance(last, Rejected):
            return Decimal(0)
        assert isinstance(last, Capped)
        return last.quantity


def body_of(occasion: str, symbol: str = "AAPL", **said: Any) -> dict[str, Any]:
    usual = {"account_id": "acct-1", "strategy": "momentum", "by": "Ann", "reason": "contract note"}
    return usual | {"occasion": occasion, "instrument": {"symbol": symbol}} | said


def command_body(body: dict[str, Any]) -> AdoptionRequest:
    wish = read_adoption_request(body)
    assert isinstance(wish, AdoptionRequest), wish
    return wish


def refusal(portfolio: Portfolio, body: dict[str, Any], **more: Any) -> str:
    wish = read_adoption_request(body)
    made = wish if isinstance(wish, Refused) else plan(wish, portfolio.books(**more), at(1000))
    assert isinstance(made, Refused), made
    return made.words


def words_of(records: Sequence[Order]) -> list[str]:
    return [
        f"{o.accepted_request.side} {o.filled_quantity.normalize():f} {o.symbol} {o.identity.purpose}" for o in records
    ]


# --- what is recorded ----------------------------------------------------------------------------------------------


def test_a_square_off_of_a_part_takes_from_its_only_entry() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    (record,) = portfolio.adopt(body_of("square-off", quantity="4", price="110"))
    assert words_of([record]) == ["SELL 4 AAPL EXIT"]
    assert record.accepted_request.entry_refs == ("a",)
    assert portfolio.held() == {"AAPL|STOCK": (6, 600)}
    assert portfolio.realized == 40
    assert portfolio.may_exit("a") == 6


def test_a_short_that_was_bought_back_by_the_broker_is_closed_by_a_purchase() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100, side=Side.SELL)
    (record,) = portfolio.adopt(body_of("square-off", price="90"))
    assert words_of([record]) == ["BUY 10 AAPL EXIT"]
    assert portfolio.held() == {}
    assert portfolio.realized == 100


def test_all_that_expires_is_taken_from_every_entry() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 1, 3, instrument=PUT)
    portfolio.trade("b", 2, 4, instrument=PUT)
    records = portfolio.adopt(body_of("expiry", instrument=PUT_FIELDS))
    assert [r.accepted_request.entry_refs for r in records] == [("a",), ("b",)]
    assert portfolio.held() == {}
    assert portfolio.realized == -1100
    assert portfolio.may_exit("b", instrument=PUT) == 0


def test_an_option_settled_in_cash_leaves_at_that_price() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 1, 3, instrument=PUT)
    portfolio.adopt(body_of("expiry", instrument=PUT_FIELDS, price="7"))
    assert portfolio.realized == 400


@pytest.mark.parametrize(
    ("right", "side", "occasion", "moved"),
    [
        (OptionRight.PUT, Side.SELL, "assignment", "BUY"),
        (OptionRight.CALL, Side.SELL, "assignment", "SELL"),
        (OptionRight.PUT, Side.BUY, "exercise", "SELL"),
        (OptionRight.CALL, Side.BUY, "exercise", "BUY"),
    ],
)
def test_shares_come_or_go_as_the_option_says(right: OptionRight, side: Side, occasion: str, moved: str) -> None:
    portfolio = Portfolio()
    option = replace(PUT, right=right)
    portfolio.trade("a", 2, 3, side=side, instrument=option)
    body = body_of(occasion, instrument=PUT_FIELDS | {"right": right.value})
    records = portfolio.adopt(body)
    assert words_of(records) == [f"{side.opposite} 2 XYZ EXIT", f"{moved} 200 XYZ ENTRY"]
    sign = 1 if moved == "BUY" else -1
    assert portfolio.held() == {"XYZ|STOCK": (200 * sign, 10000 * sign)}
    assert portfolio.realized == -600 * side.sign
    assert portfolio.may_exit("a", "XYZ", side=Side(moved).opposite) == 200
    other = "exercise" if occasion == "assignment" else "assignment"
    second = Portfolio()
    second.trade("a", 2, 3, side=side, instrument=option)
    assert "not the other" in refusal(second, body | {"occasion": other})


def test_a_call_that_was_covered_closes_the_shares() -> None:
    portfolio = Portfolio()
    call = replace(PUT, right=OptionRight.CALL)
    portfolio.trade("shares", 100, 45, instrument=instrument("XYZ"))
    portfolio.trade("c", 1, 2, side=Side.SELL, instrument=call)
    records = portfolio.adopt(body_of("assignment", instrument=PUT_FIELDS | {"right": "C"}))
    assert words_of(records) == ["BUY 1 XYZ EXIT", "SELL 100 XYZ EXIT"]
    assert portfolio.held() == {}
    assert portfolio.realized == 200 + 500
    assert portfolio.may_exit("shares", "XYZ") == 0
    assert portfolio.may_exit("c", "XYZ", side=Side.BUY) == 0


def test_how_many_shares_a_contract_is_has_to_be_known() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 1, 3, side=Side.SELL, instrument=replace(PUT, multiplier=None))
    body = body_of("assignment", instrument=PUT_FIELDS)
    assert "say how many moved (--new-quantity)" in refusal(portfolio, body)
    portfolio.adopt(body | {"new_quantity": "100", "new_price": "49.5"})
    assert portfolio.held() == {"XYZ|STOCK": (100, 4950)}


def test_after_a_split_an_exit_may_take_the_new_quantity_only() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    portfolio.trade("x", 4, 110, side=Side.SELL, entry_refs=("a",))
    portfolio.adopt(body_of("split", ratio="1:2"))
    assert portfolio.held() == {"AAPL|STOCK": (12, 600)}
    assert portfolio.realized == 40
    assert portfolio.may_exit("a") == 12
    portfolio.adopt(body_of("split", ratio="3:1"), "ctl-2")
    assert portfolio.held() == {"AAPL|STOCK": (4, 600)}
    assert portfolio.may_exit("a") == 4


def test_a_split_that_leaves_a_part_of_a_share_asks_how_many_came() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 5, 100)
    portfolio.trade("b", 2, 100)
    body = body_of("split", ratio="2:1")
    assert "7 at 2:1 would be 3.5: say how many came (--new-quantity, in place of --ratio)" in refusal(portfolio, body)
    portfolio.adopt(body_of("split", new_quantity="3", cash="90"))
    assert portfolio.held() == {"AAPL|STOCK": (3, 610)}
    assert (portfolio.may_exit("a"), portfolio.may_exit("b")) == (2, 1)
    assert portfolio.realized == 0


def test_a_rename_carries_each_entry_along() -> None:
    portfolio = Portfolio()
    nse = instrument("INFY", exchange="NSE", currency="INR")
    portfolio.trade("a", 6, 100, instrument=nse, product="CNC")
    portfolio.trade("b", 4, 110, instrument=nse, product="CNC")
    records = portfolio.adopt(body_of("rename", "INFY", successor={"symbol": "INFYNEW"}))
    assert words_of(records) == [
        "SELL 6 INFY EXIT",
        "SELL 4 INFY EXIT",
        "BUY 6 INFYNEW ENTRY",
        "BUY 4 INFYNEW ENTRY",
    ]
    assert {o.accepted_request.product for o in records} == {"CNC"}
    assert portfolio.held() == {"INFYNEW|STOCK": (10, 1040)}
    assert portfolio.entries[key_of(records[-1])].instrument == replace(nse, symbol="INFYNEW")
    assert (portfolio.may_exit("a", "INFYNEW"), portfolio.may_exit("b", "INFYNEW")) == (6, 4)
    assert (portfolio.may_exit("a", "INFY"), portfolio.may_exit("b", "INFY")) == (0, 0)
    portfolio.adopt(body_of("rename", "INFYNEW", successor={"symbol": "THIRD"}), "ctl-2")
    assert (portfolio.may_exit("a", "INFYNEW"), portfolio.may_exit("a", "THIRD")) == (0, 6)


def test_a_merge_takes_prices_as_they_are_given() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 30, 10)
    body = body_of("merge", ratio="3:1", successor={"symbol": "BIG"}, cash="60")
    portfolio.adopt(body | {"new_price": "40"})
    assert portfolio.held() == {"BIG|STOCK": (10, 400)}
    assert portfolio.realized == 400 + 60 - 300
    second = Portfolio()
    second.trade("a", 30, 10)
    assert "more cash came than it cost" in refusal(second, body | {"cash": "301"})
    short = Portfolio()
    short.trade("a", 30, 10, side=Side.SELL)
    short.adopt(body | {"cash": "-60"})
    assert short.held() == {"BIG|STOCK": (-10, -240)}


def test_a_transfer_out_leaves_at_cost_and_one_in_comes_at_its_price() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 3, "33.33")
    portfolio.trade("b", 1, "10")
    portfolio.adopt(body_of("transfer-out"))
    assert (portfolio.held(), portfolio.realized) == ({}, 0)
    (record,) = portfolio.adopt(body_of("transfer-in", "MSFT", quantity="2", price="7", product="CNC"), "ctl-2")
    assert portfolio.held() == {"MSFT|STOCK": (2, 14)}
    assert record.accepted_request.product == "CNC"
    assert portfolio.may_exit(adoption_id("ctl-2"), "MSFT") == 2


def test_a_sale_by_hand_is_an_exit_and_what_goes_beyond_needs_a_word() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 3, 100)
    body = body_of("trade", side="SELL", quantity="5", price="90")
    assert "would open the other side (--new says that it is meant)" in refusal(portfolio, body)
    records = portfolio.adopt(body | {"is_new": True})
    assert words_of(records) == ["SELL 3 AAPL EXIT", "SELL 2 AAPL ENTRY"]
    assert portfolio.held() == {"AAPL|STOCK": (-2, -180)}


def test_the_entries_that_are_named_are_used_up_in_their_order() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 6, 100, mathematricks_signal_id="ab" * 12)
    portfolio.trade("b", 4, 100)
    body = body_of("square-off", quantity="5", price="90")
    assert refusal(portfolio, body) == "say which entry it belongs to (--entry): a has 6 left, b has 4 left"
    records = portfolio.adopt(body | {"entries": ["b", "ab" * 12]})
    assert [(o.filled_quantity, o.accepted_request.entry_refs) for o in records] == [(4, ("b",)), (1, ("a", "ab" * 12))]
    assert portfolio.may_exit("ab" * 12) == 5
    words = refusal(portfolio, body_of("square-off", quantity="5", price="90", entries=["b"]))
    assert words == "b: no entry that has anything left of it; a has 5 left"
    portfolio.trade("c", 2, 100)
    words = refusal(portfolio, body_of("square-off", quantity="3", price="90", entries=["c"]))
    assert words == "the entry has less than 3 left: c has 2 left"


def test_a_holding_that_no_entry_explains_is_adopted_all_the_same() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    portfolio.trade("x", 4, 100, side=Side.SELL, entry_refs=("somebody else's",))
    (record,) = portfolio.adopt(body_of("square-off", price="100"))
    assert record.filled_quantity == 6
    assert portfolio.held() == {}


def test_a_holding_is_named_by_its_key_too() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 1, 3, instrument=PUT)
    body = body_of("expiry")
    del body["instrument"]
    portfolio.adopt(body | {"holding": PUT.key})
    assert portfolio.held() == {}
    assert "holds no MSFT|STOCK" in refusal(portfolio, body | {"holding": "MSFT|STOCK"})


def test_what_may_be_two_holdings_is_to_be_named_more_fully() -> None:
    portfolio = Portfolio()
    for exchange in ("NSE", "BSE"):
        portfolio.trade(exchange, 1, 3, instrument=instrument("INFY", exchange=exchange))
    words = refusal(portfolio, body_of("square-off", "INFY", price="3"))
    assert words == "INFY|STOCK may be any of INFY|STOCK|exchange=NSE, INFY|STOCK|exchange=BSE: name it more fully"


# --- what others see -------------------------------------------------------------------------------------------------


def texts(record: Order) -> list[str]:
    told = [order_alert(h.before, h.event, h.after, account_name="Main", broker="IBKR") for h in applied_events(record)]
    return [text for text in told if text is not None]


def test_people_read_both_facts_in_one_message_and_one_more_if_it_is_taken_back() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 1, 3, side=Side.SELL, instrument=PUT)
    first, second = portfolio.adopt(
        body_of("assignment", instrument=PUT_FIELDS, reason="<b>note</b>", discrepancy_id=None)
    )
    (text,) = texts(first)
    assert text.splitlines() == [
        "📒 Position Adopted",
        "",
        "Account: Main",
        "Strategy: momentum",
        "What: assignment",
        "Left: BUY 1 XYZ|OPTION|expiry=20261218|strike=50|right=PUT at 0",
        "Came: BUY 100 XYZ|STOCK at 50",
        "By: Ann",
        "Reason: &lt;b&gt;note&lt;/b&gt;",
        f"Adoption: {adoption_id('ctl-1')}",
    ]
    assert texts(second) == []
    without_latest = apply_all(first, undoing(first, command_id="ctl-2", by="Bob", message="no", at=NOW))
    assert [text.partition("\n")[0] for text in texts(without_latest)] == ["📒 Position Adopted", "📒 Adoption Undone"]


def test_nothing_of_it_is_published_and_no_line_is_one_among_others() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    (record,) = portfolio.adopt(body_of("square-off", quantity="4", price="9"))
    story = list(applied_events(apply_all(record, undoing(record, command_id="c", by="B", message="m", at=NOW))))
    assert not any(h.is_published for h in story)
    assert {outcome_line(h.before, h.event, h.after, account_name=None) for h in story} == {None}
    assert [log_line(h.before, h.event, h.after) for h in story[:2]] == [
        ("Position adopted: square-off, SELL 4 AAPL, by Ann: contract note", "position_adopted"),
        ("Booked: 4 @ $9.00", "adoption_booked"),
    ]


def test_its_document_bears_a_mark_and_no_tag() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    (record,) = portfolio.adopt(body_of("square-off", quantity="4", price="9"))
    fields = confirmation_fields(record, broker="IBKR", realized_pnl=Decimal(-364), now=NOW)
    assert (fields["client_order_id"], fields["order_id"], fields["status"]) == (None, None, "FILLED")
    assert fields["adopted"] == {
        "occasion": "square-off",
        "by": "Ann",
        "reason": "contract note",
        "discrepancy_id": None,
        "command_id": "ctl-1",
    }
    assert fields["notes"] == "Adopted (square-off) by Ann: contract note"
    assert "adopted" not in confirmation_fields(order(), broker="IBKR", realized_pnl=Decimal(0), now=NOW)


def test_an_exit_is_told_what_was_adopted_of_its_entry() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    portfolio.adopt(body_of("square-off", quantity="4", price="9"))
    wants = order(of=identity("x", purpose=Purpose.EXIT), quantity=10, side=Side.SELL, entry_refs=("a",))
    allowance = exit_allowance(wants, [portfolio.orders[identity("a").order_id]], list(portfolio.orders.values()), NOW)
    assert allowance is not None
    (event,) = allowance.events
    assert isinstance(event, Capped)
    assert event.message == (
        "reduced from 10 to 6: the entry filled 10, other exits have taken 4, "
        f"of that 4 by square-off ({adoption_id('ctl-1')})"
    )


def test_a_record_moves_the_holding_that_was_shown() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    wish = command_body(body_of("square-off", quantity="4", price="9"))
    made = plan(wish, portfolio.books(), at(1000))
    assert isinstance(made, Plan)
    named_otherwise = [replace(movement, holding="AAPL|STOCK|multiplier=2") for movement in made.movements]
    (record,) = records_of(wish, named_otherwise, command_id="ctl-1", received_at=NOW, text="")
    assert key_of(record).instrument_key == "AAPL|STOCK|multiplier=2"


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantity": "1e99"}, "quantity must be a number of at most 18 digits"),
        ({"quantity": "-4"}, "quantity must be greater than zero"),
        ({"quantity": True}, "quantity must be a number"),
        ({"quantity": 4.5}, "quantity must be a number"),
        ({"price": "Infinity"}, "price must be a number"),
        ({"price": None}, "square-off needs price"),
        ({"price": "-1"}, "price must not be negative"),
        ({"by": "  "}, "by is missing"),
        ({"reason": None}, "reason is missing"),
        ({"reason": "two\nlines"}, "reason must be printable text"),
        ({"occasion": "theft"}, "occasion must be one of"),
        ({"instrument": {"symbol": "AA$"}}, "symbol must be 1 to 32"),
        ({"instrument": {"symbol": "X", "instrument_type": "OPTION"}}, "an OPTION needs strike, right and expiry"),
        ({"instrument": None}, "instrument is missing"),
        ({"ratio": "1:2"}, "ratio does not go with square-off"),
        ({"side": "SELL"}, "side does not go with square-off"),
        ({"successor": {"symbol": "X"}}, "new_symbol does not go with square-off"),
        ({"entries": ["", 4]}, "entries must be a list of signals"),
        ({"happened_at": "yesterday"}, "happened_at must be a time"),
        ({"happened_at": "0001-01-01T00:00:00+14:00"}, "happened_at must be a time"),
        ({"happened_at": (NOW + timedelta(days=9)).isoformat()}, "it cannot have happened at"),
        ({"happened_at": (NOW - timedelta(days=9)).isoformat()}, "it cannot have happened before the position was"),
        ({"quantity": "11"}, "momentum holds 10 AAPL|STOCK, not 11"),
        ({"strategy": "value"}, "value holds no AAPL|STOCK in account acct-1; it is held by momentum 10"),
        ({"entries": ["b"]}, "b: no entry that has anything left of it; a has 10 left"),
        ({"discrepancy_id": "dis_1"}, "there is no discrepancy dis_1 of this account"),
    ],
)
def test_what_is_wrong_with_a_square_off_is_said(changes: dict[str, Any], words: str) -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    assert words in refusal(portfolio, body_of("square-off", quantity="4", price="9") | changes)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (body_of("rename"), "rename needs a successor (new_symbol)"),
        (body_of("rename", successor={"symbol": "AAPL"}), "AAPL|STOCK is the name that it has"),
        (body_of("rename", successor={"symbol": "B"}, quantity="3"), "quantity (it is about all that is held)"),
        (body_of("split"), "split needs ratio or new_quantity"),
        (body_of("split", ratio="2"), "ratio must be OLD:NEW"),
        (body_of("split", ratio="1:0"), "ratio must be OLD:NEW"),
        (body_of("split", ratio="1:2", new_quantity="20"), "ratio beside new_quantity does not go with split"),
        (body_of("trade", price="1", quantity="2"), "trade needs side"),
        (body_of("trade", price="1", quantity="2", side="BUY", entries=["a"]), "leave --entry out"),
        (body_of("transfer-in", price="1"), "transfer-in needs quantity"),
        (body_of("transfer-in", price="1", quantity="1", side="SELL"), "tell it as a trade"),
        (body_of("assignment"), "AAPL|STOCK is no OPTION: there is no assignment of it"),
    ],
)
def test_what_is_wrong_with_others_is_said(body: dict[str, Any], words: str) -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    assert words in refusal(portfolio, body)


def test_an_option_by_its_own_symbol_has_its_shares_named() -> None:
    portfolio = Portfolio()
    option = replace(PUT, symbol="INFY26DEC50PE")
    portfolio.trade("a", 1, 3, side=Side.SELL, instrument=option)
    body = body_of("assignment", instrument=PUT_FIELDS | {"symbol": option.symbol})
    assert "name the shares (--new-symbol)" in refusal(portfolio, body)
    portfolio.adopt(body | {"successor": {"symbol": "INFY", "exchange": "NSE"}})
    assert portfolio.held() == {"INFY|STOCK": (100, 5000)}


# --- what speaks against it ----------------------------------------------------------------------------------------


def warnings(portfolio: Portfolio, body: dict[str, Any], **more: Any) -> tuple[str, ...]:
    made = plan(command_body(body), portfolio.books(**more), at(1000))
    assert isinstance(made, Plan), made
    return made.warnings


def shown(symbol: str, quantity: int) -> BrokerPosition:
    return BrokerPosition(instrument=instrument(symbol), quantity=amount(quantity))


def test_books_that_would_agree_or_come_nearer_are_not_warned_of() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    body = body_of("square-off", quantity="4", price="9")
    assert warnings(portfolio, body, theirs=[shown("AAPL", 6)]) == ()
    assert warnings(portfolio, body, theirs=[shown("AAPL", 0)]) == ()
    (words,) = warnings(portfolio, body, theirs=[shown("AAPL", 10)])
    assert words == "the books would differ by more than now: AAPL|STOCK: ours 6 then, the broker's 10"
    assert warnings(portfolio, body, theirs=[shown("AAPL", 8)]) == ()
    renamed = body_of("rename", successor={"symbol": "NEW"})
    assert warnings(portfolio, renamed, theirs=[shown("NEW", 10)]) == ()
    assert len(warnings(portfolio, renamed, theirs=[shown("NEU", 10)])) == 1


def test_an_order_at_work_in_the_instrument_is_warned_of() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    working = order(of=identity("w"), events=(submit_started(), accepted("B-w")))
    body = body_of("square-off", quantity="4", price="9")
    (words,) = warnings(portfolio, body, at_work=(working,))
    assert "(w) is SUBMITTED" in words
    assert warnings(portfolio, body, at_work=(order(of=identity("p")),)) == ()
    other = order(of=identity("o"), events=(submit_started(),), instrument=instrument("MSFT"))
    assert warnings(portfolio, body, at_work=(other,)) == ()


def discrepancy(instrument_key: str, **changes: Any) -> Discrepancy:
    finding = Finding(
        kind=DiscrepancyKind.POSITION_DIFFERS, subject=instrument_key, ours="10", theirs="6", instrument=instrument_key
    )
    usual = Discrepancy(
        account_id="acct-1",
        finding=finding,
        opened_at=NOW,
        updated_at=NOW,
        owner=Owner.OPERATOR,
        next_step="look",
    )
    return replace(usual, **changes)


def test_a_discrepancy_is_closed_by_one_adoption_about_its_instrument() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    portfolio.trade("m", 10, 100, instrument=instrument("MSFT"))
    row = discrepancy("AAPL|STOCK")
    body = body_of("square-off", quantity="4", price="9", discrepancy_id=row.discrepancy_id)
    assert warnings(portfolio, body, discrepancy=row) == ()
    (words,) = warnings(portfolio, body, discrepancy=row, closing_it=("adopt-1",))
    assert words.endswith("is to be closed by adopt-1 already")
    about = discrepancy("MSFT|STOCK")
    assert "is about MSFT|STOCK" in refusal(portfolio, body, discrepancy=about)
    assert "is closed" in refusal(portfolio, body, discrepancy=replace(row, state=DiscrepancyState.CLOSED))
    assert "no discrepancy" in refusal(portfolio, body, discrepancy=replace(row, account_id="another"))


# --- taking one back ------------------------------------------------------------------------------------------------


def undone(portfolio: Portfolio, records: Sequence[Order], **more: Any) -> Plan | Refused:
    return plan_undoing([Recorded(o, portfolio.lines[o.order_id]) for o in records], portfolio.books(**more), at(1000))


@pytest.mark.parametrize(
    "body",
    [
        body_of("square-off", quantity="4", price="110"),
        body_of("rename", successor={"symbol": "NEW"}),
        body_of("split", ratio="1:3"),
        body_of("split", new_quantity="5", cash="7"),
        body_of("merge", ratio="1:1", successor={"symbol": "NEW"}, new_price="77", cash="2"),
        body_of("transfer-out"),
        body_of("trade", side="SELL", quantity="15", price="9", is_new=True),
    ],
    ids=lambda body: body["occasion"],
)
def test_what_is_taken_back_leaves_everything_as_it_was(body: dict[str, Any]) -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, "33.33")
    portfolio.trade("x", 1, 40, side=Side.SELL, entry_refs=("a",))
    before, realized, left = portfolio.held(), portfolio.realized, portfolio.may_exit("a")
    records = portfolio.adopt(body)
    made = undone(portfolio, records)
    assert isinstance(made, Plan), made
    portfolio.book(
        apply_all(o, undoing(o, command_id="ctl-9", by="Bob", message="wrong", at=at(500))) for o in reversed(records)
    )
    assert (portfolio.held(), portfolio.realized, portfolio.may_exit("a")) == (before, realized, left)
    assert {portfolio.orders[o.order_id].status for o in records} == {Status.CANCELLED}
    again = [undoing(portfolio.orders[o.order_id], command_id="ctl-10", by="B", message="m", at=NOW) for o in records]
    assert again == [()] * len(records)


def test_what_was_traded_since_is_not_taken_back() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    records = portfolio.adopt(body_of("rename", successor={"symbol": "NEW"}))
    portfolio.trade("x", 3, 100, side=Side.SELL, entry_refs=("a",), instrument=instrument("NEW"))
    made = undone(portfolio, records)
    assert isinstance(made, Refused)
    assert made.words.startswith("10 NEW|STOCK came by it and only 7 is left: it has been traded since")


def test_of_several_adoptions_the_last_is_taken_back_first() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 10, 100)
    first = portfolio.adopt(body_of("square-off", quantity="4", price="100"))
    second = portfolio.adopt(body_of("split", ratio="1:2"), "ctl-2")
    made = undone(portfolio, first)
    assert isinstance(made, Refused)
    assert made.words == f"{adoption_id('ctl-2')} came after it and counts on it: take that back first"
    assert isinstance(undone(portfolio, second), Plan)
    portfolio.book(apply_all(o, undoing(o, command_id="c", by="B", message="m", at=at(500))) for o in reversed(second))
    assert isinstance(undone(portfolio, first), Plan)


# --- money ----------------------------------------------------------------------------------------------------------

PRICES = st.decimals("0.0001", 100000, places=4).map(lambda d: str(d.normalize()))


@THOROUGH
@given(
    st.lists(st.tuples(st.integers(1, 1000), PRICES), min_size=1, max_size=4),
    st.sampled_from([Side.BUY, Side.SELL]),
    st.sampled_from(["1:1", "1:2", "1:3", "2:3", "1:7"]),
    st.integers(0, 999),
)
def test_no_conversion_loses_or_makes_money(trades: list[tuple[int, str]], side: Side, ratio: str, taken: int) -> None:
    portfolio = Portfolio()
    for number, (quantity, price) in enumerate(trades):
        portfolio.trade(f"e{number}", quantity, price, side=side)
    first = trades[0][0]
    if 0 < taken < first:
        portfolio.trade("x", taken, 7, side=side.opposite, entry_refs=("e0",))
    held, cost = portfolio.held()["AAPL|STOCK"]
    realized = portfolio.realized
    total = abs(held) * int(ratio[2]) / int(ratio[0])
    said = {"ratio": ratio} if total == int(total) else {"new_quantity": str(int(total))}
    portfolio.adopt(body_of("merge", successor={"symbol": "NEW"}, **said))
    assert portfolio.realized == realized
    (quantity, carried) = portfolio.held()["NEW|STOCK"]
    assert carried == cost
    assert abs(quantity) == int(total)
    lefts = [portfolio.may_exit(f"e{n}", "NEW", side=side.opposite) for n in range(len(trades))]
    assert sum(lefts) == int(total)


@THOROUGH
@given(st.lists(st.tuples(st.decimals("0.001", 100, places=3), PRICES), min_size=1, max_size=4), st.booleans())
def test_coins_in_parts_leave_at_cost_too(trades: list[tuple[Decimal, str]], is_split: bool) -> None:
    portfolio = Portfolio()
    coin = instrument("BTC", asset_class=AssetClass.CRYPTO)
    for number, (quantity, price) in enumerate(trades):
        portfolio.trade(f"e{number}", str(quantity.normalize()), price, instrument=coin)
    _, cost = portfolio.held()["BTC|CRYPTO"]
    fields = {"symbol": "BTC", "instrument_type": "CRYPTO"}
    body = body_of("split", instrument=fields, ratio="1:3") if is_split else body_of("transfer-out", instrument=fields)
    portfolio.adopt(body)
    assert portfolio.realized == 0
    assert {k: c for k, (_, c) in portfolio.held().items()} == ({"BTC|CRYPTO": cost} if is_split else {})


def test_a_movement_of_two_fills_says_one_price() -> None:
    portfolio = Portfolio()
    portfolio.trade("a", 1, 1)
    portfolio.trade("b", 6, "1.5")
    records = portfolio.adopt(body_of("transfer-out"))
    assert [len(o.fills) for o in records] == [1, 2]
    assert records[0].adoption is not None
    assert records[0].adoption.left == "SELL 1 AAPL|STOCK at 1.42857143; SELL 6 AAPL|STOCK at 1.42857143"
