"""What `--check` says of an account: that it answers and what it may trade, or what is missing and what to do about it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import brokers
from brokers.paper.model import Action, Fault, Market, Operation
from execution_service.app.check import Finding, account_finding
from execution_service.app.settings.accounts import Account
from simulators import stage_ibkr, stage_zerodha


def account(config: Mapping[str, object], *, live: bool = False) -> Account:
    return Account(account_id="acc", name="The account", broker=str(config["broker"]), live=live, config=config)


def says(finding: Finding, *words: str) -> None:
    for each in words:
        assert each in finding.detail


async def test_a_zerodha_account_that_answers_tells_what_it_may_trade(tmp_path: Path) -> None:
    async with stage_zerodha.serving_kite(tmp_path, "AB1234", Market()) as server:
        finding = await account_finding(account(stage_zerodha.config_for(server)))
        assert finding.works
        says(finding, "ZERODHA, paper, The account: 1,000,000.00 INR", "FUTURE", "OPTION", "STOCK", "STOP_LIMIT", "IOC")
        assert server.book.orders() == []


async def test_an_ibkr_account_that_answers_tells_what_it_may_trade(tmp_path: Path) -> None:
    async with stage_ibkr.serving_tws(tmp_path, "DU000001", Market()) as gateway:
        finding = await account_finding(account(stage_ibkr.config_for(gateway)))
        assert finding.works
        says(finding, "IBKR, paper", "1,000,000.00 USD", "FOREX", "GTC", "Account DU000001", "client id 1")
        live = await account_finding(account(stage_ibkr.config_for(gateway), live=True))
        assert live.works
        says(live, "IBKR, LIVE", "the broker's account is one for practice")
        assert gateway.book.orders() == []


async def test_a_real_account_configured_as_paper_is_a_mismatch(tmp_path: Path) -> None:
    async with stage_ibkr.serving_tws(tmp_path, "U7654321", Market()) as gateway:
        config = {**stage_ibkr.config_for(gateway), "ibkr_account": None}
        finding = await account_finding(account(config))
        assert not finding.works
        says(finding, "live = false", "a real one", "would send nothing")


async def test_an_account_that_the_login_has_not_is_named_with_those_there_are(tmp_path: Path) -> None:
    async with stage_ibkr.serving_tws(tmp_path, "DU000001", Market()) as gateway:
        finding = await account_finding(account({**stage_ibkr.config_for(gateway), "ibkr_account": "DU9"}))
        assert not finding.works
        says(finding, "DU9", "DU000001")


async def test_a_gateway_that_is_not_there_is_named_with_what_to_look_at() -> None:
    config = {"broker": "ibkr", "account_id": "acc", "host": "127.0.0.1", "port": closed_port()}
    finding = await account_finding(account(config))
    assert not finding.works
    says(finding, f"127.0.0.1:{config['port']}", "TWS or IB Gateway running", "4002 paper")


async def test_a_gateway_without_its_servers_is_not_called_working(tmp_path: Path) -> None:
    async with stage_ibkr.serving_tws(tmp_path, "DU000001", Market()) as gateway:
        gateway.lose_link()
        finding = await account_finding(account(stage_ibkr.config_for(gateway)))
        assert not finding.works
        says(finding, "no connection to IBKR")


async def test_a_server_of_zerodha_that_cannot_be_reached_is_named() -> None:
    root = f"http://127.0.0.1:{closed_port()}"
    config = {"broker": "zerodha", "account_id": "acc", "api_key": "k", "access_token": "t", "root_url": root}
    finding = await account_finding(account(config))
    assert not finding.works
    says(finding, "cannot be reached", root)


@pytest.mark.parametrize("left", ["missing", "empty", "dead"])
async def test_a_token_that_is_not_good_is_told_with_its_file_and_how_to_renew_it(tmp_path: Path, left: str) -> None:
    token_file = tmp_path / "token"
    async with stage_zerodha.serving_kite(tmp_path, "AB1234", Market()) as server:
        if left != "missing":
            token_file.write_text("" if left == "empty" else "yesterday's")
        config: dict[str, Any] = {**stage_zerodha.config_for(server), "access_token_file": str(token_file)}
        del config["access_token"]
        finding = await account_finding(account(config))
        assert not finding.works
        says(finding, "AUTH_REQUIRED", str(token_file), "log in at Zerodha", "docs/operations.md")
        token_file.write_text(server.access_token)
        assert (await account_finding(account(config))).works


async def test_the_token_of_somebody_else_is_told(tmp_path: Path) -> None:
    async with stage_zerodha.serving_kite(tmp_path, "AB1234", Market()) as server:
        finding = await account_finding(account({**stage_zerodha.config_for(server), "user_id": "ZZ9999"}))
        assert not finding.works
        says(finding, "AB1234", "ZZ9999")


@pytest.mark.parametrize(
    ("broker", "libraries", "extra"),
    [("zerodha", ("kiteconnect",), "[zerodha]"), ("ibkr", ("ib_insync", "ib_async"), "[ibkr]")],
)
async def test_a_missing_library_is_told_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, broker: str, libraries: tuple[str, ...], extra: str
) -> None:
    # What is imported anew is put into the package, too: afterwards it has the one back of which all others have parts.
    monkeypatch.setattr(brokers, broker, getattr(brokers, broker))
    for name in [name for name in sys.modules if name.startswith(f"brokers.{broker}")]:
        monkeypatch.delitem(sys.modules, name)
    for library in libraries:
        monkeypatch.setitem(sys.modules, library, None)
    finding = await account_finding(account({"broker": broker, "account_id": "acc"}))
    assert not finding.works
    says(finding, f"pip install 'execution-service{extra}'")


async def test_wrong_settings_are_all_told() -> None:
    finding = await account_finding(account({"broker": "zerodha", "account_id": "acc", "market_protection": 0}))
    assert not finding.works
    says(finding, "api_key is missing", "access_token or access_token_file is missing", "market_protection")


async def test_a_broker_that_does_not_answer_is_told_in_time(tmp_path: Path) -> None:
    async with stage_zerodha.serving_kite(tmp_path, "AB1234", Market()) as server:
        server.book.add_fault(Fault(operation=Operation.CONNECT, action=Action.NEVER_ANSWER))
        finding = await account_finding(account({**stage_zerodha.config_for(server), "read_timeout_seconds": 0.2}))
        assert not finding.works
        says(finding, "Read timed out")


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_an_answer_that_cannot_be_read_is_told_and_ends_no_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "simulators.zerodha.server.margins", lambda book: {"equity": {"enabled": True}, "commodity": None}
    )
    async with stage_zerodha.serving_kite(tmp_path, "AB1234", Market()) as server:
        finding = await account_finding(account(stage_zerodha.config_for(server)))
        assert not finding.works
        says(finding, "zerodha: its answer cannot be read (", "the segment equity has None available")
