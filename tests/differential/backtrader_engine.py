"""Orders through backtrader: without slippage, commission or a check of money, which are ours to compare elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import backtrader
import pandas

from tests.differential.stocks import Bar, Fill, Wish

KINDS = {
    "MARKET": backtrader.Order.Market, "LIMIT": backtrader.Order.Limit, "STOP": backtrader.Order.Stop,
    "STOP_LIMIT": backtrader.Order.StopLimit,
}  # fmt: skip


class _Wishes(backtrader.Strategy):
    params = (("wishes", ()), ("fills", None))

    def __init__(self) -> None:
        self._waiting = sorted(enumerate(self.p.wishes), key=lambda each: each[1].after)
        self._done: dict[int, float] = {}

    def next(self) -> None:
        while self._waiting and self._waiting[0][1].after == len(self) - 1:
            n, wish = self._waiting.pop(0)
            send = self.buy if wish.side == "BUY" else self.sell
            more: dict[str, Any] = {}
            if wish.kind == "LIMIT":
                more = {"price": float(wish.limit)}
            elif wish.kind == "STOP":
                more = {"price": float(wish.stop)}
            elif wish.kind == "STOP_LIMIT":
                more = {"price": float(wish.stop), "plimit": float(wish.limit)}
            send(size=wish.quantity, exectype=KINDS[wish.kind], wish=n, **more)

    def notify_order(self, order: Any) -> None:
        # An order tells its whole state each time: what is new are the executions since the last time.
        bits = list(order.executed.iterpending())
        for bit in bits:
            price = round(bit.price * 100)
            self.p.fills.append((order.info.wish, len(self) - 1, round(abs(bit.size)), price))


def fills_of(bars: Sequence[Bar], wishes: Sequence[Wish], share_of_volume: float | None = None) -> list[Fill]:
    """In the sequence of their bars, then of the wishes."""
    names = ("open", "high", "low", "close", "volume")
    frame = pandas.DataFrame(
        {name: [float(getattr(bar, name)) for bar in bars] for name in names},
        index=pandas.to_datetime([bar.day for bar in bars]),
    )
    cerebro = backtrader.Cerebro(stdstats=False)
    cerebro.adddata(backtrader.feeds.PandasData(dataname=frame))
    cerebro.broker.set_cash(1e15)
    cerebro.broker.set_checksubmit(False)
    if share_of_volume is not None:
        cerebro.broker.set_filler(backtrader.broker.fillers.FixedBarPerc(perc=100 * share_of_volume))
    fills: list[Fill] = []
    cerebro.addstrategy(_Wishes, wishes=wishes, fills=fills)
    cerebro.run()
    return sorted(fills, key=lambda fill: (fill[1], fill[0]))
