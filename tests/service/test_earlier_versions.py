"""Books that the version before kept, which knew no terms of contracts: they go on working, and their amounts are mended where that can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bson import json_util

from brokers.base import AssetClass, Capabilities, ContractTerms, Instrument, Ticket
from brokers.errors import NotAnswered
from execution_service.core.orders.events import ContractResolved
from execution_service.core.orders.exit_bound import ExitPositionCheck
from execution_service.core.orders.status import Status
from execution_service.core.positions.ledger import LedgerEntry
from execution_service.delivery.rebuild import Rebuild, Rebuilt
from execution_service.recording.live_orders import LiveOrders
from execution_service.runtime.threads import InPlace
from execution_service.storage.contract_facts import Facts, Mended, Said
from execution_service.storage.mongo.store import MongoStore
from execution_service.trading.holding_choice import HoldingChoice
from execution_service.trading.trader import TradingRules
from scripts import execctl
from tests.builders import NOW, nothing_sent, order, submit_started
from tests.fakes import DATABASE, AllAt, FakeMongoClient, Gate, HandClock, World, world_of
from tests.service.audit import audit

WRITTEN = Path(__file__).with_name("earlier_versions.json")
"""As that version wrote them: 2 SI with the multiplier 1000 at 30, and 2 ES without any at 5000 of which 1 was sold at 5010."""
SILVER: dict[str, Any] = {"symbol": "SI", "instrument_type": "FUTURE", "expiry": "202612", "quantity": 2, "price": 31}
UNCHECKED = TradingRules(exit_position_check=ExitPositionCheck.OFF)
"""The broker of these tests has nothing of what was bought before, and an exit would be measured by that."""
ES_KEY = "ES|FUTURE|expiry=202612"
SAID = Said(
    instrument_key=ES_KEY, terms=ContractTerms(multiplier=Decimal(50)), by="operator", note="CME's contract page"
)


def load(world: World) -> None:
    for collection, documents in json_util.loads(WRITTEN.read_text(encoding="utf-8")).items():
        world.mongo[DATABASE][collection].insert_many(documents)
    for symbol, multiplier, held, price in (("SI", 1000, 2, 30), ("ES", None, 1, 5000)):
        size = None if multiplier is None else Decimal(multiplier)
        future = Instrument(symbol=symbol, asset_class=AssetClass.FUTURE, expiry="202612", multiplier=size)
        world.book().move_position(future, Decimal(held), Decimal(price))


class Breaks(Exception):
    """As a death at this point would end it."""


async def rebuilt(
    world: World, *said: Said, broker: str = "IBKR", dies_before: str | None = None
) -> tuple[Mended, Rebuilt]:
    """`execctl rebuild-views`, the service being down. `dies_before`: the store's method that is not called any more."""
    client: Any = FakeMongoClient(world.mongo, Gate(), world.store_faults)
    store = MongoStore(client, DATABASE, nonce="ctl", clock=world.clock, threads=InPlace())
    await store.open()

    async def dies(*_: object) -> None:
        raise Breaks

    if dies_before is not None:
        setattr(store, dies_before, dies)
    try:
        order_ids = [str(each["_id"]) for each in world.documents("execution_orders")]

        async def entries() -> Sequence[Any]:
            return await store.ledgers_of_account("acct-1", ["SI", "ES"])

        facts = Facts(store, world.clock, said=said, practice=AllAt(broker))
        mended = await facts.mend(order_ids, await entries())
        again = Rebuild(store, world.clock, brokers=AllAt(broker, shown=broker))
        return mended, await again.run(order_ids, await entries())
    finally:
        await store.close()


def shown(world: World, collection: str, **query: Any) -> dict[str, Any]:
    (document,) = world.documents(collection, **query)
    return document


@pytest.mark.parametrize("multiplier", [None, 1000])
@pytest.mark.parametrize("names_entry", [True, False])
async def test_an_exit_closes_the_holding_of_before_with_the_multiplier_or_without(
    tmp_path: Path, multiplier: int | None, names_entry: bool
) -> None:
    async with world_of(tmp_path, rules=UNCHECKED) as world:
        load(world)
        await world.restart()
        more = {} if multiplier is None else {"multiplier": multiplier}
        if names_entry:
            world.exit("out", "before", **SILVER, **more)
        else:
            world.send("out", side="SELL", signal_type="EXIT", **SILVER, **more)
        await world.run(8)
        assert world.exit_record("out").status is Status.FILLED
        position = shown(world, "positions", symbol="SI")
        assert (position["status"], position["ledger_id"]) == ("CLOSED", "led_54d9bd84d962d532073f3b53")
        assert position["realized_pnl"] == 2000.0


async def test_the_other_size_opens_a_holding_of_its_own(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        load(world)
        await world.restart()
        world.send("large", **SILVER, multiplier=5000)
        await world.run(1)
        sizes = {d["multiplier"]: d["quantity"] for d in world.documents("positions", symbol="SI")}
        assert sizes == {1000.0: 2.0, 5000.0: 2.0}


async def test_what_nobody_has_said_is_named_and_the_rest_is_left_as_it_is(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        load(world)
        mended, again = await rebuilt(world)
        assert mended == Mended(unknown=(f"{ES_KEY} (2 orders)",))
        assert again.contradictions == ()
        assert (await rebuilt(world, broker="MOCK"))[0] == Mended()


async def test_what_a_person_says_is_kept_and_corrects_every_amount(tmp_path: Path) -> None:
    async with world_of(tmp_path, rules=UNCHECKED) as world:
        load(world)
        mended, again = await rebuilt(world, SAID)
        assert (mended.orders, mended.holdings, mended.unknown, again.contradictions) == (2, 1, (), ())
        bought = shown(world, "execution_confirmations", signal_id="unsized")
        sold = shown(world, "execution_confirmations", signal_id="unsized-out")
        position = shown(world, "positions", symbol="ES")
        assert (bought["total_value"], sold["realized_pnl"], position["realized_pnl"]) == (500_000.0, 500.0, 500.0)
        assert shown(world, "signal_store", signal_id="unsized-out")["pnl"]["gross_pnl"] == 500.0
        assert world.unsettled() == []
        # It sticks: another run changes nothing, and the next order of the holding goes on from there.
        assert (await rebuilt(world))[0] == Mended()
        await world.restart()
        world.exit(
            "rest",
            "unsized",
            symbol="ES",
            instrument_type="FUTURE",
            expiry="202612",
            quantity=1,
            price=5020,
            multiplier=50,
        )
        await world.run(8)
        position = shown(world, "positions", symbol="ES")
        assert (position["status"], position["realized_pnl"]) == ("CLOSED", 1500.0)


@pytest.mark.parametrize("point", ["append", "commit_cursors", "save_ledgers", "keep_lines", "write_views"])
async def test_a_mending_that_was_broken_off_is_done_by_the_next(tmp_path: Path, point: str) -> None:
    async with world_of(tmp_path) as world:
        load(world)
        with pytest.raises(Breaks):
            await rebuilt(world, SAID, dies_before=point)
        _, again = await rebuilt(world, SAID)
        assert again.contradictions == ()
        assert shown(world, "positions", symbol="ES")["realized_pnl"] == 500.0
        assert shown(world, "execution_confirmations", signal_id="unsized-out")["realized_pnl"] == 500.0
        await world.restart()
        assert world.unsettled() == []
        assert shown(world, "positions", symbol="ES")["realized_pnl"] == 500.0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--contract", "ES=50"],
        ["--contract", "50", "--by", "me", "--note", "so"],
        ["--contract", "ES=0", "--by", "me", "--note", "so"],
        ["--contract", "ES=x/100", "--by", "me", "--note", "so"],
        ["--contract", "ES=5000/", "--by", "me", "--note", "so"],
        ["--contract", "ES=NaN", "--by", "me", "--note", "so"],
    ],
)
def test_what_a_person_says_must_be_whole(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        execctl.main(["rebuild-views", *arguments])
    assert ended.value.code == 2
    assert "--contract" in capsys.readouterr().err


async def test_what_the_broker_tells_of_a_later_order_is_said_of_those_of_before(tmp_path: Path) -> None:
    tells = Capabilities(fits_tickets=True, needs_reservation=True, refuses_repeated_client_id=True)
    async with world_of(tmp_path, capabilities=tells) as world:
        load(world)
        await world.restart()

        async def fitted(ticket: Ticket) -> Ticket:
            return replace(ticket, terms=SAID.terms)

        world.brokers["acct-1"].inner.fitted = fitted  # type: ignore[method-assign]
        world.send("later", symbol="ES", instrument_type="FUTURE", expiry="202612", quantity=1, price=5000)
        await world.run(1)
        assert shown(world, "execution_confirmations", signal_id="later")["total_value"] == 250_000.0
        assert shown(world, "positions", symbol="ES")["quantity"] == 2.0
        await world.kill()
        mended, again = await rebuilt(world)
        assert (mended.orders, mended.holdings, mended.unknown, again.contradictions) == (2, 1, (), ())
        assert shown(world, "positions", symbol="ES")["realized_pnl"] == 500.0


async def test_a_name_that_no_record_bears_is_told(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        load(world)
        wrong = Said(
            instrument_key="ES|FUTURE|expiry=202612|currency=USD", terms=SAID.terms, by="operator", note="guessed"
        )
        assert (await rebuilt(world, wrong))[0].unheard == (wrong.instrument_key,)


async def test_an_exit_that_may_mean_two_sizes_is_not_sent(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        for name, size in (("small", 1000), ("large", 5000)):
            world.send(name, **SILVER, multiplier=size)
        await world.run(1)
        world.send("out", side="SELL", signal_type="EXIT", **SILVER)
        await world.run(1)
        refused = world.exit_record("out")
        assert refused.reason is not None
        assert "it may mean any of 2 holdings" in refused.reason.message
        assert len(world.placed()) == 2
        world.exit("out-small", "small", **SILVER)
        await world.run(8)
        assert [d["multiplier"] for d in world.documents("positions", status="OPEN")] == [5000.0]
        audit(world)


class NoBooks:
    async def ledgers_of_account(self, account_id: str, symbols: Sequence[str]) -> list[LedgerEntry]:
        return []


async def test_an_order_that_was_perhaps_sent_before_keeps_the_holding_of_that_sending() -> None:
    store: Any = NoBooks()
    holdings = HoldingChoice(store, LiveOrders(store, HandClock()))
    silver = Instrument(symbol="SI", asset_class=AssetClass.FUTURE, expiry="202612", multiplier=Decimal(1000))
    terms = ContractTerms(multiplier=Decimal(1000), trading_class="SIL")
    fresh = order(instrument=silver)
    (told,) = await holdings.contract_events(fresh, terms, NOW)
    assert isinstance(told, ContractResolved)
    assert told.booked_as == "SI|FUTURE|expiry=202612|trading_class=SIL|multiplier=1000"
    # Sent by the version before, or once already: whatever comes late of that is booked to the same holding.
    for first in ((), (told,)):
        again = order(instrument=silver, events=(*first, submit_started(), nothing_sent()))
        assert (await holdings.key_for(again)).instrument_key == (again.booked_as or "SI|FUTURE|expiry=202612")
        changed = await holdings.contract_events(again, replace(terms, local_symbol="SILZ6"), NOW)
        assert [getattr(event, "booked_as", "") for event in changed] == [again.booked_as]


@pytest.mark.parametrize("is_sent_twice", [False, True])
async def test_an_exit_is_of_the_size_of_its_holding_where_the_broker_does_not_tell_it_again(
    tmp_path: Path, is_sent_twice: bool
) -> None:
    tells = Capabilities(fits_tickets=True, needs_reservation=True, refuses_repeated_client_id=True)
    known = ContractTerms(multiplier=Decimal(100), currency="INR", is_one_size=True)
    async with world_of(tmp_path, capabilities=tells) as world:
        terms = known

        async def fitted(ticket: Ticket) -> Ticket:
            return replace(ticket, terms=terms)

        world.brokers["acct-1"].inner.fitted = fitted  # type: ignore[method-assign]
        gold = {"symbol": "GOLD", "instrument_type": "FUTURE", "expiry": "202612", "quantity": 1}
        world.send("in", **gold, price=5000)
        await world.run(2)
        terms = ContractTerms(currency="INR", is_one_size=True, is_size_unknown=True)
        if is_sent_twice:
            world.broker_faults.errors["place_order"] = [NotAnswered("busy")]
        world.exit("out", "in", **gold, price=5010)
        await world.run(8)
        (position,) = world.documents("positions")
        assert (position["status"], position["realized_pnl"], position["multiplier"]) == ("CLOSED", 1000.0, 100.0)
        assert shown(world, "execution_confirmations", signal_id="out")["total_value"] == 501_000.0
        assert shown(world, "execution_confirmations", signal_id="out")["realized_pnl"] == 1000.0
