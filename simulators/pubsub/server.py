"""A local Google Pub/Sub server for one machine: starting, stopping and its command line.

It speaks the real protocol to Google's unmodified clients and keeps what it promised in one SQLite file. It listens on
loopback only, has no authentication and is no replacement for Google's service; what it does not have it refuses.
The protocol, the messages and the file each have a module of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import grpc

from simulators.pubsub import rules
from simulators.pubsub.hub import Hub
from simulators.pubsub.ledger import Ledger, LedgerBusyError, LedgerUnusableError, LedgerWriteError
from simulators.pubsub.services import Doors

_STOP_GRACE_SECONDS = 1.0
# A transfer frame around the largest allowed request.
_LARGEST_TRANSFER_BYTES = 16_000_000
_SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _LARGEST_TRANSFER_BYTES),
    ("grpc.max_send_message_length", -1),
    # Google's clients ping idle streams every 30 seconds; by default a server takes that for abuse.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    # A client whose connection has died in silence is given no more messages for long.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
)


class AddressRefusedError(Exception):
    """The address is not loopback, or cannot be bound."""


def wall_clock_us() -> int:
    """Microseconds since 1970 UTC."""
    return time.time_ns() // 1000


class LocalPubSub:
    """The server inside an asyncio program.

    `path` is its file (created with mode 0600; `path` + ".lock" beside it keeps a second server away); `port` 0 takes
    any free one; `now_us` is the wall clock used for publish times and retention. What is unacknowledged is kept in
    memory too.
    """

    def __init__(
        self,
        *,
        path: Path | str,
        host: str = "127.0.0.1",
        port: int = 0,
        now_us: Callable[[], int] = wall_clock_us,
    ) -> None:
        self._path = Path(path)
        self._host = host
        self._port = port
        self._now_us = now_us
        self._ledger: Ledger | None = None
        self._hub: Hub | None = None
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Open the file, listen and return the port.

        Raises AddressRefusedError, LedgerBusyError (another server has the file) or LedgerUnusableError.
        """
        host = _loopback(self._host)
        ledger = Ledger(self._path)
        contents = await ledger.open()
        self._ledger = ledger
        try:
            self._hub = Hub(ledger, now_us=self._now_us)
            self._hub.load(contents)
            self._server = grpc.aio.server(options=_SERVER_OPTIONS)
            self._server.add_generic_rpc_handlers((Doors(self._hub),))
            try:
                bound = self._server.add_insecure_port(f"{host}:{self._port}")
            except RuntimeError as exc:
                raise AddressRefusedError(f"{host}:{self._port} cannot be listened on; is the port taken?") from exc
            await self._server.start()
        except BaseException:
            await self.stop()
            raise
        return int(bound)

    async def stop(self) -> None:
        """Answer what is being committed, send streams away with UNAVAILABLE, and close the file."""
        ending: asyncio.Task[None] | None = None
        if self._server is not None:
            # First no new calls, then an end to the open streams: else clients would come straight back.
            ending = asyncio.create_task(self._server.stop(_STOP_GRACE_SECONDS))
            await asyncio.sleep(0)
            self._server = None
        if self._hub is not None:
            await self._hub.stop()
        if ending is not None:
            await ending
        if self._ledger is not None:
            await self._ledger.close()
            self._ledger = None
        self._hub = None

    async def ensure(
        self, project: str, *, topics: Iterable[str] = (), subscriptions: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Create what is missing of these topics and (subscription, topic) pairs, given by their short names."""
        if self._hub is None:
            raise RuntimeError("The server has not been started.")
        for topic in topics:
            await _unless_there(self._hub.create_topic(rules.Topic(name=f"projects/{project}/topics/{topic}")))
        for subscription, topic in subscriptions:
            await _unless_there(
                self._hub.create_subscription(
                    rules.Subscription(
                        name=f"projects/{project}/subscriptions/{subscription}",
                        topic=f"projects/{project}/topics/{topic}",
                    )
                )
            )


async def _unless_there(creation: Awaitable[object]) -> None:
    try:
        await creation
    except rules.RefusedError as refusal:
        if refusal.code is not grpc.StatusCode.ALREADY_EXISTS:
            raise


def _loopback(host: str) -> str:
    """The host as gRPC writes it; raises AddressRefusedError unless it is loopback."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError as exc:
        raise AddressRefusedError(f"{host} is not an IP address of this machine's loopback.") from exc
    if not address.is_loopback:
        raise AddressRefusedError(
            f"{host} is not loopback: this server has no authentication and stays on one machine."
        )
    return f"[{address}]" if address.version == 6 else str(address)


def _subscription_pair(text: str) -> tuple[str, str]:
    subscription, separator, topic = text.partition("=")
    if not (subscription and separator and topic):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=TOPIC")
    return subscription, topic


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulators.pubsub",
        description="A local Google Pub/Sub server for one machine: loopback only, no authentication, one SQLite file. "
        "Point Google's clients at it with PUBSUB_EMULATOR_HOST.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="the SQLite file (created if missing)")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8085, help="0 takes any free port (default: %(default)s)")
    parser.add_argument(
        "--project", default="local", help="project of --topic and --subscription (default: %(default)s)"
    )
    parser.add_argument("--topic", action="append", default=[], metavar="NAME", help="create this topic if missing")
    parser.add_argument(
        "--subscription",
        action="append",
        default=[],
        type=_subscription_pair,
        metavar="NAME=TOPIC",
        help="create this subscription if missing",
    )
    parser.add_argument("--exit-with-stdin", action="store_true", help="end as soon as standard input is closed")
    return parser


async def _serve(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if arguments.exit_with_stdin:
        threading.Thread(target=_watch_stdin, args=(loop, ended), name="stdin-watch", daemon=True).start()
    server = LocalPubSub(path=arguments.data, host=arguments.host, port=arguments.port)
    port = await server.start()
    try:
        await server.ensure(arguments.project, topics=arguments.topic, subscriptions=arguments.subscription)
        print(f"Pub/Sub listening on {_loopback(arguments.host)}:{port}", flush=True)
        await ended.wait()
    finally:
        await server.stop()


def _watch_stdin(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    # Not sys.stdin: its lock, held by a blocked read, would break the interpreter's shutdown.
    while os.read(0, 4096):
        pass
    # The loop may have been closed meanwhile by a signal; then there is nothing left to end.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(ended.set)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is told to end; returns the exit status: 0 ended, 1 could not start."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    parsed = _parser().parse_args(arguments)
    try:
        asyncio.run(_serve(parsed))
    except (AddressRefusedError, LedgerBusyError, LedgerUnusableError, LedgerWriteError, rules.RefusedError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
