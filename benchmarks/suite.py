"""The measurements themselves, each a function from a plan to figures; processes, traffic and tables are elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from pathlib import Path

from benchmarks.api_reads import measure_api_reads
from benchmarks.cost import measure_acceptance, measure_cost
from benchmarks.fairness import measure_fairness
from benchmarks.figures import Figure, Say, median, milliseconds, percentile
from benchmarks.gate import measure_gate
from benchmarks.gateways import measure_adapters
from benchmarks.simulated import measure_simulation
from benchmarks.traffic import (
    MANY_LANES,
    ONE_LANE,
    MeasurementFailed,
    Mix,
    order_messages,
    resting_messages,
)
from benchmarks.worlds import (
    Floor,
    ProductionService,
    Service,
    SharingFloor,
    SharingService,
    World,
    wait_until,
)
from brokers.base import Instrument, OrderType, Side, Ticket
from brokers.paper.adapter import MockBroker

FLOOR_WORKERS = (1, 8)
MOST_TIMES_THE_FLOOR = 1.7
PLACEMENT_SECONDS = 0.010
LEAST_SHARE_WHEN_FULL = 0.9
MOST_GROWTH = 0.10
START_SECONDS = 5.0
RESTART_SECONDS = 3.0
OPENING_SECONDS = 120.0
CANCEL_SECONDS = 0.200

_WARM_UP_ORDERS = 100
_WARM_UP_SINGLES = 5
_TRIES_OF_FLOORS = 2
_TRIED_ORDERS = 200
_SINGLES_A_PAIR = 10
_LEAST_SINGLES = 30
_PLACEMENTS = 300
_MOST_IN_A_CHUNK = 1000
_LEAST_CHUNKS = 4
_CANCELS = 8
_CANCEL_WAIT_SECONDS = 20.0
_BOOK_POLL_SECONDS = 0.002
_LEAST_RESTARTS = 5
_RESTING = "REST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything; the defaults are those of the targets."""

    folder: Path
    say: Say
    pairs: int = 3
    burst: int = 2000
    finished: int = 20_000
    after_finished: int = 1000
    open_orders: int = 1000
    instruments: int = 1000
    """Of the batch simulation, a thousand orders each."""


def throughput(plan: Plan) -> list[Figure]:
    """Orders a second when all are published at once, publish call to last confirmation."""
    mixes = (ONE_LANE, MANY_LANES)
    theirs: list[float] = []
    ours: dict[str, list[float]] = {mix.name: [] for mix in mixes}
    with Service(plan.folder / "throughput") as service, ExitStack() as stack:
        service.start()
        service.traffic.burst(order_messages(_WARM_UP_ORDERS, MANY_LANES))
        floor, tried = _faster_floor(plan, stack)
        stored_before = floor.finished()
        for turn in range(plan.pairs):
            plan.say(f"throughput, pair {turn + 1} of {plan.pairs}")
            theirs.append(_rate(floor, plan.burst, ONE_LANE))
            for mix in mixes:
                ours[mix.name].append(_rate(service, plan.burst, mix))
        bursts = plan.pairs * plan.burst
        _check_count("the service's record", service.recorded("FILLED"), 2 * bursts + _WARM_UP_ORDERS)
        _check_count("the broker's book", service.in_book("FILLED"), 2 * bursts + _WARM_UP_ORDERS)
        _check_count("the floor's collection", floor.finished(), bursts + stored_before)
    figures = []
    for mix in mixes:
        pairs = tuple(rate / other for rate, other in zip(ours[mix.name], theirs, strict=True))
        figures.append(
            Figure(
                name=f"{plan.burst} orders at once, {mix.name}",
                ours=f"{median(ours[mix.name]):.0f} orders/s",
                base=f"floor {median(theirs):.0f}/s",
                pairs=pairs,
                target="at least the floor's rate",
                is_met=median(pairs) >= 1.0,
                note=f"floor with {floor.workers} threads, the faster of {FLOOR_WORKERS[0]} and {FLOOR_WORKERS[1]} beforehand",
                raw={"orders_per_second": ours[mix.name], "floor_orders_per_second": theirs, "floors_tried": tried},
            )
        )
    return figures


def production(plan: Plan) -> list[Figure]:
    """As `throughput`, service and floor both on a store and a Pub/Sub that were started apart."""
    mixes = (ONE_LANE, MANY_LANES)
    theirs: list[float] = []
    ours: dict[str, list[float]] = {mix.name: [] for mix in mixes}
    with ProductionService(plan.folder / "production") as service, ExitStack() as stack:
        service.start()
        service.traffic.burst(order_messages(_WARM_UP_ORDERS, MANY_LANES))
        floor, tried = _faster_floor(plan, stack, SharingFloor)
        for turn in range(plan.pairs):
            plan.say(f"as production runs, pair {turn + 1} of {plan.pairs}")
            theirs.append(_rate(floor, plan.burst, ONE_LANE))
            for mix in mixes:
                ours[mix.name].append(_rate(service, plan.burst, mix))
        wanted = 2 * plan.pairs * plan.burst + _WARM_UP_ORDERS
        _check_count("the service's record", service.recorded("FILLED"), wanted)
        _check_count("the broker's book", service.in_book("FILLED"), wanted)
        where = f"MONGODB_URI and leases, {service.servers.pubsub_name}"
    return [
        Figure(
            name=f"{plan.burst} orders at once as production runs, {mix.name}",
            ours=f"{median(ours[mix.name]):.0f} orders/s",
            base=f"floor {median(theirs):.0f}/s",
            pairs=(pairs := tuple(rate / other for rate, other in zip(ours[mix.name], theirs, strict=True))),
            target="at least the floor's rate",
            is_met=median(pairs) >= 1.0,
            note=f"{where}; floor on servers of the same kind with {floor.workers} threads, the faster of {FLOOR_WORKERS[0]} and "
            f"{FLOOR_WORKERS[1]} beforehand",
            raw={"orders_per_second": ours[mix.name], "floor_orders_per_second": theirs, "floors_tried": tried},
        )
        for mix in mixes
    ]


def _faster_floor(plan: Plan, stack: ExitStack, kind: type[Floor] = Floor) -> tuple[Floor, dict[int, list[float]]]:
    """The number of threads that suits the floor best here, found by turns; and the rates that were seen."""
    floors = [stack.enter_context(kind(plan.folder / f"{kind.__name__}-{n}", n)) for n in FLOOR_WORKERS]
    for floor in floors:
        floor.start()
        floor.traffic.burst(order_messages(_WARM_UP_ORDERS, MANY_LANES))
    plan.say("throughput, which floor is faster")
    rates: dict[int, list[float]] = {floor.workers: [] for floor in floors}
    for _ in range(_TRIES_OF_FLOORS):
        for floor in floors:
            rates[floor.workers].append(_rate(floor, _TRIED_ORDERS, ONE_LANE))
    floors.sort(key=lambda floor: median(rates[floor.workers]))
    for slower in floors[:-1]:
        slower.stop()
    return floors[-1], rates


def latency(plan: Plan) -> list[Figure]:
    """One order at a time: publish call to confirmation received, turn by turn with the floor."""
    turns = max(plan.pairs, -(-_LEAST_SINGLES // _SINGLES_A_PAIR))
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    with (
        Service(plan.folder / "latency") as service,
        Floor(plan.folder / "latency-floor", 1) as floor,
    ):
        for world in (service, floor):
            world.start()
            world.traffic.burst(order_messages(_WARM_UP_ORDERS, MANY_LANES))
            for message in order_messages(_WARM_UP_SINGLES, ONE_LANE):
                world.traffic.one(message)
        for turn in range(turns):
            plan.say(f"latency, {_SINGLES_A_PAIR} orders each, pair {turn + 1} of {turns}")
            ours.append([])
            theirs.append([])
            for message, other in zip(
                order_messages(_SINGLES_A_PAIR, ONE_LANE), order_messages(_SINGLES_A_PAIR, ONE_LANE), strict=True
            ):
                ours[-1].append(service.traffic.one(message))
                theirs[-1].append(floor.traffic.one(other))
    pairs = tuple(median(mine) / median(other) for mine, other in zip(ours, theirs, strict=True))
    all_ours, all_theirs = list(chain(*ours)), list(chain(*theirs))
    return [
        Figure(
            name="one order, publish to confirmation",
            ours=f"{milliseconds(median(all_ours))}, p95 {milliseconds(percentile(all_ours, 0.95))}",
            base=f"floor {milliseconds(median(all_theirs))}, p95 {milliseconds(percentile(all_theirs, 0.95))}",
            pairs=pairs,
            target=f"at most {MOST_TIMES_THE_FLOOR} times the floor's median",
            is_met=median(pairs) <= MOST_TIMES_THE_FLOOR,
            note=f"{len(all_ours)} orders each, by turns; floor with 1 thread",
            raw={"seconds": ours, "floor_seconds": theirs},
        )
    ]


def placement(plan: Plan) -> list[Figure]:
    """The mock broker by itself, durably: the wall time of `place_order`."""
    plan.say("mock placement")
    took = asyncio.run(_placements(plan.folder / "placement.db"))
    return [
        Figure(
            name="mock placement",
            ours=f"{milliseconds(median(took))}, p99 {milliseconds(percentile(took, 0.99))}",
            target=f"under {milliseconds(PLACEMENT_SECONDS)}",
            is_met=percentile(took, 0.99) < PLACEMENT_SECONDS,
            note=f"{len(took)} orders one after another, on nothing else's time; the verdict is on p99",
            raw={"seconds": took},
        )
    ]


async def _placements(path: Path) -> list[float]:
    broker = MockBroker(account_id="bench_0", path=path)
    await broker.connect()
    took = []
    try:
        for number in range(_PLACEMENTS + _WARM_UP_SINGLES):
            ticket = Ticket(
                client_order_id=f"b{number:018d}",
                instrument=Instrument(symbol="SYM0"),
                side=Side.BUY,
                quantity=Decimal(100),
                order_type=OrderType.MARKET,
                reference_price=Decimal("101.25"),
            )
            began = time.perf_counter()
            await broker.place_order(ticket)
            took.append(time.perf_counter() - began)
    finally:
        await broker.close()
    return took[_WARM_UP_SINGLES:]


def finished(plan: Plan) -> list[Figure]:
    """Throughput and memory of a service that has finished many orders, beside one that has finished next to none."""
    chunk = max(1, min(_MOST_IN_A_CHUNK, plan.finished // _LEAST_CHUNKS))
    memory: list[tuple[int, float]] = []
    full_rates: list[float] = []
    empty_rates: list[float] = []
    with Service(plan.folder / "full") as full:
        full.start()
        full.traffic.burst(order_messages(_WARM_UP_ORDERS, MANY_LANES))
        memory.append((0, full.rss_mebibytes()))
        while (done := memory[-1][0]) < plan.finished:
            plan.say(f"finished orders, {done} of {plan.finished}")
            some = min(chunk, plan.finished - done)
            full.traffic.burst(order_messages(some, MANY_LANES))
            memory.append((done + some, full.rss_mebibytes()))
        for turn in range(plan.pairs):
            plan.say(f"finished orders, pair {turn + 1} of {plan.pairs}")
            with Service(plan.folder / f"empty-{turn}") as empty:
                empty.start()
                empty.traffic.burst(order_messages(_WARM_UP_ORDERS, MANY_LANES))
                empty_rates.append(_rate(empty, plan.after_finished, MANY_LANES))
            full_rates.append(_rate(full, plan.after_finished, MANY_LANES))
    pairs = tuple(after / before for after, before in zip(full_rates, empty_rates, strict=True))
    middle = next(rss for count, rss in memory if count >= plan.finished / 2)
    growth = memory[-1][1] / middle - 1
    return [
        Figure(
            name=f"{plan.after_finished} orders after {plan.finished} finished ones",
            ours=f"{median(full_rates):.0f} orders/s",
            base=f"after none {median(empty_rates):.0f}/s",
            pairs=pairs,
            target=f"at least {LEAST_SHARE_WHEN_FULL:.2f} of the rate after none",
            is_met=median(pairs) >= LEAST_SHARE_WHEN_FULL,
            note=_scale(plan.finished, 20_000) + f"; both warmed up with {_WARM_UP_ORDERS} orders",
            raw={"orders_per_second": full_rates, "orders_per_second_after_none": empty_rates},
        ),
        Figure(
            name=f"memory after {plan.finished} finished orders",
            ours=f"{memory[-1][1]:.0f} MiB",
            base=f"at half of them {middle:.0f} MiB, at none {memory[0][1]:.0f} MiB",
            pairs=(memory[-1][1] / middle,),
            target=f"flat: at most {MOST_GROWTH:.0%} more than at half of them",
            is_met=growth <= MOST_GROWTH,
            note=_scale(plan.finished, 20_000) + "; resident memory of the service without its store",
            raw={"mebibytes_by_finished_orders": memory},
        ),
    ]


def start(plan: Plan) -> list[Figure]:
    """From the start of the process to its word that it is ready, after kill -9, with open orders and with none."""
    with_open: list[float] = []
    with_none: list[float] = []
    with Service(plan.folder / "start") as service, Service(plan.folder / "start-empty") as empty:
        service.hold_orders(_RESTING, plan.open_orders)
        service.start()
        empty.start()
        plan.say(f"start, {plan.open_orders} orders are opened")
        service.traffic.publish(resting_messages(plan.open_orders, _RESTING), fills_expected=False)
        wait_until(lambda: service.in_book("WORKING") >= plan.open_orders, "all orders rest", OPENING_SECONDS)
        wait_until(lambda: service.recorded("SUBMITTED") >= plan.open_orders, "all are recorded", OPENING_SECONDS)
        for turn in range(plan.pairs):
            plan.say(f"start, pair {turn + 1} of {plan.pairs}")
            for world, took in ((service, with_open), (empty, with_none)):
                world.kill()
                took.append(world.start())
        _check_count("the broker's book", service.in_book("WORKING"), plan.open_orders)
        _check_count("the service's record", service.recorded("SUBMITTED"), plan.open_orders)
    return [
        Figure(
            name=f"start with {plan.open_orders} open orders",
            ours=f"{median(with_open):.2f} s, longest {max(with_open):.2f} s",
            base=f"with none {median(with_none):.2f} s",
            pairs=tuple(ours / none for ours, none in zip(with_open, with_none, strict=True)),
            target=f"{START_SECONDS:.0f} s",
            is_met=median(with_open) <= START_SECONDS,
            note="process start to ready, store and Pub/Sub included, after kill -9",
            raw={"seconds": with_open, "seconds_with_none": with_none},
        )
    ]


def restart(plan: Plan) -> list[Figure]:
    """From kill -9 to the first order at the broker, of a service that is started again at once, with open orders and with none: on the
    store and the Pub/Sub of its own, and on such as live on."""
    return [
        _restarts(plan, Service, "the embedded store"),
        _restarts(plan, SharingService, "MONGODB_URI"),
    ]


def _restarts(plan: Plan, kind: type[Service], where: str) -> Figure:
    turns = max(plan.pairs, _LEAST_RESTARTS)
    folder = plan.folder / f"restart-{kind.__name__}"
    with kind(folder) as service, kind(folder.with_name(f"{folder.name}-empty")) as empty:
        service.hold_orders(_RESTING, plan.open_orders)
        empty.hold_orders(_RESTING, 1)
        service.start()
        empty.start()
        plan.say(f"restart on {where}, {plan.open_orders} orders are opened")
        service.traffic.publish(resting_messages(plan.open_orders, _RESTING), fills_expected=False)
        wait_until(lambda: service.in_book("WORKING") >= plan.open_orders, "all orders rest", OPENING_SECONDS)
        wait_until(lambda: service.recorded("SUBMITTED") >= plan.open_orders, "all are recorded", OPENING_SECONDS)
        with_open: list[float] = []
        with_none: list[float] = []
        for turn in range(turns):
            plan.say(f"restart on {where}, pair {turn + 1} of {turns}")
            with_open.append(_seconds_to_place(service))
            with_none.append(_seconds_to_place(empty))
        _check_count("the broker's book", service.in_book("WORKING"), plan.open_orders)
        _check_count("the service's record", service.recorded("SUBMITTED"), plan.open_orders)
    return Figure(
        name=f"kill -9 to first order placed, {plan.open_orders} open orders, {where}",
        ours=f"{median(with_open):.2f} s, longest {max(with_open):.2f} s",
        base=f"with none {median(with_none):.2f} s",
        pairs=tuple(ours / none for ours, none in zip(with_open, with_none, strict=True)),
        target=f"{RESTART_SECONDS:.0f} s",
        is_met=median(with_open) <= RESTART_SECONDS,
        note=f"{turns} kills each, started again at once; the order waits in Pub/Sub",
        raw={"seconds": with_open, "seconds_with_none": with_none},
    )


def _seconds_to_place(service: Service) -> float:
    """Kills the service, starts it again at once, and waits until an order that came meanwhile is at the broker."""
    before = service.in_book("FILLED")
    killed_at = service.kill_and_launch(order_messages(1, ONE_LANE))
    wait_until(lambda: service.in_book("FILLED") > before, "the order is placed", OPENING_SECONDS)
    took = time.perf_counter() - killed_at
    service.wait_until_ready()
    return took


def cancel(plan: Plan) -> list[Figure]:
    """From publishing a CANCEL, while a burst is worked off in the same account, to its order's cancellation in the broker's book."""
    took: list[float] = []
    late = 0
    with Service(plan.folder / "cancel") as service:
        service.hold_orders(_RESTING, _CANCELS)
        service.start()
        service.traffic.burst(order_messages(_WARM_UP_ORDERS, MANY_LANES))
        resting = resting_messages(_CANCELS, _RESTING)
        service.traffic.publish(resting, fills_expected=False)
        wait_until(lambda: service.recorded("SUBMITTED") >= _CANCELS, "the orders to cancel rest", 30.0)
        numbers = _numbers_in_book(service)
        plan.say(f"cancels during a burst of {plan.burst} orders")
        service.traffic.publish(order_messages(plan.burst, Mix(name="burst", symbols=20, accounts=1)))
        for position, message in enumerate(resting):
            service.traffic.wait_until_outstanding(plan.burst * (_CANCELS - position) // _CANCELS)
            if service.traffic.outstanding == 0:
                late += 1
                continue
            took.append(_seconds_to_cancel(service, message.signal_id, numbers))
        service.traffic.wait_until_filled()
    if not took:
        raise MeasurementFailed("the burst was over before the first cancel; take more orders")
    return [
        Figure(
            name=f"CANCEL during a burst of {plan.burst} orders",
            ours=f"{milliseconds(median(took))}, longest {milliseconds(max(took))}",
            target=milliseconds(CANCEL_SECONDS),
            is_met=max(took) <= CANCEL_SECONDS,
            note=f"{len(took)} cancels spread over the burst, same account; the verdict is on the longest"
            + (f"; {late} left out, the burst was over" if late else ""),
            raw={"seconds": took},
        )
    ]


def _numbers_in_book(service: Service) -> set[int]:
    with service.book() as book:
        return {row[0] for row in book.execute("SELECT number FROM orders WHERE symbol = ?", (_RESTING,))}


def _seconds_to_cancel(service: Service, signal_id: str, numbers: set[int]) -> float:
    """Until one more of these orders is cancelled in the book; the cancels come one after another."""
    marks = ",".join(map(str, sorted(numbers)))
    question = f"SELECT count(*) FROM orders WHERE number IN ({marks}) AND status = 'CANCELLED'"
    with service.book() as book:
        before = book.execute(question).fetchone()[0]
        began = service.traffic.cancel(signal_id)
        while book.execute(question).fetchone()[0] == before:
            if time.perf_counter() - began > _CANCEL_WAIT_SECONDS:
                raise MeasurementFailed(f"a CANCEL did not reach the broker within {_CANCEL_WAIT_SECONDS:.0f} s")
            time.sleep(_BOOK_POLL_SECONDS)
        return time.perf_counter() - began


def _rate(world: World, count: int, mix: Mix) -> float:
    """Orders a second."""
    return count / world.traffic.burst(order_messages(count, mix))


def _check_count(where: str, found: int, least: int) -> None:
    if found < least:
        raise MeasurementFailed(f"{where} has {found} orders where at least {least} belong")


def _scale(count: int, full: int) -> str:
    return f"{count} instead of {full}: see --full" if count < full else f"{count} orders"


def adapters(plan: Plan) -> list[Figure]:
    """The real adapters against simulated gateways."""
    return measure_adapters(plan.folder / "adapters", plan.pairs, plan.say)


def fairness(plan: Plan) -> list[Figure]:
    """One account's orders beside a flood for another."""
    return measure_fairness(plan.folder / "fairness", plan.pairs, plan.say)


def cost(plan: Plan) -> list[Figure]:
    """What one order of a burst costs: processor time and writes."""
    return measure_cost(plan.folder, plan.burst, plan.pairs, plan.say)


def gate(plan: Plan) -> list[Figure]:
    """What the limits of risk cost an order."""
    return measure_gate(plan.folder, plan.pairs, plan.say)


def simulation(plan: Plan) -> list[Figure]:
    """The batch simulation, and the planner."""
    return measure_simulation(plan.folder, plan.say, plan.instruments)


def acceptance(plan: Plan) -> list[Figure]:
    """One order alone, from the store's word to the broker's."""
    return measure_acceptance(plan.folder / "acceptance", plan.pairs, plan.say)


def api(plan: Plan) -> list[Figure]:
    """What placing feels of those who read over HTTP."""
    return measure_api_reads(plan.folder / "api", plan.pairs, plan.say)


MEASUREMENTS: Mapping[str, Callable[[Plan], Sequence[Figure]]] = {
    "throughput": throughput,
    "production": production,
    "latency": latency,
    "acceptance": acceptance,
    "cost": cost,
    "gate": gate,
    "placement": placement,
    "adapters": adapters,
    "finished": finished,
    "start": start,
    "restart": restart,
    "cancel": cancel,
    "fairness": fairness,
    "api": api,
    "simulation": simulation,
}
