"""`make mutants`: tries every small change of the state machine, the risk gate, the planner and the matcher, and demands that a test notices it."""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import importlib
import os
import pickle
import signal
import sys
import time
import tomllib
import types
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.mutation.changes import Change, changes_of

REPOSITORY = Path(__file__).resolve().parent.parent.parent
ORDERS = (
    "events",
    "exits",
    "legs",
    "next_step",
    "order",
    "report_events",
    "request",
    "status",
    "tickets",
    "transitions",
)
CORE = "execution_service.core"
RISK = ("book", "counters", "documents", "exposure", "gate", "kill", "limits", "prices", "sizing", "verdict")
QUALITY = ("order_quality", "slippage", "summary")
PLANNING = ("plan", "progress", "quantities", "rounds", "rules", "stances", "targets", "terms")
MODULES = {
    **{name: f"{CORE}.orders.{name}" for name in ORDERS},
    "position": f"{CORE}.positions.position",
    **{f"risk_{name}": f"{CORE}.risk.{name}" for name in RISK},
    **{f"planning_{name}": f"{CORE}.planning.{name}" for name in PLANNING},
    **{name: f"{CORE}.quality.{name}" for name in QUALITY},
    "matcher": "simulation.matching.kernel",
}
"""By its name in a mutant's, the place of each module."""
USUAL_MODULES = tuple(name for name in MODULES if not name.startswith("risk_") and name != "matcher")
"""Those that are tried unless others are asked for. Of the risk gate's the survivors that nothing can notice are not all explained yet; the matcher
has tests of its own."""
TESTS = ("tests/core", "tests/test_docs.py")
MATCHER_TESTS = (
    "tests/simulated/test_kernel.py",
    "tests/simulated/test_matching.py",
    "tests/simulated/test_money.py",
    "tests/simulated/test_matching_properties.py",
)
EXPLAINED = Path(__file__).parent / "survivors.toml"
LONGEST_SECONDS = 120
"""Of the processor's time, and ten times as much by the clock: a busy machine makes no mutant endless."""
KILLED, SURVIVED = 1, 0


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    function: str | None
    """The function that it is in, as tests are known to call it; None: any test may notice it."""
    apply: Callable[[], None]


# --- what is tried ----------------------------------------------------------------------------------------------------


def mutants_of(name: str, functions: Collection[str] | None = None) -> Iterator[Mutant]:
    """All of a module, or those of these functions and globals alone."""
    module = importlib.import_module(MODULES[name])
    for change in changes_of(source_of(name), functions):
        target = _target(module, change.function)
        if isinstance(target, types.FunctionType):
            yield Mutant(f"{name}.{change.name}", f"{name}.{change.function}", _with_code(target, change))
        elif not isinstance(target, types.MappingProxyType):
            yield Mutant(f"{name}.{change.name}", None, _with_global(module, change))
    if name == "transitions":
        yield from _table_mutants(module)


def source_of(name: str) -> str:
    place = file_of(name)
    assert place is not None
    return Path(place).read_text(encoding="utf-8")


def file_of(name: str) -> str | None:
    """As the functions of that module name the file that they are from."""
    return importlib.import_module(MODULES[name]).__file__


def _target(module: types.ModuleType, qualified: str) -> Any:
    """The function itself, beneath a property or a cache; or the value of the global."""
    found: Any = module
    for part in qualified.split("."):
        found = vars(found)[part]
    if isinstance(found, property):
        return found.fget
    if isinstance(found, cached_property):
        return found.func
    return getattr(found, "__wrapped__", found)


def _with_code(function: types.FunctionType, change: Change) -> Callable[[], None]:
    # Compiled here and not in the child: what does not compile would pass for noticed there.
    code = compile(_as_bound(change, function), function.__code__.co_filename, "exec")
    made = next(c for c in _codes(code) if c.co_qualname == change.function)
    assert made.co_freevars == function.__code__.co_freevars

    def apply() -> None:
        function.__code__ = made

    return apply


def _as_bound(change: Change, function: types.FunctionType) -> ast.Module:
    """The changed module, in which the function still names each variable of those around it: without its `super()` it would have none of them, and
    Python takes no code in its place that is bound otherwise."""
    bound = function.__code__.co_freevars
    if not bound:
        return change.tree
    tree = copy.deepcopy(change.tree)
    found: ast.Module | ast.ClassDef | ast.FunctionDef = tree
    for part in change.function.split("."):
        inner = (each for each in found.body if isinstance(each, ast.ClassDef | ast.FunctionDef))
        found = next(each for each in inner if each.name == part)
    never = ast.If(ast.Constant(False), [ast.Expr(ast.Name(name, ast.Load())) for name in bound], [])
    found.body.insert(0, never)
    return ast.fix_missing_locations(tree)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _with_global(module: types.ModuleType, change: Change) -> Callable[[], None]:
    def apply() -> None:
        (value,) = (
            top.value
            for top in change.tree.body
            if isinstance(top, ast.Assign)
            and isinstance(top.targets[0], ast.Name)
            and top.targets[0].id == change.function
        )
        made = eval(compile(ast.Expression(value), "<changed>", "eval"), vars(module))
        plain = vars(module)[change.function]
        for place, other in tuple(sys.modules.items()):
            # Those too that imported it by name; not the tests, which must go by what was meant.
            if place.startswith(("execution_service.", "simulation.")) and vars(other).get(change.function) is plain:
                setattr(other, change.function, made)

    return apply


def _table_mutants(module: types.ModuleType) -> Iterator[Mutant]:
    """Each transition left out, and led elsewhere; each absent one let in."""
    (table,) = (each for each in gc.get_referents(module.TRANSITIONS) if isinstance(each, dict))
    events = sorted({kind for _, kind in table}, key=lambda kind: kind.__name__)
    for status in module.Status:
        for kind in events:
            key, present = (status, kind), table.get((status, kind))
            other = next(s for s in module.Status if s is not present)
            here = f"transitions.TRANSITIONS: ({status}, {kind.__name__})"
            if present is None:
                yield Mutant(f"{here} let in", None, _entry_set(table, key, other))
            else:
                yield Mutant(f"{here} left out", None, _entry_set(table, key, None))
                yield Mutant(f"{here} leads to {other}", None, _entry_set(table, key, other))


def _entry_set(table: dict[Any, Any], key: Any, value: Any) -> Callable[[], None]:
    def apply() -> None:
        table.pop(key, None)
        if value is not None:
            table[key] = value

    return apply


# --- which test sees it ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """What one test did without any change."""

    item: int
    seconds: float
    functions: frozenset[str]


class Judge:
    """Takes over pytest's loop once the tests are collected: each mutant lives in a child process of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.outcome: dict[str, str] = {}
        self.names: frozenset[str] = frozenset()
        """Of all mutants of the modules, also of those that are not asked for."""
        self.tried = self.all = 0
        self._tell_failure: int | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and _in_child:
            if self._tell_failure is not None:
                os.write(self._tell_failure, f"{report.nodeid}\n{report.longreprtext}".encode()[-4000:])
            os._exit(KILLED)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        seen = self._look(session)
        total = Counter({"all": 0})
        began = time.monotonic()
        running: dict[int, str] = {}
        mutants = [m for name in self.options.modules for m in mutants_of(name)]
        self.names = frozenset(mutant.name for mutant in mutants)
        watched = {function.partition(".")[0] for test in seen for function in test.functions}
        unseen = {mutant.function.partition(".")[0] for mutant in mutants if mutant.function} - watched
        if unseen:
            # Every mutant of theirs would pass for one that no test notices.
            raise pytest.UsageError(f"no test is seen to call a function of {', '.join(sorted(unseen))}")
        mutants = [mutant for mutant in mutants if self.options.only in mutant.name]
        if self.options.again is not None:
            named = set(self.options.again.read_text(encoding="utf-8").splitlines())
            mutants = [mutant for mutant in mutants if mutant.name in named]
        for mutant in mutants:
            while len(running) >= self.options.workers:
                self._reap(running, total)
            if time.monotonic() - began > self.options.seconds:
                break
            running[_child(lambda m=mutant: _try(m, _watchers(m, seen), session))] = mutant.name
        while running:
            self._reap(running, total)
        self.tried, self.all = total["all"], len(mutants)
        return True

    def _look(self, session: pytest.Session) -> list[Seen]:
        """Runs every test once, in a child, and notes which functions of the modules it calls."""
        here, there = os.pipe()

        def watch() -> None:
            self._tell_failure = there
            found = [_watched(n, item) for n, item in enumerate(session.items)]
            with os.fdopen(there, "wb") as pipe:
                pickle.dump(found, pipe)
            os._exit(SURVIVED)

        child = _child(watch, seconds=20 * LONGEST_SECONDS)
        os.close(there)
        with os.fdopen(here, "rb") as pipe:
            written = pipe.read()
        _, status = os.waitpid(child, 0)
        if status:
            raise pytest.UsageError(f"a test fails without any change:\n{written.decode(errors='replace')}")
        seen: list[Seen] = pickle.loads(written)
        if not any(test.functions for test in seen):
            raise pytest.UsageError("no test was seen to call anything of these modules: every change would survive")
        return sorted(seen, key=lambda test: test.seconds)

    def _reap(self, running: dict[int, str], total: Counter[str]) -> None:
        child, status = os.wait()
        name = running.pop(child)
        total["all"] += 1
        if os.WIFSIGNALED(status):
            self.outcome[name] = "killed (endless)" if os.WTERMSIG(status) in _TOO_LONG else "killed (crash)"
        else:
            self.outcome[name] = "survived" if os.WEXITSTATUS(status) == SURVIVED else "killed"
        if self.options.verbose:
            print(f"{self.outcome[name]}: {name}", flush=True)


_in_child = False
_TOO_LONG = (signal.SIGPROF, signal.SIGALRM)


def _child(work: Callable[[], None], *, seconds: int = LONGEST_SECONDS) -> int:
    global _in_child
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    _in_child = True
    try:
        for each in _TOO_LONG:
            signal.signal(each, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.alarm(10 * seconds)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        work()
    finally:
        os._exit(KILLED)
    return 0


def _watched(number: int, item: pytest.Item) -> Seen:
    called: set[str] = set()
    names = {file_of(name): name for name in MODULES}

    def note(frame: types.FrameType, event: str, _: Any) -> None:
        if event == "call":
            code = frame.f_code
            name = names.get(code.co_filename)
            if name is not None:
                called.add(f"{name}.{code.co_qualname.split('.<locals>')[0]}")

    began = time.perf_counter()
    sys.setprofile(note)
    try:
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    finally:
        sys.setprofile(None)
    return Seen(number, time.perf_counter() - began, frozenset(called))


def _watchers(mutant: Mutant, seen: Iterable[Seen]) -> list[int]:
    return [test.item for test in seen if mutant.function is None or mutant.function in test.functions]


def _try(mutant: Mutant, items: Sequence[int], session: pytest.Session) -> None:
    mutant.apply()
    for number in items:
        item = session.items[number]
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    os._exit(SURVIVED)


# --- the verdict --------------------------------------------------------------------------------------------------------


def explanations() -> dict[str, str]:
    """Why a mutant may survive, by its name."""
    return {e["mutant"]: e["why"] for e in tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))["survivor"]}


def complaints(
    outcome: Mapping[str, str], names: Collection[str], explained: Collection[str], modules: Collection[str] = MODULES
) -> list[str]:
    """What stands against the tests and the list of explanations. `outcome` is of those mutants that were tried, `names` are all that the
    code of `modules` has; explanations for other modules are not looked at."""
    stale = [n for n in explained if n.partition(".")[0] in modules or n.partition(".")[0] not in MODULES]
    return [
        *(f"NEW SURVIVOR  {n}" for n in sorted(outcome) if outcome[n] == "survived" and n not in explained),
        *(f"EXPLAINED, BUT NOTICED BY A TEST  {n}" for n in sorted(stale) if outcome.get(n, "survived") != "survived"),
        *(f"EXPLAINED, BUT NO CHANGE OF THIS CODE  {n}" for n in sorted(stale) if n not in names),
    ]


def main() -> int:
    """0: every survivor is explained in survivors.toml, and what is explained there survives. 1: not so, or not all could be tried in
    the time given."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--modules", nargs="+", choices=tuple(MODULES), default=USUAL_MODULES)
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    parser.add_argument("--again", type=Path, metavar="FILE", help="only the mutants named in the file, one a line")
    parser.add_argument("--seconds", type=float, default=3600.0, help="no new one is begun after so long")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="print each outcome as it is found")
    options = parser.parse_args()
    os.chdir(REPOSITORY)
    # The same examples each time, or a survivor of today would be killed tomorrow.
    hypothesis.settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("mutants")
    judge = Judge(options)
    began = time.monotonic()
    # Without its terminal reporter pytest says nothing of the thousand tests that fail here.
    tests = [
        *(TESTS if set(options.modules) - {"matcher"} else ()),
        *(MATCHER_TESTS if "matcher" in options.modules else ()),
    ]
    arguments = [*tests, "-o", "addopts=", "-o", "timeout=0", "-p", "no:cacheprovider", "-p", "no:terminal"]
    status = pytest.main(arguments, plugins=[judge])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return 1
    explained = explanations()
    survivors = {name for name, outcome in judge.outcome.items() if outcome == "survived"}
    print(f"{'module':<15}{'mutants':>9}{'killed':>9}{'explained':>11}{'new':>6}")
    for module in options.modules:
        of = [name for name in judge.outcome if name.startswith(f"{module}.")]
        left = [name for name in of if name in survivors]
        print(
            f"{module:<15}{len(of):>9}{len(of) - len(left):>9}{len([n for n in left if n in explained]):>11}"
            f"{len([n for n in left if n not in explained]):>6}"
        )
    print(f"{judge.tried} of {judge.all} tried in {time.monotonic() - began:.0f} s")
    against = complaints(judge.outcome, judge.names, explained, options.modules)
    for words in against:
        print(words)
    return 1 if against or judge.tried < judge.all else 0


if __name__ == "__main__":
    sys.exit(main())
