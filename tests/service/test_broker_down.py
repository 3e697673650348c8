"""A broker that is down, in a known pause or without a login: what waits, what is rejected, and what people hear."""

from __future__ import annotations

import asyncio
from pathlib import Path

from brokers.base import Capabilities
from brokers.errors import AuthRequired, BrokerUnavailable, OutcomeUnknown
from execution_service.core.orders.events import NothingSent, SubmitStarted
from execution_service.core.orders.status import ReasonCode, Status
from execution_service.trading.connection import LOGIN_LOOK_SECONDS, AccountState
from tests.fakes import ACCOUNT, BY_HAND, DOWN, ONLY_A_TAG, World, world_of
from tests.service.audit import audit

PAUSE = BrokerUnavailable("nightly restart", known_pause=True)


def code(world: World, signal_id: str = "sig") -> ReasonCode | None:
    reason = world.record(signal_id).reason
    return None if reason is None else reason.code


async def test_orders_that_wait_are_rejected_after_three_attempts_to_connect_and_people_are_told(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unavailable = DOWN
        await world.start()
        world.send()
        await world.run(0.2)
        assert world.record().status is Status.PENDING
        await world.run_until(lambda: world.record().status is Status.REJECTED)
        assert len(world.calls("connect")) == 3
        assert code(world) is ReasonCode.BROKER_UNAVAILABLE
        await world.run(1)
        assert len(world.notifier.titled("Broker Down")) == 1
        assert world.publisher.statuses("sig") == ["REJECTED"]


async def test_what_is_amiss_with_a_session_is_told_once_for_as_long_as_it_lasts(tmp_path: Path) -> None:
    limited = Capabilities(concern="Client id 1 is in use by another connection.")
    async with world_of(tmp_path, capabilities=limited) as world:
        await world.run(1)
        for number in (2, 3):
            world.broker_faults.errors["reports"] = [DOWN]
            await world.run_until(lambda number=number: len(world.calls("connect")) == number)  # type: ignore[misc]
            await world.run(1)
        (told,) = world.notifier.titled("Limited Session")
        assert "Client id 1 is in use" in told


async def test_what_a_session_begins_to_warn_of_is_told_within_a_minute_and_once(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        await world.run(1)
        for concern in ("Positions may be sold without further notice.", None, "Positions may be sold now."):
            world.broker_faults.concern = concern
            await world.run(200)
        first, second = world.notifier.titled("Limited Session")
        assert "without further notice" in first
        assert "may be sold now" in second
        world.send()
        await world.run(1)
        assert world.record().status is Status.FILLED


async def test_connecting_goes_on_for_ever_and_later_orders_are_placed(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unavailable = DOWN
        await world.start()
        world.send()
        await world.run(600)
        assert len(world.calls("connect")) > 10
        assert len(world.notifier.titled("Broker Down")) == 1
        world.broker_faults.unavailable = None
        await world.run(60)
        world.send("later")
        await world.run(1)
        assert world.record("later").status is Status.FILLED
        assert world.notifier.titled("Broker Up")
        assert len(world.placed()) == 1


async def test_orders_are_held_while_the_pause_is_a_known_one(tmp_path: Path) -> None:
    async with world_of(tmp_path, starts=False) as world:
        world.broker_faults.unavailable = PAUSE
        await world.start()
        world.send()
        await world.run(200)
        assert world.record().status is Status.PENDING
        world.broker_faults.unavailable = None
        await world.run(60)
        assert world.record().status is Status.FILLED


LOGIN = AuthRequired("AUTH_REQUIRED: the access token is dead; log in and write the new token to /run/token")


async def test_dead_session_is_told_at_once_with_what_to_do_and_the_login_is_noticed_soon(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.unavailable = LOGIN
        world.send()
        await world.run(200)
        assert world.record().status is Status.PENDING
        assert world.service.account_states()[ACCOUNT]["state"] == AccountState.AUTH_REQUIRED
        assert "write the new token to /run/token" in world.service.account_states()[ACCOUNT]["trouble"]
        (told,) = world.notifier.titled("Login Required")
        assert "/run/token" in str(told)
        assert not world.notifier.titled("Broker Down")
        assert len(world.calls("connect")) > 50
        world.broker_faults.unavailable = None
        await world.run(LOGIN_LOOK_SECONDS + 0.5)
        assert world.record().status is Status.FILLED
        assert world.service.account_states()[ACCOUNT]["state"] == AccountState.CONNECTED
        assert len(world.notifier.titled("Broker Up")) == 1
        world.broker_faults.unavailable = LOGIN
        world.send("the next day")
        await world.run(301)
        assert code(world, "the next day") is ReasonCode.STALE_ORDER
        assert len(world.notifier.titled("Login Required")) == 2
        assert len(world.placed()) == 1


async def test_connection_lost_while_placing_leaves_the_order_pending_and_it_is_sent_later(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.errors["place_order"] = [BrokerUnavailable("socket closed")]
        world.send()
        await world.run(10)
        order = world.record()
        assert order.status is Status.FILLED
        assert [type(e) for e in order.events[:3]] == [SubmitStarted, NothingSent, SubmitStarted]
        audit(world)


async def test_order_that_cannot_leave_in_three_attempts_is_rejected(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.errors["place_order"] = [BrokerUnavailable("socket closed") for _ in range(3)]
        world.send()
        await world.run(60)
        assert code(world) is ReasonCode.BROKER_UNAVAILABLE
        assert not world.placed()


async def test_service_is_idle_while_the_broker_is_down(tmp_path: Path) -> None:
    """It must not spin: `settle` raises if it does."""
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.broker_faults.unavailable = PAUSE
        await world.run(10)
        world.send("more", symbol="NVDA")
        world.cancel(signal_id="sig")
        await world.run(30)
        assert world.record().status is Status.SUBMITTED
        world.broker_faults.unavailable = None
        await world.run(60)
        assert world.record().status is Status.CANCELLED
        assert world.record("more").status is Status.SUBMITTED


async def test_what_happened_while_the_connection_was_away_is_read_before_anything_is_sent(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send()
        await world.run(1)
        world.broker_faults.unavailable = PAUSE
        await world.run(10)
        world.fill("sig")
        world.send("next", symbol="NVDA")
        world.broker_faults.unavailable = None
        await world.run(60)
        assert world.record().status is Status.FILLED
        after = [name for name, _ in world.broker_calls[world.broker_calls.index(("connect", ""), 2) :]]
        assert after.index("reports") < after.index("place_order")


async def test_store_that_is_away_while_connecting_is_not_held_against_the_broker(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        world.broker_faults.unavailable = PAUSE
        await world.run(6)
        world.send("next", symbol="NVDA")
        await world.run(1)
        world.broker_faults.unavailable = None
        world.store_faults.is_away = True
        world.book().bust_fill(world.placed()[0].fills[0].fill_id)
        await world.run(60)
        world.store_faults.is_away = False
        await world.run(60)
        assert world.record("next").status is Status.FILLED


async def test_real_account_that_is_configured_as_paper_is_sent_nothing(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=Capabilities(is_paper=False)) as world:
        world.send()
        await world.run(5)
        assert code(world) is ReasonCode.BROKER_UNAVAILABLE
        assert "live = false" in world.service.account_states()[ACCOUNT]["trouble"]
        assert not world.calls("place_order")


async def test_one_accounts_broker_being_down_stops_no_other_account(tmp_path: Path) -> None:
    async with world_of(tmp_path, accounts=(ACCOUNT, "acct-2")) as world:
        world.broker_faults.holds["place_order"] = asyncio.Event()
        world.send()
        await world.run(1)
        world.broker_faults.holds.clear()
        world.send("two", account_id="acct-2")
        await world.run(1)
        assert world.record("two").status is Status.FILLED


async def test_broker_that_answers_nothing_is_called_down_and_people_hear_of_the_order(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=ONLY_A_TAG) as world:
        for operation in ("place_order", "find", "reports"):
            world.broker_faults.holds[operation] = asyncio.Event()
        world.send()
        # Time-outs run on the loop's own clock: they are brought about by hand.
        world.broker_faults.holds.clear()
        world.broker_faults.errors = {name: [TimeoutError()] * 500 for name in ("place_order", "find", "reports")}
        await world.run(200)
        assert world.record().status is Status.SUBMITTING
        assert [text for text in world.notifier.texts if "cannot be asked" in text]
        assert world.notifier.titled("Broker Down")


async def test_order_perhaps_sent_to_a_broker_that_then_goes_down_is_named_to_people(tmp_path: Path) -> None:
    async with world_of(tmp_path, capabilities=ONLY_A_TAG) as world:
        world.broker_faults.errors = {"place_order": [OutcomeUnknown("lost")], "find": [TimeoutError()] * 50}
        world.send()
        await world.settle()
        world.broker_faults.unavailable = BrokerUnavailable("gone")
        await world.run(120)
        assert world.record().status is Status.SUBMITTING
        assert len([text for text in world.notifier.texts if "cannot be asked" in text]) == 1


async def test_broker_in_a_pause_that_still_connects_is_not_asked_without_rest(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.errors["place_order"] = [BrokerUnavailable("token", known_pause=True)] * 400
        world.send()
        await world.run(60)
        assert world.record().status is Status.PENDING
        assert len(world.calls("place_order")) < 12


async def test_three_short_failures_in_a_row_are_spread_over_more_than_an_instant(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.errors["place_order"] = [BrokerUnavailable("blip")] * 2
        world.send()
        await world.run(0.1)
        assert world.record().status is Status.PENDING
        await world.run(30)
        assert world.record().status is Status.FILLED
