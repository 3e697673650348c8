"""Those who may not command and write to the bot: logged, and people are told, at most once an hour each; they are not answered."""

from __future__ import annotations

import structlog

from execution_service.core.texts.commanded import stranger
from execution_service.core.texts.messages import html_message
from execution_service.core.texts.values import plain
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from notifications.incoming import IncomingText

log = structlog.get_logger(__name__)

EACH_SECONDS = 3600.0
MOST = 200
"""Of more within an hour nothing is said: whoever makes up users by the thousand is to fill neither the log nor memory."""


class Strangers:
    """In memory: after a restart each is told of once more."""

    def __init__(self, *, alerts: RaisesAlerts, clock: Clock) -> None:
        self._alerts = alerts
        self._clock = clock
        self._told: dict[tuple[int, int], float] = {}

    async def note(self, text: IncomingText) -> None:
        """Whatever was written is shown nowhere."""
        now, who = self._clock.monotonic(), (text.user_id, text.chat_id)
        self._told = {each: at for each, at in self._told.items() if now - at < EACH_SECONDS}
        if who in self._told or len(self._told) >= MOST:
            return
        self._told[who] = now
        name = plain(text.user_name)
        log.warning(
            f"Somebody who may not command wrote to the Telegram bot: {name[:80]} ({text.user_id}) in chat {text.chat_id}",
            action="telegram_stranger",
        )
        lines = stranger(user_id=text.user_id, name=name, chat_id=text.chat_id)
        await self._alerts.raise_alert("telegram_stranger", html_message("🚷 Stranger At The Bot", *lines))
