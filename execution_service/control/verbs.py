"""Every verb that may be called, whoever calls it: typed arguments in, a typed result out. A new verb is a type in `requests`, a class in a module of
its own, and a line here."""

from __future__ import annotations

from dataclasses import dataclass

from execution_service.control.adopt import AdoptPositions
from execution_service.control.allow import AllowOrder
from execution_service.control.ask_broker import CompareBooks, ShowPositions
from execution_service.control.cancel import CancelOrders
from execution_service.control.flatten import FlattenPositions
from execution_service.control.kill import ArmTrading, KillTrading
from execution_service.control.plan import PlanPositions
from execution_service.control.replay import ReplayDeadLetter
from execution_service.control.requests import (
    Adoption,
    Allow,
    Arm,
    Comparison,
    Flatten,
    Kill,
    PlanRequest,
    PositionsQuestion,
    Replay,
    Request,
    Resolution,
    StanceRequest,
    UndoneAdoption,
)
from execution_service.control.resolve import ResolveOrder
from execution_service.control.results import Result
from execution_service.control.stances import SetStance
from execution_service.core.orders.cancel import Cancel


@dataclass(frozen=True, slots=True, kw_only=True)
class Verbs:
    """Each is safe to call again for the same request, and by several processes: it does only what has not been done."""

    cancel: CancelOrders
    resolve: ResolveOrder
    replay: ReplayDeadLetter
    compare: CompareBooks
    positions: ShowPositions
    adopt: AdoptPositions
    kill: KillTrading
    arm: ArmTrading
    flatten: FlattenPositions
    allow: AllowOrder
    plan: PlanPositions
    stance: SetStance

    async def carry_out(self, request: Request) -> Result:
        """Raises StoreUnavailable: it may have been done in part, and is to be called again."""
        match request:
            case Cancel():
                return await self.cancel.carry_out(request)
            case Resolution():
                return await self.resolve.carry_out(request)
            case Replay():
                return await self.replay.carry_out(request)
            case Comparison():
                return await self.compare.carry_out(request)
            case PositionsQuestion():
                return await self.positions.carry_out(request)
            case Adoption():
                return await self.adopt.carry_out(request)
            case UndoneAdoption():
                return await self.adopt.undo(request)
            case Kill():
                return await self.kill.carry_out(request)
            case Arm():
                return await self.arm.carry_out(request)
            case Flatten():
                return await self.flatten.carry_out(request)
            case Allow():
                return await self.allow.carry_out(request)
            case PlanRequest():
                return await self.plan.carry_out(request)
            case StanceRequest():
                return await self.stance.carry_out(request)

    async def at_once(self, request: Request) -> None:
        """What of it must be done before anything else is, also where the rest takes its time: a kill switch is engaged. Raises StoreUnavailable."""
        if isinstance(request, Kill):
            await self.kill.engage(request)


def asks_broker(request: Request) -> bool:
    """Whether it takes as long as a broker does to answer: nobody waits for it."""
    waits_for_cancels = isinstance(request, Kill) and request.cancel_entries
    return waits_for_cancels or isinstance(request, Comparison | PositionsQuestion | Adoption | UndoneAdoption)
