"""Two processes on one store: who works what, take-over after a death, a freeze or a stop, and what must never happen twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence, Set
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Capabilities
from brokers.errors import BrokerUnavailable, HeldBack, NotAnswered, OrderRefused, RateLimited
from execution_service.control.remembered_cancels import RememberedCancels
from execution_service.core.orders.events import Noted
from execution_service.core.orders.order import Order
from execution_service.core.orders.report_events import new_events
from execution_service.core.orders.status import Status
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.ownership.ownership import UNASSIGNED
from execution_service.storage.ports.orders import CursorCommit
from execution_service.trading.trader import TradingRules
from tests.builders import filled_by, submit_started
from tests.fakes import ACCOUNT, BY_HAND, Died, Moment, World, two_worlds, world_of
from tests.service.audit import audit

TAG = Capabilities(refuses_repeated_client_id=False, find_window_seconds=3.0)
TAKE_OVER_SECONDS = 15.0


def holder(world: World, partition: str = ACCOUNT) -> str:
    (lease,) = world.documents("execution_leases", _id=partition)
    return str(lease["holder"])


def is_held_by(world: World, partition: str = ACCOUNT) -> Callable[[], bool]:
    return lambda: world.service.ownership.holds(partition)


def has(world: World, signal_id: str, status: Status) -> Callable[[], bool]:
    return lambda: any(o.signal_id == signal_id and o.status is status for o in world.records())


async def seconds_until(world: World, condition: Callable[[], bool]) -> float:
    began = world.clock.monotonic()
    await world.run_until(condition)
    return world.clock.monotonic() - began


def hold_no_more(world: World) -> None:
    """The lease has run out, and nothing but who asks directly has noticed yet."""
    ownership: Any = world.service.ownership
    ownership.holds = lambda partition: False


# --- who works what -------------------------------------------------------------------------------------------------


async def test_a_second_process_takes_nothing_from_a_living_one(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        before = holder(one)
        await one.run(60)
        assert holder(one) == before
        assert is_held_by(one)()
        assert not is_held_by(other)()
        assert not is_held_by(other, UNASSIGNED)()
        assert other.calls("connect") == []


async def test_an_order_that_another_process_stored_is_worked_by_the_holder_within_a_second(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        other.send("a")
        assert await seconds_until(one, has(one, "a", Status.FILLED)) < 1.0
        await one.run(5)
        assert one.calls("place_order") == [World.client_id("a")]
        assert other.calls("place_order") == []
        assert not [d for d in one.documents("execution_orders") if any(w.startswith("left:") for w in d["lookup"])]
        audit(one)


async def test_an_order_that_nobody_told_of_is_found_all_the_same(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        other.send("a")
        await other.settle()
        one.mongo["trading"]["execution_orders"].update_many({}, {"$pull": {"lookup": f"left:{ACCOUNT}"}})
        assert await seconds_until(one, has(one, "a", Status.FILLED)) < 20.0


async def test_a_record_that_cannot_be_read_and_was_left_is_not_complained_of_for_ever(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        other.send("a")
        await other.settle()
        one.mongo["trading"]["execution_orders"].update_many({}, {"$set": {"format": 99}})
        await one.run(5)
        other.send("b")
        await one.run(60)
        assert one.publisher.statuses("b") == ["FILLED"]
        complaints = {entry["event"] for entry in one.logs if entry.get("action") == "unreadable_record"}
        assert len(complaints) == 1
        assert len([entry for entry in one.logs if entry.get("action") == "unreadable_record"]) <= 3


async def test_a_cancel_that_another_process_received_reaches_the_broker(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND) as (one, other):
        await other.start()
        one.send("a")
        await one.run(2)
        other.cancel(signal_id="a")
        assert await seconds_until(one, has(one, "a", Status.CANCELLED)) < 3.0
        assert one.calls("cancel_order") == [World.client_id("a")]
        assert other.calls("cancel_order") == []
        (command,) = one.documents("execution_commands")
        assert (command["status"], command["outcome"].endswith("asked to be cancelled")) == ("DONE", True)


async def test_a_decision_about_an_order_in_doubt_may_be_taken_by_any_process(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, capabilities=TAG, is_unique=False) as (one, other):
        one.broker_faults.errors["place_order"] = [TimeoutError("no answer")]
        one.send("a")
        await one.run_until(has(one, "a", Status.IN_DOUBT))
        await one.kill()
        await other.start()
        await other.run_until(is_held_by(other))
        await one.start()
        order = other.record("a")
        now = other.clock.now()
        body = {"order_id": order.order_id, "decision": "not-placed", "by": "Ann", "note": "looked"}
        other.mongo["trading"]["execution_commands"].insert_one(
            {"_id": "ctl-1", "kind": "RESOLVE", "body": body, "published_at": now, "received_at": now}
            | {"status": "NEW", "outcome": "", "active_until": None}
        )
        await other.run(5)
        assert other.record("a").status is Status.REJECTED
        assert sum(type(e).__name__ == "DeclaredNotPlaced" for e in other.record("a").events) == 1
        assert other.publisher.statuses("a") == ["IN_DOUBT", "REJECTED"]


async def test_a_comparison_that_was_asked_for_is_made_by_the_holder(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        now = one.clock.now()
        one.mongo["trading"]["execution_commands"].insert_one(
            {"_id": "ctl-1", "kind": "RECONCILE", "body": {"account_id": ACCOUNT}, "published_at": now}
            | {"received_at": now, "status": "NEW", "outcome": "", "active_until": None}
        )
        await one.run(5)
        (command,) = one.documents("execution_commands")
        assert command["status"] == "DONE"
        assert command["outcome"].startswith("Reconciled")
        assert other.calls("reports") == []


async def test_what_belongs_to_no_account_is_told_once_whoever_stored_it(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        other.send("stranger", account_id="nobody")
        other.send("nameless", account_id=None)
        other.send_raw(b"no JSON")
        await one.run(5)
        assert one.publisher.statuses("stranger") == one.publisher.statuses("nameless") == ["REJECTED"]
        assert len(one.notifier.titled("Dead Letter")) == 1
        assert not one.unsettled()


async def test_a_fill_that_another_process_recorded_first_is_told_by_the_holder(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND) as (one, other):
        await other.start()
        one.send("a")
        await one.run(2)
        await other.service.handle_order_fill(
            one.record("a").order_id, {"fill_id": "f1", "quantity": "100", "price": "10"}
        )
        await one.run_until(lambda: one.publisher.statuses("a") == ["FILLED"], limit_seconds=3)
        assert other.calls("connect") == []


async def test_an_event_that_somebody_else_wrote_first_wakes_the_delivery(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send("a")
        await world.run(2)
        live = world.service.live_orders.by_id[world.record("a").order_id]
        stranger = World(tmp_path, beside=world)
        event = filled_by("x1", 100)
        async with world_of_stranger(stranger):
            order = stranger.record("a")
            await stranger.service.live_orders.record_for_holder(order, lambda o: () if o.fills else (event,))
        await world.service.live_orders.record(live, lambda o: () if o.fills else (event,))
        await world.run(2)
        assert world.publisher.statuses("a") == ["FILLED"]


class world_of_stranger:
    """A process that writes to the same store and works nothing."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def __aenter__(self) -> None:
        await self._world.start()
        await self._world.service.stop()
        await self._world.service.live_orders._store.open()

    async def __aexit__(self, *_: object) -> None:
        await self._world.close()


async def test_an_account_that_no_file_names_is_taken_by_whoever_stores_its_order(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, accounts=(), unnamed_accounts=("made-up",)) as (one, other):
        await other.start()
        other.send("a", account_id="made-up")
        assert await seconds_until(other, has(other, "a", Status.FILLED)) < 2.0
        assert is_held_by(other, "made-up")()
        one.send("b", account_id="made-up")
        assert await seconds_until(other, has(other, "b", Status.FILLED)) < 2.0
        assert one.calls("place_order") == []
        await other.kill()
        one.send("c", account_id="made-up")
        assert await seconds_until(one, has(one, "c", Status.FILLED)) < TAKE_OVER_SECONDS
        await one.run(5)
        assert len(one.placed("made-up")) == 3
        assert not one.unsettled()


async def test_an_account_that_no_file_names_is_given_back_when_it_is_idle_and_taken_again(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, accounts=(), unnamed_accounts=("made-up",)) as (one, other):
        await other.start()
        one.send("a", account_id="made-up")
        await one.run_until(lambda: holder(one, "made-up") == "", limit_seconds=600)
        await one.run(300)
        assert holder(one, "made-up") == ""
        other.send("b", account_id="made-up")
        assert await seconds_until(other, has(other, "b", Status.FILLED)) < 4.0
        one.send("c", account_id="made-up")
        assert await seconds_until(other, has(other, "c", Status.FILLED)) < 4.0
        await one.run(5)
        assert not one.unsettled()


# --- deaths, stops, freezes -----------------------------------------------------------------------------------------


async def test_another_process_takes_over_after_a_kill_and_says_so(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND) as (one, other):
        await other.start()
        one.send("a")
        await one.run(2)
        await one.kill()
        other.fill("a", 100, "10")
        other.send("b")
        assert await seconds_until(other, is_held_by(other)) < TAKE_OVER_SECONDS
        await other.run(3)
        other.fill("b", 100, "10")
        await other.run(3)
        audit(other)
        assert len(other.placed()) == 2
        assert len(other.notifier.titled("Taken Over")) == 1


async def test_a_process_that_stops_hands_over_at_once(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND) as (one, other):
        await other.start()
        one.send("a")
        await one.run(2)
        await one.stop()
        assert holder(other) == ""
        assert await seconds_until(other, is_held_by(other)) <= 2.1
        other.fill("a", 100, "10")
        await other.run(3)
        audit(other)
        assert not other.notifier.titled("Taken Over")


async def test_a_lone_process_takes_its_own_leases_again_after_the_store_was_away(tmp_path: Path) -> None:
    async with world_of(tmp_path, lease_seconds=8.0) as world:
        world.store_faults.is_away = True
        await world.run(10)
        assert not is_held_by(world)()
        world.store_faults.is_away = False
        world.send("a")
        assert await seconds_until(world, has(world, "a", Status.FILLED)) < 5.0
        await world.run(3)
        audit(world)


async def test_an_update_that_nobody_waits_for_any_more_is_not_written_later(tmp_path: Path) -> None:
    """Else an order would be marked as being sent by a process that has let it go, and will not send it."""
    async with world_of(tmp_path) as world:
        world.broker_faults.unavailable = BrokerUnavailable("down", known_pause=True)
        world.send("a")
        await world.run(1)
        world.store_faults.is_away = True
        waiting = asyncio.create_task(world.service.live_orders._store.append(world.record("a"), [submit_started()]))
        await world.run(10)
        waiting.cancel()
        world.store_faults.is_away = False
        await world.run(30)
        assert waiting.cancelled()
        assert world.record("a").status is Status.PENDING


async def test_a_lease_whose_taking_was_not_answered_is_held_soon(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False, lease_seconds=8.0) as world:
        world.store_faults.lost_answers["execution_leases.insert_one"] = 1
        with pytest.raises(Exception, match="connection closed"):
            await world.start()
        await world.service.start()
        await world.settle()
        assert is_held_by(world)()
        assert is_held_by(world, UNASSIGNED)()


async def test_who_is_cut_off_from_the_store_stops_before_another_begins(tmp_path: Path) -> None:
    async with two_worlds(tmp_path, market=BY_HAND) as (one, other):
        await other.start()
        one.send("a")
        await one.run(2)
        one.store_faults.is_away = True
        stopped_after = await seconds_until(one, lambda: not is_held_by(one)())
        assert not one.service.accounts.traders
        assert not one.service.live_orders.by_id
        taken_after = await seconds_until(other, is_held_by(other))
        assert stopped_after <= 6.0
        assert 1.9 < taken_after < TAKE_OVER_SECONDS - stopped_after
        one.store_faults.is_away = False
        await one.run(20)
        assert not is_held_by(one)()
        other.fill("a", 100, "10")
        await other.run(15)
        audit(other)


async def test_wall_clocks_that_differ_move_no_lease(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        for jump in (-86_400, 172_800):
            one.clock.jump_wall(jump)
            await one.run(20)
            assert is_held_by(one)()


@pytest.mark.parametrize("is_unique", [True, False])
async def test_who_was_frozen_while_sending_does_not_place_twice(tmp_path: Path, is_unique: bool) -> None:
    capabilities = None if is_unique else TAG
    async with two_worlds(tmp_path, market=BY_HAND, capabilities=capabilities, is_unique=is_unique) as (one, other):
        await other.start()
        wakes = one.broker_faults.holds["place_order"] = asyncio.Event()
        one.send("a")
        await one.run(1)
        assert one.record("a").status is Status.SUBMITTING
        one.store_faults.is_away = True
        await other.run_until(is_held_by(other))
        await other.run(1)
        wakes.set()  # the call that was on its way arrives now, long after the lease was lost
        one.store_faults.is_away = False
        await other.run(20)
        assert len(other.placed()) <= 1
        assert other.record("a").status is (Status.SUBMITTED if is_unique else Status.IN_DOUBT)
        assert one.calls("place_order") == [World.client_id("a")]


async def test_who_was_frozen_before_sending_does_not_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look, looks, frozen = RememberedCancels.named_by_cancels, asyncio.Event(), set[RememberedCancels]()

    async def slow_look(cancels: RememberedCancels, orders: Sequence[Order]) -> Set[str]:
        if cancels in frozen and orders[0].order_id in one.service.live_orders.by_id:
            await looks.wait()
        return await look(cancels, orders)

    monkeypatch.setattr(RememberedCancels, "named_by_cancels", slow_look)
    async with two_worlds(tmp_path, market=BY_HAND, capabilities=TAG, is_unique=False) as (one, other):
        await other.start()
        frozen.add(one.service.commands.cancels)
        one.send("a")
        await one.run(1)
        one.store_faults.is_away = True
        await other.run_until(is_held_by(other))
        looks.set()
        one.store_faults.is_away = False
        await other.run(10)
        assert [o.ticket.client_order_id for o in other.placed()] == [World.client_id("a")]
        assert one.calls("place_order") == []


async def test_the_lease_is_looked_at_directly_before_an_order_leaves(tmp_path: Path) -> None:
    """Between the intent and the sending the process may have been frozen, and nothing in it has noticed yet."""
    reserving = Capabilities(needs_reservation=True, refuses_repeated_client_id=False, find_window_seconds=3.0)
    async with world_of(tmp_path, market=BY_HAND, capabilities=reserving, is_unique=False, lease_seconds=8.0) as world:
        reserved = world.broker_faults.holds["reserve"] = asyncio.Event()
        world.send("a")
        await world.run(1)
        hold_no_more(world)
        reserved.set()
        await world.run(1)
        assert world.record("a").status is Status.SUBMITTING
        assert world.calls("place_order") == []


async def test_a_cancel_is_not_sent_without_the_lease(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, lease_seconds=8.0) as world:
        world.send("a")
        await world.run(1)
        hold_no_more(world)
        world.cancel(signal_id="a")
        await world.run(5)
        assert world.calls("cancel_order") == []


async def send_while_another_sends_again(world: World, answer: Exception) -> None:
    """The answer to our sending comes after another process has recorded that it has sent the same order again."""
    answers = world.broker_faults.holds["place_order"] = asyncio.Event()
    world.broker_faults.errors["place_order"] = [answer]
    world.send("a")
    await world.run(1)
    again = Noted(at=world.clock.now(), message="sent again by another process")
    await world.service.live_orders.record_for_holder(
        world.record("a"), lambda o: () if again in o.events else (again,)
    )
    answers.set()
    await world.run(10)


async def test_a_refusal_of_a_sending_that_another_process_has_repeated_ends_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        await send_while_another_sends_again(world, OrderRefused("no margin"))
        assert world.record("a").status is Status.SUBMITTED
        assert len(world.placed()) == 1


async def test_deliveries_of_a_dead_process_are_finished_by_the_next(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        one.publisher.is_away = one.notifier.is_away = True
        one.send("a")
        await one.run(2)
        assert one.publisher.messages == []
        await one.kill()
        await other.run_until(lambda: other.publisher.statuses("a") == ["FILLED"], limit_seconds=TAKE_OVER_SECONDS)
        await other.run(3)
        audit(other)


async def test_confirmations_of_orders_that_were_let_go_are_left_to_the_next(tmp_path: Path) -> None:
    """The calls that hung when the lease was lost come back after the next holder has published everything."""
    async with two_worlds(tmp_path, market=BY_HAND, rules=TradingRules(order_timeout_seconds=0)) as (one, other):
        await other.start()
        one.publisher.hold = asyncio.Event()
        one.send("a")
        await one.run(2)
        for part in (40, 60):
            one.fill("a", part)
            await one.run(3)
        one.store_faults.is_away = True
        await other.run_until(is_held_by(other))
        await other.run(5)
        assert other.publisher.statuses("a") == ["PARTIALLY_FILLED", "FILLED"]
        one.store_faults.is_away = False
        one.publisher.hold.set()
        await other.run(120)
        assert other.publisher.statuses("a") == ["PARTIALLY_FILLED", "FILLED"]
        audit(other)


async def test_letters_of_orders_that_were_let_go_are_left_to_the_next(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        one.notifier.is_away = True
        one.send("a")
        await one.run(2)
        one.store_faults.is_away = True
        await other.run_until(is_held_by(other))
        await other.run(2)
        told = list(other.notifier.texts)
        one.notifier.is_away = one.store_faults.is_away = False
        await other.run(120)
        assert [t for t in other.notifier.texts if "Order" in t] == [t for t in told if "Order" in t]
        audit(other)


async def test_a_letter_that_waits_for_telegram_is_written_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, lease_seconds=8.0) as world:
        world.notifier.is_away = True
        world.send("a")
        await world.run(60)
        world.send("a")
        await world.run(5)
        world.notifier.is_away = False
        await world.run(120)
        assert len(world.notifier.titled("Order Filled")) == 1
        audit(world)


# --- the ledger ------------------------------------------------------------------------------------------------------


async def test_a_booking_is_not_forgotten_by_a_process_that_does_not_know_its_order(tmp_path: Path) -> None:
    """Two that both book on one key, as when one wakes late: neither may take away what the other has not durably taken over."""
    async with world_of(tmp_path) as one:
        # Nothing is committed, so that only the ledger's entry knows what was booked.
        one.service._store.commit_cursors = _never_ends  # type: ignore[method-assign]
        one.publisher.is_away = True
        one.send("a")
        await one.run(1)
        other = World(tmp_path, beside=one)
        try:
            other.publisher.is_away = True
            await other.start()
            for live in tuple(other.service.live_orders.by_id.values()):
                other.service.live_orders.let_go(live)
            other.service.delivery.let_go(lambda account_id: True)
            other.service._store.commit_cursors = _never_ends  # type: ignore[method-assign]
            other.send("b")
            await other.run(1)
            await other.kill()
            one.publisher.is_away = False
            await one.restart()
            await one.run(60)
            (ledger,) = one.documents("execution_positions")
            assert ledger["position"]["quantity"] == "200"
            audit(one)
        finally:
            await other.close()


async def _never_ends(commits: Sequence[CursorCommit]) -> None:
    await asyncio.Event().wait()


async def test_a_process_that_was_frozen_while_booking_a_fill_does_not_book_it_again(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        store = one.service._store
        wakes = asyncio.Event()
        save = store.save_ledgers

        async def frozen_save(entries: Sequence[LedgerEntry]) -> list[bool]:
            await wakes.wait()
            return await save(entries)

        store.save_ledgers = frozen_save  # type: ignore[method-assign]
        one.send("a")
        await one.run(1)
        assert one.record("a").status is Status.FILLED
        assert not one.documents("execution_positions")
        one.store_faults.is_away = True
        await other.run_until(is_held_by(other))
        await other.run(5)
        other.send(
            "b"
        )  # whose booking lets the ledger's entry forget the first fill, which its order has of its own by now
        await other.run(5)
        (ledger,) = other.documents("execution_positions")
        assert [applied["order_id"] for applied in ledger["applied"]] == [other.record("b").order_id]
        one.store_faults.is_away = False
        wakes.set()
        await other.run(30)
        (ledger,) = other.documents("execution_positions")
        assert ledger["position"]["quantity"] == "200"
        audit(other)


# --- every moment of a death ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(1, 60, 7))
async def test_a_death_at_any_step_leaves_one_order_and_one_truth(tmp_path: Path, step: int) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        one.gate.dies_at = (len(one.gate.names) + step, Moment.AFTER)
        for name in ("a", "b", "c"):
            one.send(name)
            other.send(f"{name}-elsewhere", symbol="MSFT")
        with contextlib.suppress(Died):
            await one.run(3)
        await one.kill()
        one.orders.deliver_elsewhere(other.orders)
        await other.run(TAKE_OVER_SECONDS + 45)
        assert len(other.placed()) == 6
        audit(other)


@pytest.mark.parametrize(
    "answer",
    [
        BrokerUnavailable("away", known_pause=True),
        NotAnswered("busy"),
        HeldBack("held", wait_seconds=1.0),
        RateLimited("spent", wait_seconds=1.0),
    ],
    ids=lambda answer: type(answer).__name__,
)
async def test_that_nothing_left_here_says_nothing_of_what_another_process_has_sent_again(
    tmp_path: Path, answer: Exception
) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        await send_while_another_sends_again(world, answer)
        assert "NothingSent" not in [type(event).__name__ for event in world.record("a").events]


async def test_a_lane_whose_shared_store_fails_at_once_makes_pauses(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, lease_seconds=8.0) as world:
        hold = world.broker_faults.holds_answer["place_order"] = asyncio.Event()
        world.send("a")
        await world.settle()
        world.send("b")
        await world.settle()
        world.store_faults.is_away = True
        hold.set()
        await world.settle()
        assert not [line for line in world.logs if line.get("action") == "step_failed"]
        world.store_faults.is_away = False
        await world.run(30)
        assert {world.record(name).status for name in "ab"} == {Status.SUBMITTED}


async def test_end_that_another_process_recorded_is_delivered_by_the_one_that_stumbles_over_it(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.book().cancel(world.ref("sig"))
        (report,) = world.book().reports().reports
        store: Any = world.service._store
        writing = asyncio.create_task(
            store.append(world.record(), new_events(world.record(), report, world.clock.now()))
        )
        await world.settle()
        await writing
        await world.run(10)
        assert world.publisher.statuses("sig") == ["CANCELLED"]
        assert not world.unsettled()


async def test_an_order_whose_account_is_let_go_as_its_record_is_read_does_not_come_in_hand(tmp_path: Path) -> None:
    """A late fill of a finished order: who works the account next hears of it."""
    async with two_worlds(tmp_path) as (one, other):
        one.send()
        await one.run_until(lambda: one.record().status is Status.FILLED)
        await one.run(10)
        holder = next(world for world in (one, other) if ACCOUNT in world.service.accounts.traders)
        trader: Any = holder.service.accounts.traders[ACCOUNT]
        assert not holder.service.live_orders.by_id
        store = trader._report_poller._store
        find, ownership = store.find, holder.service.ownership
        let_go: list[str] = []

        async def found_as_it_is_let_go(names: Any) -> Any:
            found = await find(names)
            if not let_go and found:
                let_go.append(ACCOUNT)
                ownership.holds = lambda partition: False
                holder.service.accounts.let_go(ACCOUNT)
            return found

        store.find = found_as_it_is_let_go
        holder.book().set_commission(holder.placed()[0].fills[0].fill_id, Decimal(7))
        trader.hinted()
        await holder.run(0.5)
        assert let_go
        assert not holder.service.live_orders.by_id
