"""Builds the commands by Telegram around the service's own parts; asks nobody yet."""

from __future__ import annotations

from execution_service.api.standing import Standing
from execution_service.app.settings.loading import Settings
from execution_service.app.wiring import Parts, Rooms
from execution_service.control.background import Background
from execution_service.telegram.admission import Admitted
from execution_service.telegram.answers import Answers
from execution_service.telegram.chat import Chat
from execution_service.telegram.commands import ChatCommands
from execution_service.telegram.handled import HandledUpdates
from execution_service.telegram.questions import Questions
from execution_service.telegram.strangers import Strangers
from execution_service.telegram.verbs import ChatVerbs
from notifications.incoming import Incoming
from notifications.telegram_updates import TelegramUpdates


def chat_of(parts: Parts, rooms: Rooms, *, incoming: Incoming, admitted: Admitted, standing: Standing) -> Chat:
    """Its verbs go the way that messages go: by the commands."""
    store, clock, alerts = parts.store, parts.clock, rooms.delivery.alerts
    background = Background()
    mutes = rooms.delivery.mutes
    answers = Answers(notifier=parts.notifier, clock=clock)
    questions = Questions(store=store, standing=standing, rules=parts.risk_rules, mutes=mutes, clock=clock)
    verbs = ChatVerbs(
        commands=rooms.commands,
        questions=questions,
        store=store,
        rules=parts.risk_rules,
        clock=clock,
        answers=answers,
    )
    return Chat(
        incoming=incoming,
        admitted=admitted,
        commands=ChatCommands(
            questions=questions, verbs=verbs, answers=answers, background=background, mutes=mutes, clock=clock
        ),
        answers=answers,
        strangers=Strangers(alerts=alerts, clock=clock),
        handled=HandledUpdates(store=store, clock=clock, channel_id=incoming.channel_id),
        ownership=rooms.ownership,
        alerts=alerts,
        background=background,
        clock=clock,
    )


def telegram_chat(settings: Settings, parts: Parts, rooms: Rooms, standing: Standing) -> Chat | None:
    """None: nobody may command by Telegram."""
    token, chat_id, users = settings.telegram_bot_token, settings.telegram_chat_id, settings.telegram_users
    if not (settings.telegram_enabled and users) or token is None or chat_id is None:
        return None
    incoming = TelegramUpdates(token.get_secret_value(), settings.telegram_api_base_url)
    admitted = Admitted(users=users, chat_id=int(chat_id))
    return chat_of(parts, rooms, incoming=incoming, admitted=admitted, standing=standing)
