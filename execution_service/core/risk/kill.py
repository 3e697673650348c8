"""The kill switch: one versioned document for each scope, engaged at once and by anybody, armed again only by a named person in two steps; no store.

The words are the trade's: the switch is *engaged* to stop, and *armed* to let trade again. What is said here of several switches is always that the
most restrictive counts, and that what is not known lets no new risk pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from execution_service.core.errors import CoreError
from execution_service.core.risk.limits import Scope

ARMING_WAIT = timedelta(seconds=60)
"""At least so long after a switch was last engaged it stays so."""
ARMING_VALID = timedelta(minutes=10)
"""So long after the first step of arming, or after the moment from which the second is allowed, that is taken."""


class KillLevel(StrEnum):
    REDUCE_ONLY = "reduce_only"
    """Exits, cancels and reads pass; no new risk."""
    HALT = "halt"
    """Cancels and reads pass; no order does, not even an exit."""


_STRICTNESS: dict[KillLevel | None, int] = {None: 0, KillLevel.REDUCE_ONLY: 1, KillLevel.HALT: 2}


class ArmingRefused(CoreError):
    """A switch is not armed, or not yet; the message says why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arming:
    """The first of the two steps was made."""

    nonce: str
    person: str
    reason: str
    asked_at: datetime
    not_before: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One document, stored by compare-and-set on `version`; the first that is stored has version 1."""

    scope: Scope
    version: int = 0
    level: KillLevel | None = None
    """None: it is armed, and stops nothing."""
    engaged_at: datetime | None = None
    """When it last was; of one that is armed again, too."""
    by: str = ""
    """Who changed it last, or what did."""
    reason: str = ""
    arming: Arming | None = None
    cancel_entries: bool = False
    """Working entries within the scope are to be cancelled."""

    @property
    def is_engaged(self) -> bool:
        return self.level is not None


def engaged(
    switch: Switch, level: KillLevel, *, by: str, reason: str, now: datetime, cancel_entries: bool = False
) -> Switch:
    """The switch engaged at this level, or at its own if that is stricter. Idempotent: one that is engaged so already is given back as it is, and
    there is nothing to write. Where somebody is about to arm it, that is void and the 60 seconds begin anew: who stops wins."""
    stricter, cancels = strictest((switch.level, level)), cancel_entries or switch.cancel_entries
    if stricter is switch.level and switch.arming is None and cancels is switch.cancel_entries:
        return switch
    return replace(
        switch,
        version=switch.version + 1,
        level=stricter,
        engaged_at=now if switch.engaged_at is None else max(now, switch.engaged_at),
        by=by,
        reason=reason,
        arming=None,
        cancel_entries=cancels,
    )


def arming_asked(switch: Switch, *, person: str, reason: str, nonce: str, now: datetime) -> Switch:
    """The first step of arming: nothing is armed by it. `nonce`: what the second must bring, which nobody can guess. Raises ArmingRefused."""
    _named(person, reason)
    if switch.engaged_at is None or not switch.is_engaged:
        raise ArmingRefused(f"the kill switch of {switch.scope} is not engaged")
    if not nonce:
        raise ArmingRefused("without a nonce there is no second step")
    not_before = max(now, switch.engaged_at + ARMING_WAIT)
    asked = Arming(nonce=nonce, person=person.strip(), reason=reason.strip(), asked_at=now, not_before=not_before)
    return replace(switch, version=switch.version + 1, arming=asked)


def armed(switch: Switch, *, person: str, reason: str, nonce: str, now: datetime) -> Switch:
    """The second step: the switch as it stops nothing any more. By the same person, with the nonce of the first step, at least 60 seconds after it
    was last engaged, by a clock that may have been set back meanwhile. Raises ArmingRefused."""
    _named(person, reason)
    if not switch.is_engaged:
        raise ArmingRefused(f"the kill switch of {switch.scope} is not engaged")
    asked = switch.arming
    if asked is None:
        raise ArmingRefused("the first step of arming was not made, or the switch was engaged again since")
    if nonce != asked.nonce or person.strip() != asked.person:
        raise ArmingRefused("it is not the nonce of the first step, or not its person")
    if now < asked.not_before:
        raise ArmingRefused(
            f"not before {asked.not_before:%H:%M:%S} UTC: at least {ARMING_WAIT.seconds} s after engaging"
        )
    if now > asked.not_before + ARMING_VALID:
        raise ArmingRefused("the first step was made too long ago")
    return replace(
        switch,
        version=switch.version + 1,
        level=None,
        by=asked.person,
        reason=reason.strip(),
        arming=None,
        cancel_entries=False,
    )


def _named(person: str, reason: str) -> None:
    if not person.strip() or not person.isprintable():
        raise ArmingRefused("the person who arms must be named")
    if not reason.strip():
        raise ArmingRefused("the reason for arming must be told")


# --- what it lets pass ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KillState:
    """All switches as they were read for one decision."""

    switches: tuple[Switch, ...] = ()
    is_known: bool = True
    """False: they cannot be read at this moment, and these are the last that were. No new risk passes, and an exit where these let it."""

    def stopping(self, where: Scope) -> tuple[Switch, ...]:
        """Those that are engaged and stop an order of this account, strategy and symbol, the strictest first."""
        found = [switch for switch in self.switches if switch.is_engaged and switch.scope.covers(where)]
        return tuple(sorted(found, key=lambda switch: -_STRICTNESS[switch.level]))

    def level(self, where: Scope) -> KillLevel | None:
        """The strictest that counts there; None: nothing stops."""
        return next((switch.level for switch in self.stopping(where)), None)


def lets_pass(level: KillLevel | None, *, is_exit: bool) -> bool:
    """Whether an order may be sent at that level. Cancels and reads always are, at every level."""
    return level is None or (level is KillLevel.REDUCE_ONLY and is_exit)


def strictest(levels: Iterable[KillLevel | None]) -> KillLevel | None:
    return max(levels, key=_STRICTNESS.__getitem__, default=None)


# --- scopes as people write them ------------------------------------------------------------------------------------


def scope_from_text(text: str) -> Scope:
    """What `str(scope)` writes: `all`, `account:ID`, `strategy:NAME`, `symbol:SYMBOL`, or several of them in this sequence, joined by `+`; a symbol
    in capital letters, as orders have it. Raises ValueError for anything else: a switch of a scope that was guessed would stop somebody else."""
    rest, parts = text, {}
    for kind in ("symbol", "strategy", "account"):
        before, found, name = f"+{rest}".rpartition(f"+{kind}:")
        if found:
            parts[kind], rest = name, before.removeprefix("+")
    symbol = parts.get("symbol")
    scope = Scope(account_id=parts.get("account"), strategy=parts.get("strategy"), symbol=symbol)
    is_odd = rest not in ("", "all") or "" in parts.values() or "+" in (symbol or "")
    if is_odd or str(scope) != text:
        raise ValueError(
            f"{text!r} is no scope: all, account:ID, strategy:NAME, symbol:SYMBOL, or some of them joined by +"
        )
    return scope if symbol is None else replace(scope, symbol=symbol.upper())
