"""The real service among systems that may stop it: a kill key in a real Redis, heartbeats, a watcher; and the entries of a MemoryService."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.redis_servers import RedisServer, redis_server
from tests.external.service_process import Service
from tests.waits import wait_until

NAME = "quantum:kill"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as running:
        yield running


@pytest.fixture
def watcher() -> Iterator[ThreadingHTTPServer]:
    """Keeps what it was sent as `heard`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            listening.heard.append((self.path, json.loads(body)))  # type: ignore[attr-defined]
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Not on the console of the tests."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.heard = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield listening
    listening.shutdown()
    listening.server_close()


def test_a_kill_key_outlives_a_flush_and_is_waited_for_while_redis_is_away(
    server: RedisServer, watcher: ThreadingHTTPServer, tmp_path: Path
) -> None:
    memory = tmp_path / "memory"
    settings = {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(server.port),
        "REDIS_KILL_KEY": NAME,
        "DEAD_MAN_SECONDS": "600",
        "HEARTBEAT_URL": f"http://127.0.0.1:{watcher.server_address[1]}/ping/secret",
        "HEARTBEAT_SECONDS": "1",
        "MEMORY_DIR": str(memory),
    }
    with Service(tmp_path / "service", **settings) as service:
        service.start()
        base = str(service.endpoints()["api"])

        def place(name: str) -> None:
            body = {"symbol": "AAPL", "side": "buy", "quantity": 1, "price": 10}
            httpx.post(f"{base}/api/execution/order", json=body, headers={"Idempotency-Key": name})

        def status_of(name: str) -> str:
            (order,) = httpx.get(f"{base}/api/execution/orders/{name}").json()["orders"]
            return str(order["status"])

        def engaged() -> list[str]:
            switches = httpx.get(f"{base}/api/execution/kill").json()["switches"]
            return [each["scope"] for each in switches if each["level"]]

        place("one")
        wait_until(lambda: status_of("one") == "FILLED", "the first is filled")
        assert httpx.post(f"{base}/api/execution/heartbeat", json={}).status_code == 200
        wait_until(lambda: len(watcher.heard) > 1, "the watcher hears of us")  # type: ignore[attr-defined]
        assert watcher.heard[0][0] == "/ping/secret"  # type: ignore[attr-defined]
        assert "secret" not in service.log() + service.console()

        def entries() -> list[dict[str, Any]]:
            return [json.loads(path.read_text()) for path in (memory / "new").iterdir()]

        wait_until(lambda: "Trade" in {entry["entry_type"] for entry in entries()}, "the fill is remembered")

        server.stop()
        wait_until(lambda: "DEGRADED" in httpx.get(f"{base}/health").text, "that it is not known is shown", within=30)
        place("waits")
        server.start()
        wait_until(lambda: status_of("waits") == "FILLED", "new risk goes on when it is known again", within=30)

        server.client.set(NAME, "1")
        wait_until(lambda: engaged() == ["all"], "the key engages the switch")
        server.client.flushall()
        place("two")
        wait_until(lambda: status_of("two") == "REJECTED", "a flush lets nothing trade")
        assert service.book.placed() == 2
        assert service.stop()[0] == 0
