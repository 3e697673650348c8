"""What can happen to a market of the past: its journal, its bars, its clock. Importing it enters the scenarios into the table."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from brokers.simulated.clock import MarketClock
from tests.faults.scenarios import EVERYWHERE, Family, scenario
from tests.faults.stage import PRICE, LaneOfBook, Play, Signal
from tests.waits import wait_until

AT = ("simulated",)
LOCKED_SECONDS = 8.0
"""Longer than SQLite waits for whoever writes."""
BARS_ASKED = 400


def journal_of(play: Play) -> Path:
    """The account's book: its orders, and what was put into its market."""
    assert isinstance(play.venue, LaneOfBook)
    return play.venue.path


def bars_of(play: Play) -> Path:
    """Of all accounts of the stage."""
    return play.stage.folder / "past" / "bars.csv"


def clock_of(play: Play) -> MarketClock:
    return MarketClock(journal_of(play), play.lane.account_id)


@contextlib.contextmanager
def locked(journal: Path) -> Iterator[None]:
    """Another process writes into it, and does not end."""
    with contextlib.closing(sqlite3.connect(journal, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield


@contextlib.contextmanager
def _while_stopped(play: Play) -> Iterator[None]:
    service = play.stage.service
    service.stop()
    yield
    service.start()


@scenario(Family.RESTART, brokers=AT, quick=True, within=90.0)
def journal_locked_while_orders_come(play: Play) -> None:
    """The journal cannot be written for 8 s, while an order is sent and another is to be cancelled."""
    resting = play.resting()
    with locked(journal_of(play)):
        play.sent()
        play.cancel(resting)
        play.pause(LOCKED_SECONDS)
    play.until(resting, "CANCELLED")


@scenario(Family.RESTART, brokers=AT, within=90.0)
def journal_locked_while_the_market_goes_on(play: Play) -> None:
    """The market is on its way through many bars, and its journal cannot be written for 8 s: it goes on from where it stood."""
    standing = clock_of(play).ask(bars=BARS_ASKED)
    assert standing is not None
    with locked(journal_of(play)):
        play.pause(LOCKED_SECONDS)
    play.sent()
    _until_it_stands(play)


@scenario(Family.RESTART, brokers=AT, alone=EVERYWHERE, quick=True, within=90.0)
def killed_while_the_market_goes_on(play: Play) -> None:
    """kill -9 in the middle of bars that a person has asked for, with an order on its way: no bar is skipped, and none is had twice."""
    before = _opened(play)
    clock_of(play).ask(bars=BARS_ASKED)
    order = play.sent()
    play.stage.service.kill()
    play.stage.service.start()
    play.until(order, "FILLED")
    _until_it_stands(play)
    opened, moves = _opened(play), _moves(play)
    assert opened >= before + BARS_ASKED, f"{opened - before} bars of {BARS_ASKED} have opened"
    assert opened == moves, f"{opened} bars have opened, and the journal has {moves} moves"


@scenario(Family.RESTART, brokers=AT, alone=EVERYWHERE, within=120.0)
def bars_gone_at_a_start(play: Play) -> None:
    """The bars are not where they were as the service starts: its orders wait, and are placed when the bars are back."""
    resting = play.resting()
    with _other_bars(play, None, said="cannot be used"):
        waits = _nothing_is_traded(play, resting)
    play.until(waits, "FILLED")
    play.fill(resting)


@scenario(Family.RESTART, brokers=AT, alone=EVERYWHERE, within=120.0)
def other_bars_under_a_journal_that_has_begun(play: Play) -> None:
    """The bars are others than those with which the journal was begun: nothing is traded at their prices, and people are told why."""
    play.until(play.sent(), "FILLED")
    resting = play.resting()
    with _other_bars(play, "200.50", said="was begun with other bars or settings"):
        waits = _nothing_is_traded(play, resting)
    play.until(waits, "FILLED")
    play.fill(resting)


@scenario(Family.RESTART, brokers=AT, alone=EVERYWHERE, within=150.0)
def journal_lost_and_given_back(play: Play) -> None:
    """The journal is not there at a start, so that the broker knows nothing of what it had: nothing is ended without evidence, nothing is placed
    again, and people are told. Then it is given back."""
    entry = play.sent()
    play.until(entry, "FILLED")
    resting = play.resting()
    folder = journal_of(play).parent
    away, fresh = folder.with_name(f"{folder.name}.away"), folder.with_name(f"{folder.name}.fresh")
    with _while_stopped(play):
        folder.rename(away)
    wait_until(
        lambda: play.stage.db["execution_discrepancies"].count_documents(
            {"account_id": play.lane.account_id, "state": "OPEN"}
        ),
        "the difference is told",
        within=60.0,
    )
    play.stays(resting, "SUBMITTED", seconds=3.0)
    with contextlib.closing(sqlite3.connect(folder / journal_of(play).name)) as db:
        assert db.execute("SELECT count(*) FROM orders").fetchone() == (0,), "it was placed again"
    with _while_stopped(play):
        folder.rename(fresh)
        away.rename(folder)
    play.fill(resting)


@contextlib.contextmanager
def _other_bars(play: Play, price: str | None, *, said: str) -> Iterator[None]:
    """The service is started again with bars at this price (None: with none at all), and has `said` so. Afterwards they are as they were."""
    bars, console = bars_of(play), play.stage.service.console
    times = console().count(said)
    true = bars.read_text(encoding="utf-8")
    try:
        with _while_stopped(play):
            bars.unlink()
            if price is not None:
                bars.write_text(true.replace(PRICE, price), encoding="utf-8")
        wait_until(
            lambda: console().count(said) > times, f"the log says: {said}", within=40.0, more=lambda: console()[-3000:]
        )
        yield
    finally:
        bars.write_text(true, encoding="utf-8")


def _nothing_is_traded(play: Play, resting: Signal) -> Signal:
    """An order that is sent now, and waits."""
    waits = play.sent()
    play.stays(resting, "SUBMITTED", seconds=2.0)
    assert not play.at_broker(waits), "it was placed"
    return waits


def _until_it_stands(play: Play) -> None:
    """Until all that was asked for is done."""

    def stands() -> bool:
        found = clock_of(play).standing()
        return found is not None and not found.bars

    wait_until(stands, "the market stands", within=90.0, pause=0.2)


def _moves(play: Play) -> int:
    """How many have, by the journal."""
    with contextlib.closing(sqlite3.connect(journal_of(play))) as db:
        (count,) = db.execute("SELECT count(*) FROM market_inputs WHERE what = 'move'").fetchone()
    return int(count)


def _opened(play: Play) -> int:
    """How many bars have opened, by the market's clock."""
    standing = clock_of(play).standing()
    with open(bars_of(play), encoding="utf-8") as lines:
        times = sorted({line.split(",")[1] for line in list(lines)[1:]})
    assert standing is not None
    assert standing.next_opening is not None
    return times.index(standing.next_opening.isoformat())
