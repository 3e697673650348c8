"""The exchange on historical bars, without a service: its fills are those of the batch lane, whoever has the book open, and whatever dies."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.base import AssetClass, Instrument, OrderRef, OrderType, Report, ReportStatus, Side, Ticket, Tif
from brokers.errors import BrokerUnavailable, OrderAlreadyExists, OrderRefused
from brokers.simulated.clock import MarketClock
from brokers.simulated.exchange import HistoricalExchange, Past
from simulation.actions import read_actions
from simulation.bars import BarReader, History
from simulation.matching.codes import FILL_REASONS
from simulation.orders import OrderReader
from simulation.run import Result, simulate_orders
from simulation.settings import settings_of
from simulation.units import microseconds, written_time

D = Decimal
DAILY: dict[str, Any] = {"stamp": "open", "interval": "1d", "participation": 1}
ACCOUNT = "past"
Row = tuple[str, int, str]
"""Symbol, day, `O H L C V`."""
RISING = [("A", day, f"{9 + day} {11 + day} {8 + day} {10 + day} 1000") for day in range(1, 11)]


def history_of(rows: Sequence[Row], given: dict[str, Any]) -> History:
    reader = BarReader(settings_of(given))
    header = ["symbol", "time", "open", "high", "low", "close", "volume"]
    reader.rows([header, *([s, f"2024-01-{day:02d}", *words.split()] for s, day, words in rows)], "bars")
    return reader.history({"bars": sha256(repr(rows).encode()).hexdigest()})


def past_of(rows: Sequence[Row] = RISING, actions: str = "", folder: Path | None = None, **more: Any) -> Past:
    given = DAILY | more
    history = history_of(rows, given)
    if actions:
        assert folder is not None
        file = folder / "actions.csv"
        file.write_text("symbol,ex_date,type,value\n" + actions, encoding="utf-8")
        read_actions(file, history, settings_of(given))
    return Past(history, settings_of(given))


@contextlib.contextmanager
def opened(folder: Path, past: Past) -> Iterator[HistoricalExchange]:
    exchange = HistoricalExchange(folder / "book.db", account_id=ACCOUNT, past=past)
    try:
        yield exchange
    finally:
        exchange.close()


def ticket(name: str, side: str = "BUY", quantity: int | str = 10, kind: str = "MARKET", **more: Any) -> Ticket:
    prices = {n: D(str(more.pop(n))) for n in ("limit_price", "stop_price") if more.get(n) is not None}
    return Ticket(
        client_order_id=name,
        instrument=Instrument(symbol=more.pop("symbol", "A")),
        side=Side(side),
        quantity=D(quantity),
        order_type=OrderType(kind),
        **prices,
        **more,
    )


def told(exchange: HistoricalExchange, name: str) -> Report:
    report = exchange.find(name)
    assert report is not None
    return report


def fills(exchange: HistoricalExchange, name: str) -> list[tuple[str, str]]:
    return [(str(fill.quantity), str(fill.price)) for fill in told(exchange, name).fills]


def move(exchange: HistoricalExchange, bars: int = 1) -> None:
    for _ in range(bars):
        exchange.move_on()


def test_nothing_fills_until_the_market_moves_and_then_at_its_open(tmp_path: Path) -> None:
    with opened(tmp_path, past_of()) as exchange:
        assert exchange.place(ticket("t1")).status is ReportStatus.WORKING
        assert exchange.waits
        move(exchange)
        assert (told(exchange, "t1").status, fills(exchange, "t1")) == (ReportStatus.FILLED, [("10", "10.00")])
        assert not exchange.waits


def test_a_fill_tells_what_the_market_traded_in_its_bar_over_a_restart_too(tmp_path: Path) -> None:
    rows = [("A", 1, "10 10 10 10 1000"), ("A", 2, "10 10 10 10 75")]
    with opened(tmp_path, past_of(rows, participation="0.02")) as exchange:
        exchange.place(ticket("t1", quantity=21, tif=Tif.GTC))
        move(exchange, 2)
        assert [(fill.quantity, fill.market_volume) for fill in told(exchange, "t1").fills] == [(20, 1000), (1, 75)]
    with opened(tmp_path, past_of(rows, participation="0.02")) as exchange:
        assert [fill.market_volume for fill in told(exchange, "t1").fills] == [1000, 75]


def test_the_same_tag_is_taken_once_for_ever(tmp_path: Path) -> None:
    with opened(tmp_path, past_of()) as exchange:
        exchange.place(ticket("t1"))
        with pytest.raises(OrderAlreadyExists):
            exchange.place(ticket("t1", quantity=99))
        move(exchange)
        with pytest.raises(OrderAlreadyExists):
            exchange.place(ticket("t1"))
    with opened(tmp_path, past_of()) as exchange:
        with pytest.raises(OrderAlreadyExists):
            exchange.place(ticket("t1"))
        move(exchange, 3)
        assert fills(exchange, "t1") == [("10", "10.00")]


def test_a_cancelled_order_fills_no_more_and_one_that_is_cancelled_late_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path, past_of()) as exchange:
        exchange.place(ticket("t1"))
        exchange.cancel(OrderRef(client_order_id="t1"))
        assert not exchange.waits
        exchange.place(ticket("t2"))
        move(exchange, 2)
        assert (told(exchange, "t1").status, fills(exchange, "t1")) == (ReportStatus.CANCELLED, [])
        with pytest.raises(OrderRefused):
            exchange.cancel(OrderRef(client_order_id="t2"))


def test_what_one_of_two_linked_orders_fills_is_taken_off_the_other(tmp_path: Path) -> None:
    rows = [("A", 1, "10 10 10 10 1000"), ("A", 2, "10 12 10 12 60"), ("A", 3, "12 12 8 8 1000")]
    with opened(tmp_path, past_of(rows)) as exchange:
        exchange.place(ticket("entry", quantity=100))
        move(exchange)
        exits = {"side": "SELL", "quantity": 100, "tif": Tif.GTC, "link": "pair", "is_protective": True}
        exchange.place(ticket("target", kind="LIMIT", limit_price=11, **exits))
        exchange.place(ticket("stop", kind="STOP", stop_price=9, **exits))
        move(exchange, 2)
        assert (fills(exchange, "target"), fills(exchange, "stop")) == ([("60", "11.00"), ("40", "12.00")], [])
        assert told(exchange, "stop").status is ReportStatus.CANCELLED
        assert exchange.positions() == ()


def test_a_market_that_is_halted_or_without_volume_fills_and_triggers_nothing(tmp_path: Path) -> None:
    rows = [("A", 1, "10 10 10 10 1000"), ("A", 2, "5 5 5 5 0"), ("A", 3, "10 10 10 10 1000")]
    with opened(tmp_path, past_of(rows)) as exchange:
        exchange.place(ticket("buy", tif=Tif.GTC))
        exchange.place(ticket("stop", "SELL", kind="STOP", stop_price=6, tif=Tif.GTC))
        move(exchange, 3)
        assert (fills(exchange, "buy"), fills(exchange, "stop")) == ([("10", "10.00")], [])
        assert exchange.balances()[0].equity == D(0)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (ticket("t", symbol="ZZZ"), "there are no bars of ZZZ"),
        (ticket("t", quantity="0.5"), "the quantity 0.5 is no multiple of 1"),
        (ticket("t", kind="LIMIT", limit_price="10.005"), "the limit price 10.005 is no multiple of 0.01"),
        (replace(ticket("t"), instrument=Instrument(symbol="A", currency="EUR")), "the bars are in USD, not EUR"),
        (
            replace(ticket("t"), instrument=Instrument(symbol="A", asset_class=AssetClass.FUTURE, multiplier=D(50))),
            "a point of the price is worth 1, not 50",
        ),
    ],
)
def test_what_this_market_has_not_is_refused_and_leaves_nothing(tmp_path: Path, order: Ticket, words: str) -> None:
    with opened(tmp_path, past_of()) as exchange:
        with pytest.raises(OrderRefused, match=words):
            exchange.place(order)
        assert exchange.orders() == []


def test_amounts_count_with_the_value_of_a_point(tmp_path: Path) -> None:
    with opened(tmp_path, past_of(multiplier=50, cash=100000)) as exchange:
        exchange.place(ticket("t1", quantity=2))
        move(exchange)
        (balance,) = exchange.balances()
        assert (balance.cash, balance.equity) == (D(100000) - 2 * 10 * 50, D(100000) + 2 * 1 * 50)


def test_a_book_is_opened_with_its_own_bars_and_settings_alone(tmp_path: Path) -> None:
    with opened(tmp_path, past_of()) as exchange:
        exchange.place(ticket("t1"))
    for other in (past_of(RISING[:5]), past_of(slippage={"model": "ticks", "ticks": 1}), past_of(limit_fill="touch")):
        with pytest.raises(BrokerUnavailable, match="was begun with other bars or settings"), opened(tmp_path, other):
            pass
    with opened(tmp_path, past_of()) as exchange:
        assert told(exchange, "t1").status is ReportStatus.WORKING


def test_a_book_to_which_nothing_has_happened_takes_other_bars(tmp_path: Path) -> None:
    with opened(tmp_path, past_of()):
        pass
    with opened(tmp_path, past_of(RISING[3:])) as exchange:
        exchange.place(ticket("t1"))
        move(exchange)
        assert fills(exchange, "t1") == [("10", "13.00")]


def test_who_opened_it_before_others_took_it_puts_nothing_into_a_market_that_is_not_his(tmp_path: Path) -> None:
    with opened(tmp_path, past_of()) as one, opened(tmp_path, past_of(RISING[3:])) as other:
        with pytest.raises(BrokerUnavailable, match="was begun with other bars or settings"):
            one.place(ticket("t1"))
        other.place(ticket("t1"))
        move(other)
        assert fills(other, "t1") == [("10", "13.00")]


def test_a_move_that_cannot_be_committed_has_not_happened_and_comes_again_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, past_of(participation=D("0.004"))) as exchange:
        exchange.place(ticket("t1", tif=Tif.GTC))
        move(exchange)
        with monkeypatch.context() as patched:
            patched.setattr(exchange, "_book_end", lambda *_: 1 / 0)
            patched.setattr(exchange, "_book_fill", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                exchange.move_on()
        assert (fills(exchange, "t1"), exchange.historical.time.day) == ([("4", "10.00")], 2)
        move(exchange, 2)
        assert fills(exchange, "t1") == [("4", "10.00"), ("4", "11.00"), ("2", "12.00")]


def test_two_processes_at_one_book_have_one_market(tmp_path: Path) -> None:
    past = past_of(participation=D("0.004"))
    with opened(tmp_path, past) as one, opened(tmp_path, past) as other:
        one.place(ticket("t1", tif=Tif.GTC))
        move(other)
        other.place(ticket("t2", tif=Tif.GTC))
        move(one)
        one.cancel(OrderRef(client_order_id="t2"))
        move(other, 2)
        for each in (one, other):
            assert fills(each, "t1") == [("4", "10.00"), ("4", "11.00"), ("2", "12.00")]
            assert (fills(each, "t2"), each.historical.time.day) == ([], 5)


def test_a_person_s_word_moves_it_so_far_and_no_further(tmp_path: Path) -> None:
    with opened(tmp_path, past_of()) as exchange:
        clock = MarketClock(tmp_path / "book.db", ACCOUNT)
        standing = clock.ask(bars=2)
        assert standing is not None
        assert (standing.time.day, standing.bars) == (1, 2)
        while exchange.is_asked_to_move:
            move(exchange)
        assert exchange.historical.time.day == 3
        clock.ask(until=exchange.historical.last_opening)
        while exchange.is_asked_to_move:
            move(exchange)
        standing = clock.standing()
        assert standing is not None
        assert (standing.next_opening, standing.bars, standing.until) == (None, 0, None)
        assert exchange.move_on() is None
    assert MarketClock(tmp_path / "nothing.db", ACCOUNT).ask(bars=1) is None


ACTIONS = "A,2024-01-03,split,2\nA,2024-01-04,dividend,0.25\nB,2024-01-05,split,1/3\n"


def test_splits_and_dividends_change_holdings_and_cash_as_in_the_batch_lane(tmp_path: Path) -> None:
    rows = [(s, day, "12 12 12 12 1000") for day in range(1, 8) for s in "AB"]
    past = past_of(rows, ACTIONS, tmp_path, cash=10000, margin="0.5")
    with opened(tmp_path, past) as exchange:
        for name, symbol, side in (("t1", "A", "BUY"), ("t2", "B", "SELL")):
            exchange.place(ticket(name, side, 100, symbol=symbol))
        exchange.place(ticket("rests", "BUY", 5, "LIMIT", limit_price=1, tif=Tif.GTC))
        move(exchange, 7)
        told_positions = {p.instrument.symbol: p.quantity for p in exchange.positions()}
        assert told_positions == {"A": 200, "B": -33}
        batch = batch_of(exchange, past)
        assert exchange.balances()[0].cash == batch.account.cash
        assert told(exchange, "rests").reason == "CORPORATE_ACTION"
    with opened(tmp_path, past) as again:
        assert {p.instrument.symbol: p.quantity for p in again.positions()} == told_positions
        assert again.balances()[0].cash == batch.account.cash


def batch_of(exchange: HistoricalExchange, past: Past) -> Result:
    """The same orders at the same times, by the batch lane."""
    reader = OrderReader(past.settings, past.history)
    latency = int(past.settings.latency_seconds * 1_000_000)
    names = ["order_id", "time", "symbol", "side", "quantity", "order_type", "limit_price", "stop_price", "tif"]
    rows = [names]
    with exchange._reading() as db:
        put_in = db.execute("SELECT order_number, arrival, lots FROM market_inputs WHERE what = 'place' ORDER BY seq")
        arrivals = {number: (arrival, lots) for number, arrival, lots in put_in.fetchall()}
    for order in exchange.orders():
        if order.number not in arrivals:
            continue
        arrival, lots = arrivals[order.number]
        t = order.ticket
        prices = ["" if price is None else str(price) for price in (t.limit_price, t.stop_price)]
        words = [t.client_order_id, written_time(arrival - latency), t.instrument.symbol, t.side, str(lots)]
        rows.append([*words, t.order_type, *prices, t.tif or "DAY"])
    reader.rows(rows, "orders")
    return simulate_orders(reader.orders(), past.history, past.settings, engine="plain")


MODELS: list[dict[str, Any]] = [
    {},
    {"cash": 20000},
    {"cash": 20000, "margin": "0.5", "latency_seconds": 5},
    {"slippage": [{"model": "sqrt", "y": "0.5"}, {"model": "ticks", "ticks": 1}], "path": "nearest"},
    {"participation": "0.05", "limit_fill": "touch", "slippage": {"model": "bps", "bps": 7}, "cash": 30000},
]
COMMISSION = {"model": "per_share", "per_share": "0.005", "minimum": "1.00"}


def a_walk(luck: random.Random) -> list[Row]:
    rows, at = [], dict.fromkeys("ABC", 10_000)
    for day in range(1, 22):
        for symbol in "ABC":
            if luck.random() < 0.1:
                continue
            opens = at[symbol] + luck.randint(-150, 150)
            closes = opens + luck.randint(-200, 200)
            high, low = max(opens, closes) + luck.randint(0, 120), min(opens, closes) - luck.randint(0, 120)
            at[symbol] = closes
            prices = " ".join(f"{price / 100:.2f}" for price in (opens, high, low, closes))
            rows.append((symbol, day, f"{prices} {luck.choice([0, 300, 1500, 4000])}"))
    return rows


def some_order(luck: random.Random, name: str) -> Ticket:
    kind = luck.choice(["MARKET", "MARKET", "LIMIT", "STOP", "STOP_LIMIT"])
    prices = {
        price: f"{luck.randint(9700, 10300) / 100:.2f}"
        for price, kinds in (("limit_price", ("LIMIT", "STOP_LIMIT")), ("stop_price", ("STOP", "STOP_LIMIT")))
        if kind in kinds
    }
    tif = luck.choice([None, Tif.DAY, Tif.GTC, Tif.GTC, Tif.IOC])
    return ticket(
        name, luck.choice(["BUY", "SELL"]), luck.randint(1, 90), kind, symbol=luck.choice("ABC"), tif=tif, **prices
    )


@settings(max_examples=12)
@given(seed=st.integers(0, 10**9), models=st.sampled_from(MODELS))
def test_both_lanes_come_to_the_same_to_the_last_digit_over_any_restarts(
    tmp_path_factory: pytest.TempPathFactory, seed: int, models: dict[str, Any]
) -> None:
    luck, folder = random.Random(seed), tmp_path_factory.mktemp("lanes")
    past = past_of(a_walk(luck), commission=COMMISSION, **models)
    has_bars, number = True, 0
    while has_bars:
        with opened(folder, past) as exchange:
            for _ in range(luck.randint(0, 4)):
                number += 1
                exchange.place(some_order(luck, f"o{number}"))
            move(exchange, luck.randint(1, 6))
            has_bars = exchange.historical.has_bars
    with opened(folder, past) as exchange:
        batch = batch_of(exchange, past)
        rows = {order_id: row for row, order_id in enumerate(batch.orders.order_id)}
        of_batch: dict[str, list[tuple[object, ...]]] = {order_id: [] for order_id in rows}
        trades, tick = batch.trades, batch.settings.tick
        for row, quantity, price, at, fee, why in zip(
            trades.order, trades.quantity, trades.price, trades.time, trades.fee, trades.reason, strict=True
        ):
            fill = (D(quantity), tick * price, at, D(fee).scaleb(-2), FILL_REASONS[why])
            of_batch[batch.orders.order_id[row]].append(fill)
        for order_id, row in rows.items():
            report = told(exchange, order_id)
            mine = [
                (f.quantity, f.price, microseconds(f.time), f.commission, exchange.why(f.fill_id)) for f in report.fills
            ]
            assert mine == of_batch[order_id]
            assert report.status.value == ("WORKING", "FILLED", "CANCELLED", "EXPIRED")[batch.status[row]]
        held = {symbol: D(p.quantity) for (_, symbol), p in batch.account.positions.items() if p.quantity}
        assert {p.instrument.symbol: p.quantity for p in exchange.positions()} == held
        cash, value = batch.account.equity()[-1]
        (balance,) = exchange.balances()
        assert (balance.cash, balance.equity) == (batch.account.unit * cash, batch.account.unit * (cash + value))
