"""A failing history becomes as short as it can be."""

from __future__ import annotations

import pytest

from tests.simulation.life import Verdict
from tests.simulation.shrink import smallest
from tests.simulation.steps import History, Step, draw


def history(count: int) -> History:
    steps = tuple(Step(float(number), "order", {"signal": f"s{number}"}) for number in range(count))
    return History(0, {"replicas": 2, "has_leases": True, "shuffles": 1.0}, steps)


def wrong_where(*needed: float) -> object:
    """A judge that complains where all these steps are in the history."""

    def play(some: History) -> Verdict:
        is_wrong = set(needed) <= {step.at for step in some.steps}
        return Verdict(0, ("lost: s1",) if is_wrong else ("other: s2",), (), 0)

    return play


@pytest.mark.parametrize("needed", [(3.0,), (0.0, 19.0), (4.0, 5.0, 6.0), (1.0, 8.0, 15.0)])
def test_only_the_steps_that_it_takes_are_left(needed: tuple[float, ...]) -> None:
    found = smallest(history(20), play=wrong_where(*needed))  # type: ignore[arg-type]
    assert tuple(step.at for step in found.steps) == needed


def test_what_goes_wrong_without_any_step_has_none() -> None:
    assert smallest(history(7), play=wrong_where()).steps == ()  # type: ignore[arg-type]


def test_the_world_becomes_plainer_too() -> None:
    found = smallest(history(2), play=wrong_where(1.0))  # type: ignore[arg-type]
    assert found.options["replicas"] == 1
    assert not found.options["has_leases"]
    assert found.options["shuffles"] == 0.0


def test_a_sound_history_is_not_shortened() -> None:
    with pytest.raises(ValueError, match="nothing is wrong"):
        smallest(history(2), play=lambda some: Verdict(0, (), (), 0))


def test_a_history_is_the_same_after_it_was_written_down() -> None:
    for seed in range(20):
        drawn = draw(seed)
        again = History.from_json(drawn.to_json())
        assert (again.seed, again.options, again.steps) == (drawn.seed, drawn.options, drawn.steps)
