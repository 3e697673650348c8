"""What the status table says of what the store knows: which rows are down, which want a look, and which are well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import pytest

from execution_service.core.orders.status import Status
from execution_service.storage.mongo.names import ALERTS
from scripts.health import Part, State, of_discrepancies, of_idle_accounts, of_orders, of_parts, of_telegram
from scripts.locate import Notice
from scripts.mvp_demo_status import stored_parts
from tests.builders import NOW, identity, order, order_in
from tests.service.script_records import Records


class Table(Records):
    """The rows of the status table about those records."""

    def parts(self, *worked: str) -> dict[str, Part]:
        """With a service that is alone on the store and works these accounts; none: no service runs here, and the store is shared."""
        notice = notice_of(*worked) if worked else None
        return by_name(stored_parts(self.view, self.view.waiting(), notice))


@pytest.fixture
def records() -> Table:
    return Table()


def notice_of(*accounts: str) -> Notice:
    return Notice(
        pid=1,
        mongodb_uri="mongodb://127.0.0.1:1/",
        mongodb_database="records",
        pubsub_emulator_host=None,
        google_cloud_project="project",
        accounts={account_id: {"broker": "MOCK", "state": "CONNECTED", "trouble": ""} for account_id in accounts},
    )


def by_name(parts: Iterable[Part]) -> dict[str, Part]:
    return {part.name: part for part in parts}


def test_orders_in_doubt_are_down(records: Table) -> None:
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


def test_news_of_orders_that_people_were_not_told_are_counted_as_not_sent(records: Table) -> None:
    records.keep(order_in(Status.FILLED, of=identity("told")))
    assert records.parts()["alerts not sent"] == Part("alerts not sent", State.UP, "0")
    records.keep(order_in(Status.FILLED, of=identity("untold")), told=2)
    records.db[ALERTS].insert_one({"_id": "conflict:1", "sent_at": None})
    found = records.parts()["alerts not sent"]
    assert (found.state, found.is_up) == (State.WAITING, True)
    assert found.detail.startswith("2: 1 about orders, 1 of no order")


def said_of_part(state: str = "RUNNING", restarts: int = 0, why: str = "") -> dict[str, object]:
    return {"state": state, "restarts": restarts, "last_failure": why, "since": "2026-11-29T22:00:00+00:00"}


def test_parts_that_all_run_are_one_row() -> None:
    assert of_parts({"delivery": said_of_part(), "leases": said_of_part()}) == [Part("parts", State.UP, "2 of 2 run")]
    assert of_parts({}) == []


def test_a_part_that_was_restarted_and_runs_wants_a_look_and_says_why() -> None:
    whole, row = of_parts({"delivery": said_of_part(), "leases": said_of_part(restarts=3, why="of nobody's making")})
    assert whole.state is State.UP
    assert (row.name, row.state) == ("part leases", State.LOOK)
    assert row.detail == "restarted 3 times, runs since 2026-11-29T22:00:00+00:00; the last failure: of nobody's making"


@pytest.mark.parametrize("state", ["RESTARTING", "GIVEN_UP"])
def test_a_part_that_does_not_run_is_down(state: str) -> None:
    whole, row = of_parts({"delivery": said_of_part(), "leases": said_of_part(state, 1, "of nobody's making")})
    assert whole == Part("parts", State.DOWN, "1 of 2 run")
    assert (row.name, row.state) == ("part leases", State.DOWN)
    assert state in row.detail
    assert "of nobody's making" in row.detail


def test_telegram_says_what_waits_for_it(records: Table) -> None:
    assert of_telegram("@bot", is_up=True, waiting=records.view.waiting()).detail == "@bot; nothing waits"
    records.keep(order_in(Status.FILLED, of=identity("untold")), told=2)
    found = of_telegram("no answer", is_up=False, waiting=records.view.waiting())
    assert found == Part("Telegram", State.DOWN, "no answer; 1 to be sent")
    assert of_telegram("@bot", is_up=True, waiting=None).detail == "@bot"


def test_unfinished_orders_of_an_account_that_nobody_works_are_down_with_their_names(records: Table) -> None:
    lost = records.keep(order_in(Status.SUBMITTED, of=identity("lost"), account_id="Gone"))
    records.keep(order_in(Status.FILLED, of=identity("ended"), account_id="Gone"), told=0)
    records.keep(order_in(Status.SUBMITTED, of=identity("worked"), account_id="Mine"))
    found = records.parts("Mine")["orders nobody works"]
    assert not found.is_up
    assert f"Gone: {lost.order_id} SUBMITTED; no running service works" in found.detail
    assert "Mine" not in found.detail
    assert "orders nobody works" not in records.parts("Mine", "Gone")


def test_an_order_that_has_just_come_is_not_said_to_be_left_alone(records: Table) -> None:
    records.keep(order(of=identity("fresh"), account_id="New", received_at=datetime.now(UTC)))
    assert "orders nobody works" not in records.parts("Mine")


def test_on_a_shared_store_whoever_holds_the_lease_works_the_account(records: Table) -> None:
    records.keep(order_in(Status.IN_DOUBT, of=identity("first"), account_id="Elsewhere"))
    records.keep(order_in(Status.PENDING, of=identity("second"), account_id="Silent"))
    records.lease("Elsewhere", datetime.now(UTC))
    records.lease("Silent", NOW)
    detail = records.parts()["orders nobody works"].detail
    assert "Silent: " in detail
    assert "Elsewhere" not in detail


def test_of_very_many_orders_that_nobody_works_some_are_named(records: Table) -> None:
    for n in range(8):
        records.keep(order_in(Status.SUBMITTED, of=identity(f"lost-{n}"), account_id="Gone"))
    assert "and 3 more; no running service" in records.parts("Mine")["orders nobody works"].detail


def test_an_account_that_is_let_go_is_idle_while_the_store_knows_of_it(records: Table) -> None:
    records.hold("Holds")
    records.keep(order_in(Status.FILLED, of=identity("ended"), account_id="Traded"))
    found = records.parts("Mine")
    assert found["account Holds"] == Part("account Holds", State.IDLE, "holds 1 open position, no order at work")
    assert found["account Traded"] == Part("account Traded", State.IDLE, "holds nothing, no order at work")
    assert "account Holds" not in records.parts("Mine", "Holds")


def test_an_account_with_orders_at_work_is_not_at_rest(records: Table) -> None:
    records.keep(order_in(Status.SUBMITTED, of=identity("lost"), account_id="Gone"))
    assert "account Gone" not in records.parts("Mine")


def test_a_holding_where_accounts_must_be_configured_wants_a_look() -> None:
    (found,) = of_idle_accounts(["Misspelt", "Gone"], {"Gone": 2}, is_any_served=False)
    assert (found.name, found.state) == ("account Gone", State.LOOK)
    assert found.detail.startswith("holds 2 open positions; no running service works it")


def test_of_many_accounts_at_rest_those_that_hold_something_are_named() -> None:
    found = of_idle_accounts([f"made-up-{n}" for n in range(30)], {"made-up-7": 1}, is_any_served=True)
    assert [part.name for part in found] == ["account made-up-7", "accounts at rest"]
    assert found[-1].detail == "29 more"
