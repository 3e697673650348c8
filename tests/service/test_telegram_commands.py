"""Commands and questions by Telegram: who may, what each does and answers, what is met twice, who asks the channel, and when it is away."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from execution_service.core.orders.status import ReasonCode, Status
from execution_service.telegram.asked import Asked, KillAsked, StepAsked, Word, asked, kill_asked, step_asked
from notifications.incoming import IncomingUnavailable
from simulators.telegram import read_html
from tests.core.risk_cases import written as risk_limits
from tests.fakes import ACCOUNT, BY_HAND, RESTING, World, two_worlds, world_of
from tests.fakes.broker import GatedBroker
from tests.fakes.chat import BOT, GROUP, OTHER, STRANGER, USER, WrittenTexts, begin_chat
from tests.service.test_limit_breaches import Money, tell


@contextlib.asynccontextmanager
async def chat_world(folder: Path, **kwargs: Any) -> AsyncIterator[tuple[World, WrittenTexts]]:
    async with world_of(folder, **kwargs) as world:
        written = WrittenTexts(world.clock)
        begin_chat(world, written)
        await world.settle()
        yield world, written


async def answer_to(world: World, written: WrittenTexts, text: str, seconds: float = 1.0, **kwargs: Any) -> str:
    """What a reader sees of all that came into the chat since."""
    before = len(world.notifier.texts)
    written.write(text, **kwargs)
    await world.run(seconds)
    return "\n".join(read_html(each) for each in world.notifier.texts[before:])


def resting(**changes: Any) -> dict[str, Any]:
    return {"order_type": "LIMIT", "limit_price": 9} | changes


# --- what each does -------------------------------------------------------------------------------------------------


async def test_a_kill_refuses_the_next_order_and_names_the_user_in_the_audit(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        said = await answer_to(world, written, "/kill")
        assert "KILLED all" in said
        assert "Entries working: 0" in said
        world.send("sig")
        await world.run(2)
        record = world.record()
        assert (record.status, record.reason and record.reason.code) == (Status.REJECTED, ReasonCode.KILL_SWITCH)
        assert record.reason is not None
        assert f"Telegram (Ann, {USER})" in record.reason.message
        (switch,) = world.documents("execution_kill_switches")
        assert switch["history"][0]["command_id"] == "tg-110201543-701"


async def test_a_kill_of_one_account_at_halt_stops_that_alone(tmp_path: Path) -> None:
    async with chat_world(tmp_path, accounts=(ACCOUNT, "acct-2")) as (world, written):
        assert "KILLED account:acct-2" in await answer_to(world, written, "/kill Account:acct-2 halt odd fills")
        world.send("mine")
        world.send("theirs", account_id="acct-2")
        await world.run(3)
        assert world.record("mine").status is Status.FILLED
        assert world.record("theirs").reason.code is ReasonCode.KILL_SWITCH  # type: ignore[union-attr]


async def test_a_kill_of_nothing_that_there_is_says_that_nothing_was_stopped(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        assert "Nothing was stopped" in await answer_to(world, written, "/kill everything is on fire")
        assert not world.documents("execution_kill_switches")


async def test_a_kill_with_cancel_cancels_working_entries_and_counts_them(tmp_path: Path) -> None:
    async with chat_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, written):
        world.send("sig", **resting())
        await world.run(1)
        assert world.record().status is Status.SUBMITTED
        said = await answer_to(world, written, "/kill all cancel", seconds=10)
        assert "KILLED all" in said
        assert "1 asked, 1 confirmed, 0 not known" in said
        assert world.record().status is Status.CANCELLED


async def test_trade_is_resumed_in_two_steps_by_the_same_person_after_a_minute(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        await answer_to(world, written, "/kill all")
        assert "reason" in await answer_to(world, written, "/resume all")
        first = await answer_to(world, written, "/resume all looked at it")
        assert "Not armed yet" in first
        nonce = re.search(r"/resume all ([0-9a-f]{12})", first)
        assert nonce is not None
        assert "Not armed\nnot before" in await answer_to(world, written, f"/resume all {nonce[1]}")
        await world.run(60)
        assert "Not armed\n" in await answer_to(world, written, f"/resume all {nonce[1]}", user=OTHER, name="Bob")
        assert "ARMED all" in await answer_to(world, written, f"/resume all {nonce[1]}")
        world.send("sig")
        await world.run(2)
        assert world.record().status is Status.FILLED


async def test_losses_are_measured_anew_in_two_steps_by_the_same_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    money = Money()
    monkeypatch.setattr(GatedBroker, "balances", lambda _: money.balances())
    async with chat_world(tmp_path, limits=risk_limits(max_daily_loss=100)) as (world, written):
        await tell(world, money, 1_000)
        await tell(world, money, 600)
        assert "/rebase SCOPE reason" in await answer_to(world, written, "/rebase")
        assert "/rebase SCOPE reason" in await answer_to(world, written, "/rebase all")
        assert "is no scope" in await answer_to(world, written, "/rebase everything 400 paid out")
        first = await answer_to(world, written, f"/rebase Account:{ACCOUNT} 400 paid out")
        nonce = re.search(rf"/rebase account:{ACCOUNT} ([0-9a-f]{{12}})", first)
        assert nonce is not None
        second = f"/rebase account:{ACCOUNT} {nonce[1]}"
        assert "begin again" in await answer_to(world, written, f"/rebase all {nonce[1]}")
        assert "by the same person" in await answer_to(world, written, second, user=OTHER, name="Bob")
        assert not world.documents("execution_alerts", kind="risk_rebased")
        assert "MEASURED ANEW account:acct-1\nIn 1 account, by Telegram (Ann" in await answer_to(world, written, second)
        assert "begin again" in await answer_to(world, written, second)
        (told,) = world.documents("execution_alerts", kind="risk_rebased")
        assert f"Telegram (Ann, {USER})" in told["text"]
        assert "400 paid out" in told["text"]
        await tell(world, money, 600)
        world.send("after")
        await world.run(5)
        assert world.record("after").status is Status.FILLED


async def test_a_first_step_that_is_old_or_of_another_life_measures_nothing_anew(tmp_path: Path) -> None:
    async with chat_world(tmp_path, limits=risk_limits(max_daily_loss=100)) as (world, written):
        first = await answer_to(world, written, "/rebase all paid out")
        second = re.search(r"/rebase all [0-9a-f]{12}", first)
        assert second is not None
        await world.run(601)
        assert "begin again" in await answer_to(world, written, second[0])
        assert not world.documents("execution_alerts", kind="risk_rebased")


async def test_a_second_step_is_shown_as_it_is_to_be_written(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        await answer_to(world, written, '/kill "strategy:Mean Reversion" odd')
        first = await answer_to(world, written, '/resume "strategy:Mean Reversion" looked at it')
        (second,) = [line for line in first.splitlines() if line.startswith("/resume")]
        await world.run(60)
        assert "ARMED strategy:Mean Reversion" in await answer_to(world, written, second)


async def test_resume_without_a_scope_names_what_is_engaged_and_arms_nothing(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        await answer_to(world, written, "/kill symbol:AAPL odd")
        assert "symbol:AAPL (reduce_only" in await answer_to(world, written, "/resume")


async def test_a_cancel_ends_the_order_that_is_named_and_no_other(tmp_path: Path) -> None:
    async with chat_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, written):
        for name in ("one", "two"):
            world.send(name, **resting(symbol=f"SYM{name}".upper()))
        await world.run(1)
        assert "no order is called" in await answer_to(world, written, "/cancel three")
        assert "asked to be cancelled" in await answer_to(world, written, "/cancel one")
        await world.run(3)
        assert (world.record("one").status, world.record("two").status) == (Status.CANCELLED, Status.SUBMITTED)
        requests = [event for event in world.record("one").events if type(event).__name__ == "CancelRequested"]
        assert f"Telegram (Ann, {USER})" in str(requests[0])


async def test_a_cancel_of_all_asks_each_open_order_to_end(tmp_path: Path) -> None:
    async with chat_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, written):
        for name in ("one", "two"):
            world.send(name, **resting(symbol=f"SYM{name}".upper()))
        await world.run(1)
        said = await answer_to(world, written, "/cancel all")
        assert "2 orders" in said
        await world.run(3)
        assert {world.record(name).status for name in ("one", "two")} == {Status.CANCELLED}
        assert "no order is open" in await answer_to(world, written, "/cancel all")


async def test_every_question_is_answered_with_what_there_is(tmp_path: Path) -> None:
    async with chat_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, written):
        world.send("held")
        await world.run(1)
        world.fill("held", 100, "10")
        world.send("open", **resting(symbol="MSFT"))
        world.send_raw(b"no order at all")
        await world.run(3)
        status = await answer_to(world, written, "/status")
        assert "PAPER · OK" in status
        assert "Open orders: 1" in status
        assert "Last activity: 20" in status
        assert "Kill switches: none engaged" in status
        assert "MSFT" in await answer_to(world, written, "/orders")
        story = await answer_to(world, written, "/order held")
        assert "FILLED" in story
        assert "Placing order" in story
        assert "AAPL LONG 100 @ 10 · realised 0" in await answer_to(world, written, "/positions")
        assert "Limits" in await answer_to(world, written, "/limits")
        assert "Unusable messages: 1" in await answer_to(world, written, "/attention")
        assert f"{ACCOUNT}: 2 orders, 1 fill, 0 refused" in await answer_to(world, written, "/daily")
        assert "/kill" in await answer_to(world, written, "/help")
        assert "/nonsense is no command" in await answer_to(world, written, "/nonsense")


async def test_the_days_result_is_of_the_day_and_after_midnight_begins_anew(tmp_path: Path) -> None:
    async with chat_world(tmp_path, market=BY_HAND, rules=RESTING) as (world, written):
        world.send("in")
        await world.run(1)
        world.fill("in", 100, "10")
        await world.run(1)
        world.exit("out", "in")
        await world.run(1)
        world.fill("out", 100, "12.5", purpose=world.exit_record("out").identity.purpose)
        await world.run(2)
        assert "realised $250.00" in await answer_to(world, written, "/daily")
        now = world.clock.now()
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        await world.run((midnight - now).total_seconds() + 60)
        assert "no orders" in await answer_to(world, written, "/daily")


# --- who may, and what counts ---------------------------------------------------------------------------------------


async def test_strangers_are_not_answered_and_people_are_told_once_an_hour(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        for _ in range(3):
            written.write("/kill all", user=STRANGER, name="<b>Ann</b> & co")
            written.write("/kill all", chat=STRANGER, user=STRANGER)
        written.write("/kill all", chat=USER, user=USER)  # one of us, elsewhere
        await world.run(100)
        assert not world.documents("execution_kill_switches")
        assert not [text for text in world.notifier.texts if "KILLED" in text]
        told = [read_html(text) for text in world.notifier.texts if "Stranger" in text]
        assert told
        assert sum(alert["count"] for alert in world.documents("execution_alerts", kind="telegram_stranger")) == 3
        assert len([entry for entry in world.logs if entry.get("action") == "telegram_stranger"]) == 3
        await world.run(3600)
        written.write("/kill all", user=STRANGER)
        await world.run(100)
        assert len([entry for entry in world.logs if entry.get("action") == "telegram_stranger"]) == 4


async def test_a_list_without_anybody_is_nobody(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        written = WrittenTexts(world.clock)
        begin_chat(world, written, users=frozenset())
        written.write("/kill all")
        await world.run(2)
        assert not world.documents("execution_kill_switches")


async def test_what_is_old_or_no_text_of_a_person_is_not_carried_out(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        written.add(None)
        assert "1 command came too late" in await answer_to(world, written, "/kill all", age_seconds=61)
        assert "1 command came too late" in await answer_to(world, written, "/kill all", age_seconds=-61)
        assert not await answer_to(world, written, "kill all of them, said the queen")
        assert not await answer_to(world, written, "/kill@another_bot all")
        assert not world.documents("execution_kill_switches")
        assert "KILLED" in await answer_to(world, written, f"/kill@{BOT} all", age_seconds=59)


@pytest.mark.parametrize(
    "text",
    [
        "/kill <b>all</b>",
        "/order <a href='x'>&amp;",
        "/cancel " + "x" * 4000,
        "/order \u202e\u0000\ud800",
        '/resume "',
        "/",
        "/kill\n\n\n",
        "/order _*[]()~`>#+-=|{}.!",
    ],
)
async def test_hostile_text_is_answered_as_text_and_the_next_command_works(text: str, tmp_path: Path) -> None:
    async with chat_world(tmp_path, market=BY_HAND) as (world, written):
        await answer_to(world, written, text)  # `read_html` refuses what Telegram would
        assert "PAPER" in await answer_to(world, written, "/status")


# --- once -----------------------------------------------------------------------------------------------------------


async def test_an_update_that_is_met_again_is_one_command_and_engages_nothing_that_was_armed_since(
    tmp_path: Path,
) -> None:
    async with chat_world(tmp_path) as (world, written):
        written.write("/kill all")
        update = written.held[0]
        await world.run(1)
        written.bring_again(update)
        await world.run(1)
        assert len([text for text in world.notifier.texts if "KILLED" in text]) == 1
        (switch,) = world.documents("execution_kill_switches")
        assert switch["version"] == 1


async def test_after_a_death_between_taking_and_committing_the_kill_stands_and_is_one(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        written.write("/kill all")
        update = written.held[0]
        world.store_faults.is_away = False
        await world.run(1)
        await world.kill()
        written.held = [update]
        world.mongo["mathematricks_trading"]["execution_bookmarks"].delete_many({})
        await world.start()
        begin_chat(world, written)
        await world.run(2)
        (switch,) = world.documents("execution_kill_switches")
        assert (switch["version"], len(switch["history"])) == (1, 1)


async def test_a_later_life_passes_over_what_an_earlier_one_dealt_with(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        written.write("/status")
        update = written.held[0]
        await world.run(1)
        await world.kill()
        written.held = [update]
        await world.start()
        begin_chat(world, written)
        before = len(world.notifier.texts)
        await world.run(2)
        assert len(world.notifier.texts) == before
        assert written.asked[-1] == update.number


async def test_of_two_processes_one_asks_and_the_other_does_when_it_is_gone(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        await other.start()
        of_one, of_other = WrittenTexts(one.clock), WrittenTexts(one.clock)
        begin_chat(one, of_one)
        begin_chat(other, of_other)
        await one.run(30)
        assert of_one.asked
        assert not of_other.asked
        await one.kill()
        await other.run(30)
        assert of_other.asked
        of_other.write("/kill all")
        await other.run(2)
        assert other.documents("execution_kill_switches")


# --- trouble --------------------------------------------------------------------------------------------------------


async def test_a_kill_is_tried_on_while_the_store_is_away_and_says_so(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        world.store_faults.is_away = True
        assert "it is tried on" in await answer_to(world, written, "/kill all", seconds=5)
        world.store_faults.is_away = False
        before = len(world.notifier.texts)
        await world.run(5)
        assert any("KILLED all" in text for text in world.notifier.texts[before:])


async def test_a_question_does_not_wait_for_a_store_that_is_away(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        world.store_faults.is_away = True
        assert "the store does not answer" in await answer_to(world, written, "/orders", seconds=5)


async def test_a_channel_that_is_away_is_said_once_and_once_when_it_is_back(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        written = WrittenTexts(world.clock)
        written.failures = [IncomingUnavailable("no route") for _ in range(6)]
        begin_chat(world, written)
        await world.run(200)
        said = [entry["action"] for entry in world.logs if entry.get("part") == "Telegram (commands)"]
        assert said == ["part_silent", "part_answers"]
        world.send("sig")
        await world.run(2)
        assert world.record().status is Status.FILLED


async def test_a_pause_that_the_channel_asks_for_is_kept_and_a_conflict_that_lasts_is_told(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        written = WrittenTexts(world.clock)
        written.failures = [IncomingUnavailable("slow down", retry_after_seconds=40.0)]
        begin_chat(world, written)
        await world.run(39)
        assert len(written.asked) == 1
        await world.run(2)
        assert len(written.asked) == 2
        written.failures = [IncomingUnavailable("somebody else asks", permanent=True) for _ in range(9)]
        await world.run(900)
        assert len([text for text in world.notifier.texts if "Telegram Commands Away" in text]) == 1


# --- what was asked, from the text alone ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("/kill", KillAsked("all", "reduce_only", False, "")),  # type: ignore[arg-type]
        ("/KILL All halt", KillAsked("All", "halt", False, "")),  # type: ignore[arg-type]
        ("/kill cancel", KillAsked("all", "reduce_only", True, "")),  # type: ignore[arg-type]
        ("/kill “strategy:My Own” cancel odd fills", KillAsked("strategy:My Own", "reduce_only", True, "odd fills")),  # type: ignore[arg-type]
    ],
)
def test_a_kill_is_read_as_a_telephone_writes_it(text: str, wish: KillAsked) -> None:
    found = asked(text, BOT)
    assert isinstance(found, Asked)
    assert kill_asked(found.arguments) == wish


def test_a_nonce_is_told_from_a_reason() -> None:
    assert step_asked(("all", "0123456789ab")) == StepAsked("all", "0123456789ab", "")
    assert step_asked(("all", "looked", "at", "it")) == StepAsked("all", None, "looked at it")
    assert step_asked(()) is None
    assert asked(f"/status@{BOT.upper()}", BOT) == Asked(Word.STATUS)
    assert GROUP < 0


async def test_a_stance_is_set_and_shown_and_lifted_by_words_that_name_it(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        assert "as they say" in await answer_to(world, written, "/stance")
        assert "PASSIVE|NORMAL" in await answer_to(world, written, "/stance emergency")
        assert "all: EMERGENCY" in await answer_to(world, written, "/stance All emergency the market gaps")
        world.send("sig")
        await world.run(2)
        record = world.record()
        assert (record.status, record.reason and record.reason.code) == (Status.REJECTED, ReasonCode.KILL_SWITCH)
        assert f"all: EMERGENCY, by Telegram (Ann, {USER})" in await answer_to(world, written, "/stance")
        assert "all: EMERGENCY" in await answer_to(world, written, "/status")
        assert "Nothing was changed" in await answer_to(world, written, "/stance all normal")
        assert "all: NORMAL" in await answer_to(world, written, "/stance all normal it is over")
        assert "as they say" in await answer_to(world, written, "/stance")
