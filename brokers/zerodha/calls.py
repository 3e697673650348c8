"""Calls to Zerodha through its library: the access token, and the meaning of each error. No orders."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from kiteconnect import KiteConnect
from kiteconnect import exceptions as kite_errors

from brokers.blocking_calls import AFTER_TOO_MANY_SECONDS, BlockingCalls, CallKind, ExactSession, never_connected
from brokers.errors import AuthRequired, BrokerError, BrokerUnavailable, OrderRefused, OutcomeUnknown, RateLimited
from brokers.rate import RateLimit, limits
from brokers.zerodha import codes

_T = TypeVar("_T")
_SAME_TOKEN_AGAIN_SECONDS = 30.0
AUTH_REQUIRED = "AUTH_REQUIRED"
CONNECT_SECONDS = 3.05
READ_SECONDS = 7.0
ANSWER_SECONDS = 20.0


RESERVE_PERCENT = 20
ORDER_LIMITS = limits(per_second=8, per_minute=180, per_day=2_800, reserve_percent=RESERVE_PERCENT)
"""For placing and cancelling. A part of each is reserved for exits and first cancels."""
OTHER_LIMITS = limits(per_second=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the account is reached. The token is read from its file, if one is named."""

    api_key: str = field(repr=False)
    access_token: str = field(default="", repr=False)
    access_token_file: Path | None = None
    root_url: str | None = None
    """None: Zerodha's own. Its path, if any, is put before every route."""
    connect_timeout_seconds: float = CONNECT_SECONDS
    read_timeout_seconds: float = READ_SECONDS
    answer_timeout_seconds: float = ANSWER_SECONDS
    """For the whole answer: the read time-out restarts with every byte."""
    order_limits: tuple[RateLimit, ...] = ORDER_LIMITS
    other_limits: tuple[RateLimit, ...] = OTHER_LIMITS


class KiteCalls(BlockingCalls[KiteConnect]):
    """One account's calls to Kite, with the day's access token."""

    def __init__(self, access: Access) -> None:
        super().__init__(
            "Zerodha",
            order_limits=access.order_limits,
            other_limits=access.other_limits,
            answer_timeout_seconds=access.answer_timeout_seconds,
        )
        self._access = access
        self._token = AccessToken(access)

    @property
    def token(self) -> str:
        """The token as last read."""
        return self._token.text

    def _called(self, client: KiteConnect, call: Callable[[KiteConnect], _T]) -> _T:
        token = self._token.current()
        client.set_access_token(token)
        try:
            return call(client)
        except kite_errors.KiteException as exc:
            # Zerodha's texts go into records, messages and alerts: any credential that they repeat is removed.
            exc.args = tuple(_without(str(part), self._access.api_key, token) for part in exc.args)
            if isinstance(exc, kite_errors.TokenException):
                raise self._token.died(token, str(exc)) from exc
            raise

    def _client(self) -> KiteConnect:
        access = self._access
        host, path = _split(access.root_url)
        timeouts = (access.connect_timeout_seconds, access.read_timeout_seconds)
        kite = _PlainKite(access.api_key, root=host, timeout=timeouts)
        kite.reqsession = ExactSession(path)
        return kite

    def _session_of(self, client: KiteConnect) -> ExactSession:
        session: ExactSession = client.reqsession
        return session

    def _translated(self, exc: Exception, kind: CallKind) -> BrokerError:
        """The one place where the library's errors become ours."""
        words = f"Zerodha: {exc or type(exc).__name__}"
        status = exc.code if isinstance(exc, kite_errors.KiteException) else None
        meaning = codes.meaning(status, type(exc).__name__, _text(exc))
        if meaning is codes.Meaning.NOT_TAKEN:
            self._budget_of(kind).pause(AFTER_TOO_MANY_SECONDS)
            words = f"Zerodha takes no more calls now ({_text(exc)})"
            return RateLimited(words, wait_seconds=AFTER_TOO_MANY_SECONDS)
        if never_connected(exc):
            return BrokerUnavailable("Zerodha cannot be reached")
        if kind is CallKind.QUERY:
            return BrokerUnavailable(words if status is None else f"Zerodha: {_text(exc)}")
        if meaning is codes.Meaning.REFUSED:
            return OrderRefused(_text(exc))
        return OutcomeUnknown(words if status is None else f"Zerodha ({status}): {_text(exc)}")


def _without(text: str, *secrets: str) -> str:
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


class AccessToken:
    """The day's token, and whether it was refused. Used from several threads: each step replaces one reference."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._read: tuple[object, str] = (None, access.access_token)
        self._dead: tuple[str, float, str] | None = None

    @property
    def text(self) -> str:
        return self._read[1]

    def current(self) -> str:
        """The token to use. Raises AuthRequired if there is none, or if it was refused recently."""
        token = self._from_file()
        if not token:
            raise self._required("there is no access token")
        dead = self._dead
        if dead is not None and dead[0] == token and time.monotonic() - dead[1] < _SAME_TOKEN_AGAIN_SECONDS:
            raise self._required(f"the access token is dead ({dead[2]})")
        return token

    def died(self, token: str, words: str) -> AuthRequired:
        """Notes that this token was refused, so that it is not used again for a while."""
        self._dead = (token, time.monotonic(), words)
        return self._required(f"the access token is dead ({words})")

    def _from_file(self) -> str:
        path = self._access.access_token_file
        if path is None:
            return self._access.access_token
        try:
            state = path.stat()
            version = (state.st_mtime_ns, state.st_size, state.st_ino)
            if self._read[0] != version:
                self._read = (version, path.read_text().strip())
        except (OSError, ValueError) as exc:
            raise self._required(f"the access token cannot be read from {path} ({exc})") from exc
        return self._read[1]

    def _required(self, why: str) -> AuthRequired:
        path = self._access.access_token_file
        where = "set KITE_ACCESS_TOKEN anew and restart" if path is None else f"write the new token to {path}"
        return AuthRequired(f"{AUTH_REQUIRED}: {why}; log in at Zerodha and {where}")


class _PlainKite(KiteConnect):  # type: ignore[misc]
    """Returns lists as received: the library's own conversion fails for the whole list if one row is malformed."""

    def _format_response(self, data: Any) -> Any:
        return data

    def _parse_instruments(self, data: Any) -> Any:
        return data


def _split(root_url: str | None) -> tuple[str | None, str]:
    """The root without its path (which the library would drop), and the path."""
    if root_url is None:
        return None, ""
    parts = urlsplit(root_url)
    return urlunsplit((parts.scheme, parts.netloc, "/", "", "")), parts.path.rstrip("/")


def _text(exc: Exception) -> str:
    return str(exc.args[0]) if exc.args else type(exc).__name__
