"""The simulated TWS or IB Gateway: the sockets of its API and its answers, over a paper exchange's book. No wire format,
no contracts.

    python -m simulators.ibkr --port 4002 --control-port 4003 --data tws.db        a book that outlives the gateway

Its control port speaks HTTP and has the commands of every gateway (see `simulators.control`), and:

    say                 order, code, text: an error on the order's id that leaves the order unchanged
    warn                text, code: a warning of the whole account, as of its margin (2148)
    answer_with_words   code, text, symbol, client_order_id, times, taken_after, is_taken_first: a placed order is answered with this error on
                        its id. taken_after null: the order is never accepted; else it is accepted so many seconds later. is_taken_first:
                        it is accepted and shown before the error. times null: every such order, 0: no more
    coin_terms          tifs: the times in force allowed for limit orders for coins; null: any, as on IBKR's page
    lose_link           the gateway loses its servers (1100)       restore_link (data_kept)    and reconnects (1102, or 1101)
    price               symbol, price: at which market orders without a price are filled
    rate                currency, rate: what one unit of it is worth in the account's base currency
    hold_inactive       order, held: the working order is shown as Inactive, as while shares are being located
    close_market        until (text): new orders are held for the opening, with a message that says until when
    open_market         held orders reach the exchange: market orders fill, others rest
    ignore_cancels      on: cancels of orders held for the opening are neither carried out nor answered
    repeat_statuses     on: each status is sent twice              chunks (size or null)       everything is sent in pieces
    silence             questions: numbers of requests that are received and never answered; an empty list ends it
    write_times         form, zone, order: how executions' times are written, by a strftime form in a zone; for one order, or for all
    greet_with          form, zone: the same for the time in the greeting
    garble              message, field, text, named, times: corrupts one field of this kind of message, if another field is `named`;
                        without a message it ends
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from brokers.base import OrderRef, OrderType, ReportStatus, Side, Ticket, Tif
from brokers.errors import OrderRefused
from brokers.paper.model import Action, Fault, Market, Operation, PaperFill, PaperOrder, ScriptedQuote
from simulators import control
from simulators.ibkr import DEFAULT_ACCOUNT, wire
from simulators.ibkr.book import Bag, TwsBook, bag_in, client_and_order_id, next_version, perm_id
from simulators.ibkr.contracts import Listing, listed, listing_of, market_rule
from simulators.ibkr.wire import Ask
from simulators.loopback_http import LoopbackServer

log = logging.getLogger(__name__)

TICK_SECONDS = 0.01
COIN_TIFS = frozenset({"Minutes", "IOC"})
"""As a paper account answered in 2026, with error 201 to any other (Lean pull request 9766). IBKR's own page lists
DAY and GTC too."""
COIN_BAND = (Decimal(10), Decimal("0.0025"))
"""How far above the market a purchase of coins may be limited: dollars, or this fraction of its price (same source).
Any other is answered with 202."""
_CONTROL_SECONDS = 10.0
ORDER_TYPES = {
    "MKT": OrderType.MARKET,
    "LMT": OrderType.LIMIT,
    "STP": OrderType.STOP,
    "STP LMT": OrderType.STOP_LIMIT,
}
_WIRE_TYPES = {order_type: word for word, order_type in ORDER_TYPES.items()}
_NAMED_STATUS = {
    ReportStatus.FILLED: "Filled",
    ReportStatus.CANCELLED: "Cancelled",
    ReportStatus.EXPIRED: "Cancelled",
    ReportStatus.REJECTED: "Inactive",
}
_BY_TYPE = frozenset({Operation.REPORTS, Operation.FIND})


@dataclass(slots=True)
class _Pushed:
    """What has been pushed about an order on its client's socket."""

    status: str = ""
    fills: set[str] = field(default_factory=set)
    busted: set[str] = field(default_factory=set)
    charged: dict[str, Decimal] = field(default_factory=dict)
    """By execution: the commission."""


@dataclass(slots=True, kw_only=True)
class OrderMessage:
    """An error sent on an order's id when it is placed, instead of an answer or in addition."""

    code: int
    text: str
    symbol: str = "*"
    client_order_id: str = "*"
    """Shell patterns, as in a fault."""
    times: int | None = 1
    """For so many orders; None: for every one."""
    taken_after: float | None = None
    """The order is accepted so many seconds after the message. None: never, and no list ever has it."""
    is_taken_first: bool = False
    """The order is accepted and shown before the message."""


class Refusal(Exception):
    """A refusal: a code and a text on the order's own id."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class TwsSimulator:
    """Serves one account on loopback. All its state is in the book and survives it; `port` is known once started.

    Faults armed in the book are carried out: those on the way to it as a gateway would (an error code, a broken socket,
    silence); those of `reports` and `find` affect the next round of lists, which cannot be told apart here and begins
    with the request for all open orders.
    """

    def __init__(
        self,
        book: TwsBook,
        *,
        port: int = 0,
        other_accounts: Sequence[str] = (),
        prices: Mapping[str, Decimal] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.book = book
        self.port = port
        self.accounts = [book.account_id, *other_accounts]
        self.prices = dict(prices or {})
        self.rates: dict[str, Decimal] = {}
        """What one unit of other currencies is worth in the account's base currency, which is the book's."""
        self.repeats_statuses = False
        """Each status is sent twice, as a real gateway does."""
        self.bytes_per_chunk: int | None = None
        """Not None: everything is sent in pieces of so many bytes."""
        self.silent: set[Ask] = set()
        """Requests that are received and never answered."""
        self.late: dict[Ask, asyncio.Event] = {}
        """Requests that are answered only after this event."""
        self.contract_errors: dict[str, tuple[int, str]] = {}
        """By symbol: the code and text with which a query for its contract is answered."""
        self.contract_changes: dict[str, dict[str, Any]] = {}
        """By symbol: false facts of its contracts, by the names of a `Listing`'s fields."""
        self.heard: list[tuple[int, list[str]]] = []
        """Every message of every client, with the client's id."""
        self.order_messages: list[OrderMessage] = []
        """Messages sent to orders that are placed: the first that matches, as often as it says."""
        self.coin_tifs: frozenset[str] | None = COIN_TIFS
        """The times in force allowed for limit orders for coins; None: any."""
        self.held: list[str] = []
        """Broker ids of working orders that are shown as Inactive, as while shares are being located."""
        self.greeting: wire.Writing | None = None
        self.writings: dict[str, wire.Writing] = {}
        """How the times of executions are written, by the order's tag; under an empty tag for all others."""
        self.garbles: list[wire.Garble] = []
        self.opens: str | None = None
        """Not None: the market is closed until then, in the gateway's words."""
        self.waiting: dict[str, str] = {}
        """By broker id: until when an order is held for the opening. It is shown as PreSubmitted, like a stop."""
        self.ignores_cancels = False
        """Whether cancels of orders held for the opening are received and not answered."""
        self.clock = clock
        self.pushed: dict[int, _Pushed] = {}
        self.muted: set[int] = set()
        """Orders whose answer is delayed."""
        self.sessions: list[Session] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.is_linked = True
        self._mark = 0
        self._server: asyncio.Server | None = None
        self._control: LoopbackServer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the port, which stays the same over restarts."""
        self._mark = self.book.mark()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self._watch = asyncio.create_task(self._keep_pushing())

    async def stop(self) -> None:
        """Closes every socket; the book keeps its state."""
        if self._watch is not None:
            self._watch.cancel()
        if self._server is not None:
            self._server.close()
        served, self._control = self._control, None
        if served is not None:
            # In a thread, because it waits for its calls, which wait for this loop.
            await asyncio.to_thread(served.end)
        for task in tuple(self.tasks):
            task.cancel()
        self.drop_sessions()
        await asyncio.gather(*self.tasks, *([self._watch] if self._watch else []), return_exceptions=True)
        self._server = self._watch = None

    async def restart(self, closed_seconds: float = 0.0) -> None:
        """The nightly restart: everything is closed for a while."""
        await self.stop()
        await asyncio.sleep(closed_seconds)
        self.pushed.clear()
        self.muted.clear()
        self.is_linked = True
        await self.start()

    # What goes wrong by itself

    def drop_sessions(self) -> None:
        """All sockets break at once."""
        for session in tuple(self.sessions):
            session.abort()

    def lose_link(self) -> None:
        """The gateway loses its servers: the sockets stay open, and nothing comes through."""
        self.is_linked = False
        self._send_to_all(1100, "Connectivity between IBKR and Trader Workstation has been lost.")

    def restore_link(self, *, data_kept: bool = True) -> None:
        """What happened meanwhile is not pushed, neither then nor later."""
        self._skip_changes()
        self.is_linked = True
        code, what = (1102, "data maintained") if data_kept else (1101, "data lost")
        self._send_to_all(code, f"Connectivity between IBKR and Trader Workstation has been restored - {what}.")

    def send_order_error(self, broker_order_id: str, code: int, text: str) -> None:
        """An error on an order's id that leaves the order unchanged."""
        order = self._existing(broker_order_id)
        client_id, order_id = client_and_order_id(order)
        for session in self._sessions_of(client_id):
            session.send(wire.error(order_id, code, text))

    def warn(self, text: str, code: int = 2148) -> None:
        """A warning that concerns no order."""
        self._send_to_all(code, text)

    def answer_orders_with(self, message: OrderMessage) -> None:
        """From now on matching orders are answered with this message. `times` 0 removes all such messages."""
        self.order_messages = [] if message.times == 0 else [*self.order_messages, message]

    def message_for(self, request: wire.PlaceRequest) -> OrderMessage | None:
        """The message for this order, if any; it counts as sent."""
        named = (request.order_ref, request.contract.symbol)
        fitting = (w for w in self.order_messages if all(map(fnmatchcase, named, (w.client_order_id, w.symbol))))
        found = next(fitting, None)
        if found is not None and found.times is not None:
            found.times -= 1
            if not found.times:
                self.order_messages.remove(found)
        return found

    def close_market(self, until: str) -> None:
        self.opens = until

    def open_market(self) -> None:
        """Orders held for the opening are now at the exchange under the same ids; market orders fill."""
        waited, self.waiting, self.opens = tuple(self.waiting), {}, None
        for broker_order_id in waited:
            (order,) = self.book.shown([self._existing(broker_order_id)])
            if order.status is not ReportStatus.WORKING:
                continue
            self.push_order(order)
            for leg in self.book.legs_of(order):
                if leg.ticket.order_type is OrderType.MARKET:
                    self.book.fill_order(OrderRef(client_order_id="", broker_order_id=leg.broker_order_id))
        self.push_changes()

    def push_changes(self) -> None:
        """Pushes the book's changes to the clients concerned."""
        if not self.is_linked:
            return
        self.book.advance()
        mark = self.book.mark()
        if mark == self._mark:
            return
        changed = self.book.shown(self.book.changed_since(self._mark))
        self._mark = mark
        for order in changed:
            if order.number not in self.muted:
                self.push_order(order)

    def push_order(self, order: PaperOrder) -> None:
        """Pushes what has not been pushed about the order yet."""
        client_id, _ = client_and_order_id(order)
        messages = b"".join(self._wake_up(order, self.pushed.setdefault(order.number, _Pushed())))
        for session in self._sessions_of(client_id):
            session.send(messages)

    def mark_pushed(self, order: PaperOrder) -> None:
        """Marks the order's present state as pushed."""
        self._wake_up(order, self.pushed.setdefault(order.number, _Pushed()))

    def row(self, order: PaperOrder) -> wire.OrderRow:
        """The order in the gateway's terms, as it is shown."""
        bag, row = bag_in(order), self._row(order)
        return row if bag is None else self._row_of_bag(order, bag, row)

    def _row_of_bag(self, order: PaperOrder, bag: Bag, first: wire.OrderRow) -> wire.OrderRow:
        """The combination's, made of the `first` leg's."""
        legs = self.book.legs_of(order)
        symbol, currency, price = first.listing.symbol, first.listing.currency, bag.price_of(legs)
        return replace(
            first,
            listing=Listing(symbol=symbol, sec_type=wire.BAG, exchange="SMART", currency=currency),
            action=bag.action,
            quantity=bag.quantity,
            order_type=bag.order_type,
            limit_price=bag.limit_price,
            legs=bag.legs,
            filled=bag.filled_of(legs),
            average_price=price,
            last_price=price,
        )

    def _row(self, order: PaperOrder) -> wire.OrderRow:
        ticket = order.ticket
        standing = [fill for fill in order.fills if not fill.busted]
        client_id, order_id = client_and_order_id(order)
        filled = order.filled_quantity
        paid = sum((fill.quantity * fill.price for fill in standing), Decimal(0))
        cash = Decimal(ticket.variety) if ticket.variety and bag_in(order) is None else Decimal(0)
        working = "PreSubmitted" if ticket.order_type in (OrderType.STOP, OrderType.STOP_LIMIT) else "Submitted"
        if order.broker_order_id in self.waiting:
            working = "PreSubmitted"
        if order.broker_order_id in self.held:
            working = "Inactive"
        return wire.OrderRow(
            order_id=order_id,
            client_id=client_id,
            perm_id=perm_id(order),
            listing=listing_of(ticket.instrument),
            account=order.account_id,
            action=ticket.side,
            quantity=Decimal(0) if cash else ticket.quantity,
            order_type=_WIRE_TYPES[ticket.order_type],
            limit_price=ticket.limit_price,
            aux_price=ticket.stop_price,
            tif=ticket.product or ticket.tif or Tif.DAY,
            order_ref=ticket.client_order_id,
            cash_quantity=cash,
            display_size=ticket.display_quantity,
            status=_NAMED_STATUS.get(order.status, working),
            filled=filled,
            average_price=paid / filled if filled else Decimal(0),
            last_price=standing[-1].price if standing else Decimal(0),
            reason=order.reason or "",
            finished_at=order.changed_at,
        )

    def executions(self, order: PaperOrder, request_id: int) -> list[bytes]:
        """All executions of the order, including busted ones and what busts them, each with its commission."""
        messages = []
        for fill, row in self._rows_of_fills(order):
            messages += self._of_bag(request_id, order, fill)
            messages.append(self._execution(request_id, row, fill.fill_id, fill.quantity, fill.price, fill.time))
            if fill.commission is not None:
                messages.append(wire.commission_report(fill.fill_id, fill.commission, fill.commission_currency))
            if fill.busted and not any(other.corrects == fill.fill_id for other in order.fills):
                messages.append(self._annulment(request_id, row, fill.fill_id, fill.time))
        return messages

    def _rows_of_fills(self, order: PaperOrder) -> list[tuple[PaperFill, wire.OrderRow]]:
        """Each fill with its order's row; of a combination with that of its leg, under the ids of the whole."""
        bag, whole = bag_in(order), self.row(order)
        if bag is None:
            return [(fill, whole) for fill in order.fills]
        return [
            (fill, replace(whole, listing=listing_of(leg.ticket.instrument), action=leg.ticket.side, legs=()))
            for leg in self.book.legs_of(order)
            for fill in leg.fills
        ]

    def _of_bag(self, request_id: int, order: PaperOrder, fill: PaperFill) -> list[bytes]:
        """The row of the whole that a gateway sends besides those of the legs: with each fill of the first leg."""
        bag = bag_in(order)
        if bag is None:
            return []
        legs = self.book.legs_of(order)
        units = fill.quantity // bag.legs[0].ratio
        if not units or not any(each.fill_id == fill.fill_id for each in legs[0].fills):
            return []
        return [self._execution(request_id, self.row(order), f"b{fill.fill_id}", units, bag.price_of(legs), fill.time)]

    # Control

    async def start_control(self, port: int = 0) -> str:
        """Serves the control side by HTTP on a second loopback port (0: any free one). Returns its address."""
        self._loop = asyncio.get_running_loop()
        self._control = control.control_server(self, port)
        self._control.begin("simulated-tws-control")
        return f"http://127.0.0.1:{self._control.port}{control.PATH}"

    def state(self) -> dict[str, Any]:
        """The answer to `GET /_control`."""
        return {
            "accounts": list(self.accounts),
            "clients": [each.client_id for each in tuple(self.sessions) if each.client_id is not None],
            "is_linked": self.is_linked,
            "messages": len(self.heard),
            "messages_placed": sum(fields[0] == str(Ask.PLACE_ORDER.value) for _, fields in tuple(self.heard)),
            "cancels": sum(fields[0] == str(Ask.CANCEL_ORDER.value) for _, fields in self.heard),
            "waiting": list(self.waiting),
            "book_faults": [asdict(fault) for operation in Operation for fault in self.book.armed_faults(operation)],
            "fault_plan": control.plan_state(self.book),
            "orders": len(self.book.orders()),
        }

    def book_orders(self) -> list[dict[str, Any]]:
        """The answer to `GET /_control/orders`."""
        return [control.order_as_json(order) for order in self.book.orders()]

    def control(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Carries out a `POST /_control` on the gateway's loop. To be called from another thread. Raises one of
        control.BAD_REQUEST."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._carry_out(command), self._loop).result(_CONTROL_SECONDS)
        return self.state()

    async def _carry_out(self, command: Mapping[str, Any]) -> None:
        commands: dict[str, control.Command] = {
            **control.book_commands(self.book),
            "drop": self.drop_sessions,
            "lose_link": self.lose_link,
            "restore_link": self.restore_link,
            "say": lambda order, code, text: self.send_order_error(self._id_of(order), int(code), text),
            "warn": self.warn,
            "restart": lambda closed_seconds=0.0: self.spawn(self._pause(float(closed_seconds))),
            "answer_with_words": lambda **fields: self.answer_orders_with(order_message(fields)),
            "coin_terms": lambda tifs=None: setattr(self, "coin_tifs", None if tifs is None else frozenset(tifs)),
            "price": lambda symbol, price: self.prices.update({symbol: Decimal(str(price))}),
            "rate": lambda currency, rate: self.rates.update({currency: Decimal(str(rate))}),
            "contract": lambda symbol, **changes: self.contract_changes.update({symbol: changes}),
            "hold_inactive": self._hold_inactive,
            "close_market": self.close_market,
            "open_market": self.open_market,
            "ignore_cancels": lambda on=True: setattr(self, "ignores_cancels", bool(on)),
            "repeat_statuses": lambda on: setattr(self, "repeats_statuses", bool(on)),
            "chunks": lambda size: setattr(self, "bytes_per_chunk", size),
            "write_times": self._write_times,
            "greet_with": lambda form, zone="UTC": setattr(self, "greeting", wire.Writing(form=form, zone=zone)),
            "garble": self._garble,
            "silence": lambda questions: setattr(self, "silent", {Ask(number) for number in questions}),
        }
        control.carry_out(commands, command)

    def _id_of(self, name: str) -> str:
        return control.ref_of(self.book, name).broker_order_id or ""

    def _write_times(self, form: str, zone: str = "UTC", order: str = "") -> None:
        self.writings[order and control.ref_of(self.book, order).client_order_id] = wire.Writing(form=form, zone=zone)

    def _garble(
        self,
        message: int | None = None,
        field: int = 0,
        text: str = "nonsense",
        named: str = "",
        times: int | None = None,
    ) -> None:
        if message is None:
            self.garbles.clear()
        else:
            unreadable = wire.Garble(message=int(message), field=int(field), text=text, named=named, times=times)
            self.garbles.append(unreadable)

    def _hold_inactive(self, order: str, held: bool = True) -> None:
        broker_order_id = self._id_of(order)
        if held:
            self.held.append(broker_order_id)
        elif broker_order_id in self.held:
            self.held.remove(broker_order_id)

    async def _pause(self, closed_seconds: float) -> None:
        """A restart that keeps the control port open, through which it was requested."""
        assert self._server is not None
        self._server.close()
        self.drop_sessions()
        await asyncio.sleep(closed_seconds)
        self.pushed.clear()
        self.muted.clear()
        self.is_linked = True
        self._mark = self.book.mark()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    # Sockets

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(self, writer)
        self.sessions.append(session)
        frames = wire.FrameReader()
        try:
            while data := await reader.read(65536):
                for fields in frames.feed(data):
                    await session.handle(fields)
        except (ConnectionError, ValueError) as exc:
            log.info("A client's socket ended: %s", exc)
        finally:
            self.sessions.remove(session)
            session.abort()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs until it or the simulator ends."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _keep_pushing(self) -> None:
        while True:
            self.push_changes()
            await asyncio.sleep(TICK_SECONDS)

    def _skip_changes(self) -> None:
        for order in self.book.shown(self.book.changed_since(self._mark)):
            self.mark_pushed(order)
        self._mark = self.book.mark()

    def _send_to_all(self, code: int, text: str) -> None:
        for session in self.sessions:
            if session.client_id is not None:
                session.send(wire.error(-1, code, text))

    def _sessions_of(self, client_id: int) -> list[Session]:
        return [each for each in self.sessions if each.client_id == client_id or each.client_id == 0]

    def _existing(self, broker_order_id: str) -> PaperOrder:
        order = self.book.order(broker_order_id)
        if order is None:
            raise ValueError(f"the book has no order {broker_order_id}")
        return order

    def _wake_up(self, order: PaperOrder, pushed: _Pushed) -> list[bytes]:
        """The messages that bring `pushed` up to date, in a real gateway's order: the order, its executions, its
        end, commissions."""
        row, messages = self.row(order), []
        _, order_id = client_and_order_id(order)
        if not pushed.status:
            pushed.status = row.status if row.status == "Inactive" else "PreSubmitted"
            messages += [wire.open_order(row, pushed.status), *self._statuses(_unfilled(row), pushed.status)]
            if order.status is ReportStatus.REJECTED:
                messages.append(wire.error(order_id, 201, f"Order rejected - reason:{order.reason}"))
            if order.broker_order_id in self.waiting:
                messages.append(
                    wire.error(order_id, 399, _held_until_opening(row, self.waiting[order.broker_order_id]))
                )
        if row.status not in (pushed.status, "Filled", "Cancelled", "Inactive"):
            pushed.status = row.status
            messages += [wire.open_order(row), *self._statuses(_unfilled(row))]
        rows = self._rows_of_fills(order)
        for fill, own in rows:
            if fill.fill_id not in pushed.fills:
                pushed.fills.add(fill.fill_id)
                messages += self._of_bag(-1, order, fill)
                messages.append(self._execution(-1, own, fill.fill_id, fill.quantity, fill.price, fill.time))
                messages += self._statuses(row)
        for fill, own in rows:
            if fill.busted and fill.fill_id not in pushed.busted:
                pushed.busted.add(fill.fill_id)
                if not any(other.corrects == fill.fill_id for other in order.fills):
                    messages.append(self._annulment(-1, own, fill.fill_id, fill.time))
                messages += self._statuses(row)
        if row.status != pushed.status:
            pushed.status = row.status
            messages += [wire.open_order(row), *self._statuses(row)]
            if row.status == "Cancelled":
                messages.append(wire.error(order_id, 202, f"Order Canceled - reason:{order.reason}"))
            if order.status is ReportStatus.REJECTED:
                messages.append(wire.error(order_id, 201, f"Order rejected - reason:{order.reason}"))
        for fill in order.fills:
            if fill.commission is not None and pushed.charged.get(fill.fill_id) != fill.commission:
                pushed.charged[fill.fill_id] = fill.commission
                messages.append(wire.commission_report(fill.fill_id, fill.commission, fill.commission_currency))
        return messages

    def _execution(
        self, request_id: int, row: wire.OrderRow, exec_id: str, quantity: Decimal, price: Decimal, moment: datetime
    ) -> bytes:
        writing = self.writings.get(row.order_ref) or self.writings.get("")
        return wire.execution(
            request_id,
            row,
            exec_id=exec_id,
            quantity=quantity,
            price=price,
            moment=moment,
            written=None if writing is None else writing.of(moment),
        )

    def _annulment(self, request_id: int, row: wire.OrderRow, exec_id: str, moment: datetime) -> bytes:
        """An execution that is busted without replacement: its next version has quantity 0."""
        return self._execution(request_id, row, next_version(exec_id), Decimal(0), Decimal(0), moment)

    def _statuses(self, row: wire.OrderRow, status: str | None = None) -> list[bytes]:
        return [wire.order_status(row, status)] * (2 if self.repeats_statuses else 1)


class Session:
    """One client's socket."""

    def __init__(self, gateway: TwsSimulator, writer: asyncio.StreamWriter) -> None:
        self.client_id: int | None = None
        self._gateway = gateway
        self._book = gateway.book
        self._writer = writer
        self._is_greeted = False
        self.is_open = True
        self._waiting = bytearray()
        self._round: list[PaperOrder] | None = None
        """None: no round of lists has begun."""
        self._round_faults: list[Fault] = []
        self._answers: dict[Ask, Callable[[list[str]], Awaitable[None]]] = {
            Ask.START_API: self._start_api,
            Ask.PLACE_ORDER: self._place,
            Ask.CANCEL_ORDER: self._cancel,
            Ask.OPEN_ORDERS: self._own_open_orders,
            Ask.ALL_OPEN_ORDERS: self._all_open_orders,
            Ask.COMPLETED_ORDERS: self._completed_orders,
            Ask.EXECUTIONS: self._executions,
            Ask.IDS: self._ids,
            Ask.CONTRACT_DETAILS: self._contract_details,
            Ask.MARKET_RULE: self._market_rule,
            Ask.CURRENT_TIME: self._current_time,
            Ask.GLOBAL_CANCEL: self._global_cancel,
            Ask.POSITIONS: self._positions,
            Ask.ACCOUNT_UPDATES: self._account_updates,
            Ask.ACCOUNT_UPDATES_MULTI: self._account_updates_multi,
            Ask.ACCOUNT_SUMMARY: self._account_summary,
            Ask.MARKET_DATA: self._market_data,
            Ask.MARKET_DATA_TYPE: self._market_data_type,
        }

    def abort(self) -> None:
        """Breaks the socket; data under way is lost."""
        self.is_open = False
        self._writer.transport.abort()

    def end(self) -> None:
        """Closes the socket after what has been sent."""
        self.is_open = False
        self._writer.close()

    def send(self, data: bytes) -> None:
        if not self.is_open or not data:
            return
        if self._gateway.garbles:
            data = wire.garbled(data, self._gateway.garbles)
        if self._gateway.bytes_per_chunk is None:
            self._writer.write(data)
            return
        self._waiting += data
        if len(self._waiting) == len(data):
            self._gateway.spawn(self._send_in_pieces(self._gateway.bytes_per_chunk))

    async def _send_in_pieces(self, size: int) -> None:
        while self._waiting:
            self._writer.write(bytes(self._waiting[:size]))
            await asyncio.sleep(0)
            del self._waiting[:size]

    async def handle(self, fields: list[str]) -> None:
        """Answers one message, or begins to."""
        if not self._is_greeted:
            self._is_greeted = True
            now, greeting = self._gateway.clock(), self._gateway.greeting
            self.send(wire.server_hello(now, None if greeting is None else greeting.of(now)))
            return
        self._gateway.heard.append((self.client_id or 0, fields))
        try:
            question = Ask(int(fields[0]))
        except ValueError:
            self.send(wire.error(-1, 506, f"Unsupported message {fields[0]}"))
            return
        if question in self._gateway.silent:
            return
        answer = self._answers.get(question)
        if answer is not None and question in self._gateway.late:
            self._gateway.spawn(self._answer_late(self._gateway.late[question], answer, fields))
        elif answer is not None:
            await answer(fields)
            self._gateway.push_changes()

    @staticmethod
    async def _answer_late(
        moment: asyncio.Event, answer: Callable[[list[str]], Awaitable[None]], fields: list[str]
    ) -> None:
        await moment.wait()
        await answer(fields)

    async def _start_api(self, fields: list[str]) -> None:
        client_id = int(fields[2])
        if any(each.client_id == client_id and each.is_open for each in self._gateway.sessions):
            self.send(
                wire.error(-1, 326, "Unable to connect as the client id is already in use. Retry with a unique one.")
            )
            self.end()
            return
        for fault in self._book.draw(Operation.CONNECT):
            if fault.action is Action.SLOW:
                await asyncio.sleep(fault.seconds)
            elif fault.action is Action.NEVER_ANSWER:
                return
            else:
                self.send(wire.error(-1, 502, fault.reason))
                self.end()
                return
        self.client_id = client_id
        self.send(wire.managed_accounts(self._gateway.accounts))
        self.send(wire.next_valid_id(self._book.next_order_id(client_id)))
        self.send(wire.error(-1, 2104, "Market data farm connection is OK:usfarm"))
        self.send(wire.error(-1, 2158, "Sec-def data farm connection is OK:secdefnj"))
        if not self._gateway.is_linked:
            self.send(wire.error(-1, 1100, "Connectivity between IBKR and Trader Workstation has been lost."))

    # Placing

    async def _place(self, fields: list[str]) -> None:
        request = wire.place_request(fields)
        if not self._gateway.is_linked:
            return
        message = self._gateway.message_for(request)
        if message is not None:
            self._gateway.spawn(self._play_message(request, message))
            return
        faults = self._book.draw(Operation.PLACE, request.order_ref, request.contract.symbol)
        if faults:
            # In a task, so that a slow answer does not delay others.
            self._gateway.spawn(self._play_placing(request, faults))
            return
        self._push_accepted(self._accept(request))

    async def _play_message(self, request: wire.PlaceRequest, message: OrderMessage) -> None:
        if message.is_taken_first:
            self._push_accepted(self._accept(request))
        self.send(wire.error(request.order_id, message.code, message.text))
        if message.taken_after is not None and not message.is_taken_first:
            await asyncio.sleep(message.taken_after)
            self._push_accepted(self._accept(request, is_late=True))

    def _push_accepted(self, order: PaperOrder | None) -> None:
        if order is not None:
            self._gateway.push_order(order)

    async def _play_placing(self, request: wire.PlaceRequest, faults: Sequence[Fault]) -> None:
        order: PaperOrder | None = None
        is_lost = False
        for fault in faults:
            if fault.action is Action.REFUSE:
                self.send(wire.error(request.order_id, 201, f"Order rejected - reason:{fault.reason}"))
                return
            if fault.action is Action.UNAVAILABLE:
                self.send(wire.error(request.order_id, 504, f"Not connected: {fault.reason}"))
                return
            if fault.action is not Action.DROP_BEFORE_ACCEPT and fault.accepted and order is None:
                order = self._accept(request, quietly=True)
            if fault.action is Action.SLOW:
                await asyncio.sleep(fault.seconds)
            else:
                is_lost = True
            if fault.action in (Action.DROP_BEFORE_ACCEPT, Action.ACCEPT_THEN_DROP):
                self.abort()
        if order is not None:
            (order,) = self._book.shown([self._book.order(order.broker_order_id) or order])
            self._gateway.muted.discard(order.number)
        if is_lost:
            if order is not None:
                self._gateway.mark_pushed(order)
            return
        self._push_accepted(order or self._accept(request))

    def _accept(self, request: wire.PlaceRequest, *, quietly: bool = False, is_late: bool = False) -> PaperOrder | None:
        """The order as the book now has it. None: it was answered with an error, or only a status had to be
        repeated. `is_late`: the gateway has had it all along, and later ids have been used since."""
        try:
            return self._taken(request, quietly=quietly, is_late=is_late)
        except Refusal as refusal:
            self.send(wire.error(request.order_id, refusal.code, refusal.text))
        return None

    def _taken(self, request: wire.PlaceRequest, *, quietly: bool, is_late: bool) -> PaperOrder | None:
        assert self.client_id is not None
        broker_order_id = f"{self.client_id}:{request.order_id}"
        known = self._book.order(broker_order_id)
        if known is not None:
            self._modify(self._book.shown([known])[0], request)
            return None
        if request.order_id < self._book.next_order_id(self.client_id) and not is_late:
            raise Refusal(103, "Duplicate order id")
        tickets = self._tickets(request, broker_order_id)
        ticket = tickets[0]
        self._gateway.push_changes()
        if self._gateway.opens is not None:
            self._book.add_fault(
                Fault(
                    operation=Operation.PLACE,
                    action=Action.HOLD,
                    client_order_id=ticket.client_order_id or "*",
                    times=len(tickets),
                )
            )
            self._gateway.waiting[broker_order_id] = self._gateway.opens
        try:
            self._book.place_legs(tickets)
        except OrderRefused as exc:
            raise Refusal(321, f"Error validating request: {exc.reason}") from exc
        placed = self._book.order(broker_order_id)
        assert placed is not None
        (order,) = self._book.shown([placed])
        if quietly:
            self._gateway.muted.add(order.number)
        return order

    def _modify(self, order: PaperOrder, request: wire.PlaceRequest) -> None:
        """The same id again modifies an open order; here only into itself."""
        if order.status is ReportStatus.FILLED:
            raise Refusal(104, "Cannot modify a filled order.")
        if order.status is not ReportStatus.WORKING:
            raise Refusal(103, "Duplicate order id")
        row = self._gateway.row(order)
        asked = (
            row.listing if row.legs else self._listing(request),
            request.legs,
            *(request.action, request.quantity, request.cash_quantity or Decimal(0), request.order_type),
            *(request.limit_price or None, request.aux_price or None, request.tif),
            *(request.account or order.account_id, request.order_ref, request.display_size),
        )
        held = (
            row.listing,
            row.legs,
            *(row.action, row.quantity, row.cash_quantity, row.order_type),
            *(row.limit_price, row.aux_price, row.tif),
            *(row.account, row.order_ref, row.display_size),
        )
        if asked != held:
            raise Refusal(105, "Order being modified does not match original order")
        self.send(wire.open_order(row) + wire.order_status(row))

    def _tickets(self, request: wire.PlaceRequest, broker_order_id: str) -> list[Ticket]:
        """One, or of a combination one for each leg, which together keep to its limit."""
        if request.contract.sec_type != wire.BAG:
            return [self._ticket(request, broker_order_id)]
        if len(request.legs) < 2:
            raise Refusal(321, "Error validating request: Security type 'BAG' requires combo leg details.")
        if request.order_type not in ("MKT", "LMT"):
            raise Refusal(387, f"Unsupported order type {request.order_type} for this exchange and security type.")
        limit = request.limit_price if request.order_type == "LMT" else None
        bag = Bag(
            action=request.action,
            quantity=request.quantity,
            order_type=request.order_type,
            limit_price=limit,
            legs=request.legs,
        )
        sides = [Side(leg.action) if request.action == "BUY" else Side(leg.action).opposite for leg in request.legs]
        prices = leg_prices(limit or Decimal(0), sides, [leg.ratio for leg in request.legs])
        return [
            replace(
                self._ticket(
                    replace(
                        request,
                        contract=wire.contract_query([str(leg.con_id), *[""] * 6, leg.exchange, *[""] * 4]),
                        action=side.value,
                        quantity=request.quantity * leg.ratio,
                        limit_price=None if limit is None else price,
                    ),
                    broker_order_id,
                ),
                variety=bag.as_text,
            )
            for leg, side, price in zip(request.legs, sides, prices, strict=True)
        ]

    def _ticket(self, request: wire.PlaceRequest, broker_order_id: str) -> Ticket:
        listing = self._listing(request)
        order_type = ORDER_TYPES.get(request.order_type)
        if order_type is None:
            raise Refusal(387, f"Unsupported order type {request.order_type} for this exchange and security type.")
        if request.account not in self._gateway.accounts and (request.account or len(self._gateway.accounts) > 1):
            raise Refusal(435, "You must specify an account.")
        if not request.transmit or request.what_if:
            raise Refusal(321, "Error validating request: the simulated gateway only takes orders to be transmitted")
        if not request.legs:
            self._check_prices(request, listing)
        price = self._gateway.prices.get(listing.symbol, self._book.symbol_price(listing.symbol))
        quantity = request.quantity
        if request.cash_quantity is not None:
            if request.action != "BUY":
                raise Refusal(321, "Error validating request: cash quantity is for purchases")
            quantity = (request.cash_quantity / price).quantize(Decimal(listing.size_increment), rounding=ROUND_DOWN)
        elif listing.sec_type == "CRYPTO" and request.action == "BUY" and request.order_type == "MKT":
            raise Refusal(463, "You must enter a valid cash quantity for this order")
        if listing.sec_type == "CRYPTO":
            self._check_coins(request, price)
        if quantity % Decimal(listing.size_increment):
            raise Refusal(
                201, f"Order rejected - reason:The size does not conform to the increment {listing.size_increment}"
            )
        self._check_display_size(request, listing)
        return Ticket(
            client_order_id=request.order_ref,
            instrument=listing.instrument,
            side=Side(request.action),
            quantity=quantity,
            order_type=order_type,
            limit_price=request.limit_price if order_type in (OrderType.LIMIT, OrderType.STOP_LIMIT) else None,
            stop_price=request.aux_price if order_type in (OrderType.STOP, OrderType.STOP_LIMIT) else None,
            reference_price=price,
            tif=Tif(request.tif) if request.tif in tuple(Tif) else None,
            product=request.tif,
            variety=None if request.cash_quantity is None else str(request.cash_quantity),
            display_quantity=request.display_size,
            reserved_order_id=broker_order_id,
            # A stop that stays overnight is meant to rest, and not taken to be reached as others are here.
            is_protective=bool(request.oca_group) or (order_type is OrderType.STOP and request.tif == Tif.GTC.value),
            link=request.oca_group or None,
        )

    def _listing(self, request: wire.PlaceRequest) -> Listing:
        found = listed(request.contract)
        if not found:
            raise Refusal(200, "No security definition has been found for the request")
        if len(found) > 1:
            raise Refusal(200, "The contract description specified is ambiguous")
        return found[0]

    def _check_display_size(self, request: wire.PlaceRequest, listing: Listing) -> None:
        shown = request.display_size
        if shown is None:
            return
        is_whole = shown == shown.to_integral_value()
        if request.order_type != "LMT" or listing.sec_type not in ("STK", "OPT", "FUT"):
            raise Refusal(387, "Unsupported order type for this exchange and security type.")
        if not is_whole or not 0 < shown < request.quantity:
            raise Refusal(321, "Error validating request: the display size must be less than the quantity")

    def _check_coins(self, request: wire.PlaceRequest, price: Decimal) -> None:
        if request.order_type not in ("MKT", "LMT"):
            raise Refusal(387, "Unsupported order type for this exchange and security type.")
        if request.order_type == "MKT" and request.tif != "IOC":
            raise Refusal(201, "Order rejected - reason:Invalid time in force for this order type")
        tifs = self._gateway.coin_tifs
        if request.order_type == "LMT" and tifs is not None and request.tif not in tifs:
            raise Refusal(
                201,
                f"Order rejected - reason:The crypto {request.action.lower()} order must be {' or '.join(sorted(tifs)[::-1])}",
            )
        dollars, share = COIN_BAND
        is_priced = request.contract.symbol in self._gateway.prices and request.limit_price is not None
        if is_priced and request.action == "BUY" and request.order_type == "LMT":
            assert request.limit_price is not None
            if abs(request.limit_price - price) > max(dollars, share * price):
                raise Refusal(
                    202,
                    f"Order Canceled - reason:The limit price must be within 10 USD or 0.25% of the best ask {price}",
                )

    @staticmethod
    def _check_prices(request: wire.PlaceRequest, listing: Listing) -> None:
        for price in (request.limit_price, request.aux_price):
            if price is None:
                continue
            steps = market_rule(listing.market_rule or 0) or (("0", listing.min_tick),)
            tick = [Decimal(step) for edge, step in steps if price >= Decimal(edge)][-1:]
            if tick and price % tick[0]:
                raise Refusal(110, "The price does not conform to the minimum price variation for this contract.")

    # Cancelling

    async def _cancel(self, fields: list[str]) -> None:
        order_id = int(fields[2])
        order = self._book.order(f"{self.client_id}:{order_id}")
        if not self._gateway.is_linked:
            return
        if order is None:
            self.send(wire.error(order_id, 10147, f"OrderId {order_id} that needs to be cancelled is not found."))
            return
        (order,) = self._book.shown([order])
        if self._gateway.ignores_cancels and order.broker_order_id in self._gateway.waiting:
            return
        faults = self._book.draw(Operation.CANCEL, order.ticket.client_order_id)
        self._gateway.spawn(self._play_cancelling(order, order_id, faults))

    async def _play_cancelling(self, order: PaperOrder, order_id: int, faults: Sequence[Fault]) -> None:
        is_done = is_lost = False
        for fault in faults:
            if fault.action in (Action.REFUSE, Action.UNAVAILABLE):
                code = 161 if fault.action is Action.REFUSE else 504
                self.send(wire.error(order_id, code, f"Cancel attempted when order is not cancellable: {fault.reason}"))
                return
            if fault.action is not Action.DROP_BEFORE_ACCEPT and fault.accepted and not is_done:
                self._book.cancel_shown(order)
                is_done = True
            if fault.action is Action.SLOW:
                await asyncio.sleep(fault.seconds)
            else:
                is_lost = True
            if fault.action in (Action.DROP_BEFORE_ACCEPT, Action.ACCEPT_THEN_DROP):
                self.abort()
        if not is_lost:
            self._finish_cancelling(order, order_id, is_done=is_done)

    def _finish_cancelling(self, order: PaperOrder, order_id: int, *, is_done: bool) -> None:
        if not is_done:
            self._gateway.push_changes()
            try:
                self._book.cancel_shown(order)
            except OrderRefused:
                (now,) = self._book.shown([self._book.order(order.broker_order_id) or order])
                state = self._gateway.row(now).status
                text = f"OrderId {order_id} that needs to be cancelled cannot be cancelled, state: {state}."
                self.send(wire.error(order_id, 10148, text))
                return
        self.send(wire.order_status(self._gateway.row(order), "PendingCancel"))
        self._gateway.push_changes()

    async def _global_cancel(self, fields: list[str]) -> None:
        for order in self._book.orders():
            if order.status is ReportStatus.WORKING:
                self._book.cancel(OrderRef(client_order_id="", broker_order_id=order.broker_order_id))

    # Lists of orders

    async def _own_open_orders(self, fields: list[str]) -> None:
        mine = [
            order for order in self._book.shown(self._book.orders()) if client_and_order_id(order)[0] == self.client_id
        ]
        self.send(self._open_orders(mine))

    async def _all_open_orders(self, fields: list[str]) -> None:
        faults = [fault for operation in sorted(_BY_TYPE) for fault in self._book.draw(operation)]
        self._round = self._shown()
        self._round_faults = faults
        if await self._is_received():
            self.send(self._open_orders(self._round))

    async def _completed_orders(self, fields: list[str]) -> None:
        if not any(fault.action is Action.NEVER_ANSWER for fault in self._round_faults):
            done = [order for order in self._listed() if order.status is not ReportStatus.WORKING]
            self.send(b"".join(wire.completed_order(self._gateway.row(order)) for order in done) + wire.frame(102))

    async def _executions(self, fields: list[str]) -> None:
        request_id, client_id, account = int(fields[2]), int(fields[3] or 0), fields[4]
        if any(fault.action is Action.UNAVAILABLE for fault in self._round_faults):
            self._round, self._round_faults = None, []
            self.send(wire.error(request_id, 321, "Error validating request: the list cannot be given now"))
            return
        if any(fault.action is Action.NEVER_ANSWER for fault in self._round_faults):
            return
        messages = []
        for order in self._listed():
            if account in ("", order.account_id) and client_id in (0, client_and_order_id(order)[0]):
                messages += self._gateway.executions(order, request_id)
        self._round, self._round_faults = None, []
        self.send(b"".join(messages) + wire.frame(55, 1, request_id))

    def _listed(self) -> list[PaperOrder]:
        return self._book.shown(self._book.orders()) if self._round is None else self._round

    def _shown(self) -> list[PaperOrder]:
        """The orders of the next round of lists, in their order, as distorted by faults."""
        orders = [self._book.order(report.broker_order_id) for report in self._book.reports().reports]
        hiding = self._book.armed_faults(Operation.FIND)
        return self._book.shown(
            order
            for order in orders
            if order is not None and not (hiding and self._book.find(order.ticket.client_order_id) is None)
        )

    async def _is_received(self) -> bool:
        for fault in self._round_faults:
            if fault.action is Action.SLOW:
                await asyncio.sleep(fault.seconds)
            elif fault.action is Action.NEVER_ANSWER:
                return False
            elif fault.action is not Action.UNAVAILABLE:
                self.abort()
                return False
        return self._gateway.is_linked

    def _open_orders(self, orders: Sequence[PaperOrder]) -> bytes:
        rows = [self._gateway.row(order) for order in orders if order.status is ReportStatus.WORKING]
        return b"".join(wire.open_order(row) + wire.order_status(row) for row in rows) + wire.frame(53, 1)

    # Other questions

    async def _ids(self, fields: list[str]) -> None:
        self.send(wire.next_valid_id(self._book.next_order_id(self.client_id or 0)))

    async def _contract_details(self, fields: list[str]) -> None:
        request_id = int(fields[2])
        query = wire.contract_query(fields[3:15])
        found = listed(query)
        if query.symbol in self._gateway.contract_errors:
            self.send(wire.error(request_id, *self._gateway.contract_errors[query.symbol]))
            return
        if not found:
            self.send(wire.error(request_id, 200, "No security definition has been found for the request"))
            return
        pushed = [replace(listing, **self._gateway.contract_changes.get(listing.symbol, {})) for listing in found]
        details = b"".join(wire.contract_details(request_id, listing) for listing in pushed)
        self.send(details + wire.frame(52, 1, request_id))

    async def _market_rule(self, fields: list[str]) -> None:
        number = int(fields[1])
        self.send(wire.market_rule(number, list(market_rule(number))))

    async def _current_time(self, fields: list[str]) -> None:
        self.send(wire.frame(49, 1, int(self._gateway.clock().timestamp())))

    async def _positions(self, fields: list[str]) -> None:
        if self._book.draw(Operation.POSITIONS):
            return
        messages = [
            # The average cost is per contract in its currency, never in cents (TWS API, `position`).
            wire.position(
                self._book.account_id, listing, held.quantity, (held.average_price or Decimal(0)) * (worth or 1)
            )
            for held in self._book.positions()
            for listing in [listing_of(held.instrument)]
            for worth in [listing.point_value]
        ]
        self.send(b"".join(messages) + wire.frame(62, 1))

    async def _account_updates(self, fields: list[str]) -> None:
        account = fields[3] or self._book.account_id
        values = [wire.frame(6, 2, tag, value, currency, account) for tag, value, currency in self._ledger()]
        self.send(b"".join(values) + wire.frame(8, 1, "09:30") + wire.frame(54, 1, account))

    async def _account_updates_multi(self, fields: list[str]) -> None:
        request_id, account = int(fields[2]), fields[3]
        if self._book.draw(Operation.BALANCES):
            self.send(wire.error(request_id, 321, "Error validating request: the account's values cannot be given now"))
            return
        values = [wire.frame(73, 1, request_id, account, "", *value) for value in self._ledger()]
        self.send(b"".join(values) + wire.frame(74, 1, request_id))

    async def _account_summary(self, fields: list[str]) -> None:
        request_id = int(fields[2])
        values = [wire.frame(63, 1, request_id, self._book.account_id, *value) for value in self._ledger()]
        self.send(b"".join(values) + wire.frame(64, 1, request_id))

    async def _market_data_type(self, fields: list[str]) -> None:
        """Whatever is wanted: which type an instrument's data are of is set with its quote."""

    async def _market_data(self, fields: list[str]) -> None:
        """A snapshot: as it was set; else around the price at which market orders are filled, where one was set. Of anything else this account has
        no subscription, as a new paper account has none."""
        request_id = int(fields[2])
        found = listed(wire.contract_query(fields[3:15]))
        if not found:
            self.send(wire.error(request_id, 200, "No security definition has been found for the request"))
            return
        if fields[17] != "1" or fields[18] == "1":
            self.send(
                wire.error(request_id, 321, "Error validating request: the simulated gateway only tells free snapshots")
            )
            return
        if self._book.draw(Operation.QUOTES, symbol=found[0].symbol):
            return
        price = self._gateway.prices.get(found[0].symbol)
        quote = self._book.quote(found[0].symbol)
        if quote is None and price is not None:
            quote = ScriptedQuote(symbol=found[0].symbol, bid=price, ask=price, last=price, last_age_seconds=0)
        if quote is None or quote.refusal is not None:
            words = "Requested market data is not subscribed." if quote is None else quote.refusal or ""
            self.send(wire.error(request_id, *_coded(words)))
            return
        self.send(_ticks(request_id, quote, self._gateway.clock()) + wire.frame(57, 1, request_id))

    def _ledger(self) -> list[tuple[str, Decimal, str]]:
        """By currency and, where the rates of all are known, added up in the base currency."""
        rates = {self._book.market.currency: Decimal(1), **self._gateway.rates}
        lines: list[tuple[str, Decimal, str]] = []
        total: Decimal | None = Decimal(0)
        for each in self._book.balances():
            worth, rate = each.cash if each.equity is None else each.equity, rates.get(each.currency)
            lines += [("CashBalance", each.cash, each.currency), ("NetLiquidationByCurrency", worth, each.currency)]
            if rate is not None:
                lines.append(("ExchangeRate", rate, each.currency))
            total = None if total is None or rate is None else total + worth * rate
        lines.append(("ExchangeRate", Decimal(1), "BASE"))
        return lines if total is None else [*lines, ("NetLiquidationByCurrency", total, "BASE")]


def leg_prices(net: Decimal, sides: Sequence[Side], ratios: Sequence[int]) -> list[Decimal]:
    """Prices above 0 at which one unit of the legs costs `net`: all the same where that is possible, else one leg's
    makes up for it."""
    signed = [side.sign * ratio for side, ratio in zip(sides, ratios, strict=True)]
    total = sum(signed)
    if total and net / total > 0:
        return [net / total] * len(signed)
    usual = abs(net) + 1
    for place, sign in enumerate(signed):
        other = (net - usual * (total - sign)) / sign
        if other > 0:
            return [other if n == place else usual for n in range(len(signed))]
    raise Refusal(201, f"Order rejected - reason:No legs cost {net} together")


_CODED = re.compile(r"(\d+) (.*)", re.DOTALL)


def _coded(refusal: str) -> tuple[int, str]:
    """A refusal's code, where it begins with one, and its text."""
    found = _CODED.fullmatch(refusal)
    return (354, refusal) if found is None else (int(found[1]), found[2])


def _ticks(request_id: int, quote: ScriptedQuote, now: datetime) -> bytes:
    """Bid, ask, last, close and the time of the last trade; with other numbers where the data are delayed, which is said before."""
    prices = (quote.bid, quote.ask, quote.last, quote.close)
    kinds, time_kind = ((66, 67, 68, 75), 88) if quote.is_delayed else ((1, 2, 4, 9), 45)
    words = wire.market_data_type(request_id, 3 if quote.is_delayed else 1)
    if quote.is_delayed:
        said = "Requested market data is not subscribed. Displaying delayed market data."
        words = wire.error(request_id, 10167, said) + words
    ticks = b"".join(wire.tick_price(request_id, kind, price) for kind, price in zip(kinds, prices, strict=True))
    if quote.last_age_seconds is None:
        return words + ticks
    at = now - timedelta(seconds=quote.last_age_seconds)
    return words + ticks + wire.tick_text(request_id, time_kind, str(int(at.timestamp())))


def order_message(fields: Mapping[str, Any]) -> OrderMessage:
    """From the fields of a control command. Raises one of control.BAD_REQUEST."""
    message = OrderMessage(**{**fields, "code": int(fields["code"]), "text": str(fields["text"])})
    if message.times is not None and message.times < 0:
        raise ValueError("a number of times is 0 or more")
    return message


def _held_until_opening(row: wire.OrderRow, until: str) -> str:
    """In a gateway's own wording; other messages with this code begin with the same line."""
    return (
        f"Order Message:\n{row.action} {row.quantity} {row.listing.symbol} {row.listing.exchange}\n"
        f"Warning: your order will not be placed at the exchange until {until}"
    )


def _unfilled(row: wire.OrderRow) -> wire.OrderRow:
    """The order as it was before its executions, which are pushed after it."""
    return replace(row, filled=Decimal(0), average_price=Decimal(0), last_price=Decimal(0))


async def _run(arguments: argparse.Namespace) -> None:
    market = Market(
        fill_delay_seconds=arguments.fill_delay_seconds,
        partial_fill_rate=arguments.partial_fill_rate,
        rejection_rate=arguments.rejection_rate,
        seed=arguments.seed,
    )
    book = TwsBook(arguments.data, account_id=arguments.account, market=market)
    book.fault_plan = arguments.faults
    gateway = TwsSimulator(book, port=arguments.port)
    await gateway.start()
    control_url = await gateway.start_control(arguments.control_port)
    print(f"gateway 127.0.0.1:{gateway.port} control {control_url} account {arguments.account}", flush=True)
    if arguments.notice is not None:
        control.leave_notice(arguments.notice, gateway=f"127.0.0.1:{gateway.port}", control=control_url)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    if arguments.notice is not None:
        control.take_back_notice(arguments.notice)
    await gateway.stop()
    book.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m simulators.ibkr",
        description="A simulated TWS or IB Gateway on loopback; no order leaves this machine.",
    )
    parser.add_argument("--port", type=int, default=4002)
    parser.add_argument("--control-port", type=int, default=0, help="0: any free one (default)")
    parser.add_argument("--notice", type=Path, help="a file to say in, while it runs, where it is to be found")
    parser.add_argument("--data", type=Path, required=True, help="the book's file, made where there is none")
    parser.add_argument("--account", default=DEFAULT_ACCOUNT)
    parser.add_argument("--fill-delay-seconds", type=float, default=0.2)
    parser.add_argument("--partial-fill-rate", type=float, default=0.0)
    parser.add_argument("--rejection-rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int)
    control.add_fault_plan_option(parser)
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
