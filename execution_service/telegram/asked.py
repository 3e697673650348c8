"""What somebody asked for: the word of a command, its arguments, and what they mean to the verbs; from the text alone. Nothing is guessed."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from execution_service.core.risk.kill import KillLevel
from execution_service.core.texts.mutes import length_of
from execution_service.core.texts.notices import NoticeKind

NONCE = re.compile(r"[0-9a-f]{12}")
_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'"})
"""As telephones write them."""


class Word(StrEnum):
    """The commands, as people write them behind a slash."""

    STATUS = "status"
    ORDERS = "orders"
    ORDER = "order"
    POSITIONS = "positions"
    LIMITS = "limits"
    ATTENTION = "attention"
    DAILY = "daily"
    MUTE = "mute"
    CANCEL = "cancel"
    KILL = "kill"
    RESUME = "resume"
    REBASE = "rebase"
    STANCE = "stance"
    HELP = "help"
    START = "start"
    """What every bot is greeted with: the help."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A command with its arguments."""

    word: Word
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KillAsked:
    """The fields of the verb, as they were written: whether there is such a scope is the verb's to say."""

    scope: str
    level: KillLevel
    cancel_entries: bool
    reason: str


@dataclass(frozen=True, slots=True)
class StepAsked:
    """One of the two steps of what a person decides: arming, or measuring losses anew."""

    scope: str
    nonce: str | None
    """None: the first step."""
    reason: str


@dataclass(frozen=True, slots=True)
class StanceAsked:
    """The fields of the verb, as they were written."""

    scope: str
    stance: str
    reason: str


@dataclass(frozen=True, slots=True)
class MuteAsked:
    """Kinds of notice that are to be left out for so long."""

    kinds: frozenset[NoticeKind]
    length: timedelta | None
    """None: they are to be told again."""


def mute_asked(arguments: tuple[str, ...]) -> MuteAsked | None:
    """`KIND… LENGTH`, or `off [KIND…]`; `all` is every kind. None: it is not said which, or for how long, and that is not guessed."""
    words = [word.casefold() for argument in arguments for word in argument.split(",") if word]
    is_off = words[:1] == ["off"]
    length = None if is_off or not words else length_of(words[-1])
    named = words[1:] if is_off else words[:-1]
    if (length is None and not is_off) or not (named or is_off):
        return None
    if named == ["all"] or not named:
        return MuteAsked(frozenset(NoticeKind), length)
    try:
        return MuteAsked(frozenset(NoticeKind(word) for word in named), length)
    except ValueError:
        return None


def asked(text: str, bot_name: str) -> Asked | str | None:
    """What was asked; a text: the word that is no command; None: another bot of the group is meant."""
    first, *rest = _words(text)
    word, _, bot = first.removeprefix("/").partition("@")
    if bot and bot.casefold() != bot_name.casefold():
        return None
    try:
        return Asked(Word(word.casefold()), tuple(rest))
    except ValueError:
        return word


def kill_asked(arguments: tuple[str, ...]) -> KillAsked:
    """`[SCOPE] [halt] [cancel] [REASON…]`; without a scope: all."""
    scope, rest = "all", list(arguments)
    if rest and rest[0].casefold() not in ("halt", "cancel"):
        scope = _scope(rest.pop(0))
    level, cancels = KillLevel.REDUCE_ONLY, False
    while rest and rest[0].casefold() in ("halt", "cancel"):
        if rest.pop(0).casefold() == "halt":
            level = KillLevel.HALT
        else:
            cancels = True
    return KillAsked(scope, level, cancels, " ".join(rest))


def step_asked(arguments: tuple[str, ...]) -> StepAsked | None:
    """`SCOPE REASON…`, then `SCOPE NONCE`. None: no scope is named, and what is meant is not guessed."""
    if not arguments:
        return None
    scope, *rest = arguments
    nonce = rest.pop(0) if rest and NONCE.fullmatch(rest[0].casefold()) else None
    return StepAsked(_scope(scope), None if nonce is None else nonce.casefold(), " ".join(rest))


def second_step(word: Word, scope: str, nonce: str) -> str:
    """As it is to be written: what has a space in it stands in quotation marks."""
    return f"/{word} {shlex.quote(scope)} {nonce}"


def stance_asked(arguments: tuple[str, ...]) -> StanceAsked | None:
    """`SCOPE STANCE REASON…`. None: scope or stance are not named, and neither is guessed."""
    if len(arguments) < 2:
        return None
    scope, stance, *rest = arguments
    return StanceAsked(_scope(scope), stance.upper(), " ".join(rest))


def _words(text: str) -> list[str]:
    """Separated by spaces; what stands in quotation marks is one."""
    plain = text.translate(_QUOTES)
    try:
        return shlex.split(plain) or [""]
    except ValueError:  # a mark without its other
        return plain.split() or [""]


def _scope(text: str) -> str:
    """A telephone begins every word with a capital letter: the kinds of scope are written small."""
    kind, mark, name = text.partition(":")
    return f"{kind.casefold()}{mark}{name}" if mark else text
