"""The demo with the real adapters: the gateway that pretends to be the broker, the service, a test signal, and the end of both."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from scripts.locate import Notice
from scripts.mvp_demo_status import accounts_shown
from simulators.catalogue import programs, simulator_of
from tests.external.service_process import end
from tests.external.test_scripts import EXECCTL, SEND, START, STATUS, People
from tests.external.venues import PLAYED_EACH_TIME

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    # Whatever the user has configured is not the demo's: it has accounts of its own.
    found = People(tmp_path)
    found.service.settings |= {"KITE_API_KEY": "the-users-own", "IBKR_PORT": "9"}
    try:
        yield found
    finally:
        found.call(START, "--stop")
        mine = [p for p in psutil.process_iter(["environ"]) if is_of(p, found.service.data_dir)]
        end([*found.ever, *mine])


def is_of(process: psutil.Process, data_dir: Path) -> bool:
    return (process.info["environ"] or {}).get("DATA_DIR") == str(data_dir) and process.pid != os.getpid()


@pytest.mark.parametrize("broker", [broker for broker in programs() if broker in PLAYED_EACH_TIME])
def test_the_demo_trades_through_the_real_adapter_and_ends_whole(people: People, broker: str) -> None:
    simulator = simulator_of(broker)
    said = people.call(START, "--broker", broker)
    assert said.status == 0, said.err
    assert simulator.demo_account_id in said.out
    assert f"--file {simulator.samples[0]}" in said.out

    sent = people.call(SEND, "--file", *simulator.samples[0].split(), "--json")
    assert sent.status == 0, sent.err
    (order,) = sent.json["orders"]
    assert (order["status"], order["confirmation"]["broker"]) == ("FILLED", broker.upper())

    status = people.call(STATUS, "--json")
    assert status.status == 0, status.out
    (gateway,) = [part for part in status.json["parts"] if part["name"] == "simulated gateway"]
    assert f"{broker}, process" in gateway["detail"]
    assert re.search(r", \d+ orders? in its book", gateway["detail"]), gateway  # with those that protect it

    compared = people.call(EXECCTL, "reconcile")
    assert (compared.status, simulator.demo_account_id in compared.out) == (0, True), compared.out
    assert stat.S_IMODE(people.service.data_dir.stat().st_mode) == 0o700

    if broker == "ibkr":
        sent = people.call(SEND, "--file", "futures_gc_1.json", "--account", simulator.demo_account_id, "--json")
        assert [order["status"] for order in sent.json["orders"]] == ["FILLED"], sent.out

    other = people.call(START, "--broker", "mock")
    assert other.status == 1
    assert f"simulated {broker} broker: first stop it" in other.err
    again = people.call(START, "--broker", broker)
    assert (again.status, "Already running" in again.out) == (0, True)

    stopped = people.call(START, "--stop")
    assert stopped.status == 0, stopped.err
    assert stopped.out.count("Stopped:") == 2
    assert people.call(STATUS).status == 1
    assert [p for p in psutil.process_iter(["environ"]) if is_of(p, people.service.data_dir)] == []


def test_what_the_mock_has_traded_for_the_demos_account_is_no_discrepancy_of_the_demo(people: People) -> None:
    assert people.call(START).status == 0
    assert people.call(SEND, "--file", "nse_equity_1.json").status == 0
    assert people.call(START, "--stop").status == 0
    assert people.call(START, "--broker", "zerodha").status == 0
    compared = people.call(EXECCTL, "reconcile")
    assert compared.status == 0, compared.out
    assert people.call(EXECCTL, "discrepancies", "--json").json == []
    assert people.call(EXECCTL, "orders", "--json").json == []
    assert people.call(SEND, "--file", "nse_equity_1.json").status == 0
    assert people.call(EXECCTL, "reconcile").status == 0


def test_a_gateway_that_was_killed_is_down_and_is_started_again_on_its_book(people: People) -> None:
    assert people.call(START, "--broker", "zerodha").status == 0
    assert people.call(SEND, "--file", "nse_equity_1.json").status == 0
    (gateway,) = [
        p
        for p in psutil.process_iter(["environ", "cmdline"])
        if is_of(p, people.service.data_dir) and "simulators.zerodha" in p.info["cmdline"]
    ]
    gateway.kill()
    gateway.wait()
    status = people.call(STATUS, "--json")
    assert status.status == 1
    down = {part["name"] for part in status.json["parts"] if not part["is_up"]}
    # The service notices its broker's absence with its next question.
    assert {"simulated gateway"} <= down <= {"simulated gateway", "account Zerodha_Demo"}
    assert people.call(START, "--stop").status == 0
    assert people.call(START, "--broker", "zerodha").status == 0
    status = people.call(STATUS, "--json")
    assert re.search(r", \d+ orders? in its book", str(status.json["parts"]))


def test_of_many_accounts_only_those_in_trouble_are_named() -> None:
    good = {"broker": "MOCK", "state": "CONNECTED", "trouble": ""}
    dead = {"broker": "ZERODHA", "state": "AUTH_REQUIRED", "trouble": "log in at Zerodha"}
    accounts = {**{f"m{n}": good for n in range(30)}, "z": dead}
    assert [(p.name, p.is_up, p.detail) for p in accounts_shown(notice_with(accounts))] == [
        ("accounts", True, "30 of 31 CONNECTED"),
        ("account z", False, "ZERODHA AUTH_REQUIRED: log in at Zerodha"),
    ]
    assert len(accounts_shown(notice_with({"m": good, "z": dead}))) == 2


def notice_with(accounts: Mapping[str, Mapping[str, str]]) -> Notice:
    return Notice(
        pid=1,
        mongodb_uri=None,
        mongodb_database="db",
        pubsub_emulator_host=None,
        google_cloud_project="project",
        accounts=accounts,
    )


def test_the_demo_takes_a_broker_of_another_distribution(people: People) -> None:
    """Its package is on Python's path, and that is all."""
    people.service.settings["PYTHONPATH"] = str(Path(__file__).parents[1] / "contract" / "toy_broker")
    said = people.call(START, "--broker", "toy")
    assert said.status == 0, said.err
    assert "Toy_Demo" in said.out
    sent = people.call(SEND, "--file", "equity_simple_signal_1.json", "--account", "Toy_Demo", "--json")
    assert sent.status == 0, sent.err
    (order,) = sent.json["orders"]
    assert (order["status"], order["confirmation"]["broker"]) == ("FILLED", "TOY")
    status = people.call(STATUS, "--json")
    assert re.search(r", \d+ orders? in its book", str(status.json["parts"]))
    assert people.call(START, "--stop").status == 0
