"""The control side of a simulated gateway, for tests and people, the same for each: its state, its book, and faults on
demand. No broker's API.

    GET  /_control          the gateway's state
    GET  /_control/orders   {"orders": [...]}: the broker's true book, oldest first; faults hide nothing of it
    POST /_control          {"do": "...", ...}: a command; the answer is the state after it. 400 and {"error": "..."} if it is invalid

Every gateway has these commands. `order` is a broker's order id or a client order id; amounts may be texts or numbers;
`instrument` is the fields of `brokers.base.Instrument`, or a symbol alone: what was last traded under it, else shares.

    fault           fault: the fields of `brokers.paper.model.Fault` (operation, action, client_order_id, symbol, nth, times, …)
    clear_faults    disarms all faults, and ends the gateway's fault plan
    fill            order, quantity, price, commission, late_commission, force (fills finished orders too); without quantity all that is open
    cancel, reject  order, reason: by the exchange, unsolicited
    bust            fill_id: annuls an execution
    correct         fill_id, quantity, price: replaces an execution by another one
    commission      fill_id, commission: reports or changes it
    expire_day      day orders expire
    trade_by_hand   instrument, quantity (below 0: sells), price, product: somebody else's order, filled at once: a person at the
                    broker's own screen, or a square-off by the broker
    move            instrument, quantity (below 0: leaves), price, product: a position changes without an order or an execution
    quote           symbol, bid, ask, last, close, age_seconds, last_age_seconds, is_delayed, refusal: the market in it from now on, each time that
                    it is asked for; `refusal`: why the account is not given it
    restart         closed_seconds: every connection breaks, and none can be made for so long; the book is kept
    drop            every connection breaks

Each gateway's own module lists its further commands.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Protocol

from starlette.responses import Response

from brokers.base import AssetClass, Instrument, OptionRight, OrderRef
from brokers.errors import BrokerError
from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Action, Fault, Operation, PaperOrder, ScriptedQuote
from simulators.fault_plan import DEFAULT_RATE, FaultPlan, PlannedBook
from simulators.loopback_http import HttpCall, LoopbackServer, json_response

PATH = "/_control"
BAD_REQUEST = (ValueError, KeyError, TypeError, InvalidOperation, AttributeError)
"""What an invalid command raises."""

Command = Callable[..., object]


class Controlled(Protocol):
    """A gateway with a control side. Calls come from the control server's threads."""

    def control(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """Carries out the command and returns the state after it, with whatever the command created. Raises one of
        BAD_REQUEST."""

    def state(self) -> Mapping[str, Any]: ...

    def book_orders(self) -> list[dict[str, Any]]: ...


def book_commands(book: PaperExchange, exchange: str | None = None) -> dict[str, Command]:
    """The commands about the book that every gateway has, by name; each takes the command's other fields.
    `exchange`: the exchange of shares that a command names by symbol only."""
    return {
        "fault": lambda fault: book.add_fault(fault_of(fault)),
        "clear_faults": book.clear_faults,
        "fill": lambda order, quantity=None, price=None, commission=None, late_commission=False, force=False: (
            book.fill_order(
                ref_of(book, order),
                amount(quantity),
                amount(price),
                commission=amount(commission),
                late_commission=late_commission,
                force=force,
            )
        ),
        "cancel": lambda order, reason="Cancelled by the exchange": book.cancel_unasked(ref_of(book, order), reason),
        "reject": lambda order, reason="Rejected by the exchange": book.reject_order(ref_of(book, order), reason),
        "bust": book.bust_fill,
        "correct": lambda fill_id, quantity=None, price=None: book.correct_fill(
            fill_id, quantity=amount(quantity), price=amount(price)
        ),
        "commission": lambda fill_id, commission: book.set_commission(fill_id, Decimal(str(commission))),
        "expire_day": book.expire_day,
        "quote": lambda **fields: book.set_quote(quote_of(fields)),
        "trade_by_hand": lambda instrument, quantity, price=None, product=None: book.trade_by_hand(
            instrument_of(book, instrument, exchange), _signed(quantity), amount(price), product=product
        ),
        "move": lambda instrument, quantity, price=0, product=None: book.move_position(
            instrument_of(book, instrument, exchange), _signed(quantity), _signed(price), product=product
        ),
    }


def add_fault_plan_option(parser: argparse.ArgumentParser) -> None:
    """`--faults`, the same for every gateway; without it the plan is None."""
    parser.add_argument(
        "--faults",
        type=_plan,
        metavar="SEED[:RATE]",
        help=f"random faults, the same again by the same seed; of every call this rate goes wrong (default: {DEFAULT_RATE})",
    )


def _plan(said: str) -> FaultPlan:
    try:
        return FaultPlan.of(said)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def plan_state(book: PlannedBook) -> dict[str, Any] | None:
    """The state of a gateway's fault plan; None without one."""
    return None if book.fault_plan is None else book.fault_plan.state()


def carry_out(commands: Mapping[str, Command], command: Mapping[str, Any]) -> object:
    """Carries out the named command with its other fields. Raises one of BAD_REQUEST."""
    named = dict(command)
    name = named.pop("do", None)
    deed = commands.get(str(name))
    if deed is None:
        raise ValueError(f"nothing is known about {name!r}; known are: {', '.join(sorted(commands))}")
    return deed(**named)


def fault_of(fields: Mapping[str, Any]) -> Fault:
    """A fault of the book. Raises one of BAD_REQUEST."""
    named = {"operation": Operation(fields["operation"]), "action": Action(fields["action"])}
    return Fault(**{**fields, **named, "quantity": amount(fields.get("quantity"))})


def quote_of(fields: Mapping[str, Any]) -> ScriptedQuote:
    """A quote of the book. Raises one of BAD_REQUEST."""
    prices = {name: amount(fields.get(name)) for name in ("bid", "ask", "last", "close")}
    return ScriptedQuote(**{**fields, **prices})


def ref_of(book: PaperExchange, name: str) -> OrderRef:
    """The order with this broker or client id. Raises ValueError if there is none."""
    for order in book.orders():
        if name and name in (order.broker_order_id, order.ticket.client_order_id):
            return OrderRef(client_order_id=order.ticket.client_order_id, broker_order_id=order.broker_order_id)
    raise ValueError(f"the book has no order {name}")


def instrument_of(book: PaperExchange, said: str | Mapping[str, Any], exchange: str | None = None) -> Instrument:
    """The instrument that the command names; a symbol alone means the one last traded under it. Raises one of
    BAD_REQUEST."""
    if isinstance(said, str):
        traded = [order.ticket.instrument for order in book.orders() if order.ticket.instrument.symbol == said]
        return traded[-1] if traded else Instrument(symbol=said, exchange=exchange)
    fields = dict(said)
    for name in ("strike", "multiplier"):
        fields[name] = amount(fields.get(name))
    if fields.get("right") is not None:
        fields["right"] = OptionRight(fields["right"])
    return Instrument(**{**fields, "asset_class": AssetClass(fields.get("asset_class", "STOCK"))})


def _signed(said: object) -> Decimal:
    return Decimal(str(said))


def amount(said: object) -> Decimal | None:
    return None if said is None else Decimal(str(said))


def order_as_json(order: PaperOrder) -> dict[str, Any]:
    """The true state of an order in the book; amounts as text."""
    ticket = order.ticket
    return {
        "number": order.number,
        "client_order_id": ticket.client_order_id,
        "broker_order_id": order.broker_order_id,
        "account_id": order.account_id,
        "symbol": ticket.instrument.symbol,
        "instrument": ticket.instrument.full_key,
        "strike": _text(ticket.instrument.strike),
        "right": None if ticket.instrument.right is None else ticket.instrument.right.value,
        "side": ticket.side.value,
        "quantity": str(ticket.quantity),
        "display_quantity": _text(ticket.display_quantity),
        "order_type": ticket.order_type.value,
        "limit_price": _text(ticket.limit_price),
        "stop_price": _text(ticket.stop_price),
        "status": order.status.value,
        "reason": order.reason,
        "filled_quantity": str(order.filled_quantity),
        "placed_at": order.placed_at.isoformat(),
        "fills": [
            {
                "fill_id": fill.fill_id,
                "quantity": str(fill.quantity),
                "price": str(fill.price),
                "time": fill.time.isoformat(),
                "commission": _text(fill.commission),
                "commission_currency": fill.commission_currency,
                "busted": fill.busted,
                "corrects": fill.corrects,
            }
            for fill in order.fills
        ],
    }


def _text(number: Decimal | None) -> str | None:
    return None if number is None else str(number)


def plain(value: object) -> object:
    """JSON form of other types: amounts as text, anything else by its own text."""
    return str(value)


def answer_control(call: HttpCall, gateway: Controlled) -> Response:
    """The answer to one call under PATH."""
    match call.method, call.path:
        case "GET", "/_control":
            return json_response(200, gateway.state(), plain)
        case "GET", "/_control/orders":
            return json_response(200, {"orders": gateway.book_orders()}, plain)
        case "POST", "/_control":
            try:
                answer = gateway.control(json.loads(call.body))
            except (*BAD_REQUEST, BrokerError) as exc:
                return json_response(400, {"error": f"{type(exc).__name__}: {exc}"})
            return json_response(200, answer, plain)
    return json_response(404, {"error": f"there is nothing at {call.method} {call.path}"})


def control_server(gateway: Controlled, port: int = 0) -> LoopbackServer:
    """A control server for a gateway whose own port does not speak HTTP."""
    return LoopbackServer(
        "127.0.0.1",
        port,
        answer=lambda call: answer_control(call, gateway),
        refuse=lambda status, words: json_response(status, {"error": words}),
    )


def leave_notice(path: Path, **said: object) -> None:
    """Writes the gateway's address and process id, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    new.write_text(json.dumps({"pid": os.getpid(), **said}, indent=2) + "\n", encoding="utf-8")
    os.replace(new, path)


def take_back_notice(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
