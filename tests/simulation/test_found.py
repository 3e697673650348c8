"""What simulated lives have found, each as the smallest history that shows it: none of it is so any more, and each would be found again."""

from __future__ import annotations

from typing import Any

import pytest

from execution_service.core.protection.plan import TakeBack
from execution_service.trading.exits_at_work import ExitsAtWork
from execution_service.trading.protection import Protection
from tests.simulation.life import Verdict, replay
from tests.simulation.planted import PLANTED
from tests.simulation.steps import History, Step

ALONE: dict[str, Any] = {
    "replicas": 1,
    "has_leases": False,
    "accounts": ["acct-1"],
    "is_unique": True,
    "uses_ordering_keys": False,
    "order_timeout_seconds": 60.0,
    "max_order_age_seconds": 300.0,
    "shuffles": 0.0,
    "passes_over": 0.0,
    "market": {"fill_delay_seconds": None, "partial_fill_rate": 0.0, "rejection_rate": 0.0, "seed": 1},
}
BY_LEASES = ALONE | {"has_leases": True}
TWO = ALONE | {"has_leases": True, "replicas": 2}
AT_ONCE = ALONE | {"market": ALONE["market"] | {"fill_delay_seconds": 0.0}}


def order(at: float, signal: str, **fields: Any) -> tuple[float, str, dict[str, Any]]:
    return at, "order", {"signal": signal, "account_id": "acct-1"} | fields


def broken(at: float, pattern: str, **more: Any) -> tuple[float, str, dict[str, Any]]:
    return at, "fault", {"pattern": pattern, "action": "break", **more}


A_LOST_STOP = [broken(5.0, "broker.place_order", times=1, skips=1), order(6.0, "s0", stop_loss=8)]
FOUND: dict[str, tuple[dict[str, Any], list[tuple[float, str, dict[str, Any]]]]] = {
    "a command that cannot be read keeps the service from starting": (
        ALONE,
        [
            (
                5.0,
                "strange",
                {"collection": "execution_commands", "document_id": "c", "field": "received_at", "value": "beyond"},
            ),
            (6.0, "kill", {"replica": 0, "down": 0.5}),
            order(10.0, "s0"),
        ],
    ),
    "an alert that cannot be read ends the sending of all": (
        ALONE,
        [
            (
                5.0,
                "strange",
                {"collection": "execution_alerts", "document_id": "a", "field": "text", "value": "beyond"},
            ),
            order(10.0, "s0", order_type="STOP", stop_price=10),
            order(10.0, "x0", signal_type="EXIT", entry_signal_id="s0", side="SELL"),
        ],
    ),
    "a lease that cannot be read stops everything while it is there": (
        BY_LEASES,
        [
            (
                1.0,
                "spoil",
                {
                    "collection": "execution_leases",
                    "pick": 0,
                    "field": "taken_at",
                    "value": "beyond",
                    "mends_after": 70.0,
                },
            ),
            order(10.0, "s0", quantity=10),
        ],
    ),
    "an exception out of one order's step restarts the account": (
        ALONE,
        [broken(1.0, "inside.next_step", about="s0", times=3), order(5.0, "s0"), order(5.5, "s1", symbol="MSFT")],
    ),
    "a queue that pauses while the account begins anew": (
        ALONE,
        [
            (1.0, "fault", {"pattern": "broker.place_order", "action": "refuse", "times": 2}),
            order(5.0, "s0"),
            broken(5.35, "inside.start_queues"),
            order(5.4, "s1", symbol="MSFT"),
        ],
    ),
    "a replica that alone has lost the store keeps its messages": (
        TWO,
        [
            (5.0, "away", {"port": "store", "replica": 0, "seconds": 70.0}),
            *(order(6.0 + number, f"s{number}") for number in range(6)),
        ],
    ),
    "a publisher that hangs holds up the views": (
        ALONE,
        [
            order(5.0, "s0"),
            (6.0, "fault", {"pattern": "publish", "action": "hang", "seconds": 40.0, "times": 1}),
            (25.0, "fill", {"signal": "s0", "part": 0.2}),
            (31.0, "fill", {"signal": "s0", "part": 1.0}),
        ],
    ),
    "the alert about an account that is not configured any more": (
        BY_LEASES | {"accounts": ["acct-1", "acct-3"]},
        [
            (5.0, "at_the_book", {"account": "acct-3", "operation": "place", "action": "hold"}),
            order(5.1, "u0", account_id="acct-3", order_type="LIMIT", limit_price=9, timeout_seconds=0),
            (10.0, "unconfigure", {"account": "acct-3", "down": 2.0, "store_away_after": 9.5}),
        ],
    ),
    "a writer of the store that ends": (ALONE, [broken(5.0, "inside.take_turns"), order(6.0, "s0")]),
    "the notifications that end": (ALONE, [broken(5.0, "inside.next_letter"), order(6.0, "s0")]),
    "a replica that stops keeps what it received": (
        ALONE,
        [
            (5.0, "away", {"port": "store", "replica": 0, "seconds": 20.0}),
            order(6.0, "s0"),
            (8.0, "stop", {"replica": 0, "down": 2.0}),
        ],
    ),
    "an execution that is annulled while the order's record cannot be read": (
        AT_ONCE,
        [
            order(5.0, "s0"),
            (
                15.0,
                "spoil",
                {
                    "collection": "execution_ledger_lines",
                    "pick": 0,
                    "field": "lines",
                    "value": "list",
                    "mends_after": 30.0,
                },
            ),
            (20.0, "bust", {"signal": "s0"}),
        ],
    ),
    "a commission that changes from -1 to -2": (
        AT_ONCE,
        [
            order(5.0, "s0"),
            (20.0, "commission", {"signal": "s0", "amount": "-1"}),
            (40.0, "commission", {"signal": "s0", "amount": "-2"}),
        ],
    ),
    "an event that is recorded while a hand has spoilt its record": (
        ALONE,
        [
            order(9.0, "x0", signal_type="EXIT", entry_signal_id="s0", side="SELL"),
            order(10.0, "s0"),
            (
                15.5,
                "spoil",
                {"collection": "execution_orders", "pick": 0, "field": "events", "value": "gone", "mends_after": 5.0},
            ),
        ],
    ),
    "a fill that is never booked since its account was let go while the views were written": (
        BY_LEASES,
        [
            order(5.0, "s0"),
            (6.0, "fault", {"pattern": "store.positions.*", "action": "late", "times": 1, "seconds": 20.0}),
            (10.0, "fill", {"signal": "s0", "part": 0.2}),
            (17.0, "fill", {"signal": "s0", "part": 1.0}),
            (19.0, "away", {"port": "store", "replica": 0, "seconds": 8.0}),
        ],
    ),
    "a record that was mended is left alone until the next start": (
        ALONE,
        [
            order(39.0, "x4a", signal_type="EXIT", entry_signal_id="s4", symbol="MSFT", quantity=50),
            (42.5, "stop", {"replica": 0, "down": 15.0}),
            (
                57.2,
                "spoil",
                {
                    "collection": "execution_orders",
                    "pick": 0,
                    "field": "received_at",
                    "value": "object",
                    "mends_after": 5.0,
                },
            ),
        ],
    ),
    "a record that was mended is left alone until its account changes hands": (
        BY_LEASES,
        [
            order(39.0, "x4a", signal_type="EXIT", entry_signal_id="s4", symbol="MSFT", quantity=50),
            (42.5, "stop", {"replica": 0, "down": 15.0}),
            (
                57.2,
                "spoil",
                {"collection": "execution_orders", "pick": 0, "field": "events", "value": "gone", "mends_after": 5.0},
            ),
        ],
    ),
    "ledger lines that were mended are not read again": (
        AT_ONCE,
        [
            order(5.0, "s0"),
            (
                15.0,
                "spoil",
                {
                    "collection": "execution_ledger_lines",
                    "pick": 0,
                    "field": "lines",
                    "value": "object",
                    "mends_after": 30.0,
                },
            ),
            (20.0, "bust", {"signal": "s0"}),
        ],
    ),
    "a record update that was taken as its writer failed is never made": (
        BY_LEASES,
        [broken(5.0, "inside.take_turns", skips=1), order(6.0, "s0")],
    ),
    "a target that is placed beside a stop that has begun to fill": (
        ALONE,
        [
            order(10.0, "s0", order_type="LIMIT", limit_price=10, stop_loss=8, take_profit=13),
            (12.0, "fill", {"signal": "s0", "part": 1.0}),
            (12.27, "hit", {"signal": "s0", "pick": 0, "part": 0.3}),
            (30.0, "hit", {"signal": "s0", "pick": 1, "part": 1.0}),
        ],
    ),
    "each order that is stored reads every cancel there ever was": (BY_LEASES | {"past": 12}, [order(5.0, "s0")]),
    "the profit of a signal that was corrected beside a record that cannot be read": (
        AT_ONCE,
        [
            order(5.0, "s0", order_type="LIMIT", limit_price=11),
            order(6.0, "x0", signal_type="EXIT", entry_signal_id="s0", side="SELL"),
            (12.0, "stop", {"replica": 0, "down": 5.0}),  # what it has read a process remembers
            (
                15.0,
                "spoil",
                {
                    "collection": "execution_orders",
                    "pick": 0,
                    "field": "request",
                    "value": "text",
                    "mends_after": 30.0,
                },
            ),
            (20.0, "correct", {"signal": "x0", "price": "9.75"}),
        ],
    ),
    "a protective order that is in doubt is told to nobody": (AT_ONCE | {"is_unique": False}, A_LOST_STOP),
    "a position stays without its stop for an exit that was cancelled as it was looked at": (
        AT_ONCE,
        [
            order(5.0, "s0", stop_loss=8),
            (
                18.0,
                "fault",
                {"pattern": "store.execution_positions.find", "action": "late", "seconds": 3.0, "skips": 1},
            ),
            order(20.0, "x0", signal_type="EXIT", entry_signal_id="s0", side="SELL"),
            (21.0, "cancel", {"signal": "x0", "by": "signal"}),
        ],
    ),
    "what the annulment of another order gives back is forgotten before it is looked at": (
        ALONE,
        [
            order(5.0, "s0", quantity=1, order_type="LIMIT", limit_price=10),
            (6.0, "fill", {"signal": "s0", "part": 1.0}),
            order(10.0, "s1", side="SELL", quantity=10, order_type="LIMIT", limit_price=10, stop_loss=12),
            (12.0, "fill", {"signal": "s1", "part": 1.0}),
            (17.0, "hit", {"signal": "s1", "pick": 0, "part": 1.0}),
            (37.38, "bust", {"signal": "s0"}),
            (37.58, "commission", {"signal": "s1", "amount": "-1"}),
        ],
    ),
    "a stop that was stored without an answer never leaves": (
        ALONE,
        [
            order(10.0, "s0", order_type="LIMIT", limit_price=10, stop_loss=8),
            (11.0, "fault", {"pattern": "store.execution_orders.insert_many", "action": "lost"}),
            (12.0, "fill", {"signal": "s0", "part": 1.0}),
        ],
    ),
}


SECOND_SIGNAL: list[tuple[float, str, dict[str, Any]]] = [
    (5.5, "away", {"port": "publish", "replica": 0, "seconds": 30.0}),
    order(13.6, "s3", order_type="STOP_LIMIT", limit_price=10, stop_price=10),
    (21.5, "venue_cancels", {"signal": "s3"}),
    (29.4, "stop", {"replica": 0, "down": 3.0}),
    (29.6, "stop", {"replica": 0, "down": 0.5}),
]


def test_a_second_signal_to_stop_ends_a_replica_at_once_and_loses_nothing() -> None:
    """The world once stopped the same service twice at the same time, which no process does."""
    lived = replay(History(1, ALONE, tuple(Step(*step) for step in SECOND_SIGNAL)))
    assert not lived.complaints
    assert any("told to stop once more" in line for line in lived.trace)


BEHIND_A_DOUBT: list[tuple[float, str, dict[str, Any]]] = [
    *A_LOST_STOP,
    (20.0, "bust", {"signal": "s0"}),
    order(30.0, "s1", quantity=1, order_type="LIMIT", limit_price=10),
]


def test_an_entry_waits_while_a_protective_order_of_before_is_in_doubt() -> None:
    """It was once complained of: the doubtful order might open anew what nobody holds, and only a person ends that."""
    lived = replay(History(1, AT_ONCE | {"is_unique": False}, tuple(Step(*step) for step in BEHIND_A_DOUBT)))
    assert not lived.complaints
    assert any("Order In Doubt" in line for line in lived.trace)
    assert any("Order Rejected" in line for line in lived.trace)


BESIDE_ONE_SET_ASIDE: list[tuple[float, str, dict[str, Any]]] = [
    broken(8.0, "inside.learn", about="s1", times=30),
    order(20.8, "s1", side="SELL", order_type="LIMIT", limit_price=11),
    order(21.5, "s0", quantity=1, order_type="LIMIT", limit_price=10, stop_loss=8),
    (23.0, "fill", {"signal": "s0", "part": 1.0}),
    (26.0, "venue_cancels", {"signal": "s1"}),
]


def test_a_position_waits_for_its_stop_while_the_end_of_an_order_beside_it_cannot_be_learned() -> None:
    """It was once complained of: that order is asked about again only after a pause, and until then it may sell what the stop would."""
    lived = replay(History(1, ALONE, tuple(Step(*step) for step in BESIDE_ONE_SET_ASIDE)))
    assert not lived.complaints
    (told,) = [line for line in lived.trace if "Order Cancelled" in line]
    assert float(told.split()[0]) > 80.0


REDUCED_WHAT_WAS_ANNULLED: list[tuple[float, str, dict[str, Any]]] = [
    order(5.0, "s0", side="SELL", order_type="LIMIT", limit_price=10),
    (7.0, "fill", {"signal": "s0", "part": 1.0}),
    (20.0, "engage", {"scope": "all", "level": "reduce_only"}),
    order(30.0, "s1", quantity=10, order_type="LIMIT", limit_price=10),
    (40.0, "bust", {"signal": "s0"}),
]


@pytest.mark.parametrize("is_held", [True, False])
def test_what_reduces_passes_a_kill_switch_though_what_it_reduced_is_annulled_later(is_held: bool) -> None:
    """It was once complained of; without such a position it does not leave."""
    steps = [step for step in REDUCED_WHAT_WAS_ANNULLED if is_held or step[1] != "fill"]
    lived = replay(History(1, ALONE, tuple(Step(*step) for step in steps)))
    assert not lived.complaints
    assert any("Order Rejected" in line for line in lived.trace) is not is_held


def verdict(name: str) -> Verdict:
    options, steps = FOUND[name]
    return replay(History(1, options, tuple(Step(*step) for step in steps)))


@pytest.mark.parametrize("name", FOUND)
def test_it_is_mended(name: str) -> None:
    assert not verdict(name).complaints


@pytest.mark.parametrize("name", FOUND)
def test_it_would_be_found_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED[name](monkeypatch)
    assert verdict(name).complaints


FILLED_AFTER_ITS_END: list[tuple[float, str, dict[str, Any]]] = [
    (
        9.0,
        "at_the_book",
        {"account": "acct-1", "operation": "cancel", "action": "late_fill_after_cancel", "seconds": 3.0},
    ),
    order(10.0, "s0", order_type="STOP_LIMIT", limit_price=9, stop_price=10, trail_percent=5),
    order(20.0, "x0", signal_type="EXIT", entry_signal_id="s0", side="SELL", quantity=50),
]


def test_what_the_venue_executes_after_its_word_that_an_order_is_over_is_no_finding() -> None:
    """That execution triggers the stop of what was left in the same moment."""
    options = AT_ONCE | {"market": AT_ONCE["market"] | {"partial_fill_rate": 0.3, "seed": 1300187}}
    lived = replay(History(1300187, options, tuple(Step(*step) for step in FILLED_AFTER_ITS_END)))
    assert not lived.complaints
    assert any("Late Fill" in line for line in lived.trace)


@pytest.mark.parametrize("is_held_to", [True, False])
def test_an_exit_that_rests_does_not_fill_beyond_what_such_an_execution_left(
    is_held_to: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_held_to:
        monkeypatch.setattr(ExitsAtWork, "note_record", lambda self, live: None)
    steps = [
        (
            9.0,
            "at_the_book",
            {"account": "acct-1", "operation": "cancel", "action": "late_fill_after_cancel", "seconds": 3.0},
        ),
        order(10.0, "s0", order_type="LIMIT", limit_price=10, stop_loss=8),
        (12.0, "fill", {"signal": "s0", "part": 1.0}),
        order(
            20.0,
            "x0",
            signal_type="EXIT",
            entry_signal_id="s0",
            side="SELL",
            quantity=50,
            order_type="LIMIT",
            limit_price=12,
            timeout_seconds=0,
        ),
        (40.0, "fill", {"signal": "x0", "part": 1.0}),
    ]
    lived = replay(History(1, ALONE, tuple(Step(*step) for step in steps)))
    assert any("Late Fill" in line for line in lived.trace)
    assert list(lived.complaints) == ([] if is_held_to else ["exit opened: exits of s0 took 150, it had 100"])


@pytest.mark.parametrize("is_left", [False, True])
def test_what_rests_on_beside_such_an_execution_is_one(is_left: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    take_back = Protection._take_back
    asked: list[str] = []

    async def only_the_first(self: Protection, back: TakeBack) -> None:
        asked.append(back.order_id)
        if back.order_id == asked[0]:
            await take_back(self, back)

    if is_left:
        monkeypatch.setattr(Protection, "_take_back", only_the_first)
    steps = [
        FILLED_AFTER_ITS_END[0],
        order(10.0, "s0", order_type="LIMIT", limit_price=10, stop_loss=8),
        (12.0, "fill", {"signal": "s0", "part": 1.0}),
        FILLED_AFTER_ITS_END[-1],
        (21.0, "fill", {"signal": "x0", "part": 1.0}),
        (40.0, "hit", {"signal": "s0", "pick": 0, "part": 1.0}),
    ]
    complaints = replay(History(1, ALONE, tuple(Step(*step) for step in steps))).complaints
    assert [each for each in complaints if each.startswith("exit opened")] == (
        ["exit opened: exits of s0 took 200, it had 100"] if is_left else []
    )
