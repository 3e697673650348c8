"""Where commands come in: as messages, or stored by somebody else; stored first, then carried out. What each does is its verb's matter."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from execution_service.control.background import Background
from execution_service.control.remembered_cancels import RememberedCancels
from execution_service.control.requests import MESSAGE, Kind, arm_body, cancel_body, kill_body, stance_body
from execution_service.control.results import Done, Refused, Result
from execution_service.control.runner import CommandRunner
from execution_service.core.messages.inbound import (
    ArmCommand,
    CancelCommand,
    KillCommand,
    RefusedCommand,
    StanceCommand,
    Unusable,
    parse_command,
)
from execution_service.intake.intake import Receiver
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part
from execution_service.runtime.wake_up import WakeUp
from execution_service.storage.ports.commands import Command, CommandStatus
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.store import Store
from execution_service.transport.inbox import Inbox
from execution_service.transport.ports import Message

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0


class Commands:
    """A command is durable before it is carried out, and has an id that makes a repetition the same command: so each is carried out once, however
    it was called and however often."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        runner: CommandRunner,
        cancels: RememberedCancels,
        background: Background,
        wake: WakeUp,
        alerts: RaisesAlerts,
    ) -> None:
        """`wake` is used by whoever knows of a stored command that should not wait for the next poll."""
        self.runner = runner
        self.cancels = cancels
        self._store = store
        self._clock = clock
        self._background = background
        self._wake = wake
        self._alerts = alerts

    def parts(self, inbox: Inbox) -> Sequence[Part]:
        """What runs for as long as the process."""
        return Part("commands in", lambda: self.run(inbox)), Part("commands left in the store", self._poll)

    async def run(self, inbox: Inbox) -> None:
        """Until cancelled."""
        receiver = Receiver(what="Commands", taker=self, store=self._store, clock=self._clock, alerts=self._alerts)
        await receiver.run(inbox)

    async def start(self) -> None:
        """Takes up what an earlier life left. Raises StoreUnavailable; may then be called again."""
        await self.cancels.recall()
        await self.runner.run_stored()

    async def end(self) -> None:
        """Ends what is being carried out; a command that is not done is left to the next life."""
        await self._background.end()

    async def take(self, messages: Sequence[Message]) -> None:
        """Stores and carries out what came as messages, then acknowledges. Raises StoreUnavailable: what was not acknowledged comes again."""
        for message in messages:
            await self.give(self._command(message))
            message.ack()

    async def run_targets(self, inbox: Inbox) -> None:
        """Lists of target positions, until cancelled."""
        taker = _Targets(self, self._clock)
        receiver = Receiver(what="Targets", taker=taker, store=self._store, clock=self._clock, alerts=self._alerts)
        await receiver.run(inbox)

    async def give(self, command: Command) -> Result | None:
        """For whoever calls a verb: stores the command and has it carried out, unless it was refused at the door. Returns what came of it, or None
        where that takes its time: then it is to be looked for in the store. The same command may be given again: what is stored counts, with its
        time and with what came of it. Raises StoreUnavailable: it may have been stored, and is carried out then."""
        if not await self._store.insert_command(command):
            command = await self._store.command(command.command_id) or command
        if command.status is CommandStatus.NEW:
            # Also if it was stored before: it may have been stored by a life that ended before it was carried out.
            return await self.runner.run(command)
        if command.status is CommandStatus.DONE:
            return Done(command.outcome)
        kind = command.kind or "(unreadable)"
        log.warning(f"Command {kind} refused: {command.outcome}", action="command_refused")
        return Refused(command.outcome)

    async def was_given(self, command_id: str) -> bool:
        """Whether there is a command of that id. Raises StoreUnavailable."""
        return await self._store.command(command_id) is not None

    async def _poll(self) -> None:
        """What others stored, each second, or as soon as somebody knows of one."""
        while True:
            await self._wake.wait(POLL_SECONDS)
            try:
                await self.runner.run_stored()
            except StoreUnavailable as exc:
                log.debug(f"Commands wait for the store: {exc}", action="commands_waiting")

    def _command(self, message: Message) -> Command:
        body: dict[str, object] = {}
        kind, status, outcome = str(Kind.CANCEL), CommandStatus.NEW, ""
        match parse_command(message.data):
            case CancelCommand() as cancel:
                body = cancel_body(cancel)
            case KillCommand() as kill:
                kind, body = str(Kind.KILL), kill_body(kill)
            case ArmCommand() as arm:
                kind, body = str(Kind.ARM), arm_body(arm)
            case StanceCommand() as stance:
                kind, body = str(Kind.STANCE), stance_body(stance)
            case RefusedCommand(command=named, reason=reason):
                kind, status, outcome = named, CommandStatus.REFUSED, reason
            case Unusable(reason=reason):
                kind, status, outcome = "", CommandStatus.REFUSED, reason
        return Command(
            command_id=f"{MESSAGE}{message.message_id}",
            kind=kind,
            body=body | {"text": message.data[:4096].decode("utf-8", "replace")},
            published_at=message.publish_time,
            received_at=self._clock.now(),
            status=status,
            outcome=outcome,
        )


class _Targets:
    """Each message is a command to plan."""

    def __init__(self, commands: Commands, clock: Clock) -> None:
        self._commands = commands
        self._clock = clock

    async def take(self, messages: Sequence[Message]) -> None:
        """As `Commands.take`."""
        for message in messages:
            await self._commands.give(
                Command(
                    command_id=f"{MESSAGE}targets-{message.message_id}",
                    kind=str(Kind.PLAN),
                    body={"targets": message.data.decode("utf-8", "replace")},
                    published_at=message.publish_time,
                    received_at=self._clock.now(),
                )
            )
            message.ack()
