"""The text of a token: how one is made, read, and compared with what is kept of it. Who may do what is in access.py."""

from __future__ import annotations

import hmac
import secrets
import zlib
from dataclasses import dataclass, field
from hashlib import sha256

PREFIX = "exec"
ID_BYTES, SECRET_BYTES = 4, 32
LONGEST_TOKEN = 256


@dataclass(frozen=True, slots=True)
class Token:
    """`exec_<id>_<secret>_<checksum>`. The checksum lets scanners of leaked secrets, and us, tell a token from other text."""

    token_id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """What its holder presents. Shown once, and kept nowhere."""
        body = f"{PREFIX}_{self.token_id}_{self.secret}"
        return f"{body}_{_checksum(body)}"

    @property
    def secret_sha256(self) -> str:
        """What is kept. A secret of 256 random bits needs no slow hash."""
        return digest(self.secret)


def new_token() -> Token:
    return Token(secrets.token_hex(ID_BYTES), secrets.token_hex(SECRET_BYTES))


def read_token(text: str) -> Token | None:
    """None: it is no token of ours, or mistyped."""
    parts = text.split("_") if len(text) <= LONGEST_TOKEN else []
    if len(parts) != 4 or parts[0] != PREFIX or not (parts[1] and parts[2]):
        return None
    token = Token(parts[1], parts[2])
    return token if hmac.compare_digest(token.text.encode(), text.encode("utf-8", "replace")) else None


def digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "replace")).hexdigest()


def is_same_digest(one: str, other: str) -> bool:
    """In a time that does not tell how much of them is equal."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode('utf-8', 'replace')):08x}"
