"""Notices that people want left out for a time: which, until when, what is told nevertheless, and who is told of the end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from brokers.errors import OutcomeUnknown
from execution_service.core.orders.status import Status
from execution_service.core.texts.mutes import LONGEST_MUTE, mutes_from_text
from execution_service.core.texts.notices import NoticeKind
from execution_service.telegram.asked import MuteAsked, mute_asked
from simulators.telegram import read_html
from tests.fakes import ONLY_A_TAG, World, two_worlds, world_of
from tests.fakes.chat import WrittenTexts, begin_chat
from tests.service.test_kill_switches import kill


@contextlib.asynccontextmanager
async def chat_world(folder: Path, **kwargs: Any) -> AsyncIterator[tuple[World, WrittenTexts]]:
    async with world_of(folder, **kwargs) as world:
        written = WrittenTexts(world.clock)
        begin_chat(world, written)
        await world.settle()
        yield world, written


async def answer_to(world: World, written: WrittenTexts, text: str, **kwargs: Any) -> str:
    before = len(world.notifier.texts)
    written.write(text, **kwargs)
    await world.run(1)
    return "\n".join(read_html(each) for each in world.notifier.texts[before:])


def told(world: World, words: str) -> int:
    return sum(words in read_html(text) for text in world.notifier.texts)


# --- what is asked for ----------------------------------------------------------------------------------------------


def test_kinds_and_length_are_read_and_nothing_is_guessed() -> None:
    fills = frozenset({NoticeKind.FILLS})
    assert mute_asked(("Fills", "2h")) == MuteAsked(fills, timedelta(hours=2))
    assert mute_asked(("fills,endings", "30m")) == MuteAsked(fills | {NoticeKind.ENDINGS}, timedelta(minutes=30))
    assert mute_asked(("all", "24h")) == MuteAsked(frozenset(NoticeKind), LONGEST_MUTE)
    assert mute_asked(("off",)) == MuteAsked(frozenset(NoticeKind), None)
    assert mute_asked(("off", "fills")) == MuteAsked(fills, None)
    for unclear in (("fills",), ("2h",), ("kills", "2h"), ("fills", "for", "ever"), ("fills", "48h"), ("off", "kills")):
        assert mute_asked(unclear) is None, unclear


# --- what is left out -----------------------------------------------------------------------------------------------


async def test_a_kind_is_left_out_until_its_end_which_is_told_once(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        said = await answer_to(world, written, "/mute fills 30m")
        assert "🔕 Muted" in said
        assert "fills until" in said
        assert "Ann" in said
        world.send("quiet")
        world.send("bad", quantity=-5)
        await world.run(60)
        assert told(world, "quiet") == 0
        assert told(world, "bad") == 1, "another kind"
        assert not world.unsettled(), "what is left out is owed no more"
        await world.run(30 * 60)
        assert told(world, "Notices Again") == 1
        world.send("loud", symbol="MSFT")
        await world.run(5)
        assert told(world, "loud") == 1
        await world.restart()
        await world.run(300)
        assert told(world, "Notices Again") == 1


async def test_a_mute_survives_a_restart_and_stands_in_the_status(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        await answer_to(world, written, "/mute fills 2h")
        await world.restart()
        again = WrittenTexts(world.clock)
        again._last = 900
        begin_chat(world, again)
        await world.run(3)
        world.send("quiet")
        await world.run(5)
        assert told(world, "quiet") == 0
        assert "🔕 Muted: fills until" in await answer_to(world, again, "/status")
        assert "fills until" in await answer_to(world, again, "/mute")


async def test_kills_and_doubts_are_told_whatever_is_muted(tmp_path: Path) -> None:
    async with chat_world(tmp_path, capabilities=ONLY_A_TAG, is_unique=False) as (world, written):
        await answer_to(world, written, "/mute all 24h")
        world.broker_faults.errors["place_order"] = [OutcomeUnknown("no answer")]
        world.send("lost")
        await world.service.delivery.raise_alert("odd", "odd")
        await world.run(60)
        kill(world)
        await world.run(5)
        assert world.record("lost").status is Status.IN_DOUBT
        assert told(world, "Order In Doubt") == 1
        assert told(world, "Kill Switch Engaged") == 1
        assert told(world, "odd") == 0
        assert not world.documents("execution_alerts", sent_at=None)


async def test_it_is_taken_back_by_a_word(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        await answer_to(world, written, "/mute fills,endings 2h")
        assert "endings until" in await answer_to(world, written, "/mute off fills")
        world.send("loud")
        world.send("bad", quantity=-5)
        await world.run(5)
        assert (told(world, "loud"), told(world, "bad")) == (1, 0)
        assert "Nothing is muted" in await answer_to(world, written, "/mute off")


async def test_what_is_not_clear_mutes_nothing_and_says_how(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        for text in ("/mute fills", "/mute kills 1h", "/mute all 48h"):
            assert "/mute KIND" in await answer_to(world, written, text)
        assert "Nothing is muted" in await answer_to(world, written, "/mute")


async def test_the_same_command_met_again_much_later_mutes_no_longer(tmp_path: Path) -> None:
    async with chat_world(tmp_path) as (world, written):
        await answer_to(world, written, "/mute fills 30m", age_seconds=50)
        (mute,) = mutes_from_text(world.documents("execution_bookmarks", _id="notices:muted")[0]["value"])
        assert mute.until <= world.clock.now() + timedelta(minutes=30, seconds=-49)


async def test_another_process_keeps_to_it_too(tmp_path: Path) -> None:
    async with two_worlds(tmp_path) as (one, other):
        written = WrittenTexts(one.clock)
        begin_chat(one, written)
        await one.settle()
        await answer_to(one, written, "/mute fills 2h")
        await other.start()
        await one.kill()
        await other.run(30)
        other.send("quiet")
        await other.run(10)
        assert other.record("quiet").status is Status.FILLED
        assert told(other, "quiet") == 0
