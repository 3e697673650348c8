"""Records as documents and back: through BSON, whatever happened to the order, exactly; and what is not ours is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

import bson
import pytest
from bson.codec_options import CodecOptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brokers.base import Fill, Instrument, Side
from execution_service.core.errors import CoreError, UnreadableRecord
from execution_service.core.orders.events import Cancelled, Event, Rejected, stored_name
from execution_service.core.orders.order import Order, apply, new_order
from execution_service.core.orders.request import Identity, OrderRequest, Purpose, RefusedRequest
from execution_service.core.orders.status import Reason, ReasonCode, Status
from execution_service.core.positions.ledger import Held, LedgerEntry, LedgerKey, Line
from execution_service.core.positions.position import Position
from execution_service.core.views.record import (
    Document,
    as_stored,
    event_from_document,
    event_to_document,
    is_for_good,
    ledger_from_document,
    ledger_to_document,
    lines_from_document,
    lines_to_document,
    lookup_keys,
    order_from_document,
    order_to_document,
    protected_in,
    state_of,
)
from tests.builders import (
    NOW,
    accepted,
    doubted,
    filled_by,
    identity,
    one_event_of_each_kind,
    order,
    order_in,
    protection_changed,
    refused_request,
    send_again_ordered,
    submit_started,
)

THOROUGH = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
NAIVE: CodecOptions[dict[str, Any]] = CodecOptions()


def stored(document: Document, options: CodecOptions[dict[str, Any]] = AWARE) -> Document:
    """As the database gives it back."""
    return bson.decode(bson.encode(document), options)


# --- anything that the types allow ----------------------------------------------------------------------------------

TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.one_of(
    st.integers(0, 10**12).map(Decimal),
    st.decimals(0, 10**9, places=10, allow_nan=False, allow_infinity=False),
    st.sampled_from([Decimal("1E+3"), Decimal("1E-12"), Decimal("0.10"), Decimal("-0.00")]),
)


def anything(hint: Any) -> st.SearchStrategy[Any]:
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: TEXTS,
        int: st.integers(0, 1000),
        bool: st.booleans(),
        Decimal: NUMBERS,
        datetime: TIMES,
        type(None): st.none(),
        tuple[str, ...]: st.lists(TEXTS, max_size=3).map(tuple),
    }
    if hint in simple:
        return simple[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    if get_origin(hint) is tuple:
        return st.lists(anything(get_args(hint)[0]), max_size=3).map(tuple)
    if get_args(hint):
        return st.one_of([anything(arg) for arg in get_args(hint)])
    return instances(hint)


def instances(cls: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls)
    return st.builds(cls, **{f.name: anything(hints[f.name]) for f in fields(cls) if f.init})


EVENTS = st.one_of([instances(cls) for cls in get_args(Event)])


@st.composite
def orders(draw: st.DrawFn) -> Order:
    """An order with any request that lived through whatever of its events could happen."""
    about = new_order(
        draw(instances(Identity)),
        draw(instances(OrderRequest) | instances(RefusedRequest)),
        received_at=draw(TIMES),
        published_at=draw(TIMES),
        message_id=draw(TEXTS),
        raw=draw(TEXTS),
    )
    for event in draw(st.lists(EVENTS, max_size=12)):
        try:
            about = apply(about, event)
        except CoreError:
            continue
    return about


@THOROUGH
@given(EVENTS)
def test_any_event_survives_the_store(event: Event) -> None:
    assert event_from_document(stored(event_to_document(event))) == event


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda kind: stored_name(kind))
def test_every_kind_of_event_survives_the_store(kind: type[Event]) -> None:
    event = one_event_of_each_kind(order_in(Status.PARTIALLY_FILLED))[kind]
    document = stored(event_to_document(event) | {"write": "process-7"})
    assert document["type"] == stored_name(kind)
    assert event_from_document(document) == event


@THOROUGH
@given(orders())
def test_any_order_survives_the_store(about: Order) -> None:
    assert order_from_document(stored(order_to_document(about))) == about


@THOROUGH
@given(orders())
def test_a_reader_without_time_zones_reads_the_same_order(about: Order) -> None:
    assert order_from_document(stored(order_to_document(about), NAIVE)) == about


@THOROUGH
@given(orders())
def test_the_state_beside_the_events_is_that_of_the_events(about: Order) -> None:
    document = order_to_document(about)
    assert document == {**document, **state_of(order_from_document(stored(document)))}
    assert document["version"] == len(document["events"])


@THOROUGH
@given(st.integers(1, 9), instances(Position), st.lists(instances(Position), max_size=3), instances(Instrument))
def test_any_ledger_entry_survives_the_store(
    number: int, position: Position, ended: list[Position], instrument: Instrument
) -> None:
    line = Line(3, 7, 2, Decimal("-12.50"), Decimal("0.5"))
    entry = LedgerEntry(
        key=LedgerKey("acct.1", "$trategy", instrument.key),
        instrument=instrument,
        version=number,
        sequence=7,
        position=position,
        ended=tuple(ended),
        applied={"ord_a": (line, replace(line, event_number=4, closed=Decimal(0))), "ord_b": (line,)},
    )
    assert ledger_from_document(stored(ledger_to_document(entry))) == entry


def test_lines_survive_the_store_with_and_without_a_closed_quantity() -> None:
    lines = {3: Line(3, 1, 1, Decimal(0)), 12: Line(12, 2, 1, Decimal("0.10"), Decimal(4))}
    document = stored({"lines": lines_to_document(lines)})["lines"]
    assert lines_from_document(document) == lines
    assert "closed" not in document["3"]


def test_position_after_a_line_survives_the_store_and_earlier_lines_have_none() -> None:
    held = Held(Decimal("-0.004"), Decimal("-200.10"), Decimal("12.5"))
    lines = {3: Line(3, 1, 1, Decimal(0)), 4: Line(4, 2, 1, Decimal(1), Decimal(4), held)}
    document = stored({"lines": lines_to_document(lines)})["lines"]
    assert [line.held for line in lines_from_document(document).values()] == [None, held]
    assert "held" not in document["3"]


# --- exactness ------------------------------------------------------------------------------------------------------


def test_the_names_of_stored_events_never_change() -> None:
    assert {event_to_document(event)["type"] for event in one_event_of_each_kind(order()).values()} == {
        *("Accepted", "Adopted", "AdoptionUndone", "Busted", "CancelRefused", "CancelRequested", "Cancelled", "Capped"),
        *("CommissionReported", "Completed", "ContractDeclared", "ContractTold", "DeclaredCancelled"),
        *("DeclaredNotPlaced", "DeclaredPlaced", "Doubted", "Expired", "Filled", "Fitted", "Held"),
        *(
            "InstrumentMatched",
            "Noted",
            "NothingSent",
            "ProtectionChanged",
            "Rejected",
            "Released",
            "SendAgainOrdered",
            "Sized",
            "AwaitsOpening",
            "SubmitStarted",
            "Triggered",
        ),
    }


@pytest.mark.parametrize("text", ["0.1", "0.10", "1E+3", "123456789012345678901234567890.123456789", "1E-18"])
def test_decimals_are_kept_to_the_last_digit_as_text(text: str) -> None:
    about = order(events=(filled_by("f1", text, text),), quantity=text)
    document = stored(order_to_document(about))
    assert document["events"][0]["fill"]["price"] == text
    again = order_from_document(document).fills[0]
    assert (str(again.quantity), str(again.price)) == (text, text)


def test_times_are_dates_in_the_database() -> None:
    document = stored(order_to_document(order(events=(submit_started(), filled_by("f1")))))
    for value in (document["received_at"], document["published_at"], document["events"][1]["fill"]["time"]):
        assert isinstance(value, datetime)


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    local = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    again = order_from_document(stored(order_to_document(order(received_at=local)))).received_at
    assert again == NOW
    assert again.tzinfo is UTC


def test_microseconds_of_a_fill_are_cut_off_and_nothing_else_of_it() -> None:
    precise = NOW + timedelta(microseconds=123_999)
    about = order(events=(submit_started(), accepted(), filled_by("f1", 40, time=precise)))
    again = order_from_document(stored(order_to_document(about)))
    assert again.fills == (replace(about.fills[0], time=NOW + timedelta(milliseconds=123)),)
    assert (again.status, again.filled_quantity) == (about.status, about.filled_quantity)
    assert order_from_document(stored(order_to_document(again))) == again


# --- the look-up words ----------------------------------------------------------------------------------------------


def test_an_order_is_found_by_each_of_its_names() -> None:
    about = order(
        of=identity("out", purpose=Purpose.EXIT),
        side=Side.SELL,
        request_order_id="up-1",
        mathematricks_signal_id="0123456789abcdef01234567",
        entry_refs=("in", "fedcba9876543210fedcba98"),
        events=(submit_started(), accepted("B-7")),
    )
    assert lookup_keys(about) == [
        f"client:{about.client_order_id}",
        "broker:B-7",
        "request:up-1",
        "signal:0123456789abcdef01234567",
        "signal:out",
        "exit_of:in",
        "exit_of:fedcba9876543210fedcba98",
    ]


def test_an_order_sent_again_is_found_by_both_client_ids() -> None:
    about = order(events=(submit_started(), doubted(), send_again_ordered()))
    assert len(about.client_order_ids) == 2
    assert {f"client:{c}" for c in about.client_order_ids} <= set(lookup_keys(about))


@THOROUGH
@given(orders(), st.integers(0, 12))
def test_a_name_that_is_borne_for_good_is_never_lost(about: Order, version: int) -> None:
    before = set(filter(is_for_good, lookup_keys(about.as_of(min(version, about.version)))))
    assert before <= set(lookup_keys(about))


def test_what_names_an_order_at_its_broker_or_its_protection_is_not_borne_for_good() -> None:
    about = order(
        stop_loss=Decimal(9),
        events=(submit_started(), accepted("B-7"), filled_by("f1", 40), protection_changed()),
    )
    passing = {"broker:B-7", protected_in("acct-1")}
    assert {name for name in lookup_keys(about) if not is_for_good(name)} == passing


def test_a_refused_order_is_found_by_its_signal() -> None:
    assert "signal:signal-1" in lookup_keys(order(asked=refused_request()))


# --- what is not ours -----------------------------------------------------------------------------------------------


def changed(key: str, value: Any) -> Callable[[Document], None]:
    return lambda document: document.update({key: value})


def dropped(key: str) -> Callable[[Document], None]:
    return lambda document: document.pop(key)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (changed("format", 2), "format 2"),
        (dropped("format"), "format"),
        (dropped("events"), "events"),
        (dropped("request"), "refused_request"),
        (changed("purpose", "HEDGE"), "HEDGE"),
        (changed("leg_index", "first"), "first"),
        (changed("received_at", "yesterday"), "TypeError"),
        (changed("events", [{"type": "Teleported", "at": NOW}]), "Teleported"),
        (changed("events", [{"at": NOW}]), "event type None"),
        (changed("events", ["Filled"]), "AttributeError"),
        (changed("events", [{"type": "Accepted", "at": NOW}]), "broker_order_id"),
        (
            changed("events", [{"type": "Filled", "at": NOW, "fill": {"fill_id": "f", "quantity": "many"}}]),
            "Conversion",
        ),
        (changed("events", [{"type": "CancelRefused", "at": NOW, "message": "late"}]), "CancelRefused"),
    ],
)
def test_a_document_that_is_not_ours_is_unreadable_and_named(spoil: Callable[[Document], None], named: str) -> None:
    document = order_to_document(order(events=(submit_started(),)))
    spoil(document)
    with pytest.raises(UnreadableRecord, match=named) as caught:
        order_from_document(document)
    assert document["_id"] in str(caught.value)


@pytest.mark.parametrize("spoil", [changed("format", 9), dropped("position"), changed("applied", [1])])
def test_a_ledger_document_that_is_not_ours_is_unreadable(spoil: Callable[[Document], None]) -> None:
    document = ledger_to_document(
        LedgerEntry(key=LedgerKey("a", "s", "AAPL|STOCK"), instrument=Instrument(symbol="AAPL"))
    )
    spoil(document)
    with pytest.raises(UnreadableRecord, match="led_"):
        ledger_from_document(document)


def test_a_fill_is_stored_by_its_own_field_names() -> None:
    document = event_to_document(filled_by("f1", 40))["fill"]
    assert set(document) == {f.name for f in fields(Fill)} - {"commission", "commission_currency", "market_volume"}


def test_a_reason_is_stored_as_code_and_words() -> None:
    event = Cancelled(at=NOW, reason=Reason(ReasonCode.TIMEOUT, "60 s"), filled_quantity=Decimal(0))
    assert event_to_document(event)["reason"] == {"code": "TIMEOUT", "message": "60 s"}


def test_half_a_character_is_kept_in_the_form_in_which_it_is_stored() -> None:
    """Told as it came it could not be written to any shared collection, and so nothing of the order would ever be told."""
    words = Reason(ReasonCode.BROKER_REJECTED, "no \ud800 money")
    assert as_stored(Rejected(at=NOW, reason=words)).reason.message == "no \\ud800 money"
    assert as_stored(filled_by("f\udfff")).fill.fill_id == "f\\udfff"
    clean = Rejected(at=NOW, reason=Reason(ReasonCode.BROKER_REJECTED, "kein Geld für Öl \U0001f600"))
    assert as_stored(clean) is clean
    unreadable = order(events=(as_stored(Rejected(at=NOW, reason=words)),))
    assert order_from_document(order_to_document(unreadable)) == unreadable
