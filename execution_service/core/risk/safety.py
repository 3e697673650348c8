"""What the answers of the outside safety service mean: whether new risk may pass, and which of our limits its policies tighten. Asks nobody.

Two layouts exist, and both are read. What is not clearly a permission is none: an answer that cannot be read, that has an error in it, that names a
state nobody knows, or that contradicts itself raises `UnclearAnswer`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, NoReturn

from execution_service.core.exact import EXACT, ZERO
from execution_service.core.risk.limits import BUILT_IN, LimitSet, LimitType, RiskLimits, Scope

LARGEST_ANSWER_BYTES = 262_144
LONGEST_WORDS = 120
"""Of what the service says, in a reason for people."""
_LONGEST_NUMBER = 40

ALLOWING = frozenset({"ARMED", "NORMAL", "CAUTION", "DISABLED"})
"""ARMED means that the service watches and nothing has happened; DISABLED, that its owner has switched it off."""
STOPPING = frozenset({"TRIPPED", "COOLING_DOWN", "COOLING", "CRITICAL", "EMERGENCY"})
_PERMISSIONS = ("can_execute", "can_execute_orders")
"""The same in the two layouts."""


class UnclearAnswer(Exception):
    """There is no clear answer of the safety service; the message says why, in words without secrets."""


class NotReached(Exception):
    """The safety service gave no answer; the message says why, in words without secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetyStatus:
    """A clear answer."""

    state: str
    stops: str | None = None
    """Why no new risk may pass, in words; None: it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One value of the service that has a limit of ours, in the limit's own unit."""

    key: str
    limit: LimitType
    value: Decimal


@dataclass(frozen=True, slots=True)
class _Meaning:
    """How a policy's value becomes a limit's. A limit in per cent has a factor of 100, since the service writes parts of one."""

    limit: LimitType
    factor: Decimal
    least: Decimal
    most: Decimal
    """What is beyond these two is written in another unit, or by mistake."""


_PER_CENT, _AS_IT_IS = Decimal(100), Decimal(1)
_TINY = Decimal("0.000001")
MAPPED: Mapping[str, _Meaning] = MappingProxyType(
    {
        "execution.max_slippage_pct": _Meaning(LimitType.MAX_SLIPPAGE_PCT, _PER_CENT, _TINY, Decimal(1)),
        "execution.max_sl_distance_pct": _Meaning(LimitType.MAX_STOP_DISTANCE_PCT, _PER_CENT, _TINY, Decimal(1)),
        "execution.min_sl_buffer_pct": _Meaning(LimitType.MIN_STOP_DISTANCE_PCT, _PER_CENT, ZERO, Decimal("0.99")),
        "execution.max_tp_distance_pct": _Meaning(LimitType.MAX_TARGET_DISTANCE_PCT, _PER_CENT, _TINY, Decimal(10)),
        "rl.max_leverage": _Meaning(LimitType.MAX_LEVERAGE, _AS_IT_IS, _TINY, Decimal(125)),
        "rl.min_confidence": _Meaning(LimitType.MIN_CONFIDENCE, _AS_IT_IS, ZERO, Decimal(1)),
    }
)
"""The keys that have a limit of ours. All others are for parts of that system that are not here."""
_TIGHTER_IF_HIGHER = frozenset({LimitType.MIN_STOP_DISTANCE_PCT, LimitType.MIN_CONFIDENCE})


# --- status ---------------------------------------------------------------------------------------------------------


def read_status(body: bytes) -> SafetyStatus:
    """Of the body of a status answer in either layout. Raises UnclearAnswer."""
    said = _object(body)
    state = said.get("state")
    if not isinstance(state, str) or not state.strip():
        raise UnclearAnswer("its answer names no state")
    state = state.strip().upper()
    permissions = {name: said[name] for name in _PERMISSIONS if name in said}
    for name, value in permissions.items():
        if not isinstance(value, bool):
            raise UnclearAnswer(f"{name} is {_shown(value)}, neither true nor false")
    if len(set(permissions.values())) > 1:
        raise UnclearAnswer("can_execute and can_execute_orders contradict each other")
    may = next(iter(permissions.values()), None)
    if state in STOPPING:
        if may:
            raise UnclearAnswer(f"it says {state}, and that orders may be executed")
        return SafetyStatus(state=state, stops=_stop_words(state, said))
    if state not in ALLOWING:
        raise UnclearAnswer(f"it says {_shown(state)}, a state that is not known here")
    if may is False:
        raise UnclearAnswer(f"it says {state}, and that no orders may be executed")
    return SafetyStatus(state=state)


def _stop_words(state: str, said: Mapping[str, object]) -> str:
    reason = said.get("trip_reason") or said.get("reason")
    more = f": {_shown(reason)}" if isinstance(reason, str) else ""
    return f"the safety service says {state}{more}"


# --- policies -------------------------------------------------------------------------------------------------------


def read_policies(body: bytes) -> tuple[Policy, ...]:
    """Of the body of a policy answer in either layout: by full names or by groups. Keys that nothing here goes by are left out, and so is null.
    Raises UnclearAnswer for a value that makes no sense: which limit was meant is not known then."""
    said = _object(body)
    held = said.get("policies", said)
    if not isinstance(held, Mapping):
        raise UnclearAnswer(f"its policies are {_shown(held)}, no object")
    values: dict[str, object] = {}
    for key, value in _flat(held):
        if key in values and values[key] != value:
            raise UnclearAnswer(f"policy {key} stands there twice, with different values")
        values[key] = value
    found = tuple(_policy(key, meaning, values[key]) for key, meaning in MAPPED.items() if values.get(key) is not None)
    by_limit = {policy.limit: policy.value for policy in found}
    low, high = by_limit.get(LimitType.MIN_STOP_DISTANCE_PCT), by_limit.get(LimitType.MAX_STOP_DISTANCE_PCT)
    if low is not None and high is not None and low > high:
        raise UnclearAnswer("its policies demand a stop farther away than they allow")
    return found


def _flat(held: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """By full names. Two levels are all that any layout has."""
    for key, value in held.items():
        if isinstance(value, Mapping):
            for inner, each in value.items():
                yield f"{key}.{inner}", each
        else:
            yield key, value


def _policy(key: str, meaning: _Meaning, value: object) -> Policy:
    number = _number(value)
    if number is None or not meaning.least <= number <= meaning.most:
        words = f"policy {key} is {_shown(value)}, and would have to be {meaning.least:f} to {meaning.most:f}"
        raise UnclearAnswer(words)
    return Policy(key=key, limit=meaning.limit, value=EXACT.multiply(number, meaning.factor))


def _number(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    if isinstance(value, str) and len(value) > _LONGEST_NUMBER:
        return None
    try:
        number = Decimal(value)
    except (InvalidOperation, ValueError):
        return None
    return number if number.is_finite() else None


def tightened(limits: RiskLimits, policies: Iterable[Policy]) -> RiskLimits:
    """The limits with each policy in every table where it is stricter than what stands there. What is stricter already stays as it is; nothing is
    ever loosened, by an `off` of ours neither."""
    tables = dict(limits.tables)
    for policy in policies:
        tighter: dict[str, Any] = {policy.limit.value: policy.value}
        for scope in dict.fromkeys((Scope(), *tables)):
            table = tables.get(scope, LimitSet())
            ours = table.of(policy.limit)
            if ours is None and scope != Scope():
                continue  # a wider table holds there
            ours = BUILT_IN.of(policy.limit) if ours is None else ours
            if not isinstance(ours, Decimal) or _is_tighter(policy, ours):
                tables[scope] = replace(table, **tighter)
    return replace(limits, tables=MappingProxyType(tables)) if tables != dict(limits.tables) else limits


def _is_tighter(policy: Policy, ours: Decimal) -> bool:
    return policy.value > ours if policy.limit in _TIGHTER_IF_HIGHER else policy.value < ours


# --- reading --------------------------------------------------------------------------------------------------------


def _object(body: bytes) -> Mapping[str, object]:
    """The JSON object of an answer that reports no error. Raises UnclearAnswer."""
    if len(body) > LARGEST_ANSWER_BYTES:
        raise UnclearAnswer(f"its answer is longer than {LARGEST_ANSWER_BYTES} bytes")
    try:
        said = json.loads(
            body.decode("utf-8"), parse_float=Decimal, parse_constant=_refuse, object_pairs_hook=_without_repetition
        )
    except (ValueError, RecursionError, InvalidOperation) as exc:
        raise UnclearAnswer("its answer is no JSON that can be read") from exc
    if not isinstance(said, dict):
        raise UnclearAnswer("its answer is no object")
    if said.get("error"):
        raise UnclearAnswer(f"it reports an error: {_shown(said['error'])}")
    if said.get("healthy", True) is not True:
        raise UnclearAnswer("it says that it is not healthy")
    return said


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _shown(value: object) -> str:
    """In a reason for people: one line of bounded length."""
    words = " ".join((value if isinstance(value, str) else repr(value)).split())
    words = "".join(c if c.isprintable() else "?" for c in words)
    return words if len(words) <= LONGEST_WORDS else f"{words[:LONGEST_WORDS]}…"
