"""execctl's commands about kill switches: kill, arm, and what stops now. They change the store themselves, whether the service is running or not."""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence

from rich.console import Console

from execution_service.app.clock import SystemClock
from execution_service.control.kill import arming_answer, killed_answer, working_entries
from execution_service.control.requests import Arm, Kill, Kind, read_request
from execution_service.control.results import Done, Refused
from execution_service.control.shown import is_engaged, switch_fields
from execution_service.control.switches import NobodyLearns, Switches
from execution_service.core.risk.kill import ArmingRefused, KillLevel
from execution_service.core.risk.switch_record import SwitchRecord
from execution_service.core.texts.values import plain
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.ports.commands import Command, CommandStatus
from execution_service.storage.ports.switches import KeptSwitch, UnreadableSwitch
from scripts.display import print_json, print_table
from scripts.health import engaged_words

WORDS = ("kill", "arm", "switches")
EXIT_FAILED = 1
CHANGES_SHOWN = 20


def add_options(kill: argparse.ArgumentParser, arm: argparse.ArgumentParser, nonblank: Callable[[str], str]) -> None:
    """Their arguments."""
    scope = "all, account:ID, strategy:NAME, symbol:SYMBOL, or some of them joined by +"
    kill.add_argument("scope", metavar="SCOPE", help=scope)
    levels = [level.value for level in KillLevel]
    kill.add_argument("--level", choices=levels, default=KillLevel.REDUCE_ONLY.value, help="halt: not even exits leave")
    kill.add_argument("--cancel-entries", action="store_true", help="have working entries cancelled too")
    kill.add_argument("--reason", type=nonblank, required=True)
    kill.add_argument("--by", type=nonblank, default="execctl", help="who says so")
    arm.add_argument("scope", metavar="SCOPE", help=scope)
    arm.add_argument("--person", type=nonblank, required=True, help="who answers for it")
    arm.add_argument("--reason", type=nonblank, required=True, help="why it is safe again")
    arm.add_argument("--nonce", type=nonblank, help="for the second step: what the first one printed")


def warn(kept: Sequence[KeptSwitch]) -> None:
    """Before anything else is shown, past whatever reads the output."""
    for words in engaged_words(kept):
        print(f"KILL SWITCH ENGAGED: {plain(words)} (see execctl switches)", file=sys.stderr)


async def kill(
    options: argparse.Namespace,
    *,
    store: MongoStore,
    console: Console,
    is_here: bool,
    may_be_elsewhere: bool,
    outcome: Callable[[Command], Awaitable[Command]],
) -> int:
    """The switch is engaged by ourselves; what is to be cancelled and counted is the service's, at its next start where none runs."""
    body = {
        "scope": options.scope,
        "level": options.level,
        "by": options.by,
        "reason": options.reason,
        "cancel_entries": options.cancel_entries,
    }
    command, asked = _command(Kind.KILL, body)
    if not isinstance(asked, Kill):
        return _refused(options, console, asked)
    await store.insert_command(command)
    record = await _switches(store).engage(asked)
    if not options.json:
        _say_engaged(console, record)
    if is_here or may_be_elsewhere:
        command = await outcome(command)
    done = Done(command.outcome)
    if command.status is CommandStatus.NEW:
        done = killed_answer(record, asked, len(await working_entries(store, asked.scope)))
        if not (asked.cancel_entries or is_here or may_be_elsewhere):
            await store.finish_command(command.command_id, CommandStatus.DONE, done.words, None)
    elif command.status is CommandStatus.REFUSED:
        return _refused(options, console, Refused(command.outcome))
    told = json.loads(done.words)
    is_left = asked.cancel_entries and command.status is CommandStatus.NEW
    if options.json:
        print_json(told | {"command_id": command.command_id, "is_carried_out": not is_left})
        return 0
    console.print(
        f"Entries working: {told['working_entries']}; cancels asked {told['cancels_asked']}, "
        f"confirmed {told['cancels_confirmed']}, not known {told['cancels_unknown']}."
    )
    if is_left:
        who = (
            "as soon as the service comes to it" if is_here or may_be_elsewhere else "by the service at its next start"
        )
        console.print(f"Their cancels are stored as {command.command_id} and will be asked for {who}.")
    return 0


def _say_engaged(console: Console, record: SwitchRecord) -> None:
    """At once: the rest may take its time."""
    switch = record.switch
    if switch.level is None:
        console.print(f"{switch.scope} has been armed since by {switch.by}.", markup=False)
        return
    since = "" if switch.engaged_at is None else f", since {switch.engaged_at.isoformat(timespec='milliseconds')}"
    console.print(
        f"KILLED {switch.scope}, {switch.level.value}{since}. It stays so until a person arms it.", markup=False
    )


async def arm(options: argparse.Namespace, *, store: MongoStore, console: Console) -> int:
    """One of the two steps."""
    body = {"scope": options.scope, "person": options.person, "reason": options.reason, "nonce": options.nonce}
    command, asked = _command(Kind.ARM, body)
    if not isinstance(asked, Arm):
        return _refused(options, console, asked)
    await store.insert_command(command)
    try:
        result = arming_answer(await _switches(store).arm(asked), asked)
    except ArmingRefused as exc:
        result = Refused(str(exc))
    status = CommandStatus.DONE if isinstance(result, Done) else CommandStatus.REFUSED
    await store.finish_command(command.command_id, status, result.words, None)
    if isinstance(result, Refused):
        return _refused(options, console, result)
    told = json.loads(result.words)
    if options.json:
        print_json(told)
    elif asked.nonce is None:
        console.print(
            f"Not armed yet. Not before {told['not_before']}, the same command again with --nonce {told['nonce']}"
        )
    else:
        console.print(f"ARMED {told['scope']} by {told['person']}: it stops nothing any more.")
    return 0


def show(options: argparse.Namespace, kept: Sequence[KeptSwitch], console: Console) -> None:
    """All switches, those that stop first, and the latest changes of each."""
    ordered = sorted(kept, key=lambda each: (not is_engaged(each), str(_scope(each))))
    if options.json:
        print_json([switch_fields(each) for each in ordered])
        return
    if not ordered:
        console.print("No kill switch was ever engaged.")
        return
    rows = []
    for each in ordered:
        fields = switch_fields(each)
        rows.append((fields["scope"], fields["state"], fields["by"], fields["since"], fields["reason"]))
    print_table(console, "Kill switches", ("Scope", "State", "By", "Engaged", "Reason"), rows, prose=("Reason",))
    changes = [
        (change.at, str(each.switch.scope), change.deed.value, change.by, change.reason)
        for each in ordered
        if isinstance(each, SwitchRecord)
        for change in each.history
    ]
    latest = sorted(changes, key=lambda change: change[0], reverse=True)[:CHANGES_SHOWN]
    print_table(
        console, "Changes, the latest first", ("Time", "Scope", "Change", "By", "Reason"), latest, prose=("Reason",)
    )


def _scope(kept: KeptSwitch) -> object:
    return kept.key if isinstance(kept, UnreadableSwitch) else kept.switch.scope


def _switches(store: MongoStore) -> Switches:
    return Switches(store=store, clock=SystemClock(), fences=store, learner=NobodyLearns())


def _command(kind: Kind, body: Mapping[str, object]) -> tuple[Command, object]:
    now = SystemClock().now()
    command = Command(command_id=f"ctl-{uuid.uuid4()}", kind=kind, body=body, published_at=now, received_at=now)
    return command, read_request(command)


def _refused(options: argparse.Namespace, console: Console, why: object) -> int:
    words = why.words if isinstance(why, Refused) else str(why)
    if options.json:
        print_json({"refused": words})
    else:
        console.print(f"{options.word.upper()} refused: {plain(words)}", markup=False)
    return EXIT_FAILED
