"""The chat as people write in it, for a service that asks it; by the hand-moved clock."""

from __future__ import annotations

from datetime import timedelta

from execution_service.app.http_wiring import ApiSettings
from execution_service.app.telegram_wiring import chat_of
from execution_service.runtime.threads import InPlace
from execution_service.runtime.wake_up import WakeUp
from execution_service.telegram.admission import Admitted
from execution_service.telegram.chat import Chat
from notifications.incoming import IncomingText, IncomingUnavailable, Update
from tests.fakes.clock import HandClock
from tests.fakes.world import World

USER, OTHER, STRANGER = 1001, 1002, 666
GROUP = -500
BOT = "our_bot"


class WrittenTexts:
    """What the channel holds: nothing is forgotten until an asker names a later number."""

    channel_id = "110201543"

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self._wake = WakeUp(clock)
        self._last = 700
        self.held: list[Update] = []
        self.failures: list[IncomingUnavailable] = []
        """Raised by the next questions, one after the other."""
        self.asked: list[int | None] = []
        """After which number each question was."""

    def write(
        self, text: str, *, user: int = USER, chat: int = GROUP, age_seconds: float = 0.0, name: str = "Ann"
    ) -> int:
        sent_at = (self._clock.now() - timedelta(seconds=age_seconds)).replace(microsecond=0)
        return self.add(
            IncomingText(chat_id=chat, is_private=chat > 0, user_id=user, user_name=name, text=text, sent_at=sent_at)
        )

    def add(self, text: IncomingText | None) -> int:
        self._last += 1
        self.held.append(Update(number=self._last, text=text))
        self._wake.tell()
        return self._last

    def bring_again(self, update: Update) -> None:
        """As where the channel was never told that it was taken."""
        self.held.insert(0, update)
        self._wake.tell()

    async def name(self) -> str:
        return BOT

    async def updates(self, after: int | None) -> list[Update]:
        self.asked.append(after)
        if self.failures:
            raise self.failures.pop(0)
        if after is not None:
            self.held = [each for each in self.held if each.number > after]
        if not self.held:
            await self._wake.wait(25.0)
        return list(self.held)

    async def close(self) -> None:
        return None


def begin_chat(world: World, written: WrittenTexts, *, users: frozenset[int] = frozenset({USER, OTHER})) -> Chat:
    """The present life of the world's service takes commands from it."""
    api = world.service.http_api(ApiSettings(host="127.0.0.1", token=None, threads=InPlace()))
    chat = chat_of(
        world.service._parts,
        world.service.rooms,
        incoming=written,
        admitted=Admitted(users=users, chat_id=GROUP),
        standing=api.standing,
    )
    world.keep(*chat.parts())
    return chat
