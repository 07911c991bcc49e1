"""Traces and metrics through OpenTelemetry's API, where it is installed (the extra ``otel``).

Without the API, or without a SDK that an application has set up, every call here does nothing. The
names are public; the reference lists them.

All spans of one migration have one trace, whichever processes made them: its id is the migration's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventsource.migration.models import Migration

__all__ = ["api", "cutover_ended", "mirror_failed", "observe", "passed", "span", "waited"]

#: Seconds; a pause is some milliseconds, and its budget some seconds.
PAUSE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

#: Name, unit and description of each instrument, by its kind.
INSTRUMENTS = {
    "eventsource.cutover.pause": (
        "histogram", "s", "How long a cutover held the fence, at which the tenant's writers wait."
    ),
    "eventsource.cutover.count": ("counter", "{cutover}", "Cutovers that ended, by their outcome."),
    "eventsource.pass.duration": ("histogram", "s", "How long a pass took."),
    "eventsource.pass.events": ("counter", "{event}", "Events that passes have found."),
    "eventsource.migration.lag": ("gauge", "{event}", "Events that the last pass found new."),
    "eventsource.migration.rate": ("gauge", "{event}/s", "How fast the bulk copy is."),
    "eventsource.migration.throttle": ("gauge", "{event}/s", "What spares the source: its limit."),
    "eventsource.migration.progress": ("gauge", "1", "Carried events of all events."),
    "eventsource.router.wait": (
        "histogram", "s", "How long appends waited that met a fence, as their router saw it."
    ),
    "eventsource.mirror.failures": ("counter", "{event}", "Events that a mirror did not write."),
}  # fmt: skip

_instruments: dict[str, Any] = {}


@cache
def api() -> Any:
    """The API, or None where it is not installed.

    A driver and a mirror ask for it as they begin: no writer shall wait at a fence while a library
    is loaded. Who only asks how far a migration is does without.
    """
    try:
        from opentelemetry import metrics, trace
    except ImportError:
        return None
    return metrics, trace


def _instrument(name: str) -> Any:
    found = _instruments.get(name)
    if found is None:
        kind, unit, description = INSTRUMENTS[name]
        meter = api()[0].get_meter("eventsource")
        options: dict[str, Any] = {"unit": unit, "description": description}
        if name == "eventsource.cutover.pause":
            options["explicit_bucket_boundaries_advisory"] = PAUSE_BUCKETS
        found = _instruments[name] = getattr(meter, f"create_{kind}")(name, **options)
    return found


def _attributes(migration: Migration) -> dict[str, str]:
    return {
        "eventsource.migration_id": str(migration.id),
        "eventsource.tenant_id": str(migration.tenant_id),
        "eventsource.source": migration.source_store_id,
        "eventsource.target": migration.target_store_id,
    }


@contextlib.contextmanager
def span(name: str, migration: Migration) -> Iterator[None]:
    """A span ``eventsource.<name>`` in the migration's trace; an error that ends it is in it."""
    if api() is None:
        yield
        return
    trace = api()[1]
    parent = None
    if not trace.get_current_span().get_span_context().is_valid:
        whole = migration.id.int
        context = trace.SpanContext(
            trace_id=whole, span_id=(whole & (2**64 - 1)) or 1, is_remote=True,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
        )  # fmt: skip
        parent = trace.set_span_in_context(trace.NonRecordingSpan(context))
    tracer = trace.get_tracer("eventsource")
    attributes = {**_attributes(migration), "eventsource.state": str(migration.state)}
    with tracer.start_as_current_span(f"eventsource.{name}", parent, attributes=attributes):
        yield


def observe(migration: Migration) -> None:
    """Publish what the journal says of a migration that is being driven."""
    if api() is None:
        return
    attributes = _attributes(migration)
    _instrument("eventsource.migration.rate").set(migration.copy_rate or 0.0, attributes)
    _instrument("eventsource.migration.throttle").set(migration.throttle_rate or 0.0, attributes)
    progress = migration.progress_percentage / 100
    _instrument("eventsource.migration.progress").set(progress, attributes)


def passed(migration: Migration, events: int, new: int, seconds: float) -> None:
    """A pass came to its end: what it found, what of that the target did not hold yet."""
    if api() is None:
        return
    attributes = _attributes(migration)
    _instrument("eventsource.pass.duration").record(seconds, attributes)
    _instrument("eventsource.pass.events").add(events, attributes)
    _instrument("eventsource.migration.lag").set(new, attributes)


def cutover_ended(migration: Migration, outcome: str, pause_ms: float | None = None) -> None:
    """A cutover came to its end; ``outcome`` is ``ok`` or the code of its error."""
    if api() is None:
        return
    attributes = _attributes(migration)
    counted = {**attributes, "eventsource.outcome": outcome}
    _instrument("eventsource.cutover.count").add(1, counted)
    if pause_ms is not None:
        _instrument("eventsource.cutover.pause").record(pause_ms / 1000, attributes)


def waited(tenant_id: object, seconds: float) -> None:
    """An append met a fence, and was stored after so long."""
    if api() is not None:
        attributes = {"eventsource.tenant_id": str(tenant_id)}
        _instrument("eventsource.router.wait").record(seconds, attributes)


def mirror_failed(tenant_id: object, events: int) -> None:
    """A mirror could not write so many events; the passes carry them."""
    if api() is not None:
        attributes = {"eventsource.tenant_id": str(tenant_id)}
        _instrument("eventsource.mirror.failures").add(events, attributes)
