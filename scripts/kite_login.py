"""Turns a person's login at Zerodha into the day's access token and writes it where the service reads it. It cannot
log in by itself."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from execution_service.app.own_python import use_own_python

    use_own_python()

import requests
from kiteconnect import KiteConnect
from kiteconnect.exceptions import KiteException

from execution_service.app.settings.accounts import Account
from execution_service.app.settings.loading import Settings
from scripts.locate import settings_or_exit

CALL_SECONDS = 15
EXIT_FAILED, EXIT_ARGUMENTS = 1, 2


class CannotLogIn(Exception):
    """The message says what is missing and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if the token was written, 1 if Zerodha gave none, 2 for wrong arguments or settings."""
    parser = argparse.ArgumentParser(description="Writes the day's access token of a Zerodha account to its file.")
    parser.add_argument("--account", help="the account's id; not needed where there is only one at Zerodha")
    parser.add_argument(
        "--request-token",
        help="the request token, or the whole address that the browser was led to (default: asked for)",
    )
    options = parser.parse_args(arguments)
    try:
        account = _account(settings_or_exit(), options.account)
        path, secret = _file_and_secret(account.config)
    except CannotLogIn as exc:
        print(str(exc), file=sys.stderr)
        return EXIT_ARGUMENTS
    root = account.config.get("root_url")
    kite = KiteConnect(str(account.config["api_key"]), root=None if root is None else str(root), timeout=CALL_SECONDS)
    answer = options.request_token
    if answer is None:
        print(
            f"Log in at {kite.login_url()}\nThe browser ends at an address with request_token=… in it.", file=sys.stderr
        )
        answer = input("That address, or the request token: ")
    try:
        session = kite.generate_session(_request_token(answer), api_secret=secret)
    except (KiteException, requests.RequestException) as exc:
        print(f"Zerodha gave no session: {exc}", file=sys.stderr)
        return EXIT_FAILED
    _write(path, str(session["access_token"]))
    print(f"The access token of {session['user_id']} is in {path}; a running service notices it by itself.")
    return 0


def _account(settings: Settings, wanted: str | None) -> Account:
    at_zerodha = {name: account for name, account in settings.accounts.items() if account.broker == "zerodha"}
    known = ", ".join(at_zerodha) or "none"
    if wanted is None and len(at_zerodha) == 1:
        return next(iter(at_zerodha.values()))
    if wanted is None:
        raise CannotLogIn(f"Name the account with --account; those at Zerodha: {known}")
    if wanted not in at_zerodha:
        raise CannotLogIn(f"There is no account {wanted!r} at Zerodha; there are: {known}")
    return at_zerodha[wanted]


def _file_and_secret(config: Mapping[str, object]) -> tuple[Path, str]:
    missing = [
        words
        for key, words in (
            ("access_token_file", "access_token_file (or KITE_ACCESS_TOKEN_FILE), the file that the token goes to"),
            ("api_key", "api_key (or KITE_API_KEY)"),
            ("api_secret", "api_secret (or KITE_API_SECRET)"),
        )
        if not config.get(key)
    ]
    if missing:
        raise CannotLogIn(f"The account has no {'; no '.join(missing)}")
    return Path(str(config["access_token_file"])), str(config["api_secret"])


def _request_token(answer: str) -> str:
    """The token from an address that contains one, or the text itself."""
    return parse_qs(urlsplit(answer.strip()).query).get("request_token", [answer.strip()])[0]


def _write(path: Path, token: str) -> None:
    """Atomically, readable by its owner only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(token + "\n", encoding="utf-8")
    os.replace(new, path)


if __name__ == "__main__":
    sys.exit(main())
