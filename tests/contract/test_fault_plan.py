"""The simulated gateways' random faults: the same by the same seed, whatever the sequence and the pace, and playable by each gateway."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import requests
from kiteconnect import KiteConnect
from kiteconnect import exceptions as kite_errors

from brokers.base import Instrument, OrderRef, OrderType, ReportStatus, Side, Ticket
from brokers.errors import BrokerError
from brokers.paper.model import Action, Market, Operation
from simulators.fault_plan import FaultPlan, PlannedBook
from simulators.ibkr.book import TwsBook
from simulators.zerodha import DEFAULT_ACCESS_TOKEN, DEFAULT_API_KEY
from simulators.zerodha.book import KiteBook

ROOT = Path(__file__).parents[2]
TAGS = [f"t{n:018d}" for n in range(60)]
READY_SECONDS = 30.0


def ticket(tag: str) -> Ticket:
    return Ticket(
        client_order_id=tag,
        instrument=Instrument(symbol="INFY", exchange="NSE"),
        side=Side.BUY,
        quantity=Decimal(10),
        order_type=OrderType.LIMIT,
        limit_price=Decimal(100),
    )


def played_by(book: PlannedBook, tags: list[str], seed: str, rate: float = 0.3) -> set[Any]:
    """Each order is placed and cancelled, in this sequence; what the plan played."""
    plan = book.fault_plan = FaultPlan(seed, rate)
    for tag in tags:
        book.draw(Operation.PLACE, tag, "INFY")
        with contextlib.suppress(BrokerError):
            book.place(ticket(tag))
        book.draw(Operation.CANCEL, tag)
        with contextlib.suppress(BrokerError):
            book.cancel(OrderRef(client_order_id=tag))
        book.draw(Operation.REPORTS)
        book.reports()
    return set(plan.played)


@pytest.mark.parametrize("kind", [KiteBook, TwsBook])
def test_one_seed_plays_the_same_faults_in_any_sequence_and_another_seed_others(
    tmp_path: Path, kind: type[KiteBook | TwsBook]
) -> None:
    runs = []
    for number, (seed, shuffled) in enumerate([("7", False), ("7", True), ("8", False)]):
        tags = random.Random(number).sample(TAGS, len(TAGS)) if shuffled else TAGS
        book = kind(tmp_path / f"{number}.db", account_id="A", market=Market(fill_delay_seconds=None))
        runs.append(played_by(book, tags, seed))
        book.close()
    assert runs[0] == runs[1] != runs[2]
    assert {played.operation for played in runs[0]} >= {Operation.PLACE, Operation.CANCEL, Operation.REPORTS}
    assert 20 < len(runs[0]) < 150


def test_a_plan_plays_as_often_as_its_rate_says_and_every_action_that_it_knows() -> None:
    plan = FaultPlan("1", 0.25)
    hits = [plan.draw(Operation.PLACE, tag, on_the_way=True) for tag in map(str, range(4000))]
    assert 0.22 < sum(map(bool, hits)) / len(hits) < 0.28
    actions = {fault.action for drawn in hits for fault in drawn}
    assert actions >= {Action.ACCEPT_THEN_DROP, Action.DROP_BEFORE_ACCEPT, Action.NEVER_ANSWER, Action.REFUSE}
    assert plan.draw(Operation.POSITIONS, "", on_the_way=True) == []


def test_clearing_the_faults_ends_the_plan(tmp_path: Path) -> None:
    book = KiteBook(tmp_path / "book.db", account_id="A", market=Market())
    book.fault_plan = FaultPlan("1", 1.0)
    assert book.draw(Operation.PLACE, TAGS[0], "INFY")
    book.clear_faults()
    assert book.draw(Operation.PLACE, TAGS[1], "INFY") == ()
    assert book.place(ticket(TAGS[1])).status is ReportStatus.FILLED
    book.close()


@pytest.mark.parametrize("said", ["", ":0.5", "7:0", "7:1.5", "7:-1", "7:x", "7:nan"])
def test_a_plan_that_is_none_is_refused_with_a_sentence(said: str) -> None:
    with pytest.raises(ValueError, match=r"rate|seed|convert"):
        FaultPlan.of(said)


# As programs


@contextlib.contextmanager
def gateway(module: str, folder: Path, *options: str) -> Iterator[dict[str, Any]]:
    """A gateway of its own on free ports; what its notice says."""
    folder.mkdir(parents=True)
    notice = folder / "notice.json"
    command = [sys.executable, "-m", module, "--port", "0", "--data", str(folder / "book.db"), "--notice", str(notice)]
    process = subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + READY_SECONDS
        while not notice.exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        yield json.loads(notice.read_text())
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(READY_SECONDS)


def control(url: str, **wish: object) -> dict[str, Any]:
    body = json.dumps(wish).encode() if wish else None
    with urlopen(Request(url, body), timeout=10) as answer:
        state: dict[str, Any] = json.load(answer)
    return state


def test_two_runs_of_the_simulated_kite_by_one_seed_play_the_same_faults(tmp_path: Path) -> None:
    runs = []
    for number in range(2):
        with gateway("simulators.zerodha", tmp_path / str(number), "--faults", "11:0.2") as notice:
            kite = KiteConnect(DEFAULT_API_KEY, DEFAULT_ACCESS_TOKEN, root=notice["gateway"], timeout=4)
            for tag in TAGS[:25]:
                with contextlib.suppress(requests.RequestException, kite_errors.KiteException):
                    kite.place_order(
                        "regular", "NSE", "INFY", "BUY", 10, "CNC", "LIMIT", price=100, validity="DAY", tag=tag
                    )
            plan = control(notice["control"])["fault_plan"]
            runs.append(plan["latest"])
            assert (plan["seed"], plan["rate"], plan["played"]) == ("11", 0.2, len(plan["latest"]))
            assert control(notice["control"], do="clear_faults")["fault_plan"] is None
    assert sorted(runs[0]) == sorted(runs[1])
    assert runs[0]


def test_the_simulated_tws_takes_the_same_option_and_tells_of_it(tmp_path: Path) -> None:
    with gateway("simulators.ibkr", tmp_path / "tws", "--faults", "11:0.2") as notice:
        plan = control(notice["control"])["fault_plan"]
    assert plan == {"seed": "11", "rate": 0.2, "played": 0, "latest": []}


@pytest.mark.parametrize("module", ["simulators.zerodha", "simulators.ibkr"])
def test_a_wrong_plan_is_refused_at_the_start(tmp_path: Path, module: str) -> None:
    command = [sys.executable, "-m", module, "--port", "0", "--data", str(tmp_path / "book.db"), "--faults", "7:2"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=READY_SECONDS, check=False)
    assert said.returncode == 2
    assert "a rate above 0" in said.stderr
