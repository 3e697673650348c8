"""The broker's book is changed behind the running service's back: one alert, one row that people can see, closed when the book is restored."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Instrument, OrderType, Side, Ticket
from brokers.paper.exchange import PaperExchange
from tests.external.service_process import REPOSITORY, Service, wait_until_settled
from tests.waits import wait_until

EXECCTL = REPOSITORY / "scripts" / "execctl.py"
STATUS = REPOSITORY / "scripts" / "mvp_demo_status.py"
ACCOUNT = "acc_one"
BOUGHT = {
    "signal_id": "sig_1",
    "symbol": "SPY",
    "side": "BUY",
    "order_type": "LIMIT",
    "limit_price": "235.15",
    "quantity": 100,
    "account_id": ACCOUNT,
    "strategy_name": "Trend",
}


def trade_by_hand(service: Service, side: Side, quantity: int, name: str) -> None:
    """In the mock broker's own book, past the service."""
    book = PaperExchange(service.data_dir / "mock_broker.db", account_id=ACCOUNT)
    ticket = Ticket(
        client_order_id=name,
        instrument=Instrument(symbol="SPY"),
        side=side,
        quantity=Decimal(quantity),
        order_type=OrderType.LIMIT,
        limit_price=Decimal("235.15"),
    )
    try:
        book.place(ticket)
        book.advance()
    finally:
        book.close()


def execctl(service: Service, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, str(EXECCTL), *arguments],
        env=service.environment(),
        cwd=service.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def status_table(service: Service) -> str:
    done = subprocess.run(
        [sys.executable, str(STATUS)],
        env=service.environment(),
        cwd=service.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.stdout.decode()


def listed(service: Service, *arguments: str) -> list[dict[str, Any]]:
    status, out, err = execctl(service, "discrepancies", "--json", *arguments)
    assert status == 0, err
    found: list[dict[str, Any]] = json.loads(out)
    return found


def rows(service: Service, state: str) -> int:
    with service.database() as db:
        return db["execution_discrepancies"].count_documents({"state": state})


def alerts(service: Service) -> int:
    with service.database() as db:
        return db["execution_alerts"].count_documents({"kind": f"discrepancy:{ACCOUNT}"})


@pytest.mark.timeout(600)
def test_book_changed_behind_the_services_back_is_said_once_shown_and_closed_when_restored(tmp_path: Path) -> None:
    accounts = tmp_path / "accounts.toml"
    accounts.write_text(f'[accounts.{ACCOUNT}]\nname = "One"\nbroker = "mock"\n', encoding="utf-8")
    settings = {"RECONCILE_INTERVAL_SECONDS": "2", "ACCOUNTS_FILE": str(accounts)}
    with Service(tmp_path / "desk", **settings) as service:
        service.start()
        with service.pubsub() as pubsub:
            pubsub.publish([BOUGHT])
        wait_until_settled(service, 1)
        assert execctl(service, "reconcile") == (
            0,
            f"{ACCOUNT}: Reconciled: 0 open orders, 1 execution, 1 position agree\n",
            "",
        )
        trade_by_hand(service, Side.BUY, 50, "by-hand-1")
        wait_until(lambda: rows(service, "OPEN"), "the difference is open", within=120, more=service.log)
        (row,) = listed(service)
        assert (row["kind"], row["ours"], row["theirs"]) == ("POSITION_DIFFERS", "100", "150")
        assert (row["state"], row["owner"], row["account_id"]) == ("OPEN", "OPERATOR", ACCOUNT)
        status, out, _ = execctl(service, "reconcile", ACCOUNT)
        assert status == 1
        assert "Not reconciled" in out
        assert "open: Position differs: SPY|STOCK: ours 100; the broker's 150" in out
        assert alerts(service) == 1
        assert "1 open; see execctl discrepancies" in status_table(service)

        said = service.log().count("Not reconciled")
        service.kill()
        service.start()
        wait_until(
            lambda: service.log().count("Not reconciled") > said, "it is seen again", within=120, more=service.log
        )
        assert rows(service, "OPEN") == 1
        assert alerts(service) == 1

        trade_by_hand(service, Side.SELL, 50, "by-hand-2")
        wait_until(lambda: rows(service, "CLOSED"), "the difference is closed", within=120, more=service.log)
        (closed,) = listed(service, "--all")
        assert (closed["discrepancy_id"], closed["state"]) == (row["discrepancy_id"], "CLOSED")
        assert alerts(service) == 1
        assert service.log().count("Discrepancy opened") == 1
        assert service.log().count("Discrepancy closed") == 1
        service.stop()

        status, out, err = execctl(service, "reconcile", ACCOUNT)
        assert (status, out) == (1, "")
        assert "nothing was compared" in err
