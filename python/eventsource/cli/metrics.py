"""`work --metrics`: what the journal says, for a Prometheus that scrapes it.

Everything is read from the control database: every `work` shows the same, also after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import asyncpg

from eventsource.cli import estimates
from eventsource.cli.config import ConfigError
from eventsource.cli.workspace import Workspace
from eventsource.errors import EventSourceError
from eventsource.migration import Migration, MigrationState
from eventsource.migration.repositories import lookups
from eventsource.migration.repositories.ways_back import WayBack, WaysBack
from eventsource.migration.telemetry import PAUSE_BUCKETS

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

#: How often the journal is read for it (seconds).
READ_SECONDS = 5.0

#: What counts the whole journal rests for so many times as long as it took.
COUNTING_SHARE = 50

#: A process whose last look is older cannot work, or does not (seconds).
READY_SECONDS, ALIVE_SECONDS = 20.0, 120.0

#: The lag needs both stores: so many migrations are asked at each look, and so long (seconds).
LAGS_AT_ONCE, LAG_SECONDS = 20, 5.0

_LABELS = ("migration", "tenant", "source", "target")


@dataclass(slots=True)
class Seen:
    """What the last look at the journal found, and when it was (monotonic seconds).

    Attributes:
        count_at: when the whole journal is counted again.
    """

    active: Sequence[Migration] = ()
    lags: dict[object, int] = field(default_factory=dict)
    ways_back: Sequence[WayBack] = ()
    totals: lookups.Totals | None = None
    count_at: float = float("-inf")
    looked_at: float = float("-inf")
    up: bool = False
    alive_at: float = field(default_factory=time.monotonic)


@contextlib.asynccontextmanager
async def served(at: Workspace, where: str | None) -> AsyncIterator[str | None]:
    """Serve metrics within the block; yields the address that they are at.

    Raises:
        ConfigError: the library is not there, or the address cannot be listened on.
    """
    if where is None:
        yield None
        return
    seen = Seen()
    server = _server(where, seen)
    thread = threading.Thread(target=server.serve_forever, name="eventsource-metrics", daemon=True)
    thread.start()
    looking = asyncio.create_task(_look_again_and_again(at, seen))
    try:
        host, port = server.server_address[:2]
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        yield f"http://{shown}:{port}/metrics"
    finally:
        looking.cancel()
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


def _server(where: str, seen: Seen) -> ThreadingHTTPServer:
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder
    except ImportError:
        raise ConfigError(
            "--metrics needs the package prometheus-client: install"
            " 'eventsource-migration[prometheus]'"
        ) from None
    host, _, port = where.rpartition(":")
    registry = CollectorRegistry()
    registry.register(_Collector(seen))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                encode, kind = choose_encoder(self.headers.get("Accept", ""))
                self._answer(200, kind, encode(registry))
            elif path in ("/ready", "/live"):
                good = _is_ready(seen) if path == "/ready" else _is_alive(seen)
                self._answer(200 if good else 503, "text/plain", b"yes\n" if good else b"no\n")
            else:
                self._answer(404, "text/plain", b"there are /metrics, /ready and /live\n")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Every scrape is not worth a line."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    try:
        return Server((host.strip("[]") or "127.0.0.1", int(port)), Handler)
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"--metrics {where} cannot be listened on: {reason}; write [HOST:]PORT, such as"
            " 127.0.0.1:9187"
        ) from None


def _is_ready(seen: Seen) -> bool:
    return seen.up and time.monotonic() - seen.looked_at < READY_SECONDS


def _is_alive(seen: Seen) -> bool:
    return time.monotonic() - seen.alive_at < ALIVE_SECONDS


async def _look_again_and_again(at: Workspace, seen: Seen) -> None:
    while True:
        seen.alive_at = time.monotonic()
        try:
            active = await at.migrations.get_active()
            await _count(at, seen)
            ways = await WaysBack(at.control).standing_by()
            seen.ways_back = [each for each in ways if each.is_open]
            seen.lags = await _lags(at, active)
            seen.active, seen.up, seen.looked_at = active, True, time.monotonic()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, EventSourceError):
            seen.up = False
        await asyncio.sleep(READ_SECONDS)


async def _count(at: Workspace, seen: Seen) -> None:
    """Counts over the whole journal, of which only a large one takes noticeable time."""
    began = time.monotonic()
    if began < seen.count_at:
        return
    seen.totals = await lookups.totals(at.control, PAUSE_BUCKETS)
    now = time.monotonic()
    seen.count_at = now + COUNTING_SHARE * (now - began)


async def _lags(at: Workspace, active: Sequence[Migration]) -> dict[object, int]:
    """Of those in dual-write; a store that does not answer in time has none."""
    asked = [each for each in active if each.state is MigrationState.DUAL_WRITE][:LAGS_AT_ONCE]
    found: dict[object, int] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAG_SECONDS):
            for each in asked:
                with contextlib.suppress(
                    EventSourceError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError
                ):
                    found[each.id] = await at.coordinator.get_sync_lag(each.id)
    return found


class _Collector:
    """What a scrape gets; asked for in a thread of the server."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        from eventsource import __version__

        seen = self._seen
        build = GaugeMetricFamily("eventsource_build_info", "Which version.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        yield GaugeMetricFamily(
            "eventsource_control_up", "Whether the control database answers.", float(seen.up)
        )
        if (totals := seen.totals) is not None:
            states = GaugeMetricFamily(
                "eventsource_migrations", "Migrations in each state.", labels=["state"]
            )
            unknown = set(totals.states) - set(map(str, MigrationState))
            for state in [*MigrationState, *sorted(unknown)]:
                states.add_metric([str(state)], totals.states.get(str(state), 0))
            yield states
            cutovers = CounterMetricFamily(
                "eventsource_cutovers", "Cutovers that ended, by their outcome.", labels=["outcome"]
            )
            for outcome in sorted({"ok", "cutover_timeout", "inconsistent", *totals.outcomes}):
                cutovers.add_metric([outcome], totals.outcomes.get(outcome, 0))
            yield cutovers
            held = HistogramMetricFamily(
                "eventsource_cutover_pause_seconds", "How long cutovers held the fence."
            )
            buckets = [(str(each), float(totals.pauses.get(each, 0))) for each in PAUSE_BUCKETS]
            held.add_metric([], [*buckets, ("+Inf", float(totals.pause_count))], totals.pause_sum)
            yield held
        for name, help_, value in _GAUGES:
            gauge = GaugeMetricFamily(f"eventsource_migration_{name}", help_, labels=list(_LABELS))
            for each in seen.active:
                if (measured := value(each, seen)) is not None:
                    gauge.add_metric(_labels(each), float(measured))
            yield gauge
        for name, help_, of_way in _OF_WAYS_BACK:
            gauge = GaugeMetricFamily(f"eventsource_way_back_{name}", help_, labels=list(_LABELS))
            for way in seen.ways_back:
                if (measured := of_way(way)) is not None:
                    gauge.add_metric(_labels(way), float(measured))
            yield gauge


def _labels(migration: Migration | WayBack) -> list[str]:
    return [
        str(migration.id),
        str(migration.tenant_id),
        migration.source_store_id,
        migration.target_store_id,
    ]


def _left(migration: Migration) -> float | None:
    left = estimates.left(migration)
    return None if left is None else left.total


def _kept(way: WayBack) -> float | None:
    if way.kept_until is None:
        return None
    return max(0.0, (way.kept_until - datetime.now(UTC)).total_seconds())


#: Gauges of each way back that stands open; its source is where the tenant lives.
_OF_WAYS_BACK: tuple[tuple[str, str, Any], ...] = (
    ("lag_events", "Events that the store it left does not hold yet.", lambda w: w.lag),
    (
        "unfollowed_seconds",
        "Since some process has looked at it last.",
        lambda w: w.unfollowed_seconds,
    ),
    ("seconds_kept", "Until it ends by itself.", _kept),
)

#: Gauges of each migration that is under way; what is None is left out.
_GAUGES: tuple[tuple[str, str, Any], ...] = (
    ("events_carried", "Events carried and proven so far.", lambda m, _: m.events_copied),
    ("events_known", "Events of the tenant, as far as counted.", lambda m, _: m.total_events),
    ("progress_ratio", "Carried events of all.", lambda m, _: m.progress_percentage / 100),
    ("lag_events", "Events that the target does not hold yet.", lambda m, s: s.lags.get(m.id)),
    ("copy_events_per_second", "How fast the bulk copy is.", lambda m, _: estimates.rate_of(m)),
    ("seconds_left", "Until it could be cut over, by estimate.", lambda m, _: _left(m)),
    (
        "throttle_events_per_second",
        "What the copy is held to, to spare the source.",
        lambda m, _: m.throttle_rate,
    ),
    (
        "limit_events_per_second",
        "What an operator has limited the copy to.",
        lambda m, _: m.config.max_events_per_second,
    ),
    ("driven", "Whether a driver is at work.", lambda m, _: m.driver_alive),
    ("waiting", "Whether its driver waits for something.", lambda m, _: m.is_waiting),
    (
        "paused",
        "Whether somebody has paused it.",
        lambda m, _: m.state is MigrationState.PAUSED,
    ),
    ("age_seconds", "Since it began.", lambda m, _: estimates.elapsed(m)),
)
