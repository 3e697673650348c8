"""Tokens of callers of the HTTP API as they are kept: who holds one and what it allows, never the token itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Role(StrEnum):
    """What a caller may do; each role includes those before it."""

    VIEWER = "viewer"
    """Look."""
    OPERATOR = "operator"
    """Place and cancel orders."""
    ADMIN = "admin"
    """What changes the rules by which is traded."""

    def includes(self, other: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptToken:
    """One token. Of the secret in it only the SHA-256 is kept."""

    token_id: str
    name: str
    """Whose it is, for people."""
    role: Role
    secret_sha256: str
    """Hexadecimal."""
    created_at: datetime
    expires_at: datetime | None = None
    """None: never."""
    revoked_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class TokenStore(Protocol):
    """The tokens. Each call raises StoreUnavailable."""

    async def tokens(self) -> list[KeptToken]:
        """All, revoked and expired ones too, the oldest first."""

    async def insert_token(self, token: KeptToken) -> bool:
        """False if there is one of that id already."""

    async def revoke_token(self, token_id: str, at: datetime) -> bool:
        """False if there is none of that id. One that is revoked already stays as it was."""
