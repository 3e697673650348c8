"""Two processes in the middle of a stream of orders: the kill switch is engaged, what is held is flattened, and nothing may fill afterwards."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from tests.external.service_process import PubSub, make_orders
from tests.external.test_replica_processes import fleet_of
from tests.waits import wait_until

FILL_SECONDS = 2.5
"""So long each order rests at the venue, and then fills unless its cancel has come."""


def flattened_after_a_kill_under_load_at_two_processes(folder: Path) -> None:
    """No resting entry refills what was flattened. Raises AssertionError, TimeoutError."""
    with fleet_of(folder, 2, MOCK_FILL_DELAY_SECONDS=str(FILL_SECONDS), MOCK_PARTIAL_FILL_RATE="0") as fleet:
        is_over = threading.Event()
        sent: list[str] = []

        def keep_sending() -> None:
            """Ten purchases a second, of both accounts, whatever happens: none of them takes anything off a position."""
            with PubSub(f"127.0.0.1:{fleet.pubsub.port}") as pubsub:
                for order in make_orders(4000, seed=11):
                    if is_over.is_set():
                        return
                    pubsub.publish([order | {"side": "BUY"}])
                    sent.append(order["signal_id"])
                    time.sleep(0.1)

        sender = threading.Thread(target=keep_sending)
        sender.start()
        try:
            wait_until(lambda: fleet.any.book.filled() > 2, "something is held", more=fleet.consoles)
            wait_until(lambda: fleet.any.book.working() > 2, "something rests", more=fleet.consoles)
            killed = fleet.execctl(*("kill", "all", "--cancel-entries", "--by", "ann", "--reason", "a drill", "--json"))
            assert killed["working_entries"] > 0
            wait_until(lambda: fleet.any.book.working() == 0, "no entry is left that could fill", more=fleet.consoles)
            placed = fleet.book_placed
            flattened = fleet.execctl("flatten", "all", "--person", "ann", "--reason", "a drill", "--json")
            exits = len(json.loads(flattened["outcome"])["orders"])
            assert exits > 0
            with fleet.any.database() as db:
                wait_until(
                    lambda: not db["execution_positions"].count_documents({"is_open": True}),
                    "nothing is held",
                    more=fleet.consoles,
                )
                seen = len(sent)
                wait_until(lambda: len(sent) > seen + 10, "orders come all the while")
        finally:
            is_over.set()
            sender.join()
        with fleet.any.database() as db:
            wait_until(
                lambda: not db["execution_orders"].count_documents({"lookup": "unsettled"}),
                "all has ended",
                more=fleet.consoles,
            )
            assert fleet.book_placed == placed + exits, "but for the exits nothing has left since the kill"
            assert not db["execution_positions"].count_documents({"is_open": True})
            (switch,) = db["execution_kill_switches"].find()
            assert switch["version"] == 1
        assert {order.status for order in fleet.any.book.orders()} <= {"FILLED", "CANCELLED"}
