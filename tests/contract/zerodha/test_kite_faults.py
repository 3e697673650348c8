"""Every trouble of the simulated Kite's fault plan, asked for from another process as an operator or a test does, and seen by the library."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from kiteconnect import KiteConnect
from kiteconnect import exceptions as kite_errors

from simulators.zerodha import DEFAULT_ACCESS_TOKEN, DEFAULT_API_KEY
from tests.waits import wait_until

ROOT = Path(__file__).parents[3]
READ_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Kite:
    """The program, reached as anybody reaches it."""

    url: str

    def do(self, what: str, **wish: object) -> dict[str, Any]:
        answer = requests.post(f"{self.url}/_control", json={"do": what, **wish}, timeout=5)
        assert answer.status_code == 200, answer.text
        said: dict[str, Any] = answer.json()
        return said

    def book(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = requests.get(f"{self.url}/_control/orders", timeout=5).json()["orders"]
        return found

    def client(self, token: str = DEFAULT_ACCESS_TOKEN) -> KiteConnect:
        return KiteConnect(DEFAULT_API_KEY, access_token=token, root=self.url, timeout=(READ_SECONDS, READ_SECONDS))

    def fault(self, operation: str, action: str, **fields: object) -> None:
        self.do("fault", fault={"operation": operation, "action": action, **fields})

    def http_fault(self, kind: str, **fields: object) -> None:
        self.do("http_fault", fault={"kind": kind, **fields})


@pytest.fixture
def kite(tmp_path: Path) -> Iterator[Kite]:
    command = [sys.executable, "-m", "simulators.zerodha", "--port", "0", "--data", str(tmp_path / "kite.db")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        yield Kite(lines[1].strip().partition("=")[2])
    finally:
        process.terminate()
        process.communicate(timeout=10)


def place(kite: Kite, **changes: object) -> str:
    form: dict[str, Any] = {
        "variety": "regular",
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "transaction_type": "BUY",
        "quantity": 10,
        "product": "CNC",
        "order_type": "LIMIT",
        "price": 100,
        "validity": "DAY",
        "tag": "tagged",
    }
    return str(kite.client().place_order(**(form | changes)))


def error_of(kite: Kite) -> type[Exception]:
    with pytest.raises(Exception) as caught:  # noqa: PT011  which one is what is asked
        place(kite)
    return caught.type


def is_network(kind: type[Exception]) -> bool:
    return issubclass(kind, requests.RequestException)


def test_what_is_refused_is_not_in_the_book(kite: Kite) -> None:
    kite.fault("place", "refuse", reason="Market closed")
    assert error_of(kite) is kite_errors.InputException
    assert kite.book() == []


@pytest.mark.parametrize(
    ("action", "is_taken"),
    [("accept_then_drop", True), ("drop_before_accept", False), ("never_answer", True)],
)
def test_an_answer_that_does_not_come_says_nothing_about_the_order(kite: Kite, action: str, is_taken: bool) -> None:
    kite.fault("place", action)
    assert is_network(error_of(kite))
    assert len(kite.book()) == is_taken


def test_a_slow_answer_comes(kite: Kite) -> None:
    kite.fault("place", "slow", seconds=0.3)
    began = time.monotonic()
    place(kite)
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(
    ("kind", "fields", "error"),
    [
        ("rate_limited", {}, kite_errors.NetworkException),
        ("html", {"status": 502}, kite_errors.DataException),
        ("check_order_book", {"accepted": True}, kite_errors.OrderException),
        ("token_expired", {}, kite_errors.TokenException),
        ("margin", {}, kite_errors.GeneralException),
        ("server_error", {}, kite_errors.GeneralException),
    ],
)
def test_an_error_answer_has_its_kind(kite: Kite, kind: str, fields: dict[str, object], error: type[Exception]) -> None:
    kite.http_fault(kind, **fields)
    assert error_of(kite) is error
    assert len(kite.book()) == bool(fields.get("accepted"))
    place(kite)  # once, and no more


def test_an_order_may_come_into_the_book_late(kite: Kite) -> None:
    kite.http_fault("check_order_book", accepted=True, late_seconds=0.2)
    assert error_of(kite) is kite_errors.OrderException
    wait_until(lambda: len(kite.book()) == 1)


@pytest.mark.parametrize("action", ["duplicate", "reorder", "hide"])
def test_the_list_of_orders_may_be_distorted(kite: Kite, action: str) -> None:
    ids = [place(kite, tag=f"tag{n}") for n in range(2)]
    kite.fault("reports", action)
    shown = [order["order_id"] for order in kite.client().orders()]
    assert shown == {"duplicate": [ids[0], ids[0], ids[1], ids[1]], "reorder": ids[::-1], "hide": []}[action]
    assert [order["order_id"] for order in kite.client().orders()] == ids


def test_a_cancel_may_be_overtaken_by_a_fill(kite: Kite) -> None:
    kite.fault("place", "hold")
    kite.fault("cancel", "cancel_race")
    order_id = place(kite)
    kite.client().cancel_order("regular", order_id)
    assert kite.client().orders()[0]["status"] == "COMPLETE"


def test_a_cancelled_order_may_be_filled_late(kite: Kite) -> None:
    kite.fault("place", "hold")
    kite.fault("cancel", "late_fill_after_cancel", quantity=3, seconds=0.2)
    order_id = place(kite)
    kite.client().cancel_order("regular", order_id)
    wait_until(lambda: kite.client().orders()[0]["filled_quantity"] == 3)
    assert kite.client().orders()[0]["status"] == "CANCELLED"


def test_a_trade_may_be_corrected(kite: Kite) -> None:
    place(kite)
    (order,) = kite.book()
    kite.do("correct", fill_id=order["fills"][0]["fill_id"], price="99.5")
    assert [trade["average_price"] for trade in kite.client().trades()] == [99.5]


def test_a_commission_may_come_late(kite: Kite) -> None:
    kite.fault("place", "late_commission", seconds=60)
    order_id = place(kite)
    note = {"order_id": order_id, "exchange": "NSE", "tradingsymbol": "INFY", "transaction_type": "BUY", "variety": "regular",
            "product": "CNC", "order_type": "LIMIT", "quantity": 10, "average_price": 100}  # fmt: skip
    with pytest.raises(kite_errors.DataException):
        kite.client().get_virtual_contract_note([note])
    kite.do("commission", fill_id=kite.book()[0]["fills"][0]["fill_id"], commission="2.5")
    assert kite.client().get_virtual_contract_note([note])[0]["charges"]["total"] == 2.5


def test_a_session_may_die_and_another_be_opened(kite: Kite) -> None:
    kite.do("kill_token")
    assert error_of(kite) is kite_errors.TokenException
    token = kite.do("new_token")["access_token"]
    assert kite.client(token).orders() == []


def test_the_gateway_may_restart_and_keeps_its_book(kite: Kite) -> None:
    place(kite)
    kite.do("restart", closed_seconds=0.5)
    wait_until(lambda: not answers(kite))
    wait_until(lambda: answers(kite))
    assert len(kite.client().orders()) == 1


def answers(kite: Kite) -> bool:
    try:
        kite.client().orders()
    except requests.RequestException:
        return False
    return True
