"""Scenarios of options that are legs of one order at the broker: each leg has a record of its own, and all of them leave or none. Importing it enters
them into the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tests.faults.judgement import Placed
from tests.faults.scenarios import EVERYWHERE, Family, scenario
from tests.faults.stage import Play, Signal
from tests.waits import wait_until

COMBINING = ("ibkr",)
"""Brokers that take several options as one order; elsewhere each leg leaves by itself."""
UNITS = 3


def leg(strike: int, side: str, ratio: int = 1, *, right: str = "CALL", limit: str = "3") -> Mapping[str, Any]:
    """Of UNITS units."""
    named = {"instrument_type": "OPTION", "symbol": "SPY", "strike": strike, "right": right, "expiry": "20270115"}
    return {**named, "side": side, "quantity": ratio * UNITS, "limit_price": limit}


SPREAD = (leg(500, "BUY"), leg(510, "SELL", limit="1.25"))
BUTTERFLY = (leg(500, "BUY"), leg(510, "SELL", 2, limit="1.25"), leg(520, "BUY", limit="0.50"))
STRADDLE_SOLD = (leg(500, "SELL"), leg(500, "SELL", right="PUT"))


def resting(play: Play, *legs: Mapping[str, Any], **more: Any) -> Sequence[Signal]:
    """A combination that the broker holds and does not fill by itself."""
    signals = held(play, *legs, **more)
    play.send(*signals)
    until_all(play, signals, "SUBMITTED")
    return signals


def held(play: Play, *legs: Mapping[str, Any], **more: Any) -> Sequence[Signal]:
    """The same, not sent yet."""
    signals = combined(play, *legs, **more)
    play.fault("place", "hold", signals[0], times=len(signals))
    return signals


def combined(play: Play, *legs: Mapping[str, Any], **more: Any) -> Sequence[Signal]:
    """A combination that fills at once, not sent yet; judged as one order besides."""
    signals = play.combination(*(legs or SPREAD), **more)
    play.also_judged.append(partial(apart, play, signals))
    return signals


def until_all(play: Play, legs: Sequence[Signal], *statuses: str) -> None:
    for each in legs:
        play.until(each, *statuses)


def apart(play: Play, legs: Sequence[Signal]) -> list[str]:
    """What of its legs cannot be true of one order: that some are at the broker and some are not, or that they ended in different ways."""
    counts = {len(play.at_broker(each)) for each in legs}
    statuses = {str((play.record(each) or {}).get("status")) for each in legs}
    found = [] if len(counts) == 1 else [f"of one combination the legs are placed {sorted(counts)} times"]
    found += [f"the leg {each.order_id} left by itself" for each in legs[1:] if play.venue.of(each.client_order_id)]
    return found if len(statuses) == 1 else [*found, f"the legs of one combination are {sorted(statuses)}"]


@scenario(Family.COMBINATION, brokers=COMBINING, quick=True)
def combination_filled_unit_by_unit(play: Play) -> None:
    """A spread fills one unit after the other."""
    legs = resting(play)
    play.fill_units(legs, 1)
    until_all(play, legs, "PARTIALLY_FILLED")
    play.fill_units(legs, UNITS - 1)
    until_all(play, legs, "FILLED")


@scenario(Family.COMBINATION, brokers=COMBINING)
def combination_of_three_legs_and_two_ratios_filled(play: Play) -> None:
    """A butterfly, two of whose middle option belong to a unit, and two sold options of different rights."""
    for each in (BUTTERFLY, STRADDLE_SOLD):
        legs = resting(play, *each)
        play.fill_units(legs, 2)
        until_all(play, legs, "PARTIALLY_FILLED")
        play.fill_units(legs, UNITS - 2)
        until_all(play, legs, "FILLED")


@scenario(Family.COMBINATION, brokers=COMBINING)
def combination_left_leg_by_leg(play: Play) -> None:
    """A spread fills, and an exit of each leg takes it back."""
    legs = resting(play)
    play.fill_units(legs, UNITS)
    until_all(play, legs, "FILLED")
    for each in legs:
        side = "SELL" if each.body["side"] == "BUY" else "BUY"
        same = {name: each.body[name] for name in leg(0, side) if name not in ("side", "quantity")}
        leave = play.order(side, UNITS, signal_type="EXIT", entry_signal_id=each.signal_id, **same)
        play.send(leave)
        play.until(leave, "FILLED")


@scenario(Family.COMBINATION, brokers=COMBINING, quick=True)
def combination_part_filled_and_cancelled(play: Play) -> None:
    """One unit of three fills, and upstream cancels the whole by the name of its signal."""
    legs = resting(play)
    play.fill_units(legs, 1)
    until_all(play, legs, "PARTIALLY_FILLED")
    play.cancel(legs[0])
    until_all(play, legs, "CANCELLED")


@scenario(Family.COMBINATION, brokers=COMBINING)
def combination_part_filled_and_cancelled_by_the_exchange(play: Play) -> None:
    """Two units of three fill, and the exchange cancels the rest."""
    legs = resting(play)
    play.fill_units(legs, 2)
    play.to_all("cancel", legs)
    until_all(play, legs, "CANCELLED")


@scenario(Family.COMBINATION, brokers=COMBINING)
def part_of_a_combination_missed_then_cancelled(play: Play) -> None:
    """A unit of a butterfly fills while the lists do not show it, and the exchange cancels the rest."""
    legs = resting(play, *BUTTERFLY)
    play.fault("reports", "hide", legs[0], seconds=3.0)
    play.fill_units(legs, 1)
    play.to_all("cancel", legs)
    until_all(play, legs, "CANCELLED")


@scenario(Family.COMBINATION, brokers=COMBINING)
def combination_filled_after_its_cancel(play: Play) -> None:
    """Cancelled, and 2 s later filled all the same."""
    legs = resting(play)
    play.fault("cancel", "late_fill_after_cancel", legs[0], times=len(legs), seconds=2.0)
    play.cancel(legs[0])
    until_all(play, legs)
    wait_until(lambda: all(play.at_broker(each)[0]["fills"] for each in legs), "the late fills", within=20.0)


@scenario(Family.COMBINATION, brokers=COMBINING)
def combination_rejected(play: Play) -> None:
    """The exchange refuses the whole."""
    legs = combined(play)
    play.fault("place", "reject", legs[0], times=len(legs), reason="Insufficient margin")
    play.send(*legs)
    until_all(play, legs, "REJECTED")


@scenario(Family.COMBINATION, brokers=COMBINING, quick=True)
def acknowledgement_of_a_combination_lost(play: Play) -> None:
    """The whole arrives and rests, its acknowledgement is lost; then it fills unit by unit."""
    legs = _unanswered(play)
    play.fill_units(legs, 1)
    until_all(play, legs, "PARTIALLY_FILLED")
    play.fill_units(legs, UNITS - 1)


@scenario(Family.COMBINATION, brokers=COMBINING)
def acknowledgement_of_a_combination_lost_part_filled_and_cancelled(play: Play) -> None:
    """The acknowledgement is lost, one unit fills, and the exchange cancels the rest."""
    legs = _unanswered(play)
    play.fill_units(legs, 1)
    play.to_all("cancel", legs)


def _unanswered(play: Play) -> Sequence[Signal]:
    legs = held(play)
    play.fault("place", "accept_then_drop", legs[0])
    play.send(*legs)
    for each in legs:
        play.until_placed(each)
    return legs


@scenario(Family.COMBINATION, brokers=COMBINING, within=110.0)
def request_of_a_combination_lost(play: Play) -> None:
    """The request never reaches the broker: a combination is not sent again by itself, and all its legs are in doubt."""
    legs = held(play, expects=Placed.ONCE_OR_DOUBTED)
    play.fault("place", "drop_before_accept", legs[0])
    play.send(*legs)
    until_all(play, legs, "IN_DOUBT")


@scenario(Family.COMBINATION, brokers=COMBINING, within=60.0)
def combination_taken_late(play: Play) -> None:
    """The broker thinks for 4 s before it takes the whole."""
    legs = held(play)
    play.fault("place", "slow", legs[0], seconds=4.0, accepted=False)
    play.send(*legs)
    until_all(play, legs, "SUBMITTED")
    play.fill_units(legs, UNITS)


@scenario(Family.COMBINATION, brokers=COMBINING)
def executions_of_a_combination_annulled(play: Play) -> None:
    """A unit fills and is annulled in every leg; then all of it fills."""
    legs = resting(play)
    play.fill_units(legs, 1)
    until_all(play, legs, "PARTIALLY_FILLED")
    for each in legs:
        play.do("bust", fill_id=play.fill_ids(each)[0])
    for each in legs:
        play.until_event(each, "Busted")
    play.fill_units(legs, UNITS)
    until_all(play, legs, "FILLED")


@scenario(Family.COMBINATION, brokers=COMBINING, breaks_connections=True, alone=COMBINING, within=90.0)
def gateway_restarts_while_a_combination_works(play: Play) -> None:
    """A unit fills, the gateway is away for 3 s, and another fills while it is."""
    legs = resting(play)
    play.fill_units(legs, 1)
    until_all(play, legs, "PARTIALLY_FILLED")
    play.do("restart", closed_seconds=3.0)
    play.fill_units(legs, 1)
    play.pause(4.0)
    play.fill_units(legs, 1)
    until_all(play, legs, "FILLED")


@scenario(Family.COMBINATION, brokers=COMBINING, alone=EVERYWHERE, quick=True, within=90.0)
def killed_while_a_combination_works(play: Play) -> None:
    """A unit fills; the service is killed, another fills while it is away, and the rest is cancelled afterwards."""
    legs = resting(play)
    play.fill_units(legs, 1)
    until_all(play, legs, "PARTIALLY_FILLED")
    play.stage.service.kill()
    play.fill_units(legs, 1)
    play.stage.service.start()
    play.cancel(legs[0])
    until_all(play, legs, "CANCELLED")


@scenario(Family.COMBINATION, brokers=COMBINING, alone=EVERYWHERE, within=90.0)
def killed_before_a_combination_is_acknowledged(play: Play) -> None:
    """The broker has taken the whole, and the service is killed before it knows; meanwhile it fills."""
    legs = held(play)
    play.fault("place", "slow", legs[0], seconds=5.0, accepted=True)
    play.send(*legs)
    for each in legs:
        play.until_placed(each)
    play.stage.service.kill()
    play.fill_units(legs, UNITS)
    play.stage.service.start()
    until_all(play, legs, "FILLED")
