"""Telegram messages about the key by which a system around us kills."""

from __future__ import annotations

from execution_service.core.texts.messages import html_message


def kill_key_unread(*, name: str, reason: str) -> str:
    return html_message(
        "❓ Kill Key Not Known",
        ("Key", name),
        ("Reason", reason),
        ("Orders", "new risk waits until it can be read, up to its age limit; exits and cancels go on"),
        ("To do", "bring Redis back, or take REDIS_KILL_KEY away and start again"),
    )


def kill_key_read(*, name: str, says_kill: bool) -> str:
    orders = "the kill switch is engaged" if says_kill else "new risk no longer waits for it"
    return html_message("📡 Kill Key Known Again", ("Key", name), ("Orders", orders))


def kill_key_left(*, name: str, text: str) -> str:
    """It still says kill, and a person has armed the switch that it engaged."""
    return html_message(
        "⚠ Kill Key Still Says Stop",
        ("Key", name),
        ("Says", text),
        ("Orders", "they go on: a person has armed the switch since that was written"),
        ("To do", "set the key to 0; or to 0 and then to 1, to stop again"),
    )
