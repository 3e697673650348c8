"""Orders against the bars of one instrument: the rules of docs/simulation.md, in whole numbers.

Prices are in ticks, quantities in lots, times in microseconds. Everything is a list of ints, or an array where numba has compiled these very
functions: no class, no Decimal, no float in here. A bar decides what happens in the sequence: corporate action, ends of orders, the open (by
arrival), the inside (by the path that is assumed), the close.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import NamedTuple, Protocol

from simulation.matching.codes import (
    ADVERSE,
    AT_GAP,
    AT_LIMIT,
    AT_OPEN,
    AT_STOP,
    BY_PATH,
    BY_VOLUME,
    CANCELLED,
    CORPORATE_ACTION,
    DAY,
    EXPIRED,
    FILLED,
    INSUFFICIENT_FUNDS,
    IOC,
    LIMIT,
    MARKET,
    NEAREST,
    NO_TRADING,
    OF_DAY,
    OF_IOC,
    OF_OCO,
    OHLC,
    OLHC,
    REDUCE_ONLY,
    SHORT_NOT_ALLOWED,
    SLIPPAGE_CAPPED,
    STOP,
    STOP_LIMIT,
    WORKING,
)

FAR = 2**62
"""Beyond every price in ticks."""


class Bars(NamedTuple):
    """One instrument's bars, by time."""

    open_time: Sequence[int]
    open: Sequence[int]
    high: Sequence[int]
    low: Sequence[int]
    close: Sequence[int]
    pool: Sequence[int]
    """How many lots all orders together may have of the bar."""
    trading: Sequence[int]
    """0: nothing was traded (halted, no volume), so nothing fills and nothing triggers."""
    session: Sequence[int]
    """Rises from session to session."""
    split_up: Sequence[int]
    split_down: Sequence[int]
    """At the open of a bar with 4 and 1, one share becomes four. 0: no corporate action."""


class Orders(NamedTuple):
    """One instrument's orders, by arrival. What the rules change of them: `kind`, `left`, `status` and `reason`."""

    side: Sequence[int]
    """1 buys, -1 sells."""
    kind: MutableSequence[int]
    """A stop that was reached becomes a market order, a stop-limit becomes a limit."""
    limit: Sequence[int]
    stop: Sequence[int]
    tif: Sequence[int]
    arrival: Sequence[int]
    session: Sequence[int]
    """The session in which a DAY order lives; -1: none has begun since it arrived."""
    left: MutableSequence[int]
    status: MutableSequence[int]
    reason: MutableSequence[int]
    partner: Sequence[int]
    """The next order of its group, in a ring: what one fills is taken off the others. Itself: it has none."""
    reduce_only: Sequence[int]
    book: Sequence[int]
    """Whose position it changes: an index of `held`."""
    seen: MutableSequence[int]
    """The bar at whose inside it was last reachable, by index; -1: never."""


class Rules(NamedTuple):
    touch: int
    """1: a limit fills when its price is reached; 0: only when it is passed."""
    path: int
    slip_ticks: int
    slip_up: int
    slip_down: int
    """Slippage is `slip_ticks` and the part `slip_up` / `slip_down` of the price, rounded up to the tick."""


class Fills(NamedTuple):
    order: MutableSequence[int]
    bar: MutableSequence[int]
    quantity: MutableSequence[int]
    price: MutableSequence[int]
    reason: MutableSequence[int]


class Money(Protocol):
    """What limits fills by money and short permission. Only without compilation."""

    def covers(self, order: int, bar: int, side: int, quantity: int, price: int) -> int: ...

    def booked(self, order: int, bar: int, side: int, quantity: int, price: int) -> None: ...


class Impact(Protocol):
    """Slippage that depends on the quantity. Only without compilation."""

    def ticks(self, order: int, bar: int, quantity: int, price: int, used: int) -> int: ...

    def filled(self, order: int, bar: int, quantity: int) -> None: ...


# The places of `state`: what is carried from bar to bar.
(
    FILLS,  # how many there are
    ACTIVE,  # so many places of `active` are in use
    NEXT,  # the first order that has not come yet
    POOL,  # what is left of the present bar's
    USED,  # and what has filled of it
    TRADED_AT,  # when the last bar with trading opened
    ENDS,  # the first session in which a DAY order at work ends by its session's having passed; FAR: there is none
    UP,  # what rests is not touched by a bar below this price
    DOWN,  # and above this one
    PLACES,
) = range(10)


def fresh_state() -> list[int]:
    """Before the first bar."""
    return [0, 0, 0, 0, 0, -FAR, FAR, FAR, -FAR]


def end(i: int, status: int, reason: int, orders: Orders) -> None:
    orders.status[i] = status
    orders.reason[i] = reason


def take(
    i: int,
    k: int,
    price: int,
    slips: int,
    is_capped: int,
    why: int,
    orders: Orders,
    held: MutableSequence[int],
    rules: Rules,
    fills: Fills,
    state: MutableSequence[int],
    money: Money | None,
    impact: Impact | None,
) -> None:
    """Fills of order `i` in bar `k` what pool, position and money allow, at `price` and its slippage, never beyond the limit of a capped one."""
    side = orders.side[i]
    left = orders.left[i]
    book = orders.book[i]
    if orders.reduce_only[i]:
        there = -side * held[book]
        if there <= 0:
            end(i, CANCELLED, REDUCE_ONLY, orders)
            return
        left = min(left, there)
    quantity = min(left, state[POOL])
    if quantity <= 0:
        return
    if quantity < left:
        why |= BY_VOLUME
    if slips:
        if impact is not None:
            slip = impact.ticks(i, k, quantity, price, state[USED])
        else:
            slip = rules.slip_ticks + -(-price * rules.slip_up // rules.slip_down)
        price += side * slip
        # A sale for nothing is the least that can be had for it.
        price = max(price, 1)
    if is_capped and side * (price - orders.limit[i]) > 0:
        price = orders.limit[i]
        why |= SLIPPAGE_CAPPED
    is_cut = False
    if money is not None:
        covered = money.covers(i, k, side, quantity, price)
        is_cut = covered < quantity
        quantity = covered
        if quantity > 0:
            money.booked(i, k, side, quantity, price)
    if quantity > 0:
        n = state[FILLS]
        fills.order[n] = i
        fills.bar[n] = k
        fills.quantity[n] = quantity
        fills.price[n] = price
        fills.reason[n] = why
        state[FILLS] = n + 1
        state[POOL] -= quantity
        state[USED] += quantity
        orders.left[i] -= quantity
        held[book] += side * quantity
        if impact is not None:
            impact.filled(i, k, quantity)
        other = orders.partner[i]
        while other != i:
            if orders.status[other] == WORKING:
                orders.left[other] = max(0, orders.left[other] - quantity)
                if not orders.left[other]:
                    end(other, CANCELLED, OF_OCO, orders)
            other = orders.partner[other]
    if not orders.left[i]:
        end(i, FILLED, 0, orders)
    elif is_cut:
        end(i, CANCELLED, INSUFFICIENT_FUNDS if side > 0 else SHORT_NOT_ALLOWED, orders)
    elif orders.reduce_only[i] and not held[book]:
        end(i, CANCELLED, REDUCE_ONLY, orders)


def at_open(
    i: int,
    k: int,
    bars: Bars,
    orders: Orders,
    held: MutableSequence[int],
    rules: Rules,
    fills: Fills,
    state: MutableSequence[int],
    money: Money | None,
    impact: Impact | None,
) -> None:
    """What the bar's open alone decides about order `i`."""
    side = orders.side[i]
    price = bars.open[k]
    kind = orders.kind[i]
    why = AT_OPEN
    if kind in (STOP, STOP_LIMIT):
        if side * (price - orders.stop[i]) < 0:
            if orders.tif[i] == IOC:
                end(i, CANCELLED, OF_IOC, orders)
            return
        kind = MARKET if kind == STOP else LIMIT
        orders.kind[i] = kind
        why = AT_GAP
    if kind == MARKET:
        take(i, k, price, 1, 0, why, orders, held, rules, fills, state, money, impact)
    elif side * (price - orders.limit[i]) <= 0:
        take(i, k, price, 1, 1, why, orders, held, rules, fills, state, money, impact)
    if orders.status[i] == WORKING and orders.tif[i] == IOC:
        end(i, CANCELLED, OF_IOC, orders)


def is_due_at(i: int, k: int, bars: Bars, orders: Orders, rules: Rules) -> bool:
    """Whether the bar comes, after its open, to what the resting order `i` waits for."""
    side = orders.side[i]
    kind = orders.kind[i]
    if kind == LIMIT:
        passed = orders.limit[i] - bars.low[k] if side > 0 else bars.high[k] - orders.limit[i]
        return passed > 0 or (rules.touch == 1 and passed == 0)
    if kind == MARKET:
        return False
    return bars.high[k] >= orders.stop[i] if side > 0 else bars.low[k] <= orders.stop[i]


def level_of(i: int, orders: Orders) -> int:
    return orders.limit[i] if orders.kind[i] == LIMIT else orders.stop[i]


def path_key(i: int, k: int, bars: Bars, orders: Orders, path: int) -> int:
    """Smaller comes first inside the bar: the class of the assumed path, then the distance from the open."""
    away = level_of(i, orders) - bars.open[k]
    distance = abs(away)
    if path == ADVERSE:
        first = orders.kind[i] != LIMIT
    else:
        # A stop of a buyer and a limit of a seller wait for a rise.
        is_up = (orders.side[i] > 0) != (orders.kind[i] == LIMIT)
        first = is_up == (path == OHLC)
    return distance if first else distance + FAR // 2


def path_of(k: int, bars: Bars, rules: Rules) -> int:
    if rules.path != NEAREST:
        return rules.path
    up = bars.high[k] - bars.open[k]
    down = bars.open[k] - bars.low[k]
    if up == down:
        return ADVERSE
    return OHLC if up < down else OLHC


def inside(
    count: int,
    k: int,
    reached: MutableSequence[int],
    keys: MutableSequence[int],
    bars: Bars,
    orders: Orders,
    held: MutableSequence[int],
    rules: Rules,
    fills: Fills,
    state: MutableSequence[int],
    money: Money | None,
    impact: Impact | None,
) -> None:
    """What happens between open and close to the `count` orders in `reached`, given by arrival."""
    if count > 1:
        path = path_of(k, bars, rules)
        for n in range(count):
            i = reached[n]
            orders.seen[i] = k
            key = path_key(i, k, bars, orders, path)
            m = n
            while m > 0 and keys[m - 1] > key:
                keys[m] = keys[m - 1]
                reached[m] = reached[m - 1]
                m -= 1
            keys[m] = key
            reached[m] = i
    late = 0
    for n in range(count):
        i = reached[n]
        if orders.status[i] != WORKING:
            continue
        side = orders.side[i]
        kind = orders.kind[i]
        why = AT_LIMIT if kind == LIMIT else AT_STOP
        if count > 1:
            other = orders.partner[i]
            while other != i:
                if orders.seen[other] == k:
                    why = BY_PATH
                other = orders.partner[other]
        if kind == LIMIT:
            take(i, k, orders.limit[i], 0, 0, why, orders, held, rules, fills, state, money, impact)
        elif kind == STOP:
            orders.kind[i] = MARKET
            take(i, k, orders.stop[i], 1, 0, why, orders, held, rules, fills, state, money, impact)
        else:
            orders.kind[i] = LIMIT
            if side * (orders.stop[i] - orders.limit[i]) <= 0:
                take(i, k, orders.stop[i], 1, 1, why, orders, held, rules, fills, state, money, impact)
            else:
                # Its limit was passed before it was triggered: only the close is surely later.
                reached[late] = i
                late += 1
    for n in range(1, late):
        i = reached[n]
        m = n
        while m > 0 and reached[m - 1] > i:
            reached[m] = reached[m - 1]
            m -= 1
        reached[m] = i
    for n in range(late):
        i = reached[n]
        beyond = orders.side[i] * (orders.limit[i] - bars.close[k])
        if orders.status[i] == WORKING and (beyond > 0 or (rules.touch == 1 and beyond == 0)):
            take(i, k, orders.limit[i], 0, 0, AT_LIMIT, orders, held, rules, fills, state, money, impact)


def split(held: MutableSequence[int], up: int, down: int) -> None:
    """One share becomes `up` / `down`, for the account as a whole: together the books hold the whole lots of the account's net holding after it,
    rounded towards zero. Each has its exact share, rounded down or up so that all of them add up to that."""
    before = 0
    for b in range(len(held)):
        before += held[b]
    # The sums of the exact shares up to each book are rounded all one way: down, or up where the account is short.
    way = 1 if before >= 0 else -1
    so_far = 0
    whole_so_far = 0
    for b in range(len(held)):
        so_far += held[b]
        whole = way * (way * so_far * up // down)
        held[b] = whole - whole_so_far
        whole_so_far = whole


def begin_bar(
    k: int,
    active: MutableSequence[int],
    bars: Bars,
    orders: Orders,
    held: MutableSequence[int],
    state: MutableSequence[int],
) -> bool:
    """Takes in what has arrived, ends what a corporate action, a new session or a halt ends. False: nothing can happen in this bar."""
    opens = bars.open_time[k]
    session = bars.session[k]
    count = state[ACTIVE]
    is_split = bars.split_up[k] > 0
    if is_split:
        split(held, bars.split_up[k], bars.split_down[k])
    total = len(orders.side)
    n = state[NEXT]
    has_come = False
    while n < total and orders.arrival[n] <= opens:
        if orders.status[n] == WORKING:
            active[count] = n
            count += 1
            has_come = True
            if orders.tif[n] == DAY and 0 <= orders.session[n] < state[ENDS]:
                state[ENDS] = orders.session[n]
        n += 1
    state[NEXT] = n
    if count and (is_split or state[ENDS] < session or not bars.trading[k]):
        kept = 0
        ends = FAR
        for m in range(count):
            i = active[m]
            if orders.status[i] != WORKING:
                continue
            if is_split and orders.arrival[i] < opens:
                end(i, CANCELLED, CORPORATE_ACTION, orders)
            elif orders.tif[i] == DAY and 0 <= orders.session[i] < session:
                end(i, EXPIRED, OF_DAY if state[TRADED_AT] >= orders.arrival[i] else NO_TRADING, orders)
            elif orders.tif[i] == IOC and not bars.trading[k]:
                end(i, CANCELLED, OF_IOC, orders)
            else:
                active[kept] = i
                kept += 1
                if orders.tif[i] == DAY and 0 <= orders.session[i] < ends:
                    ends = orders.session[i]
        count = kept
        state[ENDS] = ends
    state[ACTIVE] = count
    if not bars.trading[k]:
        # What has come rests without having been looked at: the next bar looks at all.
        if has_come:
            state[UP] = -FAR
        return False
    state[TRADED_AT] = opens
    state[POOL] = bars.pool[k]
    state[USED] = 0
    return count > 0 and (has_come or bars.high[k] >= state[UP] or bars.low[k] <= state[DOWN])


def end_bar(active: MutableSequence[int], orders: Orders, state: MutableSequence[int]) -> None:
    """Lets go of what has ended, and notes at which prices the next bar must be looked at."""
    end_bar_from(0, FAR, -FAR, active, orders, state)


def end_bar_from(
    first: int, up: int, down: int, active: MutableSequence[int], orders: Orders, state: MutableSequence[int]
) -> None:
    """The same for those from place `first` on; those before it wait for `up` and `down`."""
    kept = first
    for n in range(first, state[ACTIVE]):
        i = active[n]
        if orders.status[i] != WORKING:
            continue
        active[kept] = i
        kept += 1
        kind = orders.kind[i]
        if kind == MARKET:
            up = -FAR
        elif (orders.side[i] > 0) != (kind == LIMIT):
            up = min(up, level_of(i, orders))
        else:
            down = max(down, level_of(i, orders))
    state[ACTIVE] = kept
    state[UP] = up
    state[DOWN] = down


def match(
    first: int,
    last: int,
    active: MutableSequence[int],
    reached: MutableSequence[int],
    keys: MutableSequence[int],
    bars: Bars,
    orders: Orders,
    held: MutableSequence[int],
    rules: Rules,
    fills: Fills,
    state: MutableSequence[int],
    money: Money | None,
    impact: Impact | None,
) -> int:
    """Bars `first` to before `last`. Returns the bar at which it stopped: `last`, or one for which `fills` has too little room."""
    room = len(fills.order)
    total = len(orders.side)
    open_time, high, low = bars.open_time, bars.high, bars.low
    session, trading, split_up = bars.session, bars.trading, bars.split_up
    comes = orders.arrival[state[NEXT]] if state[NEXT] < total else FAR
    ends, up, down = state[ENDS], state[UP], state[DOWN]
    for k in range(first, last):
        # Most bars bring nothing, end nothing and touch nothing.
        if (
            comes > open_time[k]
            and high[k] < up
            and low[k] > down
            and session[k] <= ends
            and trading[k]
            and split_up[k] == 0
        ):
            state[TRADED_AT] = open_time[k]
            continue
        # An order fills once a bar at most: what is left of it then, the pool has not.
        if state[FILLS] + total > room and state[FILLS] + state[ACTIVE] + arrived(k, bars, orders, state) > room:
            return k
        new = state[NEXT]
        can_fill = begin_bar(k, active, bars, orders, held, state)
        comes = orders.arrival[state[NEXT]] if state[NEXT] < total else FAR
        ends, up, down = state[ENDS], state[UP], state[DOWN]
        if not can_fill:
            continue
        start = 0
        if high[k] < up and low[k] > down:
            # What rests is not touched: only what has come is looked at, which is the last in `active`.
            start = state[ACTIVE]
            while start > 0 and active[start - 1] >= new:
                start -= 1
        for n in range(start, state[ACTIVE]):
            i = active[n]
            if orders.status[i] == WORKING:
                at_open(i, k, bars, orders, held, rules, fills, state, money, impact)
        count = 0
        for n in range(start, state[ACTIVE]):
            i = active[n]
            if orders.status[i] == WORKING and is_due_at(i, k, bars, orders, rules):
                reached[count] = i
                count += 1
        if count:
            inside(count, k, reached, keys, bars, orders, held, rules, fills, state, money, impact)
        if start:
            end_bar_from(start, up, down, active, orders, state)
        else:
            end_bar(active, orders, state)
        up, down = state[UP], state[DOWN]
        if state[NEXT] == total and not state[ACTIVE]:
            return last
    return last


def arrived(k: int, bars: Bars, orders: Orders, state: MutableSequence[int]) -> int:
    """How many orders bar `k` takes in."""
    n = state[NEXT]
    while n < len(orders.side) and orders.arrival[n] <= bars.open_time[k]:
        n += 1
    return n - state[NEXT]


def expire(last_session: int, orders: Orders, state: MutableSequence[int]) -> None:
    """After the last bar of all instruments: DAY orders whose session has been are over."""
    for i in range(len(orders.side)):
        if orders.status[i] == WORKING and orders.tif[i] == DAY and 0 <= orders.session[i] <= last_session:
            end(i, EXPIRED, OF_DAY if state[TRADED_AT] >= orders.arrival[i] else NO_TRADING, orders)
