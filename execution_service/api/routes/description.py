"""The description of the API: OpenAPI as JSON, and as one page without a script or anything from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access
from execution_service.api.answers import answer
from execution_service.storage.ports.tokens import Role

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "pre{overflow:auto;padding:.75rem;border:1px solid #8886}code{font-size:.95em}summary{cursor:pointer;padding:.4rem 0}"
    "h2{margin-top:2rem}dt{font-weight:600}"
)


class DescriptionRoutes:
    """Drawn from the routes themselves, so that it cannot say something else than they do."""

    def __init__(self, *, access: Access) -> None:
        self._access = access

    def router(self) -> APIRouter:
        router = APIRouter(include_in_schema=False)
        router.add_api_route("/openapi.json", self.openapi)
        router.add_api_route("/docs", self.page)
        return router

    async def openapi(self, request: Request) -> Response:
        await self._access.caller(request, Role.VIEWER)
        return answer(request, _description(request))

    async def page(self, request: Request) -> Response:
        await self._access.caller(request, Role.VIEWER)
        text = "".join(_page(_description(request)))
        headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
        return Response(text, media_type="text/html", headers=headers)


def _description(request: Request) -> Mapping[str, Any]:
    app: FastAPI = request.app
    return app.openapi()


def _page(description: Mapping[str, Any]) -> Iterator[str]:
    info = description["info"]
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>'
    yield f"{escape(info['title'])}</title><style>{_STYLE}</style></head><body><main><h1>{escape(info['title'])}</h1>"
    yield f'<p>{escape(info.get("description", ""))}</p><p><a href="openapi.json">openapi.json</a></p>'
    by_tag: dict[str, list[str]] = {}
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation.get("tags", ["Other"])[0], []).append(_operation(path, method, operation))
    for tag, operations in by_tag.items():
        yield f"<h2>{escape(tag)}</h2>" + "".join(operations)
    yield "</main></body></html>"


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    head = f"<code>{method.upper()} {escape(path)}</code> {escape(operation.get('summary', ''))}"
    parts = [f"<p>{escape(operation.get('description', ''))}</p>"]
    parameters = operation.get("parameters", [])
    if parameters:
        rows = "".join(
            f"<dt><code>{escape(each['name'])}</code> ({escape(each['in'])})</dt><dd>{escape(each.get('description', ''))}</dd>"
            for each in parameters
        )
        parts.append(f"<dl>{rows}</dl>")
    parts += [_example("Body", operation.get("requestBody", {}))]
    for status, response in operation.get("responses", {}).items():
        shown = _example(f"Answer {status}", response)
        parts.append(shown or f"<p><code>{escape(str(status))}</code> {escape(response.get('description', ''))}</p>")
    return f"<details><summary>{head}</summary>{''.join(parts)}</details>"


def _example(title: str, described: Mapping[str, Any]) -> str:
    for content in described.get("content", {}).values():
        if "example" in content:
            return f"<p>{escape(title)}</p><pre>{escape(json.dumps(content['example'], indent=2))}</pre>"
    return ""
