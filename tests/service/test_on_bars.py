"""The service on historical bars: the same fills, positions and cash as the batch lane, one bar after the other, whatever dies on the way."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from brokers.base import Instrument, Side
from brokers.paper.model import PaperOrder
from brokers.simulated.adapter import Configuration, read_past
from execution_service.core.orders.status import Status
from execution_service.core.planning.targets import Mode, Target, TargetPositions
from execution_service.core.quality.order_quality import order_quality
from simulation.orders import OrderReader
from simulation.positions import SMALLEST_SHARE
from simulation.run import Result, simulate_orders
from simulation.targets import simulate_targets
from simulation.units import microseconds, written_time
from tests.fakes import ACCOUNT, Moment
from tests.service.audit import audit
from tests.service.on_bars import DAILY, BarsWorld, world_on

RISING = "".join(f"A,2024-01-{d:02d},{9 + d}.00,{11 + d}.00,{8 + d}.00,{10 + d}.00,1000\n" for d in range(1, 11))
"""Opens at 10 on the first day, and one higher each day."""
COSTS = (
    DAILY.replace("participation = 1", "participation = 0.1")
    + 'slippage = { model = "bps", bps = 7 }\ncommission = { model = "per_share", per_share = 0.005, minimum = 1.00 }\n'
)


def fills_of(world: BarsWorld, signal_id: str) -> list[tuple[str, str, str]]:
    return [(str(f.quantity), str(f.price), f.time.date().isoformat()) for f in world.record(signal_id).fills]


def to_the_end(world: BarsWorld) -> None:
    """A person has the market go on through all bars."""
    world.market_clock.ask(until=world.exchange.historical.last_opening)


async def test_an_order_fills_at_the_next_open_and_the_market_stands_when_nobody_waits(tmp_path: Path) -> None:
    async with world_on(tmp_path, RISING) as world:
        world.send("first", symbol="A", quantity=5)
        await world.run(5)
        assert fills_of(world, "first") == [("5", "10.00", "2024-01-01")]
        world.send("second", symbol="A", quantity=5)
        await world.run(60)
        assert fills_of(world, "second") == [("5", "11.00", "2024-01-02")]
        assert world.exchange.historical.time.date().isoformat() == "2024-01-03"


async def test_the_record_of_a_fill_tells_its_share_of_what_the_bars_traded(tmp_path: Path) -> None:
    async with world_on(tmp_path, RISING, DAILY.replace("participation = 1", "participation = 0.01")) as world:
        world.send("first", symbol="A", quantity=15, tif="GTC")
        await world.run(2)
        to_the_end(world)
        await world.run(10)
        assert [quantity for quantity, _, _ in fills_of(world, "first")] == ["10", "5"]
        assert order_quality(world.record("first")).share_of_volume == Decimal(15) / 2000


@pytest.mark.parametrize(("stance", "parts"), [("URGENT", ["200", "200", "100"]), ("EMERGENCY", ["300", "200"])])
async def test_a_reduction_takes_no_more_at_once_than_the_part_of_its_stance_of_what_the_bars_trade(
    tmp_path: Path, stance: str, parts: list[str]
) -> None:
    async with world_on(tmp_path, RISING) as world:
        world.plan("d-1", "2024-01-01T00:00:00Z", ("A", 500))
        await world.run(120)  # until a quote is asked for again, of which there was none before the first bar
        world.plan("d-2", "2024-01-02T00:00:00Z", ("A", 0), aggressiveness=stance)
        await world.run(20)
        sold = [
            str(fill.quantity)
            for order in sorted(world.exchange.orders(), key=lambda each: each.number)
            if order.ticket.side is Side.SELL
            for fill in order.fills
        ]
        assert sold == parts
        audit(world)


async def test_a_plan_in_training_reduces_first_and_increases_at_the_open_after(tmp_path: Path) -> None:
    bars = RISING + RISING.replace("A,", "B,")
    async with world_on(tmp_path, bars, DAILY + "cash = 1000\n") as world:
        world.plan("d-1", "2024-01-01T00:00:00Z", ("A", 50))
        await world.run(10)
        world.plan("d-2", "2024-01-02T00:00:00Z", ("A", 0), ("B", 45))
        await world.run(10)
        orders = {(o.symbol, o.accepted_request.side.value): o for o in world.records()}
        (sold,), (bought,) = orders["A", "SELL"].fills, orders["B", "BUY"].fills
        assert (str(sold.price), sold.time.day) == ("11.00", 2)
        assert (str(bought.price), bought.time.day) == ("12.00", 3)
        assert [told["state"] for told, _, _ in world.plan_results.messages] == ["COMPLETED", "COMPLETED"]
        audit(world)


async def test_a_plan_of_another_mode_than_the_account_s_is_refused(tmp_path: Path) -> None:
    async with world_on(tmp_path, RISING) as world:
        world.plan("d-1", "2024-01-01T00:00:00Z", ("A", 50), mode="PRODUCTION")
        await world.run(10)
        assert world.records() == []
        assert "account acct-1 is in mode TRAINING, the plan in PRODUCTION" in world.notifier.texts[-1]


async def test_no_order_is_timed_out_by_the_wall_clock(tmp_path: Path) -> None:
    async with world_on(tmp_path, RISING, pace="command") as world:
        world.send("waits", symbol="A", quantity=5)
        await world.run(120)
        assert world.record("waits").status is Status.SUBMITTED
        world.market_clock.ask(bars=1)
        await world.run(2)
        assert world.record("waits").status is Status.FILLED


async def test_a_resting_order_alone_lets_no_time_pass_and_a_command_does(tmp_path: Path) -> None:
    async with world_on(tmp_path, RISING) as world:
        world.send(
            "rests", symbol="A", quantity=5, side="SELL", order_type="LIMIT", limit_price=15, tif="GTC", price=None
        )
        await world.run(30)
        assert world.exchange.historical.time.day == 1
        to_the_end(world)
        await world.run(30)
        assert fills_of(world, "rests") == [
            ("5", "15.00", "2024-01-06")
        ]  # inside the bar of the day before: at its close
        assert not world.exchange.historical.has_bars


async def test_what_the_market_has_not_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with world_on(tmp_path, RISING) as world:
        world.send("unknown", symbol="ZZZ", quantity=5)
        world.send("euros", symbol="A", quantity=5, currency="EUR")
        await world.run(5)
        for signal_id, words in (("unknown", "there are no bars of ZZZ"), ("euros", "the bars are in USD, not EUR")):
            order = world.record(signal_id)
            assert (order.status, order.reason is not None and words in order.reason.message) == (Status.REJECTED, True)


async def test_an_order_after_the_last_bar_is_rejected_and_not_left_waiting(tmp_path: Path) -> None:
    async with world_on(tmp_path, RISING[: RISING.index("A,2024-01-02")]) as world:
        world.send("first", symbol="A", quantity=5)
        await world.run(5)
        world.send("late", symbol="A", quantity=5)
        await world.run(5)
        assert world.record("first").status is Status.FILLED
        late = world.record("late")
        assert (late.status, late.reason is not None and "NO_BARS_LEFT" in late.reason.message) == (
            Status.REJECTED,
            True,
        )


async def test_a_protected_entry_is_stopped_by_the_bars(tmp_path: Path) -> None:
    bars = RISING[: RISING.index("A,2024-01-03")] + "A,2024-01-03,9.00,9.50,8.50,9.00,1000\n"
    async with world_on(tmp_path, bars) as world:
        world.send("entry", symbol="A", quantity=5, stop_loss=9.5, take_profit=30)
        await world.run(30)
        stop = next(
            o for o in world.records() if o.accepted_request.protective is not None and o.accepted_request.stop_price
        )
        assert stop.status is Status.SUBMITTED
        to_the_end(world)
        await world.run(30)
        (fill,) = world.record(stop.signal_id, stop.identity.purpose, stop.identity.leg_index).fills
        assert (str(fill.price), fill.time.day) == ("9.00", 3)
        assert [str(p.quantity) for p in await world.brokers[ACCOUNT].positions()] == []


RISING_AND_FALLING = (
    RISING[: RISING.index("A,2024-01-06")]
    + "A,2024-01-06,14.60,14.80,12.80,13.20,1000\n"
    + "".join(f"A,2024-01-{d:02d},13.00,13.50,12.50,13.00,1000\n" for d in range(7, 12))
)
"""Closes at 11 on the first day and at 15 on the fifth, and falls through 13 on the sixth."""


@pytest.mark.parametrize("dies_after", [None, 0.1, 0.7])
async def test_a_trailing_stop_follows_each_close_by_the_clock_of_the_market(
    tmp_path: Path, dies_after: float | None
) -> None:
    async with world_on(tmp_path, RISING_AND_FALLING) as world:
        world.send("entry", symbol="A", quantity=5, trail_amount=2)
        await world.run(5)
        to_the_end(world)
        if dies_after is not None:
            await world.run(dies_after)
            await world.restart()
        await world.run(60)
        stops = sorted(
            (o for o in world.records() if o.protective is not None), key=lambda o: (o.received_at, o.signal_id)
        )
        assert [str(o.stop_price) for o in stops] == ["8.00", "9.00", "10.00", "11.00", "12.00", "13.00"]
        # Within the bar of the sixth day, which is over as the seventh begins.
        assert [(str(f.price), f.time.day) for o in stops for f in o.fills] == [("13.00", 7)]
        assert [str(p.quantity) for p in await world.brokers[ACCOUNT].positions()] == []
        audit(world)


async def test_no_price_of_before_the_entry_filled_moves_its_trailing_stop(tmp_path: Path) -> None:
    gap = "A,2024-01-04,11.00,11.60,10.90,11.20,1000\n" + "".join(
        f"A,2024-01-{d:02d},11.00,11.50,10.80,11.00,1000\n" for d in range(5, 9)
    )
    async with world_on(tmp_path, RISING[: RISING.index("A,2024-01-04")] + gap, pace="command") as world:
        world.send("first", symbol="A", quantity=5, trail_amount=3)
        world.market_clock.ask(bars=3)
        await world.run(10)
        world.send("second", symbol="A", quantity=5, trail_amount=1, strategy_name="other")
        await world.run(5)
        world.market_clock.ask(bars=1)
        await world.run(10)
        stops = [o for o in world.records() if o.protective is not None and o.accepted_request.strategy == "other"]
        assert {str(o.stop_price): o.status for o in stops} == {"10.00": Status.CANCELLED, "10.20": Status.SUBMITTED}


@pytest.mark.parametrize("dies_after", [0.0, 0.2, 0.5, 1.3])
async def test_a_death_at_any_time_changes_no_fill(tmp_path: Path, dies_after: float) -> None:
    async with world_on(tmp_path, RISING, COSTS) as world:
        world.send("big", symbol="A", quantity=250, tif="GTC")
        world.send("ends", symbol="A", quantity=30)
        await world.run(dies_after)
        await world.restart()
        await world.run(20)
        to_the_end(world)
        await world.run(20)
        assert fills_of(world, "big") == [
            ("100", "10.01", "2024-01-01"),
            ("100", "11.01", "2024-01-02"),
            ("50", "12.01", "2024-01-03"),
        ]
        assert world.record("ends").status is Status.EXPIRED
        audit(world)


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
async def test_a_death_around_each_move_of_the_clock_changes_no_fill(tmp_path: Path, moment: Moment) -> None:
    async with world_on(tmp_path, RISING, COSTS) as world:
        world.send("big", symbol="A", quantity=250, tif="GTC")
        world.send("then", symbol="A", quantity=120, order_type="LIMIT", limit_price=11.9, tif="GTC")
        await world.run(2)
        to_the_end(world)
        for _ in range(10):
            world.dies_at_move = moment
            await world.run(2)
            await world.restart()
        world.dies_at_move = None
        await world.run(20)
        assert [quantity for quantity, _, _ in fills_of(world, "big")] == ["100", "100", "50"]
        assert [(quantity, price) for quantity, price, _ in fills_of(world, "then")] == [("50", "11.90")]
        audit(world)


def wave(luck: random.Random, number: int) -> list[dict[str, Any]]:
    """Some orders of every kind, for three instruments around 100."""
    orders = []
    for n in range(luck.randint(3, 8)):
        kind = luck.choice(["MARKET", "MARKET", "LIMIT", "STOP", "STOP_LIMIT"])
        order = {
            "signal_id": f"w{number}-{n}",
            "symbol": luck.choice("ABC"),
            "side": luck.choice(["BUY", "SELL"]),
            "quantity": luck.randint(1, 90),
            "order_type": kind,
            "tif": luck.choice(["DAY", "DAY", "GTC", "IOC"]),
        }
        if kind in ("LIMIT", "STOP_LIMIT"):
            order["limit_price"] = f"{luck.randint(9700, 10300) / 100:.2f}"
        if kind in ("STOP", "STOP_LIMIT"):
            order["stop_price"] = f"{luck.randint(9700, 10300) / 100:.2f}"
        orders.append(order | {"price": None})
    return orders


def walk(luck: random.Random) -> str:
    lines, at = [], dict.fromkeys("ABC", 10_000)
    for day in range(1, 29):
        for symbol in "ABC":
            if luck.random() < 0.1:
                continue
            opens = at[symbol] + luck.randint(-150, 150)
            closes = opens + luck.randint(-200, 200)
            high, low = max(opens, closes) + luck.randint(0, 120), min(opens, closes) - luck.randint(0, 120)
            at[symbol] = closes
            prices = ",".join(f"{price / 100:.2f}" for price in (opens, high, low, closes))
            lines.append(f"{symbol},2024-01-{day:02d},{prices},{luck.choice([0, 300, 1500, 4000])}")
    return "\n".join(lines) + "\n"


MODELS = {
    "free": COSTS,
    "margin": COSTS + "cash = 20000\nmargin = 0.5\nlatency_seconds = 5\n",
}


def batch_of(world: BarsWorld, orders: list[PaperOrder]) -> Result:
    """The same orders, with the market's times at which they arrived, by the batch lane."""
    past = read_past(Configuration.of(world.keys, broker="simulated"))
    reader = OrderReader(past.settings, past.history)
    latency = int(past.settings.latency_seconds * 1_000_000)
    header = ["order_id", "time", "symbol", "side", "quantity", "order_type", "limit_price", "stop_price", "tif"]
    arrivals = world.arrivals()
    rows = [header]
    for order in orders:
        ticket = order.ticket
        prices = ["" if price is None else str(price) for price in (ticket.limit_price, ticket.stop_price)]
        at = written_time(arrivals[order.number] - latency)
        words = [ticket.client_order_id, at, ticket.instrument.symbol, ticket.side, str(ticket.quantity)]
        rows.append([*words, ticket.order_type, *prices, str(ticket.tif)])
    reader.rows(rows, "orders")
    return simulate_orders(reader.orders(), past.history, past.settings, engine="plain")


@pytest.mark.parametrize("models", MODELS)
async def test_both_lanes_come_to_the_same_fills_positions_and_cash_to_the_last_digit(
    tmp_path: Path, models: str
) -> None:
    """As tests/simulated/test_exchange.py shows it of the exchange alone, over many more markets."""
    luck = random.Random(models)
    async with world_on(tmp_path, walk(luck), MODELS[models]) as world:
        for number in range(6):
            for order in wave(luck, number):
                world.send(**order)
            await world.run(6)
        to_the_end(world)
        await world.run(30)
        audit(world)
        assert [o.reason for o in world.records() if o.status is Status.REJECTED] == []
        placed = [order for order in world.placed() if order.number in world.arrivals()]
        batch = batch_of(world, placed)
        tick, lot = batch.settings.tick, batch.settings.lot
        rows = {tag: n for n, tag in enumerate(batch.orders.order_id)}
        in_batch = sorted(
            (
                batch.orders.order_id[row],
                number,
                lot * quantity,
                tick * price,
                at,
                Decimal(fee).scaleb(-2),
            )
            for row, number, quantity, price, at, fee in zip(
                batch.trades.order, batch.trades.number, batch.trades.quantity, batch.trades.price, batch.trades.time,
                batch.trades.fee, strict=True,
            )
        )  # fmt: skip
        recorded = {order.client_order_id: order for order in world.records() if order.client_order_id in rows}
        in_service = sorted(
            (tag, number, fill.quantity, fill.price, microseconds(fill.time), fill.commission)
            for tag, order in recorded.items()
            for number, fill in enumerate(order.fills, 1)
        )
        assert len(in_batch) >= 10
        assert in_service == in_batch
        statuses = {tag: order.status.value for tag, order in recorded.items()}
        assert statuses == {
            tag: ("SUBMITTED", "FILLED", "CANCELLED", "EXPIRED")[batch.status[n]]
            for tag, n in rows.items()
            if tag in statuses
        }
        held = {symbol: position for (_, symbol), position in batch.account.positions.items() if position.quantity}
        ledger = {e.instrument.symbol: e.position for e in await world.store_beside().open_ledgers(ACCOUNT) or []}
        assert {s: p.quantity for s, p in ledger.items()} == {s: lot * p.quantity for s, p in held.items()}
        for symbol, position in ledger.items():
            assert position.cost == SMALLEST_SHARE * held[symbol].cost
        told = {p.instrument.symbol: p.quantity for p in await world.brokers[ACCOUNT].positions()}
        assert told == {symbol: position.quantity for symbol, position in ledger.items()}
        (balance,) = await world.brokers[ACCOUNT].balances()
        cash, value = batch.account.equity()[-1]
        assert balance.cash == batch.account.cash == batch.account.unit * cash
        assert balance.equity == batch.account.unit * (cash + value)


async def test_the_next_bar_waits_for_the_stop_of_what_the_last_one_filled(tmp_path: Path) -> None:
    prices = ["10.00,10.00,10.00,10.00", "10.00,10.00,8.00,8.00", *["8.00,8.00,8.00,8.00"] * 20]
    bars = "".join(f"A,2024-01-02T10:{n:02d}:00Z,{ohlc},1000\n" for n, ohlc in enumerate(prices))
    async with world_on(tmp_path, bars, DAILY.replace("1d", "1m")) as world:
        world.send(
            "passing",
            symbol="A",
            quantity=1,
            order_type="LIMIT",
            limit_price=7,
            side="BUY",
            strategy_name="other",
            tif="DAY",
            price=None,
        )
        world.send("entry", symbol="A", quantity=5, stop_loss=9, price=None)
        await world.run(20)
        stop = next(o for o in world.records() if o.accepted_request.protective is not None)
        assert [(str(f.price), f.time.minute) for f in stop.fills] == [("9.00", 2)]


async def test_the_same_targets_come_to_the_same_fills_in_both_lanes(tmp_path: Path) -> None:
    luck = random.Random("targets")
    decisions: list[TargetPositions] = []
    async with world_on(tmp_path, walk(luck), COSTS + "cash = 1000000\n") as world:
        world.market_clock.ask(bars=3)  # a plan in the batch lane needs prices, where it has to keep within cash
        await world.run(3)
        for number in range(5):
            wanted = {symbol: luck.choice([0, 40, 90, 150]) for symbol in "ABC"}
            as_of = world.exchange.historical.time
            world.plan(f"d{number}", as_of.isoformat(), *wanted.items())
            await world.run(12)
            targets = tuple(Target(instrument=Instrument(symbol=s), quantity=Decimal(n)) for s, n in wanted.items())
            decisions.append(
                TargetPositions(
                    decision_id=f"d{number}",
                    account_id=ACCOUNT,
                    strategy_id="momentum",
                    as_of=as_of,
                    mode=Mode.TRAINING,
                    targets=targets,
                )
            )
        past = read_past(Configuration.of(world.keys, broker="simulated"))
        batch = simulate_targets(decisions, past.history, past.settings)
        in_batch = [
            (batch.orders.order_id[row], batch.orders.symbols[symbol], quantity, past.settings.tick * price, at)
            for row, symbol, quantity, price, at in zip(
                batch.trades.order, batch.trades.symbol, batch.trades.quantity, batch.trades.price, batch.trades.time,
                strict=True,
            )
        ]  # fmt: skip
        in_service = [
            (order.signal_id, order.symbol, fill.quantity, fill.price, microseconds(fill.time))
            for order in world.records()
            for fill in order.fills
        ]
        assert len(in_batch) >= 5
        assert sorted(in_service) == sorted(in_batch)
