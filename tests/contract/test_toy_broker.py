"""A broker is one package: the toy broker, which lives beside this file and nowhere else, is taken up by whoever asks the manifests."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import brokers
from brokers.factory import BrokerFactory
from brokers.paper.model import Market
from brokers.registry import manifests, quiet_loggers
from execution_service.app.check import account_finding
from execution_service.app.log import start_logging
from execution_service.app.settings.loading import Settings, load_settings
from execution_service.app.settings.model import secret_names, setting_names
from execution_service.app.settings.problems import ConfigurationError
from scripts.adopt import products
from simulators.catalogue import programs, simulator_of

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).parent / "toy_broker"
PIN = "sesame-open"


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As with its folder on Python's path."""
    monkeypatch.setattr("brokers.__path__", [*brokers.__path__, str(TOY / "brokers")])
    yield
    for name in [name for name in sys.modules if name.startswith("brokers.toy")]:
        del sys.modules[name]


def load(root: Path, accounts: str | None = None, **environ: str) -> Settings:
    if accounts is not None:
        (root / "accounts.toml").write_text(accounts, encoding="utf-8")
    return load_settings(environ, root=root)


def problems(root: Path, accounts: str | None = None, **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        load(root, accounts, **environ)
    return caught.value.problems


def test_nobody_knows_of_it_where_its_folder_is_not_on_the_path() -> None:
    program = "from brokers.factory import BrokerFactory; print(BrokerFactory.supported())"
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "toy" not in said.stdout
    assert list(manifests()) == ["alpaca", "binance", "ibkr", "mock", "simulated", "toy", "zerodha"]


def test_its_variables_are_settings_and_make_its_account(tmp_path: Path) -> None:
    settings = load(tmp_path, TOY_PIN=PIN, MONGODB_URI="mongodb://127.0.0.1")
    assert {"TOY_PATH", "TOY_PIN"} < set(setting_names())
    assert settings.value("TOY_PATH") == tmp_path / "toy.db"
    account = settings.accounts["Toy_Main"]
    assert (account.broker, account.live) == ("toy", True)
    assert dict(account.config) == {
        "broker": "toy",
        "account_id": "Toy_Main",
        "path": str(tmp_path / "toy.db"),
        "pin": PIN,
    }
    assert BrokerFactory.create_broker(account.config).name == "TOY"


def test_its_secret_is_shown_nowhere_and_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "pin").write_text(PIN)
    settings = load(tmp_path, TOY_PIN_FILE="pin", MONGODB_URI="mongodb://127.0.0.1")
    assert "TOY_PIN" in secret_names()
    assert PIN in settings.secret_values
    assert settings.printable()["TOY_PIN"] == "(set)"
    assert PIN not in f"{settings!r} {settings.printable()} {dict(settings.accounts)}"


def test_its_secret_key_is_refused_in_the_accounts_file(tmp_path: Path) -> None:
    (told, *_) = problems(tmp_path, f'[accounts.t]\nbroker = "toy"\ntoy_account = "T1"\nlive = false\npin = "{PIN}"\n')
    assert told == "Account 't': pin must not stand in the file; allowed: { env = \"NAME\" }."


def test_its_keys_are_read_and_others_are_told(tmp_path: Path) -> None:
    accounts = '[accounts.t]\nbroker = "toy"\nlive = false\ntoy_acount = "T1"\nseed = "x"\n'
    assert problems(tmp_path, accounts, TOY_PIN=PIN) == (
        "Account 't': live is false, but nothing shows that no real money is at stake; allowed: "
        "a toy_account that begins with T, or a host or URL on this machine (loopback).",
        "Account 't': toy_acount is no key of an account at toy; was toy_account meant?",
        "Account 't': seed must be a whole number, not 'x'.",
    )


@pytest.mark.parametrize(("named", "is_believed"), [("T7", True), ("R7", False)])
def test_its_manifest_tells_a_paper_account(tmp_path: Path, named: str, is_believed: bool) -> None:
    accounts = f'[accounts.t]\nbroker = "toy"\nlive = false\ntoy_account = "{named}"\n'
    if is_believed:
        assert not load(tmp_path, accounts, TOY_PIN=PIN).accounts["t"].live
    else:
        assert "live is false, but nothing shows" in problems(tmp_path, accounts, TOY_PIN=PIN)[0]


async def test_the_check_connects_to_it_and_tells_its_remedy(tmp_path: Path) -> None:
    accounts = '[accounts.t]\nbroker = "toy"\nlive = false\ntoy_account = "T1"\n'
    works = await account_finding(load(tmp_path, accounts, TOY_PIN=PIN).accounts["t"])
    assert works.works
    assert "TOY, paper" in works.detail
    assert "This is the toy broker." in works.detail
    fails = await account_finding(load(tmp_path, accounts, TOY_PIN="not-this-one").accounts["t"])
    assert not fails.works
    assert fails.detail == f"toy: The PIN is wrong. Is the toy's book at {tmp_path / 'toy.db'}?"


def test_its_chatty_logger_is_kept_quiet(tmp_path: Path) -> None:
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        running = start_logging(tmp_path, "DEBUG", "text", stream=nowhere, leaky=quiet_loggers())
        try:
            assert not logging.getLogger("toy.wire").isEnabledFor(logging.INFO)
            assert not logging.getLogger("kiteconnect").isEnabledFor(logging.INFO)
            assert logging.getLogger("of.nobody").isEnabledFor(logging.DEBUG)
        finally:
            running.stop()


async def test_the_demo_and_the_suites_find_its_simulator(tmp_path: Path) -> None:
    assert "toy" in programs()
    async with simulator_of("toy").open_stage(tmp_path, "T1", Market()) as stage:
        broker = BrokerFactory.create_broker(stage.config)
        await broker.connect()
        assert [balance.currency for balance in await broker.balances()] == ["USD"]
        await broker.close()


def test_its_products_may_be_named_when_a_position_is_adopted() -> None:
    assert set(products()) == {"BOX", "LONG", "SHORT", "MIS", "NRML", "CNC"}


def test_the_contract_suite_is_run_on_it() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-k", "toy"]
    done = subprocess.run(
        [*command, "tests/contract/test_broker.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(TOY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 50
