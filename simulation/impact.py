"""Slippage that depends on how much is traded: the square of the bar's share, or the root of what is filled today; exact, in whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import isqrt

from simulation.matching.kernel import Bars
from simulation.settings import Settings, Slippage

SIGMA = 10**9
"""Volatilities are kept in billionths of the price."""


def needs_impact(settings: Settings) -> bool:
    """Whether slippage is more than whole ticks and a part of the price, which is all that the matcher itself adds up."""
    is_whole = sum((each.ticks for each in settings.slippage), Decimal(0)) % 1 == 0
    return not is_whole or any(each.model in ("volume_share", "sqrt") for each in settings.slippage)


class QuantityImpact:
    """The slippage of one instrument. All models are added exactly and rounded up to the tick once."""

    def __init__(self, settings: Settings, bars: Bars, volume: Sequence[int]) -> None:
        """`volume` is by bar, in lots."""
        self._bars, self._volume = bars, volume
        self._flat = sum((Fraction(each.ticks) for each in settings.slippage), Fraction(0))
        self._part = sum((Fraction(each.bps) / 10_000 for each in settings.slippage), Fraction(0))
        self._shares = [Fraction(each.price_impact) for each in settings.slippage if each.model == "volume_share"]
        self._roots = [_Root(each, bars, volume, settings) for each in settings.slippage if each.model == "sqrt"]
        self._today: dict[int, tuple[int, int]] = {}

    def ticks(self, order: int, bar: int, quantity: int, price: int, used: int) -> int:
        exact = self._flat + self._part * price
        if self._shares and self._volume[bar]:
            share = Fraction(used + quantity, self._volume[bar])
            exact += sum(self._shares, Fraction(0)) * share * share * price
        session = self._bars.session[bar]
        at, done = self._today.get(order, (session, 0))
        filled = quantity + (done if at == session else 0)
        # Whole ticks of exact roots would differ by how they are added: the sum is rounded up, each root to a millionth of a tick.
        for root in self._roots:
            exact += root.of(price, filled, session)
        return -(-exact.numerator // exact.denominator)

    def filled(self, order: int, bar: int, quantity: int) -> None:
        session = self._bars.session[bar]
        at, done = self._today.get(order, (session, 0))
        self._today[order] = (session, quantity + (done if at == session else 0))


class _Root:
    """price x Y x sigma x sqrt(filled today / average daily volume)."""

    def __init__(self, model: Slippage, bars: Bars, volume: Sequence[int], settings: Settings) -> None:
        self._y = Fraction(model.y)
        self._sigma = None if model.sigma is None else Fraction(model.sigma)
        self._adv = None if model.adv is None else Fraction(model.adv) / Fraction(settings.lot)
        self._measured = _by_session(bars, volume, int(model.days)) if None in (model.sigma, model.adv) else {}

    def of(self, price: int, filled: int, session: int) -> Fraction:
        sigma, adv = self._measured.get(session, (Fraction(0), Fraction(0)))
        sigma = sigma if self._sigma is None else self._sigma
        adv = adv if self._adv is None else self._adv
        if not adv or not sigma:
            return Fraction(0)
        square = (price * self._y * sigma) ** 2 * filled / adv
        return _root_up(square)


def _root_up(square: Fraction, places: int = 10**6) -> Fraction:
    """The root, rounded up to 1 / `places`."""
    scaled = -(-square.numerator * places * places // square.denominator)
    root = isqrt(scaled)
    return Fraction(root if root * root == scaled else root + 1, places)


def _by_session(bars: Bars, volume: Sequence[int], days: int) -> dict[int, tuple[Fraction, Fraction]]:
    """For each session, volatility and average volume of the `days` sessions before it; what is not over does not count."""
    closes: list[tuple[int, int, int]] = []
    for k, session in enumerate(bars.session):
        if not bars.trading[k]:
            continue
        if closes and closes[-1][0] == session:
            closes[-1] = (session, bars.close[k], closes[-1][2] + volume[k])
        else:
            closes.append((session, bars.close[k], volume[k]))
    known: dict[int, tuple[Fraction, Fraction]] = {}
    for n in range(1, len(closes)):
        before = closes[max(0, n - days) : n]
        adv = Fraction(sum(each[2] for each in before), len(before))
        returns = [SIGMA * (b[1] - a[1]) // a[1] for a, b in pairwise(before)]
        mean = sum(returns) // len(returns) if returns else 0
        spread = sum((r - mean) ** 2 for r in returns)
        sigma = isqrt(spread // (len(returns) - 1)) if len(returns) > 1 else 0
        known[closes[n][0]] = (Fraction(sigma, SIGMA), adv)
    return known
