"""The process dies before, halfway and after each of its calls to the outside world in turn; restarted, it must end as if it had not."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from brokers.base import Capabilities
from brokers.paper.model import Action, Fault, Market, Operation
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.core.risk.limits import RiskLimits
from execution_service.trading.trader import TradingRules
from tests.core.risk_cases import written
from tests.fakes import BY_HAND, ONLY_A_TAG, Gate, Moment, World, world_of
from tests.service import adoptions
from tests.service.audit import audit
from tests.service.option_spreads import COMBINING, SPREAD

RULES = TradingRules(order_timeout_seconds=8.0, max_order_age_seconds=300.0)
RESERVING = Capabilities(refuses_repeated_client_id=True, needs_reservation=True, find_window_seconds=1.0)
MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
LIMIT_SECONDS = 100.0

Act: TypeAlias = Callable[[World], object]
"""Awaited where it can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens in the outside world, each act as soon as its condition holds, and where the orders must end."""

    script: Sequence[tuple[Callable[[World], bool], Act]]
    ends: dict[tuple[str, Purpose], set[Status]]
    market: Market = field(default_factory=Market)
    faults: Sequence[Fault] = ()
    capabilities: Capabilities | None = None
    is_unique: bool = True
    limits: RiskLimits | None = None
    check: Callable[[World], None] = lambda world: None


def at_once(world: World) -> bool:
    return True


def placed(signal_id: str) -> Callable[[World], bool]:
    return lambda world: bool(world.book().orders(world.client_id(signal_id)))


def is_now(signal_id: str, *statuses: Status) -> Callable[[World], bool]:
    def check(world: World) -> bool:
        found = [o for o in world.records() if o.signal_id == signal_id]
        return bool(found) and found[0].status in statuses

    return check


def send(signal_id: str = "sig", **fields: Any) -> Act:
    return lambda world: world.send(signal_id, **fields)


def leave(signal_id: str, entry: str = "sig", **fields: Any) -> Act:
    return lambda world: world.exit(signal_id, entry, **fields)


def adopt(occasion: str, moved: dict[str, int], **said: Any) -> Act:
    """`moved`: what has changed at the broker, by symbol."""

    def act(world: World) -> object:
        _move(world, moved)
        return adoptions.adopt(world, occasion, **said)

    return act


def undo(moved: dict[str, int]) -> Act:
    def act(world: World) -> object:
        _move(world, moved)
        (command,) = world.documents("execution_commands", kind="ADOPT")
        return adoptions.undo(world, command["_id"])

    return act


def _move(world: World, moved: dict[str, int]) -> None:
    for symbol, quantity in moved.items():
        adoptions.by_hand(world, quantity, symbol)


def carried_out(count: int) -> Callable[[World], bool]:
    return lambda world: len(world.documents("execution_commands", kind="ADOPT", status="DONE")) == count


def fill(signal_id: str, quantity: int | None = None, price: str | None = None) -> Act:
    return lambda world: world.fill(signal_id, quantity, price)


def entry(signal_id: str = "sig", *statuses: Status) -> dict[tuple[str, Purpose], set[Status]]:
    return {(signal_id, Purpose.ENTRY): set(statuses)}


def way_out(signal_id: str, *statuses: Status) -> dict[tuple[str, Purpose], set[Status]]:
    return {(signal_id, Purpose.EXIT): set(statuses)}


FILLED = is_now("sig", Status.FILLED)


def realized(amount: float) -> Callable[[World], None]:
    def check(world: World) -> None:
        assert sum(d["realized_pnl"] for d in world.documents("positions")) == amount

    return check


def exit_is_shown(world: World) -> None:
    realized(100.0)(world)
    (entry_document,) = world.documents("signal_store", signal_id="sig")
    (exit_document,) = world.documents("signal_store", signal_id="out")
    assert entry_document["position_status"] == "CLOSED"
    assert entry_document["pnl_realized"] == exit_document["pnl_realized"] == 100.0
    assert exit_document["pnl"]["gross_pnl"] == 100.0
    assert exit_document["pnl"]["commission"] == 2.0


def pair_is_shown(world: World) -> None:
    (document,) = world.documents("signal_store", signal_id="sig")
    assert document["execution_status"] == document["execution"]["status"] == "FILLED"
    assert {n: leg["instrument"] for n, leg in document["execution"]["legs"].items()} == {"0": "AAPL", "1": "NVDA"}


def all_legs_or_none(world: World) -> None:
    """Both have filled, or nothing was placed: then both have ended, or it is not known of either whether it was."""
    legs = [world.record("sig", leg_index=number).status for number in (0, 1)]
    unknown = {Status.SUBMITTING, Status.IN_DOUBT}
    assert len(world.book().orders()) == (2 if Status.FILLED in legs else 0)
    assert any(set(legs) <= each for each in ({Status.FILLED}, {Status.REJECTED}, unknown)), legs


def dead_letter_is_kept_and_told(world: World) -> None:
    (letter,) = world.documents("execution_dead_letters")
    assert bytes(letter["payload"]) == b"not json"
    assert world.notifier.titled("Dead Letter")


def exactly_one_was_placed(world: World) -> None:
    assert len(world.placed()) == 1


SCENARIOS = {
    "order that reserves, and its exit": Scenario(
        limits=written(max_position_quantity=100, max_open_orders=1, max_order_value=1000),
        script=[(at_once, send()), (FILLED, leave("out"))],
        ends=entry("sig", Status.FILLED) | way_out("out", Status.FILLED),
    ),
    "two orders that fit alone and not together": Scenario(
        limits=written(max_gross_exposure=1500),
        script=[(at_once, send()), (at_once, send("other", symbol="MSFT"))],
        ends=entry("sig", Status.FILLED, Status.REJECTED) | entry("other", Status.FILLED, Status.REJECTED),
        check=exactly_one_was_placed,
    ),
    "market order filled": Scenario(script=[(at_once, send())], ends=entry("sig", Status.FILLED)),
    "limit order of upstream's dialect, whose rows are kept": Scenario(
        script=[
            (
                at_once,
                lambda world: world.send_raw(
                    json.dumps(
                        {
                            "signal_id": "sig",
                            "order_id": "sig_ORD",
                            "mathematricks_signal_id": "a" * 24,
                            "strategy_id": "momentum",
                            "account": "acct-1",
                            "instrument": "AAPL",
                            "instrument_type": "STOCK",
                            "direction": "LONG",
                            "action": "BUY",
                            "signal_type": "ENTRY",
                            "order_type": "LIMIT",
                            "price": 12.5,
                            "quantity": 4.0,
                        }
                    ).encode()
                ),
            )
        ],
        ends=entry("sig", Status.FILLED),
    ),
    "partial fill, then the rest": Scenario(
        market=BY_HAND,
        script=[
            (at_once, send()),
            (placed("sig"), fill("sig", 40)),
            (is_now("sig", Status.PARTIALLY_FILLED), fill("sig", 60, "11")),
        ],
        ends=entry("sig", Status.FILLED),
    ),
    "cancel of a working order": Scenario(
        market=BY_HAND,
        script=[
            (at_once, send()),
            (placed("sig"), lambda world: world.cancel(signal_id="sig")),
        ],
        ends=entry("sig", Status.CANCELLED),
    ),
    "cancel before its order": Scenario(
        script=[
            (at_once, lambda world: world.cancel(signal_id="sig", age_seconds=-1.0)),
            (at_once, send()),
        ],
        ends=entry("sig", Status.CANCELLED),
        check=lambda world: _nothing_placed(world),
    ),
    "time-out after a partial fill": Scenario(
        market=BY_HAND,
        script=[(at_once, send()), (placed("sig"), fill("sig", 30))],
        ends=entry("sig", Status.CANCELLED),
    ),
    "fill that crosses the cancel": Scenario(
        market=BY_HAND,
        faults=[
            Fault(
                operation=Operation.CANCEL,
                action=Action.LATE_FILL_AFTER_CANCEL,
                seconds=5.0,
                quantity=Decimal(100),
            )
        ],
        script=[(at_once, send()), (placed("sig"), lambda world: world.cancel(signal_id="sig"))],
        ends=entry("sig", Status.FILLED),
        check=lambda world: _corrected(world),
    ),
    "exit of its entry with a profit": Scenario(
        script=[(at_once, send()), (FILLED, leave("out", price=11))],
        ends=entry("sig", Status.FILLED) | way_out("out", Status.FILLED),
        check=exit_is_shown,
    ),
    "exit sent right behind its entry": Scenario(
        script=[(at_once, send()), (at_once, leave("out", price=11))],
        ends=entry("sig", Status.FILLED) | way_out("out", Status.FILLED),
        check=exit_is_shown,
    ),
    "flip through zero": Scenario(
        script=[
            (at_once, send()),
            (FILLED, send("flip", side="SELL", quantity=150, price=12)),
        ],
        ends=entry("sig", Status.FILLED) | entry("flip", Status.FILLED),
        check=realized(200.0),
    ),
    "part of a position squared off and adopted, then the exit": Scenario(
        script=[
            (at_once, send()),
            (FILLED, adopt("square-off", {"AAPL": -40}, quantity="40", price="11")),
            (carried_out(1), leave("out", price=11)),
        ],
        ends=entry("sig", Status.FILLED) | way_out("out", Status.FILLED),
        check=lambda world: _adopted(world, realised=100.0, sold=60),
    ),
    "a renamed share adopted, then the exit": Scenario(
        script=[
            (at_once, send()),
            (FILLED, adopt("rename", {"AAPL": -100, "NEW": 100}, successor={"symbol": "NEW"})),
            (carried_out(1), leave("out", symbol="NEW", price=11)),
        ],
        ends=entry("sig", Status.FILLED) | way_out("out", Status.FILLED),
        check=lambda world: _adopted(world, realised=100.0, sold=100),
    ),
    "an adoption taken back, then the exit": Scenario(
        script=[
            (at_once, send()),
            (FILLED, adopt("rename", {"AAPL": -100, "NEW": 100}, successor={"symbol": "NEW"})),
            (carried_out(1), undo({"AAPL": 100, "NEW": -100})),
            (carried_out(2), leave("out", price=11)),
        ],
        ends=entry("sig", Status.FILLED) | way_out("out", Status.FILLED),
        check=lambda world: _adopted(world, realised=100.0, sold=100),
    ),
    "rejection": Scenario(
        faults=[Fault(operation=Operation.PLACE, action=Action.REJECT, reason="no margin", times=None)],
        script=[(at_once, send())],
        ends=entry("sig", Status.REJECTED),
    ),
    "refusal": Scenario(
        faults=[Fault(operation=Operation.PLACE, action=Action.REFUSE, reason="no such symbol", times=None)],
        script=[(at_once, send())],
        ends=entry("sig", Status.REJECTED),
    ),
    "invalid order": Scenario(script=[(at_once, send(quantity=-5))], ends=entry("sig", Status.REJECTED)),
    "dead letter": Scenario(
        script=[(at_once, lambda world: world.send_raw(b"not json"))], ends={}, check=dead_letter_is_kept_and_told
    ),
    "pair of legs": Scenario(
        script=[
            (at_once, send(leg_index=0, total_legs=2)),
            (at_once, send(leg_index=1, total_legs=2, symbol="NVDA", side="SELL", price=20)),
        ],
        ends=entry("sig", Status.FILLED),
        check=pair_is_shown,
    ),
    "options that are legs of one order": Scenario(
        capabilities=COMBINING,
        script=[(at_once, send(leg_index=n, total_legs=2, **leg)) for n, leg in enumerate(SPREAD)],
        ends=entry("sig", Status.FILLED, Status.IN_DOUBT, Status.REJECTED),
        check=all_legs_or_none,
    ),
    "lost answer": Scenario(
        faults=[Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP)],
        script=[(at_once, send())],
        ends=entry("sig", Status.FILLED),
    ),
    "lost request": Scenario(
        faults=[Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)],
        script=[(at_once, send())],
        ends=entry("sig", Status.FILLED),
    ),
    "lost answer, and the order hidden for a while": Scenario(
        faults=[
            Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP),
            Fault(operation=Operation.FIND, action=Action.HIDE, times=3),
            Fault(operation=Operation.REPORTS, action=Action.HIDE, times=2),
        ],
        script=[(at_once, send())],
        ends=entry("sig", Status.FILLED),
    ),
    "broker that reserves ids": Scenario(
        capabilities=RESERVING, script=[(at_once, send())], ends=entry("sig", Status.FILLED)
    ),
    "two instruments at a broker that takes its ids in their sequence": Scenario(
        capabilities=RESERVING,
        script=[(at_once, send()), (at_once, send("other", symbol="NVDA"))],
        ends=entry("sig", Status.FILLED) | entry("other", Status.FILLED),
    ),
    "lost request at a broker that takes its ids in their sequence": Scenario(
        capabilities=RESERVING,
        faults=[Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT)],
        script=[(at_once, send()), (at_once, send("other", symbol="NVDA"))],
        ends=entry("sig", Status.FILLED) | entry("other", Status.FILLED),
    ),
    "broker for which the id is only a tag": Scenario(
        capabilities=ONLY_A_TAG,
        is_unique=False,
        script=[(at_once, send())],
        ends=entry("sig", Status.FILLED, Status.IN_DOUBT),
    ),
    "lost answer of a broker for which the id is only a tag": Scenario(
        capabilities=ONLY_A_TAG,
        is_unique=False,
        faults=[Fault(operation=Operation.PLACE, action=Action.ACCEPT_THEN_DROP)],
        script=[(at_once, send())],
        ends=entry("sig", Status.FILLED, Status.IN_DOUBT),
    ),
    "lost request of a broker for which the id is only a tag": Scenario(
        capabilities=ONLY_A_TAG,
        is_unique=False,
        faults=[Fault(operation=Operation.PLACE, action=Action.DROP_BEFORE_ACCEPT, times=None)],
        script=[(at_once, send())],
        ends=entry("sig", Status.IN_DOUBT),
    ),
}


def _adopted(world: World, *, realised: float, sold: int) -> None:
    realized(realised)(world)
    assert world.exit_record("out").filled_quantity == sold
    (document,) = world.documents("signal_store", signal_id="sig")
    assert (document["position_status"], document["pnl_realized"]) == ("CLOSED", realised)


def _nothing_placed(world: World) -> None:
    assert not world.placed()


def _corrected(world: World) -> None:
    last = world.publisher.of("sig")[-1]
    assert last["correction"] is True
    assert last["status"] == "FILLED"


async def play(scenario: Scenario, folder: Path, dies_at: tuple[int, Moment] | None) -> Gate:
    """Plays the scenario with one death in it, audits the end, and returns the gate, which knows all calls of the first life."""
    async with world_of(
        folder,
        starts=False,
        market=scenario.market,
        faults=scenario.faults,
        capabilities=scenario.capabilities,
        is_unique=scenario.is_unique,
        rules=RULES,
        limits=scenario.limits,
    ) as world:
        world.gate.dies_at = dies_at
        to_do = list(scenario.script)
        first_life = world.gate.names
        await _begin(world)
        end = world.clock.monotonic() + LIMIT_SECONDS
        while not _is_over(world, scenario, to_do):
            if world.gate.is_dead:
                first_life = list(world.gate.names)
                await world.restart()
            while to_do and to_do[0][0](world):
                done = to_do.pop(0)[1](world)
                if isinstance(done, Awaitable):
                    await done
                world.gate.passed.append(None)
                await world.settle()
            if world.clock.monotonic() > end:
                raise TimeoutError(f"still unfinished: {[(o.signal_id, o.status) for o in world.records()]}")
            wake = world.clock.next_wake()
            if wake is not None:
                world.gate.passed.append(None)
                world.clock.move_to(wake)
            await world.settle()
        gate = Gate()
        gate.names, gate.passed = list(first_life), world.gate.passed
        audit(world)
        scenario.check(world)
        for (signal_id, purpose), statuses in scenario.ends.items():
            assert world.record(signal_id, purpose).status in statuses
        return gate


async def _begin(world: World) -> None:
    dies_at = world.gate.dies_at
    await world.start()
    world.gate.dies_at = dies_at


def _is_over(world: World, scenario: Scenario, to_do: Sequence[object]) -> bool:
    if world.gate.is_dead or to_do or world.orders.unacknowledged or world.commands.unacknowledged:
        return False
    orders: list[Order] = world.records()
    told = {d["_id"]: d["told"] for d in world.documents("execution_orders")}
    is_told = all(told[o.order_id]["world"] == told[o.order_id]["people"] == o.version for o in orders)
    is_ended = all(world.record(s, p).status in statuses for (s, p), statuses in scenario.ends.items())
    is_reserved = any(document.get("reservations") for document in world.documents("execution_risk"))
    return is_told and is_ended and not is_reserved and not world.documents("execution_alerts", sent_at=None)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_whenever_the_process_dies_all_agree_in_the_end(name: str) -> None:
    scenario = SCENARIOS[name]
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        gate = await play(scenario, _new(folder, "whole"), None)
        calls = gate.names
        assert len(calls) >= 4
        for number, call in enumerate(calls, 1):
            if call == "broker.reports" == calls[number - 2] == calls[number - 3]:
                continue  # the same question in the same state
            moments = [Moment.BEFORE] + [Moment.HALFWAY] * call.endswith("bulk_write")
            moments += [Moment.AFTER] * gate.shows_more_after(number)
            for moment in moments:
                try:
                    await play(scenario, _new(folder, f"{number}-{moment}"), (number, moment))
                except (AssertionError, TimeoutError, IndexError) as exc:
                    raise AssertionError(f"died {moment} call {number}, {call}, of {calls}") from exc


def _new(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir()
    return path
