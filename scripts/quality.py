"""`execctl quality`: how well orders were filled, by strategy and broker."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from execution_service.app.clock import SystemClock
from execution_service.app.settings.loading import Settings
from execution_service.control.fill_quality import ListsOrders, QualityFilter, QualityReader, since_of
from execution_service.core.quality.order_quality import OrderQuality
from execution_service.core.texts.values import money
from execution_service.runtime.threads import InPlace
from scripts.display import Shows, counted, print_json, print_table, shown_time

UNKNOWN_BROKER = "NONE"
"""Of an account that neither the settings nor the running service know."""
_CENT = Decimal("0.01")
COLUMNS = (
    *("Strategy", "Broker", "Sent", "Filled", "Measured", "Median", "Mean", "95 %", "Cost"),
    *("Seconds to fill", "Of volume", "Not measured"),
)


class Context(Shows, Protocol):
    """What a command of execctl works with."""

    @property
    def store(self) -> ListsOrders: ...

    @property
    def settings(self) -> Settings: ...


class KnowsAccounts(Protocol):
    """At which broker each account is, as far as it is known."""

    def broker_of(self, account_id: str) -> str | None: ...


class _Brokers:
    def __init__(self, known: KnowsAccounts) -> None:
        self._known = known

    def broker_of(self, account_id: str) -> str:
        return self._known.broker_of(account_id) or UNKNOWN_BROKER


def add_options(parser: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    parser.add_argument("--account", help="only this account's")
    parser.add_argument("--strategy", help="only this strategy's")
    parser.add_argument("--broker", help="only at this broker")
    parser.add_argument(
        "--since",
        type=_since,
        default=None,
        metavar="WHEN",
        help="received then or later: a date, a time with its zone, or how long ago: 90m, 12h, 7d (default 7d)",
    )
    parser.add_argument("--limit", type=positive, help="of the latest so many orders at most (default: all)")


def _since(text: str) -> datetime:
    try:
        return since_of(text, SystemClock().now())
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r}: {exc}") from exc


async def show(context: Context, known: KnowsAccounts) -> int:
    """Raises StoreUnavailable."""
    options = context.options
    since = options.since or since_of(None, SystemClock().now())
    chosen = QualityFilter(since=since, account_id=options.account, strategy=options.strategy, broker=options.broker)
    found = await QualityReader(context.store, _Brokers(known), InPlace()).read(chosen, most=options.limit)
    if context.wants_json:
        print_json(found.fields())
        return 0
    rows = [
        (
            group.key.strategy,
            group.key.broker,
            group.sent,
            group.filled,
            group.slippage.measured,
            bps(group.slippage.median_bps),
            bps(group.slippage.mean_bps),
            bps(group.slippage.p95_bps),
            None if group.slippage.cost is None else money(group.slippage.cost, group.key.currency),
            None if group.seconds_to_last_fill is None else f"{group.seconds_to_last_fill:.1f}",
            None if group.share_of_volume is None else f"{group.share_of_volume * 100:.2f} %",
            ", ".join(f"{why} {count}" for why, count in group.unmeasured.items()),
        )
        for group in found.groups()
    ]
    title = f"{counted(len(found.orders), 'order')} sent since {shown_time(since)}; slippage in basis points, positive is a cost"
    print_table(
        context.console, title, COLUMNS, rows, dispensable=("Of volume", "Seconds to fill", "Not measured", "Measured")
    )
    if not found.is_complete:
        context.console.print(f"There are older ones; these are the latest {len(found.orders)}.")
    return 0


def bps(figure: Decimal | None) -> str | None:
    """For people."""
    return None if figure is None else f"{figure.quantize(_CENT) + 0:+}"


def lines_of(quality: OrderQuality) -> list[tuple[str, str | None]]:
    """Of one order, for its story; what is not known, with the reason."""
    arrival, missing = quality.arrival, quality.missing
    if arrival is not None:
        price: str | None = str(arrival)
    else:
        price = _why(missing.get("arrival_price"))
    slippage = bps(quality.slippage_bps)
    if slippage is not None and quality.benchmark is not None:
        slippage = f"{slippage} basis points against the {quality.benchmark.lower()} price"
    times = (quality.seconds_to_first_fill, quality.seconds_to_last_fill)
    fills = None if None in times else " and ".join(f"{each:.1f} s" for each in times if each is not None)
    share = quality.share_of_volume
    return [
        ("Price at arrival", price),
        ("Slippage", slippage or _why(missing.get("slippage_bps"))),
        ("First and last fill after", fills or _why(missing.get("seconds_to_last_fill"))),
        ("Share of volume", None if share is None else f"{share * 100:.2f} %"),
    ]


def _why(reason: str | None) -> str | None:
    return None if reason is None else f"not known: {reason}"
