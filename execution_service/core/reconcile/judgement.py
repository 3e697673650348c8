"""Which differences have lasted long enough to be opened, changed or closed, by what earlier readings showed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from execution_service.core.reconcile.discrepancies import OF_POSITIONS, DiscrepancyKind, Finding, Key

READINGS = 2
"""A difference is opened after it was seen in so many consecutive readings, and closed after it was missing in as
many."""
LASTING_SECONDS = 30.0
"""How long a difference must last, besides, if the broker's lists may merely be late."""
_SURE = frozenset({DiscrepancyKind.IN_DOUBT, DiscrepancyKind.OVERFILLED, DiscrepancyKind.EARLIER_ATTEMPT_FILLED})
"""Proven by our own record alone: one reading is enough."""
_LASTING = frozenset({DiscrepancyKind.ORDER_NOT_SHOWN, DiscrepancyKind.FILLS_MISSING})


# --- lasting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A difference that has not lasted long enough yet, or that has been opened."""

    steady: str
    since: float
    """Seconds of a monotonic clock."""
    readings: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What earlier readings showed."""

    suspicions: Mapping[Key, Suspicion] = field(default_factory=lambda: MappingProxyType({}))
    absences: Mapping[Key, int] = field(default_factory=lambda: MappingProxyType({}))
    """Of the open differences: in how many consecutive readings each was missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    watch: Watch
    opened: tuple[Finding, ...] = ()
    changed: tuple[Finding, ...] = ()
    """Open differences whose values have changed."""
    replaced: tuple[Finding, ...] = ()
    """Open differences that have turned into others and lasted as such, so that what people were told no longer
    holds."""
    closed: tuple[Key, ...] = ()
    unconfirmed: tuple[Finding, ...] = ()
    """Seen, but not for long enough."""

    @property
    def is_unsettled(self) -> bool:
        """Whether another reading soon would settle something."""
        return bool(self.unconfirmed or self.watch.absences)


def judge(
    watch: Watch,
    open_now: Mapping[Key, Finding],
    findings: Iterable[Finding],
    *,
    judged: AbstractSet[DiscrepancyKind],
    held_back: AbstractSet[Key] = frozenset(),
    now: float,
    lasting_seconds: float = LASTING_SECONDS,
) -> Judgement:
    """The effect of one more reading on what is open and suspected. `judged`: the kinds that this reading could see;
    `held_back`: differences about orders or positions that changed during it, on which it has no say. `now` is of a
    monotonic clock."""
    found = {f.key: f for f in findings if f.kind in judged and f.key not in held_back}
    suspicions: dict[Key, Suspicion] = {
        key: suspicion
        for key, suspicion in watch.suspicions.items()
        if key not in found and (key[0] not in judged or key in held_back)
    }
    opened: list[Finding] = []
    changed: list[Finding] = []
    replaced: list[Finding] = []
    unconfirmed: list[Finding] = []
    for key, finding in found.items():
        before = watch.suspicions.get(key)
        if before is None or before.steady != finding.sameness:
            suspicion = Suspicion(steady=finding.sameness, since=now)
        else:
            suspicion = replace(before, readings=before.readings + 1)
        suspicions[key] = suspicion
        has_lasted = _has_lasted(finding.kind, suspicion, now, lasting_seconds)
        if key not in open_now:
            (opened if has_lasted else unconfirmed).append(finding)
        elif _is_another(open_now[key], finding):
            (replaced if has_lasted else unconfirmed).append(finding)
        elif (finding.ours, finding.theirs) != (open_now[key].ours, open_now[key].theirs):
            changed.append(_as_known(finding, open_now[key]))
    absences: dict[Key, int] = {}
    closed = []
    for key in open_now:
        if key in found:
            continue
        if key[0] not in judged or key in held_back:
            if key in watch.absences:
                absences[key] = watch.absences[key]
            continue
        missed = watch.absences.get(key, 0) + 1
        if missed >= READINGS:
            closed.append(key)
        else:
            absences[key] = missed
    return Judgement(
        watch=Watch(suspicions=suspicions, absences=absences),
        opened=tuple(opened),
        changed=tuple(changed),
        replaced=tuple(replaced),
        closed=tuple(closed),
        unconfirmed=tuple(unconfirmed),
    )


def _is_another(opened: Finding, finding: Finding) -> bool:
    """Whether a position difference has turned into another: its amount changed (our own fills do not change it), or
    what replaced the position, or how the broker recorded it, became known."""
    if finding.kind not in OF_POSITIONS:
        return False
    is_explained = bool(finding.successor) and finding.successor != opened.successor
    is_explained |= bool(finding.recorded) and finding.recorded != opened.recorded
    return finding.steady != opened.steady or is_explained


def _as_known(finding: Finding, opened: Finding) -> Finding:
    """With the known facts about the difference, which a later reading may no longer show."""
    return replace(
        finding,
        note=finding.note or opened.note,
        successor=finding.successor or opened.successor,
        recorded=finding.recorded or opened.recorded,
        before=opened.before,
    )


def _has_lasted(kind: DiscrepancyKind, suspicion: Suspicion, now: float, lasting_seconds: float) -> bool:
    if kind in _SURE:
        return True
    is_long = kind not in _LASTING or now - suspicion.since >= lasting_seconds
    return suspicion.readings >= READINGS and is_long
