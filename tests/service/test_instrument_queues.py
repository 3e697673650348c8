"""Who of an account's orders leaves next: the queues by themselves, with a hand-moved clock and orders that nobody sends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from execution_service.core.orders.events import Event
from execution_service.core.orders.order import apply_all
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.sending import Sending, Tries
from execution_service.core.orders.waiting import WaitingReason
from execution_service.recording.live_orders import LiveOrder
from execution_service.storage.ports.orders import Told
from execution_service.trading.instrument_queues import InstrumentQueues
from execution_service.trading.timers import Timers
from tests.builders import accepted, identity, instrument, nothing_sent, order, rejected, submit_started
from tests.fakes import HandClock


class Bench:
    """The queues of one account, and which of its orders are isolated."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.isolated: set[LiveOrder] = set()
        self.timers: Timers[LiveOrder] = Timers(self.clock)
        isolation: Any = self
        self.queues = InstrumentQueues(timers=self.timers, isolation=isolation, clock=self.clock)

    def holds(self, live: LiveOrder) -> bool:
        return live in self.isolated

    def failed(self, live: LiveOrder, why: BaseException, *, doing: str) -> None:
        raise AssertionError(doing) from why

    def new(
        self, name: str, symbol: str = "AAPL", *, entry: str | None = None, events: Iterable[Event] = ()
    ) -> LiveOrder:
        purpose = Purpose.ENTRY if entry is None else Purpose.EXIT
        refs = () if entry is None else (entry,)
        made = order(of=identity(name, purpose=purpose), events=events, instrument=instrument(symbol), entry_refs=refs)
        return LiveOrder(made, Told(), age_from=0.0, known_from=0.0, sent_at=None)

    def taken(self, name: str, symbol: str = "AAPL", **changes: Any) -> LiveOrder:
        live = self.new(name, symbol, **changes)
        self.queues.take(live)
        return live

    def leave(self, limit: int = 1) -> list[str]:
        """The signals of the next batch, which stays on its way."""
        if not self.queues.has_ready:
            return []
        return [live.order.signal_id for live in self.queues.begin_batch(self.queues.next_ready(), limit)]

    def come_back(self, *batch: LiveOrder, events: Iterable[Event] = ()) -> None:
        """What became of a batch: `events` for each."""
        for live in batch:
            live.order = apply_all(live.order, tuple(events))
        self.queues.end_batch(self.queues.of(batch[0].order), is_over=True)


@pytest.fixture
def bench() -> Bench:
    return Bench()


SENT = (submit_started(), accepted())


def test_orders_of_one_instrument_leave_in_their_sequence_one_batch_at_a_time(bench: Bench) -> None:
    first, second, _ = (bench.taken(name) for name in ("a", "b", "c"))
    assert bench.leave(2) == ["a", "b"]
    assert bench.leave() == []
    bench.come_back(first, second, events=SENT)
    assert bench.leave(2) == ["c"]


def test_who_could_not_be_sent_keeps_its_place(bench: Bench) -> None:
    first, second, _ = (bench.taken(name) for name in ("a", "b", "c"))
    bench.leave(2)
    bench.come_back(first, second, events=(submit_started(), nothing_sent()))
    assert bench.leave(3) == ["a", "b", "c"]


def test_a_batch_counts_until_it_has_ended(bench: Bench) -> None:
    live = bench.taken("a")
    bench.leave()
    assert bench.queues.batches == 1
    bench.come_back(live, events=SENT)
    assert bench.queues.batches == 0


def test_an_order_that_is_settled_while_it_is_on_its_way_keeps_its_place_and_holds_nobody_up(bench: Bench) -> None:
    first, second, _ = (bench.taken(name) for name in ("a", "b", "c"))
    bench.leave(2)
    for live in (first, second):
        live.order = apply_all(live.order, (submit_started(),))
        bench.queues.settle(live)
    assert not list(bench.queues.perhaps_sent())
    bench.come_back(first, second, events=(nothing_sent(),))
    assert bench.leave(3) == ["a", "b", "c"]


def test_an_exit_that_is_settled_while_its_entry_is_asked_about_keeps_its_place(bench: Bench) -> None:
    out = bench.taken("out", entry="entry")
    bench.taken("next")
    bench.leave()
    bench.queues.wait_for_others(out, WaitingReason.ENTRY)
    bench.queues.settle(out)
    bench.queues.cease_waiting(out.order)
    bench.come_back(out)
    assert bench.leave(2) == ["out", "next"]


def test_exits_go_ahead_of_entries_of_other_instruments(bench: Bench) -> None:
    bench.taken("entry")
    bench.taken("exit", "MSFT", entry="before")
    assert [bench.leave(), bench.leave()] == [["exit"], ["entry"]]


def test_nothing_follows_an_order_that_was_perhaps_sent_until_it_is_found(bench: Bench) -> None:
    lost = bench.taken("lost", events=(submit_started(),))
    bench.taken("next")
    bench.taken("other", "MSFT")
    assert bench.leave() == ["other"]
    assert bench.leave() == []
    lost.order = apply_all(lost.order, (accepted(),))
    bench.queues.settle(lost)
    assert bench.leave() == ["next"]


def test_an_isolated_order_steps_out_and_comes_back_behind_the_others(bench: Bench) -> None:
    odd, sound = bench.taken("odd"), bench.taken("sound")
    bench.isolated.add(odd)
    bench.queues.settle(odd)
    assert bench.queues.pending() == [sound]
    assert bench.leave() == ["sound"]
    bench.taken("later")
    bench.isolated.clear()
    bench.queues.place(odd)
    bench.come_back(sound, events=SENT)
    assert bench.leave(3) == ["later", "odd"]


def test_an_isolated_order_that_was_perhaps_sent_holds_nobody_up(bench: Bench) -> None:
    lost = bench.taken("lost", events=(submit_started(),))
    bench.taken("next")
    bench.isolated.add(lost)
    bench.queues.settle(lost)
    assert bench.leave() == ["next"]


def test_the_queue_waits_for_a_first_order_that_somebody_is_at_work_for(bench: Bench) -> None:
    first = bench.taken("first")
    bench.taken("second")
    bench.queues.begin(first)
    assert bench.leave(2) == []
    bench.queues.end(first)
    assert bench.leave(2) == ["first", "second"]


def test_an_exit_that_waits_for_its_entry_lets_others_pass_and_comes_back_when_that_has_ended(bench: Bench) -> None:
    entry = bench.new("entry", events=SENT)
    bench.queues.take(entry)
    out = bench.taken("out", entry="entry")
    bench.taken("other")
    assert bench.leave() == ["out"]
    bench.queues.wait_for_others(out, WaitingReason.ENTRY)
    bench.come_back(out)
    assert bench.queues.waits_for(out.order) is WaitingReason.ENTRY
    assert bench.leave() == ["other"]
    entry.order = apply_all(entry.order, (rejected(),))
    bench.queues.settle(entry)
    assert bench.queues.waits_for(out.order) is None
    bench.queues.end_batch(bench.queues.of(out.order), is_over=True)
    assert bench.leave(2) == ["other", "out"]


def test_an_entry_that_ends_while_its_exit_is_on_its_way_makes_no_second_of_it(bench: Bench) -> None:
    entry = bench.new("entry", events=SENT)
    bench.queues.take(entry)
    out = bench.taken("out", entry="entry")
    assert bench.leave() == ["out"]
    bench.queues.wait_for_others(out, WaitingReason.ENTRY)
    entry.order = apply_all(entry.order, (rejected(),))
    bench.queues.settle(entry)
    bench.come_back(out)
    assert bench.leave(5) == ["out"]


def test_a_leg_that_comes_brings_back_those_of_its_signal_that_wait(bench: Bench) -> None:
    waiting = bench.taken("signal")
    bench.leave()
    bench.queues.wait_for_others(waiting, WaitingReason.LEGS)
    bench.come_back(waiting)
    assert bench.leave() == []
    bench.taken("signal", "MSFT")
    assert {*bench.leave(), *bench.leave()} == {"signal"}
    assert bench.queues.waits_for(waiting.order) is None


def test_a_queue_whose_exit_is_looked_at_is_held_until_it_is_released(bench: Bench) -> None:
    out = bench.taken("out", entry="entry")
    bench.taken("next")
    bench.queues.hold(out.order)
    assert bench.leave() == []
    bench.queues.release(out.order)
    assert bench.leave(2) == ["out", "next"]


def test_pauses_grow_until_the_broker_has_taken_one(bench: Bench) -> None:
    live = bench.taken("a")
    queue = bench.queues.of(live.order)
    pauses = []
    for _ in range(3):
        assert bench.leave() == ["a"]
        bench.queues.slow_down(live.order, "no answer")
        bench.come_back(live)
        assert bench.leave() == []
        waiting = queue.waiting(bench.clock.monotonic())
        assert waiting is not None
        assert (waiting.reason, waiting.words) == (WaitingReason.NOT_TAKEN, "no answer")
        assert waiting.seconds is not None
        pauses.append(waiting.seconds)
        bench.clock.move(waiting.seconds)
        bench.queues.end_pauses(bench.clock.monotonic())
    assert pauses == sorted(set(pauses))
    bench.queues.goes(live.order)
    assert queue.waiting(bench.clock.monotonic()) is None


def test_a_pause_that_was_made_longer_meanwhile_is_kept(bench: Bench) -> None:
    live = bench.taken("a")
    bench.queues.rest(live.order, WaitingReason.HELD_BACK, 2.0, "no list")
    assert bench.leave() == []
    bench.clock.move(1.0)
    bench.queues.rest(live.order, WaitingReason.HELD_BACK, 3.0, "no list")
    bench.clock.move(1.5)
    bench.queues.end_pauses(bench.clock.monotonic())
    assert bench.leave() == []
    bench.clock.move(1.5)
    bench.queues.end_pauses(bench.clock.monotonic())
    assert bench.leave() == ["a"]


def test_while_calls_are_spent_an_exit_that_names_its_entry_goes_first(bench: Bench) -> None:
    first = bench.taken("first")
    bench.leave()
    bench.queues.rest(first.order, WaitingReason.CALLS, 60.0, "spent")
    bench.come_back(first)
    bench.taken("out", entry="entry")
    bench.clock.move(60.0)
    bench.queues.end_pauses(bench.clock.monotonic())
    assert bench.leave(2) == ["out", "first"]


def test_an_alert_about_held_orders_is_due_once_until_it_fails_or_the_broker_takes_one(bench: Bench) -> None:
    live = bench.taken("a")
    queue = bench.queues.of(live.order)
    assert not bench.queues.must_alert_of_rest(queue)
    for expected in (True, False):
        bench.queues.rest(live.order, WaitingReason.HELD_BACK, 1.0, "no list")
        assert bench.queues.must_alert_of_rest(queue) is expected
    bench.queues.slow_down(live.order, "no answer")
    assert not bench.queues.must_alert_of_rest(queue)
    bench.queues.was_not_alerted(queue)
    assert bench.queues.must_alert_of_rest(queue)
    bench.queues.goes(live.order)
    bench.queues.rest(live.order, WaitingReason.HELD_BACK, 1.0, "no list")
    assert bench.queues.must_alert_of_rest(queue)


def test_nothing_is_kept_of_an_instrument_whose_orders_have_ended(bench: Bench) -> None:
    live = bench.taken("a")
    bench.leave()
    bench.come_back(live, events=(*SENT, rejected()))
    queues: Any = bench.queues
    assert not queues._queues
    assert not queues._under_way
    assert bench.queues.pending() == []


def test_who_begins_anew_has_no_orders_and_waits_for_nobody(bench: Bench) -> None:
    first = bench.taken("first")
    bench.leave()
    bench.queues.slow_down(first.order, "no answer")
    bench.queues.hold(first.order)
    bench.queues.begin_anew()
    assert bench.queues.batches == 0
    assert bench.queues.next_at is None
    bench.queues.take(first)
    assert bench.leave() == ["first"]


def test_of_two_timers_of_one_thing_the_earlier_counts_and_only_once(bench: Bench) -> None:
    live = bench.new("a")
    for seconds in (9.0, 5.0, 7.0):
        bench.timers.make(live, seconds)
    bench.clock.move(5.0)
    assert list(bench.timers.due(bench.clock.monotonic())) == [live]
    bench.clock.move(5.0)
    assert list(bench.timers.due(bench.clock.monotonic())) == []


# --- what is known of a sending -------------------------------------------------------------------------------------


def test_of_another_sending_nothing_is_known(bench: Bench) -> None:
    live = bench.taken("a", events=(submit_started(),))
    live.sending = live.sending.not_looked_for().looked_for(5.0, is_unclear=True).unclear(was_repeated=True)
    assert (live.sending.finding_from, live.sending.unclear_repetitions) == (5.0, 1)
    assert not live.sending.may_be_repeated
    live.order = apply_all(live.order, (nothing_sent(),))
    assert live.sending == Sending(since=None)


def test_an_order_is_searched_for_anew_where_the_answer_can_be_read_again() -> None:
    sending = Sending(since=None).looked_for(1.0, is_unclear=True).looked_for(2.0, is_unclear=True)
    assert (sending.finding_from, sending.asked_at) == (1.0, 2.0)
    assert sending.looked_for(3.0, is_unclear=False).finding_from == 3.0
    assert sending.looked_for(3.0, is_unclear=False).looked_for(4.0, is_unclear=False).finding_from == 3.0


def test_another_status_means_that_what_is_asked_again_is_asked_soon_again(bench: Bench) -> None:
    live = bench.taken("a", events=SENT)
    cancels = live.tries.cancels.with_request(0.0).with_request(1.0).with_request(2.0)
    live.tries = Tries(status=live.order.status, attempt=live.order.attempt, cancels=cancels, failures=2, failure="no")
    assert live.tries.cancels.since_change == 3
    live.order = apply_all(live.order, (rejected(),))
    assert (live.tries.cancels.since_change, live.tries.cancels.count) == (0, 3)
    assert (live.tries.failures, live.tries.failure) == (2, "no")
