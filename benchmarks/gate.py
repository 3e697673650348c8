"""What the risk gate costs an order: its share of the processor time of orders that come one at a time, with nothing and with much at work."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, Say, median, milliseconds
from benchmarks.judged_service import VARIABLE
from benchmarks.traffic import ONE_LANE, MeasurementFailed, Mix, order_messages
from benchmarks.worlds import Service, wait_until

AT_WORK = 300
"""So many orders rest at the broker, and so many positions are held."""
MOST_OF_AN_ORDER = 0.10
_ORDERS_A_PAIR = 40
_WARM_UP_ORDERS = 20
_SETTLED_SECONDS = 120.0
BUILT_IN = ""
TYPICAL = """[defaults]
max_order_quantity = 10_000
max_order_value = 1_000_000
max_position_quantity = 100_000
max_position_value = 5_000_000
max_gross_exposure = 50_000_000
max_net_exposure = 50_000_000
max_open_orders = 1_000
max_orders_per_minute = 10_000
max_orders_per_day = 100_000
price_collar_pct = 20
reference_price_max_age_seconds = 3600
"""
"""Limits that add up over all that is held and works, none of which anything here comes near."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of processor time of one order: its gate's, and all of the service's."""

    gate: float
    whole: float


class JudgedService(Service):
    """The service with a meter at its risk gates (`judged_service.py`)."""

    def __init__(self, folder: Path, limits: str) -> None:
        """`limits`: the text of its `risk.toml`."""
        super().__init__(folder, {"RISK_FILE": str(folder / "risk.toml"), VARIABLE: str(folder / "judged.json")})
        (folder / "risk.toml").write_text(limits, encoding="utf-8")
        self._judged = folder / "judged.json"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "benchmarks.judged_service", "--use-mock-broker"]

    def judged(self) -> tuple[int, float]:
        """How many orders were judged so far, and the processor time of their gates. Raises MeasurementFailed."""
        self._judged.unlink(missing_ok=True)
        self.send_signal(signal.SIGUSR1)
        wait_until(self._judged.exists, "the service tells what its gates cost", 30.0)
        found = json.loads(self._judged.read_text(encoding="utf-8"))
        return int(found["judged"]), float(found["seconds"])


def measure_gate(folder: Path, pairs: int, say: Say) -> list[Figure]:
    """Raises MeasurementFailed."""
    return [
        _figure(folder / "gate-built-in", "built-in limits", BUILT_IN, pairs, say),
        _figure(folder / "gate-typical", "typical written limits", TYPICAL, pairs, say),
    ]


def _figure(folder: Path, name: str, limits: str, pairs: int, say: Say) -> Figure:
    much: list[Cost] = []
    nothing: list[Cost] = []
    with JudgedService(folder / "much", limits) as busy, JudgedService(folder / "nothing", limits) as idle:
        busy.hold_orders("*", AT_WORK)
        for service in (busy, idle):
            service.start()
        say(f"{AT_WORK} orders to rest and as many positions, {name}")
        lines = Mix(name="lines", symbols=AT_WORK, accounts=1)
        resting = order_messages(AT_WORK, lines, order_type="LIMIT", limit_price=101.25, tif="GTC")
        busy.traffic.publish(resting, fills_expected=False)
        wait_until(lambda: busy.recorded("SUBMITTED") >= AT_WORK, "the orders rest", _SETTLED_SECONDS)
        busy.traffic.burst(order_messages(AT_WORK, lines))
        for service in (busy, idle):
            _cost(service, _WARM_UP_ORDERS)
        for turn in range(pairs):
            say(f"what the gate costs an order, {name}, pair {turn + 1} of {pairs}")
            much.append(_cost(busy, _ORDERS_A_PAIR))
            nothing.append(_cost(idle, _ORDERS_A_PAIR))
    share = median([each.gate / each.whole for each in much])
    is_bound = limits == BUILT_IN
    return Figure(
        name=f"the risk gate's part of an order, {name}, {AT_WORK} open orders and {AT_WORK} positions",
        ours=f"{milliseconds(median([each.gate for each in much]))}, {share:.0%} of its processor time",
        base=f"with none {milliseconds(median([each.gate for each in nothing]))}, "
        f"{median([each.gate / each.whole for each in nothing]):.0%}",
        pairs=tuple(mine.gate / other.gate for mine, other in zip(much, nothing, strict=True)),
        target=f"at most {MOST_OF_AN_ORDER:.0%}" if is_bound else "-",
        is_met=share <= MOST_OF_AN_ORDER if is_bound else None,
        note=f"on the event loop, {_ORDERS_A_PAIR} orders one at a time; an order in all, all threads of the service: "
        f"{milliseconds(median([each.whole for each in much]))}, with none {milliseconds(median([each.whole for each in nothing]))}",
        raw={
            "gate_seconds": [each.gate for each in much],
            "whole_seconds": [each.whole for each in much],
            "gate_seconds_with_none": [each.gate for each in nothing],
            "whole_seconds_with_none": [each.whole for each in nothing],
        },
    )


def _cost(service: JudgedService, count: int) -> Cost:
    """Of orders at the market, one at a time, until nothing of them is owed but what rests."""
    judged, seconds = service.judged()
    before = service.processor_time()
    for message in order_messages(count, ONE_LANE):
        service.traffic.one(message)
    used = service.processor_time().since(before).total
    judged_after, seconds_after = service.judged()
    if judged_after - judged < count:
        raise MeasurementFailed(f"of {count} orders {judged_after - judged} were judged")
    return Cost(gate=(seconds_after - seconds) / count, whole=used / count)
