"""Scenarios in which the broker's own quotes move protection, where it tells them by calls of their own. Importing it enters them into the table."""

from __future__ import annotations

from decimal import Decimal

from execution_service.core.orders.protective import ProtectiveRole
from simulators.catalogue import simulator_of
from tests.faults.protected import Position, entered, left, until_stops_are, while_dead, working
from tests.faults.scenarios import EVERYWHERE, Family, scenario
from tests.faults.stage import LOOK_SECONDS, Play
from tests.waits import wait_until

TOLD_BY_CALLS = ("zerodha", "alpaca", "binance")
RESTING_FOR_LONG = ("mock", "ibkr", "alpaca")
"""Brokers where stops in shares rest for longer than a day, so that a split may meet one."""
TRAIL = 10


def market_is(play: Play, price: int, **more: object) -> None:
    symbol = simulator_of(play.broker).symbols[1]
    play.do(
        "quote", symbol=symbol, bid=f"{price - 0.05}", ask=f"{price + 0.05}", last=price, last_age_seconds=0, **more
    )


def stop_price(position: Position) -> Decimal | None:
    """Of the stop that works at the broker; None: there is not just one."""
    _, theirs = position.at_broker()
    working = [o for o in theirs if o["role"] is ProtectiveRole.STOP and o["status"] == "WORKING"]
    return Decimal(working[0]["stop_price"]) if len(working) == 1 else None


def until_the_stop_is_at(position: Position, price: int) -> None:
    wait_until(
        lambda: stop_price(position) == price,
        f"the stop is at {price}",
        within=45.0,
        pause=LOOK_SECONDS,
        more=lambda: str(stop_price(position)),
    )


def trailing(play: Play) -> Position:
    """Protected by a stop that trails by 10, of an entry at 100. The broker's book knows no market but its executions: it fills no stop by
    itself."""
    market_is(play, 100)
    play.pause(5.0)  # what the service has just seen of the play before is no market of this one
    position = entered(play, stop_loss=None, trail_amount=TRAIL, limit_price="100")
    until_stops_are(position, 10)
    until_the_stop_is_at(position, 90)
    symbol = simulator_of(play.broker).symbols[1]
    play.venue.fault("place", "hold", symbol=symbol, times=None)
    return position


@scenario(Family.PROTECTION, brokers=TOLD_BY_CALLS, alone=EVERYWHERE, within=150.0)
def market_rises_and_falls_and_the_stop_follows_it_up_alone(play: Play) -> None:
    """The stop follows the broker's quotes up, is not moved by a fall, nor by the death of the service, and follows again."""
    position = trailing(play)
    market_is(play, 120)
    until_the_stop_is_at(position, 110)
    market_is(play, 115)
    with while_dead(position):
        pass
    until_stops_are(position, 10)
    market_is(play, 130)
    until_the_stop_is_at(position, 120)
    leave(position)


@scenario(Family.PROTECTION, brokers=TOLD_BY_CALLS, alone=TOLD_BY_CALLS, within=150.0)
def market_is_told_stale_crossed_and_one_sided(play: Play) -> None:
    """What is no price moves no stop, however high it is; the next good one does."""
    position = trailing(play)
    for wrong in (
        {"age_seconds": 3600, "last_age_seconds": 3600},
        {"bid": 300, "ask": 200},
        {"bid": None, "last": None},
    ):
        market_is_wrong(play, **wrong)
        play.pause(5.0)
        assert stop_price(position) == 90, wrong
    market_is(play, 120)
    until_the_stop_is_at(position, 110)
    leave(position)


@scenario(Family.PROTECTION, brokers=RESTING_FOR_LONG, alone=RESTING_FOR_LONG, within=150.0)
def split_takes_the_stop_down_and_nothing_is_sold(play: Play) -> None:
    """10 shares become 20 at half the price, and the broker takes the stop down: neither the old stop nor a close is sent, through a death too."""
    position = _at_100(play)
    position.may_be_uncovered = True
    moved = {"instrument": position.own["symbol"], "product": position.entry.body.get("product")}
    play.do("move", quantity=10, **moved)
    market_is(play, 50)
    play.do("cancel", order=working(position, ProtectiveRole.STOP))
    wait_until(lambda: _is_held_back(position), "it is held back", within=60.0)
    with while_dead(position):
        pass
    play.pause(12.0)  # several turns of the monitor
    _, theirs = position.at_broker()
    assert [order["status"] for order in theirs] == ["CANCELLED"], theirs
    assert _is_held_back(position)
    play.do("move", quantity=-10, **moved)
    leave(position)


def _at_100(play: Play) -> Position:
    """Protected by a stop that rests, of an entry at 100."""
    market_is(play, 100)
    play.pause(5.0)  # what the service has just seen of the play before is no market of this one
    position = entered(play, limit_price="100", symbol=simulator_of(play.broker).symbols[1])
    until_stops_are(position, 10)
    play.venue.fault("place", "hold", symbol=simulator_of(play.broker).symbols[1], times=None)
    return position


def _is_held_back(position: Position) -> bool:
    record = position.play.record(position.entry) or {}
    told = [event for event in record.get("events", ()) if "state" in event]
    return bool(told) and told[-1]["state"] == "UNPROTECTED" and "nothing is closed until" in told[-1]["reason"]


def market_is_wrong(play: Play, **fields: object) -> None:
    play.do("quote", **{"symbol": simulator_of(play.broker).symbols[1], "bid": 249, "ask": 251, "last": 250} | fields)


def leave(position: Position) -> None:
    """By an exit, which the book fills again."""
    position.play.do("clear_faults")
    left(position, 10)
