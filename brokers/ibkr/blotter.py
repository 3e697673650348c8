"""What the gateway has sent about an account's orders, combined into reports. No socket, no clock."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from brokers.base import Combination, Fill, Instrument, Report, ReportStatus, Side, Unreadable

_VERSIONED = re.compile(r"(?P<base>.+)\.(?P<version>\d{1,3})", re.ASCII | re.DOTALL)
"""More digits are no version number: every version below it would be reported as busted."""
_CANCELLED = frozenset({"Cancelled", "ApiCancelled"})
_FINAL = frozenset({"Filled", *_CANCELLED})
_NO_STATUS_OF_THE_SERVER = frozenset({"", "PendingSubmit", "ApiPending", "ApiUpdate", "ValidationError"})
_WORKING = frozenset({"PreSubmitted", "Submitted", "PendingCancel"})
_LOOKS = 2
_COMBINATIONS_REMEMBERED = 20_000


def base_of(exec_id: str) -> str:
    """The part of an execution id that all its versions share."""
    found = _VERSIONED.fullmatch(exec_id)
    return exec_id if found is None else found["base"]


def _id_by_execution(base: str) -> str:
    """The id of an order that is known by this execution alone."""
    return f"x{base}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One execution as the server sent it. `exec_id` ends in its version number."""

    exec_id: str
    quantity: Decimal
    price: Decimal
    time: datetime
    is_time_estimated: bool = False
    con_id: int = 0
    """The contract that was traded: of a combination, which leg. 0: it was not said."""

    @property
    def base(self) -> str:
        return base_of(self.exec_id)

    @property
    def version(self) -> int:
        found = _VERSIONED.fullmatch(self.exec_id)
        return 1 if found is None else int(found["version"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The gateway's message that an order is not at the exchange yet. `until` None: it gives no time, or none that
    can be read."""

    words: str
    until: datetime | None


@dataclass(slots=True, kw_only=True)
class Entry:
    """One order. Fields that are not known yet are empty or 0."""

    client_order_id: str = ""
    client_id: int = 0
    order_id: int = 0
    perm_id: int = 0
    status: str = ""
    is_completed: bool = False
    is_rejected: bool = False
    reported_filled: Decimal = Decimal(0)
    reason: str | None = None
    cancel_noted_in_round: int = 0
    """The round in or after which a message said that the order is cancelled; 0: there was none."""
    executions: dict[str, Execution] = field(default_factory=dict)
    """By base id: the highest version."""
    first_versions: dict[str, Execution] = field(default_factory=dict)
    """By base id: the lowest version that was ever received."""
    busted: set[str] = field(default_factory=set)
    hold: Hold | None = None
    mentioned: int = 0
    change: int = 0
    unclear: int = -1
    """The latest round in which something about it could not be read."""
    unclear_words: str = ""
    traded: tuple[Instrument, Side] | None = None
    """Of an order of somebody else: what its executions are of, and their side."""
    execution_shown: str = ""
    """The base id of the execution by which an order without ids became known."""

    @property
    def has_ids(self) -> bool:
        return bool(self.order_id or self.perm_id)

    @property
    def is_execution_alone(self) -> bool:
        """It is known by an execution that names no order: of somebody else, and all that there is of it."""
        return bool(self.execution_shown) and not (self.has_ids or self.client_order_id)

    @property
    def is_held(self) -> bool | None:
        """None: not known. An order that is held for the opening is shown as PreSubmitted, like a stop that waits
        for its price. Only a message distinguishes them, which is sent once, to the connection that placed the
        order."""
        if self.status == "Submitted" or self.executions:
            return False
        return True if self.hold is not None and self.status == "PreSubmitted" else None

    def take_status(self, status: str) -> None:
        """An order that reached the exchange has had its opening: the earlier message about holding it does not
        apply when it rests overnight."""
        self.status = status
        if status == "Submitted":
            self.hold = None

    @property
    def _state(self) -> tuple[object, ...]:
        """Whatever makes a report worth repeating when it changes."""
        return (self.report_status, self.filled_quantity, self.reason, self.client_order_id, self.status, self.hold)

    @property
    def broker_order_id(self) -> str:
        """Unique. Empty: an order of ours of which only the tag is known."""
        if self.order_id:
            return f"{self.client_id}:{self.order_id}"
        if self.perm_id:
            return f"p{self.perm_id}"
        return _id_by_execution(self.execution_shown) if self.execution_shown else ""

    @property
    def valid_executions(self) -> list[Execution]:
        """A version with quantity 0 busts the versions before it."""
        found = [execution for execution in self.executions.values() if execution.quantity]
        return sorted(found, key=lambda execution: (execution.time, execution.exec_id))

    @property
    def filled_quantity(self) -> Decimal:
        """The server's count, since it may know of executions that it has not shown; after corrections, which it
        does not always count, the sum of the valid executions."""
        held = sum((execution.quantity for execution in self.valid_executions), Decimal(0))
        if not self.busted:
            return max(held, self.reported_filled)
        return held if self.reported_filled in self._counts_of(held) else max(held, self.reported_filled)

    def _counts_of(self, held: Decimal) -> tuple[Decimal, ...]:
        """The counts that the server may report if it has shown everything: the sum of the valid executions, or the
        sum before its corrections."""
        if any(first.version > 1 for first in self.first_versions.values()):
            return (held, self.reported_filled)  # what an execution was before its correction was never received
        taken = sum(
            (self.first_versions[base].quantity - now.quantity for base, now in self.executions.items()),
            start=Decimal(0),
        )
        return (held, held + taken)

    @property
    def report_status(self) -> ReportStatus:
        if self.is_execution_alone:
            return ReportStatus.FILLED if self.filled_quantity else ReportStatus.CANCELLED
        if self.status == "Filled":
            return ReportStatus.FILLED
        if self.status in _CANCELLED:
            return ReportStatus.CANCELLED
        if self.status == "Inactive" and (self.is_rejected or self.is_completed):
            return ReportStatus.REJECTED
        return ReportStatus.WORKING

    @property
    def is_final(self) -> bool:
        return self.report_status is not ReportStatus.WORKING


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableGap:
    """Something unreadable about an order that is not known."""

    tag: str | None
    """None: unknown."""
    words: str
    mentioned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commission:
    amount: Decimal
    currency: str


class Blotter:
    """The entries of one account, across all reconnections. Every message may come late, repeated, out of order or
    incomplete.

    Costs do not grow with the number of entries, which are found by id, tag, execution and last change. Only a round
    (which reads all of them anyway) and a mark from before the first entry visit all.

    A round is one reading of all order lists. An order that was mentioned neither in the last complete round nor since
    is not reported: what was known of it is kept, but the gateway no longer says it.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.mark = 0
        self._by_perm_id: dict[int, Entry] = {}
        self._by_order_id: dict[tuple[int, int], Entry] = {}
        self._by_exec_base: dict[str, Entry] = {}
        self._by_tag: dict[str, list[Entry]] = {}
        self._by_change: dict[int, Entry] = {}
        """In the order of their last changes."""
        self._unclear: dict[int, Entry] = {}
        """The entries about which something could not be read, by identity."""
        self._commissions: dict[str, Commission] = {}
        self._combinations: OrderedDict[str, Combination] = OrderedDict()
        """By the tag of the whole, latest last."""
        self._whole_of: dict[str, str] = {}
        """By the tag of a leg, the tag of the whole."""
        self._holes: dict[str, UnreadableGap] = {}
        self._round = 0
        self._reading = 0

    # Combinations

    def know_combination(self, combination: Combination) -> bool:
        """From now on what is known of this order is reported leg by leg. False: it was known already."""
        tag = combination.client_order_id
        if self._combinations.get(tag) == combination:
            return False
        self._combinations[tag] = combination
        self._whole_of |= {leg.client_order_id: tag for leg in combination.legs}
        if len(self._combinations) > _COMBINATIONS_REMEMBERED:
            _, oldest = self._combinations.popitem(last=False)
            for leg in oldest.legs:
                self._whole_of.pop(leg.client_order_id, None)
        for entry in self.with_tag(tag):
            self._changed(entry)
        return True

    def whole_tag(self, client_order_id: str) -> str:
        """The tag of the order that is shown for this one: of a leg that of the whole, else its own."""
        return self._whole_of.get(client_order_id, client_order_id)

    def is_leg(self, client_order_id: str) -> bool:
        return client_order_id in self._whole_of

    # Rounds

    def begin_round(self) -> None:
        self._reading = self._round + 1

    def end_round(self) -> None:
        """All lists were answered. An order that a message called cancelled, and that two successive rounds do not
        have, is cancelled: its status was lost. One that they do have is not, and nothing is concluded about one
        that may be among what could not be read."""
        were_unclear = [entry for entry in self._unclear.values() if self.is_unclear(entry)]
        self._round = self._reading
        self._holes = {words: hole for words, hole in self._holes.items() if hole.mentioned >= self._round}
        for entry in were_unclear:
            if not self.is_unclear(entry):
                self._changed(entry)
        self._unclear = {key: entry for key, entry in self._unclear.items() if self.is_unclear(entry)}
        for entry in self.entries:
            said, is_shown = entry.cancel_noted_in_round, entry.mentioned > entry.cancel_noted_in_round
            if said and is_shown:
                entry.cancel_noted_in_round = 0
            elif said and self._round >= said + _LOOKS and not entry.is_final and not self._may_be_hidden(entry):
                entry.status = "Cancelled"
                self._mentioned(entry, True)

    def _may_be_hidden(self, entry: Entry) -> bool:
        return self.is_unclear(entry) or self.gap_of(entry.client_order_id) is not None

    def is_mentioned(self, entry: Entry) -> bool:
        return entry.mentioned >= self._round

    def forget_old(self) -> None:
        """Drops finished orders that the last round did not mention, and commissions without a known execution: both
        are of an earlier day."""
        kept = [entry for entry in self.entries if self.is_mentioned(entry) or not entry.is_final]
        if len(kept) < len(self.entries):
            self.entries = kept
            self._by_perm_id = {entry.perm_id: entry for entry in kept if entry.perm_id}
            self._by_order_id = {(entry.client_id, entry.order_id): entry for entry in kept if entry.order_id}
            self._by_exec_base = {base: entry for entry in kept for base in entry.executions}
            self._by_change = {entry.change: entry for entry in sorted(kept, key=lambda entry: entry.change)}
            self._unclear = {id(entry): entry for entry in kept if self.is_unclear(entry)}
            self._by_tag = {}
            for entry in kept:
                if entry.client_order_id:
                    self._by_tag.setdefault(entry.client_order_id, []).append(entry)
        # A commission that came before its execution is sent again in the next round.
        self._commissions = {
            exec_id: commission
            for exec_id, commission in self._commissions.items()
            if base_of(exec_id) in self._by_exec_base
        }

    # Statements

    def note_order(
        self,
        *,
        client_id: int,
        order_id: int,
        perm_id: int,
        client_order_id: str,
        status: str,
    ) -> Entry | None:
        """An open order, from a list or pushed. None: neither an id nor its tag says which."""
        entry = self._shown(client_id, order_id, perm_id, client_order_id)
        if entry is None:
            return None
        before = entry._state
        self._tag(entry, client_order_id)
        entry.is_completed = False
        if status not in _NO_STATUS_OF_THE_SERVER:
            entry.take_status(status)
            if status in _WORKING:
                entry.is_rejected = False
        self._mentioned(entry, before != entry._state)
        return entry

    def note_status(self, *, client_id: int, order_id: int, perm_id: int, status: str, filled: Decimal) -> Entry | None:
        """A status from the server. None: the order is not known, and may be another account's."""
        entry = self._known(client_id, order_id, perm_id)
        if entry is None:
            return None
        before = entry._state
        late = entry.status in _FINAL and status not in _FINAL
        if status not in _NO_STATUS_OF_THE_SERVER and not late:
            entry.take_status(status)
        if entry.busted or filled > entry.reported_filled:
            entry.reported_filled = filled
        self._mentioned(entry, before != entry._state)
        return entry

    def note_completed(
        self,
        *,
        perm_id: int,
        client_order_id: str,
        status: str,
        filled: Decimal,
        words: str,
    ) -> Entry | None:
        """An order from the list of completed ones, which has no ids except the permanent one. None: neither that nor
        its tag says which."""
        entry = self._shown(0, 0, perm_id, client_order_id)
        if entry is None:
            return None
        before = (entry.client_order_id, entry.report_status, entry.filled_quantity, entry.reason)
        self._tag(entry, client_order_id)
        entry.is_completed = True
        entry.status = status
        entry.reported_filled = filled if entry.busted else max(entry.reported_filled, filled)
        if entry.reason is None and status != "Filled":
            entry.reason = words or None
        self._mentioned(
            entry, before != (entry.client_order_id, entry.report_status, entry.filled_quantity, entry.reason)
        )
        return entry

    def note_execution(
        self,
        *,
        client_id: int,
        order_id: int,
        perm_id: int,
        client_order_id: str,
        execution: Execution,
        traded: tuple[Instrument, Side] | None = None,
    ) -> Entry:
        """An execution, or a later version that replaces an earlier one. One that has no id of its order is of the
        order that it was told of before or will be told of, or of the only one with its tag; else an order of its own,
        however often the lists tell it."""
        entry = self._executed(client_id, order_id, perm_id, client_order_id, execution.base)
        entry.traded = traded or entry.traded
        changed = bool(client_order_id) and entry.client_order_id != client_order_id
        entry = self._tag(entry, client_order_id)
        first = entry.first_versions.get(execution.base)
        if first is None or execution.version < first.version:
            entry.first_versions[execution.base] = execution
        known = entry.executions.get(execution.base)
        if known is None or execution.version > known.version:
            entry.executions[execution.base] = execution
            self._by_exec_base[execution.base] = entry
            changed = True
            # Whoever knows an earlier version must be told that it is void, though this connection may never have shown
            # it.
            width = len(execution.exec_id) - len(execution.base) - 1
            entry.busted |= {f"{execution.base}.{old:0{width}d}" for old in range(1, execution.version)}
        self._mentioned(entry, changed)
        return entry

    def note_commission(self, exec_id: str, commission: Commission) -> Entry | None:
        """May come before its execution, and comes again after each connection."""
        if self._commissions.get(exec_id) == commission:
            return None
        self._commissions[exec_id] = commission
        entry = self._by_exec_base.get(base_of(exec_id))
        if entry is not None:
            self._mentioned(entry, True)
        return entry

    def note_unreadable(
        self, *, client_id: int, order_id: int, perm_id: int, client_order_id: str | None, words: str
    ) -> None:
        """Something about an order could not be read. Until a complete round passes without it, nothing is concluded
        from what is missing about that order; if it is not known which, about any that it may be."""
        entry = self._known(client_id, order_id, perm_id)
        if entry is None and client_order_id:
            entry = next(iter(self.with_tag(client_order_id)), None)
        if entry is None:
            if client_order_id != "":
                self._holes[words] = UnreadableGap(
                    tag=client_order_id, words=words, mentioned=max(self._reading, self._round)
                )
            return
        was_clear = not self.is_unclear(entry)
        entry.unclear, entry.unclear_words = max(self._reading, self._round), words
        self._unclear[id(entry)] = entry
        self._tag(entry, entry.client_order_id or client_order_id or "")
        self._mentioned(entry, was_clear)

    def is_unclear(self, entry: Entry) -> bool:
        return entry.unclear >= self._round

    def gap_of(self, client_order_id: str) -> UnreadableGap | None:
        """Something unreadable that may be about the order with this tag, if it is not among the entries."""
        whole = self.whole_tag(client_order_id)
        return next((hole for hole in self._holes.values() if hole.tag in (None, whole)), None)

    def unreadable(self) -> list[Unreadable]:
        """What is unclear in the last complete round, or since, about orders that may be ours."""
        of_entries = [
            Unreadable(client_order_id=entry.client_order_id, words=entry.unclear_words)
            for entry in self._unclear.values()
            if entry.client_order_id and self.is_unclear(entry)
        ]
        return of_entries + [
            Unreadable(client_order_id=hole.tag or "", words=hole.words) for hole in self._holes.values()
        ]

    def note_reason(self, entry: Entry, reason: str, *, rejected: bool, cancelled: bool = False) -> None:
        """A message on the order's id. It does not change its status, except that an inactive order is then
        rejected, and one that is no longer shown is `cancelled`."""
        before = (entry.reason, entry.report_status)
        entry.reason = reason
        entry.is_rejected = entry.is_rejected or rejected
        self._mentioned(entry, before != (entry.reason, entry.report_status))
        if cancelled:
            entry.cancel_noted_in_round = entry.mentioned

    def note_hold(self, entry: Entry, hold: Hold) -> None:
        """The order is held for the opening."""
        before = entry._state
        entry.hold = hold
        self._mentioned(entry, before != entry._state)

    # Reports

    def reports(self, since: int | None) -> list[Report]:
        """The orders mentioned in the last round or after it, and changed after the mark `since`, in the order of
        their last change."""
        after = since if since is not None and 0 <= since <= self.mark else 0
        found = [entry for entry in self._changed_after(after) if self.is_mentioned(entry)]
        return [report for entry in reversed(found) for report in self.reports_of(entry)]

    def _changed_after(self, mark: int) -> Iterator[Entry]:
        """Latest first."""
        for change, entry in reversed(self._by_change.items()):
            if change <= mark:
                return
            yield entry

    def reports_of(self, entry: Entry) -> list[Report]:
        """Of a combination one for each leg, in their sequence; else the order's own."""
        whole = self._combinations.get(entry.client_order_id)
        return [self._report(each) for each in ([entry] if whole is None else _legs_of(entry, whole))]

    def report(self, entry: Entry, client_order_id: str = "") -> Report:
        """The order's; with the tag of a leg, that leg's."""
        reports = self.reports_of(entry)
        return next((each for each in reports if each.client_order_id == client_order_id), reports[0])

    def _report(self, entry: Entry) -> Report:
        duplicates = self.duplicates(entry.client_order_id)
        traded = entry.traded if len({each.con_id for each in entry.executions.values()}) == 1 else None
        return Report(
            client_order_id=entry.client_order_id,
            broker_order_id=entry.broker_order_id,
            status=entry.report_status,
            filled_quantity=entry.filled_quantity,
            fills=tuple(self._fill(execution) for execution in entry.valid_executions),
            busted_fill_ids=frozenset(entry.busted),
            reason=None if entry.status == "Filled" else entry.reason,
            is_unclear=self.is_unclear(entry),
            said=_status_text(entry),
            is_held=entry.is_held,
            held_until=entry.hold.until if entry.hold is not None and entry.is_held else None,
            orders_under_tag=tuple(twin.broker_order_id for twin in duplicates),
            instrument=None if traded is None else traded[0],
            side=None if traded is None else traded[1],
            earlier_ids={}
            if entry.client_order_id or not entry.has_ids
            else {each.exec_id: _id_by_execution(each.base) for each in entry.valid_executions},
        )

    def duplicates(self, client_order_id: str) -> list[Entry]:
        """The orders that the gateway now shows under one tag, oldest first, if their permanent ids prove that there
        are several."""
        found = [entry for entry in self.with_tag(client_order_id) if self.is_mentioned(entry)]
        if len(found) < 2 or not all(entry.perm_id for entry in found):
            return []
        return sorted(found, key=lambda entry: entry.perm_id)

    def with_tag(self, client_order_id: str) -> list[Entry]:
        """Every order with our tag, or with that of the whole of which this is a leg, in the order in which they became
        known."""
        return list(self._by_tag.get(self.whole_tag(client_order_id), ()))

    def of_ids(self, client_id: int, order_id: int) -> Entry | None:
        return self._by_order_id.get((client_id, order_id))

    def highest_order_id(self, client_id: int) -> int:
        return max((order_id for owner, order_id in self._by_order_id if owner == client_id), default=0)

    def named(self, broker_order_id: str) -> Entry | None:
        if broker_order_id.startswith("x"):
            found = self._by_exec_base.get(broker_order_id[1:])
            return found if found is not None and found.broker_order_id == broker_order_id else None
        client_id, _, order_id = broker_order_id.partition(":")
        if client_id.isdecimal() and order_id.isdecimal():
            found = self._by_order_id.get((int(client_id), int(order_id)))
        else:
            perm_id = broker_order_id.removeprefix("p")
            found = self._by_perm_id.get(int(perm_id)) if perm_id.isdecimal() else None
        return found if found is not None and found.broker_order_id == broker_order_id else None

    def _fill(self, execution: Execution) -> Fill:
        commission = self._commissions.get(execution.exec_id)
        return Fill(
            fill_id=execution.exec_id,
            quantity=execution.quantity,
            price=execution.price,
            time=execution.time,
            is_time_estimated=execution.is_time_estimated,
            commission=None if commission is None else commission.amount,
            commission_currency=None if commission is None else commission.currency,
        )

    def _mentioned(self, entry: Entry, changed: bool) -> None:
        was_missing = not self.is_mentioned(entry) or entry.mentioned == 0
        entry.mentioned = max(self._reading, self._round)
        if changed or was_missing:
            self._changed(entry)

    def _changed(self, entry: Entry) -> None:
        self.mark += 1
        self._by_change.pop(entry.change, None)
        entry.change = self.mark
        self._by_change[self.mark] = entry

    def _tag(self, entry: Entry, client_order_id: str) -> Entry:
        """Files the entry under this tag; an empty one removes none. What was told under the tag without an id is of
        the one order under it that has ids: returns that, where this entry is now a part of it."""
        before = entry.client_order_id
        if not client_order_id or client_order_id == before:
            return entry
        if before:
            self._by_tag[before] = [each for each in self._by_tag[before] if each is not entry]
        entry.client_order_id = client_order_id
        twins = self._by_tag.setdefault(client_order_id, [])
        twins.append(entry)
        if len(twins) > 1 and sum(each.has_ids for each in twins) == 1:
            named = next(each for each in twins if each.has_ids)
            for each in [each for each in twins if each is not named]:
                self._join(each, named)
            return named
        return entry

    def _known(self, client_id: int, order_id: int, perm_id: int) -> Entry | None:
        """Order ids count from 1. Orders that no client of the API has placed have 0 or -1, all of them: IBKR's own liquidations
        (Lean.Brokerages.InteractiveBrokers issue 156), and a person's."""
        entry = self._by_perm_id.get(perm_id) if perm_id else None
        if entry is None and order_id > 0:
            found = self._by_order_id.get((client_id, order_id))
            # The gateway may restart its order ids after a restart; the permanent id distinguishes old from new.
            if found is not None and (not perm_id or not found.perm_id):
                entry = found
        return entry

    def _entry(self, client_id: int, order_id: int, perm_id: int) -> Entry:
        entry = self._known(client_id, order_id, perm_id)
        if entry is None:
            entry = Entry()
            self.entries.append(entry)
        if order_id > 0 and not entry.order_id:
            entry.client_id, entry.order_id = client_id, order_id
        if order_id > 0:
            self._by_order_id[(entry.client_id, entry.order_id)] = entry
        if perm_id and not entry.perm_id:
            entry.perm_id = perm_id
        if perm_id:
            self._by_perm_id[perm_id] = entry
        return entry

    def _shown(self, client_id: int, order_id: int, perm_id: int, client_order_id: str) -> Entry | None:
        """The order with these ids; without any the only one with this tag."""
        if order_id > 0 or perm_id:
            return self._entry(client_id, order_id, perm_id)
        with_tag = self.with_tag(client_order_id) if client_order_id else []
        if len(with_tag) == 1:
            return with_tag[0]
        return self._entry(0, 0, 0) if client_order_id and not with_tag else None

    def _executed(self, client_id: int, order_id: int, perm_id: int, client_order_id: str, base: str) -> Entry:
        told = self._by_exec_base.get(base)
        if order_id > 0 or perm_id:
            entry = self._entry(client_id, order_id, perm_id)
            if told is not None and told is not entry and not told.has_ids:
                self._join(told, entry)
            return entry
        entry = told or self._shown(0, 0, 0, client_order_id) or self._entry(0, 0, 0)
        if not entry.has_ids and not entry.execution_shown:
            entry.execution_shown = base
        return entry

    def _join(self, nameless: Entry, entry: Entry) -> None:
        """All that was told of an order without ids is of this one."""
        for base, each in nameless.executions.items():
            known = entry.executions.get(base)
            if known is None or each.version > known.version:
                entry.executions[base] = each
            self._by_exec_base[base] = entry
        for base, each in nameless.first_versions.items():
            known = entry.first_versions.get(base)
            if known is None or each.version < known.version:
                entry.first_versions[base] = each
        entry.busted |= nameless.busted
        entry.reported_filled = max(entry.reported_filled, nameless.reported_filled)
        entry.traded = entry.traded or nameless.traded
        entry.status = entry.status or nameless.status
        self.entries = [each for each in self.entries if each is not nameless]
        self._unclear.pop(id(nameless), None)
        self._by_change.pop(nameless.change, None)
        if nameless.client_order_id:
            twins = self._by_tag[nameless.client_order_id]
            self._by_tag[nameless.client_order_id] = [each for each in twins if each is not nameless]
            if not entry.client_order_id:
                self._tag(entry, nameless.client_order_id)
        self._changed(entry)


def _legs_of(entry: Entry, whole: Combination) -> list[Entry]:
    """Each leg as an order of its own: with its executions, and of the server's count, which is in units of the whole,
    what falls to it. An execution of a contract that is no leg is nobody's, and is then missing in the count."""
    legs = []
    for leg in whole.legs:
        own = {base: each for base, each in entry.executions.items() if each.con_id == leg.con_id}
        legs.append(
            replace(
                entry,
                client_order_id=leg.client_order_id,
                executions=own,
                first_versions={base: entry.first_versions[base] for base in own},
                busted={exec_id for exec_id in entry.busted if base_of(exec_id) in own},
                reported_filled=entry.reported_filled * leg.ratio,
            )
        )
    return legs


def _status_text(entry: Entry) -> str | None:
    return entry.hold.words if entry.hold is not None and entry.is_held else entry.status or None
