"""Sessions with IBKR's gateway: client ids, lost links, nightly pauses, accounts and the settings of each."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from brokers.base import OrderRef, OrderType, ReportStatus
from brokers.errors import BrokerUnavailable, OrderRefused, ReservationLost
from brokers.ibkr import adapter as ibkr
from brokers.ibkr.adapter import create
from brokers.ibkr.library import NAMES
from simulators.ibkr.wire import Ask
from simulators.stage_ibkr import config_for
from tests.contract.ibkr.stage import NEVER, IbkrStage, connected, listed_ticket, place, reported, unavailable
from tests.waits import PATIENCE_SECONDS, until


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
async def test_what_the_client_library_logs_of_a_connection_is_for_debugging(
    caplog: pytest.LogCaptureFixture, level: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    caplog.set_level(level)
    broker = create({"account_id": "acc", "port": port, "client_id_tries": 1})
    with pytest.raises(BrokerUnavailable, match=str(port)):
        await broker.connect()
    await broker.close()
    told = [record.levelname for record in caplog.records if record.name.partition(".")[0] in NAMES]
    assert set(told) == ({"DEBUG"} if level == logging.DEBUG else set())


async def test_without_a_link_to_its_servers_an_open_socket_is_no_connection(stage: IbkrStage) -> None:
    broker = await stage.connect(poll_seconds=NEVER)
    stage.hold()
    ticket = stage.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    stage.gateway.lose_link()
    await unavailable(broker)
    with pytest.raises(BrokerUnavailable, match="no connection to IBKR"):
        await place(broker, stage.ticket())
    with pytest.raises(BrokerUnavailable):
        await broker.connect()
    assert len(stage.heard(Ask.PLACE_ORDER)) == 1
    stage.book.fill_order(OrderRef(client_order_id="", broker_order_id=answer.broker_order_id))


@pytest.mark.parametrize("data_kept", [True, False])
async def test_what_happened_without_the_link_is_reported_once_it_is_back(stage: IbkrStage, data_kept: bool) -> None:
    broker = await stage.connect(poll_seconds=NEVER)
    stage.hold()
    ticket = stage.ticket(OrderType.LIMIT)
    answer = await place(broker, ticket)
    hinted = asyncio.Event()
    stage.gateway.lose_link()
    await unavailable(broker)
    stage.book.fill_order(OrderRef(client_order_id="", broker_order_id=answer.broker_order_id))
    broker.on_hint(hinted.set)
    stage.gateway.restore_link(data_kept=data_kept)
    await asyncio.wait_for(hinted.wait(), PATIENCE_SECONDS)
    await broker.connect()
    assert (await reported(broker, ticket)).status is ReportStatus.FILLED


async def test_a_client_id_in_use_is_noticed_at_once_and_the_next_one_taken(stage: IbkrStage) -> None:
    stage.hold()
    first = await stage.connect()
    ticket = stage.ticket(OrderType.LIMIT)
    await place(first, ticket)
    async with asyncio.timeout(2.0):
        second = await stage.connect()
    assert any("Client id 1 is in use" in note for note in second.capabilities.notes)
    assert (await place(second, stage.ticket(OrderType.LIMIT))).broker_order_id == "2:1"
    with pytest.raises(OrderRefused, match="client id 1"):
        await second.cancel_order(OrderRef(client_order_id=ticket.client_order_id))
    with pytest.raises(ReservationLost, match="not reserved under client id 2"):
        await second.place_order(replace(stage.ticket(), reserved_order_id="1:77"))


async def test_a_socket_that_the_gateway_gives_up_late_costs_no_other_client_id(stage: IbkrStage) -> None:
    first = await stage.connect()
    taking_over = asyncio.create_task(stage.connect())
    await until(lambda: len(stage.heard(Ask.START_API)) == 2)
    await first.close()
    second = await taking_over
    assert not any("in use" in note for note in second.capabilities.notes)
    assert (await place(second, stage.ticket())).broker_order_id == "1:1"


async def test_a_lost_session_waits_for_its_own_client_id_and_can_cancel_what_it_placed(stage: IbkrStage) -> None:
    stage.hold()
    broker = await stage.connect()
    ticket = stage.ticket(OrderType.LIMIT)
    await place(broker, ticket)
    await broker.close()
    stale = await stage.connect()
    again = asyncio.create_task(broker.connect())
    await until(lambda: len(stage.heard(Ask.START_API)) == 5)  # longer than a stranger would wait
    await stale.close()
    await again
    assert not any("in use" in note for note in broker.capabilities.notes)
    await broker.cancel_order(OrderRef(client_order_id=ticket.client_order_id))


async def test_client_id_0_is_told_to_receive_what_is_entered_by_hand(stage: IbkrStage) -> None:
    broker = await stage.connect(client_id=0)
    assert any("by hand" in note for note in broker.capabilities.notes)
    stage.book.place(replace(listed_ticket(stage, 1), client_order_id="", reserved_order_id=None))
    (report,) = (await broker.reports()).reports
    assert (report.client_order_id, report.broker_order_id[0]) == ("", "p")


async def test_when_all_client_ids_are_in_use_there_is_no_session(stage: IbkrStage) -> None:
    await stage.connect()
    with pytest.raises(BrokerUnavailable, match="in use"):
        await stage.connect(client_id_tries=1)


async def test_of_several_accounts_one_must_be_named_and_be_there(stage: IbkrStage) -> None:
    stage.gateway.accounts.append("DU000002")
    with pytest.raises(BrokerUnavailable, match="DU000001, DU000002"):
        await stage.connect(ibkr_account=None)
    with pytest.raises(BrokerUnavailable, match="no account U7"):
        await stage.connect(ibkr_account="U7")
    await place(await stage.connect(), stage.ticket())


async def test_the_only_account_need_not_be_named(stage: IbkrStage) -> None:
    broker = await stage.connect(ibkr_account=None)
    await place(broker, stage.ticket())
    assert any("DU000001" in note for note in broker.capabilities.notes)


@pytest.mark.parametrize(("clock", "is_pause"), [("2026-11-21T04:45", True), ("2026-11-21T15:00", False)])
async def test_a_gateway_away_in_its_nightly_hour_is_a_known_pause(
    stage: IbkrStage, clock: str, is_pause: bool
) -> None:
    broker = stage.broker(clock=lambda: datetime.fromisoformat(clock).replace(tzinfo=UTC))
    await stage.gateway.stop()
    with pytest.raises(BrokerUnavailable) as caught:
        await broker.connect()
    assert caught.value.known_pause is is_pause
    await stage.gateway.start()
    await broker.connect()


async def test_connecting_twice_keeps_the_session(stage: IbkrStage) -> None:
    broker = await stage.connect()
    await asyncio.gather(broker.connect(), broker.connect())
    assert len(stage.heard(Ask.START_API)) == 1
    assert len(stage.heard(Ask.ALL_OPEN_ORDERS)) == 3


async def test_wrong_settings_are_all_named(stage: IbkrStage) -> None:
    config = {"port": "x", "client_id": -1, "restart_from": "25:00", "timezone": "Nowhere/Land", "library": "ib_c"}
    with pytest.raises(ValueError, match="ibkr account's settings") as caught:
        create(config)
    for words in (
        "account_id is missing",
        "port must be a whole number, not 'x'",
        "client_id must be 0 or more, not -1",
        "restart_from must be a time like 23:45, not '25:00'",
        "timezone must be a time zone like America/New_York, not 'Nowhere/Land'",
        "library must be 'auto', 'ib_insync' or 'ib_async', not 'ib_c'",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("key", ["connect_seconds", "answer_seconds", "query_seconds"])
@pytest.mark.parametrize("value", [0, "0.0", -1])
async def test_a_timeout_of_nothing_is_refused(stage: IbkrStage, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{key} must be"):
        stage.broker(**{key: value})
    stage.broker(poll_seconds=0)


async def test_a_lost_session_does_not_wait_long_for_its_own_client_id(stage: IbkrStage) -> None:
    broker = await stage.connect()
    await broker.close()
    await stage.connect()
    async with asyncio.timeout(8):
        await broker.connect()
    assert any("Client id 1 is in use" in note for note in broker.capabilities.notes)


async def test_a_gateway_without_its_servers_is_no_connection_until_they_are_back(stage: IbkrStage) -> None:
    broker = stage.broker()
    stage.gateway.is_linked = False
    with pytest.raises(BrokerUnavailable, match="no connection to IBKR"):
        await broker.connect()
    stage.gateway.restore_link()
    await connected(broker)
    await place(broker, stage.ticket())
    assert len(stage.heard(Ask.START_API)) == 1


async def test_a_gateway_that_never_says_that_its_servers_are_back_is_asked_for_a_new_session(
    stage: IbkrStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ibkr, "_LINK_PATIENCE_SECONDS", 0.1)
    broker = await stage.connect()
    stage.gateway.lose_link()
    await unavailable(broker)
    stage.gateway.is_linked = True
    await connected(broker)
    await place(broker, stage.ticket())
    assert len(stage.heard(Ask.START_API)) == 2


@pytest.mark.parametrize(
    ("window", "clock", "is_pause"),
    [
        (("23:40", "00:50", "America/New_York"), "2026-11-21T04:39:59", False),
        (("23:40", "00:50", "America/New_York"), "2026-11-21T04:40:00", True),
        (("23:40", "00:50", "America/New_York"), "2026-11-21T05:49:59", True),
        (("23:40", "00:50", "America/New_York"), "2026-11-21T05:50:00", False),
        (("23:40", "00:50", "America/New_York"), "2026-07-21T03:45:00", True),
        (("05:00", "06:00", "Europe/Zurich"), "2026-11-21T04:30:00", True),
        (("05:00", "05:00", "Europe/Zurich"), "2026-11-21T04:00:00", False),
    ],
)
async def test_the_nightly_hour_is_the_one_that_the_account_names(
    stage: IbkrStage, window: tuple[str, str, str], clock: str, is_pause: bool
) -> None:
    start, end, zone = window
    broker = create(
        {**config_for(stage.gateway), "restart_from": start, "restart_until": end, "restart_timezone": zone}
    )
    broker._clock = lambda: datetime.fromisoformat(clock).replace(tzinfo=UTC)
    await stage.gateway.stop()
    with pytest.raises(BrokerUnavailable) as caught:
        await broker.connect()
    assert caught.value.known_pause is is_pause


WARNING = (
    "URGENT: Please note that the qualifying equity within your account (i.e., Equity with Loan Value) is insufficient to satisfy the margin "
    "requirement and, to restore margin compliance, liquidation of positions may commence without further notice."
)


async def test_a_warning_of_the_accounts_margin_is_a_concern_for_as_long_as_it_is_fresh(
    stage: IbkrStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = await stage.connect()
    assert broker.capabilities.concern is None
    stage.gateway.warn(f"{WARNING} Account: DU000001")
    await broker.positions()  # asked after it, and so answered after it
    assert "liquidation of positions may commence" in (broker.capabilities.concern or "")
    monkeypatch.setattr(ibkr, "_MARGIN_WARNED_SECONDS", 0.0)
    assert broker.capabilities.concern is None


@pytest.mark.parametrize("named", ["Account: DU000002", "Account: DU0000011.", "(ADU000001)"])
async def test_a_warning_of_another_account_of_the_login_is_none_of_ours(stage: IbkrStage, named: str) -> None:
    stage.gateway.accounts += ["DU000002", "DU0000011", "ADU000001"]
    broker = await stage.connect(ibkr_account="DU000001")
    stage.gateway.warn(f"{WARNING} {named}")
    await broker.positions()
    assert broker.capabilities.concern is None
    stage.gateway.warn(f"{WARNING} {named} (DU000001)")
    await broker.positions()
    assert broker.capabilities.concern is not None


async def test_a_warning_that_names_no_account_is_of_each(stage: IbkrStage) -> None:
    stage.gateway.accounts.append("DU000002")
    broker = await stage.connect(ibkr_account="DU000001")
    stage.gateway.warn(WARNING)
    await broker.positions()
    assert broker.capabilities.concern is not None
