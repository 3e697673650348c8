"""How much a flood of orders for one account delays those of another; measured at the log, the store and the broker, not by the traffic."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.figures import Figure, Say, median, milliseconds, percentile
from benchmarks.traffic import MANY_LANES, ONE_LANE, MeasurementFailed, OrderMessage, order_messages
from benchmarks.worlds import Service, wait_until

MOST_TIMES_ALONE = 2.0

_VICTIMS = 200
_VICTIMS_A_SECOND = 40.0
_VICTIMS_UNDER_WAY = 20
_FLOOD = 3000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_SECONDS = 120.0
_LEAST_LEFT_SHARE = 0.25


def measure_fairness(folder: Path, pairs: int, say: Say) -> list[Figure]:
    """From the moment an order was durable to the broker's acceptance: p99 of one account's orders, alone and beside a flood for another
    account, by turns. Raises MeasurementFailed."""
    alone: list[_Waits] = []
    while_it_arrives: list[_Waits] = []
    while_it_waits: list[_Waits] = []
    least_left = _FLOOD
    with Service(folder, {"LOG_FORMAT": "json"}) as service:
        service.start()
        service.traffic.burst(order_messages(_VICTIMS, MANY_LANES))
        filled = _VICTIMS
        for turn in range(pairs):
            say(f"fairness, pair {turn + 1} of {pairs}")
            wait_until(lambda: not service.owes_something(), "the service has nothing left to do", _LONGEST_SECONDS)
            victims = _trickle(service, _VICTIMS)
            filled += len(victims)
            _wait_for(service, filled)
            alone.append(_waits(service, victims))
            wait_until(lambda: not service.owes_something(), "the service has nothing left to do", _LONGEST_SECONDS)
            service.traffic.publish(order_messages(_FLOOD, ONE_LANE, account_id="flood"), fills_expected=False)
            first: list[OrderMessage] = []
            began = time.perf_counter()
            while service.stored() < filled + _FLOOD + len(first) - _VICTIMS_UNDER_WAY:
                if time.perf_counter() - began > _LONGEST_SECONDS:
                    raise MeasurementFailed(f"the flood was not taken in within {_LONGEST_SECONDS:.0f} s")
                first += _trickle(service, _VICTIMS_UNDER_WAY)
            last = _trickle(service, _VICTIMS)
            filled += _FLOOD + len(first) + len(last)
            least_left = min(least_left, _FLOOD * (turn + 1) - service.in_book("FILLED", "flood"))
            if least_left < _FLOOD * _LEAST_LEFT_SHARE:
                raise MeasurementFailed(
                    f"only {least_left} orders of the flood were left when the other account's had gone"
                )
            _wait_for(service, filled)
            while_it_arrives.append(_waits(service, first))
            while_it_waits.append(_waits(service, last))
    waited = f"at least {least_left} of the flood still unfilled at the end"
    return [
        _figure("orders waiting", "durable", alone, while_it_waits, MOST_TIMES_ALONE, f"{_VICTIMS} each; {waited}"),
        _figure("orders arriving", "durable", alone, while_it_arrives, None),
        _figure("orders arriving", "taken_in", alone, while_it_arrives, None),
    ]


@dataclass(frozen=True, slots=True)
class _Waits:
    """Seconds to the broker's acceptance, order by order: from when it was durable, and from when it was taken in."""

    durable: Sequence[float]
    taken_in: Sequence[float]


def _figure(
    neighbour: str, since: str, alone: Sequence[_Waits], beside: Sequence[_Waits], most: float | None, remark: str = ""
) -> Figure:
    pairs = [(getattr(a, since), getattr(b, since)) for a, b in zip(alone, beside, strict=True)]
    ratios = tuple(percentile(b, 0.99) / percentile(a, 0.99) for a, b in pairs)
    all_alone, all_beside = [t for a, _ in pairs for t in a], [t for _, b in pairs for t in b]
    return Figure(
        name=f"one account beside {_FLOOD} {neighbour} for another, {since.replace('_', ' ')} to broker",
        ours=f"p99 {milliseconds(percentile(all_beside, 0.99))}, median {milliseconds(median(all_beside))}",
        base=f"alone p99 {milliseconds(percentile(all_alone, 0.99))}, median {milliseconds(median(all_alone))}",
        pairs=ratios,
        target="-" if most is None else f"p99 at most {most:.0f} times alone",
        is_met=None if most is None else median(ratios) <= most,
        note="; ".join(filter(None, [f"orders at {_VICTIMS_A_SECOND:.0f}/s", remark])),
        raw={"alone_seconds": [a for a, _ in pairs], "beside_seconds": [b for _, b in pairs]},
    )


def _wait_for(service: Service, count: int) -> None:
    """By the book, which is another file: counting in the store would be a load of its own."""
    wait_until(lambda: service.in_book("FILLED") >= count, f"{count} orders are filled", _LONGEST_SECONDS)


def _trickle(service: Service, count: int) -> Sequence[OrderMessage]:
    victims = order_messages(count, ONE_LANE, account_id="victim")
    began = time.perf_counter()
    for number, message in enumerate(victims):
        time.sleep(max(0.0, began + number / _VICTIMS_A_SECOND - time.perf_counter()))
        service.traffic.publish([message], fills_expected=False)
    return victims


def _waits(service: Service, victims: Sequence[OrderMessage]) -> _Waits:
    signal_ids = [message.signal_id for message in victims]
    durable = service.durable_at(frozenset(signal_ids))
    with service.records() as records:
        taken_in = {r["signal_id"]: r for r in records.find({"signal_id": {"$in": list(signal_ids)}})}
    with service.book() as book:
        accepted = dict(book.execute("SELECT client_id, placed_at FROM orders WHERE account = 'victim'").fetchall())
    waits = []
    for signal_id, record in taken_in.items():
        moment = _EPOCH + timedelta(microseconds=accepted[record["client_order_id"]])
        received = record["received_at"].replace(tzinfo=UTC)
        waits.append(((moment - durable[signal_id]).total_seconds(), (moment - received).total_seconds()))
    return _Waits([first for first, _ in waits], [second for _, second in waits])
