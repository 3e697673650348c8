"""The matcher by itself, bar by bar, as the lanes call it: what it must have noted when it is asked, and how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from simulation.matching import kernel
from simulation.matching.codes import (
    ASKED,
    CANCELLED,
    DAY,
    EXPIRED,
    FILLED,
    GTC,
    LIMIT,
    MARKET,
    NO_TRADING,
    OF_DAY,
    STOP,
    WORKING,
)
from simulation.matching.kernel import Bars, Fills, Orders, Rules

RULES = Rules(touch=0, path=0, slip_ticks=0, slip_up=0, slip_down=1)
FAR_STOP = 10**6


@dataclass(frozen=True, slots=True)
class Asked:
    """Buys one lot. `at`: the bar at whose opening it arrives."""

    kind: int = MARKET
    at: int = 0
    price: int = 0
    tif: int = GTC
    session: int = 0


class Lane:
    """One instrument that stands at 100 ticks; `lows`, `trading` and `sessions` by bar."""

    def __init__(
        self,
        *asked: Asked,
        room: int = 9,
        sessions: Sequence[int] = (0, 0, 0, 0),
        lows: Sequence[int] = (100, 100, 100, 100),
        trading: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        bars, count = len(sessions), len(asked)
        self.bars = Bars(
            open_time=[10 * k for k in range(bars)],
            open=[100] * bars,
            high=[100] * bars,
            low=lows,
            close=[100] * bars,
            pool=[1000] * bars,
            trading=trading,
            session=sessions,
            split_up=[0] * bars,
            split_down=[0] * bars,
        )
        self.orders = Orders(
            side=[1] * count,
            kind=[each.kind for each in asked],
            limit=[each.price for each in asked],
            stop=[each.price for each in asked],
            tif=[each.tif for each in asked],
            arrival=[10 * each.at for each in asked],
            session=[each.session for each in asked],
            left=[1] * count,
            status=[WORKING] * count,
            reason=[0] * count,
            partner=list(range(count)),
            reduce_only=[0] * count,
            book=[0] * count,
            seen=[-1] * count,
        )
        self.fills = Fills(*([0] * room for _ in Fills._fields))
        self.state = kernel.fresh_state()
        self._scratch = [[0] * count for _ in range(3)]

    def match(self, first: int, last: int) -> int:
        active, reached, keys = self._scratch
        return kernel.match(
            first, last, active, reached, keys, self.bars, self.orders, [0], RULES, self.fills, self.state, None, None
        )

    @property
    def filled(self) -> int:
        return self.state[kernel.FILLS]


def test_a_bar_that_may_fill_more_than_there_is_room_for_is_not_begun_and_those_before_it_are_done() -> None:
    lane = Lane(Asked(at=0), Asked(at=1), Asked(at=2), room=1)
    assert lane.match(0, 3) == 1
    assert (lane.filled, lane.orders.status) == (1, [FILLED, WORKING, WORKING])
    for column in lane.fills:
        column.extend([0, 0])
    assert lane.match(1, 3) == 3
    assert (lane.filled, lane.orders.status) == (3, [FILLED] * 3)


def test_what_rests_needs_room_too_since_it_may_fill_with_what_comes() -> None:
    lane = Lane(Asked(LIMIT, at=0, price=50), Asked(at=1), room=1)
    assert lane.match(0, 2) == 1


def test_room_for_each_order_that_can_fill_in_a_bar_is_enough() -> None:
    lane = Lane(Asked(at=0), Asked(LIMIT, at=0, price=99), Asked(at=2), room=2, lows=(100, 98, 100, 100))
    assert lane.match(0, 4) == 2
    assert (lane.filled, lane.orders.status) == (2, [FILLED, FILLED, WORKING])


def test_an_order_of_the_day_is_over_with_the_first_bar_of_the_next_session_though_that_touches_nothing() -> None:
    lane = Lane(Asked(STOP, price=FAR_STOP, tif=DAY), sessions=(0, 0, 1, 1))
    lane.match(0, 2)
    assert lane.orders.status == [WORKING]
    lane.match(2, 3)
    assert (lane.orders.status, lane.orders.reason) == ([EXPIRED], [OF_DAY])


@pytest.mark.parametrize(
    "beside", [Asked(STOP, price=FAR_STOP, session=7), Asked(STOP, price=FAR_STOP, tif=DAY, session=2)]
)
def test_a_halt_does_not_make_an_order_outlive_its_day_whatever_works_beside_it(beside: Asked) -> None:
    lane = Lane(Asked(STOP, price=FAR_STOP, tif=DAY), beside, sessions=(0, 1, 1, 1), trading=(0, 1, 1, 1))
    lane.match(0, 1)
    assert lane.orders.status == [WORKING, WORKING]
    lane.match(1, 2)
    assert lane.orders.status == [EXPIRED, WORKING]


def test_what_was_cancelled_between_two_bars_stays_so_when_its_day_ends() -> None:
    lane = Lane(Asked(STOP, price=FAR_STOP, tif=DAY), Asked(STOP, price=FAR_STOP, tif=DAY), sessions=(0, 1, 1, 1))
    lane.match(0, 1)
    lane.orders.status[0], lane.orders.reason[0] = CANCELLED, ASKED
    lane.match(1, 2)
    assert (lane.orders.status, lane.orders.reason) == ([CANCELLED, EXPIRED], [ASKED, OF_DAY])


def test_what_has_ended_needs_no_room() -> None:
    lane = Lane(Asked(at=0), Asked(at=1), room=2)
    assert lane.match(0, 4) == 4
    assert lane.orders.status == [FILLED, FILLED]


@pytest.mark.parametrize(("trading", "reason"), [((1, 1, 1, 1), OF_DAY), ((0, 0, 0, 0), NO_TRADING)])
def test_after_the_last_bar_an_order_of_that_day_is_over_and_says_whether_its_instrument_traded(
    trading: Sequence[int], reason: int
) -> None:
    lane = Lane(Asked(STOP, price=FAR_STOP, tif=DAY), trading=trading)
    lane.match(0, 4)
    kernel.expire(0, lane.orders, lane.state)
    assert (lane.orders.status, lane.orders.reason) == ([EXPIRED], [reason])
