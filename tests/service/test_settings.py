"""Settings and accounts: what is accepted, what is refused in which words, and that secrets stay secret."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from brokers.factory import BrokerFactory
from brokers.variables import Allowed, RootedPath
from execution_service.app.settings.loading import Settings, load_settings
from execution_service.app.settings.model import (
    REPOSITORY_ROOT,
    Environment,
    LogFormat,
    LogLevel,
    secret_names,
    setting_names,
)
from execution_service.app.settings.problems import ConfigurationError, Problems
from execution_service.app.settings.sources import Sources
from tests.external.service_process import Service

MONGODB = {"MONGODB_URI": "mongodb://127.0.0.1:27017"}
ON_MOCK = {"USE_MOCK_BROKER": "true"}
TOKEN = {"KITE_ACCESS_TOKEN": "token"}
KITE = {"KITE_API_KEY": "key", **TOKEN}


def load(root: Path, /, **environ: str) -> Settings:
    return load_settings(environ, root=root)


def problems(root: Path, /, **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        load(root, **environ)
    return caught.value.problems


def accounts_file(root: Path, text: str) -> None:
    (root / "accounts.toml").write_text(text, encoding="utf-8")


def test_nothing_configured_gives_the_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.google_cloud_project == "mathematricks-trader"
    assert settings.order_timeout_seconds == 60
    assert settings.mongodb_uri is None
    assert settings.value("MOCK_COMMISSION_PER_ORDER") == Decimal("1.00")
    assert dict(settings.accounts) == {}
    assert settings.warnings == ()


def test_environment_comes_before_the_env_file_and_that_before_the_default(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("API_PORT=1111\nMAX_RETRY_ATTEMPTS=7\n")
    settings = load(tmp_path, API_PORT="2222")
    assert (settings.api_port, settings.max_retry_attempts, settings.value("IBKR_PORT")) == (2222, 7, 4002)


def test_process_environment_is_read_when_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCK_SEED", "42")
    assert load_settings(root=tmp_path).value("MOCK_SEED") == 42


def test_google_credentials_are_seen_where_googles_client_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("execution_service.app.settings.sources._MACHINE_NAME", tmp_path / "no-such-machine")
    assert not load(tmp_path, HOME=str(tmp_path)).has_google_credentials
    assert load(tmp_path, HOME=str(tmp_path), GOOGLE_APPLICATION_CREDENTIALS="key.json").has_google_credentials
    gcloud = tmp_path / ".config" / "gcloud"
    gcloud.mkdir(parents=True)
    (gcloud / "application_default_credentials.json").write_text("{}")
    assert load(tmp_path, HOME=str(tmp_path)).has_google_credentials


def test_google_credentials_named_in_the_env_file_only_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GOOGLE_APPLICATION_CREDENTIALS=key.json\n")
    (problem,) = problems(tmp_path)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in problem
    assert load(tmp_path, GOOGLE_APPLICATION_CREDENTIALS="key.json").has_google_credentials


def test_another_file_may_stand_for_the_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("API_PORT=1111\nMAX_RETRY_ATTEMPTS=7\n")
    (tmp_path / "other.env").write_text("API_PORT=2222\n")
    settings = load(tmp_path, ENV_FILE="other.env")
    assert (settings.api_port, settings.max_retry_attempts) == (2222, 3)
    assert load(tmp_path, ENV_FILE="/dev/null").api_port == 8002
    assert problems(tmp_path, ENV_FILE="absent") == (f"ENV_FILE names {tmp_path / 'absent'}, which does not exist.",)


def test_a_service_that_a_test_starts_does_not_obey_the_repositorys_env_file(tmp_path: Path) -> None:
    """With the store of whoever trades from this folder it would work that store's orders, at the mock broker."""
    (tmp_path / ".env").write_text("MONGODB_URI=mongodb://the-real-one.example\n")
    started = load_settings(Service(tmp_path / "of-the-test").environment(), root=tmp_path)
    assert started.mongodb_uri is None


def test_empty_value_counts_as_unset(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("API_PORT=\nTELEGRAM_CHAT_ID=''\n")
    settings = load(tmp_path, LOG_LEVEL="  ")
    assert (settings.api_port, settings.telegram_chat_id, settings.log_level) == (8002, None, LogLevel.INFO)


def test_relative_paths_start_from_the_root_wherever_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    settings = load(tmp_path, LOG_DIR="elsewhere", KITE_ACCESS_TOKEN_FILE="token")
    assert settings.data_dir == tmp_path / "data"
    assert settings.log_dir == tmp_path / "elsewhere"
    assert settings.value("KITE_ACCESS_TOKEN_FILE") == tmp_path / "token"
    assert load(tmp_path, DATA_DIR="/srv/data").data_dir == Path("/srv/data")
    assert Path(__file__).resolve().parents[2] == REPOSITORY_ROOT


@pytest.mark.parametrize(
    ("text", "meant"),
    [("true", True), ("1", True), ("YES", True), ("false", False), ("0", False), ("no", False)],
)
def test_booleans_have_six_spellings(tmp_path: Path, text: str, meant: bool) -> None:
    assert load(tmp_path, PUBLISH_ORDERING_KEYS=text).publish_ordering_keys is meant


def test_closed_sets_are_read_in_any_case(tmp_path: Path) -> None:
    settings = load(tmp_path, LOG_LEVEL="debug", LOG_FORMAT="JSON")
    assert (settings.log_level, settings.log_format) == (LogLevel.DEBUG, LogFormat.JSON)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ORDER_TIMEOUT_SECONDS", "-1"),
        ("ORDER_TIMEOUT_SECONDS", "inf"),
        ("MAX_ORDER_AGE_SECONDS", "nan"),
        ("MAX_RETRY_ATTEMPTS", "0"),
        ("MAX_RETRY_ATTEMPTS", "2.5"),
        ("LEASE_SECONDS", "1.9"),
        ("LEASE_SECONDS", "61"),
        ("API_PORT", "65536"),
        ("IBKR_PORT", "4oo2"),
        ("IBKR_CLIENT_ID", "-1"),
        ("IBKR_LIBRARY", "ib"),
        ("MOCK_REJECTION_RATE", "1.01"),
        ("MOCK_PARTIAL_FILL_RATE", "-0.1"),
        ("MOCK_COMMISSION_PER_ORDER", "-1"),
        ("MOCK_COMMISSION_PER_ORDER", "NaN"),
        ("MOCK_SLIPPAGE_BPS", "a lot"),
        ("MOCK_SLIPPAGE_BPS", "Infinity"),
        ("MOCK_SEED", "1.5"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("USE_MOCK_BROKER", "perhaps"),
        ("KITE_ROOT_URL", "127.0.0.1:5000"),
        ("KITE_TICKER_URL", "http://127.0.0.1"),
        ("TELEGRAM_API_BASE_URL", "telegram"),
        ("PUBSUB_EMULATOR_HOST", "localhost"),
        ("API_HOST", "http://127.0.0.1"),
        ("MONGODB_DATABASE", "a/b"),
    ],
)
def test_wrong_value_is_told_with_its_name_and_what_is_allowed(tmp_path: Path, name: str, value: str) -> None:
    (told,) = problems(tmp_path, **(ON_MOCK | {name: value}))
    assert told.startswith(f"{name} is {value!r}; allowed: ")


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    accounts_file(tmp_path, '[accounts.a]\nbroker = "nobody"\n')
    told = problems(tmp_path, API_PORT="x", LOG_LEVEL="y", TELEGRAM_ENABLED="true")
    for name in ("API_PORT", "LOG_LEVEL", "TELEGRAM_BOT_TOKEN", "TELEGRAM_CHAT_ID", "'nobody'"):
        assert sum(name in sentence for sentence in told) == 1
    assert len(told) == 5


def test_amounts_are_exact_decimals(tmp_path: Path) -> None:
    assert load(tmp_path, MOCK_COMMISSION_PER_ORDER="0.10").value("MOCK_COMMISSION_PER_ORDER") == Decimal("0.10")


def test_telegram_without_token_or_chat_is_a_problem_only_when_enabled(tmp_path: Path) -> None:
    assert len(problems(tmp_path, TELEGRAM_ENABLED="true")) == 2
    assert (
        load(tmp_path, TELEGRAM_ENABLED="true", TELEGRAM_BOT_TOKEN="1:abc", TELEGRAM_CHAT_ID="-5").telegram_chat_id
        == "-5"
    )
    assert load(tmp_path, TELEGRAM_ENABLED="false").telegram_bot_token is None


@pytest.mark.parametrize("name", sorted(set(secret_names()) - {"KITE_ACCESS_TOKEN"}))
def test_secret_comes_from_a_file_too(tmp_path: Path, name: str) -> None:
    value = {"REDIS_URL": "redis://hidden-value", "HEARTBEAT_URL": "https://hidden-value"}.get(
        name, "mongodb://hidden-value"
    )
    (tmp_path / "secret").write_text(f"  {value}\n")
    secret = load(tmp_path, **ON_MOCK, **{f"{name}_FILE": "secret"}).value(name)
    assert secret.get_secret_value() == value


def test_account_of_events_that_is_none_of_the_accounts_is_odd(tmp_path: Path) -> None:
    accounts_file(tmp_path, '[accounts.paper]\nbroker = "mock"\n')
    assert load(tmp_path, EVENTS_ACCOUNT="paper").warnings == ()
    (told,) = load(tmp_path, EVENTS_ACCOUNT="other").warnings
    assert told == "EVENTS_ACCOUNT is other, which is no account: its orders are rejected"
    assert load(tmp_path, EVENTS_ACCOUNT="other", USE_MOCK_BROKER="true").warnings == ()


def test_one_event_alone_makes_trades(tmp_path: Path) -> None:
    assert load(tmp_path).trigger_events == "ai.decision.made"
    assert load(tmp_path, TRIGGER_EVENTS="Trade.Intent").trigger_events == "trade.intent"
    for wrong in (
        "ai.decision.made,trade.intent",
        "ai.decision.made trade.intent",
        '["trade.intent"]',
        "signal.execute",
    ):
        assert "TRIGGER_EVENTS" in problems(tmp_path, TRIGGER_EVENTS=wrong)[0]


def test_redis_is_named_in_one_way(tmp_path: Path) -> None:
    assert load(tmp_path, REDIS_HOST="redis").redis_port == 6379
    assert len(problems(tmp_path, REDIS_HOST="redis", REDIS_URL="redis://redis")) == 1
    assert len(problems(tmp_path, REDIS_KILL_KEY="quantum:kill")) == 1
    assert load(tmp_path, REDIS_KILL_KEY="quantum:kill", REDIS_HOST="redis").redis_kill_key == "quantum:kill"
    assert len(problems(tmp_path, DEAD_MAN_SECONDS="2", HEARTBEAT_URL="ftp://x")) == 2


def test_secret_file_that_is_missing_empty_or_not_text_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfd")
    told = problems(tmp_path, API_TOKEN_FILE="absent", TELEGRAM_BOT_TOKEN_FILE="empty", KITE_API_SECRET_FILE="binary")
    assert [sentence.split()[0] for sentence in told] == [
        "TELEGRAM_BOT_TOKEN_FILE",
        "API_TOKEN_FILE",
        "KITE_API_SECRET_FILE",
    ]


def test_secret_and_its_file_together_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from the file")
    (told,) = problems(tmp_path, API_TOKEN="from the variable", API_TOKEN_FILE="secret")
    assert "both set" in told
    assert "from the" not in told
    assert "both set" in problems(tmp_path, KITE_ACCESS_TOKEN="abc", KITE_ACCESS_TOKEN_FILE="later")[0]


def test_access_token_file_stays_a_path_and_may_come_later(tmp_path: Path) -> None:
    settings = load(tmp_path, KITE_ACCESS_TOKEN_FILE="later")
    assert settings.value("KITE_ACCESS_TOKEN") is None
    assert settings.value("KITE_ACCESS_TOKEN_FILE") == tmp_path / "later"


def test_no_secret_shows_in_repr_printable_or_problems(tmp_path: Path) -> None:
    secrets = {name: f"s3cret-{number}" for number, name in enumerate(secret_names())}
    secrets["MONGODB_URI"] = "mongodb://trader:s3cret-p%40ss@db.example:27017/x?authSource=admin"
    secrets["REDIS_URL"] = "redis://:s3cret-redis@redis.example/0"
    secrets["HEARTBEAT_URL"] = "https://watch.example/s3cret-path"
    # Two names of one secret each.
    secrets |= {"APCA_API_KEY_ID": secrets["ALPACA_API_KEY"], "APCA_API_SECRET_KEY": secrets["ALPACA_SECRET_KEY"]}
    accounts_file(
        tmp_path,
        '[accounts.z]\nbroker = "zerodha"\napi_key = { env = "OTHER_KEY" }\nuser_id = { env = "USER" }\n',
    )
    settings = load(tmp_path, **secrets, OTHER_KEY="s3cret-other", USER="s3cret-user")
    account = settings.accounts["z"]
    assert account.config["api_key"] == "s3cret-other"
    shown = [
        repr(settings),
        str(settings),
        str(settings.printable()),
        repr(account),
        repr(account.config),
        str(dict(settings.accounts)),
    ]
    assert not [text for text in shown if "s3cret" in text]
    assert settings.printable()["MONGODB_URI"] == "mongodb://trader:***@db.example:27017/x"
    assert settings.printable()["API_TOKEN"] == "(set)"
    assert set(settings.secret_values) >= {
        *secrets.values(),
        "s3cret-other",
        "s3cret-user",
        "s3cret-p%40ss",
        "s3cret-p@ss",
        "s3cret-redis",
    }

    told = problems(tmp_path, MONGODB_URI="s3cret:no-address", OTHER_KEY="s3cret-1", USER="s3cret-2", API_PORT="x")
    assert told[0].startswith("MONGODB_URI is not valid; allowed: ")
    assert "s3cret" not in str(told)


@pytest.mark.parametrize(
    "address",
    [
        "mongodb://me:hid/den@h",
        "mongodb+srv://me:hid/den@h/db",
        "mongodb://me:hid@d/en@h:1/db",
        "mongodb://me:12/den@h",
        "mongodb://me:12?den=x@h",
        "mongodb://me:hid/?den=x@h",
    ],
)
def test_a_password_that_would_be_taken_for_something_else_is_refused_and_not_repeated(
    tmp_path: Path, address: str
) -> None:
    (told,) = problems(tmp_path, MONGODB_URI=address)
    assert told.startswith("MONGODB_URI is not valid; allowed: ")
    assert "%2F" in told
    assert "den" not in told


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("mongodb://h1:1,h2:2/db?replicaSet=r", "mongodb://h1:1,h2:2/db"),
        ("mongodb+srv://me:hid%2Fden@h/db", "mongodb+srv://me:***@h/db"),
        ("mongodb://me:hidden@h/?appName=a@b", "mongodb://me:***@h/"),
        ("mongodb://me:hid@den@h", "mongodb://me:***@h"),
    ],
)
def test_mongodb_address_is_shown_without_its_password_however_badly_written(
    tmp_path: Path, address: str, shown: str
) -> None:
    assert load(tmp_path, MONGODB_URI=address).printable()["MONGODB_URI"] == shown


def test_configuration_error_keeps_no_trace_of_the_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, MONGODB_URI="hidden-value")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_near_miss_in_the_env_file_is_a_warning_and_a_stranger_is_not(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "ORDER_TIMEOUT_SECOND=5\nPATH_TO_ENLIGHTENMENT=1\nKITE_API_SECRET_FILE=s\nlog_level=DEBUG\n"
    )
    (tmp_path / "s").write_text("x")
    warnings = load(tmp_path).warnings
    assert [warning.split()[0] for warning in warnings] == ["ORDER_TIMEOUT_SECOND", "log_level"]
    assert "ORDER_TIMEOUT_SECONDS" in warnings[0]


def test_variable_that_an_account_refers_to_is_no_near_miss(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("KITE_API_KEY_2=abcdef\n")
    accounts_file(tmp_path, '[accounts.z]\nbroker = "zerodha"\napi_key = { env = "KITE_API_KEY_2" }\n')
    assert load(tmp_path, **MONGODB, **TOKEN).warnings == ()


def test_a_line_of_the_env_file_that_says_nothing_is_told_with_the_file_and_the_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".env").write_text("API_PORT=1111\n= hush %%\nAPI_HOST=::1\n")
    (told,) = problems(tmp_path)
    assert told.startswith(f"{tmp_path / '.env'}: ")
    assert told.endswith("line 2.")
    assert caplog.records == []


def test_unreadable_env_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"API_TOKEN=\xff\xfe\n")
    (told,) = problems(tmp_path)
    assert ".env cannot be read" in told


# Accounts


def test_named_accounts_file_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, ACCOUNTS_FILE="mine.toml")
    assert str(tmp_path / "mine.toml") in told
    assert load(tmp_path).accounts == {}


def test_toml_error_is_told_with_its_line(tmp_path: Path) -> None:
    accounts_file(tmp_path, '[accounts.a]\nbroker = "mock\n')
    (told,) = problems(tmp_path)
    assert "line 2" in told


def test_mock_account_gets_the_mock_settings_and_its_own_before_them(tmp_path: Path) -> None:
    accounts_file(
        tmp_path,
        '[accounts.m]\nname = "Mine"\nbroker = "Mock"\ncommission_per_order = 0.10\nrejection_rate = 1\nseed = 3\n',
    )
    settings = load(tmp_path, MOCK_SLIPPAGE_BPS="2.5", MOCK_SEED="9")
    account = settings.account("m")
    assert account is not None
    assert (account.account_id, account.name, account.broker, account.live) == ("m", "Mine", "mock", False)
    assert dict(account.config) == {
        "broker": "mock",
        "account_id": "m",
        "path": tmp_path / "data" / "mock_broker.db",
        "fill_delay_seconds": 0,
        "rejection_rate": 1,
        "partial_fill_rate": 0,
        "slippage_bps": Decimal("2.5"),
        "commission_per_order": Decimal("0.10"),
        "seed": 3,
    }
    assert settings.account("unknown") is None


def test_an_account_s_trading_day_is_in_the_zone_that_it_names_and_else_utc_s(tmp_path: Path) -> None:
    accounts_file(
        tmp_path,
        '[accounts.a]\nbroker = "mock"\nday_timezone = "America/New_York"\n[accounts.b]\nbroker = "mock"\n',
    )
    zones = load(tmp_path).zones
    assert (str(zones.of("a")), zones.of("b"), zones.of("of no file")) == ("America/New_York", UTC, UTC)


@pytest.mark.parametrize("zone", ['"Mars/Olympus"', '"../etc/passwd"', '""', "5"])
def test_a_zone_that_is_none_is_a_problem(tmp_path: Path, zone: str) -> None:
    accounts_file(tmp_path, f'[accounts.a]\nbroker = "mock"\nday_timezone = {zone}\n')
    (problem,) = problems(tmp_path)
    assert "Account 'a': day_timezone" in problem


def test_mock_account_s_own_values_are_exact_and_typed(tmp_path: Path) -> None:
    accounts_file(
        tmp_path,
        '[accounts.m]\nbroker = "mock"\ncommission_per_order = 0.12345678901234567890\nseed = "3"\nopening_cash = 0.10\n',
    )
    configuration = BrokerFactory.configuration_of("mock")
    assert configuration is not None
    read = configuration.of(load(tmp_path).accounts["m"].config, broker="mock").model_dump()
    assert (read["commission_per_order"], read["seed"]) == (Decimal("0.12345678901234567890"), 3)
    assert str(read["opening_cash"]) == "0.10"


def test_mock_account_s_own_values_have_the_settings_bounds(tmp_path: Path) -> None:
    accounts_file(tmp_path, '[accounts.m]\nbroker = "mock"\nrejection_rate = 2\n')
    assert problems(tmp_path) == ("Account 'm': rejection_rate must be 1 or less, not 2.",)


def test_broker_builds_from_the_config_that_an_account_carries(tmp_path: Path) -> None:
    account = load(tmp_path, **ON_MOCK, MOCK_COMMISSION_PER_ORDER="0.35").account("anything")
    assert account is not None
    assert BrokerFactory.create_broker(account.config).name == "MOCK"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (
            'broker = "ibkr"\nibkr_acount = "DU1"',
            "ibkr_acount is no key of an account at ibkr; was ibkr_account meant?",
        ),
        (
            'broker = "mock"\nfill_delay = 3',
            "fill_delay is no key of an account at mock; was fill_delay_seconds meant?",
        ),
        ('broker = "mock"\nnmae = "x"', "nmae is no key of an account at mock; was name meant?"),
        ('broker = "mock"\nBroker = "x"', "Broker is no key of an account at mock; was broker meant?"),
        ('broker = "zerodha"\npin = 1', "pin is no key of an account at zerodha."),
        ('broker = "mock"\naccount_id = "b"', "account_id is no key of an account at mock."),
    ],
)
def test_a_key_that_nobody_reads_is_refused_and_the_nearest_one_named(tmp_path: Path, keys: str, told: str) -> None:
    accounts_file(tmp_path, f"[accounts.a]\n{keys}\n")
    assert problems(tmp_path, **MONGODB, **KITE) == (f"Account 'a': {told}",)


def test_a_key_is_not_looked_at_where_the_mock_stands_for_its_broker(tmp_path: Path) -> None:
    accounts_file(tmp_path, '[accounts.a]\nbroker = "ibkr"\nibkr_acount = "DU1"\n')
    assert load(tmp_path, **ON_MOCK).accounts["a"].broker == "mock"


def test_keys_that_a_script_reads_or_an_adapter_that_cannot_be_loaded_are_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts_file(tmp_path, '[accounts.z]\nbroker = "zerodha"\napi_secret = { env = "KITE_API_SECRET" }\n')
    assert load(tmp_path, **MONGODB, **KITE, KITE_API_SECRET="hush").accounts["z"].config["api_secret"] == "hush"
    accounts_file(tmp_path, '[accounts.z]\nbroker = "zerodha"\nthat_of_another_version = 1\n')
    monkeypatch.setattr(BrokerFactory, "configuration_of", staticmethod(lambda name: None))
    assert load(tmp_path, **MONGODB, **KITE).accounts["z"].config["that_of_another_version"] == 1


def test_all_that_is_wrong_with_an_account_is_told_at_once(tmp_path: Path) -> None:
    accounts_file(
        tmp_path,
        '[accounts.i]\nbroker = "ibkr"\nlive = "no"\nport = 70000\nibkr_account = { env = "ABSENT" }\nhots = "x"\n'
        '[accounts.n]\nbroker = "nobody"\napi_key = { env = "ABSENT" }\n'
        '[accounts.z]\nbroker = "zerodha"\naccess_token = { env = "ABSENT" }\n',
    )
    assert problems(tmp_path, **MONGODB, API_PORT="x") == (
        "API_PORT is 'x'; allowed: a whole number from 0 to 65535.",
        "Account 'i': live must be true or false.",
        "Account 'i': ibkr_account refers to the variable ABSENT, which is not set.",
        "Account 'i': hots is no key of an account at ibkr; was host meant?",
        "Account 'i': port must be 65535 or less, not 70000.",
        "Account 'n': broker 'nobody' is not known; known brokers: alpaca, binance, ibkr, mock, zerodha.",
        "Account 'n': api_key refers to the variable ABSENT, which is not set.",
        "Account 'z': access_token refers to the variable ABSENT, which is not set.",
        "Account 'z': api_key is missing.",
    )


def test_a_wrong_value_that_a_variable_holds_is_not_repeated(tmp_path: Path) -> None:
    accounts_file(tmp_path, '[accounts.i]\nbroker = "ibkr"\nport = { env = "GATEWAY" }\n')
    assert problems(tmp_path, **MONGODB, GATEWAY="hush-hush") == ("Account 'i': port must be a whole number.",)


def test_unknown_broker_is_told_with_the_known_ones(tmp_path: Path) -> None:
    accounts_file(tmp_path, '[accounts.a]\nbroker = "ibkrr"\n[accounts.b]\nname = "x"\n')
    told = problems(tmp_path)
    assert (
        told[0] == f"Account 'a': broker 'ibkrr' is not known; known brokers: {', '.join(BrokerFactory.supported())}."
    )
    assert "Account 'b': broker is missing" in told[1]


@pytest.mark.parametrize("broker", ["ibkr", "zerodha"])
def test_on_the_mock_an_account_needs_nothing_of_its_own_broker(tmp_path: Path, broker: str) -> None:
    accounts_file(tmp_path, f'[accounts.a]\nname = "Main"\nbroker = "{broker}"\napi_key = {{ env = "ABSENT" }}\n')
    account = load(tmp_path, **ON_MOCK).account("a")
    assert account is not None
    assert (account.name, account.broker, account.live, account.config["broker"]) == ("Main", "mock", False, "mock")
    assert "api_key" not in account.config


@pytest.mark.parametrize(("by_argument", "environ"), [(True, {}), (False, {"USE_MOCK_BROKER": "yes"})])
def test_mock_broker_serves_unknown_accounts(tmp_path: Path, by_argument: bool, environ: dict[str, str]) -> None:
    settings = load_settings(environ, use_mock_broker=by_argument, root=tmp_path)
    account = settings.account("never seen")
    assert settings.use_mock_broker
    assert account is not None
    assert (account.account_id, account.name, account.broker) == ("never seen", "never seen", "mock")
    assert load_settings({"USE_MOCK_BROKER": "false"}, use_mock_broker=True, root=tmp_path).use_mock_broker


def test_loading_for_the_mock_broker_imports_no_broker_library(tmp_path: Path) -> None:
    accounts_file(tmp_path, '[accounts.i]\nbroker = "ibkr"\n[accounts.z]\nbroker = "zerodha"\n')
    code = (
        "import sys, pathlib; from execution_service.app.settings.loading import load_settings;"
        f"load_settings({{}}, use_mock_broker=True, root=pathlib.Path({str(tmp_path)!r})).account('i');"
        "print(sorted({'ib_insync', 'ib_async', 'kiteconnect', 'brokers.ibkr.adapter', 'brokers.zerodha.adapter'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ibkr_account_takes_what_it_does_not_say_from_the_variables(tmp_path: Path) -> None:
    accounts_file(tmp_path, '[accounts.a]\nbroker = "ibkr"\nibkr_account = "DU000001"\nport = 7497\nlive = false\n')
    config = load(tmp_path, IBKR_HOST="gateway", IBKR_CLIENT_ID="12", IBKR_LIBRARY="ib_insync").accounts["a"].config
    assert dict(config) == {
        "broker": "ibkr",
        "account_id": "a",
        "ibkr_account": "DU000001",
        "host": "gateway",
        "port": 7497,
        "client_id": 12,
        "library": "ib_insync",
    }


def test_zerodha_account_takes_what_it_does_not_say_from_the_variables(tmp_path: Path) -> None:
    accounts_file(tmp_path, '[accounts.z]\nbroker = "zerodha"\naccess_token_file = "mine"\n')
    config = load(tmp_path, **MONGODB, KITE_API_KEY="key", KITE_ACCESS_TOKEN="another's").accounts["z"].config
    assert dict(config) == {
        "broker": "zerodha",
        "account_id": "z",
        "api_key": "key",
        "access_token_file": str(tmp_path / "mine"),
    }


def test_reference_to_a_missing_variable_is_a_problem_and_one_by_file_is_not(tmp_path: Path) -> None:
    accounts_file(tmp_path, '[accounts.z]\nbroker = "zerodha"\napi_key = { env = "MY_KEY" }\n')
    assert problems(tmp_path, **MONGODB, **TOKEN) == (
        "Account 'z': api_key refers to the variable MY_KEY, which is not set.",
    )
    (tmp_path / "key").write_text("abcdef\n")
    assert load(tmp_path, **MONGODB, **TOKEN, MY_KEY_FILE="key").accounts["z"].config["api_key"] == "abcdef"


def test_secret_in_the_accounts_file_is_refused_without_being_repeated(tmp_path: Path) -> None:
    accounts_file(tmp_path, '[accounts.z]\nbroker = "zerodha"\napi_secret = "hush-hush"\n')
    (told,) = problems(tmp_path, **MONGODB, **KITE)
    assert "api_secret must not stand in the file" in told
    assert "hush" not in told


@pytest.mark.parametrize(
    "keys",
    ['broker = "ibkr"\nibkr_account = "U1234567"', 'broker = "ibkr"', 'broker = "zerodha"\napi_key = { env = "K" }'],
)
def test_live_account_is_refused_on_the_embedded_store(tmp_path: Path, keys: str) -> None:
    accounts_file(tmp_path, f"[accounts.a]\n{keys}\n")
    (told,) = problems(tmp_path, **TOKEN, K="abcdef")
    assert "is live, but MONGODB_URI is not set" in told
    assert load(tmp_path, **MONGODB, **TOKEN, K="abcdef").accounts["a"].live
    assert load(tmp_path, **ON_MOCK).accounts["a"].live is False


@pytest.mark.parametrize(
    "keys",
    [
        'broker = "ibkr"\nibkr_account = "DU1"\nhost = "far.example"',
        'broker = "ibkr"\nibkr_account = "DF1"',
        'broker = "ibkr"\nhost = "localhost"',
        'broker = "ibkr"\nhost = "::1"',
        'broker = "zerodha"\nroot_url = "http://127.0.0.1:5000"',
        'broker = "zerodha"\nroot_url = "http://[::1]:5000"\nticker_url = "ws://localhost:1"',
    ],
)
def test_not_live_is_believed_of_paper_accounts_and_loopback(tmp_path: Path, keys: str) -> None:
    accounts_file(tmp_path, f"[accounts.a]\nlive = false\n{keys}\n")
    assert load(tmp_path, **KITE).accounts["a"].live is False


@pytest.mark.parametrize(
    "keys",
    [
        'broker = "ibkr"\nibkr_account = "U1234567"',
        'broker = "ibkr"\nhost = "gateway.example"',
        'broker = "ibkr"\nhost = "127.0.0.1.example"',
        'broker = "zerodha"',
        'broker = "zerodha"\nroot_url = "https://api.kite.trade"',
        'broker = "zerodha"\nroot_url = "http://127.0.0.1@api.kite.trade"',
        'broker = "zerodha"\nroot_url = "http://127.0.0.1:5000"\nticker_url = "wss://ws.kite.trade"',
        'broker = "zerodha"\nroot_url = "http://["',
    ],
)
def test_not_live_is_not_believed_of_what_may_be_real(tmp_path: Path, keys: str) -> None:
    accounts_file(tmp_path, f"[accounts.a]\nlive = false\n{keys}\n")
    (told,) = problems(tmp_path, **KITE)
    assert "live is false, but nothing shows" in told


def test_ibkr_variables_make_an_account_where_there_is_no_file(tmp_path: Path) -> None:
    settings = load(tmp_path, **MONGODB, **KITE, IBKR_PORT="7497")
    assert list(settings.accounts) == ["IBKR_Main", "Zerodha_Main"]
    assert settings.accounts["IBKR_Main"].config["port"] == 7497
    assert settings.accounts["Zerodha_Main"].live
    assert load(tmp_path, **MONGODB).accounts == {}
    accounts_file(tmp_path, "")
    assert load(tmp_path, **MONGODB, IBKR_PORT="7497").accounts == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[acounts.a]\nbroker = 'mock'\n", "acounts is not known"),
        ("accounts = 3\n", "accounts must be a table"),
        ("[accounts]\na = 3\n", "Account 'a' must be a table"),
        ("[accounts.' a']\nbroker = 'mock'\n", "the id must be printable"),
        ("[accounts.a]\nbroker = 'mock'\nname = 3\n", "name must be text"),
        ("[accounts.a]\nbroker = 'mock'\nlive = 'no'\n", "live must be true or false"),
        ("[accounts.a]\nbroker = 'mock'\nlive = true\n", "no live account"),
    ],
)
def test_badly_shaped_accounts_are_told(tmp_path: Path, text: str, told: str) -> None:
    accounts_file(tmp_path, text)
    assert any(told in sentence for sentence in problems(tmp_path))


def test_a_new_setting_is_one_field_and_is_read_from_every_source(tmp_path: Path) -> None:
    class WithRisk(Environment):
        risk_file: RootedPath = Path("risk.toml")
        risk_limit: Annotated[int, Field(ge=1), Allowed("a whole number, 1 or more")] = 5

    (tmp_path / ".env").write_text("RISK_FILE=limits.toml\nRISK_LIMIT=none\n")
    wrong = Problems()
    read = Sources({"API_PORT": "9000"}, tmp_path, wrong).read(WithRisk)
    assert (read.risk_file, read.risk_limit, read.api_port) == (tmp_path / "limits.toml", 5, 9000)
    with pytest.raises(ConfigurationError) as caught:
        wrong.raise_if_any()
    assert caught.value.problems == ("RISK_LIMIT is 'none'; allowed: a whole number, 1 or more.",)


def test_variables_that_nobody_gave_a_source_have_their_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_PORT", "1")
    monkeypatch.setenv("ROOT", "/elsewhere")
    assert Environment(root=tmp_path).api_port == 8002
    assert load_settings(root=tmp_path).data_dir == tmp_path / "data"


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = load(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        settings.api_port = 1


# The examples


def example_values() -> Mapping[str, str]:
    text = (REPOSITORY_ROOT / ".env.example").read_text(encoding="utf-8")
    return dict(re.findall(r"^#([A-Z][A-Z_]+)=(.*)$", text, re.MULTILINE))


def test_env_example_lists_every_setting_in_order_and_nothing_else() -> None:
    assert list(example_values()) == list(setting_names())
    assert setting_names()[: len(Environment.names())] == Environment.names()
    assert len(set(setting_names())) == len(setting_names())


def test_env_example_shows_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "accounts.toml").touch()
    (tmp_path / "risk.toml").touch()
    (tmp_path / "planning.toml").touch()
    assert load_settings(example_values(), root=tmp_path).printable() == load(tmp_path).printable()


def test_env_example_copied_as_it_is_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text((REPOSITORY_ROOT / ".env.example").read_text(encoding="utf-8"))
    assert load(tmp_path).printable() == load_settings({}, root=tmp_path).printable()


def test_accounts_example_loads(tmp_path: Path) -> None:
    text = (REPOSITORY_ROOT / "accounts.example.toml").read_text(encoding="utf-8")
    accounts_file(tmp_path, text)
    assert list(load(tmp_path).accounts) == ["Mock_Paper"]


def test_accounts_example_loads_with_its_comments_taken_away(tmp_path: Path) -> None:
    text = (REPOSITORY_ROOT / "accounts.example.toml").read_text(encoding="utf-8")
    accounts_file(tmp_path, re.sub(r"^#(?! )", "", text, flags=re.MULTILINE))
    keys = {"ALPACA_API_KEY": "mnopqr", "ALPACA_SECRET_KEY": "stuvwx"}
    keys |= {"BINANCE_API_KEY": "yzabcd", "BINANCE_API_SECRET": "efghij"}
    settings = load(tmp_path, **MONGODB, **KITE, KITE_API_SECRET="ghijkl", **keys)
    names = ["Mock_Paper", "acc_abc123", "zerodha_main", "alpaca_paper", "binance_main"]
    assert list(settings.accounts) == names
    assert not settings.accounts["binance_main"].live


def test_documentation_names_every_setting() -> None:
    text = (REPOSITORY_ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert [name for name in setting_names() if f"`{name}`" not in text] == []
