"""One command from the chat, from its text to its answer; whether it may be given at all, and how often, is decided before."""

from __future__ import annotations

from datetime import datetime

import structlog

from execution_service.control.background import Background
from execution_service.core.texts import commanded
from execution_service.core.texts.mutes import mute_words
from execution_service.core.texts.values import plain
from execution_service.delivery.mutes import Mutes
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.telegram.admission import MEANT_FOR
from execution_service.telegram.answers import Answers
from execution_service.telegram.asked import Asked, Word, asked, kill_asked, mute_asked, stance_asked, step_asked
from execution_service.telegram.questions import Questions
from execution_service.telegram.verbs import ChatVerbs
from notifications.incoming import IncomingText

log = structlog.get_logger(__name__)

AGAIN_SECONDS = 1.0
"""So long after the store gave no answer a verb is called again."""
KILL_TRIES_SECONDS = 600.0
"""So long a kill is tried on while the store is away; everything else for as long as it is meant."""
LONGEST_WRITER = 64
MUTE_USAGE = "/mute KIND… LENGTH (30m, 2h, at most 24h), /mute off [KIND…]; kinds: fills, endings, orders, alerts, all"
STANCE_USAGE = "/stance SCOPE PASSIVE|NORMAL|URGENT|EMERGENCY|HALT REASON…; without words: what counts now"
REBASE_USAGE = "/rebase SCOPE reason: why losses are to be measured anew, as of money that was paid in or out"
VERBS = frozenset({Word.KILL, Word.RESUME, Word.REBASE, Word.STANCE, Word.CANCEL, Word.MUTE})


class ChatCommands:
    """Answers each, whatever becomes of it."""

    def __init__(
        self,
        *,
        questions: Questions,
        verbs: ChatVerbs,
        answers: Answers,
        background: Background,
        mutes: Mutes,
        clock: Clock,
    ) -> None:
        self._questions = questions
        self._verbs = verbs
        self._answers = answers
        self._background = background
        self._mutes = mutes
        self._clock = clock

    async def carry_out(self, text: IncomingText, command_id: str, bot_name: str) -> None:
        """Returns when it is carried out and its answer given, or when the answer says that it is not. Raises nothing that the next command would
        have to suffer for."""
        found = asked(text.text, bot_name)
        if found is None:
            return
        if isinstance(found, str):
            self._answers.give(commanded.unknown_command(found))
            return
        by = writer(text)
        if found.word in VERBS:
            log.info(f"/{found.word} from the chat, by {by}", action="telegram_command", command_id=command_id)
        try:
            answer = await self._until_answered(found, text, by, command_id)
        except StoreUnavailable:
            answer = commanded.not_carried_out(f"/{found.word}")
        except Exception as exc:
            log.error(f"/{found.word} failed: {exc}", action="telegram_command_failed", exc_info=exc)
            answer = commanded.failed(f"/{found.word}")
        self._answers.give(answer, is_urgent=found.word in (Word.KILL, Word.RESUME, Word.STANCE))

    async def _until_answered(self, found: Asked, text: IncomingText, by: str, command_id: str) -> str:
        """Raises StoreUnavailable where a question was asked, or the verb is not meant any more."""
        is_waiting = False
        tries = KILL_TRIES_SECONDS if found.word in (Word.KILL, Word.STANCE) else MEANT_FOR.total_seconds()
        end = self._clock.monotonic() + (tries if found.word in VERBS else 0.0)
        while True:
            try:
                return await self._answer(found, by, command_id, text.sent_at)
            except StoreUnavailable:
                if self._clock.monotonic() >= end:
                    raise
            if not is_waiting:
                is_waiting = True
                self._answers.give(commanded.waiting_for_store(f"/{found.word}"), is_urgent=True)
            await self._clock.sleep(AGAIN_SECONDS)

    async def _answer(self, found: Asked, by: str, command_id: str, sent_at: datetime) -> str:
        words = found.arguments
        match found.word:
            case Word.STATUS:
                return await self._questions.status()
            case Word.ORDERS:
                return await self._questions.orders()
            case Word.ORDER if len(words) == 1:
                unknown = commanded.done("Order", f"no order is called {words[0][:80]!r}")
                return await self._questions.order(words[0]) or unknown
            case Word.ORDER:
                return commanded.usage("/order ID: a signal's id, ours, or the broker's")
            case Word.POSITIONS:
                return await self._questions.positions()
            case Word.LIMITS:
                return await self._questions.limits()
            case Word.ATTENTION:
                return await self._questions.attention()
            case Word.DAILY:
                return await self._questions.daily()
            case Word.CANCEL if words == ("all",) or words == ("All",):
                return await self._verbs.cancel_all(by, command_id, sent_at)
            case Word.CANCEL if len(words) == 1:
                return await self._verbs.cancel(words[0], by, command_id, sent_at)
            case Word.CANCEL:
                return commanded.usage("/cancel ID, or /cancel all")
            case Word.KILL:
                return await self._kill(words, by, command_id, sent_at)
            case Word.RESUME:
                step = step_asked(words)
                if step is None:
                    return commanded.resume_usage(await self._questions.engaged())
                return await self._verbs.resume(step, by, command_id, sent_at)
            case Word.REBASE:
                step = step_asked(words)
                if step is None or not (step.nonce or step.reason):
                    return commanded.usage(REBASE_USAGE)
                return await self._verbs.rebase(step, by)
            case Word.STANCE if not words:
                return commanded.stances(await self._questions.stances())
            case Word.STANCE:
                said = stance_asked(words)
                if said is None:
                    return commanded.usage(STANCE_USAGE)
                return await self._verbs.stance(said, by, command_id, sent_at)
            case Word.MUTE if not words:
                return commanded.muted(await self._questions.muted())
            case Word.MUTE:
                return await self._mute(words, by, sent_at)
            case Word.HELP | Word.START:
                return commanded.HELP
            case _:
                return commanded.unknown_command(found.word)

    async def _mute(self, words: tuple[str, ...], by: str, sent_at: datetime) -> str:
        """Until so long after it was written, however late it is met again."""
        wish = mute_asked(words)
        if wish is None:
            return commanded.usage(MUTE_USAGE)
        if wish.length is None:
            left = await self._mutes.unmute(wish.kinds)
        else:
            left = await self._mutes.mute(wish.kinds, until=sent_at + wish.length, by=by)
        return commanded.muted([mute_words(mute) for mute in left])

    async def _kill(self, words: tuple[str, ...], by: str, command_id: str, sent_at: datetime) -> str:
        wish = kill_asked(words)
        answer = await self._verbs.kill(wish, by, command_id, sent_at)
        if wish.cancel_entries:
            self._background.begin(self._verbs.told_of_cancels(wish, command_id))
        return answer


def writer(text: IncomingText) -> str:
    """Who wrote it, for the audit: the number is Telegram's, the name whatever the person chose."""
    name = plain(text.user_name).strip()[:LONGEST_WRITER]
    return f"Telegram ({name}, {text.user_id})"
