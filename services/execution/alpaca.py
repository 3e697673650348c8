"""`AlpacaClient`, `OrderManagementSystem`, `PositionTracker` and `OrderRequest`, the names by which programs of spec 001 know this
service: thin doors to the one path of orders. An order placed here is stored, judged by the limits of risk and followed like any other."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType, TracebackType
from typing import Any, Self

from brokers.base import BrokerPosition
from brokers.errors import BrokerUnavailable
from brokers.factory import BrokerFactory
from brokers.registry import manifests
from execution_service.app.service import ExecutionService
from execution_service.app.settings.accounts import Account, account_at
from execution_service.app.settings.loading import Settings, load_settings
from execution_service.app.settings.problems import ConfigurationError
from execution_service.app.wiring import World, real_world
from execution_service.control.requests import Kind
from execution_service.control.results import Refused
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import FINAL, Status
from execution_service.core.reconcile.discrepancies import Finding
from execution_service.core.reconcile.positions import Holding, compare_positions
from execution_service.storage.ports.commands import Command

BROKER = "alpaca"
ACCOUNT_ID = "Alpaca_Main"
_LEFT_SECONDS = 30.0
_LOOK_SECONDS = 0.02
_NOT_LEFT = frozenset({Status.PENDING, Status.SUBMITTING})


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """An order to be placed. The same request is the same order, however often it is placed: another order is another
    request, or has another `signal_id`."""

    symbol: str
    side: str
    """BUY or SELL."""
    quantity: Decimal | int | str
    order_type: str = "MARKET"
    strategy_id: str
    limit_price: Decimal | int | str | None = None
    stop_price: Decimal | int | str | None = None
    time_in_force: str | None = None
    """DAY, GTC or IOC."""
    stop_loss: Decimal | int | str | None = None
    take_profit: Decimal | int | str | None = None
    signal_id: str = field(default_factory=lambda: f"req_{secrets.token_hex(8)}")
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of an order as docs/messages.md names them, such as `instrument_type`, `expiry` or `variety`."""

    def fields(self, account_id: str) -> dict[str, Any]:
        """The order as a message would bring it."""
        named = {
            "signal_id": self.signal_id,
            "symbol": self.symbol,
            "side": self.side,
            "quantity": _text(self.quantity),
            "order_type": self.order_type,
            "strategy_name": self.strategy_id,
            "account_id": account_id,
            "limit_price": _text(self.limit_price),
            "stop_price": _text(self.stop_price),
            "tif": self.time_in_force,
            "stop_loss": _text(self.stop_loss),
            "take_profit": _text(self.take_profit),
        }
        return {name: value for name, value in named.items() if value is not None} | dict(self.more)


class AlpacaClient:
    """One account at Alpaca, with the whole service around it in this process: its store (`MONGODB_URI`, else the embedded one under `DATA_DIR`),
    limits of risk and kill switches, by the same settings. It starts with the first call, or as a context manager, and takes no messages of others.

    Raises ConfigurationError for settings that cannot be used, CannotStart and EmbeddedPartFailed when it starts; two services cannot share one
    embedded store.
    """

    def __init__(
        self,
        api_key: str,
        secret_key: str,
        *,
        paper: bool = True,
        account_id: str = ACCOUNT_ID,
        settings: Settings | None = None,
    ) -> None:
        """`settings`: of this process, unless given. The address is that of `ALPACA_BASE_URL`, else Alpaca's for paper or live accounts."""
        own = {"api_key": api_key, "secret_key": secret_key, "trading_mode": "PAPER" if paper else "LIVE"}
        self._account_id = account_id
        self._settings = _with_account(settings or load_settings(), account_id, own)
        self._starting = asyncio.Lock()
        self._world: World | None = None
        self._service: ExecutionService | None = None
        self._at_end = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Takes up what an earlier life left, then takes orders. Idempotent. Raises StoreUnavailable besides."""
        async with self._starting:
            if self._service is not None:
                return
            async with contextlib.AsyncExitStack() as stack:
                world = await stack.enter_async_context(real_world(self._settings))
                service = ExecutionService(world.parts)
                stack.push_async_callback(service.supervisor.end_all)
                for revival in world.revivals:
                    service.supervisor.keep(revival)
                await world.parts.notifier.start()
                await world.parts.store.open()
                await service.start()
                stack.push_async_callback(service.stop)
                self._world, self._service, self._at_end = world, service, stack.pop_all()

    async def close(self) -> None:
        """Ends in order; working orders stay at the broker, and the next start takes them up. Idempotent."""
        async with self._starting:
            self._world = self._service = None
            await self._at_end.aclose()

    async def place_order(self, request: OrderRequest) -> Order:
        """The order once it has left for the broker, or has ended without: `status`, `reason`. After 30 s as it stands: it goes on. Raises
        ValueError where the request is no order at all, StoreUnavailable if it was not stored."""
        service = await self._started()
        order = await service.process_order(request.fields(self._account_id))
        end = service.clock.monotonic() + _LEFT_SECONDS
        while order.status in _NOT_LEFT and service.clock.monotonic() < end:
            await service.clock.sleep(_LOOK_SECONDS)
            order = await self.get_order(order.order_id)
        return order

    async def get_order(self, order_id: str) -> Order:
        """The order by our id, as it stands now. Raises KeyError, StoreUnavailable."""
        await self._started()
        assert self._world is not None
        found = await self._world.parts.store.load([order_id])
        if not found:
            raise KeyError(order_id)
        return found[0].order

    async def cancel_order(self, order_id: str, reason: str = "cancelled by a program") -> Order:
        """Asks for a cancel by our id, and tells the order as it stands then: cancelled once the broker says so. Raises KeyError, ValueError if it
        cannot be cancelled, StoreUnavailable."""
        service = await self._started()
        await self.get_order(order_id)
        now = service.clock.now()
        body = {"order_id": order_id, "reason": reason, "requested_by": "AlpacaClient"}
        mark = f"client-{secrets.token_hex(8)}"
        command = Command(command_id=mark, kind=Kind.CANCEL, body=body, published_at=now, received_at=now)
        result = await service.commands.give(command)
        if isinstance(result, Refused):
            raise ValueError(result.words)
        return await self.get_order(order_id)

    async def get_positions(self) -> Sequence[BrokerPosition]:
        """What the account holds at Alpaca now. Raises BrokerUnavailable where it does not tell, or there is no connection in time."""
        service = await self._started()
        held = await service.accounts.positions_of(self._account_id)
        if held is None:
            raise BrokerUnavailable("Alpaca does not tell its positions now")
        return held

    async def _started(self) -> ExecutionService:
        await self.start()
        assert self._service is not None
        return self._service


class OrderManagementSystem:
    """The orders of a program, each as last seen. It decides nothing: the state machine is the service's own."""

    def __init__(self) -> None:
        self._orders: dict[str, Order] = {}

    def add_order(self, order: Order) -> None:
        """An older state of a known order changes nothing."""
        known = self._orders.get(order.order_id)
        if known is None or order.version >= known.version:
            self._orders[order.order_id] = order

    def get_order(self, order_id: str) -> Order | None:
        return self._orders.get(order_id)

    def get_orders(self, status: Status | str | None = None) -> Sequence[Order]:
        """All, or those in this status, in the sequence in which they were added."""
        return [order for order in self._orders.values() if status is None or order.status == status]

    def get_open_orders(self) -> Sequence[Order]:
        return [order for order in self._orders.values() if order.status not in FINAL]

    async def refresh(self, client: AlpacaClient) -> Sequence[Order]:
        """Sees the open orders anew; returns those that have changed."""
        changed = []
        for order in self.get_open_orders():
            now = await client.get_order(order.order_id)
            if now.version > order.version:
                self.add_order(now)
                changed.append(now)
        return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciliationResult:
    """Where the tracker's positions and the broker's differ."""

    discrepancies: tuple[Finding, ...]
    not_tracked: tuple[BrokerPosition, ...]
    """Positions of the broker that the tracker does not have at all."""

    @property
    def has_discrepancies(self) -> bool:
        return bool(self.discrepancies or self.not_tracked)


class PositionTracker:
    """A program's picture of an account's positions, and how it compares with the broker's."""

    def __init__(self) -> None:
        self._positions: tuple[BrokerPosition, ...] = ()

    @property
    def positions(self) -> Sequence[BrokerPosition]:
        return self._positions

    def update_from_broker(self, positions: Sequence[BrokerPosition]) -> None:
        self._positions = tuple(positions)

    async def reconcile(self, client: AlpacaClient) -> ReconciliationResult:
        """Compares with what the broker shows now; changes nothing. Raises as `get_positions`."""
        theirs = await client.get_positions()
        ours = [
            Holding(
                instrument=each.instrument, quantity=each.quantity, product=each.product, is_unclear=each.is_unclear
            )
            for each in self._positions
        ]
        compared = compare_positions(ours, theirs)
        return ReconciliationResult(discrepancies=compared.findings, not_tracked=compared.not_ours)


def _with_account(settings: Settings, account_id: str, own: Mapping[str, str]) -> Settings:
    """With this account alone. Raises ConfigurationError."""
    manifest = manifests()[BROKER]
    account: Account = account_at(
        manifest, account_id, account_id, settings.brokers, settings.data_dir, own, live=True, own=own
    )
    configuration = BrokerFactory.configuration_of(BROKER)
    wrong = {} if configuration is None else configuration.wrong_in(account.config)
    is_live = manifest.is_paper(account.config) is not True
    problems = [complaint.sentence_without_value for complaint in wrong.values()]
    if is_live and settings.mongodb_uri is None:
        problems.append("MONGODB_URI is not set: live accounts are refused on the embedded store")
    if problems:
        raise ConfigurationError(tuple(problems))
    account = account_at(
        manifest, account_id, account_id, settings.brokers, settings.data_dir, own, live=is_live, own=own
    )
    secrets_too = (*settings.secret_values, own["api_key"], own["secret_key"])
    return settings.model_copy(
        update={"accounts": MappingProxyType({account_id: account}), "secret_values": secrets_too}
    )


def _text(number: Decimal | int | str | None) -> str | None:
    return None if number is None else str(number)
