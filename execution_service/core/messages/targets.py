"""Lists of target positions as messages, and what is told of a plan: the wire forms of the topics `target-positions` and `execution-plan-results`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from brokers.base import Instrument
from execution_service.core.messages.fields import Fields, UnreadableMessage, object_of, written
from execution_service.core.messages.inbound import Unusable, parse_order
from execution_service.core.orders.request import OrderRequest
from execution_service.core.planning.plan import Leg, Plan, signal_id_of
from execution_service.core.planning.progress import Progress, Release
from execution_service.core.planning.records import PlanRecord
from execution_service.core.planning.rounds import ended, exposure
from execution_service.core.planning.targets import (
    Aggressiveness,
    ExpectedHolding,
    Mode,
    OnPartial,
    Target,
    TargetPositions,
    on_partial_of,
)

MOST_TARGETS = 10_000
_MODES = MappingProxyType({mode.value: mode for mode in Mode})
_AGGRESSIVENESS = MappingProxyType({each.value: each for each in Aggressiveness})
_KNOWN = frozenset(
    {
        *("decision_id", "account_id", "strategy_id", "as_of", "mode", "targets", "complete", "allow_flatten"),
        *("aggressiveness", "valid_until", "profile_version_id", "regime_id", "universe_id", "expected_positions"),
        "on_partial",
    }
)
_INSTRUMENT = (
    *("symbol", "instrument", "instrument_type", "exchange", "expiry", "strike", "right", "currency", "multiplier"),
    *("underlying", "con_id", "trading_class", "isin"),
)
_OF_TARGET = frozenset({*_INSTRUMENT, "quantity", "weight"})
LONGEST_CONTEXT = 128
_PROBE = {"signal_id": "target", "account_id": "a", "strategy_name": "s", "side": "BUY", "order_type": "MARKET"}


@dataclass(frozen=True, slots=True)
class UnusableTargets:
    """No list of targets; `problems` are all that is wrong with it."""

    problems: tuple[str, ...]


def parse_targets(text: str) -> TargetPositions | UnusableTargets:
    """A JSON object. A field that nobody reads is wrong: it may have been meant to change what is traded."""
    try:
        values = object_of(text)
    except UnreadableMessage as exc:
        return UnusableTargets((str(exc),))
    fields = Fields(values)
    fields.problems += [f"{name} is not known" for name in fields.names if name not in _KNOWN]
    names = {name: _required(fields, name) for name in ("decision_id", "account_id", "strategy_id")}
    as_of, valid_until = _moment(fields, "as_of", is_required=True), _moment(fields, "valid_until")
    if not fields.has("mode"):
        fields.problems.append("mode is missing")
    mode = fields.word("mode", _MODES)
    aggressiveness = fields.word("aggressiveness", _AGGRESSIVENESS) or Aggressiveness.NORMAL
    complete, allow_flatten = _truth(fields, "complete"), _truth(fields, "allow_flatten")
    targets = tuple(_targets(fields))
    expected = tuple(_expected(fields))
    on_partial = _on_partial(fields)
    context = {name: _context(fields, name) for name in ("profile_version_id", "regime_id", "universe_id")}
    if fields.problems or as_of is None or mode is None:
        return UnusableTargets(tuple(fields.problems))
    return TargetPositions(
        decision_id=names["decision_id"] or "",
        account_id=names["account_id"] or "",
        strategy_id=names["strategy_id"] or "",
        as_of=as_of,
        mode=mode,
        targets=targets,
        complete=complete,
        allow_flatten=allow_flatten,
        aggressiveness=aggressiveness,
        valid_until=valid_until,
        expected_positions=expected,
        on_partial=on_partial,
        **context,
    )


def content_of(targets: TargetPositions) -> str:
    """Equal for lists that mean the same, whatever the sequence of their targets."""
    ordered = sorted(targets.targets, key=lambda target: target.instrument.full_key)
    text = repr(replace(targets, targets=tuple(ordered), on_partial=None))
    # As it was before there was this field, so that what was stored then is still known again.
    text = text.removesuffix(", on_partial=None)") + ")"
    if targets.on_partial is not None:
        text += f" {targets.on_partial}"
    return sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _required(fields: Fields, name: str) -> str | None:
    if not fields.has(name):
        fields.problems.append(f"{name} is missing")
    return _context(fields, name)


def _context(fields: Fields, name: str) -> str | None:
    text = fields.text(name)
    if text is not None and len(text) > LONGEST_CONTEXT:
        fields.wrong(name, f"at most {LONGEST_CONTEXT} characters long")
        return None
    return text


def _moment(fields: Fields, name: str, *, is_required: bool = False) -> datetime | None:
    value = fields.get(name)
    if value is None:
        if is_required:
            fields.problems.append(f"{name} is missing")
        return None
    try:
        at = datetime.fromisoformat(value) if type(value) is str else None
        at = None if at is None or at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):  # the end of the last year, in a zone behind
        at = None
    if at is None:
        fields.wrong(name, "a time in ISO 8601 with Z or an offset")
        return None
    # As a store keeps it.
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def _truth(fields: Fields, name: str) -> bool:
    value = fields.get(name)
    if value is None or isinstance(value, bool):
        return value is True
    fields.wrong(name, "true or false")
    return False


def _on_partial(fields: Fields) -> OnPartial | None:
    text = fields.text("on_partial")
    try:
        return None if text is None else on_partial_of(text)
    except ValueError as exc:
        fields.wrong("on_partial", f"REPORT, RETRY n or UNWIND ({exc})")
        return None


def _objects(fields: Fields, name: str, *, is_required: bool) -> Iterable[Fields]:
    value = fields.get(name)
    if value is None and not is_required:
        return
    if not isinstance(value, list) or len(value) > MOST_TARGETS:
        fields.wrong(name, f"a list of at most {MOST_TARGETS}")
        return
    for number, each in enumerate(value):
        if not isinstance(each, dict):
            fields.problems.append(f"{name}[{number}] must be an object")
            continue
        inner = Fields(each)
        yield inner
        fields.problems += [f"{name}[{number}]: {problem}" for problem in inner.problems]


def _targets(fields: Fields) -> Iterable[Target]:
    for inner in _objects(fields, "targets", is_required=True):
        inner.problems += [f"{name} is not known" for name in inner.names if name not in _OF_TARGET]
        instrument = _instrument(inner)
        quantity, weight = inner.number("quantity"), inner.number("weight")
        if inner.has("quantity") == inner.has("weight"):
            inner.problems.append("either quantity or weight is needed, and not both")
        if instrument is not None and (quantity is None) != (weight is None):
            yield Target(instrument=instrument, quantity=quantity, weight=weight)


def _expected(fields: Fields) -> Iterable[ExpectedHolding]:
    for inner in _objects(fields, "expected_positions", is_required=False):
        instrument, quantity = _instrument(inner), inner.number("quantity")
        if quantity is None and not inner.has("quantity"):
            inner.problems.append("quantity is missing")
        if instrument is not None and quantity is not None:
            yield ExpectedHolding(key=instrument.key, quantity=quantity)


def _instrument(fields: Fields) -> Instrument | None:
    """Read as the order will be that trades it: what an order could not name is no target."""
    named = {name: fields.get(name) for name in _INSTRUMENT if fields.has(name)}
    parsed = parse_order(json.dumps(_PROBE | {"quantity": "1"} | _json(named)).encode("utf-8", "backslashreplace"))
    if isinstance(parsed, Unusable):
        fields.problems.append(parsed.reason)
        return None
    fields.problems += parsed.problems
    return parsed.request.instrument if isinstance(parsed.request, OrderRequest) else None


def _json(values: Mapping[str, object]) -> dict[str, Any]:
    """Numbers are read as text, and text of digits is read as a number again."""
    return {name: value if isinstance(value, str | bool) else written(value) for name, value in values.items()}


def fields_of_instrument(instrument: Instrument) -> dict[str, Any]:
    """As an order names it."""
    named: dict[str, Any] = {
        "symbol": instrument.symbol,
        "instrument_type": instrument.asset_class.value,
        "exchange": instrument.exchange,
        "expiry": instrument.expiry,
        "strike": None if instrument.strike is None else f"{instrument.strike:f}",
        "right": None if instrument.right is None else instrument.right.value,
        "currency": instrument.currency,
        "multiplier": None if instrument.multiplier is None else f"{instrument.multiplier:f}",
        "underlying": instrument.underlying,
        "con_id": instrument.con_id,
        "trading_class": instrument.trading_class,
        "isin": instrument.isin,
    }
    return {name: value for name, value in named.items() if value is not None}


def order_of(plan: Plan, release: Release) -> bytes:
    """The message of a released order: an ordinary signal of its own, that rests for the day and no longer."""
    targets, leg, terms = plan.targets, plan.leg(release.leg), release.terms
    body: dict[str, Any] = {
        "signal_id": release.signal_id,
        "account_id": targets.account_id,
        "strategy_name": targets.strategy_id,
        "signal_type": "EXIT" if leg.is_exit else "ENTRY",
        "side": leg.side.value,
        "quantity": f"{release.quantity:f}",
        "order_type": terms.order_type.value,
        "limit_price": _decimal(terms.limit_price),
        "tif": terms.tif.value,
        "timeout_seconds": terms.timeout_seconds,
        **fields_of_instrument(leg.instrument),
        "plan_id": plan.plan_id,
        "decision_id": targets.decision_id,
        "profile_version_id": targets.profile_version_id,
        "regime_id": targets.regime_id,
        "universe_id": targets.universe_id,
    }
    return json.dumps({name: value for name, value in body.items() if value is not None}).encode()


def plan_shown(plan: Plan) -> dict[str, Any]:
    """What a plan would do, before anything is done: its orders in the sequence in which they are to be sent, increases as far as cash allows."""
    return _head(plan) | {
        "orders": [
            {
                "leg": leg.number,
                "signal_id": signal_id_of(plan.plan_id, leg.number, 0),
                "side": leg.side.value,
                "quantity": f"{leg.quantity:f}",
                "slices": [f"{each:f}" for each in leg.slices],
                "phase": leg.phase.value,
                **fields_of_instrument(leg.instrument),
            }
            for leg in plan.in_sequence()
            if leg.quantity
        ],
        "legs": [_leg(leg) for leg in plan.legs],
    }


def plan_result(
    record: PlanRecord, rounds: Sequence[Progress], trade_ids: Iterable[str], now: datetime
) -> dict[str, Any]:
    """How a decision has ended: reached, or by how much not and why. `rounds`: its plan, and what followed where it ended short."""
    first, end = rounds[0], ended(record, rounds)
    told = exposure(first, end.residuals)
    return _head(first.plan) | {
        "state": end.state.value,
        "legs": _ended_legs(first),
        "rounds": [
            {"kind": each.kind.value, "plan_id": each.plan.plan_id, "state": at.state.value, "legs": _ended_legs(at)}
            for each, at in zip(record.rounds[1:], rounds[1:], strict=True)
        ],
        "unwound": end.is_unwound,
        "residuals": {key: f"{quantity:f}" for key, quantity in end.residuals.items()},
        "exposure": {
            "net": f"{told.net:f}",
            "gross": f"{told.gross:f}",
            "target_net": f"{told.target_net:f}",
            "target_gross": f"{told.target_gross:f}",
            "unpriced": list(told.unpriced),
        },
        "trade_ids": list(trade_ids),
        "timestamp": _iso(now),
    }


def _ended_legs(at: Progress) -> list[dict[str, Any]]:
    return [
        _leg(leg) | {"filled": f"{at.filled[leg.number]:f}", "residual": f"{at.residual(leg):f}"} for leg in at.legs
    ]


def _head(plan: Plan) -> dict[str, Any]:
    targets = plan.targets
    return {
        "plan_id": plan.plan_id,
        "decision_id": targets.decision_id,
        "account_id": targets.account_id,
        "strategy_id": targets.strategy_id,
        "mode": targets.mode.value,
        "as_of": _iso(targets.as_of),
        "planned_at": _iso(plan.planned_at),
        "profile_version_id": targets.profile_version_id,
        "regime_id": targets.regime_id,
        "universe_id": targets.universe_id,
    }


def _leg(leg: Leg) -> dict[str, Any]:
    return {
        "leg": leg.number,
        "instrument": leg.instrument.key,
        "symbol": leg.instrument.symbol,
        "side": leg.side.value,
        "phase": leg.phase.value,
        "target": f"{leg.target:f}",
        "held": f"{leg.held:f}",
        "wanted": f"{leg.wanted:f}",
        "quantity": f"{leg.quantity:f}",
        "price": _decimal(leg.price),
        "state": leg.state.value,
        "reason": None if leg.reason is None else leg.reason.value,
        "note": leg.note or None,
    }


def _decimal(value: Decimal | None) -> str | None:
    return None if value is None else f"{value:f}"


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
