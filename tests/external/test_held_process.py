"""The real service while the market does not move: an exchange line that is down, orders held for the opening, after-market orders."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulators.zerodha import DEFAULT_ACCESS_TOKEN, DEFAULT_API_KEY
from tests.external.scripts_run import execctl
from tests.external.service_process import COMMANDS_TOPIC, Service, free_port
from tests.external.venues import API_KEY_NAME, GatewayVenue, VenueStage, events, kite_server, tws_server
from tests.waits import wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.timeout(240),
]
PATIENCE_SECONDS = 90.0
TIMEOUT_SECONDS = 2.0
CALLS_A_DAY = 20
LINE, EVENING, IBKR = "Zerodha_Line", "Zerodha_Evening", "IBKR_Held"


def _accounts(ports: dict[str, int], tokens: Path) -> str:
    zerodha = "\n".join(
        f"""
[accounts.{name}]
broker = "zerodha"
api_key = {{ env = "{API_KEY_NAME}" }}
access_token_file = "{tokens}.{name}"
root_url = "http://127.0.0.1:{ports[name]}"
live = false
{"order_calls_per_day = " + str(CALLS_A_DAY) if name == LINE else ""}
"""
        for name in (LINE, EVENING)
    )
    return f"""{zerodha}
[accounts.{IBKR}]
broker = "ibkr"
ibkr_account = "DU000001"
host = "127.0.0.1"
port = {ports[IBKR]}
live = false
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VenueStage]:
    folder = tmp_path_factory.mktemp("waiting")
    ports, control_port = {name: free_port() for name in (LINE, EVENING, IBKR)}, free_port()
    tokens = folder / "token"
    for name in (LINE, EVENING):
        Path(f"{tokens}.{name}").write_text(DEFAULT_ACCESS_TOKEN)
    accounts = folder / "accounts.toml"
    accounts.write_text(_accounts(ports, tokens), encoding="utf-8")
    settings = {
        "ACCOUNTS_FILE": str(accounts),
        "USE_MOCK_BROKER": "false",
        API_KEY_NAME: DEFAULT_API_KEY,
        "MAX_RETRY_ATTEMPTS": "30",
        "ORDER_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
    }
    with contextlib.ExitStack() as stack:
        tws = stack.enter_context(tws_server(folder, ports[IBKR], control_port))
        line = stack.enter_context(kite_server(folder, ports[LINE], name="line"))
        evening = stack.enter_context(kite_server(folder, ports[EVENING], name="evening"))
        service = stack.enter_context(Service(folder, **settings))
        service.start()
        venues = {LINE: (line, ports[LINE]), EVENING: (evening, ports[EVENING]), IBKR: (tws, control_port)}
        found = {name: _venue(name, *served) for name, served in venues.items()}
        yield VenueStage(service, found, tokens)


def _venue(name: str, server: Any, control_port: int) -> GatewayVenue:
    venue = GatewayVenue("ibkr" if name == IBKR else "zerodha", server, control_port)
    venue.account_id = name
    return venue


def state(venue: Any) -> dict[str, Any]:
    """What the gateway has heard so far."""
    return dict(venue.do("clear_faults"))


def told(stage: VenueStage, words: str) -> list[str]:
    with stage.service.database() as db:
        return [alert["text"] for alert in db["execution_alerts"].find() if words in alert["text"]]


def shown(stage: VenueStage, *arguments: str) -> list[dict[str, Any]]:
    said = execctl(stage.service, *arguments, "--json", within=PATIENCE_SECONDS)
    assert said.status == 0, said.err
    found: list[dict[str, Any]] = said.json
    return found


def in_the_books(stage: VenueStage, bodies: list[dict[str, Any]], status: str) -> bool:
    return all((stage.record(body["signal_id"]) or {}).get("status") == status for body in bodies)


def test_an_exit_leaves_while_no_cancel_is_taken(stage: VenueStage) -> None:
    venue = stage.venues[LINE]
    entry = stage.body(venue, order_type="MARKET", limit_price=None, tif=None, symbol="RELIANCE")
    stage.publish(entry)
    stage.wait(entry, "FILLED", within=PATIENCE_SECONDS)
    venue.do("line_down")
    resting = [stage.body(venue, tif=None, strategy_name=f"S{n}") for n in range(5)]
    stage.publish(*resting)
    for body in resting:
        stage.wait(body, "SUBMITTED", within=PATIENCE_SECONDS)
    wait_until(lambda: state(venue)["cancels"] >= 5 + 3, "cancels are asked for again", within=PATIENCE_SECONDS)
    time.sleep(6)  # as many again as are wanted, if they were let
    way_out = stage.body(
        venue, "SELL", symbol="RELIANCE", tif="DAY", signal_type="EXIT", entry_signal_id=entry["signal_id"]
    )
    stage.publish(way_out)
    stage.wait(way_out, "SUBMITTED", within=PATIENCE_SECONDS)
    heard = state(venue)
    repeated = heard["cancels"] - 5
    assert repeated <= 4, "a quarter of the calls that are for everybody"
    assert heard["placings"] == 7
    assert in_the_books(stage, resting, "SUBMITTED")


def test_what_is_held_for_the_opening_waits_for_it(stage: VenueStage) -> None:
    ibkr, zerodha = stage.venues[IBKR], stage.venues[EVENING]
    ibkr.do("close_market", until="2099-11-30 09:30:00 US/Eastern")
    ibkr.do("ignore_cancels")
    markets = [
        stage.body(ibkr, order_type="MARKET", limit_price=None, tif=None, strategy_name=f"M{n}") for n in range(4)
    ]
    evening = stage.body(
        zerodha, symbol="RELIANCE", quantity=5, tif=None, product="CNC", variety="amo", strategy_name="Amo"
    )
    stage.publish(*markets, evening)
    for body in (*markets, evening):
        stage.wait(body, "SUBMITTED", within=PATIENCE_SECONDS)
    wait_until(
        lambda: all("Held" in events(stage.record(b["signal_id"]) or {"events": []}) for b in (*markets, evening)),
        "it is recorded that they are held",
        within=PATIENCE_SECONDS,
    )
    wait_until(lambda: len(told(stage, "held until")) >= 2, "people are told", within=PATIENCE_SECONDS)
    held = {row["signal_id"]: row["held"] for row in shown(stage, "orders", "--status", "SUBMITTED") if row["held"]}
    assert {body["signal_id"] for body in (*markets, evening)} <= held.keys()
    assert held[markets[0]["signal_id"]]["until"].startswith("2099-11-30T14:30:00")
    assert held[evening["signal_id"]] == held[evening["signal_id"]] | {"until": None, "message": "AMO REQ RECEIVED"}
    assert sum("4 orders of" in text for text in told(stage, "held until 2099-11-30 14:30:00 UTC")) == 1
    time.sleep(1.5 * TIMEOUT_SECONDS)
    # The night: the token dies, the lists are emptied, the service begins anew.
    zerodha.do("kill_token")
    zerodha.do("new_day")
    stage.service.kill()
    stage.service.start()
    token = zerodha.do("new_token")["access_token"]
    Path(f"{stage.token_file}.{EVENING}").write_text(token)
    wait_until(
        lambda: stage.service.console().count("Broker connected") >= 6, "all are connected", within=PATIENCE_SECONDS
    )
    time.sleep(1.5 * TIMEOUT_SECONDS)
    assert in_the_books(stage, [*markets, evening], "SUBMITTED")
    # A person changes his mind about one of them, and the gateway answers nothing.
    gone = markets.pop()
    stage.publish({"command": "CANCEL", "signal_id": gone["signal_id"], "reason": "no more"}, topic=COMMANDS_TOPIC)
    wait_until(lambda: state(ibkr)["cancels"] == 1, "its cancel is asked for", within=PATIENCE_SECONDS)
    assert state(zerodha)["cancels"] == 0
    # The morning.
    ibkr.do("ignore_cancels", on=False)
    ibkr.do("open_market")
    zerodha.do("pass_on_amo")
    for body in markets:
        stage.wait(body, "FILLED", within=PATIENCE_SECONDS)
    time.sleep(1)
    zerodha.do("fill", order=stage.record(evening["signal_id"])["broker_order_id"])  # type: ignore[index]
    record = stage.wait(evening, "FILLED", within=PATIENCE_SECONDS)
    assert len(zerodha.of(record["client_order_id"])) == 1
    with stage.service.database() as db:
        assert not list(db["execution_discrepancies"].find({"state": "OPEN"}))
    story = stage.service.console()
    assert "Order held for the opening until 2099-11-30 14:30:00 UTC" in story
    assert state(zerodha)["cancels"] == 0
