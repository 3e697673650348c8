"""How much a flood of orders for one account delays those of another; measured at the log, the store and the broker, not by the traffic."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

from benchmarks.figures import Figure, Say, median, milliseconds, percentile
from benchmarks.traffic import MANY_LANES, ONE_LANE, OrderMessage, order_messages
from benchmarks.worlds import Service, wait_until

MOST_TIMES_ALONE = 2.0

_VICTIMS = 100
_VICTIMS_A_SECOND = 40.0
_FLOOD = 2000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_SECONDS = 120.0


class _Neighbour(Enum):
    """What another account does meanwhile."""

    NOTHING = "alone"
    HAS_A_FLOOD = "orders waiting"
    GETS_A_FLOOD = "orders arriving"


def measure_fairness(folder: Path, pairs: int, say: Say) -> list[Figure]:
    """From the moment an order was durable to the broker's acceptance: p99 of one account's orders, alone and beside a flood for another
    account, by turns. Raises MeasurementFailed."""
    waits: dict[_Neighbour, list[_Waits]] = {neighbour: [] for neighbour in _Neighbour}
    with Service(folder, {"LOG_FORMAT": "json"}) as service:
        service.start()
        service.traffic.burst(order_messages(_VICTIMS, MANY_LANES))
        sent = _VICTIMS
        for turn in range(pairs):
            say(f"fairness, pair {turn + 1} of {pairs}")
            for neighbour, times in waits.items():
                wait_until(lambda: not service.owes_something(), "the service has nothing left to do", _LONGEST_SECONDS)
                if neighbour is not _Neighbour.NOTHING:
                    service.traffic.publish(order_messages(_FLOOD, ONE_LANE, account_id="flood"), fills_expected=False)
                    sent += _FLOOD
                if neighbour is _Neighbour.HAS_A_FLOOD:
                    _wait_until_stored(service, sent)
                victims = _trickle(service)
                sent += len(victims)
                _wait_for(service, sent)
                times.append(_waits(service, [message.signal_id for message in victims]))
    alone = waits[_Neighbour.NOTHING]
    return [
        _figure(_Neighbour.HAS_A_FLOOD, "durable", alone, waits[_Neighbour.HAS_A_FLOOD], MOST_TIMES_ALONE),
        _figure(_Neighbour.GETS_A_FLOOD, "durable", alone, waits[_Neighbour.GETS_A_FLOOD], None),
        _figure(_Neighbour.GETS_A_FLOOD, "taken_in", alone, waits[_Neighbour.GETS_A_FLOOD], None),
    ]


@dataclass(frozen=True, slots=True)
class _Waits:
    """Seconds to the broker's acceptance, order by order: from when it was durable, and from when it was taken in."""

    durable: Sequence[float]
    taken_in: Sequence[float]


def _figure(
    neighbour: _Neighbour, since: str, alone: Sequence[_Waits], beside: Sequence[_Waits], most: float | None
) -> Figure:
    pairs = [(getattr(a, since), getattr(b, since)) for a, b in zip(alone, beside, strict=True)]
    ratios = tuple(percentile(b, 0.99) / percentile(a, 0.99) for a, b in pairs)
    all_alone, all_beside = [t for a, _ in pairs for t in a], [t for _, b in pairs for t in b]
    return Figure(
        name=f"one account beside {_FLOOD} {neighbour.value} for another, {since.replace('_', ' ')} to broker",
        ours=f"p99 {milliseconds(percentile(all_beside, 0.99))}, median {milliseconds(median(all_beside))}",
        base=f"alone p99 {milliseconds(percentile(all_alone, 0.99))}, median {milliseconds(median(all_alone))}",
        pairs=ratios,
        target="-" if most is None else f"p99 at most {most:.0f} times alone",
        is_met=None if most is None else median(ratios) <= most,
        note=f"{_VICTIMS} orders at {_VICTIMS_A_SECOND:.0f}/s each",
        raw={"alone_seconds": [a for a, _ in pairs], "beside_seconds": [b for _, b in pairs]},
    )


def _wait_for(service: Service, count: int) -> None:
    """By the book, which is another file: counting in the store would be a load of its own."""
    wait_until(lambda: service.in_book("FILLED") >= count, f"{count} orders are filled", _LONGEST_SECONDS)


def _wait_until_stored(service: Service, count: int) -> None:
    wait_until(lambda: service.stored() >= count, f"{count} orders are stored", _LONGEST_SECONDS)


def _trickle(service: Service) -> Sequence[OrderMessage]:
    victims = order_messages(_VICTIMS, ONE_LANE, account_id="victim")
    began = time.perf_counter()
    for number, message in enumerate(victims):
        time.sleep(max(0.0, began + number / _VICTIMS_A_SECOND - time.perf_counter()))
        service.traffic.publish([message], fills_expected=False)
    return victims


def _waits(service: Service, signal_ids: Sequence[str]) -> _Waits:
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
