"""Shows the execution service's records and gives it commands, whether the service is running or not. Trades nothing itself.

Exit status: 0 done, or stored for the next start; 1 unknown id or account, refused command, or no answer from the store;
2 wrong arguments or settings.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeAlias

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from execution_service.app.own_python import use_own_python

    use_own_python()

from rich.console import Console

from brokers.base import BrokerPosition, ContractTerms, Fill
from execution_service.app.clock import SystemClock
from execution_service.app.embedded import EmbeddedPartFailed
from execution_service.app.settings.loading import Settings
from execution_service.control.adoption_books import plan_of_undoing, read_books, records_named
from execution_service.control.requests import ALLOWED_SECONDS, LONGEST_ALLOWED_SECONDS
from execution_service.control.shown import command_fields, dead_letter_fields, discrepancy_fields
from execution_service.core.adoption.plan import plan
from execution_service.core.adoption.records import Refused, read_adoption_request
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.events import stored_name
from execution_service.core.orders.order import Hold, Order
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import Status
from execution_service.core.planning.targets import Mode
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.core.quality.order_quality import order_quality
from execution_service.core.reconcile.discrepancies import Discrepancy, DiscrepancyKind
from execution_service.core.texts.discrepancies import background
from execution_service.core.texts.log import log_line
from execution_service.core.texts.values import contract_summary, currency_of, money, plain, quantity, quoted
from execution_service.core.views.record import plan_to_document, positions_from_documents
from execution_service.core.views.shared import confirmation_id
from execution_service.delivery.rebuild import Rebuild
from execution_service.runtime.threads import InPlace
from execution_service.storage.contract_facts import Facts, Mended, Said
from execution_service.storage.mongo.opening import connect
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.ports.commands import Command, CommandStatus, DeadLetter
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.leases import Lease
from execution_service.storage.ports.orders import Stored
from execution_service.storage.reader import StoreReader
from scripts import adopt, limits, market, plans, quality, stances, switches, tokens, trades
from scripts.display import cell, counted, new_console, print_json, print_table, table_time
from scripts.locate import NotFound, opened_store, running_service, settings_or_exit, view_of
from scripts.waits import waits_for

OUTCOME_SECONDS = 8.0
POSITIONS_SECONDS = 20.0
"""A broker may take its time to report positions; after this the books are shown without them."""
COMPARE_SECONDS = 75.0
"""Enough for two readings of a broker's whole book with a pause between them, or for another process's answer."""
LOOK_SECONDS = 0.2
PAYLOAD_SHOWN = 2000
MOST_NAMES_SHOWN = 20
FACTS = ("Fact", "Value")
"""The headings of a table about a single object."""
EXIT_FAILED, EXIT_ARGUMENTS = 1, 2
DECISIONS = ("not-placed", "placed", "cancelled", "send-again")


class Unknown(Exception):
    """No match for the given name, or too many; the message says which."""


@dataclass(frozen=True, slots=True)
class CommandContext:
    """What every command works with."""

    view: StoreReader
    store: MongoStore
    settings: Settings
    console: Console
    options: argparse.Namespace

    @property
    def wants_json(self) -> bool:
        return bool(self.options.json)


Verb: TypeAlias = Callable[[CommandContext], Coroutine[Any, Any, int]]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    settings = settings_or_exit()
    try:
        return asyncio.run(_run(settings, options))
    except (Unknown, NotFound, EmbeddedPartFailed) as exc:
        print(exc, file=sys.stderr)
    except StoreUnavailable as exc:
        print(f"The store does not answer: {exc}", file=sys.stderr)
    return EXIT_FAILED


async def _run(settings: Settings, options: argparse.Namespace) -> int:
    async with _opened_context(settings, options) as context:
        verb: Verb = options.verb
        if options.word not in switches.WORDS:
            switches.warn(context.view.switches())
            if options.word not in stances.WORDS:
                stances.warn(context.view.stances())
        return await verb(context)


@contextlib.asynccontextmanager
async def _opened_context(settings: Settings, options: argparse.Namespace) -> AsyncIterator[CommandContext]:
    async with opened_store(settings) as (uri, database):
        view = view_of((uri, database))
        store = MongoStore(connect(uri), database, nonce=uuid.uuid4().hex[:12], clock=SystemClock(), threads=InPlace())
        try:
            yield CommandContext(view, store, settings, new_console(), options)
        finally:
            for words in sorted(view.unreadable):
                print(f"Left out, it cannot be read: {plain(words)}", file=sys.stderr)
            view.close()
            await store.close()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="execctl", description=str(__doc__).splitlines()[0])
    verbs = parser.add_subparsers(dest="word", required=True, metavar="COMMAND")

    def verb(name: str, words: str, run: Verb) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=words, description=words)
        sub.add_argument("--json", action="store_true", help="one JSON document")
        sub.set_defaults(verb=run)
        return sub

    sub = verb("orders", "the latest orders", _orders)
    sub.add_argument("--status", type=str.upper, choices=[status.value for status in Status])
    sub.add_argument("--account", help="only this account's")
    sub.add_argument("--limit", type=_positive, default=20, help="at most so many (default 20)")
    sub = verb("order", "the whole story of a signal's orders", _order)
    sub.add_argument("name", metavar="SIGNAL_ID", help="or an order's id: ours, upstream's or the broker's")
    sub = verb("positions", "what is held, exactly", _positions)
    sub.add_argument("--account", help="only this account's")
    sub = verb("trades", "the latest executions, or all of them in a file: trades export", trades.show)
    trades.add_options(sub, _positive)
    sub = verb("cash", "what trading has changed of the cash, by account and currency", trades.show_cash)
    sub.add_argument("--account", help="only this account's")
    verb("leases", "which process works which account, where several share the store", _leases)
    sub = verb("dead-letters", "messages that could not be taken as orders", _dead_letters)
    sub.add_argument("message_id", metavar="MESSAGE_ID", nargs="?", help="show this one whole")
    sub.add_argument("--limit", type=_positive, default=20, help="at most so many (default 20)")
    sub = verb("replay", "take a dead letter again as if it had just come", _replay)
    sub.add_argument("message_id", metavar="MESSAGE_ID")
    sub = verb("cancel", "ask for an order to be cancelled", _cancel)
    sub.add_argument("name", metavar="SIGNAL_ID|ORDER_ID")
    sub.add_argument("--leg", type=int, help="only this leg of the signal (from 0)")
    sub.add_argument("--reason", default="cancelled by hand with execctl")
    sub = verb("resolve", "say what became of an order in doubt", _resolve)
    sub.add_argument("name", metavar="ORDER_ID")
    sub.add_argument("--as", dest="decision", required=True, choices=DECISIONS)
    sub.add_argument("--broker-order-id", type=_nonblank, help="with --as placed: the broker's id for it")
    sub.add_argument("--by", type=_nonblank, required=True, help="who decided")
    sub.add_argument("--note", type=_nonblank, required=True, help="how they know")
    switches.add_options(
        verb("kill", "stop new risk, at once, in all processes; exits and cancels go on", _kill),
        verb("arm", "let a kill switch trade again: two steps, a minute after the last kill at the earliest", _arm),
        _nonblank,
    )
    stances.add_options(
        verb("stance", "say how urgently plans are carried out from now on; EMERGENCY: reductions only", _stance),
        _nonblank,
    )
    verb("stances", "how urgently plans are carried out, and who said so", _stances)
    sub = verb(
        "flatten", "close all that is held within a scope, by ordinary exit orders; needs the running service", _flatten
    )
    sub.add_argument(
        "scope", metavar="SCOPE", help="all, account:ID, strategy:NAME, symbol:SYMBOL, or some of them joined by +"
    )
    sub.add_argument("--person", type=_nonblank, required=True, help="who answers for it")
    sub.add_argument("--reason", type=_nonblank, required=True)
    sub = verb("plan", "have target positions planned and worked; needs the running service", _plan)
    sub.add_argument("file", metavar="FILE", type=Path, help="a JSON object, as on the topic target-positions")
    sub.add_argument("--dry-run", action="store_true", help="show the orders and place none")
    sub = verb(
        "allow",
        "let one order that limits of risk refused come once more: the same again, under a new signal",
        _allow,
    )
    sub.add_argument("name", metavar="ORDER", help="the refused order: our id, upstream's, or its signal's")
    sub.add_argument("--person", type=_nonblank, required=True, help="who answers for it")
    sub.add_argument("--reason", type=_nonblank, required=True)
    sub.add_argument(
        "--for",
        dest="seconds",
        type=_positive,
        default=ALLOWED_SECONDS,
        metavar="SECONDS",
        help=f"how long it may come (default {ALLOWED_SECONDS}, at most {LONGEST_ALLOWED_SECONDS})",
    )
    verb("switches", "the kill switches: what stops now, and who changed what", _switches)
    sub = verb("adopt", "have our book follow what happened to a position past this service", _adopt)
    adopt.add_options(sub, _nonblank)
    sub = verb("discrepancies", "what our books and a broker's disagree about", _discrepancies)
    sub.add_argument("--account", help="only this account's")
    sub.add_argument("--all", action="store_true", help="closed ones too")
    sub = verb("reconcile", "have the service compare our books with the brokers' now", _reconcile)
    sub.add_argument("account", metavar="ACCOUNT", nargs="?", help="only this account")
    sub = verb("limits", "each limit of risk: its value, where it is written, and how much of it is used", limits.show)
    limits.add_options(sub, _nonblank)
    sub = verb("market", "where the market of an account on historical bars stands; lets it go on", market.run)
    market.add_options(sub, _positive)
    sub = verb("quality", "how well orders were filled, by strategy and broker", _quality)
    quality.add_options(sub, _positive)
    sub = verb("rebuild-views", "write the shared collections anew from our own", _rebuild_views)
    sub.add_argument(
        "--use-mock-broker",
        action="store_true",
        help="documents that are lost, of accounts that nobody knows, were the mock broker's",
    )
    sub.add_argument(
        "--contract",
        type=_contract,
        action="append",
        default=[],
        metavar="INSTRUMENT=MULTIPLIER[/MAGNIFIER]",
        help="what one contract of old orders is worth, where no record has it: 'ES|FUTURE|expiry=202612=50', or 5000/100 for prices in "
        "cents; it is kept in their records",
    )
    sub.add_argument("--by", type=_nonblank, help="with --contract: who says so")
    sub.add_argument("--note", type=_nonblank, help="with --contract: how they know")
    sub = verb("token", "make, list or revoke tokens for callers of the HTTP API", _token)
    tokens.add_options(sub, _positive, _nonblank)
    options = parser.parse_args(arguments)
    if options.word == "token" and (problem := tokens.problem_with(options)) is not None:
        parser.error(problem)
    if options.word == "resolve" and (options.decision == "placed") != (options.broker_order_id is not None):
        parser.error("--broker-order-id goes with --as placed, and --as placed needs it")
    if options.word == "adopt" and (problem := adopt.problem_with(options)) is not None:
        parser.error(problem)
    if options.word == "trades" and (problem := trades.problem_with(options)) is not None:
        parser.error(problem)
    if options.word == "limits" and (problem := limits.problem_with(options)) is not None:
        parser.error(problem)
    if options.word == "rebuild-views" and options.contract and not (options.by and options.note):
        parser.error("--contract needs --by and --note: the records keep who said it and how they know")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def _nonblank(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it must not be blank: the record keeps it")
    return text.strip()


def _contract(text: str) -> tuple[str, ContractTerms]:
    """The instrument's key and its contract facts."""
    key, _, figures = text.rpartition("=")
    multiplier, slash, magnifier = figures.partition("/")
    try:
        sizes = [Decimal(multiplier), Decimal(magnifier if slash else 1)]
    except InvalidOperation:
        sizes = [Decimal(0)]
    if not key or not all(size.is_finite() and size > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is not INSTRUMENT=MULTIPLIER or INSTRUMENT=MULTIPLIER/MAGNIFIER")
    return key, ContractTerms(multiplier=sizes[0], price_magnifier=sizes[1])


# --- looking --------------------------------------------------------------------------------------------------------


async def _orders(context: CommandContext) -> int:
    options = context.options
    _check_account(context, options.account)
    found = context.view.orders(status=options.status, account_id=options.account, limit=options.limit)
    if context.wants_json:
        print_json([_order_fields(stored) for stored in found])
        return 0
    columns = ("Signal", "Leg", "Purpose", "Account", "Order", "Status", "Filled", "Average", "Reason", "Received")
    rows = []
    for stored in found:
        order = stored.order
        rows.append(
            (
                order.signal_id,
                order.identity.leg_index,
                order.identity.purpose.value,
                order.request.account_id,
                _what(order),
                f"{order.status.value}, held" if _is_held(order) else order.status.value,
                order.filled_quantity,
                order.average_price,
                "" if order.reason is None else order.reason.code.value,
                order.received_at,
            )
        )
    print_table(
        context.console,
        f"{counted(len(rows), 'order')}, the latest first",
        columns,
        rows,
        dispensable=("Average", "Purpose", "Received"),
    )
    return 0


def _what(order: Order) -> str:
    request = order.request
    if order.adoption is not None:
        return f"{order.adoption.occasion}: {request.side} {quantity(order.quantity)} {order.symbol}"
    words = [request.side, None if order.quantity is None else quantity(order.quantity)]
    words += [order.symbol, request.order_type]
    words += [f"limit {quantity(order.limit_price)}" if order.limit_price is not None else None]
    words += [f"stop {quantity(order.stop_price)}" if order.stop_price is not None else None]
    words += [f"showing {quantity(order.display_quantity)}" if order.display_quantity is not None else None]
    return " ".join(str(word) for word in words if word is not None) or "(unreadable)"


def _order_fields(stored: Stored) -> dict[str, object]:
    order, request = stored.order, stored.order.request
    return {
        "order_id": order.order_id,
        "signal_id": order.signal_id,
        "leg_index": order.identity.leg_index,
        "purpose": order.identity.purpose.value,
        "status": order.status.value,
        "account_id": request.account_id,
        "strategy": request.strategy,
        "symbol": order.symbol,
        "side": request.side,
        "order_type": request.order_type,
        "quantity": order.quantity,
        "filled_quantity": order.filled_quantity,
        "average_price": order.average_price,
        "value": order.value,
        "contract": None if order.terms is None else asdict(order.terms),
        "commission": order.commission,
        "limit_price": order.limit_price,
        "stop_price": order.stop_price,
        "display_quantity": order.display_quantity,
        "request_order_id": request.request_order_id,
        "broker_order_id": order.broker_order_id,
        "client_order_ids": list(order.client_order_ids),
        "reason": None if order.reason is None else {"code": order.reason.code, "message": order.reason.message},
        "reasons": [] if order.reason is None else [breach.told for breach in order.reason.breaches or ()],
        "received_at": order.received_at,
        "submitted_at": order.submitted_at,
        "held": _hold_fields(order.hold) if order.hold is not None and _is_held(order) else None,
        "filled_at": order.filled_at,
        "finished_at": order.finished_at,
        "adopted": None if order.adoption is None else asdict(order.adoption),
        "stands_for": list(request.stands_for) if isinstance(request, OrderRequest) else [],
        "version": order.version,
        "delivered_to_world": stored.told.world,
        "delivered_to_people": stored.told.people,
    }


def _hold_fields(hold: Hold) -> dict[str, object]:
    return {"since": hold.since, "until": hold.until, "message": hold.message}


async def _order(context: CommandContext) -> int:
    found = await context.store.load([stored.order.order_id for stored in _named(context, context.options.name)])
    histories = [_history(context, stored) for stored in found]
    if context.wants_json:
        print_json(histories)
        return 0
    for stored, history in zip(found, histories, strict=True):
        _print_history(context.console, stored, history)
    return 0


def _history(context: CommandContext, stored: Stored) -> dict[str, Any]:
    order = stored.order
    names = [n for n in (order.signal_id, order.request.mathematricks_signal_id) if n is not None]
    ids = [n for n in (order.order_id, order.request.request_order_id, order.broker_order_id) if n is not None]
    is_entry = order.identity.purpose is Purpose.ENTRY
    confirmation = context.view.confirmation(confirmation_id(order))
    return _order_fields(stored) | {
        "events": [
            {
                "number": applied_event.number,
                "at": applied_event.event.at,
                "type": stored_name(type(applied_event.event)),
                "words": plain(
                    (
                        log_line(applied_event.before, applied_event.event, applied_event.after)
                        or ("(changed nothing)",)
                    )[0]
                ),
                "status": applied_event.after.status.value,
                "is_published": applied_event.is_published,
                "is_delivered": applied_event.number <= stored.told.world,
            }
            for applied_event in applied_events(order)
        ],
        "waits_for": waits_for(context.view, order, SystemClock().now()),
        "fills": [asdict(fill) for fill in order.fills],
        "quality": order_quality(order).fields(),
        "realized_pnl": stored.realized_pnl,
        "entries": list(order.request.entry_refs) if isinstance(order.request, OrderRequest) else [],
        "exits": [_order_fields(s) for s in context.view.exits_of(names)] if is_entry else [],
        "commands": [command_fields(c) for c in context.view.commands_naming([*names, *ids, *order.client_order_ids])],
        "confirmation_shown": None if confirmation is None else str(confirmation["status"]),
        "raw": order.raw,
    }


def _print_history(console: Console, stored: Stored, history: Mapping[str, Any]) -> None:
    order = stored.order
    published = [event for event in history["events"] if event["is_published"]]
    delivered = sum(event["is_delivered"] for event in published)
    owed = order.version - stored.told.world
    facts = (
        ("Signal", f"{order.signal_id}, leg {order.identity.leg_index}, {order.identity.purpose.value}"),
        ("Order", f"{_what(order)} for {order.request.account_id}, {order.request.strategy}"),
        ("Status", order.status.value),
        ("Held", _held(order)),
        ("Waits for", _waits(order, history["waits_for"])),
        ("Reason", "" if order.reason is None else f"{order.reason.code}: {order.reason.message}"),
        ("Filled", f"{quantity(order.filled_quantity)} of {quantity(order.quantity)}"),
        ("Average price", None if order.average_price is None else quoted(order.average_price, order)),
        ("Total", None if order.value is None else money(order.value, currency_of(order))),
        ("Contract", "" if order.terms is None else contract_summary(order.terms)),
        *quality.lines_of(order_quality(order)),
        ("Commission", order.commission),
        ("Realised", history["realized_pnl"]),
        ("Our id", order.order_id),
        ("Upstream's id", order.request.request_order_id),
        ("Broker's id", order.broker_order_id),
        ("Tags at the broker", ", ".join(order.client_order_ids) if order.adoption is None else ""),
        ("Published, received", f"{table_time(order.published_at)}, {table_time(order.received_at)}"),
        ("Message", order.message_id),
        ("Entries closed", ", ".join(history["entries"])),
        *_adoption_facts(order),
        (
            "Confirmations",
            f"{delivered} of {len(published)} published" + (f"; events not delivered: {owed}" if owed else ""),
        ),
        ("Alerts for people", "up to date" if stored.told.people >= order.version else "not all sent"),
        ("Shown to others as", history["confirmation_shown"] or "no document"),
    )
    print_table(console, f"Order {order.order_id}", FACTS, facts, prose=FACTS[1:])
    events = [(e["number"], e["at"], e["words"], e["status"], _delivery(e)) for e in history["events"]]
    print_table(
        console,
        "What happened",
        ("No.", "Time", "Event", "Status", "Confirmation"),
        events,
        prose=("Event",),
        dispensable=("Confirmation",),
    )
    if order.fills:
        fills = [
            (f.fill_id, _fill_time(f), f.quantity, f.price, f.commission, f.commission_currency) for f in order.fills
        ]
        print_table(
            console,
            "Fills",
            ("Id", "Time", "Quantity", "Price", "Commission", "Currency"),
            fills,
            dispensable=("Currency",),
        )
    if history["exits"]:
        exits = [
            (_exit_name(e), e["leg_index"], e["order_id"], e["status"], e["filled_quantity"], e["average_price"])
            for e in history["exits"]
        ]
        print_table(console, "Exits", ("Signal", "Leg", "Order", "Status", "Filled", "Average"), exits)
    if history["commands"]:
        commands = [
            (c["received_at"], c["kind"], c["status"], c["outcome"], c["command_id"]) for c in history["commands"]
        ]
        print_table(console, "Commands", ("Time", "Command", "State", "Outcome", "Id"), commands, prose=("Outcome",))


def _fill_time(fill: Fill) -> str:
    """Marked if it is only our estimate."""
    return f"{cell(fill.time)} (estimated)" if fill.is_time_estimated else cell(fill.time)


def _is_held(order: Order) -> bool:
    return order.hold is not None and order.hold.lasts(datetime.now(UTC))


def _held(order: Order) -> str:
    """Until when the broker holds it for the opening of its market."""
    if order.hold is None or not _is_held(order):
        return ""
    until = "the opening" if order.hold.until is None else table_time(order.hold.until)
    return f"until {until}, since {table_time(order.hold.since)}: {plain(order.hold.message)}"


def _exit_name(fields: Mapping[str, Any]) -> str:
    adopted = fields["adopted"]
    return fields["signal_id"] if adopted is None else f"{fields['signal_id']} ({adopted['occasion']})"


def _adoption_facts(order: Order) -> list[tuple[str, str]]:
    """The person's report, if the record is an adoption."""
    told = order.adoption
    if told is None:
        return []
    stands_for = order.request.stands_for if isinstance(order.request, OrderRequest) else ()
    return [
        ("Adopted", f"{told.occasion}, by {plain(told.by)}: {plain(told.message)}"),
        ("In the place of", ", ".join(map(plain, stands_for))),
        ("Closes discrepancy", told.discrepancy_id or ""),
        ("Command", told.command_id),
    ]


def _waits(order: Order, phrases: Sequence[str]) -> str:
    if order.status is not Status.PENDING:
        return ""
    return plain("; ".join(phrases)) or "no other order: see its account in mvp_demo_status"


def _delivery(event: Mapping[str, Any]) -> str:
    if not event["is_published"]:
        return ""
    return "published" if event["is_delivered"] else "waiting"


async def _positions(context: CommandContext) -> int:
    wanted = context.options.account
    _check_account(context, wanted)
    entries = context.view.ledgers(only_open=True)
    rows = [_position_fields(entry) for entry in entries if wanted in (None, entry.key.account_id)]
    if context.wants_json:
        print_json(rows)
        return 0
    columns = (
        *("Account", "Strategy", "Instrument", "Side", "Quantity", "Average"),
        *("A point", "Realised", "Currency", "Opened", "Changed"),
    )
    names = (
        "account_id",
        "strategy",
        "instrument",
        "side",
        "quantity",
        "average_price",
        "money_per_point",
        "realized_pnl",
        "currency",
        "opened_at",
        "updated_at",
    )
    cells = [[row[name] for name in names] for row in rows]
    print_table(
        context.console,
        counted(len(cells), "open position"),
        columns,
        cells,
        dispensable=("Opened", "Changed", "Currency", "Realised", "A point"),
    )
    return 0


async def _leases(context: CommandContext) -> int:
    now = SystemClock().now()
    rows = [_lease_fields(lease, now) for lease in context.view.leases()]
    if context.wants_json:
        print_json(rows)
        return 0
    if not rows and context.settings.mongodb_uri is None:
        context.console.print("The embedded store has one service, which works every account; there are no leases.")
        return 0
    names = ("account_id", "state", "host", "pid", "epoch", "taken_at", "renewed_at")
    columns = ("Account", "State", "Host", "Process", "Epoch", "Taken", "Renewed")
    print_table(context.console, counted(len(rows), "lease"), columns, [[row[name] for name in names] for row in rows])
    return 0


def _lease_fields(lease: Lease, now: datetime) -> dict[str, object]:
    # Compares the clocks of two machines, so it is for people only.
    is_silent = (now - lease.renewed_at).total_seconds() > lease.term_seconds
    state = "given back" if not lease.holder else "silent" if is_silent else "held"
    return {
        "account_id": lease.partition,
        "state": state,
        "host": lease.host,
        "pid": lease.pid,
        "epoch": lease.epoch,
        "taken_at": lease.taken_at,
        "renewed_at": lease.renewed_at,
        "term_seconds": lease.term_seconds,
    }


def _position_fields(entry: LedgerEntry) -> dict[str, object]:
    position = entry.position
    return {
        "account_id": entry.key.account_id,
        "strategy": entry.key.strategy,
        "symbol": entry.instrument.symbol,
        "instrument": entry.key.instrument_key,
        "side": "LONG" if position.is_long else "SHORT",
        "quantity": abs(position.quantity),
        "average_price": position.average_price,
        "money_per_point": entry.money_per_point,
        "currency": entry.currency,
        "realized_pnl": position.realized_pnl,
        "opened_at": position.opened_at,
        "updated_at": position.updated_at,
        "episode": position.episode,
        "order_ids": list(position.order_ids),
    }


async def _quality(context: CommandContext) -> int:
    _check_account(context, context.options.account)
    return await quality.show(context, _Brokers(context))


async def _dead_letters(context: CommandContext) -> int:
    message_id = context.options.message_id
    letters = (
        context.view.dead_letters(context.options.limit) if message_id is None else [_dead_letter(context, message_id)]
    )
    if context.wants_json:
        print_json([dead_letter_fields(dead_letter) for dead_letter in letters])
        return 0
    if message_id is not None:
        dead_letter = letters[0]
        facts = [(name, value) for name, value in dead_letter_fields(dead_letter).items() if name != "payload"]
        print_table(context.console, f"Dead letter {plain(dead_letter.message_id)}", FACTS, facts, prose=FACTS[1:])
        text = dead_letter.payload.decode("utf-8", "replace")
        rest = (
            f"\n… {counted(len(text) - PAYLOAD_SHOWN, 'character')} more: --json" if len(text) > PAYLOAD_SHOWN else ""
        )
        lines = "\n".join(plain(line) for line in text[:PAYLOAD_SHOWN].splitlines())
        context.console.print(lines + rest)
        return 0
    rows = [(x.received_at, x.message_id, len(x.payload), x.reason) for x in letters]
    print_table(
        context.console,
        f"{counted(len(rows), 'dead dead_letter')}, the latest first",
        ("Received", "Message", "Bytes", "Reason"),
        rows,
        prose=("Reason",),
    )
    return 0


def _dead_letter(context: CommandContext, message_id: str) -> DeadLetter:
    dead_letter = context.view.dead_letter(message_id)
    if dead_letter is None:
        raise Unknown(f"There is no dead letter {message_id!r}; execctl dead-letters lists them")
    return dead_letter


async def _discrepancies(context: CommandContext) -> int:
    _check_account(context, context.options.account)
    found = context.view.discrepancies(only_open=not context.options.all, account_id=context.options.account)
    adopted = context.view.closing([each.discrepancy_id for each in found])
    if context.wants_json:
        print_json([_discrepancy_fields(each) | {"adopted_as": adopted.get(each.discrepancy_id, [])} for each in found])
        return 0
    columns = ("Kind", "Account", "About", "Ours", "The broker's", "Known of it", "Age", "State", "Owner", "To do")
    rows = []
    for each in found:
        finding = each.finding
        about = finding.signal_id or (finding.subject if finding.product else finding.instrument) or finding.subject
        age = _age((each.closed_at or SystemClock().now()) - each.opened_at)
        sides = (finding.ours, finding.theirs)
        names = adopted.get(each.discrepancy_id)
        to_do = each.next_step if names is None else f"Adopted as {', '.join(names)}"
        rows.append(
            (finding.kind, each.account_id, about, *sides, background(finding), age, each.state, each.owner, to_do),
        )
    kind = "" if context.options.all else "open "
    count = counted(len(rows), f"{kind}discrepancy", f"{kind}discrepancies")
    print_table(
        context.console,
        f"{count}, the oldest first",
        columns,
        rows,
        prose=("Ours", "The broker's", "Known of it", "To do"),
    )
    return 0


def _discrepancy_fields(discrepancy: Discrepancy) -> dict[str, object]:
    lasted = (discrepancy.closed_at or SystemClock().now()) - discrepancy.opened_at
    return {**discrepancy_fields(discrepancy), "age_seconds": int(lasted.total_seconds())}


def _age(lasted: timedelta) -> str:
    """The two largest units: 3 d 4 h, 5 min 12 s."""
    left = max(0, int(lasted.total_seconds()))
    parts: list[str] = []
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) or "0 s"


def _check_account(context: CommandContext, account_id: str | None) -> None:
    """Raises Unknown for an account that is neither configured nor in any record: an empty result would look as if
    all were well."""
    if account_id is None or account_id in _configured(context):
        return
    stored = context.view.accounts()
    if account_id not in stored:
        known = sorted({*_configured(context), *stored})
        more = f" and {len(known) - MOST_NAMES_SHOWN} more" if len(known) > MOST_NAMES_SHOWN else ""
        names = ", ".join(plain(name) for name in known[:MOST_NAMES_SHOWN]) or "none"
        raise Unknown(f"No such account: {account_id!r}; known are: {names}{more}")


def _configured(context: CommandContext) -> set[str]:
    """By our settings or the running service's: the demo with a real adapter has its own accounts file."""
    notice = running_service(context.settings)
    return {*context.settings.accounts, *(() if notice is None else notice.accounts)}


def _named(context: CommandContext, name: str) -> list[Stored]:
    found = context.view.named(name)
    if not found:
        raise Unknown(f"No order is called {name!r}: no signal, and no id of ours, upstream's or a broker's")
    return found


# --- commanding -----------------------------------------------------------------------------------------------------


async def _replay(context: CommandContext) -> int:
    dead_letter = _dead_letter(context, context.options.message_id)
    return await _command(context, "REPLAY", {"message_id": dead_letter.message_id})


async def _token(context: CommandContext) -> int:
    refusal = await tokens.run(context.store, context.console, context.options)
    if refusal is not None:
        raise Unknown(refusal)
    return 0


async def _cancel(context: CommandContext) -> int:
    name, leg = context.options.name, context.options.leg
    found = _sent(_named(context, name), name)
    is_signal = all(name in (s.order.signal_id, s.order.request.mathematricks_signal_id) for s in found)
    body: dict[str, object] = {"reason": context.options.reason, "requested_by": "execctl"}
    if is_signal:
        found = [s for s in found if leg is None or s.order.identity.leg_index == leg]
        body |= {"signal_id": name, "leg_index": leg}
        if not found:
            raise Unknown(f"Signal {name!r} has no leg {leg}")
    elif leg is not None:
        raise Unknown(f"{name!r} is an order's id: --leg goes with a signal's")
    else:
        body["order_id"] = _only(found, name).order_id
    return await _command(context, "CANCEL", body, [s.order.order_id for s in found])


async def _resolve(context: CommandContext) -> int:
    options = context.options
    order = _only(_sent(_named(context, options.name), options.name), options.name)
    body = {"order_id": order.order_id, "decision": options.decision, "by": options.by, "note": options.note}
    if options.broker_order_id is not None:
        body["broker_order_id"] = options.broker_order_id
    return await _command(context, "RESOLVE", body, [order.order_id])


async def _kill(context: CommandContext) -> int:
    return await switches.kill(
        context.options,
        store=context.store,
        console=context.console,
        is_here=running_service(context.settings) is not None,
        may_be_elsewhere=context.settings.mongodb_uri is not None,
        outcome=lambda command: _outcome(context, command),
    )


async def _stance(context: CommandContext) -> int:
    is_here = running_service(context.settings) is not None
    if stances.is_halt(context.options):
        return await switches.kill(
            stances.as_kill(context.options),
            store=context.store,
            console=context.console,
            is_here=is_here,
            may_be_elsewhere=context.settings.mongodb_uri is not None,
            outcome=lambda command: _outcome(context, command),
        )
    return await stances.set_stance(
        context.options,
        store=context.store,
        console=context.console,
        is_waited_for=is_here or context.settings.mongodb_uri is not None,
        outcome=lambda command: _outcome(context, command),
    )


async def _stances(context: CommandContext) -> int:
    stances.show(context.options, context.view.stances(), context.console)
    return 0


async def _arm(context: CommandContext) -> int:
    return await switches.arm(context.options, store=context.store, console=context.console)


async def _flatten(context: CommandContext) -> int:
    options = context.options
    if running_service(context.settings) is None and context.settings.mongodb_uri is None:
        raise Unknown(
            "FLATTEN refused: no service runs that could place exits; nothing was stored, so that none sells later"
        )
    body = {"scope": options.scope, "person": options.person, "reason": options.reason}
    return await _command(context, "FLATTEN", body)


async def _plan(context: CommandContext) -> int:
    options = context.options
    try:
        text = options.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise Unknown(f"{options.file} cannot be read: {exc}") from exc
    if running_service(context.settings) is None and context.settings.mongodb_uri is None:
        raise Unknown("PLAN refused: no service runs that could plan; nothing was stored, so that none trades later")
    return await _command(context, "PLAN", {"targets": text, "dry_run": options.dry_run}, shows=plans.show)


async def _allow(context: CommandContext) -> int:
    options = context.options
    body = {"order_id": options.name, "person": options.person, "reason": options.reason, "seconds": options.seconds}
    return await _command(context, "ALLOW", body)


async def _switches(context: CommandContext) -> int:
    switches.show(context.options, context.view.switches(), context.console)
    return 0


async def _adopt(context: CommandContext) -> int:
    """Shows both books before and after, and then requests the adoption, unless there are warnings."""
    options, now = context.options, SystemClock().now()
    if options.undo is None:
        body = adopt.command_body(options)
        wish = read_adoption_request(body)
        if isinstance(wish, Refused):
            raise Unknown(f"ADOPT refused: {wish.words}")
        _check_account(context, wish.account_id)
        theirs = await _brokers_positions(context, wish.account_id)
        made = plan(wish, await read_books(context.store, wish, theirs), now)
    else:
        found = await records_named(context.store, options.undo)
        if not found:
            raise Unknown(f"There is no adoption {options.undo!r}")
        account_id = str(found[0].order.request.account_id)
        body = {"undo": options.undo, "account_id": account_id, "by": options.by, "reason": options.reason}
        body["is_forced"] = options.force
        if all(not stored.order.fills for stored in found):
            raise Unknown(f"ADOPT refused: {options.undo} has been undone before")
        theirs = await _brokers_positions(context, account_id)
        made = await plan_of_undoing(context.store, found, theirs, now)
    if isinstance(made, Refused):
        raise Unknown(f"ADOPT refused: {made.words}")
    if not context.wants_json:
        account_id = str(body["account_id"])
        adopt.show(context.console, made, theirs, _last_read(context, account_id), undoing=options.undo)
    shown = adopt.plan_fields(made, theirs)
    if options.dry_run or (made.warnings and not options.force):
        if context.wants_json:
            print_json({"plan": shown, "command": None})
        if options.dry_run:
            if not context.wants_json:
                context.console.print("Nothing was done: --dry-run.")
            return 0
        raise Unknown("ADOPT refused: see the warnings; --force does it all the same")
    return await _command(context, "ADOPT", body | {"shown": plan_to_document(made)}, told={"plan": shown})


def _last_read(context: CommandContext, account_id: str) -> dict[str, str]:
    """The broker's positions that differed from our book, by the holding's key."""
    found = context.view.discrepancies(account_id=account_id)
    return {
        row.finding.instrument: f"{row.finding.theirs} (read {table_time(row.updated_at)})"
        for row in found
        if row.finding.kind is DiscrepancyKind.POSITION_DIFFERS and row.finding.instrument is not None
    }


async def _brokers_positions(context: CommandContext, account_id: str) -> Sequence[BrokerPosition] | None:
    """As the service that trades the account reads them now. None if no service does, or the broker does not report
    them."""
    if running_service(context.settings) is None and context.settings.mongodb_uri is None:
        return None
    now = SystemClock().now()
    question = Command(
        command_id=f"ctl-{uuid.uuid4()}",
        kind="POSITIONS",
        body={"account_id": account_id},
        published_at=now,
        received_at=now,
    )
    await context.store.insert_command(question)
    answer = await _outcome(context, question, POSITIONS_SECONDS)
    if answer.status is not CommandStatus.DONE:
        return None
    return positions_from_documents(json.loads(answer.outcome))


def _sent(found: Sequence[Stored], name: str) -> list[Stored]:
    """Without adoptions, which were never at a broker."""
    orders = [stored for stored in found if stored.order.adoption is None]
    if not orders:
        raise Unknown(f"{name!r} is an adoption, and no order: execctl adopt --undo takes it back")
    return orders


def _only(found: Sequence[Stored], name: str) -> Order:
    if len(found) > 1:
        ids = ", ".join(s.order.order_id for s in found)
        raise Unknown(f"{name!r} may mean any of {len(found)} orders: name one of {ids}")
    return found[0].order


async def _reconcile(context: CommandContext) -> int:
    """Returns 0 only if everything was compared and agrees."""
    wanted = context.options.account
    _check_account(context, wanted)
    notice = running_service(context.settings)
    # With the embedded store only the service knows its accounts: the demo with a real adapter has its own accounts
    # file.
    known = context.settings.accounts if notice is None or notice.mongodb_uri is None else notice.accounts
    accounts = [wanted] if wanted is not None else sorted({*known, *context.view.traded_accounts()})
    if notice is None and context.settings.mongodb_uri is None:
        raise Unknown("The service does not run: nothing was compared. It compares by itself as soon as it is started.")
    if not accounts:
        raise Unknown("No account is configured and none was traded: there is nothing to compare; or name one")
    commands = []
    for account_id in accounts:
        now = SystemClock().now()
        command = Command(
            command_id=f"ctl-{uuid.uuid4()}",
            kind="RECONCILE",
            body={"account_id": account_id},
            published_at=now,
            received_at=now,
        )
        await context.store.insert_command(command)
        commands.append(command)
    outcomes = [await _outcome(context, command, COMPARE_SECONDS) for command in commands]
    if context.wants_json:
        print_json(
            [
                {"account_id": account_id, **command_fields(each)}
                for account_id, each in zip(accounts, outcomes, strict=True)
            ]
        )
    for account_id, each in zip(accounts, outcomes, strict=True):
        if not context.wants_json:
            unanswered = "No service has answered: nothing was compared"
            lines = unanswered if each.status is CommandStatus.NEW else each.outcome
            first, *others = [plain(line) for line in lines.splitlines()] or ["?"]
            context.console.print(f"{plain(account_id)}: {first}", *(f"  {line}" for line in others), sep="\n")
    return 0 if all(each.outcome.startswith("Reconciled") for each in outcomes) else EXIT_FAILED


async def _command(
    context: CommandContext,
    kind: str,
    body: Mapping[str, object],
    order_ids: Sequence[str] = (),
    told: Mapping[str, object] | None = None,
    shows: Callable[[str, Console], None] | None = None,
) -> int:
    """Stores the command, waits a little for the service to carry it out, and prints the result. `told`: additional
    fields of the JSON output. `shows`: how an outcome is shown to people, where it is no sentence."""
    now = SystemClock().now()
    command = Command(command_id=f"ctl-{uuid.uuid4()}", kind=kind, body=body, published_at=now, received_at=now)
    await context.store.insert_command(command)
    is_here = running_service(context.settings) is not None
    may_be_elsewhere = context.settings.mongodb_uri is not None
    outcome = await _outcome(context, command) if is_here or may_be_elsewhere else command
    orders = await _after(context, order_ids) if outcome.status is CommandStatus.DONE else []
    if context.wants_json:
        print_json({**command_fields(outcome)} | {"orders": [_order_fields(s) for s in orders]} | dict(told or {}))
    elif outcome.status is CommandStatus.NEW:
        who = "by the service at its next start" if not is_here else "as soon as the service comes to it"
        context.console.print(f"{kind} stored as {command.command_id}; it will be carried out {who}.")
    elif shows is not None and outcome.status is CommandStatus.DONE:
        shows(outcome.outcome, context.console)
    else:
        context.console.print(f"{kind} {outcome.status.value}: {plain(outcome.outcome)}")
        for stored in orders:
            order = stored.order
            filled = f", filled {quantity(order.filled_quantity)}" if order.filled_quantity else ""
            context.console.print(f"  {order.order_id} is now {order.status.value}{filled}")
    return EXIT_FAILED if outcome.status is CommandStatus.REFUSED else 0


async def _outcome(context: CommandContext, command: Command, within_seconds: float = OUTCOME_SECONDS) -> Command:
    end = asyncio.get_running_loop().time() + within_seconds
    while True:
        found = context.view.command(command.command_id) or command
        if found.status is not CommandStatus.NEW or asyncio.get_running_loop().time() > end:
            return found
        await asyncio.sleep(LOOK_SECONDS)


async def _after(context: CommandContext, order_ids: Sequence[str]) -> list[Stored]:
    """The orders concerned once they have ended, or as they are after a few seconds."""
    end = asyncio.get_running_loop().time() + OUTCOME_SECONDS / 2
    while True:
        found = context.view.load(order_ids)
        if all(s.order.status.is_final for s in found) or asyncio.get_running_loop().time() > end:
            return found
        await asyncio.sleep(LOOK_SECONDS)


# --- repair ---------------------------------------------------------------------------------------------------------


class _Brokers:
    """At which broker each account is, as far as the service that runs, the settings and the confirmations tell."""

    def __init__(self, context: CommandContext) -> None:
        self._context = context
        notice = running_service(context.settings)
        self._at_work = {} if notice is None else notice.accounts

    def broker_of(self, account_id: str) -> str | None:
        if account_id in self._at_work:
            return self._at_work[account_id]["broker"]  # the service may have been started with other settings
        account = self._context.settings.account(account_id)
        if account is not None:
            return account.broker.upper()
        return "MOCK" if getattr(self._context.options, "use_mock_broker", False) else None

    def mode_of(self, account_id: str | None) -> str | None:
        account = None if account_id is None else self._context.settings.account(account_id)
        if account is not None:
            return account.mode.value
        is_known = account_id in self._at_work or self._context.options.use_mock_broker
        return Mode.PRODUCTION.value if is_known else None

    def broker_shown(self, document_id: str) -> str | None:
        document = self._context.view.confirmation(document_id)
        return None if document is None else document.get("broker")

    def is_of_the_mock(self, order: Order) -> bool:
        shown = self.broker_shown(confirmation_id(order)) or self.broker_of(str(order.request.account_id))
        return shown == "MOCK"


async def _rebuild_views(context: CommandContext) -> int:
    """1 where the records contradict the ledger, or a document could not be brought up to date."""

    brokers = _Brokers(context)
    options = context.options
    said = [Said(instrument_key=key, terms=terms, by=options.by, note=options.note) for key, terms in options.contract]
    await context.store.open()
    facts = Facts(context.store, SystemClock(), said=said, practice=brokers)
    entries = context.view.ledgers()
    mended = await facts.mend(context.view.order_ids(), entries)
    entries = context.view.ledgers()
    rebuild = Rebuild(context.store, SystemClock(), brokers=brokers)
    rebuilt = await rebuild.run(context.view.order_ids(), entries)
    # What the view cannot read is told at the end, of each verb.
    left = sorted({unreadable.words for unreadable in context.store.newly_unreadable()} - context.view.unreadable)
    for words in left:
        print(f"Left as it is: {plain(words)}", file=sys.stderr)
    if context.wants_json:
        print_json(asdict(rebuilt) | {"contracts": asdict(mended)})
    else:
        context.console.print(
            f"Shown again: {counted(rebuilt.orders, 'order')}, {counted(rebuilt.positions, 'position')}, "
            f"{counted(rebuilt.accounts, 'trading account')}, {counted(rebuilt.trades, 'trade')}; "
            f"not told yet, and left to the service: {counted(rebuilt.never_told, 'order')}."
        )
        if rebuilt.unknown_brokers:
            accounts = ", ".join(plain(a) for a in rebuilt.unknown_brokers)
            context.console.print(
                f"Accounts that are not configured: {accounts}: those of their documents that were lost name no broker now; "
                "--use-mock-broker says that it was the mock."
            )
        _print_mended(context, mended)
        for sentence in rebuilt.contradictions:
            print(f"Contradiction: {sentence}", file=sys.stderr)
        for signal_id in rebuilt.signals_left:
            words = "a record that belongs to it cannot be read"
            print(f"Left as it is: signal {plain(signal_id)}: {words}", file=sys.stderr)
    return (
        EXIT_FAILED if rebuilt.contradictions or rebuilt.signals_left or mended.moved or mended.unheard or left else 0
    )


def _print_mended(context: CommandContext, mended: Mended) -> None:
    if mended.orders or mended.holdings:
        context.console.print(
            f"What a contract is worth is known now of {counted(mended.orders, 'order')}; the profits of "
            f"{counted(mended.holdings, 'holding')} are corrected."
        )
    for instrument in mended.unknown:
        context.console.print(
            f"Not known what one contract is worth: {plain(instrument)}: its amounts are counted as 1 a point; "
            "--contract INSTRUMENT=MULTIPLIER says it."
        )
    for instrument in mended.unheard:
        print(f"No record without its own facts is of {plain(instrument)}: see execctl positions", file=sys.stderr)
    for name in mended.moved:
        print(f"Moved meanwhile, run it again: {plain(name)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
