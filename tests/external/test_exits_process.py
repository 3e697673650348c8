"""Exits at the real brokers' gateways after the position has changed without an order of ours: squared off, sold by hand, assigned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from simulators.telegram import DEFAULT_TOKEN, SimulatedTelegram
from tests.external.venues import BROKERS, Venue, VenueStage, stage_with_all_brokers
from tests.waits import wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.timeout(400),
]
PATIENCE = 90.0


@pytest.fixture(scope="module")
def people() -> Iterator[SimulatedTelegram]:
    with SimulatedTelegram() as server:
        yield server


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, people: SimulatedTelegram) -> Iterator[VenueStage]:
    settings = {
        "RECONCILE_INTERVAL_SECONDS": "0.5",
        "TELEGRAM_ENABLED": "true",
        "TELEGRAM_BOT_TOKEN": DEFAULT_TOKEN,
        "TELEGRAM_CHAT_ID": "42",
        "TELEGRAM_API_BASE_URL": people.base_url,
    }
    with stage_with_all_brokers(tmp_path_factory.mktemp("exits"), **settings) as found:
        yield found


def intraday(venue: Venue, signal_id: str, side: str, **more: Any) -> dict[str, Any]:
    """As its author sends it."""
    return {
        "signal_id": signal_id,
        "account_id": venue.account_id,
        "strategy_name": "Intra",
        "symbol": "INFY",
        "instrument_type": "STOCK",
        "side": side,
        "quantity": 10,
        "order_type": "MARKET",
        "product": "MIS",
    } | more


def open_rows(stage: VenueStage, venue: Venue, symbol: str) -> list[Mapping[str, Any]]:
    with stage.service.database() as db:
        found = list(db["execution_discrepancies"].find({"account_id": venue.account_id, "state": "OPEN"}))
    return [row for row in found if str(row["finding"]["subject"]).startswith(symbol)]


def differing(stage: VenueStage, venue: Venue, symbol: str) -> Mapping[str, Any]:
    wait_until(
        lambda: open_rows(stage, venue, symbol),
        f"the position in {symbol} differs",
        within=PATIENCE,
        pause=0.1,
        more=lambda: stage.service.console()[-4000:],
    )
    return open_rows(stage, venue, symbol)[0]


def sold(venue: Venue, symbol: str) -> Decimal:
    """What the account has by the broker's own book; below 0: short."""
    signed = [
        Decimal(order["filled_quantity"]) * (1 if order["side"] == "BUY" else -1)
        for order in venue.orders()
        if order["symbol"] == symbol
    ]
    return sum(signed, Decimal(0))


def texts_of(people: SimulatedTelegram) -> list[str]:
    return [message.text for message in people.messages]


def alerted(stage: VenueStage, *parts: str) -> bool:
    """Whether one alert about a difference says all of it, whenever Telegram lets it pass."""
    with stage.service.database() as db:
        texts = [str(alert) for alert in db["execution_alerts"].find({"kind": {"$regex": "^discrepancy:"}})]
    return any(all(part in text for part in parts) for text in texts)


def told(people: SimulatedTelegram, *parts: str) -> bool:
    return any(all(part in text for part in parts) for text in texts_of(people))


@pytest.mark.parametrize(("by_hand", "left"), [(10, 0), (4, 6)])
def test_exit_after_a_square_off_at_zerodha_opens_no_short(
    stage: VenueStage, people: SimulatedTelegram, by_hand: int, left: int
) -> None:
    kite = stage.venues["zerodha"]
    before = sold(kite, "INFY")
    entry = intraday(kite, f"ms-{left}", "BUY")
    leaves = intraday(kite, f"mx-{left}", "SELL", entry_signal_id=entry["signal_id"], signal_type="EXIT")
    stage.publish(entry)
    stage.wait(entry, "FILLED", within=PATIENCE)
    kite.do("trade_by_hand", instrument="INFY", quantity=-by_hand, product="MIS")
    differing(stage, kite, "INFY")
    stage.publish(leaves)
    record = stage.wait(leaves, within=PATIENCE)
    assert sold(kite, "INFY") - before == 0
    assert record["status"] == ("FILLED" if left else "REJECTED")
    assert Decimal(record["filled_quantity"]) == left
    words = f"the broker holds {left} of INFY|STOCK in MIS, our books 10"
    if left:
        wait_until(lambda: told(people, "Exit Capped", f"{left} of 10", words), "people read of it", within=PATIENCE)
    else:
        reason = stage.confirmation(leaves["signal_id"])["reason"]
        assert reason["code"] == "NOTHING_TO_EXIT"
        assert words in reason["message"]
        wait_until(lambda: told(people, "Order Rejected", words), "people read of it", within=PATIENCE)
    # The books are even again, as a person would make them.
    kite.do("trade_by_hand", instrument="INFY", quantity=by_hand, product="MIS")
    leftover = intraday(kite, f"my-{left}", "SELL", entry_signal_id=entry["signal_id"], signal_type="EXIT")
    wait_until(lambda: not open_rows(stage, kite, "INFY"), "the difference is closed", within=PATIENCE, pause=0.1)
    stage.publish(leftover)
    assert Decimal(stage.wait(leftover, "FILLED", within=PATIENCE)["filled_quantity"]) == by_hand


@pytest.mark.parametrize("broker", BROKERS)
def test_exit_after_too_much_was_sold_by_hand_goes_no_further(stage: VenueStage, broker: str) -> None:
    venue = stage.venues[broker]
    symbol = {"zerodha": "RELIANCE", "binance": "BTCUSDT", "simulated": "APART"}.get(broker, "QQQ")
    entry = stage.body(venue, symbol=symbol, strategy_name="Much", order_type="MARKET", limit_price=None, tif=None)
    stage.publish(entry)
    stage.wait(entry, "FILLED", within=PATIENCE)
    venue.do("trade_by_hand", instrument=symbol, quantity=-13)
    assert differing(stage, venue, symbol)["finding"]["theirs"] == "-3"
    leaves = stage.body(
        venue,
        "SELL",
        symbol=symbol,
        strategy_name="Much",
        order_type="MARKET",
        limit_price=None,
        tif=None,
        signal_type="EXIT",
        entry_signal_id=entry["signal_id"],
    )
    stage.publish(leaves)
    assert stage.wait(leaves, within=PATIENCE)["status"] == "REJECTED"
    assert sold(venue, symbol) == -3


def test_assignment_at_night_is_one_message_and_the_exit_of_the_option_is_refused_with_it(stage: VenueStage) -> None:
    ibkr = stage.venues["ibkr"]
    expiry = datetime.now(UTC).strftime("%Y%m%d")
    option = {
        "symbol": "XYZ",
        "instrument_type": "OPTION",
        "expiry": expiry,
        "strike": "50",
        "right": "P",
        "multiplier": 100,
        "quantity": 1,
        "strategy_name": "Puts",
        "order_type": "LIMIT",
        "limit_price": "3.20",
    }
    entry = stage.body(ibkr, "SELL", **option)
    stage.publish(entry)
    stage.wait(entry, "FILLED", within=PATIENCE)
    ibkr.do("move", instrument="XYZ", quantity=1)
    ibkr.do("move", instrument={"symbol": "XYZ", "currency": "USD", "exchange": "NASDAQ"}, quantity=100, price=50)
    finding = differing(stage, ibkr, "XYZ")["finding"]
    assert (finding["ours"], finding["theirs"]) == ("-1", "0")
    facts = (f"its expiry is now ({expiry})", "+100 XYZ|STOCK", "assignment of 1 short put of 100", "execctl adopt")
    wait_until(lambda: alerted(stage, *facts), "people read both facts in one message", within=PATIENCE)
    leaves = stage.body(ibkr, "BUY", **option, signal_type="EXIT", entry_signal_id=entry["signal_id"])
    before = len(ibkr.orders())
    stage.publish(leaves)
    assert stage.wait(leaves, within=PATIENCE)["status"] == "REJECTED"
    assert len(ibkr.orders()) == before
    reason = stage.confirmation(leaves["signal_id"])["reason"]
    assert reason["code"] == "NOTHING_TO_EXIT"
    assert facts[0] in reason["message"]
    assert facts[1] in reason["message"]


def test_exit_that_its_time_limit_ends_is_told_alone(stage: VenueStage, people: SimulatedTelegram) -> None:
    kite = stage.venues["zerodha"]
    entry = stage.body(kite, symbol="NIFTYBEES", strategy_name="Fails", quantity=50)
    stage.publish(entry)
    stage.wait(entry, "FILLED", within=PATIENCE)
    kite.fault("place", "hold", symbol="NIFTYBEES")
    leaves = stage.body(
        kite,
        "SELL",
        symbol="NIFTYBEES",
        strategy_name="Fails",
        quantity=50,
        tif=None,
        timeout_seconds=5,
        signal_type="EXIT",
        entry_signal_id=entry["signal_id"],
    )
    stage.publish(leaves)
    record = stage.wait(leaves, "SUBMITTED", "CANCELLED", within=PATIENCE)
    kite.do("fill", order=record["client_order_id"], quantity=20)
    assert stage.wait(leaves, "CANCELLED", within=PATIENCE)["filled_quantity"] == "20"
    wait_until(lambda: told(people, "Exit Failed", "Remaining: 30"), "it is an alert of its own", within=PATIENCE)


def test_delivered_shares_hide_no_square_off_of_an_intraday_position(stage: VenueStage) -> None:
    kite = stage.venues["zerodha"]
    symbol = "NIFTYBEES"
    entry = intraday(kite, "ms-apart", "BUY", symbol=symbol)
    exits = {"symbol": symbol, "entry_signal_id": entry["signal_id"], "signal_type": "EXIT", "product": None}
    part = intraday(kite, "mp-apart", "SELL", **exits, quantity=4)
    rest = intraday(kite, "mx-apart", "SELL", **exits, quantity=6)
    stage.publish(entry)
    stage.wait(entry, "FILLED", within=PATIENCE)
    stage.publish({name: value for name, value in part.items() if value is not None})
    record = stage.wait(part, "FILLED", within=PATIENCE)
    matched = next(event for event in record["events"] if event["type"] == "InstrumentMatched")
    assert matched["product"] == "MIS", "an exit that names no product closes its entry's"
    kite.do("trade_by_hand", instrument=symbol, quantity=-6, product="MIS")
    kite.do("move", instrument=symbol, quantity=6, product="CNC")
    finding = differing(stage, kite, f"{symbol}|STOCK|product=MIS")["finding"]
    assert (finding["ours"], finding["theirs"]) == ("6", "0")
    before = len(kite.orders())
    stage.publish({name: value for name, value in rest.items() if value is not None})
    assert stage.wait(rest, within=PATIENCE)["status"] == "REJECTED"
    assert (
        "holds 0 of NIFTYBEES|STOCK in MIS, our books 6" in stage.confirmation(rest["signal_id"])["reason"]["message"]
    )
    assert len(kite.orders()) == before


def test_rows_of_before_bind_after_a_kill(stage: VenueStage) -> None:
    """The last test: it ends the service's life."""
    kite = stage.venues["zerodha"]
    before = sold(kite, "INFY")
    entry = intraday(kite, "ms-killed", "BUY")
    stage.publish(entry)
    stage.wait(entry, "FILLED", within=PATIENCE)
    kite.do("trade_by_hand", instrument="INFY", quantity=-10, product="MIS")
    differing(stage, kite, "INFY")
    leaves = intraday(kite, "mx-killed", "SELL", entry_signal_id=entry["signal_id"], signal_type="EXIT")
    stage.service.kill()
    stage.service.start()
    stage.publish(leaves)
    assert stage.wait(leaves, within=PATIENCE)["status"] == "REJECTED"
    assert sold(kite, "INFY") == before
