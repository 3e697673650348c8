"""Who may call what: tokens with roles, and what is allowed while there is no token at all."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from starlette.requests import Request

from execution_service.api.problems import Problem, reason
from execution_service.api.sessions import Sessions, cookie_in, token_id_in
from execution_service.api.tokens import digest, is_same_digest, read_token
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.tokens import KeptToken, Role, TokenStore

log = structlog.get_logger(__name__)

FRESH_SECONDS = 1.0
"""So long what was read of the tokens is believed: a revoked one is refused after that, and after the second for which lists are kept."""
STALE_SECONDS = 60.0
"""While the store is away, those read before are believed so long, so that people can look at what is wrong."""
_NO_DIGEST = digest("")
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="execution-service"'}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as far as that is known."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a token, and what is known of the token."""

    caller: Caller
    token_id: str
    token_digest: str


ENVIRONMENT = "API_TOKEN"
"""The name of the token from the environment; the ids of others have no such letters."""
ANYBODY_HERE = Caller("local", Role.ADMIN)
"""Whoever reaches a loopback address where no token exists."""


class Access:
    """Without any token, everybody who reaches the address may do everything; the address is a loopback one then. Once there is a token, each
    call but those for probes needs one."""

    def __init__(self, *, tokens: TokenStore, clock: Clock, environment_token: str | None, sessions: Sessions) -> None:
        """`environment_token`: API_TOKEN, an admin's; None: it is not set."""
        self._tokens = tokens
        self._sessions = sessions
        self._clock = clock
        self._environment_digest = None if environment_token is None else digest(environment_token)
        self._kept: Sequence[KeptToken] = ()
        self._read_at = float("-inf")

    async def caller(self, request: Request, needed: Role) -> Caller:
        """Raises Problem: nobody who may, or it cannot be told whether they may."""
        presented, cookie = _presented(request), cookie_in(request)
        if presented is not None:
            caller = (await self.holder(presented)).caller
        elif not await self.has_tokens():
            return ANYBODY_HERE
        elif cookie:
            caller = await self._in_session(cookie)
        else:
            raise Problem(401, "token-needed", "this call needs a token: Authorization: Bearer …", headers=_CHALLENGE)
        if not caller.role.includes(needed):
            words = f"a token of the role {caller.role} may not do this; it needs {needed}"
            raise Problem(403, "role-too-low", words, reasons=[reason("ROLE", words)])
        return caller

    async def holder(self, presented: str) -> Holder:
        """Whose token this is. Raises Problem."""
        if self._environment_digest is not None and is_same_digest(self._environment_digest, digest(presented)):
            return Holder(Caller(ENVIRONMENT, Role.ADMIN), ENVIRONMENT, self._environment_digest)
        token = read_token(presented)
        found = _found(await self._known(), None if token is None else token.token_id)
        # Compared also where there is none, so that the time tells nobody which ids exist.
        secret = _NO_DIGEST if token is None else token.secret_sha256
        is_right = is_same_digest(_NO_DIGEST if found is None else found.secret_sha256, secret)
        if found is None or not is_right or not found.is_valid(self._clock.now()):
            raise Problem(401, "token-unknown", "the token is unknown, expired or revoked", headers=_CHALLENGE)
        return Holder(Caller(found.name, found.role), found.token_id, found.secret_sha256)

    async def _in_session(self, cookie: str) -> Caller:
        """Who has logged in on the page, as long as the token that was presented there holds. Raises Problem."""
        holder = await self._named(token_id_in(cookie))
        if holder is None or not self._sessions.is_valid(cookie, holder.token_digest):
            words = "the session has ended, or its token was revoked: log in again"
            raise Problem(401, "session-ended", words, headers=_CHALLENGE)
        return holder.caller

    async def _named(self, token_id: str | None) -> Holder | None:
        """Who holds the token of that id now; None: nobody, or not any more."""
        if token_id == ENVIRONMENT and self._environment_digest is not None:
            return Holder(Caller(ENVIRONMENT, Role.ADMIN), ENVIRONMENT, self._environment_digest)
        found = _found(await self._known(), token_id)
        if found is None or not found.is_valid(self._clock.now()):
            return None
        return Holder(Caller(found.name, found.role), found.token_id, found.secret_sha256)

    async def has_tokens(self) -> bool:
        """Also where all have been revoked or have expired: who once had tokens is not open again for that."""
        return self._environment_digest is not None or bool(await self._known())

    async def _known(self) -> Sequence[KeptToken]:
        """Raises Problem where it is not known which tokens there are."""
        age = self._clock.monotonic() - self._read_at
        if age >= FRESH_SECONDS:
            try:
                self._kept, self._read_at = await self._tokens.tokens(), self._clock.monotonic()
            except StoreUnavailable as exc:
                if age >= STALE_SECONDS:
                    words = "the store does not answer, and so it cannot be told whose token this is"
                    raise Problem(503, "store-unavailable", words, headers={"Retry-After": "5"}) from exc
        return self._kept


def _found(kept: Sequence[KeptToken], token_id: str | None) -> KeptToken | None:
    return next((each for each in kept if token_id is not None and each.token_id == token_id), None)


def _presented(request: Request) -> str | None:
    """The token in the call; empty where the header is none of ours."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def is_loopback(host: str) -> bool:
    """Whether nobody on another machine can reach that address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
