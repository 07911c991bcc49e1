"""Traces and metrics through OpenTelemetry: what a SDK gets of a move, and nothing without one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import asyncpg
import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from eventsource.migration import CutoverTimeoutError, telemetry
from eventsource.sqlstates import MOVED
from tests.support import REPOSITORY
from tests.support.application import TARGET
from tests.support.worlds.three_databases import World, insert


@pytest.fixture
def sdk(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[InMemorySpanExporter, InMemoryMetricReader]]:
    """A SDK in the place of the one that an application sets up, for this test alone."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    meters = MeterProvider([reader])
    monkeypatch.setattr(trace, "get_tracer", tracers.get_tracer)
    monkeypatch.setattr(metrics, "get_meter", meters.get_meter)
    monkeypatch.setattr(telemetry, "_instruments", {})
    yield spans, reader
    tracers.shutdown()
    meters.shutdown()


def points(reader: InMemoryMetricReader) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    data = reader.get_metrics_data()
    assert data is not None
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found.setdefault(metric.name, []).extend(metric.data.data_points)
    return found


async def test_a_move_is_one_trace_with_its_steps(
    world: World, sdk: tuple[InMemorySpanExporter, InMemoryMetricReader]
) -> None:
    spans, reader = sdk
    await world.seed(50)
    migration = await world.migrate()
    finished = spans.get_finished_spans()
    names = {span.name for span in finished}
    assert {"eventsource.move", "eventsource.copy", "eventsource.pass"} <= names
    assert "eventsource.cutover" in names
    assert {span.context.trace_id for span in finished if span.context} == {migration.id.int}
    for span in finished:
        assert span.attributes is not None
        assert span.attributes["eventsource.tenant_id"] == str(world.tenant)
    measured = points(reader)
    (pause,) = measured["eventsource.cutover.pause"]
    assert migration.cutover_pause_ms is not None
    assert pause.count == 1  # type: ignore[attr-defined]
    assert pause.sum == pytest.approx(migration.cutover_pause_ms / 1000)  # type: ignore[attr-defined]
    (ended,) = measured["eventsource.cutover.count"]
    assert ended.attributes["eventsource.outcome"] == "ok"  # type: ignore[attr-defined]
    assert {"eventsource.migration.lag", "eventsource.migration.progress"} <= measured.keys()
    assert measured.keys() <= telemetry.INSTRUMENTS.keys()


async def test_a_cutover_that_timed_out_is_counted_by_its_code(
    world: World, sdk: tuple[InMemorySpanExporter, InMemoryMetricReader]
) -> None:
    _, reader = sdk
    driver = await world.process(cutover_timeout_seconds=0.2)
    migration = await world.dual_write(process=driver)
    async with world.open_transaction(world.tenant):
        with pytest.raises(CutoverTimeoutError):
            await driver.coordinator.initiate_cutover(migration.id, force=True)
    (ended,) = points(reader)["eventsource.cutover.count"]
    assert ended.attributes["eventsource.outcome"] == "cutover_timeout"  # type: ignore[attr-defined]


async def test_an_append_that_the_fence_sends_on_is_measured(
    world: World, sdk: tuple[InMemorySpanExporter, InMemoryMetricReader]
) -> None:
    _, reader = sdk
    await insert(world.source, world.tenant)
    route = await world.router.route(world.tenant)
    moved = await world.migrate()
    refused = asyncpg.PostgresError("it has moved")
    where = {"target_store_id": TARGET, "generation": 1, "migration_id": str(moved.id)}
    refused.__dict__.update(sqlstate=MOVED, detail=json.dumps(where))
    await world.router._follow(refused, route, time.monotonic() - 0.25)
    (waited,) = points(reader)["eventsource.router.wait"]
    assert waited.sum >= 0.25  # type: ignore[attr-defined]


def test_without_the_api_nothing_happens_and_nothing_is_missing() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from eventsource.migration import telemetry\n"
        "telemetry.waited('t', 1.0); telemetry.mirror_failed('t', 1)\n"
        "assert telemetry.api() is None\n"
        "with telemetry.span('move', None): print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"


def test_the_instruments_are_those_of_the_page() -> None:
    page = (REPOSITORY / "docs/howto/monitor.md").read_text()
    rows = re.findall(r"^\| `(eventsource\.[\w.]+)` \| (\w+) \|", page, re.MULTILINE)
    assert dict(rows) == {name: kind for name, (kind, _, _) in telemetry.INSTRUMENTS.items()}
