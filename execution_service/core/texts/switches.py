"""What people are told of kill switches: engaged, about to be armed, armed, unreadable; one line of each for tables."""

from __future__ import annotations

from execution_service.core.risk.kill import KillLevel, Switch
from execution_service.core.risk.switch_record import Change, Deed
from execution_service.core.texts.messages import html_message
from execution_service.core.texts.values import counted_noun

PASSES = {
    KillLevel.REDUCE_ONLY: "exits and cancels go on; no new risk is taken",
    KillLevel.HALT: "only cancels go on; not even exits leave",
}
TO_ARM = "when the reason is gone: execctl arm, a named person, two steps, 60 s after the last kill at the earliest"


def switch_changed(*, scope: str, change: Change, switch: Switch) -> str:
    """One change of one switch. `switch`: as it is by now; never its nonce."""
    who = (("Scope", scope), ("By", change.by), ("Reason", change.reason))
    match change.deed:
        case Deed.ENGAGED:
            level = change.level or KillLevel.REDUCE_ONLY
            entries = (("Working entries", "their cancels are asked for"),) if switch.cancel_entries else ()
            replaced = (("Replaces", "a document that could not be read"),) if change.replaced else ()
            return html_message(
                "🛑 Kill Switch Engaged",
                *who,
                ("Level", level.value),
                ("Orders", PASSES[level]),
                *entries,
                *replaced,
                ("To do", TO_ARM),
            )
        case Deed.ARMING_ASKED:
            return html_message(
                "⏳ Arming Asked For", *who, ("Now", "it stops as before; the second step lets trade again")
            )
        case Deed.ARMED:
            return html_message("🟢 Kill Switch Armed", *who, ("Orders", "this switch stops nothing any more"))


def flattening(*, scope: str, person: str, reason: str, count: int) -> str:
    """Exits of all that is held within a scope are about to be taken in."""
    return html_message(
        "🏳 Flatten Ordered",
        ("Scope", scope),
        ("By", person),
        ("Reason", reason),
        (
            "Orders",
            f"{counted_noun(count, 'ordinary exit')}; each tells by itself what became of it" if count else "none",
        ),
    )


def switch_unreadable(*, place: str, reason: str) -> str:
    """A document that stands where a switch is kept."""
    return html_message(
        "🛑 Kill Switch Unreadable",
        ("Scope", place),
        ("Reason", reason),
        ("Orders", "it counts as engaged: exits and cancels go on; no new risk is taken"),
        ("To do", "execctl kill that scope, which puts a new document in its place; then execctl arm"),
    )


def kill_refused(*, command_id: str, reason: str) -> str:
    """A command to kill that named nothing that could be stopped."""
    return html_message(
        "🚨 Kill Not Carried Out",
        ("Command", command_id),
        ("Reason", reason),
        ("Orders", "they go on as before"),
        ("To do", "execctl kill all --reason ...; or give the command again with the right scope and level"),
    )


def switch_words(switch: Switch) -> str:
    """An engaged switch in one line."""
    level = "" if switch.level is None else switch.level.value
    return f"{switch.scope} ({level}, by {switch.by}: {switch.reason})"
