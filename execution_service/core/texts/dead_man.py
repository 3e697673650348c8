"""Telegram messages about heartbeats from outside that are missed."""

from __future__ import annotations

from execution_service.core.texts.messages import html_message


def heartbeat_missed(*, seconds: float) -> str:
    return html_message(
        "💔 Heartbeat Missed",
        ("Silence", f"nobody has said for {seconds:g} s that all is well"),
        ("Orders", "the kill switch of all is engaged at reduce only: exits and cancels go on; no new risk is taken"),
        ("To do", "bring back who sends the heartbeats; then arm, which needs a named person"),
    )


def heartbeat_still_missed() -> str:
    """A person has armed the switch during the silence."""
    return html_message(
        "💔 Heartbeat Still Missed",
        ("Orders", "they go on: a person has armed the switch since it was missed"),
        ("Meanwhile", "nothing stops trade by itself until a heartbeat comes, and is missed again"),
    )


def heartbeat_again() -> str:
    return html_message("💓 Heartbeat Again", ("Orders", "as the kill switch says: nothing is armed by it"))
