"""The real process is killed in the middle of 200 orders, three times; and kills leave nothing behind that holds a port or the data."""

from __future__ import annotations

import contextlib
import fcntl
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest

from tests.external.service_process import (
    Listener,
    Service,
    assert_everything_agrees,
    embedded_address,
    is_alive,
    is_listening,
    make_orders,
    wait_until_settled,
)
from tests.waits import wait_until

# What is ready at this moment, and no waiting, is just what these tests ask for.
pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning")

ORDERS = 200
GONE_SECONDS = 8.0
LETS_GO_SECONDS = 1.2


def trading_service(folder: Path) -> Service:
    return Service(
        folder,
        MOCK_FILL_DELAY_SECONDS="0.8",
        MOCK_PARTIAL_FILL_RATE="0.5",
        MOCK_SLIPPAGE_BPS="3",
        MOCK_SEED="7",
        MAX_ORDER_AGE_SECONDS="0",
        ORDER_TIMEOUT_SECONDS="0",
    )


def guardian_of(family: list[psutil.Process]) -> psutil.Process:
    return next(member for member in family if any("guardian" in part for part in member.cmdline()))


def assert_nothing_is_left(family: list[psutil.Process], ports: list[int]) -> None:
    wait_until(
        lambda: not any(is_alive(member) for member in family) and not any(is_listening(port) for port in ports),
        "all children are gone and their ports are free",
        within=GONE_SECONDS,
        more=lambda: str([member for member in family if is_alive(member)]),
    )


@pytest.mark.timeout(180)
def test_three_kills_in_the_middle_of_200_orders_lose_nothing_and_place_nothing_twice(tmp_path: Path) -> None:
    asked = make_orders(ORDERS, seed=2024)
    with trading_service(tmp_path) as service, Listener(embedded_address(service)) as listener:
        book = service.book
        shares = [asked[:80], asked[80:150], asked[150:]]
        # While they are being placed; while fills are coming in; as soon as the last of them begin to be placed.
        moments: list[Callable[[], bool]] = [
            lambda: book.placed() >= 30,
            lambda: book.filled() >= 100,
            lambda: book.placed() >= 152,
        ]
        for share, is_the_moment in zip(shares, moments, strict=True):
            service.start()
            with service.pubsub() as pubsub:
                pubsub.publish(share)
            wait_until(is_the_moment, "the moment of the kill", pause=0.002, more=service.console)
            family, ports = service.family(), [service.store_port, service.pubsub_port]
            service.kill()
            assert_nothing_is_left(family, ports)
        service.start()
        lives = re.findall(r"Took up (\d+) unsettled orders", service.console())
        assert len(lives) == len(moments), f"each kill was in the middle of something: {lives}"
        wait_until_settled(service, ORDERS)
        wait_until(lambda: len(listener.ended_signals()) == ORDERS, "each order's end is told", more=service.console)
        assert_everything_agrees(service, asked, listener.received)
        assert service.stop()[0] == 0
    assert unacknowledged(service) == []


def unacknowledged(service: Service) -> list[tuple[str, str]]:
    """Subscription and body of what the service's own Pub/Sub still holds for the service."""
    with contextlib.closing(sqlite3.connect(service.data_dir / "pubsub.db")) as db:
        return db.execute(
            "SELECT s.name, o.body FROM owed o JOIN subscriptions s ON s.id = o.subscription"
            " WHERE o.acknowledged = 0 AND s.name NOT LIKE '%confirmations%'"
        ).fetchall()


def test_the_store_of_a_killed_service_lets_go_of_its_files_at_once(tmp_path: Path) -> None:
    with trading_service(tmp_path) as service:
        service.start()
        with service.pubsub() as pubsub:
            pubsub.publish(make_orders(40, seed=7))
        wait_until(lambda: service.book.placed() >= 20, "orders are under way", pause=0.002, more=service.console)
        service.kill()
        began = time.monotonic()
        with open(service.data_dir / "store.lock", "ab") as lock:
            wait_until(lambda: is_free(lock), "the lock of the store is free", pause=0.005, within=GONE_SECONDS)
        # Asked to end in peace it takes more than two seconds, while connections of the dead are open.
        assert time.monotonic() - began < LETS_GO_SECONDS
        service.start()
        wait_until_settled(service, 40)


def is_free(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_killed_service_whose_guardian_is_killed_too_leaves_no_orphan(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.start()
        family, ports = service.family(), [service.store_port, service.pubsub_port]
        guardian_of(family).kill()
        service.kill()
        assert_nothing_is_left(family, ports)
        service.start()
        assert service.exit_status() is None
