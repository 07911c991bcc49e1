"""A small world to migrate in: three databases, two stores, and any number of processes.

A process is here what `tests.support.application` makes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

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
from eventsource.migration.routing.route_hook import RouteHook
from eventsource.stores.postgresql import PostgreSQLEventStore
from tests.support.application import SOURCE, TARGET, Process
from tests.support.fingerprint import fingerprint
from tests.support.waiting import until

SOURCE_TABLE = "events"
# A dash and a dot belong to the name.
TARGET_TABLE = "events_dedicated-a.b"

#: Quick to pass and to give up; what a test is about it sets itself.
#: Without a way back there is one fence on each side, as most tests look at it.
QUICK = {"pass_interval_seconds": 0.05, "cutover_timeout_seconds": 1.0, "keep_way_back": 0.0}


@dataclass
class World:
    """The databases, and connections to look at them with that no product code uses."""

    dsns: dict[str, str]
    source: asyncpg.Connection
    target: asyncpg.Connection
    control: asyncpg.Connection
    tenant: UUID = field(default_factory=uuid4)
    other: UUID = field(default_factory=uuid4)
    processes: list[Process] = field(default_factory=list)
    connections: list[asyncpg.Connection] = field(default_factory=list)

    @property
    def here(self) -> Process:
        return self.processes[0]

    @property
    def coordinator(self) -> MigrationCoordinator:
        return self.here.coordinator

    @property
    def router(self) -> TenantStoreRouter:
        return self.here.router

    async def process(
        self,
        *,
        route_ttl_seconds: float = 1.0,
        source_store: Callable[[asyncpg.Pool], Any] | None = None,
        target_store: Callable[[asyncpg.Pool], Any] | None = None,
        control_dsn: str | None = None,
        route_hook: RouteHook | None = None,
        init: Any = None,
        **settings: Any,
    ) -> Process:
        """Another process; ``settings`` are those of its MigrationConfig.

        ``init`` is what its application does with each connection of its pools.
        """
        # Without a minimum no connection is made before the first call needs one.
        source, target, control = [
            await asyncpg.create_pool(dsn, min_size=0, max_size=16, init=init)
            for dsn in (
                self.dsns["source"],
                self.dsns["target"],
                control_dsn or self.dsns["control"],
            )
        ]
        shared = (source_store or (lambda pool: PostgreSQLEventStore(pool, SOURCE_TABLE)))(source)
        dedicated = (target_store or (lambda pool: PostgreSQLEventStore(pool, TARGET_TABLE)))(
            target
        )
        migrations = PostgreSQLMigrationRepository(control)
        routes = PostgreSQLRoutingRepository(control)
        router = TenantStoreRouter(
            shared,
            routes,
            {SOURCE: shared, TARGET: dedicated},
            route_ttl_seconds=route_ttl_seconds,
        )
        coordinator = MigrationCoordinator(
            migrations, routes, router, MigrationConfig(**{**QUICK, **settings}),
            route_hook=route_hook,
        )  # fmt: skip
        process = Process(
            [source, target, control], shared, dedicated, migrations, routes, router, coordinator
        )
        self.processes.append(process)
        return process

    async def connect(self, side: str = "source", **settings: str) -> asyncpg.Connection:
        """One more connection, as an application has it; closed with the world."""
        connection = await asyncpg.connect(self.dsns[side], server_settings=settings)
        await takes_tenants(connection)
        self.connections.append(connection)
        return connection

    async def now(self, side: str) -> datetime:
        """The server's time."""
        found: datetime = await getattr(self, side).fetchval("select clock_timestamp()")
        return found

    @asynccontextmanager
    async def lazy_log_writer(self) -> AsyncIterator[None]:
        """Nothing of the source's log is on disk but what somebody waits for."""
        await self.source.execute("alter system set wal_writer_delay = '10s'")
        await self.source.execute("select pg_reload_conf()")
        try:
            yield
        finally:
            await self.source.execute("alter system reset wal_writer_delay")
            await self.source.execute("select pg_reload_conf()")

    @asynccontextmanager
    async def open_transaction(
        self, tenant: UUID, side: str = "source"
    ) -> AsyncIterator[asyncpg.Connection]:
        """A transaction that has written one event and stays open; rolled back at the end."""
        connection = await self.connect(side)
        await connection.execute("begin")
        await insert(connection, tenant, side=side)
        try:
            yield connection
        finally:
            if not connection.is_closed():
                await connection.execute("rollback")

    async def seed(self, count: int, tenant: UUID | None = None, *, side: str = "source") -> None:
        """``count`` events in streams of ten, written by SQL."""
        await getattr(self, side).execute(
            f"""
            insert into {table(side)} (event_id, aggregate_id, aggregate_type, event_type,
                tenant_id, version, timestamp, actor_id, payload)
            select gen_random_uuid(), md5($1::uuid::text || (g / 10) || $3::text)::uuid, 'Note',
                   'world.noted', $1::uuid, g % 10 + 1, now(),
                   case when g % 2 = 0 then 'somebody' end, jsonb_build_object('n', g, 'text', '')
            from generate_series(0, $2::int - 1) g
            """,
            tenant or self.tenant,
            count,
            str(uuid4()),
        )

    async def reach(self, migration: Migration, *states: str) -> Migration:
        """Wait until the journal shows one of the states."""
        wanted = {MigrationState(state) for state in states}

        async def there() -> Migration | None:
            found = await self.here.migrations.get(migration.id)
            if found.state in wanted:
                return found
            if found.state.is_final:
                raise AssertionError(f"{found.state}: {found.error_message}")
            return None

        return await until(there, f"migration in {', '.join(states)}")

    async def dual_write(self, tenant: UUID | None = None, process: Process | None = None) -> Any:
        """A migration that has finished its bulk copy."""
        migration = await (process or self.here).start(tenant or self.tenant)
        return await self.reach(migration, "dual_write")

    async def migrate(self, tenant: UUID | None = None) -> Migration:
        """A whole migration, without the optional verification."""
        migration = await self.dual_write(tenant)
        return await self.coordinator.initiate_cutover(migration.id, force=True)

    async def ids(self, side: str, tenant: UUID | None = None) -> list[UUID]:
        """The tenant's event ids in the order of position."""
        rows = await getattr(self, side).fetch(
            f"select event_id from {table(side)} where tenant_id = $1 order by global_position",
            tenant or self.tenant,
        )
        return [row[0] for row in rows]

    async def rows(self, side: str, tenant: UUID | None = None, offset: int = 0) -> list[Any]:
        """The tenant's carried columns as text, positions less ``offset``."""
        found = await getattr(self, side).fetch(
            f"""
            select global_position - $2::bigint, event_id::text, aggregate_id::text,
                   aggregate_type, event_type, version, timestamp::text, actor_id, payload::text,
                   metadata::text, created_at::text
            from {table(side)} where tenant_id = $1 order by global_position
            """,
            tenant or self.tenant,
            offset,
        )
        return [tuple(row) for row in found]

    async def assert_moved(self, migration: Migration, tenant: UUID | None = None) -> None:
        """Every source row is at the target, equal but for the offset, and mapped."""
        offset = migration.position_offset or 0
        here = await self.rows("source", tenant)
        there = await self.rows("target", tenant, offset)
        assert there[: len(here)] == here
        mapped = await self.control.fetch(
            "select source_position, target_position, event_id::text"
            " from migration_position_mappings where migration_id = $1 order by 1",
            migration.id,
        )
        wanted = here if migration.maps_rows else []
        assert [tuple(row) for row in mapped] == [
            (row[0], row[0] + offset, row[1]) for row in wanted
        ]

    async def fingerprint(self, *, journal: bool = True) -> dict[str, Any]:
        """Everything that the three databases hold; ``journal=False`` leaves out the record of
        what was asked and done, and the route, which an abort gives back but keeps.
        """
        return {
            side: await fingerprint(getattr(self, side), journal=journal)
            for side in ("source", "target", "control")
        }

    async def close(self) -> None:
        for process in self.processes:
            await process.stop()
        for connection in [*self.connections, self.source, self.target, self.control]:
            connection.terminate()


async def make_world(dsns: dict[str, str], *, made: bool = False) -> World:
    """Stores and control tables made, unless they are there; one process running."""
    source, target, control = await asyncio.gather(
        *(asyncpg.connect(dsns[side]) for side in ("source", "target", "control"))
    )
    for connection in (source, target, control):
        await takes_tenants(connection)
    world = World(dsns, source, target, control)
    here = await world.process()
    if not made:
        await asyncio.gather(
            here.source.create_schema(),
            here.target.create_schema(),
            create_schema(here.migrations.pool),
        )
    return world


async def takes_tenants(connection: asyncpg.Connection) -> None:
    """Let a text be given as what it stands for: ids of tenants are texts in tables of ours."""
    await connection.set_type_codec("text", schema="pg_catalog", encoder=str, decoder=str)


def table(side: str) -> str:
    return f'"{SOURCE_TABLE if side == "source" else TARGET_TABLE}"'


async def insert(
    connection: asyncpg.Connection,
    tenant: UUID,
    *,
    side: str = "source",
    stream: UUID | None = None,
    version: int = 1,
    transaction_id: str | None = None,
) -> asyncpg.Record:
    """One event by plain SQL, as a program does that never heard of this package."""
    extra = (", transaction_id", ", $5::text::xid8") if transaction_id else ("", "")
    arguments = [stream or uuid4(), tenant, version, uuid4()]
    row = await connection.fetchrow(
        f"""
        insert into {table(side)} (aggregate_id, tenant_id, version, event_id, aggregate_type,
            event_type, timestamp, payload{extra[0]})
        values ($1, $2, $3, $4, 'Note', 'world.noted', now(), '{{"n": 1, "text": ""}}'{extra[1]})
        returning global_position, event_id, aggregate_id, transaction_id::text
        """,
        *arguments,
        *([transaction_id] if transaction_id else []),
    )
    assert row is not None
    return row


async def is_blocked(world: World, pid: int, side: str = "source") -> None:
    """Wait until a session waits for a lock."""
    await until(
        lambda: getattr(world, side).fetchval(
            "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1", pid
        ),
        f"session {pid} waiting for a lock",
    )


async def someone_blocked(world: World, query_like: str, side: str = "source") -> int:
    """Wait until a session with such a query waits for a lock; its pid."""
    return await until(
        lambda: getattr(world, side).fetchval(
            "select pid from pg_stat_activity where wait_event_type = 'Lock' and query ilike $1"
            " and datname = current_database() limit 1",
            query_like,
        ),
        f"a session with {query_like!r} waiting for a lock",
    )
