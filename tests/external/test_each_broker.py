"""The real service with the real adapters: one order's journeys at each broker, judged by the broker's own book."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pytest

from brokers.manifest import Fact
from brokers.registry import manifests
from tests.external.service_process import COMMANDS_TOPIC, Listener, embedded_address
from tests.external.venues import (
    BROKERS,
    FINAL,
    LIMITED,
    GatewayVenue,
    Venue,
    VenueStage,
    currency_at,
    events,
    stage_with_all_brokers,
)
from tests.waits import wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.timeout(180),
]
BURST = 40
PERHAPS_SENT_AT_ONCE = 8
"""How many of Zerodha's orders may be on their way when the process dies."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VenueStage]:
    with stage_with_all_brokers(tmp_path_factory.mktemp("each")) as found:
        yield found


@pytest.fixture(scope="module")
def listener(stage: VenueStage) -> Iterator[Listener]:
    with Listener(embedded_address(stage.service)) as found:
        yield found


@pytest.fixture(params=BROKERS)
def venue(request: pytest.FixtureRequest, stage: VenueStage) -> Iterator[Venue]:
    found = stage.venues[request.param]
    yield found
    found.do("clear_faults")


@pytest.fixture
def gateway(venue: Venue) -> GatewayVenue:
    if not isinstance(venue, GatewayVenue):
        pytest.skip("the broker has no gateway: its adapter keeps the book")
    return venue


def truth(venue: Venue, record: Any) -> dict[str, Any]:
    """The one order that the broker has for this record."""
    (order,) = venue.of(record["client_order_id"])
    return order


def told(listener: Listener, signal_id: str, count: int) -> list[dict[str, Any]]:
    """The confirmations on Pub/Sub, each once, in the order of their events."""

    def heard() -> list[dict[str, Any]]:
        own = {c.attributes["event_id"]: c for c in listener.received if c.body["signal_id"] == signal_id}
        ordered = sorted(own.values(), key=lambda c: int(c.attributes["event_number"]))
        found = [dict(c.body) for c in ordered if not c.body.get("correction")]
        return found if len(found) >= count else []

    return wait_until(heard, f"{count} confirmations of {signal_id}")


def test_a_market_order_is_filled_and_told_everywhere(stage: VenueStage, venue: Venue, listener: Listener) -> None:
    body = stage.body(venue, order_type="MARKET", limit_price=None, strategy_name="Market", tif=None)
    stage.publish(body)
    record = stage.wait(body)
    order = truth(venue, record)
    assert (record["status"], order["status"], order["filled_quantity"]) == ("FILLED", "FILLED", "10")
    assert order["order_type"] == "MARKET"
    (fill,) = order["fills"]
    confirmation = stage.confirmation(body["signal_id"])
    assert confirmation["status"] == "FILLED"
    assert confirmation["order_id"] == order["broker_order_id"]
    assert confirmation["avg_fill_price"] == float(fill["price"])
    with stage.service.database() as db:
        signal = db["signal_store"].find_one({"signal_id": body["signal_id"]})
        position = db["positions"].find_one({"strategy_name": "Market", "account_id": venue.account_id})
        wait_until(
            lambda: stage.confirmation(body["signal_id"]).get("commission") == float(fill["commission"]),
            "the commission is told",
        )
    assert signal is not None
    assert (signal["execution_status"], signal["order_id"]) == ("FILLED", order["broker_order_id"])
    assert position is not None
    assert (position["side"], position["quantity"], position["status"]) == ("LONG", 10, "OPEN")
    (last,) = told(listener, body["signal_id"], 1)
    assert (last["status"], last["broker"], last["client_order_id"]) == (
        "FILLED",
        venue.broker.upper(),
        record["client_order_id"],
    )
    assert last["last_fill"]["fill_id"].endswith(fill["fill_id"])
    assert last["commission_currency"] in (None, currency_at(venue.broker))


def test_a_limit_order_rests_and_is_cancelled(stage: VenueStage, venue: Venue) -> None:
    venue.fault("place", "hold")
    body = stage.body(venue)
    stage.publish(body)
    record = stage.wait(body, "SUBMITTED")
    assert truth(venue, record)["status"] == "WORKING"
    cancel = {"command": "CANCEL", "signal_id": body["signal_id"], "reason": "changed my mind"}
    stage.publish(cancel, topic=COMMANDS_TOPIC)
    record = stage.wait(body)
    order = truth(venue, record)
    assert (record["status"], order["status"], order["filled_quantity"]) == ("CANCELLED", "CANCELLED", "0")
    assert stage.confirmation(body["signal_id"])["reason"]["code"] == "CANCEL_REQUESTED"


def test_options_that_are_legs_of_one_signal_are_one_order_at_ibkr(stage: VenueStage) -> None:
    """Filled together, and then another spread is cancelled by the name of one leg."""
    venue = stage.venues["ibkr"]
    assert isinstance(venue, GatewayVenue)
    option = {"instrument_type": "OPTION", "right": "CALL", "expiry": "20270115", "tif": None, "quantity": 2}
    placed = venue.state()["messages_placed"]

    def send_spread(**fields: Any) -> list[Mapping[str, Any]]:
        legs = [
            stage.body(venue, side, **option, strike=strike, limit_price=price, price=price, **fields)
            for side, strike, price in (("BUY", 500, "3.00"), ("SELL", 510, "1.50"))
        ]
        named = [
            {**leg, "signal_id": legs[0]["signal_id"], "leg_index": n, "total_legs": 2} for n, leg in enumerate(legs)
        ]
        stage.publish(*named)
        return named

    def records(legs: list[Mapping[str, Any]], status: str) -> list[dict[str, Any]]:
        def are_there() -> list[dict[str, Any]]:
            with stage.service.database() as db:
                found = sorted(
                    db["execution_orders"].find({"signal_id": legs[0]["signal_id"]}), key=lambda r: int(r["leg_index"])
                )
            return found if [record["status"] for record in found] == [status] * 2 else []

        return wait_until(are_there, f"both legs are {status}")

    first = records(send_spread(), "FILLED")
    assert venue.state()["messages_placed"] == placed + 1
    assert len({record["broker_order_id"] for record in first}) == 1
    bought, sold = venue.of(first[0]["client_order_id"])
    assert [record["filled_quantity"] for record in first] == ["2", "2"]
    assert Decimal(bought["fills"][0]["price"]) - Decimal(sold["fills"][0]["price"]) == Decimal("1.50")
    venue.fault("place", "hold", times=None)
    second = send_spread()
    records(second, "SUBMITTED")
    cancel = {"command": "CANCEL", "signal_id": second[0]["signal_id"], "leg_index": 1, "reason": "changed my mind"}
    stage.publish(cancel, topic=COMMANDS_TOPIC)
    records(second, "CANCELLED")
    venue.do("clear_faults")
    assert venue.state()["messages_placed"] == placed + 2


def test_parts_are_told_one_by_one(stage: VenueStage, venue: Venue, listener: Listener) -> None:
    venue.fault("place", "hold")
    body = stage.body(venue)
    stage.publish(body)
    record = stage.wait(body, "SUBMITTED")
    venue.do("fill", order=record["client_order_id"], quantity=4, price="100.10")
    stage.wait(body, "PARTIALLY_FILLED")
    venue.do("fill", order=record["client_order_id"], price="100.20")
    stage.wait(body, "FILLED")
    confirmations = told(listener, body["signal_id"], 2)
    assert [(c["status"], c["filled_quantity"], c["avg_fill_price"]) for c in confirmations] == [
        ("PARTIALLY_FILLED", 4, 100.1),
        ("FILLED", 10, 100.16),
    ]


def test_a_part_is_shown_where_the_broker_does_that_and_else_nothing_is_sent(stage: VenueStage, venue: Venue) -> None:
    body = stage.body(venue, display_quantity=4, strategy_name="Iceberg")
    stage.publish(body)
    record = stage.wait(body)
    if venue.broker in ("alpaca", "binance", "simulated"):
        assert record["status"] == "REJECTED"
        assert stage.confirmation(body["signal_id"])["reason"]["code"] == "UNSUPPORTED_ORDER"
        assert venue.of(record["client_order_id"]) == []
        return
    order = truth(venue, record)
    assert (record["status"], order["status"], order["filled_quantity"]) == ("FILLED", "FILLED", "10")
    assert [fill["quantity"] for fill in order["fills"]] == ["4", "4", "2"]
    assert stage.confirmation(body["signal_id"])["filled_quantity"] == 10
    with stage.service.database() as db:
        held = {"strategy_name": "Iceberg", "account_id": venue.account_id, "quantity": 10}
        wait_until(lambda: db["positions"].find_one(held), "the position is told")


@pytest.mark.parametrize("action", ["reject", "refuse"])
def test_a_no_of_the_broker_is_final_and_has_its_words(stage: VenueStage, venue: Venue, action: str) -> None:
    venue.fault("place", action, reason="Insufficient margin")
    body = stage.body(venue)
    stage.publish(body)
    record = stage.wait(body)
    assert record["status"] == "REJECTED"
    assert len(venue.of(record["client_order_id"])) == (1 if action == "reject" else 0)
    reason = stage.confirmation(body["signal_id"])["reason"]
    assert reason["code"] == "BROKER_REJECTED"
    if action == "refuse" or Fact.SILENT_ENDINGS not in manifests()[venue.broker.partition(" ")[0]].facts:
        assert "Insufficient margin" in reason["message"]
    stage.publish(body)  # the same again is no second order
    again = stage.body(venue)
    stage.publish(again)
    stage.wait(again, "FILLED")
    assert len(venue.of(record["client_order_id"])) == (1 if action == "reject" else 0)


def test_an_order_that_is_not_filled_in_time_is_cancelled_and_keeps_its_part(stage: VenueStage, venue: Venue) -> None:
    venue.fault("place", "hold")
    body = stage.body(venue, tif=None, timeout_seconds=4)
    stage.publish(body)
    record = stage.wait(body, "SUBMITTED")
    venue.do("fill", order=record["client_order_id"], quantity=3)
    record = stage.wait(body)
    order = truth(venue, record)
    assert (record["status"], order["status"], order["filled_quantity"]) == ("CANCELLED", "CANCELLED", "3")
    confirmation = stage.confirmation(body["signal_id"])
    assert (confirmation["reason"]["code"], confirmation["filled_quantity"]) == ("TIMEOUT", 3)


def test_exits_never_take_more_than_their_entry_filled(stage: VenueStage, venue: Venue) -> None:
    entry = stage.body(venue, strategy_name="Exits")
    exits = [
        stage.body(
            venue, "SELL", quantity, strategy_name="Exits", signal_type="EXIT", entry_signal_id=entry["signal_id"]
        )
        for quantity in (6, 10, 1)
    ]
    stage.publish(entry)
    stage.wait(entry, "FILLED")
    for each in exits:
        stage.publish(each)
        stage.wait(each)
    records = [stage.record(each["signal_id"]) for each in exits]
    assert [record and record["status"] for record in records] == ["FILLED", "FILLED", "REJECTED"]
    assert [truth(venue, record)["quantity"] for record in records[:2]] == ["6", "4"]
    assert stage.confirmation(exits[2]["signal_id"])["reason"]["code"] == "NOTHING_TO_EXIT"
    with stage.service.database() as db:
        assert db["positions"].count_documents(
            {"strategy_name": "Exits", "account_id": venue.account_id, "status": "OPEN"}
        ) == 0  # fmt: skip


def test_an_order_whose_answer_is_lost_is_found_and_not_sent_again(stage: VenueStage, venue: Venue) -> None:
    venue.fault("place", "accept_then_drop")
    body = stage.body(venue)
    stage.publish(body)
    record = stage.wait(body, "FILLED")
    assert truth(venue, record)["filled_quantity"] == "10"
    assert "Noted" in events(record), "the answer was lost"


def test_a_gateway_that_restarts_loses_nothing_and_doubles_nothing(stage: VenueStage, gateway: GatewayVenue) -> None:
    gateway.fault("place", "hold")
    resting = stage.body(gateway)
    stage.publish(resting)
    stage.wait(resting, "SUBMITTED")
    gateway.server.kill()
    meanwhile = [stage.body(gateway, side) for side in ("BUY", "SELL", "BUY")]
    stage.publish(*meanwhile)
    for body in meanwhile:
        wait_until(lambda body=body: stage.record(body["signal_id"]), "it is stored")
    gateway.server.start()
    record = stage.record(resting["signal_id"])
    assert record is not None
    gateway.do("fill", order=record["client_order_id"])
    for body in (resting, *meanwhile):
        record = stage.wait(body, "FILLED", within=60.0)
        assert truth(gateway, record)["filled_quantity"] == "10"


def test_a_dead_token_holds_orders_until_there_is_a_new_one(stage: VenueStage) -> None:
    kite = stage.venues["zerodha"]
    kite.do("kill_token")
    body = stage.body(kite)
    stage.publish(body)
    wait_until(lambda: "AUTH_REQUIRED" in stage.service.console(), "the log says what is missing")
    record = stage.record(body["signal_id"])
    assert record is not None
    assert record["status"] in ("PENDING", "SUBMITTING")
    assert kite.of(record["client_order_id"]) == []
    others = [stage.body(stage.venues[name]) for name in ("mock", "ibkr")]
    stage.publish(*others)
    for other in others:
        stage.wait(other, "FILLED")
    with stage.service.database() as db:
        wait_until(lambda: any("Login Required" in str(a) for a in db["execution_alerts"].find()), "people are told")
    wait_until(lambda: state_of(stage, kite)["state"] == "AUTH_REQUIRED", "the notice says so")
    assert str(stage.token_file) in state_of(stage, kite)["trouble"]
    stage.token_file.write_text(str(kite.do("new_token")["access_token"]))
    record = stage.wait(body, "FILLED", within=20.0)
    assert truth(kite, record)["filled_quantity"] == "10"
    wait_until(lambda: state_of(stage, kite)["state"] == "CONNECTED", "the notice says so")


def test_a_burst_beyond_zerodhas_limits_is_placed_once_each_and_in_its_sequence(stage: VenueStage) -> None:
    kite = stage.venues[LIMITED]
    bodies = [stage.body(kite, symbol=symbol, limit_price="100") for _ in range(25) for symbol in ("INFY", "RELIANCE")]
    stage.publish(*bodies)
    records = [stage.wait(body, within=60.0) for body in bodies]
    assert {record["status"] for record in records} == {"FILLED"}
    orders = kite.orders()
    came = {record["client_order_id"]: record["received_at"] for record in records}
    placed = [order["client_order_id"] for order in orders]
    assert sorted(placed) == sorted(came), "each is placed once"
    for symbol in ("INFY", "RELIANCE"):
        moments = [came[order["client_order_id"]] for order in orders if order["symbol"] == symbol]
        assert moments == sorted(moments), "what came first was placed first"


def state_of(stage: VenueStage, venue: Venue) -> Mapping[str, str]:
    """How the account stands, as the service's notice tells it."""
    found: Mapping[str, str] = stage.service.endpoints()["accounts"][venue.account_id]
    return found


def judged(stage: VenueStage, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record, when it has ended or is in doubt."""
    return stage.wait(body, *FINAL, "IN_DOUBT", within=120.0, and_told=False)


@pytest.mark.timeout(400)
def test_a_kill_in_the_middle_of_a_burst_leaves_one_order_a_signal_at_every_broker(stage: VenueStage) -> None:
    """The last test: it ends the service's life."""
    venues = {name: stage.venues[name] for name in BROKERS}
    before = {name: len(venue.orders()) for name, venue in venues.items()}
    asked = {
        name: [stage.body(venue, side) for _ in range(BURST // 2) for side in ("BUY", "SELL")]
        for name, venue in venues.items()
    }
    stage.publish(*(body for bodies in zip(*asked.values(), strict=True) for body in bodies))
    wait_until(
        lambda: all(len(venue.orders()) >= before[name] + 3 for name, venue in venues.items()),
        "each broker has some of the burst",
        pause=0.0,
        more=stage.service.console,
    )
    stage.service.kill()
    at_the_kill = {name: len(venue.orders()) - before[name] for name, venue in venues.items()}
    assert min(at_the_kill.values()) < BURST, f"the kill was in the middle of something: {at_the_kill}"
    stage.service.start()
    for name, bodies in asked.items():
        venue = venues[name]
        unclear = 0
        for body in bodies:
            record = judged(stage, body)
            orders = venue.of(record["client_order_id"])
            if record["status"] == "FILLED":
                assert len(orders) == 1
            else:
                # Perhaps sent, and at a broker that would take it twice: never sent again by itself.
                assert (name, record["status"]) == ("zerodha", "IN_DOUBT"), record
                unclear += 1
                assert orders == []
        assert unclear <= PERHAPS_SENT_AT_ONCE
        # Options that are legs of one order have its tag, each with its own contract.
        counts = Counter((order["client_order_id"], order["instrument"]) for order in venue.orders())
        assert set(counts.values()) == {1}, f"{name} has an order twice"
        assert len(counts) == before[name] + BURST - unclear
