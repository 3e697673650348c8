"""Who may command, and what is too old to be meant; from values alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from notifications.incoming import IncomingText

MEANT_FOR = timedelta(seconds=60)
"""What was written so long ago is not meant any more: its writer has seen meanwhile that nothing came of it."""


class Admission(Enum):
    """What is done with a text."""

    TAKEN = auto()
    OLD = auto()
    """Of somebody who may command, and not carried out."""
    STRANGER = auto()
    """Logged, and people are told; the writer is not answered."""
    PASSED_OVER = auto()
    """No command, in a chat where people talk."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """Those who may command: these users, in this chat. No user named: nobody."""

    users: frozenset[int]
    chat_id: int

    def judge(self, text: IncomingText, now: datetime) -> Admission:
        """By numbers alone: a name can be chosen by anybody."""
        is_command = text.text.startswith("/")
        if text.chat_id != self.chat_id or text.user_id not in self.users:
            is_talk = text.chat_id == self.chat_id and not is_command
            return Admission.PASSED_OVER if is_talk else Admission.STRANGER
        if not is_command:
            return Admission.PASSED_OVER
        return Admission.OLD if abs(now - text.sent_at) > MEANT_FOR else Admission.TAKEN
