"""The account's risk document: what each write makes of it, how it is stored, and that no sequence of orders and fills passes a limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brokers.base import Instrument, Side
from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.order import Order
from execution_service.core.risk.book import (
    USES_KEPT,
    LastUse,
    NotAdmitted,
    RiskBook,
    admitted,
    granted,
    new_book,
    settled,
    tripped,
)
from execution_service.core.risk.counters import Answered, Counters, Executed, Measured, Trip, fold_all
from execution_service.core.risk.documents import book_to_document, from_document, to_document
from execution_service.core.risk.exposure import Holding
from execution_service.core.risk.gate import Facts, Reading, judge
from execution_service.core.risk.kill import KillLevel, KillState, Switch
from execution_service.core.risk.limits import LimitType, Repetition, RiskLimits, Scope, SessionRule
from execution_service.core.risk.prices import PriceSource, ReferencePrice
from execution_service.core.risk.verdict import Decision, Override, Verdict, exact_content
from tests.builders import NOW, amount, at, identity, order
from tests.core.risk_cases import ACCOUNT, STRATEGY, SYMBOL, WHERE, buying, facts, limited, tables, works, written
from tests.growth import LINEAR, calls

BUY, SELL = Side.BUY, Side.SELL
OF_ACCOUNT = Scope(account_id=ACCOUNT)
LIMITS = written(max_orders_per_minute=100)


def passing(about: Order, limits: RiskLimits = LIMITS, **changes: Any) -> Verdict:
    verdict = judge(about, facts(**changes), limits)
    assert verdict.decision is Decision.PASS
    return verdict


# --- writes ----------------------------------------------------------------------------------------------------------


def test_an_admitted_order_reserves_and_is_counted() -> None:
    about = buying(100)
    book = admitted(new_book(ACCOUNT), about, passing(about), LIMITS, UTC)
    assert book.version == 1
    assert book.reservations == (works(100, name=about.order_id),)
    assert book.counters.orders_today(OF_ACCOUNT) == 1


def test_an_order_that_is_admitted_again_reserves_and_counts_nothing_twice() -> None:
    """It was reserved, its intent was never written, and it is judged anew: also after the window has forgotten it."""
    about = buying(100)
    book = admitted(new_book(ACCOUNT), about, passing(about), LIMITS, UTC)
    later = passing(about, now=at(3_600), prices=())
    again = admitted(book, about, later, LIMITS, UTC)
    assert [each.order_id for each in again.reservations] == [about.order_id]
    assert (again.version, again.counters.orders_today(OF_ACCOUNT)) == (2, 1)


@pytest.mark.parametrize("limits", [{"max_order_quantity": 1}, {"session": SessionRule.HOLD}])
def test_what_the_gate_did_not_let_pass_is_not_admitted(limits: dict[str, Any]) -> None:
    about = buying(100)
    verdict = judge(about, facts(), written(**limits))
    assert verdict.decision is not Decision.PASS
    with pytest.raises(NotAdmitted):
        admitted(new_book(ACCOUNT), about, verdict, LIMITS, UTC)


def test_one_orders_verdict_admits_no_other() -> None:
    with pytest.raises(NotAdmitted):
        admitted(new_book(ACCOUNT), buying(100, signal_id="b"), passing(buying(100)), LIMITS, UTC)


def test_an_override_is_used_up_in_the_same_write() -> None:
    first, second = buying(100, signal_id="first"), buying(100, signal_id="second")
    one = Override(
        override_id="ovr-1", content=exact_content(first), by="ann", reason="agreed", at=NOW, expires_at=at(600)
    )
    other = replace(one, override_id="ovr-2", content="else")
    limits = written(max_order_quantity=50)
    book = granted(granted(new_book(ACCOUNT), one, NOW), other, NOW)
    book = admitted(book, first, passing(first, limits, overrides=book.overrides), limits, UTC)
    assert [each.used_by for each in book.overrides] == [first.order_id, None]
    assert judge(second, facts(overrides=book.overrides), limits).decision is Decision.REFUSE
    third = replace(other, override_id="ovr-3", expires_at=at(900))
    assert [each.override_id for each in granted(book, third, at(600)).overrides] == ["ovr-3"]


def test_an_override_that_was_used_is_not_granted_again_by_the_same_command() -> None:
    about = buying(100)
    one = Override(override_id="o", content=exact_content(about), by="ann", reason="r", at=NOW, expires_at=at(600))
    book = replace(new_book(ACCOUNT), overrides=(one.used(about),))
    assert granted(book, one, at(10)) is book


def test_reservations_shrink_with_the_booked_fills_and_end_with_the_order() -> None:
    book = replace(new_book(ACCOUNT), reservations=(works(100, name="a"), works(50, name="b")))
    part = settled(book, {"a": Decimal(30)})
    assert [(each.order_id, each.quantity) for each in part.reservations] == [("a", 30), ("b", 50)]
    assert part.version == 1
    assert settled(part, {"a": Decimal(30), "unknown": Decimal(3)}) is part
    over = settled(part, {"a": Decimal(0), "b": Decimal(-1)})
    assert (over.reservations, over.version) == ((), 2)


def test_what_is_settled_costs_once_what_the_account_reserves() -> None:
    def settling(count: int) -> int:
        names = [f"ord_{number}" for number in range(count)]
        book = replace(new_book(ACCOUNT), reservations=tuple(works(100, name=name) for name in names))
        return calls(lambda: settled(book, dict.fromkeys(names, Decimal(30))))

    assert settling(200) <= LINEAR * settling(100)


def test_the_document_of_a_book_costs_what_has_changed_since_the_last() -> None:
    reservations = tuple(works(100 + number, name=f"ord_doc_{number}") for number in range(200))
    book = replace(new_book(ACCOUNT), reservations=reservations)
    first = calls(lambda: book_to_document(book))
    more = replace(book, reservations=(*reservations, works(5, name="ord_doc_new")))
    assert calls(lambda: book_to_document(more)) * 10 < first
    assert book_to_document(more) == to_document(more)
    assert from_document(RiskBook, book_to_document(more)) == more


def test_a_document_costs_nothing_for_the_figures_that_were_kept_before() -> None:
    uses = tuple(
        LastUse(limit=LimitType.MAX_GROSS_EXPOSURE, total=Scope(symbol=f"S{n}"), actual_value=Decimal(n), at=NOW)
        for n in range(USES_KEPT)
    )
    book = replace(new_book(ACCOUNT), uses=uses)
    first = calls(lambda: book_to_document(book))
    more = replace(book, uses=(*uses[1:], replace(uses[0], actual_value=Decimal(7))))
    assert calls(lambda: book_to_document(more)) * 5 < first
    assert book_to_document(more) == to_document(more)
    assert from_document(RiskBook, book_to_document(more)) == more


def test_what_tripped_is_kept_though_its_order_was_refused() -> None:
    limits = written(repeated_executions=Repetition(count=1, window_seconds=Decimal(60)))
    fill = Executed(at=NOW, fill_id="f", order_id="o", strategy=STRATEGY, symbol=SYMBOL)
    counters = fold_all(Counters(account_id=ACCOUNT), [fill], now=NOW, zone=UTC, keep_seconds=Decimal(60))
    verdict = judge(buying(1), facts(counters=counters), limits)
    book = tripped(replace(new_book(ACCOUNT), counters=counters), verdict, limits, UTC)
    assert (book.version, book.counters.tripped(WHERE)) == (1, verdict.trips)
    assert tripped(book, verdict, limits, UTC) is book


# --- documents -------------------------------------------------------------------------------------------------------


def full_verdict() -> Verdict:
    limits = written(
        max_order_quantity=1,
        session=SessionRule.HOLD,
        max_consecutive_rejections=1,
        max_gross_exposure="0.1",
    )
    answer = Answered(at=NOW, order_id="o", attempt=1, strategy=STRATEGY, symbol=SYMBOL, is_rejected=True)
    counters = fold_all(Counters(account_id=ACCOUNT), [answer], now=NOW, zone=UTC, keep_seconds=Decimal(60))
    return judge(buying(100), facts(counters=counters, buying_power=None), limits)


@pytest.mark.parametrize(
    "verdict", [full_verdict(), passing(limited(100, "10.123456789012345678")), passing(buying(1), buying_power=None)]
)
def test_a_verdict_is_read_from_its_document_as_it_was(verdict: Verdict) -> None:
    document = to_document(verdict)
    assert from_document(Verdict, document) == verdict
    assert only_plain(document)


def only_plain(value: Any) -> bool:
    """Texts, whole numbers, truths, moments, lists and documents; no float and no Decimal."""
    match value:
        case dict():
            return all(type(key) is str and only_plain(each) for key, each in value.items())
        case list():
            return all(map(only_plain, value))
    return type(value) in (str, int, bool, datetime)


def test_a_book_is_read_from_its_document_as_it_was() -> None:
    about = buying(100)
    one = Override(override_id="o", content="c", by="ann", reason="r", at=NOW, expires_at=at(9), used_by="x")
    book = admitted(granted(new_book(ACCOUNT), one, NOW), about, passing(about), LIMITS, UTC)
    events = (
        Measured(at=NOW, scope=OF_ACCOUNT, value=Decimal("1E+3")),
        Trip(scope=WHERE, limit=LimitType.REPEATED_EXECUTIONS, value="3", at=NOW),
        Answered(at=NOW, order_id="o", attempt=1, strategy=STRATEGY, symbol=SYMBOL, is_rejected=True),
    )
    book = replace(book, fence=1, counters=fold_all(book.counters, events, now=NOW, zone=UTC, keep_seconds=Decimal(60)))
    document = to_document(book)
    assert only_plain(document)
    assert from_document(RiskBook, document) == book
    assert from_document(RiskBook, {**document, "_id": "acct-1", "added_later": 7}) == book


@pytest.mark.parametrize(
    "broken",
    [
        {"format": 2},
        {"version": "1"},
        {"version": True},
        {"account_id": 7},
        {"reservations": [{"order_id": "a"}]},
        {"counters": None},
        {"counters": {"account_id": ACCOUNT, "day": "tomorrow"}},
        {"counters": {"account_id": ACCOUNT, "day": 7}},
        {"overrides": 5},
    ],
)
def test_what_was_never_written_is_unreadable(broken: dict[str, Any]) -> None:
    with pytest.raises(UnreadableRecord):
        from_document(RiskBook, to_document(new_book(ACCOUNT)) | broken)


@pytest.mark.parametrize("missing", ["format", "account_id", "counters"])
def test_a_document_without_what_it_must_have_is_unreadable(missing: str) -> None:
    document = to_document(new_book(ACCOUNT))
    del document[missing]
    with pytest.raises(UnreadableRecord):
        from_document(RiskBook, document)


@pytest.mark.parametrize(
    ("field_name", "value"),
    [("value", "NaN"), ("value", "Infinity"), ("value", 1.5), ("at", "2025-01-01"), ("limit", "none")],
)
def test_odd_values_in_a_document_are_unreadable(field_name: str, value: Any) -> None:
    if field_name == "limit":
        document = to_document(Trip(scope=WHERE, limit=LimitType.SESSION, value="v", at=NOW))
        with pytest.raises(UnreadableRecord):
            from_document(Trip, document | {field_name: value})
        return
    document = to_document(Measured(at=NOW, scope=OF_ACCOUNT, value=Decimal(1)))
    with pytest.raises(UnreadableRecord):
        from_document(Measured, document | {field_name: value})


def test_a_moment_without_a_zone_is_utc_and_half_characters_are_kept_readable() -> None:
    trip = Trip(scope=WHERE, limit=LimitType.SESSION, value="v", at=NOW)
    document = to_document(trip) | {"at": NOW.replace(tzinfo=None)}
    assert from_document(Trip, document) == trip
    assert to_document(replace(trip, value="é\ud800"))["value"] == "é\\ud800"
    indian = document | {"at": NOW.astimezone()}
    assert from_document(Trip, indian).at == NOW


# --- no sequence of orders and fills passes a limit --------------------------------------------------------------------

PRICES = {"AAPL": Decimal(10), "MSFT": Decimal(25)}
STRATEGIES = ("momentum", "other")
PLAYED = tables(
    (
        Scope(),
        {
            "max_position_quantity": 30,
            "max_position_value": 600,
            "max_gross_exposure": 900,
            "max_open_orders": 4,
            "max_orders_per_day": 12,
            "max_order_quantity": 25,
        },
    ),
    (Scope(strategy="other"), {"max_gross_exposure": 400, "max_position_quantity": 12, "max_open_orders": 2}),
    (Scope(symbol="MSFT"), {"max_gross_exposure": 500, "max_position_quantity": 15}),
)


@dataclass
class World:
    """One account at a broker that fills as it likes, and what the service holds of it."""

    limits: RiskLimits = PLAYED
    book: RiskBook = field(default_factory=lambda: new_book(ACCOUNT))
    held: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    """What is really held."""
    booked: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    """By the fills that the ledger has."""
    unbooked: list[tuple[str, Decimal]] = field(default_factory=list)
    working: dict[str, tuple[Order, Decimal]] = field(default_factory=dict)
    """At the broker, with what is really left."""
    sent: int = 0
    new_risk: int = 0
    kill: KillState = field(default_factory=KillState)

    def facts(self) -> Facts:
        holdings = tuple(
            Holding(
                strategy=strategy,
                instrument_key=Instrument(symbol=symbol).key,
                symbol=symbol,
                quantity=quantity,
                unit_value=PRICES[symbol],
            )
            for (strategy, symbol), quantity in self.booked.items()
        )
        return Facts(
            now=NOW,
            zone=UTC,
            account_currency="USD",
            order_currency="USD",
            holdings=holdings,
            working=self.book.reservations,
            counters=self.book.counters,
            kill=self.kill,
            prices=(),
            equity=Reading(value=Decimal(10_000), at=NOW),
            buying_power=Reading(value=Decimal(100_000), at=NOW),
        )

    def submit(self, strategy: str, symbol: str, side: Side, quantity: int) -> Verdict:
        self.sent += 1
        about = order(
            of=identity(f"s{self.sent}"),
            strategy=strategy,
            instrument=Instrument(symbol=symbol),
            side=side,
            quantity=quantity,
        )
        price = ReferencePrice(price=PRICES[symbol], source=PriceSource.QUOTE, at=NOW)
        verdict = judge(about, replace(self.facts(), prices=(price,)), self.limits)
        if verdict.decision is Decision.PASS:
            # Stored, read again, and only then sent.
            book = admitted(self.book, about, verdict, self.limits, UTC)
            self.book = from_document(RiskBook, to_document(book))
            self.working[about.order_id] = (about, Decimal(quantity))
            self.new_risk += not verdict.is_exit
        return verdict

    def fill(self, order_id: str, quantity: Decimal) -> None:
        about, left = self.working[order_id]
        taken = min(left, quantity)
        key = (about.accepted_request.strategy, about.accepted_request.instrument.symbol)
        self.held[key] = self.held.get(key, Decimal(0)) + taken * about.accepted_request.side.sign
        self.working[order_id] = (about, left - taken)
        self.unbooked.append((order_id, taken))

    def book_fills(self) -> None:
        """The ledger first, the reservations after it, as the delivery does it."""
        for order_id, taken in self.unbooked:
            about, _ = self.working[order_id]
            key = (about.accepted_request.strategy, about.accepted_request.instrument.symbol)
            self.booked[key] = self.booked.get(key, Decimal(0)) + taken * about.accepted_request.side.sign
        self.unbooked.clear()
        self.book = settled(self.book, {name: left for name, (_, left) in self.working.items()})

    def cancel(self, order_id: str) -> None:
        """Over at the broker: released once its fills are booked."""
        self.book_fills()
        self.working[order_id] = (self.working[order_id][0], Decimal(0))
        self.book_fills()

    def left(self, strategy: str, symbol: str, side: Side) -> Decimal:
        """What works there and may fill."""
        return sum(
            (
                left
                for about, left in self.working.values()
                if about.accepted_request.strategy == strategy
                and about.accepted_request.instrument.symbol == symbol
                and about.accepted_request.side is side
            ),
            Decimal(0),
        )

    def check(self) -> None:
        """The real holdings at their worst, reckoned by hand: all open orders of a side filled, and by each alone."""
        now = {k: self.held.get(k, Decimal(0)) for k in ((s, y) for s in STRATEGIES for y in PRICES)}
        long, short = dict(now), dict(now)
        for about, left in self.working.values():
            key = (about.accepted_request.strategy, about.accepted_request.instrument.symbol)
            if about.accepted_request.side is BUY:
                long[key] += left
            else:
                short[key] -= left
        most_long = {k: max(Decimal(0), q) for k, q in long.items()}
        most_short = {k: max(Decimal(0), -q) for k, q in short.items()}
        gross = {k: max(most_long[k], most_short[k]) * PRICES[k[1]] for k in now}
        for symbol, most in (("AAPL", 30), ("MSFT", 15)):
            for side in (most_long, most_short):
                total = sum(side[s, symbol] for s in STRATEGIES)
                assert total <= most
                assert total * PRICES[symbol] <= 600
                assert side["other", symbol] <= 12
        assert sum(gross.values()) <= 900
        assert gross["other", "AAPL"] + gross["other", "MSFT"] <= 400
        assert gross["momentum", "MSFT"] + gross["other", "MSFT"] <= 500


sides, whose, what = st.sampled_from(Side), st.sampled_from(STRATEGIES), st.sampled_from(sorted(PRICES))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), whose, what, sides, st.integers(1, 30)),
        st.tuples(st.just("fill"), st.integers(0, 20), st.integers(1, 30)),
        st.tuples(st.just("leave"), whose, what),
        st.tuples(st.just("book")),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
    ),
    max_size=40,
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_no_sequence_of_orders_fills_and_cancels_passes_a_limit_and_exits_always_leave(
    played: list[tuple[Any, ...]],
) -> None:
    world = World()
    for step in played:
        names = list(world.working)
        match step:
            case ("submit", strategy, symbol, side, quantity):
                open_before = len(world.book.reservations)
                of_other = sum(each.strategy == "other" for each in world.book.reservations)
                verdict = world.submit(strategy, symbol, side, quantity)
                if verdict.decision is Decision.PASS and not verdict.is_exit:
                    assert open_before < 4
                    assert strategy != "other" or of_other < 2
                    assert quantity <= 25
                    assert world.new_risk <= 12
            case ("fill", number, quantity) if names:
                world.fill(names[number % len(names)], Decimal(quantity))
            case ("leave", strategy, symbol):
                world.book_fills()
                held = world.held.get((strategy, symbol), Decimal(0))
                side = SELL if held > 0 else BUY
                taken = sum(
                    left
                    for about, left in world.working.values()
                    if (about.accepted_request.strategy, about.accepted_request.instrument.symbol) == (strategy, symbol)
                    and about.accepted_request.side is side
                )
                if abs(held) > taken:
                    verdict = world.submit(strategy, symbol, side, int(abs(held) - taken))
                    assert (verdict.decision, verdict.is_exit) == (Decision.PASS, True)
            case ("book",):
                world.book_fills()
            case ("cancel", number) if names:
                world.cancel(names[number % len(names)])
        world.check()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(whose, what, sides, st.integers(1, 30)), max_size=15), st.integers(0, 14))
def test_at_reduce_only_whatever_is_sent_positions_only_shrink(
    wanted: list[tuple[str, str, Side, int]], stop_at: int
) -> None:
    world = World()
    before: Mapping[tuple[str, str], Decimal] = {}
    for number, each in enumerate(wanted):
        if number == stop_at:
            for order_id in list(world.working):
                world.cancel(order_id)
            world.kill = KillState((Switch(scope=Scope(), level=KillLevel.REDUCE_ONLY),))
            before = dict(world.held)
        if number >= stop_at:
            world.submit(*each)  # and the same wish once more
        verdict = world.submit(*each)
        if verdict.decision is Decision.PASS and number % 2:
            world.fill(verdict.order_id, Decimal(each[3]))
            world.book_fills()
        if number >= stop_at:
            assert verdict.is_exit == (verdict.decision is Decision.PASS)
            for key, held in world.held.items():
                began = before.get(key, Decimal(0))
                for side in Side:  # also if all that works on a side should fill
                    worst = held + world.left(*key, side) * side.sign
                    assert min(Decimal(0), began) <= worst <= max(Decimal(0), began)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_position_quantity": 100},
        {"max_position_value": 1_000},
        {"max_gross_exposure": 1_000},
        {"max_net_exposure": 1_000},
        {"max_open_orders": 1},
        {"max_orders_per_day": 1},
        {"max_orders_per_minute": 1},
        {"max_leverage": "0.001"},
        {"duplicate_window_seconds": 60},
    ],
    ids=lambda limits: next(iter(limits)),
)
def test_two_that_fit_alone_and_not_together_never_both_pass(limits: dict[str, Any]) -> None:
    one, two = buying(60, signal_id="one"), buying(60, signal_id="two")
    bound = written(**limits)
    for first, second in ((one, two), (two, one)):
        book = new_book(ACCOUNT)
        alone = judge(second, facts(), bound)
        assert alone.decision is Decision.PASS
        book = admitted(book, first, judge(first, facts(), bound), bound, UTC)
        then = judge(second, facts(working=book.reservations, counters=book.counters), bound)
        assert then.decision is not Decision.PASS


def test_two_exits_that_fit_alone_and_not_together_are_not_both_exits() -> None:
    about = [order(of=identity(name), side=SELL, quantity=60) for name in "ab"]
    holdings = (
        Holding(
            strategy=STRATEGY, instrument_key="AAPL|STOCK", symbol=SYMBOL, quantity=amount(100), unit_value=amount(10)
        ),
    )
    first = judge(about[0], facts(holdings=holdings), LIMITS)
    book = admitted(new_book(ACCOUNT), about[0], first, LIMITS, UTC)
    then = judge(about[1], facts(holdings=holdings, working=book.reservations), LIMITS)
    assert (first.is_exit, then.is_exit, then.exit_room) == (True, False, 40)


def test_two_that_need_the_same_buying_power_never_both_pass() -> None:
    bound = written(check_buying_power=True)
    power = Reading(value=Decimal(1_000), at=NOW)
    one, two = buying(60, signal_id="one"), buying(60, signal_id="two")
    assert judge(two, facts(buying_power=power), bound).decision is Decision.PASS
    book = admitted(new_book(ACCOUNT), one, judge(one, facts(buying_power=power), bound), bound, UTC)
    then = judge(two, facts(buying_power=power, working=book.reservations), bound)
    assert [breach.limit_type for breach in then.breaches] == ["check_buying_power"]


def test_a_limit_order_reserves_at_its_limit() -> None:
    about = limited(10, "11.5")
    verdict = passing(about)
    assert verdict.reservation is not None
    assert verdict.reservation.unit_value == Decimal("11.5")
