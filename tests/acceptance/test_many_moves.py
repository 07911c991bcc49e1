"""Many tenants at once on servers with few connections: all arrive, and nobody else is refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from eventsource.migration import MigrationState
from eventsource.testing import Cluster
from tests.support.worlds.fleet import of_an_application
from tests.support.worlds.two_servers import World, two_servers

#: Tenants, and what their one server has: PostgreSQL's default, and less than most have.
GATHERED, DEFAULT_CONNECTIONS = 20, 100
RECORDED, FEW_CONNECTIONS = 40, 60

#: How often an application connects that opens a connection for each request (seconds).
BETWEEN_CONNECTIONS = 0.1


@pytest.fixture(scope="module")
def ordinary_server() -> Iterator[Cluster]:
    with Cluster.start(16, {"max_connections": DEFAULT_CONNECTIONS}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def small_server() -> Iterator[Cluster]:
    with Cluster.start(16, {"max_connections": FEW_CONNECTIONS}) as cluster:
        yield cluster


@pytest.mark.alone
@pytest.mark.timeout(600)
@pytest.mark.parametrize("tenants", [8, GATHERED])
async def test_tenants_that_are_gathered_in_one_process_all_arrive(
    ordinary_server: Cluster, tmp_path: Path, tenants: int
) -> None:
    """Source, target and control are one database, as in the guide."""
    dsn = await ordinary_server.create_database()
    async with two_servers(dsn, dsn, dsn, tmp_path) as world, _connecting(dsn) as refused:
        moving = [uuid4() for _ in range(tenants)]
        await world.seed(moving, events=100, streams=10)

        async def move(tenant: UUID) -> MigrationState:
            migration = await world.start(tenant)
            async for seen in world.coordinator.stream_status(migration.id):
                if seen.state is MigrationState.DUAL_WRITE:
                    break
            await world.coordinator.get_sync_lag(migration.id)
            return (await world.coordinator.initiate_cutover(migration.id)).state

        done = await asyncio.gather(*map(move, moving), return_exceptions=True)
        assert done == [MigrationState.MIGRATED] * tenants
        assert refused == []


@pytest.mark.alone
@pytest.mark.timeout(900)
async def test_what_is_recorded_is_driven_without_taking_connections_from_others(
    small_server: Cluster, tmp_path: Path
) -> None:
    """Another process does what `work` does; cutovers are asked for as tenants get there."""
    dsn = await small_server.create_database()
    async with two_servers(dsn, dsn, dsn, tmp_path) as world, _connecting(dsn) as refused:
        moving = [uuid4() for _ in range(RECORDED)]
        await world.seed(moving, events=50, streams=5)
        for tenant in moving:
            await world.start(tenant)
        working = asyncio.create_task(world.coordinator.work())
        async with asyncio.timeout(800):
            await asyncio.gather(*(_arrived(world, tenant) for tenant in moving))
        working.cancel()
        assert refused == []


async def _arrived(world: World, tenant: UUID) -> None:
    (migration,) = await world.coordinator.get_migrations_by_tenant(tenant)
    while migration.state is not MigrationState.DUAL_WRITE:
        assert not migration.state.is_final, migration.error_message
        await asyncio.sleep(0.5)
        migration = await world.coordinator.get_migration(migration.id)
    await world.coordinator.initiate_cutover(migration.id)


@contextlib.asynccontextmanager
async def _connecting(dsn: str) -> AsyncIterator[list[str]]:
    """An application that connects ten times a second; what it was refused with.

    Of an ordinary role: what a server keeps for superusers is not for it.
    """
    refused: list[str] = []
    dsn = await of_an_application(dsn)

    async def connect() -> None:
        while True:
            try:
                connection = await asyncpg.connect(dsn)
                await connection.fetchval("select 1")
                await connection.close()
            except (asyncpg.PostgresError, OSError) as error:
                refused.append(str(error))
            await asyncio.sleep(BETWEEN_CONNECTIONS)

    connecting = asyncio.create_task(connect())
    try:
        yield refused
    finally:
        connecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await connecting
