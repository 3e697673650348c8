"""The service's own settings: a variable of the environment each, typed, with its default; the brokers' own are in their manifests."""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from brokers.registry import manifests
from brokers.variables import (
    WEB_ADDRESS,
    Allowed,
    Flag,
    Host,
    Name,
    Port,
    RootedPath,
    Seconds,
    Variables,
    WebAddress,
    lower,
    upper,
)
from execution_service.core.orders.decisions import VerifyDecisions
from execution_service.core.texts.notices import NoticeKind

REPOSITORY_ROOT = Path(__file__).resolve().parents[3]


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


class TriggerEvent(StrEnum):
    """Which event makes trades by itself. One decision appears as both, so that both would double every trade."""

    DECISION = "ai.decision.made"
    INTENT = "trade.intent"


def _redis_address(secret: SecretStr) -> SecretStr:
    if not re.match(r"(rediss?|unix)://.", secret.get_secret_value()):
        raise ValueError("not a Redis address")
    return secret


_REDIS_ADDRESS = Allowed("an address that begins with redis://, rediss:// or unix://")
RedisAddress = Annotated[SecretStr, AfterValidator(_redis_address)]


def _secret_web_address(secret: SecretStr) -> SecretStr:
    parts = urlsplit(secret.get_secret_value())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("not a web address")
    return secret


SecretWebAddress = Annotated[SecretStr, AfterValidator(_secret_web_address)]
"""One whose path is all that its owner has to show."""


class Environment(Variables):
    """The service's own variables, one attribute each; those of the brokers stand in their manifests.

    A new setting is one field here: its name in lower case, its type, in words what is `Allowed`, and its default. SecretStr makes it a secret, with
    a `NAME_FILE` of its own. Then `.env.example` and docs/configuration.md; tests compare both with this class. What must not go with another
    setting is said by `contradictions`."""

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
    position_monitor_interval_sec: Seconds = 10
    position_marks_sec: Seconds = 60
    book_broker_exits: Flag = False
    risk_file: RootedPath = Path("risk.toml")
    planning_file: RootedPath = Path("planning.toml")
    trading_symbols: Annotated[str | None, Allowed("symbols, with commas between them")] = None
    default_symbols: Annotated[str | None, Allowed("symbols, with commas between them")] = None
    """Another name of `trading_symbols`."""
    trade_risk_per_trade: Annotated[
        Decimal | None, Field(gt=0, le=1), Allowed("a part of the equity above 0 and at most 1, as in 0.01")
    ] = None
    risk_limit_percent: Annotated[
        Decimal | None, Field(gt=0, le=100), Allowed("a percentage of the equity above 0 and at most 100, as in 1")
    ] = None
    """Another name of `trade_risk_per_trade`, in per cent."""
    exit_position_check: Annotated[
        ExitPositionCheck, BeforeValidator(lower), Allowed("when_differs, always or off")
    ] = ExitPositionCheck.WHEN_DIFFERS

    verify_decisions: Annotated[VerifyDecisions, BeforeValidator(lower), Allowed("off, warn or refuse")] = (
        VerifyDecisions.OFF
    )

    risk_safety_service_url: Annotated[WebAddress | None, WEB_ADDRESS] = None
    ess_fail_open: Flag = False
    dead_man_seconds: Annotated[
        float | None, Field(ge=5, le=86_400, allow_inf_nan=False), Allowed("seconds from 5 to 86400")
    ] = None
    heartbeat_url: Annotated[SecretWebAddress | None, WEB_ADDRESS] = None
    heartbeat_seconds: Annotated[float, Field(ge=1, le=3600), Allowed("seconds from 1 to 3600")] = 30

    redis_url: Annotated[RedisAddress | None, _REDIS_ADDRESS] = None
    redis_host: Host | None = None
    redis_port: Port = 6379
    redis_kill_key: Name | None = None
    trigger_events: Annotated[
        TriggerEvent, BeforeValidator(lower), Allowed("ai.decision.made or trade.intent, one of the two")
    ] = TriggerEvent.DECISION
    pubsub_events: Flag = False
    pubsub_targets: Flag = False
    events_account: Name | None = None
    max_signal_age_seconds: Seconds = 60
    memory_dir: RootedPath | None = None

    telegram_enabled: Flag = False
    telegram_bot_token: SecretStr | None = None
    telegram_chat_id: Annotated[Name | None, Allowed("a chat's id or an @channel")] = None
    telegram_allowed_users: Annotated[
        str | None,
        Field(pattern=r"^\s*\d{1,16}\s*(,\s*\d{1,16}\s*)*$"),
        Allowed("users' numbers, with commas between them"),
    ] = None
    telegram_notices: Annotated[
        str,
        Field(pattern=r"^\s*(fills|endings|orders|alerts)\s*(,\s*(fills|endings|orders|alerts)\s*)*$"),
        Allowed("some of fills, endings, orders, alerts, with commas between them"),
    ] = ",".join(NoticeKind)
    telegram_api_base_url: Annotated[WebAddress, WEB_ADDRESS] = "https://api.telegram.org"

    log_dir: RootedPath = Path("logs")
    log_level: Annotated[LogLevel, BeforeValidator(upper), Allowed("DEBUG, INFO, WARNING, ERROR or CRITICAL")] = (
        LogLevel.INFO
    )
    log_format: Annotated[LogFormat, BeforeValidator(lower), Allowed("text or json")] = LogFormat.TEXT

    api_host: Host = "127.0.0.1"
    api_port: Port = 8002
    api_token: SecretStr | None = None
    api_own_process: Flag = True
    enable_opentelemetry: Flag = False

    def contradictions(self) -> list[str]:
        """What cannot be used together, of settings that are right by themselves; a sentence each."""
        found = []
        if self.redis_url is not None and self.redis_host is not None:
            found.append("REDIS_URL and REDIS_HOST are both set; set one of them.")
        if self.redis_kill_key is not None and self.redis_url is None and self.redis_host is None:
            found.append(
                "REDIS_KILL_KEY is set but neither REDIS_URL nor REDIS_HOST is; set one of them, or not the key."
            )
        if self.telegram_enabled and self.telegram_bot_token is None:
            found.append(
                "TELEGRAM_ENABLED is true but TELEGRAM_BOT_TOKEN is not set; set it (or TELEGRAM_BOT_TOKEN_FILE)."
            )
        if self.telegram_enabled and self.telegram_chat_id is None:
            found.append(
                "TELEGRAM_ENABLED is true but TELEGRAM_CHAT_ID is not set; set it to a chat's id or an @channel."
            )
        if self.telegram_users and not re.fullmatch(r"-?\d+", self.telegram_chat_id or "0"):
            found.append(
                "TELEGRAM_ALLOWED_USERS is set but TELEGRAM_CHAT_ID is no number; commands are taken in a chat that is named by its number."
            )
        if self.trading_symbols and self.default_symbols and self.trading_symbols != self.default_symbols:
            found.append(
                "TRADING_SYMBOLS and DEFAULT_SYMBOLS are two names of one setting and say different things; set one of them."
            )
        by_part, by_percent = self.trade_risk_per_trade, self.risk_limit_percent
        if by_part is not None and by_percent is not None and by_part * 100 != by_percent:
            found.append(
                "TRADE_RISK_PER_TRADE (a part) and RISK_LIMIT_PERCENT (in per cent) are two names of one setting and say different things;"
                " set one of them."
            )
        return found

    @property
    def risk_per_trade(self) -> Decimal | None:
        """The part of the equity that an order without a quantity may lose until its stop; None: no order is sized."""
        if self.risk_limit_percent is not None:
            return self.risk_limit_percent / 100
        return self.trade_risk_per_trade

    @property
    def telegram_users(self) -> frozenset[int]:
        """Who may command by Telegram; none: nobody."""
        return frozenset(int(number) for number in (self.telegram_allowed_users or "").split(",") if number.strip())

    @property
    def notices(self) -> frozenset[NoticeKind]:
        """What people want to be told by Telegram; of kills they always are."""
        return frozenset(NoticeKind(word.strip()) for word in self.telegram_notices.split(","))

    @property
    def symbols(self) -> tuple[str, ...]:
        """Those that may be traded where `risk.toml` says nothing of that; none: all."""
        named = (self.trading_symbols or self.default_symbols or "").split(",")
        return tuple(symbol.strip().upper() for symbol in named if symbol.strip())


def setting_names() -> tuple[str, ...]:
    """Every variable that is a setting: the service's own, then those of each broker there is."""
    return tuple(name for model in _models() for name in model.names())


def secret_names() -> tuple[str, ...]:
    """Those of them that hold secrets."""
    return tuple(name for model in _models() for name in model.secret_names())


def _models() -> tuple[type[Variables], ...]:
    return Environment, *(manifest.variables for manifest in manifests().values())
