"""One listener of a simulated feed over WebSocket, and ways to disturb it. No orders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from starlette.websockets import WebSocket, WebSocketDisconnect

HEARTBEAT = b"\x00"


class Listener:
    """A connected listener, created on the server's event loop. Everything else may be called from any thread; for
    one that has disconnected it has no effect."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._transport: asyncio.Transport = websocket.scope["transport"]
        self._loop = asyncio.get_running_loop()
        self._outgoing: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._is_muted = False

    def send_text(self, text: str) -> None:
        self._send(text)

    def send_heartbeat(self) -> None:
        self._send(HEARTBEAT)

    def mute(self, muted: bool) -> None:
        """While muted, nothing is sent, and nothing is read, so that pings are not answered: a half-open connection."""
        self._is_muted = muted
        self._on_loop(self._transport.pause_reading if muted else self._transport.resume_reading)

    def drop(self) -> None:
        """Cuts the connection without a closing handshake."""
        self._on_loop(self._transport.abort)

    async def serve(self) -> None:
        """Sends until the other side disconnects; subscription requests are ignored."""
        submission = asyncio.create_task(self._send_what_comes())
        try:
            while (await self._websocket.receive())["type"] != "websocket.disconnect":
                pass
        finally:
            submission.cancel()

    async def _send_what_comes(self) -> None:
        # It has disconnected; the reading side notices too and ends.
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while True:
                said = await self._outgoing.get()
                if isinstance(said, str):
                    await self._websocket.send_text(said)
                else:
                    await self._websocket.send_bytes(said)

    def _send(self, said: str | bytes) -> None:
        if not self._is_muted:
            self._on_loop(lambda: self._outgoing.put_nowait(said))

    def _on_loop(self, act: Callable[[], object]) -> None:
        # A closed loop has no listeners any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(act)
