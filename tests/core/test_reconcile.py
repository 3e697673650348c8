"""Our books beside a broker's: what differs, what is not ours, and how long a difference must last before anybody hears of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import AssetClass, BrokerPosition, Instrument, OptionRight, ReportStatus, Side
from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.events import Fitted
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.request import Identity, Purpose
from execution_service.core.orders.status import Status
from execution_service.core.reconcile.discrepancies import (
    OF_POSITIONS,
    OF_REPORTS,
    Discrepancy,
    DiscrepancyKind,
    DiscrepancyState,
    Finding,
    Key,
    Owner,
    owner_of,
)
from execution_service.core.reconcile.instruments import may_be_the_same
from execution_service.core.reconcile.judgement import READINGS, Judgement, Watch, judge
from execution_service.core.reconcile.orders import is_our_tag, order_findings, unknown_order
from execution_service.core.reconcile.positions import Holding, compare_positions, group_of, resting_exits
from execution_service.core.texts.discrepancies import difference, discrepancy_opened, next_step, reconciled
from execution_service.core.views.record import discrepancy_from_document, discrepancy_to_document
from tests.builders import (
    NOW,
    accepted,
    amount,
    at,
    doubted,
    fill,
    filled_by,
    instrument,
    order,
    order_in,
    report,
    send_again_ordered,
    submit_started,
)

THOROUGH = settings(max_examples=200, deadline=None)


def kinds(findings: Sequence[Finding]) -> list[DiscrepancyKind]:
    return [finding.kind for finding in findings]


# --- orders ---------------------------------------------------------------------------------------------------------


def test_order_that_the_broker_shows_as_the_record_has_it_is_no_finding() -> None:
    filled = order_in(Status.FILLED)
    agreeing = report(filled, ReportStatus.FILLED, filled.fills)
    assert order_findings(filled, [agreeing], was_asked=False) == []
    resting = order_in(Status.SUBMITTED)
    assert order_findings(resting, [report(resting)], was_asked=True) == []


@pytest.mark.parametrize("status", [Status.SUBMITTED, Status.PARTIALLY_FILLED])
def test_working_order_that_is_neither_listed_nor_found_is_a_finding(status: Status) -> None:
    (found,) = order_findings(order_in(status), [], was_asked=True)
    assert found.kind is DiscrepancyKind.ORDER_NOT_SHOWN
    assert found.ours.startswith(status)


@pytest.mark.parametrize("status", [s for s in Status if s not in (Status.SUBMITTED, Status.PARTIALLY_FILLED)])
def test_order_that_does_not_work_need_not_be_listed(status: Status) -> None:
    assert DiscrepancyKind.ORDER_NOT_SHOWN not in kinds(order_findings(order_in(status), [], was_asked=True))


def test_order_that_was_not_asked_about_is_not_missing() -> None:
    assert order_findings(order_in(Status.SUBMITTED), [], was_asked=False) == []


@pytest.mark.parametrize("status", [Status.FILLED, Status.CANCELLED, Status.EXPIRED, Status.REJECTED])
def test_order_that_has_ended_by_our_record_and_works_at_the_broker_is_a_finding(status: Status) -> None:
    ended = order_in(status)
    found = order_findings(ended, [report(ended, fills=ended.fills)], was_asked=False)
    assert kinds(found) == [DiscrepancyKind.ORDER_ALIVE]


def test_order_in_doubt_is_a_finding_that_people_know_already() -> None:
    (found,) = order_findings(order_in(Status.IN_DOUBT), [], was_asked=False)
    assert (found.kind, found.is_alerted) == (DiscrepancyKind.IN_DOUBT, True)


def test_overfill_is_a_finding_that_people_know_already() -> None:
    overfilled = apply_all(order_in(Status.SUBMITTED), [filled_by("f1", 130)])
    found = order_findings(overfilled, [report(overfilled, ReportStatus.FILLED, overfilled.fills)], was_asked=False)
    assert [(f.kind, f.is_alerted, f.ours) for f in found] == [
        (DiscrepancyKind.OVERFILLED, True, "FILLED, 130 of 100 filled")
    ]


def test_order_for_an_amount_of_money_may_buy_more_than_was_expected() -> None:
    fitted = Fitted(at=NOW, message="for money", cash_quantity=Decimal(1000))
    bought = order(events=(fitted, submit_started(), accepted(), filled_by("f1", 130)))
    assert order_findings(bought, [report(bought, fills=bought.fills)], was_asked=False) == []


def test_count_ahead_of_the_executions_is_a_finding_and_steady_only_while_it_stands_still() -> None:
    partial = order_in(Status.PARTIALLY_FILLED)
    (first,) = order_findings(partial, [report(partial, fills=partial.fills, filled_quantity=60)], was_asked=False)
    (second,) = order_findings(partial, [report(partial, fills=partial.fills, filled_quantity=70)], was_asked=False)
    assert (first.kind, first.is_alerted) == (DiscrepancyKind.FILLS_MISSING, True)
    assert first.steady != second.steady


def test_missing_fills_of_a_finished_order_are_told_by_nobody_else() -> None:
    ended = order_in(Status.FILLED)
    found = order_findings(
        ended, [report(ended, ReportStatus.FILLED, ended.fills, filled_quantity=90)], was_asked=False
    )
    assert [(f.kind, f.is_alerted) for f in found] == [(DiscrepancyKind.FILLS_MISSING, False)]


def sent_again() -> Order:
    return order(
        events=(submit_started(), doubted(), send_again_ordered(), submit_started("process-2"), accepted("B-2"))
    )


def test_fill_of_an_earlier_sending_is_a_finding() -> None:
    twice = sent_again()
    first, second = twice.client_order_ids
    late = report(twice, ReportStatus.CANCELLED, [fill("f9", 40)], client_order_id=first, broker_order_id="B-1")
    known = apply_all(twice, [filled_by("f9", 40)])
    found = order_findings(known, [late, report(known, broker_order_id="B-2")], was_asked=False)
    assert kinds(found) == [DiscrepancyKind.EARLIER_ATTEMPT_FILLED]
    assert second in found[0].ours
    assert first in found[0].theirs


def test_earlier_sending_that_works_beside_the_present_one_is_a_finding() -> None:
    twice = sent_again()
    alive = report(twice, client_order_id=twice.client_order_ids[0], broker_order_id="B-1")
    found = order_findings(twice, [alive, report(twice, broker_order_id="B-2")], was_asked=False)
    assert [(f.kind, f.is_alerted) for f in found] == [(DiscrepancyKind.ORDER_ALIVE, True)]


def test_two_orders_at_the_broker_under_one_tag_are_one_finding_whatever_they_filled() -> None:
    resting = order_in(Status.SUBMITTED)
    shown = [report(resting), report(resting, fills=[fill("f7", 5)], broker_order_id="B-77")]
    assert kinds(order_findings(resting, shown, was_asked=False)) == [DiscrepancyKind.ORDER_TWICE]


def test_tags_of_our_kind_are_told_from_others() -> None:
    assert is_our_tag(Identity(signal_id="s").client_order_id(1))
    assert not any(map(is_our_tag, ("", "manual", "x", "X" + "a" * 18, "x" + "a" * 19, "x" + "1" * 18, "y" + "a" * 18)))


def test_order_without_a_record_is_about_its_tag() -> None:
    stranger = replace(report(order()), client_order_id="x" + "a" * 18)
    found = unknown_order(stranger)
    assert (found.kind, found.subject, found.client_order_id) == (
        DiscrepancyKind.ORDER_UNKNOWN,
        "x" + "a" * 18,
        "x" + "a" * 18,
    )


# --- instruments ----------------------------------------------------------------------------------------------------

OPTION = Instrument(
    symbol="SPY250321C00500000",
    asset_class=AssetClass.OPTION,
    expiry="20250321",
    strike=Decimal(500),
    right=OptionRight.CALL,
    underlying="SPY",
)
FUTURE = Instrument(symbol="ES", asset_class=AssetClass.FUTURE, expiry="202503")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (instrument("SPY", asset_class=AssetClass.ETF), instrument("SPY", currency="USD")),
        (instrument("INFY", exchange="NSE"), instrument("INFY", exchange="BSE")),
        (instrument("VTSAX", asset_class=AssetClass.FUND), instrument("VTSAX", currency="USD")),
        (instrument("NSE:INFY"), instrument("INFY", exchange="NSE")),
        (instrument("EUR/USD", asset_class=AssetClass.FOREX), instrument("EURUSD", asset_class=AssetClass.FOREX)),
        (FUTURE, replace(FUTURE, expiry="20250321", currency="USD", exchange="CME")),
        (OPTION, replace(OPTION, symbol="SPY", underlying=None, currency="USD")),
        (
            Instrument(symbol="NIFTY", asset_class=AssetClass.FUTURE, expiry="20250327"),
            Instrument(
                symbol="NIFTY25MARFUT",
                asset_class=AssetClass.FUTURE,
                expiry="20250327",
                exchange="NFO",
                underlying="NIFTY",
            ),
        ),
    ],
)
def test_instruments_that_a_broker_names_otherwise_are_the_same(ours: Instrument, theirs: Instrument) -> None:
    assert may_be_the_same(ours, theirs)
    assert may_be_the_same(theirs, ours)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (instrument("SPY"), instrument("QQQ")),
        (instrument("SPY", currency="USD"), instrument("SPY", currency="MXN")),
        (instrument("ES"), FUTURE),
        (FUTURE, replace(FUTURE, expiry="20250620")),
        (OPTION, replace(OPTION, symbol="SPY", underlying=None, right=OptionRight.PUT)),
        (OPTION, replace(OPTION, symbol="SPY", underlying=None, strike=Decimal(505))),
        (replace(FUTURE, symbol="MES", underlying="ES", expiry=None), FUTURE),
        (instrument("AAPL", con_id=1), instrument("AAPL", con_id=2)),
    ],
)
def test_instruments_that_differ_in_something_said_are_not(one: Instrument, other: Instrument) -> None:
    assert not may_be_the_same(one, other)
    assert not may_be_the_same(other, one)


# --- positions ------------------------------------------------------------------------------------------------------


def held(quantity: int, symbol: str = "AAPL", **changes: Any) -> Holding:
    return Holding(instrument=instrument(symbol, **changes), quantity=Decimal(quantity))


def shown(quantity: int, symbol: str = "AAPL", **changes: Any) -> BrokerPosition:
    return BrokerPosition(instrument=instrument(symbol, **changes), quantity=Decimal(quantity))


def test_equal_books_agree_with_strategies_and_exchanges_taken_together() -> None:
    ours = [held(70), held(30, exchange="NASDAQ"), held(-5, "SPY"), held(0, "QQQ")]
    compared = compare_positions(ours, [shown(100, currency="USD"), shown(-5, "SPY")])
    assert (compared.agreeing, compared.findings, compared.not_ours) == (2, (), ())


def test_a_position_that_could_not_be_read_is_no_difference_and_nobodys() -> None:
    unclear = replace(shown(0), is_unclear=True)
    compared = compare_positions(
        [held(100), held(5, "SPY")], [unclear, shown(5, "SPY"), replace(unclear, instrument=FUTURE)]
    )
    assert (compared.agreeing, compared.findings, compared.not_ours) == (1, (), ())


def test_difference_names_both_sides() -> None:
    (found,) = compare_positions([held(100)], [shown(150)]).findings
    assert (found.kind, found.ours, found.theirs, found.steady) == (
        DiscrepancyKind.POSITION_DIFFERS,
        "100",
        "150",
        "50",
    )


def test_position_that_the_broker_does_not_have_is_a_difference() -> None:
    (found,) = compare_positions([held(100)], []).findings
    assert (found.ours, found.theirs) == ("100", "0")


def test_rest_of_a_position_that_is_flat_by_our_ledger_is_a_difference() -> None:
    (found,) = compare_positions([held(0)], [shown(3)]).findings
    assert (found.ours, found.theirs) == ("0", "3")


def test_position_in_what_our_ledger_never_held_is_not_ours() -> None:
    compared = compare_positions([held(100)], [shown(100), shown(7, "TSLA")])
    assert compared.findings == ()
    assert [p.instrument.symbol for p in compared.not_ours] == ["TSLA"]


def test_position_is_ours_under_the_brokers_number_or_its_venues_symbol_too() -> None:
    by_number = Holding(instrument=instrument("APPLE", con_id=265598), quantity=Decimal(40))
    by_name = held(60)
    apple = replace(shown(100, currency="USD"), also_called=frozenset({"AAPL"}), con_id=265598)
    local = Holding(instrument=Instrument(symbol="ESH5", asset_class=AssetClass.FUTURE), quantity=Decimal(2))
    future = BrokerPosition(instrument=FUTURE, quantity=Decimal(2), also_called=frozenset({"ESH5"}), con_id=1)
    compared = compare_positions([by_number, by_name, local], [apple, future])
    assert (compared.agreeing, compared.findings, compared.not_ours) == (2, (), ())


def test_venues_symbol_tells_what_is_meant_but_for_a_share_named_like_a_future() -> None:
    rupees = Instrument(symbol="USDINR26DECFUT", asset_class=AssetClass.FOREX)
    future = replace(FUTURE, symbol="USDINR26DECFUT", expiry="20261229", underlying="USDINR")
    held_as_other_kind = BrokerPosition(
        instrument=future, quantity=Decimal(1), also_called=frozenset({"USDINR26DECFUT"})
    )
    assert compare_positions([Holding(instrument=rupees, quantity=Decimal(1))], [held_as_other_kind]).agreeing == 1
    share = replace(shown(5, "ES", currency="USD"), also_called=frozenset({"ES"}), con_id=2)
    compared = compare_positions([Holding(instrument=FUTURE, quantity=Decimal(0))], [share])
    assert compared.not_ours == (share,)


SYMBOLS = st.sampled_from(["AAPL", "SPY", "QQQ", "TSLA"])
EXCHANGES = st.sampled_from([None, "NASDAQ", "NYSE"])
CURRENCIES = st.sampled_from([None, "USD"])
INSTRUMENTS = st.builds(lambda s, e, c: Instrument(symbol=s, exchange=e, currency=c), SYMBOLS, EXCHANGES, CURRENCIES)
AMOUNTS = st.integers(-50, 50).map(Decimal)
HOLDINGS = st.lists(st.builds(lambda i, q: Holding(instrument=i, quantity=q), INSTRUMENTS, AMOUNTS), max_size=8)
POSITIONS = st.lists(st.builds(lambda i, q: BrokerPosition(instrument=i, quantity=q), INSTRUMENTS, AMOUNTS), max_size=8)


@THOROUGH
@given(HOLDINGS)
def test_a_broker_that_holds_what_we_hold_never_differs(ours: list[Holding]) -> None:
    theirs = [BrokerPosition(instrument=h.instrument, quantity=h.quantity) for h in ours if h.quantity]
    compared = compare_positions(ours, theirs)
    assert (compared.findings, compared.not_ours) == ((), ())


@THOROUGH
@given(HOLDINGS, POSITIONS, st.randoms(use_true_random=False))
def test_the_sequence_of_the_answers_does_not_matter(
    ours: list[Holding], theirs: list[BrokerPosition], luck: Any
) -> None:
    shuffled = luck.sample(ours, len(ours)), luck.sample(theirs, len(theirs))
    one, other = compare_positions(ours, theirs), compare_positions(*shuffled)
    assert (one.agreeing, one.findings) == (other.agreeing, other.findings)
    assert sorted(map(repr, one.not_ours)) == sorted(map(repr, other.not_ours))


@THOROUGH
@given(HOLDINGS, POSITIONS)
def test_no_quantity_is_lost_between_ours_theirs_and_not_ours(
    ours: list[Holding], theirs: list[BrokerPosition]
) -> None:
    compared = compare_positions(ours, theirs)
    differences = sum((amount(f.theirs) - amount(f.ours) for f in compared.findings), Decimal(0))
    foreign = sum((p.quantity for p in compared.not_ours), Decimal(0))
    assert differences + foreign == sum(p.quantity for p in theirs) - sum(h.quantity for h in ours)
    symbols = {h.instrument.symbol for h in ours}
    assert all(p.instrument.symbol not in symbols for p in compared.not_ours)


# --- lasting --------------------------------------------------------------------------------------------------------

DIFFERS = Finding(kind=DiscrepancyKind.POSITION_DIFFERS, subject="AAPL|STOCK", ours="100", theirs="150", steady="50")
NOT_SHOWN = Finding(kind=DiscrepancyKind.ORDER_NOT_SHOWN, subject="ord_1", ours="SUBMITTED", theirs="not shown")
ALL = OF_POSITIONS | OF_REPORTS


class Readings:
    """A row of readings, 10 seconds apart, with what is opened and closed carried on."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.open: dict[Key, Finding] = {}
        self.now = 0.0

    def read(self, *findings: Finding, **changes: Any) -> Judgement:
        told = judge(self.watch, self.open, findings, **({"judged": ALL, "now": self.now} | changes))
        self.watch = told.watch
        self.now += 10.0
        for finding in (*told.opened, *told.changed, *told.replaced):
            self.open[finding.key] = finding
        for key in told.closed:
            del self.open[key]
        return told


def test_difference_is_opened_by_its_second_reading_and_only_once() -> None:
    readings = Readings()
    first = readings.read(DIFFERS)
    assert (first.opened, first.unconfirmed, first.is_unsettled) == ((), (DIFFERS,), True)
    assert readings.read(DIFFERS).opened == (DIFFERS,)
    later = readings.read(DIFFERS)
    assert (later.opened, later.changed, later.is_unsettled) == ((), (), False)


def test_difference_that_changes_between_two_readings_starts_anew() -> None:
    readings = Readings()
    readings.read(DIFFERS)
    moved = replace(DIFFERS, theirs="160", steady="60")
    assert readings.read(moved).opened == ()
    assert readings.read(moved).opened == (moved,)


def test_same_difference_of_other_amounts_is_the_same() -> None:
    readings = Readings()
    readings.read(DIFFERS)
    grown = replace(DIFFERS, ours="200", theirs="250")
    assert readings.read(grown).opened == (grown,)


def test_difference_that_goes_and_comes_is_never_opened() -> None:
    readings = Readings()
    for _ in range(5):
        assert readings.read(DIFFERS).opened == ()
        assert readings.read().opened == ()


def test_reading_while_it_moves_neither_confirms_nor_forgets() -> None:
    readings = Readings()
    readings.read(DIFFERS)
    assert readings.read(DIFFERS, held_back={DIFFERS.key}).opened == ()
    assert readings.read(DIFFERS).opened == (DIFFERS,)


def test_reading_that_could_not_see_it_neither_confirms_nor_closes() -> None:
    readings = Readings()
    readings.read(DIFFERS)
    readings.read(judged=OF_REPORTS)
    assert readings.read(DIFFERS).opened == (DIFFERS,)
    for _ in range(5):
        assert readings.read(judged=OF_REPORTS).closed == ()


def test_it_is_closed_when_two_readings_in_succession_do_not_show_it() -> None:
    readings = Readings()
    readings.read(DIFFERS)
    readings.read(DIFFERS)
    assert readings.read().closed == ()
    assert readings.read(DIFFERS).closed == ()
    assert readings.read().closed == ()
    assert readings.read().closed == (DIFFERS.key,)
    assert not readings.read().is_unsettled


def test_reading_that_could_not_see_it_does_not_begin_the_count_to_closing_anew() -> None:
    readings = Readings()
    readings.read(DIFFERS)
    readings.read(DIFFERS)
    assert readings.read().closed == ()
    assert readings.read(judged=OF_REPORTS).closed == ()
    assert readings.read(held_back={DIFFERS.key}).closed == ()
    assert readings.read().closed == (DIFFERS.key,)


def test_missing_order_must_last_besides() -> None:
    readings = Readings()
    assert [bool(readings.read(NOT_SHOWN).opened) for _ in range(5)] == [False, False, False, True, False]


@pytest.mark.parametrize("kind", list(DiscrepancyKind))
def test_what_our_own_record_says_needs_no_second_reading_and_all_else_does(kind: DiscrepancyKind) -> None:
    found = replace(NOT_SHOWN, kind=kind)
    of_record = (DiscrepancyKind.IN_DOUBT, DiscrepancyKind.OVERFILLED, DiscrepancyKind.EARLIER_ATTEMPT_FILLED)
    assert bool(Readings().read(found).opened) == (kind in of_record)


@pytest.mark.parametrize("kind", list(DiscrepancyKind))
def test_only_what_a_broker_may_be_late_with_must_last(kind: DiscrepancyKind) -> None:
    readings = Readings()
    found = replace(NOT_SHOWN, kind=kind)
    readings.read(found)
    readings.read(found)
    assert (found.key in readings.open) == (
        kind not in (DiscrepancyKind.ORDER_NOT_SHOWN, DiscrepancyKind.FILLS_MISSING)
    )


def test_changed_sides_of_an_open_one_are_told() -> None:
    readings = Readings()
    readings.read(DIFFERS)
    readings.read(DIFFERS)
    other = replace(DIFFERS, ours="120", theirs="170")
    assert readings.read(other).changed == (other,)
    assert readings.read(other).changed == ()


def test_another_difference_takes_the_place_of_an_open_one_once_it_has_lasted() -> None:
    readings = Readings()
    readings.read(DIFFERS)
    readings.read(DIFFERS)
    other = replace(DIFFERS, theirs="170", steady="70")
    first = readings.read(other)
    assert (first.changed, first.replaced, first.unconfirmed) == ((), (), (other,))
    assert readings.read(DIFFERS).replaced == ()
    assert readings.read(other).replaced == ()
    assert readings.read(other).replaced == (other,)


def test_what_came_in_its_place_is_another_difference_and_stays_known_when_it_is_not_seen_any_more() -> None:
    readings = Readings()
    readings.read(DIFFERS)
    readings.read(DIFFERS)
    explained = replace(DIFFERS, successor="XYZ|STOCK", note="+100 XYZ|STOCK came")
    assert readings.read(explained).unconfirmed == (explained,)
    assert readings.read(explained).replaced == (explained,)
    moved = replace(DIFFERS, ours="120", theirs="170")
    assert readings.read(DIFFERS).replaced == ()
    assert readings.read(moved).changed == (replace(moved, successor="XYZ|STOCK", note="+100 XYZ|STOCK came"),)


@pytest.mark.parametrize("instruments", [(), (OPTION,)])
def test_open_row_is_about_its_instrument_by_every_name_whichever_version_wrote_it(
    instruments: tuple[Instrument, ...],
) -> None:
    found = Finding(
        kind=DiscrepancyKind.POSITION_DIFFERS,
        subject=OPTION.key,
        ours="-1",
        theirs="0",
        steady="1",
        instruments=instruments,
    )
    stored = discrepancy_from_document(discrepancy_to_document(row_of(found)))
    assert stored.finding == found
    assert stored.finding.amount == 1
    assert stored.finding.is_about(OPTION)
    assert not stored.finding.is_about(replace(OPTION, strike=Decimal(510)))
    assert not stored.finding.is_about(instrument("SPY"))


def row_of(finding: Finding) -> Discrepancy:
    return Discrepancy(
        account_id="acct-1", finding=finding, opened_at=NOW, updated_at=NOW, owner=owner_of(finding.kind), next_step=""
    )


FINDINGS = st.lists(st.sampled_from([DIFFERS, replace(DIFFERS, steady="60"), NOT_SHOWN]), max_size=2)


@THOROUGH
@given(st.lists(st.tuples(FINDINGS, st.booleans()), max_size=30))
def test_whatever_is_read_nothing_is_opened_twice_or_by_one_reading_alone(
    history: list[tuple[list[Finding], bool]],
) -> None:
    readings = Readings()
    seen: list[dict[Key, str]] = []
    for findings, sees_positions in history:
        was_open = set(readings.open)
        judged = ALL if sees_positions else OF_REPORTS
        told = readings.read(*findings, judged=judged)
        if sees_positions:
            seen.append({f.key: f.steady for f in findings if f.kind is DiscrepancyKind.POSITION_DIFFERS})
        for finding in told.opened:
            assert finding.key not in was_open
            if finding.kind is DiscrepancyKind.POSITION_DIFFERS:
                assert [each.get(finding.key) for each in seen[-READINGS:]] == [finding.steady] * READINGS
        for key in told.closed:
            assert key in was_open


# --- rows and words -------------------------------------------------------------------------------------------------


def row(finding: Finding = DIFFERS, **changes: Any) -> Discrepancy:
    usual = Discrepancy(
        account_id="acct-1",
        finding=finding,
        opened_at=NOW,
        updated_at=NOW,
        owner=owner_of(finding.kind),
        next_step=next_step(finding),
    )
    return replace(usual, **changes)


def test_row_is_the_same_after_it_was_stored() -> None:
    for each in (row(), row(NOT_SHOWN, state=DiscrepancyState.CLOSED, closed_at=at(60), is_alerted=True)):
        assert discrepancy_from_document(discrepancy_to_document(each)) == each
    with pytest.raises(UnreadableRecord):
        discrepancy_from_document(discrepancy_to_document(row()) | {"format": 99})


def test_rows_of_one_account_about_one_thing_have_one_place_and_ids_of_their_own() -> None:
    assert row().place == row(opened_at=at(60)).place
    assert row().discrepancy_id != row(opened_at=at(60)).discrepancy_id
    assert row().place != row(account_id="acct-2").place
    assert row().place != row(NOT_SHOWN).place


def test_every_kind_has_words_a_next_step_and_an_owner() -> None:
    for kind in DiscrepancyKind:
        about = replace(DIFFERS, kind=kind, order_id="ord_1", client_order_id="xabc", signal_id="sig")
        assert "sig" in difference(about)
        assert next_step(about)
        assert owner_of(kind) in Owner


def test_alert_says_both_sides_and_what_to_do() -> None:
    text = discrepancy_opened(row(), account_name="Main", broker="MOCK")
    assert text.startswith(
        "⚠️ Discrepancy\n\nAccount: Main\nBroker: MOCK\nFound: Position differs: AAPL|STOCK: ours 100"
    )
    assert "the broker&#x27;s 150\nTo do: Compare" in text.replace("'", "&#x27;")


def test_outcome_line_says_reconciled_only_when_nothing_differs() -> None:
    counts: dict[str, Any] = {"open_orders": 2, "executions": 5, "positions": 3}
    none: dict[str, Any] = {
        "discrepancies": 0,
        "unconfirmed": 0,
        "looked_for": 0,
        "orders_not_ours": 0,
        "positions_not_ours": 0,
    }
    assert reconciled(**counts, **none) == "Reconciled: 2 open orders, 5 executions, 3 positions agree"
    untold = reconciled(**counts | {"positions": None}, **none)
    assert untold == "Not reconciled: 2 open orders, 5 executions agree; positions not told"
    foreign = reconciled(**counts, **none | {"orders_not_ours": 1, "positions_not_ours": 2})
    assert foreign.startswith("Reconciled: ")
    assert foreign.endswith("not ours and left alone: 1 order and 2 positions")
    for wrong in ("discrepancies", "unconfirmed", "looked_for"):
        assert reconciled(**counts, **none | {wrong: 1}).startswith("Not reconciled: ")


# --- products, and exits that rest ----------------------------------------------------------------------------------

INFY = instrument("INFY", exchange="NSE")


def mine(quantity: int, product: str | None = None, strategy: str = "momentum") -> Holding:
    return Holding(instrument=INFY, quantity=amount(quantity), product=product, strategy=strategy)


def infy(quantity: int, product: str | None = None, *, is_unclear: bool = False) -> BrokerPosition:
    return BrokerPosition(instrument=INFY, quantity=amount(quantity), product=product, is_unclear=is_unclear)


def test_products_of_one_instrument_are_compared_by_themselves() -> None:
    compared = compare_positions([mine(10, "MIS"), mine(0, "CNC")], [infy(10, "CNC")])
    assert [(f.subject, f.instrument, f.product, f.ours, f.theirs) for f in compared.findings] == [
        (f"{INFY.key}|product=CNC", INFY.key, "CNC", "0", "10"),
        (f"{INFY.key}|product=MIS", INFY.key, "MIS", "10", "0"),
    ]
    squared, _ = compared.findings[1], compared.findings[0]
    assert squared.is_about(INFY, "MIS")
    assert squared.is_about(INFY)
    assert not squared.is_about(INFY, "CNC")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([mine(10)], [infy(7, "CNC"), infy(3, "MIS")]),
        ([mine(7, "CNC"), mine(3, "MIS")], [infy(10)]),
        ([mine(4, "CNC"), mine(6, strategy="other")], [infy(7, "CNC"), infy(3, "MIS")]),
    ],
)
def test_products_are_taken_together_where_one_side_does_not_say_them(
    ours: list[Holding], theirs: list[BrokerPosition]
) -> None:
    compared = compare_positions(ours, theirs)
    assert (compared.agreeing, compared.findings, compared.not_ours) == (1, (), ())


def test_product_that_cannot_be_read_says_nothing_of_another() -> None:
    compared = compare_positions([mine(10, "MIS"), mine(5, "CNC")], [infy(0, "MIS", is_unclear=True), infy(4, "CNC")])
    assert [f.product for f in compared.findings] == ["CNC"]


def test_group_of_what_our_ledger_never_held_is_what_the_broker_shows_of_it() -> None:
    group = group_of(INFY, [mine(10, "MIS")], [infy(4, "CNC"), infy(10, "MIS")], "CNC")
    assert (group.held, group.shown, group.product) == (0, 4, "CNC")
    assert group.is_about(instrument("INFY"), "CNC")
    assert not group.is_about(INFY, "MIS")
    assert not group.is_about(instrument("SBIN"))


@pytest.mark.parametrize(
    ("ours", "theirs", "side", "named"),
    [
        (10, 0, Side.SELL, "out (SELL 10)"),
        (10, 9, Side.SELL, "out (SELL 10)"),
        (10, 10, Side.SELL, ""),
        (10, 30, Side.SELL, ""),
        (-10, 0, Side.BUY, "out (BUY 10)"),
        (-10, -12, Side.BUY, ""),
        (10, 0, Side.BUY, ""),
    ],
)
def test_resting_exits_that_may_take_more_than_is_there_are_named(
    ours: int, theirs: int, side: Side, named: str
) -> None:
    group = group_of(INFY, [mine(ours)], [infy(theirs)])
    leaving = order(of=Identity(signal_id="out", purpose=Purpose.EXIT), side=side, quantity=10)
    assert resting_exits(group, [leaving]) == named
