"""Everything that the operator decided becomes one frozen `Settings`, or one error that lists all that is wrong; nothing is connected."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import Field, InstanceOf, SecretStr

from brokers.registry import manifests, stand_in
from brokers.variables import (
    BrokerVariables,
)
from execution_service.app.planning_file import load_plan_rules
from execution_service.app.risk_file import load_risk_limits
from execution_service.app.settings.accounts import Account, AccountReading, account_at
from execution_service.app.settings.model import REPOSITORY_ROOT, Environment, secret_names, setting_names
from execution_service.app.settings.problems import ConfigurationError, Problems
from execution_service.app.settings.secrets import secret_values, without_password
from execution_service.app.settings.sources import Sources
from execution_service.core.planning.rules import PlanRules
from execution_service.core.risk.counters import Zones
from execution_service.core.risk.limits import RiskLimits


class Settings(Environment):
    """The whole configuration, checked. `warnings` say what is odd but not wrong, `secret_values` are every secret in plain text, for the log to
    blot out."""

    accounts: Mapping[str, InstanceOf[Account]] = Field(repr=False)
    warnings: tuple[str, ...] = Field(repr=False)
    secret_values: tuple[str, ...] = Field(repr=False)
    brokers: Mapping[str, InstanceOf[BrokerVariables]] = Field(repr=False)
    """Each broker's own variables, by its name."""
    risk_limits: InstanceOf[RiskLimits] = Field(default_factory=RiskLimits, repr=False)
    """As `risk.toml` had them at the start."""
    plan_rules: InstanceOf[PlanRules] = Field(default_factory=PlanRules, repr=False)
    """As `planning.toml` has them."""
    must_have_risk_file: bool = False
    """A setting names it, or it was there at the start: it does not vanish by mistake."""
    has_google_credentials: bool = False
    """Whether Google's client would find credentials: named by the environment, left by gcloud, or given by Google's own machines."""

    def account(self, account_id: str) -> Account | None:
        """The account of that id, None where there is none. On the broker that stands in for all every id has an account."""
        configured = self.accounts.get(account_id)
        if configured is None and self.use_mock_broker:
            return account_at(stand_in(), account_id, account_id, self.brokers, self.data_dir, {}, live=False)
        return configured

    @property
    def takes_targets(self) -> bool:
        """Whether the topics of target positions are read and written: where it is set, and at the local Pub/Sub, which has them."""
        return self.pubsub_targets or (self.pubsub_emulator_host is None and not self.has_google_credentials)

    @property
    def zones(self) -> Zones:
        """Of the accounts' trading days."""
        return Zones({account.account_id: account.zone for account in self.accounts.values()})

    def read_risk_limits(self) -> RiskLimits:
        """As `risk.toml` has them now. Raises ConfigurationError with all that is wrong."""
        return limits_of(self, None if self.use_mock_broker else self.accounts, must_exist=self.must_have_risk_file)

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
                shown[name] = without_password(value.get_secret_value())
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
    problems = Problems()
    sources = Sources(environ, (root or REPOSITORY_ROOT).absolute(), problems)
    from_command_line = {"use_mock_broker": True} if use_mock_broker else {}
    environment = sources.read(Environment, **from_command_line)
    problems.add(*environment.contradictions())
    brokers = {name: sources.read(manifest.variables) for name, manifest in manifests().items()}
    reading = AccountReading(environment, brokers, sources, problems)
    accounts = reading.accounts()
    must_have_risk_file, limits = "RISK_FILE" in sources or environment.risk_file.exists(), RiskLimits()
    try:
        known = None if environment.use_mock_broker else accounts
        limits = limits_of(environment, known, must_exist=must_have_risk_file)
    except ConfigurationError as exc:
        problems.add(*exc.problems)
    plan_rules = PlanRules()
    try:
        known = None if environment.use_mock_broker else accounts
        must_exist = "PLANNING_FILE" in sources
        plan_rules = load_plan_rules(environment.planning_file, accounts=known, must_exist=must_exist)
    except ConfigurationError as exc:
        problems.add(*exc.problems)
    warnings = sources.near_misses(reading.references)
    if environment.events_account not in (None, *accounts) and not environment.use_mock_broker:
        warnings.append(f"EVENTS_ACCOUNT is {environment.events_account}, which is no account: its orders are rejected")
    problems.raise_if_any()
    return Settings.model_construct(
        **dict(environment),
        accounts=MappingProxyType(accounts),
        warnings=tuple(warnings),
        brokers=MappingProxyType(brokers),
        secret_values=secret_values((environment, *brokers.values()), reading.references.values()),
        risk_limits=limits,
        plan_rules=plan_rules,
        must_have_risk_file=must_have_risk_file,
        has_google_credentials=sources.has_google_credentials,
    )


def limits_of(environment: Environment, accounts: Collection[str] | None, *, must_exist: bool) -> RiskLimits:
    """The limits of the file that these settings name, with their symbols. `accounts` and errors as `load_risk_limits`."""
    return load_risk_limits(
        environment.risk_file, accounts=accounts, symbols=environment.symbols, must_exist=must_exist
    )
