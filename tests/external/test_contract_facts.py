"""The real service with the real IBKR adapter: the contract that was named is traded, and money is counted as that contract counts it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from simulators.zerodha import DEFAULT_ACCESS_TOKEN, DEFAULT_API_KEY
from tests.external.scripts_run import execctl
from tests.external.service_process import Service, free_port
from tests.external.venues import GatewayVenue, kite_server, tws_server
from tests.waits import wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.timeout(300),
]

ACCOUNTS = """
[accounts.desk]
broker = "ibkr"
live = false
ibkr_account = "DU000001"
host = "127.0.0.1"
port = {port}

[accounts.kite]
broker = "zerodha"
live = false
api_key = {{ env = "TEST_KITE_API_KEY" }}
access_token_file = "{token_file}"
root_url = "http://127.0.0.1:{kite_port}"
find_window_seconds = 5
"""
PATIENCE = 90.0


class VenueStage:
    def __init__(self, service: Service, venue: GatewayVenue) -> None:
        self.service = service
        self.venue = venue

    def send(self, symbol: str, price: str, side: str = "BUY", quantity: int = 1, **more: Any) -> str:
        """A LIMIT order, which fills at its price."""
        body = {
            "signal_id": f"{symbol}-{uuid.uuid4().hex[:10]}",
            "symbol": symbol,
            "instrument_type": "FUTURE",
            "expiry": "202706",
            "side": side,
            "order_type": "LIMIT",
            "limit_price": price,
            "quantity": quantity,
            "account_id": "desk",
            "strategy_name": "Facts",
        } | more
        with self.service.pubsub() as pubsub:
            pubsub.publish([body])
        return str(body["signal_id"])

    def record(self, signal_id: str) -> dict[str, Any] | None:
        with self.service.database() as db:
            found: dict[str, Any] | None = db["execution_orders"].find_one({"signal_id": signal_id})
        return found

    def filled(self, signal_id: str) -> dict[str, Any]:
        """The order's confirmation document, once all was told."""
        self._wait(signal_id, "FILLED")
        with self.service.database() as db:
            shown: dict[str, Any] | None = db["execution_confirmations"].find_one({"signal_id": signal_id})
        assert shown is not None
        return shown

    def refusal(self, signal_id: str) -> str:
        record = self._wait(signal_id, "REJECTED")
        return str(record["events"][-1]["reason"]["message"])

    def _wait(self, signal_id: str, status: str) -> dict[str, Any]:
        def is_there() -> dict[str, Any] | None:
            record = self.record(signal_id)
            told = record is not None and record["status"] == status and "unsettled" not in record["lookup"]
            return record if told else None

        return wait_until(
            is_there,
            f"{signal_id} is {status}",
            within=PATIENCE,
            pause=0.05,
            more=lambda: f"{self.record(signal_id)}\n{self.service.console()[-3000:]}",
        )

    def traded(self, signal_id: str) -> str:
        """Which contract the gateway has the order for."""
        record = self.record(signal_id)
        assert record is not None
        (order,) = self.venue.of(record["client_order_id"])
        return str(order["instrument"])

    def positions(self, symbol: str, **more: Any) -> list[dict[str, Any]]:
        with self.service.database() as db:
            return list(db["positions"].find({"symbol": symbol, **more}).sort("opened_at"))

    def signal(self, signal_id: str) -> Mapping[str, Any]:
        with self.service.database() as db:
            found: dict[str, Any] | None = db["signal_store"].find_one({"signal_id": signal_id})
        return found or {}

    def clear_about(self, signal_id: str) -> dict[str, Any]:
        """The contract as the record has it."""
        record = self.record(signal_id)
        assert record is not None
        return next(dict(event["terms"]) for event in record["events"] if event["type"] == "ContractTold")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VenueStage]:
    folder = tmp_path_factory.mktemp("facts")
    port, control_port, kite_port = free_port(), free_port(), free_port()
    accounts, token_file = folder / "accounts.toml", folder / "access_token"
    token_file.write_text(DEFAULT_ACCESS_TOKEN)
    accounts.write_text(ACCOUNTS.format(port=port, kite_port=kite_port, token_file=token_file), encoding="utf-8")
    settings = {"USE_MOCK_BROKER": "false", "ACCOUNTS_FILE": str(accounts), "TEST_KITE_API_KEY": DEFAULT_API_KEY}
    with (
        tws_server(folder, port, control_port) as gateway,
        kite_server(folder, kite_port),
        Service(folder / "service", **settings) as service,
    ):
        service.start()
        yield VenueStage(service, GatewayVenue("ibkr", gateway, control_port))


def test_the_contracts_own_multiplier_counts_the_money(stage: VenueStage) -> None:
    entry = stage.send("ES", "5000", quantity=2)
    bought = stage.filled(entry)
    assert (bought["total_value"], bought["multiplier"], bought["currency"]) == (500_000.0, 50.0, "USD")
    out = stage.send("ES", "5010", "SELL", quantity=2, signal_type="EXIT", entry_signal_id=entry, multiplier=50)
    sold = stage.filled(out)
    assert (sold["total_value"], sold["realized_pnl"]) == (501_000.0, 1_000.0)
    (position,) = stage.positions("ES")
    assert (position["status"], position["realized_pnl"], position["multiplier"]) == ("CLOSED", 1_000.0, 50.0)
    closed = stage.signal(out)["pnl"]
    assert (closed["gross_pnl"], closed["pnl_percent"]) == (
        1_000.0,
        pytest.approx((1_000 - closed["commission"]) / 5_000),
    )
    assert stage.clear_about(entry)["multiplier"] == "50"
    record = stage.record(entry)
    assert record is not None
    told, started = record["events"][:2]
    assert (told["type"], started["type"], told["at"]) == ("ContractTold", "SubmitStarted", started["at"])


def test_an_exit_that_names_no_entry_closes_the_same_holding_with_the_multiplier_or_without(stage: VenueStage) -> None:
    stage.filled(stage.send("NQ", "20000", multiplier=20))
    sold = stage.filled(stage.send("NQ", "20001", "SELL", signal_type="EXIT"))
    assert sold["realized_pnl"] == 20.0
    assert [each["status"] for each in stage.positions("NQ")] == ["CLOSED"]


def test_an_option_is_a_hundred_of_what_it_is_on(stage: VenueStage) -> None:
    option = {"instrument_type": "OPTION", "expiry": "20270620", "strike": 500, "right": "C"}
    shown = stage.filled(stage.send("QQQ", "3.20", **option))
    assert shown["total_value"] == 320.0


def test_what_was_remembered_of_one_contract_is_not_taken_for_another(stage: VenueStage) -> None:
    def refused_with_both_named() -> None:
        words = stage.refusal(stage.send("SI", "30"))
        assert "multiplier 5000" in words
        assert "multiplier 1000" in words

    refused_with_both_named()
    small = stage.send("SI", "30", multiplier=1000)
    assert stage.filled(small)["total_value"] == 30_000.0
    large = stage.send("SI", "31", multiplier=5000)
    assert stage.filled(large)["total_value"] == 155_000.0
    assert ("multiplier=1000" in stage.traded(small), "multiplier=5000" in stage.traded(large)) == (True, True)
    refused_with_both_named()
    assert "not the multiplier 2500" in stage.refusal(stage.send("SI", "30", multiplier=2500))
    assert [each["multiplier"] for each in stage.positions("SI", status="OPEN")] == [1000.0, 5000.0]
    # By its class the contract is told as well, and its holding is the same.
    out = stage.filled(stage.send("SI", "33", "SELL", trading_class="SI", signal_type="EXIT"))
    assert out["realized_pnl"] == 10_000.0
    assert [each["multiplier"] for each in stage.positions("SI", status="OPEN")] == [1000.0]


def test_prices_in_cents_are_sent_as_quoted_and_counted_in_dollars(stage: VenueStage) -> None:
    entry = stage.send("ZC", "450.25", multiplier=5000)
    bought = stage.filled(entry)
    assert (bought["total_value"], bought["limit_price"], bought["price_magnifier"]) == (22_512.5, 450.25, 100.0)
    out = stage.send("ZC", "452.25", "SELL", multiplier=50, signal_type="EXIT", entry_signal_id=entry)
    assert stage.filled(out)["realized_pnl"] == 100.0
    assert "in 1/100 USD" in stage.service.console()
    words = stage.refusal(stage.send("ZC", "450.25", multiplier=500))
    assert "not the multiplier 500" in words
    assert "multiplier 5000" in words


def test_amounts_are_in_the_contracts_currency(stage: VenueStage) -> None:
    shown = stage.filled(stage.send("BUND", "130.25"))
    assert (shown["currency"], shown["total_value"]) == ("EUR", 130_250.0)
    assert "€130.25" in stage.service.console()


def test_two_series_of_options_are_told_apart_by_their_class(stage: VenueStage) -> None:
    option = {"instrument_type": "OPTION", "expiry": "20270620", "strike": 6000, "right": "P"}
    assert "class SPXW" in stage.refusal(stage.send("SPX", "12.50", **option))
    weekly = stage.filled(stage.send("SPX", "12.50", tradingClass="SPXW", **option))
    monthly = stage.filled(stage.send("SPX", "12.50", trading_class="SPX", **option))
    assert (weekly["trading_class"], monthly["trading_class"]) == ("SPXW", "SPX")
    assert len(stage.positions("SPX", status="OPEN")) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"multiplier": "None"}, "multiplier 'None'"),
        ({"multiplier": "0"}, "multiplier '0'"),
        ({"multiplier": ""}, "multiplier ''"),
        ({"magnifier": "0"}, "price magnifier 0"),
        ({"magnifier": ""}, "price magnifier 0"),
        ({"min_tick": "0"}, "no tick"),
    ],
)
def test_one_odd_figure_of_a_contract_refuses_its_order_in_words_and_no_other(
    stage: VenueStage, changes: Mapping[str, str], words: str
) -> None:
    symbol = "CL"
    stage.venue.do("contract", symbol=symbol, **changes)
    odd, good = stage.send(symbol, "70", currency="USD"), stage.send("ES", "5000")
    assert words in stage.refusal(odd)
    stage.filled(good)
    stage.venue.do("contract", symbol=symbol)


def test_a_fact_that_nobody_reads_is_named_in_record_and_log(stage: VenueStage) -> None:
    signal_id = stage.send("GC", "2000", local_symbol="GCM7", primaryExchange="COMEX")
    stage.filled(signal_id)
    record = stage.record(signal_id)
    assert record is not None
    (note,) = [event["message"] for event in record["events"] if event["type"] == "Noted"]
    assert "'local_symbol' ('GCM7'), 'primaryExchange' ('COMEX')" in note
    assert note in stage.service.console()


def test_at_zerodha_units_count_as_units_and_what_contradicts_the_list_is_refused(stage: VenueStage) -> None:
    nifty: dict[str, Any] = {"account_id": "kite", "expiry": None, "quantity": 75}
    shown = stage.filled(stage.send("NIFTY26DECFUT", "100", multiplier=75, **nifty))
    assert (shown["total_value"], shown["multiplier"], shown["currency"]) == (7_500.0, 1.0, "INR")
    assert "₹100.00" in stage.service.console()
    assert "multiplier 50, where it is 1" in stage.refusal(stage.send("NIFTY26DECFUT", "100", multiplier=50, **nifty))


def test_what_a_lot_of_a_commodity_is_worth_is_told_once_kite_has_and_mended_before(stage: VenueStage) -> None:
    gold: dict[str, Any] = {"account_id": "kite", "expiry": None, "exchange": "MCX"}
    first = stage.send("GOLDM26DECFUT", "121500", **gold)
    shown = stage.filled(first)
    assert (shown["total_value"], shown["realized_pnl"]) == (None, None)
    out = stage.filled(stage.send("GOLDM26DECFUT", "121600", "SELL", multiplier=10, signal_type="EXIT", **gold))
    assert (out["total_value"], out["realized_pnl"]) == (1_216_000.0, 1_000.0)
    assert [each["status"] for each in stage.positions("GOLDM26DECFUT")] == ["CLOSED"]
    code, said = said_by_execctl(stage.service, "rebuild-views")
    assert (code, "known now of 1 order" in said) == (0, True), said
    assert stage.filled(first)["total_value"] == 1_215_000.0


def test_after_a_restart_the_holdings_are_the_same_and_the_books_agree(stage: VenueStage) -> None:
    stage.filled(stage.send("SI", "30", multiplier=1000, expiry="202709"))
    assert stage.service.stop()[0] == 0
    stage.service.start()
    assert "multiplier 1000" in stage.refusal(stage.send("SI", "30"))
    out = stage.filled(stage.send("SI", "30.5", "SELL", multiplier=1000, signal_type="EXIT", expiry="202709"))
    assert out["realized_pnl"] == 500.0
    assert [each["status"] for each in stage.positions("SI", expiry="202709")] == ["CLOSED"]
    code, said = said_by_execctl(stage.service, "reconcile", "desk")
    assert (code, "Reconciled" in said) == (0, True), said


def said_by_execctl(service: Service, *arguments: str) -> tuple[int, str]:
    said = execctl(service, *arguments, within=PATIENCE + 30)
    return said.status, " ".join((said.out + said.err).split())
