"""An entry with a stop is protected from its first fill on, for exactly what is held, and nothing of that outlives the position."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from brokers.base import AssetClass, Capabilities, OrderRef, OrderType, Report, Reports, ReportStatus, Side, Ticket, Tif
from brokers.errors import HeldBack, NotAnswered
from brokers.paper.model import Action, Fault, Operation, PaperOrder
from brokers.ticks import stop_on_tick
from execution_service.control.requests import Kind
from execution_service.core.orders.events import Doubted, Event, Noted, SubmitStarted
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import ProtectionState, ProtectiveRole
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey
from execution_service.core.risk.gate import Session
from execution_service.storage.mongo.store import MongoStore
from execution_service.trading.stop_news import StopNews
from tests.fakes import ACCOUNT, BY_HAND, RESTING, World, world_of
from tests.service.audit import audit
from tests.service.http_calls import http_world
from tests.service.test_flatten import give

STOP_AT = {"order_type": "LIMIT", "limit_price": 10, "stop_loss": 9}
ALONE = Capabilities(refuses_repeated_client_id=True, find_window_seconds=0.5, concurrent_calls=16)
"""Of a broker that links nothing."""


def children(world: World, role: ProtectiveRole | None = None) -> list[Order]:
    found = [o for o in world.records() if o.protective is not None and role in (None, o.protective.role)]
    return sorted(found, key=lambda o: (o.protective.piece, o.protective.role) if o.protective else (0, ""))


def at_broker(world: World) -> list[PaperOrder]:
    """The protective orders that work at the broker."""
    tags = {o.client_order_id for o in children(world)}
    return [p for p in world.placed() if p.ticket.client_order_id in tags and p.status is ReportStatus.WORKING]


def resting(world: World, order_type: OrderType = OrderType.STOP) -> Decimal:
    """How much of what is held stops at the broker cover."""
    return sum((p.open_quantity for p in at_broker(world) if p.ticket.order_type is order_type), Decimal(0))


def state(world: World, signal_id: str = "in") -> ProtectionState | None:
    known = world.record(signal_id).protection
    return None if known is None else known.state


async def entered(world: World, quantity: int | None = None, **fields: Any) -> None:
    world.send("in", **(STOP_AT | fields))
    await world.run(1)
    world.fill("in", quantity)
    await world.run(2)


def hit(world: World, child: Order, quantity: int | None = None, price: str | None = None) -> None:
    amount = None if quantity is None else Decimal(quantity)
    paid = None if price is None else Decimal(price)
    world.book().fill_order(OrderRef(client_order_id=child.client_order_id), amount, paid)


async def test_what_has_filled_is_protected_and_grows_with_each_fill(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, 40)
        (stop,) = at_broker(world)
        assert (stop.ticket.side, stop.ticket.order_type, stop.ticket.stop_price) == (Side.SELL, OrderType.STOP, 9)
        assert (resting(world), state(world)) == (40, ProtectionState.PROTECTED)
        world.fill("in", 25)
        await world.run(2)
        assert resting(world) == 65
        world.fill("in")
        await world.run(2)
        assert (resting(world), len(at_broker(world))) == (100, 3)
        (document,) = world.documents("execution_confirmations", signal_id="in")
        shown = document["protection"]
        assert (shown["state"], shown["stop_loss"], shown["quantity"]) == ("PROTECTED", 9.0, 100.0)


async def test_an_order_without_a_stop_asks_nothing_of_anybody(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, stop_loss=None)
        before = len(world.calls("positions"))
        await world.run(50)
        assert children(world) == []
        assert len(world.calls("positions")) == before


async def test_the_stop_fills_and_the_trade_is_over(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        hit(world, children(world)[0], 30)
        await world.run(2)
        assert (resting(world), state(world)) == (70, ProtectionState.PROTECTED)
        hit(world, children(world)[0])
        await world.run(2)
        assert (at_broker(world), state(world)) == ([], ProtectionState.CLOSED)
        assert world.documents("execution_orders", lookup="protected:acct-1") == []
        (document,) = world.documents("execution_confirmations", signal_id="in")
        assert document["protection"]["state"] == "CLOSED"


async def test_an_exit_waits_until_the_stop_has_made_way_and_the_rest_is_protected_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        world.exit("out", "in", quantity=40)
        await world.run(3)
        assert [
            p.open_quantity
            for p in world.placed()
            if p.ticket.client_order_id == world.exit_record("out").client_order_id
        ] == [40]
        assert resting(world) == 60
        world.fill("out", purpose=world.exit_record("out").identity.purpose)
        await world.run(3)
        assert (resting(world), state(world)) == (60, ProtectionState.PROTECTED)


async def test_an_exit_does_not_leave_while_the_end_of_the_stop_is_not_confirmed(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        world.book().add_fault(Fault(operation=Operation.CANCEL, action=Action.IGNORE_CANCEL, times=3))
        world.exit("out", "in")
        await world.run(4)
        assert world.exit_record("out").status is Status.PENDING
        hit(world, children(world)[0])  # it fills instead
        await world.run(5)
        assert world.exit_record("out").status is Status.REJECTED
        assert world.book().positions() == ()


async def test_an_exit_cancelled_while_the_books_are_read_for_it_leaves_the_position_protected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        read, reading = MongoStore.ledgers, asyncio.Event()

        async def slowly(store: MongoStore, keys: Iterable[LedgerKey]) -> dict[LedgerKey, LedgerEntry]:
            reading.set()
            await world.clock.sleep(1.0)
            return await read(store, keys)

        monkeypatch.setattr(MongoStore, "ledgers", slowly)
        world.exit("out", "in")
        await world.run_until(reading.is_set)
        world.cancel(signal_id="out")
        await world.run(60)
        assert world.exit_record("out").status is Status.CANCELLED
        assert (resting(world), state(world)) == (100, ProtectionState.PROTECTED)


async def test_an_exit_that_names_no_entry_and_a_sale_by_the_plain_dialect_wait_too(tmp_path: Path) -> None:
    for number, fields in enumerate(({"signal_type": "EXIT", "side": "SELL"}, {"side": "SELL"})):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with world_of(folder, market=BY_HAND, rules=RESTING) as world:
            await entered(world)
            world.send("out", quantity=100, **fields)
            await world.run(4)
            assert at_broker(world) == []
            (sale,) = [p for p in world.placed() if p.status is ReportStatus.WORKING]
            assert sale.open_quantity == 100


async def test_what_a_person_sells_at_the_broker_shrinks_the_stop(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        instrument = world.record("in").accepted_request.instrument
        world.book().trade_by_hand(instrument, Decimal(-70), Decimal(10))
        await world.run(25)
        assert resting(world) == 30
        world.book().trade_by_hand(instrument, Decimal(-30), Decimal(10))
        await world.run(45)
        assert (resting(world), state(world)) == (0, ProtectionState.UNPROTECTED)
        assert len(world.notifier.titled("Position Unprotected")) == 1


async def test_a_stop_that_a_person_cancels_at_the_broker_is_placed_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        world.book().cancel_unasked(OrderRef(client_order_id=stop.client_order_id), "by hand")
        await world.run(15)
        assert resting(world) == 100
        assert [o.status for o in children(world)] == [Status.CANCELLED, Status.SUBMITTED]


async def test_a_busted_fill_shrinks_the_stop(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in", **STOP_AT)
        await world.run(1)
        one = world.fill("in", 60)
        await world.run(2)
        world.fill("in", 40)
        await world.run(2)
        world.book().bust_fill(one)
        await world.run(15)
        assert resting(world) == 40


@pytest.mark.parametrize("is_arrived", [True, False])
async def test_a_stop_of_which_no_answer_came_is_looked_for_and_never_a_second_sent_meanwhile(
    tmp_path: Path, is_arrived: bool
) -> None:
    once = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0, concurrent_calls=4)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=once, is_unique=False) as world:
        world.send("in", **STOP_AT)
        await world.run(1)
        action = Action.ACCEPT_THEN_DROP if is_arrived else Action.DROP_BEFORE_ACCEPT
        world.book().add_fault(Fault(operation=Operation.PLACE, action=action))
        world.fill("in")
        await world.run(30)
        (stop,) = children(world)
        if is_arrived:
            assert (resting(world), state(world)) == (100, ProtectionState.PROTECTED)
        else:
            assert (stop.status, state(world)) == (Status.IN_DOUBT, ProtectionState.IN_DOUBT)
            assert resting(world) == 0
            assert_doubt_is_told_once(world, stop)


ONCE = Capabilities(refuses_repeated_client_id=False, links_exits=True, find_window_seconds=3.0, concurrent_calls=4)
"""Of a broker that links a stop and a target, at which an order that is nowhere is in doubt."""


def assert_doubt_is_told_once(world: World, child: Order) -> None:
    """With the name by which a person decides it, and of which entry it is."""
    assert child.status is Status.IN_DOUBT
    (text,) = [text for text in world.notifier.texts if "in doubt" in text.lower()]
    assert f"Signal: {child.signal_id}\n" in text
    assert "Protects: in\n" in text
    assert "execctl resolve" in text


async def test_a_doubtful_target_is_told_though_its_stop_covers_everything(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=ONCE, is_unique=False) as world:
        world.send("in", **STOP_AT, take_profit=12)
        await world.run(1)
        world.book().add_fault(Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT, nth=2))
        world.fill("in")
        await world.run(30)
        (target,) = children(world, ProtectiveRole.TARGET)
        assert resting(world) == 100
        assert_doubt_is_told_once(world, target)


async def test_a_target_that_waits_for_its_stop_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StopNews, "is_told", lambda _self, _target: False)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=ONCE) as world:
        await entered(world, take_profit=12)
        await world.run(15)
        (target,) = children(world, ProtectiveRole.TARGET)
        assert (target.status, world.notifier.titled("Target Waits")) == (Status.PENDING, [])
        await world.run(30)
        (told,) = world.notifier.titled("Target Waits For Its Stop")
        assert target.signal_id in told
        assert not world.notifier.titled("Exit Cannot Leave")
        assert resting(world) == 100


async def test_people_are_told_when_the_stop_beside_a_doubtful_target_has_gone(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=ONCE, is_unique=False) as world:
        world.send("in", **STOP_AT, take_profit=12)
        await world.run(1)
        world.book().add_fault(Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT, nth=2))
        world.fill("in")
        await world.run(60)
        assert (state(world), world.notifier.titled("Position Unprotected")) == (ProtectionState.PROTECTED, [])
        (stop,), (target,) = children(world, ProtectiveRole.STOP), children(world, ProtectiveRole.TARGET)
        world.book().cancel(OrderRef(client_order_id=stop.client_order_id))
        await world.run(300)
        assert (resting(world), state(world)) == (0, ProtectionState.UNPROTECTED)
        (told,) = world.notifier.titled("Position Unprotected")
        assert target.signal_id in told
        assert "Covered: 0 by orders at the broker" in told


async def test_a_doubtful_close_is_told_though_its_position_is_being_closed(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=ONCE, is_unique=False) as world:
        await entered(world)
        (stop,) = children(world)
        says_triggered(world, stop)
        await world.run(8)
        world.book().add_fault(Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT))
        await world.run(60)
        (close,) = children(world, ProtectiveRole.CLOSE)
        assert state(world) is ProtectionState.CLOSING
        assert_doubt_is_told_once(world, close)


async def test_what_is_protected_is_known_after_a_death(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        await world.run(5)
        await world.restart()
        await world.run(12)
        assert (resting(world), len(children(world))) == (100, 1)
        hit(world, children(world)[0], 50)
        await world.restart()
        await world.run(12)
        assert (resting(world), len(children(world))) == (50, 1)
        world.exit("out", "in")
        await world.run(5)
        assert resting(world) == 0


async def test_a_person_flattens_and_nothing_is_left(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        await give(world, Kind.FLATTEN, "f1")
        await world.run(4)
        assert at_broker(world) == []
        (sale,) = [p for p in world.placed() if p.status is ReportStatus.WORKING]
        assert (sale.ticket.side, sale.open_quantity) == (Side.SELL, 100)


async def test_a_kill_leaves_protection_working_and_new_fills_are_protected(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, 40)
        await give(world, Kind.KILL, "k1", level="reduce_only", cancel_entries=False)
        world.fill("in")
        await world.run(4)
        assert resting(world) == 100


async def test_an_exit_that_a_halt_refuses_takes_no_stop_down(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        await give(world, Kind.KILL, "k1", level="halt", cancel_entries=False)
        world.exit("out", "in")
        await world.run(30)
        refused = world.record("out", purpose=Purpose.EXIT)
        assert (refused.status, refused.reason.code) == (Status.REJECTED, ReasonCode.KILL_SWITCH)
        assert (resting(world), state(world)) == (100, ProtectionState.PROTECTED)


async def test_stop_and_target_are_linked_and_what_one_fills_is_off_the_other(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, take_profit=12)
        assert (resting(world), resting(world, OrderType.LIMIT)) == (100, 100)
        assert state(world) is ProtectionState.PROTECTED
        (target,) = children(world, ProtectiveRole.TARGET)
        hit(world, target, 40)
        await world.run(3)
        assert (resting(world), resting(world, OrderType.LIMIT)) == (60, 60)
        hit(world, target)
        await world.run(3)
        assert (at_broker(world), state(world)) == ([], ProtectionState.CLOSED)
        assert world.book().positions() == ()


def around_placing(
    world: World, role: ProtectiveRole, *, before: Callable[[], None], after: Callable[[], None]
) -> None:
    """What happens at the venue right before it takes the first order of this role, and right after, while the answer is on its way."""
    broker = world.brokers[ACCOUNT]
    place = broker.place_order
    done: list[str] = []

    async def place_order(ticket: Ticket) -> Report:
        if done or ticket.client_order_id not in {o.client_order_id for o in children(world, role)}:
            return await place(ticket)
        done.append(ticket.client_order_id)
        before()
        report = await place(ticket)
        after()
        return report

    broker.place_order = place_order  # type: ignore[method-assign]


def nothing() -> None:
    pass


def hit_stop(world: World, quantity: int) -> None:
    hit(world, children(world, ProtectiveRole.STOP)[0], quantity)


async def test_no_target_is_sent_behind_a_stop_that_has_begun_to_fill(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in", **STOP_AT, take_profit=12)
        await world.run(1)
        around_placing(world, ProtectiveRole.STOP, before=nothing, after=lambda: hit_stop(world, 30))
        world.fill("in")
        await world.run(3)
        (target,) = children(world, ProtectiveRole.TARGET)
        assert target.reason is not None
        assert target.broker_order_id is None
        assert target.reason.message.startswith("its stop has begun to fill")
        assert len(world.calls("place_order")) == 2
        assert (resting(world), resting(world, OrderType.LIMIT)) == (70, 0)
        assert state(world) is ProtectionState.WATCHED


async def test_a_target_that_its_stop_overtook_is_taken_back_and_the_stop_stays(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.quote(bid="9.99", ask="10.01")
        world.send("in", **STOP_AT, take_profit=12)
        await world.run(1)
        around_placing(world, ProtectiveRole.TARGET, before=lambda: hit_stop(world, 30), after=nothing)
        world.fill("in")
        await world.run(2)
        (target,) = children(world, ProtectiveRole.TARGET)
        assert (target.quantity, target.status) == (100, Status.CANCELLED)
        assert (resting(world), resting(world, OrderType.LIMIT)) == (70, 0)
        assert state(world) is ProtectionState.WATCHED
        world.quote(bid="12.01", ask="12.03")  # the target is watched from now on
        await world.run(8)
        (close,) = children(world, ProtectiveRole.CLOSE)
        assert (at_broker(world)[0].ticket.order_type, close.quantity) == (OrderType.MARKET, 70)


async def test_an_exit_waits_until_a_target_that_its_stop_overtook_has_gone(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in", **STOP_AT, take_profit=12)
        await world.run(1)
        around_placing(world, ProtectiveRole.TARGET, before=lambda: hit_stop(world, 30), after=nothing)
        world.book().add_fault(Fault(operation=Operation.CANCEL, action=Action.IGNORE_CANCEL, times=1))
        world.fill("in")
        await world.run(1)
        world.exit("out", "in", quantity=70)
        await world.run(0.5)
        assert world.exit_record("out").status is Status.PENDING
        hit(world, children(world, ProtectiveRole.TARGET)[0], 60)  # the venue takes this off the stop, too
        await world.run(6)
        out = world.exit_record("out")
        assert (out.status, out.quantity) == (Status.SUBMITTED, 10)
        assert at_broker(world) == []


class Silence:
    """The broker's answers about all orders, from the first target on."""

    def __init__(self, world: World, *, hangs: bool = False) -> None:
        """`hangs`: a question gets no answer before the end, instead of the word that there is none now."""
        self.questions = 0
        self._over = asyncio.Event()
        self._world = world
        self._hangs = hangs
        broker = world.brokers[ACCOUNT]
        self._ask = broker.reports
        broker.reports = self._reports  # type: ignore[method-assign]

    async def _reports(self, since: int | None = None) -> Reports:
        if self._over.is_set() or not children(self._world, ProtectiveRole.TARGET):
            return await self._ask(since)
        self.questions += 1
        if self._hangs:
            await self._over.wait()
        raise NotAnswered("busy")

    def end(self) -> None:
        self._over.set()


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_target_of_whose_stop_the_broker_does_not_tell_waits_by_itself_and_holds_up_nobody(
    tmp_path: Path, hangs: bool
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("theirs", strategy="other", quantity=50)
        await world.run(1)
        world.fill("theirs")
        await world.run(5)
        world.send("in", **STOP_AT, take_profit=12)
        await world.run(1)
        silence = Silence(world, hangs=hangs)
        world.fill("in")
        await world.run(5)
        assert (resting(world), resting(world, OrderType.LIMIT)) == (100, 0)
        world.exit("out", "theirs", quantity=50, strategy="other")
        await world.run(1)
        assert world.exit_record("out").status is Status.SUBMITTED
        await world.run(40)
        (target,) = children(world, ProtectiveRole.TARGET)
        assert target.status is Status.PENDING
        assert [type(event) for event in target.events] in ([], [Noted])  # people are told once
        assert silence.questions <= 90  # each with a pause before it
        silence.end()
        await world.run(70)
        assert (resting(world), resting(world, OrderType.LIMIT)) == (100, 100)
        assert state(world) is ProtectionState.PROTECTED


async def test_a_target_of_whose_stop_the_broker_does_not_tell_for_too_long_ends_and_is_watched(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in", **STOP_AT, take_profit=12)
        await world.run(1)
        Silence(world)
        world.fill("in")
        await world.run(320)
        (target,) = children(world, ProtectiveRole.TARGET)
        assert target.reason is not None
        assert target.reason.code is ReasonCode.STALE_ORDER
        assert not any(isinstance(event, SubmitStarted) for event in target.events)
        assert (resting(world), state(world)) == (100, ProtectionState.WATCHED)


async def test_a_target_that_was_perhaps_sent_is_in_doubt_and_not_sent_again_while_its_stop_cannot_be_asked_about(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in", **STOP_AT, take_profit=12)
        await world.run(1)

        def is_lost() -> None:
            world.book().add_fault(Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT))
            Silence(world)

        around_placing(world, ProtectiveRole.TARGET, before=is_lost, after=nothing)
        world.fill("in")
        await world.run(60)
        (target,) = children(world, ProtectiveRole.TARGET)
        assert_doubt_is_told_once(world, target)
        world.send("next", limit_price=8, order_type="LIMIT", strategy="other")
        await world.run(1)
        assert world.record("next").status is Status.SUBMITTED


async def test_one_question_without_an_answer_leaves_no_target_in_doubt(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in", **STOP_AT, take_profit=12)
        await world.run(1)
        silences: list[Silence] = []

        def is_lost() -> None:
            world.book().add_fault(Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT))
            silences.append(Silence(world))

        around_placing(world, ProtectiveRole.TARGET, before=is_lost, after=nothing)
        world.fill("in")
        await world.run_until(lambda: bool(silences))
        asked = StopNews.ask

        async def ask(news: StopNews, target: Order) -> bool:
            is_told = await asked(news, target)
            silences[0].end()  # after the first question before it is sent again
            return is_told

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StopNews, "ask", ask)
            await world.run(60)
        (target,) = children(world, ProtectiveRole.TARGET)
        assert not any(isinstance(event, Doubted) for event in target.events)
        assert (resting(world), resting(world, OrderType.LIMIT)) == (100, 100)
        assert state(world) is ProtectionState.PROTECTED


async def test_a_broker_whose_answers_come_too_late_is_asked_more_and_more_seldom_and_the_target_is_watched(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.quote(bid="9.99", ask="10.01")
        world.send("in", **STOP_AT, take_profit=12)
        await world.run(1)
        asked: list[float] = []
        broker, ask = world.brokers[ACCOUNT], StopNews.ask
        tell = broker.reports

        async def slowly(since: int | None = None) -> Reports:
            answer = await tell(since)
            if children(world, ProtectiveRole.TARGET):
                await world.clock.sleep(3.0)
            return answer

        async def counted(news: StopNews, target: Order) -> bool:
            asked.append(world.clock.monotonic())
            return await ask(news, target)

        broker.reports = slowly  # type: ignore[method-assign]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StopNews, "ask", counted)
            world.fill("in")
            await world.run(120)
        (target,) = children(world, ProtectiveRole.TARGET)
        assert target.status is Status.PENDING
        assert not any(isinstance(event, SubmitStarted) for event in target.events)
        gaps = [later - earlier for earlier, later in pairwise(asked)]
        assert gaps == sorted(gaps)
        assert len(asked) <= 10
        assert (resting(world), state(world)) == (100, ProtectionState.PLACING)
        world.quote(bid="12.01", ask="12.03")
        await world.run(15)
        (close,) = children(world, ProtectiveRole.CLOSE)
        assert (at_broker(world)[0].ticket.order_type, close.quantity) == (OrderType.MARKET, 100)
        assert children(world, ProtectiveRole.TARGET)[0].status is Status.CANCELLED
        assert resting(world) == 0


async def test_a_slow_store_does_not_fill_a_targets_record_with_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in", **STOP_AT, take_profit=12)
        await world.run(1)
        append, is_slow = MongoStore.append, [True]

        async def slowly(store: MongoStore, order: Order, events: Sequence[Event], *, urgent: bool = False) -> Order:
            if is_slow[0] and any(isinstance(event, SubmitStarted) for event in events) and order.protective:
                await world.clock.sleep(2.5 if order.protective.role is ProtectiveRole.TARGET else 0.0)
            return await append(store, order, events, urgent=urgent)

        monkeypatch.setattr(MongoStore, "append", slowly)
        world.fill("in")
        await world.run(120)
        (target,) = children(world, ProtectiveRole.TARGET)
        tries = sum(isinstance(event, SubmitStarted) for event in target.events)
        assert 2 <= tries <= 10
        assert (resting(world), resting(world, OrderType.LIMIT), state(world)) == (100, 0, ProtectionState.PLACING)
        is_slow[0] = False
        await world.run(40)
        assert (resting(world), resting(world, OrderType.LIMIT)) == (100, 100)
        assert state(world) is ProtectionState.PROTECTED


async def test_a_target_of_which_it_is_not_known_whether_it_arrived_is_taken_back_when_its_stop_has_filled(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in", **STOP_AT, take_profit=12)
        await world.run(1)

        def loses_its_answer() -> None:
            hit_stop(world, 30)
            world.book().add_fault(Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP))

        around_placing(world, ProtectiveRole.TARGET, before=loses_its_answer, after=nothing)
        world.fill("in")
        await world.run(40)
        assert (resting(world), resting(world, OrderType.LIMIT)) == (70, 0)
        assert state(world) is ProtectionState.WATCHED


async def test_an_exit_takes_both_linked_orders_back_and_the_rest_gets_both_anew(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, take_profit=12)
        world.exit("out", "in", quantity=40)
        await world.run(4)
        world.fill("out", purpose=world.exit_record("out").identity.purpose)
        await world.run(4)
        assert (resting(world), resting(world, OrderType.LIMIT)) == (60, 60)
        assert state(world) is ProtectionState.PROTECTED


async def test_the_market_passes_the_stop_of_the_mock_broker(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send("in", price=10, stop_loss=9, take_profit=12)
        await world.run(5)
        assert (resting(world), resting(world, OrderType.LIMIT)) == (100, 100)
        world.send("else", price=8, quantity=1, strategy_name="other")
        await world.run(5)
        (stop,) = children(world, ProtectiveRole.STOP)
        assert (stop.status, stop.average_price) == (Status.FILLED, 8)
        assert (at_broker(world), state(world)) == ([], ProtectionState.CLOSED)


async def test_a_stop_that_the_price_has_passed_is_closed_at_the_market_once_and_people_are_alerted(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        world.send("in", price=None, stop_loss=1000)  # nobody knows a price before it fills
        await world.run(60)
        assert [(c.protective.role, c.status) for c in children(world) if c.protective] == [
            (ProtectiveRole.STOP, Status.REJECTED),
            (ProtectiveRole.CLOSE, Status.FILLED),
        ]
        assert (world.book().positions(), state(world)) == ((), ProtectionState.CLOSED)
        assert len(world.notifier.titled("Closing Position")) == 1


def says_triggered(world: World, child: Order) -> None:
    """The broker tells of this stop that it was triggered."""
    broker = world.brokers[ACCOUNT]
    ask = broker.reports

    async def reports(since: int | None = None) -> Reports:
        told = await ask(None)
        named = [replace(r, is_triggered=r.client_order_id == child.client_order_id) for r in told.reports]
        return replace(told, reports=named)

    broker.reports = reports  # type: ignore[method-assign]


@pytest.mark.parametrize("dies", [False, True])
async def test_a_stop_that_is_triggered_and_does_not_fill_is_closed_at_the_market_once(
    tmp_path: Path, dies: bool
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        says_triggered(world, stop)
        hit(world, stop, 30)
        await world.run(8)
        assert (resting(world), len(children(world))) == (70, 1)
        if dies:
            await world.restart()
        await world.run(60)
        (close,) = children(world, ProtectiveRole.CLOSE)
        assert (close.quantity, state(world), resting(world)) == (70, ProtectionState.CLOSING, 0)
        assert [order.status for order in children(world)] == [Status.CANCELLED, Status.SUBMITTED]
        told = [text for text in world.notifier.texts if "Closing Position" in text]
        assert len(told) == 1
        assert "its stop was triggered and has not filled" in told[0]
        hit(world, close)
        await world.run(5)
        assert state(world) is ProtectionState.CLOSED


async def test_where_an_asset_class_has_no_stops_the_price_is_watched_and_nothing_is_refused(tmp_path: Path) -> None:
    classes = frozenset({AssetClass.STOCK})
    able = replace(ALONE, classes_without_stops=classes, classes_of_the_day=classes)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=able) as world:
        world.quote(bid="9.99", ask="10.01")
        await entered(world)
        await world.run(30)
        assert (children(world), state(world)) == ([], ProtectionState.WATCHED)
        assert "the stop does not rest at the broker" in str(world.record("in").protection)
        world.quote(bid="7.99", ask="8.00")
        await world.run(2)
        world.quote(bid="9.99", ask="10.01")
        await world.run(10)
        assert children(world) == []  # one wrong price
        world.quote(bid="8.99", ask="9.00")
        await world.run(10)
        (close,) = children(world)
        assert (close.protective and close.protective.role, close.quantity) == (ProtectiveRole.CLOSE, 100)


async def test_a_target_of_an_asset_class_of_the_day_is_for_the_day(tmp_path: Path) -> None:
    able = replace(ALONE, classes_of_the_day=frozenset({AssetClass.STOCK}))
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=able) as world:
        await entered(world, stop_loss=None, take_profit=12)
        (target,) = at_broker(world)
        assert (target.ticket.order_type, target.ticket.tif) == (OrderType.LIMIT, Tif.DAY)


@pytest.mark.parametrize("names_entry", [True, False])
async def test_what_fills_after_an_exit_has_taken_what_a_stop_was_triggered_for_gets_a_stop_of_its_own(
    tmp_path: Path, names_entry: bool
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, 4)
        (stop,) = children(world)
        says_triggered(world, stop)
        if names_entry:
            world.cancel(signal_id="in")
            await world.run(3)
            world.exit("out", "in", quantity=4)
        else:
            world.send("out", quantity=4, side="SELL", signal_type="EXIT")
        await world.run(4)
        (sale,) = [p for p in world.placed() if p.ticket.side is Side.SELL and p.status is ReportStatus.WORKING]
        assert stop.triggered_at is None
        assert children(world)[0].triggered_at is not None
        world.book().fill_order(OrderRef(client_order_id=sale.ticket.client_order_id), Decimal(4))
        await world.run(4)
        assert world.book().positions() == ()
        world.fill("in", 6, force=names_entry)
        await world.run(30)
        assert (resting(world), children(world, ProtectiveRole.CLOSE)) == (6, [])
        assert state(world) is ProtectionState.PROTECTED


async def test_a_triggered_stop_that_fills_in_time_is_left_alone(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        (stop,) = children(world)
        says_triggered(world, stop)
        hit(world, stop, 30)
        await world.run(8)
        hit(world, stop)
        await world.run(30)
        assert ([order.status for order in children(world)], state(world)) == ([Status.FILLED], ProtectionState.CLOSED)


async def test_a_stop_with_a_limit_that_the_market_jumps_over_is_closed_at_the_market(tmp_path: Path) -> None:
    able = replace(ALONE, fits_tickets=True)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=able) as world:
        broker = world.brokers[ACCOUNT]
        fit = broker.fitted

        async def fitted(ticket: Ticket) -> Ticket:
            ticket = await fit(ticket)
            stop = ticket.stop_price
            return ticket if stop is None else replace(ticket, limit_price=stop * Decimal("0.95"))

        broker.fitted = fitted  # type: ignore[method-assign]
        world.quote(bid="9.99", ask="10.01")
        await entered(world)
        world.quote(bid="8.79", ask="8.81")
        await world.run(30)
        assert (resting(world), children(world, ProtectiveRole.CLOSE)) == (100, [])  # below the stop, and it can fill
        world.quote(bid="7.99", ask="8.01")
        await world.run(2)
        world.quote(bid="8.79", ask="8.81")
        await world.run(40)
        assert (resting(world), children(world, ProtectiveRole.CLOSE)) == (100, [])  # one wrong price
        world.quote(bid="7.99", ask="8.01")
        await world.run(40)
        (close,) = children(world, ProtectiveRole.CLOSE)
        assert (close.quantity, resting(world)) == (100, 0)


async def test_without_a_link_the_target_is_watched_and_closed_when_the_stop_is_gone(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=ALONE) as world:
        await entered(world, take_profit=12)
        assert (resting(world), resting(world, OrderType.LIMIT)) == (100, 0)
        assert state(world) is ProtectionState.WATCHED
        world.send("else", quantity=1, strategy_name="other", order_type="LIMIT", limit_price=12)
        await world.run(1)
        world.fill("else")
        await world.run(15)
        (close,) = children(world, ProtectiveRole.CLOSE)
        assert (at_broker(world)[0].ticket.order_type, close.quantity) == (OrderType.MARKET, 100)
        hit(world, close, price="12")
        await world.run(3)
        assert (at_broker(world), state(world)) == ([], ProtectionState.CLOSED)


async def test_a_watched_target_is_reached_by_the_brokers_quote_though_nobody_of_ours_trades(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=ALONE) as world:
        world.quote(bid="11.90", ask="11.94")
        await entered(world, take_profit=12)
        await world.run(15)
        assert children(world, ProtectiveRole.CLOSE) == []
        world.quote(bid="12.01", ask="12.03")
        await world.run(8)
        (close,) = children(world, ProtectiveRole.CLOSE)
        assert (at_broker(world)[0].ticket.order_type, close.quantity) == (OrderType.MARKET, 100)


async def test_quotes_are_asked_for_only_while_a_price_is_watched(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, take_profit=12)  # both rest at the broker, linked
        assert state(world) is ProtectionState.PROTECTED
        before = len(world.calls("quotes"))
        await world.run(60)
        assert len(world.calls("quotes")) == before


class Hours:
    """Of a market that opens once."""

    opens_at: datetime | None = None

    async def session(self, calendar: str, now: datetime) -> Session | None:
        closed_until = self.opens_at if self.opens_at is not None and now < self.opens_at else None
        return Session(is_open=closed_until is None, opens_at=closed_until)


async def test_a_stop_of_the_day_is_not_sent_into_the_night_and_leaves_as_the_market_opens(tmp_path: Path) -> None:
    of_the_day = replace(ALONE, tifs=frozenset({Tif.DAY, Tif.IOC}))
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=of_the_day) as world:
        world.risk_rules.hours = hours = Hours()
        await entered(world, exchange="NSE", currency="INR", tif="DAY")
        assert resting(world) == 100
        hours.opens_at = world.clock.now() + timedelta(minutes=20)
        world.book().expire_day()
        await world.run(600)
        assert (len(children(world)), state(world)) == (1, ProtectionState.UNPROTECTED)
        told = world.record("in").protection
        assert told is not None
        assert "protected again at the opening" in told.reason
        await world.run(605)
        assert (resting(world), len(children(world)), state(world)) == (100, 2, ProtectionState.PROTECTED)


async def test_a_trailing_stop_follows_the_market_and_neither_a_fall_nor_a_death_loosens_it(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.quote(bid="9.99", ask="10.01")
        await entered(world, stop_loss=None, trail_percent=10)
        assert [p.ticket.stop_price for p in at_broker(world)] == [9]
        world.quote(bid="11.99", ask="12.01")
        await world.run(8)
        assert ([p.ticket.stop_price for p in at_broker(world)], resting(world)) == ([Decimal("10.8")], 100)
        world.quote(bid="11.09", ask="11.11")
        await world.run(15)
        await world.restart()
        await world.run(15)
        assert ([p.ticket.stop_price for p in at_broker(world)], resting(world)) == ([Decimal("10.8")], 100)
        assert state(world) is ProtectionState.PROTECTED
        (document,) = world.documents("execution_confirmations", signal_id="in")
        assert (document["protection"]["stop_price"], document["protection"]["trail_percent"]) == (10.8, 10.0)


async def test_a_trailing_stop_of_the_mock_broker_goes_by_its_quote(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.quote(bid="9.99", ask="10.01")
        world.send("in", price=10, trail_percent=10)
        await world.run(5)
        world.quote(bid="11.99", ask="12.01")
        await world.run(8)
        assert [p.ticket.stop_price for p in at_broker(world)] == [Decimal("10.8")]


async def test_a_fall_while_the_trailing_stop_is_being_moved_leaves_it_where_it_was_to_be(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.quote(bid="9.99", ask="10.01")
        await entered(world, stop_loss=None, trail_percent=10)
        world.book().add_fault(Fault(operation=Operation.CANCEL, action=Action.IGNORE_CANCEL, times=None))
        world.quote(bid="11.99", ask="12.01")
        await world.run(7)
        assert [p.ticket.stop_price for p in at_broker(world)] == [9]  # the broker has not ended it yet
        world.quote(bid="10.99", ask="11.01")
        world.book().clear_faults()
        await world.restart()
        await world.run(30)
        assert ([p.ticket.stop_price for p in at_broker(world)], resting(world)) == ([Decimal("10.8")], 100)


async def test_what_fills_late_of_a_trailing_entry_that_is_closed_is_protected_over_a_death(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world, 80, stop_loss=None, trail_amount=1)
        world.cancel(signal_id="in")
        await world.run(3)
        (stop,) = children(world)
        hit(world, stop)
        await world.run(5)
        assert state(world) is ProtectionState.CLOSED
        world.fill("in", 20, "14", force=True)
        await world.run_until(lambda: world.record("in").filled_quantity == 100, 20)
        await world.restart()
        await world.run(15)
        assert (resting(world), state(world)) == (20, ProtectionState.PROTECTED)


@pytest.mark.parametrize("dies", [False, True])
async def test_what_fills_after_the_trailing_stop_was_hit_begins_its_own_stop_from_its_own_price(
    tmp_path: Path, dies: bool
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.quote(bid="9.99", ask="10.01")
        await entered(world, 80, stop_loss=None, trail_amount=1)
        world.quote(bid="13.99", ask="14.01")
        await world.run(10)
        (stop,) = [o for o in children(world) if o.status is Status.SUBMITTED]
        assert stop.stop_price == 13
        world.quote(bid="11.99", ask="12.01")
        hit(world, stop)
        await world.run(5)
        world.fill("in", 20, "12")
        await world.run(3)
        if dies:
            await world.restart()
        await world.run(30)
        assert ([p.ticket.stop_price for p in at_broker(world)], resting(world)) == ([11], 20)
        assert state(world) is ProtectionState.PROTECTED
        assert children(world, ProtectiveRole.CLOSE) == []
        world.quote(bid="13.99", ask="14.01")
        await world.run(15)
        assert ([p.ticket.stop_price for p in at_broker(world)], resting(world)) == ([13], 20)


async def test_no_price_of_before_an_entry_filled_moves_its_trailing_stop(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.quote(bid="9.99", ask="10.01")
        await entered(world, stop_loss=None, trail_amount=3)
        await world.run(10)
        world.quote(bid="9.49", ask="9.51")
        world.send("later", order_type="LIMIT", limit_price=10, trail_amount="0.1")
        await world.run(0.5)
        world.fill("later", 100, "9.5")
        await world.run(20)
        assert sorted(p.ticket.stop_price or 0 for p in at_broker(world)) == [7, Decimal("9.4")]


async def test_a_price_that_was_shown_once_moves_no_stop(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.quote(bid="9.99", ask="10.01")
        await entered(world, stop_loss=None, trail_amount=1)
        await world.run(6)
        world.quote(bid="19.99", ask="20.01")
        await world.run(2)
        world.quote(bid="9.99", ask="10.01")
        await world.run(15)
        assert [p.ticket.stop_price for p in at_broker(world)] == [9]


def rounds_stops_down_to_halves(world: World) -> None:
    """As a market with a coarse tick."""
    broker = world.brokers[ACCOUNT]
    fit = broker.fitted

    async def fitted(ticket: Ticket) -> Ticket:
        ticket = await fit(ticket)
        stop = ticket.stop_price
        return ticket if stop is None else replace(ticket, stop_price=stop_on_tick(stop, Decimal("0.5"), ticket.side))

    broker.fitted = fitted  # type: ignore[method-assign]


async def test_a_trailing_stop_is_not_taken_down_to_be_placed_at_the_same_tick(tmp_path: Path) -> None:
    able = replace(ALONE, fits_tickets=True)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=able) as world:
        rounds_stops_down_to_halves(world)
        world.quote(bid="9.99", ask="10.01")
        await entered(world, stop_loss=None, trail_amount=1)
        for price, stop, made in (("10.30", "9.0", 1), ("10.45", "9.0", 1), ("10.60", "9.5", 2), ("10.80", "9.5", 2)):
            world.quote(bid=price, ask=price)
            await world.run(15)
            assert [p.ticket.stop_price for p in at_broker(world)] == [Decimal(stop)]
            assert (len(children(world)), state(world)) == (made, ProtectionState.PROTECTED)


async def test_a_linked_target_stays_with_its_stop_that_is_not_worth_moving(tmp_path: Path) -> None:
    able = replace(ALONE, fits_tickets=True, links_exits=True)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=able) as world:
        rounds_stops_down_to_halves(world)
        world.quote(bid="9.99", ask="10.01")
        await entered(world, stop_loss=None, trail_amount=1, take_profit=20)
        for price, stop, made in (("10.30", "9.0", 2), ("10.60", "9.5", 4)):
            world.quote(bid=price, ask=price)
            await world.run(15)
            assert {p.ticket.stop_price for p in at_broker(world)} == {Decimal(stop), None}
            assert (len(children(world)), state(world)) == (made, ProtectionState.PROTECTED)


async def test_a_stop_is_left_where_it_rests_while_the_market_is_not_told_for_the_new_one(tmp_path: Path) -> None:
    able = replace(ALONE, fits_tickets=True)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, capabilities=able) as world:
        world.quote(bid="9.99", ask="10.01")
        await entered(world, stop_loss=None, trail_amount=1)
        world.broker_faults.unfitting["AAPL"] = [NotAnswered("no answer") for _ in range(5)]
        world.quote(bid="11.99", ask="12.01")
        await world.run(8)
        assert resting(world) == 100
        assert world.broker_faults.unfitting["AAPL"] != []
        await world.run(60)
        assert [p.ticket.stop_price for p in at_broker(world)] == [11]


async def test_how_a_stop_trails_is_said_in_one_way_and_in_per_cent(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("share", **(STOP_AT | {"trail_percent": "0.02"}))
        world.send("both", **(STOP_AT | {"trail_percent": 2, "trail_amount": 1}))
        await world.run(2)
        for name, words in (("share", "per cent"), ("both", "either says")):
            reason = world.record(name).reason
            assert reason is not None
            assert words in reason.message


async def test_an_entry_whose_position_was_turned_does_not_protect_what_another_one_bought_later(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        world.send("turn", side="SELL", quantity=150, order_type="LIMIT", limit_price=10)
        await world.run(4)
        world.fill("turn")
        await world.run(4)
        assert (at_broker(world), state(world)) == ([], ProtectionState.MAKING_WAY)
        world.send("back", quantity=150, order_type="LIMIT", limit_price=10)
        await world.run(2)
        world.fill("back")
        await world.run(15)
        assert (at_broker(world), state(world)) == ([], ProtectionState.CLOSED)


async def test_an_annulled_turn_gives_the_position_its_stop_back(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        world.send("turn", side="SELL", quantity=150, order_type="LIMIT", limit_price=10)
        await world.run(4)
        fill = world.fill("turn")
        await world.run(4)
        await world.restart()
        await world.run(4)
        world.book().bust_fill(fill)
        await world.run(20)
        assert (resting(world), state(world)) == (100, ProtectionState.PROTECTED)


async def test_what_the_annulment_of_another_order_gives_back_is_protected_though_its_commission_comes_with_it(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("bought", quantity=10, order_type="LIMIT", limit_price=10)
        await world.run(1)
        bought = world.fill("bought")
        await world.run(1)
        world.send("in", side="SELL", quantity=100, order_type="LIMIT", limit_price=10, stop_loss=12)
        await world.run(1)
        sold = world.fill("in")
        await world.run(2)
        hit(world, children(world)[0])
        await world.run(2)
        assert (at_broker(world), state(world)) == ([], ProtectionState.CLOSED)
        world.book().bust_fill(bought)
        world.book().set_commission(sold, Decimal(2))
        await world.run(20)
        assert (resting(world), state(world)) == (10, ProtectionState.PROTECTED)


async def test_a_stop_that_was_stored_and_whose_answer_was_lost_leaves_all_the_same(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in", **STOP_AT)
        await world.run(1)
        world.store_faults.lost_answers["execution_orders.insert_many"] = 1
        world.fill("in")
        await world.run(10)
        assert not world.store_faults.lost_answers["execution_orders.insert_many"]
        assert (resting(world), len(children(world))) == (100, 1)


async def test_positions_over_http_name_the_orders_that_protect_them(tmp_path: Path) -> None:
    async with http_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, http):
        await entered(world, 4, take_profit=12)
        (position,) = (await http.get("/api/execution/positions")).json()["positions"]
        (stop,), (target,) = children(world, ProtectiveRole.STOP), children(world, ProtectiveRole.TARGET)
        assert position["has_tp_sl"] is True
        assert position["sl_orders"] == [{"order_id": stop.order_id, "price": 9.0, "quantity": 4.0}]
        assert position["tp_orders"] == [{"order_id": target.order_id, "price": 12.0, "quantity": 4.0}]


async def test_an_entry_that_has_been_closed_is_not_protected_again_when_its_trader_begins_anew(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        await entered(world)
        world.exit("out", "in", quantity=40)
        await world.run(6)
        world.fill("out", purpose=Purpose.EXIT)
        await world.run(10)
        world.send("sale", side="SELL", quantity=60)
        await world.run(8)
        world.fill("sale")
        await world.run(15)
        assert (state(world), resting(world)) == (ProtectionState.CLOSED, 0)
        names = [f"bare-{number}" for number in range(60)]
        for name in names:
            world.send(name, quantity=1)
        await world.run(3)
        for name in names:
            world.fill(name)
        await world.run(10)
        placed = len(children(world))
        trader = world.service.accounts.traders[ACCOUNT]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trader, "_turn", lambda: 1 / 0)
            trader._timers.wake()
            await world.run(0.01)
        await world.run(60)
        assert (state(world), resting(world), len(children(world))) == (ProtectionState.CLOSED, 0, placed)
        audit(world)


async def test_a_stop_that_was_held_back_for_longer_than_an_order_may_be_old_leaves_as_soon_as_it_can(
    tmp_path: Path,
) -> None:
    rules = replace(RESTING, max_order_age_seconds=20.0)
    async with world_of(tmp_path, market=BY_HAND, rules=rules) as world:
        world.send("in", **STOP_AT)
        await world.run(1)
        broker: Any = world.brokers[ACCOUNT]
        place_order, released_at = broker.place_order, world.clock.monotonic() + 40

        async def held_back(ticket: Ticket) -> Report:
            if world.clock.monotonic() < released_at:
                raise HeldBack("the account's requests are used up", wait_seconds=5.0)
            return await place_order(ticket)

        broker.place_order = held_back
        world.fill("in")
        await world.run(60)
        (stop,) = children(world)
        assert (resting(world), stop.status) == (100, Status.SUBMITTED)
        assert sum(isinstance(event, SubmitStarted) for event in stop.events) <= 12
