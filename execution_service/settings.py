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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    SecretStr,
    ValidationError,
    ValidationInfo,
)
from pydantic_settings import BaseSettings, DotEnvSettingsSource

from brokers.factory import BrokerFactory

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent

MOCK = "mock"
IBKR = "ibkr"
ZERODHA = "zerodha"

_CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
_MACHINE_NAME = Path("/sys/class/dmi/id/product_name")
_YEAR_SECONDS = 31_536_000
_SECRET_KEY = re.compile(r"secret|token|password|passphrase|api_?key|private_?key", re.IGNORECASE)
_PAPER_ACCOUNT = re.compile(r"D[UF]\w+", re.IGNORECASE)
_NEAR_MISS_RATIO = 0.85
_NEAR_KEY_RATIO = 0.6
"""Lower, since an account has few keys and one that is none is refused anyhow."""
_OWN_KEYS = frozenset({"name", "broker", "live"})
_SCRIPTS_KEYS = {ZERODHA: frozenset({"api_secret"})}
"""By broker: what no adapter reads, but a script (`scripts/kite_login.py`)."""
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


class IbkrLibrary(StrEnum):
    AUTO = "auto"
    IB_INSYNC = "ib_insync"
    IB_ASYNC = "ib_async"


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


@dataclass(frozen=True, slots=True)
class _Allowed:
    """Says in words what a setting may be, for the sentence about a wrong one."""

    words: str


def _flag(given: object) -> object:
    if isinstance(given, str):
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(given.lower(), given)
    return given


def _upper(given: object) -> object:
    return given.upper() if isinstance(given, str) else given


def _lower(given: object) -> object:
    return given.lower() if isinstance(given, str) else given


def _under_root(path: Path, info: ValidationInfo) -> Path:
    context: Mapping[str, Path] = info.context or {}
    return _rooted(path, context["root"])


def _rooted(path: Path, root: Path) -> Path:
    return root / path.expanduser()


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


def _mongodb_address(secret: SecretStr) -> SecretStr:
    if not re.match(r"mongodb(\+srv)?://.", secret.get_secret_value()):
        raise ValueError("not a MongoDB address")
    before, _, behind = secret.get_secret_value().partition("://")[2].partition("?")
    authority, _, path = before.partition("/")
    if "@" in path or ("@" in behind and "@" not in authority):
        # The driver would take what stands behind the sign for something else than a password, and repeat it in its complaint.
        raise ValueError("a / or ? in the user or password")
    return secret


_WEB_ADDRESS = _Allowed("an address that begins with http:// or https://")
_MONGODB_ADDRESS = _Allowed(
    "an address that begins with mongodb:// or mongodb+srv://, each / ? and @ in its user, password and options written %2F, %3F and %40"
)

Flag = Annotated[bool, BeforeValidator(_flag), _Allowed("true or false")]
Seconds = Annotated[
    float,
    Field(ge=0, le=_YEAR_SECONDS, allow_inf_nan=False),
    _Allowed(f"a number of seconds from 0 to {_YEAR_SECONDS}"),
]
Rate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _Allowed("a number from 0 to 1")]
Port = Annotated[int, Field(ge=0, le=65535), _Allowed("a whole number from 0 to 65535")]
RootedPath = Annotated[Path, AfterValidator(_under_root), _Allowed("a path")]
Host = Annotated[str, Field(pattern=r"^[^\s/@]+$"), _Allowed("a host name or address, without a scheme")]
Name = Annotated[str, Field(pattern=r"^[^\s]+$"), _Allowed("a name without spaces")]
EmulatorHost = Annotated[str, Field(pattern=r"^[^\s/@]+:\d+$")]
WebAddress = Annotated[str, AfterValidator(_web_address)]
SocketAddress = Annotated[str, AfterValidator(_socket_address)]
MongodbAddress = Annotated[SecretStr, AfterValidator(_mongodb_address)]
Amount = Annotated[Decimal, Field(ge=0, allow_inf_nan=False), _Allowed("a decimal number, 0 or more")]


class Environment(BaseModel):
    """The variables, one attribute each: the variable's name in lower case."""

    model_config = ConfigDict(frozen=True, extra="ignore", validate_default=True, hide_input_in_errors=True)

    google_cloud_project: Name = "mathematricks-trader"
    pubsub_emulator_host: Annotated[EmulatorHost | None, _Allowed("host:port, as in 127.0.0.1:8085")] = None
    trading_orders_subscription: Name = "trading-orders-sub"
    order_commands_subscription: Name = "order-commands-sub"
    execution_confirmations_topic: Name = "execution-confirmations"

    mongodb_uri: Annotated[MongodbAddress | None, _MONGODB_ADDRESS] = None
    mongodb_database: Annotated[
        str,
        Field(pattern=r"^[^\s/\\.\"$]{1,63}$"),
        _Allowed('a database name of at most 63 characters without / \\ . " $'),
    ] = "mathematricks_trading"
    lease_seconds: Annotated[float, Field(ge=2, le=60), _Allowed("seconds from 2 to 60")] = 8
    data_dir: RootedPath = Path("data")
    use_mock_broker: Flag = False
    accounts_file: RootedPath = Path("accounts.toml")

    ibkr_host: Host = "127.0.0.1"
    ibkr_port: Port = 4002
    ibkr_client_id: Annotated[int, Field(ge=0, le=2**31 - 1), _Allowed("a whole number, 0 or more")] = 1
    ibkr_library: Annotated[IbkrLibrary, BeforeValidator(_lower), _Allowed("auto, ib_insync or ib_async")] = (
        IbkrLibrary.AUTO
    )

    kite_api_key: SecretStr | None = None
    kite_api_secret: SecretStr | None = None
    kite_access_token: SecretStr | None = None
    kite_access_token_file: RootedPath | None = None
    kite_root_url: Annotated[WebAddress | None, _WEB_ADDRESS] = None
    kite_ticker_url: Annotated[SocketAddress | None, _Allowed("an address that begins with ws:// or wss://")] = None

    order_timeout_seconds: Seconds = 60
    order_timeout_while_held: Flag = False
    max_retry_attempts: Annotated[int, Field(ge=1, le=1000), _Allowed("a whole number from 1 to 1000")] = 3
    publish_ordering_keys: Flag = False
    max_order_age_seconds: Seconds = 300
    reconcile_interval_seconds: Seconds = 60
    exit_position_check: Annotated[
        ExitPositionCheck, BeforeValidator(_lower), _Allowed("when_differs, always or off")
    ] = ExitPositionCheck.WHEN_DIFFERS

    telegram_enabled: Flag = False
    telegram_bot_token: SecretStr | None = None
    telegram_chat_id: Annotated[Name | None, _Allowed("a chat's id or an @channel")] = None
    telegram_api_base_url: Annotated[WebAddress, _WEB_ADDRESS] = "https://api.telegram.org"

    log_dir: RootedPath = Path("logs")
    log_level: Annotated[LogLevel, BeforeValidator(_upper), _Allowed("DEBUG, INFO, WARNING, ERROR or CRITICAL")] = (
        LogLevel.INFO
    )
    log_format: Annotated[LogFormat, BeforeValidator(_lower), _Allowed("text or json")] = LogFormat.TEXT

    mock_fill_delay_seconds: Seconds = 0
    mock_rejection_rate: Rate = 0
    mock_partial_fill_rate: Rate = 0
    mock_slippage_bps: Amount = Decimal(0)
    mock_commission_per_order: Amount = Decimal("1.00")
    mock_seed: Annotated[int | None, _Allowed("a whole number")] = None

    api_host: Host = "127.0.0.1"
    api_port: Port = 8002
    api_token: SecretStr | None = None


SETTING_NAMES = tuple(name.upper() for name in Environment.model_fields)
SECRET_NAMES = (
    "MONGODB_URI",
    "KITE_API_KEY",
    "KITE_API_SECRET",
    "KITE_ACCESS_TOKEN",
    "TELEGRAM_BOT_TOKEN",
    "API_TOKEN",
)
_RE_READ_FILE = "KITE_ACCESS_TOKEN_FILE"
_MOCK_SETTINGS = (
    "fill_delay_seconds",
    "rejection_rate",
    "partial_fill_rate",
    "slippage_bps",
    "commission_per_order",
    "seed",
)


class Settings(Environment):
    """The whole configuration, checked. `root` is the folder that relative paths start from, `warnings` what is odd but not wrong,
    `secret_values` every secret in plain text, for the log to blot out."""

    root: Path
    accounts: Mapping[str, InstanceOf[Account]] = Field(repr=False)
    warnings: tuple[str, ...] = Field(repr=False)
    secret_values: tuple[str, ...] = Field(repr=False)
    has_google_credentials: bool = False
    """Whether Google's client would find credentials: named by the environment, left by gcloud, or given by Google's own machines."""

    def account(self, account_id: str) -> Account | None:
        """The account of that id, None where there is none. On the mock broker every id has an account."""
        configured = self.accounts.get(account_id)
        if configured is None and self.use_mock_broker:
            return _mock_account(account_id, account_id, self, {})
        return configured

    def printable(self) -> dict[str, str]:
        """Every variable and its value for people: secrets only as set or unset, the MongoDB address without its password."""
        shown = {}
        for name in SETTING_NAMES:
            value = getattr(self, name.lower())
            if name == "MONGODB_URI" and value is not None:
                shown[name] = _without_password(value.get_secret_value())
            elif name in SECRET_NAMES:
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

    environment = _validated(given, root, problems)
    problems += _contradictions(environment)
    reading = _AccountReading(environment, given, root, problems)
    accounts = reading.accounts()
    if problems:
        raise ConfigurationError(tuple(dict.fromkeys(problems)))
    return Settings.model_construct(
        **dict(environment),
        root=root,
        accounts=MappingProxyType(accounts),
        warnings=tuple(_near_misses(from_file, reading.references)),
        secret_values=_secret_values(environment, reading.references.values()),
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
    path = _rooted(Path(own.get("ENV_FILE", ".env")), root)
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
    """The secrets that come as NAME_FILE. The access token's file changes daily, so only its path is kept."""
    found = {}
    for name in SECRET_NAMES:
        if name in given and f"{name}_FILE" in given:
            problems.append(f"{name} and {name}_FILE are both set; only one of them is allowed.")
        elif f"{name}_FILE" in given and f"{name}_FILE" != _RE_READ_FILE:
            secret = _secret_from_file(name, given, root, problems)
            if secret is not None:
                found[name] = secret
    return found


def _secret_from_file(name: str, given: Mapping[str, str], root: Path, problems: list[str]) -> str | None:
    path = _rooted(Path(given[f"{name}_FILE"]), root)
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


def _validated(
    given: Mapping[str, str], root: Path, problems: list[str], spoken: Callable[[str], str] = str
) -> Environment:
    """The typed variables; what is wrong goes to `problems`, its default in its place, so that the rest can be checked too.

    `spoken` says how a problem calls a setting, where it did not come from its variable.
    """
    values = {name.lower(): given[name] for name in SETTING_NAMES if name in given}
    wrong: list[str] = []
    try:
        return Environment.model_validate(values, context={"root": root})
    except ValidationError as exc:
        wrong += dict.fromkeys(str(error["loc"][0]) for error in exc.errors(include_input=False, include_url=False))
    for attribute in wrong:
        name = attribute.upper()
        allowed = next(
            item.words for item in Environment.model_fields[attribute].metadata if isinstance(item, _Allowed)
        )
        value = "is not valid" if name in SECRET_NAMES else f"is {values[attribute]!r}"
        problems.append(f"{spoken(name)} {value}; allowed: {allowed}.")
    usable = {name: value for name, value in values.items() if name not in wrong}
    return Environment.model_validate(usable, context={"root": root})


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
    known = {*SETTING_NAMES, *(f"{name}_FILE" for name in SECRET_NAMES)}
    found = []
    for name in from_file:
        if name in known or name in referenced or name.removesuffix("_FILE") in referenced:
            continue
        near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=_NEAR_MISS_RATIO)
        if near:
            found.append(f"{name} in .env is not a setting; was {near[0]} meant?")
    return found


def _secret_values(environment: Environment, referenced: Iterable[str]) -> tuple[str, ...]:
    values = [
        secret.get_secret_value() for name in SECRET_NAMES if (secret := getattr(environment, name.lower())) is not None
    ]
    if environment.mongodb_uri is not None:
        password = _password(environment.mongodb_uri.get_secret_value())
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

    def __init__(self, environment: Environment, given: Mapping[str, str], root: Path, problems: list[str]) -> None:
        self._environment = environment
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
        implied = {}
        for broker, account_id, variables in (
            (IBKR, "IBKR_Main", ("IBKR_HOST", "IBKR_PORT", "IBKR_CLIENT_ID")),
            (ZERODHA, "Zerodha_Main", ("KITE_API_KEY",)),
        ):
            if any(name in self._given for name in variables):
                implied[account_id] = {"broker": broker}
        return dict(implied)

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
        broker = self._broker(where, table.get("broker"))
        name = table.get("name", account_id)
        if not isinstance(name, str) or not name.strip():
            self._problems.append(f"{where}: name must be text.")
            name = account_id
        live = table.get("live", broker != MOCK)
        if not isinstance(live, bool):
            self._problems.append(f"{where}: live must be true or false.")
        elif broker == MOCK and live:
            self._problems.append(f"{where}: live is true, but the mock broker has no live account.")
        if self._environment.use_mock_broker and broker != MOCK:
            return self._served_by_mock(account_id, name, {})
        resolved = self._resolved(where, own)
        if broker is None:
            return None
        if broker == MOCK:
            account = self._served_by_mock(account_id, name, resolved)
        else:
            config = self._shared_keys(broker, own) | resolved | {"broker": broker, "account_id": account_id}
            account = Account(
                account_id=account_id, name=name, broker=broker, live=live is True, config=BrokerConfig(config)
            )
            if isinstance(live, bool):
                self._check_live(where, broker, live, config)
        self._check_keys(where, account, own, own.keys() - resolved.keys())
        return account

    def _broker(self, where: str, given: object) -> str | None:
        supported = BrokerFactory.supported()
        known = ", ".join(supported)
        if not isinstance(given, str):
            self._problems.append(f"{where}: broker is missing; known brokers: {known}.")
            return None
        broker = given.strip().lower()
        if broker in supported:
            return broker
        self._problems.append(f"{where}: broker {given!r} is not known; known brokers: {known}.")
        return None

    def _served_by_mock(self, account_id: str, name: str, own: Mapping[str, object]) -> Account:
        mock = {f"MOCK_{key.upper()}": str(value) for key, value in own.items() if key in _MOCK_SETTINGS}
        typed = _validated(
            mock, self._root, self._problems, lambda setting: f"Account {account_id!r}: {setting[5:].lower()}"
        )
        chosen = {key: getattr(typed, f"mock_{key}") for key in _MOCK_SETTINGS if key in own}
        return _mock_account(account_id, name, self._environment, dict(own) | chosen)

    def _shared_keys(self, broker: str, own: Mapping[str, object]) -> dict[str, object]:
        """What the variables say for accounts that do not say it themselves."""
        env = self._environment
        if broker == IBKR:
            return {
                "host": env.ibkr_host,
                "port": env.ibkr_port,
                "client_id": env.ibkr_client_id,
                "library": env.ibkr_library.value,
            }
        if broker != ZERODHA:
            return {}
        shared: dict[str, object] = {
            "api_key": env.kite_api_key and env.kite_api_key.get_secret_value(),
            "api_secret": env.kite_api_secret and env.kite_api_secret.get_secret_value(),
            "root_url": env.kite_root_url,
            "ticker_url": env.kite_ticker_url,
        }
        if not own.keys() & {"access_token", "access_token_file"}:
            shared["access_token"] = env.kite_access_token and env.kite_access_token.get_secret_value()
            shared["access_token_file"] = env.kite_access_token_file and str(env.kite_access_token_file)
        return {key: value for key, value in shared.items() if value is not None}

    def _resolved(self, where: str, own: Mapping[str, object]) -> dict[str, object]:
        resolved: dict[str, object] = {}
        for key, value in own.items():
            if isinstance(value, dict) and _is_reference(value):
                secret = self._referenced(where, key, value["env"])
                if secret is not None:
                    resolved[key] = secret
            elif isinstance(value, dict):
                resolved[key] = BrokerConfig(self._resolved(f"{where}: {key}", value))
            elif _SECRET_KEY.search(key) and not key.endswith("_file"):
                self._problems.append(f'{where}: {key} must not stand in the file; allowed: {{ env = "NAME" }}.')
            elif (key == "path" or key.endswith("_file")) and isinstance(value, str):
                resolved[key] = str(_rooted(Path(value), self._root))
            else:
                resolved[key] = value
        return resolved

    def _referenced(self, where: str, key: str, name: str) -> str | None:
        value = self._given.get(name)
        if value is None and f"{name}_FILE" in self._given and f"{name}_FILE" != _RE_READ_FILE:
            value = _secret_from_file(name, self._given, self._root, self._problems)
        elif value is None:
            self._problems.append(f"{where}: {key} refers to the variable {name}, which is not set.")
        if value is not None:
            self.references[name] = value
        return value

    def _check_keys(self, where: str, account: Account, own: Mapping[str, object], unresolved: Iterable[str]) -> None:
        """Refuses keys that nobody reads, and values that the adapter would refuse; of those `unresolved` it was said already."""
        configuration = BrokerFactory.configuration_of(account.broker)
        if configuration is None:
            return
        read = (configuration.model_fields.keys() - {"account_id"}) | _SCRIPTS_KEYS.get(account.broker, frozenset())
        for key in own:
            if key not in read:
                near = difflib.get_close_matches(key.lower(), read | _OWN_KEYS, n=1, cutoff=_NEAR_KEY_RATIO)
                meant = f"; was {near[0]} meant?" if near else "."
                self._problems.append(f"{where}: {key} is no key of an account at {account.broker}{meant}")
        wrong = configuration.wrong_in(dict.fromkeys(unresolved, _STAND_IN) | dict(account.config))
        for key, sentence in wrong.items():
            if key not in unresolved:
                # What a variable holds may be a secret: it is not repeated.
                words = sentence.partition(", not ")[0] if _is_reference(own.get(key)) else sentence
                self._problems.append(f"{where}: {words}.")

    def _check_live(self, where: str, broker: str, live: bool, config: Mapping[str, object]) -> None:
        if live and self._environment.mongodb_uri is None:
            self._problems.append(
                f"{where} is live, but MONGODB_URI is not set: live accounts are refused on the embedded store; "
                "set MONGODB_URI, or live = false for a paper account."
            )
        if not live and not _is_harmless(config):
            self._problems.append(
                f"{where}: live is false, but nothing shows that no real money is at stake; allowed: "
                "an ibkr_account that begins with DU or DF, or a host or URL on this machine (loopback)."
            )


def _is_reference(value: object) -> bool:
    return isinstance(value, dict) and set(value) == {"env"} and isinstance(value["env"], str)


def _is_harmless(config: Mapping[str, object]) -> bool:
    named = config.get("ibkr_account")
    if named is not None:
        # A real account's gateway is on loopback too, so the account's own name outweighs the address.
        return isinstance(named, str) and _PAPER_ACCOUNT.fullmatch(named) is not None
    addresses = [str(value) for key, value in config.items() if key == "host" or key.endswith("url")]
    return bool(addresses) and all(_is_loopback(address) for address in addresses)


def _is_loopback(address: str) -> bool:
    try:
        host = (urlsplit(address).hostname or "") if "://" in address else address.strip("[]")
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _mock_account(account_id: str, name: str, environment: Environment, own: Mapping[str, object]) -> Account:
    config: dict[str, object] = {key: getattr(environment, f"mock_{key}") for key in _MOCK_SETTINGS}
    config |= {"path": environment.data_dir / "mock_broker.db"} | dict(own) | {"broker": MOCK, "account_id": account_id}
    return Account(account_id=account_id, name=name, broker=MOCK, live=False, config=BrokerConfig(config))
