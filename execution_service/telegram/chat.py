"""Asks the channel what people wrote, in one process alone, and has each command carried out once; what a command means is not known here."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from execution_service.control.background import Background
from execution_service.core.backoff import Backoff
from execution_service.core.texts import commanded
from execution_service.core.texts.messages import html_message
from execution_service.ownership.ownership import UNASSIGNED, Ownership
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.connectivity import Connectivity
from execution_service.runtime.supervision import Part
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.telegram.admission import Admission, Admitted
from execution_service.telegram.answers import Answers
from execution_service.telegram.commands import ChatCommands
from execution_service.telegram.handled import HandledUpdates
from execution_service.telegram.strangers import Strangers
from notifications.incoming import Incoming, IncomingUnavailable, Update

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
"""A process whose turn it is not looks so often whether it is."""
PAUSES = Backoff(first_seconds=1.0, longest_seconds=60.0)
ALERTED_AFTER = 3
"""Failures in succession that only a person can end, until people are told: a process that has just handed over may still be asking."""


class Chat:
    """Only who holds what belongs to no account asks: Telegram answers one asker a bot. The number of an update is the name of its command, so an
    update that is met again, after a death or by another process, is the same command, and does what is left to be done."""

    def __init__(
        self,
        *,
        incoming: Incoming,
        admitted: Admitted,
        commands: ChatCommands,
        answers: Answers,
        strangers: Strangers,
        handled: HandledUpdates,
        ownership: Ownership,
        alerts: RaisesAlerts,
        background: Background,
        clock: Clock,
    ) -> None:
        self._incoming = incoming
        self._admitted = admitted
        self._commands = commands
        self._answers = answers
        self._strangers = strangers
        self._handled = handled
        self._ownership = ownership
        self._alerts = alerts
        self._background = background
        self._clock = clock
        self._connectivity = Connectivity("Telegram (commands)", clock)
        self._bot_name = ""
        self._failures = 0
        """In succession."""
        self._is_taken_up = False

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process. Trading goes on without them."""
        return (
            Part("Telegram commands", self.run, is_vital=False),
            Part("Telegram answers", self._answers.run, is_vital=False),
        )

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if not self._ownership.holds(UNASSIGNED):
                self._is_taken_up = False
                await self._clock.sleep(LOOK_SECONDS)
                continue
            try:
                updates = await self._ask()
            except (IncomingUnavailable, StoreUnavailable) as exc:
                await self._rest(exc)
                continue
            self._failures = 0
            self._connectivity.answers()
            await self._take(updates)

    async def end(self) -> None:
        """Ends what is still to be said of commands that were carried out."""
        await self._background.end()
        await self._incoming.close()

    async def _ask(self) -> Sequence[Update]:
        """Raises IncomingUnavailable, StoreUnavailable."""
        if not self._is_taken_up:
            await self._handled.take_up()
            self._bot_name = await self._incoming.name()
            self._is_taken_up = True
        return await self._incoming.updates(self._handled.last)

    async def _rest(self, exc: IncomingUnavailable | StoreUnavailable) -> None:
        self._failures += 1
        self._connectivity.fails(str(exc))
        least = 0.0
        if isinstance(exc, IncomingUnavailable):
            least = exc.retry_after_seconds or 0.0
            if exc.permanent and self._failures == ALERTED_AFTER:
                lines = (("Reason", str(exc)), ("Meanwhile", "trading and notices go on"))
                await self._alerts.raise_alert(
                    "telegram_commands_away", html_message("🔌 Telegram Commands Away", *lines)
                )
        await self._clock.sleep(max(PAUSES.pause_seconds(self._failures), least))

    async def _take(self, updates: Sequence[Update]) -> None:
        too_old = 0
        for update in updates:
            if not self._ownership.holds(UNASSIGNED):
                return  # whoever holds it now is given what is not dealt with
            if self._handled.has(update.number):
                continue
            too_old += await self._is_too_old(update)
            await self._handled.commit(update.number)
        if too_old:
            self._answers.give(commanded.too_old(too_old))

    async def _is_too_old(self, update: Update) -> bool:
        """Deals with it, if it is not."""
        text = update.text
        if text is None:
            return False
        match self._admitted.judge(text, self._clock.now()):
            case Admission.TAKEN:
                command_id = f"tg-{self._incoming.channel_id}-{update.number}"
                await self._commands.carry_out(text, command_id, self._bot_name)
            case Admission.OLD:
                log.warning(f"A command from the chat came too late: sent {text.sent_at}", action="telegram_too_old")
                return True
            case Admission.STRANGER:
                await self._strangers.note(text)
            case Admission.PASSED_OVER:
                log.debug("A text in the chat is no command", action="telegram_no_command")
        return False
