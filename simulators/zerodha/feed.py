"""One listener of the simulated order feed: just enough of a WebSocket's server side; no orders."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
import threading
from io import BufferedIOBase

_KEY_SUFFIX = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x1, 0x2, 0x8, 0x9, 0xA
HEARTBEAT = b"\x00"


def accept_key(key: str) -> str:
    """What the server answers to the client's `Sec-WebSocket-Key`."""
    return base64.b64encode(hashlib.sha1((key + _KEY_SUFFIX).encode()).digest()).decode()


class Listener:
    """A connected listener. Sending may be done from any thread; a listener that has left is silently not told."""

    def __init__(self, connection: socket.socket, incoming: BufferedIOBase) -> None:
        self._connection = connection
        self._incoming = incoming
        self._lock = threading.Lock()
        self.muted = False
        """While true nothing is sent, as on a half-open connection."""

    def send_text(self, text: str) -> None:
        self._send(_TEXT, text.encode())

    def send_heartbeat(self) -> None:
        self._send(_BINARY, HEARTBEAT)

    def serve(self) -> None:
        """Reads until the other side leaves; what it asks to subscribe to is not looked at."""
        try:
            while (frame := self._read()) is not None:
                opcode, payload = frame
                if opcode == _PING:
                    self._send(_PONG, payload)
                elif opcode == _CLOSE:
                    self._send(_CLOSE, payload)
                    return
        except OSError:
            # The connection was cut, by either side: what a listener's end looks like.
            return

    def drop(self) -> None:
        """Cuts the connection without a word."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            # It is cut already.
            return

    def _send(self, opcode: int, payload: bytes) -> None:
        if self.muted:
            return
        size = len(payload)
        head = struct.pack("!BB", 0x80 | opcode, size) if size < 126 else struct.pack("!BBH", 0x80 | opcode, 126, size)
        with self._lock:
            try:
                self._connection.sendall(head + payload)
            except OSError:
                # It has left; its reading side notices too and ends.
                return

    def _read(self) -> tuple[int, bytes] | None:
        head = self._incoming.read(2)
        if len(head) < 2:
            return None
        size = head[1] & 0x7F
        if size == 126:
            size = struct.unpack("!H", self._incoming.read(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self._incoming.read(8))[0]
        mask = self._incoming.read(4) if head[1] & 0x80 else b"\0\0\0\0"
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(self._incoming.read(size)))
        return head[0] & 0x0F, payload
