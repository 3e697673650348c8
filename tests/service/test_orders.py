"""The ordinary journey of orders, the doors for programs, and the money that is told; by a hand-moved clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Capabilities
from brokers.errors import OrderRefused, OutcomeUnknown
from brokers.paper.model import Action, Fault, Market, Operation
from execution_service.core.errors import InvalidTransition
from execution_service.core.orders.events import Accepted
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.recording.live_orders import LiveOrder
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import Stored
from execution_service.trading.order_steps import OrderSteps
from tests.fakes import ACCOUNT, BY_HAND, RESTING, World, world_of
from tests.service.audit import audit

ORDER: dict[str, Any] = {
    "signal_id": "sig",
    "account_id": "acct-1",
    "strategy_name": "momentum",
    "symbol": "AAPL",
    "side": "BUY",
    "quantity": 100,
    "order_type": "MARKET",
    "price": 10,
}


def pnl(world: World) -> float:
    return sum((float(d["realized_pnl"]) for d in world.documents("positions")), 0.0)


# --- the journey ----------------------------------------------------------------------------------------------------


async def test_order_goes_from_message_to_position_confirmation_and_people(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(stop_loss=9, take_profit=12)
        await world.run(1)
        order = world.record()
        (body,) = world.publisher.of("sig")
        assert body["order_id"] == order.broker_order_id
        assert body["client_order_id"] == order.client_order_id
        assert (body["status"], body["filled_quantity"], body["avg_fill_price"]) == ("FILLED", 100, 10)
        assert (body["commission"], body["realized_pnl"]) == (1, 0)
        (document,) = world.documents("execution_confirmations", signal_id="sig")
        protection = document["protection"]
        assert (protection["state"], protection["quantity"]) == ("PROTECTED", 100.0)
        assert (protection["stop_loss"], protection["take_profit"]) == (9.0, 12.0)
        (position,) = world.documents("positions")
        assert (position["status"], position["side"], position["quantity"]) == ("OPEN", "LONG", 100.0)
        assert len(world.notifier.titled("Order Filled")) == 1
        audit(world)


async def test_each_partial_fill_is_told(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        await world.run(1)
        for quantity, price in ((10, "10"), (20, "11"), (70, "12")):
            world.fill("sig", quantity, price)
            await world.run(6)
        told = [(b["status"], b["filled_quantity"], b["last_fill"]["quantity"]) for b in world.publisher.of("sig")]
        assert told == [("PARTIALLY_FILLED", 10, 10), ("PARTIALLY_FILLED", 30, 20), ("FILLED", 100, 70)]
        assert world.record().average_price == Decimal("11.6")
        assert len(world.notifier.titled("Partial Fill")) == 2
        audit(world)


async def test_many_orders_at_once_are_all_filled_once(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        for n in range(150):
            world.send(f"sig-{n}", symbol=f"S{n % 20}", side="BUY" if n % 4 else "SELL")
        await world.run(3)
        assert len(world.placed()) == 150
        audit(world)


async def test_random_rejections_and_partial_fills_all_end_and_agree(tmp_path: Path) -> None:
    market = Market(seed=7, rejection_rate=0.3, partial_fill_rate=0.5, fill_delay_seconds=2.0)
    async with world_of(tmp_path, market=market) as world:
        for n in range(60):
            world.send(f"sig-{n}", symbol=f"S{n % 5}")
        await world.run(30)
        assert {o.status for o in world.records()} == {Status.FILLED, Status.REJECTED}
        audit(world)


# --- money ----------------------------------------------------------------------------------------------------------


async def test_short_that_goes_wrong_loses(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(side="SELL", quantity=10, price=150)
        await world.run(1)
        world.exit("out", "sig", side="BUY", quantity=10, price=152)
        await world.run(1)
        assert pnl(world) == -20.0
        (document,) = world.documents("signal_store", signal_id="out")
        assert document["pnl"]["gross_pnl"] == -20.0
        assert document["pnl"]["net_pnl"] == -22.0
        assert world.publisher.of("out")[-1]["realized_pnl"] == -20
        audit(world)


async def test_futures_multiplier_counts_and_expiries_are_kept_apart(tmp_path: Path) -> None:
    gold: dict[str, Any] = {
        "symbol": "GC",
        "instrument_type": "FUTURE",
        "exchange": "COMEX",
        "multiplier": 100,
        "quantity": 2,
    }
    async with world_of(tmp_path) as world:
        world.send("near", **gold, expiry="20251229", price=2000)
        world.send("far", **gold, expiry="20260226", price=2010)
        await world.run(1)
        world.exit("out", "near", **gold, expiry="20251229", price=2005)
        await world.run(1)
        assert pnl(world) == 1000.0
        shown = {(d["expiry"], d["status"]) for d in world.documents("positions")}
        assert shown == {("20251229", "CLOSED"), ("20260226", "OPEN")}
        audit(world)


async def test_partial_exits_leave_the_entry_open_and_add_up(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(quantity=10)
        await world.run(1)
        world.exit("out-1", "sig", quantity=4, price=11)
        await world.run(1)
        (document,) = world.documents("signal_store", signal_id="sig")
        assert (document["position_status"], document["pnl_realized"]) == ("OPEN", 4.0)
        await world.restart()
        world.exit("out-2", "sig", quantity=6, price=12)
        await world.run(1)
        (document,) = world.documents("signal_store", signal_id="sig")
        assert (document["position_status"], document["pnl_realized"]) == ("CLOSED", 16.0)
        audit(world)


async def test_profit_of_exits_adds_up_while_what_was_booked_of_the_first_is_not_in_its_record_yet(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        world.send(quantity=10)
        await world.run(30)
        world.notifier.hold = asyncio.Event()  # people are still to be told: nothing hurries the record's cursors
        world.exit("out-1", "sig", quantity=4, price=11)
        await world.run(0.2)
        world.exit("out-2", "sig", quantity=6, price=12)
        await world.run(0.2)
        (document,) = world.documents("signal_store", signal_id="sig")
        assert (document["position_status"], document["pnl_realized"]) == ("CLOSED", 16.0)


async def test_profit_of_exits_adds_up_though_the_first_is_settled_while_its_record_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path) as world:
        world.send(quantity=10)
        await world.run(30)
        world.notifier.hold = asyncio.Event()
        world.exit("out-1", "sig", quantity=4, price=11)
        await world.run(0.1)
        find = MongoStore.find

        async def find_slowly(store: MongoStore, names: Sequence[str]) -> list[Stored]:
            found = await find(store, names)
            if "signal:out-2" in names:
                await world.clock.sleep(3)
            return found

        monkeypatch.setattr(MongoStore, "find", find_slowly)
        world.exit("out-2", "sig", quantity=6, price=12)
        await world.run(1)
        world.notifier.hold.set()
        await world.run(10)
        (document,) = world.documents("signal_store", signal_id="sig")
        assert (document["position_status"], document["pnl_realized"]) == ("CLOSED", 16.0)
        audit(world)


async def test_scale_in_grows_the_position_by_average_cost(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(quantity=10, price=10)
        world.send("more", quantity=10, price=20, signal_type="SCALE_IN")
        await world.run(1)
        (position,) = world.documents("positions")
        assert (position["quantity"], position["avg_entry_price"]) == (20.0, 15.0)
        world.send("less", quantity=5, price=21, side="SELL", signal_type="SCALE_OUT", entry_signal_id="sig")
        await world.run(1)
        assert pnl(world) == 30.0
        audit(world)


async def test_ladder_of_entries_is_closed_one_by_one_each_with_its_own_profit(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        for n, price in enumerate((10, 12, 14)):
            world.send(f"in-{n}", quantity=10, price=price)
            await world.run(1)
        for n, price in enumerate((20, 20, 20)):
            world.exit(f"out-{n}", f"in-{n}", quantity=10, price=price)
            await world.run(1)
        gross = [world.documents("signal_store", signal_id=f"out-{n}")[0]["pnl"]["gross_pnl"] for n in range(3)]
        assert gross == [100.0, 80.0, 60.0]
        assert pnl(world) == 240.0
        assert all(
            world.documents("signal_store", signal_id=f"in-{n}")[0]["position_status"] == "CLOSED" for n in range(3)
        )
        audit(world)


async def test_flip_closes_one_position_and_opens_another(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(quantity=100, price=10)
        await world.run(1)
        world.send("flip", side="SELL", quantity=150, price=12)
        await world.run(1)
        shown = sorted((d["status"], d["side"], d["quantity"], d["realized_pnl"]) for d in world.documents("positions"))
        assert shown == [("CLOSED", "LONG", 0.0, 200.0), ("OPEN", "SHORT", 50.0, 0.0)]
        audit(world)


# --- doors ----------------------------------------------------------------------------------------------------------


async def test_order_given_by_a_call_takes_the_same_way(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        order = await world.service.process_order(ORDER)
        assert order.order_id == world.record().order_id
        again = await world.service.process_order(ORDER | {"quantity": "100.0"})
        assert again.order_id == order.order_id
        await world.run(1)
        assert len(world.placed()) == 1
        audit(world)


async def test_order_given_by_a_call_without_a_signal_is_refused_by_an_error(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        with pytest.raises(ValueError, match="signal_id"):
            await world.service.process_order({"symbol": "AAPL"})
        order = await world.service.process_order({"signal_id": "sig", "symbol": "AAPL"})
        assert order.status is Status.REJECTED


async def test_order_given_by_a_call_while_the_store_is_away_is_an_error(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.is_away = True
        with pytest.raises(StoreUnavailable):
            await world.service.process_order(ORDER)


async def test_fill_told_by_a_call_counts_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        await world.run(1)
        fill = {"fill_id": "F-1", "quantity": "60", "price": "10.5", "commission": "0.5", "commission_currency": "USD"}
        for order_id in (world.record().order_id, world.record().broker_order_id):
            assert order_id is not None
            order = await world.service.handle_order_fill(order_id, fill)
        await world.run(1)
        assert (order.status, order.filled_quantity, order.commission) == (
            Status.PARTIALLY_FILLED,
            Decimal(60),
            Decimal("0.5"),
        )
        assert world.publisher.statuses("sig") == ["PARTIALLY_FILLED"]
        with pytest.raises(KeyError):
            await world.service.handle_order_fill("nobody", fill)


async def test_known_fill_told_again_for_a_finished_order_leaves_nothing_in_hand(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(2)
        known = world.record().fills[0]
        fill = {"fill_id": known.fill_id, "quantity": "100", "price": "10"}
        await world.service.handle_order_fill(world.record().order_id, fill)
        await world.run(2)
        assert not world.service.live_orders.by_id
        assert world.publisher.statuses("sig") == ["FILLED"]


async def test_rejection_told_by_a_call_ends_the_order(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        await world.run(1)
        order = await world.service.handle_order_rejection(world.record().order_id, "no margin")
        await world.run(1)
        assert order.reason is not None
        assert (order.status, order.reason.code) == (Status.REJECTED, ReasonCode.BROKER_REJECTED)
        assert world.publisher.statuses("sig") == ["REJECTED"]
        again = await world.service.handle_order_rejection(order.order_id, "no margin")
        assert again.version == order.version


async def test_rejection_of_a_filled_order_is_an_error(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        with pytest.raises(InvalidTransition):
            await world.service.handle_order_rejection(world.record().order_id, "too late")
        assert world.record().status is Status.FILLED


# --- stopping -------------------------------------------------------------------------------------------------------


async def test_stop_leaves_working_orders_at_the_broker_and_a_new_life_takes_them_up(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        await world.run(1)
        await world.service.stop()
        assert world.placed()[0].status == "WORKING"
        world.fill("sig")
        await world.restart()
        await world.run(2)
        assert world.record().status is Status.FILLED
        audit(world)


async def test_many_lives_in_a_row_with_losses_place_nothing_twice(tmp_path: Path) -> None:
    faults = [Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP, nth=n) for n in (2, 5, 9)]
    async with world_of(tmp_path, faults=faults) as world:
        for n in range(30):
            world.send(f"sig-{n}", symbol=f"S{n % 4}")
            if n % 6 == 5:
                await world.restart(after_seconds=0.1)
        await world.run(10)
        assert {o.status for o in world.records()} == {Status.FILLED}
        audit(world)


async def test_what_is_recorded_between_a_decision_and_its_recording_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rejection that was decided for an order that nobody had found must not end one that was found meanwhile."""
    begin = OrderSteps._begin
    news: list[LiveOrder] = []

    def begin_after_news(self: OrderSteps, live: LiveOrder, work: Any) -> None:
        is_ending = (
            live.sending.refusal is not None
            and live.order.status is Status.SUBMITTING
            and live.sending.finding_from is not None
        )
        if not is_ending or news or self._clock.monotonic() - live.sending.finding_from < 6.0:
            begin(self, live, work)
            return
        news.append(live)

        async def later() -> None:
            found = Accepted(at=self._clock.now(), broker_order_id="B-1")
            await self._live.record(live, lambda order: (found,))
            await work()

        begin(self, live, later)

    monkeypatch.setattr(OrderSteps, "_begin", begin_after_news)
    ids = Capabilities(
        refuses_repeated_client_id=True, needs_reservation=True, find_window_seconds=6.0, send_again_seconds=2.0
    )
    async with world_of(tmp_path, capabilities=ids, market=BY_HAND) as world:
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("lost"), OrderRefused("no")]
        world.send()
        await world.run(12)
        assert news
        assert "Rejected" not in [type(event).__name__ for event in world.record().events]


async def test_a_broker_that_fits_tickets_and_gives_no_ids_is_asked_for_the_one_alone(tmp_path: Path) -> None:
    fits = Capabilities(fits_tickets=True)
    async with world_of(tmp_path, capabilities=fits) as world:
        world.broker_faults.unfitting["NVDA"] = [OrderRefused("no contract")]
        world.send("fit")
        world.send("unfit", symbol="NVDA")
        await world.run(2)
        assert world.record("fit").status is Status.FILLED
        refused = world.record("unfit")
        assert refused.reason is not None
        assert (refused.status, refused.reason.message) == (Status.REJECTED, "no contract")
        assert world.calls("reserve") == []
        assert len(world.calls("place_order")) == 1


async def test_a_broker_that_gives_ids_and_fits_nothing_is_asked_for_the_other_alone(tmp_path: Path) -> None:
    reserves = Capabilities(needs_reservation=True)
    async with world_of(tmp_path, capabilities=reserves) as world:
        world.broker_faults.unfitting["AAPL"] = [OrderRefused("nobody asks")]
        world.send()
        await world.run(2)
        assert world.record().status is Status.FILLED
        assert len(world.calls("reserve")) == 1
        assert len(world.broker_faults.unfitting["AAPL"]) == 1


async def test_the_log_says_why_an_order_was_refused_at_the_door(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(account_id="nobody's")
        await world.run(1)
        (line,) = [line for line in world.logs if line.get("action") == "order_rejected"]
        assert line["event"] == "Order rejected: account nobody's is not configured"
        assert line["signal_id"] == "sig"


@pytest.mark.parametrize(
    "wrong",
    [{"quantity": "NaN"}, {"quantity": "-5"}, {"quantity": 0}, {"price": "Infinity"}, {"price": None}, {"fill_id": ""}],
)
async def test_fill_told_by_hand_that_is_none_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        with pytest.raises(ValueError, match="fill"):
            await world.service.handle_order_fill(
                world.record().order_id, {"fill_id": "f1", "quantity": 10, "price": "10.5"} | wrong
            )
        assert world.record().filled_quantity == 0


async def test_fill_told_by_hand_may_give_its_time_as_text(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        data = {"fill_id": "f1", "quantity": 10, "price": "10.5", "time": "2025-03-03T15:00:01.123456Z"}
        await world.service.handle_order_fill(world.record().order_id, data)
        await world.run(5)
        assert world.record().filled_quantity == Decimal(10)
        assert world.service.accounts.traders[ACCOUNT] is not None
