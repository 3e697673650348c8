"""When an execution was: every form in which gateways write it, by both client libraries, wherever this process runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from brokers.base import OrderType
from brokers.ibkr.times import GatewayZone, Moment, read
from simulators.ibkr import wire
from simulators.stage_ibkr import LAST_PRICE
from tests.contract.ibkr.stage import NEVER, IbkrStage, place, reported

NOON = datetime(2026, 11, 24, 15, 0, 12, tzinfo=UTC)
HEARD = NOON + timedelta(seconds=1)
SUMMER = datetime(2026, 7, 24, 15, 0, 12, tzinfo=UTC)

CERTAIN = [
    ("20261124-15:00:12", NOON),
    ("20261124 09:00:12 US/Central", NOON),
    ("20261124 16:00:12 MET", NOON),
    ("20260724 17:00:12 MET", SUMMER),
    ("20261124 10:00:12 EST", NOON),
    ("20261124 10:00:12 US/Eastern", NOON),
    ("20261124 15:00:12 UTC", NOON),
    ("20261124 15:00:12 Universal", NOON),
    ("20261124 15:00:12 GB-Eire", NOON),
    ("20260724 16:00:12 GB-Eire", SUMMER),
    ("20261124 10:00:12 America/New_York", NOON),
    ("20261124 23:00:12 中国标准时间", NOON),
    ("20261124 23:00:12 China Standard Time", NOON),
    ("20261124 09:00:12 Central Standard Time", NOON),
    ("20261125 00:00:12 JST", NOON),
    ("20261124 23:00:12 SGT", NOON),
    ("20261124 20:30:12 Asia/Kolkata", NOON),
    ("20261124 23:00:12 GMT+08:00", NOON),
    ("2026-11-24 10:00:12.0 US/Eastern", NOON),
    (str(int(NOON.timestamp())), NOON),
    ("  20261124   10:00:12   US/Eastern ", NOON),
    ("20271124-15:00:12", datetime(2027, 11, 24, 15, 0, 12, tzinfo=UTC)),
]

UNREADABLE = [
    "",
    "garbage",
    "20261124",
    "20261124  09:00:12",
    "20261124 09:00:12 XYZ",
    "20261124 09:00:12 America",
    "20261124 09:00:12 ../../etc/passwd",
    "20261124 09:00:12 \ufffd\ufffd",
    "20261324 09:00:12 UTC",
    "20261124 25:00:12 UTC",
    "00010101 00:00:00 UTC",
    "99991231-23:59:59",
    "20261124-15:00",
    "٢٠٢٦١١٢٤-١٥:٠٠:١٢",
    "20261124 09:00:12 +99:99",
]


@pytest.fixture(params=["UTC", "Asia/Tokyo", "America/Los_Angeles", "Pacific/Kiritimati"])
def host_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The zone that the process lives in."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(("told", "instant"), CERTAIN)
def test_a_time_is_read_as_the_instant_that_it_means(told: str, instant: datetime) -> None:
    assert read(told, received_at=HEARD) == Moment(at=instant)


@pytest.mark.parametrize("told", UNREADABLE)
def test_what_is_no_time_is_taken_as_of_the_hearing_and_marked(told: str) -> None:
    moment = read(told, received_at=HEARD)
    assert (moment.at, moment.is_estimated) == (HEARD, True)
    assert repr(told[:60]) in moment.trouble


def test_a_time_without_a_zone_is_one_of_the_accounts_setting_before_the_gateways() -> None:
    gateway = GatewayZone.greeted("20261124 10:00:10 US/Eastern", NOON)
    assert read("20261124  10:00:12", received_at=HEARD, gateway=gateway) == Moment(at=NOON)
    assert read("20261124  09:00:12", received_at=HEARD, zone="America/Chicago", gateway=gateway) == Moment(at=NOON)


def test_a_time_without_a_zone_that_would_be_in_the_future_is_taken_as_of_the_hearing_and_marked() -> None:
    heard = datetime(2026, 11, 24, 15, 0, 20, tzinfo=UTC)
    ahead = read("20261124 15:00:12", received_at=heard, zone="US/Central")
    assert (ahead.at, ahead.is_estimated) == (heard, True)
    assert "in the future" in ahead.trouble
    skewed = read("20261124 09:02:12", received_at=heard, zone="US/Central")
    assert (skewed.at, skewed.is_estimated) == (datetime(2026, 11, 24, 15, 2, 12, tzinfo=UTC), False)


def test_a_zone_that_nobody_knows_is_read_by_the_clock_of_the_gateway_that_uses_it() -> None:
    gateway = GatewayZone.greeted("20261124 20:30:11 XYZ", NOON)
    moment = read("20261124 20:30:12 XYZ", received_at=HEARD, gateway=gateway)
    assert (moment.at, moment.is_estimated) == (NOON, True)
    assert "UTC+05:30" in moment.trouble
    assert read("20261124  20:30:12", received_at=HEARD, gateway=gateway).at == NOON
    other = read("20261124 20:30:12 QQQ", received_at=HEARD, gateway=gateway)
    assert (other.at, other.is_estimated) == (HEARD, True)


@pytest.mark.parametrize(
    "greeting", ["", "garbage", "20261124-15:00:12", "20260101 00:00:00 XYZ", "20261124 15:07:12 XYZ"]
)
def test_a_greeting_that_tells_no_offset_is_not_relied_on(greeting: str) -> None:
    gateway = GatewayZone.greeted(greeting, NOON)
    assert gateway.offset is None
    assert read("20261124  09:00:12", received_at=HEARD, gateway=gateway).at == HEARD


def test_a_short_name_of_several_places_is_that_which_agrees_with_the_gateways_clock() -> None:
    shanghai = GatewayZone.greeted("20261124 23:00:00 CST", NOON)
    chicago = GatewayZone.greeted("20261124 09:00:00 CST", NOON)
    assert read("20261124 11:00:12 CST", received_at=HEARD, gateway=shanghai) == Moment(at=NOON - timedelta(hours=12))
    assert read("20261124 09:00:12 CST", received_at=HEARD, gateway=chicago) == Moment(at=NOON)


@pytest.mark.parametrize(
    ("told", "heard", "expected"),
    [
        # The hour that comes twice: 05:30 and 06:30 UTC.
        ("20261101 01:30:00 US/Eastern", "2026-11-01T05:30:01", "2026-11-01T05:30:00"),
        ("20261101 01:30:00 US/Eastern", "2026-11-01T06:30:01", "2026-11-01T06:30:00"),
        ("20261101 01:30:00 US/Eastern", "2026-11-01T20:00:00", "2026-11-01T06:30:00"),
        # Our clock is a little behind the gateway's.
        ("20261101 01:30:00 US/Eastern", "2026-11-01T06:29:58", "2026-11-01T06:29:58"),
        # The hour that does not exist.
        ("20260308 02:30:00 US/Eastern", "2026-03-08T07:30:01", "2026-03-08T07:30:00"),
        ("20260308 02:30:00 US/Eastern", "2026-03-08T06:30:01", "2026-03-08T06:30:00"),
        ("20261025 02:30:00 MET", "2026-10-25T00:30:01", "2026-10-25T00:30:00"),
        ("20261025 02:30:00 GB-Eire", "2026-10-25T02:30:01", "2026-10-25T02:30:00"),
        ("20260724 11:00:12 EST", "2026-07-24T15:00:13", "2026-07-24T15:00:12"),
        ("20261124 23:00:12 CST", "2026-11-24T15:00:13", "2026-11-24T15:00:12"),
    ],
)
def test_of_two_instants_it_is_the_latest_that_is_not_in_the_future(told: str, heard: str, expected: str) -> None:
    moment = read(told, received_at=datetime.fromisoformat(heard).replace(tzinfo=UTC))
    assert moment.at == datetime.fromisoformat(expected).replace(tzinfo=UTC)
    assert moment.is_estimated is ("GB-Eire" not in told)


# By the libraries


FORMS = [
    ("%Y%m%d-%H:%M:%S", "UTC"),
    ("%Y%m%d %H:%M:%S US/Central", "America/Chicago"),
    ("%Y%m%d %H:%M:%S MET", "Europe/Paris"),
    ("%Y%m%d %H:%M:%S 中国标准时间", "Asia/Shanghai"),
]


async def test_an_execution_has_its_true_time_wherever_the_process_runs(stage: IbkrStage, host_zone: str) -> None:
    broker = await stage.connect(poll_seconds=NEVER)
    for form, zone in FORMS:
        stage.gateway.writings[""] = wire.Writing(form=form, zone=zone)
        ticket = stage.ticket()
        await place(broker, ticket)
        report = await reported(broker, ticket, lambda report: bool(report.fills))
        (fill,), (truth,) = report.fills, stage.truth(ticket).fills
        assert (fill.time, fill.is_time_estimated) == (truth.time.replace(microsecond=0), False), (form, host_zone)


@pytest.mark.parametrize("zone", ["America/Chicago", "Asia/Tokyo"])
async def test_a_time_without_a_zone_is_one_of_the_zone_in_which_the_gateway_greets(
    stage: IbkrStage, zone: str
) -> None:
    stage.gateway.greeting = wire.Writing(form=f"%Y%m%d %H:%M:%S {zone}", zone=zone)
    stage.gateway.writings[""] = wire.Writing(form="%Y%m%d  %H:%M:%S", zone=zone)
    stage.gateway.bytes_per_chunk = 3
    broker = await stage.connect()
    ticket = stage.ticket()
    await place(broker, ticket)
    (fill,) = (await reported(broker, ticket, lambda report: bool(report.fills))).fills
    assert (fill.time, fill.is_time_estimated) == (stage.truth(ticket).fills[0].time.replace(microsecond=0), False)


@pytest.mark.parametrize("text", ["20261124 09:00:12 XYZ", "garbage", "", "20261124  09:00:12 \ufffd"])
async def test_an_execution_of_unreadable_time_is_a_fill_of_the_time_of_hearing(
    stage: IbkrStage, text: str, host_zone: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage.gateway.writings[""] = wire.Writing(form=text)
    broker = await stage.connect()
    before = datetime.now(UTC)
    ticket = stage.ticket()
    await place(broker, ticket)
    (fill,) = (await reported(broker, ticket, lambda report: bool(report.fills))).fills
    assert (fill.quantity, fill.price, fill.is_time_estimated) == (10, LAST_PRICE, True)
    assert before <= fill.time <= datetime.now(UTC)
    for _ in range(3):
        (again,) = (await reported(broker, ticket)).fills
        assert again.time == fill.time
    warnings = [each.getMessage() for each in caplog.records if each.name == "brokers.ibkr.adapter"]
    assert len([each for each in warnings if ticket.client_order_id in each and fill.fill_id in each]) == 1
    other = stage.ticket(OrderType.LIMIT, quantity=Decimal(3))
    stage.gateway.writings.clear()
    await place(broker, other)
    (clear,) = (await reported(broker, other, lambda report: bool(report.fills))).fills
    assert not clear.is_time_estimated
