"""How much is traded at Binance: a minute's part of the last 24 hours, by few calls, of weight that orders can spare."""

from __future__ import annotations

from decimal import Decimal

import pytest

from brokers.base import AssetClass, Instrument, TellsVolume
from brokers.binance.adapter import BinanceBroker
from brokers.binance.quotes import volumes_in
from brokers.binance.rows import Malformed
from brokers.errors import BrokerUnavailable
from simulators.binance.server import BinanceFault, FaultKind, SimulatedBinance
from tests.contract.binance.stage import SOL
from tests.contract.binance.test_binance_quotes import BTC, QUARTERLY, UNKNOWN

ROUTE = "GET /fapi/v1/ticker/24hr"


def asked(server: SimulatedBinance) -> list[str]:
    return [call.query for call in server.calls(ROUTE)]


async def test_one_contract_is_asked_about_by_itself_more_by_one_call_and_none_again(
    server: SimulatedBinance, broker: BinanceBroker
) -> None:
    assert isinstance(broker, TellsVolume)
    assert await broker.usual_volumes([SOL]) == {SOL: Decimal(1000)}
    assert asked(server) == ["symbol=SOLUSDT"]
    weight = server.weight()
    assert await broker.usual_volumes([SOL, BTC, QUARTERLY, UNKNOWN]) == dict.fromkeys(
        (SOL, BTC, QUARTERLY), Decimal(1000)
    )
    assert asked(server) == ["symbol=SOLUSDT", ""]
    assert server.weight() - weight == 40
    assert len(await broker.usual_volumes([BTC, SOL])) == 2
    assert await broker.usual_volumes([UNKNOWN]) == {}
    assert len(asked(server)) == 2


@pytest.mark.parametrize("volume", ["0", "-5", "NaN", "Infinity", "much", None])
async def test_a_volume_that_can_be_none_is_not_told_and_not_asked_for_again(
    server: SimulatedBinance, broker: BinanceBroker, volume: str | None
) -> None:
    server.show_oddly(ROUTE, "SOLUSDT", {"volume": volume})
    assert await broker.usual_volumes([SOL]) == {}
    assert await broker.usual_volumes([SOL]) == {}
    assert len(asked(server)) == 1


@pytest.mark.parametrize("kind", [FaultKind.ERROR, FaultKind.HTML, FaultKind.DROP])
async def test_a_call_that_fails_is_asked_again(
    server: SimulatedBinance, broker: BinanceBroker, kind: FaultKind
) -> None:
    server.add_fault(BinanceFault(kind=kind, route=ROUTE, status=503, code=-1001, text="Internal error"))
    with pytest.raises(BrokerUnavailable):
        await broker.usual_volumes([SOL])
    assert await broker.usual_volumes([SOL]) == {SOL: Decimal(1000)}


@pytest.mark.parametrize("answer", ["text", [3], 7, None])
def test_an_answer_that_is_no_ticker_says_nothing(answer: object) -> None:
    with pytest.raises(Malformed):
        volumes_in(answer)


async def test_a_future_that_is_not_listed_has_none(broker: BinanceBroker) -> None:
    gone = Instrument(symbol="BTCUSDT", asset_class=AssetClass.FUTURE, expiry="19990101")
    assert await broker.usual_volumes([gone]) == {}
