"""Compares what every party holds after a run: the broker's book, the records, the ledger, the views, Pub/Sub and people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from itertools import pairwise

from brokers.base import ReportStatus
from brokers.paper.model import PaperFill, PaperOrder
from execution_service.core.messages.confirmation import attributes
from execution_service.core.orders.effects import applied_events
from execution_service.core.orders.events import Busted, Filled
from execution_service.core.orders.order import Order
from execution_service.core.orders.request import Purpose
from execution_service.core.orders.status import Status
from execution_service.core.positions.ledger import key_of
from execution_service.core.reconcile.orders import is_our_tag
from execution_service.core.texts.orders import order_alert, outcome_line
from execution_service.core.trades.documents import trade_from_document
from execution_service.core.trades.postings import Balances, Leg
from execution_service.core.trades.rows import rows_of
from execution_service.core.views.record import ledger_from_document, lines_from_document
from tests.fakes import World

ZERO = Decimal(0)
TRUE_STATUS = {
    ReportStatus.FILLED: {Status.FILLED},
    ReportStatus.CANCELLED: {Status.CANCELLED},
    ReportStatus.EXPIRED: {Status.EXPIRED},
    ReportStatus.REJECTED: {Status.REJECTED},
    ReportStatus.WORKING: {Status.SUBMITTED, Status.PARTIALLY_FILLED},
}
UNSENT = {Status.REJECTED, Status.CANCELLED, Status.IN_DOUBT}


def audit(world: World, *, may_wait: Collection[str] = (), is_booked_by_time: bool = True) -> None:
    """Asserts that all agree, that no order was placed twice, and that nothing is still owed. `may_wait`: our ids of orders that may be
    pending still. `is_booked_by_time`: executions of several orders were booked in the sequence in which they happened."""
    records = world.records()
    assert not world.orders.unacknowledged
    assert not world.commands.unacknowledged
    waiting = [o for o in records if o.status is Status.PENDING and o.order_id in may_wait]
    records = [o for o in records if o not in waiting]
    _audit_book(world, records)
    _audit_ledger(world, records, is_booked_by_time)
    _audit_trades(world, records)
    for order in records:
        _audit_confirmation_view(world, order)
        _audit_signal(world, order)
        _audit_published(world, order)
        _audit_people(world, order)
    _audit_profit_of_signals(world, records)
    unsettled = {d["_id"] for d in world.documents("execution_orders", lookup="unsettled")}
    owing = {o.signal_id for o in records if o.status.is_final and o.order_id in unsettled}
    assert not owing, f"finished, and still in hand: {owing}"


def _audit_book(world: World, records: list[Order]) -> None:
    unknown = {tag for o in _all_placed(world) if is_our_tag(tag := o.ticket.client_order_id)}  # else somebody else's
    for order in records:
        account = order.request.account_id
        ours = account is not None and account in world.account_ids
        placed = [p for c in order.client_order_ids for p in world.book(account).orders(c)] if ours and account else []
        if order.adoption is not None:
            assert not placed, f"{order.signal_id} is an adoption, and was sent"
            continue
        assert len(placed) <= 1, f"{order.signal_id} was placed {len(placed)} times"
        unknown -= set(order.client_order_ids)
        if not placed:
            assert order.status in UNSENT, f"{order.signal_id} is {order.status} and was never placed"
            assert not order.fills
            continue
        (truth,) = placed
        is_linked = truth.ticket.link is not None  # what its sibling filled was taken off it there
        ordered = (order.quantity or truth.ticket.quantity) if is_linked else truth.ticket.quantity
        if order.filled_quantity >= ordered:
            # The book leaves an order cancelled that was filled afterwards; to the world it is filled.
            assert order.status is Status.FILLED
        elif truth.status is ReportStatus.FILLED:
            # An execution was annulled, which the venue's status does not say: the order is done with less than was ordered.
            assert order.status is Status.CANCELLED, f"{order.signal_id}: {order.status}, and an execution was annulled"
        elif truth.status is ReportStatus.REJECTED and any(isinstance(event, Filled) for event in order.events):
            # The venue's late no to the rest: an order of which something was executed is not told to have been rejected, unless that was
            # annulled, and known to be, before the no was heard.
            allowed = {Status.CANCELLED} if order.fills else {Status.CANCELLED, Status.REJECTED}
            assert order.status in allowed, f"{order.signal_id}: {order.status}, rejected after a part"
        else:
            assert order.status in TRUE_STATUS[truth.status], f"{order.signal_id}: {order.status}, not {truth.status}"
        held = {(f.fill_id, f.quantity, f.price, f.commission) for f in order.fills}
        stands = {(f.fill_id, f.quantity, f.price, f.commission) for f in truth.fills if not f.busted}
        assert held == stands, f"{order.signal_id}: fills that differ: {held ^ stands}"
    assert not unknown, f"at the broker and in no record: {unknown}"


def _audit_ledger(world: World, records: list[Order], is_booked_by_time: bool) -> None:
    """Against a plain recount of the broker's executions and of what people told, in the order in which they happened."""
    expected: dict[str, list[Decimal]] = defaultdict(lambda: [ZERO, ZERO, ZERO])
    spent: dict[str, Decimal] = defaultdict(Decimal)
    by_client_id = {c: o for o in records for c in o.client_order_ids}
    moves = [(fill.time, by_client_id[placed.ticket.client_order_id], fill) for placed, fill in _executions(world)]
    moves += [(fill.time, order, fill) for order in records if order.adoption is not None for fill in order.fills]
    # At the same moment as the ledger has it: entries first, then the lower execution id.
    for _, order, fill in sorted(
        moves, key=lambda m: (m[0], m[1].identity.purpose is Purpose.EXIT, len(m[2].fill_id), m[2].fill_id)
    ):
        request = order.accepted_request
        held = expected[key_of(order).ledger_id]
        _recount(held, fill.quantity * request.side.sign, fill.price)
        spent[key_of(order).ledger_id] += fill.quantity * request.side.sign * fill.price
    annulled = set()
    for order in records:
        if order.adoption is not None:
            expected[key_of(order).ledger_id]  # also where it was taken back
        # Of one that was annulled before anybody here heard of it nothing was ever booked.
        heard = {event.fill.fill_id for event in order.events if isinstance(event, Filled)}
        if order.adoption is None and any(isinstance(e, Busted) and e.fill_id in heard for e in order.events):
            expected[key_of(order).ledger_id]
            annulled.add(key_of(order).ledger_id)
    heard_late = _entries_with_a_late_execution(records)
    entries = {d["_id"]: ledger_from_document(d) for d in world.documents("execution_positions")}
    assert set(entries) == set(expected)
    for ledger_id, (quantity, _, realized) in expected.items():
        position = entries[ledger_id].position
        assert position.quantity == quantity
        shown = world.documents("positions", ledger_id=ledger_id)
        is_open = [d for d in shown if d["status"] == "OPEN"]
        assert len(is_open) == (1 if quantity else 0)
        assert [d["quantity"] for d in is_open] == ([float(abs(quantity))] if quantity else [])
        assert [d["side"] for d in is_open] == ([("LONG" if quantity > 0 else "SHORT")] if quantity else [])
        told = sum(d["realized_pnl"] for d in shown)
        worth = entries[ledger_id].money_per_point or Decimal(1)
        assert len(shown) == position.episode
        if ledger_id not in annulled | heard_late and is_booked_by_time:
            assert abs(told - float(realized * worth)) < 1e-9  # the sum of several rounded ones
        else:
            # What was annulled is taken back when that is known, and a recount without it books what came between otherwise; so does
            # one of executions in another sequence. But no money is lost or made by that: profit and cost together are what was spent.
            assert abs(told - float((position.cost - spent[ledger_id]) * worth)) < 1e-6


def _audit_trades(world: World, records: list[Order]) -> None:
    """Each execution and each change of it is one row; double entry adds up, and makes the same equity as the ledger."""
    expected = {
        row.trade_id: row for o in records for event in applied_events(o) for row in rows_of(event, _mode(world, o))
    }
    kept = {document["_id"]: trade_from_document(document) for document in world.documents("trades")}
    assert kept == expected, f"rows that are missing, or too many: {kept.keys() ^ expected.keys()}"
    sums = Balances().add_all(kept.values())
    assert not any(sums.imbalance.values())
    entries = [ledger_from_document(d) for d in world.documents("execution_positions")]
    held = {ledger_id: holding.units for (_, ledger_id), holding in sums.holdings.items()}
    assert {e.key.ledger_id: e.position.quantity for e in entries if e.position.quantity} == {
        ledger_id: units for ledger_id, units in held.items() if units
    }
    gains = sum((e.realized - e.position.cost * (e.money_per_point or 1) for e in entries), ZERO)
    fees = sum((o.commission for o in records), ZERO)
    cash = sum((*sums.of(Leg.CASH).values(), *sums.of(Leg.TRANSFERS).values()), ZERO)
    assert cash == gains - fees, "what was paid and had, by the trades and by the ledger"


def _mode(world: World, order: Order) -> str | None:
    return world.mode_of(str(order.request.account_id))


def _entries_with_a_late_execution(records: list[Order]) -> set[str]:
    """Those of which an execution became known after one that happened later: profit is booked in the sequence in which they became known."""
    heard: dict[str, list[tuple[datetime, datetime]]] = defaultdict(list)
    for order in records:
        times = [(event.at, event.fill.time) for event in order.events if isinstance(event, Filled)]
        if times:
            heard[key_of(order).ledger_id] += times
    return {entry for entry, times in heard.items() if any(a[1] > b[1] for a, b in pairwise(sorted(times)))}


def _executions(world: World) -> list[tuple[PaperOrder, PaperFill]]:
    ours = [placed for placed in _all_placed(world) if is_our_tag(placed.ticket.client_order_id)]
    found = [(placed, fill) for placed in ours for fill in placed.fills if not fill.busted]
    return sorted(found, key=lambda pair: pair[1].fill_id)


def _all_placed(world: World) -> list[PaperOrder]:
    """At every configured account."""
    return [placed for account in world.account_ids for placed in world.placed(account)]


def _recount(held: list[Decimal], signed: Decimal, price: Decimal) -> None:
    """`held`: quantity, average price, realised profit in points."""
    quantity, average, _ = held
    closing = min(abs(signed), abs(quantity)) if quantity * signed < 0 else ZERO
    if closing:
        held[2] += (price - average) * closing * (1 if quantity > 0 else -1)
    after = quantity + signed
    if not closing:
        held[1] = (abs(quantity) * average + abs(signed) * price) / abs(after)
    elif after * quantity < 0:
        held[1] = price
    held[0] = after


def _audit_confirmation_view(world: World, order: Order) -> None:
    query = {"signal_id": order.signal_id, "leg_index": order.identity.leg_index, "purpose": order.identity.purpose}
    (document,) = world.documents("execution_confirmations", **query)
    assert document["_id"].startswith("exec_")
    assert document["status"] == order.status
    assert document["filled_quantity"] == float(order.filled_quantity)
    assert document["order_id"] == order.broker_order_id
    assert [f["fill_id"] for f in document["fills"]] == [f.fill_id for f in order.fills]


def _audit_signal(world: World, order: Order) -> None:
    documents = world.documents("signal_store", signal_id=order.signal_id)
    if order.adoption is not None:
        assert documents == []
        return
    assert len(documents) == 1
    if order.request.total_legs > 1 or order.identity.purpose is Purpose.EXIT:
        return
    execution = documents[0]["execution"]
    assert documents[0]["execution_status"] == order.status
    assert execution["quantity_filled"] == float(order.filled_quantity)
    is_done = order.status.is_final and order.filled_quantity
    assert execution["status"] == (Status.FILLED if is_done else order.status)


def _audit_profit_of_signals(world: World, records: list[Order]) -> None:
    """The document of a signal's entry shows what all exits of it together have realised, by the ledger."""
    realized: dict[str, Decimal] = defaultdict(Decimal)
    lines = {d["_id"]: lines_from_document(d["lines"]) for d in world.documents("execution_ledger_lines")}
    for entry in (ledger_from_document(d) for d in world.documents("execution_positions")):
        for order_id, applied in entry.applied.items():
            lines[order_id] = {**lines.get(order_id, {}), **{line.event_number: line for line in applied}}
    for order_id, some in lines.items():
        realized[order_id] = sum((line.realized for line in some.values()), ZERO)
    exits_by_ref: dict[str, dict[str, Order]] = defaultdict(dict)
    for order in records:
        for ref in getattr(order.request, "entry_refs", ()):
            exits_by_ref[ref][order.order_id] = order
    for order in records:
        if order.identity.purpose is Purpose.ENTRY and order.adoption is None and order.request.total_legs == 1:
            closing = {i: o for name in order.names for i, o in exits_by_ref[name].items()}
            if order.filled_quantity and any(o.filled_quantity for o in closing.values()):
                (document,) = world.documents("signal_store", signal_id=order.signal_id)
                expected = sum((realized[order_id] for order_id in closing), ZERO)
                assert "pnl_realized" in document, f"no profit is shown of {order.signal_id}"
                assert abs(document["pnl_realized"] - float(expected)) < 1e-6, f"profit of {order.signal_id}"


def _audit_published(world: World, order: Order) -> None:
    """Each event that is owed came at least once, always the same, in order, and nothing else came."""
    owed = [h for h in applied_events(order) if h.is_published]
    expected = [attributes(h.after)["event_id"] for h in owed]
    bodies: dict[str, object] = {}
    for body, attribute, _ in world.publisher.messages:
        event_id = attribute["event_id"]
        if event_id.startswith(order.order_id):
            assert bodies.setdefault(event_id, body) == body, f"{event_id} changed"
            assert attribute["status"] == body["status"]
    assert list(bodies) == expected
    if owed:
        last = bodies[expected[-1]]
        assert isinstance(last, dict)
        if order.status.is_final or order.status is Status.IN_DOUBT:
            assert last["status"] == order.status
            assert last["filled_quantity"] == float(order.filled_quantity)


def _audit_people(world: World, order: Order) -> None:
    if not world.notifier.enabled:
        return
    name = world.account_name(order.request.account_id)
    together = {line for text in world.notifier.titled("Order") for line in text.splitlines()[2:]}
    is_told = False
    for applied_event in reversed(tuple(applied_events(order))):
        before, event, after = applied_event.before, applied_event.event, applied_event.after
        text = order_alert(before, event, after, account_name=name, broker="MOCK")
        line = outcome_line(before, event, after, account_name=name)
        # A line among others' tells what the earlier ones would have told, too.
        is_told = is_told or line in together
        is_covered = text is None or text in world.notifier.texts or (line is not None and is_told)
        assert is_covered, f"people were not told: {text}"
