"""The real process whose part dies: it is begun anew and shown, or the process ends with 1, in order, and the next one goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.external.forked import REPOSITORY
from tests.external.scripts_run import STATUS, run_script
from tests.external.service_process import PROGRAM, Service, is_alive, make_orders
from tests.waits import wait_until

ENTRY = REPOSITORY / "tests" / "external" / "failing_execution_service.py"
FOR_EVER = "1000000"


def status_of(service: Service) -> tuple[int, dict[str, Any]]:
    """Exit status of the status table, and its rows by name."""
    said = run_script(STATUS, "--json", environment=service.environment(), folder=service.folder)
    return said.status, {row["name"]: row for row in said.json["parts"]}


def test_a_part_that_was_begun_anew_works_and_is_shown(tmp_path: Path) -> None:
    with Service(tmp_path, program=ENTRY) as service:
        service.start("pull", "2")
        with service.pubsub() as pubsub:
            pubsub.publish(make_orders(1, seed=1))
        wait_until(lambda: service.book.placed() == 1, "the order has come", more=service.console)
        wait_until(lambda: service.endpoints()["parts"]["pull of orders"]["restarts"] == 2, "the notice tells it")
        status, rows = status_of(service)
        assert status == 0
        assert rows["parts"]["state"] == "up"
        assert rows["part pull of orders"]["state"] == "look"
        assert "restarted 2 times" in rows["part pull of orders"]["detail"]
        assert "the pull broke" in rows["part pull of orders"]["detail"]
        assert service.stop()[0] == 0


def test_a_part_that_cannot_be_kept_alive_ends_the_process_in_order_and_the_next_one_goes_on(tmp_path: Path) -> None:
    with Service(tmp_path, program=ENTRY) as service:
        service.start("writers", FOR_EVER)
        family = service.family()
        with service.pubsub() as pubsub:
            pubsub.publish(make_orders(1, seed=1))
        wait_until(lambda: service.exit_status() is not None, "the process has ended", within=30, more=service.console)
        assert service.exit_status() == 1
        console = service.console()
        assert (
            "Execution service cannot go on: record updates cannot be kept alive, 10 failures in succession" in console
        )
        assert "Execution service stopped" in console
        assert console.strip().splitlines()[-1].startswith("Execution service cannot go on")
        assert not service.endpoints_path.exists()
        wait_until(lambda: not any(is_alive(each) for each in family), "nothing that it started is left")
        assert service.book.placed() == 0
        service.program = PROGRAM
        service.start()
        wait_until(lambda: service.book.filled() == 1, "the order was taken up", more=service.console)
        with service.database() as db:
            kinds = {alert["kind"] for alert in db["execution_alerts"].find()}
            assert {"part_failed:record updates", "part_given_up:record updates"} <= kinds
        assert service.book.placed() == 1
        assert service.stop()[0] == 0


def test_a_start_that_never_ends_heeds_the_signal(tmp_path: Path) -> None:
    with Service(tmp_path, program=ENTRY) as service:
        service.launch("start", FOR_EVER)
        wait_until(lambda: "the start hangs" in service.console(), "it starts", within=30, more=service.console)
        status, seconds = service.stop()
        assert status == 0, service.console()
        assert seconds < 5
        assert "Execution service ready" not in service.console()
        assert "Execution service stopped" in service.console()
