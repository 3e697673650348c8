"""Options that are legs of one signal, where the broker takes them as one order: all of it leaves, or nothing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import CombinationLeg, OrderRef, Side, Ticket
from brokers.errors import BrokerUnavailable, OrderRefused, OutcomeUnknown
from brokers.paper.model import Action, Fault, Operation
from execution_service.core.orders.events import AwaitsOpening
from execution_service.core.orders.legs import UNKNOWN_LEG_SECONDS
from execution_service.core.orders.request import Identity, Purpose
from execution_service.core.orders.status import Status
from execution_service.core.risk.limits import SessionRule
from tests.core.risk_cases import written
from tests.fakes import ACCOUNT, BY_HAND, Moment, World, world_of
from tests.fakes.world import RESTING
from tests.service.audit import audit
from tests.service.option_spreads import COMBINING, HIGH, LOW, SPREAD
from tests.service.test_market_hours import Hours, rule

OTHER = "acct-other"


def spread_world(folder: Path, **changes: Any) -> Any:
    return world_of(folder, capabilities=COMBINING, market=BY_HAND, rules=RESTING, **changes)


def send_legs(world: World, *legs: dict[str, Any], **fields: Any) -> None:
    for number, leg in enumerate(legs):
        world.send(leg_index=number, total_legs=len(legs), **leg | fields)


def statuses(world: World, legs: int = 2) -> list[Status]:
    return [world.record(leg_index=number).status for number in range(legs)]


def reason(world: World, leg: int) -> str:
    said = world.record(leg_index=leg).reason
    return "" if said is None else said.message


def tag(leg: int) -> str:
    return Identity(signal_id="sig", leg_index=leg, purpose=Purpose.ENTRY).client_order_id(1)


def fill(world: World, leg: int, quantity: int, price: str = "3.00") -> str:
    ref = OrderRef(client_order_id=tag(leg))
    return world.book().fill_order(ref, Decimal(quantity), Decimal(price)).fill_id


async def test_legs_leave_as_one_order_and_each_keeps_its_own_record(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        send_legs(world, *SPREAD)
        await world.run(3)
        assert world.calls("place_combined") == [tag(0)]
        assert not world.calls("place_order")
        (whole,) = world.combined
        assert whole.quantity == 2
        assert [(leg.side, leg.ratio) for leg in whole.legs] == [(Side.BUY, 1), (Side.SELL, 1)]
        assert statuses(world) == [Status.SUBMITTED] * 2
        assert world.record(leg_index=0).combination == world.record(leg_index=1).combination == whole
        fill(world, 0, 2, "3.10")
        fill(world, 1, 2, "1.20")
        await world.run(6)
        assert statuses(world) == [Status.FILLED] * 2
        assert world.record(leg_index=0).average_price == Decimal("3.10")
        assert world.record(leg_index=1).average_price == Decimal("1.20")
        audit(world)


@pytest.mark.parametrize("first", [0, 1])
async def test_nothing_leaves_before_every_leg_has_come(tmp_path: Path, first: int) -> None:
    async with spread_world(tmp_path) as world:
        world.send(leg_index=first, total_legs=2, **SPREAD[first])
        await world.run(10)
        assert not world.calls("place_combined")
        world.send(leg_index=1 - first, total_legs=2, **SPREAD[1 - first])
        await world.run(0.2)
        assert world.calls("place_combined") == [tag(0)]


async def test_a_leg_that_never_comes_ends_the_others(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        world.send(leg_index=0, total_legs=2, **SPREAD[0])
        await world.run(UNKNOWN_LEG_SECONDS + 4)
        assert world.record(leg_index=0).status is Status.REJECTED
        assert "have not come: 2" in reason(world, 0)
        world.send(leg_index=1, total_legs=2, **SPREAD[1])
        await world.run(5)
        assert statuses(world) == [Status.REJECTED] * 2
        assert not world.calls("place_combined")


@pytest.mark.parametrize(
    ("legs", "words"),
    [
        ((LOW, {"symbol": "SPY", "side": "SELL"}), "some are options and some are not"),
        ((LOW, {**LOW, "side": "SELL"}), "two of them may be one contract"),
        ((LOW, {**HIGH, "order_type": "LIMIT", "limit_price": 4}), "types, times in force or time-outs differ"),
        (({**LOW, "order_type": "STOP", "stop_price": 4}, HIGH), "only MARKET and LIMIT orders are combined"),
        (({**LOW, "quantity": "1.5"}, HIGH), "a whole number of contracts"),
    ],
)
async def test_what_cannot_be_one_order_is_refused_whole(
    tmp_path: Path, legs: tuple[dict[str, Any], ...], words: str
) -> None:
    async with spread_world(tmp_path) as world:
        send_legs(world, *legs)
        await world.run(5)
        assert statuses(world) == [Status.REJECTED] * 2
        assert words in reason(world, 0)
        assert words in reason(world, 1)
        assert not world.calls("place_combined")
        assert not world.calls("place_order")


async def test_a_leg_of_another_account_stays_that_accounts_own(tmp_path: Path) -> None:
    """The other account's broker takes options leg by leg, and is away: its leg is in hand, and nobody here may touch it."""
    away = Fault(operation=Operation.CONNECT, action=Action.NEVER_ANSWER, account_id=OTHER, times=None, accepted=False)
    async with spread_world(tmp_path, accounts=(ACCOUNT, OTHER), faults=(away,), starts=False) as world:
        world.own_capabilities[OTHER] = replace(COMBINING, splits_option_combinations=True, combines_option_legs=False)
        await world.start()
        world.send(leg_index=1, total_legs=2, account_id=OTHER, **SPREAD[1])
        await world.run(1)
        world.send(leg_index=0, total_legs=2, **SPREAD[0])
        await world.run(20)
        assert statuses(world) == [Status.REJECTED, Status.PENDING]
        assert "they name different accounts" in reason(world, 0)
        assert world.record(leg_index=1).version == 0
        assert tag(1) not in {named for _, named in world.broker_calls}
        assert not world.placed()


async def test_a_leg_that_the_risk_gate_refuses_ends_the_others(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        far = {"order_type": "LIMIT", "limit_price": 5}
        send_legs(world, SPREAD[0] | far | {"price": 5}, SPREAD[1] | far | {"price": 10})
        await world.run(5)
        assert statuses(world) == [Status.REJECTED] * 2
        assert "the distance of the limit 5 from 10" in reason(world, 1)
        assert "not placed without leg 2 of 2" in reason(world, 0)
        assert not world.calls("place_combined")
        audit(world)


@pytest.mark.parametrize("leg", [0, 1])
async def test_a_cancel_that_comes_while_the_legs_are_prepared_keeps_all_from_leaving(tmp_path: Path, leg: int) -> None:
    async with spread_world(tmp_path) as world:
        hold = world.broker_faults.holds["reserve"] = asyncio.Event()
        send_legs(world, *SPREAD)
        await world.run(1)
        assert world.calls("reserve") == [tag(0)]
        world.cancel(signal_id="sig", leg_index=leg)
        await world.run(1)
        hold.set()
        await world.run(10)
        assert world.record(leg_index=leg).status is Status.CANCELLED
        assert world.record(leg_index=1 - leg).status is Status.REJECTED
        assert not world.calls("place_combined")
        audit(world)


@pytest.mark.parametrize("leg", [0, 1])
async def test_a_cancel_of_one_leg_ends_the_whole(tmp_path: Path, leg: int) -> None:
    async with spread_world(tmp_path) as world:
        send_legs(world, *SPREAD)
        await world.run(2)
        world.cancel(signal_id="sig", leg_index=leg)
        await world.run(5)
        assert statuses(world) == [Status.CANCELLED] * 2
        assert f"cancelled with leg {leg + 1} of 2, one order at the broker: changed my mind" in reason(world, 1 - leg)
        audit(world)


async def test_a_refusal_of_the_broker_is_one_of_every_leg(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        world.broker_faults.errors["place_combined"] = [OrderRefused("margin")]
        send_legs(world, *SPREAD)
        await world.run(5)
        assert statuses(world) == [Status.REJECTED] * 2
        assert (reason(world, 0), reason(world, 1)) == ("margin", "margin")
        assert world.calls("place_combined") == [tag(0)]


async def test_what_was_surely_not_sent_is_sent_once_more_whole(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        world.broker_faults.errors["place_combined"] = [BrokerUnavailable("no socket")]
        send_legs(world, *SPREAD)
        await world.run(10)
        assert statuses(world) == [Status.SUBMITTED] * 2
        assert world.calls("place_combined") == [tag(0)] * 2
        assert len(world.book().orders()) == 2


async def test_what_is_sent_once_more_with_another_net_limit_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with spread_world(tmp_path) as world:

        async def fitted(ticket: Ticket) -> Ticket:
            return replace(ticket, limit_price=(ticket.limit_price or 0) - Decimal("0.05"))

        monkeypatch.setattr(world.brokers[ACCOUNT].inner, "fitted", fitted)
        world.broker_faults.errors["place_combined"] = [BrokerUnavailable("no socket")]
        limit = {"order_type": "LIMIT", "limit_price": 3, "price": 3}
        send_legs(world, SPREAD[0] | limit, {**LOW, "strike": 520, "quantity": 2} | limit)
        await world.run(10)
        whole = world.record(leg_index=0).combination
        assert (whole, whole.limit_price) == (world.combined[0], Decimal("5.80"))
        for leg in (0, 1):
            fill(world, leg, 2)
        await world.run(6)
        assert statuses(world) == [Status.FILLED] * 2


async def test_an_answer_that_never_came_sends_nothing_again(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        world.broker_faults.errors["place_combined"] = [OutcomeUnknown("no answer")]
        send_legs(world, *SPREAD)
        await world.run(30)
        assert statuses(world) == [Status.IN_DOUBT] * 2
        assert world.calls("place_combined") == [tag(0)]


async def test_a_process_that_dies_before_the_sending_leaves_the_whole_in_doubt(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        world.broker_faults.holds["place_combined"] = asyncio.Event()
        send_legs(world, *SPREAD)
        await world.run(1)
        assert statuses(world) == [Status.SUBMITTING] * 2
        world.broker_faults.holds.clear()
        await world.restart()
        await world.run(30)
        assert not world.book().orders()
        assert statuses(world) == [Status.IN_DOUBT] * 2
        audit(world)


async def test_a_death_before_every_leg_says_that_nothing_was_sent_leaves_no_doubt(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        hold = world.broker_faults.holds["place_combined"] = asyncio.Event()
        world.broker_faults.errors["place_combined"] = [BrokerUnavailable("no socket")]
        send_legs(world, SPREAD[0] | {"stop_loss": 1}, SPREAD[1])  # so that their records are written one by one
        await world.run(1)
        # It connects anew, and writes of both legs that nothing was sent: of one it gets to do so.
        world.gate.dies_at = (len(world.gate.names) + 2, Moment.HALFWAY)
        world.broker_faults.holds.clear()
        hold.set()
        await world.run(1)
        assert world.gate.is_dead
        assert sorted(statuses(world)) == [Status.PENDING, Status.SUBMITTING]
        await world.restart()
        await world.run(30)
        assert statuses(world) == [Status.REJECTED] * 2
        assert not world.book().orders()
        audit(world)


async def test_after_a_restart_each_leg_is_found_and_fills(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        hold = world.broker_faults.holds_answer["place_combined"] = asyncio.Event()
        send_legs(world, *SPREAD)
        await world.run(1)
        assert statuses(world) == [Status.SUBMITTING] * 2
        world.broker_faults.holds_answer.clear()
        await world.restart()
        hold.set()
        await world.run(3)
        assert statuses(world) == [Status.SUBMITTED] * 2
        fill(world, 0, 1)
        fill(world, 1, 2)
        await world.run(6)
        assert statuses(world) == [Status.PARTIALLY_FILLED, Status.FILLED]
        assert len(world.calls("place_combined")) == 1
        audit(world)


async def test_what_is_annulled_after_a_restart_is_annulled_of_its_leg(tmp_path: Path) -> None:
    """Both legs are finished and out of hand; the broker shows a whole of which it has not been told the legs."""
    async with spread_world(tmp_path) as world:
        send_legs(world, *SPREAD)
        await world.run(2)
        kept, gone = fill(world, 0, 2), fill(world, 1, 2)
        await world.run(20)
        assert not world.unsettled()
        await world.restart()
        world.book().bust_fill(gone)
        await world.run(15)
        assert [fill.fill_id for fill in world.record(leg_index=0).fills] == [kept]
        assert world.record(leg_index=1).busted_fill_ids == {gone}
        assert not world.record(leg_index=0).busted_fill_ids
        assert statuses(world) == [Status.FILLED, Status.CANCELLED]


async def test_a_leg_of_a_combination_gets_no_stop_and_that_is_said(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        send_legs(world, SPREAD[0] | {"stop_loss": 1}, SPREAD[1])
        await world.run(2)
        fill(world, 0, 2)
        fill(world, 1, 2)
        await world.run(30)
        assert statuses(world) == [Status.FILLED] * 2
        assert not world.calls("place_order")
        assert any("no protective orders" in note.message for note in world.record(leg_index=0).notes)


async def test_that_a_leg_gets_no_stop_is_said_once_however_often_it_is_sent(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        world.broker_faults.errors["place_combined"] = [BrokerUnavailable("no socket")] * 2
        send_legs(world, SPREAD[0] | {"stop_loss": 1}, SPREAD[1])
        await world.run(20)
        assert statuses(world) == [Status.SUBMITTED] * 2
        assert len(world.calls("place_combined")) == 3
        assert sum("no protective orders" in note.message for note in world.record(leg_index=0).notes) == 1


async def test_a_leg_that_turns_up_filled_after_all_gets_no_stop(tmp_path: Path) -> None:
    """A person let one leg leave again, and then the first order shows."""
    async with spread_world(tmp_path) as world:
        world.broker_faults.errors["place_combined"] = [OutcomeUnknown("no answer")]
        send_legs(world, SPREAD[0], SPREAD[1] | {"stop_loss": 11})
        await world.run(30)
        sent = [replace(world.record(leg_index=leg).ticket(), reserved_order_id=None) for leg in (0, 1)]
        await decide(world, 1, "send-again")
        assert statuses(world) == [Status.IN_DOUBT, Status.PENDING]
        for ticket in sent:
            await world.brokers[ACCOUNT].inner.place_order(ticket)
        for leg in (0, 1):
            fill(world, leg, 2)
        await world.run(60)
        assert statuses(world) == [Status.FILLED] * 2
        assert not world.calls("place_order")


async def test_three_legs_of_two_counts_are_units_in_their_ratio(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        legs = [{**LOW, "quantity": 2}, {**HIGH, "quantity": 4}, {**LOW, "strike": 520, "quantity": 2}]
        for leg, price in zip(legs, ("5", "3", "2"), strict=True):
            leg |= {"order_type": "LIMIT", "limit_price": price, "price": price}
        send_legs(world, *legs)
        await world.run(3)
        (whole,) = world.combined
        assert [leg.ratio for leg in whole.legs] == [1, 2, 1]
        assert (whole.quantity, whole.limit_price) == (2, Decimal(1))
        assert isinstance(whole.legs[0], CombinationLeg)


async def in_doubt(world: World) -> None:
    world.broker_faults.errors["place_combined"] = [OutcomeUnknown("no answer")]
    send_legs(world, *SPREAD)
    await world.run(30)
    assert statuses(world) == [Status.IN_DOUBT] * 2


async def decide(world: World, leg: int, choice: str, **fields: Any) -> None:
    """As execctl does it."""
    body = {"order_id": world.record(leg_index=leg).order_id, "decision": choice, "by": "ann", "note": "looked"}
    now = world.clock.now()
    world.mongo["trading"]["execution_commands"].insert_one(
        {"_id": f"cmd-{leg}", "kind": "RESOLVE", "body": body | fields, "published_at": now, "received_at": now}
        | {"status": "NEW", "outcome": "", "active_until": None}
    )
    await world.run(3)


async def test_a_person_may_name_one_order_of_the_broker_for_every_leg(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        await in_doubt(world)
        for leg in (0, 1):
            await decide(world, leg, "placed", broker_order_id="B-77")
        assert statuses(world) == [Status.SUBMITTED] * 2


async def test_what_a_person_lets_leave_again_leaves_whole_and_under_new_ids(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        await in_doubt(world)
        await decide(world, 1, "send-again")
        assert statuses(world) == [Status.IN_DOUBT, Status.PENDING]
        assert len(world.calls("place_combined")) == 1
        await decide(world, 0, "send-again")
        assert statuses(world) == [Status.SUBMITTED] * 2
        again = Identity(signal_id="sig", leg_index=0, purpose=Purpose.ENTRY).client_order_id(2)
        assert world.calls("place_combined") == [tag(0), again]
        assert [each.client_order_id for each in world.record().combinations] == [tag(0), again]


async def kill(world: World, **fields: Any) -> None:
    body = {"command": "KILL", "scope": "all", "reason": "runaway strategy", "by": "ann", **fields}
    world.commands.publish(json.dumps(body).encode(), world.clock.now())
    await world.run(3)


@pytest.mark.parametrize("comes_late", [False, True])
@pytest.mark.parametrize("dies", [False, True])
async def test_every_leg_is_kept_for_the_opening_however_old_it_gets(
    tmp_path: Path, dies: bool, comes_late: bool
) -> None:
    async with spread_world(tmp_path, limits=rule(SessionRule.HOLD)) as world:
        opens_at, venue = world.clock.now() + timedelta(minutes=8), {"exchange": "NYSE"}
        world.risk_rules.hours = Hours(opens_at)
        if comes_late:
            world.send(leg_index=0, total_legs=2, **SPREAD[0] | venue)
            await world.run(20)
            world.send(leg_index=1, total_legs=2, **SPREAD[1] | venue)
        else:
            send_legs(world, *SPREAD, **venue)
        await world.run(400)  # beyond the age limit
        if dies:
            await world.restart()
        assert statuses(world) == [Status.PENDING] * 2
        for leg in (0, 1):
            order = world.record(leg_index=leg)
            assert order.opens_at == opens_at
            assert sum(isinstance(event, AwaitsOpening) for event in order.events) == 1
        assert not world.calls("place_combined")
        await world.run((opens_at - world.clock.now()).total_seconds() + 10)
        assert statuses(world) == [Status.SUBMITTED] * 2
        assert world.calls("place_combined") == [tag(0)]


async def test_a_kill_stops_the_whole_before_it_leaves(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        world.send(leg_index=0, total_legs=2, **SPREAD[0])
        await world.run(1)
        await kill(world)
        world.send(leg_index=1, total_legs=2, **SPREAD[1])
        await world.run(5)
        assert statuses(world) == [Status.REJECTED] * 2
        assert not world.calls("place_combined")


async def test_a_kill_cancels_the_whole_at_work(tmp_path: Path) -> None:
    async with spread_world(tmp_path) as world:
        send_legs(world, *SPREAD)
        await world.run(2)
        fill(world, 1, 1)
        await kill(world, cancel_entries=True)
        await world.run(5)
        assert statuses(world) == [Status.CANCELLED] * 2
        assert world.record(leg_index=1).filled_quantity == 1
        audit(world)


async def test_each_leg_reserves_beside_those_before_it_and_all_is_released_again(tmp_path: Path) -> None:
    limits = written(max_open_orders=1)
    async with spread_world(tmp_path, limits=limits) as world:
        send_legs(world, *SPREAD)
        await world.run(10)
        assert statuses(world) == [Status.REJECTED] * 2
        assert "open orders" in reason(world, 1)
        assert not world.calls("place_combined")
        assert not any(document.get("reservations") for document in world.documents("execution_risk"))
        world.send("alone", symbol="MSFT")
        await world.run(5)
        assert world.record("alone").status is Status.SUBMITTED


async def test_what_is_said_of_a_leg_in_doubt_names_the_order_that_the_broker_would_have(tmp_path: Path) -> None:
    """The broker knows the tag of the whole alone: whoever looked for that of the second leg would conclude that nothing was placed."""
    async with spread_world(tmp_path) as world:
        await in_doubt(world)
        await world.run(60)
        told = world.notifier.titled("In Doubt")
        assert len(told) == 2
        assert all(f"the combination {tag(0)}" in text and "the same of each leg" in text for text in told)
        steps = [document["next_step"] for document in world.documents("execution_discrepancies")]
        assert len(steps) == 2
        assert all(f"Look for {tag(0)} at the broker" in step for step in steps)
