"""What is answered to questions, from the store and from how the service stands; nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

from execution_service.control.limit_uses import limit_uses
from execution_service.core.orders.order import Order
from execution_service.core.orders.status import FINAL, Status
from execution_service.core.planning.targets import Aggressiveness
from execution_service.core.texts import commanded
from execution_service.core.texts.mutes import mute_words
from execution_service.core.texts.switches import switch_words
from execution_service.core.texts.values import currency_of, plain
from execution_service.delivery.mutes import Mutes
from execution_service.runtime.clock import Clock
from execution_service.storage.ports.orders import Stored
from execution_service.storage.ports.queries import OrderFilter, Place
from execution_service.storage.ports.store import Store
from execution_service.storage.ports.switches import UnreadableSwitch
from execution_service.trading.risk_rules import RiskRules

OPEN = frozenset(Status) - FINAL
PAGE = 200
MOST_OF_A_DAY = 1000
FILLS_MAY_BE_OF = timedelta(days=7)
"""Orders that came in so long before the day are looked at too: they may have filled in it."""
LATEST = 20


class Stands(Protocol):
    """How the service stands, from memory alone."""

    mode: str
    version: str

    def status(self) -> str: ...

    def components(self) -> Mapping[str, Mapping[str, Any]]: ...


class Questions:
    """Each answer is a text for the chat. Raises StoreUnavailable."""

    def __init__(self, *, store: Store, standing: Stands, rules: RiskRules, mutes: Mutes, clock: Clock) -> None:
        self._store = store
        self._standing = standing
        self._rules = rules
        self._mutes = mutes
        self._clock = clock

    async def status(self) -> str:
        counts: dict[str, int] = {}
        for (status, _), count in (await self._store.counts_of_orders()).items():
            if status in OPEN:
                counts[status] = counts.get(status, 0) + count
        latest = await self._store.page_of_orders(OrderFilter(), None, LATEST)
        moments = [event.at for stored in latest for event in stored.order.events[-1:]]
        moments += [stored.order.received_at for stored in latest]
        return commanded.status(
            mode=self._standing.mode,
            health=self._standing.status(),
            version=self._standing.version,
            troubles=self._troubles(),
            engaged=await self.engaged(),
            stances=await self.stances(),
            muted=await self.muted(),
            counts=counts,
            last_activity=max(moments, default=None),
            now=self._clock.now(),
        )

    async def muted(self) -> Sequence[str]:
        """The kinds of notice that are left out for a time; a line each."""
        return [mute_words(mute) for mute in await self._mutes.read()]

    async def engaged(self) -> Sequence[str]:
        """The kill switches that stop something, or cannot be read; a line each."""
        return [
            f"{each.key} (cannot be read, and counts as engaged: {each.reason})"
            if isinstance(each, UnreadableSwitch)
            else switch_words(each.switch)
            for each in await self._store.switches()
            if isinstance(each, UnreadableSwitch) or each.switch.is_engaged
        ]

    async def stances(self) -> Sequence[str]:
        """What counts otherwise than plans say; a line each."""
        kept, now = await self._store.stances(), self._clock.now()
        counting = [record for record in kept.records if record.at(now) is not Aggressiveness.NORMAL]
        lines = [f"{each.scope}: {each.at(now)}, by {each.latest.by or 'nobody named'}" for each in counting]
        return [*lines, *(f"{scope}: cannot be read, only reductions pass" for scope in kept.doubtful)]

    def _troubles(self) -> Sequence[str]:
        return [
            ", ".join(filter(None, (f"{name}: {component['status']}", component["message"])))
            for name, component in self._standing.components().items()
            if component["status"] != "OK"
        ]

    async def orders(self) -> str:
        found = await self._store.page_of_orders(OrderFilter(statuses=OPEN), None, commanded.ROWS * 2)
        has_more = len(found) == commanded.ROWS * 2
        return commanded.orders([each.order for each in found], now=self._clock.now(), has_more=has_more)

    async def order(self, name: str) -> str | None:
        """None: no order is called so."""
        found = await self._store.orders_named(name)
        return "\n\n".join(commanded.story(stored.order) for stored in found[:5]) or None

    async def positions(self) -> str:
        return commanded.positions(await self._store.held_positions())

    async def limits(self) -> str:
        found = await limit_uses(self._store, self._rules.limits, self._rules.zones, self._clock.now())
        used = [usage for usage in found.usages if usage.used]
        return commanded.limits(used, [(broken.account_id, broken.trip) for broken in found.broken])

    async def attention(self) -> str:
        day = self._day()
        in_doubt = await self._store.page_of_orders(
            OrderFilter(statuses=frozenset({Status.IN_DOUBT})), None, commanded.ROWS
        )
        refused = await self._store.page_of_orders(OrderFilter(statuses=frozenset({Status.REJECTED})), None, PAGE)
        letters = await self._store.latest_dead_letters(PAGE)
        return commanded.attention(
            in_doubt=[each.order for each in in_doubt],
            unprotected=[each.order for each in await self._store.unprotected_entries()],
            discrepancies=await self._store.discrepancies(),
            refused=[each.order for each in refused if each.order.received_at >= day],
            dead_letters=[plain(each.reason) for each in letters],
            commands_waiting=len(await self._store.unfinished_commands()),
            troubles=self._troubles(),
        )

    async def daily(self) -> str:
        day = self._day()
        found, is_cut = await self._since(day - FILLS_MAY_BE_OF)
        days: dict[tuple[str, str], commanded.DayOfAccount] = {}
        for stored in found:
            order = stored.order
            key = (order.request.account_id or "?", currency_of(order))
            before = days.get(key) or commanded.DayOfAccount(account_id=key[0], currency=key[1])
            days[key] = _with(before, stored, day)
        shown = [each for _, each in sorted(days.items()) if each.orders or each.fills or each.refused]
        return commanded.daily(shown, day=day, is_cut=is_cut)

    async def _since(self, moment: datetime) -> tuple[list[Stored], bool]:
        """The latest orders received since; whether there were more than are looked at."""
        found: list[Stored] = []
        place: Place | None = None
        while len(found) < MOST_OF_A_DAY:
            page = await self._store.page_of_orders(OrderFilter(), place, PAGE)
            found += [stored for stored in page if stored.order.received_at >= moment]
            if len(page) < PAGE or page[-1].order.received_at < moment:
                return found, False
            place = Place(moment=page[-1].order.received_at, row_id=page[-1].order.order_id)
        return found, True

    def _day(self) -> datetime:
        return self._clock.now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _with(day: commanded.DayOfAccount, stored: Stored, since: datetime) -> commanded.DayOfAccount:
    order: Order = stored.order
    if order.adoption is not None:  # no order of anybody
        return day
    fills = [fill for fill in order.fills if fill.time >= since and fill.fill_id not in order.busted_fill_ids]
    lines = stored.told.lines.values() if order.money_per_point is not None else ()
    realized = [line.realized for line in lines if order.events[line.event_number - 1].at >= since]
    is_refused = order.status is Status.REJECTED and order.events and order.events[-1].at >= since
    return replace(
        day,
        orders=day.orders + (order.received_at >= since),
        fills=day.fills + len(fills),
        refused=day.refused + bool(is_refused),
        realized=sum(realized, day.realized),
        commission=sum((fill.commission or Decimal(0) for fill in fills), day.commission),
    )
