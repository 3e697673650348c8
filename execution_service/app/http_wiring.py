"""Builds the HTTP API around the service's own parts; listens nowhere yet."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from starlette.types import ASGIApp

from execution_service.api.access import Access
from execution_service.api.app import ApiParts, http_application
from execution_service.api.live_feed import LiveFeed
from execution_service.api.measures import Measures, ShowsSilence, Sources
from execution_service.api.pace import Pace
from execution_service.api.placing import Placing
from execution_service.api.sessions import Sessions
from execution_service.api.standing import Component, Standing
from execution_service.app.wiring import ConfiguredAccounts, Parts, Rooms
from execution_service.runtime.connectivity import Connectivity
from execution_service.runtime.threads import Blocking


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """What the API is told beside the service's parts."""

    host: str
    """The address that is listened at: it decides which host names are served."""
    token: str | None
    """API_TOKEN."""
    threads: Blocking
    """Where answers and figures are drawn up."""
    pubsub: Connectivity | None = None
    session_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """What signs the sessions of the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpApi:
    """The application, and what of it runs or has to be ended."""

    application: ASGIApp
    access: Access
    placing: Placing
    measures: Measures
    feed: LiveFeed
    standing: Standing


class _Brokers:
    """Which broker serves an account, for figures."""

    def __init__(self, directory: ConfiguredAccounts) -> None:
        self._directory = directory

    def broker_of(self, account_id: str) -> str:
        return self._directory.account_names_of(account_id).broker


def http_api(parts: Parts, rooms: Rooms, settings: ApiSettings) -> HttpApi:
    """Its calls go the ways that messages go: orders by the intake, verbs by the commands."""
    directory = ConfiguredAccounts(parts)
    accounts = [directory.account(account_id) for account_id in directory.named]
    standing = Standing(
        supervisor=rooms.supervisor,
        accounts=rooms.accounts,
        store=parts.store,
        pubsub=settings.pubsub,
        delivery=rooms.delivery,
        inboxes={"orders": parts.orders, "commands": parts.commands},
        is_live=any(account is not None and account.is_live for account in accounts),
        version=_version(),
        others=_others(rooms),
        around=parts.events.connectivity,
    )
    sessions = Sessions(settings.session_key, parts.clock)
    access = Access(tokens=parts.store, clock=parts.clock, environment_token=settings.token, sessions=sessions)
    pace = Pace(parts.clock)
    placing = Placing(
        intake=rooms.intake,
        orders=parts.store,
        queries=parts.store,
        accounts=directory,
        clock=parts.clock,
        live_orders=rooms.live_orders,
    )
    brokers = _Brokers(directory)
    measures = Measures(
        live_orders=rooms.live_orders,
        queries=parts.store,
        sources=Sources(
            brokers=brokers,
            states=standing,
            at_brokers=rooms.accounts,
            inboxes={"orders": parts.orders, "commands": parts.commands} | dict(parts.events.inboxes),
            around={**parts.events.connectivity, **_around(rooms)},
            limits=parts.risk_rules,
            switches=rooms.kill_switches,
            reconcile_interval_seconds=parts.rules.reconcile_interval_seconds,
        ),
        clock=parts.clock,
        threads=settings.threads,
        version=standing.version,
        pace=pace,
    )
    rooms.confirmations.on_published.append(measures.note_confirmed)
    feed = LiveFeed(rooms.live_orders, parts.nonce)
    application = http_application(
        ApiParts(
            access=access,
            sessions=sessions,
            queries=parts.store,
            placing=placing,
            commands=rooms.commands,
            store=parts.store,
            rules=parts.risk_rules,
            standing=standing,
            directory=directory,
            at_brokers=rooms.accounts,
            brokers=brokers,
            measures=measures,
            pace=pace,
            feed=feed,
            dead_man=rooms.dead_man,
            clock=parts.clock,
            threads=settings.threads,
        ),
        host=settings.host,
    )
    return HttpApi(
        application=application, access=access, placing=placing, measures=measures, feed=feed, standing=standing
    )


def _others(rooms: Rooms) -> dict[str, Component]:
    """By their names for people."""
    found: dict[str, Component] = {"kill switches": rooms.kill_switches}
    if rooms.safety is not None:
        found["safety service"] = rooms.safety
    if rooms.kill_key is not None:
        found["kill key"] = rooms.kill_key
    return found


def _around(rooms: Rooms) -> dict[str, ShowsSilence]:
    """By their names in figures."""
    found: dict[str, ShowsSilence] = {}
    if rooms.safety is not None:
        found["risk_safety"] = rooms.safety
    if rooms.kill_key is not None:
        found["kill_key"] = rooms.kill_key
    return found


def _version() -> str:
    try:
        return version("execution-service")
    except PackageNotFoundError:  # run from its folder, and never installed
        return "unknown"
