"""One life from its history: the replicas live, the steps happen, the outside becomes well, and what is left is judged."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

import structlog

from brokers.base import OrderRef
from brokers.paper.exchange import PaperExchange
from brokers.paper.model import PaperOrder
from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import Protective, ProtectiveRole
from execution_service.core.orders.request import Identity, Purpose
from execution_service.core.orders.status import Status
from execution_service.core.risk.switch_record import record_from_document
from execution_service.core.views.record import order_to_document
from execution_service.delivery.past_trades import BOOKMARK, DONE
from execution_service.storage.mongo.names import KILL_SWITCHES
from tests.builders import identity, order_in
from tests.fakes import DATABASE, Died
from tests.fakes.mongo import MISSING
from tests.simulation import judge
from tests.simulation.faults import open_inside
from tests.simulation.loop import OWNER, NothingLeft, SimulatedLoop, Spins, run
from tests.simulation.steps import STEPS, VENUE_REFUSES, History, draw, odd_value, ref_of
from tests.simulation.world import Outside, Replica

WELL_AT = 80.0
"""Seconds from the beginning: from here on nothing goes wrong any more, unless the life's `well_at` says otherwise."""
RESTS_AT_LEAST = 20.0
"""Seconds of health before a life may end that is sound and in which nothing is owed any more."""
MOVES_WITHIN = 45.0
"""Seconds of health within which everything that can go on has gone on."""
ENDS_WITHIN = 300.0
"""Seconds of health within which everything has ended."""
WATCH_SECONDS = 5.0


@dataclass(frozen=True)
class Verdict:
    """What came of a life."""

    seed: int
    complaints: tuple[str, ...]
    trace: tuple[str, ...]
    steps: int
    """Of the event loop."""

    @property
    def is_sound(self) -> bool:
        return not self.complaints

    @property
    def fingerprint(self) -> str:
        return sha256("\n".join((*self.trace, *self.complaints)).encode()).hexdigest()

    @property
    def kind(self) -> str:
        """Of the first complaint: its words without what differs from life to life."""
        return judge.kind_of(self.complaints[0]) if self.complaints else ""


@dataclass(frozen=True)
class Spoilt:
    """A field that holds something odd."""

    before: Any
    odd: Any

    def mended(self, now: Any) -> Any:
        """`before`, with what has been written into it since; what has been written in place of the odd value stays alone."""
        if now is self.odd or now == self.odd:
            return self.before
        if isinstance(self.before, list):
            return _with_elements(self.before, now)
        if isinstance(self.before, dict) and isinstance(now, dict):
            return self.before | now
        return now


def _with_elements(before: list[Any], now: Any) -> Any:
    """A server that finds no list where an element of this number is to be makes a document of that number, or a list with gaps before it."""
    if isinstance(now, dict):
        written = {int(name): each for name, each in now.items() if name.isdecimal()}
    elif isinstance(now, list):
        written = {number: each for number, each in enumerate(now) if each is not None}
    else:
        return now
    last = max((len(before) - 1, *written))
    return [written.get(number, before[number] if number < len(before) else None) for number in range(last + 1)]


@functools.lru_cache
def _tags_of_children(entry_order_id: str) -> frozenset[str]:
    """Of an entry's protective orders, by what their names are made of."""
    names = (
        Protective(entry_order_id=entry_order_id, role=role, piece=piece).signal_id
        for role in ProtectiveRole
        for piece in range(1, 60)
    )
    return frozenset(Identity(signal_id=name, purpose=Purpose.EXIT).client_order_id(1) for name in names)


class Life:
    """The life that runs, as the steps see it."""

    def __init__(self, history: History, loop: SimulatedLoop, folder: Path) -> None:
        self.history = history
        self.outside = Outside(loop, random.Random(f"answers:{history.seed}"), folder, history.options)
        self.replicas: list[Replica] = []
        for number in range(history.options["replicas"]):
            self.replicas.append(Replica(number, self.outside, self.replicas[0] if self.replicas else None))
        self.down_seconds = dict.fromkeys(range(len(self.replicas)), 2.0)
        self.unconfigured: set[str] = set()
        self.strange: set[tuple[str, Any]] = set()
        self.orders_read: dict[Any, tuple[Mapping[str, Any], Order | None]] = {}
        """The judge's: by their records' ids, each with the document from which it was made; None of one that cannot be read."""
        self.unreadable_accounts: set[str] = set()
        """Of which a document cannot be read, or could not at some time."""
        self._leave_past(history.options.get("past", 0))
        self.spoilt: dict[tuple[str, Any, str], Spoilt] = {}
        """What of which document is spoilt now: by collection, id and field."""
        self.switched: list[tuple[float, str, str | None]] = []
        """When which kill switch was stored at which level, as the server had it; None: it stopped nothing from then on."""
        self._watch_switches()
        self._stops: list[asyncio.Task[None]] = []

    def _watch_switches(self) -> None:
        where = self.outside.mongo[DATABASE][KILL_SWITCHES]
        place = where._place

        def noted(document_id: Any, document: dict[str, Any]) -> None:
            place(document_id, document)
            try:
                level = record_from_document(document).switch.level
            except UnreadableRecord:
                return  # nobody may lower anything by it
            self.switched.append((self.outside.loop.time(), document_id, None if level is None else level.value))

        where._place = noted  # type: ignore[method-assign]

    # --- for the steps --------------------------------------------------------------------------------------------

    def publish_order(self, fields: Mapping[str, Any], age: float) -> None:
        key = f"{fields['signal_id']}/{fields.get('leg_index', 0)}"
        if key not in self.outside.sent:
            self.outside.sent[key] = dict(fields)
        self.outside.orders.publish(json.dumps(fields).encode(), self.outside.clock.now())

    def arm(self, scope: str, after: float) -> None:
        """Both steps; the second with whatever nonce stands there by then."""
        said = {"command": "ARM", "scope": scope, "person": "bob", "reason": "mended"}
        self.outside.commands.publish(json.dumps(said).encode(), self.outside.clock.now())

        def second() -> None:
            document = self.outside.mongo[DATABASE][KILL_SWITCHES].documents.get(scope, {})
            switch = document.get("switch")
            arming = switch.get("arming") if isinstance(switch, dict) else None
            nonce = arming.get("nonce") if isinstance(arming, dict) else "none"
            body = json.dumps(said | {"nonce": nonce}).encode()
            self.outside.commands.publish(body, self.outside.clock.now())

        self.outside.loop.call_later(after, second)

    def identities(self, signal: str) -> list[tuple[Identity, str]]:
        """Of the orders published under this signal, each with its account."""
        found = []
        for fields in self.outside.sent.values():
            if fields["signal_id"] == signal:
                purpose = Purpose.EXIT if fields.get("signal_type") == "EXIT" else Purpose.ENTRY
                found.append(
                    (
                        Identity(signal_id=signal, leg_index=fields.get("leg_index", 0), purpose=purpose),
                        fields["account_id"],
                    )
                )
        return found

    def book(self, account: str) -> PaperExchange:
        """As it stands at this moment: what the venue would have done by now it has done, though nobody has asked."""
        book = self.replicas[0].book(account)
        book.advance()
        return book

    def placed_as(self, signal: str) -> list[PaperOrder]:
        return [p for i, account in self.identities(signal) for p in self.book(account).orders(i.client_order_id(1))]

    def protective_of(self, signal: str) -> list[PaperOrder]:
        """The protective orders of the entry that work at the broker."""
        found = []
        for entry, account in self.identities(signal):
            for placed in self.book(account).orders():
                is_working = placed.ticket.is_protective and placed.open_quantity
                if is_working and placed.ticket.client_order_id in _tags_of_children(entry.order_id):
                    found.append(placed)
        return found

    def last_fills(self, signal: str) -> list[tuple[PaperOrder, str]]:
        found = []
        for placed in self.placed_as(signal):
            standing = [f.fill_id for f in placed.fills if not f.busted]
            if standing:
                found.append((placed, standing[-1]))
        return found

    def venue(self, placed: PaperOrder, do: Callable[[PaperExchange, OrderRef], object]) -> None:
        try:
            do(self.book(placed.account_id), ref_of(placed))
        except VENUE_REFUSES as exc:
            self.outside.trace.say(f"venue: {type(exc).__name__}")

    def begin_stop(self, number: int, down: float) -> None:
        self._stops.append(self.outside.loop.create_task(self._stop(number, down)))

    async def _stop(self, number: int, down: float) -> None:
        replica = self.replicas[number]
        if replica.is_ending:
            replica.end_at_once()
        if replica.is_ending or not replica.is_up:
            return
        kept = await replica.end_in_order()
        if kept:
            self.complain(f"kept: a stopped replica did not hand back {', '.join(kept)}")
        await asyncio.sleep(down)
        await replica.live()

    def spoil(self, collection: str, pick: int, field: str, value: str, mends_after: float) -> None:
        """What is spoilt already stays as it is."""
        where = self.outside.mongo[DATABASE][collection]
        present = [d for d in where.documents.values() if (collection, d["_id"]) not in self.outside.past]
        if not present:
            return
        document = present[pick % len(present)]
        place = (collection, document["_id"], field)
        if place in self.spoilt:
            return
        self.spoilt[place] = Spoilt(document.get(field, MISSING), odd_value(value))
        where.alter(document["_id"], field, self.spoilt[place].odd)
        whose = document["_id"] if collection == "execution_leases" else document.get("account_id")
        # An order's own lines in the ledger do not say whose they are: then it may be anybody's.
        self.unreadable_accounts |= {str(whose)} if whose else set(self.history.options["accounts"])
        self._say_of_documents(f"spoilt: {collection} {document['_id']} {field} {value}")
        self.outside.loop.call_later(mends_after, self._mend, place)

    def _mend(self, place: tuple[str, Any, str]) -> None:
        """As a person does who takes care: what was there is put back, and what the service has written since stays."""
        spoilt = self.spoilt.pop(place, None)
        collection, document_id, field = place
        where = self.outside.mongo[DATABASE][collection]
        document = where.documents.get(document_id)
        if spoilt is not None and document is not None:
            where.alter(document_id, field, spoilt.mended(document.get(field, MISSING)))
            self._say_of_documents(f"mended: {collection} {document_id} {field}")

    def _say_of_documents(self, words: str) -> None:
        self.outside.trace.say(words)
        for each in self.replicas:
            self.outside.trouble("documents", each.number)

    def leave_strange(
        self, collection: str, document_id: str, field: str, value: str, fields: Mapping[str, Any]
    ) -> None:
        now = self.outside.clock.now()
        usual: dict[str, dict[str, Any]] = {
            "execution_commands": {
                "kind": "CANCEL",
                "body": {"signal_id": "nobody", "account_id": "acct-1"},
                "published_at": now,
                "received_at": now,
                "status": "NEW",
                "outcome": "",
                "active_until": None,
            },
            "execution_alerts": {
                "kind": "strange",
                "text": "strange",
                "count": 1,
                "first_at": now,
                "sent_at": None,
                "sent_count": 0,
            },
            "execution_orders": {
                "lookup": ["unsettled"],
                "account_id": "acct-1",
                "client_order_id": document_id,
                "signal_id": document_id,
                "version": 0,
                "told": {"world": 0, "people": 0},
                "received_at": now,
                "leg_index": 0,
                "purpose": "ENTRY",
            },
        }
        where = self.outside.mongo[DATABASE][collection]
        if document_id not in where.documents:
            where.leave({"_id": document_id, **usual[collection], **fields})
            where.alter(document_id, field, odd_value(value))
            self.strange.add((collection, document_id))

    def _leave_past(self, count: int) -> None:
        """So many of each kind of document are there from the beginning that are over, and of which nothing is owed."""
        now = self.outside.clock.now()
        database = self.outside.mongo[DATABASE]
        for number in range(count):
            name = f"past-{number}"
            cancel = {"_id": name, "kind": "CANCEL", "body": {"signal_id": name, "account_id": "acct-1"}}
            cancel |= {"published_at": now, "received_at": now, "status": "DONE", "outcome": "", "active_until": None}
            database["execution_commands"].insert_one(cancel)
            alert = {
                "_id": name,
                "kind": name,
                "text": name,
                "count": 1,
                "first_at": now,
                "sent_at": now,
                "sent_count": 1,
            }
            database["execution_alerts"].insert_one(alert)
            order = order_in(Status.REJECTED, of=identity(name))
            told = {"told": {"world": order.version, "people": order.version}}
            database["execution_orders"].insert_one(order_to_document(order) | told)
            past = {("execution_commands", name), ("execution_alerts", name), ("execution_orders", order.order_id)}
            self.outside.past |= past
        self.strange |= self.outside.past
        if count:
            # Their trades were written in an earlier life, which is the one time that all of the past is read.
            database["execution_bookmarks"].insert_one({"_id": BOOKMARK, "value": DONE})

    # --- the course of it -----------------------------------------------------------------------------------------

    def complain(self, words: str) -> None:
        if words not in self.outside.complaints:
            self.outside.complaints.append(words)
            self.outside.trace.say(f"COMPLAINT {words}")

    async def live(self) -> None:
        loop = self.outside.loop
        keepers = [
            loop.create_task(replica.watch_over(lambda n=number: self.down_seconds[n]))
            for number, replica in enumerate(self.replicas)
        ]
        for replica in self.replicas:
            await replica.live()
        watch = loop.create_task(self._watch())
        for each in self.history.steps:
            await asyncio.sleep(max(0.0, each.at - loop.time()))
            self.outside.trace.say(f"step {each.do} {json.dumps(dict(each.args), sort_keys=True)}")
            STEPS[each.do](self, **each.args)
        well_at = self.history.options.get("well_at", WELL_AT)
        await asyncio.sleep(max(0.0, well_at - loop.time()))
        self._heal()
        self.outside.trace.say("all is well")
        await asyncio.sleep(RESTS_AT_LEAST)
        if not judge.is_sound_already(self):
            await asyncio.sleep(MOVES_WITHIN - RESTS_AT_LEAST)
            for words in judge.stands_still(self):
                self.complain(words)
            while loop.time() < well_at + ENDS_WITHIN and not judge.is_at_rest(self):  # noqa: ASYNC110  the time is the loop's
                await asyncio.sleep(10.0)
            for words in judge.at_the_end(self):
                self.complain(words)
        for task in (watch, *keepers, *self._stops):
            task.cancel()
        for replica in self.replicas:
            await replica.kill()

    def _heal(self) -> None:
        self.outside.plan.end()
        for place in list(self.spoilt):
            self._mend(place)
        for account in self.history.options["accounts"]:
            book = self.book(account)
            book.clear_faults()
            for number, placed in enumerate(book.orders()):
                if placed.open_quantity and account not in self.unconfigured:
                    # One after the other: of two executions at one moment nobody could say which was first.
                    self.outside.loop.call_later(0.05 * number, self._end_session, placed)

    def _end_session(self, placed: PaperOrder) -> None:
        """What would rest for ever is executed, or cancelled by the venue."""
        if self.outside.luck.random() < 0.5:
            self.venue(placed, lambda book, ref: book.fill_order(ref))
        else:
            self.venue(placed, lambda book, ref: book.cancel_unasked(ref, "the session ends"))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for words in judge.as_it_goes(self):
                self.complain(words)

    def close(self) -> None:
        self.outside.book.close()


_FOLDER: list[Path] = []


def _folder() -> Path:
    """One for all lives of this process, in memory where the machine has that."""
    if not _FOLDER:
        memory = Path("/dev/shm")
        _FOLDER.append(Path(tempfile.mkdtemp(prefix="lives-", dir=memory if memory.is_dir() else None)))
        import atexit

        atexit.register(shutil.rmtree, _FOLDER[0], ignore_errors=True)
    return _FOLDER[0]


def replay(life: int | History) -> Verdict:
    """The life of a seed, or of a history: the same each time."""
    history = draw(life) if isinstance(life, int) else life
    folder = _folder()
    options = history.options
    loop = SimulatedLoop(
        random.Random(f"sequence:{history.seed}"), shuffles=options["shuffles"], passes_over=options["passes_over"]
    )
    loop.set_exception_handler(_said_nowhere)
    world = Life(history, loop, folder)
    luck = random.Random(f"chance:{history.seed}")
    state = random.getstate()
    random.seed(f"chance:{history.seed}")

    def log(logger: Any, method: str, event: dict[str, Any]) -> Any:
        judge.heed_log(world, OWNER.get(), method, event)
        raise structlog.DropEvent

    old = structlog.get_config()
    structlog.configure(processors=[log], cache_logger_on_first_use=False)
    was_on = gc.isenabled()
    gc.disable()
    try:
        with open_inside(), mock.patch("secrets.token_hex", lambda n: f"{luck.getrandbits(8 * n):0{2 * n}x}"):
            try:
                run(loop, world.live())
            except (Spins, NothingLeft) as exc:
                world.complain(f"{type(exc).__name__}: {exc}")
            except Died:
                world.complain("died: a death came out of the world")
    finally:
        structlog.configure(**old)
        random.setstate(state)
        world.close()
        if was_on:
            gc.enable()
    return Verdict(history.seed, tuple(world.outside.complaints), tuple(world.outside.trace.lines), loop.steps)


def _said_nowhere(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What a task left unsaid that was killed; the judge looks at what the outside holds."""
