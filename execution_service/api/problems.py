"""Errors as RFC 9457 says: one JSON object with a type, a title, a status, a sentence, and all reasons at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

PROBLEM_JSON = "application/problem+json"


class Problem(Exception):
    """An answer that is an error. `detail` is for people; `reasons` say all that is wrong, one object each."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        reasons: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.reasons = tuple(reasons)
        self.headers = dict(headers or {})
        self.more = more

    def response(self) -> Response:
        body = {
            "type": f"urn:execution-service:problem:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "reasons": list(self.reasons),
            **self.more,
        }
        text = json.dumps(body, ensure_ascii=False, default=str).encode("utf-8", "replace")
        return Response(
            text, self.status, media_type=PROBLEM_JSON, headers={"Cache-Control": "no-store"} | self.headers
        )


def reason(code: str, message: str, **more: Any) -> dict[str, Any]:
    """One reason: a code of a closed list, and a sentence."""
    return {"code": code, "message": message, **more}


PROBLEM_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "reasons"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:execution-service:problem:invalid-order"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reasons": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These errors for the description of a route."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
