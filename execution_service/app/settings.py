"""What the operator decided: environment, `.env` and accounts file become one frozen, typed `Settings`; nothing is connected or created here.

The only module that reads the environment.
"""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import logging
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, SecretStr, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource

from brokers.configuration import Complaint, complaints
from brokers.factory import BrokerFactory
from brokers.manifest import Manifest
from brokers.registry import manifests, stand_in
from brokers.variables import (
    WEB_ADDRESS,
    Allowed,
    BrokerVariables,
    Flag,
    Host,
    Name,
    Port,
    RootedPath,
    Seconds,
    Variables,
    WebAddress,
    lower,
    rooted,
    upper,
)

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent.parent

_V = TypeVar("_V", bound=Variables)
_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
_MACHINE_NAME = Path("/sys/class/dmi/id/product_name")
_SECRET_KEY = re.compile(r"secret|token|password|passphrase|api_?key|private_?key", re.IGNORECASE)
_NEAR_MISS_RATIO = 0.85
_NEAR_KEY_RATIO = 0.6
"""Lower, since an account has few keys and one that is none is refused anyhow."""
_OWN_KEYS = frozenset({"name", "broker", "live"})
_STAND_IN = "(not known)"


class ConfigurationError(Exception):
    """The settings cannot be used. `problems` names all that is wrong, one sentence each, without the value of any secret."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class LogLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class ExitPositionCheck(StrEnum):
    """When an exit looks at the broker's positions before it leaves."""

    WHEN_DIFFERS = "when_differs"
    ALWAYS = "always"
    OFF = "off"


class BrokerConfig(Mapping[str, object]):
    """What `BrokerFactory.create_broker` gets: plain values, secrets included, none of which its repr shows."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = MappingProxyType(dict(values))

    def __getitem__(self, key: str) -> object:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"BrokerConfig({', '.join(self._values)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account and the broker that serves it. `live`: its orders move real money."""

    account_id: str
    name: str
    broker: str
    live: bool
    config: Mapping[str, object] = field(repr=False)


def _mongodb_address(secret: SecretStr) -> SecretStr:
    if not re.match(r"mongodb(\+srv)?://.", secret.get_secret_value()):
        raise ValueError("not a MongoDB address")
    before, _, behind = secret.get_secret_value().partition("://")[2].partition("?")
    authority, _, path = before.partition("/")
    if "@" in path or ("@" in behind and "@" not in authority):
        # The driver would take what stands behind the sign for something else than a password, and repeat it in its complaint.
        raise ValueError("a / or ? in the user or password")
    return secret


_MONGODB_ADDRESS = Allowed(
    "an address that begins with mongodb:// or mongodb+srv://, each / ? and @ in its user, password and options written %2F, %3F and %40"
)
EmulatorHost = Annotated[str, Field(pattern=r"^[^\s/@]+:\d+$")]
MongodbAddress = Annotated[SecretStr, AfterValidator(_mongodb_address)]


class Environment(Variables):
    """The service's own variables, one attribute each; those of the brokers stand in their manifests."""

    google_cloud_project: Name = "mathematricks-trader"
    pubsub_emulator_host: Annotated[EmulatorHost | None, Allowed("host:port, as in 127.0.0.1:8085")] = None
    trading_orders_subscription: Name = "trading-orders-sub"
    order_commands_subscription: Name = "order-commands-sub"
    execution_confirmations_topic: Name = "execution-confirmations"

    mongodb_uri: Annotated[MongodbAddress | None, _MONGODB_ADDRESS] = None
    mongodb_database: Annotated[
        str,
        Field(pattern=r"^[^\s/\\.\"$]{1,63}$"),
        Allowed('a database name of at most 63 characters without / \\ . " $'),
    ] = "mathematricks_trading"
    lease_seconds: Annotated[float, Field(ge=2, le=60), Allowed("seconds from 2 to 60")] = 8
    data_dir: RootedPath = Path("data")
    use_mock_broker: Flag = False
    accounts_file: RootedPath = Path("accounts.toml")

    order_timeout_seconds: Seconds = 60
    order_timeout_while_held: Flag = False
    max_retry_attempts: Annotated[int, Field(ge=1, le=1000), Allowed("a whole number from 1 to 1000")] = 3
    publish_ordering_keys: Flag = False
    max_order_age_seconds: Seconds = 300
    reconcile_interval_seconds: Seconds = 60
    exit_position_check: Annotated[
        ExitPositionCheck, BeforeValidator(lower), Allowed("when_differs, always or off")
    ] = ExitPositionCheck.WHEN_DIFFERS

    telegram_enabled: Flag = False
    telegram_bot_token: SecretStr | None = None
    telegram_chat_id: Annotated[Name | None, Allowed("a chat's id or an @channel")] = None
    telegram_api_base_url: Annotated[WebAddress, WEB_ADDRESS] = "https://api.telegram.org"

    log_dir: RootedPath = Path("logs")
    log_level: Annotated[LogLevel, BeforeValidator(upper), Allowed("DEBUG, INFO, WARNING, ERROR or CRITICAL")] = (
        LogLevel.INFO
    )
    log_format: Annotated[LogFormat, BeforeValidator(lower), Allowed("text or json")] = LogFormat.TEXT

    api_host: Host = "127.0.0.1"
    api_port: Port = 8002
    api_token: SecretStr | None = None


def setting_names() -> tuple[str, ...]:
    """Every variable that is a setting: the service's own, then those of each broker there is."""
    return tuple(name for model in _models() for name in model.names())


def secret_names() -> tuple[str, ...]:
    """Those of them that hold secrets."""
    return tuple(name for model in _models() for name in model.secret_names())


def _models() -> tuple[type[Variables], ...]:
    return Environment, *(manifest.variables for manifest in manifests().values())


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


def _cause(exc: OSError | UnicodeDecodeError) -> str:
    # The text of a decoding error would quote the bytes of a secret.
    return (exc.strerror or type(exc).__name__) if isinstance(exc, OSError) else "it is not UTF-8 text"


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


def _secret_values(models: Iterable[Variables], referenced: Iterable[str]) -> tuple[str, ...]:
    values = []
    for variables in models:
        for name in type(variables).secret_names():
            secret = getattr(variables, name.lower())
            if secret is not None:
                values.append(secret.get_secret_value())
            if secret is not None and name == "MONGODB_URI":
                password = _password(secret.get_secret_value())
                values += [password, unquote(password)]
    return tuple(value for value in dict.fromkeys([*values, *referenced]) if value)


def _password(mongodb_uri: str) -> str:
    credentials = mongodb_uri.partition("://")[2].rpartition("@")[0]
    return credentials.partition(":")[2]


def _without_password(mongodb_uri: str) -> str:
    scheme, _, rest = mongodb_uri.partition("://")
    address = rest.partition("?")[0]
    if "@" not in rest:
        return f"{scheme}://{address}"
    credentials, _, hosts = address.rpartition("@")
    # An unescaped "?" in the password would leave a piece of it in `address`.
    return f"{scheme}://{credentials.partition(':')[0]}:***@{hosts}" if credentials else f"{scheme}://***"


class _AccountReading:
    """Reads the accounts, adding to `problems`; afterwards `references` has the variables that the file named."""

    def __init__(
        self,
        environment: Environment,
        brokers: Mapping[str, BrokerVariables],
        given: Mapping[str, str],
        root: Path,
        problems: list[str],
    ) -> None:
        self._environment = environment
        self._brokers = brokers
        self._given = given
        self._root = root
        self._problems = problems
        self.references: dict[str, str] = {}

    def accounts(self) -> dict[str, Account]:
        path = self._environment.accounts_file
        if not path.exists():
            if "ACCOUNTS_FILE" in self._given:
                self._problems.append(f"ACCOUNTS_FILE names {path}, which does not exist.")
                return {}
            tables = self._implied_tables()
        else:
            tables = self._tables(path)
        read = (self._account(account_id, table) for account_id, table in tables.items())
        return {account.account_id: account for account in read if account is not None}

    def _implied_tables(self) -> dict[str, object]:
        """Without a file the brokers' own variables stand for one account each."""
        return {
            implied.account_id: {"broker": broker}
            for broker, manifest in manifests().items()
            if (implied := manifest.implied_account) is not None
            and any(name in self._given for name in implied.variables)
        }

    def _tables(self, path: Path) -> dict[str, object]:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
        except tomllib.TOMLDecodeError as exc:
            self._problems.append(f"{path} is not valid TOML: {exc}.")
            return {}
        except (OSError, UnicodeDecodeError) as exc:
            self._problems.append(f"{path} cannot be read: {_cause(exc)}.")
            return {}
        self._problems += [
            f"{path}: {key} is not known; allowed: tables called [accounts.ID]."
            for key in document
            if key != "accounts"
        ]
        tables = document.get("accounts", {})
        if not isinstance(tables, dict):
            self._problems.append(f"{path}: accounts must be a table, as in [accounts.my_account].")
            return {}
        return tables

    def _account(self, account_id: str, table: object) -> Account | None:
        where = f"Account {account_id!r}"
        if not account_id or account_id != account_id.strip() or not account_id.isprintable():
            self._problems.append(f"{where}: the id must be printable text without spaces at its ends.")
            return None
        if not isinstance(table, dict):
            self._problems.append(f"{where} must be a table, as in [accounts.{account_id}].")
            return None
        own = {key: value for key, value in table.items() if key not in _OWN_KEYS}
        manifest = self._manifest(where, table.get("broker"))
        name = table.get("name", account_id)
        if not isinstance(name, str) or not name.strip():
            self._problems.append(f"{where}: name must be text.")
            name = account_id
        is_practice = manifest is not None and manifest.is_stand_in
        live = table.get("live", not is_practice)
        if not isinstance(live, bool):
            self._problems.append(f"{where}: live must be true or false.")
        elif manifest is not None and is_practice and live:
            self._problems.append(f"{where}: live is true, but {manifest.title} has no live account.")
        if self._environment.use_mock_broker and not is_practice:
            return self._account_at(stand_in(), account_id, name, {}, live=False)
        resolved = self._resolved(where, own, manifest)
        if manifest is None:
            return None
        account = self._account_at(manifest, account_id, name, resolved, live=live is True, own=own)
        if not is_practice and isinstance(live, bool):
            self._check_live(where, manifest, live, account.config)
        self._check_keys(where, manifest, account, own, own.keys() - resolved.keys())
        return account

    def _manifest(self, where: str, given: object) -> Manifest | None:
        known = ", ".join(manifests())
        if not isinstance(given, str):
            self._problems.append(f"{where}: broker is missing; known brokers: {known}.")
            return None
        manifest = manifests().get(given.strip().lower())
        if manifest is None:
            self._problems.append(f"{where}: broker {given!r} is not known; known brokers: {known}.")
        return manifest

    def _account_at(
        self,
        manifest: Manifest,
        account_id: str,
        name: str,
        resolved: Mapping[str, object],
        *,
        live: bool,
        own: Collection[str] = (),
    ) -> Account:
        data_dir = self._environment.data_dir
        return _account_at(manifest, account_id, name, self._brokers, data_dir, resolved, live=live, own=own)

    def _resolved(self, where: str, own: Mapping[str, object], manifest: Manifest | None) -> dict[str, object]:
        secret_keys = frozenset() if manifest is None else manifest.secret_keys
        resolved: dict[str, object] = {}
        for key, value in own.items():
            if isinstance(value, dict) and _is_reference(value):
                secret = self._referenced(where, key, value["env"])
                if secret is not None:
                    resolved[key] = secret
            elif isinstance(value, dict):
                resolved[key] = BrokerConfig(self._resolved(f"{where}: {key}", value, manifest))
            elif key in secret_keys or (_SECRET_KEY.search(key) and not key.endswith("_file")):
                self._problems.append(f'{where}: {key} must not stand in the file; allowed: {{ env = "NAME" }}.')
            elif (key == "path" or key.endswith("_file")) and isinstance(value, str):
                resolved[key] = str(rooted(Path(value), self._root))
            else:
                resolved[key] = value
        return resolved

    def _referenced(self, where: str, key: str, name: str) -> str | None:
        value = self._given.get(name)
        if value is None and f"{name}_FILE" in self._given and f"{name}_FILE" not in setting_names():
            value = _secret_from_file(name, self._given, self._root, self._problems)
        elif value is None:
            self._problems.append(f"{where}: {key} refers to the variable {name}, which is not set.")
        if value is not None:
            self.references[name] = value
        return value

    def _check_keys(
        self, where: str, manifest: Manifest, account: Account, own: Mapping[str, object], unresolved: Iterable[str]
    ) -> None:
        """Refuses keys that nobody reads, and values that the adapter would refuse; of those `unresolved` it was said already."""
        configuration = BrokerFactory.configuration_of(account.broker)
        if configuration is None:
            return
        read = (configuration.model_fields.keys() - {"account_id"}) | manifest.command_keys
        for key in own:
            if key not in read:
                near = difflib.get_close_matches(key.lower(), read | _OWN_KEYS, n=1, cutoff=_NEAR_KEY_RATIO)
                meant = f"; was {near[0]} meant?" if near else "."
                self._problems.append(f"{where}: {key} is no key of an account at {account.broker}{meant}")
        wrong = configuration.wrong_in(dict.fromkeys(unresolved, _STAND_IN) | dict(account.config))
        for key, complaint in wrong.items():
            if key not in unresolved:
                # What a variable holds may be a secret: it is not repeated.
                is_shown = not _is_reference(own.get(key))
                self._problems.append(
                    f"{where}: {complaint.sentence if is_shown else complaint.sentence_without_value}."
                )

    def _check_live(self, where: str, manifest: Manifest, live: bool, config: Mapping[str, object]) -> None:
        if live and self._environment.mongodb_uri is None:
            self._problems.append(
                f"{where} is live, but MONGODB_URI is not set: live accounts are refused on the embedded store; "
                "set MONGODB_URI, or live = false for a paper account."
            )
        if not live and not _is_harmless(manifest, config):
            paper = f"{manifest.paper_hint}, or " if manifest.paper_hint else ""
            self._problems.append(
                f"{where}: live is false, but nothing shows that no real money is at stake; allowed: "
                f"{paper}a host or URL on this machine (loopback)."
            )


def _is_reference(value: object) -> bool:
    return isinstance(value, dict) and set(value) == {"env"} and isinstance(value["env"], str)


def _is_harmless(manifest: Manifest, config: Mapping[str, object]) -> bool:
    is_paper = manifest.is_paper(config)
    if is_paper is not None:
        return is_paper
    addresses = [str(value) for key, value in config.items() if key == "host" or key.endswith("url")]
    return bool(addresses) and all(_is_loopback(address) for address in addresses)


def _is_loopback(address: str) -> bool:
    try:
        host = (urlsplit(address).hostname or "") if "://" in address else address.strip("[]")
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _account_at(
    manifest: Manifest,
    account_id: str,
    name: str,
    brokers: Mapping[str, BrokerVariables],
    data_dir: Path,
    resolved: Mapping[str, object],
    *,
    live: bool,
    own: Collection[str] = (),
) -> Account:
    """`resolved`: what the account's table says, `own`: the keys in it, with those that could not be resolved."""
    config = brokers[manifest.name].account_keys(own, data_dir) | dict(resolved)
    config |= {"broker": manifest.name, "account_id": account_id}
    return Account(account_id=account_id, name=name, broker=manifest.name, live=live, config=BrokerConfig(config))
