"""A key in a store of others, in memory: what it says is set by the test."""

from __future__ import annotations

from execution_service.transport.ports import KeyNotRead


class FakeKey:
    """Says `text`; while `is_away` it cannot be read."""

    name = "quantum:kill in Redis"

    def __init__(self, text: str | None = None) -> None:
        self.text = text
        self.is_away = False

    async def read(self) -> str | None:
        if self.is_away:
            raise KeyNotRead("Redis does not answer (no answer within 1.5 s)")
        return self.text
