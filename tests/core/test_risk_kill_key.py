"""What the text of a kill key means."""

from __future__ import annotations

import pytest

from execution_service.core.risk.kill_key import means_kill


@pytest.mark.parametrize("text", [None, "", "0", " 0\n", "false", "OFF", "no"])
def test_what_says_no_stop(text: str | None) -> None:
    assert not means_kill(text)


@pytest.mark.parametrize("text", ["1", "true", "kill", "(no text)", "0.0", "\x00", "{}", "1" * 64])
def test_whatever_else_stands_there_stops(text: str) -> None:
    assert means_kill(text)
