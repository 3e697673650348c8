"""Which values are secret, so that no log shows them, and addresses without their password."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

from brokers.variables import (
    Variables,
)


def secret_values(models: Iterable[Variables], referenced: Iterable[str]) -> tuple[str, ...]:
    """Every secret in plain text, for the log to blot out; `referenced` are those that accounts name by a variable of their own."""
    values = []
    for variables in models:
        for name in type(variables).secret_names():
            secret = getattr(variables, name.lower())
            if secret is not None:
                values.append(secret.get_secret_value())
            if secret is not None and name in ("MONGODB_URI", "REDIS_URL"):
                password = password_in(secret.get_secret_value())
                values += [password, unquote(password)]
    return tuple(value for value in dict.fromkeys([*values, *referenced]) if value)


def password_in(address: str) -> str:
    """Empty where there is none."""
    credentials = address.partition("://")[2].rpartition("@")[0]
    return credentials.partition(":")[2]


def without_password(mongodb_uri: str) -> str:
    """The address for people: without its password, and without its options, among which there may be one."""
    scheme, _, rest = mongodb_uri.partition("://")
    address = rest.partition("?")[0]
    if "@" not in rest:
        return f"{scheme}://{address}"
    credentials, _, hosts = address.rpartition("@")
    # An unescaped "?" in the password would leave a piece of it in `address`.
    return f"{scheme}://{credentials.partition(':')[0]}:***@{hosts}" if credentials else f"{scheme}://***"
