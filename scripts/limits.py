"""`execctl limits`: the limits of risk as they stand in the file, how much of each is used, and the way to enable again what is off."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Protocol

from rich.console import Console

from execution_service.app.clock import SystemClock
from execution_service.app.risk_file import effective, shown
from execution_service.app.settings.loading import Settings
from execution_service.control.enable_risk import enable_again
from execution_service.core.exact import EXACT
from execution_service.core.risk.book import RiskBook
from execution_service.core.risk.kill import scope_from_text
from execution_service.core.risk.limits import LimitType, RiskLimits, Scope
from execution_service.core.risk.usage import Usage, counted, last_judged
from execution_service.core.texts.values import quantity
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.ports.orders import Stored
from execution_service.storage.reader import StoreReader
from scripts.display import counted as counted_noun
from scripts.display import print_json, print_table

ORDERS_LOOKED_AT = 200
"""The latest verdicts tell how much of a limit is used that compares positions."""


class Context(Protocol):
    """What a command of execctl works with."""

    @property
    def view(self) -> StoreReader: ...

    @property
    def store(self) -> MongoStore: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def console(self) -> Console: ...

    @property
    def options(self) -> argparse.Namespace: ...

    @property
    def wants_json(self) -> bool: ...


def add_options(parser: argparse.ArgumentParser, text: Callable[[str], str]) -> None:
    """`text`: how a text that must not be blank is read."""
    parser.add_argument(
        "--enable",
        type=_scope,
        metavar="SCOPE",
        help="let trade again what a broken limit has switched off: all, account:ID, strategy:NAME, symbol:SYMBOL, or some joined by +",
    )
    parser.add_argument("--by", type=text, help="with --enable: who decided")
    parser.add_argument("--reason", type=text, help="with --enable: why")


def _scope(text: str) -> Scope:
    try:
        return scope_from_text(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


async def show(context: Context) -> int:
    """Raises StoreUnavailable."""
    options = context.options
    if options.enable is not None:
        ended = await enable_again(
            context.store, options.enable, by=options.by, reason=options.reason, now=SystemClock().now()
        )
        if context.wants_json:
            print_json({"scope": str(options.enable), "enabled": ended})
        else:
            context.console.print(f"{counted_noun(ended, 'broken limit')} enabled again for {options.enable}")
        return 0
    limits, books = context.settings.risk_limits, await context.store.risk_books()
    usages = _usages(limits, books, context.view.orders(limit=ORDERS_LOOKED_AT), SystemClock().now())
    trips = [(book.account_id, trip) for book in books for trip in book.counters.trips]
    if context.wants_json:
        print_json(
            {
                "limits": [
                    {
                        "table": table,
                        "limit": limit,
                        "value": value,
                        "uses": [_fields(usage) for usage in usages if _is_of(usage, table, limit)],
                    }
                    for table, limit, value in effective(limits)
                ],
                "off_until_enabled": [
                    {
                        "account_id": account,
                        "limit": trip.limit,
                        "scope": str(trip.scope),
                        "counted": trip.value,
                        "at": trip.at,
                    }
                    for account, trip in trips
                ],
            }
        )
        return 0
    columns = ("Limit", "Value", "Written in", "Of", "Used", "Part", "As of")
    rows: list[tuple[object, ...]] = []
    for table, limit, value in effective(limits):
        mine = [usage for usage in usages if _is_of(usage, table, limit)]
        if not mine:
            rows.append((limit, value, table, "", "", "", None))
        for usage in mine:
            rows.append((limit, value, table, usage.total, quantity(usage.actual_value), _part(usage), usage.at))
    print_table(context.console, "Limits of risk", columns, rows, dispensable=("As of", "Part"))
    if trips:
        broken = [(account, trip.limit, str(trip.scope), trip.value, trip.at) for account, trip in trips]
        print_table(context.console, "Off until enabled", ("Account", "Limit", "Scope", "Counted", "Since"), broken)
    return 0


def _usages(limits: RiskLimits, books: list[RiskBook], orders: list[Stored], now: datetime) -> list[Usage]:
    """What the documents count now, and of the other limits what the latest verdict on an order said."""
    found = [usage for book in books for usage in counted(limits, book, now, UTC)]
    known = {(usage.account_id, str(usage.limit), usage.total) for usage in found}
    for (account, limit, total), (actual, value, at) in last_judged(stored.order for stored in orders).items():
        for table, values in limits.tables.items():
            if values.of(LimitType(limit)) != value or table.account_id not in (None, account):
                continue
            if (account, limit, total) not in known:
                known.add((account, limit, total))
                found.append(
                    Usage(
                        table=table,
                        limit=LimitType(limit),
                        account_id=account,
                        total=total,
                        limit_value=value,
                        actual_value=actual,
                        at=at,
                    )
                )
    return found


def _is_of(usage: Usage, table: str, limit: str) -> bool:
    is_built_in = table == "built in" and not usage.table.rank
    return usage.limit == limit and (shown(usage.table) == table or is_built_in)


def _part(usage: Usage) -> str:
    if not usage.limit_value:
        return ""
    return f"{EXACT.divide(usage.actual_value * 100, usage.limit_value).quantize(Decimal(1))} %"


def _fields(usage: Usage) -> dict[str, object]:
    return {
        "account_id": usage.account_id,
        "total": usage.total,
        "limit_value": usage.limit_value,
        "actual_value": usage.actual_value,
        "at": usage.at,
    }
