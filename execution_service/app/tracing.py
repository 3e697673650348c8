"""Traces of orders by OpenTelemetry, worked out from what was recorded; alone imports its SDK, and is loaded only where traces are wanted.

One trace for each order, from its message to its confirmations. Its ids follow from the record (core/messages/trace.py), so that what is recorded
after a restart, or by another process, goes on in the same trace.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status as SpanStatus
from opentelemetry.trace.status import StatusCode

from execution_service.core.messages.trace import OrderTrace, span_id, trace_of
from execution_service.core.orders.events import (
    Accepted,
    Cancelled,
    Doubted,
    Event,
    Expired,
    Filled,
    Held,
    NothingSent,
    Rejected,
    SubmitStarted,
    stored_name,
)
from execution_service.core.orders.order import Order
from execution_service.delivery.confirmations import Confirmation, Confirmations
from execution_service.recording.live_orders import LiveOrder, LiveOrders
from execution_service.runtime.clock import Clock
from execution_service.runtime.supervision import Part

log = structlog.get_logger(__name__)

SERVICE = "execution-service"
NOTED_AT_MOST = 20_000
"""So many records may wait to be worked out, and of so many orders it is remembered how far they are; more are left out."""
TAKEN_AT_ONCE = 50
LOOKED_EVERY_SECONDS = 1.0
CLOSE_SECONDS = 2.0
"""How long the end of the service waits for the last spans."""
_SCOPE = InstrumentationScope("execution_service")
_QUIET = "opentelemetry.exporter"
"""Who would say each failed attempt anew."""


class SaidOnce(SpanExporter):
    """An exporter of which it is said once that it fails, and once that it works again. Called in a thread of OpenTelemetry's, for which nothing
    waits; what could not be exported is lost."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        why = "it was refused, or nobody answered"
        try:
            result = self._exporter.export(spans)
        except Exception as exc:  # noqa: BLE001  whatever it was, these spans are lost and the next may not be
            result, why = SpanExportResult.FAILURE, str(exc) or type(exc).__name__
        has_failed = result is not SpanExportResult.SUCCESS
        if has_failed and not self._is_failing:
            log.warning(f"Traces cannot be exported and are lost: {why}", action="traces_lost")
        elif self._is_failing and not has_failed:
            log.info("Traces are exported again", action="traces_exported")
        self._is_failing = has_failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """An order as it came in hand, or after a record."""

    order: Order
    durable_at: datetime | None = None
    """When it was seen to be stored, where that is new."""


@dataclass(frozen=True, slots=True)
class _Published:
    confirmation: Confirmation
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """What becomes a span."""

    name: str
    since: datetime
    until: datetime
    number: int = 0
    """Of the event that it is about, from 1."""
    kind: SpanKind = SpanKind.INTERNAL
    attributes: Mapping[str, str | bool | int] | None = None
    error: str | None = None


class Tracing:
    """Recording costs an append here; all else is done later, some at once."""

    def __init__(
        self, exporter: SpanExporter, *, live_orders: LiveOrders, confirmations: Confirmations, clock: Clock
    ) -> None:
        """Knows what is in hand already; to be made before the service starts."""
        self._clock = clock
        self._began_at = clock.now()
        self._noted: deque[_Recorded | _Published] = deque()
        self._seen: OrderedDict[str, int] = OrderedDict()
        """By our id, how many events of an order have become spans, or were another process's to show."""
        self._processor = BatchSpanProcessor(SaidOnce(exporter))
        self._resource = _resource()
        for live in live_orders.by_id.values():
            self._see(live.order)
        live_orders.on_taken.append(self._taken)
        live_orders.on_recorded.append(lambda live: self._note(_Recorded(live.order)))
        confirmations.on_published.append(lambda each: self._note(_Published(each, self._clock.now())))

    def parts(self) -> Sequence[Part]:
        """What runs for as long as the process."""
        return [Part("traces", self.run, is_vital=False)]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._take(TAKEN_AT_ONCE)
            await self._clock.sleep(0.0 if self._noted else LOOKED_EVERY_SECONDS)

    async def close(self) -> None:
        """Exports what is left, in bounded time, in a thread that nobody waits for longer."""
        self._take(len(self._noted))
        ended = threading.Event()

        def end() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]
            ended.set()

        threading.Thread(target=end, name="traces-end", daemon=True).start()
        await asyncio.to_thread(ended.wait, CLOSE_SECONDS)

    # --- noted ----------------------------------------------------------------------------------------------------

    def _taken(self, live: LiveOrder) -> None:
        order = live.order
        if order.received_at < self._began_at:
            self._see(order)
        else:
            self._note(_Recorded(order, self._clock.now()))

    def _note(self, noted: _Recorded | _Published) -> None:
        if len(self._noted) < NOTED_AT_MOST:
            self._noted.append(noted)

    def _see(self, order: Order) -> int:
        """How many of its events were seen before."""
        before = self._seen.pop(order.order_id, 0)
        self._seen[order.order_id] = max(before, order.version)
        if len(self._seen) > NOTED_AT_MOST:
            self._seen.popitem(last=False)
        return before

    # --- worked out -----------------------------------------------------------------------------------------------

    def _take(self, at_most: int) -> None:
        for _ in range(min(at_most, len(self._noted))):
            noted = self._noted.popleft()
            if isinstance(noted, _Published):
                told = noted.confirmation
                stretch = _Stretch(
                    name="confirm",
                    since=told.recorded_at,
                    until=noted.at,
                    number=told.number,
                    kind=SpanKind.PRODUCER,
                    attributes={"execution.status": told.status},
                )
                self._export(told.order_id, told.signal_id, told.traceparent, (stretch,))
            else:
                order = noted.order
                stretches = tuple(_stretches(order, self._see(order), noted.durable_at))
                self._export(order.order_id, order.signal_id, order.traceparent, stretches)

    def _export(self, order_id: str, signal_id: str, traceparent: str | None, stretches: Sequence[_Stretch]) -> None:
        trace = trace_of(order_id, traceparent)
        if trace.is_sampled:
            for stretch in stretches:
                self._processor.on_end(self._span(trace, order_id, signal_id, stretch))

    def _span(self, trace: OrderTrace, order_id: str, signal_id: str, stretch: _Stretch) -> ReadableSpan:
        is_root = stretch.name == "order"
        parent_id = trace.parent_id if is_root else span_id(order_id, "order")
        since = min(stretch.since, stretch.until)
        return ReadableSpan(
            stretch.name,
            _context(trace, span_id(order_id, stretch.name, stretch.number)),
            None if parent_id is None else _context(trace, parent_id, is_remote=is_root),
            self._resource,
            {
                "execution.order_id": order_id,
                "execution.signal_id": signal_id,
                **({"execution.event_number": stretch.number} if stretch.number else {}),
                **(stretch.attributes or {}),
            },
            kind=stretch.kind,
            status=SpanStatus() if stretch.error is None else SpanStatus(StatusCode.ERROR, stretch.error),
            start_time=_nanoseconds(since),
            end_time=_nanoseconds(stretch.until),
            instrumentation_scope=_SCOPE,
        )


def tracing(*, live_orders: LiveOrders, confirmations: Confirmations, clock: Clock) -> Tracing:
    """By OTLP over HTTP, as the standard variables of the environment say (OTEL_EXPORTER_OTLP_ENDPOINT and so on)."""
    logging.getLogger(_QUIET).setLevel(logging.CRITICAL + 1)
    return Tracing(OTLPSpanExporter(), live_orders=live_orders, confirmations=confirmations, clock=clock)


def _resource() -> Resource:
    found = Resource.create()
    is_named = not str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service")
    return found if is_named else found.merge(Resource({SERVICE_NAME: SERVICE, "process.pid": os.getpid()}))


def _stretches(order: Order, before: int, durable_at: datetime | None) -> Iterator[_Stretch]:
    """Of the events after the first `before`."""
    if durable_at is not None:
        yield _Stretch(name="receive", since=order.published_at, until=order.received_at, kind=SpanKind.CONSUMER)
        yield _Stretch(name="record", since=order.received_at, until=durable_at)
    sent_at = next((e.at for e in reversed(order.events[:before]) if isinstance(e, SubmitStarted)), None)
    for number, event in enumerate(order.events[before:], before + 1):
        yield from _of_event(event, number, order, sent_at)
        if isinstance(event, SubmitStarted):
            sent_at = event.at
        elif isinstance(event, Accepted | Rejected | Doubted | NothingSent):
            sent_at = None
    if order.version > before and order.status.is_final and not order.as_of(before).status.is_final:
        error = None if order.reason is None or order.status.value != "REJECTED" else order.reason.code.value
        yield _Stretch(
            name="order",
            since=order.published_at,
            until=order.events[-1].at,
            kind=SpanKind.CONSUMER,
            attributes={"execution.status": order.status.value},
            error=error,
        )


def _of_event(event: Event, number: int, order: Order, sent_at: datetime | None) -> Iterator[_Stretch]:
    match event:
        case SubmitStarted():
            is_exit = event.risk is not None and event.risk.is_exit
            verdict: dict[str, str | bool | int] = {"execution.verdict": "pass", "execution.is_exit": is_exit}
            yield _Stretch(name="gate", since=event.at, until=event.at, number=number, attributes=verdict)
        case Rejected() if sent_at is None:
            code = event.reason.code.value
            verdict = {"execution.verdict": "refuse", "execution.code": code}
            yield _Stretch(name="gate", since=event.at, until=event.at, number=number, attributes=verdict, error=code)
        case Accepted() | Rejected() | Doubted() | NothingSent():
            error = None if isinstance(event, Accepted) else stored_name(type(event))
            yield _Stretch(
                name="place",
                since=event.at if sent_at is None else sent_at,
                until=event.at,
                number=number,
                kind=SpanKind.CLIENT,
                attributes={"execution.attempt": order.attempt},
                error=error,
            )
        case Filled() | Cancelled() | Expired() | Held():
            since = event.fill.time if isinstance(event, Filled) else event.at
            yield _Stretch(
                name="report",
                since=since,
                until=event.at,
                number=number,
                attributes={"execution.report": stored_name(type(event))},
            )


def _context(trace: OrderTrace, span: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace.trace_id, span, is_remote, TraceFlags(TraceFlags.SAMPLED))


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000
