"""`execctl limits`: the limits of risk as they stand in the file, how much of each is used, and the ways to enable again what is off and to measure
losses anew."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from execution_service.app.clock import SystemClock
from execution_service.app.risk_file import effective, shown
from execution_service.app.settings.loading import Settings
from execution_service.control.enable_risk import enable_again, rebase
from execution_service.control.limit_uses import limit_uses
from execution_service.control.shown import use_fields
from execution_service.core.risk.kill import scope_from_text
from execution_service.core.risk.limits import FUTURES_ORDER_VALUE, LimitSet, Scope
from execution_service.core.risk.usage import Usage
from execution_service.core.texts.values import quantity
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.reader import StoreReader
from scripts.display import Shows, print_json, print_table
from scripts.display import counted as counted_noun


class Context(Shows, Protocol):
    """What a command of execctl works with."""

    @property
    def view(self) -> StoreReader: ...

    @property
    def store(self) -> MongoStore: ...

    @property
    def settings(self) -> Settings: ...


def add_options(parser: argparse.ArgumentParser, text: Callable[[str], str]) -> None:
    """`text`: how a text that must not be blank is read."""
    parser.add_argument(
        "--enable",
        type=_scope,
        metavar="SCOPE",
        help="let trade again what a broken limit has switched off: all, account:ID, strategy:NAME, symbol:SYMBOL, or some joined by +",
    )
    parser.add_argument(
        "--rebase",
        type=_scope,
        metavar="SCOPE",
        help="measure daily loss and drawdown from the next readings on, as after money was paid in or out; and put the day right after a clock "
        "had run ahead",
    )
    parser.add_argument("--by", type=text, help="with --enable and --rebase: who decided")
    parser.add_argument("--reason", type=text, help="with --enable and --rebase: why")


def problem_with(options: argparse.Namespace) -> str | None:
    """What of the options does not go together."""
    if options.enable is not None and options.rebase is not None:
        return "--enable and --rebase are two decisions: one at a time"
    if (options.enable or options.rebase) is not None and not (options.by and options.reason):
        return "--enable and --rebase need --by and --reason: people are told who did it, and why"
    return None


def _scope(text: str) -> Scope:
    try:
        return scope_from_text(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


async def show(context: Context) -> int:
    """Raises StoreUnavailable."""
    options = context.options
    now, zones = SystemClock().now(), context.settings.zones
    said: Mapping[str, Any] = {"by": options.by, "reason": options.reason, "now": now, "zones": zones}
    if options.rebase is not None:
        count = await rebase(context.store, options.rebase, **said)
        if context.wants_json:
            print_json({"scope": str(options.rebase), "rebased": count})
        else:
            words = f"Losses are measured anew in {counted_noun(count, 'account')} for {options.rebase}"
            context.console.print(
                f"{words}, from the first reading after this on; until then what was measured applies"
            )
        return 0
    if options.enable is not None:
        ended = await enable_again(context.store, options.enable, **said)
        if context.wants_json:
            print_json({"scope": str(options.enable), "enabled": ended})
        else:
            context.console.print(f"{counted_noun(ended, 'broken limit')} enabled again for {options.enable}")
        return 0
    limits = context.settings.risk_limits
    found = await limit_uses(context.store, limits, zones, now)
    if context.wants_json:
        print_json(
            {
                "limits": [
                    {
                        "table": table,
                        "limit": limit,
                        "value": value,
                        "uses": [use_fields(usage) for usage in found.usages if _is_of(usage, table, limit)],
                    }
                    for table, limit, value in effective(limits)
                ],
                "off_until_enabled": [
                    {
                        "account_id": each.account_id,
                        "limit": each.trip.limit,
                        "scope": str(each.trip.scope),
                        "counted": each.trip.value,
                        "at": each.trip.at,
                    }
                    for each in found.broken
                ],
            }
        )
        return 0
    columns = ("Limit", "Value", "Written in", "Of", "Used", "Part", "By the price of", "As of")
    rows: list[tuple[object, ...]] = []
    for table, limit, value in effective(limits):
        mine = [usage for usage in found.usages if _is_of(usage, table, limit)]
        if not mine:
            rows.append((limit, value, table, "", "", "", "", None))
        for usage in mine:
            price = "" if usage.price is None else str(usage.price)
            rows.append(
                (limit, value, table, usage.scope, quantity(usage.shown_used), _percent(usage), price, usage.at)
            )
    print_table(context.console, "Limits of risk", columns, rows, dispensable=("As of", "By the price of", "Part"))
    if limits.tables.get(Scope(), LimitSet()).max_order_value is None:
        context.console.print(f"For futures {FUTURES_ORDER_VALUE:f} is built in for max_order_value.")
    if found.broken:
        broken = [(b.account_id, b.trip.limit, str(b.trip.scope), b.trip.value, b.trip.at) for b in found.broken]
        print_table(context.console, "Off until enabled", ("Account", "Limit", "Scope", "Counted", "Since"), broken)
    return 0


def _is_of(usage: Usage, table: str, limit: str) -> bool:
    return usage.limit_type == limit and table == (shown(usage.table) if usage.is_written else "built in")


def _percent(usage: Usage) -> str:
    return f"{usage.shown_percent(0)} %"
