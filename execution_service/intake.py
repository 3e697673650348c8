"""From a Pub/Sub message to a stored order, a stored refusal or a dead letter, and only then the acknowledgement."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import structlog

from execution_service.core import alerts
from execution_service.core.errors import UnreadableRecord
from execution_service.core.order import (
    CancelRequested,
    Event,
    Noted,
    Order,
    OrderRequest,
    Reason,
    ReasonCode,
    RefusedRequest,
    Rejected,
    apply_all,
    new_order,
)
from execution_service.core.wire import ParsedOrder, Unusable, parse_order
from execution_service.live import LiveOrders
from execution_service.ports import Clock, DeadLetter, Message, Store, Stored, StoreUnavailable, Told

log = structlog.get_logger(__name__)

BATCH = 50
AFTER_FAILURE_SECONDS = 1.0


class RaiseAlarm(Protocol):
    def __call__(self, kind: str, text: str, count: int = 1) -> Coroutine[Any, Any, None]: ...


class Intake:
    """Takes orders in; many messages that are there at once are stored by one write."""

    def __init__(
        self,
        *,
        store: Store,
        live_orders: LiveOrders,
        clock: Clock,
        is_known_account: Callable[[str], bool],
        is_cancelled: Callable[[Order], Reason | None],
        hand_over: Callable[[Stored], None],
        raise_alarm: RaiseAlarm,
        foreign_desk: Callable[[Order], str | None] = lambda order: None,
    ) -> None:
        """`foreign_desk` names the desk of an order that another process works."""
        self._store = store
        self._live = live_orders
        self._clock = clock
        self._is_known_account = is_known_account
        self._is_cancelled = is_cancelled
        self._hand_over = hand_over
        self._raise_alarm = raise_alarm
        self._foreign_desk = foreign_desk

    async def run(self, messages: asyncio.Queue[Message]) -> None:
        """Until cancelled. While the store is away nothing is acknowledged, and so no more than the flow limit is pulled."""
        while True:
            batch = [await messages.get()]
            while len(batch) < BATCH and not messages.empty():
                batch.append(messages.get_nowait())
            with put_back_unless_taken(messages, batch):
                await take_until_stored(self.take, batch, self._clock)

    async def take(self, messages: Sequence[Message]) -> list[str]:
        """Stores what the messages mean and acknowledges them; returns our ids of the orders meant, also of repeated ones.

        Raises StoreUnavailable: then nothing was acknowledged, and doing it again is harmless.
        """
        letters: list[DeadLetter] = []
        meant: list[tuple[Message, Order]] = []
        for message in messages:
            parsed = parse_order(message.data)
            if isinstance(parsed, Unusable):
                letters.append(self._dead_letter(message, parsed.reason))
            else:
                meant.append((message, self._order(parsed, message)))
        unusable = len(letters)
        conflicts = await self._store_orders(meant)
        letters += [letter for _, letter in conflicts]
        if letters:
            await self._store.insert_dead_letters(letters)
        # Before the acknowledgement: what is acknowledged does not come again, and then nobody would tell people.
        if unusable:
            words = alerts.dead_letters(count=1, reason=letters[unusable - 1].reason)
            await self._raise_alarm("dead_letter", words, unusable)
        if conflicts:
            signal_id, letter = conflicts[-1]
            words = alerts.conflict(count=1, signal_id=signal_id, detail=letter.reason)
            await self._raise_alarm("conflict", words, len(conflicts))
        for message in messages:
            message.ack()
        return [order.order_id for _, order in meant]

    def _order(self, parsed: ParsedOrder, message: Message) -> Order:
        """The order as it is first recorded: PENDING, or ended at the door."""
        now = self._clock.now()
        order = new_order(
            parsed.identity,
            parsed.request,
            received_at=now,
            published_at=message.publish_time,
            message_id=message.message_id,
            raw=parsed.raw,
        )
        first: tuple[Event, ...] = ()
        cancelled = self._is_cancelled(order)
        if parsed.problems:
            first = (Rejected(at=now, reason=Reason(ReasonCode.INVALID_ORDER, "; ".join(parsed.problems))),)
        elif not self._is_known_account(str(parsed.request.account_id)):
            words = f"account {parsed.request.account_id} is not configured"
            first = (Rejected(at=now, reason=Reason(ReasonCode.UNKNOWN_ACCOUNT, words)),)
        elif cancelled is not None:
            first = (CancelRequested(at=now, reason=cancelled, requested_by="order-commands"),)
        if parsed.warning is not None:
            first = (Noted(at=now, message=parsed.warning), *first)
        return apply_all(order, first)

    async def _store_orders(self, meant: Sequence[tuple[Message, Order]]) -> list[tuple[str, DeadLetter]]:
        """Inserts the new ones and hands them over; returns dead letters, with their signal, for those that contradict what is stored, or
        cannot be compared with it."""
        first_of: dict[str, Order] = {}
        repeated: list[tuple[Message, Order, Order]] = []
        for message, order in meant:
            first = first_of.setdefault(order.order_id, order)
            if first is not order:
                repeated.append((message, order, first))
        left = self._left(first_of.values())
        present = await self._store.insert_orders(list(first_of.values()), left) if first_of else []
        stored = dict(zip(first_of, present, strict=True))
        fresh: list[Stored] = []
        spoilt: list[tuple[str, DeadLetter]] = []
        for message, order in meant:
            found = stored[order.order_id]
            if first_of[order.order_id] is not order:
                continue
            if found is None:
                log.info(
                    alerts.order_received(order.signal_id),
                    action="order_received",
                    signal_id=order.signal_id,
                    order_id=order.order_id,
                )
                self._say_first(order)
                fresh.append(Stored(order, Told()))
            elif isinstance(found, UnreadableRecord):
                words = f"{order.signal_id} is stored already, and its record cannot be read: {found}"
                spoilt.append((order.signal_id, self._dead_letter(message, words)))
            else:
                repeated.append((message, order, found))
        await self._pass_on(fresh, left)
        await self._take_up([found.order_id for _, _, found in repeated if found.order_id not in self._live.by_id])
        conflicts = [(r[1].signal_id, letter) for r in repeated if (letter := self._repetition(*r)) is not None]
        return spoilt + conflicts

    def _say_first(self, order: Order) -> None:
        """What ended the order at the door, if anything did, and what of it is not read."""
        for event in order.events:
            line = alerts.log_line(order, event, order)
            if line is not None:
                sentence, action = line
                say = log.warning if isinstance(event, Noted) else log.info
                say(sentence, action=action, signal_id=order.signal_id, order_id=order.order_id)

    async def _take_up(self, order_ids: Sequence[str]) -> None:
        """What looks like a repetition may be our own insertion, whose answer was lost: stored, and in nobody's hands."""
        found = await self._store.load(order_ids) if order_ids else []
        await self._pass_on([s for s in found if s.is_unsettled], {})

    async def _pass_on(self, some: Sequence[Stored], left: Mapping[str, str]) -> None:
        """To whoever works them: here at once, elsewhere by a word in the record, unless that was `left` with it."""
        foreign = self._left(stored.order for stored in some)
        for stored in some:
            if stored.order.order_id not in foreign:
                self._hand_over(stored)
        unsaid = {order_id: desk for order_id, desk in foreign.items() if order_id not in left}
        if unsaid:
            await self._store.leave(unsaid)

    def _left(self, orders: Iterable[Order]) -> dict[str, str]:
        """The desks of those that are not ours, by our id."""
        return {o.order_id: desk for o in orders if (desk := self._foreign_desk(o)) is not None}

    def _repetition(self, message: Message, order: Order, first: Order) -> DeadLetter | None:
        if _means_the_same(order, first):
            log.info(
                f"Duplicate of order {order.signal_id} ignored", action="duplicate_ignored", signal_id=order.signal_id
            )
            return None
        words = (
            f"{ReasonCode.DUPLICATE_CONFLICT}: {order.signal_id} came again with different content and was not placed"
        )
        log.warning(words, action="duplicate_conflict", signal_id=order.signal_id, order_id=order.order_id)
        return self._dead_letter(message, words)

    def _dead_letter(self, message: Message, reason: str) -> DeadLetter:
        return DeadLetter(
            message_id=message.message_id,
            payload=message.data,
            reason=reason,
            publish_time=message.publish_time,
            attributes=message.attributes,
            received_at=self._clock.now(),
        )


def _means_the_same(order: Order, first: Order) -> bool:
    mine, theirs = order.request, first.request
    if order.raw == first.raw:
        # Also where an earlier version read less of it.
        return True
    if isinstance(mine, OrderRequest) and isinstance(theirs, OrderRequest):
        return mine.content == theirs.content
    if isinstance(mine, RefusedRequest) and isinstance(theirs, RefusedRequest):
        return mine.fingerprint == theirs.fingerprint
    return False


@contextlib.contextmanager
def put_back_unless_taken(messages: asyncio.Queue[Message], batch: Sequence[Message]) -> Iterator[None]:
    """Whoever ends in the middle of a batch leaves it to who takes next: Pub/Sub, to which it is in our hands, would not bring it again for
    a day. To take one twice is harmless."""
    try:
        yield
    except BaseException:
        for message in batch:
            messages.put_nowait(message)
        raise


async def take_until_stored(
    take: Callable[[Sequence[Message]], Coroutine[Any, Any, Any]], batch: Sequence[Message], clock: Clock
) -> None:
    """Tries on while the store is away; the messages stay unacknowledged meanwhile. A batch that fails otherwise is taken apart, so
    that one message cannot stop the others."""
    while True:
        try:
            await take(batch)
            return
        except StoreUnavailable as exc:
            log.warning(f"Messages wait for the store: {exc}", action="intake_waiting")
            await clock.sleep(AFTER_FAILURE_SECONDS)
        except Exception as exc:
            if len(batch) == 1:
                log.error(
                    f"Message {batch[0].message_id} could not be taken; Pub/Sub will deliver it again: {exc}",
                    action="intake_failed",
                    exc_info=exc,
                )
                await clock.sleep(AFTER_FAILURE_SECONDS)
                batch[0].nack()
                return
            for message in batch:
                await take_until_stored(take, [message], clock)
            return
