"""Since when a broker's lists have agreed about an order, for brokers that name no annulled execution. No broker's
dialect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from brokers.base import FillsShown, Report


class SettledTracker:
    """Since when each order's executions have been shown unchanged."""

    def __init__(self, settled_seconds: float) -> None:
        self._settled_seconds = settled_seconds
        self._since: dict[str, tuple[object, float]] = {}

    def judge(self, reported: Sequence[Report], now: float) -> list[Report]:
        """The reports of one answer, marked as settled where they are. `now` is in monotonic seconds."""
        before, self._since = self._since, {}
        judged = []
        for report in reported:
            figures = (
                report.fills_shown,
                report.filled_quantity,
                frozenset((fill.fill_id, fill.quantity, fill.price) for fill in report.fills),
            )
            known = before.get(report.broker_order_id)
            since = now if known is None or known[0] != figures else known[1]
            self._since[report.broker_order_id] = figures, since
            is_settled = report.fills_shown is FillsShown.ALL and now - since >= self._settled_seconds
            judged.append(replace(report, fills_shown=FillsShown.SETTLED) if is_settled else report)
        return judged
