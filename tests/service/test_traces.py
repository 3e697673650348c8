"""One trace for each order, from its message to its confirmations, over restarts; and nothing of it where it is not wanted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from execution_service.app.tracing import SaidOnce, Tracing
from execution_service.core.messages.trace import read_traceparent, trace_of, traceparent_in
from execution_service.core.orders.status import Status
from execution_service.core.views.record import order_from_document, order_to_document
from tests.builders import order_in
from tests.fakes import BY_HAND, RESTING, World, world_of

TRACE, SENDER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SENDER}-01"
ROOT = Path(__file__).resolve().parent.parent.parent


def traced(world: World, exporter: SpanExporter) -> Tracing:
    """Of the service's present life."""
    rooms = world.service.rooms
    return Tracing(exporter, live_orders=rooms.live_orders, confirmations=rooms.confirmations, clock=world.clock)


def send(world: World, signal_id: str, **attributes: str) -> None:
    body = {"signal_id": signal_id, "account_id": "acct-1", "strategy_name": "m", "symbol": "AAPL", "side": "BUY"}
    data = json.dumps(body | {"quantity": 100, "order_type": "MARKET", "price": 10}).encode()
    world.send_raw(data, attributes=attributes)


def attributes_of(world: World, signal_id: str) -> list[Mapping[str, str]]:
    return [attributes for body, attributes, _ in world.publisher.messages if body["signal_id"] == signal_id]


def worked_out(tracing: Tracing, exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    tracing._take(10_000)
    assert tracing._processor.force_flush()
    return list(exporter.get_finished_spans())


def hexed(span: ReadableSpan) -> tuple[str, str]:
    """Its trace, and its parent."""
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return f"{context.trace_id:032x}", "" if parent is None else f"{parent.span_id:016x}"


async def test_an_order_is_one_trace_from_its_message_to_its_confirmations(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        exporter = InMemorySpanExporter()
        tracing = traced(world, exporter)
        send(world, "one", googclient_traceparent=GIVEN)
        await world.run(5)
        spans = worked_out(tracing, exporter)
        assert {hexed(span)[0] for span in spans} == {TRACE}
        names = [span.name for span in spans]
        assert {"order", "receive", "record", "gate", "place", "report", "confirm"} <= set(names)
        assert names.count("confirm") == len(world.publisher.of("one"))
        (root,) = [span for span in spans if span.name == "order"]
        assert hexed(root)[1] == SENDER, "it goes on from the span of whoever published it"
        root_context = root.get_span_context()
        assert root_context is not None
        assert {hexed(span)[1] for span in spans if span is not root} == {f"{root_context.span_id:016x}"}
        ids = [span.get_span_context().span_id for span in spans]  # type: ignore[union-attr]
        assert len(set(ids)) == len(ids), "each is told once"
        assert all((span.start_time or 0) <= (span.end_time or 0) for span in spans)
        await tracing.close()


async def test_the_trace_goes_on_after_a_restart_and_nothing_is_told_twice(tmp_path: Path) -> None:
    async with world_of(tmp_path, market=BY_HAND, rules=RESTING) as world:
        before, after = InMemorySpanExporter(), InMemorySpanExporter()
        first = traced(world, before)
        send(world, "one", traceparent=GIVEN)
        await world.run(2)
        told_before = worked_out(first, before)
        await first.close()
        await world.kill()
        await world.restart()
        second = traced(world, after)
        await world.run(2)
        world.fill("one", None, "10")
        await world.run(5)
        told_after = worked_out(second, after)
        await second.close()
        assert {hexed(span)[0] for span in (*told_before, *told_after)} == {TRACE}
        assert "place" in {span.name for span in told_before}
        assert {"report", "confirm", "order"} <= {span.name for span in told_after}
        assert not {"receive", "record", "gate", "place"} & {span.name for span in told_after}
        (root,) = [span for span in told_after if span.name == "order"]
        parents = {hexed(span)[1] for span in told_before}
        assert parents == {f"{root.get_span_context().span_id:016x}"}  # type: ignore[union-attr]


async def test_an_order_that_came_in_no_trace_begins_one_and_one_that_is_not_sampled_is_not_told(
    tmp_path: Path,
) -> None:
    async with world_of(tmp_path) as world:
        exporter = InMemorySpanExporter()
        tracing = traced(world, exporter)
        send(world, "own")
        send(world, "unsampled", traceparent=f"00-{TRACE}-{SENDER}-00")
        await world.run(5)
        spans = worked_out(tracing, exporter)
        assert {dict(span.attributes or {})["execution.signal_id"] for span in spans} == {"own"}
        (root,) = [span for span in spans if span.name == "order"]
        assert root.parent is None
        await tracing.close()


async def test_a_refused_order_shows_the_gate_with_its_code(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        exporter = InMemorySpanExporter()
        tracing = traced(world, exporter)
        world.send("bad", quantity=-1)
        await world.run(3)
        spans = {span.name: span for span in worked_out(tracing, exporter)}
        assert spans["gate"].status.description == "INVALID_ORDER"
        assert spans["order"].status.description == "INVALID_ORDER"
        assert "place" not in spans
        await tracing.close()


class Broken(SpanExporter):
    def __init__(self) -> None:
        self.calls, self.is_down = 0, True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.calls += 1
        if self.is_down:
            raise ConnectionError("nobody there")
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...


async def test_an_exporter_that_is_down_holds_nothing_up_and_is_said_once(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        broken = Broken()
        said = SaidOnce(broken)
        tracing = traced(world, broken)
        send(world, "one")
        await world.run(5)
        assert world.record("one").status.value == "FILLED"
        tracing._take(10_000)
        for _ in range(5):
            said.export(())
        assert [entry["action"] for entry in world.logs if "traces" in str(entry.get("action"))].count(
            "traces_lost"
        ) == 1
        broken.is_down = False
        said.export(())
        assert [entry for entry in world.logs if entry.get("action") == "traces_exported"]
        await tracing.close()


# --- the record -----------------------------------------------------------------------------------------------------


def test_a_record_keeps_its_trace_and_one_of_an_earlier_version_is_read_as_it_is() -> None:
    order = replace(order_in(Status.SUBMITTED), traceparent=GIVEN)
    document = order_to_document(order)
    assert order_from_document(document).traceparent == GIVEN
    del document["traceparent"]
    assert order_from_document(document).traceparent is None
    document["traceparent"] = 5
    assert order_from_document(document).traceparent is None
    assert "traceparent" not in order_to_document(order_in(Status.SUBMITTED))


@pytest.mark.parametrize(
    "text",
    [
        None,
        5,
        "",
        "00",
        f"ff-{TRACE}-{SENDER}-01",
        f"00-{TRACE.upper()}-{SENDER}-01",
        f"00-{'0' * 32}-{SENDER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SENDER}-01-more",
        f"{GIVEN}\n",
        "x" * 100_000,
    ],
)
def test_what_is_no_traceparent_counts_as_absent(text: object) -> None:
    assert read_traceparent(text) is None


def test_googles_attribute_goes_first_and_a_later_version_is_read_as_the_first() -> None:
    other = f"00-{'a' * 32}-{SENDER}-00"
    assert traceparent_in({"traceparent": other, "googclient_traceparent": GIVEN}) == GIVEN
    assert traceparent_in({"traceparent": other, "googclient_traceparent": "nonsense"}) == other
    assert read_traceparent(f"01-{TRACE}-{SENDER}-01-more") == GIVEN
    assert not trace_of("ord_1", other).is_sampled


async def test_confirmations_carry_the_trace_only_where_that_is_wanted(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        send(world, "plain", traceparent=GIVEN)
        await world.run(3)
        assert attributes_of(world, "plain")
        assert not any("traceparent" in each for each in attributes_of(world, "plain"))
        world.service.rooms.confirmations._is_traced = True
        send(world, "traced", traceparent=GIVEN)
        await world.run(3)
        carried = attributes_of(world, "traced")
        assert carried
        assert not any(name.startswith("goog") for each in carried for name in each), "Pub/Sub reserves these names"
        assert {each["traceparent"].split("-")[1] for each in carried} == {TRACE}
        assert len({each["traceparent"] for each in carried}) == len(carried), "each is a span of its own"


def test_where_traces_are_off_the_library_is_not_even_loaded() -> None:
    words = (
        "import sys; import execution_service.app.process, execution_service.app.wiring; "
        "print([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', "
        "'execution_service.app.tracing'))])"
    )
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
