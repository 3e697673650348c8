"""The day's access token, the settings of an account, what it may trade, and that none of them shows a secret."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from brokers.base import AssetClass, Tif
from brokers.errors import BrokerUnavailable
from brokers.zerodha.adapter import ZerodhaBroker, create
from simulators.stage_zerodha import config_for
from simulators.zerodha.market import LISTINGS
from simulators.zerodha.server import FaultKind, KiteFault, SimulatedKite
from tests.contract.zerodha.stage import TAG, ticket
from tests.waits import until


async def test_a_dead_token_is_a_state_of_the_account_with_words_on_what_to_do(
    server: SimulatedKite, broker: ZerodhaBroker
) -> None:
    before = len(server.calls())
    server.kill_token()
    for _ in range(3):
        with pytest.raises(BrokerUnavailable, match=r"AUTH_REQUIRED.*log in") as unavailable:
            await broker.place_order(ticket())
        assert unavailable.value.known_pause
    with pytest.raises(BrokerUnavailable, match="AUTH_REQUIRED"):
        await broker.connect()
    # The dead token is not tried with every call.
    assert len(server.calls()) - before == 1
    assert server.book.orders() == []


async def test_a_token_that_was_refused_by_mistake_is_tried_again_after_a_while(
    server: SimulatedKite, broker: ZerodhaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_fault(KiteFault(kind=FaultKind.TOKEN_EXPIRED, route="GET /orders"))
    with pytest.raises(BrokerUnavailable, match="AUTH_REQUIRED"):
        await broker.reports()
    with pytest.raises(BrokerUnavailable, match="AUTH_REQUIRED"):
        await broker.connect()
    monkeypatch.setattr("brokers.zerodha.calls._SAME_TOKEN_AGAIN_SECONDS", 0.0)
    await broker.connect()
    assert (await broker.reports()).reports == []


async def test_a_new_token_in_the_file_is_used_without_a_restart(server: SimulatedKite, tmp_path: Path) -> None:
    path = tmp_path / "token"
    config = {key: value for key, value in config_for(server).items() if key != "access_token"}
    broker = create(config | {"access_token_file": str(path)})
    with pytest.raises(BrokerUnavailable, match="AUTH_REQUIRED") as unavailable:
        await broker.connect()
    assert unavailable.value.known_pause
    path.write_text(f"{server.access_token}\n")
    await broker.connect()
    await until(lambda: server.listeners == 1)
    fresh = server.new_token()
    server.drop_feed()
    with pytest.raises(BrokerUnavailable, match=r"AUTH_REQUIRED.*token"):
        await broker.place_order(ticket())
    written = path.with_suffix(".new")
    written.write_text(fresh)
    os.replace(written, path)
    await broker.connect()
    await broker.place_order(ticket())
    await until(lambda: server.listeners == 1)
    await broker.close()


async def test_the_token_of_somebody_else_is_no_session(server: SimulatedKite) -> None:
    broker = create(config_for(server) | {"user_id": "ZZ9999"})
    with pytest.raises(BrokerUnavailable, match=r"AUTH_REQUIRED.*AB1234.*ZZ9999"):
        await broker.connect()
    with pytest.raises(BrokerUnavailable):
        await broker.place_order(ticket())
    await broker.close()


async def test_neither_settings_nor_errors_show_a_secret(
    server: SimulatedKite, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = server.new_token()
    broker = create(config_for(server) | {"api_secret": "so-secret"})
    await broker.connect()
    await until(lambda: server.listeners == 1)
    server.kill_token()
    with pytest.raises(BrokerUnavailable) as unavailable:
        await broker.balances()
    await broker.close()
    await until(lambda: server.listeners == 0)
    told = f"{broker._configuration!r} {unavailable.value} {caplog.text}"
    assert token not in told
    assert "so-secret" not in told


def test_all_that_is_wrong_with_the_settings_is_named_at_once() -> None:
    with pytest.raises(ValueError, match="Zerodha account's settings") as caught:
        create({"broker": "zerodha", "market_protection": 0, "equity_product": "XYZ", "iceberg_legs": 1})
    for sentence in (
        "account_id is missing",
        "api_key is missing",
        "access_token or access_token_file is missing",
        "market_protection must be -1 or a per cent above 0 and up to 100, not 0",
        "equity_product must be one of CNC, MIS, NRML, not 'XYZ'",
        "iceberg_legs must be 2 or more, not 1",
    ):
        assert sentence in str(caught.value)


def test_a_credential_of_the_wrong_type_is_not_shown() -> None:
    with pytest.raises(ValueError, match="access_token must be text, not int") as caught:
        create({"account_id": "a", "api_key": ["so-secret"], "access_token": 271828182845})
    assert "271828182845" not in str(caught.value)
    assert "so-secret" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("seconds", [0, -1, "-0.5", "0.0", "1e-400", "1e999", "nan", True])
@pytest.mark.parametrize(
    "key",
    [
        "connect_timeout_seconds",
        "read_timeout_seconds",
        "answer_timeout_seconds",
        "feed_silence_seconds",
        "find_window_seconds",
    ],
)
def test_a_time_out_that_is_no_time_is_refused_with_a_sentence(key: str, seconds: object) -> None:
    with pytest.raises(ValueError, match=f"{key} must be"):
        create({"account_id": "a", "api_key": "k", "access_token": "t", key: seconds})


async def test_a_feed_that_could_not_be_started_hinders_nothing_and_is_started_at_the_next_connection(
    server: SimulatedKite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late() -> None:
        raise TimeoutError("the reactor of the order feed did not start")

    other = create(config_for(server))
    with monkeypatch.context() as broken:
        broken.setattr("brokers.zerodha.feed._run_reactor", late)
        await other.connect()
    assert await other.find(TAG) is None
    assert server.listeners == 0
    await other.connect()
    await until(lambda: server.listeners == 1)
    await other.close()
    await until(lambda: server.listeners == 0)


def test_the_feed_is_beside_the_root_unless_told_otherwise() -> None:
    plain = {"account_id": "a", "api_key": "k", "access_token": "t"}
    assert create(plain)._configuration.feed_url is None
    assert create(plain | {"root_url": "http://127.0.0.1:8083"})._configuration.feed_url == "ws://127.0.0.1:8083"
    assert create(plain | {"root_url": "https://kite.example/oms"})._configuration.feed_url == "wss://kite.example"
    assert create(plain | {"root_url": "http://h", "ticker_url": "ws://t"})._configuration.feed_url == "ws://t"


async def test_what_the_account_lacks_is_told(server: SimulatedKite, broker: ZerodhaBroker) -> None:
    assert AssetClass.OPTION in broker.capabilities.asset_classes
    assert AssetClass.CRYPTO not in broker.capabilities.asset_classes
    assert broker.capabilities.tifs == {Tif.DAY, Tif.IOC}
    assert any("AB1234" in note for note in broker.capabilities.notes)
    broker._profile = {"user_id": "AB1234", "exchanges": ["NSE"], "meta": {"demat_consent": "physical"}}
    assert broker.capabilities.asset_classes == {AssetClass.STOCK, AssetClass.ETF}
    told = " ".join(broker.capabilities.notes)
    assert "NFO" in told
    assert "TPIN" in told


def test_the_listings_of_the_simulator_have_distinct_names() -> None:
    assert len({(each.exchange, each.symbol) for each in LISTINGS}) == len(LISTINGS)
