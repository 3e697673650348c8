"""Binance's stream of one account as a source of hints: something may have changed. Whatever it says, what counts is
read by the ordinary calls; only reasons, which these do not have, are taken from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from brokers.binance.calls import BinanceCalls, Refusal
from brokers.binance.codes import LISTEN_KEY_UNKNOWN
from brokers.errors import BrokerError, BrokerUnavailable

_log = logging.getLogger(__name__)
_KEY = "/fapi/v1/listenKey"
_EVENTS = (
    *("ORDER_TRADE_UPDATE", "ALGO_UPDATE", "ACCOUNT_UPDATE", "MARGIN_CALL", "ACCOUNT_CONFIG_UPDATE"),
    "listenKeyExpired",
)
"""Since 2026-04 a socket that does not name the events it wants is connected and told nothing, and likewise one with the key in
its path."""
_RENEW_SECONDS = 1800.0
"""A listen key lives for an hour after its last renewal."""
_RENEW_AGAIN_SECONDS = 60.0
"""After a renewal that has failed."""
_PAUSES_SECONDS = (1.0, 60.0)
"""Before connecting again: the first pause, which doubles, and the longest."""
_STEADY_SECONDS = 60.0
"""After a connection that lasted so long, the pauses begin anew."""


class _KeyExpired(Exception):
    pass


class UserStream:
    """One account's stream. `on_event` is called on the event loop after each connection (with an empty event: something may
    have been missed) and for every event.

    A silent socket is noticed by our own pings, answered or not within half of `silence_seconds`; one that drops, or
    whose key has expired, is replaced, with pauses that double.
    """

    def __init__(
        self,
        calls: BinanceCalls,
        *,
        stream_url: str,
        on_event: Callable[[Mapping[str, Any]], None],
        silence_seconds: float,
    ) -> None:
        self._calls = calls
        self._stream_url = stream_url.rstrip("/")
        self._on_event = on_event
        self._silence_seconds = silence_seconds
        self._task: asyncio.Task[None] | None = None
        self._key = ""
        """Whoever has it reads the account's events: it goes into no log."""

    def start(self) -> None:
        """Returns before the connection is made. Idempotent."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="binance-stream")

    async def close(self) -> None:
        """No further calls of `on_event`."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause_seconds, longest = _PAUSES_SECONDS
        while True:
            began = loop.time()
            try:
                await self._listen()
                words = "it was closed"
            except _KeyExpired:
                words = "its key has expired"
            except (BrokerError, Refusal, aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as exc:
                words = self._clean(f"{type(exc).__name__}: {exc}")
            if loop.time() - began >= _STEADY_SECONDS:
                pause_seconds = _PAUSES_SECONDS[0]
            _log.warning("The account stream of Binance has ended (%s); connected anew in %.0f s", words, pause_seconds)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, longest)

    def _clean(self, words: str) -> str:
        return words.replace(self._key, "***") if self._key else words

    async def _listen(self) -> None:
        """Until the socket closes."""
        answer = await self._calls.ask("POST", _KEY, is_signed=False)
        key = self._key = str(answer["listenKey"])
        async with self._calls.session.ws_connect(
            f"{self._stream_url}/private/ws?listenKey={key}&events={'/'.join(_EVENTS)}",
            heartbeat=self._silence_seconds,
            max_msg_size=1_000_000,
        ) as socket:
            self._on_event({})
            # Whichever ends first ends both: a key that is known no more keeps a socket open that says nothing.
            tasks = {asyncio.create_task(self._read(socket)), asyncio.create_task(self._renew())}
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            self._receive(message.data)

    def _receive(self, data: str) -> None:
        event = json.loads(data)
        if not isinstance(event, dict):
            raise ValueError("an event is no object")
        if event.get("e") == "listenKeyExpired":
            raise _KeyExpired
        self._on_event(event)

    async def _renew(self) -> None:
        """Keeps the key alive. Raises _KeyExpired if Binance does not know it any more."""
        pause_seconds = _RENEW_SECONDS
        while True:
            await asyncio.sleep(pause_seconds)
            pause_seconds = _RENEW_SECONDS
            try:
                await self._calls.ask("PUT", _KEY, is_signed=False)
            except Refusal as refusal:
                if refusal.code == LISTEN_KEY_UNKNOWN:
                    raise _KeyExpired from refusal
                raise
            except BrokerUnavailable as exc:
                # It lives for half an hour more: the next renewal may succeed.
                pause_seconds = _RENEW_AGAIN_SECONDS
                _log.info("The listen key of Binance could not be renewed: %s", exc)
