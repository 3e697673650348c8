"""Small changes as they are made: of another meaning each, and such that Python takes them."""

from __future__ import annotations

import ast

from tests.mutation.changes import changes_of


def made(statement: str) -> set[str]:
    """The function's last statement after each change. Raises what Python says of one that it does not take."""
    changed = [change.tree for change in changes_of(f"def f(a, b, c):\n    {statement}\n")]
    for tree in changed:
        compile(tree, "<changed>", "exec")
    return {ast.unparse(tree).splitlines()[-1].strip() for tree in changed}


def test_of_two_operands_each_is_left_alone_once() -> None:
    assert made("return a and b") == {"return a or b", "return a", "return b", "return None"}
    assert {"return a", "return b or c"} <= made("return a and (b or c)")


def test_of_three_operands_each_is_left_out_once() -> None:
    assert {"return b or c", "return a or c", "return a or b"} <= made("return a or b or c")


def test_the_changes_of_some_functions_are_those_of_all_that_are_in_them() -> None:
    source = (
        "MOST = 3\n\ndef f(a):\n    return not a\n\nclass C:\n    def g(self, a, b):\n        return a < b and a + 1\n"
    )
    every = [change.name for change in changes_of(source)]
    assert [change.name for change in changes_of(source, {"C.g"})] == [n for n in every if n.startswith("C.g: ")]
    assert [change.name for change in changes_of(source, {"MOST"})] == ["MOST: MOST = 3 -> MOST = 4"]
