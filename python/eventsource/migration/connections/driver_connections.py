"""The connections a driver works on.

All are its own: blocked writers hold the application's pools, and nothing under the fence may wait
for a writer that waits for the fence.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import asyncpg

from eventsource.connections import (
    ConnectionParameters,
    TableAddress,
    connect,
    connection_parameters,
)
from eventsource.dataplane import PassSession, PassSessionConfig
from eventsource.migration.connections import session_marks, timeouts
from eventsource.migration.connections.session_marks import MIGRATOR_SETTING
from eventsource.migration.repositories.migrations import PostgreSQLMigrationRepository

if TYPE_CHECKING:
    from eventsource.migration.models import Migration
    from eventsource.migration.tables.progress import CopyProgress
    from eventsource.stores.postgresql import PostgreSQLEventStore

    Connection = asyncpg.Connection[Any]

APPLICATION_NAME = "eventsource-migrate"

#: A role may have other defaults; the protocol depends on these. Statements and not startup
#: parameters, which a pooler in session mode refuses. A driver's sessions are idle while it rests
#: or another one works, and a statement is as long as an index build. A transaction that is left
#: alone is another thing: its driver is gone without a word, and its locks must go too.
_SETTINGS = """
set synchronous_commit = on;
set default_transaction_isolation = 'read committed';
set default_transaction_read_only = off;
set default_transaction_deferrable = off;
set statement_timeout = 0;
set lock_timeout = 0;
set idle_in_transaction_session_timeout = '5s';
set idle_session_timeout = 0;
set row_security = off;
select set_config(name, '0', false) from pg_settings where name = 'transaction_timeout'
"""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a migration's three databases are; holds passwords, never printed."""

    control: ConnectionParameters
    control_schema: str
    source: ConnectionParameters
    source_address: TableAddress
    target: ConnectionParameters
    target_address: TableAddress

    @classmethod
    async def of(
        cls,
        migrations: PostgreSQLMigrationRepository,
        source: PostgreSQLEventStore,
        target: PostgreSQLEventStore,
    ) -> Endpoints:
        """Read them from the stores and the repository.

        Raises:
            ConnectionDetailsError: a store was given only a pool that does not tell; pass ``dsn=``.
        """
        control = await connection_parameters(cast("asyncpg.Pool[Any]", migrations.pool))
        source_parameters = await source.connection_parameters()
        target_parameters = await target.connection_parameters()
        return cls(
            control=control,
            control_schema=await control_schema(migrations),
            source=source_parameters,
            source_address=await address_of(source),
            target=target_parameters,
            target_address=await address_of(target),
        )


async def control_schema(migrations: PostgreSQLMigrationRepository) -> str:
    """The schema that holds the control tables."""
    name = await migrations.pool.fetchval(
        "select n.nspname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where c.oid = to_regclass('tenant_migrations')"
    )
    return str(name or "public")


async def address_of(store: PostgreSQLEventStore) -> TableAddress:
    """A store's table as the data plane takes it."""
    parameters = await store.connection_parameters()
    return TableAddress(parameters.dsn, await store.resolve_schema(), store.table_name)


@dataclass(slots=True)
class DriverConnections:
    """Open connections of one driver.

    ``fence`` holds the exclusive lock during the cutover, so the source has a second connection
    for everything else.
    """

    endpoints: Endpoints
    control: Connection
    watch: Connection
    source: Connection
    fence: Connection
    target: Connection

    @classmethod
    async def open(cls, endpoints: Endpoints, migration_id: UUID) -> DriverConnections:
        """Open them all, or none.

        Those to the stores bear the migration's mark, but for ``fence``: its COMMIT may be the
        decision, which is waited for under the lock and never cut off.
        """
        opened: list[Connection] = []
        try:
            for _ in range(2):
                opened.append(await open_connection(endpoints.control))
            opened.append(await _open_source(endpoints, migration_id))
            opened.append(await open_connection(endpoints.source))
            opened.append(await _open_target(endpoints, migration_id))
        except BaseException:
            await close_all(opened)
            raise
        control, watch, source, fence, target = opened
        return cls(endpoints, control, watch, source, fence, target)

    @property
    def migrations(self) -> PostgreSQLMigrationRepository:
        """The journal over the driver's own control connection."""
        return PostgreSQLMigrationRepository(self.control)

    async def open_target(self, migration_id: UUID) -> Connection:
        """One more connection to the target that its guard lets in; the caller closes it."""
        return await _open_target(self.endpoints, migration_id)

    async def renew(self, migration_id: UUID) -> None:
        """Open those to the stores anew; what was open on the old ones is gone."""
        opened: list[Connection] = []
        try:
            opened.append(await _open_source(self.endpoints, migration_id))
            opened.append(await open_connection(self.endpoints.source))
            opened.append(await _open_target(self.endpoints, migration_id))
        except BaseException:
            await close_all(opened)
            raise
        before = [self.source, self.fence, self.target]
        self.source, self.fence, self.target = opened
        await close_all(before)

    async def end_others(self, migration_id: UUID) -> None:
        """End the sessions that an earlier driver has at the stores. Only for who has the lease.

        The data plane's at the target end when the progress row is claimed.
        """
        mark, own = session_marks.driver_mark(migration_id), (self.source, self.target)
        keep = [await link.fetchval("select pg_backend_pid()") for link in own]
        for link in own:
            await session_marks.end(link, mark, keep)
        await session_marks.end(self.source, session_marks.data_plane_mark(migration_id, "source"))

    async def close(self) -> None:
        """Close them all; what was not committed is gone, which is the safe outcome."""
        await close_all([self.fence, self.source, self.target, self.control, self.watch])

    async def open_session(
        self, migration: Migration, progress: CopyProgress, columns: tuple[str, ...]
    ) -> PassSession:
        """Open the data plane's connections for this driver."""
        config = PassSessionConfig(
            migration_id=migration.id,
            tenant_id=migration.tenant_id,
            owner=progress.owner,
            source=self.endpoints.source_address,
            target=self.endpoints.target_address,
            control_dsn=self.endpoints.control.dsn,
            control_schema=self.endpoints.control_schema,
            columns=columns,
            offset=progress.position_offset,
            last_target_position=progress.last_target_position,
            chunk_rows=migration.config.chunk_rows,
            chunk_bytes=migration.config.chunk_bytes,
            jobs=migration.config.copy_jobs,
            max_events_per_second=migration.config.max_events_per_second,
        )
        return await PassSession.open(config)


async def open_connection(parameters: ConnectionParameters) -> Connection:
    """One connection as the driver has them; the caller closes it."""
    connection = await connect(
        parameters, application_name=APPLICATION_NAME, command_timeout=timeouts.STATEMENT_SECONDS
    )
    try:
        await connection.execute(_SETTINGS)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _open_source(endpoints: Endpoints, migration_id: UUID) -> Connection:
    connection = await open_connection(endpoints.source)
    await session_marks.mark(connection, session_marks.driver_mark(migration_id))
    return connection


async def _open_target(endpoints: Endpoints, migration_id: UUID) -> Connection:
    connection = await open_connection(endpoints.target)
    await connection.execute(
        "select set_config($1, $2, false)", MIGRATOR_SETTING, str(migration_id)
    )
    await session_marks.mark(connection, session_marks.driver_mark(migration_id))
    return connection


async def close_all(connections: list[Connection]) -> None:
    """Close politely but briefly; a server that does not answer is left to its own timeouts."""
    for connection in connections:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1):
                await connection.close()
        connection.terminate()
