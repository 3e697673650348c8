"""What `make faults` plays by default, what it can be asked for, and the table that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulators.catalogue import simulator_of
from tests.external.venues import BROKERS
from tests.faults import table
from tests.faults.__main__ import jobs, parsed
from tests.faults.crashes import planned, sample
from tests.faults.judgement import Placed
from tests.faults.outages import Extent, Part, Trouble, all_outages, chosen_outages
from tests.faults.replicas import Deed, expected
from tests.faults.stage import Outcome, loop_outcome

CROSSED = [
    f"{when} {what}#{n}"
    for what in ("store.append", "broker.find", "ack")
    for n in (1, 2)
    for when in ("before", "after")
]


def names(*arguments: str) -> set[str]:
    return {job.name for job in jobs(parsed(arguments))}


def test_every_family_is_played_at_every_broker_by_default() -> None:
    played = names()
    for family in ("scenarios", "crashes", "kills", "hand trades", "leases", "outages"):
        assert {f"{family} at {broker}" for broker in BROKERS} <= played
    assert {"replicas at mock, 2 processes", "replicas at mock, 3 processes", "stops at mock"} <= played
    assert {"replicas at ibkr, 2 processes", "replicas at zerodha, 2 processes"} <= played


def test_a_family_a_broker_and_single_names_can_be_asked_for() -> None:
    assert names("--only", "kills", "--broker", "mock") == {"kills at mock"}
    assert names("--only", "late_*", "--broker", "ibkr") == {"scenarios at ibkr"}
    assert names("--only", "*Telegram cut off, in flight", "--broker", "mock") == {"outages at mock"}
    assert names("--only", "killed_under_*") == {f"stops at {broker}" for broker in BROKERS}
    assert names("--only", "crashes", "--crashes", "0") == set()


def test_each_kind_of_crossing_comes_once_before_any_comes_twice() -> None:
    kinds = {each.partition("#")[0] for each in CROSSED}
    first = sample(CROSSED, len(kinds), seed=3)
    assert {each.partition("#")[0] for each in first} == kinds
    assert sample(CROSSED, len(kinds), seed=3) == first
    assert sorted(sample(CROSSED, None, seed=3)) == sorted(CROSSED)
    assert len(set(sample(CROSSED, 9, seed=3))) == 9


def test_the_same_seed_plans_the_same_kills() -> None:
    assert list(planned(CROSSED, 5, "1:mock")) == list(planned(CROSSED, 5, "1:mock"))
    assert list(planned(CROSSED, 5, "1:mock")) != list(planned(CROSSED, 5, "2:mock"))
    assert any(kill.again for kill in planned([], 50, "1:mock"))


@pytest.mark.parametrize("broker", BROKERS)
def test_every_part_meets_every_trouble_and_every_pair_is_cut_off(broker: str) -> None:
    outages = all_outages(broker)
    parts = set(Part) - (set() if simulator_of(broker).has_connections else {Part.BROKER})
    for trouble in (Trouble.CUT_OFF, Trouble.SLOW, Trouble.HALF_OPEN, Trouble.FLAPPING, Trouble.RESTARTED):
        for at_start in (False, True):
            assert {o.parts for o in outages if o.trouble is trouble and o.at_start is at_start} >= {
                (p,) for p in parts
            }
    assert {o.parts for o in outages if o.trouble is Trouble.FORGOTTEN} == {(part,) for part in parts}
    pairs = {frozenset(o.parts) for o in outages if o.trouble is Trouble.CUT_OFF and len(o.parts) == 2}
    assert len(pairs) == len(parts) * (len(parts) - 1) // 2
    assert {o.parts for o in outages if o.is_told} == {(p,) for p in parts & {Part.BROKER, Part.PUBSUB}}
    assert len({o.name for o in outages}) == len(outages)
    assert set(chosen_outages(broker, Extent.USUAL)) <= set(outages)


def test_the_table_takes_the_place_of_the_last_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
    good = Outcome("killed after ack", "mock", placed=[1, 1], recovery_seconds=2.04)
    bad = Outcome("killed after ack", "mock", wrong=["filled 4, truly 10"], placed=[1], recovery_seconds=3.0)
    watched = Outcome("event_loop", "mock", is_run=False, figures="pauses over 100 ms: 0")
    table.write_between_markers(page, [good, bad, watched], command="python -m tests.faults", seconds=120)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| killed after ack | mock | 2 | NO (1 of 2) | 1 | 3.0 |" in text
    assert "| event_loop | mock | - | yes | pauses over 100 ms: 0 | - |" in text
    assert "**2 runs, 1 disagree**, 2 minutes" in text
    assert "- **killed after ack at mock**: filled 4, truly 10" in text


def test_the_table_counts_the_doubts_that_a_person_settled() -> None:
    some = [Outcome("killed before ack", "zerodha", placed=[0, 1], doubts=number) for number in (0, 1, 2)]
    assert table.rows(some)[0][4] == "0, 1; 3 doubts settled by a person"
    assert table.rows(some[:1])[0][4] == "0, 1"


def test_a_pause_of_the_event_loop_by_its_own_work_disagrees_in_whichever_life_it_was(tmp_path: Path) -> None:
    def life(name: str, *, late: int, worked: int) -> None:
        calm = {"beats": 9, "over_100_ms": 0, "work_over_100_ms": 0, "longest_ms": 3.0, "longest_work_ms": 2.0}
        after = calm | {"over_100_ms": late, "work_over_100_ms": worked, "longest_ms": 250.0, "longest_work_ms": 120.0}
        (tmp_path / "1" / "heartbeats").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "1" / "heartbeats" / f"{name}.json"
        path.write_text(json.dumps({"start": calm, "after": after}), encoding="utf-8")

    assert not loop_outcome("mock", "event_loop", tmp_path).agrees, "nothing was measured"
    life("first", late=2, worked=0)
    calm = loop_outcome("mock", "event_loop", tmp_path)
    assert calm.agrees
    assert calm.figures.startswith("pauses over 100 ms: 2, by its own work 0")
    life("second", late=1, worked=1)
    life("third", late=0, worked=0)
    assert not loop_outcome("mock", "event_loop", tmp_path).agrees


def test_a_doubt_is_borne_only_where_an_order_may_still_leave_by_somebody_elses_hand() -> None:
    doubtful = {(broker, deed) for broker in BROKERS for deed in Deed if expected(broker, deed) is not Placed.ONCE}
    takes_an_id_twice = {(broker, deed) for broker in ("binance", "zerodha") for deed in (Deed.FROZEN, Deed.KILLED)}
    assert doubtful == takes_an_id_twice | {("ibkr", Deed.FROZEN)}


def test_a_page_without_a_place_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here", encoding="utf-8")
    with pytest.raises(ValueError, match="no place"):
        table.write_between_markers(page, [], command="", seconds=0)
    assert page.read_text(encoding="utf-8") == "nothing here"
