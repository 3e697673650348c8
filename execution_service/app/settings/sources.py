"""Where settings come from: the environment, `.env`, and files with secrets. The only module that reads them."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource

from brokers.configuration import complaints
from brokers.variables import Variables, rooted
from execution_service.app.settings.model import secret_names, setting_names
from execution_service.app.settings.problems import Problems, cause

V = TypeVar("V", bound=Variables)

_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
_MACHINE_NAME = Path("/sys/class/dmi/id/product_name")
_NEAR_MISS_RATIO = 0.85


class VariableSource(PydanticBaseSettingsSource):
    """Some variables, each the value of the field whose alias is its name."""

    def __init__(self, settings_cls: type[BaseSettings], variables: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._variables = variables

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = str(field.validation_alias or field_name)
        return self._variables.get(name), name, False

    def __call__(self) -> dict[str, Any]:
        found = [self.get_field_value(field, name) for name, field in self.settings_cls.model_fields.items()]
        return {name: value for value, name, _ in found if value is not None}


class Sources:
    """What the operator has set. The environment counts before `.env`, and a variable before the file that its `NAME_FILE` names; one that is
    empty counts as not set."""

    def __init__(self, environ: Mapping[str, str] | None, root: Path, problems: Problems) -> None:
        """`environ`: None for the process's own. `root`: the folder that relative paths start from, and where `.env` is."""
        self.root = root
        self._problems = problems
        self._environment = _non_empty(os.environ if environ is None else environ)
        self._env_file = self._read_env_file()
        self._secret_files: Mapping[str, str] = {}
        self._secret_files = self._read_secret_files()
        if _CREDENTIALS in self._env_file and _CREDENTIALS not in self._environment:
            problems.add(
                f"{_CREDENTIALS} stands in .env, where Google's client does not look: set it in the environment"
            )

    # --- what they say ------------------------------------------------------------------------------------------

    def get(self, name: str) -> str | None:
        """A variable's text, also of one that is no setting; None: it is not set."""
        sources = (self._environment, self._env_file, self._secret_files)
        return next((source[name] for source in sources if name in source), None)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def read(self, model: type[V], **given: object) -> V:
        """The model's variables, typed; those `given` count before all sources. What is wrong is a problem, and has its default here, so that the
        rest can be checked too."""
        try:
            return self._model(model, given, leaving_out=())
        except ValidationError as exc:
            wrong = {each.key.upper(): each.allowed for each in complaints(model, exc)}
        for name, allowed in wrong.items():
            value = "is not valid" if name in model.secret_names() else f"is {self.get(name)!r}"
            self._problems.add(f"{name} {value}; allowed: {allowed}.")
        return self._model(model, given, leaving_out=wrong)

    def _model(self, model: type[V], given: Mapping[str, object], *, leaving_out: Collection[str]) -> V:
        sources = [
            {name: text for name, text in source.items() if name not in leaving_out}
            for source in (self._environment, self._env_file, self._secret_files)
        ]

        class Bound(model):  # type: ignore[valid-type, misc]  # the model with this process's sources
            @classmethod
            def settings_customise_sources(
                cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_: object
            ) -> tuple[PydanticBaseSettingsSource, ...]:
                return (init_settings, *(VariableSource(settings_cls, source) for source in sources))

        return model.model_construct(**dict(Bound(root=self.root, **given)))

    def secret_from_file(self, name: str) -> str | None:
        """A secret from the file that its `NAME_FILE` names; None, and a problem, where there is none."""
        path = rooted(Path(self.get(f"{name}_FILE") or ""), self.root)
        try:
            secret = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            self._problems.add(f"{name}_FILE names {path}, which cannot be read: {cause(exc)}.")
            return None
        if not secret:
            self._problems.add(f"{name}_FILE names {path}, which is empty.")
            return None
        return secret

    def near_misses(self, referenced: Collection[str]) -> list[str]:
        """Names in `.env` that are no setting and nearly one, and that no account refers to."""
        known = {*setting_names(), *(f"{name}_FILE" for name in secret_names())}
        found = []
        for name in self._env_file:
            if name in known or name in referenced or name.removesuffix("_FILE") in referenced:
                continue
            near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=_NEAR_MISS_RATIO)
            if near:
                found.append(f"{name} in .env is not a setting; was {near[0]} meant?")
        return found

    @property
    def has_google_credentials(self) -> bool:
        """Whether Google's client would find credentials: named by the environment, left by gcloud, or given by Google's own machines."""
        if _CREDENTIALS in self or "K_SERVICE" in self:
            return True
        home = Path(self.get("HOME") or "~").expanduser()
        gcloud = Path(self.get("CLOUDSDK_CONFIG") or home / ".config" / "gcloud")
        if (gcloud / "application_default_credentials.json").exists():
            return True
        try:
            product = _MACHINE_NAME.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            return False
        return product in ("Google", "Google Compute Engine")

    # --- reading them -------------------------------------------------------------------------------------------

    def _read_env_file(self) -> Mapping[str, str]:
        """`.env`, or the file that ENV_FILE names."""
        named = self._environment.get("ENV_FILE")
        path = rooted(Path(named or ".env"), self.root)
        if not path.exists():
            if named is not None:
                self._problems.add(f"ENV_FILE names {path}, which does not exist.")
            return {}
        try:
            with _logged_by("dotenv.main") as remarks:
                source = DotEnvSettingsSource(
                    BaseSettings, env_file=path, env_file_encoding="utf-8", case_sensitive=True
                )
        except (OSError, UnicodeDecodeError) as exc:
            self._problems.add(f"{path} cannot be read: {cause(exc)}.")
            return {}
        self._problems.add(*(f"{path}: {remark}." for remark in remarks))
        return _non_empty(source.env_vars)

    def _read_secret_files(self) -> Mapping[str, str]:
        """The secrets that come as NAME_FILE; not where that is a setting itself: then the file may change, and only its path is kept."""
        found = {}
        settings = setting_names()
        for name in secret_names():
            if name in self and f"{name}_FILE" in self:
                self._problems.add(f"{name} and {name}_FILE are both set; only one of them is allowed.")
            elif f"{name}_FILE" in self and f"{name}_FILE" not in settings:
                secret = self.secret_from_file(name)
                if secret is not None:
                    found[name] = secret
        return found


def _non_empty(variables: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value.strip() for name, value in variables.items() if value is not None and value.strip()}


@contextlib.contextmanager
def _logged_by(name: str) -> Iterator[list[str]]:
    """What a library logs under that name meanwhile, which goes nowhere else."""
    messages: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        messages.append(record.getMessage())
        return False

    logger = logging.getLogger(name)
    logger.addFilter(keep)
    try:
        yield messages
    finally:
        logger.removeFilter(keep)
