"""`execctl market`: where the market of an account on historical bars stands, and a person's word that lets it go on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from brokers.errors import BrokerUnavailable
from brokers.registry import manifests
from brokers.simulated.clock import MarketClock, Standing
from brokers.simulated.manifest import book_of
from execution_service.app.settings.loading import Settings
from scripts.display import Shows, print_json, print_table, table_time

EXIT_FAILED = 1


class Context(Shows, Protocol):
    """What a command of execctl works with."""

    @property
    def settings(self) -> Settings: ...


def add_options(parser: argparse.ArgumentParser, count: Callable[[str], int]) -> None:
    """`count`: how a number above 0 is read."""
    parser.add_argument("account", metavar="ACCOUNT")
    how_far = parser.add_mutually_exclusive_group()
    how_far.add_argument("--bars", type=count, default=0, help="let it go on by so many bars")
    how_far.add_argument("--until", type=_time, help="let it go on through the bars that open until then")


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no time like 2005-01-03T00:00:00Z") from exc
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


async def run(context: Context) -> int:
    """Shows where it stands, after what was asked; the running service moves it."""
    options = context.options
    account = context.settings.account(options.account)
    if account is None or not manifests()[account.broker].is_for_training_alone:
        print(f"{options.account} is no account on historical bars", file=sys.stderr)
        return EXIT_FAILED
    clock = MarketClock(book_of(Path(str(account.config["folder"])), account.account_id), account.account_id)
    try:
        standing = clock.ask(bars=options.bars, until=options.until)
    except BrokerUnavailable as exc:
        print(str(exc), file=sys.stderr)
        return EXIT_FAILED
    if standing is None:
        print(f"The market of {options.account} has not begun: no service has opened it yet", file=sys.stderr)
        return EXIT_FAILED
    _show(context, standing)
    return 0


def _show(context: Context, standing: Standing) -> None:
    opening, until = standing.next_opening, standing.until
    if context.wants_json:
        print_json(
            {
                "account_id": context.options.account,
                "time": standing.time.isoformat(),
                "next_opening": None if opening is None else opening.isoformat(),
                "bars_asked": standing.bars,
                "asked_until": None if until is None else until.isoformat(),
            }
        )
        return
    rows = [
        ("Market time", table_time(standing.time)),
        ("Next opening", "none: the bars have ended" if opening is None else table_time(opening)),
        ("Asked to go on", f"{standing.bars} bars" if standing.bars else "-" if until is None else table_time(until)),
    ]
    print_table(context.console, f"The market of {context.options.account}", ("Fact", "Value"), rows)
