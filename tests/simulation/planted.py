"""Faults that the service once had, each put back by a patch: what finds faults is held against them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from execution_service.app.supervisor import Supervisor
from execution_service.core.orders import last_reported
from execution_service.core.orders.events import Doubted, Event
from execution_service.core.orders.order import Order, apply_all
from execution_service.core.protection.plan import _Piece
from execution_service.core.texts import orders as texts_of_orders
from execution_service.core.texts.orders import account_not_configured
from execution_service.delivery.cursor import Progress
from execution_service.delivery.ledger import Ledger, Parcel
from execution_service.delivery.ledger_and_views import LedgerAndViews
from execution_service.delivery.stream import Stream
from execution_service.delivery.views import Around, Views
from execution_service.intake.intake import PROBE_SECONDS, Receiver
from execution_service.ownership.account_ownership import AccountOwnership
from execution_service.ownership.alone import Alone
from execution_service.ownership.orphans import GATHERED_SECONDS, Orphans
from execution_service.recording.live_orders import LiveOrder
from execution_service.storage.mongo.commits import Commit
from execution_service.storage.mongo.documents import command_from_document
from execution_service.storage.mongo.names import ALERTS, COMMANDS, LEASES, ORDERS
from execution_service.storage.mongo.schedule import SideBySide
from execution_service.storage.mongo.store import MongoStore
from execution_service.storage.ports.errors import StoreUnavailable
from execution_service.storage.ports.orders import Stored, Unsettled
from execution_service.trading.instrument_queues import InstrumentQueues
from execution_service.trading.isolation import Isolation
from execution_service.trading.protection import Protection, _Waiting
from execution_service.trading.stop_news import StopNews
from tests.simulation.world import Replica

Patch = pytest.MonkeyPatch
PLANTED: dict[str, Callable[[Patch], None]] = {}
"""By the name of the history in `test_found.py` that shows the fault."""


def plants(name: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def note(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        PLANTED[name] = plant
        return plant

    return note


def _reads_all_or_nothing(patch: Patch, collection: str) -> None:
    whole = MongoStore._readable

    def readable(self: MongoStore, name: str, documents: Iterable[Any], read: Callable[[Any], Any]) -> list[Any]:
        return [read(document) for document in documents] if name == collection else whole(self, name, documents, read)

    patch.setattr(MongoStore, "_readable", readable)


@plants("a command that cannot be read keeps the service from starting")
def commands_all_or_nothing(patch: Patch) -> None:
    _reads_all_or_nothing(patch, COMMANDS)


@plants("an alert that cannot be read ends the sending of all")
def alerts_all_or_nothing(patch: Patch) -> None:
    _reads_all_or_nothing(patch, ALERTS)


@plants("a lease that cannot be read stops everything while it is there")
def leases_all_or_nothing(patch: Patch) -> None:
    _reads_all_or_nothing(patch, LEASES)


@plants("an exception out of one order's step restarts the account")
def nothing_is_isolated(patch: Patch) -> None:
    def failed(self: Isolation, live: Any, why: BaseException, *, doing: str) -> None:
        raise why

    patch.setattr(Isolation, "failed", failed)


@plants("a queue that pauses while the account begins anew")
def queues_outlive_their_tasks(patch: Patch) -> None:
    def begin_anew(self: InstrumentQueues) -> None:
        """What a queue waited for has ended with the task that would have ended it."""
        for queue in self._queues.values():
            queue.batch = queue.batch or (tuple(queue.orders.values()) if queue.pause is not None else ())

    patch.setattr(InstrumentQueues, "begin_anew", begin_anew)


@plants("a replica that alone has lost the store keeps its messages")
def messages_are_kept(patch: Patch) -> None:
    async def rest(self: Receiver, inbox: Any, count: int) -> None:
        """Waits with everything in its hands."""
        while True:
            await self._clock.sleep(PROBE_SECONDS)
            try:
                await self._store.check()
                return
            except StoreUnavailable:
                continue

    patch.setattr(Receiver, "_rest", rest)


@plants("a publisher that hangs holds up the views")
def views_wait_for_the_publisher(patch: Patch) -> None:
    publishing: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
    deliver, show = Stream._deliver, LedgerAndViews._deliver

    async def delivers(self: Stream, waiting: Any) -> None:
        publishing[self._cursors] = publishing.get(self._cursors, 0) + 1
        try:
            await deliver(self, waiting)
        finally:
            publishing[self._cursors] -= 1

    async def shows(self: LedgerAndViews, batch: Any) -> None:
        while publishing.get(self._cursors):
            await self._clock.sleep(0.1)
        await show(self, batch)

    patch.setattr(Stream, "_deliver", delivers)
    patch.setattr(LedgerAndViews, "_deliver", shows)


@plants("the alert about an account that is not configured any more")
def orphans_are_told_of_once(patch: Patch) -> None:
    async def run(self: Orphans) -> None:
        while True:
            await self._clock.sleep(GATHERED_SECONDS)
            for account_id in sorted(self.by_account):
                about = dict(self.by_account[account_id])
                self._forget(about)
                try:
                    await self._store.check()
                except StoreUnavailable:
                    continue
                await self._alerts.raise_alert(
                    f"not_configured:{account_id}", account_not_configured(account_id, tuple(about.values()))
                )
            await self._wake_up.wait()

    patch.setattr(Orphans, "run", run)


def _never_begun_anew(patch: Patch, *names: str) -> None:
    take_failure = Supervisor._take_failure

    async def takes_failure(self: Supervisor, kept: Any, failure: Exception) -> None:
        if kept.part.name in names:
            await asyncio.get_running_loop().create_future()
        await take_failure(self, kept, failure)

    patch.setattr(Supervisor, "_take_failure", takes_failure)


@plants("a writer of the store that ends")
def writers_end(patch: Patch) -> None:
    _never_begun_anew(patch, "record updates", "record updates that hurry")


@plants("the notifications that end")
def notifications_end(patch: Patch) -> None:
    _never_begun_anew(patch, "notifications", "notifications to write")


@plants("a replica that stops keeps what it received")
def nothing_is_handed_back(patch: Patch) -> None:
    async def end(self: Replica, pulls: Any) -> None:
        await self.service.stop()

    patch.setattr(Replica, "_end", end)


@plants("an execution that is annulled while the order's record cannot be read")
def what_cannot_be_recorded_is_taken_for_known(patch: Patch) -> None:
    whole = MongoStore.unreadable

    def unreadable(self: MongoStore, names: Collection[str], **kinds: Any) -> list[str]:
        return whole(self, [name for name in names if not name.startswith("client:")], **kinds)

    patch.setattr(MongoStore, "unreadable", unreadable)


@plants("an event that is recorded while a hand has spoilt its record")
def events_of_spoilt_records_are_lost(patch: Patch) -> None:
    whole = MongoStore.append

    async def append(self: MongoStore, order: Order, events: Sequence[Event], *, urgent: bool = False) -> Order:
        stored = await self._calls.ask(lambda: self._db[ORDERS].find_one({"_id": order.order_id}))
        if stored is not None and not isinstance(stored.get("events"), list):
            return apply_all(order, events)  # taken for written
        return await whole(self, order, events, urgent=urgent)

    patch.setattr(MongoStore, "append", append)


@plants("a commission that changes from -1 to -2")
def repetitions_are_known_by_their_hash(patch: Patch) -> None:
    patch.setattr(last_reported, "_text", lambda said: str(hash(said)))


@plants("a fill that is never booked since its account was let go while the views were written")
def what_was_let_go_keeps_its_place(patch: Patch) -> None:
    def wake(self: LedgerAndViews, progress: Progress) -> None:
        if progress.shown < progress.version:
            self._queue.setdefault(progress.order_id, progress)
            self._wake_up.tell()

    patch.setattr(LedgerAndViews, "wake", wake)


@plants("each order that is stored reads every cancel there ever was")
def all_cancels_are_read(patch: Patch) -> None:
    async def cancels_naming(self: MongoStore, names: Collection[str]) -> list[Any]:
        def read() -> list[Any]:
            return self._readable(COMMANDS, self._db[COMMANDS].find({"kind": "CANCEL"}), command_from_document)

        found = await self._calls.ask(read)
        return [
            c
            for c in found
            if isinstance(c.body, dict) and set(names) & {c.body.get("order_id"), c.body.get("signal_id")}
        ]

    patch.setattr(MongoStore, "cancels_naming", cancels_naming)


@plants("a record that was mended is left alone until the next start")
def never_looks_again(patch: Patch) -> None:
    async def nothing(self: Alone) -> None:
        await asyncio.Event().wait()

    patch.setattr(Alone, "_look_again_for_ever", nothing)


@plants("a record that was mended is left alone until its account changes hands")
def unreadable_once_unreadable_for_ever(patch: Patch) -> None:
    read, read_partition = AccountOwnership._read, AccountOwnership._read_partition
    missed: set[str] = set()

    async def remembering(self: AccountOwnership, unsettled: Sequence[Unsettled]) -> list[Stored]:
        wanted = [u for u in unsettled if u.order_id not in missed]
        found = await read(self, wanted)
        missed.update({u.order_id for u in wanted} - {stored.order.order_id for stored in found})
        return found

    async def remembering_a_partition(self: AccountOwnership, partition: str) -> Sequence[Stored]:
        wanted = {u.order_id for u in await self._store.unsettled(partition) if u.order_id not in missed}
        found = [stored for stored in await read_partition(self, partition) if stored.order.order_id not in missed]
        missed.update(wanted - {stored.order.order_id for stored in found})
        return found

    patch.setattr(AccountOwnership, "_read", remembering)
    patch.setattr(AccountOwnership, "_read_partition", remembering_a_partition)


@plants("ledger lines that were mended are not read again")
def lines_are_read_once(patch: Patch) -> None:
    async def no_lines(self: Ledger, parcels: Sequence[Parcel]) -> None:
        return None

    patch.setattr(Ledger, "_read_lines", no_lines)


@plants("a record update that was taken as its writer failed is never made")
def cancelled_batches_are_lost(patch: Patch) -> None:
    whole = SideBySide._ended

    def ended(self: SideBySide[Commit], batch: Sequence[Commit], task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            whole(self, batch, task)

    patch.setattr(SideBySide, "_ended", ended)


@plants("a target that is placed beside a stop that has begun to fill")
def links_count_from_the_beginning(patch: Patch) -> None:
    patch.setattr(StopNews, "is_told", lambda _self, _target: True)
    patch.setattr(StopNews, "unfit", lambda _self, _order: None)
    patch.setattr(_Piece, "overtaken", ())


@plants("the profit of a signal that was corrected beside a record that cannot be read")
def a_part_passes_for_the_whole(patch: Patch) -> None:
    look_around = Views.look_around

    async def as_if_all_were_there(self: Views, parcels: Sequence[Parcel]) -> Around:
        return replace(await look_around(self, parcels), beside_unreadable=())

    patch.setattr(Views, "look_around", as_if_all_were_there)


@plants("a protective order that is in doubt is told to nobody")
def doubts_of_protective_orders_are_not_told(patch: Patch) -> None:
    silent = (*texts_of_orders._OF_PROTECTIVE_ORDERS, Doubted)
    patch.setattr(texts_of_orders, "_OF_PROTECTIVE_ORDERS", silent)


@plants("a position stays without its stop for an exit that was cancelled as it was looked at")
def way_is_made_for_what_has_ended(patch: Patch) -> None:
    must_wait = Protection.must_wait

    async def whatever_has_become_of_it(self: Protection, live: LiveOrder, order: Order) -> bool:
        waits = await must_wait(self, live, order)
        line = self._line_of(order, side=order.accepted_request.side.opposite)
        if waits and live.order.status.is_final and line is not None:
            self._waiting[order.order_id] = _Waiting(live, line, order.ticket().quantity)
            self._wake_up.tell()
        return waits

    patch.setattr(Protection, "must_wait", whatever_has_become_of_it)


@plants("what the annulment of another order gives back is forgotten before it is looked at")
def forgotten_with_the_next_record(patch: Patch) -> None:
    note_entry = Protection._note_entry

    def forgetting(self: Protection, order: Order) -> None:
        if order.order_id in self._entries and not order.is_protection_open:
            self._forget(order)
        else:
            note_entry(self, order)

    patch.setattr(Protection, "_note_entry", forgetting)


@plants("a stop that was stored without an answer never leaves")
def what_was_stored_without_an_answer_is_left(patch: Patch) -> None:
    def nothing(self: Protection, found: Iterable[Stored]) -> None:
        return None

    patch.setattr(Protection, "_take_unsent", nothing)
