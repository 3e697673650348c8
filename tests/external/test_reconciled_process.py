"""The broker's book is changed behind the running service's back: one alert, one row that people can see, closed when the book is restored."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Instrument, OrderType, Side, Ticket
from brokers.paper.exchange import PaperExchange
from tests.external.scripts_run import STATUS, Said, execctl, run_script
from tests.external.service_process import Service, wait_until_settled
from tests.waits import wait_until

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


def status_table(service: Service) -> str:
    return run_script(STATUS, environment=service.environment(), folder=service.folder, within=120).out


def listed(service: Service, *arguments: str) -> list[dict[str, Any]]:
    said = execctl(service, "discrepancies", "--json", *arguments)
    assert said.status == 0, said.err
    found: list[dict[str, Any]] = said.json
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
        words = f"{ACCOUNT}: Reconciled: 0 open orders, 1 execution, 1 position agree\n"
        assert execctl(service, "reconcile") == Said(status=0, out=words, err="")
        trade_by_hand(service, Side.BUY, 50, "by-hand-1")
        wait_until(lambda: rows(service, "OPEN"), "the difference is open", within=120, more=service.log)
        (row,) = listed(service)
        assert (row["kind"], row["ours"], row["theirs"]) == ("POSITION_DIFFERS", "100", "150")
        assert (row["state"], row["owner"], row["account_id"]) == ("OPEN", "OPERATOR", ACCOUNT)
        said = execctl(service, "reconcile", ACCOUNT)
        assert said.status == 1
        assert "Not reconciled" in said.out
        assert "open: Position differs: SPY|STOCK: ours 100; the broker's 150" in said.out
        assert alerts(service) == 1
        assert "1 open; see execctl discrepancies" in status_table(service)

        times = service.log().count("Not reconciled")
        service.kill()
        service.start()
        wait_until(
            lambda: service.log().count("Not reconciled") > times, "it is seen again", within=120, more=service.log
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

        said = execctl(service, "reconcile", ACCOUNT)
        assert (said.status, said.out) == (1, "")
        assert "nothing was compared" in said.err
