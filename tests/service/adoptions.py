"""What a person does with `execctl adopt`, at the level of the service: the plan that is shown, and the command that has it done; no assertions."""

from __future__ import annotations

import itertools
from typing import Any

from brokers.base import Instrument, OrderType, Side, Ticket
from execution_service.control.adoption_books import plan_of_undoing, read_books, records_named
from execution_service.core.adoption.plan import plan
from execution_service.core.adoption.records import AdoptionRequest, Plan, Refused, adoption_id, read_adoption_request
from execution_service.core.orders.order import Order
from execution_service.core.views.record import plan_to_document
from execution_service.storage.ports.commands import Command
from tests.builders import amount
from tests.fakes import ACCOUNT, World

_NUMBERS = itertools.count(1)


def by_hand(world: World, quantity: int, symbol: str = "AAPL", price: str = "10", **instrument: Any) -> None:
    """Somebody, or the broker itself, trades past the service; negative sells."""
    ticket = Ticket(
        client_order_id=f"hand-{next(_NUMBERS)}",
        instrument=Instrument(symbol=symbol, **instrument),
        side=Side.BUY if quantity > 0 else Side.SELL,
        quantity=abs(amount(quantity)),
        order_type=OrderType.LIMIT,
        limit_price=amount(price),
    )
    world.book().place(ticket)
    world.book().advance()


def command_body(occasion: str, symbol: str = "AAPL", **said: Any) -> dict[str, Any]:
    """The body of a command without what was shown. `instrument`: more of its fields."""
    usual = {"account_id": ACCOUNT, "strategy": "momentum", "by": "Ann", "reason": "the broker's note"}
    instrument = {"symbol": symbol, **said.pop("instrument", {})}
    return usual | {"occasion": occasion, "instrument": instrument} | said


async def planned(world: World, body: dict[str, Any], *, asks_broker: bool = False) -> Plan | Refused:
    """What the person is shown."""
    wish = read_adoption_request(body)
    if isinstance(wish, Refused):
        return wish
    assert isinstance(wish, AdoptionRequest)
    theirs = world.book().positions() if asks_broker else None
    return plan(wish, await read_books(world.store_beside(), wish, theirs), world.clock.now())


async def adopt(world: World, occasion: str, symbol: str = "AAPL", **said: Any) -> str:
    """Shows it to the person, with the broker's book unless `asks_broker` is False, and stores the command of one whom no warning stops;
    returns the command's id."""
    asks_broker = said.pop("asks_broker", True)
    body = command_body(occasion, symbol, **{"is_forced": asks_broker, **said})
    command_id = f"ctl-{next(_NUMBERS)}"
    shown = await planned(world, body, asks_broker=asks_broker)
    assert isinstance(shown, Plan), shown
    await give(world, command_id, body | {"shown": plan_to_document(shown)})
    return command_id


async def undo(world: World, command_id: str, **said: Any) -> str:
    name, store = adoption_id(command_id), world.store_beside()
    found = await records_named(store, name)
    shown = await plan_of_undoing(store, found, world.book().positions(), world.clock.now())
    assert isinstance(shown, Plan), shown
    body = {"undo": name, "account_id": ACCOUNT, "by": "Bob", "reason": "it was another account"}
    body |= {"is_forced": True} | said
    again = f"ctl-{next(_NUMBERS)}"
    await give(world, again, body | {"shown": plan_to_document(shown)})
    return again


async def give(world: World, command_id: str, body: dict[str, Any], kind: str = "ADOPT") -> None:
    now = world.clock.now()
    command = Command(command_id=command_id, kind=kind, body=body, published_at=now, received_at=now)
    await world.store_beside().insert_command(command)


def outcome(world: World, command_id: str) -> tuple[str, str]:
    (document,) = world.documents("execution_commands", _id=command_id)
    return document["status"], document["outcome"]


def records(world: World, command_id: str) -> list[Order]:
    name = adoption_id(command_id)
    found = [order for order in world.records() if order.signal_id == name]
    return sorted(found, key=lambda order: order.identity.leg_index)


def held(world: World, symbol: str = "AAPL", strategy: str = "momentum") -> dict[str, tuple[float, float]]:
    """Quantity (signed) and average price of what the view shows as open, by strategy's instrument."""
    return {
        document["symbol"]: (
            document["quantity"] * (1 if document["side"] == "LONG" else -1),
            document["avg_entry_price"],
        )
        for document in world.documents("positions", status="OPEN", strategy_name=strategy)
    }
