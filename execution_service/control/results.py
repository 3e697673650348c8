"""What comes of a verb, the same for whoever asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Done:
    """It is as was asked, by this call or since an earlier one."""

    words: str
    """What came of it, for people; of a question, the answer."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It is not done, and asking again for the same thing in the same way would not help."""

    words: str
    """Why, for people."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another process works the account and carries it out; or has done so."""


class Unfinished(Exception):
    """A part of it is recorded, and the rest could not be: it is neither done nor refused. The message says what stood in the way."""


Result: TypeAlias = Done | Refused | Elsewhere
