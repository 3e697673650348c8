"""The list of explained survivors: one that is out of date fails `make mutants`, and is found here without trying a mutant."""

from __future__ import annotations

from execution_service.core.orders.order import apply
from execution_service.core.planning.targets import PlanRefused, Refusal, RefusalCode
from tests.mutation.__main__ import MODULES, complaints, explanations, file_of, mutants_of, source_of
from tests.mutation.changes import changes_of

KNOWN = frozenset({"order.apply: one", "order.apply: other", "position._tidy: third"})


def test_survivors_that_are_explained_and_mutants_that_are_killed_are_no_complaint() -> None:
    outcome = {
        "order.apply: one": "killed",
        "order.apply: other": "survived",
        "position._tidy: third": "killed (endless)",
    }
    assert complaints(outcome, KNOWN, {"order.apply: other"}) == []


def test_a_survivor_without_an_explanation_is_named() -> None:
    assert complaints({"order.apply: one": "survived"}, KNOWN, ()) == ["NEW SURVIVOR  order.apply: one"]


def test_an_explanation_of_what_a_test_notices_is_named() -> None:
    words = ["EXPLAINED, BUT NOTICED BY A TEST  order.apply: one"]
    assert complaints({"order.apply: one": "killed (crash)"}, KNOWN, {"order.apply: one"}) == words


def test_an_explanation_that_no_change_bears_the_name_of_is_named_whatever_was_tried() -> None:
    words = ["EXPLAINED, BUT NO CHANGE OF THIS CODE  order.apply: gone"]
    assert complaints({}, KNOWN, {"order.apply: gone"}) == words
    assert complaints({}, KNOWN, {"order.apply: gone"}, ["order"]) == words


def test_an_explanation_for_a_module_that_is_not_tried_today_is_left_alone_and_one_for_none_is_not() -> None:
    assert complaints({}, KNOWN, {"position._tidy: gone"}, ["order"]) == []
    assert complaints({}, KNOWN, {"nowhere.f: gone"}, ["order"]) == [
        "EXPLAINED, BUT NO CHANGE OF THIS CODE  nowhere.f: gone"
    ]


def test_an_explanation_of_what_was_not_tried_today_stands() -> None:
    assert complaints({"order.apply: one": "killed"}, KNOWN, {"order.apply: other"}) == []


def test_every_explanation_says_why_and_is_of_a_change_of_the_present_code() -> None:
    explained = explanations()
    assert all(explained.values())
    concerned: dict[str, set[str]] = {}
    for name in explained:
        module, _, rest = name.partition(".")
        concerned.setdefault(module, set()).add(rest.partition(": ")[0])
    names = {
        f"{module}.{change.name}"
        for module, functions in concerned.items()
        if module in MODULES
        for change in changes_of(source_of(module), functions)
    }
    assert complaints({}, names, explained) == []


def test_a_call_is_known_by_the_file_that_the_code_of_its_function_names() -> None:
    assert file_of("order") == apply.__code__.co_filename


def test_a_function_that_names_its_class_can_be_changed_to_one_that_does_not() -> None:
    """As one that calls `super()` is where that is left out."""
    found = [each for each in mutants_of("planning_targets", {"PlanRefused.__init__"}) if each.name.endswith("-> pass")]
    (without_super,) = found
    whole = PlanRefused.__init__.__code__
    try:
        without_super.apply()
        assert str(PlanRefused([Refusal(RefusalCode.EMPTY, "nothing")])) != "EMPTY: nothing"
    finally:
        PlanRefused.__init__.__code__ = whole
    assert str(PlanRefused([Refusal(RefusalCode.EMPTY, "nothing")])) == "EMPTY: nothing"
