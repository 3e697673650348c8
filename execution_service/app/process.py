"""A whole process around the service, until a signal or a lost part ends it: what is connected first, what callers and watchers are given, in which
sequence all of it ends. What the service does is in service.py."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import structlog

from brokers.factory import BrokerFactory
from execution_service.api.access import is_loopback
from execution_service.api.server import AddressTaken, HttpServer, address_of, listen
from execution_service.app.endings import CannotGoOn, CannotStart
from execution_service.app.events import Topic
from execution_service.app.front import FrontProcess
from execution_service.app.heartbeat import Heartbeat
from execution_service.app.http_wiring import ApiSettings, HttpApi
from execution_service.app.notice import ENDPOINTS, keep_endpoints, withdraw_endpoints, write_endpoints
from execution_service.app.own_servers import OwnServers
from execution_service.app.risk_reload import RiskReload
from execution_service.app.service import ExecutionService
from execution_service.app.session_key import session_key
from execution_service.app.settings.loading import Settings
from execution_service.app.settings.problems import ConfigurationError
from execution_service.app.telegram_wiring import telegram_chat
from execution_service.app.wiring import World, real_world
from execution_service.runtime.concurrency import side_by_side
from execution_service.runtime.supervision import Part
from execution_service.runtime.threads import ThreadPool
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.transport.heartbeat_http import HeartbeatOverHttp
from execution_service.transport.ports import PublishFailed, TopicMissing

log = structlog.get_logger(__name__)

START_SECONDS = 60.0
LAST_CALLS_SECONDS = 1.0
TRACING = "execution_service.app.tracing"


async def serve(
    settings: Settings,
    servers: OwnServers,
    say: Callable[[str], None],
    at_stop: Callable[[str], None] = lambda reason: None,
) -> None:
    """Runs the service on these `servers` until SIGTERM or SIGINT. When it begins to stop, `at_stop` is called with why; empty: a signal asked
    for it.

    Raises CannotStart, EmbeddedPartFailed, ConfigurationError for an address of the API that cannot be served, or CannotGoOn, when it has
    stopped in order because a part of it could not be kept alive.
    """
    stop, reread = asyncio.Event(), asyncio.Event()
    endpoints = settings.data_dir / ENDPOINTS
    with _signals(stop, at_stop, reread), _listening(settings) as listening, _render_threads() as render_threads:
        async with real_world(settings, servers) as world, contextlib.AsyncExitStack() as at_end:
            withdraw_endpoints(endpoints)
            service = ExecutionService(world.parts)
            api = service.http_api(_api_settings(settings, world, render_threads))
            tracing = _tracing(service) if settings.enable_opentelemetry else None
            wire = _heartbeat_wire(settings)
            if wire is not None:
                at_end.push_async_callback(wire.close)
            at_end.enter_context(contextlib.closing(inside := _inside(settings, listening)))
            server = HttpServer(api.application, inside, api.feed)
            front = FrontProcess(listening=listening, host=settings.api_host, service=inside)
            # Whatever ends the start: nothing may revive what is stopped.
            at_end.push_async_callback(service.supervisor.end_all)
            for revival in world.revivals:
                service.supervisor.keep(revival)
            await world.parts.notifier.start()
            plans = [topic for topic in (world.targets, world.plan_results) if topic is not None]
            pubsub: Sequence[Topic] = (
                world.orders,
                world.commands,
                world.publisher,
                *plans,
                *world.parts.events.topics,
            )
            checks = {"the store": world.parts.store.open} | {f"Pub/Sub ({part.path})": part.check for part in pubsub}
            await side_by_side(_patiently(checks, stop), _load_ahead(settings))
            if stop.is_set():
                return
            await _refuse_open_address(settings, world)
            starting = asyncio.create_task(_patiently({"the store": service.start}, stop))
            reason = await _until_it_ends(service, stop, starting)
            if starting.done():
                starting.result()
            else:
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
            address = address_of(listening)
            pulls = [
                Part("pull of orders", world.orders.run),
                Part("pull of commands", world.commands.run),
                *(() if world.targets is None else (Part("pull of targets", world.targets.run),)),
                *world.parts.events.pulls,
            ]
            risk_file = RiskReload(
                source=settings,
                rules=world.parts.risk_rules,
                alerts=service.delivery.alerts,
                name=settings.risk_file.name,
            )
            around = [
                Part("limits of risk", lambda: risk_file.run(reread)),
                Part("watch over Pub/Sub", world.orders.watch),
                Part("notice for scripts", lambda: keep_endpoints(endpoints, settings, world, service, api=address)),
            ]
            chat = telegram_chat(settings, world.parts, service.rooms, api.standing)
            heartbeat = (
                None
                if wire is None
                else Heartbeat(
                    wire=wire, standing=api.standing, seconds=settings.heartbeat_seconds, clock=world.parts.clock
                )
            )
            callers = [
                *server.parts(),
                *(front.parts() if settings.api_own_process else ()),
                *api.measures.parts(),
                *(() if chat is None else chat.parts()),
                *(() if tracing is None else tracing.parts()),
                *(() if heartbeat is None else (heartbeat.part(),)),
            ]
            try:
                if not (reason or stop.is_set()):
                    for each in (*pulls, *around, *callers):
                        service.supervisor.keep(each)
                    write_endpoints(endpoints, settings, world, service, api=address)
                    log.info("Execution service ready", action="ready")
                    say(_what_next(settings, world, address))
                    reason = await _until_it_ends(service, stop)
                if reason and not stop.is_set():
                    at_stop(reason)
                log.info("Execution service stops", action="stopping")
            finally:
                withdraw_endpoints(endpoints)
                await service.supervisor.end(*(each.name for each in (*around, *callers)))
                if chat is not None:
                    await chat.end()
                await _let_calls_end(api)
                await service.take_no_more()
                # What was received and not stored goes back while the rest of the service ends.
                handed_back = asyncio.create_task(service.supervisor.end(*(each.name for each in pulls)))
                await service.stop()
                await handed_back
                if tracing is not None:
                    await tracing.close()
    log.info("Execution service stopped", action="stopped")
    if reason:
        raise CannotGoOn(reason)


def _tracing(service: ExecutionService) -> Any:
    """The library is loaded only where it is wanted. Raises ConfigurationError."""
    try:
        module = importlib.import_module(TRACING)
    except ImportError as exc:
        words = "ENABLE_OPENTELEMETRY is set, but OpenTelemetry is not installed: pip install 'execution-service[opentelemetry]'"
        raise ConfigurationError((words,)) from exc
    rooms = service.rooms
    return module.tracing(live_orders=rooms.live_orders, confirmations=rooms.confirmations, clock=service.clock)


def _heartbeat_wire(settings: Settings) -> HeartbeatOverHttp | None:
    url = settings.heartbeat_url
    return None if url is None else HeartbeatOverHttp(url.get_secret_value())


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """The API's address is taken before anything is started. Raises ConfigurationError."""
    try:
        listening = listen(settings.api_host, settings.api_port)
    except AddressTaken as exc:
        words = f"API_HOST and API_PORT: {settings.api_host}:{settings.api_port} cannot be listened at: {exc}; "
        raise ConfigurationError((words + "set another port, or 0 for any that is free.",)) from exc
    with contextlib.closing(listening):
        yield listening


def _inside(settings: Settings, listening: socket.socket) -> socket.socket:
    """Where the service itself answers: to a process of its own that answers callers, or to the callers."""
    return listen("127.0.0.1", 0) if settings.api_own_process else listening.dup()


@contextlib.contextmanager
def _render_threads() -> Iterator[ThreadPool]:
    with contextlib.closing(ThreadPool("answers", 1)) as threads:
        yield threads


def _api_settings(settings: Settings, world: World, threads: ThreadPool) -> ApiSettings:
    token = settings.api_token
    return ApiSettings(
        host=settings.api_host,
        token=None if token is None else token.get_secret_value(),
        threads=threads,
        pubsub=world.connectivity,
        session_key=session_key(settings.data_dir),
    )


async def _refuse_open_address(settings: Settings, world: World) -> None:
    """Others than this machine's users may call only with tokens. Raises ConfigurationError, CannotStart."""
    if is_loopback(settings.api_host) or settings.api_token is not None:
        return
    try:
        has_tokens = bool(await world.parts.store.tokens())
    except StoreUnavailable as exc:
        raise CannotStart(f"it is not known whether there are tokens for the API: {exc}") from exc
    if not has_tokens:
        words = f"API_HOST is {settings.api_host}, which others can reach, and there is no token; set API_TOKEN, make one with "
        raise ConfigurationError((words + "execctl token create, or leave API_HOST at 127.0.0.1.",))


async def _let_calls_end(api: HttpApi) -> None:
    """Orders whose callers are gone, and which are being stored."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_CALLS_SECONDS):
            await api.placing.drain()


async def _until_it_ends(
    service: ExecutionService, stop: asyncio.Event, begun: asyncio.Task[None] | None = None
) -> str:
    """Why the service has to end; empty where `stop` is set, or where what was `begun` is done."""
    stopped, has_to = asyncio.create_task(stop.wait()), asyncio.create_task(service.has_to_end())
    try:
        await asyncio.wait(
            {stopped, has_to} | ({begun} if begun is not None else set()), return_when=asyncio.FIRST_COMPLETED
        )
        return has_to.result() if has_to.done() else ""
    finally:
        stopped.cancel()
        has_to.cancel()
        await asyncio.gather(stopped, has_to, return_exceptions=True)


async def _load_ahead(settings: Settings) -> None:
    """Libraries hold everything up while they are loaded: now, while answers are waited for, and not when an account is taken over while
    others trade."""
    await asyncio.sleep(0)  # the questions go first
    BrokerFactory.load({str(account.config["broker"]) for account in settings.accounts.values()})
    _set_start_aside()


def _set_start_aside() -> None:
    """What was made until now lives as long as the process: the garbage collector, which holds the whole process up, need not walk
    through all of it each time."""
    gc.collect()
    gc.freeze()


async def _patiently(calls: Mapping[str, Callable[[], Awaitable[None]]], stop: asyncio.Event) -> None:
    """Tries for a minute, all side by side, saying what is waited for. Raises CannotStart, naming all that could not be reached."""
    end = asyncio.get_running_loop().time() + START_SECONDS
    while calls and not stop.is_set():
        outcomes = await asyncio.gather(*(call() for call in calls.values()), return_exceptions=True)
        failures = {what: exc for what, exc in zip(calls, outcomes, strict=True) if exc is not None}
        for exc in failures.values():
            if isinstance(exc, TopicMissing):
                raise CannotStart(f"{exc}; create it, or correct the setting that names it") from exc
            if not isinstance(exc, StoreUnavailable | PublishFailed):
                raise exc
        calls = {what: call for what, call in calls.items() if what in failures}
        left = end - asyncio.get_running_loop().time()
        if failures and left <= 0:
            reasons = (
                f"{what} could not be reached for {START_SECONDS:.0f} s: {exc}" for what, exc in failures.items()
            )
            raise CannotStart("; ".join(reasons))
        for what, exc in failures.items():
            log.warning(f"Waiting for {what}, {left:.0f} s left: {exc}", action="waiting_at_start")
        if failures:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), min(2.0, left))


@contextlib.contextmanager
def _signals(stop: asyncio.Event, at_stop: Callable[[str], None], reread: asyncio.Event) -> Any:
    """SIGTERM and SIGINT set `stop`; a second one ends the process at once. SIGHUP sets `reread`: the file of risk limits is to be read again."""
    loop = asyncio.get_running_loop()

    def received() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()
        at_stop("")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received)
    loop.add_signal_handler(signal.SIGHUP, reread.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


def _what_next(settings: Settings, world: World, api: str) -> str:
    lines = [
        f"  store    {world.mongodb_uri if settings.mongodb_uri is None else '(MONGODB_URI)'}",
        f"  Pub/Sub  {world.pubsub_host or 'Google'}, project {settings.google_cloud_project}",
        f"  page     {api}/",
        f"  API      {api} ({api}/docs)",
        "  brokers  "
        + ("mock, for every account" if settings.use_mock_broker else ", ".join(settings.accounts) or "none"),
        "Next, in another terminal:",
        "  python tests/signals_testing/send_test_signal.py --file equity_simple_signal_1.json",
        "  python scripts/execctl.py orders",
    ]
    return "\n".join(lines)
