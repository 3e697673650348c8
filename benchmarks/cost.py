"""What one order costs: processor time of the service, documents written, and how long the broker's acceptance takes in durable writes."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.figures import Figure, Say, median, milliseconds, percentile
from benchmarks.traffic import MANY_LANES, ONE_LANE, MeasurementFailed, order_messages
from benchmarks.worlds import Floor, ProcessorTime, Service, World, wait_until

MOST_PROCESSOR_SECONDS = 0.003
MOST_DURABLE_WRITES = 3.0

_WARM_UP_ORDERS = 100
_SETTLED_SECONDS = 60.0
_RECORDS = "execution_orders"
_SINGLES_A_PAIR = 15
_LEAST_SINGLES = 30
_PAUSE_SECONDS = 0.1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def measure_cost(folder: Path, burst: int, pairs: int, say: Say) -> list[Figure]:
    """Bursts of one account and symbol, each until its last order owes nothing any more. Raises MeasurementFailed."""
    ours: list[ProcessorTime] = []
    theirs: list[ProcessorTime] = []
    written: Counter[str] = Counter()
    with Service(folder / "cost") as service, Floor(folder / "cost-floor", 1) as floor:
        for world in (service, floor):
            world.start()
            world.traffic.burst(order_messages(_WARM_UP_ORDERS, MANY_LANES))
        for turn in range(pairs):
            say(f"cost of an order, pair {turn + 1} of {pairs}")
            _wait_until_settled(service)
            before = service.writes_of_documents()
            ours.append(_processor_time(service, burst))
            written += service.writes_of_documents() - before
            theirs.append(_processor_time(floor, burst))
    if written[_RECORDS] < burst * pairs:
        raise MeasurementFailed(f"the store's log tells of {written[_RECORDS]} writes of {burst * pairs} records")
    seconds = [time.total / burst for time in ours]
    floors = [time.total / burst for time in theirs]
    loop, system = (median([getattr(time, part) / burst for time in ours]) for part in ("first_thread", "system"))
    an_order = {name: count / (burst * pairs) for name, count in written.most_common()}
    return [
        Figure(
            name=f"processor time of an order, burst of {burst}",
            ours=f"{milliseconds(median(seconds))}",
            base=f"floor {milliseconds(median(floors))}",
            pairs=tuple(mine / other for mine, other in zip(seconds, floors, strict=True)),
            target=f"at most {milliseconds(MOST_PROCESSOR_SECONDS)}",
            is_met=median(seconds) <= MOST_PROCESSOR_SECONDS,
            note=f"all threads of the service, without its store and Pub/Sub, until nothing is owed: event loop {milliseconds(loop)}, "
            f"other threads {milliseconds(median(seconds) - loop)}; of both {milliseconds(system)} in the system's calls",
            raw={
                "seconds": seconds,
                "event_loop_seconds": [time.first_thread / burst for time in ours],
                "system_seconds": [time.system / burst for time in ours],
                "floor_seconds": floors,
            },
        ),
        Figure(
            name=f"documents written for an order, burst of {burst}",
            ours=f"{sum(an_order.values()):.1f}, its own record {an_order[_RECORDS]:.1f}",
            base="floor 3.0",
            note="by the store's own log: " + ", ".join(f"{name} {times:.2f}" for name, times in an_order.items()),
            raw={"writes_of_an_order": an_order},
        ),
    ]


def _processor_time(world: World, count: int) -> ProcessorTime:
    before = world.processor_time()
    world.traffic.burst(order_messages(count, ONE_LANE))
    if isinstance(world, Service):
        _wait_until_settled(world)
    return world.processor_time().since(before)


def _wait_until_settled(service: Service) -> None:
    wait_until(lambda: not service.owes_something(), "the service has nothing left to do", _SETTLED_SECONDS)


def measure_acceptance(folder: Path, pairs: int, say: Say) -> list[Figure]:
    """One order at a time, from the log's word that it is stored to the broker's acceptance, by turns with one durable write of the same
    store from outside. Raises MeasurementFailed."""
    turns = max(pairs, -(-_LEAST_SINGLES // _SINGLES_A_PAIR))
    waits: list[list[float]] = []
    writes: list[list[float]] = []
    with Service(folder, {"LOG_FORMAT": "json"}) as service:
        service.start()
        service.traffic.burst(order_messages(_WARM_UP_ORDERS, MANY_LANES))
        _wait_until_settled(service)
        with service.database("benchmark") as database:
            probe = database.get_collection("probe")
            probe.insert_one({"_id": -1})
            for turn in range(turns):
                say(f"stored to accepted, {_SINGLES_A_PAIR} orders, pair {turn + 1} of {turns}")
                signal_ids = []
                writes.append([])
                for message in order_messages(_SINGLES_A_PAIR, ONE_LANE):
                    service.traffic.one(message)
                    signal_ids.append(message.signal_id)
                    # What follows its confirmation is over by then, so that the write has the store to itself.
                    time.sleep(_PAUSE_SECONDS)
                    began = time.perf_counter()
                    probe.insert_one({"signal_id": message.signal_id})
                    writes[-1].append(time.perf_counter() - began)
                waits.append(_seconds_to_accept(service, signal_ids))
    pairs_of = tuple(median(waited) / median(written) for waited, written in zip(waits, writes, strict=True))
    all_waits, all_writes = [t for some in waits for t in some], [t for some in writes for t in some]
    return [
        Figure(
            name="one order, stored to the broker's acceptance",
            ours=f"{milliseconds(median(all_waits))}, p95 {milliseconds(percentile(all_waits, 0.95))}",
            base=f"one durable write {milliseconds(median(all_writes))}, p95 {milliseconds(percentile(all_writes, 0.95))}",
            pairs=pairs_of,
            target=f"at most {MOST_DURABLE_WRITES:.0f} durable writes of that store",
            is_met=median(pairs_of) <= MOST_DURABLE_WRITES,
            note=f"{len(all_waits)} orders, one at a time; the log tells milliseconds",
            raw={"seconds": waits, "durable_write_seconds": writes},
        )
    ]


def _seconds_to_accept(service: Service, signal_ids: list[str]) -> list[float]:
    stored = service.durable_at(frozenset(signal_ids))
    marks = ",".join("?" * len(signal_ids))
    with service.records() as records:
        tags = {r["client_order_id"]: r["signal_id"] for r in records.find({"signal_id": {"$in": signal_ids}})}
    with service.book() as book:
        found = book.execute(f"SELECT client_id, placed_at FROM orders WHERE client_id IN ({marks})", list(tags))
        accepted = {tags[tag]: _EPOCH + timedelta(microseconds=moment) for tag, moment in found.fetchall()}
    return [(accepted[signal_id] - stored[signal_id]).total_seconds() for signal_id in signal_ids]
