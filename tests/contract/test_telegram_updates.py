"""What people wrote, as asked of the simulated Bot API on loopback: offsets, long polls, a second asker, and answers that cannot be used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from notifications.incoming import IncomingUnavailable
from notifications.telegram_updates import TelegramUpdates
from simulators.telegram import Fault, FaultKind, SimulatedTelegram

CANARY = "987654321:AAcanary-TOKEN_that_must_not_be_seen"


@pytest.fixture
def server() -> Iterator[SimulatedTelegram]:
    with SimulatedTelegram(token=CANARY) as running:
        yield running


@pytest.fixture
async def updates(server: SimulatedTelegram) -> AsyncIterator[TelegramUpdates]:
    channel = TelegramUpdates(CANARY, server.base_url, waits_seconds=1)
    yield channel
    await channel.close()


async def test_a_text_comes_until_a_later_number_confirms_it(
    server: SimulatedTelegram, updates: TelegramUpdates
) -> None:
    number = server.write("/status", user_id=7, chat_id=-5, name="Ann")
    for _ in range(2):
        (update,) = await updates.updates(None)
        assert update.number == number
        assert update.text is not None
        assert (update.text.text, update.text.user_id, update.text.chat_id) == ("/status", 7, -5)
    assert await updates.updates(number) == []
    assert server.unread == 0
    assert (await updates.name(), updates.channel_id) == ("simulated_bot", "987654321")


async def test_a_question_stays_open_until_somebody_writes(server: SimulatedTelegram, updates: TelegramUpdates) -> None:
    asking = asyncio.create_task(updates.updates(None))
    await asyncio.to_thread(server.wait_for_calls, "getUpdates", 1)
    server.write("/help", user_id=7)
    assert len(await asking) == 1


@pytest.mark.parametrize(
    "update",
    [
        {"edited_message": {"message_id": 1, "date": 1, "chat": {"id": 7, "type": "private"}, "text": "/kill"}},
        {"channel_post": {"message_id": 1, "date": 1, "chat": {"id": -7, "type": "channel"}, "text": "/kill"}},
        {"message": {"text": "/kill"}},
        {"message": [1, 2]},
        {"message": None},
    ],
)
async def test_what_is_no_text_of_a_person_is_passed_over_and_keeps_nothing_back(
    update: dict[str, object], server: SimulatedTelegram, updates: TelegramUpdates
) -> None:
    server.add_update(update)
    server.add_update({"update_id": "odd"})
    server.write("/status", user_id=7)
    odd, text = await updates.updates(None)
    assert odd.text is None
    assert text.text is not None


@pytest.mark.parametrize(
    "more",
    [
        {"forward_origin": {"type": "hidden_user", "date": 1, "sender_user_name": "x"}},
        {"sender_chat": {"id": -5, "type": "supergroup", "title": "x"}},
        {"via_bot": {"id": 3, "is_bot": True, "first_name": "x"}},
        {"edit_date": 5},
        {"from": {"id": 7, "is_bot": True, "first_name": "x"}},
    ],
)
async def test_a_text_of_somebody_else_is_none(
    more: dict[str, object], server: SimulatedTelegram, updates: TelegramUpdates
) -> None:
    server.write("/kill", user_id=7, **more)
    (update,) = await updates.updates(None)
    assert update.text is None


@pytest.mark.parametrize(
    ("kind", "words", "is_permanent"),
    [
        (FaultKind.CONFLICT, "somebody else asks", True),
        (FaultKind.UNAUTHORIZED, "TELEGRAM_BOT_TOKEN", True),
        (FaultKind.TOO_MANY_REQUESTS, "pause of 3 s", False),
        (FaultKind.SERVER_ERROR, "", False),
        (FaultKind.NONSENSE, "", False),
        (FaultKind.BARE_ANSWER, "no list", False),
        (FaultKind.DROP, "", False),
    ],
)
async def test_each_failure_says_what_it_is_and_never_the_token(
    kind: FaultKind, words: str, is_permanent: bool, server: SimulatedTelegram, updates: TelegramUpdates
) -> None:
    server.write("/status", user_id=7)
    server.add_fault(Fault(kind=kind, method="getUpdates", seconds=3))
    with pytest.raises(IncomingUnavailable) as failure:
        await updates.updates(None)
    assert words in str(failure.value)
    assert failure.value.permanent is is_permanent
    assert failure.value.retry_after_seconds == (3.0 if kind is FaultKind.TOO_MANY_REQUESTS else None)
    assert "canary" not in str(failure.value)
    assert len(await updates.updates(None)) == 1


async def test_of_two_askers_the_earlier_is_refused(server: SimulatedTelegram, updates: TelegramUpdates) -> None:
    other = TelegramUpdates(CANARY, server.base_url, waits_seconds=1)
    first = asyncio.create_task(updates.updates(None))
    await asyncio.to_thread(server.wait_for_calls, "getUpdates", 1)
    assert await other.updates(None) == []
    with pytest.raises(IncomingUnavailable, match="Conflict"):
        await first
    await other.close()


async def test_a_silent_channel_holds_a_question_no_longer_than_it_may(
    server: SimulatedTelegram, updates: TelegramUpdates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notifications.telegram_updates.ANSWERS_WITHIN_SECONDS", 1.2)
    server.add_fault(Fault(kind=FaultKind.NEVER_ANSWERS, method="getUpdates"))
    began = time.monotonic()
    with pytest.raises(IncomingUnavailable):
        await updates.updates(None)
    assert time.monotonic() - began < 6
