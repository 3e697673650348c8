"""Zerodha's order feed as a source of hints: something may have changed, not what. One reactor thread for the whole
process."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from kiteconnect import KiteTicker
from twisted.internet import reactor as the_reactor

_log = logging.getLogger(__name__)
_STARTED_WITHIN_SECONDS = 10.0
_AGAIN_AFTER_SECONDS = 30.0

reactor: Any = the_reactor
_starting = threading.Lock()


def _run_reactor() -> None:
    """Starts the process's reactor in a thread of its own, once: a reactor cannot be restarted."""
    with _starting:
        if reactor.running:
            return
        # It reports every closed connection as an error, intended ones too; the relevant ones are logged here.
        logging.getLogger("kiteconnect.ticker").setLevel(logging.CRITICAL)
        running = threading.Event()
        reactor.callWhenRunning(running.set)
        run = functools.partial(reactor.run, installSignalHandlers=False)
        threading.Thread(target=run, name="zerodha-feed", daemon=True).start()
        if not running.wait(_STARTED_WITHIN_SECONDS):
            raise TimeoutError("the reactor of the order feed did not start")


class OrderFeed:
    """One account's feed. `on_events` is called in the reactor's thread: after each connection (something may have been
    missed before it) and for every order update.

    The library reconnects by itself, but eventually gives up, and does not notice a half-open connection. Both are
    handled here: `silence_seconds` without data (the server sends a heartbeat about every second) cuts the connection,
    and a feed that gave up is restarted.
    """

    def __init__(
        self, *, api_key: str, token: str, url: str | None, on_events: Callable[[], None], silence_seconds: float
    ) -> None:
        self.token = token
        self._api_key = api_key
        self._url = url
        self._on_events = on_events
        self._silence_seconds = silence_seconds
        self._ticker: KiteTicker | None = None
        self._first_received_at = time.monotonic()
        self._watch: Any = None
        self._closed = False

    def start(self) -> None:
        """Returns before the connection is made. Blocks while the process's reactor starts."""
        _run_reactor()
        reactor.callFromThread(self._connect)

    def close(self) -> None:
        """No further calls of `on_events`. May be called from any thread."""
        self._closed = True
        reactor.callFromThread(self._disconnect)

    # In the reactor's thread

    def _connect(self) -> None:
        if self._closed:
            return
        ticker = KiteTicker(self._api_key, self.token, root=self._url)
        ticker.on_connect = self._connected
        ticker.on_message = self._on_message
        ticker.on_order_update = self._updated
        ticker.on_close = self._ended
        ticker.on_noreconnect = self._given_up
        self._ticker = ticker
        self._first_received_at = time.monotonic()
        ticker.connect(threaded=True)
        if self._watch is None:
            self._watch = reactor.callLater(self._silence_seconds, self._look)

    def _disconnect(self) -> None:
        if self._watch is not None and self._watch.active():
            self._watch.cancel()
        if self._ticker is not None:
            self._ticker.close()

    def _connected(self, ticker: KiteTicker, response: object) -> None:
        if self._closed:
            ticker.close()
            return
        self._first_received_at = time.monotonic()
        self._give_hint()

    def _on_message(self, ticker: KiteTicker, payload: bytes, is_binary: bool) -> None:
        self._first_received_at = time.monotonic()

    def _updated(self, ticker: KiteTicker, order: object) -> None:
        self._give_hint()

    def _ended(self, ticker: KiteTicker, code: int | None, reason: object) -> None:
        if not self._closed:
            _log.warning("The order feed of Zerodha was cut (%s, %s); it is connected anew", code, reason)

    def _give_hint(self) -> None:
        if not self._closed:
            self._on_events()

    def _look(self) -> None:
        quiet_seconds = time.monotonic() - self._first_received_at
        ticker = self._ticker
        if ticker is not None and ticker.is_connected() and quiet_seconds >= self._silence_seconds:
            _log.warning("The order feed of Zerodha has been silent for %.0f s; it is connected anew", quiet_seconds)
            ticker.ws.dropConnection(abort=True)
        self._watch = reactor.callLater(self._silence_seconds / 2, self._look)

    def _given_up(self, ticker: KiteTicker) -> None:
        if not self._closed and ticker is self._ticker:
            _log.warning("The order feed of Zerodha cannot be reached; it is tried again")
            self._ticker = None
            reactor.callLater(_AGAIN_AFTER_SECONDS, self._connect)
