"""What every call passes first: the host that it names, whether a page of another site makes it, how large and how slow it is. Which route it
is for is not known here."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from execution_service.api.access import is_loopback
from execution_service.api.problems import Problem

log = structlog.get_logger(__name__)

LARGEST_BODY_BYTES = 64 * 1024
BODY_SECONDS = 10.0
"""How long a caller may take to send the body of a call."""
ANSWER_SECONDS = 30.0
"""How long an answer may take, and the caller to read it; streams of events bound each write instead."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_SAME_SITE = frozenset({"same-origin", "none"})
ADDED_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)


class Protection:
    """Around the whole application, so that nothing of it sees what is refused here."""

    def __init__(self, app: ASGIApp, *, host: str, stream_paths: frozenset[str]) -> None:
        """`host`: the address that is listened at. `stream_paths`: answers there have no end."""
        self._app = app
        self._is_public = not is_loopback(host)
        names = {"localhost", host.lower().strip("[]")}
        if self._is_public:
            names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._names = frozenset(names)
        self._stream_paths = stream_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        has_begun = has_ended = False

        async def note_and_send(message: Message) -> None:
            nonlocal has_begun, has_ended
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                has_ended = True
            if message["type"] == "http.response.start":
                has_begun = True
                message["headers"] = [*message["headers"], *ADDED_HEADERS]
            await send(message)

        try:
            self._check(scope)
            if scope["path"] in self._stream_paths:
                await self._app(scope, receive, note_and_send)
                return
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._app(scope, await _whole(scope, receive), note_and_send)
        except Problem as problem:
            if not has_begun:
                await problem.response()(scope, receive, note_and_send)
        except TimeoutError:
            if has_begun:
                raise  # the connection is cut
            await Problem(504, "timeout", "there was no answer in time").response()(scope, receive, note_and_send)
        except Exception as exc:
            # What failed may have anything in it: the caller is told nothing of it.
            log.error(f"A call of the API failed: {exc}", action="api_call_failed", path=scope["path"], exc_info=exc)
            if has_ended:
                return
            if has_begun:
                raise
            failure = Problem(500, "internal", "the call failed; the log of the service says why")
            await failure.response()(scope, receive, note_and_send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_our_name(host):
            raise Problem(421, "host-not-served", "this address is not served under that host name")
        if scope["method"] in _SAFE:
            return
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        is_foreign = (
            site.strip().lower() not in _SAME_SITE
            if site is not None
            else origin is not None and _place_of(origin) != host.lower()
        )
        if is_foreign:
            raise Problem(403, "cross-site", "a page of another site may not make this call")
        if scope["method"] != "POST":
            return  # a form of another site can make no other, and a browser asks before a page does
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Problem(415, "not-json", "the body has to be JSON: Content-Type: application/json")

    def _is_our_name(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # An address that a page's own name was made to lead to still comes with that name.
        return self._is_public or address.is_loopback


def _place_of(origin: str) -> str | None:
    """Host and port; None: it is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


async def _whole(scope: Scope, receive: Receive) -> Receive:
    """The body, read completely within limits. Raises Problem."""
    if scope["method"] in _SAFE:
        return receive
    too_large = Problem(
        413, "too-large", f"a body may have at most {LARGEST_BODY_BYTES} bytes", headers={"Connection": "close"}
    )
    declared = Headers(scope=scope).get("content-length", "0")
    if not declared.isdecimal() or int(declared[:20]) > LARGEST_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problem(400, "incomplete", "the body did not come to its end")
                body += message.get("body", b"")
                if len(body) > LARGEST_BODY_BYTES:
                    raise too_large
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        words = f"the body did not come within {BODY_SECONDS:g} s"
        raise Problem(408, "too-slow", words, headers={"Connection": "close"}) from None
    is_given = False

    async def give() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return give
