"""What the simulation finds and nobody has mended yet."""

from __future__ import annotations

from collections.abc import Mapping

NOT_MENDED: Mapping[str, str] = {
    "account restarted": "an exception out of one order's step restarts its whole account",
    "alert lost": "the alert about orders of an account that is not configured is lost with the store",
    "alert unsent": "a document among the alerts that cannot be read ends the sending of all",
    "audit": "a commission that changes between -1 and -2, or what comes while a record cannot be read, is taken for known",
    "doubt untold": "a task of the notifications has ended, and nobody notices",
    "down": "a command that cannot be read keeps a replica from starting",
    "command": "a command that cannot be read ends the looking for commands",
    "in hand": "a task of the store or of the notifications has ended, and nobody notices",
    "kept": "a replica that stops does not hand back what it received",
    "lost": "follows from a message that is kept for ever",
    "owing": "a task of the store or of the notifications has ended, and nobody notices",
    "stands still": "a lane that pauses while its account begins anew is not taken up; a task of the store has ended",
    "stuck": "a lease that cannot be read stops the work of all accounts",
    "unacknowledged": "a command that cannot be read ends the taking of commands",
    "unfinished": "a task of the store has ended, and nobody notices",
    "unheard": "a replica that alone has lost the store keeps its messages",
    "unshown": "a publisher that hangs holds up views and ledger of the next events of the order",
}
"""By kind of complaint. A kind that is mended is taken out: from then on one life that complains of it fails the tests. Empty is the aim."""
