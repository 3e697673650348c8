"""One order against a reference book: whatever is lost, repeated or shuffled on the way, the record ends as the broker's truth."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from brokers.base import Fill, Report, ReportStatus
from execution_service.core.orders.effects import applied_events, bare
from execution_service.core.orders.events import Busted, Event, Filled
from execution_service.core.orders.order import Order, apply, apply_all
from execution_service.core.orders.report_events import new_events
from execution_service.core.orders.status import FINAL, ReasonCode, Status
from tests.builders import (
    NOW,
    at,
    cancel_requested,
    fill,
    filled_by,
    order,
    order_in,
    report,
)

ZERO = Decimal(0)
QUANTITY = Decimal(100)
THOROUGH = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Book:
    """The truth about one order at a broker, and every snapshot that the broker ever gave of it."""

    of: Order
    reopens: bool
    """Whether an annulment puts a filled order back to work, as some venues do, or leaves it done with less."""
    shows_annulled: bool
    """Whether an annulled execution is still listed among the fills."""
    status: ReportStatus = ReportStatus.WORKING
    fills: dict[str, Fill] = field(default_factory=dict)
    annulled: set[str] = field(default_factory=set)
    snapshots: list[Report] = field(default_factory=list)

    @property
    def standing(self) -> list[Fill]:
        return [f for f in self.fills.values() if f.fill_id not in self.annulled]

    @property
    def filled(self) -> Decimal:
        return sum((f.quantity for f in self.standing), ZERO)

    def execute(self, quantity: int, price: Decimal, commission: Decimal | None) -> None:
        """A fill; late if the order is finished already, an overfill if it is more than is left."""
        number = len(self.fills) + 1
        self.fills[f"f{number}"] = fill(f"f{number}", quantity, price, commission=commission, time=at(number))
        if self.status is ReportStatus.WORKING and self.filled >= QUANTITY:
            self.status = ReportStatus.FILLED

    def bust(self, which: int) -> None:
        if self.standing:
            self.annulled.add(self.standing[which % len(self.standing)].fill_id)
            if self.reopens and self.status is ReportStatus.FILLED and self.filled < QUANTITY:
                self.status = ReportStatus.WORKING

    def correct(self, which: int, quantity: int, price: Decimal) -> None:
        if self.standing:
            self.bust(which)
            self.execute(quantity, price, None)

    def charge(self, which: int, commission: Decimal) -> None:
        free = [f for f in self.standing if f.commission is None]
        if free:
            chosen = free[which % len(free)]
            self.fills[chosen.fill_id] = replace(chosen, commission=commission, commission_currency="USD")

    def end(self, status: ReportStatus) -> None:
        if self.status is ReportStatus.WORKING:
            self.status = status

    def snapshot(self, hidden: int = 0) -> Report:
        """What the broker says now; `hidden` executions, the newest first, are counted but not shown yet."""
        shown = list(self.fills.values()) if self.shows_annulled else self.standing
        return report(
            self.of,
            self.status,
            shown[: len(shown) - hidden] if hidden else shown,
            filled_quantity=self.filled,
            busted=self.annulled,
        )

    @property
    def implied(self) -> set[Status]:
        """What the record must say in the end. An annulled fill may have shown a rejected order alive, so that it ends as cancelled."""
        if self.filled >= QUANTITY:
            return {Status.FILLED}
        match self.status:
            case ReportStatus.WORKING:
                return {Status.PARTIALLY_FILLED if self.filled else Status.SUBMITTED}
            case ReportStatus.REJECTED if not self.filled:
                return {Status.REJECTED, Status.CANCELLED} if self.fills else {Status.REJECTED}
            case ReportStatus.EXPIRED:
                return {Status.EXPIRED}
        return {Status.CANCELLED}


PRICES = st.integers(900, 1100).map(lambda cents: Decimal(cents) / 100)
QUANTITIES = st.sampled_from((1, 7, 20, 40, 60, 100, 130))
COMMISSIONS = st.sampled_from((Decimal("0.35"), Decimal("1.00"), ZERO))
ACTIONS = st.one_of(
    st.tuples(st.just("execute"), QUANTITIES, PRICES, st.none() | COMMISSIONS),
    st.tuples(st.just("execute"), QUANTITIES, PRICES, st.none()),
    st.tuples(st.just("bust"), st.integers(0, 3)),
    st.tuples(st.just("correct"), st.integers(0, 3), QUANTITIES, PRICES),
    st.tuples(st.just("charge"), st.integers(0, 3), COMMISSIONS),
    st.tuples(st.just("end"), st.sampled_from((ReportStatus.CANCELLED, ReportStatus.EXPIRED, ReportStatus.REJECTED))),
)
STARTS = st.sampled_from(
    tuple(
        apply_all(order_in(status, quantity=QUANTITY), wishes)
        for status in (Status.PENDING, Status.SUBMITTING, Status.IN_DOUBT, Status.SUBMITTED)
        for wishes in ((), (cancel_requested(),))
        if status is not Status.PENDING or not wishes
    )
)


@st.composite
def books(draw: st.DrawFn) -> Book:
    book = Book(of=draw(STARTS), reopens=draw(st.booleans()), shows_annulled=draw(st.booleans()))
    book.snapshots.append(book.snapshot())
    for action, *details in draw(st.lists(ACTIONS, max_size=8)):
        getattr(book, action)(*details)
        book.snapshots.append(book.snapshot(hidden=draw(st.integers(0, 2)) if book.fills else 0))
    return book


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[Book, list[Report]]:
    """A book, and its snapshots as they might arrive: some lost, some twice, in any order."""
    book = draw(books())
    arriving = st.sampled_from(book.snapshots)
    return book, draw(st.lists(arriving, max_size=2 * len(book.snapshots)))


def listened(about: Order, snapshot: Report) -> Order:
    """The order after the report, each event judged as it is taken."""
    for event in new_events(about, snapshot, NOW):
        after = apply(about, event)
        assert_honest(about, event, after, snapshot)
        about = after
    assert new_events(about, snapshot, NOW) == [], "a report that was heard tells nothing the second time"
    return about


def assert_honest(before: Order, event: Event, after: Order, snapshot: Report) -> None:
    if after.filled_quantity < before.filled_quantity:
        assert isinstance(event, Busted), "only an annulment takes a fill away"
    assert after.filled_quantity == sum((f.quantity for f in after.fills), ZERO)
    assert after.quantity is not None
    if after.status is Status.FILLED:
        assert after.filled_quantity >= after.quantity, "filled means that the fills add up"
    elif after.status in FINAL and after.status is not before.status:
        evidence = {
            Status.REJECTED: {ReportStatus.REJECTED},
            Status.EXPIRED: {ReportStatus.EXPIRED},
            Status.CANCELLED: {ReportStatus.CANCELLED, ReportStatus.REJECTED, ReportStatus.FILLED},
        }
        assert snapshot.status in evidence[after.status], "no end that the broker did not state"
        assert snapshot.filled_quantity == after.filled_quantity, "no end before all its fills are here"
    if before.status in FINAL and after.status not in FINAL:
        assert isinstance(event, Busted | Filled), "only executions and their annulment reopen an order"


def truth(book: Book) -> tuple[Decimal, Decimal | None, Decimal]:
    standing = book.standing
    value = sum((f.price * f.quantity for f in standing), ZERO)
    commission = sum((f.commission for f in standing if f.commission is not None), ZERO)
    return book.filled, value / book.filled if book.filled else None, commission


@THOROUGH
@given(deliveries())
def test_any_delivery_followed_by_the_last_snapshot_ends_as_the_broker_has_it(case: tuple[Book, list[Report]]) -> None:
    book, arrived = case
    about = book.of
    for snapshot in [*arrived, book.snapshot()]:
        about = listened(about, snapshot)
    assert about.status in book.implied
    assert (about.filled_quantity, about.average_price, about.commission) == truth(book)
    assert about.busted_fill_ids == book.annulled
    assert about.status.is_final == (about.finished_at is not None)
    assert about.filled_at == max((f.time for f in book.standing), default=None)


@THOROUGH
@given(books(), st.data())
def test_two_deliveries_of_the_same_life_end_alike(book: Book, data: st.DataObject) -> None:
    ends = []
    for _ in range(2):
        about = book.of
        for snapshot in [*data.draw(st.permutations(book.snapshots)), book.snapshot()]:
            about = listened(about, snapshot)
        ends.append(about)
    one, other = ends
    assert {f.fill_id: f for f in one.fills} == {f.fill_id: f for f in other.fills}
    assert (one.average_price, one.commission, one.filled_at) == (
        other.average_price,
        other.commission,
        other.filled_at,
    )
    assert one.status is other.status or {one.status, other.status} <= book.implied


@THOROUGH
@given(deliveries())
def test_an_order_is_the_fold_of_its_events(case: tuple[Book, list[Report]]) -> None:
    book, arrived = case
    about = book.of
    for snapshot in arrived:
        about = listened(about, snapshot)
    assert apply_all(bare(about), about.events) == about
    assert about.version == len(about.events)
    *_, last = [about, *(applied_event.after for applied_event in applied_events(about))]
    assert last == about


@THOROUGH
@given(deliveries(), st.integers(0, 9))
def test_a_known_fill_id_changes_nothing_at_any_point_of_any_life(case: tuple[Book, list[Report]], which: int) -> None:
    book, arrived = case
    about = book.of
    for snapshot in arrived:
        about = listened(about, snapshot)
        known = [*(f.fill_id for f in about.fills), *sorted(about.busted_fill_ids)]
        if known:
            again = apply(about, filled_by(known[which % len(known)], 999, "0.01"))
            assert replace(again, events=about.events) == about


@THOROUGH
@given(deliveries())
def test_a_stale_delivery_after_the_last_snapshot_changes_no_figure(case: tuple[Book, list[Report]]) -> None:
    book, arrived = case
    settled = book.of
    for snapshot in [*book.snapshots, book.snapshot()]:
        settled = listened(settled, snapshot)
    for snapshot in arrived:
        assert listened(settled, snapshot) == settled, "everything was known"


@THOROUGH
@given(books())
def test_a_life_in_which_the_executions_are_never_shown_never_ends(book: Book) -> None:
    about = book.of
    for snapshot in book.snapshots:
        if snapshot.filled_quantity:
            about = listened(about, replace(snapshot, fills=()))
            assert about.filled_quantity == 0
            assert not about.status.is_final


@THOROUGH
@given(deliveries())
def test_our_wish_is_the_reason_of_every_cancel_that_the_broker_confirms(case: tuple[Book, list[Report]]) -> None:
    book, arrived = case
    about = book.of
    for snapshot in [*arrived, book.snapshot()]:
        about = listened(about, snapshot)
    if about.status is Status.CANCELLED and book.status is ReportStatus.CANCELLED:
        assert about.reason is not None
        wished = about.cancel_request is not None
        assert about.reason.code is (ReasonCode.CANCEL_REQUESTED if wished else ReasonCode.BROKER_CANCELLED)


@given(st.permutations(range(4)))
@example([3, 2, 1, 0])
def test_fills_in_any_order_end_in_the_same_figures(places: list[int]) -> None:
    parts = [fill(f"f{n}", 25, Decimal(10 + n), time=at(n), commission=Decimal(n)) for n in range(4)]
    about = order(quantity=QUANTITY)
    for place in places:
        about = listened(about, report(about, fills=[parts[place]]))
    assert (about.status, about.filled_quantity, about.average_price, about.commission, about.filled_at) == (
        Status.FILLED,
        QUANTITY,
        Decimal("11.5"),
        Decimal(6),
        at(3),
    )
