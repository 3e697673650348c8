"""The real service in a far time zone, and gateways that write times in many forms and odd rows: true instants, no fill and no account lost."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from brokers.paper.model import Action, Operation
from simulators.zerodha import DEFAULT_ACCESS_TOKEN, DEFAULT_API_KEY
from tests.external.scripts_run import execctl
from tests.external.service_process import Service, free_port
from tests.external.venues import API_KEY_NAME, GatewayVenue, kite_server, tws_server
from tests.waits import wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.timeout(240),
]

HOST_ZONE = "Pacific/Kiritimati"
"""UTC+14: what is read in the host's zone is far off."""
EXECUTION, QUANTITY = 11, 19
ACCOUNTS = """
[accounts.far]
broker = "ibkr"
live = false
ibkr_account = "DU000001"
host = "127.0.0.1"
port = {port}
poll_seconds = 1
restart_from = "00:00"
restart_until = "00:00"

[accounts.india]
broker = "zerodha"
api_key = {{ env = "{key_name}" }}
access_token_file = "{token_file}"
root_url = "http://127.0.0.1:{kite_port}"
live = false
"""
FORMS = {
    "%Y%m%d-%H:%M:%S": "UTC",
    "%Y%m%d %H:%M:%S US/Central": "America/Chicago",
    "%Y%m%d %H:%M:%S MET": "Europe/Paris",
    "%Y%m%d %H:%M:%S GB-Eire": "Europe/London",
    "%Y%m%d %H:%M:%S 中国标准时间": "Asia/Shanghai",
    "%Y%m%d  %H:%M:%S": "America/New_York",
}


class Stand:
    """Two gateways, and a service that trades through them."""

    def __init__(self, venue: GatewayVenue, kite: GatewayVenue, service: Service) -> None:
        self.venue = venue
        self.kite = kite
        self.service = service

    def send(self, **changes: Any) -> str:
        signal_id = f"far-{uuid.uuid4().hex[:12]}"
        body = {"signal_id": signal_id, "account_id": "far", "strategy_name": "Far", "symbol": "SPY", "side": "BUY"}
        body |= {"order_type": "MARKET", "quantity": 10, "price": 100.25} | changes
        with self.service.pubsub() as pubsub:
            pubsub.publish([body])
        return signal_id

    def record(self, signal_id: str) -> dict[str, Any]:
        with self.service.database() as db:
            return db["execution_orders"].find_one({"signal_id": signal_id}) or {}

    def wait(self, signal_id: str, status: str = "FILLED") -> dict[str, Any]:
        wait_until(
            lambda: self.record(signal_id).get("status") == status,
            f"{signal_id} is {status}",
            within=60,
            pause=0.05,
            more=lambda: f"{self.record(signal_id)}\n{self.service.console()[-3000:]}",
        )
        return self.record(signal_id)

    def fill_and_truth(self, signal_id: str, venue: GatewayVenue | None = None) -> tuple[dict[str, Any], datetime]:
        record = self.wait(signal_id)
        (fill,) = [event["fill"] for event in record["events"] if event["type"] == "Filled"]
        (order,) = (venue or self.venue).of(record["client_order_id"])
        return fill, datetime.fromisoformat(order["fills"][0]["time"])


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("times")
    port, control_port, kite_port = free_port(), free_port(), free_port()
    token_file = folder / "access_token"
    token_file.write_text(DEFAULT_ACCESS_TOKEN)
    accounts = ACCOUNTS.format(port=port, kite_port=kite_port, key_name=API_KEY_NAME, token_file=token_file)
    (folder / "accounts.toml").write_text(accounts, encoding="utf-8")
    settings = {"USE_MOCK_BROKER": "false", "ACCOUNTS_FILE": str(folder / "accounts.toml"), "TZ": HOST_ZONE}
    settings |= {API_KEY_NAME: DEFAULT_API_KEY}
    with tws_server(folder, port, control_port) as server, kite_server(folder, kite_port) as kite:
        venue = GatewayVenue("ibkr", server, control_port)
        venue.do("greet_with", form="%Y%m%d %H:%M:%S US/Eastern", zone="America/New_York")
        with Service(folder / "service", **settings) as service:
            service.start()
            yield Stand(venue, GatewayVenue("zerodha", kite, kite_port), service)


def test_fills_have_their_true_times_on_a_host_in_another_zone(stand: Stand) -> None:
    for form, zone in FORMS.items():
        stand.venue.do("write_times", form=form, zone=zone)
        fill, truth = stand.fill_and_truth(stand.send())
        assert fill["time"].replace(tzinfo=UTC) == truth.replace(microsecond=0), form
        assert not fill.get("is_time_estimated"), form


@pytest.mark.parametrize("form", ["%Y%m%d %H:%M:%S XYZ", "nonsense", ""])
def test_a_time_that_cannot_be_read_loses_neither_fill_nor_account(stand: Stand, form: str) -> None:
    stand.venue.do("write_times", form=form)
    signal_id = stand.send()
    fill, truth = stand.fill_and_truth(signal_id)
    assert fill["is_time_estimated"] is True
    assert abs((fill["time"].replace(tzinfo=UTC) - truth).total_seconds()) < 60
    tag = stand.record(signal_id)["client_order_id"]
    assert [line for line in stand.service.console().splitlines() if tag in line and fill["fill_id"] in line]
    assert "(estimated)" in execctl(stand.service, "order", signal_id, COLUMNS="250").out
    assert "Broker connection lost" not in stand.service.console()


def test_the_estimated_time_of_a_fill_stays_when_it_is_heard_again_after_a_restart(stand: Stand) -> None:
    stand.venue.do("write_times", form="nonsense")
    signal_id = stand.send()
    before = stand.wait(signal_id)
    assert stand.service.stop()[0] == 0
    stand.service.start()
    stand.wait(stand.send())
    after = stand.record(signal_id)
    assert after["events"] == before["events"] or after["events"][: len(before["events"])] == before["events"]
    assert [event["type"] for event in after["events"]].count("Filled") == 1


def test_one_row_that_cannot_be_read_stops_nothing_else(stand: Stand) -> None:
    stand.venue.do("write_times", form="%Y%m%d-%H:%M:%S")
    stand.venue.fault(Operation.PLACE, Action.HOLD)
    odd = stand.send(tif="DAY")
    tag = stand.wait(odd, "SUBMITTED")["client_order_id"]
    stand.venue.do("garble", message=EXECUTION, field=QUANTITY, named=tag)
    stand.venue.do("fill", order=tag)
    for _ in range(3):
        stand.wait(stand.send())
    wait_until(
        lambda: any(event.get("alert") for event in stand.record(odd)["events"]), "it is told", within=60, pause=0.1
    )
    assert stand.record(odd)["status"] == "SUBMITTED"
    notes = [event["message"] for event in stand.record(odd)["events"] if event["type"] == "Noted"]
    assert "cannot be read" in notes[0]
    assert "Broker connection lost" not in stand.service.console()
    stand.venue.do("garble")
    stand.wait(odd)


def test_odd_rows_of_zerodha_lose_neither_fill_nor_account(stand: Stand) -> None:
    stand.kite.fault(Operation.PLACE, Action.HOLD, times=2)
    indian = {"account_id": "india", "symbol": "INFY", "order_type": "LIMIT", "limit_price": "100.25", "tif": "DAY"}
    tags = {}
    for name in ("untimed", "odd"):
        signal_id = stand.send(**indian)
        tags[name] = (signal_id, stand.wait(signal_id, "SUBMITTED")["client_order_id"])
    times = dict.fromkeys(("fill_timestamp", "exchange_timestamp", "order_timestamp"), "0001-01-01 00:00:00")
    stand.kite.do("show_oddly", route="GET /trades", order=tags["untimed"][1], fields=times)
    stand.kite.do("show_oddly", route="GET /orders", order=tags["odd"][1], fields={"filled_quantity": "ten"})
    signal_id = tags["odd"][0]
    wait_until(  # A look that began before the row was odd may find the fill among the trades.
        lambda: any(event["type"] == "Noted" for event in stand.record(signal_id)["events"]), "it is told", within=60
    )
    for _, tag in tags.values():
        stand.kite.do("fill", order=tag)
    fill, truth = stand.fill_and_truth(tags["untimed"][0], stand.kite)
    assert fill["is_time_estimated"] is True
    assert abs((fill["time"].replace(tzinfo=UTC) - truth).total_seconds()) < 60
    stand.wait(stand.send(**indian))
    assert stand.record(signal_id)["status"] == "SUBMITTED"
    stand.kite.do("clear_faults")
    stand.wait(signal_id)
    assert "Broker connection lost" not in stand.service.console()
