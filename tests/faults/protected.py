"""Scenarios of protected entries, at each broker that takes their stops, and how they are judged: by the broker's own book, while they last and at
their end. Importing it enters them into the table."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from execution_service.core.orders.protective import Protective, ProtectiveRole
from execution_service.core.orders.request import Identity, Purpose
from simulators.catalogue import simulator_of
from tests.faults.judgement import Evidence, Placed, disagreements, true_fills
from tests.faults.scenarios import EVERYWHERE, LISTED, Family, scenario
from tests.faults.stage import LOOK_SECONDS, Play, Signal
from tests.waits import wait_until

ZERO = Decimal(0)
STOP, TARGET, CLOSE = ProtectiveRole.STOP, ProtectiveRole.TARGET, ProtectiveRole.CLOSE
STOP_PRICE, TARGET_PRICE = "90.25", "120.25"
LOWER_STOP_PRICE = "80.25"
LINKING = ("mock", "ibkr", "simulated")
"""Brokers where stop and target rest together."""
TELLING_TRIGGERS = ("zerodha", "binance")
"""Brokers that say that a stop was triggered, and rests in the book as what it became."""
STOP_PASSED = {
    "mock": "The price is through the stop already",
    "zerodha": "Trigger price for stoploss sell orders should be lower than the last traded price",
    "binance": "Order would immediately trigger.",
    "alpaca": "stop price must be less than base_price - 0.01",
}
"""How each refuses a stop that the price is through; Interactive Brokers takes it and sells at once."""
SPLITTING = ("mock", "ibkr", "alpaca")
"""Brokers where stops in shares rest for longer than a day, so that a split may meet one."""
OF_A_LIST = (*LISTED, "alpaca")
"""Where nothing can be traded that is not listed: an instrument is used by one play after the other."""
UNCOVERED_SECONDS = 25.0
"""A turn of the monitor (two seconds on this stage), what the broker takes for a cancel and an order, and a machine that does other things too."""


def tag_of(entry: Signal, role: ProtectiveRole, piece: int = 1) -> str:
    """The client order id that this protective order of the entry has, or will have."""
    order_id = Identity(signal_id=entry.signal_id, purpose=Purpose.ENTRY).order_id
    name = Protective(entry_order_id=order_id, role=role, piece=piece).signal_id
    return Identity(signal_id=name, purpose=Purpose.EXIT).client_order_id(1)


@dataclass(slots=True)
class Position:
    """One protected entry of a play, with all that closes it, as the broker's book has it."""

    play: Play
    own: Mapping[str, Any]
    """What names its instrument."""
    signals: list[Signal] = field(default_factory=list)
    by_hand: Decimal = ZERO
    """What a person has bought there past us, or sold: below 0."""
    may_be_uncovered: bool = False
    may_exceed: bool = False
    """The venue has executed what was over: exits may exceed what is held until they are cancelled."""
    is_served: bool = True
    """The service lives: nobody else can cover what has filled meanwhile."""
    uncovered_since: float | None = None
    longest_uncovered: float = 0.0
    wrong: list[str] = field(default_factory=list)
    """What must not be even for a moment."""

    @property
    def entry(self) -> Signal:
        return self.signals[0]

    @property
    def prefix(self) -> str:
        order_id = Identity(signal_id=self.entry.signal_id, purpose=Purpose.ENTRY).order_id
        return f"protect-{order_id.removeprefix('ord_')}-"

    def records(self) -> list[dict[str, Any]]:
        """Of its protective orders."""
        named = {"signal_id": {"$regex": f"^{self.prefix}"}}
        return list(self.play.stage.db["execution_orders"].find(named).sort("received_at", 1))

    def at_broker(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The broker's orders of it: ours by name, and protective ones."""
        tags = {signal.client_order_id for signal in self.signals}
        protective = {
            tag_of(self.entry, role, piece): role for role in (STOP, TARGET, CLOSE) for piece in range(1, MOST_PIECES)
        }
        book = self.play.venue.orders()
        mine = [order for order in book if order["client_order_id"] in tags]
        theirs = [
            {**order, "role": protective[order["client_order_id"]]}
            for order in book
            if order["client_order_id"] in protective
        ]
        return mine, theirs

    def held(self, orders: Sequence[Mapping[str, Any]]) -> Decimal:
        """What is left of it at the broker."""
        signed = [(1 if o["side"] == "BUY" else -1, f) for o in orders for f in true_fills(o)]
        return sum((sign * Decimal(fill["quantity"]) for sign, fill in signed), ZERO) + self.by_hand

    def look(self) -> None:
        """What must hold at every moment."""
        mine, theirs = self.at_broker()
        held = self.held([*mine, *theirs])
        stops = _open([o for o in theirs if o["role"] is not TARGET])
        targets = _open([o for o in theirs if o["role"] is TARGET])
        exits = _open([o for o in mine if o["side"] == "SELL"])
        if max(stops, targets) + exits > max(ZERO, held) and not (self.by_hand or self.may_exceed):
            self.wrong.append(f"exits of {max(stops, targets) + exits} work at the broker, and {held} is held")
        if held - exits > stops and self.is_served:
            self.uncovered_since = self.uncovered_since or time.monotonic()
            self.longest_uncovered = max(self.longest_uncovered, time.monotonic() - self.uncovered_since)
        else:
            self.uncovered_since = None

    def disagreements(self) -> list[str]:
        """What is wrong with it now, or has been."""
        mine, theirs = self.at_broker()
        held = self.held([*mine, *theirs])
        stops = _open([o for o in theirs if o["role"] is not TARGET])
        exits = _open([o for o in mine if o["side"] == "SELL"])
        found = self.wrong[:3]
        if self.longest_uncovered > UNCOVERED_SECONDS and not self.may_be_uncovered:
            found.append(f"for {self.longest_uncovered:.0f} s stops did not cover what was held")
        if stops != max(ZERO, held - exits):
            found.append(f"stops of {stops} at the broker, {held} is held, and exits of {exits} work")
        if held <= 0 and any(_open([order]) for order in theirs):
            found.append("a protective order has outlived its position")
        record = self.play.record(self.entry) or {}
        state = next((e["state"] for e in reversed(record.get("events", ())) if "state" in e), None)
        if not held and state != "CLOSED":
            found.append(f"nothing is held, and its protection is {state}")
        if held > 0 and stops == held and state not in ("PROTECTED", "WATCHED"):
            found.append(f"stops cover it, and its protection is {state}")
        return found + self._of_protective(theirs)

    def _of_protective(self, theirs: Sequence[Mapping[str, Any]]) -> list[str]:
        found = []
        views = self.play.stage.db["execution_confirmations"]
        told = self.play.stage.told({str(record["signal_id"]) for record in self.records()})
        for record in self.records():
            tag = str(record["client_order_id"])
            placed = [order for order in theirs if order["client_order_id"] == tag]
            evidence = Evidence(
                broker=self.play.broker,
                expects=Placed.ONCE if placed else Placed.ONCE_OR_REFUSED,
                record=record,
                view=views.find_one({"client_order_id": tag}),
                placed=placed,
                told=[each for each in told if each.body["client_order_id"] == tag],
            )
            found += [f"{record['signal_id']}: {each}" for each in disagreements(evidence)]
        return found


MOST_PIECES = 8
"""More than any of these plays comes to."""


def _open(orders: Sequence[Mapping[str, Any]]) -> Decimal:
    left = [Decimal(o["quantity"]) - Decimal(o["filled_quantity"]) for o in orders if o["status"] == "WORKING"]
    return sum(left, ZERO)


@contextlib.contextmanager
def _looked_at(position: Position) -> Iterator[None]:
    """All the while, beside the play."""
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(LOOK_SECONDS * 2):
            with contextlib.suppress(OSError):  # a gateway that is being restarted
                position.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(10)


@contextlib.contextmanager
def while_dead(position: Position) -> Iterator[None]:
    """From a kill -9 until the service is ready again."""
    position.is_served = False
    position.play.stage.service.kill()
    yield
    position.play.stage.service.start()
    position.is_served = True


def entered(play: Play, filled: int | None = 10, **more: Any) -> Position:
    """An entry of 10 with a stop, of which so much has filled, and of something that nothing else of the stage trades unless it is told."""
    simulator = simulator_of(play.broker)
    is_of_list = simulator.apart or play.broker in OF_A_LIST
    named = simulator.symbols[1] if is_of_list else f"P{uuid.uuid4().hex[:7].upper()}"
    entry = play.order(**{"symbol": named, "stop_loss": STOP_PRICE} | more)
    position = Position(play, {"symbol": str(entry.body["symbol"])}, [entry])
    play.also_judged.append(position.disagreements)
    play.while_it_lasts(_looked_at(position))
    if filled == 10:
        play.send(entry)
        play.until(entry, "FILLED")
    else:
        play.fault("place", "hold", entry)
        play.send(entry)
        play.until(entry, "SUBMITTED")
        if filled:
            play.fill(entry, filled)
            play.until(entry, "PARTIALLY_FILLED")
    return position


def until_stops_are(position: Position, quantity: int, *, within: float = 40.0) -> None:
    def are() -> bool:
        _, theirs = position.at_broker()
        return _open([o for o in theirs if o["role"] is STOP]) == quantity

    wait_until(
        are, f"stops of {quantity} work at the broker", within=within, pause=LOOK_SECONDS, more=lambda: _said(position)
    )
    position.play.pause(0.0)


def _said(position: Position) -> str:
    """What became of each protective order, for people."""
    ends = [(r["status"], r["events"][-1].get("reason") or r["events"][-1].get("message")) for r in position.records()]
    return str(ends)


def left(position: Position, quantity: int) -> Signal:
    """An exit of so much that names the entry; filled."""
    play = position.play
    leave = play.order("SELL", quantity, signal_type="EXIT", entry_signal_id=position.entry.signal_id, **position.own)
    position.signals.append(leave)
    play.send(leave)
    play.until(leave, "FILLED")
    return leave


def working(position: Position, role: ProtectiveRole) -> str:
    """The broker's order of this role that works there."""
    _, theirs = position.at_broker()
    return next(str(o["client_order_id"]) for o in theirs if o["role"] is role and o["status"] == "WORKING")


# --- the scenarios --------------------------------------------------------------------------------------------------


@scenario(Family.PROTECTION, alone=OF_A_LIST, quick=True, within=60.0)
def protected_in_parts_and_left_in_parts(play: Play) -> None:
    """4 of 10 fill, then 6; an exit takes 4, another the rest: stops follow each."""
    position = entered(play, 4)
    until_stops_are(position, 4)
    play.fill(position.entry)
    play.until(position.entry, "FILLED")
    until_stops_are(position, 10)
    left(position, 4)
    until_stops_are(position, 6)
    left(position, 6)


@scenario(Family.PROTECTION, alone=OF_A_LIST, quick=True, within=90.0)
def late_fill_under_a_working_exit(play: Play) -> None:
    """The stop makes way for an exit of 5 that rests, and fills its 10 after its confirmed cancel: the exit is cancelled before it opens a short."""
    position = entered(play)
    until_stops_are(position, 10)
    stop = working(position, STOP)
    leave = play.order("SELL", 5, signal_type="EXIT", entry_signal_id=position.entry.signal_id, **position.own)
    position.signals.append(leave)
    play.fault("place", "hold", leave)
    play.send(leave)
    play.until(leave, "SUBMITTED")
    until_stops_are(position, 5)
    position.may_exceed = position.may_be_uncovered = True
    play.do("fill", order=stop, quantity=10, price=STOP_PRICE, force=True)
    play.until(leave, "CANCELLED")
    reason = (play.record(leave) or {})["events"][-1]["reason"]["code"]
    assert reason == "REDUCE_ONLY", reason


@scenario(Family.PROTECTION, alone=EVERYWHERE, within=90.0)
def part_filled_and_the_service_is_killed(play: Play) -> None:
    """4 of 10 fill; the service is killed, and the rest fills while it is away."""
    position = entered(play, 4)
    until_stops_are(position, 4)
    with while_dead(position):
        play.fill(position.entry)
    until_stops_are(position, 10)
    left(position, 10)


@scenario(Family.PROTECTION, alone=EVERYWHERE, within=90.0)
def killed_between_placing_the_stop_and_recording_it(play: Play) -> None:
    """The broker has taken the stop, and the service dies before it knows: there is never a second one."""
    position = entered(play, 0)
    play.venue.fault("place", "slow", client_order_id=tag_of(position.entry, STOP), seconds=5.0, accepted=True)
    play.fill(position.entry)
    until_stops_are(position, 10)
    with while_dead(position):
        pass
    play.pause(4.0)
    left(position, 10)


@scenario(Family.PROTECTION, alone=OF_A_LIST, within=90.0)
def acknowledgement_of_the_stop_lost(play: Play) -> None:
    """The broker takes the stop, and its answer is lost: it is found, and is the only one."""
    position = entered(play, 0)
    play.venue.fault("place", "accept_then_drop", client_order_id=tag_of(position.entry, STOP))
    play.fill(position.entry)
    until_stops_are(position, 10)
    play.pause(3.0)
    left(position, 10)


@scenario(Family.PROTECTION, brokers=tuple(STOP_PASSED), alone=OF_A_LIST, quick=True, within=60.0)
def stop_refused_since_the_price_is_through_it(play: Play) -> None:
    """The stop is refused in the broker's words for that: the position is closed at the market, once."""
    position = entered(play, 0)
    play.venue.fault("place", "refuse", client_order_id=tag_of(position.entry, STOP), reason=STOP_PASSED[play.broker])
    play.fill(position.entry)
    wait_until(
        lambda: [r["status"] for r in position.records()] == ["REJECTED", "FILLED"],
        "it is closed",
        within=40.0,
        more=lambda: str([(r["signal_id"], r["status"]) for r in position.records()]),
    )


@scenario(Family.PROTECTION, alone=OF_A_LIST, within=60.0)
def stop_refused_for_another_reason(play: Play) -> None:
    """The stop is refused, for no reason of the price: it is tried again, and people are told meanwhile."""
    position = entered(play, 0)
    play.venue.fault(
        "place", "refuse", client_order_id=tag_of(position.entry, STOP), reason="Not allowed at this moment"
    )
    play.fill(position.entry)
    until_stops_are(position, 10)
    left(position, 10)


@scenario(Family.PROTECTION, alone=OF_A_LIST, quick=True, within=60.0)
def stop_fills(play: Play) -> None:
    """The stop is executed in two parts: it closes the position, and nothing is left."""
    position = entered(play)
    until_stops_are(position, 10)
    tag = working(position, STOP)
    play.do("fill", order=tag, quantity=3, price=STOP_PRICE)
    until_stops_are(position, 7)
    play.do("fill", order=tag, price=STOP_PRICE)


@scenario(Family.PROTECTION, brokers=TELLING_TRIGGERS, alone=OF_A_LIST, within=90.0)
def stop_triggered_and_left_unfilled(play: Play) -> None:
    """The stop is triggered, 3 of 10 fill, and the rest stays in the book: it is taken back, and closed at the market once."""
    position = entered(play)
    until_stops_are(position, 10)
    play.do("fill", order=working(position, STOP), quantity=3, price=STOP_PRICE)
    wait_until(
        lambda: [r["status"] for r in position.records()] == ["CANCELLED", "FILLED"],
        "the rest is closed at the market",
        within=60.0,
        more=lambda: _said(position),
    )


@scenario(Family.PROTECTION, alone=OF_A_LIST, within=60.0)
def entry_cancelled_after_a_part_has_filled(play: Play) -> None:
    """4 of 10 fill, and the rest is cancelled: the 4 keep their stop."""
    position = entered(play, 4)
    until_stops_are(position, 4)
    play.cancel(position.entry)
    play.until(position.entry, "CANCELLED")
    until_stops_are(position, 4)
    left(position, 4)


@scenario(Family.PROTECTION, brokers=LINKING, within=60.0)
def stop_fills_while_the_target_works(play: Play) -> None:
    """The stop is executed beside a target that rests: the broker takes that off, and nothing sells twice."""
    position = entered(play, take_profit=TARGET_PRICE)
    wait_until(lambda: _has(position, TARGET), "the target rests", within=40.0)
    play.do("fill", order=working(position, STOP), price=STOP_PRICE)


@scenario(Family.PROTECTION, brokers=LINKING, within=60.0)
def target_fills_in_part_and_the_stop_follows(play: Play) -> None:
    """4 of 10 leave by the target: the stop is for the other 6, and an exit takes those."""
    position = entered(play, take_profit=TARGET_PRICE)
    wait_until(lambda: _has(position, TARGET), "the target rests", within=40.0)
    play.do("fill", order=working(position, TARGET), quantity=4, price=TARGET_PRICE)
    until_stops_are(position, 6)
    left(position, 6)


def _has(position: Position, role: ProtectiveRole) -> bool:
    _, theirs = position.at_broker()
    return any(o["role"] is role and o["status"] == "WORKING" for o in theirs)


@scenario(Family.PROTECTION, alone=OF_A_LIST, within=90.0)
def traded_by_hand_at_the_broker(play: Play) -> None:
    """A person sells 4 of 10 in the broker's own screen, and buys them back later: the stop shrinks, and grows."""
    position = entered(play)
    until_stops_are(position, 10)
    position.by_hand = Decimal(-4)
    play.do("trade_by_hand", instrument=position.own["symbol"], quantity=-4, product=position.entry.body.get("product"))
    until_stops_are(position, 6, within=60.0)
    position.by_hand = ZERO
    play.do("trade_by_hand", instrument=position.own["symbol"], quantity=4, product=position.entry.body.get("product"))
    until_stops_are(position, 10, within=60.0)
    left(position, 10)


@scenario(Family.PROTECTION, brokers=SPLITTING, alone=OF_A_LIST, within=90.0)
def shares_are_merged_and_split_while_a_stop_rests(play: Play) -> None:
    """Without an execution 10 shares become 5, and the stop shrinks; they are 10 again, and it grows; they become 20, and it is for ours."""
    position = entered(play)
    until_stops_are(position, 10)
    for change, quantity in ((-5, 5), (5, 10)):
        position.by_hand += change
        _moved(position, change)
        until_stops_are(position, quantity, within=60.0)
    _moved(position, 10)
    play.pause(8.0)  # several turns of the monitor
    until_stops_are(position, 10, within=2.0)
    _moved(position, -10)
    left(position, 10)


def _moved(position: Position, quantity: int) -> None:
    """So many shares come without an execution, or go: below 0."""
    play, product = position.play, position.entry.body.get("product")
    play.do("move", instrument=position.own["symbol"], quantity=quantity, product=product)


def beside(play: Play) -> Play:
    """Another strategy of the same account, judged with the first."""
    other = Play(play.stage, play.lane, "beside")
    play.also_judged.append(other.judge)
    play.while_it_lasts(_ending(other))
    return other


@contextlib.contextmanager
def _ending(other: Play) -> Iterator[None]:
    try:
        yield
    finally:
        other.end()


@scenario(Family.PROTECTION, alone=OF_A_LIST, quick=True, within=90.0)
def two_strategies_hold_one_instrument_and_one_leaves(play: Play) -> None:
    """Each has a stop of its own at a price of its own. One leaves in two exits: the stop of the other stays, and closes its position alone."""
    first, second = _two_strategies(play)
    left(first, 4)
    until_stops_are(first, 6)
    assert working(second, STOP) == tag_of(second.entry, STOP), "the other's stop is touched by nobody"
    left(first, 6)
    until_stops_are(first, 0)
    until_stops_are(second, 10)
    assert working(second, STOP) == tag_of(second.entry, STOP), "the other's stop is touched by nobody"
    play.do("fill", order=working(second, STOP), price=LOWER_STOP_PRICE)


@scenario(Family.PROTECTION, alone=EVERYWHERE, within=120.0)
def two_strategies_hold_one_instrument_and_a_stop_fills_while_the_service_is_dead(play: Play) -> None:
    """The stop of one fills while the service is away, and the other leaves in part when it is back: neither takes the other's shares."""
    first, second = _two_strategies(play)
    second.is_served = False
    with while_dead(first):
        play.do("fill", order=working(first, STOP), price=STOP_PRICE)
    second.is_served = True
    left(second, 4)
    until_stops_are(second, 6)
    left(second, 6)


def _two_strategies(play: Play) -> tuple[Position, Position]:
    first = entered(play)
    until_stops_are(first, 10)
    second = entered(beside(play), symbol=first.own["symbol"], stop_loss=LOWER_STOP_PRICE)
    until_stops_are(second, 10)
    return first, second


@scenario(Family.PROTECTION, alone=OF_A_LIST, within=60.0)
def stop_cancelled_at_the_broker(play: Play) -> None:
    """A person cancels the stop in the broker's own screen: it is placed again."""
    position = entered(play)
    until_stops_are(position, 10)
    play.do("cancel", order=working(position, STOP))
    until_stops_are(position, 0)
    until_stops_are(position, 10)
    left(position, 10)


@scenario(Family.PROTECTION, brokers=("zerodha",), alone=EVERYWHERE, within=150.0)
def day_ends_and_the_stop_with_it(play: Play) -> None:
    """The stop was one of the day: when that has ended it is placed again a minute later, or as its market opens, as people are told."""
    position = entered(play)
    until_stops_are(position, 10)
    position.may_be_uncovered = True
    play.do("expire_day")

    def is_seen_to() -> bool:
        told = [e for e in (play.record(position.entry) or {})["events"] if e["type"] == "ProtectionChanged"]
        is_of_night = "protected again at the opening" in str(told[-1].get("reason")) if told else False
        return is_of_night or _has(position, STOP)

    until_stops_are(position, 0)
    wait_until(is_seen_to, "the stop is placed again, or waits for the opening", within=100.0)
    left(position, 10)


@scenario(Family.PROTECTION, alone=OF_A_LIST, within=90.0)
def cancel_of_the_stop_fails_while_it_makes_way(play: Play) -> None:
    """The broker does not answer the cancels for a while: the exit waits, and leaves when the stop has ended."""
    position = entered(play)
    until_stops_are(position, 10)
    play.venue.fault("cancel", "unavailable", client_order_id=working(position, STOP), times=2)
    left(position, 4)
    until_stops_are(position, 6)
    left(position, 6)


@scenario(Family.PROTECTION, alone=OF_A_LIST, within=90.0)
def stop_fills_instead_of_making_way(play: Play) -> None:
    """An exit asks the stop to make way, and the stop is filled instead: the exit has nothing to sell."""
    position = entered(play)
    until_stops_are(position, 10)
    play.venue.fault("cancel", "cancel_race", client_order_id=working(position, STOP))
    leave = play.order(
        "SELL", 10, signal_type="EXIT", entry_signal_id=position.entry.signal_id, expects=Placed.NEVER, **position.own
    )
    position.signals.append(leave)
    play.send(leave)
    play.until(leave, "REJECTED")
