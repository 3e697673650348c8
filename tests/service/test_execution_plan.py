"""The name of spec 003, as a program calls it: against an HTTP server that answers as the service does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from execution_service.execution_plan import PlanNotTaken, apply_execution_plan

PLAN: dict[str, Any] = {
    "decision_id": "d-1",
    "as_of": datetime(2026, 1, 2, tzinfo=UTC),
    "targets": [{"symbol": "AAPL", "quantity": Decimal("1.50")}],
}


class _Answers(BaseHTTPRequestHandler):
    status, answer = 200, {"state": "WORKING"}
    asked: ClassVar[list[tuple[str, dict[str, Any], str | None]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked.append((self.path, body, self.headers.get("Authorization")))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(json.dumps(self.answer).encode())

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def service() -> Iterator[tuple[type[_Answers], str]]:
    class Answers(_Answers):
        asked: ClassVar[list[tuple[str, dict[str, Any], str | None]]] = []

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Answers, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_plan_is_handed_over_with_exact_numbers_and_its_mode(service: tuple[type[_Answers], str]) -> None:
    answers, address = service
    told = apply_execution_plan(PLAN, "PRODUCTION", dry_run=True, address=address, token="secret")
    assert told == {"state": "WORKING"}
    ((path, body, authorization),) = answers.asked
    assert path == "/api/execution/targets?dry_run=true"
    assert (body["mode"], body["as_of"]) == ("PRODUCTION", "2026-01-02T00:00:00+00:00")
    assert body["targets"] == [{"symbol": "AAPL", "quantity": "1.50"}]
    assert authorization == "Bearer secret"


def test_a_refusal_has_every_reason(service: tuple[type[_Answers], str]) -> None:
    answers, address = service
    answers.status, answers.answer = 409, {"detail": "a; b", "reasons": [{"message": "a"}, {"message": "b"}]}  # type: ignore[assignment]
    with pytest.raises(PlanNotTaken) as refused:
        apply_execution_plan(PLAN, "TRAINING", address=address)
    assert (refused.value.status, refused.value.reasons) == (409, ("a", "b"))


def test_a_service_that_cannot_answer_is_no_refusal(service: tuple[type[_Answers], str]) -> None:
    answers, address = service
    answers.status, answers.answer = 503, {"detail": "the store does not answer"}
    with pytest.raises(OSError, match="the store does not answer"):
        apply_execution_plan(PLAN, "PRODUCTION", address=address)
