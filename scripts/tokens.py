"""Tokens of callers of the HTTP API, for `execctl token`: made, listed, revoked. A token is shown once, when it is made."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rich.console import Console

from execution_service.api.tokens import new_token
from execution_service.app.clock import SystemClock
from execution_service.storage.ports.tokens import KeptToken, Role, TokenStore
from scripts.display import counted, print_json, print_table

ACTIONS = ("create", "list", "revoke")


def add_options(
    parser: argparse.ArgumentParser, positive: Callable[[str], int], nonblank: Callable[[str], str]
) -> None:
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("token_id", metavar="ID", nargs="?", type=nonblank, help="with revoke: as `list` shows it")
    parser.add_argument("--role", choices=[role.value for role in Role], help="with create: what it allows")
    parser.add_argument("--name", type=nonblank, help="with create: whose it is")
    parser.add_argument("--days", type=positive, help="with create: it expires after so many days (default: never)")


def problem_with(options: argparse.Namespace) -> str | None:
    """What is wrong with the options together."""
    if options.action == "create" and not (options.role and options.name):
        return "token create needs --role and --name"
    if (options.action == "revoke") != (options.token_id is not None):
        return "token revoke needs the ID of a token, and nothing else does"
    if options.action != "create" and (options.role or options.name or options.days):
        return "--role, --name and --days go with token create"
    return None


async def run(store: TokenStore, console: Console, options: argparse.Namespace) -> str | None:
    """Says what was done; returns why it was not. Raises StoreUnavailable."""
    match options.action:
        case "create":
            await _create(store, console, options)
        case "revoke":
            return await _revoke(store, console, options)
        case _:
            await _list(store, console, wants_json=options.json)
    return None


async def _create(store: TokenStore, console: Console, options: argparse.Namespace) -> None:
    now, token = SystemClock().now(), new_token()
    kept = KeptToken(
        token_id=token.token_id,
        name=options.name,
        role=Role(options.role),
        secret_sha256=token.secret_sha256,
        created_at=now,
        expires_at=None if options.days is None else now + timedelta(days=options.days),
    )
    if not await store.insert_token(kept):
        return await _create(store, console, options)  # two of one id, by chance
    if options.json:
        print_json(_fields(kept) | {"token": token.text})
        return None
    print(token.text)
    console.print(f"Token {kept.token_id} for {kept.name} ({kept.role}). It is shown this once, and kept nowhere.")
    return None


async def _revoke(store: TokenStore, console: Console, options: argparse.Namespace) -> str | None:
    if not await store.revoke_token(options.token_id, SystemClock().now()):
        return f"There is no token {options.token_id!r}"
    if options.json:
        print_json({"token_id": options.token_id, "revoked": True})
    else:
        console.print(f"Token {options.token_id} is revoked; a running service refuses it within 2 s")
    return None


async def _list(store: TokenStore, console: Console, *, wants_json: bool) -> None:
    found = await store.tokens()
    if wants_json:
        print_json([_fields(token) for token in found])
        return
    columns = ("ID", "Name", "Role", "Created", "Expires", "Revoked")
    rows = [(t.token_id, t.name, t.role.value, t.created_at, t.expires_at, t.revoked_at) for t in found]
    print_table(console, counted(len(rows), "token"), columns, rows)


def _fields(token: KeptToken) -> dict[str, Any]:
    return {
        "token_id": token.token_id,
        "name": token.name,
        "role": token.role.value,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
    }
