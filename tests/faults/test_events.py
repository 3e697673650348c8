"""The service is killed at each step of an event's way, from Redis and back to it: one order each, and everything told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.redis_servers import redis_server
from tests.external.test_events_process import DECISION, GROUP, Bus, decision, service_on
from tests.faults.stage import ENTRY
from tests.waits import wait_until

STEPS = (
    *("after store.insert_orders", "before event.ack", "after event.ack"),
    *("before store.append", "after broker.place_order", "after store.save_ledgers", "after events.deliver"),
)


@pytest.mark.timeout(240)
def test_service_killed_at_each_step_of_an_event_places_one_order_and_tells_it(tmp_path: Path) -> None:
    kill = tmp_path / "kill"
    kill.write_text("")
    watch = {"FAULTS_KILL": str(kill), "FAULTS_CROSSINGS": str(tmp_path / "crossings")}
    with redis_server(tmp_path) as server, service_on(server, tmp_path / "service", **watch) as service:
        service.program = ENTRY
        bus = Bus(server)
        service.start()
        wait_until(lambda: bus.is_read, "the group is there")
        for number, step in enumerate(STEPS):
            kill.write_text(f"{number} {step}#1")
            bus.publish(decision(f"C{number}USDT"))
            wait_until(lambda: service.exit_status() is not None, f"it is killed {step}", more=service.console)
            kill.write_text("")
            service.start()
            wait_until(
                lambda n=number: bus.filled(f"C{n}USDT"), f"it is told after the kill {step}", more=service.console
            )
        wait_until(lambda: bus.redis.xpending(f"quantum:stream:{DECISION}", GROUP)["pending"] == 0, "all acknowledged")
        assert service.book.placed() == len(STEPS)
        ids = {body["event_id"] for body in bus.payloads("trade.opened")}
        assert len(ids) == len(STEPS)
        assert service.stop()[0] == 0
