"""The side of a simulated gateway that tests and people use, the same for each: its state, its book, and trouble on demand; no broker's API.

    GET  /_control          what the gateway tells of itself
    GET  /_control/orders   {"orders": [...]}: the broker's own book, in which nothing is hidden, oldest first
    POST /_control          {"do": "...", ...}: does it and answers as the first; 400 and {"error": "..."} for what makes no sense

Every gateway does these. `order` is a broker's order id or a client order id; amounts may be texts or numbers; `instrument` is the fields of
`brokers.base.Instrument`, or a symbol alone: what was traded under it last, else shares.

    fault           fault: the fields of `brokers.paper.model.Fault` (operation, action, client_order_id, symbol, nth, times, …)
    clear_faults    disarms all of them, and ends the gateway's fault plan
    fill            order, quantity, price, commission, late_commission, force (fills finished orders too); without quantity all that is open
    cancel, reject  order, reason: as the exchange does, unasked
    bust            fill_id: annuls an execution
    correct         fill_id, quantity, price: puts another execution in its place
    commission      fill_id, commission: tells it, or changes it
    expire_day      orders that are good for the day expire
    trade_by_hand   instrument, quantity (below 0: sells), price, product: an order without a tag of anybody's, filled at once: a person at the
                    broker's own screen, or a square-off by the broker
    move            instrument, quantity (below 0: leaves), price, product: a position changes without an order or an execution
    restart         closed_seconds: every connection breaks, and for so long none can be made; the book stays
    drop            every connection breaks

What else a gateway can do stands in its own module.
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
from brokers.paper.model import Action, Fault, Operation, PaperOrder
from simulators.fault_plan import DEFAULT_RATE, FaultPlan, PlannedBook
from simulators.loopback_http import HttpCall, LoopbackServer, json_response

PATH = "/_control"
NONSENSE = (ValueError, KeyError, TypeError, InvalidOperation, AttributeError)
"""What a wish that is not understood raises."""

Deed = Callable[..., object]


class Controlled(Protocol):
    """A gateway that can be asked. Calls come from the control server's threads."""

    def control(self, wish: Mapping[str, Any]) -> Mapping[str, Any]:
        """Does it; the answer is the state afterwards, with whatever the wish made. Raises one of NONSENSE."""

    def state(self) -> Mapping[str, Any]: ...

    def book_orders(self) -> list[dict[str, Any]]: ...


def book_deeds(book: PaperExchange, exchange: str | None = None) -> dict[str, Deed]:
    """What every gateway does with its book, by the wish's name; each takes the wish's other fields. `exchange`: where shares are traded
    of which a wish says nothing but the symbol."""
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
        "trade_by_hand": lambda instrument, quantity, price=None, product=None: book.trade_by_hand(
            instrument_of(book, instrument, exchange), _signed(quantity), amount(price), product=product
        ),
        "move": lambda instrument, quantity, price=0, product=None: book.move_position(
            instrument_of(book, instrument, exchange), _signed(quantity), _signed(price), product=product
        ),
    }


def add_fault_plan_option(parser: argparse.ArgumentParser) -> None:
    """`--faults`, the same for every gateway; the plan is None without it."""
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
    """What a gateway tells of its fault plan; None without one."""
    return None if book.fault_plan is None else book.fault_plan.state()


def carry_out(deeds: Mapping[str, Deed], wish: Mapping[str, Any]) -> object:
    """Does the one that the wish names, with its other fields. Raises one of NONSENSE."""
    named = dict(wish)
    name = named.pop("do", None)
    deed = deeds.get(str(name))
    if deed is None:
        raise ValueError(f"nothing is known about {name!r}; known are: {', '.join(sorted(deeds))}")
    return deed(**named)


def fault_of(fields: Mapping[str, Any]) -> Fault:
    """A fault of the book. Raises one of NONSENSE."""
    named = {"operation": Operation(fields["operation"]), "action": Action(fields["action"])}
    return Fault(**{**fields, **named, "quantity": amount(fields.get("quantity"))})


def ref_of(book: PaperExchange, name: str) -> OrderRef:
    """The order with this id of the broker's, or of the client's. Raises ValueError where there is none."""
    for order in book.orders():
        if name and name in (order.broker_order_id, order.ticket.client_order_id):
            return OrderRef(client_order_id=order.ticket.client_order_id, broker_order_id=order.broker_order_id)
    raise ValueError(f"the book has no order {name}")


def instrument_of(book: PaperExchange, said: str | Mapping[str, Any], exchange: str | None = None) -> Instrument:
    """As the wish names it; the latest that was traded under a symbol that stands alone. Raises one of NONSENSE."""
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
    """The order as the book truly has it; amounts are texts."""
    ticket = order.ticket
    return {
        "number": order.number,
        "client_order_id": ticket.client_order_id,
        "broker_order_id": order.broker_order_id,
        "account_id": order.account_id,
        "symbol": ticket.instrument.symbol,
        "instrument": ticket.instrument.full_key,
        "side": ticket.side.value,
        "quantity": str(ticket.quantity),
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
    """For what JSON does not know: amounts as texts, everything else as it says of itself."""
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
            except (*NONSENSE, BrokerError) as exc:
                return json_response(400, {"error": f"{type(exc).__name__}: {exc}"})
            return json_response(200, answer, plain)
    return json_response(404, {"error": f"there is nothing at {call.method} {call.path}"})


def control_server(gateway: Controlled, port: int = 0) -> LoopbackServer:
    """For a gateway whose own port speaks no HTTP."""
    return LoopbackServer(
        "127.0.0.1",
        port,
        answer=lambda call: answer_control(call, gateway),
        refuse=lambda status, words: json_response(status, {"error": words}),
    )


def leave_notice(path: Path, **said: object) -> None:
    """Writes where the gateway is to be found, and its process, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    new.write_text(json.dumps({"pid": os.getpid(), **said}, indent=2) + "\n", encoding="utf-8")
    os.replace(new, path)


def take_back_notice(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
