"""Hostile attributes beside bodies good and bad, through the whole service: they change nothing, and a dead letter keeps them."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from pathlib import Path

from google.pubsub_v1 import PubsubMessage

from execution_service.core.orders.status import Status
from tests.fakes import world_of
from tests.fuzz.mutations import FIELD_NAMES, text_of, texts

LONGEST_NAME, LONGEST_VALUE, MOST = 256, 1024, 100
"""Pub/Sub's own limits, in bytes and attributes."""
GOOGLES = (
    "googclient_deliveryattempt",
    "googclient_schemaencoding",
    "googclient_schemarevisionid",
    "googclient_OpenTelemetrySpan",
)
NAMES = (
    "",
    "$where",
    "$set",
    "a.b",
    "_id",
    "name",
    "ordering_key",
    "message_id",
    "timeout",
    "retry",
    "__class__",
    "\x00",
)


def hostile_attributes(luck: random.Random) -> dict[str, str]:
    """What Pub/Sub would deliver: valid Unicode, no more and no longer than it allows."""
    count = luck.choice((0, 1, 2, 5, MOST))
    found = {}
    for _ in range(count):
        name = luck.choice((*NAMES, *GOOGLES, *FIELD_NAMES, *texts(), f"x{luck.randrange(1000)}"))
        value = luck.choice((*texts(), *NAMES, "SELL", "1e400", "null", "é" * 512, "{" * 1000))
        found[_fit(name, LONGEST_NAME)] = _fit(value, LONGEST_VALUE)
    return found


def _fit(text: str, limit: int) -> str:
    """As it would arrive: cut to the limit, without half characters, which Pub/Sub cannot carry."""
    return text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


def delivered(attributes: dict[str, str]) -> dict[str, str]:
    """After the way through Pub/Sub's own message."""
    return dict(PubsubMessage.deserialize(PubsubMessage.serialize(PubsubMessage(attributes=attributes))).attributes)


async def check_attributes(folder: Path, seed: int, count: int) -> Counter[str]:
    """How many became what. Raises AssertionError where an attribute had an effect, or was lost with a dead letter."""
    luck = random.Random(seed)
    outcomes: Counter[str] = Counter()
    async with world_of(folder) as world:
        letters: dict[str, dict[str, str]] = {}
        for number in range(count):
            attributes = delivered(hostile_attributes(luck))
            if luck.random() < 0.3:
                letters[world.send_raw(b"no order", attributes=attributes)] = attributes
                continue
            body = {
                "signal_id": f"fuzz-{number}",
                "account_id": "acct-1",
                "strategy_name": "momentum",
                "symbol": "AAPL",
                "side": "BUY",
                "quantity": 7,
                "order_type": "MARKET",
                "price": 10,
            }
            world.send_raw(text_of(body).encode(), attributes=attributes)
        await world.run(60)
        assert not world.orders.unacknowledged, "every message is acknowledged"
        for order in world.records():
            assert order.status is Status.FILLED, f"{order.signal_id} is {order.status}"
            assert (order.quantity, order.symbol) == (Decimal(7), "AAPL")
            outcomes["order"] += 1
        kept = world.documents("execution_dead_letters")
        assert {letter["_id"] for letter in kept} == set(letters)
        for letter in kept:
            assert {each["name"]: each["value"] for each in letter["attributes"]} == letters[letter["_id"]]
            outcomes["dead letter"] += 1
        assert len(world.placed()) == outcomes["order"] == count - len(letters)
    return outcomes
