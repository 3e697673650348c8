"""What the status table says of what the store knows: which rows are down, which want a look, and which are well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import mongomock
import pytest

from execution_service import store as collections
from execution_service.core.order import Order, Status
from execution_service.core.record import order_to_document
from execution_service.desk_view import DeskView
from scripts.health import Part, State, of_discrepancies, of_orders, of_telegram
from scripts.mvp_demo_status import stored_parts
from tests.builders import identity, order_in


class Records:
    """A store of their own for the records of one test."""

    def __init__(self) -> None:
        self.client: Any = mongomock.MongoClient(tz_aware=True)
        self.db = self.client["records"]
        self.view = DeskView(self.client, "records")

    def keep(self, order: Order, *, told: int | None = None) -> Order:
        """`told`: the number of the last event that was delivered; all of them unless given."""
        number = order.version if told is None else told
        is_settled = order.status.is_final and number >= order.version
        document = order_to_document(order)
        document["lookup"] += [] if is_settled else [collections.UNSETTLED]
        self.db[collections.ORDERS].insert_one(document | {"told": {"world": number, "people": number}})
        return order

    def parts(self) -> dict[str, Part]:
        return by_name(stored_parts(self.view, self.view.waiting()))


@pytest.fixture
def records() -> Records:
    return Records()


def by_name(parts: Iterable[Part]) -> dict[str, Part]:
    return {part.name: part for part in parts}


def test_orders_in_doubt_are_down(records: Records) -> None:
    records.keep(order_in(Status.FILLED, of=identity("well")))
    assert records.parts()["orders"] == Part("orders", State.UP, "1 FILLED")
    records.keep(order_in(Status.IN_DOUBT, of=identity("doubted")))
    found = records.parts()["orders"]
    assert (found.state, found.is_up) == (State.DOWN, False)
    assert found.detail == "1 FILLED, 1 IN_DOUBT; look at the broker, then execctl resolve"


@pytest.mark.parametrize("by_status", [{}, {"FILLED": 2, "PENDING": 1}], ids=["none", "some"])
def test_orders_of_which_all_is_known_are_up(by_status: Mapping[str, int]) -> None:
    assert of_orders(by_status).is_up


def test_an_open_discrepancy_wants_a_look_and_is_not_down() -> None:
    """One that is meant stays open; the table would be down for ever."""
    assert of_discrepancies(0).state is State.UP
    found = of_discrepancies(2)
    assert (found.state, found.is_up) == (State.LOOK, True)
    assert "execctl discrepancies" in found.detail


def test_news_of_orders_that_people_were_not_told_are_counted_as_not_sent(records: Records) -> None:
    records.keep(order_in(Status.FILLED, of=identity("told")))
    assert records.parts()["alerts not sent"] == Part("alerts not sent", State.UP, "0")
    records.keep(order_in(Status.FILLED, of=identity("untold")), told=2)
    records.db[collections.ALERTS].insert_one({"_id": "conflict:1", "sent_at": None})
    found = records.parts()["alerts not sent"]
    assert (found.state, found.is_up) == (State.WAITING, True)
    assert found.detail.startswith("2: 1 about orders, 1 of no order")


def test_telegram_says_what_waits_for_it(records: Records) -> None:
    assert of_telegram("@bot", is_up=True, waiting=records.view.waiting()).detail == "@bot; nothing waits"
    records.keep(order_in(Status.FILLED, of=identity("untold")), told=2)
    found = of_telegram("no answer", is_up=False, waiting=records.view.waiting())
    assert found == Part("Telegram", State.DOWN, "no answer; 1 to be sent")
    assert of_telegram("@bot", is_up=True, waiting=None).detail == "@bot"
