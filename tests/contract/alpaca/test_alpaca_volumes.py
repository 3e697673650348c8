"""How much of shares is traded at Alpaca: a minute's part of the mean of the last sessions on all exchanges, which every account is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from brokers.alpaca.adapter import AlpacaBroker
from brokers.alpaca.rows import Malformed, read_volumes
from brokers.base import Instrument, TellsVolume
from brokers.errors import BrokerUnavailable
from simulators.alpaca.server import AlpacaFault, FaultKind, SimulatedAlpaca
from tests.contract.alpaca.test_alpaca_quotes import AAPL, BTC, CALL, SPY, UNKNOWN

ROUTE = "GET /v2/stocks/bars"
USUAL = Decimal(1000)
BAD = Instrument(symbol="BAD.-")


def asked(server: SimulatedAlpaca) -> list[str]:
    return [call.query["symbols"] for call in server.calls(ROUTE)]


@pytest.mark.parametrize("has_tape", [False, True])
async def test_shares_cost_one_call_for_all_and_none_for_an_hour(
    server: SimulatedAlpaca, broker: AlpacaBroker, has_tape: bool
) -> None:
    server.subscribe(has_tape)
    assert isinstance(broker, TellsVolume)
    wanted = [AAPL, SPY, UNKNOWN, CALL, BTC]
    assert await broker.usual_volumes(wanted) == {AAPL: USUAL, SPY: USUAL}
    assert await broker.usual_volumes(wanted) == {AAPL: USUAL, SPY: USUAL}
    assert asked(server) == ["AAPL,SPY,NOSUCH"]


async def test_whole_sessions_of_all_exchanges_are_asked_for(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    await broker.usual_volumes([AAPL])
    (call,) = server.calls(ROUTE)
    assert {name: call.query[name] for name in ("feed", "timeframe", "sort", "adjustment")} == {
        "feed": "sip", "timeframe": "1Day", "sort": "asc", "adjustment": "split",
    }  # fmt: skip
    start, end = (datetime.fromisoformat(call.query[name]) for name in ("start", "end"))
    assert datetime.now(UTC) - end >= timedelta(hours=24)
    assert end - start > timedelta(days=30)


async def test_a_symbol_that_is_none_fails_itself_and_no_other(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    assert await broker.usual_volumes([AAPL, BAD, SPY]) == {AAPL: USUAL, SPY: USUAL}
    assert asked(server) == ["AAPL,BAD.-,SPY", "AAPL,SPY"]
    assert await broker.usual_volumes([BAD]) == {}
    assert len(asked(server)) == 2


async def test_symbols_that_are_none_cost_few_calls(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    with pytest.raises(BrokerUnavailable, match="invalid"):
        await broker.usual_volumes([AAPL, *(Instrument(symbol=f"BAD.-{n}") for n in range(9))])
    assert len(asked(server)) == 4


async def test_symbols_that_are_none_keep_no_other_unknown_for_good(
    server: SimulatedAlpaca, broker: AlpacaBroker
) -> None:
    wanted = [AAPL, *(Instrument(symbol=f"BAD.-{n}") for n in range(5))]
    with pytest.raises(BrokerUnavailable, match="invalid"):
        await broker.usual_volumes(wanted)
    for _ in range(2):
        assert await broker.usual_volumes(wanted) == {AAPL: USUAL}
    assert asked(server)[4:] == ["AAPL,BAD.-4", "AAPL"]


@pytest.mark.parametrize("status", [400, 403, 404, 422])
@pytest.mark.parametrize(
    "text", ["subscription does not permit querying recent SIP data", "invalid start", "invalid symbol: NOSUCH"]
)
async def test_a_refusal_that_names_no_symbol_of_these_is_not_that_nothing_is_traded(
    server: SimulatedAlpaca, broker: AlpacaBroker, status: int, text: str
) -> None:
    server.add_fault(AlpacaFault(kind=FaultKind.SERVER_ERROR, route=ROUTE, status=status, text=text))
    with pytest.raises(BrokerUnavailable, match=text):
        await broker.usual_volumes([AAPL, SPY])
    assert await broker.usual_volumes([AAPL, SPY]) == {AAPL: USUAL, SPY: USUAL}


async def test_of_more_than_a_hundred_the_rest_is_left_out(server: SimulatedAlpaca, broker: AlpacaBroker) -> None:
    await broker.usual_volumes([Instrument(symbol=f"A{n}") for n in range(130)])
    (symbols,) = asked(server)
    assert symbols.count(",") == 99


@pytest.mark.parametrize("volume", [0, -1, "much", None, True])
async def test_a_volume_that_can_be_none_is_not_told(
    server: SimulatedAlpaca, broker: AlpacaBroker, volume: object
) -> None:
    server.show_oddly(ROUTE, "AAPL", {"v": volume})
    assert await broker.usual_volumes([AAPL, SPY]) == {SPY: USUAL}


@pytest.mark.parametrize("kind", [FaultKind.FORBIDDEN, FaultKind.SERVER_ERROR, FaultKind.HTML])
async def test_a_call_that_fails_is_asked_again(server: SimulatedAlpaca, broker: AlpacaBroker, kind: FaultKind) -> None:
    server.add_fault(AlpacaFault(kind=kind, route=ROUTE, status=500))
    with pytest.raises(BrokerUnavailable):
        await broker.usual_volumes([AAPL])
    assert await broker.usual_volumes([AAPL]) == {AAPL: USUAL}


@pytest.mark.parametrize("said", [None, [], {}, {"bars": []}, {"bars": {}, "next_page_token": "more"}])
def test_an_answer_that_is_none_or_not_whole_says_nothing(said: Any) -> None:
    with pytest.raises(Malformed):
        read_volumes(said)


def test_the_bars_of_one_symbol_that_cannot_be_read_spoil_no_other() -> None:
    told = read_volumes({"bars": {"A": {"v": 1}, "B": [{"v": 1}, 3], "C": [{"v": 5}, {"v": "7.5"}]}})
    assert told == {"C": [Decimal(5), Decimal("7.5")]}
