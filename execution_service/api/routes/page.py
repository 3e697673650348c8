"""The operator's page and what only it asks for: its files, and logging in and out. The page has no data in it; it asks the other routes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access, Caller
from execution_service.api.answers import done
from execution_service.api.problems import Problem, reason
from execution_service.api.sessions import SESSION_SECONDS, Sessions, drop_cookie, put_cookie
from execution_service.core.messages.fields import UnreadableMessage, object_of, text_of
from execution_service.storage.ports.tokens import Role

SESSION_PATH = "/api/execution/session"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    tag: str


class PageRoutes:
    """Its files are read once, at the start: what is served is what was started, also while a new version is being installed."""

    def __init__(self, *, access: Access, sessions: Sessions) -> None:
        self._access = access
        self._sessions = sessions
        self._files = _page_files()

    def router(self) -> APIRouter:
        router = APIRouter(include_in_schema=False)
        router.add_api_route("/", self.page)
        router.add_api_route("/page/{name}", self.file)
        router.add_api_route(SESSION_PATH, self.session)
        router.add_api_route(SESSION_PATH, self.log_in, methods=["POST"])
        router.add_api_route(SESSION_PATH, self.log_out, methods=["DELETE"])
        return router

    async def page(self, request: Request) -> Response:
        return self._served(request, "index.html")

    async def file(self, request: Request, name: str) -> Response:
        return self._served(request, name)

    def _served(self, request: Request, name: str) -> Response:
        found = self._files.get(name)
        if found is None:
            raise Problem(404, "unknown-path", "the page has no file of that name")
        headers = {**_HEADERS, "ETag": found.tag}
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=headers)
        return Response(found.content, media_type=found.media_type, headers=headers)

    async def session(self, request: Request) -> Response:
        """Who looks at the page, and what they may do; `role` is null for whoever has to log in."""
        try:
            caller = await self._access.caller(request, Role.VIEWER)
        except Problem as problem:
            if problem.status != 401:
                raise
            return done({"role": None, "name": None, "is_open": False})
        return done(_shown(caller, is_open=not await self._access.has_tokens()))

    async def log_in(self, request: Request) -> Response:
        """The token is presented once; from then on the cookie stands for it, for eight hours at most."""
        holder = await self._access.holder(_token_in(await request.body()))
        response = done(_shown(holder.caller, is_open=False) | {"seconds": SESSION_SECONDS})
        put_cookie(request, response, self._sessions.begun(holder.token_id, holder.token_digest))
        return response

    async def log_out(self, request: Request) -> Response:
        response = done({"role": None, "name": None, "is_open": False})
        drop_cookie(request, response)
        return response


def _shown(caller: Caller, *, is_open: bool) -> dict[str, object]:
    """`is_open`: there are no tokens, and whoever reaches the address may do everything."""
    return {"role": caller.role, "name": None if is_open else caller.name, "is_open": is_open}


def _token_in(body: bytes) -> str:
    """Raises Problem."""
    try:
        token = object_of(text_of(body)).get("token")
    except UnreadableMessage as exc:
        raise Problem(400, "unreadable", str(exc), reasons=[reason("INVALID_REQUEST", str(exc))]) from exc
    if type(token) is not str or not token.strip():  # a number is text here, too
        words = f"token has to be the text of a token, as in {json.dumps({'token': 'exec_…'}, ensure_ascii=False)}"
        raise Problem(400, "invalid-request", words, reasons=[reason("INVALID_REQUEST", words)])
    return token.strip()


def _page_files() -> Mapping[str, _File]:
    found = {}
    for path in files("execution_service.api.page").iterdir():
        kind = _TYPES.get("." + path.name.rpartition(".")[2])
        if kind is not None:
            content = path.read_bytes()
            found[path.name] = _File(content, kind, f'"{sha256(content).hexdigest()[:32]}"')
    return found
