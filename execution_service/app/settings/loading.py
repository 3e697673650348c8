"""Everything that the operator decided becomes one frozen `Settings`, or one error that lists all that is wrong; nothing is connected."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import Field, InstanceOf, SecretStr

from brokers.registry import manifests, stand_in
from brokers.variables import (
    BrokerVariables,
)
from execution_service.app.settings.accounts import Account, _account_at, _AccountReading
from execution_service.app.settings.model import REPOSITORY_ROOT, Environment, secret_names, setting_names
from execution_service.app.settings.problems import ConfigurationError
from execution_service.app.settings.secrets import _secret_values, _without_password
from execution_service.app.settings.sources import (
    _CREDENTIALS,
    _env_file,
    _has_google_credentials,
    _near_misses,
    _non_empty,
    _read_dotenv,
    _secrets_from_files,
    _validated,
)


class Settings(Environment):
    """The whole configuration, checked. `root` is the folder that relative paths start from, `warnings` what is odd but not wrong,
    `secret_values` every secret in plain text, for the log to blot out."""

    root: Path
    accounts: Mapping[str, InstanceOf[Account]] = Field(repr=False)
    warnings: tuple[str, ...] = Field(repr=False)
    secret_values: tuple[str, ...] = Field(repr=False)
    brokers: Mapping[str, InstanceOf[BrokerVariables]] = Field(repr=False)
    """Each broker's own variables, by its name."""
    has_google_credentials: bool = False
    """Whether Google's client would find credentials: named by the environment, left by gcloud, or given by Google's own machines."""

    def account(self, account_id: str) -> Account | None:
        """The account of that id, None where there is none. On the broker that stands in for all every id has an account."""
        configured = self.accounts.get(account_id)
        if configured is None and self.use_mock_broker:
            return _account_at(stand_in(), account_id, account_id, self.brokers, self.data_dir, {}, live=False)
        return configured

    def value(self, name: str) -> object:
        """A variable's, by its name, whosever it is. Raises KeyError for what is no setting."""
        attribute = name.lower()
        for variables in (self, *self.brokers.values()):
            if attribute in type(variables).model_fields:
                return getattr(variables, attribute)
        raise KeyError(name)

    def printable(self) -> dict[str, str]:
        """Every variable and its value for people: secrets only as set or unset, the MongoDB address without its password."""
        shown = {}
        secrets = secret_names()
        for name in setting_names():
            value = self.value(name)
            if name == "MONGODB_URI" and isinstance(value, SecretStr):
                shown[name] = _without_password(value.get_secret_value())
            elif name in secrets:
                shown[name] = "(unset)" if value is None else "(set)"
            elif value is None:
                shown[name] = "(unset)"
            elif isinstance(value, bool):
                shown[name] = str(value).lower()
            elif isinstance(value, float):
                shown[name] = f"{value:.15g}"
            else:
                shown[name] = str(value)
        return shown


def load_settings(
    environ: Mapping[str, str] | None = None, *, use_mock_broker: bool = False, root: Path | None = None
) -> Settings:
    """The settings of this process: `environ` (default: the process's own) before `root`'s `.env`, or the file that its ENV_FILE names,
    before the defaults.

    `use_mock_broker` comes from the command line and outranks the variable. Raises ConfigurationError with every problem at once.
    """
    root = (root or REPOSITORY_ROOT).absolute()
    problems: list[str] = []
    own = _non_empty(os.environ if environ is None else environ)
    from_file = _read_dotenv(_env_file(own, root, problems), problems)
    given = from_file | own
    if _CREDENTIALS in from_file and _CREDENTIALS not in own:
        problems.append(
            f"{_CREDENTIALS} stands in .env, where Google's client does not look: set it in the environment"
        )
    given |= _secrets_from_files(given, root, problems)
    if use_mock_broker:
        given["USE_MOCK_BROKER"] = "true"

    environment = _validated(Environment, given, root, problems)
    brokers = {name: _validated(manifest.variables, given, root, problems) for name, manifest in manifests().items()}
    problems += _contradictions(environment)
    reading = _AccountReading(environment, brokers, given, root, problems)
    accounts = reading.accounts()
    if problems:
        raise ConfigurationError(tuple(dict.fromkeys(problems)))
    return Settings.model_construct(
        **dict(environment),
        root=root,
        accounts=MappingProxyType(accounts),
        warnings=tuple(_near_misses(from_file, reading.references)),
        brokers=MappingProxyType(brokers),
        secret_values=_secret_values((environment, *brokers.values()), reading.references.values()),
        has_google_credentials=_has_google_credentials(given),
    )


def _contradictions(environment: Environment) -> list[str]:
    found = []
    if environment.telegram_enabled:
        if environment.telegram_bot_token is None:
            found.append(
                "TELEGRAM_ENABLED is true but TELEGRAM_BOT_TOKEN is not set; set it (or TELEGRAM_BOT_TOKEN_FILE)."
            )
        if environment.telegram_chat_id is None:
            found.append(
                "TELEGRAM_ENABLED is true but TELEGRAM_CHAT_ID is not set; set it to a chat's id or an @channel."
            )
    return found
