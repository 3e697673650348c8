"""The commands for people, as people call them: real scripts as processes of their own, beside a real service that they start and stop."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from bson import ObjectId

from scripts.send_test_signal import next_december
from simulators.telegram import SimulatedTelegram
from tests.external.forked import REPOSITORY
from tests.external.scripts_run import EXECCTL, SEND, STATUS, Said, run_script
from tests.external.service_process import Service, end
from tests.waits import wait_until

START = REPOSITORY / "scripts" / "mvp_demo_start.py"
SHOWN = ("execution_confirmations", "positions", "signal_store", "trading_orders", "trading_accounts")
WRITTEN_AT = ("updated_at", "sequence")
"""When, and after which line of the ledger, a document was last written: not the same after a rebuild."""


class People:
    """Somebody at a terminal, in a folder that has nothing to do with the repository."""

    def __init__(self, folder: Path) -> None:
        self.service = Service(folder)
        self.ever: list[psutil.Process] = []

    def call(self, script: Path, *arguments: str, python: str = sys.executable, **settings: str) -> Said:
        environment = self.service.environment() | settings
        is_own = python == sys.executable and "PYTHONPATH" not in self.service.settings
        if is_own and script != START:
            return run_script(script, *arguments, environment=environment, folder=self.service.folder)
        done = subprocess.run(
            [python, str(script), *arguments],
            env=environment,
            cwd=self.service.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=90,
            check=False,
        )
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, **settings: str) -> Said:
        said = self.call(START, **settings)
        if said.status == 0:
            process = psutil.Process(self.service.endpoints()["pid"])
            self.ever += [process, *process.children(recursive=True)]
        return said

    def trade(self, *orders: Mapping[str, Any]) -> None:
        """Publishes one order after the other, each once the one before has ended and was told."""
        with self.service.pubsub() as pubsub, self.service.database() as db:
            for order in orders:
                pubsub.publish([order])
                wait_until(lambda order=order: settled(db, order["signal_id"]), f"{order['signal_id']} has ended")


def settled(db: Any, signal_id: str) -> bool:
    found = list(db["execution_orders"].find({"signal_id": signal_id}))
    return bool(found) and not any("unsettled" in document["lookup"] for document in found)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """The demo started for all tests of this module; those below leave it running, as they found it."""
    found = People(tmp_path_factory.mktemp("people"))
    try:
        said = found.start()
        assert said.status == 0, said.err
        assert "send_test_signal.py" in said.out
        yield found
    finally:
        found.call(START, "--stop")
        end(found.ever)


def order(signal_id: str, side: str, quantity: float, price: float, **more: Any) -> dict[str, Any]:
    return {
        "signal_id": signal_id,
        "symbol": "SPY",
        "side": side,
        "order_type": "LIMIT",
        "limit_price": price,
        "quantity": quantity,
        "account_id": "Mock_Paper",
        "strategy_name": "Ledger",
    } | more


# --- start, status ----------------------------------------------------------------------------------------------------


def test_a_second_start_says_that_it_runs_already(people: People) -> None:
    said = people.call(START)
    assert said.status == 0
    assert f"Already running: process {people.service.endpoints()['pid']}" in said.out


def test_a_broker_that_this_version_has_not_is_refused(people: People) -> None:
    said = people.call(START, "--broker", "nobody")
    assert said.status == 2
    assert "this version has: mock, alpaca, binance, ibkr, zerodha" in said.err


def test_a_start_that_fails_shows_the_last_lines_of_the_log(people: People, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    lock = people.service.data_dir / "service.lock"
    elsewhere = tmp_path / "same"
    elsewhere.mkdir()
    (elsewhere / "service.lock").hardlink_to(lock)
    said = people.call(START, DATA_DIR=str(elsewhere), LOG_DIR=str(folder))
    assert said.status == 1
    assert "another execution service is running" in said.err
    assert str(folder) in said.err


def test_status_is_up_while_all_is_up(people: People) -> None:
    said = people.call(STATUS, "--json")
    assert said.status == 0, said.out
    names = {part["name"] for part in said.json["parts"]}
    assert {"service", "store", "orders in", "commands in", "confirmations out", "dead letters"} <= names
    assert all(part["is_up"] for part in said.json["parts"])


def test_status_is_down_where_nothing_runs(people: People, tmp_path: Path) -> None:
    said = people.call(STATUS, DATA_DIR=str(tmp_path), LOG_DIR=str(tmp_path))
    assert said.status == 1
    assert "DOWN" in said.out
    assert "mvp_demo_start.py" in said.out


def test_a_telegram_that_is_away_is_down_and_one_that_is_off_is_said_to_be(people: People) -> None:
    def telegram(**settings: str) -> tuple[int, Mapping[str, Any]]:
        said = people.call(STATUS, "--json", **settings)
        return said.status, next(part for part in said.json["parts"] if part["name"] == "Telegram")

    assert telegram()[1]["state"] == "off"
    with SimulatedTelegram() as server:
        wanted = {
            "TELEGRAM_ENABLED": "true",
            "TELEGRAM_BOT_TOKEN": server.token,
            "TELEGRAM_CHAT_ID": "42",
            "TELEGRAM_API_BASE_URL": server.base_url,
        }
        assert telegram(**wanted)[1]["state"] == "up"
        assert server.messages == ()
    status, away = telegram(**wanted)
    assert (status, away["state"]) == (1, "DOWN")
    assert server.token not in away["detail"]


# --- the test signal --------------------------------------------------------------------------------------------------


def test_a_signal_is_followed_to_its_confirmation(people: People, tmp_path: Path) -> None:
    """Started with a Python that has no libraries: the script finds the right one, if the repository has one."""
    if (REPOSITORY / ".venv" / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
        python = str(tmp_path / "bare" / "bin" / "python")
    else:
        python = sys.executable
    said = people.call(SEND, "--file", "equity_simple_signal_1.json", "--signal-id", "followed", python=python)
    assert said.status == 0, said.err
    stages = ["published to trading-orders", "recorded as", "Placing order", "Order filled", "confirmation FILLED"]
    places = [said.out.index(stage) for stage in stages]
    assert places == sorted(places)
    assert '"signal_id": "followed"' in said.out
    assert "position: SPY LONG 100" in said.out
    assert "execctl.py order followed" in said.out
    with people.service.pubsub() as pubsub:
        left = pubsub.subscriber.list_subscriptions(project="projects/mathematricks-trader")
        assert [s.name for s in left if "send-test-signal" in s.name] == []


def test_legs_are_followed_each_by_itself_and_changed_as_asked(people: People) -> None:
    arguments = ("--signal-id", "pair", "--quantity", "3", "--account-id", "Mock_Pair", "--json")
    said = people.call(SEND, "--file", "pairs_aapl_nvda_1", *arguments)
    assert said.status == 0, said.err
    orders = said.json["orders"]
    assert [(o["leg_index"], o["status"], o["position"]["side"]) for o in orders] == [
        (0, "FILLED", "LONG"),
        (1, "FILLED", "SHORT"),
    ]
    assert {(o["confirmation"]["account_id"], o["confirmation"]["quantity"]) for o in orders} == {("Mock_Pair", 3)}


def test_many_signals_are_counted(people: People) -> None:
    said = people.call(SEND, "--file", "forex_audcad_1.json", "--count", "30")
    assert said.status == 0, said.err
    assert "of 30 orders: 30 FILLED" in said.out


def test_a_rejection_has_an_exit_status_of_its_own(people: People) -> None:
    said = people.call(SEND, "--file", "refused_contradiction_1.json")
    assert said.status == 3
    assert "INVALID_ORDER" in said.out


def test_an_exit_wants_its_entry_named_and_then_closes_it(people: People) -> None:
    said = people.call(SEND, "--file", "cerebro_equity_exit_1.json")
    assert said.status == 2
    assert "--entry" in said.err
    opened = people.call(SEND, "--file", "cerebro_equity_entry_1.json", "--signal-id", "to-close", "--account-id", "E")
    assert opened.status == 0, opened.err
    arguments = ("--entry", "to-close", "--account-id", "E", "--json")
    closed = people.call(SEND, "--file", "cerebro_equity_exit_1.json", *arguments)
    assert closed.status == 0, closed.err
    assert closed.json["orders"][0]["position"]["side"] == "FLAT"
    assert closed.json["orders"][0]["position"]["realized_pnl"] == "20"


def test_a_sample_that_is_not_there_is_answered_with_those_that_are(people: People) -> None:
    said = people.call(SEND, "--file", "nothing.json")
    assert said.status == 2
    assert "equity_simple_signal_1.json" in said.err


def test_its_help_tells_every_exit_status(people: People) -> None:
    said = people.call(SEND, "--help")
    assert "3 rejected or a dead letter" in " ".join(said.out.split())


def test_without_a_service_the_signal_is_not_sent(people: People, tmp_path: Path) -> None:
    said = people.call(SEND, "--file", "equity_simple_signal_1.json", DATA_DIR=str(tmp_path))
    assert said.status == 1
    assert "mvp_demo_start.py" in said.err


# --- execctl ----------------------------------------------------------------------------------------------------------


def test_orders_and_positions_are_shown_exactly(people: People) -> None:
    entry = order("exact", "BUY", 7, 10.10, account_id="Exact", mathematricks_signal_id="a" * 24)
    people.trade(entry, order("exact-more", "BUY", 3, 10.25, account_id="Exact"))
    said = people.call(EXECCTL, "orders", "--account", "Exact", "--status", "filled", "--limit", "1", "--json")
    assert [(o["signal_id"], o["quantity"], o["average_price"]) for o in said.json] == [("exact-more", "3", "10.25")]
    (position,) = [p for p in people.call(EXECCTL, "positions", "--json").json if p["account_id"] == "Exact"]
    assert (position["side"], position["quantity"], position["average_price"]) == ("LONG", "10", "10.145")


def test_an_order_tells_its_whole_story_under_any_of_its_names(people: People) -> None:
    people.trade(
        order("story", "BUY", 5, 20, account_id="Story", order_id="story_ORD"),
        order("story-exit", "SELL", 2, 21.5, account_id="Story", signal_type="EXIT", entry_signal_id="story"),
    )
    (story,) = people.call(EXECCTL, "order", "story", "--json").json
    assert [event["type"] for event in story["events"]] == ["SubmitStarted", "Accepted", "Filled"]
    assert story["events"][-1]["is_delivered"]
    assert [(e["signal_id"], e["status"]) for e in story["exits"]] == [("story-exit", "FILLED")]
    assert story["confirmation_shown"] == "FILLED"
    for name in ("story_ORD", story["client_order_ids"][0]):
        said = people.call(EXECCTL, "order", name)
        assert "Order filled: 5 @ $20.00" in said.out, name
    exit_story = people.call(EXECCTL, "order", "story-exit", "--json").json[0]
    assert exit_story["realized_pnl"] == "3"
    assert exit_story["entries"] == ["story"]


@pytest.mark.parametrize(
    "verb", [("orders", "--account"), ("positions", "--account"), ("discrepancies", "--account"), ("reconcile",)]
)
def test_an_unknown_account_is_said_to_be_unknown_with_those_that_are_known(
    people: People, verb: Sequence[str], tmp_path: Path
) -> None:
    people.trade(order("known", "BUY", 1, 5, account_id="Known"))
    accounts = tmp_path / "accounts.toml"
    accounts.write_text('[accounts.Configured]\nbroker = "mock"\n', encoding="utf-8")
    said = people.call(EXECCTL, *verb, "Knwon", ACCOUNTS_FILE=str(accounts))
    assert said.status == 1
    assert said.err.startswith("No such account: 'Knwon'; known are: ")
    assert {"Configured", "Known"} <= set(said.err.strip().partition("known are: ")[2].split(", "))


def test_what_one_account_holds_is_shown_alone(people: People, tmp_path: Path) -> None:
    people.trade(order("mine", "BUY", 1, 5, account_id="Mine"), order("theirs", "BUY", 2, 5, account_id="Theirs"))
    said = people.call(EXECCTL, "positions", "--account", "Mine", "--json")
    assert [position["account_id"] for position in said.json] == ["Mine"]
    accounts = tmp_path / "accounts.toml"
    accounts.write_text('[accounts.Configured]\nbroker = "mock"\n', encoding="utf-8")
    said = people.call(EXECCTL, "orders", "--account", "Configured", ACCOUNTS_FILE=str(accounts))
    assert (said.status, said.out.splitlines()[0].strip()) == (0, "0 orders, the latest first")


@pytest.mark.parametrize(
    "arguments",
    [("cancel", "nobody"), ("replay", "7")],
    ids=lambda arguments: arguments[0],
)
def test_an_unknown_id_is_said_to_be_unknown(people: People, arguments: Sequence[str]) -> None:
    said = people.call(EXECCTL, *arguments)
    assert said.status == 1
    assert arguments[1] in said.err
    assert "Traceback" not in said.err


def test_a_dead_letter_is_listed_shown_and_replayed(people: People, tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text('{"symbol": "SPY"}', encoding="utf-8")
    said = people.call(SEND, "--file", str(tmp_path / "odd.json"), "--no-wait")
    assert said.status == 3
    with people.service.database() as db:
        wait_until(lambda: db["execution_dead_letters"].find_one(), "the dead letter is stored")
        (letter,) = people.call(EXECCTL, "dead-letters", "--json").json
        assert letter["payload"] == '{"symbol": "SPY"}'
        assert "SPY" in people.call(EXECCTL, "dead-letters", letter["message_id"]).out
        replayed = people.call(EXECCTL, "replay", letter["message_id"])
        assert replayed.status == 1
        assert "REPLAY REFUSED" in replayed.out
        assert db["execution_dead_letters"].count_documents({}) == 2  # it is no better than it was


def test_a_finished_order_can_be_neither_cancelled_nor_resolved(people: People) -> None:
    people.trade(order("finished", "BUY", 1, 5, account_id="Finished"))
    said = people.call(EXECCTL, "cancel", "finished")
    assert "is FILLED already" in said.out
    said = people.call(
        EXECCTL, "resolve", "finished", "--as", "not-placed", "--by", "ops", "--note", "looked", "--json"
    )
    assert said.status == 1
    assert said.json["status"] == "REFUSED"
    (story,) = people.call(EXECCTL, "order", "finished", "--json").json
    assert sorted(c["kind"] for c in story["commands"]) == ["CANCEL", "RESOLVE"]


def test_a_resolution_as_placed_wants_the_brokers_id(people: People) -> None:
    said = people.call(EXECCTL, "resolve", "x", "--as", "placed", "--by", "ops", "--note", "seen")
    assert said.status == 2


@pytest.mark.parametrize("blank", ["", "  \t"])
@pytest.mark.parametrize("name", ["--by", "--note", "--broker-order-id"])
def test_a_resolution_wants_words_and_no_blanks(people: People, name: str, blank: str) -> None:
    given = {"--by": "ops", "--note": "seen", "--broker-order-id": "B-1"} | {name: blank}
    arguments = [text for pair in given.items() for text in pair]
    said = people.call(EXECCTL, "resolve", "x", "--as", "placed", *arguments)
    assert said.status == 2
    assert f"{name}: it must not be blank" in said.err


@pytest.mark.parametrize(("month", "expiry"), [(1, "202612"), (10, "202612"), (11, "202712"), (12, "202712")])
def test_a_sample_s_expiry_is_a_december_that_is_not_near(month: int, expiry: str) -> None:
    assert next_december(datetime(2026, month, 1, tzinfo=UTC)) == expiry


# --- rebuilding the views ---------------------------------------------------------------------------------------------


def shown(db: Any) -> dict[str, list[dict[str, Any]]]:
    def kept(document: Mapping[str, Any]) -> dict[str, Any]:
        # A broker's microseconds count for this while the fill is fresh; records keep milliseconds.
        document.get("pnl", {}).pop("holding_period_seconds", None)
        return {name: value for name, value in document.items() if name not in WRITTEN_AT}

    return {name: [kept(document) for document in db[name].find().sort("_id", 1)] for name in SHOWN}


def test_the_views_are_rebuilt_as_they_were(people: People) -> None:
    """After scale-ins, partial exits, flips, shorts, a closed position opened again, legs, refusals, and documents of upstream's own."""
    named = ObjectId()
    seeds: dict[str, list[dict[str, Any]]] = {
        "signal_store": [
            {"_id": named, "signal_id": "v1", "cerebro": {"kept": True}},
            {"signal_id": "v3", "note": "x"},
        ],
        "trading_orders": [{"order_id": "v1_ORD", "status": "PENDING"}],
        "trading_accounts": [{"_id": "Views", "open_positions": [], "balance": 5.0}],
    }
    with people.service.database() as db:
        for name, documents in seeds.items():
            db[name].insert_many(documents)
        exits = {"signal_type": "EXIT", "entry_signal_id": str(named)}
        people.trade(
            order("v1", "BUY", 10, 100, account_id="Views", mathematricks_signal_id=str(named), order_id="v1_ORD"),
            order("v2", "BUY", 5, 103, account_id="Views"),
            order("v3", "SELL", 6, 104.25, account_id="Views", **exits),
            order("v4", "SELL", 20, 99, account_id="Views"),
            order("v5", "SELL", 4, 98.5, account_id="Views"),
            order("v6", "BUY", 15, 97.125, account_id="Views", signal_type="EXIT", entry_signal_id="v4"),
            order("v7", "BUY", 15, 97, account_id="Views"),
            order("v8", "SELL", 3, 96, account_id="Views", **exits),
            order("v9", "BUY", 2, 50, account_id="Views", symbol="GLD"),
            order("v10", "BUY", -1, 50, account_id="Views"),
        )
        before = shown(db)
        assert sum(p["account_id"] == "Views" for p in before["positions"]) >= 4
        ours = {d["_id"] for d in db["signal_store"].find({"execution": {"$exists": True}})}
        for name in ("execution_confirmations", "positions"):
            db.drop_collection(name)
        db["signal_store"].delete_many({"_id": {"$in": list(ours)}})
        db["signal_store"].insert_many(seeds["signal_store"])
        db["trading_orders"].update_many({}, {"$set": {"status": "NONSENSE", "filled_quantity": -1.0}})
        db["trading_accounts"].update_many({}, {"$set": {"open_positions": [{"instrument": "NONSENSE"}]}})
        said = people.call(EXECCTL, "rebuild-views", "--use-mock-broker", "--json")
        assert said.status == 0, said.err
        assert said.json["contradictions"] == []
        rebuilt = shown(db)
        for name in SHOWN:
            assert [d["_id"] for d in rebuilt[name]] == [d["_id"] for d in before[name]]
            for is_now, was in zip(rebuilt[name], before[name], strict=True):
                differing = {f for f in {*is_now, *was} if is_now.get(f, "absent") != was.get(f, "absent")}
                assert differing == set(), f"{name} {was['_id']}"
        assert "ledger_id" in str(list(db["positions"].list_indexes()))

        people.trade(order("v11", "BUY", 1, 97, account_id="Views"))
        after = shown(db)
        assert len(after["execution_confirmations"]) == len(before["execution_confirmations"]) + 1
        assert people.call(EXECCTL, "rebuild-views", "--use-mock-broker").status == 0
        assert shown(db) == after


def test_rebuilt_confirmations_keep_the_broker_that_they_name(people: People) -> None:
    people.trade(order("b1", "BUY", 1, 97, account_id="Brokers"), order("b2", "BUY", 1, 97, account_id="Brokers"))
    with people.service.database() as db:
        confirmations = db["execution_confirmations"]
        confirmations.update_one({"signal_id": "b1"}, {"$set": {"broker": "ZERODHA", "status": "NONSENSE"}})
        confirmations.delete_one({"signal_id": "b2"})
        assert people.call(EXECCTL, "rebuild-views", USE_MOCK_BROKER="true").status == 0
        shown = {d["signal_id"]: (d["broker"], d["status"]) for d in confirmations.find({"account_id": "Brokers"})}
        assert shown == {"b1": ("ZERODHA", "FILLED"), "b2": ("MOCK", "FILLED")}

        confirmations.delete_many({"account_id": "Brokers"})
        said = people.call(EXECCTL, "rebuild-views", USE_MOCK_BROKER="false")
        assert (said.status, "Brokers" in said.out) == (0, False), said.out
        assert {d["broker"] for d in confirmations.find({"account_id": "Brokers"})} == {"MOCK"}


# --- with the service stopped; the last test, for it restarts the service ---------------------------------------------


@pytest.mark.timeout(300)
def test_execctl_works_while_the_service_is_stopped_and_its_commands_are_carried_out_at_the_next_start(
    people: People,
) -> None:
    assert people.call(START, "--stop").status == 0
    assert people.start(MOCK_FILL_DELAY_SECONDS="600").status == 0
    sent = people.call(SEND, "--file", "equity_stop_limit_1.json", "--signal-id", "rests", "--timeout", "0.5")
    assert sent.status == 1
    assert "no end within 0.5 s: rests is " in sent.out
    rests = people.call(SEND, "--file", "equity_stop_limit_1.json", "--signal-id", "rests", "--timeout", "2")
    assert "no end within 2 s: rests is SUBMITTED: it works at the broker\n" in rests.out
    assert "is the service running" not in rests.out
    people.call(SEND, "--file", "equity_limit_1.json", "--signal-id", "decided", "--no-wait")
    people.call(SEND, "--file", "equity_limit_1.json", "--signal-id", "later", "--no-wait")

    cancelled = people.call(EXECCTL, "cancel", "rests", "--leg", "0", "--reason", "by a test", "--json")
    assert cancelled.status == 0, cancelled.err
    assert cancelled.json["orders"][0]["status"] == "CANCELLED"
    (story,) = people.call(EXECCTL, "order", "rests", "--json").json
    assert "Cancelling order: by a test (by execctl)" in [event["words"] for event in story["events"]]
    (resting,) = people.call(EXECCTL, "order", "decided", "--json").json
    assert resting["status"] == "SUBMITTED"
    arguments = ("--as", "cancelled", "--by", "ops", "--note", "dead at the broker")
    resolved = people.call(EXECCTL, "resolve", resting["order_id"], *arguments)
    assert resolved.status == 0, resolved.err
    assert "is now CANCELLED" in resolved.out

    stopped = people.call(START, "--stop")
    assert (stopped.status, "Stopped" in stopped.out) == (0, True)
    assert not people.service.endpoints_path.exists()
    assert people.call(START, "--stop").out == "Nothing runs.\n"
    (story,) = people.call(EXECCTL, "order", "later", "--json").json
    assert story["status"] == "SUBMITTED"
    stored = people.call(EXECCTL, "cancel", "later")
    assert stored.status == 0
    assert "at its next start" in stored.out

    assert people.start(MOCK_FILL_DELAY_SECONDS="600").status == 0
    with people.service.database() as db:
        orders = db["execution_orders"]
        wait_until(lambda: orders.find_one({"signal_id": "later", "status": "CANCELLED"}), "the stored cancel is done")


def test_a_service_that_was_started_otherwise_is_not_stopped(tmp_path: Path) -> None:
    elsewhere = People(tmp_path)
    elsewhere.service.start()
    try:
        pid = elsewhere.service.endpoints()["pid"]
        said = elsewhere.call(START, "--stop")
        assert said.status == 1
        assert f"Process {pid} was not started by mvp_demo_start.py, and is left running" in said.err
        assert psutil.pid_exists(pid)
        assert elsewhere.service.endpoints()["pid"] == pid
    finally:
        elsewhere.service.stop()


def test_where_nothing_was_ever_stored_execctl_says_so_and_makes_nothing(people: People, tmp_path: Path) -> None:
    said = people.call(EXECCTL, "orders", DATA_DIR=str(tmp_path / "empty"))
    assert said.status == 1
    assert "mvp_demo_start.py" in said.err
    assert not (tmp_path / "empty").exists()
