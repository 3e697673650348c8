"""Kinds of notice that people want left out for a time: as values, as they are kept, and what is said of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from execution_service.core.texts.messages import html_message
from execution_service.core.texts.notices import NoticeKind
from execution_service.core.texts.values import clock_time

LONGEST_MUTE = timedelta(hours=24)
_LENGTH = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,4})m(?:in)?)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mute:
    """Notices of one kind are left out until then."""

    kind: NoticeKind
    until: datetime
    by: str
    """Who wanted it."""


def muted(mutes: Iterable[Mute], kinds: Iterable[NoticeKind], *, until: datetime, by: str) -> tuple[Mute, ...]:
    """With these kinds left out until then, whatever was said of them before."""
    named = frozenset(kinds)
    kept = [mute for mute in mutes if mute.kind not in named]
    new = [Mute(kind=kind, until=until, by=by) for kind in NoticeKind if kind in named]
    return tuple(sorted((*kept, *new), key=lambda mute: list(NoticeKind).index(mute.kind)))


def length_of(text: str) -> timedelta | None:
    """`30m`, `2h`, `1h30m`; None: it is none of these, or longer than LONGEST_MUTE, or nothing at all."""
    found = _LENGTH.fullmatch(text)
    if found is None:
        return None
    length = timedelta(hours=int(found[1] or 0), minutes=int(found[2] or 0))
    return length if timedelta(0) < length <= LONGEST_MUTE else None


def mutes_as_text(mutes: Iterable[Mute]) -> str:
    """For the store."""
    rows = [{"kind": mute.kind.value, "until": mute.until.isoformat(), "by": mute.by} for mute in mutes]
    return json.dumps(rows)


def mutes_from_text(text: str | None) -> tuple[Mute, ...]:
    """What cannot be understood mutes nothing."""
    try:
        rows = json.loads(text or "[]")
        return tuple(
            Mute(kind=NoticeKind(row["kind"]), until=datetime.fromisoformat(row["until"]).astimezone(UTC), by=row["by"])
            for row in rows
        )
    except (ValueError, TypeError, KeyError):
        return ()


def mute_words(mute: Mute) -> str:
    """In one line."""
    return f"{mute.kind.value} until {clock_time(mute.until)} (by {mute.by})"


def mute_ended(mute: Mute) -> str:
    return html_message(
        "🔔 Notices Again",
        ("Kind", mute.kind.value),
        ("Muted", f"until {clock_time(mute.until)}, by {mute.by}"),
        ("Left out", "what happened meanwhile is in the records: /orders, /attention, /daily"),
    )
