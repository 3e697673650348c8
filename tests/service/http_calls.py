"""Calls of the HTTP API of a world's service, without a socket. No tests here."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from execution_service.api.tokens import new_token
from execution_service.app.http_wiring import ApiSettings, HttpApi
from execution_service.runtime.threads import InPlace
from execution_service.storage.ports.tokens import KeptToken, Role
from tests.fakes import ACCOUNT, World, world_of

BASE = "http://127.0.0.1:8002"
ORDER: dict[str, Any] = {"symbol": "AAPL", "side": "buy", "quantity": 100, "price": 10}
ORDERS, ORDER_PATH = "/api/execution/orders", "/api/execution/order"


def api_of(world: World, *, host: str = "127.0.0.1", token: str | None = None) -> HttpApi:
    """Of the service's present life."""
    return world.service.http_api(ApiSettings(host=host, token=token, threads=InPlace()))


def client_of(api: HttpApi, *, token: str | None = None) -> httpx.AsyncClient:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    transport = httpx.ASGITransport(app=api.application, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=BASE, headers=headers)


@contextlib.asynccontextmanager
async def http_world(
    folder: Path, *, host: str = "127.0.0.1", token: str | None = None, **kwargs: Any
) -> AsyncIterator[tuple[World, httpx.AsyncClient]]:
    """A world, and whoever calls its API without a token."""
    async with world_of(folder, **kwargs) as world, client_of(api_of(world, host=host, token=token)) as client:
        yield world, client


async def make_token(world: World, role: Role, **changes: Any) -> tuple[KeptToken, str]:
    """A token that the store has, and its text."""
    token = new_token()
    fields: dict[str, Any] = {"name": f"a {role}", "role": role, "created_at": world.clock.now()}
    kept = KeptToken(token_id=token.token_id, secret_sha256=token.secret_sha256, **fields | changes)
    assert await world.store_beside().insert_token(kept)
    return kept, token.text


__all__ = ["ACCOUNT", "BASE", "ORDER", "ORDERS", "ORDER_PATH", "api_of", "client_of", "http_world", "make_token"]
