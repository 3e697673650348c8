"""Where settings come from: the environment, `.env`, and files with secrets. The only module that reads them."""

from __future__ import annotations

import contextlib
import difflib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource

from brokers.configuration import Complaint, complaints
from brokers.variables import (
    Variables,
    rooted,
)
from execution_service.app.settings.model import secret_names, setting_names
from execution_service.app.settings.problems import _cause

_V = TypeVar("_V", bound=Variables)
_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
_MACHINE_NAME = Path("/sys/class/dmi/id/product_name")
_NEAR_MISS_RATIO = 0.85


def _has_google_credentials(given: Mapping[str, str]) -> bool:
    if _CREDENTIALS in given or "K_SERVICE" in given:
        return True
    gcloud = Path(given.get("CLOUDSDK_CONFIG") or Path(given.get("HOME", "~")).expanduser() / ".config" / "gcloud")
    if (gcloud / "application_default_credentials.json").exists():
        return True
    try:
        product = _MACHINE_NAME.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return False
    return product in ("Google", "Google Compute Engine")


def _non_empty(variables: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value.strip() for name, value in variables.items() if value is not None and value.strip()}


def _env_file(own: Mapping[str, str], root: Path, problems: list[str]) -> Path:
    path = rooted(Path(own.get("ENV_FILE", ".env")), root)
    if "ENV_FILE" in own and not path.exists():
        problems.append(f"ENV_FILE names {path}, which does not exist.")
    return path


def _read_dotenv(path: Path, problems: list[str]) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        with _heard("dotenv.main") as complaints:
            source = DotEnvSettingsSource(BaseSettings, env_file=path, env_file_encoding="utf-8", case_sensitive=True)
    except (OSError, UnicodeDecodeError) as exc:
        problems.append(f"{path} cannot be read: {_cause(exc)}.")
        return {}
    problems += [f"{path}: {complaint}." for complaint in complaints]
    return _non_empty(source.env_vars)


@contextlib.contextmanager
def _heard(name: str) -> Iterator[list[str]]:
    """What a library logs under that name meanwhile, which goes nowhere else."""
    said: list[str] = []

    def hear(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    logger = logging.getLogger(name)
    logger.addFilter(hear)
    try:
        yield said
    finally:
        logger.removeFilter(hear)


def _secrets_from_files(given: Mapping[str, str], root: Path, problems: list[str]) -> dict[str, str]:
    """The secrets that come as NAME_FILE; not where that is a setting itself: then the file may change, and only its path is kept."""
    found = {}
    settings = setting_names()
    for name in secret_names():
        if name in given and f"{name}_FILE" in given:
            problems.append(f"{name} and {name}_FILE are both set; only one of them is allowed.")
        elif f"{name}_FILE" in given and f"{name}_FILE" not in settings:
            secret = _secret_from_file(name, given, root, problems)
            if secret is not None:
                found[name] = secret
    return found


def _secret_from_file(name: str, given: Mapping[str, str], root: Path, problems: list[str]) -> str | None:
    path = rooted(Path(given[f"{name}_FILE"]), root)
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        problems.append(f"{name}_FILE names {path}, which cannot be read: {_cause(exc)}.")
        return None
    if not secret:
        problems.append(f"{name}_FILE names {path}, which is empty.")
        return None
    return secret


def _validated(model: type[_V], given: Mapping[str, str], root: Path, problems: list[str]) -> _V:
    """The typed variables; what is wrong goes to `problems`, its default in its place, so that the rest can be checked too."""
    values = {name.lower(): given[name] for name in model.names() if name in given}
    wrong: list[Complaint] = []
    try:
        return model.model_validate(values, context={"root": root})
    except ValidationError as exc:
        wrong += complaints(model, exc)
    for each in wrong:
        name = each.key.upper()
        value = "is not valid" if name in model.secret_names() else f"is {values[each.key]!r}"
        problems.append(f"{name} {value}; allowed: {each.allowed}.")
    usable = {name: value for name, value in values.items() if name not in {each.key for each in wrong}}
    return model.model_validate(usable, context={"root": root})


def _near_misses(from_file: Mapping[str, str], referenced: Mapping[str, str]) -> list[str]:
    known = {*setting_names(), *(f"{name}_FILE" for name in secret_names())}
    found = []
    for name in from_file:
        if name in known or name in referenced or name.removesuffix("_FILE") in referenced:
            continue
        near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=_NEAR_MISS_RATIO)
        if near:
            found.append(f"{name} in .env is not a setting; was {near[0]} meant?")
    return found
