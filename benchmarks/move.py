"""One move through the public API, in a process of its own: prints its figures as one JSON line.

Run by the benchmarks: ``python -m benchmarks.move SOURCE_DSN TARGET_DSN CONTROL_DSN UNTIL CONFIG``.
UNTIL is `dual_write` (the bulk pass, proven) or `migrated` (the whole move); CONFIG has the fields
of a MigrationConfig that are not as usual, as JSON, and perhaps a layout of the tables, `declared`.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from benchmarks.workload import TENANT
from eventsource.migration import (
    Migration,
    MigrationConfig,
    MigrationCoordinator,
    MigrationState,
    TenantStoreRouter,
)
from eventsource.migration.layouts.reading import layout_of
from eventsource.migration.layouts.store import LayoutStore
from eventsource.migration.repositories import (
    PostgreSQLAuditLogRepository,
    PostgreSQLMigrationRepository,
    PostgreSQLRoutingRepository,
)
from eventsource.stores.postgresql import PostgreSQLEventStore

SHARED, DEDICATED = "shared", "dedicated"


@dataclass(frozen=True, slots=True)
class Process:
    """What a process that migrates has open."""

    source: PostgreSQLEventStore
    target: PostgreSQLEventStore
    control: asyncpg.Pool[Any]
    router: TenantStoreRouter
    coordinator: MigrationCoordinator

    async def copied(self, tenant: UUID = TENANT) -> Migration:
        """Start the tenant's migration and wait for the end of the bulk pass."""
        migration = await self.coordinator.start_migration(
            tenant, self.source, self.target, SHARED, DEDICATED
        )
        async for status in self.coordinator.stream_status(migration.id):
            if status.state is MigrationState.DUAL_WRITE:
                return status
        raise RuntimeError(f"{status.state}: {status.error_message}")


@asynccontextmanager
async def process(
    source_dsn: str,
    target_dsn: str,
    control_dsn: str,
    config: MigrationConfig | None = None,
    declared: dict[str, Any] | None = None,
) -> AsyncIterator[Process]:
    """Open stores, router and coordinator as an application does."""
    async with AsyncExitStack() as stack:
        pools = [
            await stack.enter_async_context(asyncpg.create_pool(dsn, min_size=1, max_size=4))
            for dsn in (source_dsn, target_dsn, control_dsn)
        ]
        stores: list[PostgreSQLEventStore] = [
            PostgreSQLEventStore(pool, "events") for pool in pools[:2]
        ]
        if declared is not None:
            layout = layout_of("foreign", declared)
            stores = [
                LayoutStore(pool, layout, dsn=dsn)
                for pool, dsn in zip(pools, (source_dsn, target_dsn), strict=False)
            ]
            for store in stores:
                await store.create_schema()
        source, target = stores
        routes = PostgreSQLRoutingRepository(pools[2])
        router = TenantStoreRouter(source, routes, {SHARED: source, DEDICATED: target})
        await stack.enter_async_context(router)
        migrations = PostgreSQLMigrationRepository(pools[2])
        coordinator = MigrationCoordinator(migrations, routes, router, config or MigrationConfig())
        stack.push_async_callback(coordinator.close)
        yield Process(source, target, pools[2], router, coordinator)


async def move(
    source_dsn: str,
    target_dsn: str,
    control_dsn: str,
    until: str,
    config: MigrationConfig,
    declared: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Move TENANT and report seconds, offset and peak memory.

    ``bulk_seconds`` is the whole state `bulk_copy`: copy, mapping rows, digests, index builds and
    the proof. ``start_to_dual_write_seconds`` has preflight, guard and connections in it too. Both
    end where the journal says so, and not when somebody looks at it next. ``processor_seconds`` are
    this process's until then.
    """
    figures: dict[str, Any] = {}
    async with process(source_dsn, target_dsn, control_dsn, config, declared) as opened:
        asked, worked = time.time(), time.process_time()
        migration = await opened.copied()
        figures["processor_seconds"] = time.process_time() - worked
        audit = await PostgreSQLAuditLogRepository(opened.control).get_by_migration(migration.id)
        at = {entry.event_type: entry.created_at for entry in audit}
        bulk = at["state:dual_write"] - at["state:bulk_copy"]
        figures |= {"bulk_seconds": bulk.total_seconds(), "offset": migration.position_offset}
        figures["start_to_dual_write_seconds"] = at["state:dual_write"].timestamp() - asked
        figures["bulk_began"] = at["state:bulk_copy"].timestamp()
        if until == "migrated":
            began = time.monotonic()
            migration = await opened.coordinator.initiate_cutover(migration.id)
            figures["cutover_with_verification_seconds"] = time.monotonic() - began
            figures["pause_ms"] = migration.cutover_pause_ms
    return {**figures, "events": migration.events_copied, "peak_rss_mb": peak_rss_mb()}


def peak_rss_mb() -> float:
    """The most memory that this process ever had, in MB of 1024 x 1024 bytes.

    Not ``getrusage`` where there is /proc: a process that was started by a larger one is charged
    with that one's memory there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(part for part in status.read_text().splitlines() if part.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    source, target, control, until, fields = sys.argv[1:]
    given = json.loads(fields)
    declared = given.pop("declared", None)
    config = MigrationConfig(**given)
    print(json.dumps(asyncio.run(move(source, target, control, until, config, declared))))
