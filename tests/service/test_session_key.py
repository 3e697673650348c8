"""The key that signs the page's sessions: kept over restarts, for the service's user alone, and never a reason not to start."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from execution_service.app.session_key import FILE, KEY_BYTES, session_key


def test_the_key_is_the_same_after_a_restart_and_another_in_another_place(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    key = session_key(one)
    assert len(key) == KEY_BYTES
    assert session_key(one) == key
    assert session_key(other) != key


def test_nobody_else_on_the_machine_may_read_it(tmp_path: Path) -> None:
    session_key(tmp_path)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE], "nothing half-written is left"


def test_of_two_services_that_begin_together_in_one_place_the_second_takes_the_firsts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = session_key(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: False)  # it looked before the first had written
        assert session_key(tmp_path) == first


@pytest.mark.parametrize("content", [b"", b"short", b"x" * (KEY_BYTES + 1)])
def test_a_file_that_is_no_key_is_not_used_and_the_service_starts(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    first, second = session_key(tmp_path), session_key(tmp_path)
    assert len(first) == len(second) == KEY_BYTES
    assert first != second, "for one life only"
    assert (tmp_path / FILE).read_bytes() == content, "whatever it is, it is left for a person"


def test_where_nothing_can_be_written_it_is_for_this_life(tmp_path: Path) -> None:
    assert len(session_key(tmp_path / "missing")) == KEY_BYTES
