"""The life of one command: from NEW, through its verb, to what came of it, whoever asked for it; it reads no message and keeps no time."""

from __future__ import annotations

from collections.abc import Set

import structlog

from execution_service.control.background import Background
from execution_service.control.remembered_cancels import RememberedCancels
from execution_service.control.requests import Kind, Request, read_request
from execution_service.control.results import Done, Elsewhere, Refused, Result, Unfinished
from execution_service.control.verbs import Verbs, asks_broker
from execution_service.core.orders.cancel import Cancel
from execution_service.core.planning.stances import HALT
from execution_service.core.planning.targets import Aggressiveness
from execution_service.core.texts.plans import stance_refused
from execution_service.core.texts.service import command_set_aside
from execution_service.core.texts.switches import kill_refused
from execution_service.core.texts.values import plain
from execution_service.runtime.alerts import RaisesAlerts
from execution_service.storage.ports.commands import Command, CommandStatus
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.store import Store

log = structlog.get_logger(__name__)


class CommandRunner:
    """Carries each stored command out until what came of it is stored too. A death in between leaves it NEW, and it is carried out again; the verbs
    do only what has not been done."""

    def __init__(
        self,
        *,
        store: Store,
        verbs: Verbs,
        cancels: RememberedCancels,
        background: Background,
        alerts: RaisesAlerts,
    ) -> None:
        self._store = store
        self._verbs = verbs
        self._cancels = cancels
        self._background = background
        self._alerts = alerts
        self._under_way: set[str] = set()
        self._set_aside: set[str] = set()

    @property
    def set_aside(self) -> Set[str]:
        """The ids of commands that could be neither carried out nor refused, as long as the store has them as NEW."""
        return frozenset(self._set_aside)

    async def run_stored(self) -> None:
        """Carries out what others stored and nobody has carried out: an earlier life of this service, another replica, or a person with
        execctl. Raises StoreUnavailable."""
        commands = await self._store.new_commands()
        self._set_aside &= {command.command_id for command in commands}
        for command in commands:
            await self.run(command)

    async def run(self, command: Command) -> Result | None:
        """What came of it, when that is stored. None for one that asks a broker, as soon as it has begun, for one that is under way already, and
        for one that can be neither carried out nor refused, which stops no other. Raises StoreUnavailable: it stays NEW."""
        command_id = command.command_id
        if command_id in self._set_aside or command_id in self._under_way:
            return None
        request = _read(command)
        self._under_way.add(command_id)
        is_beside = False
        try:
            if not isinstance(request, Refused) and asks_broker(request):
                await self._begin(command, request)
                self._background.begin(self._run_beside(command, request))
                is_beside = True
                return None
            return await self._run(command, request)
        finally:
            if not is_beside:
                self._under_way.discard(command_id)

    async def _begin(self, command: Command, request: Request) -> None:
        """What must not wait for the rest. Raises StoreUnavailable: it stays NEW. Whatever else fails is met again by the rest, and refused."""
        try:
            await self._verbs.at_once(request)
        except StoreUnavailable:
            raise
        except Exception as exc:
            log.error(f"Command failed: {exc}", action="command_failed", command_id=command.command_id, exc_info=exc)

    async def _run_beside(self, command: Command, request: Request) -> None:
        try:
            await self._run(command, request)
        except StoreUnavailable as exc:
            log.warning(f"{command.kind} waits for the store: {exc}", action="commands_waiting")
        finally:
            self._under_way.discard(command.command_id)

    async def _run(self, command: Command, request: Request | Refused) -> Result | None:
        try:
            result = request if isinstance(request, Refused) else await self._result(command, request)
            if isinstance(result, Elsewhere):
                return result
            self._say(command, result)
            if isinstance(result, Refused):
                await self._tell_not_stopped(command, result)
            status = CommandStatus.DONE if isinstance(result, Done) else CommandStatus.REFUSED
            active_until = self._cancels.active_until(request) if isinstance(request, Cancel) else None
            await self._store.finish_command(command.command_id, status, result.words, active_until)
            return result
        except StoreUnavailable:
            raise
        except Exception as exc:
            self._set_aside.add(command.command_id)
            log.error(
                f"Command set aside, it can be neither carried out nor refused: {exc}",
                action="command_set_aside",
                command_id=command.command_id,
                exc_info=exc,
            )
            about = request.words if isinstance(request, Cancel) else ""
            words = command_set_aside(
                kind=command.kind, command_id=command.command_id, about=about, reason=f"{type(exc).__name__}: {exc}"
            )
            await self._alerts.raise_alert("command_set_aside", words)
            return None

    async def _tell_not_stopped(self, command: Command, refused: Refused) -> None:
        """Whoever meant to stop something has to hear that nothing is stopped."""
        stance = str(command.body.get("stance")).strip().upper() if command.kind == Kind.STANCE else None
        if command.kind == Kind.KILL or stance == HALT:
            text = kill_refused(command_id=command.command_id, reason=refused.words)
            await self._alerts.raise_alert("kill_refused", text)
        elif stance == Aggressiveness.EMERGENCY:
            text = stance_refused(command_id=command.command_id, reason=refused.words)
            await self._alerts.raise_alert("stance_refused", text)

    async def _result(self, command: Command, request: Request) -> Result:
        """Whatever fails is refused: no command may stop the others, nor the start of the service, which reads what was left, and one that stayed
        NEW would fail again each second. Raises StoreUnavailable; Unfinished: the next life of the service carries it out again."""
        try:
            return await self._verbs.carry_out(request)
        except (StoreUnavailable, Unfinished):
            raise
        except Exception as exc:
            log.error(f"Command failed: {exc}", action="command_failed", command_id=command.command_id, exc_info=exc)
            return Refused(f"failed: {type(exc).__name__}: {exc}")

    def _say(self, command: Command, result: Done | Refused) -> None:
        if command.kind not in (
            Kind.POSITIONS,
            Kind.KILL,
            Kind.ARM,
        ):  # of switches the audit and an alert tell, and no nonce
            words = plain(result.words)
            log.info(f"Command {command.kind}: {words}", action="command_done", command_id=command.command_id)


def _read(command: Command) -> Request | Refused:
    """Whatever cannot be read is refused: a stored command stops no other, nor the start of the service."""
    try:
        return read_request(command)
    except Exception as exc:
        log.error(
            f"Command cannot be read: {exc}", action="command_unread", command_id=command.command_id, exc_info=exc
        )
        return Refused(f"it cannot be read: {type(exc).__name__}: {exc}")
