"""`apply_execution_plan`, the name by which programs of spec 003 hand over target positions: to the running service, over its own API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

ADDRESS = "http://127.0.0.1:8002"
"""Where the service listens unless it is told otherwise."""
ANSWER_SECONDS = 30.0


class PlanNotTaken(ValueError):
    """The service has refused the plan, and nothing was placed; `reasons` are all of them, `status` is that of HTTP."""

    def __init__(self, status: int, detail: str, reasons: tuple[str, ...]) -> None:
        self.status, self.reasons = status, reasons
        super().__init__(detail)


def apply_execution_plan(
    target_positions: Mapping[str, Any],
    mode: str,
    *,
    dry_run: bool = False,
    address: str = ADDRESS,
    token: str | None = None,
) -> dict[str, Any]:
    """Has a list of target positions (a message of the topic `target-positions`, docs/planning.md) planned and worked; returns the stored plan.

    `mode`, PRODUCTION or TRAINING, has to be the account's. The same call may be made again: the same decision has one plan. Raises PlanNotTaken;
    OSError where the service does not answer: it may have the plan then, and the call is to be made again.
    """
    body = json.dumps({**target_positions, "mode": mode}, default=_as_text).encode()
    headers = {"Content-Type": "application/json"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    url = f"{address}/api/execution/targets?dry_run={str(dry_run).lower()}"
    try:
        with urlopen(Request(url, body, headers, method="POST"), timeout=ANSWER_SECONDS) as answer:
            told: dict[str, Any] = json.load(answer)
            return told
    except HTTPError as exc:
        problem = json.loads(exc.read() or b"{}")
        reasons = tuple(str(each.get("message")) for each in problem.get("reasons", ()))
        if exc.code >= 500:
            raise OSError(f"the service does not answer: {problem.get('detail', exc.reason)}") from exc
        raise PlanNotTaken(exc.code, str(problem.get("detail", exc.reason)), reasons) from exc


def _as_text(value: object) -> str:
    """Of exact decimals and times."""
    return value.isoformat() if isinstance(value, date) else str(value)
