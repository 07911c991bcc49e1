"""Two servers with a shared store, a dedicated store and a control database, and the product on it.

What the acceptance tests have in common: tenants with a past, writers in other processes, one move.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from eventsource.migration import (
    Migration,
    MigrationConfig,
    MigrationCoordinator,
    MigrationState,
    TenantStoreRouter,
    create_schema,
)
from eventsource.migration.repositories import (
    PostgreSQLMigrationRepository,
    PostgreSQLRoutingRepository,
)
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.tenant_ids import as_uuid
from eventsource.testing import (
    Attempt,
    CheckReport,
    StoreAddress,
    WriterConfig,
    WriterProcess,
    check_moved,
    check_unmoved,
    read_rows,
)
from eventsource.testing.invariants import Row

SHARED, DEDICATED = "shared", "dedicated-a"
FENCE_LOCK_CLASS = 1163281235

# A past of several tenants, their events interleaved as an application would have written them.
_SEED = """
insert into {table} (event_id, aggregate_id, aggregate_type, event_type, tenant_id, version,
                     timestamp, actor_id, payload, metadata)
select gen_random_uuid(), md5(tenant || '/past/' || n % $3)::uuid, 'Past',
       'acceptance.Past', tenant, n / $3 + 1, now() - interval '1 day' + n * interval '1 ms',
       case when n % 3 = 0 then 'someone' end,
       jsonb_build_object('number', n, 'price', 1.00, 'text', repeat('påst ', 1 + n % 20)),
       '{{}}'
from generate_series(0, $2 - 1) as n, unnest($1::uuid[]) as tenant
order by n, tenant
"""


@dataclass(slots=True)
class World:
    """Addresses for plain SQL and writers; stores, router and coordinator of this process."""

    source: StoreAddress
    target: StoreAddress
    control_dsn: str = field(repr=False)
    directory: Path
    source_store: PostgreSQLEventStore
    target_store: PostgreSQLEventStore
    control_pool: asyncpg.Pool[Any]
    router: TenantStoreRouter
    coordinator: MigrationCoordinator
    baseline: dict[UUID, list[Row]] = field(default_factory=dict, repr=False)

    async def seed(self, tenants: Sequence[UUID], events: int, streams: int = 50) -> None:
        """Give each tenant a past of so many events, and remember it as the baseline."""
        await self.source_store.pool.execute(
            _SEED.format(table=self.source_store.table), list(tenants), events, streams
        )
        for tenant in tenants:
            self.baseline[tenant] = await read_rows(self.source, tenant)

    def writer_config(self, name: str, tenants: Sequence[UUID], **options: Any) -> WriterConfig:
        config = WriterConfig(
            name=name,
            stores={SHARED: self.source, DEDICATED: self.target},
            source=SHARED,
            control_dsn=self.control_dsn,
            tenants=list(tenants),
            directory=self.directory,
        )
        return replace(config, **options)

    async def start(self, tenant: UUID) -> Migration:
        return await self.coordinator.start_migration(
            tenant_id=tenant,
            source_store=self.source_store,
            target_store=self.target_store,
            source_store_id=SHARED,
            target_store_id=DEDICATED,
        )

    async def reach(self, migration_id: UUID, wanted: MigrationState) -> Migration:
        """Wait until the journal says so; a migration that ends elsewhere is an error."""
        async with asyncio.timeout(60):
            async for migration in self.coordinator.stream_status(migration_id):
                if migration.state is wanted:
                    return migration
        raise AssertionError(f"{migration.state}: {migration.error_message}")

    async def move(self, tenant: UUID) -> Migration:
        migration = await self.start(tenant)
        await self.reach(migration.id, MigrationState.DUAL_WRITE)
        return await self.coordinator.initiate_cutover(migration.id)

    async def check(self, migration: Migration, attempts: Sequence[Attempt]) -> CheckReport:
        """I1 to I7 for a tenant that has moved."""
        tenant = as_uuid(migration.tenant_id)
        return await check_moved(
            source=self.source,
            target=self.target,
            control_dsn=self.control_dsn,
            tenant_id=tenant,
            migration_id=migration.id,
            attempts=attempts,
            baseline=self.baseline.get(tenant, ()),
        )

    async def check_bystander(
        self, tenant: UUID, attempts: Sequence[Attempt], longest: float | None = None
    ) -> CheckReport:
        """I8 for a tenant that has not moved."""
        return await check_unmoved(
            store=self.source,
            tenant_id=tenant,
            attempts=attempts,
            baseline=self.baseline.get(tenant, ()),
            elsewhere=[self.target],
            longest_append_seconds=longest,
        )


@contextlib.asynccontextmanager
async def two_servers(
    source_dsn: str,
    target_dsn: str,
    control_dsn: str,
    directory: Path,
    config: MigrationConfig | None = None,
    *,
    target_table: str = "events_dedicated-a",
    make: bool = True,
) -> AsyncIterator[World]:
    """Make all tables (or find them made) and open everything; closed in the right order."""
    async with contextlib.AsyncExitStack() as stack:

        async def pool(dsn: str) -> asyncpg.Pool[Any]:
            return await stack.enter_async_context(
                await asyncpg.create_pool(dsn, min_size=1, max_size=6)
            )

        source_store = PostgreSQLEventStore(await pool(source_dsn), "events_shared")
        target_store = PostgreSQLEventStore(await pool(target_dsn), target_table)
        control_pool = await pool(control_dsn)
        if make:
            await source_store.create_schema()
            await target_store.create_schema()
            await create_schema(control_pool)
        routing_repo = PostgreSQLRoutingRepository(control_pool)
        router = await stack.enter_async_context(
            TenantStoreRouter(
                default_store=source_store,
                routing_repo=routing_repo,
                stores={SHARED: source_store, DEDICATED: target_store},
            )
        )
        coordinator = MigrationCoordinator(
            migration_repo=PostgreSQLMigrationRepository(control_pool),
            routing_repo=routing_repo,
            router=router,
            config=config or MigrationConfig(pass_interval_seconds=0.05, keep_way_back=0),
        )
        stack.push_async_callback(coordinator.close)
        yield World(
            source=StoreAddress(source_dsn, "events_shared"),
            target=StoreAddress(target_dsn, target_table),
            control_dsn=control_dsn,
            directory=directory,
            source_store=source_store,
            target_store=target_store,
            control_pool=control_pool,
            router=router,
            coordinator=coordinator,
        )


@contextlib.contextmanager
def writing(configs: Sequence[WriterConfig]) -> Iterator[list[WriterProcess]]:
    """Run writer processes; stopped at the end, and killed when the test has failed."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(WriterProcess.start(config)) for config in configs]


async def acknowledged(writers: Sequence[WriterProcess], more: int, tenant: UUID) -> None:
    """Wait until every writer was told OK so many more times for the tenant.

    In a thread: this process drives the migration meanwhile.
    """
    for writer in writers:
        await asyncio.to_thread(writer.wait_for_acknowledged, more, tenant)


def all_attempts(writers: Sequence[WriterProcess]) -> list[Attempt]:
    return [attempt for writer in writers for attempt in writer.attempts()]
