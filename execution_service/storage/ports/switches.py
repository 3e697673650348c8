"""Kill switches as they are kept: one versioned document for each scope, with its history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from execution_service.core.risk.limits import Scope
from execution_service.core.risk.switch_record import SwitchRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableSwitch:
    """A document that stands where a switch is kept and cannot be read. It counts as engaged: what is not known lets no new risk pass."""

    key: Any
    """Under which it is kept, as it is."""
    scope: Scope | None
    """By its key; None: that names none, and it counts for all."""
    version: Any
    """As it is in the document, whatever that is."""
    reason: str
    content: str
    """Of the document, shortened, for people and for the audit."""


KeptSwitch: TypeAlias = SwitchRecord | UnreadableSwitch


class SwitchStore(Protocol):
    """The kill switches."""

    async def switches(self) -> list[KeptSwitch]:
        """All, as they are now. Raises StoreUnavailable."""

    async def put_switch(self, record: SwitchRecord, seen: KeptSwitch | None) -> bool:
        """Puts it in the place of what was seen (None: of nothing); durable when it returns. False, and nothing is written: somebody has changed
        it since. Raises StoreUnavailable: it may have been written."""
