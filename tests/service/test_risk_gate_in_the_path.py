"""The risk gate between record and broker: what reserves, what is refused and how that is told, what passes, what waits, and what a death leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Capabilities, Side
from brokers.errors import OutcomeUnknown
from brokers.paper.model import Market
from execution_service.control.limit_uses import limit_uses
from execution_service.core.orders.events import SubmitStarted
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.core.risk.counters import Zones
from execution_service.core.risk.kill import KillLevel, KillState, Switch, engaged
from execution_service.core.risk.limits import Scope
from execution_service.core.risk.verdict import Decision
from tests.core.risk_cases import selling, tables, works, written
from tests.fakes import BY_HAND, RESTING, World, two_worlds, world_of


def book(world: World, account_id: str = "acct-1") -> dict[str, Any]:
    (document,) = world.documents("execution_risk", _id=account_id)
    return document


def reserved(world: World) -> list[str]:
    return [each["quantity"] for each in book(world).get("reservations", [])]


def told(world: World, signal_id: str) -> dict[str, Any]:
    """Its latest confirmation."""
    bodies = [body for body, _, _ in world.publisher.messages]
    return [body for body in bodies if body["signal_id"] == signal_id][-1]


# --- reserving ------------------------------------------------------------------------------------------------------


async def test_two_orders_that_fit_alone_and_not_together_never_both_pass(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=written(max_position_quantity=150)) as world:
        world.send("one")
        world.send("other")
        await world.run(5)
        statuses = {world.record("one").status, world.record("other").status}
        assert statuses == {Status.SUBMITTED, Status.REJECTED}
        assert reserved(world) == ["100"]


async def test_two_orders_of_different_instruments_share_an_account_s_total(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=written(max_gross_exposure=1500)) as world:
        world.send("one")
        world.send("other", symbol="MSFT")
        await world.run(5)
        assert sorted(o.status for o in world.records()) == [Status.REJECTED, Status.SUBMITTED]


async def test_orders_of_one_burst_are_reserved_for_by_few_writes(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=written(max_open_orders=50)) as world:
        await world.run(1)
        before = world.store_faults.writes["execution_risk"]
        for number in range(40):
            world.send(f"sig-{number}")
        await world.run(3)
        assert len(world.placed()) == 40
        assert world.store_faults.writes["execution_risk"] - before <= 5


async def test_what_is_reserved_shrinks_with_what_is_booked_and_ends_with_the_order(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=written(max_position_quantity=150)) as world:
        world.send()
        await world.run(2)
        assert reserved(world) == ["100"]
        world.fill("sig", 30)
        await world.run(10)
        assert reserved(world) == ["70"]
        world.fill("sig", 70)
        await world.run(10)
        assert reserved(world) == []
        world.send("more")
        await world.run(2)
        assert world.record("more").status is Status.REJECTED


async def test_a_cancelled_order_frees_what_it_reserved(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=written(max_position_quantity=150)) as world:
        world.send()
        await world.run(2)
        world.cancel(signal_id="sig")
        await world.run(10)
        assert world.record().status is Status.CANCELLED
        assert reserved(world) == []
        world.send("more")
        await world.run(2)
        assert world.record("more").status is Status.SUBMITTED


async def test_orders_that_were_sent_before_there_was_a_limit_count(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("before")
        await world.run(2)
        world.risk_rules.limits = written(max_position_quantity=150)
        world.send("after")
        await world.run(2)
        assert world.record("after").status is Status.REJECTED


async def test_built_in_limits_alone_cost_no_write_for_an_order(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await world.run(1)
        before = world.store_faults.writes["execution_risk"]
        for number in range(10):
            world.send(f"sig-{number}")
        await world.run(5)
        assert all(world.record(f"sig-{number}").status is Status.FILLED for number in range(10))
        assert world.store_faults.writes["execution_risk"] == before


async def test_a_start_releases_what_the_last_life_had_no_time_to_release(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=written(max_position_quantity=150)) as world:
        world.send()
        await world.run(2)
        world.store_faults.refused.add("execution_risk")
        world.fill("sig")
        await world.run(10)
        assert reserved(world) == ["100"]
        assert world.unsettled() == []
        await world.kill()
        world.store_faults.refused.clear()
        await world.start()
        await world.run(5)
        assert reserved(world) == []


async def test_two_replicas_never_let_both_of_two_orders_pass(tmp_path: Path) -> None:
    limits = tables((Scope(account_id="acct-1"), {"max_position_quantity": 150}))
    async with two_worlds(tmp_path, market=BY_HAND, rules=RESTING, limits=limits) as (one, other):
        await other.start()
        one.send("one")
        await one.run(2)
        await one.kill()
        other.send("other")
        await other.run(60)
        assert other.record("one").status is Status.SUBMITTED
        assert other.record("other").status is Status.REJECTED


async def test_a_reservation_judged_by_an_older_document_is_judged_again(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=written(max_position_quantity=150)) as world:
        await world.run(1)
        store = world.store_beside()
        await store.raise_fences(Scope())
        world.send()
        await world.run(2)
        assert world.record().status is Status.SUBMITTED
        assert book(world)["fence"] == 1
        assert reserved(world) == ["100"]


async def test_an_order_is_judged_again_when_another_replica_has_reserved_meanwhile(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, limits=written(max_open_orders=1)) as world:
        await world.run(1)
        store = world.store_beside()
        read = await store.risk_book("acct-1")
        theirs = replace(read, version=read.version + 1, reservations=(works(100, name="ord_theirs"),))
        assert await store.save_risk_book(theirs)
        world.send()
        await world.run(2)
        assert world.record().status is Status.REJECTED
        assert [each["order_id"] for each in book(world)["reservations"]] == ["ord_theirs"]


# --- refusing -------------------------------------------------------------------------------------------------------


async def test_a_refusal_tells_all_reasons_in_record_confirmation_and_telegram(tmp_path: Path) -> None:
    async with world_of(tmp_path, limits=written(max_order_value=500, max_order_quantity=50)) as world:
        world.send()
        await world.run(5)
        reason = world.record().reason
        assert reason is not None
        assert reason.code is ReasonCode.RISK_LIMIT
        assert reason.breaches is not None
        assert [breach.limit_type for breach in reason.breaches] == ["max_order_quantity", "max_order_value"]
        assert world.placed() == []
        body = told(world, "sig")
        assert (body["status"], body["reason"]["code"]) == ("REJECTED", "RISK_LIMIT")
        assert [(r["limit_type"], r["limit_value"], r["actual_value"]) for r in body["reasons"]] == [
            ("max_order_quantity", "50", "100"),
            ("max_order_value", "500", "1000"),
        ]
        text = next(text for text in world.notifier.texts if "Order Rejected" in text)
        assert "quantity would be 100" in text
        assert "value would be 1000" in text


async def test_the_built_in_value_limit_refuses_an_order_that_is_too_large(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send(quantity=200_000)
        await world.run(5)
        reason = world.record().reason
        assert reason is not None
        assert reason.code is ReasonCode.RISK_LIMIT


async def test_what_the_gate_said_stands_in_the_record_of_an_order_that_passes(tmp_path: Path) -> None:
    async with world_of(tmp_path, limits=written(max_position_quantity=150)) as world:
        world.send()
        await world.run(5)
        (verdict,) = [event.risk for event in world.record().events if isinstance(event, SubmitStarted)]
        assert verdict is not None
        assert verdict.uses is not None
        assert not verdict.is_exit
        used = {use.limit: (use.actual_value, use.limit_value) for use in verdict.uses}
        assert used["max_position_quantity"] == (Decimal(100), Decimal(150))


async def test_people_are_warned_once_a_day_of_a_limit_that_is_nearly_used_up(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=written(max_open_orders=3)) as world:
        for number in range(3):
            world.send(f"sig-{number}")
        await world.run(90)
        near = [text for text in world.notifier.texts if "Risk Limit Near" in text]
        assert len(near) == 1
        assert "max_open_orders" in near[0]


async def test_people_read_of_each_limit_that_is_near_or_broken_at_once(tmp_path: Path) -> None:
    limits = written(max_consecutive_rejections=2, max_orders_per_day=2, max_orders_per_minute=2)
    async with world_of(tmp_path, market=Market(rejection_rate=1.0), limits=limits) as world:
        for number in range(3):
            world.send(f"sig-{number}", symbol=f"S{number}")
            await world.run(3)
        near = world.notifier.titled("Risk Limit Near")
        for limit in ("max_orders_per_day", "max_orders_per_minute"):
            assert sum(limit in text for text in near) == 1, near
        (broken,) = world.notifier.titled("Risk Limit Broken")
        assert "max_consecutive_rejections" in broken


async def test_rejections_in_a_row_switch_new_risk_off_over_a_restart(tmp_path: Path) -> None:
    async with world_of(
        tmp_path, market=Market(rejection_rate=1.0), limits=written(max_consecutive_rejections=2)
    ) as world:
        for number in range(2):
            world.send(f"sig-{number}", symbol=f"S{number}")
            await world.run(5)
        await world.restart()
        world.send("third", symbol="S3")
        await world.run(5)
        reason = world.record("third").reason
        assert reason is not None
        assert reason.code is ReasonCode.RISK_LIMIT
        assert any("Risk Limit Broken" in text for text in world.notifier.texts)


# --- exits ----------------------------------------------------------------------------------------------------------


async def test_an_exit_passes_limits_that_let_no_new_risk_pass(tmp_path: Path) -> None:
    async with world_of(tmp_path, limits=written(max_position_quantity=150)) as world:
        world.send()
        await world.run(5)
        world.risk_rules.limits = written(
            max_position_quantity=1, max_order_quantity=1, max_order_value=1, max_orders_per_day=0
        )
        world.exit("out", "sig")
        world.send("in", symbol="MSFT")
        await world.run(5)
        assert world.exit_record("out").status is Status.FILLED
        assert world.record("in").status is Status.REJECTED


async def test_a_sale_that_would_flip_the_position_is_no_exit(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(5)
        world.risk_rules.limits = written(allow_short=False)
        world.send("flip", side="SELL", quantity=150)
        world.send("close", side="SELL", quantity=100, symbol="AAPL")
        await world.run(5)
        assert world.record("flip").status is Status.REJECTED
        assert world.record("close").status is Status.FILLED


# --- waiting --------------------------------------------------------------------------------------------------------


async def test_orders_past_the_minute_wait_and_an_exit_of_their_instrument_does_not(tmp_path: Path) -> None:
    async with world_of(tmp_path, limits=written(max_orders_per_minute=2)) as world:
        for number in range(3):
            world.send(f"sig-{number}")
            await world.run(1)
        assert world.record("sig-2").status is Status.PENDING
        world.exit("out", "sig-0")
        await world.run(3)
        assert world.exit_record("out").status is Status.FILLED
        assert world.record("sig-2").status is Status.PENDING
        await world.run(120)
        assert world.record("sig-2").status is Status.FILLED


async def test_new_risk_waits_while_the_risk_document_cannot_be_read_and_exits_leave(tmp_path: Path) -> None:
    async with world_of(tmp_path, accounts=("acct-1", "acct-2"), limits=written(max_open_orders=5)) as world:
        world.send()
        await world.run(5)
        good = book(world)
        collection = world.mongo["trading"]["execution_risk"]
        collection.update_one({"_id": "acct-1"}, {"$set": {"counters": "nonsense"}})
        await world.restart()
        world.send("in")
        world.send("elsewhere", account_id="acct-2")
        world.exit("out", "sig")
        await world.run(30)
        assert world.record("in").status is Status.PENDING
        assert world.record("elsewhere").status is Status.FILLED
        assert world.exit_record("out").status is Status.FILLED
        assert sum("Record Cannot Be Read" in text for text in world.notifier.texts) == 1
        collection.replace_one({"_id": "acct-1"}, good)
        await world.run(30)
        assert world.record("in").status is Status.FILLED


# --- kill switches --------------------------------------------------------------------------------------------------


class Engaged:
    """Switches that a test sets."""

    def __init__(self) -> None:
        self.switches: Sequence[Switch] = ()

    def engage(self, world: World, level: KillLevel) -> None:
        now = world.clock.now()
        self.switches = (engaged(Switch(scope=Scope()), level, by="a test", reason="to see", now=now),)

    async def state(self) -> KillState:
        return KillState(tuple(self.switches))


async def test_an_engaged_switch_refuses_new_risk_and_lets_exits_leave(tmp_path: Path) -> None:
    switches = Engaged()
    async with world_of(tmp_path, switches=switches) as world:
        world.send()
        await world.run(5)
        switches.engage(world, KillLevel.REDUCE_ONLY)
        world.send("in")
        world.exit("out", "sig")
        await world.run(5)
        reason = world.record("in").reason
        assert reason is not None
        assert reason.code is ReasonCode.KILL_SWITCH
        assert world.exit_record("out").status is Status.FILLED


async def test_a_switch_engaged_after_the_intent_stops_the_ticket_as_it_leaves(tmp_path: Path) -> None:
    class Sudden(Engaged):
        async def state(self) -> KillState:
            if any(document["status"] == "SUBMITTING" for document in world.documents("execution_orders")):
                self.engage(world, KillLevel.HALT)
            return await super().state()

    async with world_of(tmp_path, switches=Sudden(), limits=written(max_open_orders=5)) as world:
        world.send()
        await world.run(5)
        reason = world.record().reason
        assert world.placed() == []
        assert reason is not None
        assert reason.code is ReasonCode.KILL_SWITCH
        await world.run(5)
        assert reserved(world) == []


# --- how near the limits are -----------------------------------------------------------------------------------------


async def test_whoever_asks_is_shown_how_near_each_limit_is_by_one_read_of_the_store(tmp_path: Path) -> None:
    limits = written(max_open_orders=4, max_position_quantity=400)
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, limits=limits) as world:
        world.send()
        await world.run(5)
        shown = await limit_uses(world.store_beside(), limits, Zones(), world.clock.now())
        used = {(use.limit_type.value, str(use.scope)): (use.used, use.percent) for use in shown.usages}
        assert used["max_open_orders", "account:acct-1"] == (1, 25)
        assert used["max_position_quantity", "account:acct-1+symbol:AAPL"] == (100, 25)
        assert shown.broken == ()
        world.fill("sig")
        await world.run(2)
        world.exit("out", "sig")
        await world.run(2)
        world.fill("out", purpose=Purpose.EXIT)
        await world.run(5)
        shown = await limit_uses(world.store_beside(), limits, Zones(), world.clock.now())
        assert {use.used for use in shown.usages} == {0}


async def test_many_orders_near_the_limit_of_a_single_order_are_warned_of_once_a_day(tmp_path: Path) -> None:
    async with world_of(tmp_path, limits=written(max_order_quantity=100)) as world:
        for number in range(5):
            world.send(f"sig-{number}", symbol=f"S{number}")
        await world.run(120)
        assert sum("Risk Limit Near" in text for text in world.notifier.texts) == 1


# --- exits under a switch, whatever they call themselves --------------------------------------------------------------


async def test_at_reduce_only_a_sale_that_does_not_call_itself_an_exit_leaves_where_it_is_one(tmp_path: Path) -> None:
    switches = Engaged()
    async with world_of(tmp_path, switches=switches) as world:
        world.send()
        await world.run(5)
        switches.engage(world, KillLevel.REDUCE_ONLY)
        world.send("flip", side="SELL", quantity=101)
        await world.run(5)
        world.send("close", side="SELL", quantity=100)
        await world.run(5)
        reason = world.record("flip").reason
        assert reason is not None
        assert reason.code is ReasonCode.KILL_SWITCH
        assert world.record("close").status is Status.FILLED


@pytest.mark.parametrize("is_killed", [True, False])
async def test_two_sales_that_are_exits_alone_never_both_leave(tmp_path: Path, is_killed: bool) -> None:
    """No limit adds up, so nothing is reserved for one; and a third is judged while the first's intent is being written."""
    switches = Engaged()
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, switches=switches) as world:
        world.send()
        await world.run(1)
        world.fill("sig")
        await world.run(2)
        if is_killed:
            switches.engage(world, KillLevel.REDUCE_ONLY)
        else:
            world.risk_rules.limits = written(max_order_quantity=50)
        inner, asked = world.service.live_orders.record, []

        async def record(live: Any, decide: Any) -> Any:
            if live.order.signal_id == "one" and not asked:
                gate = world.service.accounts.traders["acct-1"].risk_gate
                asked.append(await gate.judge(selling(60, signal_id="another")))
            return await inner(live, decide)

        world.service.live_orders.record = record  # type: ignore[method-assign]
        world.send("one", side="SELL", quantity=60)
        world.send("other", side="SELL", quantity=60)
        await world.run(3)
        assert [verdict.decision for verdict in asked] == [Decision.REFUSE]
        assert sorted(world.record(name).status for name in ("one", "other")) == [Status.REJECTED, Status.SUBMITTED]
        assert sum(placed.ticket.quantity for placed in world.placed() if placed.ticket.side is Side.SELL) == 60
        world.cancel(signal_id="one")
        await world.run(5)
        world.send("later", side="SELL", quantity=100)
        await world.run(3)
        assert world.record("later").status is Status.SUBMITTED  # what was kept for the first is free again


async def test_a_sale_in_another_product_than_that_which_is_held_is_no_exit(tmp_path: Path) -> None:
    apart = Capabilities(share_products=("CNC", "MIS"))
    switches = Engaged()
    async with world_of(tmp_path, capabilities=apart, switches=switches) as world:
        world.send()
        await world.run(5)
        switches.engage(world, KillLevel.REDUCE_ONLY)
        world.send("elsewhere", side="SELL", product="MIS")
        world.send("here", side="SELL", product="CNC")
        await world.run(5)
        assert world.record("elsewhere").status is Status.REJECTED
        assert world.record("here").status is Status.FILLED


async def test_at_reduce_only_an_exit_that_was_perhaps_sent_is_sent_again_and_an_entry_is_not(tmp_path: Path) -> None:
    switches = Engaged()
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, switches=switches) as world:
        world.send()
        await world.run(1)
        world.fill("sig")
        await world.run(2)
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("no answer"), OutcomeUnknown("no answer")]
        world.send("in", symbol="MSFT")
        world.exit("out", "sig")
        await world.run(0.05)
        assert world.exit_record("out").status is Status.SUBMITTING
        switches.engage(world, KillLevel.REDUCE_ONLY)
        await world.run(60)
        assert world.exit_record("out").status is Status.SUBMITTED
        assert world.record("in").status is Status.IN_DOUBT
        assert [placed.ticket.side for placed in world.placed()] == [Side.BUY, Side.SELL]


async def test_what_was_perhaps_sent_is_looked_for_and_not_in_doubt_while_the_switches_cannot_be_read(
    tmp_path: Path,
) -> None:
    class Unreadable(Engaged):
        is_known = True

        async def state(self) -> KillState:
            return KillState(is_known=self.is_known)

    switches = Unreadable()
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING, switches=switches) as world:
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("no answer")]
        world.send()
        await world.run(0.05)
        switches.is_known = False
        await world.run(60)
        assert world.record().status is Status.SUBMITTING
        assert world.placed() == []
        switches.is_known = True
        await world.run(60)
        assert world.record().status is Status.SUBMITTED
        assert len(world.placed()) == 1
