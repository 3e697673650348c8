"""An iceberg order of Zerodha's: Kite makes an order of each part, one after the other, and they are one order here."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.base import AssetClass, Fill, FillsShown, Instrument, OrderRef, OrderType, Report, ReportStatus, Tif
from brokers.errors import AnswerUnclear, HeldBack, OrderRefused
from brokers.zerodha import dialect, rows
from brokers.zerodha.adapter import ZerodhaBroker, create
from simulators.stage_zerodha import config_for
from simulators.zerodha.book import Legs
from simulators.zerodha.server import SimulatedKite
from tests.contract.zerodha.stage import TAG, found, hold, last_form, limit, order_row, orders_of, ticket

NIFTY = Instrument(symbol="NIFTY26DECFUT", asset_class=AssetClass.FUTURE)
FIRST, SECOND, THIRD = "261121000000001", "261121000000002", "261121000000003"
DONE = {"status": "COMPLETE", "filled_quantity": 10}


def leg(number: int, order_id: str, *, of: int = 3, **changes: Any) -> dict[str, Any]:
    total = of * 10
    meta = {"iceberg": {"leg": number, "legs": of, "leg_quantity": 10, "total_quantity": total}}
    return order_row(variety="iceberg", order_id=order_id, meta=meta, **changes)


def of_parent(number: int, order_id: str, **changes: Any) -> dict[str, Any]:
    """A later leg as Kite ties it to the first: by its parent, and by no tag."""
    return leg(number, order_id, **({"parent_order_id": FIRST, "tag": None, "tags": []} | changes))


def reports_of(told: list[dict[str, Any]]) -> list[Report]:
    read, malformed = rows.read_orders(told)
    return dialect.reports(read, {}, malformed)


# What the lists say


def test_a_leg_without_a_tag_is_its_parents() -> None:
    (report,) = reports_of([leg(1, FIRST, **DONE), of_parent(2, SECOND, filled_quantity=4)])
    assert (report.client_order_id, report.broker_order_id) == (TAG, FIRST)
    assert (report.status, report.filled_quantity) == (ReportStatus.WORKING, Decimal(14))


def test_a_parent_that_is_told_as_a_number_is_the_parent() -> None:
    (report,) = reports_of(
        [leg(1, FIRST, parent_order_id=0, **DONE), of_parent(2, SECOND, parent_order_id=int(FIRST), filled_quantity=4)]
    )
    assert (report.client_order_id, report.broker_order_id, report.filled_quantity) == (TAG, FIRST, Decimal(14))


@pytest.mark.parametrize("parent", [None, "", " ", 0, False, True, [], {"id": FIRST}, Decimal("1.5")], ids=repr)
def test_an_order_can_be_read_without_its_parent(parent: object) -> None:
    (row,) = orders_of([order_row(parent_order_id=parent)])
    assert (row.tag, row.parent_order_id) == (TAG, None)


def test_a_leg_that_cannot_be_read_is_its_parents() -> None:
    read, malformed = rows.read_orders([leg(1, FIRST, **DONE), of_parent(2, SECOND, filled_quantity="much")])
    assert [row.tag for row in malformed] == [TAG]
    assert dialect.reports(read, {}, malformed) == []
    # Nor is a readable one somebody else's while its parent cannot be read.
    assert reports_of([leg(1, FIRST, filled_quantity="much"), of_parent(2, SECOND, filled_quantity=4)]) == []


def test_the_legs_of_a_person_are_foreign_and_none_of_ours() -> None:
    own = {"tag": None, "tags": []}
    by_hand = [leg(1, SECOND, **own, **DONE), leg(2, THIRD, **own, parent_order_id=SECOND, filled_quantity=4)]
    ours, theirs = reports_of([leg(1, FIRST, filled_quantity=3), *by_hand])
    assert (ours.client_order_id, ours.filled_quantity, ours.orders_under_tag) == (TAG, Decimal(3), ())
    assert (theirs.client_order_id, theirs.broker_order_id, theirs.filled_quantity) == ("", SECOND, Decimal(14))
    # Without a parent nothing ties them: each is an order of somebody's.
    apart = reports_of([leg(1, SECOND, **own, **DONE), leg(2, THIRD, **own)])
    assert [each.broker_order_id for each in apart] == [SECOND, THIRD]


def test_legs_share_a_parent_that_is_shown_nowhere() -> None:
    (report,) = reports_of(
        [leg(1, FIRST, parent_order_id="9", **DONE), of_parent(2, SECOND, parent_order_id="9", filled_quantity=4)]
    )
    assert (report.broker_order_id, report.filled_quantity) == (FIRST, Decimal(14))


def test_a_leg_whose_parent_is_shown_nowhere_is_the_next_one_of_its_tag() -> None:
    (report,) = reports_of([leg(1, FIRST, **DONE), leg(2, SECOND, parent_order_id="9", filled_quantity=4)])
    assert (report.broker_order_id, report.filled_quantity) == (FIRST, Decimal(14))


def test_with_a_leg_missing_from_the_list_nothing_is_concluded_but_what_is_shown() -> None:
    told = [leg(2, SECOND, parent_order_id=FIRST, **DONE), leg(3, THIRD, parent_order_id=FIRST, **DONE)]
    (report,) = reports_of(told)
    assert (report.broker_order_id, report.is_unclear) == (FIRST, True)
    assert (report.fills_shown, report.filled_quantity) == (FillsShown.SOME, Decimal(20))
    (gap,) = reports_of([leg(1, FIRST, **DONE), told[1]])
    assert (gap.status, gap.is_unclear, gap.filled_quantity) == (ReportStatus.WORKING, True, Decimal(20))


@pytest.mark.parametrize(
    "of_the_last",
    [
        [],
        [of_parent(2, SECOND) | {"variety": None, "meta": {}}],
        [of_parent(2, SECOND, filled_quantity=None, tag=7, tags=[7])],
    ],
    ids=["absent", "without its variety", "not to be read"],
)
def test_while_the_next_leg_is_not_shown_no_execution_counts_as_annulled(of_the_last: list[dict[str, Any]]) -> None:
    read, malformed = rows.read_orders([leg(1, FIRST, **DONE), *of_the_last])
    at = rows.utc("2026-11-23 09:16:38")
    fills = {FIRST: [Fill(fill_id="1", quantity=Decimal(10), price=Decimal(100), time=at)]}
    report = next(each for each in dialect.reports(read, fills, malformed) if each.client_order_id == TAG)
    assert (report.status, report.filled_quantity, report.fills_shown) == (
        ReportStatus.WORKING, Decimal(10), FillsShown.SOME
    )  # fmt: skip


def test_an_annulment_leaves_an_ended_order_ended() -> None:
    told = [leg(1, FIRST, of=2, **DONE), leg(2, SECOND, of=2, status="COMPLETE", filled_quantity=4)]
    (report,) = reports_of(told)
    assert (report.status, report.filled_quantity) == (ReportStatus.FILLED, Decimal(14))
    # While the legs do not come to the whole order, another one follows.
    (report,) = reports_of([leg(1, FIRST, of=2, **DONE)])
    assert report.status is ReportStatus.WORKING


def test_a_leg_that_is_rejected_ends_the_order_with_what_had_filled() -> None:
    refused = of_parent(2, SECOND, status="REJECTED", status_message="Insufficient funds", filled_quantity=None)
    (report,) = reports_of([leg(1, FIRST, **DONE), refused])
    assert (report.status, report.filled_quantity) == (ReportStatus.REJECTED, Decimal(10))
    assert report.reason == "Insufficient funds"


def test_the_fills_of_all_legs_are_added_up_and_come_in_their_sequence() -> None:
    read, _ = rows.read_orders([leg(1, FIRST, **DONE), of_parent(2, SECOND, filled_quantity=4)])
    at = rows.utc("2026-11-23 09:16:38")

    def fill(fill_id: str, quantity: int) -> Fill:
        return Fill(fill_id=fill_id, quantity=Decimal(quantity), price=Decimal(100), time=at)

    (report,) = dialect.reports(read, {FIRST: [fill("1", 10)], SECOND: [fill("2", 4)]})
    assert report.fills_shown is FillsShown.ALL
    assert [each.fill_id for each in report.fills] == ["1", "2"]
    assert report.fills[0].time < report.fills[1].time


@st.composite
def shown_lists(draw: st.DrawFn) -> tuple[list[dict[str, Any]], dict[str, int], Decimal, str, bool]:
    """An iceberg order as any list might show it: the rows, what each of these has filled, what was filled in all, how it
    stands, and whether a row is missing. A later leg is tied by its tag, its parent, or both."""
    part, of = draw(st.integers(1, 9)), draw(st.integers(2, 6))
    total = part * (of - 1) + draw(st.integers(1, part))
    filled = draw(st.integers(0, total))
    ended = "COMPLETE" if filled == total else draw(st.sampled_from(["OPEN", "CANCELLED", "REJECTED"]))
    ties = draw(st.sampled_from(["tag", "parent", "both", "a parent that is shown nowhere"]))
    rows_of_legs = []
    left, to_place = filled, total
    for number in range(1, of + 1):
        quantity = min(part, to_place)
        done = min(left, quantity)
        changes: dict[str, Any] = {"quantity": quantity, "filled_quantity": done}
        if number > 1 and ties == "parent":
            changes |= {"tag": None, "tags": []}
        if number > 1 and ties in ("parent", "both"):
            changes["parent_order_id"] = FIRST
        elif number > 1 and ties != "tag":
            changes["parent_order_id"] = "9"
        status = "COMPLETE" if done == quantity else ended
        meta = {"iceberg": {"leg": number, "legs": of, "leg_quantity": part, "total_quantity": total}}
        order_id = str(int(FIRST) + number - 1)
        rows_of_legs.append(order_row(variety="iceberg", order_id=order_id, status=status, meta=meta, **changes))
        left, to_place = left - done, to_place - quantity
        if done < quantity:
            break
    hidden = draw(st.sets(st.integers(1, len(rows_of_legs)), max_size=1)) - {len(rows_of_legs)}
    hidden -= {1} if ties == "parent" else set()
    shown = [row for place, row in enumerate(rows_of_legs, 1) if place not in hidden]
    by_row = {str(row["order_id"]): int(row["filled_quantity"]) for row in shown}
    return draw(st.permutations(shown)), by_row, Decimal(filled), ended, bool(hidden)


@given(shown_lists())
def test_however_the_legs_are_listed_each_execution_counts_once(
    told: tuple[list[dict[str, Any]], dict[str, int], Decimal, str, bool],
) -> None:
    listed, by_row, filled_in_all, ended, is_one_missing = told
    read, malformed = rows.read_orders([order_row(order_id="1", tag=None, tags=[]), *listed])
    fills = {
        order_id: [
            Fill(fill_id=order_id, quantity=Decimal(quantity), price=Decimal(1), time=rows.utc("2026-11-23 09:16:38"))
        ]
        for order_id, quantity in by_row.items()
        if quantity
    }
    foreign, report = dialect.reports(read, fills, malformed)
    assert (foreign.client_order_id, report.client_order_id) == ("", TAG)
    assert report.filled_quantity == sum(by_row.values()) <= filled_in_all
    assert sorted(fill.fill_id for fill in report.fills) == sorted(fills)
    assert report.is_unclear is is_one_missing
    if not is_one_missing:
        assert report.broker_order_id == FIRST
        expected = {"COMPLETE": ReportStatus.FILLED, "OPEN": ReportStatus.WORKING}.get(ended)
        assert report.status is (expected or ReportStatus(ended))


# What is sent


@pytest.mark.parametrize(
    ("quantity", "legs", "part"), [(24, 5, 5), (31, 5, 7), (6, 3, 2), (2, 2, 1)], ids=lambda value: str(value)
)
async def test_the_part_is_the_quantity_by_the_legs_rounded_up(
    server: SimulatedKite, broker: ZerodhaBroker, quantity: int, legs: int, part: int
) -> None:
    await broker.place_order(limit(variety="iceberg", quantity=Decimal(quantity)))
    assert (last_form(server)["iceberg_legs"], last_form(server)["iceberg_quantity"]) == (str(legs), str(part))


@pytest.mark.parametrize(
    "changes",
    [
        {"order_type": OrderType.STOP, "stop_price": Decimal(101), "limit_price": None},
        {"order_type": OrderType.STOP_LIMIT, "stop_price": Decimal(99)},
        {"order_type": OrderType.MARKET, "limit_price": None},
        {"tif": Tif.IOC},
        {"quantity": Decimal(1)},
    ],
    ids=str,
)
async def test_what_cannot_be_worked_in_legs_is_refused_before_it_is_sent(
    server: SimulatedKite, broker: ZerodhaBroker, changes: dict[str, Any]
) -> None:
    with pytest.raises(OrderRefused):
        await broker.place_order(replace(limit(variety="iceberg", quantity=Decimal(20)), **changes))
    assert server.calls("POST /orders/*") == []


@pytest.mark.parametrize(
    ("quantity", "shown", "legs", "part"),
    [
        (100, "10", 10, 10),
        (25, "10", 3, 9),  # three legs of at most 10, and Kite takes none but equal ones
        (31, "16", 2, 16),
        (11, "10", 2, 6),
        (10, "9.9", 2, 5),
        (50, "1", 50, 1),
    ],
)
async def test_no_leg_is_more_than_what_may_be_seen_at_once(
    server: SimulatedKite, broker: ZerodhaBroker, quantity: int, shown: str, legs: int, part: int
) -> None:
    fitted = await broker.fitted(limit(quantity=Decimal(quantity), display_quantity=Decimal(shown)))
    assert fitted.display_quantity == part
    for ticket_sent in (fitted, await broker.fitted(fitted)):
        await broker.place_order(ticket_sent)
        form = last_form(server)
        assert (form["variety"], form["iceberg_legs"], form["iceberg_quantity"]) == ("iceberg", str(legs), str(part))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantity": Decimal(51), "display_quantity": Decimal(1)}, "at most 50 legs.*show at least 2$"),
        ({"quantity": Decimal(225), "display_quantity": Decimal(74), "instrument": NIFTY}, "less than a lot of 75"),
        ({"variety": "amo", "display_quantity": Decimal(5)}, "amo is shown whole"),
    ],
    ids=["too many", "less than a lot", "after the market"],
)
async def test_what_cannot_be_shown_so_is_refused_before_it_is_sent(
    server: SimulatedKite, broker: ZerodhaBroker, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(OrderRefused, match=words):
        await broker.fitted(limit(**changes))
    assert server.calls("POST /orders/*") == []


async def test_more_than_the_exchange_takes_at_once_goes_in_parts(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    asked = limit("25000", instrument=NIFTY, quantity=Decimal(3750))
    with pytest.raises(OrderRefused, match="use iceberg orders"):
        await broker.place_order(asked)
    await broker.place_order(replace(asked, display_quantity=Decimal(1800)))
    assert (await found(broker)).filled_quantity == 3750


async def test_parts_are_whole_lots(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    asked = limit("25000", instrument=NIFTY, quantity=Decimal(31 * 75), display_quantity=Decimal(16 * 75 + 74))
    assert (await broker.fitted(asked)).display_quantity == 16 * 75
    await broker.place_order(asked)
    assert (last_form(server)["iceberg_legs"], last_form(server)["iceberg_quantity"]) == ("2", str(16 * 75))


async def test_each_leg_is_an_order_of_the_day_and_one_call(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    def spent(of: ZerodhaBroker) -> tuple[int, int]:
        left = {seconds: calls for (kind, seconds), calls in of.calls_left().items() if kind == "orders"}
        return before[86_400.0] - left[86_400.0], before[60.0] - left[60.0]

    before = {seconds: calls for (kind, seconds), calls in broker.calls_left().items() if kind == "orders"}
    await broker.place_order(limit(variety="iceberg", quantity=Decimal(24)))
    assert spent(broker) == (5, 1)
    await broker.place_order(limit())
    assert spent(broker) == (6, 2)
    # As the next process counts them, from the list.
    await found(broker, lambda report: report.filled_quantity == 24)
    other = create(config_for(server))
    await other.connect()
    assert spent(other) == (6, 2)
    await other.close()


@pytest.mark.parametrize("at_once", [True, False], ids=["a leg at work", "between two legs"])
@pytest.mark.parametrize(("filled", "is_cancelled"), [(0, False), (10, False), (24, False), (7, True)])
async def test_legs_still_to_come_count_in_the_day_after_a_restart(
    server: SimulatedKite, broker: ZerodhaBroker, filled: int, *, is_cancelled: bool, at_once: bool
) -> None:
    def left(of: ZerodhaBroker, seconds: float) -> int:
        return of.calls_left()["orders", seconds]

    day, minute = left(broker, 86_400.0), left(broker, 60.0)
    server.legs_shown_as = Legs(follow_at_once=at_once)
    ref = await iceberg(server, broker)
    if filled:
        server.book.fill_order(by_id(ref), Decimal(filled))
    if is_cancelled:
        server.book.cancel(by_id(ref))
    other = create(config_for(server))
    await other.connect()
    # Two legs had come of what was cancelled, and the cancel is a call.
    spent = (3, 2) if is_cancelled else (5, 1)
    assert (day - left(other, 86_400.0), minute - left(other, 60.0)) == spent
    await other.close()


@pytest.mark.parametrize(
    ("quantities", "to_come"),
    [([10], 2), ([10, 10], 1), ([10, 10, 4], 0), ([None], 49), ([10, None], 1)],
    ids=str,
)
def test_how_many_legs_are_to_come_follows_from_the_size_of_one(quantities: list[int | None], to_come: int) -> None:
    told = [
        order_row(
            variety="iceberg",
            order_id=str(int(FIRST) + number),
            status="OPEN" if number == len(quantities) else "COMPLETE",
            meta={"iceberg": {"leg": number, "total_quantity": 24}},
            quantity=quantity,
            filled_quantity=0,
        )
        for number, quantity in enumerate(quantities, 1)
    ]
    assert dialect.legs_to_come(rows.read_orders(told)[0]) == to_come


# Its life


async def iceberg(server: SimulatedKite, broker: ZerodhaBroker) -> OrderRef:
    """An order of 24 that rests, in legs of 5."""
    hold(server)
    placed = await broker.place_order(limit(variety="iceberg", quantity=Decimal(24)))
    return OrderRef(client_order_id=TAG, broker_order_id=placed.broker_order_id)


def by_id(ref: OrderRef) -> OrderRef:
    """As the book names it."""
    return OrderRef(client_order_id="", broker_order_id=ref.broker_order_id)


async def test_legs_without_a_tag_are_followed_found_and_cancelled(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    server.legs_shown_as = Legs(are_tagged=False)
    ref = await iceberg(server, broker)
    server.book.fill_order(by_id(ref), Decimal(12))
    (report,) = (await broker.reports()).reports
    assert (report.client_order_id, report.filled_quantity, report.fills_shown) == (TAG, Decimal(12), FillsShown.ALL)
    # As another process finds it, which has no id of it yet.
    other = create(config_for(server))
    await other.connect()
    assert (await found(other)).filled_quantity == 12
    await other.cancel_order(OrderRef(client_order_id=TAG))
    await other.close()
    report = await found(broker)
    assert (report.status, report.filled_quantity) == (ReportStatus.CANCELLED, Decimal(12))


async def test_a_cancel_between_two_legs_waits_for_the_next_one(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    server.legs_shown_as = Legs(follow_at_once=False)
    ref = await iceberg(server, broker)
    server.book.fill_order(by_id(ref), Decimal(5))
    report = await found(broker)
    assert (report.status, report.filled_quantity) == (ReportStatus.WORKING, Decimal(5))
    with pytest.raises(HeldBack, match="between two legs"):
        await broker.cancel_order(ref)
    assert server.calls("DELETE /orders/*") == []
    server.legs_shown_as = Legs()
    await broker.cancel_order(ref)
    assert (await found(broker)).status is ReportStatus.CANCELLED


async def test_a_next_leg_that_never_comes_is_asked_about_in_the_end(
    server: SimulatedKite, broker: ZerodhaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.legs_shown_as = Legs(follow_at_once=False)
    ref = await iceberg(server, broker)
    server.book.fill_order(by_id(ref), Decimal(5))
    with pytest.raises(HeldBack):
        await broker.cancel_order(ref)
    monkeypatch.setattr("brokers.zerodha.adapter._NEXT_LEG_SECONDS", 0.0)
    with pytest.raises(OrderRefused, match="being processed"):
        await broker.cancel_order(ref)


async def test_the_wait_for_a_next_leg_begins_anew_with_each_leg(
    server: SimulatedKite, broker: ZerodhaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("brokers.zerodha.adapter.time", SimpleNamespace(monotonic=lambda: now[0]))
    server.legs_shown_as = Legs(follow_at_once=False)
    ref = await iceberg(server, broker)
    for _ in range(3):
        server.book.fill_order(by_id(ref), Decimal(5))
        with pytest.raises(HeldBack, match="between two legs"):
            await broker.cancel_order(ref)
        now[0] += 9.0
    now[0] += 1.0
    with pytest.raises(OrderRefused):
        await broker.cancel_order(ref)


async def test_what_is_annulled_or_corrected_counts_no_more_and_the_order_stays_ended(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    ref = await iceberg(server, broker)
    first, *_ = [server.book.fill_order(by_id(ref), Decimal(quantity)) for quantity in (5, 5, 5, 5)]
    corrected = server.book.fill_order(by_id(ref), Decimal(4))
    report = await found(broker)
    assert (report.status, report.filled_quantity) == (ReportStatus.FILLED, Decimal(24))
    server.book.bust_fill(first.fill_id)
    server.book.correct_fill(corrected.fill_id, quantity=Decimal(3))
    report = await found(broker)
    assert (report.status, report.filled_quantity) == (ReportStatus.FILLED, Decimal(18))
    assert [fill.quantity for fill in report.fills] == [5, 5, 5, 3]
    assert report.fills_shown is FillsShown.ALL


async def test_more_than_was_ordered_is_told(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    ref = await iceberg(server, broker)
    server.book.fill_order(by_id(ref), Decimal(30), force=True)
    assert (await found(broker)).filled_quantity == 30


async def test_a_leg_that_zerodha_rejects_ends_the_order(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    ref = await iceberg(server, broker)
    server.book.fill_order(by_id(ref), Decimal(5))
    server.book.reject_order(by_id(ref), "Insufficient funds")
    report = await found(broker)
    assert (report.status, report.filled_quantity, report.reason) == (
        ReportStatus.REJECTED, Decimal(5), "Insufficient funds"
    )  # fmt: skip


async def test_a_leg_that_cannot_be_read_hides_no_order(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    server.legs_shown_as = Legs(are_tagged=False)
    ref = await iceberg(server, broker)
    server.book.fill_order(by_id(ref), Decimal(7))
    server.show_oddly("GET /orders", f"{ref.broker_order_id}02", {"filled_quantity": "much"})
    assert (await broker.reports()).reports == []
    with pytest.raises(AnswerUnclear):
        await broker.find(TAG)


def overtake(broker: ZerodhaBroker, server: SimulatedKite, ref: OrderRef, *quantities: int) -> None:
    """After each reading of the order list so much is filled, before a cancel arrives."""
    read, left = broker._orders, list(quantities)

    async def then_filled() -> Any:
        book = await read()
        if left:
            server.book.fill_order(by_id(ref), Decimal(left.pop(0)))
        return book

    broker._orders = then_filled  # type: ignore[method-assign]


def cancelled_ids(server: SimulatedKite, ref: OrderRef) -> list[str]:
    """Of the cancels that were sent, what stands after the order's id."""
    return [
        call.path.removeprefix(f"/orders/iceberg/{ref.broker_order_id}") for call in server.calls("DELETE /orders/*")
    ]


async def test_a_cancel_overtaken_by_the_end_of_its_leg_goes_to_the_next_one(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    ref = await iceberg(server, broker)
    overtake(broker, server, ref, 5)
    await broker.cancel_order(ref)
    assert cancelled_ids(server, ref) == ["", "02"]
    assert [order.status for order in server.book.orders()] == [ReportStatus.CANCELLED]


async def test_a_cancel_overtaken_by_the_end_of_its_leg_waits_for_the_next_one(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    server.legs_shown_as = Legs(follow_at_once=False)
    ref = await iceberg(server, broker)
    overtake(broker, server, ref, 5)
    with pytest.raises(HeldBack, match="between two legs"):
        await broker.cancel_order(ref)
    assert cancelled_ids(server, ref) == [""]


async def test_a_cancel_overtaken_by_leg_after_leg_is_tried_again_soon(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    ref = await iceberg(server, broker)
    overtake(broker, server, ref, 5, 5)
    with pytest.raises(HeldBack, match="faster") as held:
        await broker.cancel_order(ref)
    assert held.value.wait_seconds <= 1
    await broker.cancel_order(ref)
    assert cancelled_ids(server, ref) == ["", "02", "03"]


async def test_a_cancel_overtaken_by_the_end_of_the_order_is_too_late(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    ref = await iceberg(server, broker)
    for _ in range(4):
        server.book.fill_order(by_id(ref), Decimal(5))
    overtake(broker, server, ref, 4)
    with pytest.raises(OrderRefused, match="being processed"):
        await broker.cancel_order(ref)
    assert cancelled_ids(server, ref) == ["05"]


async def test_a_leg_at_work_that_zerodha_does_not_cancel_is_told(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    ref = await iceberg(server, broker)
    server.set_line(is_down=True)
    with pytest.raises(OrderRefused, match="being processed"):
        await broker.cancel_order(ref)
    assert cancelled_ids(server, ref) == [""]


async def test_a_leg_without_its_variety_is_one_by_its_meta(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    ref = await iceberg(server, broker)
    server.book.fill_order(by_id(ref), Decimal(7))
    server.show_oddly("GET /orders", f"{ref.broker_order_id}02", {"variety": None})
    (report,) = (await broker.reports()).reports
    assert (report.client_order_id, report.filled_quantity) == (TAG, Decimal(7))
    await broker.cancel_order(ref)
    assert [order.status for order in server.book.orders()] == [ReportStatus.CANCELLED]


@pytest.mark.parametrize("odd", [{"filled_quantity": None}, {"meta": None}, {"filled_quantity": None, "tag": 7}])
async def test_a_leg_at_work_that_cannot_be_read_is_cancelled(
    server: SimulatedKite, broker: ZerodhaBroker, odd: dict[str, Any]
) -> None:
    ref = await iceberg(server, broker)
    server.book.fill_order(by_id(ref), Decimal(7))
    server.show_oddly("GET /orders", f"{ref.broker_order_id}02", odd)
    await broker.cancel_order(ref)
    assert [order.status for order in server.book.orders()] == [ReportStatus.CANCELLED]
    # Kite's own answer about one that is over: nobody waits for a next leg.
    with pytest.raises(OrderRefused):
        await broker.cancel_order(ref)


async def test_a_leg_that_cannot_be_read_is_cancelled_by_its_tag_where_no_id_is_known(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    ref = await iceberg(server, broker)
    server.show_oddly("GET /orders", str(ref.broker_order_id), {"filled_quantity": None})
    await broker.cancel_order(OrderRef(client_order_id=TAG))
    assert [order.status for order in server.book.orders()] == [ReportStatus.CANCELLED]


async def test_a_filled_leg_that_cannot_be_read_hides_no_leg_at_work(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    ref = await iceberg(server, broker)
    server.book.fill_order(by_id(ref), Decimal(12))
    server.show_oddly("GET /orders", f"{ref.broker_order_id}02", {"filled_quantity": None})
    await broker.cancel_order(ref)
    assert [call.path for call in server.calls("DELETE /orders/*")] == [f"/orders/iceberg/{ref.broker_order_id}03"]
    assert [order.status for order in server.book.orders()] == [ReportStatus.CANCELLED]


async def test_a_leg_that_cannot_be_read_and_is_of_another_order_is_left_alone(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    ref = await iceberg(server, broker)
    other = await broker.place_order(limit(variety="iceberg", quantity=Decimal(24)))
    for placed in (ref, other):
        server.book.fill_order(OrderRef(client_order_id="", broker_order_id=placed.broker_order_id), Decimal(7))
    server.show_oddly("GET /orders", f"{other.broker_order_id}02", {"filled_quantity": None})
    await broker.cancel_order(ref)
    assert [call.path for call in server.calls("DELETE /orders/*")] == [f"/orders/iceberg/{ref.broker_order_id}02"]


async def test_a_plain_order_says_nothing_of_legs(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    await broker.place_order(ticket())
    assert not {"iceberg_legs", "iceberg_quantity"} & set(last_form(server))
