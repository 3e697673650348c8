"""The real service at the simulated gateway: orders that IBKR answers by words alone, what they end as, how soon, and who waits for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.external.service_process import Service, free_port
from tests.external.venues import ACCOUNTS, Desk, GatewayVenue, events, tws_server

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
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("refusals")
    port, control_port = free_port(), free_port()
    accounts = folder / "accounts.toml"
    accounts.write_text(ACCOUNT.format(account=ACCOUNTS["ibkr"], port=port), encoding="utf-8")
    settings = {"ACCOUNTS_FILE": str(accounts), "USE_MOCK_BROKER": "false"}
    with contextlib.ExitStack() as stack:
        tws = stack.enter_context(tws_server(folder, port, control_port))
        service = stack.enter_context(Service(folder, **settings))
        service.start()
        yield Desk(service, {"ibkr": GatewayVenue("ibkr", tws, control_port)}, Path())


@pytest.fixture
def gateway(desk: Desk) -> Iterator[GatewayVenue]:
    found = desk.venues["ibkr"]
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


def assert_refused(desk: Desk, body: Mapping[str, Any], code: int, text: str) -> None:
    record = desk.wait(body, within=90.0)
    assert record["status"] == "REJECTED"
    assert sendings(record) == 1
    assert seconds_to_end(record) < AT_ONCE_SECONDS
    reason = desk.confirmation(str(body["signal_id"]))["reason"]
    assert reason["code"] == "BROKER_REJECTED"
    assert text in reason["message"]
    assert str(code) in reason["message"]


def test_orders_answered_by_words_alone_are_rejected_in_those_words_and_hold_up_nobody(
    desk: Desk, gateway: GatewayVenue
) -> None:
    said = (
        ("AAPL", 10268, "The 'EtradeOnly' order attribute is not supported"),
        ("MSFT", 10052, "Invalid time in force"),
        ("NVDA", 353, "Short sale slot value of 1 requires no location be specified"),
        ("TSLA", 31999, "Something that nobody has heard of"),
    )
    for symbol, code, text in said:
        gateway.do("answer_with_words", symbol=symbol, code=code, text=text)
    refused = [desk.body(gateway, symbol=symbol) for symbol, _, _ in said]
    behind_in_the_same = desk.body(gateway, symbol="AAPL")
    behind_in_others = [desk.body(gateway, symbol=symbol) for symbol in ("SPY", "QQQ")]
    desk.publish(*refused, behind_in_the_same, *behind_in_others)
    for body, (_, code, text) in zip(refused, said, strict=True):
        assert_refused(desk, body, code, text)
    for body in (behind_in_the_same, *behind_in_others):
        desk.wait(body, "FILLED", within=90.0)
    assert gateway.do("price", symbol="SPY", price="100.25")["messages_placed"] == len(refused) + 3
