"""Part of a position is squared off past the running service: a person looks, adopts it, the comparison is clean, and the exit sells the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from brokers.base import Side
from tests.external.scripts_run import execctl
from tests.external.service_process import Service, wait_until_settled
from tests.external.test_reconciled_process import ACCOUNT, BOUGHT, rows, trade_by_hand
from tests.waits import wait_until

EXIT = BOUGHT | {"signal_id": "sig_2", "signal_type": "EXIT", "entry_signal_id": "sig_1", "side": "SELL"}
SAID = ("--account", ACCOUNT, "--strategy", "Trend", "--symbol", "SPY", "--by", "Ann", "--reason", "contract note")


def status_and_filled(service: Service, signal_id: str) -> tuple[str, str]:
    with service.database() as db:
        found = db["execution_orders"].find_one({"signal_id": signal_id})
        return ("", "") if found is None else (found["status"], found["filled_quantity"])


def held(service: Service) -> list[tuple[str, float]]:
    with service.database() as db:
        return [(d["symbol"], d["quantity"]) for d in db["positions"].find({"status": "OPEN"})]


def adopted(service: Service, *arguments: str) -> dict[str, Any]:
    said = execctl(service, "adopt", *arguments, "--json")
    assert said.status == 0, said.out + said.err
    found: dict[str, Any] = said.json
    return found


@pytest.mark.timeout(600)
def test_a_square_off_is_adopted_and_the_exit_sells_the_rest(tmp_path: Path) -> None:
    accounts = tmp_path / "accounts.toml"
    accounts.write_text(f'[accounts.{ACCOUNT}]\nname = "One"\nbroker = "mock"\n', encoding="utf-8")
    with Service(tmp_path / "desk", RECONCILE_INTERVAL_SECONDS="2", ACCOUNTS_FILE=str(accounts)) as service:
        service.start()
        with service.pubsub() as pubsub:
            pubsub.publish([BOUGHT])
        wait_until_settled(service, 1)
        trade_by_hand(service, Side.SELL, 40, "squared-off")
        wait_until(lambda: rows(service, "OPEN"), "the difference is open", within=120, more=service.log)

        squared_off = ("square-off", *SAID, "--quantity", "40", "--price", "230")
        said = execctl(service, "adopt", *squared_off, "--dry-run")
        assert said.status == 0, said.out + said.err
        assert "To be recorded: SELL 40 SPY|STOCK at 230, of entry sig_1" in said.out
        assert "Nothing was done: --dry-run." in said.out
        (row,) = [line for line in said.out.splitlines() if "Trend" in line]
        assert row.replace("|", " ").split()[2:] == ["STOCK", "100", "235.15", "60", "235.15", "-206", "60"]
        assert held(service) == [("SPY", 100.0)]

        done = adopted(service, *squared_off)
        assert (done["status"], done["plan"]["holdings"][0]["brokers"]) == ("DONE", "60")
        wait_until(lambda: rows(service, "OPEN") == 0, "the difference is closed", within=120, more=service.log)
        said = execctl(service, "reconcile", ACCOUNT)
        assert (said.status, said.out) == (
            0,
            f"{ACCOUNT}: Reconciled: 0 open orders, 1 execution, 1 position agree; not ours and left alone: 1 order\n",
        )
        with service.pubsub() as pubsub:
            pubsub.publish([EXIT])
        wait_until(
            lambda: status_and_filled(service, "sig_2") == ("FILLED", "60"),
            "the rest is sold",
            within=120,
            more=service.log,
        )
        wait_until(lambda: held(service) == [], "nothing is held", within=60, more=service.log)

        # With nothing running it is stored, and done at the next start.
        service.stop()
        trade_by_hand(service, Side.BUY, 5, "by-hand")
        bought = ("trade", *SAID, "--side", "BUY", "--quantity", "5", "--price", "235.15")
        said = execctl(service, "adopt", *bought)
        assert said.status == 0, said.out + said.err
        assert "it will be carried out by the service at its next start" in said.out
        service.start()
        wait_until(lambda: held(service) == [("SPY", 5.0)], "it is held", within=60, more=service.log)
        said = execctl(service, "order", "sig_1")
        assert said.status == 0
        assert "(square-off)" in said.out
