"""PgBouncer before the application, and before the coordinator: right, or refused; never half."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from eventsource.connections import ConnectionParameters
from eventsource.migration import (
    MigrationCoordinator,
    MigrationState,
    PreflightError,
    TenantStoreRouter,
)
from eventsource.migration.connections.driver_connections import open_connection
from eventsource.migration.preflight.access import _are_lent
from eventsource.migration.repositories import (
    PostgreSQLMigrationRepository,
    PostgreSQLRoutingRepository,
)
from eventsource.stores.postgresql import PostgreSQLEventStore
from eventsource.testing import StoreAddress
from tests.support.application import Noted
from tests.support.pooler import pgbouncer
from tests.support.waiting import until
from tests.support.worlds.two_servers import (
    DEDICATED,
    SHARED,
    World,
    acknowledged,
    all_attempts,
    writing,
)

SIDES = ("source", "target", "control")


def dsns_of(world: World) -> dict[str, str]:
    return {"source": world.source.dsn, "target": world.target.dsn, "control": world.control_dsn}


@contextlib.contextmanager
def poolers(world: World, mode: str, *sides: str, **settings: object):  # type: ignore[no-untyped-def]
    """Poolers before the databases of these sides; the DSNs of all, by way of them."""
    dsns = dsns_of(world)
    with contextlib.ExitStack() as stack:
        for side in sides:
            dsns[side] = stack.enter_context(pgbouncer(dsns[side], mode, **settings))
        yield dsns


@contextlib.asynccontextmanager
async def coordinating(
    world: World, dsns: dict[str, str], direct: dict[str, str] | None = None
) -> AsyncIterator[World]:
    """A process whose pools use these DSNs; ``direct`` are its stores' dsn= by side."""
    given = direct or {}
    async with contextlib.AsyncExitStack() as stack:

        async def pool(side: str) -> asyncpg.Pool[Any]:
            return await stack.enter_async_context(
                await asyncpg.create_pool(
                    dsns[side], min_size=0, max_size=6, statement_cache_size=0
                )
            )

        source = PostgreSQLEventStore(
            await pool("source"), world.source.table, dsn=given.get("source")
        )
        target = PostgreSQLEventStore(
            await pool("target"), world.target.table, dsn=given.get("target")
        )
        control = await pool("control")
        routes = PostgreSQLRoutingRepository(control)
        router = await stack.enter_async_context(
            TenantStoreRouter(source, routes, {SHARED: source, DEDICATED: target})
        )
        coordinator = MigrationCoordinator(PostgreSQLMigrationRepository(control), routes, router)
        stack.push_async_callback(coordinator.close)
        yield World(
            world.source, world.target, world.control_dsn, world.directory, source, target,
            control, router, coordinator, world.baseline,
        )  # fmt: skip


async def move_and_check(world: World, process: World, **options: Any) -> None:
    """A whole move by the process while others write; then the independent checker."""
    tenant, bystander = uuid4(), uuid4()
    await world.seed([tenant, bystander], events=1000)
    configs = [
        world.writer_config(f"writer-{n}", [tenant, bystander], seed=n, **options) for n in range(2)
    ]
    with writing(configs) as writers:
        writers[0].focus(tenant)
        await acknowledged(writers, 10, tenant)
        migration = await process.move(tenant)
        await acknowledged(writers, 10, tenant)
    attempts = all_attempts(writers)
    assert migration.state is MigrationState.MIGRATED
    report = await world.check(migration, attempts)
    report.assert_clean()
    assert report.written_at_target > 0
    (await world.check_bystander(bystander, attempts)).assert_clean()


async def test_an_application_behind_a_transaction_pooler_follows_its_tenant(world: World) -> None:
    # Fewer sessions than writers: each of them gets another one all the time.
    with poolers(world, "transaction", *SIDES, default_pool_size=5) as dsns:
        await move_and_check(
            world,
            world,
            pooled=True,
            stores={
                SHARED: StoreAddress(dsns["source"], world.source.table),
                DEDICATED: StoreAddress(dsns["target"], world.target.table),
            },
            control_dsn=dsns["control"],
        )


async def test_stores_behind_a_transaction_pooler_move_with_the_servers_address(
    world: World,
) -> None:
    with poolers(world, "transaction", "source", "target") as dsns:
        async with coordinating(world, dsns, dsns_of(world)) as process:
            await move_and_check(world, process)


async def test_everything_behind_a_session_pooler_moves(world: World) -> None:
    with poolers(world, "session", *SIDES, default_pool_size=60) as dsns:
        async with coordinating(world, dsns) as process:
            await move_and_check(world, process)


async def test_a_mirror_behind_a_session_pooler_writes(world: World) -> None:
    tenant, stream = uuid4(), uuid4()
    await world.seed([tenant], events=10)
    with poolers(world, "session", *SIDES, default_pool_size=60) as dsns:
        async with coordinating(world, dsns) as process:
            migration = await process.start(tenant)
            await process.reach(migration.id, MigrationState.DUAL_WRITE)
            event = Noted(aggregate_id=stream, tenant_id=tenant, n=1)

            async def mirrored() -> bool:
                stats = process.router.dual_write_stats(tenant)
                assert stats is None or stats.failures.total_failures == 0
                return stats is not None and stats.mirrored + stats.deferred > 0

            await process.router.append_events(stream, "Note", [event], 0)
            await until(mirrored, "the mirror to write")


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("side", SIDES)
async def test_a_coordinator_behind_a_transaction_pooler_is_refused(
    world: World, mode: str, side: str
) -> None:
    tenant = uuid4()
    await world.seed([tenant], events=10)
    with poolers(world, mode, side) as dsns:
        async with coordinating(world, dsns) as process:
            with pytest.raises(PreflightError) as caught:
                await process.start(tenant)
    told = str(caught.value)
    assert side in told
    if mode == "transaction":
        assert "a pooler that lends sessions per transaction" in told
        assert "give the store dsn= with the address of the server itself" in told
    for database in dsns_of(world).values():
        connection = await asyncpg.connect(database)
        for table in ("eventsource_fences", "eventsource_copy_progress", "tenant_migrations"):
            if await connection.fetchval("select to_regclass($1) is not null", table):
                assert await connection.fetchval(f"select count(*) from {table}") == 0
        await connection.close()


async def test_lent_sessions_are_noticed_however_few_or_busy_they_are(world: World) -> None:
    for settings in ({"default_pool_size": 1}, {"default_pool_size": 3}, {"server_round_robin": 1}):
        with poolers(world, "transaction", "source", **settings) as dsns:
            async with _traffic(dsns["source"], 0 if "default_pool_size" in settings else 6):
                parameters = ConnectionParameters(dsns["source"])
                link = await open_connection(parameters)
                assert await _are_lent(link, _another(parameters))
                link.terminate()
    direct = ConnectionParameters(world.source.dsn)
    link = await open_connection(direct)
    assert not await _are_lent(link, _another(direct))
    link.terminate()


@contextlib.asynccontextmanager
async def _another(parameters: ConnectionParameters) -> AsyncIterator[asyncpg.Connection]:
    connection = await open_connection(parameters)
    try:
        yield connection
    finally:
        connection.terminate()


@contextlib.asynccontextmanager
async def _traffic(dsn: str, clients: int) -> AsyncIterator[None]:
    async def ask() -> None:
        connection = await asyncpg.connect(dsn, statement_cache_size=0)
        try:
            while True:
                await connection.fetchval("select pg_sleep(0.001)")
        finally:
            connection.terminate()

    tasks = [asyncio.create_task(ask()) for _ in range(clients)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(error, asyncio.CancelledError) for error in ended), ended
