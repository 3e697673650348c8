"""What the demo and the tests need to know about a simulated broker; the broker's manifest names its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brokers.base import AssetClass, Instrument
from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Market


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A venue with one account. Faults are armed in `exchange`, which also has the true state."""

    exchange: PaperExchange
    config: Mapping[str, object]
    """The configuration with which the broker's factory creates an adapter for the venue, in this process or
    another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a simulator runs as a program, for the account that is to reach it."""

    address: str
    """As in the program's notice."""
    folder: Path
    """For files of the account and of the simulator."""
    number: int = 1
    """Which of several accounts this is, from 1."""
    ask: Callable[..., Mapping[str, Any]] | None = None
    """Sends a command to the simulator's control side. None: it is not running yet, and the simulator's defaults
    must do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """One broker's simulator."""

    open_stage: Callable[[Path, str, Market], AbstractAsyncContextManager[Stage]]
    """Opens the venue in this process, with this folder, account and market; everything that it started has ended
    afterwards."""
    symbols: Sequence[str]
    """Several instruments that it trades."""
    asset_class: AssetClass = AssetClass.STOCK
    """Of these."""
    currency: str = "USD"
    """The currency of its commissions."""
    product: str | None = None
    """The product that orders have to name, if any."""
    order_fields: Mapping[str, object] = field(default_factory=dict)
    """What a message about an order has to say beside its symbol, in the words of the message."""
    program: str | None = None
    """The module to run with -m, with the options --port, --data, --notice, --fill-delay-seconds, --seed and
    --faults. None: the broker's adapter does everything itself, with the book that `open_book` opens."""
    open_book: Callable[[Path, str], PaperExchange] | None = None
    """If there is no program: opens this account's view of the book that the adapter keeps in this DATA_DIR, beside it."""
    has_own_control_port: bool = False
    """Whether the control side has a port of its own (--control-port); otherwise it is on the port of the broker's
    API."""
    has_connections: bool = False
    """Whether it has connections that can break: its control side has the commands `restart` and `drop`, and a proxy
    can be put before it."""
    address_at: Callable[[int], str] = "127.0.0.1:{}".format
    """The address in its notice, from the port."""
    account: Callable[[Place], Mapping[str, object]] = lambda place: {}
    """The keys of an account that uses the program, or the book."""
    steady_account: Callable[[Place], Mapping[str, object]] | None = None
    """The same for tests that say at which price orders fill, where the market of `account` moves. None: it does not."""
    apart: Mapping[str, object] = field(default_factory=dict)
    """If it trades only what is in a list: what names an instrument, in the words of a message, that no other test of a stage trades."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that these keys refer to."""
    hasty: Mapping[str, object] = field(default_factory=dict)
    """Account keys that shorten the pauses required by the broker's own limits."""
    short_search: Mapping[str, object] = field(default_factory=dict)
    """Account keys that shorten the search for an order that may not have arrived, if that takes long."""
    demo_account_id: str = ""
    samples: Sequence[str] = ()
    """The test signals, with arguments, that the demo suggests."""

    def test_account(self, place: Place) -> Mapping[str, object]:
        """The keys of an account whose orders fill at the price that they name."""
        return (self.steady_account or self.account)(place)

    @property
    def instrument(self) -> Instrument:
        return Instrument(symbol=self.symbols[0], asset_class=self.asset_class)


def account_table(account_id: str, keys: Mapping[str, object]) -> str:
    """The account as a table of accounts.toml."""
    lines = [f"[accounts.{account_id}]", *(f"{key} = {_toml(value)}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    # A JSON text, number or boolean is valid TOML too.
    return json.dumps(str(value) if isinstance(value, Path) else value)
