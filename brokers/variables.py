"""A broker's environment variables as typed fields, and the types that settings have. The environment itself is read
elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, ClassVar, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasGenerator, BeforeValidator, Field, SecretStr, ValidationInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

YEAR_SECONDS = 31_536_000


@dataclass(frozen=True, slots=True)
class Allowed:
    """The allowed values of a setting in words, for the error message."""

    words: str


def _flag(given: object) -> object:
    if isinstance(given, str):
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(given.lower(), given)
    return given


def upper(given: object) -> object:
    return given.upper() if isinstance(given, str) else given


def lower(given: object) -> object:
    return given.lower() if isinstance(given, str) else given


def rooted(path: Path, root: Path) -> Path:
    return root / path.expanduser()


def _under_root(path: Path, info: ValidationInfo) -> Path:
    return rooted(path, info.data["root"])


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("not a web address")
    return text.rstrip("/")


def _socket_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"ws", "wss"} or not parts.hostname:
        raise ValueError("not a WebSocket address")
    return text


WEB_ADDRESS = Allowed("an address that begins with http:// or https://")
SOCKET_ADDRESS = Allowed("an address that begins with ws:// or wss://")

Flag = Annotated[bool, BeforeValidator(_flag), Allowed("true or false")]
Seconds = Annotated[
    float,
    Field(ge=0, le=YEAR_SECONDS, allow_inf_nan=False),
    Allowed(f"a number of seconds from 0 to {YEAR_SECONDS}"),
]
Rate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), Allowed("a number from 0 to 1")]
Port = Annotated[int, Field(ge=0, le=65535), Allowed("a whole number from 0 to 65535")]
RootedPath = Annotated[Path, AfterValidator(_under_root), Allowed("a path")]
"""Relative ones start from the variables' `root`."""
Host = Annotated[str, Field(pattern=r"^[^\s/@]+$"), Allowed("a host name or address, without a scheme")]
Name = Annotated[str, Field(pattern=r"^[^\s]+$"), Allowed("a name without spaces")]
WebAddress = Annotated[str, AfterValidator(_web_address)]
SocketAddress = Annotated[str, AfterValidator(_socket_address)]
Amount = Annotated[Decimal, Field(ge=0, allow_inf_nan=False), Allowed("a decimal number, 0 or more")]


class Variables(BaseSettings):
    """Environment variables, one field each: the variable's name in lower case. A field of type SecretStr is a secret: it may come from the
    file that `NAME_FILE` names and is shown nowhere; where `NAME_FILE` is a field itself, only the path is kept, for the adapter to read.

    By itself it reads nothing and has its defaults: whoever reads the environment gives it the sources."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        validate_default=True,
        hide_input_in_errors=True,
        alias_generator=AliasGenerator(validation_alias=str.upper),
        populate_by_name=True,
        loc_by_alias=False,
    )

    root: Annotated[Path, Field(validation_alias="root")]
    """The folder that relative paths start from; no variable, it is given by whoever reads them. First, since paths are completed with it."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What it is made with, and nothing else."""
        return (init_settings,)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The variables, in their sequence."""
        return tuple(name.upper() for name in cls.model_fields if name != "root")

    @classmethod
    def secret_names(cls) -> tuple[str, ...]:
        """Those of them that hold secrets."""
        return tuple(name for name in cls.names() if _is_secret(cls.model_fields[name.lower()].annotation))


class BrokerVariables(Variables):
    """A broker's own variables: defaults for each of its accounts."""

    prefix: ClassVar[str] = ""
    """`PREFIX_KEY` sets the account key `key`."""

    def account_keys(self, own: Collection[str], data_dir: Path) -> dict[str, object]:
        """The keys, in plain values, of an account whose table has `own`; a key that the table has too is overruled by the table."""
        names = [name.lower() for name in self.names()]
        keys = {name.removeprefix(self.prefix): _plain(getattr(self, name)) for name in names}
        return {key: value for key, value in keys.items() if value is not None}


def _is_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


def _plain(value: object) -> object:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value)
    return value.value if isinstance(value, Enum) else value
