"""One move through the public API, in a process of its own: prints its figures as one JSON line.

Run by the benchmarks: ``python -m benchmarks.move SOURCE_DSN TARGET_DSN CONTROL_DSN``.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time

import asyncpg

from benchmarks.workload import TENANT
from eventsource.migration import (
    MigrationConfig,
    MigrationCoordinator,
    MigrationState,
    TenantStoreRouter,
)
from eventsource.migration.repositories import (
    PostgreSQLAuditLogRepository,
    PostgreSQLMigrationRepository,
    PostgreSQLRoutingRepository,
)
from eventsource.stores.postgresql import PostgreSQLEventStore


async def move(source_dsn: str, target_dsn: str, control_dsn: str) -> dict[str, float]:
    """Move TENANT and report seconds and peak memory.

    ``bulk_seconds`` is the whole state `bulk_copy`: copy, mapping rows, digests and the proof.
    """
    pools = [
        await asyncpg.create_pool(dsn, min_size=1, max_size=4)
        for dsn in (source_dsn, target_dsn, control_dsn)
    ]
    source_pool, target_pool, control_pool = pools
    source = PostgreSQLEventStore(source_pool, "events")
    target = PostgreSQLEventStore(target_pool, "events")
    migrations = PostgreSQLMigrationRepository(control_pool)
    routes = PostgreSQLRoutingRepository(control_pool)
    stores = {"shared": source, "dedicated": target}
    router = TenantStoreRouter(source, routes, stores)
    coordinator = MigrationCoordinator(migrations, routes, router, MigrationConfig())
    began = time.monotonic()
    migration = await coordinator.start_migration(TENANT, source, target, "shared", "dedicated")
    async for status in coordinator.stream_status(migration.id):
        if status.state in (MigrationState.DUAL_WRITE, MigrationState.FAILED):
            break
    assert status.state is MigrationState.DUAL_WRITE, status
    copied = time.monotonic()
    migration = await coordinator.initiate_cutover(migration.id)
    finished = time.monotonic()
    audit = await PostgreSQLAuditLogRepository(control_pool).get_by_migration(migration.id)
    at = {entry.event_type: entry.created_at for entry in audit}
    bulk = (at["state:dual_write"] - at["state:bulk_copy"]).total_seconds()
    assert migration.cutover_pause_ms is not None
    await router.close()
    await coordinator.close()
    for pool in pools:
        await pool.close()
    return {
        "bulk_seconds": bulk,
        "start_to_dual_write_seconds": copied - began,
        "cutover_with_verification_seconds": finished - copied,
        "pause_ms": migration.cutover_pause_ms,
        "events": migration.events_copied,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(move(*sys.argv[1:4]))))
