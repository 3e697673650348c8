"""The table of what goes wrong: each scenario as steps on a stage; how it is judged is the same for all and stands elsewhere."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.error import HTTPError

from brokers.manifest import Fact
from brokers.registry import manifests
from simulators.catalogue import programs, simulator_of
from tests.external.service_process import PubSub
from tests.external.venues import GatewayVenue
from tests.faults.judgement import Placed
from tests.faults.stage import PRICE, Play, Signal, keeps_its_book, tells
from tests.waits import wait_until

GATEWAYS = "those with a program of their own"
EVERYWHERE = "all"
LISTED = tuple(name for name in programs() if simulator_of(name).apart)
"""Those that trade what is in a list, and so have one instrument for all that nothing else may touch."""
ENDED = ("FILLED", "REJECTED", "CANCELLED", "EXPIRED")


class Family(StrEnum):
    LOST = "lost answers"
    LATE = "late answers and fills"
    DOUBLED = "doubled"
    REORDERED = "reordered"
    PARTIAL = "partial fills"
    CANCEL = "cancels"
    QUERY = "queries that fail"
    CORRECTION = "overfills and corrections"
    REFUSAL = "refusals"
    EXPIRY = "time-outs and expiry"
    RESTART = "the broker restarts"
    SESSION = "session and limits"
    CLOCK = "the clock jumps"
    POSITION = "positions that change past us"
    PROTECTION = "protective orders"
    COMBINATION = "combinations"
    ICEBERG = "orders shown in parts"
    INTAKE = "what comes in"
    ODD = "odd values"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One thing that goes wrong."""

    name: str
    family: Family
    says: str
    steps: Callable[[Play], None]
    brokers: tuple[str, ...] = ()
    """Where it can be played, if it is about one broker's dialect; none: wherever the rest fits."""
    needs: frozenset[Fact] = frozenset()
    """What the broker must do."""
    breaks_connections: bool = False
    is_quick: bool = False
    """Belongs to the cut that every test run plays."""
    alone: tuple[str, ...] | str = ()
    """Brokers where it disturbs the whole gateway or process: nothing else is played meanwhile. They are named, or GATEWAYS or EVERYWHERE."""
    within_seconds: float = 45.0

    def is_for(self, broker: str) -> bool:
        return self.why_not(broker) is None

    def why_not(self, broker: str) -> str | None:
        """Why it is not played there; None: it is."""
        known = LEFT_OUT.get(broker, {}).get(self.name)
        if known is not None:
            return known
        if self.brokers and broker not in self.brokers:
            return f"it is about {' and '.join(self.brokers)}"
        missing = sorted(self.needs - manifests()[broker].facts)
        if missing:
            return f"not so there: {', '.join(missing)}"
        if self.breaks_connections and not simulator_of(broker).has_connections:
            return "there is no connection that could break"
        return None

    def is_alone(self, broker: str) -> bool:
        if self.alone == GATEWAYS:
            return not keeps_its_book(broker)
        return self.alone == EVERYWHERE or broker in self.alone


SCENARIOS: dict[str, Scenario] = {}
LEFT_OUT: Mapping[str, Mapping[str, str]] = {
    "simulated": {
        "late_commission": "a fill on historical bars has its commission from the first",
        "stop_refused_since_the_price_is_through_it": "a stop that the price has passed is taken, and filled at the next open",
    },
}
"""By broker and scenario: why what would fit is not played there."""


def scenario(
    family: Family,
    *,
    brokers: tuple[str, ...] = (),
    needs: Collection[Fact] = (),
    breaks_connections: bool = False,
    quick: bool = False,
    alone: tuple[str, ...] | str = (),
    within: float = 45.0,
) -> Callable[[Callable[[Play], None]], Callable[[Play], None]]:
    """Enters the steps into the table under their own name; their docstring says what happens."""

    def enter(steps: Callable[[Play], None]) -> Callable[[Play], None]:
        SCENARIOS[steps.__name__] = Scenario(
            name=steps.__name__,
            family=family,
            says=(steps.__doc__ or "").strip(),
            steps=steps,
            brokers=brokers,
            needs=frozenset(needs),
            breaks_connections=breaks_connections,
            is_quick=quick,
            alone=alone,
            within_seconds=within,
        )
        return steps

    return enter


def once_where_ids_are_refused_twice(play: Play) -> Placed:
    """A broker that would take the same order again: there a lost request ends in doubt."""
    return Placed.ONCE if tells(play.broker, Fact.REFUSES_REPEATED_IDS) else Placed.ONCE_OR_DOUBTED


def held_and_unanswered(play: Play) -> Signal:
    """An order that the broker holds, and whose acknowledgement is lost."""
    signal = play.order()
    play.fault("place", "hold", signal)
    play.fault("place", "accept_then_drop", signal)
    play.send(signal)
    play.until_placed(signal)
    return signal


def cancelled_in_trouble(play: Play, action: str, **how: Any) -> Signal:
    """A resting order whose cancel meets this fault."""
    signal = play.resting()
    play.fault("cancel", action, signal, **how)
    play.cancel(signal)
    return signal


def cancelled_in_vain(play: Play, action: str, *, seconds: float, **how: Any) -> None:
    """Every cancel meets this fault, so that the order works on; then it fills."""
    signal = cancelled_in_trouble(play, action, times=None, **how)
    play.until_event(signal, "CancelRequested")
    play.stays(signal, "SUBMITTED", seconds=seconds)
    play.fill(signal)


# --- lost answers ---------------------------------------------------------------------------------------------------


@scenario(Family.LOST, quick=True)
def acknowledgement_lost_and_filled(play: Play) -> None:
    """The order arrives and fills; its acknowledgement is lost."""
    signal = play.order()
    play.fault("place", "accept_then_drop", signal)
    play.send(signal)


@scenario(Family.LOST, quick=True)
def peer_s2_acknowledgement_lost_and_filled_later(play: Play) -> None:
    """The acknowledgement is lost, the order rests, and fills seconds later (a peer called it rejected)."""
    signal = held_and_unanswered(play)
    play.pause(3.0)
    play.fill(signal)


@scenario(Family.LOST, quick=True, within=110.0)
def request_lost(play: Play) -> None:
    """The request never reaches the broker, and nobody says so."""
    signal = play.order(expects=once_where_ids_are_refused_twice(play))
    play.fault("place", "drop_before_accept", signal)
    play.send(signal)


@scenario(Family.LOST, within=110.0)
def request_lost_twice(play: Play) -> None:
    """The request is lost, and so is its repetition where there is one."""
    signal = play.order(expects=once_where_ids_are_refused_twice(play))
    play.fault("place", "drop_before_accept", signal, times=2)
    play.send(signal)


@scenario(Family.LOST, within=110.0)
def placing_never_answered_and_taken(play: Play) -> None:
    """The broker takes the order and never answers."""
    signal = play.order()
    play.fault("place", "never_answer", signal, accepted=True)
    play.send(signal)


@scenario(Family.LOST, within=130.0)
def placing_never_answered_and_not_taken(play: Play) -> None:
    """The broker neither takes the order nor answers."""
    signal = play.order(expects=once_where_ids_are_refused_twice(play))
    play.fault("place", "never_answer", signal, accepted=False)
    play.send(signal)


@scenario(Family.LOST)
def acknowledgement_lost_and_rejected(play: Play) -> None:
    """The acknowledgement is lost, and the exchange rejects the order."""
    signal = play.order()
    play.fault("place", "reject", signal, reason="Insufficient margin")
    play.fault("place", "accept_then_drop", signal)
    play.send(signal)


@scenario(Family.LOST)
def acknowledgement_lost_and_cancelled_at_the_broker(play: Play) -> None:
    """The acknowledgement is lost, and a person cancels the order at the broker's own terminal."""
    signal = held_and_unanswered(play)
    play.do("cancel", order=signal.client_order_id)


@scenario(Family.LOST)
def acknowledgement_lost_and_cancel_wished(play: Play) -> None:
    """The acknowledgement is lost, and upstream asks for a cancel at once."""
    signal = held_and_unanswered(play)
    play.cancel(signal)
    play.until(signal)


@scenario(Family.LOST, quick=True)
def acknowledgement_lost_part_filled_then_cancelled(play: Play) -> None:
    """The acknowledgement is lost, 4 of 10 fill, and the exchange cancels the rest."""
    signal = held_and_unanswered(play)
    play.fill(signal, 4)
    play.do("cancel", order=signal.client_order_id)


@scenario(Family.LOST)
def answers_lost_to_six_orders_at_once(play: Play) -> None:
    """Six orders in one burst, each with its acknowledgement lost."""
    signals = [play.order(side) for side in ("BUY", "SELL", "BUY", "BUY", "SELL", "BUY")]
    for signal in signals:
        play.fault("place", "accept_then_drop", signal)
    play.send(*signals)


# --- late answers and fills -----------------------------------------------------------------------------------------


@scenario(Family.LATE)
def slow_acknowledgement_of_an_order_taken_at_once(play: Play) -> None:
    """The order is filled before its acknowledgement, which comes 4 s late."""
    signal = play.order()
    play.fault("place", "slow", signal, seconds=4.0, accepted=True)
    play.send(signal)


@scenario(Family.LATE, quick=True)
def slow_acknowledgement_of_an_order_taken_late(play: Play) -> None:
    """The broker thinks for 4 s before it takes the order."""
    signal = play.order()
    play.fault("place", "slow", signal, seconds=4.0, accepted=False)
    play.send(signal)


@scenario(Family.LATE, quick=True)
def late_fill_after_cancel(play: Play) -> None:
    """Cancelled, and 2 s later filled all the same."""
    signal = cancelled_in_trouble(play, "late_fill_after_cancel", seconds=2.0)
    play.until(signal)
    wait_until(lambda: play.at_broker(signal)[0]["fills"], "the late fill", within=20.0)


@scenario(Family.LATE)
def late_part_after_cancel(play: Play) -> None:
    """Cancelled, and later 3 of 10 fill all the same."""
    signal = cancelled_in_trouble(play, "late_fill_after_cancel", seconds=1.0, quantity="3")
    play.until(signal)
    wait_until(lambda: play.at_broker(signal)[0]["fills"], "the late fill", within=20.0)


@scenario(Family.LATE, quick=True)
def late_fill_after_rejection(play: Play) -> None:
    """Rejected by the exchange, and filled all the same."""
    signal = play.resting()
    play.do("reject", order=signal.client_order_id)
    play.until(signal, "REJECTED")
    play.fill(signal, 10, force=True)


@scenario(Family.LATE)
def late_part_after_rejection(play: Play) -> None:
    """Rejected by the exchange, and 4 of 10 filled all the same."""
    signal = play.resting()
    play.do("reject", order=signal.client_order_id)
    play.until(signal, "REJECTED")
    play.fill(signal, 4, force=True)


@scenario(Family.LATE, alone=EVERYWHERE)
def late_fill_after_expiry(play: Play) -> None:
    """Expired at the end of the day, and filled all the same."""
    signal = play.resting()
    play.do("expire_day")
    play.until(signal)
    play.fill(signal, 10, force=True)


@scenario(Family.LATE)
def late_fill_after_cancel_at_the_broker(play: Play) -> None:
    """Cancelled at the broker's terminal, and filled all the same."""
    signal = play.resting()
    play.do("cancel", order=signal.client_order_id)
    play.until(signal, "CANCELLED")
    play.fill(signal, 10, force=True)


@scenario(Family.LATE, needs={Fact.EXACT_COMMISSIONS})
def late_commission(play: Play) -> None:
    """The fill comes without its commission, which follows 2 s later."""
    signal = play.order()
    play.fault("place", "late_commission", signal, seconds=2.0)
    play.send(signal)


@scenario(Family.LATE)
def late_rejection(play: Play) -> None:
    """The exchange accepts, and rejects seconds later."""
    signal = play.resting()
    play.pause(1.0)
    play.do("reject", order=signal.client_order_id, reason="Circuit limit")


@scenario(Family.LATE)
def late_rejection_after_a_part(play: Play) -> None:
    """4 of 10 fill, and then the exchange rejects."""
    signal = play.resting()
    play.fill(signal, 4)
    play.until(signal, "PARTIALLY_FILLED")
    play.do("reject", order=signal.client_order_id, reason="Circuit limit")


# --- doubled --------------------------------------------------------------------------------------------------------


@scenario(Family.DOUBLED, quick=True)
def same_message_100_times_on_10_streams(play: Play) -> None:
    """The same message is published 100 times by 10 publishers at once."""
    signal = play.order()
    address = str(play.stage.service.endpoints()["pubsub_emulator_host"])

    def publish(_: int) -> None:
        with PubSub(address) as stream:
            stream.publish([signal.body] * 10)

    with ThreadPoolExecutor(10) as streams:
        list(streams.map(publish, range(10)))
    play.until(signal)


@scenario(Family.DOUBLED, quick=True)
def two_dialects_of_one_order(play: Play) -> None:
    """The same order in the specification's words and in upstream's."""
    signal = play.order()
    body = signal.body
    other = {
        "signal_id": body["signal_id"],
        "order_id": f"{body['signal_id']}_ORD",
        "instrument": body["symbol"],
        "instrument_type": "STOCK",
        "action": "BUY",
        "direction": "LONG",
        "account": body["account_id"],
        "strategy_id": body["strategy_name"],
        "order_type": "LIMIT",
        "price": body["limit_price"],
        "quantity": body["quantity"],
        "tif": "DAY",
    }
    play.stage.publish(body, other, body, other)
    play.until(signal)


@scenario(Family.DOUBLED)
def same_id_with_another_content(play: Play) -> None:
    """The same signal id comes again with another quantity: the first stands, the second is never placed."""
    signal = play.sent()
    play.until(signal)
    play.stage.publish({**signal.body, "quantity": 99})
    wait_until(
        lambda: play.stage.db["execution_dead_letters"].find_one({"reason": {"$regex": "DUPLICATE_CONFLICT"}}),
        "the conflict is kept",
    )


@scenario(Family.DOUBLED)
def message_again_after_the_end(play: Play) -> None:
    """The message comes again after its order was filled."""
    signal = play.sent()
    play.until(signal)
    play.send(signal)
    play.pause(1.5)


@scenario(Family.DOUBLED)
def message_again_while_in_flight(play: Play) -> None:
    """The message comes again while nobody knows yet whether the order arrived."""
    signal = play.order()
    play.fault("place", "slow", signal, seconds=2.0, accepted=True)
    play.send(signal)
    play.until_placed(signal)
    play.send(signal)


@scenario(Family.DOUBLED, alone=GATEWAYS)
def reports_doubled(play: Play) -> None:
    """Each line of each report comes twice."""
    play.fault("reports", "duplicate", times=20)
    signal = play.resting()
    play.fill(signal, 4)
    play.until(signal, "PARTIALLY_FILLED")
    play.fill(signal)


@scenario(Family.DOUBLED, brokers=("ibkr",), alone=("ibkr",))
def statuses_doubled_and_in_pieces(play: Play) -> None:
    """Each status is sent twice, and everything in pieces of 7 bytes."""
    play.do("repeat_statuses", on=True)
    play.do("chunks", size=7)
    signal = play.resting()
    play.fill(signal, 4)
    play.fill(signal)
    play.until(signal)
    play.do("repeat_statuses", on=False)
    play.do("chunks", size=None)


@scenario(Family.DOUBLED)
def cancel_asked_five_times(play: Play) -> None:
    """The same cancel comes five times."""
    signal = play.resting()
    for _ in range(5):
        play.cancel(signal)


# --- reordered ------------------------------------------------------------------------------------------------------


@scenario(Family.REORDERED, alone=GATEWAYS, quick=True)
def reports_reversed(play: Play) -> None:
    """The newest change is reported first."""
    play.fault("reports", "reorder", times=20)
    signals = [play.resting() for _ in range(3)]
    for signal in signals:
        play.fill(signal, 4, "100.10")
        play.fill(signal, None, "100.20")


@scenario(Family.REORDERED, quick=True)
def cancel_before_its_order(play: Play) -> None:
    """The cancel arrives before the order that it means."""
    signal = play.order(expects=Placed.ONCE_OR_REFUSED)
    play.cancel(signal)
    play.pause(0.5)
    play.send(signal)


@scenario(Family.REORDERED, quick=True)
def cancel_by_its_own_id_before_its_order_is_published(play: Play) -> None:
    """The cancel names the order by upstream's id, and its order is published after it: it never leaves."""
    signal = play.order(expects=Placed.NEVER)
    signal.body["order_id"] = f"{signal.signal_id}_ORD"
    play.cancel(signal, by="order_id")
    play.pause(0.5)
    play.send(signal)


@scenario(Family.REORDERED)
def cancel_and_order_at_once(play: Play) -> None:
    """Order and cancel are published at the same moment."""
    signal = play.order(expects=Placed.ONCE_OR_REFUSED)
    play.fault("place", "hold", signal)
    play.send(signal)
    play.cancel(signal)
    play.until(signal)


@scenario(Family.REORDERED, quick=True)
def exit_before_its_entry(play: Play) -> None:
    """The exit comes 1 s before the entry that it closes."""
    entry = play.order()
    leave = play.order("SELL", 6, signal_type="EXIT", entry_signal_id=entry.signal_id)
    play.send(leave)
    play.pause(1.0)
    play.send(entry)


@scenario(Family.REORDERED)
def exit_of_an_entry_that_fills_late(play: Play) -> None:
    """The exit waits for its entry, of which only 4 of 10 fill: it takes no more."""
    entry = play.resting()
    leave = play.order("SELL", 10, signal_type="EXIT", entry_signal_id=entry.signal_id)
    play.send(leave)
    play.fill(entry, 4)
    play.pause(1.0)
    play.do("cancel", order=entry.client_order_id)


# --- partial fills --------------------------------------------------------------------------------------------------


@scenario(Family.PARTIAL, quick=True)
def peer_s1_partial_fill_missed_then_cancelled(play: Play) -> None:
    """4 of 10 fill unseen, then the order is cancelled, and only then it is shown again (a peer lost the fill)."""
    signal = play.resting()
    play.fault("reports", "hide", signal, seconds=3.0)
    play.fill(signal, 4)
    play.do("cancel", order=signal.client_order_id)


@scenario(Family.PARTIAL)
def parts_at_different_prices(play: Play) -> None:
    """Three fills at three prices."""
    signal = play.resting()
    for quantity, price in ((1, "100.05"), (2, "100.10"), (7, "100.25")):
        play.fill(signal, quantity, price)


@scenario(Family.PARTIAL)
def ten_parts_one_by_one(play: Play) -> None:
    """Ten fills of one, a moment apart."""
    signal = play.resting()
    for _ in range(10):
        play.fill(signal, 1)
        play.pause(0.1)


@scenario(Family.PARTIAL, quick=True)
def part_filled_and_cancel_asked(play: Play) -> None:
    """4 of 10 fill, then upstream cancels."""
    signal = play.resting()
    play.fill(signal, 4)
    play.until(signal, "PARTIALLY_FILLED")
    play.cancel(signal)


@scenario(Family.PARTIAL)
def part_filled_in_the_moment_of_the_cancel(play: Play) -> None:
    """4 of 10 fill in the same moment in which upstream cancels."""
    signal = play.resting()
    play.cancel(signal)
    with contextlib.suppress(ValueError, HTTPError):  # the cancel was faster: the book says which it was
        play.fill(signal, 4)


@scenario(Family.PARTIAL)
def part_filled_and_timed_out(play: Play) -> None:
    """3 of 10 fill, and the order's time is over."""
    signal = play.order(tif=None, timeout_seconds=4)
    play.fault("place", "hold", signal)
    play.send(signal)
    play.until(signal, "SUBMITTED")
    play.fill(signal, 3)
    play.until(signal)


@scenario(Family.PARTIAL, alone=EVERYWHERE)
def part_filled_and_expired(play: Play) -> None:
    """3 of 10 fill, and the day ends."""
    signal = play.resting()
    play.fill(signal, 3)
    play.do("expire_day")


# --- cancels --------------------------------------------------------------------------------------------------------


@scenario(Family.CANCEL, quick=True, within=70.0)
def peer_s3_cancel_never_answered(play: Play) -> None:
    """A cancel is never answered and the order lives on (a peer called it cancelled); later it fills."""
    cancelled_in_vain(play, "never_answer", accepted=False, seconds=6.0)


@scenario(Family.CANCEL)
def cancel_answer_lost(play: Play) -> None:
    """The cancel is carried out and its answer is lost."""
    cancelled_in_trouble(play, "accept_then_drop")


@scenario(Family.CANCEL)
def cancel_request_lost(play: Play) -> None:
    """The cancel never reaches the broker: it is asked again."""
    signal = cancelled_in_trouble(play, "drop_before_accept")
    play.until(signal)


@scenario(Family.CANCEL)
def cancel_heard_and_ignored(play: Play) -> None:
    """The broker hears the cancel and does nothing: it is asked again."""
    signal = cancelled_in_trouble(play, "ignore_cancel")
    play.until(signal)


@scenario(Family.CANCEL)
def cancel_ignored_for_ever_then_filled(play: Play) -> None:
    """The broker ignores every cancel, and the order fills."""
    cancelled_in_vain(play, "ignore_cancel", seconds=4.0)


@scenario(Family.CANCEL, quick=True)
def cancel_loses_the_race(play: Play) -> None:
    """The order is filled in place of being cancelled."""
    cancelled_in_trouble(play, "cancel_race")


@scenario(Family.CANCEL)
def cancel_refused(play: Play) -> None:
    """The broker refuses the cancel; then the order fills."""
    cancelled_in_vain(play, "refuse", reason="Cannot be cancelled now", seconds=1.0)


@scenario(Family.CANCEL)
def cancel_slow(play: Play) -> None:
    """The answer to the cancel takes 4 s."""
    cancelled_in_trouble(play, "slow", seconds=4.0)


@scenario(Family.CANCEL)
def cancel_while_unavailable(play: Play) -> None:
    """The broker is not to be had for the first two cancels."""
    signal = cancelled_in_trouble(play, "unavailable", times=2)
    play.until(signal)


@scenario(Family.CANCEL)
def cancel_of_a_finished_order(play: Play) -> None:
    """The cancel comes after the fill."""
    signal = play.sent()
    play.until(signal)
    play.cancel(signal)
    play.pause(1.0)


@scenario(Family.CANCEL)
def cancel_of_an_order_whose_arrival_is_not_known(play: Play) -> None:
    """The cancel comes while the placing is not answered."""
    signal = play.order()
    play.fault("place", "hold", signal)
    play.fault("place", "slow", signal, seconds=3.0, accepted=True)
    play.send(signal)
    play.until_placed(signal)
    play.cancel(signal)
    play.until(signal)


@scenario(Family.CANCEL)
def cancelled_at_the_brokers_terminal(play: Play) -> None:
    """A person cancels at the broker's own terminal."""
    signal = play.resting()
    play.do("cancel", order=signal.client_order_id)


# --- queries that fail ----------------------------------------------------------------------------------------------


@scenario(Family.QUERY, quick=True, alone=GATEWAYS, within=70.0)
def peer_s4_working_order_missing_and_the_query_fails(play: Play) -> None:
    """A working order is missing from the list and the question for it fails (a peer called it rejected)."""
    signal = play.resting()
    play.fault("reports", "hide", signal, seconds=5.0)
    play.fault("find", "unavailable", times=5)
    play.stays(signal, "SUBMITTED", seconds=6.0)
    play.fill(signal)


@scenario(Family.QUERY, alone=GATEWAYS, quick=True)
def status_query_fails(play: Play) -> None:
    """Three questions for the reports fail while the order fills."""
    signal = play.resting()
    play.fault("reports", "unavailable", times=3)
    play.fill(signal)


@scenario(Family.QUERY, alone=GATEWAYS, within=110.0)
def status_query_never_answered(play: Play) -> None:
    """A question for the reports is never answered while the order fills."""
    signal = play.resting()
    play.fault("reports", "never_answer")
    play.fill(signal)


@scenario(Family.QUERY, alone=GATEWAYS)
def status_query_slow(play: Play) -> None:
    """The next two answers take 3 s each."""
    signal = play.resting()
    play.fault("reports", "slow", seconds=3.0, times=2)
    play.fill(signal)


@scenario(Family.QUERY, quick=True)
def order_absent_from_the_list(play: Play) -> None:
    """A filled order is not in the list for 3 s."""
    signal = play.resting()
    play.fault("reports", "hide", signal, seconds=3.0)
    play.fill(signal)


@scenario(Family.QUERY, within=110.0)
def acknowledgement_lost_and_order_absent(play: Play) -> None:
    """The acknowledgement is lost, and for 2 s the broker shows no such order though it has it."""
    signal = play.order()
    play.fault("place", "accept_then_drop", signal)
    play.fault("reports", "hide", signal, seconds=2.0)
    play.fault("find", "hide", signal, seconds=2.0)
    play.send(signal)


@scenario(Family.QUERY, alone=GATEWAYS, within=110.0)
def acknowledgement_lost_and_queries_fail(play: Play) -> None:
    """The acknowledgement is lost, and the questions for the order fail, too."""
    signal = play.order()
    play.fault("place", "accept_then_drop", signal)
    play.fault("find", "unavailable", times=3)
    play.fault("reports", "unavailable", times=3)
    play.send(signal)


# --- overfills and corrections --------------------------------------------------------------------------------------


@scenario(Family.CORRECTION, quick=True)
def overfill(play: Play) -> None:
    """The broker fills 13 of 10."""
    signal = play.order()
    play.fault("place", "overfill", signal, quantity="3")
    play.send(signal)


@scenario(Family.CORRECTION)
def overfill_after_the_end(play: Play) -> None:
    """Filled, told, and then 5 more."""
    signal = play.sent()
    play.until(signal, "FILLED")
    play.fill(signal, 5, force=True)


@scenario(Family.CORRECTION, needs={Fact.ANNULS}, quick=True)
def price_corrected(play: Play) -> None:
    """The exchange corrects the price of an execution."""
    signal = play.sent()
    play.until(signal, "FILLED")
    play.do("correct", fill_id=play.fill_ids(signal)[0], price="99.50")


@scenario(Family.CORRECTION, needs={Fact.ANNULS})
def quantity_corrected(play: Play) -> None:
    """The exchange corrects the quantity of one of two executions."""
    signal = play.resting()
    play.fill(signal, 6)
    play.until(signal, "PARTIALLY_FILLED")
    play.do("correct", fill_id=play.fill_ids(signal)[0], quantity="5")
    play.pause(1.0)
    play.fill(signal)


@scenario(Family.CORRECTION, needs={Fact.ANNULS})
def one_of_two_executions_annulled(play: Play) -> None:
    """One of two executions of a working order is annulled, then the rest fills."""
    signal = play.resting()
    play.fill(signal, 3)
    play.fill(signal, 4)
    play.until(signal, "PARTIALLY_FILLED")
    play.do("bust", fill_id=play.fill_ids(signal)[0])
    play.pause(1.0)
    play.fill(signal)


@scenario(Family.CORRECTION, needs={Fact.ANNULS})
def annulled_after_cancel(play: Play) -> None:
    """4 of 10 filled, cancelled, and then the execution is annulled."""
    signal = play.resting()
    play.fill(signal, 4)
    play.until(signal, "PARTIALLY_FILLED")
    play.do("cancel", order=signal.client_order_id)
    play.until(signal, "CANCELLED")
    play.do("bust", fill_id=play.fill_ids(signal)[0])


@scenario(Family.CORRECTION, needs={Fact.EXACT_COMMISSIONS, Fact.LATE_COMMISSIONS})
def commission_changed(play: Play) -> None:
    """The commission of an execution changes afterwards."""
    signal = play.sent()
    play.until(signal, "FILLED")
    play.do("commission", fill_id=play.fill_ids(signal)[0], commission="2.35")


# --- refusals -------------------------------------------------------------------------------------------------------


@scenario(Family.REFUSAL, quick=True)
def refused_in_the_answer(play: Play) -> None:
    """The broker's answer is a no."""
    signal = play.order(expects=Placed.ONCE_OR_REFUSED)
    play.fault("place", "refuse", signal, reason="Insufficient margin")
    play.send(signal)
    play.until(signal, "REJECTED")


@scenario(Family.REFUSAL)
def rejected_by_the_exchange(play: Play) -> None:
    """The broker takes the order and the exchange rejects it."""
    signal = play.order()
    play.fault("place", "reject", signal, reason="Price outside of the permitted range")
    play.send(signal)


@scenario(Family.REFUSAL)
def refused_and_sent_again_by_upstream(play: Play) -> None:
    """A refused order's message comes again: it is not placed; a new signal is."""
    signal = play.order(expects=Placed.ONCE_OR_REFUSED)
    play.fault("place", "refuse", signal, reason="Insufficient margin")
    play.send(signal)
    play.until(signal, "REJECTED")
    play.send(signal, play.order())


@scenario(Family.REFUSAL)
def exit_of_a_rejected_entry(play: Play) -> None:
    """The entry is rejected: its exit has nothing to close."""
    entry = play.order()
    play.fault("place", "reject", entry)
    leave = play.order("SELL", 10, expects=Placed.NEVER, signal_type="EXIT", entry_signal_id=entry.signal_id)
    play.send(entry, leave)


def _answered_with_words(play: Play, signal: Signal, code: int, **fields: Any) -> None:
    play.do("answer_with_words", code=code, text="Said of it", client_order_id=signal.client_order_id, **fields)


@scenario(Family.REFUSAL, brokers=("ibkr",), quick=True)
def answered_by_words_alone(play: Play) -> None:
    """An error of a code that stands in no list, and nothing else: refused in those words. What is behind it leaves."""
    signal, behind = play.order(expects=Placed.ONCE_OR_REFUSED), play.order()
    _answered_with_words(play, signal, 31999)
    play.send(signal, behind)
    play.until(signal, "REJECTED")


@scenario(Family.REFUSAL, brokers=("ibkr",))
def words_first_and_taken_after_a_second(play: Play) -> None:
    """An error of a code that stands in no list, and the order is acknowledged and fills after it."""
    signal = play.order()
    _answered_with_words(play, signal, 31999, taken_after=1.0)
    play.send(signal)


@scenario(Family.REFUSAL)
def unavailable_for_a_while(play: Play) -> None:
    """The broker says three times that it cannot take the order now."""
    signal = play.order(expects=once_where_ids_are_refused_twice(play))
    play.fault("place", "unavailable", signal, times=3)
    play.send(signal)


# --- time-outs and expiry -------------------------------------------------------------------------------------------


@scenario(Family.EXPIRY, quick=True)
def not_filled_in_time(play: Play) -> None:
    """Nothing fills within the order's 2 s."""
    signal = play.order(tif=None, timeout_seconds=2)
    play.fault("place", "hold", signal)
    play.send(signal)
    play.until(signal)


@scenario(Family.EXPIRY)
def filled_in_the_moment_of_the_timeout(play: Play) -> None:
    """The cancel for the time-out finds the order filled."""
    signal = play.order(tif=None, timeout_seconds=2)
    play.fault("place", "hold", signal)
    play.fault("cancel", "cancel_race", signal)
    play.send(signal)
    play.until(signal)


@scenario(Family.EXPIRY, alone=EVERYWHERE)
def the_day_ends(play: Play) -> None:
    """A resting order expires with the day."""
    play.resting()
    play.do("expire_day")


@scenario(Family.EXPIRY, alone=EVERYWHERE)
def acknowledgement_lost_and_the_day_ends(play: Play) -> None:
    """The acknowledgement is lost, and the order expires."""
    held_and_unanswered(play)
    play.do("expire_day")


@scenario(Family.EXPIRY, brokers=("ibkr",), alone=("ibkr",))
def held_for_the_opening_and_filled_at_it(play: Play) -> None:
    """The market is closed: an order waits past its 2 s, the connection breaks meanwhile, and it fills at the opening."""
    play.do("close_market", until="2099-11-30 09:30:00 US/Eastern")
    signal = play.order(order_type="MARKET", limit_price=None, tif=None, timeout_seconds=2)
    play.send(signal)
    play.until_event(signal, "Held")
    play.do("drop")
    play.stays(signal, "SUBMITTED", seconds=6.0)
    play.do("open_market")


@scenario(Family.EXPIRY, brokers=("ibkr",), alone=("ibkr",))
def held_for_the_opening_and_not_filled_after_it(play: Play) -> None:
    """An order that waited for the opening rests after it, and its 2 s count from there."""
    play.do("close_market", until="2099-11-30 09:30:00 US/Eastern")
    signal = play.order(tif=None, timeout_seconds=2)
    play.send(signal)
    play.until_event(signal, "Held")
    play.stays(signal, "SUBMITTED", seconds=5.0)
    play.do("open_market")
    play.until_event(signal, "Released")
    play.until(signal, "CANCELLED")


@scenario(Family.CANCEL, brokers=("ibkr",), alone=("ibkr",))
def cancel_of_a_held_order_is_answered_at_the_opening(play: Play) -> None:
    """What waits for the opening is to be cancelled, and nothing is answered before the market opens."""
    play.do("close_market", until="2099-11-30 09:30:00 US/Eastern")
    play.do("ignore_cancels")
    signal = play.order()
    play.send(signal)
    play.until_event(signal, "Held")
    play.cancel(signal)
    play.until_event(signal, "CancelRequested")
    play.stays(signal, "SUBMITTED", seconds=5.0)
    play.do("ignore_cancels", on=False)
    play.do("open_market")
    play.until(signal, "CANCELLED")


@scenario(Family.EXPIRY, brokers=("zerodha",), alone=("zerodha",))
def after_market_order_over_the_night(play: Play) -> None:
    """An after-market order of 2 s: the lists are emptied and come back with the order under the same id, and it fills."""
    signal = play.order(tif=None, timeout_seconds=2, variety="amo")
    play.send(signal)
    play.until_event(signal, "Held")
    play.do("new_day")
    play.stays(signal, "SUBMITTED", seconds=6.0)
    play.do("pass_on_amo")
    play.fill(signal)


@scenario(Family.CANCEL, brokers=("zerodha",), alone=("zerodha",))
def line_down_while_orders_time_out(play: Play) -> None:
    """The line to the exchange is down: cancels are refused until it is back."""
    play.do("line_down")
    signals = [play.order(tif=None, timeout_seconds=2) for _ in range(3)]
    play.send(*signals)
    for signal in signals:
        play.until_event(signal, "CancelRefused")
    play.pause(3.0)
    play.do("line_down", on=False)
    for signal in signals:
        play.until(signal, "CANCELLED")


# --- the broker restarts --------------------------------------------------------------------------------------------


@scenario(Family.RESTART, breaks_connections=True, alone=GATEWAYS, within=90.0)
def gateway_closed_for_3_s_while_an_order_fills(play: Play) -> None:
    """Every connection breaks, for 3 s none can be made; meanwhile a resting order fills and another one is sent."""
    signal = play.resting()
    play.do("restart", closed_seconds=3.0)
    play.sent(side="SELL", expects=once_where_ids_are_refused_twice(play))
    play.pause(3.5)
    play.fill(signal)


@scenario(Family.RESTART, breaks_connections=True, alone=GATEWAYS, within=90.0)
def connections_dropped_five_times(play: Play) -> None:
    """Every connection breaks, five times, while orders come in."""
    for _ in range(5):
        play.sent(expects=once_where_ids_are_refused_twice(play))
        with contextlib.suppress(OSError):  # the answer to this very wish may be dropped, too
            play.do("drop")
        play.pause(0.5)


@scenario(Family.RESTART, breaks_connections=True, alone=GATEWAYS, within=120.0)
def gateway_killed_and_started_again(play: Play) -> None:
    """kill -9 of the gateway with one order resting and three on their way."""
    assert isinstance(play.venue, GatewayVenue)
    resting = play.resting()
    play.venue.server.kill()
    for side in ("BUY", "SELL", "BUY"):
        play.sent(side=side, expects=once_where_ids_are_refused_twice(play))
    play.pause(1.0)
    play.venue.server.start()
    play.fill(resting)


@scenario(Family.RESTART, brokers=("ibkr",), alone=("ibkr",), within=90.0)
def link_lost_and_restored_without_its_data(play: Play) -> None:
    """The gateway loses its servers (1100), an order fills unseen, the link comes back without its data (1101)."""
    signal = play.resting()
    play.do("lose_link")
    play.fill(signal)
    play.pause(1.0)
    play.do("restore_link", data_kept=False)


@scenario(Family.RESTART, brokers=("ibkr",), alone=("ibkr",), within=90.0)
def link_lost_and_restored_with_its_data(play: Play) -> None:
    """The same, and the gateway says that its data are kept (1102)."""
    signal = play.resting()
    play.do("lose_link")
    play.fill(signal, 4)
    play.pause(1.0)
    play.do("restore_link", data_kept=True)
    play.fill(signal)


@scenario(Family.RESTART, brokers=("ibkr",))
def shown_inactive_and_alive(play: Play) -> None:
    """An order is shown as Inactive while shares are located, and then fills."""
    signal = play.resting()
    play.do("hold_inactive", order=signal.client_order_id)
    play.stays(signal, "SUBMITTED", seconds=2.0)
    play.do("hold_inactive", order=signal.client_order_id, held=False)
    play.fill(signal)


@scenario(Family.RESTART, brokers=("ibkr",))
def error_on_an_order_that_lives(play: Play) -> None:
    """A warning with an order's number (399) ends nothing."""
    signal = play.resting()
    play.do("say", order=signal.client_order_id, code=399, text="Order Message: held until the open")
    play.stays(signal, "SUBMITTED", seconds=2.0)
    play.fill(signal)


# --- session and limits ---------------------------------------------------------------------------------------------


@scenario(Family.SESSION, brokers=("zerodha",), alone=("zerodha",), quick=True, within=90.0)
def token_dies_and_is_renewed(play: Play) -> None:
    """The token dies with an order resting; it fills, another one comes, and then there is a new token."""
    resting = play.resting()
    play.do("kill_token")
    play.fill(resting)
    play.sent(side="SELL")
    play.pause(2.0)
    token = play.do("new_token")["access_token"]
    (play.stage.folder / "access_token").write_text(str(token))


def _http_fault(play: Play, kind: str, **fields: object) -> None:
    play.do("http_fault", fault={"kind": kind, **fields})
    play.sent(expects=Placed.ONCE_OR_DOUBTED)


@scenario(Family.SESSION, brokers=("zerodha",), alone=("zerodha",), within=90.0)
def too_many_calls(play: Play) -> None:
    """The next two placings are answered with 429."""
    play.do("http_fault", fault={"kind": "rate_limited", "times": 2})
    play.sent()


@scenario(Family.SESSION, brokers=("zerodha",), alone=("zerodha",), within=90.0)
def server_error_of_a_placed_order(play: Play) -> None:
    """500 is answered to an order that was taken."""
    _http_fault(play, "server_error", accepted=True)


@scenario(Family.SESSION, brokers=("zerodha",), alone=("zerodha",), within=110.0)
def server_error_of_an_order_not_taken(play: Play) -> None:
    """500 is answered to an order that was not taken."""
    _http_fault(play, "server_error")


@scenario(Family.SESSION, brokers=("zerodha",), alone=("zerodha",), within=90.0)
def proxy_page_in_place_of_an_answer(play: Play) -> None:
    """A page of HTML is answered to an order that was taken."""
    _http_fault(play, "html", accepted=True)


@scenario(Family.SESSION, brokers=("zerodha",), alone=("zerodha",), within=90.0)
def check_the_order_book(play: Play) -> None:
    """400, "check the order book", is answered to an order that is taken half a second later."""
    _http_fault(play, "check_order_book", accepted=True, late_seconds=0.5)


@scenario(Family.SESSION, brokers=("zerodha",), alone=("zerodha",), within=110.0)
def answer_trickles_without_end(play: Play) -> None:
    """The answer comes a byte at a time without end."""
    _http_fault(play, "trickle", accepted=True)


@scenario(Family.SESSION, brokers=("zerodha",), alone=("zerodha",))
def feed_cut_and_silent(play: Play) -> None:
    """The order feed is cut off, then silent: the polls tell what happened."""
    play.do("mute_feed", muted=True)
    play.do("drop_feed")
    signal = play.resting()
    play.fill(signal)
    play.until(signal, "FILLED")
    play.do("mute_feed", muted=False)


# --- the clock ------------------------------------------------------------------------------------------------------


def _clock(play: Play, seconds: float) -> None:
    (play.stage.folder / "clock").write_text(str(seconds))


@scenario(Family.CLOCK, alone=EVERYWHERE)
def clock_jumps_two_hours_ahead(play: Play) -> None:
    """The wall clock jumps two hours ahead with an order resting that has a minute: nothing expires."""
    signal = play.order(tif=None, timeout_seconds=60)
    play.fault("place", "hold", signal)
    play.send(signal)
    play.until(signal, "SUBMITTED")
    try:
        _clock(play, 7200)
        play.stays(signal, "SUBMITTED", seconds=3.0)
        play.fill(signal)
        play.until(signal, "FILLED")
    finally:
        _clock(play, 0)


@scenario(Family.CLOCK, alone=EVERYWHERE)
def clock_jumps_two_hours_back(play: Play) -> None:
    """The wall clock jumps two hours back between an order and its fill; the time-out still holds."""
    signal = play.order(tif=None, timeout_seconds=4)
    play.fault("place", "hold", signal)
    play.send(signal)
    play.until(signal, "SUBMITTED")
    try:
        _clock(play, -7200)
        play.fill(signal, 4)
        play.until(signal, within=30.0)
    finally:
        _clock(play, 0)


# --- positions that change past us ----------------------------------------------------------------------------------


def held_apart(play: Play) -> tuple[Signal, dict[str, Any]]:
    """10, filled, of something that nothing else of the stage trades; and what names that."""
    own = dict(simulator_of(play.broker).apart) or {"symbol": f"H{uuid.uuid4().hex[:7].upper()}"}
    entry = play.sent(**own)
    play.until(entry, "FILLED")
    return entry, own


def until_it_differs(play: Play, symbol: str) -> None:
    named = {"account_id": play.lane.account_id, "state": "OPEN", "finding.instrument": {"$regex": f"^{symbol}"}}
    wait_until(
        lambda: play.stage.db["execution_discrepancies"].count_documents(named),
        "the position differs",
        within=120.0,
        pause=0.2,
    )


@scenario(Family.POSITION, alone=LISTED, within=90.0)
def sold_by_hand_and_then_its_exit(play: Play) -> None:
    """Somebody sells past us all that was bought, and people are told: the exit then opens no short."""
    entry, own = held_apart(play)
    play.do("trade_by_hand", instrument=own["symbol"], quantity=-10, product=own.get("product"))
    until_it_differs(play, own["symbol"])
    play.send(play.order("SELL", 10, expects=Placed.NEVER, signal_type="EXIT", entry_signal_id=entry.signal_id, **own))


@scenario(Family.POSITION, alone=LISTED, within=90.0)
def part_gone_without_a_trade_and_then_its_exit(play: Play) -> None:
    """4 of 10 leave the account without an order: the exit takes the 6 that are there."""
    entry, own = held_apart(play)
    play.do("move", instrument=own["symbol"], quantity=-4, product=own.get("product"))
    until_it_differs(play, own["symbol"])
    leave = play.order("SELL", 10, signal_type="EXIT", entry_signal_id=entry.signal_id, **own)
    play.send(leave)
    play.until(leave, "FILLED")
    (placed,) = play.at_broker(leave)
    assert placed["quantity"] == "6", placed


# --- what comes in --------------------------------------------------------------------------------------------------


@scenario(Family.INTAKE, quick=True, within=60.0)
def a_thousand_poison_messages_among_good_ones(play: Play) -> None:
    """A thousand messages that are no orders, with five good ones among them."""
    good = [play.order(side) for side in ("BUY", "SELL", "BUY", "SELL", "BUY")]
    poison = [
        b" ",
        b"\xff\xfe",
        b"[]",
        b"{",
        b"null",
        b'{"signal_id": ""}',
        b'"text"',
        b"NaN",
        b'{"signal_id": {}}',
        b"0",
    ]
    payloads = poison * 100
    for index, signal in enumerate(good):
        payloads.insert(index * 200 + 100, json.dumps(signal.body).encode())
    play.stage.publish_raw(payloads)


@scenario(Family.INTAKE)
def an_order_that_cannot_be_executed(play: Play) -> None:
    """Quantity and price make no sense: refused, and told, and never placed."""
    play.sent(expects=Placed.NEVER, quantity=-5, limit_price="NaN")


@scenario(Family.INTAKE)
def an_account_that_is_not_there(play: Play) -> None:
    """The account is not configured: refused, and told, and never placed."""
    play.sent(expects=Placed.NEVER, account_id="nobody")


@scenario(Family.INTAKE)
def an_order_type_that_the_broker_lacks(play: Play) -> None:
    """A time in force that does not exist: refused, and told, and never placed."""
    play.sent(expects=Placed.NEVER, tif="FOREVER")


@scenario(Family.INTAKE)
def a_round_trip_in_three_instruments(play: Play) -> None:
    """Nothing goes wrong: entries and exits in three instruments, and the positions are flat again."""
    for symbol in simulator_of(play.broker).symbols:
        entry = play.sent(symbol=symbol)
        play.until(entry, "FILLED")
        leave = play.order("SELL", 10, symbol=symbol, signal_type="EXIT", entry_signal_id=entry.signal_id)
        play.send(leave)
        play.until(leave, "FILLED")


# --- odd values -----------------------------------------------------------------------------------------------------

ODD_AT = ("ibkr", "zerodha")
_EXECUTION, _EXECUTED_QUANTITY = 11, 19
_OPEN_ORDER, _ORDERED_QUANTITY = 5, 14
_TRADE_TIMES = ("fill_timestamp", "exchange_timestamp", "order_timestamp")


def _spoil(play: Play, signal: Signal, *, ibkr: tuple[int, int], zerodha: tuple[str, dict[str, Any]]) -> None:
    """The gateway's rows of this order are odd from now on: a field of a message, or fields of a list's row."""
    tag = signal.client_order_id
    if play.broker == "ibkr":
        play.do("garble", message=ibkr[0], field=ibkr[1], named=tag)
    else:
        play.do("show_oddly", route=zerodha[0], order=tag, fields=zerodha[1])


def _mend(play: Play) -> None:
    play.do("garble" if play.broker == "ibkr" else "clear_faults")


@scenario(Family.ODD, brokers=ODD_AT, alone=GATEWAYS, quick=True)
def odd_times_of_executions(play: Play) -> None:
    """The time of an execution is in a zone that nobody knows, or none at all: it is a fill all the same."""
    signal = play.resting()
    if play.broker == "ibkr":
        play.do("write_times", form="%Y%m%d %H:%M:%S XYZ", order=signal.client_order_id)
    else:
        _spoil(play, signal, ibkr=(0, 0), zerodha=("GET /trades", dict.fromkeys(_TRADE_TIMES, "0001-01-01 00:00:00")))
    play.fill(signal, 4)
    play.until(signal, "PARTIALLY_FILLED")
    play.fill(signal)
    play.until(signal, "FILLED")


@scenario(Family.ODD, brokers=ODD_AT, alone=GATEWAYS, within=60.0)
def odd_execution_of_one_order(play: Play) -> None:
    """One order's execution cannot be read for a while: another order is placed and filled meanwhile, and then this one is."""
    signal = play.resting()
    _spoil(
        play, signal, ibkr=(_EXECUTION, _EXECUTED_QUANTITY), zerodha=("GET /trades", {"quantity": "ten", "price": None})
    )
    play.fill(signal)
    play.until(play.sent(), "FILLED")
    play.stays(signal, "SUBMITTED", seconds=3.0)
    _mend(play)
    play.until(signal, "FILLED")


@scenario(Family.ODD, brokers=ODD_AT, alone=GATEWAYS, within=60.0)
def odd_row_of_one_order(play: Play) -> None:
    """One order's row cannot be read: another order is placed and filled meanwhile, and this one can be cancelled."""
    signal = play.resting()
    _spoil(
        play,
        signal,
        ibkr=(_OPEN_ORDER, _ORDERED_QUANTITY),
        zerodha=("GET /orders", {"filled_quantity": "none", "order_timestamp": 5}),
    )
    play.until(play.sent(), "FILLED")
    play.cancel(signal)
    if play.broker == "zerodha":
        play.stays(signal, "SUBMITTED", seconds=2.0)
        _mend(play)
    play.until(signal, "CANCELLED")
    if play.broker == "ibkr":
        _mend(play)


# --- Alpaca's own ---------------------------------------------------------------------------------------------------


@scenario(Family.LOST, brokers=("alpaca",), alone=("alpaca",), quick=True)
def gateway_time_out_of_a_placed_order(play: Play) -> None:
    """The order arrives; what comes back is a page of the gateway's that says 504."""
    play.do("http_fault", fault={"kind": "html", "route": "POST /v2/orders", "status": 504, "accepted": True})
    play.sent()


@scenario(Family.LOST, brokers=("alpaca",), alone=("alpaca",), within=90.0)
def moved_elsewhere_and_not_taken(play: Play) -> None:
    """A redirection comes back and nothing else, which the client library takes for a success."""
    play.do("http_fault", fault={"kind": "moved", "route": "POST /v2/orders"})
    play.sent()


@scenario(Family.LOST, brokers=("alpaca",), alone=("alpaca",), within=90.0)
def arrives_after_its_time_out(play: Play) -> None:
    """No answer but a page that says 504, and the order arrives 3 s later."""
    fault = {"kind": "html", "route": "POST /v2/orders", "status": 504, "accepted": True, "late_seconds": 3.0}
    play.do("http_fault", fault=fault)
    play.sent()


@scenario(Family.SESSION, brokers=("alpaca",), alone=("alpaca",), within=90.0)
def keys_are_barred_and_accepted_again(play: Play) -> None:
    """The keys are not accepted while an order fills and another one is sent; then they are again."""
    signal = play.resting()
    play.do("kill_keys")
    waits = play.sent()
    play.fill(signal)
    play.pause(2.0)
    play.do("new_keys")
    play.until(waits)


@scenario(Family.SESSION, brokers=("alpaca",), alone=("alpaca",))
def the_minute_is_spent(play: Play) -> None:
    """Two placements are answered with 429: nothing was sent, and they leave later."""
    play.do("http_fault", fault={"kind": "rate_limited", "route": "POST /v2/orders", "times": 2})
    for _ in range(3):
        play.sent()


@scenario(Family.PARTIAL, brokers=("alpaca",), alone=("alpaca",), quick=True)
def executions_are_listed_seconds_later(play: Play) -> None:
    """The order counts what no activity shows yet."""
    play.do("lag", fills=3.0)
    signal = play.resting()
    play.fill(signal, 4)
    play.fill(signal)
    play.until(signal)
    play.do("lag", fills=0.0)


@scenario(Family.LATE, brokers=("alpaca",), alone=("alpaca",))
def new_orders_are_listed_seconds_later(play: Play) -> None:
    """The list shows an order 3 s after its acknowledgement was lost."""
    play.do("lag", orders=3.0)
    signal = held_and_unanswered(play)
    play.pause(1.0)
    play.fill(signal)
    play.until(signal)
    play.do("lag", orders=0.0)


# --- Binance's own --------------------------------------------------------------------------------------------------

BINANCE_ORDER = "POST /fapi/v1/order"


def _binance_error(play: Play, status: int, code: int | None, text: str, **more: object) -> None:
    play.do(
        "http_fault",
        fault={"kind": "error", "route": BINANCE_ORDER, "status": status, "code": code, "text": text, **more},
    )


@scenario(Family.LOST, brokers=("binance",), alone=("binance",), quick=True)
def unknown_error_of_a_placed_order(play: Play) -> None:
    """The order arrives; the answer is the one of the three kinds of 503 that says nothing."""
    _binance_error(play, 503, None, "Unknown error, please check your request or try again later.", accepted=True)
    play.sent()


@scenario(Family.SESSION, brokers=("binance",), alone=("binance",))
def an_overload_that_says_it_carried_nothing_out(play: Play) -> None:
    """Two placings are answered with the 503 that says that they failed: they leave later."""
    _binance_error(play, 503, -1008, "Request throttled by system-level protection.", times=2)
    for _ in range(3):
        play.sent()


@scenario(Family.SESSION, brokers=("binance",), alone=("binance",), within=90.0)
def shut_out_for_calling_too_often(play: Play) -> None:
    """One placing is answered with 418: every call pauses, and it leaves when the address is let in again."""
    _binance_error(play, 418, -1003, "Way too many requests; IP banned.", retry_after=3)
    play.sent()


@scenario(Family.SESSION, brokers=("binance",), alone=("binance",))
def the_venues_clock_jumps(play: Play) -> None:
    """The venue's clock is a minute ahead from now on: the order is sent once more with its time, and arrives once."""
    play.do("clock_ahead", seconds=60.0)
    play.until(play.sent(), "FILLED")
    play.do("clock_ahead", seconds=0.0)


@scenario(Family.SESSION, brokers=("binance",), alone=("binance",), within=90.0)
def a_person_changes_the_position_mode_and_changes_it_back(play: Play) -> None:
    """The account keeps long and short positions apart for a while: nothing is sent meanwhile."""
    resting = play.resting()
    play.do("hedge_mode", on=True)
    waits = play.sent()
    play.fill(resting)
    play.pause(2.0)
    play.do("hedge_mode", on=False)
    play.until(waits)


@scenario(Family.PARTIAL, brokers=("binance",), alone=("binance",))
def a_stop_becomes_an_order_under_another_id(play: Play) -> None:
    """What a conditional order becomes bears another client id, and not the type that tells where it comes from."""
    signal = play.resting(order_type="STOP", limit_price=None, stop_price=PRICE)
    for route in ("GET /fapi/v1/allOrders", "GET /fapi/v1/order", "GET /fapi/v1/openOrders"):
        fields = {"clientOrderId": "web_child", "origType": "MARKET"}
        play.do("show_oddly", route=route, order=signal.client_order_id, fields=fields)
    play.fill(signal, 4)
    play.until(signal, "PARTIALLY_FILLED")
    play.fill(signal)
    play.until(signal, "FILLED")


@scenario(Family.POSITION, brokers=("binance",), alone=("binance",), within=60.0)
def an_exit_that_somebody_elses_order_would_take_first(play: Play) -> None:
    """A person's order to close all of the position rests: the exit is refused, waits, and leaves when that order is gone."""
    entry, own = held_apart(play)
    resting = play.do("rest_by_hand", symbol=own["symbol"], quantity=-10, price="120")["order_id"]
    leave = play.order("SELL", 10, signal_type="EXIT", entry_signal_id=entry.signal_id, **own)
    play.send(leave)
    play.pause(3.0)
    assert not play.at_broker(leave)
    play.do("cancel", order=resting)
    play.until(leave, "FILLED")


@scenario(Family.SESSION, brokers=("binance",), alone=("binance",))
def the_key_of_the_stream_expires(play: Play) -> None:
    """The stream's key expires while an order fills, and another is sent."""
    signal = play.resting()
    play.do("expire_listen_key")
    play.fill(signal)
    play.until(play.sent(), "FILLED")
    play.until(signal, "FILLED")
