"""What the demo and the tests need to know of whatever pretends to be a broker on this machine; a broker's manifest names its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brokers.base import Instrument
from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Market


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A venue with one account. Faults are armed, and the truth is read, in `exchange`."""

    exchange: PaperExchange
    config: Mapping[str, object]
    """What the broker's factory needs, in this process or another one, to make an adapter that reaches the venue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a simulator runs as a program, for the account that is to lead to it."""

    address: str
    """As the program's notice tells it."""
    folder: Path
    """For whatever the account keeps in files; and the simulator's own."""
    number: int = 1
    """Which of several accounts this is, from 1 on."""
    ask: Callable[..., Mapping[str, Any]] | None = None
    """Makes a wish on the simulator's control side; None: nobody can yet, and what the simulator begins with has to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """One broker's."""

    open_stage: Callable[[Path, str, Market], AbstractAsyncContextManager[Stage]]
    """In this process: in this folder, for this account, at this market; whatever it started has ended afterwards."""
    symbols: Sequence[str]
    """Shares that it trades, several of them."""
    currency: str = "USD"
    """Of its commissions."""
    product: str | None = None
    """That orders have to name."""
    program: str | None = None
    """The module to run with -m: it takes --port, --data, --notice, --fill-delay-seconds, --seed and --faults. None: the broker's adapter does
    all itself, on the book that `book` names."""
    book: str = ""
    """Where there is no program: the book's file in the service's DATA_DIR."""
    has_own_control_port: bool = False
    """The program's control side is on a port of its own, --control-port; else it is on that of the broker's API."""
    has_connections: bool = False
    """They can break: its control side knows the wishes `restart` and `drop`, and something may stand between it and the adapter."""
    address_at: Callable[[int], str] = "127.0.0.1:{}".format
    """The address that its notice tells, by the port."""
    account: Callable[[Place], Mapping[str, object]] = lambda place: {}
    """The keys of an account that leads to the program."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What those keys refer to."""
    hasty: Mapping[str, object] = field(default_factory=dict)
    """Keys of an account without the patience that the broker's own limits ask for."""
    short_search: Mapping[str, object] = field(default_factory=dict)
    """Keys that shorten the search for an order that has perhaps not arrived, where that takes long."""
    demo_account_id: str = ""
    samples: Sequence[str] = ()
    """The test signals, with arguments, that the demo proposes."""

    @property
    def instrument(self) -> Instrument:
        return Instrument(symbol=self.symbols[0])


def account_table(account_id: str, keys: Mapping[str, object]) -> str:
    """The account as a table of accounts.toml."""
    lines = [f"[accounts.{account_id}]", *(f"{key} = {_toml(value)}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    # A JSON text, number or truth value is a TOML one too.
    return json.dumps(str(value) if isinstance(value, Path) else value)
