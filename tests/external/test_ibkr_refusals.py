"""The real service at the simulated gateway: orders that IBKR answers by words alone, what they end as, how soon, and who waits for them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.external.service_process import Service, free_port
from tests.external.venues import ACCOUNTS, GatewayVenue, VenueStage, events, tws_server
from tests.waits import wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.timeout(180),
]
ACCOUNT = """
[accounts.{account}]
broker = "ibkr"
ibkr_account = "DU000001"
host = "127.0.0.1"
port = {port}
live = false
"""
AT_ONCE_SECONDS = 15.0
"""From the publication to the end, on a machine that is busy with other things."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VenueStage]:
    folder = tmp_path_factory.mktemp("refusals")
    port, control_port = free_port(), free_port()
    accounts = folder / "accounts.toml"
    accounts.write_text(ACCOUNT.format(account=ACCOUNTS["ibkr"], port=port), encoding="utf-8")
    settings = {"ACCOUNTS_FILE": str(accounts), "USE_MOCK_BROKER": "false"}
    with contextlib.ExitStack() as stack:
        tws = stack.enter_context(tws_server(folder, port, control_port))
        service = stack.enter_context(Service(folder, **settings))
        service.start()
        yield VenueStage(service, {"ibkr": GatewayVenue("ibkr", tws, control_port)}, Path())


@pytest.fixture
def gateway(stage: VenueStage) -> Iterator[GatewayVenue]:
    found = stage.venues["ibkr"]
    assert isinstance(found, GatewayVenue)
    yield found
    found.do("answer_with_words", symbol="*", code=0, text="", times=0)


def seconds_to_end(record: Mapping[str, Any]) -> float:
    """From the moment it was first about to leave."""
    (begun, *_) = [event["at"] for event in record["events"] if event["type"] == "SubmitStarted"]
    return float((record["events"][-1]["at"] - begun).total_seconds())


def sendings(record: Mapping[str, Any]) -> int:
    """How often it may have left."""
    return events(record).count("SubmitStarted") + sum(
        "sent again" in str(event.get("message")) for event in record["events"]
    )


def placed(gateway: GatewayVenue) -> int:
    """How many orders have left for the gateway, refused ones too."""
    return int(gateway.do("chunks", size=None)["messages_placed"])


def assert_refused(stage: VenueStage, body: Mapping[str, Any], code: int, text: str) -> None:
    record = stage.wait(body, within=90.0)
    assert record["status"] == "REJECTED"
    assert sendings(record) == 1
    assert seconds_to_end(record) < AT_ONCE_SECONDS
    reason = stage.confirmation(str(body["signal_id"]))["reason"]
    assert reason["code"] == "BROKER_REJECTED"
    assert text in reason["message"]
    assert str(code) in reason["message"]


def test_orders_answered_by_words_alone_are_rejected_in_those_words_and_hold_up_nobody(
    stage: VenueStage, gateway: GatewayVenue
) -> None:
    said = (
        ("AAPL", 10268, "The 'EtradeOnly' order attribute is not supported"),
        ("MSFT", 10052, "Invalid time in force"),
        ("NVDA", 353, "Short sale slot value of 1 requires no location be specified"),
        ("TSLA", 31999, "Something that nobody has heard of"),
    )
    for symbol, code, text in said:
        gateway.do("answer_with_words", symbol=symbol, code=code, text=text)
    refused = [stage.body(gateway, symbol=symbol) for symbol, _, _ in said]
    behind_in_the_same = stage.body(gateway, symbol="AAPL")
    behind_in_others = [stage.body(gateway, symbol=symbol) for symbol in ("SPY", "QQQ")]
    before = placed(gateway)
    stage.publish(*refused, behind_in_the_same, *behind_in_others)
    for body, (_, code, text) in zip(refused, said, strict=True):
        assert_refused(stage, body, code, text)
    for body in (behind_in_the_same, *behind_in_others):
        stage.wait(body, "FILLED", within=90.0)
    assert placed(gateway) - before == len(refused) + 3


@pytest.mark.parametrize(
    ("code", "text", "beside"),
    [
        (31999, "Something that nobody has heard of", {"taken_after": 1.2}),
        (2161, "A price cap was set", {"taken_after": 0, "is_taken_first": True}),
    ],
)
def test_words_beside_an_order_that_works_end_nothing(
    stage: VenueStage, gateway: GatewayVenue, code: int, text: str, beside: Mapping[str, Any]
) -> None:
    gateway.fault("place", "hold")
    gateway.do("answer_with_words", symbol="AMD", code=code, text=text, **beside)
    body = stage.body(gateway, symbol="AMD")
    stage.publish(body)
    record = stage.wait(body, "SUBMITTED", within=60.0)
    for said in (399, 201, code):
        gateway.do("say", order=record["client_order_id"], code=said, text="Beside it")
    time.sleep(2.2)
    assert stage.wait(body, "SUBMITTED")["status"] == "SUBMITTED"
    gateway.do("fill", order=record["client_order_id"])
    stage.wait(body, "FILLED", within=60.0)


def test_an_order_that_fills_after_it_was_refused_is_a_correction(stage: VenueStage, gateway: GatewayVenue) -> None:
    gateway.do("answer_with_words", symbol="AMZN", code=31999, text="Odd words", taken_after=5)
    body = stage.body(gateway, symbol="AMZN", strategy_name="Late")
    stage.publish(body)
    record = stage.wait(body, "REJECTED", within=60.0)
    (order,) = wait_until(lambda: gateway.of(record["client_order_id"]), "it is taken after all", within=60.0)
    assert order["filled_quantity"] == "10"
    wait_until(
        lambda: (stage.record(str(body["signal_id"])) or {})["filled_quantity"] == "10", "it is told", within=60.0
    )
    with stage.service.database() as db:
        wait_until(
            lambda: db["positions"].find_one({"strategy_name": "Late", "quantity": 10}), "it is held", within=60.0
        )


def test_an_order_whose_refusal_the_process_did_not_survive_is_refused_in_the_next_life_and_not_sent_again(
    stage: VenueStage, gateway: GatewayVenue
) -> None:
    gateway.do("answer_with_words", symbol="INTC", code=10052, text="Invalid time in force", times=None)
    body, before = stage.body(gateway, symbol="INTC"), placed(gateway)
    stage.publish(body)
    wait_until(lambda: "code 10052" in str(stage.record(str(body["signal_id"]))), "the words are in the record")
    stage.service.kill()
    stage.service.start()
    record = stage.wait(body, within=90.0)
    assert record["status"] == "REJECTED"
    assert "code 10052" in stage.confirmation(str(body["signal_id"]))["reason"]["message"]
    assert gateway.of(record["client_order_id"]) == []
    assert placed(gateway) - before == 1


def test_coins_with_a_limit_are_taken_refused_or_not_sent_by_the_accounts_terms(
    stage: VenueStage, gateway: GatewayVenue
) -> None:
    gateway.do("price", symbol="BTC", price="50000")
    coin = {"symbol": "BTC", "instrument_type": "CRYPTO", "quantity": "0.001", "tif": None}
    before = placed(gateway)
    near = stage.body(gateway, limit_price="50000", **coin)
    far = stage.body(gateway, limit_price="49000", **coin)
    lasting = stage.body(gateway, limit_price="50000", **(coin | {"tif": "GTC"}))
    stage.publish(near, far, lasting)
    stage.wait(near, "FILLED", within=60.0)
    assert_refused(stage, far, 202, "0.25%")
    stage.wait(lasting, "REJECTED", within=60.0)
    reason = stage.confirmation(str(lasting["signal_id"]))["reason"]
    assert reason["code"] == "UNSUPPORTED_ORDER"
    assert "GTC" in reason["message"]
    assert placed(gateway) - before == 2
