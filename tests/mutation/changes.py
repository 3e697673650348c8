"""Every small change that is tried on a source text, as a new syntax tree; what runs them and judges the outcome is `__main__`."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_CALLS = {"max": "min", "min": "max", "any": "all", "all": "any", "sorted": "list"}
_CLOSED_SETS = {
    "Status": ("PENDING", "SUBMITTED", "CANCELLED"),
    "ReasonCode": ("INVALID_ORDER", "TIMEOUT"),
    "StepKind": ("NONE", "SUBMIT"),
    "ReportStatus": ("WORKING", "CANCELLED"),
    "OrderType": ("MARKET", "STOP"),
    "Purpose": ("ENTRY", "EXIT"),
    "Tif": ("DAY", "IOC"),
}


@dataclass(frozen=True, slots=True)
class Change:
    """`name` tells it apart from every other and stays the same when lines move."""

    name: str
    function: str
    """Qualified name of the function it is in, or of the global that it gives another value."""
    tree: ast.Module


@dataclass(frozen=True, slots=True)
class _Spot:
    node: ast.AST
    function: str
    statement: ast.AST


def changes_of(source: str, functions: Collection[str] | None = None) -> Iterator[Change]:
    """All changes to what is inside functions, and to simple globals; or of these functions and globals alone. Left as they are: annotations,
    decorators, docstrings, defaults of fields and parameters, and the sentences written for people."""
    tree = ast.parse(source)
    names: Counter[str] = Counter()
    for place, spot in _spots(tree):
        if functions is not None and spot.function not in functions:
            continue
        for edit in _edits(spot.node):
            memo: dict[int, Any] = {}
            changed = copy.deepcopy(tree.body[place], memo)
            before = ast.unparse(spot.statement)
            edit(memo[id(spot.node)])
            after = _shown(memo[id(spot.statement)])
            if after == before:
                continue
            name = f"{spot.function}: {_difference(before, after)}"
            names[name] += 1
            if names[name] > 1:
                name = f"{name} (#{names[name]})"
            body = [*tree.body[:place], ast.fix_missing_locations(changed), *tree.body[place + 1 :]]
            yield Change(name, spot.function, ast.Module(body, type_ignores=[]))


def _shown(statement: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(statement))


def _difference(before: str, after: str) -> str:
    """The words that differ, with a little of what stands around them."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    left = max(0, start - 40)
    one, other = before[left : len(before) - max(0, end - 25)], after[left : len(after) - max(0, end - 25)]
    return f"{_line(one)} -> {_line(other)}"


def _line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 160 else f"{words[:90]} … {words[-65:]}"


def _spots(tree: ast.Module) -> Iterator[tuple[int, _Spot]]:
    """Each with the place of the module's statement that it is in."""
    for place, top in enumerate(tree.body):
        for spot in _spots_of(top):
            yield place, spot


def _spots_of(top: ast.stmt) -> Iterator[_Spot]:
    if isinstance(top, ast.Assign) and isinstance(top.targets[0], ast.Name):
        yield from _inside(top.value, top.targets[0].id, top)
    elif isinstance(top, ast.FunctionDef):
        yield from _of_function(top, top.name)
    elif isinstance(top, ast.ClassDef):
        for part in top.body:
            if isinstance(part, ast.FunctionDef):
                yield from _of_function(part, f"{top.name}.{part.name}")


def _of_function(function: ast.FunctionDef, name: str) -> Iterator[_Spot]:
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    for statement in body:
        yield from _inside(statement, name, statement)


def _inside(node: ast.AST, function: str, statement: ast.AST) -> Iterator[_Spot]:
    if isinstance(node, ast.stmt):
        statement = node
    yield _Spot(node, function, statement)
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "args") and not isinstance(node, ast.Call):
            continue
        if isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _inside(child, function, statement)


_Edit = Callable[[Any], None]


def _edits(node: ast.AST) -> list[_Edit]:
    """What can be done to this one node."""
    match node:
        case ast.Compare():
            return [_op_set(n, other()) for n, op in enumerate(node.ops) for other in _COMPARISONS.get(type(op), ())]
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            return [
                _set("op", other),
                *(_without_operand(n) for n in range(len(node.values))),
            ]
        case ast.UnaryOp(op=ast.Not()):
            return [_become(lambda n: ast.UnaryOp(ast.Not(), ast.UnaryOp(ast.Not(), n.operand)))]
        case ast.UnaryOp(op=ast.USub()):
            return [_set("op", ast.UAdd())]
        case ast.BinOp() if type(node.op) in _OPERATORS:
            return [_set("op", _OPERATORS[type(node.op)]())]
        case ast.AugAssign() if type(node.op) in _OPERATORS:
            return [_set("op", _OPERATORS[type(node.op)]())]
        case ast.If() | ast.IfExp():
            return [_set("test", ast.Constant(True)), _set("test", ast.Constant(False))]
        case ast.comprehension():
            return [_without("ifs", n) for n in range(len(node.ifs))]
        case ast.Constant(value=bool()):
            return [_set("value", not node.value)]
        case ast.Constant(value=int() | float()):
            return [_set("value", node.value + 1)]
        case ast.Constant(value=str()) if " " not in node.value:
            return [_set("value", f"{node.value}x")]
        case ast.Call():
            edits = [_without("keywords", n) for n, word in enumerate(node.keywords) if word.arg is not None]
            if isinstance(node.func, ast.Name) and node.func.id in _CALLS:
                edits.append(_set("func", ast.Name(_CALLS[node.func.id], ast.Load())))
            return edits
        case ast.Attribute(value=ast.Name(id=closed_set)) if closed_set in _CLOSED_SETS:
            members = _CLOSED_SETS[closed_set]
            return [_set("attr", next(m for m in members if m != node.attr))] if node.attr.isupper() else []
        case ast.Tuple(ctx=ast.Load()) | ast.Set():
            return [_without("elts", n) for n in range(len(node.elts)) if len(node.elts) > 1]
        case ast.MatchOr():
            return [_without("patterns", n) for n in range(len(node.patterns)) if len(node.patterns) > 2]
        case ast.Match():
            return [_without("cases", n) for n in range(len(node.cases)) if len(node.cases) > 1]
        case ast.match_case(guard=ast.AST()):
            return [_set("guard", None), _set("guard", ast.Constant(False))]
        case ast.Return(value=ast.AST()) if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            return [_set("value", ast.Constant(None))]
        case ast.Expr() | ast.Raise() | ast.AugAssign():
            return [_become(lambda n: ast.Pass())]
    return []


def _op_set(n: int, op: ast.cmpop) -> _Edit:
    def edit(node: Any) -> None:
        node.ops[n] = op

    return edit


def _set(field: str, value: Any) -> _Edit:
    return lambda node: setattr(node, field, value)


def _without(field: str, n: int) -> _Edit:
    return lambda node: getattr(node, field).pop(n)


def _without_operand(n: int) -> _Edit:
    """Of two the other takes the whole's place: `and` and `or` have at least two."""

    def edit(node: Any) -> None:
        if len(node.values) > 2:
            node.values.pop(n)
        else:
            _become(lambda both: both.values[1 - n])(node)

    return edit


def _become(make: Callable[[Any], ast.AST]) -> _Edit:
    def edit(node: Any) -> None:
        new = make(copy.copy(node))
        node.__class__ = type(new)
        kept = {name: getattr(node, name) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset")}
        node.__dict__.clear()
        node.__dict__.update(new.__dict__ | kept)

    return edit
