"""What protection the entries of one position should have now, beside what there is: what is to be placed, what is to be cancelled, and how it
stands. Values in, values out; what is placed and asked is decided elsewhere.

Three rules hold at every moment. A protective order counts for all that it may still fill until the broker has confirmed its end; what is placed
never brings the sum of these, with the other exits, above what is held; and nothing is placed in the place of an order of which it is not known
whether it is at the broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum, auto

from brokers.base import Side
from execution_service.core.backoff import Backoff
from execution_service.core.exact import ZERO
from execution_service.core.orders.exits import fewest_for
from execution_service.core.orders.protective import ProtectionState, Protective, ProtectiveRole
from execution_service.core.protection.splits import Level, may_be_split
from execution_service.core.protection.trailing import Trail, tightest

MOST_PIECES = 4
"""An entry that fills in parts gets a stop for each, so that none has to be changed; from so many on the smallest is taken back and placed anew
with what is missing."""
PAUSES = Backoff(first_seconds=2.0, longest_seconds=600.0)
"""Between two tries where the broker does not take a protective order, or does not keep it."""
UNFILLED_SECONDS = 10.0
"""What a triggered stop has become has to fill within so long."""
KNOWN_SECONDS = 10.0
"""So long a stop that somebody took down at the broker waits for a look at the broker's positions and at the market before it is placed again: both
of the new day, where it was taken down while the market was closed."""
PAUSES_OF_EXPIRED = Backoff(first_seconds=60.0, longest_seconds=600.0)
"""An order of the day that has ended is not placed again into the same evening at once."""


class Stage(StrEnum):
    """Where a protective order is."""

    UNSENT = auto()
    WORKING = auto()
    UNCERTAIN = auto()
    """It was sent, or perhaps sent, and the broker has not confirmed it."""
    GONE = auto()


class Ending(StrEnum):
    """How one that is gone has ended, by what is to be done next."""

    FILLED = auto()
    TAKEN_BACK = auto()
    """We asked for it."""
    REMOVED = auto()
    """The broker, the venue or a person ended it."""
    EXPIRED = auto()
    REFUSED = auto()
    PASSED = auto()
    """The price was through it already, or what it became when it was triggered has not filled: it can never protect."""


_FAILED = frozenset({Ending.REMOVED, Ending.EXPIRED, Ending.REFUSED, Ending.PASSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectiveOrder:
    """One protective order by its record."""

    order_id: str
    protective: Protective
    quantity: Decimal
    filled: Decimal = ZERO
    stage: Stage = Stage.WORKING
    is_asked_to_end: bool = False
    ending: Ending | None = None
    """Of one that is gone."""
    ended_at: datetime | None = None
    why: str = ""
    """Why it ended, or is in doubt, for people; one that was sent a moment ago has none yet."""
    stop_price: Decimal | None = None
    """Of a stop: as it was made, or a price nearer to the market that the market's ticks make the same of."""

    limit_price: Decimal | None = None
    """Of a stop that becomes an order with a limit, where the broker has no other."""
    triggered_at: datetime | None = None
    """When it was known that a stop was triggered; None: it was not, or that is not known."""

    @property
    def role(self) -> ProtectiveRole:
        return self.protective.role

    @property
    def is_alive(self) -> bool:
        return self.stage is not Stage.GONE


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedEntry:
    """One entry, with its protective orders."""

    order_id: str
    open_quantity: Decimal
    """What it has filled, less what all exits that name it have filled; not below 0."""
    stop: Decimal | None
    target: Decimal | None
    orders: tuple[ProtectiveOrder, ...] = ()
    leaving: Decimal = ZERO
    """What other exits that name it may still fill: those at the broker, and those that wait for protective orders to make way."""
    is_working: bool = False
    """It may still fill."""
    is_stand_in: bool = False
    """It has taken another entry's place, whose protective orders end before it has any."""
    trail: Trail | None = None
    """Its stop follows the market."""
    average_price: Decimal | None = None
    """What it paid, or got, for a unit of what it holds now; from there its stop begins to trail."""
    trailed_to: Decimal | None = None
    """Where its trailing stop stood, by its record."""
    begins_after: Decimal | None = None
    """It had filled so much when all of that was closed: what it holds now has filled since, and stops of before say nothing of it. None: that has
    not been."""
    held_since: datetime | None = None
    """When the first fill was of what it holds now, by the venue's clock: a price of before moves and triggers no stop. None: that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What the broker can do for a position of this kind."""

    rests_stops: bool = True
    rests_targets: bool = True
    links: bool = False
    """It takes what one of two orders fills off the other by itself."""
    tells_quotes: bool = True
    """It can be asked where the market stands."""
    keeps_overnight: bool = True
    """Resting orders outlive the day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedPosition:
    """What one strategy holds of one instrument on the side of these entries."""

    side: Side
    """Of the entries: BUY protects a long position."""
    held: Decimal
    """By our records, as a positive quantity; 0 too where the position is on the other side."""
    opened_at: datetime | None = None
    """When its strategy last began to hold of the instrument; None: that is not known."""
    is_reversed: bool = False
    """The strategy holds the other side, by orders that name none of the entries: what they had may come back."""
    shown: Decimal | None = None
    """The least that the broker's positions leave of it, where they lastingly show less than our records; None: nothing is known to differ."""
    more: Decimal = ZERO
    """So many more units than our records the broker's positions showed in the latest look, below 0 fewer."""
    held_by_all: Decimal = ZERO
    """What all strategies together held of it by our records in that look, on this side; below 0 on the other."""
    compared_at: datetime | None = None
    """When that look was; None: there was none."""
    priced_at: datetime | None = None
    """When the market was as `kept_price` says, at the earliest; None: that is not known."""
    last_price: Decimal | None = None
    """The last price of the market, as far as it was looked at, at which nothing was to be done. None: none is known."""
    leaving: Decimal = ZERO
    """The same of all other exits, those that name one of the entries among them."""
    entries: tuple[ProtectedEntry, ...]
    """The oldest first."""
    abilities: Abilities = field(default_factory=Abilities)
    span: tuple[Decimal, Decimal] | None = None
    """The lowest and the highest of the market's fresh price and those of the last two looks, though one answer may have served both: nothing but the
    service takes care of a watched price, so that it cannot wait for another. None: it is not known."""
    kept_price: Decimal | None = None
    """The less favourable of the market's prices in the last two looks: a price that was shown once moves no stop. None: it is not known."""
    passed_price: Decimal | None = None
    """The more favourable of the same: so far against the position both looks have shown it. None: it is not known."""
    kept_since: datetime | None = None
    """When the first of these looks showed its price; None: after whatever has filled."""
    opens_at: datetime | None = None
    """By the calendar the market is closed until then; None: it is open, or that is not known. It counts for what has expired, and for what was taken
    down while no price is known, alone, since a calendar does not know every session."""
    market_opened_at: datetime | None = None
    """By the calendar the market has been open since then; None: it is closed, or that is not known."""
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A protective order is to be made."""

    entry_order_id: str
    role: ProtectiveRole
    piece: int
    quantity: Decimal
    is_linked: bool = False
    stop_price: Decimal | None = None
    """Of a stop."""
    begins_after: Decimal | None = None
    """As the entry's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopMove:
    """A resting stop is to be placed anew, nearer to the market: not worth while where the ticks make the same price of it."""

    order_id: str
    """Of the stop."""
    stop_price: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeBack:
    """A protective order is to be cancelled; until that is confirmed it counts."""

    order_id: str
    why: str
    move: StopMove | None = None
    """It is taken back for this alone, and stays where that is not worth while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkTriggered:
    """A stop has to be recorded as triggered, though its broker does not say so."""

    order_id: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one entry is protected."""

    state: ProtectionState
    reason: str = ""
    """For people; says nothing that changes by itself, since a change is told."""
    protected: Decimal = ZERO
    """What stops that the broker has taken cover; without a stop what targets cover."""
    trailed_to: Decimal | None = None
    """Where its trailing stop stands; None: it does not trail."""
    begins_after: Decimal | None = None
    """As the entry's, of a trailing stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceBand:
    """Prices of the market between which nothing is to be done."""

    low: Decimal | None = None
    """At this price, or below it, something is; None: never."""
    high: Decimal | None = None
    """Likewise, or above it."""

    def holds(self, price: Decimal) -> bool:
        return (self.low is None or price > self.low) and (self.high is None or price < self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionPlan:
    place: tuple[Place, ...] = ()
    take_back: tuple[TakeBack, ...] = ()
    triggered: tuple[MarkTriggered, ...] = ()
    standing: Mapping[str, Standing] = field(default_factory=dict)
    """By our id of the entry."""
    look_again_at: datetime | None = None
    """When something is to be tried again."""
    band: PriceBand | None = None
    """The plan holds while the market's price stays within it; None: whatever that does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    number: int
    orders: tuple[ProtectiveOrder, ...]

    @property
    def alive(self) -> tuple[ProtectiveOrder, ...]:
        return tuple(order for order in self.orders if order.is_alive)

    @property
    def remaining(self) -> Decimal:
        """What may still be filled."""
        return self._left_to(self.alive)

    @property
    def lasting(self) -> Decimal:
        """What may still be filled when those that are asked to end have ended."""
        return self._left_to([order for order in self.alive if not order.is_asked_to_end])

    @property
    def covered(self) -> Decimal:
        """What one of its orders still closes, if the broker has taken all that the other filled off it."""
        most = max(order.quantity for order in self.orders)
        return max(ZERO, most - sum((order.filled for order in self.orders), ZERO))

    def _left_to(self, alive: Sequence[ProtectiveOrder]) -> Decimal:
        """Of linked orders as much as of one of them; of an overtaken target all that it has open by itself."""
        overtaken = [order.quantity - order.filled for order in alive if order in self.overtaken]
        return max(self.covered, *overtaken, ZERO) if alive else ZERO

    @property
    def overtaken(self) -> tuple[ProtectiveOrder, ...]:
        """The target that is not gone though its stop has filled: what filled before the broker had the target is not taken off that, and nothing
        says when it had it."""
        has_stop_filled = any(order.filled for order in self.orders if order.role is ProtectiveRole.STOP)
        return tuple(order for order in self.alive if has_stop_filled and order.role is ProtectiveRole.TARGET)

    @property
    def is_going(self) -> bool:
        return all(order.is_asked_to_end for order in self.alive)

    def alive_as(self, role: ProtectiveRole) -> ProtectiveOrder | None:
        return next((order for order in self.alive if order.role is role), None)

    def has_had(self, role: ProtectiveRole) -> bool:
        return any(order.role is role for order in self.orders)


def protection_plan(position: ProtectedPosition) -> ProtectionPlan:
    """What is to be done now. Asked again after anything has changed, it goes on from there: nothing is remembered between two plans."""
    by_books = _shares(position.entries, position.held)
    by_both = _shares(position.entries, _least(position.held, position.shown))
    left = max(ZERO, _least(position.held, position.shown) - position.leaving)
    wanted = _shares(position.entries, left, without_leaving=True)
    place: list[Place] = []
    take_back: list[TakeBack] = []
    triggered: list[MarkTriggered] = []
    standing: dict[str, Standing] = {}
    moments: list[datetime] = []
    bands: list[PriceBand] = []
    over = {each.order_id: max(ZERO, _at_risk(each) - wanted[each.order_id]) for each in position.entries}
    for entry in position.entries:
        case = _Case(
            position=position,
            entry=entry,
            wanted=wanted[entry.order_id],
            by_books=by_books[entry.order_id],
            by_both=by_both[entry.order_id],
            is_crowded=entry.is_stand_in and any(over[each] for each in over if each != entry.order_id),
        )
        done = case.decided()
        place += done.place
        take_back += done.take_back
        triggered += case.jumped_over()
        standing |= done.standing
        moments += [done.look_again_at] if done.look_again_at is not None else []
        bands += [done.band] if done.band is not None else []
    return ProtectionPlan(
        place=tuple(place),
        take_back=tuple(take_back),
        triggered=tuple(triggered),
        standing=standing,
        look_again_at=min(moments, default=None),
        band=_narrowest(bands),
    )


def _pieces_of(entry: ProtectedEntry) -> tuple[_Piece, ...]:
    numbers = sorted({order.protective.piece for order in entry.orders})
    return tuple(_Piece(number=n, orders=tuple(o for o in entry.orders if o.protective.piece == n)) for n in numbers)


def _at_risk(entry: ProtectedEntry) -> Decimal:
    """What its protective orders may still fill."""
    return sum((piece.remaining for piece in _pieces_of(entry)), ZERO)


def _narrowest(bands: Sequence[PriceBand]) -> PriceBand | None:
    """Within which all of them hold."""
    if not bands:
        return None
    return PriceBand(
        low=max((each.low for each in bands if each.low is not None), default=None),
        high=min((each.high for each in bands if each.high is not None), default=None),
    )


def _least(held: Decimal, shown: Decimal | None) -> Decimal:
    return held if shown is None else min(held, max(ZERO, shown))


def _shares(entries: Sequence[ProtectedEntry], total: Decimal, *, without_leaving: bool = False) -> dict[str, Decimal]:
    """What each entry still has of a position: exits that name no entry have closed the oldest first."""
    shares: dict[str, Decimal] = {}
    for entry in reversed(entries):
        own = max(ZERO, entry.open_quantity - entry.leaving) if without_leaving else entry.open_quantity
        shares[entry.order_id] = min(own, total)
        total -= shares[entry.order_id]
    return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One entry of the position."""

    position: ProtectedPosition
    entry: ProtectedEntry
    wanted: Decimal
    """So much is to be protected."""
    by_books: Decimal
    by_both: Decimal
    is_crowded: bool = False
    """Orders of another entry may still fill what is to be protected here."""

    def decided(self) -> ProtectionPlan:
        pieces, wanted = self._pieces, self.wanted
        closing = [piece for piece in pieces if piece.alive_as(ProtectiveRole.CLOSE)]
        if closing:
            return self._while_closing(closing)
        overtaken = [order for piece in pieces for order in piece.overtaken if not order.is_asked_to_end]
        if overtaken:
            return self._standing_with(take_back=_taken_back(overtaken, "its stop has begun to fill"))
        at_risk = _at_risk(self.entry)
        if at_risk > wanted:
            return self._shrunk(at_risk - wanted)
        dead = [order for piece in pieces if not piece.remaining for order in piece.alive if not order.is_asked_to_end]
        if dead:
            return self._standing_with(take_back=_taken_back(dead, "what it protected has been closed"))
        why = self._why_to_close() if wanted else None
        if why is not None:
            return self._closed(why, at_risk)
        if not wanted:
            return self._without_position()
        orphans = [piece for piece in pieces if self._stop is not None and self._is_orphan(piece)]
        if orphans:
            orders = [order for piece in orphans for order in piece.alive if not order.is_asked_to_end]
            return self._standing_with(take_back=_taken_back(orders, "the stop that it was linked to is gone"))
        if at_risk < wanted:
            return self._grown(wanted - at_risk)
        behind = self._behind()
        if behind is not None:
            stop, move = behind
            back = _taken_back(stop.alive, f"the stop is moved to {move.stop_price:f}", move=move)
            return self._standing_with(take_back=back)
        return self._standing_with(place=tuple(self._missing_targets()))

    # --- what there is ------------------------------------------------------------------------------------------

    @property
    def _pieces(self) -> tuple[_Piece, ...]:
        return _pieces_of(self.entry)

    @property
    def _next_piece(self) -> int:
        return max((order.protective.piece for order in self.entry.orders), default=0) + 1

    @property
    def _is_linked(self) -> bool:
        return self._rests_stop and self.entry.target is not None and self.position.abilities.links

    @property
    def _stop(self) -> Decimal | None:
        """Where its stop is to stand now: a trailing one never further from the market than it has stood."""
        entry, side, trail = self.entry, self.position.side, self.entry.trail
        if trail is None:
            return entry.stop
        begun = None if entry.average_price is None else trail.stop_at(entry.average_price, side)
        of_present = [o.stop_price for o in entry.orders if o.protective.begins_after == entry.begins_after]
        stood = tightest([entry.stop, begun, entry.trailed_to, *of_present], side)
        price = self.position.kept_price if self._are_looks_of_now else None
        return stood if stood is None or price is None else trail.moved(stood, price, side)

    @property
    def _are_looks_of_now(self) -> bool:
        """Whether the last two looks were taken since what is held has filled."""
        position, since = self.position, self.entry.held_since
        if since is None or since > position.now:  # a venue's clock that is ahead of ours tells nothing
            return True
        return position.kept_since is None or position.kept_since >= since

    def _behind(self) -> tuple[_Piece, StopMove] | None:
        """The piece whose stop has to follow next, where none is on its way: one after the other, so that most of it stays protected."""
        stop, side, trail = self._stop, self.position.side, self.entry.trail
        alive = [order for piece in self._pieces for order in piece.alive]
        is_settled = all(order.stage is Stage.WORKING and not order.is_asked_to_end for order in alive)
        if trail is None or stop is None or self._must_have_filled or not is_settled:
            return None
        resting = [(o.stop_price, p, o) for p in self._pieces if (o := p.alive_as(ProtectiveRole.STOP)) is not None]
        behind = [
            (price * side.sign, piece.number, piece, order)
            for price, piece, order in resting
            if price is not None and trail.is_behind(price, stop, side)
        ]
        if not behind:
            return None
        _, _, piece, order = min(behind, key=lambda each: each[:2])
        return piece, StopMove(order_id=order.order_id, stop_price=stop)

    @property
    def _rests_stop(self) -> bool:
        return self._stop is not None and self.position.abilities.rests_stops

    @property
    def _rests_target_alone(self) -> bool:
        return self._stop is None and self.entry.target is not None and self.position.abilities.rests_targets

    @staticmethod
    def _is_orphan(piece: _Piece) -> bool:
        """A target whose stop has ended without being filled protects from nothing."""
        return piece.alive_as(ProtectiveRole.TARGET) is not None and piece.alive_as(ProtectiveRole.STOP) is None

    @property
    def _failures(self) -> tuple[ProtectiveOrder, ...]:
        """The latest tries that came to nothing, the last one first."""
        found: list[ProtectiveOrder] = []
        for order in sorted(self.entry.orders, key=lambda o: o.protective.piece, reverse=True):
            if order.role is ProtectiveRole.TARGET and self._stop is not None:
                continue  # the price is watched in its place
            if order.ending not in _FAILED:
                break
            found.append(order)
        return tuple(found)

    @property
    def _paused_until(self) -> datetime | None:
        """Until when nothing is tried again; None: it may be tried now."""
        failures = self._failures
        if not failures or failures[0].ended_at is None:
            return None
        pauses = PAUSES_OF_EXPIRED if failures[0].ending is Ending.EXPIRED else PAUSES
        until = failures[0].ended_at + timedelta(seconds=pauses.pause_seconds(len(failures)))
        return until if until > self.position.now else None

    # --- what to do ---------------------------------------------------------------------------------------------

    def _while_closing(self, closing: Sequence[_Piece]) -> ProtectionPlan:
        others = [o for piece in self._pieces if piece not in closing for o in piece.alive if not o.is_asked_to_end]
        return self._standing_with(
            take_back=_taken_back(others, "it is being closed at the market"),
            state=ProtectionState.CLOSING,
            reason="it is being closed at the market",
        )

    def _shrunk(self, excess: Decimal) -> ProtectionPlan:
        """As few orders as will do are taken back; what is left of their quantity is placed anew when their end is confirmed."""
        why = self._why_shrunk()
        going = sum((piece.remaining - piece.lasting for piece in self._pieces), ZERO)
        left = [piece for piece in self._pieces if piece.lasting]
        chosen = fewest_for(excess - going, left, lambda piece: (piece.lasting, piece.number))
        orders = [order for piece in chosen for order in piece.alive if not order.is_asked_to_end]
        return self._standing_with(take_back=_taken_back(orders, why), state=ProtectionState.PLACING, reason=why)

    def _why_shrunk(self) -> str:
        if not self.by_books:
            return "what it protected has been closed"
        if self.by_both < self.by_books:
            return "the broker shows a smaller position than our records"
        return "it makes way for another exit" if self.wanted < self.by_both else "the position has become smaller"

    def _why_to_close(self) -> str | None:
        """Why it is to be closed at the market, for people; None: it is not."""
        passed = self._passed
        if any(order.triggered_at is not None for order in passed):
            return "its stop was triggered and has not filled"
        is_refused = bool(passed) and passed[-1].protective.piece + 1 == self._next_piece
        if is_refused and not self._may_be_split(self._stop, ProtectiveRole.STOP):
            why = passed[-1].why
            return f"its stop cannot protect it any more: {why}" if why else "the price is through its stop"
        if any(self.position.now >= until for until in self._must_have_filled):
            return f"its stop was triggered and has not filled within {UNFILLED_SECONDS:.0f} s"
        span = self.position.span
        if span is None or self._paused_until is not None or self._known_at is not None:
            return None
        stop, target = self._watched_stop, self._watched_target
        if self._is_reached(stop, ProtectiveRole.STOP, span):
            return f"the price has passed its stop at {stop:f}, which does not rest at the broker"
        if self._is_reached(target, ProtectiveRole.TARGET, span):
            return f"the price has reached its target at {target:f}, which does not rest at the broker"
        return None

    # --- what may be a split ------------------------------------------------------------------------------------

    def _level(self, price: Decimal, role: ProtectiveRole) -> Level:
        return Level(price=price, side=self.position.side, role=role)

    def _is_reached(self, price: Decimal | None, role: ProtectiveRole, span: tuple[Decimal, Decimal]) -> bool:
        """By the market, and neither by a split nor by what may be one."""
        if price is None or not self._level(price, role).is_reached(span):
            return False
        return not self._may_be_split(price, role) and not (role is ProtectiveRole.STOP and self._is_far_beyond)

    def _may_be_split(self, price: Decimal | None, role: ProtectiveRole) -> bool:
        position = self.position
        return price is not None and may_be_split(
            self._level(price, role),
            more=position.more,
            held=position.held_by_all,
            span=position.span,
            before=position.last_price,
        )

    @property
    def _is_taken_down(self) -> bool:
        """Neither we nor the market have ended its last stop."""
        return self._rests_stop and bool(self._failures) and self._failures[0].ending is Ending.REMOVED

    @property
    def _is_far_beyond(self) -> bool:
        """The market is as far beyond a stop that was taken down at the broker as a split would have brought it: brokers take stops down for one,
        and may show the new quantity later."""
        span = self.position.span
        if span is None or self._stop is None or not self._is_taken_down:
            return False
        return self._level(self._stop, ProtectiveRole.STOP).is_far_beyond(span)

    @property
    def _known_at(self) -> datetime | None:
        """Until when a stop that was taken down waits for what the broker's positions and the market say; None: it does not wait."""
        position = self.position
        ended_at = self._failures[0].ended_at if self._is_taken_down else None
        if ended_at is None:
            return None
        if position.opens_at is not None and position.span is None:
            return position.opens_at + timedelta(seconds=KNOWN_SECONDS)
        opened_at = position.market_opened_at
        if opened_at is not None and ended_at < opened_at <= position.now:
            ended_at = opened_at  # what was asked in the night tells nothing of the new day
        asked = [position.compared_at, *([position.priced_at] if position.abilities.tells_quotes else [])]
        if all(at is not None and at >= ended_at for at in asked):
            return None
        until = ended_at + timedelta(seconds=KNOWN_SECONDS)
        return until if until > position.now else None

    @property
    def _why_held_back(self) -> str | None:
        """Why a stop that is not there is not placed, and nothing is closed, for people; None: nothing is held back."""
        stop, position = self._stop, self.position
        if stop is None:
            return None
        had = [order for order in self.entry.orders if order.role is ProtectiveRole.STOP]
        is_missing = bool(had) and not any(order.is_alive for order in had)
        is_known = position.span is not None
        is_doubtful = bool(self._failures) or position.shown is not None
        is_asked = (is_known and not self._rests_stop) or (is_missing and (is_known or is_doubtful))
        if is_asked and self._may_be_split(stop, ProtectiveRole.STOP):
            differs = f"{abs(position.more):f} {'fewer' if position.more < 0 else 'more'}"
            return (
                f"the broker shows {differs} than all our records together, {position.held:f} of them this strategy's, and its stop at {stop:f} may "
                "be reached by a split alone: "
                "nothing is closed until somebody says what happened (execctl adopt)"
            )
        if is_missing and self._is_far_beyond:
            return (
                f"its stop at {stop:f} was taken down at the broker, and the market is as far beyond it as after a split: "
                "nothing is closed until somebody says what happened (execctl adopt)"
            )
        return None

    @property
    def _passed(self) -> Sequence[ProtectiveOrder]:
        """Those of what is held now that can never protect, and behind which it was not closed at the market; the latest last."""
        after, opened_at = self.entry.begins_after or ZERO, self.position.opened_at
        if opened_at is not None and opened_at > self.position.now:
            opened_at = None  # a venue's clock that is ahead of ours tells nothing
        closes = (o.protective.piece for o in self.entry.orders if o.role is ProtectiveRole.CLOSE)
        last_close = max(closes, default=0)
        found = [
            order
            for order in self.entry.orders
            if order.ending is Ending.PASSED
            and order.protective.piece > last_close
            and (order.protective.begins_after or ZERO) >= after
            and not (opened_at is not None and order.ended_at is not None and order.ended_at < opened_at)
        ]
        return sorted(found, key=lambda order: order.protective.piece)

    @property
    def _must_have_filled(self) -> tuple[datetime, ...]:
        """By when each stop that was triggered has to have filled."""
        stops = [found for piece in self._pieces if (found := piece.alive_as(ProtectiveRole.STOP)) is not None]
        return tuple(o.triggered_at + timedelta(seconds=UNFILLED_SECONDS) for o in stops if o.triggered_at is not None)

    def jumped_over(self) -> list[MarkTriggered]:
        """Stops whose limit the market's price has passed in both looks: they were triggered, whether the broker says so or not, and do not fill at
        that price."""
        price, sign = self.position.passed_price, self.position.side.sign
        if price is None or not self._are_looks_of_now:
            return []
        return [
            MarkTriggered(
                order_id=order.order_id, why=f"the market is at {price:f}, past its limit of {order.limit_price:f}"
            )
            for order in self._limited_stops
            if order.triggered_at is None and order.limit_price is not None and (price - order.limit_price) * sign < 0
        ]

    @property
    def _limited_stops(self) -> list[ProtectiveOrder]:
        stops = [found for piece in self._pieces if (found := piece.alive_as(ProtectiveRole.STOP)) is not None]
        return [each for each in stops if each.limit_price is not None and each.stage is Stage.WORKING]

    @property
    def _watched_stop(self) -> Decimal | None:
        """At which price it is to be closed, where no stop rests at the broker."""
        if any(piece.alive_as(ProtectiveRole.STOP) for piece in self._pieces):
            return None
        return self._stop if self._failures or not self._rests_stop else None

    @property
    def _watched_target(self) -> Decimal | None:
        """Likewise, where no target does."""
        return None if self._all_have_targets else self.entry.target

    @property
    def _band(self) -> PriceBand | None:
        if not self.wanted:
            return None
        side, moves_at = self.position.side, None
        waiting = self._watched_stop if self._why_held_back is None else self._stop
        stop = tightest([waiting, *(each.limit_price for each in self._limited_stops)], side)
        if self.entry.trail is not None and self._stop is not None:
            moves_at = self.entry.trail.moves_at(self._stop, side)
        ahead = [price for price in (self._watched_target, moves_at) if price is not None]
        if stop is None and not ahead:
            return None
        if side is Side.BUY:
            return PriceBand(low=stop, high=min(ahead, default=None))
        return PriceBand(low=max(ahead, default=None), high=stop)

    @property
    def _all_have_targets(self) -> bool:
        """A linked one that has not left yet is none: it may wait for long for what the broker tells of its stop."""
        alive = [piece for piece in self._pieces if piece.alive]
        targets = [piece.alive_as(ProtectiveRole.TARGET) for piece in alive]
        return bool(alive) and all(o is not None and not _is_unsent_link(o) for o in targets)

    def _closed(self, why: str, at_risk: Decimal) -> ProtectionPlan:
        if at_risk:
            orders = [o for piece in self._pieces for o in piece.alive if not o.is_asked_to_end]
            return self._standing_with(
                take_back=_taken_back(orders, why), state=ProtectionState.CLOSING, reason=f"{why}; its orders end first"
            )
        close = Place(
            entry_order_id=self.entry.order_id,
            role=ProtectiveRole.CLOSE,
            piece=self._next_piece,
            quantity=self.wanted,
            begins_after=self.entry.begins_after,
        )
        return self._standing_with(place=(close,), state=ProtectionState.CLOSING, reason=why)

    def _without_position(self) -> ProtectionPlan:
        if any(piece.alive for piece in self._pieces):
            return self._standing_with(state=ProtectionState.PLACING, reason="its protective orders are ending")
        if self.by_both:
            return self._standing_with(state=ProtectionState.MAKING_WAY, reason="other exits take it")
        if self.by_books:
            words = "the broker shows nothing of it; protection was taken back until that is cleared up"
            return self._standing_with(state=ProtectionState.UNPROTECTED, reason=words)
        if self.position.is_reversed and self.entry.open_quantity:
            return self._standing_with(state=ProtectionState.MAKING_WAY, reason="the strategy holds the other side")
        if self.entry.is_working:
            return self._standing_with(
                state=ProtectionState.PLACING, reason="nothing of it is held, and it may still fill"
            )
        return self._standing_with(state=ProtectionState.CLOSED)

    def _grown(self, missing: Decimal) -> ProtectionPlan:
        if self.is_crowded:
            words = "the orders that protected what it stands for end first"
            return self._standing_with(state=ProtectionState.PLACING, reason=words)
        held_back = self._why_held_back
        if held_back is not None:
            return self._standing_with(state=ProtectionState.UNPROTECTED, reason=held_back)
        if not (self._rests_stop or self._rests_target_alone):
            return self._standing_with(state=ProtectionState.WATCHED, reason=self._watched_words())
        paused = self._paused_until or self._known_at
        if paused is not None:
            failure = self._failures[0]
            words = f"the broker does not keep its protective order: {failure.why or failure.ending}"
            if self.position.opens_at is not None and paused > self.position.opens_at:
                words += "; the market is closed and no price is known, so that it is placed again after the opening"
            return self._standing_with(state=ProtectionState.UNPROTECTED, reason=words, again=paused)
        opens_at = self.position.opens_at
        has_expired = bool(self._failures) and self._failures[0].ending is Ending.EXPIRED
        if opens_at is not None and not self.position.abilities.keeps_overnight and has_expired:
            words = (
                "the market is closed, and the broker keeps no order overnight: it is protected again at the opening"
            )
            return self._standing_with(state=ProtectionState.UNPROTECTED, reason=words, again=opens_at)
        alive = [piece for piece in self._pieces if piece.alive]
        if len(alive) >= MOST_PIECES:
            orders: tuple[ProtectiveOrder, ...] = ()
            if not any(piece.is_going for piece in alive):
                smallest = min(alive, key=lambda piece: (piece.remaining, piece.number))
                orders = tuple(order for order in smallest.alive if not order.is_asked_to_end)
            return self._standing_with(take_back=_taken_back(orders, "it becomes part of a larger one"))
        role = ProtectiveRole.STOP if self._rests_stop else ProtectiveRole.TARGET
        new = Place(
            entry_order_id=self.entry.order_id,
            role=role,
            piece=self._next_piece,
            quantity=missing,
            is_linked=self._is_linked,
            stop_price=self._stop if role is ProtectiveRole.STOP else None,
            begins_after=self.entry.begins_after,
        )
        return self._standing_with(place=(*self._missing_targets(), new))

    def _missing_targets(self) -> Iterator[Place]:
        """Of linked pieces whose stop the broker has taken: never before, so that a target without a stop is not left alone; and not once that has
        begun to fill, of which the target would not know."""
        for piece in self._pieces:
            stop = piece.alive_as(ProtectiveRole.STOP)
            is_linked = stop is not None and stop.protective.is_linked
            if not is_linked or stop is None or stop.stage is not Stage.WORKING or stop.is_asked_to_end:
                continue
            if stop.filled or stop.triggered_at is not None:
                continue
            if piece.remaining and not piece.has_had(ProtectiveRole.TARGET) and not self._holds_target_back:
                yield Place(
                    entry_order_id=self.entry.order_id,
                    role=ProtectiveRole.TARGET,
                    piece=piece.number,
                    quantity=piece.remaining,
                    is_linked=True,
                    begins_after=self.entry.begins_after,
                )

    @property
    def _holds_target_back(self) -> bool:
        """One was there, and a new one may be reached by a split alone."""
        has_had = any(piece.has_had(ProtectiveRole.TARGET) for piece in self._pieces)
        return has_had and self._may_be_split(self.entry.target, ProtectiveRole.TARGET)

    # --- how it stands ------------------------------------------------------------------------------------------

    def _watched_words(self) -> str:
        what = "stop" if self._stop is not None and not self._rests_stop else "target"
        return f"the {what} does not rest at the broker: the price is watched, as far as it is known"

    def _standing_with(
        self,
        *,
        place: tuple[Place, ...] = (),
        take_back: tuple[TakeBack, ...] = (),
        state: ProtectionState | None = None,
        reason: str = "",
        again: datetime | None = None,
    ) -> ProtectionPlan:
        main = ProtectiveRole.STOP if self._rests_stop else ProtectiveRole.TARGET
        covering = [piece for piece in self._pieces if (found := piece.alive_as(main)) and found.stage is Stage.WORKING]
        protected = sum((piece.covered for piece in covering if not piece.is_going), ZERO)
        doubtful = next((o for o in self.entry.orders if o.stage is Stage.UNCERTAIN and o.why), None)
        if state is None:
            state = ProtectionState.PLACING
            is_underway = any(_is_unsent_link(order) for order in self.entry.orders)
            if place or take_back or protected != self.wanted or is_underway:
                reason = "its orders are on their way, or are being fitted to what is held"
            elif self.entry.target is not None and not self._all_have_targets:
                state, reason = ProtectionState.WATCHED, self._watched_words()
            else:
                state = ProtectionState.PROTECTED
                if self.entry.trail is not None and not self.position.abilities.tells_quotes:
                    reason = "the broker tells no quotes: its stop follows executions of ours alone"
        if state is ProtectionState.PLACING and doubtful is not None:
            state, reason = ProtectionState.IN_DOUBT, f"{doubtful.protective.signal_id} is in doubt: {doubtful.why}"
            is_bare = any(self._is_orphan(piece) and doubtful in piece.alive for piece in self._pieces)
            if is_bare and self._rests_stop and protected < self.wanted:
                state = ProtectionState.UNPROTECTED
                reason += "; its stop has gone, and none is placed in its stead before that is decided"
        moments = (again, *(until for until in self._must_have_filled if until > self.position.now))
        standing = Standing(
            state=state,
            reason=reason,
            protected=min(protected, self.wanted),
            trailed_to=None if self.entry.trail is None else self._stop,
            begins_after=None if self.entry.trail is None else self.entry.begins_after,
        )
        return ProtectionPlan(
            place=place,
            take_back=take_back,
            standing={self.entry.order_id: standing},
            look_again_at=min((at for at in moments if at is not None), default=None),
            band=None if state is ProtectionState.CLOSING else self._band,
        )


def _is_unsent_link(order: ProtectiveOrder) -> bool:
    """A target that the broker is to link to a stop, and that it has not been sent."""
    return order.role is ProtectiveRole.TARGET and order.protective.is_linked and order.stage is Stage.UNSENT


def _taken_back(orders: Iterable[ProtectiveOrder], why: str, *, move: StopMove | None = None) -> tuple[TakeBack, ...]:
    return tuple(TakeBack(order_id=order.order_id, why=why, move=move) for order in orders)
