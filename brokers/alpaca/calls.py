"""Calls to Alpaca through its library's REST client: raw answers, one sending each, and the meaning of each error. No
orders."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import requests
from alpaca.common.exceptions import APIError
from alpaca.common.rest import RESTClient

from brokers.alpaca.codes import Meaning, Refusal
from brokers.blocking_calls import AFTER_TOO_MANY_SECONDS, BlockingCalls, ExactSession, never_connected
from brokers.call_kinds import ASKING, CallKind
from brokers.errors import (
    AuthRequired,
    BrokerError,
    BrokerUnavailable,
    OrderAlreadyExists,
    OrderRefused,
    OutcomeUnknown,
    RateLimited,
)
from brokers.rate import RateLimit

_T = TypeVar("_T")
_LONGEST_PAUSE_SECONDS = 65.0
"""The limit is one of a minute; a reset further away is a clock that differs."""
_FEW_CALLS_LEFT = 8
"""With so few left in Alpaca's own count, queries wait for the next minute: they are left for exits and cancels."""
CONNECT_SECONDS = 3.05
READ_SECONDS = 7.0
ANSWER_SECONDS = 20.0


class Redirected(Exception):
    """An answer that only says where else to ask: nothing is known."""


class NotAnOrder(Exception):
    """A successful answer that does not say what it was asked to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the account is reached."""

    api_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    base_url: str
    connect_timeout_seconds: float = CONNECT_SECONDS
    read_timeout_seconds: float = READ_SECONDS
    answer_timeout_seconds: float = ANSWER_SECONDS
    order_limits: tuple[RateLimit, ...]
    other_limits: tuple[RateLimit, ...]

    def without_secrets(self, text: str) -> str:
        """Alpaca's texts go into records, messages and alerts: any credential that they repeat is removed."""
        for secret in (self.secret_key, self.api_key):
            text = text.replace(secret, "***") if secret else text
        return text


class RawClient:
    """The library's REST client for one call at a time: no retries of its own, time-outs, numbers as exact decimals,
    no proxies from the environment, and the status of each answer."""

    def __init__(self, access: Access, on_answer: Callable[[requests.Response], None]) -> None:
        self._rest = RESTClient(access.base_url, access.api_key, access.secret_key, raw_data=True)
        # The library sends again after 429 and 504 by itself, orders too; an argument of 0 would not change that.
        self._rest._retry = 0
        self.session = ExactSession(timeouts_seconds=(access.connect_timeout_seconds, access.read_timeout_seconds))
        self.session.trust_env = False
        self.session.hooks["response"].append(self._received)
        self._rest._session = self.session
        self._on_answer = on_answer
        self._status = 0

    def get(self, path: str, query: Mapping[str, object] | None = None, *, version: str = "v2") -> Any:
        """Raises APIError, Redirected, and the errors of `requests`."""
        return self._checked(self._rest.get(path, dict(query or {}), api_version=version))

    def get_or_none(self, path: str, query: Mapping[str, object] | None = None) -> Any:
        """As `get`. None only if Alpaca itself says that it does not exist."""
        try:
            return self.get(path, query)
        except APIError as exc:
            if refusal_of(exc).is_absence:
                return None
            raise

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        """Raises as `get`."""
        return self._checked(self._rest.post(path, dict(body)))

    def delete(self, path: str) -> None:
        """Raises as `get`."""
        self._checked(self._rest.delete(path))

    def _checked(self, answer: Any) -> Any:
        if self._status // 100 == 3:
            raise Redirected(f"HTTP {self._status}")
        return answer

    def _received(self, response: requests.Response, **_: object) -> None:
        # Otherwise the library guesses the encoding of every answer from its bytes.
        response.encoding = "utf-8"
        self._status = response.status_code
        self._on_answer(response)


class AlpacaCalls(BlockingCalls[RawClient]):
    """One account's calls."""

    def __init__(self, access: Access) -> None:
        super().__init__(
            "Alpaca",
            order_limits=access.order_limits,
            other_limits=access.other_limits,
            answer_timeout_seconds=access.answer_timeout_seconds,
        )
        self._access = access

    def _client(self) -> RawClient:
        return RawClient(self._access, self._count)

    def _session_of(self, client: RawClient) -> ExactSession:
        return client.session

    def _called(self, client: RawClient, call: Callable[[RawClient], _T]) -> _T:
        return call(client)

    def _count(self, response: requests.Response) -> None:
        """Keeps the last calls of the minute for orders, by Alpaca's own count of all this account's programs."""
        left = _whole(response.headers.get("X-RateLimit-Remaining"))
        if left is not None and left <= _FEW_CALLS_LEFT:
            self._other_budget.pause(seconds_to_reset(response))

    def _translated(self, exc: Exception, kind: CallKind) -> BrokerError:
        if isinstance(exc, APIError):
            return self._refused(exc, kind)
        if never_connected(exc):
            return BrokerUnavailable("Alpaca cannot be reached")
        words = self._access.without_secrets(f"Alpaca: {exc or type(exc).__name__}")
        return BrokerUnavailable(words) if kind in ASKING else OutcomeUnknown(words)

    def _refused(self, exc: APIError, kind: CallKind) -> BrokerError:
        refusal = refusal_of(exc)
        words = self._access.without_secrets(refusal.words)
        match refusal.meaning:
            case Meaning.NOT_TAKEN:
                seconds = seconds_to_reset(exc.response)
                for budget in (self._order_budget, self._other_budget):
                    budget.pause(seconds)
                return RateLimited(f"Alpaca takes no more calls now ({words})", wait_seconds=seconds)
            case Meaning.KEYS:
                return AuthRequired(f"Alpaca does not accept the keys ({words})")
        if kind in ASKING:
            return BrokerUnavailable(f"Alpaca ({refusal.status}): {words}")
        match refusal.meaning:
            case Meaning.EXISTS:
                return OrderAlreadyExists(words)
            case Meaning.REFUSED:
                return Declined(words, refusal)
        return OutcomeUnknown(f"Alpaca ({refusal.status}): {words}")


class Declined(OrderRefused):
    """Refused by Alpaca, with its whole answer."""

    def __init__(self, words: str, refusal: Refusal) -> None:
        super().__init__(words)
        self.refusal = refusal


def refusal_of(exc: APIError) -> Refusal:
    # `exc.code` and `exc.message` raise for bodies that are no JSON or have no code.
    return Refusal.of(int(exc.status_code or 0), str(exc.args[0]) if exc.args else "")


def seconds_to_reset(response: requests.Response | None) -> float:
    """Until Alpaca counts anew."""
    reset = None if response is None else _whole(response.headers.get("X-RateLimit-Reset"))
    if reset is None:
        return AFTER_TOO_MANY_SECONDS
    return min(max(reset - time.time(), AFTER_TOO_MANY_SECONDS), _LONGEST_PAUSE_SECONDS)


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 12 else None
