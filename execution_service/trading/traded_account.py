"""An account as trading sees it: how it is named, and how its broker is made; where that is configured is not known here."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from brokers.base import Broker
from execution_service.core.planning.targets import Mode


class TradedAccount(Protocol):
    """One account that is configured."""

    @property
    def account_id(self) -> str: ...

    @property
    def name(self) -> str:
        """For people."""

    @property
    def broker_name(self) -> str:
        """As long as the broker has not said its own."""

    @property
    def is_live(self) -> bool:
        """Whether real money may be traded; else the broker must not say that the account is a real one."""

    @property
    def mode(self) -> Mode:
        """Whether it trades at a broker, or in TRAINING."""

    @property
    def is_on_bars(self) -> bool:
        """Whether its broker's market is one of the past, with a clock of its own: no order waits there by the wall clock."""

    @property
    def makes_up_prices(self) -> bool:
        """Whether its broker is a stand-in, which trades at a price of its own where an order names none."""

    def create_broker(self) -> Broker:
        """A new adapter, not connected yet."""


class AccountDirectory(Protocol):
    """The accounts that are configured."""

    @property
    def named(self) -> Collection[str]:
        """Those whose brokers are listened to from the start; others are met only by their orders."""

    def account(self, account_id: str) -> TradedAccount | None:
        """None: it is not configured."""

    def is_known(self, account_id: str) -> bool:
        """Whether it is configured."""

    def mode_of(self, account_id: str) -> Mode | None:
        """None: it is not configured."""
