"""Two databases with the tables of another library, a control database, and a mover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from eventsource.migration import (
    Migration,
    MigrationConfig,
    MigrationCoordinator,
    MigrationState,
    PreflightError,
    TenantStoreRouter,
    create_schema,
)
from eventsource.migration.layouts.declaration import Layout
from eventsource.migration.layouts.store import LayoutStore
from eventsource.migration.repositories import (
    PostgreSQLMigrationRepository,
    PostgreSQLRoutingRepository,
)
from tests.support.fingerprint import fingerprint

SOURCE, TARGET = "shared", "dedicated"

QUICK = {"pass_interval_seconds": 0.05, "cutover_timeout_seconds": 2.0}


@dataclass
class LayoutWorld:
    """``source`` and ``target`` are connections to look with."""

    layout: Layout
    dsns: dict[str, str]
    source: asyncpg.Connection
    target: asyncpg.Connection
    control: asyncpg.Connection
    coordinators: list[MigrationCoordinator] = field(default_factory=list)
    pools: list[asyncpg.Pool] = field(default_factory=list)
    schema: str | None = None
    #: Where further stores are, by id.
    others: dict[str, str] = field(default_factory=dict)

    async def process(self, **settings: Any) -> MigrationCoordinator:
        """What one process has of its own."""
        pools = [
            await asyncpg.create_pool(self.dsns[side], min_size=0, max_size=8)
            for side in ("source", "target", "control")
        ]
        self.pools += pools
        stores = {
            name: LayoutStore(pool, self.layout, dsn=self.dsns[side], schema=self.schema)
            for name, side, pool in ((SOURCE, "source", pools[0]), (TARGET, "target", pools[1]))
        }
        for name, dsn in self.others.items():
            self.pools.append(await asyncpg.create_pool(dsn, min_size=0, max_size=8))
            stores[name] = LayoutStore(self.pools[-1], self.layout, dsn=dsn, schema=self.schema)
        routes = PostgreSQLRoutingRepository(pools[2])
        router = TenantStoreRouter(stores[SOURCE], routes, stores)
        coordinator = MigrationCoordinator(
            PostgreSQLMigrationRepository(pools[2]), routes, router,
            MigrationConfig(**{**QUICK, **settings}),
        )  # fmt: skip
        self.coordinators.append(coordinator)
        self.stores = stores
        self.router = router
        return coordinator

    async def start(
        self, tenant: str, coordinator: MigrationCoordinator | None = None
    ) -> Migration:
        coordinator = coordinator or self.coordinators[0]
        return await coordinator.start_migration(
            tenant, self.stores[SOURCE], self.stores[TARGET], SOURCE, TARGET
        )

    async def stop(self) -> None:
        """No process is there any more; ``source``, ``target`` and ``control`` stay."""
        for coordinator in self.coordinators:
            await coordinator.close()
        for pool in self.pools:
            pool.terminate()
        self.coordinators.clear()
        self.pools.clear()

    async def look_again(self, side: str) -> None:
        """A connection to look with, after the server was another one for a moment."""
        getattr(self, side).terminate()
        setattr(self, side, await asyncpg.connect(self.dsns[side]))

    async def reaches(
        self, migration: Migration, state: MigrationState, seconds: float = 60
    ) -> Migration:
        """Wait until the journal says so; fails where it ends in another way."""
        async with asyncio.timeout(seconds):
            while True:
                now = await self.coordinators[0].get_migration(migration.id)
                if now.state is state:
                    return now
                assert not now.state.is_final, f"{now.state}: {now.error_message}"
                await asyncio.sleep(0.02)

    async def move(self, tenant: str) -> Migration:
        """From the start to the end."""
        migration = await self.start(tenant)
        await self.reaches(migration, MigrationState.DUAL_WRITE)
        return await self.coordinators[0].initiate_cutover(migration.id)

    async def leaves_nothing_when_aborted(self, tenant: str) -> None:
        """A migration of it that is aborted in dual-write leaves both stores as they were."""
        stores = (self.source, self.target)
        before = [await fingerprint(each, journal=False) for each in stores]
        aborted = await self.start(tenant)
        await self.reaches(aborted, MigrationState.DUAL_WRITE)
        await self.coordinators[0].abort_migration(aborted.id)
        assert [await fingerprint(each, journal=False) for each in stores] == before

    async def refuses(self, tenant: str, says: str) -> None:
        """Before anything is changed, in words that hold these."""
        databases = (self.source, self.target, self.control)
        before = [await fingerprint(each) for each in databases]
        with pytest.raises(PreflightError) as refused:
            await self.start(tenant)
        assert says in str(refused.value)
        assert [await fingerprint(each) for each in databases] == before

    async def close(self) -> None:
        await self.stop()
        for connection in (self.source, self.target, self.control):
            await connection.close()


async def connected(layout: Layout, dsns: dict[str, str], schema: str | None = None) -> LayoutWorld:
    """A world whose tables are there."""
    source, target, control = [
        await asyncpg.connect(dsns[side]) for side in ("source", "target", "control")
    ]
    return LayoutWorld(layout, dsns, source, target, control, schema=schema)


@asynccontextmanager
async def layout_world(
    layout: Layout,
    make: str | Callable[[asyncpg.Connection], Awaitable[None]],
    dsns: dict[str, str],
    *,
    schema: str | None = None,
    **settings: Any,
) -> AsyncIterator[LayoutWorld]:
    """Make the library's tables in both databases, by statements or a function, and what stands
    beside them."""
    world = await connected(layout, dsns, schema)
    for side in (world.source, world.target):
        await (side.execute(make) if isinstance(make, str) else make(side))
    try:
        await world.process(**settings)
        await create_schema(world.pools[2])
        for store in world.stores.values():
            await store.create_schema()
        yield world
    finally:
        await world.close()


async def rows(connection: asyncpg.Connection, table: str, where: str, *args: object) -> list[str]:
    """Every row as text, by plain SQL: nothing of the product is asked."""
    found = await connection.fetch(
        f"select to_jsonb(t)::text as row from {table} t where {where} order by 1", *args
    )
    return [each["row"] for each in found]
