"""An exit that works at the broker takes no more than is left, however what it closes has become smaller under it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from brokers.base import Instrument, OrderRef, ReportStatus
from brokers.paper.model import Action, Fault, Operation, PaperOrder
from execution_service.core.orders.events import Event
from execution_service.core.orders.exit_bound import ExitPositionCheck
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import ProtectionState
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.recording.live_orders import LiveOrder
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.trading.exits_at_work import ExitsAtWork
from execution_service.trading.trader import Trader
from tests.fakes import BY_HAND, RESTING, World, world_of
from tests.service.adoptions import adopt, outcome, records, undo
from tests.service.audit import audit
from tests.service.test_adoption import OPTION
from tests.service.test_broker_exits import LONG_ENOUGH, sell_at_the_broker
from tests.service.test_exits_beside_unreadable_records import spoil
from tests.service.test_protection import children, entered, resting, state

CANCELLED = "Exit Cancelled: Position Smaller"


def exit_at_broker(world: World, signal_id: str = "out") -> PaperOrder:
    (found,) = world.book().orders(world.exit_record(signal_id).client_order_id)
    return found


def working(world: World) -> Decimal:
    """What all exits that work at the broker may still take."""
    sides = [p for p in world.placed() if p.ticket.side == "SELL" and p.status is ReportStatus.WORKING]
    return sum((p.open_quantity for p in sides), Decimal(0))


def held(world: World) -> list[float]:
    return [p["quantity"] for p in world.documents("positions", status="OPEN")]


async def resting_exit(world: World, quantity: int = 50, signal_id: str = "out", **fields: object) -> None:
    world.exit(signal_id, "in", quantity=quantity, **({"order_type": "LIMIT", "limit_price": 12} | fields))
    await world.run(3)
    assert exit_at_broker(world, signal_id).status is ReportStatus.WORKING


def assert_cancelled(world: World, *, left: str, taken: str | None = None, open_quantity: int = 50) -> None:
    """It has ended at the broker and by the record, for the reason, and people were told once, with the numbers."""
    order = world.exit_record("out")
    assert exit_at_broker(world).status is not ReportStatus.WORKING
    assert order.status is Status.CANCELLED
    assert order.reason is not None
    assert order.reason.code is ReasonCode.REDUCE_ONLY
    (told,) = world.notifier.titled(CANCELLED)
    for words in (f"{left} is left", f"cancelled with {open_quantity} open", *(() if taken is None else (taken,))):
        assert words in told
    assert world.publisher.of("out")[-1]["reason"]["code"] == "REDUCE_ONLY"


async def test_a_stop_that_fills_after_its_confirmed_cancel_leaves_nothing_to_the_exit_that_it_made_way_for(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        await resting_exit(world)
        assert resting(world) == 50
        ref = OrderRef(client_order_id=stop.client_order_id)
        world.book().fill_order(ref, Decimal(100), Decimal(9), force=True)
        await world.run(5)
        assert_cancelled(world, left="0", taken="exits have taken 100")
        assert working(world) == 0
        assert (held(world), state(world)) == ([], ProtectionState.CLOSED)
        audit(world)


async def test_what_is_left_after_a_late_fill_is_protected_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        await resting_exit(world, 80)
        world.book().fill_order(OrderRef(client_order_id=stop.client_order_id), Decimal(40), Decimal(9), force=True)
        await world.run(5)
        assert_cancelled(world, left="60", open_quantity=80)
        assert (held(world), resting(world), state(world)) == ([60.0], 60, ProtectionState.PROTECTED)
        audit(world)


async def test_an_exit_that_fits_what_is_left_works_on(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        await resting_exit(world)
        world.book().fill_order(OrderRef(client_order_id=stop.client_order_id), Decimal(50), Decimal(9), force=True)
        await world.run(5)
        assert exit_at_broker(world).status is ReportStatus.WORKING
        assert working(world) == 50
        assert not world.notifier.titled(CANCELLED)


async def test_of_several_exits_as_few_as_will_do_are_cancelled(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        for name, quantity in (("out-1", 20), ("out", 30), ("out-2", 40)):
            await resting_exit(world, quantity, name)
        world.book().fill_order(OrderRef(client_order_id=stop.client_order_id), Decimal(40), Decimal(9), force=True)
        await world.run(5)
        assert_cancelled(world, left="60", open_quantity=30)
        assert working(world) == 60


async def test_what_an_exit_that_is_asked_to_end_fills_before_that_shrinks_the_others(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        await resting_exit(world, 50, "going")
        await resting_exit(world, 50)
        confirmed = world.broker_faults.holds["cancel_order"] = asyncio.Event()
        world.cancel(signal_id="going")
        await world.run(2)
        world.book().fill_order(OrderRef(client_order_id=stop.client_order_id), Decimal(50), Decimal(9), force=True)
        await world.run(2)
        assert exit_at_broker(world).status is ReportStatus.WORKING
        world.book().fill_order(OrderRef(client_order_id=world.exit_record("going").client_order_id))
        confirmed.set()
        await world.run(5)
        assert_cancelled(world, left="0")
        assert working(world) == 0


async def test_a_square_off_that_was_booked_shrinks_the_exit_under_it(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, books_broker_exits=True) as world:
        await entered(world)
        await resting_exit(world)
        sell_at_the_broker(world, 80)
        await world.run(LONG_ENOUGH)
        assert_cancelled(world, left="20")
        assert (held(world), resting(world), working(world)) == ([20.0], 20, 20)
        audit(world)


@pytest.mark.parametrize("has_stop", [True, False])
async def test_an_adoption_shrinks_the_exit_under_it(tmp_path: Path, has_stop: bool) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, **({} if has_stop else {"stop_loss": None}))
        await resting_exit(world)
        sell_at_the_broker(world, 100)
        await adopt(world, "SQUARE_OFF", price="9.5", asks_broker=False, is_forced=True)
        await world.run(5)
        assert_cancelled(world, left="0")
        assert working(world) == 0


async def test_an_expiry_that_is_adopted_ends_the_exit(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in", symbol="XYZ", quantity=2, order_type="LIMIT", limit_price=10, **OPTION)
        await world.run(1)
        world.fill("in")
        await world.run(2)
        await resting_exit(world, 1, symbol="XYZ", **OPTION)
        await adopt(world, "EXPIRY", "XYZ", instrument=OPTION)
        await world.run(5)
        assert_cancelled(world, left="0", open_quantity=1)


async def test_a_reverse_split_shrinks_the_exit_under_it(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, stop_loss=None)
        await resting_exit(world)
        sell_at_the_broker(world, 90)
        await adopt(world, "SPLIT", ratio="10:1")
        await world.run(5)
        assert_cancelled(world, left="10")
        assert held(world) == [10.0]


@pytest.fixture
def second_write(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Until it is set, the store takes the first record of an adoption, and no other."""
    may_come, insert = asyncio.Event(), MongoStore.insert_orders

    async def insert_orders(store: MongoStore, orders: Sequence[Order], *left: Mapping[str, str]) -> object:
        if not may_come.is_set() and any(each.adoption and each.identity.leg_index for each in orders):
            raise StoreUnavailable("away")
        return await insert(store, orders, *left)

    monkeypatch.setattr(MongoStore, "insert_orders", insert_orders)
    return may_come


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("names_entry", [True, False])
async def test_of_a_half_recorded_split_nothing_is_concluded(
    tmp_path: Path, second_write: asyncio.Event, dies: bool, names_entry: bool
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, stop_loss=None)
        if names_entry:
            await resting_exit(world)
        else:
            world.send("out", signal_type="EXIT", side="SELL", quantity=50, order_type="LIMIT", limit_price=12)
            await world.run(3)
        sell_at_the_broker(world, -100)
        command = await adopt(world, "SPLIT", ratio="1:2")
        await world.run(5)
        if dies:
            await world.kill()
            await world.start()
            await world.run(5)
        world.exit("late", "in", quantity=150, order_type="LIMIT", limit_price=13)
        await world.run(5)
        assert outcome(world, command)[0] == "NEW"
        assert len(records(world, command)) == 1
        assert exit_at_broker(world).status is ReportStatus.WORKING
        assert world.exit_record("late").status is Status.PENDING
        second_write.set()
        await world.run(10)
        assert outcome(world, command)[0] == "DONE"
        assert held(world) == [200.0]
        assert exit_at_broker(world).status is ReportStatus.WORKING
        assert not world.notifier.titled(CANCELLED)
        assert working(world) == 200


async def test_of_a_half_undone_split_nothing_is_concluded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_come, append = asyncio.Event(), MongoStore.append

    async def append_second(store: MongoStore, order: Order, events: Sequence[Event], **said: bool) -> Order:
        if not may_come.is_set() and order.adoption and not order.identity.leg_index:
            raise StoreUnavailable("away")
        return await append(store, order, events, **said)

    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, stop_loss=None)
        await resting_exit(world)
        command = await adopt(world, "SPLIT", ratio="1:2")
        await world.run(5)
        monkeypatch.setattr(MongoStore, "append", append_second)
        await undo(world, command)
        await world.run(5)
        assert [bool(each.fills) for each in records(world, command)] == [True, False]
        assert exit_at_broker(world).status is ReportStatus.WORKING
        may_come.set()
        await world.run(10)
        assert held(world) == [100.0]
        assert exit_at_broker(world).status is ReportStatus.WORKING
        assert not world.notifier.titled(CANCELLED)


async def test_an_adoption_that_fails_between_its_records_is_told_and_completed_by_the_next_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = MongoStore.insert_orders

    async def fails_at_second(store: MongoStore, orders: Sequence[Order], *left: Mapping[str, str]) -> object:
        if any(each.adoption and each.identity.leg_index for each in orders):
            raise ValueError("cannot be written")
        return await insert(store, orders, *left)

    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, stop_loss=None)
        await resting_exit(world)
        with monkeypatch.context() as broken:
            broken.setattr(MongoStore, "insert_orders", fails_at_second)
            command = await adopt(world, "SPLIT", ratio="1:2")
            await world.run(5)
            assert outcome(world, command)[0] == "NEW"
            (told,) = world.notifier.titled("Command Not Carried Out")
            assert "cannot be written" in told
            assert exit_at_broker(world).status is ReportStatus.WORKING
        await world.kill()
        await world.start()
        await world.run(10)
        assert outcome(world, command)[0] == "DONE"
        assert held(world) == [200.0]
        assert exit_at_broker(world).status is ReportStatus.WORKING


async def test_an_annulled_part_of_the_entry_shrinks_the_exit_under_it(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in", order_type="LIMIT", limit_price=10)
        await world.run(1)
        kept, annulled = world.fill("in", 30), world.fill("in", 70)
        await world.run(2)
        await resting_exit(world)
        assert kept != annulled
        world.book().bust_fill(annulled)
        await world.run(5)
        assert_cancelled(world, left="30")
        assert working(world) == 0
        assert held(world) == [30.0]


async def test_an_exit_by_position_is_measured_by_the_position(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        world.send("out", signal_type="EXIT", side="SELL", quantity=50, order_type="LIMIT", limit_price=12)
        await world.run(3)
        assert exit_at_broker(world).status is ReportStatus.WORKING
        world.book().fill_order(OrderRef(client_order_id=stop.client_order_id), Decimal(100), Decimal(9), force=True)
        await world.run(5)
        assert_cancelled(world, left="0", taken="the strategy holds 0")
        audit(world)


async def test_an_exit_of_an_entry_is_measured_by_the_position_too(tmp_path: Path) -> None:
    """An exit that names no entry has taken what another's entry still counts."""
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, stop_loss=None)
        await resting_exit(world)
        world.send("bare", signal_type="EXIT", side="SELL", quantity=50, order_type="LIMIT", limit_price=11)
        await world.run(3)
        world.fill("bare", purpose=Purpose.EXIT)
        ref = OrderRef(client_order_id=world.exit_record("bare").client_order_id)
        world.book().fill_order(ref, Decimal(20), Decimal(11), force=True)
        await world.run(5)
        assert_cancelled(world, left="30", taken="the strategy holds 30")


async def test_who_holds_both_sides_is_measured_by_entries_alone(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, stop_loss=None)
        await resting_exit(world)
        world.send("short", side="SELL", order_type="LIMIT", limit_price=11)
        await world.run(1)
        world.fill("short")
        await world.run(5)
        assert exit_at_broker(world).status is ReportStatus.WORKING


async def test_what_our_books_never_held_is_no_reason(tmp_path: Path) -> None:
    rules = replace(RESTING, exit_position_check=ExitPositionCheck.OFF)
    async with world_of(tmp_path, market=BY_HAND, rules=rules) as world:
        world.send("out", signal_type="EXIT", side="SELL", quantity=50, order_type="LIMIT", limit_price=12)
        await world.run(3)
        assert exit_at_broker(world).status is ReportStatus.WORKING
        world.fill("out", 10, purpose=Purpose.EXIT)
        await world.run(5)
        assert exit_at_broker(world).status is ReportStatus.WORKING


async def test_what_fills_before_the_cancel_takes_effect_is_said_to_have_opened_a_position(tmp_path: Path) -> None:
    fault = Fault(operation=Operation.CANCEL, action=Action.IGNORE_CANCEL, times=20)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        await resting_exit(world)
        world.book().add_fault(fault)
        world.book().fill_order(OrderRef(client_order_id=stop.client_order_id), Decimal(100), Decimal(9), force=True)
        await world.run(2)
        wish = world.exit_record("out").cancel_request
        assert wish is not None
        assert wish.code is ReasonCode.REDUCE_ONLY
        world.fill("out", purpose=Purpose.EXIT, force=True)
        await world.run(5)
        assert world.exit_record("out").status is Status.FILLED
        (told,) = [text for text in world.notifier.titled("Attention") if "opened a position" in text]
        assert "exits have taken 150" in told
        assert "50 too much" in told


def told_beyond(world: World) -> list[str]:
    return [text for text in world.notifier.titled("Attention") if "this exit has" in text]


def fill_both(world: World) -> None:
    """The stop that was cancelled for the exit fills late, and so does the exit, before we hear of either."""
    stop = children(world)[0]
    world.book().fill_order(OrderRef(client_order_id=stop.client_order_id), Decimal(100), Decimal(9), force=True)
    world.fill("out", purpose=Purpose.EXIT, force=True)


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("names_entry", [True, False])
async def test_a_position_that_an_exit_opened_before_anybody_could_look_is_told_once(
    tmp_path: Path, dies: bool, names_entry: bool
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        if names_entry:
            await resting_exit(world)
        else:
            world.send("out", signal_type="EXIT", side="SELL", quantity=50, order_type="LIMIT", limit_price=12)
            await world.run(3)
        if dies:
            await world.kill()
        fill_both(world)
        if dies:
            await world.start()
        await world.run(10)
        (told,) = told_beyond(world)
        assert "opened a position" in told
        assert "50 too much" in told
        await world.restart()
        await world.run(10)
        assert len(told_beyond(world)) == 1


async def test_a_death_before_the_look_loses_no_word_of_what_an_exit_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        await resting_exit(world)
        with monkeypatch.context() as slow:
            slow.setattr(ExitsAtWork, "_turn", lambda _: asyncio.Event().wait())
            await world.restart()
            fill_both(world)
            await world.run(30)
            assert world.exit_record("out").status is Status.FILLED
            assert not told_beyond(world)
            await world.kill()
        await world.start()
        await world.run(10)
        assert len(told_beyond(world)) == 1
        await world.restart()
        await world.run(10)
        assert len(told_beyond(world)) == 1


async def test_a_stop_that_fills_after_the_exit_it_made_way_for_is_said_to_have_opened_a_position(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        await resting_exit(world, 100)
        world.fill("out", purpose=Purpose.EXIT)
        await world.run(5)
        assert not told_beyond(world)
        world.book().fill_order(OrderRef(client_order_id=stop.client_order_id), Decimal(100), Decimal(9), force=True)
        await world.run(10)
        (told,) = told_beyond(world)
        assert "opened a position" in told
        assert "exits have taken 200, so 100 too much" in told


async def test_what_an_exit_took_of_another_entry_is_not_called_a_position_that_it_opened(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        await resting_exit(world, 100)
        world.send("more", order_type="LIMIT", limit_price=10)
        await world.run(1)
        world.fill("more")
        world.fill("out", purpose=Purpose.EXIT)
        await world.run(5)
        world.book().fill_order(OrderRef(client_order_id=stop.client_order_id), Decimal(100), Decimal(9), force=True)
        await world.run(10)
        (told,) = told_beyond(world)
        assert "has taken what other entries hold" in told


async def test_an_exit_of_what_our_books_never_held_works_on_after_a_death(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.book().trade_by_hand(Instrument(symbol="AAPL"), Decimal(50), Decimal(10))
        await world.run(LONG_ENOUGH)
        world.send("out", signal_type="EXIT", side="SELL", quantity=50, order_type="LIMIT", limit_price=12)
        await world.run(5)
        world.fill("out", 10, purpose=Purpose.EXIT)
        await world.run(5)
        await world.restart()
        await world.run(10)
        assert exit_at_broker(world).status is ReportStatus.WORKING
        world.fill("out", 40, purpose=Purpose.EXIT)
        await world.run(10)
        await world.restart()
        await world.run(10)
        assert not told_beyond(world)
        assert not world.notifier.titled(CANCELLED)


async def test_an_exit_that_cannot_be_measured_is_told_once_and_measured_when_it_can(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        await resting_exit(world)
        world.exit("gone", "in", quantity=10, order_type="LIMIT", limit_price=11)
        await world.run(3)
        world.fill("gone", purpose=Purpose.EXIT)
        await world.run(20)
        orders, gone = world.mongo["trading"]["execution_orders"], world.exit_record("gone").order_id
        request = orders.find_one({"_id": gone})["request"]
        spoil(world, "gone", Purpose.EXIT)
        world.book().fill_order(OrderRef(client_order_id=stop.client_order_id), Decimal(90), Decimal(9), force=True)
        await world.run(120)
        assert exit_at_broker(world).status is ReportStatus.WORKING
        (told,) = world.notifier.titled("2 Exits Not Measured")  # the stop, too, may have taken more than there was
        assert "cannot be read" in told
        looks = [line for line in world.logs if line.get("action") == "exit_not_measured"]
        assert 10 < len(looks) < 30
        orders.update_one({"_id": gone}, {"$set": {"request": request}})
        await world.run(60)
        assert_cancelled(world, left="0")
        assert len(world.notifier.titled("Exits Not Measured")) == 1
        assert not world.notifier.titled("Exit Not Measured")


async def test_a_cancel_that_could_not_be_wished_is_wished_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel, failures = Trader.cancel, [ValueError("a defect"), ValueError("a defect")]

    async def fails_first(trader: Trader, live: LiveOrder, reason: Reason, requested_by: str) -> None:
        if reason.code is ReasonCode.REDUCE_ONLY and failures:
            raise failures.pop()
        await cancel(trader, live, reason, requested_by)

    monkeypatch.setattr(Trader, "cancel", fails_first)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        await resting_exit(world)
        world.book().fill_order(OrderRef(client_order_id=stop.client_order_id), Decimal(100), Decimal(9), force=True)
        await world.run(10)
        assert_cancelled(world, left="0")
        assert not world.notifier.titled("Exit Not Measured")


async def test_after_a_death_the_exit_is_looked_at_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        await resting_exit(world)
        await world.kill()
        world.book().fill_order(OrderRef(client_order_id=stop.client_order_id), Decimal(100), Decimal(9), force=True)
        await world.start()
        await world.run(10)
        assert_cancelled(world, left="0")


async def test_an_exit_by_hand_at_the_broker_is_left_alone(tmp_path: Path) -> None:
    """Orders of other origin are nobody's here to cancel."""
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, stop_loss=None)
        await resting_exit(world)
        ticket = exit_at_broker(world).ticket
        world.book().place(replace(ticket, client_order_id="a-hand"))
        sell_at_the_broker(world, 100)
        await adopt(world, "SQUARE_OFF", price="9.5", asks_broker=False, is_forced=True)
        await world.run(5)
        assert_cancelled(world, left="0")
        (theirs,) = world.book().orders("a-hand")
        assert theirs.status is ReportStatus.WORKING
