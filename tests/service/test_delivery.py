"""Each sink has a cursor of its own and waits for nobody: what goes on while one of them hangs, fails or is slow; by a hand-moved clock."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import WriteError

from brokers.errors import BrokerUnavailable
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.events import Event
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.orders.request import Identity, Purpose
from execution_service.core.orders.status import Status
from execution_service.core.positions.ledger import LedgerEntry, LedgerKey, Line
from execution_service.core.views.shared import confirmation_id
from execution_service.delivery.account_names import AccountNames
from execution_service.delivery.confirmations import Confirmations
from execution_service.delivery.cursor import Progress
from execution_service.delivery.dispatch import Delivery
from execution_service.delivery.ledger_and_views import LINGER_SECONDS
from execution_service.delivery.stream import ANSWER_SECONDS, NotDelivered, Owed
from execution_service.ownership.alone import Alone
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.storage.ports.alerts import Alert
from execution_service.storage.ports.orders import CursorCommit, Stored, Told
from execution_service.storage.ports.views import View, ViewWrite
from execution_service.trading.trader import TradingRules
from tests.builders import accepted, filled_by, identity, instrument, order, submit_started
from tests.fakes import BY_HAND, RESTING, Gate, HandClock, RecordingNotifier, RecordingPublisher, World, world_of
from tests.fakes.mongo import Collection
from tests.service.audit import audit

MANY = 2000


def quantities(world: World) -> dict[str, str]:
    """The ledger's positions, by symbol."""
    found = world.documents("execution_positions")
    return {d["instrument"]["symbol"]: d["position"]["quantity"] for d in found}


def shown(world: World, signal_id: str = "sig") -> tuple[str, float]:
    (document,) = world.documents("execution_confirmations", signal_id=signal_id)
    return document["status"], document["filled_quantity"]


def cursors(world: World, signal_id: str = "sig") -> dict[str, int]:
    (document,) = world.documents("execution_orders", signal_id=signal_id)
    told: dict[str, int] = document["told"]
    return told


# --- confirmations that do not go out -------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["hangs", "raises", "is slow"])
async def test_next_events_of_an_order_reach_ledger_views_and_people_whatever_its_publisher_does(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        publish = world.publisher.publish

        async def slow(*about: Any) -> None:
            await world.clock.sleep(50.0)
            await publish(*about)

        world.send()
        await world.run(1)
        world.publisher.hold = asyncio.Event() if trouble == "hangs" else None
        world.publisher.breaks_on = "sig" if trouble == "raises" else None
        if trouble == "is slow":
            monkeypatch.setattr(world.publisher, "publish", slow)
        world.fill("sig", 40)
        await world.run(3)
        assert quantities(world) == {"AAPL": "40"}
        world.fill("sig", 60)
        await world.run(3)
        assert quantities(world) == {"AAPL": "100"}
        assert shown(world) == ("FILLED", 100.0)
        (position,) = world.documents("positions")
        assert position["quantity"] == 100.0
        assert len(world.notifier.titled("Partial Fill")) == len(world.notifier.titled("Order Filled")) == 1
        assert not world.publisher.messages
        if world.publisher.hold is not None:
            world.publisher.hold.set()
        world.publisher.breaks_on = None
        await world.run(200)
        assert world.publisher.statuses("sig") == ["PARTIALLY_FILLED", "FILLED"]
        audit(world)


async def test_an_order_alone_is_booked_without_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is about to be sent, which is shown to nobody, is no sign that more is coming."""
    async with world_of(tmp_path, rules=RESTING) as world:
        pauses: list[float] = []
        sleep = world.clock.sleep

        async def watched(seconds: float) -> None:
            pauses.append(seconds)
            await sleep(seconds)

        monkeypatch.setattr(world.clock, "sleep", watched)
        world.send()
        await world.run(1)
        assert world.publisher.statuses("sig") == ["FILLED"]
        assert shown(world) == ("FILLED", 100.0)
        assert LINGER_SECONDS not in pauses


class OneParty:
    def account_names_of(self, account_id: str | None) -> AccountNames:
        return AccountNames("acct-1 by name", "MOCK")


async def test_two_thousand_orders_behind_a_publisher_that_hangs_are_booked_shown_and_told() -> None:
    """On a store of plain dictionaries: mongomock looks at every record for each that it writes."""
    clock = HandClock()
    store, publisher, notifier = PlainStore(), RecordingPublisher(Gate()), RecordingNotifier(Gate(), clock)
    live_orders = LiveOrders(store, clock)  # type: ignore[arg-type]
    delivery = delivery_on(store, live_orders, publisher, notifier, clock)
    running = [asyncio.create_task(part.run()) for part in delivery.parts()]
    publisher.hold = asyncio.Event()
    symbols = [instrument(symbol=f"S{n}") for n in range(20)]
    halves = (filled_by("f1", 40), filled_by("f2", 60))
    orders = {}
    for n in range(MANY):
        begun = order(
            of=identity(f"sig-{n:04d}"),
            instrument=symbols[n % 20],
            events=(submit_started(), accepted(f"B-{n}"), halves[0]),
        )
        orders[begun.order_id] = begun
        delivery.wake(live_orders.adopt(Stored(begun, Told())))
    await passes(clock, 5)
    for live in list(live_orders.by_id.values()):
        live.order = orders[live.order.order_id] = apply_all(live.order, [halves[1]])
        delivery.wake(live)
    await passes(clock, 30)
    assert {d.key.instrument_key: str(d.position.quantity) for d in store.entries.values()} == {
        each.key: "10000" for each in symbols
    }
    assert {store.views[View.CONFIRMATIONS, confirmation_id(o)] for o in orders.values()} == {4}
    lines = [line for text in notifier.titled("Orders") for line in text.splitlines()[2:]]
    alone = notifier.titled("Order Filled") + notifier.titled("Partial Fill")
    assert {o.signal_id for o in orders.values()} == {
        o.signal_id for o in orders.values() if any(o.signal_id in text for text in (*lines, *alone))
    }
    assert not publisher.messages
    assert not live_orders.by_id, "what waits keeps no order in memory"
    assert set(store.cursors.values()) == {(2, 4, 4)}, "all but the fills, of which alone it is told"
    publisher.hold.set()
    await passes(clock, 60)
    by_order: dict[str, list[str]] = {}
    for body, _, _ in publisher.messages:
        by_order.setdefault(body["signal_id"], []).append(body["status"])
    assert by_order == {o.signal_id: ["PARTIALLY_FILLED", "FILLED"] for o in orders.values()}
    assert set(store.cursors.values()) == {(4, 4, 4)}
    assert delivery.waiting == 0
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


class PlainStore:
    """As much of a store as the delivery needs, in dictionaries."""

    def __init__(self) -> None:
        self.entries: dict[LedgerKey, LedgerEntry] = {}
        self.views: dict[tuple[View, Any], int] = {}
        self.cursors: dict[str, tuple[int | None, int, int | None]] = {}
        self.lines: dict[str, Mapping[int, Line]] = {}

    async def ledgers(self, keys: Sequence[LedgerKey]) -> dict[LedgerKey, LedgerEntry]:
        return {key: self.entries[key] for key in keys if key in self.entries}

    async def save_ledgers(self, entries: Sequence[LedgerEntry]) -> list[bool]:
        self.entries.update((entry.key, entry) for entry in entries)
        return [True] * len(entries)

    async def ledger_lines(self, order_ids: Sequence[str]) -> dict[str, Mapping[int, Line]]:
        return {order_id: self.lines[order_id] for order_id in order_ids if order_id in self.lines}

    async def write_views(self, writes: Sequence[ViewWrite]) -> None:
        for write in writes:
            self.views[write.view, write.document_id] = write.number

    async def commit_cursors(self, commits: Sequence[CursorCommit]) -> None:
        for each in commits:
            self.lines.setdefault(each.order_id, each.lines)
            assert each.people is not None
            self.cursors[each.order_id] = (each.world, each.people, each.others.get("ledger"))

    async def find(self, names: Sequence[str]) -> list[Stored]:
        return []

    def unreadable(self, names: Sequence[str]) -> list[str]:
        return []

    async def signal_documents(self, signal_ids: Sequence[str], **_: Any) -> dict[str, Any]:
        return {}

    async def has_trading_account(self, account_id: str) -> bool:
        return False

    async def raise_alert(self, alert: Alert) -> None:
        return None

    async def unsent_alerts(self) -> list[Alert]:
        return []


def delivery_on(
    store: PlainStore,
    live_orders: LiveOrders,
    publisher: RecordingPublisher,
    notifier: RecordingNotifier,
    clock: HandClock,
) -> Delivery:
    parties = OneParty()
    return Delivery(
        live_orders=live_orders,
        store=store,  # type: ignore[arg-type]
        notifier=notifier,
        clock=clock,
        sinks=[Confirmations(publisher=publisher, parties=parties)],
        parties=parties,
        max_attempts=3,
        ownership=Alone(store, live_orders, clock),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("ids", [("9", "10"), ("exec.01", "exec.02")], ids=["numbers", "names"])
async def test_executions_of_one_moment_are_booked_in_the_sequence_of_their_ids(ids: tuple[str, str]) -> None:
    clock = HandClock()
    store, publisher, notifier = PlainStore(), RecordingPublisher(Gate()), RecordingNotifier(Gate(), clock)
    live_orders = LiveOrders(store, clock)  # type: ignore[arg-type]
    delivery = delivery_on(store, live_orders, publisher, notifier, clock)
    later, earlier = (
        order(of=identity(f"sig-{name}"), events=(submit_started(), accepted(f"B-{name}"), filled_by(name, 100)))
        for name in reversed(ids)
    )
    for each in (later, earlier):
        delivery.wake(live_orders.adopt(Stored(each, Told())))
    running = [asyncio.create_task(part.run()) for part in delivery.parts()]
    await passes(clock, 5)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    (applied,) = (entry.applied for entry in store.entries.values())
    assert [(each.order_id, applied[each.order_id][0].sequence) for each in (earlier, later)] == [
        (earlier.order_id, 1),
        (later.order_id, 2),
    ]


async def passes(clock: HandClock, seconds: float) -> None:
    """So much time, in steps short enough for everybody to do what is due."""
    end = clock.monotonic() + seconds
    while clock.monotonic() < end:
        for _ in range(100):
            await asyncio.sleep(0)
        wake = clock.next_wake()
        clock.move_to(min(end, max(wake or end, clock.monotonic() + 0.001)))


async def test_a_publisher_that_never_answers_some_messages_gets_them_again_in_order(tmp_path: Path) -> None:
    """The calls that hang never return; later ones are answered."""
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        for n in range(30):
            world.send(f"sig-{n}", symbol=f"S{n}")
        await world.run(2)
        world.publisher.hold = asyncio.Event()
        for part in (40, 60):
            for n in range(30):
                world.fill(f"sig-{n}", part)
            await world.run(3)
        world.publisher.hold = None  # whoever waits for it waits for ever
        assert not world.publisher.messages
        await world.run(ANSWER_SECONDS + 60)
        for n in range(30):
            assert world.publisher.statuses(f"sig-{n}") == ["PARTIALLY_FILLED", "FILLED"]
        audit(world)


async def test_an_order_that_cannot_be_published_holds_up_no_other_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher says of it what it says when it is away."""
    async with world_of(tmp_path) as world:
        publish, is_broken = world.publisher.publish, [True]

        async def picky(data: bytes, *about: Any) -> None:
            if is_broken and b"poison" in data:
                world.publisher.is_away = True
            try:
                await publish(data, *about)
            finally:
                world.publisher.is_away = False

        monkeypatch.setattr(world.publisher, "publish", picky)
        world.send("poison")
        await world.run(3)
        for n in range(20):
            world.send(f"sig-{n}", symbol=f"S{n}")
            await world.run(10)
            assert world.publisher.statuses(f"sig-{n}") == ["FILLED"], n
        await world.run(300)
        told = world.notifier.titled("Delivery Failing") + world.notifier.titled("Not Published")
        assert len(told) <= 2
        is_broken.clear()
        await world.run(60)
        assert world.publisher.statuses("poison") == ["FILLED"]
        audit(world)


async def test_what_waits_to_be_published_keeps_no_order_in_memory(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.is_away = True
        for n in range(150):
            world.send(f"unpublished-{n}")
        await world.run(60)
        assert world.service.delivery.waiting == 150
        assert not world.service.live_orders.by_id
        gc.collect()
        # By name: tests before this one may have left some of theirs.
        held = [thing for thing in gc.get_objects() if type(thing) is LiveOrder]
        assert sum(thing.order.signal_id.startswith("unpublished-") for thing in held) < 75
        world.publisher.is_away = False
        await world.run(60)
        assert len(world.publisher.messages) == 150
        assert not world.unsettled()


async def test_a_late_event_of_an_order_that_waits_to_be_published_comes_behind_the_others(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.is_away = True
        world.send()
        await world.run(5)
        assert not world.service.live_orders.by_id
        world.book().set_commission(world.placed()[0].fills[0].fill_id, Decimal(7))
        await world.run_until(lambda: world.record().version > 3 and shown(world) == ("FILLED", 100.0))
        world.publisher.is_away = False
        await world.run(120)
        assert [body.get("correction", False) for body in world.publisher.of("sig")] == [False, True]
        audit(world)


async def test_a_publisher_that_hangs_lets_the_service_stop_and_is_served_by_the_next_life(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.hold = asyncio.Event()
        world.send()
        await world.run(2)
        stopping = asyncio.ensure_future(
            world.service.supervisor.end(*(part.name for part in world.service.delivery.parts()))
        )
        await world.run(1)
        assert stopping.done()
        world.publisher.hold = None
        await world.restart()
        await world.run(5)
        assert world.publisher.statuses("sig") == ["FILLED"]
        audit(world)


# --- a ledger or views that take no writes ---------------------------------------------------------------------------


async def test_while_the_ledger_takes_no_write_people_and_what_moves_no_position_go_on(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send("in")
        world.send("working", symbol="NVDA")
        await world.run(1)
        world.fill("in", 100, price="10")
        await world.run(1)
        world.exit("out", "in")
        await world.run(1)
        world.store_faults.refused.add("execution_positions")
        world.fill("out", 60, price="11", purpose=Purpose.EXIT)
        await world.run(1)
        world.fill("out", 40, price="12", purpose=Purpose.EXIT)
        world.send("refused", account_id="nobody")
        world.cancel(signal_id="working")
        await world.run(30)
        assert world.exit_record("out").status is Status.FILLED
        assert (
            len([t for t in world.notifier.titled("Partial Fill") + world.notifier.titled("Filled") if "out" in t]) == 2
        )
        assert world.publisher.statuses("refused") == ["REJECTED"]
        assert world.publisher.statuses("working") == ["CANCELLED"]
        assert shown(world, "refused")[0] == "REJECTED"
        assert shown(world, "working")[0] == "CANCELLED"
        assert world.publisher.statuses("out") == []
        world.store_faults.refused.clear()
        await world.run(10)
        told = [(body["status"], body["realized_pnl"]) for body in world.publisher.of("out")]
        assert told == [("PARTIALLY_FILLED", 60.0), ("FILLED", 140.0)]
        audit(world)


@pytest.mark.parametrize("is_fill", [True, False], ids=["a fill", "a rejection"])
async def test_a_confirmation_waits_for_no_view(tmp_path: Path, is_fill: bool) -> None:
    async with world_of(tmp_path) as world:
        world.store_faults.refused.add("execution_confirmations")
        world.send(account_id="acct-1" if is_fill else "nobody")
        await world.run(0.5)
        assert world.publisher.statuses("sig") == ["FILLED" if is_fill else "REJECTED"]
        assert world.documents("execution_confirmations") == []
        assert quantities(world) == ({"AAPL": "100"} if is_fill else {})
        world.store_faults.refused.clear()
        await world.run(5)
        assert len(world.publisher.messages) == 1
        audit(world)


async def test_a_fill_is_confirmed_when_the_ledger_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        publish, seen = world.publisher.publish, []

        async def looks(*about: Any) -> None:
            seen.append(quantities(world))
            await publish(*about)

        monkeypatch.setattr(world.publisher, "publish", looks)
        world.send()
        await world.run(1)
        for part in (40, 60):
            world.fill("sig", part)
            await world.run(3)
        assert seen == [{"AAPL": "40"}, {"AAPL": "100"}]


async def test_the_ledger_remembers_so_many_entries_and_reads_the_others_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("execution_service.delivery.ledger.ENTRIES_REMEMBERED", 2)
    async with world_of(tmp_path) as world:
        ledger = world.service.delivery.books._ledger
        kept = ledger._lines_of_orders._last
        for turn in range(3):
            for n in range(5):
                world.send(f"sig-{turn}-{n}", symbol=f"S{n}")
                await world.run(6)
                for known in (ledger._entries, kept, ledger._shown):
                    assert len(known) <= 2
                assert all(len(orders) <= 1 for orders in kept.values())
        assert quantities(world) == {f"S{n}": "300" for n in range(5)}
        assert all(len(d["applied"]) <= 1 for d in world.documents("execution_positions"))
        audit(world)


# --- people who are not reached ---------------------------------------------------------------------------------------


async def test_while_telegram_hangs_everything_else_goes_on_and_all_is_told_when_it_answers(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.notifier.hold = asyncio.Event()
        for n in range(30):
            world.send(f"sig-{n:02d}", symbol=f"S{n}")
        await world.run(2)
        for part in (40, 60):
            for n in range(30):
                world.fill(f"sig-{n:02d}", part)
            await world.run(3)
        for n in range(30):
            assert world.publisher.statuses(f"sig-{n:02d}") == ["PARTIALLY_FILLED", "FILLED"]
        assert set(quantities(world).values()) == {"100"}
        assert not world.service.live_orders.by_id
        world.notifier.hold = None  # whoever waits for it waits for ever
        await world.run(300)
        assert not world.unsettled()
        audit(world)


async def test_an_alert_is_durable_while_telegram_hangs_and_the_store_was_away(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.notifier.hold = asyncio.Event()
        await world.service.delivery.raise_alert("broker_down:acct-1", "🔌 *Broker Down*")
        await world.run(1)
        world.store_faults.is_away = True
        await world.service.delivery.raise_alert("dead_letter", "📭 *Unusable Message*")
        await world.run(2)
        world.store_faults.is_away = False
        await world.run(5)
        assert {d["kind"] for d in world.documents("execution_alerts")} == {"broker_down:acct-1", "dead_letter"}
        world.notifier.hold = None
        await world.run(300)
        assert len(world.notifier.texts) == 2


# --- the cursors in the record ----------------------------------------------------------------------------------------


async def test_every_sink_has_a_cursor_of_its_own_in_the_record(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.is_away = True
        world.send()
        await world.run(5)
        version = world.record().version
        assert cursors(world) == {"world": version - 1, "people": version, "ledger": version}, "all but the fill"
        assert world.unsettled() == ["sig"]
        world.publisher.is_away = False
        await world.run(60)
        assert cursors(world) == {"world": version, "people": version, "ledger": version}
        assert not world.unsettled()


@pytest.mark.parametrize(
    ("told", "confirmed"),
    [
        ({"world": 0, "people": 0}, True),
        ({"world": "all", "people": 0}, False),
        ({"world": 0, "people": 0, "ledger": "all"}, True),
    ],
    ids=["nothing", "of an earlier version", "of a death before the confirmation"],
)
async def test_a_record_is_delivered_from_where_its_cursors_stand(
    tmp_path: Path, told: dict[str, Any], confirmed: bool
) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(5)
        version, published = world.record().version, list(world.publisher.messages)
        world.notifier.sent.clear()
        world.publisher.messages.clear()
        await world.kill()
        stored = {name: version if number == "all" else number for name, number in told.items()}
        orders = world.mongo["trading"]["execution_orders"]
        orders.update_one({}, {"$set": {"told": stored}, "$addToSet": {"lookup": "unsettled"}})
        await world.start()
        await world.run(10)
        assert world.publisher.messages == (published if confirmed else [])
        assert len(world.notifier.titled("Order Filled")) == 1
        assert cursors(world) == {"world": version, "people": version, "ledger": version}
        assert not world.unsettled()


async def test_cursors_that_advance_together_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Telegram answers later than Pub/Sub. Of the order's own record: stored, about to be sent, filled, and delivered."""
    async with world_of(tmp_path) as world:
        send, publish = world.notifier.send, world.publisher.publish

        async def slow_send(text: str) -> None:
            await world.clock.sleep(0.2)
            await send(text)

        async def slow_publish(*about: Any) -> None:
            await world.clock.sleep(0.02)
            await publish(*about)

        monkeypatch.setattr(world.notifier, "send", slow_send)
        monkeypatch.setattr(world.publisher, "publish", slow_publish)
        world.send()
        await world.run(60)
        assert not world.unsettled()
        assert world.store_faults.writes["execution_orders"] == 4
        assert world.store_faults.writes["execution_ledger_lines"] == 1


async def test_a_cursor_that_cannot_be_committed_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path) as world:
        store, is_broken = world.service._store, [True]
        commit = store.commit_cursors

        async def breaks(commits: Sequence[Any]) -> None:
            poison = world.record("poison").order_id
            if is_broken and any(each.order_id == poison for each in commits):
                raise RuntimeError("this one cannot be written")
            await commit(commits)

        monkeypatch.setattr(store, "commit_cursors", breaks)
        for name in ("poison", *(f"sig-{n}" for n in range(10))):
            world.send(name)
        await world.run(60)
        assert world.unsettled() == ["poison"]
        assert len(world.notifier.titled("Delivery Failing")) == 1
        is_broken.clear()
        await world.run(60)
        assert not world.unsettled()
        audit(world)


# --- life -------------------------------------------------------------------------------------------------------------


PARTS = [
    "ledger and views",
    "confirmations",
    "notifications to write",
    "notifications",
    "delivery cursors",
    "alerts to store",
    "alerts",
]


@pytest.mark.parametrize("name", PARTS)
async def test_a_part_that_is_cancelled_at_any_time_and_begun_anew_loses_nothing(tmp_path: Path, name: str) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        parts = {part.name: part.run for part in world.service.delivery.parts()}
        await world.service.supervisor.end(*parts)
        assert name in parts
        others = [asyncio.create_task(part()) for other, part in parts.items() if other != name]
        rounds = 0
        for n in range(12):
            world.send(f"sig-{n}", symbol=f"S{n}")
        await world.run(1)
        for part in (40, 60):
            for n in range(12):
                world.fill(f"sig-{n}", part)
            for wait in (0, 0.01, 0.1, 0.5):
                for turns in (1, 2, 3, 5, 8, 13):
                    task = asyncio.create_task(parts[name]())
                    rounds += 1
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    if wait:
                        await world.run(wait)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
        assert rounds == 48
        others.append(asyncio.create_task(parts[name]()))
        await world.service.delivery.raise_alert("dead_letter", "📭 *Unusable Message*")
        await world.run(60)
        for n in range(12):
            statuses = world.publisher.statuses(f"sig-{n}")
            assert list(dict.fromkeys(statuses)) == ["PARTIALLY_FILLED", "FILLED"]
        assert len(world.notifier.titled("Unusable Message")) == 1
        audit(world)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def test_a_part_that_fails_begins_anew_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world_of(tmp_path) as world:
        books = world.service.delivery.books

        def breaks() -> Any:
            monkeypatch.undo()
            raise RuntimeError("the part broke")

        monkeypatch.setattr(books, "_next_batch", breaks)
        world.send()
        await world.run(10)
        assert [line["part"] for line in world.logs if line.get("action") == "part_restarted"] == ["ledger and views"]
        audit(world)


# --- a sink that is added ---------------------------------------------------------------------------------------------


class Diary:
    """A sink of a test: one line for each event."""

    name = cursor = "diary"

    def __init__(self) -> None:
        self.is_away = False
        self.lines: list[tuple[str, int, str]] = []

    def owed(self, order: Order, progress: Progress, after: int) -> tuple[Sequence[Owed], int]:
        lines = [
            Owed(each.number, (order.signal_id, each.number, type(each.event).__name__))
            for each in applied_events(order, after)
        ]
        return lines, order.version

    async def deliver(self, body: tuple[str, int, str]) -> None:
        if self.is_away:
            raise NotDelivered("the diary is shut")
        self.lines.append(body)

    def outage_words(self, waiting: int, attempts: int, reason: str) -> tuple[str, str]:
        return "diary_failing", f"📓 *Diary Shut*\n{waiting} orders wait: {reason}"


async def test_a_new_sink_is_one_class_and_one_place_in_the_list(tmp_path: Path) -> None:
    diary = Diary()
    async with world_of(tmp_path, more_sinks=[diary]) as world:
        diary.is_away = True
        for n in range(20):
            world.send(f"sig-{n}", symbol=f"S{n}")
        await world.run(30)
        assert all(world.publisher.statuses(f"sig-{n}") == ["FILLED"] for n in range(20))
        assert len(world.notifier.titled("Diary Shut")) == 1
        assert len(world.unsettled()) == 20
        await world.restart()
        diary.is_away = False
        await world.run(60)
        for n in range(20):
            order = world.record(f"sig-{n}")
            expected = [(f"sig-{n}", number, type(e).__name__) for number, e in enumerate(order.events, 1)]
            assert [line for line in diary.lines if line[0] == f"sig-{n}"] == expected
            assert cursors(world, f"sig-{n}")["diary"] == order.version
        assert len(world.publisher.messages) == 20
        assert not world.unsettled()


async def test_records_of_before_a_sink_was_there_owe_it_only_what_is_new(tmp_path: Path) -> None:
    diary = Diary()
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        world.send()
        await world.run(1)
        world.fill("sig", 40)
        await world.run(10)
        before = world.record().version
        assert "diary" not in cursors(world)
        world._more_sinks = [diary]
        await world.restart()
        world.fill("sig", 60)
        await world.run(10)
        assert [number for _, number, _ in diary.lines] == list(range(before + 1, world.record().version + 1))
        assert not world.unsettled()


async def test_late_fill_that_is_written_while_its_order_is_put_away_is_booked_once(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.send("late")
        await world.run(1)
        order_id = world.record("late").order_id
        store: Any = world.service._store
        commit, append = store.commit_cursors, store.append
        struck, written = asyncio.Event(), asyncio.Event()

        async def slow_commit(commits: Sequence[CursorCommit]) -> None:
            await commit(commits)
            if any(s.order_id == order_id for s in commits):
                await struck.wait()

        async def slow_append(order: Order, events: Sequence[Event], *, urgent: bool = False) -> Order:
            if order.order_id == order_id:
                await written.wait()
            done: Order = await append(order, events, urgent=urgent)
            return done

        async def never_commit(commits: Sequence[CursorCommit]) -> None:
            if any(s.order_id == order_id for s in commits):
                await asyncio.Event().wait()
            await commit(commits)

        store.commit_cursors = slow_commit
        world.cancel(signal_id="late")
        await world.run(1)
        store.append = slow_append
        world.fill("late", 4, force=True)
        await world.run(6)
        store.commit_cursors = commit
        struck.set()
        await world.settle()
        store.commit_cursors = never_commit
        written.set()
        await world.run(1)
        world.send("next")
        await world.run(1)
        world.fill("next")
        await world.run(3)
        await world.restart()
        await world.run(10)
        (position,) = world.documents("positions")
        assert position["quantity"] == float(sum(p.quantity for p in world.book().positions()))


async def test_people_hear_of_a_fill_though_pubsub_is_away_for_hours(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.is_away = True
        world.send()
        await world.run(120)
        assert len(world.notifier.titled("Order Filled")) == 1
        await world.run(3700)
        world.publisher.is_away = False
        await world.run(120)
        assert len(world.notifier.titled("Order Filled")) == 1
        audit(world)


async def test_record_that_the_server_will_never_take_stops_no_other_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = []
    async with world_of(tmp_path) as world:
        update = Collection._update

        def refusing(self: Any, query: Any, changes: Any, **how: Any) -> Any:
            if str(query.get("_id")) == Identity(signal_id="bad").order_id:
                refused.append(query)
                raise WriteError("too large", 17419)
            return update(self, query, changes, **how)

        monkeypatch.setattr(Collection, "_update", refusing)
        world.send("bad")
        world.send("good", symbol="MSFT")
        await world.run(60)
        assert refused
        assert world.record("good").status is Status.FILLED


async def test_order_taken_in_hand_from_an_old_reading_is_booked_once(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.broker_faults.unavailable = BrokerUnavailable("for a moment", known_pause=True)
        world.send("slow")
        await world.run(1)
        store: Any = world.service._store
        reading = asyncio.create_task(store.load([world.record("slow").order_id]))
        await world.settle()
        (old,) = await reading
        world.broker_faults.unavailable = None
        await world.run(60)
        world.send("next")  # the ledger forgets the first order's line, which that has of its own by now
        await world.run(5)
        assert world.record("slow").status is Status.FILLED
        assert not world.unsettled()
        world.service.accounts.take(old)
        await world.run(10)
        assert world.documents("positions", status="OPEN")[0]["quantity"] == 200
        assert world.publisher.statuses("slow") == ["FILLED"]
        audit(world)


async def test_order_taken_in_hand_as_if_nothing_of_it_had_been_booked_is_booked_once(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send("first")
        await world.run(2)
        world.send("next")
        await world.run(5)
        store: Any = world.service._store
        reading = asyncio.create_task(store.load([world.record("first").order_id]))
        await world.settle()
        world.service.accounts.take(replace((await reading)[0], told=Told()))
        await world.run(10)
        assert world.documents("positions", status="OPEN")[0]["quantity"] == 200
        assert not world.unsettled()
        audit(world)


async def test_a_confirmation_whose_delivery_was_cancelled_by_nobody_of_ours_is_delivered_again(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        publish, cuts = world.publisher.publish, [asyncio.CancelledError()]

        async def cut_at_first(data: bytes, attributes: Mapping[str, str], ordering_key: str) -> None:
            if cuts:
                raise cuts.pop()
            await publish(data, attributes, ordering_key)

        world.publisher.publish = cut_at_first  # type: ignore[method-assign]
        world.send("a")
        await world.run(5)
        assert world.publisher.statuses("a") == ["FILLED"]


async def test_orders_go_on_while_confirmations_wait_and_all_are_delivered_later_in_order(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND) as world:
        world.publisher.is_away = True
        for n in range(5):
            world.send(f"sig-{n}", symbol=f"S{n}")
        await world.run(1)
        for n in range(5):
            world.fill(f"sig-{n}", 40)
        await world.run(5)
        for n in range(5):
            world.fill(f"sig-{n}", 60)
        await world.run(300)
        assert {o.status for o in world.records()} == {Status.FILLED}
        assert {d["status"] for d in world.documents("execution_confirmations")} == {"FILLED"}
        assert len(world.documents("positions")) == 5
        assert not world.publisher.messages
        world.publisher.is_away = False
        await world.run(60)
        for n in range(5):
            assert world.publisher.statuses(f"sig-{n}") == ["PARTIALLY_FILLED", "FILLED"]
        audit(world)


async def test_people_are_told_after_three_attempts_and_not_at_each(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.is_away = True
        world.send()
        await world.run(1.5)
        assert not world.notifier.titled("Confirmations Not Published")
        await world.run(600)
        assert world.publisher.tries > 10
        assert len(world.notifier.titled("Confirmations Not Published")) == 1


async def test_confirmations_that_wait_survive_a_restart(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.is_away = True
        world.send()
        await world.run(10)
        await world.restart()
        world.publisher.is_away = False
        await world.run(60)
        assert world.publisher.statuses("sig") == ["FILLED"]
        audit(world)


async def test_confirmation_that_breaks_the_publisher_holds_up_no_other(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.breaks_on = "poison"
        for n in range(5):
            world.send(f"sig-{n}", symbol=f"S{n}")
        world.send("poison")
        await world.run(5)
        for n in range(5):
            assert world.publisher.statuses(f"sig-{n}") == ["FILLED"]
        world.publisher.breaks_on = None
        await world.run(60)
        assert world.publisher.statuses("poison") == ["FILLED"]
        audit(world)


async def test_ordering_key_is_the_orders_identity_only_where_wanted(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.send()
        await world.run(1)
        assert [key for _, _, key in world.publisher.messages] == [""]
    (tmp_path / "keyed").mkdir()
    async with world_of(tmp_path / "keyed", uses_ordering_keys=True) as world:
        world.send()
        await world.run(1)
        assert [key for _, _, key in world.publisher.messages] == [world.record().order_id]


async def test_alert_is_not_lost_by_a_later_event_that_needs_none(tmp_path: Path) -> None:
    """The cancel wish, of which people are not told, must not strike out the partial fill, of which they were to be."""
    async with world_of(tmp_path, market=BY_HAND, rules=TradingRules(order_timeout_seconds=0)) as world:
        world.notifier.is_away = True
        world.send()
        await world.run(1)
        world.fill("sig", 40)
        await world.run(5)
        world.broker_faults.holds["cancel_order"] = asyncio.Event()
        world.cancel(signal_id="sig")
        await world.run(5)
        assert world.record().cancel_request is not None
        world.broker_faults.holds.clear()
        await world.restart()
        world.notifier.is_away = False
        await world.run(120)
        assert len(world.notifier.titled("Partial Fill")) == 1


async def test_news_without_words_while_a_letter_is_being_struck_out_leaves_nothing_owed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commission, of which people are not told, comes between the sending of the letter and the record of that."""
    async with world_of(tmp_path) as world:
        store, may_commit = world.service._store, asyncio.Event()
        commit = store.commit_cursors

        async def late(commits: Sequence[CursorCommit]) -> None:
            await may_commit.wait()
            await commit(commits)

        monkeypatch.setattr(store, "commit_cursors", late)
        world.send()
        await world.run_until(lambda: bool(world.notifier.titled("Order Filled")))
        world.book().set_commission(world.placed()[0].fills[0].fill_id, Decimal(7))
        await world.run_until(lambda: len(world.publisher.of("sig")) == 2)
        await world.run(1)
        may_commit.set()
        await world.run(1)
        assert not world.unsettled()
        assert len(world.notifier.texts) == 1


async def test_restart_with_much_owed_delivers_all_of_it(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.publisher.is_away = True
        for n in range(150):
            world.send(f"sig-{n}", symbol=f"S{n % 7}", side="BUY" if n % 3 else "SELL")
        await world.run(5)
        await world.restart()
        world.publisher.is_away = False
        await world.run(120)
        assert not world.unsettled()
        assert len(world.publisher.messages) == 150
        audit(world)
        assert_all_told(world)


def assert_all_told(world: World) -> None:
    assert not world.service.live_orders.by_id
    assert world.service.delivery.waiting == 0
