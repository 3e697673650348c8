"""Kinds of notice that are left out for a time: how long that may be, how they are kept, and what is said of them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from execution_service.core.orders.events import Doubted
from execution_service.core.texts.mutes import Mute, length_of, mute_ended, muted, mutes_as_text, mutes_from_text
from execution_service.core.texts.notices import NoticeKind, can_be_muted
from tests.builders import NOW


@pytest.mark.parametrize(
    ("text", "minutes"), [("30m", 30), ("2h", 120), ("1H30min", 90), ("24h", 24 * 60), ("1440m", 24 * 60)]
)
def test_a_length_is_hours_and_minutes(text: str, minutes: int) -> None:
    assert length_of(text) == timedelta(minutes=minutes)


@pytest.mark.parametrize("text", ["", "0m", "25h", "1441m", "30", "m", "-1h", "1d", "99999h", "1h 30m", "٣h30"])
def test_a_length_that_is_none_or_too_long_is_not_guessed(text: str) -> None:
    assert length_of(text) is None


@pytest.mark.parametrize(
    "text", ["", "nonsense", "{}", "[1]", '[{"kind": "fills"}]', '[{"kind": "kills", "until": "2025-01-01", "by": ""}]']
)
def test_what_cannot_be_understood_mutes_nothing(text: str) -> None:
    assert mutes_from_text(text) == ()


def test_what_is_kept_is_read_again_and_a_kind_has_one_end() -> None:
    kinds = (NoticeKind.ENDINGS, NoticeKind.FILLS)
    first = muted((), kinds, until=NOW, by="Ann <b>")
    assert [mute.kind for mute in first] == [NoticeKind.FILLS, NoticeKind.ENDINGS]
    later = muted(first, [NoticeKind.FILLS], until=NOW + timedelta(hours=1), by="Bob")
    assert mutes_from_text(mutes_as_text(later)) == later
    assert {mute.kind: mute.by for mute in later} == {NoticeKind.FILLS: "Bob", NoticeKind.ENDINGS: "Ann <b>"}


def test_a_name_in_the_message_of_an_end_is_no_markup() -> None:
    text = mute_ended(Mute(kind=NoticeKind.FILLS, until=NOW, by="Ann <b>"))
    assert "Ann &lt;b&gt;" in text


def test_nothing_that_tells_of_a_stop_or_a_doubt_can_be_muted() -> None:
    for kind in (
        "kill_switch:x",
        "kill_refused",
        "stance_refused",
        "kill_key_unread",
        "dead_man_missed",
        "mute_ended:fills",
    ):
        assert not can_be_muted(kind)
    assert not can_be_muted(Doubted(at=NOW, message="no answer"))
    assert can_be_muted("broker_down:acct-1")
