"""execctl's commands about stances: set one, and what counts now. They change the store themselves, whether the service is running or not."""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Awaitable, Callable

from rich.console import Console

from execution_service.app.clock import SystemClock
from execution_service.control.requests import Kind, StanceRequest, read_request
from execution_service.control.results import Refused
from execution_service.control.shown import stance_fields
from execution_service.control.stances import NobodyLearnsStances, StanceWriter, stance_answer
from execution_service.core.planning.stances import HALT, StanceRefused, Stances
from execution_service.core.planning.targets import Aggressiveness
from execution_service.core.risk.kill import KillLevel
from execution_service.core.texts.values import plain
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.ports.commands import Command, CommandStatus
from scripts.display import print_json, print_table
from scripts.health import emergency_words

WORDS = ("stance", "stances")
EXIT_FAILED = 1


def add_options(stance: argparse.ArgumentParser, nonblank: Callable[[str], str]) -> None:
    """Its arguments."""
    stance.add_argument(
        "scope", metavar="SCOPE", help="all, account:ID, strategy:NAME, symbol:SYMBOL, or some of them joined by +"
    )
    words = [*(each.value for each in Aggressiveness), HALT]
    stance.add_argument("stance", type=str.upper, choices=words, metavar="STANCE", help=", ".join(words))
    stance.add_argument("--by", type=nonblank, required=True, help="who says so")
    stance.add_argument("--reason", type=nonblank, required=True)
    stance.add_argument("--until", type=nonblank, help="when it ends by itself, in ISO 8601 with Z or an offset")


def warn(stances: Stances) -> None:
    """Before anything else is shown, past whatever reads the output."""
    for words in emergency_words(stances, SystemClock().now()):
        print(f"EMERGENCY: {plain(words)} (see execctl stances)", file=sys.stderr)


def is_halt(options: argparse.Namespace) -> bool:
    return bool(options.stance == HALT)


def as_kill(options: argparse.Namespace) -> argparse.Namespace:
    """The same wish in the words of `execctl kill`."""
    return argparse.Namespace(
        word="kill",
        json=options.json,
        scope=options.scope,
        level=KillLevel.HALT.value,
        by=options.by,
        reason=options.reason,
        cancel_entries=True,
    )


async def set_stance(
    options: argparse.Namespace,
    *,
    store: MongoStore,
    console: Console,
    is_waited_for: bool,
    outcome: Callable[[Command], Awaitable[Command]],
) -> int:
    """Set by ourselves; what is to be cancelled and told is the service's, at its next start where none runs. The command is stored first, once the
    stance is known to be one that can be set: if we die behind that, the service sets it."""
    now = SystemClock().now()
    body = {
        "scope": options.scope,
        "stance": options.stance,
        "by": options.by,
        "reason": options.reason,
        "until": options.until,
    }
    command = Command(command_id=f"ctl-{uuid.uuid4()}", kind=Kind.STANCE, body=body, published_at=now, received_at=now)
    asked = read_request(command)
    if not isinstance(asked, StanceRequest):
        return _refused(options, console, asked.words if isinstance(asked, Refused) else str(asked))
    writer = StanceWriter(store=store, learner=NobodyLearnsStances(), clock=SystemClock())
    try:
        await writer.check(asked)
        await store.insert_command(command)
        record = await writer.set(asked)
    except StanceRefused as exc:
        # Where another stance has come in between, the service refuses the command likewise.
        return _refused(options, console, str(exc))
    if is_waited_for:
        command = await outcome(command)
    told = stance_answer(record)
    if command.status is CommandStatus.REFUSED:
        return _refused(options, console, command.outcome)
    if command.status is CommandStatus.DONE:
        told = json.loads(command.outcome)
    if options.json:
        print_json(told | {"command_id": command.command_id, "is_carried_out": command.status is CommandStatus.DONE})
        return 0
    ends = f"until {told['until']}" if told["until"] else "until somebody says otherwise"
    console.print(f"STANCE of {told['scope']} is {told['stance']}, {ends}.", markup=False)
    if asked.stance is Aggressiveness.EMERGENCY and command.status is CommandStatus.DONE:
        console.print(f"Working entries asked to end: {told['cancels_asked']}.")
    elif asked.stance is Aggressiveness.EMERGENCY:
        console.print("Working entries are asked to end as soon as the service comes to it.")
    return 0


def show(options: argparse.Namespace, stances: Stances, console: Console) -> None:
    """All that were ever set, the narrowest last."""
    now = SystemClock().now()
    rows = [stance_fields(record, now) for record in sorted(stances.records, key=lambda each: str(each.scope))]
    if options.json:
        print_json({"stances": rows, "unreadable": [str(scope) for scope in stances.doubtful]})
        return
    for scope in stances.doubtful:
        console.print(f"The stance of {scope} cannot be read, and counts as EMERGENCY: set it anew.", markup=False)
    if not rows:
        console.print("No stance was ever set: plans are carried out as they say.")
        return
    shown = [(each["scope"], each["counts"], each["by"], each["since"], each["until"], each["reason"]) for each in rows]
    print_table(console, "Stances", ("Scope", "Stance", "By", "Since", "Until", "Reason"), shown, prose=("Reason",))


def _refused(options: argparse.Namespace, console: Console, words: str) -> int:
    if options.json:
        print_json({"refused": words})
    else:
        console.print(f"STANCE refused: {plain(words)}", markup=False)
    return EXIT_FAILED
