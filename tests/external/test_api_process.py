"""The real service and its HTTP API from outside: where it listens, who may call, the calls as spec 002 writes them, slow callers, its end."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.external.scripts_run import execctl
from tests.external.service_process import Service, free_port
from tests.waits import wait_until

BODY = """{
    "symbol": "BTCUSDT",
    "side": "long",
    "quantity": 0.001,
    "price": 50000,
    "leverage": 10,
    "stop_loss": 49000,
    "take_profit": 52000
  }"""
JSON = {"Content-Type": "application/json"}
OWN_PROCESS = {"API_OWN_PROCESS": "true"}


def address(service: Service) -> str:
    return str(service.endpoints()["api"])


def shown(service: Service, *arguments: str) -> Any:
    said = execctl(service, *arguments, "--json", within=60)
    assert said.status == 0, said.err
    return said.json


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that leave it open to this machine."""
    with Service(tmp_path_factory.mktemp("api"), POSITION_MONITOR_INTERVAL_SEC="0", **OWN_PROCESS) as service:
        service.start()
        yield service


def test_the_calls_of_spec_002_work_as_they_are_written(running: Service) -> None:
    base = address(running).replace("127.0.0.1", "localhost")
    health = httpx.get(f"{base}/health").json()
    assert (health["service"], health["status"], health["mode"]) == ("execution-service", "OK", "PAPER")
    placed = httpx.post(f"{base}/api/execution/order", content=BODY, headers=JSON)
    assert (placed.status_code, placed.json()["success"]) == (200, True), placed.text

    def positions() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx.get(f"{base}/api/execution/positions").json()["positions"]
        return found

    (position,) = wait_until(positions, "the position is shown")
    assert (position["symbol"], position["side"], position["quantity"]) == ("BTCUSDT", "LONG", 0.001)
    closed = httpx.get(f"{base}/api/execution/trades?limit=50&status=closed").json()
    assert closed["closed_trades"] == len(closed["trades"])
    assert running.book.placed() == 1
    name = placed.headers["idempotency-key"]
    again = httpx.post(f"{base}/api/execution/order", content=BODY, headers={**JSON, "Idempotency-Key": name})
    assert again.headers["idempotency-replayed"] == "true"
    assert running.book.placed() == 1
    assert "execution_orders_stored" in httpx.get(f"{base}/metrics").text


def test_a_port_that_is_taken_is_a_wrong_setting(running: Service, tmp_path: Path) -> None:
    port = address(running).rpartition(":")[2]
    with Service(tmp_path, API_PORT=port) as other:
        status, printed = other.run()
    assert status == 2
    (line,) = printed.strip().splitlines()
    assert line.startswith(f"Configuration: API_HOST and API_PORT: 127.0.0.1:{port} cannot be listened at: ")


def test_an_address_that_others_reach_is_refused_without_a_token(tmp_path: Path) -> None:
    with Service(tmp_path, API_HOST="0.0.0.0") as service:
        status, printed = service.run()
        assert status == 2, printed
        assert "Configuration: API_HOST is 0.0.0.0, which others can reach, and there is no token" in printed
        assert "Traceback" not in printed


def test_an_address_that_others_reach_is_served_to_those_with_a_token(tmp_path: Path) -> None:
    canary = "canary-token-QZJXK"
    with Service(tmp_path, API_HOST="0.0.0.0", API_TOKEN=canary, **OWN_PROCESS) as service:
        service.start()
        base = f"http://127.0.0.1:{address(service).rpartition(':')[2]}"
        assert httpx.get(f"{base}/api/execution/orders").status_code == 401
        with_token = {"Authorization": f"Bearer {canary}"}
        assert httpx.get(f"{base}/api/execution/orders", headers=with_token).status_code == 200
        made = shown(service, "token", "create", "--role", "viewer", "--name", "the board")
        board = {"Authorization": f"Bearer {made['token']}"}
        wait_until(
            lambda: httpx.get(f"{base}/api/execution/orders", headers=board).status_code == 200, "the token is known"
        )
        assert httpx.post(f"{base}/api/execution/order", content=BODY, headers=JSON | board).status_code == 403
        shown(service, "token", "revoke", made["token_id"])
        wait_until(
            lambda: httpx.get(f"{base}/api/execution/orders", headers=board).status_code == 401, "the token is refused"
        )
        (listed,) = shown(service, "token", "list")
        assert (listed["name"], listed["revoked_at"] is None) == ("the board", False)
        assert service.book.placed() == 0
        service.stop()
        left = service.console() + service.log() + "".join(str(execctl_text) for execctl_text in [listed])
        assert canary not in left
        assert made["token"] not in left


def test_it_ends_in_time_with_a_listener_and_a_caller_that_does_not_finish(tmp_path: Path) -> None:
    with Service(tmp_path, API_PORT=str(free_port()), **OWN_PROCESS) as service:
        service.start()
        host, _, port = address(service).removeprefix("http://").partition(":")
        with (
            socket.create_connection((host, int(port))) as half,
            socket.create_connection((host, int(port))) as listener,
        ):
            half.sendall(b"POST /api/execution/order HTTP/1.1\r\nHost: localhost\r\n")
            listener.sendall(b"GET /api/execution/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"text/event-stream" in listener.recv(4096)
            status, seconds = service.stop(signal.SIGTERM)
        assert (status, seconds < 8) == (0, True)
        assert "Traceback" not in service.console()
        service.start()  # at the same port, at once


def test_a_caller_that_sends_no_call_is_cut_off_and_others_are_served(running: Service) -> None:
    base = address(running)
    host, _, port = base.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
        slow.settimeout(20)
        assert httpx.get(f"{base}/health").status_code == 200
        assert slow.recv(100) == b""


def test_an_answer_does_not_wait_for_the_callers_acknowledgement(running: Service) -> None:
    with httpx.Client(base_url=address(running)) as client:
        took = [client.get("/health").elapsed.total_seconds() for _ in range(20)]
    assert sorted(took)[2] < 0.03, "else each answer takes 40 ms on an idle machine"


def test_the_service_goes_on_after_what_is_no_http(running: Service) -> None:
    base = address(running)
    host, _, port = base.removeprefix("http://").partition(":")
    for bytes_sent in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"A" * 100_000,
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ):
        with socket.create_connection((host, int(port))) as one:
            try:
                one.sendall(bytes_sent)
                one.shutdown(socket.SHUT_WR)
                one.settimeout(20)
                while one.recv(4096):
                    pass
            except ConnectionError:
                pass
    assert httpx.get(f"{base}/health").json()["status"] == "OK"


def front_of(service: Service) -> psutil.Process:
    assert service.process is not None
    parent = psutil.Process(service.process.pid)

    def fronts() -> list[psutil.Process]:
        return [child for child in parent.children() if any("front_process" in word for word in child.cmdline())]

    (front,) = wait_until(fronts, "the process for callers runs")
    return front


def test_callers_are_answered_by_a_process_without_credentials_that_comes_back_when_it_dies(running: Service) -> None:
    base = address(running)
    front = front_of(running)
    variables = " ".join(front.environ())
    assert not any(word in variables for word in ("TOKEN", "SECRET", "KEY", "MONGODB"))
    front.kill()
    wait_until(lambda: answers(base), "callers are answered again", within=30)
    assert front_of(running).pid != front.pid
    assert running.exit_status() is None


def answers(base: str) -> bool:
    try:
        return httpx.get(f"{base}/health").status_code == 200
    except httpx.HTTPError:
        return False


def test_it_goes_with_a_service_that_is_killed_and_the_port_is_free(tmp_path: Path) -> None:
    with Service(tmp_path, API_PORT=str(free_port()), **OWN_PROCESS) as service:
        service.start()
        front = front_of(service)
        assert service.process is not None
        service.process.kill()
        wait_until(lambda: not front.is_running() or front.status() == psutil.STATUS_ZOMBIE, "it has ended too")
        service.process.wait()
        service.start()
        assert answers(address(service))


def test_what_was_recorded_is_told_to_a_listener_as_it_happens(running: Service) -> None:
    base = address(running)
    with httpx.stream("GET", f"{base}/api/execution/events", timeout=20) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("retry:")
        order = {"symbol": "ETHUSDT", "side": "buy", "quantity": 1, "price": 10}
        placed = httpx.post(f"{base}/api/execution/order", json=order, headers={"Idempotency-Key": "told-1"})
        assert placed.status_code == 200
        told = next(line for line in lines if line.startswith("data:") and "told-1" in line)
    assert placed.json()["order_id"] in told
