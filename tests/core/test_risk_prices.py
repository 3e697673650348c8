"""Which price a broker's quote gives, how old it is, and which quotes give none."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from brokers.base import Quote
from execution_service.core.risk.prices import PriceSource, ReferencePrice, price_of_quote
from tests.builders import NOW

EARLIER = NOW - timedelta(minutes=5)


def priced(
    bid: str | None = None, ask: str | None = None, last: str | None = None, *, is_delayed: bool = False
) -> ReferencePrice | str:
    bid_price, ask_price, last_price = (None if each is None else Decimal(each) for each in (bid, ask, last))
    return price_of_quote(
        Quote(bid=bid_price, ask=ask_price, last=last_price, at=NOW, last_at=EARLIER, is_delayed=is_delayed)
    )


@pytest.mark.parametrize(
    ("bid", "ask", "last", "price", "at"),
    [
        ("99", "101", "100.5", "100.5", NOW),
        ("99", "101", "90", "99", NOW),
        ("99", "101", "110", "101", NOW),
        ("99", "101", None, "100", NOW),
        ("100", "100", "100", "100", NOW),
        (None, None, "100", "100", EARLIER),
        ("99", None, "90", "99", NOW),
        (None, "101", "110", "101", NOW),
        ("99", None, "100", "100", EARLIER),
        ("-1", "-1", "100", "100", EARLIER),
        ("0", "0", "100", "100", EARLIER),
        ("NaN", "101", "100", "100", EARLIER),
    ],
)
def test_the_latest_trade_counts_as_far_as_bid_and_ask_allow(
    bid: str | None, ask: str | None, last: str | None, price: str, at: object
) -> None:
    found = priced(bid, ask, last)
    assert isinstance(found, ReferencePrice)
    told = (found.price, found.source, found.at)
    assert told == (Decimal(price), PriceSource.QUOTE, NOW if at is NOW else EARLIER)


def test_bid_and_ask_are_kept_where_they_are_prices() -> None:
    found = priced("99", "NaN", "100")
    assert isinstance(found, ReferencePrice)
    assert (found.bid, found.ask) == (Decimal(99), None)


def test_a_trade_alone_whose_time_is_not_told_gives_no_price() -> None:
    assert (
        price_of_quote(Quote(last=Decimal(100), at=NOW))
        == "the broker's quote has only the price of a trade of any age"
    )


@pytest.mark.parametrize(
    ("bid", "ask", "last", "words"),
    [
        ("101", "99", "100", "bid of 101 above the ask of 99"),
        (None, None, None, "no price"),
        ("-1", "-1", "-1", "no price"),
        ("0", "0", "0", "no price"),
        ("99", None, None, "no price"),
    ],
)
def test_a_quote_that_makes_no_sense_gives_no_price(
    bid: str | None, ask: str | None, last: str | None, words: str
) -> None:
    found = priced(bid, ask, last)
    assert isinstance(found, str)
    assert words in found


def test_a_delayed_quote_gives_no_price_however_young_its_time_is() -> None:
    assert priced("99", "101", "100", is_delayed=True) == "the broker's quote is delayed"
