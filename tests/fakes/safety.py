"""A safety service of an outside system, in memory: what it says is set by the test, and what it was asked is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from execution_service.core.risk.safety import NotReached

ARMED: Mapping[str, Any] = {"state": "ARMED", "can_execute": True, "trip_time": None, "trip_reason": None}
TRIPPED: Mapping[str, Any] = {"state": "TRIPPED", "can_execute": False, "trip_reason": "daily drawdown"}


class FakeSafetyService:
    """Answers at once with `said` and `said_policies`; while `is_away` not at all."""

    def __init__(
        self, said: Mapping[str, Any] | bytes = ARMED, policies: Mapping[str, Any] | bytes | None = None
    ) -> None:
        self.said: Mapping[str, Any] | bytes = said
        self.said_policies = policies
        self.is_away = False
        self.questions = 0
        """How often its status was asked for."""

    async def status(self) -> bytes:
        self.questions += 1
        if self.is_away:
            raise NotReached("connection refused")
        return _bytes(self.said)

    async def policies(self) -> bytes | None:
        if self.is_away:
            raise NotReached("connection refused")
        return None if self.said_policies is None else _bytes(self.said_policies)


def _bytes(said: Mapping[str, Any] | bytes) -> bytes:
    return said if isinstance(said, bytes) else json.dumps(said).encode()
