"""Scenarios of orders of which the market sees a part at a time, where the broker does that itself: one order with a field, or a row of legs one
after the other. Importing it enters them into the table."""

from __future__ import annotations

from typing import Any

from tests.faults.scenarios import EVERYWHERE, Family, once_where_ids_are_refused_twice, scenario
from tests.faults.stage import Play, Signal

SHOWING_PARTS = ("ibkr", "zerodha")
WHOLE, PART = 10, 4
"""At Zerodha 4, 4 and 2."""


def in_parts(play: Play, **more: Any) -> Signal:
    """Not sent yet; judged by what the market sees of it, too."""
    signal = play.order(quantity=WHOLE, display_quantity=PART, **more)

    def shown() -> list[str]:
        seen = {order["display_quantity"] for order in play.at_broker(signal)}
        return [f"the market is shown {sorted(map(str, seen))} of it"] if seen - {str(PART)} else []

    play.also_judged.append(shown)
    return signal


def held(play: Play) -> Signal:
    """The same, which the broker does not fill by itself."""
    signal = in_parts(play)
    play.fault("place", "hold", signal)
    return signal


def resting(play: Play) -> Signal:
    signal = held(play)
    play.send(signal)
    play.until(signal, "SUBMITTED")
    return signal


def filled_to(play: Play, signal: Signal, quantity: int) -> None:
    """So much more fills, and that is recorded; not all of it."""
    play.fill(signal, quantity)
    play.until_filled(signal, sum(int(float(fill["quantity"])) for fill in play.at_broker(signal)[0]["fills"]))


@scenario(Family.ICEBERG, brokers=SHOWING_PARTS, quick=True)
def shown_in_parts_and_filled_across_them(play: Play) -> None:
    """Each fill but the first goes on into the next part."""
    signal = resting(play)
    for quantity in (3, 3, 3):
        filled_to(play, signal, quantity)
    play.fill(signal)
    play.until(signal, "FILLED")


@scenario(Family.ICEBERG, brokers=SHOWING_PARTS)
def shown_in_parts_and_cancelled_in_the_midst_of_one(play: Play) -> None:
    """One part and a half fill, and upstream cancels the rest."""
    signal = resting(play)
    filled_to(play, signal, 6)
    play.cancel(signal)
    play.until(signal, "CANCELLED")


@scenario(Family.ICEBERG, brokers=SHOWING_PARTS, within=60.0)
def shown_in_parts_and_cancelled_between_two(play: Play) -> None:
    """Just one part fills, and upstream cancels the rest."""
    signal = resting(play)
    filled_to(play, signal, PART)
    play.cancel(signal)
    play.until(signal, "CANCELLED")


@scenario(Family.ICEBERG, brokers=SHOWING_PARTS)
def shown_in_parts_and_a_later_one_cancelled_by_the_exchange(play: Play) -> None:
    """One part and a half fill, and the exchange cancels what works: that ends the whole."""
    signal = resting(play)
    filled_to(play, signal, 6)
    play.do("cancel", order=signal.client_order_id)
    play.until(signal, "CANCELLED")


@scenario(Family.ICEBERG, brokers=SHOWING_PARTS)
def shown_in_parts_and_rejected(play: Play) -> None:
    """The exchange refuses the first part."""
    signal = in_parts(play)
    play.fault("place", "reject", signal, reason="Insufficient margin")
    play.send(signal)
    play.until(signal, "REJECTED")


@scenario(Family.ICEBERG, brokers=SHOWING_PARTS, quick=True, within=60.0)
def shown_in_parts_and_its_acknowledgement_lost(play: Play) -> None:
    """The order arrives and its acknowledgement is lost; by the time it is looked for the second part works."""
    signal = held(play)
    play.fault("place", "accept_then_drop", signal)
    play.send(signal)
    play.until_placed(signal)
    play.fill(signal, 6)
    play.until(signal, "PARTIALLY_FILLED")
    play.fill(signal)
    play.until(signal, "FILLED")


@scenario(Family.ICEBERG, brokers=SHOWING_PARTS, within=110.0)
def shown_in_parts_and_its_request_lost(play: Play) -> None:
    """The request never reaches the broker."""
    signal = in_parts(play, expects=once_where_ids_are_refused_twice(play))
    play.fault("place", "drop_before_accept", signal)
    play.send(signal)


@scenario(Family.ICEBERG, brokers=SHOWING_PARTS, within=60.0)
def shown_in_parts_and_its_cancels_lost(play: Play) -> None:
    """A part fills, and the answers to two cancels are lost: whatever was cancelled, it was this order."""
    signal = resting(play)
    filled_to(play, signal, 5)
    play.fault("cancel", "accept_then_drop", signal, times=2)
    play.cancel(signal)
    play.until(signal, "CANCELLED")


@scenario(Family.ICEBERG, brokers=SHOWING_PARTS, within=60.0)
def shown_in_parts_and_an_execution_annulled(play: Play) -> None:
    """The first part fills and is annulled when the second works, and the rest is cancelled: one is left."""
    signal = resting(play)
    filled_to(play, signal, PART)
    filled_to(play, signal, 1)
    play.do("bust", fill_id=play.fill_ids(signal)[0])
    play.until_event(signal, "Busted")
    play.cancel(signal)
    play.until(signal, "CANCELLED")


@scenario(Family.ICEBERG, brokers=SHOWING_PARTS, alone=EVERYWHERE, quick=True, within=90.0)
def shown_in_parts_and_killed_among_them(play: Play) -> None:
    """The first part fills; the service is killed, the second fills while it is away, and the third afterwards."""
    signal = resting(play)
    filled_to(play, signal, PART)
    play.stage.service.kill()
    play.fill(signal, PART)
    play.stage.service.start()
    play.until_filled(signal, 2 * PART)
    play.fill(signal)
    play.until(signal, "FILLED")


@scenario(Family.ICEBERG, brokers=SHOWING_PARTS, alone=EVERYWHERE, within=90.0)
def shown_in_parts_and_killed_before_it_is_acknowledged(play: Play) -> None:
    """The broker has taken the order, and the service is killed before it knows; meanwhile its second part works."""
    signal = held(play)
    play.fault("place", "slow", signal, seconds=5.0, accepted=True)
    play.send(signal)
    play.until_placed(signal)
    play.stage.service.kill()
    play.fill(signal, 5)
    play.stage.service.start()
    play.until_filled(signal, 5)
    play.cancel(signal)
    play.until(signal, "CANCELLED")
