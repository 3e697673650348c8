"""The accounts that are configured or at work: at which broker, in which state, and what of each wants a person."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from execution_service.api.access import Access
from execution_service.api.answers import Body, Recent, known_query
from execution_service.api.problems import documented
from execution_service.core.texts.values import plain
from execution_service.storage.ports.leases import Lease, LeaseStore
from execution_service.storage.ports.queries import QueryStore
from execution_service.storage.ports.tokens import Role

ELSEWHERE, NOT_OPEN = "ELSEWHERE", "NOT_OPEN"
"""States of an account that this process does not work: another one has its lease, or nobody."""


class ConfiguredAccount(Protocol):
    """One of the settings."""

    @property
    def name(self) -> str: ...

    @property
    def broker_name(self) -> str: ...

    @property
    def is_live(self) -> bool: ...


class AccountDirectory(Protocol):
    """The accounts of the settings."""

    @property
    def named(self) -> Collection[str]: ...

    def account(self, account_id: str) -> ConfiguredAccount | None:
        """None: it is not configured."""


class AtBrokers(Protocol):
    """The accounts that this process works."""

    def states(self) -> Mapping[str, Mapping[str, str]]: ...

    def calls_left(self) -> Mapping[tuple[str, str, str], float]:
        """By account, kind of call and period in seconds."""


class AccountRoutes:
    """From memory and a few rows of the store; no broker is asked."""

    def __init__(
        self,
        *,
        access: Access,
        directory: AccountDirectory,
        at_brokers: AtBrokers,
        queries: QueryStore,
        leases: LeaseStore,
        recent: Recent,
    ) -> None:
        self._access = access
        self._directory = directory
        self._at_brokers = at_brokers
        self._queries = queries
        self._leases = leases
        self._recent = recent

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/execution", tags=["Accounts"])
        router.add_api_route(
            "/accounts",
            self.accounts,
            summary="The accounts, at which broker, and how each stands there",
            responses={200: _EXAMPLE, **documented(400, 401, 503)},
        )
        return router

    async def accounts(self, request: Request) -> Response:
        """`state` is that of the connection; ELSEWHERE where another process works the account, NOT_OPEN where nobody does."""
        await self._access.caller(request, Role.VIEWER)
        known_query(request)
        return await self._recent.answer(request, self._all())

    async def _all(self) -> Body:
        differences, held, leases = await asyncio.gather(
            self._queries.discrepancies(), self._queries.held_positions(), self._leases.leases()
        )
        states, left = self._at_brokers.states(), self._at_brokers.calls_left()
        open_differences = Counter(each.account_id for each in differences)
        holdings = Counter(entry.key.account_id for entry in held)
        holders = {lease.partition: lease for lease in leases if lease.holder}

        def draw() -> Mapping[str, Any]:
            return {
                "accounts": [
                    self._fields(account_id, states.get(account_id), holders.get(account_id))
                    | {
                        "open_discrepancies": open_differences[account_id],
                        "held_positions": holdings[account_id],
                        "calls_left": _calls_left(account_id, left.items()),
                    }
                    for account_id in sorted({*self._directory.named, *states})
                ]
            }

        return Body(draw)

    def _fields(self, account_id: str, state: Mapping[str, str] | None, lease: Lease | None) -> dict[str, Any]:
        account = self._directory.account(account_id)
        is_here = state is not None
        return {
            "account_id": account_id,
            "name": account_id if account is None else account.name,
            "broker": (state or {}).get("broker") or (None if account is None else account.broker_name),
            "mode": "LIVE" if account is not None and account.is_live else "PAPER",
            "state": state["state"] if state is not None else NOT_OPEN if lease is None else ELSEWHERE,
            "trouble": plain(state["trouble"]) or None if state is not None else None,
            "is_worked_here": is_here,
            "worked_by": None if lease is None else {"host": lease.host, "pid": lease.pid},
        }


def _calls_left(account_id: str, left: Iterable[tuple[tuple[str, str, str], float]]) -> list[Mapping[str, Any]]:
    return [
        {"calls": kind, "period_seconds": float(seconds), "left": round(calls, 1)}
        for (account, kind, seconds), calls in left
        if account == account_id
    ]


_EXAMPLE: dict[str, Any] = {
    "description": "All of them, by their ids",
    "content": {
        "application/json": {
            "example": {
                "accounts": [
                    {
                        "account_id": "main",
                        "name": "Main account",
                        "broker": "MOCK",
                        "mode": "PAPER",
                        "state": "CONNECTED",
                        "trouble": None,
                        "is_worked_here": True,
                        "worked_by": None,
                        "open_discrepancies": 0,
                        "held_positions": 3,
                        "calls_left": [{"calls": "orders", "period_seconds": 1.0, "left": 40.0}],
                    }
                ]
            }
        }
    },
}
