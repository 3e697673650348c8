"""Alpaca's stream of trade updates as a source of hints: something may have changed, not what. On the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

_log = logging.getLogger(__name__)
_OPEN_SECONDS = 10.0
_CLOSE_SECONDS = 1.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
_LARGEST_FRAME_BYTES = 2**20
_ANNULLING = frozenset({"trade_bust", "trade_correct"})


class KeysNotTaken(Exception):
    """The stream does not authorise these keys."""


class TradeUpdates:
    """One account's stream. `on_event` is called for every update, with Alpaca's id of the order if it can be read, and
    without one after each connection (nothing that was missed comes again). `on_annulled` is called first, with the id
    and the event's name, if an execution was busted or corrected.

    A connection that breaks, or is half-open for `silence_seconds`, is made anew, with pauses of 1 to 30 seconds; the
    abandoned one is closed first, since an account has few connections.
    """

    def __init__(
        self,
        *,
        url: str,
        api_key: str,
        secret_key: str,
        on_event: Callable[[str | None], None],
        on_annulled: Callable[[str, str], None],
        silence_seconds: float,
    ) -> None:
        self._url = url
        self._api_key = api_key
        self._secret_key = secret_key
        self._on_event = on_event
        self._on_annulled = on_annulled
        self._silence_seconds = silence_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Returns before the connection is made. Idempotent."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="alpaca-stream")

    async def close(self) -> None:
        """No further calls of the callbacks."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with connect(
                    self._url,
                    open_timeout=_OPEN_SECONDS,
                    close_timeout=_CLOSE_SECONDS,
                    ping_interval=self._silence_seconds / 2,
                    ping_timeout=self._silence_seconds / 2,
                    max_size=_LARGEST_FRAME_BYTES,
                    proxy=None,
                ) as line:
                    async with asyncio.timeout(_OPEN_SECONDS):
                        await self._begin(line)
                    pause_seconds = _FIRST_PAUSE_SECONDS
                    self._on_event(None)
                    async for frame in line:
                        self._take(frame)
                trouble: object = "closed by Alpaca"
            except (OSError, WebSocketException, TimeoutError) as exc:
                trouble = f"{type(exc).__name__}: {exc}"
            except KeysNotTaken as exc:
                trouble, pause_seconds = exc, _LONGEST_PAUSE_SECONDS
            # The stream only gives hints: the account is asked as often as before without it.
            _log.warning("Alpaca's stream of trade updates ended (%s); it is connected anew", trouble)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    async def _begin(self, line: ClientConnection) -> None:
        keys = {"key_id": self._api_key, "secret_key": self._secret_key}
        await line.send(json.dumps({"action": "authenticate", "data": keys}))
        said = _message(await line.recv())
        data = said.get("data")
        if not isinstance(data, dict) or data.get("status") != "authorized":
            raise KeysNotTaken("the keys are not authorised")
        await line.send(json.dumps({"action": "listen", "data": {"streams": ["trade_updates"]}}))

    def _take(self, frame: str | bytes) -> None:
        said = _message(frame)
        data = said.get("data")
        order = data.get("order") if isinstance(data, dict) else None
        order_id = order.get("id") if isinstance(order, dict) else None
        known_id = order_id if isinstance(order_id, str) else None
        if known_id is not None and isinstance(data, dict) and data.get("event") in _ANNULLING:
            self._on_annulled(known_id, str(data["event"]))
        self._on_event(known_id)


def _message(frame: str | bytes) -> dict[str, Any]:
    """Frames are text or bytes. Empty for one that cannot be read: something happened all the same."""
    try:
        said = json.loads(frame)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
