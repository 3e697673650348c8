"""What `--check` prints and what children are given: words stay words, and credentials stay at home."""

from __future__ import annotations

import io

from rich.console import Console

from execution_service.app.check import Finding, _show
from execution_service.app.embedded import _without_credentials
from execution_service.app.log_lines import redact, safe

SECRET = "canary-of-the-check-4411"


def test_a_findings_words_are_neither_markup_nor_lines_nor_secrets() -> None:
    redact(SECRET)
    out = io.StringIO()
    words = f"said [bold red]no[/bold red] [/nonsense] \x1b[2J {SECRET}\nsecond line"
    _show([Finding("account [b]x[/b]", False, words)], Console(file=out, width=200))
    shown = out.getvalue()
    assert "[bold red]no[/bold red] [/nonsense]" in shown
    assert "account [b]x[/b]" in shown
    assert "\x1b" not in shown
    assert SECRET not in shown
    assert r"\nsecond line" in shown


def test_safe_text_is_one_line_without_secrets() -> None:
    redact(SECRET)
    assert safe(f"a\r\n{SECRET}\u202e") == r"a\r\n***\u202e"


def test_children_get_no_variable_that_may_be_a_credential() -> None:
    given = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "PYTHONUNBUFFERED": "1",
        "HOME": "/root",
        "KITE_API_KEY": "k",
        "MY_OWN": "s",
    }
    assert _without_credentials(given) == {k: v for k, v in given.items() if k not in ("KITE_API_KEY", "MY_OWN")}
