"""What `make kills` strikes, and when."""

from __future__ import annotations

from tests.external.kill_loop import KILLS_OF_A_PLACE, Victim, While, planned


def test_the_same_seed_plans_the_same_kills() -> None:
    assert list(planned(20, "1:1")) == list(planned(20, "1:1")) != list(planned(20, "1:2"))


def test_a_place_is_struck_while_it_is_made_first_and_then_in_starts_and_at_work() -> None:
    plan = list(planned(KILLS_OF_A_PLACE, "1:1"))
    made = [kill.while_ is While.MAKING for kill in plan]
    assert made == sorted(made, reverse=True)
    assert {kill.while_ for kill in plan} == set(While)
    assert {kill.victim for kill in plan} == set(Victim)
    assert all(0 <= kill.share <= 1 for kill in plan)
