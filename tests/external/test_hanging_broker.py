"""A broker that accepts connections and never answers, beside one that works, in the real process."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.external.service_process import Listener, Service, embedded_address
from tests.waits import wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.timeout(180),
]
IBKR, KITE = "ibkr", "zerodha"
ORDERS = 40
LONGEST_SECONDS = 60.0


@contextlib.contextmanager
def silence() -> Iterator[tuple[int, list[socket.socket]]]:
    """A port where everybody is let in and nobody is answered; and who came."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        came: list[socket.socket] = []

        def let_in() -> None:
            with contextlib.suppress(OSError):  # the port is closed: it is over
                while True:
                    came.append(server.accept()[0])

        doorman = threading.Thread(target=let_in, daemon=True)
        doorman.start()
        try:
            yield server.getsockname()[1], came
        finally:
            server.shutdown(socket.SHUT_RDWR)
            doorman.join(5)
            for visitor in came:
                visitor.close()


def hanging_account(broker: str, port: int) -> str:
    if broker == IBKR:
        return f'[accounts.hangs]\nbroker = "ibkr"\nibkr_account = "DU000001"\nlive = false\nhost = "127.0.0.1"\nport = {port}\n'
    return '[accounts.hangs]\nbroker = "zerodha"\nlive = false\napi_key = { env = "KITE_API_KEY" }\n'


@pytest.mark.parametrize("broker", [IBKR, KITE])
def test_a_broker_that_never_answers_delays_no_other_account(tmp_path: Path, broker: str) -> None:
    with silence() as (port, came):
        accounts = tmp_path / "accounts.toml"
        accounts.write_text(hanging_account(broker, port) + '[accounts.works]\nbroker = "mock"\n', encoding="utf-8")
        kite = {
            "KITE_API_KEY": "key",
            "KITE_API_SECRET": "secret",
            "KITE_ACCESS_TOKEN": "token",
            "KITE_ROOT_URL": f"http://127.0.0.1:{port}",
        }
        settings = {"USE_MOCK_BROKER": "false", "ACCOUNTS_FILE": str(accounts)} | (kite if broker == KITE else {})
        with Service(tmp_path / "service", **settings) as service:
            service.start()
            wait_until(lambda: came, "the service has come to the broker that never answers")
            with service.pubsub() as pubsub, Listener(embedded_address(service)) as listener:
                for number in range(ORDERS):
                    orders = [order(f"hangs-{number}", "hangs"), order(f"works-{number}", "works")]
                    pubsub.publish(orders)
                works = {f"works-{number}" for number in range(ORDERS)}
                wait_until(
                    lambda: works <= listener.ended_signals(),
                    "the other account's orders are filled",
                    within=LONGEST_SECONDS,
                )
                assert service.book.filled() == ORDERS
                # And as long as it goes on: the account that hangs has had its time-outs by then.
                with service.database() as db:
                    hanging = {"signal_id": {"$regex": "^hangs-"}}
                    stored = db["execution_orders"].count_documents(hanging)
                    sent = db["execution_orders"].count_documents(hanging | {"submitted_at": {"$ne": None}})
                    assert (stored, sent) == (ORDERS, 0)
                pubsub.publish([order("works-later", "works")])
                wait_until(
                    lambda: "works-later" in listener.ended_signals(), "a later order is filled", within=LONGEST_SECONDS
                )


def order(signal_id: str, account_id: str) -> dict[str, object]:
    return {
        "signal_id": signal_id,
        "account_id": account_id,
        "strategy_name": "momentum",
        "symbol": "RELIANCE",
        "side": "BUY",
        "quantity": 1,
        "order_type": "LIMIT",
        "limit_price": 100,
        "exchange": "NSE",
        "product": "MIS",
    }
