"""What `--check` says of an account at Alpaca."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import brokers
from brokers.paper.model import Market
from execution_service.app.check import account_finding
from execution_service.app.settings.accounts import Account
from simulators.alpaca.server import AlpacaFault, FaultKind, SimulatedAlpaca
from simulators.stage_alpaca import config_for
from tests.contract.test_check_accounts import closed_port, says


def account(config: dict[str, object], *, live: bool = False) -> Account:
    return Account(account_id="acc", name="The account", broker="alpaca", live=live, config=config)


async def test_an_account_that_answers_tells_what_it_may_trade_and_what_is_to_be_known(server: SimulatedAlpaca) -> None:
    finding = await account_finding(account(config_for(server)))
    assert finding.works
    says(finding, "ALPACA, paper, The account: 1,000,000.00 USD", "CRYPTO", "OPTION", "STOCK", "PA3TEST, ACTIVE")
    says(finding, "regulatory fees")


async def test_which_quotes_the_account_gets_is_told(server: SimulatedAlpaca) -> None:
    finding = await account_finding(account(config_for(server)))
    says(
        finding,
        "Quotes of shares on IEX alone",
        "options: none (OPRA agreement is not signed)",
        "coins at Alpaca's own venue",
    )
    server.subscribe()
    finding = await account_finding(account(config_for(server)))
    says(finding, "Quotes of shares on all exchanges (SIP); options on all exchanges (OPRA)")
    server.add_fault(AlpacaFault(kind=FaultKind.HTML, status=503, route="GET /v2/stocks/snapshots"))
    finding = await account_finding(account(config_for(server)))
    assert finding.works
    says(finding, "Quotes of shares: none (Alpaca's market data (503)")


async def test_what_an_account_may_not_do_is_told(server: SimulatedAlpaca) -> None:
    server.account_fields = {"shorting_enabled": False, "crypto_status": "INACTIVE", "options_trading_level": 0}
    finding = await account_finding(account(config_for(server)))
    says(finding, "may not sell short", "not enabled for crypto", "not enabled for options")
    assert "CRYPTO" not in finding.detail.partition("Account")[0]


async def test_keys_that_are_not_accepted_are_told_with_what_to_do(server: SimulatedAlpaca) -> None:
    finding = await account_finding(account({**config_for(server), "secret_key": "another"}))
    assert not finding.works
    says(finding, "does not accept the keys", "keys of their own", server.base_url)
    assert "another" not in finding.detail


async def test_keys_of_another_account_are_told(server: SimulatedAlpaca) -> None:
    finding = await account_finding(account({**config_for(server), "account_number": "PA3OTHER"}))
    assert not finding.works
    says(finding, "PA3TEST", "PA3OTHER")


async def test_an_address_where_nobody_is_is_named() -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    config: dict[str, object] = {
        "broker": "alpaca",
        "account_id": "a",
        "api_key": "k",
        "secret_key": "s",
        "base_url": url,
    }
    finding = await account_finding(account(config))
    assert not finding.works
    says(finding, "cannot be reached", url)


async def test_an_account_that_cannot_be_read_is_told(server: SimulatedAlpaca) -> None:
    server.account_fields = {"cash": "plenty"}
    finding = await account_finding(account(config_for(server)))
    assert not finding.works
    says(finding, "its cash is 'plenty'")


async def test_a_missing_library_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "alpaca", brokers.alpaca)  # type: ignore[attr-defined]
    for name in [name for name in sys.modules if name.startswith("brokers.alpaca")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name == "alpaca" or name.startswith("alpaca.")]:
        monkeypatch.setitem(sys.modules, name, None)
    finding = await account_finding(account({"broker": "alpaca", "account_id": "acc"}))
    assert not finding.works
    says(finding, "pip install 'execution-service[alpaca]'")


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market()
