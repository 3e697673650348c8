"""What the simulators' HTTP servers have in common: threads, loopback callers only, answers that fail on purpose; no API of anybody's."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import SplitResult, urlsplit

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost"})
LONGEST_BODY_BYTES = 1_000_000
_TRICKLE_SECONDS = 0.02


class Dropped(Exception):
    """The connection is to be closed without an answer."""


class Trickled(Exception):
    """The answer is to come a byte at a time, and never end."""


class LoopbackServer(ThreadingHTTPServer):
    """One thread a connection, all of which `end` cuts off. Raises ValueError for a host other than loopback, OSError for a port that is
    taken. Port 0 takes any free one."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, handler: type[LoopbackHandler]) -> None:
        if host not in LOOPBACK_NAMES:
            raise ValueError(f"The simulator serves loopback only, not {host!r}")
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        super().__init__((host, port), handler)

    @property
    def port(self) -> int:
        port: int = self.server_address[1]
        return port

    def begin(self, name: str) -> None:
        """Serves from now on, in a thread of this name."""
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, name=name, daemon=True
        )
        self._thread.start()

    def end(self) -> None:
        """Ends every open call and closes the port; a second one does nothing."""
        self.stopping.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            self.shutdown()
        self._close_connections()
        if thread is not None:
            thread.join()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A caller who lost patience is an everyday thing here, and no reason for a traceback on the console.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def _close_connections(self) -> None:
        with self._lock:
            for connection in self._connections:
                # The other side may have left already.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class LoopbackHandler(ABC, BaseHTTPRequestHandler):
    """Reads a call whole and hands it to `answer_call`, which may write an answer, raise Dropped, or raise Trickled."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536
    server: LoopbackServer

    @abstractmethod
    def answer_call(self, address: SplitResult, body: bytes) -> None:
        """Raises Dropped, Trickled."""

    @abstractmethod
    def refuse_stranger(self) -> None:
        """A page in a browser may name this port under a host of its own."""

    @abstractmethod
    def refuse_long_body(self) -> None:
        """The call says that it brings more than this server takes."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: request lines hold tokens."""

    def write(self, status: int, kind: str | None, content: bytes) -> None:
        self.send_response(status)
        if kind is not None:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def write_json(self, status: int, answer: object, default: Callable[[Any], object] | None = None) -> None:
        text = json.dumps(answer, ensure_ascii=False, default=default)
        self.write(status, "application/json", text.encode("utf-8", "replace"))

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > LONGEST_BODY_BYTES:
            self.close_connection = True
            self.refuse_long_body()
            return
        body = self.rfile.read(length)
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in LOOPBACK_NAMES:
            self.refuse_stranger()
            return
        try:
            self.answer_call(urlsplit(self.path), body)
        except Dropped:
            self.close_connection = True
        except Trickled:
            self.close_connection = True
            self._trickle()

    def _trickle(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(LONGEST_BODY_BYTES))
        self.end_headers()
        while not self.server.stopping.wait(_TRICKLE_SECONDS):
            self.wfile.write(b" ")
            self.wfile.flush()
