"""Judges a life by what every party outside the service holds; knows what may be explained, and why."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from brokers.base import AssetClass, Instrument, ReportStatus
from brokers.paper.model import PaperOrder
from execution_service.core.errors import UnreadableRecord
from execution_service.core.orders.events import Cancelled, Expired, Filled, Rejected, RiskVerdict, SubmitStarted
from execution_service.core.orders.next_step import Limits, timeout_seconds
from execution_service.core.orders.order import Order
from execution_service.core.orders.protective import ProtectionState
from execution_service.core.orders.request import OrderRequest, Purpose
from execution_service.core.orders.status import Status
from execution_service.core.risk.kill import scope_from_text
from execution_service.core.risk.switch_record import scope_of
from execution_service.core.views.record import order_from_document
from tests.fakes import DATABASE
from tests.service.audit import audit

if TYPE_CHECKING:
    from tests.simulation.life import Life
    from tests.simulation.world import Replica

UNHEARD_SECONDS = 25.0
"""A message that nobody acknowledges for so long, while a replica is well, is kept from it."""
ISOLATED_SECONDS = 45.0
"""An order whose step fails again and again is tried again after pauses that grow to half a minute."""
UNSHOWN_SECONDS = 15.0
"""So long after a durable event its views and its telegram may be missing while everything that they need is well."""


REACTS = timedelta(seconds=2)
"""So long after an execution is recorded of an order that had ended, what it leaves too many may still work at the broker."""
FAILS_ON = 5
"""A part fails as often in succession only where it is made to: whatever is stored, or away, its work is set aside or waits."""
FINAL = {status.value for status in Status if status.is_final}
OF_ONE_ORDER = ("inside.next_step", "inside.learn", "inside.intend")


def kind_of(complaint: str) -> str:
    return complaint.partition(":")[0]


def heed_log(life: Life, replica: Replica | None, method: str, event: dict[str, Any]) -> None:
    """Some things the service itself says of its health."""
    action = event.get("action")
    if action == "part_restarted":
        life.outside.trace.say(f"r{replica and replica.number} part_restarted {event.get('part')}")
        words = str(event.get("event"))
        failures = re.search(r"\((\d+) in succession\)", words)
        if failures and int(failures[1]) == FAILS_ON and " broke" not in words:
            life.complain(f"failing on: {words}")
        if _is_of_one_order(event):
            life.complain(f"account restarted: {event.get('part')} by what belongs to one order ({event.get('event')})")
    elif action == "part_given_up":
        life.complain(f"given up: {event.get('part')}, and nothing that happens in a life lasts so long")


def _is_of_one_order(event: dict[str, Any]) -> bool:
    return any(f"{name} broke" in str(event.get("event")) for name in OF_ONE_ORDER)


def _documents(life: Life, collection: str) -> list[dict[str, Any]]:
    known = life.outside.mongo[DATABASE][collection].documents.values()
    return [d for d in known if (collection, d["_id"]) not in life.strange]


def _orders(life: Life) -> list[Order]:
    return [order for d in _documents(life, "execution_orders") if (order := _order(life, d)) is not None]


def _order(life: Life, document: dict[str, Any]) -> Order | None:
    """Made anew only when another document has come in its place: the server changes none."""
    known, order = life.orders_read.get(document["_id"], (None, None))
    if known is not document:
        try:
            order = order_from_document(document)
        except UnreadableRecord:
            order = None
        life.orders_read[document["_id"]] = document, order
    return order


EVERYTHING = ("store", "broker", "inside", "messages", "orders", "commands")


def _is_well(life: Life, replica: Replica, *ports: str, seconds: float, heeds_documents: bool = True) -> bool:
    """It has been up, and nothing of these ports has gone wrong for it, for so long."""
    documents = ("documents",) if heeds_documents else ()
    names = [f"{port}{replica.number}" for port in (*ports, "process", *documents)]
    return replica.is_up and not replica.gate.is_dead and life.outside.quiet_for(*names) >= seconds


# --- while it lives -------------------------------------------------------------------------------------------------


def as_it_goes(life: Life) -> Iterator[str]:
    yield from _kept_messages(life)
    yield from _unshown(life)
    yield from _stuck(life)
    yield from _past_limits(life)
    if life.outside.quiet_for("inside") >= ISOLATED_SECONDS:  # else what an order set aside may still take is not known
        yield from _ill_protected(life, seconds=UNHEARD_SECONDS)


PROTECTED_WITHIN_SECONDS = 20.0
"""A turn of the position monitor, and what the broker needs for a cancel and an order."""


def _ill_protected(life: Life, *, seconds: float) -> Iterator[str]:
    """By the broker's own book, where all has been well for so long and nothing has happened to a strategy's orders in an instrument for a turn of
    the monitor: its stops are no more than what it holds, and where all that it holds comes from protected entries, no less, unless people know."""
    if life.unreadable_accounts or not all(_is_well(life, r, *EVERYTHING, seconds=seconds) for r in life.replicas):
        return
    now = life.outside.clock.now()
    by_line = defaultdict[tuple[str, str, str], list[Order]](list)
    for order in _orders(life):
        account = str(order.request.account_id)
        is_known = account in life.history.options["accounts"] and account not in life.unconfigured
        if isinstance(order.request, OrderRequest) and is_known:
            by_line[_line_of(order)].append(order)
    for (account, _, symbol), orders in by_line.items():
        if not any(o.protective is not None or o.wants_protection for o in orders):
            continue
        book = life.book(account)
        placed = {o.order_id: [p for tag in o.client_order_ids for p in book.orders(tag)] for o in orders}
        moments = [p.changed_at for each in placed.values() for p in each] + [e.at for o in orders for e in o.events]
        if moments and (now - max(moments)).total_seconds() < PROTECTED_WITHIN_SECONDS:
            continue
        yield from _ill_protected_line(symbol, orders, placed)


def _ill_protected_line(symbol: str, orders: list[Order], placed: dict[str, list[PaperOrder]]) -> Iterator[str]:
    held = sum(
        (p.filled_quantity * o.accepted_request.side.sign for o in orders for p in placed[o.order_id]), Decimal(0)
    )
    covering: dict[str, Decimal] = {}
    others = Decimal(0)
    for order in orders:
        request, own = order.accepted_request, order.protective
        left = sum((p.open_quantity for p in placed[order.order_id]), Decimal(0))
        if own is not None:
            name = own.link or order.order_id
            covering[name] = max(covering.get(name, Decimal(0)), left)
            if left and held * request.side.sign >= 0:
                yield f"outlives: {order.signal_id} works at the broker, and {held} {symbol} is held"
        elif held * request.side.sign < 0 and not order.status.is_final and order.status is not Status.PENDING:
            others += left
    total = sum(covering.values(), Decimal(0))
    if total > abs(held):
        yield f"over-protected: {total} {symbol} by stops at the broker, held is {held}"
    is_overfilled = any(p.filled_quantity > p.ticket.quantity for each in placed.values() for p in each)
    opened = {o.accepted_request.side for o in orders if o.identity.purpose is Purpose.ENTRY and o.filled_quantity}
    if is_overfilled or len(opened) > 1 or _exits_exceed_their_entry(orders, placed):
        return  # whose quantity of a netted position it is, names alone do not tell
    entries = [
        o for o in orders if o.wants_protection and o.accepted_request.side.sign * held > 0 and o.filled_quantity
    ]
    is_all_of_them = all(
        o.wants_protection for o in orders if o.identity.purpose is Purpose.ENTRY and o.filled_quantity
    )
    states = {o.protection.state if o.protection is not None else None for o in entries}
    is_sought = any(o.protective is not None and o.status is Status.SUBMITTING for o in orders)
    is_explained = is_sought or bool(states & _EXPLAINED) or any(o.status is Status.IN_DOUBT for o in orders)
    if entries and is_all_of_them and not is_explained and total + others < abs(held):
        pending = [o.signal_id for o in orders if o.status is Status.PENDING and o.identity.purpose is Purpose.EXIT]
        if not pending:
            yield f"under-protected: {total} {symbol} by stops at the broker, held is {held}, {sorted(map(str, states))}"


def _exits_exceed_their_entry(orders: list[Order], placed: dict[str, list[PaperOrder]]) -> bool:
    """By the broker's book, as after an annulment of what had been closed: the rest is held by an exit, and belongs to no entry."""
    entered, closed = defaultdict[str, Decimal](Decimal), defaultdict[str, Decimal](Decimal)
    for order in orders:
        filled = sum((p.filled_quantity for p in placed[order.order_id]), Decimal(0))
        if order.identity.purpose is Purpose.ENTRY:
            entered[order.signal_id] += filled
        for name in order.accepted_request.entry_refs[:1]:
            closed[name] += filled
    return any(quantity > entered[name] for name, quantity in closed.items())


_EXPLAINED = {ProtectionState.UNPROTECTED, ProtectionState.IN_DOUBT, ProtectionState.CLOSING}


def _kept_messages(life: Life) -> Iterator[str]:
    now = life.outside.loop.time()
    for topic in (life.outside.orders, life.outside.commands):
        for message_id in topic.messages:
            if now - topic.waits_since[message_id] < UNHEARD_SECONDS:
                continue
            if any(
                _is_well(life, r, "store", "messages", topic.name, "inside", seconds=UNHEARD_SECONDS)
                for r in life.replicas
            ):
                yield f"unheard: {message_id} waits while a replica is well"


def _stuck(life: Life) -> Iterator[str]:
    """A document of another account, or of none, that cannot be read keeps no order from leaving. An order is isolated by the replica that
    works its account, however well another is."""
    if life.outside.quiet_for("inside") < ISOLATED_SECONDS or not any(
        _is_well(life, r, *EVERYTHING, seconds=UNHEARD_SECONDS, heeds_documents=False) for r in life.replicas
    ):
        return
    now = life.outside.clock.now()
    records = [d for d in _documents(life, "execution_orders") if d.get("status") not in FINAL]
    for record in records:
        others = [d for d in records if d["account_id"] == record["account_id"]]
        if (
            record.get("status") == Status.PENDING
            and record["purpose"] == Purpose.ENTRY
            and record["account_id"] not in life.unreadable_accounts | life.unconfigured
            and len(others) == 1  # else it may wait for one of those
            and '"total_legs"' not in str(record.get("raw"))
            and (now - record["received_at"]).total_seconds() >= UNHEARD_SECONDS
        ):
            yield f"stuck: {record['signal_id']} is PENDING, and all that it needs is well"


def _unshown(life: Life) -> Iterator[str]:
    """The views follow the record, whatever Pub/Sub and Telegram do; while a lease cannot be read, whose it is nobody knows."""
    if any(collection == "execution_leases" for collection, _, _ in life.spoilt) or not all(
        _is_well(life, r, "store", seconds=20.0) and _is_well(life, r, "inside", seconds=ISOLATED_SECONDS)
        for r in life.replicas
    ):
        return
    now = life.outside.clock.now()
    shown = {(d["signal_id"], d["leg_index"], d["purpose"]): d for d in _documents(life, "execution_confirmations")}
    spoilt = {document_id for _, document_id, _ in life.spoilt}
    for record in _documents(life, "execution_orders"):
        if record.get("filled_quantity", "0") == "0" or record["account_id"] in life.unconfigured:
            continue
        if record["_id"] in spoilt:
            continue
        if (now - record["events"][-1]["at"]).total_seconds() < UNSHOWN_SECONDS:
            continue
        view = shown.get((record["signal_id"], record["leg_index"], record["purpose"]))
        if view is None or view["filled_quantity"] != float(record["filled_quantity"]):
            yield f"unshown: {record['signal_id']} has filled, and its view has not followed"


# --- when all has been well for a while -----------------------------------------------------------------------------


def stands_still(life: Life) -> Iterator[str]:
    """An order that could leave has left, and whoever works an account has reached its broker."""
    for replica in life.replicas:
        for account_id, trader in replica.service.accounts.traders.items() if replica.is_up else ():
            if not trader.is_connected:
                yield f"stands still: {account_id} has no connection although all is well"
    orders = _orders(life)
    for order in orders:
        if order.status is not Status.PENDING or order.request.account_id in life.unconfigured:
            continue
        if _waits_for_its_entry(order, orders) or _waits_for_a_person(order, orders) or _waits_for_a_leg(order, orders):
            continue
        if order.request.total_legs > 1:
            continue  # the other leg may not have come
        yield f"stands still: {order.signal_id} is PENDING although all is well"


def _waits_for_its_entry(order: Order, orders: list[Order]) -> bool:
    """An exit whose entry is not over: that may still fill, and the exit is for all of it."""
    entries = _entries_of(order)
    return order.identity.purpose is Purpose.EXIT and any(
        not o.status.is_final and o.signal_id in entries and o.identity.purpose is Purpose.ENTRY for o in orders
    )


def _waits_for_a_person(order: Order, orders: list[Order]) -> bool:
    """A protective order beside it is in doubt, of which only a person can say that it is nowhere: an entry waits for that as long as it may, an
    exit, which never grows too old for what is held, for ever."""
    return any(
        o.protective is not None and o.status is Status.IN_DOUBT and _line_of(o) == _line_of(order) for o in orders
    )


def _waits_for_a_leg(order: Order, orders: list[Order]) -> bool:
    """An exit of what a leg of its signal that has not come would have opened: until it is too old, and for ever where its strategy holds such."""
    names = _entries_of(order)
    legs = [o for o in orders if o.identity.purpose is Purpose.ENTRY and o.signal_id in names]
    return any(len(legs) < o.request.total_legs for o in legs) and not any(_line_of(o) == _line_of(order) for o in legs)


def _may_wait_for_ever(order: Order, orders: list[Order]) -> bool:
    is_exit = order.identity.purpose is Purpose.EXIT
    return is_exit and (
        _waits_for_its_entry(order, orders) or _waits_for_a_person(order, orders) or _waits_for_a_leg(order, orders)
    )


def _line_of(order: Order) -> tuple[str, str, str]:
    """What is held together: by account, strategy and what is traded."""
    request = order.accepted_request
    return str(request.account_id), request.strategy, _traded(request.instrument)


def _traded(instrument: Instrument) -> str:
    """A share by its symbol, an option with what tells it from others."""
    named = (instrument.symbol, instrument.expiry, instrument.strike, instrument.right)
    return " ".join(str(each) for each in named if each is not None)


def _entries_of(order: Order) -> tuple[str, ...]:
    return tuple(getattr(order.request, "entry_refs", ()))


def is_at_rest(life: Life) -> bool:
    """Whether there is nothing to complain of; else it is waited for some more."""
    return next(_owed(life), None) is None


# --- how much work it was -------------------------------------------------------------------------------------------

CALLS = (90, 6.0, 25, 2.0)
"""At most so many calls of the store for each start of a replica, each second of each replica, each event or message, and each second of an order
that waits to leave: it is tried all the same every two seconds."""
WRITTEN = (40, 1.0, 12, 0.0)
"""Documents written, likewise; a lease is one every two seconds."""
READ = (40, 4.0, 40, 0.0)
"""Documents read, likewise; a replica looks at all leases, and at the unsettled records of all."""
STEPS = (1400, 63.0, 280, 0.0)
"""Steps of the event loop, likewise."""


def _work(life: Life) -> Iterator[str]:
    """Bounds that do not grow with what was before: a few times what lives take, to find what is done again for each of all others. And of
    what is over and told nothing is read at all."""
    work, events = life.outside.work, life.outside.events
    for name, count in sorted(work.items()):
        if name.startswith("past ") and count:
            yield f"grows: {count} documents of the past were read in {name.removeprefix('past ')}"
    starts = sum(replica.life for replica in life.replicas)
    seconds = life.outside.loop.time() * len(life.replicas)
    waited = sum(_waited_seconds(order, life.outside.clock.now()) for order in _orders(life))
    for what, count, (of_start, of_second, of_event, of_wait) in (
        ("calls of the store", work["calls"], CALLS),
        ("documents written", work["written"], WRITTEN),
        ("documents read", work["read"], READ),
        ("steps of the loop", life.outside.loop.steps, STEPS),
    ):
        most = of_start * starts + of_second * seconds + of_event * events + of_wait * waited
        if count > most:
            yield f"grows: {count} {what} in {seconds:.0f} s, at {starts} starts and {events} events, at most {most:.0f}"


def _waited_seconds(order: Order, now: datetime) -> float:
    """Until it left, or ended without that."""
    left = next((event.at for event in order.events if isinstance(event, SubmitStarted)), order.finished_at)
    return ((left or now) - order.received_at).total_seconds()


def is_sound_already(life: Life) -> bool:
    """Whether nothing would change any more, and nothing is to be complained of: then the life may end now."""
    is_calm = not life.outside.complaints and life.outside.is_nothing_on_its_way
    return is_calm and next(stands_still(life), None) is None and next(at_the_end(life), None) is None


def at_the_end(life: Life) -> Iterator[str]:
    yield from _work(life)
    yield from _owed(life)
    if not life.outside.complaints and not life.unconfigured:
        for collection, document_id in life.strange:  # a person throws them away
            life.outside.mongo[DATABASE][collection].remove(document_id)
        orders = _orders(life)
        try:
            audit(
                life.replicas[0],
                may_wait={o.order_id for o in orders if o.status is Status.PENDING and _may_wait_for_ever(o, orders)},
                # What one answer tells is recorded by every order at once. Whoever is passed over meanwhile records a moment later, perhaps
                # with the next write, and the ledger books what is recorded: the sequence within one answer is not promised. Nor is it where
                # a position could not be read: what was to be booked then is tried again by itself, while later fills are booked.
                is_booked_by_time=not (life.history.options["passes_over"] or _was_a_position_spoilt(life)),
            )
        except AssertionError as exc:
            yield f"audit: {str(exc).splitlines()[0] if str(exc) else _where(exc)}"
        except UnreadableRecord as exc:
            yield f"unreadable: {exc}"


def _was_a_position_spoilt(life: Life) -> bool:
    return any(step.do == "spoil" and step.args["collection"] == "execution_positions" for step in life.history.steps)


def _owed(life: Life) -> Iterator[str]:
    orders = _orders(life)
    for topic in (life.outside.orders, life.outside.commands):
        for message_id in topic.messages:
            yield f"unacknowledged: {message_id}"
    yield from _unfinished(life, orders)
    yield from _lost(life, orders)
    yield from _placed_twice(life, orders)
    yield from _apart(life, orders)
    yield from _exits_that_open(life, orders)
    yield from _left_though_stopped(life, orders)
    for document in _documents(life, "execution_commands"):
        if document.get("status") == "NEW":
            yield f"command: {document['_id']} {document.get('kind')} was never ended"
    yield from _alerts(life, orders)
    yield from _in_hand(life)
    yield from _ill_protected(life, seconds=0.0)
    for document in _documents(life, "execution_orders"):
        if (
            "unsettled" in document["lookup"]
            and document["status"] in FINAL
            and document["account_id"] not in life.unconfigured
        ):
            yield f"owing: {document['signal_id']} is over and something is still to be told of it"


def _where(exc: BaseException) -> str:
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{trace.tb_frame.f_code.co_name} line {trace.tb_lineno}"


def _rests(life: Life, order: Order) -> bool:
    """It works at the broker and has no time-out: by its own words it rests there until it fills or is cancelled."""
    is_working = order.status in (Status.SUBMITTED, Status.PARTIALLY_FILLED)
    limits = Limits(order_timeout_seconds=life.history.options["order_timeout_seconds"])
    if not is_working or order.cancel_request is not None or timeout_seconds(order, limits) is not None:
        return False
    placed = life.book(str(order.request.account_id)).orders(order.client_order_id)
    return any(p.status is ReportStatus.WORKING and p.filled_quantity == order.filled_quantity for p in placed)


def _unfinished(life: Life, orders: list[Order]) -> Iterator[str]:
    for order in orders:
        if order.status.is_final or order.request.account_id in life.unconfigured or _rests(life, order):
            continue
        if order.status is Status.PENDING and _may_wait_for_ever(order, orders):
            continue
        if order.status is Status.IN_DOUBT:
            # A person has to decide; what counts is that people were told.
            told = [t for t in life.replicas[0].notifier.texts if "In Doubt" in t or "in doubt" in t]
            if not any(order.signal_id in text for text in told):
                yield f"doubt untold: {order.signal_id}"
            continue
        yield f"unfinished: {order.signal_id} is {order.status}"


def _lost(life: Life, orders: list[Order]) -> Iterator[str]:
    known = {f"{o.signal_id}/{o.identity.leg_index}" for o in orders}
    for key in life.outside.sent:
        if key not in known:
            yield f"lost: {key} was published and is in no record"


def _placed_twice(life: Life, orders: list[Order]) -> Iterator[str]:
    for account in life.history.options["accounts"]:
        count = Counter(p.ticket.client_order_id for p in life.book(account).orders())
        for order in orders:
            times = sum(count[tag] for tag in order.client_order_ids)
            if order.request.account_id == account and times > 1:
                yield f"placed twice: {order.signal_id}"


def _apart(life: Life, orders: list[Order]) -> Iterator[str]:
    """Options that are legs of one signal, where the broker takes them as one order: all legs are in one whole there, and in one only; and what the
    records say of them is what can be true of one order."""
    if not life.history.options.get("combines"):
        return
    wholes: dict[str, list[frozenset[str]]] = defaultdict(list)
    for whole in life.outside.combined:
        tags = frozenset(leg.client_order_id for leg in whole.legs)
        for tag in tags:
            wholes[tag].append(tags)
    by_signal = defaultdict[str, list[Order]](list)
    for order in orders:
        is_leg = order.identity.purpose is Purpose.ENTRY and order.request.total_legs > 1
        if is_leg and order.accepted_request.instrument.asset_class is AssetClass.OPTION:
            by_signal[order.signal_id].append(order)
    for signal, legs in sorted(by_signal.items()):
        tags = frozenset(tag for leg in legs for tag in leg.client_order_ids)
        placed = {leg.order_id: _placed(life, leg) for leg in legs}
        found = {each for tag in tags for each in wholes[tag]}
        if any(placed.values()) and (found != {tags} or any(len(wholes[tag]) != 1 for tag in tags)):
            yield f"apart: {signal} is at the broker as {sorted(map(sorted, found))}, its legs are {sorted(tags)}"
        statuses = {str(leg.status) for leg in legs}
        if any(placed.values()) and len(statuses) > 1:
            yield f"apart: the legs of {signal} are {sorted(statuses)}"
        elif any(leg.status is Status.IN_DOUBT for leg in legs) and len(statuses) > 1:
            yield f"apart: the legs of {signal} were not sent, and are {sorted(statuses)}"


def _past_limits(life: Life) -> Iterator[str]:
    """By the broker's own book: what works there and was let pass as new risk, and what each strategy holds, is within the limits of risk. In lives
    in which every record can be read; of an order with an annulled execution, which works again, and of positions in lives in which executions were
    annulled, changed or, by the venue's own doing, beyond their orders, nothing is said."""
    limits = life.history.options.get("limits") or {}
    words = {s.do for s in life.history.steps} | {str(s.args.get("action")) for s in life.history.steps}
    if not limits or life.unreadable_accounts:
        return
    has_odd_fills = bool(words & {"bust", "correct", "overfill"})
    orders = [o for o in _orders(life) if isinstance(o.request, OrderRequest)]
    for account in life.history.options["accounts"]:
        book, works, held = life.book(account), 0, defaultdict[tuple[str, str], Decimal](Decimal)
        for order in orders:
            if order.request.account_id != account:
                continue
            request, verdict = order.accepted_request, _verdict_of(order)
            for placed in (p for tag in order.client_order_ids for p in book.orders(tag)):
                has_odd_fills |= placed.ticket.quantity is not None and placed.filled_quantity > placed.ticket.quantity
                is_new_risk = not (verdict is not None and verdict.is_exit) and not any(f.busted for f in placed.fills)
                works += placed.status is ReportStatus.WORKING and is_new_risk
                held[_traded(request.instrument), request.strategy] += placed.filled_quantity * request.side.sign
        if works > limits.get("max_open_orders", works):
            yield f"past a limit: {works} orders of new risk work at once, allowed are {limits['max_open_orders']}"
        for symbol in set() if has_odd_fills else {symbol for symbol, _ in held}:
            mine = [quantity for (whose, _), quantity in held.items() if whose == symbol]
            for sign in (1, -1):
                total = sum((max(Decimal(0), quantity * sign) for quantity in mine), Decimal(0))
                if total > limits.get("max_position_quantity", total):
                    yield f"past a limit: {total * sign} {symbol} held, allowed are {limits['max_position_quantity']}"


def _verdict_of(order: Order) -> RiskVerdict | None:
    """Of its latest sending."""
    return next((event.risk for event in reversed(order.events) if isinstance(event, SubmitStarted)), None)


def _exits_that_open(life: Life, orders: list[Order]) -> Iterator[str]:
    """By the broker's executions, in lives in which none was annulled or came beyond the order: what all exits of an entry took is no more
    than what the entry had."""
    words = {s.do for s in life.history.steps} | {str(s.args.get("action")) for s in life.history.steps}
    if words & {"bust", "correct", "overfill"}:
        return
    by_signal: dict[str, Decimal] = {}
    taken: dict[str, Decimal] = {}
    for order in orders:
        if order.request.account_id not in life.history.options["accounts"]:
            continue
        placed = _placed(life, order)
        if order.identity.purpose is Purpose.ENTRY:
            # All of it, also what the venue executed beyond the order: that is held, and an exit may take it.
            by_signal[order.signal_id] = sum((p.filled_quantity for p in placed), Decimal(0))
        else:
            # What the venue executes beyond an exit, nobody here has asked for.
            filled = sum((min(p.filled_quantity, p.ticket.quantity) for p in placed), Decimal(0))
            for entry in _entries_of(order):
                taken[entry] = taken.get(entry, Decimal(0)) + filled
    past_zero = _took_a_position_past_zero(life, orders)
    for entry, quantity in taken.items():
        # Where the store kept the entry back until the exit was due, that was measured by what its strategy held.
        exits = [o for o in orders if o.identity.purpose is Purpose.EXIT and entry in _entries_of(o)]
        moments = [at for o in exits for at in past_zero.get(o.order_id, ())]
        beyond = quantity - by_signal.get(entry, Decimal(0))
        if beyond > 0 and moments and not _was_the_venues_doing(life, exits, beyond, moments):
            yield f"exit opened: exits of {entry} took {quantity}, it had {by_signal.get(entry, 0)}"


def _was_the_venues_doing(life: Life, exits: list[Order], beyond: Decimal, moments: list[datetime]) -> bool:
    """Whether exits took so much too much since the venue executed orders of whose end it had told: no more than that, and at no moment later than
    the service could have heard of it and taken back what was still working."""
    late: list[tuple[Decimal, datetime, datetime]] = []
    for order in exits:
        told_at = next((event.at for event in order.events if isinstance(event, Cancelled | Expired | Rejected)), None)
        heard = {event.fill.fill_id: event.at for event in order.events if isinstance(event, Filled)}
        for placed in _placed(life, order):
            late += [
                (fill.quantity, fill.time, heard.get(fill.fill_id, fill.time) + REACTS)
                for fill in placed.fills
                if told_at is not None and fill.time > told_at
            ]
    is_by_then = all(any(since <= at <= until for _, since, until in late) for at in moments)
    return is_by_then and beyond <= sum((quantity for quantity, _, _ in late), Decimal(0))


def _placed(life: Life, order: Order) -> list[PaperOrder]:
    book = life.book(str(order.request.account_id))
    return [placed for tag in order.client_order_ids for placed in book.orders(tag)]


def _took_a_position_past_zero(life: Life, orders: list[Order]) -> dict[str, list[datetime]]:
    """When which exits did, by the times of the broker's executions, in what their strategies hold."""
    executions = []
    for order in orders:
        account = str(order.request.account_id)
        if isinstance(order.request, OrderRequest) and account in life.history.options["accounts"]:
            is_exit = order.identity.purpose is Purpose.EXIT
            executions += [
                (fill.time, is_exit, fill.fill_id, fill.quantity, order)
                for placed in _placed(life, order)
                for fill in placed.fills
            ]
    held = defaultdict[tuple[str, str, str], Decimal](Decimal)
    found = defaultdict[str, list[datetime]](list)
    for at, is_exit, _, quantity, order in sorted(executions, key=lambda execution: execution[:3]):
        request = order.accepted_request
        key = _line_of(order)
        before, change = held[key], quantity * request.side.sign
        held[key] = before + change
        if is_exit and (before * change >= 0 or abs(change) > abs(before)):
            found[order.order_id].append(at)
    return found


KNOWN_WITHIN_SECONDS = 1.0
"""So long after a kill switch is stored an order may still leave at a process that looked right before."""


def _left_though_stopped(life: Life, orders: list[Order]) -> Iterator[str]:
    """Nothing that may open a position is handed to a broker while a switch is engaged that covers it, by the server's own sequence; at halt no exit
    either."""
    by_tag = {tag: order for order in orders for tag in order.client_order_ids}
    for at, tag in life.outside.handed:
        order = by_tag.get(tag)
        if order is None:
            continue
        levels: dict[str, set[str | None]] = {}
        for when, scope, level in life.switched:
            if when <= at - KNOWN_WITHIN_SECONDS:
                levels[scope] = {level}  # so it was before the last look that counts
            elif when <= at:
                levels.setdefault(scope, {None}).add(level)  # either may have been seen
        for scope, seen in levels.items():
            if None in seen or not scope_from_text(scope).covers(scope_of(order)):
                continue
            is_exit = order.identity.purpose is Purpose.EXIT or _reduced(life, order, orders)
            if not is_exit or seen == {"halt"}:
                yield f"left though stopped: {order.signal_id} at {at:.3f}, {scope} was engaged"


def _reduced(life: Life, order: Order, orders: list[Order]) -> bool:
    """Whether an order that does not call itself an exit was let pass as one, and its strategy ever held so much on the other side, be it by
    executions that were annulled since."""
    verdict, request = _verdict_of(order), order.accepted_request
    held = Decimal(0)
    for other in orders:
        is_against = isinstance(other.request, OrderRequest) and other.request.side is not request.side
        if is_against and _line_of(other) == _line_of(order):
            fills = [fill for placed in _placed(life, other) for fill in placed.fills if fill.corrects is None]
            held += sum((fill.quantity for fill in fills), Decimal(0))
    return verdict is not None and verdict.is_exit and (order.quantity or Decimal(0)) <= held


def _alerts(life: Life, orders: list[Order]) -> Iterator[str]:
    for document in _documents(life, "execution_alerts"):
        if document.get("sent_at") is None:
            yield f"alert unsent: {document.get('kind')}"
    for account in sorted(life.unconfigured):
        is_left = any(o.request.account_id == account and not o.status.is_final for o in orders)
        told = life.replicas[0].notifier.titled("Account Not Configured")
        if is_left and not any(account in text for text in told):
            yield f"alert lost: nobody was told that {account} is not configured"


def _in_hand(life: Life) -> Iterator[str]:
    for replica in life.replicas:
        if replica._service is None:
            yield f"down: replica {replica.number} does not live at the end"
            continue
        for live in replica._service.live_orders.by_id.values():
            if live.order.status.is_final:
                yield f"in hand: {live.order.signal_id} is over and still in hand"


def without_numbers(complaint: str) -> str:
    """For counting kinds of complaints."""
    return re.sub(r"[a-z]*\d[\w.:-]*", "…", complaint)
