"""The page's session: a signed cookie that stands for a token which a person has presented once; what that token may do is in access.py."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from itsdangerous import BadSignature, TimestampSigner
from starlette.requests import Request
from starlette.responses import Response

from execution_service.runtime.clock import Clock

SESSION_SECONDS = 8 * 3600
"""After that the token has to be presented again, however much the page was used."""
LONGEST_COOKIE = 512
_NAME = "execution_session"


class Sessions:
    """Begins sessions and recognises them.

    The signature covers the digest that is kept of the token: a cookie is void as soon as that token is revoked, has expired or is another one.
    Neither the cookie nor what the store keeps is enough to make one; it takes the key, which only this process has.
    """

    def __init__(self, key: bytes, clock: Clock) -> None:
        """`key`: random, at least 32 bytes."""
        self._key = key
        self._clock = clock

    def begun(self, token_id: str, token_digest: str) -> str:
        """The cookie's text, of a session that begins now."""
        return self._signer(token_digest).sign(token_id).decode()

    def is_valid(self, cookie: str, token_digest: str) -> bool:
        """Whether we have made it for that very token, in the last eight hours."""
        try:
            self._signer(token_digest).unsign(cookie, max_age=SESSION_SECONDS)
        except BadSignature:
            return False
        return True

    def _signer(self, token_digest: str) -> TimestampSigner:
        return _Signer(self._key, token_digest, self._clock)


class _Signer(TimestampSigner):
    """By the service's clock."""

    def __init__(self, key: bytes, token_digest: str, clock: Clock) -> None:
        super().__init__(key, salt=f"page session of {token_digest}", digest_method=hashlib.sha256)
        self._clock = clock

    def get_timestamp(self) -> int:
        return int(self._clock.now().timestamp())

    def timestamp_to_datetime(self, ts: int) -> datetime:
        return datetime.fromtimestamp(ts, UTC)


def token_id_in(cookie: str) -> str | None:
    """Of which token it says to be; nothing of it is proven yet. None: it is none of ours."""
    token_id, _, rest = cookie.partition(".")
    return token_id if token_id and rest.count(".") == 1 and len(cookie) <= LONGEST_COOKIE else None


def cookie_in(request: Request) -> str | None:
    """Empty where the browser has logged out."""
    return request.cookies.get(_name(request))


def put_cookie(request: Request, response: Response, cookie: str) -> None:
    """Scripts cannot read it, and pages of other sites cannot have it sent."""
    _set(request, response, cookie, SESSION_SECONDS)


def drop_cookie(request: Request, response: Response) -> None:
    _set(request, response, "", 0)


def _set(request: Request, response: Response, value: str, seconds: int) -> None:
    response.set_cookie(
        _name(request),
        value,
        max_age=seconds,
        path="/",
        httponly=True,
        samesite="strict",
        # What encrypts is a proxy; the browser says how it has come to it.
        secure=request.headers.get("origin", "").startswith("https://"),
    )


def _name(request: Request) -> str:
    """Browsers send cookies to every port of a host: two services on one machine would take each other's."""
    return f"{_NAME}_{request.url.port or 'default'}"
