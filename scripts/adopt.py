"""`execctl adopt`: its options, the command built from them, and both books before and after it. Neither queries nor
stores anything."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from typing import Any

from rich.console import Console

from brokers.base import BrokerPosition, Instrument
from brokers.registry import manifests
from execution_service.core.adoption.records import Plan
from execution_service.core.orders.events import Occasion
from execution_service.core.reconcile.positions import group_of
from scripts.display import print_table

NOT_TOLD = "not told"
_OPTIONS = {"asset_class": "instrument_type"}
"""Order fields whose name differs from the instrument's."""
_FIELDS = tuple(_OPTIONS.get(each.name, each.name) for each in fields(Instrument))
_HELP = {
    "symbol": "as an order names it",
    "instrument_type": "STOCK (default), OPTION, FUTURE, FOREX, CRYPTO, ETF …",
    "expiry": "YYYYMMDD or YYYYMM",
    "right": "CALL or PUT",
}


def add_options(parser: argparse.ArgumentParser, words: Callable[[str], str]) -> None:
    """`words`: reads text that must not be blank."""
    parser.add_argument(
        "occasion", nargs="?", choices=[occasion.value for occasion in Occasion], help="what happened to the position"
    )
    parser.add_argument("--undo", metavar="ADOPTION", type=words, help="take an earlier adoption back instead")
    parser.add_argument("--account", type=words)
    parser.add_argument("--strategy", type=words, help="whose position it is, or becomes")
    for name in _FIELDS:
        parser.add_argument(_option(name), type=words, help=_HELP.get(name))
    parser.add_argument(
        "--holding", metavar="KEY", type=words, help="the instrument as execctl positions shows it, in place of these"
    )
    parser.add_argument(
        "--product", type=str.upper, choices=products(), help="of what opens, where the broker holds products apart"
    )
    parser.add_argument(
        "--quantity", type=words, help="units, shares or contracts; all that is held, unless it is said"
    )
    parser.add_argument(
        "--price", type=words, help="at which it left or came (expiry and assignment: 0 unless it is said)"
    )
    parser.add_argument("--side", type=str.upper, choices=("BUY", "SELL"), help="of a trade or a transfer in")
    parser.add_argument("--ratio", metavar="OLD:NEW", type=words, help="1:2 where one became two")
    for name in _FIELDS:
        text = "what came in its place; what is not said is as it was" if name == "symbol" else argparse.SUPPRESS
        parser.add_argument(_option(f"new_{name}"), type=words, help=text)
    parser.add_argument("--new-quantity", type=words, help="how many came, where that does not follow")
    parser.add_argument(
        "--new-price", type=words, help="at which they came, where that is not the old cost or the strike"
    )
    parser.add_argument("--cash", type=words, help="money that came besides; negative: was paid")
    parser.add_argument("--entry", metavar="SIGNAL_ID", action="append", type=words, help="which entry it belongs to")
    parser.add_argument("--discrepancy", metavar="ID", type=words, help="which difference it is to close")
    parser.add_argument("--at", metavar="TIME", type=words, help="when it happened (now, unless it is said)")
    parser.add_argument("--by", type=words, required=True, help="who says so")
    parser.add_argument("--reason", type=words, required=True, help="how they know")
    parser.add_argument("--new", action="store_true", help="it may open a position where the strategy has none")
    parser.add_argument("--force", action="store_true", help="in spite of the warnings that were shown")
    parser.add_argument("--dry-run", action="store_true", help="show both books before and after, and do nothing")


def products() -> tuple[str, ...]:
    """Every product that some broker knows."""
    return tuple(dict.fromkeys(product for manifest in manifests().values() for product in manifest.products))


def problem_with(options: argparse.Namespace) -> str | None:
    """Why the options do not fit together; None: they do."""
    needed = ("account", "strategy", "symbol") if options.holding is None else ("account", "strategy")
    given = [_option(name) for name in needed if getattr(options, name) is None]
    if options.undo is not None:
        return "--undo goes without an occasion" if options.occasion is not None else None
    if options.occasion is None:
        return "say what happened, or --undo ADOPTION"
    return f"an adoption needs {', '.join(given)}" if given else None


def command_body(options: argparse.Namespace) -> dict[str, Any]:
    """The command's body, as far as the options give it."""
    named = {
        "account_id": options.account,
        "discrepancy_id": options.discrepancy,
        "happened_at": options.at,
        "entries": options.entry,
    }
    plain = (
        "occasion",
        "strategy",
        "holding",
        "product",
        "quantity",
        "price",
        "side",
        "ratio",
        "new_quantity",
        "new_price",
        "cash",
    )
    body = named | {name: getattr(options, name) for name in (*plain, "by", "reason")}
    body["instrument"] = _instrument(options, "") or None
    body["successor"] = _instrument(options, "new_") or None
    body |= {"is_new": options.new, "is_forced": options.force}
    return {name: value for name, value in body.items() if value is not None}


def _instrument(options: argparse.Namespace, prefix: str) -> dict[str, str]:
    given = {name: getattr(options, f"{prefix}{name}") for name in _FIELDS}
    return {name: value for name, value in given.items() if value is not None}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def plan_fields(plan: Plan, theirs: Sequence[BrokerPosition] | None) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "movements": [
            {
                "side": movement.side,
                "instrument": movement.holding,
                "quantity": movement.quantity,
                "value": movement.value,
                "entry": list(movement.entry_refs or movement.stands_for),
                "words": movement.words,
            }
            for movement in plan.movements
        ],
        "holdings": [
            {
                "strategy": each.strategy,
                "instrument": each.holding,
                "ours_before": each.before,
                "ours_after": each.after,
                "average_before": each.before_average,
                "average_after": each.after_average,
                "realized_pnl": each.realized,
                "brokers": None if theirs is None else at_the_broker(theirs, each.instrument),
            }
            for each in plan.holdings
        ],
        "warnings": list(plan.warnings),
    }


def show(
    console: Console,
    plan: Plan,
    theirs: Sequence[BrokerPosition] | None,
    last_read: Mapping[str, str],
    *,
    undoing: str | None = None,
) -> None:
    """Both books before and after, what would be recorded, and warnings. `last_read`: the broker's positions at the
    last comparison, by the holding's key, used if the broker is not queried now."""
    rows = [
        (
            each.strategy,
            each.holding,
            each.before,
            each.before_average,
            each.after,
            each.after_average,
            each.realized,
            last_read.get(each.holding, NOT_TOLD) if theirs is None else at_the_broker(theirs, each.instrument),
        )
        for each in plan.holdings
    ]
    print_table(
        console,
        "Our book and the broker's",
        ("Strategy", "Instrument", "Ours", "Average", "Ours after", "Average after", "Realised", "The broker's"),
        rows,
        dispensable=("Average", "Average after"),
    )
    if undoing is not None:
        console.print(f"To be annulled: {undoing}")
    for movement in plan.movements:
        entry = movement.entry_refs or movement.stands_for
        way = "of entry" if movement.entry_refs else "in the place of entry"
        console.print(f"To be recorded: {movement.words}" + (f", {way} {entry[0]}" if entry else ""))
    for warning in plan.warnings:
        console.print(f"Warning: {warning}")


def at_the_broker(theirs: Sequence[BrokerPosition], instrument: Instrument) -> Decimal | str:
    """The broker's position in it, of all strategies together."""
    group = group_of(instrument, (), theirs)
    return "unclear" if group.is_unclear else group.shown
