"""Telegram messages about the outside safety service."""

from __future__ import annotations

from execution_service.core.texts.messages import html_message


def safety_stops(*, reason: str) -> str:
    return html_message(
        "🛑 Safety Service Stops Trading",
        ("Reason", reason),
        ("Orders", "no new risk passes; what reduces a position leaves"),
    )


def safety_unknown(*, reason: str, is_fail_open: bool) -> str:
    orders = (
        "they pass, as ESS_FAIL_OPEN says" if is_fail_open else "no new risk passes; what reduces a position leaves"
    )
    return html_message("❓ Safety Service Unknown", ("Reason", reason), ("Orders", orders))


def safety_well(*, state: str) -> str:
    return html_message("✅ Safety Service Lets Trade", ("State", state))
