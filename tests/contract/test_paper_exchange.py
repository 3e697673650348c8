"""The paper exchange's book alone: durability, luck, faults, prices, and the sums that must always be right."""

from __future__ import annotations

import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import (
    AssetClass,
    Instrument,
    OptionRight,
    OrderRef,
    OrderType,
    Report,
    ReportStatus,
    Side,
    Ticket,
    Tif,
)
from brokers.errors import BrokerUnavailable, OrderAlreadyExists, OrderRefused, OutcomeUnknown
from brokers.paper.adapter import MockBroker
from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Action, Fault, Market, Operation

START = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)


class HandClock:
    """A wall clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "book.db"


@pytest.fixture
def book(path: Path, clock: HandClock) -> Iterator[PaperExchange]:
    with closing(PaperExchange(path, account_id="A1", clock=clock)) as exchange:
        yield exchange


def opened(path: Path, clock: HandClock, **more: object) -> PaperExchange:
    return PaperExchange(path, **{"account_id": "A1", "clock": clock, **more})


def ticket(client_id: str = "c1", **changes: object) -> Ticket:
    plain = Ticket(
        client_order_id=client_id,
        instrument=Instrument(symbol="SPY"),
        side=Side.BUY,
        quantity=Decimal(100),
        order_type=OrderType.MARKET,
        reference_price=Decimal("235.15"),
    )
    return replace(plain, **changes)


def ref(client_id: str = "c1") -> OrderRef:
    return OrderRef(client_order_id=client_id)


# The file


def test_a_look_at_a_book_in_which_nothing_is_due_is_one_statement(book: PaperExchange) -> None:
    book.place(ticket())
    assert book._file is not None
    with book._file.reading() as db:
        said: list[str] = []
        db.set_trace_callback(said.append)
    said.clear()
    assert not book.advance()
    assert len(said) == 1


def test_the_book_and_its_companions_are_for_the_owner_only(book: PaperExchange, path: Path) -> None:
    book.place(ticket())
    files = list(path.parent.iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}


def test_a_book_left_open_to_others_is_closed_to_them(path: Path, clock: HandClock) -> None:
    opened(path, clock).close()
    path.chmod(0o644)
    with closing(opened(path, clock)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_no_book_is_unavailable(path: Path, clock: HandClock) -> None:
    path.write_bytes(b"certainly no database" * 100)
    with pytest.raises(BrokerUnavailable, match="cannot be opened"):
        opened(path, clock)


def test_a_book_of_another_version_is_not_touched(path: Path, clock: HandClock) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(BrokerUnavailable, match="another version"):
        opened(path, clock)


def test_orders_and_what_is_planned_for_them_survive_a_restart(path: Path, clock: HandClock) -> None:
    market = Market(fill_delay_seconds=10, partial_fill_rate=1, seed=3)
    with closing(opened(path, clock, market=market)) as first:
        first.place(ticket())
        due = first.next_due()
    clock.move(60)
    # The survivor's own market says otherwise: what was planned at acceptance counts.
    with closing(opened(path, clock, market=Market(commission_per_order=Decimal(9)))) as second:
        assert due == START + timedelta(seconds=10)
        report = second.find("c1")
        assert report is not None
        assert [fill.time for fill in report.fills] == [START + timedelta(seconds=10), START + timedelta(seconds=20)]
        assert [fill.commission for fill in report.fills] == [Decimal("1.00"), Decimal(0)]
        assert report.status is ReportStatus.FILLED


def test_nothing_is_filled_before_its_time(path: Path, clock: HandClock) -> None:
    with closing(opened(path, clock, market=Market(fill_delay_seconds=10))) as book:
        assert book.place(ticket()).status is ReportStatus.WORKING
        clock.move(9.999)
        assert not book.advance()
        clock.move(0.001)
        assert book.advance()
        assert book.next_due() is None
        assert book.orders()[0].status is ReportStatus.FILLED


def test_accounts_share_a_book_and_not_their_orders(book: PaperExchange, path: Path, clock: HandClock) -> None:
    with closing(opened(path, clock, account_id="A2")) as other:
        book.place(ticket())
        theirs = other.place(ticket())
        assert theirs.broker_order_id == "mock_000000002"
        assert len(book.orders()) == len(other.orders()) == 1
        assert other.find("c1") == theirs
        with pytest.raises(ValueError, match="no fill"):
            book.bust_fill(theirs.fills[0].fill_id)


def test_a_full_disk_leaves_no_order_and_is_unavailable(book: PaperExchange) -> None:
    book.place(ticket())
    assert book._file is not None
    database = book._file._db
    assert database is not None
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")

    def place_until_it_fails() -> None:
        for number in range(10_000):
            book.place(ticket(f"x{number}"))

    with pytest.raises(BrokerUnavailable, match="full"):
        place_until_it_fails()
    kept = len(book.orders())
    assert book.find(f"x{kept - 1}") is None
    database.execute("PRAGMA max_page_count = 100000")
    book.place(ticket(f"x{kept - 1}"))
    assert len(book.orders()) == kept + 1


def test_a_book_locked_by_another_process_is_unavailable_and_takes_nothing(path: Path, clock: HandClock) -> None:
    with closing(opened(path, clock, busy_timeout_seconds=0.05)) as book, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BrokerUnavailable, match="locked"):
            book.place(ticket())
        other.execute("ROLLBACK")
        assert book.orders() == []


class LostAnswer:
    """A connection whose commits are done, and then reported as failed."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)

    def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:
        cursor = self._db.execute(sql, *arguments)
        if sql == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return cursor


def test_a_failed_commit_is_an_unknown_outcome_for_orders_and_never_for_questions(path: Path, clock: HandClock) -> None:
    with closing(opened(path, clock, market=Market(fill_delay_seconds=1))) as book:
        assert book._file is not None
        db = book._file._db
        book._file._db = LostAnswer(db)
        with pytest.raises(OutcomeUnknown):
            book.place(ticket("c1"))
        with pytest.raises(OutcomeUnknown):
            book.place(ticket("c2"))
        with pytest.raises(OutcomeUnknown):
            book.cancel(ref("c2"))
        clock.move(1)
        with pytest.raises(BrokerUnavailable):
            book.reports()
        book._file._db = db
        assert [order.status for order in book.orders()] == [ReportStatus.FILLED, ReportStatus.CANCELLED]


async def test_a_hint_that_cannot_be_planned_hides_no_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: PaperExchange) -> None:
        raise BrokerUnavailable("unreadable")

    monkeypatch.setattr(PaperExchange, "next_due", fails)
    broker = MockBroker(account_id="A1", path=path)
    await broker.connect()
    assert (await broker.place_order(ticket())).status is ReportStatus.FILLED
    await broker.close()


async def test_what_the_mock_did_not_foresee_is_an_unknown_outcome(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("never thought of")

    broker = MockBroker(account_id="A1", path=path)
    await broker.connect()
    monkeypatch.setattr(PaperExchange, "place", fails)
    monkeypatch.setattr(PaperExchange, "reports", fails)
    with pytest.raises(OutcomeUnknown):
        await broker.place_order(ticket())
    with pytest.raises(BrokerUnavailable):
        await broker.reports()
    await broker.close()


# Client order ids


def test_a_repeated_id_is_refused_whatever_became_of_the_first(book: PaperExchange, clock: HandClock) -> None:
    book.add_fault(Fault(operation=Operation.PLACE, action=Action.REJECT))
    book.place(ticket())
    clock.move(400 * 86_400)
    with pytest.raises(OrderAlreadyExists):
        book.place(ticket(side=Side.SELL))
    assert len(book.orders()) == 1


def test_where_an_id_is_only_a_tag_it_may_be_repeated(path: Path, clock: HandClock) -> None:
    with closing(opened(path, clock, unique_client_order_ids=False)) as book:
        first, second = book.place(ticket()), book.place(ticket())
        assert first.broker_order_id != second.broker_order_id
        assert book.find("c1") == second


def test_a_reserved_broker_id_is_kept_and_not_given_twice(book: PaperExchange) -> None:
    assert book.place(ticket("c1", reserved_order_id="41")).broker_order_id == "41"
    with pytest.raises(OrderAlreadyExists):
        book.place(ticket("c2", reserved_order_id="41"))
    assert book.find("c2") is None


def test_broker_ids_follow_the_venues_format(path: Path, clock: HandClock) -> None:
    formats = {"broker_order_id_format": "{time:%y%m%d}{number:06d}", "fill_id_format": "T{number}"}
    with closing(opened(path, clock, **formats)) as book:
        report = book.place(ticket())
        assert report.broker_order_id == "260302000001"
        assert report.fills[0].fill_id == "T1"


@pytest.mark.parametrize(
    "changes",
    [
        {"quantity": Decimal(0)},
        {"quantity": Decimal(-1)},
        {"quantity": Decimal("NaN")},
        {"order_type": OrderType.LIMIT},
        {"order_type": OrderType.STOP},
        {"order_type": OrderType.STOP_LIMIT, "limit_price": Decimal(1)},
    ],
)
def test_a_senseless_ticket_is_refused(book: PaperExchange, changes: dict[str, object]) -> None:
    with pytest.raises(OrderRefused, match="needs"):
        book.place(ticket(**changes))
    assert book.orders() == []


def test_a_ticket_is_kept_whole(book: PaperExchange) -> None:
    whole = ticket(
        instrument=Instrument(
            symbol="OG",
            asset_class=AssetClass.OPTION,
            exchange="COMEX",
            expiry="20261228",
            strike=Decimal("2400.50"),
            right=OptionRight.PUT,
            currency="EUR",
            multiplier=Decimal(100),
            underlying="GC",
        ),
        tif=Tif.GTC,
        product="NRML",
        variety="regular",
        order_type=OrderType.STOP_LIMIT,
        limit_price=Decimal("24.10"),
        stop_price=Decimal("24.00"),
    )
    book.place(whole)
    assert book.orders()[0].ticket == whole


# Prices


@pytest.mark.parametrize(
    ("side", "changes", "bps", "price"),
    [
        (Side.BUY, {}, "0", "235.15"),
        (Side.BUY, {}, "5", "235.2676"),
        (Side.SELL, {}, "5", "235.0324"),
        (Side.BUY, {"reference_price": Decimal("100.00")}, "100", "101.00"),
        (Side.BUY, {"reference_price": Decimal("0.00001234")}, "100", "0.00001246"),
        (Side.SELL, {"reference_price": Decimal("-37.63")}, "10", "-37.6676"),
        (Side.BUY, {"order_type": OrderType.STOP, "stop_price": Decimal("90.00")}, "10", "90.09"),
        (Side.BUY, {"order_type": OrderType.LIMIT, "limit_price": Decimal("90.00")}, "10", "90.00"),
        (Side.SELL, {"order_type": OrderType.LIMIT, "limit_price": Decimal("90.00")}, "10", "90.00"),
        (
            Side.BUY,
            {"order_type": OrderType.STOP_LIMIT, "limit_price": Decimal("91.00"), "stop_price": Decimal("90.00")},
            "10",
            "91.00",
        ),
    ],
)
def test_an_order_fills_at_its_own_price_and_slippage_is_against_it(
    path: Path, clock: HandClock, side: Side, changes: dict[str, object], bps: str, price: str
) -> None:
    with closing(opened(path, clock, market=Market(slippage_bps=Decimal(bps)))) as book:
        assert format(book.place(ticket(side=side, **changes)).fills[0].price, "f") == price


def test_without_a_price_of_its_own_an_order_fills_at_the_symbols(path: Path, clock: HandClock) -> None:
    with closing(opened(path, clock, market=Market(seed=1))) as book:
        prices = [book.place(ticket(f"c{n}", reference_price=None)).fills[0].price for n in range(2)]
        other = book.place(ticket("o", reference_price=None, instrument=Instrument(symbol="QQQ"))).fills[0].price
    assert prices[0] == prices[1] != other
    assert Decimal(10) <= prices[0] <= Decimal(500)


# Luck


LUCKY = Market(rejection_rate=0.3, partial_fill_rate=0.5, seed=11)


def luck_of(book: PaperExchange) -> dict[str, tuple[ReportStatus, str | None, tuple[Decimal, ...]]]:
    return {
        order.ticket.client_order_id: (order.status, order.reason, tuple(fill.quantity for fill in order.fills))
        for order in book.orders()
    }


def test_with_a_seed_an_orders_luck_is_its_own_whatever_the_sequence(tmp_path: Path, clock: HandClock) -> None:
    ids = [f"c{number}" for number in range(60)]
    lucks = []
    for name, sequence in (("a", ids), ("b", ids[::-1])):
        with closing(opened(tmp_path / name, clock, market=LUCKY)) as book:
            for client_id in sequence:
                book.place(ticket(client_id))
            lucks.append(luck_of(book))
    assert lucks[0] == lucks[1]
    statuses = [status for status, _, _ in lucks[0].values()]
    assert 5 < statuses.count(ReportStatus.REJECTED) < 35
    assert all(reason for status, reason, _ in lucks[0].values() if status is ReportStatus.REJECTED)
    assert {len(parts) for _, _, parts in lucks[0].values()} == {0, 1, 2}


def test_another_seed_is_another_luck(tmp_path: Path, clock: HandClock) -> None:
    lucks = []
    for seed in (1, 2):
        with closing(opened(tmp_path / str(seed), clock, market=replace(LUCKY, seed=seed))) as book:
            for number in range(40):
                book.place(ticket(f"c{number}"))
            lucks.append(luck_of(book))
    assert lucks[0] != lucks[1]


@pytest.mark.parametrize(("quantity", "parts"), [("1", 1), ("2", 2), ("0.3", 2), ("1E+2", 2)])
def test_parts_are_in_the_quantitys_own_steps(path: Path, clock: HandClock, quantity: str, parts: int) -> None:
    with closing(opened(path, clock, market=Market(partial_fill_rate=1, seed=5))) as book:
        fills = book.place(ticket(quantity=Decimal(quantity))).fills
    assert len(fills) == parts
    assert sum(fill.quantity for fill in fills) == Decimal(quantity)
    step = Decimal("0.1") if "." in quantity else Decimal(1)
    assert all(fill.quantity > 0 and fill.quantity % step == 0 for fill in fills)


# Faults


def test_a_fault_hits_the_nth_matching_call_and_so_many_after_it(book: PaperExchange) -> None:
    book.add_fault(
        Fault(operation=Operation.PLACE, action=Action.UNAVAILABLE, client_order_id="x*", symbol="S?Y", nth=2, times=2)
    )
    calls = (("x1", "SPY"), ("y1", "SPY"), ("x2", "QQQ"), ("x3", "SPY"), ("x4", "SPY"), ("x5", "SPY"))
    hits = [bool(book.draw(Operation.PLACE, client_id, symbol)) for client_id, symbol in calls]
    assert hits == [False, False, False, True, True, False]


def test_a_fault_armed_here_hits_a_call_made_there_once(book: PaperExchange, path: Path, clock: HandClock) -> None:
    book.add_fault(Fault(operation=Operation.PLACE, action=Action.REJECT, reason="No", account_id="A*"))
    with closing(opened(path, clock)) as there:
        assert there.place(ticket("c1")).reason == "No"
    assert book.place(ticket("c2")).status is ReportStatus.FILLED


def test_a_fault_for_another_account_waits_for_it(book: PaperExchange, path: Path, clock: HandClock) -> None:
    book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD, account_id="A2"))
    assert book.place(ticket()).status is ReportStatus.FILLED
    with closing(opened(path, clock, account_id="A2")) as other:
        assert other.place(ticket()).status is ReportStatus.WORKING


def test_a_plan_given_at_opening_is_not_armed_again_by_a_restart(path: Path, clock: HandClock) -> None:
    hold = Fault(operation=Operation.PLACE, action=Action.HOLD)
    statuses = []
    for number in range(3):
        with closing(opened(path, clock, faults=(hold, replace(hold, nth=2)))) as book:
            statuses.append(book.place(ticket(f"c{number}")).status)
    assert statuses == [ReportStatus.WORKING, ReportStatus.WORKING, ReportStatus.FILLED]


def test_cleared_faults_hit_nothing(book: PaperExchange) -> None:
    book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD, times=None))
    book.clear_faults()
    assert book.place(ticket()).status is ReportStatus.FILLED


def test_hiding_for_a_time_ends_with_it(book: PaperExchange, clock: HandClock) -> None:
    mark = book.reports().mark
    book.place(ticket())
    book.add_fault(Fault(operation=Operation.FIND, action=Action.HIDE, seconds=30))
    book.add_fault(Fault(operation=Operation.REPORTS, action=Action.HIDE, seconds=30))
    for _ in range(3):
        assert book.find("c1") is None
        answer = book.reports(mark)
        assert answer.reports == []
        mark = answer.mark
    clock.move(30)
    assert book.find("c1") is not None
    assert len(book.reports(mark).reports) == 1


def test_a_cancelled_order_that_is_filled_late_keeps_its_status(book: PaperExchange, clock: HandClock) -> None:
    book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD))
    book.add_fault(Fault(operation=Operation.CANCEL, action=Action.LATE_FILL_AFTER_CANCEL, seconds=5))
    book.place(ticket())
    book.cancel(ref())
    assert book.orders()[0].filled_quantity == 0
    clock.move(5)
    book.advance()
    order = book.orders()[0]
    assert (order.status, order.filled_quantity) == (ReportStatus.CANCELLED, Decimal(100))
    assert order.fills[0].commission == Decimal("1.00")


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        (Operation.FIND, Action.REFUSE),
        (Operation.PLACE, Action.HIDE),
        (Operation.CANCEL, Action.OVERFILL),
        (Operation.BALANCES, Action.DUPLICATE),
    ],
)
def test_a_fault_that_cannot_happen_is_not_made(operation: Operation, action: Action) -> None:
    with pytest.raises(ValueError, match="nothing that happens"):
        Fault(operation=operation, action=action)


@pytest.mark.parametrize("fields", [{"nth": 0}, {"times": 0}, {"seconds": -1.0}, {"seconds": float("nan")}])
def test_a_fault_with_senseless_numbers_is_not_made(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="needs"):
        Fault(operation=Operation.PLACE, action=Action.SLOW, **fields)


# By hand


def test_a_cancelled_orders_rest_is_never_filled(path: Path, clock: HandClock) -> None:
    with closing(opened(path, clock, market=Market(fill_delay_seconds=1, partial_fill_rate=1, seed=2))) as book:
        book.place(ticket())
        clock.move(1)
        book.cancel(ref())
        part = book.orders()[0].filled_quantity
        clock.move(1000)
        book.advance()
        order = book.orders()[0]
        assert (order.status, order.filled_quantity) == (ReportStatus.CANCELLED, part)
        assert 0 < part < 100


def test_filling_by_hand_needs_force_beyond_what_is_open(path: Path, clock: HandClock) -> None:
    with closing(opened(path, clock, market=Market(fill_delay_seconds=None))) as book:
        book.place(ticket())
        fill = book.fill_order(ref(), Decimal(40), Decimal("9.99"), late_commission=True)
        assert (fill.price, fill.commission) == (Decimal("9.99"), None)
        book.set_commission(fill.fill_id, Decimal("0.37"))
        with pytest.raises(ValueError, match="cannot be filled"):
            book.fill_order(ref(), Decimal(61))
        book.fill_order(ref())
        with pytest.raises(ValueError, match="cannot be filled"):
            book.fill_order(ref(), Decimal(1))
        book.fill_order(ref(), Decimal(1), force=True)
        order = book.orders()[0]
        assert (order.status, order.filled_quantity) == (ReportStatus.FILLED, Decimal(101))
        assert [fill.commission for fill in order.fills] == [Decimal("0.37"), Decimal(0), Decimal(0)]


def test_a_fill_is_busted_once_and_corrected_within_the_order(book: PaperExchange) -> None:
    fill_id = book.place(ticket()).fills[0].fill_id
    with pytest.raises(ValueError, match="does not fit"):
        book.correct_fill(fill_id, quantity=Decimal(101))
    assert book.orders()[0].filled_quantity == 100
    new = book.correct_fill(fill_id, quantity=Decimal(90))
    assert (new.quantity, new.price, new.corrects) == (Decimal(90), Decimal("235.15"), fill_id)
    with pytest.raises(ValueError, match="busted already"):
        book.bust_fill(fill_id)
    with pytest.raises(ValueError, match="no fill"):
        book.bust_fill("nonesuch")
    assert book.orders()[0].filled_quantity == 90


def test_only_orders_good_for_the_day_expire(path: Path, clock: HandClock) -> None:
    with closing(opened(path, clock, market=Market(fill_delay_seconds=None))) as book:
        for client_id, tif in (("none", None), ("day", Tif.DAY), ("gtc", Tif.GTC)):
            book.place(ticket(client_id, tif=tif))
        assert book.expire_day() == 2
        assert {order.ticket.client_order_id: order.status for order in book.orders()} == {
            "none": ReportStatus.EXPIRED,
            "day": ReportStatus.EXPIRED,
            "gtc": ReportStatus.WORKING,
        }


def test_a_late_no_of_the_venue_ends_a_working_order_only(path: Path, clock: HandClock) -> None:
    with closing(opened(path, clock, market=Market(fill_delay_seconds=None))) as book:
        book.place(ticket())
        book.reject_order(ref(), "Margin call")
        assert (book.orders()[0].status, book.orders()[0].reason) == (ReportStatus.REJECTED, "Margin call")
        with pytest.raises(ValueError, match="REJECTED"):
            book.cancel_unasked(ref(), "again")
        with pytest.raises(ValueError, match="no order"):
            book.reject_order(ref("c9"), "unknown")


# Reports


def test_all_reports_are_the_last_days_and_the_unfinished(book: PaperExchange, clock: HandClock) -> None:
    book.place(ticket("old"))
    book.add_fault(Fault(operation=Operation.PLACE, action=Action.HOLD))
    book.place(ticket("resting"))
    clock.move(86_401)
    book.place(ticket("new"))
    assert [report.client_order_id for report in book.reports().reports] == ["resting", "new"]
    book.bust_fill(book.orders("old")[0].fills[0].fill_id)
    assert [report.client_order_id for report in book.reports().reports] == ["resting", "new", "old"]
    assert book.find("old") is not None


def test_parts_of_an_answer_tell_every_order_once_and_what_changes_meanwhile_again(book: PaperExchange) -> None:
    for number in range(7):
        book.place(ticket(f"c{number}"))
    first = book.reports(at_most=3)
    assert ([r.client_order_id for r in first.reports], first.has_more) == (["c0", "c1", "c2"], True)
    book.bust_fill(book.orders("c1")[0].fills[0].fill_id)
    second = book.reports(first.mark, at_most=3)
    assert ([r.client_order_id for r in second.reports], second.has_more) == (["c3", "c4", "c5"], True)
    last = book.reports(second.mark, at_most=3)
    assert ([r.client_order_id for r in last.reports], last.has_more) == (["c6", "c1"], False)
    assert book.reports(last.mark, at_most=3).reports == []


def test_an_order_held_back_keeps_no_answer_from_coming_to_its_end(book: PaperExchange) -> None:
    for number in range(5):
        book.place(ticket(f"c{number}"))
    book.add_fault(Fault(operation=Operation.REPORTS, action=Action.HIDE, client_order_id="c0"))
    answer = book.reports(at_most=2)
    assert ([r.client_order_id for r in answer.reports], answer.has_more) == (["c1", "c2", "c3", "c4"], False)


@pytest.mark.parametrize("mark", [-1, 10**9])
def test_a_mark_that_is_not_of_this_book_gets_everything(book: PaperExchange, mark: int) -> None:
    book.place(ticket())
    assert len(book.reports(mark).reports) == 1


def test_asking_for_news_stays_cheap_however_many_orders_are_finished(book: PaperExchange) -> None:
    for number in range(3_000):
        book.place(ticket(f"c{number}"))
    mark = book.reports().mark
    took_seconds = []
    for _ in range(50):
        began = perf_counter()
        assert book.reports(mark).reports == []
        took_seconds.append(perf_counter() - began)
    # The fastest says what the work is; the others, what else the machine had to do. Reading all orders takes a hundred times as long.
    assert min(took_seconds) < 0.001


def test_cash_and_positions_of_a_known_day(path: Path, clock: HandClock) -> None:
    market = Market(opening_cash=Decimal(10_000))
    gold = Instrument(symbol="GC", currency="EUR", multiplier=Decimal(100))
    with closing(opened(path, clock, market=market)) as book:
        book.place(ticket("c1", quantity=Decimal(10), reference_price=Decimal(100)))
        book.place(ticket("c2", quantity=Decimal(10), reference_price=Decimal(110)))
        book.place(ticket("c3", quantity=Decimal(5), reference_price=Decimal(120), side=Side.SELL))
        book.place(ticket("c4", quantity=Decimal(2), reference_price=Decimal(7), side=Side.SELL, instrument=gold))
        spy, short = book.positions()
        assert (spy.quantity, spy.average_price) == (Decimal(15), Decimal(105))
        assert (short.quantity, short.average_price) == (Decimal(-2), Decimal(7))
        euros, dollars = book.balances()
        assert (euros.currency, euros.cash, euros.equity) == ("EUR", Decimal(1399), Decimal(-1))
        assert (dollars.currency, dollars.cash, dollars.equity) == ("USD", Decimal(8497), Decimal(10_297))
        book.place(ticket("c5", quantity=Decimal(20), reference_price=Decimal(90), side=Side.SELL))
        assert (book.positions()[0].quantity, book.positions()[0].average_price) == (Decimal(-5), Decimal(90))
        book.place(ticket("c6", quantity=Decimal(5), reference_price=Decimal(80)))
        assert [position.instrument.symbol for position in book.positions()] == ["GC"]


# What must hold whatever happens

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("place"), st.sampled_from(Side), st.integers(1, 50), st.sampled_from(OrderType)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("move"), st.floats(0.1, 5)),
        st.tuples(st.just("bust"), st.integers(0, 30)),
        st.tuples(st.just("correct"), st.integers(0, 30), st.integers(1, 60)),
        st.tuples(st.just("expire")),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("overfill"), st.integers(1, 9)),
        st.tuples(st.just("cancel fault"), st.sampled_from((Action.CANCEL_RACE, Action.LATE_FILL_AFTER_CANCEL))),
        st.tuples(st.just("hide")),
        st.tuples(st.just("look")),
    ),
    max_size=40,
)


class Watched:
    """A book, what was done to it, and what somebody who only asks for news knows of it."""

    def __init__(self, path: Path, market: Market) -> None:
        self.path = path
        self.market = market
        self.clock = HandClock()
        self.book = PaperExchange(path, account_id="A1", market=market, clock=self.clock)
        self.placed = 0
        self.overfill_armed = Decimal(0)
        self.overfilled: dict[str, Decimal] = {}
        self.known: dict[str, Report] = {}
        self.mark: int | None = None

    def do(self, step: tuple[object, ...]) -> None:
        kind, *values = step
        orders = self.book.orders()
        fills = [fill for order in orders for fill in order.fills]
        if kind == "place":
            side, quantity, order_type = values
            client_id = f"c{self.placed}"
            self.placed += 1
            self.overfilled[client_id], self.overfill_armed = self.overfill_armed, Decimal(0)
            self.book.place(
                ticket(
                    client_id,
                    side=side,
                    quantity=Decimal(quantity),
                    order_type=order_type,
                    limit_price=Decimal("10.01") if "LIMIT" in order_type else None,
                    stop_price=Decimal("10.02") if "STOP" in order_type else None,
                    tif=Tif.IOC if quantity % 5 == 0 else None,
                )
            )
        elif kind == "cancel" and orders:
            with suppress(OrderRefused):
                self.book.cancel(OrderRef(client_order_id=orders[values[0] % len(orders)].ticket.client_order_id))
        elif kind == "move":
            self.clock.move(values[0])
        elif kind == "bust" and fills:
            with suppress(ValueError):
                self.book.bust_fill(fills[values[0] % len(fills)].fill_id)
        elif kind == "correct" and fills:
            with suppress(ValueError):
                self.book.correct_fill(fills[values[0] % len(fills)].fill_id, quantity=Decimal(values[1]))
        elif kind == "expire":
            self.book.expire_day()
        elif kind == "reopen":
            self.book.close()
            self.book = PaperExchange(self.path, account_id="A1", market=self.market, clock=self.clock)
        elif kind == "overfill" and not self.overfill_armed:
            self.overfill_armed = Decimal(values[0])
            self.book.add_fault(Fault(operation=Operation.PLACE, action=Action.OVERFILL, quantity=self.overfill_armed))
        elif kind == "cancel fault":
            self.book.add_fault(Fault(operation=Operation.CANCEL, action=values[0], seconds=1.0))
        elif kind == "hide":
            self.book.add_fault(Fault(operation=Operation.REPORTS, action=Action.HIDE, client_order_id="c[02468]"))
        elif kind == "look":
            self.look()

    def look(self) -> None:
        answer = self.book.reports(self.mark)
        self.mark = answer.mark
        self.known |= {report.client_order_id: report for report in answer.reports}

    def check(self) -> None:
        orders = self.book.orders()
        assert [order.ticket.client_order_id for order in orders] == [f"c{number}" for number in range(self.placed)]
        assert len({order.change for order in orders}) == len(orders)
        held = Decimal(0)
        cash = self.market.opening_cash
        for order in orders:
            filled = sum((fill.quantity for fill in order.fills if not fill.busted), Decimal(0))
            assert filled <= order.ticket.quantity + self.overfilled[order.ticket.client_order_id]
            if order.status is ReportStatus.REJECTED:
                assert order.fills == ()
            for fill in order.fills:
                if not fill.busted:
                    held += order.ticket.side.sign * fill.quantity
                    cash -= order.ticket.side.sign * fill.quantity * fill.price + fill.commission
        assert sum((position.quantity for position in self.book.positions()), Decimal(0)) == held
        assert [balance.cash for balance in self.book.balances()] == [cash]


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 10), delay=st.sampled_from((0.0, 1.0)))
def test_fills_sums_and_news_are_right_whatever_happens(
    steps: list[tuple[object, ...]], seed: int, delay: float
) -> None:
    market = Market(fill_delay_seconds=delay, partial_fill_rate=0.5, rejection_rate=0.1, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        watched = Watched(Path(folder) / "book.db", market)
        try:
            for step in steps:
                watched.do(step)
                # What is due happens first, so that the sums below are those of one moment.
                watched.book.advance()
                watched.check()
            watched.book.clear_faults()
            watched.look()
            truth = {order.ticket.client_order_id: order.report() for order in watched.book.orders()}
            assert watched.known == truth
        finally:
            watched.book.close()


def test_one_order_and_what_changed_since_a_mark_are_told_without_a_fault(tmp_path: Path) -> None:
    with closing(PaperExchange(tmp_path / "book.db", account_id="A")) as book:
        first = book.place(ticket("first"))
        mark = book.mark()
        book.add_fault(Fault(operation=Operation.REPORTS, action=Action.HIDE, times=None))
        second = book.place(ticket("second"))
        changed = book.changed_since(mark)
        assert [order.broker_order_id for order in changed] == [second.broker_order_id]
        assert changed[-1].change == book.mark()
        assert book.changed_since(book.mark()) == []
        assert book.order(first.broker_order_id) == book.orders("first")[0]
        assert book.order("nonesuch") is None


def test_a_correction_has_the_id_that_the_venue_makes_of_the_corrected_one(tmp_path: Path) -> None:
    with closing(PaperExchange(tmp_path / "book.db", account_id="A", corrected_fill_id=lambda old: f"{old}+")) as book:
        (fill,) = book.place(ticket("order")).fills
        corrected = book.correct_fill(fill.fill_id, price=Decimal(9))
        assert (corrected.fill_id, corrected.corrects) == (f"{fill.fill_id}+", fill.fill_id)
        assert book.correct_fill(corrected.fill_id, price=Decimal(8)).fill_id == f"{fill.fill_id}++"


# Positions that change without an order of ours


def test_a_trade_by_hand_is_a_filled_order_without_a_client_id_and_may_be_repeated(book: PaperExchange) -> None:
    book.place(ticket())
    for _ in range(2):
        order = book.trade_by_hand(Instrument(symbol="SPY"), Decimal(-60), Decimal(230))
        assert (order.status, order.ticket.client_order_id, order.ticket.side) == (ReportStatus.FILLED, "", Side.SELL)
    (position,) = book.positions()
    assert position.quantity == -20
    assert {report.client_order_id for report in book.reports().reports} == {"c1", ""}


def test_what_moves_without_an_execution_moves_no_money_and_is_in_no_list(book: PaperExchange) -> None:
    book.place(ticket())
    before = [balance.cash for balance in book.balances()]
    book.move_position(Instrument(symbol="SPY"), Decimal(-100))
    book.move_position(Instrument(symbol="XYZ"), Decimal(100), Decimal(50))
    (position,) = book.positions()
    assert (position.instrument.symbol, position.quantity, position.average_price) == ("XYZ", 100, 50)
    assert [balance.cash for balance in book.balances()] == before
    assert len(book.reports().reports) == 1
    with pytest.raises(ValueError, match="cannot move"):
        book.move_position(Instrument(symbol="SPY"), Decimal(0))


def test_a_book_of_before_transfers_takes_them_too(path: Path, clock: HandClock) -> None:
    opened(path, clock).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE transfers")
    with closing(opened(path, clock)) as book:
        book.move_position(Instrument(symbol="SPY"), Decimal(5))
        assert [position.quantity for position in book.positions()] == [5]


def test_a_book_of_before_contract_facts_were_kept_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "book.db"
    silver = Instrument(symbol="SI", asset_class=AssetClass.FUTURE, expiry="202612", multiplier=Decimal(1000))
    with closing(PaperExchange(path, account_id="acc", market=Market())) as book:
        book.place(
            Ticket(
                client_order_id="old",
                instrument=silver,
                side=Side.BUY,
                quantity=Decimal(1),
                order_type=OrderType.MARKET,
            )
        )
        book.advance()
    with closing(sqlite3.connect(path)) as db, db:
        for column in ("con_id", "trading_class", "isin", "is_protective", "link", "display_quantity"):
            db.execute(f"ALTER TABLE orders DROP COLUMN {column}")
        db.execute("ALTER TABLE fills DROP COLUMN market_volume")
        db.execute("PRAGMA user_version = 1")
    facts = replace(silver, multiplier=Decimal(5000), trading_class="SI", con_id=7, isin="US78462F1030")
    for _ in range(2):
        with closing(PaperExchange(path, account_id="acc", market=Market())) as book:
            if not book.orders("new"):
                book.place(
                    Ticket(
                        client_order_id="new",
                        instrument=facts,
                        side=Side.BUY,
                        quantity=Decimal(2),
                        order_type=OrderType.MARKET,
                    )
                )
            book.advance()
            held = {position.instrument: position.quantity for position in book.positions()}
            assert held == {silver: Decimal(1), facts: Decimal(2)}


def test_a_book_of_before_icebergs_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "book.db"
    bought = Ticket(
        client_order_id="old",
        instrument=Instrument(symbol="AAPL"),
        side=Side.BUY,
        quantity=Decimal(25),
        order_type=OrderType.LIMIT,
        limit_price=Decimal(10),
    )
    with closing(PaperExchange(path, account_id="acc", market=Market())) as book:
        book.place(bought)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("ALTER TABLE orders DROP COLUMN display_quantity")
        db.execute("ALTER TABLE fills DROP COLUMN market_volume")
        db.execute("PRAGMA user_version = 3")
    with closing(PaperExchange(path, account_id="acc", market=Market())) as book:
        (old,) = book.orders("old")
        assert old.ticket == bought
        shown = replace(bought, client_order_id="new", display_quantity=Decimal(10))
        book.place(shown)
        (new,) = book.orders("new")
        assert new.ticket == shown


@pytest.mark.parametrize(
    ("shown", "parts"), [("10", [10, 10, 5]), ("24", [24, 1]), ("0.1", [Decimal("0.1")] * 49 + [Decimal("20.1")])]
)
def test_what_is_shown_in_part_fills_part_by_part(tmp_path: Path, shown: str, parts: list[Decimal]) -> None:
    iceberg = Ticket(
        client_order_id="tag",
        instrument=Instrument(symbol="AAPL"),
        side=Side.BUY,
        quantity=Decimal(25),
        order_type=OrderType.LIMIT,
        limit_price=Decimal(10),
        display_quantity=Decimal(shown),
    )
    with closing(PaperExchange(tmp_path / "book.db", account_id="acc", market=Market(fill_delay_seconds=0.0))) as book:
        report = book.place(iceberg)
        assert [fill.quantity for fill in report.fills] == parts
        assert report.status is ReportStatus.FILLED
        with pytest.raises(OrderRefused, match="displayed quantity"):
            book.place(replace(iceberg, client_order_id="all", display_quantity=Decimal(25)))


def test_a_book_of_before_volumes_were_kept_goes_on_with_its_fills(path: Path, clock: HandClock) -> None:
    with closing(opened(path, clock)) as book:
        book.place(ticket())
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("ALTER TABLE fills DROP COLUMN market_volume")
        db.execute("ALTER TABLE orders DROP COLUMN display_quantity")
        db.execute("PRAGMA user_version = 3")
    for _ in range(2):
        with closing(opened(path, clock)) as book:
            assert [fill.market_volume for fill in book.orders()[0].fills] == [None]
