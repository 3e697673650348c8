"""Alpaca's settings: which account the environment defines, and that keys, host and trading mode agree before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from execution_service.app.settings.loading import Settings, load_settings
from execution_service.app.settings.problems import ConfigurationError
from services.execution.alpaca import AlpacaClient

KEYS = {"ALPACA_API_KEY": "PKABC", "ALPACA_SECRET_KEY": "secret"}
LIVE_KEYS = {"ALPACA_API_KEY": "AKABC", "ALPACA_SECRET_KEY": "secret"}
MONGODB = {"MONGODB_URI": "mongodb://db.example"}
PAPER, LIVE = "https://paper-api.alpaca.markets", "https://api.alpaca.markets"


def load(tmp_path: Path, table: str = "", **environ: str) -> Settings:
    if table:
        (tmp_path / "accounts.toml").write_text(f'[accounts.a]\nbroker = "alpaca"\n{table}\n')
    return load_settings(environ, root=tmp_path)


def told(tmp_path: Path, table: str = "", **environ: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, table, **environ)
    return str(caught.value)


def test_keys_alone_make_a_paper_account(tmp_path: Path) -> None:
    account = load(tmp_path, **KEYS).accounts["Alpaca_Main"]
    assert (account.broker, account.live) == ("alpaca", False)
    assert account.config["api_key"] == "PKABC"


def test_the_names_of_alpacas_own_programs_do_as_well(tmp_path: Path) -> None:
    account = load(tmp_path, APCA_API_KEY_ID="PKABC", APCA_API_SECRET_KEY="secret", APCA_API_BASE_URL=PAPER).accounts[
        "Alpaca_Main"
    ]
    assert (account.config["api_key"], account.config["secret_key"]) == ("PKABC", "secret")
    assert account.config["base_url"] == PAPER
    assert not [key for key in account.config if "apca" in key]


def test_two_names_of_one_setting_that_differ_are_a_problem(tmp_path: Path) -> None:
    assert "APCA_API_KEY_ID is not valid; allowed: the same as ALPACA_API_KEY" in told(
        tmp_path, **KEYS, APCA_API_KEY_ID="PKOTHER"
    )


def test_the_trading_mode_says_whether_an_account_is_live(tmp_path: Path) -> None:
    account = load(tmp_path, **LIVE_KEYS, **MONGODB, TRADING_MODE="live").accounts["Alpaca_Main"]
    assert account.live
    assert "MONGODB_URI is not set" in told(tmp_path, **LIVE_KEYS, TRADING_MODE="LIVE")


def test_an_address_on_this_machine_is_paper_whatever_the_mode(tmp_path: Path) -> None:
    account = load(tmp_path, **LIVE_KEYS, TRADING_MODE="LIVE", ALPACA_BASE_URL="http://127.0.0.1:8084").accounts[
        "Alpaca_Main"
    ]
    assert not account.live


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        (
            {**KEYS, "ALPACA_BASE_URL": LIVE},
            "TRADING_MODE is PAPER, but https://api.alpaca.markets is the host of live accounts",
        ),
        ({**LIVE_KEYS, "TRADING_MODE": "LIVE", "ALPACA_BASE_URL": PAPER}, "is the host of paper accounts"),
        ({**KEYS, "TRADING_MODE": "LIVE"}, "api_key is the key of a paper account (it begins with PK)"),
        (LIVE_KEYS, "api_key is the key of a live account (it begins with AK)"),
        ({"ALPACA_API_KEY": "PKABC"}, "secret_key is missing"),
        ({**KEYS, "TRADING_MODE": "REAL"}, "TRADING_MODE is 'REAL'; allowed: PAPER or LIVE"),
    ],
)
def test_keys_host_and_mode_that_disagree_are_refused_at_the_start(
    tmp_path: Path, environ: dict[str, str], words: str
) -> None:
    assert words in told(tmp_path, **{**MONGODB, **environ})


def test_live_false_at_the_live_host_is_refused(tmp_path: Path) -> None:
    words = told(tmp_path, 'live = false\ntrading_mode = "LIVE"', **LIVE_KEYS, **MONGODB)
    assert "live is false, but nothing shows that no real money is at stake" in words
    assert PAPER in words


def test_an_account_has_its_own_address_and_then_no_stream_or_data_of_another(tmp_path: Path) -> None:
    others = {"ALPACA_STREAM_URL": "wss://elsewhere.example/stream", "ALPACA_DATA_URL": "https://elsewhere.example"}
    config = load(tmp_path, f'base_url = "{PAPER}"', **KEYS, **others).accounts["a"].config
    assert config["base_url"] == PAPER
    assert not {"stream_url", "data_url"} & config.keys()


@pytest.mark.parametrize(
    ("key", "paper", "environ", "words"),
    [
        ("AKABC", False, {}, "MONGODB_URI is not set: live accounts are refused"),
        ("AKABC", True, {}, "api_key is the key of a live account"),
        ("PKABC", True, {"ALPACA_BASE_URL": LIVE}, "is the host of live accounts"),
    ],
)
def test_a_programs_client_refuses_keys_and_hosts_that_disagree(
    tmp_path: Path, key: str, paper: bool, environ: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        AlpacaClient(key, "secret", paper=paper, settings=load_settings(environ, root=tmp_path))
